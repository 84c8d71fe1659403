/**
 * `Session`: the life of one handler on one connection, watched. What both platforms' planes are made of.
 *
 * A session holds its record and its log of events. Every change of it is one event, and each event is handed to
 * the `store` with the record as it then is, so that a Durable Object can keep both in one transaction, and
 * `Session.restore` can tell the truth of a session whose process is gone.
 *
 * A session that lasts (`keep`) has one connection after the other, its *attempts*. Its changes go through `Commits`: what
 * its handler emits and saves in one turn is kept together, and shown when it is kept.
 *
 * Nothing here grows with a session's life: the log is bounded by count and bytes (the oldest events go first),
 * and a watcher has no queue of its own. It reads the log at its own pace and finds a gap in the ids where it
 * was too slow.
 */

import { DONE } from "../bytes/data.ts";
import { type Json, jsonOf, plain, sizeOf } from "../describe.ts";
import { errorInfo, SocketError } from "../errors.ts";
import { formatAddress } from "../net/address.ts";
import { SHUT_WR } from "../net/constants.ts";
import { checkOptions, optionNamesOf, wholeMs } from "../options.ts";
import type { BaseConnector } from "../serve/connector.ts";
import { nextTime } from "../serve/cron.ts";
import { callListener } from "../serve/events.ts";
import { type Keep, redialDelay, type StateKeeper } from "../serve/keep.ts";
import { decodeState, encodeState } from "../serve/state.ts";
import type { StreamSocket } from "../sockets/stream-socket.ts";
import { Commits, type SessionChange, type SessionStore } from "./commits.ts";
import {
  type AttemptInfo,
  type ErrorInfo,
  isOver,
  type KeptInfo,
  type SessionEvent,
  type SessionEventBody,
  type SessionInfo,
} from "./plane.ts";

/** The limits of one session's memory. Sizes are bytes of JSON. */
export const SESSION_LIMITS = {
  /** Events in a log. */
  events: 1_000,
  /** All events in a log. */
  logSize: 256 * 1024,
  /** One event's detail; a larger one is replaced by `{ "omitted": <its size, at least> }`. */
  detailSize: 16 * 1024,
  /** A result; a larger one makes the session fail with `ERR_LIMIT`. A row of a Durable Object holds 2 MB. */
  resultSize: 1024 * 1024,
  /** An error's message. */
  messageSize: 1_024,
  /** The attempts in the record of a session that lasts; the number of each says how many there were. */
  attempts: 20,
} as const;

const END_GRACE = 1_000; // ms that an aborted handler has to notice before its session is over without it

/** What a session gives to what it runs. */
export interface SessionHooks {
  /** Aborts the dialling, then the handler: with `ECANCELED`, or `ETIMEDOUT` at the deadline. */
  readonly signal: AbortSignal;
  /** Keeps the handler's state, of a session that lasts. */
  readonly keeper: StateKeeper | undefined;
  /** The connection is open. */
  opened(socket: StreamSocket): void;
  /** The handler said something. */
  emit(detail: unknown): void;
}

/** What a session runs: dials (or has accepted), runs the handler, closes, and gives what `handle` gave. */
export type SessionRun = (hooks: SessionHooks) => Promise<unknown>;

/** A session's run by a connector, made for this session alone: its `onEvent` is listened to. */
export const dialled =
  // biome-ignore lint/suspicious/noExplicitAny: a connector is invariant in its handlers' context, which is none of ours
    (connector: BaseConnector<StreamSocket, any>, params?: unknown): SessionRun =>
    ({ signal, keeper, opened, emit }) => {
      const { onEvent } = connector;
      connector.onEvent = (event) => {
        if (event.type === "handler") emit(event.detail);
        if (onEvent !== undefined) callListener(onEvent, event);
      };
      return connector.run({ params, signal, keeper, onOpen: opened });
    };

