import {
  type Address,
  AF_INET,
  type SockletEvent,
  type StreamOptions,
  StreamSocket,
  type StreamTransport,
  streamHandler,
} from "socklet";
import {
  conversation,
  FaultsMixIn,
  faultyHandler,
  MemoryDatagramServer,
  type MemoryDatagramSocket,
  MemoryServer,
  memoryPair,
  runScript,
  type StreamFaults,
  VirtualClock,
  withFaults,
} from "socklet/testing";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { type DatagramSink, DatagramSocket, type DatagramTransport } from "../../core/sockets/datagram.ts";
import { chanceOf, runAfter } from "../../core/testing/clock.ts";
import { EchoDatagram } from "../../examples/echo.ts";

const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);
const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "no error",
    (error) => error.code ?? error,
  );

/** A client, and the faulty end that it talks to. */
const faultyPair = (
  faults: StreamFaults,
  options: Partial<StreamOptions> = {},
): [client: StreamSocket, faulty: StreamSocket] => {
  const [client, request] = memoryPair();
  return [client, withFaults(request, faults, options)];
};

/** A clock that stands still: `planned` are the timers that would keep a process alive. */
class Stopped {
  readonly planned = new Set<() => void>();
  now(): number {
    return 0;
  }
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve));
  }
  after(_ms: number, task: () => void): () => void {
    this.planned.add(task);
    return () => void this.planned.delete(task);
  }
  /** All that is planned is due now. */
  ring(): void {
    for (const task of [...this.planned]) {
      this.planned.delete(task);
      task();
    }
  }
}

/** What comes, piece by piece, and how it ends. */
const piecesOf = async (socket: StreamSocket): Promise<(string | null)[]> => {
  const pieces: (string | null)[] = [];
  try {
    for (;;) {
      const bytes = await socket.recv();
      pieces.push(text(bytes));
      if (bytes === null) return pieces;
    }
  } catch (error) {
    return [...pieces, (error as { code: string }).code];
  }
};

describe("VirtualClock", () => {
  test("jumps to what comes next, in order, and of one moment in the order in which it was asked for", async () => {
    const clock = new VirtualClock();
    const seen: string[] = [];
    const note = (what: string) => () => void seen.push(`${what} ${clock.now()}`);
    clock.after(3_600_000, note("hour"));
    clock.after(10, note("b"));
    clock.after(5, note("a"));
    clock.after(10, note("c"));
    const cancel = clock.after(7, note("never"));
    expect(clock.pending).toBe(5);
    cancel();
    await clock.sleep(3_600_001);
    expect(seen).toEqual(["a 5", "b 10", "c 10", "hour 3600000"]);
    expect([clock.now(), clock.pending]).toEqual([3_600_001, 0]);
    expect(() => clock.after(-1, () => {})).toThrow(RangeError);
  });

  test("stands still while anything is done, also what leaves at the end of its turn", async () => {
    const clock = new VirtualClock();
    const [a, b] = memoryPair();
    const told: unknown[] = [];
    const reading = b.recv().then((bytes) => told.push([text(bytes), clock.now()]));
    clock.after(50, () => told.push(clock.now()));
    clock.after(1, () => a.wfile.write("gathered")); // and not flushed: it leaves a timer's turn later
    await clock.sleep(100);
    await reading;
    expect(told).toEqual([["gathered", 1], 50]);
  });

  test("installed, it is the platform's timers, and gives them back", async () => {
    const own = [
      setTimeout,
      setInterval,
      setImmediate,
      clearTimeout,
      clearInterval,
      clearImmediate,
      performance.now,
    ];
    const seen: unknown[] = [];
    {
      using clock = new VirtualClock().install();
      expect(() => clock.install()).toThrow(TypeError);
      const interval = setInterval((word: string) => seen.push([word, performance.now()]), 40, "tick");
      const timeout = setTimeout(() => seen.push("never"), 10);
      clearTimeout(timeout);
      clearTimeout(Number(setTimeout(() => seen.push("never"), 10)));
      setTimeout(() => seen.push("never"), 10).close();
      setImmediate(() => seen.push("at once"));
      setTimeout(() => seen.push("first"), 30)
        .unref()
        .ref()
        .refresh();
      await new Promise((resolve) => setTimeout(resolve, 100));
      clearInterval(interval);
      clearTimeout(undefined);
      expect(clock.pending).toBe(0);
    }
    expect(seen).toEqual(["at once", "first", ["tick", 40], ["tick", 80]]);
    expect([
      setTimeout,
      setInterval,
      setImmediate,
      clearTimeout,
      clearInterval,
      clearImmediate,
      performance.now,
    ]).toEqual(own);
  });

  test("two of them end in any order: the other goes on, and then the platform's timers stand there again", async () => {
    const own = [setTimeout, clearTimeout, performance.now];
    const later = (): Promise<number> =>
      new Promise((resolve) => setTimeout(() => resolve(performance.now()), 3_600_000));
    const first = new VirtualClock().install();
    const never = setTimeout(() => expect.unreachable(), 1);
    const second = new VirtualClock().install();
    const hour = later();
    clearTimeout(never);
    expect(await hour).toBe(3_600_000);
    expect([first.now(), second.now()]).toEqual([0, 3_600_000]);
    first[Symbol.dispose]();
    expect(await later()).toBe(7_200_000);
    second[Symbol.dispose]();
    expect([setTimeout, clearTimeout, performance.now]).toEqual(own);
  });

  test("five minutes of a read take no time", async () => {
    using _ = new VirtualClock().install();
    const [client] = memoryPair();
    await expect(client.recv()).rejects.toThrow("ETIMEDOUT: nothing came from the peer for 300000 ms");
  });

  test("disposed of, it drops what waits", async () => {
    const clock = new VirtualClock();
    const never = vi.fn();
    clock.after(1, never);
    clock[Symbol.dispose]();
    await clock.sleep(10);
    expect(never).not.toHaveBeenCalled();
  });
});

