/** Serves an app's listeners on real sockets. */

import type { AsyncLocalStorage } from "node:async_hooks";
import {
  type AnyHandlerClass,
  type App,
  checkPoolOf,
  isApp,
  type Listener,
  type Platform,
} from "../../core/app/app.ts";
import type { Serving as Serves } from "../../core/app/listener-options.ts";
import { DONE, type MaybePromise } from "../../core/bytes/data.ts";
import type { Metrics } from "../../core/control/metrics.ts";
import type { ReplayTarget } from "../../core/control/plane.ts";
import type { RecordingSink } from "../../core/control/recording/recorder.ts";
import type { LocalPlane } from "../../core/control/sessions/local.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import { callListener, type OnEvent, type SockletEvent } from "../../core/handlers/events.ts";
import type { BaseRequestHandler } from "../../core/handlers/handler.ts";
import type { AllowList } from "../../core/net/access.ts";
import {
  type Address,
  type Endpoint,
  formatAddress,
  type InternetAddress,
  isLoopback,
  packAddress,
} from "../../core/net/address.ts";
import { EDGE_NAMES, type EdgeOptions } from "../../core/net/edge.ts";
import { checkOptions, checkTime, MAX_TIMER, optionNamesOf } from "../../core/options.ts";
import type { AppPools } from "../../core/pool/app-pools.ts";
import { sumOf } from "../../core/pool/sum.ts";
import type { RunOptions } from "../../core/serve/connector.ts";
import type { BaseEndpoint } from "../../core/serve/endpoint.ts";
import type { BaseServer, ServerInfo, ServerOptions } from "../../core/serve/server.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { alpnHandlers, type CertificateOptions, type ServerTlsOptions } from "../../core/sockets/tls/tls.ts";
import { inspect, join, lazy } from "../builtin.ts";
import { appHandlerFrom } from "../servers/forking/channel/handler-source.ts";
import type { PoolsAt } from "../servers/forking/channel/messages.ts";
import type { Forking } from "../servers/forking/forked-server.ts";
import {
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
} from "../servers/forking/servers.ts";
import { SocketFile } from "../servers/socket-file.ts";
import { listenerUrl, TCPServer, ThreadingTCPServer } from "../servers/tcp.ts";
import { ThreadingUDPServer, UDPServer } from "../servers/udp.ts";
import {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  UnixStreamServer,
} from "../servers/unix.ts";
import { PooledConnector, TCPConnector } from "../sockets/dialling/connector.ts";
import { asRequest, guardConnections } from "../sockets/dialling/ownership.ts";
import { FileStorage } from "../storage.ts";
import type { ControlOptions, ControlServer, ServedRoutes, TCPServerClass } from "./control/control.ts";
import { assigned, type ListenDescriptor } from "./descriptors.ts";
import type { AppEdge } from "./edge.ts";
import type { AppFaults } from "./faults.ts";
import { filled } from "./listing.ts";

const DATA = ".socklet/data";
const SESSIONS = ".sessions"; // beside the app's blobs, whose names do not begin with a dot

/** How to serve an app. */
export interface ServeOptions {
  /** Listen on this host instead of each listener's own. Entries of the app's `dial` that lead to its own listeners lead there, too. */
  readonly host?: string;
  /** Listen on ports that the system chooses instead of each listener's own. Listeners that share a port still do, and `dial` follows, as with `host`. */
  readonly anyPort?: boolean;
  /** The folder of the app's storage, and of lasting sessions (`keep`), which continue when an app is served with it again. Default `.socklet/data`. */
  readonly data?: string;
  /** The URL of the module that exports the app as `app`, for the children of forking listeners to import. Required if the app has one. */
  readonly module?: string;
  /** Use this certificate at every listener with TLS, instead of its own. */
  readonly certificate?: CertificateOptions | undefined;
  readonly onEvent?: OnEvent;
  /** How long `close()` lets running requests continue, in milliseconds. Default 10 000. */
  readonly drainTimeout?: number;
  /**
   * How long `close()` goes on accepting, in milliseconds, while `GET /v1/ready` already answers 503, so that a load balancer sends
   * its clients elsewhere before the listeners close. Make it at least as long as its checks take to notice. Default 0.
   */
  readonly drainDelay?: number;
  /**
   * Aborted while the listeners are opened, it opens no more. Where none is open yet, `serveApp()` rejects with its reason;
   * else those that are open serve the clients that have connected, until `close()`. Later it does nothing.
   */
  readonly signal?: AbortSignal;
  /**
   * Holds the listener's name as its store while a handler runs, and in everything that it starts, so that a callback for
   * `unhandledRejection` of `process` can say which listener it came from. Does not cover handlers in child processes. Default:
   * none, since it costs each request a little.
   */
  readonly handlerName?: AsyncLocalStorage<string> | undefined;
  /**
   * Whether a connection dialled in one request fails with `ERR_UNSUPPORTED` in another, as it does in a Worker; pools are exempt. It
   * costs each request a little, and applies to connections dialled outside all requests in the same process, too. Default `false`.
   */
  readonly guardConnections?: boolean;
  /**
   * Enforces the rules of Cloudflare's edge, which docs/edge.md lists: whatever breaks one fails with an error that names it, and is
   * reported as an `edge` event. In the children of a forking listener only `other-request` is enforced. Default: not enforced.
   */
  readonly edge?: EdgeOptions;
  /** Descriptors that are already bound or listening, from systemd or a previous program, for listeners to use instead of binding. Default: none. */
  readonly descriptors?: readonly ListenDescriptor[];
  /** 48 random bytes, from which each listener with TLS that has no `ticketKeys` derives its own: apps served with the same bytes resume each other's sessions. Default: new ones for each listener at each start. */
  readonly ticketKeys?: Uint8Array | undefined;
  /** Serve the control routes, too, and show each connection there as a session. Default: neither. */
  readonly control?: ControlOptions;
}

