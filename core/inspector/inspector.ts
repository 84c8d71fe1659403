/** The routes of the page. */

import type { Hono } from "hono";
import { icon, page } from "./page.ts";
import { script } from "./script.ts";
import { style } from "./style.ts";

/**
 * The page may run its own script, use its own style and call its own origin. Nothing may frame it, it submits no form, and no text
 * can become markup (`require-trusted-types-for`).
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
 * Adds the page to the control routes at `/inspect`: `inspector(worker.routes)`, or `workerFor(app, { inspector })`. `socklet dev` and
 * `socklet serve --inspect` include it.
 *
 * The page itself is not secret and needs no token. Everything that it shows it requests from `/v1` with the user's token. That is typed
 * in, or stands in the URL's fragment (`/inspect#token=…`), which no server or log sees.
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
