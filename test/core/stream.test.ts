import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { type Data, STREAM_LIMITS, toBytes } from "../../core/bytes/data.ts";
import { type ReaderSource, StreamReader } from "../../core/bytes/reader.ts";
import { StreamWriter, type WriterTarget } from "../../core/bytes/writer.ts";
import { SocketError } from "../../core/errors.ts";
import { fc } from "../conformance/properties.ts";
import { codeOf, codeThrown, settled, waits } from "./outcome.ts";

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (bytes: Uint8Array | null): string | null =>
  bytes && new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
/** Bytes as something that compares fast and prints short: a character each. */
const shown = (bytes: Uint8Array | null): string | null => bytes && Buffer.from(bytes).toString("latin1");

/** A source that the test drives; it counts what it is told. */
class Source implements ReaderSource {
  resumed = 0;
  paused = 0;
  blocked = false;
  onresume: () => void = () => {};
  resume(): void {
    this.resumed++;
    this.onresume();
  }
  pause(): void {
    this.paused++;
  }
}

const KiB = 1024;

// ---- The oracle: the whole stream in one array, and reads by definition ----

type Read =
  | { kind: "recv" | "recvInto" | "read" | "readexactly" | "readline"; size: number }
  | { kind: "readuntil"; separator: Uint8Array }
  | { kind: "readAll" | "readLine" | "line" | "tryLine" | "lines" };

/** What one read gives of `rest`, where nothing more comes; and how much of it that takes. */
const oracle = (rest: Uint8Array, read: Read): [value: unknown, taken: number] => {
  const newline = rest.indexOf(10);
  const line = newline < 0 ? rest.length : newline + 1;
  const upTo = (size: number): [unknown, number] =>
    rest.length === 0 && size > 0 ? [null, 0] : [shown(rest.subarray(0, size)), Math.min(size, rest.length)];
  switch (read.kind) {
    case "read":
      return upTo(read.size);
    case "readAll":
      return rest.length === 0 ? [null, 0] : upTo(rest.length);
    case "readexactly":
      return rest.length < read.size ? ["ERR_INCOMPLETE_READ", 0] : upTo(read.size);
    case "readline":
      return upTo(Math.min(read.size, Math.max(line, read.size === 0 ? 0 : 1)));
    case "readLine":
      return rest.length === 0 ? [null, 0] : upTo(line);
    case "readuntil": {
      const mark = [...read.separator];
      for (let i = 0; i + mark.length <= rest.length; i++) {
        if (mark.every((byte, j) => rest[i + j] === byte)) return upTo(i + mark.length);
      }
      return ["ERR_INCOMPLETE_READ", 0];
    }
    case "line":
    case "tryLine":
    case "lines": {
      if (rest.length === 0) return [null, 0];
      let end = line;
      if (newline >= 0) end = newline > 0 && rest[newline - 1] === 13 ? newline - 1 : newline;
      return [text(rest.subarray(0, end)), line];
    }
    default:
      throw new Error(`no oracle for ${read.kind}`);
  }
};

/** Bytes that are hard on a reader: line ends, NUL, BOM, U+FFFD, UTF-8 whole and broken, and plain text. */
const bytes = fc
  .array(
    fc.oneof(
      fc
        .constantFrom("\n", "\r", "\r\n", "\0", "a", "ab", "aab", "\uFEFF", "\uFFFD", "é", "€", "😀")
        .map(utf8),
      fc
        .constantFrom([0xff], [0xc3], [0xe2, 0x82], [0xf0, 0x9f], [0x80], [0xed, 0xa0, 0x80], [0xc0, 0x8a])
        .map((broken) => new Uint8Array(broken)),
      fc.stringMatching(/^[ -~]{0,40}$/).map(utf8),
      fc.uint8Array({ maxLength: 20 }),
      fc.nat(2000).map((size) => new Uint8Array(size).fill(97)),
    ),
    { maxLength: 40 },
  )
  .map((parts) => new Uint8Array(parts.flatMap((part) => [...part])));

/** Where to cut: mostly small pieces, so that trays, crumbs and large pieces mix. */
const cuts = fc.array(
  fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 3000 })),
  {
    minLength: 1,
    maxLength: 60,
  },
);

const pieces = (whole: Uint8Array, sizes: readonly number[]): Uint8Array[] => {
  const parts: Uint8Array[] = [];
  for (let at = 0, i = 0; at < whole.length; i++) {
    const size = sizes[i % sizes.length] as number;
    parts.push(whole.slice(at, at + size));
    at += size;
  }
  return parts;
};

const reads: fc.Arbitrary<Read[]> = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constantFrom("recv" as const, "recvInto" as const),
      size: fc.integer({ min: 1, max: 3000 }),
    }),
    fc.record({
      kind: fc.constantFrom("read" as const, "readexactly" as const, "readline" as const),
      size: fc.oneof(fc.nat(5), fc.nat(3000)),
    }),
    fc.record({
      kind: fc.constant("readuntil" as const),
      separator: fc.oneof(
        fc.constantFrom("\r\n", "\n", "aab", "aa", "aaaa", "\r\n\r\n", "€").map(utf8),
        fc.uint8Array({ minLength: 1, maxLength: 4 }),
      ),
    }),
    fc.constantFrom({ kind: "line" as const }, { kind: "tryLine" as const }, { kind: "lines" as const }),
    fc.constantFrom({ kind: "readLine" as const }, { kind: "line" as const }),
    { weight: 1, arbitrary: fc.constant({ kind: "readAll" as const }) },
  ),
  { maxLength: 60 },
);

const perform = async (reader: StreamReader, read: Read, kept: Uint8Array[]): Promise<unknown> => {
  const keep = (value: Uint8Array | null): unknown => {
    if (value !== null) kept.push(value);
    return shown(value);
  };
  try {
    switch (read.kind) {
      case "recv":
        return keep(await reader.recv(read.size));
      case "recvInto": {
        const buffer = new Uint8Array(read.size);
        const size = await reader.recvInto(buffer);
        return size === null ? null : keep(buffer.slice(0, size));
      }
      case "read":
        return keep(await reader.read(read.size));
      case "readAll":
        return keep(await reader.read());
      case "readexactly":
        return keep(await reader.readexactly(read.size));
      case "readline":
        return keep(await reader.readline(read.size));
      case "readLine":
        return keep(await reader.readline());
      case "readuntil":
        return keep(await reader.readuntil(read.separator));
      case "line":
        return await reader.line();
      case "tryLine":
        return reader.tryLine() ?? (await reader.line());
      case "lines": {
        const next = await reader.lines().next();
        return next.done ? null : next.value;
      }
    }
  } catch (error) {
    if (error instanceof SocketError) return error.code;
    throw error;
  }
};

