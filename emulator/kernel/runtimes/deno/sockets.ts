/**
 * Connections over the handles of Deno's `node:net`, which are Deno's own sockets with Node's calls. `Deno.listen()` takes as much CPU
 * per message, and its connections can neither be reset nor given keep-alive times.
 */

import net from "node:net";
import { addressOf } from "../../addresses.ts";
import { listening, type StreamHandle } from "../../handles/handles.ts";
import { HandleTransport } from "../../transports/handle-transport.ts";
import { NodeTransport } from "../../transports/net-transport.ts";
import type { Connection } from "../../transports/seam.ts";
import type { ListenAt, OwnSockets } from "../own-sockets.ts";
import { node, takeHandleOf, takeHandles } from "./handle.ts";

/** `node` is there, since `handle` is. */
const over = (handle: StreamHandle): Connection =>
  new HandleTransport(handle, node as NonNullable<typeof node>);

export const denoSockets: OwnSockets = {
  async listen(at: ListenAt, take: (connection: Connection) => void) {
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true });
    await listening(server, () => server.listen({ ...at, exclusive: true }));
    if (!takeHandles(server, (handle) => take(over(handle))))
      server.on("connection", (socket) => take(new NodeTransport(socket)));
    server.on("error", () => {}); // an accept that failed
    const name = server.address();
    return {
      address:
        name === null || typeof name === "string" ? null : addressOf(name.address, name.port, name.family),
      fd: -1,
      close: () => void server.close(),
    };
  },

  over(dialled) {
    const handle = takeHandleOf(dialled);
    return handle && over(handle);
  },
};
