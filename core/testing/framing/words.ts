/** The texts of a framing check: in which run it found a fault, what the fault was, and what the peer had sent. */

import { errorText, isA, peek, printable } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import { quote } from "../text.ts";
import { type Fault, LEAKS } from "./failure.ts";
import {
  isContinuation,
  isUncut,
  isWhole,
  type Lesson,
  messageAt,
  NEWLINE,
  type Plan,
  piecesOf,
} from "./plan.ts";

const PIECES = 8; // at most, in a report
const AROUND = 8; // bytes of hex on each side of a cut
const SHOWN = 160; // bytes of what was sent that are shown
const RETURN = 13;

export const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
  one.length === other.length && one.every((byte, i) => byte === other[i]);

export const counted = (count: number, word: string): string => `${count} ${word}${count === 1 ? "" : "s"}`;

/** A line of a stack trace outside our own code. */
export const isFrame = (line: string): boolean =>
  /^\s+at /.test(line) && !/[/\\]testing[/\\]framing/.test(line);

export const said = (error: unknown): string => printable(errorText(error), true);

/** What distinguishes errors: the code if there is one, and not the message, which contains counts of bytes. */
export const nameOf = (error: unknown): string => (isA(error, SocketError) ? error.code : said(error));

/** Whether an error came from the handler's stream: directly, as the cause of another, or as several. */
export const isOfStream = (error: unknown): boolean => {
  if (error === undefined || isA(error, SocketError)) return true;
  if (isA(error, AggregateError)) return error.errors.every(isOfStream);
  const cause = isA(error, Error) ? peek(error, "cause") : undefined;
  return cause !== undefined && isOfStream(cause);
};

/** Faults with the same key are reported once. */
export const keyOf = (plan: Plan, lesson: Lesson, { fault }: Fault): string =>
  LEAKS.includes(fault) ? fault : `${fault} ${isWhole(plan, lesson) ? "cut" : plan.ending}`;

/** A wrong answer, and how it is wrong. */
export const answerFault = (expected: Uint8Array, actual: Uint8Array, lesson: Lesson, more = ""): Fault => {
  const fault = { fault: "answer", expected, actual, more } as const;
  const order = orderOf(expected, actual, lesson);
  if (order !== null && order.missing.length > 0) {
    const [number, ...others] = order.missing;
    const to = others.length === 0 ? `message ${number} is` : `messages ${order.missing.join(", ")} are`;
    return { ...fault, what: `The answer${others.length === 0 ? "" : "s"} to ${to} missing` };
  }
  if (order !== null)
    return { ...fault, what: `The answers come in another order (${order.found.join(", ")})` };
  if (isSame(actual, expected.subarray(0, actual.length))) {
    const short = `, after ${actual.length} of ${counted(expected.length, "byte")}${more}`;
    return { ...fault, what: "The answer is cut short", more: short };
  }
  if (isSame(expected, actual.subarray(0, expected.length))) return { ...fault, what: "More is answered" };
  return { ...fault, what: "The answer is another" };
};

const MOST_ORDERED = 8; // messages whose order is searched

/** The messages whose right answers make up `actual`, and those that it lacks; `null` if it contains anything else. */
const orderOf = (
  expected: Uint8Array,
  actual: Uint8Array,
  { turns }: Lesson,
): { readonly found: number[]; readonly missing: number[] } | null => {
  const borders = turns.map(({ answered }) => answered).filter((at) => at <= expected.length);
  const start = borders[0] ?? 0;
  if (borders.length > MOST_ORDERED + 1 || !isSame(actual.subarray(0, start), expected.subarray(0, start))) {
    return null;
  }
  const answers = borders.slice(1).map((to, i) => expected.subarray(borders[i], to));
  const rest = expected.subarray(borders.at(-1)); // what is sent at the end
  const find = (at: number, left: readonly number[]): number[] | null => {
    if (isSame(actual.subarray(at), rest)) return [];
    for (const i of left) {
      const answer = answers[i] as Uint8Array;
      if (!isSame(answer, actual.subarray(at, at + answer.length))) continue;
      const others = left.filter((other) => other !== i);
      const more = find(at + answer.length, others);
      if (more !== null) return [i, ...more];
    }
    return null;
  };
  const said = [...answers.keys()].filter((i) => answers[i]?.length);
  const found = find(start, said);
  if (found === null || (found.length < said.length && found.some((i, at) => i < (found[at - 1] ?? 0))))
    return null;
  return {
    found: found.map((i) => i + 1),
    missing: said.filter((i) => !found.includes(i)).map((i) => i + 1),
  };
};

