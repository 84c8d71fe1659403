/** What a server's life and limits are, in memory: waits are for events, never for time. */

import { createHook } from "node:async_hooks";
import {
  type Address,
  BaseRequestHandler,
  Datagram,
  DatagramRequestHandler,
  type InternetAddress,
  type ServerOptions,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import {
  MemoryDatagramServer,
  MemoryServer,
  memoryPair,
  ThreadingMemoryDatagramServer,
  ThreadingMemoryServer,
} from "socklet/testing";
import { afterEach, describe, expect, test, vi } from "vitest";
import { codeOf, settled } from "./outcome.ts";
import { Told } from "./told.ts";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const address = (hostname: string): Address => ({
  family: hostname.includes(":") ? "IPv6" : "IPv4",
  hostname,
  port: 7,
});

/** A server whose clients come from wherever the test says. */
class Serial extends MemoryServer {
  from(peer: Address | null): StreamSocket {
    const [client, request] = memoryPair({}, this.serverAddress);
    this.arrive(request, peer);
    return client;
  }
}
class Threading extends ThreadingMemoryServer {
  from(peer: Address | null): StreamSocket {
    const [client, request] = memoryPair({}, this.serverAddress);
    this.arrive(request, peer);
    return client;
  }
}
class Datagrams extends ThreadingMemoryDatagramServer {
  feed(datagram: Datagram, peer: Address | null = null): void {
    this.arrive(datagram, peer);
  }
}

/** A datagram of one byte, to which replies are lost. */
class FakeDatagram extends Datagram {
  constructor(byte: number) {
    super(Uint8Array.of(byte), null, { post: () => {} });
  }
}

/** Answers each line with itself, in capitals. */
const Upper = streamHandler(async ({ rfile, wfile }) => {
  for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\n`);
});

/** Says so when it runs, and holds until its peer says something. */
const Hold = streamHandler(async ({ rfile, wfile }) => {
  wfile.write("holding\n");
  await rfile.line();
});

const holding = async (client: StreamSocket): Promise<StreamSocket> => {
  expect(await client.rfile.line()).toBe("holding");
  return client;
};

const ask = async (socket: StreamSocket, line: string): Promise<string | null> => {
  await socket.sendall(`${line}\n`);
  return socket.rfile.line();
};

const refused = (client: StreamSocket): Promise<unknown> => codeOf(client.recv());

const up = async <Server extends MemoryServer | ThreadingMemoryServer>(server: Server): Promise<Server> => {
  cleanups.push(async () => {
    server.abort();
    await server.serverClose();
  });
  await server.listen();
  void server.serveForever();
  return server;
};

const make = async <Server>(
  Server: new (handler: typeof Upper, options: ServerOptions<unknown>) => Server & Threading,
  handler: typeof Upper,
  options: ServerOptions<unknown> = {},
): Promise<{ server: Server & Threading; told: Told }> => {
  const told = new Told();
  return { server: await up(new Server(handler, { ...options, onEvent: told.on })), told };
};

const LOCAL = address("127.0.0.1");

describe("how many at once", () => {
  test("whenFull refuse: one more than maxRequests is reset at once, and not queued", async () => {
    const { server, told } = await make(Threading, Hold, { maxRequests: 2, whenFull: "refuse" });
    const [a, b] = [await holding(server.from(LOCAL)), await holding(server.from(LOCAL))];
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    expect(told.of("refused")).toMatchObject([{ reason: "full", address: LOCAL }]);
    expect(server.info()).toMatchObject({ running: 2, waiting: 0, refused: 1 });
    await a.close();
    await told.next("end");
    await holding(server.from(LOCAL));
    await b.close();
  });

  test("whenFull refuse, serial: who comes while one is served is turned away", async () => {
    const { server, told } = await make(Serial as never, Hold, { whenFull: "refuse" });
    const first = await holding(server.from(LOCAL));
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    await first.close();
    await told.next("end");
    await holding(server.from(LOCAL));
  });

  test("whenFull refuse counts those that verifyRequest has not judged yet", async () => {
    const judged = Promise.withResolvers<boolean>();
    class Slow extends Threading {
      override verifyRequest() {
        return judged.promise;
      }
    }
    const { server } = await make(Slow, Hold, { maxRequests: 1, whenFull: "refuse" });
    const first = server.from(LOCAL);
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    judged.resolve(true);
    await holding(first);
  });

  test("a queue of 0: nobody waits, and handleRequest() still takes who comes", async () => {
    const server = new Serial(Upper, { requestQueueSize: 0 });
    cleanups.push(() => server.serverClose());
    await server.listen();
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    const handled = server.handleRequest();
    await server.listen();
    const client = server.from(LOCAL);
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    expect(await ask(client, "x")).toBe("X");
    await client.close();
    await handled;
  });

  test("each handleRequest() that waits is given one", async () => {
    const server = new Threading(Upper, { timeout: 60_000 });
    cleanups.push(() => server.serverClose());
    let timeouts = 0;
    server.handleTimeout = () => void timeouts++;
    await server.listen();
    const both = [server.handleRequest(), server.handleRequest()];
    await server.listen();
    const clients = [server.from(LOCAL), server.from(LOCAL)] as const;
    await Promise.all(both);
    expect(await ask(clients[0], "a")).toBe("A");
    expect(await ask(clients[1], "b")).toBe("B");
    expect(timeouts).toBe(0);
    for (const client of clients) await client.close();
  });

  test("maxRequestsPerAddress: others are served while one address has its share; it counts those that wait", async () => {
    const { server, told } = await make(Threading, Hold, { maxRequestsPerAddress: 2, maxRequests: 3 });
    const greedy = [await holding(server.from(LOCAL)), await holding(server.from(LOCAL))] as const;
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    const other = await holding(server.from(address("192.0.2.1")));
    const waiting = [server.from(address("192.0.2.2")), server.from(address("192.0.2.2"))];
    expect(await refused(server.from(address("192.0.2.2")))).toBe("ECONNRESET");
    expect(told.of("refused").map(({ reason }) => reason)).toEqual(["address", "address"]);
    await greedy[0].close();
    await greedy[1].close();
    await Promise.all(waiting.map(holding));
    await other.close();
    await holding(server.from(LOCAL));
  });

  test("an address's share is given back however its request ends: refused, thrown, cut off, or not verified", async () => {
    let verdict: boolean | Error = false;
    class Judge extends Threading {
      override verifyRequest() {
        if (verdict instanceof Error) throw verdict;
        return verdict;
      }
    }
    const Crash = streamHandler(async ({ rfile }) => {
      if ((await rfile.line()) === "crash") throw new Error("as asked");
    });
    const { server } = await make(Judge, Crash, { maxRequestsPerAddress: 1 });
    const end = async (client: StreamSocket): Promise<void> => {
      await client.recv().catch(() => {});
      await client.close();
    };
    await end(server.from(LOCAL)); // turned away by verifyRequest
    verdict = new Error("the judge is ill");
    await end(server.from(LOCAL));
    verdict = true;
    const crash = server.from(LOCAL);
    await crash.sendall("crash\n");
    await end(crash);
    const cut = server.from(LOCAL);
    server.abort();
    await end(cut);
    expect(server.info()).toMatchObject({ running: 0, refused: 1, failed: 2 });
    const last = server.from(LOCAL);
    await last.sendall("bye\n");
    expect(await last.recv()).toBeNull();
  });

  test.each([
    ["an IPv6 network of 64 bits", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"],
    ["IPv4 in both spellings", "192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.2"],
  ])("%s is one address", async (_, one, same, other) => {
    const { server } = await make(Threading, Hold, { maxRequestsPerAddress: 1 });
    await holding(server.from(address(one)));
    expect(await refused(server.from(address(same)))).toBe("ECONNRESET");
    await holding(server.from(address(other)));
  });

  test("those whose address is not known count as one", async () => {
    const { server } = await make(Threading, Hold, { maxRequestsPerAddress: 1 });
    await holding(server.from(null));
    expect(await refused(server.from(null))).toBe("ECONNRESET");
  });
});

describe("who may come", () => {
  test("access: refused before anything is made for it", async () => {
    let made = 0;
    class Counting extends StreamRequestHandler {
      override handle() {
        made++;
        this.wfile.write("holding\n");
      }
    }
    const { server, told } = await make(Threading, Counting, {
      access: { allow: ["10.0.0.0/8", "2001:db8::/32"], deny: ["10.66.0.0/16"] },
    });
    for (const host of ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5"]) {
      await holding(server.from(address(host)));
    }
    for (const host of ["10.66.1.1", "::ffff:10.66.1.1", "192.0.2.1", "2001:db9::1"]) {
      expect(await refused(server.from(address(host)))).toBe("ECONNRESET");
    }
    expect(await refused(server.from(null))).toBe("ECONNRESET");
    expect(made).toBe(3);
    expect(told.of("refused").map(({ reason }) => reason)).toEqual(Array(5).fill("access"));
    expect(server.info().refused).toBe(5);
  });

  test("rate: a burst, then so many a second, for each address by itself", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const { server, told } = await make(Threading, Hold, { rate: { perSecond: 2, burst: 3 } });
    const come = async (host = "192.0.2.1"): Promise<boolean> => {
      const before = told.of("refused").length;
      server.from(address(host));
      return told.of("refused").length === before;
    };
    const some = async (count: number): Promise<number> => {
      let served = 0;
      for (let i = 0; i < count; i++) served += Number(await come());
      return served;
    };
    expect(await some(5)).toBe(3);
    expect(await come("192.0.2.2")).toBe(true);
    vi.advanceTimersByTime(499);
    expect(await come()).toBe(false);
    vi.advanceTimersByTime(1);
    expect(await some(2)).toBe(1);
    vi.advanceTimersByTime(60_000);
    expect(await some(5)).toBe(3); // it fills up to the burst, and no further
    expect(new Set(told.of("refused").map(({ reason }) => reason))).toEqual(new Set(["rate"]));
  });

  test("rate: the addresses that are remembered are bounded; the longest silent is forgotten", async () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const told = new Told();
    const server = new Datagrams(class extends DatagramRequestHandler {}, {
      rate: { perSecond: 1 },
      onEvent: told.on,
    });
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    await server.listen();
    const come = (host: string): boolean => {
      const before = told.of("refused").length;
      server.feed({ data: new Uint8Array(0) } as Datagram, address(host));
      return told.of("refused").length === before;
    };
    expect([come("192.0.2.1"), come("192.0.2.1")]).toEqual([true, false]);
    server.onEvent = undefined;
    for (let i = 0; i < 65_535; i++) {
      server.feed(
        { data: new Uint8Array(0) } as Datagram,
        address(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`),
      );
    }
    server.onEvent = told.on;
    expect(come("192.0.2.1")).toBe(false);
    server.feed({ data: new Uint8Array(0) } as Datagram, address("198.51.100.1"));
    expect(come("192.0.2.1")).toBe(true);
  });

  test("wrong options are said at once", () => {
    const of = (options: object) => () => new Threading(Upper, options);
    expect(of({ access: { allowed: ["10.0.0.0/8"] } })).toThrow(
      /no option access\.allowed; did you mean access\.allow\?/,
    );
    expect(of({ access: { deny: ["10.0.0.1/8"] } })).toThrow(/"10.0.0.0\/8"/);
    expect(of({ access: { allow: ["10.0.0.0/33"] } })).toThrow(/0 to 32/);
    expect(of({ rate: { perSecond: 0 } })).toThrow(RangeError);
    expect(of({ rate: { perSecond: Number.NaN } })).toThrow(RangeError);
    expect(of({ rate: { perSecond: "5" } })).toThrow(TypeError);
    expect(of({ rate: { perSecond: 5, burst: 0 } })).toThrow(RangeError);
    expect(of({ maxRequestsPerAddress: 0 })).toThrow(RangeError);
    expect(of({ whenFull: "drop" })).toThrow(/"wait" or "refuse"/);
    expect(of({ requestTimeout: 0 })).toThrow(RangeError);
    expect(of({ idleTimeout: "1s" })).toThrow(TypeError);
  });
});

