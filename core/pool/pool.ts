/**
 * The pool: connections that outlive a request. They are logged in once, shared by many callers, and dialled again when
 * they are lost. The pool does not dial by itself: it is given a connector, which runs a handler class on a connection.
 * And it does not know the protocol: everything that it knows about the server comes from the handler.
 *
 *     call() ──▶ an idle connection ──────────────────▶ begun ──▶ answered
 *        │       else the one with the fewest calls      │
 *        │       under way that has room for another     └── lost: ERR_CALL_LOST, or repeated if it is repeatable
 *        └─ none ──▶ waits in line; another is dialled if `max` allows
 *
 * A failed dial loses no call: waiting calls go on waiting until their own time is up, and the next attempt follows after
 * a pause. So a server that restarts costs only the calls that had begun.
 */

import { deadline, within } from "../bytes/alarm.ts";
import { errorText, textOf } from "../describe.ts";
import { SocketError } from "../errors.ts";
import {
  CALL_NAMES,
  type ClientHandler,
  type ClientHandlerClass,
  LEASE_NAMES,
  type Lease,
  type LeaseOptions,
  type PoolCallOptions,
  type PoolClient,
  type PoolInfo,
} from "../handlers/client.ts";
import { checkClient } from "../handlers/client-check.ts";
import { callListener, type OnEvent, type SockletEvent } from "../handlers/events.ts";
import type { HandlerClass } from "../handlers/handler.ts";
import {
  checkOptions,
  type OptionNames,
  optionNamesOf,
  POOL_NAMES,
  type PoolOptions,
  settlePool,
  wholeMs,
} from "../options.ts";
import type { RunOptions } from "../serve/connector.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { Connection, type ConnectionOwner, type Retirement } from "./connection.ts";
import { ConnectionLease } from "./lease.ts";
import { Line, PendingCall, PendingLease } from "./waiting.ts";

/**
 * Dials for a pool, as every `BaseConnector` does: `run()` opens one connection, runs the handler class that the connector
 * was made with, and settles when the handler has ended and the connection is released.
 */
export interface PoolConnector {
  run(options: RunOptions<StreamSocket>): Promise<unknown>;
}

/** How a pool is made: its limits, and what it dials. */
export interface PoolSetup<Context> extends PoolOptions {
  /** Its name in events and lists. Default: the name of the handler class. */
  readonly name?: string;
  /** Where it dials, as text for people. */
  readonly address: string;
  /** Called for each event: see `PoolEvent`. */
  readonly onEvent?: OnEvent | undefined;
  /** Makes the connector for this handler class. Called once, before the first dial. */
  connector(Handler: HandlerClass<StreamSocket, Context>): PoolConnector;
}

const SETUP_NAMES: OptionNames = optionNamesOf<PoolSetup<unknown>>()({
  ...POOL_NAMES,
  name: "string",
  address: "string",
  onEvent: "function",
  connector: "function",
});

/** One connection, from its dialling to its end. */
interface Slot<Call, Reply> {
  connection: Connection<Call, Reply> | null;
  readonly stop: AbortController;
  /** Of its login. */
  stopTimer: (() => void) | undefined;
}

