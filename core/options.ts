/**
 * Checks of options, so that a wrong option is an error where it is given and not a surprise later. And the options that
 * an app's listener shares with the server of its kind.
 */

import { quoted, textOf } from "./describe.ts";

/** The longest delay of a timer in every runtime, in milliseconds: 24.8 days. */
export const MAX_TIMER = 2 ** 31 - 1;

/** A time as it is printed, in whole milliseconds: `"300 ms"`. */
export const wholeMs = (time: number): string => `${Math.round(time)} ms`;

const number = (name: string, value: unknown): number => {
  if (typeof value === "number") return value;
  throw new TypeError(
    `${name} must be a number, not ${typeof value === "string" ? quoted(value) : textOf(value, 100)}`,
  );
};

/** Returns `value` if it is a time of at least `least` milliseconds; with `forEver`, `null` passes, too. Throws `TypeError` or `RangeError`. */
export const checkTime = <T extends number | null>(name: string, value: T, least = 1, forEver = false): T => {
  if (value === null && forEver) return value;
  const time = number(name, value);
  if (time >= least && time <= MAX_TIMER) return value;
  throw new RangeError(
    `${name} must be ${least} to ${MAX_TIMER} ms${forEver ? ", or null for no limit" : ""}, not ${time}`,
  );
};

/** Returns `value` if it is a whole number of at least `least`. Throws `TypeError` or `RangeError`. */
export const checkCount = (name: string, value: number, least: number): number => {
  const count = number(name, value);
  if (Number.isInteger(count) && count >= least) return count;
  throw new RangeError(`${name} must be a whole number of ${least} or more, not ${count}`);
};

// ---- Names ----

/** What a value of each kind is, and whether a value is one. */
const KINDS = {
  boolean: ["true or false", (value: unknown) => typeof value === "boolean"],
  string: ["a string", (value: unknown) => typeof value === "string"],
  function: ["a function", (value: unknown) => typeof value === "function"],
  list: ["a list", Array.isArray],
  strings: ["a list of strings", Array.isArray], // and each item is checked, which the message then names
  entries: ["an object of entries by name", (value: unknown) => isObject(value)],
  signal: ["an AbortSignal", (value: unknown) => isObject(value) && "aborted" in value],
} as const;
type Kind = keyof typeof KINDS;

/**
 * The names of some options: a kind for one whose value must be of that kind, which is checked, too; a nested list of names for one that is itself an object of options; `true` for all others.
 */
export interface OptionNames {
  readonly [name: string]: true | Kind | OptionNames;
}

/** The kind of all values of this type; `true` or a list of names if they have none. */
type KindOf<Value> = [Value] extends [boolean]
  ? "boolean"
  : [Value] extends [(...args: never[]) => unknown]
    ? "function"
    : [Value] extends [readonly unknown[]]
      ? [Value] extends [readonly string[]]
        ? "strings"
        : "list"
      : [Value] extends [AbortSignal]
        ? "signal"
        : [Value, string] extends [string, Value]
          ? "string"
          : string extends keyof Value
            ? "entries"
            : true | OptionNames;

/** The list of names that `Options` must have. */
type NamesOf<Options> = { readonly [Name in keyof Options]-?: KindOf<Exclude<Options[Name], undefined>> };

const owners: (readonly [owner: string, names: OptionNames])[] = [];

/**
 * The list of names of `Options`, for `checkOptions`. It does not compile if a name is missing or superfluous, so a new option
 * is a line in its interface and a line here. `owner` says what takes these options ("a forking server"), for the error message
 * when one of them is given elsewhere.
 *
 *     const RATE_NAMES = optionNamesOf<RateLimit>("a rate")({ perSecond: true, burst: true });
 */
export const optionNamesOf =
  <Options>(owner?: string) =>
  <Names extends NamesOf<Options>>(
    names: Names & { readonly [Name in Exclude<keyof Names, keyof Options>]: never },
  ): Names => {
    if (owner !== undefined) owners.push([owner, names]);
    return names;
  };

/** Hints for names that are often given where they mean nothing. */
const REMARKS: OptionRemarks = {
  secureTransport: "clients have it, and stream servers in Node; an app's listener has it in its options",
  tls: "clients have it, and stream servers in Node; an app's listener has it in its options",
  allowReuseAddress: "it is an option of a UDP server; a TCP server has a property of that name",
};
type OptionRemarks = Readonly<Record<string, string>>;

