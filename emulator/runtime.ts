/** Which runtime this is, of those that have Node's modules. */

import { SocketError } from "../core/errors.ts";

/** Bun and Deno have `node:net` and `node:dgram`, and nothing of what Node has behind them: no handles, no libuv, no descriptors to hand on. */
export const runtime: "Node" | "Bun" | "Deno" =
  "bun" in process.versions ? "Bun" : "deno" in process.versions ? "Deno" : "Node";

/** Throws `ERR_UNSUPPORTED` for `what` where this is not Node, and says why, and what to do. */
export const neededNode = (what: string, why: string): void => {
  if (runtime === "Node") return;
  throw new SocketError("ERR_UNSUPPORTED", `${what} needs Node, and this is ${runtime}: ${why}`);
};
