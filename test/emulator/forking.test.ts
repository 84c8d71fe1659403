/** Forking servers, with children that really loop, crash and are killed. Waits are for events, never for time. */

import { type ChildProcess, spawn } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import {
  type Address,
  type AddressLike,
  DatagramRequestHandler,
  type ForkingOptions,
  type InternetAddress,
  StreamRequestHandler,
  type StreamSocket,
} from "socklet";
import { createConnection, TCPServer, UDPServer } from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { appHandlerFrom, handlerFrom } from "../../emulator/servers/forking/channel/handler-source.ts";
import {
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
} from "../../emulator/servers/forking/servers.ts";
import type { TCPServerOptions } from "../../emulator/servers/tcp.ts";
import { UnixDatagramServer, UnixStreamServer } from "../../emulator/servers/unix.ts";
import { Told } from "../core/told.ts";
import { isAlive } from "../peers/alive.ts";
import { peer } from "../peers/peer.ts";
import { reservePort } from "../peers/ports.ts";
import { untilNothingStoodStill } from "./standstill.ts";

const fixture = (name: string): string => new URL(`fixtures/${name}`, import.meta.url).href;
const HANDLERS = fixture("forking-handlers.ts");
const Obeys = handlerFrom(HANDLERS, "Obeys");
const ObeysDatagrams = handlerFrom(HANDLERS, "ObeysDatagrams");

type Options = TCPServerOptions<unknown> & ForkingOptions;

type ForkingServer = new (address: AddressLike, handler: never, options: Options) => ForkingTCPServer;

/** A server that serves until the test is over; then nothing of it may be left. */
const serving = async (
  options: Options = {},
  Class: unknown = ForkingTCPServer,
  handler: unknown = Class === ForkingTCPServer ? Obeys : ObeysDatagrams,
  where: AddressLike = "127.0.0.1:0",
) => {
  const events = new Told();
  const server = new (Class as ForkingServer)(where, handler as never, { onEvent: events.on, ...options });
  const pids = (): number[] => events.of("forked").map(({ pid }) => pid);
  onTestFinished(async () => {
    server.abort();
    await server.serverClose();
    expect(server.info()).toMatchObject({ idle: 0, busy: 0, starting: 0, running: 0 });
    expect(pids().filter(isAlive)).toEqual([]);
  });
  const address = (await server.listen()) as InternetAddress;
  const served = server.serveForever();
  return { server, events, address, served, pids };
};

/** ms that a child has to end a cancelled request, before it is killed: CANCEL_GRACE of emulator/servers/forking/child.ts. */
const GRACE = 500;

/** A turn of the event loop: for what has happened, and is seen a moment later. */
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A connection that ends with its test. */
const dial = async (address: Address): Promise<StreamSocket> => {
  const socket = await createConnection(address);
  onTestFinished(() => socket.abort());
  return socket;
};

/** The answer to a line; `null` if the connection ends first. */
const ask = async (socket: StreamSocket, line: string): Promise<string | null> => {
  await socket.sendall(`${line}\n`);
  return socket.rfile.line();
};

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    (value) => `no error, but ${value}`,
    (error) => error.code ?? `${error}`,
  );

describe("what a forking server takes", () => {
  test("a class is a TypeError that says how to give it", () => {
    class Echo extends StreamRequestHandler {}
    expect(() => new ForkingTCPServer("127.0.0.1:0", Echo)).toThrow(
      new TypeError(
        'the children of a ForkingTCPServer import their handler: give it as handlerFrom(import.meta.url, "Echo"), not as a class',
      ),
    );
    class EchoDatagram extends DatagramRequestHandler {}
    expect(() => new ForkingUDPServer("127.0.0.1:0", EchoDatagram)).toThrow(
      /handlerFrom\(.*"EchoDatagram"\)/,
    );
  });

  test("handlerFrom() takes a module's URL and a name", () => {
    for (const [module, name] of [
      ["./echo.ts", "Echo"],
      [import.meta.url, ""],
      [import.meta.url, undefined],
    ]) {
      expect(() => handlerFrom(module as string, name as string)).toThrow(TypeError);
    }
    expect(handlerFrom(new URL(import.meta.url), "Echo").name).toBe("Echo");
  });

  test("another server cannot run it, and says so", async () => {
    const events = new Told();
    const server = new TCPServer("127.0.0.1:0", Obeys, { onEvent: events.on });
    onTestFinished(() => server.serverClose());
    void server.serveForever();
    await dial((await server.listen()) as Address);
    expect((await events.next("error")).error).toMatchObject({ code: "ERR_UNSUPPORTED" });
  });

  test("options are checked where they are given", () => {
    for (const wrong of [
      { maxChildren: 0 },
      { blockTimeout: -1 },
      { childIdleTimeout: 0 },
      { requestsPerChild: 0.5 },
      { restartDelay: Number.NaN },
      { maxRestartDelay: Number.POSITIVE_INFINITY },
    ]) {
      expect(() => new ForkingTCPServer("127.0.0.1:0", Obeys, wrong)).toThrow(RangeError);
    }
    expect(() => new ForkingTCPServer("127.0.0.1:0", Obeys, { context: { send: () => {} } })).toThrow(
      /structured clone: plain data/,
    );
    expect(() => new ForkingTCPServer("udp://127.0.0.1:0", Obeys)).toThrow(TypeError);
  });

  test("names and defaults are CPython's, and so is the chain of classes", () => {
    const tcp = new ForkingTCPServer("127.0.0.1:0", Obeys);
    expect(tcp).toMatchObject({ maxChildren: 40, blockOnClose: true, timeout: 300_000, name: "Obeys" });
    expect(tcp).toMatchObject({ requestTimeout: 300_000, blockTimeout: 30_000 });
    expect(tcp).toBeInstanceOf(TCPServer);
    const udp = new ForkingUDPServer("127.0.0.1:0", ObeysDatagrams, { timeout: null, requestTimeout: null });
    expect(udp).toMatchObject({ timeout: null, requestTimeout: null });
    expect(udp).toBeInstanceOf(UDPServer);
    class Echo extends StreamRequestHandler {}
    expect(() => {
      tcp.RequestHandlerClass = Echo;
    }).toThrow(/handlerFrom\(import\.meta\.url, "Echo"\), not as a class/);
  });

  test("listen() rejects where the children cannot import the handler, and leaves nothing", async () => {
    for (const [module, name, why] of [
      [HANDLERS, "Absent", "there is no handler of that name; there is Floods, Late, Obeys, ObeysDatagrams"],
      [HANDLERS, "number", "there is no handler of that name"],
      [fixture("not-there.ts"), "Echo", "Cannot find module"],
      [fixture("forking-app.ts"), "app", "there is no handler of that name; there is none"],
    ] as const) {
      const events = new Told();
      const server = new ForkingTCPServer("127.0.0.1:0", handlerFrom(module, name), { onEvent: events.on });
      const error = await server.listen().catch((error) => error);
      expect(error).toMatchObject({ code: "ERR_HANDLER" });
      expect(error.message).toContain(`a child cannot serve with ${name} of ${module}: `);
      expect(error.message).toContain(why);
      expect(server.info()).toMatchObject({ state: "closed", idle: 0, starting: 0 });
      expect(events.of("lost")).toEqual([]);
    }
  });
});

