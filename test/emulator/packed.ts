/** The packages as npm has them: packed from a clean copy of the sources, as a release is. */

import { execFile } from "node:child_process";
import { cp, mkdir, readdir, readFile, rename, symlink, watch, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PACKED } from "../packed-folder.ts";

export const root = fileURLToPath(new URL("../..", import.meta.url));

export const manifest = JSON.parse(await readFile(`${root}package.json`, "utf8"));

/** The files for readers, and those that the pages link to. */
export const TEXTS = [
  ...["LICENSE", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"],
  ...(await readdir(`${root}docs`)).filter((name) => /\.(md|svg)$/.test(name)).map((name) => `docs/${name}`),
  ...(await readdir(`${root}docs/inspector`)).map((name) => `docs/inspector/${name}`),
  ...(await readdir(`${root}docs/decisions`)).map((name) => `docs/decisions/${name}`),
  ...(await readdir(`${root}docs/performance`))
    .filter((name) => name.endsWith(".svg")) // what the bench keeps for its next run is not for users
    .map((name) => `docs/performance/${name}`),
  ...(await readdir(`${root}examples`, { recursive: true }))
    .filter((name) => name.endsWith(".ts"))
    .map((name) => `examples/${name}`),
];

/** What `socklet init` makes projects of. */
export const TEMPLATES = (
  await readdir(`${root}emulator/templates`, { recursive: true, withFileTypes: true })
)
  .filter((entry) => entry.isFile())
  .map(({ parentPath, name }) => join(parentPath, name).slice(root.length))
  .filter((name) => name !== "emulator/templates/tsconfig.json");

// An npm within an npm: the outer one's settings for its project must not reach the inner one.
export const env: NodeJS.ProcessEnv = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^npm_(package|lifecycle|command|config_local_prefix|config_node_gyp)/.test(name),
  ),
);

const execute = promisify(execFile);

/** Runs a program to its end, and returns its stdout. If it fails, its other output is in the error. */
export const run = async (cwd: string, file: string, ...args: string[]): Promise<string> => {
  try {
    return (await execute(file, args, { cwd, env, maxBuffer: 16 * 1024 * 1024 })).stdout;
  } catch (error) {
    const { stdout, stderr, message } = error as { stdout: string; stderr: string; message: string };
    throw new Error([message, stdout, stderr].join("\n"));
  }
};

/** A package that was packed. */
export interface Packed {
  /** The archive. */
  readonly path: string;
  /** The files in it, in order. */
  readonly files: readonly string[];
}

const pack = async (folder: string): Promise<Packed> => {
  const [packed] = Object.values(JSON.parse(await run(folder, "npm", "pack", "--json", "--silent")));
  const { filename, files } = packed as { filename: string; files: { path: string }[] };
  return { path: join(folder, filename), files: files.map(({ path }) => path).sort() };
};

/** Both packages. */
interface BothPacked {
  readonly socklet: Packed;
  readonly create: Packed;
}

/** Packs both packages of a clean copy of the repository, which it makes at `clean`. */
const packAll = async (clean: string): Promise<BothPacked> => {
  await mkdir(clean);
  for (const name of [
    "core",
    "emulator",
    "worker",
    "docs",
    "examples",
    "build.ts",
    "package.json",
    "tsconfig.base.json",
    ...TEXTS.filter((name) => !name.includes("/")),
  ]) {
    await cp(root + name, join(clean, name), {
      recursive: true,
      filter: (path) => !path.includes("/node_modules"),
    });
  }
  await symlink(`${root}node_modules`, join(clean, "node_modules"));
  await mkdir(join(clean, "dist/core"), { recursive: true });
  await writeFile(join(clean, "dist/core/stale.js"), "of an earlier build\n");
  return { socklet: await pack(clean), create: await pack(join(clean, "emulator/create")) };
};

/** Both packages, and the clean copy that they were packed from. */
interface PackedOnce extends BothPacked {
  readonly clean: string;
}

/**
 * The packages, packed once for all processes that share a folder (`sharePacked()`): nobody may change them. Who asks first packs,
 * which takes 8 s of a processor; the others wait for the result.
 */
export const packOnce = async (): Promise<PackedOnce> => {
  const folder = process.env[PACKED] as string; // sharePacked() has made it
  const result = join(folder, "result.json");
  const isFirst = await mkdir(join(folder, "claimed")).then(
    () => true,
    (error) => {
      if (error.code === "EEXIST") return false;
      throw error;
    },
  );
  if (isFirst) {
    const clean = join(folder, "clean");
    const said = await packAll(clean).then(
      (packed) => ({ packed: { ...packed, clean } }),
      (error) => ({ error: String(error) }),
    );
    await writeFile(`${result}.part`, JSON.stringify(said));
    await rename(`${result}.part`, result); // whole, or not there
  }
  const stop = new AbortController();
  const read = async (): Promise<{ packed: PackedOnce } | { error: string }> => {
    const changes = watch(folder, { signal: stop.signal })[Symbol.asyncIterator]();
    for (;;) {
      const change = changes.next(); // watches from here on, so that none is missed
      change.catch(() => {}); // stopped
      try {
        return JSON.parse(await readFile(result, "utf8"));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      }
      await change;
    }
  };
  try {
    const said = await read();
    if ("error" in said) throw new Error(said.error);
    return said.packed;
  } finally {
    stop.abort();
  }
};
