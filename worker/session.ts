/// <reference types="@cloudflare/workers-types" />
/**
 * A session in a Durable Object of its own: it dials, runs the handler, and keeps the record.
 *
 *     start ──▶ the registry has it ──▶ it runs: each event is kept with the record, in one transaction
 *                                         │    └─ the object is lost ──▶ made anew: the record is `cut`
 *                                         └──▶ over ──▶ the registry is told
 *
 * The object is its record: who asks for a session asks here, and hears the truth. The registry has what is
 * needed to list them, and is told once, when the session is over. The alarm sees to it that this comes to pass
 * whatever happens to the object: it goes on until the registry has heard.
 */

import { DurableObject } from "cloudflare:workers";
import { type AllowList, platformRefusal } from "../core/access.ts";
import type { App } from "../core/app.ts";
import {
  type SessionEvent,
  type SessionInfo,
  type SessionSpec,
  sessionTarget,
} from "../core/control/plane.ts";
import { dialled, Session, type SessionRecord, type SessionStore } from "../core/control/session.ts";
import { eventStream } from "../core/control/sse.ts";
import type { OnEvent } from "../core/events.ts";
import {
  type Answer,
  answer,
  registryOf,
  type SessionCalls,
  type SockletBindings,
  secretsOf,
  settled,
} from "./bindings.ts";
import { TCPConnector } from "./connector.ts";
import { boundStorage } from "./storage.ts";

/**
 * ms between the alarms of a session that runs. They are what keeps its object: workerd evicts one that nobody
 * asks after 10 s, or 60 to 100 s where it has a socket open (measured on workerd 2026-11-17); at 20 s the object
 * and its connection were there as long as it was tried. On Cloudflare's edge a connection keeps its object for 15
 * minutes at most (cloudflare-docs 31324). It is also how long the registry may be wrong about an object that was
 * lost and that nobody asks.
 */
const HEARTBEAT = 20_000;

/** What a session's object is made for. */
export interface SessionSetup {
  readonly app: App;
  readonly allow: AllowList;
  readonly onEvent?: OnEvent | undefined;
}

/** The object of one session; `workerFor(app).Session` is this class for that app. */
export class SessionObject extends DurableObject<SockletBindings> implements SessionCalls {
  readonly #setup: SessionSetup;
  readonly #store: SessionStore;
  #session: Session | undefined;
  #starting: Promise<Answer<SessionInfo>> | undefined;

  constructor(state: DurableObjectState, env: unknown, setup: SessionSetup) {
    super(state, env as SockletBindings);
    this.#setup = setup;
    this.#store = { save: (info, event, oldest) => this.#save(info, event, oldest) };
    const record = this.#kept();
    if (record !== null) this.#watch(Session.restore(record, this.#store)); // cut, where it was not over
  }

  /** As `ControlPlane.start`. Asked twice, it starts once. */
  start(id: string, spec: SessionSpec): Promise<Answer<SessionInfo>> {
    this.#starting ??= answer(async () => {
      if (this.#session !== undefined) return this.#session.info(); // it had, before this object was made anew
      const { app, allow, onEvent } = this.#setup;
      const { env } = this;
      // Checked here, too: where versions are rolled out, this one's rules may not be its caller's.
      const target = sessionTarget(app, spec, allow);
      const { handler, HandlerClass, endpoint, address, params, deadline, connectTimeout, secureTransport } =
        target;
      const context = await app.context({
        name: "workerd",
        bindings: env as Readonly<Record<string, unknown>>,
        storage: boundStorage(env as Readonly<Record<string, unknown>>),
      });
      settled(await registryOf(env).add(newRecord(id, handler, address)));
      const connector = new TCPConnector(endpoint, HandlerClass, {
        name: handler,
        context,
        secureTransport,
        ...(connectTimeout !== undefined && { connectTimeout }),
        ...(onEvent !== undefined && { onEvent }),
      });
      this.#makeTables();
      await this.ctx.storage.setAlarm(Date.now() + HEARTBEAT);
      const session = Session.start({
        id,
        handler,
        address,
        deadline,
        hint: platformRefusal(endpoint), // said before the dial, which may be one on a machine of yours and pass
        params,
        secrets: secretsOf(env),
        store: this.#store,
        run: dialled(connector, params),
      });
      this.#watch(session);
      return session.info();
    });
    return this.#starting;
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

  async forget(): Promise<void> {
    if (this.#session?.over === false) return;
    this.#session = undefined;
    await this.ctx.storage.deleteAlarm();
    await this.ctx.storage.deleteAll();
  }

  override async alarm(): Promise<void> {
    const session = this.#session;
    if (session === undefined || (session.over && this.#isTold())) return;
    await this.ctx.storage.setAlarm(Date.now() + HEARTBEAT);
    if (session.over) await this.#tellRegistry(session);
  }

  #watch(session: Session): void {
    this.#session = session;
    // What goes wrong here, the alarm tries again.
    void session.whenOver.then(() => this.#tellRegistry(session)).catch(() => {});
  }

  async #tellRegistry(session: Session): Promise<void> {
    if (this.#isTold()) return;
    await registryOf(this.env).over(session.info());
    if (this.#session !== session) return; // forgotten by now
    this.ctx.storage.sql.exec("UPDATE session SET told = 1");
    await this.ctx.storage.deleteAlarm();
  }

  // ---- What is kept ----

  // Not in the constructor: an object that is asked for an id which nobody has would be stored, too.
  #makeTables(): void {
    this.ctx.storage.sql.exec(
      `CREATE TABLE session (only INTEGER PRIMARY KEY CHECK (only = 1), info TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0);
       CREATE TABLE events (id INTEGER PRIMARY KEY, event TEXT NOT NULL)`,
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
      // The session goes on; the record will lack this. A storage that is full is what it can be.
      this.#setup.onEvent?.({ type: "error", server: `session ${info.id}`, address: null, error });
    }
  }
}

/** The record of a session that is about to begin. */
const newRecord = (id: string, handler: string, address: string): SessionInfo => ({
  id,
  handler,
  direction: "outbound",
  address,
  peer: null,
  state: "connecting",
  startedAt: new Date().toISOString(),
  endedAt: null,
  bytesRead: 0,
  bytesWritten: 0,
  result: null,
  error: null,
});
