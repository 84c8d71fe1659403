/** `socklet serve`: serves an app until it is stopped, then drains. */

import type { AsyncLocalStorage } from "node:async_hooks";
import type { App } from "../../../core/app/app.ts";
import { deadline, within } from "../../../core/bytes/alarm.ts";
import { tokenEntries } from "../../../core/control/http/auth.ts";
import { isA, describe as thrownAs } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { SockletEvent } from "../../../core/handlers/events.ts";
import { parseAddress } from "../../../core/net/address.ts";
import type { EdgeRuleName } from "../../../core/net/edge.ts";
import { wholeMs } from "../../../core/options.ts";
import type { AppServer } from "../../app/app-server.ts";
import { controlTokens } from "../../app/control/control-tokens.ts";
import type { ListenDescriptor } from "../../app/listeners/descriptors.ts";
import { controlEntry, type Entry, inspectorEntry, listing } from "../../app/listeners/listing.ts";
import { unlessAborted } from "../../app/open-listeners.ts";
import { openApp } from "../../app/serve.ts";
import { fs, join, pathToFileURL, resolve } from "../../builtin.ts";
import type { ClusterServer } from "../../cluster/cluster.ts";
import { checkFolder } from "../../storage.ts";
import type { RecordFolder } from "../../wire/transcripts/folder.ts";
import { noteRunning } from "../control/running.ts";
import {
  asked,
  describe,
  type LogFormat,
  logger,
  print,
  say,
  setLog,
  UsageError,
} from "../terminal/output.ts";
import { ABORT_GRACE, onStop } from "../terminal/signals.ts";
import { loadApp } from "../user-code/modules.ts";
import { namesOfHandlers, onUncaught } from "../user-code/uncaught.ts";
import { selfSigned } from "../wire/self-signed.ts";
import { activated } from "./activation.ts";
import { notify } from "./notify.ts";
import { newTicketKeys, Restarts } from "./restart.ts";
import { Predecessor } from "./successor.ts";

/** The stop of a server, requested by a signal from its construction on, or by `ask()`. */
class Stop {
  readonly #asked = new AbortController();
  /** The action of a SIGHUP once the app is served. */
  reload: () => void = () => say("SIGHUP: the app is not served yet; SIGTERM stops");
  /** Called with each server whose drain begins. */
  draining: () => void = () => {};
  /** The action of a SIGUSR2 once the app is served. */
  restart: () => void = () => say("SIGUSR2: the app is not served yet");
  readonly #again = Promise.withResolvers<void>();

  constructor() {
    onStop({
      stop: (signal) => this.ask(signal),
      again: () => this.#again.resolve(),
      reload: () => this.reload(),
      restart: () => this.restart(),
    });
  }

  /** Aborted by the first request to stop; its reason is an error that says why. */
  get signal(): AbortSignal {
    return this.#asked.signal;
  }

  /** Resolves when a stop is requested again: then running requests are aborted. */
  get again(): Promise<void> {
    return this.#again.promise;
  }

  /** Requests a stop; `why` begins the line that is printed if something runs. */
  ask(why: string): void {
    this.#asked.abort(new SocketError("ECANCELED", why));
  }
}

/** The same for a cluster: its workers drain together. Rejects if it has given up. */
const untilClusterStopped = async (
  server: ClusterServer,
  { signal, again }: Stop,
  drainTimeout: number,
): Promise<number> => {
  const asked = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve());
  });
  await Promise.race([asked, server.over]);
  if (signal.aborted) {
    const why = (signal.reason as SocketError).message.replace(/^ECANCELED: /, "");
    say(
      `${why}: ${server.workers.length} workers drain, ${wholeMs(drainTimeout)} at most; once more to abort`,
    );
  }
  void again.then(() => server.abort());
  const cut = await server.close();
  if (cut > 0) say(`aborted ${cut} still running after ${wholeMs(drainTimeout)}; --drain gives them longer`);
  return cut;
};

