/** Parses the words and flags that a command is given. */

import { InvalidArgumentError } from "commander";
import { EDGE_RULES, type EdgeRuleName } from "../../../core/net/edge.ts";
import { UsageError } from "./output.ts";

export const milliseconds = (text: string): number => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value > 0 && value < 2 ** 31) return value;
  throw new InvalidArgumentError("Give milliseconds, 1 or more.");
};

export const portNumber = (text: string): number => {
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError("Give a port, 0 to 65535; 0 is a free one.");
};

export const count =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Give a number, ${least} to ${most}.`);
  };

/** The params of a handler: the words, or the JSON of `--params`. */
export const paramsOf = (words: string[], json: string | undefined): unknown => {
  if (json === undefined) return words;
  if (words.length > 0) throw new UsageError("give the params as words or as --params, not both");
  try {
    return JSON.parse(json);
  } catch (error) {
    throw new UsageError(
      `--params is not JSON: ${(error as Error).message}; quote it for the shell: --params '["GET", "key"]'`,
    );
  }
};

/** How many workers: `auto`, or a number of 1 or more. */
export const workerCount = (text: string): number | "auto" =>
  text === "auto" ? text : count(1, 1_024)(text);

/** Rules of the edge, by their names. */
export const ruleNames = (text: string): EdgeRuleName[] => {
  const names = text.split(",");
  const unknown = names.find((name) => !Object.hasOwn(EDGE_RULES, name));
  if (unknown === undefined) return names as EdgeRuleName[];
  throw new InvalidArgumentError(
    `There is no rule "${unknown}"; there are ${Object.keys(EDGE_RULES).join(", ")}.`,
  );
};

/** One `--fd`: `echo=4`, or `4` alone. */
export const descriptorFlag = (
  text: string,
  before: readonly { readonly name: string; readonly fd: number }[] = [],
): { readonly name: string; readonly fd: number }[] => {
  const [, name = "", number = ""] = /^(?:([^=]*)=)?(\d{1,9})$/.exec(text) ?? [];
  if (number === "")
    throw new UsageError(
      `--fd ${text}: give a listener's name and the number of a descriptor, as in --fd echo=3`,
    );
  return [...before, { name, fd: Number(number) }];
};
