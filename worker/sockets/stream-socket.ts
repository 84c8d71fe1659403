/// <reference types="@cloudflare/workers-types" />
/**
 * workerd's `Socket` as a `StreamSocket`: the hot file of this platform.
 *
 * It uses a bring-your-own-buffer reader, because the default reader gives at most 4 KiB, at a seventh of the speed. Each
 * turn of the event loop costs about 60 µs here, so output is gathered, and leaves when a read is about to wait. (Both
 * measured on workerd 2026-11-17.)
 */

import { within } from "../../core/bytes/alarm.ts";
import { type Bytes, type Data, DONE, toBytes } from "../../core/bytes/data.ts";
import type { Lender } from "../../core/bytes/reader.ts";
import { SocketError, type SocketErrorCode } from "../../core/errors.ts";
import { type Address, packAddress, parseAddress } from "../../core/net/address.ts";
import { checkOptions } from "../../core/options.ts";
import { otherRequest } from "../../core/sockets/dialling/connect.ts";
import { type StreamOptions, settleStream } from "../../core/sockets/streams/stream-options.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import {
  START_TLS_NAMES,
  type StartTlsOptions,
  TLS_NAMES,
  type TlsInfo,
  type TlsOptions,
} from "../../core/sockets/tls/tls.ts";
import type { Capabilities, StreamSink, StreamTransport } from "../../core/sockets/transport.ts";
import type { PlatformSocket } from "../platform.ts";

const FIRST_BUFFER = 4 * 1024; // bytes; most connections never need more, and starting with 64 KiB costs a third of the rate
const LARGEST_BUFFER = 1024 * 1024; // bytes read in one turn of the event loop (CPU for a MiB: 490 µs with 256 KiB, 430 with this)
const FULL = 64 * 1024; // bytes that workerd has not taken yet, at which a writer must wait
// workerd says when it has taken a whole write, but not how much of it so far. So a large write is passed on in pieces. The
// first is as large as one read: with only small pieces a bulk echo took a fifth more CPU.
const FIRST_PIECE = 1024 * 1024; // bytes
const PIECE = 64 * 1024; // bytes
const FITTED = 64 * 1024; // bytes; a smaller `recvInto()` does not make reads smaller than this
const SPARSE = 16; // a read that fills less than a sixteenth of its buffer shrinks it: an idle connection must not hold a large one
const QUIET = 32; // microtasks without output after which a handler is taken to wait for something else than input; `lines()` takes one for each line
const SMALL = 16 * 1024; // bytes; a read waits until the platform has taken output of at most this size, and
const PATIENCE = 100; // ms at most
const LINGER = 2_000; // ms for which a closed connection still reads what the peer sends

/** Parses the platform's text of an address. `null` for a name, which a caller dialled and which is not an address. */
const addressOf = (text: string | undefined): Address | null => {
  if (text === undefined) return null;
  const endpoint = parseAddress(text);
  if (endpoint.scheme === "unix")
    return endpoint.path === "" ? null : { family: "unix", path: endpoint.path };
  const packed = packAddress(endpoint.hostname);
  if (packed === null) return null;
  const family = endpoint.hostname.includes(":") ? "IPv6" : "IPv4";
  return { family, hostname: endpoint.hostname, port: endpoint.port };
};

const REASONS: Readonly<Record<string, string>> = {
  ca: "it trusts the authorities of its platform; for one of your own set NODE_EXTRA_CA_CERTS where workerd runs locally",
  crl: "its platform does not check revocation lists",
  cert: "connect() shows no certificate of its own; fetch() can, by an mTLS binding",
  alpn: "connect() does not negotiate a protocol (ALPN)",
  minVersion: "its platform chooses the version of TLS",
};

/** What a Worker cannot do of TLS is said before it dials, and before a handshake. Throws `ERR_UNSUPPORTED`. */
export const checkWorkerTls = (options: StartTlsOptions): TlsOptions => {
  checkOptions("startTls() in a Worker", options, START_TLS_NAMES);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || name === "serverName") continue;
    const dials = Object.hasOwn(TLS_NAMES, name);
    const why =
      REASONS[name] ?? (dials ? REASONS.cert : "it accepts no TLS: the platform ends it before a Worker");
    throw new SocketError("ERR_UNSUPPORTED", `a Worker has no tls.${name}: ${why}`);
  }
  return options as TlsOptions;
};

/** What is known of a connection that the platform secured: that it did. */
const securedAs = (serverName: string | undefined): TlsInfo => ({
  version: null,
  cipher: null,
  alpn: null,
  serverName: serverName ?? null,
  certificate: null,
  trusted: true,
  distrust: null,
  resumed: null,
  closedCleanly: null,
});

