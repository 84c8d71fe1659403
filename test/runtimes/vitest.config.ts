/** The conformance bodies, and what is served, dialled and secured, on the runtimes beside Node: `npm run test:runtimes`. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
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

export default defineConfig({
  root: fileURLToPath(new URL("../..", import.meta.url)),
  test: {
    maxWorkers: 2,
    projects: here.map((runtime) => ({
      resolve: sources,
      test: {
        name: runtime.name,
        pool: poolOf(runtime),
        include: [
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
        ],
        env: { SOCKLET_LOG: "pretty" },
        // ms; far above what any test takes, as in vitest.config.ts
        testTimeout: 300_000,
        hookTimeout: 300_000,
        expect: { poll: { timeout: 60_000 } },
      },
    })),
  },
});
