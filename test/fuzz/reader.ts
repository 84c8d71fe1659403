/** The reader: every kind of read, in any order, however the bytes come, beside a model of it. */

import fc from "fast-check";
import { type Lender, type ReaderSource, StreamReader } from "../../core/bytes/reader.ts";
import { StreamWriter } from "../../core/bytes/writer.ts";
import { SocketError } from "../../core/errors.ts";
import type { BinaryFile } from "../../core/files/binary-file.ts";
import { openFile } from "../../core/files/file.ts";
import {
  bytesOf,
  latin1,
  nastyBytes,
  Outcome,
  same,
  settled,
  type Target,
  Timers,
  target,
} from "./target.ts";

// ---- The model: the stream is one string, a character a byte, and a read is what it says ----

const MOST = 40_000; // bytes: maxLine and maxRead, so that both are met

interface Read {
  readonly kind:
    | "recv"
    | "recvInto"
    | "peek"
    | "peekAll"
    | "read"
    | "readexactly"
    | "readuntil"
    | "readline"
    | "line"
    | "tryLine"
    | "readlines";
  /** Of the call; absent where it is called without. */
  readonly size?: number;
  readonly separator?: string;
  /** How it is called, where there are several ways. */
  readonly by?: "reader" | "file" | "flags" | "loop";
}

/** What a read of `here` says: its value and how much that takes; an error's code; or `undefined`, not yet. `over`: nothing more comes. */
type Said = { readonly value: string | null; readonly take: number } | { readonly code: string } | undefined;

const model = (read: Read, here: string, over: boolean, maxLine: number, maxRead: number): Said => {
  const limit = { code: "ERR_LIMIT" };
  const first = (take: number): Said => ({ value: here.slice(0, take), take });
  const rest = (): Said => (!over ? undefined : here === "" ? { value: null, take: 0 } : first(here.length));
  const { size = Number.POSITIVE_INFINITY, separator = "\n" } = read;
  const at = here.indexOf(separator);
  const end = at < 0 ? here.length : at + separator.length;
  switch (read.kind) {
    case "recv":
    case "recvInto": // of which this is the most: see Mix
      return size === 0 || here !== "" ? first(Math.min(size, here.length)) : rest();
    case "peek":
      return size === 0 || here !== "" ? { value: here.slice(0, size), take: 0 } : rest();
    case "peekAll":
      if (size > maxRead) return limit;
      if (here.length >= size || (over && here !== "")) return { value: here.slice(0, size), take: 0 };
      return rest();
    case "read":
      if ((size === Number.POSITIVE_INFINITY ? here.length : size) > maxRead) return limit;
      return here.length >= size ? first(size) : rest();
    case "readexactly":
      if (size > maxRead) return limit;
      return here.length >= size ? first(size) : over ? { code: "ERR_INCOMPLETE_READ" } : undefined;
    case "readuntil":
      if (end > maxRead) return limit;
      return at >= 0 ? first(end) : over ? { code: "ERR_INCOMPLETE_READ" } : undefined;
    case "readline":
      if (size === Number.POSITIVE_INFINITY ? (at < 0 ? end : at) > maxLine : Math.min(size, end) > maxRead)
        return limit;
      return size <= end ? first(size) : at >= 0 ? first(end) : rest();
    default: {
      // line() and its like
      if ((at < 0 ? end : at) > maxLine) return limit;
      const line = at >= 0 ? first(end) : rest();
      if (line === undefined || !("value" in line) || line.value === null) return line;
      return { value: decoded(at >= 0 ? line.value.replace(/\r?\n$/, "") : line.value), take: line.take };
    }
  }
};

const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const decoded = (text: string): string => decoder.decode(bytesOf(text));

// ---- The mix ----

type Step =
  | { readonly do: "push"; readonly bytes: string; readonly how: "own" | "buffer" | "lend" | "give" }
  | { readonly do: "fill"; readonly size: number; readonly how: "own" | "buffer" | "lend" | "give" }
  | { readonly do: "read"; readonly read: Read; readonly timeout: 0 | 10 | null; readonly scribble: boolean }
  | { readonly do: "wait"; readonly ms: number }
  | { readonly do: "end" | "fail" | "close" | "shut" | "block" | "unblock" | "takeBuffered" };

const lines = fc
  .array(fc.constantFrom("x\n", "\n", "one\r\n", "abcdefgh\n", "ab;;cd\n", "\xc3\xa9\n", "tail"), {
    minLength: 4,
    maxLength: 24,
    size: "max",
  })
  .map((all) => all.join(""));
