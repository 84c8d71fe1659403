/** Child processes of programs (npm run soak, fuzz, bench …): they end with the program that started them, whatever ends it. */

import type { ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { onStop } from "../../emulator/command/terminal/signals.ts";

const running = new Set<ChildProcess>();

process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL"); // nothing here can wait for it to end by itself
});

/** `child`, which is killed when this process exits: at its end, by `process.exit()`, or by an error that nobody caught. */
export const tied = <Child extends ChildProcess>(child: Child): Child => {
  running.add(child);
  const over = (): void => void running.delete(child);
  return child.once("exit", over).once("error", () => {
    if (child.pid === undefined) over(); // it was never started
  });
};

/**
 * From now on a SIGINT, a SIGTERM or a SIGHUP exits this process, and so ends its children: by default a signal ends a process
 * without an `exit` event. For programs; a test runner has its own signals.
 */
export const exitOnSignals = (): void => {
  onStop({ stop: (signal) => process.exit(128 + constants.signals[signal]) });
};
