/**
 * The commands: the name of each, how many words it has, and what it replies. The replies are those of Redis 7.0, byte for
 * byte, because clients match on them.
 */

import { type Client, type Command, integerIn, NO_INTEGER, runAs, unknown } from "./command.ts";
import { AUTH, CLIENT, CONNECTION, HELLO, RESET } from "./connection.ts";
import { CONFIG, commandOf, DEBUG, INFO } from "./server.ts";

/** Runs one command, whose name has one character for each byte, and writes its reply. */
export const run = (name: string, args: readonly Uint8Array[], client: Client): void => {
  const known = name.toUpperCase();
  const command = COMMANDS.get(known);
  if (command !== undefined) runAs(known, command, args, client);
  // HTTP: a page in a browser can send commands to a port of this machine, as the body of a POST.
  else if (known === "POST" || known === "HOST:") client.over = "refused";
  else client.out.error(unknown(name, args));
};

// ---- Strings ----

const READS = { group: "string", flags: ["readonly", "fast"] } as const;
const WRITES = { group: "string", flags: ["write", "denyoom", "fast"] } as const;
const FULL = "OOM command not allowed when used memory > 'maxmemory'.";

const encoder = new TextEncoder();

const add = (key: Uint8Array, amount: bigint | null, { keys, out }: Client): void => {
  const old = keys.get(key);
  const value = old === undefined ? 0n : integerIn(old);
  if (value === null || amount === null) out.error(NO_INTEGER);
  else if (BigInt.asIntN(64, value + amount) !== value + amount) {
    out.error("ERR increment or decrement would overflow");
  } else if (keys.set(key, encoder.encode(`${value + amount}`))) out.integer(value + amount);
  else out.error(FULL);
};

// ---- All of them ----

const COMMANDS: ReadonlyMap<string, Command> = new Map(
  Object.entries<Command>({
    AUTH,
    CLIENT,
    COMMAND: commandOf(() => COMMANDS),
    CONFIG,
    DEBUG,
    DEL: {
      group: "generic",
      flags: ["write"],
      arity: -2,
      keys: [1, -1, 1],
      summary: "Delete keys, and say how many there were",
      run: (names, { keys, out }) => out.integer(names.filter((key) => keys.delete(key)).length),
    },
    ECHO: {
      ...CONNECTION,
      arity: 2,
      summary: "Reply with the same text",
      run: ([text], { out }) => out.bulk(text),
    },
    EXISTS: {
      group: "generic",
      flags: ["readonly", "fast"],
      arity: -2,
      keys: [1, -1, 1],
      summary: "Say how many of the keys there are",
      run: (names, { keys, out }) => out.integer(names.filter((key) => keys.get(key) !== undefined).length),
    },
    GET: {
      ...READS,
      arity: 2,
      keys: [1, 1, 1],
      summary: "Give the value of a key",
      run([key], { keys, out }) {
        const value = keys.get(key);
        if (value === undefined) out.null();
        else out.bulk(value);
      },
    },
    HELLO,
    INCR: {
      ...WRITES,
      arity: 2,
      keys: [1, 1, 1],
      summary: "Add one to the integer at a key",
      run: ([key], client) => add(key, 1n, client),
    },
    INCRBY: {
      ...WRITES,
      arity: 3,
      keys: [1, 1, 1],
      summary: "Add a number to the integer at a key",
      run: ([key, amount], client) => add(key, integerIn(amount), client),
    },
    INFO,
    PING: {
      ...CONNECTION,
      arity: -1,
      summary: "Reply PONG, or the same text",
      run(args, { out }) {
        if (args.length > 1) out.error("ERR wrong number of arguments for 'ping' command");
        else if (args.length === 1) out.bulk(args[0]);
        else out.simple("PONG");
      },
    },
    QUIT: {
      ...CONNECTION,
      arity: -1,
      summary: "Close the connection",
      run(_, client) {
        client.out.simple("OK");
        client.over = "quit";
      },
    },
    RESET,
    SELECT: {
      ...CONNECTION,
      arity: 2,
      summary: "Choose a database; there is one, 0",
      run([index], { out }) {
        const number = integerIn(index);
        if (number === null) out.error(NO_INTEGER);
        else if (number !== 0n) out.error("ERR DB index is out of range");
        else out.simple("OK");
      },
    },
    SET: {
      ...WRITES,
      arity: -3,
      keys: [1, 1, 1],
      summary: "Set the value of a key; without options such as EX and NX",
      run([key, value, option], { keys, out }) {
        if (option !== undefined) out.error("ERR syntax error");
        else if (keys.set(key, value)) out.simple("OK");
        else out.error(FULL);
      },
    },
  }),
);
