/** Runs the code of the README's first screen. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "socklet/emulator";
import { afterAll, beforeAll, expect, test } from "vitest";
import { reservePorts } from "../peers/ports.ts";
import { runWorker } from "./workerd.ts";

mkdirSync(".tsc", { recursive: true });
const folder = mkdtempSync(".tsc/readme-"); // in the repository, where `socklet` is this package
const blocks = [...readFileSync("README.md", "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map(
  ([, code]) => code as string,
);
const block = (saying: string): string => {
  const found = blocks.filter((code) => code.includes(saying));
  expect(found.length, `blocks of README.md with ${saying}`).toBe(1);
  return found[0] as string;
};

const [port = 0, door = 0] = await reservePorts(2);
const write = (name: string, code: string): string => {
  writeFileSync(`${folder}/${name}`, code.replaceAll("127.0.0.1:7007", `127.0.0.1:${port}`));
  return `${folder}/${name}`;
};

beforeAll(() => {
  write("shout.ts", block("class Shout"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

const node = (path: string) =>
  spawn(process.execPath, ["--conditions=socklet:source", path], { stdio: ["ignore", "pipe", "inherit"] });

const ask = async (at: number): Promise<string | null> => {
  const socket = await createConnection({ hostname: "127.0.0.1", port: at });
  await socket.sendall("hello\n");
  const line = await socket.rfile.line();
  await socket.close();
  return line;
};

test("in a test: HELLO", async () => {
  const code = block("new MemoryServer(Shout)");
  expect(code).toContain('await client.rfile.line(); // "HELLO"');
  const child = node(
    write("memory.ts", code.replace("await client.rfile.line();", "console.log(await client.rfile.line());")),
  );
  const [[said], [status]] = await Promise.all([once(child.stdout, "data"), once(child, "exit")]);
  expect([String(said), status]).toEqual(["HELLO\n", 0]);
});

test("in Node: a server that answers HELLO", async () => {
  const code = block("import { ThreadingTCPServer }");
  expect(code).toContain('"127.0.0.1:7007"');
  // It prints nothing when it listens, so a line on its own event is added.
  const telling = code.replace(
    '7007", Shout)',
    '7007", Shout, { onEvent: ({ type }) => console.log(type) })',
  );
  const child = node(write("node.ts", telling));
  try {
    await once(child.stdout, "data");
    expect(await ask(port)).toBe("HELLO");
  } finally {
    child.kill();
    await once(child, "exit");
  }
});

test("in a Worker: HELLO, by a port of workerd", async () => {
  const main = write("worker.ts", block("workerFor(app)").replace("127.0.0.1:7007", `127.0.0.1:${door}`));
  const worker = await runWorker({ main, ports: [door], classes: {} });
  try {
    expect(await ask(door)).toBe("HELLO");
  } finally {
    await worker.close();
  }
});
