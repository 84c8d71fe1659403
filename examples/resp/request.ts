/**
 * Requests on the wire. A client sends an array of byte strings, each after its length in bytes:
 * `*2␍␊$3␍␊GET␍␊$2␍␊é␍␊`. A person at a terminal types a line of words, an *inline command*: `SET k "two words"␍␊`.
 */

import { latin1 } from "./bytes.ts";

/** The peer does not speak RESP, so nothing that it sends from here on can be understood. */
export class ProtocolError extends Error {}

/** The number after a line's first character; `NaN` if there is none. */
export const numberIn = (line: string): number => {
  const first = line.charCodeAt(1) === MINUS ? 2 : 1;
  if (line.length === first || line.length > first + 10) return Number.NaN;
  if (line.charCodeAt(first) === ZERO && line.length > 2) return Number.NaN; // 01, -0
  let number = 0;
  for (let i = first; i < line.length; i++) {
    const digit = line.charCodeAt(i) - ZERO;
    if (!(digit >= 0 && digit <= 9)) return Number.NaN;
    number = number * 10 + digit;
  }
  return first === 1 ? number : -number;
};

const MINUS = 0x2d;
const ZERO = 0x30;

const encoder = new TextEncoder();

/** A command's name for the look-up, one character for each byte; `undefined` if the line is shorter than that. */
export const nameIn = (line: string, length: number): string | undefined => {
  const name = ASCII.test(line) ? line : latin1(encoder.encode(line));
  return name.length === length ? name : undefined;
};

const ASCII = /^[ -~]*$/;

/**
 * The words of a line, with one character for each byte, as Redis splits it: at spaces and tabs, except within quotes.
 * Between double quotes `\n`, `\r`, `\t`, `\b`, `\a` and `\xff` are bytes, and a backslash makes any other character
 * literal. Between single quotes only `\'` is special. A word ends with its closing quote.
 */
export const inlineWords = (line: string): string[] => {
  if (PLAIN.test(line)) return line.split(" ").filter((word) => word !== "");
  // rfile.line() puts U+FFFD for bytes that are not UTF-8, and that must not pass for a real U+FFFD.
  if (line.includes("\uFFFD")) throw new ProtocolError('invalid UTF-8 in an inline request; write "\\xff"');
  const bytes = latin1(encoder.encode(line));
  const words: string[] = [];
  for (let at = 0; ; at = WORD.lastIndex) {
    SPACES.lastIndex = at;
    SPACES.test(bytes);
    if (SPACES.lastIndex === bytes.length) return words;
    WORD.lastIndex = SPACES.lastIndex;
    const [all, plain, double, single] = WORD.exec(bytes) ?? [];
    if (all === undefined) throw new ProtocolError("unbalanced quotes in request");
    const quoted = double?.replace(ESCAPE, unescaped) ?? single?.replaceAll("\\'", "'") ?? "";
    words.push(plain + quoted);
  }
};

const PLAIN = /^[ !#-&(-~]*$/; // ASCII without quotes, tabs and the like: the line can simply be split
const SPACES = /[\t-\r ]*/y;
const WORD = /([^\t\n\r "']*)(?:"((?:\\[\s\S]|[^"\\])*)"|'((?:\\'|\\(?!')|[^'\\])*)')?(?=[\t-\r ]|$)/y;
const ESCAPE = /\\(?:x([\da-f]{2})|([\s\S]))/gi;
const CONTROLS: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t", b: "\b", a: "\x07" };

const unescaped = (_: string, hex: string | undefined, character: string): string =>
  hex === undefined ? (CONTROLS[character] ?? character) : String.fromCharCode(Number.parseInt(hex, 16));
