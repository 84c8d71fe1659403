/**
 * The control routes: HTTP in front of a `ControlPlane`, in Hono.
 *
 * | | scope | |
 * |---|---|---|
 * | `GET /v1/health` | open | `{ status: "ok", listeners, running }` |
 * | `GET /v1/ready` | open | 200 `{ ready: true }`, or 503 and why |
 * | `GET /v1/openapi.json` | read | these routes, as OpenAPI 3.1 |
 * | `GET /v1/listeners` | read | `{ listeners }`: what listens, with the counts of its server |
 * | `GET /v1/listeners/events` | read | the events of their servers, as they happen (SSE); `Last-Event-ID` or `?after=` resumes |
 * | `GET /v1/metrics` | read | counts and histograms in Prometheus' text; in a Worker from its objects, if `workerFor()` was given `metrics`, else 501 |
 * | `GET /v1/pools` | read | `{ pools }`: the app's pools, with their counts |
 * | `GET /v1/pools/:name` | read | one of them |
 * | `GET /v1/faults` | read | `{ faults }`: the fault rules, and what they have done; emulator only |
 * | `POST /v1/faults` | run | adds one: `{ on, entry, fault, … }`; 201 and the rule |
 * | `PUT /v1/faults` | run | `{ faults }`: replaces all |
 * | `DELETE /v1/faults` | run | removes all; `/v1/faults/:name` removes those of that name |
 * | `GET /v1/sessions` | read | a page, newest first: `?state= &handler= &limit= &before=` |
 * | `POST /v1/sessions` | run | runs one: 200 and its record when it is over; `"background": true`: 201 at once |
 * | `GET /v1/sessions/:id` | read | its record |
 * | `DELETE /v1/sessions/:id` | run | ends it; its record |
 * | `GET /v1/sessions/:id/events` | read | its events, as they happen (SSE); `Last-Event-ID` or `?after=` resumes |
 * | `POST /v1/sessions/:id/data` | run | sends bytes by hand; its record |
 * | `POST /v1/sessions/:id/half-close` | run | ends our direction by hand; its record |
 *
 * A request is checked in this order, and the first fault is the answer: whether there are tokens at all
 * (503), its token (401), path (404) and method (405), scope (403), media type (415), size (413), JSON (400),
 * fields (422); then the plane. A failed session is not a failed request: the answer is a record, with status 200, whose
 * `state` and `error` say so. A caller that leaves while it runs does not end it; the session's deadline does.
 */

import type { Context, Hono } from "hono";
import { HonoBase } from "hono/hono-base";
import { PatternRouter } from "hono/router/pattern-router"; // the smallest of its routers: 2.5 KB less of a Worker than with those that "hono" brings
import { joinBytes, type MaybePromise } from "../../bytes/data.ts";
import { printableJson } from "../../describe.ts";
import type { SocketError } from "../../errors.ts";
import { checkOptions, optionNamesOf } from "../../options.ts";
import { METRICS_TYPE } from "../metrics.ts";
import {
  BOUNDS,
  type ControlPlane,
  type FaultPlane,
  isSessionId,
  type ListenerEvent,
  type RecordingChange,
  type SessionEvent,
} from "../plane.ts";
import { bearerToken, type Scope, TokenList } from "./auth.ts";
import { fieldError, flag, read, readAfter, readData, readList, readSpec } from "./fields.ts";
import { HttpError, problemResponse } from "./problem.ts";
import { eventStream } from "./sse.ts";

/** What the control routes are built on. */
export interface ControlSetup {
  readonly plane: ControlPlane;
  /** The text of `SOCKLET_TOKENS`; see `auth.ts` for its form. Without a token, only health is open. */
  readonly tokens: string | undefined;
  /** The answer of `GET /v1/openapi.json`: pass `openApi` to describe the routes. A Worker includes it only on request. */
  readonly openApi?: object | undefined;
  /** Called with each failure of the platform, and with each error behind a status 500, which the answer does not show. */
  readonly onError?: ((error: unknown, requestId: string) => void) | undefined;
}

const SETUP_NAMES = optionNamesOf<ControlSetup>("controlRoutes()")({
  plane: true,
  tokens: "string",
  openApi: true,
  onError: "function",
});

interface Env {
  Variables: { requestId: string; setup: ControlSetup };
}

/** What a route gets from its request. */
export type RouteContext = Context<Env>;

type Handle = (c: RouteContext, plane: ControlPlane) => MaybePromise<Response>;

