/**
 * The socket module of Node: `socket()`, and what makes sockets in other ways. CPython's `socket`, promise for call.
 *
 * With the package `koffi` a socket has its descriptor from the first moment, as in CPython: `bind` is bind(2), and
 * any option can be set before it. Without it Node makes the descriptor when the socket is bound or connected. Either
 * way Node's own event loop reads, writes and accepts.
 */

import dgram from "node:dgram";
import { lookup } from "node:dns/promises";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  type InternetAddress,
  parseAddress,
} from "../core/address.ts";
import { type SocketConnectOptions, UnconnectedSocket } from "../core/connector.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IP_MULTICAST_LOOP,
  IP_MULTICAST_TTL,
  IP_TTL,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_MULTICAST_HOPS,
  IPV6_MULTICAST_LOOP,
  IPV6_UNICAST_HOPS,
  IPV6_V6ONLY,
  POLLIN,
  SO_BROADCAST,
  SO_RCVBUF,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SO_SNDBUF,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
} from "../core/constants.ts";
import { type DatagramSink, DatagramSocket, type DatagramTransport } from "../core/datagram.ts";
import { SocketError } from "../core/errors.ts";
import { checkCount } from "../core/options.ts";
import { type KernelSocket, StreamSocket, type StreamTransport, settleStream } from "../core/socket.ts";
import { pulled, withDeadline } from "../core/stream.ts";
import { connectedTransport, placeOf } from "./connector.ts";
import {
  bindDescriptor,
  boundHandle,
  closeDescriptor,
  connectDescriptor,
  descriptorOf,
  descriptorPair,
  duplicate,
  type Handle,
  identity,
  localName,
  NodeKernel,
  openDescriptor,
  type PlainOptions,
  PlainStreamOptions,
  sendDatagram,
  stateOf,
  type UnixDgram,
  unixDgram,
} from "./native.ts";
import { addressOf, networkError, nodeTransport, type Origin } from "./stream-socket.ts";

const FOR_EVER = settleStream({ timeout: null }); // as CPython's sockets begin; servers give their handlers a time-out

/** A connection that was accepted, and the address of its peer: `null` for a Unix socket without a name. */
export type Accepted = [connection: StreamSocket, address: Address | null];

/** The address that a name means in this family, and the first of them, as CPython's `bind` and `connect` take it. */
const resolve = async (endpoint: Endpoint, family: number): Promise<Address> => {
  const said = formatAddress(endpoint);
  if ((endpoint.scheme === "unix") !== (family === AF_UNIX)) {
    const wants = family === AF_UNIX ? "a path" : "a host and port";
    throw new SocketError("EAFNOSUPPORT", `this socket takes ${wants}, not ${said}`, { address: said });
  }
  if (endpoint.scheme === "unix") return { family: "unix", path: endpoint.path };
  const version = family === AF_INET6 ? 6 : 4;
  const host = endpoint.hostname || (version === 6 ? "::" : "0.0.0.0");
  if (net.isIP(host) === version) return addressOf(host, endpoint.port, `IPv${version}`) as Address;
  const found = await lookup(host, { family: version }).catch((error) => {
    throw networkError(error, said);
  });
  return addressOf(found.address, endpoint.port, `IPv${version}`) as Address;
};

const hostOf = ({ hostname, scopeId }: InternetAddress): string =>
  scopeId === undefined ? hostname : `${hostname}%${scopeId}`;

/** What an unbound socket of a family is called, as getsockname(2) has it. */
const unboundName = (family: number): Address | null => {
  if (family === AF_UNIX) return null;
  return family === AF_INET6
    ? { family: "IPv6", hostname: "::", port: 0 }
    : { family: "IPv4", hostname: "0.0.0.0", port: 0 };
};

// ---- Streams ----

/**
 * A stream socket: one that is bound, listens and accepts, or one that connects and then is all of `StreamSocket`.
 * What `socket(family, SOCK_STREAM)` gives.
 *
 * It begins blocking, without a time-out, and so do those that it accepts; `settimeout()` governs `accept()` and
 * `connect()`, too. A call in the wrong state gives Linux's error: `EINVAL` (`accept()` before `listen()`, `bind()`
 * twice), `EISCONN`, `ENOTCONN`, `EPIPE`.
 */
export class Socket extends UnconnectedSocket {
  readonly #proto: number;
  readonly #options: PlainStreamOptions;
  readonly #kernel: NodeKernel;
  readonly #set: [level: number, name: number, value: number | boolean | Uint8Array][] = [];
  #fd: number; // with koffi, until Node has it
  #handle: Handle | null = null; // without, from bind() on, until Node has it
  #bound: Address | null = null;
  #server: net.Server | null = null;
  #backlog = 0;
  readonly #accepted: net.Socket[] = [];
  #acceptors: ((socket: net.Socket | null) => void)[] = [];
  #watchers: (() => void)[] = [];

