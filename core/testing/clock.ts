/**
 * Time and chance as a test wants them: `VirtualClock`, by which five minutes take a few milliseconds, and chance that
 * comes out the same each time.
 */

import { checkTime } from "../options.ts";

const { setTimeout: later } = globalThis; // taken now: what must really happen is held back by no test's fake clock

/** One turn of the platform's timers: behind what they already had to do, such as a memory stream's end of turn. */
const turn = (): Promise<void> => new Promise((resolve) => later(resolve, 0));

const IDLE = 2; // turns in which nobody asks for time: a write that leaves at the end of its turn needs one
const FIRST_TIMER = 2 ** 40; // the numbers of timers begin above all that a platform gives

type Task = () => void;

/** What time it is, and how to wait: real, unless a test gives another. */
export interface Clock {
  /** Milliseconds since some moment. */
  now(): number;
  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void>;
  /** Runs `task` once, `ms` milliseconds later; gives what takes that back. Absent: what is planned stays planned. */
  after?(ms: number, task: () => void): () => void;
}

/** The clock of the machine, by the timers as they are when it is asked: a test runner's fake ones are obeyed. */
export const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  after: (ms, task) => {
    const timer = setTimeout(task, ms);
    return () => clearTimeout(timer);
  },
};

/**
 * A clock that nobody waits for: its time stands still while anything is being done, and jumps, when all is idle, to
 * the next moment for which something was planned.
 *
 *     const clock = new VirtualClock();
 *     const far = withFaults(client, { clock, incoming: { latency: 60_000 } });   // a minute away: answers in 3 ms
 *
 * `install()` puts it in the place of the platform's timers, so that the time-outs of streams and a handler's own
 * `setTimeout` go by it, too:
 *
 *     using clock = new VirtualClock().install();
 *     await expect(client.recv()).rejects.toMatchObject({ code: "ETIMEDOUT" });   // the five minutes of a read
 *
 * Whether all is idle can be known in memory alone. With a kernel or another process between two ends, bytes are on
 * their way while nothing happens here: take the real clock there.
 */
export class VirtualClock implements Clock, Disposable {
  #now = 0;
  #planned = 0; // tasks so far: their numbers, by which those of one moment are ordered
  readonly #tasks = new Map<number, { readonly at: number; readonly task: Task }>();
  #running = false;
  #uninstall: Task | null = null;

  /** Milliseconds since it was made. */
  now(): number {
    return this.#now;
  }

  /** How many tasks wait for their time. */
  get pending(): number {
    return this.#tasks.size;
  }

  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  /** Runs `task` once, `ms` milliseconds later; gives what takes that back. */
  after(ms: number, task: Task): Task {
    checkTime("a time", ms, 0);
    const number = ++this.#planned;
    this.#tasks.set(number, { at: this.#now + ms, task });
    if (!this.#running) void this.#run();
    return () => void this.#tasks.delete(number);
  }

  /**
   * Takes the place of `setTimeout`, `setInterval`, `setImmediate`, what clears them, and `performance.now()`, until it
   * is disposed of. (Not of `Date`, nor of `node:timers`.) Gives the clock. Throws `TypeError` where it is installed.
   */
  install(): this {
    if (this.#uninstall !== null) throw new TypeError("this clock is installed; dispose of it first");
    const timers = new Map<number, VirtualTimer>();
    let number = FIRST_TIMER;
    const restoreTimers = replaceTimers({
      set: (name, callback, ms) => {
        const timer = new VirtualTimer(++number, (task) => this.after(ms, task), callback);
        timer.repeats = name === "setInterval";
        timers.set(number, timer);
        timer.onend = () => timers.delete(Number(timer));
        return timer;
      },
      clear: (timer) => timers.get(Number(timer))?.close() !== undefined,
    });
    const restoreNow = replace(performance, "now", () => this.#now);
    this.#uninstall = () => {
      restoreTimers();
      restoreNow();
    };
    return this;
  }

  /** Gives the platform's timers back, and drops what waits. */
  [Symbol.dispose](): void {
    this.#uninstall?.();
    this.#uninstall = null;
    this.#tasks.clear();
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#tasks.size > 0) {
      for (let idle = 0; idle < IDLE; ) {
        const planned = this.#planned;
        await turn();
        idle = planned === this.#planned ? idle + 1 : 0;
      }
      this.#next();
    }
    this.#running = false;
  }

  /** Does what comes first; of one moment, what was planned first. */
  #next(): void {
    let first = 0;
    let at = Number.POSITIVE_INFINITY;
    for (const [number, task] of this.#tasks) {
      if (task.at >= at) continue; // a map keeps the order of its numbers
      first = number;
      at = task.at;
    }
    const next = this.#tasks.get(first);
    if (next === undefined) return;
    this.#tasks.delete(first);
    this.#now = at;
    try {
      next.task();
    } catch (error) {
      queueMicrotask(() => {
        throw error; // as of a platform's timer: nobody's who plans here, and seen by all
      });
    }
  }
}

