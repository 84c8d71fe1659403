/**
 * A connection by Bun's own socket, without a `net.Socket`, which is two streams with their states and events, as
 * `StreamReader` and `StreamWriter` already are.
 *
 * Bun reads into memory of its own and gives each piece away, so that nothing is lent. A write says how much of it the
 * kernel took; the rest waits here for `drain`.
 */

import { type Data, toBytes } from "../../../../core/bytes/data.ts";
import type { Lender } from "../../../../core/bytes/reader.ts";
import { SocketError } from "../../../../core/errors.ts";
import type { Address } from "../../../../core/net/address.ts";
import type { StartTlsOptions } from "../../../../core/sockets/tls/tls.ts";
import type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
} from "../../../../core/sockets/transport.ts";
import { addressOf } from "../../addresses.ts";
import type { Holder, Kernel } from "../../descriptors/kernel.ts";
import type { Settable } from "../../descriptors/plain-options.ts";
import { linger, unacknowledged } from "../../transports/linger.ts";
import { type NodeTransport, securingOf } from "../../transports/net-transport.ts";
import {
  atEndOfTurn,
  type Connection,
  FULL,
  kernelOf,
  LARGE,
  type Origin,
  TCP,
  UNIX,
} from "../../transports/seam.ts";
import { overStream, TransportStream } from "../transport-stream.ts";
import type { BunSocket } from "./api.ts";

/** What the kernel has not taken of a write. */
interface Rest {
  bytes: Uint8Array;
  readonly taken: (() => void) | undefined;
}

/** Bun's memory for a read is as long as what was read, and whoever wants it has it. */
const GIVER: Lender = { give: () => true, fit() {} };

export class BunTransport implements Connection {
  remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  #origin: Origin | undefined;
  readonly #socket: BunSocket;
  #sink: StreamSink | null = null;
  #kernel: Kernel | undefined;
  #stream: TransportStream | null = null; // of TLS, which has the connection now
  #reads = false;
  #held = true; // Bun reads nothing
  readonly #early: Uint8Array[] = []; // came before the first resume(): a reset brings what was before it
  #ended = false; // by the peer
  #error: SocketError | null = null; // why it is closed
  #told = false; // the sink was told of that
  #dropping = false; // further input is discarded
  #closed = false;
  #rest: Rest[] = [];
  #unsent = 0; // bytes in it, and of writes that came too late
  #room: PromiseWithResolvers<void> | null = null;
  #ending: PromiseWithResolvers<void> | null = null;
  #shut = false; // our end is sent
  #closers: (() => void)[] | null = null; // null for nearly all
  #stopLinger: (() => void) | null = null;
  /** Pieces of input that were dropped after the close. */
  dropped = 0;

  /** `socket`, which is open, and has been read by nobody, is paused. */
  constructor(socket: BunSocket) {
    this.#socket = socket;
    socket.data = this;
    socket.pause();
    this.remoteAddress = addressOf(socket.remoteAddress, socket.remotePort, socket.remoteFamily);
    this.capabilities = this.remoteAddress === null ? UNIX : TCP;
  }

  get sharesTimers(): boolean {
    return true;
  }

  from(origin: Origin): this {
    this.#origin = origin;
    this.remoteAddress ??= origin.remote ?? null;
    return this;
  }

  get localAddress(): Address | null {
    const { localAddress, localPort, localFamily } = this.#socket;
    return addressOf(localAddress, localPort, localFamily) ?? this.#origin?.local ?? null;
  }

  get fd(): number {
    return this.#closed ? -1 : this.#socket.fd;
  }

  unref(): void {
    this.#socket.unref();
  }

