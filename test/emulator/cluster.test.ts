/** `serveCluster()`: several processes on one socket, one control plane, and successors for workers that end. */

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SockletEvent } from "socklet";
import { controlClient } from "socklet/control";
import { type ClusterOptions, type ClusterServer, serveCluster } from "socklet/emulator";
import { parseTranscript } from "socklet/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ownCertificates } from "../peers/certificates.ts";
import { reservePort } from "../peers/ports.ts";
import { allOf, ask, Datagrams, pidAt, pidsAt, placeOf, runs } from "./clustered.ts";
import { untilNothingStoodStill } from "./standstill.ts";

const module = new URL("./fixtures/clustered.ts", import.meta.url);
const certificates = ownCertificates();

let folder: string;
let environment: NodeJS.ProcessEnv;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "socklet-cluster-"));
  environment = { ...process.env };
  process.env.CLUSTER_FOLDER = folder;
});

afterEach(() => {
  for (const name of Object.keys(process.env)) if (!(name in environment)) delete process.env[name];
  Object.assign(process.env, environment);
  rmSync(folder, { recursive: true, force: true });
});

/** A cluster, and its events. */
const cluster = async (
  options: ClusterOptions = {},
): Promise<ClusterServer & { readonly told: SockletEvent[]; heard(type: string): Promise<SockletEvent> }> => {
  const told: SockletEvent[] = [];
  const look: (() => void)[] = [];
  // Another query each time: the environment of now is to be the module's.
  const server = await serveCluster(`${module.href}?${crypto.randomUUID()}`, {
    workers: 2,
    data: join(folder, "data"),
    ...options,
    onEvent: (event) => {
      told.push(event);
      for (const wake of look.splice(0)) wake();
    },
  });
  let heard = 0;
  return Object.assign(server, {
    told,
    /** The next event of this type, after earlier ones. */
    async heard(type: string) {
      for (;;) {
        for (; heard < told.length; heard++)
          if (told[heard]?.type === type) return told[heard++] as SockletEvent;
        await new Promise<void>((resolve) => look.push(resolve));
      }
    },
  });
};

const urls = (server: ClusterServer) =>
  server.listeners.map(({ url }) => url) as [string, string, string, string];

describe.each(["koffi", "Node alone", "sockets of Node's"])("two workers, by %s", (by) => {
  test("share every listener, drain together, and leave nothing behind", async () => {
    if (by === "Node alone") process.env.SOCKLET_NATIVE = "off";
    if (by === "sockets of Node's") process.env.SOCKLET_INTAKE = "off";
    process.env.CLUSTER_PORT = String(await reservePort()); // it will be refused
    const server = await cluster();
    const [tcp, udp, streams, datagrams] = urls(server);
    const pids = server.workers.map(({ pid }) => pid as number);
    expect(await pidsAt(() => pidAt(tcp), 2)).toEqual(new Set(pids));
    expect(await pidsAt(() => pidAt(streams), 2)).toEqual(new Set(pids));
    using client = new Datagrams(udp);
    using other = new Datagrams(udp);
    for (const pid of await Promise.all([client.pid(), other.pid()])) expect(pids).toContain(pid);
    const paths = [streams, ...(by === "Node alone" ? [] : [datagrams])].map((url) =>
      url.slice("unix:".length),
    );
    expect(paths.map((path) => existsSync(path))).toEqual(paths.map(() => true));

    const socket = net.connect(placeOf(tcp));
    socket.write("one\n");
    await new Promise((resolve) => socket.once("data", resolve));
    const closed = server.close();
    socket.end("two\n"); // running requests continue to their end
    expect(await allOf(socket)).toMatch(/^\d+ two\n$/);
    expect(await closed).toBe(0);
    expect(pids.filter(runs)).toEqual([]);
    expect(paths.filter((path) => existsSync(path))).toEqual([]);
    await expect(pidAt(tcp)).rejects.toThrow("ECONNREFUSED");
  });
});

