/** Recordings of listeners that serve in child processes: the same as for listeners in this process, and none unless requested. */

import dgram from "node:dgram";
import { once } from "node:events";
import type { StreamSocket } from "socklet";
import { createConnection, serveApp } from "socklet/emulator";
import { parseTranscript, type TranscriptEvent } from "socklet/testing";
import { expect, onTestFinished, test } from "vitest";
import { ownCertificates } from "../peers/certificates.ts";
import { app } from "./fixtures/recorded-app.ts";

const TOKEN = "a-token-for-the-tests";
const module = new URL("fixtures/recorded-app.ts", import.meta.url).href;
const { ca = "" } = ownCertificates() ?? {};

const served = async () => {
  const server = await serveApp(app, { module, control: { port: 0, tokens: TOKEN } });
  onTestFinished(() => server.close());
  const ask = (method: string, path: string, json?: unknown) =>
    fetch(`${server.control?.url}/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
      ...(json !== undefined && { body: JSON.stringify(json) }),
    });
  const urlOf = (name: string): string => server.listeners.find((one) => one.name === name)?.url ?? "";
  const newest = async (name: string): Promise<string> => {
    const answer = await ask("GET", `/sessions?limit=1&handler=${name}`);
    return ((await answer.json()) as { sessions: { id: string }[] }).sessions[0]?.id ?? "";
  };
  /** What is kept of the newest connection of a listener. */
  const kept = async (name: string) =>
    parseTranscript(await (await ask("GET", `/recording/${await newest(name)}/transcript`)).text());
  /** Resolves when that connection is over: its events end then. */
  const over = async (name: string): Promise<void> => {
    await (await ask("GET", `/sessions/${await newest(name)}/events`)).text();
  };
  return { ask, urlOf, kept, over, newest };
};

const dial = async (url: string): Promise<StreamSocket> => {
  const socket = await createConnection(
    url,
    url.startsWith("tls:") ? { tls: { ca, serverName: "localhost" } } : {},
  );
  onTestFinished(() => socket.abort());
  return socket;
};

const said = (events: readonly TranscriptEvent[], from: string): string =>
  events.map((event) => ("data" in event && event.from === from ? Buffer.from(event.data) : "")).join("");

/** What both sides sent, and how it ended, without times and without the network's cuts. */
const toldBy = ({ events }: { readonly events: readonly TranscriptEvent[] }) => ({
  client: said(events, "client"),
  server: said(events, "server"),
  happened: events.flatMap((event) =>
    "end" in event ? [`${event.from}: ${event.end}`] : "tls" in event ? ["TLS"] : [],
  ),
});

/** All that comes until the end; a reset is one. */
const untilEnd = async (socket: StreamSocket): Promise<string> => {
  let came = "";
  try {
    for (let bytes = await socket.recv(); bytes !== null; bytes = await socket.recv())
      came += Buffer.from(bytes);
  } catch (error) {
    came += `(${(error as { code: string }).code})`;
  }
  return came;
};

/** Conversations of a client with `Shouts`. */
const conversations: Readonly<Record<string, (url: string) => Promise<void>>> = {
  "a client that ends first": async (url) => {
    const socket = await dial(url);
    await socket.sendall("one\ntwo\n");
    await socket.shutdown(1);
    expect(await untilEnd(socket)).toBe("ready\nONE\nTWO\n");
  },
  "a handler that ends first": async (url) => {
    const socket = await dial(url);
    await socket.sendall("QUIT\n");
    expect(await untilEnd(socket)).toBe("ready\nQUIT\n");
  },
  "a handler that resets": async (url) => {
    const socket = await dial(url);
    expect(await socket.rfile.line()).toBe("ready");
    await socket.sendall("RESET\n");
    expect(await untilEnd(socket)).toBe("(ECONNRESET)");
  },
  "a handler that hands its connection over": async (url) => {
    const socket = await dial(url);
    expect(await socket.rfile.line()).toBe("ready");
    await socket.sendall("WEB\n");
    expect(await socket.rfile.line()).toBe("WEB");
    await socket.sendall("echoed\n");
    await socket.shutdown(1);
    expect(await untilEnd(socket)).toBe("echoed\n");
  },
};
const secures = async (url: string): Promise<void> => {
  const socket = await dial(url);
  expect(await socket.rfile.line()).toBe("ready");
  await socket.sendall("SECURE\n");
  expect(await socket.rfile.line()).toBe("SECURE");
  await socket.startTls({ serverName: "localhost" });
  await socket.sendall("secret\n");
  await socket.shutdown(1);
  expect(await untilEnd(socket)).toBe("SECRET\n");
};

const rows = [
  ...Object.entries(conversations).flatMap(([name, hold]) => [
    [name, "here", "child", hold] as const,
    [`${name}, by TLS`, "secureHere", "secureChild", hold] as const,
  ]),
  ["a handler that begins TLS", "here", "child", secures] as const,
];

for (const intake of ["on", "off"]) {
  test(`a child's connections are kept as those of this process, SOCKLET_INTAKE=${intake}`, async () => {
    const before = process.env.SOCKLET_INTAKE;
    process.env.SOCKLET_INTAKE = intake;
    onTestFinished(() => {
      if (before === undefined) delete process.env.SOCKLET_INTAKE;
      else process.env.SOCKLET_INTAKE = before;
    });
    const { ask, urlOf, kept, over } = await served();
    await ask("PUT", "/recording", {});
    for (const [name, here, child, hold] of rows) {
      for (const listener of [here, child]) {
        await hold(urlOf(listener));
        await over(listener);
      }
      const told = toldBy(await kept(child));
      expect(told, name).toEqual(toldBy(await kept(here)));
      expect(told.server, name).toMatch(/^ready\n/);
    }
  });
}

