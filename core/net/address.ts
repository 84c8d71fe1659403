/**
 * Addresses: as objects, as text, as packed bytes, and the kinds of address.
 *
 * There is one parser. Code that guards an address must read it by the same rules as the code that dials it: a
 * second parser would be a way around the first.
 */

import { SocketError } from "../errors.ts";
import { checkOptions, optionNamesOf } from "../options.ts";
import { AF_INET, AF_INET6 } from "./constants.ts";

/** The address of a TCP or UDP socket. */
export interface InternetAddress {
  readonly family: "IPv4" | "IPv6";
  /** The address as text, without brackets. */
  readonly hostname: string;
  /** 0 to 65535. */
  readonly port: number;
  /** The interface of a link-local IPv6 address (`"eth0"`, RFC 4007), if there is one. */
  readonly scopeId?: string;
}

/** The address of a Unix socket. */
export interface UnixAddress {
  readonly family: "unix";
  /** A path of the file system, or an abstract name: a path that begins with `"\0"` (unix(7)). */
  readonly path: string;
}

/** The address of one end of a socket. */
export type Address = InternetAddress | UnixAddress;

/** A place to listen at or to dial: its hostname is an address or a name, and is not resolved. */
export type Endpoint =
  | {
      readonly scheme: "tcp" | "udp" | "tls" | undefined;
      /** An address without brackets, or a name. `""` is every address of this machine (`INADDR_ANY`). */
      readonly hostname: string;
      /** 0 to 65535. */
      readonly port: number;
    }
  | {
      readonly scheme: "unix";
      /** As `UnixAddress.path`. */
      readonly path: string;
    };

/**
 * Anything that names an address: a text that `parseAddress` takes, or an object that has a hostname and a
 * port, or a path.
 */
export type AddressLike =
  | string
  | { readonly hostname: string; readonly port: number }
  | { readonly path: string }
  | Address
  | Endpoint;

/** A CIDR block on packed bytes: of `address`, the first `prefix` bits count (RFC 4632). */
export interface Network {
  /** 4 or 16 bytes. */
  readonly address: Uint8Array;
  /** Bits: 0 to 32 or 128. */
  readonly prefix: number;
}

/**
 * An address in one shape, parsed. Takes
 *
 * - `"tcp://host:port"`, `"tls://host:port"`, `"udp://host:port"`, `"host:port"`; `":port"` has the hostname `""`;
 * - IPv6 in brackets, with or without a scope: `"[::1]:80"`, `"[fe80::1%eth0]:80"`;
 * - `"unix:/path"`: all that follows `unix:` is the path, and `"unix:\0name"` is an abstract name;
 * - `{ hostname, port }` and `{ path }`, so also an `Address` (its `scopeId` joins the hostname, after a `%`)
 *   and an `Endpoint` (it is returned unchanged).
 *
 * The hostname is unchanged, except that an IPv6 address loses its brackets: `"localhost"` is not resolved.
 *
 * @throws SocketError `ERR_INVALID_ADDRESS` if the text is malformed; the message says what would be right.
 * @throws RangeError if the port is not an integer within 0 to 65535.
 * @throws TypeError if the argument, its hostname, port or path has the wrong type.
 */
export function parseAddress(like: AddressLike): Endpoint {
  if (typeof like === "string") return parseText(like);
  const { scheme, hostname, port, scopeId, path } = (like ?? {}) as Record<string, unknown>;
  if ((path === undefined) === (hostname === undefined)) {
    throw new TypeError("an address is a string, { hostname, port } or { path }");
  }
  if (path !== undefined) return unixEndpoint(string(path, "path"));
  if (typeof port !== "number") {
    throw new TypeError(`the port of an address is a number, not ${typeName(port)}`);
  }
  const named = withoutBrackets(string(hostname, "hostname"));
  const host = scopeId === undefined ? named : `${named}%${string(scopeId, "scopeId")}`;
  return internetEndpoint(scheme === undefined ? scheme : string(scheme, "scheme"), host, port, host);
}

