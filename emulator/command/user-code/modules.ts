/** Loads what the user names: a module, a module's app, a handler. */

import { type App, isApp, type Platform } from "../../../core/app/app.ts";
import { describe as thrownAs } from "../../../core/describe.ts";
import { DatagramRequestHandler, type HandlerClass } from "../../../core/handlers/handler.ts";
import type { StreamSocket } from "../../../core/sockets/streams/stream-socket.ts";
import { fs, pathToFileURL, resolve } from "../../builtin.ts";
import { describe, UsageError, withPlace } from "../terminal/output.ts";
import { awaited, listens } from "./waiting.ts";

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

/** The file that the user names. Throws a `UsageError` if it does not exist. */
export const fileOf = (path: string): string => {
  const file = resolve(path);
  const is = fs.statSync(file, { throwIfNoEntry: false });
  if (is === undefined)
    throw new UsageError(`${path} could not be loaded: there is no such file; check the path`);
  if (is.isDirectory())
    throw new UsageError(`${path} could not be loaded: it is a folder; name the module in it`);
  return file;
};

/** Loads the module at `path`, or the version of it at `url`. */
const load = async (path: string, url?: string): Promise<Record<string, unknown>> => {
  const file = fileOf(path);
  const failed = `${path} could not be loaded`;
  try {
    return await awaited(
      import(url ?? pathToFileURL(file).href),
      () =>
        url === undefined && listens()
          ? `${path} is still being loaded: it listens itself, and an await at its top level goes on. \`node ${path}\` runs a program that serves; here a module exports \`app\`, or handlers, and ends`
          : `${path} is still being loaded: an await at its top level has not ended`,
      () =>
        new UsageError(
          `${failed}: an await at its top level waits for something that can no longer happen; \`node ${path}\` shows the line`,
        ),
    );
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const said = withPlace(describe(error), error);
    throw new UsageError(`${failed}: ${said}; ${loadRemedy(path, error)}`, { cause: error });
  }
};

/** The `app` that the module at `path` exports, or the version of it at `url`. Throws a `UsageError`. */
export const loadApp = async (path: string, url?: string): Promise<App> => {
  const module = await load(path, url);
  const { app } = module;
  if (isApp(app)) return { ...app, context: (platform) => contextOf(app, platform, path) };
  const found =
    "app" in module
      ? "its `app` did not come from defineApp()"
      : `it exports ${Object.keys(module).join(", ") || "nothing"}`;
  throw new UsageError(
    `${path} is not an app: it must have \`export const app = defineApp({ … })\`, but ${found}`,
  );
};

const contextOf = (app: App, platform: Platform, path: string): Promise<unknown> =>
  awaited(
    app.context(platform),
    () => `${path}: its context() has not ended yet`,
    () => new UsageError(`${path}: its context() waits for something that can no longer happen`),
  );

// Not `instanceof`: a module may import another copy of the package than this command's.
const isHandler = (value: unknown): value is HandlerClass<StreamSocket> =>
  typeof value === "function" && typeof value.prototype?.run === "function";

const namesIn = (handlers: Readonly<Record<string, unknown>>): string =>
  Object.keys(handlers)
    .filter((name) => isHandler(handlers[name]))
    .join(", ") || "none";

/** The handler that `named` means: `module.ts#Name`, or a name in the app of `--app`. */
export const loadHandler = async (
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
