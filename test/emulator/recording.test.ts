/** The traffic of real sockets: recorded, shown by the control routes, and replayed. */

import { spawnSync } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatagramRequestHandler, decodeLines, defineApp, StreamRequestHandler } from "socklet";
import { controlClient } from "socklet/control";
import { type AppServer, createConnection, serveApp } from "socklet/emulator";
import { compareTranscripts, parseTranscript } from "socklet/testing";
import { expect, onTestFinished, test } from "vitest";
import { ownCertificates } from "../peers/certificates.ts";
import { app as pooledApp } from "./fixtures/pooled.ts";
import { untilNothingStoodStill } from "./standstill.ts";

const TOKEN = "a-token-for-the-tests";
const PATIENT = 120_000; // ms; a replay's own 10 s are too few if a process stalls
const SILENCE = 300; // ms that a replay waits for an answer before it sends the next piece anyway

/** Greets, then answers each line in upper case; `QUIT` ends it. */
class Shouts extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write("ready\n");
    for await (const line of this.rfile.lines()) {
      this.emit({ line });
      if (line === "CRASH") throw new Error("it crashed");
      if (line === "RESET") return this.request.abort();
      this.wfile.write(`${line.toUpperCase()}\n`);
      if (line === "QUIT") return;
    }
  }
}

class EchoDatagram extends DatagramRequestHandler {
  override handle(): void {
    this.request.reply(this.request.data);
  }
}

const app = defineApp({
  handlers: { shouts: Shouts, echo: EchoDatagram },
  listen: [
    { handler: "shouts", address: "tcp://127.0.0.1:0", decode: decodeLines },
    { handler: "echo", address: "udp://127.0.0.1:0" },
  ],
  dial: { loud: { handler: "shouts", address: "tcp://127.0.0.1:7" } },
  allow: ["127.0.0.0/8:*"],
});

