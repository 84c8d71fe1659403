/**
 * `Session`: the life of one handler on one connection, with its record. Both platforms' planes are built on it.
 *
 * A session holds its record and its log of events. Every change of it is one event, and each event is handed to
 * the `store` with the record as it then is, so that a Durable Object can store both in one transaction, and
 * `Session.restore` can report correctly on a session whose process is gone.
 *
 * A lasting session (`keep`) is a `LastingSession` (lasting.ts), which a Worker includes only if its app has one.
 *
 * Nothing here grows with the age of a session: the log is bounded by count and bytes (the oldest events are dropped first),
 * and a watcher has no queue of its own. It reads the log at its own pace, and sees a gap in the ids where it
 * was too slow.
 */

import { deadline } from "../../bytes/alarm.ts";
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

export const END_GRACE = 1_000; // ms that an aborted handler has to return before its session ends without it

/** What a session passes to its run. */
export interface SessionHooks {
  /** Aborts the dialling, then the handler: with `ECANCELED`, or `ETIMEDOUT` at the deadline. */
  readonly signal: AbortSignal;
  /** Stores the handler's state, in a lasting session. */
  readonly keeper: StateKeeper | undefined;
  /** The connection is open. */
  opened(socket: StreamSocket): void;
  /** The handler called `emit()`. */
  emit(detail: unknown): void;
}

/** The work of a session: dials (or has accepted), runs the handler, closes, and returns what `handle` returned. */
export type SessionRun = (hooks: SessionHooks) => Promise<unknown>;

/**
 * A session's run through a connector made for this session only, since the session listens to its `onEvent`. It also reports why a connection
 * of a lasting session failed, since no caller waits for it: otherwise a log would show that it is dialled again, and not why.
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

/** Options of a session. */
export interface SessionOptions {
  /** From `newSessionId()`. */
  readonly id: string;
  /** The handler's name in the app. */
  readonly handler: string;
  /** Default `outbound`. */
  readonly direction?: SessionInfo["direction"];
  /** The address that is dialled, or that accepted the connection, as text. */
  readonly address: string;
  /** Runs one connection; a lasting session calls it once for each. */
  readonly run: SessionRun;
  /** The options of a lasting session, for `LastingSession`. Default `null`: it is one connection. */
  readonly keep?: Keep | null;
  /** ms from its start until it is cut; `null` for never. */
  readonly deadline: number | null;
  /** Why the platform may refuse the address; it is part of the first event. */
  readonly hint?: string | null;
  /** The handler's params, needed here only to redact them (see `redactor`). */
  readonly params?: unknown;
  /** Texts that must not be shown, not even in a result: the deployment's own secrets. */
  readonly secrets?: readonly string[];
  readonly store?: SessionStore | undefined;
  /** Called with each event. */
  readonly onChange?: ((id: string) => void) | undefined;
}

export const SESSION_NAMES = optionNamesOf<SessionOptions>("a session of a plane")({
  id: "string",
  handler: "string",
  direction: true,
  address: "string",
  run: "function",
  keep: true,
  deadline: true,
  hint: true,
  params: true,
  secrets: "strings",
  store: true,
  onChange: "function",
});

/** The stored form of a session: all that `Session.restore` needs. */
export interface SessionRecord {
  readonly info: SessionInfo;
  /** The stored events, by id, ascending. */
  readonly events: readonly SessionEvent[];
  /** In a lasting session, the state of its handlers, as text. */
  readonly state?: string | null;
}

/** One handler on one connection. Made by `Session.start` or `restore`. The protected members are for `LastingSession`. */
export class Session {
  readonly id: string;
  protected record: SessionInfo;
  protected readonly log: EventLog<SessionEvent>;
  protected readonly store: SessionStore | undefined;
  readonly #over = Promise.withResolvers<void>();
  readonly #waiting = new Set<() => void>(); // callers that wait for its end
  /** Aborts the current connection. */
  protected controller = new AbortController();
  #redact: Redactor = asIs;
  /** Its connection; `undefined` if it has none now. */
  socket: StreamSocket | undefined;
  protected halfClosing: Promise<void> | undefined;
  protected isBlocked = false;
  protected stopTimer: (() => void) | undefined;
  /** `undefined` if the session was only restored for reading. */
  protected readonly options: SessionOptions | undefined;
  protected running: Promise<void> = DONE;
  protected ending = false;
  #closing: SocketError | undefined; // why its connection is being closed, if a caller asked for that

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

  /** Starts a session, which runs from now on. Throws only for an unknown option; any other failure is in the record. */
  static start(options: SessionOptions): Session {
    checkOptions("Session.start()", options, SESSION_NAMES);
    const session = new Session(newRecord(options), newLog(), options.store, options);
    session.running = session.run(options);
    return session;
  }

  /** A stored session, for reading. If it was not over, its process is gone: it becomes `cut`, or `failed` if `error` says why it cannot continue, and `store` gets the change. */
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

  /** Whether this is a lasting session. */
  get lasts(): boolean {
    return (this.record.kept ?? null) !== null;
  }

  /** Resolves when everything so far is stored; rejects if it cannot be. */
  get whenKept(): Promise<void> {
    return DONE;
  }

  /** Whether output was waiting for a peer that takes nothing when the session was ended. */
  get blocked(): boolean {
    return this.isBlocked;
  }

