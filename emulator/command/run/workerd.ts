/**
 * The app in workerd, as `socklet dev --runtime workerd|both` runs it: the project's Worker, or one that is made for the app,
 * bundled by esbuild, in Miniflare. Both packages are the project's own, which gets them with wrangler.
 */

import type { ChildProcess } from "node:child_process";
import type { SourceMap } from "node:module";
import net from "node:net";
import type { App, Listener } from "../../../core/app/app.ts";
import { tokenEntries } from "../../../core/control/http/auth.ts";
import { isA, peek } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { SockletEvent } from "../../../core/handlers/events.ts";
import { formatAddress, type InternetAddress } from "../../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../../core/net/constants.ts";
import { wholeMs } from "../../../core/options.ts";
import { controlEntry, type Entry, filled } from "../../app/listeners/listing.ts";
import { dirname, fileURLToPath, join, lazy, pathToFileURL, relative, resolve } from "../../builtin.ts";
import { Sentinel } from "../../processes/sentinel.ts";
import { socket } from "../../sockets/make.ts";
import type { Socket } from "../../sockets/socket.ts";
import { wranglerConfigIn } from "../project/wrangler.ts";
import { describe, say, UsageError } from "../terminal/output.ts";
import { FileWatch, hashOf } from "../user-code/watch.ts";

const DATE = "2026-10-01"; // the compatibility date of a Worker that is made for an app
const FLAGS = ["no_nodejs_compat", "no_nodejs_compat_v2"]; // it needs nothing from Node
const MARK = "\u001fsocklet\u001f"; // begins a line that is an event
const SCRIPT = "worker.js"; // the name of the bundle in stack traces
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const TRIES = 200; // ports that are tried to find a free one
const STARTS = 5; // of workerd, if another program begins to listen at one of its ports in between

// ---- The used parts of the project's packages ----

interface Bundle {
  readonly outputFiles: readonly { readonly path: string; readonly text: string }[];
  readonly metafile: { readonly inputs: Readonly<Record<string, unknown>> };
}

interface Plugin {
  readonly name: string;
  setup(build: {
    onResolve(
      filter: { filter: RegExp },
      on: (args: { path: string; namespace: string; importer: string }) => object | undefined,
    ): void;
    onLoad(
      filter: { filter: RegExp; namespace: string },
      on: (args: { path: string }) => object | undefined,
    ): void;
  }): void;
}

interface Esbuild {
  build(
    options: Readonly<Record<string, unknown>> & { readonly plugins: readonly Plugin[] },
  ): Promise<Bundle>;
}

interface Log {
  readonly level: string;
  readonly message: string;
}

interface Running {
  readonly ready: Promise<URL>;
  setOptions(options: unknown): Promise<void>;
  dispose(): Promise<void>;
}

interface Packages {
  readonly esbuild: Esbuild;
  readonly miniflare: {
    readonly Miniflare: new (options: unknown) => Running;
    readonly NoOpLog: new () => unknown;
    convertV4MiniflareOptions(options: Readonly<Record<string, unknown>>): unknown;
  };
  /** `null` if the project has none. */
  readonly wrangler: {
    unstable_getMiniflareWorkerOptions(path: string): {
      readonly workerOptions: Readonly<Record<string, unknown>>;
      readonly main?: string;
      readonly define: Readonly<Record<string, string>>;
    };
  } | null;
}

/** The packages, as the project has them. Throws a `UsageError` if they are missing. */
const packagesOf = async (folder: string): Promise<Packages> => {
  const from = (at: string, name: string): string | null => {
    try {
      return lazy.module.createRequire(at).resolve(name);
    } catch {
      return null;
    }
  };
  const project = join(resolve(folder), "package.json");
  const wrangler = from(project, "wrangler");
  const pathOf = (name: string): string => {
    const path = from(project, name) ?? (wrangler && from(wrangler, name));
    if (path) return path;
    throw new UsageError(
      `the app runs in workerd by the package ${name}, which this project has not: npm install --save-dev wrangler, which brings it`,
    );
  };
  const load = (path: string): Promise<never> => import(pathToFileURL(path).href) as Promise<never>;
  const [esbuild, miniflare] = [pathOf("esbuild"), pathOf("miniflare")];
  return {
    esbuild: await load(esbuild),
    miniflare: await load(miniflare),
    wrangler: wrangler === null ? null : await load(wrangler),
  };
};

