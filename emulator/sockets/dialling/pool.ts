/** Connections that outlive a request, in Node: `pool()`. */

import type { ClientHandlerClass } from "../../../core/handlers/client.ts";
import type { AddressLike } from "../../../core/net/address.ts";
import { type DialledPoolOptions, dialledPool } from "../../../core/pool/dialled.ts";
import type { Pool } from "../../../core/pool/pool.ts";
import { PooledConnector } from "./connector.ts";

/**
 * A pool of connections to `tcp://host:port` or `unix:/path`, each of which `Handler` logs in once; it dials when it is
 * first asked.
 *
 *     await using redis = pool("tcp://127.0.0.1:6379", Redis, { max: 4, pipeline: 64 });
 *     await redis.call(["GET", "k"]);
 *     await using one = await redis.lease(); // one connection, for a transaction
 *
 * Throws `TypeError` and `RangeError` for a wrong option, or for a class that does not answer calls, or cannot answer
 * `pipeline` of them at a time; `ERR_INVALID_ADDRESS`. `PoolClient` lists the errors of a call.
 */
export const pool = <Call, Reply, Context = unknown>(
  address: AddressLike,
  Handler: ClientHandlerClass<Call, Reply, Context>,
  options?: DialledPoolOptions<Context>,
): Pool<Call, Reply, Context> => dialledPool(PooledConnector, address, Handler, options);
