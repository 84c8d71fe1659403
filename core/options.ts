/**
 * Checks of options: a wrong one is said where it is given, and not by what it does later. And the options that an
 * app's listener has as well as the server of its kind.
 */

/** The longest time that a timer holds in every runtime, in milliseconds: 24.8 days. */
export const MAX_TIMER = 2 ** 31 - 1;

const number = (name: string, value: unknown): number => {
  if (typeof value === "number") return value;
  throw new TypeError(
    `${name} must be a number, not ${typeof value === "string" ? JSON.stringify(value) : String(value)}`,
  );
};

/** `value`, where it is a time in milliseconds of at least `least`; `null` passes where it means "for ever". Else `TypeError` or `RangeError`. */
export const checkTime = <T extends number | null>(name: string, value: T, least = 1, forEver = false): T => {
  if (value === null && forEver) return value;
  const time = number(name, value);
  if (time >= least && time <= MAX_TIMER) return value;
  throw new RangeError(
    `${name} is ${least} to ${MAX_TIMER} ms${forEver ? ", or null for ever" : ""}, not ${time}`,
  );
};

/** `value`, where it is a whole number of at least `least`. Else `TypeError` or `RangeError`. */
export const checkCount = (name: string, value: number, least: number): number => {
  const count = number(name, value);
  if (Number.isInteger(count) && count >= least) return count;
  throw new RangeError(`${name} is a whole number of ${least} or more, not ${count}`);
};

/** Throws a `TypeError` where `given` has a property that is not of `known`: a name that was misspelt is heard of. */
export const checkNames = (what: string, given: object, known: readonly string[]): void => {
  const other = Object.keys(given).find((name) => !known.includes(name));
  if (other !== undefined) throw new TypeError(`${what} has no ${other}; it has ${known.join(", ")}`);
};

/** `value`, where it is one of `words`. Else `TypeError`. */
export const checkWord = <T extends string>(name: string, value: T, words: readonly T[]): T => {
  if (words.includes(value)) return value;
  throw new TypeError(
    `${name} is ${words.map((word) => `"${word}"`).join(", ")}, not ${JSON.stringify(value)}`,
  );
};

// ---- Options that an app's listeners have, too ----

/** Options of how a server listens. */
export interface ListenOptions {
  /** Listen for IPv6 alone. Default `false`: `"[::]:80"` takes IPv4, too, whose clients it tells as `::ffff:192.0.2.1`. */
  readonly ipv6Only?: boolean;
  /** Share the port with other processes that say so, too; the kernel spreads the clients (`SO_REUSEPORT`; Linux, FreeBSD). Those queued at one that dies are reset. Default `false`. */
  readonly allowReusePort?: boolean;
}

/** What a server of datagrams has beside a server's own options. */
export interface DatagramOptions {
  /** Bytes of a datagram that are taken; the rest is cut, and `truncated` says so. Default 65 535, so that nothing is (CPython: 8 192). */
  readonly maxPacketSize?: number;
  /**
   * How many bytes may be sent to an address in all for each byte that came from it; what is over is dropped, and
   * told. Anybody can send a datagram in another's name, and have the reply sent to him: a server that gives long
   * replies to short questions is a weapon. Default `null`, no limit, since how long a reply is to be the protocol
   * says (a DNS answer is ten times its question), and the loopback address that servers here listen on is not
   * reached from outside. For who listens on a public address: 3, as QUIC (RFC 9000 section 8), or what his
   * protocol needs.
   */
  readonly amplification?: number | null;
}

/**
 * What a forking server has beside the options of its kind. Times are milliseconds.
 *
 * Two of a server's own have another default here: `timeout` is 300 000, as CPython's, and so is `requestTimeout`,
 * counted from the request's arrival, since a request holds a whole process, and those that never end would hold
 * them all. `context` goes to the children as a structured clone: plain data. What cannot be cloned, such as a
 * connection to a database, the handler's module makes at its top level.
 */
export interface ForkingOptions {
  /** How many children there may be, and so requests at once; `maxRequests`, where that is less. Default 40, as CPython's `max_children`. */
  readonly maxChildren?: number;
  /**
   * How long a handler may hold its process without awaiting anything; past that, and within a quarter as much again,
   * it counts as an endless loop, and its child is killed; `null` for ever. `requestTimeout` ends one, too. Default
   * 30 000: few clients wait longer for an answer. A handler that computes longer needs more.
   */
  readonly blockTimeout?: number | null;
  /** How long a child is kept that has nothing to do; `null` for ever. Default 10 000, as php-fpm's `process_idle_timeout`. The last one is kept. */
  readonly childIdleTimeout?: number | null;
  /** How many requests a child serves before it is ended; `null`, any number. 1 keeps what one request leaves behind from the next, as CPython does, and costs each a start. Default `null`. */
  readonly requestsPerChild?: number | null;
  /** How long the place of a lost child stays empty; each further time twice as long, until a request was served to its end. Default 100. */
  readonly restartDelay?: number;
  /** The longest that becomes. Default 10 000. */
  readonly maxRestartDelay?: number;
  /** Options of Node for the children, such as `--max-old-space-size=256`, beside those of this process that they need. */
  readonly execArgv?: readonly string[];
}

/** `options` with what is not given. Throws `TypeError` and `RangeError`. */
export const settleForking = (options: ForkingOptions): Required<ForkingOptions> => {
  const {
    maxChildren = 40,
    blockTimeout = 30_000,
    childIdleTimeout = 10_000,
    requestsPerChild = null,
    restartDelay = 100,
    maxRestartDelay = 10_000,
    execArgv = [],
  } = options;
  return {
    maxChildren: checkCount("maxChildren", maxChildren, 1),
    blockTimeout: checkTime("blockTimeout", blockTimeout, 1, true),
    childIdleTimeout: checkTime("childIdleTimeout", childIdleTimeout, 1, true),
    requestsPerChild: requestsPerChild === null ? null : checkCount("requestsPerChild", requestsPerChild, 1),
    restartDelay: checkTime("restartDelay", restartDelay, 1),
    maxRestartDelay: checkTime("maxRestartDelay", maxRestartDelay, 1),
    execArgv: [...execArgv],
  };
};
