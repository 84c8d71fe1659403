/** `socket()`, and the other functions of CPython's `socket` module that make sockets. */

import { SocketError } from "../../core/errors.ts";
import { type Address, type AddressLike, formatAddress, parseAddress } from "../../core/net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_V6ONLY,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
} from "../../core/net/constants.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../core/options.ts";
import { DatagramSocket, type DatagramTransport } from "../../core/sockets/datagram.ts";
import { fs, join, lazy } from "../builtin.ts";
import { networkError } from "../kernel/addresses.ts";
import { adopted } from "../kernel/descriptors/adopted.ts";
import { type Libc, libc, neededLibc } from "../kernel/descriptors/libc.ts";
import type { Kind } from "../kernel/descriptors/plain-options.ts";
import { neededNode } from "../runtime.ts";
import { libcDatagrams } from "./datagrams/libc-datagrams.ts";
import { NodeDatagrams } from "./datagrams/node-datagrams.ts";
import { checkDatagrams } from "./dialling/edge.ts";
import { currentRequest } from "./dialling/ownership.ts";
import { Socket } from "./socket.ts";

/** The transport of a datagram socket. */
const datagrams = (kind: Kind, fileno: number): DatagramTransport => {
  checkDatagrams(currentRequest());
  if (fileno >= 0) adopted(fileno, kind);
  const made = libcDatagrams(kind, fileno);
  if (made !== null) return made;
  if (kind.family !== AF_UNIX) return new NodeDatagrams(kind, fileno);
  neededNode("a Unix datagram socket", "use UDP on the loopback address");
  const why = libc() === null ? "" : " of version 3.3 or newer";
  const said = `a Unix datagram socket needs the package koffi${why}: npm install koffi (node-unix-socket serves UnixDatagramServer alone)`;
  throw new SocketError("ERR_UNSUPPORTED", said);
};

/** Options of a new socket, besides its kind. */
export interface SocketOptions {
  /**
   * A descriptor to take over, in whatever state it is; the socket's from now on (CPython's `fileno`). Throws `EBADF`,
   * `ENOTSOCK`, and `EINVAL` if it is of another family or type.
   */
  readonly fileno?: number;
}

const SOCKET_NAMES = optionNamesOf<SocketOptions>()({ fileno: true });

/**
 * A socket of this family, type and protocol, neither bound nor connected. CPython's `socket.socket`.
 *
 *     const listener = socket(AF_INET, SOCK_STREAM);
 *     await listener.bind("127.0.0.1:7007");
 *     await listener.listen();
 *     const [connection, address] = await listener.accept();
 *
 * `AF_INET`, `AF_INET6` and `AF_UNIX`; `SOCK_STREAM` (the default) and `SOCK_DGRAM`. `SOCK_NONBLOCK` may be or-ed to the
 * type; `SOCK_CLOEXEC` is always set. Throws `EAFNOSUPPORT`, `EPROTONOSUPPORT`, `EMFILE`, and `ERR_UNSUPPORTED` for
 * raw sockets and, without the package `koffi`, for Unix datagrams.
 */
export function socket(
  family: number | undefined,
  type: typeof SOCK_DGRAM,
  proto?: number,
  options?: SocketOptions,
): DatagramSocket;
export function socket(
  family?: number,
  type?: typeof SOCK_STREAM,
  proto?: number,
  options?: SocketOptions,
): Socket;
export function socket(
  family?: number,
  type?: number,
  proto?: number,
  options?: SocketOptions,
): Socket | DatagramSocket;
export function socket(
  family: number = AF_INET,
  type: number = SOCK_STREAM,
  proto = 0,
  options: SocketOptions = {},
): Socket | DatagramSocket {
  checkOptions("socket()", options, SOCKET_NAMES);
  const { fileno } = options;
  for (const [what, value] of Object.entries({ family, type, proto })) {
    if (!Number.isInteger(value)) throw new TypeError(`the ${what} of a socket is an integer, not ${value}`);
  }
  if (fileno !== undefined) checkCount("a descriptor", fileno, 0);
  if (family !== AF_INET && family !== AF_INET6 && family !== AF_UNIX) {
    throw new SocketError(
      "EAFNOSUPPORT",
      `the address family is AF_INET (2), AF_INET6 (10) or AF_UNIX (1), not ${family}`,
    );
  }
  const kind: Kind = { family, type: type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK), proto };
  const stream = kind.type === SOCK_STREAM;
  if (!stream && kind.type !== SOCK_DGRAM) {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      `the type of a socket is SOCK_STREAM (1) or SOCK_DGRAM (2) here, not ${kind.type}; raw sockets need a packet library`,
    );
  }
  const own = family === AF_UNIX ? AF_UNIX : stream ? IPPROTO_TCP : IPPROTO_UDP; // unix(7): its protocol is its family
  if (proto !== 0 && proto !== own) {
    throw new SocketError(
      "EPROTONOSUPPORT",
      `the protocol is 0 or ${own} for this family and type, not ${proto}`,
    );
  }
  const made = !stream
    ? new DatagramSocket(datagrams(kind, fileno ?? -1), family)
    : fileno === undefined
      ? new Socket(family, proto)
      : Socket.adopt(kind, fileno);
  if (type & SOCK_NONBLOCK) made.setblocking(false);
  return made;
}

