/**
 * Everything undocumented that Socklet uses of Node: the handles behind its sockets and listeners, and the bindings that make
 * their requests. Nothing outside this folder uses any of it. docs/decisions/nodes-handles.md lists each name, why it is used,
 * and the fallback if it is missing. Each is therefore checked before it is used.
 */

import type dgram from "node:dgram";
import net from "node:net";
import type tls from "node:tls";
import type { Data } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import { channel } from "../../builtin.ts";
import { runtime } from "../../runtime.ts";
import { kernelError, neededLibc } from "../descriptors/libc.ts";

// ---- Bindings ----

/** A binding of Node's C++ code; `null` if `is` is false, or if this Node has no such binding or would warn about its use. */
const bindingOf = <Binding>(name: string, is = runtime === "Node"): Partial<Binding> | null => {
  if (!is) return null;
  const told = [...process.execArgv, process.env.NODE_OPTIONS ?? ""].join(" ");
  if (told.includes("--pending-deprecation") || process.env.NODE_PENDING_DEPRECATION === "1") return null;
  try {
    return (process as unknown as { binding(name: string): Partial<Binding> }).binding(name);
  } catch {
    return null; // the permission model forbids it
  }
};

// ---- Streams ----

/** An address, as a handle fills it in. */
export interface Name {
  address?: string;
  port?: number;
  family?: string;
}

/** The callbacks of a handle and its requests. */
export interface StreamOwner {
  /** Bytes, the end or an error came. Returns the buffer for the next read if it is a different one. */
  came(): Uint8Array | undefined;
  /** A write that the kernel did not take at once is over. */
  wrote(request: WriteRequest, status: number): void;
  /** The shutdown is over. */
  shut(status: number): void;
}

/** Node's TCP or Pipe handle. A call that fails returns libuv's (negative) error number. */
export interface StreamHandle {
  readonly fd: number;
  readonly writeQueueSize: number;
  onread: (this: StreamHandle) => Uint8Array | undefined;
  /**
   * What `onread` calls. Node gives each handle this property and uses it only on a listener's. A property of another name would be a fourth
   * one, for which V8 makes a larger array: 24 bytes for each connection.
   */
  onconnection?: StreamOwner | null;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): number;
  readStop(): number;
  writeBuffer(request: WriteRequest, bytes: Uint8Array): number;
  writeUtf8String(request: WriteRequest, text: string): number;
  shutdown(request: ShutdownRequest): number;
  close(): void;
  unref(): void;
  /** The handle to give a `net.Socket`, if that is not this one. */
  give?(): object;
  // TCP only:
  reset?(): number;
  getpeername?(name: Name): number;
  getsockname?(name: Name): number;
  setNoDelay?(on: boolean): number;
  setKeepAlive?(on: boolean, seconds: number): number;
}

export interface ShutdownRequest {
  transport?: StreamOwner;
  oncomplete?: (this: ShutdownRequest, status: number) => void;
}

export interface WriteRequest {
  transport?: StreamOwner;
  /** Kept alive until the request is done. */
  data?: Data;
  taken?: (() => void) | undefined;
  oncomplete?: (this: WriteRequest, status: number) => void;
}

export interface StreamBinding {
  readonly WriteWrap: new () => WriteRequest;
  readonly ShutdownWrap: new () => ShutdownRequest;
  /** The results of the last call, at the two indices below. */
  readonly streamBaseState: Int32Array;
  readonly kReadBytesOrError: number;
  readonly kLastWriteWasAsync: number;
}

let found: StreamBinding | null | undefined;

/** The binding of streams, on Deno too; `null` if any part is missing. */
export const streamBinding = (): StreamBinding | null => {
  if (found !== undefined) return found;
  const has = bindingOf<StreamBinding>("stream_wrap", runtime !== "Bun");
  const whole =
    typeof has?.WriteWrap === "function" &&
    typeof has.ShutdownWrap === "function" &&
    has.streamBaseState instanceof Int32Array &&
    typeof has.kReadBytesOrError === "number" &&
    typeof has.kLastWriteWasAsync === "number";
  found = whole ? (has as StreamBinding) : null;
  return found;
};

/** The methods of a handle that are called. */
export const CALLS = [
  "useUserBuffer",
  "readStart",
  "readStop",
  "writeBuffer",
  "writeUtf8String",
  "shutdown",
  "close",
  "unref",
] as const satisfies readonly (keyof StreamHandle)[];

