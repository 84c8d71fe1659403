/**
 * What Node has no word for: descriptors, options of any level and name, urgent data, a socket that is bound and
 * does not listen. All that touches `_handle` (deprecated, DEP0112, and working), `net._createServerHandle` and libc
 * is in this file.
 *
 * Two optional packages make it whole, on Linux: `koffi` calls libc on the descriptor (about 2 µs a call), and
 * `node-unix-socket` has Unix datagrams. They are loaded when first needed. Without them, or with the environment
 * variable `SOCKLET_NATIVE=off`, what Node's own API can do still works, and the rest throws `ERR_UNSUPPORTED`, which
 * names the package.
 */

import { createRequire } from "node:module";
import net from "node:net";
import { getSystemErrorName } from "node:util";
import { type Address, inetNtop, inetPton } from "../core/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  IPPROTO_IPV6,
  IPV6_V6ONLY,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  POLLPRI,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_PROTOCOL,
  SO_REUSEADDR,
  SO_REUSEPORT,
  SO_TYPE,
  SOCK_CLOEXEC,
  SOL_SOCKET,
  SOL_TCP,
  TCP_KEEPIDLE,
  TCP_NODELAY,
} from "../core/constants.ts";
import { SocketError } from "../core/errors.ts";
import type { KernelSocket } from "../core/socket.ts";

// ---- The packages ----

const require = createRequire(import.meta.url);

const why = new Map<string, unknown>(); // a package was not loaded

/** A package that may be there; `null` where it is not, or is turned off. */
const optional = <T>(name: string, make: (module: never) => T): (() => T | null) => {
  let loaded: T | null | undefined;
  return () => {
    if (process.env.SOCKLET_NATIVE === "off") return null;
    if (loaded === undefined) {
      try {
        loaded = make(require(name) as never);
      } catch (error) {
        loaded = null; // not installed, or not for this system
        why.set(name, error);
      }
    }
    return loaded;
  };
};

/** `found`, or `ERR_UNSUPPORTED` for `what`, which names the package. */
const needed = <T>(found: T | null, what: string, name: string): T => found ?? missing(what, name);

const missing = (what: string, name: string): never => {
  const off = process.env.SOCKLET_NATIVE === "off" ? " and leave SOCKLET_NATIVE=off away" : "";
  throw new SocketError("ERR_UNSUPPORTED", `${what} needs the package ${name}: npm install ${name}${off}`, {
    cause: why.get(name),
  });
};

// ---- libc ----

interface Libc {
  socket(family: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, size: number): number;
  connect(fd: number, address: Uint8Array, size: number): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, size: [number]): number;
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, size: number): number;
  getsockname(fd: number, address: Uint8Array, size: [number]): number;
  getpeername(fd: number, address: Uint8Array, size: [number]): number;
  send(fd: number, bytes: Uint8Array, size: number, flags: number): number;
  sendto(fd: number, bytes: Uint8Array, size: number, flags: number, to: Uint8Array, length: number): number;
  recv(fd: number, bytes: Uint8Array, size: number, flags: number): number;
  dup(fd: number): number;
  close(fd: number): number;
  socketpair(family: number, type: number, protocol: number, fds: Int32Array): number;
  poll: {
    (fds: Uint8Array, count: number, timeout: number): number;
    /** On a thread of its own. */
    async(
      fds: Uint8Array,
      count: number,
      timeout: number,
      told: (error: unknown, ready: number) => void,
    ): void;
  };
  /** Of the last call. */
  errno(): number;
}

interface Koffi {
  load(path: string): { func(declaration: string): unknown };
  errno(): number;
}