describe("a request in a child", () => {
  test("is handled in another process, with its number, address and context; the next in the same", async () => {
    const { server, events, address } = await serving({ context: { greeting: "good day" } });
    const first = await dial(address);
    const pid = await ask(first, "pid");
    expect(Number(pid)).not.toBe(process.pid);
    expect(events.of("forked")).toMatchObject([{ pid: Number(pid), delay: null, server: "Obeys" }]);
    expect(await ask(first, "greet")).toBe("good day");
    const mine = first.getsockname();
    expect(JSON.parse((await ask(first, "address")) ?? "")).toEqual([mine, mine]);
    expect(server.info()).toMatchObject({ idle: 0, busy: 1, running: 1 });
    expect(await ask(first, "bye")).toBe(null);
    await events.next("end");
    const second = await dial(address);
    expect([await ask(second, "pid"), await ask(second, "id"), await ask(second, "served")]).toEqual([
      pid,
      "2",
      "1",
    ]);
    await second.close();
    expect(await events.next("end", 2)).toMatchObject({ id: 2, failed: false, bytesRead: 14 });
    expect(events.of("end")[1]?.bytesWritten).toBe(`${pid}\n2\n1\n`.length);
    expect(server.info()).toMatchObject({ idle: 1, busy: 0, served: 2, failed: 0 });
  });

  test("a ping that is answered when the request is over takes nothing from its counts", async () => {
    const folder = await mkdtemp(join(tmpdir(), "socklet-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const answered = join(folder, "answered");
    const { address, events } = await serving();
    const socket = await dial(address);
    const line = `deafUntilOver ${answered}`;
    expect(await ask(socket, line)).toBe("a ping came");
    await socket.sendall("bye\n");
    while (!existsSync(answered)); // without ever awaiting: the end and the answer are then read in one
    expect(await events.next("end")).toMatchObject({
      failed: false,
      bytesRead: line.length + 5,
      bytesWritten: 12,
    });
  });

  test.each([
    ["large", 3_000, 100_000],
    ["small", 100_000, 1],
  ])(
    "what it emits in a loop takes little memory: %s events that the channel has no room for are told as one",
    async (_, count, size) => {
      const events = new Told();
      const loss = Promise.withResolvers<void>();
      const { address } = await serving({
        execArgv: ["--expose-gc"],
        onEvent: (event) => {
          events.on(event);
          if (event.type === "handler" && "omitted" in (event.detail as object)) loss.resolve();
        },
      });
      const socket = await dial(address);
      const held = Number(await ask(socket, `emitMany ${count} ${size}`));
      expect(held).toBeLessThan(100 * 1024 * 1024); // measured: 54 MB, and 450 of large ones when all were kept
      await loss.promise;
      await ask(socket, "emit and on");
      await socket.sendall("bye\n");
      await events.next("end");
      const details = events.of("handler").map(({ detail }) => detail as Record<string, number>);
      const told = details.findIndex((detail) => "omitted" in detail);
      expect(details.slice(0, told).map(({ number }) => number)).toEqual(
        Array.from({ length: told }, (_, i) => i),
      );
      expect(told * (size + 1024)).toBeGreaterThan(14 * 1024 * 1024); // counted in this way, up to 16 MiB wait
      const { omitted = 0, events: lost } = details[told] ?? {};
      expect(lost).toBe(count - told);
      expect(omitted / (count - told)).toBeGreaterThan(size);
      expect(details.slice(told + 1)).toMatchObject([{ said: "and on" }, { bytes: {} }]);
    },
  );

  test("of what is too large it tells the size, whatever it is", async () => {
    const { events, address } = await serving();
    const socket = await dial(address);
    await ask(socket, "emitLarge");
    await events.next("handler", 3);
    const sizes = events.of("handler").map(({ detail }) => (detail as { omitted: number }).omitted);
    expect(Math.min(...sizes)).toBeGreaterThan(4 * 1024 * 1024);
    expect(sizes).toHaveLength(3);
  });

  test("what it emits and throws, the parent tells", async () => {
    const { server, events, address } = await serving();
    const socket = await dial(address);
    await ask(socket, "emit something");
    await events.next("handler", 2); // reported on another channel, which may be slower
    expect(events.of("handler").map(({ id, detail }) => [id, detail])).toEqual([
      [1, { said: "something", whole: new Uint8Array([1, 2]) }],
      [1, { bytes: { base64: "AQI=" } }], // with a function beside it: as JSON
    ]);
    expect(await ask(socket, "send")).toBe("sent"); // the handler's own messages, which must be ignored here
    expect(await ask(socket, "throw out of bounds")).toBe(null);
    const { error } = await events.next("error");
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ message: "out of bounds", name: "RangeError" });
    expect((error as Error).stack).toContain("forking-handlers.ts");
    expect(await events.next("end")).toMatchObject({ id: 1, failed: true });
    expect(server.info()).toMatchObject({ failed: 1, idle: 1, restarted: 0 });
  });

  test("the server's hooks run in the parent", async () => {
    const trace: string[] = [];
    const told = (hook: string): void => void trace.push(`${hook} ${process.pid}`);
    class Traced extends ForkingTCPServer {
      override verifyRequest(): boolean {
        told("verifyRequest");
        return trace.length < 8;
      }
      override finishRequest(request: StreamSocket, address: Address | null): unknown {
        told("finishRequest");
        return super.finishRequest(request, address);
      }
      override handleError(): void {
        told("handleError");
      }
      override closeRequest(request: StreamSocket) {
        told("closeRequest");
        return super.closeRequest(request);
      }
    }
    const { address, events } = await serving({}, Traced, Obeys);
    expect(await ask(await dial(address), "bye")).toBe(null);
    await events.next("end");
    expect(await ask(await dial(address), "throw it")).toBe(null);
    await events.next("end", 2);
    expect(await codeOf(ask(await dial(address), "pid"))).toBe("no error, but null");
    expect(await events.next("refused")).toMatchObject({ reason: "verify" });
    const hooks = ["verifyRequest", "finishRequest", "closeRequest"];
    const failed = ["verifyRequest", "finishRequest", "handleError", "closeRequest"];
    const all = [...hooks, ...failed, "verifyRequest", "closeRequest"];
    expect(trace).toEqual(all.map((hook) => `${hook} ${process.pid}`));
  });

  test("one whose connection was let go before a child had it is not handled", async () => {
    class Hasty extends ForkingTCPServer {
      override processRequest(request: StreamSocket, address: Address | null) {
        request.abort();
        return super.processRequest(request, address);
      }
    }
    const { address, events } = await serving({}, Hasty, Obeys);
    expect(await codeOf(dial(address).then((socket) => socket.recv()))).toBe("ECONNRESET");
    expect((await events.next("error")).error).toMatchObject({ code: "ECONNABORTED" });
    expect(await events.next("end")).toMatchObject({ failed: true });
  });

  test("may close its connection itself, and leave bytes unread", async () => {
    const { events, address } = await serving();
    const socket = await dial(address);
    await socket.sendall(`echo ${"x".repeat(50_000)}\nclose\n${"unread".repeat(1000)}`);
    expect((await socket.rfile.line())?.length).toBe(50_000);
    expect(await socket.recv()).toBe(null);
    expect(await events.next("end")).toMatchObject({ failed: false });
  });

  test("is aborted at its time limit, and its child goes on", async () => {
    const requestTimeout = 1_000;
    await untilNothingStoodStill(GRACE / 2, async (timed) => {
      const { events, address } = await serving({ requestTimeout });
      const socket = await dial(address);
      const over = events.next("timeout").then(() => timed(events.next("end")));
      expect(await timed(ask(socket, "untilAborted"))).toBe("waiting");
      expect(await codeOf(socket.recv())).toBe("ECONNRESET");
      expect(await events.next("timeout")).toMatchObject({ id: 1, limit: "requestTimeout" });
      expect((await events.next("error")).error).toMatchObject({ code: "ETIMEDOUT" });
      await over;
      const next = await dial(address);
      expect(await timed(ask(next, "served"))).toBe("1");
      expect(events.of("lost")).toEqual([]);
    });
  });

  test("is idle only when its connection carries nothing", async () => {
    const idleTimeout = 1_000;
    await untilNothingStoodStill(idleTimeout / 2, async (timed) => {
      const { events, address } = await serving({ idleTimeout });
      const socket = await dial(address);
      // It answers for twice as long as the limit.
      const until = performance.now() + 2 * idleTimeout;
      while (performance.now() < until) await timed(ask(socket, "block 20"));
      expect(events.of("timeout")).toEqual([]);
      expect(await codeOf(socket.recv())).toBe("ECONNRESET");
      expect(await events.next("timeout")).toMatchObject({ limit: "idleTimeout" });
    });
  });

  test("gets the app's context, made in its child", async () => {
    const data = await mkdtemp(join(tmpdir(), "forking-"));
    onTestFinished(() => rm(data, { recursive: true }));
    const handler = appHandlerFrom(fixture("forking-app.ts"), "tells", data);
    const { address } = await serving({}, ForkingTCPServer, handler);
    const socket = await dial(address);
    expect(await ask(socket, "kept")).toBe("node true");
    expect(await readFile(join(data, "line"), "utf8")).toBe("kept");
  });

  test("this process's options are the children's, but for what is its own alone", async () => {
    const { execArgv } = process;
    onTestFinished(() => {
      process.execArgv = execArgv;
      delete process.env.NODE_OPTIONS;
    });
    const own = ["--inspect=127.0.0.1:0", "--inspect-port", "9999", "-e", "0", "--input-type=module"];
    const loader = join("node_modules", "vitest", "some-loader.js");
    process.execArgv = [...own, "--import", loader, `--require=${loader}`, "-C", "other", "--no-deprecation"];
    process.env.NODE_OPTIONS = "--inspect=127.0.0.1:0 --max-semi-space-size=8";
    const { address } = await serving({ execArgv: ["--stack-trace-limit=7"] });
    expect(JSON.parse((await ask(await dial(address), "argv")) ?? "")).toEqual([
      "--conditions=socklet:source",
      "-C",
      "other",
      "--no-deprecation",
      "--stack-trace-limit=7",
      " --max-semi-space-size=8",
    ]);
  });
});

