/**
 * What a session and a pool's call cost in a Worker, beside bare Durable Objects that send the same line to the same server
 * and read its answer:
 *
 *     npm run bench:objects [-- rounds]
 *
 * - `same`: a call of an object that does nothing, over what a request costs (`nothing`);
 * - `dial`: an object of its own for each request, which dials, asks and hangs up; `record`: which also keeps a record,
 *   before and after; beside them `POST /v1/sessions`, which waits for its result;
 * - `held`: one object that holds its connection by hand; beside it `pool`.
 *
 * One request at a time, so that a request's time is about that for which its object runs. Every answer is compared. Rounds are
 * interleaved, and who begins takes turns; reported are the medians over the rounds of each round's median, and the medians of
 * the ratios within a round with their 95 % intervals.
 */

import http from "node:http";
import { json } from "node:stream/consumers";
import { convertV4MiniflareOptions } from "miniflare";
import { type InternetAddress, streamHandler } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { mortalWorkerd } from "../emulator/mortal-workerd.ts";
import { workerScript } from "../emulator/worker-script.ts";
import { exitOnSignals } from "../peers/children.ts";
import { median, type Round, type Run, ratioOf } from "./statistics.ts";

const REQUESTS = 40; // of each kind in a round
const TOKEN = "abcdefghijklmnop0123";
const GB = 0.128; // of memory that an object counts as, where its duration is billed

exitOnSignals();
const Parrot = streamHandler(async ({ rfile, wfile }) => {
  for await (const line of rfile.lines()) wfile.write(`${line}\n`);
});
const lines = new ThreadingTCPServer("127.0.0.1:0", Parrot);
const { port } = (await lines.listen()) as InternetAddress;
void lines.serveForever();

const classes = {
  SOCKLET_POOLS: "SockletPool",
  SOCKLET_SESSIONS: "SockletSession",
  SOCKLET_REGISTRY: "SockletRegistry",
  BARE: "Bare",
};
const workerd = await mortalWorkerd(
  convertV4MiniflareOptions({
    name: "under-test",
    modules: true,
    script: await workerScript("test/worker/objects-main.ts"),
    compatibilityDate: "2026-10-01",
    compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
    durableObjects: Object.fromEntries(
      Object.entries(classes).map(([name, className]) => [name, { className, useSQLite: true }]),
    ),
    bindings: { SOCKLET_TOKENS: TOKEN, LINES: `127.0.0.1:${port}` },
    unsafeDirectSockets: [{}],
  }),
  true,
);

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
const ask = async (kind: string, n: number): Promise<void> => {
  const session = kind === "POST /v1/sessions";
  const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const url = `${workerd.origin}${session ? "/v1/sessions" : `/${kind}/${n}`}`;
    const request = http.request(url, { agent, method: session ? "POST" : "GET", headers }, resolve);
    request.on("error", reject).end(session ? JSON.stringify({ dial: "line", params: `${n}` }) : undefined);
  });
  const told = (await json(answer)) as { result?: unknown };
  if (told.result !== `${n}`) throw new Error(`${kind} ${n} gave ${JSON.stringify(told)}`);
};

const KINDS = ["nothing", "same", "dial", "record", "POST /v1/sessions", "held", "pool"];
let n = 0;
const costOf = async (kind: string, count: number): Promise<Run> => {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const began = performance.now();
    await ask(kind, n++);
    times.push(1000 * (performance.now() - began));
  }
  return { p50us: median(times) };
};

const rounds = Number(process.argv[2] ?? 25);
for (const kind of KINDS) await costOf(kind, 3 * REQUESTS); // warm-up
const measured: Round[] = [];
for (let round = 0; round < rounds; round++) {
  const runs: Record<string, Run> = {};
  for (let i = 0; i < KINDS.length; i++) {
    const kind = KINDS[(round + i) % KINDS.length] as string;
    runs[kind] = await costOf(kind, REQUESTS);
  }
  measured.push(runs);
}

console.log(`${rounds} rounds of ${REQUESTS} requests\n`);
console.log("| | ms | GB-s of a million |");
console.log("|---|---|---|");
for (const kind of KINDS) {
  const ms = median(measured.map((runs) => runs[kind]?.p50us ?? Number.NaN)) / 1000;
  console.log(`| ${kind} | ${ms.toFixed(2)} | ${Math.round(ms * 1000 * GB)} |`);
}
for (const [of, against] of [
  ["POST /v1/sessions", "dial"],
  ["POST /v1/sessions", "record"],
  ["pool", "held"],
] as const) {
  const ratio = ratioOf(measured, of, against, "p50us");
  const { low = Number.NaN, high = Number.NaN } = ratio?.interval ?? {};
  console.log(
    `${of} / ${against}: ${ratio?.median.toFixed(2)} times (${low.toFixed(2)} to ${high.toFixed(2)})`,
  );
}

agent.destroy();
await workerd[Symbol.asyncDispose]();
await lines.serverClose();
process.exit();
