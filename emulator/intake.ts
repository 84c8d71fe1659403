/**
 * How bytes come out of the kernel: `IntakeSocket`, a `net.Socket` that reads into one buffer that all share.
 *
 * Node's own way takes new memory for each read, makes a Buffer of it and carries that through a Readable. With
 * `onread` (net.Socket's option) the kernel writes into memory that is there already, and what came is lent to the
 * reader, which copies what a read wants of it, or is given the memory where that is a whole buffer. So a connection
 * that is idle holds none, and a small message costs a copy of its own length and nothing else.
 *
 * For what is dialled, `onread` is documented. A socket that was accepted Node makes itself, without a way to say so:
 * `acceptInto()` has the listener's handle make ours. What it uses of Node is looked at first; where it is not there,
 * Node's own sockets are accepted, and read by 'data'.
 */

import net from "node:net";
import type { Lender } from "../core/stream.ts";
import { channel } from "./builtin.ts";

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

/** The two callbacks of `onread`, and the memory that is lent. */
class Intake implements Lender {
  taker: Taker | null = null;
  #waits: Uint8Array; // into what it reads while it waits: the common buffer, or the first of it
  #into: Uint8Array; // into what the next read goes
  #from: Uint8Array; // where those bytes are that are lent
  #size = 0; // how many those are

  constructor() {
    common ??= fresh();
    this.#waits = this.#into = this.#from = common;
  }

  readonly buffer = (): Uint8Array => this.#into;

  readonly callback = (size: number, from: Uint8Array): boolean => {
    this.#size = size;
    this.#from = from;
    // A connection that does not fill its buffer waits for more without one of its own.
    if (size < from.length) this.#into = this.#waits;
    this.taker?.took(size === from.length ? from : from.subarray(0, size), this);
    return true;
  };

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

/** A socket whose bytes come to its `taker`, while it is read; before there is one, nothing may be. */
export class IntakeSocket extends net.Socket {
  readonly #intake: Intake;

  constructor(options: net.SocketConstructorOpts) {
    const onread = new Intake();
    super({ ...options, onread } as net.SocketConstructorOpts);
    this.#intake = onread;
  }

  set taker(taker: Taker | null) {
    this.#intake.taker = taker;
  }
}

/** `on` is false where the environment says `SOCKLET_INTAKE=off`: then sockets are Node's own, and read by 'data'. Tests set it. */
export const intake = { on: process.env.SOCKLET_INTAKE !== "off" };

/** A socket that is not connected: of ours, where that is on. */
export const unconnected = (options: net.SocketConstructorOpts): net.Socket =>
  intake.on ? new IntakeSocket(options) : new net.Socket(options);

/** What a listener's handle calls for each connection. */
type OnConnection = (this: unknown, error: number, handle: AcceptedHandle) => void;
interface AcceptedHandle {
  readonly useUserBuffer?: unknown;
  setNoDelay?(on: boolean): unknown;
  setKeepAlive?(on: boolean, seconds: number): unknown;
}

const accepted = channel("net.server.socket"); // as Node's own

/**
 * From now on what `server` accepts, which listens, are `IntakeSocket`s, unread, with half-open ends allowed. Does
 * nothing where this Node has not what that takes: then it accepts Node's own sockets.
 */
export const acceptInto = (server: net.Server): void => {
  const inner = server as unknown as {
    readonly _handle?: { onconnection?: OnConnection } | null;
    _connections?: number;
    readonly noDelay?: boolean;
    readonly keepAlive?: boolean;
    readonly keepAliveInitialDelay?: number; // seconds
  };
  const handle = inner._handle;
  const own = handle?.onconnection;
  if (!intake.on || !handle || typeof own !== "function" || typeof inner._connections !== "number") return;
  handle.onconnection = function (error, client) {
    if (error !== 0 || typeof client?.useUserBuffer !== "function") {
      own.call(this, error, client);
      return;
    }
    const socket = new IntakeSocket({
      handle: client,
      allowHalfOpen: true,
      manualStart: true,
    } as unknown as net.SocketConstructorOpts);
    if (inner.noDelay) client.setNoDelay?.(true);
    if (inner.keepAlive) client.setKeepAlive?.(true, inner.keepAliveInitialDelay ?? 0);
    (inner._connections as number)++;
    Object.assign(socket, { server, _server: server }); // so that the server's own close waits for it
    server.emit("connection", socket);
    if (accepted.hasSubscribers) accepted.publish({ socket });
  };
};
