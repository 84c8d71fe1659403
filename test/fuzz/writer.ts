/** The writer: every kind of write, in any order, by a target that has room or not, beside a model of it. */

import fc from "fast-check";
import type { Data } from "../../core/bytes/data.ts";
import { StreamWriter, type WriterTarget } from "../../core/bytes/writer.ts";
import { SocketError } from "../../core/errors.ts";
import { latin1, Outcome, same, settled, type Target, Timers, target } from "./target.ts";

const MARK = 16 * 1024; // bytes gathered before they leave, and that an array may be the caller's from: as core/bytes/writer.ts
const UNATTENDED = 1024 * 1024; // bytes
const MOST = 3 * 1024 * 1024; // bytes: maxPending

// ---- The steps ----

/** What is written: text, or so many bytes of one value, in an array of its own, a Buffer, or a part of a larger array. */
type Written =
  | string
  | { readonly size: number; readonly value: number; readonly in: "array" | "buffer" | "part" };
type Step =
  | {
      readonly do: "write" | "writelines" | "sendall";
      readonly data: Written;
      readonly timeout: 0 | 10 | null;
    }
  | { readonly do: "flush"; readonly timeout: 0 | 10 | null }
  | { readonly do: "wait"; readonly ms: number }
  | { readonly do: "start" | "turn" | "full" | "drain" | "end" | "fail" | "close" }
  | { readonly do: "other"; readonly data: string; readonly sends: boolean };

const text = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.constantFrom("", "a", "line\r\n", "é", "€", "😀", "\ud83d", "\ude00", "a\ud83d", "\ude00b"),
  },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 300 }) },
  {
    weight: 4,
    arbitrary: fc.array(fc.nat(0xffff), { maxLength: 8 }).map((units) => String.fromCharCode(...units)),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom("x", "é", "€", "\ud83d"), fc.integer({ min: 250, max: 9000 }))
      .map(([unit, times]) => unit.repeat(times)),
  },
);
const size = fc.oneof(
  { weight: 60, arbitrary: fc.nat(300) },
  { weight: 6, arbitrary: fc.nat(3000) },
  { weight: 6, arbitrary: fc.integer({ min: MARK - 300, max: MARK + 300 }) },
  { weight: 1, arbitrary: fc.constantFrom(40_000, 300_000, 600_000) },
);
const data: fc.Arbitrary<Written> = fc.oneof(
  text,
  fc.record({
    size,
    value: fc.integer({ min: 1, max: 255 }),
    in: fc.constantFrom("array" as const, "buffer" as const, "part" as const),
  }),
);
const timeout = fc.constantFrom(0 as const, 10 as const, null);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({
      do: fc.constantFrom("write" as const, "write" as const, "writelines" as const, "sendall" as const),
      data,
      timeout,
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("flush" as const), timeout }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("other" as const), data: text, sends: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(0, 4, 10) }) },
  {
    weight: 8,
    arbitrary: fc.constantFrom<Step>(
      { do: "turn" },
      { do: "turn" },
      { do: "start" },
      { do: "full" },
      { do: "drain" },
      { do: "drain" },
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step>(
      { do: "full" },
      { do: "drain" },
      { do: "drain" },
      { do: "end" },
      { do: "fail" },
      { do: "close" },
    ),
  },
);

// ---- The target ----

/** Keeps what it is given as its contract lets it: bytes of 16 KiB and more until it has room, smaller ones for ever. */
class Sink implements WriterTarget {
  readonly borrows: boolean;
  readonly got: Data[] = [];
  heldBack = false; // as attended() and unattended() say
  unsent = 0;
  #full = false;
  #promises: PromiseWithResolvers<void>[] = [];
  #taken: [number, Uint8Array][] = []; // large ones that wait, and where in `got`
  #deferred: (() => void)[] = [];

  constructor(borrows: boolean) {
    this.borrows = borrows;
  }

