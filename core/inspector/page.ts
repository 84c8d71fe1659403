/** The page's HTML, which its script fills. */

import { jsx } from "hono/jsx";

const empty = (tag: string, props: Record<string, unknown>): unknown => jsx(tag, props);

const tab = (name: string, label: string, selected: boolean) =>
  jsx(
    "button",
    {
      type: "button",
      role: "tab",
      id: `tab-${name}`,
      "aria-controls": `panel-${name}`,
      "aria-selected": String(selected),
      tabindex: selected ? "0" : "-1",
    },
    label,
  );

const panel = (name: string, hidden: boolean, ...children: unknown[]) =>
  jsx(
    "section",
    {
      role: "tabpanel",
      id: `panel-${name}`,
      "aria-labelledby": `tab-${name}`,
      ...(hidden && { hidden: true }),
    },
    ...(children as string[]),
  );

/** The page as HTML. Its URLs are relative, so that it can be mounted anywhere. */
export const page = `<!doctype html>${jsx(
  "html",
  { lang: "en" },
  jsx(
    "head",
    {},
    empty("meta", { charset: "utf-8" }) as string,
    empty("meta", { name: "viewport", content: "width=device-width, initial-scale=1" }) as string,
    empty("meta", { name: "color-scheme", content: "light dark" }) as string,
    jsx("title", {}, "Socklet inspector"),
    empty("link", { rel: "stylesheet", href: "inspect/style.css" }) as string,
    empty("link", { rel: "icon", href: "inspect/icon.svg" }) as string,
    jsx("script", { src: "inspect/script.js", type: "module" }),
  ),
  jsx(
    "body",
    {},
    jsx(
      "header",
      {},
      jsx("h1", {}, "Socklet inspector"),
      jsx(
        "div",
        { role: "tablist", "aria-label": "What is shown", id: "tabs" },
        tab("connections", "Connections", true),
        tab("listeners", "Listeners", false),
        tab("pools", "Pools", false),
        tab("faults", "Faults", false),
      ),
      jsx("div", { id: "recording" }),
      jsx("p", { id: "status", role: "status" }),
    ),
    jsx(
      "main",
      {},
      panel("connections", false, jsx("div", { id: "connections" }), jsx("div", { id: "conversation" })),
      panel("listeners", true, jsx("div", { id: "listeners" })),
      panel("pools", true, jsx("div", { id: "pools" })),
      panel("faults", true, jsx("div", { id: "faults" })),
    ),
    jsx(
      "noscript",
      {},
      "This page needs JavaScript. Its script comes from this server, and talks to no other.",
    ),
  ),
)}`;

/** A plug and its socket, 16 by 16. */
export const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#0b5394"/><circle cx="5.5" cy="8" r="1.5" fill="#fff"/><circle cx="10.5" cy="8" r="1.5" fill="#fff"/></svg>`;
