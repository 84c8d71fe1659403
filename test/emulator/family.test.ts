/** What all servers of the family share: their chain of classes, attributes, events on channels; files of Unix servers; clients. */

import { spawn } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  AF_INET,
  AF_INET6,
  AF_UNIX,
  BaseRequestHandler,
  BaseServer,
  type Datagram,
  DatagramRequestHandler,
  type InternetAddress,
  SO_RCVBUF,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
  type SockletEvent,
  StreamRequestHandler,
  ThreadingMixIn,
} from "socklet";
import {
  createConnection,
  createDatagramConnection,
  ForkingMixIn,
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
  handlerFrom,
  TCPConnector,
  TCPServer,
  ThreadingTCPServer,
  ThreadingUDPServer,
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UDPServer,
  UnixDatagramServer,
  UnixStreamConnector,
  UnixStreamServer,
} from "socklet/emulator";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";
import { reserveUdpPort } from "../peers/ports.ts";
import { describeWith, python } from "../peers/program.ts";

const folder = mkdtempSync(join(tmpdir(), "socklet-own-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const newPath = (): string => join(folder, String(++made));

class Upper extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) this.wfile.write(`${line.toUpperCase()}\n`);
  }
}

class UpperDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    this.request.reply(new TextDecoder().decode(this.request.data).toUpperCase());
  }
}

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    (value) => `no error, but ${value}`,
    (error) => error.code ?? `${error}`,
  );

const FAMILY = {
  TCPServer,
  ThreadingTCPServer,
  ForkingTCPServer,
  UDPServer,
  ThreadingUDPServer,
  ForkingUDPServer,
  UnixStreamServer,
  ThreadingUnixStreamServer,
  ForkingUnixStreamServer,
  UnixDatagramServer,
  ThreadingUnixDatagramServer,
  ForkingUnixDatagramServer,
} as const;

const forked = handlerFrom(import.meta.url, "Upper"); // never started

/** One of each class, which listens nowhere. */
const oneOf = (name: keyof typeof FAMILY): TCPServer => {
  const Server = FAMILY[name] as unknown as new (address: string, handler: unknown) => TCPServer;
  const address = name.includes("Unix")
    ? `unix:${newPath()}`
    : name.includes("UDP")
      ? "udp://127.0.0.1:0"
      : "127.0.0.1:0";
  const datagrams = name.includes("UDP") || name.includes("Datagram");
  return new Server(address, name.startsWith("Forking") ? forked : datagrams ? UpperDatagram : Upper);
};

const CHAIN = `
import json, socketserver as ss, sys
of = lambda name: getattr(ss, name, None) or type(name, (ss.ForkingMixIn, getattr(ss, name[len("Forking"):])), {}) # 3.12 has these
print(json.dumps({name: [c.__name__ for c in of(name).__mro__] for name in sys.argv[1:]}))
`;

describeWith(["python3"], "CPython's socketserver", () => {
  test("has the same chain of classes, mixins too", async () => {
    const names = Object.keys(FAMILY) as (keyof typeof FAMILY)[];
    const theirs: Record<string, string[]> = JSON.parse(await python(CHAIN, names));
    const ours: Readonly<Record<string, unknown>> = { ...FAMILY, BaseServer, ThreadingMixIn, ForkingMixIn };
    for (const name of names) {
      const server = oneOf(name);
      const chain = Object.keys(ours).filter((other) => server instanceof (ours[other] as typeof TCPServer));
      const expected = theirs[name]?.filter((other) => other !== "object");
      expect([name, chain.sort()]).toEqual([name, expected?.sort()]);
    }
    expect({}).not.toBeInstanceOf(ThreadingMixIn);
  });

  test("has the same attributes, with the same values but where the papers say otherwise", async () => {
    const script = `
import json, socketserver as ss
S = lambda C, a, **k: {n: getattr(C, n) for n in "address_family socket_type request_queue_size allow_reuse_address timeout max_packet_size max_children block_on_close daemon_threads".split() if hasattr(C, n)}
print(json.dumps({C.__name__: S(C, None) for C in [ss.TCPServer, ss.UDPServer, ss.UnixStreamServer, ss.UnixDatagramServer, ss.ThreadingTCPServer, ss.ForkingTCPServer]}, default=int))
`;
    const theirs = JSON.parse(await python(script)) as Record<keyof typeof FAMILY, Record<string, unknown>>;
    const differs: Readonly<Record<string, unknown>> = {
      requestQueueSize: 128, // CPython's class has 5, its listen() 128
      maxPacketSize: 65_535, // nothing is cut
    };
    for (const name of Object.keys(theirs) as (keyof typeof FAMILY)[]) {
      const server = oneOf(name) as unknown as Record<string, unknown>;
      for (const [theirName, value] of Object.entries(theirs[name])) {
        const ourName = theirName.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
        const milliseconds = ourName === "timeout" && typeof value === "number" ? value * 1000 : value;
        const reuse = ourName === "allowReuseAddress" && !/UDP|Datagram/.test(name);
        const expected = differs[ourName] ?? (reuse ? true : milliseconds); // as Node has it
        expect([name, ourName, server[ourName]]).toEqual([name, ourName, expected]);
      }
    }
  });
});

