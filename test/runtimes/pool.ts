/**
 * Vitest in Node, whose workers are processes of another runtime: the tests, their results and their reports are Vitest's
 * own. Vitest itself does not start on Bun, nor end on Deno.
 */

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { parse, stringify } from "devalue";
import type { PoolRunnerInitializer, PoolWorker } from "vitest/node";

/** A runtime of programs/package.json. */
export interface Runtime {
  readonly name: "bun" | "deno";
  /** Its program. */
  readonly path: string;
  /** What stands before the name of a program to run. */
  readonly args: readonly string[];
}

const bin = join(import.meta.dirname, "programs/node_modules/.bin");

export const runtimes: readonly Runtime[] = [
  { name: "bun", path: join(bin, "bun"), args: [] },
  { name: "deno", path: join(bin, "deno"), args: ["run", "-A", "--node-modules-dir=manual", "--no-lock"] },
];

/** The pool whose workers are processes of `runtime`. */
export const poolOf = ({ name, path, args }: Runtime): PoolRunnerInitializer => ({
  name,
  createPoolWorker({ env, project }): PoolWorker {
    let child: ChildProcess;
    const { outputStream, errorStream } = project.vitest.logger;
    return {
      name,
      async start() {
        child = fork(join(import.meta.dirname, "worker.ts"), [], {
          execPath: path,
          execArgv: [...args],
          env: env as NodeJS.ProcessEnv,
          stdio: ["ignore", "pipe", "pipe", "ipc"],
        });
        child.stdout?.pipe(outputStream, { end: false });
        child.stderr?.pipe(errorStream, { end: false });
        await once(child, "spawn");
      },
      async stop() {
        const gone = child.exitCode !== null || child.signalCode !== null;
        if (gone) return;
        child.kill("SIGKILL"); // its tests are over, and what they left open is theirs
        await once(child, "exit");
      },
      on: (event, told) => void child.on(event, told),
      off: (event, told) => void child.off(event, told),
      send: (message) => void child.send(stringify(message)),
      deserialize: (text) => parse(text as string),
    };
  },
});
