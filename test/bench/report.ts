/** What a run gave, as text: how figures are written, and the one table that has them all. */

import type { BenchCase, Contender } from "./cases.ts";
import { NOT_INSTALLED, type RuntimeName } from "./runtimes.ts";
import type { SessionTimes } from "./sessions.ts";
import type { CaseResult, Ratio, Run, Summary } from "./statistics.ts";

/** The JSON file. */
export interface Results {
  /** The day, as the page says it. */
  readonly date: string;
  /** When it began: ISO 8601, UTC. */
  readonly began: string;
  /** What was measured, as `git describe --always --dirty` says it; `unknown` outside a repository. */
  readonly commit: string;
  /** Whether all cases were run, also those of `--full`. */
  readonly full: boolean;
  readonly machine: {
    readonly cpu: string;
    readonly cores: number;
    readonly memoryGiB: number;
    /** Server and load each had a core of their own. */
    readonly pinned: boolean;
  };
  readonly versions: Partial<Record<RuntimeName, string>>;
  /** What could not be measured, and why. */
  readonly absent: Partial<Record<RuntimeName, string>>;
  readonly self: boolean;
  readonly rounds: number;
  readonly seconds: number;
  readonly plannedSeconds: number;
  readonly tookSeconds: number;
  readonly failed: readonly { readonly name: string; readonly why: string }[];
  readonly cases: readonly CaseResult[];
  /** How fast the control plane answers as its registry grows; absent where that was not run. */
  readonly sessions?: readonly SessionTimes[];
  /** The same of a Worker's registry, in workerd. */
  readonly workerSessions?: readonly SessionTimes[];
}

export const RUNTIMES: Readonly<Record<RuntimeName, string>> = {
  node: "Node",
  workerd: "workerd",
  python: "Python",
  uvloop: "uvloop",
  bun: "Bun",
  deno: "Deno",
  go: "Go",
  redis: "redis-server",
};

// ------------------------------------------------------------------------------------------------------ figures

/** Three digits, and k or M above ten thousand. */
export function short(value: number): string {
  const three = (number: number): string =>
    number >= 100 ? number.toFixed(0) : number.toPrecision(3).replace(/\.0+$/, "");
  if (value >= 1e6) return `${three(value / 1e6)} M`;
  if (value >= 1e4) return `${three(value / 1e3)} k`;
  return three(value);
}

export const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;

const UNITS = { rate: "/s", p50us: " µs", p99us: " µs", startMs: " ms", idleKiB: " KiB" } as const;

/** What a program did: `105 k/s`. By the case's own figure, where none is named. */
export function valueText(
  { unit, ...bench }: Pick<BenchCase, "figure" | "unit">,
  run: Run,
  figure: keyof typeof UNITS = bench.figure,
): string {
  const value = run[figure];
  if (value === undefined) return "—";
  if (UNITS[figure] === " µs" && value >= 1000) return `${short(value / 1000)} ms`;
  return `${short(value)}${figure === "rate" && unit === "MiB" ? " MiB/s" : UNITS[figure]}`;
}

/** Three digits of a ratio: the third of 1.00 is the least that could be told apart. */
export const digits = (ratio: number): string => ratio.toFixed(ratio >= 99.5 ? 0 : ratio >= 9.95 ? 1 : 2);

/** `**1.02** [0.98–1.05]`; below six rounds without its interval. */
export function ratioText(ratio: Ratio | null): string {
  if (ratio === null) return "—";
  const { median, interval } = ratio;
  return `**${digits(median)}**${interval ? ` [${digits(interval.low)}–${digits(interval.high)}]` : ""}`;
}

