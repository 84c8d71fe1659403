/**
 * Names in Node, as the system has them: its resolver (getaddrinfo(3) and getnameinfo(3)), /etc/hosts, /etc/services
 * and /etc/protocols. They are the names that CPython has on the same machine.
 */

import { SocketError } from "../../../core/errors.ts";
import { type AddressLike, inetNtop, inetPton } from "../../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  AI_ALL,
  AI_CANONNAME,
  AI_V4MAPPED,
} from "../../../core/net/constants.ts";
import type { AddressInfo, AddressInfoOptions, Host, Resolver } from "../../../core/net/names.ts";
import * as names from "../../../core/net/names.ts";
import {
  builtInProtocols,
  builtInServices,
  fieldsOf,
  Protocols,
  Services,
} from "../../../core/net/services.ts";
import { checkOptions } from "../../../core/options.ts";
import { fs, lazy } from "../../builtin.ts";
import { nameFailure } from "../../kernel/addresses.ts";

// --- Services and protocols: synchronous, as CPython's -----------------------------------------------------

/**
 * The port of a service (`"http"` is 80), by its name or an alias (`"www"`), over `protocol` (`"tcp"`, `"udp"`)
 * or whichever comes first. Case matters. From /etc/services; if there is none, from a small table of its
 * own. CPython's `getservbyname`; getservbyname(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; TypeError if an argument is not a string.
 */
export const getservbyname = (name: string, protocol?: string): number =>
  services().getservbyname(name, protocol);

/**
 * The official name of the service at a port (80 is `"http"`), over `protocol` (`"tcp"`, `"udp"`) or whichever
 * comes first; from where `getservbyname` has it. CPython's `getservbyport`; getservbyport(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; RangeError if the port is not 0 to 65535; TypeError
 *   if it is not an integer, or the protocol is not a string.
 */
export const getservbyport = (port: number, protocol?: string): string =>
  services().getservbyport(port, protocol);

/**
 * The number of a protocol (`"tcp"` is 6), by its name or an alias (`"TCP"`). From /etc/protocols; if there
 * is none, from a small table of its own. CPython's `getprotobyname`; getprotobyname(3).
 *
 * @throws SocketError `ERR_NAME` if there is none; TypeError if the name is not a string.
 */
export const getprotobyname = (name: string): number => protocols().getprotobyname(name);

// --- Hosts -------------------------------------------------------------------------------------------------

/** The name of this machine. CPython's `gethostname`; gethostname(2). */
export const gethostname = (): string => lazy.os.hostname();

/**
 * The IPv4 address of a host; the best one if there are several. An address stands for itself, in every form of
 * `inetAton` (`"127.1"`) but with nothing after it; `""` is `"0.0.0.0"`, and `"<broadcast>"` is
 * `"255.255.255.255"`. CPython's `gethostbyname`.
 *
 * Rejects with `ERR_NAME` if the name is not known or has no IPv4 address (the message has the `EAI_` name of
 * the reason), RangeError if it cannot be a name, TypeError if it is not a string.
 */
export const gethostbyname = (name: string): Promise<string> => names.gethostbyname(system, name);

/**
 * A host by its name: `[hostname, aliases, addresses]`, its own name, its other names and all its IPv4
 * addresses. For a name in /etc/hosts all lines count, as with glibc's `multi on`; for any other the aliases are
 * the DNS's CNAME records, and the best address is first (CPython has the DNS's order). CPython's
 * `gethostbyname_ex`; gethostbyname(3).
 *
 * Rejects as `gethostbyname`; and for `""`, `"<broadcast>"` and addresses that are not digits and dots.
 */
export const gethostbynameEx = (name: string): Promise<Host> => names.gethostbynameEx(system, name);

/**
 * The host that has an address: `[hostname, aliases, addresses]`, of which the last is that address. IPv4 or
 * IPv6; a name stands for its best address. CPython's `gethostbyaddr`; gethostbyaddr(3).
 *
 * Rejects with `ERR_NAME` if none is known, else as `gethostbyname`.
 */
export const gethostbyaddr = (address: string): Promise<Host> => names.gethostbyaddr(system, address);

/**
 * The fully qualified name of a host: of the names that `gethostbyaddr` returns, the first with a dot in it, otherwise
 * the first; if it returns none, the name unchanged. Without a name, or for `"0.0.0.0"` and `"::"`, this
 * machine's. Rejects for no name. CPython's `getfqdn`.
 */
export const getfqdn = (name = ""): Promise<string> => names.getfqdn(system, name);

