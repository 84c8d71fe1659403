/// <reference types="@cloudflare/workers-types" />
/** Dialling out of a Worker: `createConnection` and `TCPConnector`, with the same names and options as in Node. */

import { connect } from "cloudflare:sockets";
import { SocketError } from "../../core/errors.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import { connectHint } from "../../core/net/access.ts";
import { type AddressLike, type Endpoint, formatAddress } from "../../core/net/address.ts";
import { type OptionNames, optionNamesOf } from "../../core/options.ts";
import {
  STREAM_CONNECTOR_NAMES,
  StreamConnector,
  type StreamConnectorOptions,
} from "../../core/serve/connector.ts";
import {
  CONNECT_NAMES,
  type ConnectOptions,
  checkConnect,
  dialable,
  openWithin,
  secureTransportOf,
} from "../../core/sockets/dialling/connect.ts";
import { ConnectionSlots } from "../../core/sockets/dialling/slots.ts";
import { settleStream } from "../../core/sockets/streams/stream-options.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { SecureTransport } from "../../core/sockets/tls/tls.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import { checkWorkerTls, openTransport } from "./stream-socket.ts";

/** Options of one dialling from a Worker. */
export interface WorkerConnectOptions extends ConnectOptions {
  /** Slots to share among everything that one request dials. A connector has its own by default; `createConnection` counts none. */
  readonly slots?: ConnectionSlots;
}

const WORKER_CONNECT_NAMES = optionNamesOf<WorkerConnectOptions>()({ ...CONNECT_NAMES, slots: true });

// workerd gives one text for all of these, and no code.
const CAUSES = "nothing listens there, the name is not known, or the certificate is not trusted";

/** A connection that has sent its header, and is secured then, where that was asked for. */
const introduced = async (
  opening: Promise<StreamTransport>,
  header: Uint8Array | undefined,
  secureTransport: SecureTransport,
): Promise<StreamTransport> => {
  const transport = await opening;
  if (header === undefined) return transport;
  transport.write(header);
  return secureTransport === "on" ? (transport.startTls as Secure)({}) : transport;
};
type Secure = NonNullable<StreamTransport["startTls"]>;

/**
 * Opens a connection by `connect()`, and returns its transport, for the caller to make a socket of.
 *
 * Rejects with `ERR_CONNECT_FAILED` and the likely causes (the platform does not say which), `ETIMEDOUT` after
 * `connectTimeout` ms (the platform has no limit of its own), or the signal's reason. Throws `ERR_UNSUPPORTED` for
 * a path, and for your own certificate authorities.
 */
export const dial = async (address: AddressLike, options: WorkerConnectOptions): Promise<StreamTransport> => {
  const endpoint = dialable(address);
  const said = formatAddress(endpoint);
  if (endpoint.scheme === "unix") {
    throw new SocketError("ERR_UNSUPPORTED", `a Worker cannot dial a path (${said}); dial tcp://host:port`);
  }
  const { signal, tls = {} } = checkConnect("createConnection()", options, WORKER_CONNECT_NAMES);
  const secureTransport = secureTransportOf(endpoint, options);
  checkWorkerTls(tls);
  if (secureTransport === "on" && tls.serverName !== undefined && tls.serverName !== endpoint.hostname) {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      'a Worker expects the name that it dials; for another use secureTransport "starttls" and startTls() at once',
    );
  }
  const { proxyHeader: header } = options;
  signal?.throwIfAborted();
  const release = await options.slots?.take(signal);
  const { hostname, port } = endpoint;
  let socket: Socket | undefined;
  try {
    // Half-open, so that our side does not end with the peer's; the transport closes it.
    // A header goes before TLS, which the platform would begin at once.
    const begins = header !== undefined && secureTransport === "on" ? "starttls" : secureTransport;
    socket = connect({ hostname, port }, { secureTransport: begins, allowHalfOpen: true });
    const opened = openTransport(socket, { hostname, release, tls, secured: begins === "on" });
    const opening = introduced(opened, header, secureTransport);
    return await openWithin(opening, said, options, () => {
      socket?.close().catch(() => {}); // not awaited: it can hang if the socket never opens
    });
  } catch (error) {
    release?.();
    if (signal?.aborted || (error as SocketError).code === "ETIMEDOUT") throw error;
    throw new SocketError(
      "ERR_CONNECT_FAILED",
      `${said} could not be reached: ${CAUSES}. ${connectHint(endpoint)}`,
      {
        address: said,
        cause: (error as Error).cause ?? error,
      },
    );
  }
};

/**
 * Opens a connection by `connect()`. CPython's `socket.create_connection`.
 *
 * Rejects with `ERR_CONNECT_FAILED` and the likely causes (the platform does not say which), `ETIMEDOUT` after
 * `connectTimeout` ms (the platform has no limit of its own), or the signal's reason. Throws `ERR_UNSUPPORTED` for
 * a path, and for your own certificate authorities.
 */
export const createConnection = async (
  address: AddressLike,
  options: WorkerConnectOptions = {},
): Promise<StreamSocket> => {
  const stream = settleStream(options.stream, "stream.");
  return new StreamSocket(await dial(address, options), stream);
};

/** Options of a Worker's connector. */
export interface TCPConnectorOptions<Context>
  extends StreamConnectorOptions<Context>,
    Pick<WorkerConnectOptions, "slots"> {}

const CONNECTOR_NAMES = optionNamesOf<TCPConnectorOptions<unknown>>()({
  ...STREAM_CONNECTOR_NAMES,
  slots: true,
});

/**
 * Dials one address and runs a handler on the connection, like Node's class of the same name.
 *
 *     const reply = await new TCPConnector("redis.example.com:6379", RespClient).run({ params: ["PING"] });
 *
 * Make one in the request that uses it: a request cannot use what another one opened. At most six connections are open at
 * once, and further `run()`s wait their turn. Several connectors of one request should share `slots`.
 */
export class TCPConnector<Context = unknown, Params = unknown> extends StreamConnector<Context, Params> {
  static override readonly optionNames: OptionNames = CONNECTOR_NAMES;

  readonly #slots: ConnectionSlots;

  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context, Params>,
    options: TCPConnectorOptions<Context> = {},
  ) {
    super(address, RequestHandlerClass, options);
    this.#slots = options.slots ?? new ConnectionSlots();
  }

  protected override createConnection(endpoint: Endpoint, options: ConnectOptions): Promise<StreamSocket> {
    return createConnection(endpoint, { ...options, slots: this.#slots });
  }
}
