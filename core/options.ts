/** Checks of options: a wrong one is said where it is given, and not by what it does later. */

/** The longest time that a timer holds in every runtime, in milliseconds: 24.8 days. */
export const MAX_TIMER = 2 ** 31 - 1;

const number = (name: string, value: unknown): number => {
  if (typeof value === "number") return value;
  throw new TypeError(
    `${name} must be a number, not ${typeof value === "string" ? JSON.stringify(value) : String(value)}`,
  );
};

/** `value`, where it is a time in milliseconds of at least `least`; `null` passes where it means "for ever". Else `TypeError` or `RangeError`. */
export const checkTime = <T extends number | null>(name: string, value: T, least = 1, forEver = false): T => {
  if (value === null && forEver) return value;
  const time = number(name, value);
  if (time >= least && time <= MAX_TIMER) return value;
  throw new RangeError(
    `${name} is ${least} to ${MAX_TIMER} ms${forEver ? ", or null for ever" : ""}, not ${time}`,
  );
};

/** `value`, where it is a whole number of at least `least`. Else `TypeError` or `RangeError`. */
export const checkCount = (name: string, value: number, least: number): number => {
  const count = number(name, value);
  if (Number.isInteger(count) && count >= least) return count;
  throw new RangeError(`${name} is a whole number of ${least} or more, not ${count}`);
};

/** Throws a `TypeError` where `given` has a property that is not of `known`: a name that was misspelt is heard of. */
export const checkNames = (what: string, given: object, known: readonly string[]): void => {
  const other = Object.keys(given).find((name) => !known.includes(name));
  if (other !== undefined) throw new TypeError(`${what} has no ${other}; it has ${known.join(", ")}`);
};

/** `value`, where it is one of `words`. Else `TypeError`. */
export const checkWord = <T extends string>(name: string, value: T, words: readonly T[]): T => {
  if (words.includes(value)) return value;
  throw new TypeError(
    `${name} is ${words.map((word) => `"${word}"`).join(", ")}, not ${JSON.stringify(value)}`,
  );
};
