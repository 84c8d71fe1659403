/**
 * Headers of the PROXY protocol, read and written: versions 1 and 2 (HAProxy, doc/proxy-protocol.txt), and
 * Cloudflare Spectrum's Simple Proxy Protocol for datagrams.
 *
 * A reader is given what has come so far, from the first byte on, and says "not yet" until the header is whole. It
 * refuses at the first byte that is wrong: a client that speaks at once is not kept until a time-out.
 */

import { quoted } from "../describe.ts";
import { SocketError } from "../errors.ts";
import { checkCount, checkOptions, checkWord, optionNamesOf } from "../options.ts";
import {
  type Address,
  type AddressLike,
  type InternetAddress,
  inetNtop,
  inetPton,
  parseAddress,
} from "./address.ts";
import { AF_INET, AF_INET6 } from "./constants.ts";

/** What a proxy said of its client's TLS connection (`PP2_TYPE_SSL`). What is `undefined` it did not say. */
export interface ProxySsl {
  /** Whether the client came by TLS. */
  readonly tls: boolean;
  /** Whether the client showed a certificate, on this connection or earlier in its TLS session. */
  readonly certificate: "connection" | "session" | "none";
  /** Whether it showed one that the proxy found to be good. */
  readonly verified: boolean;
  /** The result of that check as the proxy has it (OpenSSL's `X509_V_…`); 0 also where no certificate was shown. */
  readonly verify: number;
  /** `"TLSv1.3"`. */
  readonly version?: string;
  /** The common name in the client's certificate. */
  readonly commonName?: string;
  /** `"TLS_AES_256_GCM_SHA384"`. */
  readonly cipher?: string;
  /** The algorithm that the proxy's certificate is signed with: `"RSA-SHA256"`. */
  readonly signatureAlgorithm?: string;
  /** The algorithm of the proxy's key: `"RSA2048"`. */
  readonly keyAlgorithm?: string;
  /** The group of the key exchange: `"x25519"`. */
  readonly group?: string;
  /** The signature of the proxy's handshake: `"rsa_pss_rsae_sha256"`. */
  readonly signatureScheme?: string;
  /** The client's certificate, DER. */
  readonly clientCertificate?: Uint8Array;
}

/** One type-length-value vector of a version 2 header. */
export interface ProxyTlv {
  /** 0 to 255; 0xE0 to 0xEF are free for applications. */
  readonly type: number;
  /** At most 65 535 bytes. */
  readonly value: Uint8Array;
}

/** What a proxy said of its client: a handler's `this.request.proxy`. */
export interface ProxyHeader {
  /** `1` and `2` of the PROXY protocol; `"simple"` is Cloudflare Spectrum's Simple Proxy Protocol. */
  readonly version: 1 | 2 | "simple";
  /** `"PROXY"`: it speaks for a client. `"LOCAL"`: for itself, as in a health check. */
  readonly command: "PROXY" | "LOCAL";
  /** What the client's connection to the proxy carries; `null` where the proxy does not say. */
  readonly carries: "stream" | "datagram" | null;
  /** The client; `null` where the proxy does not say, and for a Unix socket without a name. */
  readonly source: Address | null;
  /** Where the client came to: the proxy's address, as the client sees it. */
  readonly destination: Address | null;
  /** The protocol that was agreed on in the client's TLS handshake (`PP2_TYPE_ALPN`): `"h2"`. */
  readonly alpn?: string;
  /** The host that the client named, as a rule by TLS's SNI (`PP2_TYPE_AUTHORITY`). */
  readonly authority?: string;
  /** The connection's number at the proxy, up to 128 bytes of any kind (`PP2_TYPE_UNIQUE_ID`). */
  readonly uniqueId?: Uint8Array;
  /** The name of the proxy's network namespace (`PP2_TYPE_NETNS`). */
  readonly netns?: string;
  /** The client's TLS connection (`PP2_TYPE_SSL`). */
  readonly ssl?: ProxySsl;
  /** Whether the header had a checksum, which was right: one that is wrong is refused (`PP2_TYPE_CRC32C`). */
  readonly checksum: boolean;
  /** All vectors, in their order: also those above, and those of types that are not known here. Version 2 alone. */
  readonly tlvs: readonly ProxyTlv[];
}

