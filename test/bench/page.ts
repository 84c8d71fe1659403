/**
 * docs/performance.md and its plots, from the JSON of a run. Nothing there is typed by hand: each table, and each
 * sentence that depends on a figure, is made of the figures here.
 */

import { type Contender, cases, type Load, type Plot } from "./cases.ts";
import { type Axis, plotSvg } from "./plot.ts";
import {
  allFigures,
  digits,
  gaps,
  machineText,
  measured,
  type Results,
  ratioText,
  rowsOf,
  short,
  valueText,
  versionsText,
} from "./report.ts";
import type { SessionTimes } from "./sessions.ts";
import type { CaseResult, JudgedGoal, Summary } from "./statistics.ts";

export interface Page {
  readonly markdown: string;
  /** By name, without `.svg`. */
  readonly plots: Readonly<Record<string, string>>;
}

const nameOf = ({ contenders }: CaseResult, name: string): string =>
  contenders.find((one) => one.name === name)?.label ?? name;

const listed = (items: readonly string[]): string =>
  items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** Whether more is better, by what the case compares. */
const wantsMore = ({ figure }: CaseResult): boolean => figure === "rate";

// ------------------------------------------------------------------------------------------------------- goals

const GOAL_FIGURES = { p50us: ", p50", p99us: ", p99", cpuUs: ", CPU" } as const;

const goalText = (bench: CaseResult, { least, most, against, figure }: JudgedGoal): string =>
  `${least === undefined ? `≤ ${most}` : `≥ ${least}`} × ${nameOf(bench, against)}${figure ? GOAL_FIGURES[figure] : ""}`;

function goals({ cases }: Results): string {
  const all = cases.flatMap((bench) => bench.goals.map((goal) => ({ bench, goal })));
  if (all.length === 0) return "No case with a goal was run.";
  const rows = all.map(({ bench, goal }) => [
    bench.title,
    nameOf(bench, goal.of),
    goalText(bench, goal),
    ratioText(goal.ratio),
    ratioText(goal.cpuRatio),
    {
      met: "met",
      missed: "**missed**",
      "missed by CPU": "**missed** by CPU",
      "not resolved": "not resolved",
      open: "not judged",
    }[goal.verdict],
  ]);
  const judged = all.filter(({ goal }) => goal.verdict !== "open");
  const unmet = judged.filter(({ goal }) => goal.verdict !== "met");
  const count = (...verdicts: readonly JudgedGoal["verdict"][]): number =>
    unmet.filter(({ goal }) => verdicts.includes(goal.verdict)).length;
  const sentence =
    judged.length === 0
      ? "None is judged here: fewer than six rounds give no interval."
      : unmet.length === 0
        ? `All ${judged.length} are met.`
        : `${judged.length - unmet.length} of ${judged.length} are met, ${count("missed", "missed by CPU")} missed, ${count("not resolved")} not resolved.`;
  return `A goal is met when the median of the ratios reaches it, or when their interval contains it and is narrower than ±5 %. It is not
resolved when the interval contains it and is wider: more rounds would tell. A goal of the rate is not met if the CPU for a unit of work
says otherwise: if its whole interval is worse than the goal allows. ${sentence}

A pool's call beside one on a connection held by hand, at most 1.15, is measured by \`npm run bench:pool\`.

${rowsOf([["work", "program", "goal", "ratio [95 %]", "CPU ratio [95 %]", ""], ...rows])}${bounds(
  unmet.map(({ bench }) => bench),
)}`;
}

/** What bounds those that are not met, and what was tried. */
function bounds(missed: readonly CaseResult[]): string {
  const told = new Map<string, string[]>();
  for (const { name, title } of new Set(missed)) {
    const bounds = cases.find((bench) => bench.name === name)?.bounds;
    if (bounds !== undefined) told.set(bounds, [...(told.get(bounds) ?? []), title]);
  }
  if (told.size === 0) return "";
  const items = [...told].map(([bounds, titles]) => `- **${capital(listed(titles))}**: ${bounds}`);
  return `\n\nWhat limits those that are missed or not resolved, and what was tried (CPU ratios of the day it was done):\n\n${items.join("\n")}`;
}

// --------------------------------------------------------------------------------------------------- the field

/** `1.02 (0.98)`: the ratio, and that of the CPU in brackets. */
const cell = (summary: Summary | undefined): string =>
  summary === undefined
    ? "—"
    : `${digits(summary.ratio.median)}${summary.cpuRatio === null ? "" : ` (${digits(summary.cpuRatio.median)})`}`;

