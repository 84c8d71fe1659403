/** How a client reads replies and writes commands: the other side of request.ts and reply.ts. */

import { SocketError, type StreamReader, type StreamWriter } from "socklet";
import { numberIn } from "./request.ts";

const MAX_DEPTH = 32; // arrays in arrays: Redis's own replies have at most 7
const MAX_ITEMS = 1024 * 1024; // of one array, as Redis's own limit for requests

/** One word of a command: text or bytes. */
export type Word = string | Uint8Array;

/**
 * A reply. It is bytes if they are not UTF-8 text, a `bigint` if an integer is larger than a number holds, and an array
 * for a set, too. An object says in its one key what it is: an error, or a map (RESP3), whose keys may have any type.
 */
export type Reply =
  | string
  | number
  | bigint
  | boolean
  | null
  | Uint8Array
  | { readonly error: string }
  | { readonly map: readonly (readonly [key: Reply, value: Reply])[] }
  | Reply[];

/** What a server sends unasked, between replies (RESP3). */
export class Push {
  readonly items: readonly Reply[];

  constructor(items: readonly Reply[]) {
    this.items = items;
  }
}

/** Writes one command, and returns how many bytes that was. */
export const writeCommand = (wfile: StreamWriter, command: readonly Word[]): number => {
  let size = wfile.write(`*${command.length}\r\n`);
  for (const word of command) {
    const bytes = typeof word === "string" ? encoder.encode(word) : word;
    size += wfile.write(`$${bytes.length}\r\n`) + wfile.write(bytes) + wfile.write("\r\n");
  }
  return size;
};

/** Reads one reply or one push. Throws `ECONNRESET` at the end, `ERR_INCOMPLETE_READ` if the end cuts a reply short, and `ERR_REFUSED` for anything that is not RESP. */
export const readReply = async (rfile: StreamReader, depth = 0): Promise<Reply | Push> => {
  for (;;) {
    const line = await wholeLine(rfile);
    const text = line.slice(1);
    const size = numberIn(line);
    switch (line[0]) {
      case "+":
        return text;
      case "-":
        return { error: text };
      case ":":
      case "(":
        if (!/^[+-]?\d+$/.test(text)) break;
        return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
      case "$":
        if (size === -1) return null;
        if (!(size >= 0)) break;
        return textOrBytes(await bytesOf(rfile, size));
      case "*":
      case "~":
        if (size === -1) return null;
        if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
        return await itemsOf(rfile, size, depth);
      // From here on only RESP3.
      case "_":
        if (text !== "") break;
        return null;
      case "#":
        if (text !== "t" && text !== "f") break;
        return text === "t";
      case ",": {
        const value = DOUBLES[text] ?? Number(text);
        if (Number.isNaN(value) && text !== "nan") break;
        return value;
      }
      case "!":
        if (!(size >= 0)) break;
        return { error: decoder.decode(await bytesOf(rfile, size)) };
      case "=": // three characters and a colon say what kind of text it is
        if (!(size >= 4)) break;
        return textOrBytes((await bytesOf(rfile, size)).subarray(4));
      case "%":
        if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
        return { map: await pairsOf(rfile, size, depth) };
      case "|": // about the reply that follows
        if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
        await pairsOf(rfile, size, depth);
        continue;
      case ">":
        if (!(size >= 0 && size <= MAX_ITEMS && depth === 0)) break; // comes between replies, never inside one
        return new Push(await itemsOf(rfile, size, depth));
    }
    throw new SocketError(
      "ERR_REFUSED",
      `the server does not speak RESP: it replied ${JSON.stringify(line.slice(0, 80))}`,
    );
  }
};

/** A whole line. `line()` would also give a last line that is cut off, and ":12" of ":123" is another number. */
const wholeLine = async (rfile: StreamReader): Promise<string> => {
  const from = rfile.bytesRead - rfile.buffered;
  const line = rfile.tryLine() ?? (await rfile.line());
  if (line === null) throw new SocketError("ECONNRESET", "the server left before it had replied");
  const size = rfile.bytesRead - rfile.buffered - from;
  if (rfile.atEnd && size !== encoder.encode(line).length + 2) {
    throw new SocketError("ERR_INCOMPLETE_READ", "the server left in the middle of a reply");
  }
  return line;
};

/** So many bytes, without the line end after them. */
const bytesOf = async (rfile: StreamReader, size: number): Promise<Uint8Array> =>
  (await rfile.readexactly(size + 2)).subarray(0, size);

const itemsOf = async (rfile: StreamReader, count: number, depth: number): Promise<Reply[]> => {
  const items: Reply[] = [];
  for (let left = count; left > 0; left--) items.push((await readReply(rfile, depth + 1)) as Reply);
  return items;
};

const pairsOf = async (rfile: StreamReader, count: number, depth: number): Promise<[Reply, Reply][]> => {
  const pairs: [Reply, Reply][] = [];
  for (let left = count; left > 0; left--) {
    pairs.push([(await readReply(rfile, depth + 1)) as Reply, (await readReply(rfile, depth + 1)) as Reply]);
  }
  return pairs;
};

const DOUBLES: Readonly<Record<string, number>> = {
  inf: Number.POSITIVE_INFINITY,
  "-inf": Number.NEGATIVE_INFINITY,
  nan: Number.NaN,
  "": Number.NaN, // Number() would take it for 0
};

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const textOrBytes = (bytes: Uint8Array): string | Uint8Array => {
  try {
    return strict.decode(bytes);
  } catch {
    return bytes;
  }
};
