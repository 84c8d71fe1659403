import { afterEach, describe, expect, test, vi } from "vitest";
import { defineApp } from "../../core/app/app.ts";
import { STREAM_LIMITS } from "../../core/bytes/data.ts";
import { eventStream, readEvents } from "../../core/control/http/sse.ts";
import type { SessionEvent, SessionInfo } from "../../core/control/index.ts";
import { isSessionId, newSessionId, SESSION_LIMITS, sessionTarget } from "../../core/control/plane.ts";
import type { SessionStore } from "../../core/control/sessions/commits.ts";
import { Session, type SessionOptions } from "../../core/control/sessions/session.ts";
import { SocketError } from "../../core/errors.ts";
import { AllowList } from "../../core/net/access.ts";
import { app, eventsUntil, follow, MemoryPlace } from "./control-setup.ts";

const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    (value) => ["no error", value],
    (error) => error.code ?? error,
  );

const ask = { handler: "Ask", address: "10.0.0.1:7" } as const;
const followed = { handler: "Follow", address: "10.0.0.2:7" } as const;
const MINUTE = 60_000;

afterEach(() => {
  vi.useRealTimers();
});

describe("a session", () => {
  test("runs a handler and keeps what it gave", async () => {
    const { plane, dialled } = new MemoryPlace();
    const started = await plane.start({ ...ask, params: "hi" });
    expect(started).toMatchObject({ state: "connecting", direction: "outbound", peer: null, endedAt: null });
    expect(await plane.get(started.id)).toMatchObject({ id: started.id });
    const ended = await plane.wait(started.id, MINUTE);
    expect(ended).toMatchObject({
      handler: "Ask",
      address: "10.0.0.1:7",
      state: "ended",
      bytesRead: 3,
      bytesWritten: 3,
      result: "hi",
      error: null,
    });
    expect(ended?.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(Date.parse(ended?.endedAt as string)).toBeGreaterThanOrEqual(Date.parse(started.startedAt));
    expect(dialled).toEqual(["10.0.0.1:7"]);
    const types = (await follow(plane, started.id, "ended")).map(({ id, type }) => [id, type]);
    expect(types).toEqual([
      [1, "connecting"],
      [2, "open"],
      [3, "ended"],
    ]);
  });

  test("by a dial entry dials what the app says, which no rule need allow", async () => {
    const target = sessionTarget(app, { dial: "greeter" }, new AllowList([]));
    expect(target).toMatchObject({ handler: "Ask", address: "tcp://10.0.0.1:7", secureTransport: "off" });
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ dial: "greeter" });
    expect(await plane.wait(id, MINUTE)).toMatchObject({ state: "ended", result: "hello" });
  });

  test("by a dial entry that has TLS is dialled in plain text if its caller says so", () => {
    const dial = { secured: { handler: "Ask", address: "10.0.0.1:7", tls: { serverName: "example.org" } } };
    const secured = defineApp({ handlers: app.handlers, dial });
    const target = (spec: object) => sessionTarget(secured, { dial: "secured", ...spec }, new AllowList([]));
    expect(target({})).toMatchObject({ secureTransport: "on", tls: { serverName: "example.org" } });
    const plain = target({ secureTransport: "off" });
    expect([plain.secureTransport, plain.tls]).toEqual(["off", undefined]);
  });

  test("has bytes and big integers in its result, as JSON says them", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...ask, handler: "GivesBytes" });
    expect((await plane.wait(id, MINUTE))?.result).toEqual({
      bytes: { base64: "AQID" },
      big: String(2n ** 70n),
    });
  });

  test.each([
    ["is not allowed", { ...ask, address: "192.168.0.1:7" }, "ERR_REFUSED"],
    ["is not allowed in another spelling", { ...ask, address: "0xc0.168.1:7" }, "ERR_REFUSED"],
    ["has no such handler", { ...ask, handler: "Nobody" }, "EINVAL"],
    ["has a handler by an inherited name", { ...ask, handler: "constructor" }, "EINVAL"],
    ["has a handler of datagrams", { ...ask, handler: "Datagrams" }, "EINVAL"],
    ["has no such dial entry", { dial: "nobody" }, "EINVAL"],
    ["has a dial entry by an inherited name", { dial: "__proto__" }, "EINVAL"],
    ["is no address", { ...ask, address: "nonsense" }, "ERR_INVALID_ADDRESS"],
    ["has a port that is none", { ...ask, address: "10.0.0.1:70000" }, "ERR_INVALID_ADDRESS"],
    ["has port 0", { ...ask, address: "10.0.0.1:0" }, "ERR_INVALID_ADDRESS"],
    ["is of datagrams", { ...ask, address: "udp://10.0.0.1:7" }, "ERR_INVALID_ADDRESS"],
    ["is a path", { ...ask, address: "unix:/run/x" }, "ERR_REFUSED"],
  ])("whose target %s is refused before anything is dialled", async (_what, spec, code) => {
    const { plane, dialled } = new MemoryPlace();
    expect(await codeOf(plane.start(spec))).toBe(code);
    expect(dialled).toEqual([]);
    expect((await plane.list({ limit: 10 })).sessions).toEqual([]);
  });

  test("whose dialling fails is failed, by the error's code", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...ask, address: "10.9.9.9:7" });
    const info = await plane.wait(id, MINUTE);
    expect(info).toMatchObject({ state: "failed", peer: null, error: { code: "ECONNREFUSED" } });
    expect((await follow(plane, id, "failed")).at(-1)).toMatchObject({ error: info?.error, bytesRead: 0 });
  });

  test("whose handler throws an error of its own has the code ERR_HANDLER", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...ask, handler: "Tells" });
    expect(await plane.wait(id, MINUTE)).toMatchObject({
      state: "failed",
      error: { code: "ERR_HANDLER", message: expect.stringContaining("no entry with undefined") },
    });
  });

  test("whose result is too large or no JSON has failed", async () => {
    const { plane } = new MemoryPlace();
    const large = await plane.start({ ...ask, handler: "GivesMuch", params: SESSION_LIMITS.resultSize });
    expect(await plane.wait(large.id, MINUTE)).toMatchObject({ result: null, error: { code: "ERR_LIMIT" } });
    const fits = await plane.start({ ...ask, handler: "GivesMuch", params: SESSION_LIMITS.resultSize - 2 });
    expect(await plane.wait(fits.id, MINUTE)).toMatchObject({ state: "ended" });
    const cycle = await plane.start({ ...ask, handler: "GivesCycle" });
    expect(await plane.wait(cycle.id, MINUTE)).toMatchObject({ error: { code: "ERR_HANDLER" } });
  });

  test("is sent to and half closed by hand, and its bytes are counted while it runs", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start(followed);
    await follow(plane, id, "open");
    const peer = clients[0]!;
    expect(await plane.send(id, new TextEncoder().encode("by hand\n"))).toMatchObject({ bytesWritten: 8 });
    expect(await peer.rfile.line()).toBe("by hand");
    await peer.sendall("one\ntwo\n");
    await eventsUntil(await plane.events(id, 4, new AbortController().signal), "handler");
    expect(await plane.get(id)).toMatchObject({ state: "running", bytesRead: 8, bytesWritten: 8 });
    await Promise.all([plane.halfClose(id), plane.halfClose(id)]);
    await plane.halfClose(id); // asked for once more, it has been
    expect(await peer.recv()).toBeNull();
    expect(await codeOf(plane.send(id, Uint8Array.of(1)))).toBe("EPIPE");
    await peer.close();
    expect(await plane.wait(id, MINUTE)).toMatchObject({ state: "ended", result: { lines: 2 } });
    const said = (await follow(plane, id, "ended")).map(({ id: _, at: __, ...body }) => body);
    expect(said).toEqual([
      { type: "connecting", address: "10.0.0.2:7" },
      { type: "open", peer: expect.any(String) },
      { type: "sent", bytes: 8 },
      { type: "handler", detail: "one" },
      { type: "handler", detail: "two" },
      { type: "halfClosed" },
      { type: "ended", bytesRead: 8, bytesWritten: 8 },
    ]);
  });

  test("whose peer reads nothing refuses what is sent over its limit, and goes on: ENOBUFS", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start(followed);
    await follow(plane, id, "open");
    const peer = clients[0]!;
    const size = STREAM_LIMITS.maxPending + 1024 * 1024; // more than the peer takes ahead of its reads
    const first = plane.send(id, new Uint8Array(size)); // waits for the peer
    expect(await codeOf(plane.send(id, Uint8Array.of(1)))).toBe("ENOBUFS");
    expect(await plane.get(id)).toMatchObject({ state: "running", error: null });
    await peer.rfile.readexactly(size);
    await first;
    await plane.send(id, new TextEncoder().encode("more\n"));
    expect(await peer.rfile.line()).toBe("more");
    await peer.close();
    const said = await follow(plane, id, "ended");
    expect(said.flatMap((event) => (event.type === "sent" ? [event.bytes] : []))).toEqual([size, 5]);
  });

  test("that does not run cannot be sent to: ENOTCONN", async () => {
    const { plane } = new MemoryPlace();
    const connecting = await plane.start({ ...ask, address: "10.0.0.3:7" });
    expect(await codeOf(plane.send(connecting.id, Uint8Array.of(1)))).toBe("ENOTCONN");
    expect(await codeOf(plane.halfClose(connecting.id))).toBe("ENOTCONN");
    expect(await plane.end(connecting.id)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    expect(await codeOf(plane.send(connecting.id, Uint8Array.of(1)))).toBe("ENOTCONN");
  });

  test("whose handler has closed its connection cannot be sent to either, before its record says that it is over: ENOTCONN", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...followed, handler: "ClosesFirst" });
    await follow(plane, id, "handler");
    for (const call of [plane.send(id, Uint8Array.of(1)), plane.halfClose(id)]) {
      await expect(call).rejects.toMatchObject({
        code: "ENOTCONN",
        message: "ENOTCONN: the session's connection is closed",
      });
    }
    expect(await plane.get(id)).toMatchObject({ state: "running" });
    await plane.end(id);
    expect((await follow(plane, id, "cut")).map(({ type }) => type)).toEqual([
      "connecting",
      "open",
      "handler",
      "cut",
    ]);
  });

  test("that is ended by request is cut, and its peer sees it", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start(followed);
    await follow(plane, id, "open");
    const info = await plane.end(id);
    expect(info).toMatchObject({ state: "cut", result: null, error: { code: "ECANCELED" } });
    expect(await codeOf(clients[0]!.recv())).toBe("ECONNRESET");
    expect(await plane.end(id)).toEqual(info);
    expect((await follow(plane, id, "cut")).at(-1)).toMatchObject({ type: "cut", error: info?.error });
  });

  test("that was over stays as it is when it is ended", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start(ask);
    const info = await plane.wait(id, MINUTE);
    expect(await plane.end(id)).toEqual(info);
  });

  test("is cut at its deadline, also while it connects, and where its handler does not notice", async () => {
    vi.useFakeTimers();
    const { plane } = new MemoryPlace();
    const connecting = await plane.start({ ...ask, address: "10.0.0.3:7", deadline: 5_000 });
    const deaf = await plane.start({ ...ask, handler: "NeverNotices", deadline: 5_000 });
    await vi.advanceTimersByTimeAsync(4_999);
    expect((await plane.get(connecting.id))?.state).toBe("connecting");
    expect((await plane.get(deaf.id))?.state).toBe("running");
    await vi.advanceTimersByTimeAsync(1);
    const cut = { state: "cut", error: { code: "ETIMEDOUT", message: expect.stringContaining("5000 ms") } };
    expect(await plane.get(connecting.id)).toMatchObject(cut);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await plane.get(deaf.id)).toMatchObject(cut);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("is waited for no longer than asked", async () => {
    vi.useFakeTimers();
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...ask, address: "10.0.0.3:7" });
    const waited = plane.wait(id, 100);
    await vi.advanceTimersByTimeAsync(100);
    expect(await waited).toMatchObject({ state: "connecting" });
  });
});

