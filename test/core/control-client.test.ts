import { describe, expect, test } from "vitest";
import { controlClient, type SessionEvent } from "../../core/control/index.ts";
import { SocketError } from "../../core/errors.ts";
import { ECHO, eventsUntil, follow, READ, serve, TOKEN } from "./control-setup.ts";

const ask = { handler: "Ask", address: "10.0.0.1:7" } as const;
const followed = { handler: "Follow", address: "10.0.0.2:7" } as const;
const NOWHERE = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80";

const errorOf = async (promise: Promise<unknown>): Promise<{ code: string; message: string }> =>
  promise.then(
    (value) => expect.unreachable(`no error, but ${JSON.stringify(value)}`),
    (error) => error,
  );

/** A client of a plane in memory; `wrap` comes between it and the routes. */
const connected = (
  token: string | undefined = TOKEN,
  wrap: (response: Response, url: string) => Response = (response) => response,
) => {
  const { routes, place } = serve();
  const fetch = async (url: string, init: RequestInit): Promise<Response> =>
    wrap(await routes.request(url, init), url);
  const control = controlClient("http://plane.test/", { ...(token && { token }), fetch, retryDelay: 0 });
  return { control, place, plane: place.plane };
};

describe("a control client", () => {
  test("follows what servers tell: what is kept, then what comes, as JSON; to their end, or until it has enough", async () => {
    const { control, place } = connected();
    const { told } = place;
    const address = { family: "IPv4", hostname: "10.0.0.9", port: 5 } as const;
    const of = { server: "Echo", id: 3, address };
    const detail = { token: TOKEN, text: "as it was" };
    told.tell({ type: "begin", ...of });
    told.tell({ type: "handler", ...of, detail });
    detail.text = "changed since";
    told.tell({ type: "handler", ...of, detail: "x".repeat(20_000) });
    told.tell({ type: "error", ...of, error: new RangeError(`not with ${TOKEN}`) });
    const following = control.listenerEvents({ after: 1 });
    const next = async () => (await following.next()).value;
    const said = { server: "Echo", request: 3, address: "10.0.0.9:5", at: expect.stringMatching(/^2.*Z$/) };
    expect(await next()).toEqual({
      ...said,
      id: 2,
      type: "handler",
      detail: { token: "[redacted]", text: "as it was" },
    });
    expect(await next()).toMatchObject({ id: 3, detail: { omitted: 20_002 } });
    expect(await next()).toEqual({
      ...said,
      id: 4,
      type: "error",
      error: {
        code: "ERR_HANDLER",
        message: expect.stringMatching(/^ERR_HANDLER: .*not with \[redacted\]$/),
      },
    });
    const lost = new SocketError("ETIMEDOUT");
    told.tell({
      type: "lost",
      server: "Echo",
      pid: 7,
      code: null,
      signal: "SIGKILL",
      requests: [{ id: 3, address }],
      error: lost,
      delay: 100,
    });
    expect(await next()).toMatchObject({
      type: "lost",
      signal: "SIGKILL",
      requests: [{ request: 3, address: "10.0.0.9:5" }],
      error: { code: "ETIMEDOUT" },
    });
    const stop = new AbortController();
    const other = control.listenerEvents({ after: 5, signal: stop.signal });
    const none = other.next();
    stop.abort();
    expect((await none).done).toBe(true);
    told.end();
    expect((await following.next()).done).toBe(true);
    const all = [];
    for await (const event of control.listenerEvents()) all.push(event.id);
    expect(all).toEqual([1, 2, 3, 4, 5]);
  });

  test("has the last 1 000 events of servers", async () => {
    const { control, place } = connected();
    for (let i = 0; i < 1_500; i++) place.told.tell({ type: "resumed", server: "Echo", waiting: i });
    const { value } = await control.listenerEvents({ after: 10 }).next();
    expect(value).toMatchObject({ id: 501, waiting: 500 });
  });

  test("asks everything that there is", async () => {
    const { control, plane, place } = connected();
    expect(await control.health()).toEqual({ status: "ok", listeners: 1, running: 0 });
    expect(await control.ready()).toEqual({ ready: true });
    expect(await control.listeners()).toEqual([ECHO]);
    expect(await control.sessions.run({ ...ask, params: "hi" })).toMatchObject({
      state: "ended",
      result: "hi",
    });
    const { id, state } = await control.sessions.start(followed);
    expect(state).toBe("connecting");
    const following = eventsUntil(control.sessions.follow(id), "ended");
    await follow(plane, id, "open");
    const [peer] = place.clients;
    expect(await control.sessions.get(id)).toMatchObject({ id, state: "running" });
    expect((await control.sessions.list({ state: "running", limit: 1 })).sessions).toMatchObject([{ id }]);
    expect((await control.sessions.list()).sessions).toHaveLength(2);
    await control.sessions.send(id, "té\n");
    await control.sessions.send(id, Uint8Array.of(0, 255));
    expect(await peer!.rfile.readexactly(6)).toEqual(Uint8Array.of(116, 0xc3, 0xa9, 10, 0, 255));
    await peer!.sendall("news\n");
    expect(await control.sessions.halfClose(id)).toMatchObject({ bytesWritten: 6 });
    expect(await peer!.recv()).toBeNull();
    await peer!.close();
    expect((await following).map(({ type }) => type).filter((type) => type !== "halfClosed")).toEqual([
      "connecting",
      "open",
      "sent",
      "sent",
      "handler",
      "ended",
    ]);
    const { id: other } = await control.sessions.start(followed);
    expect(await control.sessions.end(other)).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
  });

  test("has the code of each problem", async () => {
    const { control } = connected();
    expect(await errorOf(control.sessions.get(NOWHERE))).toMatchObject({
      code: "ENOENT",
      message: expect.stringContaining("no session with that id"),
      cause: { status: 404 },
    });
    expect(await errorOf(control.sessions.get("../../health"))).toMatchObject({ code: "ENOENT" });
    expect(await errorOf(control.sessions.run({ ...ask, address: "1.2.3.4:5" }))).toMatchObject({
      code: "ERR_REFUSED",
    });
    expect(await errorOf(control.sessions.run({ ...ask, deadline: -1 }))).toMatchObject({
      code: "EINVAL",
      message: expect.stringContaining("deadline must be"),
    });
    expect(await errorOf(connected("wrong-token-altogether").control.listeners())).toMatchObject({
      code: "EACCES",
    });
    expect(await errorOf(connected(READ).control.sessions.end(NOWHERE))).toMatchObject({
      code: "ERR_REFUSED",
    });
    expect(await errorOf(eventsUntil(control.sessions.follow(NOWHERE), "cut"))).toMatchObject({
      code: "ENOENT",
    });
  });

  test("without a token asks what is open", async () => {
    const { routes } = serve();
    const control = controlClient("http://plane.test", { fetch: (url, init) => routes.request(url, init) });
    expect(await control.health()).toMatchObject({ status: "ok" });
    expect(await errorOf(control.listeners())).toMatchObject({ code: "EACCES" });
  });

  test("takes a URL", () => {
    for (const url of [undefined, 7000, {}] as never[]) {
      expect(() => controlClient(url)).toThrow(/^controlClient\(\) takes a URL such as "http:.*", not /);
    }
  });

  test("says when the answer is not a control plane's", async () => {
    const answers = [
      new Response("<h1>Bad gateway</h1>", { status: 502 }),
      new Response("<h1>Welcome</h1>"),
      Response.json({ code: "MADE_UP" }, { status: 400 }),
      Response.redirect("http://elsewhere.test/v1/health"),
    ];
    for (const answer of answers) {
      const control = controlClient("http://plane.test", { fetch: () => answer });
      expect(await errorOf(control.health())).toMatchObject({ code: "ERR_INTERNAL" });
    }
  });

  test("says why it cannot be reached", async () => {
    const refused = Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:1"), { code: "ECONNREFUSED" });
    const nothing = controlClient("http://plane.test", {
      fetch: () => Promise.reject(new TypeError("fetch failed", { cause: refused })),
    });
    expect(await errorOf(nothing.health())).toMatchObject({ code: "ECONNREFUSED" });
    const unsaid = controlClient("http://plane.test", {
      fetch: () => Promise.reject(new TypeError("failed")),
    });
    expect(await errorOf(unsaid.health())).toMatchObject({ code: "ERR_CONNECT_FAILED" });
  });

  test("gives up in time, and when it is told to", async () => {
    const never = (_url: string, { signal }: RequestInit): Promise<Response> =>
      new Promise((_resolve, reject) => {
        const { aborted, reason } = signal as AbortSignal;
        if (aborted) reject(reason);
        signal?.addEventListener("abort", () => reject(signal.reason));
      });
    const control = controlClient("http://plane.test", { fetch: never, timeout: 1 });
    expect(await errorOf(control.health())).toMatchObject({ code: "ETIMEDOUT" });
    const reason = new Error("enough");
    const told = controlClient("http://plane.test", { fetch: never });
    expect(await errorOf(told.health({ signal: AbortSignal.abort(reason) }))).toBe(reason);
  });

  test("takes only times that a timer has", () => {
    for (const name of ["timeout", "retryDelay"]) {
      expect(() => controlClient("http://plane.test", { [name]: Number.POSITIVE_INFINITY })).toThrow(
        new RegExp(`^${name} must be 0 to \\d+ ms, not Infinity`),
      );
    }
  });

  test("sends no token to where it is led", async () => {
    const inits: RequestInit[] = [];
    const control = controlClient("http://plane.test", {
      token: TOKEN,
      fetch: (_url, init) => {
        inits.push(init);
        return Response.json({});
      },
    });
    await control.health();
    expect(inits[0]).toMatchObject({ redirect: "manual", headers: { authorization: `Bearer ${TOKEN}` } });
  });
});