test("chance is the same for a seed, another for another, and fills its range", () => {
  const draw = (seed: number): number[] => Array.from({ length: 10_000 }, chanceOf(seed));
  expect(draw(1)).toEqual(draw(1));
  expect(draw(1)).not.toEqual(draw(2));
  for (const seed of [0, 1, 2, 2 ** 31]) {
    const all = draw(seed);
    const mean = all.reduce((sum, one) => sum + one, 0) / all.length;
    expect(mean).toBeGreaterThan(0.48);
    expect(mean).toBeLessThan(0.52);
    expect(Math.min(...all)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...all)).toBeLessThan(1);
  }
});

describe("time", () => {
  let clock: VirtualClock;
  beforeEach(() => {
    clock = new VirtualClock();
  });

  test("latency: each way takes its own, and many pieces no longer than one", async () => {
    const [client, faulty] = faultyPair({ clock, incoming: { latency: 1000 }, outgoing: { latency: 500 } });
    const echoing = (async () => {
      for await (const bytes of faulty) await faulty.sendall(bytes);
      await faulty.close();
    })();
    for (let i = 0; i < 20; i++) await client.sendall("x");
    expect(text(await client.rfile.readexactly(20))).toBe("x".repeat(20));
    expect(clock.now()).toBe(1500);
    await client.shutdown(1);
    expect(await client.recv()).toBe(null);
    expect(clock.now()).toBe(3000);
    await echoing;
  });

  test("jitter: later by chance, in order, and the same for the same seed", async () => {
    const times = async (seed: number): Promise<number[]> => {
      const clock = new VirtualClock();
      const [client, faulty] = faultyPair({ clock, seed, incoming: { latency: 10, jitter: 90 } });
      const at: number[] = [];
      const reading = (async () => {
        for (let i = 0; i < 8; i++) {
          expect(text(await faulty.recv())).toBe(`${i}`);
          at.push(clock.now());
        }
      })();
      for (let i = 0; i < 8; i++) {
        await client.sendall(`${i}`);
        await clock.sleep(5);
      }
      await reading;
      return at;
    };
    const one = await times(1);
    expect(one).toEqual([...one].sort((a, b) => a - b));
    expect(one[0]).toBeGreaterThanOrEqual(10);
    expect(one.at(-1)).toBeLessThanOrEqual(36 + 100);
    expect(await times(1)).toEqual(one);
    expect(await times(2)).not.toEqual(one);
  });

  test("a time-out is shorter than the way: by the installed clock", async () => {
    using clock = new VirtualClock().install();
    const [client, faulty] = faultyPair({ clock, outgoing: { latency: 2_000 } });
    client.settimeout(1_000);
    await faulty.sendall("late");
    expect(await codeOf(client.recv())).toBe("ETIMEDOUT");
    expect(text(await client.recv())).toBe("late");
  });
});