describe("secrets", () => {
  const params = { user: "root", password: 'pa"ss/w.rd', deep: [["hunter22"]], pin: "123", path: "pa" };

  test("of the params are in no event and no error", async () => {
    const { plane } = new MemoryPlace({ secrets: ["the-deployment's"] });
    const { id } = await plane.start({ ...ask, handler: "Tells", params });
    const info = await plane.wait(id, MINUTE);
    const events = await follow(plane, id, "failed");
    const shown = JSON.stringify([info, events, await plane.list({ limit: 9 })]);
    for (const secret of ["root", "hunter22", "w.rd"]) expect(shown).not.toContain(secret);
    expect(events[2]).toMatchObject({
      type: "handler",
      detail: {
        params: { user: "[redacted]", password: "[redacted]", deep: [["[redacted]"]], pin: "123" },
      },
    });
    expect(info?.error?.message).toContain('"user":"[redacted]","password":"[redacted]"');
  });

  test("of the deployment are not even in a result, the params' own are", async () => {
    const { plane } = new MemoryPlace({ secrets: ["deployed-secret", "deployed"] });
    const { id } = await plane.start({
      ...ask,
      handler: "Gives",
      params: { mine: "hunter22", theirs: "a deployed-secret!", "deployed-secret": 1 },
    });
    expect((await plane.wait(id, MINUTE))?.result).toEqual({
      mine: "hunter22",
      theirs: "a [redacted]!",
      "[redacted]": 1,
    });
  });

  test("of less than four characters are left: they stand in too many innocent texts", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start({ ...ask, handler: "Tells", params: "no" });
    expect((await plane.wait(id, MINUTE))?.error?.message).toBe('ERR_HANDLER: no entry with "no"');
  });
});

