/** `socklet dev --runtime`: the same app in workerd, alone and beside Node. */

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { isAlive } from "../peers/alive.ts";
import { reservePort } from "../peers/ports.ts";
import { askOnce, Client, Program, save } from "./dev-program.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

let folder: string; // in the package, whose name the app imports

beforeEach(async () => {
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  folder = await mkdtemp(join(root, ".wrangler", "dev-runtime-"));
  onTestFinished(() => rm(folder, { recursive: true }));
});

const write = (name: string, text: string): Promise<void> => save(join(folder, name), text);

const word = (text: string): string => `export const word = ${JSON.stringify(text)};\n`;
const app = (...ports: number[]): string => `
  import { DatagramRequestHandler, defineApp, streamHandler } from "socklet";
  import { word } from "./word.ts";
  const Say = streamHandler(async ({ rfile, wfile }) => {
    const line = await rfile.line();
    if (line === "boom") throw new RangeError("boom was said");
    wfile.write(word + " " + (navigator.userAgent.startsWith("Cloudflare") ? "workerd" : "node") + "\\n");
  });
  const Ask = streamHandler(async ({ rfile, wfile }) => { wfile.write("?\\n"); return rfile.line(); });
  class Pong extends DatagramRequestHandler {}
  export const app = defineApp({
    handlers: { Say, Ask, Pong },
    listen: [
      ${ports.map((port) => `{ handler: "Say", address: "tcp://127.0.0.1:${port}" },`)}
      { handler: "Pong", address: "udp://127.0.0.1:0" },
    ],
    dial: { ask: { handler: "Ask", address: "tcp://127.0.0.1:${ports[0]}" } },
  });`;

/** Gives the project an esbuild of its own, a module that exports `build`; the real one is its variable `build`. */
const esbuildOf = async (module: string): Promise<void> => {
  const esbuild = join(folder, "node_modules/esbuild");
  mkdirSync(esbuild, { recursive: true });
  const real = JSON.stringify(createRequire(import.meta.url).resolve("esbuild"));
  await writeFile(join(esbuild, "index.js"), `const { build } = require(${real});${module}\n`);
};

/** The ports of the listeners that are in workerd, once they are listed. */
const portsInWorkerd = async (dev: Program): Promise<number[]> => {
  await dev.line(/^control \(workerd\)/);
  return dev.lines.flatMap((line) => /^Say \(workerd\) .*:(\d+)$/.exec(line)?.[1] ?? []).map(Number);
};

/** The processes of workerd that a program has. */
const workerdsOf = (pid: number | undefined): number[] =>
  execFileSync("ps", ["-o", "pid=,args=", "--ppid", String(pid)], { encoding: "utf8" })
    .split("\n")
    .filter((line) => line.includes("workerd"))
    .map((line) => Number.parseInt(line, 10));

