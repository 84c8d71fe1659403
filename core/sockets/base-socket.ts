/** What stream sockets and datagram sockets share: a kind, a descriptor, options, and how long their calls wait. */

import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  AF_UNSPEC,
  MSG_DONTROUTE,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_OOB,
  MSG_PEEK,
  MSG_WAITALL,
} from "../net/constants.ts";
import type { KernelSocket } from "./transport.ts";

/** The number of an address's family; `AF_UNSPEC` if there is no address. */
export const familyOf = (address: Address | null): number => {
  if (address === null) return AF_UNSPEC;
  return { IPv4: AF_INET, IPv6: AF_INET6, unix: AF_UNIX }[address.family];
};

/** Refuses flags that are not among `known`. */
export const checkFlags = (flags: number, known: number, call: string): void => {
  if (!Number.isInteger(flags)) throw new TypeError(`the flags of ${call}() are an integer, not ${flags}`);
  if ((flags & ~known) === 0) return;
  const names = Object.entries({ MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_DONTWAIT, MSG_WAITALL, MSG_NOSIGNAL });
  const list = names.flatMap(([name, value]) => ((known & value) === 0 ? [] : name)).join(", ");
  const other = (flags & ~known).toString(16);
  throw new SocketError("ERR_UNSUPPORTED", `${call}() does not know the flags 0x${other}; it takes ${list}`);
};

/** What all sockets share: a kind, a descriptor, options, and how long their calls wait. */
export abstract class BaseSocket {
  /** `AF_INET`, `AF_INET6` or `AF_UNIX`; `AF_UNSPEC` if the platform reports no address. */
  abstract get family(): number;
  /** `SOCK_STREAM` or `SOCK_DGRAM`. */
  abstract get type(): number;

  /** 0: the one protocol of its family and type. */
  get proto(): number {
    return 0;
  }

  /** Whether it was closed or detached: the socket no longer belongs to this object. */
  abstract get closed(): boolean;

  /** How long a call waits, in milliseconds. `null`: without a limit; 0: not at all. */
  abstract gettimeout(): number | null;
  /** Sets how long a call waits. Throws `RangeError` or `TypeError`. As CPython's, but in milliseconds. */
  abstract settimeout(timeout: number | null): void;

  /** `true`: calls wait, without a time-out. `false`: a call that would wait rejects with `EWOULDBLOCK`. CPython's `setblocking`. */
  setblocking(blocking: boolean): void {
    this.settimeout(blocking ? null : 0);
  }

  /** Whether calls wait, with a time-out or without. CPython's `getblocking`. */
  getblocking(): boolean {
    return this.gettimeout() !== 0;
  }

  /** The descriptor, which still belongs to this object; -1 once it is closed. Throws `ERR_UNSUPPORTED` in a place without descriptors. */
  fileno(): number {
    return this.closed ? -1 : this.kernel("fileno()").fd;
  }

  /**
   * Returns an option's value: an integer, or with `length` at most that many bytes. Throws `ENOPROTOOPT`, `EBADF`,
   * `ERR_UNSUPPORTED`. In Node; all but a few options need the package `koffi`. getsockopt(2), socket(7), tcp(7), ip(7)
   */
  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    const kernel = this.kernel("getsockopt()");
    return length === undefined ? kernel.getsockopt(level, name) : kernel.getsockopt(level, name, length);
  }

  /** Sets an option to an integer, a boolean (as 0 or 1) or bytes. Throws as `getsockopt`, and `EINVAL` for an impossible value. */
  setsockopt(level: number, name: number, value: number | boolean | Uint8Array): void {
    this.kernel("setsockopt()").setsockopt(level, name, typeof value === "boolean" ? Number(value) : value);
  }

  /** Access to the kernel's side of the socket; `undefined` if there is none. */
  protected abstract get kernelSocket(): KernelSocket | undefined;

  /** The same. Throws `ERR_UNSUPPORTED` for `what` if there is none, and `EBADF` once the socket is closed. */
  protected kernel(what: string): KernelSocket {
    if (this.closed) throw new SocketError("EBADF");
    const kernel = this.kernelSocket;
    if (kernel !== undefined) return kernel;
    throw new SocketError(
      "ERR_UNSUPPORTED",
      `${what}: this socket has no kernel behind it; one of socklet/emulator has`,
    );
  }
}
