/** Encodings of text: their names, and how they turn a stream of bytes into text and back. */

import { type Data, encoder, joinBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { FileOptions } from "./base-file.ts";

const EMPTY = new Uint8Array(0);

/** How bytes that are not text, and text that has no bytes, are handled: `makefile()`'s option `errors`. */
type Errors = NonNullable<FileOptions["errors"]>;

/** An encoding. Its input, to decode or to write, never ends inside a character. */
interface Codec {
  readonly name: string;
  /** Bytes of the smallest character; `\n` is one of that size. */
  readonly unit: 1 | 2;
  /** Whether the first byte of a unit is the high one. */
  readonly big?: boolean;
  /** Whether the text begins with a byte order mark, which says which byte is first. */
  readonly marked?: boolean;
  /** Whether the bytes of ASCII are ASCII. */
  readonly ascii: boolean;
  /** The text of `bytes`, with U+FFFD for wrong bytes. */
  decode(bytes: Uint8Array, last: boolean): string;
  /**
   * How many bytes the character at `at` has: 0 if the end cuts it off, -n if the n bytes there are not a character.
   * If this is `null`, `decode` itself keeps what is cut off, and each U+FFFD stands for an error.
   */
  readonly size: ((bytes: Uint8Array, at: number) => number) | null;
  /** How many bytes `text` has. */
  length(text: string): number;
  /** What cannot be written; `null` if the encoding cannot write at all. */
  readonly unwritable: RegExp | null;
  encode(text: string): Data;
}

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const utf16 = new TextDecoder("utf-16le", { ignoreBOM: true });

const UTF_8: Codec = {
  name: "utf-8",
  unit: 1,
  ascii: true,
  decode: (bytes) => utf8.decode(bytes),
  // The well-formed sequences: Unicode, Table 3-7.
  size(bytes, at) {
    const lead = bytes[at] as number;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return -1;
    const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    for (let i = 1; i < size; i++) {
      const byte = bytes[at + i];
      if (byte === undefined) return 0;
      const low = i > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
      const high = i > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
      if (byte < low || byte > high) return -i;
    }
    return size;
  },
  length: (text) => encoder.encode(text).length,
  unwritable: /\p{Surrogate}/gu,
  encode: (text) => text,
};

/** The text of `bytes` if all of them are ASCII; otherwise `null`. */
export const asciiOf = (bytes: Uint8Array): string | null => {
  const text = utf8.decode(bytes);
  // As many characters as bytes, and none for a wrong one: each byte was one.
  return text.length === bytes.length && !text.includes("\uFFFD") ? text : null;
};

/** A character of each byte. */
const eachByte = (bytes: Uint8Array): string => {
  let text = asciiOf(bytes);
  if (text !== null) return text;
  text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
};

const LATIN_1: Codec = {
  name: "latin-1",
  unit: 1,
  ascii: true,
  decode: eachByte,
  size: () => 1,
  length: (text) => text.length,
  unwritable: /[^\p{ASCII}\x80-\xff]/gu,
  encode: (text) => (/\P{ASCII}/u.test(text) ? Uint8Array.from(text, (char) => char.charCodeAt(0)) : text),
};

const ASCII: Codec = {
  name: "ascii",
  unit: 1,
  ascii: true,
  decode: (bytes) => eachByte(bytes).replace(/\P{ASCII}/gu, "\uFFFD"),
  size: (bytes, at) => ((bytes[at] as number) < 0x80 ? 1 : -1),
  length: (text) => text.length,
  unwritable: /\P{ASCII}/gu,
  encode: (text) => text,
};

const swapped = (bytes: Uint8Array): Uint8Array => bytes.map((_, i) => bytes[i ^ 1] ?? 0);

const utf16of = (name: string, big: boolean, marked = false): Codec => ({
  name,
  unit: 2,
  ascii: false,
  big,
  marked,
  decode: (bytes) => utf16.decode(big ? swapped(bytes) : bytes),
  size(bytes, at) {
    const high = big ? 0 : 1; // where in a unit its high byte is
    const kind = (i: number): number => (bytes[i + high] as number) >> 2; // 0x36 and 0x37: the two halves of a pair
    if (at + 1 >= bytes.length) return 0;
    if (kind(at) === 0x36) return at + 3 >= bytes.length ? 0 : kind(at + 2) === 0x37 ? 4 : -2;
    return kind(at) === 0x37 ? -2 : 2;
  },
  length: (text) => text.length * 2,
  unwritable: UTF_8.unwritable,
  encode(text) {
    const bytes = new Uint8Array(text.length * 2);
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      bytes[2 * i + (big ? 0 : 1)] = code >> 8;
      bytes[2 * i + (big ? 1 : 0)] = code;
    }
    return bytes;
  },
});

