/**
 * Random inputs to everything that parses and random mixes of everything that reads and writes, for as long as one
 * likes: the table is targets.ts.
 *
 *     npm run fuzz                            # ten minutes, of all targets in turn
 *     npm run fuzz -- --seconds 60 reader     # one minute of those whose name holds the word
 *     npm run fuzz -- --seed 7 reader         # the same inputs again
 *     npm run fuzz -- --count 1000000 resp    # no target has more than a million, and the run ends when all have them
 *     npm run fuzz -- --list
 *
 * A failure is shrunk, and told with the seed that repeats it; then this exits with 1. Node's fuzzing by coverage it is
 * not: inputs are made to the shape of what is fuzzed, and each is compared with an answer that is known.
 */

import { setImmediate as turn } from "node:timers/promises";
import { parseArgs } from "node:util";
import fc from "fast-check";
import { exitOnSignals } from "../peers/children.ts";
import { TARGETS } from "./targets.ts";

exitOnSignals();

const BATCH = 100; // runs that are begun at once: what a seed repeats
const SHARE = 1000; // ms of a target before the next has its turn

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "600" },
    seed: { type: "string", default: String(Date.now() % 1_000_000_000) },
    count: { type: "string", default: "Infinity" },
    list: { type: "boolean", default: false },
  },
});
const seconds = Number(values.seconds);
const seed = Number(values.seed);
const enough = Number(values.count);
if (!(seconds > 0)) throw new RangeError(`--seconds takes a number of seconds, not ${values.seconds}`);
if (!(enough > 0)) throw new RangeError(`--count takes how many inputs, not ${values.count}`);
if (!Number.isInteger(seed)) throw new RangeError(`--seed takes a whole number, not ${values.seed}`);
for (const word of positionals) {
  if (!TARGETS.some(({ name }) => name.includes(word)))
    throw new RangeError(`no target is called ${word}: see --list`);
}
// A whole name means that target alone: `resp` is not also `resp-client`.
const isMeant = (name: string, word: string): boolean =>
  TARGETS.some((target) => target.name === word) ? name === word : name.includes(word);
const targets = TARGETS.filter(
  ({ name }) => positionals.length === 0 || positionals.some((word) => isMeant(name, word)),
);
if (values.list) {
  for (const { name, unit } of targets) console.log(`${name.padEnd(20)}${unit}`);
  process.exit(0);
}

const counts = targets.map(() => ({ done: 0, batches: 0, ms: 0, failed: false }));
const goesOn = ({ done, failed }: (typeof counts)[number]): boolean => !failed && done < enough;
const began = performance.now();
const left = (): number => seconds * 1000 - (performance.now() - began);

console.log(`seed ${seed}, ${seconds} s, ${targets.length} targets`);
while (left() > 0 && counts.some(goesOn)) {
  for (const [i, target] of targets.entries()) {
    const count = counts[i] as (typeof counts)[number];
    const from = performance.now();
    while (goesOn(count) && left() > 0 && performance.now() - from < SHARE) {
      const property = target.property((operations) => {
        count.done += operations;
      });
      const its = seed + count.batches++;
      const result = await fc.check(property, { numRuns: target.slow ? BATCH / 10 : BATCH, seed: its });
      await turn(); // what runs in memory alone never lets the loop turn, and what is put off to its turn would pile up
      if (!result.failed) continue;
      count.failed = true;
      process.exitCode = 1;
      console.log(`\n${target.name} failed: npm run fuzz -- --seed ${its} ${target.name}`);
      console.log(fc.defaultReportMessage(result));
      console.log(result.errorInstance);
    }
    count.ms += performance.now() - from;
  }
}
for (const [i, { name, unit }] of targets.entries()) {
  const { done, ms, failed } = counts[i] as (typeof counts)[number];
  const rate = Math.round((done / ms) * 1000);
  console.log(
    `${name.padEnd(20)}${done.toLocaleString("en").padStart(12)} ${unit}, ${rate.toLocaleString("en")} a second${failed ? ": FAILED" : ""}`,
  );
}
