/** Serves an app: its listeners, its pools, the sessions that it dials, and the control routes. */

import { type App, checkPoolOf, isApp, type Listener, type Platform } from "../../core/app/app.ts";
import { DONE } from "../../core/bytes/data.ts";
import type { Metrics } from "../../core/control/metrics.ts";
import type { ReplayTarget } from "../../core/control/plane.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import { callListener, type OnEvent, type SockletEvent } from "../../core/handlers/events.ts";
import type { AllowList } from "../../core/net/access.ts";
import { checkOptions, checkTime } from "../../core/options.ts";
import type { AppPools } from "../../core/pool/app-pools.ts";
import { sumOf } from "../../core/pool/sum.ts";
import type { RunOptions } from "../../core/serve/connector.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { join } from "../builtin.ts";
import { PooledConnector, TCPConnector } from "../sockets/dialling/connector.ts";
import { asRequest, guardConnections } from "../sockets/dialling/ownership.ts";
import { checkFolder, FileStorage } from "../storage.ts";
import {
  checkControl,
  DATA,
  type Hosting,
  type Opened,
  REPLACE_NAMES,
  type Replaced,
  SERVE_NAMES,
  type ServeOptions,
} from "./app-server.ts";
import type { ServedRoutes } from "./control/control.ts";
import type { AppEdge } from "./edge.ts";
import { type AnyServer, naming, type Recorded } from "./listener-server.ts";
import { assigned, type ListenDescriptor } from "./listeners/descriptors.ts";
import { OpenListeners, unlessAborted } from "./open-listeners.ts";
import type { Version } from "./versions.ts";

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
  const { onEvent, control, signal } = options;
  const drainDelay = checkTime("drainDelay", options.drainDelay ?? 0, 0);
  checkFolder("data", options.data ?? DATA);
  const { keeps = true, after } = hosting;
  if (control) checkControl(control);
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
  const first = await made(app, options.module);
  const former: AppPools[] = []; // of former versions, whose handlers may still run
  const tellControl = (error: unknown): void => {
    if (onEvent !== undefined)
      callListener(onEvent, { type: "error", server: "control", address: null, error });
  };
  const lasts = ({ dial }: App<Context>): boolean => Object.values(dial).some(({ keep }) => keep !== null);
  let resumed = false; // the lasting sessions
  let replacing: Promise<unknown> = DONE;
  const shown = { ...app }; // to the control plane: `dial` as it is once the listeners are where they are
  const metrics = parts && new parts.Metrics();
  const faulty =
    app.listeners.some(({ faults }) => faults.length > 0) ||
    Object.values(app.dial).some(({ faults }) => faults.length > 0);
  const faults =
    faulty || parts !== undefined
      ? new (await import("./faults.ts")).AppFaults(app as App, (event) => counted(event.server)?.(event))
      : null;
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
  const listeners = new OpenListeners(first, {
    options,
    given,
    edge,
    recorded,
    ruled: (Server, name) => faults?.served(Server, name) ?? Server,
    onEvent: counted,
  });
  /** What the pools report about themselves, including those of forked children. */
  const poolInfos = (): readonly PoolInfo[] => {
    const children = listeners.childPools();
    return (listeners.version.pools?.infos() ?? []).map((own) =>
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
    const at = listeners.named(to);
    if (at !== undefined) {
      const { endpoint, certificate } = at;
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
            listeners.list.map(({ name, url, serve, info }) => parts.listenerInfo(name, url, serve, info())),
          metrics: (dialled) =>
            (metrics as Metrics).text(
              listeners.list.map(({ name, url, serve, info }) =>
                parts.listenerInfo(name, url, serve, info()),
              ),
              [parts.dialledSessions(dialled), ...parts.poolFamilies(poolInfos()), ...parts.processMetrics()],
            ),
          faults: faults ?? undefined,
          recorder,
          ...(recorder && {
            replay: async (spec, allow) => parts.replayTo(targetOf(spec.to, allow, parts), spec),
            entries: () =>
              parts.entriesOf(
                listeners.list.map(({ name, url, serve }) => ({
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
              context: listeners.version.context,
              connectTimeout,
              secureTransport,
              ...(tls !== undefined && { tls }),
              proxyHeader,
              onEvent,
            }),
        });
  /** Continues the lasting sessions, if the app has an entry with `keep`: those of another app in the same folder are left alone. */
  const resume = async (): Promise<void> => {
    if (resumed || plane === null || !lasts(listeners.version.app)) return;
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
  const ended = async (end: (server: AnyServer<Context>) => Promise<void>, released?: () => void) => {
    await replacing.catch(() => {}); // what it has opened by then is closed here
    const { pools: last } = listeners.version;
    const pools = [...former, ...(last ? [last] : [])];
    for (const one of pools) one.shrink(); // one may lead to a listener of this app, which waits for its connections to end
    faults?.remove(); // what they hold up goes on, and what they planned is cancelled
    await Promise.all([plane?.stop().then(released), listeners.end(end)]);
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
    listeners.removeFiles();
    await ended((server) => server.serverClose());
  };
  const handOver = async (released?: () => void): Promise<void> => {
    listeners.leaveFiles();
    routes?.handOver();
    if (plane === null) released?.();
    await ended((server) => server.handOver(), released);
  };
  /** Gives the control plane the version that is served. */
  const show = (): void => {
    const { app } = listeners.version;
    const dial = Object.entries(app.dial).map(([name, entry]) => {
      return [name, { ...entry, endpoint: listeners.dialled(entry.endpoint) }];
    });
    Object.assign(shown, app, { dial: Object.fromEntries(dial) });
  };
  const openPools = (): void => {
    const { pools, context } = listeners.version;
    pools?.open({ context, endpoint: (to) => listeners.dialled(to), onEvent: tell });
  };
  const replaceBy = async (declared: App<Context>, module: string | undefined): Promise<Replaced> => {
    if (delayed !== undefined)
      throw new SocketError("EBADF", "the app is being closed; serve the new version anew");
    checkServed(declared);
    const app = edge?.served(declared) ?? declared;
    const next = await made(app, module ?? options.module);
    const prepared = await listeners.prepare(next);
    // From here on nothing fails, and nothing waits: the next connection gets the new version as a whole.
    const { pools } = listeners.version;
    if (pools !== null) {
      pools.shrink();
      former.push(pools);
    }
    listeners.become(prepared);
    show();
    plane?.replaceApp(shown as unknown as App);
    void resume();
    openPools();
    listeners.serve(prepared.fresh);
    return prepared.replaced;
  };
  const openAll = async (): Promise<void> => {
    if (hosting.sink !== undefined) recorder?.start();
    await listeners.open();
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
    if (!signal?.aborted || listeners.list.length === 0) {
      await shut();
      throw error;
    }
  }
  openPools();
  listeners.serve();
  return {
    listeners: listeners.list,
    plane,
    secured: listeners.secured,
    control: routes && access ? { url: routes.url, token: access.made } : null,
    close,
    handOver,
    descriptors: () => [
      ...listeners.descriptors(),
      ...(routes === undefined ? [] : [{ name: "control", fd: routes.fd }]),
    ],
    reload: () => listeners.reload(),
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
      listeners.abort();
    },
    [Symbol.asyncDispose]: close,
  };
};
