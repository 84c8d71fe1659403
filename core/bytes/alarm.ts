/**
 * Time-outs, most of which never expire: a wait for a peer has a time-out of minutes, and ends after a moment.
 * So an alarm stays set after its wait is over, and checks again when it rings. If the platform allows it,
 * alarms of one length share one timer. A timer for each would be a tenth of a connection's memory.
 */

type Timer = ReturnType<typeof setTimeout>;

/** Alarms that share a timer, in the order in which they ring: all set alarms of one length, or a single one. */
class Queue {
  first: Alarm | null = null;
  last: Alarm | null = null;
  timer: Timer | undefined; // of the first
  readonly set = setTimeout; // a test may replace the clock: then these alarms do not belong to its time
}

const queues = new Map<number, Queue>(); // by length in ms

const queueOf = (length: number): Queue => {
  let queue = queues.get(length);
  if (queue?.set !== setTimeout) {
    queue = new Queue();
    queues.set(length, queue);
  }
  return queue;
};

/** An alarm that rings once, at a set time. Times are whole milliseconds of `performance.now()`. */
export abstract class Alarm {
  #at = 0;
  #queue: Queue | null = null; // which it is in
  #next: Alarm | null = null;
  #previous: Alarm | null = null;

  /** The time has come. The alarm is no longer set. */
  protected abstract ring(): void;

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
    const { first, set } = queue; // workerd's setTimeout is not a method
    clearTimeout(queue.timer);
    if (first !== null)
      queue.timer = set(Alarm.#due, Math.max(Math.ceil(first.#at - performance.now()), 0), queue);
  }

  static readonly #due = (queue: Queue): void => {
    const now = performance.now();
    for (let first = queue.first; first !== null && first.#at <= now; first = queue.first) {
      first.unset();
      first.ring();
    }
    Alarm.#wind(queue);
  };
}
