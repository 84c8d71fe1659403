/** `socklet dev`: serves an app, and after each save uses its new handlers for new connections. */

import type { App } from "../../../core/app/app.ts";
import { describe as thrownAs } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import { formatAddress } from "../../../core/net/address.ts";
import { wholeMs } from "../../../core/options.ts";
import type { AppServer, Replaced } from "../../app/app-server.ts";
import { CONTROL_PORT } from "../../app/control/control.ts";
import { controlTokens } from "../../app/control/control-tokens.ts";
import { listing } from "../../app/listeners/listing.ts";
import { dirname, fs, join, relative } from "../../builtin.ts";
import { noteRunning } from "../control/running.ts";
import { devTokens } from "../project/tokens.ts";
import { describe, logger, print, say, setLog, showPlace } from "../terminal/output.ts";
import { onStop } from "../terminal/signals.ts";
import { Versions } from "../user-code/versions.ts";
import { firstOf as firstToken, type ServeFlags, serve } from "./serve.ts";
import type { AppInWorkerd, WorkerdOptions } from "./workerd.ts";

/** The tokens of a project that is also deployed; otherwise the server makes one for itself. */
const tokensOf = (path: string): string | undefined => {
  const folders = [process.cwd(), dirname(path)];
  const project = folders.find((one) =>
    ["wrangler.toml", "wrangler.json", "wrangler.jsonc"].some((name) => fs.existsSync(join(one, name))),
  );
  if (process.env.SOCKLET_TOKENS?.trim() || project === undefined) return undefined;
  const { tokens, path: said, isNew } = devTokens(project);
  if (isNew) say(`${said} was created, with a token for the control routes`);
  return tokens ?? undefined;
};

/** What a save did to the listeners, in words. */
const words = ({ opened, closed, reopened }: Replaced): string =>
  [
    ...opened.map((url) => `; ${url} is opened`),
    ...closed.map((url) => `; ${url} accepts no more`),
    ...reopened.map((url) => `; ${url} is opened again, with its new options`),
  ].join("");

const showError = (error: unknown, then: string): void => {
  say(`${describe(error)}; ${then}`);
  showPlace(thrownAs(error).stack === undefined ? error : ((error as { cause?: unknown }).cause ?? error));
};

/** The options that `socklet dev` has besides those of `socklet serve`. */
interface DevFlags extends ServeFlags {
  readonly runtime: Runtime;
}

const RUNTIMES = ["node", "workerd", "both"] as const;
type Runtime = (typeof RUNTIMES)[number];

/** Loads the first version that can be loaded, and reports what is wrong until then. */
const firstOf = async (versions: Versions, signal: AbortSignal): Promise<App> => {
  for (;;) {
    try {
      return await versions.load();
    } catch (error) {
      showError(error, "waiting for a save that fixes it");
      await versions.changed(signal);
    }
  }
};

/** Takes each version that can be loaded, until the signal. `take` returns what it did, in words. */
const follow = async (
  versions: Versions,
  signal: AbortSignal,
  take: (app: App) => Promise<string>,
): Promise<void> => {
  let good = versions.number;
  for (;;) {
    const changed = await versions.changed(signal);
    const began = performance.now();
    const { number } = versions;
    const what = changed.map((file) => relative(process.cwd(), file)).join(", ");
    const taken = async (): Promise<void> => {
      const app = await versions.load();
      if (number !== versions.number || signal.aborted) return; // a later version exists already
      const did = await take(app);
      good = number;
      say(`version ${number}: ${what} (${wholeMs(performance.now() - began)})${did}`);
    };
    // Not awaited: a version whose top level waits for ever would keep the next one from being seen.
    void taken().catch((error) => {
      if (!signal.aborted) showError(error, `version ${good} keeps serving`);
    });
  }
};

const followed = (following: Promise<void>, versions: Versions, signal: AbortSignal): void => {
  following.catch((error) => {
    versions.close();
    if (!signal.aborted) say(`no longer watching for saves: ${describe(error)}`);
  });
};

/** Prints which parts of the app do not run in workerd. */
const sayMissing = (workerd: AppInWorkerd): void => {
  for (const { name, endpoint } of workerd.missing())
    say(`${name} (workerd): a Worker has no listener at ${formatAddress(endpoint)}`);
};

