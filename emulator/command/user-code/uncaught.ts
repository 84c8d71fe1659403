/** Uncaught errors and unhandled rejections. */

import type { AsyncLocalStorage } from "node:async_hooks";
import { lazy } from "../../builtin.ts";
import { describe, say } from "../terminal/output.ts";

/** The store with the name of the running handler; none before Node 24, where it would slow down each `await` of a handler. */
export const namesOfHandlers = (): AsyncLocalStorage<string> | undefined =>
  Number.parseInt(process.versions.node, 10) < 24 ? undefined : new lazy.asyncHooks.AsyncLocalStorage();

/**
 * Reports, from now on, unhandled rejections and uncaught errors, instead of
 * what Node does by default; `thrown` is called after an uncaught error, which may have left anything half done. A module that
 * listens for either itself handles it.
 */
export const onUncaught = (names: AsyncLocalStorage<string> | undefined, thrown: () => void): void => {
  const tell = (what: string, error: unknown): void => {
    const name = names?.getStore();
    say(`${name === undefined ? "" : `${name}  `}${what}: ${describe(error)}`, { error });
  };
  process.on("unhandledRejection", (error) => {
    if (process.listenerCount("unhandledRejection") === 1) tell("unhandled rejection", error);
  });
  process.on("uncaughtException", (error) => {
    if (process.listenerCount("uncaughtException") > 1) return;
    tell("uncaught exception", error);
    thrown();
  });
};
