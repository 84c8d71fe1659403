/** What all transports of the emulator have in common, whatever is under them. */

import type net from "node:net";
import type tls from "node:tls";
import type { Address } from "../../../core/net/address.ts";
import { AF_UNIX, SOCK_STREAM } from "../../../core/net/constants.ts";
import { familyOf } from "../../../core/sockets/base-socket.ts";
import type { StartTlsOptions, TlsInfo, TlsOptions } from "../../../core/sockets/tls/tls.ts";
import type { Capabilities, StreamTransport } from "../../../core/sockets/transport.ts";
import type { UnixNames } from "../descriptors/adopted.ts";
import { type Holder, Kernel } from "../descriptors/kernel.ts";
import { PlainStreamOptions, type Settable } from "../descriptors/plain-options.ts";
import type { LastSession, ServerSecurity } from "../tls/tls.ts";

export const FULL = 64 * 1024; // bytes that may wait in Node before a writer must wait: the socket's own high-water mark
export const LARGE = 16 * 1024; // bytes; the writer has copied anything smaller
export const PIECE = 256 * 1024; // bytes of a large write that are handed to Node at once: Node does not say how much of a failed write was sent

export const TCP: Capabilities = { reset: true, peername: true };
export const UNIX: Capabilities = { reset: false, peername: false };

export const SECURED = "a TLS connection cannot be given away: its keys are in this process";

/** The kernel's side of a connection with this peer; `null` is a Unix socket without a name. */
export const kernelOf = (peer: Address | null, settable: Settable, holder: Holder): Kernel => {
  const options = new PlainStreamOptions({ family: familyOf(peer) || AF_UNIX, type: SOCK_STREAM, proto: 0 });
  options.open(settable, false);
  return new Kernel(options).heldBy(holder);
};

/** The other end of a dialled connection: the name that its certificate must have, and whom to trust. */
interface Dialled {
  readonly hostname: string;
  /** The options that `startTls()` takes if it is given none. */
  readonly tls?: TlsOptions | undefined;
  /** The TLS session to resume, for a connector that dials more than once. */
  readonly last?: LastSession | undefined;
}

/** Options that each connection inherits from its listener. */
export type Inherited = Pick<net.ServerOpts, "noDelay" | "keepAlive" | "keepAliveInitialDelay">;

/** What the creator of a connection knows and Node does not. */
export interface Origin extends UnixNames {
  /** Absent for an accepted connection. */
  readonly dialled?: Dialled | undefined;
  /** What its listener secures connections with. */
  readonly security?: ServerSecurity | undefined;
  /** Bytes that were already read, and belong to the handshake. */
  readonly early?: Uint8Array | undefined;
  /** The kernel's side of the socket, if that existed before the connection. */
  readonly kernel?: Kernel | undefined;
}

/** A connection of this process, behind the seam. */
export interface Connection extends StreamTransport {
  /** Its descriptor; -1 if it no longer has one. */
  readonly fd: number;
  readonly settable: Settable;
  readonly holder: Holder;
  /** Adds what Node does not know. Called before anything else. */
  from(origin: Origin): this;
  /** Lets the process exit while the connection is open. */
  unref(): void;
  /** Moves the connection to a `net.Socket`. Only before anything was read. */
  toNode(): OverSocket;
}

/** A connection over a `net.Socket`. */
export interface OverSocket extends Connection {
  readonly socket: net.Socket;
  startTls(options: StartTlsOptions): Promise<Connection>;
  unacknowledged(): number | null;
  /** The connection that takes over when this one is secured, over the streams of the `TLSSocket`. */
  overStream(secured: tls.TLSSocket, origin: Origin, state: TlsInfo): OverSocket;
}

let tasks: (() => void)[] = [];

const runTasks = (): void => {
  const due = tasks;
  tasks = [];
  for (const task of due) task();
};

/**
 * Runs `task` at the end of the event loop's turn, when all connections with input have been served and their promises have
 * run. One callback serves all connections; `process.nextTick` would take one call for each (0.7 µs). By then most connections
 * have already sent what they gathered, because they wait for input.
 */
export const atEndOfTurn = (task: () => void): void => {
  if (tasks.push(task) === 1) setImmediate(runTasks);
};