describe("how long", () => {
  test("requestTimeout: past it a request is aborted, its signal with the reason, its connection reset", async () => {
    const seen: unknown[] = [];
    const Slow = streamHandler(async ({ signal, rfile }) => {
      signal.addEventListener("abort", () => seen.push(signal.reason.code, signal.reason.message));
      seen.push(await codeOf(rfile.line()));
    });
    const { server, told } = await make(Threading, Slow, { requestTimeout: 20 });
    const client = server.from(LOCAL);
    expect(await refused(client)).toBe("ECONNRESET");
    await told.next("end");
    expect(told.of("timeout")).toMatchObject([
      { id: 1, limit: "requestTimeout", timeout: 20, address: LOCAL },
    ]);
    expect(seen).toEqual(["ETIMEDOUT", expect.stringMatching(/requestTimeout of 20 ms/), "ECONNABORTED"]);
    expect(told.of("stuck")).toEqual([]);
  });

  test.each([
    [{ requestTimeout: 20 }, /ETIMEDOUT: the request took longer than its requestTimeout of 20 ms$/],
    [{ idleTimeout: 20 }, /ETIMEDOUT: the request carried nothing for its idleTimeout of 20 ms$/],
    [{ drainTimeout: 20 }, /^ECONNABORTED: the request did not end within the drain time of 20 ms$/],
  ])("%o: the read that waits, and the error event, say that it was this limit", async (limit, message) => {
    const { server, told } = await make(Threading, Upper, limit);
    server.from(LOCAL);
    await told.next("begin");
    if ("drainTimeout" in limit) await server.drain();
    expect(await told.next("error")).toMatchObject({
      error: { code: "ECONNABORTED", message: expect.stringMatching(message) },
    });
  });

  test("requestTimeout counts in all, however much is carried meanwhile", async () => {
    const { server, told } = await make(Threading, Upper, { requestTimeout: 50 });
    const client = server.from(LOCAL);
    let code: unknown;
    while (code === undefined) {
      await settled(); // memory carries by microtasks alone: no timer fires between them
      code = await ask(client, "x").then(
        () => undefined,
        (error) => error.code,
      );
    }
    expect(code).toMatch(/ECONNRESET|EPIPE/);
    expect(told.of("timeout")).toHaveLength(1);
  });

  test("a request that has not noticed a second after its time-out is told as stuck", async () => {
    const never = new Promise(() => {});
    const { server, told } = await make(
      Threading,
      streamHandler(() => never),
      {
        requestTimeout: 1,
        drainTimeout: 0,
      },
    );
    server.from(LOCAL);
    await told.next("stuck");
    expect(told.all.map(({ type }) => type)).toEqual(["listening", "begin", "timeout", "stuck"]);
  });

  test("idleTimeout: a connection that carries nothing is aborted, one that carries a little is not", async () => {
    const { server, told } = await make(Threading, Upper, { idleTimeout: 60 });
    const [quiet, busy] = [server.from(LOCAL), server.from(LOCAL)];
    let alive = 0;
    let over = false;
    const chatting = (async () => {
      while (!over) {
        await settled();
        expect(await ask(busy, "x")).toBe("X");
        alive++;
      }
    })();
    expect(await refused(quiet)).toBe("ECONNRESET");
    over = true;
    await chatting;
    expect(alive).toBeGreaterThan(0);
    expect(told.of("timeout")).toMatchObject([{ id: 1, limit: "idleTimeout", timeout: 60 }]);
    await busy.close();
  });

  test("a request that ends in time leaves no timer behind", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const before = vi.getTimerCount();
    const { server, told } = await make(Threading, Hold, { requestTimeout: 60_000, idleTimeout: 60_000 });
    const client = await holding(server.from(LOCAL));
    const during = vi.getTimerCount();
    await client.sendall("go\n");
    await told.next("end");
    expect(during).toBeGreaterThan(before);
    await server.drain();
    await client.close();
    expect(vi.getTimerCount()).toBe(before);
  });
});

