/**
 * Calls to the kernel, on real sockets, with `koffi` and without: calls in the wrong state, descriptors,
 * urgent data, datagrams of every kind. Python is the other end, and reports what Linux returns.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  closeSync,
  cpSync,
  existsSync,
  linkSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import {
  type Address,
  type AddressLike,
  AF_INET,
  AF_INET6,
  AF_UNIX,
  DatagramRequestHandler,
  type DatagramSocket,
  type InternetAddress,
  IP_ADD_MEMBERSHIP,
  IP_MULTICAST_IF,
  MSG_DONTROUTE,
  MSG_DONTWAIT,
  MSG_OOB,
  POLLPRI,
  SHUT_RDWR,
  SHUT_WR,
  SO_ERROR,
  SO_KEEPALIVE,
  SO_REUSEADDR,
  SO_SNDBUF,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_IP,
  SOL_SOCKET,
  SocketError,
  type SockletEvent,
  select,
} from "socklet";
import {
  createConnection,
  createServer,
  fromfd,
  type Socket,
  socket,
  socketpair,
  streamSocket,
  UnixDatagramServer,
} from "socklet/emulator";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { bindError } from "../../emulator/sockets/names/resolve.ts";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";
import { reservePort, reserveUdpPort } from "../peers/ports.ts";
import { describeWith, python, start } from "../peers/program.ts";
import { inNativeMode } from "./native-mode.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "socklet-native-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let paths = 0;
const newPath = (): string => join(folder, `s${paths++}`);

/** A new address to bind in this family. */
const free = (family: number): AddressLike =>
  family === AF_UNIX ? { path: newPath() } : family === AF_INET6 ? "[::1]:0" : "127.0.0.1:0";

const code = (expected: string): unknown => expect.objectContaining({ code: expected });
const string = (bytes: Uint8Array | null): string => new TextDecoder().decode(bytes ?? undefined);
const nameOf = (bound: { getsockname(): Address | null }): Address => bound.getsockname() as Address;
const portOf = (bound: { getsockname(): Address | null }): number => (nameOf(bound) as InternetAddress).port;

/** `made`, closed when the test is over. */
const closing = <T extends { close(): unknown }>(made: T): T => {
  onTestFinished(async () => {
    await made.close();
  });
  return made;
};

const listening = async (family: number = AF_INET): Promise<Socket> => {
  const made = closing(socket(family));
  await made.bind(free(family));
  await made.listen();
  return made;
};

/** Two ends of one connection. */
const connection = async (family: number = AF_INET) => {
  const listener = await listening(family);
  const near = closing(socket(family));
  await near.connect(nameOf(listener));
  const [far] = await listener.accept();
  return { listener, near, far: closing(far) };
};

const datagrams = async (family: number = AF_INET): Promise<DatagramSocket> => {
  const made = closing(socket(family, SOCK_DGRAM));
  await made.bind(free(family));
  return made;
};

const descriptors = (): number => readdirSync("/proc/self/fd").length;

/** Waits until no more descriptors are open than `wanted`. */
const descriptorsAre = async (wanted: number): Promise<void> => {
  await expect.poll(descriptors, { interval: 1 }).toBeLessThanOrEqual(wanted);
};

/** The outcome of a call: "ok", or the code of its error. */
const outcome = async (call: () => unknown): Promise<string> => {
  try {
    await call();
    return "ok";
  } catch (error) {
    return error instanceof SocketError ? error.code : (error as Error).name;
  }
};

/** Runs a program of ours in another Node, with these descriptors from 3 on; `print` writes a line. */
const child = (
  source: string,
  { native = true, inherits = [] as number[], cwd = root, from = "socklet/emulator" } = {},
) => {
  const whole = `
    import { AF_INET, AF_UNIX } from ${JSON.stringify(from === "socklet/emulator" ? "socklet" : "./core/index.ts")};
    import * as emulator from ${JSON.stringify(from)};
    const { socket, createServer } = emulator;
    const print = (line) => process.stdout.write(line + "\\n");
    ${source}`;
  const args = ["--conditions=socklet:source", "--input-type=module", "-e", whole];
  const program = spawn(process.execPath, args, {
    cwd,
    stdio: ["ignore", "pipe", "pipe", ...inherits],
    env: { ...process.env, SOCKLET_NATIVE: native ? "" : "off", NODE_OPTIONS: "" },
  });
  onTestFinished(() => void program.kill());
  let said = "";
  program.stdout?.on("data", (bytes) => {
    said += bytes;
  });
  const errors = text(program.stderr as NodeJS.ReadableStream);
  const ended = once(program, "close").then(async ([status]) => ({ status, said, errors: await errors }));
  return {
    ended,
    async line(): Promise<string> {
      while (!said.includes("\n")) {
        const over = await Promise.race([
          ended,
          once(program.stdout as NodeJS.ReadableStream, "data").then(() => null),
        ]);
        if (over !== null && !said.includes("\n")) throw new Error(`the child ended: ${over.errors}`);
      }
      const line = said.slice(0, said.indexOf("\n"));
      said = said.slice(line.length + 1);
      return line;
    },
  };
};

const fdOf = (owner: object): number => (owner as { _handle: { fd: number } })._handle.fd;

