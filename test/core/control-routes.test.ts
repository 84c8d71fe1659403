import { Hono } from "hono";
import { describe, expect, test } from "vitest";
import { readEvents } from "../../core/control/http/sse.ts";
import {
  controlRoutes,
  type ListenerEvent,
  openApi,
  type Problem,
  type SessionEvent,
  type SessionInfo,
} from "../../core/control/index.ts";
import { BOUNDS } from "../../core/control/plane.ts";
import { SocketError } from "../../core/errors.ts";
import {
  type Answer,
  app,
  eventsUntil,
  follow,
  MemoryPlace,
  READ,
  RUN,
  serve,
  TOKEN,
} from "./control-setup.ts";

const run = { handler: "Ask", address: "10.0.0.1:7" };
const started = { handler: "Follow", address: "10.0.0.2:7", background: true };
const NOWHERE = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80";

const events = async (response: Response, until: SessionEvent["type"] = "ended"): Promise<SessionEvent[]> =>
  eventsUntil(readEvents(response.body as ReadableStream<Uint8Array>), until);

describe("GET /v1/health and /v1/ready", () => {
  test("answer anyone", async () => {
    const { ask } = serve();
    const health = await ask("GET", "/v1/health", { token: null });
    expect([health.status, await health.json()]).toEqual([200, { status: "ok", listeners: 1, running: 0 }]);
    const ready = await ask("GET", "/v1/ready", { token: null });
    expect([ready.status, await ready.json()]).toEqual([200, { ready: true }]);
  });

  test("ready says why not", async () => {
    const { ask } = serve({ ready: () => ["the registry does not answer"] });
    const response = await ask("GET", "/v1/ready", { token: null });
    expect([response.status, await response.json()]).toMatchObject([
      503,
      { code: "ERR_APP", detail: "the registry does not answer" },
    ]);
  });
});

describe("POST /v1/sessions", () => {
  test("runs a session and answers with its record", async () => {
    const { ask } = serve();
    const response = await ask("POST", "/v1/sessions", { token: RUN, json: { ...run, params: "hi" } });
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ state: "ended", result: "hi", error: null });
  });

  test("shows no params, in any record or event", async () => {
    const { ask } = serve();
    const json = { ...run, handler: "Tells", params: ["AUTH", "correct-horse"] };
    const response = await ask("POST", "/v1/sessions", { json });
    const record = await response.text();
    const { id } = JSON.parse(record);
    const all = await (await ask("GET", `/v1/sessions/${id}/events`)).text();
    expect(record + all).not.toContain("correct-horse");
    expect(record).toContain("[redacted]");
  });

  test("answers 200 with a session that failed: the request has not", async () => {
    const { ask } = serve();
    const response = await ask("POST", "/v1/sessions", { json: { ...run, address: "10.9.9.9:7" } });
    expect([response.status, await response.json()]).toMatchObject([
      200,
      { state: "failed", error: { code: "ECONNREFUSED" } },
    ]);
  });

  test("waits no longer than the deadline", async () => {
    const { ask } = serve();
    const json = { ...run, address: "10.0.0.3:7", deadline: 1 };
    const response = await ask("POST", "/v1/sessions", { json });
    expect([response.status, await response.json()]).toMatchObject([
      200,
      { state: "cut", error: { code: "ETIMEDOUT" } },
    ]);
  });

  test("in the background answers at once, with the place of the record", async () => {
    const { ask } = serve();
    const response = await ask("POST", "/v1/sessions", { json: started });
    const { id, state } = await response.json();
    expect([response.status, state, response.headers.get("location")]).toEqual([
      201,
      "connecting",
      `/v1/sessions/${id}`,
    ]);
    expect((await ask("GET", response.headers.get("location") as string)).status).toBe(200);
  });

  test("refuses more than may run: 429", async () => {
    const { ask } = serve({ maxRunning: 0 });
    const response = await ask("POST", "/v1/sessions", { json: started });
    expect([response.status, await response.json()]).toMatchObject([429, { code: "ERR_LIMIT" }]);
  });
});