test("a worker that is killed gets a successor, and what waits for it is served meanwhile", async () => {
  const restartDelay = 500; // ms: far above what the one that is left takes to answer
  // If that stands still, the successor answers, perhaps before it is told here that it serves.
  await untilNothingStoodStill(restartDelay / 2, async (timed) => {
    await using server = await cluster({ restartDelay });
    const [tcp] = urls(server);
    const [first, second] = server.workers.map(({ pid }) => pid as number) as [number, number];
    const meanwhile = async (): Promise<number> => {
      const lost = await server.heard("lost");
      expect(lost).toMatchObject({
        server: "worker 1",
        pid: first,
        signal: "SIGKILL",
        delay: restartDelay,
      });
      return pidAt(tcp);
    };
    process.kill(first, "SIGKILL");
    expect(await timed(meanwhile())).toBe(second);
    expect(await server.heard("forked")).toMatchObject({ server: "worker 1" });
    const pids = server.workers.map(({ pid }) => pid as number);
    expect(pids).not.toContain(first);
    expect(await pidsAt(() => pidAt(tcp), 2)).toEqual(new Set(pids));
  });
});

test("events that a worker emits in a loop have a bound, and how many are lost is told", async () => {
  await using server = await cluster({ workers: 1, requestEvents: true });
  const [tcp] = urls(server);
  const socket = net.connect(placeOf(tcp)).resume();
  socket.write("emit\n");
  const { error } = (await server.heard("error")) as Extract<SockletEvent, { type: "error" }>;
  socket.destroy(); // not before: the end of its request is an event, too
  expect(error).toMatchObject({ code: "ENOBUFS" });
  const [, lost] = /(\d+) events were not told/.exec((error as Error).message) ?? [];
  const numbers = server.told.flatMap((event) =>
    event.type === "handler" ? [(event.detail as { number: number }).number] : [],
  );
  expect(numbers.length).toBeGreaterThan(100); // 16 MiB of them wait
  expect(numbers).toEqual(Array.from({ length: 1000 - Number(lost) }, (_, i) => i));
});

test("a worker with an error that nobody caught finishes what it has, and another takes its place at once", async () => {
  await using server = await cluster({ workers: 1, restartDelay: 1 });
  const [tcp] = urls(server);
  const [before] = server.workers.map(({ pid }) => pid as number) as [number];
  const socket = net.connect(placeOf(tcp));
  socket.write("throw\n");
  const lost = await server.heard("lost");
  expect(lost).toMatchObject({ server: "worker 1", error: { code: "ERR_HANDLER" } });
  expect((lost as { error: Error }).error.message).toContain("thrown where nobody catches it");
  const after = await pidAt(tcp); // waits in the kernel until there is one
  expect(after).not.toBe(before);
  socket.end("still here\n");
  expect(await allOf(socket)).toBe(`${before} throw\n${before} still here\n`);
});

test("workers that are lost again and again end the cluster, after delays that grow", async () => {
  process.env.CLUSTER_PORT = String(await reservePort()); // it will be refused
  const server = await cluster({ workers: 1, restartDelay: 2, maxRestartDelay: 5, maxLosses: 4 });
  const [tcp] = urls(server);
  server.over.catch(() => {});
  const delays: unknown[] = [];
  while (delays.at(-1) !== null) {
    await ask(tcp, "exit").catch(() => {}); // reset, or refused at the end
    delays.push(((await server.heard("lost")) as { delay: number | null }).delay);
  }
  expect(delays).toEqual([2, 4, 5, null]);
  await expect(server.over).rejects.toMatchObject({
    code: "ERR_HANDLER",
    message: expect.stringContaining("4 workers in a row ended before they had served for 10 s"),
  });
  await server.close();
  await expect(pidAt(tcp)).rejects.toThrow("ECONNREFUSED");
});

test("what keeps a worker from serving is why the cluster does not start", async () => {
  process.env.CLUSTER_CRASHES = "workers";
  await expect(cluster()).rejects.toMatchObject({
    code: "ECONNABORTED",
    message: expect.stringContaining("exit code 4"),
  });
  await expect(serveCluster(new URL("./fixtures/no-export.ts", import.meta.url))).rejects.toMatchObject({
    code: "ERR_APP",
  });
  await expect(serveCluster("nowhere.ts")).rejects.toThrow("give the module's URL");
  await expect(cluster({ workers: 0 })).rejects.toThrow("workers");
});

