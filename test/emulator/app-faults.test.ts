/** An app's fault rules: declared with its entries, and set by the route /v1/faults while it serves. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatagramRequestHandler, defineApp, type FaultRule, type SockletEvent, streamHandler } from "socklet";
import { createConnection, serveApp } from "socklet/emulator";
import { afterAll, expect, test } from "vitest";

const data = mkdtempSync(join(tmpdir(), "socklet-faults-"));
afterAll(() => rmSync(data, { recursive: true, force: true }));

const Echo = streamHandler(async ({ request }) => {
  for await (const bytes of request) await request.sendall(bytes);
});
const Ask = streamHandler(async ({ rfile, wfile }) => {
  wfile.write("a question\n");
  return rfile.line();
});
class Pong extends DatagramRequestHandler {
  override handle(): void {
    this.wfile.write("pong");
  }
}

const TOKEN = "a-token-of-these-tests";
const served = async (faults: { readonly faults?: readonly FaultRule[] } = {}) => {
  const events: SockletEvent[] = [];
  const app = defineApp({
    handlers: { echo: Echo, ask: Ask, pong: Pong },
    listen: [
      { handler: "echo", address: "tcp://127.0.0.1:7", ...faults },
      { handler: "pong", address: "udp://127.0.0.1:0" },
    ],
    dial: { ask: { handler: "ask", address: "tcp://127.0.0.1:7" } },
  });
  const server = await serveApp(app, {
    anyPort: true,
    data,
    control: { port: 0, tokens: `${TOKEN} read:${TOKEN}-of-readers` },
    onEvent: (event) => events.push(event),
  });
  const call = async (method: string, path: string, body?: unknown, token = TOKEN) => {
    const answer = await fetch(`${server.control?.url}/v1/${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body !== undefined && { "content-type": "application/json" }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
  };
  const url = server.listeners[0]?.url as string;
  /** The result of an echo of this: its text, or the code of the error. */
  const echo = async (text: string): Promise<string> => {
    await using stream = await createConnection(url);
    try {
      await stream.sendall(text);
      return new TextDecoder().decode(await stream.rfile.readexactly(text.length));
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  return { server, events, call, echo, [Symbol.asyncDispose]: () => server.close() };
};

test("a listen entry's rules hold, and what they do is an event", async () => {
  await using app = await served({ faults: [{ fault: "reset", match: "bad", connection: 2, name: "cut" }] });
  expect(await app.echo("bad")).toBe("bad");
  expect(await app.echo("bad")).toBe("ECONNRESET");
  expect(await app.echo("bad")).toBe("bad");
  expect(app.events.filter(({ type }) => type === "fault")).toEqual([
    { type: "fault", server: "echo", rule: "cut", fault: "reset", from: "client", connection: 2 },
  ]);
});

test("/v1/faults: rules are set, listed, replaced and taken back while the app serves", async () => {
  await using app = await served();
  expect(await app.call("GET", "faults")).toEqual({ status: 200, body: { faults: [] } });
  expect(await app.echo("before")).toBe("before");
  const rule = { on: "listen", entry: "echo", fault: "close", after: 2, from: "server" };
  expect(await app.call("POST", "faults", rule)).toEqual({
    status: 201,
    body: { ...rule, name: "rule-1", holds: true, applied: 0 },
  });
  expect(await app.echo("abc")).toBe("ERR_INCOMPLETE_READ");
  const { body } = await app.call("GET", "faults", undefined, `${TOKEN}-of-readers`);
  expect(body).toMatchObject({ faults: [{ name: "rule-1", applied: 1 }] });
  const other = { on: "dial", entry: "ask", fault: "reset", from: "client", match: "question", name: "cut" };
  expect(await app.call("PUT", "faults", { faults: [other] })).toMatchObject({
    status: 200,
    body: { faults: [other] },
  });
  expect(await app.echo("abc")).toBe("abc");
  const session = await app.call("POST", "sessions", { dial: "ask" });
  expect(session.body).toMatchObject({ state: "failed", error: { code: "ECONNRESET" } });
  expect((await app.call("DELETE", "faults/none")).status).toBe(404);
  expect(await app.call("DELETE", "faults/cut")).toEqual({ status: 200, body: { faults: [] } });
  expect((await app.call("POST", "sessions", { dial: "ask" })).body).toMatchObject({
    state: "ended",
    result: "a question",
  });
  await app.call("POST", "faults", rule);
  expect(await app.call("DELETE", "faults")).toEqual({ status: 200, body: { faults: [] } });
});

test("what cannot be answers 422 and says what would be right; nothing is changed then", async () => {
  await using app = await served();
  const rule = { on: "listen", entry: "echo", fault: "stall", name: "kept" };
  await app.call("POST", "faults", rule);
  const refused = async (method: string, body: unknown, detail: RegExp): Promise<void> => {
    const answer = await app.call(method, "faults", body);
    expect([answer.status, answer.body.detail]).toEqual([422, expect.stringMatching(detail)]);
  };
  await refused(
    "POST",
    { fault: "stall" },
    /the app has \{ "on": "listen", "entry": "echo" \}, .*"dial", "entry": "ask"/,
  );
  await refused(
    "POST",
    { on: "listen", entry: "pong", fault: "reset" },
    /can never come true: datagrams have no "reset"/,
  );
  await refused("POST", { ...rule }, /there is a rule "kept" already/);
  await refused(
    "PUT",
    {
      faults: [
        { ...rule, name: "new" },
        { ...rule, fault: "nothing" },
      ],
    },
    /fault/,
  );
  await refused("PUT", { rules: [] }, /faults must be a list/);
  expect((await app.call("GET", "faults")).body).toMatchObject({ faults: [{ name: "kept" }] });
  expect((await app.call("POST", "faults", rule, `${TOKEN}-of-readers`)).status).toBe(403);
  expect((await app.call("POST", "faults")).status).toBe(415);
});

test("an app whose rules cannot be is an error of the app's", async () => {
  await expect(served({ faults: [{ fault: "loss" }] })).rejects.toMatchObject({
    code: "ERR_APP",
    message: expect.stringContaining(
      'the listener "echo": faults[0]: the rule can never come true: a stream has no "loss"',
    ),
  });
  const forking = {
    handlers: { echo: Echo },
    listen: [{ handler: "echo", address: "127.0.0.1:0", serve: "forking", faults: [{ fault: "stall" }] }],
  } as const;
  expect(() => defineApp(forking)).toThrow("listen[0].faults: a forking listener has none");
});