/**
 * An address as text: `"127.0.0.1:25"`, `"[::1]:25"`, `"[fe80::1%eth0]:25"`, `"unix:/path"`; an `Endpoint`'s
 * scheme goes before it (`"tcp://localhost:25"`). `null`, an address that a platform does not provide, is
 * `"unknown"`. `parseAddress` turns the text back into the same endpoint.
 */
export function formatAddress(address: Address | Endpoint | null): string {
  if (address === null) return "unknown";
  if ("path" in address) return `unix:${address.path}`;
  const scopeId = "scopeId" in address && address.scopeId !== undefined ? `%${address.scopeId}` : "";
  const scheme = "scheme" in address && address.scheme !== undefined ? `${address.scheme}://` : "";
  const host = address.hostname + scopeId;
  return `${scheme}${host.includes(":") ? `[${host}]` : host}:${address.port}`;
}

const ATON_NAMES = optionNamesOf<{ readonly strict?: boolean }>()({ strict: "boolean" });

/**
 * IPv4 text to its 4 bytes in network order, in every form that glibc takes (inet(3)): `a.b.c.d`, `a.b.c`,
 * `a.b` and `a`, each number decimal, octal (`010`) or hexadecimal (`0x7f`), the last one filling the bytes
 * that are left, and anything at all after white space. So `"0x7f.1"`, `"017700000001"`, `"2130706433"` and
 * `"127.1 x"` are all 127.0.0.1, a known way around guards that read only the dotted quad.
 *
 * @param options.strict take only the dotted quad, as `inetPton` does. Default false.
 * @throws SocketError `ERR_INVALID_ADDRESS` if it is none of these; TypeError if it is not a string.
 */
export function inetAton(text: string, options: { readonly strict?: boolean } = {}): Uint8Array<ArrayBuffer> {
  string(text, "text");
  checkOptions("inetAton()", options, ATON_NAMES);
  if (options.strict) return inetPton(AF_INET, text);
  return (
    atonBytes(text) ??
    invalid(text, `is not an IPv4 address such as "127.0.0.1" or one of inet_aton's short forms`)
  );
}

/**
 * 4 bytes in network order to a dotted quad: `"222.76.216.16"`.
 *
 * @throws SocketError `ERR_INVALID_ADDRESS` if there are not 4 bytes; TypeError if it is not a Uint8Array.
 */
export function inetNtoa(packed: Uint8Array): string {
  if (bytes(packed).length !== 4) return invalidLength("inetNtoa() takes 4 bytes", packed);
  return packed.join(".");
}

/**
 * The text of an address to its bytes in network order: 4 for `AF_INET`, which takes only the dotted quad,
 * 16 for `AF_INET6`, which takes no scope. CPython's `inet_pton`; inet_pton(3), RFC 4291 section 2.2.
 *
 * @throws SocketError `ERR_INVALID_ADDRESS` if it is not an address of that family, `EAFNOSUPPORT`
 *   if the family is another one; TypeError if an argument has the wrong type.
 */
export function inetPton(family: number, text: string): Uint8Array<ArrayBuffer> {
  const internet = internetFamily(family);
  string(text, "text");
  return internet === AF_INET
    ? (quadBytes(text) ?? invalid(text, `is not an IPv4 address in four decimal parts, such as "127.0.0.1"`))
    : (groupBytes(text) ?? invalid(text, `is not an IPv6 address, such as "::1" or "2001:db8::1"`));
}

/**
 * 4 bytes of `AF_INET` or 16 of `AF_INET6` to text. IPv6 is written as glibc writes it: lower case, the
 * leftmost longest run of two or more zero groups as `::`, an IPv4-mapped or IPv4-compatible address with a
 * dotted quad (`::ffff:1.2.3.4`). CPython's `inet_ntop`; inet_ntop(3).
 *
 * @throws SocketError `EAFNOSUPPORT` if the family is another one (CPython has a ValueError here);
 *   RangeError if the length is not the family's; TypeError if an argument has the wrong type.
 */
