import { SocketError } from "socklet";
import { expect, test } from "vitest";
import { plain, printable, printableJson, toJson } from "../../core/describe.ts";
import { fc } from "../conformance/properties.ts";

test("bytes are tagged base64 wherever they stand, a Buffer too; a bigint is its digits; nothing is null", () => {
  const bytes = Uint8Array.of(0, 255, 128);
  expect(toJson({ a: [bytes, Buffer.from(bytes)], b: 2n ** 70n, c: undefined })).toBe(
    '{"a":[{"base64":"AP+A"},{"base64":"AP+A"}],"b":"1180591620717411303424"}',
  );
  expect([toJson(bytes), toJson(undefined), toJson(() => {}), toJson(7n)]).toEqual([
    '{"base64":"AP+A"}',
    "null",
    "null",
    '"7"',
  ]);
  expect(toJson(new Uint8Array(0))).toBe('{"base64":""}');
});

test("many bytes, in pieces that end anywhere", () => {
  for (const size of [8191, 8192, 8193, 1_000_001]) {
    const bytes = Uint8Array.from({ length: size }, (_, i) => i * 7);
    expect(Buffer.from(JSON.parse(toJson(bytes)).base64, "base64").equals(bytes)).toBe(true);
  }
});

test("a collection is a list, not an empty object; a promise that nobody awaited is told", () => {
  const map = new Map<unknown, unknown>([["a", new Set([1, [2]])], [{ b: 1 }, null]]); // biome-ignore format: a table
  expect(JSON.parse(toJson({ map, none: new Set(), numbers: Float64Array.of(1.5, Number.NaN) }))).toEqual({
    map: [
      ["a", [1, [2]]],
      [{ b: 1 }, null],
    ],
    none: [],
    numbers: [1.5, null],
  });
  const { buffer } = Uint8Array.of(9, 0, 255, 128);
  expect(toJson([buffer.slice(1), new DataView(buffer, 1)])).toBe('[{"base64":"AP+A"},{"base64":"AP+A"}]');
  expect(() => toJson({ reply: Promise.resolve("PONG") })).toThrow("a promise has no form in JSON; await it");
  expect(plain({ reply: Promise.resolve("PONG") }, 100)).toEqual({ reply: "[promise]" });
  const within = new Set<unknown>();
  within.add(within);
  expect(() => toJson(within)).toThrow(TypeError);
  expect(plain(within, 100)).toEqual(["[cycle]"]);
  expect(plain(Object.create(Map.prototype), 100)).toBe("[unreadable]");
});

test("a collection that is too large is not copied to find that out", () => {
  const many = new Set(Array.from({ length: 1_000_000 }, (_, i) => i));
  expect(plain(many, 1_000)).toEqual({ omitted: 262_145 });
  const endless = Object.assign(new Map(), {
    *[Symbol.iterator]() {
      for (;;) yield 0;
    },
  });
  expect(plain(endless, 1_000)).toEqual({ omitted: 262_145 });
});

test("a cycle is a TypeError", () => {
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  expect(() => toJson(cycle)).toThrow(TypeError);
});

test("an error is its name, its message and its own properties", () => {
  expect(JSON.parse(toJson(Object.assign(new RangeError("no"), { code: "E" })))).toEqual({
    name: "RangeError",
    message: "no",
    code: "E",
  });
});

test("what any JSON can say toJson says as JSON.stringify does", () => {
  const dates = fc.date({ noInvalidDate: false });
  const anything = fc.anything({ withBoxedValues: true, withSparseArray: true, withDate: true });
  fc.assert(
    fc.property(fc.oneof(anything, dates), (value) => {
      expect(toJson(value)).toBe(JSON.stringify(value) ?? "null");
      expect(JSON.stringify(plain(value, 1_000_000))).toBe(JSON.stringify(value) ?? "null");
    }),
  );
});

// C0, DEL, C1, marks of direction, isolates, separators, what is not seen, tags, private, unassigned, halves.
const STEERING = [
  ..."\u0000\u0007\u001b\u007f\u0080\u009b\u009f\u00ad\u061c\u200b\u200d\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff",
  "\ue000",
  "\u0378",
  "\u{e0041}",
  "\u{10ffff}",
  "\ud800",
  "\udfff",
];
const STEERS = /[\p{C}\p{Zl}\p{Zp}]/u;
const texts = fc
  .array(fc.oneof(fc.constantFrom(...STEERING), fc.string({ unit: "binary" })))
  .map((all) => all.join(""));

test("the size of what is too large counts all parts, also those that have no form", () => {
  const unreadable = {
    get part(): never {
      throw new Error("broken");
    },
  };
  const cycles: unknown[] = [];
  cycles.push(...Array<unknown>(100_000).fill(cycles));
  let deep: unknown = Array(100_000).fill([]);
  for (let i = 0; i < 499; i++) deep = [deep];
  for (const value of [cycles, deep, Array(100_000).fill(unreadable)]) {
    const { omitted } = plain(value, 1_000) as { omitted: number };
    expect(omitted).toBeGreaterThan(256 * 1024); // where it gives up; all of it is more
  }
});

test("what is printed steers no terminal, and what may be seen stays", () => {
  for (const char of STEERING) expect(printable(char)).toMatch(/^\\(x[0-9a-f]{2}|u\{[0-9a-f]{4,6}\})$/);
  expect(printable("a\u009b1m\u202eb\r\n\tö 漢 😀")).toBe("a\\x9b1m\\u{202e}b\\r\\n\\tö 漢 😀");
  fc.assert(
    fc.property(texts, (text) => {
      expect(printable(text)).not.toMatch(STEERS);
    }),
  );
});

test("JSON that is printed is JSON, of the same value", () => {
  const values = fc.oneof(texts, fc.dictionary(texts, texts), fc.array(texts));
  fc.assert(
    fc.property(values, fc.constantFrom(0, 2), (value, indent) => {
      const json = printableJson(JSON.stringify(value, null, indent));
      expect(json.replaceAll("\n", "")).not.toMatch(STEERS);
      expect(JSON.stringify(JSON.parse(json))).toBe(JSON.stringify(value));
    }),
  );
});

test("a SocketError's message does not steer either, whatever it quotes", () => {
  expect(new SocketError("EINVAL", "a\u009b\u202e\nb").message).toBe("EINVAL: a\\x9b\\u{202e}\nb");
});