/** What a session is made of. */
export interface SessionOptions {
  /** From `newSessionId()`. */
  readonly id: string;
  /** The handler's name in the app. */
  readonly handler: string;
  /** Default `outbound`. */
  readonly direction?: SessionInfo["direction"];
  /** Where it is dialled, or where it came in, as text. */
  readonly address: string;
  /** One connection, for a session that lasts one after the other. */
  readonly run: SessionRun;
  /** How it lasts. Default `null`: it is one connection. */
  readonly keep?: Keep | null;
  /** ms from its start until it is cut; `null`: never. */
  readonly deadline: number | null;
  /** Why the platform may refuse the address; its first event says it. */
  readonly hint?: string | null;
  /** What the handler gets; here only so that it is not shown (see `redactor`). */
  readonly params?: unknown;
  /** What must not be shown, not even in a result: the deployment's own secrets. */
  readonly secrets?: readonly string[];
  readonly store?: SessionStore | undefined;
}

const SESSION_NAMES = optionNamesOf<SessionOptions>("a session of a plane")({
  id: true,
  handler: true,
  direction: true,
  address: true,
  run: true,
  keep: true,
  deadline: true,
  hint: true,
  params: true,
  secrets: true,
  store: true,
});

/** What is kept of a session: all that `Session.restore` needs. */
export interface SessionRecord {
  readonly info: SessionInfo;
  /** The events that are kept, by id, ascending. */
  readonly events: readonly SessionEvent[];
  /** Of one that lasts: the state of its handlers, as text. */
  readonly state?: string | null;
}

/** One handler on one connection, or of one that lasts on one after the other. Made by `Session.start`, `restore` or `resume`. */
export class Session {
  readonly id: string;
  #info: SessionInfo;
  readonly #log: EventLog<SessionEvent>;
  readonly #store: SessionStore | undefined;
  readonly #over = Promise.withResolvers<void>();
  readonly #waiting = new Set<() => void>(); // those who wait for its end
  #controller = new AbortController(); // of the attempt that runs
  #redact: Redactor = asIs;
  #socket: StreamSocket | undefined;
  #halfClosing: Promise<void> | undefined;
  #blocked = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #options: SessionOptions | undefined; // `undefined`: it is only looked at
  readonly #commits: Commits | undefined; // of one that lasts
  #running: Promise<void> = DONE; // the attempt
  #state: string | null = null; // as the handler saved it last
  #keptState: string | null = null; // as it is kept
  #done = false; // the handler said so
  #ending = false;
  #suspended = false;

