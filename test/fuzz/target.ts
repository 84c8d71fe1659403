/** What is fuzzed: the shape of a target, and what several of them use. */

import fc from "fast-check";
import { replaceTimers } from "../../core/testing/clock.ts";

/** One thing that must hold for every input. To add one, write it and put it into the table of targets.ts. */
export interface Target {
  readonly name: string;
  /** What is counted. */
  readonly unit: "operations" | "inputs";
  /** It waits for a kernel: the suite does a hundredth of what it does of others. */
  readonly slow?: true;
  /** The check of random inputs; `count` is told how many operations or inputs each was. */
  property(count: (operations: number) => void): fc.IAsyncPropertyWithHooks<[unknown]>;
}

/** A target whose inputs are `inputs`; `holds` throws if one is answered wrongly, and returns how many operations it was. */
export const target = <T>(
  name: string,
  unit: Target["unit"],
  inputs: fc.Arbitrary<T>,
  holds: (input: T) => number | undefined | Promise<number | undefined>,
): Target => ({
  name,
  unit,
  property: (count) =>
    fc.asyncProperty(inputs as fc.Arbitrary<unknown>, async (input) => {
      const done = holds(input as T);
      count((done instanceof Promise ? await done : done) ?? 1);
    }),
});

/** What a failed check says, short enough to be read. */
const short = (value: unknown): string => {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 300
    ? `${text.slice(0, 200)}… (${text.length} characters, ends in ${text.slice(-60)})`
    : text;
};

/** Throws if `got` is not `wanted`: strings, numbers, booleans, null and undefined. */
export const same = (what: string, got: unknown, wanted: unknown): void => {
  if (!Object.is(got, wanted)) throw new Error(`${what}: got ${short(got)}, wanted ${short(wanted)}`);
};

/** The same of anything that JSON can say. */
export const alike = (what: string, got: unknown, wanted: unknown): void =>
  same(what, JSON.stringify(got), JSON.stringify(wanted));

/** Bytes as text, a character each: short to print, and compared at once. */
export const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");

/** The bytes of such text. */
export const bytesOf = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "latin1"));

const { setImmediate: immediate } = globalThis;

/** Resolves when all that was promised has run. */
export const settled = (): Promise<void> => new Promise((resolve) => immediate(resolve));

const FIRST = 2 ** 41; // timers have numbers above all that a platform gives

/** The platform's timers and its clock, which stand still until they are told to go on: `using timers = new Timers()`. */
export class Timers {
  now = 1000;
  #number = FIRST;
  readonly #set = new Map<number, { at: number; task: () => void }>();
  readonly #restore: () => void;

  constructor() {
    const restoreTimers = replaceTimers(null, {
      set: (name, task, ms, real) => {
        if (name !== "setTimeout") return real(task);
        this.#set.set(++this.#number, { at: this.now + ms, task });
        return this.#number;
      },
      clear: (timer) => {
        if (typeof timer !== "number" || timer <= FIRST) return false;
        this.#set.delete(timer);
        return true;
      },
    });
    const { now } = performance;
    performance.now = () => this.now;
    this.#restore = () => {
      restoreTimers();
      performance.now = now;
    };
  }

  /** `ms` later: what is due by then runs, each at its time, and what that promises. */
  async advance(ms: number): Promise<void> {
    const until = this.now + ms;
    for (;;) {
      await settled();
      const [next] = [...this.#set].sort(([, a], [, b]) => a.at - b.at);
      if (next === undefined || next[1].at > until) break;
      const [number, { at, task }] = next;
      this.#set.delete(number);
      this.now = Math.max(this.now, at);
      task();
    }
    this.now = until;
  }

  [Symbol.dispose](): void {
    this.#restore();
  }
}

/** What became of a promise; `undefined` as long as it waits. */
export class Outcome {
  value: unknown;
  code: string | undefined;
  done = false;

  constructor(promise: Promise<unknown>) {
    promise.then(
      (value) => {
        this.value = value;
        this.done = true;
      },
      (error: { code?: string }) => {
        this.code = error.code ?? String(error);
        this.done = true;
      },
    );
  }
}

/** Text that is hard on whoever cuts or decodes: line ends in every order, NUL, marks, UTF-8 whole and broken (each character a byte). */
export const nastyBytes: fc.Arbitrary<string> = fc
  .array(
    fc.oneof(
      {
        weight: 6,
        arbitrary: fc.constantFrom("\n", "\r", "\r\n", "a", "ab", "x\n", "one\n", "abcdefgh\n", ";", "ab;;"),
      },
      {
        weight: 2,
        arbitrary: fc.constantFrom(
          "\0",
          "\r\r\n",
          "\n\r",
          "aab",
          "\xef\xbb\xbf",
          "\xc3\xa9",
          "\xe2\x82\xac",
          "\xf0\x9f\x98\x80",
        ),
      },
      {
        weight: 1,
        arbitrary: fc.constantFrom(
          "\xff",
          "\xc3",
          "\xe2\x82",
          "\xf0\x9f",
          "\x80",
          "\xed\xa0\x80",
          "\xc0\x8a",
        ),
      },
      { weight: 1, arbitrary: fc.stringMatching(/^[ -~]{0,30}$/) },
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(""));