/** Adds one route. `scope` is the scope that the token must have; `null` for a route without a token. */
export type AddRoute = (
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE",
  path: string,
  scope: Scope | null,
  handle: Handle,
) => void;

/**
 * The routes, as a Hono app of its own, or to mount in another: `app.route("/", controlRoutes(setup))`. If the
 * plane is made from the platform's bindings, pass a function of the bindings, which is called for each request. `more` adds routes
 * that not every platform has: `recordingRoutes`.
 */
export const controlRoutes = (
  // biome-ignore lint/suspicious/noExplicitAny: the type of the caller's bindings is unknown here
  setup: ControlSetup | ((env: any) => MaybePromise<ControlSetup>),
  more?: (route: AddRoute) => void,
): Hono => {
  if (typeof setup !== "function") checkOptions("controlRoutes()", setup, SETUP_NAMES);
  const app = new HonoBase<Env>({ router: new PatternRouter() });
  const allowed = new Map<string, string[]>(); // methods by path
  let tokens: TokenList | undefined;
  let tokensText: string | undefined;

  const tokenList = (text: string | undefined): TokenList => {
    if (tokens === undefined || text !== tokensText) tokens = new TokenList(text);
    tokensText = text;
    return tokens;
  };

  /** The scopes of the request's token. Throws if it has no valid one. */
  const authorize = async (c: RouteContext): Promise<ReadonlySet<string>> => {
    const list = tokenList(c.var.setup.tokens);
    if (list.problem !== null) throw new HttpError(503, "ERR_APP", list.problem);
    const header = c.req.header("Authorization");
    const token = bearerToken(header);
    const scopes = token === undefined ? null : await list.scopesOf(token);
    if (scopes !== null) return scopes;
    const why = header === undefined ? "" : ', error="invalid_token"'; // RFC 6750 section 3.1
    throw new HttpError(
      401,
      "EACCES",
      header === undefined
        ? 'this path needs a token: send "Authorization: Bearer <token>"'
        : 'the Authorization header has no valid token: send "Bearer " and one of SOCKLET_TOKENS, once',
      { headers: { "www-authenticate": `Bearer realm="socklet"${why}` } },
    );
  };

  const allowOf = (path: string): string => [...(allowed.get(path) ?? []), "OPTIONS"].join(", ");

  const route: AddRoute = (method, path, scope, handle) => {
    allowed.set(path, [...(allowed.get(path) ?? []), ...(method === "GET" ? ["GET", "HEAD"] : [method])]);
    app.on(method, path, async (c) => {
      if (scope !== null && !(await authorize(c)).has(scope)) {
        throw new HttpError(
          403,
          "ERR_REFUSED",
          `this path needs a token with the scope "${scope}", which yours does not have`,
          {
            headers: {
              "www-authenticate": `Bearer realm="socklet", error="insufficient_scope", scope="${scope}"`,
            },
          },
        );
      }
      return handle(c, c.var.setup.plane);
    });
  };

  app.use("/v1/*", async (c, next) => {
    const given = c.req.header("X-Request-Id") ?? "";
    const requestId = /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : crypto.randomUUID();
    c.set("requestId", requestId);
    c.set("setup", typeof setup === "function" ? await setup(c.env) : setup);
    await next();
    const { headers } = c.res;
    headers.set("X-Request-Id", requestId);
    headers.set("Cache-Control", "no-store");
    headers.set("X-Content-Type-Options", "nosniff");
  });

  const nowhere = async (c: RouteContext): Promise<never> => {
    await authorize(c);
    throw new HttpError(404, "ENOENT", "there is no such path; GET /v1/openapi.json lists them all");
  };
  // This router would treat the path as equal to the one without its last slash.
  app.use("/v1/*", (c, next) => (c.req.path.endsWith("/") ? nowhere(c) : next()));

  route("GET", "/v1/health", null, async (c, plane) => json(c, { status: "ok", ...(await plane.health()) }));

  route("GET", "/v1/ready", null, async (c, plane) => {
    const { problem } = tokenList(c.var.setup.tokens);
    const reasons = [...(problem === null ? [] : [problem]), ...(await plane.ready())];
    if (reasons.length > 0) throw new HttpError(503, "ERR_APP", reasons.join("; "));
    return json(c, { ready: true });
  });

  route("GET", "/v1/openapi.json", "read", (c) => {
    const { openApi } = c.var.setup;
    if (openApi !== undefined) return json(c, openApi);
    throw new HttpError(
      404,
      "ENOENT",
      "there is no OpenAPI document here; for a Worker, give workerFor() the option openApi",
    );
  });

  route("GET", "/v1/listeners", "read", async (c, plane) => json(c, { listeners: await plane.listeners() }));

  route("GET", "/v1/metrics", "read", async (c, plane) => {
    const text = await plane.metrics();
    if (text !== null) return c.body(text, 200, { "Content-Type": METRICS_TYPE });
    const said = "no metrics are kept here; in a Worker: workerFor(app, { metrics })";
    throw new HttpError(501, "ERR_UNSUPPORTED", said);
  });

  route("GET", "/v1/pools", "read", async (c, plane) => json(c, { pools: await plane.pools() }));

  route("GET", "/v1/pools/:name", "read", async (c, plane) => {
    const pool = (await plane.pools()).find(({ name }) => name === c.req.param("name"));
    return json(c, found(pool ?? null, "there is no pool with that name; GET /v1/pools lists them"));
  });

  route("GET", "/v1/faults", "read", (c, plane) => json(c, { faults: faultsOf(plane).list() }));

  route("POST", "/v1/faults", "run", async (c, plane) => {
    const faults = faultsOf(plane);
    return json(c, faults.add(await jsonBody(c)), 201);
  });

  route("PUT", "/v1/faults", "run", async (c, plane) => {
    const faults = faultsOf(plane);
    const given = ((await jsonBody(c)) as { faults?: unknown } | null)?.faults;
    if (!Array.isArray(given)) throw fieldError("faults", "must be a list of rules");
    return json(c, { faults: faults.set(given) });
  });

  route("DELETE", "/v1/faults", "run", (c, plane) => {
    const faults = faultsOf(plane);
    faults.remove();
    return json(c, { faults: faults.list() });
  });

  route("DELETE", "/v1/faults/:name", "run", (c, plane) => {
    const faults = faultsOf(plane);
    found(
      faults.remove(c.req.param("name")) || null,
      "there is no rule with that name; GET /v1/faults lists them",
    );
    return json(c, { faults: faults.list() });
  });

  route("GET", "/v1/sessions", "read", async (c, plane) => {
    const query = readList(queryOf(c));
    return json(c, await plane.list({ ...query, limit: query.limit ?? BOUNDS.pageSize }));
  });

  route("POST", "/v1/sessions", "run", async (c, plane) => {
    const { spec, background } = readSpec(await jsonBody(c));
    if (background) {
      const info = await plane.start(spec);
      return json(c, info, 201, { Location: `${c.req.path}/${info.id}` });
    }
    const deadline = spec.deadline ?? BOUNDS.runDeadline;
    const { id } = await plane.start({ ...spec, deadline });
    return json(c, found(await plane.wait(id, deadline + WAIT_GRACE)));
  });

  route("GET", "/v1/sessions/:id", "read", async (c, plane) => json(c, found(await plane.get(idOf(c)))));

  route("DELETE", "/v1/sessions/:id", "run", async (c, plane) => {
    const { graceful } = read(queryOf(c), { graceful: flag });
    return json(c, found(await plane.end(idOf(c), graceful)));
  });

  route("GET", "/v1/sessions/:id/events", "read", (c, plane) => {
    const id = idOf(c);
    return stream(c, async (after, signal) => found(await plane.events(id, after, signal)));
  });

  route("GET", "/v1/listeners/events", "read", (c, plane) =>
    stream(c, (after, signal) => plane.listenerEvents(after, signal)),
  );

  route("POST", "/v1/sessions/:id/data", "run", async (c, plane) => {
    const id = idOf(c);
    const also = ', or the bytes themselves with "application/octet-stream"';
    const bytes =
      mediaType(c) === "application/octet-stream"
        ? await body(c, BOUNDS.dataBody)
        : readData(await jsonBody(c, also));
    if (bytes.length === 0) throw fieldError("body", "has no bytes to send");
    return json(c, found(await plane.send(id, bytes)));
  });

  route("POST", "/v1/sessions/:id/half-close", "run", async (c, plane) =>
    json(c, found(await plane.halfClose(idOf(c)))),
  );

  more?.(route);

  for (const path of allowed.keys()) {
    app.all(path, async (c) => {
      if (path !== "/v1/health" && path !== "/v1/ready") await authorize(c);
      const headers = { Allow: allowOf(path) };
      if (c.req.method === "OPTIONS") return c.body(null, 204, headers);
      const detail = `this path does not take ${c.req.method}; it takes ${headers.Allow}`;
      throw new HttpError(405, "ERR_UNSUPPORTED", detail, { headers });
    });
  }
  app.all("/v1/*", nowhere);
  app.notFound((c) => {
    const error = new HttpError(404, "ENOENT", "there is no such path; the control plane is under /v1");
    return problemResponse(error, c.get("requestId") ?? crypto.randomUUID());
  });
  app.onError((error, c) => {
    const requestId = c.get("requestId");
    const response = problemResponse(error, requestId);
    const told = response.status === 500 || (error as SocketError).code === "ERR_PLATFORM";
    if (told) c.get("setup")?.onError?.(error, requestId);
    return response;
  });
  return app as unknown as Hono;
};

