/** Where the children of a forking server find their handler: they import it. */

import { SocketError } from "../../../../core/errors.ts";
import { BaseRequestHandler, type HandlerClass } from "../../../../core/handlers/handler.ts";

/** Where a child finds its handler: an export of a module; with `data`, a handler of the app that the module exports. */
export interface HandlerSource {
  readonly module: string;
  readonly name: string;
  /** The folder of the app's storage. */
  readonly data?: string;
  /** Whether only the request that dialled a connection may use it, as `guardConnections` of `ServeOptions`. */
  readonly guarded?: boolean;
}

const sources = new WeakMap<object, HandlerSource>();

// biome-ignore lint/suspicious/noExplicitAny: only the handler's module knows what it takes
type AnyHandler = HandlerClass<any, any>;

const standIn = (source: HandlerSource): AnyHandler => {
  const { module, name } = source;
  if (URL.parse(module) === null || typeof name !== "string" || name === "") {
    const given = `${JSON.stringify(module)}, ${JSON.stringify(name)}`;
    throw new TypeError(
      `handlerFrom(${given}): give a module's URL and the name of its export, as in handlerFrom(import.meta.url, "Echo")`,
    );
  }
  class Handler extends BaseRequestHandler<unknown> {
    override run(): never {
      const said = `${name} was given as handlerFrom(…), which is for forking servers; give this one the class itself`;
      throw new SocketError("ERR_UNSUPPORTED", said);
    }
  }
  Object.defineProperty(Handler, "name", { value: name });
  sources.set(Handler, source);
  return Handler;
};

/** Where the children of a `server` find this handler. Throws `TypeError` for a class. */
export const sourceOf = (handler: object, server: string): HandlerSource => {
  const source = sources.get(handler);
  if (source !== undefined) return source;
  const { name } = handler as { name?: string };
  throw new TypeError(
    `the children of a ${server} import their handler: give it as handlerFrom(import.meta.url, "${name}"), not as a class`,
  );
};

/**
 * The handler that `module` exports as `name`, for a forking server, whose children import it.
 *
 *     new ForkingTCPServer("127.0.0.1:7007", handlerFrom(import.meta.url, "Echo"))
 *
 * Each child runs the module from its top. So a module that has the handler and also starts the server must start it only
 * if it is the main program: `if (import.meta.main)` (Node 24.2), or
 * `if (process.argv[1] === import.meta.filename)`; and a test keeps its handlers in a file of their own. Throws
 * `TypeError` where `module` is not a URL.
 */
export const handlerFrom = (module: string | URL, name: string): AnyHandler =>
  standIn({ module: String(module), name });

/** The handler `name` of the `app` that `module` exports: each child calls the app's `context()`, with storage in the folder `data`. */
export const appHandlerFrom = (module: string, name: string, data: string, guarded = false): AnyHandler =>
  standIn({ module, name, data, guarded });
