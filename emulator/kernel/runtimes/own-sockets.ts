/**
 * A runtime's own sockets, in place of its `node:net`: what a folder such as `bun/` implements. chosen-sockets.ts says where
 * they are used. TLS stays with `node:tls`, so that a listener that secures its connections stays with `node:net`, too.
 */

import type dgram from "node:dgram";
import type net from "node:net";
import type { MaybePromise } from "../../../core/bytes/data.ts";
import type { Address } from "../../../core/net/address.ts";
import type { Unsent } from "../../../core/sockets/datagram.ts";
import type { Late, Post } from "../handles/datagram-handle.ts";
import type { Connection } from "../transports/seam.ts";

/** Where to listen, and how. */
export type ListenAt =
  | {
      readonly path: string;
      /** How many connections may wait in the kernel, where the runtime can be told. */
      readonly backlog: number;
    }
  | {
      /** An IP address, with its scope where it has one. */
      readonly host: string;
      /** 0: the system chooses. */
      readonly port: number;
      readonly backlog: number;
      readonly ipv6Only: boolean;
      readonly reusePort: boolean;
    };

/** What listens. */
export interface OwnListener {
  /** Where; port 0 is the one that the system chose. `null` for a path. */
  readonly address: Address | null;
  /** Its descriptor; -1 where the runtime does not tell, or it is closed. */
  readonly fd: number;
  /** Listens no more, and removes the file of a path. Connections stay. */
  close(): void;
}

/** What a runtime has to give. */
export interface OwnSockets {
  /**
   * Listens. Each connection is given to `take`, unread and without any option set. Rejects, or throws, with an error that has the
   * kernel's `code`.
   */
  listen(at: ListenAt, take: (connection: Connection) => void): MaybePromise<OwnListener>;
  /**
   * The same connection by the runtime's own socket. Nothing was read from `dialled`, and all that was written has left; it is
   * used no more. `null` where the runtime lacks what that needs: then it goes on as it is.
   */
  over?(dialled: net.Socket): Connection | null;
  /**
   * As `datagramHandle()`: `heard` is called for each datagram that `socket`, which is bound, receives, without its event. Returns
   * what sends from it; `null` where the runtime lacks what that needs.
   */
  datagrams?(
    socket: dgram.Socket,
    heard: (message: Buffer, from: dgram.RemoteInfo) => void,
    unsent: Unsent,
    late: Late,
  ): Post | null;
}