describe("suspend and resume", () => {
  test("hold: who comes waits, connected and unread, until resume(); what runs goes on", async () => {
    const { server, told } = await make(Threading, Upper, { requestQueueSize: 2 });
    const before = server.from(LOCAL);
    expect(await ask(before, "a")).toBe("A");
    server.suspend("hold");
    const held = [server.from(LOCAL), server.from(LOCAL)] as const;
    await held[0].sendall("b\n");
    await held[1].sendall("c\n");
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET"); // more than may wait
    expect(await ask(before, "d")).toBe("D");
    expect(server.info()).toMatchObject({ suspended: "hold", running: 1, waiting: 2, refused: 1 });
    expect(told.of("begin")).toHaveLength(1);
    server.resume();
    expect(await held[0].rfile.line()).toBe("B");
    expect(await held[1].rfile.line()).toBe("C");
    expect(server.info()).toMatchObject({ suspended: null, running: 3, waiting: 0 });
    expect(told.of("suspended")).toMatchObject([{ how: "hold" }]);
    expect(told.of("resumed")).toMatchObject([{ waiting: 2 }]);
    for (const client of [before, ...held]) await client.close();
  });

  test("refuse: who comes is reset; those that waited before are served", async () => {
    const { server, told } = await make(Serial as never, Upper);
    const first = server.from(LOCAL);
    expect(await ask(first, "a")).toBe("A");
    const waiting = server.from(LOCAL);
    server.suspend("refuse");
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    await first.close();
    expect(await ask(waiting, "b")).toBe("B");
    await waiting.close();
    expect(told.of("refused")).toMatchObject([{ reason: "suspended" }]);
    server.resume();
    server.resume(); // nothing more
    const next = server.from(LOCAL);
    expect(await ask(next, "c")).toBe("C");
    await next.close();
    expect(told.of("resumed")).toHaveLength(1);
  });

  test("from hold to refuse, those held are served", async () => {
    const { server } = await make(Threading, Upper);
    server.suspend("hold");
    const held = server.from(LOCAL);
    server.suspend("refuse");
    expect(await ask(held, "x")).toBe("X");
    expect(() => server.suspend("maybe" as never)).toThrow(/"hold" or "refuse"/);
    await held.close();
  });

  test("handleRequest() waits while it is suspended, and times out", async () => {
    const server = new Serial(Upper, { timeout: 5 });
    cleanups.push(() => server.serverClose());
    let timeouts = 0;
    server.handleTimeout = () => void timeouts++;
    await server.listen();
    server.suspend("hold");
    const client = server.from(LOCAL);
    await server.handleRequest();
    expect(timeouts).toBe(1);
    server.timeout = null;
    const handled = server.handleRequest();
    server.resume();
    expect(await ask(client, "x")).toBe("X");
    await client.close();
    await handled;
  });

  test("a held request is turned away by a close", async () => {
    const { server, told } = await make(Threading, Upper);
    server.suspend("hold");
    const held = server.from(LOCAL);
    await server.serverClose();
    expect(await refused(held)).toBe("ECONNRESET");
    expect(told.of("refused")).toMatchObject([{ reason: "closing" }]);
  });
});

