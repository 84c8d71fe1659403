/** The bundles of the library and of the Worker: neutral code, and little of it. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build, type Plugin } from "esbuild";
import { beforeAll, describe, expect, test } from "vitest";
import { unstable_readConfig as readConfig } from "wrangler";
import { app } from "../../examples/app.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const config = readConfig({ config: `${root}wrangler.toml` });

const MAX_WORKER = 61.5 * 1024; // bytes, gzip, of what every app deploys: it has to start within 1 s, and grows unseen

/** Globals that Node has and a Worker or a browser lacks: each is replaced by a mark unless it is a local name. */
const NODE_ONLY = ["Buffer", "process", "require", "global", "setImmediate", "__dirname", "__filename"];
const mark = (name: string): string => `__node_only_${name}__`;
const define = Object.fromEntries(
  NODE_ONLY.flatMap((name) => [
    [name, mark(name)],
    ...["globalThis", "self"].map((object) => [`${object}.${name}`, mark(name)]),
  ]),
);

interface Bundle {
  readonly code: string;
  /** The imports that are not bundled: `core/app/app.ts: import "node:fs"`. */
  readonly imports: readonly string[];
  /** What only Node has: `core/app/app.ts: process`. */
  readonly nodeOnly: readonly string[];
}

const bundle = async (
  entry: string,
  { plugins = [] as Plugin[], marked = true, minify = false } = {},
): Promise<Bundle> => {
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    entryPoints: [entry],
    alias: config.alias ?? {},
    bundle: true,
    minify,
    keepNames: minify, // wrangler's
    format: "esm",
    platform: "neutral",
    target: "es2022",
    conditions: ["workerd", "worker", "browser"], // wrangler's
    external: ["node:*", "cloudflare:*"],
    write: false,
    metafile: true,
    logLevel: "silent",
    plugins,
    ...(marked && { define }),
  });
  const code = outputFiles[0]?.text ?? "";
  const imports = Object.entries(metafile.inputs).flatMap(([file, input]) =>
    input.imports.filter(({ external }) => external).map(({ path }) => `${file}: import "${path}"`),
  );
  const nodeOnly: string[] = [];
  let file = entry;
  for (const line of code.split("\n")) {
    file = /^\/\/ (\S+\.[cm]?[jt]s)$/.exec(line)?.[1] ?? file; // esbuild says which file follows
    for (const [, name] of line.matchAll(/__node_only_(\w+?)__\b/g)) nodeOnly.push(`${file}: ${name}`);
  }
  return { code, imports, nodeOnly };
};

describe.each([
  ["core/index.ts", []],
  ["core/testing/index.ts", []],
  ["core/control/index.ts", []],
  ["worker/main.ts", ["cloudflare:sockets", "cloudflare:workers"]],
])("the bundle of %s", (entry, platform) => {
  let made: Bundle;

  beforeAll(async () => {
    made = await bundle(entry);
  });

  test(`imports nothing from outside${platform.length > 0 ? ` but ${platform.join(", ")}` : ""}`, () => {
    const foreign = made.imports.filter((line) => !platform.some((name) => line.endsWith(`"${name}"`)));
    expect(foreign).toEqual([]);
  });

  test("has none of Node's globals", () => {
    expect(made.code).not.toBe("");
    expect(made.nodeOnly).toEqual([]);
  });
});

