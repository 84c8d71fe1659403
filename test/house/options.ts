/**
 * Every option by its name, with its type and where it is taken, read from the interfaces that `optionNamesOf` lists.
 * docs/options.md is made of it, so that a second name for one thing, or one name for two, shows in review.
 */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAst } from "rolldown/parseAst";
import { publicSurface } from "./exports.ts";

/** One option of one interface. */
export interface Option {
  readonly name: string;
  /** Its type, without `readonly`, `undefined` and `null`. */
  readonly type: string;
  /** The interface that declares it. */
  readonly of: string;
}

interface Node {
  readonly type: string;
  readonly start: number;
  readonly end: number;
}

interface Member extends Node {
  readonly key?: { readonly name?: string };
  readonly typeAnnotation?: { readonly typeAnnotation: Node };
  readonly params?: unknown;
}

interface Interface extends Node {
  readonly id: { readonly name: string };
  readonly extends: readonly { readonly expression: { readonly name?: string } }[];
  readonly body: { readonly body: readonly Member[] };
}

const sources = (): string[] =>
  ["core", "emulator", "worker"].flatMap((part) =>
    readdirSync(part, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .map((name) => readFileSync(join(part, name), "utf8")),
  );

/** All options of the public interfaces whose names are listed for `checkOptions`, and of those that they extend. */
export const allOptions = (): readonly Option[] => {
  const texts = sources();
  const exported = new Set([...publicSurface().values()].flat().map(({ name }) => name));
  const known = new Map(
    texts.flatMap((text) =>
      (parseAst(text, { lang: "ts" }).body as unknown as { declaration?: Interface }[]).flatMap(
        (statement) => {
          const declaration = statement.declaration ?? (statement as unknown as Interface);
          return declaration.type === "TSInterfaceDeclaration"
            ? [[declaration.id.name, { text, ...declaration }] as const]
            : [];
        },
      ),
    ),
  );
  const taken = new Set(["SpecOptions"]); // a part of the type SessionSpec
  const take = (name: string): void => {
    const declaration = known.get(name);
    if (declaration === undefined || taken.has(name)) return;
    taken.add(name);
    for (const { expression } of declaration.extends ?? []) take(expression.name ?? "");
  };
  for (const text of texts) {
    for (const [, name = ""] of text.matchAll(/optionNamesOf<(\w+)/g)) if (exported.has(name)) take(name);
  }
  return [...known.values()]
    .filter(({ id }) => taken.has(id.name))
    .flatMap(({ id, text, body: { body: members } }) =>
      members.flatMap(({ key, typeAnnotation }) => {
        if (key?.name === undefined) return [];
        const node = typeAnnotation?.typeAnnotation;
        const type = node === undefined ? "function" : text.slice(node.start, node.end);
        const plain = type.replace(/\s+/g, " ").replace(/ \| (undefined|null)\b/g, "");
        return [{ name: key.name, type: plain, of: id.name }];
      }),
    );
};

/** The text of docs/options.md. */
export const optionsPage = (): string => {
  const rows = new Map<string, Option[]>();
  // In an order of its own, so that moving a file changes nothing here.
  const options = [...allOptions()].sort((one, other) => (one.of < other.of ? -1 : 1));
  for (const option of options) rows.set(option.name, [...(rows.get(option.name) ?? []), option]);
  const lines = [
    "# Options",
    "",
    "Every option by its name: what it takes, and which options it belongs to. One name means one thing wherever it is taken. A time",
    "is in milliseconds, a size in bytes; `null` means without a limit. `npm run docs` writes this page from the sources, and",
    "`npm run docs:site` has the whole of each, as a reference.",
    "",
    "| option | takes | of |",
    "|---|---|---|",
  ];
  for (const [name, options] of [...rows].sort(([one], [other]) => (one < other ? -1 : 1))) {
    const byType = new Map<string, string[]>();
    for (const { type, of } of options) byType.set(type, [...(byType.get(type) ?? []), of]);
    for (const [type, of] of byType) {
      const owners = of.map((owner) => `\`${owner}\``).join(", ");
      lines.push(`| \`${name}\` | \`${type.replaceAll("|", "\\|")}\` | ${owners} |`);
    }
  }
  return `${lines.join("\n")}\n`;
};
