/** Small languages: fault rules as the command line has them, and cron. Each is made of parts whose meaning is known. */

import fc from "fast-check";
import { nextTime } from "../../core/control/sessions/cron.ts";
import type { FaultRule } from "../../core/handlers/fault-rule.ts";
import { checkRule } from "../../core/testing/faults/rules.ts";
import { ruleOf } from "../../emulator/command/wire/rules.ts";
import { alike, same, type Target, target } from "./target.ts";

// ---- Faults ----

const number = fc.oneof(
  fc.nat(10),
  fc.nat(100_000),
  fc.nat(1000).map((n) => n / 8),
);
const time = fc
  .tuple(fc.nat(1000), fc.constantFrom(["", 1], ["ms", 1], ["s", 1000], ["m", 60_000]))
  .map(([n, [unit, ms]]) => ({ text: `${n}${unit}`, value: n * (ms as number) }));
const plain = number.map((n) => ({ text: String(n), value: n }));
const quoted = fc
  .string({ unit: "binary", maxLength: 8 })
  .map((text) => ({ text: JSON.stringify(text), value: text }));
const bare = fc.stringMatching(/^[a-z0-9.\-=]{1,8}$/).map((text) => ({ text, value: text }));
const part = fc.oneof(
  fc.tuple(fc.constantFrom("latency", "jitter", "delay", "in", "for"), time),
  fc.tuple(fc.constantFrom("rate", "slice", "after", "connection", "likelihood"), plain),
  fc.tuple(fc.constantFrom("from", "match", "name"), fc.oneof(quoted, bare)),
);
const written = fc
  .tuple(
    fc.constantFrom(
      "stall",
      "silence",
      "close",
      "reset",
      "slow-close",
      "loss",
      "duplicate",
      "latency",
      "rate",
      "slice",
    ),
    fc.uniqueArray(part, { maxLength: 5, selector: ([key]) => key }),
    fc.constantFrom(" ", "  ", "\t"),
  )
  .map(([fault, parts, space]) => {
    // A fault that has a value is its own first word.
    const valued = ["latency", "rate", "slice"].includes(fault);
    const own = parts.filter(([key]) => key === fault);
    const first = valued
      ? own.length > 0
        ? own
        : [[fault, { text: "7", value: 7 }] as (typeof parts)[number]]
      : [];
    const all = [...first, ...parts.filter(([key]) => key !== fault)];
    const words = all.map(([key, { text }]) => `${key}=${text}`);
    return {
      text: (valued ? words : [fault, ...words]).join(space),
      rule: { fault, ...Object.fromEntries(all.map(([key, { value }]) => [key, value])) },
    };
  });
const noise = fc.string({
  unit: fc.constantFrom(
    ...'reset after=1 from="\\stall in=5s latency{}'.split(""),
    "latency=",
    "match=",
    "\n",
    "é",
    "__proto__=",
  ),
  maxLength: 30,
});

/** What becomes of `work`; where it throws `TypeError` or `RangeError`, `undefined`. */
const tried = <T>(work: () => T): T | undefined => {
  try {
    return work();
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) return undefined;
    throw error;
  }
};

const faultRule = target("fault rule", "inputs", fc.tuple(written, noise), ([{ text, rule }, any]) => {
  alike(`the rule ${text}`, Object.entries(ruleOf(text)).sort(), Object.entries(rule).sort());
  for (const one of [rule as unknown as FaultRule, tried(() => ruleOf(any))])
    if (one !== undefined)
      for (const kind of ["stream", "datagrams"] as const) tried(() => checkRule(one, kind));
  return 1;
});

// ---- Cron ----

const MINUTE = 60_000; // ms
const LOOKED_AT = 500; // minutes that are looked at one by one

const WORDS: Readonly<Record<number, readonly string[]>> = {
  3: "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(" "),
  4: "SUN MON TUE WED THU FRI SAT".split(" "),
};

