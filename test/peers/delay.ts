/** A TCP proxy that is far away: what passes arrives later. */

import { once } from "node:events";
import net from "node:net";

export interface DelayProxy extends AsyncDisposable {
  readonly port: number;
  /** Connections that came so far. */
  readonly connections: number;
  /** ms that each direction takes from now on. Opening a connection is not delayed: the kernel does that. */
  delay: number;
}

/** Passes everything on to `127.0.0.1:port`, and back. */
export const delayProxy = async (port: number, delay = 0): Promise<DelayProxy> => {
  const sockets = new Set<net.Socket>();
  const state = { connections: 0, delay };
  const later = (work: () => void): void => void (state.delay === 0 ? work() : setTimeout(work, state.delay));
  const pass = (from: net.Socket, to: net.Socket): void => {
    sockets.add(from);
    from.setNoDelay();
    from.on("data", (bytes) => later(() => to.write(bytes)));
    from.on("end", () => later(() => to.end()));
    from.on("error", () => to.destroy());
    from.on("close", () => sockets.delete(from));
  };
  const server = net.createServer({ allowHalfOpen: true }, (client) => {
    state.connections++;
    const upstream = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    pass(client, upstream);
    pass(upstream, client);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as net.AddressInfo).port,
    get connections() {
      return state.connections;
    },
    get delay() {
      return state.delay;
    },
    set delay(ms) {
      state.delay = ms;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
};
