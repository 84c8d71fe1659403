/** Runs the code of docs/testing.md, and compares the output that the page shows with the actual one. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { stripVTControlCharacters } from "node:util";
import { formatTranscript, parseTranscript } from "socklet/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { limits } from "../limits.ts";

mkdirSync(".tsc", { recursive: true });
const folder = mkdtempSync(resolve(".tsc/guide-")); // in the repository, where `socklet` is this package
const vitest = resolve("node_modules/vitest/vitest.mjs");

interface Block {
  readonly name: string;
  readonly code: string;
  /** The output that the page shows for the next block. */
  readonly prints: string | undefined;
}

const fences = [...readFileSync("docs/testing.md", "utf8").matchAll(/^```(\w+)\n(.*?)^```$/gms)];
const blocks = fences.flatMap(([, language, code = ""], i): Block[] => {
  if (language === "text" || language === "sh") return [];
  const name = /^(?:\/\/|#) (\S+)\n/.exec(code)?.[1];
  if (name === undefined) throw new Error(`a block of docs/testing.md has no file name:\n${code}`);
  const next = fences[i + 1];
  return [{ name, code, prints: next?.[1] === "text" ? next[2] : undefined }];
});
const named = (ending: RegExp): string[] =>
  blocks.map(({ name }) => name).filter((name) => ending.test(name));

beforeAll(() => {
  for (const { name, code } of blocks) {
    const path = join(folder, name);
    expect(existsSync(path), `two blocks are ${name}`).toBe(false);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, code);
  }
  // In a project of one's own `socklet` is installed; here it is these sources.
  const entries = { "": "core", "/testing": "core/testing", "/emulator": "emulator", "/worker": "worker" };
  const alias = Object.entries(entries).map(
    ([entry, path]) =>
      `{ find: /^socklet${entry.replace("/", "\\/")}$/, replacement: ${JSON.stringify(resolve(path, "index.ts"))} }`,
  );
  const sources = `{ root: ${JSON.stringify(folder)}, resolve: { alias: [${alias}] }, test: ${JSON.stringify(limits)} }`;
  writeFileSync(join(folder, "sources.config.ts"), `export default ${sources};\n`);
  writeFileSync(
    join(folder, "sources.client.config.ts"), // which has everything for workerd
    `import { mergeConfig } from "vitest/config";\nimport guide from "./client.config.ts";\nexport default mergeConfig(guide, ${sources});\n`,
  );
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs Node in the guide's folder; returns everything that it printed, and how it ended. */
const node = async (args: readonly string[], more: Readonly<Record<string, string>> = {}) => {
  const {
    VITEST: _,
    VITEST_WORKER_ID: __,
    VITEST_POOL_ID: ___,
    NODE_TEST_CONTEXT: ____,
    ...env
  } = process.env;
  const child = spawn(process.execPath, args, {
    cwd: folder,
    env: { ...env, UPDATE: "", ...more, CI: "", NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const [printed, complained, [status]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, "exit") as Promise<[number]>,
  ]);
  return { printed: stripVTControlCharacters(`${printed}\n${complained}`), status };
};

/** Lines as they can be found again: runners indent them. */
const lines = (printed: string): string =>
  printed
    .split("\n")
    .map((line) => line.trim())
    .join("\n");

const failing = named(/\.fails\.test\.ts$/);
const passing = named(/\.test\.ts$/).filter((name) => !failing.includes(name));

const run = (files: readonly string[], more?: Readonly<Record<string, string>>) =>
  node([vitest, "run", "--config", "sources.config.ts", ...files], more);

test("what is printed is shown of each block that fails, and of no other", () => {
  expect(blocks.flatMap(({ name, prints }) => (prints?.trim() ? [name] : []))).toEqual(failing);
  expect(fences.filter(([, language]) => language === "text").length).toBe(failing.length);
});

test("the form of a transcript is what the table says", () => {
  const rows = [...readFileSync("docs/testing.md", "utf8").matchAll(/^\| `(\{.*\})` \|/gm)];
  const [header = "", ...events] = rows.map(([, line = ""]) => line);
  expect(events.length).toBeGreaterThan(3);
  const inOrder = events.toSorted((a, b) => JSON.parse(a).at - JSON.parse(b).at);
  const [missing, said] = [true, false].map((is) =>
    inOrder.filter((line) => "dropped" in JSON.parse(line) === is),
  );
  const dropped = missing.reduce((sum, line) => sum + JSON.parse(line).dropped, 0);
  expect(dropped).toBeGreaterThan(0);
  const text = [JSON.stringify({ ...JSON.parse(header), dropped }), ...said, ""].join("\n");
  expect(formatTranscript(parseTranscript([header, ...inOrder, ""].join("\n")))).toBe(text);
});

test("the Vitest blocks pass, with what UPDATE=1 has written", async () => {
  const writing = await run(["record.test.ts"], { UPDATE: "1" });
  expect(writing.status, writing.printed).toBe(0);
  expect(readFileSync(join(folder, "hello.jsonl"), "utf8")).toContain('"text":"HELLO\\n"');
  const { printed, status } = await run(passing);
  expect(status, printed).toBe(0);
  expect(printed).toMatch(new RegExp(`Test Files +${passing.length} passed`));
});

test("the blocks that are to fail do, and print what is shown", async () => {
  const { printed, status } = await run(failing);
  expect(status, printed).toBe(1);
  expect(printed).toMatch(new RegExp(`Test Files +${failing.length} failed`));
  for (const { name, prints } of blocks) {
    if (prints !== undefined) expect(lines(printed), name).toContain(lines(prints.trimEnd()));
  }
});

test("the block of node:test passes", async () => {
  const { printed, status } = await node(["--conditions=socklet:source", "--test", ...named(/\.node\.ts$/)]);
  expect(status, printed).toBe(0);
  expect(printed).toMatch(/^(?:# |ℹ )pass 1$/m);
});

test("the blocks for workerd pass inside workerd", async () => {
  const { printed, status } = await node([vitest, "run", "--config", "sources.client.config.ts"]);
  expect(status, printed).toBe(0);
  expect(printed).toMatch(/Tests +2 passed/);
});
