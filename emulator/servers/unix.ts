/**
 * Servers on paths: `UnixStreamServer` and `UnixDatagramServer`, and those that serve side by side. The permissions of a
 * path's file decide who may connect (`socket-file.ts`). The system gives no address of a client.
 */

import { type Data, DONE, type MaybePromise } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import type { Address, AddressLike, Endpoint, UnixAddress } from "../../core/net/address.ts";
import { AF_UNIX, SOCK_DGRAM } from "../../core/net/constants.ts";
import {
  ACCEPT_NAMES,
  type AcceptOptions,
  type OptionNames,
  optionNamesOf,
  PATH_NAMES,
  type PathOptions,
} from "../../core/options.ts";
import { ThreadingMixIn } from "../../core/serve/mixins.ts";
import { SERVER_NAMES, type ServerOptions } from "../../core/serve/server.ts";
import { type Datagram, type DatagramTransport, Unsent } from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions } from "../../core/sockets/streams/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { type ListenerSecurity, SERVER_TLS_NAMES } from "../../core/sockets/tls/tls.ts";
import { peerName } from "../kernel/descriptors/adopted.ts";
import { neededLibc } from "../kernel/descriptors/libc.ts";
import type { Origin } from "../kernel/transports/seam.ts";
import { neededNode } from "../runtime.ts";
import { type LibcDatagrams, libcDatagrams } from "../sockets/datagrams/libc-datagrams.ts";
import { PackageDatagrams } from "../sockets/datagrams/package-datagrams.ts";
import { isAbstract, SocketFile } from "./socket-file.ts";
import { TCPServer } from "./tcp.ts";
import { UDPServer, type UDPServerOptions } from "./udp.ts";

/** Options of a server on a path. `access` is by IP address, which only a proxy provides: it needs `proxyProtocol`. */
export interface UnixStreamServerOptions<Context>
  extends ServerOptions<Context>,
    AcceptOptions,
    PathOptions,
    ListenerSecurity<HandlerClass<StreamSocket, Context>> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
  /** A descriptor that is bound, or listens, which the server takes over and listens on; it binds nothing, and leaves the file where it is. Default: none. */
  readonly fd?: number | undefined;
}

const UNIX_STREAM_NAMES = optionNamesOf<UnixStreamServerOptions<unknown>>()({
  ...SERVER_NAMES,
  ...ACCEPT_NAMES,
  ...PATH_NAMES,
  tls: SERVER_TLS_NAMES,
  secureTransport: true,
  stream: STREAM_NAMES,
  fd: true,
});

/**
 * Serves connections to a path, `"unix:/run/echo"` or `{ path }`, one at a time. CPython's `UnixStreamServer`. An
 * abstract name (`"unix:\0echo"`, Linux) is not a file, and disappears with its server.
 *
 * A client that did not bind its socket has no address: `clientAddress` is `null` (CPython has `""`). The path of one
 * that did is known with the package `koffi`.
 */
export class UnixStreamServer<Context = unknown> extends TCPServer<Context> {
  static override readonly optionNames: OptionNames = UNIX_STREAM_NAMES;

  readonly #file: SocketFile;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: UnixStreamServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    this.#file = new SocketFile(pathOf(this.endpoint), options);
  }

  protected override get scheme(): "unix" {
    return "unix";
  }

  protected override get unaddressed(): "unix" {
    return "unix";
  }

  override async serverBind(): Promise<void> {
    checkListen(this);
    if (this.fd !== null) return super.serverBind();
    const { path } = this.#file;
    await this.#file.bind(() => this.bind({ path }));
  }

  protected override originOf(fd: number): Origin {
    const peer = fd < 0 ? null : peerName(fd);
    return {
      local: (this.serverAddress as UnixAddress | null) ?? { family: "unix", path: this.#file.path },
      remote: peer?.family === "unix" ? peer : undefined,
    };
  }

  /** Its file stays: it belongs to the other process now. */
  protected override stopAccepting(): void {
    this.#file.closeWith(() => super.stopAccepting(), true);
  }

  protected override stopListening(): void {
    this.#file.closeWith(() => super.stopListening());
  }
}

/** Serves connections to a path side by side. CPython's `ThreadingUnixStreamServer`; see `ThreadingMixIn`. */
export class ThreadingUnixStreamServer<Context = unknown> extends ThreadingMixIn(UnixStreamServer)<Context> {}

// ---- Datagrams ----

/** Options of a datagram server on a path. */
export type UnixDatagramServerOptions<Context> = PathOptions &
  Omit<UDPServerOptions<Context>, "ipv6Only" | "allowReusePort" | "allowReuseAddress" | "amplification">;

const UNIX_DATAGRAM_NAMES = optionNamesOf<UnixDatagramServerOptions<unknown>>()({
  ...SERVER_NAMES,
  ...PATH_NAMES,
  maxPacketSize: true,
  fd: true,
});

const KIND = { family: AF_UNIX, type: SOCK_DGRAM, proto: 0 };
const PACKAGE_CUT = 65_535; // bytes of a datagram that the package keeps; it does not report that it cut one

/**
 * Serves the datagrams sent to a path, one at a time. CPython's `UnixDatagramServer`. Node has no such sockets: they
 * are made by the package `koffi`, or else by `node-unix-socket`; without either `listen()` rejects with
 * `ERR_UNSUPPORTED`.
 *
 * A sender that did not bind its socket has no name to reply to: `clientAddress` is `null`, and a reply throws
 * `ENOTCONN`. Replies wait for a client that does not take them, and all replies behind them wait, too, as CPython's
 * `sendto()` does; beyond 1 MiB further ones are dropped, and reported.
 *
 * `node-unix-socket` has no abstract names, takes 65 535 bytes of a datagram (one of that length counts as
 * `truncated`), and receives nothing any more once a reply had to wait: the event `error` reports that. `koffi` has none of these limits.
 */
