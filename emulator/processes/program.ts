/** Starts one of Socklet's programs as a child process, with those of this process's options that apply to a child. */

import type { ChildProcess } from "node:child_process";
import { fileURLToPath, lazy } from "../builtin.ts";

const SOURCES = import.meta.url.endsWith(".ts"); // else dist/
const CONDITION = "--conditions=socklet:source";

/** The file of a program: in the sources beside `from`, which starts it; in dist/ where build.ts puts it, whatever file that code is in. */
export const programAt = (name: string, from: string): string =>
  fileURLToPath(SOURCES ? new URL(`${name}.ts`, from) : new URL(`../emulator/${name}.js`, import.meta.url));

// Options that only the parent may have: an inspector's port is taken, code on the command line is not the
// child's, and a test runner loads modules for its own workers.
const OWN =
  /^(--inspect|--test|--watch|--check|--interactive|--input-type|--eval|--print|-c$|-i$|-e$|-p$|-pe$)/;
const LOADS = /^(--require|--import|--loader|--experimental-loader|-r)(=|$)/;
const RUNNER = /[\\/]vitest[\\/]/;

/** The options of this process that a child needs, too: conditions, loaders, limits. */
const inherited = (): string[] => {
  const given = process.execArgv;
  const kept: string[] = SOURCES && !given.includes(CONDITION) ? [CONDITION] : [];
  for (let i = 0; i < given.length; i++) {
    const [option = "", next = "-"] = given.slice(i, i + 2);
    const alone = option.includes("="); // otherwise its value, if it has one, is the next
    const own = OWN.test(option) || (LOADS.test(option) && RUNNER.test(alone ? option : next));
    if (!own) kept.push(option);
    else if (!alone && !next.startsWith("-")) i++;
  }
  return kept;
};

/** This process's environment, without an inspector in `NODE_OPTIONS`. */
const environment = (): NodeJS.ProcessEnv => {
  const { NODE_OPTIONS, ...rest } = process.env;
  if (NODE_OPTIONS === undefined) return rest;
  return { ...rest, NODE_OPTIONS: NODE_OPTIONS.replace(/--inspect\S*/g, "") };
};

/** The number of the first inherited descriptor in the program: after the three standard ones and the channel. */
export const FIRST_DESCRIPTOR = 4;

/** Starts `program`: with this process's options, and `execArgv` after them. It inherits `descriptors`, from `FIRST_DESCRIPTOR` on. */
export const startProgram = (
  program: string,
  execArgv: readonly string[],
  descriptors: readonly number[] = [],
): ChildProcess =>
  lazy.childProcess.fork(program, [], {
    execArgv: [...inherited(), ...execArgv],
    env: environment(),
    serialization: "advanced", // bytes are bytes
    stdio: ["ignore", "inherit", "inherit", "ipc", ...descriptors],
  });
