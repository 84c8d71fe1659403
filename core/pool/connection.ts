/**
 * One connection of a pool: the calls that have begun on it, in the order of their replies, and what ends it.
 *
 * One rule governs all of it: a reply goes to the call that it answers, or to nobody. Whatever leaves that in doubt ends the
 * connection: a failed read, a reply that nobody asked for, or a call that was given up after it had begun. In the last
 * case the connection takes no further calls, lets the other calls on it finish, and then closes.
 */

import { deadline } from "../bytes/alarm.ts";
import { SocketError } from "../errors.ts";
import { type ClientHandler, callLost, ErrorReply, Notice } from "../handlers/client.ts";
import { type PoolOptions, wholeMs } from "../options.ts";
import { isThenable, whenSettled } from "../promises.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { Line, type PendingCall } from "./waiting.ts";

/** Why a healthy connection was closed. */
export type Retirement =
  /** It was idle for `idleTimeout`. */
  | "idle"
  /** It reached `maxAge`. */
  | "age"
  /** A call on it was given up, by its caller or by `callTimeout`. */
  | "cut"
  /** Its lease was given back, and it could not be reused: no `reset()`, an open transaction, calls under way, or given back too late. */
  | "lease"
  /** The pool was closed. */
  | "closed";

/** What a connection tells its pool. */
export interface ConnectionOwner<Call, Reply> {
  readonly limits: Required<PoolOptions>;
  /** It may have room for another call, or be idle. */
  freed(connection: Connection<Call, Reply>): void;
  /** A call was answered. */
  answered(): void;
  /** A call had begun and is lost with its connection. Returns whether the pool will repeat it. */
  lost(pending: PendingCall<Call, Reply>): boolean;
  /** The connection refused a call that had not begun; the call waits for another connection. */
  again(pending: PendingCall<Call, Reply>): void;
  /** A call that had begun took too long. */
  late(): void;
  /** It takes no more calls. `error`: what went wrong, if anything did. */
  ended(connection: Connection<Call, Reply>, reason: Retirement | "lost", error: unknown): void;
  /** `notice()` threw. */
  failed(error: unknown): void;
}

export class Connection<Call, Reply> {
  readonly handler: ClientHandler<Call, Reply>;
  readonly request: StreamSocket;
  /** When it was logged in, by `performance.now()`. */
  readonly since = performance.now();
  /** When it became idle, by the same clock. */
  idleSince = this.since;
  /** When `idle()` last ran, or a call was last under way. */
  pingedAt = this.since;
  /** When it is to be replaced. */
  readonly due: number;
  /** A lease holds it. */
  leased = false;
  /** It takes no more shared calls: a lease is waiting for it to become idle. */
  reserved = false;
  /** Calls that were answered on it. */
  answered = 0;
  /** What `handle()` returns: it settles when the handler should end. */
  readonly over: Promise<void>;

  readonly #owner: ConnectionOwner<Call, Reply>;
  readonly #address: string;
  readonly #end: PromiseWithResolvers<void>;
  readonly #calls = new Line<PendingCall<Call, Reply>>(); // in the order of send()
  readonly #byId: Map<unknown, PendingCall<Call, Reply>> | null; // where replies come in any order
  readonly #exclusive: boolean;
  #reading = false;
  #unasked = false; // the current read began while no call was under way
  #from = 0; // offset in the stream at which the current reply began
  #busy: AbortController | null = null; // set while idle() or reset() runs
  #flushing = false;
  #alone = false; // the call under way is a repeat of a lost one. It may be what crashes the server, so no other call shares the connection
  #retiring: Retirement | null = null;
  #ended = false;
  #stopTimer: (() => void) | undefined;
  #unwatch: (() => void) | null = null;

  constructor(
    owner: ConnectionOwner<Call, Reply>,
    handler: ClientHandler<Call, Reply>,
    address: string,
    due: number,
  ) {
    this.#owner = owner;
    this.handler = handler;
    this.request = handler.request;
    this.#address = address;
    this.due = due;
    this.#end = Promise.withResolvers();
    this.over = this.#end.promise;
    this.#byId = handler.match === undefined ? null : new Map();
    this.#exclusive = handler.call !== undefined;
    const { rfile } = this.request;
    const { callTimeout, maxReply } = owner.limits;
    rfile.maxRead = Math.min(rfile.maxRead, maxReply);
    // The call's limit comes first anyway. A read limit beside it would leave a timer behind when all calls are answered.
    if (callTimeout !== null && rfile.timeout !== null && rfile.timeout >= callTimeout) rfile.timeout = null;
  }

  /** Called when its owner knows it: from now on it watches for input. */
  start(): void {
    this.#watch();
  }

  /** Calls under way. */
  get running(): number {
    return this.#byId === null ? this.#calls.size : this.#byId.size;
  }

