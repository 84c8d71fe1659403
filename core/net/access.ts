/**
 * The addresses that an app may dial: its `allow` rules, matched on the canonical spelling of a target, which is then dialled. And
 * the peers that a server admits, and the limits of each: networks, a rate, concurrent requests, bytes of reply.
 *
 * A guard can be bypassed if it reads an address differently from the code that dials it. So a target is first brought
 * to one spelling, rules are matched on that (by bytes if it is an address), and `AllowList.check` returns
 * it: dial what it returned, never what was asked for.
 */

import { SocketError } from "../errors.ts";
import { checkCount, optionNamesOf } from "../options.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  inetNtop,
  inNetwork,
  type Network,
  packAddress,
  parseAddress,
} from "./address.ts";
import { AF_INET, AF_INET6 } from "./constants.ts";

/** Ports from the first to the last, both within 1 to 65535. */
type PortRange = readonly [first: number, last: number];

/** A rule of an app's `allow`, read by `parseAllowRule`. */
type AllowRule = {
  /** The rule as it was written. */
  readonly text: string;
  readonly ports: readonly PortRange[];
} & (
  | { readonly network: Network }
  | {
      /** As it is matched: lower case, punycode, no trailing dot. */
      readonly name: string;
      /** True for `*.name`: all names below it, not the name itself. */
      readonly below: boolean;
    }
);

/** A host and a port, as `AllowList.check` returns them. */
type InternetEndpoint = Extract<Endpoint, { readonly hostname: string }>;

// --- Rules -------------------------------------------------------------------------------------------------

/**
 * Reads a rule: a host and its ports, for TCP and UDP alike.
 *
 * | host | |
 * |---|---|
 * | `10.1.2.3`, `[2001:db8::1]` | that address, however a target spells it |
 * | `10.0.0.0/8`, `[2001:db8::]/32` | the addresses of that network (CIDR, RFC 4632) |
 * | `redis.example.com` | that name |
 * | `*.example.com` | every name below, at any depth; `example.com` itself needs its own rule |
 *
 * Ports are one (`:6379`), a range (`:8000-8100`), a list of these (`:80,443`), or all (`:*`).
 *
 * **A wide network ends where the public Internet does.** An address that is not public (loopback, private,
 * link-local, shared, multicast, reserved, or IPv6 that leads to an IPv4 address: NAT64, 6to4, Teredo,
 * IPv4-compatible) is allowed only by a rule that lies within its special network. So `0.0.0.0/0:443` and
 * `[::]/0:443` are the public Internet, and `127.0.0.0/8`, `10.0.0.0/8`, `[fd00::]/8` say what they mean.
 *
 * **What a rule by name cannot promise: where the name leads.** The platform resolves the name when it dials,
 * after the check, and the operator of that name's DNS may answer with any address, with another one each time,
 * and with one of yours (127.0.0.1, 10.x, 169.254.169.254: "DNS rebinding"). Network rules do not apply then.
 * Cloudflare's edge refuses private addresses by itself; Node and `wrangler dev` dial them. Allow by name only
 * names whose DNS you trust; `*.example.com` trusts everyone who can create a name below it. If you need
 * more, allow addresses, or let TLS verify who answered. For the same reason there is no rule `*:443`: "any
 * name, but nothing private" is a promise that could not be kept.
 *
 * A name matches only names, a network only addresses. `localhost` and the names below it are this machine
 * (RFC 6761 section 6.3): each must be named in full, and `*.localhost` is an error.
 *
 * @throws SocketError `ERR_APP` if it is not a rule; the message says what would be right.
 */
