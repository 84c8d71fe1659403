/**
 * Written bytes arrive, or the loss is reported: slow readers, peers that take nothing, and resets, on real sockets.
 * Time is the test's own where time-outs are meant: how long anything takes decides nothing.
 */

import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import {
  BaseRequestHandler,
  defineApp,
  type InternetAddress,
  type StreamOptions,
  type StreamSocket,
  streamHandler,
  type UnixAddress,
} from "socklet";
import { controlClient } from "socklet/control";
import { serveApp, TCPConnector, ThreadingTCPServer } from "socklet/emulator";
import { MemoryServer, ThreadingMemoryServer, VirtualClock } from "socklet/testing";
import { afterAll, afterEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import { handlerFrom } from "../../emulator/servers/forking/channel/handler-source.ts";
import { ForkingTCPServer } from "../../emulator/servers/forking/servers.ts";
import { ThreadingUnixStreamServer } from "../../emulator/servers/unix.ts";
import { type Step, writeSteps } from "../conformance/delivery.ts";
import { Told } from "../core/told.ts";
import { ownCertificates } from "../peers/certificates.ts";
import {
  type DeliveryPlace,
  holdsDelivery,
  outcomeOf,
  Reader,
  SIZE,
  StreamPeer,
  sessionOf,
  written,
} from "./deliveries.ts";
import { byOneIntake, forks, rustls } from "./runtime-rows.ts";

const MB = 1e6;
const TOKEN = "a-token-for-the-tests";
const T = 1_000; // ms of a time-out, by the test's own clock
const folder = mkdtempSync(join(tmpdir(), "socklet-delivery-"));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => void vi.useRealTimers());

const { ca, cert, key } = ownCertificates() ?? { ca: "", cert: "", key: "" };

interface Place {
  readonly name: string;
  readonly secure?: true;
  readonly intake?: false;
  readonly unix?: true;
}

const all: readonly Place[] = [
  { name: "TCP" },
  { name: "TCP, by net.Socket", intake: false },
  { name: "TLS", secure: true },
  { name: "TLS, by net.Socket", secure: true, intake: false },
  { name: "Unix", unix: true },
  { name: "Unix, by net.Socket", unix: true, intake: false },
];

// The peer of TLS is the runtime's own, and Deno's loses the end and the reset that these wait for: docs/runtimes.md.
const places = byOneIntake(all).filter(({ secure }) => !(rustls && secure));

let made = 0;

/** A server at a place whose handler does `handle`, and a client that has connected. */
const meet = async (
  place: Place,
  handle: (request: StreamSocket) => unknown,
  stream: Partial<StreamOptions>,
  options: { readonly requestTimeout?: number; readonly idleTimeout?: number } = {},
): Promise<{ told: Told; client: Reader; request: StreamSocket; server: ThreadingTCPServer }> => {
  const told = new Told();
  const given = Promise.withResolvers<StreamSocket>();
  // On Bun a listener without `tls` is Bun's own, and TLS goes over a stream there: see runtimes/own-sockets.ts.
  const listenerHasTls = place.secure && place.intake === false;
  class Handler extends BaseRequestHandler<StreamSocket> {
    override async setup(): Promise<void> {
      if (!place.secure) return;
      await (listenerHasTls ? this.request.startTls() : this.request.startTls({ cert, key }));
    }
    override handle(): unknown {
      given.resolve(this.request);
      return handle(this.request);
    }
  }
  const before = intake.on;
  intake.on = before && (place.intake ?? true);
  const starttls = { tls: { cert, key }, secureTransport: "starttls" as const };
  const given2 = { ...options, ...(listenerHasTls && starttls), stream, onEvent: told.on };
  const server = place.unix
    ? new ThreadingUnixStreamServer(`unix:${folder}/${++made}`, Handler, given2)
    : new ThreadingTCPServer("127.0.0.1:0", Handler, given2);
  const address = (await server.listen()) as InternetAddress | UnixAddress;
  intake.on = before;
  void server.serveForever();
  onTestFinished(async () => {
    vi.useRealTimers();
    server.abort();
    await server.serverClose();
  });
  const to = "path" in address ? { path: address.path } : { port: address.port, host: "127.0.0.1" };
  const plain = { ...to, allowHalfOpen: true };
  const socket = place.secure ? tls.connect({ ...plain, ca, servername: "localhost" }) : net.connect(plain);
  const client = new Reader(socket);
  onTestFinished(() => void socket.destroy());
  return { told, client, request: await given.promise, server: server as ThreadingTCPServer };
};

