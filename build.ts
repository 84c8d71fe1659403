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
  "emulator/forking-child": "emulator/servers/forking/forking-child.ts", // programAt() looks for it there
  "emulator/cluster-worker": "emulator/cluster/cluster-worker.ts", // the same
  "emulator/otel/index": "emulator/otel/index.ts",
  "worker/index": "worker/index.ts",
};

for (const name of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
  if (/\.js(\.map)?$/.test(name)) rmSync(join(dist, name)); // of an earlier build
}

/** A character of a string, a template or a regular expression, written in ASCII. */
const escaped = (char: string): string => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;

/**
 * The files that hold what is imported statically by these sources, each without what the files before it have. A Worker's bundle
 * comes from the files in core/ alone; so a module of core that only Node uses is in a file of the emulator.
 */
const FILES = [
  { name: "core/core", of: ["core/index.ts", "emulator/index.ts"] },
  { name: "emulator/emulator", of: ["emulator/index.ts"] },
  { name: "core/control/plane", of: ["emulator/command/program.ts"] },
  { name: "emulator/app", of: ["emulator/app/serve.ts"] },
  { name: "emulator/command", of: ["emulator/command/program.ts"] },
].map((file) => ({ ...file, modules: new Set<string>() }));

/** What the entries that run everywhere import. */
const neutral = new Set<string>();

const bundle = await rolldown({
  cwd: root,
  input: ENTRIES,
  plugins: [
    {
      name: "what a start loads",
      buildEnd() {
        const add = (id: string, to: Set<string>): void => {
          if (to.has(id) || !id.startsWith(root)) return; // a package's, or Node's
          to.add(id);
          const { importedIds = [], dynamicallyImportedIds = [] } = this.getModuleInfo(id) ?? {};
          for (const imported of importedIds) add(imported, to);
          if (to === neutral) for (const imported of dynamicallyImportedIds) add(imported, to);
        };
        for (const { of, modules } of FILES) for (const path of of) add(join(root, path), modules);
        for (const path of Object.values(ENTRIES)) {
          if (!path.startsWith("emulator/")) add(join(root, path), neutral);
        }
      },
      generateBundle(_, files) {
        for (const file of Object.values(files)) {
          if (file.type !== "chunk") continue;
          file.code = file.code
            // V8 keeps a file with one character beyond ASCII at two bytes a character: 300 KB took 2 ms longer to load.
            .replace(/[^\0-\x7f]/g, escaped)
            // A user's bundler drops the names of options that nobody uses: 1 KB of a Worker.
            .replace(/ = (optionNamesOf\([\s\S]*?\n?\}\));$/gm, " = /* @__PURE__ */ (() => $1)();");
        }
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
    groups: FILES.map(({ name, modules }) => ({
      name,
      test: (id: string) => modules.has(id) && neutral.has(id) === name.startsWith("core/"),
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
