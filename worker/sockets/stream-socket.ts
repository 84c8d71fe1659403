/// <reference types="@cloudflare/workers-types" />
/**
 * workerd's `Socket` as a `StreamSocket`: the one hot file of this platform.
 *
 * Read with a bring-your-own-buffer reader: the default reader gives 4 KiB at most, a seventh of the speed. And
 * each turn of the event loop costs about 60 µs here, so output is gathered and leaves when a read is about to
 * wait (both measured on workerd 2026-11-17).
 */

import { type Data, DONE, toBytes } from "../../core/bytes/data.ts";
import type { Lender } from "../../core/bytes/reader.ts";
import { SocketError } from "../../core/errors.ts";
import { type Address, packAddress, parseAddress } from "../../core/net/address.ts";
import { type StreamOptions, settleStream } from "../../core/sockets/stream-options.ts";
import { StreamSocket } from "../../core/sockets/stream-socket.ts";
import type { Capabilities, StreamSink, StreamTransport, TlsOptions } from "../../core/sockets/transport.ts";
import type { PlatformSocket } from "../platform.ts";

const FIRST_BUFFER = 4 * 1024; // bytes; most connections never need more, and 64 KiB from the start cost a third of the rate
const LARGEST_BUFFER = 1024 * 1024; // bytes; a turn of the event loop for so many (CPU a MiB: 490 µs with 256 KiB, 430 with this)
const FULL = 64 * 1024; // bytes written that workerd has not taken yet, before a writer must wait
// workerd tells when it has taken all of a write, and no part of it. So a large one is given to it in pieces, the first as
// large as what is read at once: with small ones alone an echo of bulk took a fifth more CPU.
const FIRST_PIECE = 1024 * 1024; // bytes
const PIECE = 64 * 1024; // bytes
const FITTED = 64 * 1024; // bytes; `recvInto()` of less is no reason to read less at once
const SPARSE = 16; // a read that fills less than a sixteenth of its buffer needs no such large one, nor does who waits with it
const LINGER = 2_000; // ms that a closed connection still takes what the peer sends

/** The platform's text for an address as ours; `null` for a name, which is what a caller dialled and no address. */
export const addressOf = (text: string | undefined): Address | null => {
  if (text === undefined) return null;
  const endpoint = parseAddress(text);
  if (endpoint.scheme === "unix")
    return endpoint.path === "" ? null : { family: "unix", path: endpoint.path };
  const packed = packAddress(endpoint.hostname);
  if (packed === null) return null;
  const family = endpoint.hostname.includes(":") ? "IPv6" : "IPv4";
  return { family, hostname: endpoint.hostname, port: endpoint.port };
};

const FOREIGN =
  "this connection belongs to another request, and a Worker cannot use it here; serve connections that meet on a Durable Object, by WorkerServer";

/** A Worker cannot be given certificates: said before it is dialled, and before a handshake. */
export const ownAuthorities = (): SocketError =>
  new SocketError(
    "ERR_UNSUPPORTED",
    "a Worker trusts the authorities of its platform; for one of your own set NODE_EXTRA_CA_CERTS where workerd runs locally",
  );

/** Where a connection comes from that was dialled here. */
export interface Dialled {
  /** The host that was dialled. */
  readonly hostname?: string | undefined;
  /** What `startTls()` takes that is not given to it. */
  readonly tls?: TlsOptions | undefined;
  /** Called once, when the connection is let go. */
  readonly release?: (() => void) | undefined;
}

class WorkerTransport implements StreamTransport, Lender {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly #socket: Socket;
  readonly #dialled: Dialled;
  readonly #reader: ReadableStreamBYOBReader;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #sink: StreamSink | undefined;
  #buffer: ArrayBuffer | undefined; // into what it reads, when it does not
  #most = LARGEST_BUFFER; // bytes of one read, where its reader says how many it takes
  #burst = 1; // bytes that the peer was seen to send at once
  #reading = false;
  #wanted = false;
  #done = false; // the peer's end was read, or the connection is broken
  #released = false; // closed or aborted here
  #lingering: (() => void) | undefined;
  unsent = 0;
  #lastWrite: Promise<void> = DONE;
  #room: PromiseWithResolvers<void> | null = null;