/** From now on the time-outs of both ends go by the test's clock. */
const holdTime = (): void => void vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

/** The peer takes something just in time, again and again, until everything has left. Returns how often. */
const readSlowly = async (request: StreamSocket, client: Reader, size: number): Promise<number> => {
  let rounds = 0;
  for (; request.bytesWritten < size && !client.ended && client.code === null; rounds++) {
    await pass(0.7 * T);
    const before = request.bytesWritten;
    while (request.bytesWritten === before && (await client.read()));
  }
  return rounds;
};

const writesAll = (request: StreamSocket): void => {
  request.wfile.write(written);
};

describe.each(places)("$name", (place) => {
  const reset = !place.unix;

  describe.each([
    ["the end of a handler", writesAll],
    [
      "close()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.close();
      },
    ],
    [
      "flush()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.wfile.flush();
      },
    ],
    ["sendall()", (request: StreamSocket) => request.sendall(written)],
    [
      "shutdown()",
      async (request: StreamSocket) => {
        request.wfile.write(written);
        await request.shutdown(1);
      },
    ],
  ] as const)("%s", (_, handle) => {
    test("waits as long as the peer takes bytes", async () => {
      holdTime();
      const { told, client, request } = await meet(place, handle, { timeout: T, closeTimeout: T });
      expect(await readSlowly(request, client, SIZE)).toBeGreaterThan(1); // in all more than T
      await Promise.all([client.readAll(), told.next("end")]);
      expect([client.got, client.ended, client.code]).toEqual([SIZE, true, null]);
      expect(told.of("end")).toMatchObject([{ failed: false, bytesWritten: SIZE }]);
      expect(told.of("error")).toEqual([]);
    });

    test("is cut when the peer takes nothing, and it is told", async () => {
      holdTime();
      const { told, client, request } = await meet(place, handle, { timeout: T, closeTimeout: T });
      await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
      await pass(0.9 * T);
      expect(told.of("error")).toEqual([]);
      // More than once: bytes written before a flush() are still sent at the close, and a busy kernel takes bytes late.
      while (told.of("end").length === 0) await pass(T);
      await told.next("end");
      await client.readAll();
      if (reset) await client.over;
      const [end] = told.of("end");
      expect(told.of("error")).toMatchObject([{ id: 1, error: { code: "ETIMEDOUT" } }]);
      expect(end).toMatchObject({ failed: true });
      expect(end?.bytesWritten).toBeLessThan(SIZE);
      expect(client.got).toBeLessThanOrEqual((end?.bytesWritten ?? 0) + 256 * 1024);
      if (reset) expect(client.code).toBe("ECONNRESET");
    });
  });

  test("a peer that takes too little for minWriteRate is cut, and one that takes enough is not", async () => {
    for (const [minWriteRate, failed] of [
      [50 * MB, true],
      [1_000, false],
    ] as const) {
      const stream = { closeTimeout: T, minWriteRate };
      holdTime();
      const { told, client, request } = await meet(place, writesAll, stream);
      await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
      while (told.of("end").length === 0) {
        await pass(0.7 * T);
        const before = request.bytesWritten;
        while (request.bytesWritten === before && told.of("end").length === 0 && (await client.read()));
      }
      await client.readAll();
      expect(told.of("end")).toMatchObject([{ failed }]);
      if (failed) expect(told.of("error")).toMatchObject([{ error: { code: "ETIMEDOUT" } }]);
      else expect(client.got).toBe(SIZE);
      vi.useRealTimers();
    }
  });

  test("requestTimeout stays absolute, also where the close takes long", async () => {
    holdTime();
    const stream = { closeTimeout: T };
    const { told, client, request } = await meet(place, writesAll, stream, { requestTimeout: 1.3 * T });
    for (let rounds = 0; told.of("timeout").length === 0; rounds++) {
      expect(rounds).toBeLessThan(4);
      await readSlowly(request, client, request.bytesWritten + 1);
    }
    await told.next("end");
    expect(told.of("timeout")).toMatchObject([{ limit: "requestTimeout" }]);
    expect(told.of("error")).toMatchObject([{ error: { code: "ECONNABORTED" } }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
  });

  test("idleTimeout lets a connection be whose peer takes bytes, and ends one whose peer takes none", async () => {
    holdTime();
    const stream = { closeTimeout: 100 * T };
    const { told, client, request } = await meet(place, writesAll, stream, { idleTimeout: T });
    // Once if the kernel takes that much at a time (Bun): the peer must not have everything.
    for (let i = 0; i < 2 && request.wfile.unsent > SIZE / 2; i++)
      await readSlowly(request, client, request.bytesWritten + 1);
    expect(told.of("timeout")).toEqual([]);
    while (told.of("end").length === 0) await pass(2 * T); // a peer that reads ahead takes some more, and late
    expect(told.of("timeout")).toMatchObject([{ limit: "idleTimeout" }]);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
  });

  test("whatever the sizes, the reading, half-closes, resets and stops: a prefix arrives, and all where no event says otherwise", () =>
    holdsDelivery({
      pauses: [0, 0, 10],
      closeTimeouts: [30, 2_000],
      slack: 256 * 1024,
      runs: 15,
      meet: async ({ steps, closeTimeout }) => {
        const stream = { timeout: 2_000, closeTimeout };
        const { told, client, server } = await meet(place, (request) => writeSteps(request, steps), stream);
        return {
          peer: client,
          stop: async (how) => (how === "abort" ? server.abort() : server.serverClose()),
          outcome: () => outcomeOf(told),
          [Symbol.asyncDispose]: async () => {
            client.socket.destroy();
            await server.serverClose();
          },
        };
      },
    }));

  test("a peer that resets what it did not read: it is told, with the bytes that had left", async () => {
    const { told, client, request } = await meet(place, writesAll, {});
    await expect.poll(() => request.wfile.unsent).toBeGreaterThan(0);
    while (client.got < MB) await client.read();
    client.socket.destroy();
    await told.next("end");
    const [error] = told.of("error");
    expect(["ECONNRESET", "EPIPE"]).toContain((error?.error as { code?: string } | undefined)?.code);
    expect(told.of("end")).toMatchObject([{ failed: true }]);
    const { bytesWritten = 0 } = told.of("end")[0] ?? {};
    expect(bytesWritten).toBeLessThan(SIZE);
    expect(bytesWritten).toBeGreaterThan(client.got - 256 * 1024);
  });
});

