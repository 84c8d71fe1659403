/** Parses a fault rule as it is written on the command line: `reset after=1000 from=server`. */

import type { FaultRule } from "../../../core/handlers/fault-rule.ts";

const UNITS: Readonly<Record<string, number>> = { "": 1, ms: 1, s: 1_000, m: 60_000 };
const TIMES = new Set(["latency", "jitter", "delay", "in", "for"]);
const COUNTS = new Set(["rate", "slice", "after", "connection", "likelihood"]);
const WORDS = new Set(["from", "match", "name"]);
const VALUED = new Set(["latency", "rate", "slice"]); // faults that are written with their value

const FORM = 'write it as "latency=100 jitter=20 from=server", "reset after=1000", "stall in=10s for=5s"';

/** The value of one word. */
const readValue = (key: string, text: string): string | number => {
  if (WORDS.has(key)) {
    if (!text.startsWith('"')) return text;
    try {
      return JSON.parse(text) as string; // with \r\n and the like
    } catch {
      throw new TypeError(`${key}=${text} is no text in quotes, as JSON has it`);
    }
  }
  const [, digits = "", unit = ""] = /^(\d+(?:\.\d+)?)([a-z]*)$/.exec(text) ?? [];
  const times = TIMES.has(key) ? UNITS[unit] : unit === "" ? 1 : undefined;
  if (digits === "" || times === undefined) {
    const right = TIMES.has(key) ? "milliseconds, or 5s, or 1m" : "a number";
    throw new TypeError(`${key}=${text}: give ${right}`);
  }
  return Number(digits) * times;
};

/** The rule that `text` describes. Throws `TypeError`. */
export const ruleOf = (text: string): FaultRule => {
  const words = text.match(/(?:[^\s"]|"(?:\\.|[^"\\])*")+/g) ?? [];
  const [first = ""] = words;
  const fault = first.split("=", 1)[0] as string;
  const rule: Record<string, string | number> = { fault };
  for (const word of VALUED.has(fault) ? words : words.slice(1)) {
    const at = word.indexOf("=");
    const key = at < 0 ? word : word.slice(0, at);
    if (at < 0 || !(TIMES.has(key) || COUNTS.has(key) || WORDS.has(key)))
      throw new TypeError(`"${word}" is not known; ${FORM}`);
    if (key in rule) throw new TypeError(`${key} is given twice`);
    rule[key] = readValue(key, word.slice(at + 1));
  }
  if (!VALUED.has(fault) && first !== fault)
    throw new TypeError(`"${first}": only latency, rate and slice are written with a value; ${FORM}`);
  return rule as unknown as FaultRule;
};
