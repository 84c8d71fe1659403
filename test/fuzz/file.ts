/** Files of a stream: text read and written in every encoding and newline mode, mixed with the stream's own reads and writes, beside a model. */

import fc from "fast-check";
import { STREAM_LIMITS } from "../../core/bytes/data.ts";
import { StreamReader } from "../../core/bytes/reader.ts";
import { StreamWriter } from "../../core/bytes/writer.ts";
import type { FileOptions } from "../../core/files/base-file.ts";
import type { BinaryWriter } from "../../core/files/binary-file.ts";
import { openFile } from "../../core/files/file.ts";
import type { TextFile } from "../../core/files/text-file.ts";
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

const ENCODINGS = ["utf-8", "latin-1", "ascii", "utf-16-le"] as const;
type Encoding = (typeof ENCODINGS)[number];
interface Options extends FileOptions {
  readonly encoding: Encoding;
  readonly errors: "replace" | "ignore";
  readonly newline: "" | "\n" | "\r" | "\r\n" | null;
}

const options: fc.Arbitrary<Options> = fc.record({
  encoding: fc.constantFrom("utf-8", "utf-8", ...ENCODINGS),
  errors: fc.constantFrom("replace" as const, "ignore" as const),
  newline: fc.constantFrom(null, null, "" as const, "\n" as const, "\r" as const, "\r\n" as const),
});

// ---- Characters, by the platform's own decoder, a byte at a time ----

/** The first character of `bytes` and how many they are; `undefined`: it has only begun. `wrong`: it is none. */
const first = (
  bytes: string,
  encoding: Encoding,
): { char: string; size: number; wrong: boolean } | undefined => {
  if (encoding === "latin-1")
    return bytes === "" ? undefined : { char: bytes.charAt(0), size: 1, wrong: false };
  const ascii = bytes.charCodeAt(0) < 0x80;
  if (encoding === "ascii")
    return bytes === "" ? undefined : { char: ascii ? bytes.charAt(0) : "\uFFFD", size: 1, wrong: !ascii };
  if (encoding === "utf-8" && ascii) return { char: bytes.charAt(0), size: 1, wrong: false };
  const unit = encoding === "utf-8" ? 1 : 2;
  const decoder = new TextDecoder(encoding === "utf-8" ? "utf-8" : "utf-16le", {
    fatal: true,
    ignoreBOM: true,
  });
  for (let size = 0; size + unit <= bytes.length; size += unit) {
    try {
      const char = decoder.decode(bytesOf(bytes.slice(size, size + unit)), { stream: true });
      if (char !== "") return { char, size: size + unit, wrong: false };
    } catch {
      return { char: "\uFFFD", size: Math.max(size, unit), wrong: true }; // what is right of a wrong one begins the next
    }
  }
  return undefined;
};

// ---- Reading ----

/** A read: what is called, with which size, of which of the two files; or of the stream, where `file` is 2. */
type Step =
  | { readonly do: "push"; readonly bytes: string }
  | {
      readonly do: "read" | "readline";
      readonly file: number;
      readonly size: number | undefined;
      readonly timeout: 0 | null;
    }
  | { readonly do: "readlines"; readonly file: number; readonly size: number; readonly timeout: 0 | null }
  | { readonly do: "recv" | "peek" | "exactly"; readonly size: number }
  | { readonly do: "tryLine" }
  | { readonly do: "wait" | "end" };

