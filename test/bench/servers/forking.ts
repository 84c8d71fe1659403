/**
 * What forking gives and costs: two children against one, of a handler that computes; and tiny requests, a connection
 * each, against a threading server.
 *
 *     node --conditions=socklet:source test/bench/servers/forking.ts [rounds]
 *
 * Rounds are interleaved; reported are the medians, and the median of the ratios within a round.
 */

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { type InternetAddress, StreamRequestHandler } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { ForkingTCPServer, handlerFrom } from "../../../emulator/forking.ts";

const SECONDS = 2; // of load, a round and server
const HASHES = 4_000; // about 10 ms

/** Answers a line at once. */
export class Answers extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write(`${await this.rfile.line()}\n`);
  }
}

/** Answers a line having computed for a while. */
export class Computes extends StreamRequestHandler {
  override async handle(): Promise<void> {
    let hash = (await this.rfile.line()) ?? "";
    for (let i = 0; i < HASHES; i++) hash = createHash("sha256").update(hash).digest("hex");
    this.wfile.write(`${hash}\n`);
  }
}

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

const rateOf = async (server: { listen(): Promise<unknown> }, connections: number): Promise<number> => {
  const { port } = (await server.listen()) as InternetAddress;
  const args = [...process.execArgv, import.meta.filename, "load", String(port), String(connections)];
  const client = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const [said] = await once(client.stdout, "data");
  return Number(said);
};

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] as number;

const compare = async (
  what: string,
  rounds: number,
  first: ForkingTCPServer | ThreadingTCPServer,
  second: ForkingTCPServer | ThreadingTCPServer,
): Promise<void> => {
  const rates: [number[], number[]] = [[], []];
  for (const server of [first, second]) void server.serveForever();
  for (let i = 0; i <= rounds; i++) {
    rates[0].push(await rateOf(first, 8));
    rates[1].push(await rateOf(second, 8));
    if (i === 0) for (const each of rates) each.pop(); // the children were started in it
  }
  const ratios = rates[1].map((rate, i) => rate / (rates[0][i] as number));
  const [one, two] = rates.map((each) => median(each).toFixed(0));
  console.log(`${what}: ${one}/s and ${two}/s, ratio ${median(ratios).toFixed(2)}`);
  await Promise.all([first.serverClose(), second.serverClose()]);
};

if (process.argv[2] === "load") load(Number(process.argv[3]), Number(process.argv[4]));
else if (import.meta.main) {
  const rounds = Number(process.argv[2] ?? 5);
  const forking = (name: string, maxChildren: number): ForkingTCPServer =>
    new ForkingTCPServer("127.0.0.1:0", handlerFrom(import.meta.url, name), {
      maxChildren,
      childIdleTimeout: null,
    });
  await compare("computing, one child and two", rounds, forking("Computes", 1), forking("Computes", 2));
  const threading = new ThreadingTCPServer("127.0.0.1:0", Answers);
  await compare("tiny requests, threading and two children", rounds, threading, forking("Answers", 2));
}
