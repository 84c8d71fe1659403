/**
 * `serveCluster()`: an app served by several processes, on all cores.
 *
 *     the primary   binds every listener, and serves none: it starts the workers, gives them the descriptors, replaces
 *                   those that end, and has the control routes
 *     a worker      runs the module, and serves the whole app on the descriptors that it inherited
 *
 * All share one listening socket, so that any worker can take a client that waits in the kernel. A worker that ends loses what it
 * had accepted, and nothing that waits. With `reusePort` each worker has its own socket at the same port, and the
 * kernel spreads the clients. The primary holds these sockets, too, so that clients of a worker that ended wait for its
 * successor; they are lost if there is none (fewer workers after a restart, the end of the cluster).
 */

import { type App, isApp, type Listener } from "../../core/app/app.ts";
import type { ListenerLog } from "../../core/control/listeners.ts";
import { describe } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import { callListener, type SockletEvent } from "../../core/handlers/events.ts";
import type { InternetAddress } from "../../core/net/address.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../core/options.ts";
import type { ServerOptions } from "../../core/serve/server.ts";
import { checkControl, type Hosting, SERVE_NAMES, type ServeOptions } from "../app/app-server.ts";
import type { ControlServer, ServedRoutes } from "../app/control/control.ts";
import { NOT_RECORDED, serverOf, tlsOf } from "../app/listener-server.ts";
import { byPlace, type ListenDescriptor } from "../app/listeners/descriptors.ts";
import { together } from "../app/listeners/places.ts";
import { checkServed, givenTo } from "../app/serve.ts";
import { neededNode } from "../runtime.ts";
import { appHandlerFrom } from "../servers/forking/channel/handler-source.ts";
import { SocketFile } from "../servers/socket-file.ts";
import type { TCPServer } from "../servers/tcp.ts";
import type { Listed, WorkerSettings } from "./messages.ts";
import { cores, WorkerProcess } from "./worker.ts";

const STABLE = 10_000; // ms that a worker must serve before its end starts a new row
const MAX_DOUBLINGS = 30; // of the restart delay: more would exceed every limit
const MOST_TRIES = 10; // ports that are tried for listeners of one declared port
const DRAIN_TIMEOUT = 10_000; // ms; the default of ServeOptions

/** How to serve an app with several processes. Times are milliseconds. */
export interface ClusterOptions
  extends Pick<
    ServeOptions,
    | "host"
    | "anyPort"
    | "data"
    | "certificate"
    | "drainTimeout"
    | "drainDelay"
    | "signal"
    | "descriptors"
    | "ticketKeys"
    | "control"
    | "onEvent"
  > {
  /** How many processes; `"auto"`: one for each core. Default `"auto"`. */
  readonly workers?: number | "auto";
  /** Whether each worker has its own socket at each port (`SO_REUSEPORT`), over which the kernel spreads the clients. Default `false`: all share one, so that any worker can take a client that waits. */
  readonly reusePort?: boolean;
  /** Whether `onEvent` and the control routes also get the events of each request (`begin`, `end`, `handler`): a message between processes for each. Default `false`. */
  readonly requestEvents?: boolean;
  /** How long the place of a lost worker stays empty; doubled for each further one that is lost before it has served for ten seconds. Default 100. */
  readonly restartDelay?: number;
  /** The most that this delay grows to. Default 10 000. */
  readonly maxRestartDelay?: number;
  /** How many workers in a row may be lost before they have served for ten seconds; then the cluster ends, and `over` rejects. Default 10. */
  readonly maxLosses?: number;
}

const CLUSTER_NAMES = optionNamesOf<ClusterOptions>("serveCluster()")({
  host: "string",
  anyPort: "boolean",
  data: "string",
  certificate: true,
  drainTimeout: true,
  drainDelay: true,
  signal: "signal",
  descriptors: "list",
  ticketKeys: true,
  control: SERVE_NAMES.control as never,
  onEvent: "function",
  workers: true,
  reusePort: "boolean",
  requestEvents: "boolean",
  restartDelay: true,
  maxRestartDelay: true,
  maxLosses: true,
});

/** A worker, as the cluster reports it. */
export interface WorkerInfo {
  /** From 1; its successor has the same. */
  readonly number: number;
  readonly pid: number | null;
  readonly state: "starting" | "serving" | "leaving" | "gone";
}