export function inetNtop(family: number, packed: Uint8Array): string {
  const length = internetFamily(family) === AF_INET ? 4 : 16;
  if (bytes(packed).length !== length) {
    throw new RangeError(`inetNtop() takes ${length} bytes for this family, not ${packed.length}`);
  }
  return length === 4 ? packed.join(".") : groupText(packed);
}

/**
 * The 4 or 16 bytes that a hostname stands for if it is an address, or `null` if it is a name (`""`
 * too).
 *
 * Each address has one answer, however it is spelled, so that a rule is matched on what is dialled: IPv4 in
 * every form of `inetAton`, an IPv4-mapped IPv6 address (`::ffff:127.0.0.1`) as the 4 bytes of the IPv4
 * inside, and an IPv6 scope (`%eth0`) is left out, since it selects an interface, not another address.
 *
 * @throws TypeError if it is not a string.
 */
export function packAddress(text: string): Uint8Array<ArrayBuffer> | null {
  const packed = atonBytes(string(text, "text")) ?? groupBytes(text.replace(SCOPE, ""));
  return packed && withoutMapping(packed);
}

/** True if `packed` (4 or 16 bytes) lies in `network`; addresses of two families never match. */
export function inNetwork(packed: Uint8Array, network: Network): boolean {
  return (
    packed.length === network.address.length &&
    packed.every((byte, i) => {
      const counted = Math.min(8, Math.max(0, network.prefix - 8 * i)); // bits of this byte
      return (byte ^ network.address[i]!) >> (8 - counted) === 0;
    })
  );
}

/**
 * True if an address is this machine's own: all of 127.0.0.0/8, and ::1. Text is read as `packAddress`
 * reads it: `"0x7f.1"` and `"::ffff:127.0.0.1"` are loopback. Python's `ipaddress` `is_loopback`.
 *
 * A name is not an address, and throws: `false` would let `"localhost"` through a guard.
 *
 * @throws SocketError `ERR_INVALID_ADDRESS` if text is a name, or bytes are not 4 or 16; TypeError
 *   if it is neither.
 */
export function isLoopback(address: string | Uint8Array): boolean {
  return isIn(LOOPBACK, pack(address));
}

/**
 * True if an address is not reachable from the whole Internet: private, loopback, link-local,
 * documentation and the like. Python's `ipaddress` `is_private`, by the IANA special-purpose registries, as
 * Python 3.13 follows them and 3.11 did not yet: all of 192.0.0.0/24, 64:ff9b:1::/48 and 2002::/16 are
 * private, and the registries' exceptions within 192.0.0.0/24 and 2001::/23 are not. 3fff::/20 (RFC 9637) is
 * private too, as in Pythons after 3.13.0. As there, the shared space 100.64.0.0/10 is not private.
 *
 * Only an IPv4-mapped address is treated as the IPv4 inside. Code that guards a dial should refuse `isReserved` as well:
 * ::127.0.0.1 and the NAT64 prefix 64:ff9b::/96 are there.
 *
 * @throws as `isLoopback`.
 */
export function isPrivate(address: string | Uint8Array): boolean {
  const packed = pack(address);
  return isIn(PRIVATE, packed) && !isIn(GLOBAL_WITHIN_PRIVATE, packed);
}

/**
 * True if the IETF reserves an address for later use: 240.0.0.0/4, and all IPv6 that IANA has not allocated (so
 * ::1, and 64:ff9b::/96). Python's `ipaddress` `is_reserved`; an IPv4-mapped address is treated as the IPv4
 * inside, as in the Pythons after 3.13.0.
 *
 * @throws as `isLoopback`.
 */
export function isReserved(address: string | Uint8Array): boolean {
  const packed = pack(address);
  return packed.length === 4 ? isIn(RESERVED_IPV4, packed) : !isIn(ALLOTTED_IPV6, packed);
}

// --- Endpoints ---------------------------------------------------------------------------------------------