/**
 * A socket over a duplicate of a descriptor, which stays with its owner. CPython's `socket.fromfd`.
 *
 * Throws `EBADF`, `ENOTSOCK`, `EINVAL` if it is of another family or type, and `ERR_UNSUPPORTED` without `koffi`:
 * without it `socket(family, type, 0, { fileno })` takes a descriptor over.
 */
export function fromfd(fd: number, family: number, type: typeof SOCK_DGRAM, proto?: number): DatagramSocket;
export function fromfd(fd: number, family: number, type: typeof SOCK_STREAM, proto?: number): Socket;
export function fromfd(fd: number, family: number, type: number, proto?: number): Socket | DatagramSocket;
export function fromfd(fd: number, family: number, type: number, proto = 0): Socket | DatagramSocket {
  checkCount("a descriptor", fd, 0);
  const calls = neededLibc("fromfd()");
  const fileno = calls.dup(fd);
  try {
    return socket(family, type, proto, { fileno });
  } catch (error) {
    calls.close(fileno);
    throw error;
  }
}

/**
 * Two sockets that are connected with each other. CPython's `socket.socketpair`; socketpair(2).
 *
 * Streams, or with the package `koffi` datagrams. Datagram sockets have names here, so that each knows the other's address. Rejects with
 * `EOPNOTSUPP` for a family other than `AF_UNIX`.
 */