// ---- The Worker ----

/** The module of a Worker that is made for an app. */
const mainOf = (path: string, app: App): string => {
  const pools = Object.keys(app.pools).length > 0;
  return `
    import { lasting, poolsFor, SockletStorage, workerFor } from "socklet/worker";
    import { app } from ${JSON.stringify(resolve(path))};
    ${pools ? "const pools = poolsFor(app);" : ""}
    const worker = workerFor(app, { lasting${pools ? ", pools" : ""} });
    export class SockletSession extends worker.Session {}
    export class SockletRegistry extends worker.Registry {}
    ${pools ? "export class SockletPool extends pools.Pool {}" : ""}
    export { SockletStorage };
    export default worker;`;
};

/** `socklet/worker`, with a `workerFor()` that sends its events here, and knows the ports of the listeners here. */
const SHIM = `
  import { workerFor as made } from "socklet/worker";
  export * from "socklet/worker";
  const plain = (key, value) => value instanceof Error
    ? { name: value.name, message: value.message, stack: value.stack, code: value.code, cause: value.cause }
    : typeof value === "bigint" ? String(value) : value;
  const tell = (event) => {
    try { console.log(${JSON.stringify(MARK)} + JSON.stringify(event, plain)); } catch {}
  };
  const placed = (listener) => {
    const port = SOCKLET_DEV_PORTS[listener.name + " " + listener.endpoint.port];
    return port === undefined ? listener : { ...listener, endpoint: { ...listener.endpoint, port } };
  };
  export const workerFor = (app, options = {}) => made(
    { ...app, listeners: app.listeners.map(placed) },
    { ...options, onEvent: (event) => { tell(event); options.onEvent?.(event); } },
  );`;

const SHIMMED = "socklet-dev";

/** A listener's key among the ports: two listeners can have the same name. */
const keyOf = ({ name, endpoint }: Listener): string =>
  `${name} ${endpoint.scheme === "unix" ? "" : endpoint.port}`;

/** An error of an event, restored; `placed` returns its stack. */
const revived = (value: unknown, placed: (stack: string) => string): unknown => {
  if (typeof value !== "object" || value === null || !("stack" in value) || !("message" in value))
    return value;
  const { name, message, stack, code, cause } = value as Record<string, string | undefined>;
  const text = String(message);
  const error = SocketError.isCode(code)
    ? new SocketError(code, text.replace(`${code}: `, ""), { cause })
    : Object.assign(new Error(text, { cause }), { name });
  return Object.assign(error, { stack: placed(String(stack)) });
};

/** The hashes of files' contents, by path; `null` of one that is not there. */
type Hashes = Map<string, string | null>;

/** How the app runs in workerd. */
export interface WorkerdOptions {
  /** The app's module, as it was named. */
  readonly path: string;
  readonly host: string | undefined;
  /** Listens on free ports instead of the app's. */
  readonly anyPort: boolean;
  /** The port of the same listener in Node, if it is served there too: this one takes the next free port after it. `null`: it is served only here. */
  beside(listener: Listener): number | null;
  /** The control routes: the first port that is tried (0: any), and their tokens. `null`: they are closed. */
  readonly control: { readonly port: number; readonly tokens: string } | null;
  readonly onEvent: (event: SockletEvent) => void;
}

