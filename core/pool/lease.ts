/** A lease: exclusive use of one connection of a pool. */

import { deadline } from "../bytes/alarm.ts";
import { SocketError } from "../errors.ts";
import { CALL_NAMES, type Lease, type PoolCallOptions } from "../handlers/client.ts";
import { checkOptions, wholeMs } from "../options.ts";
import type { Connection } from "./connection.ts";
import { Line, PendingCall } from "./waiting.ts";

const { repeatable: _, ...LEASE_CALL_NAMES } = CALL_NAMES;

export class ConnectionLease<Call, Reply> implements Lease<Call, Reply> {
  readonly #connection: Connection<Call, Reply>;
  readonly #waiting = new Line<PendingCall<Call, Reply>>(); // for their turn on it
  readonly #over: () => void;
  readonly #signal: AbortSignal | undefined;
  readonly #aborted = (): void => this.end(this.#signal?.reason);
  #stopTimer: (() => void) | undefined;
  #released: Promise<void> | null = null;
  #why: unknown = null; // why the lease ended, if its holder did not end it

  /** `over` is called once, when the lease no longer has the connection. */
  constructor(
    connection: Connection<Call, Reply>,
    timeout: number | null,
    signal: AbortSignal | undefined,
    over: () => void,
  ) {
    this.#connection = connection;
    this.#over = over;
    this.#signal = signal;
    connection.leased = true;
    signal?.addEventListener("abort", this.#aborted, { once: true });
    if (timeout === null) return;
    const late = (): void => {
      this.end(new SocketError("ETIMEDOUT", `the lease was not given back within ${wholeMs(timeout)}`));
    };
    this.#stopTimer = deadline(timeout, late, { daemon: true });
  }

  call(call: Call, options: Pick<PoolCallOptions, "signal"> = {}): Promise<Reply> {
    checkOptions("a call of a lease", options, LEASE_CALL_NAMES);
    return new Promise<Reply>((resolve, reject) => {
      const { signal } = options;
      signal?.throwIfAborted();
      if (this.#why !== null) throw this.#why;
      if (this.#released !== null) throw new SocketError("EBADF", "the lease was given back");
      if (this.#connection.isOver) {
        throw new SocketError("ENOTCONN", "the connection of this lease is gone; take another lease");
      }
      const pending = new PendingCall<Call, Reply>(call, false, resolve, reject, signal);
      pending.watch((reason) => {
        this.#waiting.remove(pending);
        if (pending.connection === null) pending.reject(reason);
        else pending.connection.giveUp(pending, reason);
      });
      this.#waiting.add(pending);
      this.go();
    });
  }

  /** Begins the waiting calls that may begin. */
  go(): void {
    while (this.#waiting.size > 0 && this.#connection.isOpen) {
      this.#connection.begin(this.#waiting.shift() as PendingCall<Call, Reply>);
    }
  }

  /** The connection is gone, or the holder's time is up. */
  end(why: unknown): void {
    if (this.#released !== null) return;
    this.#why = why;
    this.#released = Promise.resolve();
    this.#isBack();
    for (let one = this.#waiting.shift(); one !== null; one = this.#waiting.shift()) one.reject(why);
    this.#connection.settle(why);
    this.#connection.retire("lease");
    this.#over();
  }

  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }

  /** Stops its timer and its watch on the signal. */
  #isBack(): void {
    this.#stopTimer?.();
    this.#signal?.removeEventListener("abort", this.#aborted);
  }

  async #release(): Promise<void> {
    this.#isBack();
    const connection = this.#connection;
    const back = new SocketError("ECANCELED", "the lease was given back before this call had begun");
    const whole = this.#waiting.size === 0 && connection.running === 0;
    for (let one = this.#waiting.shift(); one !== null; one = this.#waiting.shift()) one.reject(back);
    const { handler } = connection;
    if (!whole)
      connection.cut("lease", new SocketError("ECANCELED", "a lease was given back with calls under way"));
    else if (handler.inTransaction) {
      connection.cut("lease", new SocketError("ECANCELED", "a lease was given back in a transaction"));
    } else if (handler.reset === undefined) connection.retire("lease");
    else if (!connection.isOver) await connection.reset();
    this.#over();
  }
}