/** Runs `reads` while the pieces come; compares each with the oracle, and that all bytes come once and stay. */
const compare = async (
  reader: StreamReader,
  whole: Uint8Array,
  sequence: readonly Read[],
  step: () => void,
): Promise<void> => {
  let at = 0;
  const kept: Uint8Array[] = [];
  const copies: (string | null)[] = [];
  for (const read of [...sequence, { kind: "readAll" } as Read, { kind: "line" } as Read]) {
    let done = false;
    const running = perform(reader, read, kept).finally(() => {
      done = true;
    });
    for (let turn = 0; !done; turn++) {
      await Promise.resolve();
      if (turn % 4 === 3) step();
    }
    const value = await running;
    const rest = whole.subarray(at);
    if (read.kind === "recv" || read.kind === "recvInto") {
      // As much as is here: at least one byte and at most `size`, of the next ones.
      if (rest.length === 0) {
        expect(value).toBeNull();
      } else {
        const got = value as string;
        expect(got.length).toBeGreaterThan(0);
        expect(got.length).toBeLessThanOrEqual(read.size);
        expect(got).toBe(shown(rest.subarray(0, got.length)));
        at += got.length;
      }
    } else {
      const [expected, taken] = oracle(rest, read);
      expect([read, value]).toEqual([read, expected]);
      at += taken;
    }
    for (const bytes of kept.slice(copies.length)) copies.push(shown(bytes));
  }
  expect(at).toBe(whole.length);
  expect(reader.atEnd).toBe(true);
  expect(reader.tryLine()).toBeNull();
  expect(reader.bytesRead).toBe(whole.length);
  expect(kept.map(shown)).toEqual(copies);
  for (const bytes of kept)
    expect(bytes.buffer.byteLength).toBeLessThanOrEqual(Math.max(bytes.length * 4, 64));
};

/** How pieces are given: `null`, to keep; else lent, and given away where the next of these says so. */
const lending = fc.option(fc.array(fc.boolean(), { minLength: 1, maxLength: 5 }));

const pusher = (reader: StreamReader, lent: readonly boolean[] | null) => {
  let asked = 0;
  return (bytes: Uint8Array): boolean => {
    if (lent === null) return reader.push(bytes);
    const memory = bytes.slice();
    let given = false;
    const give = (): boolean => {
      given = lent[asked++ % lent.length] as boolean;
      return given;
    };
    const more = reader.push(memory, { give, fit() {} });
    if (!given) memory.fill(0xa5); // the next bytes are read into it
    return more;
  };
};

describe("the reader against the oracle", () => {
  test("any bytes, cut anywhere, read by any mix of reads", async () => {
    await fc.assert(
      fc.asyncProperty(
        bytes,
        cuts,
        reads,
        fc.nat(20),
        lending,
        async (whole, sizes, sequence, ahead, lent) => {
          const reader = new StreamReader();
          const push = pusher(reader, lent);
          const parts = pieces(whole, sizes);
          let next = 0;
          let ended = false;
          const step = (): void => {
            // Sometimes several pieces come between two tries.
            for (let i = 0; i <= ahead && next < parts.length; i++) push(parts[next++] as Uint8Array);
            if (next === parts.length && !ended) {
              ended = true;
              reader.end();
            }
          };
          await compare(reader, whole, sequence, step);
        },
      ),
      { numRuns: 2500 },
    );
  });

  test("a source that heeds pause() and resume() completes any reads, also where it pushes inside resume()", async () => {
    const patterned = (size: number, pattern: Uint8Array): Uint8Array =>
      new Uint8Array(size * KiB).map((_, i) => pattern[i % pattern.length] as number);
    const bigReads = fc.array(
      fc.record({
        kind: fc.constantFrom("recv" as const, "read" as const, "readexactly" as const, "recvInto" as const),
        size: fc.oneof(fc.integer({ min: 1, max: 300 * KiB }), fc.integer({ min: 1, max: 64 })),
      }),
      { maxLength: 20 },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.nat(700),
        fc.uint8Array({ minLength: 1, maxLength: 9 }),
        fc.integer({ min: 1, max: 70 * KiB }),
        bigReads,
        fc.boolean(),
        fc.boolean(),
        async (kibibytes, pattern, size, sequence, atOnce, blocks) => {
          const whole = patterned(kibibytes, pattern);
          const source = new Source();
          const reader = new StreamReader(source);
          const least = Math.ceil(whole.length / 4_000); // so many pieces at most: what a test does must not depend on chance
          const parts = pieces(whole, [Math.max(size, least), Math.max(size * 3, least)]);
          let next = 0;
          let flowing = false;
          let pumping = false;
          let turn = 0;
          const pump = (): void => {
            if (pumping) return;
            pumping = true;
            while (flowing && next < parts.length) {
              reader.push(parts[next++] as Uint8Array);
              expect(reader.buffered).toBeLessThanOrEqual(256 * KiB + 210 * KiB + 300 * KiB);
            }
            if (flowing && next === parts.length) {
              next++;
              reader.end();
            }
            pumping = false;
          };
          source.pause = () => {
            flowing = false;
          };
          source.resume = () => {
            flowing = true;
            if (atOnce) pump();
          };
          await compare(reader, whole, sequence, () => {
            if (blocks) {
              source.blocked = turn++ % 3 !== 0;
              if (!source.blocked) reader.retry();
            }
            pump();
          });
        },
      ),
      { numRuns: 80 },
    );
  });
});

