/** Promises and thenables from code that is not ours: told from other values, and waited for without surprises. */

import { isA, peek } from "./describe.ts";

const NATIVE = Promise.prototype.then;

/** Whether `value` has a `then` to be waited for. One whose `then` cannot be read has: to wait for it tells why. */
export const isThenable = (value: unknown): value is PromiseLike<unknown> => {
  try {
    return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
  } catch {
    return true;
  }
};

/**
 * `Promise.resolve(value).then(done, failed)`, which never throws, and calls one of the two once, whatever `value` is: a
 * thenable that throws, calls back twice or gives back nothing; a promise with a `then` of its own.
 */
export const whenSettled = <T, R>(
  value: PromiseLike<T>,
  done: (value: T) => R | PromiseLike<R>,
  failed?: (error: unknown) => R | PromiseLike<R>,
): Promise<R> => {
  try {
    if (value.then === NATIVE && (value as Promise<T>).constructor === Promise) {
      return NATIVE.call(value, done as never, failed) as Promise<R>; // the common one, without a promise more
    }
  } catch {}
  return new Promise<T>((resolve) => resolve(value)).then(done, failed);
};

/**
 * If `value` is a promise that is not awaited, since it was thrown or reported, `failed` gets its rejection; also for
 * promises in an `AggregateError`.
 */
export const disown = (value: unknown, failed: (error: unknown) => void): void => {
  if (isA(value, Promise)) whenSettled(value, () => {}, failed);
  else if (isA(value, AggregateError)) {
    const errors = peek(value, "errors");
    if (Array.isArray(errors)) for (const error of errors) if (isA(error, Promise)) disown(error, failed);
  }
};

/** Calls `call` without awaiting it; `failed` gets its error or its rejection. */
export const attempt = (call: () => unknown, failed: (error: unknown) => void): void => {
  try {
    const given = call();
    if (isThenable(given)) whenSettled(given, () => {}, failed);
  } catch (error) {
    failed(error);
  }
};