/** A header, and how many bytes it takes at the beginning of what was read. */
export interface ParsedProxyHeader {
  readonly header: ProxyHeader;
  readonly size: number;
}

// ---- Numbers of the format ----

const SIGNATURE = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
const LINE = [0x50, 0x52, 0x4f, 0x58, 0x59, 0x20]; // "PROXY "
const MAX_LINE = 107; // bytes of a version 1 header with its CRLF
const FIXED = 16; // bytes of a version 2 header before its addresses
const UNIX_PATH = 108; // bytes of a path in it, filled up with zeros
const SIMPLE = [0x56, 0xec];
const SIMPLE_SIZE = 38; // bytes
const MAX_ID = 128; // bytes of a unique id
const MAX_BLOCK = 0xffff; // bytes after the fixed part: its length has 16 bits

const ALPN = 0x01;
const AUTHORITY = 0x02;
const CRC32C = 0x03;
const NOOP = 0x04;
const UNIQUE_ID = 0x05;
const SSL = 0x20;
const SSL_VERSION = 0x21;
const SSL_CN = 0x22;
const SSL_CIPHER = 0x23;
const SSL_SIG_ALG = 0x24;
const SSL_KEY_ALG = 0x25;
const SSL_GROUP = 0x26;
const SSL_SIG_SCHEME = 0x27;
const SSL_CLIENT_CERT = 0x28;
const NETNS = 0x30;

const CLIENT_SSL = 0x01;
const CLIENT_CERT_CONN = 0x02;
const CLIENT_CERT_SESS = 0x04;

const TEXT = new TextDecoder("utf-8", { ignoreBOM: true });
const BYTES = new TextEncoder();

const wrong = (why: string): SocketError => new SocketError("ERR_PROXY", why);

/** What a connection began with, as a message shows it. */
const shown = (bytes: Uint8Array): string => quoted(TEXT.decode(bytes.subarray(0, 16)));

/** Whether the first bytes are those of `magic`, as far as there are any. */
const begins = (bytes: Uint8Array, magic: readonly number[]): boolean => {
  const most = Math.min(bytes.length, magic.length);
  for (let i = 0; i < most; i++) if (bytes[i] !== magic[i]) return false;
  return true;
};

// ---- Reading ----

/**
 * The header that `bytes` begin with, of version 1 or 2, and its size; `null` where it is not whole yet.
 *
 * @param limit bytes that a header of version 2 may have. Default 65 551, the most that there can be.
 * @throws SocketError `ERR_PROXY` as soon as it can be no header, or not a right one; the message says why.
 */
export function parseProxyHeader(
  bytes: Uint8Array,
  limit: number = FIXED + MAX_BLOCK,
): ParsedProxyHeader | null {
  if (begins(bytes, LINE)) return bytes.length < LINE.length ? null : parseLine(bytes);
  if (begins(bytes, SIGNATURE)) return bytes.length < FIXED ? early(bytes) : parseBinary(bytes, limit);
  throw wrong(
    `${shown(bytes)} begins no PROXY protocol header; is the proxy told to send one, and does nobody else come from its address?`,
  );
}

/**
 * The same of one datagram, which holds its header whole, of version 2 or Spectrum's Simple Proxy Protocol.
 *
 * @throws SocketError `ERR_PROXY` where it begins with no such header, or not a whole one.
 */
export function parseProxyDatagram(bytes: Uint8Array, limit?: number): ParsedProxyHeader {
  if (bytes.length >= SIMPLE.length && begins(bytes, SIMPLE)) return parseSimple(bytes);
  if (bytes.length >= LINE.length && begins(bytes, LINE)) {
    throw wrong("version 1 of the PROXY protocol is for streams; have the proxy send version 2 on datagrams");
  }
  const parsed = parseProxyHeader(bytes, limit);
  if (parsed !== null) return parsed;
  throw wrong(`a datagram of ${bytes.length} bytes ends within its PROXY protocol header`);
}

