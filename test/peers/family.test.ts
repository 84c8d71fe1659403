/**
 * The whole family with other people's programs: every kind of socket that a server listens on, in both roles. `socat`
 * and `nc` on paths, `logger` with a syslog handler, Python on each kind and family of addresses.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  BaseRequestHandler,
  type Datagram,
  DatagramRequestHandler,
  type DatagramSocket,
  formatAddress,
  type HandlerClass,
  type SockletEvent,
  StreamRequestHandler,
  type StreamSocket,
} from "socklet";
import {
  createConnection,
  createDatagramConnection,
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
import { afterAll, expect, onTestFinished, test } from "vitest";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { describeWith, python, run, start } from "./program.ts";

const folder = mkdtempSync(join(tmpdir(), "socklet-family-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let made = 0;
const path = (): string => join(folder, String(++made));

const MEGABYTE = Uint8Array.from({ length: 1_000_000 }, (_, i) => (i * 31 + (i >> 8)) % 256);

// biome-ignore lint/suspicious/noExplicitAny: servers of streams and of datagrams
type AnyServerClass = new (address: any, handler: any, options?: any) => TCPServer<any, any>;

/** A server that serves until the test is over. */
const serving = async <Request>(
  Server: AnyServerClass,
  address: string,
  Handler: HandlerClass<Request>,
  options: object = {},
) => {
  const events: SockletEvent[] = [];
  let look = (): void => {};
  const onEvent = (event: SockletEvent): void => {
    events.push(event);
    look();
  };
  const server = new Server(address, Handler, { onEvent, ...options });
  onTestFinished(() => server.serverClose());
  const at = (await server.listen()) as Address;
  void server.serveForever();
  return {
    server,
    at,
    port: at.family === "unix" ? 0 : at.port,
    events,
    /** The reports of handlers, as soon as there are this many. */
    async told(count: number): Promise<unknown[]> {
      for (;;) {
        const details = events.flatMap((event) => (event.type === "handler" ? [event.detail] : []));
        if (details.length >= count) return details;
        await new Promise<void>((resolve) => {
          look = resolve;
        });
      }
    },
  };
};

const sent = (place: { readonly events: readonly SockletEvent[] }): unknown[] =>
  place.events.filter(({ type }) => type === "error");

describeWith(["socat"], "socat", () => {
  for (const Server of [UnixStreamServer, ThreadingUnixStreamServer]) {
    test(`gets 1 MB back from a ${Server.name}`, async () => {
      const to = path();
      const place = await serving(Server, `unix:${to}`, Echo);
      const { code, stdout } = await run("socat", ["-t", 120, "-", `UNIX-CONNECT:${to}`], MEGABYTE);
      expect([code, stdout.equals(MEGABYTE)]).toEqual([0, true]);
      await place.server.serverClose();
      expect(place.events.at(-1)).toMatchObject({ served: 1, failed: 0, bytesRead: 1_000_000 });
    });
  }

  test("gets a connection of an abstract name", async () => {
    const name = `socklet-family-${crypto.randomUUID()}`;
    await serving(UnixStreamServer, `unix:\0${name}`, Echo);
    const { stdout } = await run("socat", ["-t", 120, "-", `ABSTRACT-CONNECT:${name}`], "hello");
    expect(stdout.toString()).toBe("hello");
  });

  for (const Server of [UnixDatagramServer, ThreadingUnixDatagramServer]) {
    test(`gets a datagram back from a ${Server.name}`, async () => {
      const to = path();
      await serving(Server, `unix:${to}`, EchoDatagram);
      await using client = start("socat", ["-", `UNIX-SENDTO:${to},bind=${path()}`]);
      client.write("hello\n");
      expect(await client.line()).toBe("hello");
    });
  }

  test("serves a UnixStreamConnector", async () => {
    const at = path();
    await using server = start("socat", ["-t", 120, `UNIX-LISTEN:${at}`, "EXEC:cat"]);
    class Asks extends StreamRequestHandler {
      override async handle(): Promise<unknown> {
        this.wfile.write("hello\n");
        return this.rfile.line();
      }
    }
    const connector = new UnixStreamConnector(`unix:${at}`, Asks);
    expect(await listening(server, () => connector.run())).toBe("hello");
  });

  test("serves a datagram client on a path", async () => {
    const at = path();
    const program = ["-t", 120, `UNIX-RECVFROM:${at},fork`, "EXEC:cat"]; // without -t, cat would have half a second to answer
    await using server = start("socat", program);
    const client = await listening(server, () =>
      createDatagramConnection(`unix:${at}`, { localAddress: `unix:${path()}`, timeout: null }),
    );
    await using _ = client;
    await client.send("hello");
    expect(new TextDecoder().decode(await client.recv())).toBe("hello");
  });
});

