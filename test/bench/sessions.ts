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
import type { StreamSocket } from "../../core/sockets/stream-socket.ts";
import { memoryPair } from "../../core/testing/memory.ts";
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

/** What the bench calls it. */
export const SESSIONS = "grows-sessions";

export const SESSION_COUNTS: readonly number[] = [100, 1000, 10_000, 100_000];

const TIMES = 20; // of each request
const MOST_RUNNING = 1_000; // as many as a server dials at once where nothing is said
const TOKEN = "a-token-for-the-bench";
const LISTENER = { handler: "echo", address: "tcp://127.0.0.1:7" };

/** A registry with `count` sessions, and requests to its routes. */
class Registry {
  readonly #plane: LocalPlane;
  readonly #count: number;
  readonly #running: StreamSocket[] = [];
  readonly #routes: ReturnType<typeof controlRoutes>;

  constructor(count: number) {
    const connector = (): never => {
      throw new Error("nothing is dialled here");
    };
    this.#count = count;
    this.#plane = new LocalPlane({ app: defineApp({ handlers: {} }), connector, maxHistory: count });
    this.#routes = controlRoutes({ plane: this.#plane, tokens: TOKEN });
  }

  async fill(): Promise<void> {
    const [over] = memoryPair();
    const running = Math.min(Math.max(this.#count / 100, TIMES), MOST_RUNNING);
    const every = Math.floor(this.#count / running);
    for (let i = 0; i < this.#count; i++) {
      if (i % every === 0 && this.#running.length < running) {
        const [near] = memoryPair();
        // It waits for bytes until it is ended.
        this.#plane.accepted(LISTENER, near, () => near.recv()).catch(() => {});
        this.#running.push(near);
      } else {
        await this.#plane.accepted(LISTENER, over, () => {});
      }
    }
  }

  async #request(path: string, method = "GET"): Promise<unknown> {
    const response = await this.#routes.request(path, {
      method,
      headers: { authorization: `Bearer ${TOKEN}` },
    });
    if (response.status !== 200)
      throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async #page(query: string): Promise<SessionPage> {
    return (await this.#request(`/v1/sessions?${query}`)) as SessionPage;
  }

  /** Ends the sessions that run. */
  async measure(): Promise<SessionTimes> {
    const ids = await this.#ids();
    if (ids.length !== this.#count) throw new Error(`${ids.length} sessions were listed, not ${this.#count}`);
    const { sessions: running } = await this.#page(`state=running&limit=${TIMES}`);
    const list = await timed(
      () => this.#page("limit=50"),
      ({ sessions }) => sessions.length === 50,
    );
    const before = ids.at(-51)!;
    const page = await timed(
      () => this.#page(`limit=50&before=${before}`),
      (one) => one.sessions.length === 50 && one.next === null,
    );
    const none = await timed(
      () => this.#page("state=failed"),
      ({ sessions }) => sessions.length === 0,
    );
    const began = performance.now();
    await this.#ids();
    const all = (performance.now() - began) / Math.ceil(this.#count / 1000);
    const ends = running.values();
    const end = await timed(
      () => this.#request(`/v1/sessions/${ends.next().value?.id}`, "DELETE"),
      (info) => (info as { state: string }).state === "cut",
    );
    return { at: this.#count, list, page, none, all, end };
  }

  /** The ids of all, the newest first. */
  async #ids(): Promise<string[]> {
    const ids: string[] = [];
    for (let before = ""; ; ) {
      const { sessions, next } = await this.#page(`limit=1000${before && `&before=${before}`}`);
      ids.push(...sessions.map(({ id }) => id));
      if (next === null) return ids;
      before = next;
    }
  }
}

/** The median of its times, in ms. Throws where an answer is not what it must be. */
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

/** The times of a registry of `count` sessions. */
export async function measureSessions(count: number): Promise<SessionTimes> {
  const registry = new Registry(count);
  await registry.fill();
  return registry.measure();
}
