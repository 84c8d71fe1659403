/**
 * What a Worker's pool gains: requests that ask PostgreSQL over TLS with SCRAM by a pool of 25 connections, beside requests
 * that dial by themselves, 25 at once, with time put on the way to the server and back.
 *
 *     npm run bench:pools [-- rounds]
 *
 * 50 callers at once ask, each for a number of its own; a wrong answer ends the run. A caller who dials and is not among
 * the 25 waits, as the others do for the pool. Rounds of the two are interleaved; reported are the medians over the rounds.
 */

import http from "node:http";
import { json } from "node:stream/consumers";
import { ownCertificates, trustOwnAuthority } from "../peers/certificates.ts";
import { exitOnSignals } from "../peers/children.ts";
import { delayProxy } from "../peers/delay.ts";
import { postgres, postgresPassword } from "../peers/servers.ts";
import { median } from "./statistics.ts";

exitOnSignals();
trustOwnAuthority();
const { poolsWorker } = await import("../emulator/pools-worker.ts"); // loads Miniflare, which reads whom to trust

const CALLERS = 50;
const CONNECTIONS = 25;
const REQUESTS = 1_000;
const DELAYS = [0, 10, 50]; // ms, each way

interface Round {
  /** Requests a second. */
  readonly rate: number;
  /** ms: of a request, from the moment when its caller wants it. */
  readonly latency: number;
  readonly logins: number;
}

const rounds = Number(process.argv[2] ?? 3);
const made = ownCertificates();
if (made === null) throw new Error("openssl makes the certificates, and is not on PATH");
await using server = await postgres(made);
await using proxy = await delayProxy(server.port);
await using workerd = await poolsWorker({
  POSTGRES: `localhost:${proxy.port}`,
  PASSWORD: postgresPassword,
  MAX: CONNECTIONS,
});

const agent = new http.Agent({ keepAlive: true, maxSockets: CALLERS });
const get = (url: string): Promise<http.IncomingMessage> =>
  new Promise((resolve, reject) => http.get(url, { agent }, resolve).on("error", reject));

/** Asks `count` times by the Worker's `route`, at most `most` at once. */
const ask = async (route: "postgres" | "dial", count: number, most: number): Promise<Round> => {
  const before = proxy.connections;
  const began = performance.now();
  const latencies: number[] = [];
  const waiting: (() => void)[] = [];
  let free = most;
  let next = 0;
  const caller = async (): Promise<void> => {
    for (let n = next++; n < count; n = next++) {
      const since = performance.now();
      if (free > 0) free--;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      const answer = await get(`${workerd.origin}/${route}/${n}`);
      const told = (await json(answer)) as { value?: string };
      const following = waiting.shift();
      if (following === undefined) free++;
      else following();
      if (told.value !== `${n}`) throw new Error(`/${route}/${n} gave ${JSON.stringify(told)}`);
      latencies.push(performance.now() - since);
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
  const rate = (1_000 * count) / (performance.now() - began);
  return { rate, latency: median(latencies), logins: proxy.connections - before };
};

const over = (all: readonly Round[], what: keyof Round): number => median(all.map((round) => round[what]));

console.log(
  `${REQUESTS} requests a round, ${CALLERS} callers, ${CONNECTIONS} connections; medians of ${rounds} rounds\n`,
);
console.log("| each way | | requests a second | median latency | log-ins |");
console.log("|---|---|---|---|---|");
for (const delay of DELAYS) {
  proxy.delay = delay;
  const pooled: Round[] = [];
  const dialled: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    pooled.push(await ask("postgres", REQUESTS, CALLERS));
    dialled.push(await ask("dial", delay > 10 ? REQUESTS / 4 : REQUESTS, CONNECTIONS)); // it takes as long
  }
  const row = (name: string, all: readonly Round[]): void =>
    console.log(
      `| ${delay} ms | ${name} | ${Math.round(over(all, "rate"))} | ${over(all, "latency").toFixed(1)} ms | ${all.reduce((sum, { logins }) => sum + logins, 0)} |`,
    );
  row("pool", pooled);
  row("dial", dialled);
  const [faster, sooner] = [
    over(pooled, "rate") / over(dialled, "rate"),
    over(dialled, "latency") / over(pooled, "latency"),
  ];
  console.log(`| | pool against dial | ${faster.toFixed(1)} times | 1/${sooner.toFixed(1)} | |`);
}
agent.destroy();
