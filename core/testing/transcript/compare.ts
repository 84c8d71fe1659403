/** Comparing transcripts: whether two show the same conversation, and where they differ. */

import { joinBytes } from "../../bytes/data.ts";
import { checkOptions, optionNamesOf } from "../../options.ts";
import { dialogue, difference, normalised, quote, type Said } from "../text.ts";
import {
  parseTranscript,
  type Side,
  apart as streamsOf,
  type Transcript,
  type TranscriptEvent,
  whole,
} from "./form.ts";

/**
 * Makes texts equal that differ only where they may: replaces a date, an id. It gets each line with its
 * end, and lines that become empty are ignored; for bytes that are not text it gets a whole turn, as
 * latin1 (a character per byte).
 */
export type Normalise = (text: string, from: Side) => string;

/** Two transcripts are not of the same conversation. `expected` and `actual` are both in full, for a test runner's own difference. */
export class TranscriptError extends Error {
  readonly expected: string;
  readonly actual: string;

  constructor(message: string, expected: string, actual: string) {
    super(message);
    this.expected = expected;
    this.actual = actual;
  }

  static {
    TranscriptError.prototype.name = "TranscriptError";
  }
}

/** Options of a comparison. */
export interface CompareOptions {
  /** What may differ. */
  readonly normalise?: Normalise;
  /** Compares what each side sent, and not which side spoke first: for peers that speak at the same time, as in a pipeline. Default false. */
  readonly apart?: boolean;
}

const COMPARE_NAMES = optionNamesOf<CompareOptions>("a comparison")({
  normalise: "function",
  apart: "boolean",
});

/** One turn of a conversation: everything that one end sent before the other did. */
type Turn = Said;

const NAMES = { client: "C:", server: "S:" } as const;

/** The turns: pieces joined, times dropped; and the sides that left at the very end. */
const turnsOf = (
  { kind, events: all }: Transcript,
  { normalise, apart = false }: CompareOptions,
): { turns: Turn[]; ends: Turn[] } => {
  const events = all.filter((event) => !("fault" in event)); // faults are not part of the conversation
  const turns: Turn[] = [];
  let parts: Uint8Array[] = [];
  let from: Side = "client";
  let peer = 1;
  const speak = (): void => {
    if (parts.length === 0) return;
    const whole = joinBytes(
      parts,
      parts.reduce((sum, { length }) => sum + length, 0),
    );
    parts = [];
    const who = peer === 1 ? NAMES[from] : `${NAMES[from].slice(0, 1)}${peer}:`;
    turns.push({
      who,
      what: normalise === undefined ? whole : normalised(whole, (text) => normalise(text, from)),
    });
  };
  const last = events.findLastIndex((event) => !("end" in event));
  const body = events.slice(0, last + 1);
  const isClient = (event: TranscriptEvent): boolean => !("from" in event) || event.from === "client";
  const ordered = apart ? [...body.filter(isClient), ...body.filter((event) => !isClient(event))] : body;
  for (const event of ordered) {
    if ("data" in event) {
      if (event.from !== from || (event.peer ?? 1) !== peer || kind === "datagrams") speak();
      ({ from } = event);
      peer = event.peer ?? 1;
      parts.push(event.data);
    } else {
      speak();
      turns.push(
        "tls" in event ? { who: "--", what: "TLS from here" } : { who: NAMES[event.from], what: "end" },
      );
    }
  }
  speak();
  const ends = new Map<Side, Turn>();
  for (const event of events.slice(last + 1)) {
    if (!("end" in event) || ends.has(event.from)) continue;
    ends.set(event.from, { who: NAMES[event.from], what: event.end === "reset" ? "reset" : "end" });
  }
  return { turns, ends: [...ends.values()] };
};

/**
 * Whether two conversations ended alike. A side that has closed does not learn whether the other does, and two closes at the same
 * time may be seen in either order: so one side that left in both is enough. But a reset must be in both, or in neither.
 */
