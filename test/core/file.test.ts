import { execFileSync } from "node:child_process";
import { describe, expect, expectTypeOf, test, vi } from "vitest";
import { STREAM_LIMITS, type StreamLimits } from "../../core/bytes/data.ts";
import { type ReaderSource, StreamReader } from "../../core/bytes/reader.ts";
import { StreamWriter } from "../../core/bytes/writer.ts";
import type { FileOptions } from "../../core/files/base-file.ts";
import type { BinaryFile, BinaryWriter } from "../../core/files/binary-file.ts";
import { type FileMode, openFile } from "../../core/files/file.ts";
import type { TextFile, TextReader, TextWriter } from "../../core/files/text-file.ts";
import { fc } from "../conformance/properties.ts";
import { peer } from "../peers/peer.ts";
import { codeOf, codeThrown, settled, waits } from "./outcome.ts";

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const shown = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

/** Gives its pieces one by one, each when a read waits; then the end. */
class Dribbler implements ReaderSource {
  readonly reader: StreamReader;
  blocked = false;
  #pieces: Uint8Array[];

  constructor(pieces: readonly Uint8Array[], limits: Partial<StreamLimits> = {}) {
    this.reader = new StreamReader(this, { ...STREAM_LIMITS, ...limits });
    this.#pieces = [...pieces];
  }

  resume(): void {
    while (this.#pieces.length > 0) {
      if (!this.reader.push((this.#pieces.shift() as Uint8Array).slice())) return; // no read waits any more
    }
    this.reader.end();
  }

  pause(): void {}
}

/** A writer whose sending the test sees: each element left in one piece. */
class Sent {
  readonly pieces: string[] = [];
  readonly writer: StreamWriter;
  room: Promise<void> | undefined;
  #held = 0; // bytes that wait for room

  constructor() {
    const held = (): number => (this.room === undefined ? 0 : this.#held);
    this.writer = new StreamWriter({
      get unsent() {
        return held();
      },
      write: (data) => {
        this.#held = held() + data.length;
        this.pieces.push(shown(typeof data === "string" ? utf8(data) : data));
        return this.room;
      },
      defer: queueMicrotask,
    });
  }

  get all(): string {
    return this.pieces.join("");
  }
}

const silent = (): StreamWriter => new Sent().writer;
const reading = (
  pieces: readonly (Uint8Array | string)[],
  options: FileOptions = {},
  limits = {},
): TextReader => {
  const bytes = pieces.map((piece) => (typeof piece === "string" ? utf8(piece) : piece));
  return openFile(new Dribbler(bytes, limits).reader, silent(), "r", options);
};
/** A reader that has what it is given and waits for more, and a file of it. */
const live = (options: FileOptions = {}): { reader: StreamReader; file: TextReader } => {
  const reader = new StreamReader();
  return { reader, file: openFile(reader, silent(), "r", options) };
};
const cut = (whole: Uint8Array, sizes: readonly number[]): Uint8Array[] => {
  const parts: Uint8Array[] = [];
  for (let at = 0, i = 0; at < whole.length; i++) {
    const size = sizes[i % sizes.length] as number;
    parts.push(whole.slice(at, at + size));
    at += size;
  }
  return parts;
};

// ---- Encodings, by definition ----

type Encoding = "utf-8" | "ascii" | "latin-1" | "utf-16-le" | "utf-16-be" | "utf-16";
const ENCODINGS = ["utf-8", "ascii", "latin-1", "utf-16-le", "utf-16-be", "utf-16"] as const;
const encode = (text: string, encoding: Encoding): Uint8Array => {
  switch (encoding) {
    case "utf-8":
      return new Uint8Array(Buffer.from(text, "utf8"));
    case "utf-16-le":
      return new Uint8Array(Buffer.from(text, "utf16le"));
    case "utf-16-be":
      return new Uint8Array(Buffer.from(text, "utf16le").swap16());
    case "utf-16":
      return new Uint8Array(Buffer.from(`\uFEFF${text}`, "utf16le"));
    default:
      return new Uint8Array(Buffer.from(text, "latin1"));
  }
};
const fits = (encoding: Encoding): RegExp =>
  encoding === "ascii" ? /[^\0-\x7f]/gu : encoding === "latin-1" ? /[^\0-\xff]/gu : /(?!)/g;

const NEWLINES = [null, "", "\n", "\r", "\r\n"] as const;
const newlines = fc.constantFrom(...NEWLINES);
const encodings = fc.constantFrom(...ENCODINGS);

/** Text that is hard on a reader: line ends in every order, pairs, marks, U+FFFD, and plain lines. */
const texts = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "\n",
        "\r",
        "\r\n",
        "\n\r",
        "\r\r\n",
        "\0",
        "a",
        "é",
        "ÿ",
        "€",
        "😀",
        "\uFEFF",
        "\uFFFD",
        "\u2028",
        "\x85",
      ),
      fc.constantFrom("\u0A0D", "\u0D0A", "\u0A0A", "\u0D0D"), // whose bytes in UTF-16 are those of line ends
      fc.stringMatching(/^[ -~]{0,12}$/),
    ),
    { maxLength: 30 },
  )
  .map((parts) => parts.join(""));

/** Bytes that are not text everywhere. */
const broken: Record<Encoding, fc.Arbitrary<Uint8Array>> = (() => {
  const mixed = (encoding: Encoding, wrong: fc.Arbitrary<readonly number[]>): fc.Arbitrary<Uint8Array> =>
    fc
      .array(
        fc.oneof(
          {
            weight: 3,
            arbitrary: texts.map((text) => [
              ...encode(
                text.replace(fits(encoding), "?").slice(0, 8),
                encoding === "utf-16" ? "utf-16-le" : encoding,
              ),
            ]),
          },
          { weight: 1, arbitrary: wrong },
        ),
        { maxLength: 10 },
      )
      .map((parts) => new Uint8Array(parts.flat()));
  const utf8Wrong = fc.constantFrom(
    [0xff],
    [0xc3],
    [0xe2, 0x82],
    [0xe2, 0x82, 0x0a],
    [0xf0, 0x9f, 0x98],
    [0xf0, 0x9f, 0x0d],
    [0x80],
    [0xed, 0xa0, 0x80],
    [0xc0, 0x8a],
    [0xf4, 0x90, 0x80, 0x80],
    [0xf5],
    [0xe0, 0x9f, 0xbf],
    [0xf0, 0x8f, 0xbf, 0xbf],
    [0xf0, 0xc3, 0xa9],
  );
  const le = fc.constantFrom(
    [0x00, 0xd8],
    [0x00, 0xdc],
    [0x3d, 0xd8, 0x0a, 0x00],
    [0x00, 0xd8, 0x00, 0xd8, 0x00, 0xdc],
  );
  const be = le.map((bytes) => bytes.map((_, i) => bytes[i ^ 1] as number));
  const lone = fc.constantFrom([], [0x41], [0x00, 0xd8, 0x41], [0x41, 0x42, 0xd8]);
  const tailed = (bytes: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Uint8Array> =>
    fc.tuple(bytes, lone).map(([whole, tail]) => new Uint8Array([...whole, ...tail]));
  const leBytes = tailed(mixed("utf-16-le", le));
  return {
    "utf-8": fc.oneof(mixed("utf-8", utf8Wrong), fc.uint8Array({ maxLength: 40 })),
    ascii: mixed("ascii", fc.constantFrom([0x80], [0xff], [0xe9, 0x0a])),
    "latin-1": fc.uint8Array({ maxLength: 40 }),
    "utf-16-le": leBytes,
    "utf-16-be": tailed(mixed("utf-16-be", be)),
    "utf-16": fc
      .tuple(fc.constantFrom([0xff, 0xfe], [0xff, 0xfe], [0xfe, 0xff], [], [0xff]), leBytes)
      .map(([mark, rest]) => new Uint8Array([...mark, ...(mark.length === 1 ? [] : rest)])),
  };
})();

type Call = ["read" | "readline" | "readlines", number?];
const calls: fc.Arbitrary<Call[]> = fc.array(
  fc.oneof(
    fc.tuple(fc.constant("read" as const), fc.nat(9)),
    fc.tuple(fc.constant("readline" as const)),
    fc.tuple(fc.constant("readline" as const), fc.integer({ min: 1, max: 6 })), // of 0, CPython decodes the next bytes all the same
    fc.tuple(fc.constant("readlines" as const), fc.integer({ min: 1, max: 9 })),
  ),
  { maxLength: 12 },
);
const cuts = fc.array(fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 30 })), {
  minLength: 1,
  maxLength: 12,
});

