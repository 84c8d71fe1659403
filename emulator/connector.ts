/** Dialling out from Node: `createConnection`, and `TCPConnector`, the dialling twin of `TCPServer`. */

import net from "node:net";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  parseAddress,
} from "../core/address.ts";
import { SocketError } from "../core/errors.ts";
import type { HandlerClass } from "../core/handler.ts";
import { BaseConnector, type EndpointOptions } from "../core/server.ts";
import type { StreamOptions, StreamSocket } from "../core/socket.ts";
import { networkError, streamSocket } from "./stream-socket.ts";

/** Options of one dialling. Times are milliseconds. */
export interface ConnectOptions {
  /** How long the connection may take to open. Default 10 000; `null` for as long as the system tries (about two minutes). */
  readonly connectTimeout?: number | null;
  /** Gives up the dialling. */
  readonly signal?: AbortSignal | undefined;
  /** Limits and times of the connection. */
  readonly stream?: Partial<StreamOptions>;
}

const dialled = (address: AddressLike): Endpoint => {
  const endpoint = parseAddress(address);
  if (endpoint.scheme === "udp")
    throw new TypeError(`${formatAddress(endpoint)} is a datagram address; this dials streams`);
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new RangeError(`${formatAddress(endpoint)} cannot be dialled: it names no host, or port 0`);
  }
  return endpoint;
};

/**
 * Opens a connection to `tcp://host:port` or `unix:/path`. CPython's `socket.create_connection`.
 *
 * Rejects with `ECONNREFUSED`, `ETIMEDOUT`, `EHOSTUNREACH`, `ENETUNREACH`, `ENOENT` (a path), `ERR_NAME`, or the
 * signal's reason.
 */
export const createConnection = async (
  address: AddressLike,
  options: ConnectOptions = {},
): Promise<StreamSocket> => {
  const endpoint = dialled(address);
  const said = formatAddress(endpoint);
  const { connectTimeout = 10_000, signal } = options;
  signal?.throwIfAborted();
  const where =
    endpoint.scheme === "unix" ? { path: endpoint.path } : { host: endpoint.hostname, port: endpoint.port };
  const socket = net.connect({ ...where, allowHalfOpen: true, noDelay: true });
  socket.pause(); // nothing is read before somebody asks
  return new Promise((resolve, reject) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      socket.removeListener("error", failed);
      socket.removeListener("connect", connected);
    };
    const giveUp = (reason: unknown): void => {
      done();
      socket.on("error", () => {}); // what it still says is of no interest
      socket.destroy();
      reject(reason);
    };
    const failed = (error: Error): void => giveUp(networkError(error, said));
    const aborted = (): void => giveUp(signal?.reason);
    const connected = (): void => {
      done();
      resolve(streamSocket(socket, options.stream));
    };
    const timer =
      connectTimeout === null
        ? undefined
        : setTimeout(() => {
            const message = `${said} did not answer within ${connectTimeout} ms`;
            giveUp(new SocketError("ETIMEDOUT", message, { address: said }));
          }, connectTimeout);
    signal?.addEventListener("abort", aborted, { once: true });
    socket.once("error", failed);
    socket.once("connect", connected);
  });
};

/** Options of a connector. */
export interface TCPConnectorOptions<Context>
  extends EndpointOptions<Context>,
    Omit<ConnectOptions, "signal"> {}

/**
 * Dials one address and runs a handler on the connection, as a server runs it on one it accepted.
 *
 *     const reply = await new TCPConnector("127.0.0.1:6379", RespClient).run({ params: ["PING"] });
 */
export class TCPConnector<Context = unknown> extends BaseConnector<StreamSocket, Context> {
  readonly endpoint: Endpoint;
  readonly #options: ConnectOptions;

  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: TCPConnectorOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    this.endpoint = dialled(address);
    this.#options = options;
  }

  override connect(signal?: AbortSignal): Promise<StreamSocket> {
    return createConnection(this.endpoint, { ...this.#options, signal });
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }
}
