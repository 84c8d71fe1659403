/** `npm run soak`: what takes minutes and is not in CI. `--races` runs races.ts, all else is for soak.ts. */

const program = process.argv.includes("--races")
  ? "./races.ts"
  : process.argv.includes("--keep")
    ? "./keep.ts"
    : "./soak.ts";
await import(program);