  write(data: Data): Promise<void> | undefined {
    if (data.length === 0) throw new Error("nothing was written to the target");
    const large = typeof data !== "string" && data.length >= MARK;
    if (large && this.#full) this.#taken.push([this.got.length, data]);
    this.got.push(large && !this.#full ? new Uint8Array(data) : data);
    if (!this.#full) return undefined;
    this.unsent += typeof data === "string" ? Buffer.byteLength(data) : data.length;
    if (large || this.#promises.length === 0) this.#promises.push(Promise.withResolvers());
    return this.#promises.at(-1)?.promise;
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    if (!this.borrows || bytes.length >= MARK) throw new Error("borrow() was called for what it is not for");
    return this.write(new Uint8Array(bytes));
  }

  /** What left, a character a byte. */
  get text(): string {
    const all = this.got.map((data) =>
      typeof data === "string" ? Buffer.from(data) : Buffer.from(data.buffer, data.byteOffset, data.length),
    );
    return Buffer.concat(all).toString("latin1");
  }

  unattended(): void {
    this.heldBack = true;
  }

  attended(): void {
    this.heldBack = false;
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
  }

  turn(): void {
    for (const task of this.#deferred.splice(0)) task();
  }

  full(): void {
    this.#full = true;
  }

  drain(): void {
    this.#full = false;
    this.unsent = 0;
    for (const [at, bytes] of this.#taken.splice(0)) this.got[at] = new Uint8Array(bytes);
    for (const { resolve } of this.#promises.splice(0)) resolve();
  }
}

// ---- The model and the mix ----

class Mix {
  readonly #sink: Sink;
  readonly #writer: StreamWriter;
  readonly #timers: Timers;
  // The model: what was taken is one string, of which the last #gathered bytes have not left.
  #taken: string[] = [];
  #size = 0;
  #gathered = 0;
  #full = false; // the target
  #blocked = false; // it said so
  #waiting = 0; // bytes that it was given since
  #failure: string | null = null;
  /** Calls that wait for room, or (`send`) for a turn. */
  #calls: { got: Outcome; deadline: number; code: string; send?: string; lent: Uint8Array[] }[] = [];
  #lent: Uint8Array[] = []; // large arrays that the target may still look at
  #told = 0;
  /** Another connection's writer, which gathers in turns with this one. */
  readonly #other: StreamWriter;
  readonly #otherSink: Sink;
  #otherTaken = "";

  constructor(timers: Timers, borrows: boolean) {
    this.#timers = timers;
    this.#otherSink = new Sink(borrows);
    this.#other = new StreamWriter(this.#otherSink);
    this.#sink = new Sink(borrows);
    this.#writer = new StreamWriter(this.#sink, {
      maxLine: 1,
      maxRead: 1,
      maxPending: MOST,
      whenSlow: "throw",
      minWriteRate: 0,
    });
    this.#writer.onWritable(() => this.#told++);
  }

  async step(step: Step): Promise<void> {
    const told = this.#told;
    const writable = this.#writable;
    switch (step.do) {
      case "write":
      case "writelines":
      case "sendall":
        this.#write(step);
        break;
      case "flush":
        this.#writer.timeout = step.timeout;
        this.#await(this.#writer.flush(), step.timeout);
        break;
      case "wait":
        await this.#timers.advance(step.ms);
        break;
      case "other":
        this.#other.write(step.data);
        this.#otherTaken += Buffer.from(step.data, "utf8").toString("latin1");
        if (step.sends) this.#other.start();
        break;
      case "start":
        this.#writer.start();
        if (this.#failure === null) this.#leave();
        break;
      case "turn":
        this.#sink.turn();
        if (this.#failure === null) this.#leave();
        break;
      case "full":
        this.#sink.full();
        this.#full = true;
        break;
      case "drain":
        this.#sink.drain();
        this.#full = false;
        await settled();
        if (this.#blocked) this.#free();
        break;
      case "end":
        this.#writer.end();
        if (this.#failure === null) this.#leave();
        this.#failure ??= "EPIPE";
        break;
      case "fail":
        this.#writer.fail(new SocketError("ECONNRESET"));
        if (this.#failure === null || this.#blocked)
          await this.#fail(this.#failure ?? "ECONNRESET", "ECONNRESET");
        break;
      case "close":
        this.#writer.fail("EBADF", true);
        await this.#fail("EBADF", "EBADF");
        break;
    }
    await settled();
    this.#settle(step.do === "wait");
    this.#check();
    if (!writable && this.#writable && told === this.#told)
      throw new Error("it became writable, and nobody was told");
  }

  /** All that left is what was taken, though its callers changed their arrays. */
  finish(): void {
    this.#sink.drain();
    same("what left", this.#sink.text, this.#taken.join("").slice(0, this.#size - this.#gathered));
    this.#other.start();
    same("what left of the other writer", this.#otherSink.text, this.#otherTaken);
  }

  get #writable(): boolean {
    return !this.#blocked || this.#failure !== null;
  }

  #write(step: Extract<Step, { do: "write" | "writelines" | "sendall" }>): void {
    const { data } = step;
    const { memory, given, bytes } = made(data);
    const writer = this.#writer;
    writer.timeout = step.timeout;
    if (step.do === "sendall") {
      const sent = writer.sendall(given);
      if (step.timeout === 0 && !this.#writable) {
        this.#calls.push({
          got: new Outcome(sent),
          deadline: this.#timers.now,
          code: "EWOULDBLOCK",
          send: bytes,
          lent: [],
        });
      } else {
        const refused = this.#refusal();
        if (refused === null) this.#take(bytes);
        this.#await(sent, step.timeout === 0 ? null : step.timeout, refused, step.timeout === 0);
      }
    } else {
      const refused = this.#refusal();
      let got: unknown;
      try {
        got = step.do === "write" ? writer.write(given) : writer.writelines([given]);
      } catch (error) {
        got = (error as SocketError).code;
      }
      same(step.do, got, refused ?? (step.do === "write" ? bytes.length : undefined));
      if (refused === null) this.#take(bytes);
      if (this.#gathered >= MARK) this.#leave();
    }
    if (bytes.length < MARK || (step.do === "sendall" && step.timeout === 0))
      memory.fill(0); // the caller's again
    else this.#lent.push(memory);
  }

  #refusal(): string | null {
    return this.#failure ?? (this.#waiting > MOST ? "ENOBUFS" : null);
  }

  #take(bytes: string): void {
    if (bytes.length >= MARK) this.#leave();
    this.#taken.push(bytes);
    this.#size += bytes.length;
    this.#gathered += bytes.length;
    if (bytes.length >= MARK) this.#leave();
  }

  /** What is gathered leaves. */
  #leave(): void {
    if (this.#gathered === 0) return;
    if (this.#blocked) this.#waiting += this.#gathered;
    else if (this.#full) this.#waiting = this.#gathered;
    this.#blocked ||= this.#full;
    this.#gathered = 0;
  }

  /** A call that sends what is gathered and waits for room. `now`: it does not wait. */
  #await(call: Promise<void>, timeout: number | null, refused = this.#failure, now = false) {
    const got = new Outcome(call);
    if (refused !== null) return this.#wait(got, Number.NEGATIVE_INFINITY, refused);
    this.#leave();
    if (!this.#blocked || now) return this.#wait(got, Number.NEGATIVE_INFINITY, "");
    const code = timeout === 0 ? "EWOULDBLOCK" : "ETIMEDOUT";
    this.#wait(got, timeout === null ? Number.POSITIVE_INFINITY : this.#timers.now + timeout, code);
  }

  #wait(got: Outcome, deadline: number, code: string): void {
    this.#calls.push({ got, deadline, code, lent: code === "" ? this.#lent.splice(0) : [...this.#lent] });
  }

  /** There is room. */
  #free(): void {
    this.#blocked = false;
    this.#waiting = 0;
    this.#calls = this.#calls.filter(({ got, send, lent }) => {
      if (send !== undefined) return true;
      same("a call that waits for room is done", got.done, true);
      same("its code", got.code, undefined);
      for (const memory of lent) memory.fill(0); // flush() has resolved: the caller's again
      return false;
    });
  }

  async #fail(failure: string, told: string): Promise<void> {
    this.#failure = failure;
    this.#size -= this.#gathered;
    this.#taken = [this.#taken.join("").slice(0, this.#size)];
    this.#gathered = this.#waiting = 0;
    this.#blocked = false;
    await settled();
    this.#calls = this.#calls.filter(({ got, send }) => {
      if (send !== undefined) return true;
      same("the code of a call that waited for room", got.code, told);
      return false;
    });
  }

  #settle(waited: boolean) {
    this.#calls = this.#calls.filter((call) => {
      const { got, deadline, code, send, lent } = call;
      if (deadline === Number.NEGATIVE_INFINITY) {
        same("a call that need not wait is done", got.done, true);
        same("its code", got.code, code === "" ? undefined : code);
        if (code === "") for (const memory of lent) memory.fill(0);
        return false;
      }
      if (!waited || this.#timers.now < deadline) {
        same("a call that waits is done", got.done, false);
        return true;
      }
      if (send !== undefined && this.#writable) {
        const refused = this.#refusal();
        if (refused === null) this.#take(send);
        if (refused === null) this.#leave();
        same("the code of a send that had its turn", got.code, refused ?? undefined);
        same("it is done", got.done, true);
      } else same("the code of a call that was too late", got.code, code);
      return false;
    });
  }