/** An app that runs in workerd, and follows its files. */
export class AppInWorkerd {
  readonly #options: WorkerdOptions;
  readonly #packages: Packages;
  readonly #folder: string; // the project's
  readonly #config: string | null;
  readonly #watching = new FileWatch();
  readonly #stop = new AbortController();
  readonly #ports = new Map<string, number>(); // by listener
  #control = 0;
  /**
   * The sockets that hold its ports. They are bound and do not listen: on Linux the kernel then chooses these ports for nobody else, and a
   * server that names one, as workerd does at each version, can listen there. On other systems it cannot, so nothing is held.
   */
  readonly #holders: Socket[] = [];
  #app: App;
  #hashes: Hashes = new Map(); // of the files of the bundle
  #running: Running | null = null;
  #origin = "";
  #map: SourceMap | undefined; // of the bundle
  #version = 0;
  #busy: Promise<unknown> = Promise.resolve();
  #sentinel: Sentinel | undefined;
  #pids: number[] = [];

  private constructor(options: WorkerdOptions, app: App, packages: Packages, folder: string) {
    this.#options = options;
    this.#app = app;
    this.#packages = packages;
    this.#folder = folder;
    this.#config = packages.wrangler === null ? null : wranglerConfigIn(folder);
  }

  /** Starts it. Throws a `UsageError` if the project lacks what it needs; rejects if it cannot be bundled, or does not start. */
  static async start(app: App, options: WorkerdOptions): Promise<AppInWorkerd> {
    const own = dirname(resolve(options.path));
    const folder = [process.cwd(), own].find((one) => wranglerConfigIn(one)) ?? own;
    const made = new AppInWorkerd(options, app, await packagesOf(folder), folder);
    try {
      await made.#update();
    } catch (error) {
      await made.close();
      throw error;
    }
    void made.#follow();
    return made;
  }

  /** Where the control routes are, without a path. */
  get origin(): string {
    return this.#origin;
  }

  /** The listeners, for printing. */
  listing(): Entry[] {
    const host = this.#options.host;
    const entries = this.#listeners().map((listener): Entry => {
      const { hostname } = listener.endpoint as { hostname: string };
      const at = { host: host ?? hostname, port: this.#ports.get(keyOf(listener)) ?? 0 };
      const url = formatAddress({ scheme: "tcp", hostname: at.host, port: at.port });
      return [`${listener.name} (workerd)`, url, filled(listener.try, at)];
    });
    const { control } = this.#options;
    if (control !== null) {
      const token = tokenEntries(control.tokens)[0]?.token ?? null;
      const [name, ...rest] = controlEntry(this.#origin, token, "SOCKLET_TOKENS");
      entries.push([`${name} (workerd)`, ...rest]);
    }
    return entries;
  }

  /** The listeners that a Worker cannot have. */
  missing(): Listener[] {
    const here = this.#listeners();
    return this.#app.listeners.filter((listener) => !here.includes(listener));
  }