describe("reads", () => {
  test("tryLine: undefined while none is here, null at the end and ever after", () => {
    const reader = new StreamReader();
    expect(reader.tryLine()).toBeUndefined();
    reader.push(utf8("one\r\ntw"));
    expect([reader.tryLine(), reader.tryLine()]).toEqual(["one", undefined]);
    reader.push(utf8("o\nrest\r"));
    expect([reader.tryLine(), reader.tryLine()]).toEqual(["two", undefined]);
    reader.end();
    expect([reader.tryLine(), reader.tryLine(), reader.tryLine()]).toEqual(["rest\r", null, null]);
  });

  test("the end stays the end, for each kind of read", async () => {
    const reader = StreamReader.of(utf8(""));
    for (let i = 0; i < 2; i++) {
      expect(await reader.recv()).toBeNull();
      expect(await reader.recvInto(new Uint8Array(4))).toBeNull();
      expect(await reader.read()).toBeNull();
      expect(await reader.read(3)).toBeNull();
      expect(await reader.readline()).toBeNull();
      expect(await reader.line()).toBeNull();
      expect(await codeOf(reader.readexactly(1))).toBe("ERR_INCOMPLETE_READ");
      expect(await codeOf(reader.readuntil("\n"))).toBe("ERR_INCOMPLETE_READ");
      for await (const line of reader.lines()) expect.unreachable(line);
    }
  });

  test("a read that cannot be met keeps its bytes", async () => {
    const reader = StreamReader.of(utf8("abc"));
    expect(await codeOf(reader.readexactly(4))).toBe("ERR_INCOMPLETE_READ");
    expect(await codeOf(reader.readuntil("\r\n"))).toBe("ERR_INCOMPLETE_READ");
    expect(reader.buffered).toBe(3);
    expect(text(await reader.readexactly(3))).toBe("abc");
  });

  test("what a separator's search passed over is searched for the next separator", async () => {
    vi.useFakeTimers();
    const reader = new StreamReader();
    reader.timeout = 10;
    reader.push(utf8("a;b"));
    const first = codeOf(reader.readuntil("\r\n"));
    await vi.advanceTimersByTimeAsync(10);
    expect(await first).toBe("ETIMEDOUT");
    expect(text(await reader.readuntil(";"))).toBe("a;");
    vi.useRealTimers();
  });

  test("what one kind of read found of the line ends is right for the others after any of them", async () => {
    const reader = new StreamReader();
    reader.push(utf8(`one\nabcdefgh\n${"x\n".repeat(10)}tail\n`));
    expect(reader.tryLine()).toBe("one");
    expect(text(await reader.readline(3))).toBe("abc");
    expect(reader.tryLine()).toBe("defgh");
    for (let i = 0; i < 10; i++) expect(text(await reader.readline())).toBe("x\n");
    expect(text(await reader.readline())).toBe("tail\n");
  });

  test("a separator that its caller changes while the read waits stays what it was", async () => {
    for (const separator of [new Uint8Array([59, 59]), Buffer.from(";;")]) {
      const reader = new StreamReader();
      const reading = reader.readuntil(separator);
      separator.fill(97);
      reader.push(utf8("aaa;"));
      reader.push(utf8(";b"));
      expect(text(await reading)).toBe("aaa;;");
    }
  });

  test("one read waits at a time", async () => {
    const reader = new StreamReader();
    const first = reader.readexactly(2);
    expect(await codeOf(reader.recv())).toBe("EBUSY");
    expect(await codeOf(reader.readuntil("x"))).toBe("EBUSY");
    expect(codeThrown(() => reader.tryLine())).toBe("EBUSY");
    reader.push(utf8("ab"));
    expect(text(await first)).toBe("ab");
  });

  test("arguments that make no sense are refused at once", () => {
    const reader = new StreamReader();
    expect(() => reader.recv(-1)).toThrow(RangeError);
    expect(() => reader.recv(1.5)).toThrow(TypeError);
    expect(() => reader.read(Number.NaN)).toThrow(TypeError);
    expect(() => reader.readuntil("")).toThrow(RangeError);
    expect(() => reader.readuntil(7 as never)).toThrow(TypeError);
    expect(() => reader.recvInto("x" as never)).toThrow(TypeError);
  });

  test("recvInto fills what it is given, and no more", async () => {
    const reader = StreamReader.of(utf8("abcdef"));
    const buffer = new Uint8Array(4);
    expect(await reader.recvInto(buffer)).toBe(4);
    expect(await reader.recvInto(buffer.subarray(1, 2))).toBe(1);
    expect(await reader.recvInto(new Uint8Array(0))).toBe(0);
    expect(text(buffer)).toBe("aecd");
    expect(text(await reader.read())).toBe("f");
  });

  test("leaving a loop over lines loses none", async () => {
    const reader = StreamReader.of(utf8("1\n2\n3"));
    for await (const line of reader.lines()) {
      expect(line).toBe("1");
      break;
    }
    const rest: string[] = [];
    for await (const line of reader.lines()) rest.push(line);
    expect(rest).toEqual(["2", "3"]);
  });
});

describe("memory", () => {
  test("what is given never changes, and holds little more than itself", async () => {
    const reader = new StreamReader();
    reader.push(new Uint8Array(64 * KiB).subarray(100, 140).fill(1)); // a small view of a large array
    for (let i = 0; i < 100; i++) reader.push(new Uint8Array([i]));
    const whole = await reader.recv();
    const crumbs = await reader.recv();
    expect([whole?.length, crumbs?.length]).toEqual([40, 100]);
    expect(whole?.buffer.byteLength).toBe(40);
    expect(crumbs?.buffer.byteLength).toBe(100);
    for (let i = 0; i < 100; i++) reader.push(new Uint8Array([255]));
    expect([...(crumbs as Uint8Array)]).toEqual(Array.from({ length: 100 }, (_, i) => i));
  });

  test("a Node Buffer is copied where a copy is due: its own slice() copies nothing", async () => {
    const reader = new StreamReader();
    const lent = Buffer.from("abcdef");
    const lender = { give: () => false, fit() {} };
    const first = reader.recv(3);
    reader.push(lent, lender);
    reader.push(Buffer.alloc(1 * KiB, "x"));
    reader.push(lent, lender);
    lent.fill("!");
    expect(text(await first)).toBe("abc");
    expect(text(await reader.recv())).toBe("def");
    expect(text(await reader.recv())).toBe("x".repeat(KiB));
    expect(text(await reader.recv())).toBe("abcdef");
    reader.push(Buffer.alloc(64 * KiB));
    expect((await reader.recv(10))?.buffer.byteLength).toBe(10);
  });

  test("what is large and was lent is copied by its lender, where that knows how", async () => {
    const reader = new StreamReader();
    const lent = new Uint8Array(129 * KiB).fill(1);
    const copies: number[] = [];
    const copy = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => {
      copies.push(bytes.length);
      return bytes.slice();
    };
    const lender = { give: () => false, fit() {}, copy };
    const push = (fill: number, size: number): void => {
      reader.push(lent.fill(fill).subarray(0, size), lender);
      lent.fill(0xff);
    };
    const first = reader.recv(); // a read that waits
    push(1, 128 * KiB);
    push(2, 129 * KiB); // nobody waits
    push(3, 128 * KiB); // behind another
    push(4, 100 * KiB);
    expect(copies).toEqual([128 * KiB, 129 * KiB, 128 * KiB]);
    const got = [await first, await reader.recv(), await reader.recv(), await reader.recv()];
    expect(got.map((bytes) => bytes?.length)).toEqual([128 * KiB, 129 * KiB, 128 * KiB, 100 * KiB]);
    expect(got.map((bytes) => [...new Set(bytes)])).toEqual([[1], [2], [3], [4]]);
  });

  test("crumbs between larger pieces share a tray: no more than twice the bytes are held", () => {
    const held = new Set<ArrayBufferLike>();
    const views = vi.spyOn(Uint8Array.prototype, "subarray");
    const reader = new StreamReader();
    reader.push(utf8("-"));
    for (let i = 0; i < 100; i++) {
      reader.push(utf8("x"));
      reader.push(new Uint8Array(600));
    }
    for (const { value } of views.mock.results) held.add((value as Uint8Array).buffer);
    views.mockRestore();
    expect([...held].reduce((size, buffer) => size + buffer.byteLength, 0)).toBeLessThan(2 * reader.buffered);
  });

  const SIZE = 64 * KiB;
  test.each([1, 100, 600])("a long read by pieces of %d bytes costs work in proportion", async (size) => {
    const indexOf = vi.spyOn(Uint8Array.prototype, "indexOf");
    for (const read of [
      (reader: StreamReader) => reader.line(),
      (reader: StreamReader) => reader.readuntil("\r\n\r\n"),
      (reader: StreamReader) => reader.readexactly(SIZE),
    ]) {
      indexOf.mockClear();
      const reader = new StreamReader(undefined, { ...STREAM_LIMITS, maxLine: 2 * SIZE });
      const reading = read(reader);
      let pushes = 0;
      for (let at = 0; at < SIZE; at += size, pushes++) {
        reader.push(new Uint8Array(Math.min(size, SIZE - at)).fill(97));
      }
      reader.push(utf8("\r\n\r\n"));
      await reading;
      // At each piece only the piece that grew is searched, not all that came before.
      expect(indexOf.mock.calls.length).toBeLessThan(pushes * 3 + 10);
    }
    indexOf.mockRestore();
  });
});