test("each has its family and type, and no descriptor before it is bound", () => {
  for (const name of Object.keys(FAMILY) as (keyof typeof FAMILY)[]) {
    const server = oneOf(name);
    expect(server.addressFamily).toBe(name.includes("Unix") ? AF_UNIX : AF_INET);
    expect(server.socketType).toBe(/UDP|Datagram/.test(name) ? SOCK_DGRAM : SOCK_STREAM);
    expect([server.serverAddress, server.info().state]).toEqual([null, "new"]);
    if (!name.includes("Datagram")) expect(server.fileno()).toBe(-1);
  }
  expect(new TCPServer("[::1]:0", Upper).addressFamily).toBe(AF_INET6);
});

test("what each listens with is a socket, with a descriptor and options", async () => {
  for (const [Server, Handler, at] of [
    [TCPServer, Upper, "127.0.0.1:0"],
    [ThreadingUDPServer, UpperDatagram, "udp://127.0.0.1:0"],
    [UnixStreamServer, Upper, `unix:${newPath()}`],
  ] as const) {
    const server = new (Server as unknown as new (...of: unknown[]) => TCPServer)(at, Handler);
    onTestFinished(() => server.serverClose());
    server.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 50_000);
    const address = await server.listen();
    expect(server.fileno()).toBeGreaterThan(2);
    expect(server.socket.getsockname()).toEqual(address);
    expect(server.socket.getsockopt(SOL_SOCKET, SO_RCVBUF)).toBe(100_000); // Linux doubles it
    await server.serverClose();
    expect(server.fileno()).toBe(-1);
  }
});

test("allowReuseAddress: of TCP as Node has it unless it is switched off, of UDP two may have one port", async () => {
  for (const reuse of [true, false]) {
    const server = new TCPServer("127.0.0.1:0", Upper);
    onTestFinished(() => server.serverClose());
    server.allowReuseAddress = reuse;
    await server.listen();
    expect(server.socket.getsockopt(SOL_SOCKET, SO_REUSEADDR)).toBe(Number(reuse));
    // Where it is shared by intention, the kernel must not choose somebody's port who lets others in, too.
    const at = reuse ? await reserveUdpPort() : 0;
    const first = new UDPServer(`udp://127.0.0.1:${at}`, UpperDatagram, { allowReuseAddress: reuse });
    onTestFinished(() => first.serverClose());
    const { port } = (await first.listen()) as InternetAddress;
    const second = new UDPServer(`udp://127.0.0.1:${port}`, UpperDatagram, { allowReuseAddress: reuse });
    onTestFinished(() => second.serverClose());
    expect(await codeOf(second.listen().then((address) => (address as InternetAddress).port))).toBe(
      reuse ? `no error, but ${port}` : "EADDRINUSE",
    );
  }
});

