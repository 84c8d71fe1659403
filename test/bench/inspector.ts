/**
 * What the inspector costs, and how it feels when it is full: `npm run bench:inspector`, or one part of it, `npm run bench:inspector -- cost`
 * (or `list`). It needs curl, Chromium, and Linux for the memory of the tab.
 *
 * 1. `cost`: the server's CPU time and rate for requests of an echo over one connection, and for connections of one request, with no page, and
 *    with one that is open and has loaded, in interleaved rounds. Curl asks what the page asks: a browser on the same cores takes more from
 *    the server (its caches, its turn on a core) than the page costs, and in one case or the other by chance.
 * 2. `list`: the page with 100 000 connections listed and 1 GB kept: how long an answer to a key in the filter takes, until it is painted, and
 *    the memory of the tab: its script's, and all that its process has to itself.
 */

import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import net from "node:net";
import { type Browser, chromium, type Page } from "playwright-core";
import { defineApp, streamHandler } from "socklet";
import { serveApp } from "socklet/emulator";
import { exitOnSignals, tied } from "../peers/children.ts";
import { median, medianInterval } from "./statistics.ts";

const TOKEN = "a-token-for-the-bench";
const ROUNDS = 20; // of each kind
const REQUESTS = 40_000; // in a round: so many that what the page asks now and then has its share
const SHORT = 4_000; // connections in a round
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

/** Microseconds for one unit of work. */
interface Cost {
  /** Of the server's CPU time. */
  readonly cpu: number;
  readonly elapsed: number;
}

/** Does `count` units of work, and says what one of them cost. */
const costOf = async (
  server: ChildProcess,
  count: number,
  work: (port: number) => Promise<void>,
): Promise<Cost> => {
  const { port = 0, cpu: before = 0 } = await asked(server, "echo");
  const began = performance.now();
  await work(port);
  const elapsed = (performance.now() - began) * 1000;
  const { cpu = 0 } = await asked(server, "echo");
  return { cpu: (cpu - before) / count, elapsed: elapsed / count };
};

/** Connections of one request each. */
const connections = async (port: number): Promise<void> => {
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
};

/** Requests over one connection. */
const requests = async (port: number): Promise<void> => {
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
};

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

/** Asks what the page asks, for as long as it is open; returns what closes it. */
const openByCurl = async (url: string): Promise<() => Promise<void>> => {
  const options = ["-sSNf", "-o", "/dev/null", "-H", `authorization: ${headers.authorization}`];
  const events = tied(spawn("curl", [...options, `${url}/v1/recording/events`], { stdio: "inherit" }));
  const over = once(events, "exit");
  const get = async <T>(path: string) => (await (await fetch(`${url}/v1${path}`, { headers })).json()) as T;
  while (!(await get<{ recording: { on: boolean } }>("/recording")).recording.on) {
    if (events.exitCode !== null) throw new Error(`curl exited with ${events.exitCode}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  for (let next: string | null = ""; next !== null; )
    ({ next } = await get<{ next: string | null }>(`/sessions?limit=1000${next && `&before=${next}`}`));
  await get("/recording/flows");
  return async () => {
    if (events.exitCode !== null) throw new Error(`curl exited with ${events.exitCode}`);
    events.kill();
    await over;
  };
};

const measureCost = async (server: ChildProcess, url: string): Promise<void> => {
  const cases = [
    ["request over a connection that stays", REQUESTS, requests],
    ["connection of one request", SHORT, connections],
  ] as const;
  for (const [what, number, work] of cases) {
    const closed: Cost[] = [];
    const opened: Cost[] = [];
    await costOf(server, number, work); // the first runs code that is not compiled yet
    for (let i = 0; i < ROUNDS; i++) {
      closed.push(await costOf(server, number, work));
      const close = await openByCurl(url);
      opened.push(await costOf(server, number, work));
      await close();
      await stopRecording(url);
    }
    console.log(`one ${what}, ${ROUNDS} rounds:`);
    for (const [figure, name] of [
      ["cpu", "CPU time of the server"],
      ["elapsed", "time"],
    ] as const) {
      const [before, after] = [closed, opened].map((costs) => median(costs.map((cost) => cost[figure])));
      const ratios = opened.map((cost, i) => cost[figure] / (closed[i]?.[figure] ?? Number.NaN)); // of two rounds that follow each other
      const { low, high } = medianInterval(ratios) ?? { low: Number.NaN, high: Number.NaN };
      const [ratio, from, to] = [median(ratios), low, high].map((value) => value.toFixed(3));
      console.log(
        `  ${name}: ${before?.toFixed(2)} µs with no page, ${after?.toFixed(2)} with one: ${ratio} [${from}–${to}]`,
      );
    }
  }
};

const measureList = async (server: ChildProcess, url: string): Promise<void> => {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"],
  });
  try {
    await list(browser, server, url);
  } finally {
    await browser.close();
  }
};

const list = async (browser: Browser, server: ChildProcess, url: string): Promise<void> => {
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
  try {
    if (parts.includes("cost")) await measureCost(server, url);
    if (parts.includes("list")) await measureList(server, url);
  } finally {
    server.send("end");
  }
};

const parts = process.argv.slice(2);
await (parts[0] === "serve" ? serve() : measure(parts.length === 0 ? ["cost", "list"] : parts));
