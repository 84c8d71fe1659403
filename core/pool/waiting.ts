/** Calls and leases, from request to answer, and the lines in which they wait. */

import type { Lease } from "../handlers/client.ts";

/** A member of a line. */
class Waiting {
  next: Waiting | null = null;
  previous: Waiting | null = null;
  /** The line in which it waits, or `null`. */
  line: object | null = null;
}

/** A request that waits for its answer. It settles once. */
export class Pending<Answer> extends Waiting {
  /** When it began to wait or to run, by `performance.now()`; rounded, since V8 stores a small integer without allocating. */
  since = 0;
  /** Its number among all that wait: lower came first. */
  turn = 0;
  settled = false;
  readonly #resolve: (answer: Answer) => void;
  readonly #reject: (error: unknown) => void;
  readonly signal: AbortSignal | undefined;
  #aborted: (() => void) | undefined;

  constructor(
    resolve: (answer: Answer) => void,
    reject: (error: unknown) => void,
    signal?: AbortSignal | undefined,
  ) {
    super();
    this.#resolve = resolve;
    this.#reject = reject;
    this.signal = signal;
  }

  /** Calls `aborted` once when its signal aborts before it is settled. */
  watch(aborted: (reason: unknown) => void): void {
    const { signal } = this;
    if (signal === undefined) return;
    this.#aborted = () => aborted(signal.reason);
    signal.addEventListener("abort", this.#aborted, { once: true });
  }

  resolve(answer: Answer): void {
    if (this.#settle()) this.#resolve(answer);
  }

  reject(error: unknown): void {
    if (this.#settle()) this.#reject(error);
  }

  #settle(): boolean {
    if (this.settled) return false;
    this.settled = true;
    if (this.#aborted !== undefined) this.signal?.removeEventListener("abort", this.#aborted);
    return true;
  }
}

/** A call. */
export class PendingCall<Call, Reply> extends Pending<Reply> {
  readonly call: Call;
  readonly repeatable: boolean;
  /** How many times it has begun. */
  attempts = 0;
  /** The connection on which it has begun. */
  connection: { giveUp(pending: PendingCall<Call, Reply>, reason: unknown): void } | null = null;

  constructor(
    call: Call,
    repeatable: boolean,
    resolve: (reply: Reply) => void,
    reject: (error: unknown) => void,
    signal?: AbortSignal | undefined,
  ) {
    super(resolve, reject, signal);
    this.call = call;
    this.repeatable = repeatable;
  }
}

/** A request for a lease. */
export class PendingLease<Call, Reply> extends Pending<Lease<Call, Reply>> {}

/** A queue from whose middle a member can leave in constant time, since callers give up. */
export class Line<One extends Waiting> {
  size = 0;
  first: One | null = null;
  #last: Waiting | null = null;

  add(one: One): void {
    one.line = this;
    one.previous = this.#last;
    one.next = null;
    if (this.#last === null) this.first = one;
    else this.#last.next = one;
    this.#last = one;
    this.size++;
  }

  remove(one: One): void {
    if (one.line !== this) return;
    if (one.previous === null) this.first = one.next as One | null;
    else one.previous.next = one.next;
    if (one.next === null) this.#last = one.previous;
    else one.next.previous = one.previous;
    one.next = one.previous = one.line = null;
    this.size--;
  }

  /** Iterates in order. Removing a member meanwhile may end the iteration. */
  *[Symbol.iterator](): IterableIterator<One> {
    for (let one = this.first; one !== null; one = one.next as One | null) yield one;
  }

  shift(): One | null {
    const { first } = this;
    if (first === null) return null;
    const next = first.next;
    if (next === null) this.#last = null;
    else next.previous = null;
    this.first = next as One | null;
    first.next = first.line = null;
    this.size--;
    return first;
  }
}