describe("limits", () => {
  const reader = (limits: object): StreamReader =>
    new StreamReader(undefined, { ...STREAM_LIMITS, ...limits });
  const LINES = ["abcde\n", "abcd\r\n", "ab€\n", "a€\r\n", "é€\n", "\0\0\0\0\r\n"];

  test.each(LINES)("maxLine counts the bytes before the newline, a return too: %j has 5", async (line) => {
    for (const cut of [[100], [1], [3, 2]]) {
      for (const [maxLine, fits] of [
        [5, true],
        [4, false],
      ] as const) {
        for (const ends of [true, false]) {
          const whole = utf8(ends ? line : line.replace("\n", ""));
          const make = (): StreamReader => {
            const made = reader({ maxLine });
            for (const piece of pieces(whole, cut)) made.push(piece);
            made.end();
            return made;
          };
          const expected = fits ? ["no error"] : "ERR_LIMIT";
          const found = async (outcome: unknown): Promise<unknown> => {
            const value = await outcome;
            return Array.isArray(value) ? [value[0]] : value;
          };
          expect(await found(codeOf(make().line()))).toEqual(expected);
          expect(await found(codeOf(make().readline()))).toEqual(expected);
          expect(await found(codeOf(make().lines().next()))).toEqual(expected);
          expect(await found(codeThrown(() => make().tryLine()))).toEqual(expected);
        }
      }
    }
  });

  test("a line that waits is refused as soon as it is too long, and stays", async () => {
    const long = reader({ maxLine: 4 });
    const line = codeOf(long.line());
    long.push(utf8("abcd"));
    expect(await waits(line)).toBe(true);
    long.push(utf8("e"));
    expect(await line).toBe("ERR_LIMIT");
    expect(await codeOf(long.line())).toBe("ERR_LIMIT");
    long.maxLine = 5;
    long.push(utf8("\nx\n"));
    expect([long.tryLine(), long.tryLine()]).toEqual(["abcde", "x"]);
  });

  test("a line in decoded text that is too long is a rejection of line() and lines(), and tryLine() throws it", async () => {
    const long = reader({ maxLine: 4 });
    long.push(utf8("a\nabcde\nb\n"));
    expect(await long.line()).toBe("a");
    expect(await codeOf(long.line())).toBe("ERR_LIMIT");
    expect(await codeOf(long.lines().next())).toBe("ERR_LIMIT");
    expect(codeThrown(() => long.tryLine())).toBe("ERR_LIMIT");
    long.maxLine = 5;
    expect(await long.line()).toBe("abcde");
    expect(await long.lines().next()).toEqual({ value: "b", done: false });
  });

  test("readline(size) bounds itself, so a longer line comes in parts, however its pieces come", async () => {
    for (const cut of [[100], [1]]) {
      const parts = reader({ maxLine: 4 });
      for (const piece of pieces(utf8("abcdefghij\nk"), cut)) parts.push(piece);
      parts.end();
      const got: unknown[] = [];
      for (let part = await parts.readline(6); part !== null; part = await parts.readline(6))
        got.push(text(part));
      expect(got).toEqual(["abcdef", "ghij\n", "k"]);
    }
  });

  test("maxRead bounds read, readexactly and readuntil, however the bytes come", async () => {
    for (const cut of [[100], [1]]) {
      const made = (whole: string, ends: boolean): StreamReader => {
        const bounded = reader({ maxRead: 4 });
        for (const piece of pieces(utf8(whole), cut)) bounded.push(piece);
        if (ends) bounded.end();
        return bounded;
      };
      for (const ends of [true, false]) {
        expect(await codeOf(made("abcde", ends).read())).toBe("ERR_LIMIT");
        expect(await codeOf(made("abcde", ends).read(5))).toBe("ERR_LIMIT");
        expect(await codeOf(made("abcde", ends).readexactly(5))).toBe("ERR_LIMIT");
        expect(await codeOf(made("abcd;", ends).readuntil(";"))).toBe("ERR_LIMIT");
        expect(await codeOf(made("abcdef", ends).readuntil(";"))).toBe("ERR_LIMIT");
        expect(text(await made("abcde", ends).read(4))).toBe("abcd");
        expect(text(await made("abcde", ends).readexactly(4))).toBe("abcd");
        expect(text(await made("abc;e", ends).readuntil(";"))).toBe("abc;");
      }
      expect(text(await made("abcd", true).read())).toBe("abcd");
    }
    for (const cut of [[100], [1], [3]]) {
      const made = (whole: string): StreamReader => {
        const bounded = reader({ maxRead: 4 });
        for (const piece of pieces(utf8(whole), cut)) bounded.push(piece);
        return bounded;
      };
      expect(text(await made("abc\n").readline(100))).toBe("abc\n"); // no more is gathered
      expect(text(await made("abcdefgh").readline(4))).toBe("abcd");
      expect(await codeOf(made("abcdefgh").readline(5))).toBe("ERR_LIMIT");
      expect(await codeOf(made("abcd\n").readline(100))).toBe("ERR_LIMIT");
    }
    const waiting = reader({ maxRead: 4 });
    const all = codeOf(waiting.read());
    for (let i = 0; i < 5; i++) waiting.push(utf8("x"));
    expect(await all).toBe("ERR_LIMIT");
    expect(text(await waiting.recv(9))).toBe("x");
  });
});

