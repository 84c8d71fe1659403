/**
 * Runs the conformance bodies on the Nodes of package.json beside this file: `npm run test:nodes`, in the root. What
 * emulator/kernel/handles/handles.ts uses of Node is not documented, so every supported version of Node is tried, both ways:
 * the bodies run over handles, and over Node's own sockets.
 */

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");
const vitest = join(root, "node_modules/vitest/vitest.mjs");
const tests = [
  "test/emulator/places.test.ts",
  "test/emulator/handle.test.ts",
  "test/emulator/tls-handle.test.ts",
];

const { dependencies } = JSON.parse(readFileSync(join(import.meta.dirname, "package.json"), "utf8"));

for (const name of Object.keys(dependencies)) {
  const node = join(import.meta.dirname, "node_modules", name, "bin/node");
  const { stdout } = spawnSync(node, ["--version"], { encoding: "utf8" });
  console.log(`\n== Node ${stdout.trim()}`);
  const { status } = spawnSync(node, [vitest, "run", "--project", "node", ...tests], {
    cwd: root,
    stdio: "inherit",
  });
  if (status !== 0) process.exitCode = 1;
}