/** One table of several cases: a row for each program, by name. The first row says what the base did. */
function field(cases: readonly CaseResult[], heads: readonly string[]): string {
  const programs = new Map<string, Contender>();
  for (const bench of cases)
    for (const { one } of measured(bench)) if (!programs.has(one.name)) programs.set(one.name, one);
  const order = ["bare", "hand", "socklet", "peer"];
  const sorted = [...programs.values()].toSorted((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind));
  const rows = sorted.map(({ name, label }, i) => [
    plainLabel(label, i),
    ...cases.map((bench) => {
      const summary = bench.summaries[name];
      return i === 0 && summary !== undefined ? valueText(bench, summary.medians) : cell(summary);
    }),
  ]);
  return rowsOf([["", ...heads], ...rows]);
}

/** The label of a program that does several works: without what it does in the first of them. */
const plainLabel = (label: string, i: number): string => (i === 0 ? `${label} (absolute)` : label);

const better = (bench: CaseResult, one: Summary, other: Summary): boolean => {
  const [a, b] = [one.ratio.interval, other.ratio.interval];
  if (a === null || b === null) return false;
  return wantsMore(bench) ? a.low > b.high : a.high < b.low;
};

/** Who is ahead of Socklet, for sure, in which work. */
function ahead(cases: readonly CaseResult[]): string {
  const judged = cases.filter((bench) =>
    measured(bench).every(({ summary }) => summary.ratio.interval !== null),
  );
  if (judged.length === 0)
    return "Who is ahead of whom is not said here: fewer than six rounds give no interval.";
  const lost = judged.flatMap((bench) => {
    const ours = measured(bench).filter(({ one }) => one.kind === "socklet");
    const best = ours.toSorted((a, b) =>
      wantsMore(bench)
        ? b.summary.ratio.median - a.summary.ratio.median
        : a.summary.ratio.median - b.summary.ratio.median,
    )[0];
    if (best === undefined) return [];
    const winners = measured(bench).filter(
      ({ one, summary }) => one.kind !== "socklet" && better(bench, summary, best.summary),
    );
    if (winners.length === 0) return [];
    const names = winners.map(({ one, summary }) => `${one.label} (${digits(summary.ratio.median)})`);
    return [`- ${capital(bench.title)}: ${listed(names)}, against ${digits(best.summary.ratio.median)}.`];
  });
  return lost.length === 0
    ? "In none of these works is another program ahead of Socklet by more than the intervals."
    : `Ahead of Socklet, with intervals that do not overlap:\n\n${lost.join("\n")}`;
}

const pick = (results: Results, ...names: string[]): CaseResult[] =>
  names.flatMap((name) => results.cases.filter((bench) => bench.name === name));

function others(results: Results): string {
  const works = [
    ["echo-64B-50", "echo 64 B, 50 conn."],
    ["echo-64B-500", "echo 64 B, 500 conn."],
    ["bulk-64KiB-1", "bulk, 1 conn."],
    ["bulk-64KiB-8", "bulk, 8 conn."],
    ["udp-64B-32", "UDP 64 B"],
    ["connect", "connections a second"],
    ["idle", "memory of an idle one (less is better)"],
    ["start", "start (less is better)"],
  ].filter(([name]) => results.cases.some((bench) => bench.name === name));
  const cases = pick(results, ...works.map(([name = ""]) => name));
  if (cases.length === 0) return "";
  return `## Beside other servers

Each cell is the ratio to bare Node, with the CPU ratio in brackets. Each server has one core; what it would do with more is not
measured. Python's \`socketserver\` has a thread for each connection, and for UDP its plain \`UDPServer\`, the faster of its two. \`asyncio\`
uses its streams and a \`DatagramProtocol\`; on uvloop it uses a \`Protocol\`.

${field(
  cases,
  works.map(([, head = ""]) => head),
)}

${ahead(cases)}`;
}

function pipelined(results: Results): string {
  const cases = pick(results, "resp-P1", "resp-P16", "resp-P64");
  if (cases.length === 0) return "";
  return `## Lines, and replies that are gathered

Redis's PING, as \`redis-benchmark\` sends it, from 50 connections, each with 1, 16 or 64 commands at once. All programs use one
parser of commands, or the same one in their own language (\`redis-server\` uses its own). What differs is how they read lines and how
they write replies.

${field(
  cases,
  cases.map(({ load }) => `-P ${(load as Load & { mode: "ping" }).pipeline}`),
)}

${ahead(cases)}`;
}

