/** Datagrams with `node:dgram`: UDP, with the options that Node has a call for. */

import type dgram from "node:dgram";
import { DONE } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import {
  type Address,
  type Endpoint,
  formatAddress,
  type InternetAddress,
} from "../../../core/net/address.ts";
import { MSG_DONTROUTE, MSG_DONTWAIT } from "../../../core/net/constants.ts";
import type { DatagramSink, DatagramTransport } from "../../../core/sockets/datagram.ts";
import { lazy } from "../../builtin.ts";
import { addressOf, hostOf, networkError } from "../../kernel/addresses.ts";
import { Kernel } from "../../kernel/descriptors/kernel.ts";
import {
  type Kind,
  PlainDatagramOptions,
  REUSEADDR,
  REUSEPORT,
  V6ONLY,
} from "../../kernel/descriptors/plain-options.ts";
import { sendByNode, sendsWaiting } from "../../kernel/handles/datagram-handle.ts";
import { datagramHandleOf, receiveNoMore } from "../../kernel/handles/handles.ts";
import { resolve, unboundName, versionOf } from "../names/resolve.ts";

/** How long the sender of a datagram waits. */
export interface Waiting {
  /** It no longer waits: what is not sent yet need not be. */
  readonly over: boolean;
}

/** A `dgram.Socket` that is made when it is bound, since it takes some options only then. */
export abstract class DgramTransport implements DatagramTransport {
  readonly kernel: Kernel;
  readonly #family: number;
  readonly #options: PlainDatagramOptions;
  #socket: dgram.Socket | null = null;
  #sink: DatagramSink | null = null;
  #closed = false;
  #waiting = 0; // datagrams that wait until those before them are sent
  #last: Promise<void> = DONE; // when the last that waits is sent

  /** `found`: as the kernel's. */
  constructor(kind: Kind, found?: null) {
    this.#family = kind.family;
    this.#options = new PlainDatagramOptions(kind);
    this.kernel = new Kernel(this.#options, found);
  }

  /** The socket, once it is bound. */
  protected get socket(): dgram.Socket | null {
    return this.#socket;
  }

  get localAddress(): Address | null {
    if (this.#socket === null) return unboundName(this.#family);
    const { address, port, family } = this.#socket.address();
    return addressOf(address, port, family);
  }

  start(sink: DatagramSink): void {
    this.#sink = sink;
  }

  abstract bind(endpoint: Endpoint): Promise<void>;

  abstract send(bytes: Uint8Array, address: Address, flags: number, wait?: Waiting): Promise<void>;

  resolve(endpoint: Endpoint): Promise<Address> {
    return resolve(endpoint, this.#family);
  }

  /** Makes the socket, and binds it. Rejects with the kernel's error, and with `ECANCELED` if it is closed meanwhile. */
  protected async open(at: dgram.BindOptions, said: string): Promise<dgram.Socket> {
    const socket = this.#make();
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject);
        socket.bind({ ...at, exclusive: true }, resolve);
      });
      if (this.#closed) throw new SocketError("ECANCELED");
      socket.removeAllListeners("error");
      this.#options.open(socket);
    } catch (error) {
      socket.close();
      throw networkError(error, said);
    }
    this.#socket = socket;
    this.kernel.heldBy({
      get fd() {
        return datagramHandleOf(socket)?.fd ?? -1;
      },
      take() {
        throw new SocketError("EOPNOTSUPP", "Node does not give its sockets away");
      },
    });
    socket.on("error", (error) => this.failed(error));
    this.hear(socket);
    return socket;
  }

  /** Passes what `socket` receives to `heard()`. */
  protected hear(socket: dgram.Socket): void {
    socket.on("message", (message, from) => this.heard(message, from));
  }

  protected heard({ buffer, byteOffset, byteLength }: Buffer, from: dgram.RemoteInfo): void {
    const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
    this.#sink?.message(bytes, addressOf(from.address, from.port, from.family));
  }

  protected failed(error: unknown, address?: Address): void {
    this.#sink?.error(SocketError.from(error, "ERR_INTERNAL", address && formatAddress(address)));
  }

  /**
   * Sends one datagram from `socket`. Only one at a time waits in Node, which cannot take one back and keeps as many as
   * it gets; the others wait here after it, as long as their senders do. `MSG_DONTWAIT`: rejects with
   * `EWOULDBLOCK` if one waits; the first to wait counts as sent.
   */
  protected async sendBy(
    socket: dgram.Socket,
    bytes: Uint8Array,
    address: InternetAddress,
    flags: number,
    wait: Waiting | undefined,
    connected = false,
  ): Promise<void> {
    const dontWait = (flags & MSG_DONTWAIT) !== 0;
    const first = this.#waiting === 0 && sendsWaiting(socket) === 0;
    if (!first && dontWait) throw new SocketError("EWOULDBLOCK");
    // A sender that does not wait to the end can use its bytes again before they are sent.
    const own = !first || dontWait || wait !== undefined ? new Uint8Array(bytes) : bytes;
    if (!first) return this.#inTurn(socket, own, address, wait, connected);
    const sent = handOver(socket, own, address, connected);
    if (sendsWaiting(socket) === 0) return sent;
    this.#last = sent.catch(ignore);
    if (!dontWait) return sent;
    sent.catch((error) => this.failed(error, address));
  }

