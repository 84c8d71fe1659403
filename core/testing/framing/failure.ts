/** What a framing check finds wrong: the fault of one run, the failure that reports it, and the error with all of them. */

/**
 * What a handler can do wrong, as a word to match on:
 *
 * - `answer`: its answer is wrong, incomplete or missing.
 * - `endless`: it does not end when its peer has.
 * - `error`: it throws what it should not.
 * - `result`, `effect`: what it returns, or leaves behind, is wrong; or is from input that it did not receive.
 * - `unbounded`: it accepts a message that never ends.
 * - `read`, `write`: it reads after the end, or writes after its own.
 * - `timer`, `rejection`: it leaves a timer, or an unhandled rejection.
 */
export type FramingFault =
  | "answer"
  | "endless"
  | "error"
  | "result"
  | "effect"
  | "unbounded"
  | "read"
  | "write"
  | "timer"
  | "rejection";

/** One way in which a handler fails, shrunk to the fewest cuts that show it. */
export interface FramingFailure {
  /** The fault, as a word. */
  readonly fault: FramingFault;
  /** The fault, in one sentence. */
  readonly summary: string;
  /** The fault with the bytes that were sent, the cuts, and the difference, in text and hex. */
  readonly message: string;
  /** The offsets at which the peer's bytes were cut. */
  readonly cuts: readonly number[];
  /** The number of bytes that the peer sent. */
  readonly sent: number;
  /** What the peer did then. */
  readonly ending: "end" | "reset" | "flood";
  /** What the handler threw, or what was rejected. */
  readonly error?: unknown;
}

/** A handler does not behave as it should. The message describes each failure for a reader; `failures` has them for code. */
export class FramingError extends Error {
  readonly #failures: readonly FramingFailure[];

  constructor(message: string, failures: readonly FramingFailure[]) {
    super(message);
    this.#failures = failures;
  }

  /** Each way in which it fails. Not an own property, which would be printed after the message. */
  get failures(): readonly FramingFailure[] {
    return this.#failures;
  }

  static {
    FramingError.prototype.name = "FramingError";
  }
}

/** What a run shows to be wrong: `what`, then in which run, then `more`. */
export interface Fault {
  readonly fault: FramingFault;
  readonly what: string;
  readonly more?: string;
  readonly expected?: Uint8Array;
  readonly actual?: Uint8Array;
  readonly error?: unknown;
}

/** Timers and rejections that are left behind are reported once, whichever run shows them. */
export const LEAKS: readonly FramingFault[] = ["read", "write", "timer", "rejection"];