test("a session is listed, followed, sent to, half closed and ended from other requests", async () => {
  const { ask, place } = serve();
  const { id } = await (await ask("POST", "/v1/sessions", { json: started })).json();
  const following = ask("GET", `/v1/sessions/${id}/events`, { token: READ });
  await follow(place.plane, id, "open");
  const listed = await (await ask("GET", "/v1/sessions?state=running&handler=Follow")).json();
  expect(listed).toMatchObject({ sessions: [{ id, state: "running" }], next: null });
  const peer = place.clients[0]!;

  const headers = { "content-type": "application/octet-stream" };
  const raw = await ask("POST", `/v1/sessions/${id}/data`, { body: Uint8Array.of(0, 255, 10), headers });
  expect([raw.status, await raw.json()]).toMatchObject([200, { bytesWritten: 3 }]);
  await ask("POST", `/v1/sessions/${id}/data`, { json: { text: "é\n" } });
  await ask("POST", `/v1/sessions/${id}/data`, { json: { base64: "AAEC" } });
  expect(await peer.rfile.readexactly(9)).toEqual(Uint8Array.of(0, 255, 10, 0xc3, 0xa9, 10, 0, 1, 2));

  await peer.sendall("news\n");
  const half = await ask("POST", `/v1/sessions/${id}/half-close`);
  expect(half.status).toBe(200);
  expect(await peer.recv()).toBeNull();
  const again = await ask("POST", `/v1/sessions/${id}/data`, { json: { text: "more" } });
  expect([again.status, await again.json()]).toMatchObject([409, { code: "EPIPE" }]);

  const gone = await ask("DELETE", `/v1/sessions/${id}`);
  expect([gone.status, await gone.json()]).toMatchObject([
    200,
    { state: "cut", error: { code: "ECANCELED" } },
  ]);
  const response = await following;
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  expect((await events(response, "cut")).map(({ type }) => type)).toEqual([
    "connecting",
    "open",
    "sent",
    "sent",
    "sent",
    "handler",
    "halfClosed",
    "cut",
  ]);
  const late = await ask("POST", `/v1/sessions/${id}/half-close`);
  expect([late.status, await late.json()]).toMatchObject([409, { code: "ENOTCONN" }]);
  expect((await ask("DELETE", `/v1/sessions/${id}`)).status).toBe(200);
});

test("a session that is ended gracefully sends what was written, then its end, and is cut", async () => {
  const { ask, place } = serve();
  const { id } = await (await ask("POST", "/v1/sessions", { json: started })).json();
  const peer = place.clients[0]!;
  await ask("POST", `/v1/sessions/${id}/data`, { json: { text: "the last\n" } });
  const [answer, said] = await Promise.all([
    ask("DELETE", `/v1/sessions/${id}?graceful=true`),
    peer.rfile.read(),
  ]);
  expect([answer.status, await answer.json()]).toMatchObject([
    200,
    {
      state: "cut",
      bytesWritten: 9,
      error: { code: "ECANCELED", message: expect.stringContaining("ended by request") },
    },
  ]);
  expect(new TextDecoder().decode(said)).toBe("the last\n");
  const wrong = await ask("DELETE", `/v1/sessions/${id}?graceful=yes`);
  expect([wrong.status, (await wrong.json()).errors[0].field]).toEqual([422, "graceful"]);
});

