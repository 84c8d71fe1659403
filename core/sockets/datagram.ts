/**
 * Datagrams: `Datagram` is one that has arrived, with the way back to its sender, which is what a handler gets; the datagram socket
 * sends and receives them, which is what `socket()` returns. Its seam is `DatagramTransport`.
 */

import { deadline } from "../bytes/alarm.ts";
import { type Bytes, type Data, toBytes, withDeadline } from "../bytes/data.ts";
import { pulled } from "../bytes/reader.ts";
import { errnoOf, SocketError, type SocketErrorCode } from "../errors.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  packAddress,
  parseAddress,
} from "../net/address.ts";
import {
  AF_UNIX,
  MSG_DONTROUTE,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_PEEK,
  MSG_WAITALL,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  SHUT_RD,
  SHUT_RDWR,
  SHUT_WR,
  SOCK_DGRAM,
} from "../net/constants.ts";
import { type ProxyHeader, proxyOf } from "../net/proxy/header.ts";
import { checkCount, checkTime, wholeMs } from "../options.ts";
import { BaseSocket, checkFlags } from "./base-socket.ts";
import type { KernelSocket } from "./transport.ts";

/** The most bytes that a UDP datagram carries over IPv4. */
export const MAX_DATAGRAM = 65_507; // bytes: 65 535 − 20 IP − 8 UDP (RFC 768)

/** Sends datagrams: the way back to the sender of a `Datagram`. */
export interface DatagramSender {
  /**
   * Sends one datagram without waiting. Like the network, it may lose the datagram. The caller may reuse the bytes when it
   * returns. `address` is that of a datagram that arrived; `null` if its sender is unknown. Throws `EMSGSIZE` if it is larger than a
   * datagram can be, `EBADF` after a close, `ENOTCONN` if there is no address to send to.
   */
  post(data: Data, address: Address | null): void;
}

/** One datagram that has arrived, and the way back to its sender: what a datagram handler gets as `this.request`. */
export class Datagram {
  /** Its bytes, which you may keep. */
  readonly data: Bytes;
  /** The sender, or `null` if it is not known (workerd; a Unix sender without a name). */
  readonly address: Address | null;
  /** Whether it was longer than the receiver accepts, so that its end is lost. */
  readonly truncated: boolean;
  readonly #sender: DatagramSender;

  constructor(data: Uint8Array, address: Address | null, sender: DatagramSender, truncated = false) {
    this.data = data as Bytes; // no kernel gives shared memory
    this.address = address;
    this.truncated = truncated;
    this.#sender = sender;
  }

  /** What the proxy said about the sender (PROXY protocol); `null` if there is no proxy, or it is not trusted. */
  get proxy(): ProxyHeader | null {
    return proxyOf(this);
  }

  /** Sends one datagram back. Throws as `DatagramSender.post`. */
  reply(data: Data): void {
    this.#sender.post(data, this.address);
  }
}

/** Returns `address`. Throws `ENOTCONN` if there is none. */
export const knownSender = (address: Address | null): Address => {
  if (address !== null) return address;
  throw new SocketError("ENOTCONN", "the sender of this datagram is not known");
};

/** A datagram that is larger than the transport carries is an error; it is never cut. */
export const checkDatagramSize = (size: number, address?: Address | null): void => {
  if (size <= MAX_DATAGRAM) return;
  throw new SocketError(
    "EMSGSIZE",
    `a datagram of ${size} bytes is over the ${MAX_DATAGRAM} that UDP carries`,
    {
      address: address ? formatAddress(address) : undefined,
    },
  );
};

const OVERHEAD = 256; // bytes that each datagram counts in addition to its own, so that empty ones are bounded as well
const MOST_UNSENT = 1024 * 1024; // bytes that wait to be sent: five times what Linux keeps for one socket (net.core.wmem_default)

/** The datagrams of one socket that wait because the system has no room yet, or because a fault delays them: 1 MiB of them, or a single larger one. */
export class Unsent {
  #bytes = 0; // with OVERHEAD

  /** Whether another datagram of `size` bytes may wait. If not, it is dropped. */
  fits(size: number): boolean {
    return this.#bytes === 0 || this.#bytes + size + OVERHEAD <= MOST_UNSENT;
  }

