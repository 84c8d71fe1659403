/**
 * libc, called through the optional package `koffi`: about 1 µs a call.
 *
 * It is loaded when it is first needed, because loading takes 20 ms, and on Linux only, because the constants have
 * Linux's values. Where it is missing, or the environment has `SOCKLET_NATIVE=off`, everything that Node's own API can
 * do still works; the rest throws `ERR_UNSUPPORTED` with a message that says what to install.
 */

import { SocketError } from "../../../core/errors.ts";
import type { Address } from "../../../core/net/address.ts";
import { AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, POLLPRI, SOCK_CLOEXEC } from "../../../core/net/constants.ts";
import { getSystemErrorName, lazy } from "../../builtin.ts";
import { runtime } from "../../runtime.ts";
import { type Interfaces, packSockaddr, SOCKADDR, unpackSockaddr } from "./sockaddr.ts";

// ---- The package ----

interface Koffi {
  /** The functions of this process, libc's among them; `null` is the process itself, glibc's or musl's. */
  load(library: null): { func(declaration: string): Call };
  /** Of the last call. */
  errno(): number;
  /** libuv's poll handles, if this version has them. */
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
  if (runtime !== "Node")
    return { missing: `needs Node and its package koffi: it is not to be had on ${runtime}` };
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

/** libc; `null` if it cannot be called, or is turned off. */
export const libc = (): Libc | null => {
  if (isOff()) return null;
  loaded ??= load();
  return loaded instanceof Libc ? loaded : null;
};

/** libc. Throws `ERR_UNSUPPORTED` for `what` if there is none, and says why. `found` is the libc that a socket was made with. */
export const neededLibc = (what: string, found: Libc | null = libc()): Libc => {
  if (found !== null) return found;
  if (!isOff()) loaded ??= load(); // it may be a runtime that never asked for it
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
const EPOLLET = 0x8000_0000; // edge-triggered: once for each that comes; epoll(7)
const EPOLL_EVENT = 16; // bytes of struct epoll_event, or 12, packed, on x86-64
const IFNAMSIZ = 16; // bytes of an interface's name, with its NUL; netdevice(7)
const LARGEST = 1024 * 1024; // bytes of the largest datagram: more than a Unix socket can send with Linux's largest buffer (net.core.wmem_max)

const nothing = (): void => {};

let received: Uint8Array | undefined; // the buffer for a received datagram, before it is copied out

/** libc's calls on sockets. A call that fails throws a `SocketError` with the kernel's code. */
export class Libc {
  readonly #koffi: Koffi;
  readonly #calls: Readonly<Record<keyof typeof DECLARATIONS, Call>>;
  readonly #name = new Uint8Array(SOCKADDR); // the address that a call writes
  readonly #size = new Uint32Array(1); // and its size
  readonly #interfaces: Interfaces = {
    indexOf: (name) => this.#calls.if_nametoindex(name),
    nameOf: (index) => {
      const name = new Uint8Array(IFNAMSIZ);
      this.#calls.if_indextoname(index, name);
      return new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    },
  };

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

  /** A new descriptor, which child processes do not inherit. */
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

  /** Returns how many bytes the kernel took; `null` if the call would block. */
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

  /** The next datagram, and its sender (`null`: a Unix socket without a name); `null` if there is none. */
  recvfrom(fd: number): readonly [Uint8Array, Address | null] | null {
    received ??= new Uint8Array(LARGEST);
    this.#size[0] = SOCKADDR;
    const size = this.#taken(
      this.#calls.recvfrom(fd, received, LARGEST, MSG_DONTWAIT, this.#name, this.#size),
      "recvfrom",
    );
    return size === null ? null : [received.slice(0, size), this.#unpacked()];
  }

  /** A duplicate: the lowest free descriptor that is at least `least`. */
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
   * Calls `told` when `fd` can be read from, again and again while it can. Returns a function that stops it, which must be
   * called before the descriptor is closed. libuv waits for it, so it must not use the descriptor otherwise.
   */
  watch(fd: number, told: () => void, keepsAlive = true): () => void {
    const { node } = this.#koffi;
    if (node === undefined) {
      throw new SocketError("ERR_UNSUPPORTED", "this version of koffi cannot wait for a descriptor; 3.3 can");
    }
    let watching = true;
    const poll = (): PollHandle => {
      const handle = node.poll(fd, { readable: true }, (status) => {
        // Node does not count koffi's call as a callback, and continues promises only after one: this is one.
        setImmediate(nothing);
        told();
        if (status >= 0 || !watching) return;
        // libuv stops at an error of the socket (a datagram's ECONNREFUSED), so another handle continues.
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
   * Calls `told` when an urgent byte has come. Returns a function that stops it. libuv cannot wait for that, and has the
   * descriptor already. So an epoll of our own waits for it, and libuv for the epoll. It keeps no process alive.
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

  #address(call: "getsockname" | "getpeername", fd: number): Address | null {
    this.#size[0] = SOCKADDR;
    this.#checked(this.#calls[call](fd, this.#name, this.#size), call);
    return this.#unpacked();
  }

  /** An address as the kernel takes it. Throws `EINVAL` for a path that is too long, `EADDRNOTAVAIL` for a scope that is not an interface. */
  pack(address: Address): Uint8Array {
    return packSockaddr(address, this.#interfaces);
  }

  /** The address that the last call wrote; `null` for a Unix socket without a name. */
  #unpacked(): Address | null {
    return unpackSockaddr(this.#name.subarray(0, this.#size[0]), this.#interfaces);
  }

  /** `result`, or `null` if the call would block. */
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

// libuv's names for two error numbers that have two names.
const OTHER_NAMES: Readonly<Record<string, string>> = { EAGAIN: "EWOULDBLOCK", ENOTSUP: "EOPNOTSUPP" };

const codeOf = (errno: number): string => {
  const name = getSystemErrorName(-errno);
  return OTHER_NAMES[name] ?? name;
};

/** The error for one of Linux's error numbers. */
export const kernelError = (errno: number, call: string, said?: string): SocketError => {
  const code = codeOf(errno);
  const cause = Object.assign(new Error(`${call}: ${code}`), { code, errno, syscall: call });
  if (code === "EPERM" && (call === "sendto" || call === "connect") && said?.startsWith("unix:")) {
    const why = `${said} is connected to another peer, and takes datagrams only from that one`; // unix_dgram_sendmsg()
    return new SocketError("EPERM", why, { address: said, cause });
  }
  return SocketError.from(cause, "ERR_INTERNAL", said);
};
