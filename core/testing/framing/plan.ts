/** The ways to run a conversation: where it is cut, how much of it is sent, and how it ends. */

import type { Chance } from "../clock.ts";
import type { Step } from "./peer.ts";
import type { Outcome } from "./run.ts";

const ALL_PAIRS = 40; // bytes of a conversation up to which every pair of cuts is tried: 741 of them
const MOST_CUTS = 8; // of one run with random cuts
const LIKELY = 4; // bytes of a message's beginning, where a length is likely to be

/** One way to run a conversation. */
export interface Plan {
  /** The offsets at which it is cut. */
  readonly cuts: readonly number[];
  /** Whether each message waits for the answer to the one before. */
  readonly turns: boolean;
  /** Whether bytes arrive before a read waits for them, as they do in Node. */
  readonly ahead: boolean;
  /** The number of bytes that the peer sends. */
  readonly sent: number;
  readonly ending: "end" | "reset" | "flood";
  /** Whether the ending follows at once, and not when the handler waits for more. */
  readonly atOnce: boolean;
}

/** The beginning, or a message: its end in the peer's bytes, and the bytes answered by then. */
interface Turn {
  readonly end: number;
  readonly answered: number;
}

/** What the uncut conversation showed. */
export interface Lesson {
  readonly bytes: Uint8Array;
  /** The beginning, then each message. */
  readonly turns: readonly Turn[];
  readonly right: Outcome;
  /** The effects after the beginning, and after each message. */
  readonly effects: readonly unknown[];
}

/** Whether everything is sent, and the peer only ends when it is answered. */
export const isWhole = (plan: Plan, { bytes }: Lesson): boolean =>
  plan.ending === "end" && plan.sent === bytes.length && !plan.atOnce;

export const isUncut = (plan: Plan, lesson: Lesson): boolean =>
  isWhole(plan, lesson) && plan.turns && !plan.ahead && plan.cuts.length === 0;

/** Nothing is cut: each message is sent when the earlier ones are answered. */
export const uncut = (sent: number): Plan => ({
  cuts: [],
  turns: true,
  ahead: false,
  sent,
  ending: "end",
  atOnce: false,
});

/** For the message in which `sent` bytes end: its number, from 1; the number of complete ones before; whether none has begun. */
export const messageAt = (
  sent: number,
  turns: readonly Turn[],
): [number: number, done: number, isBorder: boolean] => {
  const done = turns.findLastIndex(({ end }) => end <= sent);
  const isBorder = turns[done]?.end === sent;
  return [isBorder ? done : done + 1, done, isBorder];
};

/** The length of the answer to `sent` bytes: the answers to complete messages. */
export const answeredBy = (sent: number, { turns }: Lesson): number =>
  turns.findLast(({ end }) => end <= sent)?.answered ?? 0;

/** The pieces in which the peer's bytes arrive. */
export const piecesOf = (plan: Plan, { bytes, turns }: Lesson): Uint8Array[] => {
  const borders = plan.turns ? turns.map(({ end }) => end) : [];
  const all = new Set([...plan.cuts, ...borders].filter((at) => at > 0 && at < plan.sent));
  const places = [0, ...[...all].sort((a, b) => a - b), plan.sent];
  return places.slice(1).map((to, i) => bytes.subarray(places[i], to));
};

export const stepsOf = (plan: Plan, lesson: Lesson): Step[] => {
  const { turns } = lesson;
  const steps: Step[] = [];
  /** The answer to everything before byte `at`, if a message ends there. */
  const answered = (at: number): number[] =>
    turns.flatMap((turn) => (turn.end === at ? turn.answered : [])).slice(-1);
  if (plan.turns) steps.push(...answered(0));
  let at = 0;
  for (const piece of piecesOf(plan, lesson)) {
    if (piece.length === 0) continue;
    at += piece.length;
    steps.push(piece);
    if (at < plan.sent ? plan.turns : !plan.atOnce) steps.push(...answered(at));
  }
  if (plan.ending === "flood") return steps;
  if (!plan.atOnce && !isWhole(plan, lesson)) steps.push("reading");
  return [...steps, plan.ending];
};