const DECLARATIONS: Readonly<Record<Exclude<keyof Libc, "errno">, string>> = {
  socket: "int socket(int, int, int)",
  bind: "int bind(int, const uint8_t *, uint32_t)",
  connect: "int connect(int, const uint8_t *, uint32_t)",
  getsockopt: "int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)",
  setsockopt: "int setsockopt(int, int, int, const uint8_t *, uint32_t)",
  getsockname: "int getsockname(int, _Out_ uint8_t *, _Inout_ uint32_t *)",
  getpeername: "int getpeername(int, _Out_ uint8_t *, _Inout_ uint32_t *)",
  send: "intptr_t send(int, const uint8_t *, size_t, int)",
  sendto: "intptr_t sendto(int, const uint8_t *, size_t, int, const uint8_t *, uint32_t)",
  recv: "intptr_t recv(int, _Out_ uint8_t *, size_t, int)",
  dup: "int dup(int)",
  close: "int close(int)",
  socketpair: "int socketpair(int, int, int, _Out_ int *)",
  poll: "int poll(_Inout_ uint8_t *, unsigned long, int)",
};

const libcOf = optional("koffi", (module: { readonly default?: Koffi } & Koffi): Libc | null => {
  if (process.platform !== "linux") return null; // the numbers of the constants are Linux's
  const koffi = module.default ?? module;
  // glibc's name, then musl's.
  const library = ["libc.so.6", `libc.musl-${process.arch === "x64" ? "x86_64" : "aarch64"}.so.1`]
    .map((name) => {
      try {
        return koffi.load(name);
      } catch {
        return null;
      }
    })
    .find((found) => found !== null);
  if (library === undefined || library === null) return null;
  const calls = Object.entries(DECLARATIONS).map(([name, declared]) => [name, library.func(declared)]);
  return { ...(Object.fromEntries(calls) as Omit<Libc, "errno">), errno: () => koffi.errno() };
});

/** libc, where it can be called. */
const libc = (): Libc | null => libcOf();

const neededLibc = (what: string): Libc => needed(libc(), what, "koffi");

/** What a call of libc gave, or its errno as a `SocketError`. */
const checked = (libc: Libc, result: number, call: string, address?: string): number => {
  if (result >= 0) return result;
  const errno = libc.errno();
  const name = getSystemErrorName(-errno);
  const code = name === "EAGAIN" ? "EWOULDBLOCK" : name;
  const cause = Object.assign(new Error(`${call}: ${name}`), { code, errno, syscall: call });
  throw SocketError.from(cause, "ERR_INTERNAL", address);
};

// ---- Addresses, as the kernel has them ----

/** `struct sockaddr_in`, `sockaddr_in6` or `sockaddr_un`: ip(7), ipv6(7), unix(7). */
const pack = (address: Address): Uint8Array => {
  if (address.family === "unix") {
    const path = new TextEncoder().encode(address.path);
    if (path.length > 107)
      throw new SocketError("EINVAL", `a Unix path has at most 107 bytes: ${address.path}`);
    const packed = new Uint8Array(2 + path.length + (address.path.startsWith("\0") ? 0 : 1));
    new DataView(packed.buffer).setUint16(0, AF_UNIX, true);
    packed.set(path, 2);
    return packed;
  }
  const wide = address.family === "IPv6";
  const packed = new Uint8Array(wide ? 28 : 16);
  const view = new DataView(packed.buffer);
  view.setUint16(0, wide ? AF_INET6 : AF_INET, true);
  view.setUint16(2, address.port);
  packed.set(inetPton(wide ? AF_INET6 : AF_INET, address.hostname), wide ? 8 : 4);
  if (wide && address.scopeId !== undefined) view.setUint32(24, Number(address.scopeId) || 0, true);
  return packed;
};

/** An address of the kernel's; `null` for a Unix socket without a name. */
const unpack = (packed: Uint8Array): Address | null => {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
  const family = packed.length < 2 ? AF_UNIX : view.getUint16(0, true);
  if (family === AF_UNIX) {
    const path = packed.subarray(2);
    if (path.length === 0) return null;
    const end = path[0] === 0 ? path.length : path.indexOf(0);
    return { family: "unix", path: new TextDecoder().decode(path.subarray(0, end < 0 ? path.length : end)) };
  }
  const port = view.getUint16(2);
  if (family === AF_INET) return { family: "IPv4", hostname: inetNtop(AF_INET, packed.subarray(4, 8)), port };
  const scope = view.getUint32(24, true);
  const hostname = inetNtop(AF_INET6, packed.subarray(8, 24));
  return scope === 0
    ? { family: "IPv6", hostname, port }
    : { family: "IPv6", hostname, port, scopeId: String(scope) };
};

