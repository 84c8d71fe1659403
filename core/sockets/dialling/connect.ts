/** Opens a connection: the part that is the same in every place. It checks which addresses may be dialled, with which options, and for how long. */

import { deadline } from "../../bytes/alarm.ts";
import { textOf } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import { type AddressLike, type Endpoint, formatAddress, parseAddress } from "../../net/address.ts";
import {
  checkOptions,
  checkTime,
  checkWord,
  type OptionNames,
  optionNamesOf,
  wholeMs,
} from "../../options.ts";
import { STREAM_NAMES, type StreamOptions } from "../streams/stream-options.ts";
import type { StreamSocket } from "../streams/stream-socket.ts";
import {
  checkTls,
  SECURE_TRANSPORTS,
  type SecureTransport,
  securedAs,
  TLS_NAMES,
  type TlsOptions,
} from "../tls/tls.ts";

/** Options of one dial. Times are milliseconds. */
export interface ConnectOptions {
  /** How long the connection may take to open. Default 10 000. `null`: as long as the system tries. */
  readonly connectTimeout?: number | null;
  /** Default `on` for `tls://host:port` and if `tls` is given, else `off`. With `starttls` the connection begins in plain text, and `startTls()` secures it. */
  readonly secureTransport?: SecureTransport;
  /** Which authorities to trust and which name to expect, if `secureTransport` is not `off`. */
  readonly tls?: TlsOptions;
  /**
   * Sent first, before TLS: a header of the PROXY protocol that names the client, as `proxyHeader()` makes it (version 1 or 2).
   * Default: none is sent.
   */
  readonly proxyHeader?: Uint8Array | undefined;
  /** Limits and times of the connection. */
  readonly stream?: Partial<StreamOptions>;
  /** Aborts the dial. */
  readonly signal?: AbortSignal | undefined;
}

export const CONNECT_NAMES = optionNamesOf<ConnectOptions>("what dials")({
  connectTimeout: true,
  secureTransport: true,
  tls: TLS_NAMES,
  proxyHeader: true,
  stream: STREAM_NAMES,
  signal: "signal",
});

/** Throws `TypeError` if `header` is not a PROXY protocol header for a stream. */
export const checkHeader = (header: unknown): void => {
  const right = "proxyHeader is what proxyHeader() makes: the bytes of a PROXY protocol header";
  if (!(header instanceof Uint8Array)) throw new TypeError(`${right}, not ${textOf(header, 40)}`);
  if (header[0] === 0x56)
    throw new TypeError(`${right}; a stream has version 1 or 2, and "simple" is for datagrams`);
  if (header[0] !== 0x50 && header[0] !== 0x0d)
    throw new TypeError(`${right}; these ${header.length} bytes are not one`);
};

/** Opens one connection. Each platform has its own. */
export type CreateConnection = (address: AddressLike, options?: ConnectOptions) => Promise<StreamSocket>;

/** The endpoint of `address`. Throws `TypeError`, `RangeError` or `ERR_INVALID_ADDRESS` if it cannot be dialled. */
export const dialable = (address: AddressLike): Endpoint => {
  const endpoint = parseAddress(address);
  const said = formatAddress(endpoint);
  if (endpoint.scheme === "udp") throw new TypeError(`${said} is a datagram address; this dials streams`);
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new RangeError(`${said} cannot be dialled: it names no host, or port 0`);
  }
  return endpoint;
};

/** How a dialled connection is secured: `tls://`, and what is given `tls`, from its first byte. Throws `TypeError` if the options say otherwise. */
export const secureTransportOf = (
  { scheme }: Endpoint,
  {
    secureTransport,
    tls,
  }: Pick<ConnectOptions, "tls"> & { readonly secureTransport?: SecureTransport | undefined },
): SecureTransport => {
  const secured = tls === undefined ? secureTransport : securedAs(secureTransport);
  if (scheme !== "tls") return secured ?? "off";
  if (secureTransport === undefined || secureTransport === "on") return "on";
  throw new TypeError(
    `tls:// is secured from its first byte, and secureTransport is "${secureTransport}"; write tcp://, or leave it out`,
  );
};

/** Returns `options` if they are sound: a misspelled word must not come to mean "in plain text". Throws `TypeError` or `RangeError`. */
export const checkConnect = <Options extends ConnectOptions>(
  taker: string,
  options: Options,
  names: OptionNames,
): Options => {
  checkOptions(taker, options, names);
  checkConnecting(options);
  return options;
};

/** The same for options whose names have been checked. */
export const checkConnecting = (options: ConnectOptions): void => {
  const { connectTimeout = null, secureTransport = "off", tls } = options;
  if (options.proxyHeader !== undefined) checkHeader(options.proxyHeader);
  checkTime("connectTimeout", connectTimeout, 1, true);
  checkWord("secureTransport", secureTransport, SECURE_TRANSPORTS);
  if (tls !== undefined) checkTls(tls);
};

/** `opening`, aborted after `connectTimeout` ms (`ETIMEDOUT`) or when `signal` aborts (its reason); `giveUp` then closes it. */
export const openWithin = async <T>(
  opening: Promise<T>,
  said: string,
  { connectTimeout = 10_000, signal }: ConnectOptions,
  giveUp: () => void,
): Promise<T> => {
  const early = Promise.withResolvers<never>();
  const aborted = (): void => early.reject(signal?.reason);
  const late = (): void => {
    const message = `${said} did not answer within ${wholeMs(connectTimeout ?? 0)}`;
    early.reject(new SocketError("ETIMEDOUT", message, { address: said }));
  };
  const stopTimer = connectTimeout === null ? null : deadline(connectTimeout, late);
  signal?.addEventListener("abort", aborted, { once: true });
  if (signal?.aborted) aborted();
  try {
    return await Promise.race([opening, early.promise]);
  } catch (error) {
    opening.catch(() => {}); // its failure no longer matters
    giveUp();
    throw error;
  } finally {
    stopTimer?.();
    signal?.removeEventListener("abort", aborted);
  }
};

const OTHER =
  "this connection was made by another request, and a Worker cannot use it here: use a pool (docs/pools.md), or a Durable Object";

/** Why a connection fails when a request other than its own uses it. */
export const otherRequest = (details: { readonly cause?: unknown; readonly address?: string }): SocketError =>
  new SocketError("ERR_UNSUPPORTED", OTHER, details);
