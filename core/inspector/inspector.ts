/** The page as routes: `inspector`. */

import type { Hono } from "hono";
import { icon, page } from "./page.ts";
import { script } from "./script.ts";
import { style } from "./style.ts";

/**
 * What the page may do: run its own script, show its own style, and ask its own origin. Nothing may frame it, no form is sent, and no text
 * becomes markup (`require-trusted-types-for`).
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const HEADERS = {
  "Content-Security-Policy": POLICY,
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Referrer-Policy": "no-referrer",
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Cache-Control": "no-store",
};

/**
 * Adds the page to the control routes, at `/inspect`: `inspector(worker.routes)`, or `workerFor(app, { inspector })`. `socklet dev` has
 * it, and `socklet serve --inspect`.
 *
 * The page itself is no secret and takes no token. All that it shows it asks of `/v1`, with the token of the user, which stands in the
 * fragment of its URL (`/inspect#token=…`), where no server and no log sees it, or is typed in.
 */
export const inspector = (routes: Hono): void => {
  for (const [path, type, text] of [
    ["/inspect", "text/html", page],
    ["/inspect/script.js", "text/javascript", script],
    ["/inspect/style.css", "text/css", style],
    ["/inspect/icon.svg", "image/svg+xml", icon],
  ] as const) {
    routes.get(path, (c) => c.body(text, 200, { ...HEADERS, "Content-Type": `${type}; charset=utf-8` }));
  }
};