const SCOPE = /%[^%]+$/; // RFC 4007 section 11

// Characters that no hostname has. A name may contain more than letters (`<broadcast>`, `_dmarc`, IDN), but nothing that
// another parser could take for the end of the host.
const NOT_IN_HOSTNAME = /[\s\p{Cc}/?#@[\]\\%:]/u;

const MAX_PORT = 65_535; // 16 bits: RFC 9293, RFC 768

function parseText(text: string): Endpoint {
  if (text.startsWith("unix:")) return unixEndpoint(text.slice("unix:".length), text);
  const [, scheme, authority = ""] = /^(?:([^:/?#[\]@]*):\/\/)?(.*)$/s.exec(text) ?? [];
  checkScheme(scheme, text);
  if (/[\s\p{Cc}]/u.test(authority)) invalid(text, "has white space or a control character in it");
  if (authority.includes("@")) invalid(text, `has a user name before its host; write "host:port"`);
  if (/[/?#]/.test(authority))
    invalid(text, `has a path after its host; write "host:port" alone, or "unix:/path"`);

  const bracketed = /^\[([^\]]*)\](.*)$/.exec(authority);
  const colon = bracketed ? authority.length - bracketed[2]!.length : authority.lastIndexOf(":");
  const host = bracketed ? bracketed[1]! : authority.slice(0, Math.max(colon, 0));
  if (bracketed && !isIPv6(host))
    invalid(text, `has brackets around something that is not an IPv6 address; write "[::1]:80"`);
  if (!bracketed && host.includes(":")) invalid(text, `has too many colons; write IPv6 as "[::1]:80"`);
  if (authority[colon] !== ":" || authority.endsWith(":")) invalid(text, `has no port; write "host:port"`);
  const digits = authority.slice(colon + 1);
  return internetEndpoint(scheme, host, /^[0-9]+$/.test(digits) ? Number(digits) : digits, text);
}

/** The endpoint of these parts; `text` is the original text, for the message. The port must be a number. */
function internetEndpoint(
  scheme: string | undefined,
  host: string,
  port: number | string,
  text: string,
): Endpoint {
  checkScheme(scheme, text);
  if (NOT_IN_HOSTNAME.test(host) && !isIPv6(host)) {
    invalid(text, "has a host that is neither a name nor an IPv4 or IPv6 address");
  }
  // As text it would be a path, so the text would not parse to the same endpoint.
  if (host === "unix" && scheme === undefined) invalid(text, `has a host called unix; write "tcp://unix:80"`);
  if (typeof port === "string" || !Number.isInteger(port) || port < 0 || port > MAX_PORT) {
    throw new RangeError(`the port of an address is an integer from 0 to ${MAX_PORT}, not ${port}`);
  }
  return { scheme, hostname: host, port: port + 0 }; // + 0: −0 is 0
}

function unixEndpoint(path: string, text = path): Endpoint {
  if (path === "" || path === "\0") invalid(text, `has no path; write "unix:/path"`);
  // The kernel would stop at the NUL, and so use a different path from the one that was checked.
  if (path.indexOf("\0") > 0) invalid(text, `has a NUL in its path; an abstract name is "unix:\\0name"`);
  return { scheme: "unix", path };
}

function checkScheme(
  scheme: string | undefined,
  text: string,
): asserts scheme is "tcp" | "udp" | "tls" | undefined {
  if (scheme === undefined || scheme === "tcp" || scheme === "udp" || scheme === "tls") return;
  invalid(
    text,
    `has the unknown scheme ${JSON.stringify(scheme)}; write "tcp://", "tls://", "udp://" or "unix:"`,
  );
}

/** The same hostname without the brackets of an IPv6 address, if it has them. */
function withoutBrackets(host: string): string {
  const inside = /^\[([^\]]*)\]$/.exec(host)?.[1];
  return inside !== undefined && isIPv6(inside) ? inside : host;
}

function isIPv6(host: string): boolean {
  const scope = SCOPE.exec(host)?.[0] ?? "";
  const address = host.slice(0, host.length - scope.length);
  return groupBytes(address) !== null && !NOT_IN_HOSTNAME.test(scope.slice(1));
}

// --- Text and bytes ----------------------------------------------------------------------------------------

// strtoul(3) with base 0. "08" is an octal 0 with an 8 left over, so it does not match.
const ATON_NUMBER = "(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)";
const ATON = new RegExp(`^${ATON_NUMBER}(?:\\.${ATON_NUMBER}){0,3}(?=[ \\t\\n\\v\\f\\r]|$)`);

/** glibc's inet_aton. */
function atonBytes(text: string): Uint8Array<ArrayBuffer> | null {
  const matched = ATON.exec(text);
  // C cannot express a text with a NUL, nor UTF-8 one with half a surrogate pair: CPython refuses both.
  if (matched === null || text.includes("\0") || !text.isWellFormed()) return null;
  const parts = matched[0]
    .split(".")
    .map((part) => (/^0[0-7]/.test(part) ? Number.parseInt(part, 8) : Number(part)));
  const last = parts.pop()!;
  const left = 4 - parts.length; // bytes that the last number fills
  if (parts.some((part) => part > 0xff) || last >= 256 ** left) return null;
  const packed = new Uint8Array(4);
  new DataView(packed.buffer).setUint32(0, last);
  packed.set(parts);
  return packed;
}

/** glibc's inet_pton for IPv4: four decimal parts, and no leading zero, which others read as octal. */
function quadBytes(text: string): Uint8Array<ArrayBuffer> | null {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => /^(?:0|[1-9][0-9]{0,2})$/.test(part))) return null;
  const values = parts.map(Number);
  return values.every((value) => value <= 0xff) ? Uint8Array.from(values) : null;
}

/** glibc's inet_pton for IPv6. */
function groupBytes(text: string): Uint8Array<ArrayBuffer> | null {
  const halves = withoutQuad(text)
    .split("::")
    .map((half) => (half === "" ? [] : half.split(":")));
  const groups = halves.flat();
  // "::" stands for at least one group of zeros.
  const whole = halves.length === 1 ? groups.length === 8 : halves.length === 2 && groups.length < 8;
  if (!whole || !groups.every((group) => /^[0-9a-fA-F]{1,4}$/.test(group))) return null;
  const packed = new Uint8Array(16);
  const view = new DataView(packed.buffer);
  const [before = [], after = []] = halves;
  for (const [i, group] of before.entries()) view.setUint16(2 * i, Number.parseInt(group, 16));
  const tail = 16 - 2 * after.length;
  for (const [i, group] of after.entries()) view.setUint16(tail + 2 * i, Number.parseInt(group, 16));
  return packed;
}

/** The same IPv6 text with its closing dotted quad, if it has one, as two groups. */
function withoutQuad(text: string): string {
  const start = text.lastIndexOf(":") + 1;
  const quad = quadBytes(text.slice(start));
  if (quad === null) return text;
  const [a, b, c, d] = quad as unknown as [number, number, number, number];
  return `${text.slice(0, start)}${hex((a << 8) | b)}:${hex((c << 8) | d)}`;
}

/** glibc's inet_ntop for IPv6. */
function groupText(packed: Uint8Array): string {
  const view = new DataView(packed.buffer, packed.byteOffset, 16);
  const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(2 * i));
  const zeros = longestZeros(groups);
  // IPv4-compatible (::/96) and IPv4-mapped (::ffff:0:0/96), but not ::1 and its like.
  const holdsIPv4 = zeros.start === 0 && (zeros.length === 6 || (zeros.length === 5 && groups[5] === 0xffff));
  const texts = holdsIPv4 ? [...groups.slice(0, 6).map(hex), packed.subarray(12).join(".")] : groups.map(hex);
  if (zeros.length < 2) return texts.join(":");
  return `${texts.slice(0, zeros.start).join(":")}::${texts.slice(zeros.start + zeros.length).join(":")}`;
}

/** The leftmost of the longest runs of zero groups. */
function longestZeros(groups: readonly number[]): { start: number; length: number } {
  let longest = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let end = start;
    while (groups[end] === 0) end++;
    if (end - start > longest.length) longest = { start, length: end - start };
  }
  return longest;
}

