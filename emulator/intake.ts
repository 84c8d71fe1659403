/**
 * How bytes come out of the kernel: into one buffer that all connections share.
 *
 * Node's own way takes new memory for each read, makes a Buffer of it and carries that through a Readable. Here the
 * kernel writes into memory that is there already, and what came is lent to the reader, which copies what a read wants
 * of it, or is given the memory where that is a whole buffer. So a connection that is idle holds none, and a small
 * message costs a copy of its own length and nothing else.
 *
 * For what is dialled `onread`, net.Socket's option, is the documented way: `IntakeSocket`. For what is accepted, of
 * which Node makes a socket itself, see handle.ts.
 */

import net from "node:net";
import type { Lender } from "../core/stream.ts";

// Bytes of one read. Node's own reads take 64 KiB; four times as much at once is what makes up for taking new memory
// (measured, bulk echo: CPU 1.65 of bare Node's with 64 KiB, 1.25 with 128, 0.98 with 256).
const SIZE = 256 * 1024;
const LARGE = SIZE / 4; // bytes that are worth more than a copy: a quarter of the memory that is given away with them

/** The buffer that all sockets of this thread read into: the kernel's read and the callback that empties it are one step. */
let common: Uint8Array | undefined;

const fresh = (): Uint8Array => {
  // Not zeroed: only what the kernel has written is ever seen. Not of Buffer's pool: it may be given away.
  const { buffer } = Buffer.allocUnsafeSlow(SIZE);
  return new Uint8Array(buffer, 0, SIZE);
};

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
    common ??= fresh();
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
    if (this.#size === this.#from.length) this.#into = fresh();
    return this.#from.buffer !== (common as Uint8Array).buffer;
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
