/**
 * `LastingSession`: a session that has one connection after the other, its *attempts*. Its changes go through `Commits`: what
 * its handler emits and saves in one turn is stored together, and shown once it is stored.
 *
 *     waiting ──▶ connecting ──▶ running ──▶ waiting ──▶ …
 *                                   └──▶ ended, failed or cut: it was ended, its work is done, or its attempts are used up
 */

import type { App } from "../../app/app.ts";
import { within } from "../../bytes/alarm.ts";
import { SocketError } from "../../errors.ts";
import { type Keep, redialDelay, type StateKeeper } from "../../handlers/keep.ts";
import { checkOptions } from "../../options.ts";
import type { EventLog } from "../event-log.ts";
import {
  type AttemptInfo,
  isOver,
  type KeptInfo,
  SESSION_LIMITS,
  type SessionEvent,
  type SessionEventBody,
} from "../plane.ts";
import { Commits, type SessionChange, type SessionStore } from "./commits.ts";
import { nextTime } from "./cron.ts";
import {
  END_GRACE,
  newLog,
  newRecord,
  now,
  type Outcome,
  SESSION_NAMES,
  Session,
  type SessionOptions,
  type SessionRecord,
} from "./session.ts";
import { decodeState, encodeState } from "./state.ts";

const NOT_TRIED: KeptInfo = {
  attempt: 0,
  startedAt: null,
  openedAt: null,
  failures: 0,
  next: null,
  savedAt: null,
  attempts: [],
};

/** The type of `lasting`, the code of lasting sessions: `workerFor(app, { lasting })`. */
export interface Lasting {
  /** Throws `ERR_APP` if the `schedule` of an entry of `dial` is not a cron, or never comes. */
  check(app: App): void;
  /** Starts a session. */
  start(options: SessionOptions): Session;
  /** Continues a stored session. */
  resume(record: SessionRecord, options: SessionOptions): Session;
}

/** A handler class on one connection after the other. Made by `LastingSession.start` or `resume`. */
export class LastingSession extends Session {
  readonly #keep: Keep;
  readonly #commits: Commits;
  #state: string | null = null; // as the handler saved it last
  #keptState: string | null = null; // as it is stored
  #done = false; // the handler called done()
  #suspended = false;