const sameEnds = (some: readonly Turn[], others: readonly Turn[]): boolean => {
  if (some.length === 0 || others.length === 0) return some.length === others.length;
  const same = some.filter((one) => others.some(({ who, what }) => who === one.who && what === one.what));
  const isReset = ({ what }: Turn): boolean => what === "reset";
  return some.some(isReset) || others.some(isReset) ? same.some(isReset) : same.length > 0;
};

const describeTurn = ({ who, what }: Turn): string =>
  `${who} ${typeof what === "string" ? `(${what})` : quote(what, 64)}`;

/** The difference between two transcripts, for a reader; `null` if there is none. Times and pieces do not count. Throws `ERR_LIMIT` if one is incomplete. */
export const compareTranscripts = (
  actual: Transcript,
  expected: Transcript,
  options: CompareOptions = {},
): TranscriptError | null => {
  checkOptions("a comparison", options, COMPARE_NAMES);
  if (actual.kind === "stream" && expected.kind === "stream")
    return compareStreams(actual, expected, options);
  return compareOne(actual, expected, options);
};

/** Compares each connection of one recording with the one of the same number: their order does not count. */
const compareStreams = (
  actual: Transcript,
  expected: Transcript,
  options: CompareOptions,
): TranscriptError | null => {
  const came = streamsOf(whole(actual));
  const wanted = streamsOf(whole(expected));
  for (const [i, one] of wanted.entries()) {
    const other = came[i];
    const error =
      other === undefined
        ? new TranscriptError(`there are ${came.length} connections, not ${wanted.length}`, "", "")
        : compareOne(other, one, options);
    if (error === null) continue;
    if (wanted.length === 1) return error;
    return new TranscriptError(`connection ${i + 1}: ${error.message}`, error.expected, error.actual);
  }
  if (came.length <= wanted.length) return null;
  return new TranscriptError(`there are ${came.length} connections, not ${wanted.length}`, "", "");
};

const compareOne = (
  actual: Transcript,
  expected: Transcript,
  options: CompareOptions,
): TranscriptError | null => {
  const came = turnsOf(whole(actual), options);
  const wanted = turnsOf(whole(expected), options);
  const wrong = (at: number, differs: string): TranscriptError => {
    const before = at === 0 ? "nothing was said" : dialogue(came.turns.slice(0, at));
    return new TranscriptError(
      `turn ${at + 1} is another than in the transcript\n${differs}\n\nThe conversation before it (C: the client, S: the server):\n${before}`,
      dialogue([...wanted.turns, ...wanted.ends]),
      dialogue([...came.turns, ...came.ends]),
    );
  };
  /** The turn, or in its place how the side ended. */
  const at = ({ turns, ends }: typeof came, i: number): string => {
    const turn = turns[i];
    if (turn !== undefined) return describeTurn(turn);
    return ends.length === 0 ? "no more was said" : ends.map(describeTurn).join(", ");
  };
  const most = Math.max(came.turns.length, wanted.turns.length);
  for (let i = 0; i < most; i++) {
    const [one, other] = [wanted.turns[i], came.turns[i]];
    if (one?.who === other?.who && one?.what === other?.what) continue;
    if (one?.who === other?.who && one?.what instanceof Uint8Array && other?.what instanceof Uint8Array) {
      const differs = difference(one.what, other.what);
      if (differs !== null) return wrong(i, differs);
    } else {
      return wrong(i, `- ${at(wanted, i)}\n+ ${at(came, i)}`);
    }
  }
  return sameEnds(wanted.ends, came.ends) ? null : wrong(most, `- ${at(wanted, most)}\n+ ${at(came, most)}`);
};

/**
 * Throws a `TranscriptError` if `actual` is not the same conversation as `expected` (a transcript, or its JSON
 * Lines). Times and pieces do not count. For `node:test`, and everywhere else without matchers.
 */
export const assertTranscript = (
  actual: Transcript,
  expected: Transcript | string,
  options: CompareOptions = {},
): void => {
  const error = compareTranscripts(
    actual,
    typeof expected === "string" ? parseTranscript(expected) : expected,
    options,
  );
  if (error !== null) throw error;
};
