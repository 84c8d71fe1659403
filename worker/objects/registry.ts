/// <reference types="@cloudflare/workers-types" />
/**
 * The object that knows all sessions. It lists them, and limits how many run and how many are kept.
 *
 * The row of a finished session is final. The row of a running session is what the registry believes: before it shows one,
 * it asks that session's object, which is always right, also after an eviction (it then says `cut`). A row whose object has
 * no record is not a session, and is deleted.
 *
 * A row is written only when the state of its session has changed. What else changes, such as the count of bytes, is shown as
 * the object says it: an answer waits until all that was written before it is on disk, and a list would wait for as many
 * writes as sessions run.
 */

import { deadline } from "../../core/bytes/alarm.ts";
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
import {
  type Answer,
  answer,
  type RegistryCalls,
  type SockletBindings,
  type StateCount,
  sessionOf,
} from "./bindings.ts";

/** Limits of running sessions and of kept ones. Times are milliseconds. */
export interface SessionBounds {
  /** Sessions that may run at once; one more is `ERR_LIMIT`. Default 200, because a list may have to ask each of them. */
  readonly maxRunning?: number;
  /** Finished sessions that are kept. Default 1 000: each takes at most about 1.3 MB, and usually 1 KB. */
  readonly maxHistory?: number;
  /** How long a finished session is kept. Default 7 days. */
  readonly maxAge?: number;
}

export const SESSION_BOUNDS_NAMES = optionNamesOf<SessionBounds>("workerFor()'s sessions")({
  maxRunning: true,
  maxHistory: true,
  maxAge: true,
});

const MAX_AGE = 7 * 86_400_000; // ms
const LISTED_RESULT = 4 * 1024; // characters of JSON: a page has up to 200 results, and an object may return 32 MiB
const ANSWER = 5_000; // ms that a list waits for a session's object; it must not wait for one that hangs
const LONGEST = BOUNDS.maxDeadline + 60_000; // ms from a session's start until its end must have been reported
const BATCH = 100; // sessions deleted in one alarm: each is a request, and an alarm may make 1 000
const AGAIN = 60_000; // ms until a failed deletion is tried again

// ended: ms since the epoch; NULL while it is believed to run. Every query finds its rows by an index, however many sessions are
// kept. `tally` has how many there are of each state, since SQLite counts rows by reading them all.
const SCHEMA = `
  CREATE TABLE IF NOT EXISTS sessions
    (id TEXT PRIMARY KEY, handler TEXT NOT NULL, state TEXT NOT NULL, ended INTEGER, info TEXT NOT NULL);
  CREATE INDEX IF NOT EXISTS by_end_id ON sessions (ended, id);
  CREATE INDEX IF NOT EXISTS by_state ON sessions (state, id);
  CREATE INDEX IF NOT EXISTS by_handler ON sessions (handler, id)`;

const GAINS = "INSERT INTO tally VALUES (new.state, 1) ON CONFLICT DO UPDATE SET count = count + 1;";
const LOSES = "UPDATE tally SET count = count - 1 WHERE state = old.state;";
const TALLY = `
  CREATE TABLE tally (state TEXT PRIMARY KEY, count INTEGER NOT NULL);
  INSERT INTO tally SELECT state, COUNT(*) FROM sessions GROUP BY state;
  CREATE TRIGGER added AFTER INSERT ON sessions BEGIN ${GAINS} END;
  CREATE TRIGGER removed AFTER DELETE ON sessions BEGIN ${LOSES} END;
  CREATE TRIGGER changed AFTER UPDATE OF state ON sessions BEGIN ${LOSES} ${GAINS} END`;

/** The registry. `workerFor(app).Registry` is this class with that Worker's limits. */
export class RegistryObject extends PlatformObject<SockletBindings> implements RegistryCalls {
  readonly #bounds: Required<SessionBounds>;
  readonly #sql: PlatformSql;

