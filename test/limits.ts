/**
 * How long a test may take, in ms, for every Vitest configuration: far above what any test takes, so that a machine that is busy
 * with something else fails none. What waits for ever is found all the same. No test has a limit of its own: it would be one
 * that fits some machine.
 */
export const limits = {
  testTimeout: 300_000,
  hookTimeout: 300_000,
  teardownTimeout: 60_000,
  expect: { poll: { timeout: 60_000 } }, // 1 s by default. `vi.waitFor` has no such setting: tests use `expect.poll`
};
