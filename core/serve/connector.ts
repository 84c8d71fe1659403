/** The connector of streams: dials one address, and runs a handler on the connection. */

import type { Address, AddressLike, Endpoint } from "../net/address.ts";
import { type OptionNames, optionNamesOf } from "../options.ts";
import { type ConnectOptions, checkConnecting, dialable } from "../sockets/connect.ts";
import { STREAM_NAMES, settleStream } from "../sockets/stream-options.ts";
import type { StreamSocket } from "../sockets/stream-socket.ts";
import { TLS_NAMES } from "../sockets/transport.ts";
import { checkKind, type HandlerClass } from "./handler.ts";
import { BaseConnector, ENDPOINT_NAMES, type EndpointOptions } from "./server.ts";

/** Options of a connector of streams. */
export interface StreamConnectorOptions<Context>
  extends EndpointOptions<Context>,
    Omit<ConnectOptions, "signal"> {}

export const STREAM_CONNECTOR_NAMES = optionNamesOf<StreamConnectorOptions<unknown>>()({
  ...ENDPOINT_NAMES,
  connectTimeout: true,
  secureTransport: true,
  tls: TLS_NAMES,
  stream: STREAM_NAMES,
});

/** Dials one address and runs a handler on the connection; a platform adds `createConnection`. */
export abstract class StreamConnector<Context = unknown> extends BaseConnector<StreamSocket, Context> {
  static override readonly optionNames: OptionNames = STREAM_CONNECTOR_NAMES;

  /** What it dials. */
  readonly endpoint: Endpoint;
  readonly #options: Omit<ConnectOptions, "signal">;

  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: StreamConnectorOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    checkKind(RequestHandlerClass, "streams", this.constructor.name);
    this.endpoint = dialable(address);
    checkConnecting(options);
    const { connectTimeout, secureTransport, tls = {}, stream } = options;
    this.#options = { connectTimeout, secureTransport, tls, stream: settleStream(stream) };
  }

  /** Opens one connection to `endpoint`. */
  protected abstract createConnection(endpoint: Endpoint, options: ConnectOptions): Promise<StreamSocket>;

  override connect(signal?: AbortSignal): Promise<StreamSocket> {
    return this.createConnection(this.endpoint, { ...this.#options, signal });
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }
}