describe("events", () => {
  test("are bounded by count; who was too slow finds a gap and the end", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start({
      ...followed,
      handler: "EmitsMany",
      params: { count: 5_000, size: 1 },
    });
    const slow = (await plane.events(id, 0, new AbortController().signal))![Symbol.asyncIterator]();
    expect((await slow.next()).value).toMatchObject({ id: 1 });
    await follow(plane, id, "open");
    await clients[0]!.sendall("go\n");
    await plane.wait(id, MINUTE);
    const rest: SessionEvent[] = [];
    for (let next = await slow.next(); !next.done; next = await slow.next()) rest.push(next.value);
    expect(rest).toHaveLength(SESSION_LIMITS.events);
    expect(rest[0]?.id).toBe(5_003 - SESSION_LIMITS.events + 1);
    expect(rest.at(-1)).toMatchObject({ id: 5_003, type: "ended" });
  });

  test("are bounded by size, and a large detail by its own", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start({
      ...followed,
      handler: "EmitsMany",
      params: { count: 100, size: 9_000 },
    });
    const large = await plane.start({
      ...followed,
      handler: "EmitsMany",
      params: { count: 1, size: SESSION_LIMITS.detailSize },
    });
    for (const started of [id, large.id]) await follow(plane, started, "open");
    for (const client of clients) await client.sendall("go\n");
    await plane.wait(id, MINUTE);
    await plane.wait(large.id, MINUTE);
    const kept = await follow(plane, id, "ended");
    expect(JSON.stringify(kept).length).toBeLessThan(SESSION_LIMITS.logSize + 1_000);
    expect(kept.length).toBeGreaterThan(20);
    expect((await follow(plane, large.id, "ended"))[2]).toMatchObject({
      detail: { omitted: expect.any(Number) },
    });
  });

  test("begin after the last that was seen, also beyond the end", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start(ask);
    await plane.wait(id, MINUTE);
    expect((await follow(plane, id, "ended", 2)).map((event) => event.id)).toEqual([3]);
    expect(await follow(plane, id, "ended", 3)).toEqual([]);
    expect(await follow(plane, id, "ended", 10 ** 12)).toEqual([]);
  });

  test("end when the watcher leaves, who leaves nothing behind", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start(followed);
    const leaving = new AbortController();
    const seen: string[] = [];
    for await (const { type } of (await plane.events(id, 0, leaving.signal))!) {
      seen.push(type);
      if (type === "open") queueMicrotask(() => leaving.abort());
    }
    expect(seen).toEqual(["connecting", "open"]);
    const gone = AbortSignal.abort();
    for await (const event of (await plane.events(id, 0, gone))!) expect(event).toBe("nothing");
  });

  test("go to all who watch", async () => {
    const { plane, clients } = new MemoryPlace();
    const { id } = await plane.start(followed);
    const watchers = [1, 2, 3].map(() => follow(plane, id, "ended"));
    await follow(plane, id, "open");
    await clients[0]!.sendall("to all\n");
    await clients[0]!.close();
    const [first, second, third] = await Promise.all(watchers);
    expect(first?.map(({ type }) => type)).toEqual(["connecting", "open", "handler", "ended"]);
    expect(second).toEqual(first);
    expect(third).toEqual(first);
  });
});

