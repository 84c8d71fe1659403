/**
 * Memory as a place: streams and datagrams that behave like the network's, without one. Ordered, half-closable,
 * resettable, with back-pressure and datagram boundaries; every delivery is a microtask later, since no byte arrives
 * in the middle of the code that sends it.
 */

import { type Data, DONE, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import { checkKind, type HandlerClass } from "../handlers/handler.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { type OptionNames, optionNamesOf } from "../options.ts";
import { ThreadingMixIn } from "../serve/mixins.ts";
import {
  type Doorkeeper,
  datagramOf,
  type Passage,
  ProxyDoor,
  type ProxyProtocolOptions,
  requestOf,
} from "../serve/proxy.ts";
import { type DatagramWay, ServedDatagram } from "../serve/requests.ts";
import { BaseServer, SERVER_NAMES, type ServerOptions } from "../serve/server.ts";
import { checkDatagramSize, type Datagram, knownSender } from "../sockets/datagram.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import {
  copyOf,
  freshAddress,
  MEMORY_NAMES,
  type MemoryOptions,
  memoryPair,
  memoryTransports,
} from "./memory-streams.ts";

/** Options of a memory server. */
export interface MemoryServerOptions<Context> extends ServerOptions<Context> {
  /** The streams that it serves. */
  readonly stream?: MemoryOptions;
}

const MEMORY_SERVER_NAMES = optionNamesOf<MemoryServerOptions<unknown>>()({
  ...SERVER_NAMES,
  stream: MEMORY_NAMES,
});

/**
 * A stream server in memory: clients come through `connect()`. It serves one at a time, as a `TCPServer` does.
 *
 *     const server = new MemoryServer(Echo);
 *     const serving = server.serveForever();
 *     const client = server.connect();
 */
export class MemoryServer<Context = unknown> extends BaseServer<StreamSocket, Context> {
  static override readonly optionNames: OptionNames = MEMORY_SERVER_NAMES;

  /** The address that its clients see as their peer: 127.0.0.1 and a port of its own, which no kernel listens on. */
  readonly serverAddress: Address = freshAddress();
  readonly #stream: MemoryOptions;

  constructor(
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: MemoryServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    checkKind(RequestHandlerClass, "streams", this.constructor.name);
    this.#stream = options.stream ?? {};
  }

