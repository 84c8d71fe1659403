/**
 * What the inspector costs, and how it feels when it is full: `npm run bench:inspector`, or one part of it, `npm run bench:inspector -- cost`
 * (or `list`). It needs Chromium, and Linux for the memory of the tab.
 *
 * 1. `cost`: the server's CPU time for each request of an echo over one connection, and for each connection of one request, with no page, and
 *    with one that is open and has loaded, in interleaved rounds.
 * 2. `list`: the page with 100 000 connections listed and 1 GB kept: how long an answer to a key in the filter takes, until it is painted, and
 *    the memory of the tab: its script's, and all that its process has to itself.
 */

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import net from "node:net";
import { type Browser, chromium, type Page } from "playwright-core";
import { defineApp, streamHandler } from "socklet";
import { serveApp } from "socklet/emulator";
import { exitOnSignals, tied } from "../peers/children.ts";

const TOKEN = "a-token-for-the-bench";
const ROUNDS = 12; // of each kind
const REQUESTS = 40_000; // in a round: so many that what the page asks now and then has its share
const SHORT = 3_000; // connections in a round
const [CONNECTIONS, BYTES] = [100_000, 10_240]; // 1 GB in all
const AT_ONCE = 64;

interface Told {
  readonly url?: string;
  readonly port?: number;
  /** Microseconds of CPU time so far. */
  readonly cpu?: number;
}

const echo = streamHandler(async ({ request }) => {
  for await (const bytes of request) await request.sendall(bytes);
});
const sink = streamHandler(async ({ request }) => {
  for await (const bytes of request) if (bytes.length === 0) return;
});

const serve = async (): Promise<void> => {
  const address = "tcp://127.0.0.1:0";
  const app = defineApp({
    handlers: { echo, sink },
    listen: [
      { handler: "echo", address },
      { handler: "sink", address },
    ],
  });
  const server = await serveApp(app, { control: { port: 0, tokens: TOKEN, inspect: true } });
  const ports = server.listeners.map(({ url }) => Number(new URL(url).port));
  process.on("message", (what) => {
    if (what === "end") process.exit();
    const { user, system } = process.cpuUsage();
    process.send?.({ url: server.control?.url, port: ports[what === "sink" ? 1 : 0], cpu: user + system });
  });
  process.send?.({});
};

const asked = async (server: ChildProcess, what: string): Promise<Told> => {
  server.send(what);
  return (await once(server, "message"))[0] as Told;
};

/** Microseconds of the server's CPU time for one connection of one request. */
const roundOfConnections = async (server: ChildProcess): Promise<number> => {
  const { port = 0, cpu: before = 0 } = await asked(server, "echo");
  const message = Buffer.alloc(64, 65);
  let left = SHORT;
  const one = async (): Promise<void> => {
    while (left-- > 0) {
      const socket = net.connect(port, "127.0.0.1").setNoDelay(true);
      socket.write(message);
      await once(socket, "data");
      socket.end();
      await once(socket, "close");
    }
  };
  await Promise.all(Array.from({ length: 8 }, one));
  const { cpu = 0 } = await asked(server, "echo");
  return (cpu - before) / SHORT;
};

/** Microseconds of the server's CPU time for one request over a connection that stays. */
const roundOfRequests = async (server: ChildProcess): Promise<number> => {
  const { port = 0, cpu: before = 0 } = await asked(server, "echo");
  const socket = net.connect(port, "127.0.0.1").setNoDelay(true);
  await once(socket, "connect");
  const message = Buffer.alloc(64, 65);
  await new Promise<void>((resolve) => {
    let came = 0;
    let sent = 0;
    const send = (): void => {
      sent++;
      socket.write(message);
    };
    socket.on("data", (bytes) => {
      came += bytes.length;
      if (came >= REQUESTS * message.length) resolve();
      else while (sent < REQUESTS && sent * message.length - came < message.length) send();
    });
    send();
  });
  socket.destroy();
  const { cpu = 0 } = await asked(server, "echo");
  return (cpu - before) / REQUESTS;
};

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

/** Opens so many connections, each of which says so many bytes. */
const fill = async (port: number): Promise<void> => {
  const bytes = Buffer.alloc(BYTES, "The quick brown fox jumps over the lazy dog.\n");
  let left = CONNECTIONS;
  const one = async (): Promise<void> => {
    while (left-- > 0) {
      const socket = net.connect(port, "127.0.0.1");
      socket.on("error", () => {});
      socket.end(bytes);
      socket.resume();
      await once(socket, "close");
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, one));
};

/** ms from a key in the filter until what it shows is painted. */
const typing = (page: Page, text: string): Promise<number> =>
  page.evaluate<number>(`new Promise((resolve) => {
    const filter = document.getElementById("filter");
    const began = performance.now();
    filter.value = ${JSON.stringify(text)};
    filter.dispatchEvent(new Event("input"));
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - began)));
  })`);

