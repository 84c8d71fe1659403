/** Line protocols: the general decoder, and SMTP. */

import type { DecodedMessage, Decoder } from "./decoder.ts";

const decoder = new TextDecoder();

/** The lines, with their offsets; the text is without the line end. */
function* linesOf(bytes: Uint8Array, from = 0): Generator<DecodedMessage, void, undefined> {
  let start = from;
  for (let at = bytes.indexOf(10, start); at !== -1; at = bytes.indexOf(10, start)) {
    const last = at > start && bytes[at - 1] === 13 ? at - 1 : at;
    yield { start, end: at + 1, text: decoder.decode(bytes.subarray(start, last)) };
    start = at + 1;
  }
}

/** Decodes any line protocol: each line is a message. */
export const decodeLines: Decoder = (bytes) => linesOf(bytes);

const DOT_LINES = 3; // lines of a mail that are shown; the bytes have it whole

/** Decodes SMTP (RFC 5321): a command, a reply of one or more lines, or a mail after DATA is one message. */
export function* decodeSmtp(
  bytes: Uint8Array,
  from: "client" | "server",
): Generator<DecodedMessage, void, undefined> {
  let first: DecodedMessage | null = null; // the first line of a multi-line reply, or of a mail
  let texts: string[] = [];
  let mail = false;
  for (const line of linesOf(bytes)) {
    if (from === "server") {
      first ??= line;
      texts.push(line.text);
      if (/^\d{3}-/.test(line.text)) continue;
    } else if (mail) {
      first ??= line;
      texts.push(line.text);
      if (line.text !== ".") continue;
      mail = false;
      const rest = texts.length - 1 - DOT_LINES;
      texts = [`a mail of ${line.start - first.start} bytes:`, ...texts.slice(0, -1).slice(0, DOT_LINES)];
      if (rest > 0) texts.push(`and ${rest} lines more`);
    } else {
      mail = /^data\s*$/i.test(line.text);
      yield line;
      continue;
    }
    yield { start: first.start, end: line.end, text: texts.join("\n") };
    first = null;
    texts = [];
  }
}
