/** TCP servers on real sockets: `TCPServer`, one connection at a time, and `ThreadingTCPServer`, side by side. */

import net from "node:net";
import { SocketError } from "../../core/errors.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  parseAddress,
} from "../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  AF_UNSPEC,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../core/net/constants.ts";
import { LISTEN_NAMES, type ListenOptions, type OptionNames, optionNamesOf } from "../../core/options.ts";
import { attempt } from "../../core/promises.ts";
import type { SockletEvent } from "../../core/serve/events.ts";
import { checkKind, type HandlerClass } from "../../core/serve/handler.ts";
import { ThreadingMixIn } from "../../core/serve/mixins.ts";
import { type Passage, type ProxyDoor, requestOf, type Unaddressed } from "../../core/serve/proxy.ts";
import { BaseServer, SERVER_NAMES, type ServerOptions } from "../../core/serve/server.ts";
import type { Datagram, DatagramSocket } from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../../core/sockets/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/stream-socket.ts";
import { fs, lazy } from "../builtin.ts";
import { networkError } from "../kernel/addresses.ts";
import type { Connection, Origin } from "../kernel/net-transport.ts";
import { listenerDescriptor } from "../kernel/stream-descriptor.ts";
import { zoned } from "../sockets/names.ts";
import { Socket } from "../sockets/socket.ts";
import { publish, subscribed } from "./events.ts";

// What `net.isIP()` says (0: a name), as a family, and back.
const familyOf = (version: number): number =>
  version === 6 ? AF_INET6 : version === 4 ? AF_INET : AF_UNSPEC;
const versionOf = (family: number): number => (family === AF_INET6 ? 6 : family === AF_INET ? 4 : 0);

const BACKLOG = 511; // connections that the kernel keeps; Node's own figure. Node accepts at once, so that few ever wait there

const TAKES = { tcp: "tcp://host:port", udp: "udp://host:port", unix: "a path, unix:/run/name" } as const;
const SERVERS = {
  tcp: "a TCPServer",
  udp: "a UDPServer",
  unix: "a UnixStreamServer or a UnixDatagramServer",
} as const;

/** Where a listener is: `tcp://127.0.0.1:7007`, `unix:/run/name`. */
export const listenerUrl = (scheme: "tcp" | "udp" | "unix", address: Address | null): string =>
  `${address?.family === "unix" ? "" : `${scheme}://`}${formatAddress(address)}`;

/** Options of a TCP server. */
export interface TCPServerOptions<Context> extends ServerOptions<Context>, ListenOptions {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

const TCP_NAMES = optionNamesOf<TCPServerOptions<unknown>>("a server of streams")({
  ...SERVER_NAMES,
  ...LISTEN_NAMES,
  stream: STREAM_NAMES,
});

/** What a server listens with. */
export type ListeningSocket<Request> = Request extends StreamSocket ? Socket : DatagramSocket;

/**
 * Serves TCP connections, one at a time. CPython's `TCPServer`.
 *
 * While one is served the next wait: accepted, but nothing is read from them, at most `requestQueueSize` of
 * them; one more is reset. (CPython leaves them in the kernel's queue, which drops what is over.) `""` as the
 * host is every IPv4 address, as Python's; port 0 lets the system choose, and `serverAddress` tells it.
 *
 *     const server = new ThreadingTCPServer("127.0.0.1:7007", Echo);
 *     await server.serveForever();
 *
 * A connection takes a file descriptor. Where the process has hardly one left, the next client is reset, and told
 * as `refused` (`descriptors`): Node accepts those that it has no descriptor for, closes them, and says nothing.
 *
 * `Request` is a `Datagram` in the classes for UDP, which extend this one as in CPython.
 */
export class TCPServer<
  Context = unknown,
  Request extends StreamSocket | Datagram = StreamSocket,
> extends BaseServer<Request, Context> {
  static override readonly optionNames: OptionNames = TCP_NAMES;

  /** Where it was told to listen. */
  readonly endpoint: Endpoint;
  /** The family that it listens in, which may be set before that for a name that has addresses of two: `AF_INET` or `AF_INET6`; `AF_UNSPEC` until a name is resolved. */
  addressFamily: number;
  /** Binds although connections of an earlier server linger there (`SO_REUSEADDR`). Here `true`, as Node has it; `false`, CPython's, needs the package `koffi`: else `ERR_UNSUPPORTED`. */
  allowReuseAddress = true;
  /** Shares its port: see `ListenOptions`. */
  allowReusePort: boolean;
  /** Listens for IPv6 alone. */
  ipv6Only: boolean;
  #socket: Socket | undefined;
  #address: Address | null = null;
  readonly #stream: StreamOptions;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Request, Context>,
    options: TCPServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    const endpoint = parseAddress(serverAddress);
    const { scheme } = this;
    const given = endpoint.scheme ?? (scheme === "unix" ? "tcp" : scheme);
    if (given !== scheme) {
      throw new TypeError(
        `${this.constructor.name} listens on ${TAKES[scheme]}; ${formatAddress(endpoint)} is for ${SERVERS[given]}`,
      );
    }
    checkKind(
      RequestHandlerClass,
      this.socketType === SOCK_STREAM ? "streams" : "datagrams",
      this.constructor.name,
    );
    this.endpoint = endpoint;
    this.addressFamily =
      endpoint.scheme === "unix" ? AF_UNIX : familyOf(net.isIP(endpoint.hostname || "0.0.0.0"));
    this.allowReusePort = options.allowReusePort ?? false;
    this.ipv6Only = options.ipv6Only ?? false;
    this.#stream = settleStream(options.stream);
  }