describe("the end and errors", () => {
  const reset = new SocketError("ECONNRESET");

  test("an error comes after what is buffered, and stays", async () => {
    const reader = new StreamReader();
    reader.push(utf8("line\npart"));
    reader.fail(reset);
    expect(reader.push(utf8("late"))).toBe(false);
    expect(reader.bytesRead).toBe(9);
    expect(await reader.line()).toBe("line");
    expect(await codeOf(reader.line())).toBe("ECONNRESET");
    expect(codeThrown(() => reader.tryLine())).toBe("ECONNRESET");
    expect(await codeOf(reader.readexactly(5))).toBe("ECONNRESET");
    expect(await codeOf(reader.readuntil("\n"))).toBe("ECONNRESET");
    expect(await codeOf(reader.read())).toBe("ECONNRESET");
    expect(text(await reader.readexactly(4))).toBe("part");
    reader.end();
    expect(await codeOf(reader.recv())).toBe("ECONNRESET");
    expect(reader.atEnd).toBe(false);
  });

  test("the end that was told stays the end, whatever breaks later", async () => {
    const reader = new StreamReader();
    reader.end();
    reader.fail(reset);
    expect(await reader.recv()).toBeNull();
    expect(reader.tryLine()).toBeNull();
  });

  test.each(["recv", "read", "readline", "line"] as const)("an error ends a %s that waits", async (kind) => {
    const reader = new StreamReader();
    const reading = codeOf(reader[kind]());
    reader.fail(reset);
    expect(await reading).toBe("ECONNRESET");
  });

  test("fail(now) drops what is buffered, takes the place of what failed before, and ends the end", async () => {
    const reader = new StreamReader();
    reader.push(utf8("lost\n"));
    reader.end();
    reader.fail(new SocketError("EBADF"), true);
    expect([reader.buffered, await codeOf(reader.recv()), await codeOf(reader.line())]).toEqual([
      0,
      "EBADF",
      "EBADF",
    ]);
    reader.fail(reset);
    expect(await codeOf(reader.recv())).toBe("EBADF");
  });

  test("bytes after end(), as after SHUT_RD, are read before the end", async () => {
    const reader = new StreamReader();
    reader.end();
    reader.push(utf8("late"));
    expect([text(await reader.recv()), await reader.recv()]).toEqual(["late", null]);
  });
});

describe("timeouts", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  const waiting = (timeout: number | null = 100): StreamReader => {
    const reader = new StreamReader();
    reader.timeout = timeout;
    return reader;
  };

  test("progress moves the deadline, and a stream that timed out is usable", async () => {
    const reader = waiting();
    const read = codeOf(reader.readexactly(4));
    for (let i = 0; i < 3; i++) {
      await vi.advanceTimersByTimeAsync(99);
      reader.push(utf8("x"));
    }
    await vi.advanceTimersByTimeAsync(99);
    expect(vi.getTimerCount()).toBe(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(await read).toBe("ETIMEDOUT");
    expect(vi.getTimerCount()).toBe(0);
    const again = reader.readexactly(4);
    reader.push(utf8("y"));
    expect(text(await again)).toBe("xxxy");
  });

  test("one timer at most, however many reads wait after each other, and none in the end", async () => {
    const reader = waiting();
    for (let i = 0; i < 100; i++) {
      const read = reader.recv();
      expect(vi.getTimerCount()).toBe(1);
      reader.push(utf8("x"));
      await read;
    }
    expect(vi.getTimerCount()).toBe(1);
    await vi.advanceTimersByTimeAsync(100);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("no timer is left after the end, a failure or a close", async () => {
    for (const over of [
      (reader: StreamReader) => reader.end(),
      (reader: StreamReader) => reader.fail(new SocketError("ECONNRESET")),
      (reader: StreamReader) => reader.fail(new SocketError("EBADF"), true),
    ]) {
      for (const reads of [true, false]) {
        const reader = waiting();
        const first = reader.recv();
        reader.push(utf8("x"));
        await first;
        const second = reads ? codeOf(reader.recv()) : undefined;
        over(reader);
        await second;
        expect(vi.getTimerCount()).toBe(0);
      }
    }
  });

  test("a timeout that is made shorter holds from the next read on", async () => {
    const reader = waiting(1000);
    const first = reader.recv();
    reader.push(utf8("x"));
    await first;
    reader.timeout = 10;
    const second = codeOf(reader.recv());
    await vi.advanceTimersByTimeAsync(10);
    expect(await second).toBe("ETIMEDOUT");
  });

  test("a read without a deadline gets none from the reads before it", async () => {
    const reader = waiting(100);
    const first = reader.recv();
    reader.push(utf8("x"));
    await first;
    reader.timeout = null;
    const second = reader.recv();
    reader.timeout = 100;
    await vi.advanceTimersByTimeAsync(5000);
    reader.push(utf8("y"));
    expect(text(await second)).toBe("y");
  });

  test("the wall clock may jump", async () => {
    const reader = waiting(100);
    const read = codeOf(reader.readexactly(2));
    await vi.advanceTimersByTimeAsync(60);
    reader.push(utf8("x"));
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(60);
    reader.push(utf8("y"));
    expect(await read).toEqual(["no error", utf8("xy")]);
  });
});

describe("pause and resume", () => {
  test("pauses only above 256 KiB that nobody waits for, and resumes below 64 KiB", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    const whole = reader.readexactly(400 * KiB);
    expect(source.resumed).toBe(1);
    for (let i = 0; i < 400; i++) expect(reader.push(new Uint8Array(KiB))).toBe(i < 399);
    await whole;
    expect(source.paused).toBe(0);
    for (let i = 0; i < 256; i++) reader.push(new Uint8Array(KiB));
    expect(source.paused).toBe(0);
    reader.push(new Uint8Array(1));
    reader.push(new Uint8Array(1));
    expect([source.paused, source.resumed]).toEqual([1, 1]);
    await reader.readexactly(192 * KiB + 2);
    expect(source.resumed).toBe(1);
    await reader.readexactly(1);
    expect(source.resumed).toBe(2);
  });

  test("a read that wants more than is buffered resumes a paused source", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    reader.push(new Uint8Array(300 * KiB));
    expect(source.paused).toBe(1);
    const read = reader.readexactly(301 * KiB);
    expect(source.resumed).toBe(1);
    reader.push(new Uint8Array(KiB));
    expect((await read).length).toBe(301 * KiB);
  });

  test("a source may push, end or fail inside resume()", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    source.onresume = () => reader.push(utf8("now"));
    expect(text(await reader.recv())).toBe("now");
    source.onresume = () => reader.end();
    expect(await reader.recv()).toBeNull();
    const broken = new StreamReader(source);
    source.onresume = () => broken.fail(new SocketError("ECONNRESET"));
    expect(await codeOf(broken.recv())).toBe("ECONNRESET");
  });

  test("takeBuffered resumes nothing: what came then would come to nobody", () => {
    const source = new Source();
    const reader = new StreamReader(source);
    reader.push(new Uint8Array(300 * KiB));
    expect(reader.takeBuffered().length).toBe(300 * KiB);
    expect([source.paused, source.resumed, reader.buffered]).toEqual([1, 0, 0]);
  });
});

