/** Sessions inside workerd: their objects, the registry, and what becomes of both. */

import {
  evictDurableObject,
  listDurableObjectIds,
  runDurableObjectAlarm,
  runInDurableObject,
} from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Hono } from "hono";
import { defineApp, streamHandler } from "socklet";
import type { ControlPlane, SessionEvent, SessionInfo } from "socklet/control";
import { ConnectionSlots, createConnection, lasting, workerFor } from "socklet/worker";
import { afterEach, beforeEach, describe, expect, inject, test, vi } from "vitest";
import { newSessionId } from "../../core/control/plane.ts";
import { app as examples } from "../../examples/app.ts";
import { plane as planeFor, smallPlane } from "./sessions-main.ts";

const echo = `127.0.0.1:${inject("echoPort")}`;
const nobody = `127.0.0.1:${inject("nobodysPort")}`;
const PATIENCE = 120_000; // ms that a session may take to end: it takes a few
const plane = (): ControlPlane => planeFor(env); // a new one each time: an object of one request must not be used in another
const sessionObject = (id: string) => env.SOCKLET_SESSIONS.getByName(id);
const registryObject = () => env.SOCKLET_REGISTRY.getByName("registry");

const started: string[] = [];
const start = async (spec: Partial<Parameters<ControlPlane["start"]>[0]> = {}): Promise<SessionInfo> => {
  const info = await plane().start({ handler: "lines", address: echo, ...spec } as never);
  started.push(info.id);
  return info;
};
afterEach(async () => {
  for (const id of started.splice(0)) await plane().end(id);
});

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** The events of a session up to the first that `last` accepts. */
const follow = async (
  id: string,
  last: (event: SessionEvent) => boolean,
  after = 0,
): Promise<SessionEvent[]> => {
  const leaving = new AbortController();
  const seen: SessionEvent[] = [];
  for await (const event of (await plane().events(id, after, leaving.signal)) ?? []) {
    seen.push(event);
    if (last(event)) break;
  }
  leaving.abort();
  return seen;
};
const isType = (type: string) => (event: SessionEvent) => event.type === type;
const said = (text: string) => (event: SessionEvent) => event.type === "handler" && event.detail === text;
const opened = (id: string): Promise<SessionEvent[]> => follow(id, isType("open"));
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "no error",
    (error) => error.code ?? String(error),
  );

/** What the registry knows, without asking any object. */
const believed = (id: string): Promise<string | undefined> =>
  runInDurableObject(registryObject(), (_, state) => {
    const rows = state.storage.sql.exec<{ state: string }>("SELECT state FROM sessions WHERE id = ?", id);
    return rows.toArray()[0]?.state;
  });

/** When a session's object is called by its alarm, in ms since the epoch; `null`: never. */
const alarmOf = (id: string): Promise<number | null> =>
  runInDurableObject(sessionObject(id), (_, { storage }) => storage.getAlarm());

/** Loses a session's object, as a crash or a deployment does. */
const lose = async (id: string): Promise<void> => {
  await sessionObject(id)
    .lose()
    .catch(() => {});
};

/** Our own tables in an object. */
const tablesOf = (object: DurableObjectStub): Promise<unknown[]> =>
  runInDurableObject(object, (_, { storage }) => {
    const rows = storage.sql.exec(
      "SELECT name FROM sqlite_master WHERE name IN ('session', 'events') ORDER BY name",
    );
    return rows.toArray().map(({ name }) => name);
  });

test("what the platform would refuse is explained before it is dialled", async () => {
  const { id } = await start();
  const [connecting] = await follow(id, isType("connecting"));
  expect(connecting).toMatchObject({
    address: echo,
    hint: expect.stringContaining("only public addresses"),
  });
});

