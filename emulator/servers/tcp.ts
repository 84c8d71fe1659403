/** TCP servers on real sockets: `TCPServer`, one connection at a time, and `ThreadingTCPServer`, side by side. */

import type { X509Certificate } from "node:crypto";
import net from "node:net";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { checkKind, type HandlerClass, type HandlerServer } from "../../core/handlers/handler.ts";
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
import {
  ACCEPT_NAMES,
  type AcceptOptions,
  checkCount,
  checkKeepAlive,
  KEEP_ALIVE_NAMES,
  type KeepAliveOptions,
  LISTEN_NAMES,
  type ListenOptions,
  type OptionNames,
  optionNamesOf,
} from "../../core/options.ts";
import { attempt } from "../../core/promises.ts";
import { ThreadingMixIn } from "../../core/serve/mixins.ts";
import {
  type Doorkeeper,
  type Passage,
  ProxyDoor,
  type ProxyProtocolOptions,
  requestOf,
  type Unaddressed,
} from "../../core/serve/proxy.ts";
import { BaseServer, SERVER_NAMES, type ServerOptions } from "../../core/serve/server.ts";
import type { Datagram, DatagramSocket } from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../../core/sockets/streams/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import {
  alpnHandlers,
  type ListenerSecurity,
  SERVER_TLS_NAMES,
  type SecureTransport,
} from "../../core/sockets/tls/tls.ts";
import { securedWhen } from "../../core/sockets/tls/tls-listener.ts";
import { fs, lazy } from "../builtin.ts";
import { networkError } from "../kernel/addresses.ts";
import { type Known, knownDescriptor } from "../kernel/descriptors/adopted.ts";
import type { Listens } from "../kernel/opening/descriptor.ts";
import { listenerDescriptor, streamDescriptor } from "../kernel/opening/stream-descriptor.ts";
import type { Replacement, ServerSecurity } from "../kernel/tls/tls.ts";
import { requests, type TracedRequest, traced } from "../kernel/tracing.ts";
import type { Connection, Origin } from "../kernel/transports/seam.ts";
import { zoned } from "../sockets/names/names.ts";
import { Socket } from "../sockets/socket.ts";
import { publish, subscribed } from "./events.ts";
import { Handshakes, type Outcome } from "./handshakes.ts";

// The result of `net.isIP()` (0: a name), as a family, and back.
const familyOf = (version: number): number =>
  version === 6 ? AF_INET6 : version === 4 ? AF_INET : AF_UNSPEC;
const versionOf = (family: number): number => (family === AF_INET6 ? 6 : family === AF_INET ? 4 : 0);

const BACKLOG = 511; // Node's own figure

const TAKES = {
  tcp: "tcp://host:port or tls://host:port",
  udp: "udp://host:port",
  unix: "a path, unix:/run/name",
} as const;
const SERVERS = {
  tcp: "a TCPServer",
  tls: "a TCPServer",
  udp: "a UDPServer",
  unix: "a UnixStreamServer or a UnixDatagramServer",
} as const;

/** Where a listener is: `tcp://127.0.0.1:7007`, `tls://127.0.0.1:993`, `unix:/run/name`. */
export const listenerUrl = (scheme: "tcp" | "tls" | "udp" | "unix", address: Address | null): string =>
  `${address?.family === "unix" ? "" : `${scheme}://`}${formatAddress(address)}`;

const NOTHING = new Uint8Array(0);

/** Options of a TCP server. */
export interface TCPServerOptions<Context>
  extends ServerOptions<Context>,
    ListenOptions,
    AcceptOptions,
    KeepAliveOptions,
    ListenerSecurity<HandlerClass<StreamSocket, Context>> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
  /** A descriptor that is bound, or listens, which the server takes over and listens on; it binds nothing. Such as one of systemd's, or a parent's. Default: none. */
  readonly fd?: number | undefined;
}

