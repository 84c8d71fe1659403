/**
 * `LocalPlane`: a control plane whose sessions live in this process, in memory. The emulator's, and the tests'.
 * Its history is bounded by count and age.
 */

import type { App } from "../../app/app.ts";
import { DONE, type MaybePromise } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { PoolInfo } from "../../handlers/client.ts";
import { AllowList } from "../../net/access.ts";
import { checkOptions, MAX_TIMER, optionNamesOf } from "../../options.ts";
import type { BaseConnector } from "../../serve/connector.ts";
import { isCarried } from "../../sockets/streams/carried.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { ListenerLog } from "../listeners.ts";
import {
  type ControlPlane,
  type DecodedPart,
  decoderOf,
  type EntryInfo,
  type FaultPlane,
  type Health,
  type ListenerEvent,
  type ListenerInfo,
  newSessionId,
  type RecordingPlane,
  type Replayed,
  type ReplaySpec,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
  type SessionSpec,
  type SessionTarget,
  sessionTarget,
} from "../plane.ts";
import { afterTrim } from "../recording/bounds.ts";
import type { OpenConnection, Recorder } from "../recording/recorder.ts";
import { acceptedSession, NOT_BY_HAND, pooledSession } from "./accepted.ts";
import { ByAge } from "./by-age.ts";
import type { SessionStore } from "./commits.ts";
import { LastingSession } from "./lasting.ts";
import {
  dialled,
  Session,
  type SessionHooks,
  type SessionOptions,
  type SessionRecord,
  type SessionRun,
} from "./session.ts";

/** Options of a local plane. Times are milliseconds. */
export interface LocalPlaneOptions {
  readonly app: App;
  /** Makes a connector for one session only. Called once the target is known to be allowed. */
  // biome-ignore lint/suspicious/noExplicitAny: a connector is invariant in its handlers' context, which is none of ours
  connector(target: SessionTarget): BaseConnector<StreamSocket, any>;
  /** Default: none. */
  listeners?(): readonly ListenerInfo[];
  /** As `ControlPlane.metrics`; `dialled` is the number of running sessions that this side opened. Default: none. */
  metrics?(dialled: number): string;
  /** As `ControlPlane.faults`. Default: none. */
  readonly faults?: FaultPlane | undefined;
  /** Records the traffic of its sessions, on request. Default: no recording. */
  readonly recorder?: Recorder | undefined;
  /** As `ControlPlane.replay`; `allow` are the rules of the app. Default: no replays. */
  replay?(spec: ReplaySpec, allow: AllowList): Promise<Replayed>;
  /** The names that a replay can go to. Default: not known. */
  entries?(): readonly EntryInfo[];
  /** The `info()` of the app's pools. Default: none. */
  poolInfos?(): readonly PoolInfo[];
  /** The events of the listeners. Default: none. */
  readonly log?: ListenerLog;
  /** As `ControlPlane.ready`. Default: always ready. */
  ready?(): MaybePromise<readonly string[]>;
  /** Keeps the lasting sessions beyond this process. Default: they end with the process. */
  readonly archive?: SessionArchive | undefined;
  /** Called with each error of the archive. */
  readonly onArchiveError?: ((error: unknown) => void) | undefined;
  /** Texts that no record may show; see `SessionOptions.secrets`. */
  readonly secrets?: readonly string[];
  /** Dialled sessions at a time; one more is `ERR_LIMIT`. Default 1 000: each holds a connection. */
  readonly maxRunning?: number;
  /** Finished sessions that are still shown. The oldest are dropped first, up to a 64th of them at once. Default 1 000: each takes at most about 1.3 MB, usually 1 KB. */
  readonly maxHistory?: number;
  /** How long a finished session is shown. Default: a day. */
  readonly maxAge?: number;
}

const LOCAL_PLANE_NAMES = optionNamesOf<LocalPlaneOptions>("a local plane")({
  app: true,
  connector: "function",
  listeners: "function",
  metrics: "function",
  faults: true,
  recorder: true,
  replay: "function",
  entries: "function",
  poolInfos: "function",
  log: true,
  ready: "function",
  archive: true,
  onArchiveError: "function",
  secrets: "strings",
  maxRunning: true,
  maxHistory: true,
  maxAge: true,
});

/** Everything that is stored of a lasting session. */
export interface ArchivedSession extends SessionRecord {
  /** What it was started with; its params may hold secrets. */
  readonly spec: SessionSpec;
}