const made = (file: TextReader, [name, size]: Call): Promise<unknown> => file[name](size);
/** What each call gives, or the message it rejects with; and then all that is left. */
const results = async (file: TextReader, list: readonly Call[]): Promise<unknown[]> => {
  const given: unknown[] = [];
  for (const call of [...list, ["read"] as Call]) {
    given.push(await made(file, call).catch((error: Error) => error.message));
  }
  return given;
};

// ---- What the io module of CPython gives ----

const python3 = peer("python3");

/** Runs `program` in one process, with `input` as JSON on its stdin; returns the JSON it prints. */
const askPython = (program: string, input: unknown): unknown =>
  JSON.parse(
    execFileSync(python3!, ["-c", program], {
      input: JSON.stringify(input),
      encoding: "utf8",
      maxBuffer: 1 << 26,
    }),
  );

const READ = `
import base64, io, json, sys
class Pieces(io.RawIOBase):
    def __init__(self, pieces): self.pieces = pieces
    def readable(self): return True
    def readinto(self, into):
        if not self.pieces: return 0
        piece = self.pieces.pop(0)
        size = min(len(piece), len(into))
        into[:size] = piece[:size]
        if size < len(piece): self.pieces.insert(0, piece[size:])
        return size
def run(case):
    raw = Pieces([base64.b64decode(piece) for piece in case["pieces"]])
    file = io.TextIOWrapper(io.BufferedReader(raw), case["encoding"], case["errors"], case["newline"])
    given = []
    try:
        for name, *sizes in case["calls"]: given.append(getattr(file, name)(*sizes))
    except UnicodeDecodeError as error: given.append([error.start, error.end])
    except UnicodeError as error: given.append(str(error))
    return given
print(json.dumps([run(case) for case in json.load(sys.stdin)]))
`;

const WRITE = `
import base64, json, socket, sys
def run(case):
    ours, peer = socket.socketpair()
    given = []
    with ours, peer:
        file = ours.makefile("w", encoding=case["encoding"], errors=case["errors"], newline=case["newline"])
        for text in case["texts"]:
            try: given.append(file.write(text))
            except UnicodeEncodeError as error: given.append("EILSEQ")
        file.close()
        ours.shutdown(socket.SHUT_WR)
        return [given, base64.b64encode(peer.makefile("rb").read()).decode()]
print(json.dumps([run(case) for case in json.load(sys.stdin)]))
`;

const MODES = `
import json, socket, sys
def run(mode):
    try: file = socket.socket().makefile(mode)
    except ValueError as error: return "ValueError"
    return [type(file).__name__, file.readable(), file.writable()]
print(json.dumps([run(mode) for mode in json.load(sys.stdin)]))
`;