  constructor(socket: Socket, info: SocketInfo, dialled: Dialled) {
    this.#socket = socket;
    this.#dialled = dialled;
    this.localAddress = addressOf(info.localAddress);
    this.remoteAddress = addressOf(info.remoteAddress);
    this.capabilities = { reset: false, peername: this.remoteAddress !== null };
    this.#reader = socket.readable.getReader({ mode: "byob" });
    this.#writer = socket.writable.getWriter();
    // These reject also after a clean exchange (workerd); what matters is said by reads and writes.
    socket.closed.catch(() => {});
    this.#reader.closed.catch(() => {});
    this.#writer.closed.catch(() => {});
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    if (!this.#reading) void this.#read();
  }

  pause(): void {
    this.#wanted = false;
  }

  write(data: Data): Promise<void> | undefined {
    const bytes = toBytes(data);
    let size = this.unsent === 0 ? FIRST_PIECE : PIECE;
    this.unsent += bytes.length;
    if (bytes.length <= size) this.#give(bytes);
    else {
      for (let at = 0; at < bytes.length; at += size, size = PIECE) this.#give(bytes.subarray(at, at + size));
    }
    if (this.unsent <= FULL) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  #give(bytes: Uint8Array): void {
    this.#lastWrite = this.#writer.write(bytes).then(
      () => this.#sent(bytes.length),
      (error) => this.#broken(error, "EPIPE"),
    );
  }

  async end(): Promise<void> {
    try {
      await this.#writer.close();
    } catch (error) {
      throw SocketError.from(error, "EPIPE");
    }
  }

  /**
   * Lingers as the Node transport does, and for its reason: unread input would become a reset. The platform cuts
   * a connection when its handler's promise settles, so this one is waited for.
   */
  async close(): Promise<void> {
    this.#released = true;
    if (!this.#done) {
      const ended = Promise.withResolvers<void>();
      this.#lingering = ended.resolve;
      const timer = setTimeout(ended.resolve, LINGER);
      this.resume();
      await ended.promise;
      clearTimeout(timer);
    }
    this.#letGo();
  }

  abort(): void {
    this.#released = true;
    this.#lingering?.();
    this.#makeRoom();
    // Not writer.abort(): after it the peer is told nothing until the request is over. So it still gets what is on
    // its way, then the end, where it reads (measured on workerd 2026-10-23, which has no reset).
    this.#letGo();
  }

