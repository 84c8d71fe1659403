/**
 * Headers of the PROXY protocol, read: versions 1 and 2 (HAProxy, doc/proxy-protocol.txt), and Cloudflare Spectrum's Simple
 * Proxy Protocol for datagrams.
 *
 * A reader is given what has arrived so far, from the first byte on, and says "not yet" until the header is complete. It
 * refuses at the first wrong byte, so that a client that sends something else is not kept until a time-out.
 */

import { quoted } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import { type Address, type InternetAddress, inetNtop, inetPton } from "../address.ts";
import { AF_INET, AF_INET6 } from "../constants.ts";
import {
  ALPN,
  AUTHORITY,
  CLIENT_CERT_CONN,
  CLIENT_CERT_SESS,
  CLIENT_SSL,
  CRC32C,
  crc32c,
  FIXED,
  LINE,
  MAPPED,
  MAX_BLOCK,
  MAX_ID,
  MAX_LINE,
  NETNS,
  NOOP,
  SIGNATURE,
  SIMPLE,
  SIMPLE_SIZE,
  SSL,
  SSL_CLIENT_CERT,
  SSL_TEXTS,
  UNIQUE_ID,
  UNIX_PATH,
} from "./format.ts";
import type { ParsedProxyHeader, ProxyHeader, ProxySsl, ProxyTlv } from "./header.ts";

const TEXT = new TextDecoder("utf-8", { ignoreBOM: true });

const wrong = (why: string): SocketError => new SocketError("ERR_PROXY", why);

/** The first bytes of a connection, as a message shows them. */
const shown = (bytes: Uint8Array): string => quoted(TEXT.decode(bytes.subarray(0, 16)));

/** Whether the bytes so far agree with the beginning of `magic`. */
const begins = (bytes: Uint8Array, magic: readonly number[]): boolean => {
  const most = Math.min(bytes.length, magic.length);
  for (let i = 0; i < most; i++) if (bytes[i] !== magic[i]) return false;
  return true;
};

/**
 * The header that `bytes` begin with, of version 1 or 2, and its size; `null` while it is not complete.
 *
 * @param limit bytes that a header of version 2 may have. Default 65 551, the maximum of the format.
 * @throws SocketError `ERR_PROXY` as soon as the bytes cannot be a valid header; the message says why.
 */
export function parseProxyHeader(
  bytes: Uint8Array,
  limit: number = FIXED + MAX_BLOCK,
): ParsedProxyHeader | null {
  if (begins(bytes, LINE)) return bytes.length < LINE.length ? null : parseLine(bytes);
  if (begins(bytes, SIGNATURE)) return bytes.length < FIXED ? early(bytes) : parseBinary(bytes, limit);
  throw wrong(
    `${shown(bytes)} is not the start of a PROXY protocol header; check that the proxy sends one, and that nothing else connects from its address`,
  );
}

/**
 * The same for one datagram, which contains the whole header, of version 2 or Spectrum's Simple Proxy Protocol.
 *
 * @throws SocketError `ERR_PROXY` if it does not begin with such a header, complete.
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

const PORT = /^(?:0|[1-9][0-9]{0,4})$/;

function parseLine(bytes: Uint8Array): ParsedProxyHeader | null {
  let end = LINE.length;
  while (end < bytes.length && bytes[end] !== 0x0d && bytes[end] !== 0x0a) end++;
  if (end + 2 > MAX_LINE)
    throw wrong(`a version 1 header has at most ${MAX_LINE} bytes, and these have no CRLF`);
  if (end === bytes.length) return null;
  if (bytes[end] === 0x0a) throw wrong("a version 1 header ends in CRLF, not in LF alone");
  if (end + 1 === bytes.length) return null;
  if (bytes[end + 1] !== 0x0a) throw wrong("a version 1 header ends in CRLF, not in CR alone");
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
  if (family !== "TCP4" && family !== "TCP6") {
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
  const isIPv4 = family === "TCP4";
  let packed: Uint8Array;
  try {
    packed = inetPton(isIPv4 ? AF_INET : AF_INET6, host);
  } catch (cause) {
    const said = `a version 1 header of ${family} has the address ${quoted(host)}, which is not an ${isIPv4 ? "IPv4" : "IPv6"} address`;
    throw new SocketError("ERR_PROXY", said, { cause });
  }
  if (!PORT.test(port) || Number(port) > 0xffff) {
    throw wrong(`a version 1 header has the port ${quoted(port)}; it is 0 to 65535, without leading zeros`);
  }
  return internet(packed, Number(port));
};

const internet = (packed: Uint8Array, port: number): InternetAddress =>
  packed.length === 4
    ? { family: "IPv4", hostname: packed.join("."), port }
    : { family: "IPv6", hostname: inetNtop(AF_INET6, packed), port };

/** Checks of a version 2 header that do not need its first 16 bytes to be complete. */
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
  // In a LOCAL header the addresses are to be ignored, and need not be valid.
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
    return { size, header }; // addresses of an unspecified kind may be there
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

/** A path, up to the first zero; an abstract name, which begins with one, up to its padding. */
const unixIn = (bytes: Uint8Array, start: number): Address | null => {
  const field = bytes.subarray(start, start + UNIX_PATH);
  let end = field[0] === 0 ? UNIX_PATH : field.indexOf(0);
  if (end < 0) end = UNIX_PATH;
  while (end > 0 && field[end - 1] === 0) end--;
  return end === 0 ? null : { family: "unix", path: TEXT.decode(field.subarray(0, end)) };
};

type Mutable<T> = { -readonly [Name in keyof T]?: T[Name] };

/** The vectors from `start` to `end`, and the values of the known ones. */
function vectors(bytes: Uint8Array, start: number, end: number): Mutable<ProxyHeader> {
  const found: Mutable<ProxyHeader> = {};
  const tlvs: ProxyTlv[] = [];
  const seen = new Set<number>();
  for (const { type, value, at } of each(bytes, start, end, "a version 2 header")) {
    tlvs.push({ type, value: value.slice() });
    if (type === NOOP || (type > UNIQUE_ID && type !== SSL && type !== NETNS)) continue;
    if (seen.has(type))
      throw wrong(`a version 2 header has two vectors of the type ${hex(type)}, and may have one`);
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

/** The vectors from `start` to `end`; `at` is where a vector's value begins. */
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
    // Also zero if no certificate was requested; a client is verified only if it presented one.
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

/** The IPv4 address inside, if there is one: the protocol spells IPv4 like this. */
const unmapped = (packed: Uint8Array): Uint8Array => (begins(packed, MAPPED) ? packed.subarray(12) : packed);

const checkSum = (header: Uint8Array, at: number, value: Uint8Array): void => {
  if (value.length !== 4) throw wrong(`a checksum has 4 bytes, not ${value.length}`);
  const zeroed = header.slice();
  zeroed.fill(0, at, at + 4);
  const sum = crc32c(zeroed);
  const said = new DataView(value.buffer, value.byteOffset).getUint32(0);
  if (said !== sum) throw wrong(`the header's checksum is ${hex(said)}, and its bytes have ${hex(sum)}`);
};
