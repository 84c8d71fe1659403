/** How a script fails: the error, and the text that shows the step, what differs and the conversation. */

import { dialogue, difference, hexdump, quote, type Said, utf8 } from "../text.ts";

/**
 * The peer did not follow the script. The message has the step, the difference, and both sides of the conversation
 * up to there.
 *
 * - `step`: the step's number, from 1; one more than the last if all were done.
 * - `expected`, `actual`: as text, for a test runner to show its own difference.
 * - `cause`: what broke the connection, or what the handler threw, if that is known.
 */
export class ScriptError extends Error {
  readonly step: number;
  readonly expected: string;
  readonly actual: string;

  constructor(message: string, step: number, expected: string, actual: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.step = step;
    this.expected = expected;
    this.actual = actual;
  }

  static {
    ScriptError.prototype.name = "ScriptError";
  }
}

/** What a step waits for: bytes, or a description. */
export type Wanted = Uint8Array | string;

interface Failure {
  readonly step: number;
  readonly name: string;
  readonly where: string;
  readonly why: string;
  readonly wanted: Wanted;
  readonly came: Uint8Array;
  readonly said: readonly Said[];
  readonly cause?: unknown;
}

export const scriptError = ({
  step,
  name,
  where,
  why,
  wanted,
  came,
  said: all,
  cause,
}: Failure): ScriptError => {
  const lines = [`step ${step}, ${name}: ${why}`];
  if (typeof wanted === "string") {
    lines.push(`- ${wanted}`, `+ ${came.length === 0 ? "nothing" : quote(came)}`);
    if (came.length > 0) lines.push(hexdump(came, 128).replace(/^/gm, "+ "));
  } else {
    lines.push(difference(wanted, came) ?? "");
  }
  lines.push(
    "",
    "The conversation (> the script, < its peer):",
    all.length === 0 ? "nothing was said" : dialogue(all),
  );
  const message = lines.join("\n");
  const expected = typeof wanted === "string" ? wanted : (utf8(wanted) ?? hexdump(wanted));
  const error = new ScriptError(message, step, expected, utf8(came) ?? hexdump(came), cause);
  if (where !== "") error.stack = `${error.name}: ${message}\n${where}`; // the stack of the step, where the mistake is, not of the run
  return error;
};