// Another version may have other results: what is compared with is the io module of 3.8 and after, in C.
describe.skipIf(python3 === null)(
  python3 ? "as CPython's io has it" : "SKIPPED, no python3: files were NOT compared with CPython's",
  () => {
    test("what is read: 600 streams in every encoding and newline mode, cut anywhere", async () => {
      const errors = fc.constantFrom("replace", "ignore", "strict" as const);
      const cases = fc
        .sample(
          fc.oneof(
            fc.tuple(texts, encodings, errors).map(([text, encoding, errors]) => ({
              bytes: encode(text.replace(fits(encoding), "?"), encoding),
              encoding: encoding as string,
              errors,
            })),
            fc
              .tuple(encodings, fc.constantFrom("replace", "ignore" as const))
              .chain(([encoding, errors]) =>
                broken[encoding].map((bytes) => ({ bytes, encoding: encoding as string, errors })),
              ),
            fc
              .tuple(fc.constantFrom("koi8-r", "iso-8859-2"), fc.uint8Array({ maxLength: 40 }))
              .map(([encoding, bytes]) => ({ bytes, encoding, errors: "strict" as const })),
          ),
          { numRuns: 600, seed: 47 },
        )
        .map((stream, i) => {
          const [newline, sizes, list] = fc.sample(fc.tuple(newlines, cuts, calls), {
            numRuns: 1,
            seed: i,
          })[0]!;
          return {
            ...stream,
            newline,
            pieces: cut(stream.bytes, sizes),
            calls: [...list, ["read"]] as Call[],
          };
        });
      const theirs = askPython(
        READ,
        cases.map((each) => ({
          ...each,
          bytes: undefined,
          pieces: each.pieces.map((piece) => Buffer.from(piece).toString("base64")),
        })),
      ) as unknown[][];
      for (const [i, { pieces, encoding, errors, newline, calls }] of cases.entries()) {
        const file = reading(pieces, { encoding, errors: errors as "strict", newline });
        const ours: unknown[] = [];
        try {
          for (const call of calls) ours.push(await made(file, call));
        } catch (error) {
          ours.push((error as Error).message);
        }
        const expected = theirs[i]!.map((value, n) => {
          if (value === "" && calls[n]![1] !== 0) return null; // the end is null here
          if (value === "UTF-16 stream does not start with BOM")
            return expect.stringMatching(/^EILSEQ: utf-16 begins with/);
          return value;
        });
        expect(ours, `${JSON.stringify({ pieces, encoding, errors, newline, calls })}`).toEqual(expected);
      }
    });

    test("which bytes are wrong: 300 streams", async () => {
      const cases = fc
        .sample(
          fc
            .tuple(encodings, newlines, cuts)
            .chain(([encoding, newline, sizes]) =>
              broken[encoding].map((bytes) => ({ encoding, newline, bytes, pieces: cut(bytes, sizes) })),
            ),
          { numRuns: 300, seed: 84 },
        )
        .map((each) => ({ ...each, errors: "strict", calls: [["read"]] }));
      const theirs = askPython(
        READ,
        cases.map((each) => ({ ...each, pieces: [Buffer.from(each.bytes).toString("base64")] })),
      ) as unknown[][];
      let wrong = 0;
      for (const [i, { bytes, pieces, encoding, newline }] of cases.entries()) {
        const [theirs1] = theirs[i]!;
        const ours = await reading(pieces, { encoding, newline })
          .read()
          .catch((error: Error) => error.message);
        const label = JSON.stringify({ pieces: pieces.map(shown), encoding });
        if (typeof theirs1 === "string") {
          if (theirs1.startsWith("UTF-16 stream"))
            expect(ours, label).toMatch(/^EILSEQ: utf-16 begins with a byte order mark/);
          else expect(ours, label).toBe(theirs1 === "" ? null : theirs1);
        } else {
          wrong++;
          const [start, end] = theirs1 as [number, number];
          const hex = [...bytes.subarray(start, end)]
            .map((byte) => byte.toString(16).padStart(2, "0"))
            .join(" ");
          const said = `EILSEQ: the bytes ${hex} at offset ${start} are not ${encoding}`;
          // Where both hold: we say first that the mark is missing.
          if (!/utf-16 begins/.test(String(ours)))
            expect(String(ours).replace(/-[lb]e$/, ""), label).toBe(said.replace(/-[lb]e$/, ""));
          else expect([encoding, [...bytes.subarray(0, 2)].join()], label).not.toContain("255,254");
        }
      }
      expect(wrong).toBeGreaterThan(100);
    });

    test("what is written: 300 files", () => {
      const hard = fc.array(
        fc.oneof(texts, fc.constantFrom("\ud800", "a\udc00b", "\udc00\ud800", "😀\ud83d")),
        { maxLength: 6 },
      );
      const cases = fc.sample(
        fc.record({
          encoding: fc.constantFrom(...ENCODINGS.filter((encoding) => encoding !== "utf-16")),
          errors: fc.constantFrom("strict", "replace", "ignore" as const),
          newline: newlines,
          texts: hard,
        }),
        { numRuns: 300, seed: 7 },
      );
      const theirs = askPython(WRITE, cases) as [unknown[], string][];
      for (const [i, { texts, ...options }] of cases.entries()) {
        const sent = new Sent();
        const file = openFile(StreamReader.of(utf8("")), sent.writer, "w", options as FileOptions);
        const given = texts.map((text) => {
          const outcome = codeThrown(() => file.write(text));
          return Array.isArray(outcome) ? outcome[1] : outcome;
        });
        void file.close();
        const [counts, bytes] = theirs[i]!;
        expect([given, sent.all], JSON.stringify(cases[i])).toEqual([
          counts,
          Buffer.from(bytes, "base64").toString("latin1"),
        ]);
      }
    });

    test("which modes there are: every string of up to four of r, w, b and x", () => {
      const modes = [""];
      for (const mode of modes)
        if (mode.length < 4) modes.push(...["r", "w", "b", "x"].map((char) => mode + char));
      const theirs = askPython(MODES, modes) as (string | [string, boolean, boolean])[];
      const reader = new StreamReader();
      const writer = silent();
      expect(modes.length).toBe(341);
      for (const [i, mode] of modes.entries()) {
        let ours: string | [string, boolean, boolean];
        try {
          const file: unknown = openFile(reader, writer, mode as FileMode);
          if (file === reader) ours = ["BufferedReader", true, false];
          else if (file === writer) ours = ["BufferedWriter", false, true];
          else {
            const text = file as TextFile;
            const name = mode.includes("b") ? "BufferedRWPair" : "TextIOWrapper";
            const writable = !String(codeThrown(() => text.write(""))).startsWith("EBADF");
            ours = [name, mode === "" || /r/.test(mode) || !/w/.test(mode), writable];
          }
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
          ours = "ValueError";
        }
        expect(ours, JSON.stringify(mode)).toEqual(theirs[i]);
      }
    });
  },
);

