/// <reference types="@cloudflare/workers-types" />
/**
 * A session in a Durable Object of its own: it dials, runs the handler, and keeps the record.
 *
 *     start ──▶ record and alarm ──▶ the registry has it ──▶ it runs: each event is kept with the record, in one transaction
 *                   │                    │                      │
 *                   │                    └─ too many run: the record is deleted
 *                   ├─ the object is lost, at any time ──▶ its successor: the record is `cut`; a lasting session is dialled again
 *                   └──▶ over ──▶ reported to the registry
 *
 * The object's record is the truth about the session. The registry has what a list needs, and gets one report, when the
 * session is over. The alarm makes sure of that, whatever happens to the object: it repeats until the registry has confirmed.
 *
 * A lasting session (`keep`) has one connection after the other. While it waits for the next one, the alarm is set to
 * that time, and the object need not be in memory.
 */

import type { App } from "../../core/app/app.ts";
import type { MaybePromise } from "../../core/bytes/data.ts";
import { eventStream } from "../../core/control/http/sse.ts";
import { isOver, type SessionInfo, type SessionSpec, sessionTarget } from "../../core/control/plane.ts";
import type { SessionChange, SessionStore } from "../../core/control/sessions/commits.ts";
import type { Lasting } from "../../core/control/sessions/lasting.ts";
import {
  dialled,
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
 * minutes (cloudflare-docs 31324). This is also how long the registry may be wrong about an object that was lost and
 * that gets no calls, and how long a lasting session may then be without a connection.
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
  #armed: number | "heartbeat" | undefined; // what the alarm of a lasting session is set for, as far as this object knows

  constructor(state: PlatformState, env: unknown, setup: SessionSetup) {
    super(state, env as SockletBindings);
    this.#setup = setup;
    this.#store = { save: (change) => this.#save(change) };
    const kept = this.#kept();
    if (kept !== null) this.#watch(this.#madeAnew(...kept));
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
   * First the record and its alarm, in one transaction; then the registry's row; then the dial. So wherever the object is
   * lost, each row of the registry has a record, and each record reaches its end and the registry.
   */
  async #start(id: string, spec: SessionSpec): Promise<SessionInfo> {
    if (this.#session !== undefined) return this.#session.info(); // it had started, before this object was made again
    const settings = this.#settings(id, spec);
    const admission = Promise.withResolvers<void>();
    this.#makeTables();
    if (settings.keep !== null) {
      this.ctx.storage.sql.exec("INSERT INTO kept (only, spec) VALUES (1, ?)", JSON.stringify(spec));
    }
    const armed = this.ctx.storage.setAlarm(Date.now() + HEARTBEAT); // not awaited here: what follows is of its transaction
    this.#armed = "heartbeat";
    const session = (this.#setup.lasting ?? Session).start({
      ...settings,
      run: async (hooks) => {
        await admission.promise;
        return settings.run(hooks);
      },
    });
    this.#session = session;
    try {
      await armed;
      settled(await this.#registry((calls) => calls.add(session.info())));
      admission.resolve();
    } catch (error) {
      admission.reject(error); // nothing is dialled
      if (session.lasts) await session.end(SocketError.from(error, "ERR_INTERNAL"));
      await session.whenOver;
      // A refused session never existed. If it is unknown whether it was refused, the record stays, and the registry hears of it.
      if (error instanceof SocketError && error.code === "ERR_LIMIT") await this.#drop();
      throw error;
    } finally {
      if (this.#session === session) this.#watch(session);
    }
    return session.info();
  }

  /** What the session `id` is made of. Throws as `sessionTarget()`. */
  #settings(id: string, spec: SessionSpec): SessionOptions {
    const { app, allow, onEvent, pools } = this.#setup;
    const { env } = this;
    // Checked here, too: during a rollout this object may have other rules than its caller.
    const target = sessionTarget(app, spec, allow);
    const {
      handler,
      HandlerClass,
      endpoint,
      address,
      params,
      deadline,
      connectTimeout,
      secureTransport,
      tls,
      proxyHeader,
      keep,
    } = target;
    const run = async (hooks: SessionHooks): Promise<unknown> => {
      const bindings = env as Readonly<Record<string, unknown>>;
      this.#context ??= (async () => app.context(platformOf(app, pools, bindings)))();
      const context = await this.#context.catch((error) => {
        this.#context = undefined; // the next attempt asks again
        throw SocketError.from(error, "ERR_APP");
      });
      const connector = new TCPConnector(endpoint, HandlerClass, {
        name: handler,
        context,
        secureTransport,
        ...(tls !== undefined && { tls }),
        proxyHeader,
        ...(connectTimeout !== undefined && { connectTimeout }),
        ...(onEvent !== undefined && { onEvent }),
      });
      return dialled(connector, params)(hooks);
    };
    return {
      id,
      handler,
      address,
      deadline,
      keep,
      hint: platformRefusal(endpoint), // reported before the dial, which may succeed in local development
      params,
      secrets: secretsOf(env),
      store: this.#store,
      run,
    };
  }

  async info(): Promise<SessionInfo | null> {
    return this.#session?.info() ?? null;
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
    if (session === undefined || (session.over && this.#isTold())) return;
    // Before what may fail: an alarm that fails again and again is no longer called.
    await this.ctx.storage.setAlarm(Date.now() + HEARTBEAT);
    this.#armed = "heartbeat";
    session.wake();
    if (session.over) await this.#tellRegistry(session);
    else if (session.wakeAt !== null) {
      this.#armed = session.wakeAt;
      await this.ctx.storage.setAlarm(session.wakeAt); // it was too early
    }
  }

  #watch(session: Session): void {
    this.#session = session;
    // If this fails, the alarm tries again.
    void session.whenOver.then(() => this.#tellRegistry(session)).catch(() => {});
  }

  /** Reports the end of the session to the registry. Meanwhile the registry may have deleted the session, and so this record. */
  async #tellRegistry(session: Session): Promise<void> {
    if (this.#session !== session || this.#isTold()) return;
    const known = await this.#registry((calls) => calls.over(session.info()));
    if (this.#session !== session) return;
    if (!known) settled(await this.#registry((calls) => calls.add(session.info()))); // this object was lost before it could add it
    if (this.#session !== session) return;
    this.ctx.storage.sql.exec("UPDATE session SET told = 1");
    await this.ctx.storage.deleteAlarm();
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

  // Not in the constructor: that would also store an object for an id that no session has.
  #makeTables(): void {
    this.ctx.storage.sql.exec(
      `CREATE TABLE IF NOT EXISTS session (only INTEGER PRIMARY KEY CHECK (only = 1), info TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0);
       CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, event TEXT NOT NULL);
       CREATE TABLE IF NOT EXISTS kept (only INTEGER PRIMARY KEY CHECK (only = 1), spec TEXT NOT NULL, state TEXT)`,
    );
  }

  #hasTable(name: "session" | "kept"): boolean {
    const { sql } = this.ctx.storage;
    return sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", name).toArray().length > 0;
  }

  /** The record, and what the session was started with if it lasts. */
  #kept(): [SessionRecord, SessionSpec | null] | null {
    const { sql } = this.ctx.storage;
    if (!this.#hasTable("session")) return null;
    const [row] = sql.exec<{ info: string }>("SELECT info FROM session").toArray();
    if (row === undefined) return null;
    const events = sql.exec<{ event: string }>("SELECT event FROM events ORDER BY id").toArray();
    const [kept] = this.#hasTable("kept")
      ? sql.exec<{ spec: string; state: string | null }>("SELECT spec, state FROM kept").toArray()
      : [];
    const record = {
      info: JSON.parse(row.info),
      events: events.map(({ event }) => JSON.parse(event)),
      state: kept?.state ?? null,
    };
    return [record, kept === undefined ? null : JSON.parse(kept.spec)];
  }

  #isTold(): boolean {
    return this.ctx.storage.sql.exec("SELECT 1 FROM session WHERE told").toArray().length > 0;
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
        storage.sql.exec(
          "REPLACE INTO session (only, info) VALUES (1, ?)", // `told` is 0 until the last is saved
          JSON.stringify(info),
        );
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
