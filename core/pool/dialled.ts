/** Pools that dial an address: the options of each place's `pool()`, and how a pool is made from that place's connector. */

import type { ClientHandlerClass } from "../handlers/client.ts";
import type { HandlerClass } from "../handlers/handler.ts";
import { type AddressLike, formatAddress } from "../net/address.ts";
import { checkOptions, type OptionNames, optionNamesOf, POOL_NAMES, type PoolOptions } from "../options.ts";
import type { StreamConnectorOptions } from "../serve/connector.ts";
import {
  CONNECT_NAMES,
  type ConnectOptions,
  checkConnecting,
  dialable,
} from "../sockets/dialling/connect.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { Pool, type PoolConnector, type PoolSetup } from "./pool.ts";

/** Options of a pool that dials an address: the pool's limits, and how each connection is made. */
export interface DialledPoolOptions<Context>
  extends PoolOptions,
    Omit<ConnectOptions, "signal">,
    Pick<PoolSetup<Context>, "name" | "onEvent"> {
  /** What handlers get as `this.context`, typically the credentials. */
  readonly context?: Context;
}

const { signal: _, ...DIAL_NAMES } = CONNECT_NAMES;
const OWN_NAMES: OptionNames = { ...POOL_NAMES, name: true, onEvent: true };
const CONNECTOR_NAMES: OptionNames = { ...DIAL_NAMES, context: true, onEvent: true };
const DIALLED_NAMES = optionNamesOf<DialledPoolOptions<unknown>>("a pool that dials")({
  ...POOL_NAMES,
  ...DIAL_NAMES,
  name: "string",
  onEvent: "function",
  context: true,
});

/** A platform's connector class. */
type ConnectorClass = new <Context>(
  address: AddressLike,
  Handler: HandlerClass<StreamSocket, Context>,
  options: StreamConnectorOptions<Context>,
) => PoolConnector;

/** Makes a pool on `address` that dials through `Connector`. Throws `TypeError`, `RangeError` or `ERR_INVALID_ADDRESS`. */
export const dialledPool = <Call, Reply, Context>(
  Connector: ConnectorClass,
  address: AddressLike,
  Handler: ClientHandlerClass<Call, Reply, Context>,
  options: DialledPoolOptions<Context> = {},
): Pool<Call, Reply, Context> => {
  checkOptions("pool()", options, DIALLED_NAMES);
  checkConnecting(options);
  const endpoint = dialable(address);
  const named = (names: OptionNames): object =>
    Object.fromEntries(
      Object.entries(options).filter(([name, value]) => name in names && value !== undefined),
    );
  return new Pool<Call, Reply, Context>(Handler, {
    ...named(OWN_NAMES),
    address: formatAddress(endpoint),
    connector: (Pooled) =>
      new Connector<Context>(endpoint, Pooled, {
        ...named(CONNECTOR_NAMES),
        name: options.name ?? Handler.name,
      }),
  });
};
