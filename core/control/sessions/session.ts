/**
 * `Session`: the life of one handler on one connection, watched. What both platforms' planes are made of.
 *
 * A session holds its record and its log of events. Every change of it is one event, and each event is handed to
 * the `store` with the record as it then is, so that a Durable Object can keep both in one transaction, and
 * `Session.restore` can tell the truth of a session whose process is gone.
 *
 * A lasting session (`keep`) is a `LastingSession` (lasting.ts), which a Worker carries only where its app has one.
 *
 * Nothing here grows with a session's life: the log is bounded by count and bytes (the oldest events go first),
 * and a watcher has no queue of its own. It reads the log at its own pace and finds a gap in the ids where it
 * was too slow.
 */

import { DONE } from "../../bytes/data.ts";
import { type Json, jsonOf, plain, sizeOf } from "../../describe.ts";
import { errorInfo, SocketError } from "../../errors.ts";
import { callListener } from "../../handlers/events.ts";
import type { Keep, StateKeeper } from "../../handlers/keep.ts";
import { formatAddress } from "../../net/address.ts";
import { SHUT_WR } from "../../net/constants.ts";
import { checkOptions, optionNamesOf, wholeMs } from "../../options.ts";
import type { BaseConnector } from "../../serve/connector.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { EventLog } from "../event-log.ts";
import {
  type ErrorInfo,
  isOver,
  SESSION_LIMITS,
  type SessionEvent,
  type SessionEventBody,
  type SessionInfo,
} from "../plane.ts";
import { asIs, type Redactor, redacted, redactor, stringsOf } from "../redact.ts";
import type { SessionChange, SessionStore } from "./commits.ts";

export const END_GRACE = 1_000; // ms that an aborted handler has to notice before its session is over without it

/** What a session gives to what it runs. */
export interface SessionHooks {
  /** Aborts the dialling, then the handler: with `ECANCELED`, or `ETIMEDOUT` at the deadline. */
  readonly signal: AbortSignal;
  /** Keeps the handler's state, of a lasting session. */
  readonly keeper: StateKeeper | undefined;
  /** The connection is open. */
  opened(socket: StreamSocket): void;
  /** The handler said something. */
  emit(detail: unknown): void;
}

/** What a session runs: dials (or has accepted), runs the handler, closes, and returns what `handle` gave. */
export type SessionRun = (hooks: SessionHooks) => Promise<unknown>;

/**
 * A session's run by a connector, made for this session alone: its `onEvent` is listened to. It also hears why a connection
 * of a lasting session failed, for which no caller waits: without that, a log would show that it is dialled again, and not why.
 */
export const dialled =
  // biome-ignore lint/suspicious/noExplicitAny: a connector is invariant in its handlers' context, which is none of ours
    (connector: BaseConnector<StreamSocket, any>, params?: unknown): SessionRun =>
    ({ signal, keeper, opened, emit }) => {
      const { onEvent } = connector;
      connector.onEvent = (event) => {
        if (event.type === "handler") emit(event.detail);
        if (onEvent !== undefined) callListener(onEvent, event);
      };
      const run = connector.run({ params, signal, keeper, onOpen: opened });
      if (keeper === undefined || onEvent === undefined) return run;
      return run.catch((error) => {
        const failed = { type: "error", server: connector.name, address: null, error } as const;
        if (!signal.aborted) callListener(onEvent, failed);
        throw error;
      });
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
  /** One connection, for a lasting session one after the other. */
  readonly run: SessionRun;
  /** How it lasts; `LastingSession` takes it. Default `null`: it is one connection. */
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
  /** Called when something happened to it. */
  readonly onChange?: ((id: string) => void) | undefined;
}

export const SESSION_NAMES = optionNamesOf<SessionOptions>("a session of a plane")({
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
  onChange: true,
});

/** What is kept of a session: all that `Session.restore` needs. */
export interface SessionRecord {
  readonly info: SessionInfo;
  /** The events that are kept, by id, ascending. */
  readonly events: readonly SessionEvent[];
  /** Of one that lasts: the state of its handlers, as text. */
  readonly state?: string | null;
}

