/**
 * Where calls wait in a pool's object. Whatever the pool itself holds may have begun when the object is lost, as far as its
 * callers can know. So the pool is given no more than its connections can soon begin, and the rest waits here. A caller who
 * waits here begins the call when told that its turn has come. If the object is lost before that, nothing was begun, and
 * the caller asks elsewhere.
 */

import { deadline } from "../../core/bytes/alarm.ts";
import { SocketError } from "../../core/errors.ts";
import { wholeMs } from "../../core/options.ts";
import type { Pool } from "../../core/pool/pool.ts";
import { Line, Pending } from "../../core/pool/waiting.ts";

/**
 * How many calls are let through for each that can be under way. With 1, a connection would be idle from the moment it
 * becomes free until the next caller has heard of that and begun.
 */
const AHEAD = 2;

export class Gate {
  readonly #pool: Pool;
  readonly #maxWaiting: number;
  readonly #capacity: number; // calls that can be under way
  readonly #line = new Line<Pending<void>>();
  #through = 0; // calls that were let through, and have not ended
  #timed = false;

  constructor(pool: Pool, maxWaiting: number) {
    this.#pool = pool;
    this.#maxWaiting = maxWaiting;
    this.#capacity = pool.limits.max * pool.limits.pipeline;
  }

  /** Calls that wait here. */
  get waiting(): number {
    return this.#line.size;
  }

  /** Lets a call through, if it need not wait; else gives false. Throws `ERR_LIMIT` if too many wait. */
  enter(): boolean {
    const waiting = this.#line.size + Math.max(this.#through - this.#capacity, 0);
    if (this.#through >= this.#capacity && waiting >= this.#maxWaiting) {
      const message = `${waiting} calls wait for a connection of the pool ${this.#pool.name} already, in one of its objects; all of them may hold maxWaiting`;
      throw new SocketError("ERR_LIMIT", message);
    }
    if (this.#line.size > 0 || this.#through >= this.#capacity * AHEAD) return false;
    this.#through++;
    return true;
  }

  /** Waits in the line until the call is let through. Rejects with `ETIMEDOUT`, or the reason of `signal`. */
  wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const pending = new Pending<void>(resolve, reject, signal);
      pending.watch((reason) => {
        this.#line.remove(pending);
        pending.reject(reason);
      });
      pending.since = performance.now();
      this.#line.add(pending);
      if (!this.#timed) this.#wind(this.#pool.limits.waitTimeout);
    });
  }

  /** A call that was let through has ended, or is given up. */
  leave(): void {
    const next = this.#line.shift();
    if (next === null) this.#through--;
    else next.resolve();
  }

  /** Sets one timer for all: the first in the line is the first to be late. */
  #wind(ms: number): void {
    this.#timed = true;
    deadline(ms, this.#late);
  }

  readonly #late = (now: number): void => {
    this.#timed = false;
    const { waitTimeout } = this.#pool.limits;
    for (let { first } = this.#line; first !== null; first = this.#line.first) {
      const left = Math.ceil(first.since + waitTimeout - now);
      if (left > 0) {
        this.#wind(left);
        return;
      }
      this.#line.remove(first);
      first.reject(this.#noTurn());
    }
  };

  #noTurn(): SocketError {
    const { name, address, limits } = this.#pool;
    const { error, max } = this.#pool.info();
    const why =
      error === null ? `all ${max} of this object were in use` : `the last attempt failed: ${error}`;
    const message = `the pool ${name} had no connection to ${address} within ${wholeMs(limits.waitTimeout)}; ${why}`;
    return new SocketError("ETIMEDOUT", message, { address });
  }
}
