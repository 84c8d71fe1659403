/**
 * `npm run bench:workers`: what workers are worth to a protocol that computes. One process and two workers serve the same app, in
 * interleaved rounds, and the clients ask in a loop: each request on a connection of its own, or all on connections that last.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { defineApp, StreamRequestHandler } from "socklet";
import { type ClusterServer, type Listed, serveCluster } from "socklet/emulator";
import { exitOnSignals, tied } from "../../peers/children.ts";

const ROUNDS = 5;
const TIME = 2_000; // ms of each
const CLIENTS = 16;
const TURNS = 1_000_000; // of the loop that a request takes: some milliseconds

/** Computes for each line, and answers. */
class Busy extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) {
      let value = line.length;
      for (let i = 0; i < TURNS; i++) value = (Math.imul(value, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      this.wfile.write(`${value}\n`);
      await this.wfile.flush();
    }
  }
}

export const app = defineApp({
  handlers: { busy: Busy },
  listen: [{ handler: "busy", address: "tcp://127.0.0.1:0" }],
});

const connect = async (port: number): Promise<net.Socket> => {
  const socket = net.connect(port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
};

const asked = async (socket: net.Socket): Promise<void> => {
  socket.write("request\n");
  await once(socket, "data");
};

/** Requests a second of one round. */
const rate = async (server: ClusterServer, lasting: boolean): Promise<number> => {
  const [{ url }] = server.listeners as unknown as [Listed];
  const port = Number(new URL(url.replace("tcp:", "http:")).port);
  const until = performance.now() + TIME;
  let count = 0;
  const client = async (): Promise<void> => {
    let socket = lasting ? await connect(port) : null;
    while (performance.now() < until) {
      const one = socket ?? (await connect(port));
      await asked(one);
      count++;
      if (lasting) socket = one;
      else one.destroy();
    }
    socket?.destroy();
  };
  const began = performance.now();
  await Promise.all(Array.from({ length: CLIENTS }, client));
  return (count * 1_000) / (performance.now() - began);
};

const SPIN = `
  const until = performance.now() + ${TIME};
  let turns = 0;
  for (let value = 1; performance.now() < until; turns++)
    for (let i = 0; i < ${TURNS}; i++) value = (Math.imul(value, 1_103_515_245) + 12_345) & 0x7fff_ffff;
  console.log(turns);`;

/** What the machine gives to so many processes that only compute: the most that workers can be worth on it now. */
const spun = async (count: number): Promise<number> => {
  const one = async (): Promise<number> => {
    const child = tied(spawn(process.execPath, ["-e", SPIN], { stdio: ["ignore", "pipe", "inherit"] }));
    const [text] = await once(child.stdout, "data");
    await once(child, "close");
    return Number(String(text));
  };
  return (await Promise.all(Array.from({ length: count }, one))).reduce((sum, turns) => sum + turns, 0);
};

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] as number;

const bench = async (): Promise<void> => {
  exitOnSignals();
  await using one = await serveCluster(import.meta.url, { workers: 1 });
  await using two = await serveCluster(import.meta.url, { workers: 2 });
  await using own = await serveCluster(import.meta.url, { workers: 2, reusePort: true });
  const most: number[] = [];
  for (let round = 0; round < ROUNDS; round++) most.push((await spun(2)) / (await spun(1)));
  console.log(`two processes that only compute: ${median(most).toFixed(2)} of one`);
  for (const lasting of [false, true]) {
    const rates: [number[], number[], number[]] = [[], [], []];
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, server] of [one, two, own].entries()) rates[i]?.push(await rate(server, lasting));
    }
    const [first, ...others] = rates;
    const ratios = others.map((of) => median(of.map((value, i) => value / (first[i] as number))).toFixed(2));
    const kind = lasting ? "connections that last" : "a connection for each";
    console.log(
      `${kind}: one process ${median(first).toFixed(0)}/s; two workers ${ratios[0]} of it, each with its own socket ${ratios[1]}`,
    );
  }
};

if (import.meta.main) void bench(); // without an await: the cluster imports this module, which must be whole by then