/** What an installed clock gives for a timer: an object as Node's, and a number, as on the Web, where one is wanted. */
class VirtualTimer {
  repeats = false;
  onend: Task | null = null;
  readonly #number: number;
  readonly #plan: (task: Task) => Task;
  readonly #callback: Task;
  #cancel: Task;

  constructor(number: number, plan: (task: Task) => Task, callback: Task) {
    this.#number = number;
    this.#plan = plan;
    this.#callback = callback;
    this.#cancel = plan(this.#fire);
  }

  readonly #fire = (): void => {
    if (this.repeats) this.#cancel = this.#plan(this.#fire);
    else this.onend?.();
    this.#callback();
  };

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  hasRef(): boolean {
    return true;
  }

  refresh(): this {
    this.#cancel();
    this.#cancel = this.#plan(this.#fire);
    return this;
  }

  close(): this {
    this.#cancel();
    this.onend?.();
    return this;
  }

  [Symbol.toPrimitive](): number {
    return this.#number;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

// ---- The platform's timers ----

const SETTERS = ["setTimeout", "setInterval", "setImmediate"] as const;
const CLEARERS = ["clearTimeout", "clearInterval", "clearImmediate"] as const;

export type TimerName = (typeof SETTERS)[number];

/** What is done in the place of the platform's timers. */
export interface TimerHooks {
  /** A timer is set; gives what its caller gets. `real` sets the platform's own one, with this callback. */
  set(name: TimerName, callback: Task, ms: number, real: (callback: Task) => unknown): unknown;
  /** A timer is cleared; gives false where it is the platform's own. */
  clear(timer: unknown): boolean;
}

/** `object` with another value of that name; gives what restores its own. */
const replace = (object: object, name: string, value: unknown): Task => {
  const own = Object.getOwnPropertyDescriptor(object, name);
  Object.defineProperty(object, name, { value, configurable: true, writable: true, enumerable: true });
  return () => {
    if (own === undefined) Reflect.deleteProperty(object, name);
    else Object.defineProperty(object, name, own);
  };
};

/** Puts `hooks` in the place of the platform's timers; gives what restores those. */
export const replaceTimers = (hooks: TimerHooks): Task => {
  const platform = globalThis as unknown as Record<string, ((...args: unknown[]) => unknown) | undefined>;
  const restores: Task[] = [];
  const put = (name: string, make: (own: (...args: unknown[]) => unknown) => unknown): void => {
    const own = platform[name];
    if (own === undefined) return; // setImmediate is not everywhere
    const ours = make(own.bind(globalThis)) as object;
    // Node's setTimeout has its promise form as a property: who asks for that gets the platform's.
    for (const key of Object.getOwnPropertySymbols(own)) {
      Object.defineProperty(ours, key, Object.getOwnPropertyDescriptor(own, key) as PropertyDescriptor);
    }
    restores.push(replace(globalThis, name, ours));
  };
  for (const name of SETTERS) {
    put(name, (own) => (callback: (...args: unknown[]) => void, ...rest: unknown[]) => {
      const [ms, args] = name === "setImmediate" ? [0, rest] : [rest[0], rest.slice(1)];
      const time = Number(ms) >= 1 ? Math.min(Math.trunc(Number(ms)), 2 ** 31 - 1) : 0;
      const real = (task: Task): unknown => (name === "setImmediate" ? own(task) : own(task, ms));
      return hooks.set(name, () => callback(...args), time, real);
    });
  }
  for (const name of CLEARERS) {
    put(name, (own) => (timer: unknown) => void (hooks.clear(timer) || own(timer)));
  }
  return () => {
    for (const restore of restores) restore();
  };
};

// ---- Chance ----

/** Numbers from 0 up to, and without, 1, the same ones for the same seed. */
export type Chance = () => number;

/** The numbers of `seed`: Marsaglia's xorshift of 32 bits (2003), behind a multiplication that keeps small seeds apart. */
export const chanceOf = (seed: number): Chance => {
  let state = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) ^ 0x6d2b_79f5 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
};
