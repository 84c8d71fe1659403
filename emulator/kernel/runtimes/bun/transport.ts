/**
 * A connection over Bun's own socket, without a `net.Socket`: that is two streams with their states and events, which
 * `StreamReader` and `StreamWriter` already are.
 *
 * Bun reads into its own memory and gives each piece away, so nothing is lent. A write says how much of it the kernel took;
 * the rest waits here for `drain`.
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

/** The part of a write that the kernel has not taken. */
interface Rest {
  bytes: Uint8Array;
  readonly taken: (() => void) | undefined;
}

/** Bun's memory for a read is exactly as long as the bytes, and may always be kept. */
const GIVER: Lender = { give: () => true, fit() {} };

export class BunTransport implements Connection {
  remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  #origin: Origin | undefined;
  readonly #socket: BunSocket;
  #sink: StreamSink | null = null;
  #kernel: Kernel | undefined;
  #stream: TransportStream | null = null; // TLS's stream, which has the connection now
  #reads = false;
  #held = true; // whether Bun is paused
  readonly #early: Uint8Array[] = []; // bytes that came before the first resume(): a reset delivers what came before it
  #ended = false; // the peer has ended
  #error: SocketError | null = null; // why it is closed
  #told = false; // whether the sink was told
  #dropping = false; // whether further input is discarded
  #closed = false;
  #rest: Rest[] = [];
  #unsent = 0; // bytes in it, and bytes of writes that came too late
  #room: PromiseWithResolvers<void> | null = null;
  #ending: PromiseWithResolvers<void> | null = null;
  #shut = false; // whether our end is sent
  #closers: (() => void)[] | null = null; // null for nearly all connections
  #stopLinger: (() => void) | null = null;
  /** Pieces of input that were dropped after the close. */
  dropped = 0;

  /** Pauses `socket`, which must be open and unread. */
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

  /** Bun is paused only when unwanted input comes, which saves two system calls if reading resumes before that. */
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
    // After shutdown() nothing else reports the peer's end.
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

  /** `lent`: the caller may reuse the bytes when this returns. */
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
      // A handler that waits for this usually reads nothing meanwhile, and input that came would have to be joined by copying.
      if (this.#sink?.needed === 0) this.#hold();
      // It may be the caller's own memory, so the caller waits until everything is taken.
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

  // ---- The end ----

  end(): Promise<void> {
    this.#ending = Promise.withResolvers();
    if (this.#closed) {
      // Bun closes a Unix socket whose peer is gone.
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
      take: () => -1, // never called: that needs libc
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

  // ---- Helpers ----

  /** Resolves when no output waits, or none can ever be sent. */
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

  /** Called when it is closed: releases everything that waits. */
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