describe("a session", () => {
  test("is started, shown, sent to, followed and half-closed, and gives its result", async () => {
    const { id, state } = await start();
    expect(state).toBe("connecting");
    await opened(id);
    expect(await plane().get(id)).toMatchObject({
      handler: "lines",
      address: echo,
      peer: echo,
      state: "running",
    });
    await plane().send(id, bytes("one\ntwo\n"));
    await follow(id, said("two"));
    await plane().halfClose(id);
    const over = await plane().wait(id, PATIENCE);
    expect(over).toMatchObject({ state: "ended", result: 2, error: null, bytesRead: 8, bytesWritten: 8 });
    const events = await follow(id, () => false);
    expect(events.map(({ id, type }) => `${id} ${type}`)).toEqual([
      "1 connecting",
      "2 open",
      "3 sent",
      "4 handler",
      "5 handler",
      "6 halfClosed",
      "7 ended",
    ]);
    expect((await follow(id, () => false, 4)).map((event) => event.id)).toEqual([5, 6, 7]);
    expect(await codeOf(plane().send(id, bytes("late\n")))).toBe("ENOTCONN");
  });

  test("whose handler has closed its connection takes nothing more, before its record says that it is over", async () => {
    const { id } = await start({ handler: "closesFirst" });
    await follow(id, said("closed"));
    expect(await codeOf(plane().send(id, bytes("late\n")))).toBe("ENOTCONN");
    expect(await codeOf(plane().halfClose(id))).toBe("ENOTCONN");
    expect(await plane().get(id)).toMatchObject({ state: "running" });
  });

  test("is followed while it happens, from where a watcher left", async () => {
    const { id } = await start();
    const first = follow(id, said("a"));
    await opened(id);
    await plane().send(id, bytes("a\n"));
    const last = (await first).at(-1)?.id as number;
    const second = follow(id, said("b"), last);
    await plane().send(id, bytes("b\n"));
    expect((await second).map(({ type }) => type)).toEqual(["sent", "handler"]);
  });

  test("ends when it is asked to", async () => {
    const { id } = await start();
    await opened(id);
    const over = await plane().end(id);
    expect(over).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    expect(await plane().end(id)).toEqual(over);
    expect((await follow(id, () => false)).at(-1)?.type).toBe("cut");
  });

  test("is cut at its deadline", async () => {
    const { id } = await start({ deadline: 50 });
    expect(await plane().wait(id, PATIENCE)).toMatchObject({ state: "cut", error: { code: "ETIMEDOUT" } });
  });

  test("fails where nothing listens, and says what may be why", async () => {
    const { id } = await start({ address: nobody });
    const over = await plane().wait(id, PATIENCE);
    expect(over).toMatchObject({ state: "failed", error: { code: "ERR_CONNECT_FAILED" } });
    expect(over?.error?.message).toContain("nothing listens there");
    expect(over?.error?.message).toContain("dials only public addresses");
  });

  test("has a result of its own object; a list shows of a large one its size", async () => {
    const { id } = await start({ handler: "large", params: 100_000 });
    const over = await plane().wait(id, PATIENCE);
    expect(over?.result).toBe("x".repeat(100_000));
    expect(await plane().get(id)).toEqual(over);
    const { sessions } = await plane().list({ limit: 1 });
    expect(sessions).toMatchObject([{ id, result: { omitted: 100_002 } }]);
    const { id: larger } = await start({ handler: "large", params: 2_000_000 });
    expect(await plane().wait(larger, PATIENCE)).toMatchObject({
      state: "failed",
      error: { code: "ERR_LIMIT" },
    });
  });

  test.each([
    ["ends", "ok\n"],
    ["fails", "fail\n"],
  ])("tells no secret where it %s", async (_, line) => {
    const { id } = await start({ handler: "tells", params: { password: "the caller's own" } });
    await follow(id, isType("handler"));
    await plane().send(id, bytes(line));
    await plane().wait(id, PATIENCE);
    const record = await plane().get(id);
    const told = JSON.stringify([await follow(id, () => false), await plane().list({ limit: 1 })]);
    expect(told).not.toContain("the deployment's own");
    expect(told.replaceAll(JSON.stringify(record?.result), "")).not.toContain("the caller's own");
    expect(told).toContain("[redacted]");
    // The result is for the caller that passed the params, but still has none of the deployment's secrets.
    if (line === "ok\n")
      expect(record?.result).toEqual({ deployment: "[redacted]", caller: "the caller's own" });
    const kept = await runInDurableObject(sessionObject(id), (_, { storage }) =>
      JSON.stringify([
        storage.sql.exec("SELECT * FROM session").toArray(),
        storage.sql.exec("SELECT * FROM events").toArray(),
      ]),
    );
    expect(kept).not.toContain("the deployment's own");
  });

  test("is refused before anything is made of it", async () => {
    const before = (await listDurableObjectIds(env.SOCKLET_SESSIONS)).length;
    const specs = [
      [{ handler: "lines", address: "192.0.2.1:80" }, "ERR_REFUSED"],
      [{ handler: "lines", address: "127.0.0.1:0" }, "ERR_INVALID_ADDRESS"],
      [{ handler: "lines", address: "udp://127.0.0.1:53" }, "ERR_INVALID_ADDRESS"],
      [{ handler: "lines", address: "127.0.0.1:25" }, "ERR_UNSUPPORTED"],
      [{ dial: "nowhere" }, "ERR_UNSUPPORTED"],
      [{ dial: "nobody" }, "EINVAL"],
      [{ handler: "nobody", address: echo }, "EINVAL"],
      [{ handler: "constructor", address: echo }, "EINVAL"],
    ] as const;
    for (const [spec, code] of specs)
      expect(await codeOf(plane().start(spec)), JSON.stringify(spec)).toBe(code);
    expect((await listDurableObjectIds(env.SOCKLET_SESSIONS)).length).toBe(before);
  });

  test("that nobody has is not found, and leaves nothing behind", async () => {
    const id = newSessionId();
    expect(await plane().get(id)).toBeNull();
    expect(await plane().wait(id, 1_000)).toBeNull();
    expect(await plane().events(id, 0, new AbortController().signal)).toBeNull();
    expect(await plane().send(id, bytes("x"))).toBeNull();
    expect(await plane().halfClose(id)).toBeNull();
    expect(await plane().end(id)).toBeNull();
    expect(await tablesOf(sessionObject(id))).toEqual([]);
  });
});