/** Bytes that the largest of the browser's tabs has to itself. */
const memoryOfTab = async (browser: Browser): Promise<number> => {
  const session = await browser.newBrowserCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  const tabs = processInfo.filter(({ type }) => type === "renderer");
  const sizes = tabs.map(async ({ id }) => {
    const text = await readFile(`/proc/${id}/smaps_rollup`, "utf8");
    const lines = text.matchAll(/^(?:Private_Clean|Private_Dirty|SwapPss): +(\d+) kB$/gm);
    return [...lines].reduce((sum, [, kilobytes]) => sum + Number(kilobytes) * 1024, 0);
  });
  return Math.max(...(await Promise.all(sizes)));
};

const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };

/** Ends the recording, and waits until nothing taps the connections. */
const stopRecording = async (url: string): Promise<void> => {
  for (;;) {
    const answer = await fetch(`${url}/v1/recording`, { method: "DELETE", headers });
    const { recording } = (await answer.json()) as { recording: { on: boolean } };
    if (!recording.on) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};

/** Opens the page, and waits until it has loaded what there is. */
const open = async (browser: Browser, url: string): Promise<Page> => {
  const page = await browser.newPage();
  const loaded = page.waitForResponse((response) => response.url().endsWith("/v1/recording/flows"), {
    timeout: 120_000,
  });
  await page.goto(`${url}/inspect#token=${TOKEN}`);
  await loaded; // the last of what it asks for
  return page;
};

const measureCost = async (browser: Browser, server: ChildProcess, url: string): Promise<void> => {
  const cases = [
    ["request over a connection that stays", roundOfRequests],
    ["connection of one request", roundOfConnections],
  ] as const;
  for (const [what, round] of cases) {
    const closed: number[] = [];
    const opened: number[] = [];
    await round(server);
    for (let i = 0; i < ROUNDS; i++) {
      closed.push(await round(server));
      const page = await open(browser, url);
      opened.push(await round(server));
      await page.close();
      await stopRecording(url);
    }
    const [before, after] = [closed, opened].map((times) => `${median(times).toFixed(2)} µs`);
    const more = median(opened.map((cpu, i) => cpu / (closed[i] ?? Number.NaN) - 1)); // of two rounds that follow each other
    console.log(`CPU time of the server for one ${what}: ${before} with no page, ${after} with one`);
    console.log(`an open page costs ${(more * 100).toFixed(1)} %`);
  }
};

const measureList = async (browser: Browser, server: ChildProcess, url: string): Promise<void> => {
  const limits = { maxBytes: 1_100 * 1024 ** 2, maxConnections: CONNECTIONS + 1_000 };
  await fetch(`${url}/v1/recording`, { method: "PUT", headers, body: JSON.stringify(limits) });
  const { port = 0 } = await asked(server, "sink");
  const began = performance.now();
  await fill(port);
  console.log(`${CONNECTIONS} connections in ${((performance.now() - began) / 1000).toFixed(0)} s`);
  const opening = performance.now();
  const page = await open(browser, url);
  // A locator polls from outside the page: its CSP refuses what `waitForFunction` would evaluate inside.
  const listed = page.locator("#count", { hasText: new RegExp(`^${CONNECTIONS / 1000},\\d{3}$`) });
  await listed.waitFor({ timeout: 60_000 });
  console.log(`the page lists them in ${((performance.now() - opening) / 1000).toFixed(1)} s`);
  const times: number[] = [];
  for (const text of ["s", "si", "sink 127", "sink 127.0.0.1:4", "ended 5", "nothing has this", ""])
    times.push(await typing(page, text));
  console.log(`a key in the filter: ${times.map((ms) => ms.toFixed(0)).join(", ")} ms`);
  const heap = await page.evaluate<number>("performance.memory.usedJSHeapSize");
  const all = await memoryOfTab(browser);
  console.log(
    `the tab: ${(all / 1024 ** 2).toFixed(0)} MiB, its script ${(heap / 1024 ** 2).toFixed(0)} MiB`,
  );
  console.log(await page.locator("#kept").textContent());
};

const measure = async (parts: readonly string[]): Promise<void> => {
  exitOnSignals();
  const server = tied(fork(import.meta.filename, ["serve"], { execArgv: ["--conditions=socklet:source"] }));
  await once(server, "message");
  const { url = "" } = await asked(server, "echo");
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"],
  });
  try {
    if (parts.includes("cost")) await measureCost(browser, server, url);
    if (parts.includes("list")) await measureList(browser, server, url);
  } finally {
    await browser.close();
    server.send("end");
  }
};

const parts = process.argv.slice(2);
await (parts[0] === "serve" ? serve() : measure(parts.length === 0 ? ["cost", "list"] : parts));
