/** Hostile requests: each refused with its status, code and reason, and nothing dialled for any of them. */

import { describe, expect, test } from "vitest";
import { BOUNDS } from "../../core/control/plane.ts";
import { READ, RUN, serve, TOKEN } from "./control-setup.ts";

const ID = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80"; // of no session
const run = { handler: "Ask", address: "10.0.0.1:7" };
const SESSIONS = "/v1/sessions";
const ONE = `${SESSIONS}/${ID}`;
const json = { "content-type": "application/json" };
const bytes = { "content-type": "application/octet-stream" };

type Ask = Parameters<ReturnType<typeof serve>["ask"]>[2];
type Case = readonly [
  what: string,
  method: string,
  path: string,
  init: Ask,
  status: number,
  code: string,
  /** What the detail says. */
  why: RegExp,
];

/** A body in small pieces, whose length is not told. */
const streamed = (size: number): Ask => ({
  body: new ReadableStream({
    start(controller) {
      for (let at = 0; at < size; at += 1024) controller.enqueue(new Uint8Array(1024).fill(32));
      controller.close();
    },
  }),
  duplex: "half",
});

const nested = (levels: number): unknown => JSON.parse("[".repeat(levels) + "]".repeat(levels));

const TOKENS: readonly Case[] = [
  ["no token", "POST", SESSIONS, { token: null, json: run }, 401, "EACCES", /Authorization: Bearer/],
  ["no token, to read", "GET", SESSIONS, { token: null }, 401, "EACCES", /Authorization: Bearer/],
  ["no token, for the document", "GET", "/v1/openapi.json", { token: null }, 401, "EACCES", /needs a token/],
  ["no token, for an unknown path", "GET", "/v1/x", { token: null }, 401, "EACCES", /needs a token/],
  ["no token, with an unknown method", "PATCH", SESSIONS, { token: null }, 401, "EACCES", /needs a token/],
  ["a wrong token", "POST", SESSIONS, { token: "another-token-altogether" }, 401, "EACCES", /no valid token/],
  ["a token's beginning", "GET", SESSIONS, { token: TOKEN.slice(0, -1) }, 401, "EACCES", /no valid token/],
  ["a token and more", "GET", SESSIONS, { token: `${TOKEN}x` }, 401, "EACCES", /no valid token/],
  [
    "a token in another case",
    "GET",
    SESSIONS,
    { token: TOKEN.toUpperCase() },
    401,
    "EACCES",
    /no valid token/,
  ],
  ["an empty token", "GET", SESSIONS, { token: "" }, 401, "EACCES", /no valid token/],
  ["a token with its scope before it", "GET", SESSIONS, { token: `read:${READ}` }, 401, "EACCES", /no valid/],
  ["two tokens in one header", "GET", SESSIONS, { token: `${TOKEN} ${READ}` }, 401, "EACCES", /once/],
  [
    "two headers",
    "GET",
    SESSIONS,
    {
      headers: [
        ["authorization", `Bearer ${TOKEN}`],
        ["authorization", `Bearer ${TOKEN}`],
      ],
    },
    401,
    "EACCES",
    /once/,
  ],
  [
    "another scheme",
    "GET",
    SESSIONS,
    { headers: { authorization: `Basic ${TOKEN}` } },
    401,
    "EACCES",
    /Bearer/,
  ],
  ["no scheme", "GET", SESSIONS, { headers: { authorization: TOKEN } }, 401, "EACCES", /Bearer/],
  [
    "a token in the query",
    "GET",
    `${SESSIONS}?access_token=${TOKEN}`,
    { token: null },
    401,
    "EACCES",
    /Authorization: Bearer/,
  ],
  [
    "a token in another header",
    "GET",
    SESSIONS,
    { token: null, headers: { "x-api-key": TOKEN, cookie: `token=${TOKEN}` } },
    401,
    "EACCES",
    /Authorization: Bearer/,
  ],
  [
    "a token in the body",
    "POST",
    SESSIONS,
    { token: null, json: { ...run, token: TOKEN } },
    401,
    "EACCES",
    /Authorization: Bearer/,
  ],
  ["a reader who runs", "POST", SESSIONS, { token: READ, json: run }, 403, "ERR_REFUSED", /scope "run"/],
  ["a reader who ends", "DELETE", ONE, { token: READ }, 403, "ERR_REFUSED", /scope "run"/],
  ["a reader who sends", "POST", `${ONE}/data`, { token: READ }, 403, "ERR_REFUSED", /scope "run"/],
  ["a reader who half-closes", "POST", `${ONE}/half-close`, { token: READ }, 403, "ERR_REFUSED", /"run"/],
  ["a runner who lists", "GET", SESSIONS, { token: RUN }, 403, "ERR_REFUSED", /scope "read"/],
  ["a runner who follows", "GET", `${ONE}/events`, { token: RUN }, 403, "ERR_REFUSED", /scope "read"/],
];

