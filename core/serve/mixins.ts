/** How a server processes its requests, other than one at a time. */

import type { MaybePromise } from "../bytes/data.ts";
import type { Address } from "../net/address.ts";
import { isThenable } from "../promises.ts";
import type { BaseServer } from "./server.ts";

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type ServerClass = abstract new (...args: any[]) => BaseServer<any, any>;

/**
 * `made`, whose objects are `instanceof` the mixin that made it, as CPython's `isinstance(server, ThreadingMixIn)`. By
 * a symbol, so that classes of another copy of the package count, too.
 */
export const madeBy = <Made extends abstract new (...args: never[]) => object>(
  mixin: object,
  made: Made,
): Made => {
  const { name } = mixin as { name: string };
  const mark = Symbol.for(`socklet.${name}`);
  Object.defineProperty(made.prototype, mark, { value: true });
  if (!Object.hasOwn(mixin, Symbol.hasInstance)) {
    Object.defineProperty(mixin, Symbol.hasInstance, {
      value: (object: unknown) => typeof object === "object" && object !== null && mark in object,
    });
  }
  return made;
};

/**
 * Serves requests side by side: each begins when it arrives, up to `maxRequests` at once. This is CPython's `ThreadingMixIn` without
 * threads: handlers take turns on one event loop, so a handler that computes without awaiting holds up all others.
 *
 *     class ThreadingTCPServer extends ThreadingMixIn(TCPServer) {}
 */
export function ThreadingMixIn<Base extends ServerClass>(Server: Base): Base {
  abstract class ThreadingServer extends Server {
    protected override get capacity(): number {
      return this.maxRequests;
    }

    override processRequest(request: unknown, clientAddress: Address | null): MaybePromise<void> {
      const serving = this.serveRequest(request, clientAddress);
      if (isThenable(serving) && this.running >= this.maxRequests) return this.oneEnded();
    }
  }
  return madeBy(ThreadingMixIn, ThreadingServer);
}