describe("a kept session", () => {
  const keep = () => {
    const events: SessionEvent[] = [];
    let info: SessionInfo | undefined;
    const store: SessionStore = {
      save({ info: now, events: [event], oldest }) {
        info = now;
        events.push(event as SessionEvent);
        while ((events[0]?.id ?? 0) < oldest) events.shift();
      },
    };
    return { store, record: () => ({ info: info as SessionInfo, events }) };
  };
  const options = (run: SessionOptions["run"], store: SessionStore): SessionOptions => ({
    id: newSessionId(),
    handler: "Ask",
    address: "10.0.0.1:7",
    deadline: null,
    run,
    store,
  });

  test("comes back as it was where it was over", async () => {
    const { store, record } = keep();
    const session = Session.start(options(async () => "done", store));
    await session.whenOver;
    const restored = Session.restore(record());
    expect(restored.over).toBe(true);
    expect(restored.info()).toEqual(session.info());
    expect(await eventsUntil(restored.events(), "cut")).toEqual(await eventsUntil(session.events(), "cut"));
    expect(await restored.end()).toEqual(session.info());
    expect(await codeOf(restored.send(Uint8Array.of(1)))).toBe("ENOTCONN");
  });

  test("whose process is gone is cut, says so once, and its watchers resume", async () => {
    const { store, record } = keep();
    const session = Session.start(options(() => new Promise(() => {}), store));
    const before = record();
    expect(before.info.state).toBe("connecting");
    const restored = Session.restore(structuredClone(before), store);
    expect(restored.info()).toMatchObject({
      state: "cut",
      error: { code: "ECONNABORTED" },
      endedAt: expect.any(String),
    });
    expect(record().info).toEqual(restored.info());
    expect(await eventsUntil(restored.events(1), "cut")).toMatchObject([{ id: 2, type: "cut" }]);
    const again = Session.restore(record(), store);
    expect(again.info()).toEqual(restored.info());
    expect(record().events.map(({ id }) => id)).toEqual([1, 2]);
    await Promise.all([restored.whenOver, again.whenOver]);
    expect(session.over).toBe(false);
  });

  test("is told of each change in order, and of no more than the log keeps", async () => {
    const { store, record } = keep();
    const session = Session.start(
      options(async ({ emit }) => {
        for (let i = 0; i < SESSION_LIMITS.events + 10; i++) emit(i);
      }, store),
    );
    await session.whenOver;
    expect(record().events).toHaveLength(SESSION_LIMITS.events);
    expect(record().events).toEqual(await eventsUntil(session.events(), "ended"));
    expect(record().info).toEqual(session.info());
  });

  test("hears nothing more once it is over", async () => {
    const { store, record } = keep();
    let late: ((detail: unknown) => void) | undefined;
    const session = Session.start(
      options(async ({ emit }) => {
        late = emit;
      }, store),
    );
    await session.whenOver;
    const kept = structuredClone(record());
    late?.("too late");
    expect(record()).toEqual(kept);
  });
});

