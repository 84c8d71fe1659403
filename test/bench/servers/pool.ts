/**
 * What a call through a pool costs, beside the same call on a connection held by hand: Redis's PING with a number, one
 * at a time, and 64 under way. The server is `redis-server`, in a process of its own; all sides use the
 * same class, and every reply is compared.
 *
 *     npm run bench:pool [-- rounds]
 *
 * By hand there are two: a loop that sends and then reads, which has no callers; and a `call()` that gives each caller a
 * promise and does nothing else: no limit of time, no signal, no second connection. The difference of the two is what
 * promises cost, the rest is the pool's.
 *
 * Rounds are interleaved, and who begins takes turns; reported are the medians of the time and of this process's CPU for
 * one call, and the medians of the ratios within a round with their 95 % intervals. A call through the pool may cost
 * 1.15 times one by hand.
 */

import { pool, TCPConnector } from "socklet/emulator";
import { Redis, type Reply } from "../../../examples/redis.ts";
import { exitOnSignals } from "../../peers/children.ts";
import { redis as redisServer } from "../../peers/program.ts";
import { median, type Round, type Run, ratioOf } from "../statistics.ts";

const ROUND = 150; // ms of one side in a round
const MOST = 1.15;

/** Asks for the numbers from `first` on, `count` at once; resolves when all have been answered, rightly. */
type Ask = (first: number, count: number) => Promise<void>;

const right = (got: unknown, n: number): void => {
  if (got !== `${n}`) throw new Error(`asked for ${n}, and got ${String(got)}`);
};

let next = 0;

/** The microseconds of time (as `p50us`) and of CPU of one call. */
const costOf = async (ask: Ask, count: number, time: number): Promise<Run> => {
  const cpu = process.cpuUsage();
  const started = performance.now();
  let calls = 0;
  for (; performance.now() - started < time; calls += count, next += count) await ask(next, count);
  const took = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  return { p50us: (1000 * took) / calls, cpuUs: (user + system) / calls };
};

const { port, program } = await redisServer();
const address = `tcp://127.0.0.1:${port}`;

/** The same class, on a connection that is held by hand. */
const heldByHand = (): Promise<Redis> => {
  const { promise, resolve } = Promise.withResolvers<Redis>();
  class Held extends Redis {
    override handle(): Promise<never> {
      resolve(this);
      return new Promise(() => {});
    }
  }
  void new TCPConnector(address, Held).run();
  return promise;
};

/** A `call()` by hand, for one connection: as little as there can be for callers who do not know of each other. */
const callerOf = (held: Redis) => {
  interface Asked {
    readonly command: string[];
    readonly resolve: (reply: unknown) => void;
    readonly reject: (error: unknown) => void;
    next: Asked | null;
  }
  let first: Asked | null = null;
  let last: Asked | null = null;
  const readOn = async (): Promise<void> => {
    for (; first !== null; first = first.next) {
      try {
        first.resolve(await held.receive(first.command));
      } catch (error) {
        first.reject(error);
      }
    }
    last = null;
  };
  return (command: string[]): Promise<unknown> =>
    new Promise((resolve, reject) => {
      held.send(command);
      const asked: Asked = { command, resolve, reject, next: null };
      if (last !== null) last.next = asked;
      else {
        first = asked;
        queueMicrotask(readOn); // what is sent leaves together
      }
      last = asked;
    });
};

/** Asks by `call`. */
const askBy =
  (call: (command: string[]) => Promise<unknown>): Ask =>
  async (first, count) => {
    if (count === 1) {
      right(await call(["PING", `${first}`]), first);
      return;
    }
    const asked = Array.from({ length: count }, (_, i) => call(["PING", `${first + i}`]));
    for (let i = 0; i < count; i++) right(await asked[i], first + i);
  };

const hand = await heldByHand();
const calls = pool<readonly (string | Uint8Array)[], Reply>(address, Redis, { max: 1, pipeline: 64 });

const sides: Readonly<Record<string, Ask>> = {
  "by hand": async (first, count) => {
    const asked = Array.from({ length: count }, (_, i) => ["PING", `${first + i}`]);
    for (const call of asked) hand.send(call);
    for (let i = 0; i < count; i++) right(await hand.receive(asked[i]), first + i);
  },
  "call() by hand": askBy(callerOf(await heldByHand())),
  pool: askBy((command) => calls.call(command)),
};

exitOnSignals();
const rounds = Number(process.argv[2] ?? 61);
for (const count of [1, 64]) {
  const names = Object.keys(sides);
  const askOf = (name: string): Ask => sides[name] as Ask;
  for (const name of names) await costOf(askOf(name), count, 6 * ROUND); // warm-up
  const measured: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    const runs: Record<string, Run> = {};
    for (let i = 0; i < names.length; i++) {
      const name = names[(round + i) % names.length] as string;
      runs[name] = await costOf(askOf(name), count, ROUND);
    }
    measured.push(runs);
  }
  console.log(`-P ${count}, ${rounds} rounds`);
  for (const figure of ["p50us", "cpuUs"] as const) {
    const cost = (name: string): string =>
      `${name} ${median(measured.map((runs) => runs[name]?.[figure] ?? Number.NaN)).toFixed(2)} µs`;
    console.log(`  ${figure === "cpuUs" ? "CPU" : "time"} of a call: ${names.map(cost).join(", ")}`);
    for (const [of, against] of [
      ["pool", "by hand"],
      ["pool", "call() by hand"],
      ["call() by hand", "by hand"],
    ] as const) {
      const ratio = ratioOf(measured, of, against, figure);
      if (ratio === null) continue;
      const { low = Number.NaN, high = Number.NaN } = ratio.interval ?? {};
      const judged = of === "pool" ? `, at most ${MOST}: ${ratio.median <= MOST ? "yes" : "NO"}` : "";
      console.log(
        `    ${of} / ${against}: ${ratio.median.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})${judged}`,
      );
    }
  }
}

await calls.close();
await program[Symbol.asyncDispose]();
process.exit();