/** Whether `value` is an object and not an array. */
export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Throws a `TypeError` if `given` is not an object, has a name that is not in `names`, or a value that is not of the kind that
 * `names` gives, at any depth. The message says which, and suggests the right name. `taker` is what takes the options:
 * `"createConnection()"`. A wrong name is an error with any value, even `undefined`.
 */
export const checkOptions = (taker: string, given: unknown, names: OptionNames): void => {
  if (!isObject(given)) throw new TypeError(`${taker} takes an object of options, not ${show(given)}`);
  check(taker, given, names, "", names);
};

const check = (taker: string, given: object, names: OptionNames, path: string, all: OptionNames): void => {
  for (const [name, value] of Object.entries(given)) {
    const known = Object.hasOwn(names, name) ? names[name] : undefined;
    if (known === undefined) throw new TypeError(unknown(taker, path, name, names, all));
    if (known === true || value === undefined) continue;
    if (typeof known === "string") {
      const [right, is] = KINDS[known];
      if (!is(value)) throw new TypeError(`${path}${name} of ${taker} is ${right}, not ${show(value)}`);
      for (const [i, item] of known === "strings" ? (value as unknown[]).entries() : []) {
        if (typeof item === "string") continue;
        throw new TypeError(`${path}${name}[${i}] of ${taker} is a string, not ${show(item)}`);
      }
      continue;
    }
    if (!isObject(value)) {
      throw new TypeError(`${path}${name} of ${taker} is an object of options, not ${show(value)}`);
    }
    check(taker, value, known, `${path}${name}.`, all);
  }
};

const show = (value: unknown): string =>
  value === undefined || value === null || typeof value === "number" || typeof value === "boolean"
    ? String(value)
    : typeof value === "string"
      ? JSON.stringify(value)
      : Array.isArray(value)
        ? "an array"
        : `${typeof value === "object" ? "an" : "a"} ${typeof value}`;

/** The message for an unknown option `name` among `names`, which are at `path`, with what would be right. */
const unknown = (taker: string, path: string, name: string, names: OptionNames, all: OptionNames): string => {
  const meant = pathsOf(all)
    .map((other) => ({ other, distance: distanceOf(name.toLowerCase(), lastOf(other).toLowerCase()) }))
    .filter(({ distance }) => distance <= Math.ceil(name.length / 4))
    .sort((one, other) => one.distance - other.distance)
    .slice(0, 3);
  const here = meant[0]?.distance === 0; // at another depth, or with other capitals
  const owned = here ? "" : ownersOf(name).join(" and of ");
  const remark = Object.hasOwn(REMARKS, name) ? REMARKS[name] : owned && `it is an option of ${owned}`;
  const known = Object.keys(names)
    .map((other) => path + other)
    .join(", ");
  const instead =
    meant.length > 0 ? `did you mean ${meant.map(({ other }) => other).join(" or ")}?` : `it has ${known}`;
  return `${taker} has no option ${path}${name}${remark ? ` (${remark})` : ""}; ${instead}`;
};

const lastOf = (path: string): string => path.slice(path.lastIndexOf(".") + 1);

/** The owners of an option of this name; where one list extends another, the one that adds the name. */
const ownersOf = (name: string): string[] => {
  const having = owners.filter(([, names]) => Object.hasOwn(names, name));
  const adds = (names: OptionNames): boolean =>
    !having.some(([, base]) => base !== names && Object.keys(base).every((other) => other in names));
  return having.filter(([, names]) => adds(names)).map(([owner]) => owner);
};

/** All names at all depths: `stream`, `stream.maxLine`. */
const pathsOf = (names: OptionNames, path = ""): string[] =>
  Object.entries(names).flatMap(([name, within]) => [
    path + name,
    ...(typeof within === "object" ? pathsOf(within, `${path}${name}.`) : []),
  ]);

/** The edit distance between two words: insertions, deletions, changes, and swaps of neighbours; 1 if one contains the other. */
const distanceOf = (one: string, other: string): number => {
  if (one !== other && one.length > 3 && other.includes(one)) return 1;
  let before: number[] = [];
  let last = Array.from({ length: other.length + 1 }, (_, i) => i);
  for (let i = 1; i <= one.length; i++) {
    const row = [i];
    for (let j = 1; j <= other.length; j++) {
      const same = one[i - 1] === other[j - 1];
      const swapped = i > 1 && j > 1 && one[i - 1] === other[j - 2] && one[i - 2] === other[j - 1];
      row.push(
        Math.min(
          (last[j] as number) + 1,
          (row[j - 1] as number) + 1,
          (last[j - 1] as number) + (same ? 0 : 1),
          swapped ? (before[j - 2] as number) + 1 : Number.POSITIVE_INFINITY,
        ),
      );
    }
    before = last;
    last = row;
  }
  return last[other.length] as number;
};

