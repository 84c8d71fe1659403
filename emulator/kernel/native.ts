/**
 * What Node has no word for: descriptors, options of any level and name, urgent data, a socket that is bound and
 * does not listen. All that touches `_handle` (deprecated, DEP0112, and working), `net._createServerHandle` and libc
 * is in this file; but for handle.ts, which takes what a listener's handle accepts.
 *
 * The optional package `koffi` calls libc, about 1 µs a call, and has libuv wait for a descriptor. It is loaded when
 * first needed (20 ms), on Linux, whose numbers the constants have. Without it, or with the environment variable
 * `SOCKLET_NATIVE=off`, what Node's own API can do still works, and the rest throws `ERR_UNSUPPORTED`, which says what
 * to install.
 */

import type dgram from "node:dgram";
import net from "node:net";
import { SocketError } from "../../core/errors.ts";
import {
  type Address,
  formatAddress,
  type InternetAddress,
  inetNtop,
  inetPton,
  type UnixAddress,
} from "../../core/net/address.ts";
import * as constants from "../../core/net/constants.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IP_ADD_MEMBERSHIP,
  IP_DROP_MEMBERSHIP,
  IP_MULTICAST_IF,
  IP_MULTICAST_LOOP,
  IP_MULTICAST_TTL,
  IP_TTL,
  IPPROTO_IPV6,
  IPPROTO_TCP,
  IPPROTO_UDP,
  IPV6_JOIN_GROUP,
  IPV6_LEAVE_GROUP,
  IPV6_MULTICAST_HOPS,
  IPV6_MULTICAST_LOOP,
  IPV6_UNICAST_HOPS,
  IPV6_V6ONLY,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  POLLPRI,
  SO_ACCEPTCONN,
  SO_BROADCAST,
  SO_DOMAIN,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_PROTOCOL,
  SO_RCVBUF,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SO_SNDBUF,
  SO_TYPE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  TCP_KEEPIDLE,
  TCP_NODELAY,
} from "../../core/net/constants.ts";
import type { KernelSocket } from "../../core/sockets/transport.ts";
import { fs, getSystemErrorName, lazy } from "./builtin.ts";
import { unconnected } from "./intake.ts";

// ---- The package ----

interface Koffi {
  /** The functions of this process, libc's among them; `null` is the process itself, glibc's or musl's. */
  load(library: null): { func(declaration: string): Call };
  /** Of the last call. */
  errno(): number;
  /** libuv's poll handles, where this version has them. */
  readonly node?: {
    poll(fd: number, events: { readable: true }, told: (status: number) => void): PollHandle;
  };
}

type Call = (...args: unknown[]) => number;

interface PollHandle {
  close(): void;
  unref(): void;
}

let loaded: Libc | { readonly missing: string; readonly cause?: unknown } | undefined;

const load = (): NonNullable<typeof loaded> => {
  if (process.platform !== "linux") return { missing: "is for Linux alone" };
  try {
    const module = lazy.module.createRequire(import.meta.url)("koffi") as Koffi & {
      readonly default?: Koffi;
    };
    return new Libc(module.default ?? module);
  } catch (cause) {
    const absent = (cause as { code?: string }).code === "MODULE_NOT_FOUND";
    const does = absent ? "" : ", which could not be loaded; try";
    return { missing: `needs the package koffi${does}: npm install koffi`, cause };
  }
};

const isOff = (): boolean => process.env.SOCKLET_NATIVE === "off";

/** libc, where it can be called; `null` where it cannot, or is turned off. */
export const libc = (): Libc | null => {
  if (isOff()) return null;
  loaded ??= load();
  return loaded instanceof Libc ? loaded : null;
};

/** libc, or `ERR_UNSUPPORTED` for `what`, which says why there is none; `found` is what a socket was made with. */
export const neededLibc = (what: string, found: Libc | null = libc()): Libc => {
  if (found !== null) return found;
  const why = isOff() || loaded === undefined || loaded instanceof Libc ? null : loaded;
  const missing = why?.missing ?? "needs the package koffi, which SOCKLET_NATIVE=off turned off";
  throw new SocketError("ERR_UNSUPPORTED", `${what} ${missing}`, { cause: why?.cause });
};

// ---- libc ----

const DECLARATIONS = {
  socket: "int socket(int family, int type, int protocol)",
  socketpair: "int socketpair(int family, int type, int protocol, void *fds)",
  bind: "int bind(int fd, void *address, uint32_t size)",
  connect: "int connect(int fd, void *address, uint32_t size)",
  getsockname: "int getsockname(int fd, void *address, void *size)",
  getpeername: "int getpeername(int fd, void *address, void *size)",
  getsockopt: "int getsockopt(int fd, int level, int name, void *value, void *size)",
  setsockopt: "int setsockopt(int fd, int level, int name, void *value, uint32_t size)",
  send: "intptr_t send(int fd, void *bytes, size_t size, int flags)",
  sendto: "intptr_t sendto(int fd, void *bytes, size_t size, int flags, void *to, uint32_t length)",
  recv: "intptr_t recv(int fd, void *bytes, size_t size, int flags)",
  recvfrom: "intptr_t recvfrom(int fd, void *bytes, size_t size, int flags, void *from, void *length)",
  poll: "int poll(void *fds, unsigned long count, int timeout)",
  fcntl: "int fcntl(int fd, int command, ...)",
  close: "int close(int fd)",
  epoll_create1: "int epoll_create1(int flags)",
  epoll_ctl: "int epoll_ctl(int epoll, int operation, int fd, void *event)",
  epoll_wait: "int epoll_wait(int epoll, void *events, int count, int timeout)",
  if_nametoindex: "unsigned int if_nametoindex(const char *name)",
  if_indextoname: "void *if_indextoname(unsigned int index, void *name)",
} as const;

const F_DUPFD_CLOEXEC = 1030; // Linux linux/fcntl.h; fcntl(2)
const EPOLL_CLOEXEC = SOCK_CLOEXEC; // one flag under two names; epoll_create1(2)
const EPOLL_CTL_ADD = 1; // epoll_ctl(2)
const EPOLLPRI = POLLPRI; // the same bit; epoll_ctl(2)
const EPOLLET = 0x8000_0000; // once for each that comes, not for as long as it is there; epoll(7)
const EPOLL_EVENT = 16; // bytes of struct epoll_event, or 12, packed, on x86-64
const SOCKADDR = 128; // bytes of struct sockaddr_storage; socket(7)
const LARGEST = 1024 * 1024; // bytes that are taken of one datagram: more than a Unix socket sends with Linux's largest buffer (net.core.wmem_max)

const nothing = (): void => {};

let received: Uint8Array | undefined; // what a datagram is received into, before it is copied out

/** libc's calls on sockets. What fails throws a `SocketError` with the kernel's code. */
export class Libc {
  readonly #koffi: Koffi;
  readonly #calls: Readonly<Record<keyof typeof DECLARATIONS, Call>>;
  readonly #name = new Uint8Array(SOCKADDR); // the address that a call gives
  readonly #size = new Uint32Array(1); // and its size

