/**
 * The one error class, and the one table of its codes.
 *
 * A caller matches on `code`, never on the message. A code is POSIX's where POSIX has one (errno(3)), and
 * `ERR_…` if it has none. A wrong argument is not a `SocketError`: it is a `TypeError` or a `RangeError`,
 * thrown at once.
 */

import { describe, isA, peek, printable } from "./describe.ts";

/** Every code: `code: [errno on Linux, or 0 if POSIX has none; what it means]`. */
const CODES = {
  // What a peer, a path or the kernel did.
  ECONNREFUSED: [111, "the connection was refused: nothing listens there"],
  ECONNRESET: [104, "the peer reset the connection"],
  ECONNABORTED: [103, "the connection was aborted on this side"],
  EPIPE: [32, "this side was shut down, or the peer is gone"],
  ETIMEDOUT: [110, "the operation timed out"],
  EHOSTUNREACH: [113, "there is no route to that host"],
  ENETUNREACH: [101, "that network cannot be reached"],
  EADDRINUSE: [98, "that address is in use"],
  EADDRNOTAVAIL: [99, "that address does not belong to this machine"],
  EACCES: [13, "this process may not use that address"],
  ENOENT: [2, "there is nothing at that path"],
  ENOTDIR: [20, "a part of that path is not a folder"],
  EROFS: [30, "that file system is read-only"],
  ENODEV: [19, "this machine has no such network interface"],
  ENETDOWN: [100, "the network interface is down"],
  EMFILE: [24, "this process has no file descriptors left"],
  ENFILE: [23, "this machine has no file descriptors left"],
  EPERM: [1, "this process may not do that"],
  // Calls at the wrong moment.
  EBADF: [9, "the socket is closed"],
  ECANCELED: [125, "the socket was closed while this call waited"],
  ENOTCONN: [107, "the socket is not connected"],
  EWOULDBLOCK: [11, "this call would have to wait"],
  EINPROGRESS: [115, "a connection is being made; wait until the socket is writable"],
  EALREADY: [114, "a connection is already being made"],
  EISCONN: [106, "the socket is already connected"],
  EDESTADDRREQ: [89, "an address to send to is needed"],
  EBUSY: [16, "another call of this kind is already waiting"],
  // Things that do not fit.
  EMSGSIZE: [90, "the message is larger than the transport can carry"],
  ENOBUFS: [105, "too much output is waiting; await flush() between writes"],
  EAFNOSUPPORT: [97, "the address family is not supported"],
  EPROTONOSUPPORT: [93, "a socket of this kind has no such protocol"],
  EPROTOTYPE: [91, "the socket at that path is of another type"],
  EOPNOTSUPP: [95, "a socket of this kind cannot do that"],
  ENOPROTOOPT: [92, "there is no such option at that level"],
  ENOTSOCK: [88, "that descriptor is not a socket"],
  EILSEQ: [84, "the bytes are not valid text in that encoding"],
  EINVAL: [22, "an argument is not valid here"],
  // Errors that POSIX has no number for.
  ERR_NAME: [0, "the name could not be resolved"],
  ERR_INVALID_ADDRESS: [0, "the text or the bytes are not an address"],
  ERR_CONNECT_FAILED: [0, "the connection failed; the platform does not say why"],
  ERR_INCOMPLETE_READ: [0, "the stream ended before the requested bytes"],
  ERR_LIMIT: [0, "a limit was exceeded"],
  ERR_REFUSED: [0, "the request was refused"],
  ERR_CALL_LOST: [0, "the connection was lost during the call, which may have been carried out"],
  ERR_HANDED_OVER: [0, "the connection was handed over to toWeb(); use that socket"],
  ERR_TLS: [0, "the TLS handshake failed"],
  ERR_PROXY: [0, "the PROXY protocol header is missing or wrong"],
  ERR_APP: [0, "the app is not valid"],
  ERR_HANDLER: [0, "the handler failed"],
  ERR_INTERNAL: [0, "something failed inside Socklet or its platform"],
  ERR_PLATFORM: [0, "the platform lost the request; try again"],
  ERR_UNSUPPORTED: [0, "this platform cannot do that"],
} as const satisfies Record<string, readonly [errno: number, meaning: string]>;

/** A code of the table above. */
export type SocketErrorCode = keyof typeof CODES;

/** What a `SocketError` can carry besides its code and message. */
export interface SocketErrorDetails {
  /** The address concerned, as text (`"127.0.0.1:25"`, `"unix:/run/x"`). */
  readonly address?: string | undefined;
  /** The platform's own error. */
  readonly cause?: unknown;
  /** The error number, if it is not that of the code: the reason that a name failed (`EAI_NONAME`). */
  readonly errno?: number | undefined;
}

/**
 * An error of a socket, a server or a name. CPython's `OSError`.
 *
 * - `code`: what to match on.
 * - `errno`: Linux's number for that code, `0` if it has none; for a name the reason that it failed, such as `EAI_NONAME`
 *   (CPython's `OSError.errno`).
 * - `address`: the address concerned, as text, or `undefined`.
 * - `cause`: the platform's own error, if there is one.
 */
export class SocketError extends Error {
  readonly code: SocketErrorCode;
  readonly address: string | undefined;
  readonly errno: number;

  constructor(code: SocketErrorCode, message?: string, details: SocketErrorDetails = {}) {
    super(
      // It may quote a peer, so it is made safe to print here.
      `${code}: ${message === undefined ? CODES[code][1] : printable(message, true)}`,
      details.cause === undefined ? undefined : { cause: details.cause },
    );
    this.code = code;
    this.address = details.address;
    this.errno = details.errno ?? CODES[code][0];
  }

  static {
    SocketError.prototype.name = "SocketError";
  }

  /** Whether `code` is in the table. */
  static isCode(code: unknown): code is SocketErrorCode {
    return typeof code === "string" && Object.hasOwn(CODES, code);
  }

  /** `thrown` itself if it is a `SocketError`. Otherwise a new one for it, with its own code if that is in the table, else `fallback`. */
  static from(thrown: unknown, fallback: SocketErrorCode, address?: string): SocketError {
    if (isSound(thrown)) return thrown;
    const own = peek(thrown, "code");
    if (SocketError.isCode(own)) {
      // The table's sentence: the platform's message says no more than the code. It stays available as the cause.
      const message = address === undefined ? undefined : `${address}: ${CODES[own][1]}`;
      return new SocketError(own, message, { address, cause: thrown });
    }
    return new SocketError(fallback, describe(thrown).message, { address, cause: thrown });
  }
}

/** Whether `thrown` is a `SocketError` whose code and message can be read. */
const isSound = (thrown: unknown): thrown is SocketError =>
  isA(thrown, SocketError) &&
  SocketError.isCode(peek(thrown, "code")) &&
  typeof peek(thrown, "message") === "string";

/** An error as a record shows it: its code, or `fallback` if that is not in the table, and its message. */
export const errorInfo = (
  thrown: unknown,
  fallback: SocketErrorCode,
  most?: number,
): { readonly code: SocketErrorCode; readonly message: string } => {
  const { code, message } = describe(SocketError.from(thrown, fallback), most);
  return { code: code as SocketErrorCode, message };
};

/** The result of CPython's `connect_ex`: 0, the errno of the failure, or its code if Linux has no number. A name's error is thrown. */
export const errnoOf = async (connecting: Promise<void>): Promise<number | SocketErrorCode> => {
  try {
    await connecting;
    return 0;
  } catch (error) {
    if (!(error instanceof SocketError) || error.code === "ERR_NAME") throw error;
    return error.errno || error.code;
  }
};
