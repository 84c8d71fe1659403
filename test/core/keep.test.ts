/** Lasting sessions: dialled again, they continue where they were, and report everything once. In memory. */

import { type App, defineApp, type KeepOptions, StreamRequestHandler } from "socklet";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { SessionEvent, SessionInfo } from "../../core/control/plane.ts";
import { SESSION_LIMITS } from "../../core/control/plane.ts";
import type { SessionChange } from "../../core/control/sessions/commits.ts";
import { LastingSession } from "../../core/control/sessions/lasting.ts";
import type { Session, SessionOptions } from "../../core/control/sessions/session.ts";
import { redialDelay, settleKeep } from "../../core/handlers/keep.ts";
import { MemoryPlace } from "./control-setup.ts";

/** Asks for the lines after the last that it has, which is its state, and tells each. */
class Tail extends StreamRequestHandler<unknown, unknown, { last: number }> {
  override readonly initialState = { last: 0 };
  override async handle() {
    this.wfile.write(`after ${this.state.last}\n`);
    for await (const line of this.rfile.lines()) {
      if (line === "throw") throw new Error("as it was told");
      if (line === "done") return this.done(this.state.last);
      this.emit(line);
      await this.save({ last: Number(line) });
    }
    return this.state.last;
  }
}

const appWith = (keep: KeepOptions, address = "10.0.0.2:7"): App =>
  defineApp({ handlers: { Tail }, dial: { tail: { handler: "Tail", address, keep } } }) as unknown as App;

const SOON: KeepOptions = { redial: { retryDelay: 1, maxRetryDelay: 1, steady: 0 } };

const placeOf = (keep: KeepOptions = SOON, address?: string): MemoryPlace =>
  new MemoryPlace({ app: appWith(keep, address) });

const eventsOf = async function* (place: MemoryPlace, id: string): AsyncGenerator<SessionEvent> {
  yield* (await place.plane.events(id, 0, new AbortController().signal)) ?? [];
};

/** Follows until an event of this type. */
const until = async (place: MemoryPlace, id: string, type: string, times = 1): Promise<SessionEvent[]> => {
  const seen: SessionEvent[] = [];
  for await (const event of eventsOf(place, id)) {
    seen.push(event);
    if (event.type === type && --times === 0) return seen;
  }
  throw new Error(`its events ended without ${type}`);
};

/** The server's end of the session's connection `number`, from 1, when that is open. */
const client = async (place: MemoryPlace, id: string, number: number) => {
  await until(place, id, "open", number);
  return place.clients.at(-1) as MemoryPlace["clients"][0];
};

const info = async (place: MemoryPlace, id: string): Promise<SessionInfo> =>
  (await place.plane.get(id)) as SessionInfo;

afterEach(() => {
  vi.useRealTimers();
});