const CONTROL_NAMES = optionNamesOf<ControlOptions>("serveApp()'s control")({
  port: true,
  host: true,
  tokens: true,
  inspect: "boolean",
  fd: true,
});
const REPLACE_NAMES = optionNamesOf<{ readonly module?: string }>()({ module: true });
export const SERVE_NAMES = optionNamesOf<ServeOptions>("serveApp()")({
  host: true,
  anyPort: "boolean",
  data: true,
  module: true,
  certificate: true,
  onEvent: true,
  drainTimeout: true,
  drainDelay: true,
  signal: true,
  handlerName: true,
  guardConnections: "boolean",
  edge: EDGE_NAMES,
  descriptors: true,
  ticketKeys: true,
  control: CONTROL_NAMES,
});

/** One open listener. */
export interface Serving {
  readonly name: string;
  /** `tcp://127.0.0.1:7007`, `unix:/run/name`. */
  readonly url: string;
  /** How it takes its requests. */
  readonly serve: Serves;
  /** The command to try it with, filled in. */
  readonly try: string | undefined;
  /** The info of its server; if it forks, including its children (`ForkingInfo`). */
  info(): ServerInfo;
}

/** What `replace()` did to the listeners, by their URLs. */
export interface Replaced {
  readonly opened: readonly string[];
  readonly closed: readonly string[];
  /** Closed and opened again, because their options or the name of their handler changed. */
  readonly reopened: readonly string[];
}

/** A served app. */
export interface AppServer extends AsyncDisposable {
  readonly listeners: readonly Serving[];
  /** Where the control routes are served; `null` if they were not asked for. */
  readonly control: ControlServer | null;
  /** Stops being ready. After `drainDelay` it stops accepting, ends the dialled sessions, drains, and closes everything, the control routes last. */
  close(): Promise<void>;
  /**
   * Like `close()`, when another process listens on the same descriptors: stops accepting, serves everything that has come, and
   * ends what is not over within `drainTimeout`. `released` is called when lasting sessions are stored and another process may
   * continue them.
   */
  handOver(released?: () => void): Promise<void>;
  /** The descriptors that it listens on, for the `descriptors` option of another process; that of the control routes is named `control`. */
  descriptors(): readonly ListenDescriptor[];
  /** Reads the files of all certificates again, as a listener also does by itself when they change; returns how many listeners have TLS. Errors are reported as `certificate`. */
  reload(): number;
  /**
   * Serves another version of the app from now on: new connections get its handlers, and what its `context()` makes; those
   * that run go on with theirs. A listener that both versions have, with the same options, is not touched. One that the new
   * version adds is opened, one that it drops accepts no more; one whose options changed is closed and opened again.
   * `module` is where the children of a forking listener find the new version. Rejects as `serveApp()`, and then the former
   * version goes on. Calls one after the other: a call waits for the one before.
   */
  replace(app: App, options?: { readonly module?: string }): Promise<Replaced>;
  /** Ends running requests at once, and the `drainDelay` of a close. */
  abort(): void;
}

/** Turns a server class into one whose connections are sessions, and whose datagrams are recorded. */
export interface Recorded {
  streams<Server extends TCPServerClass>(Server: Server): Server;
  datagrams<Server>(Server: Server): Server;
}
/** Leaves server classes unchanged. */
export const NOT_RECORDED: Recorded = { streams: (Server) => Server, datagrams: (Server) => Server };

const SERVERS = {
  "tcp streams": { serial: TCPServer, threading: ThreadingTCPServer, forking: ForkingTCPServer },
  "udp datagrams": { serial: UDPServer, threading: ThreadingUDPServer, forking: ForkingUDPServer },
  "unix streams": {
    serial: UnixStreamServer,
    threading: ThreadingUnixStreamServer,
    forking: ForkingUnixStreamServer,
  },
  "unix datagrams": {
    serial: UnixDatagramServer,
    threading: ThreadingUnixDatagramServer,
    forking: ForkingUnixDatagramServer,
  },
} as const;

type AnyServer<Context> = BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context>;
// biome-ignore lint/suspicious/noExplicitAny: which handler and options fit which server `defineApp` has checked
type AnyServerClass<Context> = new (endpoint: Endpoint, handler: any, options: any) => AnyServer<Context>;

/** Runs each handler with the server's name as the store of `names`. */
const naming = <Base>(Server: Base, names: AsyncLocalStorage<string> | undefined): Base => {
  if (names === undefined) return Server;
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  abstract class Naming extends (Server as abstract new (...args: any[]) => BaseEndpoint<unknown>) {
    override finishRequest(request: unknown, clientAddress: Address | null): unknown {
      return names?.run(this.name, () => super.finishRequest(request, clientAddress));
    }
  }
  Object.defineProperty(Naming, "name", { value: (Server as { readonly name?: string }).name }); // which messages say
  return Naming as Base;
};

