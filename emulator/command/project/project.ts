/** Makes a project from the templates in emulator/templates, for `socklet init`. */

import { describe as thrownAs } from "../../../core/describe.ts";
import { basename, dirname, fs, join, resolve } from "../../builtin.ts";
import { UsageError } from "../terminal/output.ts";
import { packageRoot, rangeOf } from "./manifest.ts";
import { devTokens } from "./tokens.ts";

/** What a project can be for, each with a description for the user's choice. */
export const RUNTIMES = {
  node: "a server or a client in Node",
  workerd: "a Cloudflare Worker",
  both: "the same handler in Node and in a Worker",
} as const;
export type Runtime = keyof typeof RUNTIMES;

/** What a project can start with. A deployed Worker has no datagrams. */
export const PROTOCOLS = {
  lines: "a server of lines of text, over TCP",
  frames: "a server of binary messages, each after its size, over TCP",
  datagrams: "a server of datagrams, over UDP (in Node alone)",
  client: "a client, which dials a server: WHOIS",
} as const;
export type Protocol = keyof typeof PROTOCOLS;

export interface ProjectChoice {
  readonly runtime: Runtime;
  readonly protocol: Protocol;
}

const TEMPLATES = join(packageRoot, "emulator/templates");

/** The name in the templates that a project's own name replaces. */
const PLACEHOLDER = "socklet-app";

/** The name of a template's file in a project. npm would leave a `.gitignore` out of the package. */
const RENAMED: Readonly<Record<string, string>> = { gitignore: ".gitignore" };

const EVERYWHERE = /^\.git$|^\.DS_Store$/; // in a folder that counts as empty

/** The name of the project in `folder`: one that npm and Cloudflare accept. */
const nameOf = (folder: string): string => {
  const words = basename(folder)
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-");
  const name = words.replace(/^[-0-9]+/, "").slice(0, 54); // Cloudflare's limit is 63, and some routes add to it
  const plain = name.replace(/-+$/, "");
  if (plain === "") return PLACEHOLDER;
  return rangeOf(plain) === undefined ? plain : `${plain}-app`; // npm refuses a package that depends on its own name
};

/** The templates of a project, each a folder that is laid over those before it. */
const layersOf = ({ runtime, protocol }: ProjectChoice): string[] => {
  const worker = ["worker", protocol === "client" ? "worker-dials" : "worker-listens"];
  return ["project", runtime, ...(runtime === "node" ? [] : worker), join("protocols", protocol)];
};

/** The files of a project, by their paths in it. */
const filesOf = (setup: ProjectChoice): Map<string, string> => {
  const files = new Map<string, string>();
  for (const layer of layersOf(setup)) {
    const folder = join(TEMPLATES, layer);
    for (const name of fs.readdirSync(folder, { recursive: true, encoding: "utf8" })) {
      if (!fs.statSync(join(folder, name)).isFile()) continue;
      if (setup.runtime === "node" && name.startsWith(join("test", "worker"))) continue;
      files.set(RENAMED[name] ?? name, fs.readFileSync(join(folder, name), "utf8"));
    }
  }
  return files;
};

/** A template's package.json with the project's name, and the versions that this version is tested with. */
const manifestOf = (text: string, name: string): string => {
  const manifest = JSON.parse(text);
  manifest.name = name;
  for (const list of ["dependencies", "devDependencies"]) {
    for (const one of Object.keys(manifest[list])) manifest[list][one] = rangeOf(one);
  }
  return `${JSON.stringify(manifest, null, 2)}\n`;
};

/** Throws a `UsageError` if a project cannot be made at `folder`. */
export const checkFolder = (folder: string): void => {
  const is = fs.statSync(folder, { throwIfNoEntry: false });
  if (is === undefined) return;
  if (!is.isDirectory()) throw new UsageError(`${folder} is a file; name a folder for the project`);
  const there = fs.readdirSync(folder).filter((name) => !EVERYWHERE.test(name));
  if (there.length === 0) return;
  const more = there.length > 3 ? ` and ${there.length - 3} more` : "";
  throw new UsageError(
    `${folder} is not empty: it has ${there.slice(0, 3).join(", ")}${more}; name a folder that is empty, or not there yet`,
  );
};

/** Throws a `UsageError` if there is no such project. */
export const checkSetup = ({ runtime, protocol }: ProjectChoice): void => {
  if (protocol !== "datagrams" || runtime === "node") return;
  throw new UsageError(
    "a deployed Worker has no datagrams: take --runtime node, or --protocol lines, frames or client",
  );
};

/**
 * Makes the project in `folder`, which is created if it does not exist. It makes all of the project or nothing: it builds it beside
 * its place, and then moves it there. Returns its name. Throws as `checkFolder` and `checkSetup`.
 */
export const makeProject = (folder: string, setup: ProjectChoice): string => {
  checkSetup(setup);
  checkFolder(folder);
  const place = resolve(folder);
  const isThere = fs.existsSync(place);
  const name = nameOf(place);
  let stage: string | undefined;
  const moved: string[] = [];
  try {
    if (!isThere) fs.mkdirSync(dirname(place), { recursive: true });
    stage = fs.mkdtempSync(join(isThere ? place : dirname(place), ".socklet-init-"));
    for (const [path, text] of filesOf(setup)) {
      const file = join(stage, path);
      fs.mkdirSync(dirname(file), { recursive: true });
      fs.writeFileSync(
        file,
        path === "package.json" ? manifestOf(text, name) : text.replaceAll(PLACEHOLDER, name),
      );
    }
    if (setup.runtime !== "node") devTokens(stage);
    if (!isThere) {
      fs.chmodSync(stage, 0o777 & ~process.umask()); // mkdtemp makes a folder that only its owner can use
      fs.renameSync(stage, place);
      return name;
    }
    for (const one of fs.readdirSync(stage)) {
      fs.renameSync(join(stage, one), join(place, one));
      moved.push(join(place, one));
    }
    fs.rmdirSync(stage);
    return name;
  } catch (error) {
    for (const one of [...moved, ...(stage === undefined ? [] : [stage])]) {
      fs.rmSync(one, { recursive: true, force: true });
    }
    throw new Error(
      `${folder} could not be made: ${thrownAs(error).message}; name a folder that you may write to`,
      {
        cause: error,
      },
    );
  }
};
