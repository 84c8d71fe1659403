/** A worker of Vitest's, in the runtime that runs this file: see pool.ts. */

import { parse, stringify } from "devalue";
import { init, runBaseTests, setupEnvironment } from "vitest/worker";

init({
  post: (message) => void process.send?.(message),
  on: (told) => void process.on("message", told),
  off: (told) => void process.off("message", told),
  serialize: (message) => stringify(message),
  deserialize: (text) => parse(text as string),
  setup: setupEnvironment,
  runTests: (state, traces) => runBaseTests("run", state, traces),
  collectTests: (state, traces) => runBaseTests("collect", state, traces),
});