/** Events as they happen; `events` returns those with ids above the last one that the request has seen. */
export const stream = async (
  c: RouteContext,
  events: (
    after: number,
    signal: AbortSignal,
  ) => MaybePromise<AsyncIterable<SessionEvent | ListenerEvent | RecordingChange>>,
): Promise<Response> => {
  const asked = readAfter(queryOf(c)) ?? 0;
  const seen = readAfter({ after: c.req.header("Last-Event-ID") });
  const leaving = new AbortController();
  // The header is newer: a client that follows a URL with `after` and connects again sends both.
  const source = await events(seen ?? asked, leaving.signal);
  c.header("Content-Type", "text/event-stream");
  c.header("X-Accel-Buffering", "no"); // a buffering proxy would delay the events
  if (c.req.method === "HEAD") leaving.abort();
  return c.req.method === "HEAD" ? c.body(null) : c.body(eventStream(source, leaving));
};

const faultsOf = ({ faults }: ControlPlane): FaultPlane => {
  if (faults !== undefined) return faults;
  const why = "a Worker has no rules of faults; serve the app with `socklet serve`";
  throw new HttpError(501, "ERR_UNSUPPORTED", why);
};

const WAIT_GRACE = 2_000; // ms that the session may take to end after its deadline

/** What the plane found; `null` becomes a 404. */
export const found = <T>(
  value: T | null,
  message = "there is no session with that id; GET /v1/sessions lists those that are kept",
): T => {
  if (value !== null) return value;
  throw new HttpError(404, "ENOENT", message);
};