/** The app, served, and its control routes. */
const served = async () => {
  const server: AppServer = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
  onTestFinished(() => server.close());
  const ask = async (method: string, path: string, json?: unknown) => {
    const response = await fetch(`${server.control?.url}/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
      ...(json !== undefined && { body: JSON.stringify(json) }),
    });
    // biome-ignore lint/suspicious/noExplicitAny: what is in it is what the test is about
    return (await response.json()) as any;
  };
  const [tcp, udp] = server.listeners.map(({ url }) => Number(new URL(url).port)) as [number, number];
  return { server, ask, tcp, udp };
};

/** Sends these lines, and returns everything that came until the end. */
const talk = async (port: number, lines: string): Promise<string> => {
  const socket = net.connect(port, "127.0.0.1");
  socket.end(lines);
  let came = "";
  socket.setEncoding("utf8").on("data", (text) => {
    came += text;
  });
  socket.on("error", () => {}); // a reset
  await new Promise((resolve) => socket.once("close", resolve));
  return came;
};

/** The app, served, and a client of its control routes. */
const withClient = async () => {
  const all = await served();
  return { ...all, control: controlClient(all.server.control?.url ?? "", { token: TOKEN }) };
};

/** A self-signed certificate, and its key. */
const selfSigned = (): [cert: string, key: string] => {
  const folder = mkdtempSync(join(tmpdir(), "socklet-self-signed-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  const names = ["-subj", "/CN=own.test", "-addext", "subjectAltName=DNS:own.test"];
  const made = spawnSync("openssl", ["req", "-x509", ...curve, "-keyout", "key", "-out", "cert", ...names], {
    cwd: folder,
  });
  expect(made.status).toBe(0);
  return [readFileSync(join(folder, "cert"), "utf8"), readFileSync(join(folder, "key"), "utf8")];
};

const joined = (events: readonly { from?: string; text?: string }[], from: string): string =>
  events.map((event) => (event.from === from ? (event.text ?? "") : "")).join("");

const newest = async (ask: (method: string, path: string) => Promise<{ sessions: { id: string }[] }>) =>
  (await ask("GET", "/sessions?limit=1")).sessions[0]?.id ?? "";

test.each([
  ["on Node's handles", "on"],
  ["on net.Socket", "off"],
])("a connection is kept as its handler has it, with who ended it: %s", async (_, intake) => {
  const before = process.env.SOCKLET_INTAKE;
  process.env.SOCKLET_INTAKE = intake;
  onTestFinished(() => {
    if (before === undefined) delete process.env.SOCKLET_INTAKE;
    else process.env.SOCKLET_INTAKE = before;
  });
  const { ask, tcp } = await served();
  await ask("PUT", "/recording", {});
  expect(await talk(tcp, "one\ntwo\n")).toBe("ready\nONE\nTWO\n");
  const id = await newest(ask);
  const { events, side } = await ask("GET", `/recording/${id}`);
  expect(side).toBe("server");
  expect([joined(events, "client"), joined(events, "server")]).toEqual(["one\ntwo\n", "ready\nONE\nTWO\n"]);
  expect(events.filter((event: object) => "end" in event)).toMatchObject([
    { from: "client", end: "half-close" },
    { from: "server", end: "close" },
  ]);
  await talk(tcp, "QUIT\n");
  const quit = await ask("GET", `/recording/${await newest(ask)}`);
  expect(joined(quit.events, "server")).toBe("ready\nQUIT\n");
  await talk(tcp, "RESET\n");
  const reset = await ask("GET", `/recording/${await newest(ask)}`);
  expect(reset.events.at(-1)).toMatchObject({ from: "server", end: "reset" });
});

test("who resets a connection is told", async () => {
  const { ask, tcp } = await served();
  await ask("PUT", "/recording", {});
  const socket = net.connect(tcp, "127.0.0.1");
  await once(socket, "data");
  const id = await newest(ask);
  socket.resetAndDestroy();
  await ask("GET", `/sessions/${id}`);
  for (;;) {
    const { events } = await ask("GET", `/recording/${id}`);
    if (!events.some((event: object) => "end" in event)) continue;
    expect(events.find((event: object) => "end" in event)).toMatchObject({ from: "client", end: "reset" });
    return;
  }
});

test("a connection that is open already is kept from when the recording begins", async () => {
  const { ask, tcp } = await served();
  const socket = net.connect(tcp, "127.0.0.1");
  await once(socket, "data");
  socket.write("before\n");
  await once(socket, "data");
  await ask("PUT", "/recording", {});
  socket.write("after\n");
  await once(socket, "data");
  const { events, dropped } = await ask("GET", `/recording/${await newest(ask)}`);
  expect([joined(events, "client"), joined(events, "server"), dropped]).toEqual(["after\n", "AFTER\n", 20]);
  socket.destroy();
});

test("the datagrams of one sender are a conversation", async () => {
  const { ask, udp } = await served();
  await ask("PUT", "/recording", {});
  const socket = dgram.createSocket("udp4");
  for (const text of ["one", "two"]) {
    socket.send(text, udp, "127.0.0.1");
    await once(socket, "message");
  }
  const { flows } = await ask("GET", "/recording/flows");
  expect(flows).toMatchObject([
    { handler: "echo", datagramsRead: 2, datagramsWritten: 2, bytesRead: 6, bytesWritten: 6 },
  ]);
  expect(flows[0].peer).toBe(`127.0.0.1:${socket.address().port}`);
  const { events, kind } = await ask("GET", `/recording/${flows[0].id}`);
  expect(kind).toBe("datagrams");
  expect(events.map(({ from, text }: { from: string; text: string }) => [from, text])).toEqual([
    ["client", "one"],
    ["server", "one"],
    ["client", "two"],
    ["server", "two"],
  ]);
  socket.close();
});

test("with TLS what is kept is what was said in it, and the listener's address says that it is TLS", async () => {
  const { cert, key, ca } = ownCertificates() as NonNullable<ReturnType<typeof ownCertificates>>;
  const secured = defineApp({
    handlers: { shouts: Shouts },
    listen: [{ handler: "shouts", address: "tls://127.0.0.1:0", options: { tls: { cert, key } } }],
  });
  await using server = await serveApp(secured, { control: { port: 0, tokens: TOKEN } });
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  await fetch(`${server.control?.url}/v1/recording`, { method: "PUT", headers, body: "{}" });
  const stream = await createConnection(server.listeners[0]?.url ?? "", { tls: { ca } });
  await stream.sendall("secret\nQUIT\n");
  for await (const bytes of stream) if (bytes.length === 0) break;
  await stream.close();
  const list = await fetch(`${server.control?.url}/v1/sessions`, { headers });
  const { sessions } = (await list.json()) as { sessions: { id: string }[] };
  const part = await fetch(`${server.control?.url}/v1/recording/${sessions[0]?.id}`, { headers });
  const { address, events } = (await part.json()) as {
    address: string;
    events: { from?: string; text?: string }[];
  };
  expect([address, joined(events, "client")]).toEqual([server.listeners[0]?.url, "secret\nQUIT\n"]);
});

test("what a client said can be said again, edited: to a listener, and to an address that the app allows", async () => {
  const { ask, tcp, udp } = await served();
  const again = (spec: object) => ask("POST", "/replays", { ...spec, timeout: PATIENT });
  const pieces = [{ text: "" }, { text: "again\n" }, { base64: btoa("QUIT\n") }];
  for (const to of ["shouts", `127.0.0.1:${tcp}`]) {
    await untilNothingStoodStill(SILENCE, async (timed) => {
      const { events, error } = await timed(again({ to, pieces, halfClose: false }));
      expect([joined(events, "client"), joined(events, "server"), error]).toEqual([
        "again\nQUIT\n",
        "ready\nAGAIN\nQUIT\n",
        null,
      ]);
      // Each piece waited for the answer before: the greeting came first.
      expect(events[0]).toMatchObject({ from: "server", text: "ready\n" });
    });
  }
  const address = `udp://127.0.0.1:${udp}`;
  await untilNothingStoodStill(SILENCE, async (timed) => {
    const datagrams = await timed(again({ to: "echo", pieces: [{ text: "a" }, { text: "b" }] }));
    expect(datagrams.events.map(({ text }: { text: string }) => text)).toEqual(["a", "a", "b", "b"]);
    expect(datagrams.address).toBe(address);
  });
  expect(await again({ to: address, pieces: [{ text: "c" }] })).toMatchObject({
    address,
    error: null,
    events: [{ text: "c" }, { from: "server", text: "c" }],
  });
  const refused = await ask("POST", "/replays", { to: "10.1.2.3:80", pieces });
  expect([refused.status, refused.code]).toEqual([403, "ERR_REFUSED"]);
});

test("entries are what can be said again to: a listener, one whose certificate is self-signed, and what is dialled", async () => {
  const [cert, key] = selfSigned();
  const upstream = net.createServer((socket) => socket.pipe(socket));
  upstream.listen(0, "127.0.0.1");
  await once(upstream, "listening");
  onTestFinished(() => void upstream.close());
  const there = `tcp://127.0.0.1:${(upstream.address() as net.AddressInfo).port}` as const;
  const every = defineApp({
    handlers: { shouts: Shouts, secured: Shouts },
    listen: [
      { handler: "shouts", address: "tcp://127.0.0.1:0" },
      { handler: "secured", address: "tls://127.0.0.1:0", options: { tls: { cert, key } } },
    ],
    dial: { loud: { handler: "shouts", address: there } },
  });
  await using server = await serveApp(every, { control: { port: 0, tokens: TOKEN } });
  const control = controlClient(server.control?.url ?? "", { token: TOKEN });
  const [shouts, secured] = server.listeners.map(({ url }) => url);
  expect(await control.entries()).toEqual([
    { on: "listen", entry: "shouts", address: shouts, faults: true },
    { on: "listen", entry: "secured", address: secured, faults: true },
    { on: "dial", entry: "loud", address: there, faults: true },
  ]);
  const { address, events, error } = await control.replay({
    to: "secured",
    pieces: ["hi\nQUIT\n"],
    timeout: PATIENT,
  });
  expect([address, error]).toEqual([secured, null]);
  expect(joined(events as { from?: string; text?: string }[], "server")).toBe("ready\nHI\nQUIT\n");
  await untilNothingStoodStill(SILENCE, async (timed) => {
    const pieces = ["hi", Uint8Array.of(0, 255)];
    const dialled = await timed(control.replay({ to: "loud", pieces, timeout: PATIENT }));
    expect(dialled).toMatchObject({ address: there, error: null });
    expect(dialled.events).toMatchObject([
      { text: "hi" },
      { text: "hi" },
      { base64: "AP8=" },
      { base64: "AP8=" },
      {},
      {},
      {},
    ]);
  });
});

test("a client of the control routes records: starts, finds, reads, decodes, follows, stops; and sets a fault on what is dialled", async () => {
  const { server, tcp, control } = await withClient();
  expect(await control.recording.limit({ maxConnections: 50 })).toMatchObject({
    on: false,
    maxConnections: 50,
  });
  expect(await control.recording.start({ maxBytes: 2 ** 21 })).toMatchObject({
    started: true,
    maxConnections: 50,
  });
  await talk(tcp, "one needle\nQUIT\n");
  const { ids } = await control.recording.find("needle");
  expect(ids).toHaveLength(1);
  expect(await control.recording.find(Uint8Array.of(0, 1, 2))).toEqual({ ids: [], more: false });
  const [id = ""] = ids;
  const part = await control.recording.part(id);
  expect([part.first, part.next]).toEqual([0, part.total]);
  expect((await control.recording.part(id, part.next)).events).toEqual([]);
  expect((await control.recording.messages(id)).messages.map(({ text }) => text)).toContain("ONE NEEDLE");
  const { events } = parseTranscript(await control.recording.transcript(id));
  expect(events.at(0)).toMatchObject({ from: "server", data: new TextEncoder().encode("ready\n") });
  expect(await control.recording.flows()).toEqual([]);
  const leaving = new AbortController();
  for await (const { recording } of control.recording.watch({ signal: leaving.signal })) {
    expect(recording.started).toBe(true);
    leaving.abort();
  }
  const rule = { on: "dial", entry: "loud", fault: "latency", latency: 1, name: "slow" } as const;
  expect(await control.faults.add(rule)).toMatchObject({ ...rule, holds: true });
  expect(await control.faults.list()).toMatchObject([rule]);
  expect(await control.faults.remove("slow")).toEqual([]);
  expect(await control.recording.stop()).toMatchObject({ started: false, bytes: 0 });
  expect((await control.recording.info()).started).toBe(false);
  await expect(control.recording.part(id)).rejects.toMatchObject({ code: "ENOENT" });
  await server.close();
});

test("a connection is ended gracefully from outside: the peer gets what was written, and the end", async () => {
  const { tcp, control } = await withClient();
  const socket = net.connect(tcp, "127.0.0.1");
  await once(socket, "data");
  const { sessions } = await control.sessions.list({ state: "running" });
  const id = sessions[0]?.id ?? "";
  const [ended, closed] = [once(socket, "end"), once(socket, "close")];
  socket.resume();
  const [info] = await Promise.all([control.sessions.end(id, { graceful: true }), ended]);
  expect(info).toMatchObject({ state: "cut", error: { code: "ECANCELED" } });
  await closed;
});

test("a recording that is stopped leaves no tap and no timer: the process ends", async () => {
  const { ask, tcp, server } = await served();
  await ask("PUT", "/recording", {});
  const socket = net.connect(tcp, "127.0.0.1");
  await once(socket, "data");
  await ask("DELETE", "/recording");
  socket.write("after\n");
  await once(socket, "data");
  const answer = await ask("GET", `/recording/${await newest(ask)}`);
  expect(answer.status).toBe(404);
  socket.destroy();
  await server.close();
});

test("a pool's connections are kept as those of a session: what its server was told, byte for byte", async () => {
  await using server = await serveApp(pooledApp, {
    anyPort: true,
    module: new URL("fixtures/pooled.ts", import.meta.url).href,
    control: { port: 0, tokens: TOKEN },
  });
  const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };
  const url = `${server.control?.url}/v1`;
  const get = async (path: string) => (await fetch(url + path, { headers })).text();
  await fetch(`${url}/recording`, { method: "PUT", headers, body: "{}" });
  const port = Number(new URL(server.listeners.find(({ name }) => name === "Visits")?.url ?? "").port);
  expect([await talk(port, ""), await talk(port, "")]).toEqual(["1\n", "2\n"]);
  const of = async (handler: string) => JSON.parse(await get(`/sessions?handler=${handler}`)).sessions;
  const [pooled, ...others] = await of("redis");
  expect([others, pooled]).toMatchObject([[], { direction: "outbound", state: "running" }]);
  const [accepted] = await of("RespServer");
  const kept = async (id: string) => parseTranscript(await get(`/recording/${id}/transcript`));
  const [client, server_] = await Promise.all([kept(pooled.id), kept(accepted.id)]);
  expect(compareTranscripts(client, server_)).toBeNull();
  expect(JSON.stringify(await get(`/recording/${pooled.id}/transcript`))).toContain("INCR");

  const sent = await fetch(`${url}/sessions/${pooled.id}/data`, {
    method: "POST",
    headers,
    body: JSON.stringify({ text: "x" }),
  });
  expect([sent.status, await sent.text()]).toEqual([409, expect.stringContaining("a connection of a pool")]);
  await fetch(`${url}/sessions/${pooled.id}`, { method: "DELETE", headers });
  expect(await talk(port, "")).toBe("3\n"); // over another connection
  expect((await of("redis")).map(({ state }: { state: string }) => state)).toEqual(["running", "cut"]);
});
