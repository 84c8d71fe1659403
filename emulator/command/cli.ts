#!/usr/bin/env node

/**
 * The command `socklet`: serves an app on real sockets, dials one handler, and drives a control plane.
 *
 * Exit status: 0 done (also after a signal that drained), 1 it could not be done (a port in use, a peer that
 * refused, a handler that threw, requests that had to be cut off), 2 it was asked wrongly (a module that does not
 * load, an unknown handler). What is wrong is said on stderr in one line: what it is, and what to do.
 */

import type { AsyncLocalStorage } from "node:async_hooks";
import { statSync } from "node:fs";
import { createRequire } from "node:module";
import { relative, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { MaybePromise } from "../../core/bytes/data.ts";
import { bearerToken } from "../../core/control/auth.ts";
import { type ControlClient, controlClient } from "../../core/control/client.ts";
import {
  BOUNDS,
  type ListenerEvent,
  type ListenerInfo,
  SESSION_STATES,
  type SessionEvent,
  type SessionInfo,
  type SessionSpec,
  type SessionState,
} from "../../core/control/plane.ts";
import { SESSION_LIMITS } from "../../core/control/session.ts";
import {
  isA,
  type Json,
  plain,
  printable,
  printableJson,
  describe as thrownAs,
  toJson,
} from "../../core/describe.ts";
import { SocketError, type SocketErrorCode } from "../../core/errors.ts";
import { formatAddress, parseAddress } from "../../core/net/address.ts";
import { wholeMs } from "../../core/options.ts";
import { type App, isApp, type Platform } from "../../core/serve/app.ts";
import { SECURE_TRANSPORTS, type SecureTransport } from "../../core/serve/connector.ts";
import type { SockletEvent } from "../../core/serve/events.ts";
import { DatagramRequestHandler, type HandlerClass } from "../../core/serve/handler.ts";
import type { StreamSocket } from "../../core/sockets/stream-socket.ts";
import { controlTokens } from "../app/control.ts";
import { controlEntry, type Entry, listing } from "../app/listing.ts";
import { type AppServer, serveApp, unlessAborted } from "../app/serve.ts";
import { lazy } from "../kernel/builtin.ts";
import { TCPConnector } from "../sockets/connector.ts";
import { FileStorage } from "../storage.ts";
import { onStop } from "./signals.ts";

const ABORT_GRACE = 1_000; // ms that an aborted handler has to notice, before the process ends without it
const SLOW = 3_000; // ms after which it is said what of the user's code is still waited for

// ---- What is said ----

/** Asked wrongly: exit status 2. */
class UsageError extends Error {}

/** Runs what reads the user's words: what it throws is a `UsageError`, and names `what` was read. */
const asked = <T>(what: string, read: () => T): T => {
  try {
    return read();
  } catch (error) {
    const said = thrownAs(error).message;
    throw new UsageError(said.includes(what) ? said : `${what}: ${said}`, { cause: error });
  }
};

// All that this command writes it writes by `say`, `print` and `printJson`: what a peer sent must not steer a terminal.

/** One line, whatever is in it. */
const oneLine = (text: string): string => printable(text.trim().replace(/\s*[\r\n]\s*/g, " "));

const say = (text: string): void => void process.stderr.write(`socklet: ${oneLine(text)}\n`);

/** Writes on stdout; resolves when it is out. */
const write = (text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    process.stdout.write(`${text}\n`, (error) => (error ? reject(error) : resolve()));
  });

const print = (text: string): Promise<void> => write(printable(text, true));
const printJson = (value: unknown, indent?: number): Promise<void> => write(inJson(value, indent));

/** `value` as JSON that may be printed. Throws as `toJson`. */
const inJson = (value: unknown, indent?: number): string => printableJson(toJson(value, indent));

// What to do, where the error does not say it. (EADDRINUSE and ERR_LIMIT do.)
const REMEDY: Partial<Record<SocketErrorCode, string>> = {
  ECONNREFUSED: "start the server, or check the host and port",
  ECONNRESET: "the peer went away in the middle, and only its own log can say why",
  EADDRNOTAVAIL: "give one of its own with --host, such as 127.0.0.1, or 0.0.0.0 for all of them",
  ENOENT: "check the path, and that the server is up",
  ERR_NAME: "check its spelling, or give an address such as 127.0.0.1",
  ERR_INCOMPLETE_READ: "the peer has to send the rest before it ends the connection",
};