  /** A datagram of `size` bytes begins to wait. */
  add(size: number): void {
    this.#bytes += size + OVERHEAD;
  }

  /** It was sent, or is lost. */
  remove(size: number): void {
    this.#bytes -= size + OVERHEAD;
  }

  /** Whether none waits. */
  get isEmpty(): boolean {
    return this.#bytes === 0;
  }
}

// ---- The socket ----

const QUEUED = 212_992; // bytes that wait to be received; what is over is lost, newest first. Linux's net.core.rmem_default

/** The calls by which the transport reports to a datagram socket. */
export interface DatagramSink {
  /** A datagram has arrived. The socket owns the bytes now. */
  message(bytes: Uint8Array, address: Address | null): void;
  /** The network's answer to an earlier send (`ECONNREFUSED`, on a connected socket), or a failure of the socket. */
  error(error: SocketError): void;
}

/** The seam: what a platform implements for one datagram socket. */
export interface DatagramTransport {
  /** The address it is bound to; `null` before, and for a Unix socket without a name. */
  readonly localAddress: Address | null;
  /** The descriptor, and what can be done with it; absent if there is none. */
  readonly kernel?: KernelSocket | undefined;
  /** Reports to `sink` from now on. Called once. */
  start(sink: DatagramSink): void;
  /** `""` as the host is every address; port 0 lets the system choose. Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ERR_NAME`. */
  bind(endpoint: Endpoint): Promise<void>;
  /** The address of `endpoint`, whose name is resolved here. Rejects with `ERR_NAME`, `EAFNOSUPPORT`. */
  resolve(endpoint: Endpoint): Promise<Address>;
  /** The socket now has this peer; the platform may pass that on to the kernel. The socket itself drops what others send. */
  connect?(address: Address): Promise<void>;
  /**
   * Sends a datagram. Resolves when the kernel has it. `flags`: `MSG_DONTROUTE`, and `MSG_DONTWAIT` if it must not wait for room
   * (`EWOULDBLOCK`). `wait.over` is set when the caller no longer waits; then it need not be sent. Rejects with
   * `EMSGSIZE`, `ENETUNREACH`, `ENOENT`…
   */
  send(bytes: Uint8Array, address: Address, flags: number, wait?: { readonly over: boolean }): Promise<void>;
  /** Closes the socket. Sends that wait reject with `ECANCELED`. */
  close(): void | Promise<void>;
}

type Received = readonly [bytes: Bytes, address: Address | null];

interface Waiter {
  readonly resolve: (received: Received) => void;
  readonly reject: (error: unknown) => void;
  readonly peek: boolean;
}

/**
 * Sends and receives datagrams: what `socket(family, SOCK_DGRAM)` returns.
 *
 * A datagram arrives whole or not at all. One that is longer than the requested size is cut, and the rest is lost. Nothing says that
 * a datagram was lost. At most 208 KiB wait here to be received, as in the kernel; what exceeds that is dropped.
 *
 * Blocking and time-outs work as for `StreamSocket`. Errors, by code: `EBADF` after a close (`ECANCELED`: closed while
 * the call waited), `ETIMEDOUT`, `EWOULDBLOCK`, `EMSGSIZE`, `EDESTADDRREQ` (no peer to send to; on a Unix socket `ENOTCONN`), `ENETUNREACH`,
 * `EHOSTUNREACH`, `ECONNREFUSED` (nobody listens at the connected peer's port; the next call reports it), `EPIPE` (shut down).
 */
export class DatagramSocket extends BaseSocket implements AsyncDisposable {
  readonly #transport: DatagramTransport;
  readonly #family: number;
  readonly #queue: Received[] = [];
  #queued = 0; // bytes, with OVERHEAD
  readonly #waiting: Waiter[] = [];
  #told: (() => void)[] = [];
  #peer: Address | null = null;
  #error: SocketError | null = null; // that the next call reports
  #timeout: number | null = null;
  #deaf = false; // SHUT_RD
  #mute = false; // SHUT_WR
  #closing: Promise<void> | null = null;