// ---- Values ----

/** Returns `value` if it is one of `words`. Throws `TypeError`. */
export const checkWord = <T extends string>(name: string, value: T, words: readonly T[]): T => {
  if (words.includes(value)) return value;
  throw new TypeError(
    `${name} must be ${words.map((word) => `"${word}"`).join(" or ")}, not ${quoted(value)}`,
  );
};

// ---- Options that an app's listeners have, too ----

/** Options for how a server listens. */
export interface ListenOptions {
  /** Listen for IPv6 only. Default `false`: `"[::]:80"` accepts IPv4 as well, and shows those clients as `::ffff:192.0.2.1`. */
  readonly ipv6Only?: boolean;
  /** Share the port with other processes that set this, too; the kernel spreads the clients over them (`SO_REUSEPORT`; Linux, FreeBSD). If a process dies, the connections in its queue are reset. Default `false`. */
  readonly allowReusePort?: boolean;
}

export const LISTEN_NAMES = optionNamesOf<ListenOptions>("a server that listens on a port")({
  ipv6Only: "boolean",
  allowReusePort: "boolean",
});

/** Options for how a server accepts connections. */
export interface AcceptOptions {
  /** How many connections may wait in the kernel until this process accepts them; the kernel has its own limit, too (`net.core.somaxconn`). Default 511, Node's: connections are accepted at once, so few ever wait there. */
  readonly backlog?: number;
}

export const ACCEPT_NAMES = optionNamesOf<AcceptOptions>("a server of streams")({ backlog: true });

/** Options of a TCP server. */
export interface KeepAliveOptions {
  /**
   * How long a connection may be silent before the kernel probes its peer (`SO_KEEPALIVE`), in milliseconds that make whole
   * seconds. If the peer does not answer within ten seconds, the connection breaks. The probes also keep a firewall from
   * forgetting a silent connection. Default `null`: never.
   */
  readonly keepAlive?: number | null;
}

export const KEEP_ALIVE_NAMES = optionNamesOf<KeepAliveOptions>("a server of TCP connections")({
  keepAlive: true,
});

/** Who may use the socket file of a server on a path. They are set before the first client is accepted. */
export interface PathOptions {
  /** The file's permissions, such as `0o660`. Default: 0o777 without the bits of the process's umask, so the umask decides whether other users may connect. */
  readonly mode?: number | undefined;
  /** The file's owner: a user's number, or its name in /etc/passwd. Any other than the process's own needs privileges (CAP_CHOWN). Default: the process's user. */
  readonly owner?: number | string | undefined;
  /** The file's group: its number, or its name in /etc/group. Without privileges it must be one of the process's own groups. Default: the process's group. */
  readonly group?: number | string | undefined;
}

export const PATH_NAMES = optionNamesOf<PathOptions>("a server on a path")({
  mode: true,
  owner: true,
  group: true,
});

const MAX_KEEP_ALIVE = 32_767_000; // ms; tcp(7): MAX_TCP_KEEPIDLE, in seconds
const MAX_ID = 2 ** 32 - 2; // of a user or a group; the next is chown(2)'s -1

/** Returns `keepAlive` if it is valid. Throws `TypeError` or `RangeError`. */
export const checkKeepAlive = ({ keepAlive = null }: KeepAliveOptions): number | null => {
  if (checkTime("keepAlive", keepAlive, 1_000, true) === null) return null;
  if (keepAlive !== null && keepAlive <= MAX_KEEP_ALIVE && keepAlive % 1_000 === 0) return keepAlive;
  throw new RangeError(
    `keepAlive must be whole seconds in milliseconds, 1000 to ${MAX_KEEP_ALIVE}, or null for never, not ${keepAlive}`,
  );
};