/** Where in the user's own files `error` was thrown, or found by the parser: `app.ts:3:7`. */
const placeOf = (stack: string): string | undefined => {
  // Of the sources emulator/ and core/; of the package all that dist/ has.
  const ours = ["../", "../../core/"].map((folder) => new URL(folder, import.meta.url).href);
  const places = stack.match(/file:\/\/[^\s)]+?:\d+(:\d+)?(?=[\s)]|$)/g) ?? [];
  const place = places.find(
    (url) => !url.includes("/node_modules/") && !ours.some((folder) => url.startsWith(folder)),
  );
  if (place === undefined) return undefined;
  const [, url = "", position = ""] = /^(.*?)((?::\d+)+)$/.exec(place) ?? [];
  try {
    return shortPath(fileURLToPath(url)) + position;
  } catch {
    return undefined; // a stack can say anything
  }
};

const shortPath = (path: string): string => {
  const short = relative(process.cwd(), path);
  return short === "" || short.startsWith("..") ? path : short;
};

const withPlace = (said: string, error: unknown): string => {
  const place = placeOf(thrownAs(error).stack ?? "");
  return place === undefined || said.includes(place) ? said : `${said} (${place})`;
};

const describe = (error: unknown): string => {
  const { name, message, code } = thrownAs(error);
  if (isA(error, UsageError)) return message;
  if (!isA(error, SocketError)) return withPlace(name === "" ? message : `${name}: ${message}`, error);
  const remedy = SocketError.isCode(code) ? REMEDY[code] : undefined;
  return remedy === undefined ? message : `${message}; ${remedy}`;
};

/** Tells what `event` has to tell; more than that of an event with a handler's own words would be in the way. */
const eventJson = (event: SockletEvent): string => {
  const shown =
    event.type === "handler" ? { ...event, detail: plain(event.detail, SESSION_LIMITS.detailSize) } : event;
  return inJson(shown);
};

const logger =
  (verbose: boolean) =>
  (event: SockletEvent): void => {
    const peer = "address" in event && event.address !== null ? `  ${formatAddress(event.address)}` : "";
    const who = `${event.server}${peer}`;
    if (event.type === "error") say(`${who}  ${describe(event.error)}`);
    else if (event.type === "refused") say(`${who}  refused (${event.reason})`);
    else if (event.type === "lost") say(`${who}  a child process was lost: ${describe(event.error)}`);
    else if (event.type === "stuck") say(`${who}  did not end when it was aborted`);
    else if (verbose && event.type !== "listening") say(eventJson(event));
  };

// ---- What of the user's code is waited for ----

/** Waits for `work`; throws what `failure` gives where nothing is left in this process that could end it. */
const orIdle = async <T>(work: MaybePromise<T>, failure: () => Error): Promise<T> => {
  const idle = Promise.withResolvers<never>();
  const emptied = (): void => idle.reject(failure());
  process.once("beforeExit", emptied);
  try {
    return await Promise.race([work, idle.promise]);
  } finally {
    process.off("beforeExit", emptied);
  }
};

/** `orIdle()`, and says `slow()` where it takes long. */
const awaited = async <T>(work: MaybePromise<T>, slow: () => string, failure: () => Error): Promise<T> => {
  const timer = setTimeout(() => say(slow()), SLOW);
  timer.unref(); // else it would not be seen that nothing is left
  try {
    return await orIdle(work, failure);
  } finally {
    clearTimeout(timer);
  }
};

/** Whether something in this process listens. */
const listens = (): boolean =>
  process.getActiveResourcesInfo().some((name) => /^(TCPServer|PipeServer|UDP)Wrap$/.test(name));

// ---- What nobody caught ----

/** Where the name of the handler that runs is kept; none before Node 24, where it would cost each `await` of a handler. */
const namesOfHandlers = (): AsyncLocalStorage<string> | undefined =>
  Number.parseInt(process.versions.node, 10) < 24 ? undefined : new lazy.asyncHooks.AsyncLocalStorage();

/**
 * Tells, from now on, of the promises whose rejection nobody handles, and the errors that nobody catches, in place of
 * what Node does then; `thrown` is called after such an error, which may have left anything half done. A module that
 * listens for either by itself sees to it.
 */
