/**
 * The app: its handlers, where they listen, and what they may dial. A module that imports only `socklet`
 * exports one as `app`; the emulator serves it, the Worker deploys it, a test runs it in memory.
 */

import type { MaybePromise } from "../bytes/data.ts";
import type { Decoder } from "../decode/decoder.ts";
import { SocketError } from "../errors.ts";
import type { ClientHandlerClass, PoolClient } from "../handlers/client.ts";
import { checkClient } from "../handlers/client-check.ts";
import type { FaultRule } from "../handlers/fault-rule.ts";
import { checkHandler, DatagramRequestHandler, type HandlerClass, unfitFor } from "../handlers/handler.ts";
import { KEEP_NAMES, type Keep, type KeepOptions, settleKeep } from "../handlers/keep.ts";
import { AllowList } from "../net/access.ts";
import { type AddressLike, type Endpoint, formatAddress, parseAddress } from "../net/address.ts";
import { checkWord, optionNamesOf, POOL_NAMES, type PoolOptions, settlePool } from "../options.ts";
import type { Datagram } from "../sockets/datagram.ts";
import { checkHeader, dialable, secureTransportOf } from "../sockets/dialling/connect.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import {
  alpnHandlers,
  checkTls,
  SECURE_TRANSPORTS,
  type SecureTransport,
  TLS_NAMES,
  type TlsOptions,
} from "../sockets/tls/tls.ts";
import type { BlobStorage } from "../storage.ts";
import { checkNames, soundly, wrong } from "./app-error.ts";
import { checkListener, type ListenerOptions, SERVINGS, type Serving } from "./listener-options.ts";

/** A handler of connections or of datagrams. */
export type AnyHandlerClass<Context = unknown> =
  | HandlerClass<StreamSocket, Context>
  | HandlerClass<Datagram, Context>;

/** What an app gets from the platform that it runs on. */
export interface Platform {
  readonly name: "node" | "workerd" | "memory";
  /** A Worker's bindings and secrets; in Node the environment variables. */
  readonly bindings: Readonly<Record<string, unknown>>;
  /** Where bytes can be kept: files in Node, a Durable Object in the Worker. */
  readonly storage: BlobStorage;
  /**
   * The entry `name` of the app's `pools`, whose handler is `Handler`. It can be used once `context()` has returned.
   * Throws `ERR_APP` if there is no such entry, or if its handler is another class.
   */
  // biome-ignore lint/suspicious/noExplicitAny: the handler's context is the app's, which is being made
  pool<Call, Reply>(name: string, Handler: ClientHandlerClass<Call, Reply, any>): PoolClient<Call, Reply>;
}

/** One place where an app listens. */
export interface ListenEntry {
  /** A name from `handlers`. */
  readonly handler: string;
  /** `tcp://host:port`, `tls://host:port`, `udp://host:port`, or a path, `unix:/run/name`, which a Worker does not have; without a scheme, TCP. */
  readonly address: AddressLike;
  /** What a path carries. Default: `"datagrams"` if the handler extends `DatagramRequestHandler`, otherwise `"streams"`. */
  readonly carries?: "streams" | "datagrams";
  /** Default `threading`. */
  readonly serve?: Serving;
  /** Limits and rules; options that are not given have the server's defaults. */
  readonly options?: ListenerOptions;
  /** Faults of its connections, or its datagrams, in the emulator; a Worker ignores them. Not for a forking listener. */
  readonly faults?: readonly FaultRule[];
  /** Decodes what its connections, or its datagrams, carry into messages, for the inspector: `decodeResp`. */
  readonly decode?: Decoder;
  /** A command line to try it with; `{host}` and `{port}`, or `{path}`, are filled in. */
  readonly try?: string;
}

const LISTEN_ENTRY_NAMES = optionNamesOf<ListenEntry>("an entry of listen")({
  handler: "string",
  address: true,
  carries: true,
  serve: true,
  options: true, // which of them depends on the others
  faults: "list", // checked by what does them
  decode: "function",
  try: "string",
});