describe("slices", () => {
  test("single bytes, also of a character", async () => {
    const [client, faulty] = faultyPair({ incoming: { slice: 1 } });
    await client.sendall("aö");
    await client.shutdown(1);
    expect(await piecesOf(faulty)).toEqual(["a", "\ufffd", "\ufffd", null]);
  });

  test("by chance, at the same places however the bytes were sent", async () => {
    const all = "abcdefghijklmnopqrstuvwxyz".repeat(3);
    const cutsOf = async (seed: number, parts: readonly string[]): Promise<number[]> => {
      const [client, faulty] = faultyPair({ seed, incoming: { slice: 7 } });
      for (const part of parts) await client.sendall(part);
      await client.shutdown(1);
      let at = 0;
      const pieces = (await piecesOf(faulty)).slice(0, -1) as string[];
      expect(pieces.join("")).toBe(all);
      return pieces.map((piece) => (at += piece.length));
    };
    const one = await cutsOf(1, [all]);
    expect(one.length).toBeGreaterThan(all.length / 7);
    expect(await cutsOf(1, [all])).toEqual(one);
    expect(await cutsOf(2, [all])).not.toEqual(one);
    // What the sender cut is cut there, too, and else nothing changes.
    const again = await cutsOf(1, [all.slice(0, 20), all.slice(20)]);
    expect(again.filter((at) => at !== 20)).toEqual(one.filter((at) => at !== 20));
  });

  test("outgoing, and with text", async () => {
    const [client, faulty] = faultyPair({ outgoing: { slice: 2 } });
    faulty.wfile.write("hello");
    const closing = faulty.close();
    const pieces = await piecesOf(client);
    expect(pieces.join("")).toBe("hello");
    expect(pieces.length).toBeGreaterThan(3);
    await closing;
  });
});

