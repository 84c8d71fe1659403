/** A stream before it is connected or listens: the interface that stream-descriptor.ts and net-descriptor.ts implement. */

import type net from "node:net";
import type { MaybePromise } from "../../../core/bytes/data.ts";
import type { Address } from "../../../core/net/address.ts";
import type { Holder, Kernel } from "../descriptors/kernel.ts";
import type { Settable } from "../descriptors/plain-options.ts";
import type { Connection, Inherited } from "../transports/seam.ts";

/** What a server knows about its listener before binding, which on Bun and Deno already listens. */
export interface Listens {
  /** Whether its connections will be secured by TLS. */
  readonly secures: boolean;
  /** How many connections may wait in the kernel's queue. */
  readonly backlog: number;
}

/** A listener of the runtime itself: see own-sockets.ts. */
export interface OwnListening {
  /** From now on `take` is called with each connection, first with those that are waiting. */
  accept(take: (connection: Connection) => void): void;
  close(): void;
}

/** A stream's descriptor, until Node connects it or listens on it. */
export interface StreamDescriptor {
  readonly kernel: Kernel;
  /** Where it is bound; `null` if it is not. */
  readonly localAddress: Address | null;
  /** Throws the kernel's error, or rejects with it if binding is asynchronous. */
  bind(address: Address, said: string): MaybePromise<void>;
  /** The server, if `bind()` already made one listen; `listen()` then gets it. */
  readonly server?: net.Server | undefined;
  /** The same for a listener of the runtime itself, which takes the place of `listen()`. */
  readonly own?: OwnListening | undefined;
  /** A `net.Socket` over it that is not connected. */
  connecting(): net.Socket;
  /** The socket of `connecting()` is connected, as `connection`; or it failed and was destroyed (`null`), and the descriptor is here again. */
  connected(connection: Connection | null): void;
  /** A `net.Socket` over a descriptor that is connected already. */
  opened(): net.Socket;
  /** Listens on it; resolves when it does. Throws the kernel's error. */
  listen(server: net.Server, backlog: number): Promise<void>;
  /** Options that each connection inherits from its listener. */
  readonly inherited: Inherited;
  /** The kernel's side of an accepted connection, if more is known of it than Node knows. */
  accepted(connection: { readonly settable: Settable; readonly holder: Holder }): Kernel | undefined;
  /** Closes whatever Node has not taken. */
  close(): void;
}
