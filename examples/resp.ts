/**
 * Redis's protocol, RESP (https://redis.io/docs/latest/develop/reference/protocol-spec/), in both of its versions: a
 * small server of keys and values in memory, and a client.
 *
 * A connection begins with RESP2; a client that wants RESP3 says `HELLO 3`. Many requests may come at a time, and are
 * answered in order: replies are gathered and leave together. To read on:
 *
 *     resp/request.ts    requests, from bytes to words
 *     resp/commands.ts   the commands: those of keys and values, then connection.ts and server.ts
 *     resp/reply.ts      replies, from values to bytes
 *     resp/store.ts      the keys and values
 */

import { SocketError, StreamRequestHandler } from "socklet";
import { firstByte, fromLatin1 } from "./resp/bytes.ts";
import type { Client } from "./resp/command.ts";
import { run } from "./resp/commands.ts";
import { ReplyWriter } from "./resp/reply.ts";
import { inlineWords, nameIn, numberIn, ProtocolError } from "./resp/request.ts";
import { KeyStore } from "./resp/store.ts";

export { KeyStore };

const MAX_BULK = 16 * 1024 * 1024; // bytes of one command's words: a Worker has 128 MB (Redis: 512 MB each)
const MAX_WORDS = 1024; // of one command, each an object here however short it is (Redis: 1 048 576)
const ASTERISK = 0x2a;
const DOLLAR = 0x24;

// ---- The server ----

/** What the server needs of the app. */
export interface RespContext {
  readonly keys: KeyStore;
}

/** PING, ECHO, SET, GET, DEL, EXISTS, INCR, INCRBY, and what today's clients, redis-cli and redis-benchmark ask beside. */
export class RespServer extends StreamRequestHandler<RespContext> {
  override async handle(): Promise<void> {
    const { rfile } = this;
    const { keys } = this.context;
    const out = new ReplyWriter(this.wfile);
    const library = { name: "", version: "" };
    const client: Client = { id: keys.connect(), keys, out, name: "", library, over: null };
    try {
      while (client.over === null) {
        // Lines that are here already are taken without a wait: a promise for each is a fifth more CPU.
        const line = rfile.tryLine() ?? (await rfile.line());
        if (line === null) return;
        let name: string | undefined; // one character a byte
        let args: Uint8Array[] = [];
        if (line.charCodeAt(0) === ASTERISK) {
          const count = numberIn(line);
          if (!(count <= MAX_WORDS)) throw new ProtocolError("invalid multibulk length");
          let size = 0;
          for (let i = 0; i < count; i++) {
            const header = rfile.tryLine() ?? (await rfile.line());
            if (header === null) return;
            if (header.charCodeAt(0) !== DOLLAR) {
              throw new ProtocolError(`expected '$', got '${firstByte(header)}'`);
            }
            const length = numberIn(header); // in bytes
            size += length;
            if (!(length >= 0 && size <= MAX_BULK)) throw new ProtocolError("invalid bulk length");
            if (i > 0) args.push(await rfile.readexactly(length)); // any bytes, line ends among them
            const rest = rfile.tryLine() ?? (await rfile.line()); // a command's name is a word, and so a line
            if (rest === null) return;
            if (i === 0) name = nameIn(rest, length);
            else if (rest !== "") name = undefined;
            if (name === undefined) throw new ProtocolError("invalid bulk length");
          }
        } else {
          // line() cannot tell a last line that was cut off, so that is run, too.
          const words = inlineWords(line);
          name = words.shift();
          args = words.map(fromLatin1);
        }
        if (name !== undefined) run(name, args, client);
      }
      if (client.over === "refused") this.emit({ refused: "HTTP" });
    } catch (error) {
      if (error instanceof ProtocolError) {
        out.error(`ERR Protocol error: ${error.message}`);
      } else if (error instanceof SocketError && error.code === "ERR_LIMIT") {
        out.error("ERR Protocol error: too big inline request");
      } else if (!(error instanceof SocketError && error.code === "ERR_INCOMPLETE_READ")) {
        throw error; // an incomplete read is a peer that left in the middle of a command: no error of ours
      }
    }
  }
}

// ---- The client ----

const BATCH = 64 * 1024; // bytes of commands sent before their replies are read: what a peer takes in unread
const MAX_DEPTH = 32; // arrays in arrays: Redis's own replies have at most 7
const MAX_ITEMS = 1024 * 1024; // of one array, as Redis's own limit for requests

