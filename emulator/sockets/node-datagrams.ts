/** Datagrams by `node:dgram`: UDP, and the options that Node has a call for. */

import type dgram from "node:dgram";
import { DONE } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import { type Address, type Endpoint, formatAddress, type InternetAddress } from "../../core/net/address.ts";
import { AF_INET6, MSG_DONTROUTE } from "../../core/net/constants.ts";
import type { DatagramSink, DatagramTransport } from "../../core/sockets/datagram.ts";
import type { KernelSocket } from "../../core/sockets/transport.ts";
import { lazy } from "../builtin.ts";
import { addressOf, hostOf, networkError } from "../kernel/addresses.ts";
import { Kernel } from "../kernel/descriptors/kernel.ts";
import {
  type Kind,
  PlainDatagramOptions,
  REUSEADDR,
  REUSEPORT,
  V6ONLY,
} from "../kernel/descriptors/plain-options.ts";
import { datagramHandleOf } from "../kernel/handles.ts";
import { resolve, unboundName } from "./resolve.ts";

/** A datagram socket of Node's until it is open, and its options. */
export class PlainDatagrams {
  readonly kernel: Kernel;
  readonly #options: PlainDatagramOptions;
  readonly #family: number;

  constructor(kind: Kind) {
    this.#family = kind.family;
    this.#options = new PlainDatagramOptions(kind);
    this.kernel = new Kernel(this.#options, null);
  }

  /** A `dgram.Socket` with the options that are taken when it is made. */
  make(): dgram.Socket {
    const version = this.#family === AF_INET6 ? 6 : 4;
    // All that is sent goes to an address that was resolved: no name is looked up again (measured: a tenth of the rate).
    const numeric = (name: string, _: unknown, found: (e: null, a: string, f: number) => void): void =>
      found(null, name, version);
    return lazy.dgram.createSocket({
      type: `udp${version}`,
      lookup: numeric as never,
      reuseAddr: this.#options.on(REUSEADDR),
      reusePort: this.#options.on(REUSEPORT),
      ipv6Only: this.#options.on(V6ONLY),
    });
  }

  /** It is bound: it has the options that were set before. Throws what the kernel says of them. */
  opened(socket: dgram.Socket): void {
    this.#options.open(socket);
    this.kernel.heldBy({
      get fd() {
        return datagramHandleOf(socket)?.fd ?? -1;
      },
      take: () => -1,
    });
  }
}

const ignore = (): void => {};

/** UDP by `node:dgram`, where there is no libc: a `dgram.Socket`, which is made when the socket is first bound, connected or sent from. */
export class NodeDatagrams implements DatagramTransport {
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