describe("a session that lasts", () => {
  test("is dialled again after an end, a reset and an error, and goes on where it was", async () => {
    const place = placeOf();
    const { id, kept } = await place.plane.start({ dial: "tail" });
    expect(kept?.attempt).toBe(1);
    const first = await client(place, id, 1);
    expect(await first.rfile.line()).toBe("after 0");
    await first.sendall("1\n2\n");
    await until(place, id, "handler", 2);
    await first.close();
    const second = await client(place, id, 2);
    expect(await second.rfile.line()).toBe("after 2");
    await second.sendall("3\n");
    await until(place, id, "handler", 3);
    second.abort();
    const third = await client(place, id, 3);
    expect(await third.rfile.line()).toBe("after 3");
    await third.sendall("throw\n");
    const fourth = await client(place, id, 4);
    expect(await fourth.rfile.line()).toBe("after 3");
    const running = await info(place, id);
    expect(running).toMatchObject({ state: "running", result: null, error: null, endedAt: null });
    expect(running.kept).toMatchObject({
      attempt: 4,
      next: null,
      attempts: [
        { number: 1, how: "ended", error: null },
        { number: 2, how: "failed", error: { code: "ECONNRESET" } },
        { number: 3, how: "failed", error: { code: "ERR_HANDLER", message: "ERR_HANDLER: as it was told" } },
      ],
    });
    expect(running.bytesRead).toBe(12); // of all its connections
    const told = place.heard.filter(({ type }) => type === "error");
    expect(told).toMatchObject([
      { server: "Tail", address: null, error: { code: "ECONNRESET" } },
      { server: "Tail", address: null, error: { message: "as it was told" } },
    ]);
    await fourth.sendall("done\n");
    const events = await until(place, id, "ended");
    expect(events.filter(({ type }) => type === "handler")).toMatchObject(
      ["1", "2", "3"].map((detail) => ({ detail })),
    );
    expect(events.map(({ id }) => id)).toEqual(events.map((_, i) => i + 1));
    expect(await info(place, id)).toMatchObject({
      state: "ended",
      result: 3,
      kept: { attempt: 4, next: null },
    });
    await place.plane.close();
  });

  test("stays ended where that was asked for: while it runs, and while it waits", async () => {
    const place = placeOf({ redial: { retryDelay: 100_000, maxRetryDelay: 100_000 } });
    const running = await place.plane.start({ dial: "tail" });
    await client(place, running.id, 1);
    expect(await place.plane.end(running.id)).toMatchObject({
      state: "cut",
      error: { code: "ECANCELED" },
      kept: { attempt: 1, next: null, attempts: [{ number: 1, how: "cut" }] },
    });
    const waiting = await place.plane.start({ dial: "tail" });
    await (await client(place, waiting.id, 1)).close();
    await until(place, waiting.id, "waiting");
    expect(await info(place, waiting.id)).toMatchObject({ state: "waiting", peer: null });
    await expect(place.plane.send(waiting.id, Uint8Array.of(1))).rejects.toMatchObject({ code: "ENOTCONN" });
    expect(await place.plane.end(waiting.id)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    expect(place.plane.health().running).toBe(0);
    expect(place.dialled).toHaveLength(2);
    expect(place.heard.filter(({ type }) => type === "error")).toEqual([]); // what was asked for is no error
    await place.plane.close();
  });

  test("that cannot be dialled waits longer each time, and fails when its attempts are used up", async () => {
    const place = placeOf({ redial: { retryDelay: 1, maxRetryDelay: 4, maxAttempts: 4 } }, "10.0.0.9:7");
    const { id } = await place.plane.start({ dial: "tail" });
    const events = await until(place, id, "failed");
    expect(events.filter(({ type }) => type === "waiting")).toHaveLength(3);
    expect(await info(place, id)).toMatchObject({
      state: "failed",
      error: { code: "ECONNREFUSED" },
      kept: { attempt: 4, failures: 4, attempts: [1, 2, 3, 4].map((number) => ({ number, openedAt: null })) },
    });
  });

  test("keeps its last attempts, and counts all", async () => {
    const place = placeOf({ redial: { retryDelay: 1, maxRetryDelay: 1, maxAttempts: 30 } }, "10.0.0.9:7");
    const { id } = await place.plane.start({ dial: "tail" });
    await until(place, id, "failed");
    const { kept } = await info(place, id);
    expect(kept?.attempts.map(({ number }) => number)).toEqual(
      Array.from({ length: SESSION_LIMITS.attempts }, (_, i) => 11 + i),
    );
  });

  test("begins anew each time where it does not resume", async () => {
    const place = placeOf({ ...SOON, resume: false });
    const { id } = await place.plane.start({ dial: "tail" });
    const first = await client(place, id, 1);
    await first.sendall("1\n");
    await until(place, id, "handler");
    await first.close();
    const second = await client(place, id, 2);
    expect(await second.rfile.line()).toBe("after 0");
    await place.plane.end(id);
  });

  test("has no deadline unless one is given, which cuts it also while it waits", async () => {
    const place = placeOf({ redial: { retryDelay: 100_000, maxRetryDelay: 100_000 } });
    const { id } = await place.plane.start({ dial: "tail", deadline: 50 });
    await (await client(place, id, 1)).close();
    await until(place, id, "cut");
    expect(await info(place, id)).toMatchObject({
      state: "cut",
      error: {
        code: "ETIMEDOUT",
        message: expect.stringMatching(/deadline of 50 ms passed; one that lasts has none/),
      },
    });
    const lasting = await place.plane.start({ dial: "tail" });
    const second = await client(place, lasting.id, 1);
    vi.useFakeTimers({ toFake: ["setTimeout", "Date"] });
    await vi.advanceTimersByTimeAsync(3 * 86_400_000);
    vi.useRealTimers();
    expect(await info(place, lasting.id)).toMatchObject({ state: "running" });
    await second.close();
    await place.plane.end(lasting.id);
  });

  test("is cut with its process where nothing keeps it beyond", async () => {
    const place = placeOf();
    const { id } = await place.plane.start({ dial: "tail" });
    await client(place, id, 1);
    await place.plane.close();
    expect(await info(place, id)).toMatchObject({ state: "cut" });
  });
});

describe("a schedule", () => {
  test("dials at its times, and waits in between", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date"], now: Date.UTC(2026, 10, 29, 5, 58) });
    const place = placeOf({ schedule: "0 6 * * *" });
    const { id, state, kept } = await place.plane.start({ dial: "tail" });
    expect([state, kept?.attempt, kept?.next]).toEqual(["waiting", 0, "2026-11-29T06:00:00.000Z"]);
    expect(place.dialled).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(119_999);
    expect(place.dialled).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(1);
    expect(place.dialled).toHaveLength(1);
    const first = place.clients[0] as MemoryPlace["clients"][0];
    await first.sendall("1\n");
    await vi.advanceTimersByTimeAsync(1);
    void first.close();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await info(place, id)).toMatchObject({
      state: "waiting",
      kept: { next: "2026-11-30T06:00:00.000Z", failures: 0 },
    });
    await vi.advanceTimersByTimeAsync(86_400_000);
    expect(place.dialled).toHaveLength(2);
    // What fails is dialled again, before its next time.
    (place.clients[1] as MemoryPlace["clients"][0]).abort();
    await vi.advanceTimersByTimeAsync(1_001);
    expect(place.dialled).toHaveLength(3);
    void place.plane.end(id);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(await info(place, id)).toMatchObject({ state: "cut" });
  });

  test.each([
    ["61 * * * *", /dial\.tail\.keep\.schedule is "61 \* \* \* \*"; the minute is \*, or .*; not "61"/],
    ["* * * * * *", /five fields/],
    ["0 0 30 2 *", /no such time comes/],
    ["", /MINUTE HOUR DAY MONTH WEEKDAY/],
  ])("that is none is told by the plane that would keep to it: %j", (schedule, says) => {
    expect(() => placeOf({ schedule })).toThrow(says);
  });
});

