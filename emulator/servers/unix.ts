/**
 * Servers on paths: `UnixStreamServer` and `UnixDatagramServer`, and those that serve side by side.
 *
 * A path is a file, and remains when its server is gone. So if it exists already, it is examined: if nobody
 * listens it is removed, and if somebody does, or it is no socket, the server does not start (`EADDRINUSE`). A server
 * removes its file when it closes, unless something else has been put there meanwhile. (CPython does
 * neither: its file remains, and the next server fails.)
 *
 * The file's permissions decide who may connect. The system tells no address of a client.
 */

import type { BigIntStats } from "node:fs";
import net from "node:net";
import { type Data, DONE, type MaybePromise } from "../../core/bytes/data.ts";
import { SocketError, type SocketErrorCode } from "../../core/errors.ts";
import { checkPathAccess } from "../../core/net/access.ts";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  type UnixAddress,
} from "../../core/net/address.ts";
import { AF_UNIX, SOCK_DGRAM } from "../../core/net/constants.ts";
import {
  ACCEPT_NAMES,
  type AcceptOptions,
  checkPathOptions,
  type OptionNames,
  optionNamesOf,
  PATH_NAMES,
  type PathOptions,
} from "../../core/options.ts";
import type { HandlerClass } from "../../core/serve/handler.ts";
import { ThreadingMixIn } from "../../core/serve/mixins.ts";
import { SERVER_NAMES, type ServerOptions } from "../../core/serve/server.ts";
import {
  type Datagram,
  type DatagramSink,
  type DatagramTransport,
  Unsent,
} from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions } from "../../core/sockets/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/stream-socket.ts";
import { type ListenerSecurity, SERVER_TLS_NAMES } from "../../core/sockets/tls.ts";
import { fs, lazy } from "../builtin.ts";
import { peerName } from "../kernel/descriptors/adopted.ts";
import { neededLibc } from "../kernel/descriptors/libc.ts";
import { checkedPath } from "../kernel/descriptors/sockaddr.ts";
import type { Origin } from "../kernel/net-transport.ts";
import { neededNode } from "../runtime.ts";
import { type LibcDatagrams, libcDatagrams } from "../sockets/libc-datagrams.ts";
import { bindError } from "../sockets/resolve.ts";
import { TCPServer } from "./tcp.ts";
import { UDPServer, type UDPServerOptions } from "./udp.ts";

/** Options of a server on a path. `access` is by IP address, and so for what proxies say: it needs `proxyProtocol`. */
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
 * abstract name (`"unix:\0echo"`, Linux) is no file, and goes with its server.
 *
 * A client that did not bind its socket has no address: `clientAddress` is `null` (CPython has `""`). The path of one
 * that did is told with the package `koffi`.
 */
export class UnixStreamServer<Context = unknown> extends TCPServer<Context> {
  static override readonly optionNames: OptionNames = UNIX_STREAM_NAMES;

