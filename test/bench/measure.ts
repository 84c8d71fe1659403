/** One program under one load, once: children on their cores, and what they did. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { exitOnSignals, tied } from "../peers/children.ts";
import { reservePort } from "../peers/ports.ts";
import type { Contender, Load } from "./cases.ts";
import { certificate } from "./certificate.ts";
import { type RuntimeName, runtime } from "./runtimes.ts";
import type { Run } from "./statistics.ts";

const START_MS = 15_000; // for a server to say its port: generous, the machine may be shared
const SERVED_SECONDS = 2; // before idle connections: until then the young generation of V8 grows, which is not theirs
const OPEN_MS = 60_000; // for the idle connections to be open: 5,000 threads of Python took 8 to 10 s, and once more than 15
const SETTLE_MS = 40; // after a run: the server closes its connections in its own time, not in the next one's
const CLOSE_MS = 5_000; // for that, where there are many
const SPARE_DESCRIPTORS = 100; // that a server may have opened for itself meanwhile
const END_MS = 2_000; // from SIGTERM to SIGKILL
const WARMUP_SECONDS = 0.1; // of each load: connections opened, buffers grown
const COMPILE_SECONDS = 1; // before the rounds, where a compiler is to see what is hot (measured: CPU falls until then)
const HANDSHAKE_SECONDS = 4; // the same for TLS connections, of which a second has 1,700 (measured)
const LOAD_SECONDS = 40; // over what a load was asked for; it has its own, shorter limits
const PING = { request: "*1\\r\\n$4\\r\\nPING\\r\\n", reply: "+PONG\\r\\n" }; // as load.c takes them

/** Where the two sides run. */
export interface Cores {
  readonly server: number;
  readonly load: number;
}

// ---------------------------------------------------------------------------------------------- child processes

exitOnSignals();

/** A child process, and the end of what it has said. */
class Child {
  readonly process: ChildProcess;
  readonly #name: string;
  readonly #closed: Promise<unknown[]>;
  readonly #said = { stdout: "", stderr: "" };

  constructor(
    name: string,
    core: number | undefined,
    command: readonly string[],
    { ipc = false, stdin = false } = {},
  ) {
    // taskset executes the command in its own process, so its pid is the command's.
    const [file = "", ...args] = core === undefined ? command : ["taskset", "-c", String(core), ...command];
    this.#name = name;
    this.process = tied(
      spawn(file, args, {
        stdio: [stdin ? "pipe" : "ignore", "pipe", "pipe", ...(ipc ? (["ipc"] as const) : [])],
      }),
    );
    this.#closed = once(this.process, "close");
    this.#closed.catch(() => {});
    for (const stream of ["stdout", "stderr"] as const) {
      this.process[stream]?.setEncoding("utf8").on("data", (chunk: string) => {
        this.#said[stream] = (this.#said[stream] + chunk).slice(-16_384);
      });
    }
  }

  get ended(): boolean {
    const { exitCode, signalCode, pid } = this.process;
    return exitCode !== null || signalCode !== null || pid === undefined;
  }

  get stderr(): string {
    return this.#said.stderr.trim();
  }

  /** Its line of JSON that has `key`; rejects if it ends before. */
  async line(key: string, limit = START_MS): Promise<Record<string, unknown>> {
    const { stdout } = this.process;
    const ended = this.#closed.then(() => {
      throw new Error(`${this.#name} ended: ${this.stderr}`);
    });
    ended.catch(() => {});
    const late = sleep(limit, undefined, { ref: false }).then(() => {
      throw new Error(`${this.#name} did not say its ${key} within ${limit} ms`);
    });
    late.catch(() => {});
    for (;;) {
      const whole = this.#said.stdout.split("\n").slice(0, -1);
      const found = whole.find((line) => line.includes(`"${key}":`));
      if (found !== undefined) return JSON.parse(found);
      await Promise.race([once(stdout!, "data"), ended, late]);
    }
  }

  /** Its last line of JSON when it has ended well; rejects if it did not, or takes more than `seconds`. */
  async report(seconds: number): Promise<LoadReport> {
    const timer = setTimeout(() => this.process.kill("SIGKILL"), seconds * 1000);
    const [code, signal] = await this.#closed;
    clearTimeout(timer);
    if (code !== 0) throw new Error(`${this.#name} ended with ${signal ?? code}: ${this.stderr}`);
    return JSON.parse(this.#said.stdout.trim().split("\n").at(-1) ?? "");
  }

  async end(): Promise<void> {
    if (this.ended) return;
    this.process.kill("SIGTERM");
    const late = setTimeout(() => this.process.kill("SIGKILL"), END_MS);
    await this.#closed;
    clearTimeout(late);
  }
}