const IPV4_LINE = "TCP4";
const IPV6_LINE = "TCP6";
const PORT = /^(?:0|[1-9][0-9]{0,4})$/;

function parseLine(bytes: Uint8Array): ParsedProxyHeader | null {
  let end = LINE.length;
  while (end < bytes.length && bytes[end] !== 0x0d && bytes[end] !== 0x0a) end++;
  if (end + 2 > MAX_LINE)
    throw wrong(`a version 1 header has at most ${MAX_LINE} bytes, and no CRLF is in them`);
  if (end === bytes.length) return null;
  if (bytes[end] === 0x0a) throw wrong("a version 1 header ends in CRLF, and not in LF alone");
  if (end + 1 === bytes.length) return null;
  if (bytes[end + 1] !== 0x0a) throw wrong("a version 1 header ends in CRLF, and not in CR alone");
  const line = String.fromCharCode(...bytes.subarray(LINE.length, end));
  const size = end + 2;
  const header = (source: Address | null, destination: Address | null): ParsedProxyHeader => ({
    size,
    header: {
      version: 1,
      command: "PROXY",
      carries: source === null ? null : "stream",
      source,
      destination,
      checksum: false,
      tlvs: [],
    },
  });
  if (line === "UNKNOWN" || line.startsWith("UNKNOWN ")) return header(null, null);
  const [family, ...parts] = line.split(" ");
  if (family !== IPV4_LINE && family !== IPV6_LINE) {
    throw wrong(`a version 1 header has TCP4, TCP6 or UNKNOWN after PROXY, not ${quoted(family ?? "")}`);
  }
  if (parts.length !== 4) {
    const said = `PROXY ${family} <source> <destination> <source port> <destination port>`;
    throw wrong(
      `a version 1 header is "${said}", with one space between two, not ${quoted(`PROXY ${line}`)}`,
    );
  }
  const [source = "", destination = "", from = "", to = ""] = parts;
  return header(lineAddress(family, source, from), lineAddress(family, destination, to));
}

const lineAddress = (family: string, host: string, port: string): InternetAddress => {
  const isIPv4 = family === IPV4_LINE;
  let packed: Uint8Array;
  try {
    packed = inetPton(isIPv4 ? AF_INET : AF_INET6, host);
  } catch (cause) {
    const said = `a version 1 header of ${family} has the address ${quoted(host)}, which is no ${isIPv4 ? "IPv4" : "IPv6"} address`;
    throw new SocketError("ERR_PROXY", said, { cause });
  }
  if (!PORT.test(port) || Number(port) > 0xffff) {
    throw wrong(
      `a version 1 header has the port ${quoted(port)}; it is 0 to 65535, without a zero before it`,
    );
  }
  return internet(packed, Number(port));
};

const internet = (packed: Uint8Array, port: number): InternetAddress =>
  packed.length === 4
    ? { family: "IPv4", hostname: packed.join("."), port }
    : { family: "IPv6", hostname: inetNtop(AF_INET6, packed), port };

/** What can be said of a version 2 header before its 16th byte. */
function early(bytes: Uint8Array): null {
  if (bytes.length > 12) checkCommand(bytes[12] as number);
  if (bytes.length > 13) checkFamily(bytes[13] as number);
  return null;
}

const checkCommand = (byte: number): void => {
  if (byte >> 4 !== 2) throw wrong(`a binary header is of version 2, not ${byte >> 4}`);
  if ((byte & 0x0f) > 1)
    throw wrong(`a version 2 header has the command LOCAL (0) or PROXY (1), not ${byte & 0x0f}`);
};