describe("limits", () => {
  test.each([0, 1, 5])("the end comes after %d bytes, and the rest is lost", async (endAfter) => {
    const [client, faulty] = faultyPair({ incoming: { endAfter } });
    await client.sendall("hello, world");
    expect((await piecesOf(faulty)).join("")).toBe("hello, world".slice(0, endAfter));
    await faulty.sendall("still heard");
    expect(text(await client.recv())).toBe("still heard");
    await client.sendall(new Uint8Array(300_000)); // taken and lost: who sends it does not hang
    await faulty.close();
    expect(await client.recv()).toBe(null);
  });

  test("the end comes in the midst of what is sent", async () => {
    const [client, faulty] = faultyPair({ outgoing: { endAfter: 5, latency: 2 } });
    expect(await faulty.send("hello, world")).toBe(12);
    expect((await piecesOf(client)).join("")).toBe("hello");
    await client.sendall("still heard");
    expect(text(await faulty.recv())).toBe("still heard");
    await faulty.close();
  });

  test.each([0, 1, 5])("incoming, a reset after %d bytes: both ends hear it", async (resetAfter) => {
    const [client, faulty] = faultyPair({ incoming: { resetAfter } });
    const sending = client.sendall("hello, world");
    expect((await piecesOf(faulty)).join("")).toBe(`${"hello, world".slice(0, resetAfter)}ECONNRESET`);
    expect(await codeOf(faulty.sendall("x"))).toBe("ECONNRESET");
    await sending.catch(() => {});
    expect(await codeOf(client.recv())).toBe("ECONNRESET");
    await faulty.close();
  });

  test.each([0, 1, 5])("outgoing, a reset after %d bytes: both ends hear it", async (resetAfter) => {
    const [client, faulty] = faultyPair({ outgoing: { resetAfter } });
    await faulty.sendall("hello, world").catch(() => {});
    expect(await codeOf(faulty.recv())).toBe("ECONNRESET");
    expect(await codeOf(client.rfile.read())).toBe("ECONNRESET");
    await client.close();
  });

  test("a real reset is heard behind an end that was made", async () => {
    const [client, faulty] = faultyPair({ incoming: { endAfter: 2 } });
    await client.sendall("abc");
    expect(await piecesOf(faulty)).toEqual(["ab", null]);
    client.abort();
    const told = Promise.withResolvers<void>();
    faulty.wfile.onWritable(told.resolve);
    await told.promise;
    expect(await codeOf(faulty.sendall("x"))).toBe("ECONNRESET");
  });

  test("a reset is heard though nobody reads: what is written fails, and what had come is still read", async () => {
    const [client, faulty] = faultyPair({ incoming: { resetAfter: 3 } });
    await client.sendall("abc");
    expect(text(await faulty.recv(1))).toBe("a");
    expect(await codeOf(client.recv())).toBe("ECONNRESET");
    expect(await codeOf(faulty.sendall("x"))).toBe("ECONNRESET");
    expect(await piecesOf(faulty)).toEqual(["bc", "ECONNRESET"]);
  });

  test("silence: what is sent is lost, and nobody is told", async () => {
    using clock = new VirtualClock().install();
    const silent = { silentAfter: 3 };
    const [client, faulty] = faultyPair({ clock, incoming: silent, outgoing: silent });
    await client.sendall("hello");
    await faulty.sendall("hello");
    expect([text(await client.recv()), text(await faulty.recv())]).toEqual(["hel", "hel"]);
    client.settimeout(60_000);
    faulty.settimeout(60_000);
    await client.sendall(new Uint8Array(300_000));
    await faulty.sendall(new Uint8Array(300_000));
    expect(await Promise.all([codeOf(client.recv()), codeOf(faulty.recv())])).toEqual([
      "ETIMEDOUT",
      "ETIMEDOUT",
    ]);
    await client.shutdown(1);
    expect(await codeOf(faulty.recv())).toBe("ETIMEDOUT"); // the end is lost, too
    await faulty.close();
    expect(await codeOf(client.recv())).toBe("ECONNRESET"); // as from a machine that was started anew
  });

  test("a stalled reader: there is no room, and a close gives up at its deadline", async () => {
    const [client, faulty] = faultyPair({ outgoing: { stallAfter: 10 } }, { closeTimeout: 50 });
    faulty.settimeout(20);
    expect(await codeOf(faulty.sendall("hello, world"))).toBe("ETIMEDOUT");
    expect(text(await client.recv())).toBe("hello, wor");
    expect(faulty.wfile.blocked).toBe(true);
    await faulty.close();
    expect(await codeOf(client.recv())).toBe("ECONNRESET");
  });

  test("what is not taken holds up its sender", async () => {
    const [client, faulty] = faultyPair({ incoming: { stallAfter: 10 } });
    client.settimeout(20);
    faulty.settimeout(20);
    const reading = codeOf(faulty.rfile.read(12));
    const sending = (async () => {
      for (;;) await client.sendall(new Uint8Array(16_384));
    })();
    expect(await codeOf(sending)).toBe("ETIMEDOUT");
    expect(await reading).toBe("ETIMEDOUT");
    expect(faulty.rfile.buffered).toBe(10);
  });
});