const PATHS: readonly Case[] = [
  ["an unknown path", "GET", "/v1/sessionz", {}, 404, "ENOENT", /openapi/],
  ["another version", "POST", "/v2/sessions", { json: run }, 404, "ENOENT", /under \/v1/],
  ["the root", "GET", "/", {}, 404, "ENOENT", /under \/v1/],
  ["another case", "POST", "/V1/Sessions", { json: run }, 404, "ENOENT", /under \/v1/],
  ["a slash at the end", "POST", `${SESSIONS}/`, { json: run }, 404, "ENOENT", /no such path/],
  ["two slashes", "POST", "/v1//sessions", { json: run }, 404, "ENOENT", /no such path/],
  ["dots that lead out", "GET", "/v1/sessions/../../etc/passwd", {}, 404, "ENOENT", /under \/v1/],
  ["dots that are encoded", "GET", "/v1/sessions/%2e%2e/%2e%2e/etc", {}, 404, "ENOENT", /under \/v1/],
  ["a slash that is encoded", "GET", "/v1%2Fsessions", {}, 404, "ENOENT", /under \/v1/],
  ["one level more", "GET", `${ONE}/events/1`, {}, 404, "ENOENT", /no such path/],
  ["an id of no session", "GET", ONE, {}, 404, "ENOENT", /no session with that id/],
  ["an id that is a name", "GET", `${SESSIONS}/constructor`, {}, 404, "ENOENT", /no session with that id/],
  ["an id that is a number", "DELETE", `${SESSIONS}/1`, {}, 404, "ENOENT", /no session with that id/],
  ["an id in another case", "GET", `${SESSIONS}/${ID.toUpperCase()}`, {}, 404, "ENOENT", /no session/],
  [
    "a UUID of another version",
    "GET",
    `${SESSIONS}/0193f0c2-7a10-4c3e-8b1f-5a0c2e4d6f80`,
    {},
    404,
    "ENOENT",
    /no session/,
  ],
  ["a header in an id", "GET", `${ONE}%0d%0aset-cookie:%20a=b`, {}, 404, "ENOENT", /no session/],
  ["a NUL in an id", "DELETE", `${ONE}%00`, {}, 404, "ENOENT", /no session/],
  ["a path in an id", "GET", `${SESSIONS}/..%2f..%2fv1%2fhealth`, {}, 404, "ENOENT", /no session/],
  ["a broken escape in an id", "GET", `${SESSIONS}/%E0%A4%A`, {}, 404, "ENOENT", /no session/],
  ["a very long id", "GET", `${SESSIONS}/${"0".repeat(10_000)}`, {}, 404, "ENOENT", /no session/],
  ["data for no session", "POST", `${ONE}/data`, { body: "x", headers: bytes }, 404, "ENOENT", /no session/],
  ["a half-close of no session", "POST", `${ONE}/half-close`, {}, 404, "ENOENT", /no session/],
  ["events of no session", "GET", `${ONE}/events`, {}, 404, "ENOENT", /no session/],
  ["the end of no session", "DELETE", ONE, {}, 404, "ENOENT", /no session/],
];

const METHODS: readonly Case[] = [
  ["PUT", "PUT", SESSIONS, { json: run }, 405, "ERR_UNSUPPORTED", /GET, HEAD, POST, OPTIONS/],
  ["PATCH", "PATCH", ONE, { json: {} }, 405, "ERR_UNSUPPORTED", /GET, HEAD, DELETE, OPTIONS/],
  ["DELETE of all", "DELETE", SESSIONS, {}, 405, "ERR_UNSUPPORTED", /GET, HEAD, POST, OPTIONS/],
  ["GET of what is sent", "GET", `${ONE}/data`, {}, 405, "ERR_UNSUPPORTED", /takes POST, OPTIONS/],
  ["POST to a session", "POST", ONE, { json: run }, 405, "ERR_UNSUPPORTED", /GET, HEAD, DELETE, OPTIONS/],
  ["POST of health", "POST", "/v1/health", { token: null }, 405, "ERR_UNSUPPORTED", /GET, HEAD, OPTIONS/],
  ["a method that is none", "DIAL", SESSIONS, {}, 405, "ERR_UNSUPPORTED", /this path does not take DIAL/],
  [
    "another method by a header",
    "GET",
    `${ONE}/half-close`,
    { headers: { "x-http-method-override": "POST" } },
    405,
    "ERR_UNSUPPORTED",
    /takes POST/,
  ],
];

