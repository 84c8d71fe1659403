import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** The handler's tests run in Node and inside workerd, those of `test/worker` inside workerd alone. */
export default defineConfig({
  test: {
    projects: [
      { test: { name: "node", include: ["test/*.test.ts"] } },
      {
        plugins: [cloudflareTest({ wrangler: { configPath: "test/worker/wrangler.toml" } })],
        test: { name: "workerd", include: ["test/**/*.test.ts"] },
      },
    ],
  },
});
