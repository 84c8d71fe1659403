/**
 * Everything that is used of Node and that Node does not document: the handles behind its sockets and listeners, and
 * the bindings that make their requests. Nothing outside this folder uses any of it. docs/decisions/nodes-handles.md
 * lists each name, why it is used, and what is used where it is missing: so each is checked before it is used.
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

/** A binding of Node's C++ code; `null` where `is` says that it is not used here, where this Node has no such binding, or would warn of its use. */
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

/** What a handle and its requests call back. */
export interface StreamOwner {
  /** Bytes, the end or an error came. Returns the buffer for the next read, where that is another one. */
  came(): Uint8Array | undefined;
  /** A write that the kernel did not take at once is over. */
  wrote(request: WriteRequest, status: number): void;
  /** The shutdown is over. */
  shut(status: number): void;
}

/** Node's TCP or Pipe handle. A call that fails returns libuv's error number, which is negative. */
export interface StreamHandle {
  readonly fd: number;
  readonly writeQueueSize: number;
  onread: (this: StreamHandle) => Uint8Array | undefined;
  /** Socklet's own: whom `onread` tells. */
  transport?: StreamOwner;
  useUserBuffer(buffer: Uint8Array): void;
  readStart(): number;
  readStop(): number;
  writeBuffer(request: WriteRequest, bytes: Uint8Array): number;
  writeUtf8String(request: WriteRequest, text: string): number;
  shutdown(request: ShutdownRequest): number;
  close(): void;
  unref(): void;
  /** What a `net.Socket` takes as its handle, if that is not this. */
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

/** The binding of streams, also Deno's; `null` where any part is missing. */
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

/** What is called of a handle. */
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

/** Whether a handle has all that is used of it: checked once for each class of handles. */
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

const accepting = channel("net.server.socket"); // its subscribers expect sockets of Node's

/** Called by a listener's handle for each connection. */
type OnConnection = (this: unknown, error: number, handle: StreamHandle) => void;

/**
 * From now on `take` is given the handle of each connection that `server`, which listens, accepts. Nothing has been
 * read from it, and it has none of the options that the server was made with. Does nothing where this Node lacks
 * anything that is needed: then the server accepts sockets of Node's.
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
 * What `make` makes of the handle of a connected `socket`, of which nothing has been read or written, and which is of no use
 * afterwards. `null` where this Node lacks anything that is needed; then the socket stays as it is.
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

/** A listener's handle on Deno: it says that somebody has connected, and accepts into a handle that it is given. */
export interface DenoListening<Handle> {
  onconnection?: (this: unknown, error: number) => void;
  accept(into: Handle): number;
}

/** The handle of `server`, which listens, on Deno; `null` where it lacks what is needed. */
export const denoListening = <Handle>(server: net.Server): DenoListening<Handle> | null => {
  const { _handle: handle } = server as unknown as { readonly _handle?: DenoListening<Handle> | null };
  return typeof handle?.accept === "function" ? handle : null;
};

/**
 * The socket of Bun's, or the handle of Deno's, that a connected `socket` of its `node:net` is over, which has `calls`; `socket` is of
 * no use afterwards. `null` where it has none, or not all of them: then it stays as it is.
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

/** A send of datagrams. */
export interface SendRequest {
  /** Kept alive until the request is done. */
  list?: Uint8Array[];
  /** Called when a send that was not done at once is done, with libuv's error number, or 0. */
  oncomplete?: (status: number) => void;
}

/** The handle of a `dgram.Socket` that is bound. */
export interface DatagramHandle {
  readonly fd: number;
  recvStop?(): number;
  onmessage?: (this: unknown, size: number, handle: unknown, message: Buffer, from: dgram.RemoteInfo) => void;
  /** Returns the number of bytes sent plus one, 0 if that is still to be done, or libuv's error number. `told`: calls `oncomplete` then. */
  send?(
    request: SendRequest,
    list: Uint8Array[],
    count: number,
    port: number,
    address: string,
    told: boolean,
  ): number;
}

/** The handle of a `dgram.Socket`; `null` if it has none, or none any more. */
export const datagramHandleOf = (socket: dgram.Socket): DatagramHandle | null => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === "state symbol");
  if (state === undefined) return null;
  return (socket as never as Record<symbol, { handle?: DatagramHandle | null }>)[state]?.handle ?? null;
};

/** The handle of a `dgram.Socket` on Bun. */
export interface BunDatagramHandle<Own> {
  /** The socket of Bun's that it is over. */
  readonly socket: Own;
  /** How many datagrams wait for the kernel. */
  readonly queueCount: number;
  /** Sends those. */
  drain(): void;
}

/** The handle of `socket`, which is bound, on Bun, whose socket has `calls`; `null` where any of it is missing. */
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

/** Has `socket` receive no more; what comes from now on is for other processes that have its descriptor. */
export const receiveNoMore = (socket: dgram.Socket): void => {
  datagramHandleOf(socket)?.recvStop?.();
};