  constructor(koffi: Koffi) {
    this.#koffi = koffi;
    const library = koffi.load(null);
    const calls = Object.entries(DECLARATIONS).map(([name, declared]) => [name, library.func(declared)]);
    this.#calls = Object.fromEntries(calls) as Record<keyof typeof DECLARATIONS, Call>;
  }

  /** Whether it can wait for a descriptor. */
  get watches(): boolean {
    return this.#koffi.node?.poll !== undefined;
  }

  /** A new descriptor, which programs that this one starts do not inherit. */
  socket(family: number, type: number, protocol: number): number {
    return this.#checked(this.#calls.socket(family, type | SOCK_CLOEXEC, protocol), "socket");
  }

  socketpair(family: number, type: number): [number, number] {
    const fds = new Int32Array(2);
    this.#checked(this.#calls.socketpair(family, type | SOCK_CLOEXEC, 0, fds), "socketpair");
    return [fds[0] as number, fds[1] as number];
  }

  bind(fd: number, address: Address, said: string): void {
    const packed = this.pack(address);
    this.#checked(this.#calls.bind(fd, packed, packed.length), "bind", said);
  }

  /** Binds a Unix socket to an abstract name that the kernel chooses: unix(7), "Autobind feature". */
  autobind(fd: number): void {
    this.#checked(this.#calls.bind(fd, Uint16Array.of(AF_UNIX), 2), "bind");
  }

  connect(fd: number, address: Address, said: string): void {
    const packed = this.pack(address);
    this.#checked(this.#calls.connect(fd, packed, packed.length), "connect", said);
  }

  getsockname(fd: number): Address | null {
    return this.#address("getsockname", fd);
  }

  /** Throws `ENOTCONN`. */
  getpeername(fd: number): Address | null {
    return this.#address("getpeername", fd);
  }

  getsockopt(fd: number, level: number, name: number, length: number): Uint8Array {
    const value = new Uint8Array(length);
    this.#size[0] = length;
    this.#checked(this.#calls.getsockopt(fd, level, name, value, this.#size), "getsockopt");
    return value.subarray(0, this.#size[0]);
  }

  setsockopt(fd: number, level: number, name: number, value: Uint8Array): void {
    this.#checked(this.#calls.setsockopt(fd, level, name, value, value.length), "setsockopt");
  }

  /** Gives how many bytes the kernel took; `null` where it would have waited. */
  send(fd: number, bytes: Uint8Array, flags: number): number | null {
    return this.#taken(
      this.#calls.send(fd, bytes, bytes.length, flags | MSG_DONTWAIT | MSG_NOSIGNAL),
      "send",
    );
  }

  /** The same, to a packed address. */
  sendto(fd: number, bytes: Uint8Array, flags: number, to: Uint8Array, said: string): number | null {
    const all = flags | MSG_DONTWAIT | MSG_NOSIGNAL;
    return this.#taken(this.#calls.sendto(fd, bytes, bytes.length, all, to, to.length), "sendto", said);
  }

  recv(fd: number, size: number, flags: number): Uint8Array {
    const bytes = new Uint8Array(size);
    return bytes.subarray(0, this.#checked(this.#calls.recv(fd, bytes, size, flags | MSG_DONTWAIT), "recv"));
  }

  /** The next datagram, and its sender (`null`: a Unix socket without a name); `null` where none is there. */
  recvfrom(fd: number): readonly [Uint8Array, Address | null] | null {
    received ??= new Uint8Array(LARGEST);
    this.#size[0] = SOCKADDR;
    const size = this.#taken(
      this.#calls.recvfrom(fd, received, LARGEST, MSG_DONTWAIT, this.#name, this.#size),
      "recvfrom",
    );
    return size === null ? null : [received.slice(0, size), this.#unpacked()];
  }

  /** Another descriptor of the same socket: the lowest that is free, of `least` and above. */
  dup(fd: number, least = 0): number {
    return this.#checked(this.#calls.fcntl(fd, F_DUPFD_CLOEXEC, "int", least), "fcntl");
  }

  close(fd: number): void {
    this.#calls.close(fd);
  }

  /** Those of the `POLL…` bits in `events` that hold now. poll(2) */
  poll(fd: number, events: number): number {
    const asked = new Uint8Array(8); // struct pollfd
    new Int32Array(asked.buffer)[0] = fd;
    const bits = new Int16Array(asked.buffer);
    bits[2] = events;
    this.#checked(this.#calls.poll(asked, 1, 0), "poll");
    return (bits[3] as number) & events;
  }

  /**
   * Calls `told` when `fd` can be read from, again and again while it can; gives what stops that, which must come
   * before the descriptor is closed. libuv waits for it, so it must not have the descriptor itself.
   */
  watch(fd: number, told: () => void, keepsAlive = true): () => void {
    const { node } = this.#koffi;
    if (node === undefined) {
      throw new SocketError("ERR_UNSUPPORTED", "this version of koffi cannot wait for a descriptor; 3.3 can");
    }
    let watching = true;
    const poll = (): PollHandle => {
      const handle = node.poll(fd, { readable: true }, (status) => {
        // koffi calls outside of what Node counts as a callback: promises go on after the next that is one.
        setImmediate(nothing);
        told();
        if (status >= 0 || !watching) return;
        // At an error of the socket's (a datagram's ECONNREFUSED) libuv stops: it goes on with another handle.
        handle.close();
        current = poll();
      });
      if (!keepsAlive) handle.unref();
      return handle;
    };
    let current = poll();
    return () => {
      if (watching) current.close();
      watching = false;
    };
  }

  /**
   * Calls `told` when an urgent byte has come; gives what stops that. libuv waits for no such thing, and has the
   * descriptor already; an epoll of our own waits, and for that libuv can wait. It keeps no process alive.
   */
  watchUrgent(fd: number, told: () => void): () => void {
    const epoll = this.#checked(this.#calls.epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    const event = new Uint8Array(EPOLL_EVENT);
    new Uint32Array(event.buffer)[0] = (EPOLLPRI | EPOLLET) >>> 0;
    try {
      this.#checked(this.#calls.epoll_ctl(epoll, EPOLL_CTL_ADD, fd, event), "epoll_ctl");
      const stop = this.watch(
        epoll,
        () => {
          if (this.#calls.epoll_wait(epoll, event, 1, 0) > 0) told();
        },
        false,
      );
      let stopped = false;
      return () => {
        if (stopped) return;
        stopped = true;
        stop();
        this.close(epoll);
      };
    } catch (error) {
      this.close(epoll);
      throw error;
    }
  }

  /** `struct sockaddr_in`, `sockaddr_in6` or `sockaddr_un`: ip(7), ipv6(7), unix(7). */
  pack(address: Address): Uint8Array {
    if (address.family === "unix") {
      const path = checkedPath(address.path);
      const packed = new Uint8Array(2 + path.length + (path[0] === 0 ? 0 : 1)); // an abstract name has no end but its length
      new Uint16Array(packed.buffer, 0, 1)[0] = AF_UNIX;
      packed.set(path, 2);
      return packed;
    }
    const wide = address.family === "IPv6";
    const packed = new Uint8Array(wide ? 28 : 16);
    new Uint16Array(packed.buffer)[0] = wide ? AF_INET6 : AF_INET;
    packed[2] = address.port >> 8;
    packed[3] = address.port & 0xff;
    packed.set(inetPton(wide ? AF_INET6 : AF_INET, address.hostname), wide ? 8 : 4);
    if (address.scopeId !== undefined && wide) {
      new Uint32Array(packed.buffer)[6] = this.#interfaceOf(address.scopeId, address.hostname);
    }
    return packed;
  }

  #interfaceOf(scope: string, said: string): number {
    const index = /^[0-9]+$/.test(scope) ? Number(scope) : this.#calls.if_nametoindex(scope);
    if (index > 0) return index;
    throw new SocketError("EADDRNOTAVAIL", `${said}%${scope}: this machine has no interface ${scope}`);
  }

  #address(call: "getsockname" | "getpeername", fd: number): Address | null {
    this.#size[0] = SOCKADDR;
    this.#checked(this.#calls[call](fd, this.#name, this.#size), call);
    return this.#unpacked();
  }

