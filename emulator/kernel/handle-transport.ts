/**
 * Connections and datagrams by what Node itself has of them, their handles.
 *
 * What a listener accepts is a `HandleTransport`, without a `net.Socket`: that is two streams with their states and
 * events, which `StreamReader` and `StreamWriter` are already, and costs a third of what a small message does, and most
 * of what a connection does (measured, with an echo as small as it can be: CPU a message 0.87 of bare Node's on the
 * handle, 1.05 on a `net.Socket`; a connection 0.78 and 0.96). Whoever needs a `net.Socket` of one (TLS, a child
 * process) is given it. Datagrams go past the queue, the look-up and the events of `node:dgram`.
 *
 * What this uses of Node is not documented, as `process.binding` (DEP0111) is not: it is looked at first, and where it
 * is not there, Node's own sockets are used, as they are with `SOCKLET_INTAKE=off`.
 */

import type { RemoteInfo, Socket } from "node:dgram";
import net from "node:net";
import { type Data, toBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { Address } from "../../core/net/address.ts";
import type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
  TlsOptions,
} from "../../core/sockets/transport.ts";
import { channel, getSystemErrorName } from "../builtin.ts";
import { addressOf } from "./addresses.ts";
import type { Holder, Kernel } from "./descriptors/kernel.ts";
import type { Libc } from "./descriptors/libc.ts";
import type { Settable } from "./descriptors/plain-options.ts";
import { datagramHandleOf } from "./handles.ts";
import { Intake, intake } from "./intake.ts";
import { linger, unacknowledged } from "./linger.ts";
import {
  atEndOfTurn,
  type Connection,
  checkSecuring,
  FULL,
  kernelOf,
  LARGE,
  NodeTransport,
  type Origin,
  PIECE,
  TCP,
  UNIX,
} from "./net-transport.ts";

// ---- What it uses of Node ----

/** A TCP or Pipe of Node's. A call that fails gives libuv's number of the error, which is negative. */
interface StreamHandle {
  readonly fd: number;
  readonly writeQueueSize: number;
  onread: (this: StreamHandle) => Uint8Array | undefined;
  /** Ours: whose it is. */
  transport?: HandleTransport;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): number;
  readStop(): number;
  writeBuffer(request: WriteRequest, bytes: Uint8Array): number;
  writeUtf8String(request: WriteRequest, text: string): number;
  shutdown(request: ShutdownRequest): number;
  close(): void;
  unref(): void;
  // Of TCP alone:
  reset?(): number;
  getpeername?(name: Name): number;
  getsockname?(name: Name): number;
  setNoDelay?(on: boolean): number;
  setKeepAlive?(on: boolean, seconds: number): number;
}

interface Name {
  address?: string;
  port?: number;
  family?: string;
}

interface ShutdownRequest {
  transport?: HandleTransport;
  oncomplete?: (this: ShutdownRequest, status: number) => void;
}

interface WriteRequest {
  transport?: HandleTransport;
  /** What must stay until it is done. */
  data?: Data;
  taken?: (() => void) | undefined;
  oncomplete?: (this: WriteRequest, status: number) => void;
}

interface StreamBinding {
  readonly WriteWrap: new () => WriteRequest;
  readonly ShutdownWrap: new () => ShutdownRequest;
  /** What the last call said, at these places. */
  readonly streamBaseState: Int32Array;
  readonly kReadBytesOrError: number;
  readonly kLastWriteWasAsync: number;
}

const EOF = -4095; // uv.h
const NOT_CONNECTED = -107; // ENOTCONN

/** A binding of Node's; `null` where this Node has it not, or would warn of its use. */
const bindingOf = <Binding>(name: string): Partial<Binding> | null => {
  const told = [...process.execArgv, process.env.NODE_OPTIONS ?? ""].join(" ");
  if (told.includes("--pending-deprecation") || process.env.NODE_PENDING_DEPRECATION === "1") return null;
  try {
    return (process as unknown as { binding(name: string): Partial<Binding> }).binding(name);
  } catch {
    return null; // the permission model forbids it
  }
};

let found: StreamBinding | null | undefined;