const onUncaught = (names: AsyncLocalStorage<string> | undefined, thrown: () => void): void => {
  const tell = (what: string, error: unknown): void => {
    const name = names?.getStore();
    say(`${name === undefined ? "" : `${name}  `}${what}: ${describe(error)}`);
  };
  process.on("unhandledRejection", (error) => {
    if (process.listenerCount("unhandledRejection") === 1) tell("unhandled rejection", error);
  });
  process.on("uncaughtException", (error) => {
    if (process.listenerCount("uncaughtException") > 1) return;
    tell("uncaught exception", error);
    thrown();
  });
};

// ---- What is named: modules, apps, handlers ----

const ESM = 'put "type": "module" into the package.json beside it';

const loadRemedy = (path: string, error: unknown): string => {
  const { code, message } = thrownAs(error);
  switch (code) {
    case "ERR_APP":
      return "correct it there";
    case "ERR_MODULE_NOT_FOUND": {
      const [, name] = /^Cannot find package '([^']+)'/.exec(message) ?? [];
      return name === undefined ? "check that import; it needs the file's extension" : `npm install ${name}`;
    }
    case "ERR_UNKNOWN_FILE_EXTENSION":
      return "give a .ts, .mts, .js or .mjs module";
    case "ERR_REQUIRE_ESM":
      return ESM;
    case "ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX":
      return "Node runs TypeScript whose types can be erased; compile it, or write it without";
    default:
      return /import statement outside a module|Unexpected token 'export'/.test(message)
        ? ESM
        : `\`node ${path}\` tells more`;
  }
};

const load = async (path: string): Promise<Record<string, unknown>> => {
  const file = resolve(path);
  const is = statSync(file, { throwIfNoEntry: false });
  if (is === undefined)
    throw new UsageError(`${path} could not be loaded: there is no such file; check the path`);
  if (is.isDirectory())
    throw new UsageError(`${path} could not be loaded: it is a folder; name the module in it`);
  const failed = `${path} could not be loaded`;
  try {
    return await awaited(
      import(pathToFileURL(file).href),
      () =>
        listens()
          ? `${path} is still being loaded: it listens itself, and an await at its top level goes on. \`node ${path}\` runs a program that serves; here a module exports \`app\`, or handlers, and ends`
          : `${path} is still being loaded: an await at its top level has not ended`,
      () =>
        new UsageError(
          `${failed}: an await at its top level waits for what cannot come any more; \`node ${path}\` shows the line`,
        ),
    );
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const said = withPlace(describe(error), error);
    throw new UsageError(`${failed}: ${said}; ${loadRemedy(path, error)}`, { cause: error });
  }
};

const loadApp = async (path: string): Promise<App> => {
  const module = await load(path);
  const { app } = module;
  if (isApp(app)) return { ...app, context: (platform) => contextOf(app, platform, path) };
  const found =
    "app" in module
      ? "its `app` did not come from defineApp()"
      : `it exports ${Object.keys(module).join(", ") || "nothing"}`;
  throw new UsageError(
    `${path} is no app: it must have \`export const app = defineApp({ … })\`, but ${found}`,
  );
};

const contextOf = (app: App, platform: Platform, path: string): Promise<unknown> =>
  awaited(
    app.context(platform),
    () => `${path}: its context() has not ended yet`,
    () => new UsageError(`${path}: its context() waits for what cannot come any more`),
  );

// Not `instanceof`: a module may import another copy of the package than the one that this command is of.
const isHandler = (value: unknown): value is HandlerClass<StreamSocket> =>
  typeof value === "function" && typeof value.prototype?.run === "function";

const namesIn = (handlers: Readonly<Record<string, unknown>>): string =>
  Object.keys(handlers)
    .filter((name) => isHandler(handlers[name]))
    .join(", ") || "none";

/** The handler that `named` means: `module.ts#Name`, or a name in the app of `--app`. */
const loadHandler = async (
  named: string,
  appPath: string | undefined,
): Promise<{ handler: HandlerClass<StreamSocket>; app: App | undefined }> => {
  const hash = named.lastIndexOf("#");
  const path = hash < 0 ? undefined : named.slice(0, hash);
  const name = named.slice(hash + 1);
  if (path === undefined && appPath === undefined) {
    throw new UsageError(
      `which module has the handler "${named}"? Give module.ts#Name, or the app that declares it: --app app.ts`,
    );
  }
  const app = appPath === undefined ? undefined : await loadApp(appPath);
  const among: Readonly<Record<string, unknown>> =
    path === undefined ? (app as App).handlers : await load(path);
  const handler = Object.hasOwn(among, name) ? among[name] : undefined;
  if (!isHandler(handler)) {
    throw new UsageError(`there is no handler "${name}" in ${path ?? appPath}; it has: ${namesIn(among)}`);
  }
  const served = path === undefined ? (app as App).listeners.filter((at) => at.handler === handler) : [];
  const onlyDatagrams = served.length > 0 && served.every(({ carries }) => carries === "datagrams");
  if (handler.prototype instanceof DatagramRequestHandler || onlyDatagrams) {
    throw new UsageError(`"${name}" handles datagrams, which cannot be dialled; name a handler of streams`);
  }
  return { handler, app };
};