/** One handler on one connection. Made by `Session.start` or `restore`. What is protected is there for `LastingSession`. */
export class Session {
  readonly id: string;
  protected record: SessionInfo;
  protected readonly log: EventLog<SessionEvent>;
  protected readonly store: SessionStore | undefined;
  readonly #over = Promise.withResolvers<void>();
  readonly #waiting = new Set<() => void>(); // those who wait for its end
  /** Of the connection that there is. */
  protected controller = new AbortController();
  #redact: Redactor = asIs;
  /** Its connection; `undefined` if it has none now. */
  socket: StreamSocket | undefined;
  protected halfClosing: Promise<void> | undefined;
  protected isBlocked = false;
  protected timer: ReturnType<typeof setTimeout> | undefined;
  /** `undefined`: it is only looked at. */
  protected readonly options: SessionOptions | undefined;
  protected running: Promise<void> = DONE;
  protected ending = false;
  #closing: SocketError | undefined; // why its connection is closed, if somebody asked for that

  protected constructor(
    info: SessionInfo,
    log: EventLog<SessionEvent>,
    store: SessionStore | undefined,
    options?: SessionOptions,
  ) {
    this.id = info.id;
    this.record = info;
    this.log = log;
    this.store = store;
    this.options = options;
  }

  /** Starts one: it runs from now on. Throws for an option that is none alone; what goes wrong is in the record. */
  static start(options: SessionOptions): Session {
    checkOptions("Session.start()", options, SESSION_NAMES);
    const session = new Session(newRecord(options), newLog(), options.store, options);
    session.running = session.run(options);
    return session;
  }

  /** One that was kept, to be looked at. Where it was not over, its process is gone: it is `cut` now, and `store` is told; or it has `failed`, where there is an `error` for which it cannot go on. */
  static restore({ info, events }: SessionRecord, store?: SessionStore, error?: unknown): Session {
    const session = new Session(info, newLog(events), store);
    const lost = new SocketError("ECONNABORTED", "the process that ran this session is gone");
    if (isOver(info.state)) session.ended();
    else if (error === undefined) session.stop("cut", lost);
    else session.stop("failed", error);
    return session;
  }

  get over(): boolean {
    return isOver(this.record.state);
  }

  /** Whether it has one connection after the other. */
  get lasts(): boolean {
    return (this.record.kept ?? null) !== null;
  }

  /** Resolves when what it did until now is kept; rejects if it cannot be. */
  get whenKept(): Promise<void> {
    return DONE;
  }

  /** Whether output waited for a peer that takes nothing when the session was ended. */
  get blocked(): boolean {
    return this.isBlocked;
  }

  /** The record as it is now. */
  info(): SessionInfo {
    return this.over ? this.record : { ...this.record, ...this.bytes() };
  }

  /** When it wants `wake()`, in ms of the epoch: while it waits to be dialled. `null`: not at all. */
  get wakeAt(): number | null {
    return null;
  }

  /** Dials, where it is time to: what keeps it calls this at `wakeAt`. At another time it does nothing. */
  wake(): void {}

  /** Ends the attempt that runs, since this process ends: another one goes on with what is kept. Resolves when all is. */
  async suspend(reason: SocketError): Promise<void> {
    await this.end(reason);
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
    return this.log.follow(after, signal);
  }

