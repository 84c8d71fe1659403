/** Node's sockets as `socket()` returns them: what the rows do not show, and a comparison with CPython cannot. */

import { spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createNetServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  AF_INET,
  AF_INET6,
  AF_UNIX,
  type InternetAddress,
  IP_MULTICAST_LOOP,
  IP_MULTICAST_TTL,
  MSG_DONTWAIT,
  SO_BROADCAST,
  SO_KEEPALIVE,
  SO_RCVBUF,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SOL_TCP,
  type StreamSocket,
  select,
  TCP_NODELAY,
} from "socklet";
import { createServer, fromfd, hasDualstackIpv6, socket, socketpair } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { codeOf, codeThrown } from "../core/outcome.ts";
import { reservePort, reserveUdpPort } from "../peers/ports.ts";
import { describeWith } from "../peers/program.ts";
import { inNativeMode } from "./native-mode.ts";

const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const here = (bound: { getsockname(): Address | null }): InternetAddress =>
  bound.getsockname() as InternetAddress;
const PLACES = [
  ["with koffi", true],
  ["without", false],
] as const;

/** Two connected ends and their listener. */
const pair = async () => {
  const listener = await createServer("127.0.0.1:0");
  const near = socket();
  await near.connect(here(listener));
  const [far] = await listener.accept();
  return {
    listener,
    near,
    far,
    async [Symbol.asyncDispose]() {
      await Promise.all([listener.close(), near.close(), far.close()]);
    },
  };
};

const nobody = await reserveUdpPort(); // before any place: it needs koffi