describe("koffi", () => {
  const LOADED = `
    import { createRequire } from "node:module";
    const loaded = () => Object.keys(createRequire(import.meta.url).cache).some((path) => path.includes("koffi"));
    const seen = [loaded()];
    await socket().close();
    seen.push(loaded());
    print(JSON.stringify(seen));`;

  test.each([
    ["is not loaded by an import, but by the first socket", true, [false, true]],
    ["is not loaded at all where SOCKLET_NATIVE is off", false, [false, false]],
  ])("%s", async (_, native, seen) => {
    const { said, errors } = await child(LOADED, { native }).ended;
    expect([said, errors]).toEqual([`${JSON.stringify(seen)}\n`, ""]);
  });

  test("is not loaded by a server, but by what is asked of its socket, which then has all of it", async () => {
    const source = `
      import { createRequire } from "node:module";
      import { BaseRequestHandler, IPPROTO_TCP, SO_ACCEPTCONN, SOL_SOCKET, TCP_MAXSEG, TCP_NODELAY } from "socklet";
      const loaded = () => Object.keys(createRequire(import.meta.url).cache).some((path) => path.includes("koffi"));
      const seen = [];
      class Tells extends BaseRequestHandler {
        handle() { seen.push(this.request.getsockopt(IPPROTO_TCP, TCP_NODELAY)); }
      }
      class Asking extends emulator.TCPServer {
        async serverActivate() {
          this.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, false);
          seen.push(this.socket.getsockopt(SOL_SOCKET, SO_ACCEPTCONN));
          await super.serverActivate();
        }
      }
      for (const Server of [emulator.TCPServer, Asking]) {
        const server = new Server("127.0.0.1:0", Tells);
        await server.listen();
        seen.push(server.fileno() > 2, loaded());
        void server.serveForever();
        const client = await emulator.createConnection(server.serverAddress);
        seen.push(await client.recv());
        await client.close();
        const { socket } = server;
        seen.push(socket.getsockopt(SOL_SOCKET, SO_ACCEPTCONN), socket.getsockopt(IPPROTO_TCP, TCP_MAXSEG) > 0);
        await server.serverClose();
      }
      print(JSON.stringify(seen));`;
    const { said, errors } = await child(source).ended;
    // The handler reports its connection's option in between: 1 if Node sets it, 0 if it is inherited from the listener.
    const seen = [true, false, 1, null, 1, true, 0, true, true, 0, null, 1, true];
    expect([said, errors]).toEqual([`${JSON.stringify(seen)}\n`, ""]);
  });

  test("where it is not installed sockets work, and what needs it says so", async () => {
    for (const name of ["core", "emulator"])
      cpSync(join(root, name), join(folder, name), { recursive: true });
    const source = `
      const listener = await createServer("127.0.0.1:0");
      const near = socket();
      await near.connect(listener.getsockname());
      const [far] = await listener.accept();
      await near.sendall("without");
      print(new TextDecoder().decode(await far.recv()));
      for (const call of [() => far.getsockopt(0, 2), () => socket().fileno(), () => socket(AF_UNIX, 2)]) {
        try { call(); } catch (error) { print(error.message); }
      }
      await Promise.all([near.close(), far.close(), listener.close()]);`;
    const { said } = await child(source, { cwd: folder, from: "./emulator/sockets/make.ts" }).ended;
    expect(said.split("\n")).toEqual([
      "without",
      "ERR_UNSUPPORTED: IP_TTL (2) at SOL_IP (0) needs the package koffi: npm install koffi",
      "ERR_UNSUPPORTED: a descriptor before bind() and connect() needs the package koffi: npm install koffi",
      "ERR_UNSUPPORTED: a Unix datagram socket needs the package koffi: npm install koffi (node-unix-socket serves UnixDatagramServer alone)",
      "",
    ]);
  });
});

const reserved = await reserveUdpPort(); // before any mode: it needs koffi

