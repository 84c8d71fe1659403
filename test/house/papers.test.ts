/** What pages say of the tree is true. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const papers = [
  "ARCHITECTURE.md",
  "CONTRIBUTING.md",
  "docs/places.md",
  "docs/compared.md",
  "docs/observing.md",
  ...readdirSync("docs/decisions").map((name) => `docs/decisions/${name}`),
];

test.each(papers)("every file that %s names is there", (paper) => {
  const named = readFileSync(paper, "utf8").matchAll(
    /`((?:core|emulator|worker|test|examples|docs)\/[\w./-]*)`/g,
  );
  const missing = [...named]
    .map(([, path]) => path as string)
    .filter((path) => !path.includes("NAME") && !path.endsWith("/dist") && !existsSync(path));
  expect(missing).toEqual([]);
});

test("every function that ARCHITECTURE.md names beside a file is in that file", () => {
  const named = readFileSync("ARCHITECTURE.md", "utf8").matchAll(
    /`([\w/-]+\/[\w.-]+\.ts)` \(((?:`[#\w]+`(?:, )?)+)[:)]/g,
  );
  const functions = [...named].flatMap(([, path = "", names = ""]) =>
    names.split(", ").map((name) => ({ path, name: name.replaceAll("`", "") })),
  );
  expect(functions.length).toBeGreaterThan(10);
  const missing = functions.filter(
    ({ path, name }) => !new RegExp(`(?<![\\w#])${name}\\b`).test(readFileSync(path, "utf8")),
  );
  expect(missing).toEqual([]);
});

test("README.md has at most 90 lines: what is longer stands in docs/", () => {
  expect(readFileSync("README.md", "utf8").split("\n").length - 1).toBeLessThanOrEqual(90);
});

test("every page of docs/ is in the site's sidebar, once, and in README.md", () => {
  const config = readFileSync("docs/.vitepress/config.ts", "utf8");
  const names = readdirSync("docs").filter((name) => name.endsWith(".md"));
  const listed = names.map((name) => config.split(`"${name.slice(0, -3)}"`).length - 1);
  expect(names.filter((_, i) => listed[i] !== 1)).toEqual([]);
  const readme = readFileSync("README.md", "utf8");
  expect(names.filter((name) => !readme.includes(`(docs/${name})`))).toEqual([]);
});

test("the list of decisions has each of them", () => {
  const list = readFileSync("docs/decisions/index.md", "utf8");
  const files = readdirSync("docs/decisions").filter((name) => name !== "index.md");
  expect(files.filter((name) => !list.includes(`(${name})`))).toEqual([]);
});
