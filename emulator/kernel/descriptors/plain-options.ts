/**
 * The options that Node's own API can set, for sockets without libc. Options that are set before there is a descriptor are
 * kept until there is one.
 */

import type dgram from "node:dgram";
import { SocketError } from "../../../core/errors.ts";
import { inetNtop } from "../../../core/net/address.ts";
import {
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
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  TCP_KEEPIDLE,
  TCP_NODELAY,
} from "../../../core/net/constants.ts";
import { integer, optionKey } from "./options.ts";

/** The options that Node's own API has, of one kind of socket. */
export interface PlainOptions {
  /** The option's value, if it is known. */
  get(level: number, name: number): number | undefined;
  /** Sets it; false if Node cannot. */
  set(level: number, name: number, value: Uint8Array): boolean;
}

/** What a socket is: fixed when it is made. */
export interface Kind {
  readonly family: number;
  readonly type: number;
  readonly proto: number;
}

/** The options that are facts about the socket. */
const tell = ({ family, type }: Kind, name: number, listens: boolean): number | undefined => {
  const own = family === AF_UNIX ? 0 : type === SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
  return new Map([
    [SO_DOMAIN, family],
    [SO_TYPE, type],
    [SO_PROTOCOL, own],
    [SO_ACCEPTCONN, Number(listens)],
    [SO_ERROR, 0], // errors are reported when they occur
  ]).get(name);
};

export const NODELAY = optionKey(SOL_TCP, TCP_NODELAY);
export const KEEPALIVE = optionKey(SOL_SOCKET, SO_KEEPALIVE);
const KEEPIDLE = optionKey(SOL_TCP, TCP_KEEPIDLE);
export const REUSEADDR = optionKey(SOL_SOCKET, SO_REUSEADDR);
export const REUSEPORT = optionKey(SOL_SOCKET, SO_REUSEPORT);
export const V6ONLY = optionKey(IPPROTO_IPV6, IPV6_V6ONLY);
const STREAM_OPTIONS: readonly string[] = [NODELAY, KEEPALIVE, KEEPIDLE, REUSEADDR, REUSEPORT, V6ONLY];
const BEFORE_BIND: readonly string[] = [REUSEADDR, REUSEPORT, V6ONLY];
const MAX_KEEPIDLE = 32_767; // seconds; tcp(7), MAX_TCP_KEEPIDLE

/** The calls that Node has for the options of a connection. */
export interface Settable {
  setNoDelay(on: boolean): unknown;
  /** `delay`: milliseconds; 0 leaves it as it is. */
  setKeepAlive(on: boolean, delay: number): unknown;
}

/** The options of a stream that Node can set; those that are set before it is open are kept for then. */
export class PlainStreamOptions implements PlainOptions {
  readonly #kind: Kind;
  readonly #values: Map<string, number>;
  #socket: Settable | null = null;
  /** Whether it is too late for options of bind(). */
  bound = false;
  listens = false;

  /** `from`: the options of the listener that accepted it. */
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

  /** Whether an option is on; `otherwise` if it was never set. */
  on(key: string, otherwise = false): boolean {
    const value = this.#values.get(key);
    return value === undefined ? otherwise : value !== 0;
  }

  get idle(): number {
    return 1_000 * (this.#values.get(KEEPIDLE) ?? 0); // Node leaves the idle time as it is for 0
  }

  /** From now on the options are those of `socket`, which gets those that were set. `fresh`: it is new, so the others are known, too. */
  open(socket: Settable, fresh: boolean): void {
    this.#socket = socket;
    if (fresh) {
      const known = [
        [KEEPALIVE, 0] as const,
        ...(this.#kind.family === AF_UNIX ? [] : [[NODELAY, 1] as const]),
      ];
      for (const [key, value] of known) if (!this.#values.has(key)) this.#values.set(key, value);
    }
    // Options for bind() have no effect on a socket that was not bound.
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

/** How Node sets each UDP option, and how many bytes its value has. */
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
  // struct in_addr; struct ip_mreq; struct ipv6_mreq, whose interface Node can only leave to the system
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
export class PlainDatagramOptions implements PlainOptions {
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
    if (socket === null) return undefined; // the kernel changes the number that was set
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

  /** It is open: applies what was set before. Throws the kernel's error. */
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
