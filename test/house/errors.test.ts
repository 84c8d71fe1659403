/** The page of error codes, held against the table in core/errors.ts. */

import { readFileSync } from "node:fs";
import { SocketError } from "socklet";
import { expect, test } from "vitest";
import { documentedCodes, errorsPage } from "./errors.ts";

test("docs/errors.md has every code, once (npm run docs writes it)", async () => {
  const table = /const CODES = \{(.*?)\} as const/s.exec(readFileSync("core/errors.ts", "utf8"))?.[1] ?? "";
  const codes = [...table.matchAll(/^ {2}(\w+): \[/gm)].map(([, code]) => code as string);
  expect(codes.every((code) => SocketError.isCode(code))).toBe(true);
  expect(documentedCodes().toSorted()).toEqual(codes.toSorted());
  await expect(errorsPage()).toMatchFileSnapshot("../../docs/errors.md");
});
