/**
 * Names of hosts and services, the part that is the same everywhere: names that are addresses, what an empty
 * name means, how the answers of getaddrinfo() are put together, and the errors.
 *
 * The rules are glibc's, since CPython's `socket` module calls it: getaddrinfo(3), getnameinfo(3),
 * gethostbyname(3). A platform adds a `Resolver`, which looks names up.
 */

import { quoted } from "../describe.ts";
import { SocketError } from "../errors.ts";
import { optionNamesOf } from "../options.ts";
import {
  type AddressLike,
  type InternetAddress,
  inetNtop,
  inetPton,
  packAddress,
  parseAddress,
} from "./address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  AI_ADDRCONFIG,
  AI_ALL,
  AI_CANONNAME,
  AI_NUMERICHOST,
  AI_NUMERICSERV,
  AI_PASSIVE,
  AI_V4MAPPED,
  EAI_ADDRFAMILY,
  EAI_AGAIN,
  EAI_BADFLAGS,
  EAI_FAIL,
  EAI_FAMILY,
  EAI_NODATA,
  EAI_NONAME,
  EAI_SERVICE,
  EAI_SOCKTYPE,
  EAI_SYSTEM,
  NI_DGRAM,
  NI_NAMEREQD,
  NI_NOFQDN,
  NI_NUMERICHOST,
  NI_NUMERICSERV,
  SOCK_DGRAM,
  SOCK_RAW,
  SOCK_SEQPACKET,
  SOCK_STREAM,
} from "./constants.ts";
import { checkPort, checkText, type Services } from "./services.ts";

/** A host as gethostbyname(3) describes it: its canonical name, its aliases, and its addresses. */
export type Host = readonly [hostname: string, aliases: readonly string[], addresses: readonly string[]];

/** Options of getaddrinfo(). */
export interface AddressInfoOptions {
  /** `AF_INET` or `AF_INET6`. Default `AF_UNSPEC`: both. */
  readonly family?: number;
  /** `SOCK_STREAM`, `SOCK_DGRAM`, … Default 0: all. */
  readonly type?: number;
  /** `IPPROTO_TCP`, `IPPROTO_UDP`, … Default 0: all. */
  readonly proto?: number;
  /** `AI_PASSIVE`, `AI_CANONNAME`, …, or-ed. Default 0. */
  readonly flags?: number;
}

export const ADDRESS_INFO_NAMES = optionNamesOf<AddressInfoOptions>()({
  family: true,
  type: true,
  proto: true,
  flags: true,
});

/** One answer of getaddrinfo(): what to make a socket of, and where to connect or bind it. */
export interface AddressInfo {
  /** `AF_INET` or `AF_INET6`. */
  readonly family: number;
  /** `SOCK_STREAM`, `SOCK_DGRAM`, … */
  readonly type: number;
  /** `IPPROTO_TCP`, `IPPROTO_UDP`, … */
  readonly proto: number;
  /** The host's canonical name: in the first answer, if `AI_CANONNAME` asked for it. Else `""`. */
  readonly canonname: string;
  readonly address: InternetAddress;
}

/** How a platform looks names up. Its methods reject with an error that `nameError` makes. */
export interface Resolver {
  /** The name of this machine. */
  hostname(): string;
  /** The services known on this machine. */
  services(): Services;
  /** The addresses of each network interface, by its name; `null` if the platform does not provide them. */
  interfaces(): Readonly<Record<string, readonly string[]>> | null;
  /**
   * The addresses of a name, the best first: those of `family`, or of both. `flags` are `AI_V4MAPPED` and
   * `AI_ALL`, and `AI_CANONNAME` if the canonical name is wanted (otherwise it may be anything).
   */
  lookup(
    name: string,
    family: number,
    flags: number,
  ): Promise<{ canonname: string; addresses: readonly string[] }>;
  /** The host of a name, with its IPv4 addresses. */
  host(name: string): Promise<Host>;
  /** The names of the host that has an address; `null` if none is known. */
  reverse(address: string): Promise<readonly [hostname: string, aliases: readonly string[]] | null>;
}

