/**
 * Node's handles: what `node:net` and `node:dgram` keep behind a socket or a listener. Node does not document them;
 * docs/decisions/nodes-handles.md lists everything that is used, and what happens where it is missing.
 */

import type dgram from "node:dgram";
import net from "node:net";
import { SocketError } from "../../core/errors.ts";
import { kernelError, neededLibc } from "./descriptors/libc.ts";

/** What Node keeps behind a socket or a listener. */
export interface Handle {
  readonly fd: number;
  open(fd: number): number;
  listen(backlog: number): number;
  getsockname?(into: { address?: string; port?: number; family?: string }): number;
  getpeername?(into: object): number;
  close(): void;
}

/** The descriptor behind a socket or a listener of `node:net`; -1 where there is none (any more, or on Windows). */
export const descriptorOf = (owner: object): number =>
  (owner as { readonly _handle?: Handle | null })._handle?.fd ?? -1;

/** The handle of a `dgram.Socket`; `null` where it has none (any more). */
export const datagramHandleOf = (socket: dgram.Socket): object | null => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === "state symbol");
  if (state === undefined) return null;
  return (socket as never as Record<symbol, { handle?: object | null }>)[state]?.handle ?? null;
};

export const UV_TCP_IPV6ONLY = 1; // uv.h
export const UV_TCP_REUSEPORT = 2; // uv.h

/** What Node's cluster makes its own listeners of. Throws what the kernel says, and `ERR_UNSUPPORTED` where a Node no longer has it. */
export const makeHandle = (said: string, ...how: unknown[]): Handle => {
  const make = (net as unknown as { _createServerHandle?: (...how: unknown[]) => Handle | number })
    ._createServerHandle;
  if (make === undefined) return neededLibc("bind() on this version of Node", null) as never;
  const handle = make(...how);
  if (typeof handle === "number") throw kernelError(-handle, "bind", said);
  // libuv tells that an address is in use when the name is asked for.
  const error = handle.getsockname?.({}) ?? 0;
  if (error === 0) return handle;
  handle.close();
  throw kernelError(-error, "bind", said);
};

/** A handle of a descriptor of ours, to listen on. */
export const handleOf = (fd: number): Handle => makeHandle("a descriptor", null, null, null, fd);

/**
 * Has `server` listen on a handle, which is the server's then: the end of Node's own `listen()`, which takes no Unix
 * one, and in a worker of `node:cluster` would ask its primary for the descriptor of that number. Resolves when it
 * listens. Throws the kernel's error, and leaves the handle.
 */
export const listenOn = (server: net.Server, handle: Handle, backlog: number): Promise<void> => {
  const error = handle.listen(backlog); // first here: Node would close the handle
  if (error !== 0) throw kernelError(-error, "listen");
  const inner = server as unknown as {
    _handle: Handle;
    _listen2(address: null, port: number, type: number, backlog: number): void;
  };
  return new Promise<void>((resolve, reject) => {
    server.once("listening", () => {
      for (const event of ["error", "close"]) server.removeAllListeners(event);
      resolve();
    });
    server.once("error", reject);
    server.once("close", () => reject(new SocketError("ECANCELED"))); // closed before it was told
    inner._handle = handle;
    inner._listen2(null, -1, -1, backlog);
  });
};