/** Runs each handler as its own request, to which the connections that it dials belong; `began` gets the object that stands for it. */
const guarding = <Base>(
  Server: Base,
  guarded: boolean | undefined,
  began: (owner: object, server: string) => void = () => {},
): Base => {
  if (!guarded) return Server;
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  abstract class Guarding extends (Server as abstract new (...args: any[]) => BaseEndpoint<unknown>) {
    override finishRequest(request: unknown, clientAddress: Address | null): unknown {
      began(request as object, this.name);
      return asRequest(request as object, () => super.finishRequest(request, clientAddress));
    }
  }
  Object.defineProperty(Guarding, "name", { value: (Server as { readonly name?: string }).name });
  return Guarding as Base;
};

/** The connector class for the app's sessions, each of which is its own request. */
const sessionConnector = (edge: AppEdge | null): typeof TCPConnector => {
  class SessionConnector<Context, Params> extends TCPConnector<Context, Params> {
    override run(options?: RunOptions<StreamSocket, Params>): Promise<unknown> {
      const owner = {};
      edge?.hold(owner, this.name);
      return asRequest(owner, () => super.run(options));
    }
  }
  return (edge?.session(SessionConnector as typeof TCPConnector) ?? SessionConnector) as typeof TCPConnector;
};

const TICKET_KEYS = 48; // bytes; Node's

/** The ticket keys of one listener. Each listener has its own, and new ones if it requires more of its clients, because a client that resumes a session is not checked again. */
const ticketKeysOf = (master: Uint8Array, { name, endpoint, options }: Listener): Uint8Array => {
  const { clientCertificate, ca, crl, alpn } = options.tls ?? {};
  const what = JSON.stringify([name, formatAddress(endpoint), clientCertificate, ca, crl, alpn]);
  return new Uint8Array(lazy.crypto.hkdfSync("sha256", master, "socklet ticket keys", what, TICKET_KEYS));
};

/** The TLS options of a listener's server: with the handlers that ALPN may choose, and with another certificate if one is given. Throws `ERR_APP`. */
export const tlsOf = <Context>(
  listener: Listener<Context>,
  { certificate, ticketKeys }: Pick<ServeOptions, "certificate" | "ticketKeys">,
  handlerOf: (name: string) => unknown,
): { readonly tls?: ServerTlsOptions } => {
  const { name, endpoint, options } = listener;
  const { tls = {}, secureTransport } = options;
  const secured =
    endpoint.scheme === "tls" || options.tls !== undefined || (secureTransport ?? "off") !== "off";
  if (!secured) return {};
  if (certificate === undefined && tls.cert === undefined && tls.serverNames === undefined) {
    const said = `the listener "${name}" at ${formatAddress(endpoint)} needs TLS, and has no certificate`;
    const remedy =
      "give its options tls: { cert, key }, or in development serve it by socklet serve --tls self-signed";
    throw new SocketError("ERR_APP", `${said}: ${remedy}`);
  }
  const { passphrase: _, serverNames: __, cert: ___, key: ____, ...others } = tls;
  const whole = {
    ...(ticketKeys && { ticketKeys: ticketKeysOf(ticketKeys, listener as Listener) }),
    ...(certificate === undefined ? tls : { ...others, ...certificate }),
  };
  const handlers = alpnHandlers(tls).map(([protocol, spoken]) => [protocol, handlerOf(spoken)] as const);
  return { tls: handlers.length === 0 ? whole : { ...whole, alpn: Object.fromEntries(handlers) } };
};

export const serverOf = <Context>(
  { name, handler, endpoint, carries, serve }: Listener<Context>,
  options: ServerOptions<Context>,
  recorded: Recorded,
  { module, data = DATA, handlerName, guardConnections: guarded }: ServeOptions,
  ruled: <Server>(Server: Server) => Server = (Server) => Server,
  edge: AppEdge | null = null,
): AnyServer<Context> => {
  const scheme = endpoint.scheme === "tls" ? "tcp" : endpoint.scheme;
  const Server = SERVERS[`${scheme} ${carries}` as keyof typeof SERVERS][serve];
  const Recorded = (
    carries === "datagrams" ? Server : recorded.streams(Server as typeof TCPServer)
  ) as AnyServerClass<Context>;
  if (serve !== "forking") {
    const Watched = carries === "datagrams" ? recorded.datagrams(ruled(Recorded)) : ruled(Recorded);
    const began = edge === null ? undefined : edge.hold.bind(edge);
    const Served = guarding(naming(Watched, handlerName), guarded || edge !== null, began);
    return new Served(endpoint, handler, options);
  }
  if (module === undefined) {
    const said = `the listener "${name}" forks: give serveApp() the app's \`module\`, which its children import`;
    throw new SocketError("ERR_APP", said);
  }
  const { context: _, ...own } = options; // each child makes its own
  const Forking = carries === "datagrams" ? recorded.datagrams(Recorded) : Recorded;
  return new Forking(
    endpoint,
    appHandlerFrom(module, name, data, guarded || edge?.holds("other-request")),
    own,
  );
};