/** What `dial` returns as soon as the program listens, which it does not report: then its path exists, or answers. */
const listening = async <T>(
  program: { readonly ended: Promise<{ readonly stderr: string }> },
  dial: () => Promise<T>,
): Promise<T> => {
  let over: string | undefined;
  void program.ended.then(({ stderr }) => {
    over = stderr;
  });
  for (;;) {
    try {
      return await dial();
    } catch (error) {
      if (!["ENOENT", "ECONNREFUSED"].includes((error as { code?: string }).code ?? "")) throw error;
      if (over !== undefined) throw new Error(`it ended: ${over}`, { cause: error });
      await new Promise((resolve) => setTimeout(resolve, 1)); // it is being started
    }
  }
};

describeWith(["nc"], "nc", () => {
  test("gets 1 MB back over a path", async () => {
    const to = path();
    await serving(ThreadingUnixStreamServer, `unix:${to}`, Echo);
    const { code, stdout } = await run("nc", ["-N", "-U", to], MEGABYTE);
    expect([code, stdout.equals(MEGABYTE)]).toEqual([0, true]);
  });

  test("gets a datagram back over a path", async () => {
    const to = path();
    await serving(ThreadingUnixDatagramServer, `unix:${to}`, EchoDatagram);
    const { stdout } = await run("nc", ["-u", "-U", "-W", 1, "-s", path(), to], "hello");
    expect(stdout.toString()).toBe("hello");
  });

  test("speaks IPv6 and IPv4 with one listener for both", async () => {
    const place = await serving(ThreadingTCPServer, "[::]:0", Tells);
    for (const [flag, host, seen] of [
      ["-6", "::1", "::1"],
      ["-4", "127.0.0.1", "::ffff:127.0.0.1"],
    ] as const) {
      const { stdout } = await run("nc", [flag, "-N", host, place.port], "x\n");
      expect(stdout.toString()).toBe(`${seen}\n`);
    }
  });
});

/** Answers each line with the host that it came from. */
class Tells extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const _ of this.rfile.lines()) this.wfile.write(`${hostOf(this.clientAddress)}\n`);
  }
}

class TellsDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    this.request.reply(`${hostOf(this.clientAddress)}\n`);
  }
}

// ---- logger and a syslog handler ----

