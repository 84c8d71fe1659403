/** What a stream is before it is connected or listens: the interface of what stream-descriptor.ts and net-descriptor.ts make. */

import type net from "node:net";
import type { MaybePromise } from "../../../core/bytes/data.ts";
import type { Address } from "../../../core/net/address.ts";
import type { Holder, Kernel } from "../descriptors/kernel.ts";
import type { Settable } from "../descriptors/plain-options.ts";
import type { Connection, Inherited } from "../transports/seam.ts";

/** What a server knows of its listener before it is bound: on Bun and Deno it listens from then on. */
export interface Listens {
  /** What it accepts will be secured by TLS. */
  readonly secures: boolean;
  /** How many connections may wait in the kernel. */
  readonly backlog: number;
}

/** A listener of the runtime's own: see own-sockets.ts. */
export interface OwnListening {
  /** From now on, `take` is given the connections; first those that came before. */
  accept(take: (connection: Connection) => void): void;
  close(): void;
}

/** A stream's descriptor until Node connects it or listens on it. */
export interface StreamDescriptor {
  readonly kernel: Kernel;
  /** Where it is bound; `null` if it is not. */
  readonly localAddress: Address | null;
  /** Throws the kernel's error; rejects with it where it takes time. */
  bind(address: Address, said: string): MaybePromise<void>;
  /** What listens, where that is so from `bind()` on: then `listen()` is given it. */
  readonly server?: net.Server | undefined;
  /** The same where it is a listener of the runtime's own, which takes the place of `listen()`. */
  readonly own?: OwnListening | undefined;
  /** A `net.Socket` over it that is not connected. */
  connecting(): net.Socket;
  /** The socket of `connecting()` is connected, as `connection`; or it is not, and was destroyed: then the descriptor is here again. */
  connected(connection: Connection | null): void;
  /** A `net.Socket` over a descriptor that is connected already. */
  opened(): net.Socket;
  /** Listens on it; resolves when it does. Throws the kernel's error. */
  listen(server: net.Server, backlog: number): Promise<void>;
  /** Options that each connection of a listener begins with. */
  readonly inherited: Inherited;
  /** The kernel's side of an accepted connection, if more is known of it than Node tells. */
  accepted(connection: { readonly settable: Settable; readonly holder: Holder }): Kernel | undefined;
  /** Closes what Node does not have. */
  close(): void;
}