/** A connector for one entry of `dial`, with its fault rules. */
const faultyConnector = (
  Connector: typeof TCPConnector,
  faults: AppFaults,
  name: string,
): typeof TCPConnector => {
  class FaultyConnector<Context, Params> extends Connector<Context, Params> {
    protected override async createConnection(
      ...given: Parameters<TCPConnector["createConnection"]>
    ): Promise<StreamSocket> {
      return faults.dialled(await super.createConnection(...given), name);
    }
  }
  return FaultyConnector as typeof TCPConnector;
};

/** One version of a served app, with the context of its handlers. */
interface Version<Context> {
  readonly app: App<Context>;
  readonly context: Context;
  readonly pools: AppPools | null;
  readonly module: string | undefined;
}

/** `Handler`, with this context instead of its server's. */
const withContext = (Handler: AnyHandlerClass<never>, context: unknown): AnyHandlerClass<never> => {
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  class Versioned extends (Handler as new (...args: any[]) => BaseRequestHandler<unknown>) {
    override get context(): unknown {
      return context;
    }
  }
  Object.defineProperty(Versioned, "name", { value: Handler.name });
  return Versioned as unknown as AnyHandlerClass<never>;
};

/** What identifies a listener across two versions of an app: where it is, how it serves, and all its options. */
const sameness = ({ name, endpoint, carries, serve, options }: Listener<never>): string =>
  inspect([name, formatAddress(endpoint), carries, serve, options], {
    depth: Number.POSITIVE_INFINITY,
    maxArrayLength: null,
    maxStringLength: null,
  });

/** The listeners of `all` by key; several with the same key are distinguished by their position. */
const byKey = <Context>(
  all: Iterable<Listener<Context>>,
  keyOf: (listener: Listener<never>) => string,
): Map<string, Listener<Context>> => {
  const found = new Map<string, Listener<Context>>();
  for (const listener of all) {
    let key = keyOf(listener as unknown as Listener<never>);
    while (found.has(key)) key += "+"; // several on port 0
    found.set(key, listener);
  }
  return found;
};

/** The app's pools. Their code is loaded only for apps that have some. */
const poolsOf = async (app: App, Connector: typeof TCPConnector): Promise<AppPools> =>
  new (await import("../../core/pool/app-pools.ts")).AppPools(app, Connector);

/** An open listener: where the app declared it, and where it is. */
interface Placed {
  readonly declared: Endpoint;
  readonly at: Address | null;
}

const MOST_TRIES = 10; // ports that are tried for listeners that share a declared port, before each gets its own

/** Listeners in groups that must share a port: those with the same declared port, with `anyPort`; else each is alone. */
export const together = <Context>(
  all: readonly Listener<Context>[],
  { anyPort, host }: Pick<ServeOptions, "anyPort" | "host">,
): Listener<Context>[][] => {
  const groups: { readonly port: number; readonly places: Set<string>; readonly of: Listener<Context>[] }[] =
    [];
  for (const listener of all) {
    const { endpoint } = listener;
    const port = endpoint.scheme === "unix" ? 0 : endpoint.port;
    // Two that cannot share a port are not kept together.
    const place = endpoint.scheme === "unix" ? "" : `${endpoint.scheme}://${host ?? endpoint.hostname}`;
    const group = anyPort && port !== 0 && groups.find((one) => one.port === port && !one.places.has(place));
    if (group) {
      group.places.add(place);
      group.of.push(listener);
    } else groups.push({ port, places: new Set([place]), of: [listener] });
  }
  return groups.map(({ of }) => of);
};

/** A host in its canonical spelling. */
const hostKey = (host: string): string => String(packAddress(host) ?? host.toLowerCase());
const LOCALHOST: readonly string[] = ["localhost", "127.0.0.1", "::1"].map(hostKey);

/** Every address of this machine. */
const isAny = (host: string): boolean =>
  host === "" || packAddress(host)?.every((byte) => byte === 0) === true;

/** Whether a connection to `to` reaches a listener on `at`. */
const leadsTo = (to: Endpoint, at: Endpoint): boolean => {
  if (to.scheme === "unix" || at.scheme === "unix" || at.scheme === "udp" || to.port !== at.port)
    return false;
  const [dialled, listening] = [hostKey(to.hostname), hostKey(at.hostname)];
  if (dialled === listening) return true;
  const local = LOCALHOST.includes(dialled);
  if (isAny(at.hostname)) return local || (packAddress(to.hostname) !== null && isLoopback(to.hostname));
  return local && LOCALHOST.includes(listening) && (dialled === "localhost" || listening === "localhost");
};

/** Where an entry of the app's `dial` leads now that the listeners are open: the actual address, if it is one of them. */
const moved = (to: Endpoint, placed: readonly Placed[], host: string | undefined): Endpoint => {
  const at = placed.find(({ declared }) => leadsTo(to, declared))?.at;
  if (to.scheme === "unix" || at == null || at.family === "unix") return to;
  const hostname = host === undefined || isAny(at.hostname) ? to.hostname : at.hostname;
  return { ...to, hostname, port: at.port };
};

/** The result of `work`; rejects with the reason of `signal` if that aborts first. */
export const unlessAborted = <T>(work: MaybePromise<T>, signal: AbortSignal | undefined): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>();
  const aborted = (): void => reject(signal?.reason);
  if (signal?.aborted) aborted();
  signal?.addEventListener("abort", aborted);
  return Promise.race([promise, work]).finally(() => signal?.removeEventListener("abort", aborted));
};