/** The binding of streams, where it is whole. */
const binding = (): StreamBinding | null => {
  if (found !== undefined) return found;
  const has = bindingOf<StreamBinding>("stream_wrap");
  const whole =
    typeof has?.WriteWrap === "function" &&
    typeof has.ShutdownWrap === "function" &&
    has.streamBaseState instanceof Int32Array &&
    typeof has.kReadBytesOrError === "number" &&
    typeof has.kLastWriteWasAsync === "number";
  found = whole ? (has as StreamBinding) : null;
  return found;
};

const CALLS = ["useUserBuffer", "readStart", "readStop", "writeBuffer", "writeUtf8String", "shutdown"];

/** Whether a handle has what is used of it: looked at once for each kind. */
const fit = new WeakMap<object, boolean>();
const isFit = (handle: object): boolean => {
  const kind = Object.getPrototypeOf(handle);
  let is = fit.get(kind);
  if (is === undefined) {
    is = CALLS.every((call) => typeof (handle as Record<string, unknown>)[call] === "function");
    fit.set(kind, is);
  }
  return is;
};

const accepting = channel("net.server.socket"); // whoever subscribes is told of Node's own sockets

/** What a listener's handle calls for each connection. */
type OnConnection = (this: unknown, error: number, handle: StreamHandle) => void;

/**
 * From now on `take` is given what `server` accepts, which listens, unread. Does nothing where this Node has not what
 * that takes: then the server accepts Node's own sockets.
 */
export const acceptInto = (server: net.Server, take: (connection: Connection) => void): void => {
  const {
    _handle: handle,
    noDelay,
    keepAlive,
    keepAliveInitialDelay,
  } = server as unknown as {
    readonly _handle?: { onconnection?: OnConnection } | null;
    readonly noDelay?: boolean;
    readonly keepAlive?: boolean;
    readonly keepAliveInitialDelay?: number; // seconds
  };
  const own = handle?.onconnection;
  const node = intake.on ? binding() : null;
  if (node === null || !handle || typeof own !== "function") return;
  handle.onconnection = function (error, client) {
    if (error !== 0 || accepting.hasSubscribers || !isFit(client)) {
      own.call(this, error, client);
      return;
    }
    if (noDelay) client.setNoDelay?.(true);
    if (keepAlive) client.setKeepAlive?.(true, keepAliveInitialDelay ?? 0);
    take(new HandleTransport(client, node));
  };
};

// ---- The transport ----

/** Node's error of a number of libuv's. */
const systemError = (status: number): Error => {
  const code = getSystemErrorName(status);
  return Object.assign(new Error(code), { code });
};

const named = (status: number, fallback: "ECONNRESET" | "EPIPE"): SocketError =>
  SocketError.from(systemError(status), fallback);

/** A request that no write has kept: one that the kernel takes at once leaves it as it was. */
let spare: WriteRequest | undefined;

/** Where small pieces that are the caller's are put for the kernel to take. */
let desk = new Uint8Array(0);
let onDesk = desk; // the last of its views

function onread(this: StreamHandle): Uint8Array | undefined {
  return (this.transport as HandleTransport).came();
}

function afterWrite(this: WriteRequest, status: number): void {
  (this.transport as HandleTransport).wrote(this, status);
}

function afterShutdown(this: ShutdownRequest, status: number): void {
  (this.transport as HandleTransport).shut(status);
}

class HandleTransport extends Intake implements Connection {
  remoteAddress: Address | null = null;
  #origin: Origin | undefined;
  readonly #handle: StreamHandle;
  readonly #node: StreamBinding;
  #sink: StreamSink | null = null;
  #kernel: Kernel | undefined;
  #heir: NodeTransport | null = null; // has the handle
  #reads: "not yet" | "no" | "yes" = "not yet";
  #ended = false; // by the peer
  #dropping = false; // what still comes is of no interest
  #closed = false;
  #writing = 0; // writes that the kernel has not taken whole
  #room: PromiseWithResolvers<void> | null = null;
  #ending: PromiseWithResolvers<void> | null = null;
  #shutting = false;
  #aborting = false; // when that is over
  #closers: (() => void)[] | null = null; // nearly always
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

