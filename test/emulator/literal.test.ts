/** Traffic as JSON text: the fast path returns what JSON.stringify() returns. */

import { expect, test } from "vitest";
import { cleanText } from "../../core/testing/text.ts";
import { literalOf } from "../../emulator/wire/transcripts/literal.ts";
import { fc } from "../conformance/properties.ts";

const expected = (bytes: Uint8Array): string | null => {
  const text = cleanText(bytes);
  return text === null ? null : JSON.stringify(text);
};

test("every byte, alone and among others", () => {
  for (let byte = 0; byte < 256; byte++) {
    for (const bytes of [Uint8Array.of(byte), Uint8Array.of(97, byte, 98)])
      expect([byte, literalOf(bytes)]).toEqual([byte, expected(bytes)]);
  }
});

test("text of any characters, bytes of any kind, and what is longer than is put down at once", () => {
  const encoder = new TextEncoder();
  const text = fc.string({ unit: "binary", maxLength: 200 }).map((said) => encoder.encode(said));
  const lines = fc.string({ unit: fc.constantFrom("a", "\t", "\r", "\n", '"', "\\", "é", "\u2028") });
  const long = fc.constantFrom(65_535, 65_536, 65_537).map((size) => new Uint8Array(size).fill(0x0a));
  fc.assert(
    fc.property(
      fc.oneof(
        text,
        fc.uint8Array(),
        lines.map((said) => encoder.encode(said)),
        long,
      ),
      (bytes) => literalOf(bytes) === expected(bytes),
    ),
  );
});