  constructor(transport: DatagramTransport, family: number) {
    super();
    this.#transport = transport;
    this.#family = family;
    transport.start({
      message: (bytes, address) => this.#message(bytes, address),
      error: (error) => this.#failed(error),
    });
  }

  override get family(): number {
    return this.#family;
  }

  override get type(): number {
    return SOCK_DGRAM;
  }

  override get closed(): boolean {
    return this.#closing !== null;
  }

  /** Binds the socket. Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ERR_NAME`, and with `EINVAL` if it is bound already. */
  async bind(address: AddressLike): Promise<void> {
    this.#mustBeOpen();
    const endpoint = parseAddress(address);
    this.#mustFit(endpoint);
    await this.#transport.bind(endpoint);
  }

  /**
   * Sets the peer, until another call sets a different one: `send()` goes to it, and datagrams of others are dropped. Nothing is sent,
   * so the peer need not exist. Rejects with `ERR_NAME`, `EAFNOSUPPORT`, `ENOENT` (a path).
   */
  async connect(address: AddressLike): Promise<void> {
    this.#mustBeOpen();
    const peer = await this.#resolve(address);
    await this.#transport.connect?.(peer);
    this.#peer = peer;
  }

  /** `connect()` that returns Linux's number of the error, or its code if it has no number; 0 if there is none. It still rejects for a name. */
  connectEx(address: AddressLike): Promise<number | SocketErrorCode> {
    return errnoOf(this.connect(address));
  }

  /** Sends one datagram to the peer of `connect()`, and resolves to its size in bytes. `flags`: `MSG_DONTROUTE` (with `koffi`), `MSG_DONTWAIT`, `MSG_NOSIGNAL`. */
  async send(data: Data, flags = 0): Promise<number> {
    this.#mustBeOpen();
    this.#tellError();
    const peer = this.#peer;
    if (peer === null && !this.#mute) {
      const code = this.#family === AF_UNIX ? "ENOTCONN" : "EDESTADDRREQ"; // as Linux has it
      throw new SocketError(code, "send() needs connect() first; or use sendto()");
    }
    if (peer === null) throw new SocketError("EPIPE");
    return this.#send(data, flags, peer);
  }

  /** As `send()`: a datagram is sent whole or not at all. */
  async sendall(data: Data, flags = 0): Promise<void> {
    await this.send(data, flags);
  }

  /** Sends one datagram to `address`, and resolves to its size in bytes. A name is resolved each time. */
  sendto(data: Data, address: AddressLike): Promise<number>;
  sendto(data: Data, flags: number, address: AddressLike): Promise<number>;
  async sendto(data: Data, ...to: [AddressLike] | [number, AddressLike]): Promise<number> {
    const [flags, address] = to.length === 1 ? [0, to[0]] : to;
    this.#mustBeOpen();
    this.#tellError();
    return this.#send(data, flags, await this.#resolve(address));
  }

  /** The next datagram, cut to `size` bytes (with 0 none is taken, as in CPython). You may keep the bytes. `flags`: `MSG_PEEK` leaves it, `MSG_DONTWAIT` does not wait. */
  async recv(size?: number, flags?: number): Promise<Bytes> {
    if (size === 0 && !this.closed) return NOTHING[0].slice();
    return (await this.recvfrom(size, flags))[0];
  }

  /** The same into `buffer`, cut to its size. Resolves to the number of bytes. CPython's `recv_into`. */
  async recvInto(buffer: Uint8Array, flags?: number): Promise<number> {
    if (!(buffer instanceof Uint8Array)) throw new TypeError("recvInto takes a Uint8Array to read into");
    const bytes = await this.recv(buffer.length, flags);
    buffer.set(bytes);
    return bytes.length;
  }

