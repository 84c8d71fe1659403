/** The bench's own sums and words: no speed is asserted here, and nothing is timed. */

import dgram from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BenchCase, cases, roundsOf, takesPart } from "../bench/cases.ts";
import { compare, comparisonText, pastRun, readHistory, withRun } from "../bench/history.ts";
import { performancePage } from "../bench/page.ts";
import { plotSvg } from "../bench/plot.ts";
import { allFigures, digits, type Results, short } from "../bench/report.ts";
import { buildLoad, out } from "../bench/runtimes.ts";
import { pieces, SourceCheck } from "../bench/servers/source.ts";
import { measureSessions } from "../bench/sessions.ts";
import {
  judge,
  median,
  medianInterval,
  type Ratio,
  type Round,
  type Run,
  ratioOf,
  summarize,
} from "../bench/statistics.ts";
import { describeWith, run } from "../peers/program.ts";

const caseOf = (name: string): BenchCase => {
  const found = cases.find((bench) => bench.name === name);
  if (found === undefined) throw new Error(`no case is called ${name}`);
  return found;
};

describe("statistics", () => {
  test("median", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([5])).toBe(5);
  });

  // The ranks and coverages of the tables for the sign test: 1 - 2 P(Binomial(n, 1/2) < k).
  test.each([
    [6, 1, 0.96875],
    [9, 2, 0.9609],
    [12, 3, 0.9614],
    [25, 8, 0.9567],
    [100, 40, 0.9648],
  ])("the interval of %i values is from the %i-th of each end", (n, k, coverage) => {
    const values = Array.from({ length: n }, (_, i) => n - i); // 1 to n, out of order
    const interval = medianInterval(values);
    expect(interval).toMatchObject({ low: k, high: n + 1 - k });
    expect(interval?.coverage).toBeCloseTo(coverage, 4);
  });

  test("below six values there is none", () => {
    expect(medianInterval([1, 2, 3, 4, 5])).toBeNull();
    expect(medianInterval([])).toBeNull();
  });

  test("a ratio is of one round, and of rounds that have both", () => {
    const rounds: Round[] = [
      { a: { rate: 100 }, b: { rate: 50 } },
      { a: { rate: 10 }, b: { rate: 20 } },
      { a: { rate: 7 } },
      { a: { rate: 30 }, b: { rate: 30, cpuUs: 2 } },
    ];
    expect(ratioOf(rounds, "b", "a", "rate")).toEqual({ median: 1, interval: null }); // 0.5, 2, 1
    expect(ratioOf(rounds, "b", "a", "cpuUs")).toBeNull();
    expect(ratioOf(rounds, "c", "a", "rate")).toBeNull();
  });

  const ratio = (low: number, middle: number, high: number): Ratio => ({
    median: middle,
    interval: { low, high, coverage: 0.96 },
  });
  const goal = { of: "socklet", against: "bare" };
  test.each([
    ["the median reaches it", { least: 1 }, ratio(0.9, 1, 1.1), ratio(0.9, 1, 1.1), "met"],
    ["the median does not", { least: 1 }, ratio(0.9, 0.99, 1.1), ratio(0.5, 0.6, 0.7), "not resolved"],
    [
      "all of the CPU's interval is too much",
      { least: 1 },
      ratio(1, 1.1, 1.2),
      ratio(1.01, 1.1, 1.2),
      "missed by CPU",
    ],
    [
      "five times the rate at a fifth of the CPU",
      { least: 5 },
      ratio(5, 6, 7),
      ratio(0.19, 0.21, 0.3),
      "met",
    ],
    [
      "five times the rate at more of it",
      { least: 5 },
      ratio(5, 6, 7),
      ratio(0.21, 0.22, 0.3),
      "missed by CPU",
    ],
    ["just below, but no further than can be told", { least: 1 }, ratio(0.96, 0.99, 1.03), null, "met"],
    ["just below, and nobody knows how far", { least: 1 }, ratio(0.9, 0.99, 1.1), null, "not resolved"],
    ["just below, for sure", { least: 1 }, ratio(0.98, 0.985, 0.99), null, "missed"],
    [
      "just above what is allowed, but no further than can be told",
      { most: 1.3 },
      ratio(1.28, 1.31, 1.34),
      null,
      "met",
    ],
    ["at most, and is", { most: 1.3 }, ratio(1.2, 1.3, 1.4), null, "met"],
    ["at most, and nobody knows", { most: 1.3 }, ratio(1.2, 1.31, 1.4), null, "not resolved"],
    ["at most, and is not", { most: 1.3 }, ratio(1.31, 1.35, 1.4), null, "missed"],
    ["at most, but not the CPU", { most: 1.3 }, ratio(1, 1.1, 1.2), ratio(1.31, 1.4, 1.5), "missed by CPU"],
    [
      "the CPU may be more than the rate allows",
      { least: 1, cpu: 1.2 },
      ratio(1, 1.1, 1.2),
      ratio(1.1, 1.2, 1.3),
      "met",
    ],
    ["a figure alone", { most: 1.05, figure: "p99us" }, ratio(0.9, 1, 1.1), ratio(1.2, 1.3, 1.4), "met"],
    ["too few rounds", { least: 1 }, { median: 2, interval: null }, null, "open"],
  ] as const)("a goal: %s", (_, bounds, rate, cpu, verdict) => {
    expect(judge({ ...goal, ...bounds }, rate, cpu)).toBe(verdict);
  });
});