describe("a list", () => {
  test("is newest first, in pages, by state and by handler", async () => {
    const before = newSessionId();
    const ids: string[] = [];
    for (let i = 0; i < 5; i++)
      ids.push((await start({ handler: i % 2 === 0 ? "lines" : "tells", params: { password: "" } })).id);
    const mine = async (query: Partial<Parameters<ControlPlane["list"]>[0]>): Promise<string[]> =>
      (await plane().list({ limit: 200, ...query })).sessions.map(({ id }) => id).filter((id) => id > before);
    const newest = ids.toReversed();
    expect(await mine({})).toEqual(newest);
    const first = await plane().list({ limit: 2 });
    expect(first.sessions.map(({ id }) => id)).toEqual(newest.slice(0, 2));
    const second = await plane().list({ limit: 2, before: first.next as string });
    expect(second.sessions.map(({ id }) => id)).toEqual(newest.slice(2, 4));
    expect(await mine({ handler: "tells" })).toEqual([ids[3], ids[1]]);
    for (const id of ids) await opened(id);
    await plane().end(ids[0] as string);
    expect(await mine({ state: "cut" })).toEqual([ids[0]]);
    expect(await mine({ state: "running" })).toEqual(newest.slice(0, 4));
    expect((await plane().list({ limit: 200, before: ids[0] as string })).next).toBeNull();
  });

  test("shows the bytes of those that run", async () => {
    const { id } = await start();
    await opened(id);
    await plane().send(id, bytes("12345\n"));
    await follow(id, said("12345"));
    expect((await plane().list({ limit: 1 })).sessions).toMatchObject([
      { id, bytesRead: 6, bytesWritten: 6 },
    ]);
  });

  test("writes no row of those that run as before, so its answer waits for no disk", async () => {
    const { id } = await start();
    await opened(id);
    const shown = async () => (await plane().list({ limit: 1 })).sessions;
    expect(await shown()).toMatchObject([{ id, state: "running" }]);
    await runInDurableObject(registryObject(), (_, { storage: { sql } }) => {
      sql.exec(`CREATE TABLE written (id TEXT);
        CREATE TRIGGER told_written AFTER UPDATE ON sessions BEGIN INSERT INTO written VALUES (new.id); END`);
    });
    const written = () =>
      runInDurableObject(registryObject(), (_, { storage: { sql } }) =>
        sql.exec("SELECT id FROM written WHERE id = ?", id).toArray(),
      );
    try {
      await plane().send(id, bytes("12345\n"));
      await follow(id, said("12345"));
      expect(await shown()).toMatchObject([{ id, bytesRead: 6, bytesWritten: 6 }]);
      await plane().list({ limit: 50, state: "failed" }); // asks all running sessions
      expect(await written()).toEqual([]);
      const over = (await plane().end(id)) as SessionInfo;
      await runInDurableObject(registryObject(), (registry) => registry.over(over));
      expect(await written()).toEqual([{ id }]); // once, whichever side reported it first
    } finally {
      await runInDurableObject(registryObject(), (_, { storage: { sql } }) => {
        sql.exec("DROP TRIGGER told_written; DROP TABLE written");
      });
    }
  });
});