/** Connections to one address that many callers share. Each place's `pool()` makes one. */
export class Pool<Call = unknown, Reply = unknown, Context = unknown>
  implements PoolClient<Call, Reply>, AsyncDisposable
{
  /** Its limits, with defaults filled in. */
  readonly limits: Required<PoolOptions>;
  readonly name: string;
  readonly address: string;

  readonly #Handler: HandlerClass<StreamSocket, Context>;
  readonly #connectorOf: PoolSetup<Context>["connector"];
  readonly #onEvent: OnEvent | undefined;
  readonly #owner: ConnectionOwner<Call, Reply>;
  #connector: PoolConnector | null = null;
  readonly #slots = new Set<Slot<Call, Reply>>(); // all, including those being dialled or closed
  readonly #byRequest = new Map<StreamSocket, Slot<Call, Reply>>(); // those being logged in
  readonly #connections: Connection<Call, Reply>[] = []; // those that take calls, oldest first
  readonly #leases = new Map<Connection<Call, Reply>, ConnectionLease<Call, Reply>>();
  readonly #calls = new Line<PendingCall<Call, Reply>>(); // waiting calls
  readonly #wanted = new Line<PendingLease<Call, Reply>>(); // waiting leases
  #stopWaitTimer: (() => void) | undefined;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #stopSweepTimer: (() => void) | undefined;
  #sweepAt = Number.POSITIVE_INFINITY;
  #turn = 0; // the next number to wait with
  #opening = 0; // slots without a connection yet
  #failures = 0; // failed attempts in a row
  #error: unknown = null; // of the last failed attempt
  #closing: Promise<void> | null = null;
  #closed = false;
  #shrinking = false;
  #whenQuiet: (() => void) | null = null;
  #answered = 0;
  #lost = 0;
  #abandoned = 0;
  #opened = 0;
  #failed = 0;

  /** Throws `TypeError` or `RangeError` for a wrong option, or a handler class that takes no calls or fewer at once than asked. */
  constructor(Handler: ClientHandlerClass<Call, Reply, Context>, setup: PoolSetup<Context>) {
    checkOptions("a pool", setup, SETUP_NAMES);
    this.limits = settlePool(setup);
    checkClient(Handler, this.limits.pipeline);
    this.name = setup.name ?? (textOf(Handler.name) || "anonymous");
    this.address = setup.address;
    this.#onEvent = setup.onEvent;
    this.#connectorOf = setup.connector;
    const serve = (handler: ClientHandler<Call, Reply>): Promise<void> => this.#serve(handler);
    const Pooled = class extends (Handler as unknown as ClientHandlerClass<unknown, unknown>) {
      override handle(): Promise<void> {
        return serve(this as unknown as ClientHandler<Call, Reply>);
      }
    };
    Object.defineProperty(Pooled, "name", { value: Handler.name });
    this.#Handler = Pooled as unknown as HandlerClass<StreamSocket, Context>;
    this.#owner = {
      limits: this.limits,
      freed: (connection) => this.#freed(connection),
      answered: () => {
        this.#answered++;
        this.#failures = 0;
      },
      late: () => this.#abandoned++,
      lost: (pending) => this.#wasLost(pending),
      again: (pending) => this.#wait(pending),
      ended: (connection, reason, error) => this.#ended(connection, reason, error),
      failed: (error) => this.#tell({ type: "error", server: this.name, address: null, error }),
    };
    if (this.limits.min > 0) queueMicrotask(() => this.#grow());
  }

  call(call: Call, options?: PoolCallOptions): Promise<Reply> {
    if (options !== undefined) checkOptions("a call of a pool", options, CALL_NAMES);
    return new Promise<Reply>((resolve, reject) => {
      const signal = options?.signal;
      this.#mayAsk(signal);
      const connection = this.#calls.size === 0 ? this.#freest() : undefined;
      if (connection === undefined) this.#mayWait();
      const pending = new PendingCall<Call, Reply>(
        call,
        options?.repeatable ?? false,
        resolve,
        reject,
        signal,
      );
      if (signal !== undefined) {
        pending.watch((reason) => {
          this.#abandoned++;
          this.#calls.remove(pending);
          if (pending.connection === null) pending.reject(reason);
          else pending.connection.giveUp(pending, reason);
        });
      }
      if (connection === undefined) this.#wait(pending);
      else {
        const shared = connection.running > 0;
        connection.begin(pending);
        if (shared) this.#grow();
      }
    });
  }

  lease(options: LeaseOptions = {}): Promise<Lease<Call, Reply>> {
    checkOptions("a lease of a pool", options, LEASE_NAMES);
    return new Promise((resolve, reject) => {
      const { signal } = options;
      this.#mayAsk(signal);
      this.#mayWait();
      const pending = new PendingLease<Call, Reply>(resolve, reject, signal);
      pending.watch((reason) => {
        this.#wanted.remove(pending);
        pending.reject(reason);
        this.#dispatch();
      });
      pending.since = Math.ceil(performance.now());
      pending.turn = ++this.#turn;
      this.#wanted.add(pending);
      this.#setWaitTimer();
      this.#dispatch();
    });
  }

  /** A plain object of counts, to print or to serve. */
  info(): PoolInfo {
    const { name, address, limits } = this;
    const connections = this.#connections.length + this.#leases.size;
    return {
      name,
      address,
      max: limits.max,
      pipeline: limits.pipeline,
      connections,
      opening: this.#opening,
      idle: this.#connections.filter(({ isIdle }) => isIdle).length,
      leased: this.#leases.size,
      running: [...this.#slots].reduce((sum, { connection }) => sum + (connection?.running ?? 0), 0),
      waiting: this.#calls.size + this.#wanted.size,
      answered: this.#answered,
      lost: this.#lost,
      abandoned: this.#abandoned,
      opened: this.#opened,
      failed: this.#failed,
      error: this.#failures > 0 && this.#error !== null ? errorText(this.#error) : null,
      closed: this.#closed,
    };
  }

  /** From now on it keeps no connection that has nothing to do: what a process does that ends, while its handlers may still call. */
  shrink(): void {
    this.#shrinking = true;
    for (const connection of [...this.#connections]) if (connection.isIdle) connection.retire("closed");
  }

  /**
   * Takes no more calls, lets those that wait or have begun, and leases, go on for `drainTimeout` ms, and then ends all:
   * what has not begun by then rejects with `ECANCELED`, what has with `ERR_CALL_LOST`. Never rejects.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- Who comes next ----

  #mayAsk(signal: AbortSignal | undefined): void {
    if (this.#closing !== null) throw new SocketError("EBADF", `the pool ${this.name} is closed`);
    signal?.throwIfAborted();
  }

  /** Throws if too many calls wait already. */
  #mayWait(): void {
    const { maxWaiting } = this.limits;
    if (this.#calls.size + this.#wanted.size < maxWaiting) return;
    throw new SocketError(
      "ERR_LIMIT",
      `${maxWaiting} calls wait for a connection of the pool ${this.name} already, which is its maxWaiting`,
    );
  }

  #wait(pending: PendingCall<Call, Reply>): void {
    pending.since = Math.ceil(performance.now());
    pending.turn = ++this.#turn;
    this.#calls.add(pending);
    this.#setWaitTimer();
    this.#dispatch();
  }

  /** The connection with the fewest calls under way that has room for another. `reserved`: also an idle one that is reserved for a lease. `alone`: only an idle one. */
  #freest(reserved = false, alone = false): Connection<Call, Reply> | undefined {
    let best: Connection<Call, Reply> | undefined;
    for (const connection of this.#connections) {
      if (!connection.isOpen || (connection.reserved && !(reserved && connection.running === 0))) continue;
      if (connection.running === 0) return connection; // the oldest first, so that surplus ones stay idle
      if (!alone && (best === undefined || connection.running < best.running)) best = connection;
    }
    return best;
  }

  /** Begins the calls that may begin, and dials if more connections are needed. */
  #dispatch(): void {
    this.#reserve();
    while (this.#giveOne());
    if (this.#calls.size + this.#wanted.size > 0) {
      for (const connection of [...this.#connections]) if (connection.isPinging) connection.withdraw();
    }
    this.#grow();
    if (this.#closing !== null) this.#lookQuiet();
  }

  /** Gives a connection to the first in line that can have one. Returns false if there is none. */
  #giveOne(): boolean {
    const lease = this.#wanted.first;
    const call = this.#calls.first;
    const idle = lease === null ? undefined : this.#connections.find(({ isIdle }) => isIdle);
    const leaseFirst = lease !== null && (call === null || lease.turn < call.turn);
    const connection =
      call === null || (leaseFirst && idle !== undefined)
        ? undefined
        : this.#freest(!leaseFirst, call.attempts > 0);
    if (connection !== undefined) {
      connection.begin(this.#calls.shift() as PendingCall<Call, Reply>);
      return true;
    }
    if (idle === undefined) return false;
    this.#grant(idle, this.#wanted.shift() as PendingLease<Call, Reply>);
    return true;
  }

  /** If leases wait and no more may be dialled, stops that many connections from taking calls, so that they become idle. */
  #reserve(): void {
    const dialable = this.limits.max - this.#slots.size;
    let wanted = this.#wanted.size - Math.max(dialable, 0);
    for (const connection of this.#connections) connection.reserved = wanted-- > 0;
  }

  #grant(connection: Connection<Call, Reply>, pending: PendingLease<Call, Reply>): void {
    this.#connections.splice(this.#connections.indexOf(connection), 1);
    const over = (): void => {
      this.#leases.delete(connection);
      if (!connection.isOver) this.#connections.push(connection);
      this.#dispatch();
      if (connection.isIdle) this.#rest(connection);
      else this.#maybeStopWaitTimer();
    };
    const { leaseTimeout } = this.limits;
    const lease = new ConnectionLease<Call, Reply>(connection, leaseTimeout, pending.signal, over);
    this.#leases.set(connection, lease);
    pending.resolve(lease);
  }

  #freed(connection: Connection<Call, Reply>): void {
    if (connection.leased) {
      this.#leases.get(connection)?.go();
      return;
    }
    if (this.#calls.size + this.#wanted.size > 0 || this.#closing !== null) this.#dispatch();
    if (!connection.isIdle) return;
    if (this.#shrinking) connection.retire("closed");
    else this.#rest(connection);
  }

  /** A connection is idle, so nobody is waiting for one. */
  #rest(connection: Connection<Call, Reply>): void {
    this.#sweepFor(connection);
    this.#maybeStopWaitTimer();
  }

  #wasLost(pending: PendingCall<Call, Reply>): boolean {
    if (pending.repeatable && pending.attempts < this.limits.maxAttempts && !this.#closed) {
      this.#wait(pending);
      return true;
    }
    this.#lost++;
    return false;
  }

  /** One timer serves all that wait: in each line the first to come is the first to be late. */
  #setWaitTimer(ms = this.limits.waitTimeout): void {
    if (this.#retryTimer !== undefined) (this.#retryTimer as { ref?(): void }).ref?.(); // somebody waits for this attempt
    this.#stopWaitTimer ??= deadline(ms, this.#waited, { daemon: true }); // a connection or a dial keeps the process alive
  }

  /** Not called each time a line empties: under load that is after nearly every call. */
  #maybeStopWaitTimer(): void {
    if (this.#stopWaitTimer === undefined || this.#calls.size + this.#wanted.size > 0) return;
    this.#stopWaitTimer();
    this.#stopWaitTimer = undefined;
  }

  readonly #waited = (now: number): void => {
    this.#stopWaitTimer = undefined;
    const { waitTimeout } = this.limits;
    let next = Number.POSITIVE_INFINITY;
    for (const line of [this.#calls, this.#wanted] as Line<PendingCall<Call, Reply>>[]) {
      for (let { first } = line; first !== null; first = line.first) {
        const left = Math.ceil(first.since + waitTimeout - now);
        if (left > 0) {
          next = Math.min(next, left);
          break;
        }
        line.remove(first);
        this.#abandoned++;
        first.reject(this.#noConnection());
      }
    }
    if (next < Number.POSITIVE_INFINITY) this.#setWaitTimer(next);
    this.#dispatch();
  };

  #noConnection(): SocketError {
    const { name, address } = this;
    const failed = this.#failures > 0 && this.#error !== null;
    const why = failed
      ? `the last attempt failed: ${errorText(this.#error)}`
      : `all ${this.limits.max} were in use`;
    const message = `the pool ${name} had no connection to ${address} within ${wholeMs(this.limits.waitTimeout)}; ${why}`;
    return new SocketError("ETIMEDOUT", message, { address, ...(failed && { cause: this.#error }) });
  }

  // ---- Connections ----

  /** Dials as many as are needed and allowed; after a failure only one, once the pause is over. */
  #grow(): void {
    const { max, min } = this.limits;
    if (this.#slots.size >= max || this.#closed || this.#retryTimer !== undefined) return;
    const opening = this.#opening;
    const waiting = this.#calls.size + this.#wanted.size;
    let shared = 0; // calls that would have their own connection if there were more
    if (this.limits.pipeline > 1)
      for (const { running } of this.#connections) shared += Math.max(running - 1, 0);
    const wanted =
      this.#closing === null
        ? Math.max(waiting + shared, this.#shrinking ? 0 : min - this.#slots.size + opening)
        : waiting;
    const most = this.#failures > 0 ? 1 : Number.POSITIVE_INFINITY;
    let more = Math.min(wanted, most) - opening;
    while (more-- > 0 && this.#slots.size < max) this.#dial();
  }

  #dial(): void {
    const slot: Slot<Call, Reply> = { connection: null, stop: new AbortController(), stopTimer: undefined };
    this.#slots.add(slot);
    this.#opening++;
    let request: StreamSocket | undefined;
    const onOpen = (opened: StreamSocket): void => {
      request = opened;
      this.#byRequest.set(opened, slot);
      const { loginTimeout } = this.limits;
      slot.stopTimer = deadline(loginTimeout, () => {
        const message = `setup() did not end within loginTimeout, ${wholeMs(loginTimeout)}`;
        slot.stop.abort(new SocketError("ETIMEDOUT", message, { address: this.address }));
      });
    };
    const over = (error: unknown): void => {
      slot.stopTimer?.();
      if (request !== undefined) this.#byRequest.delete(request);
      this.#slots.delete(slot);
      const reason: unknown = slot.stop.signal.aborted ? slot.stop.signal.reason : error;
      if (slot.connection === null) {
        this.#opening--;
        this.#notOpened(reason);
      }
      this.#dispatch();
    };
    const run = async (): Promise<unknown> => {
      this.#connector ??= this.#connectorOf(this.#Handler);
      return await this.#connector.run({ signal: slot.stop.signal, onOpen });
    };
    run().then(() => over(null), over);
  }

  /** The `handle()` of a handler that has logged in. */
  #serve(handler: ClientHandler<Call, Reply>): Promise<void> {
    const slot = this.#byRequest.get(handler.request);
    if (slot === undefined) throw new SocketError("ERR_INTERNAL", "the pool has not dialled this connection");
    slot.stopTimer?.();
    this.#byRequest.delete(handler.request);
    const { maxAge } = this.limits;
    const due =
      maxAge === null ? Number.POSITIVE_INFINITY : performance.now() + maxAge * (1 - Math.random() / 10);
    const connection = new Connection<Call, Reply>(this.#owner, handler, this.address, due);
    slot.connection = connection;
    this.#opening--;
    this.#connections.push(connection);
    this.#opened++;
    connection.start();
    if (!connection.isOver) {
      this.#dispatch();
      if (connection.isIdle) this.#rest(connection);
    }
    return connection.over;
  }

  /** A dial or a login failed. */
  #notOpened(error: unknown): void {
    if (this.#closed) return;
    this.#failed++;
    this.#pause(error);
    if (isFault(error)) this.#failAll(error);
  }

  /** Delays the next dial. */
  #pause(error: unknown): void {
    this.#error = error;
    this.#failures++;
    const { retryDelay, maxRetryDelay } = this.limits;
    const longest = Math.min(retryDelay * 2 ** Math.min(this.#failures - 1, 30), maxRetryDelay);
    const delay = Math.ceil(longest * (1 - Math.random() / 2));
    this.#tell({ type: "dialFailed", server: this.name, error, delay });
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined;
      this.#dispatch();
    }, delay);
    const waits = this.#calls.size + this.#wanted.size > 0;
    if (!waits) (this.#retryTimer as { unref?(): void }).unref?.();
  }

  /** `setup()` failed through a fault in the program: further attempts would not help those that wait. */
  #failAll(error: unknown): void {
    const message = `the pool ${this.name} cannot log in: ${errorText(error)}`;
    const failed = new SocketError("ERR_HANDLER", message, { address: this.address, cause: error });
    this.#rejectAll(failed);
  }

  #rejectAll(error: unknown): void {
    for (const line of [this.#calls, this.#wanted] as Line<PendingCall<Call, Reply>>[]) {
      for (let one = line.shift(); one !== null; one = line.shift()) one.reject(error);
    }
  }

  #ended(connection: Connection<Call, Reply>, reason: Retirement | "lost", error: unknown): void {
    const at = this.#connections.indexOf(connection);
    if (at >= 0) this.#connections.splice(at, 1);
    const lease = this.#leases.get(connection);
    const { answered } = connection;
    this.#tell({
      type: "connectionEnded",
      server: this.name,
      reason,
      answered,
      ...(error != null && { error }),
    });
    // A connection lost before its first reply counts as a failed dial. Otherwise a server that accepts and hangs up would be dialled without pause.
    if (reason === "lost" && connection.answered === 0 && !this.#closed) this.#pause(error);
    if (lease !== undefined && reason === "lost") lease.end(lostLease(error));
    this.#dispatch();
  }

  // ---- Time ----

  /** When an idle connection next needs attention, by `performance.now()`. */
  #dueOf(connection: Connection<Call, Reply>): number {
    const { idleTimeout, pingInterval, min } = this.limits;
    let due = connection.due;
    if (idleTimeout !== null && this.#slots.size > min)
      due = Math.min(due, connection.idleSince + idleTimeout);
    const pings = pingInterval !== null && connection.handler.idle !== undefined;
    if (pings) due = Math.min(due, connection.pingedAt + pingInterval);
    return due;
  }

  #sweepFor(connection: Connection<Call, Reply>): void {
    const due = this.#dueOf(connection);
    if (due >= this.#sweepAt || this.#closed) return;
    this.#stopSweepTimer?.();
    this.#sweepAt = due;
    const left = Math.max(Math.ceil(due - performance.now()), 1);
    this.#stopSweepTimer = deadline(left, this.#sweep, { daemon: true }); // the connections that it closes or pings keep the process alive
  }

  readonly #sweep = (now: number): void => {
    this.#sweepAt = Number.POSITIVE_INFINITY;
    const { idleTimeout, pingInterval, min } = this.limits;
    for (const connection of [...this.#connections].reverse()) {
      if (now >= connection.due) connection.retire("age");
      else if (!connection.isIdle) continue;
      else if (
        idleTimeout !== null &&
        this.#connections.length + this.#leases.size > min &&
        now >= connection.idleSince + idleTimeout
      ) {
        connection.retire("idle");
      } else if (
        pingInterval !== null &&
        now >= connection.pingedAt + pingInterval &&
        connection.handler.idle !== undefined
      ) {
        connection.pingedAt = now;
        connection.ping();
      }
      if (connection.isIdle) this.#sweepFor(connection);
    }
  };

  // ---- The end ----

  async #close(): Promise<void> {
    const { drainTimeout } = this.limits;
    const quiet = new Promise<void>((resolve) => {
      this.#whenQuiet = resolve;
    });
    queueMicrotask(() => this.#lookQuiet()); // after #closing is set
    await within(quiet, drainTimeout);
    this.#closed = true;
    clearTimeout(this.#retryTimer);
    this.#stopSweepTimer?.();
    this.#stopWaitTimer?.();
    const reason = new SocketError("ECANCELED", `the pool ${this.name} was closed`);
    this.#rejectAll(reason);
    for (const lease of [...this.#leases.values()]) lease.end(reason);
    for (const slot of [...this.#slots]) {
      if (slot.connection === null) slot.stop.abort(reason);
      else if (slot.connection.running > 0) slot.connection.destroy(reason);
      else slot.connection.retire("closed");
    }
    while (this.#slots.size > 0) {
      await new Promise<void>((resolve) => {
        this.#whenQuiet = resolve;
      });
    }
  }

  /** Looks whether nothing waits or runs any more, and, if the pool is closed, whether all connections are gone. */
  #lookQuiet(): void {
    const quiet = this.#closed
      ? this.#slots.size === 0
      : this.#calls.size + this.#wanted.size + this.#leases.size === 0 &&
        [...this.#slots].every(({ connection }) => connection === null || connection.running === 0);
    if (!quiet) return;
    this.#whenQuiet?.();
  }

  #tell(event: SockletEvent): void {
    if (this.#onEvent !== undefined) callListener(this.#onEvent, event);
  }
}

/** Whether an error is a fault of the program. What a server reports may pass soon: "loading", "starting up". */
const isFault = (error: unknown): boolean =>
  error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError;

const lostLease = (cause: unknown): SocketError =>
  new SocketError("ENOTCONN", "the connection of this lease is lost; take another lease", { cause });