  /** Something was read: gives into what the next goes, where that is another buffer. */
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
      // It may be the caller's own memory: he waits until it has been taken, all of it.
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

  /** A write is over that the kernel did not take whole. */
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

  /** Our end is on its way, or cannot be. */
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
    // While our end is on its way libuv refuses a reset, and Node takes it for done.
    if (this.#shutting) this.#aborting = true;
    else this.#destroy(true);
  }

  async startTls(options: TlsOptions): Promise<StreamTransport> {
    checkSecuring(this.#origin, options);
    await this.#drained();
    return this.#handOver().startTls(options);
  }

  toSocket(): net.Socket {
    return this.#handOver().toSocket();
  }

  /** Makes a `net.Socket` that has the handle from now on. */
  #handOver(): NodeTransport {
    this.pause();
    const options = { handle: this.#handle, allowHalfOpen: true, manualStart: true };
    const socket = new net.Socket(options as unknown as net.SocketConstructorOpts);
    socket.pause(); // nothing is read before somebody asks
    this.#heir = new NodeTransport(socket, { ...this.#origin, kernel: this.#kernel ?? this.#origin?.kernel });
    return this.#heir;
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
        this.#destroy(); // with a descriptor left the kernel sends no end
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

  /** Gives data to the kernel: `null` where that took all of it at once, else the request that waits. */
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

  /** The same piece by piece, so that of a write that fails the greater part is known; gives the last that waits. */
  #sendInPieces(data: Uint8Array): WriteRequest | null {
    let waits: WriteRequest | null = null;
    let sent = 0;
    for (; sent < data.length && !this.#closed; sent += PIECE) {
      waits = this.#send(data.subarray(sent, sent + PIECE)) ?? waits;
    }
    this.#failed += Math.max(data.length - sent, 0);
    return waits;
  }

  /** This will not leave. */
  #fail(data: Data): undefined {
    this.#failed += toBytes(data).length;
  }

  /** A promise of room where too much waits. */
  #mayWait(): Promise<void> | undefined {
    if (this.#closed || this.#handle.writeQueueSize <= FULL) return undefined;
    return this.#emptied();
  }

  /** Resolves when the kernel has all that was written. */
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

  /** A call failed. The socket is told in its own time: it may be in that call. */
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

// ---- Datagrams ----

type SendRequest = { list?: Uint8Array[] };

/** What a `dgram.Socket` has that is bound. */
interface DatagramHandle {
  onmessage?: (this: unknown, size: number, handle: unknown, message: Buffer, from: RemoteInfo) => void;
  /** Gives what was sent and one more, 0 where that is still to be done, or libuv's number of an error. */
  send?(
    request: SendRequest,
    list: Uint8Array[],
    count: number,
    port: number,
    address: string,
    told: boolean,
  ): number;
}

/**
 * `heard` is told what `socket`, which is bound, receives, without its event. Gives what sends a datagram from it: to
 * an address, waiting for nothing; that gives the error where the kernel refuses. `null`, and `heard` is
 * told nothing, where this Node has not what it takes.
 */
export const datagramHandle = (
  socket: Socket,
  heard: (message: Buffer, from: RemoteInfo) => void,
): ((bytes: Uint8Array, port: number, address: string) => Error | null) | null => {
  const handle = datagramHandleOf(socket) as DatagramHandle | null;
  const own = handle?.onmessage;
  if (!intake.on || typeof handle?.send !== "function" || typeof own !== "function") return null;
  const SendWrap = bindingOf<{ SendWrap: new () => SendRequest }>("udp_wrap")?.SendWrap;
  if (typeof SendWrap !== "function") return null;
  handle.onmessage = function (size, from, message, sender) {
    if (size < 0) own.call(this, size, from, message, sender);
    else heard(message, sender);
  };
  let request = new SendWrap();
  let list: Uint8Array[] = [];
  return (bytes, port, address) => {
    list[0] = bytes;
    const status = (handle as Required<DatagramHandle>).send(request, list, 1, port, address, false);
    if (status > 0) return null; // the kernel has it, and the request is as it was
    if (status < 0) return systemError(status);
    request.list = list; // until it is sent
    request = new SendWrap();
    list = [];
    return null;
  };
};