test("of a child that crashes there is all that it had said, and a reset", async () => {
  const { ask, urlOf, kept, over } = await served();
  await ask("PUT", "/recording", {});
  const socket = await dial(urlOf("child"));
  expect(await socket.rfile.line()).toBe("ready");
  await socket.sendall("one\n");
  expect(await socket.rfile.line()).toBe("ONE");
  await socket.sendall("CRASH\n");
  await untilEnd(socket);
  await over("child");
  expect(toldBy(await kept("child"))).toEqual({
    client: "one\nCRASH\n",
    server: "ready\nONE\n",
    happened: ["server: reset"],
  });
});

test("nothing goes to the parent while nobody records, and it is known how much passed before", async () => {
  const { ask, urlOf, kept } = await served();
  const socket = await dial(urlOf("child"));
  expect(await socket.rfile.line()).toBe("ready");
  const told = async (): Promise<number> => {
    await socket.sendall("TOLD\n");
    return Number(await socket.rfile.line());
  };
  expect([await told(), await told()]).toEqual([0, 0]); // 20 bytes, beside the greeting of 6
  await ask("PUT", "/recording", {});
  // The child takes the order when it arrives, over its own channel.
  let first = 0;
  let asked = 0;
  while (first === 0) {
    first = await told();
    asked++;
  }
  const { dropped = 0, ...rest } = await kept("child");
  const { client, server } = toldBy(rest);
  const all = 6 + 2 * (5 + 2) + asked * 5 + (asked - 1) * 2 + `${first}\n`.length;
  expect(dropped + client.length + server.length).toBe(all);
  expect(dropped).toBeGreaterThanOrEqual(20);
  await ask("DELETE", "/recording");
  let last = await told();
  for (let now = await told(); now !== last; now = await told()) last = now;
  await ask("GET", "/health");
  expect(await told()).toBe(last);
});

test("what a child cannot tell in time is counted", async () => {
  const { ask, urlOf, kept, over } = await served();
  await ask("PUT", "/recording", {});
  const size = 20 * 1024 * 1024;
  const socket = await dial(urlOf("child"));
  await socket.sendall(`MUCH ${size}\nQUIT\n`);
  let came = 0;
  for (let bytes = await socket.recv(); bytes !== null; bytes = await socket.recv()) came += bytes.length;
  expect(came).toBe("ready\n".length + size + "QUIT\n".length);
  await over("child");
  const { events, dropped = 0 } = await kept("child");
  const bytes = events.reduce((sum, event) => sum + ("data" in event ? event.data.length : 0), 0);
  expect(bytes + dropped).toBe(came + `MUCH ${size}\nQUIT\n`.length);
  expect(dropped).toBeGreaterThan(0);
  expect(events.at(-1)).toMatchObject({ from: "server", end: "close" });
});

test("the datagrams of a listener that forks", async () => {
  const { ask, urlOf } = await served();
  await ask("PUT", "/recording", {});
  const socket = dgram.createSocket("udp4");
  onTestFinished(() => void socket.close());
  for (const text of ["one", "two"]) {
    socket.send(text, Number(new URL(urlOf("datagrams")).port), "127.0.0.1");
    await once(socket, "message");
  }
  const { flows } = (await (await ask("GET", "/recording/flows")).json()) as { flows: { id: string }[] };
  const answer = await ask("GET", `/recording/${flows[0]?.id}/transcript`);
  const { events } = parseTranscript(await answer.text());
  expect([flows.length, said(events, "client"), said(events, "server")]).toEqual([1, "onetwo", "onetwo"]);
});

test("a connection that a child has is not closed gracefully from here: that says what can be done instead", async () => {
  const { ask, urlOf, newest } = await served();
  const socket = await dial(urlOf("child"));
  expect(await socket.rfile.line()).toBe("ready");
  const refused = await ask("DELETE", `/sessions/${await newest("child")}?graceful=true`);
  expect([refused.status, (await refused.json()) as object]).toMatchObject([
    501,
    { code: "ERR_UNSUPPORTED", detail: expect.stringContaining("half-close it") },
  ]);
  await socket.sendall("still\nQUIT\n");
  expect(await untilEnd(socket)).toBe("STILL\nQUIT\n");
});
