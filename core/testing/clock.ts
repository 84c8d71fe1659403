/**
 * Time and chance for tests: `VirtualClock`, on which five minutes take a few milliseconds, and random numbers that
 * are the same each time.
 */

import { checkTime } from "../options.ts";
import type { Scope } from "./scope.ts";

const { setTimeout: later } = globalThis; // taken now, so that a test's fake clock does not hold back what must really happen

/** One turn of the platform's timers: after what was already due, such as the end of a memory stream's turn. */
const turn = (): Promise<void> => new Promise((resolve) => later(resolve, 0));

const IDLE = 2; // turns in which nothing is planned: a write that leaves at the end of its turn needs one
let lastTimer = 2 ** 40; // of all clocks: the numbers of timers begin above all those of a platform

type Task = () => void;

/** A clock and how to wait: the real one, unless a test passes another. */
export interface Clock {
  /** Milliseconds since some moment. */
  now(): number;
  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void>;
  /** Runs `task` once, `ms` milliseconds later; returns a function that cancels it. Absent: tasks cannot be cancelled. */
  after?(ms: number, task: () => void): () => void;
}

/** The machine's clock. It uses the timers as they are at each call, so also a test runner's fake ones. */
export const realClock: Clock = {
  now: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  after: (ms, task) => {
    const timer = setTimeout(task, ms);
    return () => clearTimeout(timer);
  },
};

/** Runs `task` once, `ms` milliseconds later by `clock`; returns a function that cancels it. */
export const runAfter = (clock: Clock, ms: number, task: Task): Task => {
  if (clock.after !== undefined) return clock.after(ms, task);
  let cancelled = false;
  void clock.sleep(ms).then(() => {
    if (!cancelled) task();
  });
  return () => {
    cancelled = true;
  };
};

/** `clock.install()` for what belongs to `scope` alone: all else keeps the platform's timers. */
export let installFor: (clock: VirtualClock, scope: Scope | null) => void;

/**
 * A clock without waiting: its time stands still while anything is running, and when everything is idle it jumps to
 * the next moment for which something is planned.
 *
 *     const clock = new VirtualClock();
 *     const far = withFaults(client, { clock, incoming: { latency: 60_000 } });   // a minute away: answers in 3 ms
 *
 * `install()` replaces the platform's timers with it, so that the time-outs of streams and a handler's own
 * `setTimeout` use it, too:
 *
 *     using clock = new VirtualClock().install();
 *     await expect(client.recv()).rejects.toMatchObject({ code: "ETIMEDOUT" });   // the five minutes of a read
 *
 * Only in memory can a test know that everything is idle. With a kernel or another process between two ends, bytes are on
 * their way while nothing happens here: use the real clock there.
 */
export class VirtualClock implements Clock, Disposable {
  #now = 0;
  #planned = 0; // tasks so far; their numbers order tasks planned for the same moment
  readonly #tasks = new Map<number, { readonly at: number; readonly task: Task }>();
  #running = false;
  #uninstall: Task | null = null;

  /** Milliseconds since it was made. */
  now(): number {
    return this.#now;
  }

  /** How many tasks are planned. */
  get pending(): number {
    return this.#tasks.size;
  }

  /** Resolves `ms` milliseconds later. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }

  /** Runs `task` once, `ms` milliseconds later; returns a function that cancels it. */
  after(ms: number, task: Task): Task {
    checkTime("a time", ms, 0);
    const number = ++this.#planned;
    this.#tasks.set(number, { at: this.#now + ms, task });
    if (!this.#running) void this.#run();
    return () => void this.#tasks.delete(number);
  }

  /**
   * Replaces `setTimeout`, `setInterval`, `setImmediate`, the functions that clear them, and `performance.now()`, until it
   * is disposed of. (Not `Date`, nor `node:timers`.) Returns the clock. Throws `TypeError` if it is installed already.
   */
  install(): this {
    this.#install(null);
    return this;
  }

  static {
    installFor = (clock, scope) => clock.#install(scope);
  }

  #install(scope: Scope | null): void {
    if (this.#uninstall !== null) throw new TypeError("this clock is installed; dispose of it first");
    const timers = new Map<number, VirtualTimer>();
    const restoreTimers = replaceTimers(scope, {
      set: (name, callback, ms) => {
        const number = ++lastTimer;
        const timer = new VirtualTimer(number, (task) => this.after(ms, task), callback);
        timer.repeats = name === "setInterval";
        timers.set(number, timer);
        timer.onend = () => timers.delete(number);
        return timer;
      },
      clear: (timer) => timers.get(Number(timer))?.close() !== undefined,
    });
    const restoreNow = replace(performance, "now", (below) => () => {
      return scope?.isHere === false ? below.call(performance) : this.#now;
    });
    this.#uninstall = () => {
      restoreTimers();
      restoreNow();
    };
  }