/** Where this process dials a listener of its own. */
const dialledAt = (declared: Endpoint, at: Address | null): Endpoint => {
  if (at === null || at.family === "unix" || declared.scheme === "unix") return declared;
  const { family, port } = at;
  const hostname = isAny(at.hostname) ? (family === "IPv6" ? "::1" : "127.0.0.1") : at.hostname;
  return { ...declared, hostname, port };
};

/** Options for a process of a cluster, or for one that takes over from another. */
export interface Hosting {
  /** Has a control plane, but no routes. */
  readonly plane?: { readonly secrets: readonly string[] };
  /** Whether lasting sessions are stored and continued. Default `true`. */
  readonly keeps?: boolean;
  /** Resolves when the process that has them now releases them. Default: no other process has them. */
  readonly after?: Promise<void>;
  /** The listeners of the descriptors, by their position in the app's list, if known. */
  readonly places?: readonly number[];
  /** Receives everything that passes over the app's connections, from the first one on. Needs `control`. */
  readonly sink?: RecordingSink | undefined;
  /** Called with descriptors that no listener is for. Default: they are an error. */
  readonly spare?: (descriptor: ListenDescriptor) => void;
}

/** A served app, and its control plane. */
export interface Opened extends AppServer {
  readonly plane: LocalPlane | null;
  /** How many of its listeners have TLS. */
  readonly secured: number;
}

/** The descriptors of `options` by listener. */
export const givenTo = <Context>(
  app: App<Context>,
  descriptors: readonly ListenDescriptor[] = [],
  { places, spare }: Hosting = {},
): Map<Listener<Context>, ListenDescriptor> =>
  places === undefined
    ? assigned(app.listeners, descriptors, spare)
    : new Map(
        places.map((at, i) => [app.listeners[at] as Listener<Context>, descriptors[i] as ListenDescriptor]),
      );

/** Throws `ERR_APP` if `app` is not an app, or neither listens nor dials. */
export const checkServed = (app: unknown): void => {
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  if (app.listeners.length === 0 && Object.keys(app.dial).length === 0)
    throw new SocketError("ERR_APP", "the app listens nowhere: give defineApp() a `listen`");
};

