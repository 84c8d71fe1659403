/** The races (test/races) in both places, short; `npm run soak -- --races` has them for as long as one likes. */

import { describe, expect, test } from "vitest";
import { emulator, workerd } from "../races/places.ts";
import { type RaceOptions, race } from "../races/run.ts";

const SEED = Number(process.env.RACES_SEED ?? 12);

const nothingIsWrong = async (place: typeof emulator, options: Omit<RaceOptions, "seed">): Promise<void> => {
  await using at = await place();
  const { breaches, sessions, counts } = await race(at, { ...options, seed: SEED });
  expect(breaches, `RACES_SEED=${SEED}`).toEqual([]);
  expect(sessions).toBeGreaterThan(options.clients);
  expect(counts.kill ?? 0).toBe(options.kills ?? 0);
};

describe("many clients of the same sessions, who leave in the middle", () => {
  test("the emulator", () => nothingIsWrong(emulator, { clients: 12, steps: 30 }));

  test("the emulator, which is closed in the middle", () =>
    nothingIsWrong(emulator, { clients: 12, steps: 30, stop: true }));

  test("workerd, whose objects are lost in their beginning and later, and whose process is killed", () =>
    nothingIsWrong(workerd, {
      clients: 12,
      steps: 20,
      early: true,
      faults: ["lose", "loseRegistry", "ring", "ringRegistry", "delay"],
      kills: 1,
    }));
});
