/** Dialling, as far as it is the same everywhere: what may be dialled, with which options, and the connector of streams. */

import { type Address, type AddressLike, type Endpoint, formatAddress, parseAddress } from "./address.ts";
import { SocketError } from "./errors.ts";
import type { HandlerClass } from "./handler.ts";
import { checkTime, checkWord } from "./options.ts";
import { BaseConnector, type EndpointOptions } from "./server.ts";
import { type StreamOptions, type StreamSocket, settleStream, type TlsOptions } from "./socket.ts";

/** How a connection is secured: not, from its first byte (TLS), or later by `startTls()` (the Web platform's words). */
export const SECURE_TRANSPORTS = ["off", "on", "starttls"] as const;
export type SecureTransport = (typeof SECURE_TRANSPORTS)[number];

/** Options of one dialling. Times are milliseconds. */
export interface ConnectOptions {
  /** How long the connection may take to open. Default 10 000; `null` for as long as the system tries. */
  readonly connectTimeout?: number | null;
  /** Default `off`. With `starttls` the connection begins plain and is secured by `startTls()`. */
  readonly secureTransport?: SecureTransport;
  /** Whom to trust and whose name to expect; where `secureTransport` is not `off`. */
  readonly tls?: TlsOptions;
  /** Limits and times of the connection. */
  readonly stream?: Partial<StreamOptions>;
  /** Gives up the dialling. */
  readonly signal?: AbortSignal | undefined;
}

/** Opens one connection; each platform has its own. */
export type CreateConnection = (address: AddressLike, options?: ConnectOptions) => Promise<StreamSocket>;

/** The endpoint that `address` means, where it can be dialled. Throws `TypeError`, `RangeError`, `ERR_INVALID_ADDRESS`. */
export const dialable = (address: AddressLike): Endpoint => {
  const endpoint = parseAddress(address);
  const said = formatAddress(endpoint);
  if (endpoint.scheme === "udp") throw new TypeError(`${said} is a datagram address; this dials streams`);
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new RangeError(`${said} cannot be dialled: it names no host, or port 0`);
  }
  return endpoint;
};

/** `options`, where they can be: a word that means nothing must not mean "in plain text". Throws `TypeError` and `RangeError`. */
export const checkConnect = <Options extends ConnectOptions>(options: Options): Options => {
  checkTime("connectTimeout", options.connectTimeout ?? null, 1, true);
  checkWord("secureTransport", options.secureTransport ?? "off", SECURE_TRANSPORTS);
  return options;
};

/** `opening`, given up after `connectTimeout` ms (`ETIMEDOUT`) or when `signal` aborts (its reason); `giveUp` then lets go of it. */
export const openWithin = async <T>(
  opening: Promise<T>,
  said: string,
  { connectTimeout = 10_000, signal }: ConnectOptions,
  giveUp: () => void,
): Promise<T> => {
  const early = Promise.withResolvers<never>();
  const aborted = (): void => early.reject(signal?.reason);
  const timer =
    connectTimeout === null
      ? undefined
      : setTimeout(() => {
          const message = `${said} did not answer within ${connectTimeout} ms`;
          early.reject(new SocketError("ETIMEDOUT", message, { address: said }));
        }, connectTimeout);
  signal?.addEventListener("abort", aborted, { once: true });
  if (signal?.aborted) aborted();
  try {
    return await Promise.race([opening, early.promise]);
  } catch (error) {
    opening.catch(() => {}); // what it says now is of no interest
    giveUp();
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", aborted);
  }
};

/** Options of a connector of streams. */
export interface StreamConnectorOptions<Context>
  extends EndpointOptions<Context>,
    Omit<ConnectOptions, "signal"> {}

/** Dials one address and runs a handler on the connection; a platform adds `createConnection`. */
export abstract class StreamConnector<Context = unknown> extends BaseConnector<StreamSocket, Context> {
  readonly endpoint: Endpoint;
  readonly #options: Omit<ConnectOptions, "signal">;

  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: StreamConnectorOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    this.endpoint = dialable(address);
    this.#options = { ...checkConnect(options), stream: settleStream(options.stream) };
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