function hex(group: number): string {
  return group.toString(16);
}

// --- Kinds of address --------------------------------------------------------------------------------------

// Not globally reachable: https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry, as CPython's Lib/ipaddress.py has them.
const LOOPBACK = networks("127.0.0.0/8 ::1/128");
const PRIVATE = networks(
  `0.0.0.0/8 10.0.0.0/8 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.168.0.0/16
   198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4
   ::/127 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 fc00::/7 fe80::/10`,
);
const GLOBAL_WITHIN_PRIVATE = networks(
  `192.0.0.9/32 192.0.0.10/32
   2001:1::1/128 2001:1::2/128 2001:3::/32 2001:4:112::/48 2001:20::/28 2001:30::/28`,
);
const RESERVED_IPV4 = networks("240.0.0.0/4"); // RFC 1112 section 4
// Global unicast, unique local, link-local and the old site-local, multicast; the rest is reserved (RFC 4291).
const ALLOTTED_IPV6 = networks("2000::/3 fc00::/7 fe80::/9 ff00::/8");

/** The networks in `text`, parsed on first use: a program's start does not need them. */
function networks(text: string): () => readonly Network[] {
  let read: readonly Network[] | undefined;
  return () => {
    read ??= text.split(/\s+/).map((block) => {
      const [address = "", prefix] = block.split("/");
      const family = address.includes(":") ? AF_INET6 : AF_INET;
      return { address: inetPton(family, address), prefix: Number(prefix) };
    });
    return read;
  };
}