const BODIES: readonly Case[] = [
  ["no body", "POST", SESSIONS, {}, 415, "EINVAL", /application\/json/],
  [
    "a form",
    "POST",
    SESSIONS,
    { body: "handler=Ask", headers: { "content-type": "text/plain" } },
    415,
    "EINVAL",
    /JSON/,
  ],
  [
    "JSON that says it is a form",
    "POST",
    SESSIONS,
    { json: run, headers: { "content-type": "application/x-www-form-urlencoded" } },
    415,
    "EINVAL",
    /must be JSON/,
  ],
  [
    "another JSON",
    "POST",
    SESSIONS,
    { json: run, headers: { "content-type": "application/json-seq" } },
    415,
    "EINVAL",
    /must be JSON/,
  ],
  ["data as text", "POST", `${ONE}/data`, { body: "x" }, 415, "EINVAL", /octet-stream/],
  ["an empty body", "POST", SESSIONS, { headers: json }, 400, "EINVAL", /is not JSON/],
  ["half of a body", "POST", SESSIONS, { body: '{"handler":', headers: json }, 400, "EINVAL", /is not JSON/],
  [
    "JSON and more",
    "POST",
    SESSIONS,
    { body: `${JSON.stringify(run)}{}`, headers: json },
    400,
    "EINVAL",
    /not JSON/,
  ],
  [
    "no UTF-8",
    "POST",
    SESSIONS,
    { body: Uint8Array.of(34, 255, 34), headers: json },
    400,
    "EINVAL",
    /not JSON/,
  ],
  [
    "too many bytes",
    "POST",
    SESSIONS,
    { json: { ...run, params: "x".repeat(BOUNDS.jsonBody) } },
    413,
    "EMSGSIZE",
    /65536 bytes/,
  ],
  [
    "too many bytes, by the header alone",
    "POST",
    SESSIONS,
    { json: run, headers: { "content-length": "65537" } },
    413,
    "EMSGSIZE",
    /65536 bytes/,
  ],
  [
    "too many bytes, and a header that lies",
    "POST",
    SESSIONS,
    { ...streamed(BOUNDS.jsonBody + 1024), headers: { ...json, "content-length": "10" } },
    413,
    "EMSGSIZE",
    /65536 bytes/,
  ],
  [
    "too many bytes, and a header that is no number",
    "POST",
    SESSIONS,
    { ...streamed(BOUNDS.jsonBody + 1024), headers: { ...json, "content-length": "-1e9" } },
    413,
    "EMSGSIZE",
    /65536 bytes/,
  ],
  [
    "too much data",
    "POST",
    `${ONE}/data`,
    { ...streamed(BOUNDS.dataBody + 1024), headers: bytes },
    413,
    "EMSGSIZE",
    /1048576 bytes/,
  ],
  [
    "a body that breaks off",
    "POST",
    SESSIONS,
    {
      body: new ReadableStream({
        start(controller) {
          controller.error(new Error("gone"));
        },
      }),
      duplex: "half",
      headers: json,
    },
    400,
    "ERR_INCOMPLETE_READ",
    /broke off/,
  ],
];

const body = (what: string, given: unknown, why: RegExp, status = 422, code = "EINVAL"): Case => [
  what,
  "POST",
  SESSIONS,
  { json: given },
  status,
  code,
  why,
];
const data = (what: string, given: unknown, why: RegExp): Case => [
  what,
  "POST",
  `${ONE}/data`,
  { json: given },
  422,
  "EINVAL",
  why,
];
const query = (what: string, text: string, why: RegExp, path = SESSIONS): Case => [
  what,
  "GET",
  `${path}?${text}`,
  {},
  422,
  "EINVAL",
  why,
];

