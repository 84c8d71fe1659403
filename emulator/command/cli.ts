#!/usr/bin/env node

/**
 * The command `socklet`: serves an app on real sockets, dials one handler, and drives a control plane.
 *
 * Exit status: 0 success (also after a signal that drained), 1 failure (a port in use, a peer that
 * refused, a handler that threw, requests that had to be cut off), 2 wrong usage (a module that does not
 * load, an unknown handler). stderr has one line that says what is wrong, and what to do.
 */

import { program, statusOf } from "./program.ts";

process.stdout.on("error", () => {}); // its reader may leave (`| head -1`); print() reports that
process.stderr.on("error", () => {}); // the terminal may be gone; what still runs goes on to its end

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = statusOf(error);
}
process.stderr.write("", () => process.exit()); // what a handler left running does not keep the process alive alive
