/** The public surface: docs/exports.md lists it, and each name is documented. */

import { expect, test } from "vitest";
import { exportsPage, publicSurface } from "./exports.ts";

test("docs/exports.md is what the entries export (npm run docs writes it)", async () => {
  await expect(exportsPage()).toMatchFileSnapshot("../../docs/exports.md");
});

test("every public name has a doc comment", () => {
  const silent = [...publicSurface()].flatMap(([entry, list]) =>
    list.filter(({ summary }) => summary === "").map(({ name }) => `${entry}: ${name}`),
  );
  expect(silent).toEqual([]);
});
