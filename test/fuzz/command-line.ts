/** The command line: whatever words it is given, it takes them, or says in one line what is wrong with them. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { text as readAll } from "node:stream/consumers";
import type { Command, Option } from "commander";
import fc from "fast-check";
import { program, statusOf } from "../../emulator/command/program.ts";
import { temporaryFolder, tied } from "../peers/children.ts";
import { same, type Target, target } from "./target.ts";

/** Text of a hundred thousand characters: what takes time that grows with the square of it does not end. */
const huge = fc
  .tuple(fc.constantFrom(" ", "\n", "a", "-", "=", "0", "é", "\t \n", "ab"), fc.constantFrom("", "x", "\n"))
  .map(([unit, end]) => unit.repeat(100_000 / unit.length) + end);

/** Values that are never meant, and values that might be. */
const text = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.constantFrom(
      ...["", " ", "-", "--", "---", "=", "--=", "-0", "0", "1", "80", "70000", "1e3", "0x10", "NaN", "null"],
      ...[
        "auto",
        "json",
        "pretty",
        "off",
        "self-signed",
        "starttls",
        "on",
        "running",
        "127.0.0.1:1",
        "[::1]:0",
      ],
      ...["__proto__", "constructor", "toString", "hasOwnProperty", "help", "version", "--help", "--version"],
      ...[
        "\u202e\u001b[31m",
        "\ud800",
        "é😀",
        "a\nb",
        "%s%n%o",
        "../../x",
        "file:///x",
        "$(x)",
        "{",
        '["a"]',
      ],
    ),
  },
  { weight: 4, arbitrary: fc.string({ unit: "binary", maxLength: 12 }) },
  { weight: 2, arbitrary: fc.integer().map(String) },
  { weight: 1, arbitrary: fc.string({ unit: fc.constantFrom(..."-=ab1 "), maxLength: 8 }) },
);

/** A command that does something, and the words that name it. */
interface Leaf {
  readonly words: readonly string[];
  readonly command: Command;
}

const leavesOf = (command: Command, words: readonly string[]): Leaf[] =>
  command.commands.length === 0
    ? [{ words, command }]
    : command.commands.flatMap((one) => leavesOf(one, [...words, one.name()]));

const leaves = leavesOf(program, []);

/** One flag as somebody may write it. */
const flagOf = ({ long, short, flags }: Option): fc.Arbitrary<readonly string[]> => {
  const names = fc.constantFrom(...[long, short].filter((name) => name != null));
  const takes = flags.includes("<") || flags.includes("[");
  return fc
    .tuple(names, text, fc.constantFrom(takes ? "value" : "none", "value", "equals", "none"))
    .map(([name, value, how]) =>
      how === "value" ? [name, value] : how === "equals" ? [`${name}=${value}`] : [name],
    );
};

/** Words for a command: its flags and arguments, some of them wrong, some missing, and words that nobody knows. */
const wordsFor = ({ words, command }: Leaf): fc.Arbitrary<string[]> => {
  const flags = command.options.map(flagOf);
  const word = text.map((one) => [one] as readonly string[]);
  const rest = fc.array(flags.length === 0 ? word : fc.oneof(word, ...flags), { maxLength: 6 });
  return fc.tuple(fc.constant(words), rest).map(([first, rest]) => [...first, ...rest.flat()]);
};

const argv = fc
  .tuple(
    fc.oneof(
      { weight: 9, arbitrary: fc.oneof(...leaves.map(wordsFor)) },
      { weight: 1, arbitrary: fc.array(text, { maxLength: 5 }) },
    ),
    fc.option(fc.tuple(fc.nat(8), huge), { freq: 30 }),
  )
  .map(([words, large]) => (large === null ? words : words.toSpliced(large[0], 0, large[1])));

