/** `socklet init`, which `npm create socklet` runs: asks what a project is for, and makes it. */

import { createInterface, type Interface } from "node:readline/promises";
import { resolve } from "../../builtin.ts";
import { print, say } from "../terminal/output.ts";
import { onStop } from "../terminal/signals.ts";
import {
  checkFolder,
  checkSetup,
  makeProject,
  PROTOCOLS,
  type ProjectChoice,
  type Protocol,
  RUNTIMES,
  type Runtime,
} from "./project.ts";

const DEFAULTS = { folder: "my-socklet", runtime: "node", protocol: "lines" } as const;

interface InitFlags {
  readonly runtime?: Runtime;
  readonly protocol?: Protocol;
  readonly yes?: boolean;
}

/** Asks at the terminal. An empty answer means the one in brackets; after a wrong answer it asks again. */
class Questions {
  readonly #lines: Interface;
  readonly #stop = new AbortController();

  constructor() {
    this.#lines = createInterface({ input: process.stdin, output: process.stdout });
    const stop = (): void => this.#stop.abort();
    this.#lines.once("SIGINT", stop).once("close", stop); // Ctrl-C, Ctrl-D
  }

  /** Whether it was interrupted; then a question rejects. */
  get isStopped(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Text that `check` accepts; otherwise `check` throws what is wrong. */
  async text(question: string, otherwise: string, check: (text: string) => void): Promise<string> {
    for (;;) {
      const answer = (await this.#ask(`${question} (${otherwise}): `)) || otherwise;
      try {
        check(answer);
        return answer;
      } catch (error) {
        console.log(`  ${(error as Error).message}`);
      }
    }
  }

  /** One of `choices`: its number, or its name. */
  async choice<Name extends string>(
    question: string,
    choices: Readonly<Partial<Record<Name, string>>>,
    otherwise: Name,
  ): Promise<Name> {
    const names = Object.keys(choices) as Name[];
    const width = Math.max(...names.map(({ length }) => length));
    const lines = names.map((name, i) => `  ${i + 1}  ${name.padEnd(width)}  ${choices[name]}`);
    console.log([question, ...lines].join("\n"));
    for (;;) {
      const answer =
        (await this.#ask(`1 to ${names.length} (${names.indexOf(otherwise) + 1}): `)) || otherwise;
      const name = names[Number(answer) - 1] ?? names.find((one) => one === answer);
      if (name !== undefined) return name;
    }
  }

  #ask(question: string): Promise<string> {
    return this.#lines.question(question, { signal: this.#stop.signal }).then((answer) => answer.trim());
  }

  close(): void {
    this.#lines.close();
  }
}

/** Completes the setup: at a terminal it asks for what is missing, otherwise it uses the defaults. */
const completed = async (
  folder: string | undefined,
  { runtime, protocol, yes }: InitFlags,
): Promise<{ folder: string; setup: ProjectChoice } | null> => {
  if (folder !== undefined) checkFolder(folder);
  if (runtime !== undefined && protocol !== undefined) checkSetup({ runtime, protocol });
  const isComplete = folder !== undefined && runtime !== undefined && protocol !== undefined;
  if (isComplete || yes || !process.stdin.isTTY || !process.stdout.isTTY) {
    const setup = { runtime: runtime ?? DEFAULTS.runtime, protocol: protocol ?? DEFAULTS.protocol };
    return { folder: folder ?? DEFAULTS.folder, setup };
  }
  const questions = new Questions();
  try {
    const named = folder ?? (await questions.text("Folder of the project", DEFAULTS.folder, checkFolder));
    const runs =
      runtime ??
      (protocol === "datagrams"
        ? "node"
        : await questions.choice("What is it for?", RUNTIMES, DEFAULTS.runtime));
    const { datagrams, ...ofStreams } = PROTOCOLS;
    const offered = runs === "node" ? PROTOCOLS : ofStreams;
    const begins =
      protocol ?? (await questions.choice<Protocol>("What does it begin with?", offered, DEFAULTS.protocol));
    return { folder: named, setup: { runtime: runs, protocol: begins } };
  } catch (error) {
    if (questions.isStopped) return null;
    throw error;
  } finally {
    questions.close();
  }
};

/** The package manager that started this: npm, pnpm, yarn or bun. */
const packageManager = (): string =>
  /^(npm|pnpm|yarn|bun)\//.exec(process.env.npm_config_user_agent ?? "")?.[1] ?? "npm";

/** A first command to try the new project: the `try` of its app. */
const FIRST: Readonly<Record<Protocol, string>> = {
  lines: "echo hello | nc -N 127.0.0.1 7007",
  frames: "printf '\\0\\0\\0\\5olleh' | nc -N 127.0.0.1 7007 | tail -c 5",
  datagrams: "echo hello | nc -u -w 1 127.0.0.1 7007",
  client: "npx socklet dial whois.iana.org:43 src/whois.ts#Whois example.com",
};

/** What to do next: commands, each with what it does. */
const nextSteps = (folder: string, { runtime, protocol }: ProjectChoice): string => {
  const manager = packageManager();
  const run = `${manager} run`;
  const test = manager === "npm" ? "npm test" : `${run} test`; // `bun test` is Bun's own test runner
  const where = { node: "", workerd: " in workerd", both: " in Node and in workerd" }[runtime];
  const steps: readonly (readonly [command: string, does?: string])[] = [
    ...(resolve(folder) === process.cwd()
      ? []
      : [[`cd ${/^[\w./~-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`}`] as const]),
    [`${manager} install`],
    [test, `tests it${where}`],
    [`${run} dev`, `serves it${where}, and follows your saves`],
    [FIRST[protocol], protocol === "client" ? "asks, from Node" : "asks it, from another terminal"],
  ];
  const width = Math.max(...steps.map(([command]) => command.length));
  return steps.map(([command, does = ""]) => `  ${command.padEnd(width)}  ${does}`.trimEnd()).join("\n");
};

export const init = async (folder: string | undefined, flags: InitFlags): Promise<void> => {
  const project = await completed(folder, flags);
  if (project === null) {
    say("nothing was made");
    process.exitCode = 130; // as for a program that a SIGINT ended
    return;
  }
  const release = onStop({ stop: () => {} }); // a project that was begun is completed, which takes a moment
  const name = makeProject(project.folder, project.setup);
  release();
  await print(`${name} is made. Next:\n\n${nextSteps(project.folder, project.setup)}`);
};
