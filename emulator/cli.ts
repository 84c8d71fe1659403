#!/usr/bin/env node
/**
 * The command `socklet`: serves an app on real sockets, and dials one handler.
 *
 * Exit status: 0 done (also after a signal that drained), 1 it could not be done (a port in use, a peer that
 * refused, a handler that threw), 2 it was asked wrongly (a module that does not load, an unknown handler).
 */

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Command, CommanderError } from "commander";
import { formatAddress, parseAddress } from "../core/address.ts";
import { type App, isApp } from "../core/app.ts";
import { SocketError } from "../core/errors.ts";
import type { SockletEvent } from "../core/events.ts";
import { BaseRequestHandler, DatagramRequestHandler, type HandlerClass } from "../core/handler.ts";
import { toJson } from "../core/json.ts";
import type { StreamSocket } from "../core/socket.ts";
import { TCPConnector } from "./connector.ts";
import { type AppServer, serveApp } from "./serve.ts";
import { FileStorage } from "./storage.ts";

/** Asked wrongly: exit status 2. */
class UsageError extends Error {}

const asked = <T>(parse: () => T): T => {
  try {
    return parse();
  } catch (error) {
    throw new UsageError((error as Error).message, { cause: error });
  }
};

const say = (text: string): void => void process.stderr.write(`socklet: ${text}\n`);

const describe = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  return error instanceof SocketError ? error.message : `${error.name}: ${error.message}`;
};

const load = async (path: string): Promise<Record<string, unknown>> => {
  try {
    return await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    throw new UsageError(`${path} could not be loaded: ${describe(error)}`, { cause: error });
  }
};

const loadApp = async (path: string): Promise<App> => {
  const module = await load(path);
  if (isApp(module.app)) return module.app;
  const found =
    "app" in module
      ? "its `app` did not come from defineApp()"
      : `it exports ${Object.keys(module).join(", ") || "nothing"}`;
  throw new UsageError(
    `${path} is no app: it must have \`export const app = defineApp({ … })\`, but ${found}`,
  );
};

/** The handler that `named` means: `module.ts#Name`, or a name in the app of `--app`. */
const loadHandler = async (
  named: string,
  appPath: string | undefined,
): Promise<{ handler: HandlerClass<StreamSocket>; app: App | undefined }> => {
  const [path, name] = named.split("#", 2) as [string, string | undefined];
  const app = appPath === undefined ? undefined : await loadApp(appPath);
  if (name === undefined && app === undefined) {
    throw new UsageError(
      `which handler is "${named}"? Give module.ts#${named}, or the app that has it: --app app.ts`,
    );
  }
  const among: Readonly<Record<string, unknown>> =
    name === undefined ? (app as App).handlers : await load(path);
  const handler = Object.hasOwn(among, name ?? named) ? among[name ?? named] : undefined;
  if (typeof handler !== "function" || !(handler.prototype instanceof BaseRequestHandler)) {
    throw new UsageError(
      `there is no handler "${name ?? named}" in ${name === undefined ? appPath : path}; it has: ${Object.keys(among).join(", ") || "none"}`,
    );
  }
  if (handler.prototype instanceof DatagramRequestHandler) {
    throw new UsageError(`"${name ?? named}" handles datagrams; dial runs handlers of streams`);
  }
  return { handler: handler as HandlerClass<StreamSocket>, app };
};

const logger =
  (verbose: boolean) =>
  (event: SockletEvent): void => {
    const peer = "address" in event ? formatAddress(event.address) : "";
    if (event.type === "error") say(`${event.server}  ${peer}  ${describe(event.error)}`);
    else if (event.type === "refused") say(`${event.server}  ${peer}  refused (${event.reason})`);
    else if (event.type === "stuck") say(`${event.server}  ${peer}  did not end when it was aborted`);
    else if (verbose && event.type !== "listening") say(toJson(event));
  };

/** Resolves when the first signal has drained the app; a second one aborts what runs. */
const untilSignal = (server: AppServer): Promise<void> =>
  new Promise((resolve, reject) => {
    let signals = 0;
    const stop = (signal: NodeJS.Signals): void => {
      if (++signals > 1) {
        server.abort();
        return;
      }
      const running = server.listeners.reduce((sum, listener) => sum + listener.info().running, 0);
      if (running > 0) say(`${signal}: draining ${running} running; once more to abort them`);
      server.close().then(resolve, reject);
    };
    process.on("SIGINT", stop);
    process.on("SIGTERM", stop);
  });

