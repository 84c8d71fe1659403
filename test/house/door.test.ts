/**
 * What Node does not document is used behind one door, emulator/kernel/, declared in its handles/handles.ts, and listed in
 * docs/decisions/nodes-handles.md.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAst } from "rolldown/parseAst";
import { expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const DOOR = "emulator/kernel/";

interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** All nodes of a file's syntax tree. */
const nodesOf = (path: string): Node[] => {
  const found: Node[] = [];
  const walk = (value: unknown): void => {
    if (Array.isArray(value)) for (const one of value) walk(one);
    else if (typeof value === "object" && value !== null) {
      if (typeof (value as Node).type === "string") found.push(value as Node);
      for (const one of Object.values(value)) walk(one);
    }
  };
  walk(parseAst(readFileSync(join(root, path), "utf8"), { lang: "ts" }, path));
  return found;
};

const nameOf = (key: unknown): string => {
  const { name, value } = key as { readonly name?: string; readonly value?: unknown };
  return name ?? String(value);
};

const sources = ["core", "emulator", "worker", "examples"].flatMap((part) =>
  readdirSync(join(root, part), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(part, name)),
);
const inside = sources.filter((path) => path.startsWith(DOOR));

/** What the table's first column names in code. */
const table = new Set(
  readFileSync(join(root, "docs/decisions/nodes-handles.md"), "utf8")
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .flatMap((line) =>
      [...(line.split("|")[1] as string).matchAll(/`([^`]+)`/g)].map(([, word]) => word as string),
    )
    .map((word) => word.replace(/^(process|net)\./, "")),
);

/** What handles.ts notes on Node's objects, and gives to its own. */
const OURS = new Set([
  "transport",
  "data",
  "taken",
  "give",
  "list",
  "came",
  "wrote",
  "shut",
  "address",
  "port",
  "family",
]);

/** Names in the table that are also names of what Node documents, or of what is Socklet's. */
const COMMON = new Set(
  [
    "net.Server net.Socket Socket Server dgram.Socket fd handle open listen close unref reset send shutdown binding reading",
    "accept onread onconnection onmessage oncomplete getpeername getsockname setNoDelay setKeepAlive ssl socket drain",
  ].flatMap((words) => words.split(" ")),
).add("new net.Socket()");

test("the table has all that handles.ts declares of Node", () => {
  const declared = nodesOf(`${DOOR}handles/handles.ts`)
    .filter(({ type }) => type === "TSPropertySignature" || type === "TSMethodSignature")
    .map(({ key }) => nameOf(key));
  expect(declared.length).toBeGreaterThan(20);
  expect([...new Set(declared)].filter((name) => !table.has(name) && !OURS.has(name))).toEqual([]);
});

test("the table has nothing that is not used", () => {
  const text = inside.map((path) => readFileSync(join(root, path), "utf8")).join("\n");
  expect([...table].filter((word) => !text.includes(word.replace(/^new |\(\)$/g, "")))).toEqual([]);
});

/** Core's tests of framing cannot reach through the door: they are the same in every place. The rest only looks like it. */
const ELSEWHERE: Readonly<Record<string, readonly string[]>> = {
  "core/testing/framing/watch.ts": ["_destroyed"],
  "emulator/command/completion.ts": ["_files", "_files -/"], // of zsh
};

/** The names by which a file would use it: of members and of properties, and its strings. */
const usedIn = (path: string): string[] =>
  nodesOf(path).flatMap((node) => {
    if (node.type === "MemberExpression" && node.computed === false) {
      const { type } = node.property as Node;
      const { name } = node.object as { readonly name?: string };
      const said = name === "process" ? `process.${nameOf(node.property)}` : nameOf(node.property);
      return type === "Identifier" ? [said] : []; // else #private, which is the file's own
    }
    if (node.type === "Property" || node.type === "TSPropertySignature") return [nameOf(node.key)];
    if (node.type === "TSMethodSignature") return [nameOf(node.key)];
    if (node.type === "Literal" && typeof node.value === "string") return [node.value];
    return [];
  });

const isForbidden = (name: string): boolean =>
  (table.has(name) && !COMMON.has(name)) ||
  /^_[a-z]/.test(name) ||
  ["process.binding", "internalBinding"].includes(name);

test.each(sources.filter((path) => !path.startsWith(DOOR)))("%s uses nothing of it", (path) => {
  const used = new Set(usedIn(path).filter(isForbidden));
  expect([...used]).toEqual(ELSEWHERE[path] ?? []);
});

test("what reaches behind the door is found", () => {
  const reached = new Set(inside.flatMap(usedIn).filter(isForbidden));
  for (const name of ["_handle", "_listen2", "stream_wrap", "useUserBuffer", "manualStart"]) {
    expect(reached).toContain(name);
  }
});

test("only handles.ts and the options of a socket's constructor name what Node keeps to itself", () => {
  const private_ = (path: string): string[] =>
    usedIn(path).filter(
      (name) => /^_[a-z]/.test(name) || ["binding", "stream_wrap", "udp_wrap", "state symbol"].includes(name),
    );
  expect(inside.filter((path) => private_(path).length > 0)).toEqual([`${DOOR}handles/handles.ts`]);
});
