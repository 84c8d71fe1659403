/**
 * Makes the code of dist/ from the sources. (The declarations are tsc's, one for each source.)
 *
 * What `import "socklet/emulator"` loads is two files, one of core and one of the emulator: each file costs a starting
 * program 0.7 ms, however small it is, and there would be fifty before a server listens. What is loaded only on demand
 * (the control plane, rules of faults, the proxy) has files of its own, because code costs a start even if it does not run:
 * 100 KB took 1 ms. Nothing is minified, which would gain nothing (measured), and names stay what they are in the sources.
 */

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { rolldown } from "rolldown";

const root = import.meta.dirname;
const dist = join(root, "dist");

/** What package.json names, and what a forking server runs: the file in dist/, and its source. */
const ENTRIES = {
  "core/index": "core/index.ts",
  "core/control/index": "core/control/index.ts",
  "core/inspector/index": "core/inspector/index.ts",
  "core/testing/index": "core/testing/index.ts",
  "emulator/index": "emulator/index.ts",
  "emulator/cli": "emulator/command/cli.ts",
  "emulator/forking-child": "emulator/servers/forking/forking-child.ts", // beside the code of its parent, which looks for it there
  "emulator/cluster-worker": "emulator/cluster/cluster-worker.ts", // the same
  "emulator/otel/index": "emulator/otel/index.ts",
  "worker/index": "worker/index.ts",
};

for (const name of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
  if (/\.js(\.map)?$/.test(name)) rmSync(join(dist, name)); // of an earlier build
}

/** The modules that `socklet` and `socklet/emulator` import statically. */
const loaded = new Set<string>();

const bundle = await rolldown({
  cwd: root,
  input: ENTRIES,
  plugins: [
    {
      name: "what a start loads",
      buildEnd() {
        const add = (id: string): void => {
          if (loaded.has(id)) return;
          loaded.add(id);
          for (const imported of this.getModuleInfo(id)?.importedIds ?? []) add(imported);
        };
        for (const entry of ["core/index", "emulator/index"] as const) add(join(root, ENTRIES[entry]));
      },
    },
  ],
  // A warning is an error: an import that is to be on demand and is not, for one, costs every start.
  onLog(level, log, handle) {
    handle(level === "warn" ? "error" : level, log);
  },
  platform: "neutral",
  external: /^[^./]/, // Node's modules, workerd's, packages
  transform: { target: "es2022" },
});
const { output } = await bundle.write({
  dir: dist,
  format: "esm",
  sourcemap: true,
  minify: "dce-only",
  minifyInternalExports: false,
  comments: { legal: false, jsdoc: false },
  entryFileNames: "[name].js",
  chunkFileNames: ({ name }) => (name.includes("/") ? "[name].js" : "chunks/[name].js"),
  codeSplitting: {
    groups: ["core", "emulator"].map((part) => ({
      name: `${part}/${part}`,
      test: (id: string) => loaded.has(id) && id.startsWith(join(root, part, "/")),
    })),
  },
});
await bundle.close();

// Syntax that es2022 does not have, such as `using`, becomes an import of a package that users do not have.
const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const known = [...Object.keys(dependencies), ...Object.keys(peerDependencies), "socklet"];
const files = new Set(output.map(({ fileName }) => fileName));
for (const chunk of output) {
  if (chunk.type !== "chunk") continue;
  const missing = [...chunk.imports, ...chunk.dynamicImports].filter(
    (name) =>
      !files.has(name) &&
      !/^(node|cloudflare):/.test(name) &&
      !known.some((one) => name === one || name.startsWith(`${one}/`)),
  );
  if (missing.length === 0) continue;
  throw new Error(`${chunk.fileName} imports ${missing.join(", ")}, which package.json does not have`);
}
