/**
 * Reads bytes from the kernel into one buffer that all connections share.
 *
 * Node allocates memory for each read, makes a Buffer of it, and passes that through a Readable. Here the
 * kernel writes into existing memory, and the bytes are lent to the reader. The reader copies what a read takes,
 * or keeps the memory if it is a whole buffer. So an idle connection holds no buffer, and a small message costs
 * one copy of its own length and nothing else.
 *
 * Dialled connections use `IntakeSocket`, by `onread`, a documented option of net.Socket. Node itself makes the sockets of
 * accepted connections; see handle-transport.ts for those.
 */

import net from "node:net";
import type { Bytes } from "../../../core/bytes/data.ts";
import type { Lender } from "../../../core/bytes/reader.ts";
import { lazy } from "../../builtin.ts";
import { runtime } from "../../runtime.ts";

const SIZE = 256 * 1024; // bytes of one read. Node's own reads take 64 KiB
const LARGE = SIZE / 4; // bytes from which giving the buffer away is cheaper than a copy

// ---- Memory that is given away ----

const ROUND = 24 * 1024 * 1024; // bytes given away between two young collections: V8 counts those of two, because it frees them later
const WIDEST = 8 * 1024 * 1024; // bytes of the largest young generation that is filled: filling a larger one costs as much as it saves, and arrays above 128 KiB are allocated elsewhere
const WORD = 8; // bytes of an array's element

const litter: { last: unknown } = { last: undefined };
let litterPerByte = 0; // array elements for each byte given away
let untilLook = 0; // bytes to give away before the size of the young generation is checked again

/** How much litter fills the young generation once in each `ROUND`. */
const look = (): number => {
  try {
    const young = lazy.v8.getHeapSpaceStatistics().find(({ space_name }) => space_name === "new_space");
    const size = young === undefined ? 0 : young.space_used_size + young.space_available_size;
    return size > WIDEST ? 0 : size / WORD / ROUND;
  } catch {
    return 0; // not V8
  }
};

/**
 * New memory of `size` bytes, at most a quarter of a MiB, for bytes that are given away for good. It is freed when a garbage
 * collection finds that nobody holds it. V8 starts a *full* collection after each 64 MiB of such memory, which takes 5 to
 * 10 ms of CPU whatever it finds. A collection of the young generation frees the same memory in 0.2 ms, but starts only when
 * that generation is full, and these buffers lie outside it. So each buffer leaves some litter in it. (Measured: 256 KiB take
 * 38 µs of CPU without litter, 9 µs with it; and 5 page faults a MiB in place of 20, since less is freed at once.)
 */
export const fresh = (size: number): Uint8Array<ArrayBuffer> => {
  untilLook -= size;
  if (untilLook < 0) {
    untilLook = ROUND;
    litterPerByte = look();
  }
  if (litterPerByte > 0) {
    litter.last = new Array(Math.trunc(litterPerByte * size));
    litter.last = undefined; // survivors would make the young generation grow
  }
  // Not zeroed, since only what is written into it is ever seen. Not from Buffer's pool, since it is given away.
  const { buffer } = Buffer.allocUnsafeSlow(size);
  return new Uint8Array(buffer, 0, size);
};

/** The buffer that all sockets of this thread read into. The callback that empties it runs right after each read. */
let common: Uint8Array | undefined;

/** Takes what a socket reads. */
export interface Taker {
  took(bytes: Uint8Array, lender: Lender): void;
}

let view: Uint8Array | undefined; // the last view that was lent

// Bytes are lent while one call runs. So what is lent now is known here, and no connection has fields for it.
let lender: Intake | null = null; // who lent last
let lentFrom: Uint8Array = new Uint8Array(0); // where the lent bytes are
let lentSize = 0; // how many bytes are lent

/** The memory that one connection reads into, and lends. */
export class Intake implements Lender {
  #waits: Uint8Array; // the buffer while it waits for input: the common one, or its beginning
  #into: Uint8Array; // the buffer for the next read

  constructor() {
    common ??= fresh(SIZE);
    this.#waits = this.#into = common;
  }

  /** The buffer for the next read. */
  get into(): Uint8Array {
    return this.#into;
  }

  /** Lends the `size` bytes that were read. */
  protected lent(size: number): Uint8Array {
    const from = this.#into;
    lender = this;
    lentFrom = from;
    lentSize = size;
    if (size === from.length) return from;
    // A connection that did not fill its buffer waits without a buffer of its own.
    this.#into = this.#waits;
    if (from !== common) return from.subarray(0, size);
    if (view?.length !== size) view = from.subarray(0, size); // most messages have the same length as the one before
    return view;
  }

  /** Gives the buffer away if it holds much and belongs to this connection. A filled one is replaced for the next read. */
  give(): boolean {
    // If another connection lends meanwhile, within the call that these bytes were lent for, they are copied.
    if (lentSize < LARGE || lender !== this) return false;
    if (lentSize === lentFrom.length) this.#into = fresh(SIZE);
    return lentFrom.buffer !== (common as Uint8Array).buffer;
  }

  copy(bytes: Uint8Array): Bytes {
    const copy = fresh(bytes.length);
    copy.set(bytes);
    return copy;
  }

  /** Reads no more than `recvInto()` takes at once: the rest would be copied twice. */
  fit(size: number): void {
    const least = Math.max(size, LARGE);
    if (least >= SIZE || least === this.#waits.length) return;
    this.#waits = this.#into = (common as Uint8Array).subarray(0, least);
  }
}

/** The two callbacks of `onread`. */
class OnRead extends Intake {
  taker: Taker | null = null;

  readonly buffer = (): Uint8Array => this.into;

  readonly callback = (size: number): boolean => {
    this.taker?.took(this.lent(size), this);
    return true;
  };
}

/** A socket whose bytes go to its `taker`. It must not be read before it has one. */
export class IntakeSocket extends net.Socket {
  readonly #onread: OnRead;

  constructor(options: net.SocketConstructorOpts) {
    const onread = new OnRead();
    super({ ...options, onread } as net.SocketConstructorOpts);
    this.#onread = onread;
  }

  set taker(taker: Taker | null) {
    this.#onread.taker = taker;
  }
}

/** `on` is false with `SOCKLET_INTAKE=off` in the environment, and on other runtimes than Node; sockets then are Node's own, read by 'data'. Tests set it. */
export const intake = { on: runtime === "Node" && process.env.SOCKLET_INTAKE !== "off" };

/** An unconnected socket: an `IntakeSocket`, unless intake is off. */
export const unconnected = (options: net.SocketConstructorOpts): net.Socket =>
  intake.on ? new IntakeSocket(options) : new net.Socket(options);
