/**
 * Redis's protocol, RESP (https://redis.io/docs/latest/develop/reference/protocol-spec/), in both versions: a small
 * server that keeps keys and values in memory, and a client.
 *
 * A connection begins with RESP2; a client that wants RESP3 sends `HELLO 3`. Many requests may arrive at once. They are
 * answered in order, and the replies are gathered and leave together. The other files:
 *
 *     resp/request.ts    requests, from bytes to words
 *     resp/commands.ts   the commands: those of keys and values, then connection.ts and server.ts
 *     resp/reply.ts      replies, from values to bytes
 *     resp/store.ts      the keys and values
 *     resp/replies.ts    the client's side: commands to bytes, and replies to values
 */

import { SocketError, StreamRequestHandler } from "socklet";
import { firstByte, fromLatin1 } from "./resp/bytes.ts";
import type { Client } from "./resp/command.ts";
import { run } from "./resp/commands.ts";
import { Push, type Reply, readReply, type Word, writeCommand } from "./resp/replies.ts";
import { ReplyWriter } from "./resp/reply.ts";
import { inlineWords, nameIn, numberIn, ProtocolError } from "./resp/request.ts";
import { KeyStore } from "./resp/store.ts";

export { KeyStore, type Reply };

const MAX_BULK = 16 * 1024 * 1024; // bytes of one command's words: a Worker has 128 MB (Redis: 512 MB each)
const MAX_WORDS = 1024; // of one command: each is an object, however short it is (Redis: 1 048 576)
const ASTERISK = 0x2a;
const DOLLAR = 0x24;

// ---- The server ----

/** What the server needs of the app. */
export interface RespContext {
  readonly keys: KeyStore;
}

/** Serves PING, ECHO, SET, GET, DEL, EXISTS, INCR, INCRBY, and the commands that today's clients, redis-cli and redis-benchmark need. */
export class RespServer extends StreamRequestHandler<RespContext> {
  override async handle(): Promise<void> {
    const { rfile } = this;
    const { keys } = this.context;
    const out = new ReplyWriter(this.wfile);
    const library = { name: "", version: "" };
    const client: Client = { id: keys.connect(), keys, out, name: "", library, over: null };
    try {
      while (client.over === null) {
        // A line that has already come is taken without a promise: a promise for each costs a fifth more CPU.
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
            if (i > 0) args.push(await rfile.readexactly(length)); // any bytes, even line ends
            const rest = rfile.tryLine() ?? (await rfile.line()); // a command's name has no line end in it
            if (rest === null) return;
            if (i === 0) name = nameIn(rest, length);
            else if (rest !== "") name = undefined;
            if (name === undefined) throw new ProtocolError("invalid bulk length");
          }
        } else {
          // line() cannot tell whether the last line was cut off, so it is run, too.
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
        throw error; // an incomplete read means that the peer left in the middle of a command, which is not an error
      }
    }
  }
}

// ---- The client ----

const BATCH = 64 * 1024; // bytes of commands sent before their replies are read: as much as a peer takes without being read

/**
 * Sends commands and returns their replies. `params` is one command, `["GET", "k"]`, or several that are sent together,
 * `[["SET", "k", "v"], ["GET", "k"]]`; then the replies are an array. A word is text or bytes. For RESP3's types begin
 * with `["HELLO", "3"]`. What the server then pushes unasked is an event, `{ push }`.
 */
export class RespClient extends StreamRequestHandler {
  override async handle(): Promise<Reply> {
    const { params } = this;
    if (isCommand(params)) {
      writeCommand(this.wfile, params);
      return this.#reply();
    }
    if (!Array.isArray(params) || params.length === 0 || !params.every(isCommand)) {
      throw new TypeError(
        'params must be a command, ["GET", "k"], or several, [["SET", "k", "v"], ["GET", "k"]]',
      );
    }
    const replies: Reply[] = [];
    for (let next = 0; next < params.length; ) {
      // One batch at a time. If everything were sent before the first reply is read, a server that reads no commands while
      // its replies wait would wait for us, and we for it.
      const first = next;
      for (let size = 0; next < params.length && size < BATCH; next++)
        size += writeCommand(this.wfile, params[next]);
      for (let i = first; i < next; i++) replies.push(await this.#reply());
    }
    return replies;
  }

  async #reply(): Promise<Reply> {
    for (;;) {
      const got = await readReply(this.rfile);
      if (!(got instanceof Push)) return got;
      this.emit({ push: got.items });
    }
  }
}

const isCommand = (value: unknown): value is Word[] =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((word) => typeof word === "string" || word instanceof Uint8Array);
