/**
 * What `guardConnections` costs: the same app with it and without, each in a process of its own, under the same load in
 * interleaved rounds. A handler answers each line, by itself or with what a server says that it has dialled.
 *
 *     npx node --conditions=socklet:source test/bench/guard.ts [rounds]
 *     SERVER_NODE=/path/to/another/node npx node …
 *
 * Every answer is compared. Reported are the medians of the server's CPU for one line and one connection, and of the ratio within
 * a round.
 */

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createConnection } from "socklet/emulator";
import { exitOnSignals, tied } from "../peers/children.ts";
import { median } from "./statistics.ts";

const ROUND = 250; // ms
const CLIENTS = 8;
const LINES = 50; // of one connection, where those are counted

interface Side {
  readonly ports: Readonly<Record<string, number>>;
  cpu(): Promise<number>;
  end(): void;
}

const server = fileURLToPath(new URL("./servers/guarded.ts", import.meta.url));

const side = async (how: "on" | "off"): Promise<Side> => {
  const execPath = process.env.SERVER_NODE ?? process.execPath;
  const child = tied(fork(server, [how], { execPath, execArgv: ["--conditions=socklet:source"] }));
  const [ports] = (await once(child, "message")) as [Record<string, number>];
  return {
    ports,
    async cpu() {
      child.send("cpu");
      const [cpu] = (await once(child, "message")) as [number];
      return cpu;
    },
    end: () => void child.kill(),
  };
};

/** Connects, has `lines` lines answered or as many as there is time for, and leaves; returns how many. */
const visit = async (port: number, lines: number, until: number): Promise<number> => {
  const client = await createConnection({ hostname: "127.0.0.1", port });
  let done = 0;
  for (; done < lines && performance.now() < until; done++) {
    client.wfile.write(`line ${done}\n`);
    const answer = await client.rfile.line();
    if (answer !== `line ${done}`) throw new Error(`said "line ${done}", and heard ${answer}`);
  }
  await client.close();
  return done;
};

/** CPU µs of one line, or of one connection of a line. */
const costOf = async ({ ports, cpu }: Side, what: string, lines: number): Promise<number> => {
  const before = await cpu();
  const until = performance.now() + ROUND;
  const counts = await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      let count = 0;
      do {
        const done = await visit(ports[what] as number, lines, until);
        count += lines === 1 ? 1 : done;
      } while (performance.now() < until);
      return count;
    }),
  );
  return ((await cpu()) - before) / counts.reduce((sum, count) => sum + count);
};

exitOnSignals();
const rounds = Number(process.argv[2] ?? 15);
const sides = [await side("off"), await side("on")] as const;
const cases: readonly [name: string, what: string, lines: number][] = [
  ["a line, answered by itself", "echo", Number.POSITIVE_INFINITY],
  ["a line, answered by a server that was dialled", "asks", Number.POSITIVE_INFINITY],
  ["a connection of one line", "echo", 1],
  [`a line of a connection that dials, ${LINES} lines each`, "asks", LINES],
];
for (const [name, what, lines] of cases) {
  for (const one of sides) await costOf(one, what, lines);
  const costs: number[][] = [[], []];
  for (let round = 0; round < rounds; round++) {
    for (const at of round % 2 === 0 ? [0, 1] : [1, 0])
      costs[at]?.push(await costOf(sides[at] as Side, what, lines));
  }
  const [off = [], on = []] = costs;
  const ratio = median(on.map((cost, i) => cost / (off[i] as number)));
  console.log(
    `${name}: ${median(off).toFixed(1)} µs, guarded ${median(on).toFixed(1)} µs, ratio ${ratio.toFixed(2)}`,
  );
}
for (const one of sides) one.end();