const checkFamily = (byte: number): void => {
  if (byte >> 4 > 3) throw wrong(`a version 2 header has an address family from 0 to 3, not ${byte >> 4}`);
  if ((byte & 0x0f) > 2)
    throw wrong(`a version 2 header has a transport protocol from 0 to 2, not ${byte & 0x0f}`);
};

const BLOCKS = [0, 12, 36, 2 * UNIX_PATH]; // bytes of the addresses, by family

function parseBinary(bytes: Uint8Array, limit: number): ParsedProxyHeader | null {
  early(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = FIXED + view.getUint16(14);
  if (size > limit) throw wrong(`a header of ${size} bytes is over the limit of ${limit} (maxHeader)`);
  const isLocal = ((bytes[12] as number) & 0x0f) === 0;
  const family = (bytes[13] as number) >> 4;
  const protocol = (bytes[13] as number) & 0x0f;
  const block = BLOCKS[family] as number;
  if (!isLocal && size < FIXED + block) {
    throw wrong(
      `a version 2 header has ${size - FIXED} bytes of addresses, and those of its family take ${block}`,
    );
  }
  if (bytes.length < size) return null;
  const base = { version: 2, checksum: false, tlvs: [] } as const;
  // Of what a proxy says for itself nothing counts, and what is there need not be right.
  if (isLocal) {
    return { size, header: { ...base, command: "LOCAL", carries: null, source: null, destination: null } };
  }
  const carries = protocol === 1 ? "stream" : protocol === 2 ? "datagram" : null;
  const known = family !== 0 && carries !== null;
  const [source, destination] = known ? addressesIn(bytes, view, family) : [null, null];
  const header = { ...base, command: "PROXY", carries: known ? carries : null, source, destination } as const;
  try {
    return { size, header: { ...header, ...vectors(bytes, FIXED + block, size) } };
  } catch (error) {
    if (family !== 0) throw error;
    return { size, header }; // addresses of a kind that nobody named may be there
  }
}

const addressesIn = (bytes: Uint8Array, view: DataView, family: number): [Address | null, Address | null] => {
  if (family === 3) return [unixIn(bytes, FIXED), unixIn(bytes, FIXED + UNIX_PATH)];
  const length = family === 1 ? 4 : 16;
  const ports = FIXED + 2 * length;
  const at = (start: number, port: number): Address =>
    internet(bytes.subarray(start, start + length), view.getUint16(port));
  return [at(FIXED, ports), at(FIXED + length, ports + 2)];
};

/** A path, up to the first zero; of an abstract name, which begins with one, up to the zeros that fill it up. */
const unixIn = (bytes: Uint8Array, start: number): Address | null => {
  const field = bytes.subarray(start, start + UNIX_PATH);
  let end = field[0] === 0 ? UNIX_PATH : field.indexOf(0);
  if (end < 0) end = UNIX_PATH;
  while (end > 0 && field[end - 1] === 0) end--;
  return end === 0 ? null : { family: "unix", path: TEXT.decode(field.subarray(0, end)) };
};

type Mutable<T> = { -readonly [Name in keyof T]?: T[Name] };

/** The vectors from `start` to `end`, and what those say that are known. */
function vectors(bytes: Uint8Array, start: number, end: number): Mutable<ProxyHeader> {
  const found: Mutable<ProxyHeader> = {};
  const tlvs: ProxyTlv[] = [];
  const seen = new Set<number>();
  for (const { type, value, at } of each(bytes, start, end, "a version 2 header")) {
    tlvs.push({ type, value: value.slice() });
    if (type === NOOP || (type > UNIQUE_ID && type !== SSL && type !== NETNS)) continue;
    if (seen.has(type))
      throw wrong(`a version 2 header has two vectors of the type ${hex(type)}: which one counts?`);
    seen.add(type);
    if (type === ALPN) found.alpn = TEXT.decode(value);
    else if (type === AUTHORITY) found.authority = TEXT.decode(value);
    else if (type === NETNS) found.netns = TEXT.decode(value);
    else if (type === SSL) found.ssl = sslIn(value);
    else if (type === UNIQUE_ID) {
      if (value.length > MAX_ID) throw wrong(`a unique id has at most ${MAX_ID} bytes, not ${value.length}`);
      found.uniqueId = value.slice();
    } else if (type === CRC32C) {
      checkSum(bytes.subarray(0, end), at, value);
      found.checksum = true;
    }
  }
  found.tlvs = tlvs;
  return found;
}

const hex = (type: number): string => `0x${type.toString(16).padStart(2, "0")}`;

/** The vectors from `start` to `end`; `at` is where the value of one begins. */
function* each(
  bytes: Uint8Array,
  start: number,
  end: number,
  where: string,
): Generator<ProxyTlv & { readonly at: number }> {
  for (let at = start; at < end; ) {
    const type = bytes[at] as number;
    if (at + 3 > end) throw wrong(`${where} ends within a vector`);
    const length = ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number);
    at += 3;
    if (at + length > end) {
      throw wrong(
        `${where} has a vector ${hex(type)} of ${length} bytes, and only ${end - at} are left in it`,
      );
    }
    yield { type, value: bytes.subarray(at, at + length), at };
    at += length;
  }
}