describe("a handler that does the worst", () => {
  for (const [limit, loop] of [
    // Far above what other requests take, which the same limit would cut.
    [{ requestTimeout: 4_000 }, "loop"],
    [{ blockTimeout: 3_000 }, "loop"],
    [{ blockTimeout: 3_000 }, "microtasks"],
  ] as const) {
    test(`${loop} for ever: its child is killed by ${Object.keys(limit)}, and others are served meanwhile`, async () => {
      await untilNothingStoodStill(500, async (timed) => {
        const { server, events, address } = await serving({ maxChildren: 2, restartDelay: 1 });
        for (const socket of await Promise.all([dial(address), dial(address)])) {
          await ask(socket, "echo two children are up");
          await socket.close();
        }
        await events.next("end", 2);
        Object.assign(server, limit); // now, that no request waits for a child to start
        const bad = await dial(address);
        const mine = bad.getsockname();
        const lost = codeOf(ask(bad, loop));
        await events.next("begin", 3);
        const others = new Set<string | null>();
        while (events.of("lost").length === 0 && events.of("end").every(({ id }) => id !== 3)) {
          const other = await dial(address);
          others.add(await timed(ask(other, "block 10"))); // its answer is the child's number
          await other.close();
        }
        await events.next("end", 1, ({ id }) => id === 3);
        expect(events.of("lost")).toHaveLength(1); // it was not merely cancelled
        const { signal, requests, error, pid } = await events.next("lost");
        expect({ signal, requests }).toEqual({ signal: "SIGKILL", requests: [{ id: 3, address: mine }] });
        expect(error).toMatchObject({ code: "ETIMEDOUT" });
        expect(await lost).toBe("ECONNRESET"); // not an end, which would look like a whole answer
        expect(events.of("end").find(({ id }) => id === 3)).toMatchObject({ failed: true });
        expect(isAlive(Number(pid))).toBe(false);
        expect(others.size).toBe(1); // the other child served them all
        expect(events.of("stuck")).toEqual([]);
        await events.next("forked", 1, ({ delay }) => delay === 1);
        await expect.poll(() => server.info()).toMatchObject({ restarted: 1, busy: 0, idle: 2 });
      });
    });
  }

  for (const [what, line, expected, options] of [
    ["calls process.exit(0)", "exit 0", { code: 0, signal: null }, {}],
    ["calls process.exit(7)", "exit 7", { code: 7, signal: null }, {}],
    ["throws outside its promise", "throwLater oh no", { code: 1, signal: null }, {}],
    ["rejects a promise of nobody's", "reject oh no", { code: 1, signal: null }, {}],
    [
      "runs out of memory",
      "hog",
      { code: null, signal: "SIGABRT" },
      { execArgv: ["--max-old-space-size=24"] },
    ],
  ] as const) {
    test(`${what}: its own request is lost, and no other`, async () => {
      const { server, events, address } = await serving({ ...options, restartDelay: 1 });
      const other = await dial(address);
      const pid = await ask(other, "pid");
      const bad = await dial(address);
      const mine = bad.getsockname();
      expect(await codeOf(ask(bad, line))).toBe("ECONNRESET");
      const lost = await events.next("lost");
      expect(lost).toMatchObject({ ...expected, requests: [{ id: 2, address: mine }] });
      const { error } = await events.next("error");
      expect(error).toBe(lost.error);
      expect(error).toMatchObject(
        line.endsWith("oh no")
          ? { code: "ERR_HANDLER", cause: { name: "RangeError", message: "oh no" } }
          : { code: "ECONNABORTED" },
      );
      expect(await events.next("end")).toMatchObject({ id: 2, failed: true });
      await events.next("forked", 1, ({ delay }) => delay === 1);
      expect(server.info()).toMatchObject({ restarted: 1, failed: 1, running: 1 });
      expect(await ask(other, "pid")).toBe(pid);
      expect(await ask(await dial(address), "echo again")).toBe("again");
    });
  }

  test("a request that the lost child had not begun another child serves", async () => {
    const { events, address } = await serving({ maxChildren: 1, restartDelay: 1 });
    const first = await dial(address);
    expect(await ask(first, "dieAfterwards")).toBe("farewell");
    const second = await dial(address); // waits for the child that dies as soon as it is free
    await second.sendall("pid\n");
    await first.sendall("bye\n");
    const lost = await events.next("lost");
    expect(lost).toMatchObject({ requests: [], signal: "SIGKILL" });
    const pid = Number(await second.rfile.line());
    expect(pid).toBe((await events.next("forked", 1, ({ delay }) => delay === 1)).pid);
    expect(pid).not.toBe(lost.pid);
    expect(events.of("error")).toEqual([]);
  });

  test("where children keep dying their places stay empty longer and longer, until a request is served", async () => {
    const options = { maxChildren: 1, restartDelay: 10, maxRestartDelay: 35 };
    const { server, events, address } = await serving(options);
    const delays = async (count: number): Promise<(number | null)[]> => {
      for (let i = 0; i < count; i++) await codeOf(ask(await dial(address), "exit 1"));
      await events.next("lost", count);
      return events.of("lost").map(({ delay }) => delay);
    };
    expect(await delays(4)).toEqual([10, 20, 35, 35]);
    const served = await dial(address);
    expect(await ask(served, "bye")).toBe(null);
    await events.next("end", 5);
    await codeOf(ask(await dial(address), "exit 1"));
    expect((await events.next("lost", 5)).delay).toBe(10);
    await events.next("forked", 2, ({ delay }) => delay === 10);
    expect(server.info()).toMatchObject({ restarted: 5 });
  });

  test("the listener stays open meanwhile: who connects waits, and is served", async () => {
    const restartDelay = 500;
    await untilNothingStoodStill(restartDelay / 2, async (timed) => {
      const { events, address } = await serving({ maxChildren: 1, restartDelay });
      const connect = async (): Promise<StreamSocket[]> => {
        await codeOf(ask(await dial(address), "exit 1"));
        await events.next("lost");
        return Promise.all([dial(address), dial(address), dial(address)]);
      };
      const waiting = await timed(connect());
      expect(events.of("forked").length).toBe(1); // no child can serve them yet
      const asked = waiting.map(async (socket, i) => {
        const said = await ask(socket, `echo ${i}`);
        await socket.close();
        return said;
      });
      expect(await Promise.all(asked)).toEqual(["0", "1", "2"]);
      expect(events.of("refused")).toEqual([]);
    });
  });
});

