/**
 * The benchmark of the hot path: each Socklet server beside the bare `node:net` server that does the same.
 *
 *     npm run bench                                all cases, under 4 minutes
 *     npm run bench -- echo resp-try --rounds 25 --seconds 1      the cases whose name holds one of the words
 *     npm run bench -- --self                      the baseline against itself: the noise floor of this machine now
 *     npm run bench -- --list
 *
 * A program, never a test: it asserts no speed. It exits 1 when a server gave a wrong byte, stalled or did not start.
 *
 * Both servers of a case are started once, on one core; the load runs on another. Rounds are interleaved, AB BA AB …,
 * so that a slow minute of the machine hits both. A round gives the rate and the server's CPU time per unit of work.
 * What is compared is the ratio within a round; reported is the median of the ratios with its 95 % interval by order
 * statistics (statistics.ts). The first round of each server is a warm-up that counts for nothing.
 * The interval knows nothing of the luck of a process (its memory layout, its compiler's choices), which lasts a whole
 * case: `--self` shows what that comes to, and a small difference is believed when a second run gives it again.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { availableParallelism, cpus, release } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { type BenchCase, cases, type Load, type Program } from "./cases.ts";
import { type Interval, median, medianInterval } from "./statistics.ts";

const here = import.meta.dirname;
const out = join(here, ".out");
const START_MS = 15_000; // for a server to say its port: generous, the machine may be shared
const SETTLE_MS = 40; // after a round: the server closes its connections in its own round, not in the other's
const END_MS = 2_000; // from SIGTERM to SIGKILL
const WARMUP_SECONDS = 0.1; // of each load: connections opened, buffers grown

interface Round {
  /** Units of work a second. */
  rate: number;
  /** Server CPU time per unit of work, microseconds. */
  cpuUs: number;
  /** Server CPU time per second of load: well below 1 means that the load was the bottleneck. */
  busy: number;
  /** What the load tool said, as it said it. */
  load: Record<string, number | string>;
}

interface CaseResult extends BenchCase {
  rounds: { baseline: Round; subject: Round }[];
  summary: {
    baseline: { rate: number; cpuUs: number; busy: number };
    subject: { rate: number; cpuUs: number; busy: number };
    rateRatio: Ratio;
    cpuRatio: Ratio;
  };
}

interface Ratio {
  median: number;
  interval: Interval | null;
}

// ---------------------------------------------------------------------------------------------- child processes

/** All that run now, each ended by its own handle, whatever way we leave. */
const running = new Set<ChildProcess>();

function start(core: number | null, command: string, args: readonly string[], ipc: boolean): ChildProcess {
  const [file, argv] = core === null ? [command, args] : ["taskset", ["-c", String(core), command, ...args]];
  // taskset executes the command in its own process, so `child.pid` is the server's.
  const child = spawn(file, argv, { stdio: ["ignore", "pipe", "pipe", ...(ipc ? (["ipc"] as const) : [])] });
  running.add(child);
  child.once("error", () => running.delete(child));
  child.once("exit", () => running.delete(child));
  return child;
}

/** The child's stdout or stderr so far; only its end is kept. */
function textOf(stream: NodeJS.ReadableStream | null): () => string {
  let text = "";
  stream?.setEncoding("utf8").on("data", (chunk: string) => {
    text = (text + chunk).slice(-16_384);
  });
  return () => text;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const exited = once(child, "exit");
  child.kill("SIGTERM");
  const late = setTimeout(() => child.kill("SIGKILL"), END_MS);
  await exited;
  clearTimeout(late);
}

function killAll(): void {
  for (const child of running) child.kill("SIGKILL");
}
process.once("exit", killAll);
for (const [signal, code] of [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
] as const) {
  process.once(signal, () => process.exit(code));
}

/** Runs a load tool to its end and gives its stdout; throws with its stderr when it fails or takes too long. */
async function runTool(command: string, args: readonly string[], boundSeconds: number): Promise<string> {
  const child = start(cores?.load ?? null, command, args, false);
  const stdout = textOf(child.stdout);
  const stderr = textOf(child.stderr);
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, boundSeconds * 1000);
  try {
    const [code, signal] = await once(child, "close");
    if (late)
      throw new Error(`${command} did not end within ${boundSeconds.toFixed(0)} s: the server stalled`);
    if (code !== 0) throw new Error(`${command} ended with ${signal ?? code}: ${stderr().trim()}`);
    return stdout();
  } finally {
    clearTimeout(timer);
  }
}

// ------------------------------------------------------------------------------------------------------ servers

interface Server {
  readonly child: ChildProcess;
  readonly port: number;
  readonly stderr: () => string;
}

