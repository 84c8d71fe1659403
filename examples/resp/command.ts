/** What a command is, which client it runs for, and its reply to a wrong call. */

import { latin1 } from "./bytes.ts";
import type { ReplyWriter } from "./reply.ts";
import type { KeyStore } from "./store.ts";

/** The version of Redis whose replies these are. Clients ask for it, to know what they may send. */
export const VERSION = "7.0.15";

/** One client's connection, and what the client has said of itself. */
export interface Client {
  readonly id: number;
  readonly keys: KeyStore;
  readonly out: ReplyWriter;
  /** By `CLIENT SETNAME`. */
  name: string;
  /** By `CLIENT SETINFO`: the client's library and its version. */
  readonly library: { name: string; version: string };
  /** Why the connection will be closed once the replies have left; `null` if it stays open. */
  over: "quit" | "refused" | null;
}

type Group = "string" | "generic" | "connection" | "server";

/** A command or a subcommand, such as `CLIENT SETNAME`. */
export interface Command {
  /** How many words the command has, with its own name; negative: at least so many. That is how Redis counts. */
  readonly arity: number;
  readonly group: Group;
  readonly flags: readonly string[];
  readonly summary: string;
  /** The first word that is a key, the last one (-1: the last word), and the step from one to the next. */
  readonly keys?: readonly [first: number, last: number, step: number];
  readonly subcommands?: ReadonlyMap<string, Command>;
  /** `args` are the words after the command's name. */
  run(args: readonly Uint8Array[], client: Client): void;
}

/** Runs the command of that name, which has `words` words; a subcommand is named `CLIENT|SETNAME`. */
export const runAs = (
  name: string,
  command: Command,
  args: readonly Uint8Array[],
  client: Client,
  words = args.length + 1,
): void => {
  const { arity } = command;
  if (arity < 0 ? words >= -arity : words === arity) command.run(args, client);
  else client.out.error(`ERR wrong number of arguments for '${name.toLowerCase()}' command`);
};

const SHOWN = 128; // bytes of the peer's words that an error repeats, as in Redis

/** A word of the peer for an error: up to its first NUL, where Redis, in C, stops printing. */
export const shown = (word: string, size = SHOWN): string => word.slice(0, size).replace(/\0[\s\S]*/, "");

/** The reply to an unknown command. */
export const unknown = (name: string, args: readonly Uint8Array[]): string => {
  let said = "";
  for (const arg of args) {
    if (said.length >= SHOWN) break;
    said += `'${shown(latin1(arg), SHOWN - said.length)}' `;
  }
  return `ERR unknown command '${shown(name)}', with args beginning with: ${said}`;
};

/** A command with subcommands, as CLIENT has SETNAME. `alone` is what it does without one, if it can be called so. */
export const container = (
  name: string,
  about: Pick<Command, "group" | "flags" | "summary">,
  given: Readonly<Record<string, Omit<Command, "group" | "flags">>>,
  alone?: (client: Client) => void,
): Command => {
  const subcommands = new Map<string, Command>();
  const { group, flags } = about;
  for (const [each, command] of Object.entries(given)) subcommands.set(each, { group, flags, ...command });
  subcommands.set("HELP", {
    group,
    flags,
    arity: 2,
    summary: "Print this help",
    run(_, { out }) {
      out.array(1 + 2 * subcommands.size);
      out.simple(`${name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:`);
      for (const [each, { summary }] of subcommands) {
        out.simple(each);
        out.simple(`    ${summary}.`);
      }
    },
  });
  return {
    ...about,
    arity: alone === undefined ? -2 : -1,
    subcommands,
    run(args, client) {
      if (args.length === 0) {
        alone?.(client);
        return;
      }
      const given = latin1(args[0]);
      const what = given.toUpperCase();
      const command = subcommands.get(what);
      if (command !== undefined) runAs(`${name}|${what}`, command, args.slice(1), client, args.length + 1);
      else client.out.error(`ERR unknown subcommand '${shown(given)}'. Try ${name} HELP.`);
    },
  };
};

/** A signed integer of 64 bits, or `null`. */
export const integerIn = (word: Uint8Array): bigint | null => {
  const text = latin1(word);
  const value = /^(0|-?[1-9]\d{0,18})$/.test(text) ? BigInt(text) : null;
  return value !== null && BigInt.asIntN(64, value) === value ? value : null;
};

export const NO_INTEGER = "ERR value is not an integer or out of range";
