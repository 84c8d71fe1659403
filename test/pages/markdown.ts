/** Pages as tests see them: their blocks of code, and their links. */

import { readdirSync, readFileSync } from "node:fs";

/** A block of code on a page. */
export interface Block {
  /** The page, from the repository's root. */
  readonly page: string;
  /** Where its first line of code is. */
  readonly line: number;
  readonly language: string;
  readonly code: string;
  /** The file that it is: what its first line says (`// shout.ts`), or a comment of the page before it (`<!-- file: shout.ts -->`). */
  readonly name: string | undefined;
  /** What stands before it in that file, and is not shown: what a comment of the page says (`<!-- before: import … -->`). */
  readonly before: string;
  /** What the next block, of `text`, shows as printed. */
  readonly prints: string | undefined;
}

/** All pages: what users read, and what those who work on it do. */
export const pages = (): string[] => [
  ...["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"],
  ...["docs", "docs/decisions"].flatMap((folder) =>
    readdirSync(folder)
      .filter((name) => name.endsWith(".md"))
      .map((name) => `${folder}/${name}`),
  ),
];

/** The blocks of a page, in order. */
export const blocksOf = (page: string): Block[] => {
  const text = readFileSync(page, "utf8");
  const fences = [
    ...text.matchAll(/((?:^<!-- (?:file|before):\s[\s\S]*?-->\n+)*)^```(\w+)\n([\s\S]*?)^```$/gm),
  ];
  return fences.map(([whole, comments = "", language = "", code = ""], i): Block => {
    const said = (what: string): string | undefined =>
      new RegExp(String.raw`^<!-- ${what}:\s+([\s\S]*?)\s*-->$`, "m").exec(comments)?.[1];
    const next = fences[i + 1];
    const at = (fences[i]?.index ?? 0) + whole.indexOf(`\`\`\`${language}`);
    return {
      page,
      line: text.slice(0, at).split("\n").length + 1,
      language,
      code,
      name: said("file") ?? /^(?:\/\/|#) (\S+\.\w+)\b/.exec(code)?.[1],
      before: said("before") ?? "",
      prints: next?.[2] === "text" ? next[3] : undefined,
    };
  });
};

/** Where a page's links lead that are no addresses: files, and headings of the page itself. */
export const linksOf = (page: string): string[] =>
  [...page.replace(/^```[\s\S]*?^```$/gm, "").matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link = ""]) => link)
    .filter((link) => !/^[a-z]+:/.test(link));

/** The names by which links find a page's headings, as GitHub makes them. */
export const headingsOf = (page: string): string[] =>
  [...page.replace(/^```[\s\S]*?^```$/gm, "").matchAll(/^#{1,6} (.+)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );
