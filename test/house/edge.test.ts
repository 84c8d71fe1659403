/** The page of the edge's rules, held against their table. */

import { expect, test } from "vitest";
import { edgePage } from "./edge.ts";

test("docs/edge.md is what the table has (npm run docs writes it)", async () => {
  await expect(edgePage()).toMatchFileSnapshot("../../docs/edge.md");
});