// ---- serve ----

/** The stop of a server: asked for by a signal, from the moment on when this is made, or by `ask()`. */
class Stop {
  readonly #asked = new AbortController();
  readonly #again = Promise.withResolvers<void>();

  constructor() {
    onStop({
      stop: (signal) => this.ask(signal),
      again: () => this.#again.resolve(),
      reload: () => say("SIGHUP: there is nothing to reload; SIGTERM stops"),
    });
  }

  /** Aborted by the first who asks; its reason is an error that says why. */
  get signal(): AbortSignal {
    return this.#asked.signal;
  }

  /** Resolves when it is asked for once more: then what runs is aborted. */
  get again(): Promise<void> {
    return this.#again.promise;
  }

  /** Asks for it; `why` begins the line that is said where something runs. */
  ask(why: string): void {
    this.#asked.abort(new SocketError("ECANCELED", why));
  }
}

/** Serves until the stop, then drains; asked once more it aborts what runs. Gives how many requests were cut off. */
const untilStopped = async (server: AppServer, stop: Stop, drainTimeout: number): Promise<number> => {
  const { signal } = stop;
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
  let cut = 0;
  const running = (): number => server.listeners.reduce((sum, listener) => sum + listener.info().running, 0);
  const count = running();
  // Begun before close() begins its own, so that it fires first, when those that are late still run.
  const late = setTimeout(() => {
    cut = running();
    if (cut > 0)
      say(`aborting ${cut} still running after ${wholeMs(drainTimeout)}; --drain gives them longer`);
  }, drainTimeout);
  const closed = server.close().finally(() => clearTimeout(late));
  if (count > 0) {
    const { message } = signal.reason as SocketError;
    const why = message.replace(/^ECANCELED: /, "");
    const draining = `${why}: draining ${count} running, ${wholeMs(drainTimeout)} at most; once more to abort`;
    setImmediate(say, draining); // not before the ports are closed
  }
  const aborted = stop.again.then(async () => {
    cut = running();
    server.abort();
    await new Promise((resolve) => setTimeout(resolve, ABORT_GRACE));
  });
  await Promise.race([closed, aborted]);
  return cut;
};

interface ServeFlags {
  host?: string;
  anyPort?: boolean;
  data: string;
  drain: number;
  control: boolean;
  controlPort?: number;
  verbose?: boolean;
}

const serve = async (path: string, flags: ServeFlags): Promise<void> => {
  const { host } = flags;
  if (host !== undefined) asked(`--host ${host}`, () => parseAddress({ hostname: host, port: 0 }));
  if (flags.control) asked("SOCKLET_TOKENS", () => controlTokens({}));
  const stop = new Stop(); // before all that takes time: the first listener may have a client at once
  const names = namesOfHandlers();
  onUncaught(names, () => {
    process.exitCode = 1;
    stop.ask("an uncaught exception");
  });
  try {
    await serveUntil(stop, path, flags, names);
  } catch (error) {
    if (!stop.signal.aborted || error !== stop.signal.reason) throw error; // else it was stopped before it served
  }
};

const serveUntil = async (
  stop: Stop,
  path: string,
  flags: ServeFlags,
  handlerName: AsyncLocalStorage<string> | undefined,
): Promise<void> => {
  const { host } = flags;
  const app = await unlessAborted(loadApp(path), stop.signal);
  const controlPort = flags.controlPort ?? (flags.anyPort ? 0 : undefined);
  const server = await serveApp(app, {
    ...(host !== undefined && { host }),
    anyPort: flags.anyPort ?? false,
    data: flags.data,
    module: pathToFileURL(resolve(path)).href,
    drainTimeout: flags.drain,
    signal: stop.signal,
    onEvent: logger(flags.verbose ?? false),
    handlerName,
    ...(flags.control && { control: { port: controlPort } }),
  }).catch((error) => {
    if (error === stop.signal.reason || isA(error, UsageError)) throw error;
    const { code, address } = thrownAs(error);
    if (code === "ERR_APP") throw new UsageError(`${path}: ${describe(error)}`, { cause: error });
    if (code === "EADDRINUSE") {
      const ofControl = address === `tcp://127.0.0.1:${flags.controlPort}`;
      const remedy = ofControl ? ", such as --control-port 0" : ", or give --any-port";
      throw new Error(describe(error) + remedy, { cause: error });
    }
    throw isA(error, SocketError) ? error : new Error(`${path}: ${describe(error)}`, { cause: error });
  });
  const stopped = untilStopped(server, stop, flags.drain);
  if (!stop.signal.aborted) await printListeners(server);
  if ((await stopped) > 0) process.exitCode = 1;
};