/** Serves until the stop, then drains; if the stop is requested again, it aborts running requests. Resolves to the number of requests that were cut off. */
const untilStopped = async (
  server: AppServer,
  stop: Stop,
  drainTimeout: number,
  drainDelay: number,
): Promise<number> => {
  const { signal } = stop;
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
  let cut = 0;
  const running = (): number => server.listeners.reduce((sum, listener) => sum + listener.info().running, 0);
  const why = (signal.reason as SocketError).message.replace(/^ECANCELED: /, "");
  let stopTimer: (() => void) | undefined;
  // Set before that server sets its own timer, so that this fires first, while the late requests still run.
  stop.draining = () => {
    stop.draining = () => {};
    stopTimer = deadline(drainTimeout, () => {
      cut = running();
      if (cut > 0)
        say(`aborting ${cut} still running after ${wholeMs(drainTimeout)}; --drain gives them longer`);
    });
    const draining = `${why}: draining ${running()} running, ${wholeMs(drainTimeout)} at most; once more to abort`;
    setImmediate(say, draining); // not before the ports are closed
  };
  if (drainDelay > 0) say(`${why}: no longer ready; closing in ${wholeMs(drainDelay)}; once more to abort`);
  const closed = server.close().finally(() => stopTimer?.());
  const aborted = stop.again.then(async () => {
    cut = running();
    server.abort();
    await within(closed, ABORT_GRACE);
  });
  await Promise.race([closed, aborted]);
  return cut;
};

export interface ServeFlags {
  workers?: number | "auto";
  reusePort?: boolean;
  fd?: readonly ListenDescriptor[];
  host?: string;
  anyPort?: boolean;
  data: string;
  drain: number;
  drainDelay: number;
  control: boolean;
  tls?: "self-signed";
  controlPort?: number;
  inspect?: boolean;
  verbose?: boolean;
  log?: LogFormat;
  record?: string;
  edge?: boolean;
  edgeExcept?: readonly EdgeRuleName[];
}

/** What differs for `socklet dev`: it serves one version of the app after the other. */
interface Following {
  /** The tokens of the control routes, if the environment has none. */
  readonly tokens: string | undefined;
  /** Loads the first version. */
  load(signal: AbortSignal): Promise<App>;
  /** The first version is served; until the signal. */
  served(server: AppServer, signal: AbortSignal, app: App): void;
}

export const serve = async (path: string, flags: ServeFlags, following?: Following): Promise<void> => {
  const { host } = flags;
  setLog(flags.log ?? (process.stderr.isTTY ? "pretty" : "json"));
  if (host !== undefined) asked(`--host ${host}`, () => parseAddress({ hostname: host, port: 0 }));
  asked("--data", () => checkFolder("--data", flags.data));
  if (flags.control) asked("SOCKLET_TOKENS", () => controlTokens({}));
  const stop = new Stop(); // before anything that takes time: the first listener may have a client at once
  const names = namesOfHandlers();
  onUncaught(names, () => {
    if (following !== undefined) return; // the next save may fix it
    process.exitCode = 1;
    stop.ask("an uncaught exception");
  });
  try {
    await serveUntil(stop, path, flags, names, following);
  } catch (error) {
    if (!stop.signal.aborted || error !== stop.signal.reason) throw error; // else it was stopped before it served
  }
};