describe.each([
  ["with koffi", true],
  ["without", false],
])("%s", (_, native) => {
  inNativeMode(native);
  // Features that need koffi; without it, one test for each group checks the error.
  const testNative = (name: string, run: () => Promise<void>): void => {
    if (native) test(name, run);
  };
  const describeNative: typeof describeWith = (...block) => {
    if (native) describeWith(...block);
  };
  const testPlain = (name: string, run: () => Promise<void>): void => {
    if (!native) test(name, run);
  };

  describe("calls in a wrong state", () => {
    // Each state and each call, for a stream of the given family: the result in CPython.
    const ORACLE = `
import errno, json, os, socket, sys, tempfile
family = int(sys.argv[1])
temporary = tempfile.TemporaryDirectory()
folder = temporary.name
names = iter(range(1000))
def free(): return os.path.join(folder, str(next(names))) if family == socket.AF_UNIX else ("127.0.0.1", 0)
def fresh(): return socket.socket(family, socket.SOCK_STREAM)
def bound():
    s = fresh(); s.bind(free()); return s
def listening():
    s = bound(); s.listen(); return s
other = listening()
def connected():
    s = fresh(); s.connect(other.getsockname()); return s
def closed():
    s = fresh(); s.close(); return s
states = dict(fresh=fresh, bound=bound, listening=listening, connected=connected, closed=closed)
def accept(s):
    if s.fileno() >= 0 and s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN): s.settimeout(0.05)
    s.accept()
def quick(call):
    def run(s):
        s.setblocking(False); call(s)
    return run
calls = dict(
    bind=lambda s: s.bind(free()), listen=lambda s: s.listen(), accept=accept,
    connect=lambda s: s.connect(other.getsockname()),
    recv=quick(lambda s: s.recv(1)), recvfrom=quick(lambda s: s.recvfrom(1)),
    send=lambda s: s.send(b"x"), sendall=lambda s: s.sendall(b"x"),
    sendto=lambda s: s.sendto(b"x", other.getsockname()),
    shutdown=lambda s: s.shutdown(socket.SHUT_WR),
    getsockname=lambda s: s.getsockname(), getpeername=lambda s: s.getpeername(),
    getsockopt=lambda s: s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    setsockopt=lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    close=lambda s: s.close(),
)
ours = {"EAGAIN": "EWOULDBLOCK", "ENOTSUP": "EOPNOTSUPP"}
def outcome(call, s):
    try: call(s)
    except TimeoutError: return "ETIMEDOUT"
    except OSError as e: return ours.get(errno.errorcode[e.errno], errno.errorcode[e.errno])
    return "ok"
print(json.dumps({call: {state: outcome(calls[call], states[state]()) for state in states} for call in calls}))
`;

    describeWith(["python3"], "give the error that CPython gives", () => {
      test.each([
        ["TCP", AF_INET],
        ["Unix", AF_UNIX],
      ])("%s", async (_, family) => {
        const other = await listening(family);
        const fresh = (): Socket => closing(socket(family));
        const states: Record<string, () => Socket | Promise<Socket>> = {
          fresh,
          async bound() {
            const made = fresh();
            await made.bind(free(family));
            return made;
          },
          listening: () => listening(family),
          async connected() {
            const made = fresh();
            await made.connect(nameOf(other));
            return made;
          },
          async closed() {
            const made = fresh();
            await made.close();
            return made;
          },
        };
        const quick = (call: (s: Socket) => unknown) => (s: Socket) => {
          s.setblocking(false);
          return call(s);
        };
        const calls: Record<string, (s: Socket) => unknown> = {
          bind: (s) => s.bind(free(family)),
          listen: (s) => s.listen(),
          accept(s) {
            s.settimeout(50);
            return s.accept();
          },
          connect: (s) => s.connect(nameOf(other)),
          recv: quick((s) => s.recv(1)),
          recvfrom: quick((s) => s.recvfrom(1)),
          send: (s) => s.send("x"),
          sendall: (s) => s.sendall("x"),
          sendto: (s) => s.sendto("x", nameOf(other)),
          shutdown: (s) => s.shutdown(SHUT_WR),
          getsockname: (s) => s.getsockname(),
          getpeername: (s) => s.getpeername(),
          getsockopt: (s) => s.getsockopt(SOL_SOCKET, SO_ERROR),
          setsockopt: (s) => s.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1),
          close: (s) => s.close(),
        };
        const ours: Record<string, Record<string, string>> = {};
        for (const [call, run] of Object.entries(calls)) {
          const row: Record<string, string> = {};
          ours[call] = row;
          for (const [state, make] of Object.entries(states)) {
            const made = await make();
            row[state] = await outcome(() => run(made));
          }
        }
        const theirs = JSON.parse(await python(ORACLE, [family])) as Record<string, Record<string, string>>;
        // Linux lets a Unix socket that is connected take a name; ours has no use for one then.
        if (family === AF_UNIX) Object.assign(theirs.bind ?? {}, { connected: "EINVAL" });
        // Node has no call for an option of a listener.
        if (!native) Object.assign(theirs.setsockopt ?? {}, { listening: "ERR_UNSUPPORTED" });
        expect(ours).toEqual(theirs);
      });
    });

    test("a listener that is shut down accepts no more", async () => {
      const listener = await listening();
      const waiting = outcome(() => listener.accept());
      await listener.shutdown(SHUT_RDWR);
      expect([await waiting, await outcome(() => listener.accept())]).toEqual(["EINVAL", "EINVAL"]);
    });

    test("a socket has but the addresses of its family", async () => {
      for (const call of ["bind", "connect"] as const) {
        const [four, six, unix] = [AF_INET, AF_INET6, AF_UNIX].map((family) => closing(socket(family)));
        await expect(four?.[call]("[::1]:9")).rejects.toEqual(code("ERR_NAME"));
        await expect(six?.[call]("127.0.0.1:9")).rejects.toEqual(code("ERR_NAME"));
        await expect(four?.[call]({ path: "/x" })).rejects.toEqual(code("EAFNOSUPPORT"));
        await expect(unix?.[call]("127.0.0.1:9")).rejects.toEqual(code("EAFNOSUPPORT"));
      }
      const made = closing(socket(AF_INET, SOCK_DGRAM));
      await expect(made.bind("[::1]:0")).rejects.toEqual(code("ERR_NAME"));
      await expect(made.sendto("x", "[::1]:9")).rejects.toEqual(code("ERR_NAME"));
    });

    test("a path in a folder that is not there", async () => {
      const path = join(folder, "none/such");
      await expect(closing(socket(AF_UNIX)).bind({ path })).rejects.toThrow(/ENOENT.*no folder/);
    });

    test("a path in a folder that may not be written", () => {
      const path = join(folder, "s"); // through the kernel's answer, since the user of the tests may have write access everywhere
      const error = bindError({ code: "EACCES" }, { family: "unix", path }, `unix:${path}`);
      expect(error.message).toBe(`EACCES: unix:${path}: this process may not create a file in ${folder}`);
    });
  });

  // A listener whose queue is full, so that the kernel does not answer; after a line it accepts.
  const FULL = `
import socket, sys
family, name = int(sys.argv[1]), sys.argv[2]
s = socket.socket(family)
s.bind(name if name else ("127.0.0.1", 0))
s.listen(0)
first = socket.socket(family); first.connect(s.getsockname())
print(s.getsockname()[1], flush=True)
sys.stdin.readline()
s.accept()
c, _ = s.accept(); c.sendall(b"welcome"); c.recv(1)
`;

  describeWith(["python3"], "connect() to where nobody answers", () => {
    test("rejects with ETIMEDOUT when its time is up", async () => {
      await using full = start("python3", ["-c", FULL, AF_INET, ""]);
      const near = closing(socket());
      near.settimeout(50);
      await expect(near.connect(`127.0.0.1:${await full.line()}`)).rejects.toEqual(code("ETIMEDOUT"));
    });

    test("rejects with ECANCELED when it is closed, and keeps no descriptor", async () => {
      await using full = start("python3", ["-c", FULL, AF_INET, ""]);
      const at = `127.0.0.1:${await full.line()}`;
      const open = descriptors();
      for (const end of ["close", "abort"] as const) {
        const near = socket();
        const connecting = outcome(() => near.connect(at));
        await near[end]();
        expect(await connecting).toBe("ECANCELED");
      }
      await descriptorsAre(open);
    });

    test("waits for room in the queue of a Unix listener", async () => {
      const path = newPath();
      await using full = start("python3", ["-c", FULL, AF_UNIX, path]);
      await full.line();
      const hasty = closing(socket(AF_UNIX));
      hasty.settimeout(30);
      await expect(hasty.connect({ path })).rejects.toEqual(code("ETIMEDOUT"));
      const near = closing(socket(AF_UNIX));
      const connecting = near.connect({ path });
      full.write("accept\n");
      await connecting;
      expect(string(await near.recv())).toBe("welcome");
      await near.sendall("x");
    });
  });

  describe("connections that are accepted", () => {
    test("are read from when somebody asks", async () => {
      const { near, far } = await connection();
      await near.sendall("asked for by nobody");
      expect([far.bytesRead, far.rfile.buffered]).toEqual([0, 0]);
      expect(string(await far.recv())).toBe("asked for by nobody");
    });

    test("are sockets: blocking, of their listener's family, and with recvfrom()", async () => {
      const { near, far } = await connection();
      expect([far.gettimeout(), far.family, far.type, far.proto]).toEqual([null, AF_INET, SOCK_STREAM, 0]);
      await expect(far.accept()).rejects.toEqual(code("EINVAL"));
      await near.sendto("hello", MSG_DONTWAIT, "127.0.0.1:9");
      expect(await far.recvfrom()).toEqual([new TextEncoder().encode("hello"), null]);
      await near.close();
      expect(await far.recvfrom()).toEqual([null, null]);
    });

    test("tell both names of a Unix connection", async () => {
      const listener = await listening(AF_UNIX);
      const near = closing(socket(AF_UNIX));
      await near.bind(free(AF_UNIX));
      await near.connect(nameOf(listener));
      const [far, address] = await listener.accept();
      closing(far);
      expect([near.getpeername(), far.getsockname()]).toEqual([nameOf(listener), nameOf(listener)]);
      // Only the kernel knows who connected.
      expect([address, far.getpeername()]).toEqual(native ? [nameOf(near), nameOf(near)] : [null, null]);
      await near.sendall("by path");
      expect(string(await far.recv())).toBe("by path");
      await using dialled = await createConnection(nameOf(listener));
      expect([dialled.getpeername(), dialled.family]).toEqual([nameOf(listener), AF_UNIX]);
    });

    test(`come by a path that ${native ? "stays" : "goes"} with its listener`, async () => {
      const listener = await listening(AF_UNIX);
      const { path } = nameOf(listener) as { path: string };
      expect(existsSync(path)).toBe(true);
      await listener.close();
      expect(existsSync(path)).toBe(native);
    });

    test("are those that one process of a cluster is given, when it listens itself", async () => {
      const program = `
        import cluster from "node:cluster";
        import { writeFileSync } from "node:fs";
        cluster.setupPrimary({ exec: ${JSON.stringify(join(folder, `worker-${native}.mjs`))}, execArgv: ["--conditions=socklet:source"] });
        writeFileSync(${JSON.stringify(join(folder, `worker-${native}.mjs`))}, ${JSON.stringify(`
          import { createConnection, createServer } from ${JSON.stringify(new URL("../../emulator/index.ts", import.meta.url).href)};
          const listener = await createServer("127.0.0.1:0");
          const dialling = createConnection(listener.getsockname());
          const [far] = await listener.accept();
          const near = await dialling;
          await near.sendall("in a worker");
          process.send(new TextDecoder().decode(await far.recv()));
          await Promise.all([near.close(), far.close(), listener.close()]);
          process.disconnect();`)});
        const worker = cluster.fork();
        worker.on("message", (said) => print(said));
        worker.on("exit", (status) => print("ended with " + status));`;
      const { said, errors } = await child(program, { native }).ended;
      expect([said, errors]).toEqual(["in a worker\nended with 0\n", ""]);
    });
  });

  describe("descriptors", () => {
    testNative("one is there at once, and stays, also when connect() fails", async () => {
      const listener = closing(socket());
      const near = closing(socket());
      const [fd, other] = [listener.fileno(), near.fileno()];
      expect(await near.connectEx(`127.0.0.1:${await reservePort()}`)).toBe(111);
      expect(near.fileno()).toBe(other);
      await listener.bind("127.0.0.1:0");
      await listener.listen();
      await near.connect(nameOf(listener));
      expect([listener.fileno(), near.fileno()]).toEqual([fd, other]);
      await Promise.all([listener.close(), near.close()]);
      expect([listener.fileno(), near.fileno()]).toEqual([-1, -1]);
      expect(() => near.getsockopt(SOL_SOCKET, SO_ERROR)).toThrow(code("EBADF"));
    });

    testPlain("there is none before bind() and connect()", async () => {
      const made = closing(socket());
      expect(() => made.fileno()).toThrow(/ERR_UNSUPPORTED.*before bind.*koffi/);
      await made.bind("127.0.0.1:0");
      expect(made.fileno()).toBeGreaterThan(2);
      await expect(made.detach()).rejects.toThrow(/ERR_UNSUPPORTED.*detach.*koffi/);
      const { near } = await connection();
      await expect(near.detach()).rejects.toThrow(/ERR_UNSUPPORTED.*detach.*koffi/);
      expect(near.closed).toBe(false);
      expect(() => fromfd(made.fileno(), AF_INET, SOCK_STREAM)).toThrow(/ERR_UNSUPPORTED.*fromfd.*koffi/);
    });

    test("what is no socket, or not of this kind, is not taken", async () => {
      const file = openSync("/dev/null", "r");
      onTestFinished(() => closeSync(file));
      const { near } = await connection();
      const open = descriptors();
      for (const type of [SOCK_STREAM, SOCK_DGRAM]) {
        expect(() => socket(AF_INET, type, 0, { fileno: file })).toThrow(code("ENOTSOCK"));
        expect(() => socket(AF_INET, type, 0, { fileno: 99_999 })).toThrow(code("EBADF"));
        expect(() => socket(AF_INET6, type, 0, { fileno: near.fileno() })).toThrow(code("EINVAL"));
      }
      expect(() => socket(AF_INET, SOCK_DGRAM, 0, { fileno: near.fileno() })).toThrow(
        /EINVAL.*type 1.*type 2/,
      );
      expect(() => socket(AF_INET, SOCK_STREAM, 0, { fileno: -1 })).toThrow(RangeError);
      if (native) expect(() => fromfd(near.fileno(), AF_UNIX, SOCK_STREAM)).toThrow(code("EINVAL"));
      expect(descriptors()).toBe(open);
    });

    testNative(
      "detach() gives a connection away with all that was written, and without its end",
      async () => {
        const { near, far } = await connection();
        const large = new Uint8Array(3_000_000).fill(7);
        near.wfile.write(large);
        const detaching = near.detach();
        expect((await far.rfile.readexactly(large.length)).every((byte) => byte === 7)).toBe(true);
        const heir = closing(socket(AF_INET, SOCK_STREAM, 0, { fileno: await detaching }));
        expect([near.closed, near.fileno(), await outcome(() => near.recv())]).toEqual([true, -1, "EBADF"]);
        await heir.sendall("goes on");
        expect(string(await far.recv())).toBe("goes on");
      },
    );

    testNative("detach() of one that is not connected gives its own number", async () => {
      const fresh = socket();
      const fd = fresh.fileno();
      expect([await fresh.detach(), fresh.closed]).toEqual([fd, true]);
      const bound = closing(socket(AF_INET, SOCK_STREAM, 0, { fileno: fd }));
      await bound.bind("127.0.0.1:0");
      const name = nameOf(bound);
      const again = closing(socket(AF_INET, SOCK_STREAM, 0, { fileno: await bound.detach() }));
      expect(again.getsockname()).toEqual(name);
      await expect(again.bind("127.0.0.1:0")).rejects.toEqual(code("EINVAL"));
    });

    test.each([
      ["TCP", AF_INET],
      ["Unix", AF_UNIX],
    ])("%s: one of another program's is taken over in the state it has", async (_, family) => {
      const server = net.createServer({ pauseOnConnect: true });
      server.listen(family === AF_UNIX ? { path: newPath() } : { host: "127.0.0.1", port: 0 });
      await once(server, "listening");
      let at = server.address() as net.AddressInfo | string;
      const dial = (): net.Socket => {
        const client = typeof at === "string" ? net.connect(at) : net.connect(at.port, at.address);
        onTestFinished(() => void client.destroy());
        return client;
      };
      const raw = dial().pause();
      const [[far]] = await Promise.all([once(server, "connection"), once(raw, "connect")]);
      onTestFinished(() => void far.destroy());
      const other = child(
        `const near = socket(${family}, 1, 0, { fileno: 3 });
         await near.sendall("from the child");
         const listener = socket(${family}, 1, 0, { fileno: 4 });
         print("taken");
         const [connection] = await listener.accept();
         print(new TextDecoder().decode(await connection.recv()));
         await Promise.all([connection.close(), near.close(), listener.close()]);`,
        { native, inherits: [fdOf(raw), fdOf(server)] },
      );
      const [said] = await once(far.resume(), "data");
      expect(String(said)).toBe("from the child");
      expect(await other.line()).toBe("taken");
      if (typeof at === "string") linkSync(at, `${at}~`); // which Node does not remove
      server.close(); // so that the child alone accepts
      if (typeof at === "string") at = `${at}~`;
      dial().write("to the child");
      expect(await other.line()).toBe("to the child");
      far.destroy();
      expect(await other.ended).toEqual({ status: 0, said: "", errors: "" });
    });
  });

  describe("urgent data", () => {
    testPlain("needs koffi", async () => {
      const { near, far } = await connection();
      await expect(near.send("!", MSG_OOB)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      await expect(far.recv(1, MSG_OOB)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      await expect(select([], [], [far])).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      await expect(near.send("x", MSG_DONTROUTE)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
    });

    testNative("passes what was written before it, and is one byte", async () => {
      const { near, far } = await connection();
      await expect(far.recv(1, MSG_OOB)).rejects.toEqual(code("EINVAL"));
      const large = new Uint8Array(2_000_000).fill(7);
      near.wfile.write(large);
      const sent = near.send("ab!", MSG_OOB); // when all of that has left
      expect(await far.rfile.readexactly(large.length)).toEqual(large);
      expect(await sent).toBe(3);
      expect(await select([], [], [far])).toEqual([[], [], [far]]);
      expect(far.readiness(POLLPRI)).toBe(POLLPRI);
      expect(string(await far.recv(9, MSG_OOB))).toBe("!");
      expect(far.readiness(POLLPRI)).toBe(0);
      expect(string(await far.recv())).toBe("ab");
      await near.sendall("and on");
      expect(string(await far.recv())).toBe("and on");
    });

    testNative("wakes who waits for it, each time; closing ends the wait; nothing is left open", async () => {
      const { near, far } = await connection();
      const open = descriptors();
      for (const byte of ["1", "2", "3"]) {
        const waiting = select([], [], [far]);
        await near.send(byte, MSG_OOB);
        expect(await waiting).toEqual([[], [], [far]]);
        expect(string(await far.recv(1, MSG_OOB))).toBe(byte);
        expect(await select([], [], [far], 0)).toEqual([[], [], []]);
      }
      await descriptorsAre(open);
      const waiting = outcome(() => select([], [], [far]));
      await far.close();
      expect(await waiting).toBe("EBADF");
      expect(descriptors()).toBeLessThanOrEqual(open); // at once: its own descriptor lingers, for 2 s at most
      await near.close();
      await descriptorsAre(open - 2);
    });

    testNative("is no reason for a process to live", async () => {
      const source = `
        const { select } = await import("socklet");
        const listener = await createServer("127.0.0.1:0");
        const near = socket();
        await near.connect(listener.getsockname());
        const [far] = await listener.accept();
        await listener.close();
        void select([], [], [far, near]);
        print("waits");`;
      expect(await child(source).ended).toMatchObject({ said: "waits\n", errors: "" });
    });

    describeNative(["openssl"], "in TLS", () => {
      testNative("cannot pass its records by, but the socket has its options", async () => {
        const { cert, key, ca } = ownCertificates() as Certificates;
        const { near, far } = await connection();
        await Promise.all([near.startTls({ ca, serverName: "localhost" }), far.startTls({ cert, key })]);
        await expect(near.send("!", MSG_OOB)).rejects.toEqual(code("EOPNOTSUPP"));
        await expect(near.detach()).rejects.toEqual(code("EOPNOTSUPP"));
        expect(near.fileno()).toBeGreaterThan(2);
        expect(near.getsockopt(SOL_SOCKET, SO_ERROR)).toBe(0);
        await near.sendall("secret");
        expect(string(await far.recv())).toBe("secret");
      });
    });

    describeNative(["python3"], "and Python's", () => {
      const URGENT = `
import select, socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
select.select([], [], [s])
print("urgent", s.recv(1, socket.MSG_OOB), flush=True)
print("plain", s.recv(16), flush=True)
s.send(b"?", socket.MSG_OOB)
s.sendall(b"thanks")
s.recv(1)
`;
      testNative("pass each other the same way", async () => {
        const listener = await listening();
        await using theirs = start("python3", ["-c", URGENT, portOf(listener)]);
        const far = closing((await listener.accept())[0]);
        await far.send("!", MSG_OOB);
        expect(await theirs.line()).toBe("urgent b'!'");
        const waiting = select([], [], [far]);
        await far.sendall("calmly");
        expect(await theirs.line()).toBe("plain b'calmly'");
        await waiting;
        expect(string(await far.recv(1, MSG_OOB))).toBe("?");
        expect(string(await far.recv())).toBe("thanks");
      });
    });

    testNative("MSG_DONTROUTE reaches the neighbour", async () => {
      const { near, far } = await connection();
      expect(await near.send("next door", MSG_DONTROUTE)).toBe(9);
      expect(string(await far.recv())).toBe("next door");
    });
  });

  describe("UDP", () => {
    test("a socket that nothing can reach is no reason for a process to live; one that is bound is", async () => {
      const source = `
        const fresh = socket(AF_INET, 2);
        process.once("beforeExit", async () => {
          print("nothing to wait for");
          await fresh.bind("127.0.0.1:0");
          const other = socket(AF_INET, 2);
          fresh.recv().then(async () => { print("heard"); await fresh.close(); await other.close(); });
          setTimeout(() => other.sendto("x", fresh.getsockname()), 20).unref();
        });`;
      expect(await child(source, { native }).ended).toEqual({
        status: 0,
        said: "nothing to wait for\nheard\n",
        errors: "",
      });
    });

    test.each([
      ["IPv4", AF_INET],
      ["IPv6", AF_INET6],
    ])("%s: 65507 bytes, none, and who sent them", async (_, family) => {
      const [one, other] = [await datagrams(family), await datagrams(family)];
      const large = crypto.getRandomValues(new Uint8Array(65_507));
      expect(await one.sendto(large, nameOf(other))).toBe(65_507);
      expect(await one.sendto("", nameOf(other))).toBe(0);
      expect(await other.recvfrom()).toEqual([large, one.getsockname()]);
      expect(await other.recvfrom()).toEqual([new Uint8Array(0), one.getsockname()]);
      await expect(one.sendto(new Uint8Array(65_508), nameOf(other))).rejects.toEqual(code("EMSGSIZE"));
      await expect(one.bind(free(family))).rejects.toEqual(code("EINVAL"));
    });

    test("connected, it sends elsewhere, and takes another peer", async () => {
      const [one, other, third] = [await datagrams(), await datagrams(), await datagrams()];
      await one.connect(nameOf(other));
      const own = nameOf(one);
      const past = one.sendto("past its peer", nameOf(third));
      if (native) {
        await past;
        expect(await third.recvfrom()).toEqual([new TextEncoder().encode("past its peer"), own]);
      } else {
        await expect(past).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      }
      await one.connect(nameOf(third));
      await one.send("to the new one");
      expect(await third.recvfrom()).toEqual([new TextEncoder().encode("to the new one"), one.getsockname()]);
      if (native) expect(one.getsockname()).toEqual(own);
    });

    test("nobody takes its port, and its datagrams, but where both let", async () => {
      const one = await datagrams();
      await one.sendto("x", nameOf(one)); // it is open in every way
      const thief = closing(socket(AF_INET, SOCK_DGRAM));
      thief.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
      await expect(thief.bind(nameOf(one))).rejects.toEqual(code("EADDRINUSE"));
      const [open, second] = [closing(socket(AF_INET, SOCK_DGRAM)), closing(socket(AF_INET, SOCK_DGRAM))];
      for (const made of [open, second]) made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
      await open.bind(`127.0.0.1:${reserved}`); // with port 0 the kernel might choose somebody's who lets others in, too
      await second.bind(nameOf(open));
      expect(second.getsockname()).toEqual(open.getsockname());
    });

    test("a group is heard by who joined it", async () => {
      const hears = closing(socket(AF_INET, SOCK_DGRAM));
      // struct ip_mreq: a group of one's own (RFC 2365), by the loopback interface
      hears.setsockopt(SOL_IP, IP_ADD_MEMBERSHIP, Uint8Array.of(239, 255, 77, 1, 127, 0, 0, 1));
      await hears.bind("0.0.0.0:0");
      const sends = await datagrams();
      sends.setsockopt(SOL_IP, IP_MULTICAST_IF, Uint8Array.of(127, 0, 0, 1));
      await sends.sendto("to all", `239.255.77.1:${portOf(hears)}`);
      expect(string(await hears.recv())).toBe("to all");
    });

    test("MSG_DONTROUTE, and a broadcast, which needs leave", async () => {
      const [one, other] = [await datagrams(), await datagrams()];
      await expect(one.sendto("x", "<broadcast>:9")).rejects.toEqual(code("EACCES"));
      const sent = one.sendto("next door", MSG_DONTROUTE, nameOf(other));
      if (!native) return await expect(sent).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
      expect([await sent, string(await other.recv())]).toEqual([9, "next door"]);
    });

    describeWith(["python3"], "and Python's", () => {
      const ECHO = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
for _ in range(3):
    data, address = s.recvfrom(65535); s.sendto(data.upper(), address)
`;
      test("answer each other", async () => {
        await using theirs = start("python3", ["-c", ECHO]);
        const ours = await datagrams();
        await ours.connect(`127.0.0.1:${await theirs.line()}`);
        for (const word of ["one", "", "three"]) {
          await ours.send(word);
          expect(string(await ours.recv())).toBe(word.toUpperCase());
        }
      });
    });
  });

  describe("Unix datagrams", () => {
    testPlain("need koffi", async () => {
      expect(() => socket(AF_UNIX, SOCK_DGRAM)).toThrow(/ERR_UNSUPPORTED.*npm install koffi/);
      await expect(socketpair(AF_UNIX, SOCK_DGRAM)).rejects.toThrow(/ERR_UNSUPPORTED.*koffi/);
    });

    testNative("by a path and by an abstract name, of senders with and without a name", async () => {
      for (const path of [newPath(), `\0socklet-datagrams-${crypto.randomUUID()}`]) {
        const receiver = closing(socket(AF_UNIX, SOCK_DGRAM));
        expect(receiver.getsockname()).toBeNull();
        await receiver.bind({ path });
        expect(receiver.getsockname()).toEqual({ family: "unix", path });
        await closing(socket(AF_UNIX, SOCK_DGRAM)).sendto("who?", { path });
        expect(await receiver.recvfrom()).toEqual([new TextEncoder().encode("who?"), null]);
        const named = await datagrams(AF_UNIX);
        await named.connect({ path });
        await named.send("me");
        const [bytes, from] = await receiver.recvfrom();
        expect([string(bytes), from]).toEqual(["me", named.getsockname()]);
        await receiver.sendto("you", from as Address);
        expect(string(await named.recv())).toBe("you");
        expect(receiver.fileno()).toBeGreaterThan(2);
      }
    });

    testNative("connected, one hears its peer alone", async () => {
      const [one, other, third] = [
        await datagrams(AF_UNIX),
        await datagrams(AF_UNIX),
        await datagrams(AF_UNIX),
      ];
      await one.connect(nameOf(other));
      expect(one.getpeername()).toEqual(other.getsockname());
      // Linux refuses it to a socket that is not the peer.
      await expect(third.sendto("from a stranger", nameOf(one))).rejects.toThrow(/EPERM.*another peer/);
      await other.sendto("from the peer", nameOf(one));
      expect(string(await one.recv())).toBe("from the peer");
    });

    testNative("as long as the kernel takes them, and whole", async () => {
      const receiver = await datagrams(AF_UNIX);
      const sender = closing(socket(AF_UNIX, SOCK_DGRAM));
      sender.setsockopt(SOL_SOCKET, SO_SNDBUF, 100_000);
      expect(sender.getsockopt(SOL_SOCKET, SO_SNDBUF)).toBe(200_000);
      const large = Uint8Array.from({ length: 150_000 }, (_, i) => i * i); // more than UDP ever has
      await sender.sendto(large, nameOf(receiver));
      expect(await receiver.recv()).toEqual(large);
      const larger = sender.sendto(new Uint8Array(1_000_000), nameOf(receiver));
      await expect(larger).rejects.toEqual(code("EMSGSIZE"));
    });

    testNative("to where nobody is", async () => {
      const sender = closing(socket(AF_UNIX, SOCK_DGRAM));
      await expect(sender.sendto("x", { path: newPath() })).rejects.toEqual(code("ENOENT"));
      await expect(sender.connect({ path: newPath() })).rejects.toEqual(code("ENOENT"));
      const file = newPath();
      writeFileSync(file, "");
      await expect(sender.connect({ path: file })).rejects.toEqual(code("ECONNREFUSED"));
      await expect(sender.bind({ path: join(folder, "none/such") })).rejects.toThrow(/ENOENT.*no folder/);
      const receiver = await datagrams(AF_UNIX);
      const at = nameOf(receiver);
      await expect(sender.bind(at)).rejects.toEqual(code("EADDRINUSE"));
      await expect(receiver.bind({ path: newPath() })).rejects.toThrow(/EINVAL.*has an address already/);
      await receiver.close();
      expect(existsSync((at as { path: string }).path)).toBe(true); // as CPython's: it stays
      await expect(sender.sendto("x", at)).rejects.toEqual(code("ECONNREFUSED"));
    });

    testNative("of a pair", async () => {
      const [one, other] = await socketpair(AF_UNIX, SOCK_DGRAM);
      closing(one);
      closing(other);
      for (const piece of ["one", "", "two"]) await one.send(piece);
      expect([await other.recv(), await other.recv(), await other.recv()].map(string)).toEqual([
        "one",
        "",
        "two",
      ]);
      await other.send("back");
      expect(string(await one.recv())).toBe("back");
    });

    describeNative(["python3"], "and Python's, which reads nothing until it is told to", () => {
      const SLOW = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])
print("bound", flush=True)
sys.stdin.readline()
s.sendto(b"early", sys.argv[2])
got = [s.recv(16) for _ in range(int(sys.argv[3]))]
s.sendto(b"late", sys.argv[2])
print(got == [str(i).encode() for i in range(len(got))], flush=True)
`;
      const COUNTS = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1])
print("bound", flush=True)
sys.stdin.readline()
print(sum(1 for _ in iter(lambda: s.recv(16), b"last")), flush=True)
`;
      testNative("wait for room, in order, while others still come", async () => {
        const ours = await datagrams(AF_UNIX);
        const [theirs, own] = [newPath(), (nameOf(ours) as { path: string }).path];
        const count = 2_000; // more than Linux queues: net.unix.max_dgram_qlen, 10 to 512
        await using slow = start("python3", ["-c", SLOW, theirs, own, count]);
        await slow.line(/bound/);
        const sent = Array.from({ length: count }, (_, i) => ours.sendto(String(i), { path: theirs }));
        slow.write("read\n");
        expect(string(await ours.recv())).toBe("early");
        await Promise.all(sent);
        expect(string(await ours.recv())).toBe("late");
        expect(await slow.line()).toBe("True");
      });

      testNative("do not wait where they may not, and are not sent when their time is up", async () => {
        const ours = await datagrams(AF_UNIX);
        const theirs = newPath();
        await using slow = start("python3", ["-c", COUNTS, theirs]);
        await slow.line(/bound/);
        await ours.connect({ path: theirs });
        ours.setblocking(false);
        let sent = 0;
        while ((await outcome(() => ours.send("x"))) === "ok") sent++;
        expect(await outcome(() => ours.send("x"))).toBe("EWOULDBLOCK");
        ours.setblocking(true);
        expect(await outcome(() => ours.send("x", MSG_DONTWAIT))).toBe("EWOULDBLOCK");
        ours.settimeout(10);
        expect(await outcome(() => ours.send("too late"))).toBe("ETIMEDOUT");
        ours.settimeout(null);
        const last = ours.send("last");
        slow.write("read\n");
        await last;
        expect(await slow.line()).toBe(String(sent));
      });

      testNative("wait no more when they are closed", async () => {
        const ours = await datagrams(AF_UNIX);
        const theirs = newPath();
        await using slow = start("python3", ["-c", SLOW, theirs, (nameOf(ours) as { path: string }).path, 1]);
        await slow.line(/bound/);
        const sent = Array.from({ length: 1_000 }, () => outcome(() => ours.sendto("x", { path: theirs })));
        await sent[0];
        await ours.close();
        expect(new Set(await Promise.all(sent))).toEqual(new Set(["ok", "ECANCELED"]));
      });
    });
  });

  describe("UnixDatagramServer", () => {
    class Echo extends DatagramRequestHandler {
      override handle(): void {
        this.request.reply(this.request.truncated ? "truncated" : this.request.data);
      }
    }

    const serving = async (path = newPath()) => {
      const events: SockletEvent[] = [];
      const onEvent = (event: SockletEvent): void => void events.push(event);
      const server = new UnixDatagramServer({ path }, Echo, { onEvent, maxPacketSize: 200_000 });
      await server.listen();
      onTestFinished(() => server.serverClose());
      void server.serveForever();
      return { server, path, events };
    };

    const CLIENTS = `
import socket, sys
def client(name):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(name); return s
server, reads, silent = sys.argv[1], client(sys.argv[1] + ".reads"), client(sys.argv[1] + ".silent")
reads.sendto(b"hello", server); print(reads.recv(99), flush=True)
large = bytes(int(sys.argv[2])); reads.sendto(large, server); print(len(reads.recv(200000)), flush=True)
sys.stdin.readline()
# More than Linux queues for one that does not read; the server takes them all the same.
for i in range(int(sys.argv[3])): silent.sendto(b"%d" % i, server)
sys.stdin.readline()
print([silent.recv(99) for i in range(int(sys.argv[3]))][-1], flush=True)
reads.sendto(b"again", server); print(reads.recv(99), flush=True)
`;

    describeNative(["python3"], "with koffi", () => {
      test("serves on when a client that took no replies has taken them; datagrams of any size, names of any kind", async () => {
        for (const path of [newPath(), `\0socklet-server-${crypto.randomUUID()}`]) {
          const { server, events } = await serving(path);
          expect(server.fileno()).toBeGreaterThan(2);
          expect(server.serverAddress).toEqual({ family: "unix", path });
          if (path.startsWith("\0")) continue; // no argument of a program has a NUL in it
          await using clients = start("python3", ["-c", CLIENTS, path, 100_000, 2_000]);
          expect([await clients.line(), await clients.line()]).toEqual(["b'hello'", "100000"]);
          clients.write("\n\n");
          expect([await clients.line(), await clients.line()]).toEqual(["b'1999'", "b'again'"]);
          expect(events.filter(({ type }) => type === "error" || type === "dropped")).toEqual([]);
        }
      });

      test("replies that wait when it is closed are told as dropped", async () => {
        const { server, path } = await serving();
        await using clients = start("python3", ["-c", CLIENTS, path, 9, 2_000]);
        expect([await clients.line(), await clients.line()]).toEqual(["b'hello'", "9"]);
        const [all, lost] = [Promise.withResolvers<void>(), Promise.withResolvers<SockletEvent>()];
        let ended = 0;
        server.onEvent = (event) => {
          if (event.type === "dropped") lost.resolve(event);
          if (event.type === "end" && ++ended === 2_000) all.resolve();
        };
        clients.write("\n");
        await all.promise;
        await server.serverClose();
        expect(await lost.promise).toMatchObject({ reason: "full", address: { path: `${path}.silent` } });
      });
    });

    testPlain(
      "by node-unix-socket: without koffi a datagram is cut, and who hears no more says so",
      async () => {
        const { server, path, events } = await serving();
        expect(() => server.fileno()).toThrow(/ERR_UNSUPPORTED.*descriptor of a server.*koffi/);
        expect(() => new UnixDatagramServer({ path: "\0socklet-none" }, Echo)).toThrow(
          /ERR_UNSUPPORTED.*abstract.*koffi/,
        );
        const told = Promise.withResolvers<SockletEvent>();
        server.onEvent = (event) => {
          if (event.type === "error") told.resolve(event);
        };
        await using clients = start("python3", ["-c", CLIENTS, path, 100_000, 2_000]);
        expect([await clients.line(), await clients.line()]).toEqual(["b'hello'", "9"]); // "truncated"
        clients.write("\n");
        expect(await told.promise).toMatchObject({
          error: expect.objectContaining({
            message: expect.stringMatching(/receives nothing from now on.*npm install koffi/),
          }),
        });
        expect(events.some(({ type }) => type === "error")).toBe(false);
      },
    );
  });

  describeWith(["python3"], "the tutorial's programs", () => {
    const CLIENT = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.connect(("127.0.0.1", int(sys.argv[1])))
sent = s.send(b"Hello, I come from pythontik.com")
print(sent, s.recv(1024).decode(), "%s:%d" % s.getsockname())
s.close()
`;
    test("S80: its client, and our server of socket(), bind(), listen() and accept()", async () => {
      const listener = await listening();
      await using client = start("python3", ["-c", CLIENT, portOf(listener)]);
      const [far, address] = await listener.accept();
      const heard = await far.recv(1024);
      expect(await far.send(`Got ${string(heard)}`)).toBe(36);
      expect(await far.recv()).toBeNull();
      await far.close();
      const { hostname, port } = address as InternetAddress;
      expect(await client.line()).toBe(`32 Got Hello, I come from pythontik.com ${hostname}:${port}`);
    });

    const SERVER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
s.bind(("127.0.0.1", 0)); s.listen(5)
print(s.getsockname()[1], flush=True)
c, address = s.accept()
print("Got connection from %s:%d" % address, flush=True)
c.sendall(b"Thank you for connecting")
print(c.recv(1024), flush=True)
c.close()
`;
    test("S84: its greeting server, and our client of socket(), connect() and recv()", async () => {
      await using server = start("python3", ["-c", SERVER]);
      const near = socket();
      await near.connect(`127.0.0.1:${await server.line()}`);
      expect(await server.line()).toBe(`Got connection from 127.0.0.1:${portOf(near)}`);
      expect(string(await near.recv(1024))).toBe("Thank you for connecting");
      await near.shutdown(SHUT_WR);
      expect(await server.line()).toBe("b''");
      expect(await near.recv()).toBeNull();
      await near.close();
    });
  });

  test("200 of each kind leave no descriptor", async () => {
    const listener = await createServer("127.0.0.1:0");
    const nobody = `127.0.0.1:${await reservePort()}`;
    const path = newPath();
    const once200 = async (): Promise<void> => {
      for (let i = 0; i < 200; i++) {
        await socket().close();
        await socket(AF_INET, SOCK_DGRAM).close();
        const bound = socket();
        await bound.bind("127.0.0.1:0");
        await bound.connectEx(nobody);
        await bound.close();
        const hears = socket(AF_INET, SOCK_DGRAM);
        await hears.bind("127.0.0.1:0");
        await hears.close();
        const unix = await createServer({ path });
        await unix.close();
        rmSync(path, { force: true });
        for (const end of await socketpair()) await end.close();
        const near = socket();
        await near.connect(nameOf(listener));
        const [far] = await listener.accept();
        if (native) closeSync(await near.detach());
        await near.close();
        await far.close();
      }
    };
    await socket().close(); // koffi is loaded
    const open = descriptors();
    await once200();
    await descriptorsAre(open);
    await listener.close();
  });

  test("a net.Socket of one's own has a kernel, too", async () => {
    const listener = await listening();
    const raw = net.connect({ port: portOf(listener), host: "127.0.0.1", allowHalfOpen: true });
    raw.pause();
    await once(raw, "connect");
    const near = closing(streamSocket(raw));
    expect(near.fileno()).toBe(fdOf(raw));
    near.setsockopt(SOL_SOCKET, SO_KEEPALIVE, true);
    expect(near.getsockopt(SOL_SOCKET, SO_KEEPALIVE)).toBe(1);
    await (await listener.accept())[0].close();
  });
});
