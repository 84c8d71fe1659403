/** What the rounds of a case say: medians, ratios within a round, their intervals, and whether a goal is met. */

import type { BenchCase, Contender, Figure, Goal } from "./cases.ts";

export interface Interval {
  readonly low: number;
  readonly high: number;
  /** How sure it is, from the binomial distribution: at least 0.95. */
  readonly coverage: number;
}

export interface Ratio {
  readonly median: number;
  /** `null` below 6 rounds. */
  readonly interval: Interval | null;
}

/** What one program did in one round; a figure is absent where it was not or could not be measured. */
export type Run = Partial<Record<Figure, number>>;

/** One round: what each program did that took part, by its name. */
export type Round = Readonly<Record<string, Run>>;

export interface Summary {
  readonly rounds: number;
  /** Of what it did. */
  readonly medians: Run;
  /** To the first program of the case, by the case's figure. */
  readonly ratio: Ratio;
  /** To the same: CPU per unit of work. */
  readonly cpuRatio: Ratio | null;
  /** To the same: the time that 99 of 100 were faster than, where latency is measured. */
  readonly p99Ratio: Ratio | null;
}

export interface JudgedGoal extends Goal {
  readonly ratio: Ratio;
  readonly cpuRatio: Ratio | null;
  /** `not resolved`: the interval has the goal, and is too wide. `open`: too few rounds for an interval. */
  readonly verdict: "met" | "missed" | "missed by CPU" | "not resolved" | "open";
}

/** A case that was run: what the JSON file keeps of it. */
export interface CaseResult extends Omit<BenchCase, "goals"> {
  readonly rounds: readonly Round[];
  readonly summaries: Readonly<Record<string, Summary>>;
  readonly goals: readonly JudgedGoal[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * A 95 % interval of the median by order statistics: it supposes nothing about how the values are distributed. The
 * true median lies below the k-th smallest of n values with probability P(Binomial(n, 1/2) < k), and the same above
 * the k-th largest; k is the largest that leaves at least 95 % between. `null` below 6 values, where not even the
 * extremes are that sure.
 */
export function medianInterval(values: readonly number[]): Interval | null {
  const n = values.length;
  const sorted = [...values].sort((a, b) => a - b);
  let k = 0;
  let coverage = 0;
  let term = 0.5 ** n; // P(Binomial = k)
  for (let outside = 2 * term; outside <= 0.05; outside += 2 * term) {
    coverage = 1 - outside;
    k += 1;
    term *= (n - k + 1) / k;
  }
  return k === 0 ? null : { low: sorted[k - 1]!, high: sorted[n - k]!, coverage };
}

/** `figure` of one program as a multiple of another's, within each round that has both; `null` if none has. */
export function ratioOf(rounds: readonly Round[], of: string, against: string, figure: Figure): Ratio | null {
  const ratios = rounds.flatMap((round) => {
    const ratio = (round[of]?.[figure] ?? Number.NaN) / (round[against]?.[figure] ?? Number.NaN);
    return Number.isFinite(ratio) ? [ratio] : [];
  });
  return ratios.length === 0 ? null : { median: median(ratios), interval: medianInterval(ratios) };
}

const NARROW = 0.05; // of the median, to each side: within that the machine tells nothing apart

/**
 * A goal is met when the median of the ratios reaches it, or their interval has it and is narrower than ±5 %, and the CPU
 * does not speak against it; it is not resolved when the interval has it and is wider. The CPU speaks against it where its
 * whole interval is worse than the goal allows: for "at least n times the rate", above 1/n of the CPU for each unit. A goal
 * that names its figure is about that alone.
 */
export function judge(
  { least, most, figure, cpu = 0 }: Goal,
  { median, interval }: Ratio,
  cpuRatio: Ratio | null,
): JudgedGoal["verdict"] {
  if (interval === null) return "open";
  const { low, high } = interval;
  const bound = least ?? most ?? median;
  if (least === undefined ? median > bound : median < bound) {
    if (low > bound || high < bound) return "missed";
    if (high - low >= 2 * NARROW * median) return "not resolved";
  }
  const allowed = Math.max(cpu, least === undefined ? bound : 1 / bound);
  return figure === undefined && cpuRatio?.interval && cpuRatio.interval.low > allowed
    ? "missed by CPU"
    : "met";
}

const FIGURES = [
  "rate",
  "cpuUs",
  "busy",
  "faults",
  "switches",
  "p50us",
  "p99us",
  "startMs",
  "idleKiB",
] as const;

export function summarize({ goals, ...bench }: BenchCase, rounds: readonly Round[]): CaseResult {
  const [base] = bench.contenders;
  const summary = ({ name }: Contender): Summary[] => {
    const ratio = ratioOf(rounds, name, base!.name, bench.figure);
    if (ratio === null) return [];
    const runs = rounds.flatMap((round) => round[name] ?? []);
    const medians: Run = {};
    for (const figure of FIGURES) {
      const values = runs.flatMap((run) => run[figure] ?? []);
      if (values.length > 0) medians[figure] = median(values);
    }
    return [
      {
        rounds: runs.length,
        medians,
        ratio,
        cpuRatio: ratioOf(rounds, name, base!.name, "cpuUs"),
        p99Ratio: bench.figure === "p50us" ? ratioOf(rounds, name, base!.name, "p99us") : null,
      },
    ];
  };
  return {
    ...bench,
    rounds,
    summaries: Object.fromEntries(
      bench.contenders.flatMap((contender) => summary(contender).map((one) => [contender.name, one])),
    ),
    goals: goals.flatMap((goal): JudgedGoal[] => {
      const ratio = ratioOf(rounds, goal.of, goal.against, goal.figure ?? bench.figure);
      if (ratio === null) return [];
      const cpuRatio = ratioOf(rounds, goal.of, goal.against, "cpuUs");
      return [{ ...goal, ratio, cpuRatio, verdict: judge(goal, ratio, cpuRatio) }];
    }),
  };
}
