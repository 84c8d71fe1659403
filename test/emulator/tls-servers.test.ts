/** TLS as a property of a listener: every stream server, in Node, with peers over real sockets. */

import { once } from "node:events";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import tls from "node:tls";
import { fileURLToPath } from "node:url";
import type { Address, InternetAddress, SockletEvent, StreamSocket } from "socklet";
import { defineApp, streamHandler } from "socklet";
import {
  createConnection,
  ForkingTCPServer,
  ForkingUnixStreamServer,
  handlerFrom,
  serveApp,
  TCPConnector,
  TCPServer,
  type TCPServerOptions,
  ThreadingTCPServer,
  ThreadingUnixStreamServer,
  UnixStreamConnector,
  UnixStreamServer,
} from "socklet/emulator";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import { runtime } from "../../emulator/runtime.ts";
import { Authority, type Issued } from "../peers/authority.ts";
import { ownAddress } from "../peers/ports.ts";
import { run } from "../peers/program.ts";
import { Imap, Later, Tell } from "./fixtures/tls-handlers.ts";
import { forks, rowsHere, rustls } from "./runtime-rows.ts";
import { AWAITING_CHILD } from "./standstill.ts";

const authority = new Authority();
const { ca } = authority;
const missing = !authority.isHere;
const NONE: Issued = { cert: "", key: "", certFile: "", keyFile: "" };
const issue = (...args: Parameters<Authority["issue"]>): Issued =>
  missing ? NONE : authority.issue(...args);
const own = issue("localhost");
const client = issue("a client", { use: "clientAuth" });
const pair = ({ cert, key }: Issued) => ({ cert, key });
afterAll(() => authority.remove());

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const fixture = new URL("./fixtures/tls-handlers.ts", import.meta.url);