const SOCKADDR = 128; // bytes: struct sockaddr_storage, socket(7)

const nameBy = (call: "getsockname" | "getpeername", fd: number): Address | null => {
  const libc = neededLibc(`${call}() of a descriptor`);
  const packed = new Uint8Array(SOCKADDR);
  const size: [number] = [SOCKADDR];
  checked(libc, libc[call](fd, packed, size), call);
  return unpack(packed.subarray(0, size[0]));
};

// ---- Descriptors ----

/** A new descriptor, closed in programs that this process starts; -1 where only Node makes them (without `koffi`). */
export const openDescriptor = (family: number, type: number, proto: number): number => {
  const calls = libc();
  return calls === null ? -1 : checked(calls, calls.socket(family, type | SOCK_CLOEXEC, proto), "socket");
};

export const closeDescriptor = (fd: number): void => {
  libc()?.close(fd);
};

/** Another descriptor of the same socket. Throws `EBADF`, `ENOTSOCK`, `ERR_UNSUPPORTED`. */
export const duplicate = (fd: number): number => {
  const calls = neededLibc("another descriptor of a socket");
  readOption(calls, fd, SOL_SOCKET, SO_TYPE, 4); // ENOTSOCK
  return checked(calls, calls.dup(fd), "dup");
};

/** Two connected descriptors; `null` without `koffi`. */
export const descriptorPair = (family: number, type: number): [number, number] | null => {
  const calls = libc();
  if (calls === null) return null;
  const fds = new Int32Array(2);
  checked(calls, calls.socketpair(family, type | SOCK_CLOEXEC, 0, fds), "socketpair");
  return [fds[0] as number, fds[1] as number];
};

/** Whether a descriptor listens, or is connected; `null` where only libc could tell. */
export const stateOf = (fd: number): "listening" | "connected" | "new" | null => {
  const calls = libc();
  if (calls === null) return null;
  if (integer(readOption(calls, fd, SOL_SOCKET, SO_ACCEPTCONN, 4)) === 1) return "listening";
  return calls.getpeername(fd, new Uint8Array(SOCKADDR), [SOCKADDR]) === 0 ? "connected" : "new";
};

/** Binds a descriptor. */
export const bindDescriptor = (fd: number, address: Address, said: string): void => {
  const calls = neededLibc("bind() of a descriptor");
  const packed = pack(address);
  checked(calls, calls.bind(fd, packed, packed.length), "bind", said);
};

/** Has the kernel hear this peer alone, of a datagram socket. */
export const connectDescriptor = (fd: number, address: Address, said: string): void => {
  const calls = neededLibc("connect() of a descriptor");
  const packed = pack(address);
  checked(calls, calls.connect(fd, packed, packed.length), "connect", said);
};

/** Sends one datagram by its descriptor. */
export const sendDatagram = (fd: number, bytes: Uint8Array, flags: number, to: Address): void => {
  const calls = neededLibc("MSG_DONTROUTE, and sendto() past the peer of connect(),");
  const packed = pack(to);
  const all = flags | MSG_DONTWAIT | MSG_NOSIGNAL;
  checked(calls, calls.sendto(fd, bytes, bytes.length, all, packed, packed.length), "sendto");
};

export const localName = (fd: number): Address | null => nameBy("getsockname", fd);
export const peerName = (fd: number): Address | null => nameBy("getpeername", fd);

// ---- Node's handles ----

/** What Node keeps behind a socket or a listener. */
export interface Handle {
  readonly fd?: number;
  getsockname?(into: { address?: string; port?: number; family?: string }): number;
  close(): void;
}