const FIELDS: readonly Case[] = [
  body("null", null, /^body must be a JSON object$/),
  body("a list", [run], /^body must be a JSON object$/),
  body("a text", "Ask", /^body must be a JSON object$/),
  body("nothing in it", {}, /"dial", or both "handler" and "address"/),
  body("no address", { handler: "Ask" }, /both "handler" and "address"/),
  body("a dial and an address", { dial: "greeter", address: "10.0.0.1:7" }, /either "dial"/),
  body("a dial and a handler", { dial: "greeter", handler: "Ask" }, /either "dial"/),
  body(
    "an unknown field",
    { ...run, timeout: 1 },
    /^timeout is not known here; the fields are dial, handler/,
  ),
  body("a field in another case", { ...run, Deadline: 1 }, /^Deadline is not known here/),
  [
    "a prototype",
    "POST",
    SESSIONS,
    { body: '{"handler":"Ask","address":"10.0.0.1:7","__proto__":{"background":true}}', headers: json },
    422,
    "EINVAL",
    /__proto__ is not known here/,
  ],
  body("a handler that is a number", { ...run, handler: 1 }, /^handler must be a string of 1 to 100/),
  body("an empty handler", { ...run, handler: "" }, /^handler must be a string of 1 to 100/),
  body("a long address", { ...run, address: "x".repeat(513) }, /^address must be a string of 1 to 512/),
  body("an address in a list", { ...run, address: ["10.0.0.1:7"] }, /^address must be a string/),
  body("an address in parts", { ...run, address: { hostname: "10.0.0.1", port: 7 } }, /^address must be/),
  body(
    "a deadline that is text",
    { ...run, deadline: "1000" },
    /^deadline must be a whole number of milliseconds/,
  ),
  body("a deadline of nothing", { ...run, deadline: 0 }, /^deadline must be a whole number/),
  body("a deadline in the past", { ...run, deadline: -1 }, /^deadline must be a whole number/),
  body("half a millisecond", { ...run, deadline: 0.5 }, /^deadline must be a whole number/),
  body("a deadline beyond a day", { ...run, deadline: 86_400_001, background: true }, /1 to 86400000/),
  body("a long wait", { ...run, deadline: 300_001 }, /"background": true/),
  body("a long connect", { ...run, connectTimeout: 120_001 }, /^connectTimeout must be/),
  body("a TLS that is none", { ...run, secureTransport: "yes" }, /must be one of off, on, starttls/),
  body("a background that is text", { ...run, background: "false" }, /^background must be true or false/),
  body(
    "params that are too deep",
    { ...run, params: nested(40) },
    /^params must be JSON of at most 32 levels/,
  ),
  [
    "params that are far too deep",
    "POST",
    SESSIONS,
    { body: `{"dial":"greeter","params":${"[".repeat(30_000)}${"]".repeat(30_000)}}`, headers: json },
    422,
    "EINVAL",
    /^params must be JSON of at most 32 levels/,
  ],
  body("all at once", { handler: 1, address: 2, x: 3 }, /^handler must .*; address must .*; x is not known/),
  data("data that is nothing", {}, /either "text" or "base64"/),
  data("data that is both", { text: "a", base64: "YQ==" }, /either "text" or "base64"/),
  data("data that is no base64", { base64: "a-b_" }, /^base64 must be base64, padded/),
  data("data without its padding", { base64: "YQ" }, /^base64 must be base64, padded/),
  data("data that is a number", { text: 1 }, /^text must be a string/),
  data("data of no bytes", { text: "" }, /^body has no bytes to send/),
  query("an unknown query", "limt=1", /^limt is not known here/),
  query("a query twice", "limit=1&limit=2", /^limit must be given once/),
  query("a limit of nothing", "limit=0", /^limit must be a whole number, 1 to 1000/),
  query("a limit beyond all", "limit=1001", /^limit must be a whole number, 1 to 1000/),
  query("a limit with a sign", "limit=-1", /^limit must be/),
  query("a limit that is no number", "limit=NaN", /^limit must be/),
  query("a limit as a computer says it", "limit=0x10", /^limit must be/),
  query("an empty limit", "limit=", /^limit must be/),
  query("a state that is none", "state=dead", /^state must be one of waiting, connecting, running, ended/),
  query("a before that is no id", "before=../x", /^before must be the `next`/),
  query("an after that is no number", "after=NaN", /^after must be a whole number/, `${ONE}/events`),
  query("an after below nothing", "after=-1", /^after must be/, `${ONE}/events`),
  query("an after beyond all", `after=${"9".repeat(16)}`, /^after must be/, `${ONE}/events`),
  query("an after with a line end", "after=1%0a2", /^after must be/, `${ONE}/events`),
  [
    "a Last-Event-ID that is no number",
    "GET",
    `${ONE}/events`,
    { headers: { "last-event-id": "1; drop" } },
    422,
    "EINVAL",
    /after must be a whole number/,
  ],
];

