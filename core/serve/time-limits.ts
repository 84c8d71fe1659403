/** The time limits of a request: how long it may take, and how long its connection may carry no bytes. */

import { deadline } from "../bytes/alarm.ts";
import { MAX_TIMER } from "../options.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { ABORT_GRACE, bytesOf, type Running } from "./requests.ts";

/** The limits, in milliseconds; `null` if there is none. */
interface TimeLimits {
  readonly requestTimeout: number | null;
  readonly idleTimeout: number | null;
  /** Whether the timers keep the process running. */
  readonly daemonThreads: boolean;
}

/**
 * Checks from time to time whether `request` takes too long or carries no bytes. If so it calls `expire` once, and `stuck` a second
 * later. `running.stopTimer` ends that.
 */
export const watchTime = (
  request: unknown,
  running: Running,
  { requestTimeout, idleTimeout: most, daemonThreads }: TimeLimits,
  expire: (limit: "requestTimeout" | "idleTimeout") => void,
  stuck: () => void,
): void => {
  const idleTimeout = request instanceof StreamSocket ? most : null;
  const step = idleTimeout === null ? MAX_TIMER : idleTimeout / 2;
  let carried = -1; // bytes, at the last check
  let quiet = 0; // checks in a row that found no more
  const wait = (time: number, then: (now: number) => void): void => {
    running.stopTimer = deadline(time, then, { daemon: daemonThreads });
  };
  const look = (now: number): void => {
    const left = requestTimeout === null ? MAX_TIMER : requestTimeout - (now - running.started);
    const { bytesRead, bytesWritten } = bytesOf(request);
    quiet = bytesRead + bytesWritten === carried ? quiet + 1 : 0;
    carried = bytesRead + bytesWritten;
    if (left <= 0) expire("requestTimeout");
    else if (idleTimeout !== null && quiet >= 2) expire("idleTimeout");
    else {
      wait(Math.max(Math.min(step, left), 1), look);
      return;
    }
    wait(ABORT_GRACE, stuck);
  };
  look(performance.now());
};