describe("how many children", () => {
  test("one more when a request waits, up to maxChildren; then requests wait their turn", async () => {
    const { server, events, address } = await serving({ maxChildren: 2 });
    expect(server.info()).toMatchObject({ idle: 1, busy: 0 });
    // One after the other: those that are dialled at the same time may be accepted in any order.
    const [a, b, c] = [await dial(address), await dial(address), await dial(address)];
    await c.sendall("pid\n");
    const pids = [await ask(a, "pid"), await ask(b, "pid")];
    expect(new Set(pids).size).toBe(2);
    expect(server.info()).toMatchObject({ idle: 0, busy: 2, running: 2, waiting: 1 });
    await b.close();
    expect(await c.rfile.line()).toBe(pids[1]);
    expect(events.of("forked").length).toBe(2);
  });

  test("two share the work: each computes while the other does", async () => {
    const { address } = await serving({ maxChildren: 2 });
    const warm = await Promise.all([dial(address), dial(address)]);
    const pids = await Promise.all(warm.map((socket) => ask(socket, "pid")));
    const both = await Promise.all(warm.map((socket) => ask(socket, "block 100")));
    expect(both).toEqual(pids);
    expect(new Set(pids).size).toBe(2);
  });

  test("two run at the same time: each waits for the other in a loop that awaits nothing", async () => {
    const folder = await mkdtemp(join(tmpdir(), "forking-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const { address } = await serving({ maxChildren: 2 });
    const [a, b] = await Promise.all([dial(address), dial(address)]);
    const [one, other] = [join(folder, "one"), join(folder, "other")];
    expect(await Promise.all([ask(a, `meet ${one} ${other}`), ask(b, `meet ${other} ${one}`)])).toEqual([
      "met",
      "met",
    ]);
  });

  test("those that have nothing to do are ended, but for the last", async () => {
    const { server, events, address } = await serving({ childIdleTimeout: 20 });
    const sockets = await Promise.all([dial(address), dial(address), dial(address)]);
    const pids = await Promise.all(sockets.map((socket) => ask(socket, "pid")));
    expect(new Set(pids).size).toBe(3);
    for (const socket of sockets) await socket.close();
    await events.next("reaped", 2);
    await expect.poll(() => server.info()).toMatchObject({ idle: 1, busy: 0, restarted: 0 }); // the last may still be busy
    const last = await dial(address);
    expect(pids).toContain(await ask(last, "pid"));
    expect(events.of("lost")).toEqual([]);
  });

  test("requestsPerChild: 1 gives each request a process of its own, as in CPython", async () => {
    const { events, address } = await serving({ requestsPerChild: 1, maxChildren: 1 });
    const pids = new Set<string | null>();
    for (let i = 0; i < 3; i++) {
      const socket = await dial(address);
      pids.add(await ask(socket, "pid"));
      await socket.close();
    }
    expect(pids.size).toBe(3);
    await events.next("reaped", 2);
    expect(events.of("lost")).toEqual([]);
  });
});

describe("the handler of a forking server", () => {
  const Shouts = handlerFrom(fixture("forking-script.ts"), "Shouts");

  test("may be replaced while connections live: those keep theirs, who comes then gets the new one", async () => {
    const { server, events, address } = await serving();
    const [old, idle] = await Promise.all([dial(address), dial(address)]);
    const pid = Number(await ask(old, "pid"));
    await ask(idle, "pid");
    await idle.close();
    await events.next("end");
    server.RequestHandlerClass = Shouts;
    await events.next("reaped"); // the idle child, which had the former
    const next = await dial(address);
    expect(await ask(next, "echo it")).toBe("ECHO IT");
    expect(await ask(old, "echo it")).toBe("it");
    await old.close();
    await events.next("reaped", 2);
    expect(isAlive(pid)).toBe(false);
    await next.close();
    const last = await dial(address);
    expect(await ask(last, "still")).toBe("STILL");
    expect(events.of("lost")).toEqual([]);
  });

  test("that cannot be imported is told, who comes waits, and the former may come back", async () => {
    const { server, events, address } = await serving({ restartDelay: 1 });
    server.RequestHandlerClass = handlerFrom(HANDLERS, "Nobody");
    const waits = await dial(address);
    await waits.sendall("echo after all\n");
    expect(await events.next("lost", 2)).toMatchObject({
      error: { code: "ERR_HANDLER", message: expect.stringMatching(/Nobody of .*there is no handler/) },
    });
    server.RequestHandlerClass = Obeys;
    expect(await waits.rfile.line()).toBe("after all");
  });
});

describe("the end of a forking server", () => {
  test("shutdown(), also from a handler: nothing new begins, what runs goes on", async () => {
    const { server, events, address, served } = await serving();
    const running = await dial(address);
    expect(await ask(running, "shutdown")).toBe("shut down");
    const late = await dial(address);
    await late.sendall("pid\n");
    expect(await ask(running, "echo still here")).toBe("still here");
    expect(server.info()).toMatchObject({ state: "listening", waiting: 1, running: 1 });
    await running.close();
    await served;
    expect(events.of("begin").length).toBe(1);
    expect(server.info().idle).toBe(1);
  });

  test("serverClose() lets what runs finish, then ends the children", async () => {
    const at = `127.0.0.1:${await reservePort()}`;
    const { server, events, address, pids } = await serving({}, ForkingTCPServer, Obeys, at);
    const [a, b] = await Promise.all([dial(address), dial(address)]);
    await Promise.all([ask(a, "pid"), ask(b, "pid")]);
    await b.close();
    const closing = server.serverClose();
    expect(await ask(a, "echo to the end")).toBe("to the end");
    await a.close();
    await closing;
    expect(pids().filter(isAlive)).toEqual([]);
    expect(events.of("reaped").length).toBe(2);
    expect(events.of("lost")).toEqual([]);
    expect(events.all.at(-1)).toMatchObject({ type: "closed", served: 2, failed: 0 });
    expect(await codeOf(createConnection(address))).toBe("ECONNREFUSED");
  });

  test("past the drain time what awaits is aborted, and what loops is killed; nothing is stuck", async () => {
    await untilNothingStoodStill(GRACE / 2, async (timed) => {
      const { server, events, address, pids } = await serving({ drainTimeout: 20 });
      const [awaits, loops] = await Promise.all([dial(address), dial(address)]);
      expect(await ask(awaits, "untilAborted")).toBe("waiting");
      expect(await ask(loops, "echo well")).toBe("well");
      await loops.sendall("loop\n");
      await events.next("handler"); // it loops: one that had not begun to would merely be cancelled
      const codes = [timed(codeOf(awaits.recv())), codeOf(loops.recv())];
      await timed(server.serverClose(), GRACE); // when the one that loops is killed
      expect(await Promise.all(codes)).toEqual(["ECONNRESET", "ECONNRESET"]);
      expect(events.of("stuck")).toEqual([]);
      expect(events.of("lost")).toMatchObject([{ signal: "SIGKILL", delay: null }]);
      expect(events.of("end")).toMatchObject([{ failed: true }, { failed: true }]);
      expect(pids().filter(isAlive)).toEqual([]);
    });
  });

  test("past the drain time a read that waits in a child says why it was aborted", async () => {
    const { server, events, address } = await serving({ drainTimeout: 20 });
    const reads = await dial(address);
    expect(await ask(reads, "echo well")).toBe("well");
    await server.serverClose();
    const message = "ECONNABORTED: the request did not end within the drain time of 20 ms";
    expect(events.of("error")).toMatchObject([{ error: { code: "ECONNABORTED", message } }]);
  });

  test("what has ended within the grace is not stuck, although the server's process stood still", async () => {
    const { server, events, address } = await serving({ drainTimeout: 20 });
    const { cancelRequest } = server;
    server.cancelRequest = (...how) => {
      cancelRequest.apply(server, how);
      setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_200)); // longer than the grace, and timers come next
    };
    const awaits = await dial(address);
    expect(await ask(awaits, "untilAborted 50")).toBe("waiting");
    await server.serverClose();
    expect(events.of("stuck")).toEqual([]);
    expect(events.of("lost")).toEqual([]);
  });

  test("what waits for the place of a lost child is served also while the server closes", async () => {
    const { server, events, address } = await serving({
      maxChildren: 1,
      restartDelay: 60_000,
      maxRestartDelay: 60_000,
    });
    const [bad, waits] = [await dial(address), await dial(address)];
    await codeOf(ask(bad, "exit 1"));
    await events.next("begin", 2);
    expect(await events.next("lost")).toMatchObject({ delay: 60_000 });
    const closing = server.serverClose(); // has no time for such a delay
    expect(await ask(waits, "echo well")).toBe("well");
    await waits.close();
    await closing;
  });

  test("with blockOnClose false it is closed at once, and what runs goes on", async () => {
    const { server, events, address } = await serving({ blockOnClose: false });
    const socket = await dial(address);
    const pid = Number(await ask(socket, "pid"));
    await server.serverClose();
    expect(events.of("closed")).toMatchObject([{ running: 1 }]);
    expect(await ask(socket, "echo still here")).toBe("still here");
    await socket.close();
    await events.next("reaped");
    expect(isAlive(pid)).toBe(false);
  });

  test("handleRequest() takes exactly one", async () => {
    const events = new Told();
    const server = new ForkingTCPServer("127.0.0.1:0", Obeys, { onEvent: events.on });
    onTestFinished(() => server.serverClose());
    const address = (await server.listen()) as Address;
    const [first, second] = [await dial(address), await dial(address)];
    await second.sendall("id\n");
    await server.handleRequest();
    expect(await ask(first, "id")).toBe("1");
    expect(events.of("begin").length).toBe(1);
    expect(server.info()).toMatchObject({ running: 1, waiting: 1 });
    await server.handleRequest();
    expect(await second.rfile.line()).toBe("2");
    await first.close();
    await second.close();
  });

  test.runIf(process.platform === "linux")("no descriptor and no process is left", async () => {
    const descriptors = (): number => readdirSync("/proc/self/fd").length;
    const life = async (): Promise<void> => {
      const server = new ForkingTCPServer("127.0.0.1:0", Obeys, { restartDelay: 1 });
      const address = (await server.listen()) as Address;
      const served = server.serveForever();
      await codeOf(ask(await dial(address), "exit 1"));
      const sockets = await Promise.all([dial(address), dial(address)]);
      for (const socket of sockets) await ask(socket, "pid");
      for (const socket of sockets) await socket.close();
      await server.serverClose();
      await served;
    };
    await life(); // what is made once is made here
    const before = descriptors();
    await life();
    await life();
    // The last connections close when their ends have been read: those of the first life perhaps not before it was counted.
    while (descriptors() > before) await turn();
    const children = await readFile(`/proc/self/task/${process.pid}/children`, "utf8").catch(() => "");
    const ours = await Promise.all(
      children
        .split(" ")
        .filter(Boolean)
        .map((pid) => readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "")),
    );
    expect(ours.filter((line) => /forking-child|sentinel/.test(line))).toEqual([]);
  });
});