/** Why a name was not resolved: gai_strerror(3). herror(3)'s four reasons are the first four. */
const REASONS = {
  EAI_NONAME: [EAI_NONAME, "no such name is known"],
  EAI_AGAIN: [EAI_AGAIN, "the name server did not answer; try again later"],
  EAI_FAIL: [EAI_FAIL, "the name server failed permanently"],
  EAI_NODATA: [EAI_NODATA, "the name has no address of that family"],
  EAI_ADDRFAMILY: [EAI_ADDRFAMILY, "it is an address of another family"],
  EAI_BADFLAGS: [EAI_BADFLAGS, "the flags are not valid here"],
  EAI_FAMILY: [EAI_FAMILY, "the family is AF_UNSPEC, AF_INET or AF_INET6"],
  EAI_SERVICE: [EAI_SERVICE, "this type of socket does not have that service"],
  EAI_SOCKTYPE: [EAI_SOCKTYPE, "the socket type and the protocol do not belong together"],
  EAI_SYSTEM: [EAI_SYSTEM, "the system failed"],
} as const;

/** A reason why a name was not resolved. */
export type NameFailure = keyof typeof REASONS;

/** `code`, if it is a reason of the table. */
export const isNameFailure = (code: string): code is NameFailure => Object.hasOwn(REASONS, code);

/** glibc's number of a reason, as CPython's `gaierror` has it. */
export const nameErrno = (reason: NameFailure): number => REASONS[reason][0];

/** The error that `name` was not resolved, and why: the reason's number is its `errno`. */
export const nameError = (
  reason: NameFailure,
  name: string,
  { meaning = REASONS[reason][1] as string, cause }: { meaning?: string; cause?: unknown } = {},
): SocketError =>
  new SocketError("ERR_NAME", `${JSON.stringify(name)}: ${meaning} (${reason})`, {
    address: name,
    cause,
    errno: REASONS[reason][0],
  });

// --- Hosts -------------------------------------------------------------------------------------------------

/** The function of this name, over a resolver. */
export const gethostbyname = async (resolver: Resolver, name: string): Promise<string> => {
  const host = hostText(name);
  if (host === "") return "0.0.0.0";
  if (host === BROADCAST) return "255.255.255.255";
  const { addresses } = await addressesOf(resolver, host, AF_INET, 0);
  return addresses[0]!.hostname;
};

/** The function of this name, over a resolver. */
export const gethostbynameEx = async (resolver: Resolver, name: string): Promise<Host> => {
  const host = hostText(name);
  const literal = addressOf(host);
  if (literal === null && host !== "" && host !== BROADCAST) return resolver.host(host);
  // gethostbyname(3) takes addresses of digits and dots; it treats others as names, which no host has.
  if (literal !== null && /^[0-9][0-9.]*$/.test(host)) return [host, [], [inetNtop(AF_INET, literal)]];
  if (literal !== null) ofFamily(literal, host, AF_INET, 0);
  throw nameError("EAI_NONAME", host, { meaning: "it is an address, not the name of a host" });
};

/** The function of this name, over a resolver. */
export const gethostbyaddr = async (resolver: Resolver, name: string): Promise<Host> => {
  const host = hostText(name);
  if (host === "") {
    throw nameError("EAI_NONAME", host, {
      meaning: "an empty name means 0.0.0.0 and ::, which belong to no host",
    });
  }
  const address =
    host === BROADCAST
      ? "255.255.255.255"
      : (await addressesOf(resolver, host, AF_UNSPEC, 0)).addresses[0]!.hostname;
  const names = await resolver.reverse(address);
  if (names === null) throw unknownHost(address);
  return [...names, [address]];
};

