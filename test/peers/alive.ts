/** Which processes live. */

import { readdirSync, readFileSync } from "node:fs";

/** Whether a process lives. One that has ended, and for which its parent has not yet waited, does not. */
export const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    if (process.platform !== "linux") return true;
    const isZombie = /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
    return !isZombie || readdirSync(`/proc/${pid}/task`).length > 1; // other threads live on for a moment, and hold its ports
  } catch {
    return false;
  }
};