test("a Unix sender without a name has no address, and a reply to it is an error that says so", async () => {
  const failed = Promise.withResolvers<SockletEvent>();
  const path = newPath();
  const server = new UnixDatagramServer(`unix:${path}`, UpperDatagram, {
    onEvent: (event) => event.type === "error" && failed.resolve(event),
  });
  onTestFinished(() => server.serverClose());
  await server.listen();
  void server.serveForever();
  await using client = await createDatagramConnection(`unix:${path}`, { timeout: null });
  await client.send("hello");
  expect(await failed.promise).toMatchObject({ address: null, error: { code: "ENOTCONN" } });
  expect(((await failed.promise) as { error: Error }).error.message).toMatch(
    /no name to reply to: it must bind one/,
  );
});

describe("the file of a Unix server", () => {
  const serverAt = (path: string, Server: typeof UnixStreamServer = UnixStreamServer) => {
    const server = new Server(`unix:${path}`, Upper);
    onTestFinished(() => server.serverClose());
    return server;
  };

  /** A socket's file whose process is gone. */
  const stale = async (path: string): Promise<void> => {
    const script = `require("node:net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`;
    const child = spawn(process.execPath, ["-e", script], { stdio: "ignore" });
    await once(child, "exit");
    expect(statSync(path).isSocket()).toBe(true);
  };

  for (const [kind, Server, Handler] of [
    ["stream", UnixStreamServer, Upper],
    ["datagram", UnixDatagramServer, UpperDatagram],
  ] as const) {
    test(`that nobody listens at any more is removed; one that somebody does is not (${kind})`, async () => {
      const path = newPath();
      await stale(path);
      const make = () =>
        new (Server as unknown as new (address: string, handler: unknown) => TCPServer)(
          `unix:${path}`,
          Handler,
        );
      const server = make();
      onTestFinished(() => server.serverClose());
      expect(await server.listen()).toEqual({ family: "unix", path });
      const second = make();
      await expect(second.listen()).rejects.toMatchObject({ code: "EADDRINUSE", address: `unix:${path}` });
      expect(existsSync(path)).toBe(true);
      await server.serverClose();
      expect(existsSync(path)).toBe(false);
    });
  }

  test("that is no socket is left alone, and so is what a link leads to", async () => {
    const file = newPath();
    writeFileSync(file, "precious");
    expect(await codeOf(serverAt(file).listen())).toBe("EADDRINUSE");
    const link = newPath();
    symlinkSync(file, link);
    expect(await codeOf(serverAt(link).listen())).toBe("EADDRINUSE");
    const directory = newPath();
    mkdirSync(directory);
    expect(await codeOf(serverAt(directory).listen())).toBe("EADDRINUSE");
    expect(existsSync(file)).toBe(true);
  });

  test("of another, who took its place meanwhile, stays when this one closes", async () => {
    const path = newPath();
    const first = serverAt(path);
    await first.listen();
    unlinkSync(path);
    const second = serverAt(path);
    await second.listen();
    void second.serveForever();
    await first.serverClose();
    await using client = await createConnection(`unix:${path}`);
    await client.sendall("still\n");
    expect(await client.rfile.line()).toBe("STILL");
    linkSync(path, `${path}.kept`); // it is a socket's own file
  });

  test("in no folder, and with a name that is too long, are said clearly", async () => {
    expect(await codeOf(serverAt(join(folder, "no", "such")).listen())).toBe("ENOENT");
    expect(() => serverAt(`/tmp/${"x".repeat(110)}`)).toThrow(/at most \d+ bytes, not 115/);
    expect(() => new UnixStreamServer("127.0.0.1:0", Upper)).toThrow(/a path, unix:\/run\/name/);
    expect(() => new UnixStreamServer("unix:/tmp/x", Upper, { access: {} } as object)).toThrow(
      /permissions of its file.*proxyProtocol: \{ from: \["unix"\] \}/,
    );
  });
});