describe("an object that is lost", () => {
  test("is a session that was cut: in its record, in the list, and for who follows it", async () => {
    const { id } = await start();
    const following = follow(id, () => false);
    await opened(id);
    await lose(id);
    expect(await believed(id)).toBe("connecting");
    expect((await plane().list({ limit: 1 })).sessions).toMatchObject([
      { id, state: "cut", error: { code: "ECONNABORTED" } },
    ]);
    expect(await plane().get(id)).toMatchObject({ state: "cut", error: { code: "ECONNABORTED" } });
    const events = await following;
    expect(events.map(({ type }) => type)).toEqual(["connecting", "open", "cut"]);
    expect(events.map((event) => event.id)).toEqual([1, 2, 3]);
    expect((await plane().list({ limit: 1, state: "cut" })).sessions).toMatchObject([{ id }]);
  });

  test("is found by a list of those that were cut, too", async () => {
    const { id } = await start();
    await opened(id);
    await lose(id);
    expect((await plane().list({ limit: 1, state: "cut" })).sessions).toMatchObject([{ id }]);
    expect((await plane().list({ limit: 50, state: "running" })).sessions.map((one) => one.id)).not.toContain(
      id,
    );
  });

  test("tells the registry by its alarm, where nobody asks", async () => {
    const { id } = await start();
    await opened(id);
    await lose(id);
    expect(await runDurableObjectAlarm(sessionObject(id))).toBe(true);
    expect(await believed(id)).toBe("cut");
    expect(await runDurableObjectAlarm(sessionObject(id))).toBe(false); // it has no more to say
  });

  test("in its beginning is cut, and the registry hears of it, whichever of the two was lost", async () => {
    const { id } = await start();
    await opened(id);
    await lose(id);
    const forgotten = () =>
      runInDurableObject(registryObject(), (_, { storage }) => {
        storage.sql.exec("DELETE FROM sessions WHERE id = ?", id);
      });
    await forgotten(); // as if the object had been lost before the registry knew it
    expect(await believed(id)).toBeUndefined();
    await runDurableObjectAlarm(sessionObject(id));
    expect(await believed(id)).toBe("cut");
    expect((await plane().list({ limit: 1 })).sessions).toMatchObject([
      { id, state: "cut", error: { code: "ECONNABORTED" } },
    ]);
  });

  test("and started again, as where the answer was lost, is the same session", async () => {
    const { id } = await start();
    await opened(id);
    await lose(id);
    const again = await runInDurableObject(sessionObject(id), (object) =>
      object.start(id, { handler: "lines", address: echo }),
    );
    expect(again).toMatchObject({ value: { id, state: "cut", error: { code: "ECONNABORTED" } } });
    const info = (await plane().get(id)) as SessionInfo;
    await runInDurableObject(registryObject(), async (registry) => {
      expect(await registry.add(info)).toEqual({ value: null });
      expect(await registry.add({ ...info, state: "running", endedAt: null })).toEqual({ value: null });
    });
    expect(await plane().get(id)).toEqual(info);
    expect((await plane().list({ limit: 1 })).sessions).toEqual([info]);
  });

  test("is asked after by the registry, where it should long be over and has told nothing", async () => {
    const { id, startedAt } = await start();
    await opened(id);
    await lose(id);
    await runInDurableObject(registryObject(), (_, { storage }) => {
      const dayBefore = new Date(Date.parse(startedAt) - 2 * 86_400_000).toISOString();
      storage.sql.exec(
        "UPDATE sessions SET info = json_replace(info, '$.startedAt', ?) WHERE id = ?",
        dayBefore,
        id,
      );
    });
    expect(await runDurableObjectAlarm(registryObject())).toBe(true);
    expect(await believed(id)).toBe("cut");
  });
});

