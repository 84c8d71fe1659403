/** Servers behind proxies: which client a handler serves, which are refused, and what needs no handler. Waits are for events. */

import dgram from "node:dgram";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import {
  type Address,
  AF_UNIX,
  ClientHandler,
  defineApp,
  type InternetAddress,
  type ParsedProxyHeader,
  type ProxyHeaderOptions,
  type ProxyProtocolOptions,
  parseAddress,
  parseProxyHeader,
  proxyHeader,
  type ServerOptions,
  SHUT_WR,
  SOCK_DGRAM,
  StreamRequestHandler,
  streamHandler,
} from "socklet";
import { controlClient } from "socklet/control";
import {
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixStreamServer,
  handlerFrom,
  serveApp,
  socket,
  TCPConnector,
  TCPServer,
  ThreadingTCPServer,
  ThreadingUDPServer,
  ThreadingUnixStreamServer,
  UDPServer,
  UnixDatagramServer,
  UnixStreamConnector,
  UnixStreamServer,
} from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import { runtime } from "../../emulator/runtime.ts";
import { Says, SaysDatagram } from "../conformance/proxied.ts";
import { Told } from "../core/told.ts";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";
import { ownPort } from "../peers/ports.ts";

const PATIENT = 60_000; // ms for a header; its own 5 s are too few if this process stands still
const CLIENT = "192.0.2.1:56324";
const CAME_TO = "198.51.100.2:443";
const SPEAKS = { source: CLIENT, destination: CAME_TO, authority: "example.org", checksum: true };
const STRANGER = "PROXY TCP4 203.0.113.9 198.51.100.2 56324 443\r\n";
const LINE = "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";

/** Any of the family. */
type ServerClass = new (address: string, handler: never, options: ServerOptions<unknown>) => TCPServer;

interface Place {
  readonly name: string;
  readonly Server: ServerClass;
  readonly path?: true;
  readonly forks?: true;
}

const ALL_PLACES: readonly Place[] = [
  { name: "threading, TCP", Server: ThreadingTCPServer },
  { name: "serial, TCP", Server: TCPServer },
  { name: "forking, TCP", Server: ForkingTCPServer, forks: true },
  { name: "threading, a path", Server: ThreadingUnixStreamServer, path: true },
  { name: "serial, a path", Server: UnixStreamServer, path: true },
  { name: "forking, a path", Server: ForkingUnixStreamServer, path: true, forks: true },
];
const isHere = ({ forks = false }: { readonly forks?: boolean }): boolean => runtime === "Node" || !forks;
const PLACES = ALL_PLACES.filter(isHere);

