/**
 * The emulator's half of the control plane: the connections of an app's servers as sessions, and the control
 * routes over HTTP, only on this machine's loopback.
 */

import type { Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { within } from "../../../core/bytes/alarm.ts";
import { type Data, toBytes } from "../../../core/bytes/data.ts";
import { openApi } from "../../../core/control/http/openapi.ts";
import { HttpError, problemResponse } from "../../../core/control/http/problem.ts";
import { ListenerLog } from "../../../core/control/listeners.ts";
import { dialledSessions, Metrics, poolFamilies } from "../../../core/control/metrics.ts";
import { type ControlPlane, entriesOf, listenerInfo, replayTarget } from "../../../core/control/plane.ts";
import { Recorder } from "../../../core/control/recording/recorder.ts";
import { AcceptedMixIn, PooledMixIn } from "../../../core/control/sessions/accepted.ts";
import { LocalPlane } from "../../../core/control/sessions/local.ts";
import { type Address, formatAddress, inetNtop, isLoopback, packAddress } from "../../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../../core/net/constants.ts";
import { cameThrough } from "../../../core/net/proxy/header.ts";
import { ServedDatagram } from "../../../core/serve/requests.ts";
import type { BaseServer } from "../../../core/serve/server.ts";
import type { Datagram } from "../../../core/sockets/datagram.ts";
import { lazy } from "../../builtin.ts";
import { networkError } from "../../kernel/addresses.ts";
import { descriptorOf } from "../../kernel/handles/handles.ts";
import { listenerUrl, type TCPServer } from "../../servers/tcp.ts";
import type { TCPConnector } from "../../sockets/dialling/connector.ts";
import { FileArchive } from "./archive.ts";
import { processMetrics } from "./process-metrics.ts";
import { replayTo, trusting } from "./replays.ts";

export { controlTokens } from "./control-tokens.ts";
export {
  dialledSessions,
  entriesOf,
  FileArchive,
  ListenerLog,
  LocalPlane,
  listenerInfo,
  Metrics,
  poolFamilies,
  processMetrics,
  Recorder,
  replayTarget,
  replayTo,
  trusting,
}; // re-exported for serve.ts, which loads this lazily

// ---- Connections as sessions ----

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
export type TCPServerClass = new (...args: any[]) => TCPServer<any>;

/** Shows each connection that a server serves as a session of `plane`, named as the server is. */
export const RecordingMixIn = <Base extends TCPServerClass>(Server: Base, plane: LocalPlane): Base =>
  AcceptedMixIn(Server, plane, ({ secureTransport, serverAddress }) =>
    listenerUrl(secureTransport === "on" ? "tls" : "tcp", serverAddress),
  );

/** Shows each connection of a pool as a session of the plane, named as the pool is. `planeOf` is called when one is open. */
export const recordedPool = (
  Connector: typeof TCPConnector,
  planeOf: () => LocalPlane | null,
): typeof TCPConnector =>
  PooledMixIn(Connector, ({ name: handler, endpoint }, socket, over) =>
    planeOf()?.pooled({ handler, address: formatAddress(endpoint) }, socket, over),
  );

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type DatagramServerClass = abstract new (...args: any[]) => BaseServer<Datagram, any>;

/** Passes the datagrams that a server receives and sends to `recorder`. */
export const WatchedDatagramsMixIn = <Base>(Server: Base, recorder: Recorder): Base => {
  abstract class WatchedServer extends (Server as DatagramServerClass) {
    protected override arrive(request: Datagram, clientAddress: Address | null, admitted?: boolean): void {
      if (!recorder.on) {
        super.arrive(request, clientAddress, admitted);
        return;
      }
      const at = this.serverAddress;
      const address = at === null ? this.name : listenerUrl(at.family === "unix" ? "unix" : "udp", at);
      recorder.datagram(this.name, address, clientAddress, request.data, false);
      const post = (data: Data): number => {
        const bytes = toBytes(data);
        request.reply(bytes);
        recorder.datagram(this.name, address, clientAddress, bytes, true);
        return bytes.length;
      };
      const shown = new ServedDatagram(request.data, request.address, { post }, request.truncated);
      if (request.proxy !== null) cameThrough(shown, request.proxy);
      super.arrive(shown, clientAddress, admitted);
    }
  }
  Object.defineProperty(WatchedServer, "name", { value: (Server as { readonly name?: string }).name });
  return WatchedServer as Base;
};

// ---- The control routes over HTTP ----

export const CONTROL_PORT = 7100; // beside the examples, which are on 7007 to 7084
const CLOSE_GRACE = 1_000; // ms for answers under way to end, once all sessions are over

/** Where the control routes are served, and to whom. */
export interface ControlOptions {
  /** The port; 0 lets the system choose. Default 7100 or, if that is in use, one that the system chooses. */
  readonly port?: number;
  /** An address of this machine's loopback. Default 127.0.0.1. */
  readonly host?: string;
  /** Serve the inspector's page at `/inspect` (`socklet/inspector`). Default false. */
  readonly inspect?: boolean;
  /** A descriptor that listens on this machine's loopback, to serve on instead of a port of its own. */
  readonly fd?: number | undefined;
  /** The valid tokens, in the form of `SOCKLET_TOKENS`. Default: that environment variable; if it is not set, a token is generated. */
  readonly tokens?: string;
}

/** The control routes, served. */
export interface ControlServer {
  /** What `controlClient` takes: `http://127.0.0.1:7100`; the routes are under `/v1`. */
  readonly url: string;
  /** The generated token; `null` if tokens were given. The page of `inspect` takes it as `/inspect#token=…`. */
  readonly token: string | null;
}

/** `host` as the address to listen on. Throws `TypeError` if it is not this machine's loopback. */
const loopback = (host: string): string => {
  const packed = packAddress(host);
  if (packed === null || !isLoopback(packed)) {
    throw new TypeError(
      `the control routes are served only on a loopback address, such as 127.0.0.1 or ::1, not on ${host}`,
    );
  }
  return inetNtop(packed.length === 4 ? AF_INET : AF_INET6, packed);
};

/**
 * Whether a Host header names this machine's loopback. A hostile site can let its own name resolve to
 * 127.0.0.1 ("DNS rebinding"), and its requests then count as same-origin; their Host is that name.
 */
const namesLoopback = (host: string | undefined): boolean => {
  const name = URL.parse(`http://${host ?? ""}`)?.hostname.replace(/^\[(.*)\]$/, "$1") ?? "";
  if (name === "localhost" || name.endsWith(".localhost")) return true; // RFC 6761 section 6.3
  const packed = packAddress(name);
  return packed !== null && isLoopback(packed);
};

/** Only the control plane needs these; servers without it start without them. */
const routeModules = () =>
  Promise.all([
    import("@hono/node-server"),
    import("../../../core/control/http/routes.ts"),
    import("../../../core/control/http/recording-routes.ts"),
  ]);

/** Loads what `serveControl()` needs. That takes time, and no connected client should have to wait for it. */
export const loadRoutes = async (): Promise<void> => void (await routeModules());

/** Control routes that are served. */
export interface ServedRoutes {
  readonly url: string;
  /** The descriptor that they are served on. */
  readonly fd: number;
  /** Stops accepting, and finishes the responses under way: another process serves there now. */
  handOver(): void;
  close(): Promise<void>;
}

/**
 * Serves the control routes over `plane`. Rejects with `EADDRINUSE` and `EADDRNOTAVAIL`, throws `TypeError` for a
 * host that is not loopback. `close()` when all sessions are over.
 */
export const serveControl = async (
  plane: ControlPlane,
  tokens: string,
  { port, host = "127.0.0.1", fd, inspect = false }: ControlOptions,
  onError: (error: unknown) => void,
): Promise<ServedRoutes> => {
  const hostname = loopback(host);
  const [{ getRequestListener }, { controlRoutes }, { recordingRoutes }] = await routeModules();
  const routes = controlRoutes({ plane, tokens, openApi, onError }, recordingRoutes);
  if (inspect) (await import("../../../core/inspector/inspector.ts")).inspector(routes);
  const listener = getRequestListener(
    (request, env) => {
      if (namesLoopback(env.incoming.headers.host)) return routes.fetch(request, env);
      const message =
        "only requests to a loopback address are accepted, and the Host header has another name";
      return problemResponse(new HttpError(403, "ERR_REFUSED", message), crypto.randomUUID());
    },
    { overrideGlobalObjects: false }, // a library does not replace the process's own Request and Response
  );
  const server = lazy.http.createServer(listener);
  const answers = new Set<ServerResponse>(); // that are under way
  let answered = Promise.withResolvers<void>();
  server.on("request", (_, answer) => {
    answers.add(answer);
    answer.once("close", () => {
      answers.delete(answer);
      answered.resolve();
      answered = Promise.withResolvers();
    });
  });
  const at = { host: hostname, port: port ?? CONTROL_PORT };
  await listen(server, fd === undefined ? at : { fd }).catch((error) => {
    if (fd !== undefined || port !== undefined || error.code !== "EADDRINUSE") throw error;
    return listen(server, { ...at, port: 0 });
  });
  server.on("error", onError);
  const { address, port: taken } = server.address() as AddressInfo;
  loopback(address); // if a descriptor listens elsewhere
  let closing: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    closing ??= new Promise((resolve) => server.close(() => resolve()));
    return closing;
  };
  return {
    url: `http://${formatAddress({ scheme: undefined, hostname: address, port: taken })}`,
    fd: descriptorOf(server),
    handOver: () => void stop(),
    async close() {
      const closed = stop();
      const over = async (): Promise<void> => {
        while (answers.size > 0) await answered.promise;
      };
      await within(over(), CLOSE_GRACE);
      server.closeAllConnections();
      await closed;
    },
  };
};

/** Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`. */
const listen = (
  server: Server,
  where: { readonly host: string; readonly port: number } | { readonly fd: number },
): Promise<void> =>
  new Promise((resolve, reject) => {
    const at =
      "fd" in where
        ? `descriptor ${where.fd}`
        : formatAddress({ scheme: "tcp", hostname: where.host, port: where.port });
    const failed = (error: Error): void => reject(networkError(error, at));
    server.once("error", failed);
    server.listen({ ...where, exclusive: true }, () => {
      server.removeListener("error", failed);
      resolve();
    });
  });