describe("the table of cases", () => {
  test("names are unique, goals name programs that are there, and the first of a case is in every round", () => {
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
    for (const { name, contenders, goals } of cases) {
      const names = contenders.map((one) => one.name);
      expect(new Set(names).size, name).toBe(names.length);
      for (const { of, against } of goals) expect(names, name).toEqual(expect.arrayContaining([of, against]));
      expect(contenders[0]?.kind, name).not.toBe("peer");
    }
  });

  test("peers run in every second round, where that leaves six", () => {
    const [peer] = caseOf("echo-64B-50").contenders.filter(({ kind }) => kind === "peer");
    const taken = (rounds: number): number =>
      Array.from({ length: rounds }, (_, i) => i).filter((i) => takesPart(peer!, i, rounds)).length;
    expect([taken(2), taken(11), taken(12), taken(25)]).toEqual([2, 11, 6, 13]);
    expect(roundsOf(caseOf("grows-lines-10"), 1)).toBe(1);
  });
});

/** A run that never was: `did` says what each program does in round `i`; what it does not name has not been run. */
const invented = (
  rounds: number,
  did: Readonly<Record<string, (program: string, i: number) => Run | null>>,
  more: Partial<Results> = {},
): Results => ({
  date: "2026-01-02",
  began: "2026-01-02T03:04:05.000Z",
  commit: "0123456789ab",
  full: false,
  machine: { cpu: "A processor", cores: 4, memoryGiB: 8, pinned: true },
  versions: { node: "24.0.0", workerd: "2026-10-23" },
  absent: {},
  self: false,
  rounds,
  seconds: 0.4,
  plannedSeconds: 600,
  tookSeconds: 660,
  failed: [],
  cases: Object.entries(did).map(([name, run]) => {
    const bench = caseOf(name);
    const done = Array.from({ length: rounds }, (_, i) =>
      Object.fromEntries(
        bench.contenders.flatMap((one) => [[one.name, run(one.name, i)]].filter(([, r]) => r)),
      ),
    );
    const contenders = bench.contenders.filter((one) => done.some((round) => round[one.name]));
    return summarize({ ...bench, contenders }, done as Round[]);
  }),
  ...more,
});

/** Rates that differ a little from round to round; `times` of 100,000 a second. */
const rate =
  (times: Readonly<Record<string, number>>, cpu: Readonly<Record<string, number>> = {}) =>
  (program: string, i: number): Run | null => {
    const factor = times[program];
    if (factor === undefined) return null;
    const noise = program === "bare" ? 1 : 1 + (i % 3) / 100;
    return {
      rate: 100_000 * factor * noise,
      cpuUs: (cpu[program] ?? 1 / factor) * 10,
      busy: 1,
      p50us: 50 / factor,
      p99us: 200 / factor,
    };
  };