function workers(results: Results): string {
  const cases = results.cases.filter(({ name }) => name.startsWith("workerd-"));
  if (cases.length === 0) return "";
  return `## In a Worker

Programs on bare workerd, and the same handlers as above on Socklet. Ratios are to the first program of each work.

${beside(cases)}

${ahead(cases)}`;
}

function tls(results: Results): string {
  const cases = results.cases.filter(({ name }) => name.startsWith("tls-"));
  if (cases.length === 0) return "";
  return `## TLS

TLS 1.3 with a certificate of P-256, a full handshake for each connection; the client is OpenSSL. Ratios are to bare \`node:tls\`.

${beside(cases)}

${ahead(cases)}`;
}

function runtimes(results: Results): string {
  const cases = results.cases.filter(({ name }) => /^(bun|deno)-/.test(name));
  if (cases.length === 0) return "";
  return `## On Bun and Deno

What one writes by hand for each runtime, and the same handlers as above on Socklet there. Ratios are to the first program of each work.

${beside(cases)}

${ahead(cases)}`;
}

/** A row for each program of each case. */
const beside = (cases: readonly CaseResult[]): string =>
  rowsOf([
    ["work", "program", "did", "ratio [95 %]", "CPU ratio [95 %]"],
    ...cases.flatMap((bench) =>
      measured(bench).map(({ one, summary }, i) => [
        i === 0 ? bench.title : "",
        one.label,
        valueText(bench, summary.medians),
        ratioText(summary.ratio),
        ratioText(summary.cpuRatio),
      ]),
    ),
  ]);

function latency(results: Results): string {
  const cases = results.cases.filter(({ figure }) => figure === "p50us");
  if (cases.length === 0) return "";
  const rows = cases.flatMap((bench) =>
    measured(bench).map(({ one, summary: { medians, ratio, p99Ratio } }, i) => [
      i === 0 ? bench.title : "",
      one.label,
      valueText(bench, medians),
      valueText(bench, medians, "p99us"),
      ratioText(ratio),
      ratioText(p99Ratio),
    ]),
  );
  return `## Latency at half load

Messages are due at a fixed rate, half of bare Node's highest, and each is timed from when it was due. So a server that pauses is
charged for every message that it held up.

${rowsOf([["work", "program", "p50", "p99", "p50 ratio [95 %]", "p99 ratio [95 %]"], ...rows])}`;
}

// ------------------------------------------------------------------------------------------------------ growth

const count: Axis["format"] = (value) => value.toLocaleString("en");
const bytes: Axis["format"] = (value) =>
  value >= 1e6 ? `${value / 1e6} MB` : value >= 1e3 ? `${value / 1e3} kB` : `${value} B`;

interface Growth {
  readonly name: Plot;
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  /** What is drawn of a point. */
  readonly value: (summary: Summary, at: number) => number;
  readonly sentence: (points: readonly CaseResult[]) => string;
}

const of = (bench: CaseResult | undefined, name: string): Summary | undefined => bench?.summaries[name];

/** From the first of `points` to the last: Socklet's rate beside bare Node's, and how the CPU of one unit of work grows on both. */
function besideBare(points: readonly CaseResult[], many: string, unit: string): string {
  const [first, last] = [points[0], points.at(-1)];
  const [a, b] = [of(first, "socklet"), of(last, "socklet")];
  const [bareA, bareB] = [of(first, "bare"), of(last, "bare")];
  if (!first || !last || !a || !b || !bareA || !bareB) return "";
  const growth = (b.medians.cpuUs ?? 0) / (a.medians.cpuUs ?? 1);
  const bareGrowth = (bareB.medians.cpuUs ?? 0) / (bareA.medians.cpuUs ?? 1);
  return (
    `From ${count(first.series!.at)} to ${count(last.series!.at)} ${many} Socklet goes from ${digits(a.ratio.median)} to ` +
    `${digits(b.ratio.median)} times bare Node's rate, and its CPU for a ${unit} changes by a factor of ${digits(growth)} (bare Node's ` +
    `by ${digits(bareGrowth)}): the cost of a ${unit} grows ${growth > 1.5 * bareGrowth ? "faster" : "no faster"} with the ${many} than on bare Node.`
  );
}

