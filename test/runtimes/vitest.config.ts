/** The conformance bodies, and what is served, dialled and secured, on the runtimes beside Node: `npm run test:runtimes`. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { limits } from "../limits.ts";
import { trustOwnAuthority } from "../peers/certificates.ts";
import { sources } from "../sources.ts";
import { poolOf, runtimes } from "./pool.ts";

trustOwnAuthority();

const here = runtimes.filter(({ name, path }) => {
  if (existsSync(path)) return true;
  const said = `${name} is not installed: npm --prefix test/runtimes/programs ci`;
  if (process.env.CI) throw new Error(said);
  console.warn(`SKIPPED: ${said}`);
  return false;
});

const EVERYTHING = [
  "test/runtimes/*.test.ts",
  ...[
    "broadcasts",
    "delivery",
    "listening",
    "places",
    "pools",
    "proxy",
    "server",
    "tls",
    "tls-servers",
    "udp",
  ].map((name) => `test/emulator/${name}.test.ts`),
];

const project = (runtime: (typeof here)[number], name: string, include: string[], env: object = {}) => ({
  resolve: sources,
  test: {
    name,
    pool: poolOf(runtime),
    include,
    env: { SOCKLET_LOG: "pretty", ...env },
    ...limits,
  },
});

export default defineConfig({
  root: fileURLToPath(new URL("../..", import.meta.url)),
  test: {
    maxWorkers: 2,
    projects: here.flatMap((runtime) => [
      // Deno does not say when it has polled.
      project(runtime, runtime.name, [
        ...EVERYTHING,
        ...(runtime.name === "deno" ? [] : ["test/emulator/deadlines.test.ts"]),
      ]),
      // Once more by node:net, in place of the runtime's own sockets.
      project(
        runtime,
        `${runtime.name}-node-net`,
        ["broadcasts", "delivery", "places"].map((name) => `test/emulator/${name}.test.ts`),
        { SOCKLET_INTAKE: "off" },
      ),
    ]),
  },
});