describe("docs/performance.md", () => {
  test("what is met and what is missed is said in words, by the figures", () => {
    const page = (socklet: number, cpu = 1 / socklet): string =>
      performancePage(
        invented(12, { "echo-64B-50": rate({ bare: 1, socklet, bun: 1.7, asyncio: 0.8 }, { socklet: cpu }) }),
      ).markdown;
    expect(page(1.2)).toContain("All 1 are met.");
    expect(page(0.9)).toContain("0 of 1 are met, 1 missed, 0 not resolved.");
    expect(page(0.9)).toContain("| **missed** |");
    expect(page(1.2, 1.3)).toContain("0 of 1 are met, 1 missed, 0 not resolved.");
    expect(page(1.2, 1.3)).toContain("| **missed** by CPU |");
    expect(page(1.2)).toContain(
      "| TCP echo, 64 B, 50 connections | Socklet | ≥ 1.1 × bare Node | **1.21** [1.20–1.22] | **0.83** [0.83–0.83] | met |",
    );
    const wide = performancePage(
      invented(12, {
        "echo-64B-50": (program, i) =>
          ({ bare: { rate: 100 }, socklet: { rate: 90 + 30 * (i % 2) } })[program] ?? null,
      }),
    ).markdown;
    expect(wide).toContain("0 of 1 are met, 0 missed, 1 not resolved.");
    expect(wide).toContain("| **1.05** [0.90–1.20] | — | not resolved |");
    const latency = performancePage(
      invented(12, { "latency-tcp": rate({ bare: 1, socklet: 1 }, { socklet: 2 }) }),
    ).markdown;
    expect(latency).toContain("All 2 are met.");
    expect(latency).toContain("| ≤ 1.05 × bare Node, p99 |");
  });

  test("where others are ahead it says so, with their figures; where none is, that", () => {
    const page = (bun: number): string =>
      performancePage(
        invented(12, {
          "echo-64B-50": rate({ bare: 1, socklet: 1.1, bun, asyncio: 0.8 }),
          idle: (program) => {
            const idleKiB = { bare: 4, socklet: 7, asyncio: 2.4 }[program];
            return idleKiB === undefined ? null : { idleKiB };
          },
        }),
      ).markdown;
    expect(page(1.7)).toContain("- TCP echo, 64 B, 50 connections: Bun (1.72), against 1.11.");
    expect(page(1.05)).not.toContain("- TCP echo");
    // Of memory less is better.
    expect(page(1.7)).toContain(
      "- Memory of an idle connection: bare Node (1.00) and Python asyncio (0.60), against 1.75.",
    );
    expect(page(1.7)).not.toContain("Deno");
    const alone = performancePage(invented(12, { connect: rate({ bare: 1, socklet: 1.1 }) })).markdown;
    expect(alone).toContain("In none of these works is another program ahead of Socklet");
  });

  test("a short run judges nothing and compares nothing in words", () => {
    const { markdown } = performancePage(
      invented(2, { "echo-64B-50": rate({ bare: 1, socklet: 0.5, bun: 1.7 }) }),
    );
    expect(markdown).toContain("**A short run.** 2 rounds show");
    expect(markdown).toContain("None is judged here");
    expect(markdown).toContain("| not judged |");
    expect(markdown).toContain("Who is ahead of whom is not said here");
    expect(markdown).not.toMatch(/missed|against 0\.5/);
    const { markdown: growing } = performancePage(
      invented(5, {
        "grows-connections-1": rate({ bare: 1, socklet: 1 }),
        "grows-connections-10": rate({ bare: 1, socklet: 2 }),
      }),
    );
    expect(growing).toContain("What it means is not said here");
  });

  test("what could not be measured is named", () => {
    const { markdown } = performancePage(
      invented(
        12,
        { "echo-64B-50": rate({ bare: 1, socklet: 1 }) },
        {
          absent: { bun: "not installed", go: "not installed", deno: "it crashed\nat once" },
          failed: [
            { name: "udp-64B-32", why: "/somebody/s/disk/load echo: a datagram was lost\nand more" },
            { name: "idle", why: "/somebody/s/disk/load echo: a datagram was lost\nand more" },
          ],
          machine: { cpu: "A processor", cores: 1, memoryGiB: 8, pinned: false },
        },
      ),
    );
    expect(markdown).toContain("Not installed here, and so absent: Bun, Go.\n\nAbsent: Deno: it crashed\n");
    expect(markdown).toContain("Failed: udp-64B-32, idle: load echo: a datagram was lost\n");
    expect(markdown).toContain("A processor, 1 core, 8 GiB");
    expect(markdown).toContain("Not pinned");
  });

  test("growth: a plot each, and a sentence of its figures", () => {
    const growing = (plot: string, did: (at: number) => Readonly<Record<string, number>>) =>
      Object.fromEntries(
        cases
          .filter(({ series }) => series?.plot === plot)
          .map(({ name, series }) => [name, rate(did(series!.at))]),
      );
    const { markdown, plots } = performancePage(
      invented(12, {
        ...growing("connections", (at) => ({ bare: 1, socklet: at === 16_000 ? 0.5 : 1 })),
        ...growing("peers", () => ({ bare: 1, socklet: 0.9 })),
        ...growing("lines", (at) => ({ bare: 10 / at, socklet: (at === 100 ? 5 : 8) / at })),
        ...growing("pipeline", (at) => ({ bare: 1, gathered: at, lines: at / 2, try: at * 0.9 })),
      }),
    );
    expect(markdown).toContain("From 1 to 16,000 connections Socklet goes from 1.01 to 0.51 times");
    expect(markdown).toContain(
      "its CPU for a message changes by a factor of 2.00 (bare Node's by 1.00): the",
    );
    expect(markdown).toContain("grows faster with the connections than on bare Node");
    expect(markdown).toContain("between 0.51 (lines of 100 B) and 0.81 (lines of ");
    expect(markdown).toContain("a byte costs no more in a long line than in a short one");
    expect(markdown).toContain(
      "becomes 1.00 times as fast, a loop over `lines()` 10000 times, and one with `tryLine()` 10000 times: replies",
    );
    expect(markdown).toContain(
      "From 20 to 100,000 peers Socklet goes from 0.91 to 0.91 times bare Node's rate, and its CPU for a datagram changes by a factor of " +
        "1.00 (bare Node's by 1.00): the cost of a datagram grows no faster with the peers than on bare Node.",
    );
    expect(Object.keys(plots)).toEqual(["connections", "peers", "lines", "pipeline"]);
    for (const name of Object.keys(plots)) expect(markdown).toContain(`](performance/${name}.svg)`);
  });

  test("growth of the registry of sessions: a plot, and a sentence that says whether all is below 50 ms", () => {
    const times = (at: number, none: number) => ({ at, list: 0.25, page: 0.5, none, all: 3, end: 0.3 });
    const page = (none: number) =>
      performancePage(
        invented(
          12,
          {},
          {
            sessions: [times(100, 0.2), times(100_000, none)],
            workerSessions: [times(100, 0.2), times(100_000, 12)],
          },
        ),
      );
    const { markdown, plots } = page(8.5);
    expect(markdown).toContain("](performance/sessions.svg)");
    expect(markdown).toContain(
      "With 100,000 sessions a list of the newest takes 0.250 ms, the last page 0.500 ms, and the end of one 0.300 ms (with 100: " +
        "0.250 ms, 0.500 ms and 0.300 ms). A state that none has, for which each session is looked at, takes 8.50 ms. " +
        "All are below 50 ms. To list all of them by pages of 1,000 takes 3 ms a page.",
    );
    expect(plots.sessions).toContain("the last page of 50");
    expect(plots["worker-sessions"]).toContain("the last page of 50");
    expect(markdown).toContain(
      "With 100,000 sessions in the registry of a Worker a list of the newest takes 0.250 ms",
    );
    expect(markdown).toContain("A state that none has takes 12 ms. All are below 50 ms.");
    expect(markdown).toContain("| 100,000 | 0.250 ms | 0.500 ms | 8.50 ms | 3 ms | 0.300 ms |");
    expect(page(60).markdown).toContain("Not all are below 50 ms.");
    expect(performancePage(invented(12, {})).plots).toEqual({});
  });

  test("the registry that is measured gives right answers", async () => {
    const measured = await measureSessions(150);
    expect(measured.at).toBe(150);
    for (const ms of Object.values(measured)) expect(ms).toBeGreaterThan(0);
  });

  test("all of it at once has no hole in it", () => {
    const all = Object.fromEntries(
      cases.map((bench) => [
        bench.name,
        (program: string, i: number): Run => {
          const factor = 0.5 + bench.contenders.findIndex(({ name }) => name === program) / 10;
          const { rate: done, ...others } = rate({ [program]: factor })(program, i)!;
          if (bench.figure === "idleKiB") return { idleKiB: 3 + factor };
          if (bench.figure === "startMs") return { startMs: 40 * factor };
          return { rate: done!, ...others };
        },
      ]),
    );
    for (const rounds of [1, 12]) {
      const { markdown, plots } = performancePage(invented(rounds, all));
      for (const text of [markdown, ...Object.values(plots)])
        expect(text).not.toMatch(/undefined|NaN|Infinity|null/);
      for (const bench of cases) expect(markdown).toContain(bench.title);
      const tables = markdown.split("\n\n").filter((part) => part.startsWith("|"));
      expect(tables.length).toBe(8);
      for (const table of tables) {
        const [head = "", ...rows] = table.trim().split("\n");
        for (const row of rows) expect(row.split("|").length, row).toBe(head.split("|").length);
      }
    }
  });

  test("the table of a run against itself", () => {
    const table = allFigures(invented(6, { "echo-64B-50": rate({ bare: 1, socklet: 1 }) }, { self: true }));
    expect(table.split("\n")[0]).toBe(
      "| work | program | did | ratio [95 %] | CPU µs | CPU ratio [95 %] | busy | faults | switches | rounds |",
    );
    expect(table).toContain(
      "| bare Node | 100 k/s | **1.00** [1.00–1.00] | 10 | **1.00** [1.00–1.00] | 100 % | — | — | 6 |",
    );
  });

  test.each([
    [1_234_567, "1.23 M"],
    [123_456, "123 k"],
    [12_345, "12.3 k"],
    [1234, "1234"],
    [43.21, "43.2"],
    [5, "5"],
    [0.0512, "0.0512"],
  ])("%d is written %s", (value, text) => {
    expect(short(value)).toBe(text);
  });

  test("ratios have three digits, and all before the point", () => {
    expect([0.954, 1, 24.61, 2463.1].map(digits)).toEqual(["0.95", "1.00", "24.6", "2463"]);
  });
});

