/** A Worker with the objects of sessions, for a Miniflare of a test's own. */

import { convertV4MiniflareOptions } from "miniflare";

/** What such a Worker has of its own. */
interface Own {
  readonly bindings: Readonly<Record<string, unknown>>;
  /** The classes of its other objects, by binding. */
  readonly objects?: Readonly<Record<string, string>>;
  /** Whether it accepts connections. */
  readonly accepts?: boolean;
}

/** Miniflare's options for it. */
export const sessionsWorker = (script: string, { bindings, objects = {}, accepts = false }: Own) => {
  const classes = { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry", ...objects };
  return convertV4MiniflareOptions({
    name: "under-test", // its objects are kept under this
    modules: true,
    script,
    compatibilityDate: "2026-10-01",
    compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
    durableObjects: Object.fromEntries(
      Object.entries(classes).map(([name, className]) => [name, { className, useSQLite: true }]),
    ),
    bindings: bindings as Record<string, string>,
    ...(accepts && { connectHandlers: [{ protocol: "tcp" as const, port: 0 }] }),
  });
};
