import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** All tests run inside workerd. */
export default defineConfig({
  plugins: [cloudflareTest({ wrangler: { configPath: "test/worker/wrangler.toml" } })],
  test: { include: ["test/**/*.test.ts"] },
});