  /** The next datagram and its sender's address: `null` for a Unix sender without a name. After `shutdown(SHUT_RD)`, an empty one without a sender. */
  async recvfrom(size = Number.MAX_SAFE_INTEGER, flags = 0): Promise<[Bytes, Address | null]> {
    checkCount("the size", size, 0);
    checkFlags(flags, MSG_PEEK | MSG_DONTWAIT | MSG_WAITALL, "recv");
    this.#mustBeOpen();
    this.#tellError();
    const peek = (flags & MSG_PEEK) !== 0;
    const [bytes, address] = this.#take(peek) ?? (await this.#receive(peek, (flags & MSG_DONTWAIT) !== 0));
    const cut = bytes.subarray(0, size);
    return [peek ? cut.slice() : cut, address];
  }

  /** The results of `recvfrom()`, one after the other, until the socket is closed or shut down. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<[Bytes, Address | null]> {
    return pulled(async () => {
      const ended = (): boolean => this.closed || (this.#deaf && this.#queue.length === 0);
      if (ended()) return null;
      try {
        const received = await this.recvfrom();
        return this.#deaf && received[1] === null && received[0].length === 0 ? null : received;
      } catch (error) {
        if (this.closed) return null;
        throw error;
      }
    });
  }

  /** Ends one direction or both. After `SHUT_RD` no call waits to receive; after `SHUT_WR` sending throws `EPIPE`. On UDP it throws `ENOTCONN` before `connect()`. */
  async shutdown(how: number): Promise<void> {
    if (how !== SHUT_RD && how !== SHUT_WR && how !== SHUT_RDWR) {
      throw new RangeError(`shutdown takes SHUT_RD (0), SHUT_WR (1) or SHUT_RDWR (2), not ${how}`);
    }
    this.#mustBeOpen();
    if (this.#peer === null && this.#family !== AF_UNIX) {
      throw new SocketError("ENOTCONN", "shutdown() needs connect() first");
    }
    if (how !== SHUT_RD) this.#mute = true;
    if (how !== SHUT_WR) {
      this.#deaf = true;
      for (const { resolve } of this.#waiting.splice(0)) resolve(NOTHING);
      this.#changed();
    }
  }

  /** Closes the socket, and drops what waits to be received. A second call resolves as well. */
  close(): Promise<void> {
    if (this.#closing === null) {
      this.#closing = Promise.resolve(this.#transport.close());
      this.#letGo();
    }
    return this.#closing;
  }

  /** Closes this object, and returns a descriptor of the socket, which the caller then owns. As `StreamSocket.detach()`. */
  async detach(): Promise<number> {
    this.#mustBeOpen();
    const fd = this.kernel("detach()").detach();
    this.#closing = Promise.resolve();
    this.#letGo();
    return fd;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** The peer of `connect()`. Throws `ENOTCONN` if there is none. */
  getpeername(): Address {
    this.#mustBeOpen();
    if (this.#peer === null) throw new SocketError("ENOTCONN");
    return this.#peer;
  }

  /** The address it is bound to; `null` before, and for a Unix socket without a name. */
  getsockname(): Address | null {
    this.#mustBeOpen();
    return this.#transport.localAddress;
  }

  override settimeout(timeout: number | null): void {
    this.#timeout = checkTime("a timeout", timeout, 0, true);
  }

  override gettimeout(): number | null {
    return this.#timeout;
  }

  /** As `StreamSocket.readiness()`. */
  readiness(mask: number): number {
    if (this.closed) return POLLNVAL;
    const readable = this.#queue.length > 0 || this.#deaf; // an error is not a datagram: poll(2) reports only POLLERR
    const ended = this.#deaf && this.#mute;
    return (
      (mask & POLLIN && readable ? POLLIN : 0) |
      (mask & POLLOUT) |
      (this.#error ? POLLERR : 0) |
      (ended ? POLLHUP : 0)
    );
  }

  /** As `StreamSocket.onReadiness()`. */
  onReadiness(_mask: number, told: () => void): () => void {
    this.#told.push(told);
    return () => {
      this.#told = this.#told.filter((other) => other !== told);
    };
  }

  protected override get kernelSocket(): KernelSocket | undefined {
    return this.#transport.kernel;
  }

  async #send(data: Data, flags: number, address: Address): Promise<number> {
    checkFlags(flags, MSG_DONTROUTE | MSG_DONTWAIT | MSG_NOSIGNAL, "send");
    if (this.#mute) throw new SocketError("EPIPE");
    const bytes = toBytes(data);
    if (address.family !== "unix") checkDatagramSize(bytes.length, address);
    const timeout = this.#timeout;
    const how = timeout === 0 ? flags | MSG_DONTWAIT : flags;
    const sending = how & (MSG_DONTROUTE | MSG_DONTWAIT);
    if (timeout === null || timeout === 0) {
      await this.#transport.send(bytes, address, sending);
      return bytes.length;
    }
    const wait = { over: false };
    const sent = this.#transport.send(bytes, address, sending, wait);
    try {
      await withDeadline(sent, timeout, "the receiver took no datagram");
    } finally {
      wait.over = true;
    }
    return bytes.length;
  }

  #resolve(address: AddressLike): Promise<Address> {
    const endpoint = parseAddress(address);
    this.#mustFit(endpoint);
    return this.#transport.resolve(endpoint);
  }

  #mustFit(endpoint: Endpoint): void {
    if (endpoint.scheme === "tcp")
      throw new TypeError(`${formatAddress(endpoint)} is for a SOCK_STREAM socket`);
    if ((endpoint.scheme === "unix") === (this.#family === AF_UNIX)) return;
    const wants = this.#family === AF_UNIX ? "a path" : "a host and port";
    throw new SocketError("EAFNOSUPPORT", `this socket takes ${wants}, not ${formatAddress(endpoint)}`);
  }

  #take(peek: boolean): Received | undefined {
    const [first] = this.#queue;
    if (first === undefined) return this.#deaf ? NOTHING : undefined;
    if (!peek) {
      this.#queue.shift();
      this.#queued -= first[0].length + OVERHEAD;
    }
    return first;
  }

  async #receive(peek: boolean, dontWait: boolean): Promise<Received> {
    const { promise, resolve, reject } = Promise.withResolvers<Received>();
    const waiter: Waiter = { resolve, reject, peek };
    this.#waiting.push(waiter);
    const timeout = dontWait ? 0 : this.#timeout;
    const late = (): void => {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      reject(
        timeout === 0
          ? new SocketError("EWOULDBLOCK")
          : new SocketError("ETIMEDOUT", `nothing came for ${wholeMs(timeout ?? 0)}`),
      );
    };
    return timeout === null ? promise : promise.finally(deadline(timeout, late));
  }

  #message(bytes: Uint8Array, address: Address | null): void {
    if (this.closed) return;
    if (this.#peer !== null && !samePlace(address, this.#peer)) return;
    const received: Received = [bytes as Bytes, address];
    // A reader that only peeks leaves the datagram to the next one.
    for (let waiter = this.#waiting.shift(); waiter !== undefined; waiter = this.#waiting.shift()) {
      waiter.resolve(received);
      if (!waiter.peek) return;
    }
    const size = bytes.length + OVERHEAD;
    if (this.#queued + size > QUEUED && this.#queue.length > 0) return;
    this.#queue.push(received);
    this.#queued += size;
    this.#changed();
  }

  #failed(error: SocketError): void {
    if (this.closed) return;
    const waiter = this.#waiting.shift();
    if (waiter !== undefined) waiter.reject(error);
    else this.#error = error;
    this.#changed();
  }

  #letGo(): void {
    this.#queue.length = 0;
    for (const { reject } of this.#waiting.splice(0)) reject(new SocketError("ECANCELED"));
    this.#changed();
  }

  #changed(): void {
    for (const told of this.#told) told();
  }

  #tellError(): void {
    const error = this.#error;
    this.#error = null;
    if (error !== null) throw error;
  }

  #mustBeOpen(): void {
    if (this.closed) throw new SocketError("EBADF");
  }
}

const NOTHING: Received = [new Uint8Array(0), null];

/** Whether two addresses are the same, however they are spelled. */
const samePlace = (one: Address | null, other: Address): boolean => {
  if (one === null) return false;
  if (one.family === "unix") return other.family === "unix" && one.path === other.path;
  if (other.family === "unix") return false;
  if (one.port !== other.port) return false;
  return (
    one.hostname === other.hostname ||
    String(packAddress(one.hostname)) === String(packAddress(other.hostname))
  );
};
