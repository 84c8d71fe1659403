/** Serves an app's listeners on real sockets. */

import { type Address, formatAddress } from "../core/address.ts";
import { type App, isApp, type Listener } from "../core/app.ts";
import type { ListenerInfo } from "../core/control/plane.ts";
import type { Datagram } from "../core/datagram.ts";
import { SocketError } from "../core/errors.ts";
import type { OnEvent } from "../core/events.ts";
import type { HandlerClass } from "../core/handler.ts";
import type { BaseServer, ServerInfo, ServerOptions } from "../core/server.ts";
import type { StreamSocket } from "../core/socket.ts";
import { TCPConnector } from "./connector.ts";
import type { ControlOptions, ControlServer, TCPServerClass } from "./control.ts";
import { appHandlerFrom, ForkingTCPServer, ForkingUDPServer } from "./forking.ts";
import { FileStorage } from "./storage.ts";
import { TCPServer, ThreadingTCPServer } from "./tcp.ts";
import { ThreadingUDPServer, UDPServer } from "./udp.ts";

const DATA = ".socklet/data";

/** How to serve an app. */
export interface ServeOptions {
  /** Listen on this host in place of each listener's own. */
  readonly host?: string;
  /** Listen on ports that the system chooses in place of each listener's own. */
  readonly anyPort?: boolean;
  /** The folder of the app's storage. Default `.socklet/data`. */
  readonly data?: string;
  /** The URL of the module that exports the app as `app`: what the children of a forking listener import. Needed where it has one. */
  readonly module?: string;
  readonly onEvent?: OnEvent;
  /** How long `close()` lets running requests go on, in milliseconds. Default 10 000. */
  readonly drainTimeout?: number;
  /** Serve the control routes, too, and record each connection as a session for them. Default: neither. */
  readonly control?: ControlOptions;
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
  /** Where the control routes are; `null` where they were not asked for. */
  readonly control: ControlServer | null;
  /** Accepts no more, ends the sessions that were dialled, drains, and closes all; the control routes last. */
  close(): Promise<void>;
  /** Ends what runs, at once. */
  abort(): void;
}

/** A class of servers, or one of it whose connections are sessions. */
type Recorded = <Server extends TCPServerClass>(Server: Server) => Server;

const serverOf = <Context>(
  { name, handler, endpoint, serve }: Listener<Context>,
  options: ServerOptions<Context>,
  recorded: Recorded,
  { module, data = DATA }: ServeOptions,
): BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context> => {
  if (serve === "forking") {
    if (module === undefined) {
      const said = `the listener "${name}" forks: give serveApp() the app's \`module\`, which its children import`;
      throw new SocketError("ERR_APP", said);
    }
    const forked = appHandlerFrom(module, name, data);
    const { context: _, ...own } = options; // each child makes its own
    if (endpoint.scheme === "udp") return new ForkingUDPServer<Context>(endpoint, forked, own);
    const Server = recorded(ForkingTCPServer);
    return new Server(endpoint, forked, own) as BaseServer<StreamSocket, Context>;
  }
  if (endpoint.scheme === "udp") {
    const datagrams = handler as HandlerClass<Datagram, Context>;
    if (serve === "serial") return new UDPServer(endpoint, datagrams, options);
    return new ThreadingUDPServer(endpoint, datagrams, options);
  }
  const streams = handler as HandlerClass<StreamSocket, Context>;
  const Server = recorded(serve === "serial" ? TCPServer<Context> : ThreadingTCPServer<Context>);
  return new Server(endpoint, streams, options);
};

/**
 * Opens all listeners of `app`, and serves. Where one cannot be opened, those before it are closed again and
 * the reason is thrown: `EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`; `ERR_APP` where `app` is none;
 * `EINVAL` where a token of the control routes is not sound, `TypeError` where their host is not loopback.
 */
export const serveApp = async <Context>(
  app: App<Context>,
  options: ServeOptions = {},
): Promise<AppServer> => {
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  if (app.listeners.length === 0)
    throw new SocketError("ERR_APP", "the app listens nowhere: give defineApp() a `listen`");
  const { onEvent, drainTimeout, control } = options;
  const parts = control && (await import("./control.ts")); // servers without it start without it
  const access = control && parts?.controlTokens(control);
  const context = await app.context({
    name: "node",
    bindings: process.env,
    storage: new FileStorage(options.data ?? DATA),
  });
  const servers: (BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context>)[] = [];
  const listeners: Serving[] = [];
  const plane =
    parts === undefined || access === undefined
      ? null
      : new parts.LocalPlane({
          app,
          secrets: access.secrets,
          listeners: () => listeners.map(({ info, url }) => ({ ...countsOf(info()), address: url })),
          connector: ({ handler, HandlerClass, endpoint, connectTimeout, secureTransport }) =>
            new TCPConnector<Context>(endpoint, HandlerClass, {
              name: handler,
              context,
              connectTimeout,
              secureTransport,
              onEvent,
            }),
        });
  const recorded: Recorded = (Server) =>
    parts === undefined || plane === null ? Server : parts.RecordingMixIn(Server, plane);
  let routes: { readonly url: string; close(): Promise<void> } | undefined;
  const close = async (): Promise<void> => {
    await Promise.all([plane?.close(), ...servers.map((server) => server.serverClose())]);
    await routes?.close(); // last: what drains can be looked at, and ended
  };
  try {
    for (const listener of app.listeners) {
      const endpoint = {
        ...listener.endpoint,
        ...(options.host !== undefined && { hostname: options.host }),
        ...(options.anyPort && { port: 0 }),
      };
      const server = serverOf<Context>(
        { ...listener, endpoint },
        { name: listener.name, context, onEvent, drainTimeout },
        recorded,
        options,
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
    if (parts !== undefined && plane !== null && access !== undefined) {
      routes = await parts.serveControl(plane, access.tokens, control ?? {}, (error) =>
        onEvent?.({ type: "error", server: "control", address: null, error }),
      );
    }
    for (const server of servers) void server.serveForever();
    return {
      listeners,
      control: routes && access ? { url: routes.url, token: access.made } : null,
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

const countsOf = ({ name, running, served, failed }: ServerInfo): Omit<ListenerInfo, "address"> => ({
  name,
  running,
  served,
  failed,
});
