/// <reference types="@cloudflare/workers-types" />
/**
 * A session in a Durable Object of its own: it dials, runs the handler, and keeps the record.
 *
 *     start ──▶ the registry has a row ──▶ record ──▶ it runs: each event is kept with the record, in one transaction
 *                   │                        │
 *                   └─ too many run:         ├─ the registry's visit: from then on, an alarm
 *                      nothing was kept      └──▶ over ──▶ reported to the registry
 *
 * The object's record is the truth about the session. The registry has what a list needs, and gets one report, when the
 * session is over. The object may be lost at any time; its successor makes a record that was not over `cut`, or dials again
 * if the session lasts. Something always wakes that successor:
 *
 * - Lost before its record is stored, but after its row: the registry visits each session once, soon after its start, finds
 *   no record, and deletes the row. No record is ever without a row, since the row comes first.
 * - Lost before that visit: the visit wakes the successor, whose answer says that the session is over. A session of
 *   milliseconds therefore sets no alarm, which would be two more writes that its caller waits for.
 * - Lost after that visit, which sets the alarm if the session still runs: the alarm repeats until the registry has
 *   confirmed the end. So a record that is over and has an alarm is reported again, and one without an alarm never.
 *
 * A lasting session (`keep`) has one connection after the other, and an alarm from the start. While it waits for the next
 * connection, the alarm is set to that time, and the object need not be in memory.
 */

import type { App } from "../../core/app/app.ts";
import type { MaybePromise } from "../../core/bytes/data.ts";
import { eventStream } from "../../core/control/http/sse.ts";
import { isOver, type SessionInfo, type SessionSpec, sessionTarget } from "../../core/control/plane.ts";
import type { SessionChange, SessionStore } from "../../core/control/sessions/commits.ts";
import type { Lasting } from "../../core/control/sessions/lasting.ts";
import {
  dialled,
  newRecord,
  Session,
  type SessionHooks,
  type SessionOptions,
  type SessionRecord,
} from "../../core/control/sessions/session.ts";
import { SocketError } from "../../core/errors.ts";
import { callListener, type OnEvent } from "../../core/handlers/events.ts";
import { type AllowList, platformRefusal } from "../../core/net/access.ts";
import { PlatformObject, type PlatformState } from "../platform.ts";
import { TCPConnector } from "../sockets/connector.ts";
import {
  type Answer,
  again,
  answer,
  type RegistryCalls,
  registryOf,
  type SessionCalls,
  type SockletBindings,
  secretsOf,
  settled,
} from "./bindings.ts";
import { type PoolAccess, platformOf } from "./platform.ts";

/**
 * ms between the alarms of a running session. The alarms keep its object: workerd evicts an object without calls after 10 s,
 * or after 60 to 100 s if it has a socket open (measured on workerd 2026-11-17). With an alarm every 20 s, the object and
 * its connection stayed for as long as the trial ran. On Cloudflare's edge a connection keeps its object for at most 15
 * minutes (cloudflare-docs 31324). This is also how long the registry may be wrong about an object that was lost after its
 * visit and that gets no calls, and how long a lasting session may then be without a connection.
 */
const HEARTBEAT = 20_000;
/**
 * ms after the end of a session until its object is aborted, if the peer takes nothing. While a write is blocked, neither
 * `close()` nor the writer's `abort()` releases the connection, which keeps the object (130 s and more, workerd
 * 2026-10-23). The record stays.
 */
const LET_GO = 2_000;

/** What a session's object needs to know. */
export interface SessionSetup {
  readonly app: App;
  readonly allow: AllowList;
  readonly onEvent?: OnEvent | undefined;
  /** The app's pools. */
  readonly pools?: PoolAccess | undefined;
  readonly lasting?: Lasting | undefined;
}

/** The object of one session. `workerFor(app).Session` is this class for that app. */
export class SessionObject extends PlatformObject<SockletBindings> implements SessionCalls {
  readonly #setup: SessionSetup;
  readonly #store: SessionStore;
  #session: Session | undefined;
  #starting: Promise<Answer<SessionInfo>> | undefined;
  #context: Promise<unknown> | undefined; // the app's
  #armed: number | "heartbeat" | undefined; // what the alarm is set for, as far as this object knows

  constructor(state: PlatformState, env: unknown, setup: SessionSetup) {
    super(state, env as SockletBindings);
    this.#setup = setup;
    this.#store = { save: (change) => this.#save(change) };
    const kept = this.#kept();
    if (kept === null) return;
    const session = this.#madeAnew(...kept);
    // One that was over is reported already, or will be by the alarm or at the registry's visit.
    if (isOver(kept[0].info.state)) this.#session = session;
    else this.#watch(session);
  }