describe("what these tests would find", () => {
  /** The bundle of the Worker, with `line` at the end of core/app/app.ts. */
  const planted = (line: string): Promise<Bundle> =>
    bundle("worker/main.ts", {
      plugins: [
        {
          name: "plant",
          setup({ onLoad }) {
            onLoad({ filter: /\/core\/app\/app\.ts$/ }, async ({ path }) => ({
              contents: `${await readFile(path, "utf8")}\n${line}`,
              loader: "ts",
            }));
          },
        },
      ],
    });

  test.each([
    ['import fs from "node:fs"; fs.readFileSync("x");', "node:fs"],
    ['import "node:net";', "node:net"],
    ['await import("node:dns");', "node:dns"],
    ['export * from "node:os";', "node:os"],
  ])("%s", async (line, name) => {
    expect((await planted(line)).imports).toContain(`core/app/app.ts: import "${name}"`);
  });

  test.each([
    ['Buffer.from("x");', "Buffer"],
    ["process.env.HOME;", "process"],
    ['if (typeof process !== "undefined") defineApp;', "process"],
    ["globalThis.process.exit();", "process"],
    ["globalThis?.process?.exit();", "process"],
    ['globalThis["process"].exit();', "process"],
    ["self.process.exit();", "process"],
    ['require("x");', "require"],
    ['const load = require; load("x");', "require"],
    ["setImmediate(defineApp);", "setImmediate"],
  ])("%s", async (line, name) => {
    expect((await planted(line)).nodeOnly).toContain(`core/app/app.ts: ${name}`);
  });

  test.each([
    '// process, Buffer, require("node:fs")',
    'globalThis.planted = "process Buffer require node:fs";',
    "globalThis.planted = { process: 1, Buffer: 2 }.process;",
    "for (const process of [1]) globalThis.planted = process;",
  ])("and not: %s", async (line) => {
    const { imports, nodeOnly } = await planted(line);
    expect(imports.filter((found) => found.includes("node:"))).toEqual([]);
    expect(nodeOnly).toEqual([]);
  });
});

/** Puts a Worker of one handler in the place of the examples', as docs/deploying.md shows it. */
const oneHandler: Plugin = {
  name: "one handler",
  setup: ({ onLoad }) =>
    onLoad({ filter: /worker\/main\.ts$/ }, () => ({
      loader: "ts",
      resolveDir: `${root}worker`,
      contents: `
        import { defineApp } from "socklet";
        import { SockletStorage, workerFor } from "./index.ts";
        import { Echo } from "../examples/echo.ts";
        const app = defineApp({ handlers: { Echo }, listen: [{ handler: "Echo", address: "tcp://127.0.0.1:7007" }] });
        const worker = workerFor(app);
        export class SockletSession extends worker.Session {}
        export class SockletRegistry extends worker.Registry {}
        export { SockletStorage };
        export default worker;
      `,
    })),
};

test(`the Worker of an app with one handler is less than ${MAX_WORKER / 1024} KiB, gzip`, async () => {
  const minify = config.minify === true;
  const { code } = await bundle("worker/main.ts", { plugins: [oneHandler], marked: false, minify });
  expect(code).not.toContain("HELO"); // the mail sink is another app's
  for (const ofPools of ["maxReply, which is", "which is the most that crosses"])
    expect(code).not.toContain(ofPools);
  expect(gzipSync(code).length).toBeLessThan(MAX_WORKER);
});

/** What one has and the other lacks, port by port. */
const differences = (
  listeners: readonly (readonly [name: string, port: number])[],
  ports: readonly number[],
) => [
  ...listeners
    .filter(([, port]) => !ports.includes(port))
    .map(([name, port]) => `port ${port} ("${name}" of examples/app.ts) has no [[connect]] in wrangler.toml`),
  ...ports
    .filter((port) => !listeners.some(([, listens]) => listens === port))
    .map((port) => `port ${port} of wrangler.toml has no TCP listener in examples/app.ts`),
];

describe("the TCP ports of wrangler.toml and those of examples/app.ts", () => {
  const listeners = app.listeners.flatMap(({ name, endpoint }) =>
    endpoint.scheme === "tcp" ? [[name, endpoint.port] as const] : [],
  );
  const connect = (config as { connect?: readonly { protocol: string; port: number }[] }).connect ?? [];
  const ports = connect.filter(({ protocol }) => protocol === "tcp").map(({ port }) => port);

  test("are the same", () => {
    expect(ports).not.toEqual([]);
    expect(differences(listeners, ports)).toEqual([]);
  });

  test("are named where they are not", () => {
    expect(differences([["echo", 7007]], [7007, 7008])).toEqual([
      "port 7008 of wrangler.toml has no TCP listener in examples/app.ts",
    ]);
    expect(differences([["echo", 7007]], [])).toEqual([
      'port 7007 ("echo" of examples/app.ts) has no [[connect]] in wrangler.toml',
    ]);
  });
});
