/** What a framing check finds wrong: the fault of one run, the failure that is told of it, and the error with all of them. */

/**
 * What a handler can do wrong, as a word to match on:
 *
 * - `answer`: it answers something else, or not all, or nothing.
 * - `endless`: it does not end when its peer has.
 * - `error`: it throws what it should not.
 * - `result`, `effect`: what it returns, or leaves behind, is another; or of what it did not get.
 * - `unbounded`: it takes a message that has no end.
 * - `read`, `write`: it reads after the end, or writes after its own.
 * - `timer`, `rejection`: it leaves a timer, or a rejected promise that nobody sees.
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
  /** What is wrong, as a word. */
  readonly fault: FramingFault;
  /** What is wrong, in one sentence. */
  readonly summary: string;
  /** The same with what was sent, where it was cut, and what differs, in text and hex. */
  readonly message: string;
  /** Before which bytes the peer's were cut. */
  readonly cuts: readonly number[];
  /** How many bytes the peer sent. */
  readonly sent: number;
  /** What it did then. */
  readonly ending: "end" | "reset" | "flood";
  /** What the handler threw, or what was rejected. */
  readonly error?: unknown;
}

/** A handler does not do as it should. The message has each way in which it fails, to be read; `failures` to be asked. */
export class FramingError extends Error {
  readonly #failures: readonly FramingFailure[];

  constructor(message: string, failures: readonly FramingFailure[]) {
    super(message);
    this.#failures = failures;
  }

  /** Each way in which it fails; no property of its own, which would be printed behind the message. */
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

/** What is left behind is told once, in whichever run it is seen. */
export const LEAKS: readonly FramingFault[] = ["read", "write", "timer", "rejection"];