  constructor(state: PlatformState, env: unknown, bounds: SessionBounds = {}) {
    super(state, env as SockletBindings);
    checkOptions("the registry", bounds, SESSION_BOUNDS_NAMES);
    this.#bounds = { maxRunning: 200, maxHistory: 1_000, maxAge: MAX_AGE, ...bounds };
    this.#sql = state.storage.sql;
    this.#sql.exec(SCHEMA);
    // A registry of a former version has sessions and no tally.
    if (this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'tally'").toArray().length === 0)
      this.#sql.exec(TALLY);
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
    // With a filter by state, every session that is believed to run may or may not belong on the page. Without one, only
    // those on the page need be asked.
    const unsure =
      query.state === undefined
        ? this.#select(query).filter(({ state }) => !isOver(state))
        : this.#believedToRun(query);
    const asked = await this.#refresh(unsure);
    const found = this.#select(query);
    const sessions = found
      .slice(0, query.limit)
      .map((info) => asked.find(({ id, state }) => id === info.id && state === info.state) ?? info); // in another state the row is newer
    return { sessions, next: found.length > query.limit ? (sessions.at(-1)?.id ?? null) : null };
  }

  async counts(): Promise<readonly StateCount[]> {
    return this.#sql.exec<StateCount>("SELECT * FROM tally WHERE count > 0").toArray();
  }

  /** Deletes what is too old or too much, and asks the objects of sessions that should long be over. */
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
          return true; // its row stays, so it is tried again
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

  /** In any state, which may have changed by now. Only a limited number run at once. */
  #believedToRun({ handler, before }: Partial<SessionQuery> = {}): SessionInfo[] {
    return this.#infos("WHERE ended IS NULL").filter(
      (info) =>
        (handler === undefined || info.handler === handler) && (before === undefined || info.id < before),
    );
  }

  /** The sessions of a page, and one more if there is one. */
  #select({ handler, before, state, limit }: SessionQuery): SessionInfo[] {
    // Unused conditions are left out: SQLite scans all rows for `? IS NULL OR id < ?`.
    const asked = Object.entries({ "handler =": handler, "id <": before, "state =": state }).filter(
      ([, value]) => value !== undefined,
    ) as [string, string][];
    const conditions = asked.map(([condition]) => ` AND ${condition} ?`).join("");
    const bound = asked.map(([, value]) => value);
    return this.#infos(`WHERE 1${conditions} ORDER BY id DESC LIMIT ?`, ...bound, limit + 1);
  }

  #infos(clause: string, ...bound: (string | number | null)[]): SessionInfo[] {
    const rows = this.#sql.exec<{ info: string }>(`SELECT info FROM sessions ${clause}`, ...bound).toArray();
    return rows.map(({ info }) => JSON.parse(info));
  }

  /** Asks the objects of these sessions, and returns their answers. If one does not answer, its row stays unchanged. */
  async #refresh(sessions: readonly SessionInfo[]): Promise<readonly SessionInfo[]> {
    const answers: SessionInfo[] = [];
    if (sessions.length === 0) return answers;
    const late = Promise.withResolvers<undefined>();
    const stopTimer = deadline(ANSWER, () => late.resolve(undefined));
    await Promise.all(
      sessions.map(async (believed) => {
        const info = await Promise.race([sessionOf(this.env, believed.id).info(), late.promise]).catch(
          () => undefined,
        );
        if (info) {
          answers.push(listed(info));
          if (info.state !== believed.state) this.#update(info);
        } else if (info === null) this.#remove(believed.id); // an object without a record is not a session
      }),
    );
    stopTimer();
    await this.#schedule();
    return answers;
  }

  /** Only a running session changes; a finished one is unchanged. */
  #update(info: SessionInfo): void {
    this.#sql.exec(
      "UPDATE sessions SET state = ?, ended = ?, info = ? WHERE id = ? AND ended IS NULL",
      info.state,
      endOf(info),
      JSON.stringify(listed(info)),
      info.id,
    );
  }

  /** The ids to delete now, the oldest first: of those that are too old, and of those that are too many. */
  #due(): string[] {
    const { maxAge, maxHistory } = this.#bounds;
    const { over } = this.#sql
      .exec<{ over: number }>("SELECT TOTAL(count) - ? AS over FROM tally", this.#running() + maxHistory)
      .one();
    const oldest = (before: number, most: number): string[] =>
      this.#sql
        .exec<{ id: string }>(
          "SELECT id FROM sessions WHERE ended < ? ORDER BY ended, id LIMIT ?",
          before,
          most,
        )
        .toArray()
        .map(({ id }) => id);
    const old = oldest(Date.now() - maxAge, BATCH);
    const surplus = Math.min(over, BATCH);
    return surplus <= old.length ? old : oldest(Number.MAX_SAFE_INTEGER, surplus);
  }

  /** Sessions that seem to run for longer than any may: each has reported its end by then, or its object's alarm is lost. */
  #overdue(): SessionInfo[] {
    return this.#believedToRun().filter(
      ({ startedAt, kept }) => kept === null && Date.parse(startedAt) + LONGEST < Date.now(), // a lasting session may run without end
    );
  }

  /** Sets the alarm for the next session to delete or to ask; for those already due, `delay` ms from now. */
  async #schedule(delay = 0): Promise<void> {
    const { storage } = this.ctx;
    // SQLite finds the minimum through the index only if a query asks for nothing else.
    const { ended, first } = this.#sql
      .exec<{ ended: number | null; first: string | null }>(
        `SELECT (SELECT MIN(ended) FROM sessions) AS ended,
           (SELECT MIN(json_extract(info, '$.startedAt')) FROM sessions
             WHERE ended IS NULL AND json_extract(info, '$.kept') IS NULL) AS first`,
      )
      .one();
    if (ended === null && first === null) return;
    const now = Date.now();
    const times = [
      (ended ?? Number.POSITIVE_INFINITY) + this.#bounds.maxAge + 1,
      // An object that was just asked, and still runs or was not reached, is not asked again at once.
      first === null ? Number.POSITIVE_INFINITY : Math.max(Date.parse(first) + LONGEST + 1, now + AGAIN),
    ];
    const at = this.#due().length > 0 ? now + delay : Math.min(...times);
    const set = await storage.getAlarm();
    if (set === null || at < set) await storage.setAlarm(Math.max(at, now));
  }
}

/** A session as a list shows it: with the size of a large result. Its own record has the whole result. */
const listed = (info: SessionInfo): SessionInfo => {
  const size = toJson(info.result).length;
  return size <= LISTED_RESULT ? info : { ...info, result: { omitted: size } };
};

/** When it ended, in ms since the epoch; `null` if it runs. */
const endOf = ({ endedAt }: SessionInfo): number | null => (endedAt === null ? null : Date.parse(endedAt));