const idOf = (c: RouteContext): string => {
  const id = c.req.param("id") as string;
  return isSessionId(id) ? id : found<string>(null); // the plane is not asked for impossible ids
};

// ---- Bodies ----

/** A JSON answer, escaped so that `curl` cannot print control sequences to a terminal. */
export const json = (
  c: RouteContext,
  value: unknown,
  status: 200 | 201 = 200,
  headers: Record<string, string> = {},
) => c.body(printableJson(JSON.stringify(value)), status, { "Content-Type": "application/json", ...headers });

const mediaType = (c: RouteContext): string =>
  (c.req.header("Content-Type") ?? "").split(";", 1)[0]!.trim().toLowerCase();

/** The body's bytes: counted as they come, whatever `Content-Length` says. */
const body = async (c: RouteContext, limit: number): Promise<Uint8Array> => {
  const tooLarge = (): HttpError =>
    new HttpError(413, "EMSGSIZE", `the body is larger than the ${limit} bytes that are accepted`);
  if (Number(c.req.header("Content-Length")) > limit) throw tooLarge();
  const pieces: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const piece of c.req.raw.body ?? []) {
      size += piece.length;
      if (size > limit) throw tooLarge();
      pieces.push(piece);
    }
  } catch (error) {
    if (error instanceof HttpError) throw error;
    throw new HttpError(400, "ERR_INCOMPLETE_READ", "the body broke off before its end");
  }
  return joinBytes(pieces, size);
};

export const jsonBody = async (
  c: RouteContext,
  also = "",
  limit: number = BOUNDS.jsonBody,
): Promise<unknown> => {
  if (mediaType(c) !== "application/json") {
    throw new HttpError(415, "EINVAL", `the body must be JSON: send "Content-Type: application/json"${also}`);
  }
  const bytes = await body(c, limit);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new HttpError(400, "EINVAL", `the body is not JSON: ${(error as Error).message.slice(0, 200)}`);
  }
};

/** The query, each name once. */
export const queryOf = (c: RouteContext): Record<string, string> => {
  const query: Record<string, string> = Object.create(null);
  for (const [name, value] of new URL(c.req.url).searchParams) {
    if (name in query) throw fieldError(name, "must be given once");
    query[name] = value;
  }
  return query;
};