  /** The app has a new version, perhaps with other listeners. Its files are followed in any case. */
  async replace(app: App): Promise<void> {
    const keys = (of: readonly Listener[]): string => of.map(keyOf).sort().join();
    const before = keys(this.#listeners());
    this.#app = app;
    if (keys(this.#listeners()) !== before) await this.#again(["its listeners"]);
  }

  /** Ends workerd, and removes what it left on the disk. */
  async close(): Promise<void> {
    this.#stop.abort(new SocketError("ECANCELED"));
    this.#watching.close();
    await this.#busy.catch(() => {});
    await this.#displace();
    if (this.#sentinel === undefined) return;
    for (const pid of this.#pids) this.#sentinel.remove(pid);
    await Sentinel.release();
    this.#sentinel = undefined;
  }

  #listeners(): Listener[] {
    return this.#app.listeners.filter(({ endpoint }) => endpoint.scheme === "tcp");
  }

  /** Follows the files of the bundle until it is closed. */
  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    const others = (): string[] =>
      [...this.#hashes].flatMap(([path, hash]) => (hashOf(path) === hash ? [] : [path]));
    try {
      for (;;) {
        const changed = await this.#watching.changed(signal, others);
        await this.#again(changed.map((file) => relative(process.cwd(), file)));
      }
    } catch (error) {
      if (!signal.aborted) say(`workerd: no longer watching for saves: ${describe(error)}`);
    }
  }

  /** Takes another version. If something is wrong, that is reported, and the former version keeps serving. */
  async #again(what: readonly string[]): Promise<void> {
    const began = performance.now();
    try {
      await this.#update();
      say(`workerd: version ${this.#version}: ${what.join(", ")} (${wholeMs(performance.now() - began)})`);
    } catch (error) {
      if (!this.#stop.signal.aborted)
        say(`workerd: ${describe(error)}; version ${this.#version} keeps serving`);
    }
  }

  /** Bundles, and hands the bundle to workerd; one at a time. */
  #update(): Promise<void> {
    const updated = this.#busy.then(
      () => this.#updateNow(),
      () => this.#updateNow(),
    );
    this.#busy = updated;
    return updated;
  }

  async #updateNow(): Promise<void> {
    for (let starts = 1; ; starts++) {
      if (this.#stop.signal.aborted) throw this.#stop.signal.reason;
      await this.#place();
      try {
        return await this.#run();
      } catch (error) {
        const inUse = (error as { code?: unknown } | null)?.code === "ERR_ADDRESS_IN_USE"; // Miniflare's
        if (!inUse || this.#version > 0 || starts === STARTS) throw error;
        await this.#displace();
      }
    }
  }

  async #run(): Promise<void> {
    const read: Hashes = new Map();
    if (this.#config !== null) read.set(this.#config, hashOf(this.#config));
    const project =
      this.#config === null
        ? undefined
        : this.#packages.wrangler?.unstable_getMiniflareWorkerOptions(this.#config);
    const script = await this.#bundle(read, project?.main, project?.define);
    const { miniflare } = this.#packages;
    const made = project?.main === undefined; // the Worker is made for the app
    const options = miniflare.convertV4MiniflareOptions({
      compatibilityDate: DATE,
      compatibilityFlags: FLAGS,
      name: "socklet-dev",
      ...project?.workerOptions,
      ...(made && { durableObjects: this.#objects() }),
      modules: [{ type: "ESModule", path: SCRIPT, contents: script }],
      modulesRoot: "/",
      bindings: {
        ...(project?.workerOptions.bindings as object | undefined),
        ...(this.#options.control !== null && { SOCKLET_TOKENS: this.#options.control.tokens }),
      },
      connectHandlers: this.#listeners().map((listener) => ({
        protocol: "tcp",
        port: this.#ports.get(keyOf(listener)),
        address: this.#options.host ?? (listener.endpoint as { hostname: string }).hostname,
      })),
      host: "127.0.0.1",
      port: this.#control,
      log: new miniflare.NoOpLog(),
      handleStructuredLogs: (log: Log) => this.#logged(log),
    });
    if (this.#running === null) await this.#begin(options);
    else await this.#running.setOptions(options);
    this.#origin = (await (this.#running as unknown as Running).ready).origin;
    this.#version++;
  }

  /** Starts workerd. Its process also ends if this one is killed. */
  async #begin(options: unknown): Promise<void> {
    if (this.#sentinel === undefined) this.#noteProcesses(Sentinel.hold());
    const before = new Map(SIGNALS.map((signal) => [signal, process.listeners(signal)]));
    this.#running = new this.#packages.miniflare.Miniflare(options);
    // Miniflare would end the process at a signal. This command drains first, and then lets Miniflare end workerd.
    for (const [signal, ours] of before) {
      for (const listener of process.listeners(signal)) {
        if (!ours.includes(listener)) process.removeListener(signal, listener as () => void);
      }
    }
    await this.#running.ready;
  }

  /** Notes each workerd that is started from now on. Miniflare does not report it, and starts another at each change of its options. */
  #noteProcesses(sentinel: Sentinel): void {
    this.#sentinel = sentinel;
    const made = (message: unknown): void => {
      const { process: child } = message as { process: ChildProcess };
      child.once("spawn", () => {
        if (child.pid === undefined || !child.spawnfile.includes("workerd")) return;
        this.#pids.push(child.pid);
        sentinel.add(child.pid);
      });
    };
    const { subscribe, unsubscribe } = process.getBuiltinModule("node:diagnostics_channel");
    subscribe("child_process", made);
    this.#stop.signal.addEventListener("abort", () => unsubscribe("child_process", made));
  }

  /** The Durable Objects of a Worker that is made for the app. */
  #objects(): Readonly<Record<string, { className: string; useSQLite: true }>> {
    const names = {
      SOCKLET_SESSIONS: "SockletSession",
      SOCKLET_REGISTRY: "SockletRegistry",
      STORAGE: "SockletStorage",
      ...(Object.keys(this.#app.pools).length > 0 && { SOCKLET_POOLS: "SockletPool" }),
    };
    return Object.fromEntries(
      Object.entries(names).map(([name, className]) => [name, { className, useSQLite: true }]),
    );
  }

  /** Assigns a port to each listener, and to the control routes; they keep it. */
  async #place(): Promise<void> {
    const { host = "127.0.0.1", anyPort, control } = this.#options;
    const taken = new Set(this.#ports.values());
    const next = async (from: number, at: string): Promise<number> => {
      for (let port = from; port < from + TRIES && port < 65_536; port++) {
        if (!taken.has(port) && (await this.#hold(at, port)) !== null) return port;
      }
      throw new Error(`of the ports from ${from} on none is free`);
    };
    const any = async (): Promise<number> => (await this.#hold(host, 0)) as number;
    for (const listener of this.#listeners()) {
      const key = keyOf(listener);
      if (this.#ports.has(key)) continue;
      const { port, hostname } = listener.endpoint as { port: number; hostname: string };
      const beside = this.#options.beside(listener);
      const free = anyPort || port === 0;
      if (beside === null && !free && (await this.#hold(this.#options.host ?? hostname, port)) === null) {
        const said = formatAddress({ scheme: "tcp", hostname, port });
        throw new SocketError("EADDRINUSE", `${said}: that address is in use; give --any-port`);
      }
      if (beside !== null) this.#ports.set(key, await next(beside + 1, host));
      else this.#ports.set(key, free ? await any() : port);
      taken.add(this.#ports.get(key) as number);
    }
    if (this.#control !== 0) return;
    const first = control?.port ?? 0;
    this.#control = first === 0 ? await any() : await next(first, "127.0.0.1");
  }

  /** Ends workerd, and gives its ports back. */
  async #displace(): Promise<void> {
    await this.#running?.dispose().catch(() => {}); // it has cleaned up, and rejects as the start did
    this.#running = null;
    for (const holder of this.#holders.splice(0)) await holder.close();
    this.#ports.clear();
    this.#control = 0;
  }

  /** Holds `port`, or for 0 one that the system chooses, and returns it; `null` if it is in use. */
  async #hold(host: string, port: number): Promise<number | null> {
    const holder = socket(net.isIPv6(host) ? AF_INET6 : AF_INET);
    try {
      await holder.bind({ hostname: host, port });
    } catch (error) {
      await holder.close();
      if ((error as SocketError).code === "EADDRINUSE") return null;
      throw error;
    }
    const held = (holder.getsockname() as InternetAddress).port;
    if (process.platform === "linux") this.#holders.push(holder);
    else await holder.close();
    return held;
  }

  /** The bundle. `read` gets the hash of each of the project's files from just before esbuild reads it. */
  async #bundle(
    read: Hashes,
    main: string | undefined,
    define: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    const plugin: Plugin = {
      name: SHIMMED,
      setup(build) {
        build.onResolve({ filter: /^socklet\/worker$/ }, ({ namespace }) =>
          namespace === SHIMMED ? undefined : { path: "socklet/worker", namespace: SHIMMED },
        );
        build.onLoad({ filter: /.*/, namespace: SHIMMED }, () => ({
          contents: SHIM,
          resolveDir: folder,
          loader: "js",
        }));
        build.onLoad({ filter: /.*/, namespace: "file" }, ({ path }) => {
          if (!path.includes("node_modules/")) read.set(path, hashOf(path));
          return undefined; // esbuild loads it as it would
        });
      },
    };
    const folder = dirname(resolve(this.#options.path));
    const entry =
      main === undefined
        ? { stdin: { contents: mainOf(this.#options.path, this.#app), resolveDir: folder, loader: "js" } }
        : { entryPoints: [main] };
    const { outputFiles, metafile } = await this.#packages.esbuild
      .build({
        ...entry,
        absWorkingDir: this.#folder,
        bundle: true,
        write: false,
        metafile: true,
        format: "esm",
        outfile: join(this.#folder, SCRIPT),
        sourcemap: "external",
        logLevel: "silent",
        external: ["cloudflare:*", "workerd:*", "node:*"],
        conditions: ["workerd", "worker", "browser", ...ownConditions()],
        define: { ...define, SOCKLET_DEV_PORTS: JSON.stringify(Object.fromEntries(this.#ports)) },
        plugins: [plugin],
      })
      .catch((error) => {
        this.#note(read, [resolve(this.#options.path), ...(main === undefined ? [] : [main])], true);
        throw bundleError(error);
      });
    this.#note(
      read,
      Object.keys(metafile.inputs)
        .filter((name) => !/^socklet-dev:|^<stdin>|node_modules\//.test(name))
        .map((name) => resolve(this.#folder, name)),
    );
    const textOf = (ending: string): string =>
      outputFiles.find(({ path }) => path.endsWith(ending))?.text ?? "";
    this.#map = new lazy.module.SourceMap(JSON.parse(textOf(".map")));
    return textOf(".js");
  }

  /**
   * Notes the contents of the bundle's files as they were before they were `read`: a save since then is a change, which the next version has.
   * If bundling failed, `more` files are followed, too.
   */
  #note(read: Hashes, paths: readonly string[], more = false): void {
    const all = more ? [...this.#hashes.keys(), ...paths] : paths;
    this.#hashes = new Map([...all.map((path) => [path, hashOf(path)] as const), ...read]);
    this.#watching.follow(this.#hashes.keys());
  }

  /** A stack whose lines point into the project's files. */
  #placed(stack: string): string {
    return stack.replace(/[^\s(]*worker\.js:(\d+):(\d+)/g, (place, line, column) => {
      const found = this.#map?.findOrigin(Number(line), Number(column));
      if (found === undefined || !("fileName" in found)) return place;
      return `file://${resolve(this.#folder, found.fileName)}:${found.lineNumber}:${found.columnNumber}`;
    });
  }

  #logged({ level, message }: Log): void {
    if (!message.startsWith(MARK)) {
      say(`workerd: ${level === "error" || level === "warn" ? `${level}: ` : ""}${message}`);
      return;
    }
    const event: SockletEvent = JSON.parse(message.slice(MARK.length), (_, value) =>
      revived(value, (stack) => this.#placed(stack)),
    );
    this.#options.onEvent({ ...event, server: `${event.server} (workerd)` });
  }
}

/** The export conditions under which this program itself was loaded: in the repository its sources are used. */
const ownConditions = (): readonly string[] =>
  fileURLToPath(import.meta.url).endsWith(".ts") ? ["socklet:source"] : [];

/** What esbuild found wrong, in one line. */
const bundleError = (error: unknown): Error => {
  const errors = isA(error, Error) ? peek(error, "errors") : undefined;
  const [first] = Array.isArray(errors) ? errors : [];
  if (first === undefined) return error as Error;
  const { text, location } = first as {
    text: string;
    location: { file: string; line: number; column: number } | null;
  };
  const at = location === null ? "" : ` (${location.file}:${location.line}:${location.column + 1})`;
  return new UsageError(`the Worker could not be bundled: ${text}${at}`, { cause: error });
};