export function parseAllowRule(text: string): AllowRule {
  const wrong = (why: string) => new SocketError("ERR_APP", `the allow rule ${JSON.stringify(text)} ${why}`);
  if (typeof text !== "string") throw wrong(`is not a string; write "host:port"`);
  if (text.includes("://")) throw wrong(`has a scheme; write "host:port", which is for TCP and UDP`);
  const [, host = "", prefix, portText] = RULE.exec(text) ?? [];
  if (host === "" || host.includes("/") || portText?.includes(":")) {
    throw wrong(
      `is not of the form "host:port"; IPv6 has brackets, before the prefix: "[2001:db8::]/32:443"`,
    );
  }
  if (portText === undefined) throw wrong(`has no port; write "${text}:443", or "${text}:*" for every port`);
  const rule = { text, ports: portText.split(",").map((item) => portRange(item, wrong)) };

  if (host === "*") {
    throw wrong(`names every host; for all public addresses write "0.0.0.0/0:${portText}" and "[::]/0:…"`);
  }
  const below = host.startsWith("*.");
  const { hostname, packed } = oneSpelling(
    below ? host.slice(2) : host.replace(/^\[(.*:.*)\]$/, "$1"),
    wrong,
  );
  if (packed !== null) {
    if (below) throw wrong(`has "*." before an address; a network is "10.0.0.0/8:${portText}"`);
    const spell = (network: Network): string => `${networkText(network)}:${portText}`;
    return { ...rule, network: ruleNetwork(host, packed, prefix, spell, wrong) };
  }
  if (prefix !== undefined) throw wrong(`has a prefix after a name; a network is "10.0.0.0/8:${portText}"`);
  if (below && isLocalhost(hostname)) {
    throw wrong(`names this machine by a wildcard; name each in full: "app.${hostname}:${portText}"`);
  }
  return { ...rule, name: hostname, below };
}

const RULE = /^(\[[^\]]*\]|[^[\]/:]*)(?:\/([^:]*))?(?::(.*))?$/su;

const MAX_PORT = 65_535; // 16 bits: RFC 9293, RFC 768

type Wrong = (why: string) => SocketError;

