/**
 * The routes as OpenAPI 3.1. Written by hand, since it is smaller than code that would generate it from the schemas. A test
 * compares it with the routes both ways, and its examples with its schemas.
 */

import { SECURE_TRANSPORTS } from "../../sockets/tls/tls.ts";
import { BOUNDS, SESSION_STATES } from "../plane.ts";
import { RECORDING_BOUNDS } from "../recording/bounds.ts";
import type { ProblemStatus } from "./problem.ts";

const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const string = { type: "string" };
const count = { type: "integer", minimum: 0 };
const nullable = (type: string, more: object = {}) => ({ type: [type, "null"], ...more });
const object = (properties: Readonly<Record<string, object>>, optional: readonly string[] = []) => ({
  type: "object",
  properties,
  required: Object.keys(properties).filter((name) => !optional.includes(name)),
  additionalProperties: false,
});
const list = (items: object) => ({ type: "array", items });
const ms = (maximum: number, more: object = {}) => ({ type: "integer", minimum: 1, maximum, ...more });

const ID = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80";
const running = {
  id: ID,
  handler: "redis",
  direction: "outbound",
  address: "127.0.0.1:6379",
  peer: "127.0.0.1:6379",
  state: "running",
  startedAt: "2026-11-23T06:00:00.000Z",
  endedAt: null,
  bytesRead: 7,
  bytesWritten: 14,
  result: null,
  error: null,
  kept: null,
};
const listening = {
  name: "echo",
  address: "tcp://127.0.0.1:7007",
  serve: "forking",
  state: "serving",
  suspended: null,
  waiting: 0,
  running: 1,
  served: 12,
  failed: 0,
  refused: 0,
  bytesRead: 1440,
  bytesWritten: 1440,
  children: { idle: 1, busy: 1, starting: 0, restarted: 0 },
};
const pooled = {
  name: "redis",
  address: "tcp://127.0.0.1:6379",
  max: 4,
  pipeline: 64,
  connections: 2,
  opening: 0,
  idle: 1,
  leased: 1,
  running: 3,
  waiting: 0,
  answered: 120,
  lost: 1,
  abandoned: 0,
  opened: 3,
  failed: 0,
  error: null,
  closed: false,
};
const toldMore = {
  request: { ...count, description: "The request's number at its server" },
  address: nullable("string"),
  duration: { type: "number", description: "ms" },
  bytesRead: count,
  bytesWritten: count,
  bytes: count,
  failed: {
    type: ["boolean", "integer"],
    description: "Whether a request failed; in `closed`, how many did",
  },
  running: count,
  waiting: count,
  served: count,
  refused: count,
  reason: string,
  how: string,
  answered: { ...count, description: "Calls that a pool's connection answered" },
  limit: string,
  rule: {
    ...string,
    description: "The rule of faults that acted; `fault`, `from` and `connection` say on what",
  },
  fault: string,
  from: string,
  connection: count,
  timeout: { type: "number", description: "ms" },
  detail: { description: "What the handler emitted" },
  error: ref("Error"),
  pid: nullable("integer"),
  code: nullable("integer"),
  signal: nullable("string"),
  requests: list(object({ request: count, address: nullable("string") })),
  delay: nullable("number", { description: "ms" }),
};
const milliseconds = { type: "number", minimum: 0, description: "ms" };
const faultParts = {
  on: { enum: ["listen", "dial"] },
  entry: { ...string, description: "A listen entry's handler, or the name of a dial entry" },
  fault: {
    ...string,
    description:
      "latency, rate, slice, slow-close, stall, silence, close, reset; for datagrams loss, duplicate, reorder, corrupt",
  },
  name: { ...string, description: "Default rule-1, and so on" },
  from: { enum: ["client", "server"], description: "Whose bytes; by default both sides'" },
  likelihood: { type: "number", description: "0 to 1: for each connection, or for each datagram" },
  latency: milliseconds,
  jitter: milliseconds,
  rate: { ...count, description: "Bytes a second" },
  slice: { ...count, description: "The most bytes in a piece" },
  delay: milliseconds,
  after: { ...count, description: "Bytes; for datagrams, how many datagrams" },
  match: { ...string, description: "Begins after the first occurrence of this text" },
  connection: { ...count, description: "Only for this connection, counted from 1" },
  in: milliseconds,
  for: milliseconds,
};
const faultRule = { on: "listen", entry: "echo", fault: "latency", latency: 100, from: "server" };
const fault = { ...faultRule, name: "rule-1", holds: true, applied: 3 };
const recording = {
  maxBytes: RECORDING_BOUNDS.maxBytes,
  maxConnections: RECORDING_BOUNDS.maxConnections,
  on: true,
  started: true,
  bytes: 65_536,
  conversations: 12,
  dropped: 0,
};
const recordingLimits = {
  maxBytes: {
    type: "integer",
    minimum: RECORDING_BOUNDS.leastBytes,
    maximum: RECORDING_BOUNDS.mostBytes,
    description: "All that is kept; the oldest goes first",
  },
  maxConnections: {
    type: "integer",
    minimum: 1,
    maximum: RECORDING_BOUNDS.mostConnections,
    description: "Conversations that are kept; as many sessions that are over are listed",
  },
};
const flow = {
  id: ID,
  handler: "dns",
  address: "udp://127.0.0.1:7053",
  peer: "127.0.0.1:53211",
  startedAt: "2026-11-23T06:00:00.000Z",
  lastAt: "2026-11-23T06:00:00.012Z",
  datagramsRead: 1,
  datagramsWritten: 1,
  bytesRead: 34,
  bytesWritten: 50,
};
const said = [
  { at: 0.4, from: "client", text: "PING\r\n" },
  { at: 0.6, from: "server", text: "+PONG\r\n" },
  { at: 0.9, from: "client", end: "half-close" },
];
const part = {
  id: ID,
  kind: "stream",
  side: "server",
  address: "tcp://127.0.0.1:6380",
  began: "2026-11-23T06:00:00.000Z",
  first: 0,
  next: 3,
  total: 3,
  events: said,
};
const toldEnd = {
  id: 7,
  at: "2026-11-23T06:00:00.004Z",
  type: "end",
  server: "echo",
  request: 3,
  address: "127.0.0.1:41714",
  duration: 1.25,
  bytesRead: 6,
  bytesWritten: 6,
  failed: false,
};
const ended = { ...running, state: "ended", endedAt: "2026-11-23T06:00:00.012Z", result: "PONG" };
const opened = { id: 2, at: "2026-11-23T06:00:00.004Z", type: "open", peer: "127.0.0.1:6379" };
const problem = {
  type: "urn:socklet:problem:not-found",
  title: "Not Found",
  status: 404,
  detail: "there is no session with that id; GET /v1/sessions lists those that are kept",
  code: "ENOENT",
  requestId: "5f0c8a52-3d0e-4f0e-9a52-6f1f5f1d7e11",
};

