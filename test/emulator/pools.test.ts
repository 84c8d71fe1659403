/** The pools of an app, as its users meet them: handlers that use one, the control routes, and `socklet pools`. */

import { once } from "node:events";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { defineApp, type OnEvent, type Platform, type PoolInfo } from "socklet";
import { controlClient } from "socklet/control";
import { serveApp } from "socklet/emulator";
import { expect, test } from "vitest";
import { runtime } from "../../emulator/runtime.ts";
import { Echo } from "../../examples/echo.ts";
import { Redis } from "../../examples/redis.ts";
import { type Ended, run, start } from "../peers/program.ts";
import { app } from "./fixtures/pooled.ts";

const inNode = runtime === "Node"; // the runtimes beside it have no forking servers

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const module = new URL("./fixtures/pooled.ts", import.meta.url).href;

/** The answer to a visitor. */
const visit = async (url: string): Promise<number> => {
  const { hostname, port } = new URL(url.replace("tcp:", "http:"));
  const socket = net.connect(Number(port), hostname).setEncoding("latin1");
  let said = "";
  socket.on("data", (text) => {
    said += text;
  });
  await once(socket, "end");
  return Number(said);
};

const serve = (onEvent?: OnEvent) =>
  serveApp(app, { anyPort: true, module, control: { port: 0, tokens: "read:read-only-token-1" }, onEvent });

/** The children that a server forks, and when it has lost one. */
const forks = () => {
  const pids: number[] = [];
  const { promise: lost, resolve } = Promise.withResolvers<void>();
  const onEvent: OnEvent = (event) => {
    if (event.type === "forked") pids.push(event.pid);
    if (event.type === "lost") resolve();
  };
  return { pids, lost, onEvent };
};