/** The function of this name, over a resolver. */
export const getfqdn = async (resolver: Resolver, name: string): Promise<string> => {
  const given = checkText("the name of a host", name).trim();
  const asked = given === "" || given === "0.0.0.0" || given === "::" ? resolver.hostname() : given;
  try {
    const [hostname, aliases] = await gethostbyaddr(resolver, asked);
    return [hostname, ...aliases].find((one) => one.includes(".")) ?? hostname;
  } catch {
    return asked;
  }
};

// --- getaddrinfo() -----------------------------------------------------------------------------------------

/** The kinds of socket, in glibc's order. A raw one has no ports, and any protocol. */
const KINDS = [
  { type: SOCK_STREAM, proto: 6, name: "tcp", usual: true },
  { type: SOCK_DGRAM, proto: 17, name: "udp", usual: true },
  { type: 6, proto: 33, name: "dccp", usual: false }, // SOCK_DCCP, IPPROTO_DCCP
  { type: SOCK_DGRAM, proto: 136, name: "udplite", usual: false },
  { type: SOCK_STREAM, proto: 132, name: "sctp", usual: false },
  { type: SOCK_SEQPACKET, proto: 132, name: "sctp", usual: false },
  { type: SOCK_RAW, proto: 0, name: "raw", usual: true },
] as const;

const FLAGS =
  AI_PASSIVE | AI_CANONNAME | AI_NUMERICHOST | AI_V4MAPPED | AI_ALL | AI_ADDRCONFIG | AI_NUMERICSERV;

/** The function of this name, over a resolver. */
export const getaddrinfo = async (
  resolver: Resolver,
  host: string | null,
  port: string | number | null,
  options: AddressInfoOptions = {},
): Promise<AddressInfo[]> => {
  const name = host === null || host === "*" ? null : hostText(host); // for glibc "*" is no host; the same holds for a port
  const service = port === "*" ? null : serviceOf(port);
  const type = integer("type", options.type);
  const proto = integer("proto", options.proto);
  const flags = integer("flags", options.flags);
  const family = integer("family", options.family);
  const said = name ?? "";

  // In glibc's order, so that if two faults exist the same one is reported.
  if (name === null && service === null) {
    throw nameError("EAI_NONAME", said, { meaning: "neither a host nor a port was given" });
  }
  if ((flags & ~FLAGS) !== 0) throw nameError("EAI_BADFLAGS", said);
  if (name === null && (flags & AI_CANONNAME) !== 0) {
    throw nameError("EAI_BADFLAGS", said, { meaning: "AI_CANONNAME needs a host, and none was given" });
  }
  if (family !== AF_UNSPEC && family !== AF_INET && family !== AF_INET6) throw nameError("EAI_FAMILY", said);
  const wanted = (flags & AI_ADDRCONFIG) === 0 ? family : configuredFamily(resolver, family, said);
  if ((flags & AI_NUMERICSERV) !== 0 && typeof service === "string" && service !== "") {
    throw nameError("EAI_NONAME", service, { meaning: "AI_NUMERICSERV needs a port's number" });
  }
  const places = placesOf(resolver, type, proto, service);
  const { canonname, addresses } =
    name === null ? ownAddresses(resolver, wanted, flags) : await addressesOf(resolver, name, wanted, flags);
  const answers = addresses.flatMap((address) =>
    places.map((place) => ({
      family: address.family === "IPv4" ? AF_INET : AF_INET6,
      type: place.type,
      proto: place.proto,
      canonname: "",
      address: { ...address, port: place.port },
    })),
  );
  if ((flags & AI_CANONNAME) !== 0) answers[0]!.canonname = canonname;
  return answers;
};

/** A port's number, or the name of a service (`""` is none); `null` if there is no port. */
const serviceOf = (port: string | number | null): string | number | null => {
  if (port === null) return null;
  if (typeof port === "number") return checkPort(port);
  // strtoul(3): white space and a sign may come first. A number below 0 is not a port, but the name of a service.
  const digits = /^[ \t\n\v\f\r]*([+-]?[0-9]+)$/.exec(
    checkText("a port that is neither a number nor null", port),
  );
  const number = Number(digits?.[1] ?? -1);
  return number < 0 ? port : checkPort(number);
};