const printListeners = async ({ listeners, control }: AppServer): Promise<void> => {
  const entries = listeners.map((listener): Entry => [listener.name, listener.url, listener.try]);
  if (control !== null) entries.push(controlEntry(control.url, control.token, "SOCKLET_TOKENS"));
  await print(listing(entries)).catch(() => {}); // nobody reads it: that does not keep it from serving
};

// ---- dial ----

interface DialFlags {
  app?: string;
  params?: string;
  secureTransport: SecureTransport;
  connectTimeout: number;
  data: string;
  verbose?: boolean;
}

const paramsOf = (words: string[], json: string | undefined): unknown => {
  if (json === undefined) return words;
  if (words.length > 0) throw new UsageError("give the params as words or as --params, not both");
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new UsageError(
      `--params is not JSON: ${(error as Error).message}; quote it for the shell: --params '["GET", "key"]'`,
    );
  }
};

const dial = async (address: string, named: string, words: string[], flags: DialFlags): Promise<void> => {
  asked(address, () => parseAddress(address));
  const params = paramsOf(words, flags.params);
  onUncaught(undefined, () => process.exit(1));
  const { handler, app } = await loadHandler(named, flags.app);
  const context = await app?.context({
    name: "node",
    bindings: process.env,
    storage: new FileStorage(flags.data),
  });
  const { connectTimeout, secureTransport } = flags;
  const onEvent = logger(flags.verbose ?? false);
  const connector = asked(
    address,
    () => new TCPConnector(address, handler, { context, connectTimeout, secureTransport, onEvent }),
  );
  const stop = new AbortController();
  const interrupted = new Promise<never>((_, reject) => {
    onStop({
      stop: (signal) => {
        const reason = new SocketError("ECANCELED", `interrupted by ${signal}`);
        stop.abort(reason);
        setTimeout(reject, ABORT_GRACE, reason); // for a handler that does not notice
      },
    });
  });
  try {
    const result = await orIdle(
      Promise.race([connector.run({ params, signal: stop.signal }), interrupted]),
      () => new SocketError("ERR_HANDLER", "its handle() waits for what cannot come any more"),
    );
    await printJson(result, 2);
  } catch (error) {
    const failed: unknown = stop.signal.aborted ? stop.signal.reason : error;
    const late = isA(failed, SocketError) && failed.code === "ETIMEDOUT" && failed.address !== undefined;
    const said =
      describe(failed) + (late ? "; check the address, or give it longer with --connect-timeout" : "");
    throw new Error(said.includes(address) ? said : `${named} at ${address}: ${said}`, { cause: failed });
  }
};

// ---- sessions: the control plane of an emulator or a Worker ----

interface ControlFlags {
  url?: string;
  token?: string;
  json?: boolean;
}

const clientOf = ({ url, token }: ControlFlags): ControlClient => {
  if (!url) {
    throw new UsageError(
      "which control plane? Give --url, or set SOCKLET_URL; `socklet serve` prints its own",
    );
  }
  if (!/^https?:$/.test(URL.parse(url)?.protocol ?? "")) {
    throw new UsageError(`--url ${url} is no URL of a control plane; give one such as http://127.0.0.1:7100`);
  }
  if (!token) {
    throw new UsageError(`${url} takes a token: give --token, or set SOCKLET_TOKEN`);
  }
  if (bearerToken(`Bearer ${token}`) === undefined) {
    throw new UsageError("the token has characters that no token has; check --token, or SOCKLET_TOKEN");
  }
  return controlClient(url, { token });
};

