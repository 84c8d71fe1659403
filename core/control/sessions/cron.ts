/**
 * Cron: the five fields of POSIX's crontab, with the lists, ranges, steps and names that every cron takes, in UTC.
 *
 *     MINUTE 0-59   HOUR 0-23   DAY 1-31   MONTH 1-12 or JAN-DEC   WEEKDAY 0-7 or SUN-SAT (0 and 7 are Sunday)
 *
 * A field is `*`, or a list of values and ranges, each with or without a step: `1-5`, `0-59/15`, `8-18/2,23`. If day and weekday are both
 * given, a time need match only one of them.
 */

/** The times that a text names. */
interface Times {
  readonly minutes: ReadonlySet<number>;
  readonly hours: ReadonlySet<number>;
  readonly days: ReadonlySet<number>;
  readonly months: ReadonlySet<number>;
  readonly weekdays: ReadonlySet<number>;
  /** Whether a day matches if it is in `days` or in `weekdays`; otherwise it must be in both. */
  readonly either: boolean;
}

const MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(" ");
const WEEKDAYS = "SUN MON TUE WED THU FRI SAT".split(" ");

const MINUTE = 60_000; // ms
const DAY = 86_400_000; // ms
const LOOKED_AT = 8 * 366; // days: the longest that a 29 February is away (2096 to 2104)

interface Field {
  readonly name: string;
  readonly least: number;
  readonly most: number;
  /** The names of the numbers, from `least` on. */
  readonly words?: readonly string[];
}

const FIELDS: readonly Field[] = [
  { name: "minute", least: 0, most: 59 },
  { name: "hour", least: 0, most: 23 },
  { name: "day", least: 1, most: 31 },
  { name: "month", least: 1, most: 12, words: MONTHS },
  { name: "weekday", least: 0, most: 7, words: WEEKDAYS },
];

const valuesOf = (text: string, { name, least, most, words = [] }: Field): Set<number> => {
  const wrong = (part: string): RangeError => {
    const also = words.length === 0 ? "" : ` or ${words[0]}-${words.at(-1)}`;
    return new RangeError(
      `the ${name} is *, or a list of ${least}-${most}${also} and ranges of them, with /STEP or without; not "${part}"`,
    );
  };
  const numberOf = (part: string, word: string): number => {
    const named = words.indexOf(word.toUpperCase());
    const value = named >= 0 ? named + least : /^\d{1,2}$/.test(word) ? Number(word) : Number.NaN;
    if (value >= least && value <= most) return value;
    throw wrong(part);
  };
  const values = new Set<number>();
  for (const part of text.split(",")) {
    const [, range = "", step] = /^([^/]*)(?:\/(\d{1,2}))?$/.exec(part) ?? [];
    const [from = "", to, more] = range.split("-");
    const first = range === "*" ? least : numberOf(part, from);
    const last = range === "*" ? most : numberOf(part, to ?? from);
    const single = to === undefined && range !== "*";
    const by = Number(step ?? 1);
    if (more !== undefined || first > last || by < 1 || (single && step !== undefined)) throw wrong(part);
    for (let value = first; value <= last; value += by) values.add(value);
  }
  return values;
};

const timesOf = (text: string): Times => {
  const parts = text.trim().split(/\s+/);
  if (parts.length !== FIELDS.length || parts[0] === "") {
    throw new RangeError(
      `cron has five fields, "MINUTE HOUR DAY MONTH WEEKDAY", not ${JSON.stringify(text)}`,
    );
  }
  const [minutes, hours, days, months, weekdays] = FIELDS.map((field, i) =>
    valuesOf(parts[i] as string, field),
  ) as [Set<number>, Set<number>, Set<number>, Set<number>, Set<number>];
  if (weekdays.has(7)) weekdays.add(0);
  return { minutes, hours, days, months, weekdays, either: parts[2] !== "*" && parts[4] !== "*" };
};

/** The first time that `cron` names after `after`, both in ms since the epoch; `null` if there is none. Throws `RangeError` if it is not a cron. */
export const nextTime = (cron: string, after: number): number | null => {
  const { minutes, hours, days, months, weekdays, either } = timesOf(cron);
  const first = Math.floor(after / MINUTE) * MINUTE + MINUTE;
  const start = Math.floor(first / DAY) * DAY;
  for (let day = start; day < start + LOOKED_AT * DAY; day += DAY) {
    const date = new Date(day);
    if (!months.has(date.getUTCMonth() + 1)) continue;
    const inMonth = days.has(date.getUTCDate());
    const inWeek = weekdays.has(date.getUTCDay());
    if (either ? !inMonth && !inWeek : !inMonth || !inWeek) continue;
    for (let hour = 0; hour < 24; hour++) {
      if (!hours.has(hour)) continue;
      for (let minute = 0; minute < 60; minute++) {
        const time = day + (hour * 60 + minute) * MINUTE;
        if (minutes.has(minute) && time >= first) return time;
      }
    }
  }
  return null;
};
