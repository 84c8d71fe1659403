/** With the optional packages, or without. */

import { afterAll, beforeAll } from "vitest";

/** Runs the tests of this block with the optional packages, or as if they were not installed. */
export const inNativeMode = (native: boolean): void => {
  const before = process.env.SOCKLET_NATIVE;
  beforeAll(() => {
    process.env.SOCKLET_NATIVE = native ? "" : "off";
  });
  afterAll(() => {
    if (before === undefined) delete process.env.SOCKLET_NATIVE;
    else process.env.SOCKLET_NATIVE = before;
  });
};