function isIn(blocks: () => readonly Network[], packed: Uint8Array): boolean {
  return blocks().some((block) => inNetwork(packed, block));
}

const MAPPED: Network = {
  address: Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0),
  prefix: 96,
};

/** The IPv4 inside an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), or the address itself. */
function withoutMapping<B extends Uint8Array>(packed: B): B | Uint8Array<ArrayBuffer> {
  return inNetwork(packed, MAPPED) ? packed.slice(12) : packed;
}

/** The bytes to test, of either form. */
function pack(address: string | Uint8Array): Uint8Array {
  if (typeof address === "string") {
    return packAddress(address) ?? invalid(address, "is a name, not an address; resolve it first");
  }
  const { length } = bytes(address);
  return length === 4 || length === 16
    ? withoutMapping(address)
    : invalidLength("an address has 4 or 16 bytes", address);
}

// --- Arguments ---------------------------------------------------------------------------------------------

function invalid(text: string, why: string): never {
  throw new SocketError("ERR_INVALID_ADDRESS", `${JSON.stringify(text)} ${why}`, { address: text });
}

function invalidLength(rule: string, packed: Uint8Array): never {
  throw new SocketError("ERR_INVALID_ADDRESS", `${rule}, not ${packed.length}`);
}

function internetFamily(family: number): typeof AF_INET | typeof AF_INET6 {
  if (!Number.isInteger(family)) {
    const given = typeof family === "number" ? family : typeName(family);
    throw new TypeError(`an address family is an integer, not ${given}`);
  }
  if (family === AF_INET || family === AF_INET6) return family;
  throw new SocketError("EAFNOSUPPORT", `the address family is AF_INET (2) or AF_INET6 (10), not ${family}`);
}

function string(value: unknown, name: string): string {
  if (typeof value === "string") return value;
  throw new TypeError(`the ${name} of an address is a string, not ${typeName(value)}`);
}

function bytes(value: Uint8Array): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new TypeError(`a packed address is a Uint8Array, not ${typeName(value)}`);
}

function typeName(value: unknown): string {
  if (value === null) return "null";
  return typeof value === "object" ? (value.constructor?.name ?? "an object") : typeof value;
}
