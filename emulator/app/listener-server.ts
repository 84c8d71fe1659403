/** The server of one listener: its class, what that runs handlers in, and its TLS. */

import type { AsyncLocalStorage } from "node:async_hooks";
import type { Listener } from "../../core/app/app.ts";
import { SocketError } from "../../core/errors.ts";
import { type Address, type Endpoint, formatAddress } from "../../core/net/address.ts";
import type { BaseEndpoint } from "../../core/serve/endpoint.ts";
import type { BaseServer, ServerOptions } from "../../core/serve/server.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { alpnHandlers, type ServerTlsOptions } from "../../core/sockets/tls/tls.ts";
import { lazy } from "../builtin.ts";
import { appHandlerFrom } from "../servers/forking/channel/handler-source.ts";
import {
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
} from "../servers/forking/servers.ts";
import { TCPServer, ThreadingTCPServer } from "../servers/tcp.ts";
import { ThreadingUDPServer, UDPServer } from "../servers/udp.ts";
import {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  UnixStreamServer,
} from "../servers/unix.ts";
import { asRequest } from "../sockets/dialling/ownership.ts";
import { DATA, type ServeOptions } from "./app-server.ts";
import type { TCPServerClass } from "./control/control.ts";
import type { AppEdge } from "./edge.ts";

/** Turns a server class into one whose connections are sessions, and whose datagrams are recorded. */
export interface Recorded {
  streams<Server extends TCPServerClass>(Server: Server): Server;
  datagrams<Server>(Server: Server): Server;
}

/** Leaves server classes unchanged. */
export const NOT_RECORDED: Recorded = { streams: (Server) => Server, datagrams: (Server) => Server };

const SERVERS = {
  "tcp streams": { serial: TCPServer, threading: ThreadingTCPServer, forking: ForkingTCPServer },
  "udp datagrams": { serial: UDPServer, threading: ThreadingUDPServer, forking: ForkingUDPServer },
  "unix streams": {
    serial: UnixStreamServer,
    threading: ThreadingUnixStreamServer,
    forking: ForkingUnixStreamServer,
  },
  "unix datagrams": {
    serial: UnixDatagramServer,
    threading: ThreadingUnixDatagramServer,
    forking: ForkingUnixDatagramServer,
  },
} as const;

export type AnyServer<Context> = BaseServer<StreamSocket, Context> | BaseServer<Datagram, Context>;
// biome-ignore lint/suspicious/noExplicitAny: which handler and options fit which server `defineApp` has checked
type AnyServerClass<Context> = new (endpoint: Endpoint, handler: any, options: any) => AnyServer<Context>;

/** Runs each handler with the server's name as the store of `names`. */
export const naming = <Base>(Server: Base, names: AsyncLocalStorage<string> | undefined): Base => {
  if (names === undefined) return Server;
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  abstract class Naming extends (Server as abstract new (...args: any[]) => BaseEndpoint<unknown>) {
    override finishRequest(request: unknown, clientAddress: Address | null): unknown {
      return names?.run(this.name, () => super.finishRequest(request, clientAddress));
    }
  }
  Object.defineProperty(Naming, "name", { value: (Server as { readonly name?: string }).name }); // which messages say
  return Naming as Base;
};

/** Runs each handler as its own request, to which the connections that it dials belong; `began` gets the object that stands for it. */
const guarding = <Base>(
  Server: Base,
  guarded: boolean | undefined,
  began: (owner: object, server: string) => void = () => {},
): Base => {
  if (!guarded) return Server;
  // biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
  abstract class Guarding extends (Server as abstract new (...args: any[]) => BaseEndpoint<unknown>) {
    override finishRequest(request: unknown, clientAddress: Address | null): unknown {
      began(request as object, this.name);
      return asRequest(request as object, () => super.finishRequest(request, clientAddress));
    }
  }
  Object.defineProperty(Guarding, "name", { value: (Server as { readonly name?: string }).name });
  return Guarding as Base;
};

