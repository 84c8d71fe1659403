/**
 * `socklet proxy` beside other proxies in front of one Redis: `redis-benchmark -P 1` and `-P 16`, in interleaved rounds.
 *
 *     node --conditions=socklet:source test/bench/proxies.ts [--rounds 5] [--only pipe,socklet]
 *
 * Told of each: the median of requests a second, that as a share of the bare pipe's of the same round, and the CPU of the
 * proxy's process a request. Recording goes to a file in the system's folder of temporary files.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { exitOnSignals, temporaryFolder, tied } from "../peers/children.ts";
import { reservePort } from "../peers/ports.ts";

const CLIENTS = 50; // redis-benchmark's own figure
const TICK = 1_000_000 / 100; // microseconds of a tick of /proc/<pid>/stat (sysconf(_SC_CLK_TCK) is 100 on Linux)
const REQUESTS = { 1: 60_000, 16: 400_000 } as const;

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "5" }, only: { type: "string" } },
});
const rounds = Number(values.rounds);

exitOnSignals();
const { path: folder, remove } = temporaryFolder("proxies");
const children: ChildProcess[] = [];

const begin = (command: string, args: readonly string[]): ChildProcess => {
  const child = tied(spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] }));
  children.push(child);
  return child;
};

/** Waits until somebody listens there. */
const listening = async (port: number): Promise<void> => {
  for (;;) {
    const socket = net.connect(port, "127.0.0.1");
    const open = await Promise.race([
      once(socket, "connect").then(() => true),
      once(socket, "error").then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (open) return;
    await sleep(20);
  }
};

const redis = await reservePort();
const PIPE = `
  const net = require("node:net");
  net.createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
    const server = net.connect({ port: ${redis}, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
    client.pipe(server).pipe(client);
    client.on("error", () => server.destroy());
    server.on("error", () => client.destroy());
  }).listen(Number(process.argv[1]), "127.0.0.1");`;

const cli = ["--conditions=socklet:source", "emulator/command/cli.ts", "proxy", `tcp://127.0.0.1:${redis}`];
const proxy = (port: number, ...more: string[]): ChildProcess =>
  begin(process.execPath, [...cli, "--listen", `127.0.0.1:${port}`, "--quiet", ...more]);

const contenders: Record<string, (port: number) => ChildProcess> = {
  pipe: (port) => begin(process.execPath, ["-e", PIPE, String(port)]),
  haproxy: (port) => {
    const path = join(folder, "haproxy.cfg");
    writeFileSync(
      path,
      `global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\nlisten l\n  bind 127.0.0.1:${port}\n  server s 127.0.0.1:${redis}\n`,
    );
    return begin("haproxy", ["-db", "-q", "-f", path]);
  },
  socat: (port) =>
    begin("socat", [
      `TCP-LISTEN:${port},fork,reuseaddr,nodelay,bind=127.0.0.1`,
      `TCP:127.0.0.1:${redis},nodelay`,
    ]),
  socklet: (port) => proxy(port),
  "socklet --record": (port) => proxy(port, "--record", join(folder, "record.jsonl")),
};
const names = Object.keys(contenders).filter((name) => values.only?.split(",").includes(name) ?? true);

/** Microseconds of CPU that a process has used. */
const cpuOf = ({ pid }: ChildProcess): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11]) + Number(fields[12])) * TICK;
};

const measure = async (port: number, pipeline: 1 | 16): Promise<number> => {
  const args = ["-h", "127.0.0.1", "-p", port, "-t", "get", "-c", CLIENTS, "-P", pipeline];
  const child = tied(spawn("redis-benchmark", [...args, "-n", REQUESTS[pipeline], "--csv"].map(String)));
  let text = "";
  child.stdout.on("data", (bytes) => {
    text += bytes;
  });
  await once(child, "close");
  const [, rate] = /"GET","([\d.]+)"/.exec(text) ?? [];
  if (rate === undefined) throw new Error(`redis-benchmark said ${JSON.stringify(text)}`);
  return Number(rate);
};

const median = (numbers: readonly number[]): number =>
  [...numbers].sort((one, other) => one - other)[Math.floor(numbers.length / 2)] as number;

try {
  if (spawnSync("redis-benchmark", ["--version"]).error) throw new Error("redis-benchmark is not on PATH");
  begin("redis-server", ["--port", String(redis), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]);
  await listening(redis);
  const ports = new Map<string, { port: number; child: ChildProcess }>();
  for (const name of names) {
    const port = await reservePort();
    const child = contenders[name]?.(port) as ChildProcess;
    ports.set(name, { port, child });
    await listening(port);
  }
  for (const pipeline of [1, 16] as const) {
    const rates: Record<string, number[]> = {};
    const costs: Record<string, number[]> = {};
    for (let round = 0; round <= rounds; round++) {
      for (const name of names) {
        const { port, child } = ports.get(name) as { port: number; child: ChildProcess };
        const before = cpuOf(child);
        const rate = await measure(port, pipeline);
        const cost = (cpuOf(child) - before) / REQUESTS[pipeline];
        if (round === 0) continue; // code is compiled, memory is had
        rates[name] = [...(rates[name] ?? []), rate];
        costs[name] = [...(costs[name] ?? []), cost];
      }
    }
    console.log(`\nredis-benchmark -P ${pipeline}, ${rounds} rounds: median`);
    for (const name of names) {
      const own = rates[name] ?? [];
      const share = (other: string): string => {
        const others = rates[other];
        return others === undefined
          ? "-"
          : median(own.map((rate, i) => rate / (others[i] as number))).toFixed(2);
      };
      console.log(
        `${name.padEnd(18)} ${median(own).toFixed(0).padStart(8)} a second  ${share("pipe")} of pipe  ${share("haproxy")} of HAProxy  ${median(costs[name] ?? []).toFixed(2)} us of CPU a request`,
      );
    }
  }
  const record = join(folder, "record.jsonl");
  if (names.includes("socklet --record")) console.log(`\nrecorded: ${statSync(record).size} bytes`);
} finally {
  for (const child of children) child.kill("SIGTERM");
  await Promise.all(children.map((child) => (child.exitCode === null ? once(child, "close") : null)));
  remove();
}
process.exit();
