/** The configuration of a project's Worker, as the project's own wrangler reads it. */

import { describe as thrownAs } from "../../../core/describe.ts";
import { basename, dirname, fs, join, lazy, pathToFileURL } from "../../builtin.ts";

/** In the order in which wrangler looks for them. */
const NAMES = ["wrangler.json", "wrangler.jsonc", "wrangler.toml"] as const;

/** The fields of a configuration that are used here; wrangler has checked them, and filled in the defaults. */
interface WranglerConfig {
  /** The module that exports the Worker, as an absolute path. */
  readonly main?: string;
  readonly compatibility_date?: string;
  readonly compatibility_flags: readonly string[];
  readonly connect?: readonly { readonly protocol: string; readonly port: number }[];
  readonly durable_objects: { readonly bindings: readonly { readonly name: string }[] };
}

/** A configuration that was found: what is in it, or what is wrong with it. */
export interface FoundConfig {
  readonly path: string;
  /** `wrangler.toml`, `wrangler.json` or `wrangler.jsonc`. */
  readonly name: string;
  /** `null` if it could not be read. */
  readonly config: WranglerConfig | null;
  /** What wrangler reports about it, one problem each. */
  readonly faults: readonly string[];
}

interface Wrangler {
  readonly unstable_readConfig?: (
    args: { readonly config: string },
    options: { readonly hideWarnings: boolean },
  ) => WranglerConfig;
}

/** What wrangler threw, as lines: for a file that does not parse, the position; otherwise each wrong field. */
const faultsOf = (error: unknown): string[] => {
  const { message } = thrownAs(error);
  const { text, location } = error as { text?: string; location?: { line: number; column: number } };
  if (text !== undefined && location) return [`${text} (line ${location.line}, column ${location.column})`];
  const fields = [...message.matchAll(/^\s*- (.+)$/gm)].map(([, field]) => field as string);
  return fields.length > 0 ? fields : [message];
};

/** The path of the configuration that wrangler takes in `folder`; `null` if there is none. */
export const wranglerConfigIn = (folder: string): string | null =>
  NAMES.map((name) => join(folder, name)).find((path) => fs.existsSync(path)) ?? null;

/**
 * Reads the configuration at `path` with the wrangler that is installed beside it, which knows the formats, the fields and
 * the environments (`CLOUDFLARE_ENV`). It takes about a second to load. Throws if it is missing, or does not load.
 */
export const readWranglerConfig = async (path: string): Promise<FoundConfig> => {
  const name = basename(path);
  const module = lazy.module.createRequire(join(dirname(path), "package.json")).resolve("wrangler");
  const { unstable_readConfig: read }: Wrangler = await import(pathToFileURL(module).href);
  if (read === undefined) {
    const faults = ["this wrangler is too old to read it: npm install --save-dev wrangler@4"];
    return { path, name, config: null, faults };
  }
  try {
    return { path, name, config: read({ config: path }, { hideWarnings: true }), faults: [] };
  } catch (error) {
    return { path, name, config: null, faults: faultsOf(error) };
  }
};