describe("the same, however the bytes are cut", () => {
  const limits = fc.record({
    maxLine: fc.constantFrom(0, 1, 3, 8, 65_536),
    maxRead: fc.constantFrom(2, 5, 16, 1 << 20),
  });

  test("what every call gives and rejects with, in every mode", async () => {
    await fc.assert(
      fc.asyncProperty(
        encodings.chain((encoding) => fc.tuple(fc.constant(encoding), broken[encoding])),
        newlines,
        fc.constantFrom("strict", "replace", "ignore" as const),
        calls,
        cuts,
        limits,
        async ([encoding, bytes], newline, errors, list, sizes, bounds) => {
          const options = { encoding, newline, errors };
          const whole = await results(reading([bytes], options, bounds), list);
          const pieces = await results(reading(cut(bytes, sizes), options, bounds), list);
          const single = await results(reading(cut(bytes, [1]), options, bounds), list);
          expect(pieces).toEqual(whole);
          expect(single).toEqual(whole);
        },
      ),
      { numRuns: 1500 },
    );
  });

  test("what is read is what was written", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(texts, { maxLength: 5 }),
        encodings,
        newlines,
        cuts,
        async (parts, encoding, newline, sizes) => {
          const sent = new Sent();
          const writer = openFile(new StreamReader(), sent.writer, "w", {
            encoding,
            newline,
            errors: "replace",
          });
          writer.writelines(parts);
          await writer.close();
          const bytes = new Uint8Array(Buffer.from(sent.all, "latin1"));
          const text = parts.join("").replace(fits(encoding), "?");
          const translated = newline === "\r" || newline === "\r\n" ? text.replaceAll("\n", newline) : text;
          const file = reading(cut(bytes, sizes), { encoding, newline: "" });
          expect((await file.readlines()).join("")).toBe(translated);
        },
      ),
    );
  });

  test("another encoding of the platform's, whose line ends are looked for in its bytes", async () => {
    const japanese = new Uint8Array([
      0x83, 0x5c, 0x0d, 0x0a, 0x82, 0xa0, 0x0d, 0x41, 0x0a, 0x83, 0x0a, 0x93, 0xfa,
    ]); // 83 0A is none
    const sifted = { strict: null, replace: "\uFFFD\n", ignore: "\n" } as const;
    for (const errors of ["replace", "ignore", "strict"] as const) {
      for (const sizes of [[100], [1], [2], [3]]) {
        const file = reading(cut(japanese, sizes), { encoding: "shift_jis", errors });
        expect([
          await file.readline(),
          await file.read(1),
          await file.readline(),
          await file.readline(),
        ]).toEqual(["ソ\n", "あ", "\n", "A\n"]);
        if (errors === "strict") {
          for (let again = 0; again < 2; again++) expect(await codeOf(file.readline())).toBe("EILSEQ");
          await expect(file.readline()).rejects.toThrow(/not shift_jis/);
        } else {
          expect([await file.readline(), await file.read(), await file.read()]).toEqual([
            sifted[errors],
            "日",
            null,
          ]);
        }
      }
    }
  });
});

describe("nothing is taken ahead", () => {
  /** How many bytes were taken out of the socket. */
  const taken = (reader: StreamReader): number => reader.bytesRead - reader.buffered;

  test("after each call, just the bytes of what was given are gone", async () => {
    await fc.assert(
      fc.asyncProperty(
        texts,
        fc.constantFrom(...ENCODINGS.filter((encoding) => encoding !== "utf-16")),
        fc.constantFrom("\n", "\r", "\r\n" as const),
        calls,
        cuts,
        async (hard, encoding, newline, list, sizes) => {
          const text = hard.replace(fits(encoding), "?");
          const bytes = encode(text, encoding);
          for (const pieces of [[bytes], cut(bytes, sizes)]) {
            const { reader } = new Dribbler(pieces);
            const file = openFile(reader, silent(), "r", { encoding, newline });
            let given = "";
            for (const call of list) {
              const got = await made(file, call);
              given += Array.isArray(got) ? got.join("") : (got ?? "");
              expect(taken(reader)).toBe(encode(given, encoding).length);
            }
            const rest = await reader.read();
            expect(shown(rest ?? new Uint8Array())).toBe(
              shown(bytes.subarray(encode(given, encoding).length)),
            );
          }
        },
      ),
    );
  });

  test("by default: lines of all three ends, then recv()", async () => {
    for (const sizes of [[100], [1]]) {
      const { reader } = new Dribbler(cut(utf8("a\nb\r\nc\rdé€rest"), sizes));
      const file = openFile(reader, silent());
      expect([await file.readline(), taken(reader)]).toEqual(["a\n", 2]);
      expect([await file.readline(), await file.readline(), await file.read(3)]).toEqual([
        "b\n",
        "c\n",
        "dé€",
      ]);
      expect(taken(reader)).toBe(13);
      expect(shown((await reader.read())!)).toBe("rest");
    }
  });

  test('with newline "", one character behind a lone \\r', async () => {
    const { reader } = new Dribbler([utf8("a\rbc\r\nd")]);
    const file = openFile(reader, silent(), "r", { newline: "" });
    expect([await file.readline(), taken(reader)]).toEqual(["a\r", 3]);
    expect([await file.readline(), taken(reader)]).toEqual(["bc\r\n", 6]);
  });

  test("two files of one socket, and its reader, take turns", async () => {
    const { reader } = new Dribbler([utf8("one\ntwo\n"), utf8("three\nfour\nfive")]);
    const [a, b] = [openFile(reader, silent()), openFile(reader, silent(), "rb")];
    const c = openFile(reader, silent(), "r", { encoding: "ascii" });
    expect(b).toBe(reader);
    expect([await a.readline(), shown((await b.readline())!), await c.readline()]).toEqual([
      "one\n",
      "two\n",
      "three\n",
    ]);
    expect([await reader.line(), await a.readline(), await c.readline()]).toEqual(["four", "five", null]);
  });

  test("another reader may take bytes that this file has looked at", async () => {
    const { reader } = new Dribbler([utf8("a\nb\nc\nd\n")]);
    const file = openFile(reader, silent());
    expect(await file.readline()).toBe("a\n");
    expect(shown((await reader.recv(3))!)).toBe("b\nc");
    expect(await file.readlines()).toEqual(["\n", "d\n"]);
  });
});