test("events are on node:diagnostics_channel, with durations and bytes, whoever made the server", async () => {
  const events: SockletEvent[] = [];
  const closed = Promise.withResolvers<void>();
  const types = [
    "listening",
    "begin",
    "handler",
    "refused",
    "end",
    "error",
    "draining",
    "suspended",
    "resumed",
  ];
  const told = (message: unknown): void => {
    const event = message as SockletEvent;
    if (event.server !== "told") return; // another test's, in this process
    events.push(event);
    if (event.type === "closed") closed.resolve();
  };
  for (const type of [...types, "closed"]) {
    subscribe(`socklet:${type}`, told);
    onTestFinished(() => void unsubscribe(`socklet:${type}`, told));
  }
  class Emits extends Upper {
    override handle(): Promise<void> {
      this.emit("here");
      return super.handle();
    }
  }
  const server = new ThreadingTCPServer("127.0.0.1:0", Emits, {
    name: "told",
    access: { deny: ["127.0.0.2"] },
  });
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  const client = await createConnection(address);
  await client.sendall("four\n");
  expect(await client.rfile.line()).toBe("FOUR");
  const refused = net.connect({ port: address.port, host: address.hostname, localAddress: "127.0.0.2" });
  await once(refused, "error");
  server.suspend("hold");
  server.resume();
  const closing = server.serverClose();
  await client.close();
  await closing;
  await closed.promise;
  expect(events.map(({ type }) => type).sort()).toEqual(
    ["begin", "closed", "draining", "end", "handler", "listening", "refused", "resumed", "suspended"].sort(),
  );
  const of = (type: string) => events.find((event) => event.type === type);
  expect(of("end")).toMatchObject({ bytesRead: 5, bytesWritten: 5, failed: false });
  expect((of("end") as { duration: number }).duration).toBeGreaterThan(0);
  expect(of("refused")).toMatchObject({ reason: "access", address: { hostname: "127.0.0.2" } });
  expect(of("closed")).toMatchObject({ served: 1, refused: 1, bytesRead: 5, bytesWritten: 5 });
  expect((of("closed") as { duration: number }).duration).toBeGreaterThan(0);
});

describe("clients", () => {
  test("a UnixStreamConnector dials paths alone, and is a TCPConnector", async () => {
    class Asks extends StreamRequestHandler {
      override async handle(): Promise<unknown> {
        this.wfile.write(`${this.params}\n`);
        return this.rfile.line();
      }
    }
    const path = newPath();
    const server = new ThreadingUnixStreamServer(`unix:${path}`, Upper);
    onTestFinished(() => server.serverClose());
    await server.listen();
    void server.serveForever();
    const connector = new UnixStreamConnector({ path }, Asks);
    expect(connector).toBeInstanceOf(TCPConnector);
    expect(await connector.run({ params: "hello" })).toBe("HELLO");
    expect(await codeOf(new UnixStreamConnector(`unix:${newPath()}`, Asks).run())).toBe("ENOENT");
    expect(() => new UnixStreamConnector("127.0.0.1:7", Asks)).toThrow(
      /dials a path, unix:\/run\/name; .*is for a TCPConnector/,
    );
  });

  test("a datagram client sends to one peer and hears no other, over UDP of both versions, by a name and on a path", async () => {
    const path = newPath();
    for (const [Server, at] of [
      [ThreadingUDPServer, "udp://127.0.0.1:0"],
      [ThreadingUDPServer, "udp://[::1]:0"],
      [ThreadingUnixDatagramServer, `unix:${path}`],
    ] as const) {
      const server = new (Server as typeof ThreadingUDPServer)(at, UpperDatagram);
      onTestFinished(() => server.serverClose());
      const address = (await server.listen()) as Address;
      void server.serveForever();
      const own = address.family === "unix" ? { localAddress: `unix:${newPath()}` } : {};
      await using client = await createDatagramConnection(address, { timeout: null, ...own });
      await client.send("hello");
      expect(new TextDecoder().decode(await client.recv())).toBe("HELLO");
      expect(client.getpeername()).toEqual(address);
    }
    const server = new UDPServer("udp://localhost:0", UpperDatagram);
    onTestFinished(() => server.serverClose());
    const { port } = (await server.listen()) as InternetAddress;
    void server.serveForever();
    await using named = await createDatagramConnection(`localhost:${port}`, { timeout: null });
    await named.send("by name");
    expect(new TextDecoder().decode(await named.recv())).toBe("BY NAME");
  });

  test("a datagram client says what is wrong, and does not wait for ever", async () => {
    class Silent extends DatagramRequestHandler {}
    const server = new ThreadingUDPServer("127.0.0.1:0", Silent);
    onTestFinished(() => server.serverClose());
    const address = (await server.listen()) as Address;
    void server.serveForever();
    await using client = await createDatagramConnection(address, { timeout: 20 });
    await client.send("hello");
    expect(await codeOf(client.recv())).toBe("ETIMEDOUT");
    expect(await codeOf(createDatagramConnection("udp://nosuch.invalid:7"))).toBe("ERR_NAME");
    expect(await codeOf(createDatagramConnection(`unix:${newPath()}`))).toBe("ENOENT");
    await expect(createDatagramConnection("tcp://127.0.0.1:7")).rejects.toThrow(/createConnection/);
    await expect(createDatagramConnection("127.0.0.1:0")).rejects.toThrow(/port 0/);
    await expect(createDatagramConnection("127.0.0.1:7", { timeout: -1 })).rejects.toThrow(RangeError);
  });

  test("a write has a time-out of its own, where it is given one", async () => {
    class Floods extends StreamRequestHandler {
      override async handle(): Promise<void> {
        for (;;) await this.request.sendall(new Uint8Array(1 << 20));
      }
    }
    const failed = Promise.withResolvers<unknown>();
    const server = new ThreadingTCPServer("127.0.0.1:0", Floods, {
      stream: { timeout: null, writeTimeout: 30 },
      onEvent: (event) => event.type === "error" && failed.resolve(event.error),
    });
    onTestFinished(() => server.serverClose());
    const address = (await server.listen()) as InternetAddress;
    void server.serveForever();
    const peer = net.connect(address.port, address.hostname).pause();
    onTestFinished(() => void peer.destroy());
    expect(await failed.promise).toMatchObject({ code: "ETIMEDOUT" });
  });
});

