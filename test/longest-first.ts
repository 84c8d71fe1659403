/** The order of the test files: those that take longest begin first, so that no processor idles while the last of them ends. */

import { existsSync } from "node:fs";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * The files that take more than 15 s, in the order in which they begin. Vitest knows how long each took only where it has run
 * before. In a clean clone it begins with the largest, which are not the longest: one of 84 lines takes 32 s.
 */
const LONGEST = [
  "emulator/create",
  "emulator/delivery",
  "emulator/hostile",
  "peers/keep",
  "emulator/forking",
  "peers/inspector",
  "emulator/worker-recording",
  "emulator/restart",
  "emulator/worker-delivery",
  "emulator/cli",
  "emulator/package",
  "emulator/places",
  "emulator/sessions-cli",
  "peers/wire",
  "emulator/socket-leaks",
  "emulator/worker-pools",
  "worker/places",
  "emulator/tls-servers",
  "emulator/endurance",
  "peers/tls",
  "peers/pools",
  "emulator/dev-command",
  "emulator/testing-guide",
  "core/fuzz",
  "emulator/stop",
  "emulator/races",
].map((name) => {
  const file = `/test/${name}.test.ts`;
  if (existsSync(new URL(`..${file}`, import.meta.url))) return file;
  throw new Error(`there is no ${file}: correct the list of test/longest-first.ts`);
});

const placeOf = ({ moduleId }: TestSpecification): number => {
  const place = LONGEST.findIndex((name) => moduleId.endsWith(name));
  return place < 0 ? LONGEST.length : place;
};

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).sort((a, b) => placeOf(a) - placeOf(b));
  }
}
