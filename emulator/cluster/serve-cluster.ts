/** `serveCluster()`: loads the code for several processes when it is called, as `serveApp()` does. */

import type { ClusterOptions, ClusterServer } from "./cluster.ts";

/**
 * Serves the app that `module` (a URL) exports as `app` with several processes, each of which runs the module. Resolves when all of
 * them serve. Rejects as `serveApp()` does, and with the error of a worker that cannot serve. `module` must not be the module that
 * awaits this at its top level: that would wait for itself.
 *
 * Each worker counts for itself: `maxRequests`, `maxRequestsPerAddress`, `rate` and `amplification` are limits of one worker, so with
 * four workers an address may have four times as much. Any worker may write a blob of the app's storage, always whole or not
 * at all. Only the first worker keeps lasting sessions, and dials sessions. A TLS ticket is valid in all of them.
 */
export const serveCluster = async (
  module: string | URL,
  options: ClusterOptions = {},
): Promise<ClusterServer> => (await import("./cluster.ts")).openModule(module, options);
