/** How values cross between a Worker and a pool's object: as `structuredClone` would have them, and in whole or not at all. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { packed, received, sent, unpacked } from "../../core/pool/values.ts";
import { target } from "./target.ts";

const value = fc.anything({
  withBigInt: true,
  withDate: true,
  withMap: true,
  withSet: true,
  withTypedArray: true,
  withNullPrototype: true,
  withUnicodeString: true,
});

export const values = target(
  "pool values",
  "inputs",
  fc.record({
    value,
    // Most are small, and some about as large as what is streamed.
    size: fc.oneof(
      { weight: 20, arbitrary: fc.nat(256) },
      fc.integer({ min: 2 ** 20 - 64, max: 2 ** 20 + 64 }),
    ),
    cut: fc.double({ min: 0, max: 1, noNaN: true }),
  }),
  async ({ value, size, cut }) => {
    const bytes = packed("it", value);
    assert.deepEqual(unpacked(bytes), structuredClone(value));
    assert.throws(() => unpacked(bytes.subarray(0, Math.floor(cut * (bytes.length - 1)))), RangeError);
    const large = packed("it", [value, new Uint8Array(size).fill(size)]);
    assert.deepEqual(await received(sent(large)), large);
    return 1;
  },
);
