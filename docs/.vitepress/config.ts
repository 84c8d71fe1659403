/**
 * The site: the repository's Markdown pages as they are, and the reference.
 *
 * The site's root is the repository's, so every relative link works in both. README.md is the start page.
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

/** A group of the sidebar; the text of each entry is its page's title. */
const group = (text: string, pages: readonly string[]): SidebarItem => ({
  text,
  items: pages
    .filter((page) => existsSync(file(`../../${page}`)))
    .map((page) => ({ text: titleOf(page), link: `/${page.replace(/(?<=\/)index\.md$|\.md$/, "")}` })),
});

const titleOf = (page: string): string => {
  const [, title] = /^# (.+)$/m.exec(readFileSync(file(`../../${page}`), "utf8")) ?? [];
  return (title ?? page).replaceAll("`", "");
};

const reference = (): SidebarItem[] => {
  const made = file("../reference/typedoc-sidebar.json");
  if (!existsSync(made)) return [];
  const [socklet, ...others]: SidebarItem[] = JSON.parse(readFileSync(made, "utf8"));
  return [{ ...socklet, text: "socklet", collapsed: false }, ...others]; // the other entries are within it
};

const docs = (...names: string[]): string[] => names.map((name) => `docs/${name}.md`);

const description =
  "Socket servers and clients in TypeScript: handlers that run unchanged in Node, in Cloudflare Workers and in a test.";

const guide: SidebarItem[] = [
  { text: "Start", items: [{ text: "Socklet", link: "/" }] },
  group(
    "Guide",
    docs(
      "getting-started",
      "handlers",
      "developing",
      "servers",
      "dialling",
      "pools",
      "testing",
      "proxying",
      "edge",
      "runtimes",
      "deploying",
      "tls",
      "proxy-protocol",
      "production",
      "observing",
      "broadcasts",
      "sessions",
      "inspector",
      "socket-module",
    ),
  ),
  group("Coming from", docs("from-python", "from-node-net")),
  group(
    "Look up",
    docs("command-line", "errors", "options", "exports", "compared", "places", "performance", "clients"),
  ),
  group("Inside", ["ARCHITECTURE.md", "docs/decisions/index.md", "CONTRIBUTING.md", "CHANGELOG.md"]),
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
  head: [["link", { rel: "icon", href: "data:," }]], // none; else browsers ask for favicon.ico
  // Links from pages to sources, which are not part of the site.
  ignoreDeadLinks: [/\.tsx?$/],
  vite: {
    plugins: [
      {
        // Vue is installed in this folder, and pages in the folder above must find it.
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
  // llms.txt, as llmstxt.org defines it: the pages by group, each copied as Markdown; without the reference.
  buildEnd: ({ outDir, srcDir }) => {
    const lines = ["# Socklet", "", `> ${description}`];
    for (const { text, items = [] } of guide) {
      lines.push("", `## ${text}`, "");
      for (const { text: title, link = "" } of items) {
        const page = link === "/" ? "README.md" : `${link.slice(1).replace(/\/$/, "/index")}.md`;
        mkdirSync(dirname(join(outDir, page)), { recursive: true });
        copyFileSync(join(srcDir, page), join(outDir, page));
        lines.push(`- [${title}](/${page})`);
      }
    }
    writeFileSync(join(outDir, "llms.txt"), `${lines.join("\n")}\n`);
  },
  themeConfig: {
    search: {
      provider: "local",
      // A guide's page comes before the many small sections of the reference.
      options: {
        miniSearch: {
          searchOptions: { boostDocument: (id: string) => (id.startsWith("/docs/reference/") ? 0.1 : 1) },
        },
      },
    },
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