test("what the registry lists and has no record is no session, and is listed no more", async () => {
  const { id } = await start();
  const over = (await plane().end(id)) as SessionInfo;
  await runInDurableObject(registryObject(), async (registry) => {
    await registry.add({ ...over, id: newSessionId(), state: "connecting", endedAt: null });
  });
  expect((await plane().list({ limit: 1 })).sessions).toEqual([over]);
});

describe("an object that rests", () => {
  test("is kept by its alarm while its session runs, and has none afterwards", async () => {
    const { id } = await start();
    await opened(id);
    for (let i = 0; i < 3; i++) expect(await runDurableObjectAlarm(sessionObject(id))).toBe(true);
    expect(await plane().get(id)).toMatchObject({ state: "running" });
    await plane().end(id);
    await expect.poll(() => alarmOf(id)).toBeNull(); // when it has told the registry
    expect(await believed(id)).toBe("cut");
  });

  test("has its record and events after it was evicted", async () => {
    const { id } = await start({ handler: "large", params: 10 });
    const over = await plane().wait(id, PATIENCE);
    const events = await follow(id, () => false);
    await evictDurableObject(sessionObject(id));
    await evictDurableObject(registryObject());
    expect(await plane().get(id)).toEqual(over);
    expect(await follow(id, () => false)).toEqual(events);
    expect((await plane().list({ limit: 1 })).sessions).toEqual([over]);
  });
});

describe("a scheduled session", () => {
  const waiting = isType("waiting");
  // Of two schedules the one whose next time is months away: it does not come while the tests run.
  const now = new Date();
  const midYear = now.getUTCMonth() < 3 || now.getUTCMonth() >= 9;
  const dial = midYear ? "midYear" : "newYear";
  const timeIn = (year: number): string => `${year}-${midYear ? "07" : "01"}-01T00:00:00.000Z`;
  const year = now.getUTCFullYear() + (now.getUTCMonth() < 3 ? 0 : 1); // of its next time

  test("waits for its time, for which its object sets its alarm, and is not dialled before", async () => {
    const { id, state, kept } = await plane().start({ dial });
    started.push(id);
    expect({ state, kept }).toMatchObject({
      state: "waiting",
      kept: { attempt: 0, next: timeIn(year) },
    });
    expect(await alarmOf(id)).toBe(Date.parse(timeIn(year)));
    expect(await runDurableObjectAlarm(sessionObject(id))).toBe(true); // too early
    expect(await alarmOf(id)).toBe(Date.parse(timeIn(year)));
    expect(await plane().get(id)).toMatchObject({ state: "waiting", kept: { attempt: 0 } });
  });

  test("is dialled once for a time that passed while its object was away, and waits for the next", async () => {
    const { id } = await plane().start({ dial });
    started.push(id);
    await runInDurableObject(sessionObject(id), (_, { storage }) => {
      storage.sql.exec("UPDATE session SET info = json_set(info, '$.kept.next', ?)", timeIn(year - 1));
    });
    await evictDurableObject(sessionObject(id));
    const events = await follow(id, (event) => waiting(event) && event.id > 1); // which wakes the object
    expect(events.map(({ type }) => type)).toEqual(["waiting", "connecting", "waiting"]);
    expect(await plane().get(id)).toMatchObject({
      state: "waiting",
      kept: { attempt: 1, next: timeIn(year), attempts: [{ number: 1, how: "failed" }] },
    });
    expect(await alarmOf(id)).toBe(Date.parse(timeIn(year)));
  });

  test("that is ended is over, and has no alarm", async () => {
    const { id } = await plane().start({ dial });
    expect(await plane().end(id)).toMatchObject({ state: "cut", kept: { attempt: 0, next: null } });
    await expect.poll(() => alarmOf(id)).toBeNull(); // when it has told the registry
  });
});