describe("the history of full runs, and what is slower than the last", () => {
  const full = { full: true } as const;
  const before = invented(
    12,
    {
      "echo-64B-50": rate({ bare: 1, socklet: 1, bun: 2 }),
      idle: (program, i) =>
        ({ bare: { idleKiB: 4 }, socklet: { idleKiB: 6 + (i % 3) / 10 } })[program] ?? null,
    },
    full,
  );
  const last = pastRun(before);

  test("a line has each ratio with its interval, what it was measured on, and nothing of single rounds", () => {
    const text = withRun("", before);
    expect(text.endsWith("}\n")).toBe(true);
    expect(readHistory(text)).toEqual([last]);
    expect(last).toMatchObject({ began: before.began, commit: "0123456789ab", versions: { node: "24.0.0" } });
    // Rates are 1, 1.01 or 1.02 times; of twelve the interval is from the third of each end.
    expect(last.cases["echo-64B-50"]).toEqual({
      title: "TCP echo, 64 B, 50 connections",
      figure: "rate",
      base: "bare",
      programs: {
        socklet: { ratio: [1.01, 1, 1.02], cpu: [1, 1, 1] },
        bun: { ratio: [2.02, 2, 2.04], cpu: [0.5, 0.5, 0.5] },
      },
    });
    expect(last.cases.idle?.programs).toEqual({ socklet: { ratio: [1.525, 1.5, 1.55] } });
  });

  test("runs are added at the end, each once", () => {
    const again = { ...before, began: "2026-02-03T00:00:00.000Z" };
    const text = withRun(withRun("", before), again);
    expect(readHistory(text).map(({ began }) => began)).toEqual([before.began, again.began]);
    expect(withRun(text, before)).toBe(text);
  });

  test("what is not a full run, or has no intervals, is refused, as is a line that is damaged", () => {
    expect(() => withRun("", { ...before, full: false })).toThrow(/full runs only/);
    const short = invented(5, { "echo-64B-50": rate({ bare: 1, socklet: 1 }) }, full);
    expect(() => withRun("", short)).toThrow("run 6 rounds or more, not 5");
    expect(() => readHistory(`${withRun("", before)}{`)).toThrow("line 2 is not JSON");
  });

  const now = (socklet: number, cpu = 1 / socklet, idle = 6, bun = 2) =>
    invented(12, {
      "echo-64B-50": rate({ bare: 1, socklet, bun }, { socklet: cpu }),
      idle: (program, i) =>
        ({ bare: { idleKiB: 4 }, socklet: { idleKiB: idle + (i % 3) / 10 } })[program] ?? null,
    });
  const slower = (results: Results): string[] =>
    compare(results, last).slower.map((one) => `${one.case} ${one.of}`);
  const faster = (results: Results): string[] =>
    compare(results, last).faster.map((one) => `${one.case} ${one.of}`);

  test.each([
    ["the same", now(1), [], []],
    ["less, and the intervals touch", now(0.9805, 1), [], []],
    ["less, and the intervals do not overlap", now(0.97, 1), ["echo-64B-50 rate"], []],
    ["as much, for more CPU", now(1, 1.1), ["echo-64B-50 cpu"], []],
    ["more, for less CPU", now(1.2), [], ["echo-64B-50 rate", "echo-64B-50 cpu"]],
    ["more memory is worse", now(1, 1, 7), ["idle idleKiB"], []],
    ["less memory is better", now(1, 1, 5), [], ["idle idleKiB"]],
    ["another program's figures are not ours", now(1, 1, 6, 1), [], []],
  ] as const)("%s", (_, results, worse, better) => {
    expect(slower(results)).toEqual(worse);
    expect(faster(results)).toEqual(better);
    expect(compare(results, last).compared).toBe(3);
  });

  test("what cannot be compared is named, and is not slower", () => {
    const results = invented(
      12,
      { connect: rate({ bare: 1, socklet: 0.1 }) },
      { failed: [{ name: "idle", why: "it did not start" }] },
    );
    expect(compare(results, last)).toEqual({
      slower: [],
      faster: [],
      compared: 0,
      open: ["idle: it failed", "connect: the last full run does not have it"],
    });
    const short = invented(5, { "echo-64B-50": rate({ bare: 1, socklet: 0.1 }) });
    expect(compare(short, last).open).toEqual(["echo-64B-50: too few rounds for an interval"]);
    const other = { ...last, cases: { "echo-64B-50": { ...last.cases["echo-64B-50"]!, base: "hand" } } };
    expect(compare(now(0.1), other)).toMatchObject({ slower: [], compared: 0 });
  });

  test("in words", () => {
    expect(comparisonText(now(1), last)).toBe(
      "Compared with the full run of 2026-01-02 at 0123456789ab, Node 24.0.0: 3 ratios.\n" +
        "Nothing is slower by more than both intervals.",
    );
    const text = comparisonText(
      { ...now(0.5, 1), versions: { node: "26.0.0" }, machine: { ...before.machine, cores: 2 } },
      last,
    );
    expect(text).toContain("another machine: A processor, 4 cores.\nThe last full run was on Node 24.0.0");
    expect(text).toContain(
      "Slower by more than both intervals:\n  TCP echo, 64 B, 50 connections, Socklet: rate 1.01 [1.00–1.02] → 0.51 [0.50–0.51]",
    );
  });
});

