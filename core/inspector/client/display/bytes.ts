/** Bytes as text for people, and back. */

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const hex = (byte: number): string => byte.toString(16).padStart(2, "0");

export const fromBase64 = (text: string): Uint8Array =>
  Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

export const toBase64 = (bytes: Uint8Array): string => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192)
    binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(binary);
};

export const join = (pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> => {
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
};

/** The bytes as text if they are UTF-8, else `null`. */
export const utf8 = (bytes: Uint8Array): string | null => {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
};

// What could disturb the page or hide in it: control characters, those that change the direction of text, and invisible ones.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Cs}]/gu;

const named: Readonly<Record<string, string>> = { "\r": "\\r", "\n": "\\n", "\t": "\\t" };
const escaped = (character: string): string => {
  const code = character.codePointAt(0) as number;
  return named[character] ?? (code < 0x80 ? `\\x${hex(code)}` : `\\u{${code.toString(16)}}`);
};

/** The bytes as one line of text, which `fromLine` turns back into the same bytes. */
export const toLine = (bytes: Uint8Array): string => {
  const text = utf8(bytes);
  if (text !== null) return text.replace(/\\/g, "\\\\").replace(HIDDEN, escaped);
  return Array.from(bytes, (byte) =>
    byte === 92
      ? "\\\\"
      : byte >= 32 && byte < 127
        ? String.fromCharCode(byte)
        : (named[String.fromCharCode(byte)] ?? `\\x${hex(byte)}`),
  ).join("");
};

/** The bytes of a line with the escapes `\r`, `\n`, `\t`, `\\`, `\xNN`, `\u{N}`. Throws for any other escape. */
export const fromLine = (line: string): Uint8Array => {
  const pieces: Uint8Array[] = [];
  const encoder = new TextEncoder();
  for (const [part] of line.matchAll(/\\(?:x[\da-f]{2}|u\{[\da-f]{1,6}\}|.|$)|[^\\]+/gisu)) {
    if (!part.startsWith("\\")) pieces.push(encoder.encode(part));
    else if (/^\\x/i.test(part) && part.length === 4)
      pieces.push(Uint8Array.of(Number.parseInt(part.slice(2), 16)));
    else if (/^\\u\{/i.test(part))
      pieces.push(encoder.encode(String.fromCodePoint(Number.parseInt(part.slice(3), 16))));
    else {
      const code = { "\\r": 13, "\\n": 10, "\\t": 9, "\\0": 0, "\\\\": 92 }[part];
      if (code === undefined)
        throw new Error(`${part} is no escape; there are \\r \\n \\t \\0 \\\\ \\xNN \\u{N}`);
      pieces.push(Uint8Array.of(code));
    }
  }
  return join(pieces);
};

/** The bytes of a text of hex digits. Throws for any other text. */
export const fromHex = (text: string): Uint8Array => {
  const digits = text.replace(/[\s:,]|0x/gi, "");
  if (!/^(?:[\da-f]{2})*$/i.test(digits)) throw new Error("hex is pairs of the digits 0 to 9 and a to f");
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
};

/** Text with hidden characters written as escapes, except line ends and tabs. */
export const visible = (text: string): string =>
  text.replace(HIDDEN, (character) =>
    character === "\n" || character === "\t" ? character : escaped(character),
  );

/** Bytes as readable text: lines stay lines, and hidden characters are escaped. */
export const readable = (bytes: Uint8Array): string =>
  visible(
    (
      utf8(bytes) ??
      Array.from(bytes, (byte) => (byte < 128 ? String.fromCharCode(byte) : `\\x${hex(byte)}`)).join("")
    ).replace(/\r\n/g, "\n"),
  );

/** Rows of 16 bytes: the offset, the hex digits, the text. */
export const hexdump = (bytes: Uint8Array, from = 0): string => {
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const part = bytes.subarray(at, at + 16);
    const pairs = Array.from(part, hex).join(" ").padEnd(47);
    const text = Array.from(part, (byte) =>
      byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".",
    ).join("");
    rows.push(`${(from + at).toString(16).padStart(6, "0")}  ${pairs}  ${text}`);
  }
  return rows.join("\n");
};

/** A number of bytes as text. */
export const size = (bytes: number): string => {
  if (bytes < 1024) return `${bytes} B`;
  const unit = bytes < 1024 ** 2 ? 1 : bytes < 1024 ** 3 ? 2 : 3;
  return `${(bytes / 1024 ** unit).toFixed(1)} ${["", "KiB", "MiB", "GiB"][unit]}`;
};