interface Place {
  readonly type: number;
  readonly proto: number;
  readonly port: number;
}

/** The requested kinds of socket, each with the port that the service has there. */
const placesOf = (
  resolver: Resolver,
  type: number,
  proto: number,
  service: string | number | null,
): readonly Place[] => {
  const said = String(service ?? "");
  const any = type === 0 && proto === 0;
  const fitting = KINDS.filter(
    (kind) =>
      (type === 0 || type === kind.type) && (proto === 0 || proto === kind.proto || kind.name === "raw"),
  );
  const [first] = fitting;
  if (first === undefined) throw nameError(type === 0 ? "EAI_SERVICE" : "EAI_SOCKTYPE", said);
  // If something is requested, the first match is meant.
  const kinds = any ? fitting : [first];
  const protoOf = (kind: Kind): number => (kind.name === "raw" ? proto : kind.proto);
  if (service !== null && service !== "" && first.name === "raw") throw nameError("EAI_SERVICE", said);
  if (typeof service !== "string" || service === "") {
    return kinds
      .filter((kind) => !any || kind.usual)
      .map((kind) => ({ type: kind.type, proto: protoOf(kind), port: Number(service ?? 0) }));
  }
  const services = resolver.services();
  const places = kinds.flatMap((kind) => {
    const port = kind.name === "raw" ? undefined : services.port(service, kind.name);
    return port === undefined ? [] : [{ type: kind.type, proto: kind.proto, port }];
  });
  if (places.length === 0) throw nameError("EAI_SERVICE", said);
  return places;
};

type Kind = (typeof KINDS)[number];

/** An address without its port. */
type Found = Omit<InternetAddress, "port">;

interface Addresses {
  readonly canonname: string;
  readonly addresses: readonly Found[];
}

/**
 * What a missing host means: every address of this machine to listen at, or its loopback to connect to. glibc's
 * sorting (RFC 3484) puts 0.0.0.0 before ::, and ::1 before 127.0.0.1 if there is one.
 */
const ownAddresses = (resolver: Resolver, family: number, flags: number): Addresses => {
  const passive = (flags & AI_PASSIVE) !== 0;
  const ipv4: Found = { family: "IPv4", hostname: passive ? "0.0.0.0" : "127.0.0.1" };
  const ipv6: Found = { family: "IPv6", hostname: passive ? "::" : "::1" };
  const all = allOwn(resolver);
  const first = passive || (all !== null && !all.includes("::1")) ? ipv4 : ipv6;
  const both = first === ipv4 ? [ipv4, ipv6] : [ipv6, ipv4];
  const wanted = family === AF_INET ? [ipv4] : family === AF_INET6 ? [ipv6] : both;
  return { canonname: "", addresses: wanted };
};

const allOwn = (resolver: Resolver): string[] | null => {
  const interfaces = resolver.interfaces();
  return interfaces && Object.values(interfaces).flat();
};

/** AI_ADDRCONFIG: only families in which this machine has an address other than the loopback. */
const configuredFamily = (resolver: Resolver, family: number, said: string): number => {
  const all = allOwn(resolver);
  if (all === null) return family;
  const has4 = all.some((address) => !address.includes(":") && address !== "127.0.0.1");
  const has6 = all.some((address) => address.includes(":") && address !== "::1");
  if (family === AF_UNSPEC) return has4 === has6 ? family : has4 ? AF_INET : AF_INET6;
  if (family === AF_INET ? has4 : has6) return family;
  throw nameError("EAI_NONAME", said, { meaning: "this machine has no address of that family" });
};