  /** Whether it is idle and may be given to anybody. */
  get isIdle(): boolean {
    return this.isOpen && !this.leased && this.running === 0;
  }

  /** Whether a call may begin. On a leased connection only its holder's calls do. */
  get isOpen(): boolean {
    return (
      !this.#ended &&
      this.#retiring === null &&
      this.#busy === null &&
      !this.#flushing &&
      !this.#alone &&
      this.running < this.#owner.limits.pipeline
    );
  }

  /** Whether it has ended, or takes no more calls. */
  get isOver(): boolean {
    return this.#ended || this.#retiring !== null;
  }

  /** Whether `idle()` is running, which `withdraw()` interrupts. */
  get isPinging(): boolean {
    return this.#busy !== null && !this.leased;
  }

  // ---- Calls ----

  /** Begins a call; requires `isOpen`. From now on this connection settles it. */
  begin(pending: PendingCall<Call, Reply>): void {
    const { handler } = this;
    pending.connection = this;
    pending.since = Math.ceil(performance.now());
    this.#alone = ++pending.attempts > 1;
    this.#setTimer();
    if (this.#exclusive) {
      this.#calls.add(pending);
      this.#from = this.#read;
      const given = this.#tried(() => handler.call?.(pending.call));
      if (given !== FAILED) this.#whenGiven(given);
      return;
    }
    const { wfile } = this.request;
    const before = wfile.bytesWritten;
    let id: unknown;
    try {
      id = handler.send?.(pending.call);
      if (isThenable(id)) throw new TypeError("send() only writes: it returns no promise");
      if (this.#byId?.has(id)) throw new TypeError(`send() gave the id ${String(id)} to two calls at once`);
    } catch (error) {
      this.#notSent(pending, error, wfile.bytesWritten > before);
      return;
    }
    if (this.#byId === null) this.#calls.add(pending);
    else this.#byId.set(id, pending);
    if (wfile.blocked) this.#attend();
    if (this.#reading) return;
    this.#reading = true;
    queueMicrotask(this.#readSoon); // a waiting read flushes the writer, so the calls of one turn leave together
  }

  readonly #readSoon = (): void => {
    if (!this.#ended) void this.#readOn();
  };

  /** `send()` threw. If it had written nothing, it refused this call alone, or the connection was already over. */
  #notSent(pending: PendingCall<Call, Reply>, error: unknown, wrote: boolean): void {
    const broken = this.request.closed || this.request.rfile.ended || this.request.readiness(0) !== 0;
    if (!wrote && broken) {
      pending.connection = null;
      pending.attempts--;
      this.destroy(error);
      this.#owner.again(pending);
      return;
    }
    if (wrote) {
      this.#lose(pending, error);
      this.destroy(error);
      return;
    }
    pending.reject(error);
    if (this.running === 0 && !this.#reading) this.#idle();
  }

  /** The peer is behind with our output: no call begins until it has caught up; reads go on meanwhile. */
  #attend(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    const done = (): void => {
      this.#flushing = false;
      if (!this.#ended) this.#owner.freed(this);
    };
    this.request.wfile.flush().then(done, done); // if it fails, the waiting read reports it
  }

  /** A caller gave up its call on this connection; `reason` is its signal's. */
  giveUp(pending: PendingCall<Call, Reply>, reason: unknown): void {
    pending.reject(reason);
    this.retire("cut");
  }

  // ---- Replies ----

  get #read(): number {
    const { rfile } = this.request;
    return rfile.bytesRead - rfile.buffered;
  }

  /** Reads replies while there are calls. One loop for all of them saves a promise for each. Never rejects. */
  async #readOn(): Promise<void> {
    this.#reading = true;
    const { handler } = this;
    try {
      while (!this.#ended) {
        const head = this.#calls.first;
        this.#unasked = this.#byId === null ? head === null : this.#byId.size === 0;
        this.#from = this.#read;
        const given = handler.receive?.(head?.call);
        const got = isThenable(given) ? await given : given;
        if (this.#ended || !this.#took(got as Reply | Notice | ErrorReply)) return;
      }
    } catch (error) {
      this.#readFailed(error);
    }
  }

  /** What `read` returns, or `FAILED` if it throws. */
  #tried(read: () => unknown): unknown {
    try {
      return read();
    } catch (error) {
      this.#readFailed(error);
      return FAILED;
    }
  }

  #whenGiven(given: unknown): void {
    if (isThenable(given)) whenSettled(given, this.#given, this.#readFailed);
    else this.#given(given);
  }

  readonly #given = (got: unknown): void => {
    if (this.#ended) return;
    if (this.#took(got as Reply | Notice | ErrorReply)) void this.#readOn();
  };

  /** Takes one item that was read. Returns whether to read on at once. */
  #took(got: Reply | Notice | ErrorReply): boolean {
    const { rfile } = this.request;
    const read = this.#read - this.#from;
    if (read === 0 && (rfile.ended || this.request.closed)) {
      this.destroy(new SocketError("ECONNRESET", "the server has ended the connection", this.#where));
      return false;
    }
    if (read > this.#owner.limits.maxReply) {
      this.#readFailed(this.#tooLarge());
      return false;
    }
    if (got instanceof Notice) return this.#noticed(got.message);
    const pending = this.#asked(got);
    if (pending === null) {
      const message = "the server sent a reply to no call";
      this.destroy(new SocketError("ERR_REFUSED", message, this.#where));
      return false;
    }
    const { handler } = this;
    if (!this.leased && handler.inTransaction) {
      const message =
        "this call opened a transaction on a connection that others share; take a lease() for one";
      pending.reject(new SocketError("EINVAL", message, this.#where));
      this.destroy(
        new SocketError("ECANCELED", "a shared connection was left in a transaction", this.#where),
      );
      return false;
    }
    if (!pending.settled) {
      this.answered++;
      this.#owner.answered();
      if (got instanceof ErrorReply) pending.reject(got.error);
      else pending.resolve(got);
    }
    const more = this.running > 0;
    if (this.#retiring !== null && !this.#isWanted) {
      this.#finish();
      return false;
    }
    if (more && !this.#exclusive) {
      this.#owner.freed(this);
      return !this.#ended;
    }
    this.#idle();
    return false;
  }

  /** Finds the call that `got` answers. */
  #asked(got: Reply | ErrorReply): PendingCall<Call, Reply> | null {
    if (this.#byId === null) return this.#unasked ? null : this.#calls.shift();
    const id = this.handler.match?.(got);
    const pending = this.#byId.get(id);
    this.#byId.delete(id);
    return pending ?? null;
  }

  /** Handles a notice. Returns whether to read on at once. */
  #noticed(message: unknown): boolean {
    const { handler } = this;
    let heard: unknown;
    try {
      heard = handler.notice(message);
    } catch (error) {
      this.#owner.failed(error);
    }
    if (!isThenable(heard)) return this.#mayReadOn();
    const done = (): void => {
      if (this.#mayReadOn()) void this.#readOn();
    };
    whenSettled(heard, done, (error) => {
      this.#owner.failed(error);
      done();
    });
    return false;
  }

  #mayReadOn(): boolean {
    if (this.#ended) return false;
    if (this.running > 0 || this.request.rfile.buffered > 0) return true;
    this.#idle();
    return false;
  }

  readonly #readFailed = (error: unknown): void => {
    if (this.#ended) return;
    // A repeat would get the same oversized reply.
    const head = this.#byId === null ? this.#calls.first : null;
    if (error instanceof SocketError && error.code === "ERR_LIMIT") head?.reject(error);
    this.destroy(error);
  };

  #tooLarge(): SocketError {
    const message = `a reply is larger than maxReply, which is ${this.#owner.limits.maxReply} bytes`;
    return new SocketError("ERR_LIMIT", message, this.#where);
  }

  get #where(): { address: string } {
    return { address: this.#address };
  }

  // ---- Idle ----

  /** All calls that had begun are answered. */
  #idle(): void {
    this.#reading = this.#unasked = this.#alone = false;
    if (this.#ended) return;
    if (this.#retiring !== null) {
      this.#finish();
      return;
    }
    this.idleSince = this.pingedAt = performance.now();
    this.#watch();
    if (this.#ended) return;
    this.#owner.freed(this);
  }

  /** Watches for what may come while no call is under way: a notice, or the end. */
  #watch(): void {
    this.#unwatch?.();
    this.#unwatch = this.request.rfile.onReadable(this.#came);
    this.#came();
  }

  readonly #came = (): void => {
    if (this.#ended) return;
    const { rfile } = this.request;
    if (this.#reading || this.running > 0) {
      if (this.#read - this.#from > this.#owner.limits.maxReply) this.#readFailed(this.#tooLarge());
      return;
    }
    if (this.#busy !== null) return; // idle() or reset() does its own reading
    if (rfile.buffered > 0) {
      if (!this.#exclusive) void this.#readOn();
      else
        this.destroy(new SocketError("ERR_REFUSED", "the server sent what no call asked for", this.#where));
    } else if (rfile.readable) {
      this.destroy(new SocketError("ECONNRESET", "the server has ended the connection", this.#where));
    }
  };

  /** Runs `idle()`. */
  ping(): void {
    const { handler } = this;
    this.#attended("idle()", (signal) => handler.idle?.(signal));
  }

  /** A call is waiting: asks `idle()` to end soon. */
  withdraw(): void {
    this.#busy?.abort(new SocketError("ECANCELED", "a call waits for this connection"));
  }

  /** Runs `reset()`, and destroys the connection if that fails. Resolves when the connection is usable again or gone. */
  reset(): Promise<void> {
    const { handler } = this;
    return this.#attended("reset()", () => handler.reset?.());
  }

  /** Runs `work`, which does its own reading and writing, while no call may begin. Resolves when it is over. */
  #attended(what: string, work: (signal: AbortSignal) => unknown): Promise<void> {
    const busy = new AbortController();
    this.#busy = busy;
    const { promise, resolve } = Promise.withResolvers<void>();
    const { callTimeout } = this.#owner.limits;
    const late = (): void => {
      const message = `${what} did not end within callTimeout, ${wholeMs(callTimeout ?? 0)}`;
      this.destroy(new SocketError("ETIMEDOUT", message, this.#where));
      resolve();
    };
    const stopTimer = callTimeout === null ? null : deadline(callTimeout, late);
    const over = (error?: unknown): void => {
      stopTimer?.();
      this.#busy = null;
      if (error !== undefined) this.destroy(error);
      this.leased = false;
      if (!this.#ended) this.#idle();
      resolve();
    };
    const failed = (error: unknown): void => over(error ?? new Error(`${what} failed`));
    try {
      const given = work(busy.signal);
      if (isThenable(given)) whenSettled(given, () => over(), failed);
      else over();
    } catch (error) {
      failed(error);
    }
    return promise;
  }

  // ---- The end ----

  /** Whether a caller still waits for a reply. */
  get #isWanted(): boolean {
    for (const { settled } of this.#byId?.values() ?? this.#calls) if (!settled) return true;
    return false;
  }

  /** Takes no more calls, and closes when those that have begun are answered. */
  retire(reason: Retirement): void {
    if (this.isOver) return;
    this.#retiring = reason;
    this.#owner.ended(this, reason, null);
    if (this.#busy !== null) this.withdraw();
    else if (!this.#isWanted) this.#finish();
  }

  /** Rejects the calls that have begun with `why`, unless the connection was lost. */
  settle(why: unknown): void {
    for (const pending of this.#byId?.values() ?? this.#calls) pending.reject(why);
  }

  /** Takes no more calls, and destroys the connection. */
  cut(reason: Retirement, error: unknown): void {
    if (this.isOver) return;
    this.#retiring = reason;
    this.#owner.ended(this, reason, error);
    this.destroy(error);
  }

  /** Nothing is under way: ends the connection in the protocol's way. */
  #finish(): void {
    if (this.running > 0) {
      this.destroy(null); // replies to calls that were given up may still come
      return;
    }
    this.#over();
    this.#end.resolve();
  }

  /** Ends it at once. Calls that had begun on it are lost; `error` is the reason. */
  destroy(error: unknown): void {
    if (this.#ended) return;
    const pending = [...(this.#byId?.values() ?? this.#calls)];
    for (const one of pending) this.#calls.remove(one);
    this.#byId?.clear();
    this.#over();
    this.#busy?.abort(error);
    this.#end.reject(error ?? new SocketError("ECANCELED"));
    this.#end.promise.catch(() => {}); // the handler's run reports it
    this.request.abort(error);
    if (this.#retiring === null) {
      this.#retiring = "cut";
      this.#owner.ended(this, "lost", error);
    }
    for (const one of pending) this.#lose(one, error);
  }

  #over(): void {
    this.#ended = true;
    this.#stopTimer?.();
    this.#unwatch?.();
    this.#unwatch = null;
  }

  #lose(pending: PendingCall<Call, Reply>, cause: unknown): void {
    pending.connection = null;
    if (pending.settled || this.#owner.lost(pending)) return;
    pending.reject(callLost(cause, this.#address));
  }

  // ---- Time ----

  /** One timer serves all calls: they share one limit, so the first to begin is the first to be late. */
  #setTimer(): void {
    const { callTimeout } = this.#owner.limits;
    if (callTimeout === null || this.#stopTimer !== undefined) return;
    this.#stopTimer = deadline(callTimeout, this.#rang, { daemon: true }); // the connection keeps the process alive
  }

  readonly #rang = (now: number): void => {
    this.#stopTimer = undefined;
    const callTimeout = this.#owner.limits.callTimeout as number;
    let late = false;
    for (const pending of this.#byId?.values() ?? this.#calls) {
      if (pending.settled) continue;
      const left = Math.ceil(pending.since + callTimeout - now);
      if (left > 0) {
        this.#stopTimer = deadline(left, this.#rang, { daemon: true });
        break;
      }
      late = true;
      const message = `no reply came within callTimeout, ${wholeMs(callTimeout)}; the call may have been done, or not`;
      this.#owner.late();
      pending.reject(new SocketError("ETIMEDOUT", message, this.#where));
    }
    if (late) {
      if (this.isOver && !this.#isWanted) this.destroy(null);
      else this.retire("cut");
    }
  };
}

const FAILED = Symbol();
