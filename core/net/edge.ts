/**
 * The rules of Cloudflare's edge that affect an app only once it is deployed: one table, with the page that documents each,
 * and its date. `edge` enforces them in the emulator; `socklet doctor` and docs/edge.md read them here.
 */

import { checkOptions, type OptionNames, optionNamesOf } from "../options.ts";
import { isLocalhost, isPublic } from "./access.ts";
import { type Endpoint, inNetwork, type Network, packAddress } from "./address.ts";

/** A rule, by its name. */
export type EdgeRuleName =
  | "connections"
  | "port-25"
  | "private-address"
  | "cloudflare-address"
  | "paths"
  | "udp"
  | "other-request"
  | "fifteen-minutes"
  | "message-size"
  | "listen";

/** One rule of the edge. */
export interface EdgeRule {
  /** What the edge does. */
  readonly says: string;
  /** The page that documents it; for a rule that was only observed, the source of the observation. */
  readonly page: string;
  /** When the page was changed last, or was read. */
  readonly date: string;
  /** `documented`: the page says so. `seen`: it was measured, or reported by others. */
  readonly known: "documented" | "seen";
  /** What the emulator does if the rule is enforced. */
  readonly here: string;
  /** Whether local workerd does the same by itself. */
  readonly workerd: boolean;
}

const DOCS = "https://developers.cloudflare.com/";
const TCP = `${DOCS}workers/runtime-apis/tcp-sockets/`;

/** The most connections that one request may have open. */
export const EDGE_CONNECTIONS = 6;

/** How long a connection keeps its Durable Object, in milliseconds. */
export const EDGE_KEEPS = 15 * 60_000;

/** Every rule that can be enforced, by name. */
export const EDGE_RULES: Readonly<Record<EdgeRuleName, EdgeRule>> = {
  connections: {
    says: `a request has ${EDGE_CONNECTIONS} connections at once; a further one waits, without an error, until one of them is over`,
    page: `${DOCS}workers/platform/limits/#simultaneous-open-connections`,
    date: "2026-04-09",
    known: "documented",
    here: "a seventh dial waits until one of the six is over, or its `connectTimeout` is up",
    workerd: false,
  },
  "port-25": {
    says: "connections to port 25 are prohibited; submit mail on port 465 or 587",
    page: TCP,
    date: "2026-06",
    known: "documented",
    here: "the dial rejects with `ERR_CONNECT_FAILED`, as in a Worker",
    workerd: false,
  },
  "private-address": {
    says: "only public addresses are dialled: no private, loopback or link-local one, also where a name leads there",
    page: TCP,
    date: "2026-06",
    known: "documented",
    here: "the dial rejects with `ERR_CONNECT_FAILED`; of a name, where one of its addresses is such",
    workerd: false,
  },
  "cloudflare-address": {
    says: "Cloudflare's own addresses are not dialled, so no site behind Cloudflare; for HTTP there is fetch()",
    page: "https://www.cloudflare.com/ips/",
    date: "2026-06",
    known: "documented",
    here: "as `private-address`, for the networks that the page lists",
    workerd: false,
  },
  paths: {
    says: "a Worker has no file system: it neither dials nor listens on a path",
    page: TCP,
    date: "2026-06",
    known: "documented",
    here: "a dial rejects with `ERR_UNSUPPORTED`; a listener on a path is not opened",
    workerd: true,
  },
  udp: {
    says: "a Worker sends no datagrams: connect() is TCP alone, and node:dgram sends nothing, without an error",
    page: `${DOCS}workers/runtime-apis/nodejs/`,
    date: "2026-11",
    known: "seen",
    here: "`socket()` of datagrams and `createDatagramConnection()` fail with `ERR_UNSUPPORTED` in a request",
    workerd: true,
  },
  "other-request": {
    says: "a connection is of the request that made it, and of no other; what requests share belongs in a pool",
    page: TCP,
    date: "2026-06",
    known: "documented",
    here: "reads and writes of another request fail with `ERR_UNSUPPORTED`; pools are exempt",
    workerd: true,
  },
  "fifteen-minutes": {
    says: "a connection keeps its Durable Object for 15 minutes; then the object may be evicted, and its connections with it",
    page: `${DOCS}changelog/post/2026-06-19-outbound-connections-keep-dos-alive/`,
    date: "2026-06-19",
    known: "documented",
    here: "the connection of a session breaks with `ECONNABORTED` 15 minutes after it was opened",
    workerd: false,
  },
  "message-size": {
    says: "a message between a Worker and an object, such as a call of a pool or its reply, is 32 MiB at most, and data alone",
    page: `${DOCS}workers/runtime-apis/rpc/#limitations`,
    date: "2026-06",
    known: "documented",
    here: "a call or a reply of a pool that is larger rejects with `ERR_LIMIT`, one that is no data with `ERR_UNSUPPORTED`",
    workerd: true,
  },
  listen: {
    says: "nobody on the Internet reaches a Worker's listeners: TCP comes by service bindings and Durable Objects alone, TLS ends before it, UDP does not come, and no request forks",
    page: `${DOCS}workers/platform/protocols/`,
    date: "2026-08-18",
    known: "documented",
    here: "UDP and TLS listeners are not opened; those that fork serve side by side",
    workerd: false,
  },
};