  private constructor(
    info: SessionInfo,
    log: EventLog<SessionEvent>,
    store: SessionStore | undefined,
    options?: SessionOptions,
  ) {
    this.id = info.id;
    this.#info = info;
    this.#log = log;
    this.#store = store;
    this.#options = options;
    if ((options?.keep ?? null) === null) return;
    this.#commits = new Commits(store ?? { save() {} }, {
      change: () => this.#change(this.#log.hidden),
      kept: (change) => this.#kept(change),
      lost: (error) => this.#lost(error),
    });
  }

  /** Starts one: it runs from now on. Throws for an option that is none alone; what goes wrong is in the record. */
  static start(options: SessionOptions): Session {
    checkOptions("Session.start()", options, SESSION_NAMES);
    const { keep = null } = options;
    const info: SessionInfo = {
      id: options.id,
      handler: options.handler,
      direction: options.direction ?? "outbound",
      address: options.address,
      peer: null,
      state: "connecting",
      startedAt: now(),
      endedAt: null,
      bytesRead: 0,
      bytesWritten: 0,
      result: null,
      error: null,
      kept: keep && NOT_TRIED,
    };
    const session = new Session(info, new EventLog<SessionEvent>(jsonSize), options.store, options);
    if (keep === null) session.#running = session.#run(options);
    else if (keep.schedule === null) session.#attempt(true);
    else session.#await(Date.now(), nextTime(keep.schedule, Date.now()), null, true);
    return session;
  }

  /**
   * One that lasts and was kept, goes on: where it ran its connection is lost, and it is dialled again. `options` are those
   * that it was started with. One that is over is only looked at.
   */
  static resume(record: SessionRecord, options: SessionOptions): Session {
    checkOptions("Session.resume()", options, SESSION_NAMES);
    const { info, events, state = null } = record;
    if (isOver(info.state) || (options.keep ?? null) === null) return Session.restore(record, options.store);
    const session = new Session(info, new EventLog(jsonSize, events), options.store, options);
    session.#state = state;
    session.#keptState = state;
    const lost = new SocketError("ECONNABORTED", "the process that ran this session is gone");
    if (info.state === "waiting")
      session.#commits?.touch(true); // the store hears when to wake it
    else session.#stop("cut", lost);
    return session;
  }

  /** One that was kept, to be looked at. Where it was not over, its process is gone: it is `cut` now, and `store` is told; or it has `failed`, where there is an `error` for which it cannot go on. */
  static restore({ info, events }: SessionRecord, store?: SessionStore, error?: unknown): Session {
    const session = new Session(info, new EventLog(jsonSize, events), store);
    const lost = new SocketError("ECONNABORTED", "the process that ran this session is gone");
    if (isOver(info.state)) session.#ended();
    else if (error === undefined) session.#stop("cut", lost);
    else session.#stop("failed", error);
    return session;
  }

  get over(): boolean {
    return isOver(this.#info.state);
  }

  /** Whether it has one connection after the other. */
  get lasts(): boolean {
    return (this.#info.kept ?? null) !== null;
  }

  /** Resolves when what it did until now is kept; rejects where it cannot be. */
  get whenKept(): Promise<void> {
    return this.#commits?.whenKept() ?? DONE;
  }

  /** Whether output waited for a peer that takes nothing when the session was ended. */
  get blocked(): boolean {
    return this.#blocked;
  }

  /** The record as it is now. */
  info(): SessionInfo {
    return this.over ? this.#info : { ...this.#info, ...this.#bytes() };
  }

  /** When it wants `wake()`, in ms of the epoch: while it waits to be dialled. `null`: not at all. */
  get wakeAt(): number | null {
    const { state, kept = null } = this.#info;
    if (state !== "waiting" || this.#suspended) return null;
    return Math.min(Date.parse(kept?.next ?? ""), this.#due);
  }

  /** Dials, where it is time to: what keeps it calls this at `wakeAt`. At another time it does nothing. */
  wake(): void {
    const at = this.wakeAt;
    if (at === null || Date.now() < at) return;
    if (Date.now() >= this.#due) void this.end(this.#late());
    else this.#attempt();
  }

  /** Ends the attempt that runs, since this process ends: another one goes on with what is kept. Resolves when all is. */
  async suspend(reason: SocketError): Promise<void> {
    this.#suspended = true;
    if (this.#attempts) {
      this.#abort(reason);
      let timer: ReturnType<typeof setTimeout> | undefined;
      const grace = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, END_GRACE);
      });
      await Promise.race([this.#running, grace]);
      clearTimeout(timer);
      if (this.#attempts) this.#stop("cut", reason);
    }
    await this.whenKept.catch(() => {}); // its store has told
  }

  /** The record when the session is over, or after `ms` as it is then. */
  async wait(ms: number): Promise<SessionInfo> {
    if (!this.over) {
      // Not a race of promises: the one that stays pending would keep every call that was ever made.
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(done);
          resolve();
        };
        const timer = setTimeout(done, ms);
        this.#waiting.add(done);
      });
    }
    return this.info();
  }

  /** Resolves when the session is over. Never rejects. */
  get whenOver(): Promise<void> {
    return this.#over.promise;
  }

  /** As `ControlPlane.events`. */
  events(after = 0, signal?: AbortSignal): AsyncGenerator<SessionEvent, void, undefined> {
    return this.#log.follow(after, signal);
  }

  /** Sends bytes by hand; resolves when there is room for more. Rejects with `ENOTCONN` where it does not run or its connection is closed, `ENOBUFS` where too much waits for the peer, and as `sendall`. */
  send(bytes: Uint8Array): Promise<SessionInfo> {
    return this.#byHand(async ({ wfile }) => {
      if (wfile.blocked && wfile.unsent > wfile.maxPending) {
        // The sender is told, and may ask again: the session is not to be cut for what somebody else sends.
        throw new SocketError(
          "ENOBUFS",
          `${wfile.unsent} bytes wait for the peer; send more when it has read`,
        );
      }
      const size = wfile.write(bytes); // throws if nothing can be sent, or drops all: then nothing was, and flush() says why
      if (size === bytes.length) this.#tell({ type: "sent", bytes: size });
      await wfile.flush();
    });
  }

  /** Ends our direction by hand. Rejects with `ENOTCONN` as `send()`, and as `shutdown`. */
  halfClose(): Promise<SessionInfo> {
    return this.#byHand(async (socket) => {
      // Told as it begins, as what is sent is, and once: whoever asks again waits for the same end.
      if (this.#halfClosing === undefined && !socket.closed) {
        this.#halfClosing = socket.shutdown(SHUT_WR);
        this.#halfClosing.catch(() => {}); // those who wait for it are told
        this.#tell({ type: "halfClosed" });
      }
      await (this.#halfClosing ?? socket.shutdown(SHUT_WR));
    });
  }

  /** Ends it, as `cut`; resolves when it is over, within a second even where the handler does not notice. */
  async end(reason = new SocketError("ECANCELED", "the session was ended by request")): Promise<SessionInfo> {
    if (!this.over) {
      this.#ending = true;
      if (this.#attempts) {
        this.#abort(reason);
        await this.wait(END_GRACE);
      }
      this.#stop("cut", reason);
    }
    await this.whenKept.catch(() => {}); // its store has told
    return this.#info;
  }

  // ---- Inside ----

  /** When it is cut, in ms of the epoch. */
  get #due(): number {
    const deadline = this.#options?.deadline ?? null;
    return deadline === null ? Number.POSITIVE_INFINITY : Date.parse(this.#info.startedAt) + deadline;
  }

  #late(): SocketError {
    const deadline = wholeMs(this.#options?.deadline ?? 0);
    return new SocketError("ETIMEDOUT", `the session's deadline of ${deadline} passed`);
  }

  #abort(reason: unknown): void {
    if (this.#socket !== undefined && !this.#socket.closed) this.#blocked = !this.#socket.wfile.writable;
    this.#controller.abort(reason);
    this.#socket?.abort();
  }

  async #run({ run, params, secrets = [], address, hint }: SessionOptions, atOnce = false): Promise<void> {
    const controller = this.#controller;
    const { signal } = controller;
    /** Whether this attempt is not over for the session: it may not have noticed that it was given up. */
    const runs = (): boolean => this.#controller === controller && !this.over;
    const attempt = this.#info.kept?.attempt;
    this.#tell(
      {
        type: "connecting",
        address,
        ...(typeof hint === "string" && { hint }),
        ...(attempt !== undefined && { attempt }),
      },
      atOnce,
    );
    if (this.#due < Number.POSITIVE_INFINITY) {
      this.#timer = setTimeout(() => this.end(this.#late()), Math.max(this.#due - Date.now(), 0));
    }
    try {
      this.#redact = redactor([...secrets, ...stringsOf(params)]);
      const given = await run({
        signal,
        keeper: this.#commits && this.#keeper(runs),
        opened: (socket) => this.#opened(socket, controller),
        emit: (detail) => {
          if (runs()) this.#emit(detail);
        },
      });
      if (!runs()) return;
      signal.throwIfAborted();
      const { json, size: whole } = jsonOf(given, SESSION_LIMITS.resultSize);
      const result = redacted(json ?? null, redactor(secrets));
      const size = json === undefined ? whole : jsonSize(result);
      if (size > SESSION_LIMITS.resultSize) {
        throw new SocketError(
          "ERR_LIMIT",
          `the handler's result is ${size} bytes of JSON, over the limit of ${SESSION_LIMITS.resultSize}; emit() it in pieces, or store it`,
        );
      }
      this.#settle({ state: "ended", result });
    } catch (error) {
      if (!runs()) return;
      if (signal.aborted) this.#stop("cut", signal.reason);
      else this.#stop("failed", error);
    }
  }

  #opened(socket: StreamSocket, controller: AbortController): void {
    if (this.over || this.#controller !== controller) {
      socket.abort(); // it was given up, and the dialling did not notice
      throw controller.signal.reason;
    }
    this.#socket = socket;
    const { proxy } = socket;
    const peer = proxy === null || proxy.carries === null ? socket.getpeername() : proxy.source;
    const { kept = null } = this.#info;
    this.#info = {
      ...this.#info,
      state: "running",
      peer: peer && formatAddress(peer),
      kept: kept && { ...kept, openedAt: now() },
    };
    this.#tell({ type: "open", peer: this.#info.peer });
  }

  #emit(detail: unknown): void {
    const said = redacted(plain(detail, SESSION_LIMITS.detailSize), this.#redact);
    const size = jsonSize(said);
    this.#tell({ type: "handler", detail: size > SESSION_LIMITS.detailSize ? { omitted: size } : said });
  }

  /** Does `work` on the connection. A session whose connection is closed is over for those who use it, even before its record says so. */
  async #byHand(work: (socket: StreamSocket) => Promise<void>): Promise<SessionInfo> {
    const socket = this.#socket;
    if (socket === undefined || this.over) {
      throw new SocketError("ENOTCONN", `the session is ${this.#info.state}, not running`);
    }
    try {
      await work(socket);
    } catch (error) {
      if (!(error instanceof SocketError) || error.code !== "EBADF") throw error;
      throw new SocketError("ENOTCONN", "the session's connection is closed", { cause: error });
    }
    return this.info();
  }

  #stop(state: "failed" | "cut", thrown: unknown): void {
    this.#settle({ state, error: this.#errorInfo(thrown) });
  }

  /** The connection is over, and so is the session, unless it lasts. */
  #settle(how: Outcome): void {
    if (this.over) return;
    const keep = this.#options?.keep ?? null;
    if (keep !== null && this.#attempts) {
      const over = this.#attemptOver(keep, how);
      const next = this.#ending || (how.state === "ended" && this.#done) ? null : this.#nextTime(keep, how);
      if (next !== null) {
        this.#await(Date.now(), next, over);
        return;
      }
    }
    this.#finish(how);
  }

  /** The session is over, in this way; what comes later changes nothing. */
  #finish(how: Outcome): void {
    clearTimeout(this.#timer);
    const bytes = this.#bytes();
    const { kept = null } = this.#info;
    this.#info = { ...this.#info, ...bytes, ...how, endedAt: now(), kept: kept && { ...kept, next: null } };
    this.#socket = undefined;
    this.#redact = asIs; // which holds the secrets, and the record stays for long
    if (how.state === "ended") this.#tell({ type: "ended", ...bytes });
    else this.#tell({ type: how.state, ...bytes, error: how.error });
    if (this.#commits === undefined) this.#ended(); // else when that is kept
  }

  #ended(): void {
    this.#log.end();
    this.#over.resolve();
    for (const done of this.#waiting) done();
  }

  #errorInfo(thrown: unknown): ErrorInfo {
    const fallback = this.#socket === undefined ? "ERR_CONNECT_FAILED" : "ERR_HANDLER";
    const { code, message } = errorInfo(thrown, fallback);
    return { code, message: this.#redact(message).slice(0, SESSION_LIMITS.messageSize) };
  }

  /** Those of all its connections. */
  #bytes(): { bytesRead: number; bytesWritten: number } {
    const { bytesRead = 0, bytesWritten = 0 } = this.#socket ?? {};
    return {
      bytesRead: this.#info.bytesRead + bytesRead,
      bytesWritten: this.#info.bytesWritten + bytesWritten,
    };
  }

  #tell(body: SessionEventBody, atOnce = false): void {
    const shown = this.#commits === undefined;
    const event = this.#log.add((id) => ({ id, at: now(), ...body }), shown);
    if (this.#commits !== undefined) this.#commits.touch(atOnce);
    else void this.#store?.save(this.#change([event]));
  }

  #change(events: readonly SessionEvent[]): SessionChange {
    const state = this.#state === this.#keptState ? null : this.#state;
    return { info: this.info(), events, oldest: this.#log.oldest, state, wakeAt: this.wakeAt };
  }

  /** Whether it is dialled, or runs. */
  get #attempts(): boolean {
    return this.#info.state === "connecting" || this.#info.state === "running";
  }

  // ---- One that lasts ----

  #attempt(atOnce = false): void {
    const { kept = null } = this.#info;
    const options = this.#options;
    if (kept === null || options === undefined) return;
    if (options.keep?.resume === false) this.#state = this.#keptState = null;
    this.#controller = new AbortController();
    this.#halfClosing = undefined;
    this.#blocked = false;
    this.#done = false;
    this.#info = {
      ...this.#info,
      state: "connecting",
      peer: null,
      kept: { ...kept, attempt: kept.attempt + 1, startedAt: now(), openedAt: null, next: null },
    };
    this.#running = this.#run(options, atOnce);
  }

  /** The attempt that ran is over: it is in the record. */
  #attemptOver({ redial }: Keep, how: Outcome): AttemptInfo {
    const kept = this.#info.kept as KeptInfo;
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
    clearTimeout(this.#timer);
    this.#info = {
      ...this.#info,
      ...this.#bytes(),
      peer: null,
      kept: { ...kept, failures: lasted ? 0 : kept.failures + 1, attempts },
    };
    this.#socket = undefined;
    return over;
  }

  /** When it is dialled again, in ms of the epoch; `null`: never. */
  #nextTime({ redial, schedule }: Keep, how: Outcome): number | null {
    const at = Date.now();
    if (this.#suspended) return at; // the next process need not wait
    const kept = this.#info.kept as KeptInfo;
    const usedUp = redial.maxAttempts !== null && kept.failures >= redial.maxAttempts;
    const again = usedUp ? null : at + redialDelay(redial, kept.failures);
    if (schedule === null) return again;
    const due = nextTime(schedule, at);
    if (how.state !== "ended" && again !== null) return Math.min(again, due ?? again);
    this.#info = { ...this.#info, kept: { ...kept, failures: 0 } };
    return due;
  }

  /** It waits for its next attempt. */
  #await(at: number, next: number | null, over: AttemptInfo | null, atOnce = false): void {
    const time = new Date(next ?? at).toISOString();
    const { kept = null } = this.#info;
    this.#info = { ...this.#info, state: "waiting", kept: kept && { ...kept, next: time } };
    this.#controller = new AbortController(); // what still runs is none of ours
    this.#tell({ type: "waiting", next: time, over }, atOnce || this.#log.last === 0);
  }

  /** What the handler of the attempt that runs is given. */
  #keeper(runs: () => boolean): StateKeeper {
    const state = (): unknown => (this.#state === null ? undefined : decodeState(this.#state));
    return {
      get state() {
        return state();
      },
      save: (given) => {
        const text = encodeState(given);
        const over = "this handler's connection was given up; the next one's saves";
        if (!runs()) return Promise.reject(new SocketError("ECANCELED", over));
        const { kept = null } = this.#info;
        this.#state = text;
        this.#info = { ...this.#info, kept: kept && { ...kept, savedAt: now() } };
        this.#commits?.touch();
        return this.#commits?.whenKept() ?? DONE;
      },
      done: () => {
        if (runs()) this.#done = true;
      },
    };
  }

  #kept({ events, state }: SessionChange): void {
    if (state !== null) this.#keptState = state;
    const last = events.at(-1);
    if (last !== undefined) this.#log.show(last.id);
    if (this.over) this.#ended();
  }

  /** What changed since the last that was kept could not be kept: it has not been, and the attempt ends. */
  #lost(error: unknown): void {
    if (this.over) {
      this.#log.show(this.#log.last); // nothing can be undone any more
      this.#ended();
      return;
    }
    this.#log.drop();
    this.#state = this.#keptState;
    if (this.#attempts) this.#abort(SocketError.from(error, "ERR_INTERNAL"));
  }
}

