/** Each row of the socket module on Node, with koffi and without; and the page that is made of them. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type NodePlace, nodePlace, nodeRows } from "../rows/node.ts";
import { EXAMPLE, PRINTS, socketModulePage } from "../rows/page.ts";
import { rows } from "../rows/rows.ts";
import { workerRows } from "../rows/worker.ts";

describe.each([
  ["with koffi", true],
  ["without", false],
])("%s", (_, native) => {
  const before = process.env.SOCKLET_NATIVE;
  let place: NodePlace & AsyncDisposable;
  beforeAll(async () => {
    process.env.SOCKLET_NATIVE = native ? "" : "off";
    place = await nodePlace(native);
  });
  afterAll(async () => {
    await place[Symbol.asyncDispose]();
    if (before === undefined) delete process.env.SOCKLET_NATIVE;
    else process.env.SOCKLET_NATIVE = before;
  });

  for (const { id, name, node: cell } of rows) {
    test(`${id} ${name}${"cannot" in cell ? ": cannot" : ""}`, async () => {
      const run = nodeRows[id];
      if (run === undefined) throw new Error(`row ${id} has no test in test/rows/node.ts`);
      await run(place);
    });
  }
});

test("they are S1 to S54, each once; one without a test has no page", () => {
  const numbers = Array.from({ length: 54 }, (_, i) => `S${i + 1}`);
  const both = numbers.flatMap((id) => (id === "S11" || id === "S46" ? [id, `${id}b`] : [id]));
  expect(rows.map(({ id }) => id)).toEqual(both);
  expect(Object.keys(nodeRows).sort()).toEqual([...both].sort());
  expect(Object.keys(workerRows).sort()).toEqual([...both].sort());
  const [first] = rows;
  const more = [...rows, { ...first, id: "S99", name: "`nothing`" } as (typeof rows)[number]];
  expect(() => socketModulePage(more)).toThrow(
    /row S99 \(`nothing`\) has no test in .*node\.ts and worker\.ts/,
  );
});

test("its example prints what it says", async () => {
  mkdirSync(".tsc", { recursive: true });
  const folder = mkdtempSync(".tsc/module-"); // in the repository, where `socklet` is this package
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  writeFileSync(`${folder}/example.ts`, EXAMPLE);
  const stdio = ["ignore", "pipe", "inherit"] as const;
  const program = spawn(process.execPath, ["--conditions=socklet:source", `${folder}/example.ts`], {
    stdio: [...stdio],
  });
  const said = text(program.stdout as NodeJS.ReadableStream);
  expect([await once(program, "close"), await said]).toEqual([[0, null], PRINTS]);
});

test("docs/socket-module.md is what the rows say (npm run docs writes it)", async () => {
  await expect(socketModulePage()).toMatchFileSnapshot("../../docs/socket-module.md");
});