  /** The session of a record that a predecessor of this object made: cut if it was not over, or continued if it lasts. */
  #madeAnew(record: SessionRecord, spec: SessionSpec | null): Session {
    if (spec === null || isOver(record.info.state)) return Session.restore(record, this.#store);
    try {
      const { lasting } = this.#setup;
      if (lasting !== undefined) return lasting.resume(record, this.#settings(record.info.id, spec));
      throw new SocketError("ERR_APP", "the version that is deployed now has no lasting sessions");
    } catch (error) {
      return Session.restore(record, this.#store, error); // the version deployed by now has no such entry
    }
  }

  /** As `ControlPlane.start`. Called twice, it starts once. */
  start(id: string, spec: SessionSpec): Promise<Answer<SessionInfo>> {
    this.#starting ??= answer(() => this.#start(id, spec));
    return this.#starting;
  }

  /**
   * First the registry's row, then the record, then the dial. Until the record is stored nobody is told of the session
   * (`info()` waits), so it may vanish if the object is lost before that.
   */
  async #start(id: string, spec: SessionSpec): Promise<SessionInfo> {
    if (this.#session !== undefined) return this.#session.info(); // it had started, before this object was made again
    const settings = this.#settings(id, spec);
    settled(await this.#registry((calls) => calls.add(newRecord(settings))));
    // From here to the end nothing is awaited: it is one transaction, and what leaves this object waits for it.
    // The tables are not made in the constructor: that would also store an object for an id that no session has.
    this.ctx.storage.sql.exec(
      `CREATE TABLE IF NOT EXISTS session (only INTEGER PRIMARY KEY, info TEXT NOT NULL);
       CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, event TEXT NOT NULL);
       CREATE TABLE IF NOT EXISTS kept (only INTEGER PRIMARY KEY, spec TEXT NOT NULL, state TEXT)`,
    );
    if (settings.keep !== null) {
      this.ctx.storage.sql.exec("INSERT INTO kept (only, spec) VALUES (1, ?)", JSON.stringify(spec));
    }
    const session = (this.#setup.lasting ?? Session).start(settings);
    this.#watch(session);
    return session.info();
  }

  /** What the session `id` is made of. Throws as `sessionTarget()`. */
  #settings(id: string, spec: SessionSpec): SessionOptions {
    const { app, allow, onEvent, pools } = this.#setup;
    const { env } = this;
    // Checked here, too: during a rollout this object may have other rules than its caller.
    const {
      dial: _,
      HandlerClass,
      endpoint,
      connectTimeout,
      secureTransport,
      tls,
      proxyHeader,
      ...rest
    } = sessionTarget(app, spec, allow);
    const run = async (hooks: SessionHooks): Promise<unknown> => {
      const bindings = env as Readonly<Record<string, unknown>>;
      this.#context ??= (async () => app.context(platformOf(app, pools, bindings)))();
      const context = await this.#context.catch((error) => {
        this.#context = undefined; // the next attempt asks again
        throw SocketError.from(error, "ERR_APP");
      });
      const connector = new TCPConnector(endpoint, HandlerClass, {
        name: rest.handler,
        context,
        secureTransport,
        ...(tls !== undefined && { tls }),
        proxyHeader,
        ...(connectTimeout !== undefined && { connectTimeout }),
        ...(onEvent !== undefined && { onEvent }),
      });
      return dialled(connector, rest.params)(hooks);
    };
    return {
      ...rest,
      id,
      hint: platformRefusal(endpoint), // reported before the dial, which may succeed in local development
      secrets: secretsOf(env),
      store: this.#store,
      run,
    };
  }

  async info(): Promise<SessionInfo | null> {
    await this.#starting; // never rejects
    return this.#session?.info() ?? null;
  }

  async visit(): Promise<SessionInfo | null> {
    const info = await this.info();
    if (this.#session?.over === false && this.#armed === undefined) await this.#beat();
    return info;
  }

  async wait(ms: number): Promise<SessionInfo | null> {
    return (await this.#session?.wait(ms)) ?? null;
  }

  async events(after: number): Promise<ReadableStream<Uint8Array> | null> {
    if (this.#session === undefined) return null;
    const leaving = new AbortController();
    return eventStream(this.#session.events(after, leaving.signal), leaving);
  }

  send(bytes: Uint8Array): Promise<Answer<SessionInfo | null>> {
    return answer(async () => (await this.#session?.send(bytes)) ?? null);
  }

  halfClose(): Promise<Answer<SessionInfo | null>> {
    return answer(async () => (await this.#session?.halfClose()) ?? null);
  }

  async end(graceful?: boolean): Promise<SessionInfo | null> {
    return (await this.#session?.end(undefined, graceful)) ?? null;
  }

  async forget(): Promise<boolean> {
    if (this.#session?.over === false) return false;
    await this.#drop();
    return true;
  }

  override async alarm(): Promise<void> {
    const session = this.#session;
    if (session === undefined) return;
    await this.#beat(); // before what may fail: an alarm that fails again and again is no longer called
    session.wake();
    if (session.over) await this.#tellRegistry(session);
    else if (session.wakeAt !== null) {
      this.#armed = session.wakeAt;
      await this.ctx.storage.setAlarm(session.wakeAt); // it was too early
    }
  }

  #beat(): Promise<void> {
    this.#armed = "heartbeat";
    return this.ctx.storage.setAlarm(Date.now() + HEARTBEAT);
  }

  #watch(session: Session): void {
    this.#session = session;
    // If this fails, the alarm tries again, or the registry learns of it at its visit.
    void session.whenOver.then(() => this.#tellRegistry(session)).catch(() => {});
  }

  /** Reports the end of the session to the registry. Meanwhile the registry may have deleted the session, and so this record. */
  async #tellRegistry(session: Session): Promise<void> {
    if (this.#session !== session) return;
    const known = await this.#registry((calls) => calls.over(session.info()));
    if (this.#session !== session) return;
    if (!known) settled(await this.#registry((calls) => calls.add(session.info())));
    if (this.#session !== session) return;
    await this.ctx.storage.deleteAlarm(); // writes nothing if there is none
    if (session.blocked)
      setTimeout(() => this.ctx.abort("the session is over, and its peer takes nothing"), LET_GO);
  }

  #registry<T>(ask: (calls: RegistryCalls) => Promise<T>): Promise<T> {
    return again(() => ask(registryOf(this.env)), "the registry of sessions");
  }

  async #drop(): Promise<void> {
    this.#session = undefined;
    await this.ctx.storage.deleteAll();
    await this.ctx.storage.deleteAlarm(); // last: a record without an alarm would stay for ever
  }

  // ---- What is kept ----

  /** The record, and what the session was started with if it lasts. */
  #kept(): [SessionRecord, SessionSpec | null] | null {
    const { sql } = this.ctx.storage;
    const made = sql.exec("SELECT 1 FROM sqlite_master WHERE name IN ('session', 'kept')").toArray().length;
    if (made === 0) return null;
    const [row] = sql.exec<{ info: string }>("SELECT info FROM session").toArray();
    if (row === undefined) return null;
    const events = sql.exec<{ event: string }>("SELECT event FROM events ORDER BY id").toArray();
    // A session of a former version has no such table.
    const [kept] =
      made === 1
        ? []
        : sql.exec<{ spec: string; state: string | null }>("SELECT spec, state FROM kept").toArray();
    const record = {
      info: JSON.parse(row.info),
      events: events.map(({ event }) => JSON.parse(event)),
      state: kept?.state ?? null,
    };
    return [record, kept === undefined ? null : JSON.parse(kept.spec)];
  }

  #save({ info, events, oldest, state, wakeAt }: SessionChange): MaybePromise<void> {
    const { storage } = this.ctx;
    // Of the same transaction, like all that is written before something is awaited.
    const armed = wakeAt === null ? "heartbeat" : wakeAt;
    if (info.kept !== null && armed !== this.#armed) {
      this.#armed = armed;
      storage.setAlarm(wakeAt ?? Date.now() + HEARTBEAT).catch(() => {}); // then storage fails, which is reported below
    }
    try {
      storage.transactionSync(() => {
        storage.sql.exec("REPLACE INTO session (only, info) VALUES (1, ?)", JSON.stringify(info));
        for (const event of events) {
          storage.sql.exec("INSERT INTO events VALUES (?, ?)", event.id, JSON.stringify(event));
        }
        if (state !== null) storage.sql.exec("UPDATE kept SET state = ?", state);
        storage.sql.exec("DELETE FROM events WHERE id < ?", oldest);
      });
    } catch (error) {
      // The session continues, and its record lacks this event. The likely cause is full storage.
      const { onEvent } = this.#setup;
      if (onEvent !== undefined) {
        callListener(onEvent, { type: "error", server: `session ${info.id}`, address: null, error });
      }
      if (info.kept !== null) throw error; // a lasting session undoes it
    }
    if (info.kept !== null) return storage.sync(); // nothing is shown that may yet be lost
  }
}