describe("the three steps of an end", () => {
  test("close() accepts no more, drain() lets finish, abort() ends", async () => {
    const { server, told } = await make(Threading, Upper, { maxRequests: 1 });
    const running = server.from(LOCAL);
    expect(await ask(running, "a")).toBe("A");
    const waiting = server.from(LOCAL);

    server.close();
    expect(await refused(waiting)).toBe("ECONNRESET");
    expect(await refused(server.from(LOCAL))).toBe("ECONNRESET");
    expect(server.info()).toMatchObject({ state: "closed", running: 1, waiting: 0, refused: 2 });
    expect(await ask(running, "b")).toBe("B");
    expect(await codeOf(server.listen())).toBe("EBADF");

    const drained = server.drain(60_000);
    expect(await ask(running, "c")).toBe("C");
    server.abort();
    await drained;
    expect(await refused(running)).toBe("ECONNRESET");
    expect(server.info().running).toBe(0);

    await server.serverClose();
    expect(told.all.map(({ type }) => type)).toEqual([
      ...["listening", "begin", "refused", "draining", "refused", "error", "end", "closed"],
    ]);
    expect(told.of("draining")).toMatchObject([{ running: 1, timeout: 10_000 }]); // what serveForever() ends with
    const read = "a\nb\nc\n".length;
    expect(told.of("end")).toMatchObject([{ bytesRead: read, bytesWritten: read, failed: true }]);
    expect(told.of("end")[0]?.duration).toBeGreaterThan(0);
    const counts = { running: 0, served: 1, failed: 1, refused: 2, bytesRead: read, bytesWritten: read };
    expect(told.of("closed")).toMatchObject([counts]);
    expect(told.of("closed")[0]?.duration).toBeGreaterThan(0);
  });

  for (const option of ["blockOnClose", "daemonThreads"] as const) {
    test(`${option}: serverClose() and serveForever() do not wait for what runs, which goes on`, async () => {
      const told = new Told();
      const server = new Threading(Upper, { onEvent: told.on, [option]: option === "daemonThreads" });
      cleanups.push(() => server.abort());
      await server.listen();
      const serving = server.serveForever();
      const client = server.from(LOCAL);
      expect(await ask(client, "a")).toBe("A");
      await server.serverClose();
      await serving;
      expect(told.of("closed")).toMatchObject([{ running: 1, served: 0 }]);
      expect(await ask(client, "b")).toBe("B");
      await client.close();
      await told.next("end");
      expect(told.of("end")).toMatchObject([{ failed: false }]);
    });
  }

  test("a class may say it, as CPython's do", async () => {
    class Daemon extends Threading {
      override daemonThreads = true;
      override requestQueueSize = 0;
    }
    const { server } = await make(Daemon, Upper);
    const client = server.from(LOCAL);
    expect(await ask(client, "a")).toBe("A");
    await server.serverClose();
    expect(server.info()).toMatchObject({ running: 1, state: "closed" });
    await client.close();
  });

  test("who asks to drain sooner is heard, also while it drains", async () => {
    const { server, told } = await make(Threading, Upper, { drainTimeout: 600_000 });
    const client = server.from(LOCAL);
    expect(await ask(client, "a")).toBe("A");
    const closing = server.serverClose();
    await Promise.all([server.drain(700_000), server.drain(5)]);
    expect(await refused(client)).toBe("ECONNRESET");
    await closing;
    expect(told.of("draining")).toHaveLength(1);
    await server.drain(); // nothing runs: at once
    expect(() => server.drain(-1)).toThrow(RangeError);
  });

  test("a server that is closed while it binds says so, and lets go", async () => {
    const bound = Promise.withResolvers<void>();
    const calls: string[] = [];
    class SlowBind extends Threading {
      override serverBind() {
        return bound.promise;
      }
      protected override stopListening() {
        calls.push("stopListening");
      }
      protected override letGo() {
        calls.push("letGo");
      }
    }
    const server = new SlowBind(Upper);
    const listening = codeOf(server.listen());
    await server.serverClose();
    bound.resolve();
    expect(await listening).toBe("ECANCELED");
    expect(calls).toEqual(["stopListening", "letGo", "stopListening", "letGo"]);
  });
});

