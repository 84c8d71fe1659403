/**
 * Runs tests while random processes of the run stand still for a moment, as they do on a busy machine: a test or a product that
 * depends on how fast another process is fails here at once. Linux only.
 *
 *     npm run test:stalled -- test/emulator/tls.test.ts            # what follows goes to Vitest
 *     npm run test:stalled -- --seed 7 --project node test/peers   # other pauses; which process each one hits is still chance
 *     npm run test:stalled -- --node test/nodes/node_modules/node-22/bin/node test/emulator/handle.test.ts   # on another Node
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { chanceOf } from "../../core/testing/clock.ts";
import { exitOnSignals, tied } from "../peers/children.ts";

const AT_ONCE = 3; // processes that may stand still at the same time, but never more than half of all: where none runs, nothing is tried
const PAUSES = [30, 100, 300, 300, 1_000, 1_500, 3_000]; // ms, each times 0.5 to 1.2: around the time-outs that programs have
const BETWEEN = 400; // ms at most from one pause to the next

const given = process.argv.slice(2);

/** Removes an option and its value from what goes to Vitest. */
const take = (option: string): string | undefined => {
  const at = given.indexOf(option);
  if (at < 0) return undefined;
  const [, value] = given.splice(at, 2);
  if (value === undefined) throw new TypeError(`${option} needs a value`);
  return value;
};

const seed = Number(take("--seed") ?? Date.now() % 1_000_000);
const node = take("--node") ?? process.execPath;
if (!Number.isSafeInteger(seed)) throw new TypeError("--seed must be a whole number");

const still = new Set<number>();

const signal = (pid: number, name: "SIGSTOP" | "SIGCONT"): void => {
  try {
    process.kill(pid, name);
  } catch {} // it has ended
};

process.on("exit", () => {
  for (const pid of still) signal(pid, "SIGCONT"); // a process that stands still does not end by SIGTERM
});
exitOnSignals();

/** `root` and all processes below it, without those that have ended. */
const processesOf = (root: number): number[] => {
  const children = Map.groupBy(
    readdirSync("/proc").flatMap((name) => {
      if (!/^\d+$/.test(name)) return [];
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "latin1"); // pid (name) state parent …; a name may have spaces and brackets
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return state === "Z" ? [] : [{ pid: Number(name), parent: Number(parent) }];
      } catch {
        return []; // it has just ended
      }
    }),
    ({ parent }) => parent,
  );
  const withChildren = (pid: number): number[] => [
    pid,
    ...(children.get(pid) ?? []).flatMap((child) => withChildren(child.pid)),
  ];
  return withChildren(root);
};

console.log(`seed ${seed}`);
const program = join(import.meta.dirname, "../../node_modules/vitest/vitest.mjs");
const vitest = tied(spawn(node, [program, "run", "--retry=0", ...given], { stdio: "inherit" }));
const ended = once(vitest, "exit");
let over = false;

/** Stops one process after the other until the run is over. */
const stopOthers = async (chance: () => number): Promise<number> => {
  let count = 0;
  while (!over) {
    await pause(20 + chance() * BETWEEN);
    const all = processesOf(vitest.pid as number);
    const run = all.filter((pid) => !still.has(pid));
    const pid = run[Math.floor(chance() * run.length)];
    const ms = (PAUSES[Math.floor(chance() * PAUSES.length)] as number) * (0.5 + 0.7 * chance());
    if (pid === undefined || over || 2 * (still.size + 1) > all.length) continue;
    still.add(pid);
    signal(pid, "SIGSTOP");
    await Promise.race([pause(ms, undefined, { ref: false }), ended]);
    signal(pid, "SIGCONT");
    still.delete(pid);
    count++;
  }
  return count;
};

const stopping = Array.from({ length: AT_ONCE }, (_, i) => stopOthers(chanceOf(seed + i)));
const [code, killedBy] = (await ended) as [number | null, NodeJS.Signals | null];
over = true;
const counts = await Promise.all(stopping);
console.log(`seed ${seed}: ${counts.reduce((sum, count) => sum + count, 0)} times a process stood still`);
process.exitCode = code ?? 128 + constants.signals[killedBy as NodeJS.Signals];
