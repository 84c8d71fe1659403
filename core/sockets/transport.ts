/**
 * The seam between a stream socket and its platform, `StreamTransport`: what a platform has to implement for one connection.
 */

import type { Data } from "../bytes/data.ts";
import type { Lender } from "../bytes/reader.ts";
import type { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import type { StartTlsOptions, TlsInfo } from "./tls/tls.ts";

/** What this place can do that others may not. */
export interface Capabilities {
  /** `abort()` reaches the peer as a reset, not as an end. */
  readonly reset: boolean;
  /** `getpeername()` tells the peer's address. */
  readonly peername: boolean;
}

/**
 * What a platform can ask the kernel about one socket, by its descriptor, which only Node has. Each call throws `SocketError` with the
 * kernel's own code, and `ERR_UNSUPPORTED` if it needs a package that is not installed.
 */
export interface KernelSocket {
  /** The descriptor; -1 if there is none any longer. */
  readonly fd: number;
  /** An option's value as an integer, or its bytes, at most `length` of them. getsockopt(2) */
  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  setsockopt(level: number, name: number, value: number | Uint8Array): void;
  /** Sends directly, once everything written before has left the platform's buffer. Returns how many bytes the kernel took. send(2) */
  send(bytes: Uint8Array, flags: number): Promise<number>;
  /** Receives directly and at once. Throws `EWOULDBLOCK`, and `EINVAL` if there is no urgent byte. recv(2) */
  recv(size: number, flags: number): Uint8Array;
  /** Releases the socket without ending it, and returns a descriptor of it, which the caller then owns. */
  detach(): number;
  /** Whether an urgent byte waits (`POLLPRI`). */
  readonly urgent: boolean;
  /** Calls `told` when one has arrived. Returns what stops it. */
  onUrgent(told: () => void): () => void;
}

/** What the transport calls. After `end` or `error` it may call only `error`. */
export interface StreamSink {
  /** How many bytes the read that waits still needs at least; 0 if none waits. */
  readonly needed: number;
  /** Bytes came; they are the socket's now. Gives true while a read still waits for more. */
  data(bytes: Uint8Array): boolean;
  /** The same of bytes that are lent until this returns. Where a sink has no word for that, a copy is given to `data`. */
  lend?(bytes: Uint8Array, lender: Lender): boolean;
  /** The peer sends no more. */
  end(): void;
  /** The connection is broken. */
  error(error: SocketError): void;
}

/**
 * The seam: what a platform implements for one connection. It buffers only what it must, throws nothing, and keeps no state that the
 * socket keeps (the socket calls `end` and `close` once, and `write` only while it is open).
 */
export interface StreamTransport {
  /** This side's address; `null` if the platform does not provide them. */
  readonly localAddress: Address | null;
  /** The peer's. */
  readonly remoteAddress: Address | null;
  /** What this place can do. */
  readonly capabilities: Capabilities;
  /** From now on, tell `sink`. Called once, before all else; again when `toWeb()` hands the connection over. */
  start(sink: StreamSink): void;
  /** A read waits: bring bytes. */
  resume(): void;
  /** Bring no more until `resume()`; what is under way may still come. */
  pause(): void;
  /**
   * Takes bytes or UTF-8 text, in order. If too much waits already, it returns a promise that resolves when there is room; it never
   * rejects, and it also resolves when the connection ends. Bytes of 16 KiB and more may belong to the caller, who may change them once
   * the promise has resolved, or at once if there is none.
   */
  write(data: Data): Promise<void> | undefined;
  /** The same of fewer bytes than 16 KiB, which are the caller's again when this returns. Absent: `write` is given copies. */
  borrow?(bytes: Uint8Array): Promise<void> | undefined;
  /**
   * How many bytes `write` has taken that the kernel (or whatever is behind this) has not; once the connection is over, how many never
   * left. If the platform does not tell how much of a write has left, large writes are passed on in pieces.
   */
  readonly unsent: number;
  /** How many bytes have left that the peer's kernel has not acknowledged; `null` where that cannot be known now. It may be slow. */
  unacknowledged?(): number | null;
  /** Sends the end after all that was written. Resolves when it is on its way, rejects when it cannot be. */
  end(): Promise<void>;
  /**
   * Closes the connection, after `end()` has resolved. What the peer still sends is read and dropped for a while, because a reset in
   * answer to it could overtake our last bytes. Returns a promise if the process must not end before that is over.
   */
  close(): void | Promise<void>;
  /** `end()` and `close()` in one, where neither need wait: all that was written has left, and the peer has ended. False: it is not so, and nothing was done. */
  leave?(): boolean;
  /** Lets go at once: by a reset where the platform can. */
  abort(): void;
  /**
   * Secures the connection, once everything written has left and nothing is being read. Resolves to the transport that goes on with it;
   * this one is not used again. Rejects with `ERR_TLS`. Absent if there is no TLS.
   */
  startTls?(options: StartTlsOptions): Promise<StreamTransport>;
  /** What is known of a secured connection. Absent: it is plain. */
  readonly tls?: TlsInfo | undefined;
  /** Runs `task` once, when this turn's work is done: the end of the tick for which output is gathered. */
  defer(task: () => void): void;
  /** The descriptor and what is done by it; absent if there is none. */
  readonly kernel?: KernelSocket | undefined;
  /** One timer may serve many connections. Absent: each has its own. */
  readonly sharesTimers?: boolean;
}