  /** Called with each connection in place of its waiting for `accept()`: how a server takes them. */
  onconnection: ((socket: net.Socket) => void) | null = null;

  /** `fd` is a descriptor to take over; -1 for a new one. */
  constructor(family: number, proto = 0, fd = -1) {
    super(family);
    this.#proto = proto;
    const protocol = family === AF_UNIX ? 0 : IPPROTO_TCP;
    this.#options = new PlainStreamOptions(
      identity(family, SOCK_STREAM, protocol, () => this.#server !== null),
    );
    this.#kernel = new NodeKernel({ fd: () => this.#descriptor(), options: this.#options });
    this.#fd = fd >= 0 ? fd : openDescriptor(family, SOCK_STREAM, proto);
    if (fd >= 0) this.#takeOver(fd);
  }

  override get proto(): number {
    return this.#proto;
  }

  /** Takes an address of this machine. Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ERR_NAME`; `EINVAL` where it has one already. bind(2) */
  async bind(address: AddressLike): Promise<void> {
    this.#mustBeNew();
    if (this.#bound !== null) throw new SocketError("EINVAL", "the socket is bound already");
    const endpoint = parseAddress(address);
    if (endpoint.scheme === "udp") {
      throw new TypeError(`${formatAddress(endpoint)} is for a SOCK_DGRAM socket`);
    }
    const at = await resolve(endpoint, this.family);
    this.#mustBeNew();
    if (this.#bound !== null) throw new SocketError("EINVAL", "the socket is bound already");
    this.#bind(at, formatAddress(endpoint));
  }

  /** Lets others connect, of whom `backlog` may wait for `accept()`; one more is reset. Default 128, as CPython's. listen(2) */
  async listen(backlog = 128): Promise<void> {
    checkCount("the backlog", backlog, 0);
    this.#mustBeNew();
    this.#backlog = Math.max(backlog, 1);
    if (this.#server !== null) return;
    if (this.#bound === null) {
      if (this.family === AF_UNIX) throw new SocketError("EINVAL", "listen() on a path needs bind() first");
      this.#bind(unboundName(this.family) as Address, "any port");
    }
    const server = net.createServer({
      allowHalfOpen: true, // the peer's end is not ours
      pauseOnConnect: true, // nothing is read before somebody asks
      noDelay: true, // the writer gathers; Nagle would hold back what it sends
    });
    this.#server = server;
    server.on("connection", (socket) => this.#arrived(socket));
    const where = this.#fd >= 0 ? { fd: this.#fd } : { _handle: this.#handle };
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => {
        this.#server = null;
        reject(networkError(error, formatAddress(this.#bound)));
      });
      server.listen({ ...where, backlog: Math.max(backlog, 1) } as net.ListenOptions, () => {
        server.removeAllListeners("error");
        server.on("error", () => {}); // an accept that failed: that client was dropped, the listener goes on
        resolve();
      });
    });
    this.#fd = -1; // the server's now
    this.#handle = null;
  }

  /**
   * The next connection, and its peer's address. Rejects with `EINVAL` where this does not listen, `ETIMEDOUT`,
   * `EWOULDBLOCK`, and `ECANCELED` where it is closed meanwhile. accept(2)
   */
  async accept(): Promise<Accepted> {
    if (this.closed) throw new SocketError("EBADF");
    if (this.#server === null) throw new SocketError("EINVAL", "accept() needs listen() first");
    const socket = this.#accepted.shift() ?? (await this.#arrival());
    const local: Origin = this.#bound?.family === "unix" ? { local: this.#bound } : {};
    const connection = new StreamSocket(nodeTransport(socket, local), FOR_EVER);
    return [connection, connection.getpeername()];
  }

  /** What `accept()` gives, one after the other, until this is closed. Leaving the loop closes nothing. */
  connections(): AsyncIterableIterator<Accepted> {
    return pulled(async () => {
      if (this.closed) return null;
      try {
        return await this.accept();
      } catch (error) {
        if (this.closed) return null;
        throw error;
      }
    });
  }

  override async connect(address: AddressLike, options: SocketConnectOptions = {}): Promise<void> {
    if (this.#server !== null) throw new SocketError("EISCONN", "this socket listens; connect with another");
    return super.connect(address, options);
  }

  /** On a stream the address is not looked at, as on Linux: `EISCONN` of a Unix socket. CPython's `sendto`. */
  sendto(data: Uint8Array | string, address: AddressLike): Promise<number>;
  sendto(data: Uint8Array | string, flags: number, address: AddressLike): Promise<number>;
  async sendto(
    data: Uint8Array | string,
    ...to: [AddressLike] | [flags: number, AddressLike]
  ): Promise<number> {
    const [flags, address] = to.length === 1 ? [0, to[0]] : to;
    parseAddress(address);
    if (this.family === AF_UNIX) throw new SocketError(this.attached ? "EISCONN" : "EOPNOTSUPP");
    return this.send(data, flags);
  }

  /** `recv()`, and `null`: a stream does not say from whom. CPython's `recvfrom`. */
  async recvfrom(size?: number, flags?: number): Promise<[Uint8Array | null, null]> {
    return [await this.recv(size, flags), null];
  }

  /** Where it is bound, or `0.0.0.0:0`; `null` for a Unix socket without a name. */
  override getsockname(): Address | null {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) return super.getsockname();
    return this.#bound ?? unboundName(this.family);
  }

  override setsockopt(level: number, name: number, value: number | boolean | Uint8Array): void {
    super.setsockopt(level, name, value);
    if (!this.attached && this.#server === null) this.#set.push([level, name, value]);
  }

  override async detach(): Promise<number> {
    if (this.attached) return super.detach();
    const fd = this.kernel("detach()").detach();
    await this.close();
    return fd;
  }

  /** Also ends the listening; those that nobody accepted are reset. */
  override close(): Promise<void> {
    if (!this.closed) this.#letGo();
    return super.close();
  }

  override readiness(mask: number): number {
    if (this.closed || this.#server === null) return super.readiness(mask);
    return mask & POLLIN && this.#accepted.length > 0 ? POLLIN : 0;
  }

  override onReadiness(mask: number, told: () => void): () => void {
    if (this.#server === null) return super.onReadiness(mask, told);
    this.#watchers.push(told);
    return () => {
      this.#watchers = this.#watchers.filter((other) => other !== told);
    };
  }

  protected override get kernelSocket(): KernelSocket | undefined {
    return this.attached ? super.kernelSocket : this.#kernel;
  }

  protected override async dial(
    endpoint: Endpoint,
    timeout: number | null,
    options: SocketConnectOptions,
  ): Promise<StreamTransport> {
    const at = await withTimeout(resolve(endpoint, this.family), timeout, formatAddress(endpoint));
    if (this.closed) throw new SocketError("ECANCELED");
    const held = this.#fd >= 0 ? { fd: this.#fd } : this.#handle === null ? {} : { handle: this.#handle };
    this.#fd = -1; // the connection's now
    this.#handle = null;
    const socket = idleSocket({ ...held, noDelay: this.family !== AF_UNIX });
    try {
      const place =
        at.family === "unix" ? placeOf({ scheme: "unix", ...at }) : { host: hostOf(at), port: at.port };
      socket.connect({ ...place, autoSelectFamily: false } as net.SocketConnectOpts);
      const local: Origin = this.#bound?.family === "unix" ? { local: this.#bound } : {};
      const dialling = { ...options, connectTimeout: timeout };
      const transport = await connectedTransport(socket, endpoint, dialling, FOR_EVER, {
        ...local,
        options: this.#options,
      });
      this.#options.open(socket, this.family !== AF_UNIX);
      return transport;
    } catch (error) {
      socket.destroy();
      if (!this.closed) this.#renew();
      throw error;
    }
  }

  /** Node closed the descriptor with the connection that failed: another one, of the same options, for the next try. */
  #renew(): void {
    this.#fd = openDescriptor(this.family, SOCK_STREAM, this.#proto);
    if (this.#fd >= 0) for (const [level, name, value] of this.#set) super.setsockopt(level, name, value);
    const bound = this.#bound;
    this.#bound = null;
    if (bound !== null && bound.family !== "unix") this.#bind(bound, formatAddress(bound));
  }

  #bind(at: Address, said: string): void {
    if (this.#fd >= 0) {
      // As Node does for each TCP socket that it binds, and Python's servers are told to: else a port could not be
      // had again for a minute after its connections ended.
      if (
        at.family !== "unix" &&
        !this.#set.some(([level, name]) => level === SOL_SOCKET && name === SO_REUSEADDR)
      ) {
        super.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
      }
      try {
        bindDescriptor(this.#fd, at, said);
      } catch (error) {
        throw networkError(error, said);
      }
      this.#bound = localName(this.#fd);
      return;
    }
    const flags = {
      ipv6Only: this.#options.on(IPPROTO_IPV6, IPV6_V6ONLY),
      reusePort: this.#options.on(SOL_SOCKET, SO_REUSEPORT),
    };
    const place = at.family === "unix" ? { path: at.path } : { host: hostOf(at), port: at.port };
    this.#handle = boundHandle(place, flags, (error) => networkError(error, said));
    const name: { address?: string; port?: number; family?: string } = {};
    this.#handle.getsockname?.(name);
    this.#bound = at.family === "unix" ? at : addressOf(name.address, name.port, name.family);
  }

  /** The socket of a descriptor that was made elsewhere: bound, listening, connected, or new. */
  #takeOver(fd: number): void {
    const state = stateOf(fd);
    if (state === "new" || state === "listening") {
      const name = localName(fd);
      if (name !== null && (name.family === "unix" || name.port !== 0)) this.#bound = name;
      return;
    }
    const socket = idleSocket({ fd });
    // Without koffi only the peer's address tells that there is one; a Unix connection has none.
    if (state === null && this.family !== AF_UNIX && socket.remoteAddress === undefined) {
      this.#fd = -1;
      this.#handle = (socket as unknown as { _handle: Handle })._handle;
      return;
    }
    this.#fd = -1;
    socket.pause();
    this.attach(nodeTransport(socket, { options: this.#options.open(socket, false) }));
  }

  #arrived(socket: net.Socket): void {
    if (this.onconnection !== null) {
      this.onconnection(socket);
      return;
    }
    const acceptor = this.#acceptors.shift();
    if (acceptor !== undefined) {
      acceptor(socket);
      return;
    }
    if (this.#accepted.length >= this.#backlog) {
      refuse(socket);
      return;
    }
    this.#accepted.push(socket);
    socket.on("error", ignore); // until it is accepted nobody hears that it broke
    socket.once("close", () => {
      const at = this.#accepted.indexOf(socket);
      if (at >= 0) this.#accepted.splice(at, 1);
    });
    for (const told of this.#watchers) told();
  }

  /** Waits for the next connection. */
  async #arrival(): Promise<net.Socket> {
    const { promise, resolve, reject } = Promise.withResolvers<net.Socket>();
    const acceptor = (socket: net.Socket | null): void => {
      if (socket === null) reject(new SocketError("ECANCELED"));
      else resolve(socket);
    };
    this.#acceptors.push(acceptor);
    const timeout = this.gettimeout();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = (): void => {
      this.#acceptors = this.#acceptors.filter((other) => other !== acceptor);
      const nobody = `nobody connected for ${timeout} ms`;
      reject(timeout === 0 ? new SocketError("EWOULDBLOCK") : new SocketError("ETIMEDOUT", nobody));
    };
    // Where it may not wait, once round the event loop: so who has connected is known.
    if (timeout === 0) setImmediate(() => setImmediate(late));
    else if (timeout !== null) timer = setTimeout(late, timeout);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  #letGo(): void {
    this.#server?.close();
    if (this.#fd >= 0) closeDescriptor(this.#fd);
    this.#handle?.close();
    this.#fd = -1;
    this.#handle = null;
    for (const socket of this.#accepted.splice(0)) refuse(socket);
    for (const acceptor of this.#acceptors.splice(0)) acceptor(null);
    for (const told of this.#watchers) queueMicrotask(told);
  }

  #descriptor(): number {
    if (this.#server !== null) return descriptorOf(this.#server);
    return this.#fd >= 0 ? this.#fd : (this.#handle?.fd ?? -1);
  }

  #mustBeNew(): void {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) throw new SocketError("EINVAL", "the socket is connected");
  }
}

/** A `net.Socket` over a descriptor or handle that is not connected: by default it would read at once, and fail. */
const idleSocket = (how: object): net.Socket => {
  const options = { ...how, allowHalfOpen: true, manualStart: true };
  return new net.Socket(options);
};

const ignore = (): void => {};

/** Resets a connection that nobody accepted, so that its client knows. */
const refuse = (socket: net.Socket): void => {
  socket.on("error", ignore);
  try {
    socket.resetAndDestroy();
  } catch {
    socket.destroy(); // a Unix socket has no reset
  }
};

const withTimeout = <T>(promise: Promise<T>, timeout: number | null, said: string): Promise<T> =>
  timeout === null ? promise : withDeadline(promise, timeout, `${said} was not resolved`);

// ---- Datagrams ----

/** UDP: a `dgram.Socket`, which is made when the socket is first bound, connected or sent from. */
class UdpTransport implements DatagramTransport {
  readonly kernel: KernelSocket;
  readonly #family: number;
  readonly #options: PlainDatagramOptions;
  #fd: number; // with koffi, until Node has it
  #socket: dgram.Socket | null = null;
  #opening: Promise<dgram.Socket> | null = null;
  #sink: DatagramSink | null = null;
  #peer: InternetAddress | null = null;
  #bound = false;
  #closed = false;

  constructor(family: number, proto: number, fd = -1) {
    this.#family = family;
    this.#fd = fd >= 0 ? fd : openDescriptor(family, SOCK_DGRAM, proto);
    this.#options = new PlainDatagramOptions(identity(family, SOCK_DGRAM, IPPROTO_UDP, () => false));
    this.kernel = new NodeKernel({
      fd: () => (this.#socket === null ? this.#fd : descriptorOf(dgramState(this.#socket))),
      options: this.#options,
      release: () => this.close(),
    });
    if (fd >= 0) void this.#open().catch(ignore); // it may be bound, and then hears from now on
  }

  get localAddress(): Address | null {
    try {
      const { address, port, family } = (this.#socket as dgram.Socket).address();
      return addressOf(address, port, family);
    } catch {
      return unboundName(this.#family);
    }
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
  }

  async bind(endpoint: Endpoint): Promise<void> {
    const at = (await this.resolve(endpoint)) as InternetAddress;
    const said = formatAddress(endpoint);
    if (this.#bound) throw new SocketError("EINVAL", "the socket is bound already");
    if (this.#fd >= 0) {
      try {
        bindDescriptor(this.#fd, at, said);
      } catch (error) {
        throw networkError(error, said);
      }
      this.#bound = true;
      await this.#open();
      return;
    }
    if (this.#socket !== null) throw new SocketError("EINVAL", "the socket is bound already");
    await this.#open({ address: hostOf(at), port: at.port }, said);
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, this.#family);
  }

  async connect(address: Address): Promise<void> {
    const peer = address as InternetAddress;
    const socket = await this.#open();
    const fd = descriptorOf(dgramState(socket));
    if (stateOf(fd) !== null) {
      connectDescriptor(fd, peer, formatAddress(peer)); // so that sendto() may still go elsewhere
    } else {
      if (this.#peer !== null) socket.disconnect();
      await new Promise<void>((resolve, reject) => {
        const done = (error?: Error | null): void =>
          error ? reject(networkError(error, formatAddress(peer))) : resolve();
        socket.connect(peer.port, hostOf(peer), done as () => void);
      });
      this.#peer = peer;
    }
  }

  async send(bytes: Uint8Array, address: Address, flags: number): Promise<void> {
    const to = address as InternetAddress;
    const socket = await this.#open();
    const peer = this.#peer; // set where Node, and not libc, connected it
    const elsewhere = peer !== null && (peer.port !== to.port || peer.hostname !== to.hostname);
    if (flags !== 0 || elsewhere) {
      sendDatagram(descriptorOf(dgramState(socket)), bytes, flags, to);
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const sent = (error: Error | null): void =>
        error ? reject(SocketError.from(error, "ENETUNREACH", formatAddress(to))) : resolve();
      if (peer === null) socket.send(bytes, to.port, hostOf(to), sent);
      else socket.send(bytes, sent);
    });
  }

  close(): Promise<void> {
    this.#closed = true;
    const socket = this.#socket;
    this.#socket = null;
    if (this.#fd >= 0) closeDescriptor(this.#fd);
    this.#fd = -1;
    if (socket === null) return Promise.resolve();
    return new Promise((resolve) => {
      socket.close(() => resolve());
    });
  }

  /** The socket of Node's, bound to `at`, or by the system when it first sends. */
  #open(at: dgram.BindOptions = {}, said = "any port"): Promise<dgram.Socket> {
    this.#opening ??= this.#make(at, said).catch((error) => {
      this.#opening = null;
      throw error;
    });
    return this.#opening;
  }

  async #make(at: dgram.BindOptions, said: string): Promise<dgram.Socket> {
    const version = this.#family === AF_INET6 ? 6 : 4;
    // All that is sent goes to an address that was resolved: no name is looked up again.
    const numeric = (name: string, _: unknown, found: (e: null, a: string, f: number) => void): void =>
      found(null, name, version);
    const on = (level: number, name: number): boolean => this.#options.get(level, name) === 1;
    const socket = dgram.createSocket({
      type: `udp${version}`,
      lookup: numeric as never,
      reuseAddr: on(SOL_SOCKET, SO_REUSEADDR),
      reusePort: on(SOL_SOCKET, SO_REUSEPORT),
      ipv6Only: on(IPPROTO_IPV6, IPV6_V6ONLY),
    });
    await new Promise<void>((resolve, reject) => {
      socket.once("error", (error) => {
        socket.close();
        reject(networkError(error, said));
      });
      const bound = (): void => resolve();
      if (this.#fd >= 0) socket.bind({ fd: this.#fd }, bound);
      else socket.bind({ ...at, exclusive: true }, bound);
    });
    this.#fd = -1; // Node's now
    if (this.#closed) {
      socket.close();
      throw new SocketError("ECANCELED");
    }
    this.#socket = socket;
    this.#options.open(socket);
    socket.removeAllListeners("error");
    socket.on("error", (error) => this.#sink?.error(SocketError.from(error, "ERR_INTERNAL")));
    socket.on("message", (message: Buffer, { address, port, family }) => {
      const bytes = new Uint8Array(message.buffer as ArrayBuffer, message.byteOffset, message.byteLength);
      this.#sink?.message(bytes, addressOf(address, port, family));
    });
    return socket;
  }
}

/** Where a `dgram.Socket` keeps its handle: behind a symbol, of which `_handle` is the deprecated name. */
const dgramState = (socket: dgram.Socket): object => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === "state symbol");
  const handle =
    state === undefined ? undefined : (socket as never as Record<symbol, { handle?: Handle }>)[state];
  return { _handle: handle?.handle };
};

/** The options of UDP that Node can set. */
class PlainDatagramOptions implements PlainOptions {
  readonly #identity: PlainOptions["get"];
  readonly #values = new Map<string, [level: number, name: number, value: number]>();
  #socket: dgram.Socket | null = null;

  constructor(known: PlainOptions["get"]) {
    this.#identity = known;
  }

  get(level: number, name: number): number | undefined {
    const own = this.#identity(level, name);
    if (own !== undefined) return own;
    if (level === SOL_SOCKET && this.#socket !== null) {
      if (name === SO_SNDBUF) return this.#socket.getSendBufferSize();
      if (name === SO_RCVBUF) return this.#socket.getRecvBufferSize();
    }
    if (level === SOL_SOCKET && (name === SO_SNDBUF || name === SO_RCVBUF)) return undefined;
    return this.#values.get(`${level} ${name}`)?.[2];
  }

  set(level: number, name: number, value: number | Uint8Array): boolean {
    if (typeof value !== "number" || setterOf(level, name) === undefined) return false;
    this.#values.set(`${level} ${name}`, [level, name, value]);
    this.#apply(level, name, value);
    return true;
  }

  /** It is open: what was set before is so now. */
  open(socket: dgram.Socket): void {
    this.#socket = socket;
    for (const option of this.#values.values()) this.#apply(...option);
  }

  #apply(level: number, name: number, value: number): void {
    if (this.#socket === null) return;
    try {
      setterOf(level, name)?.(this.#socket, value);
    } catch (error) {
      throw SocketError.from(error, "EINVAL");
    }
  }
}

type Setter = (socket: dgram.Socket, value: number) => void;

const BEFORE_BIND: Setter = () => {}; // taken when the socket is made

/** What sets an option of UDP in Node; undefined where it has no such. */
const setterOf = (level: number, name: number): Setter | undefined => {
  if (level === SOL_SOCKET) {
    if (name === SO_REUSEADDR || name === SO_REUSEPORT) return BEFORE_BIND;
    if (name === SO_BROADCAST) return (socket, value) => socket.setBroadcast(value !== 0);
    if (name === SO_SNDBUF) return (socket, value) => socket.setSendBufferSize(value);
    if (name === SO_RCVBUF) return (socket, value) => socket.setRecvBufferSize(value);
  }
  if (level === IPPROTO_IPV6 && name === IPV6_V6ONLY) return BEFORE_BIND;
  if ((level === SOL_IP && name === IP_TTL) || (level === IPPROTO_IPV6 && name === IPV6_UNICAST_HOPS)) {
    return (socket, value) => socket.setTTL(value);
  }
  if (
    (level === SOL_IP && name === IP_MULTICAST_TTL) ||
    (level === IPPROTO_IPV6 && name === IPV6_MULTICAST_HOPS)
  ) {
    return (socket, value) => socket.setMulticastTTL(value);
  }
  if (
    (level === SOL_IP && name === IP_MULTICAST_LOOP) ||
    (level === IPPROTO_IPV6 && name === IPV6_MULTICAST_LOOP)
  ) {
    return (socket, value) => socket.setMulticastLoopback(value !== 0);
  }
  return undefined;
};

// What the package says of an error, which has no code: the texts of strerror(3).
const UNIX_ERRORS = {
  "Address already in use": "EADDRINUSE",
  "Permission denied": "EACCES",
  "No such file or directory": "ENOENT",
  "Connection refused": "ECONNREFUSED",
  "Message too long": "EMSGSIZE",
  "No buffer space available": "ENOBUFS",
} as const;

const unixError = (error: Error, said: string): SocketError => {
  const text = Object.keys(UNIX_ERRORS).find((known) => error.message.includes(known));
  const code = text === undefined ? "ERR_INTERNAL" : UNIX_ERRORS[text as keyof typeof UNIX_ERRORS];
  return networkError(Object.assign(new Error(error.message), { code }), said);
};

/** Unix datagrams, by `node-unix-socket`. */
class UnixDatagramTransport implements DatagramTransport {
  readonly kernel: KernelSocket;
  readonly #socket: UnixDgram = unixDgram();
  #sink: DatagramSink | null = null;
  #path: string | null = null;

  constructor() {
    const known = identity(AF_UNIX, SOCK_DGRAM, 0, () => false);
    const socket = this.#socket;
    this.kernel = new NodeKernel({
      fd: () => -1, // the package does not tell it
      options: {
        get(level, name) {
          if (level === SOL_SOCKET && name === SO_SNDBUF) return socket.getSendBufferSize();
          if (level === SOL_SOCKET && name === SO_RCVBUF) return socket.getRecvBufferSize();
          return known(level, name);
        },
        set(level, name, value) {
          if (level !== SOL_SOCKET || typeof value !== "number") return false;
          if (name === SO_SNDBUF) socket.setSendBufferSize(value);
          else if (name === SO_RCVBUF) socket.setRecvBufferSize(value);
          else return false;
          return true;
        },
      },
    });
    socket.on("data", (bytes, path) => {
      const own = new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
      this.#sink?.message(own, path === "" ? null : { family: "unix", path });
    });
    socket.on("error", (error) => this.#sink?.error(unixError(error, "the socket")));
  }

  get localAddress(): Address | null {
    return this.#path === null ? null : { family: "unix", path: this.#path };
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
  }

  async bind(endpoint: Endpoint): Promise<void> {
    if (this.#path !== null) throw new SocketError("EINVAL", "the socket is bound already");
    const at = await resolve(endpoint, AF_UNIX);
    const { path } = at as { readonly path: string };
    if (path.startsWith("\0")) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "node-unix-socket has no abstract names for datagrams; use a path",
      );
    }
    try {
      this.#socket.bind(path);
    } catch (error) {
      throw unixError(error as Error, formatAddress(at));
    }
    this.#path = path;
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, AF_UNIX);
  }

  send(bytes: Uint8Array, address: Address, flags: number): Promise<void> {
    const { path } = address as { readonly path: string };
    if (flags !== 0) return Promise.resolve(); // a path has no route
    return new Promise((resolve, reject) => {
      const sent = (error?: Error | null): void =>
        error ? reject(unixError(error, formatAddress(address))) : resolve();
      try {
        this.#socket.sendTo(Buffer.from(bytes), 0, bytes.length, path, sent);
      } catch (error) {
        sent(error as Error);
      }
    });
  }

  close(): void {
    this.#socket.close();
  }
}

// ---- Making sockets ----

/** How a socket is made, beside its kind. */
export interface SocketOptions {
  /** A descriptor to take over, which is the socket's from now on (CPython's `fileno`). Without `koffi` one that is connected, or bound by Node. */
  readonly fileno?: number;
}

/**
 * A socket of this family, type and protocol, neither bound nor connected. CPython's `socket.socket`.
 *
 *     const listener = socket(AF_INET, SOCK_STREAM);
 *     await listener.bind("127.0.0.1:7007");
 *     await listener.listen();
 *     const [connection, address] = await listener.accept();
 *
 * `AF_INET`, `AF_INET6` and `AF_UNIX`; `SOCK_STREAM` (the default) and `SOCK_DGRAM`. `SOCK_NONBLOCK` may be or-ed to the
 * type; `SOCK_CLOEXEC` is how it always is. Throws `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `EMFILE`, and `ERR_UNSUPPORTED` for
 * raw sockets and, without the package `node-unix-socket`, for Unix datagrams.
 */
export function socket(
  family: number | undefined,
  type: typeof SOCK_DGRAM,
  proto?: number,
  options?: SocketOptions,
): DatagramSocket;
export function socket(
  family?: number,
  type?: typeof SOCK_STREAM,
  proto?: number,
  options?: SocketOptions,
): Socket;
export function socket(
  family?: number,
  type?: number,
  proto?: number,
  options?: SocketOptions,
): Socket | DatagramSocket;
export function socket(
  family: number = AF_INET,
  type: number = SOCK_STREAM,
  proto = 0,
  { fileno = -1 }: SocketOptions = {},
): Socket | DatagramSocket {
  if (family !== AF_INET && family !== AF_INET6 && family !== AF_UNIX) {
    throw new SocketError(
      "EAFNOSUPPORT",
      `the address family is AF_INET (2), AF_INET6 (10) or AF_UNIX (1), not ${family}`,
    );
  }
  const kind = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (kind !== SOCK_STREAM && kind !== SOCK_DGRAM) {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      `the type of a socket is SOCK_STREAM (1) or SOCK_DGRAM (2) here, not ${kind}; raw sockets need a packet library`,
    );
  }
  const own = family === AF_UNIX ? 0 : kind === SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
  if (proto !== 0 && proto !== own) {
    throw new SocketError(
      "EPROTONOSUPPORT",
      `the protocol is 0 or ${own} for this family and type, not ${proto}`,
    );
  }
  const made =
    kind === SOCK_STREAM
      ? new Socket(family, proto, fileno)
      : new DatagramSocket(datagrams(family, proto, fileno), family);
  if (type & SOCK_NONBLOCK) made.setblocking(false);
  return made;
}

const datagrams = (family: number, proto: number, fileno: number): DatagramTransport => {
  if (family !== AF_UNIX) return new UdpTransport(family, proto, fileno);
  if (fileno < 0) return new UnixDatagramTransport();
  throw new SocketError("ERR_UNSUPPORTED", "node-unix-socket takes no descriptor for datagrams; bind a path");
};

/**
 * A socket of another descriptor's: that is duplicated, and stays its owner's. CPython's `socket.fromfd`.
 *
 * Throws `EBADF`, `ENOTSOCK`, and `ERR_UNSUPPORTED` without `koffi`: without it `socket(family, type, 0, { fileno })` takes
 * a descriptor over.
 */
export function fromfd(fd: number, family: number, type: typeof SOCK_DGRAM, proto?: number): DatagramSocket;
export function fromfd(fd: number, family: number, type: typeof SOCK_STREAM, proto?: number): Socket;
export function fromfd(fd: number, family: number, type: number, proto = 0): Socket | DatagramSocket {
  checkCount("a descriptor", fd, 0);
  return socket(family, type, proto, { fileno: duplicate(fd) });
}

/**
 * Two sockets that are connected with each other. CPython's `socket.socketpair`; socketpair(2).
 *
 * Streams, or with the package `node-unix-socket` datagrams. Rejects with `EOPNOTSUPP` for a family other than `AF_UNIX`.
 */
export function socketpair(
  family: number | undefined,
  type: typeof SOCK_DGRAM,
): Promise<[DatagramSocket, DatagramSocket]>;
export function socketpair(family?: number, type?: typeof SOCK_STREAM): Promise<[StreamSocket, StreamSocket]>;
export async function socketpair(
  family: number = AF_UNIX,
  type: number = SOCK_STREAM,
): Promise<[StreamSocket, StreamSocket] | [DatagramSocket, DatagramSocket]> {
  if (family !== AF_UNIX)
    throw new SocketError("EOPNOTSUPP", "socketpair() makes Unix sockets (AF_UNIX) alone");
  if (type === SOCK_STREAM) {
    const fds = descriptorPair(family, type);
    if (fds !== null) return [new Socket(AF_UNIX, 0, fds[0]), new Socket(AF_UNIX, 0, fds[1])];
  }
  // By way of a path that nobody else can reach.
  const folder = mkdtempSync(join(tmpdir(), "socklet-pair-"));
  const gone = (): void => rmSync(folder, { recursive: true, force: true });
  try {
    if (type === SOCK_DGRAM) return await datagramPair(folder, gone);
    const path = join(folder, "s");
    const listener = socket(AF_UNIX);
    const near = socket(AF_UNIX);
    await listener.bind({ path });
    await listener.listen(1);
    const [[far]] = await Promise.all([listener.accept(), near.connect({ path })]);
    await listener.close();
    gone();
    return [near, far];
  } catch (error) {
    gone();
    throw error;
  }
}

const datagramPair = async (folder: string, gone: () => void): Promise<[DatagramSocket, DatagramSocket]> => {
  const paths = [join(folder, "0"), join(folder, "1")] as const;
  let open = 2;
  /** The paths must be there for as long as the two send. */
  class Paired extends UnixDatagramTransport {
    override close(): void {
      super.close();
      if (--open === 0) gone();
    }
  }
  const pair = [
    new DatagramSocket(new Paired(), AF_UNIX),
    new DatagramSocket(new Paired(), AF_UNIX),
  ] as const;
  for (const i of [0, 1] as const) await pair[i].bind({ path: paths[i] });
  for (const i of [0, 1] as const) await pair[i].connect({ path: paths[1 - i] as string });
  return [...pair];
};

/** How `createServer()` listens. */
export interface CreateServerOptions {
  /** `AF_INET`, `AF_INET6` or `AF_UNIX`. Default: what the address is. */
  readonly family?: number;
  /** How many may wait for `accept()`. Default 128. */
  readonly backlog?: number;
  /** Other sockets may bind the same port, and the kernel spreads the connections (`SO_REUSEPORT`). */
  readonly reusePort?: boolean;
  /** An IPv6 socket takes IPv4, too. */
  readonly dualstackIPv6?: boolean;
}

/** A socket that listens: made, bound, and told to. CPython's `socket.create_server`. Rejects as `bind()` and `listen()`. */
export const createServer = async (
  address: AddressLike,
  { family, backlog, reusePort = false, dualstackIPv6 = false }: CreateServerOptions = {},
): Promise<Socket> => {
  const endpoint = parseAddress(address);
  const guessed = endpoint.scheme === "unix" ? AF_UNIX : endpoint.hostname.includes(":") ? AF_INET6 : AF_INET;
  const own = family ?? (dualstackIPv6 ? AF_INET6 : guessed);
  if (dualstackIPv6 && own !== AF_INET6) throw new RangeError("dualstackIPv6 is for AF_INET6");
  const server = socket(own, SOCK_STREAM);
  try {
    if (reusePort) server.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
    if (own === AF_INET6) server.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, dualstackIPv6 ? 0 : 1);
    await server.bind(endpoint);
    await server.listen(backlog);
    return server;
  } catch (error) {
    await server.close();
    throw error;
  }
};

/** Whether an IPv6 socket of this machine can take IPv4, too. CPython's `socket.has_dualstack_ipv6`. */
export const hasDualstackIPv6 = async (): Promise<boolean> => {
  try {
    await (await createServer("[::]:0", { dualstackIPv6: true })).close();
    return true;
  } catch {
    return false;
  }
};