const size = fc.oneof(
  { weight: 10, arbitrary: fc.nat(6) },
  { weight: 4, arbitrary: fc.nat(30) },
  { weight: 1, arbitrary: fc.nat(3000) },
  { weight: 1, arbitrary: fc.nat(MOST + 50) },
);
const how = fc.constantFrom("own" as const, "buffer" as const, "lend" as const, "give" as const);
const read: fc.Arbitrary<Read> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom("recv" as const, "recvInto" as const, "peek" as const),
      size,
      by: fc.constantFrom("reader" as const, "flags" as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom("read" as const, "readline" as const),
      size,
      by: fc.constantFrom("reader" as const, "file" as const, "flags" as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom("peekAll" as const, "readexactly" as const), size }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("readuntil" as const),
      separator: fc.constantFrom("\n", "\r\n", ";", ";;", "aab", "ab", "\n\n", "\xe2\x82\xac"),
    }),
  },
  { weight: 8, arbitrary: fc.constant<Read>({ kind: "tryLine" }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("line" as const),
      by: fc.constantFrom("reader" as const, "loop" as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("readline" as const),
      by: fc.constantFrom("reader" as const, "loop" as const, "file" as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("readlines" as const),
      size: fc.nat(40),
      by: fc.constantFrom("reader" as const, "file" as const),
    }),
  },
  { weight: 1, arbitrary: fc.constantFrom<Read>({ kind: "read" }, { kind: "recv" }) },
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 14,
    arbitrary: fc.record({ do: fc.constant("push" as const), bytes: fc.oneof(nastyBytes, lines), how }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("fill" as const),
      size: fc.oneof(
        { weight: 6, arbitrary: fc.nat(3000) },
        { weight: 2, arbitrary: fc.nat(20_000) },
        { weight: 1, arbitrary: fc.nat(200_000) },
      ),
      how,
    }),
  },
  {
    weight: 30,
    arbitrary: fc.record({
      do: fc.constant("read" as const),
      read,
      timeout: fc.constantFrom(0 as const, 10 as const, null),
      scribble: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(0, 4, 10) }) },
  { weight: 2, arbitrary: fc.constantFrom<Step>({ do: "block" }, { do: "unblock" }, { do: "unblock" }) },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Step>(
      { do: "takeBuffered" },
      { do: "takeBuffered" },
      { do: "shut" },
      { do: "end" },
      { do: "fail" },
      { do: "close" },
    ),
  },
);

const HIGH = 256 * 1024; // bytes: as core/bytes/reader.ts
const LOW = 64 * 1024;
const WINDOW = 8 * 1024;

/** A read that is under way. */
interface Waiting {
  readonly read: Read;
  readonly got: Outcome;
  readonly scribble: boolean;
  within: number | null; // ms
  deadline: number;
  late: boolean; // no read waits after shut(), and its turn is over
  // Of readlines(), so far:
  readonly lines: string[];
  bytes: number;
}