async function startServer([file, ...args]: Program): Promise<Server> {
  const argv = ["--conditions=socklet:source", join(here, "servers", file), ...args];
  const child = start(cores?.server ?? null, process.execPath, argv, true);
  const stdout = textOf(child.stdout);
  const stderr = textOf(child.stderr);
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  child.stdout?.on("data", () => {
    const line = stdout().match(/^\{"port":(\d+)\}\n/);
    if (line) resolve(Number(line[1]));
  });
  child.once("error", reject);
  child.once("close", (code, signal) => {
    reject(new Error(`${file} ended with ${signal ?? code} before it listened:\n${indent(stderr())}`));
  });
  const timer = setTimeout(() => reject(new Error(`${file} did not listen within ${START_MS} ms`)), START_MS);
  try {
    return { child, port: await promise, stderr };
  } catch (error) {
    await end(child);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** CPU time that a process has used, in seconds: all its threads, user and kernel (proc_pid_stat(5)). */
function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // the name may hold spaces; field 3 is first here
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** redis-benchmark does not look at what it is answered, so this does, once for each server. */
async function checkResp(port: number): Promise<void> {
  const sent =
    "PING\r\nPING two\r\n*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" +
    "GET none\r\nNO\r\n";
  const wanted =
    "+PONG\r\n$3\r\ntwo\r\n+PONG\r\n+OK\r\n$5\r\nvalue\r\n$-1\r\n-ERR unknown command or wrong number of arguments\r\n";
  // Whole, and then a byte a segment, so that each place where a chunk may end is met.
  for (const pieces of [[sent.repeat(50)], [...sent]]) {
    const expected = pieces.length === 1 ? wanted.repeat(50) : wanted;
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    socket.setEncoding("latin1");
    const signal = AbortSignal.timeout(5000);
    let got = "";
    try {
      await once(socket, "connect", { signal });
      socket.on("data", (text: string) => {
        got += text;
        if (got.length >= expected.length) socket.emit("answered");
      });
      const answered = once(socket, "answered", { signal });
      answered.catch(() => {}); // reported where it is awaited
      for (const piece of pieces) await new Promise((resolve) => socket.write(piece, resolve));
      await answered;
    } catch (error) {
      throw new Error(`RESP check: ${(error as Error).message}; got ${JSON.stringify(got.slice(-100))}`);
    } finally {
      socket.destroy();
    }
    if (got !== expected) throw new Error(`RESP check: wrong replies: ${JSON.stringify(got.slice(0, 300))}`);
  }
}

// ------------------------------------------------------------------------------------------------------- rounds

/** One run of the load: units of work done while measured and in all, and the seconds of both. */
interface LoadRun {
  rate: number;
  totalWork: number;
  totalSeconds: number;
  told: Record<string, number | string>;
}

async function runLoad(load: Load, port: number, seconds: number, rateHint: number): Promise<LoadRun> {
  if (load.tool === "load") {
    const args = [load.mode, "127.0.0.1", port, "--connections", load.connections, "--size", load.size];
    args.push("--seconds", seconds, "--warmup", WARMUP_SECONDS);
    const told = JSON.parse(await runTool(join(out, "load"), args.map(String), seconds + 40));
    const bulk = load.mode === "bulk";
    return {
      rate: bulk ? told.mibPerSecond : told.rate,
      totalWork: bulk ? told.totalBytes / 2 ** 20 : told.totalOperations,
      totalSeconds: told.totalSeconds,
      told,
    };
  }
  // redis-benchmark takes a number of commands, not a time: as many as the last rate gives for the same time.
  const batch = load.connections * load.pipeline;
  const commands = Math.max(10, Math.round((rateHint * seconds) / batch)) * batch;
  const args = ["-h", "127.0.0.1", "-p", port, "-t", load.test, "--csv", "-c", load.connections];
  args.push("-P", load.pipeline, "-n", commands);
  const csv = await runTool("redis-benchmark", args.map(String), 30 + seconds * 20);
  const [names, values] = csv
    .trim()
    .split("\n")
    .map((line) => line.split(",").map((cell) => cell.replaceAll('"', "")));
  const told = Object.fromEntries(
    (names ?? []).map((name, i) => [name, Number(values?.[i]) || values?.[i] || ""]),
  );
  const rate = Number(told.rps);
  if (!(rate > 0)) throw new Error(`redis-benchmark said: ${csv}`);
  return { rate, totalWork: commands, totalSeconds: commands / rate, told };
}

async function round(server: Server, load: Load, seconds: number, rateHint: number): Promise<Round> {
  const before = cpuSeconds(server.child.pid!);
  const run = await runLoad(load, server.port, seconds, rateHint);
  await sleep(SETTLE_MS);
  if (server.child.exitCode !== null || server.child.signalCode !== null) throw new Error("the server ended");
  const cpu = cpuSeconds(server.child.pid!) - before;
  return { rate: run.rate, cpuUs: (cpu / run.totalWork) * 1e6, busy: cpu / run.totalSeconds, load: run.told };
}

async function runCase(bench: BenchCase, rounds: number, seconds: number): Promise<CaseResult> {
  const servers: Server[] = [];
  try {
    for (const program of [bench.baseline, bench.subject]) servers.push(await startServer(program));
    const hints: number[] = [];
    for (const server of servers) {
      if (bench.load.tool === "redis-benchmark") await checkResp(server.port);
      // Twice where the load needs to know the rate: the first run also pays for the compiler.
      let hint =
        bench.load.tool === "redis-benchmark" ? (await round(server, bench.load, 0.2, 50_000)).rate : 0;
      hint = (await round(server, bench.load, seconds, hint)).rate;
      hints.push(hint);
    }
    const results: CaseResult["rounds"] = [];
    for (let i = 0; i < rounds; i++) {
      const pair: Round[] = [];
      for (const which of i % 2 === 0 ? [0, 1] : [1, 0]) {
        pair[which] = await round(servers[which]!, bench.load, seconds, hints[which]!);
      }
      results.push({ baseline: pair[0]!, subject: pair[1]! });
      note(
        `  ${bench.name}: round ${i + 1} of ${rounds}, rate ${(pair[1]!.rate / pair[0]!.rate).toFixed(2)}`,
      );
    }
    return { ...bench, rounds: results, summary: summarize(results) };
  } catch (error) {
    const said = servers.map((server) => server.stderr()).join("");
    throw said === "" ? error : new Error(`${(error as Error).message}\n${indent(said)}`);
  } finally {
    await Promise.all(servers.map((server) => end(server.child)));
  }
}

function summarize(rounds: CaseResult["rounds"]): CaseResult["summary"] {
  const of = (side: "baseline" | "subject") => ({
    rate: median(rounds.map((r) => r[side].rate)),
    cpuUs: median(rounds.map((r) => r[side].cpuUs)),
    busy: median(rounds.map((r) => r[side].busy)),
  });
  const ratio = (what: "rate" | "cpuUs"): Ratio => {
    const ratios = rounds.map((r) => r.subject[what] / r.baseline[what]);
    return { median: median(ratios), interval: medianInterval(ratios) };
  };
  return {
    baseline: of("baseline"),
    subject: of("subject"),
    rateRatio: ratio("rate"),
    cpuRatio: ratio("cpuUs"),
  };
}

// ------------------------------------------------------------------------------------------------------- report

function indent(text: string): string {
  return text.trim().replaceAll(/^/gm, "    ");
}

/** Progress and trouble go to stderr: stdout is the table alone. */
function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

function loudly(text: string): void {
  const bar = "!".repeat(100);
  note(`${bar}\n${text}\n${bar}`);
}

function short(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

function ratioText({ median: middle, interval }: Ratio): string {
  const range = interval ? `${interval.low.toFixed(2)}–${interval.high.toFixed(2)}` : "6 rounds needed";
  return `**${middle.toFixed(2)}** [${range}]`;
}

function table(results: readonly CaseResult[], baseline: string, subject: string): string {
  const head = ["case", "unit", `${baseline}/s`, `${subject}/s`, "rate ratio [95 %]", `CPU µs ${baseline}`];
  head.push(`CPU µs ${subject}`, "CPU ratio [95 %]", "server busy", "rounds");
  const rows = results.map(({ name, unit, summary: { baseline: a, subject: b, ...s }, rounds }) => [
    name,
    unit,
    short(a.rate),
    short(b.rate),
    ratioText(s.rateRatio),
    a.cpuUs.toPrecision(3),
    b.cpuUs.toPrecision(3),
    ratioText(s.cpuRatio),
    `${percent(a.busy)}, ${percent(b.busy)}`,
    String(rounds.length),
  ]);
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

// --------------------------------------------------------------------------------------------------- the program

const { values: options, positionals: words } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "12" },
    seconds: { type: "string", default: "0.5" },
    self: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
  },
});
const rounds = Number(options.rounds);
const seconds = Number(options.seconds);
if (!Number.isInteger(rounds) || rounds < 1 || rounds > 1000) throw new RangeError("--rounds: 1 to 1000");
if (!(seconds >= 0.1 && seconds <= 60)) throw new RangeError("--seconds: 0.1 to 60");
const unknown = words.filter((word) => !cases.some(({ name }) => name.includes(word)));
if (unknown.length > 0) throw new RangeError(`no case is called ${unknown.join(", ")}: see --list`);

