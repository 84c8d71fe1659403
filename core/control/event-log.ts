/** `EventLog`: the last events of a session, or of an app's servers, and their followers. */

import { SESSION_LIMITS } from "./plane.ts";

/** Events, bounded by count and bytes, and their followers. */
export class EventLog<Event extends { readonly id: number }> {
  readonly #events: Event[];
  readonly #sizeOf: (event: Event) => number;
  readonly #sizes: number[];
  #size: number;
  #last: number;
  #shown: number; // events after this one are not visible yet
  #ended = false;
  readonly #waiting = new Set<() => void>(); // followers that have seen every event: the next event or the end wakes them

  /** `sizeOf` returns the bytes of an event; the sum over all events is bounded. */
  constructor(sizeOf: (event: Event) => number, events: readonly Event[] = []) {
    this.#events = [...events];
    this.#sizeOf = sizeOf;
    this.#sizes = this.#events.map(sizeOf);
    this.#size = this.#sizes.reduce((sum, size) => sum + size, 0);
    this.#last = this.#events.at(-1)?.id ?? 0;
    this.#shown = this.#last;
  }

  /** The id of the newest event; 0 before the first. */
  get last(): number {
    return this.#last;
  }

  /** The events that are not shown yet. */
  get hidden(): readonly Event[] {
    return this.#events.slice(Math.max(0, this.#shown + 1 - this.oldest));
  }

  /** The id of the oldest event that is kept. */
  get oldest(): number {
    return this.#events[0]?.id ?? this.#last + 1;
  }

  /** The events that are kept now. */
  get kept(): readonly Event[] {
    return [...this.#events];
  }

  /** Keeps the event that `make` returns for the next id; without `shown`, followers see it only after `show()`. */
  add(make: (id: number) => Event, shown = true): Event {
    const event = make(++this.#last);
    const size = this.#sizeOf(event);
    this.#events.push(event);
    this.#sizes.push(size);
    this.#size += size;
    while (this.#events.length > SESSION_LIMITS.events || this.#size > SESSION_LIMITS.logSize) {
      this.#events.shift();
      this.#size -= this.#sizes.shift() as number;
    }
    if (shown) this.show(event.id);
    return event;
  }

  /** Shows the events up to this id. */
  show(id: number): void {
    this.#shown = id;
    this.#wake();
  }

  /** Drops the events that are not shown, as if they had never happened. */
  drop(): void {
    while ((this.#events.at(-1)?.id ?? 0) > this.#shown) {
      this.#events.pop();
      this.#size -= this.#sizes.pop() as number;
    }
    this.#last = this.#shown;
  }

  /** No more events will come. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *follow(after: number, signal?: AbortSignal): AsyncGenerator<Event, void, undefined> {
    // Not a race of promises: a promise that stays pending keeps everything that was ever raced against it.
    let wake: () => void = () => {};
    const leave = (): void => wake();
    signal?.addEventListener("abort", leave, { once: true });
    try {
      for (let last = after; !signal?.aborted; ) {
        // Ids have no gaps within the log, so the position of the next one is known.
        const next = this.#events[Math.max(0, last + 1 - this.oldest)];
        if (next !== undefined && next.id <= this.#shown) {
          last = next.id;
          yield next;
        } else if (this.#ended) {
          return;
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
            this.#waiting.add(resolve);
          });
          this.#waiting.delete(wake);
        }
      }
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }
}