const TICKET_KEYS = 48; // bytes; Node's

/** The ticket keys of one listener. Each listener has its own, and new ones if it requires more of its clients, because a client that resumes a session is not checked again. */
const ticketKeysOf = (master: Uint8Array, { name, endpoint, options }: Listener): Uint8Array => {
  const { clientCertificate, ca, crl, alpn } = options.tls ?? {};
  const what = JSON.stringify([name, formatAddress(endpoint), clientCertificate, ca, crl, alpn]);
  return new Uint8Array(lazy.crypto.hkdfSync("sha256", master, "socklet ticket keys", what, TICKET_KEYS));
};

/** The TLS options of a listener's server: with the handlers that ALPN may choose, and with another certificate if one is given. Throws `ERR_APP`. */
export const tlsOf = <Context>(
  listener: Listener<Context>,
  { certificate, ticketKeys }: Pick<ServeOptions, "certificate" | "ticketKeys">,
  handlerOf: (name: string) => unknown,
): { readonly tls?: ServerTlsOptions } => {
  const { name, endpoint, options } = listener;
  const { tls = {}, secureTransport } = options;
  const secured =
    endpoint.scheme === "tls" || options.tls !== undefined || (secureTransport ?? "off") !== "off";
  if (!secured) return {};
  if (certificate === undefined && tls.cert === undefined && tls.serverNames === undefined) {
    const said = `the listener "${name}" at ${formatAddress(endpoint)} needs TLS, and has no certificate`;
    const remedy =
      "give its options tls: { cert, key }, or in development serve it by socklet serve --tls self-signed";
    throw new SocketError("ERR_APP", `${said}: ${remedy}`);
  }
  const { passphrase: _, serverNames: __, cert: ___, key: ____, ...others } = tls;
  const whole = {
    ...(ticketKeys && { ticketKeys: ticketKeysOf(ticketKeys, listener as Listener) }),
    ...(certificate === undefined ? tls : { ...others, ...certificate }),
  };
  const handlers = alpnHandlers(tls).map(([protocol, spoken]) => [protocol, handlerOf(spoken)] as const);
  return { tls: handlers.length === 0 ? whole : { ...whole, alpn: Object.fromEntries(handlers) } };
};

export const serverOf = <Context>(
  { name, handler, endpoint, carries, serve }: Listener<Context>,
  options: ServerOptions<Context>,
  recorded: Recorded,
  { module, data = DATA, handlerName, guardConnections: guarded }: ServeOptions,
  ruled: <Server>(Server: Server) => Server = (Server) => Server,
  edge: AppEdge | null = null,
): AnyServer<Context> => {
  const scheme = endpoint.scheme === "tls" ? "tcp" : endpoint.scheme;
  const Server = SERVERS[`${scheme} ${carries}` as keyof typeof SERVERS][serve];
  const Recorded = (
    carries === "datagrams" ? Server : recorded.streams(Server as typeof TCPServer)
  ) as AnyServerClass<Context>;
  if (serve !== "forking") {
    const Watched = carries === "datagrams" ? recorded.datagrams(ruled(Recorded)) : ruled(Recorded);
    const began = edge === null ? undefined : edge.hold.bind(edge);
    const Served = guarding(naming(Watched, handlerName), guarded || edge !== null, began);
    return new Served(endpoint, handler, options);
  }
  if (module === undefined) {
    const said = `the listener "${name}" forks: give serveApp() the app's \`module\`, which its children import`;
    throw new SocketError("ERR_APP", said);
  }
  const { context: _, ...own } = options; // each child makes its own
  const Forking = carries === "datagrams" ? recorded.datagrams(Recorded) : Recorded;
  return new Forking(
    endpoint,
    appHandlerFrom(module, name, data, guarded || edge?.holds("other-request")),
    own,
  );
};