describe("a faulty stream", () => {
  test("has the addresses, limits and time-outs of the stream", async () => {
    const [client, request] = memoryPair({ timeout: 7_000, maxLine: 100, maxRead: 200, maxPending: 300 });
    request.setblocking(false);
    const faulty = withFaults(request, {});
    expect([faulty.getpeername(), faulty.getsockname()]).toEqual([
      client.getsockname(),
      client.getpeername(),
    ]);
    expect([faulty.rfile.maxLine, faulty.rfile.maxRead, faulty.wfile.maxPending]).toEqual([100, 200, 300]);
    expect([faulty.gettimeout(), request.gettimeout()]).toEqual([0, null]);
    expect(withFaults(client, {}).gettimeout()).toBe(7_000);
    expect(withFaults(memoryPair()[0], {}, { timeout: 5 }).gettimeout()).toBe(5);
    expect(faulty.capabilities).toEqual({ reset: true, peername: true });
  });

  test("goes on with what was read ahead, and can be handed over", async () => {
    const [client, request] = memoryPair();
    await client.sendall("one\ntwo\n");
    expect(await request.rfile.line()).toBe("one");
    const faulty = withFaults(request, { incoming: { slice: 1 } });
    expect(await faulty.rfile.line()).toBe("two");
    const { readable, writable } = faulty.toWeb();
    const piping = readable.pipeTo(writable);
    await client.sendall("three");
    await client.shutdown(1);
    expect(text(await client.rfile.read())).toBe("three");
    await piping;
  });

  test("is not secured in its midst; a transport's may be", async () => {
    const faulty = withFaults(memoryPair()[0], {});
    await expect(faulty.startTls()).rejects.toThrow(/ERR_UNSUPPORTED: .*secure the stream first/);

    const log: string[] = [];
    const wire = (name: string, secured?: StreamTransport): StreamTransport => ({
      localAddress: null,
      remoteAddress: null,
      capabilities: { reset: false, peername: false },
      start: () => void log.push(`${name} starts`),
      resume() {},
      pause() {},
      write: (data) => void log.push(`${name} ${data.length}`),
      unsent: 0,
      end: async () => {},
      close() {},
      abort() {},
      defer: queueMicrotask,
      ...(secured && { startTls: async () => secured }),
    });
    const socket = new StreamSocket(withFaults(wire("plain", wire("secured")), { outgoing: { latency: 1 } }));
    await socket.sendall("go on");
    await socket.startTls();
    await socket.sendall("hidden");
    await socket.close();
    expect(log).toEqual(["plain starts", "plain 5", "secured starts", "secured 6"]);
  });

  test.each([
    [{ latency: 1 }, /faults has no option latency; did you mean incoming\.latency or outgoing\.latency\?/],
    [
      { incoming: { loss: 1 } },
      /no option incoming\.loss \(it is an option of one direction of datagrams\); it has incoming\.latency/,
    ],
    [{ incoming: { latency: -1 } }, RangeError],
    [{ outgoing: { jitter: "1" } }, TypeError],
    [{ outgoing: { slice: 0 } }, RangeError],
    [{ outgoing: { endAfter: 1.5 } }, /outgoing.endAfter must be a whole number/],
    [{ incoming: { endAfter: 1, resetAfter: 2 } }, /incoming has endAfter and resetAfter; only one/],
  ])("of %j is refused", (faults, wrong) => {
    expect(() => withFaults(memoryPair()[0], faults as never)).toThrow(wrong as RegExp);
  });
});