describe("a line ends as soon as that is known", () => {
  test("a \\r at the end of what has come ends it, and a \\n that comes later is its own", async () => {
    const { reader, file } = live();
    reader.push(utf8("login:\r"));
    expect(await file.readline()).toBe("login:\n");
    const next = file.readline();
    reader.push(utf8("\n"));
    expect(await waits(next)).toBe(true); // that \n was no line
    reader.push(utf8("ok\r"));
    expect(await next).toBe("ok\n");
    reader.push(utf8("\n"));
    reader.end();
    expect(await file.readline()).toBe(null);
  });

  test("characters are given as they are asked for", async () => {
    const { reader, file } = live();
    reader.push(utf8("ab\r"));
    expect(await file.read(3)).toBe("ab\n");
    const next = file.read(1);
    reader.push(utf8("\r"));
    expect(await next).toBe("\n");
  });

  test.each([
    ["", "a\r", "\n", "a\r\n"],
    ["", "a\r", "b", "a\r"],
    ["\r\n", "a\r", "\n", "a\r\n"],
    ["\n", "a\r", "\n", "a\r\n"],
  ] as const)("newline %j: %j waits for what follows", async (newline, first, second, line) => {
    const { reader, file } = live({ newline });
    reader.push(utf8(first));
    const reads = file.readline();
    expect(await waits(reads)).toBe(true);
    reader.push(utf8(second));
    expect(await reads).toBe(line);
  });

  test("but not where that many characters are here", async () => {
    const { reader, file } = live({ newline: "" });
    reader.push(utf8("a\r"));
    expect(await file.readline(2)).toBe("a\r");
  });

  test.each([
    ["", "a\r"],
    ["\r\n", "a\r"],
  ] as const)("newline %j: the end of the stream ends it", async (newline, line) => {
    const file = reading(["a", "\r"], { newline });
    expect([await file.readline(), await file.readline()]).toEqual([line, null]);
  });

  test('newline "\\r" waits for nothing', async () => {
    const { reader, file } = live({ newline: "\r" });
    reader.push(utf8("a\nb\r"));
    expect(await file.readline()).toBe("a\nb\r");
  });
});

describe("reading", () => {
  test("sizes are characters: a pair is one", async () => {
    const file = reading(["a😀é", "€b\n"]);
    expect([await file.read(2), await file.readline(2), await file.read(0), await file.readline(0)]).toEqual([
      "a😀",
      "é€",
      "",
      "",
    ]);
    expect([await file.readline(9), await file.readline(9), await file.read(1), await file.read()]).toEqual([
      "b\n",
      null,
      null,
      null,
    ]);
  });

  test("lines are iterated to the end; leaving the loop closes nothing", async () => {
    const file = reading(["a\nb\r\nc", "\nd"]);
    for await (const line of file) {
      expect(line).toBe("a\n");
      break;
    }
    const lines: string[] = [];
    for await (const line of file) lines.push(line);
    expect([lines, await file.readlines(), file.closed]).toEqual([["b\n", "c\n", "d"], [], false]);
  });

  test("a byte order mark is text in utf-8, and tells the order in utf-16", async () => {
    expect(await reading([new Uint8Array([0xef, 0xbb]), new Uint8Array([0xbf, 0x61])]).read()).toBe(
      "\uFEFFa",
    );
    for (const bytes of [
      [0xff, 0xfe, 0x0a, 0x4e, 0x0a, 0],
      [0xfe, 0xff, 0x4e, 0x0a, 0, 0x0a],
    ]) {
      for (const sizes of [[6], [1], [3]]) {
        const file = reading(cut(new Uint8Array(bytes), sizes), { encoding: "utf-16" });
        expect([await file.readline(), await file.readline()]).toEqual(["\u4e0a\n", null]);
      }
    }
  });

  test.each([
    ["UTF8", "é", "utf-8"],
    ["utf_8", "é", "utf-8"],
    ["U8", "é", "utf-8"],
    ["unicode-1-1-utf-8", "é", "utf-8"],
    ["latin-1", "\x80ÿ", "latin-1"], // not windows-1252, as TextDecoder has it
    ["ISO-8859-1", "\x80ÿ", "latin-1"],
    ["iso8859_1", "\x80", "latin-1"],
    ["L1", "\x80", "latin-1"],
    ["latin1", "\x80", "latin-1"],
    ["us-ascii", "a", "ascii"],
    ["ANSI_X3.4-1968", "a", "ascii"],
    ["646", "a", "ascii"],
    ["utf-16-le", "é\n", "utf-16-le"],
    ["UTF-16LE", "é\n", "utf-16-le"],
    ["unicode", "é\n", "utf-16-le"],
    ["utf_16_be", "é\n", "utf-16-be"],
    ["u16", "é\n", "utf-16"],
  ] as const)("the encoding %s", async (encoding, text, meant) => {
    expect(await reading([encode(text, meant)], { encoding }).readlines()).toEqual([text]);
  });

  test("labels of the Encoding Standard can be read, and not be written", async () => {
    expect(await reading([new Uint8Array([0x80, 0x81])], { encoding: "cp1252" }).read()).toBe("€\x81");
    expect(await reading([new Uint8Array([0xa4, 0xa2])], { encoding: "euc_jp" }).read()).toBe("あ");
    expect(() => openFile(new StreamReader(), silent(), "w", { encoding: "cp1252" })).toThrow(
      /^windows-1252 can be read, but not written; for writing there are utf-8, ascii, latin-1, utf-16, utf-16-le and utf-16-be$/,
    );
    expect(() => reading([], { encoding: "utf-33" })).toThrow(RangeError);
  });

  test("what is wrong in utf-8: named, and never passed", async () => {
    const file = reading(["fine\nok ", new Uint8Array([0xe2]), new Uint8Array([0x82, 0x41, 0x0a])]);
    expect(await file.readline()).toBe("fine\n");
    for (let again = 0; again < 2; again++) {
      await expect(file.readline()).rejects.toThrow("EILSEQ: the bytes e2 82 at offset 8 are not utf-8");
    }
    expect([await file.read(3), await codeOf(file.read(1))]).toEqual(["ok ", "EILSEQ"]);
  });

  test("what is cut off by the end is wrong, too", async () => {
    const bytes = new Uint8Array([0x61, 0xf0, 0x9f]);
    await expect(reading([bytes]).read()).rejects.toThrow(
      "EILSEQ: the bytes f0 9f at offset 1 are not utf-8",
    );
    expect(await reading([bytes], { errors: "replace" }).read()).toBe("a\uFFFD");
    expect(await reading([bytes], { errors: "ignore" }).readline()).toBe("a");
    expect(await reading([bytes.subarray(1)], { errors: "ignore" }).readline()).toBe(null);
  });

  test("a true U+FFFD is text", async () => {
    expect(await reading(["\uFFFD\n"]).readline()).toBe("\uFFFD\n");
    expect(await reading([encode("\uFFFD\n", "utf-16-be")], { encoding: "utf-16-be" }).readline()).toBe(
      "\uFFFD\n",
    );
    expect(await reading(["a\uFFFDb", new Uint8Array([0xff])], { errors: "ignore" }).read()).toBe("a\uFFFDb");
  });

  test("maxLine bounds a line without its end, in bytes; what had come can be read in pieces", async () => {
    const bounds = { maxLine: 4 };
    expect(await reading(["abcd\nabcd\r\n€a\n"], {}, bounds).readlines()).toEqual([
      "abcd\n",
      "abcd\n",
      "€a\n",
    ]);
    for (const line of ["abcde\n", "€ab\n", "abcdef"]) {
      const file = reading([...line], {}, bounds);
      await expect(file.readline()).rejects.toThrow(
        /^ERR_LIMIT: the line is longer than 4 bytes; raise maxLine/,
      );
      expect(await codeOf(file.readline())).toBe("ERR_LIMIT");
      expect(await file.readline(100)).toBe(line);
    }
    expect(
      await codeOf(reading([encode("abc\n", "utf-16-le")], { encoding: "utf-16-le" }, bounds).readline()),
    ).toBe("ERR_LIMIT");
  });

  test("a line without end is not gathered past maxLine", async () => {
    const { reader, file } = live();
    let outcome: unknown;
    void codeOf(file.readline()).then((code) => {
      outcome = code;
    });
    while (outcome === undefined) {
      reader.push(new Uint8Array(1000).fill(97));
      await settled();
    }
    expect(outcome).toBe("ERR_LIMIT");
    expect(reader.bytesRead).toBeLessThan(70_000);
  });

  test("maxRead bounds what else a call gathers", async () => {
    const bounds = { maxRead: 8 };
    const text = "abc\ndef\nghi\n";
    expect(await codeOf(reading([text], {}, bounds).read())).toBe("ERR_LIMIT");
    expect(await codeOf(reading([text], {}, bounds).read(9))).toBe("ERR_LIMIT");
    expect(await codeOf(reading([text], {}, bounds).readlines())).toBe("ERR_LIMIT");
    expect(await codeOf(reading(["€€€"], {}, bounds).read(3))).toBe("ERR_LIMIT");
    expect(await reading([text], {}, bounds).read(8)).toBe("abc\ndef\n");
    expect(await reading([text], {}, bounds).readlines(4)).toEqual(["abc\n", "def\n"]);
    expect(await reading([`${"x".repeat(20)}\n`], {}, bounds).readline()).toBe(`${"x".repeat(20)}\n`);
  });

  test("a read that fails loses nothing", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
    try {
      const { reader, file } = live();
      reader.timeout = 50;
      reader.push(utf8("half a "));
      const reads = codeOf(file.readline());
      await vi.advanceTimersByTimeAsync(60);
      expect(await reads).toBe("ETIMEDOUT");
      reader.push(utf8("line\nrest"));
      expect(await file.readline()).toBe("half a line\n");
      reader.fail("ECONNRESET");
      expect(await codeOf(file.readline())).toBe("ECONNRESET");
      expect([await file.read(4), await codeOf(file.read(1))]).toEqual(["rest", "ECONNRESET"]);
    } finally {
      vi.useRealTimers();
    }
  });

  test("a file of a socket that may not wait", async () => {
    const { reader, file } = live();
    reader.timeout = 0;
    reader.push(utf8("a\nb"));
    expect([await file.readline(), await codeOf(file.readline())]).toEqual(["a\n", "EWOULDBLOCK"]);
    reader.push(utf8("\n"));
    expect(await file.readline()).toBe("b\n");
  });

  test("one read at a time", async () => {
    const { reader, file } = live();
    const first = file.readline();
    expect([await codeOf(file.readline()), await codeOf(reader.recv())]).toEqual(["EBUSY", "EBUSY"]);
    reader.push(utf8("a\nb\n"));
    expect(await first).toBe("a\n");
    reader.end();
    expect([await file.readline(), await file.readline()]).toEqual(["b\n", null]);
  });

  test("reads wait while much output does, and lose nothing by it", async () => {
    const source = new Dribbler([utf8("a\nb\n")]);
    const file = openFile(source.reader, silent());
    expect(await file.readline()).toBe("a\n"); // and the file has looked at the next line
    source.blocked = true;
    const next = file.readline();
    expect(await waits(next)).toBe(true);
    source.blocked = false;
    source.reader.retry();
    expect([await next, await file.readline()]).toEqual(["b\n", null]);
  });

  test("many lines cost no more than their number", async () => {
    const lines = Array.from({ length: 5000 }, (_, i) => `${i} ${"é".repeat(i % 7)}\r\n`);
    const file = reading(cut(utf8(lines.join("")), [1460]));
    let count = 0;
    for await (const line of file) expect(line).toBe(lines[count++]!.replace("\r", ""));
    expect(count).toBe(5000);
  });
});

