/// <reference types="@cloudflare/workers-types" />
/** `workerFor(app)`: the module that a Worker deploys. */

import type { Hono } from "hono";
import { type App, isApp, type Listener } from "../../core/app/app.ts";
import type { ListenerOptions } from "../../core/app/listener-options.ts";
import { controlRoutes } from "../../core/control/http/routes.ts";
import { ListenerLog } from "../../core/control/listeners.ts";
import { type ControlPlane, type ListenerInfo, listenerInfo } from "../../core/control/plane.ts";
import type { Lasting } from "../../core/control/sessions/lasting.ts";
import { SocketError } from "../../core/errors.ts";
import { callListener, type OnEvent } from "../../core/handlers/events.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import { AllowList } from "../../core/net/access.ts";
import { formatAddress, parseAddress } from "../../core/net/address.ts";
import { checkOptions, optionNamesOf } from "../../core/options.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { SockletBindings } from "../objects/bindings.ts";
import type { WorkerMetrics } from "../objects/metrics.ts";
import { WorkerPlane } from "../objects/plane.ts";
import { type PoolAccess, platformOf } from "../objects/platform.ts";
import { RegistryObject, SESSION_BOUNDS_NAMES, type SessionBounds } from "../objects/registry.ts";
import { SessionObject } from "../objects/session.ts";
import type { PlatformContext, PlatformSocket, PlatformState } from "../platform.ts";
import type { WorkerRecording } from "./recording.ts";
import { isDatagramSocket, WorkerDatagramServer, WorkerServer } from "./server.ts";

/** Options of a Worker. */
export interface WorkerOptions {
  readonly onEvent?: OnEvent;
  /** The most sessions that may run, and that are kept. */
  readonly sessions?: SessionBounds;
  /** The description of the control routes for `GET /v1/openapi.json`, from `socklet/control`. Default: none, and a smaller Worker. */
  readonly openApi?: object;
  /** The inspector's page at `/inspect`, from `socklet/inspector`. Default: none, and a smaller Worker. */
  readonly inspector?: (routes: Hono) => void;
  /** The app's pools, from `poolsFor(app)`. Without it, `pool()` in `context()` throws `ERR_APP`. */
  readonly pools?: PoolAccess;
  /** The code of lasting sessions, from `socklet/worker`: an app with `keep` needs it. Default: none, and a smaller Worker. */
  readonly lasting?: Lasting;
  /** The code of `GET /v1/metrics`, from `socklet/worker`: the metrics of sessions and pools. Default: none, the route answers 501, and a smaller Worker. */
  readonly metrics?: WorkerMetrics;
  /** The code of `/v1/recording`, from `socklet/worker`: it records the traffic of sessions. Default: none, the routes answer 404, and a smaller Worker. */
  readonly recording?: WorkerRecording;
}

const WORKER_NAMES = optionNamesOf<WorkerOptions>("workerFor()")({
  onEvent: "function",
  sessions: SESSION_BOUNDS_NAMES,
  openApi: true,
  inspector: "function",
  pools: true,
  lasting: true,
  metrics: true,
  recording: true,
});

/** A Worker's main module, and the classes that it must export. */
export interface WorkerModule {
  /** The control routes. It does not use `this`, so it can be mounted: `hono.mount("/ops", worker.fetch)`. */
  fetch(request: Request, env: unknown, ctx: PlatformContext): Promise<Response>;
  connect(socket: PlatformSocket, env: unknown, ctx: PlatformContext): Promise<void>;
  /** The control routes as a Hono app, for `hono.route("/", worker.routes)`. */
  readonly routes: Hono;
  /** The control plane, to start and end sessions from your own code. Make a new one in each request. */
  plane(env: unknown): ControlPlane;
  /** The class of a session's Durable Object. */
  readonly Session: new (
    state: PlatformState,
    env: unknown,
  ) => SessionObject;
  /** The class of the Durable Object that knows all sessions. */
  readonly Registry: new (
    state: PlatformState,
    env: unknown,
  ) => RegistryObject;
}

/** The listener that an inbound connection is for: by name if the caller dialled a name, else by port. */
const listenerFor = (
  app: App,
  authority: string | undefined,
  scheme: "tcp" | "udp",
): Listener | undefined => {
  const among = app.listeners.filter(({ endpoint }) => endpoint.scheme === scheme);
  if (authority === undefined) return undefined;
  const dialled = parseAddress(authority);
  if (dialled.scheme === "unix") return undefined;
  return (
    among.find(({ name }) => name === dialled.hostname) ??
    among.find(({ endpoint }) => endpoint.scheme !== "unix" && endpoint.port === dialled.port)
  );
};

/** The listener's options that apply to a server in a Worker. Clients cannot wait there, so `whenFull` does not apply. */
const limitsFor = (
  { options }: Listener,
  { optionNames }: typeof WorkerServer | typeof WorkerDatagramServer,
): ListenerOptions =>
  Object.fromEntries(
    Object.entries(options).filter(([name]) => name !== "whenFull" && Object.hasOwn(optionNames, name)),
  );