  /** What an address of this class has before its `:`. */
  protected get scheme(): "tcp" | "udp" | "unix" {
    return "tcp";
  }

  /** `SOCK_STREAM` or `SOCK_DGRAM`. */
  get socketType(): number {
    return SOCK_STREAM;
  }

  /**
   * What it listens with: to set an option before `serverBind()`, or to ask for one. Made when it is first asked for;
   * then the family is decided (`addressFamily`, else `AF_INET`).
   */
  get socket(): ListeningSocket<Request> {
    return this.#listener as ListeningSocket<Request>;
  }

  get #listener(): Socket {
    this.addressFamily ||= AF_INET;
    this.#socket ??= new Socket(this.addressFamily);
    return this.#socket;
  }

  /** The descriptor of `socket`; -1 where there is none, or none any more. */
  fileno(): number {
    return this.#socket === undefined ? -1 : this.#socket.fileno();
  }

  override get serverAddress(): Address | null {
    return this.#address;
  }

  /** Binds `socket`, and sets `serverAddress`. Nobody can connect yet. */
  override async serverBind(): Promise<void> {
    const { address, port } = await this.resolve();
    const family = this.addressFamily as typeof AF_INET | typeof AF_INET6;
    if (this.allowReuseAddress) this.#socket ??= new Socket(family, 0, listenerDescriptor(family));
    const socket = this.#listener;
    if (!this.allowReuseAddress) socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, false);
    if (this.allowReusePort) socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, true);
    if (this.addressFamily === AF_INET6) socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, this.ipv6Only);
    await this.bind({ scheme: this.endpoint.scheme as "tcp" | undefined, hostname: address, port });
  }

  /** `socket` listens, and each connection that it accepts arrives here. */
  override async serverActivate(): Promise<void> {
    const socket = this.#listener;
    socket.onconnection = (accepted) => this.accepted(accepted);
    await socket.listen(BACKLOG);
  }

  protected async bind(address: AddressLike): Promise<void> {
    const socket = this.#listener;
    await socket.bind(address);
    this.#address = socket.getsockname();
  }

  /** The address to bind: a name is resolved, in `addressFamily` where it is set, which is then set. Rejects with `ERR_NAME`, `EAFNOSUPPORT`. */
  protected async resolve(): Promise<{ readonly address: string; readonly port: number }> {
    const { hostname, port } = this.endpoint as Exclude<Endpoint, { readonly scheme: "unix" }>;
    const said = formatAddress(this.endpoint);
    const wanted = versionOf(this.addressFamily);
    let host = hostname || (wanted === 6 ? "::" : "0.0.0.0");
    let version = net.isIP(host);
    if (version === 0) {
      const found = await lazy.dns.promises.lookup(host, { family: wanted }).catch((error) => {
        throw networkError(error, said);
      });
      host = found.address;
      version = found.family;
    }
    host = zoned(host, said);
    if (wanted !== version && wanted !== 0) {
      const other = `${said} has an IPv${version} address, and addressFamily is ${this.addressFamily}`;
      throw new SocketError("EAFNOSUPPORT", other, { address: said });
    }
    if (this.ipv6Only && version === 4)
      throw new TypeError(`ipv6Only is for an IPv6 listener; ${said} is IPv4`);
    this.addressFamily = familyOf(version);
    return { address: host, port };
  }

  /** A connection was accepted: makes the request of it, which arrives. */
  protected accepted(connection: Connection): void {
    if (this.daemonThreads) connection.unref();
    const { fd } = connection;
    const origin = this.originOf(fd);
    if (origin !== undefined) connection.from(origin);
    if (this.proxyDoor !== null) this.#enter(connection, this.proxyDoor);
    else this.opened(connection, null);
  }

  /** The connection of a server behind proxies: reads its header, where it comes from one. */
  #enter(connection: Connection, door: ProxyDoor): void {
    if (connection.fd >= lastDescriptor()) {
      connection.abort();
      this.turnAway(connection.remoteAddress, "descriptors");
      return;
    }
    const entered = door.enter(connection, this.unaddressed);
    if (entered === "direct") this.opened(connection, null);
    else {
      void entered?.then((passage) => {
        if (passage === null) return;
        attempt(
          () => this.opened(connection, passage),
          (error) => this.announce({ type: "error", server: this.name, address: passage.address, error }),
        );
      });
    }
  }

  /** What peers without an IP address are called in `proxyProtocol.from`. */
  protected get unaddressed(): Unaddressed | null {
    return null;
  }

  /** The connection is ready for its handler: makes the request of it, which arrives. `passage`: what came before it of a proxy. */
  protected opened(connection: Connection, passage: Passage | null): void {
    const request = requestOf(connection, this.#stream, passage) as Request & StreamSocket;
    const peer = passage === null ? connection.remoteAddress : passage.address;
    if (connection.fd < lastDescriptor()) this.arrive(request, peer);
    else this.refuse(request, peer, "descriptors");
  }

  /** What Node does not tell of a connection that was accepted, by its descriptor. */
  protected originOf(_fd: number): Origin | undefined {
    return undefined;
  }

  protected override stopListening(): void {
    void this.#socket?.close();
  }

  protected override watches(type: SockletEvent["type"]): boolean {
    return super.watches(type) || subscribed(type);
  }

  protected override tell(event: SockletEvent): void {
    publish(event);
    super.tell(event);
  }
}

// ---- Descriptors ----

const RESERVED = 256; // descriptors that are left to the rest of the process (files, names that are looked up, what is dialled), or an eighth of all where that is less

let last: number | undefined;

/** The descriptor at which no more connections are taken. A new one is the lowest number that is free, so that all below are in use. */
const lastDescriptor = (): number => {
  last ??= openFiles() - Math.min(RESERVED, Math.ceil(openFiles() / 8));
  return last;
};

/** How many descriptors the process may have (`ulimit -n`). */
const openFiles = (): number => {
  let limit = Number.NaN;
  try {
    limit = Number(/^Max open files +(\d+)/m.exec(fs.readFileSync("/proc/self/limits", "latin1"))?.[1]);
  } catch {
    // Not Linux: the report has it, and takes some milliseconds.
    const report = process.report.getReport() as { userLimits?: { open_files?: { soft?: unknown } } };
    limit = Number(report.userLimits?.open_files?.soft);
  }
  return Number.isNaN(limit) ? Number.POSITIVE_INFINITY : limit;
};

/** Serves TCP connections side by side. CPython's `ThreadingTCPServer`; see `ThreadingMixIn`. */
export class ThreadingTCPServer<Context = unknown> extends ThreadingMixIn(TCPServer)<Context> {}