describe("writing", () => {
  const files = (options: FileOptions = {}): { sent: Sent; file: TextWriter } => {
    const sent = new Sent();
    return { sent, file: openFile(new StreamReader(), sent.writer, "w", options) };
  };

  test("gives how many characters, and gathers as the socket's writer", async () => {
    const { sent, file } = files();
    expect([file.write("a😀\n"), file.write(""), file.write("é")]).toEqual([3, 0, 1]);
    file.writelines(["x\n", "y\n"]);
    expect(sent.pieces).toEqual([]);
    await settled(); // the turn is over
    expect(sent.pieces).toEqual([shown(utf8("a😀\néx\ny\n"))]);
  });

  test("newlines become what was asked for, and are counted as they were given", async () => {
    for (const [newline, bytes] of [
      [null, "a\nb\r\n"],
      ["", "a\nb\r\n"],
      ["\n", "a\nb\r\n"],
      ["\r", "a\rb\r\r"],
      ["\r\n", "a\r\nb\r\r\n"],
    ] as const) {
      const { sent, file } = files({ newline });
      expect(file.write("a\nb\r\n")).toBe(5);
      await file.flush();
      expect(sent.all).toBe(bytes);
    }
  });

  test("utf-16 begins with one byte order mark", async () => {
    const { sent, file } = files({ encoding: "utf-16" });
    file.write("");
    file.writelines(["a", "b"]);
    await file.close();
    expect(sent.all).toBe("\xff\xfea\0b\0");
  });

  test("what the encoding has no bytes for: nothing of it is written", async () => {
    const { sent, file } = files({ encoding: "latin-1" });
    expect(() => file.write("né€")).toThrow("EILSEQ: U+20AC, at 2 in the text, cannot be written in latin-1");
    file.write("né");
    await file.close();
    expect(sent.all).toBe("n\xe9");
  });

  test("bufsize: kept until so many bytes have come together, or a flush", async () => {
    const { sent, file } = files({ bufsize: 5 });
    file.write("abé");
    await settled();
    expect(sent.pieces).toEqual([]);
    file.write("c");
    expect(sent.pieces).toEqual(["ab\xc3\xa9c"]);
    file.write("d");
    file.write("longer than that");
    expect(sent.pieces.slice(1)).toEqual(["dlonger than that"]);
    file.write("e");
    await file.flush();
    file.write("f");
    await file.close();
    expect(sent.pieces.slice(2)).toEqual(["e", "f"]);
  });

  test("bufsize 64 KiB is kept, however many pieces it comes in", () => {
    const { sent, file } = files({ bufsize: 65_536 });
    for (let i = 0; i < 6553; i++) file.write("0123456789");
    expect(sent.pieces).toEqual([]);
    file.write("0123456789");
    expect(sent.pieces.map((piece) => piece.length)).toEqual([65_540]);
  });

  test("bufsize 1 of text is line buffering", async () => {
    const { sent, file } = files({ bufsize: 1 });
    file.write("a");
    file.write("b");
    await settled();
    expect(sent.pieces).toEqual([]);
    file.write("c\nd");
    expect(sent.pieces).toEqual(["abc\nd"]);
    file.write("\r");
    file.write("x".repeat(9000));
    expect(sent.pieces.map((piece) => piece.length)).toEqual([5, 1, 9000]);
  });

  test("bytes with a bufsize: a view of the writer; those given are copied", async () => {
    const sent = new Sent();
    const none: BinaryWriter = openFile(new StreamReader(), sent.writer, "wb", { bufsize: 0 });
    none.write("at once");
    expect(sent.pieces).toEqual(["at once"]);
    const some = openFile(new StreamReader(), sent.writer, "wb", { bufsize: 4 });
    const bytes = new Uint8Array([97, 98]);
    expect(some.write(bytes)).toBe(2);
    bytes.fill(0);
    some.writelines(["c", "d"]);
    expect(sent.pieces).toEqual(["at once", "abcd"]);
    some.write("e");
    await some.close();
    expect(sent.pieces).toEqual(["at once", "abcd", "e"]);
    expect(codeThrown(() => some.write("f"))).toBe("EBADF");
    expect(openFile(new StreamReader(), sent.writer, "wb", { bufsize: -1 })).toBe(sent.writer);
  });

  test("a write that fails took nothing, and what was kept is there to be tried again", async () => {
    const sent = new Sent();
    const room = Promise.withResolvers<void>();
    sent.writer.maxPending = 3;
    sent.writer.whenSlow = "throw";
    const file = openFile(new StreamReader(), sent.writer, "w", { bufsize: 4 });
    file.write("abc");
    sent.room = room.promise;
    sent.writer.write("full");
    sent.writer.start();
    expect(codeThrown(() => file.write("de"))).toBe("ENOBUFS");
    sent.room = undefined;
    room.resolve();
    await settled();
    file.write("d");
    expect(sent.pieces).toEqual(["full", "abcd"]);
  });

  test("flush() waits for room, and close() for flush()", async () => {
    const { sent, file } = files();
    const room = Promise.withResolvers<void>();
    sent.room = room.promise;
    file.write("a");
    const closed = file.close();
    expect([file.closed, await waits(closed)]).toEqual([true, true]);
    room.resolve();
    await closed;
  });

  test("errors of the socket are told", async () => {
    const { sent, file } = files();
    sent.writer.end();
    expect([
      codeThrown(() => file.write("a")),
      await codeOf(file.flush()),
      await codeOf(file.close()),
    ]).toEqual(["EPIPE", "EPIPE", "EPIPE"]);
    expect(file.closed).toBe(true);
  });
});