/** A server that serves until the test is over, and its events. */
const serving = async (
  { Server, path, forks }: Place,
  proxyProtocol: Partial<ProxyProtocolOptions> = {},
  options: ServerOptions<unknown> = {},
) => {
  const told = new Told();
  const from = path ? ["unix"] : ["127.0.0.1"];
  const Handler = forks ? handlerFrom(new URL("../conformance/proxied.ts", import.meta.url), "Says") : Says;
  let where = "127.0.0.1:0";
  if (path) {
    const folder = await mkdtemp(join(tmpdir(), "socklet-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    where = `unix:${folder}/s`;
  }
  const server = new Server(where, Handler as never, {
    onEvent: told.on,
    proxyProtocol: { from, timeout: PATIENT, ...proxyProtocol },
    ...options,
  });
  onTestFinished(() => server.serverClose());
  await server.listen();
  void server.serveForever();
  return { server, told };
};

/** A client's connection, before it has sent anything. */
const dialled = async (address: Address | null): Promise<net.Socket> => {
  const at = parseAddress(address as Address);
  const socket =
    at.scheme === "unix" ? net.connect({ path: at.path }) : net.connect(at.port, at.hostname).setNoDelay();
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  return socket;
};

/** Everything that comes until the end; if the connection breaks, the error. */
const heard = async (socket: net.Socket): Promise<string> => {
  let text = "";
  socket.setEncoding("latin1").on("data", (more) => {
    text += more;
  });
  let broken = "";
  socket.on("error", (error: NodeJS.ErrnoException) => {
    broken = error.code ?? error.message;
  });
  if (!socket.closed) await new Promise((resolve) => socket.once("close", resolve));
  return text + broken;
};

/** Sends bytes one by one, each with a turn of the event loop after it, in which it leaves. */
const dribble = async (socket: net.Socket, bytes: Uint8Array): Promise<void> => {
  for (const byte of bytes) {
    await new Promise<void>((resolve) => socket.write(Uint8Array.of(byte), () => resolve()));
    await new Promise((resolve) => setImmediate(resolve));
  }
};

const bytes = (...parts: readonly (string | Uint8Array)[]): Buffer =>
  Buffer.concat(parts.map((part) => Buffer.from(part as Uint8Array)));

const said = (version: number, authority?: string): string =>
  JSON.stringify({
    clientAddress: { family: "IPv4", hostname: "192.0.2.1", port: 56_324 },
    proxy: { version, command: "PROXY", authority },
  });

const withIntake = (on: boolean): void => {
  const before = intake.on;
  intake.on = on;
  onTestFinished(() => {
    intake.on = before;
  });
};

describe.each(["on", "off"])("with SOCKLET_INTAKE=%s", (mode) => {
  describe.each(PLACES)("$name", (place) => {
    test.each([
      ["version 1", LINE, said(1)],
      ["version 2", proxyHeader(SPEAKS), said(2, "example.org")],
    ] as const)("%s, with the first bytes in the same piece", async (_, header, wanted) => {
      withIntake(mode === "on");
      const { server } = await serving(place);
      const socket = await dialled(server.serverAddress);
      socket.end(bytes(header, "one\ntwo\n"));
      expect(await heard(socket)).toBe(`${wanted}\none\ntwo\n`);
    });

    test("byte by byte, and the handler begins when the header is whole", async () => {
      withIntake(mode === "on");
      const { server, told } = await serving(place);
      const socket = await dialled(server.serverAddress);
      const header = proxyHeader(SPEAKS);
      await dribble(socket, header.subarray(0, -1));
      expect(told.of("begin")).toEqual([]);
      const text = heard(socket);
      await dribble(socket, bytes(header.subarray(-1), "one\n"));
      socket.end("two\n");
      expect(await text).toBe(`${said(2, "example.org")}\none\ntwo\n`);
      expect(await told.next("end")).toMatchObject({
        address: { hostname: "192.0.2.1" },
        bytesRead: 8, // without the header
        failed: false,
      });
    });

    test("much behind the header, in one piece with it: nothing is lost", async () => {
      withIntake(mode === "on");
      const { server } = await serving(place);
      const socket = await dialled(server.serverAddress);
      const text = heard(socket);
      const lines = "0123456789abcde\n".repeat(40_000);
      socket.end(bytes(LINE, lines));
      const all = await text;
      expect(all.length).toBe(said(1).length + 1 + lines.length);
      expect(all.endsWith(lines)).toBe(true);
    });

    test("LOCAL starts no handler, and is told", async () => {
      withIntake(mode === "on");
      const { server, told } = await serving(place);
      const socket = await dialled(server.serverAddress);
      const text = heard(socket);
      socket.write(proxyHeader(2));
      await told.next("checked");
      expect(await text).toBe("");
      expect(told.of("begin")).toEqual([]);
      expect(server.info()).toMatchObject({ refused: 0, served: 0 });
    });

    test("what is wrong is told with its reason, and costs no handler", async () => {
      withIntake(mode === "on");
      const { server, told } = await serving(place);
      const socket = await dialled(server.serverAddress);
      const text = heard(socket);
      socket.write("EHLO client\r\n");
      const { reason, error } = await told.next("refused");
      expect([reason, error?.code]).toEqual(["proxy", "ERR_PROXY"]);
      expect(error?.message).toMatch(/"EHLO client\\r\\n" is not the start of a PROXY protocol header/);
      expect(await text).toMatch(place.path ? /^(ECONNRESET|EPIPE)?$/ : /^ECONNRESET$/);
      expect(told.of("begin")).toEqual([]);
      expect(server.info().refused).toBe(1);
    });
  });
});

const [THREADING] = PLACES as [Place];

describe("a header that does not come", () => {
  test("is waited for as long as `timeout` says", async () => {
    // Twice as long each time, until the bytes come within it: this process may stand still.
    for (let timeout = 50; ; timeout *= 2) {
      const { server, told } = await serving(THREADING, { timeout });
      const socket = await dialled(server.serverAddress);
      const text = heard(socket);
      socket.write("PROXY TCP4");
      const message = (await told.next("refused")).error?.message;
      expect(await text).toBe("ECONNRESET");
      if (message?.includes(": 0 bytes")) continue;
      const said = `ERR_PROXY: no PROXY protocol header came within ${timeout} ms: 10 bytes of one had arrived`;
      return expect(message).toBe(said);
    }
  });

  test("whose peer ends within it is refused; one that says nothing has only looked", async () => {
    const { server, told } = await serving(THREADING);
    const one = await dialled(server.serverAddress);
    one.on("error", () => {}).end("PROXY TCP4");
    expect((await told.next("refused")).error?.message).toMatch(/ended after 10 bytes/);
    const other = await dialled(server.serverAddress);
    other.on("error", () => {}).end();
    await told.next("checked");
    expect(server.info()).toMatchObject({ refused: 1, served: 0 });
  });

  test("is waited for no longer than the server listens", async () => {
    const { server, told } = await serving(THREADING);
    const socket = await dialled(server.serverAddress);
    const text = heard(socket);
    socket.write("PROXY ");
    await new Promise((resolve) => setImmediate(resolve));
    // A second one that has come through shows that the first has arrived: it was accepted before.
    const other = await dialled(server.serverAddress);
    other.end(LINE);
    await told.next("end");
    await server.serverClose();
    expect(told.of("refused")).toMatchObject([{ reason: "closing" }]);
    expect(await text).toBe("ECONNRESET");
  });

  test("over `maxHeader` is refused at its 16th byte", async () => {
    const { server, told } = await serving(THREADING, { maxHeader: 64 });
    const socket = await dialled(server.serverAddress);
    socket.on("error", () => {});
    socket.write(proxyHeader({ ...SPEAKS, uniqueId: "x".repeat(100) }).subarray(0, 16));
    expect((await told.next("refused")).error?.message).toMatch(/over the limit of 64 \(maxHeader\)/);
  });
});

describe("a peer that is no proxy", () => {
  test("is refused, whatever it sends", async () => {
    const { server, told } = await serving(THREADING, { from: ["192.0.2.0/24"] });
    const { port } = server.serverAddress as InternetAddress;
    const socket = net.connect(port, "127.0.0.1"); // it may be reset before it reports that it is connected
    const text = heard(socket);
    socket.write(LINE);
    expect(await told.next("refused")).toMatchObject({
      reason: "proxy",
      address: { hostname: "127.0.0.1" },
      error: { message: expect.stringMatching(/is not one of the proxies in proxyProtocol\.from/) },
    });
    expect(await text).toMatch(/^(ECONNRESET)?$/);
  });

  test.each(["on", "off"])(
    'with others: "direct" is served, and gives itself no address (intake %s)',
    async (mode) => {
      withIntake(mode === "on");
      const { server } = await serving(THREADING, { from: ["192.0.2.0/24"], others: "direct" });
      const socket = await dialled(server.serverAddress);
      socket.end(LINE);
      const { localPort } = socket;
      const own = { clientAddress: { family: "IPv4", hostname: "127.0.0.1", port: localPort }, proxy: null };
      expect(await heard(socket)).toBe(`${JSON.stringify(own)}\n${LINE.replace("\r\n", "\n")}`);
    },
  );
});

describe("what goes by address goes by the client's", () => {
  const refusedBy = async (options: ServerOptions<unknown>, ...lines: readonly string[]) => {
    const { server, told } = await serving(THREADING, {}, options);
    for (const line of lines) {
      const socket = await dialled(server.serverAddress);
      socket.on("error", () => {}).write(line);
    }
    return { server, told };
  };

  test("access", async () => {
    const { told } = await refusedBy({ access: { deny: ["192.0.2.0/24"] } }, LINE);
    expect(await told.next("refused")).toMatchObject({
      reason: "access",
      address: { hostname: "192.0.2.1" },
    });
  });

  test("rate", async () => {
    const { told } = await refusedBy({ rate: { perSecond: 0.001, burst: 1 } }, LINE, LINE);
    expect(await told.next("refused")).toMatchObject({ reason: "rate", address: { hostname: "192.0.2.1" } });
  });

  test("maxRequestsPerAddress: one client's connections count together, another's apart", async () => {
    const other = LINE.replace("192.0.2.1", "192.0.2.9");
    const { told } = await refusedBy({ maxRequestsPerAddress: 1 }, LINE, other, LINE);
    expect(await told.next("refused")).toMatchObject({
      reason: "address",
      address: { hostname: "192.0.2.1" },
    });
    expect(told.of("begin").length).toBe(2);
  });
});

describe("a proxy that does not say who comes", () => {
  test.each([
    ["UNKNOWN", "PROXY UNKNOWN\r\n", { version: 1, command: "PROXY" }],
    [
      "an unspecified family",
      proxyHeader({ source: null, destination: null }),
      { version: 2, command: "PROXY" },
    ],
  ] as const)("%s: the proxy's own address counts", async (_, header, proxy) => {
    const { server } = await serving(THREADING);
    const socket = await dialled(server.serverAddress);
    const { localPort: port } = socket;
    socket.end(header);
    expect(await heard(socket)).toBe(
      `${JSON.stringify({ clientAddress: { family: "IPv4", hostname: "127.0.0.1", port }, proxy })}\n`,
    );
  });

  test('LOCAL with local: "serve", for a check that speaks the protocol', async () => {
    const { server } = await serving(THREADING, { local: "serve" });
    const socket = await dialled(server.serverAddress);
    const { localPort: port } = socket;
    socket.end(bytes(proxyHeader(2), "hi\n"));
    const address = { family: "IPv4", hostname: "127.0.0.1", port };
    const wanted = { clientAddress: address, proxy: { version: 2, command: "LOCAL" } };
    expect(await heard(socket)).toBe(`${JSON.stringify(wanted)}\nhi\n`);
  });

  test("a Unix socket without a name is no address", async () => {
    const { server } = await serving(THREADING);
    const socket = await dialled(server.serverAddress);
    const header = proxyHeader({ source: { path: "/x" }, destination: { path: "/y" } });
    header.fill(0, 16, 16 + 108);
    socket.end(header);
    expect(await heard(socket)).toBe('{"clientAddress":null,"proxy":{"version":2,"command":"PROXY"}}\n');
  });
});

test.each<readonly [string, Partial<ProxyProtocolOptions>, RegExp]>([
  ["nobody", { from: [] }, /proxyProtocol\.from lists the proxies/],
  [
    "no list",
    { from: "::1" as never },
    /proxyProtocol\.from of ThreadingTCPServer is a list of strings, not "::1"/,
  ],
  ["no network", { from: ["10.0.0.1/8"] }, /has bits set beyond its prefix/],
  ["a name", { from: ["proxy.example.org"] }, /neither a network nor an address/],
  ["others", { others: "maybe" as never }, /proxyProtocol\.others must be "refuse" or "direct", not "maybe"/],
  ["local", { local: "maybe" as never }, /proxyProtocol\.local must be "close" or "serve"/],
  ["timeout", { timeout: 0 }, /proxyProtocol\.timeout must be 1 to/],
  ["maxHeader", { maxHeader: 15 }, /proxyProtocol\.maxHeader must be a whole number of 16 or more/],
  ["an option that is none", { form: [] } as never, /did you mean proxyProtocol\.from/],
])("an option that is wrong: %s", (_, options, why) => {
  const proxyProtocol = { from: ["10.0.0.0/8"], ...options };
  expect(() => new ThreadingTCPServer("127.0.0.1:0", Says, { proxyProtocol })).toThrow(why);
});

// ---- Datagrams ----

const ALL_UDP_PLACES = [
  { name: "threading, UDP", Server: ThreadingUDPServer },
  { name: "serial, UDP", Server: UDPServer },
  { name: "forking, UDP", Server: ForkingUDPServer, forks: true },
] as const;
const UDP_PLACES = ALL_UDP_PLACES.filter((place) => isHere(place as { readonly forks?: boolean }));

const servingDatagrams = async (
  { Server, forks }: { readonly Server: unknown; readonly forks?: boolean },
  options: ServerOptions<unknown> & { readonly amplification?: number } = {},
) => {
  const told = new Told();
  const Handler = forks
    ? handlerFrom(new URL("../conformance/proxied.ts", import.meta.url), "SaysDatagram")
    : SaysDatagram;
  const server = new (Server as typeof UDPServer)("127.0.0.1:0", Handler as never, {
    onEvent: told.on,
    proxyProtocol: { from: ["127.0.0.1"] },
    ...options,
  });
  onTestFinished(() => server.serverClose());
  await server.listen();
  void server.serveForever();
  const proxy = dgram.createSocket("udp4");
  onTestFinished(() => void proxy.close());
  const { port } = server.serverAddress as InternetAddress;
  await new Promise<void>((resolve) => proxy.connect(port, "127.0.0.1", resolve));
  const ask = async (datagram: Uint8Array): Promise<Buffer> => {
    const reply = once(proxy, "message") as Promise<[Buffer]>;
    proxy.send(datagram);
    return (await reply)[0];
  };
  return { server, told, proxy, ask };
};

const OF_DATAGRAMS = { source: CLIENT, destination: CAME_TO, carries: "datagram" } as const;

describe.each(["on", "off"])("datagrams, with SOCKLET_INTAKE=%s", (mode) => {
  describe.each(UDP_PLACES)("$name", (place) => {
    test("version 2 on each: the client's address, its bytes, and a reply as it is", async () => {
      withIntake(mode === "on");
      const { ask } = await servingDatagrams(place);
      const header = proxyHeader({ ...OF_DATAGRAMS, authority: "example.org", checksum: true });
      for (const payload of ["hello", ""]) {
        expect(String(await ask(bytes(header, payload)))).toBe(said(2, "example.org") + payload);
      }
    });

    test("Spectrum's Simple Proxy Protocol: the reply begins with the same header", async () => {
      withIntake(mode === "on");
      const { ask, told } = await servingDatagrams(place);
      const header = proxyHeader({ ...OF_DATAGRAMS, version: "simple" });
      const reply = await ask(bytes(header, "hello"));
      expect(new Uint8Array(reply.subarray(0, 38))).toEqual(header);
      const text = `${JSON.stringify({ ...JSON.parse(said(1)), proxy: { version: "simple", command: "PROXY" } })}hello`;
      expect(String(reply.subarray(38))).toBe(text);
      expect(await told.next("end")).toMatchObject({
        address: { hostname: "192.0.2.1", port: 56_324 },
        bytesRead: 5,
        ...(place.Server === ForkingUDPServer ? {} : { bytesWritten: text.length }),
      });
    });
  });
});

const [, SERIAL_UDP] = UDP_PLACES;

describe("a datagram without a right header", () => {
  test.each([
    ["none", "hello", /is not the start of a PROXY protocol header/],
    ["version 1", LINE, /is for streams/],
    ["a part of one", proxyHeader(OF_DATAGRAMS).subarray(0, 20), /ends within its PROXY protocol header/],
    [
      "a part of a simple one",
      proxyHeader({ ...OF_DATAGRAMS, version: "simple" }).subarray(0, 37),
      /ends within its Simple/,
    ],
  ] as const)("%s: refused, and the next is served", async (_, datagram, why) => {
    const { proxy, ask, told } = await servingDatagrams(SERIAL_UDP);
    proxy.send(datagram);
    expect(await told.next("refused")).toMatchObject({
      reason: "proxy",
      error: { message: expect.stringMatching(why) },
    });
    expect(String(await ask(bytes(proxyHeader(OF_DATAGRAMS), "x")))).toBe(`${said(2)}x`);
    expect(told.of("begin").length).toBe(1);
  });

  test("LOCAL starts no handler", async () => {
    const { proxy, told } = await servingDatagrams(SERIAL_UDP);
    proxy.send(bytes(proxyHeader(2), "hello"));
    await told.next("checked");
    expect(told.of("begin")).toEqual([]);
  });

  test("of a peer that is no proxy is refused, or is its own", async () => {
    const refusing = await servingDatagrams(SERIAL_UDP, { proxyProtocol: { from: ["192.0.2.0/24"] } });
    refusing.proxy.send(bytes(proxyHeader(OF_DATAGRAMS), "x"));
    expect(await refusing.told.next("refused")).toMatchObject({ reason: "proxy" });
    const direct = await servingDatagrams(SERIAL_UDP, {
      proxyProtocol: { from: ["192.0.2.0/24"], others: "direct" },
    });
    const datagram = bytes(proxyHeader(OF_DATAGRAMS), "x");
    const reply = await direct.ask(datagram);
    expect(reply.toString("latin1").endsWith(datagram.toString("latin1"))).toBe(true);
    expect(reply.toString("latin1")).toContain('"proxy":null');
  });
});

test("amplification counts for the client, not for the proxy that all come by", async () => {
  const { proxy, told, ask } = await servingDatagrams(SERIAL_UDP, { amplification: 3 });
  const from = (source: string): Uint8Array => proxyHeader({ ...OF_DATAGRAMS, source });
  await ask(bytes(from("192.0.2.9:1"), "x".repeat(1000)));
  proxy.send(bytes(from("192.0.2.1:56324"), "x"));
  // Its remaining budget is its own: a thousand bytes of another client do not count.
  expect(await told.next("dropped")).toMatchObject({ reason: "amplification" });
});

test.runIf(runtime === "Node")("datagrams on a path", async () => {
  const folder = await mkdtemp(join(tmpdir(), "socklet-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const told = new Told();
  await using server = new UnixDatagramServer(`unix:${folder}/s`, SaysDatagram, {
    onEvent: told.on,
    proxyProtocol: { from: ["unix"] },
  });
  await server.listen();
  void server.serveForever();
  await using proxy = socket(AF_UNIX, SOCK_DGRAM);
  await proxy.bind(`unix:${folder}/proxy`);
  await proxy.connect(`unix:${folder}/s`);
  await proxy.send(bytes(proxyHeader(OF_DATAGRAMS), "hello"));
  expect(Buffer.from((await proxy.recv()) as Uint8Array).toString()).toBe(`${said(2)}hello`);
});

// ---- Dialling ----

describe("a connector speaks for somebody", () => {
  class Asks extends StreamRequestHandler {
    override async handle() {
      await this.request.sendall("hi\n");
      await this.request.shutdown(SHUT_WR);
      return [await this.rfile.line(), await this.rfile.line()];
    }
  }

  test.each<readonly [string, ProxyHeaderOptions, string]>([
    ["version 1", { version: 1, source: CLIENT, destination: CAME_TO }, said(1)],
    ["version 2", { source: CLIENT, destination: CAME_TO, authority: "example.org" }, said(2, "example.org")],
  ])("%s", async (_, says, wanted) => {
    for (const place of [PLACES[0], PLACES[3]] as [Place, Place]) {
      const { server } = await serving(place);
      const Connector = place.path ? UnixStreamConnector : TCPConnector;
      const connector = new Connector(server.serverAddress as Address, Asks, {
        proxyHeader: proxyHeader(says),
      });
      expect(await connector.run()).toEqual([wanted, "hi"]);
    }
  });

  test("for itself: UNKNOWN and LOCAL", async () => {
    const { server, told } = await serving(THREADING, { local: "serve" });
    const at = server.serverAddress as Address;
    for (const [version, command] of [
      [1, "PROXY"],
      [2, "LOCAL"],
    ] as const) {
      const [first] = (await new TCPConnector(at, Asks, {
        proxyHeader: proxyHeader(version),
      }).run()) as string[];
      expect(JSON.parse(first as string).proxy).toEqual({ version, command });
    }
    expect(told.of("refused")).toEqual([]);
  });

  const certificates = ownCertificates();
  test.skipIf(certificates === null)("before TLS", async () => {
    // A listener that reads the header by itself, and secures what comes behind it.
    const read = Promise.withResolvers<unknown>();
    const listener = net.createServer({ pauseOnConnect: true }, (plain) => {
      onTestFinished(() => void plain.destroy());
      plain.once("readable", () => {
        const began: Buffer = plain.read();
        const { header, size } = parseProxyHeader(began) as ParsedProxyHeader;
        read.resolve(header.source);
        if (began.length > size) plain.unshift(began.subarray(size));
        const { cert, key } = certificates as Certificates;
        const secured = new tls.TLSSocket(plain, { isServer: true, cert, key });
        secured.pipe(secured);
        secured.write("secured\n");
      });
    });
    onTestFinished(() => void listener.close());
    listener.listen(await ownPort(), "127.0.0.1");
    await once(listener, "listening");
    const { port } = listener.address() as net.AddressInfo;
    const connector = new TCPConnector(`localhost:${port}`, Asks, {
      proxyHeader: proxyHeader({ source: CLIENT, destination: CAME_TO }),
      secureTransport: "on",
      tls: { ca: certificates?.ca },
    });
    expect(await connector.run()).toEqual(["secured", "hi"]);
    expect(await read.promise).toEqual({ family: "IPv4", hostname: "192.0.2.1", port: 56_324 });
  });

  test.each<readonly [string, unknown, RegExp]>([
    ["what is no bytes", { source: CLIENT }, /is what proxyHeader\(\) makes/],
    ["other bytes", new TextEncoder().encode("HELO"), /these 4 bytes are not one/],
    [
      "a header of datagrams",
      proxyHeader({ version: "simple", source: CLIENT, destination: CAME_TO }),
      /is for datagrams/,
    ],
  ])("%s is refused when the connector is made", (_, header, why) => {
    expect(() => new TCPConnector("127.0.0.1:1", Asks, { proxyHeader: header as Uint8Array })).toThrow(why);
  });
});

test("on a path, `access`, `rate` and limits by address go by what the proxy says, in servers and in apps", async () => {
  const folder = await mkdtemp(join(tmpdir(), "socklet-access-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const options = { access: { allow: ["192.0.2.0/24"] }, proxyProtocol: { from: ["unix"] } } as const;
  const told = new Told();
  const Hello = streamHandler(({ wfile }) => void wfile.write("hello\n"));
  await using server = new ThreadingUnixStreamServer(`unix:${folder}/s`, Hello, {
    ...options,
    onEvent: told.on,
  });
  await server.listen();
  void server.serveForever();
  const app = defineApp({
    handlers: { hello: Hello },
    listen: [{ handler: "hello", address: `unix:${folder}/a`, options }],
  });
  await using served = await serveApp(app, { onEvent: told.on });
  expect(served.listeners).toHaveLength(1);
  for (const path of [`${folder}/s`, `${folder}/a`]) {
    const said = async (header: string): Promise<string> => {
      const client = net.connect(path).on("error", () => {});
      client.end(header);
      let text = "";
      client.on("data", (bytes) => {
        text += bytes;
      });
      await once(client, "close");
      return text;
    };
    expect(await said(LINE)).toBe("hello\n");
    const refused = told.next("refused");
    expect(await said(STRANGER)).toBe("");
    expect(await refused).toMatchObject({ reason: "access", address: { hostname: "203.0.113.9" } });
  }
});

test("an app's entries of dial and pools send a header", async () => {
  const told: unknown[] = [];
  const Tells = streamHandler(async ({ request, rfile, wfile }) => {
    told.push(request.proxy?.authority);
    wfile.write(`${await rfile.line()}\n`);
  });
  await using server = new ThreadingTCPServer("127.0.0.1:0", Tells, {
    proxyProtocol: { from: ["127.0.0.1"] },
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  class Calls extends ClientHandler<string, string | null> {
    override async call(call: string): Promise<string | null> {
      await this.request.sendall(`${call}\n`);
      return this.rfile.line();
    }
  }
  const to = { address: `127.0.0.1:${port}`, proxyHeader: proxyHeader(SPEAKS) };
  let pooled: { call(call: string): Promise<string | null> } | undefined;
  const app = defineApp({
    handlers: {
      hello: streamHandler(() => {}),
      dials: streamHandler(({ wfile, rfile }) => {
        wfile.write("x\n");
        return rfile.line();
      }),
      calls: Calls,
    },
    listen: [{ handler: "hello", address: "127.0.0.1:0" }],
    dial: { it: { handler: "dials", ...to } },
    pools: { it: { handler: "calls", ...to } },
    context: ({ pool }) => {
      pooled = pool("it", Calls);
    },
  });
  await using served = await serveApp(app, { control: { port: 0, tokens: "a-token-for-the-tests" } });
  expect(await pooled?.call("y")).toBe("y");
  const client = controlClient(String(served.control?.url), { token: "a-token-for-the-tests" });
  expect(await client.sessions.run({ dial: "it" })).toMatchObject({ state: "ended", result: "x" });
  expect(told).toEqual(["example.org", "example.org"]);
  const wrong = { address: "127.0.0.1:1", proxyHeader: new Uint8Array(3) };
  for (const kind of ["dial", "pools"] as const) {
    const handler = kind === "dial" ? "hello" : "calls";
    const define = () =>
      defineApp({
        handlers: { hello: streamHandler(() => {}), calls: Calls },
        [kind]: { it: { handler, ...wrong } },
      });
    expect(define).toThrow(/ERR_APP: (dial|pools)\.it: proxyHeader is what proxyHeader\(\) makes/);
  }
});
