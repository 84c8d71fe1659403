/**
 * Deadlines. One that has passed says nothing yet of the peer: a process that stood still, because a handler computed or the
 * machine slept, finds at once that time is up and that the peer sent what was awaited. So a deadline takes effect only after
 * the platform has polled, and what arrived was read. What becomes due meanwhile is not late yet: it waits for a poll of its own.
 */

type Timer = ReturnType<typeof setTimeout>;
type Later = (task: () => void) => unknown;

/** The timers of a platform, or what a test has put in their place. */
interface Timers {
  readonly set: typeof setTimeout;
  readonly clear: typeof clearTimeout;
  /** Calls a task once the platform has polled, and has told what it found. */
  readonly afterPoll: Later;
}

const platform = globalThis as typeof globalThis & { readonly setImmediate?: Later; readonly Deno?: object };
const { setTimeout: own, setImmediate: immediate } = platform;

const OWN: Timers = {
  set: own,
  clear: clearTimeout,
  // Node and Bun call immediates right after a poll. The poll may itself have set some, to tell what it found: they come before the second.
  // Deno does not, and workerd may have none: there, a poll most often comes between two timers.
  afterPoll:
    immediate === undefined || platform.Deno !== undefined
      ? (task) => own(() => own(task, 0), 0)
      : (task) => immediate(() => immediate(task)),
};

/** The timers as they are now. A test's clock has nothing to poll for, and its user advances it by the deadline, not by more. */
export const timersNow = (): Timers =>
  setTimeout === own ? OWN : { set: setTimeout, clear: clearTimeout, afterPoll: (task) => task() };

/**
 * Calls `late` after `ms`, when what has arrived by then was read. `now` is when the time was up: a timer for several deadlines must
 * not take one that passed later for late. Returns a function that clears it. `daemon`: it does not keep the process running.
 */
export const deadline = (
  ms: number,
  late: (now: number) => void,
  { daemon = false, timers = timersNow() }: { readonly daemon?: boolean; readonly timers?: Timers } = {},
): (() => void) => {
  const { set, clear, afterPoll } = timers; // workerd's are not methods
  let cleared = false;
  const due = (): void => {
    const now = performance.now();
    afterPoll(() => {
      if (!cleared) late(now);
    });
  };
  const timer = set(due, ms);
  if (daemon) (timer as { unref?(): void }).unref?.();
  return () => {
    cleared = true;
    clear(timer);
  };
};

/** What `within()` resolves to after its time. */
export const LATE = Symbol("late");

/** What `promise` resolves to, or `LATE` if that takes longer than `ms`. */
export const within = <T>(promise: PromiseLike<T>, ms: number, timers?: Timers): Promise<T | typeof LATE> => {
  const late = Promise.withResolvers<typeof LATE>();
  return Promise.race([promise, late.promise]).finally(deadline(ms, () => late.resolve(LATE), { timers }));
};

/** Alarms that share a timer, in the order in which they ring: all set alarms of one length, or a single one. */
class Queue {
  first: Alarm | null = null;
  last: Alarm | null = null;
  timer: Timer | undefined; // of the first
  readonly timers = timersNow(); // a test may replace the clock: then these alarms do not belong to its time
}

const queues = new Map<number, Queue>(); // by length in ms

const queueOf = (length: number): Queue => {
  let queue = queues.get(length);
  if (queue?.timers.set !== setTimeout) {
    queue = new Queue();
    queues.set(length, queue);
  }
  return queue;
};

/**
 * An alarm that rings once, at a set time: whole milliseconds of `performance.now()`. Most never ring: a wait for a peer has a time-out
 * of minutes, and ends after a moment. So an alarm stays set after its wait is over, and checks again when it rings. If the
 * platform allows it, alarms of one length share one timer: a timer for each would be a tenth of a connection's memory.
 */
export abstract class Alarm {
  #at = 0;
  #queue: Queue | null = null; // which it is in
  #next: Alarm | null = null;
  #previous: Alarm | null = null;

  /** The time has come. The alarm is no longer set. `now`: as for `deadline()`. */
  protected abstract ring(now: number): void;

  protected get isSet(): boolean {
    return this.#queue !== null;
  }

  /** When it rings, if it is set. */
  protected get ringsAt(): number {
    return this.#at;
  }

  /** Rings at `at`, not before; `length` is its time-out. `shared`: with a timer that others share. */
  protected set(at: number, length: number, shared: boolean): void {
    this.unset();
    this.#at = at;
    const queue = shared ? queueOf(length) : new Queue();
    let before = queue.last; // most ring after all others
    while (before !== null && before.#at > at) before = before.#previous;
    const after = before === null ? queue.first : before.#next;
    this.#queue = queue;
    this.#previous = before;
    this.#next = after;
    if (after === null) queue.last = this;
    else after.#previous = this;
    if (before !== null) {
      before.#next = this;
      return;
    }
    queue.first = this;
    Alarm.#wind(queue);
  }

  protected unset(): void {
    const queue = this.#queue;
    if (queue === null) return;
    if (this.#previous === null) queue.first = this.#next;
    else this.#previous.#next = this.#next;
    if (this.#next === null) queue.last = this.#previous;
    else this.#next.#previous = this.#previous;
    this.#queue = this.#next = this.#previous = null;
    if (queue.first === null) clearTimeout(queue.timer); // otherwise the timer of an alarm that has left finds the next
  }

  /** Sets the timer for the first alarm, and clears the timer that was for another. */
  static #wind(queue: Queue): void {
    const { set } = queue.timers;
    const { first } = queue;
    clearTimeout(queue.timer);
    if (first !== null)
      queue.timer = set(Alarm.#due, Math.max(Math.ceil(first.#at - performance.now()), 0), queue);
  }

  static readonly #due = (queue: Queue): void => {
    const now = performance.now();
    queue.timers.afterPoll(() => Alarm.#ring(queue, now));
  };

  static #ring(queue: Queue, now: number): void {
    for (let first = queue.first; first !== null && first.#at <= now; first = queue.first) {
      first.unset();
      first.ring(now);
    }
    Alarm.#wind(queue);
  }
}