describe("handlers", () => {
  test("the class may be replaced while requests run: those keep theirs", async () => {
    const { server } = await make(Threading, Upper);
    const old = server.from(LOCAL);
    expect(await ask(old, "a")).toBe("A");
    server.RequestHandlerClass = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(`new ${line}\n`);
    });
    const young = server.from(LOCAL);
    expect(await ask(young, "b")).toBe("new b");
    expect(await ask(old, "c")).toBe("C");
    await old.close();
    await young.close();
  });

  for (const sync of [true, false]) {
    test(`a setup that forgets super.setup() is told so where that loses its timeout (${sync ? "sync" : "async"})`, async () => {
      class Forgetful extends StreamRequestHandler {
        override readonly timeout: number | null | undefined = 1000;
        override setup() {
          return sync ? undefined : Promise.resolve();
        }
        override handle() {
          this.wfile.write("handled");
        }
      }
      class Without extends Forgetful {
        override readonly timeout = undefined;
      }
      class Remembers extends Forgetful {
        override async setup() {
          await super.setup();
          return StreamRequestHandler.prototype.setup.call(this);
        }
        override handle() {
          this.wfile.write(`${this.request.gettimeout()}`);
        }
      }
      const { server, told } = await make(Threading, Forgetful);
      const client = server.from(LOCAL);
      expect(await client.rfile.read()).toBeNull();
      expect(told.of("error")).toMatchObject([
        {
          error: {
            name: "TypeError",
            message: expect.stringMatching(/^Forgetful\.setup\(\).*super\.setup\(\)/),
          },
        },
      ]);
      for (const [Handler, says] of [
        [Without, "handled"],
        [Remembers, "1000"],
      ] as const) {
        server.RequestHandlerClass = Handler;
        const text = new TextDecoder().decode((await server.from(LOCAL).rfile.read()) ?? new Uint8Array(0));
        expect(text).toBe(says);
      }
    });
  }

  test("serviceActions() that throws is told, and the server goes on", async () => {
    class Broken extends Threading {
      override serviceActions() {
        throw new Error("out of service");
      }
    }
    const { server, told } = await make(Broken, Upper);
    for (const line of ["a", "b"]) {
      const client = server.from(LOCAL);
      expect(await ask(client, line)).toBe(line.toUpperCase());
      await client.close();
    }
    expect(told.of("error")).toMatchObject([
      { error: { message: "out of service" } },
      { error: { message: "out of service" } },
    ]);
  });
});

