/** What an app's `context()` gets in a Worker. */

import { type App, checkPoolOf, type Platform } from "../../core/app/app.ts";
import { SocketError } from "../../core/errors.ts";
import type { ClientHandlerClass, PoolClient, PoolInfo } from "../../core/handlers/client.ts";
import { boundStorage } from "./storage.ts";

/**
 * The pools of an app in a Worker, as far as the rest of the Worker needs them. `poolsFor()` makes them; nothing else may
 * import that, because a Worker without pools must not carry it.
 */
export interface PoolAccess {
  /** The pool `name`, for the requests of any isolate. Throws `ERR_APP` if there is none, if its handler is another class, or without the binding. */
  poolOf<Call = unknown, Reply = unknown>(
    env: unknown,
    name: string,
    // biome-ignore lint/suspicious/noExplicitAny: the handler's context is the app's
    Handler?: ClientHandlerClass<Call, Reply, any>,
  ): PoolClient<Call, Reply>;
  /** The info of each pool, over all its objects. Never rejects. */
  infos(env: unknown): Promise<readonly PoolInfo[]>;
  /** The missing bindings: a text for each, which says what to do. */
  missing(env: unknown): string[];
}

export const platformOf = (
  app: App,
  pools: PoolAccess | undefined,
  bindings: Readonly<Record<string, unknown>>,
): Platform => ({
  name: "workerd",
  bindings,
  storage: boundStorage(bindings),
  pool: (name, Handler) => {
    if (pools !== undefined) return pools.poolOf(bindings, name, Handler);
    checkPoolOf(app, name, Handler);
    const message = `pool("${name}"): this Worker has no pools; give workerFor() the option pools, which poolsFor(app) makes`;
    throw new SocketError("ERR_APP", message);
  },
});
