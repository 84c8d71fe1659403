/** Shared by readers and writers: bytes and text, the limits of a stream, why it fails, and the observers of a change. */

import { SocketError, type SocketErrorCode } from "../errors.ts";
import { wholeMs } from "../options.ts";
import { deadline } from "./alarm.ts";

/** Bytes, or text that is sent as UTF-8. */
export type Data = Uint8Array | string;

/** What a read gives: bytes in memory that is not shared between threads, as `crypto.subtle.digest()` and the Web platform's other functions want it. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** A value, or the promise of one: the result of something that may be asynchronous. */
export type MaybePromise<T> = T | PromiseLike<T>;

/** What happens to a connection whose peer reads too slowly. */
export type WhenSlow = "cut" | "throw";

/** Limits of one stream. Sizes are bytes. */
export interface StreamLimits {
  /** The longest line that `line()` and `readline()` return. Default 65 536, as in CPython's http.server and asyncio. */
  readonly maxLine: number;
  /** The most that one `read()`, `readexactly()` or `readuntil()` gathers. Default 64 MiB: a length that a peer made up must not fill the memory. */
  readonly maxRead: number;
  /** The most output that may wait for a peer; `whenSlow` says what happens to more. Default 16 MiB. */
  readonly maxPending: number;
  /**
   * What happens on a write while more than `maxPending` bytes wait already. `"cut"`: the connection is reset, and its
   * own handler gets `ENOBUFS`; `write()` drops its data and returns, since its caller may be another
   * connection's handler. `"throw"`: `write()` throws `ENOBUFS`, and the connection stays. Default `"cut"`: one slow reader
   * in a broadcast must harm nobody else.
   */
  readonly whenSlow: WhenSlow;
  /** Bytes a second that a peer must take while output waits for it, on average over a time-out of writing (at a close: `closeTimeout`). Default 0: any byte in that time will do. */
  readonly minWriteRate: number;
}

/** The defaults of `StreamLimits`. */
export const STREAM_LIMITS: StreamLimits = {
  maxLine: 65_536,
  maxRead: 64 * 1024 * 1024,
  maxPending: 16 * 1024 * 1024,
  whenSlow: "cut",
  minWriteRate: 0,
};

export const KEEP = 4; // a piece smaller than a quarter of its backing memory is copied out, so that keeping it keeps no more
const SLAB = 8 * 1024; // bytes of memory that small pieces share: new memory for each costs more than its copy
export const SHARED = SLAB / KEEP / 2; // bytes; a larger piece has memory of its own. Of one that is shared, what is given away is copied

export const EMPTY = new Uint8Array(0);
// The class is not named: a project for Node has it as a value, but not as a type.
export const encoder: Pick<InstanceType<typeof TextEncoder>, "encode" | "encodeInto"> = new TextEncoder();
const { slice: sliceOf } = Uint8Array.prototype;

/** A resolved promise, returned when there is nothing to wait for. */
export const DONE: Promise<void> = Promise.resolve();

let slab = EMPTY;
let slabUsed = 0;

/** Memory of `size` bytes, which nothing else writes into. */
export const memory = (size: number): Bytes => {
  if (size > SHARED) return new Uint8Array(size);
  if (slabUsed + size > slab.length) {
    slab = new Uint8Array(SLAB);
    slabUsed = 0;
  }
  slabUsed += size;
  return slab.subarray(slabUsed - size, slabUsed);
};

/** The bytes of `data`: itself, or its UTF-8. */
export const toBytes = (data: Data): Uint8Array => {
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof Uint8Array) return data;
  throw new TypeError(`expected a Uint8Array or a string, not ${data === null ? "null" : typeof data}`);
};

/** A copy of `bytes`. A Node Buffer's own `slice()` copies nothing. */
export const copyOf = (bytes: Uint8Array, from?: number, to?: number): Bytes =>
  sliceOf.call(bytes, from, to) as Bytes;

/** `parts` in one array of `size` bytes. */
export const joinBytes = (parts: readonly Uint8Array[], size: number): Bytes => {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};

/** Why a stream has failed: an error, or the code of one that is made when it is reported (its stack costs 7 µs, and most errors are never reported). */
export type Failure = SocketError | SocketErrorCode;

export const errorOf = (failure: Failure): SocketError =>
  typeof failure === "string" ? new SocketError(failure) : failure;

export const positive = (size: number, name: string): number => {
  if (!Number.isInteger(size)) throw new TypeError(`${name} must be a whole number of bytes, not ${size}`);
  if (size < 0) throw new RangeError(`${name} must be 0 or more, not ${size}`);
  return size;
};

/** Observers of a change, besides the calls that wait for it: `select()` and `poll()`. */
export class Watchers {
  #told: readonly (() => void)[] = [];

  /** Calls `told` at each change. Returns a function that stops that. */
  add(told: () => void): () => void {
    this.#told = [...this.#told, told];
    return () => {
      this.#told = this.#told.filter((other) => other !== told);
    };
  }

  tell(): void {
    for (const told of this.#told) told();
  }
}

/** `promise`, or a rejection with `ETIMEDOUT` that names `what` if it takes longer than `timeout` ms. */
export const withDeadline = <T>(promise: PromiseLike<T>, timeout: number, what: string): Promise<T> => {
  const late = Promise.withResolvers<never>();
  const over = (): void => late.reject(new SocketError("ETIMEDOUT", `${what} for ${wholeMs(timeout)}`));
  return Promise.race([promise, late.promise]).finally(deadline(timeout, over));
};
