/** Code that one process of a test run has compiled is compiled for all of them. */

import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = fileURLToPath(new URL("../node_modules/.cache/compiled", import.meta.url));

/**
 * Has every process that starts from here on keep what it compiles. `socklet` and a child of a forking server each compile
 * some hundred files of TypeScript: 0.5 s of a processor, with the cache 0.15 s. It begins empty, since tests write programs
 * under names that never come again. It is no temporary folder: a process that ends after this one would make that anew.
 */
export const cacheCompiledCode = (): void => {
  if (process.env.NODE_COMPILE_CACHE !== undefined) return;
  rmSync(FOLDER, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  process.env.NODE_COMPILE_CACHE = FOLDER;
};