describe.each(PLACES)("%s", (_, native) => {
  inNativeMode(native);
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "socklet-socket-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  describe("listening", () => {
    test("so many as the backlog wait, in their order; the newest is reset", async () => {
      await using listener = await createServer("127.0.0.1:0", { backlog: 2 });
      const names: InternetAddress[] = [];
      const dialled = [socket(), socket(), socket(), socket()];
      for (const near of dialled.slice(0, 2)) {
        await near.connect(here(listener));
        names.push(here(near));
      }
      for (const near of dialled.slice(2)) {
        // The reset may come before connect() sees that it is connected.
        const asked = near.connect(here(listener)).then(() => near.recv());
        expect(await codeOf(asked)).toBe("ECONNRESET");
      }
      for (const name of names) {
        const [far, address] = await listener.accept();
        expect(address).toEqual(name);
        far.abort();
      }
      for (const near of dialled) near.abort();
    });

    test("those who wait for accept() are given connections in their order", async () => {
      await using listener = await createServer("127.0.0.1:0");
      const accepting = [listener.accept(), listener.accept()];
      const names: InternetAddress[] = [];
      for (let i = 0; i < 2; i++) {
        const near = socket();
        await near.connect(here(listener));
        names.push(here(near));
        near.abort();
      }
      const accepted = await Promise.all(accepting);
      expect(accepted.map(([, address]) => address)).toEqual(names);
      for (const [far] of accepted) far.abort();
    });

    test("close() ends accept() and connections(), and resets those that nobody accepted", async () => {
      const listener = await createServer("127.0.0.1:0");
      const accepting = codeOf(listener.accept());
      const iterated = (async () => {
        for await (const _ of listener.connections()) throw new Error("nobody connected");
      })();
      await turn();
      await listener.close();
      expect(await accepting).toBe("ECANCELED");
      await iterated;

      const other = await createServer("127.0.0.1:0");
      await using near = socket();
      await near.connect(here(other));
      await select([other], [], []);
      await other.close();
      expect(await codeOf(near.recv())).toBe("ECONNRESET");
    });

    test("one that left before it was accepted is accepted, with what it sent", async () => {
      await using listener = await createServer("127.0.0.1:0");
      const near = socket();
      await near.connect(here(listener));
      await near.sendall("gone");
      await near.close();
      const [far] = await listener.accept();
      expect([text(await far.recv()), await far.recv()]).toEqual(["gone", null]);
      await far.close();
    });

    test("both ends tell the same two addresses", async () => {
      await using ends = await pair();
      expect(ends.far.getpeername()).toEqual(ends.near.getsockname());
      expect(ends.near.getpeername()).toEqual(ends.far.getsockname());
      expect(ends.far.getsockname()).toEqual(ends.listener.getsockname());
    });
  });

  describe("createServer()", () => {
    test("IPv6, alone and with IPv4", async () => {
      expect(await hasDualstackIpv6()).toBe(true);
      await using both = await createServer("[::]:0", { dualstackIpv6: true });
      await using near = socket();
      await near.connect(`127.0.0.1:${here(both).port}`);
      const [far, address] = await both.accept();
      expect(address).toEqual({ family: "IPv6", hostname: "::ffff:127.0.0.1", port: here(near).port });
      await far.close();

      await using alone = await createServer("[::1]:0");
      expect(alone.family).toBe(AF_INET6);
      await using wide = socket(AF_INET6);
      await wide.connect(here(alone));
      expect((await alone.accept())[1]).toEqual(wide.getsockname());
      const port = await reservePort();
      await using _ = await createServer(`[::]:${port}`);
      await using narrow = socket();
      expect(await codeOf(narrow.connect(`127.0.0.1:${port}`))).toBe("ECONNREFUSED");
    });

    test("reusePort shares a port, and without it is refused", async () => {
      await using one = await createServer("127.0.0.1:0", { reusePort: true });
      await using other = await createServer(here(one), { reusePort: true });
      expect(here(other)).toEqual(here(one));
      expect(await codeOf(createServer(here(one)))).toBe("EADDRINUSE");
      const accepting = Promise.race([one.accept(), other.accept()]);
      await using near = socket();
      await near.connect(here(one));
      const [far] = await accepting;
      far.abort();
    });

    test("a family that cannot be both is refused at once", async () => {
      await expect(createServer("127.0.0.1:0", { family: AF_INET, dualstackIpv6: true })).rejects.toThrow(
        RangeError,
      );
    });
  });

  describe("connecting", () => {
    test("after a failure it may be tried again, with the options that were set", async () => {
      await using listener = await createServer("127.0.0.1:0");
      await using near = socket();
      near.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
      if (native) near.setsockopt(SOL_SOCKET, SO_RCVBUF, 20_000);
      await near.bind("127.0.0.1:0");
      expect(await near.connectEx(`127.0.0.1:${await reservePort()}`)).toBe(111);
      expect(await codeOf(near.connect({ path: "/none" }))).toBe("EAFNOSUPPORT");
      expect(near.getsockname()).toMatchObject({ hostname: "127.0.0.1" });
      expect(await near.connectEx(here(listener))).toBe(0);
      const [far, address] = await listener.accept();
      expect(address).toEqual(near.getsockname());
      expect(near.getsockopt(SOL_SOCKET, SO_KEEPALIVE)).toBe(1);
      if (native) expect(near.getsockopt(SOL_SOCKET, SO_RCVBUF)).toBe(40_000);
      expect(await near.connectEx(here(listener))).toBe(106); // EISCONN
      near.abort();
      far.abort();
    });

    test("an option that was set stands; the rest is Node's: TCP_NODELAY is on", async () => {
      await using listener = await createServer("127.0.0.1:0");
      await using plain = socket();
      await plain.connect(here(listener));
      expect(plain.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(1);
      await using nagle = socket();
      nagle.setsockopt(SOL_TCP, TCP_NODELAY, 0);
      await nagle.connect(here(listener));
      expect(nagle.getsockopt(SOL_TCP, TCP_NODELAY)).toBe(0);
    });

    test("SOCK_NONBLOCK: not blocking from the first moment", async () => {
      await using listener = socket(AF_INET, (SOCK_STREAM | SOCK_NONBLOCK) as typeof SOCK_STREAM);
      expect([listener.getblocking(), listener.gettimeout()]).toEqual([false, 0]);
      await listener.bind("127.0.0.1:0");
      await listener.listen();
      expect(await codeOf(listener.accept())).toBe("EWOULDBLOCK");
      await using near = socket(AF_INET, (SOCK_STREAM | SOCK_NONBLOCK) as typeof SOCK_STREAM);
      expect(await codeOf(near.connect(here(listener)))).toBe("EINPROGRESS");
      expect(await codeOf(near.connect(here(listener)))).toBe("EALREADY");
      expect(await select([listener], [], [])).toEqual([[listener], [], []]);
      expect(await select([], [near], [])).toEqual([[], [near], []]);
      const [far] = await listener.accept();
      expect(far.getblocking()).toBe(true);
      await far.close();
    });
  });

  describe("Unix", () => {
    test("abstract names", async () => {
      const path = `\0socklet-test-${crypto.randomUUID()}`;
      await using listener = await createServer({ path });
      expect(listener.getsockname()).toEqual({ family: "unix", path });
      await using near = socket(AF_UNIX);
      await near.connect({ path });
      const [far] = await listener.accept();
      await near.sendall("no file");
      expect(text(await far.recv())).toBe("no file");
      await far.close();
    });

    test("a path of 107 bytes is the longest", async () => {
      const longest = join(folder, "p".repeat(107 - folder.length - 1));
      await using _ = await createServer({ path: longest });
      await using near = socket(AF_UNIX);
      await near.connect({ path: longest });
      expect(near.getpeername()).toEqual({ family: "unix", path: longest });
      expect(await codeOf(createServer({ path: `${longest}p` }))).toBe("EINVAL");
    });

    test("socketpair()", async () => {
      const [one, other] = await socketpair();
      await one.sendall("there");
      await other.sendall("back");
      expect([text(await other.recv()), text(await one.recv())]).toEqual(["there", "back"]);
      await one.close();
      expect(await other.recv()).toBeNull();
      await other.close();
      expect(await codeOf(socketpair(AF_INET))).toBe("EOPNOTSUPP");
    });
  });

  describe("datagrams", () => {
    test("208 KiB wait, the oldest; what is over is dropped", async () => {
      await using hearer = socket(AF_INET, SOCK_DGRAM);
      await hearer.bind("127.0.0.1:0");
      await using teller = socket(AF_INET, SOCK_DGRAM);
      for (let i = 0; i < 400; i++) {
        await teller.sendto(`${i} `.padEnd(1_000, "."), here(hearer));
        await turn(); // so that no datagram is lost in the kernel
      }
      const numbers: number[] = [];
      for (;;) {
        const bytes = await hearer.recv(4, MSG_DONTWAIT).catch(() => null);
        if (bytes === null) break;
        numbers.push(Number.parseInt(text(bytes) as string, 10));
      }
      // 212 992 bytes by 1 000 and the 256 that each counts beside; what came when there was room again is behind.
      expect(numbers.slice(0, 169)).toEqual(Array.from({ length: 169 }, (_, i) => i));
      expect(numbers.length).toBeLessThan(180);
      await teller.sendto("room again", here(hearer));
      expect(text(await hearer.recv())).toBe("room again");
    });

    test("broadcast and multicast options", async () => {
      await using teller = socket(AF_INET, SOCK_DGRAM);
      await teller.bind("0.0.0.0:0");
      expect(await codeOf(teller.sendto("x", "255.255.255.255:9"))).toBe("EACCES");
      for (const [level, name, value] of [
        [SOL_SOCKET, SO_BROADCAST, 1],
        [SOL_IP, IP_MULTICAST_TTL, 3],
        [SOL_IP, IP_MULTICAST_LOOP, 0],
      ] as const) {
        teller.setsockopt(level, name, value);
        expect(teller.getsockopt(level, name)).toBe(value);
      }
    });

    test("a connected one is told that nobody is there by the next call, and goes on", async () => {
      await using teller = socket(AF_INET, SOCK_DGRAM);
      await teller.connect(`127.0.0.1:${nobody}`);
      await teller.send("anybody?");
      await select([teller], [], []);
      expect(await codeOf(teller.send("anybody?"))).toBe("ECONNREFUSED");
      for (let i = 0; i < 3; i++) {
        await teller.send("again?");
        await select([teller], [], []);
        expect(await codeOf(teller.recv())).toBe("ECONNREFUSED");
      }
      // Others are received as before.
      await using hearer = socket(AF_INET, SOCK_DGRAM);
      await hearer.bind("127.0.0.1:0");
      await teller.connect(here(hearer));
      await hearer.sendto("from the peer", here(teller));
      expect(text(await teller.recv())).toBe("from the peer");
    });

    test("close() and shutdown() end a recv() that waits", async () => {
      const hearer = socket(AF_INET, SOCK_DGRAM);
      await hearer.bind("127.0.0.1:0");
      const waiting = codeOf(hearer.recv());
      await hearer.close();
      expect(await waiting).toBe("ECANCELED");
    });
  });

  describe("the tutorial's non-blocking accept loop", () => {
    test("accept() is tried until it succeeds, and other work is done meanwhile", async () => {
      await using listener = await createServer("127.0.0.1:0");
      listener.setblocking(false);
      let rounds = 0; // of the loop, which does this
      let turns = 0; // of the event loop, which is free between two of them
      let turning = setImmediate(function turn() {
        turns++;
        turning = setImmediate(turn);
      });
      await using near = socket();
      let dialling: Promise<void> | null = null;
      const accept = async (): Promise<StreamSocket> => {
        for (;;) {
          try {
            return (await listener.accept())[0];
          } catch (error) {
            expect(error).toMatchObject({ code: "EWOULDBLOCK", errno: 11 });
          }
          rounds++;
          if (rounds === 20) dialling = near.connect(here(listener));
        }
      };
      const far = await accept();
      clearImmediate(turning);
      await dialling;
      expect(rounds).toBeGreaterThanOrEqual(20);
      expect(turns).toBeGreaterThanOrEqual(20);
      far.setblocking(false);
      expect(await codeOf(far.recv())).toBe("EWOULDBLOCK");
      await near.sendall("Hello");
      await select([far], [], []);
      expect(text(await far.recv())).toBe("Hello");
      await far.close();
    });

    test("select() in place of trying: one loop accepts, echoes and writes to all", async () => {
      await using listener = await createServer("127.0.0.1:0");
      listener.setblocking(false);
      const open = new Set<StreamSocket>();
      const serving = (async () => {
        for (let left = 0; left < 3; ) {
          // Room to write is polled, too, and is always there: reads must be reported all the same.
          const [readable, writable] = await select([listener, ...open], open, []);
          for (const ready of readable) {
            if (ready === listener) {
              const [connection] = await listener.accept();
              connection.setblocking(false);
              open.add(connection);
              continue;
            }
            const connection = ready as StreamSocket;
            const bytes = await connection.recv();
            if (bytes !== null && writable.includes(connection)) await connection.sendall(bytes);
            if (bytes === null) {
              open.delete(connection);
              left++;
              await connection.close();
            }
          }
        }
      })();
      const clients = ["one", "two", "three"].map(async (said) => {
        await using near = socket();
        await near.connect(here(listener));
        await near.sendall(said);
        return text(await near.recv());
      });
      expect(await Promise.all(clients)).toEqual(["one", "two", "three"]);
      await serving;
    });
  });
});

