/** Whatever a source exports is imported somewhere, or it does not need its `export`: a reader of the file may rely on that. */

import { globSync, readFileSync } from "node:fs";
import { join, normalize } from "node:path";
import { parseAst } from "rolldown/parseAst";
import { expect, test } from "vitest";

/** What is read of a statement of a module. */
interface Statement {
  readonly type: string;
  readonly source?: { readonly value: string } | null;
  readonly specifiers?: readonly { readonly imported?: Name; readonly local?: Name }[];
  readonly declaration?: {
    readonly id?: Name;
    readonly declarations?: readonly { readonly id: Name }[];
  } | null;
}

/** One name, or those that a pattern takes apart. */
interface Name {
  readonly name?: string;
  readonly properties?: readonly { readonly value: Name }[];
  readonly elements?: readonly Name[];
}

const namesOf = ({ name, properties = [], elements = [] }: Name): string[] =>
  name === undefined ? [...properties.map(({ value }) => value), ...elements].flatMap(namesOf) : [name];

const root = join(import.meta.dirname, "../..");

const files = ["core", "emulator", "worker", "examples", "test"]
  .flatMap((part) =>
    // A test that runs at the same time saves another in test/peers/saved-…, and removes it: that may go between two looks.
    globSync("**/*.ts", {
      cwd: join(root, part),
      exclude: (name) => /(^|\/)(node_modules$|saved-)/.test(name),
    })
      .filter((name) => !/^templates\//.test(name)) // a new project's
      .map((name) => join(part, name)),
  )
  .concat("dev.ts");

/** What programs load that no file here imports: the entries of the package and of wrangler.toml, and what a tool loads by its path. */
const LOADED =
  /^(examples|test)\/|^(core|core\/(control|inspector|testing)|emulator|emulator\/otel|worker)\/index\.ts$|^worker\/main\.ts$/;

const exported = new Map<string, string[]>(); // by file
const taken = new Set<string>(); // `file name`, or `file *` for all of it
const onDemand = new Map<string, string[]>(); // a file, and the texts of those that load it by import()

for (const path of files) {
  const text = readFileSync(join(root, path), "utf8");
  const at = (from: string): string => normalize(join(path, "..", from));
  for (const { type, source, specifiers = [], declaration } of parseAst(text, { lang: "ts" }, path)
    .body as unknown as Statement[]) {
    if (source?.value.startsWith(".")) {
      const from = at(source.value);
      if (type === "ExportAllDeclaration") taken.add(`${from} *`);
      for (const { imported, local } of specifiers)
        taken.add(`${from} ${(type === "ImportDeclaration" ? imported : local)?.name ?? "*"}`);
    } else if (type === "ExportNamedDeclaration" && declaration) {
      const { id, declarations = id ? [{ id }] : [] } = declaration;
      const names = declarations.flatMap((one) => namesOf(one.id));
      exported.set(path, [...(exported.get(path) ?? []), ...names]);
    }
  }
  for (const [, from = ""] of text.matchAll(/\bimport\(\s*"(\.[^"]+)"/g))
    onDemand.set(at(from), [...(onDemand.get(at(from)) ?? []), text]);
}

test("every export is imported by another file", () => {
  const unused = [...exported].flatMap(([path, names]) =>
    LOADED.test(path) || taken.has(`${path} *`)
      ? []
      : names
          .filter((name) => !taken.has(`${path} ${name}`))
          .filter((name) => !onDemand.get(path)?.some((text) => new RegExp(`\\b${name}\\b`).test(text)))
          .map((name) => `${path}: ${name}`),
  );
  expect(exported.size).toBeGreaterThan(200); // it has read them
  expect(unused).toEqual([]);
});
