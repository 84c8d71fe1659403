/**
 * Time-outs, of which most are never up: what waits for a peer has a time-out of minutes, and is there after a moment.
 * So an alarm stays set when what it was for is over, and looks again when it rings; and where the platform lets it,
 * alarms of one length share one timer. A timer each would be a tenth of what a connection holds.
 */

type Timer = ReturnType<typeof setTimeout>;

/** The alarms of one length that are set, in the order in which they ring, and the timer of the first. */
class Queue {
  first: Alarm | null = null;
  last: Alarm | null = null;
  timer: Timer | undefined;
  readonly set = setTimeout; // a test may put another clock in its place: then these alarms are not for its time
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

/** What can ring once, at a time that is set. Times are milliseconds of `performance.now()`, whole ones. */
export abstract class Alarm {
  #at = 0;
  #timer: Timer | undefined; // its own
  #queue: Queue | null = null; // or the one that it is in
  #next: Alarm | null = null;
  #previous: Alarm | null = null;

  /** It is time. It is not set any more. */
  protected abstract ring(): void;

  protected get isSet(): boolean {
    return this.#queue !== null || this.#timer !== undefined;
  }

  /** When it rings, where it is set. */
  protected get ringsAt(): number {
    return this.#at;
  }

  /** Rings at `at`, not before; `length` is its time-out. `shared`: by a timer that others share. */
  protected set(at: number, length: number, shared: boolean): void {
    this.unset();
    this.#at = at;
    if (shared) {
      Alarm.#enter(this, queueOf(length));
      return;
    }
    const left = Math.max(Math.ceil(at - performance.now()), 0);
    this.#timer = setTimeout(Alarm.#alone, left, this);
  }

  protected unset(): void {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    if (this.#queue !== null) Alarm.#leave(this, this.#queue);
  }

  static readonly #alone = (alarm: Alarm): void => {
    alarm.#timer = undefined;
    alarm.ring();
  };

  static readonly #due = (queue: Queue): void => {
    queue.timer = undefined;
    const now = performance.now();
    for (let first = queue.first; first !== null && first.#at <= now; first = queue.first) {
      Alarm.#leave(first, queue);
      first.ring();
    }
    Alarm.#wind(queue);
  };

  /** Sets the timer of the first, where there is one. */
  static #wind(queue: Queue): void {
    if (queue.first === null || queue.timer !== undefined) return;
    const left = Math.max(Math.ceil(queue.first.#at - performance.now()), 0);
    queue.timer = queue.set(Alarm.#due, left, queue);
  }

  static #enter(alarm: Alarm, queue: Queue): void {
    let before = queue.last; // most ring after all others
    while (before !== null && before.#at > alarm.#at) before = before.#previous;
    const after = before === null ? queue.first : before.#next;
    alarm.#queue = queue;
    alarm.#previous = before;
    alarm.#next = after;
    if (before !== null) before.#next = alarm;
    else {
      queue.first = alarm;
      clearTimeout(queue.timer); // it is for another, later
      queue.timer = undefined;
    }
    if (after !== null) after.#previous = alarm;
    else queue.last = alarm;
    Alarm.#wind(queue);
  }

  static #leave(alarm: Alarm, queue: Queue): void {
    const { first, last } = queue;
    if (alarm === first) queue.first = alarm.#next;
    else (alarm.#previous as Alarm).#next = alarm.#next;
    if (alarm === last) queue.last = alarm.#previous;
    else (alarm.#next as Alarm).#previous = alarm.#previous;
    alarm.#queue = alarm.#next = alarm.#previous = null;
    if (queue.first !== null) return; // a timer that is for one that has left finds the next
    clearTimeout(queue.timer);
    queue.timer = undefined;
  }
}
