/** Waiting for the user's code, which may never end. */

import type { MaybePromise } from "../../../core/bytes/data.ts";
import { say } from "../terminal/output.ts";

const SLOW = 3_000; // ms after which a message says what in the user's code is still running

/** Waits for `work`; throws what `failure` returns if nothing is left in this process that could complete it. */
export const orIdle = async <T>(work: MaybePromise<T>, failure: () => Error): Promise<T> => {
  const idle = Promise.withResolvers<never>();
  const emptied = (): void => idle.reject(failure());
  process.once("beforeExit", emptied);
  try {
    return await Promise.race([work, idle.promise]);
  } finally {
    process.off("beforeExit", emptied);
  }
};

/** `orIdle()`, which prints `slow()` if it takes long. */
export const awaited = async <T>(
  work: MaybePromise<T>,
  slow: () => string,
  failure: () => Error,
): Promise<T> => {
  const timer = setTimeout(() => say(slow()), SLOW);
  timer.unref(); // otherwise this timer would keep the process alive
  try {
    return await orIdle(work, failure);
  } finally {
    clearTimeout(timer);
  }
};

/** Whether anything in this process listens. */
export const listens = (): boolean =>
  process.getActiveResourcesInfo().some((name) => /^(TCPServer|PipeServer|UDP)Wrap$/.test(name));
