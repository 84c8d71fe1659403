/** The tests of a table that a runtime can run: docs/runtimes.md says why. */

import { runtime } from "../../emulator/runtime.ts";

/** Forking needs Node. */
export const forks = runtime === "Node";

/** Deno's TLS is rustls, in place of OpenSSL. */
export const rustls = runtime === "Deno";

/** The rows of a table without those of forking servers, if there are none. */
export const rowsHere = <Row extends readonly [name: string, ...more: unknown[]]>(
  rows: readonly Row[],
): readonly Row[] => rows.filter(([name]) => forks || !name.includes("forking"));

/**
 * The rows of a table that this runtime can run in one process. Beside Node the sockets of a plain connection are chosen when the
 * process starts: `npm run test:runtimes` runs the tables once more with SOCKLET_INTAKE=off.
 */
export const byOneIntake = <Row extends { readonly intake?: false; readonly secure?: true }>(
  rows: readonly Row[],
): readonly Row[] => rows.filter(({ intake, secure }) => runtime === "Node" || intake !== false || secure);