/** Returns the options if they are valid. Throws `TypeError` or `RangeError`. */
export const checkPathOptions = ({ mode, owner, group }: PathOptions): PathOptions => {
  if (mode !== undefined && checkCount("mode", mode, 0) > 0o777) {
    throw new RangeError(`mode must be 0 to 0o777, such as 0o660, not 0o${mode.toString(8)} (${mode})`);
  }
  for (const [name, value] of Object.entries({ owner, group })) {
    if (value === undefined || (typeof value === "string" && value !== "")) continue;
    if (typeof value === "string") throw new TypeError(`${name} must be a name or a number, not ""`);
    if (checkCount(name, value, 0) > MAX_ID)
      throw new RangeError(`${name} must be 0 to ${MAX_ID}, or a name, not ${value}`);
  }
  return { mode, owner, group };
};

/** Options of a datagram server, besides those of every server. */
export interface DatagramOptions {
  /** The most bytes of a datagram that are delivered; the rest is cut off, and `truncated` is true. Default 65 535, so that nothing is cut (CPython: 8 192). */
  readonly maxPacketSize?: number;
  /**
   * How many bytes may be sent to an address for each byte that came from it. Replies beyond that are dropped, and reported as
   * an event. Anybody can send a datagram with a forged source address and so have the reply sent to a victim; a server with
   * long replies to short requests amplifies such an attack. Default `null`, no limit: the length of replies depends on the
   * protocol (a DNS answer is ten times its question), and the loopback address, on which servers listen by default, cannot be
   * reached from outside. A server on a public address should set 3, as QUIC does (RFC 9000 section 8), or what its protocol
   * needs. In a cluster (`--workers`) it applies to each worker.
   */
  readonly amplification?: number | null;
}

export const DATAGRAM_NAMES = optionNamesOf<DatagramOptions>("a server of datagrams")({
  maxPacketSize: true,
  amplification: true,
});

/**
 * Options of a forking server, besides those of its kind. Times are milliseconds.
 *
 * Two of a server's own options have another default here. `timeout` is 300 000, as in CPython, and so is `requestTimeout`,
 * counted from the request's arrival: a request holds a whole process, and requests that never end would hold them all.
 * `context` goes to the children as a structured clone, so it must be plain data. What cannot be cloned, such as a database
 * connection, must be made at the top level of the handler's module.
 */
export interface ForkingOptions {
  /** The most children, and so the most requests at once; `maxRequests` applies if it is less. Default 40, as CPython's `max_children`. In a cluster (`--workers`) it applies to each worker. */
  readonly maxChildren?: number;
  /**
   * How long a handler may run without awaiting anything. After that, at most a quarter of the time later, it counts as an
   * endless loop and its child is killed; `null`: no limit. `requestTimeout` ends one, too. Default 30 000: few clients wait
   * longer for an answer. A handler that computes for longer needs more.
   */
  readonly blockTimeout?: number | null;
  /** How long an idle child is kept; `null`: no limit. Default 10 000, as php-fpm's `process_idle_timeout`. The last child is always kept. */
  readonly childIdleTimeout?: number | null;
  /** How many requests a child serves before it is ended; `null`: any number. With 1 no request can leave anything behind for the next, as in CPython, but each one costs a process start. Default `null`. */
  readonly requestsPerChild?: number | null;
  /** The pause before a lost child is replaced; it doubles with each further loss until a request is served to its end. Default 100. */
  readonly restartDelay?: number;
  /** The longest `restartDelay` can become. Default 10 000. */
  readonly maxRestartDelay?: number;
  /** Node options for the children, such as `--max-old-space-size=256`, besides those of this process that they inherit. */
  readonly execArgv?: readonly string[];
}

export const FORKING_NAMES = optionNamesOf<ForkingOptions>("a forking server")({
  maxChildren: true,
  blockTimeout: true,
  childIdleTimeout: true,
  requestsPerChild: true,
  restartDelay: true,
  maxRestartDelay: true,
  execArgv: "strings",
});

/** `options` with defaults filled in. Throws `TypeError` and `RangeError`. */
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

// ---- Pools ----

