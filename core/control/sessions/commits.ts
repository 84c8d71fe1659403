/**
 * `Commits`: the changes of a lasting session, on their way to its store.
 *
 * Changes of one turn, and those that gather while the last change is being stored, are stored together: all or none. An
 * event is not shown before it is stored; otherwise a session that came back after a loss could report it twice.
 */

import { DONE, type MaybePromise } from "../../bytes/data.ts";
import { isThenable } from "../../promises.ts";
import type { SessionEvent, SessionInfo } from "../plane.ts";

/** Where a session's changes are kept. */
export interface SessionStore {
  /**
   * Stores a change, all of it or nothing. Called in order, and never again once `info.state` is
   * final. For a lasting session the next call waits until this one is done; if it fails, what the session did since is
   * undone. For any other session it must not throw, and is not awaited.
   */
  save(change: SessionChange): MaybePromise<void>;
}

/** A change of a session. */
export interface SessionChange {
  /** The record as it is now. */
  readonly info: SessionInfo;
  /** The new events. */
  readonly events: readonly SessionEvent[];
  /** Events before this id are dropped. */
  readonly oldest: number;
  /** The state of its handlers, as text; `null` if there is none, or if it has not changed. */
  readonly state: string | null;
  /** When to call `wake()`, in ms since the epoch; `null`: not at all. */
  readonly wakeAt: number | null;
}

/** The owner of the changes. */
interface Changing {
  /** The change to store, with all events that are not stored yet. */
  change(): SessionChange;
  /** The change is stored. */
  kept(change: SessionChange): void;
  /** The changes since the last stored one are lost. */
  lost(error: unknown): void;
}

/** Stores changes one after the other, each as a whole. */
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

  /** Something changed. It is stored at the end of this turn; with `atOnce`, now, as far as the store can do so without waiting. */
  touch(atOnce = false): void {
    this.#dirty = true;
    this.#running ??= atOnce ? this.#run() : Promise.resolve().then(() => this.#run());
  }

  /** Resolves when all changes so far are stored; rejects if they cannot be. */
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
      this.#dirty = false; // later changes were based on the lost ones
      waiting.push(...this.#waiting.splice(0));
      this.#of.lost(error);
      for (const { reject } of waiting) reject(error);
    }
  }
}
