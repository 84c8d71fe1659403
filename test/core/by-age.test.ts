/** What pages of sessions are made of, beside a list that is sorted anew each time. */

import { expect, test } from "vitest";
import { ByAge } from "../../core/control/sessions/by-age.ts";

const ids = (found: Iterable<{ id: string }>): string[] => Array.from(found, ({ id }) => id);
const filled = (...names: string[]): ByAge<{ id: string }> => {
  const sessions = new ByAge<{ id: string }>();
  for (const id of names) sessions.set({ id });
  return sessions;
};

test("the newest come first, in whatever order they were added", () => {
  const sessions = filled("b", "d", "a", "c");
  expect(ids(sessions.newest())).toEqual(["d", "c", "b", "a"]);
  expect(ids(sessions.values())).toEqual(["b", "d", "a", "c"]);
  expect(ids(filled().newest())).toEqual([]);
});

test("a page begins before an id, also of one that is gone or never was", () => {
  const sessions = filled("a", "c", "e", "g");
  sessions.delete("e");
  expect(ids(sessions.newest("g"))).toEqual(["c", "a"]);
  expect(ids(sessions.newest("e"))).toEqual(["c", "a"]);
  expect(ids(sessions.newest("d"))).toEqual(["c", "a"]);
  expect(ids(sessions.newest("a"))).toEqual([]);
  expect(ids(sessions.newest("z"))).toEqual(["g", "c", "a"]);
});

test("one of the same id replaces the other, and one that was deleted may come back", () => {
  const sessions = filled("a", "b", "c");
  const again = { id: "b" };
  sessions.set(again);
  expect(sessions.get("b")).toBe(again);
  sessions.delete("b");
  sessions.delete("b");
  expect(sessions.get("b")).toBeUndefined();
  sessions.set(again);
  expect(ids(sessions.newest())).toEqual(["c", "b", "a"]);
});

test("thousands that come, late ones among them, and go: as a sorted list has them", () => {
  const sessions = filled();
  const model = new Set<string>();
  let state = 1;
  const random = (below: number): number => {
    state = (state * 48_271) % 2_147_483_647; // the minimal standard generator of Park and Miller
    return state % below;
  };
  for (let i = 0; i < 5000; i++) {
    const late = random(10) === 0 ? random(50) : 0;
    const id = String(100_000 + i * 100 - late * 100 + (late && 1 + random(98)));
    sessions.set({ id });
    model.add(id);
    for (const old of [...model].slice(0, random(3))) {
      sessions.delete(old);
      model.delete(old);
    }
    if (i % 100 !== 0) continue;
    const sorted = [...model].sort().reverse();
    const before = String(100_000 + random(i * 100 + 1));
    expect(ids(sessions.newest())).toEqual(sorted);
    expect(ids(sessions.newest(before))).toEqual(sorted.filter((one) => one < before));
  }
});