/**
 * What to make a socket of, and where to connect or bind it: an answer for each address of the host and each
 * kind of socket that `options` leave open, the best address first. CPython's `getaddrinfo`; getaddrinfo(3).
 *
 *     const [best] = await getaddrinfo("localhost", "http", { type: SOCK_STREAM });
 *
 * `host` is a name or an address, or `null`: this machine's loopback, or with `AI_PASSIVE` all its addresses.
 * `port` is a number, the name of a service, or `null` for none. There is at least one answer.
 *
 * Rejects with `ERR_NAME` (the message has the `EAI_` name of the reason), RangeError if the port is not 0 to
 * 65535 (CPython takes its lower 16 bits) or the host cannot be a name, TypeError if an argument has the
 * wrong type.
 */
export const getaddrinfo = async (
  host: string | null,
  port: string | number | null,
  options: AddressInfoOptions = {},
): Promise<AddressInfo[]> => {
  checkOptions("getaddrinfo()", options, names.ADDRESS_INFO_NAMES);
  return names.getaddrinfo(system, host, port, options);
};

/**
 * The names of an address: `[host, service]`. A host or service without a name is returned as its number. `flags` are `NI_NUMERICHOST`,
 * `NI_NAMEREQD`, …, or-ed. CPython's `getnameinfo`; getnameinfo(3).
 *
 * Rejects with `ERR_NAME` if the hostname of `address` is not an address, if `NI_NAMEREQD` is set and there is
 * no name, and if the name server fails; with what `parseAddress` throws if `address` is malformed.
 */
export const getnameinfo = (address: AddressLike, flags = 0): Promise<[host: string, service: string]> =>
  names.getnameinfo(system, address, flags);

// --- The sources of names ----------------------------------------------------------------------------------

/** The parsed contents of a file; `otherwise` if it cannot be read. Parsed again when the file has changed. */
const fromFile = <Table>(path: string, Table: new (text: string) => Table, otherwise: () => Table) => {
  let kept: { readonly text: string; readonly table: Table } | undefined;
  return (): Table => {
    let text: string;
    try {
      text = fs.readFileSync(path, "utf8");
    } catch {
      return otherwise();
    }
    if (kept?.text !== text) kept = { text, table: new Table(text) };
    return kept.table;
  };
};

interface HostLine {
  readonly name: string;
  readonly aliases: readonly string[];
  /** Its address, by the family that is looked for. */
  readonly address: Readonly<Record<number, string | undefined>>;
}

/** The table of /etc/hosts, as glibc's `files` reads it: hosts(5). */
export class Hosts {
  readonly #lines: readonly HostLine[];

  /** `text`: lines of `address name alias…`; other lines are skipped. */
  constructor(text: string) {
    this.#lines = fieldsOf(text).flatMap(([address = "", name, ...aliases]) => {
      const own = canonical(address);
      if (own === null || name === undefined) return [];
      const ipv6 = own.includes(":");
      // For IPv4, an IPv4-mapped address counts as the IPv4 address inside, and IPv6's loopback as IPv4's.
      const ipv4 = !ipv6 ? own : own === "::1" ? "127.0.0.1" : /^::ffff:([0-9.]+)$/.exec(own)?.[1];
      return [
        { name, aliases, address: { [AF_UNSPEC]: own, [AF_INET]: ipv4, [AF_INET6]: ipv6 ? own : undefined } },
      ];
    });
  }

  /** The host of a name, ignoring case: the first line that has it, with the additions of further lines. */
  host(name: string, family: number): Host | undefined {
    const wanted = name.toLowerCase();
    const lines = this.#lines.filter(
      (line) =>
        line.address[family] !== undefined &&
        [line.name, ...line.aliases].some((one) => one.toLowerCase() === wanted),
    );
    const [first, ...further] = lines;
    if (first === undefined) return undefined;
    const added = further.flatMap((line) =>
      line.name === first.name ? line.aliases : [...line.aliases, line.name],
    );
    return [first.name, [...first.aliases, ...added], lines.map((line) => line.address[family] as string)];
  }

  /** The names of an address: those of the first line that has it. */
  reverse(address: string): readonly [hostname: string, aliases: readonly string[]] | undefined {
    const family = address.includes(":") ? AF_INET6 : AF_INET;
    const line = this.#lines.find((one) => one.address[family] === address);
    return line && [line.name, line.aliases];
  }
}

/** An address as inetNtop() writes it; `null` if it is not an address. */
const canonical = (text: string): string | null => {
  const family = text.includes(":") ? AF_INET6 : AF_INET;
  try {
    return inetNtop(family, inetPton(family, text));
  } catch {
    return null;
  }
};

const services = fromFile("/etc/services", Services, builtInServices);
const protocols = fromFile("/etc/protocols", Protocols, builtInProtocols);
const hosts = fromFile("/etc/hosts", Hosts, () => new Hosts(""));