/** Places to cut: all of them, or `most`, half of which are where a cut is most likely to matter. */
const placesOf = ({ bytes, turns }: Lesson, most: number, chance: Chance): number[] => {
  const all = Array.from({ length: Math.max(0, bytes.length - 1) }, (_, i) => i + 1);
  if (all.length <= most) return all;
  const starts = new Set(turns.flatMap(({ end }) => Array.from({ length: LIKELY }, (_, i) => end + i)));
  const isLikely = (at: number): boolean =>
    starts.has(at) || starts.has(at + 1) || bytes[at] === NEWLINE || isContinuation(bytes[at]);
  const likely = all.filter(isLikely);
  const places = new Set<number>();
  while (places.size < most) {
    const from = places.size < most / 2 && places.size < likely.length ? likely : all;
    places.add(from[Math.floor(chance() * from.length)] as number);
  }
  return [...places].sort((a, b) => a - b);
};

export const NEWLINE = 10;

/** Whether a byte of UTF-8 continues a character. */
export const isContinuation = (byte: number | undefined): boolean =>
  byte !== undefined && (byte & 0xc0) === 0x80;

/** Plans that send everything, cut in every way. */
export function* cutPlans(lesson: Lesson, most: number, chance: Chance, pipelining: boolean): Iterable<Plan> {
  const { bytes, turns } = lesson;
  const size = bytes.length;
  if (size === 0) return;
  const plan = (cuts: readonly number[], way: { turns?: boolean; ahead?: boolean } = {}): Plan => ({
    ...uncut(size),
    cuts,
    turns: way.turns ?? !pipelining,
    ahead: way.ahead ?? false,
  });
  const places = placesOf(lesson, most, chance);
  const every = Array.from({ length: size - 1 }, (_, i) => i + 1);
  const both = pipelining && turns.length > 2; // more than one message
  yield plan([]);
  yield plan([], { ahead: true });
  for (const at of places) yield plan([at]);
  if (both) for (const at of places) yield plan([at], { turns: true });
  for (const at of places) yield plan([at], { ahead: true });
  if (size <= ALL_PAIRS) {
    for (const first of every) for (const second of every.slice(first)) yield plan([first, second]);
  }
  yield plan(every);
  if (both) yield plan(every, { turns: true });
  yield plan(every, { ahead: true });
  for (let i = 0; i < Math.min(most, size * 2) && size > 2; i++) {
    const cuts = new Set<number>();
    const wanted = 2 + Math.floor(chance() * Math.min(MOST_CUTS - 1, size - 2));
    while (cuts.size < wanted) cuts.add(every[Math.floor(chance() * every.length)] as number);
    const way = { turns: !pipelining || chance() < 0.5, ahead: chance() < 0.5 };
    yield plan(
      [...cuts].sort((a, b) => a - b),
      way,
    );
  }
}

/** Plans that send a part or everything, and then an end or a reset: at once, or when the handler waits for more. */
export function* endPlans(
  lesson: Lesson,
  most: number,
  chance: Chance,
  ending: "end" | "reset",
): Iterable<Plan> {
  const places = [...placesOf(lesson, most, chance), ...lesson.turns.map(({ end }) => end)];
  for (const sent of new Set(places.sort((a, b) => a - b))) {
    yield { ...uncut(sent), ending, atOnce: true };
    if (ending === "reset" || sent < lesson.bytes.length) yield { ...uncut(sent), ending }; // otherwise it is complete
  }
}

/** Plans that send half of a message that expects an answer, and then never end it. */
export function* floodPlans({ turns }: Lesson): Iterable<Plan> {
  for (const [i, { end, answered }] of turns.entries()) {
    const before = turns[i - 1];
    if (before === undefined || answered === before.answered) continue;
    yield { ...uncut(before.end + Math.floor((end - before.end) / 2)), ending: "flood" };
  }
}
