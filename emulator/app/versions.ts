/** The versions of an app that is served: what they have in common, and what the handlers of each are given. */

import type { AnyHandlerClass, App, Listener } from "../../core/app/app.ts";
import type { BaseRequestHandler } from "../../core/handlers/handler.ts";
import { formatAddress } from "../../core/net/address.ts";
import type { AppPools } from "../../core/pool/app-pools.ts";
import { inspect } from "../builtin.ts";

/** One version of a served app, with the context of its handlers. */
export interface Version<Context> {
  readonly app: App<Context>;
  readonly context: Context;
  readonly pools: AppPools | null;
  readonly module: string | undefined;
}

/** `Handler`, with this context instead of its server's. */
export const withContext = (Handler: AnyHandlerClass<never>, context: unknown): AnyHandlerClass<never> => {
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  class Versioned extends (Handler as new (...args: any[]) => BaseRequestHandler<unknown>) {
    override get context(): unknown {
      return context;
    }
  }
  Object.defineProperty(Versioned, "name", { value: Handler.name });
  return Versioned as unknown as AnyHandlerClass<never>;
};

/** What identifies a listener across two versions of an app: where it is, how it serves, and all its options. */
export const sameness = ({ name, endpoint, carries, serve, options }: Listener<never>): string =>
  inspect([name, formatAddress(endpoint), carries, serve, options], {
    depth: Number.POSITIVE_INFINITY,
    maxArrayLength: null,
    maxStringLength: null,
  });

/** The listeners of `all` by key; several with the same key are distinguished by their position. */
export const byKey = <Context>(
  all: Iterable<Listener<Context>>,
  keyOf: (listener: Listener<never>) => string,
): Map<string, Listener<Context>> => {
  const found = new Map<string, Listener<Context>>();
  for (const listener of all) {
    let key = keyOf(listener as unknown as Listener<never>);
    while (found.has(key)) key += "+"; // several on port 0
    found.set(key, listener);
  }
  return found;
};