  protected override openDoor(options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor {
    return new ProxyDoor(options, keeper);
  }

  /** A new client's end of a connection to this server. */
  connect(): StreamSocket {
    if (this.proxyDoor === null) {
      const [client, request] = memoryPair(this.#stream, this.serverAddress);
      this.arrive(request, request.getpeername());
      return client;
    }
    const [near, far, stream] = memoryTransports(this.#stream, this.serverAddress);
    const arrive = (passage: Passage | null): void => {
      const request = requestOf(far, stream, passage);
      this.arrive(request, passage === null ? request.getpeername() : passage.address);
    };
    const entered = this.proxyDoor.enter(far, null);
    if (entered === "direct") arrive(null);
    else void entered?.then((passage) => passage !== null && arrive(passage));
    return new StreamSocket(near, stream);
  }
}

/** A stream server in memory that serves its clients concurrently. */
export class ThreadingMemoryServer<Context = unknown> extends ThreadingMixIn(MemoryServer)<Context> {}

const MOST_WAITING = 256; // datagrams a memory socket keeps: about what a kernel's buffer of 212 992 bytes holds

/** One datagram socket in memory; `MemoryNetwork.socket()` makes it. It keeps at most 256 datagrams, and drops more. */
export class MemoryDatagramSocket implements DatagramWay, AsyncDisposable {
  readonly #network: MemoryNetwork;
  readonly #address: Address;
  readonly #arrived: Datagram[] = [];
  readonly #waiting: PromiseWithResolvers<Datagram>[] = [];
  #closed = false;
  #ondatagram: ((datagram: Datagram) => void) | null = null;
  /** The number of datagrams that were dropped because too many were waiting. */
  dropped = 0;

  constructor(network: MemoryNetwork, address: Address) {
    this.#network = network;
    this.#address = address;
  }

  /** The address at which it receives. */
  getsockname(): Address {
    return this.#address;
  }

  /** A function that is called with each datagram, including earlier ones; `recvfrom()` then gets none. */
  set ondatagram(hear: ((datagram: Datagram) => void) | null) {
    this.#ondatagram = hear;
    if (hear !== null) for (const datagram of this.#arrived.splice(0)) hear(datagram);
  }

  /** Sends one datagram to `sender` without waiting; returns its size in bytes. Throws `EMSGSIZE` and `EBADF`. */
  post(data: Data, sender: Address | null): number {
    const address = knownSender(sender);
    if (this.#closed) throw new SocketError("EBADF");
    const bytes = copyOf(data);
    checkDatagramSize(bytes.length, address);
    this.#network.carry(bytes, this.#address, address);
    return bytes.length;
  }

  /** Sends one datagram; resolves to its size in bytes. Rejects with `EMSGSIZE` and `EBADF`. */
  async sendto(data: Data, address: Address): Promise<number> {
    const bytes = toBytes(data);
    this.post(bytes, address);
    return bytes.length;
  }

  /** The next datagram. Rejects with `EBADF` after a close, and with `ECANCELED` if the socket is closed during the wait. */
  async recvfrom(): Promise<Datagram> {
    if (this.#closed) throw new SocketError("EBADF");
    const first = this.#arrived.shift();
    if (first !== undefined) return first;
    const waiting = Promise.withResolvers<Datagram>();
    this.#waiting.push(waiting);
    return waiting.promise;
  }

  /** Takes a datagram from the network. */
  deliver(data: Uint8Array, address: Address): void {
    if (this.#closed) return;
    const datagram = new ServedDatagram(data, address, this);
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.resolve(datagram);
    else if (this.#ondatagram !== null) this.#ondatagram(datagram);
    else if (this.#arrived.length < MOST_WAITING) this.#arrived.push(datagram);
    else this.dropped++;
  }

  /** Takes it off the network. Calls that wait in `recvfrom()` reject with `ECANCELED`. */
  close(): Promise<void> {
    this.#closed = true;
    this.#network.remove(this.#address);
    for (const waiting of this.#waiting.splice(0)) waiting.reject(new SocketError("ECANCELED"));
    return DONE;
  }

  /** Closes it: `await using socket = network.socket()`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** A network of datagrams in memory: ordered and without loss. What is sent to an unused address is dropped. */
export class MemoryNetwork {
  readonly #sockets = new Map<string, MemoryDatagramSocket>();

  /** A socket with an address of its own. */
  socket(): MemoryDatagramSocket {
    let address = freshAddress();
    while (this.#sockets.has(formatAddress(address))) address = freshAddress(); // the port numbers wrapped around
    const socket = new MemoryDatagramSocket(this, address);
    this.#sockets.set(formatAddress(address), socket);
    return socket;
  }

  /** Delivers one datagram to the socket at `to`, if there is one. */
  carry(data: Uint8Array, from: Address, to: Address): void {
    const socket = this.#sockets.get(formatAddress(to));
    if (socket !== undefined) queueMicrotask(() => socket.deliver(data, from));
  }

  /** Removes the socket at `address`. */
  remove(address: Address): void {
    this.#sockets.delete(formatAddress(address));
  }
}

/** A datagram server in memory; it serves one datagram at a time, as a `UDPServer` does. */
export class MemoryDatagramServer<Context = unknown> extends BaseServer<Datagram, Context> {
  /** The network that it is on: `server.network.socket()` is a client. */
  readonly network = new MemoryNetwork();
  /** Its socket. */
  readonly socket: MemoryDatagramSocket = this.network.socket();

  /** The address that clients send to. */
  get serverAddress(): Address {
    return this.socket.getsockname();
  }

  protected override openDoor(options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor {
    return new ProxyDoor(options, keeper);
  }

  override serverActivate(): void {
    this.socket.ondatagram = (datagram) => {
      const { data, address } = datagram;
      const entered = this.proxyDoor === null ? "direct" : this.proxyDoor.receive(data, address, null);
      if (entered === "direct") this.arrive(datagram, address);
      else if (entered !== null) {
        const post = (data: Data): number => this.socket.post(data, address);
        this.arrive(datagramOf(entered, post), entered.address);
      }
    };
  }

  protected override letGo(): Promise<void> {
    return this.socket.close();
  }
}

/** A datagram server in memory that serves its datagrams concurrently. */
export class ThreadingMemoryDatagramServer<Context = unknown> extends ThreadingMixIn(
  MemoryDatagramServer,
)<Context> {}
