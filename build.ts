/**
 * Makes the code of dist/ from the sources. (The declarations are tsc's, one for each source.)
 *
 * All of core is one file, and all of the emulator: a file costs a program that starts 0.7 ms, however small it is, and
 * there would be fifty before a server listens. What few programs need is left outside, and loaded when it is: the
 * control plane. Nothing is minified, which would gain nothing (measured), and names stay what they are in the sources.
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

const bundle = await rolldown({
  cwd: root,
  input: ENTRIES,
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
    groups: [
      // With what emulator/ and worker/ share of the control plane: a group takes whatever it imports that no other has.
      { name: "core/core", test: /[\\/]core[\\/](?!control[\\/](?!plane\.)|testing[\\/])/ },
      {
        name: "emulator/emulator",
        test: /[\\/]emulator[\\/](?!command[\\/]|otel[\\/]|.*[\\/](forking-child|cluster-worker|control)\.)/,
      },
    ],
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
