/** UDP servers on real sockets: `UDPServer`, one datagram at a time, and `ThreadingUDPServer`, side by side. */

import type dgram from "node:dgram";
import type { Data, MaybePromise } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import { ReplyBudget } from "../../core/net/access.ts";
import {
  type Address,
  type AddressLike,
  formatAddress,
  type InternetAddress,
} from "../../core/net/address.ts";
import {
  AF_INET,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../../core/net/constants.ts";
import {
  checkCount,
  DATAGRAM_NAMES,
  type DatagramOptions,
  LISTEN_NAMES,
  type ListenOptions,
  type OptionNames,
  optionNamesOf,
} from "../../core/options.ts";
import { ThreadingMixIn } from "../../core/serve/mixins.ts";
import { type DatagramPassage, datagramOf } from "../../core/serve/proxy.ts";
import { type DatagramWay, ServedDatagram } from "../../core/serve/requests.ts";
import { SERVER_NAMES, type ServerOptions } from "../../core/serve/server.ts";
import {
  checkDatagramSize,
  type Datagram,
  type DatagramSink,
  DatagramSocket,
  knownSender,
  Unsent,
} from "../../core/sockets/datagram.ts";
import { datagramHandle, datagramPost, type Post } from "../kernel/handles/datagram-handle.ts";
import { ownSockets } from "../kernel/runtimes/chosen-sockets.ts";
import type { OwnSockets } from "../kernel/runtimes/own-sockets.ts";
import { DgramTransport, type Waiting } from "../sockets/datagrams/node-datagrams.ts";
import { TCPServer } from "./tcp.ts";

/** Options of a UDP server. */
export interface UDPServerOptions<Context> extends ServerOptions<Context>, ListenOptions, DatagramOptions {
  /**
   * Binds even if another socket is bound there, and takes its datagrams (`SO_REUSEADDR`). Default `false`, as
   * CPython's `allow_reuse_address`.
   */
  readonly allowReuseAddress?: boolean;
  /** A descriptor that is bound, which the server takes over and receives from; it binds nothing. Default: none. */
  readonly fd?: number | undefined;
}

const UDP_NAMES = optionNamesOf<UDPServerOptions<unknown>>("a UDP server")({
  ...SERVER_NAMES,
  ...LISTEN_NAMES,
  ...DATAGRAM_NAMES,
  allowReuseAddress: "boolean",
  fd: true,
});

/** Serves datagrams, one at a time. CPython's `UDPServer`: its handlers get a `Datagram`. */
export class UDPServer<Context = unknown> extends TCPServer<Context, Datagram> implements DatagramWay {
  static override readonly optionNames: OptionNames = UDP_NAMES;

  /** Bytes of a datagram that are kept. */
  maxPacketSize: number;
  readonly #budget: ReplyBudget | null;
  #listener: ServerDatagrams | undefined;
  #address: Address | null = null;
  #open = false;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Datagram, Context>,
    options: UDPServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    this.maxPacketSize = checkCount("maxPacketSize", options.maxPacketSize ?? 65_535, 0);
    this.allowReuseAddress = options.allowReuseAddress ?? false;
    this.#budget = options.amplification == null ? null : new ReplyBudget(options.amplification);
  }

  protected override get scheme(): "udp" | "unix" {
    return "udp";
  }

  override get socketType(): number {
    return SOCK_DGRAM;
  }

  override get serverAddress(): Address | null {
    return this.#address;
  }

  /** The server's socket: to set an option, before `serverBind()` or after, or to send. Only the server receives from it. */
  override get socket(): DatagramSocket {
    return this.#transport.datagramSocket;
  }

  get #transport(): ServerDatagrams {
    this.addressFamily ||= AF_INET;
    this.#listener ??= new ServerDatagrams(this.addressFamily, {
      message: (bytes, peer) => this.received(bytes, peer),
      error: (error) => this.announce({ type: "error", server: this.name, address: null, error }),
      dropped: (size, address) => this.dropped(size, address, "full"),
    });
    return this.#listener;
  }

  override fileno(): number {
    return this.#listener === undefined ? -1 : this.#listener.datagramSocket.fileno();
  }

  override async serverBind(): Promise<void> {
    if (this.fd !== null) {
      this.addressFamily = this.known(this.fd).family;
      this.#address = await this.#transport.listen({ fd: this.fd }, formatAddress(this.endpoint));
      this.#open = true;
      return;
    }
    const { address, port } = await this.resolve();
    const transport = this.#transport;
    const { kernel } = transport;
    if (this.allowReuseAddress) kernel.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if (this.allowReusePort) kernel.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
    if (this.ipv6Only) kernel.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1);
    this.#address = await transport.listen({ address, port }, formatAddress(this.endpoint));
    this.#open = true;
  }

  /** Does nothing: a datagram socket receives from when it is bound. */
  override async serverActivate(): Promise<void> {}

  /** A datagram came, or the first bytes of one (`cut`): makes the request of it, which arrives. */
  protected received(message: Uint8Array, peer: Address | null, cut = false): void {
    if (this.proxyDoor !== null) {
      const entered = this.proxyDoor.receive(message, peer, this.unaddressed);
      if (entered === null) return;
      if (entered !== "direct") {
        this.#receivedBy(peer, entered, cut);
        return;
      }
    }
    if (this.#budget !== null) this.#budget.received(message.length, peer);
    const taken = Math.min(message.length, this.maxPacketSize);
    const bytes = taken < message.length ? message.subarray(0, taken) : message;
    this.arrive(new ServedDatagram(bytes, peer, this, cut || taken < message.length), peer);
  }

  /** A datagram came by a proxy, to which replies go; their limit counts for the client. */
  #receivedBy(proxy: Address | null, passage: DatagramPassage, cut: boolean): void {
    const { address, rest } = passage;
    if (this.#budget !== null) this.#budget.received(rest.length, address);
    const post = (data: Data): number => this.post(data, proxy, address);
    this.arrive(datagramOf(passage, post, this.maxPacketSize, cut), address);
  }

  /**
   * Sends one datagram from this server's socket, and does not wait. The bytes are the caller's again when it returns.
   * What the network refuses is reported as `error`; a datagram that is not sent is reported as `dropped`: it is over
   * `amplification`, which counts for `client`, or the system has no room for it and 1 MiB waits already. Returns how
   * many bytes were sent: 0 if it was dropped. Throws `EBADF`, `EMSGSIZE`, `EAFNOSUPPORT`, `ENOTCONN`.
   */
  post(data: Data, sender: Address | null, client: Address | null = sender): number {
    const address = knownSender(sender);
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    this.checkReply(bytes.length, address);
    if (this.#budget?.spend(bytes.length, client) === false) {
      return this.dropped(bytes.length, address, "amplification");
    }
    return this.send(bytes, address);
  }

  /** Throws if a reply of this size cannot be sent there: `EBADF`, `EMSGSIZE`, `EAFNOSUPPORT`. */
  protected checkReply(size: number, address: Address): void {
    if (!this.#open) throw new SocketError("EBADF", "the server's socket is not open");
    if (address.family === "unix") throw new SocketError("EAFNOSUPPORT", "UDP does not reach a path");
    checkDatagramSize(size, address);
  }

  /** Sends it. Returns how many bytes were sent. */
  protected send(bytes: Uint8Array, address: Address): number {
    return this.#listener?.post(bytes, address as InternetAddress) ?? 0;
  }

  /** Reports that a reply was not sent. Returns 0. */
  protected dropped(bytes: number, address: Address, reason: "amplification" | "full"): 0 {
    if (this.watches("dropped"))
      this.announce({ type: "dropped", server: this.name, address, bytes, reason });
    return 0;
  }

  override async reserve(): Promise<number> {
    const fd = await super.reserve();
    this.receiveNoMore();
    return fd;
  }

  /** From now on, datagrams are for other processes that have the descriptor. */
  protected receiveNoMore(): void {
    this.#listener?.receiveNoMore();
  }

  /** The socket stays open until the last handler has replied. */
  protected override stopAccepting(): void {
    this.receiveNoMore();
  }

  /** The socket stays open until the last handler has replied. Requests that arrive meanwhile are refused. */
  protected override stopListening(): void {}

  protected override letGo(): MaybePromise<void> {
    this.#open = false;
    return this.#listener?.close();
  }
}

/** The reports of the transport to a UDP server. */
interface ServerSink extends DatagramSink {
  /** A datagram of `size` bytes was not sent: the system had no room for it. */
  dropped(size: number, address: Address): 0;
}

/** The transport of a UDP server: by Node's handle if there is one, without promises and events. */
class ServerDatagrams extends DgramTransport {
  /** The same as a socket. */
  readonly datagramSocket: DatagramSocket;
  readonly #server: ServerSink;
  readonly #unsent = new Unsent();
  #post: Post | null = null;
  #own: OwnSockets | null = null;

  /** `server` receives what arrives. */
  constructor(family: number, server: ServerSink) {
    super({ family, type: SOCK_DGRAM, proto: 0 });
    this.#server = server;
    this.datagramSocket = new DatagramSocket(this, family);
  }

  /** Only the server receives, and not the socket. */
  override start(): void {
    super.start(this.#server);
  }

  async bind(): Promise<void> {
    throw new SocketError("EINVAL", "serverBind() binds a server's socket");
  }

  /** Binds it. Resolves to its address. */
  async listen(at: dgram.BindOptions, said: string): Promise<Address | null> {
    if (ownSockets !== null) this.#own = await ownSockets();
    await this.open(at, said);
    return this.localAddress;
  }

  protected override hear(socket: dgram.Socket): void {
    const late = (error: NodeJS.ErrnoException, size: number, to: InternetAddress): void => {
      if (error.code === "ECANCELED") this.#server.dropped(size, to);
      else this.failed(error, to);
    };
    const heard = (message: Buffer, from: dgram.RemoteInfo): void => this.heard(message, from);
    this.#post = (this.#own?.datagrams ?? datagramHandle)(socket, heard, this.#unsent, late);
    if (this.#post !== null) return;
    super.hear(socket);
    this.#post = datagramPost(socket, this.#unsent, late);
  }

  /** Sends one without waiting, and returns its number of bytes. Errors of the network are reported as errors of the socket. */
  post(bytes: Uint8Array, address: InternetAddress): number {
    const refused = this.#post?.(bytes, address);
    if (refused === null) return bytes.length;
    if (refused === "full") return this.#server.dropped(bytes.length, address);
    if (refused !== undefined) this.failed(refused, address);
    return 0;
  }

  send(bytes: Uint8Array, address: Address, flags: number, wait?: Waiting): Promise<void> {
    const { socket } = this;
    if (socket === null) return Promise.reject(new SocketError("EBADF", "the server's socket is not open"));
    return this.sendBy(socket, bytes, address as InternetAddress, flags, wait);
  }

  override async close(): Promise<void> {
    this.#post = null;
    await super.close();
    // Node says that it is closed before it says what was not sent, a turn of the event loop later.
    while (!this.#unsent.isEmpty) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Serves datagrams side by side. CPython's `ThreadingUDPServer`; see `ThreadingMixIn`. */
export class ThreadingUDPServer<Context = unknown> extends ThreadingMixIn(UDPServer)<Context> {}
