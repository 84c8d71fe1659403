/**
 * How bytes come out of the kernel: into one buffer that all connections share.
 *
 * Node's own way takes new memory for each read, makes a Buffer of it and carries that through a Readable. Here the
 * kernel writes into memory that is there already, and what came is lent to the reader, which copies what a read wants
 * of it, or is given the memory where that is a whole buffer. So a connection that is idle holds none, and a small
 * message costs a copy of its own length and nothing else.
 *
 * For what is dialled `onread`, net.Socket's option, is the documented way: `IntakeSocket`. For what is accepted, of
 * which Node makes a socket itself, see handle-transport.ts.
 */

import net from "node:net";
import type { Lender } from "../../core/bytes/reader.ts";
import { lazy } from "../builtin.ts";

const SIZE = 256 * 1024; // bytes of one read. Node's own reads take 64 KiB
const LARGE = SIZE / 4; // bytes that are worth more than a copy: a quarter of the memory that is given away with them

// ---- Memory that is given away ----

const ROUND = 24 * 1024 * 1024; // bytes given away from one young collection to the next: V8 counts those of two, as it frees them later
const WIDEST = 8 * 1024 * 1024; // bytes of a young generation that is filled: a larger one costs what it saves, and arrays above 128 KiB lie elsewhere
const WORD = 8; // bytes of an array's element

const litter: { last: unknown } = { last: undefined };
let litterPerByte = 0; // elements of it for each byte given away
let untilLook = 0; // bytes to be given away until the young generation is looked at again

/** How much litter it takes that the young generation is full after each `ROUND`. */
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
 * New memory of `size` bytes, a quarter of a MiB at most, for bytes that are given away: for good, so it is free
 * when a collection finds that nobody has it. V8 begins a *full* one after each 64 MiB of such memory: 5 to 10 ms of
 * CPU, whatever was found. One of the young generation frees the same in 0.2 ms; but it begins when that is full, and
 * these buffers, which are outside, do not fill it. So each buffer leaves some litter there. (Measured: 256 KiB
 * take 38 µs of CPU without, 9 with it; 5 page faults a MiB in place of 20, as less is freed at once.)
 */
const fresh = (size: number): Uint8Array => {
  untilLook -= size;
  if (untilLook < 0) {
    untilLook = ROUND;
    litterPerByte = look();
  }
  if (litterPerByte > 0) {
    litter.last = new Array(Math.trunc(litterPerByte * size));
    litter.last = undefined; // what survives makes the young generation grow
  }
  // Not zeroed: only what is written into it is ever seen. Not of Buffer's pool: it is given away.
  const { buffer } = Buffer.allocUnsafeSlow(size);
  return new Uint8Array(buffer, 0, size);
};

/** The buffer that all sockets of this thread read into: the kernel's read and the callback that empties it are one step. */
let common: Uint8Array | undefined;

/** Takes what a socket reads. */
export interface Taker {
  took(bytes: Uint8Array, lender: Lender): void;
}

let view: Uint8Array | undefined; // the last that was lent of it

/** The memory that one connection reads into, and lends. */
export class Intake implements Lender {
  #waits: Uint8Array; // into what it reads while it waits: the common buffer, or the first of it
  #into: Uint8Array; // into what the next read goes
  #from: Uint8Array; // where those bytes are that are lent
  #size = 0; // how many those are

  constructor() {
    common ??= fresh(SIZE);
    this.#waits = this.#into = this.#from = common;
  }

  /** Into what the next read goes. */
  get into(): Uint8Array {
    return this.#into;
  }

  /** So many bytes came into it: those bytes, which are lent. */
  protected lent(size: number): Uint8Array {
    const from = this.#into;
    this.#size = size;
    this.#from = from;
    if (size === from.length) return from;
    // A connection that does not fill its buffer waits for more without one of its own.
    this.#into = this.#waits;
    if (from !== common) return from.subarray(0, size);
    if (view?.length !== size) view = from.subarray(0, size); // messages are most often as long as the last
    return view;
  }

  /** Gives away what holds much, and is this connection's own; one that reads much has its own for the next. */
  give(): boolean {
    if (this.#size < LARGE) return false;
    if (this.#size === this.#from.length) this.#into = fresh(SIZE);
    return this.#from.buffer !== (common as Uint8Array).buffer;
  }

  copy(bytes: Uint8Array): Uint8Array {
    const copy = fresh(bytes.length);
    copy.set(bytes);
    return copy;
  }

  /** What `recvInto()` cannot take at once would be copied twice. */
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

/** A socket whose bytes come to its `taker`, while it is read; before there is one, nothing may be. */
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

/** `on` is false where the environment says `SOCKLET_INTAKE=off`: then sockets are Node's own, and read by 'data'. Tests set it. */
export const intake = { on: process.env.SOCKLET_INTAKE !== "off" };

/** A socket that is not connected: of ours, where that is on. */
export const unconnected = (options: net.SocketConstructorOpts): net.Socket =>
  intake.on ? new IntakeSocket(options) : new net.Socket(options);
