/** The pattern that the tests of streams send: were it wrong, or were each position the same, they would see nothing. */

import { expect, test } from "vitest";
import { patternAt, wrongAt } from "../conformance/pattern.ts";

const positions = [0, 1, 255, 256, 257, 65_535, 65_536, 2 ** 24 - 5, 2 ** 25 + 3];
const sizes = [0, 1, 3, 4, 5, 255, 256, 257, 70_001];
const cases = positions.flatMap((from) => sizes.map((size) => [from, size] as const));

test("each byte is that of its position", () => {
  for (const [from, size] of cases) {
    const due = Uint8Array.from({ length: size }, (_, i) => {
      const at = from + i;
      return at * 31 + (at >>> 8) * 7 + (at >>> 16);
    });
    expect(Buffer.compare(patternAt(from, size), due), `${size} from ${from} on`).toBe(0);
  }
});

test("the first wrong byte is found, wherever it is, and however the bytes lie in memory", () => {
  for (const [from, size] of cases) {
    for (const offset of [0, 1, 2, 3]) {
      const bytes = new Uint8Array(offset + size).subarray(offset);
      bytes.set(patternAt(from, size));
      expect(wrongAt(bytes, from)).toBe(null);
      for (const at of new Set([0, size >>> 1, size - 1])) {
        if (at < 0 || at >= size) continue;
        bytes[at] = (bytes[at] as number) ^ 1;
        if (size > at + 1) bytes[size - 1] = (bytes[size - 1] as number) ^ 128;
        expect(wrongAt(bytes, from)).toBe(from + at);
        bytes.set(patternAt(from, size));
      }
    }
  }
});
