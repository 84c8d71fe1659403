/** The code of a Worker of this repository in one piece, for a Miniflare of a test's own. */

import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Bundles `main`, a path from the repository's root, from the current sources. */
export const workerScript = async (main: string): Promise<string> => {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: [main],
    alias: { socklet: "./core/index.ts", "socklet/worker": "./worker/index.ts" },
    bundle: true,
    format: "esm",
    external: ["cloudflare:*", "workerd:*"],
    conditions: ["workerd", "worker", "browser"],
    write: false,
  });
  return outputFiles[0]?.text ?? "";
};
