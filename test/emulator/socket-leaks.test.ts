// Nothing leaks: thousands of sockets of each kind are opened and closed, or fail, and afterwards this process has
// as many descriptors, timers and handles as before.

import { readdirSync, readlinkSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  AF_INET,
  AF_UNIX,
  type BaseSocket,
  type DatagramSocket,
  type InternetAddress,
  POLLIN,
  poll,
  SOCK_DGRAM,
  SOCK_STREAM,
  select,
} from "socklet";
import { createServer, fromfd, type Socket, socket, socketpair } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { awaited } from "../awaited.ts";
import { codeOf, codeThrown } from "../core/outcome.ts";
import { reservePort } from "../peers/ports.ts";

const AT_ONCE = 50; // sockets that are open at the same time

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The descriptors of this process, by what they are. */
const descriptors = (): string[] =>
  readdirSync("/proc/self/fd")
    .flatMap((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+/, "");
      } catch {
        return []; // the one that read the folder
      }
    })
    .sort();

/** What Node waits for. A test's own time limit is among it, before and after. */
const resources = (): string[] => process.getActiveResourcesInfo().sort();

/** What is in `after` beyond `before`. */
const more = (after: readonly string[], before: readonly string[]): string[] => {
  const left = [...before];
  return after.filter((one) => {
    const at = left.indexOf(one);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
};

/** Runs `body` this many times, several concurrently, and expects that nothing new is left. */
const leavesNothing = async (times: number, body: (i: number) => Promise<void>): Promise<void> => {
  await body(0); // loads what is loaded once
  for (let i = 0; i < 20; i++) await turn();
  const before = [descriptors(), resources()] as const;
  const left = (): string[] => [...more(descriptors(), before[0]), ...more(resources(), before[1])];
  for (let i = 1; i <= times; i += AT_ONCE) {
    await Promise.all(Array.from({ length: AT_ONCE }, (_, j) => body(i + j)));
  }
  // Node closes in a later turn, which a busy kernel may keep waiting, and the test runner's own timers come and go.
  const gone = async (): Promise<void> => {
    while (left().length > 0) await turn();
  };
  await awaited(gone(), () => `these to go: ${left().join(", ")}`);
};

const here = (bound: { getsockname(): Address | null }): InternetAddress =>
  bound.getsockname() as InternetAddress;

describe.each([
  ["with koffi", true],
  ["without", false],
])("%s", (_, native) => {
  const before = process.env.SOCKLET_NATIVE;
  let folder: string;
  let nobody: string;
  let listener: Socket; // its backlog takes all simultaneous connections
  let hearer: DatagramSocket;
  beforeAll(async () => {
    process.env.SOCKLET_NATIVE = native ? "" : "off";
    folder = await mkdtemp(join(tmpdir(), "socklet-leaks-"));
    nobody = `127.0.0.1:${await reservePort()}`;
    listener = await createServer("127.0.0.1:0");
    hearer = socket(AF_INET, SOCK_DGRAM);
    await hearer.bind("127.0.0.1:0");
  });
  afterAll(async () => {
    await Promise.all([listener.close(), hearer.close()]);
    await rm(folder, { recursive: true });
    if (before === undefined) delete process.env.SOCKLET_NATIVE;
    else process.env.SOCKLET_NATIVE = before;
  });

  const MANY = 10_000; // sockets of each kind
  const PAIRS = native ? MANY / 2 : MANY / 20; // without it, each pair needs its own folder and listener

  const connection = async (): Promise<{ near: Socket; far: Socket }> => {
    const near = socket();
    const accepting = listener.accept();
    await near.connect(here(listener));
    return { near, far: (await accepting)[0] };
  };

  test("TCP: fresh", () => leavesNothing(MANY, async () => socket().close()));

  test("TCP: bound", () =>
    leavesNothing(MANY, async () => {
      await using bound = socket();
      await bound.bind("127.0.0.1:0");
    }));

  test("TCP: listening, also while accept() waits", () =>
    leavesNothing(MANY, async (i) => {
      await using listening = await createServer("127.0.0.1:0");
      if (i % 100 !== 0) return;
      const accepting = codeOf(listening.accept());
      await listening.close();
      expect(await accepting).toBe("ECANCELED");
    }));

  test("TCP: connected and accepted, and reset (which leaves no TIME_WAIT)", () =>
    leavesNothing(MANY / 2, async () => {
      const near = socket();
      const accepting = listener.accept();
      await near.connect(here(listener));
      const [far] = await accepting;
      near.abort();
      far.abort();
    }));

  test("TCP: connected, and closed at both ends", () =>
    leavesNothing(500, async () => {
      const near = socket();
      const accepting = listener.accept();
      await near.connect(here(listener));
      const [far] = await accepting;
      await near.sendall("x");
      await Promise.all([near.close(), far.close()]);
    }));

  test("TCP: connected, and never accepted", () =>
    leavesNothing(500, async () => {
      const waiting = await createServer("127.0.0.1:0", { backlog: 1 });
      const near = socket();
      await near.connect(here(waiting));
      await waiting.close();
      expect(await codeOf(near.recv())).toBe("ECONNRESET");
      await near.close();
    }));

  test("UDP: fresh, bound, connected", async () => {
    await leavesNothing(MANY, async () => socket(AF_INET, SOCK_DGRAM).close());
    await leavesNothing(MANY, async () => {
      await using bound = socket(AF_INET, SOCK_DGRAM);
      await bound.bind("127.0.0.1:0");
    });
    await leavesNothing(MANY, async () => {
      await using connected = socket(AF_INET, SOCK_DGRAM);
      await connected.connect(here(hearer));
    });
  });

  test("Unix streams", () =>
    leavesNothing(native ? MANY / 3 : MANY / 10, async (i) => {
      const path = join(folder, String(i));
      await using listening = await createServer({ path });
      await using near = socket(AF_UNIX);
      const accepting = listening.accept();
      await near.connect({ path });
      const [far] = await accepting;
      await far.close();
    }));

  test("socketpair()", () =>
    leavesNothing(PAIRS, async () => {
      const [one, other] = await socketpair();
      await Promise.all([one.close(), other.close()]);
    }));

  test(`Unix datagrams${native ? "" : ": there are none"}`, () =>
    leavesNothing(MANY, async (i) => {
      if (!native) return expect(codeThrown(() => socket(AF_UNIX, SOCK_DGRAM))).toBe("ERR_UNSUPPORTED");
      await using bound = socket(AF_UNIX, SOCK_DGRAM);
      if (i % 2 === 0) await bound.bind({ path: join(folder, `d${i}`) });
    }));

  test(`pairs of datagram sockets${native ? "" : ": there are none"}`, () =>
    leavesNothing(1_000, async () => {
      if (!native) return expect(await codeOf(socketpair(AF_UNIX, SOCK_DGRAM))).toBe("ERR_UNSUPPORTED");
      const [one, other] = await socketpair(AF_UNIX, SOCK_DGRAM);
      await one.send("x");
      await Promise.all([one.close(), other.close()]);
    }));

  test(`descriptors: fromfd() and detach()${native ? "" : " refuse, and the socket goes on"}`, () =>
    leavesNothing(1_000, async () => {
      if (!native) {
        const { near, far } = await connection();
        expect(codeThrown(() => fromfd(near.fileno(), AF_INET, SOCK_STREAM))).toBe("ERR_UNSUPPORTED");
        expect(await codeOf(near.detach())).toBe("ERR_UNSUPPORTED");
        near.abort();
        far.abort();
        return;
      }
      await using fresh = socket();
      await using again = fromfd(fresh.fileno(), AF_INET, SOCK_STREAM);
      await using taken = socket(AF_INET, SOCK_STREAM, 0, { fileno: await again.detach() });
      const heard = fromfd(hearer.fileno(), AF_INET, SOCK_DGRAM);
      await heard.close();
      expect(taken.fileno()).toBeGreaterThan(2);
    }));

  test("after failures: refused, in use, no address of ours, no name, no path", () =>
    leavesNothing(500, async (i) => {
      const failing: [BaseSocket & AsyncDisposable, Promise<unknown>, string][] = [];
      const expecting = <S extends BaseSocket & AsyncDisposable>(
        made: S,
        call: (made: S) => Promise<unknown>,
        code: string,
      ): void => void failing.push([made, codeOf(call(made)), code]);
      expecting(socket(), (s) => s.connect(nobody), "ECONNREFUSED");
      expecting(socket(), (s) => s.bind("192.0.2.1:0"), "EADDRNOTAVAIL");
      expecting(socket(AF_UNIX), (s) => s.connect({ path: join(folder, "none") }), "ENOENT");
      expecting(socket(AF_INET, SOCK_DGRAM), (s) => s.bind(here(hearer)), "EADDRINUSE");
      expecting(socket(AF_INET, SOCK_DGRAM), (s) => s.bind("192.0.2.1:0"), "EADDRNOTAVAIL");
      if (i % 50 === 0) expecting(socket(), (s) => s.connect("name.invalid:1"), "ERR_NAME");
      expect(await codeOf(createServer(here(listener)))).toBe("EADDRINUSE");
      for (const [made, failed, code] of failing) {
        expect(await failed).toBe(code);
        await made[Symbol.asyncDispose]();
      }
    }));

  test("after time-outs and what would wait", () =>
    leavesNothing(500, async () => {
      const near = socket();
      const accepting = listener.accept();
      await near.connect(here(listener));
      const [far] = await accepting;
      near.settimeout(1);
      expect(await codeOf(near.recv())).toBe("ETIMEDOUT");
      near.setblocking(false);
      expect(await codeOf(near.recv())).toBe("EWOULDBLOCK");
      expect(await select([near], [], [], 1)).toEqual([[], [], []]);
      const watched = poll();
      watched.register(near, POLLIN);
      expect(await watched.poll(0)).toEqual([]);
      near.abort();
      far.abort();

      await using listening = await createServer("127.0.0.1:0");
      listening.settimeout(1);
      expect(await codeOf(listening.accept())).toBe("ETIMEDOUT");
      await using datagrams = socket(AF_INET, SOCK_DGRAM);
      await datagrams.bind("127.0.0.1:0");
      datagrams.settimeout(1);
      expect(await codeOf(datagrams.recv())).toBe("ETIMEDOUT");
    }));

  test("closed while connect() is under way", () =>
    leavesNothing(1_000, async () => {
      const near = socket();
      const connecting = codeOf(near.connect(here(hearer)));
      await near.close();
      expect(await connecting).toBe("ECANCELED");
    }));
});
