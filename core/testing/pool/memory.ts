/** Pools in memory: `memoryPool()`, and the connector that it dials with. */

import type { MaybePromise } from "../../bytes/data.ts";
import type { ClientHandlerClass } from "../../handlers/client.ts";
import { checkKind, type HandlerClass } from "../../handlers/handler.ts";
import type { Address } from "../../net/address.ts";
import { checkOptions, optionNamesOf, POOL_NAMES, type PoolOptions } from "../../options.ts";
import { Pool, type PoolSetup } from "../../pool/pool.ts";
import { BaseConnector } from "../../serve/connector.ts";
import type { EndpointOptions } from "../../serve/endpoint.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";

/** A source of connections: a server in memory, or anything else with such a `connect()`. */
export interface MemoryTarget {
  connect(signal?: AbortSignal): MaybePromise<StreamSocket>;
}

/** Runs a handler on connections of a server in memory: the counterpart of a `TCPConnector`. */
export class MemoryConnector<Context = unknown> extends BaseConnector<StreamSocket, Context> {
  readonly #target: MemoryTarget;

  constructor(
    target: MemoryTarget,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: EndpointOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    checkKind(RequestHandlerClass, "streams", this.constructor.name);
    this.#target = target;
  }

  override async connect(signal?: AbortSignal): Promise<StreamSocket> {
    return await this.#target.connect(signal);
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }
}

/** Options of a pool in memory. */
export interface MemoryPoolOptions<Context>
  extends PoolOptions,
    Pick<PoolSetup<Context>, "name" | "onEvent"> {
  /** The `this.context` of handlers. */
  readonly context?: Context;
}

const MEMORY_POOL_NAMES = optionNamesOf<MemoryPoolOptions<unknown>>()({
  ...POOL_NAMES,
  name: "string",
  onEvent: "function",
  context: true,
});

/**
 * `pool()` without a network: its connections come from a server in memory.
 *
 *     const server = new ThreadingMemoryServer(RespServer, { context: { keys: new KeyStore() } });
 *     void server.serveForever();
 *     await using redis = memoryPool(server, Redis, { pipeline: 64 });
 */
export const memoryPool = <Call, Reply, Context = unknown>(
  server: MemoryTarget,
  Handler: ClientHandlerClass<Call, Reply, Context>,
  options: MemoryPoolOptions<Context> = {},
): Pool<Call, Reply, Context> => {
  checkOptions("memoryPool()", options, MEMORY_POOL_NAMES);
  const { context, ...rest } = options;
  const { onEvent, name = Handler.name } = options;
  return new Pool<Call, Reply, Context>(Handler, {
    ...rest,
    address: "memory",
    connector: (Pooled) =>
      new MemoryConnector<Context>(server, Pooled, {
        name,
        ...(context !== undefined && { context }),
        ...(onEvent !== undefined && { onEvent }),
      }),
  });
};