/** The descriptor behind a socket or a listener of Node's; -1 where there is none (any more, or on Windows). */
export const descriptorOf = (owner: object): number =>
  (owner as { readonly _handle?: Handle | null })._handle?.fd ?? -1;

const UV_TCP_IPV6ONLY = 1; // uv.h
const UV_TCP_REUSEPORT = 2; // uv.h

/**
 * A handle that is bound and does not listen, for who has no `koffi`: what Node's cluster makes its own of.
 * Throws the bind's error, and `ERR_UNSUPPORTED` where a Node no longer has it.
 */
export const boundHandle = (
  at: { readonly host: string; readonly port: number } | { readonly path: string },
  { ipv6Only = false, reusePort = false },
  refused: (error: unknown) => SocketError,
): Handle => {
  const make = (net as unknown as { _createServerHandle?: (...args: unknown[]) => Handle | number })
    ._createServerHandle;
  if (make === undefined) return missing("bind() on this version of Node", "koffi");
  const flags = (ipv6Only ? UV_TCP_IPV6ONLY : 0) | (reusePort ? UV_TCP_REUSEPORT : 0);
  const handle =
    "path" in at ? make(at.path, -1, -1) : make(at.host, at.port, net.isIP(at.host), undefined, flags);
  if (typeof handle === "object") {
    // The bind's error comes with the name; libuv keeps it until then.
    const error = handle.getsockname?.({}) ?? 0;
    if (error === 0) return handle;
    handle.close();
    throw refused(Object.assign(new Error("bind"), { code: getSystemErrorName(error) }));
  }
  throw refused(Object.assign(new Error("bind"), { code: getSystemErrorName(handle as number) }));
};

// ---- Options ----

/** Options that Node's own API has, of one kind of socket. */
export interface PlainOptions {
  /** The option's value, where it is truly known. */
  get(level: number, name: number): number | undefined;
  /** Sets it; false where Node has no way to. */
  set(level: number, name: number, value: number | Uint8Array): boolean;
}

/** What all sockets can tell of themselves. */
export const identity = (
  family: number,
  type: number,
  proto: number,
  listens: () => boolean,
): PlainOptions["get"] => {
  const known = new Map([
    [SO_DOMAIN, family],
    [SO_TYPE, type],
    [SO_PROTOCOL, proto],
    [SO_ERROR, 0], // an error was told when it came
  ]);
  return (level, name) => {
    if (level !== SOL_SOCKET) return undefined;
    return name === SO_ACCEPTCONN ? Number(listens()) : known.get(name);
  };
};

/** The options of a stream that Node can set: those that are set before it is open are kept for then. */
export class PlainStreamOptions implements PlainOptions {
  readonly #identity: PlainOptions["get"];
  readonly #values = new Map<string, number>();
  #socket: net.Socket | null = null;

  constructor(known: PlainOptions["get"]) {
    this.#identity = known;
  }

  get(level: number, name: number): number | undefined {
    return this.#identity(level, name) ?? this.#values.get(`${level} ${name}`);
  }

  set(level: number, name: number, value: number | Uint8Array): boolean {
    const key = `${level} ${name}`;
    if (typeof value !== "number" || !SETTABLE.has(key)) return false;
    // Where it is on always, or of use before bind() alone, only that can be asked for.
    if (name === SO_REUSEADDR && level === SOL_SOCKET && value === 0) return false;
    this.#values.set(key, key === KEEPIDLE ? value : Number(value !== 0));
    this.#apply(key);
    return true;
  }

  /** Whether an option is on. */
  on(level: number, name: number): boolean {
    return this.#values.get(`${level} ${name}`) === 1;
  }

