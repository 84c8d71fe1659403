/// <reference types="@cloudflare/workers-types" />
/**
 * A session in a Durable Object of its own: it dials, runs the handler, and keeps the record.
 *
 *     start ──▶ record and alarm ──▶ the registry has it ──▶ it runs: each event is kept with the record, in one transaction
 *                   │                    │                      │
 *                   │                    └─ too many run: the record is deleted
 *                   ├─ the object is lost, at any time ──▶ its successor: the record is `cut`
 *                   └──▶ over ──▶ the registry is told
 *
 * The object's record is the truth about the session. The registry has what a list needs, and is told once, when the
 * session is over. The alarm makes sure of that, whatever happens to the object: it repeats until the registry has heard.
 */

import {
  type SessionEvent,
  type SessionInfo,
  type SessionSpec,
  sessionTarget,
} from "../../core/control/plane.ts";
import {
  dialled,
  Session,
  type SessionHooks,
  type SessionRecord,
  type SessionStore,
} from "../../core/control/session.ts";
import { eventStream } from "../../core/control/sse.ts";
import { SocketError } from "../../core/errors.ts";
import { type AllowList, platformRefusal } from "../../core/net/access.ts";
import type { App } from "../../core/serve/app.ts";
import { callListener, type OnEvent } from "../../core/serve/events.ts";
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
import { platformOf } from "./platform.ts";

/**
 * ms between the alarms of a running session. The alarms keep its object: workerd evicts one that nobody calls after 10 s,
 * or after 60 to 100 s if it has a socket open (measured on workerd 2026-11-17). With an alarm every 20 s, the object and
 * its connection stayed as long as it was tried. On Cloudflare's edge a connection keeps its object for at most 15
 * minutes (cloudflare-docs 31324). This is also how long the registry may be wrong about an object that was lost and
 * that nobody calls.
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
}

/** The object of one session. `workerFor(app).Session` is this class for that app. */
export class SessionObject extends PlatformObject<SockletBindings> implements SessionCalls {
  readonly #setup: SessionSetup;
  readonly #store: SessionStore;
  #session: Session | undefined;
  #starting: Promise<Answer<SessionInfo>> | undefined;

