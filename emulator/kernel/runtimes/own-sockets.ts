/**
 * A runtime's own sockets, used in place of its `node:net`: the interface that a folder such as `bun/` implements.
 * chosen-sockets.ts says where they are used. TLS stays with `node:tls`, so a listener with TLS stays with `node:net`.
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
      /** How many connections may wait in the kernel, if the runtime has a say in it. */
      readonly backlog: number;
    }
  | {
      /** An IP address, with its scope if it has one. */
      readonly host: string;
      /** 0: the system chooses. */
      readonly port: number;
      readonly backlog: number;
      readonly ipv6Only: boolean;
      readonly reusePort: boolean;
    };

/** A listener of the runtime. */
export interface OwnListener {
  /** Its address, with the port that the system chose for 0; `null` for a path. */
  readonly address: Address | null;
  /** Its descriptor; -1 if the runtime does not say, or it is closed. */
  readonly fd: number;
  /** Stops listening, and removes a path's file. Connections stay open. */
  close(): void;
}

/** What a runtime provides. */
export interface OwnSockets {
  /**
   * Listens. `take` gets each connection, unread and without any option set. Throws or rejects with an error that has the kernel's
   * `code`.
   */
  listen(at: ListenAt, take: (connection: Connection) => void): MaybePromise<OwnListener>;
  /**
   * The same connection over the runtime's own socket. Nothing may have been read from `dialled`, everything written must have left,
   * and it must not be used again. Returns `null` if the runtime lacks what is needed; `dialled` then goes on as it is.
   */
  over?(dialled: net.Socket): Connection | null;
  /**
   * Like `datagramHandle()`: calls `heard` for each datagram that the bound `socket` receives, in place of its event, and returns a
   * function that sends from it; `null` if the runtime lacks what is needed.
   */
  datagrams?(
    socket: dgram.Socket,
    heard: (message: Buffer, from: dgram.RemoteInfo) => void,
    unsent: Unsent,
    late: Late,
  ): Post | null;
}
