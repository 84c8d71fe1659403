import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { page } from "../../core/inspector/page.ts";
import { script } from "../../core/inspector/script.ts";
import { style } from "../../core/inspector/style.ts";
import { inspectorScript } from "./inspector.ts";

const MOST = 60 * 1024; // bytes, gzip, of all that a browser loads

test("core/inspector/script.ts is what its sources make (npm run docs writes it)", async () => {
  await expect(await inspectorScript()).toMatchFileSnapshot("../../core/inspector/script.ts");
});

test("the page is less than 60 KiB, gzip", () => {
  const size = [page, script, style].reduce((sum, text) => sum + gzipSync(text).length, 0);
  expect(size).toBeLessThan(MOST);
  expect(size).toBeGreaterThan(5_000);
});

test("the script makes no markup of text, and no code of it", () => {
  for (const way of [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "eval(",
    "new Function",
    "srcdoc",
  ])
    expect(script).not.toContain(way);
});
