/**
 * What the inspector costs, and how it feels when it is full: `npm run bench:inspector`. It needs Chromium.
 *
 * 1. The server's CPU time for each request of an echo over one connection, with no page, and with one that is open, in interleaved rounds.
 * 2. The page with 100 000 connections listed and 1 GB kept: how long an answer to a key in the filter takes, until it is painted, and the
 *    memory of the tab's script.
 */

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import { chromium, type Page } from "playwright-core";
import { defineApp, streamHandler } from "socklet";
import { serveApp } from "socklet/emulator";
import { exitOnSignals, tied } from "../peers/children.ts";

const TOKEN = "a-token-for-the-bench";
const ROUNDS = 12; // of each kind
const REQUESTS = 20_000; // in a round
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

/** Microseconds of the server's CPU time for one request. */
const round = async (server: ChildProcess): Promise<number> => {
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

const measure = async (): Promise<void> => {
  exitOnSignals();
  const server = tied(fork(import.meta.filename, ["serve"], { execArgv: ["--conditions=socklet:source"] }));
  await once(server, "message");
  const { url } = await asked(server, "echo");
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--enable-precise-memory-info"],
  });
  try {
    const open = async (): Promise<Page> => {
      const page = await browser.newPage();
      await page.goto(`${url}/inspect#token=${TOKEN}`);
      await page.locator("#kept").waitFor({ timeout: 60_000 });
      return page;
    };
    const closed: number[] = [];
    const opened: number[] = [];
    await round(server);
    for (let i = 0; i < ROUNDS; i++) {
      closed.push(await round(server));
      const page = await open();
      opened.push(await round(server));
      await page.close();
      const stop = { method: "DELETE", headers: { authorization: `Bearer ${TOKEN}` } };
      while (
        ((await (await fetch(`${url}/v1/recording`, stop)).json()) as { recording: { on: boolean } })
          .recording.on
      )
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
    const [none, some] = [median(closed), median(opened)];
    console.log(
      `CPU time of the server for one request: ${none.toFixed(2)} µs with no page, ${some.toFixed(2)} µs with one`,
    );
    console.log(`an open page costs ${((some / none - 1) * 100).toFixed(1)} %`);

    await fetch(`${url}/v1/recording`, {
      method: "PUT",
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
      body: JSON.stringify({ maxBytes: 1_100 * 1024 ** 2, maxConnections: CONNECTIONS + 1_000 }),
    });
    const { port = 0 } = await asked(server, "sink");
    const began = performance.now();
    await fill(port);
    console.log(`${CONNECTIONS} connections in ${((performance.now() - began) / 1000).toFixed(0)} s`);
    const page = await open();
    await page.waitForFunction(
      `Number(document.getElementById("count").textContent.replace(/\\D/g, "")) >= ${CONNECTIONS}`,
      undefined,
      { timeout: 120_000 },
    );
    const times: number[] = [];
    for (const text of ["s", "si", "sink 127", "sink 127.0.0.1:4", "ended 5", "nothing has this", ""])
      times.push(await typing(page, text));
    console.log(`a key in the filter: ${times.map((ms) => ms.toFixed(0)).join(", ")} ms`);
    const heap = await page.evaluate<number>("performance.memory.usedJSHeapSize");
    console.log(`the tab's script: ${(heap / 1024 ** 2).toFixed(0)} MB`);
    console.log(await page.locator("#kept").textContent());
  } finally {
    await browser.close();
    server.send("end");
  }
};

await (process.argv[2] === "serve" ? serve() : measure());