  async #inTurn(
    socket: dgram.Socket,
    bytes: Uint8Array,
    address: InternetAddress,
    wait: Waiting | undefined,
    connected: boolean,
  ): Promise<void> {
    this.#waiting++;
    const sent = this.#last.then(() => {
      if (this.#closed) throw new SocketError("ECANCELED");
      if (wait?.over) throw new SocketError("ETIMEDOUT");
      return handOver(socket, bytes, address, connected);
    });
    this.#last = sent.catch(ignore);
    try {
      await sent;
    } finally {
      this.#waiting--;
    }
  }

  /** Stops receiving; further datagrams are for other processes that have the descriptor. */
  receiveNoMore(): void {
    if (this.#socket !== null) receiveNoMore(this.#socket);
  }

  close(): Promise<void> {
    this.#closed = true;
    const socket = this.#socket;
    this.#socket = null;
    this.kernel.closed();
    if (socket === null) return DONE; // a socket that is being opened closes itself
    return new Promise((resolve) => {
      socket.close(() => resolve());
    });
  }

  #make(): dgram.Socket {
    return numericSocket(versionOf(this.#family), {
      reuseAddr: this.#options.on(REUSEADDR),
      reusePort: this.#options.on(REUSEPORT),
      ipv6Only: this.#options.on(V6ONLY),
    });
  }
}

/** A socket that sends only to addresses, never to names, so it sends at once. Node would look an address up again, which costs a tenth of the rate. */
export const numericSocket = (
  version: 4 | 6,
  options: Omit<dgram.SocketOptions, "type" | "lookup"> = {},
): dgram.Socket => {
  const numeric = (name: string, _: unknown, found: (e: null, a: string, f: number) => void): void =>
    found(null, name, version);
  return lazy.dgram.createSocket({ type: `udp${version}`, lookup: numeric as never, ...options });
};

/** Hands one datagram to Node: to `address`, or to the peer of a socket that is connected. Resolves when the kernel has it. */
const handOver = (
  socket: dgram.Socket,
  bytes: Uint8Array,
  address: InternetAddress,
  connected: boolean,
): Promise<void> =>
  new Promise((resolve, reject) => {
    const sent = (error: Error | null): void =>
      error ? reject(networkError(error, formatAddress(address))) : resolve();
    sendByNode(socket, bytes, connected ? null : address, sent);
  });

const ignore = (): void => {};

/** The transport of `socket(family, SOCK_DGRAM)` without libc. It is opened when it is first bound, connected or sent from. */
export class NodeDatagrams extends DgramTransport {
  readonly #adopted: number; // a descriptor to take over; -1 if there is none
  #opening: Promise<dgram.Socket> | null = null;
  #peer: Address | null = null;

  constructor(kind: Kind, fd: number) {
    super(kind, null);
    this.#adopted = fd;
    if (fd >= 0) void this.#opened().catch(ignore); // it may be bound, and then receives from now on; send() reports an error
  }

  async bind(endpoint: Endpoint): Promise<void> {
    const at = (await this.resolve(endpoint)) as InternetAddress;
    if (this.#opening !== null) throw new SocketError("EINVAL", "the socket has an address already");
    await this.#opened({ address: hostOf(at), port: at.port }, formatAddress(endpoint));
  }

  async connect(address: Address): Promise<void> {
    const peer = address as InternetAddress;
    const socket = await this.#opened();
    if (this.#peer !== null) socket.disconnect(); // Linux then takes back a port that it had chosen
    this.#peer = null;
    await new Promise<void>((resolve, reject) => {
      const done = (error?: Error | null): void =>
        error ? reject(networkError(error, formatAddress(peer))) : resolve();
      socket.connect(peer.port, hostOf(peer), done as () => void);
    });
    this.#peer = peer;
  }

  async send(bytes: Uint8Array, address: Address, flags: number, wait?: Waiting): Promise<void> {
    if (flags & MSG_DONTROUTE) throw elsewhere("MSG_DONTROUTE");
    const to = address as InternetAddress;
    const peer = this.#peer;
    if (peer !== null && formatAddress(peer) !== formatAddress(to))
      throw elsewhere("sendto() past the peer of connect()");
    await this.sendBy(await this.#opened(), bytes, to, flags, wait, peer !== null);
  }

  /** The socket: bound to `at`, or by the system. */
  #opened(at: dgram.BindOptions = {}, said = "a port of the system's choice"): Promise<dgram.Socket> {
    const fd = this.#adopted;
    this.#opening ??= this.open(fd >= 0 ? { fd } : at, said).catch((error) => {
      this.#opening = null;
      throw error;
    });
    return this.#opening;
  }
}

/** The error for what Node's UDP cannot do. */
const elsewhere = (what: string): SocketError =>
  new SocketError(
    "ERR_UNSUPPORTED",
    `${what} needs the package koffi (npm install koffi); or use another socket`,
  );