/** The class of a send request; `null` where this Node has none. */
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

/** The descriptor behind a socket or a listener of `node:net`; -1 where there is none (any more, or on Windows). */
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

/** Whether this Node can make the handle of a listener, which is bound before it listens. */
export const makesHandles = (): boolean =>
  runtime === "Node" &&
  typeof create === "function" &&
  typeof (net.Server.prototype as unknown as Partial<Listens>)._listen2 === "function";

/** Makes the handle of a listener, which is bound. Throws the kernel's error, and `ERR_UNSUPPORTED` where this Node cannot. */
export const makeHandle = (said: string, ...how: unknown[]): Handle => {
  if (create === undefined || !makesHandles()) {
    return neededLibc("bind() on this version of Node", null) as never;
  }
  const handle = create(...how);
  if (typeof handle === "number") throw kernelError(-handle, "bind", said);
  // libuv reports that an address is in use only when it is asked for the name.
  const error = handle.getsockname?.({}) ?? 0;
  if (error === 0) return handle;
  handle.close();
  throw kernelError(-error, "bind", said);
};

/** The handle of a descriptor of ours, to listen on. */
export const handleOf = (fd: number): Handle => makeHandle("a descriptor", null, null, null, fd);

/**
 * Has `server` listen on a handle, which belongs to the server from then on. This is the end of Node's own `listen()`,
 * which takes no handle of a Unix socket, and which asks the primary for the descriptor in a worker of `node:cluster`.
 * Resolves when it listens. Throws the kernel's error, and leaves the handle.
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

/** Has `server` listen by `listen`. Rejects with Node's error, and with `ECANCELED` where it is closed before it listens. */
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

/** Has Node read no more of `socket` until it is resumed: `pause()` alone lets it read ahead, which is lost to another process that has the descriptor, too. */
export const stopReading = (socket: net.Socket): void => {
  const { _handle: handle } = socket as unknown as {
    readonly _handle?: { reading?: boolean; readStop?(): number } | null;
  };
  socket.pause();
  if (!handle || typeof handle.readStop !== "function") return;
  handle.readStop();
  handle.reading = false; // as Node notes it
};

/** How many bytes a connected socket's handle has that the kernel has not taken; 0 where it has none any more. */
export const queuedIn = (socket: net.Socket): number =>
  (socket as unknown as { readonly _handle?: Partial<StreamHandle> | null })._handle?.writeQueueSize ?? 0;

/** Has input wait in the kernel under a TLS socket, or come again: by the handle of the connection that it secures. */
export const holdInput = (plain: net.Socket, hold: boolean): void => {
  const { _handle: handle } = plain as unknown as {
    readonly _handle?: { readStart?(): number; readStop?(): number } | null;
  };
  if (hold) handle?.readStop?.();
  else handle?.readStart?.();
};

// ---- TLS ----

/** What is used of a `TLSSocket` that was made of an accepted connection; `tls.Server` does the same with its own. */
interface AcceptedTls {
  /** Its handle. */
  readonly ssl?: { verifyError?(): NodeJS.ErrnoException | string | null | undefined } | null;
  _releaseControl?(): boolean;
  _rejectUnauthorized?: boolean;
}

/** Why the certificate that a client gave is not trusted, in OpenSSL's word; `null` where it is. */
export const distrustOf = (secured: tls.TLSSocket): string | null => {
  const { ssl } = secured as AcceptedTls;
  if (typeof ssl?.verifyError !== "function") return "UNSPECIFIED";
  const error = ssl.verifyError();
  if (!error) return null;
  return typeof error === "string" ? error : (error.code ?? error.message); // Deno gives the word alone
};

/** Has Bun leave `secured` open where it does not trust the client's certificate: it would end the connection, which could be a whole reply. */
export const leaveDistrusted = (secured: tls.TLSSocket): void => {
  if (runtime === "Bun") (secured as AcceptedTls)._rejectUnauthorized = false;
};

/** From now on `secured` emits `error` for a record that is none: without this it emits nothing, and the connection hangs. */
export const tellLaterErrors = (secured: tls.TLSSocket): void => {
  (secured as AcceptedTls)._releaseControl?.();
};

/** The handle of a `TLSSocket`: what was decrypted, as a stream. It takes one write at a time: Node aborts the process at a second. */
export interface SecureHandle extends StreamHandle {
  /** Told of what OpenSSL says is wrong. */
  onerror: (this: SecureHandle, error: Error) => void;
}

/**
 * What `make` makes of the handle of `secured`, whose handshake is done, and of what its stream has read by now: that is neither
 * read nor written from then on. It still emits `end` if it has read that, `session` and `keylog`, and its `destroy()` still closes
 * all. `null` where this Node lacks anything that is needed; then the stream stays as it is.
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
  for (let bytes = secured.read(); bytes !== null; bytes = secured.read()) early.push(bytes); // a read gives all up to Node 24, a piece in Node 26
  stopReading(secured); // read() has asked for more
  return make(handle, node, early);
};
