/**
 * The public surface, read from the sources: every export of every entry, with the first sentence of its doc comment.
 * docs/exports.md is made of it, so that a change of the surface shows in review.
 */

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseAst } from "rolldown/parseAst";

/** One public name. */
export interface PublicExport {
  readonly name: string;
  /** What it is: "class", "interface", "function", "const", "type". */
  readonly kind: string;
  /** The first sentence of its doc comment, or the value of a constant that needs no more; "" where it has neither. */
  readonly summary: string;
}

/** A statement of a module, as far as this looks at it. */
interface Statement {
  readonly type: string;
  readonly start: number;
  readonly source?: { readonly value: string } | null;
  readonly specifiers?: readonly { readonly local: { name: string }; readonly exported: { name: string } }[];
  readonly exported?: unknown;
  readonly declaration?: Declaration | null;
}

interface Declaration {
  readonly type: string;
  readonly id?: { readonly name: string };
  readonly declarations?: readonly {
    readonly id: { readonly name: string };
    readonly init: { readonly type: string; readonly start: number; readonly end: number } | null;
  }[];
}

const root = join(import.meta.dirname, "../..");

const KINDS: Readonly<Record<string, string>> = {
  ClassDeclaration: "class",
  FunctionDeclaration: "function",
  TSDeclareFunction: "function",
  TSInterfaceDeclaration: "interface",
  TSTypeAliasDeclaration: "type",
};

/** Values that say all there is to say of a constant: AF_INET is 2. */
const CONSTANTS = new Set(["Literal", "UnaryExpression"]);

/** The first sentence of the doc comment that ends just before `end`. */
const summaryBefore = (source: string, end: number): string => {
  const comment =
    /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\s*(?:\/\/[^\n]*\n\s*)*$/.exec(source.slice(0, end))?.[1] ?? "";
  const text = comment
    .replace(/^\s*\*? ?/gm, "")
    .split(/\n\s*\n|\n(?=[-@|])/)[0]
    ?.replace(/\s+/g, " ")
    .trim();
  return /^.*?\.(?= |$)/.exec(text ?? "")?.[0] ?? text ?? "";
};

const modules = new Map<string, ReadonlyMap<string, PublicExport>>();

/** What the module at `path` exports, by name. */
const exportsOf = (path: string): ReadonlyMap<string, PublicExport> => {
  const known = modules.get(path);
  if (known !== undefined) return known;
  const source = readFileSync(path, "utf8");
  const found = new Map<string, PublicExport>();
  modules.set(path, found);
  for (const statement of parseAst(source, { lang: "ts" }, path).body as unknown as Statement[]) {
    const { declaration, source: from, start } = statement;
    if (from && statement.type.startsWith("Export")) {
      const others = exportsOf(join(dirname(path), from.value));
      const pairs =
        statement.type === "ExportAllDeclaration"
          ? [...others.keys()].map((name) => [name, name])
          : (statement.specifiers ?? []).map(({ local, exported }) => [local.name, exported.name]);
      for (const [local, exported] of pairs as [string, string][]) {
        const other = others.get(local);
        if (other === undefined) throw new Error(`${path} exports ${local}, which ${from.value} does not`);
        found.set(exported, { ...other, name: exported });
      }
    } else if (declaration && statement.type === "ExportNamedDeclaration") {
      const summary = summaryBefore(source, start);
      const add = (name: string, kind: string, otherwise = ""): void => {
        if (found.get(name)?.summary) return; // a further signature of one that is overloaded
        found.set(name, { name, kind, summary: summary || otherwise });
      };
      for (const { id, init } of declaration.declarations ?? []) {
        const value = init !== null && CONSTANTS.has(init.type) ? source.slice(init.start, init.end) : "";
        add(id.name, init?.type === "ArrowFunctionExpression" ? "function" : "const", value);
      }
      if (declaration.id) add(declaration.id.name, KINDS[declaration.type] ?? declaration.type);
    }
  }
  return found;
};

/** The entries of package.json, with what each exports, by name. */
export const publicSurface = (): ReadonlyMap<string, readonly PublicExport[]> => {
  const { name, exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const entries = Object.entries<{ "socklet:source"?: string }>(exports).flatMap(([entry, to]) => {
    const source = to["socklet:source"];
    if (source === undefined) return [];
    const list = [...exportsOf(join(root, source)).values()];
    return [[join(name, entry), list.sort((one, other) => (one.name < other.name ? -1 : 1))] as const];
  });
  return new Map(entries);
};

/** The text of docs/exports.md. */
export const exportsPage = (): string => {
  const lines = [
    "# Exports",
    "",
    "Every public name, by the entry that exports it. `npm run docs:site` has the whole of each, as a reference.",
    "`npm run docs` writes this page from the sources.",
  ];
  for (const [entry, list] of publicSurface()) {
    lines.push("", `## \`${entry}\``, "");
    for (const { name, kind, summary } of list) lines.push(`- \`${name}\` (${kind}): ${summary}`);
  }
  return `${lines.join("\n")}\n`;
};