test("a session whose connection has just been closed takes nothing: 409, as one that is over", async () => {
  const { ask, place } = serve();
  const json = { handler: "ClosesFirst", address: "10.0.0.2:7", background: true };
  const { id } = (await (await ask("POST", "/v1/sessions", { json })).json()) as SessionInfo;
  for await (const { type } of (await place.plane.events(id, 0, new AbortController().signal))!) {
    if (type === "handler") break;
  }
  const statuses: number[] = [];
  for (const state of ["running", "cut"]) {
    expect(await (await ask("GET", `/v1/sessions/${id}`)).json()).toMatchObject({ state });
    statuses.push((await ask("POST", `/v1/sessions/${id}/data`, { json: { text: "more" } })).status);
    statuses.push((await ask("POST", `/v1/sessions/${id}/half-close`)).status);
    await ask("DELETE", `/v1/sessions/${id}`);
  }
  expect(statuses).toEqual([409, 409, 409, 409]);
});

test("GET /v1/sessions goes through the pages", async () => {
  const { ask } = serve();
  const ids: string[] = [];
  for (let i = 0; i < 3; i++)
    ids.unshift((await (await ask("POST", "/v1/sessions", { json: run })).json()).id);
  const first = await (await ask("GET", "/v1/sessions?limit=2")).json();
  expect(first.sessions.map((session: { id: string }) => session.id)).toEqual(ids.slice(0, 2));
  const second = await (await ask("GET", `/v1/sessions?limit=2&before=${first.next}`)).json();
  expect(second.sessions.map((session: { id: string }) => session.id)).toEqual(ids.slice(2));
  expect(second.next).toBeNull();
});

describe("GET /v1/sessions/:id/events", () => {
  const over = async () => {
    const { ask, place } = serve();
    const { id } = await (await ask("POST", "/v1/sessions", { json: run })).json();
    return { ask, place, path: `/v1/sessions/${id}/events` };
  };

  test("resumes by the header, by the query, and by the header where there are both", async () => {
    const { ask, path } = await over();
    const ids = async (more: string, lastEventId?: string) => {
      const headers: Record<string, string> =
        lastEventId === undefined ? {} : { "last-event-id": lastEventId };
      return (await events(await ask("GET", path + more, { headers }))).map(({ id }) => id);
    };
    expect(await ids("")).toEqual([1, 2, 3]);
    expect(await ids("?after=1")).toEqual([2, 3]);
    expect(await ids("", "2")).toEqual([3]);
    expect(await ids("?after=0", "2")).toEqual([3]);
    expect(await ids("?after=3")).toEqual([]);
  });

  test("is server-sent events, byte for byte", async () => {
    const { ask, path } = await over();
    const text = await (await ask("GET", `${path}?after=2`)).text();
    expect(text).toMatch(
      /^retry: 2000\n\nid: 3\nevent: ended\ndata: \{"id":3,"at":"[^"]+","type":"ended","bytesRead":6,"bytesWritten":6\}\n\n$/,
    );
  });

  test("HEAD has the head alone, and watches nothing", async () => {
    const { ask, path } = await over();
    const response = await ask("HEAD", path);
    expect([response.status, await response.text()]).toEqual([200, ""]);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
  });

  test("a watcher who leaves while nothing happens is let go", async () => {
    const { ask, place } = serve();
    const { id } = await (await ask("POST", "/v1/sessions", { json: started })).json();
    const signals: AbortSignal[] = [];
    const watch = place.plane.events.bind(place.plane);
    place.plane.events = (id, after, signal) => {
      signals.push(signal);
      return watch(id, after, signal);
    };
    const response = await ask("GET", `/v1/sessions/${id}/events`);
    const reader = response.body!.getReader();
    await reader.read();
    await reader.cancel();
    expect(signals.map((signal) => signal.aborted)).toEqual([true]);
  });
});

