/** Alarms that share a timer, and those that have their own. Time is the test's own: a machine that is busy would ring them in another order. */

import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { Alarm } from "../../core/bytes/alarm.ts";

const rung: string[] = [];

class Bell extends Alarm {
  readonly name: string;
  done: () => void = () => {};
  again = 0; // when it rings: rings once more, this many ms later

  constructor(name: string) {
    super();
    this.name = name;
  }

  at(time: number, shared = true): Promise<void> {
    this.set(time, 1_000, shared);
    return new Promise((resolve) => {
      this.done = resolve;
    });
  }

  off(): void {
    this.unset();
  }

  get on(): boolean {
    return this.isSet;
  }

  protected override ring(): void {
    expect(performance.now()).toBeGreaterThanOrEqual(this.ringsAt);
    rung.push(this.name);
    if (this.again === 0) this.done();
    else this.set(Math.ceil(performance.now()) + this.again, 1_000, true);
    this.again = 0;
  }
}

const timers = new Set<unknown>(); // those that are set
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

beforeAll(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
  const fake = { set: globalThis.setTimeout, clear: globalThis.clearTimeout };
  globalThis.setTimeout = ((call: (argument: unknown) => void, time: number, argument: unknown) => {
    const timer = fake.set(() => {
      timers.delete(timer);
      call(argument);
    }, time);
    timers.add(timer);
    return timer;
  }) as never;
  globalThis.clearTimeout = (timer) => {
    timers.delete(timer);
    fake.clear(timer as never);
  };
});

afterAll(() => void vi.useRealTimers());

test("they ring in the order of their times, whatever the order in which they are set; one timer for all", async () => {
  const now = Math.ceil(performance.now());
  const [a, b, c, d] = ["a", "b", "c", "d"].map((name) => new Bell(name)) as [Bell, Bell, Bell, Bell];
  const all = [b.at(now + 30), c.at(now + 60), a.at(now + 10), d.at(now + 60)];
  expect(timers.size).toBe(1);
  await pass(60);
  await Promise.all(all);
  expect(rung.splice(0)).toEqual(["a", "b", "c", "d"]);
  expect([a, b, c, d].map(({ on }) => on)).toEqual([false, false, false, false]);
  expect(timers.size).toBe(0);
});

test("one that is unset rings not, wherever it stands; when none is left there is no timer", async () => {
  const now = Math.ceil(performance.now());
  const bells = ["first", "middle", "last", "stays"].map((name) => new Bell(name)) as [
    Bell,
    Bell,
    Bell,
    Bell,
  ];
  const [first, middle, last, stays] = bells;
  void first.at(now + 5);
  void middle.at(now + 10);
  const stayed = stays.at(now + 20);
  void last.at(now + 30);
  for (const bell of [first, middle, last]) bell.off();
  await pass(20);
  await stayed;
  expect(rung.splice(0)).toEqual(["stays"]);
  void last.at(now + 1_000);
  last.off();
  last.off();
  expect(timers.size).toBe(0);
});

test("one that is set anew when it rings rings again, between the others; one that is moved rings once", async () => {
  const now = Math.ceil(performance.now());
  const [again, other, moved] = ["again", "other", "moved"].map((name) => new Bell(name)) as [
    Bell,
    Bell,
    Bell,
  ];
  again.again = 20;
  const all = [again.at(now + 10), other.at(now + 15), moved.at(now + 5)];
  all.push(moved.at(now + 60));
  await pass(60);
  await Promise.all(all.filter((_, i) => i !== 2));
  expect(rung.splice(0)).toEqual(["again", "other", "again", "moved"]);
});

test("one with a timer of its own is not held up by the others, nor by another clock", async () => {
  const now = Math.ceil(performance.now());
  const own = new Bell("own");
  const shared = new Bell("shared");
  const first = shared.at(now + 1_000);
  const alone = own.at(now + 5, false);
  await pass(5);
  await alone;
  const clock = globalThis.setTimeout;
  const held: unknown[] = [];
  globalThis.setTimeout = ((...call: unknown[]) => held.push(call)) as never;
  const elsewhere = new Bell("elsewhere");
  try {
    void elsewhere.at(now + 1);
  } finally {
    globalThis.setTimeout = clock;
  }
  expect(held.length).toBe(1); // that clock's timer, not the one that is set already
  shared.off();
  void first;
  expect(rung.splice(0)).toEqual(["own"]);
});
