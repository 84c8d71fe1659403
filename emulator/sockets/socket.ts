/**
 * The socket module of Node: `socket()`, and what makes sockets in other ways. CPython's `socket`, promise for call.
 *
 * With the package `koffi` a socket has its descriptor from the first moment, as in CPython: `bind` is bind(2), and
 * any option can be set before it. Without it Node makes the descriptor when the socket is bound or connected. Either
 * way Node's own event loop reads, writes and accepts.
 */

import type dgram from "node:dgram";
import net from "node:net";
import { type Data, DONE } from "../../core/bytes/data.ts";
import { pulled } from "../../core/bytes/reader.ts";
import { SocketError, type SocketErrorCode } from "../../core/errors.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  type InternetAddress,
  parseAddress,
  type UnixAddress,
} from "../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  EAI_ADDRFAMILY,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_V6ONLY,
  MSG_DONTROUTE,
  MSG_DONTWAIT,
  POLLIN,
  SHUT_RD,
  SHUT_RDWR,
  SHUT_WR,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  SOMAXCONN,
} from "../../core/net/constants.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf, wholeMs } from "../../core/options.ts";
import { type DatagramSink, DatagramSocket, type DatagramTransport } from "../../core/sockets/datagram.ts";
import type { KernelSocket, StreamTransport } from "../../core/sockets/transport.ts";
import { type SocketConnectOptions, UnconnectedSocket } from "../../core/sockets/unconnected.ts";
import { dirname, fs, join, lazy } from "../builtin.ts";
import { addressOf, hostOf, networkError } from "../kernel/addresses.ts";
import { datagramKernel, PlainDatagrams } from "../kernel/datagrams.ts";
import { adopted, namesOf, type UnixNames } from "../kernel/descriptors/adopted.ts";
import type { Kernel } from "../kernel/descriptors/kernel.ts";
import { type Libc, libc, neededLibc } from "../kernel/descriptors/libc.ts";
import type { Kind } from "../kernel/descriptors/plain-options.ts";
import { checkedPath } from "../kernel/descriptors/sockaddr.ts";
import { acceptInto } from "../kernel/handle-transport.ts";
import { type Connection, NodeTransport } from "../kernel/net-transport.ts";
import { type StreamDescriptor, streamDescriptor } from "../kernel/stream-descriptor.ts";
import { dial } from "./connector.ts";
import { zoned } from "./names.ts";

/** A connection that was accepted, and the address of its peer: `null` for a Unix socket without a name. */
export type Accepted = [connection: Socket, address: Address | null];

const AGAIN = 10; // ms between two tries of what the kernel has no room for, and tells nobody when it has

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

const versionOf = (family: number): 4 | 6 => (family === AF_INET6 ? 6 : 4);

/** What an unbound socket of a family is called, as getsockname(2) has it. */
const unboundName = (family: number): Address | null => {
  if (family === AF_UNIX) return null;
  return family === AF_INET6
    ? { family: "IPv6", hostname: "::", port: 0 }
    : { family: "IPv4", hostname: "0.0.0.0", port: 0 };
};

/** Refuses what is no address of this family: `EAFNOSUPPORT`, and `ERR_NAME` for an address of the other version, as getaddrinfo(3) does. */
const mustFit = (endpoint: Endpoint, family: number): void => {
  const said = formatAddress(endpoint);
  if ((endpoint.scheme === "unix") !== (family === AF_UNIX)) {
    const wants = family === AF_UNIX ? "a path" : "a host and port";
    throw new SocketError("EAFNOSUPPORT", `this socket takes ${wants}, not ${said}`, { address: said });
  }
  if (endpoint.scheme === "unix") {
    checkedPath(endpoint.path);
    return;
  }
  const version = net.isIP(endpoint.hostname);
  if (version === 0 || version === versionOf(family)) return;
  throw new SocketError(
    "ERR_NAME",
    `${said} is an address of IPv${version}, and this socket has IPv${versionOf(family)}`,
    { address: said, errno: EAI_ADDRFAMILY },
  );
};

/** The address that an endpoint means in this family: of several the first, as CPython's `bind` and `sendto` take it. */
const resolve = async (endpoint: Endpoint, family: number): Promise<Address> => {
  mustFit(endpoint, family);
  if (endpoint.scheme === "unix") return { family: "unix", path: endpoint.path };
  const { hostname, port } = endpoint;
  const version = versionOf(family);
  const named = (host: string): Address => addressOf(host, port, `IPv${version}`) as Address;
  if (hostname === "") return named(version === 6 ? "::" : "0.0.0.0");
  if (hostname === "<broadcast>" && version === 4) return named("255.255.255.255"); // CPython's word for it
  if (net.isIP(hostname) === version) return named(zoned(hostname, formatAddress(endpoint)));
  try {
    return named((await lazy.dns.promises.lookup(hostname, { family: version })).address);
  } catch (error) {
    throw networkError(error, formatAddress(endpoint));
  }
};