describe("plots", () => {
  const axis = (scale: "linear" | "log") => ({ label: "a < b", scale, format: String }) as const;
  const svg = plotSvg({
    title: "One & two",
    x: axis("log"),
    y: axis("linear"),
    lines: [
      {
        label: "bare",
        reference: true,
        points: [
          [1, 90],
          [1000, 100],
        ],
      },
      {
        label: "another, whose label is longer than that",
        points: [
          [1, 80],
          [1000, 99],
        ],
      },
    ],
  });

  test("points are where the axes say", () => {
    // x from 1 to 1000 is 76 to 560; y from 0 to 100 is 326 up to 52.
    expect(svg).toContain('d="M76.0 79.4L560.0 52.0"');
    expect(svg).toContain('<circle class="mark" cx="560.0" cy="52.0" r="3.5"/>');
    for (const tick of ["1", "10", "100", "1000", "0", "25", "50", "75"])
      expect(svg).toContain(`>${tick}</text>`);
  });

  test("labels do not lie on each other, and text is escaped", () => {
    const labels = [...svg.matchAll(/<text x="572" y="([\d.]+)" style[^>]*>([^<]+)</g)];
    expect(labels.map(([, , text]) => text)).toEqual(["bare", "another, whose label", "is longer than that"]);
    expect(Number(labels[1]![1]) - Number(labels[0]![1])).toBeGreaterThanOrEqual(30);
    expect(svg).toContain("<title>One &amp; two</title>");
    expect(svg).toContain("a &lt; b");
  });

  test("it has colours for a light and for a dark page", () => {
    expect(svg).toContain("prefers-color-scheme: dark");
  });

  test("nothing to draw is an error", () => {
    expect(() => plotSvg({ title: "None", x: axis("log"), y: axis("log"), lines: [] })).toThrow(/no points/);
  });
});