test("handlers share the connections of a pool, which the control routes show, and which ends with the app", async () => {
  const server = await serve();
  const [resp, visits] = server.listeners;
  const control = controlClient(server.control?.url as string, { token: "read-only-token-1" });
  expect(await control.pools()).toMatchObject([{ name: "redis", connections: 0, opened: 0 }]);
  const told = await Promise.all(Array.from({ length: 40 }, () => visit(visits?.url as string)));
  expect(told.sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
  const info = await control.pool("redis");
  expect(info).toMatchObject({ name: "redis", max: 2, pipeline: 16, answered: 40, lost: 0, closed: false });
  expect(info.opened).toBeLessThanOrEqual(2);
  expect(info.address).toBe(resp?.url); // moved with the listener that it leads to
  await expect(control.pool("other")).rejects.toMatchObject({ code: "ENOENT" });
  await server.close();
  expect(server.listeners.map(({ info }) => info().running)).toEqual(server.listeners.map(() => 0));
});

test.runIf(inNode)(
  "`socklet serve` and `socklet pools` show them; the children of a forking listener have their own",
  async () => {
    const command = [process.execPath, "--conditions=socklet:source", file("../../emulator/command/cli.ts")];
    const [node = "", ...args] = command;
    await using program = start(node, [...args, "serve", file("./fixtures/pooled.ts"), "--any-port"]);
    const [, visits = ""] = /(tcp:\S+)$/.exec(await program.line(/^Visits/)) ?? [];
    const [, url = ""] = /^control +(\S+)$/.exec(await program.line(/^control/)) ?? [];
    const [, token = ""] = /Bearer ([^']+)'/.exec(await program.line(/curl/)) ?? [];
    expect(await visit(visits)).toBe(1);
    const pools = (...more: string[]): Promise<Ended> =>
      run(node, [...args, "pools", "--url", url, "--token", token, ...more]);
    const shown = (await pools()).stdout.toString();
    expect(shown).toMatch(
      /^NAME +ADDRESS +CONNECTIONS +IDLE .*\nredis +tcp:\/\/127\.0\.0\.1:\d+ +1 of 2 +1 /,
    );
    const info: PoolInfo = JSON.parse((await pools("redis", "--json")).stdout.toString());
    expect(info).toMatchObject({ name: "redis", connections: 1, answered: 1 });
    const none = await pools("other");
    expect(none).toMatchObject({ code: 1, stdout: Buffer.alloc(0) });
    expect(none.stderr).toContain("has no pool other; `socklet pools` shows those that it has");
    program.kill("SIGINT");
    expect((await program.ended).code).toBe(0);
  },
);

test.runIf(inNode)(
  "the pool of a forked child dials where the listener of the app is, also a later child's",
  async () => {
    const { pids, lost, onEvent } = forks();
    await using server = await serve(onEvent);
    const url = (name: string): string => server.listeners.find((one) => one.name === name)?.url as string;
    expect(await visit(url("ForkedVisits"))).toBe(1);
    expect(await visit(url("ForkedVisits"))).toBe(2);
    process.kill(pids[0] as number, "SIGKILL");
    await lost;
    expect(await visit(url("ForkedVisits"))).toBe(3);
    await server.replace(app as never); // whose context begins with no visits
    expect(await visit(url("ForkedVisits"))).toBe(1);
  },
);

test.runIf(inNode)(
  "a child of a forking listener has a pool of its own, which is counted with the others of its name",
  async () => {
    const { pids, lost, onEvent } = forks();
    await using server = await serve(onEvent);
    const url = (name: string): string => server.listeners.find((one) => one.name === name)?.url as string;
    const token = "read-only-token-1";
    const control = controlClient(server.control?.url as string, { token });
    const metrics = async (): Promise<string> => {
      const headers = { authorization: `Bearer ${token}` };
      return (await fetch(`${server.control?.url}/v1/metrics`, { headers })).text();
    };
    expect(await visit(url("Visits"))).toBe(1);
    expect(await visit(url("ForkedVisits"))).toBe(2);
    // The same child serves the next one, once it has reported that it is free. Its client sees the end before.
    const forked = server.listeners.find(({ name }) => name === "ForkedVisits");
    await expect.poll(() => forked?.info().running).toBe(0);
    expect(await visit(url("ForkedVisits"))).toBe(3);
    // A client sees the end of its connection before this process does.
    let info = await control.pool("redis");
    while (info.answered < 3) info = await control.pool("redis");
    expect(info).toMatchObject({ max: 4, connections: 2, opened: 2, answered: 3, running: 0, error: null });
    expect(await control.pools()).toHaveLength(1);
    expect(await metrics()).toContain('socklet_pool_calls_total{pool="redis",result="answered"} 3\n');

    expect(pids).toHaveLength(1);
    process.kill(pids[0] as number, "SIGKILL");
    await lost;
    expect(await control.pool("redis")).toMatchObject({ max: 2, connections: 1, opened: 2, answered: 3 });
    expect(await metrics()).toContain('socklet_pool_calls_total{pool="redis",result="answered"} 3\n');
  },
);

test.each([
  [
    { redis: { handler: "redis", address: "tcp://127.0.0.1:1", maxx: 1 } },
    /pools\.redis has no option maxx; did you mean max/,
  ],
  [
    { redis: { handler: "redis", address: "tcp://127.0.0.1:1", max: 0 } },
    "pools.redis: max must be a whole number of 1 or more, not 0",
  ],
  [
    { redis: { handler: "echo", address: "tcp://127.0.0.1:1" } },
    "pools.redis: a pool takes a class that extends ClientHandler",
  ],
  [
    { redis: { handler: "other", address: "tcp://127.0.0.1:1" } },
    'pools.redis.handler is "other"; the app declares: redis, echo',
  ],
  [
    { redis: { handler: "redis", address: "udp://127.0.0.1:1" } },
    /pools\.redis\.address: .* is a datagram address/,
  ],
  [{ redis: { handler: "redis", address: ":1", secureTransport: "tls" } }, /pools\.redis/],
])("an entry that cannot be is refused: %j", (pools, message) => {
  expect(() => defineApp({ handlers: { redis: Redis, echo: Echo }, pools: pools as never })).toThrow(message);
});

test("context() is told which pools there are, and when they can be used", async () => {
  const asked = async (context: (platform: Platform) => unknown): Promise<unknown> => {
    const app = defineApp<unknown>({
      handlers: { redis: Redis, echo: Echo },
      listen: [{ handler: "echo", address: "tcp://127.0.0.1:0" }],
      pools: { redis: { handler: "redis", address: "tcp://127.0.0.1:1" } },
      context,
    });
    return serveApp(app).then(
      (server) => server.close(),
      (error) => error.message,
    );
  };
  expect(await asked(({ pool }) => pool("cache", Redis))).toBe(
    'ERR_APP: pool("cache"): the app has none of that name in `pools`; it has: redis',
  );
  expect(await asked(({ pool }) => pool("redis", class Other extends Redis {}))).toBe(
    'ERR_APP: pool("redis", Other): the app\'s entry has the handler "redis", which is another class',
  );
  expect(await asked(({ pool }) => pool("redis", Redis).call(["PING"]))).toBe(
    "ERR_APP: the pool redis can be used when context() has returned, and the app listens",
  );
});

// Deno lists timers that keep no process, too.
test.skipIf(runtime === "Deno")(
  "a pool leaves no timer after a burst, but one that keeps no process",
  async () => {
    const fixture = file("./fixtures/pool-timers.ts");
    const { stdout, stderr } = await run(process.execPath, ["--conditions=socklet:source", fixture]);
    expect(stderr.toString()).toBe("");
    expect(JSON.parse(stdout.toString())).toEqual({ waited: true, before: 0, after: 0, waiting: 0 });
  },
);