/** What bind(2) says, with a remedy. */
const bindError = (error: unknown, address: Address, said: string): SocketError => {
  const { code } = error as { readonly code?: string };
  if (address.family === "unix" && (code === "ENOENT" || code === "EACCES")) {
    // libuv has one code for both.
    const folder = dirname(address.path);
    if (!fs.existsSync(folder)) {
      return new SocketError("ENOENT", `${said}: there is no folder ${folder}`, {
        address: said,
        cause: error,
      });
    }
  }
  return networkError(error, said);
};

// ---- Streams ----

/**
 * A stream socket: one that is bound, listens and accepts, or one that connects and then is all of `StreamSocket`;
 * what `socket(family, SOCK_STREAM)` gives, and what `accept()` does.
 *
 * It begins blocking, without a time-out, and so do those that it accepts; `settimeout()` governs `accept()` and
 * `connect()`, too. A call in the wrong state gives Linux's error: `EINVAL` (`accept()` before `listen()`, `bind()`
 * twice), `EISCONN`, `ENOTCONN`, `EPIPE`.
 *
 * A TCP socket is bound with `SO_REUSEADDR`, and a connection has `TCP_NODELAY`, since output is gathered here: set
 * them before for something else (that needs `koffi` for the first). Without `koffi` the path of a Unix socket is
 * removed when it closes, as Node does; with it, as with CPython, it stays.
 */
export class Socket extends UnconnectedSocket {
  readonly #proto: number;
  readonly #descriptor: StreamDescriptor | null; // absent where it was made connected
  #state: "fresh" | "binding" | "bound" | "dialling" = "fresh"; // until it listens, or is attached
  #failed = false; // a connect() did
  #listener: Listener | null = null;
  #dialling: net.Socket | null = null;
  #taker: ((connection: Connection) => void) | null = null;

  /** Not bound, not connected: as `socket()` gives it. (`descriptor` is what it binds, connects and listens on; `null`: it is made connected.) */
  constructor(
    family: number,
    proto = 0,
    descriptor: StreamDescriptor | null = streamDescriptor({ family, type: SOCK_STREAM, proto }),
  ) {
    super(family);
    this.#proto = proto;
    this.#descriptor = descriptor;
    if (family === AF_UNIX) {
      // What Linux says of a Unix socket that is not connected: unix(7) has no ENOTCONN for recv().
      this.rfile.fail("EINVAL", true);
      this.wfile.fail("ENOTCONN", true);
    }
    if (descriptor?.localAddress != null) this.#state = "bound";
  }

  /** A socket over a descriptor that was made elsewhere, in whatever state. */
  static adopt(kind: Kind, fd: number): Socket {
    const from = adopted(fd, kind);
    const descriptor = streamDescriptor(kind, from);
    const made = new Socket(kind.family, kind.proto, descriptor);
    if (from.state === "connected") made.#attach(descriptor.opened(), namesOf(fd), descriptor.kernel);
    else if (from.state === "listening") void made.listen(SOMAXCONN).catch(() => {}); // accept() says so, then
    return made;
  }

  override get proto(): number {
    return this.#proto;
  }

  /**
   * Each connection in place of its waiting for `accept()`: how a server takes them. They are unread, and whoever takes
   * one closes it.
   */
  get onconnection(): ((connection: Connection) => void) | null {
    return this.#taker;
  }

