/** Is this peer here? Real clients and servers that a test talks to, or asks for the right answer. */

import { accessSync, constants, statSync } from "node:fs";
import { delimiter, join } from "node:path";

/**
 * The path of a command that is on `PATH`, or `null`: a test then skips, and its name says which command is missing.
 *
 * @throws Error in CI, where every peer must be installed: a test that is skipped unnoticed tests nothing.
 */
export function peer(name: string): string | null {
  const found = (process.env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, name))
    .find(isExecutable);
  if (found !== undefined) return found;
  if (process.env.CI) throw new Error(`${name} is not on PATH; in CI the tests need it (apt-get install it)`);
  return null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}