/** What `load.c` prints, as far as it is used: of the time that it measured, without the warm-up. */
interface LoadReport {
  readonly rate: number;
  readonly mibPerSecond: number;
  readonly p50us: number;
  readonly p99us: number;
  readonly operations: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly totalBytes: number;
  readonly serverCpuSeconds: number;
  readonly serverFaults: number;
  readonly serverSwitches: number;
}

// ------------------------------------------------------------------------------------------------------ servers

/** A server program that listens. */
export interface Server {
  readonly child: Child;
  readonly port: number;
  /** From the start of its process to the line that said its port. */
  readonly startMs: number;
  /** CPU until then, where it told. */
  readonly startCpuUs: number | undefined;
}

/** Until something listens on `port`: for a program that does not say so. */
async function untilListens(port: number, child: Child): Promise<void> {
  for (const deadline = performance.now() + START_MS; performance.now() < deadline; await sleep(5)) {
    if (child.ended) break;
    const socket = connect(port, "127.0.0.1");
    const open = await new Promise((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (open) return;
  }
  throw new Error(`nothing listens on port ${port}: ${child.stderr}`);
}

/** Memory of a process that is in RAM, in KiB (proc_pid_status(5)). */
const residentKiB = (pid: number): number =>
  Number(readFileSync(`/proc/${pid}/status`, "latin1").match(/^VmRSS:\s+(\d+) kB$/m)?.[1]);

/** Descriptors that a process has open. */
const descriptorsOf = (pid: number): number => readdirSync(`/proc/${pid}/fd`).length;

/** Until `child` has closed what it opened: with 16,000 connections the next run's would not fit beside the last one's. */
async function untilClosed(child: Child, before: number): Promise<void> {
  await sleep(SETTLE_MS);
  for (const deadline = performance.now() + CLOSE_MS; performance.now() < deadline; await sleep(5)) {
    if (child.ended || descriptorsOf(child.process.pid!) <= before + SPARE_DESCRIPTORS) return;
  }
}

/** The load looks at each reply to PING; this looks once at how a server takes what PING does not have. */
async function checkResp(port: number): Promise<void> {
  const sent =
    "PING\r\nPING two\r\n*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n" +
    "GET none\r\n";
  const wanted = "+PONG\r\n$3\r\ntwo\r\n+PONG\r\n+OK\r\n$5\r\nvalue\r\n$-1\r\n";
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

// --------------------------------------------------------------------------------------------------------- runs

const options = (values: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);

/** Runs programs and loads. */
export class Bench {
  readonly #load: string;
  readonly #cores: Cores | null;
  readonly #seconds: number;

  /** `load`: the load tool. `cores`: `null` if both sides run where the kernel likes. `seconds`: of one run. */
  constructor(load: string, cores: Cores | null, seconds: number) {
    this.#load = load;
    this.#cores = cores;
    this.#seconds = seconds;
  }

  async startServer({ runtime: name, args }: Contender): Promise<Server> {
    const host = runtime(name);
    if (typeof host === "string") throw new Error(`${name}: ${host}`);
    const wanted = host.needsPort ? await reservePort() : 0;
    const command = await host.command(args, wanted);
    const began = performance.now();
    const child = new Child(`${name} ${args.join(" ")}`, this.#cores?.server, command, {
      ipc: name === "node",
    });
    try {
      if (wanted > 0) await untilListens(wanted, child);
      const { port, pid, cpuUs } = wanted > 0 ? { port: wanted } : await child.line("port");
      const startMs = performance.now() - began;
      if (pid !== undefined && pid !== child.process.pid) {
        throw new Error(
          `${name} on PATH starts another process, whose CPU would not be seen: put that one there`,
        );
      }
      return { child, port: port as number, startMs, startCpuUs: cpuUs as number | undefined };
    } catch (error) {
      await child.end();
      throw error;
    }
  }

  /** Whatever is to be seen once of a server's answers, beyond what each run looks at. */
  async check(server: Server, load: Load): Promise<void> {
    if (load.mode === "ping") await checkResp(server.port);
    if (load.mode === "source") await this.#download(server.port, "every", this.#seconds);
  }

  /** A run that counts for nothing, at full speed; returns what it did. */
  warmUp(server: Server, load: Load, runtime: RuntimeName): Promise<Run> {
    return this.run(server, load, 0, warmUpSeconds(load, runtime, this.#seconds));
  }

  /** One run against a server that listens. `rate`: messages a second, where the load has one. */
  async run({ child, port }: Server, load: Load, rate = 0, length = this.#seconds): Promise<Run> {
    const before = descriptorsOf(child.process.pid!);
    const watched = ["--pid", String(child.process.pid), "--warmup", String(WARMUP_SECONDS)];
    const run =
      load.mode === "source"
        ? this.#download(port, "some", length, watched)
        : this.#ask(port, load, rate, length, watched);
    const { operations, bytes, seconds, serverCpuSeconds, serverFaults, serverSwitches, ...told } = await run;
    await untilClosed(child, before);
    if (child.ended) throw new Error(`the server ended: ${child.stderr}`);
    const cpu = (work: number): Run =>
      work === 0
        ? {}
        : {
            cpuUs: (serverCpuSeconds / work) * 1e6,
            busy: serverCpuSeconds / seconds,
            faults: serverFaults / work,
            switches: serverSwitches / work,
          };
    if (["bulk", "source", "download", "upload"].includes(load.mode))
      return { rate: told.mibPerSecond, ...cpu(bytes / 2 ** 20) };
    return { rate: told.rate, p50us: told.p50us, p99us: told.p99us, ...cpu(operations) };
  }

  /** From nothing to listening. */
  async runStart(contender: Contender): Promise<Run> {
    const { child, startMs, startCpuUs } = await this.startServer(contender);
    await child.end();
    return startCpuUs === undefined ? { startMs } : { startMs, cpuUs: startCpuUs };
  }

  /** What connections that do nothing cost a server which has served some before. */
  async runIdle(contender: Contender, load: Load & { mode: "idle" }): Promise<Run> {
    const { connections, size } = load;
    const { child, port } = await this.startServer(contender);
    try {
      const pid = child.process.pid!;
      await this.#ask(port, { mode: "echo", connections: 50, size }, 0, SERVED_SECONDS);
      await sleep(SETTLE_MS);
      const before = residentKiB(pid);
      const args = [
        "idle",
        "127.0.0.1",
        String(port),
        ...options({ connections, size, stall: OPEN_MS / 1000 }),
      ];
      const holder = this.#start(args, this.#seconds, true);
      await holder.line("ready", OPEN_MS);
      await sleep(SETTLE_MS);
      const idleKiB = (residentKiB(pid) - before) / connections;
      holder.process.stdin?.end();
      await holder.report(LOAD_SECONDS); // each connection has had a message again
      return { idleKiB };
    } finally {
      await child.end();
    }
  }

  async #ask(
    port: number,
    load: Load,
    rate: number,
    length: number,
    watched: readonly string[] = [],
  ): Promise<LoadReport> {
    const { mode, ...sizes } = load;
    const { udp, tls, rate: _, ...numbers } = sizes as { udp?: true; tls?: true; rate?: "half" };
    const args = [mode === "ping" ? "batch" : mode, "127.0.0.1", String(port), ...options(numbers)];
    if (mode === "ping") args.push(...options(PING));
    if (udp) args.push("--udp");
    if (tls) args.push("--tls", certificate().certFile);
    if (rate > 0) args.push("--rate", String(rate));
    return this.#start([...args, ...watched], length).report(length + LOAD_SECONDS);
  }

  /** The server dials the load. `which` of its bytes it looks at: each, or the first and the last of each piece. */
  async #download(
    port: number,
    which: "every" | "some",
    length: number,
    watched: readonly string[] = [],
  ): Promise<LoadReport> {
    const source = this.#start(["source", ...watched], length);
    const order = connect({ port, host: "127.0.0.1" });
    order.end(`${(await source.line("port")).port} ${which}\n`);
    const [told, reply] = await Promise.all([source.report(length + LOAD_SECONDS), text(order)]);
    const wanted = `${told.totalBytes} bytes, 0 wrong\n`;
    if (reply !== wanted)
      throw new Error(`download: it got ${reply.trim() || "nothing"}, not ${wanted.trim()}`);
    return told;
  }

  #start(args: readonly string[], seconds: number, stdin = false): Child {
    const command = [this.#load, ...args, "--seconds", String(seconds)];
    return new Child(`load ${args[0]}`, this.#cores?.load, command, { stdin });
  }
}

function warmUpSeconds(load: Load, runtime: RuntimeName, seconds: number): number {
  if (runtime !== "node" && runtime !== "workerd") return seconds;
  const handshakes = load.mode === "connect" && load.tls === true;
  return Math.max(handshakes ? HANDSHAKE_SECONDS : COMPILE_SECONDS, seconds);
}

/** About how long it takes until a program has been started and warmed up, in seconds. */
export function plannedStart(load: Load, runtime: RuntimeName, seconds: number): number {
  if (load.mode === "start" || load.mode === "idle") return 0; // each run starts its own
  return 0.35 + plannedSeconds(load, warmUpSeconds(load, runtime, seconds));
}

/** About how long one run takes, in seconds: what a plan is the sum of. */
export function plannedSeconds(load: Load, seconds: number): number {
  if (load.mode === "start") return 0.15;
  const opening = "connections" in load ? load.connections / 15_000 : 0; // and closing
  if (load.mode === "idle") return 1 + SERVED_SECONDS + 2 * opening;
  return seconds + WARMUP_SECONDS + SETTLE_MS / 1000 + 0.03 + opening;
}