/** How one connection was over. */
type Outcome = { state: "ended"; result: Json } | { state: "failed" | "cut"; error: ErrorInfo };

const NOT_TRIED: KeptInfo = {
  attempt: 0,
  startedAt: null,
  openedAt: null,
  failures: 0,
  next: null,
  savedAt: null,
  attempts: [],
};

const jsonSize = (value: unknown): number => sizeOf(JSON.stringify(value));
const now = (): string => new Date().toISOString();

// ---- The log ----

/** Events, bounded by count and bytes, and those who follow them. */
export class EventLog<Event extends { readonly id: number }> {
  readonly #events: Event[];
  readonly #sizeOf: (event: Event) => number;
  readonly #sizes: number[];
  #size: number;
  #last: number;
  #shown: number; // the events after this one are there for nobody yet
  #ended = false;
  readonly #waiting = new Set<() => void>(); // who follow and have seen all; told of the next event, and of the end

  /** `sizeOf`: bytes of an event; those of all are bounded. */
  constructor(sizeOf: (event: Event) => number, events: readonly Event[] = []) {
    this.#events = [...events];
    this.#sizeOf = sizeOf;
    this.#sizes = this.#events.map(sizeOf);
    this.#size = this.#sizes.reduce((sum, size) => sum + size, 0);
    this.#last = this.#events.at(-1)?.id ?? 0;
    this.#shown = this.#last;
  }