/** What a control plane answered, as the user is told it. */
const answered = (error: unknown, { url }: ControlFlags, id?: string): unknown => {
  if (!(error instanceof SocketError)) return error;
  const { status } = (error.cause ?? {}) as { status?: number };
  const said = error.message.replace(`${error.code}: `, "");
  if (status === 401) return new Error(`${url} does not take this token; check --token, or SOCKLET_TOKEN`);
  if (status === 404 && id !== undefined) {
    return new Error(`${url} has no session ${id}; \`socklet sessions list\` shows those that it has`);
  }
  if (status === 422) return new UsageError(`${url}: ${said}`);
  if (error.code === "ERR_INTERNAL") return new Error(`${url}: ${said}; check --url, or SOCKLET_URL`);
  return status === undefined ? error : new Error(`${url}: ${said}`);
};

/** Runs one command of `sessions`; who leaves while it prints (`| head -1`) has had enough. */
const withControl = async (
  flags: ControlFlags,
  id: string | undefined,
  body: (sessions: ControlClient["sessions"], control: ControlClient) => Promise<void>,
): Promise<void> => {
  try {
    const control = clientOf(flags);
    await body(control.sessions, control);
  } catch (error) {
    if ((error as { code?: string }).code !== "EPIPE" || error instanceof SocketError) {
      throw answered(error, flags, id);
    }
  }
};

const columns = (given: readonly (readonly string[])[]): string => {
  const rows = given.map((row) => row.map(oneLine));
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows.map((row) => oneLine(row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join("  "))).join("\n");
};

const HEAD = ["ID", "STATE", "HANDLER", "", "PEER", "READ", "WRITTEN", "STARTED"];

const rowOf = (info: SessionInfo): string[] => [
  info.id,
  info.state,
  info.handler,
  info.direction === "inbound" ? "from" : "to",
  info.peer ?? info.address,
  String(info.bytesRead),
  String(info.bytesWritten),
  info.startedAt,
];

/** A record, as JSON or in words. */
const printSession = (info: SessionInfo, { json }: ControlFlags): Promise<void> => {
  if (json) return printJson(info);
  const { result, error, ...rest } = info;
  const shown = { ...rest, ...(result !== null && { result: inJson(result) }) };
  const fields: (readonly [string, string | number | null])[] = Object.entries(shown);
  if (error !== null) fields.push(["error", error.message]);
  return print(columns(fields.map(([name, value]) => [name, String(value ?? "-")])));
};

interface ListFlags extends ControlFlags {
  state?: SessionState;
  handler?: string;
  limit?: number;
  before?: string;
}

const listSessions = ({ state, handler, limit, before, ...flags }: ListFlags): Promise<void> =>
  withControl(flags, undefined, async (control) => {
    const page = await control.list({ state, handler, limit, before });
    if (flags.json) return printJson(page);
    if (page.sessions.length === 0) return print("no sessions");
    await print(columns([HEAD, ...page.sessions.map(rowOf)]));
    if (page.next !== null) await print(`there are more: --before ${page.next}`);
  });

const showSession = (id: string, flags: ControlFlags): Promise<void> =>
  withControl(flags, id, async (control) => printSession(await control.get(id), flags));

const LISTENERS =
  "NAME ADDRESS SERVE STATE WAITING RUNNING SERVED FAILED REFUSED READ WRITTEN CHILDREN".split(" ");

const listenerRow = (info: ListenerInfo): string[] => {
  const { name, address, serve, state, suspended, children } = info;
  const { waiting, running, served, failed, refused, bytesRead, bytesWritten } = info;
  const counts = [waiting, running, served, failed, refused, bytesRead, bytesWritten].map(String);
  const processes =
    children === null
      ? "-"
      : `${children.idle} idle, ${children.busy} busy, ${children.starting} starting, ${children.restarted} restarted`;
  const how = suspended === null ? state : `${state}, suspended (${suspended})`;
  return [name, address, serve, how, ...counts, processes];
};

interface ListenersFlags extends ControlFlags {
  follow?: boolean;
  after?: number;
}

const listListeners = ({ follow, after, ...flags }: ListenersFlags): Promise<void> =>
  withControl(flags, undefined, async (_, control) => {
    if (follow) return printEvents(control.listenerEvents({ after, signal: untilSignal() }), flags);
    const listeners = await control.listeners();
    if (flags.json) return printJson(listeners);
    await print(columns([LISTENERS, ...listeners.map(listenerRow)]));
  });

