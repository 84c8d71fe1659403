/**
 * The ratios of every full run, in docs/performance/history.jsonl, and what a new run is slower than.
 *
 * The file has a line for each run, the oldest first. A line is only ever added. The first was read from the page of a
 * run of 2026-11-26, so its ratios have three digits at most.
 */

import { digits, type Results, RUNTIMES, versionsText } from "./report.ts";
import type { Ratio, Summary } from "./statistics.ts";

/** `[median, low, high]`; the interval is the 95 % interval of the median. */
export type PastRatio = readonly [median: number, low: number, high: number];

/** What a full run says of one program. Both ratios are to the first program of its case, in the same round. */
export interface PastProgram {
  /** By the figure of the case. */
  readonly ratio: PastRatio;
  /** CPU for one unit of work; absent where it was not measured. */
  readonly cpu?: PastRatio;
}

export interface PastCase {
  readonly title: string;
  /** What the ratio compares: more is better of a `rate`, less of all others. */
  readonly figure: Results["cases"][number]["figure"];
  /** The program that the others are compared with. */
  readonly base: string;
  readonly programs: Readonly<Record<string, PastProgram>>;
}

/** One full run: a line of the file. */
export interface PastRun {
  /** When it began: ISO 8601, UTC. */
  readonly began: string;
  /** As `git describe --always --dirty` says it. */
  readonly commit: string;
  readonly versions: Results["versions"];
  readonly machine: Results["machine"];
  readonly rounds: number;
  readonly seconds: number;
  readonly cases: Readonly<Record<string, PastCase>>;
}

const five = (value: number): number => Number(value.toPrecision(5));

const pastRatio = (ratio: Ratio | null): PastRatio | undefined =>
  ratio === null || ratio.interval === null
    ? undefined
    : [five(ratio.median), five(ratio.interval.low), five(ratio.interval.high)];

function pastProgram({ ratio, cpuRatio }: Summary): PastProgram | undefined {
  const [main, cpu] = [pastRatio(ratio), pastRatio(cpuRatio)];
  return main && { ratio: main, ...(cpu && { cpu }) };
}

/** What the history keeps of `results`: each ratio that has an interval. */
export function pastRun({ began, commit, versions, machine, rounds, seconds, cases }: Results): PastRun {
  const kept = cases.flatMap(({ name, title, figure, contenders, summaries }) => {
    const [base, ...others] = contenders;
    const programs = others.flatMap((one) => {
      const summary = summaries[one.name];
      const past = summary && pastProgram(summary);
      return past === undefined ? [] : [[one.name, past] as const];
    });
    if (base === undefined || programs.length === 0) return [];
    return [[name, { title, figure, base: base.name, programs: Object.fromEntries(programs) }] as const];
  });
  return { began, commit, versions, machine, rounds, seconds, cases: Object.fromEntries(kept) };
}

/** The runs of the file's text. Throws `SyntaxError` with the number of a line that is not JSON. */
export function readHistory(text: string): PastRun[] {
  return text.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    try {
      return [JSON.parse(line) as PastRun];
    } catch (cause) {
      throw new SyntaxError(`docs/performance/history.jsonl, line ${i + 1} is not JSON`, { cause });
    }
  });
}

/**
 * The file's text with `results` as its last line; the same text where it has them already. Throws `RangeError` for a run
 * that is not full, or that has no intervals.
 */
export function withRun(text: string, results: Results): string {
  if (!results.full) throw new RangeError("the history keeps full runs only: npm run bench -- --full");
  const run = pastRun(results);
  if (Object.keys(run.cases).length === 0)
    throw new RangeError(
      `the history keeps ratios with their intervals: run 6 rounds or more, not ${results.rounds}`,
    );
  if (readHistory(text).some(({ began }) => began === run.began)) return text;
  return `${text === "" || text.endsWith("\n") ? text : `${text}\n`}${JSON.stringify(run)}\n`;
}

// --------------------------------------------------------------------------------------------------- comparing

