/** A stream socket that begins unconnected, until `connect()` connects it: the part of `socket()` that is the same in every place. */

import type { Bytes, Data } from "../../bytes/data.ts";
import { errnoOf, SocketError, type SocketErrorCode } from "../../errors.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  parseAddress,
} from "../../net/address.ts";
import { AF_UNIX, POLLERR, POLLHUP, POLLIN, POLLOUT, SO_ERROR, SOL_SOCKET } from "../../net/constants.ts";
import { type OptionNames, optionNamesOf } from "../../options.ts";
import { StreamSocket } from "../streams/stream-socket.ts";
import { TLS_NAMES } from "../tls/tls.ts";
import type { StreamTransport } from "../transport.ts";
import { type ConnectOptions, checkConnect, dialable } from "./connect.ts";

/** What `connect()` takes beside the address: `ConnectOptions` without what the socket itself has (its time-out, its stream). */
export type SocketConnectOptions = Omit<ConnectOptions, "connectTimeout" | "stream">;

export const SOCKET_CONNECT_NAMES = optionNamesOf<SocketConnectOptions>()({
  secureTransport: true,
  tls: TLS_NAMES,
  proxyHeader: true,
  signal: "signal",
});

/**
 * A stream socket that begins unconnected, as far as it is the same in every place. The sockets of `socket()` extend it.
 *
 * As in CPython it begins blocking, without a time-out. If it does not block, `connect()` continues after `EINPROGRESS`: `select()` reports
 * when it is done (writable), and `getsockopt(SOL_SOCKET, SO_ERROR)` or the next `connect()` returns the result.
 */
export abstract class UnconnectedSocket extends StreamSocket {
  readonly #family: number;
  #connecting = false;
  #failed: SocketError | null = null; // of a connect() that was not awaited
  #untold = false; // that such a connect() has succeeded
  #told: (() => void)[] = []; // when it is connected, or not

  constructor(family: number) {
    super(null);
    this.#family = family;
    this.settimeout(null);
  }

  /** Opens the connection. `timeout`: of this socket, ms, `null` if it has none. */
  protected abstract dial(
    endpoint: Endpoint,
    timeout: number | null,
    options: SocketConnectOptions,
  ): Promise<StreamTransport>;

  /** The names of what `connect()` takes. */
  protected get connectNames(): OptionNames {
    return SOCKET_CONNECT_NAMES;
  }

  override get family(): number {
    return this.#family;
  }

  /**
   * Connects. Rejects as the platform's `createConnection`, with `ETIMEDOUT` after the socket's time-out, with `EISCONN`, `EALREADY`,
   * and with `EINPROGRESS` if the socket does not block. After a failure it may be called again.
   */
  async connect(address: AddressLike, options: SocketConnectOptions = {}): Promise<void> {
    if (this.closed) throw new SocketError("EBADF");
    const endpoint = dialable(address);
    if ((endpoint.scheme === "unix") !== (this.#family === AF_UNIX)) {
      const wants = this.#family === AF_UNIX ? "a path" : "a host and port";
      throw new SocketError("EAFNOSUPPORT", `this socket takes ${wants}, not ${formatAddress(endpoint)}`);
    }
    checkConnect("connect()", options, this.connectNames);
    const failed = this.#takeFailure();
    if (failed !== null) throw failed;
    if (this.#untold) {
      this.#untold = false;
      return;
    }
    if (this.attached) throw new SocketError("EISCONN");
    if (this.#connecting) throw new SocketError("EALREADY");
    this.#connecting = true;
    const connecting = this.#connect(endpoint, options);
    if (this.getblocking()) return connecting;
    connecting.then(
      () => {
        this.#untold = true;
      },
      (error) => {
        this.#failed = SocketError.from(error, "ERR_CONNECT_FAILED");
        this.#tell();
      },
    );
    throw new SocketError("EINPROGRESS");
  }

  /** `connect()` that returns Linux's number of its error, or the code if it has no number; 0 if there is no error. It still rejects for a name (`ERR_NAME`). CPython's `connect_ex`. */
  connectEx(address: AddressLike, options?: SocketConnectOptions): Promise<number | SocketErrorCode> {
    return errnoOf(this.connect(address, options));
  }

  /** `send()`: on a stream the address must be valid, but is ignored, as on Linux. CPython's `sendto`. */
  sendto(data: Data, address: AddressLike): Promise<number>;
  sendto(data: Data, flags: number, address: AddressLike): Promise<number>;
  async sendto(data: Data, ...to: [AddressLike] | [flags: number, AddressLike]): Promise<number> {
    const [flags, address] = to.length === 1 ? [0, to[0]] : to;
    parseAddress(address);
    if (this.closed) throw new SocketError("EBADF");
    return this.send(data, flags);
  }

  /** `recv()`, and `null`: a stream does not name the sender. CPython's `recvfrom`. */
  async recvfrom(size?: number, flags?: number): Promise<[Bytes | null, null]> {
    return [await this.recv(size, flags), null];
  }

  /** The peer's address, or `null` if the platform does not report it. Throws `ENOTCONN`, `EBADF`. */
  override getpeername(): Address | null {
    if (this.closed) throw new SocketError("EBADF");
    if (!this.attached) throw new SocketError("ENOTCONN");
    return super.getpeername();
  }

  override getsockopt(level: number, name: number): number;
  override getsockopt(level: number, name: number, length: number): Uint8Array;
  override getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    if (level === SOL_SOCKET && name === SO_ERROR && length === undefined) {
      const failed = this.#takeFailure();
      if (failed !== null) return failed.errno;
    }
    return length === undefined ? super.getsockopt(level, name) : super.getsockopt(level, name, length);
  }

  override readiness(mask: number): number {
    if (this.closed || this.attached) return super.readiness(mask);
    if (this.#failed !== null) return (mask & (POLLIN | POLLOUT)) | POLLERR | POLLHUP;
    return this.#connecting ? 0 : (mask & POLLOUT) | POLLHUP; // as Linux reports a socket that was never connected
  }

  override onReadiness(mask: number, told: () => void): () => void {
    if (this.closed || this.attached) return super.onReadiness(mask, told);
    let stop = (): void => {};
    const connected = (): void => {
      if (this.attached) stop = super.onReadiness(mask, told);
      told();
    };
    this.#told.push(connected);
    return () => {
      this.#told = this.#told.filter((other) => other !== connected);
      stop();
    };
  }

  override close(): Promise<void> {
    const closed = super.close();
    this.#tell();
    return closed;
  }

  async #connect(endpoint: Endpoint, options: SocketConnectOptions): Promise<void> {
    try {
      this.attach(await this.dial(endpoint, this.gettimeout() || null, options));
      if (this.closed) throw new SocketError("ECANCELED");
      this.#tell();
    } finally {
      this.#connecting = false;
    }
  }

  #takeFailure(): SocketError | null {
    const failed = this.#failed;
    this.#failed = null;
    return failed;
  }

  #tell(): void {
    for (const told of this.#told.splice(0)) told();
  }
}