  /** The connection is open: `noDelay` is what it was opened with. */
  open(socket: net.Socket, noDelay: boolean): this {
    this.#socket = socket;
    if (!this.#values.has(NODELAY)) this.#values.set(NODELAY, Number(noDelay));
    if (!this.#values.has(KEEPALIVE)) this.#values.set(KEEPALIVE, 0);
    for (const key of this.#values.keys()) this.#apply(key);
    return this;
  }

  #apply(key: string): void {
    if (key === NODELAY) this.#socket?.setNoDelay(this.#values.get(NODELAY) === 1);
    if (key !== KEEPALIVE && key !== KEEPIDLE) return;
    // setKeepAlive() takes milliseconds, and with 0 leaves the idle time as it is.
    const idle = 1_000 * (this.#values.get(KEEPIDLE) ?? 0);
    this.#socket?.setKeepAlive(this.#values.get(KEEPALIVE) === 1, idle);
  }
}

const NODELAY = `${SOL_TCP} ${TCP_NODELAY}`;
const KEEPALIVE = `${SOL_SOCKET} ${SO_KEEPALIVE}`;
const KEEPIDLE = `${SOL_TCP} ${TCP_KEEPIDLE}`;
const SETTABLE = new Set([
  NODELAY,
  KEEPALIVE,
  KEEPIDLE,
  `${SOL_SOCKET} ${SO_REUSEADDR}`,
  `${SOL_SOCKET} ${SO_REUSEPORT}`,
  `${IPPROTO_IPV6} ${IPV6_V6ONLY}`,
]);

const readOption = (calls: Libc, fd: number, level: number, name: number, length: number): Uint8Array => {
  const value = new Uint8Array(length);
  const size: [number] = [length];
  checked(calls, calls.getsockopt(fd, level, name, value, size), "getsockopt");
  return value.subarray(0, size[0]);
};

/** A C int, or shorter (a byte, as some multicast options are). */
const integer = (bytes: Uint8Array): number =>
  bytes.length === 4 ? new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true) : (bytes[0] ?? 0);

const bytesOf = (value: number): Uint8Array => {
  if (!Number.isInteger(value) || value < -(2 ** 31) || value >= 2 ** 31) {
    throw new RangeError(`the value of an option is an integer of 32 bits, or bytes, not ${value}`);
  }
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value, true);
  return bytes;
};

const MAX_OPTION = 1024; // bytes: what CPython takes as a buffer length

// ---- The kernel behind a socket ----

/** What a `KernelSocket` is made of. */
export interface Door {
  /** The descriptor, -1 where there is none (yet, or any more). */
  fd(): number;
  /** What Node's own API can do of the options. */
  readonly options: PlainOptions;
  /** Resolves when nothing that was written waits in Node. */
  drained?(): Promise<void>;
  /** Lets go of Node's side without ending the connection. */
  release?(): void;
}

const SLICE = 100; // ms that one wait on a thread takes at most, so that it outlives nothing for long

/** The kernel's side of a socket of Node's. */
export class NodeKernel implements KernelSocket {
  readonly #door: Door;

  constructor(door: Door) {
    this.#door = door;
  }

  get fd(): number {
    const fd = this.#door.fd();
    if (fd < 0) needed(libc(), "a descriptor before bind() or connect()", "koffi");
    return fd;
  }

  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    checkInteger("the level of an option", level);
    checkInteger("the name of an option", name);
    if (length !== undefined && !(Number.isInteger(length) && length > 0 && length <= MAX_OPTION)) {
      throw new RangeError(`the length of an option is 1 to ${MAX_OPTION} bytes, not ${length}`);
    }
    const calls = libc();
    const fd = this.#door.fd();
    if (calls !== null && fd >= 0) {
      const value = readOption(calls, fd, level, name, length ?? 4);
      return length === undefined ? integer(value) : value;
    }
    const known = this.#door.options.get(level, name);
    if (known === undefined || length !== undefined) return missing(optionName(level, name), "koffi");
    return known;
  }

  setsockopt(level: number, name: number, value: number | Uint8Array): void {
    checkInteger("the level of an option", level);
    checkInteger("the name of an option", name);
    const bytes = typeof value === "number" ? bytesOf(value) : value;
    if (!(bytes instanceof Uint8Array))
      throw new TypeError("the value of an option is an integer or a Uint8Array");
    const calls = libc();
    const fd = this.#door.fd();
    if (calls !== null && fd >= 0) {
      checked(calls, calls.setsockopt(fd, level, name, bytes, bytes.length), "setsockopt");
    } else if (!this.#door.options.set(level, name, value)) {
      missing(optionName(level, name), "koffi");
    }
  }