interface ServeFlags {
  host?: string;
  anyPort?: boolean;
  data: string;
  drain: number;
  verbose?: boolean;
}

const serve = async (path: string, flags: ServeFlags): Promise<void> => {
  const app = await loadApp(path);
  const server = await serveApp(app, {
    ...(flags.host !== undefined && { host: flags.host }),
    anyPort: flags.anyPort ?? false,
    data: flags.data,
    drainTimeout: flags.drain,
    onEvent: logger(flags.verbose ?? false),
  });
  const stopped = untilSignal(server);
  const width = Math.max(...server.listeners.map(({ name }) => name.length));
  for (const listener of server.listeners) {
    process.stdout.write(`${listener.name.padEnd(width)}  ${listener.url}\n`);
    if (listener.try !== undefined) process.stdout.write(`${" ".repeat(width)}  ${listener.try}\n`);
  }
  await stopped;
};

interface DialFlags {
  app?: string;
  params?: string;
  connectTimeout: number;
  data: string;
  verbose?: boolean;
}

const dial = async (address: string, named: string, words: string[], flags: DialFlags): Promise<void> => {
  asked(() => parseAddress(address));
  const params = asked(() => {
    if (flags.params === undefined) return words;
    if (words.length > 0) throw new TypeError("give the params as words or as --params, not both");
    try {
      return JSON.parse(flags.params);
    } catch (error) {
      throw new TypeError(`--params is not JSON: ${(error as Error).message}`);
    }
  });
  const { handler, app } = await loadHandler(named, flags.app);
  const context = await app?.context({
    name: "node",
    bindings: process.env,
    storage: new FileStorage(flags.data),
  });
  const connector = asked(
    () =>
      new TCPConnector(address, handler, {
        context,
        connectTimeout: flags.connectTimeout,
        onEvent: logger(flags.verbose ?? false),
      }),
  );
  const stop = new AbortController();
  process.once("SIGINT", () => stop.abort(new SocketError("ECANCELED", "interrupted")));
  process.stdout.write(`${toJson(await connector.run({ params, signal: stop.signal }), 2)}\n`);
};

const milliseconds = (text: string): number => {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0 && value < 2 ** 31) return value;
  throw new UsageError(`${JSON.stringify(text)} is not a time: give milliseconds, 1 or more`);
};

const program = new Command("socklet")
  .description("Socket handlers, written once: serve an app on real sockets, or dial with one handler.")
  .exitOverride()
  .configureOutput({ writeErr: (text) => process.stderr.write(text.replace(/^error: /, "socklet: ")) });

program
  .command("serve")
  .description("serve all that an app listens with, until Ctrl-C")
  .argument("<module>", "a module with `export const app = defineApp({ … })`")
  .option("--host <host>", "listen on this host in place of the app's")
  .option("--any-port", "listen on free ports in place of the app's")
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--drain <ms>", "how long running requests may go on after Ctrl-C", milliseconds, 10_000)
  .option("--verbose", "tell every event")
  .action(serve);

program
  .command("dial")
  .description("dial an address, run one handler on the connection, and print what it returns as JSON")
  .argument("<address>", "tcp://host:port or unix:/path")
  .argument("<handler>", "module.ts#Name, or a name in the app of --app")
  .argument("[params...]", "words that the handler gets as its params")
  .option("--app <module>", "the app that has the handler, and its context")
  .option("--params <json>", "params that are not words")
  .option("--connect-timeout <ms>", "how long the connection may take to open", milliseconds, 10_000)
  .option("--data <folder>", "where the app keeps its bytes", ".socklet/data")
  .option("--verbose", "tell every event")
  .action(dial);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2; // help is no error; commander has said the rest
  } else {
    say(describe(error).replace(/^UsageError: |^Error: /, ""));
    process.exitCode = error instanceof UsageError || (error as SocketError).code === "ERR_APP" ? 2 : 1;
  }
}