describe("an app's listeners", () => {
  /** `socklet serve` of the app; returns the address of each listener. */
  const served = async (): Promise<{
    readonly urls: Readonly<Record<string, string>>;
    readonly said: () => string;
    readonly pid: number;
    readonly folder: string;
    stop(): Promise<unknown>;
  }> => {
    const own = newPath();
    mkdirSync(own);
    const root = new URL("../..", import.meta.url);
    const args = [
      "--conditions=socklet:source",
      "emulator/command/cli.ts",
      "serve",
      "test/emulator/fixtures/family-app.ts",
    ];
    const child = spawn(process.execPath, [...args, "--no-control", "--verbose"], {
      cwd: root,
      env: { ...process.env, FAMILY_FOLDER: own },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const ended = once(child, "close"); // all that it said has been read then
    onTestFinished(async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      await ended;
    });
    let stderr = "";
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    let stdout = "";
    child.stdout.setEncoding("utf8");
    while (!stdout.includes(`nc -U ${own}/p\n`)) stdout += (await once(child.stdout, "data"))[0]; // the last line
    return {
      urls: Object.fromEntries(
        [...stdout.matchAll(/^(\w+) +((?:tcp|udp|unix):\S+)$/gm)].map(([, ...of]) => of),
      ),
      said: () => stderr,
      pid: child.pid as number,
      folder: own,
      stop: () => {
        child.kill("SIGTERM");
        return ended;
      },
    };
  };

  const clients: { abort(): void }[] = [];
  const leave = (): void => {
    for (const client of clients.splice(0)) client.abort();
  };
  const dial = async (url: string | undefined) => {
    const client = await createConnection(url as string);
    clients.push(client);
    return client;
  };
  const ask = async (client: Awaited<ReturnType<typeof dial>>, line: string): Promise<string | null> => {
    await client.sendall(`${line}\n`);
    return client.rfile.line();
  };
  const asked = async (url: string | undefined, line: string) => ask(await dial(url), line);
  /** How an unserved connection ends; its reset may come before it is open. */
  const turnedAway = (url: string | undefined) => codeOf(dial(url).then((client) => client.recv()));
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

  test("are of every kind, forking too; their limits and rules hold; a stop leaves no file", async () => {
    const { urls, said, pid, folder, stop } = await served();
    onTestFinished(leave);
    expect(urls.path).toBe(`unix:${folder}/p`);
    expect(await ask(await dial(urls.path), "hello")).toBe(`HELLO ${pid}`);

    for (const name of ["forkTCP", "forkUnix"] as const) {
      const [word, child] = ((await ask(await dial(urls[name]), "hello")) ?? "").split(" ");
      expect([name, word, Number(child) > 0 && Number(child) !== pid]).toEqual([name, "HELLO", true]);
    }
    for (const name of ["forkUDP", "forkUnixDatagrams"] as const) {
      const own = name === "forkUDP" ? {} : { localAddress: `unix:${folder}/own` };
      await using client = await createDatagramConnection(urls[name] as string, { timeout: null, ...own });
      await client.send("hello");
      const [word, child] = text(await client.recv()).split(" ");
      expect([name, word, Number(child) > 0 && Number(child) !== pid]).toEqual([name, "HELLO", true]);
    }

    const first = await dial(urls.onePerAddress);
    expect(await ask(first, "one")).toBe(`ONE ${pid}`);
    expect(await turnedAway(urls.onePerAddress)).toBe("ECONNRESET");
    expect(await turnedAway(urls.notMine)).toBe("ECONNRESET");
    for (const expected of [`X ${pid}`, `X ${pid}`, "ECONNRESET"]) {
      expect(await asked(urls.rarely, "x").catch((error) => error.code)).toBe(expected);
    }
    const busy = await dial(urls.full);
    expect(await ask(busy, "x")).toBe(`X ${pid}`);
    expect(await turnedAway(urls.full)).toBe("ECONNRESET");
    expect(await turnedAway(urls.short)).toBe("ECONNRESET");
    expect(await codeOf(asked(urls.shortLines, "longer than that"))).toMatch(/ECONNRESET|but null/);

    await using meagre = await createDatagramConnection(urls.meagre as string, { timeout: null });
    await meagre.send("much");
    await meagre.send("little");
    expect(text(await meagre.recv())).toBe(`LITTLE ${pid}`); // 400 bytes for 4 were dropped
    await meagre.send("y".repeat(200));
    expect(text(await meagre.recv())).toBe(`${"Y".repeat(100)} ${pid}`);

    leave();
    expect(await stop()).toEqual([0, null]);
    for (const why of ["address", "access", "rate", "full"]) expect(said()).toContain(`refused (${why})`);
    expect(said()).toMatch(/"type":"timeout".*"limit":"requestTimeout","timeout":100/);
    expect(said()).toMatch(/"type":"dropped".*"bytes":400,"reason":"amplification"/);
    expect(said()).toMatch(/shortLines.*ERR_LIMIT/);
    for (const name of ["s", "d", "p"]) expect(existsSync(join(folder, name))).toBe(false);
  });
});

test.runIf(process.platform === "linux")(
  "allowReusePort: several servers have one port, by TCP and by UDP, and without it the second fails",
  async () => {
    for (const [Server, Handler, scheme] of [
      [ThreadingTCPServer, Upper, "tcp"],
      [ThreadingUDPServer, UpperDatagram, "udp"],
    ] as const) {
      const make = (port: number, allowReusePort: boolean) => {
        const server = new (Server as unknown as new (...of: unknown[]) => TCPServer)(
          `${scheme}://127.0.0.1:${port}`,
          Handler,
          { allowReusePort },
        );
        onTestFinished(() => server.serverClose());
        return server;
      };
      const first = make(0, true);
      const { port } = (await first.listen()) as InternetAddress;
      const second = make(port, true);
      expect(await second.listen()).toMatchObject({ port });
      expect(await codeOf(make(port, false).listen())).toBe("EADDRINUSE");
      for (const server of [first, second]) void server.serveForever();
      // The kernel chooses by the client's address: of enough clients each has some.
      const counts = (): number[] => [first, second].map((server) => server.info().served);
      for (let i = 0; counts().includes(0); i++) {
        expect(i).toBeLessThan(200);
        if (scheme === "tcp") {
          const client = await createConnection(`127.0.0.1:${port}`);
          await client.sendall("x\n");
          expect(await client.rfile.line()).toBe("X");
          await client.close();
        } else {
          await using client = await createDatagramConnection(`127.0.0.1:${port}`, { timeout: null });
          await client.send("x");
          expect(new TextDecoder().decode(await client.recv())).toBe("X");
        }
      }
    }
  },
);