const GROWTHS: readonly Growth[] = [
  {
    name: "connections",
    title: "TCP echo, 64 B: messages a second as connections grow",
    x: { label: "connections", scale: "log", format: count },
    y: { label: "messages a second", scale: "linear", format: short },
    value: ({ medians }) => medians.rate ?? 0,
    sentence: (points) => besideBare(points, "connections", "message"),
  },
  {
    name: "peers",
    title: "UDP, 64 B: datagrams a second as peers grow",
    x: { label: "peers", scale: "log", format: count },
    y: { label: "datagrams a second", scale: "linear", format: short },
    value: ({ medians }) => medians.rate ?? 0,
    sentence: (points) => besideBare(points, "peers", "datagram"),
  },
  {
    name: "lines",
    title: "Lines read: MiB a second as lines grow",
    x: { label: "bytes of a line", scale: "log", format: bytes },
    y: { label: "MiB a second", scale: "log", format: short },
    value: ({ medians }, at) => ((medians.rate ?? 0) * at) / 2 ** 20,
    sentence: (points) => {
      const ratios = points.flatMap((bench) => {
        const ratio = of(bench, "socklet")?.ratio.median;
        return ratio === undefined ? [] : [{ bench, ratio }];
      });
      const sorted = ratios.toSorted((a, b) => a.ratio - b.ratio);
      const [least, most] = [sorted[0], sorted.at(-1)];
      const [first, last] = [of(points[0], "socklet"), of(points.at(-1), "socklet")];
      if (!least || !most || !first?.medians.rate || !last?.medians.rate) return "";
      const speed = (summary: Summary, at: number): string =>
        short(((summary.medians.rate ?? 0) * at) / 2 ** 20);
      return (
        `Each line is answered with its length. \`lines()\` reaches between ${digits(least.ratio)} (${least.bench.title}) and ` +
        `${digits(most.ratio)} (${most.bench.title}) of the best hand-written loop, and goes from ` +
        `${speed(first, points[0]!.series!.at)} to ${speed(last, points.at(-1)!.series!.at)} MiB/s: ` +
        `${last.medians.rate * points.at(-1)!.series!.at >= first.medians.rate * points[0]!.series!.at ? "a byte costs no more in a long line than in a short one" : "a byte costs more in a long line than in a short one"}.`
      );
    },
  },
  {
    name: "pipeline",
    title: "RESP PING: commands a second as more come at once",
    x: { label: "commands at once", scale: "log", format: count },
    y: { label: "commands a second", scale: "log", format: short },
    value: ({ medians }) => medians.rate ?? 0,
    sentence: (points) => {
      const gain = (name: string): number | undefined => {
        const [a, b] = [of(points[0], name)?.medians.rate, of(points.at(-1), name)?.medians.rate];
        return a && b ? b / a : undefined;
      };
      const [bare, lines, tries] = [gain("bare"), gain("lines"), gain("try")];
      if (bare === undefined || lines === undefined || tries === undefined) return "";
      return (
        `From ${count(points[0]!.series!.at)} to ${count(points.at(-1)!.series!.at)} commands at once, a write for each reply becomes ` +
        `${digits(bare)} times as fast, a loop over \`lines()\` ${digits(lines)} times, and one with \`tryLine()\` ${digits(tries)} times` +
        `${lines > 1.5 * bare ? ": replies to commands that came together leave together, without any work by the handler" : ""}.`
      );
    },
  },
];

const LIMIT_MS = 50; // of each request, with 100,000 sessions

const SESSION_REQUESTS = [
  ["list", "the newest page of 50"],
  ["page", "the last page of 50"],
  ["none", "a state that none has"],
  ["end", "the end of one"],
] as const;

/** How fast the control plane answers as its registry of sessions grows; empty where that was not measured. */
function sessionsGrow(
  name: string,
  { of, none }: { readonly of: string; readonly none: string },
  sessions: readonly SessionTimes[] = [],
  plots: Record<string, string>,
): string[] {
  const [first, last] = [sessions[0], sessions.at(-1)];
  if (first === undefined || last === undefined || first === last) return [];
  const title = `The control plane${of}: ms for a request as sessions grow`;
  plots[name] = plotSvg({
    title,
    x: { label: "sessions", scale: "log", format: count },
    y: { label: "ms", scale: "linear", format: short },
    lines: SESSION_REQUESTS.map(([request, label]) => ({
      label,
      points: sessions.map((times) => [times.at, times[request]] as const),
    })),
  });
  const ms = (value: number): string => `${short(value)} ms`;
  const slowest = Math.max(...SESSION_REQUESTS.map(([request]) => last[request]));
  return [
    `![${title}](performance/${name}.svg)

With ${count(last.at)} sessions${of} a list of the newest takes ${ms(last.list)}, the last page ${ms(last.page)}, and the end of one ${ms(last.end)} (with ${count(first.at)}: ` +
      `${ms(first.list)}, ${ms(first.page)} and ${ms(first.end)}). A state that none has${none} takes ${ms(last.none)}. ` +
      `${slowest < LIMIT_MS ? `All are below ${LIMIT_MS} ms.` : `Not all are below ${LIMIT_MS} ms.`} To list all of them by pages of 1,000 takes ${ms(last.all)} a page.`,
  ];
}

