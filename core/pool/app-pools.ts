/** The pools of an app: made where the app runs, asked for by its `context()`, and ended with it. */

import { type App, checkPoolOf, type Platform } from "../app/app.ts";
import { SocketError } from "../errors.ts";
import type { Lease, PoolClient, PoolInfo } from "../handlers/client.ts";
import type { OnEvent } from "../handlers/events.ts";
import { type Endpoint, formatAddress } from "../net/address.ts";
import { type DialledPoolOptions, dialledPool } from "./dialled.ts";
import type { Pool } from "./pool.ts";

// biome-ignore lint/suspicious/noExplicitAny: which call and reply, and which context, is the handler class's own
type AnyPool = Pool<any, any, any>;

/** What `open()` needs to know. */
export interface OpenPools<Context> {
  readonly context: Context;
  readonly onEvent?: OnEvent | undefined;
  /** Where an entry leads; default: where it says. */
  endpoint?(declared: Endpoint): Endpoint;
}

/**
 * The pools of one app in one process. `client()` is what a platform's `pool()` is: the app's context holds what it
 * gives, before there is a pool; `open()` makes the pools, when there is a context for their handlers.
 */
export class AppPools implements AsyncDisposable {
  readonly #app: App;
  readonly #Connector: Parameters<typeof dialledPool>[0];
  readonly #pools = new Map<string, AnyPool>();

  /** `Connector`: the platform's class of connectors. */
  constructor(app: App, Connector: Parameters<typeof dialledPool>[0]) {
    this.#app = app;
    this.#Connector = Connector;
  }

  /** As `Platform.pool`. */
  readonly client: Platform["pool"] = <Call, Reply>(
    name: string,
    Handler: unknown,
  ): PoolClient<Call, Reply> => {
    checkPoolOf(this.#app, name, Handler);
    const pool = (): Pool<Call, Reply> => {
      const open = this.#pools.get(name);
      if (open !== undefined) return open;
      throw new SocketError(
        "ERR_APP",
        `the pool ${name} can be used when context() has returned, and the app listens`,
      );
    };
    return {
      call: async (call, options): Promise<Reply> => pool().call(call, options),
      lease: async (options): Promise<Lease<Call, Reply>> => pool().lease(options),
    };
  };

  /** Makes the pools: what `client()` gave works from now on. */
  open<Context>({ context, onEvent, endpoint = (declared) => declared }: OpenPools<Context>): void {
    for (const [name, { Handler, endpoint: declared, ...options }] of Object.entries(this.#app.pools)) {
      const { secureTransport, tls, proxyHeader, limits } = options;
      const given: DialledPoolOptions<Context> = {
        ...limits,
        name,
        context,
        secureTransport,
        ...(tls && { tls }),
        ...(proxyHeader && { proxyHeader }),
      };
      const at = formatAddress(endpoint(declared));
      const pool = dialledPool(this.#Connector, at, Handler, { ...given, ...(onEvent && { onEvent }) });
      this.#pools.set(name, pool);
    }
  }

  /** What each says of itself. */
  infos(): PoolInfo[] {
    return [...this.#pools.values()].map((pool) => pool.info());
  }

  /** As `Pool.shrink()`. */
  shrink(): void {
    for (const pool of this.#pools.values()) pool.shrink();
  }

  /** Closes them all. Never rejects. */
  async close(): Promise<void> {
    await Promise.all([...this.#pools.values()].map((pool) => pool.close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
