/** The queue of a server: the requests that wait for their turn, and the callers that wait for a request. */

import { deadline } from "../bytes/alarm.ts";
import type { Address } from "../net/address.ts";

/** A request that has arrived, with its client's address. */
export type Arrival<Request> = [request: Request, clientAddress: Address | null];

/** First come, first served. While the queue is held, no waiter is given a request. */
export class Arrivals<Request> {
  readonly #queue: Arrival<Request>[] = [];
  readonly #waiters: ((arrived: boolean) => void)[] = [];
  #held = false;

  /** How many requests wait. */
  get length(): number {
    return this.#queue.length;
  }

  /** Whether no request waits, and no caller waits for one. */
  get isIdle(): boolean {
    return this.#queue.length === 0 && this.#waiters.length === 0;
  }

  /** The next request, which stays in the queue. */
  get first(): Arrival<Request> | undefined {
    return this.#queue[0];
  }

  /** Adds a request. Returns true if a caller waited for one; that caller takes it once the current task is done. */
  push(request: Request, clientAddress: Address | null): boolean {
    this.#queue.push([request, clientAddress]);
    const told = this.#held ? undefined : this.#waiters.shift();
    told?.(true);
    return told !== undefined;
  }

  /** Takes the first request. */
  shift(): Arrival<Request> | undefined {
    return this.#queue.shift();
  }

  /** Takes the last request, for which there is no room. */
  pop(): void {
    this.#queue.pop();
  }

  /** Resolves to true when a request waits, to false when none came within `timeout` ms, or when the queue was closed. */
  async wait(timeout: number | null): Promise<boolean> {
    if (this.#queue.length > 0 && !this.#held) return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#waiters.push(resolve);
    const late = (): void => {
      this.#waiters.splice(this.#waiters.indexOf(resolve), 1);
      resolve(false);
    };
    return timeout === null ? promise : promise.finally(deadline(timeout, late));
  }

  /** Holds the requests that arrive, or lets them go on. */
  hold(held: boolean): void {
    this.#held = held;
    if (!held) for (const told of this.#waiters.splice(0, this.#queue.length)) told(true);
  }

  /** No more requests will arrive: empties the queue, returns what it held, and releases its waiters. */
  close(): Arrival<Request>[] {
    const left = this.#queue.splice(0);
    for (const told of this.#waiters.splice(0)) told(false);
    return left;
  }
}