/** The addresses that a host's text means, without their port; at least one. */
const addressesOf = async (
  resolver: Resolver,
  host: string,
  family: number,
  flags: number,
): Promise<Addresses> => {
  const literal = addressOf(host);
  if (literal !== null) {
    return { canonname: host, addresses: [scoped(resolver, host, ofFamily(literal, host, family, flags))] };
  }
  if ((flags & AI_NUMERICHOST) !== 0 || host === "" || host === "*") throw nameError("EAI_NONAME", host);
  const { canonname, addresses } = await resolver.lookup(host, family, flags);
  return {
    canonname,
    addresses: addresses.map((hostname) => ({ family: hostname.includes(":") ? "IPv6" : "IPv4", hostname })),
  };
};

// --- getnameinfo() -----------------------------------------------------------------------------------------

const NAME_FLAGS = NI_NUMERICHOST | NI_NUMERICSERV | NI_NOFQDN | NI_NAMEREQD | NI_DGRAM;

/** The function of this name, over a resolver. */
export const getnameinfo = async (
  resolver: Resolver,
  address: AddressLike,
  flags: number,
): Promise<[host: string, service: string]> => {
  const endpoint = parseAddress(address);
  if (endpoint.scheme === "unix") throw new TypeError("getnameinfo() takes a host and port, not a path");
  const { addresses } = await addressesOf(resolver, hostText(endpoint.hostname), AF_UNSPEC, AI_NUMERICHOST);
  const { hostname, scopeId } = addresses[0]!;
  if ((integer("flags", flags) & ~NAME_FLAGS) !== 0) throw nameError("EAI_BADFLAGS", hostname);
  const host = await nameOf(resolver, hostname, scopeId, flags);
  const service =
    (flags & NI_NUMERICSERV) === 0
      ? resolver.services().name(endpoint.port, (flags & NI_DGRAM) === 0 ? "tcp" : "udp")
      : undefined;
  return [host, service ?? String(endpoint.port)];
};

const nameOf = async (
  resolver: Resolver,
  address: string,
  scopeId: string | undefined,
  flags: number,
): Promise<string> => {
  const names = (flags & NI_NUMERICHOST) === 0 ? await resolver.reverse(address) : null;
  if (names === null) {
    if ((flags & NI_NAMEREQD) !== 0) throw unknownHost(address);
    return scopeId === undefined ? address : `${address}%${scopeId}`;
  }
  const domain = (flags & NI_NOFQDN) === 0 ? undefined : await ownDomain(resolver);
  const [name] = names;
  return domain !== undefined && name.endsWith(`.${domain}`) ? name.slice(0, -domain.length - 1) : name;
};

const unknownHost = (address: string): SocketError =>
  nameError("EAI_NONAME", address, { meaning: "no host is known to have that address" });

/** The domain of this machine, as getnameinfo(3) finds it: what follows the first dot in one of its own names. */
const ownDomain = async (resolver: Resolver): Promise<string | undefined> => {
  const own = resolver.hostname();
  const names = [
    () => resolver.host("localhost"),
    () => [own] as const,
    () => resolver.host(own),
    () => resolver.reverse("127.0.0.1"),
  ];
  for (const ask of names) {
    const [, domain] = /^[^.]*\.(.*)$/s.exec(await firstOf(ask)) ?? [];
    if (domain !== undefined) return domain;
  }
  return undefined;
};

type Names = readonly [string, ...unknown[]] | null;

/** The first name of an answer, `""` if there is none. */
const firstOf = async (ask: () => Names | Promise<Names>): Promise<string> => {
  try {
    return (await ask())?.[0] ?? "";
  } catch {
    return ""; // an unknown name has no domain
  }
};

// --- Texts and addresses -----------------------------------------------------------------------------------

const BROADCAST = "<broadcast>";