describe("files", () => {
  const pair = (): { reader: StreamReader; sent: Sent } => ({
    reader: StreamReader.of(utf8("a\nb\n")),
    sent: new Sent(),
  });

  test("rb is the reader and wb the writer; others wrap them", () => {
    const { reader, sent } = pair();
    expect(openFile(reader, sent.writer, "rb")).toBe(reader);
    expect(openFile(reader, sent.writer, "rb", { bufsize: 10 })).toBe(reader);
    expect(openFile(reader, sent.writer, "wb")).toBe(sent.writer);
    expectTypeOf(openFile(reader, sent.writer)).toEqualTypeOf<TextReader>();
    expectTypeOf(openFile(reader, sent.writer, "r")).toEqualTypeOf<TextReader>();
    expectTypeOf(openFile(reader, sent.writer, "w")).toEqualTypeOf<TextWriter>();
    expectTypeOf(openFile(reader, sent.writer, "rw")).toEqualTypeOf<TextFile>();
    expectTypeOf(openFile(reader, sent.writer, "rb")).toEqualTypeOf<StreamReader>();
    expectTypeOf(openFile(reader, sent.writer, "wb")).toEqualTypeOf<StreamWriter>();
    expectTypeOf(openFile(reader, sent.writer, "wb", { bufsize: 0 })).toEqualTypeOf<BinaryWriter>();
    expectTypeOf(openFile(reader, sent.writer, "rwb")).toEqualTypeOf<BinaryFile>();
    // @ts-expect-error: a reader does not write, and a writer does not read
    void openFile(reader, sent.writer, "r").write;
    // @ts-expect-error
    void openFile(reader, sent.writer, "w").read;
  });

  test("rw reads and writes, and writing loses nothing that was read", async () => {
    const { sent } = pair();
    const file = openFile(StreamReader.of(utf8("a\rb\r\nc")), sent.writer, "rw", { newline: "" });
    expect(await file.readline()).toBe("a\r");
    expect(file.write("answer\n")).toBe(7);
    expect([await file.readline(), await file.read()]).toEqual(["b\r\n", "c"]);
    await file.close();
    expect(sent.all).toBe("answer\n");
  });

  test("rwb reads and writes bytes", async () => {
    const { reader, sent } = pair();
    const file = openFile(reader, sent.writer, "rwb");
    expect([file.write("x"), shown((await file.readline())!), shown((await file.read(1))!)]).toEqual([
      1,
      "a\n",
      "b",
    ]);
    expect((await file.readlines()).map(shown)).toEqual(["\n"]);
    for await (const line of file) expect.unreachable(shown(line));
    file.writelines(["y", utf8("z")]);
    await file.flush();
    expect(sent.all).toBe("xyz");
    await file.close();
    expect([
      await codeOf(file.read()),
      await codeOf(file.readline()),
      codeThrown(() => file.write("a")),
    ]).toEqual(["EBADF", "EBADF", "EBADF"]);
  });

  test("after close() every call says EBADF; the socket lives on", async () => {
    const { reader, sent } = pair();
    const file = openFile(reader, sent.writer, "rw", { bufsize: 100 });
    file.write("kept");
    await file.close();
    await file.close();
    expect([file.closed, sent.all]).toEqual([true, "kept"]);
    for (const call of [file.read(), file.read(1), file.readline(), file.readlines(), file.flush()]) {
      expect(await codeOf(call)).toBe("EBADF");
    }
    expect(await codeOf(file[Symbol.asyncIterator]().next())).toBe("EBADF");
    expect([codeThrown(() => file.write("a")), codeThrown(() => file.writelines(["a"]))]).toEqual([
      "EBADF",
      "EBADF",
    ]);
    sent.writer.write("more");
    await sent.writer.flush();
    expect([await reader.line(), sent.all]).toEqual(["a", "keptmore"]);
  });

  test("a read that waits while the file is closed takes nothing", async () => {
    const { reader, file } = live();
    const reads = codeOf(file.readline());
    await file.close();
    reader.push(utf8("a\n"));
    expect([await reads, await reader.line()]).toEqual(["ECANCELED", "a"]);
  });

  test("await using closes", async () => {
    const sent = new Sent();
    let kept: TextWriter;
    {
      await using file = openFile(new StreamReader(), sent.writer, "w", { bufsize: 100 });
      file.write("a");
      kept = file;
    }
    expect([kept.closed, sent.all]).toEqual([true, "a"]);
  });

  test("a file for reading does not write, nor the other way round", async () => {
    const { reader, sent } = pair();
    const input = openFile(reader, sent.writer) as TextFile;
    const output = openFile(reader, sent.writer, "w") as TextFile;
    expect(() => input.write("a")).toThrow(
      /^EBADF: this file only reads; open it with "w" in its mode to write$/,
    );
    await expect(output.read()).rejects.toThrow(
      /^EBADF: this file only writes; open it with "r" in its mode to read$/,
    );
    await input.flush(); // as in CPython
    const bytes = openFile(reader, sent.writer, "wb", { bufsize: 1 }) as BinaryFile;
    expect(await codeOf(bytes.readline())).toBe("EBADF");
  });

  test("wrong arguments are told at once", async () => {
    const { reader, sent } = pair();
    const open = (mode: unknown, options?: unknown) => () =>
      openFile(reader, sent.writer, mode as "r", options as FileOptions);
    expect(open("zz")).toThrow(
      new RangeError('unknown mode "zz"; a mode is made of r, w and b, such as "r", "rw" or "rb"'),
    );
    expect(open("r", { bufsize: 0 })).toThrow(
      new RangeError("text needs a buffer: bufsize 0 is for the binary modes"),
    );
    expect(open("rb", { encoding: "ascii" })).toThrow(
      new RangeError('mode "rb" is for bytes, and does not take encoding'),
    );
    for (const [mode, options] of [
      [7],
      ["r+"],
      ["w", { bufsize: -2 }],
      ["w", { bufsize: 1.5 }],
      ["r", { newline: "x" }],
      ["r", { newline: "\n\r" }],
      ["r", { errors: "surrogateescape" }],
      ["r", { encoding: "nope" }],
      ["wb", { newline: "\n" }],
      ["rwb", { errors: "strict" }],
    ] as const) {
      expect(open(mode, options), JSON.stringify([mode, options])).toThrow(RangeError);
    }
    const file = openFile(reader, sent.writer, "rw");
    for (const size of [-1, 1.5, Number.NaN]) {
      expect(() => file.read(size)).toThrow(RangeError);
      expect(() => file.readline(size)).toThrow(RangeError);
      expect(() => file.readlines(size)).toThrow(RangeError);
    }
    expect(() => file.read("1" as never)).toThrow(TypeError);
    expect(() => file.write(utf8("a") as never)).toThrow(TypeError);
  });
});

