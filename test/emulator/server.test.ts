/** The life of a server: on real sockets, and in memory where both can. Waits are for events, never for time. */

import { readlinkSync } from "node:fs";
import net from "node:net";
import {
  type Address,
  type BaseServer,
  DatagramRequestHandler,
  SHUT_WR,
  type SockletEvent,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import {
  createConnection,
  TCPConnector,
  TCPServer,
  ThreadingTCPServer,
  ThreadingUDPServer,
  UDPServer,
} from "socklet/emulator";
import { MemoryServer, ThreadingMemoryServer } from "socklet/testing";
import { afterEach, describe, expect, test } from "vitest";
import { runtime } from "../../emulator/runtime.ts";
import { Told } from "../core/told.ts";
import { ownAddress } from "../peers/ports.ts";

// biome-ignore lint/suspicious/noExplicitAny: handlers of any context
type AnyServer = BaseServer<StreamSocket, any>;
// biome-ignore lint/suspicious/noExplicitAny: as above
type AnyHandler = any;

const open: { serverClose?(): Promise<void>; abort(): unknown }[] = [];
const kept = <T extends { abort(): unknown }>(one: T): T => {
  open.push(one);
  return one;
};
afterEach(async () => {
  for (const one of open.splice(0).reverse()) {
    one.abort();
    await one.serverClose?.();
  }
});

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "no error",
    (error) => error.code ?? `${error}`,
  );

const tcpDial = async (server: AnyServer): Promise<StreamSocket> =>
  kept(await createConnection(server.serverAddress as Address));

const places: Record<
  string,
  {
    readonly serial: (handler: AnyHandler, options?: object) => AnyServer;
    /** At `address`, where there are any. */
    readonly threading: (handler: AnyHandler, options?: object, address?: string) => AnyServer;
    readonly dial: (server: AnyServer) => Promise<StreamSocket>;
  }
> = {
  memory: {
    serial: (handler, options) => new MemoryServer(handler, options),
    threading: (handler, options) => new ThreadingMemoryServer(handler, options),
    dial: async (server) => kept((server as MemoryServer).connect()),
  },
  "Node TCP": {
    serial: (handler, options) => new TCPServer("127.0.0.1:0", handler, options),
    threading: (handler, options, address = "127.0.0.1:0") =>
      new ThreadingTCPServer(address, handler, options),
    dial: tcpDial,
  },
};