/** One server that an app's handler dials. */
export interface DialEntry {
  /** A name from `handlers`. */
  readonly handler: string;
  readonly address: AddressLike;
  /** Default `on` for `tls://host:port` and if `tls` is given, else `off`. */
  readonly secureTransport?: SecureTransport;
  /** Which authorities to trust, and the client's own certificate. */
  readonly tls?: TlsOptions;
  /** Sent first, before TLS: a header of the PROXY protocol, as `proxyHeader()` makes it. */
  readonly proxyHeader?: Uint8Array;
  /** Faults of its connections, in the emulator; a Worker ignores them. */
  readonly faults?: readonly FaultRule[];
  /** Decodes what its connections carry into messages, as for an entry of `listen`. */
  readonly decode?: Decoder;
  /** Makes its sessions lasting: they are dialled again, and continue where they were. Default: a session is one connection. */
  readonly keep?: KeepOptions;
}

const DIAL_ENTRY_NAMES = optionNamesOf<DialEntry>("an entry of dial")({
  handler: "string",
  address: true,
  secureTransport: true,
  tls: TLS_NAMES,
  proxyHeader: true,
  faults: "list", // as for an entry of `listen`
  decode: "function",
  keep: KEEP_NAMES,
});

type AnyHandlers<Context> = Readonly<Record<string, AnyHandlerClass<Context>>>;

/** One server to which an app's handlers share connections: a pool. It has the limits of `PoolOptions`. */
export interface PoolEntry extends PoolOptions {
  /** A name from `handlers`, of a class that extends `ClientHandler`. */
  readonly handler: string;
  readonly address: AddressLike;
  /** As in an entry of `dial`. */
  readonly secureTransport?: SecureTransport;
  /** Which authorities to trust and which name to expect, if `secureTransport` is not `off`. */
  readonly tls?: TlsOptions;
  /** Sent first on each connection, before TLS: a header of the PROXY protocol, as `proxyHeader()` makes it. */
  readonly proxyHeader?: Uint8Array;
}

const POOL_ENTRY_NAMES = optionNamesOf<PoolEntry>("an entry of pools")({
  ...POOL_NAMES,
  handler: "string",
  address: true,
  secureTransport: true,
  tls: TLS_NAMES,
  proxyHeader: true,
});

/** The options of `defineApp`. */
export interface AppDefinition<Context, Handlers extends AnyHandlers<Context> = AnyHandlers<Context>> {
  /** The handler classes, by name. */
  readonly handlers: Handlers & AnyHandlers<Context>;
  readonly listen?: readonly ListenEntry[];
  /** Servers to dial, by name. */
  readonly dial?: Readonly<Record<string, DialEntry>>;
  /** Servers to which connections are kept, by name; `context()` gets them with `pool()`. In Node each process has its own, in a Worker Durable Objects have them (`poolsFor`). */
  readonly pools?: Readonly<Record<string, PoolEntry>>;
  /** What may be dialled from outside (`"10.0.0.0/8:6379"`, `"*.example.com:25"`; see `parseAllowRule`). Default: nothing but `dial`. */
  readonly allow?: readonly string[];
  /** Makes what handlers get as `this.context`; called once on each platform. */
  readonly context?: (platform: Platform) => MaybePromise<Context>;
}

const APP_NAMES = optionNamesOf<AppDefinition<unknown>>("an app")({
  handlers: "entries",
  listen: "list",
  dial: "entries",
  pools: "entries",
  allow: "strings",
  context: "function",
});

/** One listener of an app, checked. */
export interface Listener<Context = unknown> {
  readonly name: string;
  readonly handler: AnyHandlerClass<Context>;
  readonly endpoint:
    | (Endpoint & { readonly scheme: "tcp" | "tls" | "udp" })
    | (Endpoint & { readonly scheme: "unix" });
  readonly carries: "streams" | "datagrams";
  readonly serve: Serving;
  readonly options: ListenerOptions;
  readonly faults: readonly FaultRule[];
  readonly decode: Decoder | undefined;
  readonly try: string | undefined;
}

/** One pool of an app, checked. */
export interface AppPool {
  /** The handler's name, and its class. */
  readonly handler: string;
  readonly Handler: ClientHandlerClass<unknown, unknown>;
  readonly endpoint: Endpoint;
  readonly secureTransport: SecureTransport;
  readonly tls: TlsOptions | undefined;
  readonly proxyHeader: Uint8Array | undefined;
  readonly limits: Required<PoolOptions>;
}

/** An app, checked and frozen. */
export interface App<Context = unknown, Handlers extends AnyHandlers<Context> = AnyHandlers<Context>> {
  readonly handlers: Handlers;
  readonly listeners: readonly Listener<Context>[];
  readonly dial: Readonly<
    Record<
      string,
      {
        readonly handler: string;
        readonly endpoint: Endpoint;
        readonly secureTransport: SecureTransport;
        readonly tls?: TlsOptions | undefined;
        readonly proxyHeader?: Uint8Array | undefined;
        readonly keep: Keep | null;
        readonly faults: readonly FaultRule[];
        readonly decode: Decoder | undefined;
      }
    >
  >;
  readonly pools: Readonly<Record<string, AppPool>>;
  readonly allow: readonly string[];
  readonly context: (platform: Platform) => MaybePromise<Context>;
}

