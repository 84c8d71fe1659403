import { toJson } from "socklet";
import { expect, test } from "vitest";

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

test("a cycle is a TypeError", () => {
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  expect(() => toJson(cycle)).toThrow(TypeError);
});
