/** What became of a call: its code, or that it waits. */

/** The code that `promise` rejects with; where it does not, `["no error", value]`. */
export const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => ["no error", value],
    (error: { code?: string }) => error.code ?? error,
  );

/** The code that `call` throws; where it does not, `["no error", value]`. */
export const codeThrown = (call: () => unknown): unknown => {
  try {
    return ["no error", call()];
  } catch (error) {
    return (error as { code?: string }).code ?? error;
  }
};

/** Resolves when all that was promised has run, and all that is under way in memory has arrived. */
export const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** True while `promise` is not settled. */
export const waits = async (promise: Promise<unknown>): Promise<boolean> => {
  const pending = Symbol("pending");
  await settled();
  return (await Promise.race([promise.catch(() => {}), Promise.resolve(pending)])) === pending;
};
