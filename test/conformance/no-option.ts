/**
 * That nobody takes an option which is none: what is exported is searched for those who take options, so that a new
 * one without a row in the table fails a test.
 */

import { BaseEndpoint } from "socklet";

/** Gives options with one that is none to whoever takes them; what it throws or rejects with is looked at. */
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

/** The names of what takes options, among what an entry exports; servers and connectors aside. */
export const takersOf = (exports: Exports): string[] =>
  Object.keys(exports).filter((name) => {
    const value = exports[name];
    return typeof value === "function" && !isEndpoint(value) && TAKES.test(String(value));
  });

/** What `row` says of an option that is none; `null` where it takes it. */
export const refusalOf = async (row: Row, options: object): Promise<unknown> => {
  try {
    await row(options as never);
  } catch (error) {
    return error;
  }
  return null;
};