/** What is wrong with what was said of a mistake; `null` if nothing is. */
const faultOf = (said: string): string | null => {
  if (/^Usage: socklet /.test(said)) return null; // no command, or help of one that is not there: all of them are shown
  if (!/^socklet: \S[^\n]*\n$/.test(said)) return "it is not one line";
  if (said.length > 2000) return "it is longer than anybody reads";
  if (/\bat .*:\d+:\d+|\[object |undefined|Unhandled/.test(said)) return "it is nothing for a user";
  return null;
};

let ran: Command | undefined;
let said = "";
let printed = "";
const deaf = (command: Command): void => {
  if (command.commands.length === 0)
    command.action((...given: unknown[]) => {
      ran = given.at(-1) as Command;
    });
  command.configureOutput({
    writeOut: (text) => {
      printed += text;
    },
  });
  for (const one of command.commands) deaf(one);
};

/** Collects what is written on stderr while `work` runs. */
const collecting = async (work: () => Promise<unknown>): Promise<void> => {
  const { write } = process.stderr;
  process.stderr.write = ((text: string) => {
    said += text;
    return true;
  }) as typeof write;
  try {
    await work();
  } finally {
    process.stderr.write = write;
  }
};

const parses = target("command line", "inputs", argv, async (words) => {
  if (ran === undefined && printed === "") deaf(program);
  ran = undefined;
  said = printed = "";
  let status = 0;
  await collecting(() =>
    program.parseAsync(words, { from: "user" }).catch((error) => {
      status = statusOf(error);
    }),
  );
  const shown = JSON.stringify(words).slice(0, 300);
  if (status === 0) {
    if (said !== "") throw new Error(`${shown}: taken, and told: ${said}`);
    if (ran === undefined && printed === "") throw new Error(`${shown}: nothing is done`);
    for (const option of (ran as Command | undefined)?.options ?? []) {
      const value: unknown = (ran as unknown as Command).opts()[option.attributeName()];
      if (
        option.argChoices !== undefined &&
        value !== undefined &&
        !option.argChoices.includes(String(value))
      )
        throw new Error(`${shown}: ${option.flags} is ${String(value).slice(0, 80)}`);
    }
    return 1;
  }
  same(`the exit status of ${shown}`, status, 2);
  const fault = faultOf(said);
  if (fault !== null) throw new Error(`${shown}: ${fault}: ${said.slice(0, 300)}`);
  return 1;
});

// ---- The program itself ----

const cli = join(import.meta.dirname, "../../emulator/command/cli.ts");
const { path: folder } = temporaryFolder("fuzz");
const NOBODY = "127.0.0.1:1"; // nothing listens there, and nothing that is dialled leaves this machine

const word = text.filter((one) => !one.includes("\0")); // which no program can be given
const bytes = fc.oneof(
  word,
  fc.json(),
  fc.constantFrom(
    '{"socklet":"transcript","version":1,"kind":"stream"}\n',
    '{"socklet":"transcript","version":1,"kind":"stream"}\n{"at":0,"from":"client","text":"x"}\n',
    "export const app = 1;\n",
    "export const app = {};\n",
    "throw new Error();\n",
    "throw null;\n",
    "throw Object.create(null);\n",
    "export {\n",
  ),
);
/** Files that a command may be given: what is in it, and its name. */
const file = fc.tuple(
  bytes,
  fc.constantFrom("a.jsonl", "a.ts", "a.mjs", "a b.json", "none", "/dev/null", "."),
);
const address = fc.oneof(
  fc.constant(NOBODY),
  fc.constantFrom(
    "tcp://127.0.0.1:1",
    "tls://127.0.0.1:1",
    "udp://127.0.0.1:1",
    "unix:/nowhere",
    "unix:",
    "[::1]:1",
  ),
  fc.constantFrom(
    "",
    ":",
    "127.0.0.1",
    "127.0.0.1:0",
    "127.0.0.1:70000",
    "x://127.0.0.1:1",
    "[::1%none]:1",
    "999.1.1.1:1",
  ),
);

/** Commands that end by themselves, whatever they are given. */
const runs = fc.oneof(
  fc
    .tuple(
      address,
      fc.oneof(
        word,
        file.map(([, name]) => `${name}#H`),
      ),
    )
    .map(([to, how]) => ["dial", to, how]),
  file.map(([, name]) => ["serve", name, "--no-control", "--any-port"]),
  file.map(([, name]) => ["doctor", name]),
  fc.tuple(file, file).map(([[, one], [, other]]) => ["diff", one, other]),
  fc.tuple(file, address).map(([[, name], to]) => ["replay", name, "--to", to, "--timeout", "1000"]),
  fc.tuple(file, word).map(([[, name], port]) => ["export", name, "--pcapng", "out.pcapng", "--port", port]),
  fc
    .tuple(
      fc.constantFrom("list", "show", "follow", "send", "end", "half-close", "run"),
      word,
      fc.constantFrom(`http://${NOBODY}`, "http://", "x", "ftp://127.0.0.1:1", "http://127.0.0.1:1/%"),
    )
    .map(([command, one, url]) => ["sessions", command, ...(command === "list" ? [] : [one]), "--url", url]),
  fc.tuple(address, word).map(([to, rule]) => ["proxy", to, "--listen", "127.0.0.1:70000", "--fault", rule]),
);

const ends: Target = {
  ...target(
    "command",
    "inputs",
    fc.tuple(runs, file, fc.array(word, { maxLength: 2 })),
    async ([words, [data, name], more]) => {
      if (name.startsWith("a")) writeFileSync(join(folder, name), data);
      const given = [...words, ...more];
      const child = tied(
        spawn(process.execPath, ["--conditions=socklet:source", cli, ...given], {
          cwd: folder,
          stdio: ["ignore", "pipe", "pipe"],
          env: { ...process.env, SOCKLET_LOG: "pretty", SOCKLET_URL: `http://${NOBODY}`, NO_COLOR: "1" },
        }),
      );
      const [told, status] = await Promise.all([
        readAll(child.stderr),
        once(child, "close"),
        readAll(child.stdout),
      ]);
      const shown = `${JSON.stringify(given)}, ${JSON.stringify([name, data])}: ${status}: ${told.slice(0, 600)}`;
      if (![0, 1, 2].includes(status[0])) throw new Error(`it did not end by itself: ${shown}`);
      if (status[0] === 2 && told === "") throw new Error(`nothing says what is wrong: ${shown}`);
      if (/\n\s+at |^node:|Node\.js v|UnhandledPromise|\[object /m.test(told))
        throw new Error(`it is nothing for a user: ${shown}`);
      return 1;
    },
  ),
  slow: true,
};

export const commandLine: readonly Target[] = [parses, ends];
