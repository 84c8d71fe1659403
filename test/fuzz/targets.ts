/** All targets, in one table: `npm run fuzz` runs them for as long as one likes, the suite each for a moment. */

import { commandArguments } from "./arguments.ts";
import { commandLine } from "./command-line.ts";
import { fileReader, fileWriter } from "./file.ts";
import { framing } from "./framing.ts";
import { parsers } from "./parsers.ts";
import { proxyHeaders } from "./proxy.ts";
import { reader } from "./reader.ts";
import { rules } from "./rules.ts";
import { sockets } from "./sockets.ts";
import type { Target } from "./target.ts";
import { tlsStarts } from "./tls.ts";
import { values } from "./values.ts";
import { writer } from "./writer.ts";

export const TARGETS: readonly Target[] = [
  reader,
  writer,
  fileReader,
  fileWriter,
  ...sockets,
  ...parsers,
  commandArguments,
  ...commandLine,
  ...proxyHeaders,
  ...tlsStarts,
  ...framing,
  ...rules,
  values,
];