const json = (schema: object, example: unknown) => ({ "application/json": { schema, example } });
const answer = (description: string, schema: object, example: unknown) => ({
  description,
  content: json(schema, example),
});
const record = (description: string, example: unknown = running) =>
  answer(description, ref("Session"), example);

const PROBLEMS: Partial<Record<ProblemStatus, string>> = {
  400: "The body is not JSON",
  401: "No valid token",
  403: "The token lacks the scope, or the target is not allowed",
  404: "No such session",
  409: "The session is not in a state for this, or its peer takes nothing",
  413: "The body is too large",
  415: "The body is of another media type",
  422: "A field is wrong; `errors` names it",
  429: "Too many sessions run, or too much waits for the session's peer",
  501: "The platform does not have this",
  503: "No token is set, no session can be started now, or the platform failed (`ERR_PLATFORM`: ask again)",
};

/** One operation: its success answers, and its problems other than those of tokens. */
const operation = (
  summary: string,
  scope: "read" | "run" | null,
  responses: Readonly<Record<number, object>>,
  problems: readonly ProblemStatus[] = [],
  more: object = {},
) => ({
  summary,
  security: scope === null ? [] : [{ token: [scope] }],
  ...more,
  responses: {
    ...responses,
    ...Object.fromEntries(
      [...(scope === null ? [] : ([401, 403, 503] as const)), ...problems].map((status) => [
        status,
        {
          description: PROBLEMS[status],
          content: { "application/problem+json": { schema: ref("Problem"), example: problem } },
        },
      ]),
    ),
  },
});