  #file: Identity | null = null;
  readonly #permissions: Permissions;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: UnixStreamServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    checkedPath(this.#path);
    checkPathAccess(options);
    this.#permissions = permissionsOf(options, this.#path);
  }

  get #path(): string {
    return (this.endpoint as { readonly path: string }).path;
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
    const path = this.#path;
    await bindPath(path, () => this.bind({ path }));
    this.#file = identityOf(path);
    permit(path, this.#permissions);
  }

  protected override originOf(fd: number): Origin {
    const peer = fd < 0 ? null : peerName(fd);
    return {
      local: (this.serverAddress as UnixAddress | null) ?? { family: "unix", path: this.#path },
      remote: peer?.family === "unix" ? peer : undefined,
    };
  }

  /** Its file stays: it is the other process's now. */
  protected override stopAccepting(): void {
    this.#closeAt(() => super.stopAccepting(), this.#file !== null);
    this.#file = null;
  }

  protected override stopListening(): void {
    const now = identityOf(this.#path);
    this.#closeAt(() => super.stopListening(), now !== null && this.#file !== null && !same(now, this.#file));
    this.#file = null;
  }

  /** Closes the listener. `others`: the file at the path is not to go with it. */
  #closeAt(close: () => void, others: boolean): void {
    const path = this.#path;
    const kept = `${path}.${process.pid}~`;
    // Without koffi Node removes whatever is at the path (libuv, uv__pipe_close). What is to stay is kept under a second
    // name, and is back some microseconds later.
    const keep = others && linked(path, kept);
    close();
    if (keep) {
      linked(kept, path); // not by rename(2), which would replace a file made there in this moment
      fs.unlinkSync(kept);
    } else if (!others) {
      removeOwn(path, this.#file);
    }
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
const PACKAGE_CUT = 65_535; // bytes of a datagram that the package takes; it does not tell that it cut one

/**
 * Serves the datagrams sent to a path, one at a time. CPython's `UnixDatagramServer`. Node has no such sockets: they
 * are made by the package `koffi`, or else by `node-unix-socket`; without either `listen()` rejects with
 * `ERR_UNSUPPORTED`.
 *
 * A sender that did not bind its socket has no name to reply to: `clientAddress` is `null`, and a reply throws
 * `ENOTCONN`. Replies wait for a client that does not take them, and all replies behind them wait, too, as CPython's
 * `sendto()` does; past 1 MiB further ones are dropped, and told.
 *
 * `node-unix-socket` has no abstract names, takes 65 535 bytes of a datagram (one of that length counts as
 * `truncated`), and hears nobody any more once a reply had to wait: the event `error` says so. `koffi` has none of that.
 */
export class UnixDatagramServer<Context = unknown> extends UDPServer<Context> {
  static override readonly optionNames: OptionNames = UNIX_DATAGRAM_NAMES;

  #datagrams: PathDatagrams | undefined;
  #address: UnixAddress | null = null;
  #file: Identity | null = null;
  readonly #unsent = new Unsent();
  readonly #permissions: Permissions;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Datagram, Context>,
    options: UnixDatagramServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    neededNode("datagrams on a path", "use UDP on the loopback address");
    checkedPath(this.#path);
    checkPathAccess(options);
    if (isAbstract(this.#path)) neededLibc("an abstract name of datagrams");
    this.#permissions = permissionsOf(options, this.#path);
  }

  get #path(): string {
    return (this.endpoint as { readonly path: string }).path;
  }

  protected override get scheme(): "unix" {
    return "unix";
  }

  protected override get unaddressed(): "unix" {
    return "unix";
  }

  /** Throws `ERR_UNSUPPORTED`: the server keeps its socket to itself. */
  override get socket(): never {
    const said =
      "a server on a path has no socket to give; use fileno(), or send by a socket(AF_UNIX, SOCK_DGRAM)";
    throw new SocketError("ERR_UNSUPPORTED", said);
  }

  /** The descriptor; -1 where it is not bound. Throws `ERR_UNSUPPORTED` without `koffi`. */
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
    this.#address = { family: "unix", path: this.#path };
    if (fd !== null) {
      const { localAddress } = this.known(fd);
      if (localAddress?.family === "unix") this.#address = localAddress;
      const datagrams =
        libcDatagrams(KIND, fd) ?? (neededLibc("a descriptor of datagrams on a path", null) as never);
      this.#hear(datagrams, Number.POSITIVE_INFINITY);
      this.#datagrams = datagrams;
      return;
    }
    await bindPath(this.#path, async () => {
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
    this.#file = identityOf(this.#path);
    permit(this.#path, this.#permissions);
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
      // Closed while it waited for its client's room.
      if (error.code === "ECANCELED") this.dropped(size, address, "full");
      else this.#tellError(error, address);
    };
    sending.catch(failed).finally(() => this.#unsent.remove(size));
    return size;
  }

  /** (`node-unix-socket` goes on receiving, and what comes is refused.) */
  protected override receiveNoMore(): void {
    this.#datagrams?.receiveNoMore?.();
  }

  /** Its file stays: it is the other process's now. */
  protected override stopAccepting(): void {
    super.stopAccepting();
    this.#file = null;
  }

  /** Its file goes; the socket stays open until the last reply was sent. */
  protected override stopListening(): void {
    removeOwn(this.#path, this.#file);
    this.#file = null;
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

/** The parts of `node-unix-socket` that are used. */
interface DgramSocket {
  bind(path: string): void;
  /** Calls `sent` before it returns, if there is room; never for a datagram that still waits when the socket is closed. */
  sendTo(buffer: Buffer, offset: number, length: number, path: string, sent: (error?: Error) => void): void;
  close(): void;
  on(event: "data", listener: (message: Buffer, path: string) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

const unixSockets = (): { readonly DgramSocket: new () => DgramSocket } => {
  try {
    return lazy.module.createRequire(import.meta.url)("node-unix-socket");
  } catch (cause) {
    const said =
      "Node has no Unix datagram sockets; a package that has them is not here: npm install koffi (or node-unix-socket)";
    throw new SocketError("ERR_UNSUPPORTED", said, { cause });
  }
};

/** The same by `node-unix-socket`, without libc. */
class PackageDatagrams implements PathDatagrams {
  readonly #socket: DgramSocket = new (unixSockets().DgramSocket)();
  readonly #waiting = new Set<(error: SocketError) => void>(); // the sends that a close rejects
  #sink: DatagramSink | undefined;
  #said = "";
  #deaf = false;

  start(sink: DatagramSink): void {
    this.#sink = sink;
    this.#socket.on("data", ({ buffer, byteOffset, byteLength }, path) => {
      const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
      sink.message(bytes, path === "" ? null : { family: "unix", path });
    });
    this.#socket.on("error", (error) => {
      sink.error(packageError(error, this.#said));
      this.close(); // as the package has
    });
  }

  async bind(endpoint: Endpoint): Promise<void> {
    this.#said = formatAddress(endpoint);
    const { path } = endpoint as Extract<Endpoint, { readonly scheme: "unix" }>;
    try {
      this.#socket.bind(path);
    } catch (error) {
      throw bindError(packageError(error, this.#said), { family: "unix", path }, this.#said);
    }
  }

  send(bytes: Uint8Array, address: Address): Promise<void> {
    const { path } = address as UnixAddress;
    const message = Buffer.from(bytes); // a copy: the caller's can change while it waits
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let done = false;
    const sent = (error?: unknown): void => {
      this.#waiting.delete(reject);
      if (error) reject(packageError(error, formatAddress(address)));
      else {
        done = true;
        resolve();
      }
    };
    this.#waiting.add(reject);
    try {
      this.#socket.sendTo(message, 0, message.length, path, sent);
    } catch (error) {
      sent(error);
    }
    if (this.#waiting.has(reject)) this.#hearsNoMore(address);
    return done ? DONE : promise;
  }

  close(): void {
    this.#socket.close();
    for (const reject of this.#waiting) reject(new SocketError("ECANCELED"));
    this.#waiting.clear();
  }

  /** The package waits for room to write then, and never again for something to read (0.2.7, `flush()` in dgram.rs). */
  #hearsNoMore(address: Address): void {
    if (this.#deaf) return;
    this.#deaf = true;
    const why = `${formatAddress(address)} takes no replies, and node-unix-socket hears nobody from now on`;
    const said = `${why}: restart the server; with the package koffi this does not happen (npm install koffi)`;
    this.#sink?.error(new SocketError("ERR_INTERNAL", said, { address: this.#said }));
  }
}

// The package's errors have no codes, only the texts of strerror(3) as Rust's `nix` has them.
const CODES: Readonly<Record<string, SocketErrorCode>> = {
  "Address already in use": "EADDRINUSE",
  "Permission denied": "EACCES",
  "No such file or directory": "ENOENT",
  "Connection refused": "ECONNREFUSED",
  "Message too long": "EMSGSIZE",
  "Operation not permitted": "EPERM",
  "No buffer space available": "ENOBUFS",
};

const packageError = (error: unknown, address: string): SocketError => {
  const { message } = error as Error;
  const code = Object.hasOwn(CODES, message) ? CODES[message]! : "ERR_INTERNAL";
  const said = code === "ECONNREFUSED" ? "nobody listens there" : message.toLowerCase();
  return new SocketError(code, `${address}: ${said}`, { address, cause: error });
};

// ---- The file ----

const isAbstract = (path: string): boolean => path.startsWith("\0");

const checkListen = (server: { readonly allowReusePort: boolean; readonly ipv6Only: boolean }): void => {
  if (server.allowReusePort || server.ipv6Only) {
    throw new TypeError("allowReusePort and ipv6Only are for ports; a path has none");
  }
};

/** The socket's file at `path` is this process's from now on. Gives what removes it, unless another was put there meanwhile. */
export const ownPath = (path: string): (() => void) => {
  const made = identityOf(path);
  return () => removeOwn(path, made);
};

type Identity = Pick<BigIntStats, "dev" | "ino" | "birthtimeNs" | "isSocket">;

/** The file at a path now; `null` if there is none, or it is an abstract name. */
const identityOf = (path: string): Identity | null =>
  isAbstract(path) ? null : (fs.lstatSync(path, { bigint: true, throwIfNoEntry: false }) ?? null);

// An inode's number is used again when its file is gone; together with the time of birth it identifies one file.
const same = (one: Identity, other: Identity): boolean =>
  one.dev === other.dev && one.ino === other.ino && one.birthtimeNs === other.birthtimeNs;

/** Removes the file, if it is still the one that was made. */
const removeOwn = (path: string, made: Identity | null): void => {
  const now = made === null ? null : identityOf(path);
  if (now !== null && made !== null && same(now, made)) fs.unlinkSync(path);
};

/** What the file of a server on a path is given; `null`: that stays as it is. */
interface Permissions {
  readonly mode: number | null;
  readonly uid: number | null;
  readonly gid: number | null;
}

/** Throws `TypeError` and `RangeError`. */
const permissionsOf = (options: PathOptions, path: string): Permissions => {
  const { mode, owner, group } = checkPathOptions(options);
  if (isAbstract(path) && (mode ?? owner ?? group) !== undefined) {
    throw new TypeError("mode, owner and group are of a file, and an abstract name is none");
  }
  return {
    mode: mode ?? null,
    uid: idOf("owner", owner, "/etc/passwd", "a user"),
    gid: idOf("group", group, "/etc/group", "a group"),
  };
};

/** The number of a user or a group. Throws `TypeError` where there is none of this name. */
const idOf = (
  option: string,
  who: number | string | undefined,
  file: string,
  kind: string,
): number | null => {
  if (typeof who !== "string") return who ?? null;
  let lines: string[] = [];
  try {
    lines = fs.readFileSync(file, "utf8").split("\n");
  } catch {
    // not there: nobody is known by name
  }
  for (const line of lines) {
    const [name, , id] = line.split(":"); // passwd(5), group(5)
    if (name === who && /^\d+$/.test(id ?? "")) return Number(id);
  }
  throw new TypeError(`${option} is "${who}", which is no name in ${file}: give the number of ${kind}`);
};

/** Gives the file of a path its owner and its mode. Throws `EPERM` where the process has no right to. */
const permit = (path: string, { mode, uid, gid }: Permissions): void => {
  const said = formatAddress({ scheme: "unix", path });
  try {
    if (uid !== null || gid !== null) fs.lchownSync(path, uid ?? -1, gid ?? -1);
    if (mode !== null) fs.chmodSync(path, mode);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EPERM") throw cause;
    const wanted = [...(uid === null ? [] : [`user ${uid}`]), ...(gid === null ? [] : [`group ${gid}`])];
    const why = `this process (user ${process.geteuid?.()}) may not give the file to ${wanted.join(" and ")}`;
    const remedy = "another owner takes CAP_CHOWN, another group takes that or being in it";
    throw new SocketError("EPERM", `${said}: ${why}: ${remedy}`, { address: said, cause });
  }
};

/** Makes a second name for a file. False if that fails: the file is gone, or is a folder, or the name is taken. */
const linked = (path: string, name: string): boolean => {
  try {
    fs.linkSync(path, name);
    return true;
  } catch {
    return false;
  }
};

/** Binds a path, if nobody else has it. A file that a server left behind is removed first. */
const bindPath = async (path: string, bind: () => MaybePromise<void>): Promise<void> => {
  try {
    await bind();
  } catch (error) {
    const { code, cause } = error as SocketError;
    const said = formatAddress({ scheme: "unix", path });
    if (code !== "EADDRINUSE") throw error;
    const why = await occupied(path);
    if (why !== null)
      throw new SocketError("EADDRINUSE", `${said} is in use: ${why}`, { address: said, cause });
    await bind();
  }
};

/** Why a path cannot be bound; `null` if it can be now, because a server that is gone had left it behind. */
const occupied = async (path: string): Promise<string | null> => {
  if (isAbstract(path)) return `${listenerAt(path)} listens there; end it, or choose another name`;
  const file = identityOf(path);
  if (file === null) return null;
  if (!file.isSocket()) return "there is a file that is no socket; choose another path";
  // Also for datagrams: the kernel looks for a listener before it checks that it is of the same kind.
  const said = await new Promise<string>((resolve) => {
    const probe = net.connect(path, () => resolve("connected"));
    probe.on("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.once("connect", () => probe.destroy());
  });
  if (said === "ENOENT") return null;
  if (said === "EACCES" || said === "EPERM") {
    return "there is a socket that this process may not connect to, so that it cannot tell whether somebody listens";
  }
  if (said !== "ECONNREFUSED") return `${listenerAt(path)} listens there; end it, or choose another path`;
  const now = identityOf(path);
  if (now !== null && same(now, file)) fs.unlinkSync(path);
  return null;
};

/** Who has a path, as far as that is known: by proc(5), among the processes that this one may examine. */
const listenerAt = (path: string): string => {
  try {
    const shown = isAbstract(path) ? `@${path.slice(1)}` : path;
    // Num RefCount Protocol Flags Type St Inode Path
    const lines = fs.readFileSync("/proc/net/unix", "latin1").split("\n");
    const bytes = Buffer.from(shown).toString("latin1");
    const inodes = lines.flatMap((line) => (line.endsWith(` ${bytes}`) ? (line.split(/ +/)[6] ?? []) : []));
    const held = new Set(inodes.map((inode) => `socket:[${inode}]`));
    for (const pid of fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name))) {
      const folder = `/proc/${pid}/fd`;
      let fds: string[] = [];
      try {
        fds = fs.readdirSync(folder);
      } catch {
        continue; // another user's, or ended
      }
      const has = fds.some((fd) => {
        try {
          return held.has(fs.readlinkSync(`${folder}/${fd}`));
        } catch {
          return false;
        }
      });
      if (has) return `process ${pid} (${fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim()})`;
    }
  } catch {
    // No proc(5) here.
  }
  return "another program";
};