/**
 * The main module of a Worker that runs `app`:
 *
 *     const worker = workerFor(app);
 *     export class SockletSession extends worker.Session {}
 *     export class SockletRegistry extends worker.Registry {}
 *     export { SockletStorage } from "socklet/worker";
 *     export default worker;
 *
 * `connect` serves each TCP connection with one of the app's listeners: the one with the name that the caller dialled
 * (`env.SELF.connect("mail:25")`), or else the one with the port that the connection came to. Any other connection is
 * refused. `fetch` serves the control routes. They run sessions if the secret `SOCKLET_TOKENS` is set and the two
 * classes are bound as `SOCKLET_SESSIONS` and `SOCKLET_REGISTRY`. `app.context` is called with the bindings: once in each
 * isolate for what the Worker accepts, and once in the object of each session.
 *
 * Throws `ERR_APP` if `definition` is not an app, one of its `allow` rules is malformed, or an entry of `dial` has `keep` and
 * `lasting` is not given.
 */
export const workerFor = <Context>(definition: App<Context>, options: WorkerOptions = {}): WorkerModule => {
  const app = definition as unknown as App; // only its handlers know the type of its context
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  checkOptions("workerFor()", options, WORKER_NAMES);
  const { onEvent, lasting, pools, metrics, recording } = options;
  const {
    Plane = WorkerPlane,
    Session = SessionObject,
    Registry = RegistryObject,
    Server = WorkerServer,
    DatagramServer = WorkerDatagramServer,
  } = recording ?? {};
  const kept = Object.keys(app.dial).find((name) => app.dial[name]?.keep !== null);
  if (lasting !== undefined) lasting.check(app);
  else if (kept !== undefined) {
    throw new SocketError(
      "ERR_APP",
      `dial.${kept} has keep: in a Worker that takes workerFor(app, { lasting }), with lasting from "socklet/worker"`,
    );
  }
  const told = new ListenerLog();
  const tell: OnEvent = (event) => {
    told.tell(event);
    if (onEvent !== undefined) callListener(onEvent, event);
  };
  const allow = new AllowList(app.allow);
  const servers = new Map<Listener, WorkerServer | WorkerDatagramServer>();
  let ready: { readonly context: unknown } | undefined;

  const serverFor = async (
    listener: Listener,
    env: unknown,
  ): Promise<WorkerServer | WorkerDatagramServer> => {
    const bindings = env as Record<string, unknown>;
    // Not kept as a promise: in workerd one request must not await the promise of another.
    ready ??= { context: await app.context(platformOf(app, pools, bindings)) };
    let server = servers.get(listener);
    if (server === undefined) {
      const udp = listener.endpoint.scheme === "udp";
      const settings = {
        ...limitsFor(listener, udp ? DatagramServer : Server),
        name: listener.name,
        context: ready.context,
        onEvent: tell,
      };
      server = udp
        ? new DatagramServer(listener.handler as HandlerClass<Datagram>, settings, listener)
        : new Server(listener.handler as HandlerClass<StreamSocket>, settings, listener);
      servers.set(listener, server);
    }
    return server;
  };

  const listeners = (): ListenerInfo[] =>
    app.listeners.map((listener) => {
      const { name, endpoint, serve } = listener;
      const info = servers.get(listener)?.info();
      // Always serving: there is nothing to bind.
      return listenerInfo(name, formatAddress(endpoint), serve, info && { ...info, state: "serving" });
    });

  const plane = (env: unknown): ControlPlane =>
    new Plane({ app, allow, env: env as SockletBindings, listeners, told, pools, metrics, serverFor });

  const routes = controlRoutes(
    (env: SockletBindings) => ({
      plane: plane(env),
      tokens: env.SOCKLET_TOKENS as string | undefined,
      openApi: options.openApi,
      onError: (error) => {
        if (onEvent !== undefined)
          callListener(onEvent, { type: "error", server: "control", address: null, error });
      },
    }),
    recording?.routes,
  );

  options.inspector?.(routes);

  return {
    routes,
    plane,
    Session: class SockletSession extends Session {
      constructor(state: PlatformState, env: unknown) {
        super(state, env, { app, allow, onEvent, lasting, pools });
      }
    },
    Registry: class SockletRegistry extends Registry {
      constructor(state: PlatformState, env: unknown) {
        super(state, env, options.sessions);
      }
    },
    async fetch(request, env, ctx) {
      return routes.fetch(request, env as object, ctx as ExecutionContext);
    },
    async connect(socket, env, ctx) {
      const { localAddress } = await socket.opened;
      const udp = isDatagramSocket(socket);
      const listener = listenerFor(app, localAddress, udp ? "udp" : "tcp");
      if (listener === undefined) {
        socket.closed.catch(() => {});
        tell({ type: "refused", server: "worker", address: null, reason: "no listener" });
        if (!udp) await socket.close(); // a flow of datagrams ends when this function returns
        return;
      }
      let server: WorkerServer | WorkerDatagramServer;
      try {
        server = await serverFor(listener, env);
      } catch (error) {
        tell({ type: "error", server: listener.name, address: null, error });
        throw SocketError.from(error, "ERR_APP"); // the platform cuts the connection, and logs it
      }
      await server.connect(socket, ctx);
    },
  };
};