  #check(): void {
    const writer = this.#writer;
    same("bytesWritten", writer.bytesWritten, this.#size - this.#gathered);
    same("dirty", writer.dirty, this.#gathered > 0);
    same("blocked", writer.blocked, this.#blocked);
    same("writable", writer.writable, this.#writable);
    const attending = this.#calls.some(({ send, code }) => send === undefined && code !== "EWOULDBLOCK");
    const unattended = this.#waiting > UNATTENDED && !attending;
    same("unattended", writer.unattended, unattended);
    if (unattended) same("the target was told that reads wait", this.#sink.heldBack, true);
    if (!unattended && this.#failure === null)
      same("the target was told that they go on", this.#sink.heldBack, false);
  }
}

/** `data` as it is given, the array that it is in, and its bytes, a character each. */
const made = (data: Written): { given: Data; memory: Uint8Array; bytes: string } => {
  if (typeof data === "string")
    return { given: data, memory: new Uint8Array(), bytes: Buffer.from(data, "utf8").toString("latin1") };
  const part = data.in === "part" ? 3 : 0;
  const memory = new Uint8Array(data.size + 2 * part).fill(data.value);
  for (let i = 0; i < memory.length; i += 97) memory[i] = i;
  const bytes = memory.subarray(part, part + data.size);
  return {
    given: data.in === "buffer" ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) : bytes,
    memory,
    bytes: latin1(bytes),
  };
};

const holds = async ({ steps, borrows }: { steps: readonly Step[]; borrows: boolean }): Promise<number> => {
  using timers = new Timers();
  const mix = new Mix(timers, borrows);
  for (const step of steps) await mix.step(step);
  mix.finish();
  return steps.length;
};

export const writer: Target = target(
  "writer",
  "operations",
  fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 60, size: "max" }), borrows: fc.boolean() }),
  holds,
);
