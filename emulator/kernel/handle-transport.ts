/**
 * Accepted connections over Node's handle, without a `net.Socket`.
 *
 * A `net.Socket` is two streams with their states and events, which `StreamReader` and `StreamWriter` already are. It
 * costs a third of what a small message costs, and most of what a connection costs. (Measured with the smallest
 * possible echo: CPU a message 0.87 of bare Node's on the handle, 1.05 on a `net.Socket`; a connection 0.78 and 0.96.)
 * A caller that needs a `net.Socket` (TLS, a child process) is given one that takes the handle over.
 *
 * None of this is documented by Node: handles.ts checks that it is there. Where it is not, and with
 * `SOCKLET_INTAKE=off`, Node's own sockets are used.
 */

import net from "node:net";
import { type Data, toBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { Address } from "../../core/net/address.ts";
import type { StartTlsOptions } from "../../core/sockets/tls.ts";
import type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
} from "../../core/sockets/transport.ts";
import { addressOf, systemError } from "./addresses.ts";
import type { Inherited } from "./descriptor.ts";
import type { Holder, Kernel } from "./descriptors/kernel.ts";
import type { Libc } from "./descriptors/libc.ts";
import type { Settable } from "./descriptors/plain-options.ts";
import {
  type Name,
  type ShutdownRequest,
  type StreamBinding,
  type StreamHandle,
  type StreamOwner,
  takeHandleOf,
  takeHandles,
  type WriteRequest,
} from "./handles.ts";
import { Intake, intake } from "./intake.ts";
import { linger, unacknowledged } from "./linger.ts";
import {
  atEndOfTurn,
  type Connection,
  FULL,
  kernelOf,
  LARGE,
  NodeTransport,
  type Origin,
  PIECE,
  securingOf,
  TCP,
  UNIX,
} from "./net-transport.ts";

const EOF = -4095; // uv.h
const NOT_CONNECTED = -107; // ENOTCONN

/**
 * From now on `take` is given each connection that `server`, which listens, accepts, with the options in `inherited`;
 * nothing has been read from it. Does nothing where Node lacks what that needs: then the server accepts sockets of Node's.
 */
export const acceptInto = (
  server: net.Server,
  { noDelay, keepAlive, keepAliveInitialDelay = 0 }: Inherited,
  take: (connection: Connection) => void,
): void => {
  if (!intake.on) return;
  takeHandles(server, (handle, node) => {
    if (noDelay) handle.setNoDelay?.(true);
    if (keepAlive) handle.setKeepAlive?.(true, Math.trunc(keepAliveInitialDelay / 1000));
    take(new HandleTransport(handle, node));
  });
};

/**
 * A connection that was dialled, over its handle: for what passes bytes on, which a `net.Socket` makes dear. Nothing has been
 * read from `dialled` or written to it; it is used no more. Where Node lacks what that needs, `dialled` itself.
 */
export const overHandle = (dialled: NodeTransport): Connection => {
  if (!intake.on || dialled.tls !== undefined) return dialled;
  return takeHandleOf(dialled.socket, (handle, node) => new HandleTransport(handle, node)) ?? dialled;
};

const named = (status: number, fallback: "ECONNRESET" | "EPIPE"): SocketError =>
  SocketError.from(systemError(status), fallback);

/** A request that can be used again: a write that the kernel takes at once leaves it unchanged. */
let spare: WriteRequest | undefined;

/** Where the caller's small pieces are copied for the kernel to take. */
let desk = new Uint8Array(0);
let onDesk = desk; // the last view of it

function onread(this: StreamHandle): Uint8Array | undefined {
  return (this.transport as StreamOwner).came();
}

function afterWrite(this: WriteRequest, status: number): void {
  (this.transport as StreamOwner).wrote(this, status);
}

function afterShutdown(this: ShutdownRequest, status: number): void {
  (this.transport as StreamOwner).shut(status);
}

export class HandleTransport extends Intake implements Connection {
  remoteAddress: Address | null = null;
  #origin: Origin | undefined;
  readonly #handle: StreamHandle;
  readonly #node: StreamBinding;
  #sink: StreamSink | null = null;
  #kernel: Kernel | undefined;
  #heir: NodeTransport | null = null; // has the handle now
  #reads: "not yet" | "no" | "yes" = "not yet";
  #ended = false; // by the peer
  #dropping = false; // further input is discarded
  #closed = false;
  #writing = 0; // writes that the kernel has not taken whole
  #room: PromiseWithResolvers<void> | null = null;
  #ending: PromiseWithResolvers<void> | null = null;
  #shutting = false;
  #aborting = false; // once the shutdown is over
  #closers: (() => void)[] | null = null; // null for nearly all
  #stopLinger: (() => void) | null = null;
  #failed = 0; // bytes of writes that failed
  #left = 0; // bytes that had not left when it was closed
  /** Pieces of input that were dropped after the close. */
  dropped = 0;

