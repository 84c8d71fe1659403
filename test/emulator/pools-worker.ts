/** The Worker of test/worker/pools-main.ts in a workerd that can be killed. */

import { convertV4MiniflareOptions } from "miniflare";
import { type MortalWorkerd, mortalWorkerd } from "./mortal-workerd.ts";
import { workerScript } from "./worker-script.ts";

/** The token of its control routes. */
export const TOKEN = "abcdefghijklmnop0123";

/** `bindings`: the addresses of its servers. */
export const poolsWorker = async (bindings: Record<string, unknown>): Promise<MortalWorkerd> => {
  const classes = ["SockletPool", "SockletSession", "SockletRegistry"];
  const names = ["SOCKLET_POOLS", "SOCKLET_SESSIONS", "SOCKLET_REGISTRY"];
  return mortalWorkerd(
    convertV4MiniflareOptions({
      name: "under-test",
      modules: true,
      script: await workerScript("test/worker/pools-main.ts"),
      compatibilityDate: "2026-10-01",
      compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
      durableObjects: Object.fromEntries(
        names.map((name, i) => [name, { className: classes[i] as string, useSQLite: true }]),
      ),
      bindings: { SOCKLET_TOKENS: TOKEN, ...bindings },
      unsafeDirectSockets: [{}],
    }),
    true,
  );
};