  /** The record as it is now. */
  info(): SessionInfo {
    return this.over ? this.record : { ...this.record, ...this.bytes() };
  }

  /** When to call `wake()`, in ms since the epoch, while it waits to be dialled; `null`: not at all. */
  get wakeAt(): number | null {
    return null;
  }

  /** Dials, if it is time. Its owner calls this at `wakeAt`; at any other time it does nothing. */
  wake(): void {}

  /** Ends the running attempt, because this process ends and another one continues from what is stored. Resolves when everything is stored. */
  async suspend(reason: SocketError): Promise<void> {
    await this.end(reason);
  }

  /** The record once the session is over, or as it is after `ms`. */
  async wait(ms: number): Promise<SessionInfo> {
    if (!this.over) {
      // Not a race of promises: a promise that stays pending would keep every call that was ever made.
      await new Promise<void>((resolve) => {
        const done = (): void => {
          stop();
          this.#waiting.delete(done);
          resolve();
        };
        const stop = deadline(ms, done);
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

  /** Sends bytes by hand; resolves when there is room for more. Rejects with `ENOTCONN` if the session does not run or its connection is closed, with `ENOBUFS` if too much waits for the peer, and as `sendall`. */
  send(bytes: Uint8Array): Promise<SessionInfo> {
    return this.#byHand(async ({ wfile }) => {
      if (wfile.blocked && wfile.unsent > wfile.maxPending) {
        // The sender gets the error, and may try again: the session must not be cut for what somebody else sends.
        throw new SocketError(
          "ENOBUFS",
          `${wfile.unsent} bytes wait for the peer; send more when it has read them`,
        );
      }
      const size = wfile.write(bytes); // throws if nothing can be sent, or drops everything: then flush() says why
      if (size === bytes.length) this.tell({ type: "sent", bytes: size });
      await wfile.flush();
    });
  }

  /** Ends our direction by hand. Rejects with `ENOTCONN` as `send()` does, and as `shutdown`. */
  halfClose(): Promise<SessionInfo> {
    return this.#byHand(async (socket) => {
      // Reported when it begins, as a send is, and only once: a second caller waits for the same end.
      if (this.halfClosing === undefined && !socket.closed) {
        this.halfClosing = socket.shutdown(SHUT_WR);
        this.halfClosing.catch(() => {}); // the callers that wait for it get the error
        this.tell({ type: "halfClosed" });
      }
      await (this.halfClosing ?? socket.shutdown(SHUT_WR));
    });
  }

  /**
   * Ends the session as `cut`: its connection is reset. Resolves when it is over, within a second even if the handler does not react.
   * `graceful`: its connection is closed as its handler would close it, after what was written has been sent; that may take as long as the peer takes to read it.
   */
  async end(
    reason = new SocketError("ECANCELED", "the session was ended by request"),
    graceful = false,
  ): Promise<SessionInfo> {
    if (!this.over) {
      this.ending = true;
      if (graceful && this.socket !== undefined) {
        this.#closing = reason;
        this.socket.close().catch(() => {}); // the handler gets the error, and the record shows it
        await this.wait(END_GRACE);
        return this.info();
      }
      if (this.attempts) {
        this.abort(reason);
        await this.wait(END_GRACE);
      }
      this.stop("cut", reason);
    }
    await this.whenKept.catch(() => {}); // its store has reported it
    return this.record;
  }

  // ---- Inside ----

  /** When it is cut, in ms since the epoch. */
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
    this.socket?.abort(reason);
  }

  protected async run({ run, params, secrets = [], address, hint }: SessionOptions): Promise<void> {
    const controller = this.controller;
    const { signal } = controller;
    /** Whether this attempt is still the session's: its run may not have noticed that it was abandoned. */
    const runs = (): boolean => this.controller === controller && !this.over;
    const attempt = this.record.kept?.attempt;
    this.tell({
      type: "connecting",
      address,
      ...(typeof hint === "string" && { hint }),
      ...(attempt !== undefined && { attempt }),
    });
    if (this.due < Number.POSITIVE_INFINITY) {
      this.stopTimer = deadline(Math.max(this.due - Date.now(), 0), () => this.end(this.late()));
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
      socket.abort(); // it was abandoned, and the dial did not notice
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

  /** Runs `work` on the connection. For callers a session is over once its connection is closed, even before its record says so. */
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

  /** Ends the session with this outcome; later events change nothing. */
  protected finish(how: Outcome): void {
    this.stopTimer?.();
    const bytes = this.bytes();
    this.record = { ...this.record, ...bytes, ...how, endedAt: now() };
    this.socket = undefined;
    this.#redact = asIs; // the redactor holds the secrets, and the record stays for long
    if (how.state === "ended") this.tell({ type: "ended", ...bytes });
    else this.tell({ type: how.state, ...bytes, error: how.error });
    this.finished();
  }

  /** Reports the end. */
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

  /** The bytes of all its connections. */
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

  /** Whether it is being dialled, or runs. */
  protected get attempts(): boolean {
    return this.record.state === "connecting" || this.record.state === "running";
  }

  /** Where the handler's state is stored; `runs()`: whether its connection is still the session's. */
  protected keeper(_runs: () => boolean): StateKeeper | undefined {
    return undefined;
  }
}

/** How one connection ended. */
export type Outcome = { state: "ended"; result: Json } | { state: "failed" | "cut"; error: ErrorInfo };

/** The record of a new session. */
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
