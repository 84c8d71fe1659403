/** An app's pools: its `context()` asks for them, they are made where the app runs, and they close with it. */

import { type App, checkPoolOf, type Platform } from "../app/app.ts";
import { SocketError } from "../errors.ts";
import type { Lease, PoolClient, PoolInfo } from "../handlers/client.ts";
import type { OnEvent } from "../handlers/events.ts";
import { type Endpoint, formatAddress } from "../net/address.ts";
import { type DialledPoolOptions, dialledPool } from "./dialled.ts";
import type { Pool } from "./pool.ts";

// biome-ignore lint/suspicious/noExplicitAny: which call and reply, and which context, is the handler class's own
type AnyPool = Pool<any, any, any>;

/** Options of `open()`. */
interface OpenPools<Context> {
  readonly context: Context;
  readonly onEvent?: OnEvent | undefined;
  /** The address that an entry really dials. Default: the declared one. */
  endpoint?(declared: Endpoint): Endpoint;
}

/**
 * The pools of one app in one process. `client()` implements a platform's `pool()`: `context()` calls it before any pool
 * exists, and keeps what it returns. `open()` makes the pools once there is a context for their handlers.
 */
export class AppPools implements AsyncDisposable {
  readonly #app: App;
  readonly #Connector: Parameters<typeof dialledPool>[0];
  readonly #pools = new Map<string, AnyPool>();

  /** `Connector`: the platform's connector class. */
  constructor(app: App, Connector: Parameters<typeof dialledPool>[0]) {
    this.#app = app;
    this.#Connector = Connector;
  }

  /** Implements `Platform.pool`. */
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

  /** Makes the pools. The clients that `client()` returned work from now on. */
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

  /** The info of each pool. */
  infos(): PoolInfo[] {
    return [...this.#pools.values()].map((pool) => pool.info());
  }

  /** Calls `shrink()` of each pool. */
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