describe("every answer", () => {
  test("has a request id, the caller's where it is well formed, and is not stored", async () => {
    const { ask } = serve();
    for (const [method, path] of [
      ["GET", "/v1/health"],
      ["GET", "/v1/sessions"],
      ["GET", `/v1/sessions/${NOWHERE}`],
      ["PUT", "/v1/sessions"],
      ["GET", "/v1/nothing"],
      ["OPTIONS", "/v1/sessions"],
    ] as const) {
      const own = await ask(method, path, { headers: { "x-request-id": "from-me.1" } });
      expect(own.headers.get("x-request-id")).toBe("from-me.1");
      expect(own.headers.get("cache-control")).toBe("no-store");
      expect(own.headers.get("access-control-allow-origin")).toBeNull();
      const made = await ask(method, path, { headers: { "x-request-id": 'no"t {well} formed' } });
      expect(made.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
      if (made.status >= 400) {
        expect(made.headers.get("content-type")).toBe("application/problem+json");
        expect((await made.json()).requestId).toBe(made.headers.get("x-request-id"));
      }
    }
  });

  test("to HEAD has no body, to OPTIONS says what is allowed", async () => {
    const { ask } = serve();
    const head = await ask("HEAD", "/v1/sessions");
    expect([head.status, await head.text(), head.headers.get("content-type")]).toEqual([
      200,
      "",
      "application/json",
    ]);
    const options = await ask("OPTIONS", `/v1/sessions/${NOWHERE}`);
    expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, HEAD, DELETE, OPTIONS"]);
    expect((await ask("OPTIONS", "/v1/sessions", { token: null })).status).toBe(401);
    expect((await ask("OPTIONS", "/v1/health", { token: null })).headers.get("allow")).toBe(
      "GET, HEAD, OPTIONS",
    );
  });

  test("for a fault of ours tells nothing of it, but to onError", async () => {
    const { ask, place, faults } = serve();
    const fault = new Error("the database says: password=hunter22");
    place.plane.get = () => Promise.reject(fault);
    const response = await ask("GET", `/v1/sessions/${NOWHERE}`);
    const text = await response.text();
    expect([response.status, JSON.parse(text).code]).toEqual([500, "ERR_INTERNAL"]);
    expect(text).not.toContain("hunter22");
    expect(faults).toEqual([fault]);
  });

  test.each([
    ["ENOTCONN", 409],
    ["ERR_UNSUPPORTED", 501],
    ["ETIMEDOUT", 409],
    ["ENOBUFS", 429],
    ["ERR_PLATFORM", 503],
    ["EMFILE", 503],
    ["ECONNREFUSED", 500],
  ] as const)("maps what a plane throws: %s is %i", async (code, status) => {
    const { ask, place } = serve();
    place.plane.get = () => Promise.reject(new SocketError(code, "so it is"));
    const response = await ask("GET", `/v1/sessions/${NOWHERE}`);
    expect([response.status, await response.json()]).toMatchObject([
      status,
      { code, detail: "so it is", status },
    ]);
  });
});

describe("tokens", () => {
  const shut = async (tokens: string | undefined) => {
    const { plane, dialled } = new MemoryPlace();
    const routes = controlRoutes({ plane, tokens });
    const answers: unknown[] = [];
    for (const token of [undefined, "", TOKEN, tokens]) {
      const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const response = await routes.request("/v1/sessions", { headers });
      answers.push([response.status, ((await response.json()) as Problem).code]);
    }
    const { detail } = (await (await routes.request("/v1/sessions")).json()) as Problem;
    expect(answers).toEqual(Array(4).fill([503, "ERR_APP"]));
    expect((await routes.request("/v1/health")).status).toBe(200);
    expect((await routes.request("/v1/ready")).status).toBe(503);
    expect(dialled).toEqual([]);
    return detail;
  };

  test.each([
    ["there are none", undefined, "it has no token"],
    ["the text is empty", " ,\n", "it has no token"],
    ["one is short", `${TOKEN},only-15-of-them`, "entry 2 of SOCKLET_TOKENS is shorter than 16"],
    ["one is short beside its scope", "read:only-15-of-them", "entry 1 of SOCKLET_TOKENS is shorter than 16"],
    ["a scope does not exist", `root:${TOKEN}`, 'write "read:", "run:"'],
    ["a scope is empty", `:${TOKEN}`, 'write "read:", "run:"'],
    ["one has a character of its own", `${TOKEN}"`, "characters that a token cannot have"],
    ["one has a colon of its own", `run:${TOKEN}:x`, "characters that a token cannot have"],
  ])("shut all but health where %s, and say what to do", async (_what, tokens, why) => {
    const detail = await shut(tokens);
    expect(detail).toContain(why);
    expect(detail).toContain("set the secret SOCKLET_TOKENS");
    expect(detail).not.toContain(TOKEN);
  });

  test("are several at once, each with its scopes; the same one twice has both", async () => {
    const twice = `read:${TOKEN} read+run:${READ} run:${TOKEN}`;
    const routes = controlRoutes({ plane: new MemoryPlace().plane, tokens: twice });
    for (const token of [TOKEN, READ]) {
      const headers = { authorization: `bearer  ${token} ` };
      expect((await routes.request("/v1/sessions", { headers })).status).toBe(200);
      expect((await routes.request(`/v1/sessions/${NOWHERE}`, { method: "DELETE", headers })).status).toBe(
        404,
      );
    }
  });

  test("are read anew when their text changes", async () => {
    let tokens = TOKEN;
    const { plane } = new MemoryPlace();
    const routes = controlRoutes(() => ({ plane, tokens }));
    const status = async (token: string) =>
      (await routes.request("/v1/listeners", { headers: { authorization: `Bearer ${token}` } })).status;
    expect([await status(TOKEN), await status(READ)]).toEqual([200, 401]);
    tokens = READ;
    expect([await status(TOKEN), await status(READ)]).toEqual([401, 200]);
  });
});

test("the routes can be mounted in a Hono app, below a path, over its bindings", async () => {
  const { plane } = new MemoryPlace();
  const outer = new Hono<{ Bindings: { SOCKLET_TOKENS: string } }>()
    .get("/", (c) => c.text("mine"))
    .route(
      "/control",
      controlRoutes((env) => ({ plane, tokens: env.SOCKLET_TOKENS })),
    );
  const ask = (path: string, init: RequestInit = {}) =>
    outer.request(
      path,
      { headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" }, ...init },
      { SOCKLET_TOKENS: TOKEN },
    );
  expect(await (await ask("/")).text()).toBe("mine");
  expect((await ask("/other")).headers.get("x-request-id")).toBeNull();
  const response = await ask("/control/v1/sessions", { method: "POST", body: JSON.stringify(started) });
  const location = response.headers.get("location") as string;
  expect(location).toMatch(/^\/control\/v1\/sessions\//);
  expect((await ask(location)).status).toBe(200);
  const unknown = await ask("/control/v1/sessions/x");
  expect([unknown.status, await unknown.json()]).toMatchObject([404, { code: "ENOENT" }]);
  expect((await ask("/control/v1/health", { method: "PUT" })).status).toBe(405);
  expect((await ask("/control/v1/nothing")).headers.get("content-type")).toBe("application/problem+json");
});

describe("the OpenAPI document", () => {
  type Schema = Record<string, unknown>;
  const schemas: Record<string, Schema> = openApi.components.schemas;

  /** What of a value does not fit a schema: as much of JSON Schema as the document uses, and a throw for more. */
  const misfits = (schema: Schema, value: unknown, at = "$"): string[] => {
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
    const fits = (name: string): boolean => (name === "integer" ? Number.isInteger(value) : name === type);
    return Object.entries(schema).flatMap(([key, rule]): string[] => {
      const wrong = (holds: boolean): string[] => (holds ? [] : [`${at}: ${key} ${JSON.stringify(rule)}`]);
      switch (key) {
        case "$ref":
          return misfits(schemas[(rule as string).replace("#/components/schemas/", "")] as Schema, value, at);
        case "type":
          return wrong([rule].flat().some((name) => fits(name as string)));
        case "const":
          return wrong(value === rule);
        case "enum":
          return wrong((rule as unknown[]).includes(value));
        case "minimum":
          return wrong(typeof value !== "number" || value >= (rule as number));
        case "maximum":
          return wrong(typeof value !== "number" || value <= (rule as number));
        case "required":
          return wrong(!isObject || (rule as string[]).every((name) => Object.hasOwn(value, name)));
        case "additionalProperties":
          expect(rule).toBe(false);
          return wrong(
            !isObject || Object.keys(value).every((name) => name in (schema.properties as object)),
          );
        case "properties":
          return !isObject
            ? []
            : Object.entries(rule as Record<string, Schema>).flatMap(([name, inner]) =>
                Object.hasOwn(value, name) ? misfits(inner, (value as Schema)[name], `${at}.${name}`) : [],
              );
        case "items":
          return Array.isArray(value)
            ? value.flatMap((item, i) => misfits(rule as Schema, item, `${at}[${i}]`))
            : [];
        case "anyOf":
          return wrong((rule as Schema[]).some((one) => misfits(one, value).length === 0));
        case "oneOf":
          return wrong((rule as Schema[]).filter((one) => misfits(one, value).length === 0).length === 1);
        case "format":
          return wrong(
            value === null ||
              (rule === "uuid" ? /^[0-9a-f-]{36}$/ : /^\d{4}-\d\d-\d\dT[\d:.]+Z$/).test(value as string),
          );
        case "description":
        case "default":
        case "contentEncoding":
          return [];
        default:
          throw new Error(`the document uses ${key}, which this test does not know`);
      }
    });
  };
  const operations = Object.entries(openApi.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      // biome-ignore lint/suspicious/noExplicitAny: read as JSON
      operation: operation as any,
    })),
  );
  const MAKE_ID = (path: string) => path.replace("{id}", NOWHERE);

  test("is served", async () => {
    const { ask } = serve();
    const response = await ask("GET", "/v1/openapi.json", { token: READ });
    expect(await response.json()).toEqual(JSON.parse(JSON.stringify(openApi)));
  });

  test("is not there where it was not asked for", async () => {
    const routes = controlRoutes({ plane: new MemoryPlace().plane, tokens: READ });
    const response = await routes.request("/v1/openapi.json", {
      headers: { authorization: `Bearer ${READ}` },
    });
    expect([response.status, ((await response.json()) as Problem).detail]).toEqual([
      404,
      expect.stringContaining("give workerFor() the option openApi"),
    ]);
  });

  test("rules of faults are the emulator's: where a plane has none, as a Worker's, 501 says so", async () => {
    const { ask } = serve();
    for (const [method, path] of [
      ["GET", "/v1/faults"],
      ["DELETE", "/v1/faults/name"],
    ] as const) {
      const response = await ask(method, path);
      const problem = (await response.json()) as Problem;
      expect([response.status, problem.code, problem.detail]).toEqual([
        501,
        "ERR_UNSUPPORTED",
        expect.stringContaining("a Worker has no rules of faults"),
      ]);
    }
  });

  test("has every route, and no other", () => {
    const { routes } = serve();
    const served = routes.routes
      .filter(({ method, path }) => method !== "ALL" && !path.includes("*"))
      .map(({ method, path }) => `${method} ${path.replace(":name", "{name}").replace(":id", "{id}")}`);
    const written = operations.map(({ method, path }) => `${method} ${path}`);
    expect(written.toSorted()).toEqual([...new Set(served)].toSorted());
    expect(written).toHaveLength(32);
  });

  test("says truly who may ask", async () => {
    const { ask } = serve();
    for (const { method, path, operation } of operations) {
      const asked = (token: string | null) => ask(method, MAKE_ID(path), { token });
      const scope = operation.security[0]?.token[0];
      if (scope === undefined) {
        expect((await asked(null)).status).toBe(200);
        continue;
      }
      expect((await asked(null)).status).toBe(401);
      expect((await asked(scope === "read" ? RUN : READ)).status).toBe(403);
      expect([401, 403]).not.toContain((await asked(scope === "read" ? READ : RUN)).status);
    }
  });

  test("has examples that fit its schemas, also of what is asked", () => {
    let seen = 0;
    for (const { operation } of operations) {
      const contents = [...Object.values(operation.responses), operation.requestBody ?? {}].flatMap(
        // biome-ignore lint/suspicious/noExplicitAny: read as JSON
        (part: any) => Object.values(part.content ?? {}),
      );
      // biome-ignore lint/suspicious/noExplicitAny: read as JSON
      for (const { schema, example } of contents as any[]) {
        if (example === undefined) continue;
        expect(misfits(schema, example)).toEqual([]);
        seen++;
      }
    }
    expect(seen).toBeGreaterThan(40);
    expect(misfits(schemas.Session as Schema, { id: "x" })).not.toEqual([]);
  });

  test("describes what is really answered", async () => {
    const { ask, place } = serve();
    const fits = async (response: Answer, schema: string) => {
      const value = await response.json();
      expect(misfits(schemas[schema] as Schema, value)).toEqual([]);
      return value;
    };
    await fits(await ask("GET", "/v1/health"), "Health");
    await fits(await ask("POST", "/v1/sessions", { json: run }), "Session");
    await fits(await ask("POST", "/v1/sessions", { json: { ...run, address: "10.9.9.9:7" } }), "Session");
    const { id } = await fits(await ask("POST", "/v1/sessions", { json: started }), "Session");
    await fits(await ask("GET", "/v1/sessions"), "Page");
    await fits(await ask("POST", "/v1/sessions", { json: { wrong: 1 } }), "Problem");
    const { listeners } = await (await ask("GET", "/v1/listeners")).json();
    expect(misfits(schemas.Listener as Schema, listeners[0])).toEqual([]);
    place.told.tell({ type: "draining", server: "Echo", running: 1, timeout: 5 });
    place.told.end();
    const { body } = await ask("GET", "/v1/listeners/events");
    for await (const told of readEvents<ListenerEvent>(body as ReadableStream<Uint8Array>)) {
      expect(misfits(schemas.ListenerEvent as Schema, told)).toEqual([]);
      expect(told).toMatchObject({ id: 1, type: "draining", running: 1, timeout: 5 });
    }
    await follow(place.plane, id, "open");
    await ask("POST", `/v1/sessions/${id}/data`, { json: { text: "x" } });
    await place.clients[0]!.sendall("y\n");
    await follow(place.plane, id, "handler");
    await ask("POST", `/v1/sessions/${id}/half-close`);
    await fits(await ask("DELETE", `/v1/sessions/${id}`), "Session");
    for (const event of await events(await ask("GET", `/v1/sessions/${id}/events`), "cut")) {
      expect(misfits(schemas.Event as Schema, event)).toEqual([]);
    }
  });

  test("has every field that may be asked, with the bounds that hold", async () => {
    const { ask, place } = serve();
    const properties = (schemas.Start as { properties: Record<string, Schema> }).properties;
    const { detail } = await (await ask("POST", "/v1/sessions", { json: { unheard: 1 } })).json();
    expect(detail).toContain(`the fields are ${Object.keys(properties).join(", ")}`);
    for (const name of ["deadline", "connectTimeout"]) {
      const { minimum, maximum } = properties[name] as { minimum: number; maximum: number };
      for (const [value, status] of [
        [minimum - 1, 422],
        [maximum + 1, 422],
        [maximum, 201],
      ]) {
        const json = { ...started, [name]: value };
        expect((await ask("POST", "/v1/sessions", { json })).status).toBe(status);
      }
    }
    expect(BOUNDS.maxDeadline).toBe((properties.deadline as Schema).maximum);
    expect(place.dialled).toHaveLength(2);
    expect(app.allow.length).toBeGreaterThan(0);
  });
});