const SSL_TEXTS = {
  [SSL_VERSION]: "version",
  [SSL_CN]: "commonName",
  [SSL_CIPHER]: "cipher",
  [SSL_SIG_ALG]: "signatureAlgorithm",
  [SSL_KEY_ALG]: "keyAlgorithm",
  [SSL_GROUP]: "group",
  [SSL_SIG_SCHEME]: "signatureScheme",
} as const;

function sslIn(value: Uint8Array): ProxySsl {
  const where = "the vector of TLS (0x20)";
  if (value.length < 5) throw wrong(`${where} has at least 5 bytes, not ${value.length}`);
  const client = value[0] as number;
  const verify = new DataView(value.buffer, value.byteOffset).getUint32(1);
  const certificate =
    client & CLIENT_CERT_CONN ? "connection" : client & CLIENT_CERT_SESS ? "session" : "none";
  const found: Mutable<ProxySsl> = {};
  for (const { type, value: inner } of each(value, 5, value.length, where)) {
    if (type === SSL_CLIENT_CERT) found.clientCertificate = inner.slice();
    else if (type in SSL_TEXTS) found[SSL_TEXTS[type as keyof typeof SSL_TEXTS]] = TEXT.decode(inner);
  }
  return {
    tls: (client & CLIENT_SSL) !== 0,
    certificate,
    // Zero also where no certificate was asked for: that a client is known takes one.
    verified: verify === 0 && certificate !== "none",
    verify,
    ...found,
  };
}