/** Events, and a wait for one of them. */
class Events {
  readonly all: SockletEvent[] = [];
  #look: (() => void)[] = [];
  readonly onEvent = (event: SockletEvent): void => {
    this.all.push(event);
    for (const look of this.#look.splice(0)) look();
  };

  of<Type extends SockletEvent["type"]>(type: Type) {
    return this.all.filter((event): event is Extract<SockletEvent, { type: Type }> => event.type === type);
  }

  /** The `count`-th of this type, when it has come. */
  async next<Type extends SockletEvent["type"]>(type: Type, count = 1) {
    for (;;) {
      const found = this.of(type)[count - 1];
      if (found !== undefined) return found;
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }
}

type Options = Omit<TCPServerOptions<unknown>, "access" | "ipv6Only" | "allowReusePort">;

/** A server that serves until the end of the test. */
const up = async (server: TCPServer): Promise<Address> => {
  cleanups.push(() => {
    server.abort();
    return server.serverClose();
  });
  const address = await server.listen();
  void server.serveForever();
  return address as Address;
};

const serve = async (options: Options, Handler: typeof Tell = Tell, Server = ThreadingTCPServer) => {
  const events = new Events();
  const server = new Server(await ownAddress(), Handler, { ...options, onEvent: events.onEvent });
  return { server, events, at: (await up(server)) as InternetAddress };
};

const dial = async (at: Address, options: object = {}): Promise<StreamSocket> => {
  const tls = { ca, serverName: "localhost", ...options };
  const socket = await createConnection(at, { secureTransport: "on", tls, ...AWAITING_CHILD });
  cleanups.push(() => socket.abort());
  return socket;
};

/** The answer of a server that reports its TLS, to a client that dials with these options. */
const ask = async (at: Address, options: object = {}) => {
  const socket = await dial(at, options);
  const said = JSON.parse((await socket.rfile.line()) as string);
  await socket.close();
  return said;
};

const errorOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    (value) => `no error: ${JSON.stringify(value)}`,
    (error) => String(error.message ?? error),
  );

describe.skipIf(missing)("each stream server, of TCP and of paths", () => {
  const tlsOptions = { tls: pair(own) };
  let paths = 0;
  const path = (): string => `unix:${join(authority.folder, `s${paths++}`)}`;
  const forked = handlerFrom(fixture, "Tell");
  const SERVERS: Readonly<Record<string, (onEvent: (event: SockletEvent) => void) => TCPServer>> = {
    "TCP, serial": (onEvent) => new TCPServer("127.0.0.1:0", Tell, { ...tlsOptions, onEvent }),
    "TCP, threading, by tls://": (onEvent) =>
      new ThreadingTCPServer("tls://127.0.0.1:0", Tell, { ...tlsOptions, onEvent }),
    "TCP, forking": (onEvent) => new ForkingTCPServer("127.0.0.1:0", forked, { ...tlsOptions, onEvent }),
    "a path, serial": (onEvent) => new UnixStreamServer(path(), Tell, { ...tlsOptions, onEvent }),
    "a path, threading": (onEvent) => new ThreadingUnixStreamServer(path(), Tell, { ...tlsOptions, onEvent }),
    "a path, forking": (onEvent) => new ForkingUnixStreamServer(path(), forked, { ...tlsOptions, onEvent }),
  };

  test.each(rowsHere(Object.entries(SERVERS)))("%s", async (_, make) => {
    const events = new Events();
    const at = await up(make(events.onEvent));
    const socket = await dial(at);
    expect(JSON.parse((await socket.rfile.line()) as string)).toEqual({
      version: "TLSv1.3",
      alpn: null,
      serverName: "localhost",
      resumed: false,
      client: null,
      trusted: null,
      distrust: null,
      closedCleanly: null,
    });
    const line = "x".repeat(60_000);
    for (let i = 0; i < 5; i++) socket.wfile.write(`${line}\n`);
    for (let i = 0; i < 5; i++) expect((await socket.rfile.line())?.length).toBe(line.length);
    expect(socket.tls).toMatchObject({
      version: "TLSv1.3",
      cipher: expect.stringMatching(/^TLS_/),
      certificate: { commonName: "localhost", names: ["DNS:localhost", "IP Address:127.0.0.1"] },
      trusted: true,
    });
    await socket.shutdown(1);
    expect(await socket.rfile.line()).toBeNull();
    await socket.close();
    expect(await events.next("handshake")).toMatchObject({ version: "TLSv1.3", resumed: false, error: null });
    await events.next("end");

    // A handshake that fails costs no handler.
    const untrusting = createConnection(at, { secureTransport: "on", ...AWAITING_CHILD });
    expect(await errorOf(untrusting)).toMatch(/^ERR_TLS/);
    const failed = await events.next("handshake", 2);
    expect(failed).toMatchObject({ version: null, error: { code: "ERR_TLS" } });
    expect(await ask(at)).toMatchObject({ version: "TLSv1.3" });
  });

  test("a connector for each, by tls:// and on a path", async () => {
    const Ask = streamHandler(async ({ rfile }) => JSON.parse((await rfile.line()) as string).version);
    const { at } = await serve(tlsOptions);
    const trusting = { tls: { ca } };
    const tcp = new TCPConnector(`tls://localhost:${at.port}`, Ask, trusting);
    expect(await tcp.run()).toBe("TLSv1.3");
    const there = path();
    await up(new ThreadingUnixStreamServer(there, Tell, tlsOptions));
    const unix = new UnixStreamConnector(there, Ask, { secureTransport: "on", ...trusting });
    expect(await unix.run()).toBe("TLSv1.3");
    expect(() => new TCPConnector(`tls://localhost:${at.port}`, Ask, { secureTransport: "off" })).toThrow(
      "tls:// is secured from its first byte",
    );
    const plain = `127.0.0.1:${at.port}`;
    expect(() => new TCPConnector(plain, Ask, { secureTransport: "off", ...trusting })).toThrow(
      'secureTransport is "off", and tls is given',
    );
  });
});

describe.skipIf(missing)("certificates by the name that is asked for", () => {
  const wild = issue("wild", { names: "DNS:*.example.org" });
  const exact = issue("exact", { names: "DNS:a.example.org" });
  const named = { serverNames: { "*.example.org": pair(wild), "A.example.org": pair(exact) } };

  test("an exact name, one label under a wildcard, and the other names", async () => {
    const { at } = await serve({ tls: { ...pair(own), ...named } });
    const shown = async (serverName: string): Promise<unknown> => {
      const socket = tls.connect({
        ...listening(at),
        servername: serverName,
        ca,
        checkServerIdentity: () => undefined,
      });
      cleanups.push(() => socket.destroy());
      await once(socket, "secureConnect");
      return socket.getPeerCertificate().subject.CN;
    };
    const names = ["a.example.org", "B.Example.org", "b.c.example.org", "example.org", "localhost"];
    const all = await Promise.all(names.map(shown));
    expect(all).toEqual(["exact", "wild", "localhost", "localhost", "localhost"]);
    expect(await ask(at, { serverName: "b.example.org" })).toMatchObject({ serverName: "b.example.org" });
  });

  test("without a certificate for the others, those are refused", async () => {
    const { at, events } = await serve({ tls: named });
    expect(await ask(at, { serverName: "b.example.org" })).toMatchObject({ serverName: "b.example.org" });
    expect(await errorOf(dial(at, { serverName: "b.example.net" }))).toMatch(/^ERR_TLS/);
    expect((await events.next("handshake", 2)).error?.message).toContain('"b.example.net"');
    expect(await errorOf(dial(at, { serverName: "127.0.0.1" }))).toMatch(/^ERR_TLS/); // asks for no name
    await events.next("handshake", 3);
    expect(events.of("begin").length).toBe(1);
  });
});

const closed = (socket: net.Socket): Promise<void> =>
  new Promise((resolve) => void socket.resume().once("close", () => resolve()));

const listening = ({ hostname, port }: InternetAddress) => ({ host: hostname, port });

describe.skipIf(missing)("certificates of clients", () => {
  const expired = issue("expired", { days: -1, use: "clientAuth" });
  const revoked = issue("revoked", { use: "clientAuth" });
  const foreign = new Authority("Another authority");
  const stranger = missing ? NONE : foreign.issue("stranger", { use: "clientAuth" });
  afterAll(() => foreign.remove());
  const asking = (clientCertificate: "ask" | "require") => ({ tls: { ...pair(own), ca, clientCertificate } });

  test("none: none is asked for", async () => {
    const { at } = await serve({ tls: pair(own) });
    expect(await ask(at, pair(client))).toMatchObject({ client: null, trusted: null });
  });

  test("ask: the handler is told which, and whether it is trusted", async () => {
    const { at } = await serve(asking("ask"));
    expect(await ask(at)).toMatchObject({ client: null, trusted: null, distrust: null });
    expect(await ask(at, pair(client))).toMatchObject({ client: "a client", trusted: true, distrust: null });
    expect(await ask(at, pair(expired))).toMatchObject({
      client: "expired",
      trusted: false,
      distrust: "CERT_HAS_EXPIRED",
    });
    expect(await ask(at, pair(stranger))).toMatchObject({ client: "stranger", trusted: false });
  });

  test.each(["TLSv1.2", "TLSv1.3"] as const)(
    "require: others are refused, and it is told why (%s)",
    async (version) => {
      const { at, events } = await serve(asking("require"));
      const answer = async (certificate: object): Promise<string> => {
        const socket = tls.connect({
          ...listening(at),
          servername: "localhost",
          ca,
          maxVersion: version,
          ...certificate,
        });
        cleanups.push(() => socket.destroy());
        const said = Promise.withResolvers<string>();
        socket.on("data", (bytes) => said.resolve(String(bytes)));
        socket.on("error", ({ code }: NodeJS.ErrnoException) => said.resolve(String(code)));
        socket.on("end", () => said.resolve("an end"));
        return said.promise;
      };
      expect(await answer(pair(client))).toContain('"a client"');
      expect(await answer({})).toMatch(/^ERR_SSL_.*(HANDSHAKE_FAILURE|CERTIFICATE_REQUIRED)/);
      const reset = rustls ? "an end" : "ECONNRESET"; // Deno's client sees no reset under TLS
      expect(await answer(pair(expired))).toBe(reset); // never what could be a whole, empty reply
      expect(await answer(pair(stranger))).toBe(reset);
      await events.next("handshake", 4);
      expect(events.of("handshake").map(({ error }) => error?.message)).toEqual([
        undefined,
        expect.stringContaining("the client gave no certificate"),
        expect.stringMatching(/CN=expired, is not trusted: it has expired/),
        expect.stringMatching(/CN=stranger, is not trusted: its authority is none of ca/),
      ]);
      expect(events.of("begin").length).toBe(1);
    },
  );

  test.skipIf(rustls)("a revoked one, by crl; and sessions of before do not come back", async () => {
    const { at, server, events } = await serve(asking("require"));
    const Ask = streamHandler(async ({ rfile }) => JSON.parse((await rfile.line()) as string));
    const connector = new TCPConnector(`tls://localhost:${at.port}`, Ask, { tls: { ca, ...pair(revoked) } });
    expect(await connector.run()).toMatchObject({ client: "revoked", resumed: false });
    expect(await connector.run()).toMatchObject({ client: "revoked", resumed: true });
    server.replaceCertificate({ crl: authority.revoke(revoked) });
    expect(await errorOf(connector.run())).not.toMatch(/no error/);
    const refused = await events.next("handshake", 3);
    expect(refused.error?.message).toContain("it was revoked");
    expect(await ask(at, pair(client))).toMatchObject({ client: "a client", trusted: true });
  });
});

describe.skipIf(missing)("protocols (ALPN)", () => {
  const alpn = { imap: Imap, tell: Tell };

  test("the chosen one is told; without one in common the handshake fails", async () => {
    const { at, events } = await serve({ tls: { ...pair(own), alpn: ["two", "one"] } });
    expect(await ask(at, { alpn: ["one", "two"] })).toMatchObject({ alpn: "two" });
    expect(await ask(at)).toMatchObject({ alpn: null });
    expect(await errorOf(dial(at, { alpn: ["three"] }))).toMatch(/no protocol in common/);
    expect((await events.next("handshake", 3)).error?.message).toMatch(/no protocol in common/);
  });

  const servers: [string, () => unknown][] = [
    ["threading", () => new ThreadingTCPServer("127.0.0.1:0", Tell, { tls: { ...pair(own), alpn } })],
    [
      "forking",
      () => {
        const handlers = { imap: handlerFrom(fixture, "Imap"), tell: handlerFrom(fixture, "Tell") };
        const options = { tls: { ...pair(own), alpn: handlers } };
        return new ForkingTCPServer("127.0.0.1:0", handlerFrom(fixture, "Tell"), options);
      },
    ],
  ];

  test.each(rowsHere(servers))("a handler for each: %s", async (_, make) => {
    const at = await up(make() as TCPServer);
    const first = async (protocols?: string[]) => {
      const socket = await dial(at, protocols && { alpn: protocols });
      return socket.rfile.line();
    };
    expect(await first(["imap"])).toBe("imap imap");
    expect(JSON.parse((await first(["tell"])) as string)).toMatchObject({ alpn: "tell" });
    expect(JSON.parse((await first()) as string)).toMatchObject({ alpn: null });
  });
});

describe.skipIf(missing)("sessions", () => {
  const Ask = streamHandler(async ({ rfile }) => JSON.parse((await rfile.line()) as string).resumed);
  const dialler = ({ port }: InternetAddress) =>
    new TCPConnector(`tls://localhost:${port}`, Ask, { tls: { ca }, ...AWAITING_CHILD });

  test.skipIf(rustls)("are resumed, unless sessionTimeout is null", async () => {
    const { at, events } = await serve({ tls: pair(own) });
    const connector = dialler(at);
    expect([await connector.run(), await connector.run(), await connector.run()]).toEqual([
      false,
      true,
      true,
    ]);
    expect(events.of("handshake").map(({ resumed }) => resumed)).toEqual([false, true, true]);
    const none = await serve({ tls: { ...pair(own), sessionTimeout: null } });
    const other = dialler(none.at);
    expect([await other.run(), await other.run()]).toEqual([false, false]);
  });

  test.skipIf(runtime !== "Node")("by a second server that has the same ticketKeys", async () => {
    const ticketKeys = crypto.getRandomValues(new Uint8Array(48));
    const one = await serve({ tls: { ...pair(own), ticketKeys } });
    const two = await serve({ tls: { ...pair(own), ticketKeys } });
    const three = await serve({ tls: pair(own) });
    const session = Promise.withResolvers<Buffer>();
    const first = tls.connect({ ...listening(one.at), servername: "localhost", ca }).resume();
    cleanups.push(() => first.destroy());
    first.once("session", session.resolve);
    const resumed = async (at: InternetAddress): Promise<boolean> => {
      const again = tls.connect({
        ...listening(at),
        servername: "localhost",
        ca,
        session: await session.promise,
      });
      cleanups.push(() => again.destroy());
      await once(again, "secureConnect");
      return again.isSessionReused();
    };
    expect(await resumed(two.at)).toBe(true);
    expect(await resumed(three.at)).toBe(false);
  });

  test.runIf(forks)("by each child of a server that forks", async () => {
    const forking = new ForkingTCPServer("127.0.0.1:0", handlerFrom(fixture, "Tell"), {
      tls: pair(own),
      requestsPerChild: 1,
    });
    const connector = dialler((await up(forking)) as InternetAddress);
    expect([await connector.run(), await connector.run()]).toEqual([false, true]); // of two children
  });
});

describe.skipIf(missing)("a handshake", () => {
  const silent = async (at: InternetAddress): Promise<net.Socket> => {
    const socket = net.connect(listening(at));
    cleanups.push(() => socket.destroy());
    await new Promise((resolve) => socket.once("connect", resolve).on("error", resolve));
    return socket;
  };

  test("has its time-out", async () => {
    const { at, events } = await serve({ tls: pair(own), stream: { handshakeTimeout: 50 } });
    const socket = await silent(at);
    expect(await events.next("handshake")).toMatchObject({ error: { code: "ETIMEDOUT" }, version: null });
    await closed(socket);
    expect(events.of("begin")).toEqual([]);
  });

  test("that is slow holds up nobody in a serial server, also while it serves", async () => {
    const { at, events } = await serve({ tls: pair(own) }, Tell, TCPServer);
    await Promise.all([silent(at), silent(at), silent(at)]);
    const first = await dial(at);
    expect(await first.rfile.line()).toContain("TLSv1.3");
    const second = await dial(at); // its handshake is done, and it waits its turn
    await events.next("handshake", 2);
    expect(events.of("begin").length).toBe(1);
    await first.close();
    expect(await second.rfile.line()).toContain("TLSv1.3");
  });

  test("is one of at most maxHandshakes: further ones wait, and past the queue are refused", async () => {
    const limits = { tls: { ...pair(own), maxHandshakes: 1 }, requestQueueSize: 1 };
    const { at, events } = await serve(limits);
    const holding = await silent(at);
    const waiting = dial(at);
    const refused = Promise.withResolvers<void>();
    const others = [net.connect(listening(at)), net.connect(listening(at))];
    for (const other of others) {
      cleanups.push(() => other.destroy());
      other.on("error", () => {}).on("close", () => refused.resolve());
    }
    await refused.promise;
    expect(await events.next("refused")).toMatchObject({ reason: "handshakes" });
    expect(events.of("handshake")).toEqual([]);
    for (const other of others) other.destroy();
    holding.destroy();
    expect(await (await waiting).rfile.line()).toContain("TLSv1.3");
  });

  test("counts for the limits by address, and one that failed no more", async () => {
    const { at, events } = await serve({ tls: pair(own), maxRequestsPerAddress: 1 });
    const holding = await silent(at);
    const other = await silent(at);
    other.resume();
    expect(await events.next("refused")).toMatchObject({ reason: "address" });
    holding.destroy();
    expect(await events.next("handshake")).toMatchObject({ error: { code: "ERR_TLS" } });
    expect(await ask(at)).toMatchObject({ version: "TLSv1.3" });
  });

  test("is let go when the server closes", async () => {
    const limits = { tls: { ...pair(own), maxHandshakes: 1 }, requestQueueSize: 1 };
    const { at, server, events } = await serve(limits);
    const gone = [await silent(at), await silent(at), await silent(at)].map(closed);
    await events.next("refused"); // the third: so the others have come, and one of them waits
    await server.serverClose();
    await Promise.all(gone);
    expect(events.of("handshake")).toEqual([]);
    expect(events.of("refused").map(({ reason }) => reason)).toEqual(["handshakes", "closing", "closing"]);
    expect(server.info().running).toBe(0);
  });

  test.each<[string, string | Buffer, RegExp]>([
    [
      "speaks plain HTTP",
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
      rustls ? /not TLS/ : /speaks HTTP in plain text.*https:\/\//,
    ],
    ["speaks SSH", "SSH-2.0-OpenSSH_9.2\r\n", /not TLS/],
    [
      "sends a record that is too long",
      Buffer.from([22, 3, 1, 0xff, 0xff, 1, 2, 3]),
      /longer than may be|not TLS/,
    ],
    ["leaves in its midst", Buffer.from([22, 3, 1, 2, 0]), /the peer left in the TLS handshake/],
    ["leaves at once", "", /the peer left in the TLS handshake/],
  ])("with a peer that %s says so", async (_, bytes, says) => {
    const { at, events } = await serve({ tls: pair(own) });
    const socket = await silent(at);
    socket.end(bytes);
    expect((await events.next("handshake")).error?.message).toMatch(says);
    await closed(socket);
    expect(events.of("begin")).toEqual([]);
    expect(events.of("error")).toEqual([]);
  });

  test("without a version in common says so on both sides", async () => {
    const { at, events } = await serve({ tls: { ...pair(own), minVersion: "TLSv1.3" } });
    const old = tls.connect({ ...listening(at), ca, servername: "localhost", maxVersion: "TLSv1.2" });
    const [error] = (await once(old, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toBe("ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION");
    expect((await events.next("handshake")).error?.message).toMatch(/no version in common/);
  });

  test("whose client sees a certificate that has expired says so", async () => {
    const { at, events } = await serve({ tls: pair(issue("late", { days: -1 })) });
    const why = rustls ? /\(UNABLE_TO_VERIFY_LEAF_SIGNATURE\)/ : /it has expired \(CERT_HAS_EXPIRED\)/;
    const said = await errorOf(dial(at));
    expect(said).toMatch(/ERR_TLS: .*not trusted: /);
    expect(said).toMatch(why);
    await events.next("handshake");
  });

  test("is over: what is no TLS later is ERR_TLS, and is not waited out", async () => {
    const failed = Promise.withResolvers<unknown>();
    const Handler = streamHandler(async ({ request, wfile }) => {
      await wfile.write("ready\n");
      await request.recv().catch(failed.resolve);
    });
    const { at } = await serve({ tls: pair(own) }, Handler as never);
    const raw = await silent(at);
    const socket = tls.connect({ socket: raw, ca, servername: "localhost" });
    socket.on("error", () => {});
    await once(socket, "data");
    raw.write(Buffer.concat([Buffer.from([23, 3, 3, 0, 32]), Buffer.alloc(32)])); // a record of no key
    expect(await failed.promise).toMatchObject({
      code: "ERR_TLS",
      message: expect.stringContaining("ended by TLS"),
    });
  });
});

describe.skipIf(missing)(
  "behind a proxy: its header comes first, in one piece with the handshake and apart",
  () => {
    const header = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
    /** A proxy that sends the header with the client's first bytes, or by itself. */
    const proxy = async (to: InternetAddress, together: boolean): Promise<InternetAddress> => {
      const relay = net.createServer({ pauseOnConnect: true }, (near) => {
        const far = net.connect(listening(to), () => {
          if (!together) far.write(header);
          near.once("data", (bytes: Buffer) => {
            far.write(together ? Buffer.concat([Buffer.from(header), bytes]) : bytes);
            near.pipe(far);
          });
          near.resume();
          far.pipe(near);
        });
        for (const socket of [near, far]) {
          cleanups.push(() => socket.destroy());
          socket.on("error", () => {});
        }
      });
      await new Promise<void>((resolve) => relay.listen(0, "127.0.0.1", resolve));
      cleanups.push(() => void relay.close());
      const { port } = relay.address() as net.AddressInfo;
      return { family: "IPv4", hostname: "127.0.0.1", port };
    };
    const options = { tls: pair(own), proxyProtocol: { from: ["127.0.0.1"] } };

    const servers: [string, () => unknown][] = [
      ["threading", () => new ThreadingTCPServer("127.0.0.1:0", Tell, options)],
      ["forking", () => new ForkingTCPServer("127.0.0.1:0", handlerFrom(fixture, "Tell"), options)],
    ];

    test.each(rowsHere(servers))("%s", async (_, make) => {
      const before = intake.on;
      for (const on of new Set([before, false])) {
        intake.on = on;
        cleanups.push(() => {
          intake.on = before;
        });
        const events = new Events();
        const server = make() as TCPServer;
        server.onEvent = events.onEvent;
        const at = (await up(server)) as InternetAddress;
        for (const together of [true, false]) {
          expect(await ask(await proxy(at, together))).toMatchObject({ version: "TLSv1.3" });
        }
        await events.next("handshake", 2);
        for (const { address } of [...events.of("handshake"), ...events.of("begin")]) {
          expect(address).toEqual({ family: "IPv4", hostname: "192.0.2.1", port: 1000 });
        }
      }
    });
  },
);

describe.skipIf(missing)("STARTTLS with the certificates of the listener", () => {
  const servers: [string, unknown, unknown][] = [
    ["threading", Later, ThreadingTCPServer],
    ["forking", handlerFrom(fixture, "Later"), ForkingTCPServer],
  ];

  test.each(rowsHere(servers))("%s", async (_, Handler, Server) => {
    const options = { tls: pair(own), secureTransport: "starttls" } as const;
    const server = new (Server as typeof ThreadingTCPServer)(
      await ownAddress(),
      Handler as typeof Later,
      options,
    );
    const { port } = (await up(server)) as InternetAddress;
    const there = { hostname: "localhost", port };
    const secured = { secureTransport: "starttls", tls: { ca }, ...AWAITING_CHILD } as const;
    const socket = await createConnection(there, secured);
    cleanups.push(() => socket.abort());
    expect(await socket.rfile.line()).toBe("null");
    expect(socket.tls).toBeNull();
    await socket.sendall("STARTTLS\n");
    expect(await socket.rfile.line()).toBe("go ahead");
    await socket.startTls();
    expect(JSON.parse((await socket.rfile.line()) as string)).toMatchObject({ serverName: "localhost" });
    expect(socket.tls).toMatchObject({ version: "TLSv1.3", trusted: true });
    await socket.sendall("over TLS\n");
    expect(await socket.rfile.line()).toBe("over TLS");
  });
});

describe.skipIf(missing)("certificates are replaced while connections live", () => {
  const second = issue("second");
  const shownBy = async (at: Address): Promise<string | null | undefined> => {
    const socket = await dial(at);
    await socket.rfile.line();
    const { certificate } = socket.tls ?? {};
    await socket.close();
    return certificate?.commonName;
  };

  const servers: [string, () => unknown][] = [
    ["threading", () => new ThreadingTCPServer("127.0.0.1:0", Tell, { tls: pair(own) })],
    ["forking", () => new ForkingTCPServer("127.0.0.1:0", handlerFrom(fixture, "Tell"), { tls: pair(own) })],
  ];

  test.each(rowsHere(servers))("by replaceCertificate(): %s", async (_, make) => {
    const events = new Events();
    const server = make() as TCPServer;
    server.onEvent = events.onEvent;
    const at = await up(server);
    const open = await dial(at);
    await open.rfile.line();
    server.replaceCertificate(pair(second));
    expect(events.of("certificate")).toMatchObject([
      { certificates: [{ subject: "CN=second" }], error: null },
    ]);
    expect(await shownBy(at)).toBe("second");
    await open.sendall("still here\n");
    expect(await open.rfile.line()).toBe("still here");

    // A bad one changes nothing.
    const late = issue("late", { days: -1 });
    const bad: [object, RegExp][] = [
      [
        { cert: own.cert, key: second.key },
        /tls\.key is not the key of the first certificate in tls\.cert, CN=localhost/,
      ],
      [
        { cert: "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", key: own.key },
        /tls\.cert is not a certificate/,
      ],
      [pair(late), /tls\.cert has expired/],
      [{ cert: { file: "/none/cert.pem" }, key: own.key }, /tls\.cert: ENOENT.*\/none\/cert\.pem/],
    ];
    for (const [next, says] of bad) expect(() => server.replaceCertificate(next)).toThrow(says);
    expect(await shownBy(at)).toBe("second");
  });

  const FOLDERS = {
    /** certbot: live/ has links to the newest of archive/. */
    certbot: (folder: string) => {
      const archive = join(folder, "archive");
      mkdirSync(archive);
      let count = 0;
      return (issued: Issued): void => {
        count++;
        for (const [name, text] of [
          ["fullchain", issued.cert],
          ["privkey", issued.key],
        ] as const) {
          writeFileSync(join(archive, `${name}${count}.pem`), text);
          rmSync(join(folder, `${name}.pem`), { force: true });
          symlinkSync(join("archive", `${name}${count}.pem`), join(folder, `${name}.pem`));
        }
      };
    },
    /** Kubernetes: links to ..data/, which is a link that is replaced at once. */
    Kubernetes: (folder: string) => {
      let count = 0;
      for (const name of ["fullchain.pem", "privkey.pem"])
        symlinkSync(join("..data", name), join(folder, name));
      return (issued: Issued): void => {
        const version = `..v${++count}`;
        mkdirSync(join(folder, version));
        writeFileSync(join(folder, version, "fullchain.pem"), issued.cert);
        writeFileSync(join(folder, version, "privkey.pem"), issued.key);
        symlinkSync(version, join(folder, "..tmp"));
        renameSync(join(folder, "..tmp"), join(folder, "..data"));
      };
    },
    "a program that writes the files in place": (folder: string) => (issued: Issued) => {
      writeFileSync(join(folder, "fullchain.pem"), issued.cert);
      writeFileSync(join(folder, "privkey.pem"), issued.key);
    },
  };

  test.each(Object.entries(FOLDERS))("by files that change: %s", async (name, make) => {
    const folder = join(authority.folder, `files-${name.replace(/ /g, "-")}`);
    mkdirSync(folder);
    const put = make(folder);
    put(own);
    const files = {
      cert: { file: join(folder, "fullchain.pem") },
      key: { file: join(folder, "privkey.pem") },
    };
    const { at, events } = await serve({ tls: files });
    expect(await shownBy(at)).toBe("localhost");
    put(second);
    const shown = async (subject: string): Promise<void> => {
      for (let i = 1; ; i++) {
        const { certificates, error } = await events.next("certificate", i);
        expect(error).toBeNull();
        if (certificates[0]?.subject === subject) return;
      }
    };
    await shown("CN=second");
    expect(await shownBy(at)).toBe("second");
  });

  test("not before certificate and key match; what stays wrong is told, and the former one stays", async () => {
    const folder = join(authority.folder, "halves");
    mkdirSync(folder);
    const cert = { file: join(folder, "cert.pem") };
    const key = { file: join(folder, "key.pem") };
    writeFileSync(cert.file, own.cert);
    writeFileSync(key.file, own.key);
    const { at, events } = await serve({ tls: { cert, key } });
    writeFileSync(cert.file, second.cert);
    const told = await events.next("certificate");
    expect(String(told.error)).toContain("tls.key is not the key");
    expect(told.certificates[0]?.subject).toBe("CN=localhost");
    expect(await shownBy(at)).toBe("localhost");
    writeFileSync(key.file, second.key);
    expect(await events.next("certificate", 2)).toMatchObject({
      error: null,
      certificates: [{ subject: "CN=second" }],
    });
    expect(await shownBy(at)).toBe("second");
  });
});

test.skipIf(missing)("a connection may be aborted in the turn in which its handshake ends", async () => {
  const { at } = await serve({ tls: pair(own) });
  const socket = await dial(at);
  socket.abort(); // while OpenSSL reads
  expect(await errorOf(socket.recv())).toMatch(/^ECONNABORTED/);
  expect(await ask(at)).toMatchObject({ version: "TLSv1.3" });
});

describe.skipIf(missing)("what is wrong is said by its name", () => {
  const locked = issue("locked", { passphrase: "secret" });
  const made =
    (options: object, address = "127.0.0.1:0") =>
    () =>
      new ThreadingTCPServer(address, Tell, options);

  test("an encrypted key, with its passphrase and with another", async () => {
    const { at } = await serve({ tls: { ...pair(locked), passphrase: "secret" } });
    expect(await ask(at)).toMatchObject({ version: "TLSv1.3" });
    expect(made({ tls: { ...pair(locked), passphrase: "other" } })).toThrow(
      /^tls\.key cannot be read.*passphrase/,
    );
    expect(made({ tls: pair(locked) })).toThrow(/^tls\.key cannot be read.*passphrase/);
  });

  test("bytes, and files", async () => {
    const bytes = { cert: new TextEncoder().encode(own.cert), key: new TextEncoder().encode(own.key) };
    expect(await ask((await serve({ tls: bytes })).at)).toMatchObject({ version: "TLSv1.3" });
    const files = { cert: { file: own.certFile }, key: { file: own.keyFile } };
    const trusting = { ca: { file: authority.caFile } };
    expect(await ask((await serve({ tls: files })).at, trusting)).toMatchObject({ version: "TLSv1.3" });
  });

  test.each<[object, RegExp]>([
    [
      { cert: "/etc/cert.pem", key: "/etc/key.pem" },
      /^tls\.cert is PEM.*write \{ file: "\/etc\/cert\.pem" \}/,
    ],
    [{ cert: new Uint8Array([48, 130]), key: "x" }, /^tls\.cert is PEM.*DER/],
    [{ cert: own.cert }, /^tls\.cert is given without tls\.key/],
    [{ ...pair(own), ca }, /^tls\.ca is for client certificates/],
    [{ ...pair(own), clientCertificate: "require" }, /needs tls\.ca/],
    [
      { ...pair(own), clientCertificate: "yes" },
      /^tls\.clientCertificate must be "none" or "ask" or "require"/,
    ],
    [{ ...pair(own), minVersion: "TLSv1.1" }, /^tls\.minVersion must be "TLSv1\.2" or "TLSv1\.3"/],
    [{ ...pair(own), alpn: [] }, /^tls\.alpn names no protocol/],
    [{ ...pair(own), alpn: ["ä"] }, /^tls\.alpn has names of/],
    [{ ...pair(own), serverNames: { "a*.org": pair(own) } }, /^tls\.serverNames\["a\*\.org"\]: a name is/],
    [{ ...pair(own), serverNames: { "a.org": {} } }, /^tls\.serverNames\["a\.org"\] has no cert/],
    [{ ...pair(own), serverNames: { "a.org": { crt: 1 } } }, /serverNames\["a\.org"\] has no option crt/],
    [{ ...pair(own), ticketKeys: new Uint8Array(3) }, /^tls\.ticketKeys is a Uint8Array of 48/],
    [{ ...pair(own), sessionTimeout: 1 }, /^tls\.sessionTimeout must be 1000 to/],
    [{ ...pair(own), maxHandshakes: 0 }, /^tls\.maxHandshakes must be a whole number/],
    [{ ...pair(own), crl: "-----BEGIN X509 CRL-----" }, /^tls\.crl is a list of tls\.ca/],
    [{}, /^tls\.cert and tls\.key are needed/],
    [{ ...pair(own), certificate: 1 }, /has no option tls\.certificate/],
  ])("%o", (tls, says) => {
    expect(made({ tls })).toThrow(says);
  });

  test("when connections are secured", () => {
    expect(made({}, "tls://127.0.0.1:0")).toThrow("a tls:// listener needs tls: { cert, key }");
    expect(made({ tls: pair(own), secureTransport: "off" })).toThrow(
      'secureTransport is "off", and tls is given',
    );
    expect(made({ tls: pair(own), secureTransport: "starttls" }, "tls://127.0.0.1:0")).toThrow(
      "from its first byte",
    );
    expect(made({ secureTransport: "starttls" })).toThrow(
      'secureTransport "starttls" of a listener needs tls',
    );
    const plain = made({})();
    expect(() => plain.replaceCertificate(pair(own))).toThrow(expect.objectContaining({ code: "EINVAL" }));
    expect(plain.secureTransport).toBe("off");
  });

  test("what dials: options of its role alone", async () => {
    const socket = await dial((await serve({ tls: pair(own) })).at);
    const options: [object, RegExp][] = [
      [{ tls: { ca: "x" } }, /^tls\.ca is PEM/],
      [{ tls: { alpn: { x: 1 } } }, /^tls\.alpn of .* is a list/],
      [{ tls: { serverName: "" } }, /^tls\.serverName is the name/],
      [
        { tls: { clientCertificate: "ask" } },
        /has no option tls\.clientCertificate \(.*a listener that has TLS/,
      ],
      [{ tls: { ...pair(own), key: client.key }, secureTransport: "on" }, /^tls\.key is not the key/],
    ];
    for (const [given, says] of options)
      expect(await errorOf(createConnection(socket.getpeername() as Address, given))).toMatch(says);
  });

  test("of an app, when it is listened on: a Worker does not carry what checks it", async () => {
    const told = async (address: string, options: object): Promise<string> => {
      const app = defineApp({ handlers: { Tell }, listen: [{ handler: "Tell", address, options }] });
      return errorOf(serveApp(app));
    };
    expect(await told("127.0.0.1:0", { tls: { cert: "x", key: "y" } })).toMatch(
      /tls\.cert is PEM .*write \{ file: "x" \}/,
    );
    expect(await told("tls://127.0.0.1:0", { secureTransport: "starttls", tls: pair(own) })).toMatch(
      /tls:\/\/ is secured from its first byte/,
    );
  });
});

const HANDSHAKES = Number(process.env.HANDSHAKES ?? 400); // thrice; 10 000 is what was tried once

test.skipIf(missing)(`${HANDSHAKES} handshakes, of which a quarter fails, leave nothing behind`, async () => {
  for (const [name, text] of [
    ["cert.pem", own.cert],
    ["key.pem", own.key],
  ] as const) {
    writeFileSync(join(authority.folder, name), text);
  }
  const fixture = fileURLToPath(new URL("./fixtures/tls-handshakes.ts", import.meta.url));
  const options = ["--conditions=socklet:source", "--expose-gc"];
  const { stdout, stderr } = await run(
    process.execPath,
    [...options, fixture, HANDSHAKES, authority.folder],
    "",
    0,
  );
  expect(stderr).toBe("");
  const { before, after, failed, served, left } = JSON.parse(String(stdout));
  expect({ failed, served, left }).toEqual({
    failed: (3 * HANDSHAKES) / 4,
    served: (9 * HANDSHAKES) / 4,
    left: [],
  });
  expect((after - before) / HANDSHAKES).toBeLessThan(1_000); // bytes of one; a connection that stayed takes 50 000
});