  // ---- In ----

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    if (this.#reads) return;
    this.#reads = true;
    for (const bytes of this.#early.splice(0)) this.came(bytes);
    if (this.#closed) this.#tellLate();
    else if (this.#held) {
      this.#held = false;
      this.#socket.resume();
    }
  }

  /** Bun is told when something comes that is not wanted: two system calls less for who goes on meanwhile. */
  pause(): void {
    this.#reads = false;
  }

  #hold(): void {
    this.#reads = false;
    if (this.#held || this.#closed) return;
    this.#held = true;
    this.#socket.pause();
  }

  /** Bytes came. */
  came(bytes: Uint8Array): void {
    if (!this.#reads) this.#hold();
    if (this.#dropping) this.dropped++;
    else if (this.#sink === null) this.#early.push(bytes);
    else if (this.#sink.lend !== undefined) this.#sink.lend(bytes, GIVER);
    else this.#sink.data(bytes);
  }

  /** The peer sends no more. */
  ended(): void {
    if (this.#ended) return; // bun#35939: told again after a write that the kernel took in part
    this.#ended = true;
    if (this.#dropping) this.#destroy();
    else this.#sink?.end();
  }

  /** The connection is closed, by Bun, by the peer or by this side. */
  closed(error: Error | undefined): void {
    if (this.#closed) return;
    // After shutdown() this is all that tells of the peer's end.
    if (error !== undefined) this.#error = SocketError.from(error, "ECONNRESET");
    else if (!this.#shut && (!this.#ended || this.#rest.length > 0))
      this.#error = new SocketError("ECONNRESET");
    this.#release();
    this.#tellLate();
  }

  /** Tells the sink how the connection was closed. */
  #tellLate(): void {
    const sink = this.#sink;
    if (sink === null || this.#dropping) return;
    if (this.#error === null) {
      if (!this.#ended) sink.end();
      this.#ended = true;
    } else if (!this.#told) {
      this.#told = true;
      sink.error(this.#error);
    }
  }

  // ---- Out ----

  write(data: Data): Promise<void> | undefined {
    return this.#send(data, false);
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    return this.#send(bytes, true);
  }

  /** `lent`: the bytes are the caller's again when this returns. */
  #send(data: Data, lent: boolean): Promise<void> | undefined {
    const size = typeof data === "string" ? Buffer.byteLength(data) : data.length;
    if (this.#closed) return this.#late(size);
    let from = 0;
    if (this.#rest.length === 0) {
      from = this.#socket.write(data);
      if (from === size) return undefined;
      if (from < 0) return this.#late(size);
    }
    const bytes = toBytes(data);
    const rest = lent ? bytes.slice(from) : bytes.subarray(from);
    this.#unsent += rest.length;
    if (size >= LARGE) {
      // Whoever waits for that reads nothing meanwhile, as a rule; what came would be put together by a copy.
      if (this.#sink?.needed === 0) this.#hold();
      // It may be the caller's own memory, so the caller waits until all of it has been taken.
      return new Promise((taken) => this.#rest.push({ bytes: rest, taken }));
    }
    this.#rest.push({ bytes: rest, taken: undefined });
    if (this.#unsent <= FULL) return undefined;
    return this.#emptied();
  }

  /** `size` bytes will not be sent: the peer is gone. */
  #late(size: number): undefined {
    this.#unsent += size;
    if (this.#shut) return;
    this.#broken(new SocketError(this.#ended || this.#closed ? "EPIPE" : "ECONNRESET"));
  }

  /** The kernel takes more. */
  drained(): void {
    if (this.#rest.length === 0) return;
    for (let first = this.#rest[0]; first !== undefined; first = this.#rest[0]) {
      const taken = this.#socket.write(first.bytes);
      if (this.#closed) return;
      if (taken < 0) {
        this.#broken(new SocketError(this.#ended ? "EPIPE" : "ECONNRESET"));
        return;
      }
      this.#unsent -= taken;
      if (taken < first.bytes.length) {
        first.bytes = first.bytes.subarray(taken);
        return;
      }
      this.#rest.shift();
      first.taken?.();
    }
    this.#room?.resolve();
    this.#room = null;
    if (this.#ending !== null) this.#shutdown();
  }

  get unsent(): number {
    return this.#unsent;
  }

  unacknowledged(): number | null {
    return this.#closed ? null : unacknowledged(this.#socket.fd, this.remoteAddress);
  }

  // ---- Its end ----

  end(): Promise<void> {
    this.#ending = Promise.withResolvers();
    if (this.#closed) {
      // A Unix socket of a peer that is gone is closed by Bun.
      if (this.#error === null && this.#unsent === 0) this.#ending.resolve();
      else this.#ending.reject(new SocketError("EPIPE"));
    } else if (this.#rest.length === 0) this.#shutdown();
    return this.#ending.promise;
  }

  #shutdown(): void {
    this.#shut = true;
    this.#socket.shutdown();
    this.#ending?.resolve();
  }

  /** As `NodeTransport.close()`. */
  close(): void {
    if (this.#closed) return;
    if (this.#ended) {
      this.#destroy();
      return;
    }
    this.#socket.unref(); // it must not keep a process from ending
    this.#dropping = true;
    this.#stopLinger = linger(this, () => this.#destroy());
    this.resume();
  }

  leave(): boolean {
    if (!this.#ended || this.#rest.length > 0 || this.#closed) return false;
    this.#shut = true;
    this.#destroy();
    return true;
  }

  abort(): void {
    this.#destroy(true);
    this.#stream?.destroy();
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    securingOf(this.#origin, options);
    while (this.#rest.length > 0) await this.#emptied();
    return this.toNode().startTls(options);
  }

  toNode(): NodeTransport {
    this.#hold();
    this.#stream = new TransportStream(this);
    return overStream(this, this.#stream, { ...this.#origin, kernel: this.#kernel ?? this.#origin?.kernel });
  }

  defer(task: () => void): void {
    atEndOfTurn(task);
  }

  // ---- The kernel's side ----

  get kernel(): KernelSocket {
    this.#kernel ??= this.#origin?.kernel ?? kernelOf(this.remoteAddress, this.settable, this.holder);
    return this.#kernel;
  }

  get settable(): Settable {
    return this.#socket;
  }

  get holder(): Holder {
    const fd = (): number | null => (this.#closed ? null : this.#socket.fd);
    return {
      get fd() {
        return fd();
      },
      take: () => -1, // nobody asks: that needs libc
      drained: async () => {
        while (this.#rest.length > 0 && !this.#closed) await this.#emptied();
      },
      onClose: (told) => {
        this.#closers ??= [];
        this.#closers.push(told);
        return () => {
          this.#closers = (this.#closers ?? []).filter((other) => other !== told);
        };
      },
    };
  }

  // ---- Inside ----

  /** Resolves when nothing waits, or nothing ever will be sent. */
  #emptied(): Promise<void> {
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }

  /** A call failed. The socket is told later, since it may be in the middle of that call. */
  #broken(error: SocketError): void {
    this.#error ??= error;
    this.#destroy();
    queueMicrotask(() => this.#tellLate());
  }

  #destroy(reset = false): void {
    if (this.#closed) return;
    this.#release();
    if (reset) this.#socket.terminate();
    else this.#socket.end();
  }

  /** It is closed: nobody waits any more. */
  #release(): void {
    this.#closed = true;
    this.#stopLinger?.();
    if (!this.#shut) this.#ending?.reject(new SocketError("EPIPE"));
    this.#room?.resolve();
    this.#room = null;
    for (const { taken } of this.#rest) taken?.();
    for (const told of this.#closers ?? []) told();
  }
}
