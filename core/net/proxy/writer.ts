/** Headers of the PROXY protocol, written: versions 1 and 2 (HAProxy, doc/proxy-protocol.txt), and Cloudflare Spectrum's Simple Proxy Protocol for datagrams. */

import { encoder } from "../../bytes/data.ts";
import { quoted } from "../../describe.ts";
import { checkCount, checkOptions, checkWord, optionNamesOf } from "../../options.ts";
import {
  type Address,
  type AddressLike,
  type InternetAddress,
  inetNtop,
  inetPton,
  parseAddress,
} from "../address.ts";
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
  MAPPED,
  MAX_BLOCK,
  MAX_ID,
  NETNS,
  SIGNATURE,
  SIMPLE,
  SIMPLE_SIZE,
  SSL,
  SSL_CLIENT_CERT,
  SSL_TEXTS,
  UNIQUE_ID,
  UNIX_PATH,
} from "./format.ts";
import type { ProxySsl, ProxyTlv } from "./header.ts";

/** A header that this side sends. Without addresses it says that this side speaks for itself (`LOCAL`; in version 1 `UNKNOWN`). */
export interface ProxyHeaderOptions {
  /** Default 2. `"simple"`, Spectrum's, is for datagrams. */
  readonly version?: 1 | 2 | "simple";
  /** The client that this side speaks for. `null`: unknown. */
  readonly source?: AddressLike | null;
  /** Where that client connected. */
  readonly destination?: AddressLike | null;
  /** Default `"stream"`. Version 1 has no other. */
  readonly carries?: "stream" | "datagram";
  /** As `ProxyHeader.alpn`; likewise the next four. Only version 2. */
  readonly alpn?: string;
  readonly authority?: string;
  readonly uniqueId?: string | Uint8Array;
  readonly netns?: string;
  readonly ssl?: Partial<ProxySsl>;
  /** Further vectors, such as those of an application (0xE0 to 0xEF). */
  readonly tlvs?: readonly ProxyTlv[];
  /** Adds a checksum. Default `false`. Only version 2. */
  readonly checksum?: boolean;
}

const SSL_NAMES = optionNamesOf<ProxySsl>()({
  tls: "boolean",
  certificate: true,
  verified: "boolean",
  verify: true,
  version: "string",
  commonName: "string",
  cipher: "string",
  signatureAlgorithm: "string",
  keyAlgorithm: "string",
  group: "string",
  signatureScheme: "string",
  clientCertificate: true,
});

const PROXY_HEADER_NAMES = optionNamesOf<ProxyHeaderOptions>("a PROXY protocol header")({
  version: true,
  source: true,
  destination: true,
  carries: true,
  alpn: "string",
  authority: "string",
  uniqueId: true,
  netns: "string",
  ssl: SSL_NAMES,
  tlvs: "list",
  checksum: "boolean",
});

/**
 * The bytes of a header. `1` and `2` are short for `{ version: 1 }` and `{ version: 2 }`, by which this side speaks
 * for itself.
 *
 * @throws TypeError and RangeError if an option is wrong: addresses of two families, a name instead of an address,
 *   something that the version cannot express, more than 65 535 bytes; as `parseAddress` if an address is malformed.
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

/** An address to be written; `null` if none was given. */
const written = (name: string, like: AddressLike | null | undefined): Address | null => {
  if (like === null || like === undefined) return null;
  const endpoint = parseAddress(like);
  if (endpoint.scheme === "unix") return { family: "unix", path: endpoint.path };
  const host = endpoint.hostname.replace(/%.*$/s, ""); // an interface's name means nothing on another machine
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
  if (carries !== "stream") throw new TypeError("version 1 of the PROXY protocol is only for streams");
  if (source === null || destination === null) return encoder.encode("PROXY UNKNOWN\r\n");
  if (source.family === "unix" || destination.family === "unix") return encoder.encode("PROXY UNKNOWN\r\n");
  const family = source.family === "IPv4" ? "TCP4" : "TCP6";
  const { port } = destination;
  return encoder.encode(
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

/** 16 bytes, for IPv4 addresses too. */
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
      "a header without source and destination (LOCAL) describes no client: give both, or null for both",
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
      const path = encoder.encode((address as { readonly path: string }).path);
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
    const id = typeof uniqueId === "string" ? encoder.encode(uniqueId) : uniqueId;
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
  const value = typeof given === "string" ? encoder.encode(given) : given;
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
