/**
 * `npm run bench:tls`: TLS on Socklet beside bare node:tls, in rounds that are interleaved: echo of small messages, bulk, and
 * handshakes. A ratio above 1 is better than bare. The load is a process of Node's: node:tls has no faster client here.
 */

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import tls from "node:tls";
import { fileURLToPath } from "node:url";

const ROUNDS = Number(process.env.ROUNDS ?? 9);
const ROUND = 1_500; // ms
const program = fileURLToPath(new URL("./servers/tls.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "socklet-bench-tls-"));
const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
const made = spawnSync(
  "openssl",
  ["req", "-x509", ...curve, ...names, "-keyout", "key.pem", "-out", "cert.pem"],
  { cwd: folder },
);
if (made.status !== 0) throw new Error("openssl could not make a certificate");
const ca = readFileSync(join(folder, "cert.pem"), "utf8");

const start = async (kind: string) => {
  const conditions = process.execArgv.filter((option) => option.startsWith("--conditions"));
  const child = spawn(process.execPath, [...conditions, program, kind], {
    env: { ...process.env, TLS_FOLDER: folder },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const number = async (): Promise<number> => Number(/\d+/.exec((await lines.next()).value as string)?.[0]);
  const port = await number();
  const cpu = (): Promise<number> => {
    child.stdin.write("\n");
    return number();
  };
  return { kind, port, cpu, end: () => child.kill() };
};

const secureContext = tls.createSecureContext({ ca });
const connect = (port: number): Promise<tls.TLSSocket> =>
  new Promise((resolve, reject) => {
    const socket = tls.connect({ port, host: "127.0.0.1", servername: "localhost", secureContext });
    socket.setNoDelay(true);
    socket.once("secureConnect", () => resolve(socket)).once("error", reject);
  });

/** Echo on `count` connections of `size` bytes, one message under way on each; gives how many messages, until `until`. */
const echo = async (port: number, count: number, size: number, until: number): Promise<number> => {
  const message = Buffer.alloc(size, "x");
  let done = 0;
  const run = async (): Promise<void> => {
    const socket = await connect(port);
    await new Promise<void>((resolve) => {
      let got = 0;
      socket.on("data", (bytes) => {
        got += bytes.length;
        if (got < size) return;
        got -= size;
        done++;
        if (performance.now() < until) socket.write(message);
        else resolve();
      });
      socket.write(message);
    });
    socket.destroy();
  };
  await Promise.all(Array.from({ length: count }, run));
  return done;
};

const handshakes = async (port: number, count: number, until: number): Promise<number> => {
  let done = 0;
  const run = async (): Promise<void> => {
    while (performance.now() < until) {
      (await connect(port)).destroy();
      done++;
    }
  };
  await Promise.all(Array.from({ length: count }, run));
  return done;
};

const CASES: Readonly<Record<string, (port: number, until: number) => Promise<number>>> = {
  "echo, 64 B, 16 connections": (port, until) => echo(port, 16, 64, until),
  "bulk, 1 MiB, 4 connections": (port, until) => echo(port, 4, 1024 * 1024, until),
  "handshakes, 8 at once": (port, until) => handshakes(port, 8, until),
};

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] as number;

const servers = [await start("bare"), await start("socklet")];
const words = process.argv.slice(2);
for (const [name, load] of Object.entries(CASES)) {
  if (words.length > 0 && !words.some((word) => name.includes(word))) continue;
  const figures = servers.map(() => [] as { rate: number; cpu: number }[]);
  for (let round = -1; round < ROUNDS; round++) {
    for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) {
      const { port, cpu } = servers[i] as (typeof servers)[0];
      const [began, used] = [performance.now(), await cpu()];
      const done = await load(port, began + ROUND);
      const figure = {
        rate: (done * 1_000) / (performance.now() - began),
        cpu: ((await cpu()) - used) / done,
      };
      if (round >= 0) figures[i]?.push(figure); // the first warms up
    }
  }
  const [bare = [], own = []] = figures;
  const ratios = (of: "rate" | "cpu"): number[] => own.map((figure, i) => figure[of] / (bare[i]?.[of] ?? 1));
  const spread = (values: number[]): string => {
    const sorted = [...values].sort((a, b) => a - b);
    return `${median(values).toFixed(2)} (${sorted[1]?.toFixed(2)} to ${sorted.at(-2)?.toFixed(2)})`;
  };
  const faster = spread(ratios("rate"));
  const less = spread(ratios("cpu").map((ratio) => 1 / ratio));
  const rates = [bare, own].map((all) => Math.round(median(all.map(({ rate }) => rate))));
  const cpus = [bare, own].map((all) => median(all.map(({ cpu }) => cpu)).toFixed(1));
  console.log(
    `${name}: ${rates[1]} a second, bare ${rates[0]}: ${faster}; CPU ${cpus[1]} µs, bare ${cpus[0]}: ${less}`,
  );
}
for (const { end } of servers) end();
rmSync(folder, { recursive: true });
