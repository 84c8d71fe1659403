/**
 * What a check starts, apart from what else the process does meanwhile: `Scope`. And one check after the other, since each replaces
 * the platform's timers: `alone`.
 */

import { DONE } from "../bytes/data.ts";

/** Node's `AsyncLocalStorage`, which remembers through promises, timers and events what has started something. */
interface Storage {
  run<Result>(scope: Scope, task: () => Result): Result;
  getStore(): Scope | undefined;
}

let storage: Storage | undefined; // one for all scopes: Node 22 keeps each as long as it runs

const storageHere = (): Storage | undefined => {
  const { process } = globalThis as unknown as {
    readonly process?: {
      getBuiltinModule?(name: string): { readonly AsyncLocalStorage: new () => Storage } | undefined;
    };
  };
  const hooks = process?.getBuiltinModule?.("node:async_hooks");
  storage ??= hooks && new hooks.AsyncLocalStorage();
  return storage;
};

/** What `run()` starts. Without `AsyncLocalStorage` (a browser, workerd without `nodejs_compat`) that is everything. */
export class Scope {
  readonly #storage = storageHere();

  run<Result>(task: () => Result): Result {
    return this.#storage === undefined ? task() : this.#storage.run(this, task);
  }

  /** Whether what runs now was started by `run()`. */
  get isHere(): boolean {
    return this.#storage === undefined || this.#storage.getStore() === this;
  }
}

let last: Promise<unknown> = DONE;

/** Runs `check` when all that were given before are over. */
export const alone = <Result>(check: () => Promise<Result>): Promise<Result> => {
  const checking = last.then(check, check);
  last = checking;
  return checking;
};