  /** The address that the last call gave; `null` for a Unix socket without a name. */
  #unpacked(): Address | null {
    const name = this.#name;
    const size = this.#size[0] as number;
    if (size < 2) return null; // the peer of a socketpair() has not even a family
    const family = new Uint16Array(name.buffer, 0, 1)[0];
    if (family === AF_UNIX) {
      const path = name.subarray(2, size);
      if (path.length === 0) return null;
      const end = path[0] === 0 ? -1 : path.indexOf(0);
      return { family: "unix", path: new TextDecoder().decode(end < 0 ? path : path.subarray(0, end)) };
    }
    const port = ((name[2] as number) << 8) | (name[3] as number);
    if (family === AF_INET) return { family: "IPv4", hostname: name.subarray(4, 8).join("."), port };
    const hostname = inetNtop(AF_INET6, name.subarray(8, 24));
    const scope = new Uint32Array(name.buffer, 24, 1)[0] as number;
    return scope === 0
      ? { family: "IPv6", hostname, port }
      : { family: "IPv6", hostname, port, scopeId: this.#interfaceNamed(scope) };
  }

  #interfaceNamed(index: number): string {
    const name = new Uint8Array(16); // IFNAMSIZ
    this.#calls.if_indextoname(index, name);
    return new TextDecoder().decode(name.subarray(0, name.indexOf(0))) || String(index);
  }

  /** `result`, or `null` where the call would have waited. */
  #taken(result: number, call: string, said?: string): number | null {
    return result < 0 && codeOf(this.#koffi.errno()) === "EWOULDBLOCK"
      ? null
      : this.#checked(result, call, said);
  }

  #checked(result: number, call: string, said?: string): number {
    if (result >= 0) return result;
    throw kernelError(this.#koffi.errno(), call, said);
  }
}

const MAX_PATH = process.platform === "linux" ? 107 : 103; // bytes: sun_path with its NUL is 108 (unix(7)), on the BSDs 104

/** The bytes of a Unix path, or of an abstract name. Throws `EINVAL` where it is too long for an address: Node would cut it, or say no more than that it is not valid. */
export const checkedPath = (path: string): Uint8Array => {
  const bytes = new TextEncoder().encode(path);
  const abstract = bytes[0] === 0;
  const length = abstract ? bytes.length - 1 : bytes.length;
  if (length <= MAX_PATH) return bytes;
  const said = formatAddress({ scheme: "unix", path });
  const what = abstract ? "an abstract name, after its \\0," : "a socket's path";
  throw new SocketError("EINVAL", `${what} has at most ${MAX_PATH} bytes, not ${length}: ${said}`, {
    address: said,
  });
};

// libuv's names for two numbers that have two.
const OTHER_NAMES: Readonly<Record<string, string>> = { EAGAIN: "EWOULDBLOCK", ENOTSUP: "EOPNOTSUPP" };

const codeOf = (errno: number): string => {
  const name = getSystemErrorName(-errno);
  return OTHER_NAMES[name] ?? name;
};

/** Linux's error number as an error that has its code. */
const kernelError = (errno: number, call: string, said?: string): SocketError => {
  const code = codeOf(errno);
  const cause = Object.assign(new Error(`${call}: ${code}`), { code, errno, syscall: call });
  if (code === "EPERM" && (call === "sendto" || call === "connect") && said?.startsWith("unix:")) {
    const why = `${said} is connected to another peer, and takes datagrams of that one alone`; // unix_dgram_sendmsg()
    return new SocketError("EPERM", why, { address: said, cause });
  }
  return SocketError.from(cause, "ERR_INTERNAL", said);
};

// ---- Node's handles ----

/** What Node keeps behind a socket or a listener. */
export interface Handle {
  readonly fd: number;
  open(fd: number): number;
  listen(backlog: number): number;
  getsockname?(into: { address?: string; port?: number; family?: string }): number;
  getpeername?(into: object): number;
  close(): void;
}

/** The descriptor behind a socket or a listener of `node:net`; -1 where there is none (any more, or on Windows). */
export const descriptorOf = (owner: object): number =>
  (owner as { readonly _handle?: Handle | null })._handle?.fd ?? -1;

/** The same of `node:dgram`, which has its handle behind a symbol: `_handle` would warn of its deprecation. */
const datagramDescriptorOf = (socket: dgram.Socket): number =>
  (datagramHandleOf(socket) as Handle | null)?.fd ?? -1;

/** The handle of a `dgram.Socket`; `null` where it has none (any more). */
export const datagramHandleOf = (socket: dgram.Socket): object | null => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === "state symbol");
  if (state === undefined) return null;
  return (socket as never as Record<symbol, { handle?: object | null }>)[state]?.handle ?? null;
};

const UV_TCP_IPV6ONLY = 1; // uv.h
const UV_TCP_REUSEPORT = 2; // uv.h

/** What Node's cluster makes its own listeners of. Throws what the kernel says, and `ERR_UNSUPPORTED` where a Node no longer has it. */
const makeHandle = (said: string, ...how: unknown[]): Handle => {
  const make = (net as unknown as { _createServerHandle?: (...how: unknown[]) => Handle | number })
    ._createServerHandle;
  if (make === undefined) return neededLibc("bind() on this version of Node", null) as never;
  const handle = make(...how);
  if (typeof handle === "number") throw kernelError(-handle, "bind", said);
  // libuv tells that an address is in use when the name is asked for.
  const error = handle.getsockname?.({}) ?? 0;
  if (error === 0) return handle;
  handle.close();
  throw kernelError(-error, "bind", said);
};

/** A handle of a descriptor of ours, to listen on. */
const handleOf = (fd: number): Handle => makeHandle("a descriptor", null, null, null, fd);

/** The host as Node takes it: an IPv6 address with its scope. */
export const hostOf = ({ hostname, scopeId }: InternetAddress): string =>
  scopeId === undefined ? hostname : `${hostname}%${scopeId}`;

/**
 * Has `server` listen on a handle, which is the server's then: the end of Node's own `listen()`, which takes no Unix
 * one, and in a worker of `node:cluster` would ask its primary for the descriptor of that number. Resolves when it
 * listens. Throws the kernel's error, and leaves the handle.
 */
