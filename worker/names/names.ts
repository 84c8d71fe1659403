/// <reference types="@cloudflare/workers-types" />
/**
 * Names in a Worker. It has no resolver, so names are looked up over HTTPS (RFC 8484), at a server of the caller's
 * choice. Services and protocols come from a built-in table.
 */

import { joinBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import { type AddressLike, packAddress } from "../../core/net/address.ts";
import { AF_INET, AF_INET6, AI_ALL, AI_V4MAPPED } from "../../core/net/constants.ts";
import type { AddressInfo, AddressInfoOptions, Host, Resolver } from "../../core/net/names.ts";
import * as names from "../../core/net/names.ts";
import { builtInServices } from "../../core/net/services.ts";
import { checkOptions, checkTime, type OptionNames, optionNamesOf, wholeMs } from "../../core/options.ts";
import { openWithin } from "../../core/sockets/dialling/connect.ts";
import {
  type DnsAnswer,
  type DnsRecord,
  MalformedAnswer,
  parseAnswer,
  query,
  type RecordType,
} from "./dns-message.ts";

export { getprotobyname, getservbyname, getservbyport } from "../../core/net/services.ts";

/** Where names are looked up, and for how long. Each question is one `fetch`, and counts as one of the request's subrequests. */
export interface NameOptions {
  /** The server for DNS over HTTPS (RFC 8484, by POST). Default `https://cloudflare-dns.com/dns-query`. */
  readonly endpoint?: string | URL;
  /** How long one question may take, in milliseconds. Default 5 000, as in resolv.conf(5). */
  readonly timeout?: number;
  /** Aborts the look-up. */
  readonly signal?: AbortSignal;
  /** The `fetch` to use, such as a service binding's. Default: the platform's. */
  readonly fetch?: typeof fetch;
}

const NAME_NAMES = optionNamesOf<NameOptions>("a question for a name")({
  endpoint: true,
  timeout: true,
  signal: "signal",
  fetch: "function",
});
const NAMES_AND_INFO = optionNamesOf<AddressInfoOptions & NameOptions>()({
  ...NAME_NAMES,
  ...names.ADDRESS_INFO_NAMES,
});

/** The name of this machine: always `"localhost"`. A Worker runs on many machines, none of which reveals its name. */
export const gethostname = (): string => "localhost";

/**
 * The IPv4 address of a host: the first that the DNS gives. Some names need no look-up: an address stands for itself, in
 * every form of `inetAton` (`"127.1"`) with nothing after it; `""` is `"0.0.0.0"`, `"<broadcast>"` is
 * `"255.255.255.255"`, and `"localhost"` is `"127.0.0.1"`. CPython's `gethostbyname`.
 *
 * Rejects with `ERR_NAME` if the name is unknown or has no IPv4 address, or if the server does not answer or its answer is
 * malformed (the message has the `EAI_` name of the reason); with RangeError if it cannot be a name, with TypeError if an
 * argument has the wrong type, and with the reason of `signal`.
 */
export const gethostbyname = async (name: string, options?: NameOptions): Promise<string> =>
  names.gethostbyname(resolverOf("gethostbyname()", options), name);

/**
 * A host by its name: `[hostname, aliases, addresses]`. The hostname is where its CNAME records lead, the aliases are the
 * names on the way, and the addresses are all its IPv4 addresses. CPython's `gethostbyname_ex`.
 *
 * Rejects as `gethostbyname`, and also for `""`, `"<broadcast>"` and addresses that are not digits and dots.
 */
export const gethostbynameEx = async (name: string, options?: NameOptions): Promise<Host> =>
  names.gethostbynameEx(resolverOf("gethostbynameEx()", options), name);

/**
 * The host that has an address: `[hostname, aliases, addresses]`, which are the first of its PTR records, the other
 * records, and that address. IPv4 or IPv6; a name stands for its best address. CPython's `gethostbyaddr`.
 *
 * Rejects with `ERR_NAME` if no host is known, else as `gethostbyname`.
 */
export const gethostbyaddr = async (address: string, options?: NameOptions): Promise<Host> =>
  names.gethostbyaddr(resolverOf("gethostbyaddr()", options), address);

/**
 * The fully qualified name of a host: of the names that `gethostbyaddr` gives, the first with a dot in it, else the first
 * one; if it gives none, the name itself. Without a name, or for `"0.0.0.0"` and `"::"`, it is `"localhost"`. It never
 * rejects, whatever the name or the server. CPython's `getfqdn`.
 */
export const getfqdn = async (name = "", options?: NameOptions): Promise<string> =>
  names.getfqdn(resolverOf("getfqdn()", options), name);

/**
 * What kind of socket to make, and where to connect it: an answer for each address of the host and each kind of socket
 * that `options` allow, IPv6 first. CPython's `getaddrinfo`; getaddrinfo(3).
 *
 *     const [best] = await getaddrinfo("example.com", "http", { type: SOCK_STREAM });
 *
 * `host` is a name or an address; `null` means the loopback, or with `AI_PASSIVE` every address. `port` is a number, the
 * name of a service, or `null` for none. There is at least one answer. `AI_ADDRCONFIG` changes nothing.
 *
 * Rejects as `gethostbyname`, and with RangeError if the port is not 0 to 65535.
 */
export const getaddrinfo = async (
  host: string | null,
  port: string | number | null,
  options?: AddressInfoOptions & NameOptions,
): Promise<AddressInfo[]> =>
  names.getaddrinfo(resolverOf("getaddrinfo()", options, NAMES_AND_INFO), host, port, options);

/**
 * The names of an address: `[host, service]`, or numbers if there is no name. `flags` is `NI_NUMERICHOST`,
 * `NI_NAMEREQD` and so on, or-ed. CPython's `getnameinfo`; getnameinfo(3).
 *
 * Rejects with `ERR_NAME` if the hostname of `address` is not an address, if `NI_NAMEREQD` is set and there is no name, or
 * if the server fails; and with the error of `parseAddress` if `address` is malformed.
 */
export const getnameinfo = async (
  address: AddressLike,
  flags = 0,
  options?: NameOptions,
): Promise<[host: string, service: string]> =>
  names.getnameinfo(resolverOf("getnameinfo()", options), address, flags);

// --- The look-up -------------------------------------------------------------------------------------------

const ENDPOINT = "https://cloudflare-dns.com/dns-query";
const TIMEOUT = 5_000; // ms
const MESSAGE = "application/dns-message"; // RFC 8484, section 6
const MAX_MESSAGE = 65_535; // bytes (RFC 8484, section 6)
const MAX_CHAIN = 16; // CNAME records, one after the other

/** Looks up the records of one type that a name has. */
type Ask = (name: string, type: RecordType) => Promise<DnsAnswer>;

const resolverOf = (taker: string, options: NameOptions = {}, known: OptionNames = NAME_NAMES): Resolver => {
  checkOptions(taker, options, known);
  const ask = asker(options);
  return {
    hostname: gethostname,
    services: builtInServices,
    interfaces: () => null,
    async lookup(name, family, flags) {
      const mapped = family === AF_INET6 && (flags & AI_V4MAPPED) !== 0;
      const types: ("A" | "AAAA")[] =
        family === AF_INET ? ["A"] : family === AF_INET6 && !mapped ? ["AAAA"] : ["AAAA", "A"];
      const answers = await Promise.allSettled(types.map((type) => hostOf(ask, name, type)));
      const hosts = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
      const found = hosts.filter(([, , addresses]) => addresses.length > 0);
      const [first] = found;
      if (first === undefined) {
        // A failed look-up matters more than an empty one: what it would have found is not known.
        const failed = answers.find((answer) => answer.status === "rejected");
        throw failed?.reason ?? names.nameError("EAI_NODATA", name);
      }
      const addresses = found.flatMap(([, , some]) => some);
      return { canonname: first[0], addresses: mapped ? asIPv6(addresses, flags) : addresses };
    },
    async host(name) {
      const host = await hostOf(ask, name, "A");
      if (host[2].length === 0) throw names.nameError("EAI_NODATA", name);
      return host;
    },
    async reverse(address) {
      const packed = packAddress(address) as Uint8Array;
      if (address === "::1" || packed.join(".") === "127.0.0.1") return ["localhost", []];
      const { records } = await ask(arpaName(packed), "PTR");
      const [hostname, ...aliases] = follow(arpaName(packed), records, "PTR").data.filter(isHostname);
      return hostname === undefined ? null : [hostname, aliases];
    },
  };
};

/** The host of a name, with its addresses of one family, if any. localhost is never looked up (RFC 6761, 6.3). */
const hostOf = async (ask: Ask, name: string, type: "A" | "AAAA"): Promise<Host> => {
  if (/^(.*\.)?localhost\.?$/i.test(name)) return [name, [], [type === "A" ? "127.0.0.1" : "::1"]];
  const { code, records } = await ask(name, type);
  if (code !== 0) throw names.nameError("EAI_NONAME", name);
  const { chain, data } = follow(name, records, type);
  const [hostname, ...aliases] = chain.filter(isHostname).reverse();
  return [hostname ?? name, aliases.reverse(), data];
};

/** Follows the CNAME records from a name: all names on the way, and the records of `type` that the last one has. */
const follow = (
  name: string,
  records: readonly DnsRecord[],
  type: RecordType,
): { readonly chain: readonly string[]; readonly data: readonly string[] } => {
  const of = (owner: string, kind: RecordType): string[] =>
    records
      .filter((record) => record.type === kind && record.name.toLowerCase() === owner.toLowerCase())
      .map(({ data }) => data);
  let last = name.replace(/\.$/, "");
  const chain = [last];
  while (chain.length <= MAX_CHAIN) {
    const [next] = of(last, "CNAME");
    if (next === undefined) return { chain, data: of(last, type) };
    chain.push(next);
    last = next;
  }
  return { chain: [name], data: [] }; // a loop, or too long
};

/** Whether a text is safe to pass on as a host name. Names in the DNS may be any bytes, and a server may send anything. */
const isHostname = (name: string): boolean => /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/.test(name);

/** The name that has the PTR records of an address (RFC 1035, 3.5; RFC 3596, 2.5). */
const arpaName = (packed: Uint8Array): string => {
  const ipv4 = packed.length === 4;
  const parts = ipv4
    ? [...packed]
    : [...packed].flatMap((byte) => [(byte >> 4).toString(16), (byte & 15).toString(16)]);
  return `${parts.reverse().join(".")}.${ipv4 ? "in-addr" : "ip6"}.arpa`;
};

/** The IPv6 addresses; and, if there are none or all are wanted, the IPv4 addresses as IPv4-mapped ones. */
const asIPv6 = (addresses: readonly string[], flags: number): string[] => {
  const ipv6 = addresses.filter((address) => address.includes(":"));
  const mapped = addresses.filter((address) => !address.includes(":")).map((address) => `::ffff:${address}`);
  return ipv6.length > 0 && (flags & AI_ALL) === 0 ? ipv6 : [...ipv6, ...mapped];
};

/** A look-up with these options. Throws TypeError and RangeError if they are invalid. */
const asker = ({ endpoint = ENDPOINT, timeout = TIMEOUT, signal, fetch: send = fetch }: NameOptions): Ask => {
  const url = new URL(endpoint).href;
  checkTime("timeout", timeout);
  return async (name, type) => {
    const question = query(name, type);
    if (question === null) throw names.nameError("EAI_NONAME", name);
    const failed = (reason: names.NameFailure, what: string, cause?: unknown): SocketError =>
      names.nameError(reason, name, { meaning: `${url} ${what}`, cause });
    signal?.throwIfAborted();
    const giveUp = new AbortController();

    const exchange = async (): Promise<Uint8Array> => {
      const response = await send(url, {
        method: "POST",
        headers: { accept: MESSAGE, "content-type": MESSAGE },
        body: question,
        redirect: "manual", // the caller chose this server and no other
        signal: giveUp.signal,
      });
      const { status, body } = response;
      const kind = response.headers.get("content-type") ?? "nothing";
      if (status === 200 && kind.split(";")[0]?.trim().toLowerCase() === MESSAGE && body !== null) {
        const bytes = await readAtMost(body, MAX_MESSAGE);
        if (bytes !== null) return bytes;
        throw failed("EAI_FAIL", `answered with more than ${MAX_MESSAGE} bytes`);
      }
      await body?.cancel();
      if (status === 200) throw failed("EAI_FAIL", `answered with ${kind}, not with ${MESSAGE}`);
      throw failed(
        status >= 500 || status === 429 ? "EAI_AGAIN" : "EAI_FAIL",
        `answered with HTTP status ${status}`,
      );
    };

    let answer: DnsAnswer;
    try {
      const options = { connectTimeout: timeout, signal };
      answer = parseAnswer(await openWithin(exchange(), url, options, () => giveUp.abort()), question);
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof MalformedAnswer)
        throw failed("EAI_FAIL", `gave a malformed answer: ${error.message}`);
      if (!(error instanceof SocketError)) throw failed("EAI_AGAIN", "could not be asked", error);
      if (error.code === "ETIMEDOUT")
        throw failed("EAI_AGAIN", `did not answer within ${wholeMs(timeout)}`, error);
      throw error;
    }
    if (answer.code === 2) throw failed("EAI_AGAIN", "could not resolve it (SERVFAIL)");
    if (answer.code !== 0 && answer.code !== 3)
      throw failed("EAI_FAIL", `refused the question (code ${answer.code})`);
    return answer;
  };
};

/** A whole body; or `null`, with the rest unread, if it has more than `most` bytes. */
const readAtMost = async (body: ReadableStream<Uint8Array>, most: number): Promise<Uint8Array | null> => {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body) {
    size += piece.length;
    if (size > most) return null; // leaving the loop cancels the body
    pieces.push(piece);
  }
  return joinBytes(pieces, size);
};
