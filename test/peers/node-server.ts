/** One of Node's own servers, for tests of proxies in front of it. */

import { once } from "node:events";
import net from "node:net";

/** Passes each connection to `take`, open in each direction until that direction is ended. Disposal closes it and its connections. */
export const serverOf = async (options: net.ServerOpts, take: (socket: net.Socket) => void) => {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true, ...options }, (socket) => {
    sockets.add(socket.on("error", () => {}));
    take(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `tcp://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};