const UTF_16_LE = utf16of("utf-16-le", false);
const UTF_16_BE = utf16of("utf-16-be", true);
const UTF_16 = utf16of("utf-16", false, true); // written as Linux' processors have it

/** The names of the six, without what is not a letter or digit: those of CPython's `encodings.aliases`. */
const NAMES: readonly (readonly [Codec, string])[] = [
  [UTF_8, "utf8 u8 utf cp65001"],
  [ASCII, "ascii usascii us 646 iso646us iso646irv1991 isoir6 ansix341968 ansix341986 cp367 ibm367 csascii"],
  [LATIN_1, "latin1 latin l1 iso88591 iso885911987 iso8859 8859 isoir100 cp819 ibm819 csisolatin1"],
  [UTF_16, "utf16 u16"],
  [UTF_16_LE, "utf16le unicodelittleunmarked"],
  [UTF_16_BE, "utf16be unicodebigunmarked"],
];

const OURS = "utf-8, ascii, latin-1, utf-16, utf-16-le and utf-16-be";
const BY_NAME = new Map(NAMES.flatMap(([codec, names]) => names.split(" ").map((name) => [name, codec])));

/** The codec of a name from Python or the Encoding Standard. */
export const codecOf = (label: string): Codec => {
  const own = BY_NAME.get(label.toLowerCase().replace(/[^a-z0-9]/g, ""));
  if (own !== undefined) return own;
  for (const name of [label, label.replaceAll("_", "-")]) {
    let decoder: TextDecoder;
    try {
      decoder = new TextDecoder(name, { ignoreBOM: true });
    } catch {
      continue;
    }
    const known = BY_NAME.get(decoder.encoding.replaceAll("-", "")); // a name of the standard's for one of the six
    return known ?? foreign(decoder);
  }
  throw new RangeError(
    `unknown encoding ${JSON.stringify(label)}; known are ${OURS}, and for reading those of TextDecoder`,
  );
};

/** An encoding that only the platform knows. Each file has its own, since it keeps its position. */
const foreign = (decoder: TextDecoder): Codec => ({
  name: decoder.encoding,
  unit: 1, // and no byte that looks like \r or \n is part of another character
  ascii: false, // not in the middle of iso-2022-jp
  decode: (bytes, last) => decoder.decode(bytes, { stream: !last }),
  size: null,
  length: (text) => text.length,
  unwritable: null,
  encode: () => EMPTY,
});

/** Turns text into bytes, with or without a byte order mark. */
export type Encoder = (text: string, mark: string) => Data;

/** The encoder for `codec`. Throws `RangeError` for an encoding that can only be read. */
export const encoderOf = (codec: Codec, errors: Errors): Encoder => {
  const { name, unwritable } = codec;
  if (unwritable === null)
    throw new RangeError(`${name} can be read, but not written; for writing there are ${OURS}`);
  const put = (char: string, at: number): string => {
    if (errors === "ignore") return "";
    if (errors === "replace") return "?";
    const code = (char.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, "0");
    throw new SocketError("EILSEQ", `U+${code}, at ${at} in the text, cannot be written in ${name}`);
  };
  const unicode = unwritable === UTF_8.unwritable; // all but half pairs can be written, for which there is a fast test
  return (text, mark) =>
    codec.encode(mark + (unicode && text.isWellFormed() ? text : text.replace(unwritable, put)));
};

