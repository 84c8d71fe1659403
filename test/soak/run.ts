/** `npm run soak`: what takes minutes and is not in CI. `--races` runs races.ts, `--wire` wire.ts, all else is for soak.ts. */

import { exitOnSignals } from "../peers/children.ts";

exitOnSignals();
const program = process.argv.includes("--races")
  ? "./races.ts"
  : process.argv.includes("--keep")
    ? "./keep.ts"
    : process.argv.includes("--wire")
      ? "./wire.ts"
      : "./soak.ts";
await import(program);
