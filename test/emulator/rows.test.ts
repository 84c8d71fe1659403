/** Each row of the socket module on Node, with koffi and without; and the page that is made of them. */

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type NodePlace, nodePlace, nodeRows } from "../rows/node.ts";
import { socketModulePage } from "../rows/page.ts";
import { rows } from "../rows/rows.ts";

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

test("docs/socket-module.md is what the rows say (npm run docs writes it)", async () => {
  await expect(socketModulePage()).toMatchFileSnapshot("../../docs/socket-module.md");
});