function parseSimple(bytes: Uint8Array): ParsedProxyHeader {
  if (bytes.length < SIMPLE_SIZE) {
    throw wrong(
      `a datagram of ${bytes.length} bytes ends within its Simple Proxy Protocol header of ${SIMPLE_SIZE}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const at = (start: number, port: number): Address =>
    internet(unmapped(bytes.subarray(start, start + 16)), view.getUint16(port));
  const header: ProxyHeader = {
    version: "simple",
    command: "PROXY",
    carries: "datagram",
    source: at(2, 34),
    destination: at(18, 36),
    checksum: false,
    tlvs: [],
  };
  return { header, size: SIMPLE_SIZE };
}

const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/** The IPv4 address inside, where there is one: that is how the protocol spells IPv4. */
const unmapped = (packed: Uint8Array): Uint8Array => (begins(packed, MAPPED) ? packed.subarray(12) : packed);

// ---- The checksum ----

let table: Uint32Array | undefined;

/** CRC-32C (Castagnoli: RFC 9260, appendix A), reflected, by a table of 256. */
const crc32c = (bytes: Uint8Array): number => {
  table ??= Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    return crc;
  });
  let crc = 0xffff_ffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 0xff] as number);
  return (crc ^ 0xffff_ffff) >>> 0;
};

const checkSum = (header: Uint8Array, at: number, value: Uint8Array): void => {
  if (value.length !== 4) throw wrong(`a checksum has 4 bytes, not ${value.length}`);
  const zeroed = header.slice();
  zeroed.fill(0, at, at + 4);
  const sum = crc32c(zeroed);
  const said = new DataView(value.buffer, value.byteOffset).getUint32(0);
  if (said !== sum) throw wrong(`the header's checksum is ${hex(said)}, and its bytes have ${hex(sum)}`);
};

// ---- Writing ----

/** What a header says that this side sends. Where the addresses are left out it says that this side speaks for itself (`LOCAL`; in version 1 `UNKNOWN`). */
export interface ProxyHeaderOptions {
  /** Default 2. `"simple"`, Spectrum's, is for datagrams. */
  readonly version?: 1 | 2 | "simple";
  /** The client that this side speaks for. `null`: it is not known. */
  readonly source?: AddressLike | null;
  /** Where that client came to. */
  readonly destination?: AddressLike | null;
  /** Default `"stream"`. Version 1 has no other. */
  readonly carries?: "stream" | "datagram";
  /** As `ProxyHeader.alpn`; so are the next four. Version 2 alone. */
  readonly alpn?: string;
  readonly authority?: string;
  readonly uniqueId?: string | Uint8Array;
  readonly netns?: string;
  readonly ssl?: Partial<ProxySsl>;
  /** Further vectors, such as those of an application (0xE0 to 0xEF). */
  readonly tlvs?: readonly ProxyTlv[];
  /** Adds a checksum. Default `false`. Version 2 alone. */
  readonly checksum?: boolean;
}

const SSL_NAMES = optionNamesOf<ProxySsl>()({
  tls: "boolean",
  certificate: true,
  verified: "boolean",
  verify: true,
  version: true,
  commonName: true,
  cipher: true,
  signatureAlgorithm: true,
  keyAlgorithm: true,
  group: true,
  signatureScheme: true,
  clientCertificate: true,
});

export const PROXY_HEADER_NAMES = optionNamesOf<ProxyHeaderOptions>("a PROXY protocol header")({
  version: true,
  source: true,
  destination: true,
  carries: true,
  alpn: true,
  authority: true,
  uniqueId: true,
  netns: true,
  ssl: SSL_NAMES,
  tlvs: true,
  checksum: "boolean",
});

/**
 * The bytes of a header. `1` and `2` are short for `{ version: 1 }` and `{ version: 2 }`, with which this side speaks
 * for itself.
 *
 * @throws TypeError and RangeError where an option is wrong: addresses of two families, a name in place of an address,
 *   what the version cannot say, more than 65 535 bytes; as `parseAddress`, where an address is none.
 */
export function proxyHeader(options: 1 | 2 | ProxyHeaderOptions = {}): Uint8Array {
  const given: ProxyHeaderOptions = typeof options === "number" ? { version: options } : options;
  checkOptions("a PROXY protocol header", given, PROXY_HEADER_NAMES);
  const { version = 2, carries = "stream" } = given;
  if (version !== 1 && version !== 2 && version !== "simple") {
    throw new TypeError(`version is 1, 2 or "simple", not ${String(version)}`);
  }
  checkWord("carries", carries, ["stream", "datagram"]);
  const [source, destination] = bothOf(given);
  if (version !== 2) {
    for (const name of ["alpn", "authority", "uniqueId", "netns", "ssl", "tlvs", "checksum"] as const) {
      if (given[name] !== undefined)
        throw new TypeError(`${name} takes version 2 of the PROXY protocol, not ${version}`);
    }
  }
  if (version === 1) return lineOf(source, destination, carries);
  return version === 2 ? binaryOf(given, source, destination) : simpleOf(source, destination);
}

/** An address to be written; `null` where none was given. */
const written = (name: string, like: AddressLike | null | undefined): Address | null => {
  if (like === null || like === undefined) return null;
  const endpoint = parseAddress(like);
  if (endpoint.scheme === "unix") return { family: "unix", path: endpoint.path };
  const host = endpoint.hostname.replace(/%.*$/s, ""); // which interface it is says nothing elsewhere
  for (const [number, family] of [
    [AF_INET, "IPv4"],
    [AF_INET6, "IPv6"],
  ] as const) {
    try {
      return { family, hostname: inetNtop(number, inetPton(number, host)), port: endpoint.port };
    } catch {
      // of the other family
    }
  }
  throw new TypeError(`${name} is an address, such as "192.0.2.1:1234", not the name ${quoted(host)}`);
};

const bothOf = (given: ProxyHeaderOptions): [Address | null, Address | null] => {
  const source = written("source", given.source);
  const destination = written("destination", given.destination);
  if (source !== null && destination !== null && source.family !== destination.family) {
    throw new TypeError(
      `source is ${source.family} and destination ${destination.family}: a header has one family`,
    );
  }
  if ((source === null) === (destination === null)) return [source, destination];
  throw new TypeError("source and destination go together: give both, or neither");
};

function lineOf(source: Address | null, destination: Address | null, carries: string): Uint8Array {
  if (carries !== "stream") throw new TypeError("version 1 of the PROXY protocol is for streams alone");
  if (source === null || destination === null) return BYTES.encode("PROXY UNKNOWN\r\n");
  if (source.family === "unix" || destination.family === "unix") return BYTES.encode("PROXY UNKNOWN\r\n");
  const family = source.family === "IPv4" ? IPV4_LINE : IPV6_LINE;
  const { port } = destination;
  return BYTES.encode(
    `PROXY ${family} ${source.hostname} ${destination.hostname} ${source.port} ${port}\r\n`,
  );
}

function simpleOf(source: Address | null, destination: Address | null): Uint8Array {
  if (source === null || destination === null || source.family === "unix" || destination.family === "unix") {
    throw new TypeError("a Simple Proxy Protocol header has IP addresses: give source and destination");
  }
  const bytes = new Uint8Array(SIMPLE_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(SIMPLE);
  bytes.set(mapped(source), 2);
  bytes.set(mapped(destination as InternetAddress), 18);
  view.setUint16(34, source.port);
  view.setUint16(36, (destination as InternetAddress).port);
  return bytes;
}

/** 16 bytes, also of an IPv4 address. */
const mapped = (address: InternetAddress): Uint8Array => {
  const packed = packedOf(address);
  return packed.length === 16 ? packed : new Uint8Array([...MAPPED, ...packed]);
};

const packedOf = ({ family, hostname }: InternetAddress): Uint8Array =>
  inetPton(family === "IPv4" ? AF_INET : AF_INET6, hostname);

function binaryOf(
  given: ProxyHeaderOptions,
  source: Address | null,
  destination: Address | null,
): Uint8Array {
  const addresses = source === null || destination === null ? [] : blockOf(source, destination);
  const tlvs = vectorsOf(given);
  const isLocal = given.source === undefined && given.destination === undefined;
  if (isLocal && tlvs.length > 0) {
    throw new TypeError(
      "who speaks for itself (LOCAL) has nothing to say of a client: give source and destination, or null for both",
    );
  }
  const sum = given.checksum === true ? 7 : 0;
  const size = addresses.length + tlvs.length + sum;
  if (size > MAX_BLOCK)
    throw new RangeError(`a header has at most ${MAX_BLOCK} bytes of addresses and vectors, not ${size}`);
  const families = { IPv4: 0x10, IPv6: 0x20, unix: 0x30 } as const;
  const protocol = given.carries === "datagram" ? 2 : 1;
  const bytes = new Uint8Array(FIXED + size);
  const view = new DataView(bytes.buffer);
  bytes.set(SIGNATURE);
  bytes[12] = isLocal ? 0x20 : 0x21;
  bytes[13] = source === null ? 0 : families[source.family] | protocol;
  view.setUint16(14, size);
  bytes.set(addresses, FIXED);
  bytes.set(tlvs, FIXED + addresses.length);
  if (sum > 0) {
    const at = bytes.length - sum;
    bytes[at] = CRC32C;
    view.setUint16(at + 1, 4);
    view.setUint32(at + 3, crc32c(bytes));
  }
  return bytes;
}

const blockOf = (source: Address, destination: Address): number[] => {
  if (source.family === "unix" || destination.family === "unix") {
    return [source, destination].flatMap((address) => {
      const path = BYTES.encode((address as { readonly path: string }).path);
      if (path.length > UNIX_PATH)
        throw new RangeError(`a path in a header has at most ${UNIX_PATH} bytes, not ${path.length}`);
      return [...path, ...new Uint8Array(UNIX_PATH - path.length)];
    });
  }
  const ports = [source.port, destination.port].flatMap((port) => [port >> 8, port & 0xff]);
  return [...packedOf(source), ...packedOf(destination), ...ports];
};

const vectorsOf = ({ alpn, authority, uniqueId, netns, ssl, tlvs = [] }: ProxyHeaderOptions): number[] => {
  const out: number[] = [];
  const add = (type: number, value: string | Uint8Array | undefined): void => {
    if (value !== undefined) out.push(...vectorOf(type, value));
  };
  add(ALPN, alpn);
  add(AUTHORITY, authority);
  if (uniqueId !== undefined) {
    const id = typeof uniqueId === "string" ? BYTES.encode(uniqueId) : uniqueId;
    if (id.length > MAX_ID) throw new RangeError(`uniqueId has at most ${MAX_ID} bytes, not ${id.length}`);
    add(UNIQUE_ID, id);
  }
  add(NETNS, netns);
  add(SSL, ssl && sslOf(ssl));
  for (const { type, value } of tlvs) {
    checkCount("the type of a vector", type, 0);
    if (type > 0xff) throw new RangeError(`the type of a vector is 0 to 255, not ${type}`);
    if (type === CRC32C) throw new TypeError("checksum: true adds the vector 0x03");
    add(type, value);
  }
  return out;
};

const vectorOf = (type: number, given: string | Uint8Array): number[] => {
  const value = typeof given === "string" ? BYTES.encode(given) : given;
  if (value.length > 0xffff) throw new RangeError(`a vector has at most 65535 bytes, not ${value.length}`);
  return [type, value.length >> 8, value.length & 0xff, ...value];
};

const sslOf = (ssl: Partial<ProxySsl>): Uint8Array => {
  const { tls = true, certificate = "none", verified, clientCertificate } = ssl;
  checkWord("ssl.certificate", certificate, ["connection", "session", "none"]);
  const { verify = verified === true || certificate === "none" ? 0 : 1 } = ssl;
  const cert =
    certificate === "connection"
      ? CLIENT_CERT_CONN | CLIENT_CERT_SESS
      : certificate === "session"
        ? CLIENT_CERT_SESS
        : 0;
  const head = new Uint8Array(5);
  head[0] = (tls ? CLIENT_SSL : 0) | cert;
  new DataView(head.buffer).setUint32(1, checkCount("ssl.verify", verify, 0));
  const inner = Object.entries(SSL_TEXTS).flatMap(([type, name]) => {
    const value = ssl[name];
    return value === undefined ? [] : vectorOf(Number(type), value);
  });
  const der = clientCertificate === undefined ? [] : vectorOf(SSL_CLIENT_CERT, clientCertificate);
  return new Uint8Array([...head, ...inner, ...der]);
};

// ---- Whose header it was ----

const headers = new WeakMap<object, ProxyHeader>();

/** The header that came before `request`; `null` where none did. */
export const proxyOf = (request: object): ProxyHeader | null => headers.get(request) ?? null;

/** Notes that this header came before `request`. */
export const cameThrough = (request: object, header: ProxyHeader): void => void headers.set(request, header);