const TARGETS: readonly Case[] = [
  body(
    "no such handler",
    { ...run, handler: "Nobody" },
    /^handler: the app has none of that name; it has: Ask/,
  ),
  body("a handler that is inherited", { ...run, handler: "toString" }, /none of that name/),
  body("a handler of datagrams", { ...run, handler: "Datagrams" }, /handles datagrams/),
  body("no such dial entry", { dial: "nobody" }, /^dial: the app has none of that name; it has: greeter/),
  body("no address at all", { ...run, address: "here" }, /./, 422, "ERR_INVALID_ADDRESS"),
  body("credentials in it", { ...run, address: "user:pw@10.0.0.1:7" }, /./, 422, "ERR_INVALID_ADDRESS"),
  body("a port beyond all", { ...run, address: "10.0.0.1:65536" }, /./, 422, "ERR_INVALID_ADDRESS"),
  body("port 0", { ...run, address: "10.0.0.1:0" }, /port 0/, 422, "ERR_INVALID_ADDRESS"),
  body("datagrams", { ...run, address: "udp://10.0.0.1:7" }, /datagram/, 422, "ERR_INVALID_ADDRESS"),
  body("another network", { ...run, address: "11.0.0.1:7" }, /not allowed by any rule/, 403, "ERR_REFUSED"),
  body("this machine", { ...run, address: "127.0.0.1:7" }, /not allowed by any rule/, 403, "ERR_REFUSED"),
  body("this machine as a number", { ...run, address: "2130706433:7" }, /127\.0\.0\.1/, 403, "ERR_REFUSED"),
  body("this machine by IPv6", { ...run, address: "[::ffff:7f00:1]:7" }, /allowed/, 403, "ERR_REFUSED"),
  body("the metadata service", { ...run, address: "169.254.169.254:80" }, /allowed/, 403, "ERR_REFUSED"),
  body("a name's parent", { ...run, address: "example.com:25" }, /by name/, 403, "ERR_REFUSED"),
  body("a name's other port", { ...run, address: "a.example.com:80" }, /by name/, 403, "ERR_REFUSED"),
  body("a name like it", { ...run, address: "a.example.com.evil.test:25" }, /by name/, 403, "ERR_REFUSED"),
  body("a path", { ...run, address: "unix:/var/run/docker.sock" }, /is a path/, 403, "ERR_REFUSED"),
];

describe.each([
  ["tokens", TOKENS],
  ["paths", PATHS],
  ["methods", METHODS],
  ["bodies", BODIES],
  ["fields", FIELDS],
  ["targets", TARGETS],
])("hostile %s", (_group, cases) => {
  test.each(cases)("%s", async (_what, method, path, init, status, code, why) => {
    const { ask, place, faults } = serve();
    const response = await ask(method, path, init);
    const problem = await response.json();
    expect([response.status, problem.code]).toEqual([status, code]);
    expect(problem.detail).toMatch(why);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(problem.type).toMatch(/^urn:socklet:problem:[a-z-]+$/);
    expect(problem.requestId).toBe(response.headers.get("x-request-id"));
    expect(response.headers.get("allow") === null).toBe(status !== 405);
    expect(response.headers.get("www-authenticate") === null).toBe(
      status !== 401 && !(status === 403 && problem.detail.includes("scope")),
    );
    expect(response.headers.get("set-cookie")).toBeNull();
    expect(JSON.stringify(problem)).not.toContain(TOKEN);
    expect(faults).toEqual([]);
    expect(place.dialled).toEqual([]);
    expect((await place.plane.list({ limit: 1 })).sessions).toEqual([]);
  });
});

test("the tables are long enough", () => {
  const all = [...TOKENS, ...PATHS, ...METHODS, ...BODIES, ...FIELDS, ...TARGETS];
  expect(all.length).toBeGreaterThanOrEqual(120);
  expect(new Set(all.map(([what, , path]) => what + path)).size).toBe(all.length);
});

test("a body at its limit is taken", async () => {
  const { ask, place } = serve();
  const frame = JSON.stringify({ ...run, params: "" }).length;
  const params = "x".repeat(BOUNDS.jsonBody - frame);
  const response = await ask("POST", SESSIONS, { json: { ...run, params } });
  expect([response.status, (await response.json()).result]).toEqual([200, params]);
  expect(place.dialled).toEqual(["10.0.0.1:7"]);
  const levels = await ask("POST", SESSIONS, { json: { ...run, handler: "Gives", params: nested(32) } });
  expect((await levels.json()).result).toEqual(nested(32));
});

test("a header with its own line end cannot be made, and a request id with one is not taken", async () => {
  const { ask } = serve();
  expect(() => new Headers({ "x-request-id": "a\r\nset-cookie: b" })).toThrow(TypeError);
  const response = await ask("GET", "/v1/health", { headers: { "x-request-id": "a".repeat(65) } });
  expect(response.headers.get("x-request-id")).toMatch(/^[0-9a-f-]{36}$/);
});
