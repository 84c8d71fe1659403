/**
 * `Commits`: the changes of a lasting session, on their way to its store.
 *
 * What changes in one turn, or while the change before it is being kept, is kept together: all of it, or nothing. Nobody
 * sees an event before it is kept, or a session that came back after a loss could tell it a second time.
 */

import { DONE, type MaybePromise } from "../../bytes/data.ts";
import { isThenable } from "../../promises.ts";
import type { SessionEvent, SessionInfo } from "../plane.ts";

/** Where a session's changes are kept. */
export interface SessionStore {
  /**
   * Something happened; all of `change` is to be kept, or nothing. Called in order, and never again once its `info.state` is
   * over. For a lasting session the next call waits until this one is done; if it fails, what the session did since is
   * undone. For another it must not throw, and is not awaited.
   */
  save(change: SessionChange): MaybePromise<void>;
}

/** What changed of a session. */
export interface SessionChange {
  /** The record as it is now. */
  readonly info: SessionInfo;
  /** The events that are new. */
  readonly events: readonly SessionEvent[];
  /** The events before this id are dropped. */
  readonly oldest: number;
  /** The state of its handlers, as text; `null`: there is none, or it is as it was. */
  readonly state: string | null;
  /** When `wake()` is to be called, in ms of the epoch; `null`: not at all. */
  readonly wakeAt: number | null;
}

/** Whose changes they are. */
interface Changing {
  /** The change as the store is given it, with all events that are not yet kept. */
  change(): SessionChange;
  /** It is kept. */
  kept(change: SessionChange): void;
  /** What has changed since the last that was kept is lost. */
  lost(error: unknown): void;
}

/** One after the other, each as a whole. */
export class Commits {
  readonly #store: SessionStore;
  readonly #of: Changing;
  #waiting: PromiseWithResolvers<void>[] = [];
  #running: Promise<void> | undefined;
  #dirty = false;

  constructor(store: SessionStore, of: Changing) {
    this.#store = store;
    this.#of = of;
  }

  /** Something changed: it is kept at the end of this turn; `atOnce`: as far as the store can without waiting, now. */
  touch(atOnce = false): void {
    this.#dirty = true;
    this.#running ??= atOnce ? this.#run() : Promise.resolve().then(() => this.#run());
  }

  /** Resolves when all that has changed until now is kept; rejects if it cannot be. */
  whenKept(): Promise<void> {
    if (!this.#dirty) return this.#running ?? DONE;
    const waiter = Promise.withResolvers<void>();
    this.#waiting.push(waiter);
    return waiter.promise;
  }

  async #run(): Promise<void> {
    while (this.#dirty) await this.#keep();
    this.#running = undefined;
  }

  async #keep(): Promise<void> {
    this.#dirty = false;
    const waiting = this.#waiting.splice(0);
    try {
      const change = this.#of.change();
      const kept = this.#store.save(change);
      if (isThenable(kept)) await kept;
      this.#of.kept(change);
      for (const { resolve } of waiting) resolve();
    } catch (error) {
      this.#dirty = false; // what came meanwhile built on what is lost
      waiting.push(...this.#waiting.splice(0));
      this.#of.lost(error);
      for (const { reject } of waiting) reject(error);
    }
  }
}