// What ends a host in a URL: it would be read as something else there.
const NOT_IN_HOST = /[\s\p{Cc}/?#@[\]\\%:]/u;

/**
 * A host's text in ASCII (IDNA: `"bücher.example"` is `"xn--bcher-kva.example"`). Addresses written in
 * other digits become addresses here, before anything looks at them.
 *
 * Throws TypeError if it is not a string or has a NUL in it, RangeError if it cannot be a host: a label that
 * is empty or has more than 63 bytes (RFC 1035, 2.3.4), or characters that no name has. These are CPython's errors;
 * a name that is too long as a whole is `ERR_NAME` in both.
 */
const hostText = (name: string): string => {
  if (checkText("a host", name).includes("\0")) throw new TypeError("a host may not contain NUL");
  const ascii = /^\p{ASCII}*$/u.test(name) ? name : toAscii(name);
  const labels = ascii.split(".");
  if (labels.some((label, i) => label.length > 63 || (label === "" && i < labels.length - 1))) {
    throw new RangeError(`${quoted(name)} has a label that is empty or longer than 63 bytes`);
  }
  // 255 bytes with their lengths: 253 with dots between, and one at the end (RFC 1035, 2.3.4).
  if (ascii.length > 254) throw nameError("EAI_NONAME", name, { meaning: "a name has at most 253 bytes" });
  return ascii;
};

const toAscii = (name: string): string => {
  try {
    if (!NOT_IN_HOST.test(name)) return new URL(`http://${name}`).hostname;
  } catch {
    // Reported below.
  }
  throw new RangeError(`${quoted(name)} has characters that the name of a host cannot have`);
};

/** The 4 or 16 bytes of a host's text if it is an address in one of the forms of getaddrinfo(3); else `null`. */
const addressOf = (host: string): Uint8Array | null => {
  if (host.includes(":")) {
    const text = host.replace(SCOPE, "");
    // Not packAddress(), which treats an IPv4-mapped address as the one inside.
    return packAddress(text) === null ? null : inetPton(AF_INET6, text);
  }
  // inet_aton(3) ignores white space and what follows it; getaddrinfo(3) does not.
  return /[ \t\n\v\f\r]/.test(host) ? null : packAddress(host);
};

const SCOPE = /%.*$/s;

/** The address, if it is of `family` or can be written as one. */
const ofFamily = (packed: Uint8Array, host: string, family: number, flags: number): Uint8Array => {
  const own = packed.length === 4 ? AF_INET : AF_INET6;
  if (family === AF_UNSPEC || family === own) return packed;
  if (own === AF_INET && (flags & AI_V4MAPPED) !== 0) return Uint8Array.of(...MAPPED, ...packed);
  if (own === AF_INET6 && MAPPED.every((byte, i) => packed[i] === byte)) return packed.slice(MAPPED.length);
  throw nameError("EAI_ADDRFAMILY", host);
};

const MAPPED = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]; // ::ffff:0:0/96 (RFC 4291, 2.5.5.2)

/** A literal's bytes as text again, with the scope that its text had: an interface, or its number. */
const scoped = (resolver: Resolver, host: string, packed: Uint8Array): Found => {
  if (packed.length === 4) return { family: "IPv4", hostname: inetNtop(AF_INET, packed) };
  const found: Found = { family: "IPv6", hostname: inetNtop(AF_INET6, packed) };
  const scopeId = SCOPE.exec(host)?.[0].slice(1);
  if (scopeId === undefined) return found;
  const [high, low] = packed as unknown as [number, number];
  // Only link-local addresses have an interface: fe80::/10 and ff02::/16 (RFC 4291).
  const local = (high === 0xfe && (low & 0xc0) === 0x80) || (high === 0xff && (low & 0x0f) === 2);
  const index = /^[0-9]+$/.test(scopeId) ? Number(scopeId) : Number.POSITIVE_INFINITY;
  if (local && Object.hasOwn(resolver.interfaces() ?? {}, scopeId)) return { ...found, scopeId };
  if (index > 0xffff_ffff) throw nameError("EAI_NONAME", host, { meaning: "there is no such interface" });
  return index === 0 ? found : { ...found, scopeId };
};

const integer = (name: string, value = 0): number => {
  if (Number.isInteger(value)) return value;
  throw new TypeError(`${name} is an integer, not ${String(value)}`);
};
