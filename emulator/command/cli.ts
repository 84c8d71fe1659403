#!/usr/bin/env node

/**
 * The command `socklet`: serves an app on real sockets, dials one handler, and drives a control plane.
 *
 * Exit status: 0 success (also after a signal that drained), 1 failure (a port in use, a peer that
 * refused, a handler that threw, requests that had to be cut off), 2 wrong usage (a module that does not
 * load, an unknown handler). stderr has one line that says what is wrong, and what to do.
 */

process.stdout.on("error", () => {}); // its reader may leave (`| head -1`); print() reports that
process.stderr.on("error", () => {}); // the terminal may be gone; what still runs goes on to its end

// Compiling is half of a start, so V8's code is kept for the next one. It is kept in the user's own folder: whoever could write to
// a shared one could have this process run other code. Not for `dev`, which loads the app's files under new names at each save.
// This file imports nothing, because what it imports would be compiled before.
const { HOME, XDG_CACHE_HOME: cache = HOME && `${HOME}/.cache` } = process.env;
if (cache && process.argv[2] !== "dev") {
  process.getBuiltinModule("node:module").enableCompileCache?.(`${cache}/socklet`);
}

const { program, statusOf } = await import("./program.ts");
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = statusOf(error);
}
process.stderr.write("", () => process.exit()); // what a handler left running does not keep the process alive
