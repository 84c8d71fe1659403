/** Calls and leases, from the moment that somebody asks to the moment that he is answered; and the lines in which they wait. */

import type { Lease } from "../handlers/client.ts";

/** What stands in a line. */
class Waiting {
  next: Waiting | null = null;
  previous: Waiting | null = null;
  /** The line in which it waits; `null` where it does not. */
  line: object | null = null;
}

/** One who waits for an answer; it settles once. */
export class Pending<Answer> extends Waiting {
  /** Since when it waits, or is under way, by `performance.now()`: a whole number, which takes no memory of its own. */
  since = 0;
  /** Its number among all that wait: the lower came before. */
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
  /** How often it has begun. */
  attempts = 0;
  /** Where it has begun. */
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

/** Who wants a lease. */
export class PendingLease<Call, Reply> extends Pending<Lease<Call, Reply>> {}

/** A line that is left from anywhere as quickly as from its front: callers give up. */
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

  /** In their order; a call that is removed meanwhile may end it. */
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