describe("descriptors, without koffi", () => {
  inNativeMode(false);

  test("one that is connected is taken over, and so is one that Node bound", async () => {
    await using listener = await createServer("127.0.0.1:0");
    await using far = socket();
    const accepting = listener.accept();
    await far.connect(here(listener));
    const [near] = await accepting;
    expect(near.fileno()).toBeGreaterThan(2);
    await near.close();
    expect(codeThrown(() => fromfd(far.fileno(), AF_INET, SOCK_STREAM))).toBe("ERR_UNSUPPORTED");
    expect(await codeOf(far.detach())).toBe("ERR_UNSUPPORTED");
  });
});

describe("descriptors, with koffi", () => {
  inNativeMode(true);

  test("fromfd() of a listener accepts, and the first goes on when it is closed", async () => {
    await using listener = socket();
    await listener.bind("127.0.0.1:0");
    await listener.listen();
    await using again = fromfd(listener.fileno(), AF_INET, SOCK_STREAM);
    expect(again.getsockname()).toEqual(listener.getsockname());
    await listener.close();
    await using near = socket();
    await near.connect(here(again));
    const [far, address] = await again.accept();
    expect(address).toEqual(near.getsockname());
    await far.close();
  });

  test("fromfd() of a connection, of UDP, and of a fresh socket", async () => {
    await using ends = await pair();
    const again = fromfd(ends.near.fileno(), AF_INET, SOCK_STREAM);
    expect([again.getsockname(), again.getpeername()]).toEqual([
      ends.near.getsockname(),
      ends.near.getpeername(),
    ]);
    await ends.far.sendall("by either");
    expect(text(await again.recv())).toBe("by either");
    again.abort();

    await using bound = socket(AF_INET, SOCK_DGRAM);
    await bound.bind("127.0.0.1:0");
    const port = here(bound);
    await using heard = socket(AF_INET, SOCK_DGRAM, 0, { fileno: await bound.detach() });
    await using teller = socket(AF_INET, SOCK_DGRAM);
    await teller.sendto("still here", port);
    expect(text(await heard.recv())).toBe("still here");

    await using fresh = socket();
    await using twin = fromfd(fresh.fileno(), AF_INET, SOCK_STREAM);
    await twin.bind("127.0.0.1:0");
    await twin.listen();
    expect(twin.fileno()).not.toBe(fresh.fileno());
  });

  test("a descriptor that is none, or no socket, is refused", () => {
    expect(codeThrown(() => fromfd(9_999, AF_INET, SOCK_STREAM))).toBe("EBADF");
    expect(() => fromfd(-1, AF_INET, SOCK_STREAM)).toThrow(RangeError);
  });

  test("a Unix connection tells both paths", async () => {
    const folder = await mkdtemp(join(tmpdir(), "socklet-socket-"));
    const [path, own] = [join(folder, "listener"), join(folder, "own")];
    await using listener = await createServer({ path });
    await using near = socket(AF_UNIX);
    await near.bind({ path: own });
    await near.connect({ path });
    const [far, address] = await listener.accept();
    expect(address).toEqual({ family: "unix", path: own });
    const again = fromfd(far.fileno(), AF_UNIX, SOCK_STREAM);
    expect([again.getsockname(), again.getpeername()]).toEqual([
      { family: "unix", path },
      { family: "unix", path: own },
    ]);
    again.abort();
    await far.close();
    await rm(folder, { recursive: true });
  });

  test("detach() refuses to lose what was read ahead", async () => {
    await using ends = await pair();
    await ends.far.sendall("ab");
    await ends.near.recv(1);
    expect(await codeOf(ends.near.detach())).toBe("EBUSY");
    await ends.near.recv(1);
    const fd = await ends.near.detach();
    expect([ends.near.closed, ends.near.fileno()]).toEqual([true, -1]);
    closeSync(fd);
    expect(await ends.far.recv()).toBeNull();
  });

  test("a socket of Node's own can be taken over", async () => {
    const server = createNetServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
    await using listener = fromfd(fd, AF_INET, SOCK_STREAM);
    await new Promise((resolve) => server.close(resolve));
    await using near = socket();
    await near.connect(here(listener));
    const [far] = await listener.accept();
    await far.close();
  });
});

