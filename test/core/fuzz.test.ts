import { afterAll, describe, expect, test } from "vitest";
import { fc } from "../conformance/properties.ts";
import { TARGETS } from "../fuzz/targets.ts";
import { removeFolders } from "../peers/children.ts";

const LEAST = { operations: 100_000, inputs: 1000 };
const BATCH = 200; // runs

afterAll(removeFolders);

// What is found is shrunk and told with its seed: `npm run fuzz -- NAME --seed S` repeats it.
describe("what is fuzzed holds", () => {
  test.each(TARGETS.map((target) => [target.name, target] as const))("%s", async (_, target) => {
    let done = 0;
    const least = LEAST[target.unit] / (target.slow ? 100 : 1);
    const seed = 20_261_129;
    for (let i = 0; done < least; i++) {
      const property = target.property((operations) => {
        done += operations;
      });
      await fc.assert(property, { numRuns: target.slow ? 10 : BATCH, seed: seed + i });
    }
    expect(done).toBeGreaterThanOrEqual(least);
  });
});