/** An app that is served by several processes. */
export interface ClusterServer extends AsyncDisposable {
  /** The listeners, as each worker has them. */
  readonly listeners: readonly Listed[];
  readonly control: ControlServer | null;
  /** The current workers. */
  readonly workers: readonly WorkerInfo[];
  /** Resolves when the cluster is closed. Rejects with `ERR_HANDLER` if its workers were lost again and again. */
  readonly over: Promise<void>;
  /** Stops being ready; after `drainDelay` stops accepting, drains all workers together, and ends them. Resolves to the number of requests that were cut off. */
  close(): Promise<number>;
  /** As `AppServer.handOver`. Resolves to the number of requests that were cut off. */
  handOver(released?: () => void): Promise<number>;
  /** As in `AppServer`. */
  descriptors(): readonly ListenDescriptor[];
  /** Makes all workers read their certificates again. Returns how many listeners have TLS. */
  reload(): number;
  /** Ends running requests at once. */
  abort(): void;
}

/** One place among the workers. */
interface Place {
  readonly number: number;
  /** The worker that serves there, or is being started. */
  worker: WorkerProcess | null;
  /** Workers that have served there, and still drain. */
  readonly leaving: Set<WorkerProcess>;
  /** Whether one of them, or an earlier program, still keeps the lasting sessions. */
  held: boolean;
  timer: ReturnType<typeof setTimeout> | undefined;
}

/** A listener that the primary holds: one socket, or with `reusePort` one for each worker. */
interface Held {
  readonly name: string;
  readonly place: number;
  readonly removePath: boolean;
  readonly servers: TCPServer[];
  readonly fds: number[];
}

/** The app that `module` exports. Throws `ERR_APP`. */
const appOf = async (module: string): Promise<App> => {
  const { app } = (await import(module)) as { readonly app?: unknown };
  if (isApp(app)) return app;
  throw new SocketError("ERR_APP", `${module} has no \`export const app = defineApp({ … })\``);
};

/** Implements `serveCluster()`. */
export const openModule = async (
  module: string | URL,
  options: ClusterOptions = {},
): Promise<ClusterServer> => {
  checkOptions("serveCluster()", options, CLUSTER_NAMES);
  const url = String(module);
  if (URL.parse(url) === null)
    throw new TypeError(
      `serveCluster(${JSON.stringify(url)}): give the module's URL, as pathToFileURL(path).href`,
    );
  return openCluster(await appOf(url), url, options);
};

/** The same for an app that is loaded; `hosting` if this program takes over from another. */
export const openCluster = async (
  app: App,
  module: string,
  options: ClusterOptions,
  hosting: Hosting = {},
): Promise<ClusterServer> => {
  neededNode(
    "serving by several processes (serveCluster(), --workers)",
    "they share the listening sockets; serve by one",
  );
  checkServed(app);
  options.signal?.throwIfAborted();
  const cluster = new Cluster(app, module, options, hosting);
  await cluster.open();
  return cluster;
};

class Cluster implements ClusterServer {
  readonly #app: App;
  readonly #module: string;
  readonly #options: ClusterOptions;
  readonly #hosting: Hosting;
  readonly #count: number;
  readonly #restartDelay: number;
  readonly #maxRestartDelay: number;
  readonly #maxLosses: number;
  readonly #drainTimeout: number;
  readonly #drainDelay: number;
  readonly #ticketKeys: Uint8Array;
  readonly #places: Place[];
  readonly #held: Held[] = [];
  readonly #owned: SocketFile[] = []; // the files of paths that were handed to this process
  readonly #over = Promise.withResolvers<void>();
  readonly #up = Promise.withResolvers<void>(); // all have served once
  #secrets: readonly string[] | null = null;
  #log: ListenerLog | null = null;
  #routes: ServedRoutes | null = null;
  #token: string | null = null;
  #losses = 0;
  #opened = false;
  #closing: Promise<number> | undefined;
  #listeners: readonly Listed[] = [];

