/**
 * The site of these pages: what is Markdown in the repository, as it stands, and the reference beside it.
 *
 * The root of the site is the repository's, so every relative link is the same in both. README.md is its first page.
 */

import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitepress";

interface SidebarItem {
  text: string;
  link?: string;
  collapsed?: boolean;
  items?: SidebarItem[];
}

const file = (path: string): URL => new URL(path, import.meta.url);

const here = fileURLToPath(file("../"));

/** Pages of one group, as the sidebar lists them; the text is each page's own title. */
const group = (text: string, pages: readonly string[]): SidebarItem => ({
  text,
  items: pages
    .filter((page) => existsSync(file(`../../${page}`)))
    .map((page) => ({ text: titleOf(page), link: `/${page.replace(/\.md$/, "")}` })),
});

const titleOf = (page: string): string => {
  const [, title] = /^# (.+)$/m.exec(readFileSync(file(`../../${page}`), "utf8")) ?? [];
  return (title ?? page).replaceAll("`", "");
};

const reference = (): SidebarItem[] => {
  const made = file("../reference/typedoc-sidebar.json");
  return existsSync(made) ? JSON.parse(readFileSync(made, "utf8")) : [];
};

const docs = (...names: string[]): string[] => names.map((name) => `docs/${name}.md`);

const description =
  "Socket handlers in the manner of Python's socketserver, in Node, Cloudflare Workers and memory.";

const guide: SidebarItem[] = [
  { text: "Start", items: [{ text: "Socklet", link: "/" }] },
  group(
    "Guide",
    docs(
      "handlers",
      "servers",
      "broadcasts",
      "broadcasts",
      "dialling",
      "socket-module",
      "sessions",
      "testing",
      "deploying",
    ),
  ),
  group("Coming from", docs("from-python", "from-node-net")),
  group("Look up", docs("command-line", "errors", "exports", "places", "performance", "clients")),
  group("Inside", ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"]),
];

export default defineConfig({
  title: "Socklet",
  description,
  srcDir: "..",
  outDir: ".vitepress/dist",
  cacheDir: ".vitepress/cache",
  srcExclude: ["**/node_modules/**", "test/**", "dist/**", ".*/**", "examples/**"],
  rewrites: { "README.md": "index.md" },
  cleanUrls: true,
  lastUpdated: false,
  // A link from a page to a source: the sources are not part of the site.
  ignoreDeadLinks: [/\.tsx?$/],
  vite: {
    plugins: [
      {
        // Vue is installed here, and pages in the folder above must find it, too.
        name: "vue-of-this-folder",
        enforce: "pre",
        resolveId(source, importer, options) {
          if (!/^vue($|\/)/.test(source)) return null;
          if (options.ssr) return { id: source, external: true };
          if (importer?.startsWith(here)) return null;
          return this.resolve(source, join(here, "package.json"), { ...options, skipSelf: true });
        },
      },
    ],
  },
  // llms.txt, by the form of llmstxt.org: the pages by group, each beside its Markdown, without the reference.
  buildEnd: ({ outDir, srcDir }) => {
    const lines = ["# Socklet", "", `> ${description}`];
    for (const { text, items = [] } of guide) {
      lines.push("", `## ${text}`, "");
      for (const { text: title, link = "" } of items) {
        const page = link === "/" ? "README.md" : `${link.slice(1)}.md`;
        mkdirSync(dirname(join(outDir, page)), { recursive: true });
        copyFileSync(join(srcDir, page), join(outDir, page));
        lines.push(`- [${title}](/${page})`);
      }
    }
    writeFileSync(join(outDir, "llms.txt"), `${lines.join("\n")}\n`);
  },
  themeConfig: {
    search: { provider: "local" },
    outline: { level: [2, 3] },
    nav: [
      { text: "Guide", link: "/docs/handlers" },
      { text: "Reference", link: "/docs/reference/" },
    ],
    sidebar: {
      "/docs/reference/": [{ text: "Reference", items: reference() }],
      "/": guide,
    },
  },
});