/** Takes syslog's messages: RFC 3164's as programs send them to /dev/log, and RFC 5424's. */
class Syslog extends DatagramRequestHandler {
  override async handle(): Promise<void> {
    const text = new TextDecoder().decode(this.request.data);
    const found =
      /^<(?<pri>\d{1,3})>1 \S+ \S+ (?<tag>\S+) \S+ \S+ (?:-|\[.*?\](?!\[)) ?(?<said>.*)$/s.exec(text) ??
      /^<(?<pri>\d{1,3})>\w{3} [ \d]\d \d\d:\d\d:\d\d (?:\S+ )?(?<tag>[^\s:[]+)(?:\[\d+\])?: (?<said>.*)$/s.exec(
        text,
      );
    const { pri = "", tag, said } = found?.groups ?? {};
    this.emit(found === null ? text : { facility: Number(pri) >> 3, severity: Number(pri) & 7, tag, said });
  }
}

describeWith(["logger"], "logger", () => {
  const said = "it is said: [ok] <twice>, äöü";
  const expected = { facility: 16, severity: 4, tag: "socklet", said }; // local0.warning
  const words = ["-t", "socklet", "-p", "local0.warning"];

  for (const Server of [UnixDatagramServer, ThreadingUnixDatagramServer]) {
    test(`logs to a ${Server.name}`, async () => {
      const to = path();
      const place = await serving(Server, `unix:${to}`, Syslog);
      for (const count of [1, 2]) {
        expect((await run("logger", ["-u", to, ...words, said])).code).toBe(0);
        expect((await place.told(count))[count - 1]).toEqual(expected);
      }
      expect(place.events.find(({ type }) => type === "begin")).toMatchObject({ address: null }); // it binds no name
      expect(sent(place)).toEqual([]);
    });
  }

  test.each([["--rfc5424"], ["--rfc3164"]])("logs over UDP, %s", async (form) => {
    const place = await serving(ThreadingUDPServer, "udp://127.0.0.1:0", Syslog);
    const args = ["-d", "-n", "127.0.0.1", "-P", place.port, form, ...words, said];
    expect((await run("logger", args)).code).toBe(0);
    expect(await place.told(1)).toEqual([expected]);
  });
});

// ---- Python, in both roles on each kind ----

type Kind = readonly [
  name: string,
  Server: AnyServerClass,
  /** The address of our server; for a Unix server, its path. */
  host: string | null,
  /** Python's class of the same kind, its family, and what its client dials. */
  theirs: string,
  family: "AF_INET" | "AF_INET6" | "AF_UNIX",
  /** The host of Python's client, as our server sees it. */
  seen: string | null,
];

const KINDS: readonly Kind[] = [
  ["TCP", ThreadingTCPServer, "127.0.0.1:0", "ThreadingTCPServer", "AF_INET", "127.0.0.1"],
  ["TCP over IPv6", TCPServer, "[::1]:0", "TCPServer", "AF_INET6", "::1"],
  ["TCP over both, by IPv6", ThreadingTCPServer, "[::]:0", "ThreadingTCPServer", "AF_INET6", "::1"],
  ["TCP over both, by IPv4", TCPServer, "[::]:0", "TCPServer", "AF_INET", "::ffff:127.0.0.1"],
  ["UDP", ThreadingUDPServer, "udp://127.0.0.1:0", "ThreadingUDPServer", "AF_INET", "127.0.0.1"],
  ["UDP over IPv6", UDPServer, "udp://[::1]:0", "UDPServer", "AF_INET6", "::1"],
  ["UDP over both, by IPv6", UDPServer, "udp://[::]:0", "UDPServer", "AF_INET6", "::1"],
  ["UDP over both, by IPv4", UDPServer, "udp://[::]:0", "UDPServer", "AF_INET", "::ffff:127.0.0.1"],
  ["a Unix stream", ThreadingUnixStreamServer, null, "ThreadingUnixStreamServer", "AF_UNIX", null],
  ["Unix datagrams", UnixDatagramServer, null, "ThreadingUnixDatagramServer", "AF_UNIX", "path"],
];

const hostOf = (address: Address | null): string | null =>
  address === null ? null : address.family === "unix" ? address.path : address.hostname;

/** Answers in capitals, and reports the client. */
class Upper extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.emit(hostOf(this.clientAddress));
    for await (const line of this.rfile.lines()) this.wfile.write(`${line.toUpperCase()}\n`);
  }
}

class UpperDatagram extends BaseRequestHandler<Datagram> {
  override handle(): void {
    this.emit(hostOf(this.clientAddress));
    this.request.reply(new TextDecoder().decode(this.request.data).toUpperCase());
  }
}

const CLIENT = `
import socket, sys
family, kind, host, port, own = sys.argv[1:]
s = socket.socket(getattr(socket, family), getattr(socket, kind))
s.settimeout(120)
if family == "AF_UNIX":
    if kind == "SOCK_DGRAM": s.bind(own)
    s.connect(host)
else: s.connect((host, int(port)))
for word in b"from\\n", b"python\\n":
    s.sendall(word)
    print(s.recv(100).decode().strip())
`;

const SERVER = `
import socket, socketserver as ss, sys
name, family, address = sys.argv[1:]
datagrams = "UDP" in name or "Datagram" in name
class Handler(ss.DatagramRequestHandler if datagrams else ss.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line.upper())
class Server(getattr(ss, name)):
    address_family = getattr(socket, family)
    block_on_close = False
    daemon_threads = True
at = address if family == "AF_UNIX" else ("::1" if family == "AF_INET6" else "127.0.0.1", 0)
with Server(at, Handler) as server:
    print(server.server_address[1] if family != "AF_UNIX" else 0, flush=True)
    server.serve_forever(0.05)
`;