/** The difference between a run and the uncut one: "when the bytes are cut …". */
export const howOf = (plan: Plan, lesson: Lesson): string => {
  const { bytes, turns } = lesson;
  const { cuts, sent, ending, atOnce } = plan;
  const [number, , isBorder] = messageAt(sent, turns);
  const last = turns.length - 1;
  if (ending === "flood") return `when message ${number} does not end`;
  if (!isWhole(plan, lesson)) {
    const doing = ending === "end" ? "the peer ends" : "the connection is reset";
    if (sent === 0) return `when ${doing} before anything is asked`;
    if (!isBorder)
      return `when ${doing} in the middle of message ${number}, after byte ${sent} of ${bytes.length}`;
    const whole =
      number === last ? (last === 1 ? "the message" : `message ${number}, the last,`) : `message ${number}`;
    if (!atOnce) return `when ${doing} after ${whole} is answered`;
    return ending === "end"
      ? `when the peer's end follows ${whole} at once (a half-close is no close: it still reads)`
      : `when a reset follows ${whole} at once`;
  }
  if (isUncut(plan, lesson)) return "when nothing is cut";
  const ahead = plan.ahead ? ", and come before they are read" : "";
  if (cuts.length === 0) {
    return last > 1 && !plan.turns
      ? `when the ${last} messages come in one piece${ahead}`
      : "when its bytes come before they are read";
  }
  if (cuts.length === 1) return `when the bytes are cut ${placeOf(cuts[0] as number, lesson)}${ahead}`;
  if (cuts.length === bytes.length - 1) return `when every byte comes by itself${ahead}`;
  return `when the bytes are cut after bytes ${cuts.join(", ")} of ${bytes.length}${ahead}`;
};

/** Where a cut is, in words. */
const placeOf = (at: number, { bytes, turns }: Lesson): string => {
  const [number, , isBorder] = messageAt(at, turns);
  const after = `(after byte ${at} of ${bytes.length})`;
  if (isBorder) return `between messages ${number} and ${number + 1} ${after}`;
  if (bytes[at] === NEWLINE && bytes[at - 1] === RETURN)
    return `between the CR and the LF of message ${number} ${after}`;
  const char = characterAt(bytes, at);
  if (char !== null) return `inside the character ${quote(char)} of message ${number} ${after}`;
  return `in the middle of message ${number} ${after}`;
};

/** The UTF-8 character that a cut at `at` splits. */
const characterAt = (bytes: Uint8Array, at: number): string | null => {
  let from = at;
  while (from > 0 && at - from < 3 && isContinuation(bytes[from])) from--;
  const lead = bytes[from] ?? 0;
  const size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
  if (from === at || from + size <= at) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(from, from + size));
  } catch {
    return null;
  }
};

/** What the peer sent, piece by piece, and the bytes around its cuts. */
export const sentLines = (plan: Plan, lesson: Lesson, flood: number): string[] => {
  const pieces = piecesOf(plan, lesson).filter((piece) => piece.length > 0);
  const shown: string[] = [];
  let left = SHOWN;
  for (const piece of pieces.slice(0, PIECES)) {
    if (left <= 0) break;
    shown.push(quote(piece, left));
    left -= piece.length;
  }
  if (shown.length < pieces.length) shown.push(`… (${counted(pieces.length, "piece")})`);
  if (shown.length === 0) shown.push("nothing");
  const ending = { end: "the end", reset: "a reset", flood: `${flood} times "x"` }[plan.ending];
  const lines = [`The peer sent: ${shown.join(" | ")}, then ${ending}`];
  for (const at of plan.cuts.length > 2 ? [] : plan.cuts) {
    const hex = (from: number, to: number): string =>
      Array.from(lesson.bytes.subarray(Math.max(0, from), to), (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join(" ");
    lines.push(`At the cut, in hex: ${hex(at - AROUND, at)} | ${hex(at, at + AROUND)}`);
  }
  return lines;
};