export const listenOn = (server: net.Server, handle: Handle, backlog: number): Promise<void> => {
  const error = handle.listen(backlog); // first here: Node would close the handle
  if (error !== 0) throw kernelError(-error, "listen");
  const inner = server as unknown as {
    _handle: Handle;
    _listen2(address: null, port: number, type: number, backlog: number): void;
  };
  return new Promise<void>((resolve, reject) => {
    server.once("listening", () => {
      for (const event of ["error", "close"]) server.removeAllListeners(event);
      resolve();
    });
    server.once("error", reject);
    server.once("close", () => reject(new SocketError("ECANCELED"))); // closed before it was told
    inner._handle = handle;
    inner._listen2(null, -1, -1, backlog);
  });
};

// ---- The kernel's side of a socket ----

/** What sets the options of a connection that Node has a call for. */
export interface Settable {
  setNoDelay(on: boolean): unknown;
  /** `delay`: milliseconds; 0 leaves it as it is. */
  setKeepAlive(on: boolean, delay: number): unknown;
}

/** Who has the descriptor. */
export interface Holder {
  /** -1 where there is none yet; `null` where there is none any more. */
  readonly fd: number | null;
  /** Lets go of it, and gives one that is the caller's. What is on its way in or out would be lost: `EBUSY`. */
  take(libc: Libc): number;
  /** Resolves when nothing that was written waits in Node. */
  drained?(): Promise<void>;
  /** Calls `told` when it is closed; gives what stops that. */
  onClose?(told: () => void): () => void;
  /** Why bytes must not pass Node by; absent where they may. */
  readonly closedTo?: string;
}

/** Nobody has one yet: without libc, before `bind()` and `connect()`. */
const NOBODY: Holder = { fd: -1, take: () => -1 };

/** It was closed, or given away. */
const GONE: Holder = {
  fd: null,
  take() {
    throw new SocketError("EBADF");
  },
};

/** Resolves when Node has given all that was written to the kernel. */
export const drained = async (socket: net.Socket): Promise<void> => {
  // An empty piece behind what waits tells: 'drain' comes only where much waited.
  if (socket.writableLength > 0) await new Promise<void>((resolve) => socket.write("", () => resolve()));
};

/** The holder that a connection of Node's is; `closedTo` where it is TLS's. */
export const socketHolder = (socket: net.Socket, closedTo?: string): Holder => ({
  ...(closedTo !== undefined && { closedTo }),
  get fd() {
    return socket.destroyed ? null : descriptorOf(socket);
  },
  take(libc) {
    const inside = socket.readableLength + socket.writableLength;
    if (inside > 0) {
      throw new SocketError("EBUSY", `${inside} bytes are on their way in or out; detach() would lose them`);
    }
    const fd = libc.dup(descriptorOf(socket));
    socket.destroy(); // with a descriptor left the kernel sends no end
    return fd;
  },
  drained: () => drained(socket),
  onClose(told) {
    socket.once("close", told);
    return () => socket.removeListener("close", told);
  },
});

/** The holder that a listener of Node's is. */
const serverHolder = (server: net.Server): Holder => ({
  get fd() {
    return server.listening ? descriptorOf(server) : null;
  },
  take(libc) {
    const fd = libc.dup(descriptorOf(server));
    server.close();
    return fd;
  },
});

const MAX_OPTION = 1024; // bytes: what CPython takes as a buffer length

/**
 * The kernel's side of one socket: by libc, where that is there, else by what Node's API has. Who has the descriptor
 * changes in a socket's life; its kernel stays.
 */
export class Kernel implements KernelSocket {
  #found: Libc | null | undefined;
  readonly #plain: PlainOptions;
  readonly #given = new Set<string>(); // the options that were set
  #holder: Holder = NOBODY;

  /** `found`: the libc that the socket was made with; by default it is looked for when it is first needed. */
  constructor(plain: PlainOptions, found?: Libc | null) {
    this.#found = found;
    this.#plain = plain;
  }

  get #libc(): Libc | null {
    if (this.#found === undefined) this.#found = libc();
    return this.#found;
  }

  /** From now on, `holder` has the descriptor. */
  heldBy(holder: Holder): this {
    this.#holder = holder;
    return this;
  }

  closed(): void {
    this.#holder = GONE;
  }

  get fd(): number {
    const { fd } = this.#holder;
    if (fd === -1) neededLibc("a descriptor before bind() and connect()", this.#libc);
    return fd ?? -1;
  }

  /** Whether an option was set here, so that nothing else may be chosen for it. */
  given(level: number, name: number): boolean {
    return this.#given.has(optionKey(level, name));
  }

  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    checkOption(level, name);
    if (length !== undefined && !(Number.isInteger(length) && length > 0 && length <= MAX_OPTION)) {
      throw new RangeError(`the length of an option is 1 to ${MAX_OPTION} bytes, not ${length}`);
    }
    const fd = this.#open();
    if (fd >= 0 && this.#libc !== null) {
      let value: Uint8Array;
      try {
        value = this.#libc.getsockopt(fd, level, name, length ?? 4);
      } catch (error) {
        throw optionError(error, level, name);
      }
      return length === undefined ? integer(value) : value;
    }
    const known = this.#plain.get(level, name);
    if (known === undefined) return neededLibc(optionName(level, name), null) as never;
    return length === undefined ? known : bytesOf(known).slice(0, length);
  }