describe("mixed with other reads of the stream", () => {
  test("a \\n belongs to the \\r before it only where it is the next byte of the stream", async () => {
    const { reader, file } = live();
    reader.push(utf8("a\r"));
    expect(await file.readline()).toBe("a\n");
    reader.push(utf8("\nb\n\nc\n"));
    expect(shown((await reader.recv(3)) as Uint8Array)).toBe("\nb\n"); // that \n among them
    expect(await file.readline()).toBe("\n");
    expect(await file.readline()).toBe("c\n");
    const ignoring = live({ errors: "ignore" });
    ignoring.reader.push(utf8("a\r"));
    expect(await ignoring.file.readline()).toBe("a\n");
    ignoring.reader.push(new Uint8Array([0xff, 10, 98, 10]));
    expect(await ignoring.file.readline()).toBe("b\n"); // as all at once: what is left out is not between the two
  });

  test("a look that failed, since another read waits, leaves nothing wrong behind", async () => {
    const reader = new StreamReader();
    const bytes = openFile(reader, silent(), "r");
    const units = openFile(reader, silent(), "r", { encoding: "utf-16-le" });
    reader.push(utf8("\nabc"));
    expect(await bytes.readline()).toBe("\n"); // it has seen the abc, too
    reader.push(utf8("\n\n"));
    const waiting = units.readline(); // two characters, and half of a third
    expect(await waits(waiting)).toBe(true);
    expect(await codeOf(bytes.read())).toBe("EBUSY");
    reader.push(utf8("\0xyz"));
    expect(await waiting).toBe("\u6261\u0a63\n");
    reader.end();
    expect(await bytes.read()).toBe("xyz");
  });

  test("readlines() that fails loses no line", async () => {
    const { reader, file } = live();
    reader.push(utf8("a\nb\nc"));
    reader.timeout = 0;
    expect(await codeOf(file.readlines())).toBe("EWOULDBLOCK");
    expect(await file.readline()).toBe("a\n");
    reader.end();
    expect(await file.readlines()).toEqual(["b\n", "c"]);
  });
});