/** Limits of a pool. Times are milliseconds. */
export interface PoolOptions {
  /** The most connections at once, including those being dialled. Default 10: a server has few to give (PostgreSQL 100 in all), and several processes share them. */
  readonly max?: number;
  /** How many connections are kept open even if they are idle. Default 0: an unused pool costs nothing. */
  readonly min?: number;
  /** How many calls may be under way on one connection. Default 1: a slow call holds up no other. */
  readonly pipeline?: number;
  /** How many calls and leases may wait for a connection; one more rejects with `ERR_LIMIT`. Default 10 000: a few MB, and far more than can be answered in time. */
  readonly maxWaiting?: number;
  /** How long a call or a lease waits for a connection before it rejects with `ETIMEDOUT`. Default 10 000: a server restarts in less, and few callers wait longer. */
  readonly waitTimeout?: number;
  /** How long a call may take from sending to reply; `null`: no limit. Default 30 000: slower calls are rare, and should set their own limit. */
  readonly callTimeout?: number | null;
  /** How long a lease may last; `null`: no limit. Default 60 000: a transaction that stays open longer holds up others at the server. */
  readonly leaseTimeout?: number | null;
  /** How long `setup()` may take once the connection is open. Default 10 000, as for dialling itself (`connectTimeout`). */
  readonly loginTimeout?: number;
  /** How long an idle connection above `min` is kept; `null`: no limit. Default 60 000: networks forget silent connections after 350 s (AWS) or 240 s (Azure). */
  readonly idleTimeout?: number | null;
  /** How often `idle()` runs on an idle connection; `null`: never. Default 30 000: a dead peer is found before a caller meets it. */
  readonly pingInterval?: number | null;
  /** How long a connection is used in all, minus up to a tenth at random, so that connections do not all end together; `null`: no limit. Default 1 800 000: half an hour, so that a server that moved, or a new password, is noticed. */
  readonly maxAge?: number | null;
  /** The pause after a failed dial, minus up to half at random; it doubles with each further failure. Default 100. */
  readonly retryDelay?: number;
  /** The longest `retryDelay` can become. Default 10 000: a server that is back is found within that time. */
  readonly maxRetryDelay?: number;
  /** The most bytes of one reply; a larger one rejects with `ERR_LIMIT`, and ends the connection. Default 16 777 216: a Worker has 128 MB. */
  readonly maxReply?: number;
  /** How many times a `repeatable` call is begun at most. Default 3: a call that crashes the server each time must not go on for ever. */
  readonly maxAttempts?: number;
  /** How long `close()` lets calls and leases continue. Default 10 000, as for a server. */
  readonly drainTimeout?: number;
}

export const POOL_NAMES = optionNamesOf<PoolOptions>("a pool")({
  max: true,
  min: true,
  pipeline: true,
  maxWaiting: true,
  waitTimeout: true,
  callTimeout: true,
  leaseTimeout: true,
  loginTimeout: true,
  idleTimeout: true,
  pingInterval: true,
  maxAge: true,
  retryDelay: true,
  maxRetryDelay: true,
  maxReply: true,
  maxAttempts: true,
  drainTimeout: true,
});

/** The limits in `options` with defaults filled in. Throws `TypeError` and `RangeError`. */
export const settlePool = (options: PoolOptions): Required<PoolOptions> => {
  const {
    max = 10,
    min = 0,
    pipeline = 1,
    maxWaiting = 10_000,
    waitTimeout = 10_000,
    callTimeout = 30_000,
    leaseTimeout = 60_000,
    loginTimeout = 10_000,
    idleTimeout = 60_000,
    pingInterval = 30_000,
    maxAge = 1_800_000,
    retryDelay = 100,
    maxRetryDelay = 10_000,
    maxReply = 16 * 1024 * 1024,
    maxAttempts = 3,
    drainTimeout = 10_000,
  } = options;
  checkCount("max", max, 1);
  checkCount("min", min, 0);
  if (min > max) throw new RangeError(`min is ${min}, but must be at most max, which is ${max}`);
  return {
    max,
    min,
    pipeline: checkCount("pipeline", pipeline, 1),
    maxWaiting: checkCount("maxWaiting", maxWaiting, 0),
    waitTimeout: checkTime("waitTimeout", waitTimeout, 1),
    callTimeout: checkTime("callTimeout", callTimeout, 1, true),
    leaseTimeout: checkTime("leaseTimeout", leaseTimeout, 1, true),
    loginTimeout: checkTime("loginTimeout", loginTimeout, 1),
    idleTimeout: checkTime("idleTimeout", idleTimeout, 1, true),
    pingInterval: checkTime("pingInterval", pingInterval, 1, true),
    maxAge: checkTime("maxAge", maxAge, 1, true),
    retryDelay: checkTime("retryDelay", retryDelay, 1),
    maxRetryDelay: checkTime("maxRetryDelay", maxRetryDelay, 1),
    maxReply: checkCount("maxReply", maxReply, 1),
    maxAttempts: checkCount("maxAttempts", maxAttempts, 1),
    drainTimeout: checkTime("drainTimeout", drainTimeout, 0),
  };
};