/** Implements `serveApp()`; `hosting` is for one process of several. */
export const openApp = async <Context>(
  declared: App<Context>,
  options: ServeOptions = {},
  hosting: Hosting = {},
): Promise<Opened> => {
  checkOptions("serveApp()", options, SERVE_NAMES);
  checkServed(declared);
  const { onEvent, drainTimeout, control, signal } = options;
  const drainDelay = checkTime("drainDelay", options.drainDelay ?? 0, 0);
  const { keeps = true, after } = hosting;
  signal?.throwIfAborted();
  const parts = control || hosting.plane ? await import("./control/control.ts") : undefined; // servers without it do not load it
  const access = control && parts?.controlTokens(control);
  const secrets = access?.secrets ?? hosting.plane?.secrets;
  if (control) await parts?.loadRoutes(); // before a client can connect, which would wait for it
  const told = parts === undefined || secrets === undefined ? null : new parts.ListenerLog(secrets);
  const tell =
    told === null
      ? onEvent
      : (event: SockletEvent): void => {
          told.tell(event);
          if (onEvent !== undefined) callListener(onEvent, event);
        };
  const edge =
    options.edge === undefined
      ? null
      : new (await import("./edge.ts")).AppEdge(options.edge, (event) => tell?.(event));
  const app = edge?.served(declared) ?? declared;
  const given = givenTo(app, options.descriptors, hosting);
  if (options.guardConnections || edge !== null) guardConnections();
  const Connector = naming(sessionConnector(edge), options.handlerName);
  const AtEdge = edge?.pooled(PooledConnector) ?? PooledConnector;
  const Pooled = parts?.recordedPool(AtEdge, () => plane) ?? AtEdge;
  const made = async (app: App<Context>, module: string | undefined): Promise<Version<Context>> => {
    const pools =
      Object.keys(app.pools).length === 0
        ? null
        : await poolsOf(app as App, naming(Pooled, options.handlerName));
    const pool: Platform["pool"] =
      pools?.client ?? ((name, Handler) => checkPoolOf(app as App, name, Handler) as never);
    const context = await unlessAborted(
      app.context({
        name: "node",
        bindings: process.env,
        storage: new FileStorage(options.data ?? DATA),
        pool: edge?.pool(pool) ?? pool,
      }),
      signal,
    );
    return { app, context, pools, module };
  };
  let version = await made(app, options.module);
  const former: AppPools[] = []; // of former versions, whose handlers may still run
  const tellControl = (error: unknown): void => {
    if (onEvent !== undefined)
      callListener(onEvent, { type: "error", server: "control", address: null, error });
  };
  const lasts = ({ dial }: App<Context>): boolean => Object.values(dial).some(({ keep }) => keep !== null);
  let resumed = false; // the sessions that last
  let replacing: Promise<unknown> = DONE;
  const servers: AnyServer<Context>[] = []; // opened, or about to be
  const open = new Map<Listener<Context>, AnyServer<Context>>();
  const listeners: Serving[] = [];
  const placed: Placed[] = [];
  let poolsAt: PoolsAt | null = null; // for forked children
  const shown = { ...app }; // to the control plane: `dial` as it is once the listeners are where they are
  const metrics = parts && new parts.Metrics();
  const faulty =
    app.listeners.some(({ faults }) => faults.length > 0) ||
    Object.values(app.dial).some(({ faults }) => faults.length > 0);
  const faults =
    faulty || parts !== undefined
      ? new (await import("./faults.ts")).AppFaults(app as App, (event) => counted(event.server)?.(event))
      : null;
  /** What the pools say of themselves, with those of forked children. */
  const poolInfos = (): readonly PoolInfo[] => {
    const children = servers.flatMap((server) => (server as unknown as Partial<Forking>).childPools ?? []);
    return (version.pools?.infos() ?? []).map((own) =>
      children.filter(({ name }) => name === own.name).reduce(sumOf, own),
    );
  };
  /** The class of what dials an entry of `dial`, with its rules of faults. */
  const dialling = (name: string | undefined): typeof TCPConnector =>
    faults === null || name === undefined ? Connector : faultyConnector(Connector, faults, name);
  const recorder = parts === undefined ? undefined : new parts.Recorder(hosting.sink);
  /** Where something can be said again: a listener of the app, an entry of its `dial`, or where its rules allow. */
  const targetOf = (
    to: string,
    allow: AllowList,
    from: typeof import("./control/control.ts"),
  ): ReplayTarget => {
    const at = [...open].find(([{ name }]) => name === to);
    if (at !== undefined) {
      const [listener, server] = at;
      const endpoint = dialledAt(listener.endpoint, server.serverAddress);
      const certificate = server instanceof TCPServer ? server.certificate : null;
      if (certificate === null || endpoint.scheme !== "tls") return { endpoint };
      return { endpoint, tls: from.trusting(certificate, endpoint.hostname) };
    }
    return from.replayTarget(shown as unknown as App, to, allow);
  };
  const plane =
    parts === undefined || secrets === undefined || told === null
      ? null
      : new parts.LocalPlane({
          app: shown as unknown as App,
          secrets,
          log: told,
          archive: keeps ? new parts.FileArchive(join(options.data ?? DATA, SESSIONS), after) : undefined,
          onArchiveError: tellControl,
          listeners: () =>
            listeners.map(({ name, url, serve, info }) => parts.listenerInfo(name, url, serve, info())),
          metrics: (dialled) =>
            (metrics as Metrics).text(
              listeners.map(({ name, url, serve, info }) => parts.listenerInfo(name, url, serve, info())),
              [parts.dialledSessions(dialled), ...parts.poolFamilies(poolInfos()), ...parts.processMetrics()],
            ),
          faults: faults ?? undefined,
          recorder,
          ...(recorder && {
            replay: async (spec, allow) => parts.replayTo(targetOf(spec.to, allow, parts), spec),
            entries: () =>
              parts.entriesOf(
                listeners.map(({ name, url, serve }) => ({
                  entry: name,
                  address: url,
                  faults: serve !== "forking",
                })),
                shown.dial,
                true,
              ),
          }),
          poolInfos,
          ready: () => (delayed === undefined ? [] : ["this process is ending"]),
          connector: ({
            dial: name,
            handler,
            HandlerClass,
            endpoint,
            connectTimeout,
            secureTransport,
            tls,
            proxyHeader,
          }) =>
            new (dialling(name))<Context>(endpoint, HandlerClass, {
              name: handler,
              context: version.context,
              connectTimeout,
              secureTransport,
              ...(tls !== undefined && { tls }),
              proxyHeader,
              onEvent,
            }),
        });
  /** `tell`, counted for one listener. */
  const counted = (name: string): OnEvent | undefined => {
    if (metrics === undefined) return tell;
    const count = metrics.listener(name);
    return (event) => {
      count(event);
      tell?.(event);
    };
  };
  const recorded: Recorded = {
    streams: (Server) =>
      parts === undefined || plane === null ? Server : parts.RecordingMixIn(Server, plane),
    datagrams: (Server) =>
      parts === undefined || recorder === undefined ? Server : parts.WatchedDatagramsMixIn(Server, recorder),
  };
  /** The sessions that last go on, where the app has an entry with `keep`: another app's in the same folder are left alone. */
  const resume = async (): Promise<void> => {
    if (resumed || plane === null || !lasts(version.app)) return;
    resumed = true;
    await plane.resume().catch(tellControl); // another process has them, or they cannot be read: the rest is served
  };
  let delayed: Promise<void> | undefined; // the drain delay, from when a close is asked for
  let endDelay = (): void => {};
  const delay = (): Promise<void> =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, drainDelay);
      endDelay = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  let routes: ServedRoutes | undefined;
  let owned: SocketFile[] = []; // the files of paths that were handed to this process
  const ended = async (end: (server: AnyServer<Context>) => Promise<void>, released?: () => void) => {
    await replacing.catch(() => {}); // what it has opened by then is closed here
    const pools = [...former, ...(version.pools ? [version.pools] : [])];
    for (const one of pools) one.shrink(); // one may lead to a listener of this app, which waits for its connections to end
    faults?.remove(); // what they hold up goes on, and what they planned is cancelled
    await Promise.all([plane?.stop().then(released), ...servers.map(end)]);
    await Promise.all(pools.map((one) => one.close())); // after the handlers that use them
    await plane?.close(); // after all that it records
    told?.end();
    await routes?.close(); // last: what drains can be looked at, and ended
  };
  const close = async (): Promise<void> => {
    delayed ??= drainDelay === 0 ? DONE : delay();
    if (drainDelay > 0) await delayed;
    await shut();
  };
  const shut = async (): Promise<void> => {
    for (const file of owned.splice(0)) file.remove();
    await ended((server) => server.serverClose());
  };
  const handOver = async (released?: () => void): Promise<void> => {
    owned = [];
    routes?.handOver();
    if (plane === null) released?.();
    await ended((server) => server.handOver(), released);
  };
  /** The handler of this name as a listener of this kind serves it. */
  const spoken =
    ({ serve }: Listener<Context>, { app, module }: Version<Context>) =>
    (name: string): unknown =>
      serve === "forking" && module !== undefined
        ? appHandlerFrom(
            module,
            name,
            options.data ?? DATA,
            options.guardConnections || edge?.holds("other-request"),
          )
        : app.handlers[name];
  /** Opens one listener of a version, with `anyPort` at this port; gives its server. */
  const openOne = async (
    listener: Listener<Context>,
    port: number,
    of = version,
  ): Promise<AnyServer<Context>> => {
    const { scheme } = listener.endpoint;
    const descriptor = given.get(listener);
    const endpoint =
      scheme === "unix" || descriptor !== undefined
        ? listener.endpoint
        : {
            ...listener.endpoint,
            ...(options.host !== undefined && { hostname: options.host }),
            ...(options.anyPort && { port }),
          };
    const server = serverOf<Context>(
      { ...listener, endpoint },
      {
        ...listener.options,
        ...tlsOf(listener, options, spoken(listener, of)),
        ...(descriptor && { fd: descriptor.fd }),
        name: listener.name,
        context: of.context,
        onEvent: counted(listener.name),
        drainTimeout,
      } as ServerOptions<Context>,
      recorded,
      { ...options, ...(of.module !== undefined && { module: of.module }) },
      (Server) => faults?.served(Server, listener.name) ?? Server,
      edge,
    );
    // Children of a new version are told when all of its listeners are open.
    if (listener.serve === "forking")
      (server as unknown as Forking).poolsAt = of === version ? poolsAt : null;
    servers.push(server);
    const at = await unlessAborted(server.listen(), signal);
    if (descriptor?.removePath && at?.family === "unix") owned.push(new SocketFile(at.path).own());
    open.set(listener, server);
    return server;
  };
  /** Opens the listeners that share a port in the app: if any port will do, all at the same one. */
  const openTogether = async (group: readonly Listener<Context>[]): Promise<void> => {
    for (let tries = 1; ; tries++) {
      let port = 0;
      try {
        for (const listener of group) {
          const { serverAddress } = await openOne(listener, tries > MOST_TRIES ? 0 : port);
          port = (serverAddress as InternetAddress).port;
        }
        return;
      } catch (error) {
        // The system chose a port that is free for the first of them; for another it is not.
        if (!options.anyPort || port === 0 || (error as SocketError).code !== "EADDRINUSE") throw error;
        const opened = group.flatMap((listener) => open.get(listener) ?? []);
        for (const listener of group) open.delete(listener);
        await Promise.all(opened.map((server) => server.serverClose()));
      }
    }
  };
  /** Lists those that are open, in the app's order. */
  const list = (): void => {
    listeners.length = placed.length = 0;
    for (const listener of version.app.listeners) {
      const server = open.get(listener);
      if (server === undefined) continue;
      const { scheme } = listener.endpoint;
      placed.push({ declared: listener.endpoint, at: server.serverAddress });
      const at = server.serverAddress as InternetAddress | { readonly path: string };
      listeners.push({
        name: listener.name,
        serve: listener.serve,
        url: listenerUrl(
          scheme === "tcp" && server instanceof TCPServer && server.secureTransport === "on" ? "tls" : scheme,
          server.serverAddress,
        ),
        try: filled(listener.try, "path" in at ? { path: at.path } : { host: at.hostname, port: at.port }),
        info: () => server.info(),
      });
    }
  };
  /** Shows the control plane the version that is served. */
  const show = (): void => {
    const dial = Object.entries(version.app.dial).map(([name, entry]) => {
      return [name, { ...entry, endpoint: moved(entry.endpoint, placed, options.host) }];
    });
    Object.assign(shown, version.app, { dial: Object.fromEntries(dial) });
  };
  const dialledBy = (declared: Endpoint): Endpoint => moved(declared, placed, options.host);
  /** Tells the children of forking servers where the pools of the app dial. */
  const tellChildren = ({ pools }: App<Context>): void => {
    const declared = Object.values(pools).map(({ endpoint }) => endpoint);
    const at = Object.fromEntries(declared.map((to) => [formatAddress(to), dialledBy(to)]));
    poolsAt = at;
    for (const [{ serve }, server] of open)
      if (serve === "forking") (server as unknown as Forking).poolsAt = at;
  };
  const openPools = ({ pools, context }: Version<Context>): void => {
    pools?.open({ context, endpoint: dialledBy, onEvent: tell });
  };
  const urlOf = (listener: Listener<Context>): string => {
    const server = open.get(listener);
    const address = server?.serverAddress ?? null;
    return address === null
      ? formatAddress(listener.endpoint)
      : listenerUrl(listener.endpoint.scheme, address);
  };
  const replaceBy = async (declared: App<Context>, module: string | undefined): Promise<Replaced> => {
    if (delayed !== undefined)
      throw new SocketError("EBADF", "the app is being closed; serve the new version anew");
    checkServed(declared);
    const app = edge?.served(declared) ?? declared;
    const next = await made(app, module ?? options.module);
    const before = byKey(open.keys(), sameness);
    const kept = new Map<Listener<Context>, AnyServer<Context>>(); // by the new version's listeners
    const added: Listener<Context>[] = [];
    for (const [key, listener] of byKey(app.listeners, sameness)) {
      const former = before.get(key);
      const server = former && open.get(former);
      if (server === undefined) added.push(listener);
      else kept.set(listener, server);
    }
    const gone = [...open].filter(([, server]) => ![...kept.values()].includes(server));
    const addressOf = ({ endpoint }: Listener<never>): string =>
      formatAddress(endpoint.scheme === "tls" ? { ...endpoint, scheme: "tcp" } : endpoint);
    const inWay = byKey(
      gone.map(([listener]) => listener),
      addressOf,
    );
    const [opened, reopened]: string[][] = [[], []];
    const fresh: AnyServer<Context>[] = [];
    const stopped = new Map<Listener<Context>, number>(); // of the former version, and their ports
    try {
      for (const [key, listener] of byKey(added, addressOf)) {
        const former = inWay.get(key);
        const at = former && open.get(former)?.serverAddress;
        const port = at != null && "port" in at ? at.port : 0;
        if (former !== undefined) {
          stopped.set(former, port);
          open.get(former)?.close(); // its connections go on
        }
        const server = await openOne(listener, port, next);
        fresh.push(server);
        kept.set(listener, server);
        (former === undefined ? opened : reopened)?.push(urlOf(listener));
      }
    } catch (error) {
      for (const listener of added) open.delete(listener);
      await Promise.all(fresh.map((server) => server.serverClose()));
      for (const [listener, port] of stopped) {
        open.delete(listener);
        void (await openOne(listener, port)).serveForever();
      }
      list();
      throw error;
    }
    const closed = gone.filter(([listener]) => !stopped.has(listener)).map(([listener]) => urlOf(listener));
    for (const [, server] of gone) {
      server.close();
      void server.drain(MAX_TIMER).then(() => {
        servers.splice(servers.indexOf(server), 1);
        return server.serverClose();
      });
    }
    // From here on nothing fails, and nothing waits: the next connection gets the new version as a whole.
    if (version.pools !== null) {
      version.pools.shrink();
      former.push(version.pools);
    }
    version = next;
    open.clear();
    for (const listener of app.listeners) open.set(listener, kept.get(listener) as AnyServer<Context>);
    list();
    tellChildren(app); // before those of the new version are started
    for (const [listener, server] of open) {
      if (fresh.includes(server)) continue;
      const given = (name: string): never => {
        const Handler = spoken(listener, next)(name) as AnyHandlerClass<never>;
        return (listener.serve === "forking" ? Handler : withContext(Handler, next.context)) as never;
      };
      if (server instanceof TCPServer)
        server.replaceProtocols(
          alpnHandlers(listener.options.tls).map(([protocol, name]) => [protocol, given(name)]),
        );
      server.RequestHandlerClass = given(listener.name); // last: it replaces a forking server's children, which take both
    }
    show();
    plane?.replaceApp(shown as unknown as App);
    void resume();
    openPools(next);
    for (const server of fresh) void server.serveForever();
    return { opened: opened ?? [], closed, reopened: reopened ?? [] };
  };
  const openAll = async (): Promise<void> => {
    if (hosting.sink !== undefined) recorder?.start();
    try {
      for (const group of together(app.listeners, options)) await openTogether(group);
    } finally {
      list();
    }
    show();
    if (parts !== undefined && plane !== null) {
      const resuming = resume();
      if (after === undefined) await resuming;
      if (access !== undefined)
        routes = await parts.serveControl(plane, access.tokens, control ?? {}, tellControl);
    }
  };
  try {
    await openAll();
  } catch (error) {
    if (!signal?.aborted || open.size === 0) {
      await shut();
      throw error;
    }
  }
  openPools(version);
  tellChildren(version.app);
  for (const server of open.values()) void server.serveForever();
  const withTls = [...open.values()].filter(
    (one) => one instanceof TCPServer && one.secureTransport !== "off",
  );
  return {
    listeners,
    plane,
    secured: withTls.length,
    control: routes && access ? { url: routes.url, token: access.made } : null,
    close,
    handOver,
    descriptors: () => [
      ...[...open].map(([listener, server]) => {
        const removePath = given.get(listener)?.removePath ?? !given.has(listener);
        return { name: listener.name, fd: (server as TCPServer).fileno(), removePath };
      }),
      ...(routes === undefined ? [] : [{ name: "control", fd: routes.fd }]),
    ],
    reload: () => {
      const secured = [...open.values()].filter(
        (server) => server instanceof TCPServer && server.reloadCertificate(),
      );
      return secured.length;
    },
    replace: async (app, options = {}) => {
      checkOptions("replace()", options, REPLACE_NAMES);
      const { module } = options;
      const replaced = replacing.then(
        () => replaceBy(app as App<Context>, module),
        () => replaceBy(app as App<Context>, module),
      );
      replacing = replaced;
      return replaced;
    },
    abort: () => {
      endDelay();
      for (const server of servers) server.abort();
    },
    [Symbol.asyncDispose]: close,
  };
};
