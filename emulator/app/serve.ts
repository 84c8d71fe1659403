/** Serves an app's listeners on real sockets. */

import {
  type AnyHandlerClass,
  type App,
  checkPoolOf,
  isApp,
  type Listener,
  type Platform,
} from "../../core/app/app.ts";
import { DONE, type MaybePromise } from "../../core/bytes/data.ts";
import type { Metrics } from "../../core/control/metrics.ts";
import type { ReplayTarget } from "../../core/control/plane.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import { callListener, type OnEvent, type SockletEvent } from "../../core/handlers/events.ts";
import type { AllowList } from "../../core/net/access.ts";
import { type Endpoint, formatAddress, type InternetAddress } from "../../core/net/address.ts";
import { checkOptions, checkTime, MAX_TIMER } from "../../core/options.ts";
import type { AppPools } from "../../core/pool/app-pools.ts";
import { sumOf } from "../../core/pool/sum.ts";
import type { RunOptions } from "../../core/serve/connector.ts";
import type { ServerOptions } from "../../core/serve/server.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { alpnHandlers } from "../../core/sockets/tls/tls.ts";
import { join } from "../builtin.ts";
import { appHandlerFrom } from "../servers/forking/channel/handler-source.ts";
import type { PoolsAt } from "../servers/forking/channel/messages.ts";
import type { Forking } from "../servers/forking/forked-server.ts";
import { SocketFile } from "../servers/socket-file.ts";
import { listenerUrl, TCPServer } from "../servers/tcp.ts";
import { PooledConnector, TCPConnector } from "../sockets/dialling/connector.ts";
import { asRequest, guardConnections } from "../sockets/dialling/ownership.ts";
import { FileStorage } from "../storage.ts";
import {
  DATA,
  type Hosting,
  type Opened,
  REPLACE_NAMES,
  type Replaced,
  SERVE_NAMES,
  type ServeOptions,
  type Serving,
} from "./app-server.ts";
import type { ServedRoutes } from "./control/control.ts";
import type { AppEdge } from "./edge.ts";
import { type AnyServer, naming, type Recorded, serverOf, tlsOf } from "./listener-server.ts";
import { assigned, type ListenDescriptor } from "./listeners/descriptors.ts";
import { filled } from "./listeners/listing.ts";
import { dialledAt, moved, type Placed, together } from "./listeners/places.ts";
import { byKey, sameness, type Version, withContext } from "./versions.ts";

const SESSIONS = ".sessions"; // beside the app's blobs, whose names do not begin with a dot

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

/** The app's pools. Their code is loaded only for apps that have some. */
const poolsOf = async (app: App, Connector: typeof TCPConnector): Promise<AppPools> =>
  new (await import("../../core/pool/app-pools.ts")).AppPools(app, Connector);

const MOST_TRIES = 10; // ports that are tried for listeners that share a declared port, before each gets its own

/** The result of `work`; rejects with the reason of `signal` if that aborts first. */
export const unlessAborted = <T>(work: MaybePromise<T>, signal: AbortSignal | undefined): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>();
  const aborted = (): void => reject(signal?.reason);
  if (signal?.aborted) aborted();
  signal?.addEventListener("abort", aborted);
  return Promise.race([promise, work]).finally(() => signal?.removeEventListener("abort", aborted));
};

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
  let resumed = false; // the lasting sessions
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
  /** What the pools report about themselves, including those of forked children. */
  const poolInfos = (): readonly PoolInfo[] => {
    const children = servers.flatMap((server) => (server as unknown as Partial<Forking>).childPools ?? []);
    return (version.pools?.infos() ?? []).map((own) =>
      children.filter(({ name }) => name === own.name).reduce(sumOf, own),
    );
  };
  /** The connector class for an entry of `dial`, with its fault rules. */
  const dialling = (name: string | undefined): typeof TCPConnector =>
    faults === null || name === undefined ? Connector : faults.dialling(Connector, name);
  const recorder = parts === undefined ? undefined : new parts.Recorder(hosting.sink);
  /** Where a conversation can be replayed: a listener of the app, an entry of its `dial`, or an address that its rules allow. */
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
  /** Continues the lasting sessions, if the app has an entry with `keep`: those of another app in the same folder are left alone. */
  const resume = async (): Promise<void> => {
    if (resumed || plane === null || !lasts(version.app)) return;
    resumed = true;
    await plane.resume().catch(tellControl); // another process has them, or they cannot be read: the rest is served
  };
  let delayed: Promise<void> | undefined; // the drain delay, once a close is requested
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
    await routes?.close(); // last: draining requests can still be listed, and ended
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
  /** Opens one listener of a version, with `anyPort` at this port. Returns its server. */
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
    // Children of a new version get the addresses when all of its listeners are open.
    if (listener.serve === "forking")
      (server as unknown as Forking).poolsAt = of === version ? poolsAt : null;
    servers.push(server);
    const at = await unlessAborted(server.listen(), signal);
    if (descriptor?.removePath && at?.family === "unix") owned.push(new SocketFile(at.path).own());
    open.set(listener, server);
    return server;
  };
  /** Opens the listeners that share a port in the app: with `anyPort`, all at the same one. */
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
  /** Gives the control plane the version that is served. */
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