/** The system's own resolver; anything that it does not return is in /etc/hosts, or looked up in the DNS. */
const system: Resolver = {
  hostname: () => lazy.os.hostname(),
  services,
  interfaces: () =>
    Object.fromEntries(
      Object.entries(lazy.os.networkInterfaces()).map(([name, all = []]) => [
        name,
        all.map(({ address }) => address),
      ]),
    ),
  async lookup(name, family, flags) {
    const hints = (flags & AI_V4MAPPED ? lazy.dns.V4MAPPED : 0) | (flags & AI_ALL ? lazy.dns.ALL : 0);
    const addresses = await lookup(name, family, hints);
    // getaddrinfo(3) finds the name, too, and Node does not pass it on.
    if ((flags & AI_CANONNAME) === 0) return { canonname: name, addresses };
    const known = hosts().host(name, family) ?? (hints === 0 ? undefined : hosts().host(name, AF_INET));
    return { canonname: known === undefined ? (await chainOf(name))[0] : known[0], addresses };
  },
  async host(name) {
    const known = hosts().host(name, AF_INET);
    if (known !== undefined) return known;
    const addresses = await lookup(name, AF_INET, 0);
    const [hostname, aliases] = await chainOf(name);
    return [hostname, aliases, addresses];
  },
  async reverse(address) {
    const known = hosts().reverse(address);
    if (known !== undefined) return known;
    try {
      return [(await lazy.dns.promises.lookupService(address, 0)).hostname, []];
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOTFOUND") return null;
      throw systemError(error, address);
    }
  },
};

const lookup = async (name: string, family: number, hints: number): Promise<string[]> => {
  const wanted = family === AF_INET6 ? 6 : family === AF_INET ? 4 : 0;
  try {
    const found = await lazy.dns.promises.lookup(name, {
      all: true,
      family: wanted,
      hints,
      order: "verbatim",
    });
    return found.map(({ address }) => address);
  } catch (error) {
    throw systemError(error, name);
  }
};

const MAX_CHAIN = 16; // CNAME records, one after the other: a loop has no end

/** The name that the CNAME records lead to, and those before it. */
const chainOf = async (name: string): Promise<readonly [hostname: string, aliases: readonly string[]]> => {
  const chain = [name.replace(/\.$/, "")];
  while (chain.length <= MAX_CHAIN) {
    // The name is known by now: if the DNS does not know it (mDNS, NIS), it has no other name.
    const [next] = await lazy.dns.promises.resolveCname(chain[0] as string).catch((): string[] => []);
    if (next === undefined || chain.includes(next)) break;
    chain.unshift(next);
  }
  const [hostname = name, ...aliases] = chain;
  return [hostname, aliases.reverse()];
};

const systemError = (error: unknown, name: string): SocketError =>
  names.nameError(nameFailure(error), name, { cause: error });

// --- Interfaces --------------------------------------------------------------------------------------------

const INTERFACES = "/sys/class/net"; // Linux: sysfs(5)

/** The name of the interface that an IPv6 zone means, which is its name or its number (RFC 4007 section 11.2); `undefined` if there is none. */
const interfaceOf = (zone: string): string | undefined => {
  const isNumber = /^[0-9]+$/.test(zone);
  try {
    if (!/^\.\.?$/.test(zone) && fs.existsSync(`${INTERFACES}/${zone}`)) return zone;
    const names = fs.readdirSync(INTERFACES);
    const indexOf = (name: string): string => fs.readFileSync(`${INTERFACES}/${name}/ifindex`, "latin1");
    return isNumber ? names.find((name) => Number(indexOf(name)) === Number(zone)) : undefined;
  } catch {
    // Not Linux. These are the interfaces that have an address, and a zone can only be one of these.
    const all = Object.entries(lazy.os.networkInterfaces());
    const [name] = all.find(([name]) => name === zone) ?? [];
    const [numbered] = all.find(([, own]) => own?.some(({ scopeid }) => scopeid === Number(zone))) ?? [];
    return name ?? (isNumber ? numbered : undefined);
  }
};

/**
 * `host`, with the zone of an IPv6 address in Node's form; any other host unchanged. Node ignores an invalid zone, and so does the kernel
 * for an address that needs none, and data for one network would go to another. Throws `EADDRNOTAVAIL`.
 */
export const zoned = (host: string, said: string): string => {
  const [address, zone] = host.split("%");
  if (zone === undefined) return host;
  const name = interfaceOf(zone);
  if (name === undefined) {
    const why = `${said}: this machine has no network interface ${zone}`;
    throw new SocketError("EADDRNOTAVAIL", why, { address: said });
  }
  return `${address}%${process.platform === "win32" ? zone : name}`; // Windows has them by number
};
