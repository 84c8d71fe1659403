/** The words and flags of the command: each is read, or refused as a usage error, and nothing else is thrown. */

import { InvalidArgumentError } from "commander";
import fc from "fast-check";
import { count, milliseconds, paramsOf, portNumber } from "../../emulator/command/terminal/arguments.ts";
import { UsageError } from "../../emulator/command/terminal/output.ts";
import { alike, same, type Target, target } from "./target.ts";

const MOST = 10_000;

/** What is read of `text`; `null` if it is refused as it should be. */
const read = <T>(how: () => T, Refusal: new (message: string) => Error): T | null => {
  try {
    return how();
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
};

const text = fc.oneof(
  fc.string({ unit: fc.constantFrom(..."0123456789-+.,eExnN _\t\n'\"{}[]:"), maxLength: 12 }),
  fc.nat(2 ** 32).map(String),
  fc.string({ unit: "binary", maxLength: 12 }),
  fc.json(),
);

/** The number that `digits` are, where they are nothing but digits and it is in these bounds. */
const numberOf = (digits: string, least: number, most: number): number | null => {
  if (digits === "" || [...digits].some((digit) => !"0123456789".includes(digit))) return null;
  const value = BigInt(digits);
  return value >= least && value <= most ? Number(value) : null;
};

export const commandArguments: Target = target(
  "arguments",
  "inputs",
  fc.record({ text, words: fc.array(text, { maxLength: 3 }), json: fc.option(text, { nil: undefined }) }),
  ({ text, words, json }) => {
    same(
      "milliseconds",
      read(() => milliseconds(text), InvalidArgumentError),
      numberOf(text, 1, 2 ** 31 - 1),
    );
    const port = text.length <= 5 ? numberOf(text, 0, 65_535) : null;
    same(
      "a port",
      read(() => portNumber(text), InvalidArgumentError),
      port,
    );
    same(
      "a count",
      read(() => count(1, MOST)(text), InvalidArgumentError),
      numberOf(text, 1, MOST),
    );
    const params = read(() => ({ params: paramsOf(words, json) }), UsageError);
    if (json === undefined) alike("the params", params, { params: words });
    else if (words.length > 0) same("both", params, null);
    else {
      const wanted = read(() => ({ params: JSON.parse(json) }), SyntaxError);
      alike("the JSON", params, wanted);
    }
    return undefined;
  },
);
