/** The other end of a handler's connection in one run: it takes one step after the other, and keeps the answers. */

import { type Data, DONE, joinBytes, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { Address } from "../../net/address.ts";
import type { Capabilities, StreamSink, StreamTransport } from "../../sockets/transport.ts";

export const PEER: Address = { family: "IPv4", hostname: "192.0.2.1", port: 49_152 }; // RFC 5737: an address for documentation
export const HERE: Address = { family: "IPv4", hostname: "192.0.2.2", port: 7 };

export const EMPTY = new Uint8Array(0);

/** What a peer does next: sends a piece; waits for a number of bytes, or until a read waits, or until nothing is left to do; ends; resets. */
export type Step = Uint8Array | number | "reading" | "settled" | "end" | "reset";

/** The other end of a handler's connection, which takes one step after the other. */
export class Peer implements StreamTransport {
  readonly localAddress = HERE;
  readonly remoteAddress = PEER;
  readonly capabilities: Capabilities = { reset: true, peername: true };
  readonly unsent = 0;
  /** Grows with everything that happens on the connection. */
  progress = 0;
  /** Whether a read waits. */
  reading = false;
  /** Whether the handler's side has ended. */
  ended = false;
  /** Whether it ended with a reset. */
  reset = false;
  /** The bytes answered after each `settled` step. */
  readonly marks: number[] = [];
  readonly #steps: readonly Step[];
  readonly #ahead: boolean;
  readonly #mask: RegExp | null;
  readonly #hoped: readonly number[];
  readonly #answer: Uint8Array[] = [];
  #masked: Uint8Array = EMPTY;
  #fresh = false; // the handler has sent something since #masked was made
  #size = 0;
  #at = 0;
  #sink: StreamSink | undefined;
  #held = false; // pause() was called
  #closed = false;
  #scheduled = false;
  #deferred: (() => void)[] = [];

  /** `hoped`: the further bytes that are to be answered by each `settled` step, if known. */
  constructor(steps: readonly Step[], ahead: boolean, mask: RegExp | null, hoped: readonly number[]) {
    this.#steps = steps;
    this.#ahead = ahead;
    this.#mask = mask;
    this.#hoped = hoped;
  }

  /** The next step; `undefined` when all are done. */
  get next(): Step | undefined {
    return this.#steps[this.#at];
  }

  /** What the handler has sent; each masked part is one byte of it. */
  get answer(): Uint8Array {
    if (this.#fresh) {
      const whole = joinBytes(this.#answer, this.#size);
      this.#answer.splice(0, this.#answer.length, whole);
      this.#masked = masked(whole, this.#mask);
      this.#fresh = false;
    }
    return this.#masked;
  }

  /** The length of that in bytes. */
  get answered(): number {
    return this.#mask === null ? this.#size : this.answer.length;
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
    this.#schedule();
  }

  resume(): void {
    this.reading = true;
    this.#held = false;
    this.progress++;
    this.#schedule();
  }

  pause(): void {
    this.reading = false;
    this.#held = true;
  }

  write(data: Data): undefined {
    const bytes = typeof data === "string" ? toBytes(data) : new Uint8Array(data);
    this.#answer.push(bytes);
    this.#fresh = true;
    this.#size += bytes.length;
    this.progress++;
    this.#schedule();
  }

  end(): Promise<void> {
    this.ended = true;
    this.progress++;
    return DONE;
  }

  close(): void {
    this.#closed = true;
  }

  abort(): void {
    this.reset = !this.#closed;
    this.#closed = this.ended = true;
    this.progress++;
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
    this.progress++;
  }

  /** Ends the turn, and does what is due then. Returns false if nothing was. */
  endTurn(): boolean {
    const tasks = this.#deferred;
    this.#deferred = [];
    for (const task of tasks) task();
    return tasks.length > 0;
  }

  /** Nothing is left to do, apparently or for `sure`: ends a step that waited for that. Returns false if none did. */
  settle(sure: boolean): boolean {
    const { next, marks } = this;
    if (next !== "settled" && next !== "reading") return false;
    if (next === "settled") {
      if (!sure && this.answered < (marks.at(-1) ?? 0) + (this.#hoped[marks.length] ?? 0)) return false;
      marks.push(this.answered);
    }
    this.#step();
    this.#schedule();
    return true;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (!this.#closed && this.#mayGoOn()) this.#step();
    });
  }

  #mayGoOn(): boolean {
    const { next } = this;
    if (next === undefined || next === "settled") return false;
    if (next === "end" || next === "reset") return true;
    if (typeof next === "number") return this.answered >= next;
    return this.reading || (this.#ahead && !this.#held && next !== "reading");
  }

  #step(): void {
    const step = this.next;
    this.#at++;
    this.progress++;
    if (step instanceof Uint8Array) {
      this.reading = this.#sink?.data(step.slice()) ?? false; // a copy: a handler may change what a read returns
    } else if (step === "end" || step === "reset") {
      this.reading = false; // a waiting read has its answer now
      if (step === "end") this.#sink?.end();
      else this.#sink?.error(new SocketError("ECONNRESET"));
    }
  }
}

/** `answer` with the parts that `mask` matches made equal. */
export const masked = (answer: Uint8Array, mask: RegExp | null): Uint8Array => {
  if (mask === null) return answer;
  const text = Array.from(answer, (byte) => String.fromCharCode(byte)).join("");
  return Uint8Array.from(text.replace(mask, "*"), (char) => char.charCodeAt(0));
};
