/** RESP 2 and 3, the protocol of Redis: https://redis.io/docs/latest/develop/reference/protocol-spec/ */

import type { DecodedMessage } from "./decoder.ts";

const MOST_DEPTH = 32; // levels of nesting: reading is recursive
const SHOWN = 200; // characters of a string that are shown

const decoder = new TextDecoder();

/** A value, and the offset of its end; `null`: it is incomplete. */
type Read = { readonly end: number; readonly text: string } | null;

const wrong = (at: number, what: string): Error => new Error(`byte ${at}: ${what}`);

const shown = (bytes: Uint8Array): string => {
  const text = JSON.stringify(decoder.decode(bytes.subarray(0, SHOWN * 4)));
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}… (${bytes.length} bytes)` : text;
};

/** The rest of a line, and the offset of the next one; `null`: it is incomplete. */
const lineAt = (bytes: Uint8Array, from: number): { readonly text: string; readonly next: number } | null => {
  const end = bytes.indexOf(10, from);
  if (end === -1) return null;
  const last = end > from && bytes[end - 1] === 13 ? end - 1 : end;
  return { text: decoder.decode(bytes.subarray(from, last)), next: end + 1 };
};

const countOf = (text: string, at: number): number => {
  if (/^-?\d{1,15}$/.test(text)) return Number(text);
  throw wrong(at, `${JSON.stringify(text.slice(0, 20))} is no length`);
};

const valueAt = (bytes: Uint8Array, at: number, depth: number): Read => {
  if (depth > MOST_DEPTH) throw wrong(at, `values are nested more than ${MOST_DEPTH} deep`);
  const type = String.fromCharCode(bytes[at] ?? 0);
  const line = lineAt(bytes, at + 1);
  if (line === null) return null;
  const { text, next } = line;
  switch (type) {
    case "+":
    case ",":
    case "(":
    case ":":
      return { end: next, text };
    case "-":
      return { end: next, text: `error: ${text}` };
    case "#":
      return { end: next, text: text === "t" ? "true" : "false" };
    case "_":
      return { end: next, text: "null" };
    case "$":
    case "!":
    case "=": {
      const size = countOf(text, at);
      if (size < 0) return { end: next, text: "null" };
      if (bytes.length < next + size + 2) return null;
      const value = shown(bytes.subarray(next, next + size));
      return { end: next + size + 2, text: type === "!" ? `error: ${value}` : value };
    }
    case "*":
    case "~":
    case ">":
    case "%":
    case "|": {
      const count = countOf(text, at);
      if (count < 0) return { end: next, text: "null" };
      const pairs = type === "%" || type === "|";
      const parts: string[] = [];
      let end = next;
      for (let i = 0; i < (pairs ? count * 2 : count); i++) {
        if (end >= bytes.length) return null;
        const value = valueAt(bytes, end, depth + 1);
        if (value === null) return null;
        parts.push(value.text);
        end = value.end;
      }
      const whole = pairs
        ? `{ ${parts.map((part, i) => (i % 2 === 0 ? `${part}: ` : i < parts.length - 1 ? `${part}, ` : part)).join("")} }`
        : `[${parts.join(", ")}]`;
      return { end, text: type === ">" ? `push ${whole}` : whole };
    }
    default:
      throw wrong(at, `${JSON.stringify(type)} begins no value of RESP`);
  }
};

/** Decodes RESP: each value is a message; from the client each command, including inline ones. */
export function* decodeResp(
  bytes: Uint8Array,
  from: "client" | "server",
): Generator<DecodedMessage, void, undefined> {
  for (let start = 0; start < bytes.length; ) {
    if (from === "client" && bytes[start] !== 42) {
      const line = lineAt(bytes, start); // an inline command
      if (line === null) return;
      yield { start, end: line.next, text: line.text };
      start = line.next;
      continue;
    }
    const value = valueAt(bytes, start, 0);
    if (value === null) return;
    yield { start, end: value.end, text: value.text };
    start = value.end;
  }
}