describe("an app whose sessions last", () => {
  const appWith = (schedule: string) =>
    defineApp({
      handlers: { one: streamHandler(() => {}) },
      dial: { log: { handler: "one", address: "127.0.0.1:1", keep: { schedule } } },
    });

  test("needs the code for it, which a Worker has only if asked", () => {
    expect(() => workerFor(appWith("0 6 * * *"))).toThrow(
      /ERR_APP: dial\.log has keep.*workerFor\(app, \{ lasting \}\)/,
    );
    expect(() => workerFor(appWith("0 6 * * *"), { lasting })).not.toThrow();
  });

  test("is told of a schedule that is none", () => {
    expect(() => workerFor(appWith("0 6 30 2 *"), { lasting })).toThrow(
      /ERR_APP: dial\.log\.keep\.schedule is "0 6 30 2 \*"; no such time comes/,
    );
  });
});

describe("bounds", () => {
  const small = (): ControlPlane => smallPlane(env);
  const registry = () => env.SMALL_REGISTRY.getByName("registry");
  const running: string[] = [];
  const run = async (params: number): Promise<string> => {
    const { id } = await small().start({ handler: "large", address: echo, params });
    await small().wait(id, PATIENCE);
    return id;
  };
  const hold = async (): Promise<string> => {
    const { id } = await small().start({ handler: "lines", address: echo });
    running.push(id);
    return id;
  };
  const ids = async (): Promise<string[]> => (await small().list({ limit: 50 })).sessions.map(({ id }) => id);

  beforeEach(async () => {
    for (const id of running.splice(0)) await small().end(id);
  });

  test("only so many run at once, and those that were lost are none of them", async () => {
    const first = await hold();
    await hold();
    expect(await codeOf(hold())).toBe("ERR_LIMIT");
    await small().end(first);
    const third = await hold();
    expect(await codeOf(hold())).toBe("ERR_LIMIT");
    await runInDurableObject(env.SMALL_SESSIONS.getByName(third), (_, state) => state.abort("lost")).catch(
      () => {},
    );
    await hold();
  });

  test("the history is bounded by count: the oldest go, and their objects' storage with them", async () => {
    const made: string[] = [];
    for (let i = 0; i < 5; i++) made.push(await run(i));
    await ids(); // all have been reported to the registry
    await runDurableObjectAlarm(registry());
    await expect.poll(ids).toEqual(made.slice(-3).toReversed()); // the alarm may have come by itself, and be under way
    expect(await small().get(made[0] as string)).toBeNull();
    expect(await small().get(made[4] as string)).toMatchObject({ state: "ended" });
    expect(await tablesOf(env.SMALL_SESSIONS.getByName(made[0] as string))).toEqual([]);
    expect(await tablesOf(env.SMALL_SESSIONS.getByName(made[4] as string))).toEqual(["events", "session"]);
  });

  test("and by age", async () => {
    const id = await run(1);
    await ids();
    const week = 7 * 86_400_000;
    const alarm = () => runInDurableObject(registry(), (_, { storage }) => storage.getAlarm());
    await expect.poll(alarm).not.toBeNull(); // there is none while one is under way: that of one session too many
    await runInDurableObject(registry(), (_, { storage }) => {
      storage.sql.exec("UPDATE sessions SET ended = ended - ? WHERE id <> ?", week, id);
    });
    await runDurableObjectAlarm(registry());
    await expect.poll(ids).toEqual([id]);
  });

  test("many at once, each with its own record", async () => {
    const many = await Promise.all(
      Array.from({ length: 40 }, (_, i) => plane().start({ handler: "large", address: echo, params: i })),
    );
    const over = await Promise.all(many.map(({ id }) => plane().wait(id, PATIENCE)));
    expect(over.map((info) => (info?.result as string)?.length)).toEqual(many.map((_, i) => i));
  });
});

