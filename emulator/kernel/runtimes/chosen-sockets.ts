/** Chooses the sockets that a runtime's connections use: its own (own-sockets.ts), or those of `node:net`. */

import { runtime } from "../../runtime.ts";
import type { OwnSockets } from "./own-sockets.ts";

const SOCKETS: Readonly<Record<typeof runtime, (() => Promise<OwnSockets>) | null>> = {
  Node: null,
  Bun: async () => (await import("./bun/sockets.ts")).bunSockets,
  Deno: async () => (await import("./deno/sockets.ts")).denoSockets,
};

/** Loads the runtime's own sockets; `null` on Node, and if the environment has `SOCKLET_INTAKE=off`. */
export const ownSockets: (() => Promise<OwnSockets>) | null =
  process.env.SOCKLET_INTAKE === "off" ? null : SOCKETS[runtime];