describeWith(["python3"], "Python", () => {
  test.each(KINDS)("asks ours over %s", async (_, Server, host, __, family, seen) => {
    const datagrams = Server.prototype instanceof UDPServer || Server === (UDPServer as AnyServerClass);
    const at = host ?? `unix:${path()}`;
    const place = await serving<StreamSocket & Datagram>(
      Server,
      at,
      (datagrams ? UpperDatagram : Upper) as HandlerClass<StreamSocket & Datagram>,
    );
    const own = path();
    const to = place.at.family === "unix" ? place.at.path : family === "AF_INET6" ? "::1" : "127.0.0.1";
    const kind = datagrams ? "SOCK_DGRAM" : "SOCK_STREAM";
    expect(await python(CLIENT, [family, kind, to, place.port, own])).toBe("FROM\nPYTHON\n");
    const expected = seen === "path" ? own : seen;
    expect(await place.told(datagrams ? 2 : 1)).toEqual(datagrams ? [expected, expected] : [expected]);
    await place.server.serverClose();
    expect(sent(place)).toEqual([]);
  });

  test.each(KINDS.filter(([name]) => !name.includes("both")))(
    "answers ours over %s",
    async (_, Server, host, theirs, family) => {
      const at = path();
      await using server = start("python3", ["-c", SERVER, theirs, family, at]);
      const port = Number(await server.line());
      const hostname = family === "AF_INET6" ? "::1" : "127.0.0.1";
      if (Server.prototype instanceof UDPServer || Server === (UDPServer as AnyServerClass)) {
        await using client: DatagramSocket = await (host === null
          ? createDatagramConnection(`unix:${at}`, { localAddress: `unix:${path()}`, timeout: null })
          : createDatagramConnection({ hostname, port }, { timeout: null }));
        for (const word of ["to", "python"]) {
          await client.send(`${word}\n`);
          expect(new TextDecoder().decode(await client.recv())).toBe(`${word.toUpperCase()}\n`);
        }
        return;
      }
      const address = formatAddress(
        host === null ? { scheme: "unix", path: at } : { scheme: "tcp", hostname, port },
      );
      await using client = await createConnection(address);
      for (const word of ["to", "python"]) {
        await client.sendall(`${word}\n`);
        expect(await client.rfile.line()).toBe(word.toUpperCase());
      }
    },
  );

  // The kernel may give a listener of IPv6 alone a port at which any program listens over IPv4. So ours does.
  test.each([
    ["TCP", ThreadingTCPServer, "", "SOCK_STREAM", Upper, Tells],
    ["UDP", ThreadingUDPServer, "udp://", "SOCK_DGRAM", UpperDatagram, TellsDatagram],
  ] as const)(
    "reaches one server over IPv6 alone and another over IPv4 at the same port, %s",
    async (...row) => {
      const [, Server, scheme, kind, OverIPv6, OverIPv4] = row;
      const port = await pairOfServers(
        (at) => serving(Server, `${scheme}127.0.0.1:${at}`, OverIPv4 as HandlerClass<never>),
        (at) => serving(Server, `${scheme}[::]:${at}`, OverIPv6 as HandlerClass<never>, { ipv6Only: true }),
      );
      expect(await python(CLIENT, ["AF_INET6", kind, "::1", port, ""])).toBe("FROM\nPYTHON\n");
      expect(await python(CLIENT, ["AF_INET", kind, "127.0.0.1", port, ""])).toBe("127.0.0.1\n127.0.0.1\n");
    },
  );
});

type Serving = (
  port: number,
) => Promise<{ readonly port: number; readonly server: { serverClose(): unknown } }>;

/** The port of two servers: of the first, which the kernel chooses, and of the second. Both serve until the test is over. */
const pairOfServers = async (first: Serving, second: Serving): Promise<number> => {
  for (;;) {
    const { port, server } = await first(0);
    try {
      await second(port);
      return port;
    } catch (error) {
      if ((error as { code?: string }).code !== "EADDRINUSE") throw error;
      await server.serverClose(); // another program has the second's
    }
  }
};
