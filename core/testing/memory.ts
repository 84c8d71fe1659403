/**
 * Memory as a place: streams and datagrams that behave like the network's, without one. Ordered, half-closable,
 * resettable, with back-pressure and datagram boundaries; every delivery is a microtask later, since no byte arrives
 * in the middle of the code that sends it.
 */

import { type Data, DONE, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import { checkKind, type HandlerClass } from "../handlers/handler.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { checkCount, checkOptions, type OptionNames, optionNamesOf } from "../options.ts";
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
import { STREAM_NAMES, type StreamOptions, settleStream } from "../sockets/streams/stream-options.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { Capabilities, StreamSink, StreamTransport } from "../sockets/transport.ts";

const CAPACITY = 64 * 1024; // bytes one direction holds before it has no room: a small kernel buffer
const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

let lastPort = 49_151; // the dynamic ports of RFC 6335 begin above it
const freshAddress = (): Address => {
  lastPort = lastPort >= 65_535 ? 49_152 : lastPort + 1;
  return { family: "IPv4", hostname: "127.0.0.1", port: lastPort };
};

/** A copy of the bytes. Not by `slice()`, which copies nothing for a Node `Buffer`. */
const copyOf = (data: Data): Uint8Array =>
  typeof data === "string" ? toBytes(data) : new Uint8Array(toBytes(data));

/** One direction of a memory stream: what one end writes until the other reads. */
class Pipe {
  readonly #capacity: number;
  readonly #queue: Uint8Array[] = [];
  #size = 0;
  #lost = 0; // bytes that had no room when nobody read any more, and all that came after a reset
  #sink: StreamSink | undefined;
  #wanted = false;
  #ended = false;
  #told = false; // the end was delivered
  #dropped = false; // nobody reads any more
  #reset = false; // and the writing end is about to hear of it
  #scheduled = false;
  #room: PromiseWithResolvers<void> | null = null;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  read(sink: StreamSink): void {
    this.#sink = sink;
  }

  want(wanted: boolean): void {
    this.#wanted = wanted;
    if (wanted) this.#schedule();
  }

  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#dropped) {
      if (this.#reset) this.#lost += bytes.length;
      return undefined;
    }
    this.#queue.push(bytes);
    this.#size += bytes.length;
    this.#schedule();
    return this.#full();
  }

  end(): Promise<void> {
    this.#ended = true;
    this.#schedule();
    return this.#full() ?? DONE;
  }

  /** Bytes for which there is no room; after the connection is over, those for which there never was. */
  get unsent(): number {
    return this.#lost + Math.max(this.#size - this.#capacity, 0);
  }

  /** Bytes that wait to be read, and for which there is room. */
  get waiting(): number {
    return Math.min(this.#size, this.#capacity);
  }

  /** The reading end is gone, by a `reset` or not: what is here and what comes is dropped. */
  drop(reset = false): void {
    this.#lost = this.unsent;
    this.#reset ||= reset;
    this.#dropped = true;
    this.#queue.length = this.#size = 0;
    this.#makeRoom();
  }

  /** The writing end broke the connection. */
  break(error: SocketError): void {
    const lost = this.#dropped;
    this.drop();
    if (!lost) queueMicrotask(() => this.#sink?.error(error));
  }

  #full(): Promise<void> | undefined {
    if (this.#size <= this.#capacity) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  #makeRoom(): void {
    if (this.#size > this.#capacity) return;
    this.#room?.resolve();
    this.#room = null;
  }

  #schedule(): void {
    if (this.#scheduled || !this.#wanted) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    while (this.#wanted && this.#queue.length > 0) {
      const bytes = this.#queue.shift() as Uint8Array;
      this.#size -= bytes.length;
      this.#wanted = this.#sink?.data(bytes) ?? false; // strictly pulled: no read waits, nothing comes
    }
    this.#makeRoom();
    if (this.#wanted && this.#ended && !this.#told && !this.#dropped) {
      this.#told = true;
      this.#sink?.end();
    }
  }
}

class MemoryTransport implements StreamTransport {
  readonly localAddress: Address;
  readonly remoteAddress: Address;
  readonly capabilities: Capabilities = { reset: true, peername: true };
  readonly #in: Pipe;
  readonly #out: Pipe;

  constructor(localAddress: Address, remoteAddress: Address, incoming: Pipe, outgoing: Pipe) {
    this.localAddress = localAddress;
    this.remoteAddress = remoteAddress;
    this.#in = incoming;
    this.#out = outgoing;
  }

  start(sink: StreamSink): void {
    this.#in.read(sink);
  }

  resume(): void {
    this.#in.want(true);
  }

  pause(): void {
    this.#in.want(false);
  }

  write(data: Data): Promise<void> | undefined {
    // A copy: the reader may keep its bytes, and the writer may go on to change its own.
    return this.#out.write(copyOf(data));
  }

  get unsent(): number {
    return this.#out.unsent;
  }

  unacknowledged(): number {
    return this.#out.waiting;
  }

  end(): Promise<void> {
    return this.#out.end();
  }

  close(): void {
    this.#in.drop();
  }

  abort(): void {
    this.#out.break(new SocketError("ECONNRESET")); // first: a writer that waits for room must see the failure before it sees room
    this.#in.drop(true);
  }

  defer(task: () => void): void {
    later(task, 0);
  }
}

/** Options of memory streams: those of a stream, and how much each direction holds. */
export interface MemoryOptions extends Partial<StreamOptions> {
  /** Bytes one direction holds before a writer must wait. Default 65 536. */
  readonly capacity?: number;
}

export const MEMORY_NAMES = optionNamesOf<MemoryOptions>("a stream in memory")({
  ...STREAM_NAMES,
  capacity: true,
});

/** Two ends of one connection in memory: what one sends the other receives. */
export const memoryPair = (
  options: MemoryOptions = {},
  serverAddress?: Address,
): [StreamSocket, StreamSocket] => {
  const [near, far, stream] = transports(options, serverAddress);
  return [new StreamSocket(near, stream), new StreamSocket(far, stream)];
};

/** The same as transports, and the options of their streams. */
const transports = (
  options: MemoryOptions,
  serverAddress: Address | undefined,
): [StreamTransport, StreamTransport, StreamOptions] => {
  checkOptions("a stream in memory", options, MEMORY_NAMES);
  const { capacity = CAPACITY, ...given } = options;
  checkCount("capacity", capacity, 0);
  const stream = settleStream(given);
  const here = freshAddress();
  const there = serverAddress ?? freshAddress();
  const out = new Pipe(capacity);
  const back = new Pipe(capacity);
  return [new MemoryTransport(here, there, back, out), new MemoryTransport(there, here, out, back), stream];
};

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
 * A stream server in memory: clients come by `connect()`. It serves one at a time, as a `TCPServer` does.
 *
 *     const server = new MemoryServer(Echo);
 *     const serving = server.serveForever();
 *     const client = server.connect();
 */
export class MemoryServer<Context = unknown> extends BaseServer<StreamSocket, Context> {
  static override readonly optionNames: OptionNames = MEMORY_SERVER_NAMES;

  /** What its clients see as their peer: 127.0.0.1 and a port of its own, at which no kernel listens. */
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
    const [near, far, stream] = transports(this.#stream, this.serverAddress);
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

/** A stream server in memory that serves its clients side by side. */
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
  /** How many datagrams were dropped because too many were waiting. */
  dropped = 0;

  constructor(network: MemoryNetwork, address: Address) {
    this.#network = network;
    this.#address = address;
  }

  /** Its address, where it receives. */
  getsockname(): Address {
    return this.#address;
  }

  /** Called with each datagram, including those that came before, instead of keeping it for `recvfrom()`. */
  set ondatagram(hear: ((datagram: Datagram) => void) | null) {
    this.#ondatagram = hear;
    if (hear !== null) for (const datagram of this.#arrived.splice(0)) hear(datagram);
  }

  /** Sends one datagram to `sender`, and does not wait; returns how many bytes that was. Throws `EMSGSIZE` and `EBADF`. */
  post(data: Data, sender: Address | null): number {
    const address = knownSender(sender);
    if (this.#closed) throw new SocketError("EBADF");
    const bytes = copyOf(data);
    checkDatagramSize(bytes.length, address);
    this.#network.carry(bytes, this.#address, address);
    return bytes.length;
  }

  /** Sends one datagram; resolves to how many bytes that was. Rejects with `EMSGSIZE` and `EBADF`. */
  async sendto(data: Data, address: Address): Promise<number> {
    const bytes = toBytes(data);
    this.post(bytes, address);
    return bytes.length;
  }

  /** The next datagram that came. Rejects with `EBADF` after a close, with `ECANCELED` if it waited then. */
  async recvfrom(): Promise<Datagram> {
    if (this.#closed) throw new SocketError("EBADF");
    const first = this.#arrived.shift();
    if (first !== undefined) return first;
    const waiting = Promise.withResolvers<Datagram>();
    this.#waiting.push(waiting);
    return waiting.promise;
  }

  /** What the network brings. */
  deliver(data: Uint8Array, address: Address): void {
    if (this.#closed) return;
    const datagram = new ServedDatagram(data, address, this);
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.resolve(datagram);
    else if (this.#ondatagram !== null) this.#ondatagram(datagram);
    else if (this.#arrived.length < MOST_WAITING) this.#arrived.push(datagram);
    else this.dropped++;
  }

  /** Takes it off the network. Whoever waits in `recvfrom()` is rejected with `ECANCELED`. */
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
    while (this.#sockets.has(formatAddress(address))) address = freshAddress(); // the ports went round
    const socket = new MemoryDatagramSocket(this, address);
    this.#sockets.set(formatAddress(address), socket);
    return socket;
  }

  /** Brings one datagram to the socket at `to`, where there is one. */
  carry(data: Uint8Array, from: Address, to: Address): void {
    const socket = this.#sockets.get(formatAddress(to));
    if (socket !== undefined) queueMicrotask(() => socket.deliver(data, from));
  }

  /** The socket at `address` is gone. */
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

  /** Where clients send to. */
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

/** A datagram server in memory that serves its datagrams side by side. */
export class ThreadingMemoryDatagramServer<Context = unknown> extends ThreadingMixIn(
  MemoryDatagramServer,
)<Context> {}
