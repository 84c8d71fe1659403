/**
 * Lasting sessions, through many kills: `npm run soak -- --keep` (50 of each place and server; `--kills N`, `--seed N`,
 * `--place workerd`, `--server redis`).
 */

import { parseArgs } from "node:util";
import { keptThrough, mosquitto, redisStream } from "../races/kept.ts";
import { servedPlace, workerPlace } from "../races/kept-places.ts";

const { values } = parseArgs({
  options: {
    keep: { type: "boolean" },
    kills: { type: "string", default: "50" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    place: { type: "string", default: "" },
    server: { type: "string", default: "" },
  },
});
const kills = Number(values.kills);
const seed = Number(values.seed);

let wrong = 0;
for (const server of [redisStream, mosquitto]) {
  if (!server.name.toLowerCase().includes(values.server.toLowerCase())) continue;
  for (const place of [servedPlace, workerPlace]) {
    if (!place.name.toLowerCase().includes(values.place === "workerd" ? "worker" : values.place)) continue;
    await using from = await server();
    const ports = server === redisStream ? { redis: from.port } : { mqtt: from.port };
    await using where = await place(ports);
    const began = Date.now();
    const { faults, told, gaps, info } = await keptThrough(where, from, { kills, seed });
    const entries = (kills + 2) * 12;
    const twice = told.filter((number, i) => told.indexOf(number) !== i);
    const lost = Array.from({ length: entries }, (_, i) => i + 1).filter((number) => !told.includes(number));
    const bad = twice.length + lost.length + gaps.length + (info.state === "ended" ? 0 : 1);
    wrong += bad;
    console.log(
      `${server.name} in ${where.name}, seed ${seed}: ${entries} entries, ${kills} faults ${JSON.stringify(faults)}, ` +
        `${info.kept?.attempt} attempts, ${((Date.now() - began) / 1000).toFixed(0)} s: ` +
        `lost ${JSON.stringify(lost)}, twice ${JSON.stringify(twice)}, gaps ${JSON.stringify(gaps)}, ${info.state} ${JSON.stringify(info.error)}`,
    );
  }
}
if (wrong > 0) process.exitCode = 1;