  constructor(state: PlatformState, env: unknown, setup: SessionSetup) {
    super(state, env as SockletBindings);
    this.#setup = setup;
    this.#store = { save: (info, event, oldest) => this.#save(info, event, oldest) };
    const record = this.#kept();
    if (record !== null) this.#watch(Session.restore(record, this.#store)); // `cut`, if it was not over
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
    if (this.#session !== undefined) return this.#session.info(); // it was started before this object was lost and made again
    const { app, allow, onEvent } = this.#setup;
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
    } = target;
    const run = async (hooks: SessionHooks): Promise<unknown> => {
      const bindings = env as Readonly<Record<string, unknown>>;
      const made = async (): Promise<unknown> => app.context(platformOf(bindings));
      const context = await made().catch((error) => {
        throw SocketError.from(error, "ERR_APP");
      });
      const connector = new TCPConnector(endpoint, HandlerClass, {
        name: handler,
        context,
        secureTransport,
        ...(tls !== undefined && { tls }),
        ...(connectTimeout !== undefined && { connectTimeout }),
        ...(onEvent !== undefined && { onEvent }),
      });
      return dialled(connector, params)(hooks);
    };
    const admission = Promise.withResolvers<void>();
    this.#makeTables();
    const armed = this.ctx.storage.setAlarm(Date.now() + HEARTBEAT); // not awaited here, so that what follows is in the same transaction
    const session = Session.start({
      id,
      handler,
      address,
      deadline,
      hint: platformRefusal(endpoint), // told before the dial, which may succeed in local development
      params,
      secrets: secretsOf(env),
      store: this.#store,
      run: async (hooks) => {
        await admission.promise;
        return run(hooks);
      },
    });
    this.#session = session;
    try {
      await armed;
      settled(await again(() => registryOf(env).add(session.info()), "the registry of sessions"));
      admission.resolve();
    } catch (error) {
      admission.reject(error); // nothing is dialled
      await session.whenOver;
      // A refused session was never started. If nobody can say whether it was refused, the record stays, and the registry is told.
      if (error instanceof SocketError && error.code === "ERR_LIMIT") await this.#drop();
      throw error;
    } finally {
      if (this.#session === session) this.#watch(session);
    }
    return session.info();
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

  async end(): Promise<SessionInfo | null> {
    return (await this.#session?.end()) ?? null;
  }

  async forget(): Promise<boolean> {
    if (this.#session?.over === false) return false;
    await this.#drop();
    return true;
  }

  override async alarm(): Promise<void> {
    const session = this.#session;
    if (session === undefined || (session.over && this.#isTold())) return;
    await this.ctx.storage.setAlarm(Date.now() + HEARTBEAT);
    if (session.over) await this.#tellRegistry(session);
  }

  #watch(session: Session): void {
    this.#session = session;
    // If this fails, the alarm tries again.
    void session.whenOver.then(() => this.#tellRegistry(session)).catch(() => {});
  }

  /** Tells the registry that the session is over. Meanwhile the registry may have deleted the session, and so this record. */
  async #tellRegistry(session: Session): Promise<void> {
    if (this.#session !== session || this.#isTold()) return;
    const registry = <T>(ask: (calls: RegistryCalls) => Promise<T>): Promise<T> =>
      again(() => ask(registryOf(this.env)), "the registry of sessions");
    const known = await registry((calls) => calls.over(session.info()));
    if (this.#session !== session) return;
    if (!known) settled(await registry((calls) => calls.add(session.info()))); // this object was lost before it could add it
    if (this.#session !== session) return;
    this.ctx.storage.sql.exec("UPDATE session SET told = 1");
    await this.ctx.storage.deleteAlarm();
    if (session.blocked)
      setTimeout(() => this.ctx.abort("the session is over, and its peer takes nothing"), LET_GO);
  }

  async #drop(): Promise<void> {
    this.#session = undefined;
    await this.ctx.storage.deleteAll();
    await this.ctx.storage.deleteAlarm(); // last: a record without an alarm would stay for ever
  }

  // ---- What is kept ----

  // Not in the constructor: that would also store an object for an id that nobody has.
  #makeTables(): void {
    this.ctx.storage.sql.exec(
      `CREATE TABLE IF NOT EXISTS session (only INTEGER PRIMARY KEY CHECK (only = 1), info TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0);
       CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, event TEXT NOT NULL)`,
    );
  }

  #kept(): SessionRecord | null {
    const { sql } = this.ctx.storage;
    if (sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'session'").toArray().length === 0) return null;
    const [row] = sql.exec<{ info: string }>("SELECT info FROM session").toArray();
    if (row === undefined) return null;
    const events = sql.exec<{ event: string }>("SELECT event FROM events ORDER BY id").toArray();
    return { info: JSON.parse(row.info), events: events.map(({ event }) => JSON.parse(event)) };
  }

  #isTold(): boolean {
    const rows = this.ctx.storage.sql.exec<{ told: number }>("SELECT told FROM session").toArray();
    return rows[0]?.told === 1;
  }

  #save(info: SessionInfo, event: SessionEvent, oldest: number): void {
    const { storage } = this.ctx;
    try {
      storage.transactionSync(() => {
        storage.sql.exec(
          "INSERT INTO session (only, info) VALUES (1, ?) ON CONFLICT DO UPDATE SET info = excluded.info",
          JSON.stringify(info),
        );
        storage.sql.exec("INSERT INTO events VALUES (?, ?)", event.id, JSON.stringify(event));
        storage.sql.exec("DELETE FROM events WHERE id < ?", oldest);
      });
    } catch (error) {
      // The session goes on, and its record lacks this event. The likely cause is a full storage.
      const { onEvent } = this.#setup;
      if (onEvent === undefined) return;
      callListener(onEvent, { type: "error", server: `session ${info.id}`, address: null, error });
    }
  }
}