/** Whether a handle has everything that is used of it, checked once for each class of handles. */
const fit = new WeakMap<object, boolean>();
const isFit = (handle: StreamHandle): boolean => {
  const kind = Object.getPrototypeOf(handle);
  let is = fit.get(kind);
  if (is === undefined) {
    const numbers = [handle.fd, handle.writeQueueSize];
    is =
      CALLS.every((call) => typeof handle[call] === "function") &&
      numbers.every((number) => typeof number === "number");
    fit.set(kind, is);
  }
  return is;
};

const accepting = channel("net.server.socket"); // its subscribers expect Node's sockets

/** Called by a listener's handle for each connection. */
type OnConnection = (this: unknown, error: number, handle: StreamHandle) => void;

/**
 * From now on `take` gets the handle of each connection that the listening `server` accepts, unread and without the options
 * that the server was made with. Does nothing if this Node lacks anything that is needed; the server then accepts Node's
 * sockets.
 */
export const takeHandles = (
  server: net.Server,
  take: (handle: StreamHandle, node: StreamBinding) => void,
): void => {
  const { _handle: handle } = server as unknown as {
    readonly _handle?: { onconnection?: OnConnection } | null;
  };
  const own = handle?.onconnection;
  const node = streamBinding();
  if (node === null || !handle || typeof own !== "function") return;
  handle.onconnection = function (error, client) {
    if (error !== 0 || accepting.hasSubscribers || !isFit(client)) {
      own.call(this, error, client);
      return;
    }
    take(client, node);
  };
};

/**
 * Takes the handle of a connected `socket`, from which nothing was read or written, and returns what `make` makes of it. The
 * socket cannot be used afterwards. Returns `null` if this Node lacks anything that is needed; the socket is then unchanged.
 */
export const takeHandleOf = <T>(
  socket: net.Socket,
  make: (handle: StreamHandle, node: StreamBinding) => T,
): T | null => {
  const owner = socket as unknown as { _handle?: StreamHandle | null };
  const { _handle: handle } = owner;
  const node = streamBinding();
  if (node === null || !handle || !isFit(handle)) return null;
  owner._handle = null;
  return make(handle, node);
};

/** A listener's handle on Deno: it reports a connection, and accepts it into a handle that it is given. */
interface DenoListening<Handle> {
  onconnection?: (this: unknown, error: number) => void;
  accept(into: Handle): number;
}

/** The handle of a listening `server` on Deno; `null` if it lacks what is needed. */
export const denoListening = <Handle>(server: net.Server): DenoListening<Handle> | null => {
  const { _handle: handle } = server as unknown as { readonly _handle?: DenoListening<Handle> | null };
  return typeof handle?.accept === "function" ? handle : null;
};

/**
 * Takes the Bun socket, or Deno handle, under a connected `node:net` `socket` on those runtimes. It must have the methods `calls`.
 * `socket` cannot be used afterwards. Returns `null` if there is none, or it lacks a method; `socket` is then unchanged.
 */
export const takeSocketOf = <Own extends object>(
  socket: net.Socket,
  calls: readonly (keyof Own)[],
): Own | null => {
  const owner = socket as unknown as { _handle?: Own | null };
  const { _handle: own } = owner;
  if (!own || calls.some((call) => typeof own[call] !== "function")) return null;
  owner._handle = null;
  return own;
};

// ---- Datagrams ----

/** The request of a datagram send. */
interface SendRequest {
  /** Kept alive until the request is done. */
  list?: Uint8Array[];
  /** Called when a send that was not done at once is done, with libuv's error number, or 0. */
  oncomplete?: (status: number) => void;
}

/** The handle of a bound `dgram.Socket`. */
export interface DatagramHandle {
  readonly fd: number;
  recvStop?(): number;
  onmessage?: (this: unknown, size: number, handle: unknown, message: Buffer, from: dgram.RemoteInfo) => void;
  /** Returns the number of bytes sent plus one, 0 if the send is pending, or libuv's error number. `told`: call `oncomplete` when a pending send is done. */
  send?(
    request: SendRequest,
    list: Uint8Array[],
    count: number,
    port: number,
    address: string,
    told: boolean,
  ): number;
}