describe("socklet dev --runtime", () => {
  test("both: the same app on the ports behind Node's; a save reaches both, and events of both are told", async () => {
    const port = await reservePort();
    await write("word.ts", word("one"));
    await write("app.ts", app(port));
    const dev = new Program(folder, ["dev", "app.ts", "--runtime", "both", "--control-port", "0"]);
    const [beside = 0] = await portsInWorkerd(dev);
    expect(beside).toBeGreaterThan(port);
    expect([await askOnce(port), await askOnce(beside)]).toEqual(["one node", "one workerd"]);
    await dev.line(/^socklet: Pong \(workerd\): a Worker has no listener at udp:/);

    const saved = dev.saved(write("word.ts", word("two")), /^socklet: workerd: version 2: .*word\.ts/);
    await saved;
    await dev.line(/^socklet: version 2: word\.ts/);
    expect([await askOnce(port), await askOnce(beside)]).toEqual(["two node", "two workerd"]);

    for (const [at, whose] of [
      [port, "Say"],
      [beside, "Say \\(workerd\\)"],
    ] as const) {
      const from = dev.lines.length;
      await expect(new Client(at).ask("boom")).rejects.toThrow();
      await dev.line(new RegExp(`^socklet: ${whose}  127.*RangeError: boom was said \\(app\\.ts:6:`), from);
    }

    await dev.saved(write("word.ts", "export const word = = 1;\n"), /^socklet: workerd: .*keeps serving$/);
    await dev.line(
      /^socklet: workerd: the Worker could not be bundled: .*\(word\.ts:1:21\); version 2 keeps serving$/,
    );
    expect([await askOnce(port), await askOnce(beside)]).toEqual(["two node", "two workerd"]);
    await dev.saved(write("word.ts", word("mended")), /^socklet: workerd: version 3: .*word\.ts/);
    expect(await askOnce(beside)).toBe("mended workerd");

    const workerds = workerdsOf(dev.process.pid);
    expect(workerds.length).toBeGreaterThan(0);
    dev.process.kill("SIGINT");
    expect(await dev.exit).toBe(0);
    await expect.poll(() => workerds.filter(isAlive)).toEqual([]);
  });

  test("workerd: on the app's own ports; socklet sessions finds it; a killed dev leaves no workerd behind", async () => {
    const port = await reservePort();
    await write("word.ts", word("one"));
    await write("app.ts", app(port));
    const dev = new Program(folder, ["dev", "app.ts", "--runtime", "workerd"]);
    expect(await portsInWorkerd(dev)).toEqual([port]);
    expect(await askOnce(port)).toBe("one workerd");
    const run = new Program(folder, ["sessions", "run", "ask"]);
    expect([await run.exit, run.lines]).toEqual([0, ['"one workerd"']]);
    await dev.saved(write("word.ts", word("two")), /^socklet: workerd: version 2: /);
    expect(await askOnce(port)).toBe("two workerd");
    const workerds = workerdsOf(dev.process.pid);
    dev.process.kill("SIGKILL");
    await dev.exit;
    await expect.poll(() => workerds.filter(isAlive)).toEqual([]);
  });

  test.each([1, 2])("workerd: a save while version %i is bundled is taken by the next one", async (which) => {
    const port = await reservePort();
    await write("word.ts", word("one"));
    await write("app.ts", app(port));
    await write("late.ts", word("late"));
    // When esbuild has read the files of that bundle, one of them is saved again.
    await esbuildOf(`
      let bundles = 0;
      exports.build = async (options) => {
        const built = await build(options);
        if (++bundles === ${which}) require("node:fs").renameSync("late.ts", "word.ts");
        return built;
      };`);
    const dev = new Program(folder, ["dev", "app.ts", "--runtime", "workerd", "--control-port", "0"]);
    await portsInWorkerd(dev);
    if (which === 2) await write("word.ts", word("two"));
    await dev.line(new RegExp(`^socklet: workerd: version ${which + 1}: word\\.ts`));
    expect(await askOnce(port)).toBe("late workerd");
  });

  /** During the first bundle another program, for which this one stands in, begins to listen at `port`. */
  const takenMeanwhile = (port: number): Promise<void> =>
    esbuildOf(`
      const { createServer } = require("node:http");
      let other;
      exports.build = async (options) => {
        other ??= await new Promise((resolve) => {
          const server = createServer((_, response) => response.end("another's"));
          server.listen(${port}, "127.0.0.1", () => resolve(server));
        });
        return build(options);
      };`);

  test("workerd: where another program takes the control port before workerd listens there, another is served", async () => {
    const port = await reservePort();
    const control = await reservePort();
    await write("word.ts", word("one"));
    await write("app.ts", app(port));
    await takenMeanwhile(control);
    const dev = new Program(folder, [
      ...["dev", "app.ts", "--runtime", "workerd"],
      ...["--control-port", `${control}`],
    ]);
    expect(await portsInWorkerd(dev)).toEqual([port]);
    const [, url] = await dev.line(/^control \(workerd\) +(\S+)\/v1$/);
    expect(Number(new URL(url as string).port)).toBeGreaterThan(control);
    expect(await askOnce(port)).toBe("one workerd");
    expect(await (await fetch(`http://127.0.0.1:${control}`)).text()).toBe("another's");
  });

  test("workerd: a listener's port that another program takes meanwhile is an error that says what to do", async () => {
    const port = await reservePort();
    await write("word.ts", word("one"));
    await write("app.ts", app(port));
    await takenMeanwhile(port);
    const dev = new Program(folder, ["dev", "app.ts", "--runtime", "workerd", "--control-port", "0"]);
    const [said] = await dev.line(/^socklet: .*/);
    expect(said).toContain(`tcp://127.0.0.1:${port}: that address is in use; give --any-port`);
    expect(await dev.exit).toBe(1);
  });

  test("the project's own Worker is run, with its bindings", async () => {
    const port = await reservePort();
    await write("word.ts", word("own"));
    await write("app.ts", app(port));
    await write(
      "worker.ts",
      `import { workerFor } from "socklet/worker";
       import { app } from "./app.ts";
       const worker = workerFor(app);
       export default { ...worker, fetch: (request, env) => new Response(env.GREETING + env.SECRET) };`,
    );
    await write(
      "wrangler.toml",
      'name = "own"\nmain = "worker.ts"\ncompatibility_date = "2026-10-01"\n[vars]\nGREETING = "hello "\n',
    );
    await write(".dev.vars", "SECRET=there\n");
    const dev = new Program(folder, ["dev", "app.ts", "--runtime", "workerd", "--control-port", "0"]);
    const [, url] = await dev.line(/^control \(workerd\) +(\S+)\/v1$/);
    expect(await (await fetch(url as string)).text()).toBe("hello there");
    expect(await askOnce(port)).toBe("own workerd");
    await dev.saved(
      write("wrangler.toml", readFileSync(join(folder, "wrangler.toml"), "utf8").replace("hello", "hi")),
      /^socklet: workerd: version 2: wrangler\.toml/,
    );
    expect(await (await fetch(url as string)).text()).toBe("hi there");
  });

  test.runIf(process.platform === "linux")(
    "the system gives the ports of workerd to nobody else, also while none listens there",
    async () => {
      const once = join(folder, "workerd-once"); // when it was ended, Miniflare starts it again in vain
      const workerd = createRequire(import.meta.url)("workerd").default as string;
      await writeFile(once, `#!/bin/sh\nmkdir "$0.ran" && exec ${workerd} "$@"\n`, { mode: 0o755 });
      vi.stubEnv("MINIFLARE_WORKERD_PATH", once);
      onTestFinished(() => void vi.unstubAllEnvs());
      await write("word.ts", word("one"));
      await write("app.ts", app(await reservePort()));
      const dev = new Program(folder, ["dev", "app.ts", "--runtime", "workerd", "--any-port"]);
      const [, control] = await dev.line(/^control \(workerd\) +http:\/\/127\.0\.0\.1:(\d+)/);
      const workerds = workerdsOf(dev.process.pid);
      for (const pid of workerds) process.kill(pid, "SIGKILL");
      await expect.poll(() => workerds.filter(isAlive)).toEqual([]);
      const ports = [...(await portsInWorkerd(dev)), Number(control)];
      expect(ports.length).toBe(2);
      for (const port of ports) {
        const bound = spawnSync("python3", [
          "-c",
          `import socket; socket.socket().bind(("127.0.0.1", ${port}))`,
        ]);
        expect(String(bound.stderr)).toMatch(/Address already in use/);
      }
    },
  );

  test("a project without wrangler is told what to install", async () => {
    const elsewhere = await mkdtemp(join(tmpdir(), "socklet-no-wrangler-"));
    onTestFinished(() => rm(elsewhere, { recursive: true }));
    mkdirSync(join(elsewhere, "node_modules"));
    await symlink(root, join(elsewhere, "node_modules/socklet"));
    await writeFile(join(elsewhere, "package.json"), '{ "type": "module" }');
    await writeFile(join(elsewhere, "word.ts"), word("one"));
    await writeFile(join(elsewhere, "app.ts"), app(await reservePort()));
    const dev = new Program(elsewhere, ["dev", "app.ts", "--runtime", "workerd"]);
    expect(await dev.exit).toBe(2);
    expect(dev.lines.join("\n")).toMatch(
      /in workerd by the package esbuild.*npm install --save-dev wrangler/,
    );
  });
});
