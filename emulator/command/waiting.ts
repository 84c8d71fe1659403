/** Waiting for the user's code, which may never end. */

import type { MaybePromise } from "../../core/bytes/data.ts";
import { say } from "./output.ts";

const SLOW = 3_000; // ms after which it is said what of the user's code is still waited for

/** Waits for `work`; throws what `failure` gives where nothing is left in this process that could end it. */
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

/** `orIdle()`, and says `slow()` where it takes long. */
export const awaited = async <T>(
  work: MaybePromise<T>,
  slow: () => string,
  failure: () => Error,
): Promise<T> => {
  const timer = setTimeout(() => say(slow()), SLOW);
  timer.unref(); // else it would not be seen that nothing is left
  try {
    return await orIdle(work, failure);
  } finally {
    clearTimeout(timer);
  }
};

/** Whether something in this process listens. */
export const listens = (): boolean =>
  process.getActiveResourcesInfo().some((name) => /^(TCPServer|PipeServer|UDP)Wrap$/.test(name));
