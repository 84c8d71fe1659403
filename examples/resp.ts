/**
 * Redis's protocol, RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/): a small server of keys
 * and values in memory, and a client.
 *
 * A request is an array of byte strings (`*2␍␊$3␍␊GET␍␊$1␍␊k␍␊`) or a line of words (`GET k␍␊`). Requests may come
 * many at a time, and are answered in order: replies are gathered and leave together.
 */

import { SocketError, StreamRequestHandler, type StreamWriter } from "socklet";

const MAX_BULK = 16 * 1024 * 1024; // bytes of all arguments of one command: a Worker has 128 MB (Redis: 512 MB each)
const MAX_ARGUMENTS = 1024; // of one command, each an object here however short it is (Redis: 1 048 576)
const MAX_MEMORY = 32 * 1024 * 1024; // bytes that a KeyStore holds: with copies in flight, well inside 128 MB
const ENTRY = 256; // bytes that a key costs beside its own and its value's: measured in V8, rounded up

// ---- The server ----

/** Keys and their values, both any bytes. Shared by all connections whose context has it. */
export class KeyStore {
  readonly #values = new Map<string, Uint8Array>();
  #size = 0;

  get(key: Uint8Array): Uint8Array | undefined {
    return this.#values.get(latin1(key));
  }

  /** Gives false, and keeps what was there, where the value does not fit into the memory. */
  set(key: Uint8Array, value: Uint8Array): boolean {
    const name = latin1(key);
    const old = this.#values.get(name);
    const more = old === undefined ? ENTRY + key.length + value.length : value.length - old.length;
    if (more > 0 && this.#size + more > MAX_MEMORY) return false;
    this.#size += more;
    this.#values.set(name, value);
    return true;
  }

  delete(key: Uint8Array): boolean {
    const name = latin1(key);
    const old = this.#values.get(name);
    if (old === undefined) return false;
    this.#size -= ENTRY + key.length + old.length;
    return this.#values.delete(name);
  }
}

/** What the server needs of the app. */
export interface RespContext {
  readonly keys: KeyStore;
}

/** Serves one connection: PING, ECHO, SET, GET, DEL, INCR, and what redis-cli and redis-benchmark ask beside. */
export class RespServer extends StreamRequestHandler<RespContext> {
  override async handle(): Promise<void> {
    const { rfile, wfile } = this;
    const { keys } = this.context;
    try {
      for (;;) {
        // All that is buffered is served without a wait: a promise for each command would halve the rate.
        const line = rfile.tryLine() ?? (await rfile.line());
        if (line === null) return;
        let words: Uint8Array[];
        if (line.charCodeAt(0) === ASTERISK) {
          const count = numberIn(line);
          if (!(count <= MAX_ARGUMENTS)) throw new ProtocolError("invalid multibulk length");
          words = [];
          let size = 0;
          for (let left = count; left > 0; left--) {
            const header = rfile.tryLine() ?? (await rfile.line());
            if (header === null) return;
            if (header.charCodeAt(0) !== DOLLAR)
              throw new ProtocolError(`expected '$', got '${header.slice(0, 1)}'`);
            const length = numberIn(header);
            size += length;
            if (!(length >= 0 && size <= MAX_BULK)) throw new ProtocolError("invalid bulk length");
            words.push((await rfile.readexactly(length + 2)).subarray(0, length));
          }
        } else {
          words = line
            .split(/\s+/)
            .filter(Boolean)
            .map((word) => encoder.encode(word));
        }
        if (words.length > 0 && run(words, wfile, keys) === QUIT) return;
      }
    } catch (error) {
      if (error instanceof ProtocolError) {
        wfile.write(`-ERR Protocol error: ${error.message}\r\n`);
      } else if (error instanceof SocketError && error.code === "ERR_LIMIT") {
        wfile.write("-ERR Protocol error: too big inline request\r\n");
      } else if (!(error instanceof SocketError && error.code === "ERR_INCOMPLETE_READ")) {
        throw error; // an incomplete read is a peer that left in the middle of a command: no error of ours
      }
    }
  }
}

const ASTERISK = 0x2a;
const DOLLAR = 0x24;
const QUIT = Symbol("QUIT");

/** The peer does not speak RESP: nothing it sends from here on can be told apart. */
class ProtocolError extends Error {}

/** A command: how many words it has, its own name among them, and what it does. */
interface Command {
  readonly least: number;
  readonly most: number;
  run(words: readonly Uint8Array[], out: StreamWriter, keys: KeyStore): unknown;
}