const size = fc.option(fc.oneof(fc.nat(4), fc.nat(4), fc.nat(100)), { nil: undefined, freq: 3 });
const timeout = fc.constantFrom(0 as const, null);
const file = fc.nat(1);
const spread = (text: string): string => text.replace(/./gs, "$&\0");
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 200,
    arbitrary: fc.record({
      do: fc.constant("push" as const),
      bytes: fc.oneof(
        nastyBytes,
        nastyBytes,
        nastyBytes.map(spread),
        nastyBytes,
        fc.nat(200).map((n) => "x".repeat(n)),
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(..."\n\r\xc3")
      .map((end): Step => ({ do: "push", bytes: `${"x".repeat(8191)}${end}` })),
  },
  {
    weight: 15,
    arbitrary: fc.record({
      do: fc.constant("push" as const),
      bytes: fc.constantFrom("\r", "\n", "a", "\xc3", "\xa9", "\x3d\xd8", "\0\xde", "\0"),
    }),
  },
  {
    weight: 300,
    arbitrary: fc.record({
      do: fc.constantFrom("read" as const, "readline" as const, "readline" as const),
      file,
      size,
      timeout,
    }),
  },
  {
    weight: 25,
    arbitrary: fc.record({ do: fc.constant("readlines" as const), file, size: fc.nat(30), timeout }),
  },
  {
    weight: 100,
    arbitrary: fc.record({
      do: fc.constantFrom("recv" as const, "peek" as const, "exactly" as const),
      size: fc.nat(4),
    }),
  },
  { weight: 50, arbitrary: fc.constant<Step>({ do: "tryLine" }) },
  { weight: 50, arbitrary: fc.constant<Step>({ do: "wait" }) },
  { weight: 15, arbitrary: fc.constant<Step>({ do: "end" }) },
);

/** What the model knows of one file. */
class FileModel {
  readonly options: Options;
  text = ""; // decoded, and not given
  kept = ""; // bytes of a character that has begun
  wrong = false; // some bytes of this read, or of those whose text it begins with, were no character: a few behind them may be taken
  returned = -1; // where in the stream a \r was followed by nothing yet: a \n there belongs to it

  constructor(options: Options) {
    this.options = options;
  }
}

interface Waiting {
  readonly call: { readonly do: "read" | "readline" | "readlines"; readonly size: number | undefined };
  readonly model: FileModel;
  readonly got: Outcome;
  readonly timeout: 0 | null;
  given: string;
  count: number; // characters of that
  lines: string[];
  counted: number; // characters of those
}

class Mix {
  readonly #reader = new StreamReader(undefined, STREAM_LIMITS);
  readonly #files: readonly TextFile[];
  readonly #models: readonly FileModel[];
  readonly #timers: Timers;
  #arrived = "";
  #at = 0;
  #ended = false;
  #waiting: Waiting | null = null;

  constructor(timers: Timers, options: readonly Options[]) {
    this.#timers = timers;
    const writer = new StreamWriter({ unsent: 0, write: () => undefined, defer() {} });
    this.#files = options.map((of) => openFile(this.#reader, writer, "rw", of));
    this.#models = options.map((of) => new FileModel(of));
  }

  async step(step: Step): Promise<void> {
    switch (step.do) {
      case "push":
        if (this.#ended) break;
        this.#reader.push(bytesOf(step.bytes));
        this.#arrived += step.bytes;
        break;
      case "end":
        if (this.#waiting === null && this.#at < this.#arrived.length) break; // mostly later
        this.#reader.end();
        this.#ended = true;
        break;
      case "wait":
        await this.#timers.advance(0);
        await this.#settle(true);
        break;
      case "tryLine":
      case "recv":
      case "peek":
      case "exactly":
        await this.#raw(step);
        break;
      default:
        await this.#read(step);
    }
    await this.#settle(false);
  }

  /** A read of the stream itself: nothing of it waits here. */
  async #raw(step: Extract<Step, { do: "recv" | "peek" | "exactly" | "tryLine" }>): Promise<void> {
    const reader = this.#reader;
    const here = this.#arrived.slice(this.#at);
    if (this.#waiting !== null) {
      if (step.do === "recv")
        same("recv() while a file's read waits", await reader.recv(1).catch((error) => error.code), "EBUSY");
      return;
    }
    const over = this.#ended && here === "";
    if (step.do === "tryLine") {
      const end = here.indexOf("\n");
      if (end < 0) return;
      same(
        "tryLine()",
        reader.tryLine(),
        new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytesOf(here.slice(0, end).replace(/\r$/, ""))),
      );
      this.#at += end + 1;
      return;
    }
    if (over || here.length < step.size || step.size === 0) return;
    const got = await (step.do === "recv"
      ? reader.recv(step.size)
      : step.do === "peek"
        ? reader.peek(step.size)
        : reader.readexactly(step.size));
    const shown = latin1(got as Uint8Array);
    same(step.do, shown, here.slice(0, step.do === "recv" ? shown.length : step.size));
    if (step.do !== "peek") this.#at += shown.length;
  }

  async #read(step: Extract<Step, { file: number }>): Promise<void> {
    const file = this.#files[step.file] as TextFile;
    const model = this.#models[step.file] as FileModel;
    if (this.#waiting?.model !== model && model.text === "" && model.kept === "") model.wrong = false;
    if (this.#waiting === null) this.#reader.timeout = step.timeout;
    const got = new Outcome(
      step.do === "read"
        ? file.read(step.size)
        : step.do === "readline"
          ? file.readline(step.size)
          : file.readlines(step.size),
    );
    await settled();
    const waiting: Waiting = {
      call: step,
      model,
      got,
      timeout: step.timeout,
      given: "",
      count: 0,
      lines: [],
      counted: 0,
    };
    if (this.#waiting === null) {
      this.#waiting = waiting;
      return;
    }
    // Another waits. This one can be answered where its file still has text; else it fails, and keeps that.
    if (this.#waiting.model === model) return same("a second read of a file", got.code, "EBUSY");
    const at = this.#at;
    this.#at = this.#arrived.length; // it sees nothing that comes
    const done = this.#gather(waiting, false);
    this.#at = at;
    if (done === undefined) {
      same("a read while another file's waits", got.code, "EBUSY");
      model.text = waiting.lines.join("") + waiting.given + model.text;
    } else this.#answer(waiting, done);
  }

  /** Does what the model says of the read that waits. */
  async #settle(late: boolean): Promise<void> {
    await settled();
    const waiting = this.#waiting;
    if (waiting === null) return;
    const { got, model } = waiting;
    const done = this.#gather(waiting, this.#ended);
    if (done !== undefined) {
      this.#waiting = null;
      this.#answer(waiting, done);
    } else if (late && waiting.timeout === 0) {
      same("the code of a read that may not wait", got.code, "EWOULDBLOCK");
      model.text = waiting.lines.join("") + waiting.given + model.text;
      this.#waiting = null;
    } else same(`${waiting.call.do} is done`, got.done, false);
    this.#place(waiting);
  }

  #answer({ got, call }: Waiting, wanted: string | null): void {
    same(`the code of ${call.do}`, got.code, undefined);
    same(call.do, Array.isArray(got.value) ? got.value.join("|") : got.value, wanted);
  }

  /** Where the reader stands: just behind what was given, but for what a file may hold (see TextReader in core/files/text-file.ts). */
  #place({ model, call }: Waiting): void {
    const at = this.#reader.bytesRead - this.#reader.buffered;
    const { newline, encoding } = model.options;
    const next = first(this.#arrived.slice(this.#at), encoding);
    // A \n may be taken with the \r before it.
    if (model.returned === this.#at && next?.char === "\n" && at === this.#at + next.size) this.#at = at;
    const half = newline === "" && call.do !== "read"; // the character after a lone \r
    const arrived = this.#arrived;
    this.#arrived = arrived.slice(0, at); // what was taken tells no more: what begins in it is kept, whatever comes next
    for (let most = (half ? 1 : 0) + (model.wrong ? 4 : 0); this.#at < at && most > 0; most--) {
      const text = model.text;
      model.text = "";
      model.text = text + (this.#next(model, false, false) ?? "");
    }
    this.#arrived = arrived;
    same("the reader's place in the stream", at, this.#at);
  }

  /** The read as far as the bytes go: its text, `null` at the end; `undefined` if it must wait. */
  #gather(waiting: Waiting, over: boolean): string | null | undefined {
    const { call } = waiting;
    if (call.do !== "readlines")
      return this.#one(waiting, call.do === "readline", call.size ?? Number.POSITIVE_INFINITY, over);
    for (;;) {
      const line = this.#one(waiting, true, Number.POSITIVE_INFINITY, over);
      if (line === undefined) return undefined;
      if (line !== null) waiting.lines.push(line);
      waiting.counted += waiting.count;
      const count = waiting.counted;
      waiting.given = "";
      waiting.count = 0;
      if (line === null || ((call.size as number) > 0 && count > (call.size as number)))
        return waiting.lines.join("|");
    }
  }

  #one(waiting: Waiting, line: boolean, size: number, over: boolean): string | null | undefined {
    const { model } = waiting;
    const { newline } = model.options;
    for (;;) {
      if (waiting.count === size) return waiting.given;
      if (line && waiting.given !== "") {
        const half = newline === "" && waiting.given.endsWith("\r"); // which a \n may make a whole line end
        if (half) {
          const next = this.#next(model, over, true);
          if (next === undefined) return undefined;
          if (next === "\n") waiting.given += this.#next(model, over, false);
          if (next === "\n") waiting.count++;
          return waiting.given;
        }
        if (waiting.given.endsWith(newline === "" ? "\n" : (newline ?? "\n"))) return waiting.given;
      }
      const next = this.#next(model, over, false);
      if (next === undefined) return undefined;
      if (next === null) return waiting.given === "" ? null : waiting.given;
      waiting.given += next;
      waiting.count++;
    }
  }

  /** The next character of a file, translated; `null` at the end, `undefined` if it is not here. `look`: it stays. */
  #next(model: FileModel, over: boolean, look: boolean): string | null | undefined {
    if (model.text !== "") {
      const one = [...model.text.slice(0, 2)][0] as string;
      if (!look) model.text = model.text.slice(one.length);
      return one;
    }
    const { encoding, errors, newline } = model.options;
    for (;;) {
      const bytes = model.kept + this.#arrived.slice(this.#at);
      let next = first(bytes, encoding);
      if (next === undefined && over && bytes !== "")
        next = { char: "\uFFFD", size: bytes.length, wrong: true };
      if (next === undefined) {
        if (over) return null;
        // All of it is taken, but for half a unit.
        const taken = encoding === "utf-16-le" ? bytes.length - (bytes.length % 2) : bytes.length;
        this.#at += taken - model.kept.length;
        model.kept = bytes.slice(0, taken);
        return undefined;
      }
      const { char, size, wrong } = next;
      model.wrong ||= wrong;
      const left = wrong && errors === "ignore"; // out
      if (look && !left) return char;
      this.#at += size - model.kept.length;
      model.kept = "";
      const behind = newline === null && model.returned === this.#at - size;
      if (left && behind) model.returned = this.#at;
      if (left || (behind && char === "\n")) continue;
      if (newline !== null || char !== "\r") return char;
      model.returned = this.#at;
      return "\n";
    }
  }
}

const reads = async ({
  steps,
  files,
}: {
  steps: readonly Step[];
  files: readonly Options[];
}): Promise<number> => {
  using timers = new Timers();
  const mix = new Mix(timers, files);
  for (const step of steps) await mix.step(step);
  return steps.length;
};

const one = fc.tuple(options, options);
export const fileReader: Target = target(
  "file-read",
  "operations",
  fc.record({ steps: fc.array(step, { minLength: 1, maxLength: 50, size: "max" }), files: one }),
  reads,
);

// ---- Writing ----

interface Opened extends Options {
  readonly mode: "w" | "rw" | "wb" | "rwb";
  readonly bufsize: number;
}

const opened: fc.Arbitrary<Opened> = fc
  .tuple(
    options,
    fc.constantFrom("w" as const, "rw" as const, "wb" as const, "rwb" as const),
    fc.constantFrom(-1, -1, 0, 1, 2, 7, 100, 20_000),
  )
  .map(([of, mode, bufsize]) => ({
    ...of,
    mode,
    bufsize: bufsize === 0 && !mode.endsWith("b") ? 1 : bufsize,
  }));

/** `file` 2 is the stream's own writer. */
type Write =
  | { readonly do: "write" | "writelines"; readonly file: number; readonly text: string }
  | { readonly do: "flush"; readonly file: number };
const write: fc.Arbitrary<Write> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constantFrom("write" as const, "write" as const, "writelines" as const),
      file: fc.nat(2),
      text: fc.oneof(
        {
          weight: 8,
          arbitrary: fc.constantFrom(
            "",
            "a",
            "\n",
            "\r",
            "a\r\nb\n",
            "é",
            "€",
            "😀",
            "\ud83d",
            "\ude00x",
            "ÿ\n",
            "\uFEFF",
          ),
        },
        { weight: 2, arbitrary: fc.string({ unit: "binary", maxLength: 20 }) },
        { weight: 1, arbitrary: fc.nat(300).map((n) => "line\n".repeat(n)) },
      ),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("flush" as const), file: fc.nat(2) }) },
);