/** A program in its own process group. It ends with its test, whatever the outcome. */
const program = (...args: string[]) => {
  const child = spawn(process.execPath, ["--conditions=socklet:source", ...args], {
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  onTestFinished(() => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text) => {
    stderr += text;
  });
  return {
    child: child as ChildProcess & { pid: number },
    line: async () => (await lines.next()).value as string | undefined,
    /** Resolves when the last process that writes there is gone: its children have their parent's output. */
    over: once(child, "close"), // and all that they wrote has been read
    exit: once(child, "exit"),
    stderr: () => stderr,
  };
};

const script = fileURLToPath(fixture("forking-script.ts"));

describe("a program of a user's", () => {
  test("serves with a handler of its own file, and ends by a signal that its whole group gets", async () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      const { child, line, exit, over, stderr } = program(script);
      const address = JSON.parse((await line()) ?? "") as Address;
      const socket = await dial(address);
      expect(await ask(socket, "hello")).toBe("HELLO");
      const pid = Number(await ask(socket, "pid"));
      expect(pid).not.toBe(child.pid);
      process.kill(-child.pid, signal); // as a terminal's Ctrl-C does
      expect(await line()).toBe(signal);
      expect(await ask(socket, "still here")).toBe("STILL HERE");
      await socket.close();
      expect(await line()).toBe("closed");
      expect(await exit).toEqual([0, null]);
      await over;
      expect(stderr()).toBe("");
      expect(isAlive(pid)).toBe(false);
    }
  });

  test("killed, it leaves no child, not even one that loops", async () => {
    const { child, line, exit, over } = program(script);
    const address = JSON.parse((await line()) ?? "") as Address;
    const [idle, loops] = await Promise.all([dial(address), dial(address)]);
    const pids = [Number(await ask(idle, "pid")), Number(await ask(loops, "pid"))];
    expect(new Set(pids).size).toBe(2);
    await loops.sendall("loop\n");
    await idle.close();
    child.kill("SIGKILL");
    await exit;
    await over; // their shared output is closed: the last one has closed it, and is dead some moments later
    while (pids.some(isAlive)) await turn();
  });

  test("that starts a server whenever it is imported is told what to do", async () => {
    const { exit, over, stderr } = program(fileURLToPath(fixture("forking-unguarded.ts")));
    expect(await exit).toEqual([1, null]);
    await over;
    expect(stderr()).toContain('put that under "if (import.meta.main)"');
  });

  for (const [name, args] of [
    [
      "python3",
      [
        "-c",
        "import socket,sys; s=socket.create_connection(('127.0.0.1',int(sys.argv[1]))); f=s.makefile('rw'); [(f.write(w+'\\n'), f.flush(), print(f.readline().strip())) for w in ('from', 'python')]",
      ],
    ],
    ["nc", ["-N", "127.0.0.1"]],
  ] as const) {
    const path = peer(name);
    test.skipIf(path === null)(`serves ${name}${path === null ? " (not installed)" : ""}`, async () => {
      const { address } = await serving(
        {},
        ForkingTCPServer,
        handlerFrom(fixture("forking-script.ts"), "Shouts"),
      );
      const client = spawn(path as string, [...args, String(address.port)], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      client.stdin.end("from\npython\n");
      const said: string[] = [];
      for await (const line of createInterface(client.stdout)) said.push(line);
      expect(said).toEqual(["FROM", "PYTHON"]);
    });
  }
});