/** Aborts at Ctrl-C. */
const untilSignal = (): AbortSignal => {
  const stop = new AbortController();
  onStop({ stop: () => stop.abort(), again: () => process.exit(1) });
  return stop.signal;
};

const printEvents = async (
  events: AsyncIterable<SessionEvent | ListenerEvent>,
  { json }: ControlFlags,
): Promise<void> => {
  for await (const event of events) await (json ? printJson(event) : print(eventLine(event)));
};

const eventLine = ({ id, at, type, ...more }: SessionEvent | ListenerEvent): string => {
  const detail = Object.entries(more).map(([name, value]) => {
    const message = (value as { message?: unknown } | null)?.message; // of an error, which says its code
    return `${name} ${typeof value === "object" ? (message ?? inJson(value)) : value}`;
  });
  return oneLine([at, String(id).padStart(4), type.padEnd(10), detail.join(", ")].join("  "));
};

const followSession = (id: string, flags: ControlFlags & { after?: number }): Promise<void> =>
  withControl(flags, id, async (control) => {
    const { after } = flags;
    await printEvents(control.follow(id, { after, signal: untilSignal() }), flags);
  });

interface RunFlags extends ControlFlags {
  address?: string;
  params?: string;
  background?: boolean;
  deadline?: number;
  connectTimeout?: number;
  secureTransport?: SecureTransport;
}

const runSession = (name: string, words: string[], flags: RunFlags): Promise<void> =>
  withControl(flags, undefined, async (control) => {
    const { address, background, deadline, connectTimeout, secureTransport, json } = flags;
    const spec: SessionSpec = {
      ...(address === undefined ? { dial: name } : { handler: name, address }),
      params: paramsOf(words, flags.params) as Json,
      deadline,
      connectTimeout,
      secureTransport,
    };
    if (background) {
      const info = await control.start(spec);
      return json ? printJson(info) : print(info.id);
    }
    const info = await control.run(spec);
    if (json) await printJson(info);
    else if (info.error === null) await printJson(info.result, 2);
    if (info.error === null) return;
    const { code, message } = info.error;
    const said = describe(new SocketError(code, message.replace(`${code}: `, "")));
    throw new Error(said.includes(info.address) ? said : `${info.handler} at ${info.address}: ${said}`);
  });

const sendToSession = (
  id: string,
  words: string[],
  flags: ControlFlags & { crlf?: boolean },
): Promise<void> =>
  withControl(flags, id, async (control) => {
    const given = words.join(" ") + (flags.crlf ? "\r\n" : "");
    let sent = 0;
    let info: SessionInfo | undefined;
    // Standard input as it comes: what is typed is sent line by line.
    for await (const bytes of given === "" ? process.stdin : [Buffer.from(given)]) {
      info = await control.send(id, bytes);
      sent += bytes.length;
    }
    if (info === undefined) throw new UsageError("nothing to send: give it as words, or on standard input");
    await (flags.json ? printJson(info) : print(`${sent} bytes sent`));
  });

const halfCloseSession = (id: string, flags: ControlFlags): Promise<void> =>
  withControl(flags, id, async (control) => printSession(await control.halfClose(id), flags));

const endSession = (id: string, flags: ControlFlags): Promise<void> =>
  withControl(flags, id, async (control) => printSession(await control.end(id), flags));

// ---- The words ----

const milliseconds = (text: string): number => {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value < 2 ** 31) return value;
  throw new InvalidArgumentError("Give milliseconds, 1 or more.");
};

const portNumber = (text: string): number => {
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError("Give a port, 0 to 65535; 0 is a free one.");
};