  setsockopt(level: number, name: number, value: number | Uint8Array): void {
    checkOption(level, name);
    const bytes = typeof value === "number" ? bytesOf(value) : value;
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError("the value of an option is an integer, a boolean or a Uint8Array");
    }
    const fd = this.#open();
    try {
      if (fd >= 0 && this.#libc !== null) this.#libc.setsockopt(fd, level, name, bytes);
      else if (!this.#plain.set(level, name, bytes)) neededLibc(optionName(level, name), null);
    } catch (error) {
      throw (error as SocketError).code === "ERR_UNSUPPORTED"
        ? error
        : optionError(error, level, name, bytes);
    }
    this.#given.add(optionKey(level, name));
  }

  async send(bytes: Uint8Array, flags: number): Promise<number> {
    const libc = this.#past("MSG_OOB and MSG_DONTROUTE");
    await this.#holder.drained?.();
    for (;;) {
      const sent = libc.send(this.#open(), bytes, flags);
      if (sent !== null) return sent;
      // The kernel's buffer is full; libuv, which has the descriptor, waits for nobody else.
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  recv(size: number, flags: number): Uint8Array {
    return this.#past("MSG_OOB").recv(this.#open(), size, flags);
  }

  detach(): number {
    const libc = this.#past("detach()");
    const fd = this.#holder.take(libc);
    this.#holder = GONE;
    return fd;
  }

  /** Resolves when nothing that was written waits in Node any more. */
  async drained(): Promise<void> {
    await this.#holder.drained?.();
  }

  get urgent(): boolean {
    return this.#past("urgent data").poll(this.#open(), POLLPRI) !== 0;
  }

  onUrgent(told: () => void): () => void {
    const holder = this.#holder;
    const stop = this.#past("urgent data").watchUrgent(this.#open(), told);
    const ended = holder.onClose?.(told); // whoever waits asks then, and is told EBADF
    return () => {
      stop();
      ended?.();
    };
  }

  /** The descriptor; -1 where there is none yet. Throws `EBADF` where there is none any more. */
  #open(): number {
    const { fd } = this.#holder;
    if (fd === null) throw new SocketError("EBADF");
    return fd;
  }

  /** libc, for what passes Node by. */
  #past(what: string): Libc {
    const libc = neededLibc(what, this.#libc);
    if (this.#holder.closedTo !== undefined) {
      throw new SocketError("EOPNOTSUPP", `${what}: ${this.#holder.closedTo}`);
    }
    return libc;
  }
}

const optionKey = (level: number, name: number): string => `${level} ${name}`;

const LEVELS: Readonly<Record<number, readonly [level: string, names: string]>> = {
  [SOL_SOCKET]: ["SOL_SOCKET", "SO_"],
  [SOL_IP]: ["SOL_IP", "IP_"],
  [SOL_TCP]: ["SOL_TCP", "TCP_"],
  [IPPROTO_IPV6]: ["IPPROTO_IPV6", "IPV6_"],
};

/** An option as who reads an error knows it: `SO_SNDBUF (7) at SOL_SOCKET (1)`. */
const optionName = (level: number, name: number): string => {
  const [levelName, prefix] = LEVELS[level] ?? [];
  const found = Object.entries(constants).find(
    ([one, value]) => value === name && one.startsWith(prefix ?? " "),
  );
  const said = found === undefined ? `the option ${name}` : `${found[0]} (${name})`;
  return `${said} at ${levelName === undefined ? `level ${level}` : `${levelName} (${level})`}`;
};

/** What the kernel said of an option, with its name. */
const optionError = (error: unknown, level: number, name: number, value?: Uint8Array): unknown => {
  if (!(error instanceof SocketError)) return error;
  const { code, cause } = error;
  const own = optionName(level, name);
  const given = value?.length === 4 ? integer(value) : `${value?.length} bytes`;
  if (code === "EINVAL" && value !== undefined)
    return new SocketError(code, `${own} cannot be ${given}`, { cause });
  if (code === "ENOPROTOOPT") {
    const how = value === undefined ? "read" : "set";
    return new SocketError(code, `${own} is none that can be ${how} of this socket`, { cause });
  }
  return new SocketError(code, `${own}: ${error.message.slice(code.length + 2)}`, { cause });
};

const checkOption = (level: number, name: number): void => {
  for (const [what, value] of [
    ["level", level],
    ["name", name],
  ] as const) {
    if (!Number.isInteger(value)) throw new TypeError(`the ${what} of an option is an integer, not ${value}`);
  }
};

/** A C int, or what is shorter (a byte, as some options are). */
const integer = (bytes: Uint8Array): number =>
  bytes.length < 4 ? (bytes[0] ?? 0) : (new Int32Array(bytes.slice(0, 4).buffer)[0] as number);

const bytesOf = (value: number): Uint8Array => {
  if (!Number.isInteger(value)) throw new TypeError(`the value of an option is an integer, not ${value}`);
  if (value !== (value | 0)) {
    throw new RangeError(`the value of an option is an integer of 32 bits, or bytes, not ${value}`);
  }
  return new Uint8Array(Int32Array.of(value).buffer);
};

// ---- Options without libc ----

/** The options that Node's own API has, of one kind of socket. */
export interface PlainOptions {
  /** The option's value, where it is truly known. */
  get(level: number, name: number): number | undefined;
  /** Sets it; false where Node has no way to. */
  set(level: number, name: number, value: Uint8Array): boolean;
}

/** What a socket is: fixed when it is made. */
export interface Kind {
  readonly family: number;
  readonly type: number;
  readonly proto: number;
}

/** What a socket can tell of itself. */
const tell = ({ family, type }: Kind, name: number, listens: boolean): number | undefined => {
  const own = family === AF_UNIX ? 0 : type === SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
  return new Map([
    [SO_DOMAIN, family],
    [SO_TYPE, type],
    [SO_PROTOCOL, own],
    [SO_ACCEPTCONN, Number(listens)],
    [SO_ERROR, 0], // an error was told when it came
  ]).get(name);
};

const NODELAY = optionKey(SOL_TCP, TCP_NODELAY);
const KEEPALIVE = optionKey(SOL_SOCKET, SO_KEEPALIVE);
const KEEPIDLE = optionKey(SOL_TCP, TCP_KEEPIDLE);
const REUSEADDR = optionKey(SOL_SOCKET, SO_REUSEADDR);
const REUSEPORT = optionKey(SOL_SOCKET, SO_REUSEPORT);
const V6ONLY = optionKey(IPPROTO_IPV6, IPV6_V6ONLY);
const STREAM_OPTIONS: readonly string[] = [NODELAY, KEEPALIVE, KEEPIDLE, REUSEADDR, REUSEPORT, V6ONLY];
const BEFORE_BIND: readonly string[] = [REUSEADDR, REUSEPORT, V6ONLY];
const MAX_KEEPIDLE = 32_767; // seconds; tcp(7), MAX_TCP_KEEPIDLE

/** The options of a stream that Node can set; those that are set before it is open are kept for then. */
export class PlainStreamOptions implements PlainOptions {
  readonly #kind: Kind;
  readonly #values: Map<string, number>;
  #socket: Settable | null = null;
  /** No more can be said of how it is bound. */
  bound = false;
  listens = false;

  /** `from`: those of the listener that accepted it. */
  constructor(kind: Kind, from?: PlainStreamOptions) {
    this.#kind = kind;
    this.#values = new Map(from === undefined ? [] : from.#values);
  }

  get(level: number, name: number): number | undefined {
    const own = level === SOL_SOCKET ? tell(this.#kind, name, this.listens) : undefined;
    return own ?? this.#values.get(optionKey(level, name));
  }

  set(level: number, name: number, value: Uint8Array): boolean {
    const key = optionKey(level, name);
    if (!STREAM_OPTIONS.includes(key) || value.length !== 4) return false;
    if (BEFORE_BIND.includes(key) && (this.bound || this.#socket !== null)) return false;
    const number = integer(value);
    if (key === REUSEADDR && number === 0) return false; // libuv sets it whenever it binds
    if (this.listens && key !== REUSEADDR) return false; // Node has no such call on a listener
    if (key === KEEPIDLE && (number < 1 || number > MAX_KEEPIDLE)) throw new SocketError("EINVAL");
    this.#values.set(key, key === KEEPIDLE ? number : Number(number !== 0));
    this.#apply(key);
    return true;
  }

  /** Whether an option was set; `otherwise` where it was not. */
  on(key: string, otherwise = false): boolean {
    const value = this.#values.get(key);
    return value === undefined ? otherwise : value !== 0;
  }

  get idle(): number {
    return 1_000 * (this.#values.get(KEEPIDLE) ?? 0); // with 0 Node leaves the idle time as it is
  }

  /** `socket` is it from now on, and has what was set. `fresh`: it is a new one, of which the rest is known, too. */
  open(socket: Settable, fresh: boolean): void {
    this.#socket = socket;
    if (fresh) {
      const known = [
        [KEEPALIVE, 0] as const,
        ...(this.#kind.family === AF_UNIX ? [] : [[NODELAY, 1] as const]),
      ];
      for (const [key, value] of known) if (!this.#values.has(key)) this.#values.set(key, value);
    }
    // What is for bind() alone was of no use to one that was not bound.
    if (!this.bound) for (const key of BEFORE_BIND) this.#values.delete(key);
    for (const key of this.#values.keys()) this.#apply(key);
  }

  /** It is bound by libuv. */
  bind(): void {
    this.bound = true;
    if (this.#kind.family !== AF_UNIX) this.#values.set(REUSEADDR, 1);
  }

  #apply(key: string): void {
    if (key === NODELAY) this.#socket?.setNoDelay(this.on(NODELAY));
    if (key === KEEPALIVE || key === KEEPIDLE) this.#socket?.setKeepAlive(this.on(KEEPALIVE), this.idle);
  }
}

type SetDatagram = (socket: dgram.Socket, value: Uint8Array) => void;

const number =
  (set: (socket: dgram.Socket, value: number) => void): SetDatagram =>
  (socket, value) =>
    set(socket, integer(value));

const group4 =
  (call: "addMembership" | "dropMembership"): SetDatagram =>
  (socket, value) => {
    const [group = "", by] = [value.subarray(0, 4), value.subarray(4, 8)].map((part) => part.join("."));
    socket[call](group, by === "0.0.0.0" ? undefined : by);
  };

const group6 =
  (call: "addMembership" | "dropMembership"): SetDatagram =>
  (socket, value) =>
    socket[call](inetNtop(AF_INET6, value.subarray(0, 16)));

/** What sets an option of UDP in Node, and how many bytes its value has. */
const DATAGRAM_OPTIONS: Readonly<Record<string, readonly [bytes: number, set: SetDatagram]>> = {
  [REUSEADDR]: [4, () => {}], // these three are taken when it is made
  [REUSEPORT]: [4, () => {}],
  [V6ONLY]: [4, () => {}],
  [optionKey(SOL_SOCKET, SO_BROADCAST)]: [4, number((socket, value) => socket.setBroadcast(value !== 0))],
  [optionKey(SOL_SOCKET, SO_SNDBUF)]: [4, number((socket, value) => socket.setSendBufferSize(value))],
  [optionKey(SOL_SOCKET, SO_RCVBUF)]: [4, number((socket, value) => socket.setRecvBufferSize(value))],
  [optionKey(SOL_IP, IP_TTL)]: [4, number((socket, value) => socket.setTTL(value))],
  [optionKey(IPPROTO_IPV6, IPV6_UNICAST_HOPS)]: [4, number((socket, value) => socket.setTTL(value))],
  [optionKey(SOL_IP, IP_MULTICAST_TTL)]: [4, number((socket, value) => socket.setMulticastTTL(value))],
  [optionKey(IPPROTO_IPV6, IPV6_MULTICAST_HOPS)]: [
    4,
    number((socket, value) => socket.setMulticastTTL(value)),
  ],
  [optionKey(SOL_IP, IP_MULTICAST_LOOP)]: [
    4,
    number((socket, value) => socket.setMulticastLoopback(value !== 0)),
  ],
  [optionKey(IPPROTO_IPV6, IPV6_MULTICAST_LOOP)]: [
    4,
    number((socket, value) => socket.setMulticastLoopback(value !== 0)),
  ],
  // struct in_addr; struct ip_mreq; struct ipv6_mreq, of which Node can leave the interface to the system
  [optionKey(SOL_IP, IP_MULTICAST_IF)]: [4, (socket, value) => socket.setMulticastInterface(value.join("."))],
  [optionKey(SOL_IP, IP_ADD_MEMBERSHIP)]: [8, group4("addMembership")],
  [optionKey(SOL_IP, IP_DROP_MEMBERSHIP)]: [8, group4("dropMembership")],
  [optionKey(IPPROTO_IPV6, IPV6_JOIN_GROUP)]: [20, group6("addMembership")],
  [optionKey(IPPROTO_IPV6, IPV6_LEAVE_GROUP)]: [20, group6("dropMembership")],
};

const KERNEL_TELLS: readonly string[] = [optionKey(SOL_SOCKET, SO_SNDBUF), optionKey(SOL_SOCKET, SO_RCVBUF)];
const FLAGS: readonly string[] = [
  ...BEFORE_BIND,
  optionKey(SOL_SOCKET, SO_BROADCAST),
  optionKey(SOL_IP, IP_MULTICAST_LOOP),
  optionKey(IPPROTO_IPV6, IPV6_MULTICAST_LOOP),
];

/** The options of UDP that Node can set; those that are set before it is open are kept for then. */
class PlainDatagramOptions implements PlainOptions {
  readonly #kind: Kind;
  readonly #values = new Map<string, number>();
  readonly #early: [key: string, value: Uint8Array][] = [];
  #socket: dgram.Socket | null = null;

  constructor(kind: Kind) {
    this.#kind = kind;
  }

  get(level: number, name: number): number | undefined {
    const own = level === SOL_SOCKET ? tell(this.#kind, name, false) : undefined;
    if (own !== undefined) return own;
    const key = optionKey(level, name);
    if (!KERNEL_TELLS.includes(key)) return this.#values.get(key);
    const socket = this.#socket;
    if (socket === null) return undefined; // the kernel makes another number of the one that was set
    return name === SO_SNDBUF ? socket.getSendBufferSize() : socket.getRecvBufferSize();
  }

  set(level: number, name: number, value: Uint8Array): boolean {
    const key = optionKey(level, name);
    const [bytes, set] = DATAGRAM_OPTIONS[key] ?? [];
    if (set === undefined || value.length !== bytes) return false;
    if (bytes === 20 && integer(value.subarray(16)) !== 0) return false;
    if (this.#socket === null) this.#early.push([key, new Uint8Array(value)]);
    else if (BEFORE_BIND.includes(key)) return false;
    else this.#apply(key, value);
    if (bytes === 4)
      this.#values.set(key, FLAGS.includes(key) ? Number(integer(value) !== 0) : integer(value));
    return true;
  }

  on(key: string): boolean {
    return this.#values.get(key) === 1;
  }

  /** It is open: what was set before is so now. Throws what the kernel says of it. */
  open(socket: dgram.Socket): void {
    this.#socket = socket;
    for (const [key, value] of this.#early.splice(0)) this.#apply(key, value);
  }

  #apply(key: string, value: Uint8Array): void {
    try {
      (DATAGRAM_OPTIONS[key] as readonly [number, SetDatagram])[1](this.#socket as dgram.Socket, value);
    } catch (error) {
      throw SocketError.from(error, "EINVAL");
    }
  }
}

// ---- Streams that are neither connected nor listen ----

/** The paths of the two ends of a Unix connection, which Node does not tell; absent where an end has none. */
export interface UnixNames {
  readonly local?: UnixAddress | undefined;
  readonly remote?: UnixAddress | undefined;
}

/** The address of a descriptor's peer; `null` for a Unix socket without a name, and where there is no libc to tell. */
export const peerName = (fd: number): Address | null => libc()?.getpeername(fd) ?? null;

/** The paths of a descriptor, as far as libc is there to tell. */
export const namesOf = (fd: number): UnixNames => {
  const path = (name: Address | null | undefined) => (name?.family === "unix" ? name : undefined);
  return { local: path(libc()?.getsockname(fd)), remote: path(peerName(fd)) };
};

/** A descriptor that was made elsewhere, and what has been done with it. */
export interface Adopted {
  readonly fd: number;
  readonly state: "fresh" | "listening" | "connected";
  readonly localAddress: Address | null;
}

/**
 * What a descriptor is. Throws `EBADF`, `ENOTSOCK`, and `EINVAL` where it is no socket of this kind. Without libc it
 * asks /proc, in which a stream that is neither connected nor listens is not named.
 */
export const adopted = (fd: number, kind: Kind): Adopted => {
  const calls = libc();
  const known = calls === null ? knownByProc(fd, kind) : knownByLibc(calls, fd);
  if (known.family === kind.family && known.type === kind.type) return { fd, ...known };
  const said = (family: number, type: number): string => `family ${family}, type ${type}`;
  throw new SocketError(
    "EINVAL",
    `descriptor ${fd} is a socket of ${said(known.family, known.type)}, not of ${said(kind.family, kind.type)}`,
  );
};

type Known = Omit<Adopted, "fd"> & Pick<Kind, "family" | "type">;

const knownByLibc = (calls: Libc, fd: number): Known => {
  const ask = (name: number): number => integer(calls.getsockopt(fd, SOL_SOCKET, name, 4));
  const [type, family] = [ask(SO_TYPE), ask(SO_DOMAIN)];
  let state: Known["state"] = ask(SO_ACCEPTCONN) === 1 ? "listening" : "connected";
  try {
    if (state === "connected") calls.getpeername(fd);
  } catch {
    state = "fresh";
  }
  return { family, type, state, localAddress: calls.getsockname(fd) };
};

const PROC: readonly (readonly [file: string, family: number, type: number])[] = [
  ["tcp", AF_INET, SOCK_STREAM],
  ["tcp6", AF_INET6, SOCK_STREAM],
  ["udp", AF_INET, SOCK_DGRAM],
  ["udp6", AF_INET6, SOCK_DGRAM],
];

/** /proc/net/tcp and its like, proc_pid_net(5): a line for each socket, with its state and its inode. */
const knownByProc = (fd: number, kind: Kind): Known => {
  let inode: string | undefined;
  try {
    inode = /^socket:\[(\d+)\]$/.exec(fs.readlinkSync(`/proc/self/fd/${fd}`))?.[1];
  } catch {
    throw new SocketError("EBADF", `there is no descriptor ${fd}`);
  }
  if (inode === undefined) throw new SocketError("ENOTSOCK", `descriptor ${fd} is no socket`);
  const lines = (file: string): string[][] =>
    fs
      .readFileSync(`/proc/self/net/${file}`, "latin1")
      .split("\n")
      .map((line) => line.trim().split(/\s+/));
  for (const [file, family, type] of PROC) {
    const state = lines(file).find((line) => line[9] === inode)?.[3];
    if (state === undefined) continue;
    const known = state === "0A" ? "listening" : state === "07" ? "fresh" : "connected"; // TCP_LISTEN, TCP_CLOSE
    return { family, type, state: known, localAddress: null };
  }
  const [, , , flags, type, state, , path] = lines("unix").find((line) => line[6] === inode) ?? [];
  if (state === undefined) return { ...kind, state: "fresh", localAddress: null };
  const listens = (Number.parseInt(flags ?? "", 16) & 0x1_0000) !== 0; // __SO_ACCEPTCON
  return {
    family: AF_UNIX,
    type: Number(type),
    state: listens ? "listening" : state === "03" ? "connected" : "fresh", // SS_CONNECTED
    localAddress: path === undefined ? null : { family: "unix", path: path.replace(/^@/, "\0") },
  };
};

/** A stream's descriptor until Node connects it or listens on it. */
export interface StreamDescriptor {
  readonly kernel: Kernel;
  /** Where it is bound; `null` where it is not. */
  readonly localAddress: Address | null;
  /** Throws the kernel's error. */
  bind(address: Address, said: string): void;
  /** A `net.Socket` over it that is not connected. */
  connecting(): net.Socket;
  /** That is connected, or is not and was destroyed: then the descriptor is here again. */
  connected(success: boolean): void;
  /** A `net.Socket` over a descriptor that is connected already. */
  opened(): net.Socket;
  /** Listens on it; resolves when it does. Throws the kernel's error. */
  listen(server: net.Server, backlog: number): Promise<void>;
  /** Options that each connection of a listener begins with. */
  readonly inherited: Pick<net.ServerOpts, "noDelay" | "keepAlive" | "keepAliveInitialDelay">;
  /** The kernel's side of a connection that was accepted, where more is known of it than Node tells. */
  accepted(connection: { readonly settable: Settable; readonly holder: Holder }): Kernel | undefined;
  /** Closes what Node has not. */
  close(): void;
}

// The constructor would read at once, which fails before there is a connection.
const IDLE = { allowHalfOpen: true, manualStart: true } as const;

/** By libc: the descriptor is there from the first moment, and bind is bind(2). */
class LibcStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #libc: Libc;
  readonly #family: number;
  #fd: number; // -1 while Node has it
  #number: number; // its number
  #kept = -1; // another of the same, while Node connects, which would close it where that fails
  #bound: Address | null = null; // by bind()
  #handle: Handle | null = null;
  #closed = false;

  constructor(libc: Libc, kind: Kind, fd: number) {
    this.#libc = libc;
    this.#family = kind.family;
    this.#fd = this.#number = fd;
    this.kernel = new Kernel(new PlainStreamOptions(kind), libc).heldBy(this.#holder());
  }

  get localAddress(): Address | null {
    const fd = this.kernel.fd;
    const name = fd < 0 ? null : this.#libc.getsockname(fd);
    return name !== null && name.family !== "unix" && name.port === 0 ? null : name;
  }

  bind(address: Address, said: string): void {
    // As libuv does whenever it binds, and CPython's servers are told to: else a port could not be had again for a
    // minute after its connections ended.
    if (this.#family !== AF_UNIX && !this.kernel.given(SOL_SOCKET, SO_REUSEADDR)) {
      this.#libc.setsockopt(this.#fd, SOL_SOCKET, SO_REUSEADDR, bytesOf(1));
    }
    this.#libc.bind(this.#fd, address, said);
    this.#bound = this.localAddress;
  }

  connecting(): net.Socket {
    this.#kept = this.#libc.dup(this.#fd);
    const socket = this.opened();
    if (this.#family !== AF_UNIX && !this.kernel.given(SOL_TCP, TCP_NODELAY)) socket.setNoDelay(true);
    return socket;
  }

  opened(): net.Socket {
    const socket = unconnected({ fd: this.#fd, ...IDLE } as net.SocketConstructorOpts);
    this.#fd = -1;
    this.kernel.heldBy(socketHolder(socket));
    return socket;
  }

  connected(success: boolean): void {
    const kept = this.#kept;
    this.#kept = -1;
    if (!success && !this.#closed) {
      this.#fd = this.#number = this.#libc.dup(kept, this.#number); // the same, where nobody was faster
      this.kernel.heldBy(this.#holder());
      this.#bindAgain();
    }
    this.#libc.close(kept);
  }

  listen(server: net.Server, backlog: number): Promise<void> {
    this.#handle ??= handleOf(this.#fd);
    const listening = listenOn(server, this.#handle, backlog);
    this.#fd = -1;
    this.#handle = null;
    this.kernel.heldBy(serverHolder(server));
    return listening;
  }

  get inherited() {
    return { noDelay: !this.kernel.given(SOL_TCP, TCP_NODELAY) }; // else the kernel hands on what was set
  }

  accepted(): undefined {}

  close(): void {
    this.#closed = true;
    if (this.#handle !== null) this.#handle.close();
    else if (this.#fd >= 0) this.#libc.close(this.#fd);
    this.#handle = null;
    this.#fd = -1;
    this.kernel.closed();
  }

  /** Linux takes back a port that it had chosen when a connect() fails, and still names it. */
  #bindAgain(): void {
    if (this.#bound === null || this.#family === AF_UNIX) return;
    try {
      this.#libc.bind(this.#fd, this.#bound, "");
    } catch {
      // EINVAL: it has it still.
    }
  }

  #holder(): Holder {
    const fd = this.#fd;
    return {
      fd,
      take: () => {
        this.#fd = -1;
        return fd;
      },
    };
  }
}

/** By what Node has: the descriptor comes with bind() or connect(). */
class PlainStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #kind: Kind;
  readonly #options: PlainStreamOptions;
  #handle: Handle | null; // from bind() on, while Node has it not
  #address: Address | null = null;
  #said = "";
  #closed = false;

  /** `found` as the kernel's. */
  constructor(kind: Kind, from?: Adopted, found?: null) {
    this.#kind = kind;
    this.#options = new PlainStreamOptions(kind);
    this.#handle = from === undefined ? null : handleOf(from.fd);
    this.kernel = new Kernel(this.#options, found).heldBy(this.#holder());
    if (from === undefined) return;
    const name = from.localAddress ?? nameOf(this.#handle as Handle);
    if (name === null || (name.family !== "unix" && name.port === 0)) return;
    this.#address = name;
    this.#options.bound = true;
  }

  get localAddress(): Address | null {
    return this.#address;
  }

  bind(address: Address, said: string): void {
    const options = this.#options;
    const flags = (options.on(V6ONLY) ? UV_TCP_IPV6ONLY : 0) | (options.on(REUSEPORT) ? UV_TCP_REUSEPORT : 0);
    if (address.family === "unix") checkedPath(address.path);
    const handle =
      address.family === "unix"
        ? makeHandle(said, address.path, -1, -1)
        : makeHandle(
            said,
            hostOf(address),
            address.port,
            address.family === "IPv6" ? 6 : 4,
            undefined,
            flags,
          );
    this.#handle = handle;
    this.#address = address.family === "unix" ? address : nameOf(handle);
    this.#said = said;
    options.bind();
    this.kernel.heldBy(this.#holder());
  }

  connecting(): net.Socket {
    const handle = this.#handle;
    // A Unix handle that is only bound has no stream in libuv's eyes until it is opened.
    if (handle !== null && this.#kind.family === AF_UNIX) handle.open(handle.fd);
    const socket = this.opened();
    this.#options.open(socket, true);
    return socket;
  }

  opened(): net.Socket {
    const handle = this.#handle;
    const options = handle === null ? IDLE : { handle, ...IDLE };
    const socket = unconnected(options as net.SocketConstructorOpts);
    this.#handle = null;
    this.#options.open(socket, false);
    this.kernel.heldBy(socketHolder(socket));
    return socket;
  }

  connected(success: boolean): void {
    if (success || this.#closed) return;
    this.kernel.heldBy(NOBODY);
    if (this.#address !== null) this.bind(this.#address, this.#said); // Node closed it: the same once more
  }

  listen(server: net.Server, backlog: number): Promise<void> {
    const listening = listenOn(server, this.#handle as Handle, backlog);
    this.#handle = null;
    this.#options.listens = true;
    this.kernel.heldBy(serverHolder(server));
    return listening;
  }

  get inherited() {
    const options = this.#options;
    return {
      noDelay: options.on(NODELAY, !this.kernel.given(SOL_TCP, TCP_NODELAY)), // else libc set it, and the kernel hands it on
      keepAlive: options.on(KEEPALIVE),
      keepAliveInitialDelay: options.idle,
    };
  }

  accepted(connection: { readonly settable: Settable; readonly holder: Holder }): Kernel | undefined {
    if (libc() !== null) return undefined; // which knows all of it
    const options = new PlainStreamOptions(this.#kind, this.#options);
    options.open(connection.settable, true);
    return new Kernel(options, null).heldBy(connection.holder);
  }

  close(): void {
    this.#closed = true;
    this.#handle?.close();
    this.#handle = null;
    this.kernel.closed();
  }

  #holder(): Holder {
    const handle = this.#handle;
    return handle === null ? NOBODY : { fd: handle.fd, take: () => -1 };
  }
}

const nameOf = (handle: Handle): Address | null => {
  const name: { address?: string; port?: number; family?: string } = {};
  if (handle.getsockname === undefined || handle.getsockname(name) !== 0) return null;
  const { address = "", port = 0, family } = name;
  if (family !== "IPv6") return { family: "IPv4", hostname: address, port };
  const [hostname = "", scopeId] = address.split("%");
  return { family, hostname, port, ...(scopeId !== undefined && { scopeId }) };
};

/** A new stream, or one over a descriptor that was made elsewhere. Throws `EMFILE`, `EPROTONOSUPPORT`. */
export const streamDescriptor = (kind: Kind, from?: Adopted): StreamDescriptor => {
  const calls = libc();
  if (calls === null) return new PlainStream(kind, from, null);
  return new LibcStream(calls, kind, from?.fd ?? calls.socket(kind.family, SOCK_STREAM, kind.proto));
};

/**
 * What a server listens on that has asked nothing of its socket: Node binds it, so that the server is up without
 * libc, which takes longer to load than all else here. Once it is bound libc has it too, for whatever is asked then.
 */
export const listenerDescriptor = (family: typeof AF_INET | typeof AF_INET6): StreamDescriptor =>
  new PlainStream({ family, type: SOCK_STREAM, proto: 0 });

// ---- Datagrams ----

/** The kernel of a datagram socket that libc alone has. `release` is called when it is given away. */
export const datagramKernel = (libc: Libc, kind: Kind, fd: number, release: () => void): Kernel =>
  new Kernel(new PlainDatagramOptions(kind), libc).heldBy({
    fd,
    take() {
      release();
      return fd;
    },
  });

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
        return datagramDescriptorOf(socket);
      },
      take: () => -1,
    });
  }
}