describe("on a path", () => {
  const folder = async (): Promise<string> => {
    const made = await mkdtemp(join(tmpdir(), "forking-"));
    onTestFinished(() => rm(made, { recursive: true }));
    return made;
  };

  test("connections: one that loops costs itself, and the file goes with the server", async () => {
    const blockTimeout = 3_000;
    await untilNothingStoodStill(blockTimeout / 2, async (timed) => {
      const path = join(await folder(), "s");
      const options = { blockTimeout, restartDelay: 1 };
      const { server, events, address } = await serving(options, ForkingUnixStreamServer, Obeys, { path });
      expect(address).toEqual({ family: "unix", path });
      expect(server).toBeInstanceOf(UnixStreamServer);
      const other = await dial(address);
      const pid = await timed(ask(other, "pid"));
      expect(Number(pid)).not.toBe(process.pid);
      expect(JSON.parse((await timed(ask(other, "local"))) ?? "")).toEqual(address);
      const bad = await dial(address);
      const lost = events.next("lost");
      const answer = ask(bad, "loop");
      let over = false;
      const end = (): void => {
        over = true;
      };
      answer.then(end, end);
      while (!over) expect(await timed(ask(other, "pid"))).toBe(pid);
      expect(await answer).toBe(null); // a path knows no reset
      expect(await lost).toMatchObject({ requests: [{ id: 2, address: null }] });
      expect(await timed(ask(other, "pid"))).toBe(pid);
      await other.close();
      await server.serverClose();
      expect(existsSync(path)).toBe(false);
    });
  });

  const python = peer("python3");
  const name = `datagrams of python3${python === null ? " (not installed)" : ""}: one that ends its child costs itself`;
  test.skipIf(python === null)(name, async () => {
    const path = join(await folder(), "d");
    const { server, events } = await serving({ restartDelay: 1 }, ForkingUnixDatagramServer, ObeysDatagrams, {
      path,
    });
    expect(server).toBeInstanceOf(UnixDatagramServer);
    const asks =
      "import socket,sys; s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.bind(sys.argv[1]+'c'); " +
      "[s.sendto(w,sys.argv[1]) for w in (b'exit 4',b'echo from python')]; print(s.recvfrom(100)[0].decode())";
    const asking = spawn(python as string, ["-c", asks, path], { stdio: ["ignore", "pipe", "inherit"] });
    const { value } = await createInterface(asking.stdout)[Symbol.asyncIterator]().next();
    expect(value).toBe("from python");
    expect(await events.next("lost")).toMatchObject({
      code: 4,
      requests: [{ id: 1, address: { path: `${path}c` } }],
    });
  });
});