describe("reads that output holds back", () => {
  test("wait though bytes are here, until retry()", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    reader.push(utf8("a\nb\n"));
    source.blocked = true;
    expect(reader.tryLine()).toBeUndefined();
    const line = reader.line();
    expect(source.resumed).toBe(1); // what is gathered leaves, and bytes may come
    reader.retry();
    reader.end();
    expect(await waits(line)).toBe(true);
    source.blocked = false;
    reader.retry();
    expect([await line, reader.tryLine(), reader.tryLine()]).toEqual(["a", "b", null]);
  });

  test("bound what comes meanwhile, and ask for more afterwards", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    source.blocked = true;
    const read = reader.readexactly(400 * KiB);
    for (let i = 0; i < 5; i++) expect(reader.push(new Uint8Array(64 * KiB))).toBe(false);
    expect([source.paused, source.resumed]).toEqual([1, 1]);
    source.blocked = false;
    reader.retry();
    expect(source.resumed).toBe(2); // else it would wait for ever
    reader.push(new Uint8Array(80 * KiB));
    expect((await read).length).toBe(400 * KiB);
  });

  test("are not readable meanwhile, which select() goes by, and who watches is told when they are again", () => {
    const source = new Source();
    const reader = new StreamReader(source);
    reader.push(utf8("x"));
    const told = vi.fn<() => void>();
    reader.onReadable(told);
    source.blocked = true;
    expect(reader.readable).toBe(false);
    source.blocked = false;
    reader.retry();
    expect([reader.readable, told.mock.calls.length]).toEqual([true, 1]);
    source.blocked = true;
    reader.fail(new SocketError("ECONNRESET"));
    expect(reader.readable).toBe(true);
  });

  test("after shut() they end when they are let go, not never", async () => {
    vi.useFakeTimers();
    const source = new Source();
    const reader = new StreamReader(source);
    source.blocked = true;
    const first = reader.recv();
    reader.shut();
    await vi.advanceTimersByTimeAsync(10);
    source.blocked = false;
    reader.retry();
    expect(await first).toBeNull();
    reader.push(utf8("late"));
    expect(text(await reader.recv())).toBe("late");
    vi.useRealTimers();
  });

  test("a failure frees them, before and while they wait", async () => {
    const source = new Source();
    const reader = new StreamReader(source);
    source.blocked = true;
    reader.push(utf8("x"));
    const first = reader.recv();
    reader.fail(new SocketError("ECONNRESET"));
    expect(text(await first)).toBe("x");
    expect(await codeOf(reader.recv())).toBe("ECONNRESET");
    expect(codeThrown(() => reader.tryLine())).toBe("ECONNRESET");
  });
});

// ---- The writer ----

/** A target that keeps what it is given; `full()` makes it promise room, `drain()` keeps that promise. */
class Target {
  unsent = 0;
  attended?: () => void;
  cut?: (error: SocketError) => void;
  told = false;
  readonly got: Data[] = [];
  readonly deferred: (() => void)[] = [];
  #room: PromiseWithResolvers<void> | null = null;