// A whole name means that case alone, anything else each case that holds it.
const names = words.flatMap((word) => {
  const all = cases.map(({ name }) => name);
  return all.includes(word) ? [word] : all.filter((name) => name.includes(word));
});
let chosen = words.length === 0 ? cases : cases.filter(({ name }) => names.includes(name));
if (options.self) {
  // Cases that differ in their Socklet program alone become the same case.
  chosen = chosen
    .map((bench) => ({ ...bench, subject: bench.baseline, name: bench.name.replace(/^resp-\w+-/, "resp-") }))
    .filter((bench, i, all) => all.findIndex(({ name }) => name === bench.name) === i);
}
if (options.list) {
  console.log(chosen.map(({ name }) => name).join("\n"));
  process.exit(0);
}
if (process.platform !== "linux") throw new Error("the bench needs Linux: epoll, /proc and taskset");

/** What stands in the way of a program that is looked for by running it; `null` when it is there. */
function missing(command: string, ...args: string[]): string | null {
  try {
    execFileSync(command, args, { stdio: "pipe", timeout: 20_000 });
    return null;
  } catch (error) {
    const { code, stderr } = error as NodeJS.ErrnoException & { stderr?: Buffer };
    return code === "ENOENT" ? `${command} is not installed` : `${command} failed: ${stderr ?? error}`.trim();
  }
}