describe("datagrams", () => {
  const client = async (address: InternetAddress) => {
    const socket = dgram.createSocket("udp4");
    onTestFinished(() => void socket.close());
    await new Promise<void>((resolve) => socket.connect(address.port, address.hostname, resolve));
    const replies = (async function* () {
      for (const queue: string[] = [], more: (() => void)[] = []; ; ) {
        if (socket.listenerCount("message") === 0) {
          socket.on("message", (message) => {
            queue.push(message.toString());
            more.shift()?.();
          });
        }
        if (queue.length === 0) await new Promise<void>((resolve) => more.push(resolve));
        yield queue.shift() as string;
      }
    })();
    const next = async (): Promise<string> => (await replies.next()).value as string;
    return {
      socket,
      next,
      ask: (text: string) => {
        socket.send(text);
        return next();
      },
    };
  };

  test("are handled in a child, one at a time, and answered from the server's address", async () => {
    const { server, events, address } = await serving({}, ForkingUDPServer);
    const { ask } = await client(address);
    expect(await ask("echo hello")).toBe("hello");
    const pid = Number(await ask("pid"));
    expect(pid).not.toBe(process.pid);
    expect(await ask(`echo ${"x".repeat(60_000)}`)).toBe("x".repeat(60_000));
    await events.next("end", 3);
    expect(events.of("end")[0]).toMatchObject({ bytesRead: 10, bytesWritten: 5, failed: false });
    expect(server.info()).toMatchObject({ idle: 1, served: 3 });
  });

  test("a reply that is too long fails in the child; one that is late still leaves", async () => {
    const long = await serving({}, ForkingUDPServer);
    const { socket } = await client(long.address);
    socket.send("long");
    expect((await long.events.next("error")).error).toMatchObject({ code: "EMSGSIZE" });
    const late = await serving({}, ForkingUDPServer, handlerFrom(HANDLERS, "Late"));
    const other = await client(late.address);
    expect([await other.ask("hello"), await other.next()]).toEqual(["now", "late"]);
  });

  test("replies that their child cannot pass on are bounded, dropped and told", async () => {
    const folder = await mkdtemp(join(tmpdir(), "forking-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const made = join(folder, "over");
    const { server, events, address } = await serving({}, ForkingUDPServer, handlerFrom(HANDLERS, "Floods"));
    const { onEvent } = server;
    server.onEvent = (event) => {
      onEvent?.(event);
      // This process reads nothing of the child's until all was sent.
      const held = new Int32Array(new SharedArrayBuffer(4));
      if (event.type === "handler") while (!existsSync(made)) Atomics.wait(held, 0, 0, 1);
    };
    const { socket } = await client(address);
    socket.send(made);
    const end = await events.next("end");
    const dropped = events.of("dropped");
    expect(dropped[0]).toMatchObject({
      reason: "full",
      bytes: 60_000,
      address: { port: socket.address().port },
    });
    expect(end.bytesWritten).toBe((1000 - dropped.length) * 60_000);
    expect(end.bytesWritten).toBeLessThan(3 * 1024 * 1024); // 1 MiB that waits, and what the channel holds
  });

  for (const [line, options] of [
    ["loop", { blockTimeout: 3_000 }],
    ["exit 3", {}],
    ["throwLater oh no", {}],
  ] as const) {
    test(`${line}: costs that datagram, while others are answered`, async () => {
      await untilNothingStoodStill(1_000, async (timed) => {
        const { server, events, address } = await serving({ ...options, restartDelay: 1 }, ForkingUDPServer);
        const [bad, good] = [await client(address), await client(address)];
        bad.socket.send(line);
        const another = events.next("lost", 2); // then nobody answers
        for (let i = 0; events.of("lost").length === 0; i++) {
          expect(await timed(Promise.race([good.ask(`echo ${i}`), another]))).toBe(`${i}`);
          await timed(Promise.race([good.ask("block 10"), another])); // for the rest of the run this is a pause
        }
        expect(events.of("lost")).toMatchObject([{ requests: [{ id: 1 }] }]);
        await events.next("error");
        expect(events.of("end").filter(({ failed }) => failed)).toMatchObject([{ id: 1 }]);
        await events.next("forked", 1, ({ delay }) => delay === 1);
        expect(server.info()).toMatchObject({ restarted: 1, failed: 1 });
        expect(await bad.ask("echo after all")).toBe("after all");
      });
    });
  }

  test("two children share them", async () => {
    const { address, pids } = await serving({ maxChildren: 2 }, ForkingUDPServer);
    const [holds, asks] = await Promise.all([client(address), client(address)]);
    holds.socket.send("wait");
    const pid = Number(await asks.ask("pid"));
    expect(pids().length).toBe(2);
    expect(pids()[1]).toBe(pid);
  });

  const python = peer("python3");
  test.skipIf(python === null)(`serve python3${python === null ? " (not installed)" : ""}`, async () => {
    const { address } = await serving({}, ForkingUDPServer);
    const asks =
      "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.sendto(b'echo from python',('127.0.0.1',int(sys.argv[1]))); print(s.recvfrom(100)[0].decode())";
    const asking = spawn(python as string, ["-c", asks, String(address.port)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { value } = await createInterface(asking.stdout)[Symbol.asyncIterator]().next();
    expect(value).toBe("from python");
  });
});