describe("FaultsMixIn", () => {
  test("a server's connections: each has its own chance, and the same each time; so has a handler's", async () => {
    const Pieces = streamHandler(async ({ request, wfile }) => {
      const sizes: number[] = [];
      for await (const bytes of request) sizes.push(bytes.length);
      wfile.write(sizes.join(" "));
    });
    const faults = { incoming: { slice: 5 } };
    class Cutting extends FaultsMixIn(MemoryServer, faults) {}
    const seen = async (server: MemoryServer): Promise<(string | null)[]> => {
      await using _ = server;
      void server.serveForever();
      const answers: (string | null)[] = [];
      for (let i = 0; i < 2; i++) {
        await using client = server.connect();
        await client.sendall("x".repeat(40));
        await client.shutdown(1);
        answers.push(text(await client.rfile.read()));
      }
      return answers;
    };
    const [first, second] = await seen(new Cutting(Pieces));
    expect(first).not.toBe(second);
    class Again extends FaultsMixIn(MemoryServer, faults) {}
    expect(await seen(new Again(Pieces))).toEqual([first, second]);
    expect(await seen(new MemoryServer(faultyHandler(Pieces, faults)))).toEqual([first, second]);
  });

  test("a faulty handler is the handler, with what it is given, tells and returns", async () => {
    const told: unknown[] = [];
    const Tells = streamHandler<{ readonly name: string }>(async (handler) => {
      handler.emit(await handler.rfile.line());
      handler.wfile.write(`${handler.context.name}\n`);
      return handler.params;
    });
    const Faulty = faultyHandler(Tells, { incoming: { slice: 1 }, outgoing: { endAfter: 2 } });
    expect(Faulty.name).toBe(Tells.name);
    await using server = new MemoryServer(Faulty, {
      context: { name: "far" },
      onEvent: (event) => event.type === "handler" && told.push(event.detail),
    });
    void server.serveForever();
    await using client = server.connect();
    await client.sendall("hello\n");
    expect(await piecesOf(client)).toEqual(["fa", null]);
    expect(told).toEqual(["hello"]);
    const dialled = conversation().send("hello\n").expect("me").expectEnd();
    const { result } = await runScript(Faulty, dialled, { context: () => ({ name: "me" }), params: 7 });
    expect(result).toBe(7);
    expect(() => faultyHandler((() => {}) as never, {})).toThrow(/a handler is a class/);
    expect(() => withFaults("x" as never, {})).toThrow(
      /takes a connection \(a StreamSocket\) or a transport/,
    );
    expect(() => faultyHandler(Tells, { incoming: { slice: 0 } })).toThrow(RangeError);
  });

  /** Sends 200 numbers one after the other, and returns those that come back. */
  const numbers = async (
    client: MemoryDatagramSocket,
    server: MemoryDatagramServer,
    clock: VirtualClock,
  ): Promise<number[]> => {
    const back: number[] = [];
    client.ondatagram = ({ data }) => back.push(data[0] as number);
    for (let i = 0; i < 200; i++) {
      await client.sendto(Uint8Array.of(i), server.serverAddress);
      await Promise.resolve(); // one after the other, as from one peer
      await Promise.resolve();
    }
    await clock.sleep(10_000);
    return back;
  };

  const through = async (
    ...faults: Parameters<typeof FaultsMixIn<typeof MemoryDatagramServer>>[1][]
  ): Promise<number[]> => {
    class Faulty extends FaultsMixIn(MemoryDatagramServer, faults[0] ?? {}) {}
    await using server = new Faulty(EchoDatagram);
    void server.serveForever();
    await server.listen();
    const clock = faults[0]?.clock as VirtualClock;
    return await numbers(server.network.socket(), server, clock);
  };
  const all = Array.from({ length: 200 }, (_, i) => i);
  const sorted = (of: readonly number[]): number[] => [...of].sort((a, b) => a - b);

  test("datagrams are lost", async () => {
    const clock = new VirtualClock();
    const back = await through({ clock, incoming: { loss: 0.2 }, outgoing: { loss: 0.1 } });
    expect(back.length).toBeGreaterThan(110);
    expect(back.length).toBeLessThan(175);
    expect(back).toEqual(sorted([...new Set(back)]));
    expect(
      await through({ clock: new VirtualClock(), incoming: { loss: 0.2 }, outgoing: { loss: 0.1 } }),
    ).toEqual(back);
    expect(await through({ clock, incoming: { loss: 1 } })).toEqual([]);
  });

  test("datagrams come twice", async () => {
    const back = await through({ clock: new VirtualClock(), incoming: { duplicates: 0.3 } });
    expect(sorted([...new Set(back)])).toEqual(all);
    expect(back.length).toBeGreaterThan(230);
    expect(back.length).toBeLessThan(290);
    expect(await through({ clock: new VirtualClock(), outgoing: { duplicates: 1 } })).toHaveLength(400);
  });

  test("datagrams overtake one another, and none is lost for it", async () => {
    const back = await through({ clock: new VirtualClock(), incoming: { reorder: 0.2 } });
    expect(sorted(back)).toEqual(all);
    const overtaken = back.filter((number, i) => number < (back[i - 1] ?? 0)).length;
    expect(overtaken).toBeGreaterThan(15);
    expect(sorted(await through({ clock: new VirtualClock(), incoming: { reorder: 1 } }))).toEqual(all);
  });

  test("datagrams are late, each by its own time", async () => {
    const clock = new VirtualClock();
    const back = await through({ clock, incoming: { latency: 100, jitter: 400 } });
    expect(sorted(back)).toEqual(all);
    expect(back).not.toEqual(all);
  });

  test.for([
    ["a rate", { incoming: { rate: 1000 } }, 60_000, 17], // 1 MiB / (60 000 + 256)
    ["a latency", { incoming: { latency: 1000 } }, 60_000, 17],
    ["a latency of replies", { outgoing: { latency: 1000 } }, 60_000, 17],
    ["a jitter", { incoming: { jitter: 1000 } }, 60_000, 17],
    ["reordering", { incoming: { reorder: 1 } }, 60_000, 17],
    ["a latency of small ones", { incoming: { latency: 1000 } }, 1000, 834],
  ] as const)(
    "at most 1 MiB of datagrams waits for %s, and what is lost is told",
    async ([, faults, size, most]) => {
      const clock = new VirtualClock();
      const told: SockletEvent[] = [];
      class Faulty extends FaultsMixIn(MemoryDatagramServer, { clock, ...faults }) {}
      await using server = new Faulty(EchoDatagram, { onEvent: (event) => told.push(event) });
      void server.serveForever();
      await server.listen();
      const client = server.network.socket();
      const back: number[] = [];
      client.ondatagram = ({ data }) => back.push(data.length);
      const send = async (): Promise<void> => {
        client.post(new Uint8Array(size), server.serverAddress);
        for (let i = 0; i < 4; i++) await Promise.resolve(); // until it is answered, where replies are late
      };
      const lost = 3;
      for (let i = 0; i < most + lost; i++) await send();
      const drops = () => told.filter((event) => event.type === "dropped");
      expect(drops()).toEqual(
        Array.from({ length: lost }, () =>
          expect.objectContaining({ bytes: size, reason: "full", address: client.getsockname() }),
        ),
      );
      await clock.sleep(10_000_000);
      expect(back).toEqual(Array.from({ length: most }, () => size));
      await send(); // there is room again
      await clock.sleep(10_000_000);
      expect(back).toHaveLength(most + 1);
      expect(drops()).toHaveLength(lost);
    },
  );

  test("of faults that cannot be is refused at once", () => {
    expect(() => FaultsMixIn(MemoryDatagramServer, { incoming: { loss: 2 } })).toThrow(
      /incoming.loss is a number from 0 \(never\) to 1/,
    );
    expect(() => FaultsMixIn(MemoryDatagramServer, { outgoing: { loss: 1, slice: 1 } } as never)).toThrow(
      /no option outgoing\.slice \(it is an option of one direction of a stream\); it has outgoing\.loss/,
    );
    expect(() => FaultsMixIn(MemoryServer, { incoming: { slice: 0 } })).toThrow(RangeError);
  });
});