/**
 * A reply: bytes where they are not UTF-8 text, `bigint` where an integer is larger than a number holds, an array for
 * a set, too. What is an object says in its one key what it is: an error, or a map (RESP3), whose keys may be of any
 * type.
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

/**
 * Sends commands and gives their replies. `params` is one command, `["GET", "k"]`, or several that are sent
 * together, `[["SET", "k", "v"], ["GET", "k"]]`; then the replies are an array. A word is text or bytes. To have
 * RESP3's types, begin with `["HELLO", "3"]`. What the server then pushes, unasked, is told as an event, `{ push }`.
 */
export class RespClient extends StreamRequestHandler {
  override async handle(): Promise<Reply> {
    const { params } = this;
    if (isCommand(params)) {
      this.#send(params);
      return this.#reply();
    }
    if (!Array.isArray(params) || params.length === 0 || !params.every(isCommand)) {
      throw new TypeError(
        'params must be a command, ["GET", "k"], or several, [["SET", "k", "v"], ["GET", "k"]]',
      );
    }
    const replies: Reply[] = [];
    for (let next = 0; next < params.length; ) {
      // A batch at a time. Were all sent before the first reply is read, a server that takes no commands while
      // its replies wait would wait for us, and we for it.
      const first = next;
      for (let size = 0; next < params.length && size < BATCH; next++) size += this.#send(params[next]);
      for (let i = first; i < next; i++) replies.push(await this.#reply());
    }
    return replies;
  }

  #send(command: Word[]): number {
    const { wfile } = this;
    let size = wfile.write(`*${command.length}\r\n`);
    for (const word of command) {
      const bytes = typeof word === "string" ? encoder.encode(word) : word;
      size += wfile.write(`$${bytes.length}\r\n`) + wfile.write(bytes) + wfile.write("\r\n");
    }
    return size;
  }

  async #reply(depth = 0): Promise<Reply> {
    for (;;) {
      const line = await this.rfile.line();
      if (line === null) throw new SocketError("ECONNRESET", "the server left before it had replied");
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
          return textOrBytes(await this.#bytes(size));
        case "*":
        case "~":
          if (size === -1) return null;
          if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
          return await this.#items(size, depth);
        // From here on RESP3 alone.
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
          return { error: decoder.decode(await this.#bytes(size)) };
        case "=": // three characters say what kind of text it is, and a colon ends them
          if (!(size >= 4)) break;
          return textOrBytes((await this.#bytes(size)).subarray(4));
        case "%":
          if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
          return { map: await this.#pairs(size, depth) };
        case "|": // about the reply that follows
          if (!(size >= 0 && size <= MAX_ITEMS && depth < MAX_DEPTH)) break;
          await this.#pairs(size, depth);
          continue;
        case ">":
          if (!(size >= 0 && size <= MAX_ITEMS && depth === 0)) break; // comes between replies, never inside one
          this.emit({ push: await this.#items(size, depth) });
          continue;
      }
      throw new SocketError(
        "ERR_REFUSED",
        `the server does not speak RESP: it replied ${JSON.stringify(line.slice(0, 80))}`,
      );
    }
  }

  /** So many bytes, without the line end behind them. */
  async #bytes(size: number): Promise<Uint8Array> {
    return (await this.rfile.readexactly(size + 2)).subarray(0, size);
  }

  async #items(count: number, depth: number): Promise<Reply[]> {
    const items: Reply[] = [];
    for (let left = count; left > 0; left--) items.push(await this.#reply(depth + 1));
    return items;
  }

  async #pairs(count: number, depth: number): Promise<[Reply, Reply][]> {
    const pairs: [Reply, Reply][] = [];
    for (let left = count; left > 0; left--) {
      pairs.push([await this.#reply(depth + 1), await this.#reply(depth + 1)]);
    }
    return pairs;
  }
}

const DOUBLES: Readonly<Record<string, number>> = {
  inf: Number.POSITIVE_INFINITY,
  "-inf": Number.NEGATIVE_INFINITY,
  nan: Number.NaN,
  "": Number.NaN, // which Number() takes for 0
};

type Word = string | Uint8Array;

const isCommand = (value: unknown): value is Word[] =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((word) => typeof word === "string" || word instanceof Uint8Array);

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