const serveUntil = async (
  stop: Stop,
  path: string,
  flags: ServeFlags,
  handlerName: AsyncLocalStorage<string> | undefined,
  following: Following | undefined,
): Promise<void> => {
  const { host } = flags;
  const app = await unlessAborted(following?.load(stop.signal) ?? loadApp(path), stop.signal);
  if (app !== undefined && app.listeners.length === 0 && !flags.control) {
    throw new UsageError(`${path} listens nowhere, and with --no-control nothing could start its dials`);
  }
  const certificate = flags.tls === "self-signed" ? selfSigned() : undefined;
  const controlPort = flags.controlPort ?? (flags.anyPort ? 0 : undefined);
  const log = logger(flags.verbose ?? false);
  const predecessor = Predecessor.of();
  const inherited = await predecessor?.inheritance;
  const ticketKeys = inherited?.ticketKeys ?? newTicketKeys();
  const all = [...(flags.fd ?? []), ...activated()];
  const ofControl = app.listeners.some(({ name }) => name === "control")
    ? undefined
    : all.find(({ name }) => name === "control");
  const descriptors = all
    .map((one, i) => ({ ...one, removePath: inherited?.removePaths[i] ?? false }))
    .filter(({ fd }) => fd !== ofControl?.fd);
  const module = pathToFileURL(resolve(path)).href;
  const recorded = flags.record === undefined ? undefined : await recordInto(flags.record, flags);
  const tokens = inherited?.tokens ?? following?.tokens;
  const options = {
    ...(host !== undefined && { host }),
    anyPort: flags.anyPort ?? false,
    data: flags.data,
    ...(certificate && { certificate }),
    drainTimeout: flags.drain,
    drainDelay: flags.drainDelay,
    signal: stop.signal,
    onEvent: (event: SockletEvent) => {
      if (event.type === "draining") stop.draining();
      log(event);
    },
    descriptors,
    ticketKeys,
    ...((flags.edge || flags.edgeExcept) && { edge: { except: flags.edgeExcept ?? [] } }),
    ...(flags.control && {
      control: {
        port: controlPort,
        inspect: flags.inspect ?? false,
        ...(tokens && { tokens }),
        ...(ofControl && { fd: ofControl.fd }),
      },
    }),
  };
  const hosting = {
    sink: recorded,
    ...(predecessor !== null && {
      after: predecessor.released,
      spare: ({ name }: ListenDescriptor) =>
        say(`${name}: the app no longer has this listener; its socket is closed`),
    }),
  };
  const { workers } = flags;
  const opening =
    workers === undefined
      ? openApp(app, { ...options, module, handlerName }, hosting)
      : (await import("../../cluster/cluster.ts")).openCluster(
          app,
          module,
          {
            ...options,
            workers,
            reusePort: flags.reusePort ?? false,
            requestEvents: (flags.verbose ?? false) || flags.log === "json",
          },
          hosting,
        );
  const server = await opening.catch((error) => {
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
  stop.reload = () => {
    const count = server.reload();
    const read = `the certificates of ${count === 1 ? "one listener" : `${count} listeners`} are read again`;
    say(`SIGHUP: ${count === 0 ? "there is nothing to reload; SIGTERM stops" : read}`);
  };
  const restarts = new Restarts(server, { ticketKeys, tokens }, stop.signal);
  stop.restart = () => void restarts.begin();
  const stopped =
    "over" in server
      ? untilClusterStopped(server, stop, flags.drain)
      : untilStopped(server, stop, flags.drain, flags.drainDelay);
  stopped.catch(() => {}); // thrown below
  // Before the listeners are printed: who has read that it serves may run `socklet sessions` at once.
  const { control } = server;
  const note =
    control === null
      ? null
      : noteRunning(path, control.url, control.token ?? firstOf(tokens), {
          before: predecessor?.pid ?? null,
        });
  restarts.onRefused = (why) => note?.refuse(why);
  if (!stop.signal.aborted) {
    if (predecessor === null) await printListeners(server, flags.inspect ?? false);
    await notify("READY=1", `MAINPID=${process.pid}`);
  }
  if ("replace" in server) following?.served(server, stop.signal, app);
  if (!stop.signal.aborted) predecessor?.serving(); // now it may end: the note of its successor exists
  const cut = await Promise.race([stopped, restarts.replaced.then(() => "replaced" as const)]).finally(() =>
    note?.forget(),
  );
  await recorded?.written();
  if (cut === "replaced") return; // another process serves
  await notify("STOPPING=1");
  if (cut > 0) process.exitCode = 1;
};

/** The recorder that writes everything that passes into a folder: `--record`. Throws `UsageError`. */
const recordInto = async (folder: string, { workers, control }: ServeFlags): Promise<RecordFolder> => {
  if (workers !== undefined)
    throw new UsageError("--record is for an app that one process serves: leave out --workers");
  if (!control) throw new UsageError("--record needs the control routes: leave out --no-control");
  const [{ RecordFolder }, { toFile }] = await Promise.all([
    import("../../wire/transcripts/folder.ts"),
    import("../wire/proxy.ts"),
  ]);
  asked(`--record ${folder}`, () => fs.mkdirSync(folder, { recursive: true, mode: 0o700 })); // the bytes may be secret
  const lost = (name: string) => (error: Error) => say(`--record ${join(folder, name)}: ${error.message}`);
  return new RecordFolder(
    (name) => toFile(join(folder, name), lost(name)),
    (name) => say(`--record ${join(folder, name)}: the disk is too slow; some of what passed is not in it`),
  );
};

export const firstOf = (tokens: string | undefined): string | null =>
  tokens === undefined ? null : (tokenEntries(tokens)[0]?.token ?? null);

const printListeners = async (
  { listeners, control }: Pick<ClusterServer, "listeners" | "control">,
  inspects: boolean,
): Promise<void> => {
  const entries = listeners.map((listener): Entry => [listener.name, listener.url, listener.try]);
  if (control !== null) {
    entries.push(controlEntry(control.url, control.token, "SOCKLET_TOKENS"));
    if (inspects) entries.push(inspectorEntry(control.url, control.token));
  }
  await print(listing(entries)).catch(() => {}); // its reader is gone, which does not stop it from serving
};
