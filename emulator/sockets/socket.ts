/**
 * The stream socket of Node: CPython's `socket.socket`, promise for call.
 *
 * With the package `koffi` a socket has its descriptor from the first moment, as in CPython: `bind` is bind(2), and
 * any option can be set before it. Without `koffi`, Node makes the descriptor when the socket is bound or connected.
 * Either way Node's own event loop reads, writes and accepts.
 */

import type net from "node:net";
import type { Data } from "../../core/bytes/data.ts";
import { pulled } from "../../core/bytes/reader.ts";
import { SocketError } from "../../core/errors.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  parseAddress,
  type UnixAddress,
} from "../../core/net/address.ts";
import {
  AF_UNIX,
  POLLIN,
  SHUT_RD,
  SHUT_RDWR,
  SHUT_WR,
  SOCK_STREAM,
  SOMAXCONN,
} from "../../core/net/constants.ts";
import { checkCount, wholeMs } from "../../core/options.ts";
import { type SocketConnectOptions, UnconnectedSocket } from "../../core/sockets/dialling/unconnected.ts";
import type { KernelSocket, StreamTransport } from "../../core/sockets/transport.ts";
import { networkError } from "../kernel/addresses.ts";
import { adopted, namesOf, type UnixNames } from "../kernel/descriptors/adopted.ts";
import type { Kernel } from "../kernel/descriptors/kernel.ts";
import type { Kind } from "../kernel/descriptors/plain-options.ts";
import type { StreamDescriptor } from "../kernel/opening/descriptor.ts";
import { streamDescriptor } from "../kernel/opening/stream-descriptor.ts";
import { NodeTransport } from "../kernel/transports/net-transport.ts";
import type { Connection } from "../kernel/transports/seam.ts";
import { dial } from "./dialling/connector.ts";
import { Listener } from "./listener.ts";
import { bindError, mustFit, resolve, unboundName, versionOf } from "./names/resolve.ts";

/** An accepted connection, and the address of its peer: `null` for a Unix socket without a name. */
export type Accepted = [connection: Socket, address: Address | null];

const AGAIN = 10; // ms between two tries if the kernel has no room: it does not report when it has

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * A stream socket: one that is bound, listens and accepts, or one that connects and then is a complete `StreamSocket`.
 * `socket(family, SOCK_STREAM)` and `accept()` return it.
 *
 * It begins blocking, without a time-out, and so do the sockets that it accepts; `settimeout()` also applies to `accept()` and
 * `connect()`. A call in the wrong state rejects with Linux's error: `EINVAL` (`accept()` before `listen()`, `bind()`
 * twice), `EISCONN`, `ENOTCONN`, `EPIPE`.
 *
 * A TCP socket is bound with `SO_REUSEADDR`, and a connection has `TCP_NODELAY`, since output is gathered here: set
 * them before for something else (that needs `koffi` for the first). Without `koffi` the path of a Unix socket is
 * removed when it closes, as Node does; with it, as with CPython, it stays.
 */
export class Socket extends UnconnectedSocket {
  readonly #proto: number;
  readonly #descriptor: StreamDescriptor | null; // absent if it was made connected
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
      // As Linux for a Unix socket that is not connected: its recv() has no ENOTCONN.
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
   * Called with each connection, which then does not wait for `accept()`: servers take connections this way. Nothing was read from it,
   * and the callback must close it.
   */
  get onconnection(): ((connection: Connection) => void) | null {
    return this.#taker;
  }

  set onconnection(taker: ((connection: Connection) => void) | null) {
    this.#taker = taker;
    if (this.#listener !== null) this.#listener.taker = taker;
  }

  /** Takes an address of this machine. Rejects with `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ERR_NAME`; `EINVAL` if it has one already. bind(2) */
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
      await this.#bind(at, formatAddress(endpoint));
      this.#state = "bound";
    } finally {
      if (this.#state === "binding") this.#state = "fresh";
    }
  }

  /** Lets others connect. At most `backlog` of them (and `SOMAXCONN`) wait for `accept()`; any more are reset. Default 128, as CPython's. listen(2) */
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
      this.#state = "binding";
      await this.#bind(unboundName(this.family) as Address, "a port of the system's choice");
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
   * The next connection, and its peer's address. Rejects with `EINVAL` if this does not listen, `ETIMEDOUT`,
   * `EWOULDBLOCK`, and `ECANCELED` if it is closed meanwhile. accept(2)
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

  /** The results of `accept()`, one after another, until this is closed. Leaving the loop closes nothing. */
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

  /** As everywhere; on a Unix stream an address is refused, as on Linux: `EISCONN`, `EOPNOTSUPP`. CPython's `sendto`. */
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
   * As `StreamSocket.shutdown`. Rejects with `ENOTCONN` if there is no connection. `SHUT_RD` makes a listening socket stop
   * listening: calls that wait in `accept()` reject with `EINVAL`.
   */
  override async shutdown(how: number): Promise<void> {
    const idle = !this.attached && !this.closed && [SHUT_RD, SHUT_WR, SHUT_RDWR].includes(how);
    if (idle && this.#listener !== null) {
      if (how !== SHUT_WR) this.#listener.end("EINVAL");
      return;
    }
    if (idle && this.family === AF_UNIX) return; // Linux allows it
    return super.shutdown(how);
  }

  /** The address that it is bound to, or `0.0.0.0:0`; `null` for a Unix socket without a name. Throws `EBADF`. */
  override getsockname(): Address | null {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) return super.getsockname();
    return this.#descriptor?.localAddress ?? unboundName(this.family);
  }

  /** As `StreamSocket.detach`, also for a socket that is not connected. A listening socket keeps listening, for the owner of the descriptor. */
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

  /** Also stops listening and connecting; connections that were not accepted are reset. */
  override close(): Promise<void> {
    if (!this.closed) this.#letGo();
    return super.close();
  }

  override abort(reason?: unknown): void {
    if (!this.closed) this.#letGo();
    super.abort(reason);
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
        // Linux answers with this the first connect() after a non-blocking one that failed, and only that.
        const stale = code === "ECONNABORTED" && failedBefore;
        failedBefore = false;
        // The queue of a Unix listener is full: CPython's connect() waits; a non-blocking one has rejected with EINPROGRESS.
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
    let connected: Connection | null = null;
    try {
      connected = await dial(endpoint, options, { socket, version, local, kernel: descriptor.kernel });
      return connected;
    } finally {
      this.#dialling = null;
      if (connected === null) socket.destroy();
      descriptor.connected(connected);
    }
  }

  /** The path that it is bound to, which Node does not report. */
  get #path(): UnixAddress | undefined {
    const name = this.#descriptor?.localAddress;
    return name?.family === "unix" ? name : undefined;
  }

  #attach(socket: net.Socket, names: UnixNames, kernel?: Kernel): void {
    socket.pause();
    this.attach(new NodeTransport(socket, { ...names, kernel }));
  }

  async #bind(at: Address, said: string): Promise<void> {
    try {
      await (this.#descriptor as StreamDescriptor).bind(at, said);
    } catch (error) {
      throw bindError(error, at, said);
    }
  }

  #letGo(): void {
    this.#listener?.end("ECANCELED");
    this.#dialling?.destroy(); // dial() learns of it by 'close'
    if (!this.attached) this.#descriptor?.close();
  }

  #mustBeNew(): void {
    if (this.closed) throw new SocketError("EBADF");
    if (this.attached) throw new SocketError("EINVAL", "the socket is connected");
  }
}
