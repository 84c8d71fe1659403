/**
 * Bytes for a reader: as quoted text, as a hex dump, and the difference between two of them. Failed scripts,
 * transcripts and faults all print bytes with these functions.
 */

import { type Data, joinBytes, toBytes } from "../bytes/data.ts";
import { printable } from "../describe.ts";

const ROW = 16; // bytes a row of a dump: as `xxd` and `hexdump -C`
const ROWS = 4; // rows of each side in a difference, the first one before the first differing byte
const AROUND = 32; // bytes of text shown before and after the difference

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const hex = (byte: number): string => byte.toString(16).padStart(2, "0");

/** A character, escaped for reading within quotes. */
const shown = (char: string): string => (char === '"' || char === "\\" ? `\\${char}` : printable(char));

/** The bytes as text if they are UTF-8; else `null`. */
export const utf8 = (bytes: Uint8Array): string | null => {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
};

/** The bytes as text if it is readable without escapes: UTF-8 without control characters other than tabs and line ends. Else `null`. */
export const cleanText = (bytes: Uint8Array): string | null => {
  const text = utf8(bytes);
  return text === null || /[^\P{Cc}\t\r\n]/u.test(text) ? null : text;
};

/** The text of each byte. The first byte of a multi-byte character has its text, and the others have none. */
const texts = (bytes: Uint8Array): string[] => {
  const text = utf8(bytes);
  if (text === null) {
    return Array.from(bytes, (byte) => (byte < 0x80 ? shown(String.fromCharCode(byte)) : `\\x${hex(byte)}`));
  }
  const each: string[] = [];
  for (const char of text) {
    const code = char.codePointAt(0) as number;
    each.push(shown(char));
    for (let more = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x1_0000 ? 3 : 4; more > 1; more--)
      each.push("");
  }
  return each;
};

/** The nearest byte before `at` that begins a character, so that a cut there splits no character. */
const boundary = (bytes: Uint8Array, at: number): number => {
  let from = at;
  while (from > 0 && at - from < 3 && ((bytes[from] ?? 0) & 0xc0) === 0x80) from--;
  return from;
};

/** `data` as one line of text in quotes; bytes that are not UTF-8 or not visible are written as `\xNN`. It is cut after `most` bytes, and says so. */
export const quote = (data: Data, most = 256): string => {
  const bytes = toBytes(data);
  const text = texts(bytes.subarray(0, boundary(bytes, most))).join("");
  return bytes.length <= most ? `"${text}"` : `"${text}"… (${bytes.length} bytes)`;
};

const row = (bytes: Uint8Array, at: number): string => {
  const part = bytes.subarray(at, at + ROW);
  const pairs = Array.from(part, (byte, i) => (i === ROW / 2 ? ` ${hex(byte)}` : hex(byte))).join(" ");
  const ascii = Array.from(part, (byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".",
  ).join("");
  return `${at.toString(16).padStart(4, "0")}  ${pairs.padEnd(ROW * 3)}  |${ascii}|`;
};

/** `data` as rows of 16 bytes: the offset, in hex, as text. It is cut after `most` bytes, and says so. */
export const hexdump = (data: Data, most = 1024): string => {
  const bytes = toBytes(data);
  const rows: string[] = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += ROW) rows.push(row(bytes.subarray(0, most), at));
  if (bytes.length > most) rows.push(`… and ${bytes.length - most} bytes more`);
  return rows.join("\n");
};

/**
 * The difference between the `expected` bytes and the `actual` ones, for a reader: its position, as text and in hex,
 * `-` before what was expected and `+` before what came. `null` if they are equal.
 */