  constructor(app: App, module: string, options: ClusterOptions, hosting: Hosting) {
    this.#app = app;
    this.#module = module;
    this.#options = options;
    this.#hosting = hosting;
    const { workers = "auto", restartDelay = 100, maxRestartDelay = 10_000, maxLosses = 10 } = options;
    this.#count = workers === "auto" ? cores() : checkCount("workers", workers, 1);
    this.#restartDelay = checkTime("restartDelay", restartDelay, 1);
    this.#maxRestartDelay = checkTime("maxRestartDelay", maxRestartDelay, 1);
    this.#maxLosses = checkCount("maxLosses", maxLosses, 1);
    this.#drainTimeout = checkTime("drainTimeout", options.drainTimeout ?? DRAIN_TIMEOUT, 0);
    this.#drainDelay = checkTime("drainDelay", options.drainDelay ?? 0, 0);
    if (options.control) checkControl(options.control);
    this.#ticketKeys = options.ticketKeys ?? crypto.getRandomValues(new Uint8Array(48));
    this.#places = Array.from({ length: this.#count }, (_, i) => {
      return { number: i + 1, worker: null, leaving: new Set(), held: false, timer: undefined };
    });
    this.#over.promise.catch(() => {});
    this.#up.promise.catch(() => {});
  }

  async open(): Promise<void> {
    const { control, signal } = this.#options;
    const parts = control && (await import("./control.ts")); // a cluster without it starts without it
    const access = control && parts?.controlTokens(control);
    await parts?.loadRoutes();
    if (parts !== undefined && access !== undefined) {
      this.#secrets = access.secrets;
      this.#log = new parts.ListenerLog(access.secrets);
    }
    const aborted = (): void => this.#up.reject(signal?.reason);
    signal?.addEventListener("abort", aborted);
    try {
      await this.#bind();
      signal?.throwIfAborted();
      const [first] = this.#places as [Place];
      const { after } = this.#hosting;
      first.held = after !== undefined;
      void after?.then(() => this.#release(first));
      for (const place of this.#places) this.#start(place);
      await this.#up.promise;
      if (parts !== undefined && access !== undefined && this.#log !== null) {
        const plane = new parts.ClusterPlane(this.#asClustered(), this.#log);
        this.#routes = await parts.serveControl(plane, access.tokens, control ?? {}, (error) =>
          this.#tell({ type: "error", server: "control", address: null, error }),
        );
        this.#token = access.made;
      }
      this.#opened = true;
    } catch (error) {
      await this.#end("close");
      throw error;
    } finally {
      signal?.removeEventListener("abort", aborted);
    }
  }

  get listeners(): readonly Listed[] {
    return this.#listeners;
  }

  get control(): ControlServer | null {
    return this.#routes && { url: this.#routes.url, token: this.#token };
  }

  get workers(): readonly WorkerInfo[] {
    return this.#places.flatMap(({ worker, leaving }) =>
      [...leaving, ...(worker === null ? [] : [worker])].map(({ number, pid, state }) => ({
        number,
        pid,
        state,
      })),
    );
  }

  get over(): Promise<void> {
    return this.#over.promise;
  }

  close(): Promise<number> {
    this.#closing ??= this.#delay().then(() => this.#end("close"));
    return this.#closing;
  }

  handOver(released?: () => void): Promise<number> {
    this.#closing ??= this.#end("handOver", released);
    return this.#closing;
  }

  descriptors(): readonly ListenDescriptor[] {
    const held = this.#held.flatMap(({ name, fds, removePath }) =>
      fds.map((fd) => ({ name, fd, removePath })),
    );
    return this.#routes === null ? held : [...held, { name: "control", fd: this.#routes.fd }];
  }

  reload(): number {
    const serving = this.#serving();
    for (const worker of serving) worker.tell("reload");
    return serving[0]?.secured ?? 0;
  }

  abort(): void {
    this.#endDelay();
    for (const worker of this.#all()) worker.tell("abort");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // ---- Listeners ----

  /** Binds them all, or takes over the descriptors that were given. */
  async #bind(): Promise<void> {
    const { descriptors = [], reusePort = false } = this.#options;
    const groups = reusePort ? byPlace(descriptors) : descriptors.map((one) => [one]);
    const firsts = groups.map(([first]) => first as ListenDescriptor);
    const given = new Map<Listener, readonly ListenDescriptor[]>();
    for (const [listener, first] of givenTo(this.#app, firsts, this.#hosting))
      given.set(listener, groups[firsts.indexOf(first)] as ListenDescriptor[]);
    for (const group of together(this.#app.listeners, this.#options)) await this.#bindTogether(group, given);
  }

  async #bindTogether(
    group: readonly Listener[],
    given: ReadonlyMap<Listener, readonly ListenDescriptor[]>,
  ): Promise<void> {
    for (let tries = 1; ; tries++) {
      const before = this.#held.length;
      let port = 0;
      try {
        for (const listener of group) {
          const at = await this.#hold(listener, given.get(listener) ?? [], tries > MOST_TRIES ? 0 : port);
          port = (at as InternetAddress).port;
        }
        return;
      } catch (error) {
        // The system chose a port that is free for the first of them; for another it is not.
        if (!this.#options.anyPort || port === 0 || (error as SocketError).code !== "EADDRINUSE") throw error;
        await Promise.all(
          this.#held.splice(before).flatMap(({ servers }) => servers.map((one) => one.serverClose())),
        );
      }
    }
  }

  /** Binds one listener. Returns its address. */
  async #hold(listener: Listener, given: readonly ListenDescriptor[], anyPort: number) {
    const { host, anyPort: any, reusePort = false } = this.#options;
    const { endpoint, name } = listener;
    const held: Held = {
      name,
      place: this.#app.listeners.indexOf(listener),
      removePath: given[0]?.removePath ?? given.length === 0,
      servers: [],
      fds: [],
    };
    this.#held.push(held);
    const own = reusePort && endpoint.scheme !== "unix"; // whether each worker has its own
    let at =
      endpoint.scheme === "unix"
        ? endpoint
        : { ...endpoint, ...(host !== undefined && { hostname: host }), ...(any && { port: anyPort }) };
    const spoken = (name: string): unknown =>
      listener.serve === "forking" ? appHandlerFrom(this.#module, name, "") : this.#app.handlers[name];
    for (let i = 0; i < (own ? this.#count : 1); i++) {
      const descriptor = given[i];
      const options = {
        ...listener.options,
        ...tlsOf(listener, this.#options, spoken),
        ...(own && { allowReusePort: true }),
        ...(descriptor && { fd: descriptor.fd }),
        name,
      } as ServerOptions<unknown>;
      const server = serverOf({ ...listener, endpoint: at }, options, NOT_RECORDED, {
        module: this.#module,
      }) as unknown as TCPServer;
      held.servers.push(server);
      held.fds.push(await server.reserve());
      const { serverAddress } = server;
      if (descriptor?.removePath && serverAddress?.family === "unix")
        this.#owned.push(new SocketFile(serverAddress.path).own());
      if (at.scheme !== "unix" && serverAddress?.family !== "unix" && serverAddress !== null)
        at = { ...at, port: serverAddress.port };
    }
    return held.servers[0]?.serverAddress;
  }

  // ---- Workers ----

  #all(): WorkerProcess[] {
    return this.#places.flatMap(({ worker, leaving }) => [...leaving, ...(worker === null ? [] : [worker])]);
  }

  #serving(): WorkerProcess[] {
    return this.#places.flatMap(({ worker }) => (worker?.state === "serving" ? [worker] : []));
  }

  #asClustered() {
    const serving = (): readonly WorkerProcess[] =>
      this.#all().filter(({ state }) => state !== "starting" && state !== "gone");
    const dialler = (): WorkerProcess | null => {
      const { worker } = this.#places[0] as Place;
      return worker?.state === "serving" ? worker : null;
    };
    const closing = (): boolean => this.#closing !== undefined;
    return {
      serving,
      dialler,
      get closing() {
        return closing();
      },
    };
  }

  #start(place: Place): void {
    const { onEvent, requestEvents = false, data, certificate, host } = this.#options;
    const wanted = onEvent !== undefined || this.#log !== null;
    const settings: Omit<WorkerSettings, "descriptors"> = {
      number: place.number,
      module: this.#module,
      data,
      host,
      certificate,
      drainTimeout: this.#options.drainTimeout,
      ticketKeys: this.#ticketKeys,
      secrets: this.#secrets,
      events: wanted ? (requestEvents ? "all" : "rare") : "none",
      dials: place.number === 1,
      waits: place.held,
    };
    const descriptors = this.#held.map(({ name, place: at, fds }) => {
      return { name, place: at, fd: fds[(place.number - 1) % fds.length] as number };
    });
    place.worker = new WorkerProcess(
      {
        ready: (worker) => this.#ready(worker),
        event: (_, event) => this.#tell(event),
        failing: (worker, error) => {
          this.#tell({ type: "error", server: `worker ${worker.number}`, address: null, error });
          if (place.worker !== worker) return;
          place.worker = null;
          place.leaving.add(worker);
          place.held = place.number === 1;
          this.#lost(place, worker, null, null);
        },
        released: (worker) => {
          if (place.worker !== worker) this.#release(place);
          if (place.number === 1) this.#released?.();
        },
        gone: (worker, code, signal) => this.#gone(place, worker, code, signal),
      },
      settings,
      descriptors,
    );
  }

  #released: (() => void) | undefined;

  #release(place: Place): void {
    place.held = false;
    place.worker?.tell("free");
  }

  #ready(worker: WorkerProcess): void {
    this.#listeners = worker.listeners;
    this.#tell({ type: "forked", server: `worker ${worker.number}`, pid: worker.pid ?? -1, delay: null });
    if (this.#places.every((place) => place.worker?.state === "serving")) this.#up.resolve();
  }

  #gone(place: Place, worker: WorkerProcess, code: number | null, signal: string | null): void {
    if (place.leaving.delete(worker)) this.#release(place);
    if (place.worker !== worker) return;
    place.worker = null;
    if (this.#closing === undefined) this.#lost(place, worker, code, signal);
  }

  /** A worker is lost: after a delay, another takes its place. */
  #lost(place: Place, worker: WorkerProcess, code: number | null, signal: string | null): void {
    const { number, pid, why } = worker;
    const error =
      why ??
      new SocketError(
        "ECONNABORTED",
        `worker ${number} (${pid}) ended with ${signal ?? `exit code ${code}`}`,
      );
    if (!this.#opened) {
      this.#up.reject(error);
      return;
    }
    this.#losses = performance.now() - worker.served >= STABLE ? 1 : this.#losses + 1;
    const givesUp = this.#losses >= this.#maxLosses;
    const delay = givesUp
      ? null
      : Math.min(this.#restartDelay * 2 ** Math.min(this.#losses - 1, MAX_DOUBLINGS), this.#maxRestartDelay);
    this.#tell({ type: "lost", server: `worker ${number}`, pid, code, signal, requests: [], error, delay });
    if (delay !== null) {
      place.timer = setTimeout(() => this.#start(place), delay);
      return;
    }
    const said = `${this.#losses} workers in a row ended before they had served for ${STABLE / 1_000} s; the last: ${describe(error).message}`;
    this.#over.reject(new SocketError("ERR_HANDLER", said, { cause: error }));
    void this.close();
  }

  #tell(event: SockletEvent): void {
    this.#log?.tell(event);
    const { onEvent } = this.#options;
    if (onEvent !== undefined) callListener(onEvent, event);
  }

  // ---- The end ----

  /** The drain delay: no longer ready, but still accepting. */
  async #delay(): Promise<void> {
    if (this.#drainDelay === 0 || !this.#opened) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#drainDelay);
      this.#endDelay = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #endDelay = (): void => {};

  async #end(how: "close" | "handOver", released?: () => void): Promise<number> {
    for (const { timer } of this.#places) clearTimeout(timer);
    const workers = this.#all();
    const [first] = this.#places as [Place];
    let free = false;
    this.#released = () => {
      if (!free) released?.();
      free = true;
    };
    if (first.worker === null && first.leaving.size === 0) this.#released();
    if (how === "handOver") this.#routes?.handOver();
    else for (const file of this.#owned.splice(0)) file.remove();
    const held = this.#held.flatMap(({ servers }) => servers);
    await Promise.all([
      ...held.map((server) => (how === "close" ? server.serverClose() : server.handOver())),
      ...workers.map((worker) => worker.end(how, this.#drainTimeout)),
    ]);
    this.#released();
    this.#log?.end();
    await this.#routes?.close(); // last: draining requests can still be listed, and ended
    this.#over.resolve();
    return workers.reduce((sum, { cut }) => sum + cut, 0);
  }
}
