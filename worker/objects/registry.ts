/// <reference types="@cloudflare/workers-types" />
/**
 * The one object that knows all sessions: it lists them, bounds how many run, and bounds the history.
 *
 * Its rows of sessions that are over are final. Those of sessions that run are what it believes: before it shows
 * one it asks that session's object, which is the truth, also after an eviction (it then says `cut`). An object has
 * its record before it has a row here, so one without a record is no session, and has no row any more.
 */

import {
  BOUNDS,
  isOver,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
} from "../../core/control/plane.ts";
import { toJson } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import { checkOptions, optionNamesOf } from "../../core/options.ts";
import { PlatformObject, type PlatformSql, type PlatformState } from "../platform.ts";
import { type Answer, answer, type RegistryCalls, type SockletBindings, sessionOf } from "./bindings.ts";

/** The bounds of the history, and of what runs. Times are milliseconds. */
export interface SessionBounds {
  /** Sessions at once; one more is `ERR_LIMIT`. Default 200: a list may have to ask each of them, and each costs. */
  readonly maxRunning?: number;
  /** Sessions that are over and still kept. Default 1 000: at most about 1.3 MB each, most often 1 KB. */
  readonly maxHistory?: number;
  /** How long one that is over is kept. Default 7 days. */
  readonly maxAge?: number;
}

export const SESSION_BOUNDS_NAMES = optionNamesOf<SessionBounds>("workerFor()'s sessions")({
  maxRunning: true,
  maxHistory: true,
  maxAge: true,
});

const MAX_AGE = 7 * 86_400_000; // ms
const LISTED_RESULT = 4 * 1024; // characters of JSON: a page has up to 200 of them, and 32 MiB cross an object's border
const ANSWER = 5_000; // ms that a session's object may take to say how it is; a list does not wait for one that hangs
const LONGEST = BOUNDS.maxDeadline + 60_000; // ms from a session's start to its end, and until that is told
const BATCH = 100; // sessions forgotten in one alarm: each is a request, of which one alarm has 1 000
const AGAIN = 60_000; // ms until what could not be forgotten is tried again

/** The registry; `workerFor(app).Registry` is this class with that Worker's bounds. */
export class RegistryObject extends PlatformObject<SockletBindings> implements RegistryCalls {
  readonly #bounds: Required<SessionBounds>;
  readonly #sql: PlatformSql;