  /** The id of the newest event; 0 before the first. */
  get last(): number {
    return this.#last;
  }

  /** The events that are not shown yet. */
  get hidden(): readonly Event[] {
    return this.#events.slice(Math.max(0, this.#shown + 1 - this.oldest));
  }

  /** The id of the oldest event that is kept. */
  get oldest(): number {
    return this.#events[0]?.id ?? this.#last + 1;
  }

  /** The events that are kept now. */
  get kept(): readonly Event[] {
    return [...this.#events];
  }

  /** Keeps the event that `make` gives for the next id; without `shown` it is there for those who follow when `show()` says so. */
  add(make: (id: number) => Event, shown = true): Event {
    const event = make(++this.#last);
    const size = this.#sizeOf(event);
    this.#events.push(event);
    this.#sizes.push(size);
    this.#size += size;
    while (this.#events.length > SESSION_LIMITS.events || this.#size > SESSION_LIMITS.logSize) {
      this.#events.shift();
      this.#size -= this.#sizes.shift() as number;
    }
    if (shown) this.show(event.id);
    return event;
  }

  /** Shows the events up to this id. */
  show(id: number): void {
    this.#shown = id;
    this.#wake();
  }

  /** Lets go of the events that are not shown, as if they had not been. */
  drop(): void {
    while ((this.#events.at(-1)?.id ?? 0) > this.#shown) {
      this.#events.pop();
      this.#size -= this.#sizes.pop() as number;
    }
    this.#last = this.#shown;
  }

  /** No more come. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *follow(after: number, signal?: AbortSignal): AsyncGenerator<Event, void, undefined> {
    // Not a race of promises: one that stays pending keeps all that was ever raced against it.
    let wake: () => void = () => {};
    const leave = (): void => wake();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      for (let last = after; !signal?.aborted; ) {
        // Ids have no gaps within the log, so the place of the next one is known.
        const next = this.#events[Math.max(0, last + 1 - this.oldest)];
        if (next !== undefined && next.id <= this.#shown) {
          last = next.id;
          yield next;
        } else if (this.#ended) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
            this.#waiting.add(resolve);
          });
          this.#waiting.delete(wake);
        }
      }
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}

// ---- What is shown ----

/** Replaces secrets in a text. */
export type Redactor = (text: string) => string;
const asIs: Redactor = (text) => text;

const SHORTEST_SECRET = 4; // characters: what is shorter stands in too many innocent texts

/**
 * Replaces each of `secrets` by `[redacted]`, wherever it stands in a text. In an event and an error every text
 * of the params is taken for a secret (who watches need not be who started it), and each of the deployment's;
 * in a result only the deployment's, since a result is made for him who gave the params.
 *
 * What it cannot do: know a secret that was split, cut, encoded (base64, percent, another case) or hashed, one
 * of less than 4 characters, or one that is a number or a key of an object. A handler should say no secret.
 */
export const redactor = (secrets: readonly string[]): Redactor => {
  const quoted = (secret: string): string => JSON.stringify(secret).slice(1, -1); // as a handler prints its params
  const long = [...new Set(secrets.flatMap((secret) => [secret, quoted(secret)]))].filter(
    (secret) => secret.length >= SHORTEST_SECRET,
  );
  if (long.length === 0) return asIs;
  // The longest first, or what it begins with would leave its rest to be read.
  const parts = long
    .sort((a, b) => b.length - a.length)
    .map((secret) => secret.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  const any = new RegExp(parts.join("|"), "g");
  return (text) => text.replace(any, "[redacted]");
};

/** Every text within `value`. */
const stringsOf = (value: unknown): string[] => {
  if (typeof value === "string") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(stringsOf) : [];
};

/** `value` with every text in it redacted, the keys too. */
export const redacted = (value: Json, redact: Redactor): Json => {
  if (typeof value === "string") return redact(value);
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((item: Json) => redacted(item, redact));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [redact(key), redacted(item, redact)]),
  );
};