  /**
   * Once secured in place, a connection that the peer resets, or leaves without TLS's own goodbye, reads as one that
   * has ended: the platform says no more (workerd 2026-10-23; with `secureTransport` `on` it does). So the end of
   * the connection must not be what says that a message is whole.
   */
  async startTls(options: TlsOptions): Promise<StreamTransport> {
    const { serverName, ca, cert } = { ...this.#dialled.tls, ...options };
    if (ca !== undefined || cert !== undefined) throw ownAuthorities();
    await this.#lastWrite;
    this.#released = true; // what the streams of the plain socket say from now on is of no interest
    this.#reader.releaseLock();
    this.#writer.releaseLock();
    // The platform expects the host that was dialled. It calls the option for another "unsupported" in its log, and
    // does as it says (workerd 2026-10-23); where it should not, it throws.
    const other = serverName !== undefined && serverName !== this.#dialled.hostname;
    try {
      const secured = this.#socket.startTls(other ? { expectedServerHostname: serverName } : {});
      secured.closed.catch(() => {});
      return new WorkerTransport(secured, await secured.opened, this.#dialled);
    } catch (error) {
      // The platform's own rules: a connection that is to be secured later is dialled so.
      if (error instanceof TypeError)
        throw new SocketError("ERR_UNSUPPORTED", error.message, { cause: error });
      throw new SocketError(
        "ERR_TLS",
        "the TLS handshake failed: the certificate is not trusted or not of that name, or the peer speaks no TLS",
        { cause: error },
      );
    }
  }

  defer(task: () => void): void {
    setTimeout(task, 0);
  }

  #letGo(): void {
    this.#dialled.release?.();
    this.#reader.cancel().catch(() => {});
    this.#socket.close().catch(() => {});
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#wanted && !this.#done) {
        const into = this.#buffer ?? new ArrayBuffer(FIRST_BUFFER);
        this.#buffer = undefined;
        const view = new Uint8Array(into, 0, Math.min(into.byteLength, this.#most));
        // As many as an exact read still needs, in one turn: but never more than a peer has been seen to send at once,
        // or a slow one would seem silent.
        const least = Math.min(this.#sink?.needed ?? 1, this.#burst, view.length);
        const { value, done } = await (least > 1
          ? this.#reader.readAtLeast(least, view)
          : this.#reader.read(view));
        const size = value?.byteLength ?? 0;
        if (value === undefined || (done && size === 0)) {
          this.#done = true;
          this.#sink?.end();
          break;
        }
        if (!this.#released) this.#wanted = this.#take(value);
        const buffer = value.buffer as ArrayBuffer;
        const capacity = buffer.byteLength;
        // What was waited for came in its own time; what else fills the buffer was there.
        if (least <= 1 || (least < size && size === capacity)) this.#burst = size;
        const larger = size === capacity && capacity < LARGEST_BUFFER;
        const smaller = size * SPARSE < capacity && capacity > FIRST_BUFFER;
        if (larger) this.#buffer = new ArrayBuffer(capacity * 4);
        else if (smaller) this.#buffer = new ArrayBuffer(capacity / 4);
        else this.#buffer = buffer;
      }
    } catch (error) {
      this.#broken(error, "ECONNRESET");
    }
    this.#reading = false;
    if (this.#done) this.#lingering?.();
  }

  /**
   * No: what a read wants is copied out of the buffer, which is read into again. New memory is zeroed, and is out of the
   * processor's caches before bytes come: giving full buffers away costs as much as the copy, or more (a download, CPU
   * a MiB beside 420 µs where nothing is kept: 515 to 650 given away, 515 to 560 copied).
   */
  give(): boolean {
    return false;
  }

  fit(size: number): void {
    this.#most = Math.max(size, FITTED);
  }

  /** Lends what came to who reads; true while a read still waits for more. */
  #take(bytes: Uint8Array): boolean {
    const sink = this.#sink as StreamSink;
    return sink.lend === undefined ? sink.data(bytes.slice()) : sink.lend(bytes, this);
  }

  #broken(error: unknown, code: "ECONNRESET" | "EPIPE"): void {
    this.#done = true;
    this.#makeRoom();
    if (this.#released) return;
    const foreign = /on behalf of a different request/.test(String(error));
    this.#sink?.error(
      foreign
        ? new SocketError("ERR_UNSUPPORTED", FOREIGN, { cause: error })
        : new SocketError(code, undefined, { cause: error }),
    );
  }

  #sent(size: number): void {
    this.unsent -= size;
    if (this.unsent <= FULL) this.#makeRoom();
  }

  #makeRoom(): void {
    this.#room?.resolve();
    this.#room = null;
  }
}

/** The seam over a Workers `Socket`, when that is open. Rejects with `ERR_CONNECT_FAILED` where it cannot be opened. */
export const openTransport = async (
  socket: PlatformSocket,
  dialled: Dialled = {},
): Promise<StreamTransport> => {
  socket.closed.catch(() => {});
  try {
    return new WorkerTransport(socket as Socket, await socket.opened, dialled);
  } catch (error) {
    throw SocketError.from(error, "ERR_CONNECT_FAILED");
  }
};

/**
 * A `StreamSocket` over a Workers `Socket`, dialled or accepted, which it then owns. Waits until the socket is
 * open; rejects with `ERR_CONNECT_FAILED` where it cannot be opened.
 */
export const streamSocket = async (
  socket: PlatformSocket,
  options: Partial<StreamOptions> = {},
): Promise<StreamSocket> => {
  const stream = settleStream(options);
  return new StreamSocket(await openTransport(socket), stream);
};
