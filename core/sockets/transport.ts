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
  /** Calls `told` when one has arrived. Returns a function that stops it. */
  onUrgent(told: () => void): () => void;
}

/** The calls by which a transport reports. After `end` or `error` it may call only `error`. */
export interface StreamSink {
  /** The least number of bytes that the waiting read still needs; 0 if none waits. */
  readonly needed: number;
  /** How many written bytes are gathered, and not yet passed to `write`. For a transport that can tell cheaply when they have left. */
  readonly gathered?: number;
  /** Bytes have arrived; the socket owns them now. Returns true while a read still waits for more. */
  data(bytes: Uint8Array): boolean;
  /** The same for bytes that are lent until this returns. A sink without this method gets a copy in `data`. */
  lend?(bytes: Uint8Array, lender: Lender): boolean;
  /** The peer sends no more. */
  end(): void;
  /** The connection is broken. */
  error(error: SocketError): void;
}

/**
 * The seam: what a platform implements for one connection. It buffers only what it must, never throws, and keeps no state that the
 * socket already keeps (the socket calls `end` and `close` once, and `write` only while it is open).
 */
export interface StreamTransport {
  /** This side's address; `null` if the platform does not provide them. */
  readonly localAddress: Address | null;
  /** The peer's. */
  readonly remoteAddress: Address | null;
  /** What this place can do. */
  readonly capabilities: Capabilities;
  /** Reports to `sink` from now on. Called once, before everything else, and again when `toWeb()` hands the connection over. */
  start(sink: StreamSink): void;
  /** A read waits: bring bytes. */
  resume(): void;
  /** Bring no more until `resume()`; bytes that are already on their way may still come. */
  pause(): void;
  /**
   * Takes bytes or UTF-8 text, in order. If too much waits already, it returns a promise that resolves when there is room; it never
   * rejects, and it also resolves when the connection ends. Bytes of 16 KiB and more may belong to the caller, who may change them once
   * the promise has resolved, or at once if there is none.
   */
  write(data: Data): Promise<void> | undefined;
  /** The same for less than 16 KiB, which belong to the caller again when this returns. If absent, `write` gets copies. */
  borrow?(bytes: Uint8Array): Promise<void> | undefined;
  /**
   * How many bytes `write` has taken that the kernel (or whatever is behind this) has not; once the connection is over, how many never
   * left. If the platform does not report how much of a write has left, large writes are passed on in pieces.
   */
  readonly unsent: number;
  /** How many bytes have left that the peer's kernel has not acknowledged; `null` if that cannot be known now. It may be slow. */
  unacknowledged?(): number | null;
  /** Sends the end after everything that was written. Resolves when it is on its way, rejects if it cannot be sent. */
  end(): Promise<void>;
  /**
   * Closes the connection, after `end()` has resolved. What the peer still sends is read and dropped for a while, because a reset in
   * answer to it could overtake our last bytes. Returns a promise if the process must not end before that is done.
   */
  close(): void | Promise<void>;
  /** `end()` and `close()` in one, if neither needs to wait: everything written has left, and the peer has ended. Returns false if that is not so; then nothing was done. */
  leave?(): boolean;
  /** Closes at once, with a reset if the platform can send one. */
  abort(): void;
  /**
   * Secures the connection, once everything written has left and nothing is being read. Resolves to the transport to use from then on;
   * this one is not used again. Rejects with `ERR_TLS`. Absent if there is no TLS.
   */
  startTls?(options: StartTlsOptions): Promise<StreamTransport>;
  /** What is known about a secured connection. Absent on a plain one. */
  readonly tls?: TlsInfo | undefined;
  /** Runs `task` once, when this turn's work is done: the end of the tick for which output is gathered. */
  defer(task: () => void): void;
  /** The descriptor, and what can be done with it; absent if there is none. */
  readonly kernel?: KernelSocket | undefined;
  /** Whether one timer may serve many connections. If absent, each has its own. */
  readonly sharesTimers?: boolean;
}