describe("a faulty transport of datagrams", () => {
  /** Two ends that hear each other. */
  const wires = (): [DatagramTransport, DatagramTransport] => {
    const address = (port: number): Address => ({ family: "IPv4", hostname: "127.0.0.1", port });
    const sinks: (DatagramSink | undefined)[] = [];
    const wire = (index: number): DatagramTransport => ({
      localAddress: address(index + 1),
      start: (sink) => {
        sinks[index] = sink;
      },
      bind: async () => {},
      resolve: async ({ port }: never) => address(port),
      send: async (bytes) => sinks[1 - index]?.message(bytes, address(index + 1)),
      close() {},
    });
    return [wire(0), wire(1)];
  };

  test("loses, doubles and delays what is sent, and what is received", async () => {
    const clock = new VirtualClock();
    const [here, there] = wires();
    const faulty = new DatagramSocket(
      withFaults(here, { clock, outgoing: { loss: 0.5 }, incoming: { duplicates: 1, latency: 100 } }),
      AF_INET,
    );
    const plain = new DatagramSocket(there, AF_INET);
    await faulty.bind("127.0.0.1:1");
    await faulty.connect("127.0.0.1:2");
    const heard: string[] = [];
    void (async () => {
      for await (const [bytes] of plain) heard.push(text(bytes) as string);
    })();
    for (const word of "abcdefghij") expect(await faulty.send(word)).toBe(1);
    await clock.sleep(1);
    expect(heard.length).toBeGreaterThan(2);
    expect(heard.length).toBeLessThan(9);
    const before = clock.now();
    await plain.sendto("back", "127.0.0.1:1");
    expect(text(await faulty.recv())).toBe("back");
    expect(clock.now() - before).toBe(100);
    expect(text(await faulty.recv())).toBe("back");
    expect(faulty.getsockname()).toMatchObject({ port: 1 });
    await Promise.all([faulty.close(), plain.close()]);
  });

  test.each([
    ["latency", { latency: 60_000 }],
    ["a rate", { rate: 1 }],
    ["reordering", { reorder: 1 }],
  ])("closed, it leaves no timer: what %s holds up is lost", async (_, faults) => {
    const clock = new Stopped();
    const [here, there] = wires();
    const faulty = withFaults(here, { clock, incoming: faults, outgoing: faults });
    const heard: string[] = [];
    const sink = { message: (bytes: Uint8Array) => heard.push(text(bytes) as string), error() {} };
    faulty.start(sink);
    there.start(sink);
    const to: Address = { family: "IPv4", hostname: "127.0.0.1", port: 2 };
    for (const end of [faulty, there]) await end.send(Uint8Array.of(97), to, 0);
    expect(clock.planned.size).toBe(2);
    await faulty.close();
    expect(clock.planned.size).toBe(0);
    for (const end of [faulty, there]) await end.send(Uint8Array.of(97), to, 0);
    expect([clock.planned.size, heard]).toEqual([0, []]);
  });
});