/** One field, and the numbers that it means. */
const fieldOf = (index: number, least: number, most: number) => {
  const spelled = (value: number, byName: boolean): string => {
    const word = WORDS[index]?.[value - least];
    return byName && word !== undefined ? (value % 2 === 0 ? word : word.toLowerCase()) : String(value);
  };
  const item = fc
    .tuple(
      fc.integer({ min: least, max: most }),
      fc.integer({ min: least, max: most }),
      fc.integer({ min: 1, max: 40 }),
      fc.nat(4),
      fc.boolean(),
    )
    .map(([a, b, step, how, byName]) => {
      const [from, to] = a < b ? [a, b] : [b, a];
      const values = (first: number, last: number, by: number): number[] =>
        Array.from({ length: Math.floor((last - first) / by) + 1 }, (_, i) => first + i * by);
      const range = `${spelled(from, byName)}-${spelled(to, !byName)}`;
      if (how === 0) return { text: spelled(a, byName), values: [a] };
      if (how === 1) return { text: range, values: values(from, to, 1) };
      if (how === 2) return { text: `${range}/${step}`, values: values(from, to, step) };
      return { text: `*/${step}`, values: values(least, most, step) };
    });
  const all = fc.constant({
    text: "*",
    values: Array.from({ length: most - least + 1 }, (_, i) => least + i),
  });
  return fc.oneof(
    all,
    fc.array(item, { minLength: 1, maxLength: 3 }).map((items) => ({
      text: items.map(({ text }) => text).join(","),
      values: items.flatMap(({ values }) => values),
    })),
  );
};
const cronText = fc.tuple(
  fieldOf(0, 0, 59),
  fieldOf(1, 0, 23),
  fieldOf(2, 1, 31),
  fieldOf(3, 1, 12),
  fieldOf(4, 0, 7),
);

const cron = target(
  "cron",
  "inputs",
  fc.tuple(
    cronText,
    fc.integer({ min: Date.UTC(1999, 0), max: Date.UTC(2105, 0) }),
    fc.string({ unit: fc.constantFrom(..."0123459*/-, ".split(""), "JAN", "mon", "\n", "é"), maxLength: 20 }),
  ),
  ([fields, after, any]) => {
    const text = fields.map((field) => field.text).join(" ");
    const [minutes, hours, days, months, weekdays] = fields.map(({ values }) => new Set(values)) as [
      Set<number>,
      Set<number>,
      Set<number>,
      Set<number>,
      Set<number>,
    ];
    const either = fields[2].text !== "*" && fields[4].text !== "*";
    const isMeant = (time: number): boolean => {
      const at = new Date(time);
      const inMonth = days.has(at.getUTCDate());
      const inWeek = weekdays.has(at.getUTCDay()) || (at.getUTCDay() === 0 && weekdays.has(7));
      const day = either ? inMonth || inWeek : inMonth && inWeek;
      return (
        minutes.has(at.getUTCMinutes()) &&
        hours.has(at.getUTCHours()) &&
        months.has(at.getUTCMonth() + 1) &&
        day
      );
    };
    const next = nextTime(text, after);
    const shown = `${text} after ${new Date(after).toISOString()}`;
    if (next === null) {
      // Only a day that no month has: 31 April.
      const longest = Math.max(
        ...[...months].map((month) => new Date(Date.UTC(2000, month, 0)).getUTCDate()),
      );
      same(`${shown}: whether there is such a day`, either || Math.min(...days) <= longest, false);
    } else {
      same(
        `${shown}: ${next} is one of its times`,
        next > after && next % MINUTE === 0 && isMeant(next),
        true,
      );
    }
    const first = Math.floor(after / MINUTE) * MINUTE + MINUTE;
    const until = Math.min(next ?? Number.POSITIVE_INFINITY, first + LOOKED_AT * MINUTE);
    for (let time = first; time < until; time += MINUTE)
      if (isMeant(time)) throw new Error(`${shown}: ${time} is before ${next}`);
    tried(() => nextTime(any, after));
    return 1;
  },
);

export const rules: readonly Target[] = [faultRule, cron];