/** Wakes a session when it wants that, until it is over. */
const driven = async (session: Session): Promise<void> => {
  for await (const { type } of session.events()) {
    const { wakeAt } = session;
    if (type !== "waiting" || wakeAt === null) continue;
    await new Promise((resolve) => setTimeout(resolve, wakeAt - Date.now()));
    while (session.wakeAt !== null && session.wakeAt === wakeAt) session.wake(); // a timer may be a little early
  }
};

describe("what is emitted and saved in one turn", () => {
  /** Each change of a session that is kept in `changes`; a run that tells what `lines` say. */
  const stored = (lines: () => AsyncIterable<number>) => {
    const changes: SessionChange[] = [];
    const options = (save: (change: SessionChange) => void): SessionOptions => ({
      id: "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80",
      handler: "Tail",
      address: "10.0.0.1:7",
      deadline: null,
      keep: settleKeep(SOON),
      store: {
        save: async (change) => {
          await null;
          save(structuredClone(change));
        },
      },
      run: async ({ emit, keeper }) => {
        for await (const line of lines()) {
          const { last } = (keeper?.state ?? { last: 0 }) as { last: number };
          if (line <= last) continue;
          emit(line);
          emit(-line);
          await keeper?.save({ last: line });
        }
        keeper?.done();
        return "all";
      },
    });
    return { changes, options };
  };

  test("is told once, whichever change the process was lost after", async () => {
    const lines = async function* () {
      for (let line = 1; line <= 6; line++) yield line;
    };
    const { changes, options } = stored(lines);
    const whole = LastingSession.start(options((change) => changes.push(change)));
    await whole.whenOver;
    expect(changes.length).toBeGreaterThan(6);
    for (let lost = 1; lost < changes.length; lost++) {
      const kept = changes.slice(0, lost);
      const { info } = kept.at(-1) as SessionChange;
      const events = kept.flatMap(({ events }) => events);
      const state = kept.reduce<string | null>((before, { state }) => state ?? before, null);
      const session = LastingSession.resume(
        { info, events, state },
        options(() => {}),
      );
      while (!session.over) {
        session.wake();
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      const told: unknown[] = [];
      for await (const event of session.events()) if (event.type === "handler") told.push(event.detail);
      expect([lost, told]).toEqual([lost, [1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6]]);
      expect(session.info()).toMatchObject({ state: "ended", result: "all" });
    }
  });

  test("is not there where it cannot be kept, and then the attempt ends, and the next one tells it", async () => {
    const lines = async function* () {
      for (let line = 1; line <= 3; line++) yield line;
    };
    const { options } = stored(lines);
    let fails = true;
    const session = LastingSession.start(
      options(({ state }) => {
        if (state === null || !state.includes("2") || !fails) return;
        fails = false;
        throw new Error("the disk is full");
      }),
    );
    await driven(session);
    const told: unknown[] = [];
    const ids: number[] = [];
    for await (const event of session.events()) {
      ids.push(event.id);
      if (event.type === "handler") told.push(event.detail);
    }
    expect(told).toEqual([1, -1, 2, -2, 3, -3]);
    expect(ids).toEqual(ids.map((_, i) => i + 1));
    expect(session.info().kept?.attempts).toMatchObject([
      { number: 1, how: "cut", error: { message: expect.stringContaining("the disk is full") } },
      { number: 2, how: "ended" },
    ]);
  });
});

describe("the options of keep", () => {
  test.each<[KeepOptions, RegExp]>([
    [{ redial: { retryDelay: 0 } }, /dial\.tail\.keep\.redial\.retryDelay must be 1 to \d+ ms, not 0/],
    [
      { redial: { retryDelay: 100, maxRetryDelay: 10 } },
      /maxRetryDelay is 10 ms, less than redial\.retryDelay, 100 ms/,
    ],
    [{ redial: { maxAttempts: 0 } }, /redial\.maxAttempts must be a whole number of 1 or more, not 0/],
    [
      { redial: { retryDealy: 5 } } as never,
      /has no option keep\.redial\.retryDealy; did you mean keep\.redial\.retryDelay/,
    ],
    [{ resume: "yes" } as never, /keep.resume of dial.tail is true or false, not "yes"/],
    [{ schedule: 5 } as never, /keep.schedule of dial.tail is a string, not 5/],
  ])("are checked where the app is defined: %j", (keep, says) => {
    expect(() => appWith(keep)).toThrow(says);
  });

  test("the pause is half of its time or more, twice as long each time, up to its limit", () => {
    const { redial } = settleKeep({ redial: { retryDelay: 1_000, maxRetryDelay: 60_000 } });
    for (const [failures, longest] of [
      [0, 1_000],
      [1, 1_000],
      [2, 2_000],
      [6, 32_000],
      [7, 60_000],
      [1_000, 60_000],
    ] as const) {
      const delays = Array.from({ length: 200 }, () => redialDelay(redial, failures));
      expect(Math.min(...delays)).toBeGreaterThanOrEqual(longest / 2);
      expect(Math.max(...delays)).toBeLessThanOrEqual(longest);
      expect(new Set(delays).size).toBeGreaterThan(20); // those who lost the same server do not all come at once
    }
  });
});