  private constructor(
    info: SessionRecord["info"],
    log: EventLog<SessionEvent>,
    store: SessionStore | undefined,
    options: SessionOptions,
    keep: Keep,
  ) {
    super(info, log, store, options);
    this.#keep = keep;
    this.#commits = new Commits(store ?? { save() {} }, {
      change: () => this.change(this.log.hidden),
      kept: (change) => this.#kept(change),
      lost: (error) => this.#lost(error),
    });
  }

  static check(app: App): void {
    for (const [name, { keep }] of Object.entries(app.dial)) {
      const schedule = keep?.schedule ?? null;
      if (schedule === null) continue;
      const wrong = (why: string, cause?: unknown): SocketError =>
        new SocketError("ERR_APP", `dial.${name}.keep.schedule is "${schedule}"; ${why}`, { cause });
      let next: number | null;
      try {
        next = nextTime(schedule, Date.now());
      } catch (error) {
        throw wrong((error as Error).message, error);
      }
      if (next === null) throw wrong("no such time comes");
    }
  }

  /** Starts a session; one without `keep` as `Session.start` does. Throws only for an unknown option; any other failure is in the record. */
  static override start(options: SessionOptions): Session {
    const { keep = null } = options;
    if (keep === null) return Session.start(options);
    checkOptions("LastingSession.start()", options, SESSION_NAMES);
    const record = { ...newRecord(options), kept: NOT_TRIED };
    const session = new LastingSession(record, newLog(), options.store, options, keep);
    if (keep.schedule === null) session.#attempt();
    else session.#await(Date.now(), nextTime(keep.schedule, Date.now()), null);
    return session;
  }

  /**
   * Continues a stored session. If it was running, its connection is lost, and it is dialled again. `options` are those that it was
   * started with. A session that is over is only restored for reading.
   */
  static resume(record: SessionRecord, options: SessionOptions): Session {
    checkOptions("LastingSession.resume()", options, SESSION_NAMES);
    const { info, events, state = null } = record;
    const { keep = null } = options;
    if (isOver(info.state) || keep === null) return Session.restore(record, options.store);
    const session = new LastingSession(info, newLog(events), options.store, options, keep);
    session.#state = state;
    session.#keptState = state;
    const lost = new SocketError("ECONNABORTED", "the process that ran this session is gone");
    if (info.state === "waiting")
      session.#commits.touch(true); // tells the store when to wake it
    else session.stop("cut", lost);
    return session;
  }

  override get whenKept(): Promise<void> {
    return this.#commits.whenKept();
  }

  override get wakeAt(): number | null {
    const { state, kept = null } = this.record;
    if (state !== "waiting" || this.#suspended) return null;
    return Math.min(Date.parse(kept?.next ?? ""), this.due);
  }

  override wake(): void {
    const at = this.wakeAt;
    if (at === null || Date.now() < at) return;
    if (Date.now() >= this.due) void this.end(this.late());
    else this.#attempt();
  }

  override async suspend(reason: SocketError): Promise<void> {
    this.#suspended = true;
    if (this.attempts) {
      this.abort(reason);
      await within(this.running, END_GRACE);
      if (this.attempts) this.stop("cut", reason);
    }
    await this.whenKept.catch(() => {}); // its store has reported it
  }

  // ---- Inside ----

  protected override late(): SocketError {
    return super.late("; one that lasts has none where it is started in the background without one");
  }

  #attempt(): void {
    const { kept = null } = this.record;
    const { options } = this;
    if (kept === null || options === undefined) return;
    if (!this.#keep.resume) this.#state = this.#keptState = null;
    this.controller = new AbortController();
    this.halfClosing = undefined;
    this.isBlocked = false;
    this.#done = false;
    this.record = {
      ...this.record,
      state: "connecting",
      peer: null,
      kept: { ...kept, attempt: kept.attempt + 1, startedAt: now(), openedAt: null, next: null },
    };
    this.running = this.run(options);
  }

  /** The connection is over, and so is the session, unless it is dialled again. */
  protected override settle(how: Outcome): void {
    if (this.over) return;
    if (this.attempts) {
      const over = this.#attemptOver(this.#keep, how);
      const next =
        this.ending || (how.state === "ended" && this.#done) ? null : this.#nextTime(this.#keep, how);
      if (next !== null) {
        this.#await(Date.now(), next, over);
        return;
      }
    }
    this.finish(how);
  }

  protected override finish(how: Outcome): void {
    const { kept = null } = this.record;
    this.record = { ...this.record, kept: kept && { ...kept, next: null } };
    super.finish(how);
  }

  protected override finished(): void {} // it is over once that is stored

  /** The first event is stored at once, as far as the store can: it belongs to the same transaction as its caller's writes. */
  protected override tell(body: SessionEventBody): void {
    const first = this.log.last === 0;
    this.log.add((id) => ({ id, at: now(), ...body }), false);
    this.#commits.touch(first);
  }

  protected override change(events: readonly SessionEvent[]): SessionChange {
    const state = this.#state === this.#keptState ? null : this.#state;
    return { ...super.change(events), state };
  }

  /** Puts the attempt that has just ended into the record. */
  #attemptOver({ redial }: Keep, how: Outcome): AttemptInfo {
    const kept = this.record.kept as KeptInfo;
    const endedAt = now();
    const { attempt: number, startedAt, openedAt } = kept;
    const over: AttemptInfo = {
      number,
      startedAt: startedAt ?? endedAt,
      openedAt,
      endedAt,
      how: how.state,
      error: how.state === "ended" ? null : how.error,
    };
    const lasted = openedAt !== null && Date.parse(endedAt) - Date.parse(openedAt) >= redial.steady;
    const attempts = [...kept.attempts, over].slice(-SESSION_LIMITS.attempts);
    this.stopTimer?.();
    this.record = {
      ...this.record,
      ...this.bytes(),
      peer: null,
      kept: { ...kept, failures: lasted ? 0 : kept.failures + 1, attempts },
    };
    this.socket = undefined;
    return over;
  }

  /** When it is dialled again, in ms since the epoch; `null`: never. */
  #nextTime({ redial, schedule }: Keep, how: Outcome): number | null {
    const at = Date.now();
    if (this.#suspended) return at; // the next process need not wait
    const kept = this.record.kept as KeptInfo;
    const usedUp = redial.maxAttempts !== null && kept.failures >= redial.maxAttempts;
    const again = usedUp ? null : at + redialDelay(redial, kept.failures);
    if (schedule === null) return again;
    const due = nextTime(schedule, at);
    if (how.state !== "ended" && again !== null) return Math.min(again, due ?? again);
    this.record = { ...this.record, kept: { ...kept, failures: 0 } };
    return due;
  }

  /** It waits for its next attempt. */
  #await(at: number, next: number | null, over: AttemptInfo | null): void {
    const time = new Date(next ?? at).toISOString();
    const { kept = null } = this.record;
    this.record = { ...this.record, state: "waiting", kept: kept && { ...kept, next: time } };
    this.controller = new AbortController(); // work that still runs no longer belongs to this session
    this.tell({ type: "waiting", next: time, over });
  }

  protected override keeper(runs: () => boolean): StateKeeper {
    const state = (): unknown => (this.#state === null ? undefined : decodeState(this.#state));
    return {
      get state() {
        return state();
      },
      save: (given) => {
        const text = encodeState(given);
        const over =
          "this handler's connection was given up; only the handler of the session's current connection may save";
        if (!runs()) return Promise.reject(new SocketError("ECANCELED", over));
        const { kept = null } = this.record;
        this.#state = text;
        this.record = { ...this.record, kept: kept && { ...kept, savedAt: now() } };
        this.#commits.touch();
        return this.#commits.whenKept();
      },
      done: () => {
        if (runs()) this.#done = true;
      },
    };
  }

  #kept({ events, state }: SessionChange): void {
    if (state !== null) this.#keptState = state;
    const last = events.at(-1);
    if (last !== undefined) this.log.show(last.id);
    if (this.over) this.ended();
  }

  /** The changes since the last stored one could not be stored: they are undone, and the attempt ends. */
  #lost(error: unknown): void {
    if (this.over) {
      this.log.show(this.log.last); // nothing can be undone now
      this.ended();
      return;
    }
    this.log.drop();
    this.#state = this.#keptState;
    if (this.attempts) this.abort(SocketError.from(error, "ERR_INTERNAL"));
  }
}

/** The code of lasting sessions, which a Worker includes only on request: `workerFor(app, { lasting })`. */
export const lasting: Lasting = LastingSession;