const parameter = (
  name: string,
  where: "query" | "path" | "header",
  schema: object,
  description: string,
) => ({
  name,
  in: where,
  required: where === "path",
  schema,
  description,
});
const ofSession = {
  parameters: [parameter("id", "path", { ...string, format: "uuid" }, "The session's id")],
};

/** The document that `GET /v1/openapi.json` serves. */
export const openApi = {
  openapi: "3.1.0",
  info: {
    title: "Socklet control plane",
    version: "1",
    description:
      "Sessions: one handler on one connection each, started, watched and ended. Shut unless SOCKLET_TOKENS is set; tokens have the scopes read and run. Every error is a problem (RFC 9457) with a stable `code`; every answer has an X-Request-Id.",
  },
  paths: {
    "/v1/health": {
      get: operation("Whether it is up", null, {
        200: answer("It is up", ref("Health"), { status: "ok", listeners: 2, running: 1 }),
      }),
    },
    "/v1/ready": {
      get: operation(
        "Whether sessions can be started",
        null,
        { 200: answer("They can", object({ ready: { const: true } }), { ready: true }) },
        [503],
      ),
    },
    "/v1/openapi.json": {
      get: operation("This document", "read", { 200: answer("It", { type: "object" }, {}) }),
    },
    "/v1/listeners": {
      get: operation("Where the app listens", "read", {
        200: answer("All listeners", object({ listeners: list(ref("Listener")) }), {
          listeners: [listening],
        }),
      }),
    },
    "/v1/listeners/events": {
      get: operation(
        "The events of their servers: those that are kept, then those to come, until the servers are closed",
        "read",
        {
          200: {
            description: "Server-sent events: `id`, `event` (the type) and `data` (a ListenerEvent)",
            content: { "text/event-stream": { schema: ref("ListenerEvent"), example: toldEnd } },
          },
        },
        [422],
        {
          parameters: [
            parameter("after", "query", count, "Only events with a greater id"),
            parameter("Last-Event-ID", "header", count, "As `after`, over which it takes precedence"),
          ],
        },
      ),
    },
    "/v1/metrics": {
      get: operation(
        "Counts and histograms, in Prometheus' text format",
        "read",
        {
          200: {
            description: "Metrics whose names begin with socklet_, and some of the process",
            content: {
              "text/plain": { schema: string, example: 'socklet_active_requests{listener="echo"} 1\n' },
            },
          },
        },
        [501],
      ),
    },
    "/v1/pools": {
      get: operation("The app's pools", "read", {
        200: answer("All pools", object({ pools: list(ref("Pool")) }), { pools: [pooled] }),
      }),
    },
    "/v1/pools/{name}": {
      get: operation("One pool", "read", { 200: answer("It", ref("Pool"), pooled) }, [404], {
        parameters: [parameter("name", "path", string, "The pool's name in the app")],
      }),
    },
    "/v1/faults": {
      get: operation(
        "The rules of faults that are set, and what they have done",
        "read",
        { 200: answer("All rules", object({ faults: list(ref("Fault")) }), { faults: [fault] }) },
        [501],
      ),
      post: operation(
        "Adds a rule",
        "run",
        { 201: answer("The rule is set", ref("Fault"), fault) },
        [400, 413, 415, 422, 501],
        { requestBody: { required: true, content: json(ref("FaultRule"), faultRule) } },
      ),
      put: operation(
        "Sets these rules, and removes all others",
        "run",
        { 200: answer("The rules are set", object({ faults: list(ref("Fault")) }), { faults: [fault] }) },
        [400, 413, 415, 422, 501],
        {
          requestBody: {
            required: true,
            content: json(object({ faults: list(ref("FaultRule")) }), { faults: [faultRule] }),
          },
        },
      ),
      delete: operation(
        "Removes all rules",
        "run",
        { 200: answer("No rule is left", object({ faults: list(ref("Fault")) }), { faults: [] }) },
        [501],
      ),
    },
    "/v1/faults/{name}": {
      delete: operation(
        "Removes the rules of this name",
        "run",
        { 200: answer("The rules that are left", object({ faults: list(ref("Fault")) }), { faults: [] }) },
        [404, 501],
        { parameters: [parameter("name", "path", string, "The rule's name")] },
      ),
    },
    "/v1/recording": {
      get: operation(
        "Whether what passes over connections is kept, and how much",
        "read",
        { 200: answer("It", object({ recording: ref("Recording") }), { recording }) },
        [501],
      ),
      put: operation(
        "Starts a recording, or gives the one that runs other bounds",
        "run",
        { 200: answer("It runs", object({ recording: ref("Recording") }), { recording }) },
        [400, 413, 415, 422, 501],
        {
          requestBody: {
            required: true,
            content: json(object(recordingLimits, Object.keys(recordingLimits)), { maxBytes: 1 << 26 }),
          },
        },
      ),
      patch: operation(
        "Changes the bounds of what is kept, and starts nothing",
        "run",
        { 200: answer("They hold", object({ recording: ref("Recording") }), { recording }) },
        [400, 413, 415, 422, 501],
        {
          requestBody: {
            required: true,
            content: json(object(recordingLimits, Object.keys(recordingLimits)), { maxConnections: 1_000 }),
          },
        },
      ),
      delete: operation(
        "Stops the recording, and forgets what was kept",
        "run",
        {
          200: answer("It is stopped", object({ recording: ref("Recording") }), {
            recording: { ...recording, on: false, started: false, bytes: 0, conversations: 0 },
          }),
        },
        [501],
      ),
    },
    "/v1/recording/events": {
      get: operation(
        "The sessions and flows that change, as they do; what passes is kept while this is open",
        "run",
        {
          200: {
            description: "Server-sent events: `id`, `event` (`changed`) and `data` (a RecordingChange)",
            content: {
              "text/event-stream": {
                schema: ref("RecordingChange"),
                example: {
                  id: 1,
                  at: flow.startedAt,
                  type: "changed",
                  recording,
                  sessions: [running],
                  flows: [flow],
                },
              },
            },
          },
        },
        [422, 501],
      ),
    },
    "/v1/recording/flows": {
      get: operation(
        "Who sends datagrams to the listeners, the newest first, as far as that is kept",
        "read",
        { 200: answer("All flows", object({ flows: list(ref("Flow")) }), { flows: [flow] }) },
        [501],
      ),
    },
    "/v1/recording/find": {
      get: operation(
        "The conversations in which one side said some bytes",
        "run",
        {
          200: answer(
            "Their ids, the newest first; `more`: there are others",
            object({ ids: list({ ...string, format: "uuid" }), more: { type: "boolean" } }),
            { ids: [ID], more: false },
          ),
        },
        [422, 501],
        {
          parameters: [
            parameter("text", "query", string, "What was said, as text"),
            parameter("hex", "query", string, "Or its bytes, as pairs of hex digits"),
          ],
        },
      ),
    },
    "/v1/recording/{id}": {
      get: operation(
        "What was said on a session's connection, or in a flow",
        "run",
        { 200: answer("Some of it", ref("RecordedPart"), part) },
        [404, 422, 501],
        {
          parameters: [
            ...ofSession.parameters,
            parameter("after", "query", count, "From this event on: the `next` of the part before"),
            parameter(
              "bytes",
              "query",
              { ...ms(RECORDING_BOUNDS.mostPart), default: RECORDING_BOUNDS.part },
              "Until the events hold so many bytes",
            ),
          ],
        },
      ),
    },
    "/v1/recording/{id}/messages": {
      get: operation(
        "What the `decode` of its entry makes of it",
        "run",
        {
          200: answer(
            "Its messages; what the decoder threw; whether that is all",
            object({
              messages: list(
                object({
                  at: { type: "number", description: "ms since the recording began" },
                  from: { enum: ["client", "server"] },
                  bytes: count,
                  text: string,
                }),
              ),
              error: nullable("string"),
              whole: { type: "boolean" },
            }),
            { messages: [{ at: 0.4, from: "client", bytes: 6, text: "PING" }], error: null, whole: true },
          ),
        },
        [404, 501],
        ofSession,
      ),
    },
    "/v1/recording/{id}/transcript": {
      get: operation(
        "All of it, as a transcript",
        "run",
        {
          200: {
            description: "JSON Lines: a header, then an event a line",
            content: {
              "application/jsonl": {
                schema: string,
                example: '{"socklet":"transcript","version":1,"kind":"stream"}\n',
              },
            },
          },
        },
        [404, 501],
        ofSession,
      ),
    },
    "/v1/entries": {
      get: operation(
        "The entries of the app that can be said something again to, and which of them take rules of faults",
        "read",
        {
          200: answer("All entries", object({ entries: list(ref("Entry")) }), {
            entries: [{ on: "listen", entry: "resp", address: "tcp://127.0.0.1:6380", faults: true }],
          }),
        },
        [501],
      ),
    },
    "/v1/replays": {
      post: operation(
        "Says something again to a listener or a server, piece by piece; answers what both said",
        "run",
        {
          200: answer(
            "What both said, and what went wrong",
            object({
              address: string,
              events: list(ref("Said")),
              error: { anyOf: [ref("Error"), { type: "null" }] },
            }),
            { address: "tcp://127.0.0.1:6380", events: said, error: null },
          ),
        },
        [400, 413, 415, 422, 501],
        {
          requestBody: {
            required: true,
            content: json(
              object(
                {
                  to: {
                    ...string,
                    description: "A listener's name, an entry of `dial`, or an address that `allow` names",
                  },
                  pieces: {
                    ...list(ref("Data")),
                    description:
                      "Each waits until the one before was answered, or nothing has come for 300 ms; the end waits for the answer to the last piece, for at most half of the time that is left",
                  },
                  halfClose: { type: "boolean", default: true },
                  timeout: ms(BOUNDS.maxRunDeadline, { default: 10_000, description: "ms" }),
                },
                ["halfClose", "timeout"],
              ),
              { to: "resp", pieces: [{ text: "PING\r\n" }] },
            ),
          },
        },
      ),
    },
    "/v1/sessions": {
      get: operation(
        "Sessions, newest first",
        "read",
        { 200: answer("A page", ref("Page"), { sessions: [running], next: ID }) },
        [422],
        {
          parameters: [
            parameter("state", "query", { enum: SESSION_STATES }, "Only those in this state"),
            parameter("handler", "query", string, "Only those of this handler"),
            parameter(
              "limit",
              "query",
              { ...ms(BOUNDS.maxPageSize), default: BOUNDS.pageSize },
              "At most this many",
            ),
            parameter("before", "query", string, "The `next` of the page before"),
          ],
        },
      ),
      post: operation(
        "Runs a session; answers when it is over, or at once where it runs in the background",
        "run",
        {
          200: record("It is over, well or not: see its state", ended),
          201: {
            ...record("It runs in the background", { ...running, state: "connecting", peer: null }),
            headers: { Location: { schema: string, description: "The session's path" } },
          },
        },
        [400, 413, 415, 422, 429],
        {
          requestBody: {
            required: true,
            content: json(ref("Start"), { handler: "redis", address: "127.0.0.1:6379", params: [["PING"]] }),
          },
        },
      ),
    },
    "/v1/sessions/{id}": {
      get: operation("One session", "read", { 200: record("Its record", ended) }, [404], ofSession),
      delete: operation(
        "Ends a session by a reset, or gracefully: its connection is closed after what was written. One that is over stays as it is",
        "run",
        {
          200: record("Its record", {
            ...ended,
            state: "cut",
            result: null,
            error: { code: "ECANCELED", message: "ECANCELED: the session was ended by request" },
          }),
        },
        [404, 422, 501],
        {
          parameters: [
            ...ofSession.parameters,
            parameter(
              "graceful",
              "query",
              { type: "boolean", default: false },
              "Close the connection after what was written, instead of a reset",
            ),
          ],
        },
      ),
    },
    "/v1/sessions/{id}/events": {
      get: operation(
        "A session's events, those that are kept and then those to come, until it is over",
        "read",
        {
          200: {
            description: "Server-sent events: `id`, `event` (the type) and `data` (an Event)",
            content: { "text/event-stream": { schema: ref("Event"), example: opened } },
          },
        },
        [404, 422],
        {
          parameters: [
            ...ofSession.parameters,
            parameter("after", "query", count, "Only events with a greater id"),
            parameter("Last-Event-ID", "header", count, "As `after`, over which it takes precedence"),
          ],
        },
      ),
    },
    "/v1/sessions/{id}/data": {
      post: operation(
        "Sends bytes by hand",
        "run",
        { 200: record("Its record") },
        [400, 404, 409, 413, 415, 422, 429],
        {
          ...ofSession,
          requestBody: {
            required: true,
            content: {
              ...json(ref("Data"), { text: "QUIT\r\n" }),
              "application/octet-stream": { schema: { description: `1 to ${BOUNDS.dataBody} bytes` } },
            },
          },
        },
      ),
    },
    "/v1/sessions/{id}/half-close": {
      post: operation(
        "Ends our direction; the peer may still send",
        "run",
        { 200: record("Its record") },
        [404, 409],
        ofSession,
      ),
    },
  },
  components: {
    securitySchemes: { token: { type: "http", scheme: "bearer" } },
    schemas: {
      Health: object({ status: { const: "ok" }, listeners: count, running: count }),
      Pool: object({
        name: string,
        address: string,
        max: { ...count, description: "The most connections" },
        pipeline: { ...count, description: "The most calls under way on one connection" },
        connections: count,
        opening: count,
        idle: count,
        leased: count,
        running: { ...count, description: "Calls that have begun" },
        waiting: { ...count, description: "Calls and leases that wait for a connection" },
        answered: count,
        lost: { ...count, description: "Calls that had begun when their connection was lost" },
        abandoned: { ...count, description: "Calls that took too long or were given up" },
        opened: { ...count, description: "Connections that have logged in so far" },
        failed: { ...count, description: "Attempts to connect or log in that failed" },
        error: nullable("string", {
          description: "Why the last attempt failed, where none has succeeded since",
        }),
        closed: { type: "boolean" },
      }),
      Entry: object({
        on: { enum: ["listen", "dial"] },
        entry: string,
        address: string,
        faults: { type: "boolean", description: "Whether it takes rules of faults" },
      }),
      FaultRule: object(faultParts, Object.keys(faultParts).slice(3)),
      Fault: object(
        {
          ...faultParts,
          holds: { type: "boolean", description: "Whether it is in effect now" },
          applied: count,
        },
        Object.keys(faultParts).slice(4),
      ),
      Listener: object({
        name: string,
        address: string,
        serve: { enum: ["serial", "threading", "forking"] },
        state: { enum: ["new", "listening", "serving", "closed"] },
        suspended: { enum: ["hold", "refuse", null] },
        waiting: count,
        running: count,
        served: count,
        failed: count,
        refused: count,
        bytesRead: count,
        bytesWritten: count,
        children: {
          anyOf: [object({ idle: count, busy: count, starting: count, restarted: count }), { type: "null" }],
          description: "The child processes of a listener that forks",
        },
      }),
      ListenerEvent: {
        ...object(
          {
            id: { type: "integer", minimum: 1 },
            at: { ...string, format: "date-time" },
            type: string,
            server: { ...string, description: "The handler's name" },
            ...toldMore,
          },
          Object.keys(toldMore),
        ),
        description: "An event of a server; its `type` says which of the other fields it has",
      },
      Recording: object(
        {
          ...recordingLimits,
          on: { type: "boolean", description: "Whether what passes is kept now" },
          started: {
            type: "boolean",
            description: "Whether it was started, and goes on when nobody watches",
          },
          bytes: { ...count, description: "That are kept now" },
          conversations: count,
          dropped: { ...count, description: "Bytes that gave way to newer ones" },
          unreached: { ...count, description: "Isolates of a Worker that may keep more and did not answer" },
        },
        ["unreached"],
      ),
      Flow: object({
        id: { ...string, format: "uuid" },
        handler: string,
        address: string,
        peer: nullable("string"),
        startedAt: { ...string, format: "date-time" },
        lastAt: { ...string, format: "date-time" },
        datagramsRead: count,
        datagramsWritten: count,
        bytesRead: count,
        bytesWritten: count,
      }),
      Said: {
        ...object(
          {
            at: { type: "number", description: "ms since the recording began" },
            from: { enum: ["client", "server"] },
            text: string,
            base64: { ...string, contentEncoding: "base64" },
            end: { enum: ["half-close", "close", "reset"] },
            tls: { const: true },
          },
          ["from", "text", "base64", "end", "tls"],
        ),
        description: "A line of a transcript",
      },
      RecordedPart: object(
        {
          id: { ...string, format: "uuid" },
          kind: { enum: ["stream", "datagrams"] },
          side: { enum: ["client", "server"], description: "The side that this process has" },
          address: string,
          began: { ...string, format: "date-time" },
          dropped: { ...count, description: "Bytes that were said and are not kept" },
          first: { ...count, description: "The number of its first event" },
          next: { ...count, description: "The `after` of the next part" },
          total: { ...count, description: "Events so far" },
          events: list(ref("Said")),
        },
        ["dropped"],
      ),
      RecordingChange: object({
        id: { type: "integer", minimum: 1 },
        at: { ...string, format: "date-time" },
        type: { const: "changed" },
        recording: ref("Recording"),
        sessions: list(ref("Session")),
        flows: list(ref("Flow")),
      }),
      Start: {
        ...object(
          {
            dial: { ...string, description: "An entry of the app's `dial`" },
            handler: { ...string, description: "One of the app's handlers, with `address`" },
            address: { ...string, description: "host:port, which the app's `allow` must name" },
            params: { description: "Any JSON: the handler's `params`. Never shown again" },
            deadline: ms(BOUNDS.maxDeadline, {
              description: `ms. Default ${BOUNDS.runDeadline}, at most ${BOUNDS.maxRunDeadline}; in the background default ${BOUNDS.deadline}`,
            }),
            connectTimeout: ms(BOUNDS.maxConnectTimeout, { description: "ms" }),
            secureTransport: { enum: SECURE_TRANSPORTS, default: "off" },
            background: { type: "boolean", default: false },
          },
          [
            "dial",
            "handler",
            "address",
            "params",
            "deadline",
            "connectTimeout",
            "secureTransport",
            "background",
          ],
        ),
        oneOf: [{ required: ["dial"] }, { required: ["handler", "address"] }],
      },
      Data: {
        ...object({ text: string, base64: { ...string, contentEncoding: "base64" } }, ["text", "base64"]),
        oneOf: [{ required: ["text"] }, { required: ["base64"] }],
      },
      Session: object({
        id: { ...string, format: "uuid" },
        handler: string,
        direction: { enum: ["outbound", "inbound"] },
        address: string,
        peer: nullable("string"),
        state: { enum: SESSION_STATES },
        startedAt: { ...string, format: "date-time" },
        endedAt: nullable("string", { format: "date-time" }),
        bytesRead: count,
        bytesWritten: count,
        result: { description: 'What the handler returned; bytes are { "base64": … }' },
        error: { anyOf: [ref("Error"), { type: "null" }] },
        kept: { anyOf: [ref("Kept"), { type: "null" }] },
      }),
      Kept: object({
        attempt: {
          ...count,
          description: "The number of the attempt that runs, or of the last one that ran",
        },
        startedAt: nullable("string", { format: "date-time" }),
        openedAt: nullable("string", { format: "date-time" }),
        failures: { ...count, description: "Attempts in a row that ended before `redial.steady` was over" },
        next: nullable("string", { format: "date-time", description: "When it is dialled next" }),
        savedAt: nullable("string", { format: "date-time", description: "When its state was last kept" }),
        attempts: {
          ...list(ref("Attempt")),
          description: "The last attempts that are over, the oldest first",
        },
      }),
      Attempt: object({
        number: { type: "integer", minimum: 1 },
        startedAt: { ...string, format: "date-time" },
        openedAt: nullable("string", { format: "date-time" }),
        endedAt: { ...string, format: "date-time" },
        how: { enum: ["ended", "failed", "cut"] },
        error: { anyOf: [ref("Error"), { type: "null" }] },
      }),
      Page: object({ sessions: list(ref("Session")), next: nullable("string") }),
      Error: object({ code: string, message: string }),
      Event: object(
        {
          id: { type: "integer", minimum: 1 },
          at: { ...string, format: "date-time" },
          type: {
            enum: [
              ...["connecting", "open", "handler", "sent", "halfClosed"],
              ...["waiting", "ended", "failed", "cut"],
            ],
          },
          address: string,
          hint: string,
          peer: nullable("string"),
          detail: { description: "What the handler emitted" },
          bytes: count,
          bytesRead: count,
          bytesWritten: count,
          error: ref("Error"),
          attempt: { type: "integer", minimum: 1 },
          next: { ...string, format: "date-time" },
          over: { anyOf: [ref("Attempt"), { type: "null" }] },
        },
        [
          ...["address", "hint", "peer", "detail", "bytes", "bytesRead", "bytesWritten", "error"],
          ...["attempt", "next", "over"],
        ],
      ),
      Problem: object(
        {
          type: string,
          title: string,
          status: { type: "integer" },
          detail: string,
          code: string,
          requestId: string,
          errors: list(object({ field: string, message: string })),
        },
        ["errors"],
      ),
    },
  },
};