describe("follow", () => {
  /** The answer's body breaks, or ends, after so many events. */
  const cutAfter = (response: Response, events: number, how: "breaks" | "ends"): Response => {
    const reader = response.body!.getReader();
    let left = events + 1; // and the piece before them
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        const { value, done } = left-- > 0 ? await reader.read() : { value: undefined, done: true };
        if (!done) return controller.enqueue(value as Uint8Array);
        await reader.cancel();
        if (left >= 0 || how === "ends") controller.close();
        else controller.error(new TypeError("terminated"));
      },
    });
    return new Response(body, response);
  };

  test.each(["breaks", "ends"] as const)(
    "goes on where the connection %s, and misses nothing",
    async (how) => {
      let asked = 0;
      const { control, plane, place } = connected(TOKEN, (response, url) => {
        if (!url.endsWith("/events")) return response;
        asked++;
        return cutAfter(response, 2, how);
      });
      const { id } = await control.sessions.start(followed);
      const following = eventsUntil(control.sessions.follow(id), "ended");
      await follow(plane, id, "open");
      await place.clients[0]!.sendall("1\n2\n3\n4\n");
      await place.clients[0]!.close();
      const seen: SessionEvent[] = await following;
      expect(seen.map((event) => event.id)).toEqual([1, 2, 3, 4, 5, 6, 7]);
      expect(seen).toEqual(await follow(plane, id, "ended"));
      expect(asked).toBe(4);
    },
  );

  test("begins after what is known", async () => {
    const { control } = connected();
    const { id } = await control.sessions.run(ask);
    expect(
      (await eventsUntil(control.sessions.follow(id, { after: 2 }), "ended")).map((event) => event.id),
    ).toEqual([3]);
  });

  test("gives up where there is nothing to be had", async () => {
    let asked = 0;
    const control = controlClient("http://plane.test", {
      retryDelay: 0,
      fetch: () => {
        asked++;
        throw new TypeError("failed");
      },
    });
    expect(await errorOf(eventsUntil(control.sessions.follow(NOWHERE), "cut"))).toMatchObject({
      code: "ERR_CONNECT_FAILED",
    });
    expect(asked).toBe(6);
    const empty = controlClient("http://plane.test", { retryDelay: 0, fetch: () => new Response("") });
    expect(await errorOf(eventsUntil(empty.sessions.follow(NOWHERE), "cut"))).toMatchObject({
      code: "ERR_INTERNAL",
      message: expect.stringContaining("before the session was over"),
    });
  });

  test("asks again where there is no answer, and not for ever", async () => {
    let asked = 0;
    const left: boolean[] = [];
    const control = controlClient("http://plane.test", {
      retryDelay: 0,
      timeout: 1,
      fetch: (_url, { signal }) => {
        asked++;
        signal?.addEventListener("abort", () => left.push(true));
        return new Promise(() => {}); // as Node's, for five minutes
      },
    });
    expect(await errorOf(eventsUntil(control.sessions.follow(NOWHERE), "cut"))).toMatchObject({
      code: "ETIMEDOUT",
      message: expect.stringContaining("http://plane.test did not answer"),
    });
    expect([asked, left.length]).toEqual([6, 6]);
  });

  test("ends when it is told to, in the middle of nothing", async () => {
    const { control, plane } = connected();
    const { id } = await control.sessions.start(followed);
    const leaving = new AbortController();
    const seen: string[] = [];
    for await (const { type } of control.sessions.follow(id, { signal: leaving.signal })) {
      seen.push(type);
      if (type === "open") setImmediate(() => leaving.abort());
    }
    expect(seen).toEqual(["connecting", "open"]);
    expect(await plane.get(id)).toMatchObject({ state: "running" });
    await plane.end(id);
  });
});