export const rowsOf = (rows: readonly (readonly string[])[]): string => {
  const [head = [], ...body] = rows;
  return [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
};

/** The programs of a case that have figures. */
export const measured = ({ contenders, summaries }: CaseResult): { one: Contender; summary: Summary }[] =>
  contenders.flatMap((one) => {
    const summary = summaries[one.name];
    return summary === undefined ? [] : [{ one, summary }];
  });

/** `Node 24.21.0, workerd 2026-10-23, …` */
export const versionsText = ({ versions }: Pick<Results, "versions">): string =>
  Object.entries(versions)
    .map(([name, version]) => `${RUNTIMES[name as RuntimeName]} ${version}`)
    .join(", ");

export const machineText = ({ machine: { cpu, cores, memoryGiB } }: Results): string =>
  `${cpu}, ${cores} core${cores === 1 ? "" : "s"}, ${memoryGiB} GiB`;

/** What is missing from the tables, and why; empty where nothing is. */
export function gaps({ absent, failed, machine }: Results): string[] {
  const names = Object.entries(absent) as [RuntimeName, string][];
  const missing = names.filter(([, why]) => why === NOT_INSTALLED).map(([name]) => RUNTIMES[name]);
  return [
    ...(missing.length > 0 ? [`Not installed here, and so absent: ${missing.join(", ")}.`] : []),
    ...names
      .filter(([, why]) => why !== NOT_INSTALLED)
      .map(([name, why]) => `Absent: ${RUNTIMES[name]}: ${firstLine(why)}`),
    ...[...Map.groupBy(failed, ({ why }) => firstLine(why))].map(
      ([why, those]) => `Failed: ${those.map(({ name }) => name).join(", ")}: ${why}`,
    ),
    ...(machine.pinned
      ? []
      : ["Not pinned: the system places server and load on its cores, so all is rougher than it says."]),
  ];
}

/** Enough to identify it, without paths of the machine. */
const firstLine = (text: string): string => text.split("\n", 1)[0]!.replaceAll(/(?<![\w.])\/\S*\//g, "");

// -------------------------------------------------------------------------------------------------- the one table

/** What the control plane took for each request, in ms; empty where that was not measured. */
function sessionTimes(what: string, sessions: readonly SessionTimes[] = []): string[] {
  if (sessions.length === 0) return [];
  const head = [what, "newest page", "last page", "a state that none has", "a page of all", "end of one"];
  const rows = sessions.map(({ at, list, page, none, all, end }) => [
    at.toLocaleString("en"),
    ...[list, page, none, all, end].map((ms) => `${short(ms)} ms`),
  ]);
  return ["", rowsOf([head, ...rows])];
}

/** Every program in every case: a Markdown table, and a line of what it was measured on. */
export function allFigures(results: Results): string {
  const head = [
    "work",
    "program",
    "did",
    "ratio [95 %]",
    "CPU µs",
    "CPU ratio [95 %]",
    "busy",
    "faults",
    "switches",
    "rounds",
  ];
  const rows = results.cases.flatMap((bench) =>
    measured(bench).map(({ one, summary: { medians, ratio, cpuRatio, p99Ratio, rounds } }, i) => [
      i === 0 ? bench.title : "",
      one.label,
      bench.figure === "p50us"
        ? `p50 ${valueText(bench, medians)}, p99 ${valueText(bench, medians, "p99us")}`
        : valueText(bench, medians),
      p99Ratio === null ? ratioText(ratio) : `p50 ${ratioText(ratio)}, p99 ${ratioText(p99Ratio)}`,
      medians.cpuUs === undefined ? "—" : short(medians.cpuUs),
      ratioText(cpuRatio),
      medians.busy === undefined ? "—" : percent(medians.busy),
      ...[medians.faults, medians.switches].map((count) => (count === undefined ? "—" : short(count))),
      String(rounds),
    ]),
  );
  return [
    rowsOf([head, ...rows]),
    "",
    `${results.date}: ${results.rounds} rounds of ${results.seconds} s, ${machineText(results)}, ${versionsText(results)}. ` +
      "Medians. Ratios are to the first program of each work in the same round, with the 95 % interval of their median. " +
      "CPU is the server's for one unit of work. Busy is its share of one core: well below 100 %, the load was the limit. " +
      "Faults are its page faults, and switches its main thread's context switches, both for one unit of work.",
    ...sessionTimes("sessions", results.sessions),
    ...sessionTimes("sessions of a Worker", results.workerSessions),
    ...gaps(results).flatMap((gap) => ["", gap]),
    "",
  ].join("\n");
}