describeWith(["python3"], "a descriptor that was detached goes on in another program", () => {
  inNativeMode(true);

  /** Runs Python with `fd` as its descriptor 3; returns what it printed. */
  const inherited = async (fd: number, script: string): Promise<string> => {
    const child = spawn("python3", ["-c", script], { stdio: ["ignore", "pipe", "inherit", fd] });
    closeSync(fd); // the child has its own
    let printed = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      printed += bytes;
    });
    await new Promise((resolve) => child.once("close", resolve));
    return printed;
  };
  const OPEN = "import socket; s = socket.socket(fileno=3); s.setblocking(True);";

  test("a connection", async () => {
    await using ends = await pair();
    await ends.near.sendall("from here; ");
    const program = inherited(
      await ends.near.detach(),
      `${OPEN} s.sendall(b"from there"); s.shutdown(1); print(s.recv(99))`,
    );
    expect(text(await ends.far.rfile.read())).toBe("from here; from there");
    await ends.far.sendall("and back");
    await ends.far.close();
    expect(await program).toBe("b'and back'\n");
  });

  test("a listener", async () => {
    const listener = await createServer("127.0.0.1:0");
    const at = here(listener);
    const program = inherited(await listener.detach(), `${OPEN} c, _ = s.accept(); print(c.recv(99))`);
    await using near = socket();
    await near.connect(at);
    await near.sendall("hello");
    await near.close();
    expect(await program).toBe("b'hello'\n");
  });

  test("a fresh socket, with its options", async () => {
    const fresh = socket();
    fresh.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
    const script = `${OPEN} print(s.getsockopt(1, 9), s.family.name, s.type.name)`;
    expect(await inherited(await fresh.detach(), script)).toBe("1 AF_INET SOCK_STREAM\n");
  });
});
