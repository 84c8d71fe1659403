/**
 * What forking gives and costs: two children against one, of a handler that computes; and tiny requests, a connection
 * each, against a threading server. How much two can do more than one the machine decides, and who else is busy on
 * it: so the same work is done by bare processes, too, one and two, that no server stands between.
 *
 *     npm run bench:forking [-- rounds]
 *
 * Rounds are interleaved; reported are the medians, and the median of the ratios within a round.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { type InternetAddress, StreamRequestHandler } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { handlerFrom } from "../../../emulator/servers/forking/channel/handler-source.ts";
import { ForkingTCPServer } from "../../../emulator/servers/forking/servers.ts";
import { exitOnSignals, tied } from "../../peers/children.ts";

const SECONDS = 2; // of load, a round and server
const HASHES = 20_000; // about 30 ms

/** Answers a line at once. */
export class Answers extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write(`${await this.rfile.line()}\n`);
  }
}

/** Answers a line having computed for a while. */
export class Computes extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write(`${compute((await this.rfile.line()) ?? "")}\n`);
  }
}

const compute = (text: string): string => {
  let hash = text;
  for (let i = 0; i < HASHES; i++) hash = createHash("sha256").update(hash).digest("hex");
  return hash;
};

/** Computes without a server; prints how often in a second. */
const alone = (): void => {
  let count = 0;
  compute("warm-up");
  const started = performance.now();
  while (performance.now() - started < SECONDS * 1000) {
    compute("x");
    count++;
  }
  console.log((1000 * count) / (performance.now() - started));
};

/** Asks on so many connections at once, a new one for each question; prints how many were answered in a second. */
const load = (port: number, connections: number): void => {
  let answers = 0;
  const ask = (): void => {
    const socket = net.connect({ port, host: "127.0.0.1" }, () => socket.write("x\n"));
    socket.once("data", () => answers++);
    socket.once("close", ask);
  };
  for (let i = 0; i < connections; i++) ask();
  setTimeout(() => {
    answers = 0; // what was before was warm-up
    setTimeout(() => {
      console.log(answers / SECONDS);
      process.exit();
    }, SECONDS * 1000);
  }, 500);
};

/** What this program prints, run with these words in a process of its own. */
const said = async (...words: (string | number)[]): Promise<number> => {
  const args = [...process.execArgv, import.meta.filename, ...words.map(String)];
  const child = tied(spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] }));
  const [text] = await once(child.stdout, "data");
  return Number(text);
};

type Rate = () => Promise<number>;

/** Of a server that runs already. */
const rateOf = (server: { listen(): Promise<unknown> }): Rate => {
  return async () => said("load", ((await server.listen()) as InternetAddress).port, 8);
};

const processes =
  (count: number): Rate =>
  async () =>
    (await Promise.all(Array.from({ length: count }, () => said("alone")))).reduce((sum, rate) => sum + rate);

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] as number;

const compare = async (what: string, rounds: number, rates: readonly [Rate, Rate]): Promise<void> => {
  const measured: [number[], number[]] = [[], []];
  for (let i = 0; i <= rounds; i++) {
    for (const at of [0, 1] as const) measured[at].push(await rates[at]());
    if (i === 0) for (const each of measured) each.pop(); // the children were started in it
  }
  const ratios = measured[1].map((rate, i) => rate / (measured[0][i] as number));
  const [one, two] = measured.map((each) => median(each).toFixed(0));
  console.log(`${what}: ${one}/s and ${two}/s, ratio ${median(ratios).toFixed(2)}`);
};

if (process.argv[2] === "load") load(Number(process.argv[3]), Number(process.argv[4]));
else if (process.argv[2] === "alone") alone();
else if (import.meta.main) {
  exitOnSignals();
  const rounds = Number(process.argv[2] ?? 5);
  const forking = (name: string, maxChildren: number): ForkingTCPServer =>
    new ForkingTCPServer("127.0.0.1:0", handlerFrom(import.meta.url, name), {
      maxChildren,
      childIdleTimeout: null,
    });
  const one = forking("Computes", 1);
  const two = forking("Computes", 2);
  const threading = new ThreadingTCPServer("127.0.0.1:0", Answers);
  const tiny = forking("Answers", 2);
  const servers = [one, two, threading, tiny];
  for (const server of servers) void server.serveForever();
  await compare("computing, one bare process and two", rounds, [processes(1), processes(2)]);
  await compare("computing, one child and two", rounds, [rateOf(one), rateOf(two)]);
  await compare("tiny requests, threading and two children", rounds, [rateOf(threading), rateOf(tiny)]);
  await Promise.all(servers.map((server) => server.serverClose()));
}