/** In memory, by the clock of the test: a pause may be longer than every time-out, and costs nothing. */
const inMemory = (Server: typeof MemoryServer): DeliveryPlace => ({
  pauses: [0, 0, 20, 4_000, 20_000],
  closeTimeouts: [30, 5_000],
  slack: 0,
  holds: 64 * 1024, // the default capacity
  runs: 40, // each of the others has 15; SOCKLET_DELIVERY_RUNS for more
  meet: async ({ steps, closeTimeout }) => {
    const clock = new VirtualClock().install();
    const told = new Told();
    const given = Promise.withResolvers<void>();
    const Writes = streamHandler(({ request }) => {
      given.resolve();
      return writeSteps(request, steps);
    });
    const server = new Server(Writes, { onEvent: told.on, stream: { timeout: 10_000, closeTimeout } });
    void server.serveForever();
    const client = server.connect();
    await given.promise;
    return {
      peer: new StreamPeer(client),
      stop: async (how) => (how === "abort" ? server.abort() : server.serverClose()),
      outcome: () => outcomeOf(told),
      [Symbol.asyncDispose]: async () => {
        client.abort();
        await server.serverClose();
        expect(clock.pending).toBe(0);
        clock[Symbol.dispose]();
      },
    };
  },
});

test.each([MemoryServer, ThreadingMemoryServer].map((Server) => ({ name: Server.name, Server })))(
  "$name: whatever the sizes, the reading, half-closes, resets and stops: a prefix arrives, and all where no event says otherwise",
  ({ Server }) => holdsDelivery(inMemory(Server)),
);

test("a session's record: whatever the sizes, the reading, half-closes, resets and ends: a prefix arrives, and all where it does not say otherwise", async () => {
  const Writes = streamHandler(({ request, params }) => {
    request.settimeout(2_000); // a write to a peer that stalls waits that long, and not the default's five minutes
    return writeSteps(request, (params as { steps: readonly Step[] }).steps);
  });
  const app = defineApp({
    handlers: { writes: Writes },
    listen: [{ handler: "writes", address: "tcp://127.0.0.1:0" }],
    allow: ["127.0.0.0/8:*"],
  });
  await using served = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
  await holdsDelivery({
    pauses: [0, 0, 10],
    closeTimeouts: [5_000], // a session has the default
    slack: 256 * 1024,
    runs: 6, // a close takes that long if its peer stalls
    meet: (mix) => sessionOf(served.control?.url as string, TOKEN, mix),
  });
});