export function socketpair(
  family: number | undefined,
  type: typeof SOCK_DGRAM,
): Promise<[DatagramSocket, DatagramSocket]>;
export function socketpair(family?: number, type?: typeof SOCK_STREAM): Promise<[Socket, Socket]>;
export async function socketpair(
  family: number = AF_UNIX,
  type: number = SOCK_STREAM,
): Promise<[Socket, Socket] | [DatagramSocket, DatagramSocket]> {
  if (family !== AF_UNIX) {
    throw new SocketError("EOPNOTSUPP", "socketpair() makes Unix sockets (AF_UNIX) alone");
  }
  const calls = type === SOCK_DGRAM ? neededLibc("a pair of datagram sockets") : libc();
  if (type === SOCK_DGRAM) {
    const one = socket(AF_UNIX, SOCK_DGRAM);
    const other = socket(AF_UNIX, SOCK_DGRAM);
    for (const end of [one, other]) (calls as Libc).autobind(end.fileno());
    await one.connect(other.getsockname() as Address);
    await other.connect(one.getsockname() as Address);
    return [one, other];
  }
  if (calls !== null) {
    const [one, other] = calls.socketpair(AF_UNIX, SOCK_STREAM);
    return [
      socket(AF_UNIX, SOCK_STREAM, 0, { fileno: one }),
      socket(AF_UNIX, SOCK_STREAM, 0, { fileno: other }),
    ];
  }
  // At a path that nobody else can reach.
  const folder = fs.mkdtempSync(join(lazy.os.tmpdir(), "socklet-pair-"));
  const listener = socket(AF_UNIX);
  const one = socket(AF_UNIX);
  try {
    const path = join(folder, "s");
    await listener.bind({ path });
    await listener.listen(1);
    const [[other]] = await Promise.all([listener.accept(), one.connect({ path })]);
    return [one, other];
  } catch (error) {
    await one.close();
    throw error;
  } finally {
    await listener.close();
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

/** How `createServer()` listens. */
export interface CreateServerOptions {
  /** `AF_INET`, `AF_INET6` or `AF_UNIX`. Default: what the address is, and `AF_INET` for a name. */
  readonly family?: number;
  /** How many may wait for `accept()`. Default 128. */
  readonly backlog?: number;
  /** Other sockets may bind the same port, and the kernel spreads the connections (`SO_REUSEPORT`). */
  readonly reusePort?: boolean;
  /** An IPv6 socket takes IPv4, too. Default false: it takes only IPv6. */
  readonly dualstackIpv6?: boolean;
}

const CREATE_SERVER_NAMES = optionNamesOf<CreateServerOptions>("createServer()")({
  family: true,
  backlog: true,
  reusePort: "boolean",
  dualstackIpv6: "boolean",
});

/** A socket that is bound and listens. CPython's `socket.create_server`. Rejects as `bind()` and `listen()`. */
export const createServer = async (
  address: AddressLike,
  options: CreateServerOptions = {},
): Promise<Socket> => {
  checkOptions("createServer()", options, CREATE_SERVER_NAMES);
  const { family, backlog, reusePort = false, dualstackIpv6 = false } = options;
  const endpoint = parseAddress(address);
  const guessed = endpoint.scheme === "unix" ? AF_UNIX : endpoint.hostname.includes(":") ? AF_INET6 : AF_INET;
  const own = family ?? (dualstackIpv6 && guessed !== AF_UNIX ? AF_INET6 : guessed);
  if (dualstackIpv6 && own !== AF_INET6) throw new RangeError("dualstackIpv6 is for AF_INET6");
  const server = socket(own, SOCK_STREAM);
  try {
    if (own !== AF_UNIX) server.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    if (reusePort) server.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
    if (own === AF_INET6) server.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, !dualstackIpv6);
    await server.bind(endpoint);
    await server.listen(backlog);
    return server;
  } catch (error) {
    await server.close();
    throw error;
  }
};

/** Whether an IPv6 socket of this machine can take IPv4, too. CPython's `socket.has_dualstack_ipv6`. */
export const hasDualstackIpv6 = async (): Promise<boolean> => {
  try {
    await (await createServer("[::]:0", { dualstackIpv6: true })).close();
    return true;
  } catch {
    return false;
  }
};

// ---- A client of datagrams ----

/** Options of `createDatagramConnection()`. */
export interface DatagramConnectionOptions {
  /** How long one `recv()` waits, in milliseconds; `null`: no limit. Default 5 000: a datagram that is lost has no answer, as dig's `+time`. */
  readonly timeout?: number | null;
  /** The address to bind. Default: one that the system chooses; for a path none, so that the server cannot answer. */
  readonly localAddress?: AddressLike;
}

const DATAGRAM_CONNECTION_NAMES = optionNamesOf<DatagramConnectionOptions>("createDatagramConnection()")({
  timeout: true,
  localAddress: true,
});

/**
 * A datagram socket whose peer is `address`: `udp://host:port` (or `host:port`), or a path. It sends to that peer and
 * receives from no other; the counterpart of `createConnection()`.
 *
 *     await using client = await createDatagramConnection("udp://127.0.0.1:7007");
 *     await client.send("hello");
 *     await client.recv(); // rejects with ETIMEDOUT if nothing comes
 *
 * Nothing is sent, so the peer need not exist. Rejects with `ERR_NAME`; for a path with `ENOENT`, `ECONNREFUSED`, and
 * without the package `koffi` with `ERR_UNSUPPORTED`; as `bind()` for `localAddress`.
 */
export const createDatagramConnection = async (
  address: AddressLike,
  options: DatagramConnectionOptions = {},
): Promise<DatagramSocket> => {
  checkOptions("createDatagramConnection()", options, DATAGRAM_CONNECTION_NAMES);
  const { timeout = 5_000, localAddress } = options;
  const endpoint = parseAddress(address);
  const said = formatAddress(endpoint);
  if (endpoint.scheme === "tcp") throw new TypeError(`${said} is for createConnection()`);
  if (endpoint.scheme !== "unix" && (endpoint.port === 0 || endpoint.hostname === "")) {
    throw new RangeError(`${said} is no peer: it names no host, or port 0`);
  }
  checkTime("timeout", timeout, 1, true);
  let family: number = AF_UNIX;
  let peer = endpoint;
  if (endpoint.scheme !== "unix") {
    const found = await lazy.dns.promises.lookup(endpoint.hostname).catch((error) => {
      throw networkError(error, said);
    });
    family = found.family === 6 ? AF_INET6 : AF_INET;
    peer = { ...endpoint, hostname: found.address };
  }
  const made = socket(family, SOCK_DGRAM);
  try {
    if (localAddress !== undefined) await made.bind(localAddress);
    await made.connect(peer);
  } catch (error) {
    await made.close();
    throw error;
  }
  made.settimeout(timeout);
  return made;
};