/** Answers each line with itself, in capitals. */
const Upper = streamHandler(async ({ rfile, wfile }) => {
  for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\n`);
});

const ask = async (socket: StreamSocket, line: string): Promise<string | null> => {
  await socket.sendall(`${line}\n`);
  return socket.rfile.line();
};

for (const [place, { serial, threading, dial }] of Object.entries(places)) {
  describe(`server life: ${place}`, () => {
    const serve = (server: AnyServer): Promise<void> => kept(server).serveForever();
    const up = async (server: AnyServer): Promise<AnyServer> => {
      void serve(server);
      await server.listen();
      return server;
    };

    test("a serial server takes one at a time: the second client waits, unread, until the first is done", async () => {
      const events = new Told();
      const server = await up(serial(Upper, { onEvent: events.on }));
      const first = await dial(server);
      expect(await ask(first, "one")).toBe("ONE");
      const second = await dial(server);
      await second.sendall("two\n");
      expect(await ask(first, "three")).toBe("THREE");
      expect(server.info()).toMatchObject({ state: "serving", running: 1, served: 0 });
      expect(events.of("begin").length).toBe(1);
      await first.close();
      expect(await second.rfile.line()).toBe("TWO");
      await second.close();
      await events.next("end", 1, ({ id }) => id === 2);
      expect(server.info()).toMatchObject({ running: 0, served: 2, waiting: 0, refused: 0 });
    });

    test("what waits unserved is bounded: one more is refused with a reset, and counted", async () => {
      const events = new Told();
      const server = await up(serial(Upper, { onEvent: events.on, requestQueueSize: 3 }));
      const first = await dial(server);
      expect(await ask(first, "one")).toBe("ONE");
      const waiting = [];
      for (let i = 0; i < 3; i++) waiting.push(await dial(server));
      expect(await codeOf(dial(server).then((tooMany) => tooMany.recv()))).toBe("ECONNRESET");
      await events.next("refused", 1, ({ reason }) => reason === "full");
      expect(server.info()).toMatchObject({ running: 1, waiting: 3, refused: 1 });
      await first.close();
      for (const socket of waiting) {
        expect(await ask(socket, "next")).toBe("NEXT");
        await socket.close();
      }
    });

    test("a threading server serves side by side, up to maxRequests", async () => {
      const server = await up(threading(Upper, { maxRequests: 2 }));
      const sockets = [await dial(server), await dial(server), await dial(server)] as const;
      expect(await ask(sockets[0], "a")).toBe("A");
      expect(await ask(sockets[1], "b")).toBe("B");
      await sockets[2].sendall("c\n");
      expect(await ask(sockets[0], "d")).toBe("D");
      expect(server.info()).toMatchObject({ running: 2 });
      await sockets[1].close();
      expect(await sockets[2].rfile.line()).toBe("C");
    });

    test("serverClose() lets what runs finish, and takes no more", async () => {
      const server = threading(Upper, {}, await ownAddress());
      const serving = serve(server);
      await server.listen();
      const socket = await dial(server);
      expect(await ask(socket, "before")).toBe("BEFORE");
      const closing = server.serverClose();
      expect(await ask(socket, "during")).toBe("DURING");
      expect(server.info().state).toBe("closed");
      expect(await codeOf(dial(server).then((late) => late.rfile.readexactly(1)))).toMatch(/^ECONN/);
      await socket.close();
      await closing;
      await serving;
      expect(server.info()).toMatchObject({ running: 0, served: 1 });
      expect(await codeOf(server.listen())).toBe("EBADF");
    });

    test("past the drain time what runs is aborted: its signal, its reads, its connection", async () => {
      const seen: unknown[] = [];
      const handler = streamHandler(async (self) => {
        self.signal.addEventListener("abort", () => seen.push(self.signal.reason.code));
        self.wfile.write("ready\n");
        seen.push(await codeOf(self.rfile.line()));
      });
      const server = await up(threading(handler, { drainTimeout: 20 }));
      const socket = await dial(server);
      expect(await socket.rfile.line()).toBe("ready");
      await server.serverClose();
      expect(seen).toEqual(["ECONNABORTED", "ECONNABORTED"]);
      expect(await codeOf(socket.recv())).toBe("ECONNRESET");
      expect(server.info().running).toBe(0);
    });

    test("a handler that does not notice its abort is told as stuck, and does not hold up the close", async () => {
      const events = new Told();
      const never = new Promise(() => {});
      const handler = streamHandler(({ wfile }) => {
        wfile.write("ready\n");
        return never;
      });
      const server = await up(threading(handler, { drainTimeout: 1, onEvent: events.on }));
      const socket = await dial(server);
      expect(await socket.rfile.line()).toBe("ready");
      await server.serverClose();
      expect(events.all.filter(({ type }) => type === "stuck")).toMatchObject([{ type: "stuck", id: 1 }]);
    });

    for (const kind of ["serial", "threading"] as const) {
      test(`shutdown() from inside a handler never dead-locks (${kind})`, async () => {
        const handler = streamHandler(async ({ rfile, wfile, server }) => {
          const line = await rfile.line();
          await server.shutdown();
          wfile.write(`${line} and no more\n`);
        });
        const server = (kind === "serial" ? serial : threading)(handler);
        const serving = serve(server);
        await server.listen();
        const socket = await dial(server);
        expect(await ask(socket, "this")).toBe("this and no more");
        await serving;
        expect(server.info()).toMatchObject({ state: "listening", running: 0, served: 1 });
      });
    }

    test("after shutdown() it can serve again, and serves those who waited", async () => {
      const server = serial(Upper);
      const serving = serve(server);
      await server.listen();
      const first = await dial(server);
      expect(await ask(first, "x")).toBe("X");
      await server.shutdown();
      const second = await dial(server);
      await second.sendall("y\n");
      await first.close();
      await serving;
      void serve(server);
      expect(await second.rfile.line()).toBe("Y");
    });

    test("serveForever() stops for its signal, and refuses to run twice", async () => {
      const server = kept(threading(Upper));
      const stop = new AbortController();
      const serving = server.serveForever({ signal: stop.signal });
      expect(await codeOf(server.serveForever())).toBe("EBUSY");
      stop.abort();
      await serving;
      await server.serveForever({ signal: AbortSignal.abort() });
    });

    test("serveForever() ends in order if the server is closed while it is opened", async () => {
      const server = kept(threading(Upper));
      const serving = server.serveForever();
      await server.serverClose();
      await serving;
      expect(await codeOf(server.serveForever())).toBe("EBADF");
    });

    test("handleRequest() takes exactly one; a second client is not served", async () => {
      const events = new Told();
      const server = kept(serial(Upper, { onEvent: events.on }));
      await server.listen();
      const handled = server.handleRequest();
      const first = await dial(server);
      expect(await ask(first, "one")).toBe("ONE");
      const second = await dial(server);
      await second.sendall("two\n");
      await first.close();
      await handled;
      expect(events.of("begin").length).toBe(1);
      const again = server.handleRequest();
      expect(await second.rfile.line()).toBe("TWO");
      await second.close();
      await again;
      expect(events.of("begin").length).toBe(2);
    });

    test("handleRequest() of a threading server is back once the handler has begun", async () => {
      const server = kept(threading(Upper));
      await server.listen();
      const handled = server.handleRequest();
      const socket = await dial(server);
      await handled;
      expect(server.info().running).toBe(1);
      expect(await ask(socket, "still")).toBe("STILL");
    });

    test("handleRequest() calls handleTimeout() when nobody comes, and is canceled by a close", async () => {
      const server = kept(serial(Upper, { timeout: 5 }));
      let timeouts = 0;
      server.handleTimeout = () => void timeouts++;
      await server.handleRequest();
      expect(timeouts).toBe(1);
      server.timeout = null;
      const waiting = codeOf(server.handleRequest());
      await server.listen();
      await server.serverClose();
      expect(await waiting).toBe("ECANCELED");
    });

    test("a handler has its server, its context, its peer's address; emit() is told", async () => {
      const events = new Told();
      class Tell extends StreamRequestHandler<{ name: string }> {
        override readonly timeout = 1234;
        override handle() {
          this.emit({ greeted: this.context.name });
          this.wfile.write(
            JSON.stringify([
              this.server.name,
              this.clientAddress,
              this.request.getpeername(),
              this.request.gettimeout(),
              this.params ?? "none",
              this.connection === this.request,
              this.signal.aborted,
            ]),
          );
        }
      }
      const server = await up(threading(Tell, { context: { name: "Ada" }, onEvent: events.on }));
      const socket = await dial(server);
      const bytes = (await socket.rfile.read()) ?? new Uint8Array(0);
      const peer = socket.getsockname();
      expect(JSON.parse(new TextDecoder().decode(bytes))).toEqual([
        "Tell",
        peer,
        peer,
        1234,
        "none",
        true,
        false,
      ]);
      await events.next("end");
      expect(events.all.map(({ type }) => type)).toEqual(["listening", "begin", "handler", "end"]);
      expect(events.all[2]).toEqual({
        type: "handler",
        server: "Tell",
        id: 1,
        address: peer,
        detail: { greeted: "Ada" },
      });
      expect(events.all[3]).toMatchObject({ bytesRead: 0, bytesWritten: bytes.length, failed: false });
    });

    test("a peer that resets in mid-line fails its own request, and the server stays up", async () => {
      const events = new Told();
      const server = await up(threading(Upper, { onEvent: events.on }));
      const rude = await dial(server);
      expect(await ask(rude, "hello")).toBe("HELLO");
      await rude.sendall("half a li");
      rude.abort();
      expect(await events.next("error")).toMatchObject({
        id: 1,
        error: { code: "ECONNRESET" },
      });
      const next = await dial(server);
      expect(await ask(next, "well?")).toBe("WELL?");
    });

    test("one request's output does not wait for another's: a peer that asks and never reads holds itself up", async () => {
      const server = await up(threading(Upper));
      const greedy = await dial(server);
      greedy.settimeout(100);
      const flood = `${"x".repeat(8000)}\n`.repeat(100);
      let code: unknown = "no error";
      for (let i = 0; i < 200 && code === "no error"; i++) code = await codeOf(greedy.sendall(flood));
      expect(code).toBe("ETIMEDOUT"); // the server stops reading from a client that does not read
      const polite = await dial(server);
      expect(await ask(polite, "hello")).toBe("HELLO");
    });

    test("a listener of events that throws harms no request, and is told so", async () => {
      const fault = new Error("the log is full");
      const reported: SockletEvent[] = [];
      const server = await up(
        threading(Upper, {
          onEvent: (event: SockletEvent) => {
            if (event.type === "begin") throw fault;
            if (event.type === "error") reported.push(event);
          },
        }),
      );
      const socket = await dial(server);
      expect(await ask(socket, "fine")).toBe("FINE");
      expect(reported).toMatchObject([{ error: { code: "ERR_HANDLER", cause: fault } }]);
    });
  });
}

describe("TCP servers on this machine", () => {
  test("say clearly what is wrong with an address", async () => {
    expect(() => new TCPServer("127.0.0.1:70000", Upper)).toThrow(/0 to 65535, not 70000/);
    expect(() => new TCPServer("127.0.0.1", Upper)).toThrow(/port/);
    expect(() => new TCPServer("unix:/tmp/x", Upper)).toThrow(/tcp:\/\/host:port.* UnixStreamServer/);
    expect(() => new TCPServer("udp://127.0.0.1:0", Upper)).toThrow(/UDPServer/);
    expect(() => new UDPServer("tcp://127.0.0.1:0", class extends DatagramRequestHandler {})).toThrow(
      /TCPServer/,
    );
    expect(() => new TCPServer("127.0.0.1:0", (() => {}) as never)).toThrow(/streamHandler/);
  });

  test("a port in use, an address of another machine, and an unknown name", async () => {
    const server = kept(new TCPServer("127.0.0.1:0", Upper));
    const { port } = (await server.listen()) as { port: number } & Address;
    await expect(new TCPServer(`127.0.0.1:${port}`, Upper).listen()).rejects.toMatchObject({
      code: "EADDRINUSE",
      address: `127.0.0.1:${port}`,
      message: expect.stringMatching(/in use.*another port/),
    });
    expect(await codeOf(new TCPServer("192.0.2.1:0", Upper).listen())).toBe("EADDRNOTAVAIL"); // TEST-NET-1, RFC 5737
    expect(await codeOf(new TCPServer("nosuch.invalid:0", Upper).serveForever())).toBe("ERR_NAME");
  });

  test("the host '' is every address, and IPv6 has its own", async () => {
    const any = kept(new ThreadingTCPServer(":0", Upper));
    expect(await any.listen()).toMatchObject({ family: "IPv4", hostname: "0.0.0.0" });
    const six = kept(new ThreadingTCPServer("[::1]:0", Upper));
    expect(await six.listen()).toMatchObject({ family: "IPv6", hostname: "::1" });
    void six.serveForever();
    const socket = await tcpDial(six);
    expect(await ask(socket, "six")).toBe("SIX");
    expect(socket.getpeername()).toEqual(six.serverAddress);
  });

  test("the instanceof chain is CPython's", () => {
    const udp = new ThreadingUDPServer("127.0.0.1:0", class extends DatagramRequestHandler {});
    expect(udp).toBeInstanceOf(UDPServer);
    expect(udp).toBeInstanceOf(TCPServer);
    expect(new ThreadingTCPServer("127.0.0.1:0", Upper)).toBeInstanceOf(TCPServer);
  });

  test("await using closes it", async () => {
    let address: Address | null;
    {
      await using server = new ThreadingTCPServer(await ownAddress(), Upper);
      address = await server.listen();
    }
    expect(await codeOf(createConnection(address as Address))).toBe("ECONNREFUSED");
  });
});

test("a handler of the other kind is refused where it is given", () => {
  class Datagrams extends DatagramRequestHandler {}
  class Streams extends StreamRequestHandler {}
  const forDatagrams = "Datagrams extends DatagramRequestHandler, which is for datagrams; ";
  const forStreams = "Streams extends StreamRequestHandler, which is for streams; ";
  const refused = [
    [() => new TCPServer("127.0.0.1:0", Datagrams as never), `${forDatagrams}TCPServer has streams`],
    [() => new UDPServer("udp://127.0.0.1:0", Streams as never), `${forStreams}UDPServer has datagrams`],
    [() => new TCPConnector("127.0.0.1:1", Datagrams as never), `${forDatagrams}TCPConnector has streams`],
    [() => new MemoryServer(Datagrams as never), `${forDatagrams}MemoryServer has streams`],
  ] as const;
  for (const [make, said] of refused) expect(make).toThrow(new TypeError(said));
});

describe("abort() just behind shutdown()", () => {
  const linux = process.platform === "linux";
  for (let ticks = 0; ticks < 6; ticks++) {
    test.runIf(linux && runtime !== "Deno")(`closes the descriptor, ${ticks} ticks on`, async () => {
      const server = kept(new ThreadingTCPServer("127.0.0.1:0", Upper));
      const client = await createConnection((await server.listen()) as Address);
      const inode = (): string | null => {
        try {
          return readlinkSync(`/proc/self/fd/${fd}`);
        } catch {
          return null;
        }
      };
      const fd = client.fileno();
      const opened = inode();
      void client.shutdown(SHUT_WR);
      for (let i = 0; i < ticks; i++) await new Promise<void>((resolve) => process.nextTick(resolve));
      client.abort();
      await expect.poll(inode, { interval: 1 }).not.toBe(opened);
    });
  }
});

describe("dialling from Node", () => {
  test("refused, unknown, not dialable, aborted: each says so", async () => {
    const server = new TCPServer(await ownAddress(), Upper);
    const address = (await server.listen()) as Address;
    await server.serverClose();
    await expect(createConnection(address)).rejects.toMatchObject({
      code: "ECONNREFUSED",
      message: expect.stringContaining("nothing listens there"),
    });
    expect(await codeOf(createConnection("nosuch.invalid:1"))).toBe("ERR_NAME");
    expect(await codeOf(createConnection("unix:/nosuch/socket"))).toBe("ENOENT");
    await expect(createConnection("127.0.0.1:0")).rejects.toThrow(RangeError);
    await expect(createConnection("udp://127.0.0.1:1")).rejects.toThrow(TypeError);
    await expect(createConnection(address, { signal: AbortSignal.abort("no") })).rejects.toBe("no");
  });

  test("a connection that does not open is given up after connectTimeout", async () => {
    // A full backlog: the kernel answers no SYN. Node cannot set a backlog of 0 and stop accepting; Python can.
    const { spawn } = await import("node:child_process");
    const { peer } = await import("../peers/peer.ts");
    const python = peer("python3");
    if (python === null) return;
    const child = spawn(python, [
      "-c",
      "import socket,sys\ns=socket.socket();s.bind(('127.0.0.1',0));s.listen(0)\nprint(s.getsockname()[1],flush=True)\nsys.stdin.read()",
    ]);
    try {
      const port = Number(await new Promise((resolve) => child.stdout.once("data", resolve)));
      const fill = Array.from({ length: 4 }, () => net.connect({ host: "127.0.0.1", port }));
      await new Promise((resolve) => fill[0]?.once("connect", resolve));
      const address = { hostname: "127.0.0.1", port };
      const codes = [];
      for (let i = 0; i < 3; i++)
        codes.push(await codeOf(createConnection(address, { connectTimeout: 100 })));
      expect(codes.at(-1)).toBe("ETIMEDOUT");
      const stop = new AbortController();
      const dialling = createConnection(address, { signal: stop.signal });
      stop.abort(new Error("changed my mind"));
      await expect(dialling).rejects.toThrow("changed my mind");
      for (const socket of fill) socket.destroy();
    } finally {
      child.stdin.end();
      await new Promise((resolve) => child.once("exit", resolve));
    }
  });

  test("a connector runs one handler, gives its result, and closes", async () => {
    const events = new Told();
    const server = kept(new ThreadingTCPServer("127.0.0.1:0", Upper, { onEvent: events.on }));
    const address = (await server.listen()) as Address;
    void server.serveForever();
    const Ask = streamHandler(async ({ rfile, wfile, params, clientAddress }) => {
      wfile.write(`${params}\n`);
      return { answer: await rfile.line(), peer: clientAddress };
    });
    const connector = new TCPConnector(address, Ask);
    expect(await connector.run({ params: "hello" })).toEqual({ answer: "HELLO", peer: address });
    await events.next("end");
    expect(connector.info()).toEqual({
      name: "anonymous",
      running: 0,
      served: 1,
      failed: 0,
      bytesRead: 6,
      bytesWritten: 6,
    });
  });

  test("a connector rejects with what its handler threw, and with its signal's reason", async () => {
    const server = kept(new ThreadingTCPServer("127.0.0.1:0", Upper));
    const address = (await server.listen()) as Address;
    void server.serveForever();
    const fault = new Error("no such luck");
    const failing = new TCPConnector(
      address,
      streamHandler(() => Promise.reject(fault)),
    );
    await expect(failing.run()).rejects.toBe(fault);
    expect(failing.info()).toMatchObject({ served: 1, failed: 1 });
    const stop = new AbortController();
    const waiting = new TCPConnector(
      address,
      streamHandler(async ({ rfile, signal }) => {
        queueMicrotask(() => stop.abort(new Error("enough")));
        await rfile.line().catch(() => {});
        signal.throwIfAborted();
      }),
    );
    await expect(waiting.run({ signal: stop.signal })).rejects.toThrow("enough");
    await waiting.shutdown();
    expect(await codeOf(waiting.run())).toBe("EBADF");
  });
});