test("a slow reader that goes on sending gets what its kernel had not taken at the close", async () => {
  holdTime();
  /** Closes while the kernel holds much; returns how often the peer had to be checked until it held nothing. */
  const closeWithAFullKernel = async (): Promise<number> => {
    let size = 0;
    const fills = async ({ wfile }: StreamSocket): Promise<void> => {
      const more = (): void => {
        wfile.write(written.subarray(size, size + 64 * 1024));
        size += 64 * 1024;
      };
      more();
      await wfile.flush(); // Deno has the first write of a connection wait
      while (wfile.unsent === 0 && size < SIZE) more();
    };
    const { told, client, request } = await meet({ name: "TCP" }, fills, { closeTimeout: 1_000_000 });
    while (request.wfile.unsent > 0) await client.read();
    expect(await told.next("end")).toMatchObject({ failed: false, bytesWritten: size });
    // All is the kernel's. Its peer reads a little now and then, and sends, which a socket that is closed answers by a reset.
    await pass(1_000); // what is known of the kernel's buffers is no older
    let looks = 0;
    for (; (request.wfile.unacknowledged() ?? 0) > 0; looks++) {
      await pass(2_000);
      client.socket.write("more");
      for (const until = client.got + MB / 2; client.got < until && (await client.read()); );
    }
    await client.readAll();
    expect([client.got, client.ended, client.code]).toEqual([size, true, null]);
    return looks;
  };
  // A peer's kernel that makes its buffer large in time has taken all before the first look: that shows nothing.
  let looks = 0;
  do looks = await closeWithAFullKernel();
  while (looks === 0 && process.platform === "linux");
});

test("a connector's run() rejects with why not all has left, and its end says so", async () => {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await once(server, "listening");
  const { port } = server.address() as net.AddressInfo;
  const accepted: net.Socket[] = [];
  server.on("connection", (socket) => accepted.push(socket.on("error", () => {})));
  const told = new Told();
  const Writes = streamHandler(({ wfile }) => {
    wfile.write(written);
    return "done";
  });
  const connector = new TCPConnector({ hostname: "127.0.0.1", port }, Writes, {
    onEvent: told.on,
    stream: { closeTimeout: 50 },
  });
  await expect(connector.run()).rejects.toMatchObject({ code: "ETIMEDOUT" });
  expect(told.of("end")).toMatchObject([{ failed: true }]);
  for (const socket of accepted) socket.destroy();
});

test.runIf(forks)("what a child cuts is told by its parent, and the peer sees a reset", async () => {
  const told = new Told();
  const module = new URL("fixtures/forking-handlers.ts", import.meta.url).href;
  const server = new ForkingTCPServer("127.0.0.1:0", handlerFrom(module, "WritesMuch"), {
    onEvent: told.on as never,
    stream: { closeTimeout: 200 },
  });
  onTestFinished(() => server.serverClose());
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true }).pause();
  let code: string | undefined;
  client.on("error", (error: NodeJS.ErrnoException) => {
    code = error.code;
  });
  await told.next("end");
  expect(told.of("end")).toMatchObject([{ failed: true }]);
  expect(told.of("end")[0]?.bytesWritten).toBeLessThan(SIZE);
  expect(told.of("error")).toMatchObject([{ error: { code: "ETIMEDOUT" } }]);
  client.resume();
  await new Promise((resolve) => client.once("close", resolve));
  expect(code).toBe("ECONNRESET");
});

test("a session's record says that a reply was cut", async () => {
  const Writes = streamHandler(({ wfile }) => void wfile.write(written));
  const app = defineApp({
    handlers: { writes: Writes },
    listen: [{ handler: "writes", address: "tcp://127.0.0.1:0", options: { stream: { closeTimeout: 50 } } }],
  });
  const told = new Told();
  await using served = await serveApp(app, {
    onEvent: told.on,
    control: { port: 0, tokens: TOKEN },
  });
  const control = controlClient(served.control?.url as string, { token: TOKEN });
  const client = net.connect(Number(new URL(served.listeners[0]?.url as string).port), "127.0.0.1").pause();
  client.on("error", () => {});
  await told.next("end");
  const { sessions } = await control.sessions.list();
  const { id } = sessions[0] as { id: string };
  for await (const _ of control.sessions.follow(id));
  const over = await control.sessions.get(id);
  expect(over).toMatchObject({ state: "failed", error: { code: "ETIMEDOUT" } });
  expect(over.bytesWritten).toBeLessThan(SIZE);
  client.destroy();
});