const APP = Symbol.for("socklet.app"); // shared, so that an app of another copy of the package is known as one

/** Whether `value` was made by `defineApp`. */
export const isApp = (value: unknown): value is App =>
  typeof value === "object" && value !== null && APP in value;

const names = (handlers: object): string => Object.keys(handlers).join(", ") || "none";

const endpointOf = (address: AddressLike, where: string, parse = parseAddress): Endpoint =>
  soundly(`${where}.address`, () => parse(address));

/** What the emulator does with an entry's connections: it makes faults, and shows them decoded. */
const emulated = (
  { faults = [], decode, serve }: Partial<ListenEntry & DialEntry>,
  where: string,
): { readonly faults: readonly FaultRule[]; readonly decode: Decoder | undefined } => {
  if (faults.length > 0 && serve === "forking")
    throw wrong(`${where}.faults: a forking listener has none, because its children hold its connections`);
  return { faults, decode };
};

const keepOf = (options: KeepOptions, where: string): Keep => {
  try {
    return settleKeep(options);
  } catch (error) {
    throw wrong(`${where}.${(error as Error).message}`, error);
  }
};

/**
 * Checks an app and returns it, frozen. Throws `ERR_APP`, which names the entry and what would be right.
 *
 *     export const app = defineApp({
 *       handlers: { echo: Echo },
 *       listen: [{ handler: "echo", address: "tcp://127.0.0.1:7007" }],
 *     });
 */
