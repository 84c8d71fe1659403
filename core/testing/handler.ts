/** What a test passes to a handler that it runs or wraps: a context made for that run, and its server. */

import type { MaybePromise } from "../bytes/data.ts";
import type { BaseRequestHandler, HandlerServer } from "../handlers/handler.ts";

/** The context that `make` returns for one run. Throws `TypeError` if `make` is not a function. */
export const makeContext = (
  taker: string,
  make: (() => MaybePromise<unknown>) | undefined,
): MaybePromise<unknown> => {
  if (make === undefined || typeof make === "function") return make?.();
  throw new TypeError(
    `context of ${taker} is a function that makes it: context: () => …, not ${typeof make}`,
  );
};

/** The handler's server, in which `replaced` stands for the handler's own request. */
export const serverOf = <Request, Context>(
  handler: BaseRequestHandler<Request, Context>,
  replaced: Request,
): HandlerServer<Context> =>
  new Proxy(handler.server, {
    get(server, key) {
      if (key === "scope") {
        return (request: unknown) => server.scope(request === replaced ? handler.request : request);
      }
      const value = Reflect.get(server, key, server); // not the proxy: a class's private fields are not its own
      return typeof value === "function" ? value.bind(server) : value;
    },
    set: (server, key, value) => Reflect.set(server, key, value, server),
  });