const TCP_NAMES = optionNamesOf<TCPServerOptions<unknown>>("a server of streams")({
  ...SERVER_NAMES,
  ...LISTEN_NAMES,
  ...ACCEPT_NAMES,
  ...KEEP_ALIVE_NAMES,
  tls: SERVER_TLS_NAMES,
  secureTransport: true,
  stream: STREAM_NAMES,
  fd: true,
});

/** The socket that a server listens with. */
export type ListeningSocket<Request> = Request extends StreamSocket ? Socket : DatagramSocket;

/**
 * Serves TCP connections, one at a time. CPython's `TCPServer`.
 *
 * While one is served, the next ones wait: accepted, but unread, at most `requestQueueSize` of
 * them; one more is reset. (CPython leaves them in the kernel's queue, which drops the surplus.) `""` as the
 * host is every IPv4 address, as in Python; port 0 lets the system choose, and `serverAddress` has the port.
 *
 *     const server = new ThreadingTCPServer("127.0.0.1:7007", Echo);
 *     await server.serveForever();
 *
 * A connection takes a file descriptor. If the process has hardly any left, the next client is reset, and reported
 * as `refused` (`descriptors`): Node accepts connections that it has no descriptor for, closes them, and reports nothing.
 *
 * With `tls`, or an address `tls://host:port`, each connection is secured before it arrives: the handshakes run side by side,
 * whatever is served meanwhile, at most `maxHandshakes` at once, each within the stream's `handshakeTimeout`. One that fails
 * never reaches a handler, and is reported as `handshake`.
 *
 * `Request` is a `Datagram` in the classes for UDP, which extend this one as in CPython.
 */
export class TCPServer<
  Context = unknown,
  Request extends StreamSocket | Datagram = StreamSocket,