function buildLoad(): string | null {
  mkdirSync(out, { recursive: true });
  const fresh = join(out, `load.${process.pid}`); // renamed, since a load that runs now cannot be overwritten
  const trouble = missing("cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-o", fresh, join(here, "load.c"));
  if (trouble === null) renameSync(fresh, join(out, "load"));
  return trouble;
}

/** Two cores that we are allowed to use, or null. */
function pickCores(): { server: number; load: number } | null {
  const list = readFileSync("/proc/self/status", "latin1").match(/^Cpus_allowed_list:\t(.+)$/m)?.[1] ?? "";
  const allowed = list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i);
  });
  if (allowed.length < 2) loudly("NOT PINNED: there is one core only, so server and load compete for it");
  else if (missing("taskset", "--version") !== null)
    loudly("NOT PINNED: taskset (util-linux) is not installed");
  else return { server: allowed[0]!, load: allowed[1]! };
  return null;
}

const began = Date.now();
const cores = pickCores();
const ticksPerSecond = Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));
const skipped: { name: string; why: string }[] = [];
for (const [tool, trouble] of [
  ["load", chosen.some(({ load }) => load.tool === "load") ? buildLoad() : null],
  [
    "redis-benchmark",
    chosen.some(({ load }) => load.tool === "redis-benchmark")
      ? missing("redis-benchmark", "--version")
      : null,
  ],
] as const) {
  if (trouble === null) continue;
  const lost = chosen.filter(({ load }) => load.tool === tool);
  skipped.push(...lost.map(({ name }) => ({ name, why: trouble })));
  loudly(`SKIPPED, since ${trouble}:\n  ${lost.map(({ name }) => name).join("\n  ")}`);
  chosen = chosen.filter(({ load }) => load.tool !== tool);
}

const results: CaseResult[] = [];
const failed: { name: string; why: string }[] = [];
for (const bench of chosen) {
  note(`${bench.name}: ${bench.baseline.join(" ")} | ${bench.subject.join(" ")}`);
  try {
    results.push(await runCase(bench, rounds, seconds));
  } catch (error) {
    failed.push({ name: bench.name, why: (error as Error).message });
    loudly(`FAILED: ${bench.name}: ${(error as Error).message}`);
  }
}

const machine = {
  cpu: cpus()[0]?.model ?? "unknown",
  cores: availableParallelism(),
  pinned: cores,
  kernel: release(),
  node: process.version,
};
mkdirSync(out, { recursive: true });
const file = join(out, "results.json");
const about = { date: new Date(began).toISOString(), self: options.self, rounds, seconds, machine };
writeFileSync(file, `${JSON.stringify({ ...about, skipped, failed, cases: results }, null, 2)}\n`);

console.log(options.self ? table(results, "bare", "bare again") : table(results, "bare", "Socklet"));
console.log(
  `\n${rounds} rounds of ${seconds} s, medians; ratios are of the same round, with the 95 % interval of their median ` +
    `by order statistics. CPU is the server's, per unit. ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, ` +
    `${cores ? `server on core ${cores.server}, load on ${cores.load}` : "not pinned"}.`,
);
for (const { name, why } of skipped) console.log(`\nSkipped: ${name}: ${why}`);
for (const { name, why } of failed) console.log(`\nFailed: ${name}: ${why}`);
note(`${file}, ${((Date.now() - began) / 1000).toFixed(0)} s`);
process.exitCode = failed.length > 0 ? 1 : 0;