describe("a plane's history", () => {
  test("lists the newest first, page by page, by state and by handler", async () => {
    const { plane } = new MemoryPlace();
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.unshift((await plane.start(i % 2 ? ask : followed)).id);
    await plane.wait(ids[1]!, MINUTE);
    await plane.wait(ids[3]!, MINUTE);
    const listed = async (query: object) => {
      const { sessions, next } = await plane.list({ limit: 2, ...query });
      return { ids: sessions.map(({ id }) => id), next };
    };
    expect(await listed({})).toEqual({ ids: ids.slice(0, 2), next: ids[1] });
    expect(await listed({ before: ids[1] })).toEqual({ ids: ids.slice(2, 4), next: ids[3] });
    expect(await listed({ before: ids[3] })).toEqual({ ids: ids.slice(4), next: null });
    expect(await listed({ state: "ended" })).toEqual({ ids: [ids[1], ids[3]], next: null });
    expect(await listed({ handler: "Follow", before: ids[0] })).toEqual({
      ids: [ids[2], ids[4]],
      next: null,
    });
    expect(await listed({ before: newSessionId().replace(/^./, "f") })).toEqual(await listed({}));
  });

  test("is bounded by count: the first that were over go first, and none that runs", async () => {
    const { plane } = new MemoryPlace({ maxHistory: 2 });
    const { id } = await plane.start(followed);
    const ended: string[] = [];
    for (let i = 0; i < 4; i++) {
      const { id } = await plane.start(ask);
      await plane.wait(id, MINUTE);
      ended.unshift(id);
    }
    const { sessions } = await plane.list({ limit: 10 });
    expect(sessions.map((session) => session.id)).toEqual([ended[0], ended[1], id]);
    expect(await plane.get(ended[3]!)).toBeNull();
    expect(await plane.events(ended[3]!, 0, new AbortController().signal)).toBeNull();
  });

  test("is bounded by a large count, too: up to a 64th goes at once", async () => {
    const { plane } = new MemoryPlace({ maxHistory: 128 });
    const ended: string[] = [];
    for (let i = 0; i < 129; i++) {
      const { id } = await plane.start(ask);
      await plane.wait(id, MINUTE);
      ended.unshift(id);
    }
    const { sessions } = await plane.list({ limit: 1_000 });
    expect(sessions.map((session) => session.id)).toEqual(ended.slice(0, 126));
  });

  test("is bounded by age", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { plane } = new MemoryPlace({ maxAge: 1_000 });
    const { id } = await plane.start(ask);
    await plane.wait(id, MINUTE);
    expect((await plane.list({ limit: 10 })).sessions).toHaveLength(1);
    vi.setSystemTime(Date.now() + 1_001);
    expect((await plane.list({ limit: 10 })).sessions).toHaveLength(0);
  });

  test("counts what runs, and refuses more than it may: ERR_LIMIT", async () => {
    const { plane, dialled } = new MemoryPlace({ maxRunning: 2 });
    const { id } = await plane.start(followed);
    await plane.start(followed);
    expect(plane.health()).toEqual({ listeners: 1, running: 2 });
    expect(await codeOf(plane.start(followed))).toBe("ERR_LIMIT");
    await plane.end(id);
    const { id: third } = await plane.start(ask);
    await plane.wait(third, MINUTE);
    expect(dialled).toHaveLength(3);
    expect(plane.health()).toEqual({ listeners: 1, running: 1 });
  });

  test("shows an accepted connection as a session, which can be ended", async () => {
    const { plane, echo } = new MemoryPlace();
    const serve = echo.finishRequest.bind(echo);
    let outcome: Promise<unknown> | undefined;
    echo.finishRequest = (request, peer) => {
      const listener = { handler: "Echo", address: "tcp://127.0.0.1:7" };
      outcome = plane.accepted(listener, request, () => serve(request, peer));
      return outcome;
    };
    const client = echo.connect();
    await client.sendall("hello");
    expect(await client.recv()).toEqual(new TextEncoder().encode("hello"));
    const { sessions } = await plane.list({ limit: 1 });
    expect(sessions[0]).toMatchObject({
      direction: "inbound",
      state: "running",
      bytesRead: 5,
      bytesWritten: 5,
    });
    expect(await plane.end(sessions[0]!.id)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    expect(await codeOf(client.recv())).toBe("ECONNRESET");
    expect(await codeOf(outcome!)).toBe("ECONNABORTED");
  });

  test("that is closed ends what it dialled and starts nothing more", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start(followed);
    await plane.close();
    expect(await plane.get(id)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
    expect(await codeOf(plane.start(ask))).toBe("EBADF");
    expect(await plane.ready()).toHaveLength(1);
  });
});