/** A reader and its model, step by step. */
class Mix implements ReaderSource {
  blocked = false;
  readonly #reader = new StreamReader(this, {
    maxLine: MOST / 2,
    maxRead: MOST,
    maxPending: 0,
    whenSlow: "throw",
    minWriteRate: 0,
  });
  readonly #file: BinaryFile = openFile(
    this.#reader,
    new StreamWriter({ unsent: 0, write: () => undefined, defer() {} }),
    "rwb",
  );
  readonly #timers: Timers;
  #flowing = false;
  #paused = false;
  #told = 0;
  // The model's.
  #arrived = "";
  #at = 0;
  #ended = false;
  #shut = false;
  #failure: string | null = null;
  #waiting: Waiting | null = null;
  readonly #kept: [Uint8Array, string][] = []; // what was given, and what it must stay

  constructor(timers: Timers) {
    this.#timers = timers;
    this.#reader.onReadable(() => this.#told++);
  }

  resume(): void {
    this.#flowing = true;
    this.#paused = false;
  }

  pause(): void {
    this.#flowing = false;
    this.#paused = true;
  }

  get #here(): string {
    return this.#arrived.slice(this.#at);
  }

  get #readable(): boolean {
    const something = this.#at < this.#arrived.length || this.#ended || this.#shut;
    return this.#failure !== null || (something && !this.blocked);
  }

  async step(step: Step): Promise<void> {
    const reader = this.#reader;
    const readable = this.#readable;
    const told = this.#told;
    switch (step.do) {
      case "push":
        this.#push(bytesOf(step.bytes), step.how);
        break;
      case "fill":
        this.#push(new Uint8Array(step.size).fill(97 + (step.size % 20)), step.how);
        break;
      case "read":
        await this.#read(step.read, step.timeout, step.scribble);
        break;
      case "wait":
        await this.#timers.advance(step.ms);
        break;
      case "end":
        reader.end();
        if (this.#failure === null) this.#ended = true;
        break;
      case "fail":
        reader.fail(new SocketError("ECONNRESET"));
        this.#failure ??= "ECONNRESET";
        break;
      case "close":
        reader.fail("EBADF", true);
        this.#failure = "EBADF";
        this.#at = this.#arrived.length;
        this.#ended = this.#paused = false;
        break;
      case "shut":
        reader.shut();
        this.#shut = true;
        if (this.#waiting !== null) this.#arm(this.#waiting);
        break;
      case "block":
        if (this.blocked) break;
        this.blocked = true;
        reader.hold();
        break;
      case "unblock":
        this.blocked = false;
        reader.retry();
        break;
      case "takeBuffered":
        same("takeBuffered()", latin1(reader.takeBuffered()), this.#here);
        this.#at = this.#arrived.length;
        this.#paused = false;
        break;
    }
    await settled();
    this.#settle(step.do === "wait");
    this.#check(step);
    if (!readable && this.#readable && this.#told === told)
      throw new Error("it became readable, and nobody was told");
  }

  /** All that was given is as it was. */
  finish(): void {
    for (const [bytes, text] of this.#kept) same("what was given before", latin1(bytes), text);
  }

  #push(bytes: Uint8Array, how: "own" | "buffer" | "lend" | "give"): void {
    let given = how === "own" || how === "buffer";
    const lender: Lender = { give: () => (given = how === "give"), fit() {} };
    const more = this.#reader.push(how === "buffer" ? Buffer.from(bytes) : bytes, given ? null : lender);
    if (this.#failure === null) this.#arrived += latin1(bytes);
    if (!given) bytes.fill(0xa5); // the next bytes are read into it
    const waiting = this.#waiting;
    if (
      waiting !== null &&
      bytes.length > 0 &&
      this.#failure === null &&
      this.#said(waiting) === undefined &&
      !this.blocked
    ) {
      this.#arm(waiting);
      same("push() while a read waits", more, true);
    } else if (waiting === null) same("push() while none waits", more, false);
    if (waiting === null && this.#reader.buffered > HIGH && this.#failure === null)
      same("the source is paused", this.#paused, true);
  }

  async #read(read: Read, timeout: number | null, scribble: boolean): Promise<void> {
    const { kind, size } = read;
    if (kind === "tryLine") return this.#tryLine();
    const reader = this.#reader;
    const from = read.by === "file" ? this.#file : reader;
    if (this.#waiting === null) reader.timeout = timeout;
    const separator = read.separator === undefined ? new Uint8Array() : bytesOf(read.separator);
    let into: Uint8Array | undefined;
    const call = (): Promise<unknown> => {
      switch (kind) {
        case "recv":
        case "peek":
        case "peekAll":
          if (read.by !== "reader")
            return reader.receive(size ?? HIGH, kind !== "recv", kind === "peekAll", timeout !== 0);
          return kind === "recv" ? reader.recv(size) : reader.peek(size);
        case "recvInto":
          into = new Uint8Array(size as number);
          return reader.recvInto(into);
        case "read":
          return read.by === "flags"
            ? reader.receive(size as number, false, true, timeout !== 0)
            : from.read(size);
        case "readexactly":
          return reader.readexactly(size as number);
        case "readuntil":
          return reader.readuntil(separator);
        case "readline":
          return read.by === "loop" ? from[Symbol.asyncIterator]().next() : from.readline(size);
        case "readlines":
          return from.readlines(size);
        default:
          return read.by === "loop" ? reader.lines().next() : reader.line();
      }
    };
    const got = new Outcome(
      call().then((value) => {
        const plain =
          read.by === "loop"
            ? (value as IteratorResult<unknown>).done
              ? null
              : (value as IteratorResult<unknown>).value
            : value;
        return into === undefined || plain === null ? plain : into.slice(0, plain as number);
      }),
    );
    separator.fill(0); // the caller's again
    if (this.#waiting !== null) {
      await settled();
      same("a read while another waits", got.code, "EBUSY");
      return;
    }
    this.#waiting = { read, got, scribble, within: timeout, deadline: 0, late: false, lines: [], bytes: 0 };
    this.#arm(this.#waiting);
  }

  #tryLine() {
    let got: unknown;
    try {
      got = this.#reader.tryLine();
    } catch (error) {
      got = { code: (error as SocketError).code };
    }
    if (this.#waiting !== null)
      return same("tryLine() while a read waits", (got as { code: string }).code, "EBUSY");
    if (this.blocked && this.#failure === null)
      return same("tryLine() while reads are held back", got, undefined);
    const said = this.#say({ kind: "tryLine" }, false);
    if (said === undefined) return same("tryLine()", got, undefined);
    if ("code" in said) return same("tryLine()", (got as { code?: string } | null)?.code, said.code);
    same("tryLine()", got, said.value);
    this.#at += said.take;
  }

  #say(read: Read, late: boolean): Said {
    const said = model(read, this.#here, this.#ended || late, MOST / 2, MOST);
    return said === undefined && this.#failure !== null ? { code: this.#failure } : said;
  }

  /** From now on it waits. */
  #arm(waiting: Waiting): void {
    if (this.#shut) waiting.within = 0;
    waiting.deadline = waiting.within === null ? Number.POSITIVE_INFINITY : this.#timers.now + waiting.within;
  }

  #said(waiting: Waiting): Said {
    const { read, late } = waiting;
    return this.#say(read.kind === "readlines" ? { kind: "readline" } : read, late);
  }

  /** Does what the model says of the read that waits, and compares. */
  #settle(waited: boolean) {
    const waiting = this.#waiting;
    if (waiting === null) return;
    const { read, got } = waiting;
    const due = (): boolean => waited && this.#timers.now >= waiting.deadline && !waiting.late;
    const late = (): void => {
      if (this.#shut) waiting.late = true;
      else this.#over({ code: waiting.within === 0 ? "EWOULDBLOCK" : "ETIMEDOUT" });
    };
    if (due()) late();
    while (this.#waiting !== null) {
      if (this.blocked && this.#failure === null)
        return same("a read that is held back is done", got.done, false);
      const said = this.#said(waiting);
      if (said === undefined) {
        if (!due()) return same(`${read.kind} is done`, got.done, false);
        late();
      } else if (read.kind !== "readlines" || "code" in said) this.#over(said);
      else this.#line(waiting, said.value, said.take);
    }
  }

  /** readlines() has one more, or all. */
  #line(waiting: Waiting, line: string | null, take: number) {
    this.#at += take;
    waiting.late = false; // that was for one line
    this.#arm(waiting);
    if (line !== null) waiting.lines.push(line);
    waiting.bytes += take;
    const { size = 0 } = waiting.read;
    if (waiting.bytes > MOST) this.#over({ code: "ERR_LIMIT" });
    else if (line === null || (size > 0 && waiting.bytes > size))
      this.#over({ value: waiting.lines.join("|"), take: 0 });
  }

  /** The read is over, as `said` has it. */
  #over(said: NonNullable<Said>) {
    const { read, got, scribble } = this.#waiting as Waiting;
    this.#waiting = null;
    if (!got.done)
      throw new Error(`${read.kind} waits, and should give ${JSON.stringify(said).slice(0, 200)}`);
    if ("code" in said) return same(`the code of ${read.kind}`, got.code, said.code);
    same(`the code of ${read.kind}`, got.code, undefined);
    const { value } = got;
    if (Array.isArray(value)) return same("readlines", value.map(latin1).join("|"), said.value);
    if (!(value instanceof Uint8Array)) {
      same(read.kind, value, said.value);
      this.#at += said.take;
      return;
    }
    let { value: wanted, take } = said;
    if ((read.kind === "recv" || read.kind === "recvInto") && wanted !== null && wanted !== "") {
      // As much as is here in one piece: a byte at least, and at most what the model gives.
      if (value.length === 0 || value.length > wanted.length)
        throw new Error(`${read.kind} gave ${value.length} bytes, of ${wanted.length}`);
      take = value.length;
      wanted = wanted.slice(0, take);
    }
    same(read.kind, latin1(value), wanted);
    this.#at += take;
    if (value.buffer.byteLength > Math.max(4 * value.length, 64) && value.length > 0)
      throw new Error(`${value.length} bytes hold ${value.buffer.byteLength}`);
    if (scribble) value.fill(0x5a); // the caller's own
    this.#kept.push([value, latin1(value)]);
  }

  #check(step: Step): void {
    const reader = this.#reader;
    const size = this.#arrived.length - this.#at;
    same("buffered", reader.buffered, size);
    same("bytesRead", reader.bytesRead, this.#arrived.length);
    same("atEnd", reader.atEnd, (this.#ended || this.#shut) && size === 0);
    same("readable", reader.readable, this.#readable);
    const waiting = this.#waiting;
    const exactly = waiting?.read.kind === "readexactly" ? (waiting.read.size as number) - size : 1;
    if (!this.blocked) same("needed", reader.needed, waiting === null ? 0 : exactly);
    if (waiting !== null && !this.blocked && this.#failure === null && !this.#ended)
      same("the source brings what a read waits for", this.#flowing, true);
    if (this.#paused && step.do === "read" && size < LOW - WINDOW)
      throw new Error(`the source is still paused with ${size} bytes`);
  }
}

const holds = async (steps: readonly Step[]): Promise<number> => {
  using timers = new Timers();
  const mix = new Mix(timers);
  for (const step of steps) await mix.step(step);
  mix.finish();
  return steps.length;
};

export const reader: Target = target(
  "reader",
  "operations",
  fc.array(step, { minLength: 1, maxLength: 80, size: "max" }),
  holds,
);