export const defineApp = <Context = unknown, Handlers extends AnyHandlers<Context> = AnyHandlers<Context>>(
  definition: AppDefinition<Context, Handlers>,
): App<Context, Handlers> => {
  checkNames("defineApp()", definition, APP_NAMES);
  const { handlers } = definition;
  if (handlers === undefined) {
    throw wrong("handlers must be an object of handler classes by name: { echo: Echo }");
  }
  for (const [name, handler] of Object.entries(handlers)) {
    soundly(`handlers.${name}`, () => checkHandler(handler));
  }
  const handlerOf = (name: string, where: string): AnyHandlerClass<Context> => {
    const handler = Object.hasOwn(handlers, name) ? handlers[name] : undefined;
    if (handler === undefined)
      throw wrong(`${where}.handler is "${name}"; the app declares: ${names(handlers)}`);
    return handler;
  };
  const listeners = (definition.listen ?? []).map((entry, i): Listener<Context> => {
    const where = `listen[${i}]`;
    checkNames(where, entry, LISTEN_ENTRY_NAMES);
    const handler = handlerOf(entry.handler, where);
    const endpoint = endpointOf(entry.address, where);
    const scheme = endpoint.scheme ?? "tcp";
    const likely = handler.prototype instanceof DatagramRequestHandler ? "datagrams" : "streams";
    const carries =
      scheme === "udp" ? "datagrams" : scheme === "unix" ? (entry.carries ?? likely) : "streams";
    if (carries !== "streams" && carries !== "datagrams") {
      throw wrong(`${where}.carries is "${carries}"; it may be "streams" or "datagrams"`);
    }
    if (entry.carries !== undefined && entry.carries !== carries) {
      throw wrong(`${where}.carries is "${entry.carries}"; ${scheme}:// carries ${carries}`);
    }
    const unfit = unfitFor(handler, carries);
    if (unfit !== null) {
      const served = scheme === "unix" ? `${carries} on a path` : `${scheme}://`;
      throw wrong(`${where}: ${entry.handler} extends ${unfit}, which cannot serve ${served}`);
    }
    const serve = entry.serve ?? "threading";
    if (!SERVINGS.includes(serve)) {
      throw wrong(`${where}.serve is "${serve}"; it may be "serial", "threading" or "forking"`);
    }
    const options = checkListener(entry.options ?? {}, `${where}.options`, scheme, carries, serve);
    for (const [protocol, name] of alpnHandlers(options.tls)) {
      const spoken = `${where}.options.tls.alpn["${protocol}"]`;
      const unfit = unfitFor(handlerOf(name, spoken), "streams");
      if (unfit !== null) throw wrong(`${spoken}: ${name} extends ${unfit}, which cannot serve streams`);
    }
    return {
      name: entry.handler,
      handler,
      endpoint: { ...endpoint, scheme } as Listener["endpoint"],
      carries,
      serve,
      options,
      ...emulated(entry, where),
      try: entry.try,
    };
  });
  const seen = new Map<string, number>();
  for (const [i, { endpoint }] of listeners.entries()) {
    // TLS or not, it is one port.
    const address = formatAddress(endpoint.scheme === "tls" ? { ...endpoint, scheme: "tcp" } : endpoint);
    const before = seen.get(address);
    if (before !== undefined && (endpoint.scheme === "unix" || endpoint.port !== 0)) {
      throw wrong(`listen[${i}] and listen[${before}] both listen on ${address}`);
    }
    seen.set(address, i);
  }
  const dial = Object.entries(definition.dial ?? {}).map(([name, entry]) => {
    checkNames(`dial.${name}`, entry, DIAL_ENTRY_NAMES);
    handlerOf(entry.handler, `dial.${name}`);
    const { handler, tls, proxyHeader } = entry;
    const keep = entry.keep === undefined ? null : keepOf(entry.keep, `dial.${name}.keep`);
    if (entry.secureTransport !== undefined && !SECURE_TRANSPORTS.includes(entry.secureTransport)) {
      throw wrong(
        `dial.${name}.secureTransport is "${entry.secureTransport}"; it may be "off", "on" or "starttls"`,
      );
    }
    const endpoint = endpointOf(entry.address, `dial.${name}`, dialable);
    const secureTransport = soundly(`dial.${name}`, () => {
      if (tls !== undefined) checkTls(tls);
      if (proxyHeader !== undefined) checkHeader(proxyHeader);
      return secureTransportOf(endpoint, entry);
    });
    const shown = emulated(entry, `dial.${name}`);
    const first = { ...(tls !== undefined && { tls }), ...(proxyHeader !== undefined && { proxyHeader }) };
    return [
      name,
      {
        handler,
        endpoint,
        secureTransport,
        keep,
        ...shown,
        ...first,
      },
    ] as const;
  });
  const pools = Object.entries(definition.pools ?? {}).map(([name, entry]) => {
    const where = `pools.${name}`;
    checkNames(where, entry, POOL_ENTRY_NAMES);
    const Handler = handlerOf(entry.handler, where) as unknown as ClientHandlerClass<unknown, unknown>;
    const { handler, address, secureTransport: how, tls, proxyHeader, ...options } = entry;
    const endpoint = endpointOf(address, where, dialable);
    return soundly(where, () => {
      const limits = Object.freeze(settlePool(options));
      checkClient(Handler, limits.pipeline);
      if (how !== undefined) checkWord("secureTransport", how, SECURE_TRANSPORTS);
      if (tls !== undefined) checkTls(tls);
      if (proxyHeader !== undefined) checkHeader(proxyHeader);
      const secureTransport = secureTransportOf(endpoint, entry);
      const pool: AppPool = { handler, Handler, endpoint, secureTransport, tls, proxyHeader, limits };
      return [name, Object.freeze(pool)] as const;
    });
  });
  const allow = Object.freeze([...(definition.allow ?? [])]);
  new AllowList(allow); // a bad rule is reported here, and not at the first dial
  return Object.freeze({
    [APP]: true,
    handlers,
    listeners: Object.freeze(listeners),
    dial: Object.freeze(Object.fromEntries(dial)),
    pools: Object.freeze(Object.fromEntries(pools)),
    allow,
    context: definition.context ?? (() => undefined as Context),
  });
};

/** The entry `name` of the app's `pools`, if its handler is this class. Throws `ERR_APP`. */
export const checkPoolOf = (app: App, name: string, Handler: unknown): AppPool => {
  const entry = Object.hasOwn(app.pools, name) ? app.pools[name] : undefined;
  if (entry === undefined) {
    const names = Object.keys(app.pools).join(", ") || "none";
    throw new SocketError(
      "ERR_APP",
      `pool("${name}"): the app has none of that name in \`pools\`; it has: ${names}`,
    );
  }
  if (entry.Handler === Handler) return entry;
  const given = (Handler as { name?: string } | null)?.name ?? typeof Handler;
  throw new SocketError(
    "ERR_APP",
    `pool("${name}", ${given}): the app's entry has the handler "${entry.handler}", which is another class`,
  );
};