/** The handle of a `dgram.Socket`; `null` if it has none, or no longer one. */
export const datagramHandleOf = (socket: dgram.Socket): DatagramHandle | null => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === "state symbol");
  if (state === undefined) return null;
  return (socket as never as Record<symbol, { handle?: DatagramHandle | null }>)[state]?.handle ?? null;
};

/** The handle of a `dgram.Socket` on Bun. */
interface BunDatagramHandle<Own> {
  /** The Bun socket under it. */
  readonly socket: Own;
  /** How many datagrams are waiting for the kernel. */
  readonly queueCount: number;
  /** Sends the waiting datagrams. */
  drain(): void;
}

/** The handle of a bound `socket` on Bun, whose Bun socket must have the methods `calls`; `null` if anything is missing. */
export const bunDatagramHandle = <Own extends object>(
  socket: dgram.Socket,
  calls: readonly (keyof Own)[],
): BunDatagramHandle<Own> | null => {
  const handle = datagramHandleOf(socket) as Partial<BunDatagramHandle<Own>> | null;
  const own = handle?.socket;
  if (own === undefined || calls.some((call) => typeof own[call] !== "function")) return null;
  const whole = typeof handle?.queueCount === "number" && typeof handle.drain === "function";
  return whole ? (handle as BunDatagramHandle<Own>) : null;
};

/** Makes `socket` stop receiving; datagrams that come later are for other processes that have its descriptor. */
export const receiveNoMore = (socket: dgram.Socket): void => {
  datagramHandleOf(socket)?.recvStop?.();
};

/** The class of a send request; `null` if this Node has none. */
export const sendRequest = (): (new () => SendRequest) | null => {
  const SendWrap = bindingOf<{ SendWrap: new () => SendRequest }>("udp_wrap")?.SendWrap;
  return typeof SendWrap === "function" ? SendWrap : null;
};

// ---- Listening ----

/** What Node keeps behind a socket or a listener. */
export interface Handle {
  readonly fd: number;
  open(fd: number): number;
  listen(backlog: number): number;
  getsockname?(into: Name): number;
  close(): void;
}

/** The descriptor behind a socket or a listener of `node:net`; -1 if there is none (any more, or on Windows). */
export const descriptorOf = (owner: object): number =>
  (owner as { readonly _handle?: Handle | null })._handle?.fd ?? -1;

export const UV_TCP_IPV6ONLY = 1; // uv.h
export const UV_TCP_REUSEPORT = 2; // uv.h

const { _createServerHandle: create } = net as unknown as {
  readonly _createServerHandle?: (...how: unknown[]) => Handle | number;
};

interface Listens {
  _handle: Handle;
  _listen2(address: null, port: number, type: number, backlog: number): void;
}

/** Whether this Node can make the handle of a listener and bind it before it listens. */
export const makesHandles = (): boolean =>
  runtime === "Node" &&
  typeof create === "function" &&
  typeof (net.Server.prototype as unknown as Partial<Listens>)._listen2 === "function";

/** Makes and binds the handle of a listener. Throws the kernel's error, or `ERR_UNSUPPORTED` if this Node cannot make one. */
export const makeHandle = (said: string, ...how: unknown[]): Handle => {
  if (create === undefined || !makesHandles()) {
    return neededLibc("bind() on this version of Node", null) as never;
  }
  const handle = create(...how);
  if (typeof handle === "number") throw kernelError(-handle, "bind", said);
  // libuv reports an address in use only when it is asked for the socket's name.
  const error = handle.getsockname?.({}) ?? 0;
  if (error === 0) return handle;
  handle.close();
  throw kernelError(-error, "bind", said);
};

/** A handle to listen on, for an existing descriptor. */
export const handleOf = (fd: number): Handle => makeHandle("a descriptor", null, null, null, fd);

/**
 * Makes `server` listen on a handle, which then belongs to the server. It does what Node's own `listen()` does last; that takes
 * no handle of a Unix socket, and in a worker of `node:cluster` it asks the primary for the descriptor. Resolves when the
 * server listens. Throws the kernel's error, and leaves the handle to the caller.
 */
export const listenOn = (server: net.Server, handle: Handle, backlog: number): Promise<void> => {
  const error = handle.listen(backlog); // first here: Node would close the handle
  if (error !== 0) throw kernelError(-error, "listen");
  const inner = server as unknown as Listens;
  return listening(server, () => {
    inner._handle = handle;
    inner._listen2(null, -1, -1, backlog);
  });
};

