/** The programs of this repository that start others (npm run soak, fuzz, bench …) leave none of them behind. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, onTestFinished, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const textOf = (path: string): string => readFileSync(join(root, path), "utf8");

/** A program that makes a folder and starts two others, each in one of the two ways; they say so to `port`, and would never end by themselves. */
const program = (port: number): string => `
  import { spawn } from "node:child_process";
  import { writeFileSync } from "node:fs";
  import { exitOnSignals, temporaryFolder, tied } from ${JSON.stringify(join(root, "test/peers/children.ts"))};
  import { start } from ${JSON.stringify(join(root, "test/peers/program.ts"))};
  exitOnSignals();
  const { path } = temporaryFolder("house");
  writeFileSync(path + "/file", "");
  console.log(path);
  const child = ["-e", 'require("net").connect(${port}, "127.0.0.1").write("here")'];
  tied(spawn(process.execPath, child, { stdio: "inherit" }));
  start(process.execPath, child);
  process.stdin.once("data", () => { throw new Error("nobody catches it"); });`;

test.for([
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
  ["an error that nobody catches", 1],
] as const)("what a program has started ends with it, and its folders go, by %s", async ([how, code]) => {
  const server = net.createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await once(server, "listening");
  const { port } = server.address() as net.AddressInfo;
  const args = ["--conditions=socklet:source", "--input-type=module", "-e", program(port)];
  const child = spawn(process.execPath, args, { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
  const folder = text(child.stdout);
  onTestFinished(() => void child.kill("SIGKILL"));
  let said = "";
  child.stderr.on("data", (bytes) => {
    said += bytes;
  });
  const ended = once(child, "close");
  const gone: Promise<unknown>[] = [];
  const failed = ended.then(() => {
    if (gone.length < 2) throw new Error(`it ended before it had started both: ${said}`);
  });
  await Promise.race([
    failed,
    (async () => {
      while (gone.length < 2) {
        const [socket] = (await once(server, "connection")) as [net.Socket];
        gone.push(once(socket.on("error", () => {}).resume(), "close")); // a process that is gone has no connection
      }
    })(),
  ]);
  if (how.startsWith("SIG")) child.kill(how as NodeJS.Signals);
  else child.stdin.write("now\n");
  expect((await ended)[0], said).toBe(code);
  await Promise.all(gone);
  const path = (await folder).trim();
  expect(path).toMatch(/socklet-house-/);
  expect(existsSync(path)).toBe(false);
});

test("every child that such a program starts is tied to it, every folder is one that goes with it, and every program that starts some exits on signals", () => {
  const rooms = ["soak", "fuzz", "bench", "races"].flatMap((room) =>
    readdirSync(join(root, "test", room), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => `test/${room}/${name}`),
  );
  const starts = rooms.filter((path) =>
    /^import \{.*\b(spawn|fork)\b.*"node:child_process"/m.test(textOf(path)),
  );
  expect(starts.length).toBeGreaterThan(5);
  for (const path of starts) {
    const bare = textOf(path).match(/(?<!tied\(\s*)\b(?:spawn|fork)\(/g) ?? [];
    expect(bare, `${path}: write tied(spawn(…))`).toEqual([]);
  }
  for (const path of [...rooms, "test/registry/run.ts"])
    expect(textOf(path), `${path}: call temporaryFolder()`).not.toMatch(/\bmkdtemp/);
  const { scripts } = JSON.parse(textOf("package.json")) as { scripts: Record<string, string> };
  for (const [name, script] of Object.entries(scripts)) {
    const [, path] = /(test\/(?:soak|fuzz|bench)\/\S+\.ts)/.exec(script) ?? [];
    if (path === undefined || path === "test/bench/run.ts") continue; // its children are those of measure.ts
    expect(textOf(path), `npm run ${name}: ${path}`).toMatch(/\bexitOnSignals\(\);/);
  }
  expect(textOf("test/bench/measure.ts")).toMatch(/^exitOnSignals\(\);/m);
});
