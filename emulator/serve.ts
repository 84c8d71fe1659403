/** Serves an app's listeners on real sockets. */

import { type Address, formatAddress } from "../core/address.ts";
import { type App, isApp, type Listener } from "../core/app.ts";
import { SocketError } from "../core/errors.ts";
import type { OnEvent } from "../core/events.ts";
import type { HandlerClass } from "../core/handler.ts";
import type { BaseServer, ServerInfo, ServerOptions } from "../core/server.ts";
import type { Datagram, StreamSocket } from "../core/socket.ts";
import { FileStorage } from "./storage.ts";
import { TCPServer, ThreadingTCPServer } from "./tcp.ts";
import { ThreadingUDPServer, UDPServer } from "./udp.ts";

/** How to serve an app. */
export interface ServeOptions {
  /** Listen on this host in place of each listener's own. */
  readonly host?: string;
  /** Listen on ports that the system chooses in place of each listener's own. */
  readonly anyPort?: boolean;
  /** The folder of the app's storage. Default `.socklet/data`. */
  readonly data?: string;
  readonly onEvent?: OnEvent;
  /** How long `close()` lets running requests go on, in milliseconds. Default 10 000. */
  readonly drainTimeout?: number;
}

/** One listener that is up. */
export interface Serving {
  readonly name: string;
  /** `tcp://127.0.0.1:7007`. */
  readonly url: string;
  /** The command to try it with, filled in. */
  readonly try: string | undefined;
  info(): ServerInfo;
}

/** An app whose listeners are up. */
export interface AppServer extends AsyncDisposable {
  readonly listeners: readonly Serving[];
  /** Accepts no more, drains, and closes all. */
  close(): Promise<void>;
  /** Ends what runs, at once. */
  abort(): void;
}

const serverOf = <Context>(
  { handler, endpoint, serve }: Listener<Context>,
  options: ServerOptions<Context>,
): BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context> => {
  if (endpoint.scheme === "udp") {
    const datagrams = handler as HandlerClass<Datagram, Context>;
    if (serve === "serial") return new UDPServer(endpoint, datagrams, options);
    return new ThreadingUDPServer(endpoint, datagrams, options);
  }
  const streams = handler as HandlerClass<StreamSocket, Context>;
  if (serve === "serial") return new TCPServer(endpoint, streams, options);
  return new ThreadingTCPServer(endpoint, streams, options);
};

/**
 * Opens all listeners of `app`, and serves. Where one cannot be opened, those before it are closed again and
 * the reason is thrown: `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`; `ERR_APP` where `app` is none.
 */
export const serveApp = async <Context>(
  app: App<Context>,
  options: ServeOptions = {},
): Promise<AppServer> => {
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  if (app.listeners.length === 0)
    throw new SocketError("ERR_APP", "the app listens nowhere: give defineApp() a `listen`");
  const context = await app.context({
    name: "node",
    bindings: process.env,
    storage: new FileStorage(options.data ?? ".socklet/data"),
  });
  const servers: (BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context>)[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.serverClose()));
  };
  try {
    const listeners: Serving[] = [];
    for (const listener of app.listeners) {
      const endpoint = {
        ...listener.endpoint,
        ...(options.host !== undefined && { hostname: options.host }),
        ...(options.anyPort && { port: 0 }),
      };
      const server = serverOf<Context>(
        { ...listener, endpoint },
        { name: listener.name, context, onEvent: options.onEvent, drainTimeout: options.drainTimeout },
      );
      servers.push(server);
      const at = (await server.listen()) as Address & { hostname: string; port: number };
      listeners.push({
        name: listener.name,
        url: `${listener.endpoint.scheme}://${formatAddress(at)}`,
        try: listener.try?.replaceAll("{host}", at.hostname).replaceAll("{port}", String(at.port)),
        info: () => server.info(),
      });
    }
    for (const server of servers) void server.serveForever();
    return {
      listeners,
      close,
      abort: () => {
        for (const server of servers) server.abort();
      },
      [Symbol.asyncDispose]: close,
    };
  } catch (error) {
    await close();
    throw error;
  }
};