describe("a registry of many sessions", () => {
  const MANY = 3_000;
  const registry = () => env.SOCKLET_REGISTRY.getByName("many");
  const info = (n: number): SessionInfo => ({
    id: `00000000-0000-7000-8000-${String(n).padStart(12, "0")}`,
    handler: n % 3 === 0 ? "third" : "lines",
    direction: "outbound",
    address: echo,
    peer: null,
    state: "ended",
    startedAt: new Date(1_000 * n).toISOString(),
    endedAt: new Date(Date.now() + n).toISOString(),
    bytesRead: 0,
    bytesWritten: 0,
    result: null,
    error: null,
    kept: null,
  });

  beforeEach(() =>
    runInDurableObject(registry(), (_, { storage }) => {
      storage.transactionSync(() => {
        storage.sql.exec("DELETE FROM sessions");
        for (let n = 1; n <= MANY; n++) {
          const one = info(n);
          const ended = Date.parse(one.endedAt as string);
          storage.sql.exec(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?)",
            ...[one.id, one.handler, one.state, ended, JSON.stringify(one)],
          );
        }
      });
    }),
  );

  /** How many rows SQLite reads for `work`. */
  const rowsRead = async (sql: SqlStorage, work: () => Promise<unknown>): Promise<number> => {
    const cursors: SqlStorageCursor<never>[] = [];
    const { exec } = Object.getPrototypeOf(sql) as SqlStorage;
    const spy = vi.spyOn(Object.getPrototypeOf(sql), "exec").mockImplementation(function (
      this: unknown,
      ...call: unknown[]
    ) {
      const cursor = exec.apply(this as SqlStorage, call as Parameters<typeof exec>);
      cursors.push(cursor as never);
      return cursor;
    });
    await work().finally(() => spy.mockRestore());
    return cursors.reduce((sum, cursor) => sum + cursor.rowsRead, 0);
  };

  test("reads the rows of what is asked, and no others", () =>
    runInDurableObject(registry(), async (object, { storage }) => {
      const { sql } = storage;
      const ids = async (query: object): Promise<string[]> =>
        (await object.list({ limit: 50, ...query })).sessions.map(({ id }) => id);
      const from = (...ns: number[]): string[] => ns.map((n) => info(n).id);
      const page = (last: number): string[] => from(...Array.from({ length: 50 }, (_, i) => last - i));
      const asked: readonly (readonly [query: object, right: string[]])[] = [
        [{}, page(MANY)],
        [{ before: info(51).id }, page(50)],
        [{ state: "failed" }, []],
        [{ handler: "none" }, []],
        [{ handler: "third", limit: 2, before: info(10).id }, from(9, 6)],
        [{ handler: "third", state: "ended", limit: 2 }, from(3_000, 2_997)],
      ];
      for (const [query, right] of asked) {
        expect([query, await ids(query)]).toEqual([query, right]);
        expect([query, (await rowsRead(sql, () => ids(query))) <= 250]).toEqual([query, true]);
      }
      const running = { ...info(MANY + 1), state: "running", endedAt: null } as const;
      const life = async (): Promise<void> => {
        await object.add(running);
        await object.over({ ...running, state: "failed", endedAt: new Date().toISOString() });
      };
      // There are more than are kept. The alarm would come at once, and delete some before they are counted here or in the next test.
      const alarm = vi.spyOn(storage, "setAlarm").mockResolvedValue();
      expect(await rowsRead(sql, life)).toBeLessThan(1_500); // of which 12 times a batch of those to delete
      expect(alarm).toHaveBeenCalled();
      alarm.mockRestore();
      expect(await object.counts()).toEqual([
        { state: "ended", count: MANY },
        { state: "failed", count: 1 },
      ]);
    }));

  test("one of a former version is counted when it is used again", async () => {
    await runInDurableObject(registry(), (_, { storage: { sql } }) => {
      sql.exec("DROP TABLE tally; DROP TRIGGER added; DROP TRIGGER changed; DROP TRIGGER removed");
    });
    await evictDurableObject(registry());
    await runInDurableObject(registry(), async (object) => {
      expect(await object.counts()).toEqual([{ state: "ended", count: MANY }]);
    });
  });
});