/** Stores lasting sessions beyond their process. */
export interface SessionArchive {
  /** All stored sessions, including finished ones. */
  load(): Promise<readonly ArchivedSession[]>;
  /** The store of one session, or of a new one that is started with `spec`. Rejects with `EBUSY` if another process uses the archive. */
  store(id: string, spec: SessionSpec): Promise<SessionStore>;
  /** Deletes a finished session. */
  forget(id: string): Promise<void>;
  /** The process ends. */
  close(): Promise<void>;
}

const NOTHING_TOLD = new ListenerLog();
NOTHING_TOLD.end();

/** A control plane in memory. */
export class LocalPlane implements ControlPlane {
  readonly #options: LocalPlaneOptions;
  #app: App;
  #allow: AllowList;
  readonly #sessions = new ByAge<Session>();
  readonly #pooled = new Set<string>(); // the open connections of pools among them, by id
  readonly #over = new Set<Session>(); // the finished ones among them, in the order in which they ended
  #forgetAt = 0; // when the first finished one is too old, in ms since the epoch
  #dialled = 0; // running ones
  readonly #timers = new Map<string, ReturnType<typeof setTimeout>>(); // of the waiting ones, by id
  #closed = false;

  /** Throws `ERR_APP` if a rule of the app's `allow` is malformed, or a `schedule` is not a cron. */
  constructor(options: LocalPlaneOptions) {
    checkOptions("a local plane", options, LOCAL_PLANE_NAMES);
    this.#options = options;
    LastingSession.check(options.app);
    this.#app = options.app;
    this.#allow = new AllowList(options.app.allow);
    options.recorder?.of({
      open: () => this.#open(),
      info: (id) => this.#sessions.get(id)?.info(),
    });
  }

  /** Uses this app for new sessions. Those that run, or wait to be dialled again, keep theirs. Throws `ERR_APP`. */
  replaceApp(app: App): void {
    LastingSession.check(app);
    this.#allow = new AllowList(app.allow);
    this.#app = app;
  }

