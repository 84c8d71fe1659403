/**
 * Redis's protocol, RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/): a small server of
 * keys and values in memory, and a client.
 *
 * A request is an array of byte strings (`*2␍␊$3␍␊GET␍␊$1␍␊k␍␊`) or a line of words (`GET k␍␊`). Many may come at
 * a time, and are answered in order: replies are gathered and leave together.
 */

import { SocketError, StreamRequestHandler, type StreamWriter } from "socklet";

const MAX_BULK = 16 * 1024 * 1024; // bytes of one command's words: a Worker has 128 MB (Redis: 512 MB each)
const MAX_WORDS = 1024; // of one command, each an object here however short it is (Redis: 1 048 576)
const MAX_MEMORY = 32 * 1024 * 1024; // bytes that a KeyStore holds: with copies in flight, well inside 128 MB
const ENTRY = 512; // bytes that a key costs beside itself and its value: V8's about 300 (measured), and malloc's

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

/** PING, ECHO, SET, GET, DEL, INCR, and what redis-cli and redis-benchmark ask beside. */
export class RespServer extends StreamRequestHandler<RespContext> {
  override async handle(): Promise<void> {
    const { rfile, wfile } = this;
    const { keys } = this.context;
    try {
      for (;;) {
        // Lines that are here already are taken without a wait: a promise for each is a fifth more CPU.
        const line = rfile.tryLine() ?? (await rfile.line());
        if (line === null) return;
        let name: string | undefined;
        let args: Uint8Array[] = [];
        if (line.charCodeAt(0) === ASTERISK) {
          const count = numberIn(line);
          if (!(count <= MAX_WORDS)) throw new ProtocolError("invalid multibulk length");
          let size = 0;
          for (let i = 0; i < count; i++) {
            const header = rfile.tryLine() ?? (await rfile.line());
            if (header === null) return;
            if (header.charCodeAt(0) !== DOLLAR) {
              throw new ProtocolError(`expected '$', got '${header.slice(0, 1)}'`);
            }
            const length = numberIn(header);
            size += length;
            if (!(length >= 0 && size <= MAX_BULK)) throw new ProtocolError("invalid bulk length");
            if (i > 0) args.push(await rfile.readexactly(length)); // any bytes, line ends among them
            const rest = rfile.tryLine() ?? (await rfile.line()); // a command's name is a word, and so a line
            if (rest === null) return;
            if (rest.length !== (i > 0 ? 0 : length)) throw new ProtocolError("invalid bulk length");
            if (i === 0) name = rest;
          }
        } else {
          // Typed by somebody at a terminal. line() cannot tell a last line that was cut off, so that is run, too.
          const words = line.split(" ").filter((word) => word !== "");
          name = words.shift();
          args = words.map((word) => encoder.encode(word));
        }
        if (name !== undefined && run(name, args, wfile, keys) === QUIT) return;
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

/** A command: how many arguments it takes, and what it does. */
interface Command {
  readonly least: number;
  readonly most: number;
  run(args: readonly Uint8Array[], out: StreamWriter, keys: KeyStore): unknown;
}

const OK = "+OK\r\n";
const FULL = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";

const COMMANDS: ReadonlyMap<string, Command> = new Map(
  Object.entries({
    PING: {
      least: 0,
      most: 1,
      run: ([text], out) => (text === undefined ? out.write("+PONG\r\n") : writeBulk(out, text)),
    },
    ECHO: { least: 1, most: 1, run: ([text], out) => writeBulk(out, text) },
    SET: {
      least: 2,
      most: MAX_WORDS,
      run: ([key, value, option], out, keys) => {
        if (option !== undefined) return out.write("-ERR syntax error\r\n"); // no EX, NX and the like here
        return out.write(keys.set(key, value) ? OK : FULL);
      },
    },
    GET: { least: 1, most: 1, run: ([key], out, keys) => writeBulk(out, keys.get(key)) },
    DEL: {
      least: 1,
      most: MAX_WORDS,
      run: (names, out, keys) => out.write(`:${names.filter((key) => keys.delete(key)).length}\r\n`),
    },
    INCR: { least: 1, most: 1, run: ([key], out, keys) => out.write(increment(key, keys)) },
    SELECT: {
      least: 1,
      most: 1,
      run: ([index], out) => out.write(latin1(index) === "0" ? OK : "-ERR DB index is out of range\r\n"),
    },
    QUIT: {
      least: 0,
      most: MAX_WORDS,
      run: (_, out) => {
        out.write(OK);
        return QUIT;
      },
    },
    CLIENT: {
      least: 1,
      most: MAX_WORDS,
      run: ([what], out) => {
        const known = /^(SETNAME|SETINFO)$/i.test(latin1(what));
        return out.write(
          known ? OK : `-ERR unknown subcommand '${shown(latin1(what))}'. Try CLIENT HELP.\r\n`,
        );
      },
    },
    // redis-cli asks for the commands' descriptions and can do without.
    COMMAND: { least: 0, most: MAX_WORDS, run: (_, out) => out.write("*0\r\n") },
    // redis-benchmark asks how the server saves, and warns where it is not told: it does not.
    CONFIG: {
      least: 1,
      most: MAX_WORDS,
      run: ([what, name], out) => {
        if (name === undefined || !/^GET$/i.test(latin1(what))) {
          return out.write(`-ERR unknown subcommand '${shown(latin1(what))}'. Try CONFIG HELP.\r\n`);
        }
        out.write("*2\r\n");
        writeBulk(out, name);
        return out.write("$0\r\n\r\n");
      },
    },
    HELLO: {
      least: 0,
      most: MAX_WORDS,
      run: ([version], out) => {
        if (version !== undefined && latin1(version) !== "2") {
          return out.write("-NOPROTO unsupported protocol version\r\n");
        }
        return out.write("*4\r\n$6\r\nserver\r\n$7\r\nsocklet\r\n$5\r\nproto\r\n:2\r\n");
      },
    },
  } satisfies Record<string, Command>),
);

/** Runs one command and writes its reply; gives what the command gives. */
const run = (name: string, args: readonly Uint8Array[], out: StreamWriter, keys: KeyStore): unknown => {
  const command = COMMANDS.get(name.toUpperCase());
  if (command === undefined) {
    const first = args.slice(0, 3).map((arg) => `'${shown(latin1(arg))}' `);
    return out.write(
      `-ERR unknown command '${shown(name)}', with args beginning with: ${first.join("")}\r\n`,
    );
  }
  if (args.length < command.least || args.length > command.most) {
    return out.write(`-ERR wrong number of arguments for '${name.toLowerCase()}' command\r\n`);
  }
  return command.run(args, out, keys);
};

const increment = (key: Uint8Array, keys: KeyStore): string => {
  const old = keys.get(key);
  const text = old === undefined ? "0" : latin1(old);
  const value = /^(0|-?[1-9]\d{0,18})$/.test(text) ? BigInt(text) : null;
  if (value === null || BigInt.asIntN(64, value) !== value) {
    return "-ERR value is not an integer or out of range\r\n";
  }
  const next = value + 1n;
  if (BigInt.asIntN(64, next) !== next) return "-ERR increment or decrement would overflow\r\n";
  return keys.set(key, encoder.encode(`${next}`)) ? `:${next}\r\n` : FULL;
};

const writeBulk = (out: StreamWriter, bytes: Uint8Array | undefined): void => {
  if (bytes === undefined) {
    out.write("$-1\r\n");
    return;
  }
  out.write(`$${bytes.length}\r\n`);
  out.write(bytes);
  out.write("\r\n");
};

/** The number after a line's first character; `NaN` where that is none. */
const numberIn = (line: string): number => {
  const digits = line.charCodeAt(1) === MINUS ? 2 : 1;
  if (line.length === digits || line.length > digits + 10) return Number.NaN;
  let number = 0;
  for (let i = digits; i < line.length; i++) {
    const digit = line.charCodeAt(i) - ZERO;
    if (!(digit >= 0 && digit <= 9)) return Number.NaN;
    number = number * 10 + digit;
  }
  return digits === 1 ? number : -number;
};

const MINUS = 0x2d;
const ZERO = 0x30;

const encoder = new TextEncoder();
const byteByByte = new TextDecoder("latin1");
const SHORT = 32; // bytes up to which fromCharCode is the faster of the two

/** Any bytes as text of as many characters: different bytes, different text. */
const latin1 = (bytes: Uint8Array): string =>
  bytes.length <= SHORT ? Reflect.apply(String.fromCharCode, null, bytes) : byteByByte.decode(bytes);

/** A peer's word in a reply: short, and on one line, so that it cannot end the reply and begin another. */
const shown = (word: string): string => word.slice(0, 128).replace(/[\r\n]/g, " ");

// ---- The client ----

const BATCH = 64 * 1024; // bytes of commands sent before their replies are read: what a peer takes in unread
const MAX_DEPTH = 32; // arrays in arrays: Redis's own replies have at most 7
const MAX_ITEMS = 1024 * 1024; // of one array, as Redis's own limit for requests

/** A reply: bytes where they are not UTF-8 text, `bigint` where an integer is larger than a number holds. */
export type Reply = string | number | bigint | null | Uint8Array | { readonly error: string } | Reply[];

/**
 * Sends commands and gives their replies. `params` is one command, `["GET", "k"]`, or several that are sent
 * together, `[["SET", "k", "v"], ["GET", "k"]]`; then the replies are an array. A word is text or bytes.
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
    const line = await this.rfile.line();
    if (line === null) throw new SocketError("ECONNRESET", "the server left before it had replied");
    const text = line.slice(1);
    const number = numberIn(line);
    switch (line[0]) {
      case "+":
        return text;
      case "-":
        return { error: text };
      case ":":
        if (!/^[+-]?\d+$/.test(text)) break;
        return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
      case "$":
        if (number === -1) return null;
        if (!(number >= 0)) break;
        return textOrBytes((await this.rfile.readexactly(number + 2)).subarray(0, number));
      case "*": {
        if (number === -1) return null;
        if (!(number >= 0 && number <= MAX_ITEMS && depth < MAX_DEPTH)) break;
        const items: Reply[] = [];
        for (let left = number; left > 0; left--) items.push(await this.#reply(depth + 1));
        return items;
      }
    }
    throw new SocketError(
      "ERR_REFUSED",
      `the server does not speak RESP2: it replied ${JSON.stringify(line.slice(0, 80))}`,
    );
  }
}

type Word = string | Uint8Array;

const isCommand = (value: unknown): value is Word[] =>
  Array.isArray(value) &&
  value.length > 0 &&
  value.every((word) => typeof word === "string" || word instanceof Uint8Array);

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const textOrBytes = (bytes: Uint8Array): string | Uint8Array => {
  try {
    return strict.decode(bytes);
  } catch {
    return bytes;
  }
};
