/** Runs the code of docs/servers.md and docs/broadcasts.md, and compares the output that the pages show with the actual one. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { text } from "node:stream/consumers";
import { createConnection } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Gate } from "../../core/net/access.ts";
import { settleForking } from "../../core/options.ts";
import { STREAM_OPTIONS } from "../../core/sockets/streams/stream-options.ts";
import { blocksOf } from "../pages/markdown.ts";

mkdirSync(".tsc", { recursive: true });
const folder = mkdtempSync(resolve(".tsc/servers-")); // in the repository, where `socklet` is this package
const page = readFileSync("docs/servers.md", "utf8");
const programs = ["docs/servers.md", "docs/broadcasts.md"].flatMap((page) =>
  blocksOf(page).flatMap(({ language, name = "", code, prints }) =>
    language === "ts" ? [{ name, code, prints }] : [],
  ),
);

beforeAll(() => {
  for (const { name, code } of programs) writeFileSync(join(folder, name), code.replace(SHORT, PATIENT));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// What a child of a page's may hold its process: a child that the machine keeps standing still for longer is killed, too, and its loss printed.
const SHORT = "blockTimeout: 500,";
const PATIENT = "blockTimeout: 8_000,";

const node = (name: string) => {
  const args = ["--conditions=socklet:source", name];
  return spawn(process.execPath, args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
};

test("each block has a name of its own", () => {
  expect(programs.filter(({ code }) => code.includes(SHORT)).map(({ name }) => name)).toEqual(["fork.ts"]);
  const names = programs.map(({ name }) => name);
  expect(names.every((name) => /^[a-z]+\.ts$/.test(name))).toBe(true);
  expect(new Set(names).size).toBe(names.length);
});

describe("what it shows as printed is", () => {
  test.each(programs.filter(({ prints }) => prints !== undefined))("$name", async ({ name, prints }) => {
    const child = node(name);
    const [printed, complained, [status]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, "exit"),
    ]);
    expect([status, complained]).toEqual([0, ""]);
    expect(printed).toBe(prints);
  });
});

test("the service drains at a signal, and aborts at the second one", async () => {
  for (const signals of [1, 2]) {
    const child = node("service.ts");
    const exit = once(child, "exit");
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const said: string[] = [];
    while (!said.join("").endsWith("}")) said.push((await lines.next()).value ?? "}");
    const port = Number(/port: (\d+)/.exec(said.join(""))?.[1]);
    await using client = await createConnection(`127.0.0.1:${port}`);
    await client.sendall("hello\n");
    expect(await client.rfile.line()).toBe("HELLO");
    child.kill("SIGTERM");
    for (;;) {
      // The port is closed: the signal was taken.
      const closed = await createConnection(`127.0.0.1:${port}`).then(
        async (socket) => socket.close(),
        (error) => error.code as string,
      );
      if (closed === "ECONNREFUSED") break;
    }
    if (signals === 2) {
      child.kill("SIGTERM");
      await expect(client.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
    } else {
      await client.sendall("still\n");
      expect(await client.rfile.line()).toBe("STILL");
      await client.close();
    }
    expect(await exit).toEqual([0, null]);
  }
});

test("its tables have every option, with the defaults that are", () => {
  const rows = new Map(
    [...page.matchAll(/^\| (`.*?) \| (.*?) \| .* \|$/gm)].flatMap(([, names = "", defaults = ""]) => {
      const values = defaults.split(", ");
      return [...names.matchAll(/`([\w.]+)`/g)].map(([, name], i) => [name, values[i] ?? values[0]] as const);
    }),
  );
  const shown = (value: unknown): string =>
    value === null
      ? "`null`"
      : Array.isArray(value)
        ? "`[]`"
        : typeof value === "string"
          ? `\`"${value}"\``
          : typeof value === "number" && value >= 1024 * 1024
            ? `${value / 1024 / 1024} MiB`
            : String(value).replace(/\B(?=(\d{3})+$)/g, " ");
  for (const [name, value] of Object.entries(STREAM_OPTIONS)) {
    if (name !== "writeTimeout") expect([name, rows.get(`stream.${name}`)]).toEqual([name, shown(value)]);
  }
  for (const [name, value] of Object.entries(settleForking({}))) {
    expect([name, rows.get(name)]).toEqual([name, shown(value)]);
  }
  const source = readFileSync("core/serve/server.ts", "utf8");
  const options = /export interface ServerOptions<Context>.*?^}/ms.exec(source)?.[0] ?? "";
  const names = [...options.matchAll(/^ {2}readonly (\w+)\?/gm)].map(([, name]) => name);
  expect(names.length).toBeGreaterThan(10);
  for (const name of names) expect([...rows.keys()], `${name} is in the table`).toContain(name);
  expect(Gate.of({})).toBe(null); // no access rules, rate or cap by default, as the table says
});