describe("datagrams", () => {
  test("their bytes are counted, both ways", async () => {
    const told = new Told();
    class Twice extends BaseRequestHandler<Datagram> {
      override handle() {
        this.request.reply(this.request.data);
        this.request.reply("ok");
      }
    }
    const server = new MemoryDatagramServer(Twice, { onEvent: told.on });
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    const client = server.network.socket();
    await client.sendto("hello", server.serverAddress);
    await client.recvfrom();
    await client.recvfrom();
    await told.next("end");
    expect(told.of("end")).toMatchObject([{ bytesRead: 5, bytesWritten: 7 }]);
    expect(server.info()).toMatchObject({ bytesRead: 5, bytesWritten: 7 });
    await client.close();
  });

  test("a handler that does not wait costs no promise, and is done before the next line of code", async () => {
    const order: string[] = [];
    class Sync extends BaseRequestHandler<Datagram> {
      override handle() {
        order.push("handle");
      }
    }
    const server = new Datagrams(Sync);
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    await server.listen();
    let promises = 0;
    const hook = createHook({
      init: (_, type) => {
        if (type === "PROMISE") promises++;
      },
    });
    hook.enable();
    try {
      for (let i = 0; i < 100; i++) server.feed({ data: new Uint8Array(1) } as Datagram);
      order.push("after");
    } finally {
      hook.disable();
    }
    expect(promises).toBe(0);
    expect(order).toEqual([...Array(100).fill("handle"), "after"]);
    expect(server.info()).toMatchObject({ served: 100, running: 0 });
  });

  test("a request that is over keeps its own number, signal and reports, whatever comes after it", async () => {
    const told = new Told();
    const signals: AbortSignal[] = [];
    const late: (() => void)[] = [];
    const { promise: failing, reject } = Promise.withResolvers<never>();
    class Each extends BaseRequestHandler<Datagram> {
      override handle() {
        const what = this.request.data[0];
        if (what === 1) this.emit(what);
        if (what === 2) signals.push(this.signal);
        if (what === 3) late.push(() => this.emit("late"));
        if (what === 4) throw failing; // it is reported once more, when it rejects
        if (what === 5) server.abort();
      }
    }
    const server = new Datagrams(Each, { onEvent: told.on });
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    await server.listen();
    const kinds = [0, 1, 0, 2, 2, 3, 0, 4, 0, 5, 0, 2];
    for (const [i, what] of kinds.entries()) {
      server.feed(new FakeDatagram(what), address(`192.0.2.${i + 1}`));
    }
    reject(new Error("later"));
    const hosts = (events: readonly { readonly id?: number; readonly address: Address | null }[]) =>
      events.map(({ id, address }) => [id, (address as InternetAddress).hostname]);
    const all = kinds.map((_, i) => [i + 1, `192.0.2.${i + 1}`]);
    expect(hosts(told.of("begin"))).toEqual(all);
    expect(hosts(told.of("end"))).toEqual(all);
    expect(hosts(told.of("handler"))).toEqual([[2, "192.0.2.2"]]);
    expect(new Set(signals).size).toBe(3);
    expect(signals.map(({ aborted }) => aborted)).toEqual([false, false, false]);
    expect(late[0]).toThrow(expect.objectContaining({ code: "EINVAL" }));
    await told.next("error", 2);
    expect(hosts(told.of("error"))).toEqual([
      [8, "192.0.2.8"],
      [8, "192.0.2.8"],
    ]);
    for (const { duration } of told.of("end")) expect(duration).toBeGreaterThanOrEqual(0);
  });

  test("a listener of `end` may bring the next request, whose record is its own", async () => {
    const told = new Told();
    const server = new Datagrams(class extends BaseRequestHandler<Datagram> {}, {
      maxRequestsPerAddress: 1,
      onEvent: (event) => {
        told.on(event);
        if (event.type === "end" && event.id < 5) {
          server.feed(new FakeDatagram(0), address(`192.0.2.${event.id + 1}`));
        }
      },
    });
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    await server.listen();
    server.feed(new FakeDatagram(0), address("192.0.2.1"));
    await told.next("end", 5);
    expect(told.of("end").map(({ id, address }) => [id, (address as InternetAddress).hostname])).toEqual(
      [1, 2, 3, 4, 5].map((id) => [id, `192.0.2.${id}`]),
    );
    // Each has left under its own address: all may come again.
    server.onEvent = told.on;
    for (let i = 1; i <= 5; i++) server.feed(new FakeDatagram(0), address(`192.0.2.${i}`));
    expect(told.of("refused")).toEqual([]);
    expect(server.info()).toMatchObject({ served: 10, running: 0 });
  });

  test("hold keeps datagrams, too, as many as may wait", async () => {
    const server = new Datagrams(class extends DatagramRequestHandler {}, { requestQueueSize: 3 });
    cleanups.push(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    await server.listen();
    server.suspend("hold");
    for (let i = 0; i < 5; i++) server.feed({ data: new Uint8Array(i) } as Datagram);
    expect(server.info()).toMatchObject({ waiting: 3, refused: 2, served: 0 });
    server.resume();
    expect(server.info()).toMatchObject({ waiting: 0, served: 3 });
  });
});
