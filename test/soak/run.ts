/** `npm run soak`: what takes minutes and is not in CI. `--races` runs races.ts, all else is for soak.ts. */

await import(process.argv.includes("--races") ? "./races.ts" : "./soak.ts");
