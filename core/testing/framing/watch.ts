/**
 * What a handler leaves behind, as watched while a check runs: timers of the platform, and unhandled rejections. What else the
 * process does meanwhile is not the handler's: its timers are left alone.
 */

import { replaceTimers } from "../clock.ts";
import { Scope } from "../scope.ts";

export const TURNS = 3; // turns without progress, after which a handler that waits for nothing else has nothing to do

// Taken now, so that a test's fake clock does not stop anything here.
const { setTimeout: later, clearTimeout: forget } = globalThis;
export const now = performance.now.bind(performance);
/** A turn of the platform's timers, after which it has reported every unhandled rejection: 1.1 ms in Node, 1.4 in workerd. */
export const pause = (): Promise<void> => new Promise((resolve) => void later(resolve, 1));

/** What is left when all should be over; meaningless if it was not. */
export interface Leaks {
  /** Reads that began when the handler had ended. */
  readonly reads: number;
  readonly writes: readonly Uint8Array[];
  readonly timers: readonly Timer[];
  readonly rejected: readonly unknown[];
  readonly thrown: readonly unknown[];
}

interface Timer {
  readonly name: string;
  readonly ms: number;
  /** When it was set, by `now()`. */
  readonly since: number;
  /** Where it was set, if `asks` is set. */
  readonly where: string;
}

/** Watches the platform's timers, and unhandled rejections, while a check runs. */
export class Watch {
  /** Whether to find out where timers are set. */
  asks = false;
  readonly #timers = new Map<unknown, Timer>();
  readonly #rejected: unknown[] = [];
  readonly #thrown: unknown[] = [];
  readonly #scope = new Scope();
  readonly #channel = typeof MessageChannel === "undefined" ? null : new MessageChannel();
  #turned: () => void = () => {};
  readonly #stops: readonly (() => void)[];

  constructor() {
    if (this.#channel !== null) this.#channel.port1.onmessage = () => this.#turned();
    const stopTimers = replaceTimers(this.#scope, {
      set: (name, callback, ms, real) => {
        const timer: unknown = real(() => {
          if (name !== "setInterval") this.#timers.delete(timer);
          try {
            callback();
          } catch (error) {
            this.#thrown.push(error);
          }
        });
        this.#timers.set(timer, { name, ms, since: now(), where: this.asks ? calledFrom() : "" });
        return timer;
      },
      clear: (timer) => {
        if (!this.#timers.delete(timer)) this.#forget(timer);
        return false;
      },
    });
    this.#stops = [stopTimers, watchRejections((error) => this.#rejected.push(error))];
  }

  /** Runs `task`: its timers are watched, and those of whatever it starts. */
  within<Result>(task: () => Result): Result {
    return this.#scope.run(task);
  }

  stop(): void {
    for (const stop of this.#stops) stop();
    this.#channel?.port1.close(); // an open one keeps a process from ending
  }

  /** Lets the platform do its other work, by a message to itself: 6 µs in Node, 14 in workerd. */
  turn(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#channel === null) return pause();
    this.#turned = resolve;
    this.#channel.port2.postMessage(null);
    return promise;
  }

  /** All unhandled rejections since this was last called. */
  async rejections(): Promise<unknown[]> {
    await pause();
    return this.#rejected.splice(0);
  }

  /** Whether a timer fires within `ms` milliseconds. */
  soon(ms: number): boolean {
    for (const timer of this.#timers.values()) if (timer.since + timer.ms - now() <= ms) return true;
    return false;
  }

  /** What is left of a run, and from now on no longer watched. */
  async left(): Promise<Pick<Leaks, "timers" | "thrown">> {
    await this.turn();
    for (let i = 0; i < TURNS && this.soon(1); i++) await pause(); // the last of a turn, no more
    const timers: Timer[] = [];
    for (const [timer, set] of this.#timers) {
      // Node's own flag for a timer that is over: its methods can clear it, too.
      if ((timer as { _destroyed?: boolean })._destroyed !== true) timers.push(set);
      if (this.asks) forget(timer as never); // it is reported, and must not keep the process running
    }
    this.#timers.clear();
    return { timers, thrown: this.#thrown.splice(0) };
  }

  /** A timer that is identified by its number. */
  #forget(timer: unknown): void {
    for (const key of this.#timers.keys()) {
      if (typeof timer !== "object" && Number(key) === Number(timer)) this.#timers.delete(key);
    }
  }
}

/** Where a timer was set: the first line of the stack outside our own code. */
const calledFrom = (): string => {
  const lines = (new Error().stack ?? "").split("\n").slice(1);
  return lines.find((line) => !/[/\\]testing[/\\](framing|clock)/.test(line))?.trim() ?? "";
};

type Listener = (error: unknown) => void;

/** Calls `told` with each unhandled rejection, in place of the platform's own listeners. */
const watchRejections = (told: Listener): (() => void) => {
  const { process, addEventListener, removeEventListener } = globalThis as unknown as {
    readonly process?: {
      rawListeners?(event: string): Listener[];
      on(event: string, listener: Listener): void;
      removeListener(event: string, listener: Listener): void;
    };
    readonly addEventListener?: (type: string, listener: (event: never) => void) => void;
    readonly removeEventListener?: (type: string, listener: (event: never) => void) => void;
  };
  const event = "unhandledRejection"; // Node's
  const others = process?.rawListeners?.(event) ?? [];
  if (process?.rawListeners !== undefined) {
    for (const other of others) process.removeListener(event, other);
    process.on(event, told);
  }
  const hear = (event: PromiseRejectionEvent): void => {
    event.preventDefault();
    told(event.reason);
  };
  addEventListener?.("unhandledrejection", hear); // the Web's
  return () => {
    removeEventListener?.("unhandledrejection", hear);
    if (process?.rawListeners === undefined) return;
    process.removeListener(event, told);
    for (const other of others) process.on(event, other);
  };
};
