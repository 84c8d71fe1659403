/** What a handler gets from a test that runs or wraps it: its context, made for that run, and its server. */

import type { MaybePromise } from "../bytes/data.ts";
import type { BaseRequestHandler, HandlerServer } from "../handlers/handler.ts";

/** What `make` returns, for one run. Throws `TypeError` if it is not a function. */
export const makeContext = (
  taker: string,
  make: (() => MaybePromise<unknown>) | undefined,
): MaybePromise<unknown> => {
  if (make === undefined || typeof make === "function") return make?.();
  throw new TypeError(
    `context of ${taker} is a function that makes it: context: () => …, not ${typeof make}`,
  );
};

/** The handler's server, to which the request that `replaced` stands for is the one that runs. */
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
