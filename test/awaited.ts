/** Says what a test that failed was waiting for: the time-out of Vitest names only the test. */

import { onTestFailed } from "vitest";

/** Resolves as `work` does. If the test fails before, `what()` is added to its error: what it waits for, and what has come. */
export const awaited = async <T>(work: Promise<T>, what: () => string): Promise<T> => {
  let over = false;
  try {
    onTestFailed(({ task }) => {
      if (over) return;
      for (const error of task.result?.errors ?? []) error.message += `\nIt was waiting for ${what()}`;
    });
  } catch {} // there is no test: this is a hook, or a program
  try {
    return await work;
  } finally {
    over = true;
  }
};