> extends BaseServer<Request, Context> {
  static override readonly optionNames: OptionNames = TCP_NAMES;

  /** Where it is to listen, as given. */
  readonly endpoint: Endpoint;
  /** The family that it listens in, which may be set before that for a name that has addresses of two: `AF_INET` or `AF_INET6`; `AF_UNSPEC` until a name is resolved. */
  addressFamily: number;
  /** Binds although connections of an earlier server linger there (`SO_REUSEADDR`). Here `true`, as Node has it; `false`, CPython's, needs the package `koffi`: else `ERR_UNSUPPORTED`. */
  allowReuseAddress = true;
  /** Shares its port: see `ListenOptions`. */
  allowReusePort: boolean;
  /** Listens only for IPv6. */
  ipv6Only: boolean;
  /** How many connections may wait in the kernel. */
  readonly backlog: number;
  /** After how much silence the kernel probes a peer, in milliseconds; `null`: never. */
  readonly keepAlive: number | null;
  /** The descriptor that it listens on; `null`: it binds its address. */
  readonly fd: number | null;
  #socket: Socket | undefined;
  #address: Address | null = null;
  readonly #stream: StreamOptions;
  readonly #handshakes: Handshakes | null;
  readonly #secured: SecureTransport;
  #protocols: ReadonlyMap<string, HandlerClass<StreamSocket, Context>> = new Map(); // handlers by what ALPN chose

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Request, Context>,
    options: TCPServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    const endpoint = parseAddress(serverAddress);
    const { scheme } = this;
    const given = endpoint.scheme ?? (scheme === "unix" ? "tcp" : scheme);
    if (given !== scheme && !(given === "tls" && scheme === "tcp")) {
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
    this.backlog = checkCount("backlog", options.backlog ?? BACKLOG, 1);
    this.keepAlive = checkKeepAlive(options);
    this.fd = options.fd === undefined ? null : checkCount("fd", options.fd, 0);
    this.#stream = settleStream(options.stream, "stream.");
    this.#secured = securedWhen(endpoint.scheme, options);
    const { tls } = options;
    this.#handshakes = tls === undefined ? null : new Handshakes(tls, this.#stream.handshakeTimeout);
    this.#protocols = this.#checked(alpnHandlers(tls));
  }

  /**
   * As `RequestHandlerClass`, of the handlers that ALPN chooses (`tls: { alpn: { h2: … } }`): these handle the connections that come
   * from now on. Throws `TypeError` if one is for datagrams.
   */
  replaceProtocols(handlers: readonly (readonly [string, HandlerClass<StreamSocket, Context>])[]): void {
    this.#protocols = this.#checked(handlers);
  }

  #checked(
    handlers: readonly (readonly [string, HandlerClass<StreamSocket, Context>])[],
  ): ReadonlyMap<string, HandlerClass<StreamSocket, Context>> {
    for (const [, Handler] of handlers) checkKind(Handler, "streams", this.constructor.name);
    return new Map(handlers);
  }

  /** The handlers that ALPN chooses, by protocol. */
  protected get protocols(): ReadonlyMap<string, HandlerClass<StreamSocket, Context>> {
    return this.#protocols;
  }

  protected override openDoor(options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor {
    return new ProxyDoor(options, keeper);
  }

  /** When its connections are secured: never, from their first byte, or by their handler's `startTls()`. */
  get secureTransport(): SecureTransport {
    return this.#secured;
  }

  /** What its connections are secured with. */
  protected get security(): ServerSecurity | null {
    return this.#handshakes?.security ?? null;
  }

  /** The certificate for clients that name no other server; `null` if there is none. */
  get certificate(): X509Certificate | null {
    return this.security?.certificates[0] ?? null;
  }

  /** `replaceCertificate()` without an argument, which does not throw: errors are reported as `certificate`. Returns whether the server has TLS. */
  reloadCertificate(): boolean {
    if (this.#handshakes === null) return false;
    attempt(
      () => this.replaceCertificate(),
      (error) => this.#tellCertificates(error),
    );
    return true;
  }

  /**
   * Shows these certificates from now on, and trusts these authorities; what is not given stays. Without an argument it reads its
   * files again, which it also does by itself when they change. Open connections keep what they began with. Reported as `certificate`.
   *
   * Throws `TypeError`, and keeps the old ones, if a certificate cannot be read, does not match its key, or has expired;
   * `EINVAL` at a server without `tls`.
   */
  replaceCertificate(next?: Replacement): void {
    if (this.#handshakes === null)
      throw new SocketError("EINVAL", `${this.name} has no tls, and so no certificate`);
    this.#handshakes.replace(next);
  }

  /** The scheme of this class's addresses. */
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
    const family = this.addressFamily;
    const kind = { family, type: SOCK_STREAM, proto: 0 };
    this.#socket ??= new Socket(family, 0, streamDescriptor(kind, undefined, this.#listens));
    return this.#socket;
  }

  get #listens(): Listens {
    return { secures: this.#handshakes !== null, backlog: this.backlog };
  }

  /** The descriptor of `socket`; -1 if there is none, or it is closed. */
  fileno(): number {
    return this.#socket === undefined ? -1 : this.#socket.fileno();
  }

  override get serverAddress(): Address | null {
    return this.#address;
  }

  /** Binds `socket`, and sets `serverAddress`. Nobody can connect yet. */
  override async serverBind(): Promise<void> {
    if (this.fd !== null) {
      this.adopt(this.fd);
      return;
    }
    const { address, port } = await this.resolve();
    const family = this.addressFamily as typeof AF_INET | typeof AF_INET6;
    if (this.allowReuseAddress)
      this.#socket ??= new Socket(family, 0, listenerDescriptor(family, this.#listens));
    const socket = this.#listener;
    if (!this.allowReuseAddress) socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, false);
    if (this.allowReusePort) socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, true);
    if (this.addressFamily === AF_INET6) socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, this.ipv6Only);
    await this.bind({
      scheme: this.endpoint.scheme === undefined ? undefined : "tcp",
      hostname: address,
      port,
    });
  }

  /** `fd` is what it listens on. Throws `EBADF`, `ENOTSOCK`, and `EINVAL` if it is no such socket. */
  protected adopt(fd: number): void {
    const known = this.known(fd);
    const kind = { family: known.family, type: SOCK_STREAM, proto: 0 };
    this.addressFamily = known.family;
    this.#socket = new Socket(known.family, 0, streamDescriptor(kind, { fd, ...known }));
    this.#address = this.#socket.getsockname();
  }

  /** What `fd` is. Throws `EBADF`, `ENOTSOCK`, and `EINVAL` if the server cannot listen on it. */
  protected known(fd: number): Known {
    const likely = { family: this.addressFamily || AF_INET, type: this.socketType, proto: 0 };
    const known = knownDescriptor(fd, likely);
    const onPath = known.family === AF_UNIX;
    if (known.type === this.socketType && onPath === (this.scheme === "unix") && known.state !== "connected")
      return known;
    const what = `${known.state === "connected" ? "a connected" : "a"} socket of family ${known.family}, type ${known.type}`;
    throw new SocketError(
      "EINVAL",
      `descriptor ${fd} is ${what}; ${this.constructor.name} listens on ${TAKES[this.scheme]}`,
    );
  }

  /**
   * Binds, but does not listen. Returns the descriptor, for other processes to listen on, which take it as their `fd`. It still belongs to
   * this server, whose `serverClose()` closes it. Rejects as `listen()`, and without `koffi` for datagrams on a path with `ERR_UNSUPPORTED`.
   */
  async reserve(): Promise<number> {
    await this.serverBind();
    return this.fileno();
  }

  /** `socket` listens, and each connection that it accepts arrives here. */
  override async serverActivate(): Promise<void> {
    const socket = this.#listener;
    socket.onconnection = (accepted) => this.accepted(accepted);
    await socket.listen(this.backlog);
    this.#handshakes?.watch({
      replaced: () => this.certificateReplaced(),
      refused: (error) => this.#tellCertificates(error),
    });
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
    if (this.keepAlive !== null) connection.settable.setKeepAlive(true, this.keepAlive);
    const { fd } = connection;
    const origin = this.originOf(fd);
    if (this.#handshakes !== null) connection.from({ ...origin, security: this.#handshakes.security });
    else if (origin !== undefined) connection.from(origin);
    if (this.proxyDoor !== null) this.#enter(connection, this.proxyDoor);
    else this.opened(connection, null);
  }

  /** A connection of a server behind proxies: reads its header, if it comes from a proxy. */
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

  /** The name of peers without an IP address in `proxyProtocol.from`. */
  protected get unaddressed(): Unaddressed | null {
    return null;
  }

  /** A connection is past its proxy header, if any: secures it if need be, and makes the request of it, which arrives. `passage`: what its proxy sent. */
  protected opened(connection: Connection, passage: Passage | null): void {
    if (this.#secured === "on" && this.handshakesHere) {
      this.#secure(connection, passage);
      return;
    }
    const request = requestOf(connection, this.#stream, passage) as Request & StreamSocket;
    const peer = passage === null ? connection.remoteAddress : passage.address;
    if (connection.fd < lastDescriptor()) this.arrive(request, peer);
    else this.refuse(request, peer, "descriptors");
  }

  /** Whether this process does the handshakes. */
  protected get handshakesHere(): boolean {
    return true;
  }

  /** Admits a connection, secures it, and makes the request of it. */
  #secure(connection: Connection, passage: Passage | null): void {
    const handshakes = this.#handshakes as Handshakes;
    const { fd } = connection;
    const peer = passage === null ? connection.remoteAddress : passage.address;
    const refusal = fd >= lastDescriptor() ? "descriptors" : this.admit(peer);
    if (refusal !== null) {
      connection.abort();
      this.turnAway(peer, refusal);
      return;
    }
    if (handshakes.full && handshakes.waiting >= this.requestQueueSize) {
      connection.abort();
      this.withdraw(peer);
      this.turnAway(peer, "handshakes");
      return;
    }
    if (passage !== null && passage.rest.length > 0) {
      connection.from({ ...this.originOf(fd), security: handshakes.security, early: passage.rest });
    }
    void handshakes
      .run(connection)
      .then((outcome) => this.#handshaken(connection, peer, passage, outcome))
      .catch((error) => this.announce({ type: "error", server: this.name, address: peer, error }));
  }

  #handshaken(
    connection: Connection,
    peer: Address | null,
    passage: Passage | null,
    outcome: Outcome | null,
  ): void {
    const closed = this.#handshakes?.closed === true;
    if (outcome !== null && "transport" in outcome) {
      const { transport, duration } = outcome;
      if (closed) transport.abort();
      else {
        const { version = null, resumed } = transport.tls ?? {};
        this.tellHandshake({ address: peer, duration, version, resumed: resumed === true, error: null });
        const whole = passage && { ...passage, rest: NOTHING }; // the handshake had the rest
        this.arrive(requestOf(transport, this.#stream, whole) as Request & StreamSocket, peer, true);
        return;
      }
    }
    connection.abort();
    this.withdraw(peer);
    if (outcome === null || closed) this.turnAway(peer, "closing");
    else if ("error" in outcome) {
      this.tellHandshake({ address: peer, version: null, resumed: false, ...outcome });
    }
  }

  /** Reports that a handshake is over. */
  protected tellHandshake(
    told: Omit<Extract<SockletEvent, { readonly type: "handshake" }>, "type" | "server">,
  ): void {
    if (this.watches("handshake")) this.announce({ type: "handshake", server: this.name, ...told });
  }

  /** The certificates to use from now on. */
  protected certificateReplaced(): void {
    this.#tellCertificates(null);
  }

  #tellCertificates(error: unknown): void {
    const certificates = (this.security?.certificates ?? []).map(({ subject, fingerprint256, validTo }) => {
      return { subject: subject.replaceAll("\n", ", "), fingerprint256, validTo: new Date(validTo) };
    });
    this.announce({ type: "certificate", server: this.name, certificates, error });
  }

  protected override runRequest(request: Request, clientAddress: Address | null): unknown {
    return requests.hasSubscribers
      ? this.#runTraced(request, clientAddress)
      : super.runRequest(request, clientAddress);
  }

  #runTraced(request: Request, clientAddress: Address | null): unknown {
    const { id } = this.scope(request);
    const context: TracedRequest = {
      server: this.name,
      role: "server",
      id,
      address: clientAddress,
      local: this.serverAddress,
      request,
    };
    return traced(requests, context, () => super.runRequest(request, clientAddress));
  }

  override finishRequest(request: Request, clientAddress: Address | null): unknown {
    if (this.#protocols.size === 0) return super.finishRequest(request, clientAddress);
    const stream = request as Request & StreamSocket;
    const Handler = this.#protocols.get(stream.tls?.alpn ?? "");
    if (Handler === undefined) return super.finishRequest(request, clientAddress);
    return new Handler(stream, clientAddress, this as HandlerServer<Context>).run();
  }

  /** What Node does not report about an accepted connection, by its descriptor. */
  protected originOf(_fd: number): Origin | undefined {
    return undefined;
  }

  protected override stopAccepting(): void {
    void this.#socket?.close();
  }

  protected override stopListening(): void {
    this.#handshakes?.close();
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

const RESERVED = 256; // descriptors reserved for the rest of the process (files, name lookups, dialled connections), or an eighth of all if that is less

let last: number | undefined;

/** The descriptor from which no more connections are accepted. A new descriptor has the lowest free number, so all below it are in use. */
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
