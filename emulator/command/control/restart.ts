/** `socklet restart`. */

import { print, printJson, UsageError } from "../terminal/output.ts";
import { allRunning, type Running, theRunning } from "./running.ts";

const LOOK = 50; // ms between two checks of the notes of running servers: a start takes half a second

/**
 * Makes a server of this user start its program again on the same sockets, and waits until the new program serves. `pid` selects the
 * server, if several run.
 */
export const restart = async (pid: number | undefined, { json }: { json?: boolean }): Promise<void> => {
  const noted = (which: number): Running | undefined => allRunning().find((one) => one.pid === which);
  const running = pid === undefined ? theRunning("its process id") : (noted(pid) ?? null);
  if (running === null) {
    const which = pid === undefined ? "none runs" : `none runs as process ${pid}`;
    throw new UsageError(`which server? Of yours with control routes ${which}; kill -USR2 restarts any`);
  }
  const before = running.pid;
  if (!running.restarts) {
    throw new Error(
      `process ${before} serves ${running.app} in workerd, which does not start anew by itself; end it, and start it again`,
    );
  }
  process.kill(before, "SIGUSR2");
  for (;;) {
    const old = noted(before); // first: the successor's note is there before this one is gone
    const successor = allRunning().find((one) => one.before === before);
    if (successor !== undefined) {
      if (json === true) return printJson({ before, pid: successor.pid, url: successor.url });
      return print(`process ${successor.pid} serves ${successor.app} in place of ${before}`);
    }
    if (old === undefined) throw new Error(`process ${before} has ended, and no other serves`);
    if (old.refused.times > running.refused.times) {
      throw new Error(`process ${before} goes on, since its new program could not start: ${old.refused.why}`);
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
};