  set onconnection(taker: ((connection: Connection) => void) | null) {
    this.#taker = taker;
    if (this.#listener !== null) this.#listener.taker = taker;
  }

  /** Takes an address of this machine. Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ERR_NAME`; `EINVAL` where it has one already. bind(2) */
  async bind(address: AddressLike): Promise<void> {
    this.#mustBeNew();
    const endpoint = parseAddress(address);
    if (endpoint.scheme === "udp") {
      throw new TypeError(`${formatAddress(endpoint)} is for a SOCK_DGRAM socket`);
    }
    if (this.#state !== "fresh") throw new SocketError("EINVAL", "the socket has an address already");
    this.#state = "binding";
    try {
      const at = await resolve(endpoint, this.family);
      if (this.closed) throw new SocketError("ECANCELED");
      this.#bind(at, formatAddress(endpoint));
      this.#state = "bound";
    } finally {
      if (this.#state === "binding") this.#state = "fresh";
    }
  }

  /** Lets others connect, of whom `backlog` (at most `SOMAXCONN`) may wait for `accept()`; one more is reset. Default 128, as CPython's. listen(2) */
  async listen(backlog = 128): Promise<void> {
    checkCount("the backlog", backlog, 0);
    this.#mustBeNew();
    const most = Math.min(Math.max(backlog, 1), SOMAXCONN);
    if (this.#listener !== null) {
      this.#listener.backlog = most;
      return this.#listener.listening;
    }
    if (this.#state === "fresh") {
      if (this.family === AF_UNIX)
        throw new SocketError("EINVAL", "a Unix socket listens at a path: bind() it");
      this.#bind(unboundName(this.family) as Address, "a port of the system's choice");
      this.#state = "bound";
    }
    if (this.#state !== "bound") throw new SocketError("EINVAL", `the socket is ${this.#state}`);
    let listener: Listener | null = null;
    try {
      listener = new Listener(this.#descriptor as StreamDescriptor, most);
      listener.taker = this.#taker;
      this.#listener = listener;
      await listener.listening;
    } catch (error) {
      if (this.#listener === listener) this.#listener = null;
      throw SocketError.isCode((error as { code?: string }).code)
        ? networkError(error, formatAddress(this.getsockname()))
        : error;
    }
  }

  /**
   * The next connection, and its peer's address. Rejects with `EINVAL` where this does not listen, `ETIMEDOUT`,
   * `EWOULDBLOCK`, and `ECANCELED` where it is closed meanwhile. accept(2)
   */
  async accept(): Promise<Accepted> {
    if (this.closed) throw new SocketError("EBADF");
    const listener = this.#listener;
    if (listener === null) throw new SocketError("EINVAL", "accept() needs listen() first");
    await listener.listening;
    const raw = await listener.next(this.gettimeout());
    const connection = new Socket(this.family, this.#proto, null);
    const names = this.family === AF_UNIX ? namesOf(raw.fd) : {};
    connection.attach(raw.from({ ...names, local: this.#path, kernel: this.#descriptor?.accepted(raw) }));
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
    if (this.#listener !== null && !this.closed) {
      const code = this.family === AF_UNIX ? "EINVAL" : "EISCONN";
      throw new SocketError(code, "this socket listens; connect with another");
    }
    return super.connect(address, options);
  }

  /** As everywhere; of a Unix stream an address is refused, as on Linux: `EISCONN`, `EOPNOTSUPP`. CPython's `sendto`. */
  override sendto(data: Data, address: AddressLike): Promise<number>;
  override sendto(data: Data, flags: number, address: AddressLike): Promise<number>;
  override async sendto(data: Data, ...to: [AddressLike] | [flags: number, AddressLike]): Promise<number> {
    if (this.family === AF_UNIX && !this.closed) {
      parseAddress(to.at(-1) as AddressLike);
      throw new SocketError(this.attached ? "EISCONN" : "EOPNOTSUPP");
    }
    return to.length === 1 ? super.sendto(data, ...to) : super.sendto(data, ...to);
  }

  /**
   * As `StreamSocket.shutdown`. Rejects with `ENOTCONN` where there is no connection; a socket that listens ends that
   * with `SHUT_RD`: whoever waits in `accept()` is given `EINVAL`.
   */
  override async shutdown(how: number): Promise<void> {
    const idle = !this.attached && !this.closed && [SHUT_RD, SHUT_WR, SHUT_RDWR].includes(how);
    if (idle && this.#listener !== null) {
      if (how !== SHUT_WR) this.#listener.end("EINVAL");
      return;
    }
    if (idle && this.family === AF_UNIX) return; // Linux has nothing against it
    return super.shutdown(how);
  }

  /** Where it is bound, or `0.0.0.0:0`; `null` for a Unix socket without a name. Throws `EBADF`. */
  override getsockname(): Address | null {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) return super.getsockname();
    return this.#descriptor?.localAddress ?? unboundName(this.family);
  }

  /** As `StreamSocket.detach`; also of a socket that is not connected. One that listens listens on, for whoever has the descriptor. */
  override async detach(): Promise<number> {
    const kernel = this.kernel("detach()") as Kernel;
    if (!this.attached) {
      const fd = kernel.detach();
      await this.close();
      return fd;
    }
    await this.wfile.flush();
    await kernel.drained(); // super.detach() cannot wait for it
    return super.detach();
  }

  /** Also ends the listening and the connecting; connections that nobody accepted are reset. */
  override close(): Promise<void> {
    if (!this.closed) this.#letGo();
    return super.close();
  }

  override abort(): void {
    if (!this.closed) this.#letGo();
    super.abort();
  }

  override readiness(mask: number): number {
    if (this.closed || this.#listener === null) return super.readiness(mask);
    return mask & POLLIN && this.#listener.waiting > 0 ? POLLIN : 0;
  }

  override onReadiness(mask: number, told: () => void): () => void {
    if (this.closed || this.#listener === null) return super.onReadiness(mask, told);
    return this.#listener.watch(told);
  }

  protected override get kernelSocket(): KernelSocket | undefined {
    return this.attached ? super.kernelSocket : this.#descriptor?.kernel;
  }

  protected override async dial(
    endpoint: Endpoint,
    timeout: number | null,
    options: SocketConnectOptions,
  ): Promise<StreamTransport> {
    mustFit(endpoint, this.family);
    const before = this.#state;
    if (before === "binding") throw new SocketError("EINVAL", "the socket is being bound");
    this.#state = "dialling";
    const began = performance.now();
    for (let failedBefore = this.#failed; ; ) {
      const left = timeout === null ? null : timeout - (performance.now() - began);
      if (left !== null && left <= 0) {
        throw new SocketError(
          "ETIMEDOUT",
          `${formatAddress(endpoint)} took no connection for ${wholeMs(timeout ?? 0)}`,
        );
      }
      try {
        return await this.#dial(endpoint, { ...options, connectTimeout: left });
      } catch (error) {
        this.#state = before;
        this.#failed = true;
        const { code } = error as SocketError;
        // Linux answers the first connect() after one that failed while nobody waited with this, and no more.
        const stale = code === "ECONNABORTED" && failedBefore;
        failedBefore = false;
        // The queue of a Unix listener is full: CPython's connect() waits, and who does not wait was told EINPROGRESS.
        const full = code === "EWOULDBLOCK";
        if (this.closed || !(stale || full)) throw error;
        if (full) await sleep(AGAIN);
        if (this.closed) throw new SocketError("ECANCELED");
        this.#state = "dialling";
      }
    }
  }

  async #dial(
    endpoint: Endpoint,
    options: SocketConnectOptions & { connectTimeout: number | null },
  ): Promise<StreamTransport> {
    const descriptor = this.#descriptor as StreamDescriptor;
    const local = this.#path;
    const socket = descriptor.connecting();
    this.#dialling = socket;
    const version = this.family === AF_UNIX ? undefined : versionOf(this.family);
    let connected = false;
    try {
      const transport = await dial(endpoint, options, { socket, version, local, kernel: descriptor.kernel });
      connected = true;
      return transport;
    } finally {
      this.#dialling = null;
      if (!connected) socket.destroy();
      descriptor.connected(connected);
    }
  }

  /** The path that it is bound to, which Node does not tell. */
  get #path(): UnixAddress | undefined {
    const name = this.#descriptor?.localAddress;
    return name?.family === "unix" ? name : undefined;
  }

  #attach(socket: net.Socket, names: UnixNames, kernel?: Kernel): void {
    socket.pause();
    this.attach(new NodeTransport(socket, { ...names, kernel }));
  }

  #bind(at: Address, said: string): void {
    try {
      (this.#descriptor as StreamDescriptor).bind(at, said);
    } catch (error) {
      throw bindError(error, at, said);
    }
  }

  #letGo(): void {
    this.#listener?.end("ECANCELED");
    this.#dialling?.destroy(); // what dials is told by its 'close'
    if (!this.attached) this.#descriptor?.close();
  }

  #mustBeNew(): void {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) throw new SocketError("EINVAL", "the socket is connected");
  }
}

const ignore = (): void => {};

/** Resets a connection that nobody accepted, so that its client knows. */
const refuse = (connection: Connection): void => connection.abort();

interface Acceptor {
  readonly resolve: (connection: Connection) => void;
  readonly reject: (error: SocketError) => void;
}

/** The connections that arrive: Node accepts them by itself, and here they wait, unread. */
class Listener {
  /** Resolves when it listens. Rejects with the kernel's error. */
  readonly listening: Promise<void>;
  /** How many may wait. */
  backlog: number;
  /** Who takes each at once. */
  taker: ((connection: Connection) => void) | null = null;
  readonly #server: net.Server;
  readonly #queue: Connection[] = [];
  #acceptors: Acceptor[] = [];
  #watchers: (() => void)[] = [];
  #ended: SocketErrorCode | null = null;

  constructor(descriptor: StreamDescriptor, backlog: number) {
    this.backlog = backlog;
    const server = net.createServer({
      allowHalfOpen: true, // the peer's end is not ours
      pauseOnConnect: true, // nothing is read before somebody asks
      ...descriptor.inherited, // noDelay: the writer gathers; Nagle would hold back what it sends
    });
    this.#server = server;
    server.on("connection", (socket) => this.#arrived(new NodeTransport(socket)));
    this.listening = descriptor.listen(server, backlog).then(() => {
      acceptInto(server, (connection) => this.#arrived(connection));
      server.on("error", ignore); // an accept that failed: that client was dropped, and the next can come
    });
    this.listening.catch(ignore); // whoever awaits it is told
  }

  /** How many wait. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** The next connection. */
  async next(timeout: number | null): Promise<Connection> {
    const first = this.#queue.shift();
    if (first !== undefined) return first;
    if (this.#ended !== null) throw new SocketError(this.#ended);
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    const acceptor: Acceptor = { resolve, reject };
    this.#acceptors.push(acceptor);
    const late = (error: SocketError): void => {
      this.#acceptors = this.#acceptors.filter((other) => other !== acceptor);
      reject(error);
    };
    let timer: ReturnType<typeof setTimeout> | undefined;
    if (timeout === 0) {
      // Once round the event loop, in which whoever has connected is accepted.
      setImmediate(() => setImmediate(() => late(new SocketError("EWOULDBLOCK"))));
    } else if (timeout !== null) {
      const said = `nobody connected for ${wholeMs(timeout)}`;
      timer = setTimeout(() => late(new SocketError("ETIMEDOUT", said)), timeout);
    }
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Calls `told` when one waits, or none will any more; gives what stops that. */
  watch(told: () => void): () => void {
    this.#watchers.push(told);
    return () => {
      this.#watchers = this.#watchers.filter((other) => other !== told);
    };
  }

  /** Listens no more: whoever waits in `next()` is given `code`, and what nobody accepted is reset. */
  end(code: SocketErrorCode): void {
    this.#ended = code;
    this.#server.close();
    for (const connection of this.#queue.splice(0)) refuse(connection);
    for (const { reject } of this.#acceptors.splice(0)) reject(new SocketError(code));
    queueMicrotask(() => this.#tell()); // when its socket says that it is closed
  }

  #arrived(connection: Connection): void {
    if (this.taker !== null) {
      this.taker(connection);
      return;
    }
    const acceptor = this.#acceptors.shift();
    if (acceptor !== undefined) {
      acceptor.resolve(connection);
    } else if (this.#queue.length >= this.backlog) {
      // Not at once: its client may be in this process, and has not been told yet that it is connected.
      setImmediate(refuse, connection);
    } else {
      this.#queue.push(connection);
      this.#tell();
    }
  }

  #tell(): void {
    for (const told of this.#watchers) told();
  }
}

// ---- Datagrams ----

const BATCH = 64; // datagrams received before others have their turn of the event loop

/** Datagrams by libc, of every family: each call is the kernel's own, and libuv says when there is something to receive. */
class KernelDatagrams implements DatagramTransport {
  readonly kernel: Kernel;
  readonly #libc: Libc;
  readonly #family: number;
  readonly #fd: number;
  readonly #adopted: boolean;
  #sink: DatagramSink | null = null;
  #unwatch: (() => void) | null = null; // from the moment on when something can come: until then it keeps no process alive
  #binding = false;
  #delayed = 0; // datagrams that wait for the kernel's room
  #last: Promise<void> = DONE; // when the last of them is sent
  #open = true;

  /** `adopted`: the descriptor was made elsewhere, and may be bound. */
  constructor(libc: Libc, kind: Kind, fd: number, adopted: boolean) {
    this.#libc = libc;
    this.#family = kind.family;
    this.#fd = fd;
    this.#adopted = adopted;
    this.kernel = datagramKernel(libc, kind, fd, () => this.#letGo());
  }

  get localAddress(): Address | null {
    return this.#libc.getsockname(this.#fd);
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
    if (this.#adopted) this.#hear();
  }

  async bind(endpoint: Endpoint): Promise<void> {
    if (this.#binding) throw new SocketError("EINVAL", "the socket is being bound");
    this.#binding = true;
    try {
      const at = await resolve(endpoint, this.#family);
      const said = formatAddress(endpoint);
      this.#mustBeOpen();
      try {
        this.#libc.bind(this.#fd, at, said);
      } catch (error) {
        const bound = this.#unwatch !== null && (error as SocketError).code === "EINVAL";
        throw bound
          ? new SocketError("EINVAL", "the socket has an address already")
          : bindError(error, at, said);
      }
      this.#hear();
    } finally {
      this.#binding = false;
    }
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, this.#family);
  }

  async connect(address: Address): Promise<void> {
    this.#libc.connect(this.#fd, address, formatAddress(address));
    this.#hear();
  }

  send(bytes: Uint8Array, address: Address, flags: number, wait?: { readonly over: boolean }): Promise<void> {
    try {
      const to = this.#libc.pack(address);
      const said = formatAddress(address);
      let later = bytes;
      const send = (): boolean => {
        this.#mustBeOpen();
        if (wait?.over) throw new SocketError("ETIMEDOUT");
        this.#hear(); // the kernel binds it
        return this.#libc.sendto(this.#fd, later, flags & MSG_DONTROUTE, to, said) !== null;
      };
      if (this.#delayed === 0 && send()) return DONE;
      if (flags & MSG_DONTWAIT) throw new SocketError("EWOULDBLOCK");
      later = new Uint8Array(bytes); // they are the caller's again
      return this.#sendLater(send);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  close(): void {
    if (!this.#open) return;
    this.#letGo();
    this.#libc.close(this.#fd);
  }

  /**
   * Sends it when the kernel has room: for a Unix socket when its receiver has, of which nobody is told (poll(2) says
   * that the sender can write, all the same), so that it is tried again.
   */
  #sendLater(send: () => boolean): Promise<void> {
    this.#delayed++;
    const sent = this.#last.then(async () => {
      try {
        // The receiver may be in this process: once round the event loop before the clock is waited for.
        if (this.#open) await new Promise((resolve) => setImmediate(resolve));
        while (!send()) await sleep(1);
      } finally {
        this.#delayed--;
      }
    });
    this.#last = sent.catch(ignore);
    return sent;
  }

  #hear(): void {
    this.#unwatch ??= this.#libc.watch(this.#fd, () => this.#receive());
  }

  #receive(): void {
    for (let i = 0; i < BATCH && this.#open; i++) {
      try {
        const received = this.#libc.recvfrom(this.#fd);
        if (received === null) return;
        this.#sink?.message(...received);
      } catch (error) {
        this.#sink?.error(error as SocketError); // of an earlier send: ECONNREFUSED
      }
    }
  }

  #letGo(): void {
    this.#open = false;
    this.#unwatch?.();
    this.kernel.closed();
  }

  #mustBeOpen(): void {
    if (!this.#open) throw new SocketError("ECANCELED");
  }
}

/** UDP by `node:dgram`, where there is no libc: a `dgram.Socket`, which is made when the socket is first bound, connected or sent from. */
class NodeDatagrams implements DatagramTransport {
  readonly #plain: PlainDatagrams;
  readonly #family: number;
  #fd: number; // to take over; -1 where there is none
  #socket: dgram.Socket | null = null;
  #opening: Promise<dgram.Socket> | null = null;
  #sink: DatagramSink | null = null;
  #peer: Address | null = null;
  #closed = false;

  constructor(kind: Kind, fd: number) {
    this.#plain = new PlainDatagrams(kind);
    this.#family = kind.family;
    this.#fd = fd;
    if (fd >= 0) void this.#open().catch(ignore); // it may be bound, and then hears from now on; who sends is told
  }

  get kernel(): KernelSocket {
    return this.#plain.kernel;
  }

  get localAddress(): Address | null {
    if (this.#socket === null) return unboundName(this.#family);
    const { address, port, family } = this.#socket.address();
    return addressOf(address, port, family);
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
  }

  async bind(endpoint: Endpoint): Promise<void> {
    const at = (await resolve(endpoint, this.#family)) as InternetAddress;
    if (this.#opening !== null) throw new SocketError("EINVAL", "the socket has an address already");
    await this.#open({ address: hostOf(at), port: at.port }, formatAddress(endpoint));
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, this.#family);
  }

  async connect(address: Address): Promise<void> {
    const peer = address as InternetAddress;
    const socket = await this.#open();
    if (this.#peer !== null) socket.disconnect(); // with which Linux takes back a port that it had chosen
    this.#peer = null;
    await new Promise<void>((resolve, reject) => {
      const done = (error?: Error | null): void =>
        error ? reject(networkError(error, formatAddress(peer))) : resolve();
      socket.connect(peer.port, hostOf(peer), done as () => void);
    });
    this.#peer = peer;
  }

  async send(bytes: Uint8Array, address: Address, flags: number): Promise<void> {
    if (flags & MSG_DONTROUTE) throw elsewhere("MSG_DONTROUTE");
    const to = address as InternetAddress;
    const peer = this.#peer;
    if (peer !== null && formatAddress(peer) !== formatAddress(to))
      throw elsewhere("sendto() past the peer of connect()");
    const socket = await this.#open();
    await new Promise<void>((resolve, reject) => {
      const sent = (error: Error | null): void =>
        error ? reject(networkError(error, formatAddress(to))) : resolve();
      if (peer === null) socket.send(bytes, to.port, hostOf(to), sent);
      else socket.send(bytes, sent);
    });
  }

  close(): Promise<void> {
    this.#closed = true;
    const socket = this.#socket;
    this.#plain.kernel.closed();
    if (socket === null) return DONE; // what is being opened closes itself
    return new Promise((resolve) => {
      socket.close(() => resolve());
    });
  }

  /** Node's socket: bound to `at`, or by the system. */
  #open(at: dgram.BindOptions = {}, said = "a port of the system's choice"): Promise<dgram.Socket> {
    this.#opening ??= this.#make(at, said).catch((error) => {
      this.#opening = null;
      throw error;
    });
    return this.#opening;
  }

  async #make(at: dgram.BindOptions, said: string): Promise<dgram.Socket> {
    const socket = this.#plain.make();
    const fd = this.#fd;
    this.#fd = -1;
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject);
        socket.bind(fd >= 0 ? { fd, exclusive: true } : { ...at, exclusive: true }, resolve);
      });
      if (this.#closed) throw new SocketError("ECANCELED");
      socket.removeAllListeners("error");
      this.#plain.opened(socket);
    } catch (error) {
      socket.close();
      throw networkError(error, said);
    }
    this.#socket = socket;
    socket.on("error", (error) => this.#sink?.error(SocketError.from(error, "ERR_INTERNAL")));
    socket.on("message", (message: Buffer, { address, port, family }) => {
      const bytes = new Uint8Array(message.buffer as ArrayBuffer, message.byteOffset, message.byteLength);
      this.#sink?.message(bytes, addressOf(address, port, family));
    });
    return socket;
  }
}

/** What Node's UDP has no way to. */
const elsewhere = (what: string): SocketError =>
  new SocketError(
    "ERR_UNSUPPORTED",
    `${what} needs the package koffi (npm install koffi); or use another socket`,
  );

/** Datagrams by libc, over `fileno` or a new descriptor; `null` where there is no libc. */
export const kernelDatagrams = (kind: Kind, fileno = -1): DatagramTransport | null => {
  const calls = libc();
  if (!calls?.watches) return null;
  const fd = fileno >= 0 ? fileno : calls.socket(kind.family, SOCK_DGRAM, kind.proto);
  return new KernelDatagrams(calls, kind, fd, fileno >= 0);
};

const datagrams = (kind: Kind, fileno: number): DatagramTransport => {
  if (fileno >= 0) adopted(fileno, kind);
  const made = kernelDatagrams(kind, fileno);
  if (made !== null) return made;
  if (kind.family !== AF_UNIX) return new NodeDatagrams(kind, fileno);
  const why = libc() === null ? "" : " of version 3.3 or newer";
  const said = `a Unix datagram socket needs the package koffi${why}: npm install koffi (node-unix-socket serves UnixDatagramServer alone)`;
  throw new SocketError("ERR_UNSUPPORTED", said);
};

// ---- Making sockets ----

/** How a socket is made, beside its kind. */
export interface SocketOptions {
  /**
   * A descriptor to take over, in whatever state it is; the socket's from now on (CPython's `fileno`). Throws `EBADF`,
   * `ENOTSOCK`, and `EINVAL` where it is of another family or type.
   */
  readonly fileno?: number;
}

const SOCKET_NAMES = optionNamesOf<SocketOptions>()({ fileno: true });

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
 * raw sockets and, without the package `koffi`, for Unix datagrams.
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
  options: SocketOptions = {},
): Socket | DatagramSocket {
  checkOptions("socket()", options, SOCKET_NAMES);
  const { fileno } = options;
  for (const [what, value] of Object.entries({ family, type, proto })) {
    if (!Number.isInteger(value)) throw new TypeError(`the ${what} of a socket is an integer, not ${value}`);
  }
  if (fileno !== undefined) checkCount("a descriptor", fileno, 0);
  if (family !== AF_INET && family !== AF_INET6 && family !== AF_UNIX) {
    throw new SocketError(
      "EAFNOSUPPORT",
      `the address family is AF_INET (2), AF_INET6 (10) or AF_UNIX (1), not ${family}`,
    );
  }
  const kind: Kind = { family, type: type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK), proto };
  const stream = kind.type === SOCK_STREAM;
  if (!stream && kind.type !== SOCK_DGRAM) {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      `the type of a socket is SOCK_STREAM (1) or SOCK_DGRAM (2) here, not ${kind.type}; raw sockets need a packet library`,
    );
  }
  const own = family === AF_UNIX ? AF_UNIX : stream ? IPPROTO_TCP : IPPROTO_UDP; // unix(7): its protocol is its family
  if (proto !== 0 && proto !== own) {
    throw new SocketError(
      "EPROTONOSUPPORT",
      `the protocol is 0 or ${own} for this family and type, not ${proto}`,
    );
  }
  const made = !stream
    ? new DatagramSocket(datagrams(kind, fileno ?? -1), family)
    : fileno === undefined
      ? new Socket(family, proto)
      : Socket.adopt(kind, fileno);
  if (type & SOCK_NONBLOCK) made.setblocking(false);
  return made;
}

/**
 * A socket of another descriptor's: that is duplicated, and stays its owner's. CPython's `socket.fromfd`.
 *
 * Throws `EBADF`, `ENOTSOCK`, `EINVAL` where it is of another family or type, and `ERR_UNSUPPORTED` without `koffi`:
 * without it `socket(family, type, 0, { fileno })` takes a descriptor over.
 */
export function fromfd(fd: number, family: number, type: typeof SOCK_DGRAM, proto?: number): DatagramSocket;
export function fromfd(fd: number, family: number, type: typeof SOCK_STREAM, proto?: number): Socket;
export function fromfd(fd: number, family: number, type: number, proto?: number): Socket | DatagramSocket;
export function fromfd(fd: number, family: number, type: number, proto = 0): Socket | DatagramSocket {
  checkCount("a descriptor", fd, 0);
  const calls = neededLibc("fromfd()");
  const fileno = calls.dup(fd);
  try {
    return socket(family, type, proto, { fileno });
  } catch (error) {
    calls.close(fileno);
    throw error;
  }
}

/**
 * Two sockets that are connected with each other. CPython's `socket.socketpair`; socketpair(2).
 *
 * Streams, or with the package `koffi` datagrams, which have names here, by which each knows the other's. Rejects with
 * `EOPNOTSUPP` for a family other than `AF_UNIX`.
 */
export function socketpair(
  family: number | undefined,
  type: typeof SOCK_DGRAM,
): Promise<[DatagramSocket, DatagramSocket]>;

export function socketpair(family?: number, type?: typeof SOCK_STREAM): Promise<[Socket, Socket]>;
export async function socketpair(
  family: number = AF_UNIX,
  type: number = SOCK_STREAM,
): Promise<[Socket, Socket] | [DatagramSocket, DatagramSocket]> {
  if (family !== AF_UNIX) {
    throw new SocketError("EOPNOTSUPP", "socketpair() makes Unix sockets (AF_UNIX) alone");
  }
  const calls = type === SOCK_DGRAM ? neededLibc("a pair of datagram sockets") : libc();
  if (type === SOCK_DGRAM) {
    const one = socket(AF_UNIX, SOCK_DGRAM);
    const other = socket(AF_UNIX, SOCK_DGRAM);
    for (const end of [one, other]) (calls as Libc).autobind(end.fileno());
    await one.connect(other.getsockname() as Address);
    await other.connect(one.getsockname() as Address);
    return [one, other];
  }
  if (calls !== null) {
    const [one, other] = calls.socketpair(AF_UNIX, SOCK_STREAM);
    return [
      socket(AF_UNIX, SOCK_STREAM, 0, { fileno: one }),
      socket(AF_UNIX, SOCK_STREAM, 0, { fileno: other }),
    ];
  }
  // By way of a path that nobody else can reach.
  const folder = fs.mkdtempSync(join(lazy.os.tmpdir(), "socklet-pair-"));
  const listener = socket(AF_UNIX);
  const one = socket(AF_UNIX);
  try {
    const path = join(folder, "s");
    await listener.bind({ path });
    await listener.listen(1);
    const [[other]] = await Promise.all([listener.accept(), one.connect({ path })]);
    return [one, other];
  } catch (error) {
    await one.close();
    throw error;
  } finally {
    await listener.close();
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** How `createServer()` listens. */
export interface CreateServerOptions {
  /** `AF_INET`, `AF_INET6` or `AF_UNIX`. Default: what the address is, and `AF_INET` for a name. */
  readonly family?: number;
  /** How many may wait for `accept()`. Default 128. */
  readonly backlog?: number;
  /** Other sockets may bind the same port, and the kernel spreads the connections (`SO_REUSEPORT`). */
  readonly reusePort?: boolean;
  /** An IPv6 socket takes IPv4, too. Default false: it takes IPv6 alone. */
  readonly dualstackIpv6?: boolean;
}

const CREATE_SERVER_NAMES = optionNamesOf<CreateServerOptions>("createServer()")({
  family: true,
  backlog: true,
  reusePort: true,
  dualstackIpv6: true,
});

/** A socket that listens: made, bound, and told to. CPython's `socket.create_server`. Rejects as `bind()` and `listen()`. */
export const createServer = async (
  address: AddressLike,
  options: CreateServerOptions = {},
): Promise<Socket> => {
  checkOptions("createServer()", options, CREATE_SERVER_NAMES);
  const { family, backlog, reusePort = false, dualstackIpv6 = false } = options;
  const endpoint = parseAddress(address);
  const guessed = endpoint.scheme === "unix" ? AF_UNIX : endpoint.hostname.includes(":") ? AF_INET6 : AF_INET;
  const own = family ?? (dualstackIpv6 && guessed !== AF_UNIX ? AF_INET6 : guessed);
  if (dualstackIpv6 && own !== AF_INET6) throw new RangeError("dualstackIpv6 is for AF_INET6");
  const server = socket(own, SOCK_STREAM);
  try {
    if (own !== AF_UNIX) server.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if (reusePort) server.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
    if (own === AF_INET6) server.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, !dualstackIpv6);
    await server.bind(endpoint);
    await server.listen(backlog);
    return server;
  } catch (error) {
    await server.close();
    throw error;
  }
};

/** Whether an IPv6 socket of this machine can take IPv4, too. CPython's `socket.has_dualstack_ipv6`. */
export const hasDualstackIpv6 = async (): Promise<boolean> => {
  try {
    await (await createServer("[::]:0", { dualstackIpv6: true })).close();
    return true;
  } catch {
    return false;
  }
};

// ---- A client of datagrams ----

/** Options of `createDatagramConnection()`. */
export interface DatagramConnectionOptions {
  /** How long one `recv()` waits, in milliseconds; `null` for ever. Default 5 000: a datagram that is lost has no answer, as dig's `+time`. */
  readonly timeout?: number | null;
  /** What to bind. Default: what the system chooses; for a path nothing, so that the server cannot answer. */
  readonly localAddress?: AddressLike;
}

const DATAGRAM_CONNECTION_NAMES = optionNamesOf<DatagramConnectionOptions>("createDatagramConnection()")({
  timeout: true,
  localAddress: true,
});

/**
 * A datagram socket whose peer is `address`: `udp://host:port` (or `host:port`), or a path. It sends to that peer and
 * hears no other; the twin of `createConnection()`.
 *
 *     await using client = await createDatagramConnection("udp://127.0.0.1:7007");
 *     await client.send("hello");
 *     await client.recv(); // rejects with ETIMEDOUT where nothing comes
 *
 * Nothing is sent, so nobody need be there. Rejects with `ERR_NAME`; for a path with `ENOENT`, `ECONNREFUSED`, and
 * without the package `koffi` with `ERR_UNSUPPORTED`; as `bind()` for `localAddress`.
 */
export const createDatagramConnection = async (
  address: AddressLike,
  options: DatagramConnectionOptions = {},
): Promise<DatagramSocket> => {
  checkOptions("createDatagramConnection()", options, DATAGRAM_CONNECTION_NAMES);
  const { timeout = 5_000, localAddress } = options;
  const endpoint = parseAddress(address);
  const said = formatAddress(endpoint);
  if (endpoint.scheme === "tcp") throw new TypeError(`${said} is for createConnection()`);
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new RangeError(`${said} is no peer: it names no host, or port 0`);
  }
  checkTime("timeout", timeout, 1, true);
  let family: number = AF_UNIX;
  let peer = endpoint;
  if (endpoint.scheme !== "unix") {
    const found = await lazy.dns.promises.lookup(endpoint.hostname).catch((error) => {
      throw networkError(error, said);
    });
    family = found.family === 6 ? AF_INET6 : AF_INET;
    peer = { ...endpoint, hostname: found.address };
  }
  const made = socket(family, SOCK_DGRAM);
  try {
    if (localAddress !== undefined) await made.bind(localAddress);
    await made.connect(peer);
  } catch (error) {
    await made.close();
    throw error;
  }
  made.settimeout(timeout);
  return made;
};
