import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";
import { cacheCompiledCode } from "./test/compile-cache.ts";
import { limits } from "./test/limits.ts";
import { LongestFirst } from "./test/longest-first.ts";
import { sharePacked } from "./test/packed-folder.ts";
import { trustOwnAuthority } from "./test/peers/certificates.ts";
import { sources } from "./test/sources.ts";

cacheCompiledCode();
trustOwnAuthority();
sharePacked();
const { cloudflareTest } = await import("@cloudflare/vitest-plugin"); // loads Miniflare, which reads whom to trust

const [node = 0] = process.versions.node.split(".").map(Number);
// Under an older Node Vitest hangs without a word. `npm test` and `npx vitest` bring the right one.
if (node < 22) {
  throw new Error(`the tests run on Node 24, not ${process.version}: start them with npm or npx`);
}

export default defineConfig({
  test: {
    maxWorkers: Math.min(2 * availableParallelism(), 8), // most of the time a file waits for the processes that it started
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        resolve: sources,
        ...(node < 24 && { oxc: { target: "es2022" } }), // has no `await using` of its own
        test: {
          name: "node",
          include: ["test/{core,emulator,house,peers}/**/*.test.ts"],
          env: { SOCKLET_LOG: "pretty" }, // what commands say on stderr is no terminal's here
          ...limits,
        },
      },
      {
        plugins: [
          cloudflareTest(({ inject }) => ({
            wrangler: { configPath: "./test/worker/wrangler.toml" },
            miniflare: { bindings: { NOBODY: `127.0.0.1:${inject("nobodysPort")}` } }, // where nobody listens
          })),
        ],
        resolve: sources,
        test: {
          name: "workerd",
          include: ["test/worker/**/*.test.ts"],
          globalSetup: ["./test/worker/node-servers.ts"],
          ...limits,
        },
      },
    ],
  },
});
