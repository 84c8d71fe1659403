/**
 * The races (test/races) for as long as one likes, round after round, each with a seed of its own:
 *
 *     npm run soak -- --races                   # ten minutes, every place
 *     npm run soak -- --races --seconds 60 --seed 7 --place workerd
 */

import { parseArgs } from "node:util";
import { emulator, type Place, workerd } from "../races/places.ts";
import { race, unasked } from "../races/run.ts";

const { values } = parseArgs({
  options: {
    races: { type: "boolean" },
    seconds: { type: "string", default: "600" },
    seed: { type: "string", default: String(Date.now() % 100_000) },
    place: { type: "string", default: "all" },
    faults: { type: "string" },
    kills: { type: "string" },
    early: { type: "string" },
  },
});
const PLACES: Record<string, () => Promise<Place>> = {
  emulator,
  workerd: () => workerd(),
  bounded: () => workerd({ maxRunning: 12, maxHistory: 20 }),
};

const totals: Record<string, Record<string, number>> = {};
let breaches = 0;
const names = values.place === "all" ? Object.keys(PLACES) : [values.place];
const places: Place[] = [];
for (const name of names) {
  const begin = PLACES[name];
  if (begin === undefined)
    throw new RangeError(`--place takes all, ${Object.keys(PLACES).join(", ")}, not ${name}`);
  places.push(await begin()); // one after the other: each has to know the process that it started
}
const until = performance.now() + Number(values.seconds) * 1_000;
try {
  for (let seed = Number(values.seed); performance.now() < until; seed++) {
    for (const place of places) {
      const faults = values.faults?.split(",") ?? Object.keys(place.faults);
      const kills = place.kill === undefined ? 0 : Number(values.kills ?? seed % 3);
      const early = values.early === undefined ? seed % 2 === 0 : values.early === "on";
      const report = await race(place, { seed, clients: 16, steps: 40, faults, kills, early });
      const name = names[places.indexOf(place)] as string;
      totals[name] ??= {};
      const total = totals[name];
      for (const [what, times] of Object.entries({ ...report.counts, sessions: report.sessions, rounds: 1 }))
        total[what] = (total[what] ?? 0) + times;
      breaches += report.breaches.length;
      console.log(
        `${name}, seed ${seed}: ${report.sessions} sessions, ${report.connections} connections, ${report.breaches.length} breaches`,
      );
      for (const text of report.breaches.slice(0, 12)) console.log(`  ${text}`);
    }
  }
  for (const place of places) {
    const believed = place.kill === undefined ? 0 : await unasked(place, 5);
    if (believed > 0) breaches++;
    if (place.kill !== undefined)
      console.log(
        `${place.name}: nobody asked for sessions whose process was killed; ${believed} are believed to run`,
      );
  }
} finally {
  await Promise.all(places.map((place) => place[Symbol.asyncDispose]()));
}
console.log(JSON.stringify(totals, null, 2));
if (breaches > 0) process.exitCode = 1;