const count =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Give a number, ${least} to ${most}.`);
  };

const program = new Command("socklet")
  .description("Socket handlers, written once: serve an app on real sockets, or dial with one handler.")
  .version(createRequire(import.meta.url)("socklet/package.json").version)
  .exitOverride()
  .configureOutput({
    outputError: (text) => say(`${text.replace(/^error: |\.?\s*$/g, "")}; see socklet --help`),
  });

program
  .command("serve")
  .description("serve all that an app listens with, until Ctrl-C")
  .argument("<module>", "a module with `export const app = defineApp({ … })`")
  .option("--host <host>", "listen on this host in place of the app's")
  .option("--any-port", "listen on free ports in place of the app's; its `dial` follows")
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--drain <ms>", "how long running requests may go on after Ctrl-C", milliseconds, 10_000)
  .option("--control-port <port>", "serve the control routes on this port (7100, if it is free)", portNumber)
  .option("--no-control", "serve no control routes")
  .option("--verbose", "tell events of requests, too, not errors alone")
  .action(serve);

program
  .command("dial")
  .description("dial an address, run one handler on the connection, and print what it returns as JSON")
  .argument("<address>", "tcp://host:port or unix:/path")
  .argument("<handler>", "module.ts#Name, or a name in the app of --app")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--app <module>", "the app that has the handler, and its context")
  .option("--params <json>", "params that are not words")
  .addOption(
    new Option("--secure-transport <how>", "TLS from the first byte, or when the handler asks")
      .choices(SECURE_TRANSPORTS)
      .default("off"),
  )
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds, 10_000)
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--verbose", "tell events of requests, too, not errors alone")
  .action(dial);

const sessions = program
  .command("sessions")
  .description("list, watch, start and end the sessions of an emulator or a Worker")
  .addOption(new Option("--url <url>", "its control plane").env("SOCKLET_URL"))
  .addOption(new Option("--token <token>", "one of its tokens").env("SOCKLET_TOKEN"))
  .option("--json", "print JSON")
  .configureHelp({ showGlobalOptions: true });

/** Commander's action with the options of `sessions` among its own: its arguments, then all options. */
const withFlags =
  <Given extends unknown[]>(action: (...given: Given) => Promise<void>) =>
  (...given: unknown[]): Promise<void> => {
    const command = given.at(-1) as Command;
    return action(...([...given.slice(0, -2), command.optsWithGlobals()] as Given));
  };

sessions
  .command("list")
  .description("list sessions, newest first")
  .addOption(new Option("--state <state>", "only those in this state").choices(SESSION_STATES))
  .option("--handler <name>", "only those of this handler")
  .option("--limit <count>", "how many at most", count(1, BOUNDS.maxPageSize))
  .option("--before <id>", "only those older than this one")
  .action(withFlags(listSessions));

sessions
  .command("listeners")
  .description("show what listens there, and its counts; or what it tells")
  .option("--follow", "print what its servers tell, until they are closed or Ctrl-C")
  .option("--after <event>", "only what came after this event's number", count(0, Number.MAX_SAFE_INTEGER))
  .action(withFlags(listListeners));

sessions.command("show").description("show one session").argument("<id>").action(withFlags(showSession));

sessions
  .command("follow")
  .description("print what happens to a session, until it is over or Ctrl-C")
  .argument("<id>")
  .option("--after <event>", "only what came after this event's number", count(0, Number.MAX_SAFE_INTEGER))
  .action(withFlags(followSession));

sessions
  .command("run")
  .description("run a session there, and print its result as JSON")
  .argument("<name>", "an entry of the app's `dial`; with --address a handler")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--address <address>", "dial this: tcp://host:port, which the app's `allow` must name")
  .option("--params <json>", "params that are not words")
  .option("--background", "do not wait for its end; print its id")
  .option("--deadline <ms>", "how long it may last", milliseconds)
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds)
  .addOption(new Option("--secure-transport <when>", "TLS").choices(SECURE_TRANSPORTS))
  .action(withFlags(runSession));

sessions
  .command("send")
  .description("send bytes on a session's connection")
  .argument("<id>")
  .argument("[words...]", "the text to send; without any, what comes on standard input")
  .option("--crlf", "end the text with CR LF")
  .action(withFlags(sendToSession));

sessions
  .command("half-close")
  .description("end our direction of a session's connection")
  .argument("<id>")
  .action(withFlags(halfCloseSession));

sessions
  .command("end")
  .description("end a session: its connection is reset")
  .argument("<id>")
  .action(withFlags(endSession));

process.stdout.on("error", () => {}); // who reads it may leave (`| head -1`); print() tells
process.stderr.on("error", () => {}); // a terminal that went away; what still runs goes on to its end

try {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 22 || (major === 22 && minor < 18)) {
    throw new UsageError(
      `this needs Node 22.18 or newer, which runs TypeScript as it is; this is ${process.version}`,
    );
  }
  await program.parseAsync();
} catch (error) {
  if (isA(error, CommanderError)) {
    process.exitCode = error.exitCode === 0 ? 0 : 2; // help is no error; commander has said the rest
  } else {
    say(describe(error).replace(/^Error: /, ""));
    process.exitCode = isA(error, UsageError) ? 2 : 1;
  }
}
process.stderr.write("", () => process.exit()); // what a handler left running does not keep the process