export class UnixDatagramServer<Context = unknown> extends UDPServer<Context> {
  static override readonly optionNames: OptionNames = UNIX_DATAGRAM_NAMES;

  #datagrams: PathDatagrams | undefined;
  #address: UnixAddress | null = null;
  readonly #unsent = new Unsent();
  readonly #file: SocketFile;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Datagram, Context>,
    options: UnixDatagramServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    neededNode("datagrams on a path", "use UDP on the loopback address");
    this.#file = new SocketFile(pathOf(this.endpoint), options);
    if (isAbstract(this.#file.path)) neededLibc("an abstract name of datagrams");
  }

  protected override get scheme(): "unix" {
    return "unix";
  }

  protected override get unaddressed(): "unix" {
    return "unix";
  }

  /** Throws `ERR_UNSUPPORTED`: the server does not expose its socket. */
  override get socket(): never {
    const said =
      "a server on a path has no socket to give; use fileno(), or send by a socket(AF_UNIX, SOCK_DGRAM)";
    throw new SocketError("ERR_UNSUPPORTED", said);
  }

  /** The descriptor; -1 if it is not bound. Throws `ERR_UNSUPPORTED` without `koffi`. */
  override fileno(): number {
    if (this.#datagrams === undefined) return -1;
    return this.#datagrams.kernel?.fd ?? (neededLibc("the descriptor of a server on a path", null) as never);
  }

  override get serverAddress(): Address | null {
    return this.#datagrams === undefined ? null : this.#address;
  }

  override async serverBind(): Promise<void> {
    checkListen(this);
    const { fd } = this;
    this.#address = { family: "unix", path: this.#file.path };
    if (fd !== null) {
      const { localAddress } = this.known(fd);
      if (localAddress?.family === "unix") this.#address = localAddress;
      const datagrams =
        libcDatagrams(KIND, fd) ?? (neededLibc("a descriptor of datagrams on a path", null) as never);
      this.#hear(datagrams, Number.POSITIVE_INFINITY);
      this.#datagrams = datagrams;
      return;
    }
    await this.#file.bind(async () => {
      const libc = libcDatagrams(KIND);
      const datagrams: PathDatagrams = libc ?? new PackageDatagrams();
      this.#hear(datagrams, libc === null ? PACKAGE_CUT : Number.POSITIVE_INFINITY);
      try {
        await datagrams.bind(this.endpoint);
      } catch (error) {
        await datagrams.close();
        throw error;
      }
      this.#datagrams = datagrams;
    });
  }

  #hear(datagrams: PathDatagrams, most: number): void {
    datagrams.start({
      message: (bytes, peer) => this.received(bytes, peer, bytes.length >= most),
      error: (error) => this.#tellError(error, null),
    });
  }

  override async reserve(): Promise<number> {
    neededLibc("a descriptor of datagrams on a path");
    return super.reserve();
  }

  override post(data: Data, sender: Address | null, client: Address | null = sender): number {
    if (sender !== null) return super.post(data, sender, client);
    throw new SocketError(
      "ENOTCONN",
      "the sender of this datagram has no name to reply to: it must bind one",
    );
  }

  protected override checkReply(_size: number, address: Address): void {
    if (this.#datagrams === undefined) throw new SocketError("EBADF", "the server's socket is not open");
    if (address.family !== "unix") throw new SocketError("EAFNOSUPPORT", "a path is not reached by IP");
  }

  protected override send(bytes: Uint8Array, address: Address): number {
    const size = bytes.length;
    if (!this.#unsent.fits(size)) return this.dropped(size, address, "full");
    const sending = this.#datagrams?.send(bytes, address, 0);
    if (sending === undefined || sending === DONE) return size;
    this.#unsent.add(size);
    const failed = (error: SocketError): void => {
      // Closed while it waited for its client to make room.
      if (error.code === "ECANCELED") this.dropped(size, address, "full");
      else this.#tellError(error, address);
    };
    sending.catch(failed).finally(() => this.#unsent.remove(size));
    return size;
  }

  /** (`node-unix-socket` keeps receiving, and those datagrams are refused.) */
  protected override receiveNoMore(): void {
    this.#datagrams?.receiveNoMore?.();
  }

  /** Its file stays: it belongs to the other process now. */
  protected override stopAccepting(): void {
    super.stopAccepting();
    this.#file.disown();
  }

  /** Its file goes; the socket stays open until the last reply was sent. */
  protected override stopListening(): void {
    this.#file.remove();
  }

  protected override letGo(): MaybePromise<void> {
    const datagrams = this.#datagrams;
    this.#datagrams = undefined;
    return datagrams?.close();
  }

  #tellError(error: SocketError, address: Address | null): void {
    this.announce({ type: "error", server: this.name, address, error });
  }
}

/** Serves the datagrams sent to a path side by side. CPython's `ThreadingUnixDatagramServer`; see `ThreadingMixIn`. */
export class ThreadingUnixDatagramServer<Context = unknown> extends ThreadingMixIn(
  UnixDatagramServer,
)<Context> {}

/** The transport of the server. */
type PathDatagrams = Pick<DatagramTransport, "kernel" | "start" | "bind" | "send" | "close"> &
  Partial<Pick<LibcDatagrams, "receiveNoMore">>;

const checkListen = (server: { readonly allowReusePort: boolean; readonly ipv6Only: boolean }): void => {
  if (server.allowReusePort || server.ipv6Only) {
    throw new TypeError("allowReusePort and ipv6Only are for ports; a path has none");
  }
};

const pathOf = (endpoint: Endpoint): string => (endpoint as { readonly path: string }).path;