describe("events as bytes", () => {
  const some: SessionEvent[] = [
    { id: 1, at: "2026-11-23T00:00:00.000Z", type: "connecting", address: "10.0.0.1:7" },
    { id: 2, at: "2026-11-23T00:00:00.001Z", type: "handler", detail: "data: \n\nid: 9\r\n\r\u2028é" },
    { id: 3, at: "2026-11-23T00:00:00.002Z", type: "ended", bytesRead: 0, bytesWritten: 0 },
  ];
  async function* all(): AsyncGenerator<SessionEvent> {
    yield* some;
  }

  test("come back as they went, whatever a handler says, in pieces of any size", async () => {
    const whole = new Uint8Array(await new Response(eventStream(all(), new AbortController())).arrayBuffer());
    for (const size of [1, 7, 64, whole.length]) {
      const stream = new ReadableStream<Uint8Array>({
        start(controller) {
          for (let at = 0; at < whole.length; at += size) controller.enqueue(whole.slice(at, at + size));
          controller.close();
        },
      });
      expect(await eventsUntil(readEvents(stream), "cut")).toEqual(some);
    }
  });

  test("have a heartbeat while nothing happens, and are read one at a time", async () => {
    let asked = 0;
    const go = Promise.withResolvers<void>();
    async function* waits(): AsyncGenerator<SessionEvent> {
      asked++;
      await go.promise;
      yield some[0]!;
      asked++;
      yield some[1]!;
    }
    const reader = eventStream(waits(), new AbortController(), 1).getReader();
    const text = async () => new TextDecoder().decode((await reader.read()).value);
    expect(await text()).toBe("retry: 2000\n\n");
    expect(asked).toBe(0);
    expect(await text()).toBe(":\n\n");
    expect(await text()).toBe(":\n\n");
    expect(asked).toBe(1);
    go.resolve();
    let next = await text();
    while (next === ":\n\n") next = await text();
    expect(next).toMatch(/^id: 1\nevent: connecting\ndata: \{.*\}\n\n$/);
    expect(asked).toBe(1);
  });

  test("end where the reader leaves", async () => {
    const { plane } = new MemoryPlace();
    const { id } = await plane.start(followed);
    const leaving = new AbortController();
    const reader = eventStream((await plane.events(id, 0, leaving.signal))!, leaving).getReader();
    await reader.read();
    await reader.cancel();
    expect(leaving.signal.aborted).toBe(true);
  });

  test("reject where the stream is silent or is none of ours", async () => {
    const silent = new ReadableStream<Uint8Array>({});
    expect(await codeOf(eventsUntil(readEvents(silent, undefined, 1), "cut"))).toBe("ETIMEDOUT");
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(65)),
    });
    expect(await codeOf(eventsUntil(readEvents(endless), "cut"))).toBe("ERR_LIMIT");
    const left = AbortSignal.abort();
    expect(await eventsUntil(readEvents(new ReadableStream<Uint8Array>({}), left), "cut")).toEqual([]);
  });
});

test("ids are UUIDs of version 7 that sort by their making", () => {
  const ids = Array.from({ length: 1_000 }, newSessionId);
  expect(ids.every(isSessionId)).toBe(true);
  expect(ids.toSorted()).toEqual(ids);
  expect(new Set(ids).size).toBe(1_000);
  const time = Number.parseInt(ids[0]!.replace("-", "").slice(0, 12), 16);
  expect(Math.abs(time - Date.now())).toBeLessThan(60_000);
  expect(new SocketError("ERR_HANDLER").errno).toBe(0);
});
