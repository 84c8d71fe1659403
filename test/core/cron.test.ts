/** Cron, beside a library that many use: croner. */

import { Cron } from "croner";
import { describe, expect, test } from "vitest";
import { nextTime } from "../../core/control/sessions/cron.ts";
import { fc } from "../conformance/properties.ts";

const at = (text: string): number => Date.parse(`${text}Z`);
const next = (cron: string, after: string): string | null => {
  const time = nextTime(cron, at(after));
  return time === null ? null : new Date(time).toISOString().slice(0, 16);
};

test.each([
  ["* * * * *", "2026-11-29T11:55:00", "2026-11-29T11:56"],
  ["* * * * *", "2026-11-29T11:55:59.999", "2026-11-29T11:56"],
  ["*/15 * * * *", "2026-12-31T23:50", "2027-01-01T00:00"],
  ["0 6 * * 1-5", "2026-11-27T06:00", "2026-11-30T06:00"], // a Friday; then Monday
  ["0 6 * * MON-FRI", "2026-11-28T00:00", "2026-11-30T06:00"],
  ["30 8-18/5,23 * * *", "2026-11-29T18:30", "2026-11-29T23:30"],
  ["0 0 29 2 *", "2096-03-01T00:00", "2104-02-29T00:00"], // 2100 is no leap year
  ["0 0 13 * FRI", "2026-11-29T00:00", "2026-12-04T00:00"], // one of the two is enough
  ["0 0 * * 7", "2026-11-29T00:00", "2026-12-06T00:00"],
  ["0 0 30 2 *", "2026-11-29T00:00", null],
])("%s after %s is %s", (cron, after, time) => {
  expect(next(cron, after)).toBe(time);
});

test.each([
  ["60 * * * *", /the minute is \*, or a list of 0-59 and ranges of them, with \/STEP or without; not "60"/],
  ["* 24 * * *", /the hour .*not "24"/],
  ["* * 0 * *", /the day /],
  ["* * * 13 *", /the month is \*, or a list of 1-12 or JAN-DEC and/],
  ["* * * * 8", /the weekday .*0-7 or SUN-SAT/],
  ["* * * * MOON", /not "MOON"/],
  ["5-1 * * * *", /not "5-1"/],
  ["1-2-3 * * * *", /not "1-2-3"/],
  ["*/0 * * * *", /not "\*\/0"/],
  ["5/2 * * * *", /not "5\/2"/],
  ["1,,2 * * * *", /not ""/],
  ["-1 * * * *", /not "-1"/],
  ["1.5 * * * *", /not "1.5"/],
  ["* * * *", /five fields/],
  ["@daily", /five fields/],
  ["", /five fields/],
])("%j is none", (cron, says) => {
  expect(() => nextTime(cron, 0)).toThrow(RangeError);
  expect(() => nextTime(cron, 0)).toThrow(says);
});

describe("every field in every form", () => {
  const item = (least: number, most: number) => {
    const value = fc.integer({ min: least, max: most });
    const range = fc.tuple(value, value).map(([a, b]) => `${Math.min(a, b)}-${Math.max(a, b)}`);
    const step = fc
      .tuple(fc.integer({ min: least, max: most - 1 }), fc.nat(), fc.nat())
      .map(([from, length, by]) => {
        const to = from + 1 + (length % (most - from));
        return `${from}-${to}/${1 + (by % (to - from))}`; // croner takes no step that is longer than its range
      });
    return fc.oneof(value.map(String), range, step);
  };
  const field = (least: number, most: number) =>
    fc.oneof(
      fc.constant("*"),
      fc.array(item(least, most), { minLength: 1, maxLength: 3 }).map((items) => items.join(",")),
    );
  const cron = fc
    .tuple(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
    .map((parts) => parts.join(" "));

  test("comes when croner says", () => {
    fc.assert(
      fc.property(
        cron,
        fc.integer({ min: at("2020-01-01T00:00"), max: at("2040-01-01T00:00") }),
        (text, after) => {
          const theirs = new Cron(text, { timezone: "UTC", mode: "5-part", paused: true }).nextRun(
            new Date(after),
          );
          expect(nextTime(text, after)).toBe(theirs?.getTime() ?? null);
        },
      ),
      { numRuns: 300 },
    );
  });
});
