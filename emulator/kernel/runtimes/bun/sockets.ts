/** Listening through `Bun.listen()`, and the Bun sockets under what `node:net` has dialled. */

import net from "node:net";
import { addressOf } from "../../addresses.ts";
import { takeSocketOf } from "../../handles/handles.ts";
import type { Connection } from "../../transports/seam.ts";
import type { ListenAt, OwnSockets } from "../own-sockets.ts";
import { type BunHandlers, type BunListener, type BunSocket, bun } from "./api.ts";
import { datagramsOf } from "./datagrams.ts";
import { BunTransport } from "./transport.ts";

const transportOf = (socket: BunSocket): BunTransport => socket.data as BunTransport;

const handlers: BunHandlers = {
  binaryType: "uint8array",
  data: (socket, bytes) => transportOf(socket).came(bytes),
  end: (socket) => transportOf(socket).ended(),
  drain: (socket) => transportOf(socket).drained(),
  close: (socket, error) => transportOf(socket).closed(error),
  error: (socket, error) => transportOf(socket).closed(error),
};

/** Makes an exception in a connection callback uncaught, as on Node: Bun would close the connection and go on. */
const uncaught = (error: unknown): void =>
  queueMicrotask(() => {
    throw error;
  });

const CALLS = ["write", "shutdown", "end", "terminate", "pause", "resume", "reload"] as const;

export const bunSockets: OwnSockets = {
  listen(at: ListenAt, take: (connection: Connection) => void) {
    const open = (socket: BunSocket): void => {
      try {
        take(new BunTransport(socket));
      } catch (error) {
        uncaught(error);
      }
    };
    const where =
      "path" in at
        ? { unix: at.path }
        : {
            hostname: at.host,
            port: at.port,
            ipv6Only: at.ipv6Only,
            reusePort: at.reusePort,
            exclusive: true as const,
          };
    let listener: BunListener | null = bun.listen({
      ...where,
      allowHalfOpen: true,
      socket: { ...handlers, open },
    });
    const { hostname, port } = listener;
    return {
      address: "path" in at ? null : addressOf(hostname, port, `IPv${net.isIP(hostname)}`),
      get fd() {
        return listener?.fd ?? -1;
      },
      close() {
        listener?.stop();
        listener = null;
      },
    };
  },

  datagrams: datagramsOf,

  // `Bun.connect()` cannot be cancelled: an attempt would go on until the kernel gives up, after two minutes.
  over(dialled) {
    const socket = takeSocketOf<BunSocket>(dialled, CALLS);
    if (socket === null) return null;
    const transport = new BunTransport(socket);
    socket.reload({ socket: handlers });
    socket.ref(); // a paused net.Socket does not keep the process alive
    return transport;
  },
};
