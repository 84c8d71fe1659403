/**
 * Does a session live while nobody asks for it? A subscriber of a real Redis in real workerd, left alone; then a
 * message has to reach it on the connection that it began with. Beside it two lasting sessions, one in workerd and one in
 * `socklet serve`, read a stream of another Redis, to which an entry comes at the start, in the middle and at the end:
 * each is told once. It also says how much memory each process had after a tenth of the time, and at the end.
 *
 *     npm run soak                  # ten minutes
 *     npm run soak -- --seconds 150
 *     npm run soak -- --races       # another program: races.ts
 *
 * Not in CI, for its time. Without the alarm that re-arms itself (worker/objects/session.ts) it fails: workerd evicts the
 * object after one to two minutes.
 */

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { SessionInfo, SessionSpec } from "socklet/control";
import { runWorker } from "../emulator/workerd.ts";
import { peer } from "../peers/peer.ts";
import { reservePort } from "../peers/ports.ts";
import { start } from "../peers/program.ts";
import { redisStream } from "../races/kept.ts";
import { servedPlace, workerPlace } from "../races/kept-places.ts";

const { values } = parseArgs({ options: { seconds: { type: "string", default: "600" } } });
const seconds = Number(values.seconds);
if (!(seconds >= 1)) throw new RangeError(`--seconds takes a number of seconds, not ${values.seconds}`);
for (const name of ["redis-server", "redis-cli"]) {
  if (peer(name) === null) throw new Error(`${name} is not on PATH`);
}

const TOKEN = "abcdefghijklmnop0123";
const port = await reservePort();
const redis = start(
  "redis-server",
  ["--port", port, "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/tmp"],
  0,
);

const cli = (...words: string[]): string =>
  spawnSync("redis-cli", ["-p", `${port}`, ...words], { encoding: "utf8" }).stdout.trim();
/** The number that Redis gave the subscriber's connection. */
const connection = (): string | undefined =>
  /^id=(\d+) .* sub=1 /m.exec(cli("CLIENT", "LIST", "TYPE", "pubsub"))?.[1];

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** The resident memory of the processes that this one has started, in MiB, by number and name. */
const memories = (): Map<string, number> => {
  const found = new Map<string, number>();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const told = (what: string): string => new RegExp(`^${what}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? "";
      if (told("PPid") === `${process.pid}`)
        found.set(`${pid} (${told("Name")})`, Number(told("VmRSS")) / 1024);
    } catch {} // it has ended
  }
  return found;
};

/** Leaves a lasting session alone for the whole time; rejects if it has not told each entry once. */
const keptAlone = async (placeOf: typeof servedPlace): Promise<string> => {
  await using server = await redisStream();
  await using place = await placeOf({ redis: server.port });
  const client = place.client();
  const { id } = await client.sessions.start(server.spec(3) as SessionSpec);
  for (const number of [1, 2, 3]) {
    await server.publish(number);
    if (number < 3) await pause((seconds * 1000) / 2);
  }
  const told: (number | null)[] = [];
  for await (const event of client.sessions.follow(id))
    if (event.type === "handler") told.push(server.numberOf(event.detail));
  const { state, kept } = await client.sessions.get(id);
  const said = `a session that lasts in ${place.name}: told ${told.join()}, ${state}, ${kept?.attempt} attempts`;
  if (told.join() !== "1,2,3" || state !== "ended") throw new Error(said);
  return said;
};

const lasting = Promise.all([keptAlone(servedPlace), keptAlone(workerPlace)]);
lasting.catch(() => {}); // it is awaited at the end

await redis.line(/Ready to accept connections/);
const worker = await runWorker({
  main: "test/worker/sessions-main.ts",
  ports: [],
  classes: { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" },
  vars: { SOCKLET_TOKENS: TOKEN, ALLOW: ["127.0.0.1:*"] },
});
const authorization = `Bearer ${TOKEN}`;
const ask = async (path: string, init: RequestInit = {}): Promise<Response> =>
  worker.fetch(`/v1/sessions${path}`, {
    ...init,
    headers: { authorization, "content-type": "application/json" },
  });

/** The session's events, up to the first that has this text. */
const eventsUntil = async (id: string, text: string): Promise<string> => {
  const { body } = await ask(`/${id}/events`);
  let seen = "";
  const decoder = new TextDecoder();
  for await (const bytes of body as unknown as AsyncIterable<Uint8Array>) {
    seen += decoder.decode(bytes, { stream: true });
    if (seen.includes(text)) return seen;
  }
  throw new Error(`its events ended without ${text}:\n${seen}`);
};

try {
  const spec = {
    handler: "subscriber",
    address: `127.0.0.1:${port}`,
    params: "soak",
    background: true,
    deadline: (seconds + 60) * 1000,
  };
  const { id } = (await (
    await ask("", { method: "POST", body: JSON.stringify(spec) })
  ).json()) as SessionInfo;
  await eventsUntil(id, '"subscribe"');
  const before = connection();
  console.log(
    `session ${id}, Redis connection ${before}; ${seconds} s without a request from ${new Date().toISOString()}`,
  );
  await pause(seconds * 100);
  const warm = memories();
  await pause(seconds * 900);
  for (const [name, size] of memories())
    console.log(
      `${name}: ${warm.get(name)?.toFixed(1)} MiB after a tenth of the time, ${size.toFixed(1)} MiB now`,
    );
  if (cli("PUBLISH", "soak", "still here") !== "1") throw new Error("Redis has no subscriber any more");
  await eventsUntil(id, "still here");
  const after = connection();
  const info = (await (await ask(`/${id}`)).json()) as SessionInfo;
  if (info.state !== "running" || after !== before) {
    throw new Error(`the session is ${info.state}, on connection ${after}, and was on ${before}`);
  }
  await ask(`/${id}`, { method: "DELETE" });
  console.log(
    `it lives: state ${info.state}, the same connection, the message came; ended at ${new Date().toISOString()}`,
  );
  for (const line of await lasting) console.log(line);
} finally {
  await worker.close();
  await redis[Symbol.asyncDispose]();
}