  /** Restores the platform's timers, and drops planned tasks. */
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

  /** Runs the earliest task; of several for the same moment, the one planned first. */
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
        throw error; // uncaught, as in a platform's timer, and not thrown at the caller that plans here
      });
    }
  }
}

/** A timer of an installed clock: an object as Node's, which converts to a number, as on the Web. */
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

type TimerName = (typeof SETTERS)[number];

/** What replaces the platform's timers. */
interface TimerHooks {
  /** A timer is set; returns what its caller gets. `real` sets the platform's own timer, with this callback. */
  set(name: TimerName, callback: Task, ms: number, real: (callback: Task) => unknown): unknown;
  /** A timer is cleared; returns false if it is the platform's own. */
  clear(timer: unknown): boolean;
}

type Call = (...args: unknown[]) => unknown;

/** Makes what stands in for `below`. */
type Layer = (below: Call) => Call;

/** A function of the platform that is replaced now, by its layers: the last is on top. */
class Replaced {
  readonly #object: object;
  readonly #name: string;
  readonly #own: PropertyDescriptor | undefined;
  readonly #bottom: Call;
  readonly #layers = new Set<Layer>();
  /** What stands there now. */
  top: Call;

  constructor(object: object, name: string, bottom: Call) {
    this.#object = object;
    this.#name = name;
    this.#own = Object.getOwnPropertyDescriptor(object, name);
    this.#bottom = bottom;
    this.top = bottom;
  }

  add(layer: Layer): void {
    this.#layers.add(layer);
    this.#build();
  }

  /** Returns whether it was the last one, so that the platform's own stands there again. */
  remove(layer: Layer): boolean {
    this.#layers.delete(layer);
    if (this.#layers.size > 0) this.#build();
    else if (this.#own !== undefined) Object.defineProperty(this.#object, this.#name, this.#own);
    else Reflect.deleteProperty(this.#object, this.#name);
    return this.#layers.size === 0;
  }

  #build(): void {
    this.top = this.#bottom;
    for (const layer of this.#layers) this.top = layer(this.top);
    const property = { value: this.top, configurable: true, writable: true, enumerable: true };
    Object.defineProperty(this.#object, this.#name, property);
  }
}

const replaced = new Set<Replaced>();

/** Replaces a function of `object`; returns a function that ends that, in whichever order several end. */
const replace = (object: object, name: string, layer: Layer): Task => {
  const now = Reflect.get(object, name) as Call;
  const here = [...replaced].find(({ top }) => top === now) ?? new Replaced(object, name, now);
  replaced.add(here);
  here.add(layer);
  return () => {
    if (here.remove(layer)) replaced.delete(here);
  };
};

/** Replaces the platform's timers with `hooks`, for what belongs to `scope` (`null`: for all); returns a function that ends that. */
export const replaceTimers = (scope: Scope | null, hooks: TimerHooks): Task => {
  const restores: Task[] = [];
  const put = (name: string, layer: Layer): void => {
    if (Reflect.get(globalThis, name) === undefined) return; // not every platform has setImmediate
    const whole: Layer = (below) => {
      const ours = layer((...args) => below.apply(globalThis, args));
      // Node's setTimeout has its promise form as a property, which stays the platform's.
      for (const key of Object.getOwnPropertySymbols(below)) {
        Object.defineProperty(ours, key, Object.getOwnPropertyDescriptor(below, key) as PropertyDescriptor);
      }
      return ours;
    };
    restores.push(replace(globalThis, name, whole));
  };
  for (const name of SETTERS) {
    put(name, (below) => (...given) => {
      if (scope?.isHere === false) return below(...given);
      const [callback, ...rest] = given as [(...args: unknown[]) => unknown, ...unknown[]];
      const [ms, args] = name === "setImmediate" ? [0, rest] : [rest[0], rest.slice(1)];
      const time = Number(ms) >= 1 ? Math.min(Math.trunc(Number(ms)), 2 ** 31 - 1) : 0;
      const real = (task: Task): unknown => (name === "setImmediate" ? below(task) : below(task, ms));
      return hooks.set(name, () => callback(...args), time, real);
    });
  }
  for (const name of CLEARERS) {
    put(name, (below) => (timer) => void (hooks.clear(timer) || below(timer)));
  }
  return () => {
    for (const restore of restores) restore();
  };
};

// ---- Chance ----

/** Numbers from 0 up to but not including 1, the same for the same seed. */
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
