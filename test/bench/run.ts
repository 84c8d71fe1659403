/**
 * The bench: Socklet beside the bare platform that does the same work, and beside other servers. `npm run bench -- --help`
 * has its options.
 *
 * A program, never a test: it asserts no speed. It exits 1 when a server gave a wrong byte, stalled or did not start,
 * and with `--compare` when something is slower.
 *
 * The servers of a case run on one core, the load on another, but for a full run, where the system places them as it does in use
 * (`--compare` does as the full run that it compares with); they are started anew after half of the rounds, since what
 * a process costs differs from one to the next (its memory layout, its page faults, its compiler's choices). Rounds are interleaved, first to last
 * and last to first by turns, so that a slow minute of the machine hits all. A round gives the rate, and the server's
 * CPU time for a unit of work. What is compared is the ratio within a round; reported is the median of the ratios with
 * its 95 % interval by order statistics (statistics.ts). The first run of each server is a warm-up that counts for
 * nothing. Two processes do not average their luck out: `--self` shows what that comes to, and a small difference is
 * believed when a second run gives it again.
 *
 * A run of all that would take longer than its minutes has fewer rounds from then on, of each case as many fewer, and
 * never fewer than six, with which an interval can be told; how many there were stands in each line. A full run repeats a
 * case whose goal is not resolved, twice at most and while its minutes allow, and judges by all of the rounds.
 *
 * Writes .out/results.json and .out/results.md; of some cases alone, .out/some.json and .out/some.md.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type BenchCase, type Contender, cases, roundsOf, secondsOf, takesPart } from "./cases.ts";
import { compare, comparisonText, type PastRun, readHistory, withRun } from "./history.ts";
import { Bench, type Cores, plannedSeconds, plannedStart, type Server } from "./measure.ts";
import { performancePage } from "./page.ts";
import { allFigures, type Results } from "./report.ts";
import { buildLoad, buildPackage, out, type RuntimeName, runtime, say } from "./runtimes.ts";
import { measureSessions, SESSION_COUNTS, SESSIONS, type SessionTimes, WORKER_SESSIONS } from "./sessions.ts";
import { type CaseResult, type Round, type Run, ratioOf, summarize } from "./statistics.ts";
import { measureWorkerSessions } from "./worker-sessions.ts";

const docs = join(import.meta.dirname, "../../docs");
const historyFile = join(docs, "performance/history.jsonl");

const USAGE = `npm run bench                              all that is installed, in one form each
npm run bench -- --full                    also the other windows of the bulk echo, Bun and Deno, and more rounds where a goal is not resolved; not pinned
npm run bench -- echo resp-P16             the cases of that name, or whose names hold the word
npm run bench -- --list                    their names, and how long they take
npm run bench -- --rounds 25 --seconds 1   12 rounds of 0.25 s where nothing is said
npm run bench -- --self echo               the first program of each case against itself: the noise of this machine
npm run bench -- --publish                 docs/performance.md, of the last run of all
npm run bench -- --full --publish          runs all, writes docs/performance.md, and adds the ratios to docs/performance/history.jsonl
npm run bench -- --compare                 says what is slower than in the last full run of that file by more than both intervals
npm run bench -- --minutes 60              no fewer rounds to be done in time; where nothing is said 14, and with --full as many as it takes
BENCH_PROFILE=1 npm run bench -- echo      also a CPU profile of each Node program

A pool's call beside one on a connection held by hand: npm run bench:pool`;

/** Ends the program: it was asked for what it cannot do. */
function refuse(why: string): never {
  console.error(`bench: ${why}\n\n${USAGE}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        rounds: { type: "string", default: "12" },
        seconds: { type: "string", default: "0.25" },
        self: { type: "boolean", default: false },
        list: { type: "boolean", default: false },
        full: { type: "boolean", default: false },
        publish: { type: "boolean", default: false },
        compare: { type: "boolean", default: false },
        minutes: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    });
  } catch (error) {
    return refuse((error as Error).message); // it names the option
  }
}

const { values: options, positionals: words } = parse();
if (options.help) {
  console.log(USAGE);
  process.exit(0);
}
const rounds = Number(options.rounds);
const seconds = Number(options.seconds);
if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) refuse("--rounds: 1 to 1000");
if (!(seconds >= 0.1 && seconds <= 60)) refuse("--seconds: 0.1 to 60");

const minutes = Number(options.minutes ?? (options.full ? Number.POSITIVE_INFINITY : 14));
if (!(minutes >= 1)) refuse("--minutes: 1 or more");
if (options.compare && (options.self || options.publish))
  refuse("--compare measures, and compares with the last full run: not with --self or --publish");
if (options.publish && (options.self || words.length > 0))
  refuse("--publish takes a run of all: not with --self, or the names of cases");

const PROCESSES = 2; // of each program in a case, one after the other
const AGAIN = 2; // times that a full run repeats a case which has a goal that is not resolved

/** Progress and trouble go to stderr: stdout is the table alone. */
function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

// ------------------------------------------------------------------------------------------------- what is run

/** The cases that `words` mean: a whole name means that case alone, anything else each case that holds it. Without words, all, or those of a plain run. */
function choose(): readonly BenchCase[] {
  const unknown = words.filter(
    (word) =>
      !REGISTRIES.some(({ name }) => name.includes(word)) && !cases.some(({ name }) => name.includes(word)),
  );
  if (unknown.length > 0) refuse(`no case is called ${unknown.join(", ")}: see --list`);
  const all = cases.map(({ name }) => name);
  const names = words.flatMap((word) =>
    all.includes(word) ? [word] : all.filter((name) => name.includes(word)),
  );
  if (words.length === 0) return options.full ? cases : cases.filter(({ full }) => !full);
  return cases.filter(({ name }) => names.includes(name));
}

/** `bench` with those of its programs that can run here; `null` if that leaves nothing to compare. */
function here(bench: BenchCase): BenchCase | null {
  const [base] = bench.contenders;
  if (base === undefined) return null;
  if (options.self) {
    const again: Contender = { ...base, name: "again", label: `${base.label}, again` };
    return { ...bench, contenders: [base, again], goals: [] };
  }
  const contenders = bench.contenders.filter(({ runtime: name }) => typeof runtime(name) !== "string");
  return contenders[0] === base && contenders.length > 1 ? { ...bench, contenders } : null;
}

/** Seconds that a case takes by the sum of its runs, with the starts and warm-ups of its programs. */
function planned(bench: BenchCase): number {
  const count = roundsOf(bench, rounds);
  const one = plannedSeconds(bench.load, secondsOf(bench, seconds));
  return bench.contenders.reduce((sum, contender) => {
    const runs = Array.from({ length: count }, (_, i) => i).filter((i) => takesPart(contender, i, count));
    return sum + runs.length * one + PROCESSES * plannedStart(bench.load, contender.runtime, seconds);
  }, 0);
}

/**
 * How many rounds a case gets of those that it should have, when the bench runs for `elapsed` seconds, of `total`
 * that it should take and has `ahead` of.
 */
function roundsInTime(bench: BenchCase, elapsed: number, total: number, ahead: number): number {
  const count = roundsOf(bench, rounds);
  if (words.length > 0) return count;
  const pace = ahead < total ? Math.max(elapsed / (total - ahead), 1) : 1; // how much slower it is than planned
  const share = Math.min((minutes * 60 - elapsed) / (ahead * pace), 1);
  return Math.min(count, Math.max(Math.round(count * share), 6));
}

function duration(seconds: number): string {
  return seconds < 60
    ? `${seconds.toFixed(0)} s`
    : `${Math.floor(seconds / 60)} min ${(seconds % 60).toFixed(0)} s`;
}

// ----------------------------------------------------------------------------------------------------- rounds

/** `leave` is told why another server takes no further part: one that fails must not cost the rest of the case. */
async function runCase(
  bench: BenchCase,
  tool: Bench,
  count: number,
  leave: (contender: Contender, why: string) => void,
): Promise<CaseResult> {
  const { load } = bench;
  let { contenders } = bench;
  const servers = new Map<string, Server>();
  const done: Round[] = [];
  const half = "rate" in load && load.rate === "half";
  let most = 0; // messages a second that the first program does, where the load has half of them
  const once = (contender: Contender): Promise<Run> => {
    if (load.mode === "start") return tool.runStart(contender);
    if (load.mode === "idle") return tool.runIdle(contender, load);
    return tool.run(servers.get(contender.name)!, load, Math.round(most / 2), secondsOf(bench, seconds));
  };
  const end = async (): Promise<void> => {
    await Promise.all([...servers.values()].map(({ child }) => child.end()));
    servers.clear();
  };
  const tried = async <T>(contender: Contender, what: () => Promise<T>): Promise<T | null> => {
    try {
      return await what();
    } catch (error) {
      if (contender.kind !== "peer") throw error;
      contenders = contenders.filter((other) => other !== contender);
      leave(contender, (error as Error).message);
      return null;
    }
  };
  const start = async (): Promise<void> => {
    await end();
    for (const contender of contenders) {
      await tried(contender, async () => {
        const server = await tool.startServer(contender);
        servers.set(contender.name, server);
        await tool.check(server, load);
      });
    }
    for (const contender of contenders) {
      const { name, runtime } = contender;
      const warm = await tried(contender, () => tool.warmUp(servers.get(name)!, load, runtime));
      if (half && contender === contenders[0]) most = warm?.rate ?? 0;
    }
  };
  const each = Math.ceil(count / PROCESSES); // rounds of one process
  try {
    for (let i = 0; i < count; i++) {
      if (load.mode !== "start" && load.mode !== "idle" && i % each === 0) await start();
      const round: Record<string, Run> = {};
      const part = contenders.filter((contender) => takesPart(contender, i, count));
      for (const contender of i % 2 === 0 ? part : part.toReversed()) {
        const run = await tried(contender, () => once(contender));
        if (run !== null) round[contender.name] = run;
      }
      done.push(round);
      const [base, second] = contenders;
      const next = contenders.find(({ kind }) => kind === "socklet") ?? second;
      const ratio = ratioOf([round], next!.name, base!.name, bench.figure);
      note(`  ${bench.name}: round ${i + 1} of ${count}, ${next!.label} ${ratio?.median.toFixed(2)}`);
    }
    return summarize(bench, done);
  } finally {
    await end();
  }
}

// --------------------------------------------------------------------------------------------------- the program

/** Two cores that we are allowed to use, or null. */
function pickCores(): Cores | null {
  const list = readFileSync("/proc/self/status", "latin1").match(/^Cpus_allowed_list:\t(.+)$/m)?.[1] ?? "";
  const allowed = list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
  if (allowed.length < 2) note("NOT PINNED: there is one core only, so server and load compete for it");
  else {
    try {
      say("taskset", "--version");
      return { server: allowed[0]!, load: allowed[1]! };
    } catch (error) {
      note(`NOT PINNED: ${(error as Error).message}`);
    }
  }
  return null;
}

/** What stands in the way of what is made first; `null` if nothing does. */
function trouble(make: () => void): string | null {
  try {
    make();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

function commitText(): string {
  try {
    return say("git", "-C", docs, "describe", "--always", "--dirty", "--abbrev=12");
  } catch {
    return "unknown";
  }
}

const REGISTRIES = [
  { name: SESSIONS, key: "sessions", measure: measureSessions },
  { name: WORKER_SESSIONS, key: "workerSessions", measure: measureWorkerSessions },
] as const;

/** The registries of sessions that are part of this run: of a run of all, and where a word names one. */
const registries = REGISTRIES.filter(
  ({ name }) => !options.self && (words.length === 0 || words.some((word) => name.includes(word))),
);

async function runRegistry({ name, measure }: (typeof REGISTRIES)[number]): Promise<SessionTimes[]> {
  const done: SessionTimes[] = [];
  for (const at of SESSION_COUNTS) {
    const times = await measure(at);
    note(`  ${name}: ${at}, a page in ${times.page.toFixed(2)} ms`);
    done.push(times);
  }
  return done;
}

/** `pins`: servers and load have a core each. */
async function measureAll(pins: boolean): Promise<Results> {
  const chosen = choose();
  if (process.platform !== "linux") throw new Error("the bench needs Linux: epoll, /proc and taskset");
  const runtimes = new Set(chosen.flatMap(({ contenders }) => contenders.map((one) => one.runtime)));
  const versions: Partial<Record<RuntimeName, string>> = {};
  const absent: Partial<Record<RuntimeName, string>> = {};
  for (const name of runtimes) {
    const found = runtime(name);
    if (typeof found === "string") absent[name] = found;
    else versions[name] = found.version;
  }
  const plan = chosen.flatMap((bench) => here(bench) ?? []);
  const plannedTotal = plan.reduce((sum, bench) => sum + planned(bench), 0);
  if (options.list) {
    for (const bench of plan)
      console.log(`${bench.name.padEnd(24)} ${duration(planned(bench)).padStart(12)}`);
    for (const { name } of registries) console.log(`${name.padEnd(24)} ${"10 s".padStart(12)}`);
    console.log(`${"all of it".padEnd(24)} ${duration(plannedTotal).padStart(12)}`);
    process.exit(0);
  }
  for (const [name, why] of Object.entries(absent)) note(`ABSENT: ${name}: ${why}`);
  note(`${plan.length} cases, ${duration(plannedTotal)}`);

  const began = Date.now();
  const cores = pins ? pickCores() : null;
  const isOpen = ({ goals }: CaseResult): boolean =>
    options.full && goals.some(({ verdict }) => verdict === "not resolved");
  const hasTimeFor = (seconds: number): boolean => (Date.now() - began) / 1000 + seconds <= minutes * 60;
  const done: CaseResult[] = [];
  const failed: { name: string; why: string }[] = [];
  const fail = (name: string, why: string): void => {
    note(`FAILED: ${name}: ${why}`);
    if (failed.every((one) => one.name !== name)) failed.push({ name, why });
  };
  const noLoad = trouble(buildLoad); // the load is a C program
  const noPackage = plan.some(({ load }) => load.mode === "start") ? trouble(buildPackage) : null;
  const tool = new Bench(join(out, "load"), cores, seconds);
  let ahead = plannedTotal;
  for (const bench of plan) {
    const count = roundsInTime(bench, (Date.now() - began) / 1000, plannedTotal, ahead);
    ahead -= planned(bench);
    note(`${bench.name}: ${bench.contenders.map(({ name }) => name).join(", ")}`);
    const leave = ({ label }: Contender, why: string): void => fail(`${bench.name} (${label})`, why);
    try {
      const lacks = bench.load.mode === "start" ? noPackage : noLoad;
      if (lacks !== null) throw new Error(lacks);
      let result = await runCase(bench, tool, count, leave);
      for (let i = 0; i < AGAIN && isOpen(result) && hasTimeFor(planned(bench) + ahead); i++) {
        note(`${bench.name}: a goal is not resolved, so ${count} rounds more`);
        result = summarize(bench, [...result.rounds, ...(await runCase(bench, tool, count, leave)).rounds]);
      }
      done.push(result);
    } catch (error) {
      fail(bench.name, (error as Error).message);
    }
  }
  const sessions: Pick<Results, "sessions" | "workerSessions"> = {};
  for (const registry of registries) {
    try {
      Object.assign(sessions, { [registry.key]: await runRegistry(registry) });
    } catch (error) {
      fail(registry.name, (error as Error).message);
    }
  }
  return {
    date: new Date(began).toISOString().slice(0, 10),
    began: new Date(began).toISOString(),
    commit: commitText(),
    full: options.full && words.length === 0 && !options.self,
    machine: {
      cpu: cpus()[0]?.model ?? "unknown",
      cores: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      pinned: cores !== null,
    },
    versions,
    absent,
    self: options.self,
    rounds,
    seconds,
    plannedSeconds: Math.round(plannedTotal),
    tookSeconds: Math.round((Date.now() - began) / 1000),
    failed,
    cases: done,
    ...sessions,
  };
}

const history = (): string => (existsSync(historyFile) ? readFileSync(historyFile, "utf8") : "");

function publish(results: Results): void {
  const past = results.full ? withRun(history(), results) : null; // throws for a run that is too short, before anything is written
  mkdirSync(join(docs, "performance"), { recursive: true });
  const { markdown, plots } = performancePage(results);
  writeFileSync(join(docs, "performance.md"), markdown);
  for (const [name, svg] of Object.entries(plots))
    writeFileSync(join(docs, "performance", `${name}.svg`), svg);
  if (past !== null) writeFileSync(historyFile, past);
}

/** The run that `--compare` compares with. Throws if there is none. */
function lastFullRun(): PastRun {
  const last = readHistory(history()).at(-1);
  if (last !== undefined) return last;
  throw new RangeError(
    "there is no full run to compare with in docs/performance/history.jsonl: npm run bench -- --full --publish",
  );
}

const all = words.length === 0 && !options.self;
const file = join(out, all ? "results" : "some");
if (!options.publish || options.full) {
  const last = options.compare ? lastFullRun() : null; // before half an hour is spent
  const results = await measureAll(last === null ? !options.full : last.machine.pinned);
  mkdirSync(out, { recursive: true });
  // Five figures say more than was measured; sixteen only fill the file.
  const short = (_: string, value: unknown): unknown =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(5)) : value;
  writeFileSync(`${file}.json`, `${JSON.stringify(results, short)}\n`);
  const table = allFigures(results);
  writeFileSync(`${file}.md`, table);
  console.log(table);
  note(
    `${file}.json and .md, ${duration(results.tookSeconds)} (planned ${duration(results.plannedSeconds)})`,
  );
  if (last !== null) console.log(comparisonText(results, last));
  const slower = last !== null && compare(results, last).slower.length > 0;
  process.exitCode = results.failed.length > 0 || slower ? 1 : 0;
}
if (options.publish) publish(JSON.parse(readFileSync(join(out, "results.json"), "utf8")));
