/** What nobody caught: errors and rejections that no code handles. */

import type { AsyncLocalStorage } from "node:async_hooks";
import { lazy } from "../builtin.ts";
import { describe, say } from "./output.ts";

/** Where the name of the handler that runs is kept; none before Node 24, where it would cost each `await` of a handler. */
export const namesOfHandlers = (): AsyncLocalStorage<string> | undefined =>
  Number.parseInt(process.versions.node, 10) < 24 ? undefined : new lazy.asyncHooks.AsyncLocalStorage();

/**
 * Tells, from now on, of the promises whose rejection nobody handles, and the errors that nobody catches, in place of
 * what Node does then; `thrown` is called after such an error, which may have left anything half done. A module that
 * listens for either by itself sees to it.
 */
export const onUncaught = (names: AsyncLocalStorage<string> | undefined, thrown: () => void): void => {
  const tell = (what: string, error: unknown): void => {
    const name = names?.getStore();
    say(`${name === undefined ? "" : `${name}  `}${what}: ${describe(error)}`);
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