test("one control plane has the listeners, the sessions and the counts of all workers", async () => {
  await using server = await cluster({ control: { port: 0 } });
  const [tcp] = urls(server);
  const { url, token } = server.control as { url: string; token: string };
  const control = controlClient(url, { token });
  const sockets: net.Socket[] = [];
  const pids = await pidsAt(async () => {
    const socket = net.connect(placeOf(tcp));
    sockets.push(socket.on("error", () => {})); // the last ones are cut at the end
    socket.write("hello\n");
    const [reply] = (await new Promise((resolve) =>
      socket.once("data", (bytes) => resolve([String(bytes)])),
    )) as [string];
    return Number.parseInt(reply, 10);
  }, 2);
  expect(pids.size).toBe(2);
  expect(await control.health()).toMatchObject({
    listeners: server.listeners.length,
    running: sockets.length,
  });
  const [listener] = await control.listeners();
  expect(listener).toMatchObject({ name: "pid", state: "serving", running: sockets.length });
  const page = await control.sessions.list({ limit: 3 });
  expect(page.sessions).toHaveLength(3);
  const ids = new Set<string>();
  for (let before: string | undefined; ; ) {
    const { sessions, next } = await control.sessions.list({ limit: 3, ...(before && { before }) });
    for (const { id } of sessions) ids.add(id);
    if (next === null) break;
    before = next;
  }
  expect(ids.size).toBe(sockets.length);
  for (const id of ids) {
    await control.sessions.send(id, new TextEncoder().encode("by hand\n"));
    expect((await control.sessions.get(id)).id).toBe(id);
  }
  const text = await (
    await fetch(`${url}/v1/metrics`, { headers: { authorization: `Bearer ${token}` } })
  ).text();
  expect(text).toContain(`socklet_requests_total{listener="pid"} ${sockets.length}\n`);
  expect(text).toContain(`socklet_active_requests{listener="pid"} ${sockets.length}\n`);
  for (const worker of [1, 2])
    expect(text).toMatch(new RegExp(`process_cpu_seconds_total\\{worker="${worker}"\\} \\d`));
  expect([...text.matchAll(/^# TYPE socklet_requests_total/gm)]).toHaveLength(1);
  const [id] = ids as Iterable<string> as [string];
  const events = control.sessions.follow(id);
  expect((await events.next()).value).toMatchObject({ type: "connecting" });
  await control.sessions.end(id);
  const rest: string[] = [];
  for await (const { type } of events) rest.push(type);
  expect(rest.at(-1)).toBe("cut");
  for (const socket of sockets) socket.destroy();
});

test("what passes in all workers is recorded, found, watched and said again, by bounds that hold for all together", async () => {
  await using server = await cluster({ control: { port: 0 } });
  const [tcp = ""] = urls(server);
  const { url, token } = server.control as { url: string; token: string };
  const { recording, sessions, replay, entries } = controlClient(url, { token });
  const limits = { maxBytes: 8 * 1024 ** 2, maxConnections: 1_000 };
  expect(await recording.start(limits)).toMatchObject({
    on: true,
    started: true,
    ...limits,
    conversations: 0,
  });
  const leaving = new AbortController();
  const changes = recording.watch({ signal: leaving.signal });
  for (let workers = 0; workers < 2; workers++) await changes.next(); // both are watched from here on
  const pids = await pidsAt(async () => Number((await ask(tcp, "a needle")).words[0]), 2);
  expect(pids.size).toBe(2);
  const seen = new Set<string>();
  const { ids } = await recording.find("a needle");
  expect(ids.length).toBeGreaterThanOrEqual(2);
  for await (const change of changes) {
    expect(change.recording).toMatchObject(limits);
    for (const { id } of change.sessions) seen.add(id);
    if (ids.every((id) => seen.has(id))) break;
  }
  leaving.abort();
  const spoke = new Set<number>();
  for (const id of ids) {
    const { events, kind } = parseTranscript(await recording.transcript(id));
    expect([kind, events.length]).toEqual(["stream", (await recording.part(id)).total]);
    for (const event of events) {
      if ("data" in event && event.from === "server")
        spoke.add(Number.parseInt(String(Buffer.from(event.data)), 10));
    }
  }
  expect(spoke).toEqual(pids);
  const { started, conversations, bytes } = await recording.info();
  expect([started, conversations]).toEqual([true, ids.length]);
  expect(bytes).toBeGreaterThan(ids.length * 10);
  expect((await entries())[0]).toMatchObject({ on: "listen", address: tcp });
  const again = await replay({ to: tcp.replace(/^tcp:\/\//, ""), pieces: ["hello\n"] }).catch(
    (error) => error,
  );
  expect(again.code ?? again.error).toBe("ERR_REFUSED"); // the app allows no address
  const said = await replay({ to: (await entries())[0]?.entry ?? "", pieces: ["hello\n"] });
  expect(said.error).toBeNull();
  expect((await sessions.list({ limit: 1 })).sessions).toHaveLength(1);
  expect(await recording.stop()).toMatchObject({ started: false, conversations: 0, bytes: 0 });
  await expect(recording.part(ids[0] ?? "")).rejects.toMatchObject({ code: "ENOENT" });
});

test("sessions that last are the first worker's, and go on in its successor", async () => {
  const peer = net.createServer((socket) => socket.on("error", () => {}).resume()).listen(0, "127.0.0.1");
  await new Promise((resolve) => peer.once("listening", resolve));
  process.env.CLUSTER_DIALS = `tcp://127.0.0.1:${(peer.address() as net.AddressInfo).port}`;
  try {
    await using server = await cluster({ control: { port: 0 }, restartDelay: 1 });
    const { url, token } = server.control as { url: string; token: string };
    const control = controlClient(url, { token });
    const { id } = await control.sessions.start({ dial: "count" });
    const connection = async (number: number): Promise<number> => {
      for (;;) {
        for await (const event of control.sessions.follow(id)) {
          const { connection, pid } = (event.type === "handler" ? event.detail : {}) as Record<
            string,
            number
          >;
          if (connection === number) return pid as number;
        }
      }
    };
    const first = server.workers[0] as { pid: number };
    expect(await connection(1)).toBe(first.pid);
    process.kill(first.pid, "SIGKILL");
    await server.heard("lost");
    await server.heard("forked");
    const successor = server.workers[0] as { pid: number };
    expect(await connection(2)).toBe(successor.pid);
    await control.sessions.end(id);
  } finally {
    peer.close();
  }
});

test.skipIf(certificates === null)("TLS sessions of one worker are resumed at the other", async () => {
  process.env.CLUSTER_CERTIFICATES = certificates?.folder;
  const ca = readFileSync(join(certificates?.folder ?? "", "ca.pem"), "utf8");
  await using server = await cluster();
  const url = server.listeners.at(-1)?.url as string;
  const { words, session } = await ask(url, "resumed", { ca });
  expect([words[0], session?.length]).toEqual(["false", expect.any(Number)]);
  const first = words[1];
  for (let other: string | undefined; other === undefined || other === first; ) {
    const again = await ask(url, "resumed", { ca, ...(session && { session }) });
    expect(again.words[0]).toBe("true");
    other = again.words[1];
  }
});

test("with reusePort each worker has its own socket, and what waits at one that is killed waits for its successor", async () => {
  await using server = await cluster({ reusePort: true, restartDelay: 200 });
  const [tcp, udp] = urls(server);
  const pids = server.workers.map(({ pid }) => pid as number) as [number, number];
  expect(await pidsAt(() => pidAt(tcp), 2)).toEqual(new Set(pids));
  const clients = Array.from({ length: 32 }, () => new Datagrams(udp));
  const answered = await Promise.all(clients.map((client) => client.pid()));
  expect(new Set(answered)).toEqual(new Set(pids));
  process.kill(pids[0], "SIGKILL");
  await server.heard("lost");
  // Half of them wait at the socket of the one that is gone.
  const after = await Promise.all(Array.from({ length: 40 }, () => pidAt(tcp)));
  const now = server.workers.map(({ pid }) => pid as number);
  expect(after.every((pid) => now.includes(pid))).toBe(true);
  for (const client of clients) expect(now).toContain(await client.pid());
  for (const client of clients) client[Symbol.dispose]();
});