  constructor(state: PlatformState, env: unknown, bounds: SessionBounds = {}) {
    super(state, env as SockletBindings);
    checkOptions("the registry", bounds, SESSION_BOUNDS_NAMES);
    this.#bounds = { maxRunning: 200, maxHistory: 1_000, maxAge: MAX_AGE, ...bounds };
    this.#sql = state.storage.sql;
    // ended: ms of the epoch, NULL where it is believed to run.
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS sessions
         (id TEXT PRIMARY KEY, handler TEXT NOT NULL, state TEXT NOT NULL, ended INTEGER, info TEXT NOT NULL);
       CREATE INDEX IF NOT EXISTS by_end ON sessions (ended)`,
    );
  }

  add(info: SessionInfo): Promise<Answer<null>> {
    return answer(async () => {
      if (!isOver(info.state) && !this.#has(info.id)) {
        const { maxRunning } = this.#bounds;
        if (this.#running() >= maxRunning) await this.#refresh(this.#believedToRun()); // some may be gone
        if (this.#running() >= maxRunning) {
          throw new SocketError("ERR_LIMIT", `${maxRunning} sessions run already; end one, or wait for one`);
        }
      }
      this.#sql.exec(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", // it may be asked twice
        info.id,
        info.handler,
        info.state,
        endOf(info),
        JSON.stringify(listed(info)),
      );
      await this.#schedule();
      return null;
    });
  }

  async over(info: SessionInfo): Promise<boolean> {
    if (!this.#has(info.id)) return false;
    this.#update(info);
    await this.#schedule();
    return true;
  }

  async list(query: SessionQuery): Promise<SessionPage> {
    // With a filter by state any of those that are believed to run may belong to the page, or not; without one
    // only those on it need be asked.
    const unsure =
      query.state === undefined
        ? this.#select(query).filter(({ state }) => !isOver(state))
        : this.#believedToRun(query);
    await this.#refresh(unsure);
    const found = this.#select(query);
    const sessions = found.slice(0, query.limit);
    return { sessions, next: found.length > query.limit ? (sessions.at(-1)?.id ?? null) : null };
  }

  /** Lets go of what is too old or too much, and asks after what should long be over. */
  override async alarm(): Promise<void> {
    await this.#refresh(this.#overdue());
    const due = this.#due();
    const failed = await Promise.all(
      due.map(async (id) => {
        try {
          if (!(await sessionOf(this.env, id).forget())) return true;
          this.#remove(id);
          return false;
        } catch {
          return true; // its row stays, and so it is tried again
        }
      }),
    );
    await this.#schedule(failed.includes(true) ? AGAIN : 0);
  }

  #has(id: string): boolean {
    return this.#sql.exec("SELECT 1 FROM sessions WHERE id = ?", id).toArray().length > 0;
  }

  #remove(id: string): void {
    this.#sql.exec("DELETE FROM sessions WHERE id = ?", id);
  }

  #running(): number {
    return this.#sql
      .exec<{ count: number }>("SELECT COUNT(*) AS count FROM sessions WHERE ended IS NULL")
      .one().count;
  }

  #believedToRun({ handler, before }: Partial<SessionQuery> = {}): SessionInfo[] {
    return this.#infos(
      "WHERE ended IS NULL AND (?1 IS NULL OR handler = ?1) AND (?2 IS NULL OR id < ?2)",
      handler ?? null,
      before ?? null,
    );
  }

  /** One more than the page has, where there is one. */
  #select({ state, handler, limit, before }: SessionQuery): SessionInfo[] {
    return this.#infos(
      `WHERE (?1 IS NULL OR handler = ?1) AND (?2 IS NULL OR id < ?2) AND (?3 IS NULL OR state = ?3)
       ORDER BY id DESC LIMIT ?4`,
      handler ?? null,
      before ?? null,
      state ?? null,
      limit + 1,
    );
  }

  #infos(clause: string, ...bound: (string | number | null)[]): SessionInfo[] {
    const rows = this.#sql.exec<{ info: string }>(`SELECT info FROM sessions ${clause}`, ...bound).toArray();
    return rows.map(({ info }) => JSON.parse(info));
  }

  /** Asks the objects of these sessions how they are. One that does not answer stays as it was believed to be. */
  async #refresh(sessions: readonly SessionInfo[]): Promise<void> {
    if (sessions.length === 0) return;
    const late = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => late.resolve(undefined), ANSWER);
    await Promise.all(
      sessions.map(async (believed) => {
        const info = await Promise.race([sessionOf(this.env, believed.id).info(), late.promise]).catch(
          () => undefined,
        );
        if (info) this.#update(info);
        else if (info === null) this.#remove(believed.id); // its object came first, and has no record: it is no session
      }),
    );
    clearTimeout(timer);
    await this.#schedule();
  }

  /** Only forwards: what is over stays as it is. */
  #update(info: SessionInfo): void {
    this.#sql.exec(
      "UPDATE sessions SET state = ?, ended = ?, info = ? WHERE id = ? AND ended IS NULL",
      info.state,
      endOf(info),
      JSON.stringify(listed(info)),
      info.id,
    );
  }

  /** The ids to forget now. */
  #due(): string[] {
    const { maxAge, maxHistory } = this.#bounds;
    return this.#sql
      .exec<{ id: string }>(
        `SELECT id FROM sessions WHERE ended < ?1 OR id IN
           (SELECT id FROM sessions WHERE ended IS NOT NULL ORDER BY ended DESC, id DESC LIMIT -1 OFFSET ?2)
         ORDER BY ended LIMIT ?3`,
        Date.now() - maxAge,
        maxHistory,
        BATCH,
      )
      .toArray()
      .map(({ id }) => id);
  }

  /** Those that are believed to run for longer than any session may: each has told by then, or its object's alarm is lost. */
  #overdue(): SessionInfo[] {
    return this.#believedToRun().filter(({ startedAt }) => Date.parse(startedAt) + LONGEST < Date.now());
  }

  /** The alarm, for the next that is to be forgotten or asked after; what is due, not before `delay` ms from now. */
  async #schedule(delay = 0): Promise<void> {
    const { storage } = this.ctx;
    const { ended, first } = this.#sql
      .exec<{ ended: number | null; first: string | null }>(
        `SELECT MIN(ended) AS ended,
           (SELECT MIN(json_extract(info, '$.startedAt')) FROM sessions WHERE ended IS NULL) AS first FROM sessions`,
      )
      .one();
    if (ended === null && first === null) return;
    const now = Date.now();
    const times = [
      ended === null ? Number.POSITIVE_INFINITY : ended + this.#bounds.maxAge + 1,
      // Asked after, and still said to run or not to be reached: not again at once.
      first === null ? Number.POSITIVE_INFINITY : Math.max(Date.parse(first) + LONGEST + 1, now + AGAIN),
    ];
    const at = this.#due().length > 0 ? now + delay : Math.min(...times);
    const set = await storage.getAlarm();
    if (set === null || at < set) await storage.setAlarm(Math.max(at, now));
  }
}

/** As a list shows it: a large result is its size, as that of a large event is; its own record has it whole. */
const listed = (info: SessionInfo): SessionInfo => {
  const size = toJson(info.result).length;
  return size <= LISTED_RESULT ? info : { ...info, result: { omitted: size } };
};

/** When it was over, in ms of the epoch; `null` where it is not. */
const endOf = ({ endedAt }: SessionInfo): number | null => (endedAt === null ? null : Date.parse(endedAt));