/** Calls `listen`, and resolves when `server` listens. Rejects with Node's error, or with `ECANCELED` if the server is closed first. */
export const listening = (server: net.Server, listen: () => void): Promise<void> =>
  new Promise<void>((resolve, reject) => {
    server.once("listening", () => {
      for (const event of ["error", "close"]) server.removeAllListeners(event);
      resolve();
    });
    server.once("error", reject);
    server.once("close", () => reject(new SocketError("ECANCELED")));
    listen();
  });

/** Makes Node stop reading `socket` until it is resumed. After `pause()` alone it still reads ahead, and another process that has the descriptor, too, would lose those bytes. */
export const stopReading = (socket: net.Socket): void => {
  const { _handle: handle } = socket as unknown as {
    readonly _handle?: { reading?: boolean; readStop?(): number } | null;
  };
  socket.pause();
  if (!handle || typeof handle.readStop !== "function") return;
  handle.readStop();
  handle.reading = false; // Node's own note of it
};

/** How many bytes in a connected socket's handle the kernel has not taken; 0 if it no longer has a handle. */
export const queuedIn = (socket: net.Socket): number =>
  (socket as unknown as { readonly _handle?: Partial<StreamHandle> | null })._handle?.writeQueueSize ?? 0;

/** Holds input back in the kernel under a TLS socket, or lets it come again, through the handle of the connection under it. */
export const holdInput = (plain: net.Socket, hold: boolean): void => {
  const { _handle: handle } = plain as unknown as {
    readonly _handle?: { readStart?(): number; readStop?(): number } | null;
  };
  if (hold) handle?.readStop?.();
  else handle?.readStart?.();
};

// ---- TLS ----

/** The undocumented parts used of a `TLSSocket` made from an accepted connection; `tls.Server` uses the same of its own. */
interface AcceptedTls {
  /** Its handle. */
  readonly ssl?: { verifyError?(): NodeJS.ErrnoException | string | null | undefined } | null;
  _releaseControl?(): boolean;
  _rejectUnauthorized?: boolean;
}

/** Why a client's certificate is not trusted, as OpenSSL's code; `null` if it is trusted. */
export const distrustOf = (secured: tls.TLSSocket): string | null => {
  const { ssl } = secured as AcceptedTls;
  if (typeof ssl?.verifyError !== "function") return "UNSPECIFIED";
  const error = ssl.verifyError();
  if (!error) return null;
  return typeof error === "string" ? error : (error.code ?? error.message); // Deno gives just the code
};

/** Makes Bun leave `secured` open if it does not trust the client's certificate. Otherwise it ends the connection in order, and the client may take that for a complete reply. */
export const leaveDistrusted = (secured: tls.TLSSocket): void => {
  if (runtime === "Bun") (secured as AcceptedTls)._rejectUnauthorized = false;
};

/** From now on `secured` emits `error` for a malformed record. Without this it emits nothing, and the connection hangs. */
export const tellLaterErrors = (secured: tls.TLSSocket): void => {
  (secured as AcceptedTls)._releaseControl?.();
};

/** The handle of a `TLSSocket`: the decrypted stream. It takes one write at a time; at a second one Node aborts the process. */
export interface SecureHandle extends StreamHandle {
  /** Called with OpenSSL's errors. */
  onerror: (this: SecureHandle, error: Error) => void;
}

/**
 * Takes the handle of `secured`, whose handshake is done, and returns what `make` makes of it and of the bytes that the stream has
 * already read. The stream is neither read nor written from then on. It still emits `session`, `keylog`, and `end` if it has read
 * that, and its `destroy()` still closes everything. Returns `null` if this Node lacks anything that is needed; the stream is then
 * unchanged.
 */
export const takeSecureHandle = <T>(
  secured: tls.TLSSocket,
  make: (handle: SecureHandle, node: StreamBinding, early: Buffer<ArrayBuffer>[]) => T,
): T | null => {
  const { _handle: handle } = secured as unknown as { readonly _handle?: SecureHandle | null };
  const node = streamBinding();
  if (node === null || !handle || typeof handle.onerror !== "function" || !isFit(handle)) return null;
  secured.pause();
  const early: Buffer<ArrayBuffer>[] = [];
  for (let bytes = secured.read(); bytes !== null; bytes = secured.read()) early.push(bytes); // one read() returns everything up to Node 24, a piece in Node 26
  stopReading(secured); // read() has started another read
  return make(handle, node, early);
};