  /** Sends bytes by hand; resolves when there is room for more. Rejects with `ENOTCONN` if it does not run or its connection is closed, `ENOBUFS` if too much waits for the peer, and as `sendall`. */
  send(bytes: Uint8Array): Promise<SessionInfo> {
    return this.#byHand(async ({ wfile }) => {
      if (wfile.blocked && wfile.unsent > wfile.maxPending) {
        // The sender is told, and may ask again: the session is not to be cut for what somebody else sends.
        throw new SocketError(
          "ENOBUFS",
          `${wfile.unsent} bytes wait for the peer; send more when it has read them`,
        );
      }
      const size = wfile.write(bytes); // throws if nothing can be sent, or drops all: then nothing was, and flush() says why
      if (size === bytes.length) this.tell({ type: "sent", bytes: size });
      await wfile.flush();
    });
  }

  /** Ends our direction by hand. Rejects with `ENOTCONN` as `send()`, and as `shutdown`. */
  halfClose(): Promise<SessionInfo> {
    return this.#byHand(async (socket) => {
      // Told as it begins, as what is sent is, and once: whoever asks again waits for the same end.
      if (this.halfClosing === undefined && !socket.closed) {
        this.halfClosing = socket.shutdown(SHUT_WR);
        this.halfClosing.catch(() => {}); // those who wait for it are told
        this.tell({ type: "halfClosed" });
      }
      await (this.halfClosing ?? socket.shutdown(SHUT_WR));
    });
  }

  /**
   * Ends it, as `cut`: its connection is reset. Resolves when it is over, within a second even where the handler does not notice.
   * `graceful`: its connection is closed as its handler would, after what was written; it may go on for as long as the peer takes that.
   */
  async end(
    reason = new SocketError("ECANCELED", "the session was ended by request"),
    graceful = false,
  ): Promise<SessionInfo> {
    if (!this.over) {
      this.ending = true;
      if (graceful && this.socket !== undefined) {
        this.#closing = reason;
        this.socket.close().catch(() => {}); // the handler is told, and its record says so
        await this.wait(END_GRACE);
        return this.info();
      }
      if (this.attempts) {
        this.abort(reason);
        await this.wait(END_GRACE);
      }
      this.stop("cut", reason);
    }
    await this.whenKept.catch(() => {}); // its store has told
    return this.record;
  }

  // ---- Inside ----

  /** When it is cut, in ms of the epoch. */
  protected get due(): number {
    const deadline = this.options?.deadline ?? null;
    return deadline === null ? Number.POSITIVE_INFINITY : Date.parse(this.record.startedAt) + deadline;
  }

  protected late(right = ""): SocketError {
    const deadline = wholeMs(this.options?.deadline ?? 0);
    return new SocketError("ETIMEDOUT", `the session's deadline of ${deadline} passed${right}`);
  }

  protected abort(reason: unknown): void {
    if (this.socket !== undefined && !this.socket.closed) this.isBlocked = !this.socket.wfile.writable;
    this.controller.abort(reason);
    this.socket?.abort();
  }

  protected async run({ run, params, secrets = [], address, hint }: SessionOptions): Promise<void> {
    const controller = this.controller;
    const { signal } = controller;
    /** Whether this attempt is not over for the session: it may not have noticed that it was given up. */
    const runs = (): boolean => this.controller === controller && !this.over;
    const attempt = this.record.kept?.attempt;
    this.tell({
      type: "connecting",
      address,
      ...(typeof hint === "string" && { hint }),
      ...(attempt !== undefined && { attempt }),
    });
    if (this.due < Number.POSITIVE_INFINITY) {
      this.timer = setTimeout(() => this.end(this.late()), Math.max(this.due - Date.now(), 0));
    }
    try {
      this.#redact = redactor([...secrets, ...stringsOf(params)]);
      const given = await run({
        signal,
        keeper: this.keeper(runs),
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
      this.settle({ state: "ended", result });
    } catch (error) {
      if (!runs()) return;
      if (signal.aborted) this.stop("cut", signal.reason);
      else if (this.#closing !== undefined) this.stop("cut", this.#closing);
      else this.stop("failed", error);
    }
  }

  #opened(socket: StreamSocket, controller: AbortController): void {
    if (this.over || this.controller !== controller) {
      socket.abort(); // it was given up, and the dialling did not notice
      throw controller.signal.reason;
    }
    this.socket = socket;
    const { proxy } = socket;
    const peer = proxy === null || proxy.carries === null ? socket.getpeername() : proxy.source;
    const { kept = null } = this.record;
    this.record = {
      ...this.record,
      state: "running",
      peer: peer && formatAddress(peer),
      kept: kept && { ...kept, openedAt: now() },
    };
    this.tell({ type: "open", peer: this.record.peer });
  }

  #emit(detail: unknown): void {
    const said = redacted(plain(detail, SESSION_LIMITS.detailSize), this.#redact);
    const size = jsonSize(said);
    this.tell({ type: "handler", detail: size > SESSION_LIMITS.detailSize ? { omitted: size } : said });
  }

  /** Does `work` on the connection. A session whose connection is closed is over for those who use it, even before its record says so. */
  async #byHand(work: (socket: StreamSocket) => Promise<void>): Promise<SessionInfo> {
    const socket = this.socket;
    if (socket === undefined || this.over) {
      throw new SocketError("ENOTCONN", `the session is ${this.record.state}, not running`);
    }
    try {
      await work(socket);
    } catch (error) {
      if (!(error instanceof SocketError) || error.code !== "EBADF") throw error;
      throw new SocketError("ENOTCONN", "the session's connection is closed", { cause: error });
    }
    return this.info();
  }

  protected stop(state: "failed" | "cut", thrown: unknown): void {
    this.settle({ state, error: this.#errorInfo(thrown) });
  }

  /** The connection is over, and so is the session. */
  protected settle(how: Outcome): void {
    if (!this.over) this.finish(how);
  }

  /** The session is over, in this way; what comes later changes nothing. */
  protected finish(how: Outcome): void {
    clearTimeout(this.timer);
    const bytes = this.bytes();
    this.record = { ...this.record, ...bytes, ...how, endedAt: now() };
    this.socket = undefined;
    this.#redact = asIs; // which holds the secrets, and the record stays for long
    if (how.state === "ended") this.tell({ type: "ended", ...bytes });
    else this.tell({ type: how.state, ...bytes, error: how.error });
    this.finished();
  }

  /** The end is told. */
  protected finished(): void {
    this.ended();
  }

  protected ended(): void {
    this.log.end();
    this.#over.resolve();
    for (const done of this.#waiting) done();
  }

  #errorInfo(thrown: unknown): ErrorInfo {
    const fallback = this.socket === undefined ? "ERR_CONNECT_FAILED" : "ERR_HANDLER";
    const { code, message } = errorInfo(thrown, fallback);
    return { code, message: this.#redact(message).slice(0, SESSION_LIMITS.messageSize) };
  }

  /** Those of all its connections. */
  protected bytes(): { bytesRead: number; bytesWritten: number } {
    const { bytesRead = 0, bytesWritten = 0 } = this.socket ?? {};
    return {
      bytesRead: this.record.bytesRead + bytesRead,
      bytesWritten: this.record.bytesWritten + bytesWritten,
    };
  }

  protected tell(body: SessionEventBody): void {
    const event = this.log.add((id) => ({ id, at: now(), ...body }));
    void this.store?.save(this.change([event]));
    this.options?.onChange?.(this.id);
  }

  protected change(events: readonly SessionEvent[]): SessionChange {
    return { info: this.info(), events, oldest: this.log.oldest, state: null, wakeAt: this.wakeAt };
  }

  /** Whether it is dialled, or runs. */
  protected get attempts(): boolean {
    return this.record.state === "connecting" || this.record.state === "running";
  }

  /** What the handler is given to keep its state with; `runs()`: whether its connection is the session's. */
  protected keeper(_runs: () => boolean): StateKeeper | undefined {
    return undefined;
  }
}

/** How one connection was over. */
export type Outcome = { state: "ended"; result: Json } | { state: "failed" | "cut"; error: ErrorInfo };

/** The record of one that begins. */
export const newRecord = (options: SessionOptions): SessionInfo => ({
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
  kept: null,
});

/** A log with these events. */
export const newLog = (events: readonly SessionEvent[] = []): EventLog<SessionEvent> =>
  new EventLog(jsonSize, events);

const jsonSize = (value: unknown): number => sizeOf(JSON.stringify(value));
export const now = (): string => new Date().toISOString();
