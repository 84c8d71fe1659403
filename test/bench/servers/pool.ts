/**
 * What a call through a pool costs, beside the same call on a connection held by hand: Redis's PING with a number, one
 * at a time, and 64 under way. The server is `redis-server`, in a process of its own; both sides use the
 * same class, and every reply is compared.
 *
 *     npm run bench:pool [-- rounds]
 *
 * Rounds are interleaved, and who begins takes turns; reported are the medians of the time and of this process's CPU for
 * one call, and the median of the ratios within a round. A call through the pool may cost 1.15 times one by hand.
 */

import { pool, TCPConnector } from "socklet/emulator";
import { Redis } from "../../../examples/redis.ts";
import { exitOnSignals } from "../../peers/children.ts";
import { redis as redisServer } from "../../peers/program.ts";

const ROUND = 250; // ms of one side in a round
const MOST = 1.15;

/** Asks for the numbers from `first` on, `count` at once; resolves when all have been answered, rightly. */
type Ask = (first: number, count: number) => Promise<void>;

interface Cost {
  /** Microseconds of time, and of CPU, of one call. */
  readonly time: number;
  readonly cpu: number;
}

const right = (got: unknown, n: number): void => {
  if (got !== `${n}`) throw new Error(`asked for ${n}, and got ${String(got)}`);
};

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] as number;

let next = 0;

const costOf = async (ask: Ask, count: number, time: number): Promise<Cost> => {
  const cpu = process.cpuUsage();
  const started = performance.now();
  let calls = 0;
  for (; performance.now() - started < time; calls += count, next += count) await ask(next, count);
  const took = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  return { time: (1000 * took) / calls, cpu: (user + system) / calls };
};

const { port, program } = await redisServer();
const address = `tcp://127.0.0.1:${port}`;
const held = Promise.withResolvers<Redis>();
/** The same class, on a connection that is held by hand. */
class Held extends Redis {
  override handle(): Promise<never> {
    held.resolve(this);
    return new Promise(() => {});
  }
}
void new TCPConnector(address, Held).run();
const hand = await held.promise;
const calls = pool(address, Redis, { max: 1, pipeline: 64 });

const byHand: Ask = async (first, count) => {
  const asked = Array.from({ length: count }, (_, i) => ["PING", `${first + i}`]);
  for (const call of asked) hand.send(call);
  for (let i = 0; i < count; i++) right(await hand.receive(asked[i]), first + i);
};

const byPool: Ask = async (first, count) => {
  if (count === 1) {
    right(await calls.call(["PING", `${first}`]), first);
    return;
  }
  const asked = Array.from({ length: count }, (_, i) => calls.call(["PING", `${first + i}`]));
  for (let i = 0; i < count; i++) right(await asked[i], first + i);
};

exitOnSignals();
const rounds = Number(process.argv[2] ?? 41);
for (const count of [1, 64]) {
  const sides = [byHand, byPool];
  for (const side of sides) await costOf(side, count, 4 * ROUND); // warm-up
  const measured: Cost[][] = [[], []];
  for (let round = 0; round < rounds; round++) {
    for (const at of round % 2 === 0 ? [0, 1] : [1, 0]) {
      measured[at]?.push(await costOf(sides[at] as Ask, count, ROUND));
    }
  }
  const [byHandCosts = [], pooled = []] = measured;
  for (const figure of ["time", "cpu"] as const) {
    const ratio = median(pooled.map((cost, i) => cost[figure] / (byHandCosts[i] as Cost)[figure]));
    const [one, other] = [byHandCosts, pooled].map((side) =>
      median(side.map((cost) => cost[figure])).toFixed(2),
    );
    const judged =
      figure === "time" ? (ratio <= MOST ? `, at most ${MOST}: yes` : `, at most ${MOST}: NO`) : "";
    console.log(
      `-P ${count}, ${figure}: by hand ${one} µs, pool ${other} µs, ratio ${ratio.toFixed(3)}${judged}`,
    );
  }
}

await calls.close();
await program[Symbol.asyncDispose]();
process.exit();
