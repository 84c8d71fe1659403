/** A process that stands still, for the tests of its deadlines. */

export const LIMIT = 20; // ms
const TICKS = 50; // more than what is under way takes until its system call

/** Resolves where timers come before the next poll. */
export const beforeTimers = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Stands still for `ms`, in this turn of the event loop, when the calls that were begun have reached the kernel. */
export const standStill = (ms = 3 * LIMIT, ticks = TICKS): void => {
  if (ticks > 0) process.nextTick(standStill, ms, ticks - 1);
  else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
};

/** After `beforeTimers()`: resolves where a timer of `LIMIT` has gone off that was set just now, `turns` turns of the event loop ago. */
export const afterTimer = async (turns: number): Promise<void> => {
  standStill(LIMIT + 1, 0); // by then its time is up, and timers come next
  for (let turn = 0; turn < turns; turn++) await beforeTimers();
};
