/** The options of an app's listener: their names, the kinds of listener that have them, and their checks. */

import { BaseRequestHandler } from "../handlers/handler.ts";
import { checkAmplification, checkPathAccess, PEER_NAMES, RATE_NAMES } from "../net/access.ts";
import {
  type AcceptOptions,
  checkCount,
  checkKeepAlive,
  checkPathOptions,
  type DatagramOptions,
  type ForkingOptions,
  type KeepAliveOptions,
  LISTEN_NAMES,
  type ListenOptions,
  type OptionNames,
  type PathOptions,
  settleForking,
} from "../options.ts";
import { PROXY_PROTOCOL_NAMES } from "../serve/proxy.ts";
import { BaseServer, type ServerOptions } from "../serve/server.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../sockets/streams/stream-options.ts";
import { type ListenerSecurity, SERVER_TLS_NAMES } from "../sockets/tls/tls.ts";
import { checkNames, wrong } from "./app-error.ts";

/**
 * How a listener serves its requests: one at a time, side by side, or each in a child process. In a Worker this has no
 * effect: each connection is a request of the platform, so they run side by side, apart from each other.
 */
export type Serving = "serial" | "threading" | "forking";

export const SERVINGS: readonly Serving[] = ["serial", "threading", "forking"];

/**
 * Limits and rules of one listener: those of the server that serves it, with the same names and
 * defaults. In a Worker `access`, `rate`, `maxRequests`, `maxRequestsPerAddress`, the times and `stream` apply to
 * each isolate by itself. No client waits there, so `requestQueueSize` and `whenFull` have no effect; the
 * platform has the sockets, so `backlog`, `keepAlive` and the options of ports have none either.
 */
export interface ListenerOptions
  extends Pick<
      ServerOptions<unknown>,
      | "requestQueueSize"
      | "maxRequests"
      | "whenFull"
      | "maxRequestsPerAddress"
      | "access"
      | "rate"
      | "proxyProtocol"
      | "requestTimeout"
      | "idleTimeout"
    >,
    ListenOptions,
    AcceptOptions,
    KeepAliveOptions,
    PathOptions,
    ListenerSecurity<string>,
    DatagramOptions,
    ForkingOptions {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

type Kind = "every" | "ports" | "unix" | "streams" | "tcp" | "datagrams" | "udp" | "forking";

/** The listeners that have an option: `ports` are those that are not on a path. */
const KINDS: { readonly [Name in keyof Required<ListenerOptions>]: Kind } = {
  requestQueueSize: "every",
  maxRequests: "every",
  whenFull: "every",
  maxRequestsPerAddress: "every",
  rate: "every",
  proxyProtocol: "every",
  requestTimeout: "every",
  idleTimeout: "every",
  access: "every",
  ipv6Only: "ports",
  allowReusePort: "ports",
  mode: "unix",
  owner: "unix",
  group: "unix",
  keepAlive: "tcp",
  backlog: "streams",
  stream: "streams",
  tls: "streams",
  secureTransport: "streams",
  maxPacketSize: "datagrams",
  amplification: "udp",
  maxChildren: "forking",
  blockTimeout: "forking",
  childIdleTimeout: "forking",
  requestsPerChild: "forking",
  restartDelay: "forking",
  maxRestartDelay: "forking",
  execArgv: "forking",
};

const WITHIN: OptionNames = {
  ...LISTEN_NAMES,
  access: PEER_NAMES,
  rate: RATE_NAMES,
  proxyProtocol: PROXY_PROTOCOL_NAMES,
  tls: SERVER_TLS_NAMES,
  stream: STREAM_NAMES,
};
const LISTENER_NAMES: OptionNames = Object.fromEntries(
  Object.keys(KINDS).map((name) => [name, WITHIN[name] ?? true]),
);

/** A server that is made only to check its options. */
class Checked extends BaseServer<unknown> {
  static override readonly optionNames: OptionNames = LISTENER_NAMES;

  protected override openDoor(): null {
    return null;
  }

  override get serverAddress(): null {
    return null;
  }
}

/** Returns `options` if a listener of this kind has them and their values are valid. Throws `ERR_APP`. */
export const checkListener = (
  options: ListenerOptions,
  where: string,
  scheme: "tcp" | "tls" | "udp" | "unix",
  carries: "streams" | "datagrams",
  serve: Serving,
): ListenerOptions => {
  const place = scheme === "unix" ? [scheme] : ["ports", scheme === "tls" ? "tcp" : scheme];
  const kinds: readonly string[] = ["every", ...place, carries, serve];
  const names = Object.fromEntries(
    Object.entries(LISTENER_NAMES).filter(([name]) => kinds.includes(KINDS[name as keyof ListenerOptions])),
  );
  const listener = scheme === "unix" ? `listener of ${carries} on a path` : `${scheme}:// listener`;
  checkNames(`${where} of a ${serve} ${listener}`, options, names);
  try {
    const { tls: _, secureTransport: __, ...rest } = options;
    new Checked(BaseRequestHandler as never, rest);
    settleStream(options.stream, "stream.");
    settleForking(options);
    checkCount("backlog", options.backlog ?? 1, 1);
    checkKeepAlive(options);
    checkPathOptions(options);
    if (scheme === "unix") checkPathAccess(options);
    checkCount("maxPacketSize", options.maxPacketSize ?? 0, 0);
    if (options.amplification != null) checkAmplification(options.amplification);
  } catch (error) {
    throw wrong(`${where}: ${(error as Error).message}`, error);
  }
  return Object.freeze({ ...options });
};