const NAMES = Object.keys(EDGE_RULES) as readonly EdgeRuleName[];

/** Options for enforcing the edge's rules. */
export interface EdgeOptions {
  /** Rules that do not apply: `["private-address"]` if the servers that it dials are on this machine. Default: none. */
  readonly except?: readonly EdgeRuleName[];
}

export const EDGE_NAMES: OptionNames = optionNamesOf<EdgeOptions>("edge")({ except: "strings" });

/** The rules that do not apply. Throws `TypeError` if a name is not a rule. */
export const edgeExceptions = (options: EdgeOptions): ReadonlySet<EdgeRuleName> => {
  checkOptions("edge", options, EDGE_NAMES);
  const { except = [] } = options;
  if (!Array.isArray(except)) throw new TypeError("edge.except is a list of rules");
  for (const name of except) {
    if (!Object.hasOwn(EDGE_RULES, name))
      throw new TypeError(`edge.except: there is no rule "${name}"; there are ${NAMES.join(", ")}`);
  }
  return new Set(except);
};

// https://www.cloudflare.com/ips/
const CLOUDFLARE = `
  173.245.48.0/20 103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 141.101.64.0/18 108.162.192.0/18 190.93.240.0/20
  188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15 104.16.0.0/13 104.24.0.0/14 172.64.0.0/13
  131.0.72.0/22
  2400:cb00::/32 2606:4700::/32 2803:f800::/32 2405:b500::/32 2405:8100::/32 2a06:98c0::/29 2c0f:f248::/32`;

let cloudflare: readonly Network[] | undefined; // parsed on first use

const isCloudflare = (packed: Uint8Array): boolean => {
  cloudflare ??= CLOUDFLARE.trim()
    .split(/\s+/)
    .map((text) => {
      const [address = "", prefix] = text.split("/");
      return { address: packAddress(address) as Uint8Array, prefix: Number(prefix) };
    });
  return cloudflare.some((network) => inNetwork(packed, network));
};

/** The rule that makes the edge refuse to dial such an address; `null` if it dials it, and for a name, whose addresses are not known here. */
export const edgeRuleOfHost = (hostname: string): "private-address" | "cloudflare-address" | null => {
  const packed = packAddress(hostname);
  if (packed === null) return isLocalhost(hostname.toLowerCase()) ? "private-address" : null;
  if (!isPublic(packed)) return "private-address";
  return isCloudflare(packed) ? "cloudflare-address" : null;
};

/** The rules that make the edge refuse to dial this endpoint. */
export const edgeRulesOf = (endpoint: Endpoint): readonly EdgeRuleName[] => {
  if (endpoint.scheme === "unix") return ["paths"];
  const host = edgeRuleOfHost(endpoint.hostname);
  return [
    ...(endpoint.scheme === "udp" ? (["udp"] as const) : []),
    ...(endpoint.port === 25 ? (["port-25"] as const) : []),
    ...(host === null ? [] : [host]),
  ];
};

/** The text that a rule applies to `what`: the rule, its page and its date in one sentence. */
export const edgeText = (what: string, name: EdgeRuleName): string => {
  const { says, page, date, known } = EDGE_RULES[name];
  return `${what}: on Cloudflare's edge ${says} (rule ${name}, ${known}: ${page}, ${date})`;
};