  constructor(handle: StreamHandle, node: StreamBinding) {
    super();
    this.#handle = handle;
    this.#node = node;
    handle.transport = this;
    if (handle.getpeername === undefined) return;
    const name: Name = {};
    if (handle.getpeername(name) === 0) this.remoteAddress = addressOf(name.address, name.port, name.family);
  }

  get sharesTimers(): boolean {
    return true;
  }

  from(origin: Origin): this {
    this.#origin = origin;
    this.remoteAddress ??= origin.remote ?? null;
    return this;
  }

  get capabilities(): Capabilities {
    return this.#handle.reset === undefined ? UNIX : TCP;
  }

  get localAddress(): Address | null {
    const name: Name = {};
    if (!this.#closed) this.#handle.getsockname?.(name);
    return addressOf(name.address, name.port, name.family) ?? this.#origin?.local ?? null;
  }

  get fd(): number {
    return this.#closed ? -1 : this.#handle.fd;
  }

  unref(): void {
    this.#handle.unref();
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    if (this.#reads === "yes" || this.#closed) return;
    if (this.#reads === "not yet") {
      this.#handle.onread = onread;
      this.#handle.useUserBuffer(this.into);
    }
    this.#reads = "yes";
    const status = this.#handle.readStart();
    if (status < 0) this.#broken(status, "ECONNRESET");
  }

  pause(): void {
    if (this.#reads !== "yes" || this.#closed) return;
    this.#reads = "no";
    this.#handle.readStop();
  }

  /** Something was read. Returns the buffer for the next read, where that is another one. */
  came(): Uint8Array | undefined {
    const size = this.#node.streamBaseState[this.#node.kReadBytesOrError] as number;
    const sink = this.#sink as StreamSink;
    if (size > 0) {
      if (this.#dropping) {
        this.dropped++;
        return undefined;
      }
      const from = this.into;
      const bytes = this.lent(size);
      if (sink.lend !== undefined) sink.lend(bytes, this);
      else sink.data(bytes.slice());
      return this.into === from ? undefined : this.into;
    }
    if (size === EOF) {
      this.#ended = true;
      if (this.#dropping) this.#destroy();
      else sink.end();
    } else if (size < 0) {
      this.#destroy();
      if (!this.#dropping) sink.error(named(size, "ECONNRESET"));
    }
    return undefined;
  }

  write(data: Data): Promise<void> | undefined {
    if (this.#closed) return this.#fail(data);
    if (typeof data !== "string" && data.length >= LARGE) {
      const waits = data.length <= PIECE ? this.#send(data) : this.#sendInPieces(data);
      if (waits === null) return undefined;
      // It may be the caller's own memory, so the caller waits until all of it has been taken.
      return new Promise((resolve) => {
        waits.taken = resolve;
      });
    }
    return this.#send(data) === null ? undefined : this.#mayWait();
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#closed) return this.#fail(bytes);
    const size = bytes.length;
    if (desk.length < size) desk = new Uint8Array(LARGE);
    if (onDesk.length !== size || onDesk.buffer !== desk.buffer) onDesk = desk.subarray(0, size);
    onDesk.set(bytes);
    if (this.#send(onDesk) === null) return undefined;
    onDesk = desk = new Uint8Array(0); // the kernel still needs it
    return this.#mayWait();
  }

  get unsent(): number {
    if (this.#heir !== null) return this.#heir.unsent;
    return (this.#closed ? this.#left : this.#handle.writeQueueSize) + this.#failed;
  }

  unacknowledged(): number | null {
    if (this.#heir !== null) return this.#heir.unacknowledged();
    return this.#closed ? null : unacknowledged(this.#handle.fd, this.remoteAddress);
  }

  /** A write that the kernel did not take at once is over. */
  wrote(request: WriteRequest, status: number): void {
    this.#writing--;
    request.taken?.();
    if (status < 0 && !this.#closed) {
      this.#fail(request.data as Data); // libuv does not say how much of it the kernel had taken
      this.#broken(status);
    }
    if (this.#writing > 0) return;
    this.#room?.resolve();
    this.#room = null;
    if (this.#ending !== null && !this.#closed) this.#shutdown();
  }

  end(): Promise<void> {
    if (this.#heir !== null) return this.#heir.end();
    this.#ending = Promise.withResolvers();
    if (this.#closed) this.#ending.reject(new SocketError("EPIPE"));
    else if (this.#writing === 0) this.#shutdown();
    return this.#ending.promise;
  }

  /** The shutdown is done, or failed. */
  shut(status: number): void {
    this.#shutting = false;
    if (status < 0 && status !== NOT_CONNECTED) this.#ending?.reject(named(status, "EPIPE"));
    else this.#ending?.resolve();
    if (this.#aborting) this.abort();
  }

  /** As `NodeTransport.close()`. */
  close(): void {
    if (this.#heir !== null) {
      this.#heir.close();
      return;
    }
    if (this.#closed) return;
    if (this.#ended) {
      this.#destroy();
      return;
    }
    this.#handle.unref(); // it must not keep a process from ending
    this.#dropping = true;
    this.#stopLinger = linger(this, () => this.#destroy());
    this.resume();
  }

  leave(): boolean {
    if (!this.#ended || this.#writing > 0 || this.#closed) return false;
    this.#destroy();
    return true;
  }

  abort(): void {
    if (this.#heir !== null) {
      this.#heir.abort();
      return;
    }
    if (this.#closed) return;
    // During a shutdown libuv refuses a reset, and Node believes that it was done.
    if (this.#shutting) this.#aborting = true;
    else this.#destroy(true);
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    securingOf(this.#origin, options);
    await this.#drained();
    return this.toNode().startTls(options);
  }

  toNode(): NodeTransport {
    this.pause();
    const options = { handle: this.#handle, allowHalfOpen: true, manualStart: true };
    const socket = new net.Socket(options as unknown as net.SocketConstructorOpts);
    socket.pause(); // nothing is read until somebody asks
    this.#heir = new NodeTransport(socket, this.known, this);
    return this.#heir;
  }

  /** What goes on with the connection must know this of it. */
  protected get known(): Origin {
    return { ...this.#origin, kernel: this.#kernel ?? this.#origin?.kernel };
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
    const handle = this.#handle;
    return {
      setNoDelay: (on) => handle.setNoDelay?.(on),
      setKeepAlive: (on, delay) => handle.setKeepAlive?.(on, Math.trunc(delay / 1000)),
    };
  }

  get holder(): Holder {
    const fd = (): number | null => (this.#closed ? null : this.#handle.fd);
    return {
      get fd() {
        return fd();
      },
      take: (libc: Libc) => {
        const inside = this.#handle.writeQueueSize;
        if (inside > 0) {
          throw new SocketError("EBUSY", `${inside} bytes are on their way out; detach() would lose them`);
        }
        const taken = libc.dup(this.#handle.fd);
        this.#destroy(); // while another descriptor is open, the kernel sends no FIN
        return taken;
      },
      drained: () => this.#drained(),
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

  /** Hands data to the kernel. Returns `null` if it took all of it at once, otherwise the request that waits. */
  #send(data: Data): WriteRequest | null {
    const node = this.#node;
    const request = spare ?? new node.WriteWrap();
    spare = undefined;
    const status =
      typeof data === "string"
        ? this.#handle.writeUtf8String(request, data)
        : this.#handle.writeBuffer(request, data);
    if (status === 0 && node.streamBaseState[node.kLastWriteWasAsync] === 1) {
      request.transport = this;
      request.data = data;
      request.oncomplete = afterWrite;
      this.#writing++;
      return request;
    }
    spare = request;
    if (status !== 0) {
      this.#fail(data);
      this.#broken(status);
    }
    return null;
  }

  /** The same in pieces, so that most of what a failed write had sent is known. Returns the last request that waits. */
  #sendInPieces(data: Uint8Array): WriteRequest | null {
    let waits: WriteRequest | null = null;
    let sent = 0;
    for (; sent < data.length && !this.#closed; sent += PIECE) {
      waits = this.#send(data.subarray(sent, sent + PIECE)) ?? waits;
    }
    this.#failed += Math.max(data.length - sent, 0);
    return waits;
  }

  /** Counts data that will not be sent. */
  #fail(data: Data): undefined {
    this.#failed += toBytes(data).length;
  }

  /** If too much waits already, a promise that resolves when there is room. */
  #mayWait(): Promise<void> | undefined {
    if (this.#closed || this.#handle.writeQueueSize <= FULL) return undefined;
    return this.#emptied();
  }

  /** Resolves when the kernel has everything that was written. */
  async #drained(): Promise<void> {
    while (this.#writing > 0) await this.#emptied();
  }

  #emptied(): Promise<void> {
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }

  #shutdown(): void {
    const request = new this.#node.ShutdownWrap();
    request.transport = this;
    request.oncomplete = afterShutdown;
    this.#shutting = true;
    const status = this.#handle.shutdown(request);
    if (status !== 0) this.shut(status === 1 ? 0 : status);
  }

  /** A call failed. The socket is told later, since it may be in the middle of that call. */
  #broken(status: number, otherwise: "ECONNRESET" | "EPIPE" = "EPIPE"): void {
    if (this.#closed) return;
    this.#destroy();
    queueMicrotask(() => this.#sink?.error(named(status, otherwise)));
  }

  #destroy(reset = false): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#left = this.#handle.writeQueueSize;
    this.#stopLinger?.();
    if (reset && this.#handle.reset !== undefined) this.#handle.reset();
    else this.#handle.close();
    if (!this.#shutting) this.#ending?.reject(new SocketError("EPIPE"));
    this.#room?.resolve();
    this.#room = null;
    for (const told of this.#closers ?? []) told();
  }
}
