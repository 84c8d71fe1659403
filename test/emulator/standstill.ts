/** Tests of time limits, on machines where a process may stall for longer than a limit. */

/**
 * For who dials the TLS of a forking server: the handshake waits for a child, which on a busy machine may take
 * about as long to start as the defaults allow.
 */
export const AWAITING_CHILD = { connectTimeout: 120_000, stream: { handshakeTimeout: 120_000 } };

/**
 * Runs `attempt` until each wait that it passes to `timed` took less than `ms`, besides those for which it is meant to
 * last. If one took longer, this process or a child stood still, as on a busy machine, and a time limit was right to
 * cut what the test expects to go on.
 */
export const untilNothingStoodStill = async (
  ms: number,
  attempt: (timed: <T>(work: Promise<T>, lasts?: number) => Promise<T>) => Promise<void>,
): Promise<void> => {
  for (;;) {
    let longest = 0;
    const timed = async <T>(work: Promise<T>, lasts = 0): Promise<T> => {
      const began = performance.now();
      try {
        return await work;
      } finally {
        longest = Math.max(longest, performance.now() - began - lasts);
      }
    };
    try {
      return await attempt(timed);
    } catch (error) {
      if (longest < ms) throw error;
    }
  }
};
