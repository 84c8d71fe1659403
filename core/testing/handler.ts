/** What a test passes to a handler that it wraps: its server. */

import type { BaseRequestHandler, HandlerServer } from "../handlers/handler.ts";

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