function portRange(text: string, wrong: Wrong): PortRange {
  if (text === "*") return [1, MAX_PORT];
  const [, first, last = first] = /^([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?$/.exec(text) ?? [];
  const range = [Number(first), Number(last)] as const;
  if (range[0] <= range[1] && range[1] <= MAX_PORT) return range;
  const given = JSON.stringify(text);
  throw wrong(`has the port ${given}; write "80", "8000-8100", "80,443" or "*", from 1 to ${MAX_PORT}`);
}

/** The network that a rule's address and prefix name. Only one spelling is accepted, because people read the rules. */
function ruleNetwork(
  host: string,
  packed: Uint8Array,
  prefixText: string | undefined,
  spell: (network: Network) => string,
  wrong: Wrong,
): Network {
  const isIPv6 = host.includes(":");
  const bits = isIPv6 ? 128 : 32;
  const prefix = prefixText === undefined ? bits : Number(prefixText);
  if (prefixText !== undefined && !(/^(?:0|[1-9][0-9]{0,2})$/.test(prefixText) && prefix <= bits)) {
    throw wrong(`has the prefix ${JSON.stringify(prefixText)}; write a number of bits from 0 to ${bits}`);
  }
  if (isIPv6 && packed.length === 4) {
    const inside = networkOf(packed, Math.max(0, prefix - 96));
    throw wrong(`is IPv4 in an IPv6 spelling; write "${spell(inside)}"`);
  }
  const network = networkOf(packed, prefix);
  // inet_aton reads "10.1" as 10.0.0.1 and "010.0.0.0" as 8.0.0.0, which most people do not expect.
  if (!isIPv6 && packed.join(".") !== host) {
    throw wrong(`has an IPv4 address in a short or old form; write "${spell(network)}"`);
  }
  if (packed.some((byte, i) => byte !== network.address[i])) {
    throw wrong(`has bits set beyond its prefix; that network is "${spell(network)}"`);
  }
  return network;
}

/** The network of `prefix` bits that `packed` lies in. */
function networkOf(packed: Uint8Array, prefix: number): Network {
  const mask = (i: number) => ~(0xff >> Math.min(8, Math.max(0, prefix - 8 * i)));
  return { address: packed.map((byte, i) => byte & mask(i)), prefix };
}

/** A network as a rule spells it: IPv6 in brackets if a port follows. */
function networkText({ address, prefix }: Network, brackets = true): string {
  const bits = 8 * address.length;
  const host = addressText(address);
  return (bits === 128 && brackets ? `[${host}]` : host) + (prefix === bits ? "" : `/${prefix}`);
}

// --- The check ---------------------------------------------------------------------------------------------

/**
 * The places that an app may dial. No rules allow nothing.
 *
 * @throws SocketError `ERR_APP` from its constructor, as `parseAllowRule`.
 */
export class AllowList {
  readonly rules: readonly AllowRule[];

  constructor(rules: readonly string[]) {
    this.rules = Object.freeze(rules.map(parseAllowRule));
  }

  /**
   * The canonical spelling of a target, if a rule allows it. Dial this, not the target:
   * `"0x7f.1:6379"` is checked as `127.0.0.1:6379` and returned as that. So are `"[::ffff:127.0.0.1]:6379"`,
   * fullwidth digits and one trailing dot; a name is returned in lower case and punycode (UTS #46).
   *
   * Never allowed, whatever the rules: a Unix path, port 0, an empty host (it would be this machine), an IPv6
   * scope, a name that DNS could not have, and a name that ends in a number, which some resolver may take for
   * an address (WHATWG URL section 3.5).
   *
   * @throws SocketError `ERR_REFUSED` if no rule allows it. The message has the target in its canonical spelling
   *   and the kind of rule that would allow it, but none of the app's rules, since strangers may read it.
   * @throws as `parseAddress` if it is not an address at all: `ERR_INVALID_ADDRESS` (credentials and paths are
   *   of these), RangeError, TypeError.
   */
  check(target: AddressLike): InternetEndpoint {
    const asked = parseAddress(target);
    if (asked.scheme === "unix") throw refused(asked, "is a path; an app dials a host and a port");
    if (asked.port === 0) throw refused(asked, "has port 0, which cannot be dialled");
    const { hostname, packed } = oneSpelling(asked.hostname, (why) => refused(asked, why));
    // Parsed again, so that the result, as text, parses to the same endpoint: "UNIX:80" would not.
    const endpoint = parseAddress({ ...asked, hostname }) as InternetEndpoint;
    if (this.rules.some((rule) => allows(rule, endpoint, packed))) return endpoint;
    throw refused(endpoint, packed === null ? nameRules(endpoint) : networkRules(endpoint, packed));
  }
}

function allows(rule: AllowRule, { hostname, port }: InternetEndpoint, packed: Uint8Array | null): boolean {
  if (!rule.ports.some(([first, last]) => first <= port && port <= last)) return false;
  if ("network" in rule) return packed !== null && reaches(rule.network, packed);
  if (packed !== null) return false;
  return rule.below ? hostname.endsWith(`.${rule.name}`) : hostname === rule.name;
}

/** True if the address is in the network, and the network in the address's special one, if it has one. */
function reaches(network: Network, packed: Uint8Array): boolean {
  if (!inNetwork(packed, network)) return false;
  const special = specialNetwork(packed);
  return special === undefined || (network.prefix >= special.prefix && inNetwork(network.address, special));
}

const refused = (endpoint: Endpoint, why: string): SocketError => {
  const address = formatAddress(endpoint);
  return new SocketError("ERR_REFUSED", `${JSON.stringify(address)} ${why}`, { address });
};

const nameRules = ({ hostname, port }: InternetEndpoint): string => {
  const parent = hostname.slice(hostname.indexOf(".") + 1);
  // Not for "example.com": "*.com" is nothing to propose.
  const wildcard = !parent.includes(".") || isLocalhost(hostname) ? "" : ` or "*.${parent}:${port}"`;
  return `is not allowed by any rule; it needs a rule by name, such as "${hostname}:${port}"${wildcard}`;
};

const networkRules = ({ port }: InternetEndpoint, packed: Uint8Array): string => {
  const own = `"${networkText({ address: packed, prefix: 8 * packed.length })}:${port}"`;
  const special = specialNetwork(packed);
  return special === undefined
    ? `is not allowed by any rule; it needs a rule for its address, ${own}, or for a network that it is in`
    : `is not allowed by any rule; ${networkText(special)} is not public, so it needs a rule for that network or a part of it, such as ${own}`;
};

// --- One spelling ------------------------------------------------------------------------------------------

/** A host as it is matched and dialled, and its 4 or 16 bytes if it is an address. */
interface Host {
  readonly hostname: string;
  readonly packed: Uint8Array | null;
}

const MAX_NAME = 253; // characters without the dot at the end: 255 bytes on the wire (RFC 1035 section 3.1)
const NAME = /^(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}$/; // RFC 1035 section 2.3.4, and the underscore of SRV
const ENDS_IN_A_NUMBER = /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$/; // https://url.spec.whatwg.org/#ends-in-a-number-checker

function oneSpelling(host: string, wrong: Wrong): Host {
  if (host.includes("%")) throw wrong("has a scope; write the address without it");
  if (host.length > MAX_NAME + 1) throw wrong(`has a name of more than ${MAX_NAME} characters`);
  // Some addresses are recognized only after this: ①②⑦.0.0.1 is 127.0.0.1, and so is 127.0.0.1 with a trailing dot.
  const ascii = toAscii(host)?.replace(/\.$/, "");
  if (ascii === undefined) throw wrong("has a host that is not a valid international name (UTS #46)");
  const packed = packAddress(ascii);
  if (packed !== null) return { hostname: addressText(packed), packed };
  if (ascii === "") throw wrong("has no host");
  if (ascii.length > MAX_NAME || !NAME.test(ascii)) {
    throw wrong(
      "has a host that is not a valid name: 1 to 63 letters, digits, - or _ between two dots, 253 in all",
    );
  }
  if (ENDS_IN_A_NUMBER.test(ascii))
    throw wrong("has a host that ends in a number and is not an IPv4 address");
  return { hostname: ascii, packed };
}

/** Lower case and punycode; `undefined` if the name has a character that none may have. */
function toAscii(host: string): string | undefined {
  if (/^\p{ASCII}*$/u.test(host)) return host.toLowerCase();
  if (/[\s\p{Cc}/?#@[\]\\:]/u.test(host)) return undefined; // a URL drops these, or ends its host at them
  try {
    // The added label keeps the URL class from parsing an IPv4 address itself: there is one parser, ours.
    return new URL(`http://${host}.x`).hostname.slice(0, -".x".length);
  } catch {
    return undefined;
  }
}

const addressText = (packed: Uint8Array): string =>
  inetNtop(packed.length === 4 ? AF_INET : AF_INET6, packed);

export const isLocalhost = (name: string): boolean => name === "localhost" || name.endsWith(".localhost");

// --- Which peers may connect ------------------------------------------------------------------------------------------

/** Which networks may connect to a server; `parseNetwork` reads each rule. A denied network stays denied, whatever is allowed. */
export interface PeerRules {
  /** Default: all. */
  readonly allow?: readonly string[];
  /** Default: none. */
  readonly deny?: readonly string[];
}

export const PEER_NAMES = optionNamesOf<PeerRules>()({ allow: "strings", deny: "strings" });

/** The rate of requests from one address: a bucket of `burst` tokens, refilled at `perSecond`; each request takes one. */
export interface RateLimit {
  /** More than 0; fractions are allowed. */
  readonly perSecond: number;
  /** The most requests at once. Default `perSecond`, and at least 1. */
  readonly burst?: number;
}

export const RATE_NAMES = optionNamesOf<RateLimit>()({ perSecond: true, burst: true });

/**
 * Reads a network: `"10.0.0.0/8"`, `"2001:db8::/32"` (CIDR, RFC 4632), or one address.
 *
 * @throws SocketError `ERR_INVALID_ADDRESS` if it is neither, has bits set beyond its prefix, or is IPv4 in another
 *   spelling than `a.b.c.d`; the message says what would be right. TypeError if it is not a string.
 */
export function parseNetwork(text: string): Network {
  if (typeof text !== "string") throw new TypeError(`a network is a string, not ${typeof text}`);
  const wrong = (why: string) =>
    new SocketError("ERR_INVALID_ADDRESS", `the network ${JSON.stringify(text)} ${why}`, { address: text });
  const [, host = "", prefix] = /^([^/]*)(?:\/(.*))?$/su.exec(text) ?? [];
  const packed = host.includes("%") ? null : packAddress(host);
  if (packed === null) {
    throw wrong(`is neither a network nor an address; write "10.0.0.0/8", "192.0.2.1" or "2001:db8::/32"`);
  }
  return ruleNetwork(host, packed, prefix, (network) => networkText(network, false), wrong);
}

/**
 * The networks that a server admits. An IPv4-mapped IPv6 address, as a listener for both families reports
 * it, is treated as the IPv4 inside; a peer whose address is unknown, or not an IP address, is not admitted.
 */
export class PeerList {
  readonly #allow: readonly Network[] | undefined;
  readonly #deny: readonly Network[];

  /** Throws as `parseNetwork`. */
  constructor(rules: PeerRules) {
    const { allow, deny = [] } = rules;
    this.#allow = allow?.map(parseNetwork);
    this.#deny = deny.map(parseNetwork);
  }

  permits(address: Address | null): boolean {
    const packed = address === null || address.family === "unix" ? null : packAddress(address.hostname);
    if (packed === null) return false;
    const within = (network: Network): boolean => inNetwork(packed, network);
    return !this.#deny.some(within) && (this.#allow?.some(within) ?? true);
  }
}

/**
 * The key by which limits per address count: an IPv4 address, an IPv6 network of 64 bits (the least that one customer
 * gets, with any number of addresses in it: RFC 6177), or a path. All peers whose address is unknown share
 * one key.
 */
function countedAs(address: Address | null): string {
  if (address === null) return "";
  if (address.family === "unix") return address.path;
  if (address.family === "IPv4") return address.hostname; // a platform has one spelling for it
  const packed = packAddress(address.hostname);
  if (packed === null) return address.hostname;
  return packed.length === 4 ? packed.join(".") : packed.subarray(0, 8).join(":");
}

const REMEMBERED = 65_536; // addresses, about 8 MB; an attacker with more addresses than this gains nothing when one is forgotten

/** A number for each of the addresses seen most recently. */
class Remembered {
  readonly #numbers = new Map<string, number>(); // in the order of their last `set`

  get(key: string): number {
    return this.#numbers.get(key) ?? 0;
  }

  set(key: string, value: number): void {
    this.#numbers.delete(key);
    this.#numbers.set(key, value);
    if (this.#numbers.size <= REMEMBERED) return;
    for (const oldest of this.#numbers.keys()) {
      this.#numbers.delete(oldest);
      return;
    }
  }
}

/** What guards a server's door. */
interface GateOptions {
  readonly access?: PeerRules | undefined;
  readonly rate?: RateLimit | undefined;
  readonly maxRequestsPerAddress?: number | undefined;
}

/** The options of a server on a path that concern its clients' addresses. */
export interface PathAccess {
  readonly access?: unknown;
  readonly proxyProtocol?: unknown;
}

/** Throws `TypeError` if a server on a path has `access`, and no proxy provides its clients' addresses. */
export const checkPathAccess = ({ access, proxyProtocol }: PathAccess): void => {
  if (access === undefined || proxyProtocol !== undefined) return;
  throw new TypeError(
    'access is by IP address, and clients of a path have none: the permissions of its file (mode, owner, group) decide who may connect; or let a proxy give the addresses, with proxyProtocol: { from: ["unix"] }',
  );
};

/** A server's gate: a peer is admitted or refused here, before anything is allocated for it. */
export class Gate {
  readonly #list: PeerList | undefined;
  readonly #interval: number; // ms until the next token
  readonly #slack: number; // ms that an address may be ahead of its rate
  readonly #full: Remembered | undefined; // when the bucket of an address will be full, by performance.now()
  readonly #most: number;
  readonly #here: Map<string, number> | undefined; // requests that run, by address; addresses without any are not in it

  /** The gate for these options; `null` if none of them is set, so that such a server checks nothing. Throws as `PeerList`, RangeError, TypeError. */
  static of(options: GateOptions): Gate | null {
    const { access, rate, maxRequestsPerAddress } = options;
    const none = access === undefined && rate === undefined && maxRequestsPerAddress === undefined;
    return none ? null : new Gate(options);
  }

  private constructor({ access, rate, maxRequestsPerAddress }: GateOptions) {
    this.#list = access && new PeerList(access);
    const { perSecond = 1, burst = Math.max(1, Math.ceil(perSecond)) } = rate ?? {};
    if (typeof perSecond !== "number") throw new TypeError("rate.perSecond must be a number");
    if (!(perSecond > 0 && perSecond < Number.POSITIVE_INFINITY)) {
      throw new RangeError(`rate.perSecond is more than 0, not ${perSecond}`);
    }
    this.#interval = 1000 / perSecond;
    // A ten-thousandth of a token more: the sum of a burst's intervals is rounded, and its last request is due no less.
    this.#slack = this.#interval * (checkCount("rate.burst", burst, 1) - 1 + 1e-4);
    this.#full = rate && new Remembered();
    this.#most = checkCount("maxRequestsPerAddress", maxRequestsPerAddress ?? 1, 1);
    this.#here = maxRequestsPerAddress === undefined ? undefined : new Map();
  }

  /** Why a request from `address` is refused; `null` if it is admitted, and counts until `leave()`. */
  enter(address: Address | null): "access" | "rate" | "address" | null {
    if (this.#list?.permits(address) === false) return "access";
    if (this.#full === undefined && this.#here === undefined) return null;
    const key = countedAs(address);
    if (this.#full !== undefined) {
      const now = performance.now();
      const full = Math.max(now, this.#full.get(key));
      if (full - now > this.#slack) return "rate";
      this.#full.set(key, full + this.#interval);
    }
    if (this.#here !== undefined) {
      const here = this.#here.get(key) ?? 0;
      if (here >= this.#most) return "address";
      this.#here.set(key, here + 1);
    }
    return null;
  }

  /** A request from `address` is over. */
  leave(address: Address | null): void {
    if (this.#here === undefined) return;
    const key = countedAs(address);
    const here = (this.#here.get(key) ?? 0) - 1;
    if (here > 0) this.#here.set(key, here);
    else this.#here.delete(key);
  }
}

/** Returns `ratio` if it is valid. Else throws `TypeError` or `RangeError`. */
export const checkAmplification = (ratio: number): number => {
  if (typeof ratio !== "number") throw new TypeError("amplification must be a number, or null");
  if (ratio > 0) return ratio;
  throw new RangeError(`amplification is more than 0, or null for no limit, not ${ratio}`);
};

/**
 * The bytes that may be sent to each address: a multiple of those received from it. An attacker who sends datagrams in
 * a victim's name can direct at most that multiple of their own traffic at the victim. QUIC allows three times until it
 * has validated an address (RFC 9000 section 8); here addresses are never validated. An address that is forgotten,
 * because 65 536 others were active since, starts again from zero.
 */
export class ReplyBudget {
  readonly #ratio: number;
  readonly #left = new Remembered();

  constructor(ratio: number) {
    this.#ratio = checkAmplification(ratio);
  }

  received(bytes: number, address: Address | null): void {
    const key = countedAs(address);
    this.#left.set(key, this.#left.get(key) + bytes * this.#ratio);
  }

  /** Whether a reply of `bytes` may go to `address`; it is then counted. */
  spend(bytes: number, address: Address | null): boolean {
    const key = countedAs(address);
    const left = this.#left.get(key) - bytes;
    if (left < 0) return false;
    this.#left.set(key, left);
    return true;
  }
}

// --- What is not public ------------------------------------------------------------------------------------

// The networks that IANA lists as not globally reachable (https://www.iana.org/assignments/iana-ipv4-special-registry and
// iana-ipv6-special-registry), multicast, unallocated space, and IPv6 that leads to an IPv4 address. Of
// two nested networks the narrower is first: it is the one that a rule must lie within.
const NOT_PUBLIC = `
  0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
  192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
  ::/127 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 ::/3
  2001::/32 2001::/23 2001:db8::/32 2002::/16 3fff::/20
  4000::/2 fc00::/7 fe80::/10 fec0::/10 ff00::/8 8000::/1`;

let notPublic: readonly Network[] | undefined; // parsed on first use: a program's start does not need it

const specialNetwork = (packed: Uint8Array): Network | undefined => {
  notPublic ??= NOT_PUBLIC.trim()
    .split(/\s+/)
    .map((text) => {
      const [address = "", prefix] = text.split("/");
      return { address: packAddress(address)!, prefix: Number(prefix) };
    });
  return notPublic.find((network) => inNetwork(packed, network));
};

/** Whether an address is one of the public Internet: none of a private, local or otherwise special network. */
export const isPublic = (packed: Uint8Array): boolean => specialNetwork(packed) === undefined;

// --- What Cloudflare's edge refuses ------------------------------------------------------------------------

const SMTP = 25; // RFC 5321 section 4.5.4.2

/**
 * Why a Worker's `connect()` on Cloudflare's edge will refuse this endpoint, as text to show before dialling,
 * or `null` if no reason is known. Takes what `AllowList.check` returned.
 *
 * It applies to the edge: the local workerd (`wrangler dev`, Miniflare) does dial port 25 and private addresses
 * (measured: 127.0.0.1:25 on workerd 1.20261023.1), which tests need. `connectHint` covers what is known only after a dial has failed.
 *
 * Source: "Considerations" and "Troubleshooting" of
 * https://developers.cloudflare.com/workers/runtime-apis/tcp-sockets/ (of June 2026); no outbound UDP, and port
 * 0 fails like a refused one: measured on workerd 1.20261117.1.
 */
export function platformRefusal(endpoint: Endpoint): string | null {
  if (endpoint.scheme === "unix") return "A Worker dials a host and a port, not a Unix path.";
  const { scheme, hostname, port } = endpoint;
  if (scheme === "udp") return "A Worker has no outbound UDP: connect() is for TCP only.";
  if (port === 0) return "Port 0 cannot be dialled; name the server's port.";
  if (port === SMTP) {
    return "Cloudflare's edge prohibits connections to port 25. Submit mail on port 465 or 587, or send it with Email Workers.";
  }
  const packed = packAddress(hostname);
  if (packed === null ? !isLocalhost(hostname) : specialNetwork(packed) === undefined) return null;
  return `Cloudflare's edge dials only public addresses, and ${hostname} is not one; to a private server use Cloudflare Tunnel, Workers VPC or Hyperdrive.`;
}

/**
 * What may be the reason that a `connect()` failed on Cloudflare's edge, as text to show with the error: the
 * platform has the same error for a refused port, a name that does not resolve, an untrusted certificate and
 * an address that it does not allow.
 *
 * Cloudflare's own ranges are described in words: the list (https://www.cloudflare.com/ips/) changes, and a name's
 * address is not known here. Source: as `platformRefusal`.
 */
export function connectHint(endpoint: Endpoint): string {
  const refusal = platformRefusal(endpoint);
  if (refusal !== null) return refusal;
  const { port } = endpoint as InternetEndpoint;
  const http = port === 80 || port === 443 ? ` For HTTP on port ${port} use fetch() instead.` : "";
  return `The platform does not say why. It also refuses Cloudflare's own network (with every site behind it), names of private addresses, and a Worker's dial to itself.${http}`;
}