  async send(bytes: Uint8Array, flags: number): Promise<number> {
    const calls = neededLibc("MSG_OOB and MSG_DONTROUTE");
    await this.#door.drained?.();
    for (;;) {
      const sent = calls.send(this.fd, bytes, bytes.length, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent >= 0 || getSystemErrorName(-calls.errno()) !== "EAGAIN") return checked(calls, sent, "send");
      await new Promise((resolve) => setTimeout(resolve, 1)); // the kernel's buffer is full, and libuv does not wait for us
    }
  }

  recv(size: number, flags: number): Uint8Array {
    const calls = neededLibc("MSG_OOB");
    const bytes = new Uint8Array(size);
    return bytes.subarray(0, checked(calls, calls.recv(this.fd, bytes, size, flags | MSG_DONTWAIT), "recv"));
  }

  detach(): number {
    const calls = neededLibc("detach()");
    const fd = checked(calls, calls.dup(this.fd), "dup");
    this.#door.release?.();
    return fd;
  }

  get urgent(): boolean {
    const calls = neededLibc("urgent data");
    const watched = watching(this.fd);
    return checked(calls, calls.poll(watched, 1, 0), "poll") > 0 && isUrgent(watched);
  }

  /** Asks the kernel on a thread, a slice of time after the other: libuv waits for no urgent data. */
  onUrgent(told: () => void): () => void {
    const calls = neededLibc("urgent data");
    let stopped = false;
    const wait = (): void => {
      const fd = this.#door.fd();
      if (stopped || fd < 0) return;
      const watched = watching(fd);
      calls.poll.async(watched, 1, SLICE, () => {
        if (stopped) return;
        if (isUrgent(watched)) told();
        // Level-triggered: while the urgent byte waits unread poll() would return at once.
        setTimeout(wait, isUrgent(watched) ? SLICE : 0).unref();
      });
    };
    wait();
    return () => {
      stopped = true;
    };
  }
}

/** A `struct pollfd` that asks for urgent data: poll(2). */
const watching = (fd: number): Uint8Array => {
  const watched = new Uint8Array(8);
  const view = new DataView(watched.buffer);
  view.setInt32(0, fd, true);
  view.setInt16(4, POLLPRI, true);
  return watched;
};

const isUrgent = (watched: Uint8Array): boolean => ((watched[6] ?? 0) & POLLPRI) !== 0;

const optionName = (level: number, name: number): string => `the option ${name} at level ${level}`;

const checkInteger = (what: string, value: number): void => {
  if (!Number.isInteger(value)) throw new TypeError(`${what} is an integer, not ${value}`);
};

// ---- Unix datagrams ----

/** What is used of `node-unix-socket`. */
export interface UnixDgram {
  on(event: "data", told: (bytes: Buffer, path: string) => void): unknown;
  on(event: "error", told: (error: Error) => void): unknown;
  bind(path: string): void;
  sendTo(
    bytes: Uint8Array,
    offset: number,
    length: number,
    path: string,
    told: (error?: Error | null) => void,
  ): void;
  getRecvBufferSize(): number;
  setRecvBufferSize(size: number): void;
  getSendBufferSize(): number;
  setSendBufferSize(size: number): void;
  close(): void;
}

const unixDgramOf = optional(
  "node-unix-socket",
  (module: { readonly DgramSocket: new () => UnixDgram }) => module.DgramSocket,
);

/** A Unix datagram socket. Throws `ERR_UNSUPPORTED` without `node-unix-socket`. */
export const unixDgram = (): UnixDgram =>
  new (needed(unixDgramOf(), "a Unix datagram socket (Node has none)", "node-unix-socket"))();
