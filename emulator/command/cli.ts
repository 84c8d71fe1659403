#!/usr/bin/env node

/**
 * The command `socklet`: serves an app on real sockets, dials one handler, and drives a control plane.
 *
 * Exit status: 0 done (also after a signal that drained), 1 it could not be done (a port in use, a peer that
 * refused, a handler that threw, requests that had to be cut off), 2 it was asked wrongly (a module that does not
 * load, an unknown handler). What is wrong is said on stderr in one line: what it is, and what to do.
 */

import { program, statusOf } from "./program.ts";

process.stdout.on("error", () => {}); // who reads it may leave (`| head -1`); print() tells
process.stderr.on("error", () => {}); // a terminal that went away; what still runs goes on to its end

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = statusOf(error);
}
process.stderr.write("", () => process.exit()); // what a handler left running does not keep the process