export const difference = (expected: Data, actual: Data): string | null => {
  const wanted = toBytes(expected);
  const came = toBytes(actual);
  const least = Math.min(wanted.length, came.length);
  let at = 0;
  while (at < least && wanted[at] === came[at]) at++;
  if (at === wanted.length && at === came.length) return null;
  const lines: string[] = [];
  if (at === came.length) lines.push(`ends after ${at} of ${wanted.length} bytes`);
  else if (at === wanted.length)
    lines.push(`goes on after the ${at} bytes expected, with ${came.length - at} more`);
  else lines.push(`differs at byte ${at}: expected ${oneByte(wanted, at)}, got ${oneByte(came, at)}`);

  const from = boundary(wanted, Math.max(0, at - AROUND)); // everything before the difference is equal in both
  const before = from > 0 ? "…" : "";
  const excerpt = (bytes: Uint8Array): { readonly text: string; readonly column: number } => {
    const each = texts(bytes.subarray(from, boundary(bytes, at + AROUND)));
    const text = `${before}"${each.join("")}"${at + AROUND < bytes.length ? "…" : ""}`;
    return { text, column: before.length + 1 + each.slice(0, at - from).join("").length };
  };
  const left = excerpt(wanted);
  const right = excerpt(came);
  lines.push(`- ${left.text}`, `+ ${right.text}`);
  if (left.column === right.column) lines.push(`  ${" ".repeat(left.column)}^`);

  const first = Math.max(0, at - (at % ROW) - ROW);
  for (
    let here = first;
    here < first + ROWS * ROW && here < Math.max(wanted.length, came.length);
    here += ROW
  ) {
    const one = here < wanted.length ? row(wanted, here) : null;
    const other = here < came.length ? row(came, here) : null;
    if (one === other) {
      lines.push(`  ${one}`);
      continue;
    }
    if (one !== null) lines.push(`- ${one}`);
    if (other !== null) lines.push(`+ ${other}`);
  }
  return lines.join("\n");
};

const oneByte = (bytes: Uint8Array, at: number): string => {
  const byte = bytes[at] as number;
  return byte < 0x80 ? `${hex(byte)} "${shown(String.fromCharCode(byte))}"` : hex(byte);
};

/** One action of a peer: bytes that it sent, or a word (`half-close`). */
export interface Said {
  readonly who: string;
  readonly what: Uint8Array | string;
}

const DIALOGUE = 40; // rows of a dialogue that are shown, the last ones: they say most
const SPEECH = 2048; // bytes of one turn that are shown, the last ones

/** A dialogue, one row for each line of text, and other bytes in hex. */
export const dialogue = (said: readonly Said[]): string => {
  const rows: string[] = [];
  for (let i = 0; i < said.length; ) {
    const { who, what } = said[i] as Said;
    i++;
    if (typeof what === "string") {
      rows.push(`${who} (${what})`);
      continue;
    }
    const parts = [what];
    for (let next = said[i]; next?.who === who && typeof next.what !== "string"; next = said[++i])
      parts.push(next.what);
    const size = parts.reduce((sum, part) => sum + part.length, 0);
    const whole = joinBytes(parts, size);
    const shown = whole.subarray(boundary(whole, Math.max(0, size - SPEECH)));
    if (shown.length < size) rows.push(`${who} … (${size - shown.length} bytes before these)`);
    const lines =
      cleanText(shown) === null
        ? hexdump(shown, SPEECH).split("\n")
        : linesOf(shown).map((line) => quote(line));
    rows.push(...lines.map((line) => `${who} ${line}`));
  }
  const left = rows.length - DIALOGUE;
  return [...(left > 0 ? [`… (${left} rows before these)`] : []), ...rows.slice(-DIALOGUE)].join("\n");
};

const NEWLINE = 10;

/** `bytes` cut behind each newline. */
export const linesOf = (bytes: Uint8Array): Uint8Array[] => {
  const lines: Uint8Array[] = [];
  for (let from = 0; from < bytes.length; ) {
    const newline = bytes.indexOf(NEWLINE, from);
    const to = newline < 0 ? bytes.length : newline + 1;
    lines.push(bytes.subarray(from, to));
    from = to;
  }
  return lines;
};

/**
 * `bytes` with the parts that may differ made equal: `text` line by line, anything else as a whole, as latin1. A line that is not
 * UTF-8 is unchanged.
 */
export const normalised = (
  bytes: Uint8Array,
  normalise: (text: string) => string,
  text: boolean = cleanText(bytes) !== null,
): Uint8Array => {
  if (text) {
    const lines = linesOf(bytes).map((line) => {
      const said = utf8(line);
      return said === null ? line : toBytes(normalise(said));
    });
    return joinBytes(
      lines,
      lines.reduce((sum, { length }) => sum + length, 0),
    );
  }
  const whole = normalise(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return Uint8Array.from(whole, (char) => char.charCodeAt(0));
};

/** The place at which a test calls this folder: the stack without its own frames, if the engine provides one. */
export const writtenAt = (): string =>
  (new Error().stack ?? "")
    .split("\n")
    .filter(
      (line) =>
        /^\s+at /.test(line) && !/\/testing\/(framing|script|text|transcript)(\/[\w-]+)?\.[jt]s/.test(line),
    )
    .join("\n");