/** What is known of a connection that was dialled here. */
interface Dialled {
  /** The host that was dialled. */
  readonly hostname?: string | undefined;
  /** Defaults for the options of `startTls()`. */
  readonly tls?: TlsOptions | undefined;
  /** Called once, when the connection is released. */
  readonly release?: (() => void) | undefined;
  /** Whether it is secured from its first byte. */
  readonly secured?: boolean;
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
  #buffer: ArrayBuffer | undefined; // what the next read reads into; undefined while one does
  #most = LARGEST_BUFFER; // bytes of one read; less where the reader asks for less
  #burst = 1; // bytes that the peer has been seen to send at once
  #reading = false;
  #wanted = false;
  #done = false; // the peer's end was read, or the connection is broken
  #released = false; // closed or aborted here
  #lingering: (() => void) | undefined;
  #patience: number | null = null;
  #stuck = false; // the peer does not take what was written
  readonly tls: TlsInfo | undefined;
  unsent = 0;
  #lastWrite: Promise<void> = DONE;
  #room: PromiseWithResolvers<void> | null = null;

  constructor(socket: Socket, info: SocketInfo, dialled: Dialled) {
    this.#socket = socket;
    this.#dialled = dialled;
    this.tls = dialled.secured ? securedAs(dialled.tls?.serverName ?? dialled.hostname) : undefined;
    this.localAddress = addressOf(info.localAddress);
    this.remoteAddress = addressOf(info.remoteAddress);
    this.capabilities = { reset: false, peername: this.remoteAddress !== null };
    this.#reader = socket.readable.getReader({ mode: "byob" });
    this.#writer = socket.writable.getWriter();
    // In workerd these reject even after a clean exchange. Reads and writes report what matters.
    socket.closed.catch(() => {});
    this.#reader.closed.catch(() => {});
    this.#writer.closed.catch(() => {});
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    this.#goOn();
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
      throw this.#reason(error, "EPIPE");
    }
  }

  /**
   * Lingers as the Node transport does, for the same reason: unread input would become a reset. The platform cuts a
   * connection when its handler's promise settles, so that promise waits for this one.
   */
  async close(): Promise<void> {
    this.#released = true;
    if (!this.#done) {
      const ended = Promise.withResolvers<void>();
      this.#lingering = ended.resolve;
      this.resume();
      await within(ended.promise, LINGER);
    }
    this.#letGo();
  }

  abort(): void {
    this.#released = true;
    this.#lingering?.();
    this.#makeRoom();
    // Not writer.abort(): after it the peer is told nothing until the request is over. This way a peer that reads gets
    // what is on its way, then the end. (Measured on workerd 2026-10-23, which has no reset.)
    this.#letGo();
  }

  /**
   * After this, a connection that the peer resets, or leaves without TLS's close_notify, reads as one that has ended:
   * the platform does not tell them apart (workerd 2026-10-23; with `secureTransport: "on"` it does). So a protocol
   * must not take the end of the connection as proof that a message is whole.
   */
  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    const tls = checkWorkerTls({ ...this.#dialled.tls, ...options });
    const { serverName } = tls;
    await this.#lastWrite;
    this.#released = true; // ignore what the plain socket's streams report from now on
    // The platform expects the dialled host in the certificate. Its log calls the option for another host "unsupported",
    // but the option works (workerd 2026-10-23); if it ever does not, the call throws.
    const other = serverName !== undefined && serverName !== this.#dialled.hostname;
    try {
      this.#reader.releaseLock();
      this.#writer.releaseLock();
      const secured = this.#socket.startTls(other ? { expectedServerHostname: serverName } : {});
      secured.closed.catch(() => {});
      return new WorkerTransport(secured, await secured.opened, { ...this.#dialled, tls, secured: true });
    } catch (error) {
      // The platform's rule: a connection must be dialled as one that will be secured later.
      if (error instanceof TypeError)
        throw new SocketError("ERR_UNSUPPORTED", error.message, { cause: error });
      throw this.#reason(
        error,
        "ERR_TLS",
        "the TLS handshake failed: the certificate is not trusted or not of that name, or the peer speaks no TLS",
      );
    }
  }

  /**
   * Follows the handler from one microtask to the next while it goes on writing. Most handlers then wait for input, which sends what
   * they wrote. For one that waits for something else, a timer does. (A timer costs about 10 µs of CPU here, a microtask 0.05 µs.)
   */
  async defer(task: () => void): Promise<void> {
    let seen: number | undefined; // bytes gathered
    for (let quiet = 0; quiet < QUIET; quiet++) {
      await null; // not queueMicrotask(), a call of the platform, which is dearer
      const gathered = this.#sink?.gathered;
      if (!gathered) return task();
      if (gathered !== seen) quiet = 0;
      seen = gathered;
    }
    setTimeout(task, 0);
  }

  #letGo(): void {
    clearTimeout(this.#patience);
    this.#dialled.release?.();
    this.#reader.cancel().catch(() => {});
    this.#socket.close().catch(() => {});
  }

  #goOn(): void {
    if (this.#wanted && !this.#reading && !this.#writesFirst()) void this.#read();
  }

  /**
   * Whether a read waits until what was written has been taken, most often a turn later. By then the peer's next bytes are often there, so
   * the platform has one event to wait for, not two. (CPU of a RESP command at -P 16: 0.8.) A peer that takes nothing is read all the same.
   */
  #writesFirst(): boolean {
    if (this.unsent === 0 || this.unsent > SMALL || this.#stuck) return false;
    // It stays set for later waits: a timer for each would cost more than is saved.
    this.#patience ??= setTimeout(() => {
      this.#patience = null;
      this.#stuck = this.unsent > 0;
      this.#goOn();
    }, PATIENCE);
    return true;
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#wanted && !this.#done) {
        const into = this.#buffer ?? new ArrayBuffer(FIRST_BUFFER);
        this.#buffer = undefined;
        const view = new Uint8Array(into, 0, Math.min(into.byteLength, this.#most));
        // Wait for as many bytes as an exact read still needs, in one turn; but never for more than the peer has been seen
        // to send at once, or a slow peer would seem silent.
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
        // Bytes that were waited for say nothing of what comes at once; bytes that fill the buffer beyond them do.
        if (least <= 1 || (least < size && size === capacity)) this.#burst = size;
        const larger = size === capacity && capacity < LARGEST_BUFFER;
        const smaller = size * SPARSE < capacity && capacity > FIRST_BUFFER;
        this.#buffer = larger || smaller ? new ArrayBuffer(larger ? capacity * 4 : capacity / 4) : buffer;
      }
    } catch (error) {
      this.#broken(error, "ECONNRESET");
    }
    this.#reading = false;
    if (this.#done) this.#lingering?.();
  }

  /**
   * False: what a read takes is copied, and the buffer is used again. Giving full buffers away costs as much as the copy,
   * or more, because new memory is zeroed, and has left the processor's caches before bytes arrive. (CPU for a MiB of a
   * download: 420 µs if nothing is kept, 515 to 650 with buffers given away, 515 to 560 copied.)
   */
  give(): boolean {
    return false;
  }

  /** Not `slice()`, whose memory V8 fills with zeros first. (A download takes 0.96 of the CPU.) */
  copy(bytes: Uint8Array): Bytes {
    return new Uint8Array(bytes);
  }

  fit(size: number): void {
    this.#most = Math.max(size, FITTED);
  }

  /** Lends the bytes to the reader; true while a read still waits for more. */
  #take(bytes: Uint8Array): boolean {
    const sink = this.#sink as StreamSink;
    return sink.lend === undefined ? sink.data(bytes.slice()) : sink.lend(bytes, this);
  }

  #broken(error: unknown, code: "ECONNRESET" | "EPIPE"): void {
    this.#done = true;
    this.#makeRoom();
    if (this.#released) return;
    this.#sink?.error(this.#reason(error, code));
  }

  /** The platform's `error` as this code, or as what it is where another request than its own used this connection. */
  #reason(cause: unknown, code: SocketErrorCode, message?: string): SocketError {
    return /different request/.test(String(cause))
      ? otherRequest({ cause })
      : new SocketError(code, message, { cause });
  }

  #sent(size: number): void {
    this.unsent -= size;
    if (this.unsent <= FULL) this.#makeRoom();
    if (this.unsent > 0) return;
    this.#stuck = false;
    this.#goOn();
  }

  #makeRoom(): void {
    this.#room?.resolve();
    this.#room = null;
  }
}

/** The transport of a Workers `Socket`, once that is open. Rejects with `ERR_CONNECT_FAILED` if it cannot be opened. */
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
 * A `StreamSocket` over a Workers `Socket`, dialled or accepted, which it then owns. Resolves when the socket is open;
 * rejects with `ERR_CONNECT_FAILED` if it cannot be opened.
 */
export const streamSocket = async (
  socket: PlatformSocket,
  options: Partial<StreamOptions> = {},
): Promise<StreamSocket> => {
  const stream = settleStream(options);
  return new StreamSocket(await openTransport(socket), stream);
};