describe("the control routes of a Worker", () => {
  const authorization = { headers: { authorization: "Bearer abcdefghijklmnop0123" } };
  const worker = workerFor(examples, { lasting });
  const context = { waitUntil() {}, passThroughOnException() {} } as unknown as ExecutionContext;

  test("can be mounted in a Hono app, under a path of its own or as routes", async () => {
    const hono = new Hono<{ Bindings: typeof env }>()
      .get("/", (c) => c.text("mine"))
      .mount("/ops", worker.fetch)
      .route("/", worker.routes);
    const get = (path: string, init = {}) => hono.request(path, init, env, context);
    expect(await (await get("/")).text()).toBe("mine");
    for (const path of ["/v1", "/ops/v1"]) {
      expect(await (await get(`${path}/health`)).json()).toMatchObject({
        status: "ok",
        listeners: examples.listeners.length,
      });
      expect((await get(`${path}/sessions`)).status).toBe(401);
      expect((await get(`${path}/sessions`, authorization)).status).toBe(200);
    }
  });

  test("are shut without a token, and not ready without bindings", async () => {
    const ask = (path: string, bindings: object) =>
      worker.fetch(new Request(`http://x/v1/${path}`, authorization), bindings, context);
    expect((await ask("sessions", {})).status).toBe(503);
    expect((await ask("health", {})).status).toBe(200);
    const missing = await ask("ready", { SOCKLET_TOKENS: "abcdefghijklmnop0123" });
    expect([missing.status, await missing.text()]).toEqual([
      503,
      expect.stringContaining("SOCKLET_REGISTRY"),
    ]);
    const answer = await ask("sessions", { SOCKLET_TOKENS: "abcdefghijklmnop0123" });
    expect([answer.status, await answer.text()]).toEqual([503, expect.stringContaining("SockletSession")]);
  });
});

describe("connections of one request", () => {
  test("one beyond the slots waits its turn, and can stop waiting", async () => {
    const slots = new ConnectionSlots(2);
    const dial = (signal?: AbortSignal) => createConnection(echo, { slots, signal });
    const [first, second] = [await dial(), await dial()];
    const order: string[] = [];
    const third = dial().then((socket) => {
      order.push("third opens");
      return socket;
    });
    const impatient = new AbortController();
    const fourth = codeOf(dial(impatient.signal));
    const fifth = dial();
    for (const socket of [first, second]) {
      await socket.sendall("hello\n"); // a round trip: had the third been let in, it would be open by now
      expect(await socket.rfile.line()).toBe("hello");
    }
    impatient.abort(Object.assign(new Error(), { code: "gave up" }));
    expect(await fourth).toBe("gave up");
    order.push("first closes");
    await first.close();
    const thirdSocket = await third;
    expect(order).toEqual(["first closes", "third opens"]);
    await second.close();
    for (const socket of [thirdSocket, await fifth]) {
      await socket.sendall("hello\n");
      expect(await socket.rfile.line()).toBe("hello");
      await socket.close();
    }
    expect(await codeOf(createConnection(nobody, { slots }))).toBe("ERR_CONNECT_FAILED");
    await Promise.all([dial(), dial()].map(async (socket) => (await socket).close())); // a failed dial gave its slot back
  });
});