test("the bench says how it is used, also to a caller who asks for what it has not", async () => {
  const bench = (...args: string[]) =>
    run(process.execPath, [
      "--conditions=socklet:source",
      join(import.meta.dirname, "../bench/run.ts"),
      ...args,
    ]);
  const helped = await bench("--help");
  expect(helped).toMatchObject({ code: 0, stderr: "" });
  expect(helped.stdout.toString()).toContain("npm run bench -- --list");
  for (const [args, why] of [
    [["--round", "3"], /^bench: Unknown option '--round'/],
    [["--rounds", "0"], /^bench: --rounds: 1 to 1000\n\nnpm run bench /],
    [["nosuchcase"], /bench: no case is called nosuchcase: see --list\n/],
  ] as const) {
    const { code, stderr } = await bench(...args);
    expect(stderr).toMatch(why);
    expect(stderr).not.toContain("    at ");
    expect(code).toBe(2);
  }
});

describeWith(["cc"], "the load", () => {
  beforeAll(buildLoad);

  /** A server that tells the truth until `after` bytes. */
  const liar = (after: number, reply: (bytes: Buffer) => Buffer | string) =>
    net.createServer((socket) => {
      let seen = 0;
      socket.on("error", () => {});
      socket.on("data", (bytes) => {
        const answer = Buffer.from(reply(bytes));
        if (seen + bytes.length > after) answer[answer.length - 1]! ^= 1;
        seen += bytes.length;
        socket.write(answer);
      });
    });

  const open = new Set<net.Server>();
  afterAll(() => {
    for (const server of open) server.close();
  });

  const PATIENT = ["--stall", "100"]; // s without a byte: this process, which is the server, may stand still for more than the 5 s of a bench

  const load = async (server: net.Server, mode: string, ...args: string[]) => {
    server.listen(0, "127.0.0.1");
    open.add(server);
    await once(server, "listening");
    const { port } = server.address() as net.AddressInfo;
    return run(join(out, "load"), [mode, "127.0.0.1", port, "--seconds", "0.05", ...PATIENT, ...args]);
  };

  const pongs = (bytes: Buffer): string => "+PONG\r\n".repeat(bytes.length / 6);
  const lengths = (bytes: Buffer): string => "9\n".repeat(bytes.length / 10);
  const few = ["--connections", "2"];
  const modes = [
    ["echo", (bytes: Buffer) => bytes, few],
    ["bulk", (bytes: Buffer) => bytes, ["--size", "1000", ...few]],
    ["batch", pongs, ["--request", "PING\\r\\n", "--reply", "+PONG\\r\\n", "--pipeline", "8", ...few]],
    ["lines", lengths, ["--size", "10", "--pipeline", "8", ...few]],
    ["connect", (bytes: Buffer) => bytes, few],
  ] as const;

  test.each(modes)("%s: each reply is looked at", async (mode, reply, args) => {
    const honest = await load(liar(Number.POSITIVE_INFINITY, reply), mode, ...args);
    expect(honest).toMatchObject({ code: 0, stderr: "" });
    const { totalOperations, errors } = JSON.parse(honest.stdout.toString());
    expect(totalOperations).toBeGreaterThan(0);
    expect(errors).toBe(0);
    // It ends at the first wrong byte, however long it might have gone on: a busy machine may need a while to get there.
    const lying = await load(liar(mode === "connect" ? 0 : 200, reply), mode, ...args, "--seconds", "30");
    expect(lying.code).toBe(1);
    expect(lying.stderr).toMatch(/expected [0-9a-f ]+, got/);
  });

  test("a server that says more than it was asked for, or leaves, is found", async () => {
    const more = net.createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", (bytes) => socket.write(Buffer.concat([bytes, bytes])));
    });
    expect(await load(more, "echo", ...few)).toMatchObject({ code: 1, stderr: /more came back/ });
    const leaves = net.createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => socket.end());
    });
    expect((await load(leaves, "echo", ...few)).code).toBe(1);
  });

  test.each([0, 1])("bytes in one direction are looked at: %i wrong", async (wrong) => {
    const size = 64 * 1024;
    const sends = net.createServer({ allowHalfOpen: true }, (socket) => {
      const all = pieces(size).map((piece) => Buffer.from(piece));
      all[1]![5]! ^= wrong;
      let [next, wanted] = [0, true];
      const send = (): void => {
        if (wanted) socket.write(all[next++ % all.length]!, () => setImmediate(send));
        else socket.end();
      };
      socket.on("error", () => {
        wanted = false;
      });
      socket.on("end", () => {
        wanted = false;
      });
      socket.resume();
      send();
    });
    const reads = net.createServer({ allowHalfOpen: true }, (socket) => {
      const check = new SourceCheck(true);
      socket.on("data", (bytes) => {
        bytes[0]! ^= wrong;
        check.take(bytes);
      });
      socket.on("end", () => socket.end(`${check}\n`));
    });
    const [download, upload] = [
      await load(sends, "download", "--size", String(size)),
      await load(reads, "upload"),
    ];
    if (wrong) {
      expect(download).toMatchObject({ code: 1, stderr: /offset 65541 .* expected [0-9a-f ]+, got/ });
      expect(upload).toMatchObject({ code: 1, stderr: /the server says: \d+ bytes, [1-9]\d* wrong/ });
      return;
    }
    for (const { code, stdout, stderr } of [download, upload]) {
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(JSON.parse(stdout.toString()).totalBytes).toBeGreaterThan(0);
    }
    const leaves = net.createServer((socket) => socket.end());
    expect(await load(leaves, "download")).toMatchObject({ code: 1, stderr: /closed the connection/ });
  });

  test("a datagram that is wrong, or of another size, is found", async () => {
    for (const [reply, said] of [
      [(bytes: Buffer) => bytes.fill(0), /expected/],
      [(bytes: Buffer) => bytes.subarray(1), /another size/],
    ] as const) {
      const socket = dgram.createSocket("udp4");
      socket.on("message", (bytes, { port, address }) => socket.send(reply(bytes), port, address));
      socket.bind(0, "127.0.0.1");
      await once(socket, "listening");
      const ended = await run(join(out, "load"), [
        ...["echo", "127.0.0.1", socket.address().port, "--udp", "--seconds", "0.05", ...PATIENT],
      ]);
      socket.close();
      expect(ended.code).toBe(1);
      expect(ended.stderr).toMatch(said);
    }
  });

  test("datagrams come from as many peers as there are to be, and each reply must go to the one that asked", async () => {
    for (const [astray, code] of [
      [false, 0],
      [true, 1],
    ] as const) {
      const seen = new Set<string>();
      const socket = dgram.createSocket("udp4");
      socket.on("message", (bytes, { port, address }) => {
        seen.add(`${address}:${port}`);
        socket.send(bytes, port, astray ? "127.0.0.1" : address);
      });
      socket.bind(0, "127.0.0.1");
      await once(socket, "listening");
      for (let enough = false; !enough; ) {
        seen.clear();
        const ended = await run(join(out, "load"), [
          ...["echo", "127.0.0.1", socket.address().port, "--udp", "--seconds", astray ? "30" : "1"],
          ...["--connections", "2", "--peers", "20", ...PATIENT],
        ]);
        expect(ended.code).toBe(code);
        expect(ended.stderr).toMatch(astray ? /came to another peer/ : /^$/);
        // Fewer datagrams: one of the two processes stood still for that second, and not each peer has had its turn.
        enough = astray || JSON.parse(ended.stdout.toString()).totalOperations >= 100;
      }
      socket.close();
      if (!astray) expect(seen.size).toBe(20);
    }
  });

  test("idle holds its connections until its input ends", async () => {
    const server = liar(Number.POSITIVE_INFINITY, (bytes) => bytes);
    const { code, stdout } = await load(server, "idle", ...few);
    expect(code).toBe(0);
    const [ready, report] = stdout.toString().trim().split("\n");
    expect(ready).toBe('{"ready":true}');
    expect(JSON.parse(report!).totalOperations).toBe(4); // two connections, a message before and after
  });
});
