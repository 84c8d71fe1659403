/**
 * How fast the control plane answers as its registry of sessions grows: `npm run bench -- grows-sessions`.
 *
 * The registry is that of `socklet serve`, behind its routes, without the network: each figure has the check of the token,
 * the look-up and the JSON in it. One session of a hundred runs, up to a thousand, on a connection in memory; the rest are over.
 */

import { defineApp } from "../../core/app/app.ts";
import { controlRoutes } from "../../core/control/http/routes.ts";
import type { SessionPage } from "../../core/control/plane.ts";
import { LocalPlane } from "../../core/control/sessions/local.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryPair } from "../../core/testing/memory-streams.ts";
import { median } from "./statistics.ts";

/** Medians, in ms, with so many sessions in the registry. */
export interface SessionTimes {
  readonly at: number;
  /** The newest page of 50. */
  readonly list: number;
  /** The last page of 50: all other sessions are newer. */
  readonly page: number;
  /** A list of the sessions in a state that none has: every session is looked at. */
  readonly none: number;
  /** The time of one page of 1,000, where all sessions are listed by such pages. */
  readonly all: number;
  /** The end of one that runs. */
  readonly end: number;
}

/** What the bench calls it: the registry of `socklet serve`, and that of a Worker (worker-sessions.ts). */
export const SESSIONS = "grows-sessions";
export const WORKER_SESSIONS = "grows-worker-sessions";

export const SESSION_COUNTS: readonly number[] = [100, 1000, 10_000, 100_000];

export const TIMES = 20; // of each request
const MOST_RUNNING = 1_000; // as many as a server dials at once where nothing is said
export const TOKEN = "a-token-for-the-bench";
const LISTENER = { handler: "echo", address: "tcp://127.0.0.1:7" };

/** Asks the routes of a registry: the path and the method; its answer's JSON. */
export type Ask = (path: string, method?: string) => Promise<unknown>;

/** Asks by `request`, and throws if the answer is not 200. */
export const asking =
  (request: (path: string, init: RequestInit) => Response | Promise<Response>): Ask =>
  async (path, method = "GET") => {
    const response = await request(path, { method, headers: { authorization: `Bearer ${TOKEN}` } });
    if (response.status !== 200)
      throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  };

/** The ids of all, the newest first. */
async function idsOf(ask: Ask): Promise<string[]> {
  const ids: string[] = [];
  for (let before = ""; ; ) {
    const page = (await ask(`/v1/sessions?limit=1000${before && `&before=${before}`}`)) as SessionPage;
    ids.push(...page.sessions.map(({ id }) => id));
    if (page.next === null) return ids;
    before = page.next;
  }
}

/** The times of a registry that has `count` sessions, `TIMES` of which run at least. Ends so many. */
export async function timesOf(count: number, ask: Ask): Promise<SessionTimes> {
  const page = async (query: string): Promise<SessionPage> =>
    (await ask(`/v1/sessions?${query}`)) as SessionPage;
  const ids = await idsOf(ask);
  if (ids.length !== count) throw new Error(`${ids.length} sessions were listed, not ${count}`);
  const { sessions: running } = await page(`state=running&limit=${TIMES}`);
  const before = ids.at(-51)!;
  const began = performance.now();
  await idsOf(ask);
  const all = (performance.now() - began) / Math.ceil(count / 1000);
  const ends = running.values();
  return {
    at: count,
    all,
    list: await timed(
      () => page("limit=50"),
      ({ sessions }) => sessions.length === 50,
    ),
    page: await timed(
      () => page(`limit=50&before=${before}`),
      ({ sessions, next }) => sessions.length === 50 && next === null,
    ),
    none: await timed(
      () => page("state=failed"),
      ({ sessions }) => sessions.length === 0,
    ),
    end: await timed(
      () => ask(`/v1/sessions/${ends.next().value?.id}`, "DELETE"),
      (info) => (info as { state: string }).state === "cut",
    ),
  };
}

/** The median of its times, in ms. Throws if an answer is not what it must be. */
async function timed<T>(ask: () => Promise<T>, isRight: (answer: T) => boolean): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < TIMES; i++) {
    const began = performance.now();
    const answer = await ask();
    times.push(performance.now() - began);
    if (!isRight(answer))
      throw new Error(`the registry gave a wrong answer: ${JSON.stringify(answer).slice(0, 300)}`);
  }
  return median(times);
}

/** The times of the registry of `socklet serve` with `count` sessions. */
export async function measureSessions(count: number): Promise<SessionTimes> {
  const connector = (): never => {
    throw new Error("nothing is dialled here");
  };
  const plane = new LocalPlane({ app: defineApp({ handlers: {} }), connector, maxHistory: count });
  const [over] = memoryPair();
  const most = Math.min(Math.max(count / 100, TIMES), MOST_RUNNING);
  const every = Math.floor(count / most);
  const running: StreamSocket[] = [];
  for (let i = 0; i < count; i++) {
    if (i % every === 0 && running.length < most) {
      const [near] = memoryPair();
      // It waits for bytes until it is ended.
      plane.accepted(LISTENER, near, () => near.recv()).catch(() => {});
      running.push(near);
    } else {
      await plane.accepted(LISTENER, over, () => {});
    }
  }
  const routes = controlRoutes({ plane, tokens: TOKEN });
  return timesOf(
    count,
    asking((path, init) => routes.request(path, init)),
  );
}