/** Decodes a stream, with the same result however it is cut. */
export class Decoder {
  codec: Codec;
  readonly #errors: Errors;
  #wrong: string | null = null; // what is wrong in the bytes, so that nothing behind it is decoded
  #kept: Uint8Array = EMPTY; // the beginning of a character
  #offset = 0; // bytes before that
  #mark = 0; // bytes of the byte order mark that is to be left out

  constructor(codec: Codec, errors: Errors) {
    this.codec = codec;
    this.#errors = errors;
  }

  /** Throws `EILSEQ` if something was wrong. */
  check(): void {
    if (this.#wrong !== null) throw new SocketError("EILSEQ", this.#wrong);
  }

  /** Looks at the first bytes of the stream, at `at`, for the byte order mark. Throws `EILSEQ` if it must have one. */
  begin(bytes: Uint8Array, at: number): void {
    if (!this.codec.marked) return;
    const mark = bytes.subarray(at, at + 2).join();
    if (mark === "254,255") this.codec = UTF_16_BE;
    else this.codec = UTF_16_LE;
    if (bytes.length - at < 2) return; // the end cuts it off
    if (mark !== "255,254" && mark !== "254,255") {
      this.#wrong = "utf-16 begins with a byte order mark, and this does not; name it utf-16-le or utf-16-be";
      this.check();
    }
    this.#mark = 2;
  }

  /**
   * The text of `bytes`, as far as its characters are complete; of the `last` ones, all. Ends at an error.
   * `ascii` is that text, if they are known to be ASCII.
   */
  decode(bytes: Uint8Array, last: boolean, ascii?: string): string {
    if (ascii !== undefined && this.#kept.length === 0) {
      this.#offset += ascii.length;
      return ascii;
    }
    const all =
      this.#kept.length === 0 ? bytes : joinBytes([this.#kept, bytes], this.#kept.length + bytes.length);
    const whole = last ? all.length : this.#whole(all);
    this.#kept = whole === all.length ? EMPTY : all.slice(whole);
    const ready = this.#mark === 0 && whole === all.length ? all : all.subarray(this.#mark, whole);
    this.#offset += this.#mark;
    this.#mark = 0;
    const text = this.codec.decode(ready, last);
    const clean = text.includes("\uFFFD") ? this.#sift(ready, text) : text;
    this.#offset += ready.length;
    return clean;
  }

  /** How many of `bytes` are complete characters, or wrong; after them a character has begun. */
  #whole(bytes: Uint8Array): number {
    const { size, unit } = this.codec;
    let whole = bytes.length;
    if (size === null) return whole;
    for (let at = bytes.length - 1; at >= 0 && at >= bytes.length - 3; at--) {
      if (at % unit > 0) continue;
      const here = size(bytes, at);
      if (here > 0) break;
      if (here === 0) whole = at;
    }
    return whole;
  }

  /** The text of `bytes`, which is `text` but for what is wrong. */
  #sift(bytes: Uint8Array, text: string): string {
    const { codec } = this;
    const { size } = codec;
    if (size === null) {
      if (this.#errors === "replace") return text;
      if (this.#errors === "ignore") return text.replaceAll("\uFFFD", "");
      const at = text.indexOf("\uFFFD");
      this.#wrong = `after ${JSON.stringify(text.slice(Math.max(0, at - 20), at))} come bytes that are not ${codec.name}`;
      return text.slice(0, at);
    }
    let clean = "";
    let from = 0;
    for (let at = 0; at < bytes.length; ) {
      const here = size(bytes, at);
      if (here > 0) {
        at += here;
        continue;
      }
      clean += codec.decode(bytes.subarray(from, at), true);
      from = here === 0 ? bytes.length : at - here;
      if (this.#errors === "strict") {
        const hex = Array.from(bytes.subarray(at, from), (byte) => byte.toString(16).padStart(2, "0")).join(
          " ",
        );
        this.#wrong = `the bytes ${hex} at offset ${this.#offset + at} are not ${codec.name}`;
        return clean;
      }
      if (this.#errors === "replace") clean += "\uFFFD";
      at = from;
    }
    return clean + codec.decode(bytes.subarray(from), true);
  }
}