const BY_PROCESS = { of: "", none: ", for which each session is looked at," };
const BY_WORKER = { of: " in the registry of a Worker", none: "" };

function growth(results: Results, plots: Record<string, string>): string {
  const parts = GROWTHS.flatMap(({ name, title, x, y, value, sentence }) => {
    const points = results.cases
      .filter(({ series }) => series?.plot === name)
      .toSorted((a, b) => a.series!.at - b.series!.at);
    if (points.length < 2) return [];
    const lines = points[0]!.contenders.map((one) => ({
      label: one.label.replaceAll("`", ""),
      reference: one.kind === "bare",
      points: points.flatMap((bench) => {
        const summary = of(bench, one.name);
        return summary === undefined ? [] : [[bench.series!.at, value(summary, bench.series!.at)] as const];
      }),
    }));
    plots[name] = plotSvg({ title, x, y, lines: lines.filter((line) => line.points.length > 0) });
    const sure = points.every((bench) => measured(bench).every(({ summary }) => summary.rounds >= 6));
    const words = sure
      ? sentence(points)
      : "What it means is not said here: fewer than six rounds of each point.";
    return [`![${title}](performance/${name}.svg)\n\n${words}`];
  });
  parts.push(...sessionsGrow("sessions", BY_PROCESS, results.sessions, plots));
  parts.push(...sessionsGrow("worker-sessions", BY_WORKER, results.workerSessions, plots));
  return parts.length === 0 ? "" : `## As it grows\n\n${parts.join("\n\n")}`;
}

// -------------------------------------------------------------------------------------------------------- page

const duration = (seconds: number): string =>
  seconds < 90 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;

export function performancePage(results: Results): Page {
  const plots: Record<string, string> = {};
  const few = results.rounds < 6;
  const parts = [
    `# Performance

How fast Socklet is, compared with bare Node and bare workerd that do the same work, and with other servers. \`npm run bench\` measures
it, and \`npm run bench -- --publish\` writes this page: every figure, and every sentence that depends on one, comes from the results of
one run.

A **ratio** compares two programs in the same round of the same run: 1.08 means 8 % more a second. The brackets hold its 95 %
interval. The **CPU ratio** compares the CPU time for one unit of work: less is better. [How it is measured](#how-it-is-measured) has
the rest.

Measured on ${results.date}: ${machineText(results)}; ${versionsText(results)}. ${results.rounds} rounds of ${results.seconds} seconds, ${duration(results.tookSeconds)} in all.`,
    few
      ? `> **A short run.** ${results.rounds === 1 ? "One round shows" : `${results.rounds} rounds show`} that all of it runs, and no more: without intervals no goal is judged, and nothing is compared\n> in words.`
      : "",
    gaps(results).join("\n\n"),
    `## Goals\n\n${goals(results)}`,
    others(results),
    pipelined(results),
    tls(results),
    workers(results),
    runtimes(results),
    latency(results),
    growth(results, plots),
    `## How it is measured

- The programs of a work run side by side on one core. The load, a C program (\`test/bench/load.c\`), asks them in turns from
  another core, and checks every byte that comes back. (What a program only reads, it checks itself: the first and the last byte of
  each piece, and in workerd every byte once.)
- A ratio compares two programs in the same round. The page gives the median of the ratios, and the interval that contains the true
  median with at least 95 %, by order statistics, which assume nothing about how the ratios are distributed. Other servers run in every
  second round, if that leaves six.
- A full run repeats a case whose goal is not resolved, up to twice, and judges by all of its rounds.
- CPU is the server's own, user and kernel, for one unit of work. It also shows where the load was the limit, and not the server.
- An interval does not cover what a process keeps for its whole life, such as how its memory is laid out. \`npm run bench -- --self\` measures the
  first program of each work against itself: smaller differences than that cannot be told apart here.
- The ratios of every full run stay in \`docs/performance/history.jsonl\`. \`npm run bench -- --compare\` says what is slower than in the last
  of them by more than both intervals.
- The memory of an idle connection is how much the process grew, divided by 5,000 connections that had sent one message each, after
  it had served 50 for two seconds: until then V8's young generation grows, and that would count as theirs.

## All figures

${allFigures(results).trim()}
`,
  ];
  return { markdown: parts.filter((part) => part !== "").join("\n\n"), plots };
}