describe("what is let go leaves no timer", () => {
  test("a server of datagrams: another of its class goes on", async () => {
    const clock = new Stopped();
    class Far extends FaultsMixIn(MemoryDatagramServer, { clock, incoming: { latency: 60_000 } }) {}
    const [one, other] = [new Far(EchoDatagram), new Far(EchoDatagram)];
    const back: string[] = [];
    for (const server of [one, other]) {
      void server.serveForever();
      await server.listen();
      const client = server.network.socket();
      client.ondatagram = ({ data }) => back.push(text(data) as string);
      await client.sendto("a", server.serverAddress);
    }
    expect(clock.planned.size).toBe(2);
    await one.serverClose();
    expect(clock.planned.size).toBe(1);
    clock.ring();
    await expect.poll(() => back).toEqual(["a"]);
    await other.serverClose();
  });

  test.each([
    ["latency", { latency: 60_000 }],
    ["a rate", { rate: 1 }],
    ["pauses between slices", { slice: 1, sliceDelay: 60_000 }],
  ])("a stream that is cut, with %s both ways", async (_, faults) => {
    const clock = new Stopped();
    const [client, faulty] = faultyPair({ clock, incoming: faults, outgoing: faults });
    const read = codeOf(faulty.rfile.readexactly(5));
    client.wfile.write("hello");
    faulty.wfile.write("hello");
    await expect.poll(() => clock.planned.size).toBe(2);
    faulty.abort();
    expect(clock.planned.size).toBe(0);
    expect(await read).toBe("ECONNABORTED");
    client.abort();
  });

  test("a script that expected nothing, and was told something", async () => {
    const clock = new Stopped();
    const [client, server] = memoryPair();
    const asked = conversation().expectNothing(60_000).run(client, { clock });
    await expect.poll(() => clock.planned.size).toBe(1);
    server.wfile.write("something");
    await expect(asked).rejects.toThrow(/expectNothing/);
    expect(clock.planned.size).toBe(0);
    server.abort();
  });

  test("by a clock that cannot cancel, what was planned does nothing", async () => {
    const woken: (() => void)[] = [];
    const clock = { now: () => 0, sleep: () => new Promise<void>((resolve) => woken.push(resolve)) };
    const did: string[] = [];
    const cancel = runAfter(clock, 5, () => did.push("cancelled"));
    runAfter(clock, 5, () => did.push("due"));
    cancel();
    for (const wake of woken) wake();
    await Promise.resolve();
    expect(did).toEqual(["due"]);
  });
});