/** `text` as a text file writes it: a wrong character is left out or becomes `?`. */
const encoded = (text: string, { encoding, errors, newline }: Options): string => {
  const most = { "utf-8": 0x10ffff, "utf-16-le": 0x10ffff, "latin-1": 0xff, ascii: 0x7f }[encoding];
  const clean = Array.from(text, (char) => {
    const code = char.codePointAt(0) as number;
    return code <= most && (code < 0xd800 || code > 0xdfff) ? char : errors === "ignore" ? "" : "?";
  }).join("");
  const ends = clean.replaceAll("\n", newline || "\n");
  return Buffer.from(
    ends,
    encoding === "utf-8" ? "utf8" : encoding === "utf-16-le" ? "utf16le" : "latin1",
  ).toString("latin1");
};

const writes = async ({
  steps,
  files,
}: {
  steps: readonly Write[];
  files: readonly Opened[];
}): Promise<number> => {
  const sent: string[] = [];
  const writer = new StreamWriter({
    unsent: 0,
    write: (data) => void sent.push(latin1(typeof data === "string" ? Buffer.from(data) : data)),
    defer() {},
  });
  const reader = new StreamReader();
  const open = files.map(({ mode, bufsize, ...of }) =>
    openFile(reader, writer, mode, mode.endsWith("b") ? { bufsize } : { ...of, bufsize }),
  );
  const outs = [...open, writer] as BinaryWriter[];
  const kept = files.map(() => "");
  let wanted = "";
  for (const step of steps) {
    const file = outs[step.file] as BinaryWriter;
    const of = files[step.file]; // undefined: the writer's own
    if (step.do === "flush") {
      await file.flush();
      wanted += kept[step.file] ?? "";
      if (of !== undefined) kept[step.file] = "";
    } else {
      const { text } = step;
      const binary = of === undefined || of.mode.endsWith("b");
      const bytes = binary ? Buffer.from(text).toString("latin1") : encoded(text, of);
      const given = binary && of !== undefined ? new Uint8Array(bytesOf(bytes)) : text;
      const count = step.do === "write" ? file.write(given as string) : file.writelines([given as string]);
      same(step.do, count, step.do === "writelines" ? undefined : binary ? bytes.length : [...text].length);
      if (given instanceof Uint8Array) given.fill(0); // the caller's again
      if (of === undefined || of.bufsize < 0) wanted += bytes;
      else {
        const held = (kept[step.file] as string) + bytes;
        const line = !binary && of.bufsize === 1;
        const leaves = held.length >= (line ? 8192 : of.bufsize) || (line && /[\n\r]/.test(text));
        kept[step.file] = leaves ? "" : held;
        if (leaves) wanted += held;
        const all = sent.join("");
        if (leaves && text !== "") same("what left at once", all.length, wanted.length);
      }
    }
  }
  await writer.flush();
  same("what left", sent.join(""), wanted);
  for (const file of outs) await file.close();
  await writer.flush();
  same("what left at the close", sent.join(""), wanted + kept.join(""));
  return steps.length;
};

export const fileWriter: Target = target(
  "file-write",
  "operations",
  fc.record({
    steps: fc.array(write, { minLength: 1, maxLength: 50, size: "max" }),
    files: fc.tuple(opened, opened),
  }),
  writes,
);