/** A ratio of Socklet's that is worse, or better, than it was by more than both intervals. */
export interface Change {
  readonly case: string;
  readonly title: string;
  readonly program: string;
  /** `cpu`: the CPU for one unit of work; else the figure of the case. */
  readonly of: PastCase["figure"] | "cpu";
  readonly before: PastRatio;
  readonly now: PastRatio;
}

export interface Comparison {
  readonly slower: readonly Change[];
  readonly faster: readonly Change[];
  /** How many ratios were compared. */
  readonly compared: number;
  /** Cases that were run and cannot be compared, and why. */
  readonly open: readonly string[];
}

const apart = (moreIsBetter: boolean, before: PastRatio, now: PastRatio): "slower" | "faster" | null => {
  if (now[2] < before[1]) return moreIsBetter ? "slower" : "faster";
  if (now[1] > before[2]) return moreIsBetter ? "faster" : "slower";
  return null;
};

/** Socklet's ratios in `results` beside those of `last`: what differs is what has intervals that do not overlap. */
export function compare(results: Results, last: PastRun): Comparison {
  const changes = { slower: [] as Change[], faster: [] as Change[] };
  const open: string[] = results.failed.map(({ name }) => `${name}: it failed`);
  const { cases } = pastRun(results);
  let compared = 0;
  for (const { name, title, contenders } of results.cases) {
    const [before, now] = [last.cases[name], cases[name]];
    if (now === undefined) open.push(`${name}: too few rounds for an interval`);
    else if (before === undefined) open.push(`${name}: the last full run does not have it`);
    else if (before.base !== now.base || before.figure !== now.figure)
      open.push(`${name}: the last full run compared something else`);
    if (now === undefined || before === undefined || before.base !== now.base || before.figure !== now.figure)
      continue;
    for (const { name: program, kind, label } of contenders) {
      const [was, is] = [before.programs[program], now.programs[program]];
      if (kind !== "socklet" || was === undefined || is === undefined) continue;
      for (const [of, one, other] of [
        [now.figure, was.ratio, is.ratio],
        ["cpu", was.cpu, is.cpu],
      ] as const) {
        if (one === undefined || other === undefined) continue;
        compared += 1;
        const way = apart(of === "rate", one, other);
        if (way !== null)
          changes[way].push({ case: name, title, program: label, of, before: one, now: other });
      }
    }
  }
  return { ...changes, compared, open };
}

const ratioWords = ([median, low, high]: PastRatio): string =>
  `${digits(median)} [${digits(low)}–${digits(high)}]`;

const FIGURES = {
  rate: "rate",
  p50us: "median latency",
  startMs: "time to start",
  idleKiB: "memory",
  cpu: "CPU",
} as const;

const machineWords = ({ cpu, cores, pinned }: Results["machine"]): string =>
  `${cpu}, ${cores} cores${pinned ? "" : ", not pinned"}`;

/** The comparison in words: what is slower first. */
export function comparisonText(results: Results, last: PastRun): string {
  const { slower, faster, compared, open } = compare(results, last);
  const line = ({ title, program, of, before, now }: Change): string =>
    `  ${title}, ${program}: ${FIGURES[of]} ${ratioWords(before)} → ${ratioWords(now)}`;
  const differs = [
    ...(machineWords(results.machine) === machineWords(last.machine)
      ? []
      : [`The last full run was on another machine: ${machineWords(last.machine)}.`]),
    ...(results.versions.node === last.versions.node
      ? []
      : [`The last full run was on ${versionsText({ versions: last.versions })}.`]),
  ];
  return [
    `Compared with the full run of ${last.began.slice(0, 10)} at ${last.commit}, ${RUNTIMES.node} ${last.versions.node ?? "unknown"}: ${compared} ratios.`,
    ...differs,
    slower.length === 0
      ? "Nothing is slower by more than both intervals."
      : `Slower by more than both intervals:\n${slower.map(line).join("\n")}`,
    ...(faster.length === 0 ? [] : [`Faster by more than both intervals:\n${faster.map(line).join("\n")}`]),
    ...(open.length === 0 ? [] : [`Not compared:\n${open.map((text) => `  ${text}`).join("\n")}`]),
  ].join("\n");
}