  write(data: Data): Promise<void> | undefined {
    if (this.#room !== null) this.unsent += toBytes(data).length;
    this.got.push(typeof data === "string" ? data : data.slice());
    return this.#room?.promise;
  }
  defer(task: () => void): void {
    this.deferred.push(task);
  }
  full(): void {
    this.#room = Promise.withResolvers();
  }
  drain(): void {
    this.#room?.resolve();
    this.#room = null;
    this.unsent = 0;
  }
  endTurn(): void {
    for (const task of this.deferred.splice(0)) task();
  }
  get text(): string {
    return this.got.map((data) => text(toBytes(data))).join("");
  }
}

const writing = (limits: object = {}): [StreamWriter, Target] => {
  const target = new Target();
  return [new StreamWriter(target, { ...STREAM_LIMITS, ...limits }), target];
};

describe("the writer gathers", () => {
  test("one piece a turn", () => {
    const [wfile, target] = writing();
    expect(wfile.dirty).toBe(false);
    wfile.writelines(["a", utf8("b"), "", "c"]);
    expect([wfile.dirty, target.got.length, target.deferred.length]).toEqual([true, 0, 1]);
    target.endTurn();
    expect([wfile.dirty, target.got.length, target.text]).toEqual([false, 1, "abc"]);
    target.endTurn();
    wfile.write("d");
    wfile.start();
    target.endTurn();
    expect([target.got.length, target.text, target.deferred.length]).toEqual([2, "abcd", 0]);
  });

  test("keeps the order of text, bytes, large pieces, sendall and flush, and counts their bytes", async () => {
    const data = fc.oneof(
      fc.string({ unit: "binary", maxLength: 300 }),
      fc.constantFrom("\ud83d", "\ude00", "a\ud83d", "\ude00b", "😀", "é".repeat(300), "€".repeat(6000)),
      fc.array(fc.nat(0xffff), { maxLength: 8 }).map((units) => String.fromCharCode(...units)),
      fc.uint8Array({ maxLength: 50 }),
      fc.integer({ min: 0, max: 20 * KiB }).map((size) => new Uint8Array(size).fill(size)),
    );
    const step = fc.record({
      how: fc.constantFrom("write", "write", "write", "sendall", "flush", "turn"),
      data,
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const [wfile, target] = writing();
        const expected: Uint8Array[] = [];
        for (const { how, data } of steps) {
          const own = typeof data === "string" ? data : data.slice();
          if (how === "flush") await wfile.flush();
          else if (how === "turn") target.endTurn();
          else {
            const bytes = toBytes(data);
            expected.push(bytes.slice());
            if (how === "write") expect(wfile.write(own)).toBe(bytes.length);
            else await wfile.sendall(own);
            if (typeof own !== "string" && own.length < 16 * KiB) own.fill(0); // the caller's again
          }
        }
        await wfile.flush();
        const whole = Buffer.concat(expected);
        expect(Buffer.concat(target.got.map(toBytes)).equals(whole)).toBe(true);
        expect(wfile.bytesWritten).toBe(whole.length);
        expect(target.got.every((piece) => piece.length > 0)).toBe(true);
      }),
      { numRuns: 400 },
    );
  });

  test("counts every code point as TextEncoder does", () => {
    const [wfile] = writing();
    for (let point = 0; point <= 0x10ffff; point += point < 0x3000 ? 1 : 97) {
      const character = String.fromCodePoint(point);
      if (wfile.write(character) !== utf8(character).length) expect.unreachable(`U+${point.toString(16)}`);
    }
  });

  test("sends at 16 KiB, at once, and only then", () => {
    const [wfile, target] = writing();
    for (let i = 0; i < 63; i++) wfile.write("x".repeat(256));
    wfile.write("x".repeat(255));
    expect(target.got.length).toBe(0);
    wfile.write("y");
    expect(target.text.length).toBe(16 * KiB);
    wfile.write(new Uint8Array(16 * KiB - 1));
    expect(target.got.length).toBe(1);
    wfile.write(new Uint8Array(1));
    expect(target.got.length).toBe(2);
  });

  test("what was handed over does not change by what is written next", () => {
    const handed: Uint8Array[] = [];
    const wfile = new StreamWriter({
      unsent: 0,
      write: (data) => void handed.push(data as Uint8Array),
      defer() {},
    });
    for (let i = 0; i < 200; i++) {
      for (let j = 0; j <= i % 3; j++) wfile.write(new Uint8Array(i + 1).fill(i));
      wfile.start();
    }
    expect(handed.map((bytes, i) => bytes.every((byte) => byte === i))).toEqual(new Array(200).fill(true));
  });

  test("several writers that take turns each keep what they gathered", () => {
    const data = fc.oneof(
      fc.constantFrom("+OK\r\n", "é", "x".repeat(300), "y".repeat(5000), "€".repeat(5400)),
      fc.integer({ min: 0, max: 16 * KiB - 1 }).map((size) => new Uint8Array(size).fill(size)),
    );
    const step = fc.record({
      which: fc.nat(2),
      how: fc.constantFrom("write", "write", "write", "send"),
      data,
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, borrows) => {
        const all = [0, 1, 2].map(() => {
          const got: Uint8Array[] = [];
          const take = (data: Data): void => void got.push(Buffer.from(toBytes(data)));
          const target = {
            unsent: 0,
            borrows,
            write: take,
            borrow: take,
            defer() {},
          } as unknown as WriterTarget;
          return { wfile: new StreamWriter(target), got, expected: [] as Uint8Array[] };
        });
        for (const { which, how, data } of steps) {
          const { wfile, expected } = all[which] as (typeof all)[number];
          if (how === "send") wfile.start();
          else {
            wfile.write(data);
            expected.push(toBytes(data));
          }
        }
        for (const { wfile, got, expected } of all) {
          wfile.start();
          expect(Buffer.concat(got).equals(Buffer.concat(expected))).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });

  test.each(["borrow", "write"])("a target may call writers before it takes what it is given: %s", (how) => {
    const got: (string | null)[] = [];
    const other = new StreamWriter({
      unsent: 0,
      write: (data) => void got.push(text(toBytes(data))),
      defer() {},
    });
    let left = 2;
    const take = (data: Data): undefined => {
      other.write("other ");
      if (left-- > 0) wfile.write("again ");
      if (left === 0) other.start();
      got.push(text(toBytes(data)));
    };
    const wfile: StreamWriter = new StreamWriter({
      unsent: 0,
      borrows: how === "borrow",
      write: take,
      borrow: take,
      defer() {},
    });
    wfile.write("one ");
    wfile.write("two ");
    wfile.start();
    wfile.start();
    wfile.start();
    other.start();
    expect(got).toEqual(["one two ", "other other ", "again ", "again ", "other "]);
    expect([wfile.dirty, other.dirty]).toEqual([false, false]);
  });

  test("refuses what is neither bytes nor text, and stays as it was", async () => {
    const [wfile, target] = writing();
    expect(() => wfile.write(7 as never)).toThrow(TypeError);
    await expect(wfile.sendall(null as never)).rejects.toThrow(TypeError);
    expect([wfile.dirty, target.got.length]).toEqual([false, 0]);
  });
});

describe("room", () => {
  test("flush and sendall wait for it, write does not", async () => {
    const [wfile, target] = writing();
    target.full();
    wfile.write("a");
    expect(wfile.blocked).toBe(false);
    const flushed = wfile.flush();
    const sent = wfile.sendall("b");
    wfile.write("c");
    expect([wfile.blocked, await waits(flushed), await waits(sent)]).toEqual([true, true, true]);
    target.drain();
    await Promise.all([flushed, sent]);
    expect([wfile.blocked, target.text]).toEqual([false, "ab"]);
    await wfile.flush();
    expect(target.text).toBe("abc");
  });

  test("may be lost and found many times", async () => {
    const [wfile, target] = writing();
    const onroom = vi.fn<() => void>();
    target.attended = onroom;
    for (let i = 0; i < 5; i++) {
      target.full();
      wfile.write("x");
      const first = wfile.flush();
      target.drain();
      target.full(); // full again before the first promise is heard
      const second = wfile.sendall("y");
      await first;
      expect([wfile.blocked, await waits(second)]).toEqual([true, true]);
      target.drain();
      await second;
      expect(wfile.blocked).toBe(false);
    }
    expect(onroom).toHaveBeenCalled();
  });

  test("whenSlow throw: ENOBUFS when more than maxPending waits already, and no more once there is room", async () => {
    const [wfile, target] = writing({ maxPending: 100, whenSlow: "throw" });
    target.full();
    await Promise.race([wfile.sendall(new Uint8Array(60)), settled()]);
    wfile.write(new Uint8Array(50));
    wfile.start();
    expect(codeThrown(() => wfile.write("x"))).toBe("ENOBUFS");
    expect(await codeOf(wfile.sendall("x"))).toBe("ENOBUFS");
    target.drain();
    await settled();
    expect(wfile.write("x")).toBe(1);
  });

  describe("whenSlow cut", () => {
    /** A writer that is over its limit, and its target, which fails it as a socket does. */
    const slow = (): [StreamWriter, Target, string[]] => {
      const [wfile, target] = writing({ maxPending: 100 });
      const cut: string[] = [];
      target.cut = (error) => {
        cut.push(error.code);
        wfile.fail(error);
      };
      target.full();
      wfile.write(new Uint8Array(200)); // more than the limit, but nothing waited
      wfile.start();
      return [wfile, target, cut];
    };

    test("the next write cuts the connection and returns; later ones are dropped, and counted as unsent", async () => {
      const [wfile, target, cut] = slow();
      const waiting = wfile.flush();
      expect(cut).toEqual([]);
      expect([wfile.write("drop"), wfile.write("dropped")]).toEqual([0, 0]);
      expect([cut, target.got.length]).toEqual([["ENOBUFS"], 1]);
      expect(wfile.unsent).toBe(200 + "drop".length + "dropped".length);
      expect(await codeOf(waiting)).toBe("ENOBUFS");
      expect(await codeOf(wfile.flush())).toBe("ENOBUFS");
      expect(await codeOf(wfile.sendall("x"))).toBe("ENOBUFS");
      expect(await codeOf(wfile.sendall("x", false))).toBe("ENOBUFS");
      expect(cut).toEqual(["ENOBUFS"]);
    });

    test("so does sendall(), which rejects", async () => {
      const [wfile, , cut] = slow();
      expect([await codeOf(wfile.sendall("x")), cut]).toEqual(["ENOBUFS", ["ENOBUFS"]]);
    });

    test("what the peer has taken meanwhile does not count, though there was never room", async () => {
      const [wfile, target, cut] = slow();
      target.unsent = 100;
      expect([wfile.write("kept"), cut]).toEqual([4, []]);
      target.unsent = 101;
      wfile.start();
      expect([wfile.write("x"), cut]).toEqual([0, ["ENOBUFS"]]);
    });

    test("a handler that neither reads nor flushes is told by write(), after 5 s", () => {
      vi.useFakeTimers({ toFake: ["performance"] });
      const [wfile, target] = slow();
      expect(wfile.write("x")).toBe(0);
      vi.advanceTimersByTime(4_999);
      expect(wfile.write("x")).toBe(0);
      vi.advanceTimersByTime(1);
      target.told = true;
      expect(wfile.write("x")).toBe(0); // it has been told by a read
      target.told = false;
      expect(codeThrown(() => wfile.write("x"))).toBe("ENOBUFS");
      vi.useRealTimers();
    });

    test("a failure of another kind is thrown until a read has told it", () => {
      const [wfile, target] = writing();
      wfile.fail(new SocketError("ECONNRESET"));
      expect(codeThrown(() => wfile.write("x"))).toBe("ECONNRESET");
      target.told = true;
      expect([wfile.write("x"), wfile.unsent]).toEqual([0, 1]);
      wfile.fail("EBADF", true);
      expect(codeThrown(() => wfile.write("x"))).toBe("EBADF");
    });
  });

  test("ETIMEDOUT when there is none in time; what was written still goes", async () => {
    vi.useFakeTimers();
    const [wfile, target] = writing();
    wfile.timeout = 50;
    target.full();
    const flushed = codeOf(wfile.sendall("a"));
    await vi.advanceTimersByTimeAsync(50);
    expect([await flushed, vi.getTimerCount()]).toEqual(["ETIMEDOUT", 0]);
    wfile.timeout = null;
    const patient = wfile.sendall("b");
    await vi.advanceTimersByTimeAsync(1_000_000);
    target.drain();
    await patient;
    expect([target.text, vi.getTimerCount()]).toEqual(["ab", 0]);
    vi.useRealTimers();
  });

  test("output that nobody awaits is unattended above 1 MiB, and awaited it is not", async () => {
    const [wfile, target] = writing();
    target.full();
    wfile.write(new Uint8Array(1024 * KiB));
    expect(wfile.unattended).toBe(false);
    wfile.write(new Uint8Array(16 * KiB));
    expect(wfile.unattended).toBe(true);
    const onroom = vi.fn<() => void>();
    target.attended = onroom;
    wfile.timeout = 1;
    const flushed = codeOf(wfile.flush());
    expect([wfile.unattended, onroom.mock.calls.length]).toEqual([false, 1]);
    expect(await flushed).toBe("ETIMEDOUT");
    expect(wfile.unattended).toBe(true); // nobody awaits it any more
    target.drain();
    await settled();
    expect([wfile.unattended, onroom.mock.calls.length]).toEqual([false, 2]);
  });
});

describe("a writer that may not wait", () => {
  test("takes a copy of what it sends later, and of what the target takes later", async () => {
    const [wfile, target] = writing();
    wfile.timeout = 0;
    target.full();
    wfile.write("a");
    wfile.start();
    const small = new Uint8Array([98]);
    const sent = wfile.sendall(small);
    small.fill(0);
    target.drain();
    await sent;
    expect(target.text).toBe("ab");
    const held: Uint8Array[] = [];
    const later = new StreamWriter({
      unsent: 0,
      write: (data) => {
        held.push(data as Uint8Array);
        return new Promise(() => {});
      },
      defer() {},
    });
    later.timeout = 0;
    const large = new Uint8Array(20 * KiB).fill(99);
    await later.sendall(large);
    large.fill(0);
    expect(held[0]?.every((byte) => byte === 99)).toBe(true);
  });

  test("flush() tells of a failure in its turn", async () => {
    const [wfile, target] = writing();
    wfile.timeout = 0;
    target.full();
    wfile.write("a");
    const flushed = codeOf(wfile.flush());
    wfile.fail(new SocketError("ECONNRESET"));
    expect(await flushed).toBe("ECONNRESET");
  });
});

describe("a writer that failed", () => {
  test("tells all who wait for room, whichever of the target's promises they wait for", async () => {
    const wfile = new StreamWriter({ unsent: 0, write: () => new Promise(() => {}), defer() {} });
    const calls = [wfile.sendall("a"), wfile.sendall(new Uint8Array(20 * KiB)), wfile.flush()].map(codeOf);
    wfile.fail(new SocketError("ECONNRESET"));
    expect(await Promise.all(calls)).toEqual(["ECONNRESET", "ECONNRESET", "ECONNRESET"]);
  });

  test("is writable, which select() goes by: at its end, too", () => {
    const [wfile, target] = writing();
    const told = vi.fn<() => void>();
    wfile.onWritable(told);
    target.full();
    wfile.write("a");
    wfile.start();
    expect(wfile.writable).toBe(false);
    wfile.end();
    expect([wfile.writable, told.mock.calls.length]).toEqual([true, 1]);
  });

  const reset = new SocketError("ECONNRESET");

  test("refuses all, and drops what was gathered", async () => {
    const [wfile, target] = writing();
    wfile.write("lost");
    wfile.fail(reset);
    target.endTurn();
    expect(target.got).toEqual([]);
    expect(codeThrown(() => wfile.write("x"))).toBe("ECONNRESET");
    expect(codeThrown(() => wfile.writelines(["x"]))).toBe("ECONNRESET");
    expect(await codeOf(wfile.flush())).toBe("ECONNRESET");
    expect(await codeOf(wfile.sendall("x"))).toBe("ECONNRESET");
    wfile.fail(new SocketError("EPIPE"));
    expect(codeThrown(() => wfile.write("x"))).toBe("ECONNRESET");
    wfile.fail(new SocketError("EBADF"), true);
    expect(codeThrown(() => wfile.write("x"))).toBe("EBADF");
    expect([wfile.dirty, wfile.bytesWritten]).toEqual([false, 0]);
  });

  test("tells those who wait for room at once, and room that comes later changes nothing", async () => {
    const [wfile, target] = writing();
    target.full();
    wfile.write(new Uint8Array(2048 * KiB));
    expect(wfile.unattended).toBe(true);
    const onroom = vi.fn<() => void>();
    target.attended = onroom;
    const flushed = codeOf(wfile.flush());
    wfile.fail(reset);
    expect([await flushed, wfile.blocked, wfile.unattended]).toEqual(["ECONNRESET", false, false]);
    expect(onroom).toHaveBeenCalled();
    const calls = onroom.mock.calls.length;
    target.drain();
    await settled();
    expect(onroom.mock.calls.length).toBe(calls);
    expect(await codeOf(wfile.flush())).toBe("ECONNRESET");
  });

  test("end() sends what is gathered, refuses more, and lets those wait who wait for room", async () => {
    const [wfile, target] = writing();
    target.full();
    const sent = wfile.sendall("a");
    wfile.write("b");
    wfile.end();
    expect([target.text, codeThrown(() => wfile.write("c")), await waits(sent)]).toEqual([
      "ab",
      "EPIPE",
      true,
    ]);
    target.drain();
    await sent;
    const [broken, target2] = writing();
    target2.full();
    const lost = codeOf(broken.sendall("a"));
    broken.end();
    broken.fail(reset);
    expect([await lost, codeThrown(() => broken.write("x"))]).toEqual(["ECONNRESET", "EPIPE"]);
  });
});
