/** What this package's package.json says, so that no version is written twice. */

import { dirname, lazy } from "../../builtin.ts";

interface Manifest {
  readonly version: string;
  readonly engines: { readonly node: string };
  readonly peerDependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
}

const require = lazy.module.createRequire(import.meta.url);
const path = require.resolve("socklet/package.json");
const manifest: Manifest = require(path);

/** The folder that this package is installed in; in a clone, the repository. */
export const packageRoot = dirname(path);

export const { version } = manifest;

/** The versions of a package that this version is tested with, for the package.json of a new project; of this package itself, too. */
export const rangeOf = (name: string): string | undefined =>
  name === "socklet" ? `^${version}` : manifest.devDependencies[name];

const leastOf = (range: string | undefined): string => (range ?? "").replace(/^(>=|\^)/, "");

/** The oldest Node that runs this: the first that runs TypeScript as it is. */
export const LEAST_NODE = leastOf(manifest.engines.node);

/** The oldest koffi that this can use. */
export const LEAST_KOFFI = leastOf(manifest.peerDependencies.koffi);

/** Whether `version` is `least` or newer, both as in `3.3.4`. */
export const isSince = (version: string, least: string): boolean => {
  const [given = [], needed = []] = [version, least].map((text) => text.split(".").map(Number.parseFloat));
  const i = needed.findIndex((part, at) => part !== given[at]);
  return i < 0 || (given[i] ?? 0) > (needed[i] ?? 0);
};
