/**
 * That nobody takes an option which is none: what is exported is searched for those who take options, so that a new
 * one without a row in the table fails a test.
 */

import { BaseEndpoint } from "socklet";

/** Passes an unknown option to a taker of options; the test checks what that throws or rejects with. */
export type Row = (options: never) => unknown;

/** What an entry exports, by name. */
export type Exports = Readonly<Record<string, unknown>>;

// What a parameter with options is called in this project, as it stands in the text of a function.
const TAKES =
  /[({,]\s*(options|faults|definition|setup|bounds)(\s*=\s*[^,()]*(\(\))?)?\s*(,[^()]*)?\)\s*(=>|\{)/;

const isClass = (value: unknown): value is abstract new (...args: never[]) => object =>
  typeof value === "function" && /^class\b/.test(String(value));

/** Whether it is a server or a connector. */
export const isEndpoint = (value: unknown): value is typeof BaseEndpoint =>
  value === BaseEndpoint || (isClass(value) && value.prototype instanceof BaseEndpoint);

/** The names of an entry's exports that take options, except servers and connectors. */
export const takersOf = (exports: Exports): string[] =>
  Object.keys(exports).filter((name) => {
    const value = exports[name];
    return typeof value === "function" && !isEndpoint(value) && TAKES.test(String(value));
  });

/** The error of `row` for an unknown option; `null` if it accepts it. */
export const refusalOf = async (row: Row, options: object): Promise<unknown> => {
  try {
    await row(options as never);
  } catch (error) {
    return error;
  }
  return null;
};