export const dev = async (path: string, given: DevFlags): Promise<void> => {
  const flags: DevFlags = {
    ...given,
    log: given.log ?? "pretty", // also where an editor shows it
    inspect: given.inspect ?? true,
  };
  const versions = new Versions(path);
  const tokens = flags.control ? tokensOf(path) : undefined;
  try {
    if (flags.runtime === "workerd") await devInWorkerd(path, flags, versions, tokens);
    else await devInNode(path, flags, versions, tokens);
  } finally {
    versions.close();
  }
};

/** Serves in Node; with `both` also in workerd, on the ports after Node's. */
const devInNode = async (
  path: string,
  flags: DevFlags,
  versions: Versions,
  tokens: string | undefined,
): Promise<void> => {
  let beside: Promise<AppInWorkerd> | undefined;
  await serve(path, flags, {
    tokens,
    load: (signal) => firstOf(versions, signal),
    served: (server, signal, app) => {
      const inWorkerd = flags.runtime === "both" ? besideNode(path, flags, server, app, tokens) : undefined;
      beside = inWorkerd;
      const take = async (app: App): Promise<string> => {
        const did = words(await server.replace(app));
        void inWorkerd?.then((one) => one.replace(app)).catch(() => {}); // it says so itself
        return did;
      };
      followed(follow(versions, signal, take), versions, signal);
    },
  });
  await beside?.then((one) => one.close()).catch(() => {}); // it did not start, and said so
};

/** Starts workerd beside a server in Node, which keeps serving if workerd cannot start. */
const besideNode = async (
  path: string,
  flags: DevFlags,
  server: AppServer,
  app: App,
  tokens: string | undefined,
): Promise<AppInWorkerd> => {
  const portIn = ({ url }: { readonly url: string }): number => Number(/:(\d+)$/.exec(url)?.[1]);
  const starting = startWorkerd(path, flags, app, {
    beside: (listener) => {
      const serving = server.listeners.find(
        ({ name, url }) => name === listener.name && url.startsWith(listener.endpoint.scheme ?? "tcp"),
      );
      return serving === undefined ? null : portIn(serving);
    },
    control: server.control && {
      port: portIn(server.control) + 1,
      tokens: server.control.token ?? tokens ?? process.env.SOCKLET_TOKENS ?? "",
    },
  });
  starting.catch((error) => say(`workerd: ${describe(error)}; Node keeps serving`));
  return starting;
};

/** Starts it, calls `started`, and only then prints its listeners. */
const startWorkerd = async (
  path: string,
  flags: DevFlags,
  app: App,
  more: Pick<WorkerdOptions, "beside" | "control">,
  started: (workerd: AppInWorkerd) => void = () => {},
): Promise<AppInWorkerd> => {
  const { AppInWorkerd } = await import("./workerd.ts");
  const workerd = await AppInWorkerd.start(app, {
    path,
    host: flags.host,
    anyPort: flags.anyPort ?? false,
    onEvent: logger(flags.verbose ?? false),
    ...more,
  });
  started(workerd);
  await print(listing(workerd.listing())).catch(() => {}); // its reader is gone, which does not stop it from serving
  sayMissing(workerd);
  return workerd;
};

/** Serves only in workerd, on the app's own ports. */
const devInWorkerd = async (
  path: string,
  flags: DevFlags,
  versions: Versions,
  tokens: string | undefined,
): Promise<void> => {
  setLog(flags.log ?? "pretty");
  const stopping = new AbortController();
  const { signal } = stopping;
  const stopped = new Promise<void>((resolve) => {
    onStop({
      stop: () => {
        stopping.abort(new SocketError("ECANCELED"));
        resolve();
      },
    });
  });
  let workerd: AppInWorkerd | undefined;
  try {
    const app = await firstOf(versions, signal);
    const { tokens: all } = controlTokens(tokens === undefined ? {} : { tokens });
    const port = flags.controlPort ?? (flags.anyPort ? 0 : CONTROL_PORT);
    const control = flags.control ? { port, tokens: all } : null;
    let note: ReturnType<typeof noteRunning> | undefined;
    workerd = await startWorkerd(path, flags, app, { beside: () => null, control }, ({ origin }) => {
      if (control !== null) note = noteRunning(path, origin, firstToken(all));
    });
    const take = async (app: App): Promise<string> => {
      await workerd?.replace(app);
      return "";
    };
    followed(follow(versions, signal, take), versions, signal);
    await stopped;
    note?.forget();
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    await workerd?.close();
  }
};