  /** Continues the sessions of the archive. Call it once, when dialling may begin. */
  async resume(): Promise<void> {
    const { archive, secrets = [] } = this.#options;
    const archived = [...((await archive?.load()) ?? [])];
    archived.sort((one, other) => (one.info.id < other.info.id ? -1 : 1));
    for (const { spec, ...record } of archived) {
      const { id } = record.info;
      const kept = await archive?.store(id, spec);
      if (kept === undefined || this.#closed) return;
      const store = this.#store(id, kept);
      let session: Session;
      try {
        const target = sessionTarget(this.#app, spec, this.#allow);
        session = LastingSession.resume(record, { ...this.#settings(id, target), secrets, store });
      } catch (error) {
        session = Session.restore(record, store, error);
      }
      if (!session.over) this.#count(session);
      this.#keep(session);
    }
  }

  health(): Health {
    const listeners = this.listeners();
    const accepted = listeners.reduce((sum, { running }) => sum + running, 0);
    return { listeners: listeners.length, running: accepted + this.#dialled };
  }

  ready(): MaybePromise<readonly string[]> {
    if (this.#closed) return ["this process is ending"];
    return this.#options.ready?.() ?? [];
  }

  listeners(): readonly ListenerInfo[] {
    return this.#options.listeners?.() ?? [];
  }

  metrics(): string | null {
    return this.#options.metrics?.(this.#dialled) ?? null;
  }

  get faults(): FaultPlane | undefined {
    return this.#options.faults;
  }

  get recording(): RecordingPlane | undefined {
    return this.#options.recorder;
  }

  get entries(): ControlPlane["entries"] {
    return this.#options.entries;
  }

  get replay(): ControlPlane["replay"] {
    const { replay } = this.#options;
    return replay === undefined ? undefined : (spec) => replay(spec, this.#allow);
  }

  messages(id: string): DecodedPart | null {
    const { recorder } = this.#options;
    const info = this.#sessions.get(id)?.info();
    const handler = info?.handler ?? recorder?.handlerOf(id);
    const decode = decoderOf(this.#app, handler, info?.direction);
    return decode === undefined ? null : (recorder?.messages(id, decode) ?? null);
  }

  pools(): readonly PoolInfo[] {
    return this.#options.poolInfos?.() ?? [];
  }

  listenerEvents(after: number, signal: AbortSignal): AsyncIterable<ListenerEvent> {
    return (this.#options.log ?? NOTHING_TOLD).follow(after, signal);
  }

  async start(spec: SessionSpec): Promise<SessionInfo> {
    const target = sessionTarget(this.#app, spec, this.#allow);
    const { maxRunning = 1_000 } = this.#options;
    if (this.#closed) throw new SocketError("EBADF", "this process is ending and starts nothing more");
    if (this.#dialled >= maxRunning) {
      throw new SocketError("ERR_LIMIT", `${maxRunning} sessions run already; end one, or wait for one`);
    }
    const id = newSessionId();
    const { archive, secrets = [] } = this.#options;
    this.#dialled++; // counted already while its record is made, or too many could start
    let store: SessionStore | undefined;
    try {
      if (target.keep !== null) store = this.#store(id, (await archive?.store(id, spec)) ?? { save() {} });
      if (this.#closed) throw new SocketError("EBADF", "this process is ending and starts nothing more");
    } finally {
      this.#dialled--;
    }
    const session = LastingSession.start({ ...this.#settings(id, target), secrets, store });
    this.#count(session);
    this.#keep(session);
    if (store === undefined) return session.info();
    try {
      await session.whenKept;
    } catch (error) {
      await session.end();
      throw SocketError.from(error, "ERR_INTERNAL");
    }
    return session.info();
  }

  #count(session: Session): void {
    this.#dialled++;
    void session.whenOver.then(() => this.#dialled--);
  }

  #settings(id: string, target: SessionTarget): SessionOptions {
    const { handler, address, params, deadline, keep } = target;
    // A connector for each connection, since the session listens to its `onEvent`.
    const { connector, recorder } = this.#options;
    const opened = (hooks: SessionHooks, socket: StreamSocket): void => {
      hooks.opened(socket);
      const { bytesRead = 0, bytesWritten = 0 } = this.#sessions.get(id)?.info() ?? {};
      recorder?.opened({ id, socket, side: "client", address, passed: bytesRead + bytesWritten });
    };
    const run: SessionRun = (hooks) =>
      dialled(
        connector(target),
        params,
      )({
        ...hooks,
        opened: (socket) => opened(hooks, socket),
      });
    return {
      id,
      handler,
      address,
      params,
      deadline,
      keep,
      direction: "outbound",
      run,
      onChange: this.#onChange,
    };
  }

  readonly #onChange = (id: string): void => this.#options.recorder?.changed(id);

  /** The open connections. */
  *#open(): Generator<OpenConnection, void, undefined> {
    for (const session of this.#sessions.values()) {
      const { socket } = session;
      if (socket === undefined || socket.closed) continue;
      const { id, address, direction, bytesRead, bytesWritten } = session.info();
      const side = direction === "inbound" ? "server" : "client";
      yield { id, socket, side, address, passed: bytesRead + bytesWritten };
    }
  }

  /** Wakes the session `id` at the time that its changes say. */
  #store(id: string, kept: SessionStore): SessionStore {
    return {
      save: async (change) => {
        this.#wakeAt(id, change.wakeAt);
        try {
          await kept.save(change);
        } catch (error) {
          this.#options.onArchiveError?.(error);
          throw error;
        }
      },
    };
  }

  #wakeAt(id: string, at: number | null): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    if (at === null || this.#closed) return;
    const wake = (): void => {
      const session = this.#sessions.get(id);
      session?.wake();
      this.#wakeAt(id, session?.wakeAt ?? null); // too early: the clock was set back, or the time is beyond the range of a timer
    };
    this.#timers.set(id, setTimeout(wake, Math.min(Math.max(at - Date.now(), 0), MAX_TIMER)));
  }

  /**
   * Shows one accepted connection as a session; it wraps a server's `finishRequest`. Returns what `run` returns, and
   * throws what it throws. The session is over when `over` is settled: then the connection has been released. If `over`
   * rejects, some of what was written was not sent. `end(id)` resets the connection.
   */
  accepted(
    listener: { readonly handler: string; readonly address: string },
    socket: StreamSocket,
    run: (hooks: SessionHooks) => unknown,
    over: Promise<void> = DONE,
  ): Promise<unknown> {
    const id = newSessionId();
    const { recorder, secrets = [] } = this.#options;
    const { session, outcome } = acceptedSession(
      { ...listener, id, onChange: this.#onChange, secrets },
      socket,
      run,
      over,
      () => recorder?.opened({ id, socket, side: "server", address: listener.address }),
    );
    this.#keep(session);
    return outcome;
  }

  /** Shows one open connection of a pool as a session, until `over` is settled. If `over` rejects, the session has failed. `end(id)` resets the connection. */
  pooled(
    pool: { readonly handler: string; readonly address: string },
    socket: StreamSocket,
    over: Promise<unknown>,
  ): void {
    const id = newSessionId();
    const { recorder, secrets = [] } = this.#options;
    const session = pooledSession({ ...pool, id, onChange: this.#onChange, secrets }, socket, over, () =>
      recorder?.opened({ id, socket, side: "client", address: pool.address }),
    );
    this.#pooled.add(id);
    this.#keep(session);
  }

  async wait(id: string, ms: number): Promise<SessionInfo | null> {
    return (await this.#find(id)?.wait(ms)) ?? null;
  }

  async list({ state, handler, limit, before }: SessionQuery): Promise<SessionPage> {
    this.#forget();
    const found: SessionInfo[] = [];
    for (const session of this.#sessions.newest(before)) {
      const info = session.info();
      if (
        (state !== undefined && info.state !== state) ||
        (handler !== undefined && info.handler !== handler)
      ) {
        continue;
      }
      if (found.length === limit) return { sessions: found, next: found.at(-1)?.id ?? null };
      found.push(info);
    }
    return { sessions: found, next: null };
  }

  async get(id: string): Promise<SessionInfo | null> {
    return this.#find(id)?.info() ?? null;
  }

  async events(id: string, after: number, signal: AbortSignal): Promise<AsyncIterable<SessionEvent> | null> {
    return this.#find(id)?.events(after, signal) ?? null;
  }

  async send(id: string, bytes: Uint8Array): Promise<SessionInfo | null> {
    this.#checkOwn(id);
    return (await this.#find(id)?.send(bytes)) ?? null;
  }

  async halfClose(id: string): Promise<SessionInfo | null> {
    this.#checkOwn(id);
    return (await this.#find(id)?.halfClose()) ?? null;
  }

  #checkOwn(id: string): void {
    if (!this.#pooled.has(id)) return;
    throw new SocketError("EBUSY", NOT_BY_HAND);
  }

  async end(id: string, graceful?: boolean): Promise<SessionInfo | null> {
    const session = this.#find(id);
    if (graceful && session?.socket !== undefined && isCarried(session.socket)) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "the connection is a child process's, which closes it; half-close it, or end the session by a reset",
      );
    }
    return (await session?.end(undefined, graceful)) ?? null;
  }

  /** Does what `stop()` does, and stops recording. */
  async close(): Promise<void> {
    await this.stop();
    this.#options.recorder?.close();
  }

  /**
   * Starts no new sessions, and ends the running dialled ones. The server ends accepted connections, and the pool ends
   * its own. Sessions in the archive are left for the next process. Traffic is recorded until `close()`.
   */
  async stop(): Promise<void> {
    this.#closed = true;
    const { archive } = this.#options;
    const reason = new SocketError("ECANCELED", "the process that ran this session ended");
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    const dialled = [...this.#sessions.values()].filter(
      (session) => session.info().direction === "outbound" && !this.#pooled.has(session.id),
    );
    await Promise.all(
      dialled.map((session) =>
        archive !== undefined && session.lasts ? session.suspend(reason) : session.end(reason),
      ),
    );
    await archive?.close();
  }

  #keep(session: Session): void {
    this.#sessions.set(session);
    void session.whenOver.then(() => {
      this.#over.add(session);
      this.#pooled.delete(session.id);
      this.#options.recorder?.over(session.id);
      this.#forget();
    });
  }

  /** A kept session; `undefined` if it has been dropped from the list. */
  #find(id: string): Session | undefined {
    this.#forget();
    return this.#sessions.get(id);
  }

  /** Drops the sessions that ended first, as far as they are too many or too old. */
  #forget(): void {
    const { maxAge = 86_400_000, recorder } = this.#options;
    const { maxHistory = 1_000 } = this.#options;
    const most = recorder?.on ? Math.max(maxHistory, recorder.maxConnections) : maxHistory;
    const now = Date.now();
    if (this.#over.size <= most && now < this.#forgetAt) return;
    const left = this.#over.size > most ? afterTrim(most) : most;
    for (const session of this.#over) {
      const until = Date.parse(session.info().endedAt as string) + maxAge;
      if (this.#over.size <= left && now <= until) {
        this.#forgetAt = until + 1;
        return;
      }
      this.#over.delete(session);
      this.#sessions.delete(session.id);
      if (session.lasts) void this.#options.archive?.forget(session.id).catch(this.#options.onArchiveError);
    }
  }
}
