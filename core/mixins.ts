/** How a server may process its requests other than one at a time. */

import type { Address } from "./address.ts";
import { isThenable } from "./handler.ts";
import type { BaseServer } from "./server.ts";
import type { MaybePromise } from "./stream.ts";

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type ServerClass = abstract new (...args: any[]) => BaseServer<any, any>;

/**
 * Serves requests side by side: each begins when it arrives, up to `maxRequests` at once. CPython's
 * `ThreadingMixIn`, without a thread: handlers take turns on one event loop, so one that computes without
 * awaiting holds up all.
 *
 *     class ThreadingTCPServer extends ThreadingMixIn(TCPServer) {}
 */
export const ThreadingMixIn = <Base extends ServerClass>(Server: Base): Base => {
  abstract class ThreadingServer extends Server {
    protected override get capacity(): number {
      return this.maxRequests;
    }

    override processRequest(request: unknown, clientAddress: Address | null): MaybePromise<void> {
      const serving = this.serveRequest(request, clientAddress);
      if (isThenable(serving) && this.running >= this.maxRequests) return this.oneEnded();
    }
  }
  return ThreadingServer;
};
