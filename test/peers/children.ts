/** Child processes and temporary folders of programs (npm run soak, fuzz, bench …): they go with the program that made them, whatever ends it. */

import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { onStop } from "../../emulator/command/terminal/signals.ts";

const running = new Set<ChildProcess>();
const folders = new Set<string>();

process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL"); // nothing here can wait for it to end by itself
  removeFolders();
});

/** Removes a folder, to which a process that is just ending may still write. */
const remove = (folder: string): void =>
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });

/** A folder that goes when it is removed, or when this process exits. */
export interface TemporaryFolder {
  readonly path: string;
  remove(): void;
}

/** Makes a folder, whose name begins with `socklet-NAME-`, among the system's temporary files. */
export const temporaryFolder = (name: string): TemporaryFolder => {
  const path = mkdtempSync(join(tmpdir(), `socklet-${name}-`));
  folders.add(path);
  return {
    path,
    remove() {
      remove(path);
      folders.delete(path);
    },
  };
};

/** Removes all folders. For a test that loads such a program: the process of a test file ends without an `exit` event. */
export const removeFolders = (): void => {
  for (const folder of folders) remove(folder);
  folders.clear();
};

/** `child`, which is killed when this process exits: at its end, by `process.exit()`, or by an uncaught error. */
export const tied = <Child extends ChildProcess>(child: Child): Child => {
  running.add(child);
  const over = (): void => void running.delete(child);
  return child.once("exit", over).once("error", () => {
    if (child.pid === undefined) over(); // it was never started
  });
};

/**
 * From now on a SIGINT, a SIGTERM or a SIGHUP exits this process, and so ends its children and removes its folders: by default
 * a signal ends a process without an `exit` event. For programs; a test runner has its own signals.
 */
export const exitOnSignals = (): void => {
  onStop({ stop: (signal) => process.exit(128 + constants.signals[signal]) });
};
