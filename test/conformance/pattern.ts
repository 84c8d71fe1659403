/**
 * A stream whose bytes differ with their position: what a test sends to see that everything arrives, in order. No test
 * framework, since it also runs inside a Worker.
 */

// Byte `i` is `i * 31 + (i >>> 8) * 7 + (i >>> 16)`, modulo 256. So every 256 bytes are a stretch of one sequence, which begins
// elsewhere each time, and can be copied. The tests send gigabytes: calculating each byte took half of the time of some files.
const BLOCK = 256;
const SEQUENCE = Uint8Array.from({ length: 2 * BLOCK }, (_, i) => i * 31);
const INVERSE = 223; // of 31, modulo 256

/** `size` bytes, from position `from` on. */
export const patternAt = (from: number, size: number): Uint8Array => {
  const bytes = new Uint8Array(size);
  for (let done = 0, length = 0; done < size; done += length) {
    const block = (from + done) >>> 8;
    const within = (from + done) % BLOCK;
    length = Math.min(BLOCK - within, size - done);
    const begin = (((block * 7 + (block >>> 8)) * INVERSE) % BLOCK) + within;
    bytes.set(SEQUENCE.subarray(begin, begin + length), done);
  }
  return bytes;
};

/** The position of the first wrong byte, the first of all being at `from`; `null` if none is wrong. */
export const wrongAt = (bytes: Uint8Array, from: number): number | null => {
  const right = patternAt(from, bytes.length);
  const words = bytes.length >>> 2; // four bytes are compared in the time of one; a copy is aligned
  const [got, due] = [new Uint8Array(bytes), right].map(({ buffer }) => new Int32Array(buffer, 0, words)) as [
    Int32Array,
    Int32Array,
  ];
  let same = 0;
  while (same < words && got[same] === due[same]) same++;
  for (let i = 4 * same; i < bytes.length; i++) if (bytes[i] !== right[i]) return from + i;
  return null;
};
