/** TLS and STARTTLS on real sockets, in both roles, beside openssl. */

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type InternetAddress, type SockletEvent, type StreamSocket, streamHandler } from "socklet";
import { createConnection, TCPConnector, ThreadingTCPServer } from "socklet/emulator";
import { memoryPair } from "socklet/testing";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { peer } from "../peers/peer.ts";
import { ownAddress, ownPort } from "../peers/ports.ts";

const openssl = peer("openssl");
const folder = mkdtempSync(join(tmpdir(), "socklet-tls-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** An authority of our own, and a certificate of it for localhost and 127.0.0.1. */
const makeCertificates = () => {
  const run = (...args: string[]): void => {
    const { status, stderr } = spawnSync(openssl as string, args, { cwd: folder, encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
  };
  run(
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-keyout",
    "ca.key",
    "-out",
    "ca.pem",
    "-days",
    "2",
    "-subj",
    "/CN=Test CA",
  );
  run(
    "req",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-keyout",
    "key.pem",
    "-out",
    "csr.pem",
    "-subj",
    "/CN=localhost",
  );
  writeFileSync(join(folder, "ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1");
  run(
    "x509",
    "-req",
    "-in",
    "csr.pem",
    "-CA",
    "ca.pem",
    "-CAkey",
    "ca.key",
    "-CAcreateserial",
    "-out",
    "cert.pem",
    "-days",
    "2",
    "-extfile",
    "ext",
  );
  const file = (name: string): string => readFileSync(join(folder, name), "utf8");
  return { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") };
};
const { ca, cert, key } = openssl === null ? { ca: "", cert: "", key: "" } : makeCertificates();

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

/** SMTP's manner: plain, then STARTTLS; and a port that is TLS from its first byte. */
const upper = (immediate: boolean) =>
  streamHandler(async ({ request, rfile, wfile }) => {
    if (immediate) {
      await request.startTls({ cert, key });
    } else {
      wfile.write("220 ready\r\n");
      if ((await rfile.line()) !== "STARTTLS") return;
      wfile.write("220 go ahead\r\n");
      await request.startTls({ cert, key });
    }
    for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\n`);
  });

const serve = async (immediate: boolean, events: SockletEvent[] = []): Promise<number> => {
  const server = new ThreadingTCPServer(await ownAddress(), upper(immediate), {
    onEvent: (event) => events.push(event),
  });
  cleanups.push(() => {
    server.abort();
    return server.serverClose();
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return port;
};

const Ask = (secure: boolean, tls?: { ca: string }) =>
  streamHandler(async ({ request, rfile, wfile }) => {
    if (!secure) {
      await rfile.line();
      wfile.write("STARTTLS\r\n");
      await rfile.line();
      await request.startTls(tls);
    }
    wfile.write("hello\n");
    return rfile.line();
  });

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "no error",
    (error) => error.code ?? `${error}`,
  );

test.skipIf(openssl === null)(
  "TLS from the first byte, by name and by address; a large exchange; the end both ways",
  async () => {
    const port = await serve(true);
    for (const hostname of ["localhost", "127.0.0.1"]) {
      const socket = await createConnection({ hostname, port }, { secureTransport: "on", tls: { ca } });
      const line = "x".repeat(60_000);
      for (let i = 0; i < 20; i++) socket.wfile.write(`${line}\n`);
      for (let i = 0; i < 20; i++) expect((await socket.rfile.line())?.length).toBe(60_000);
      await socket.shutdown(1);
      expect(await socket.rfile.line()).toBeNull();
      expect(socket.getpeername()).toMatchObject({ hostname: "127.0.0.1", port });
      await socket.close();
    }
    const connector = new TCPConnector({ hostname: "localhost", port }, Ask(true), { tls: { ca } }); // as for a listener, `tls` alone says "on"
    expect(await connector.run()).toBe("HELLO");
  },
);

test.skipIf(openssl === null)("STARTTLS: the same socket, rfile and wfile go on with TLS", async () => {
  const port = await serve(false);
  const there = { hostname: "localhost", port };
  const given = new TCPConnector(there, Ask(false, { ca }), { secureTransport: "starttls" });
  expect(await given.run()).toBe("HELLO");
  // The dialling code says which certificates to trust; the handler need not know.
  const dialled = new TCPConnector(there, Ask(false), { secureTransport: "starttls", tls: { ca } });
  expect(await dialled.run()).toBe("HELLO");
});

test.skipIf(openssl === null)(
  "toWeb(): startTls() gives the secured socket at once, and the plain one is done with",
  async () => {
    const port = await serve(false);
    const socket = await createConnection({ hostname: "localhost", port }, { secureTransport: "starttls" });
    expect(await socket.rfile.line()).toBe("220 ready");
    const waiting = socket.rfile.line();
    expect(await codeOf(socket.startTls({ ca }))).toBe("EBUSY");
    await socket.sendall("STARTTLS\r\n");
    expect(await waiting).toBe("220 go ahead");
    const plain = socket.toWeb();
    const secured = plain.startTls({ ca });
    expect([plain.upgraded, secured.upgraded]).toEqual([true, false]);
    await plain.closed;
    expect(await codeOf(plain.readable.getReader().read())).toBe("ERR_HANDED_OVER");
    expect(await secured.opened).toMatchObject({ remoteAddress: `127.0.0.1:${port}` });
    const writer = secured.writable.getWriter();
    await writer.write(new TextEncoder().encode("over tls\n"));
    const { value } = await secured.readable.getReader().read();
    expect(new TextDecoder().decode(value)).toBe("OVER TLS\n");
    await secured.close();
  },
);

test.skipIf(openssl === null)("toWeb(): a handshake that fails is told by opened and closed", async () => {
  const port = await serve(false);
  const socket = await createConnection({ hostname: "localhost", port }, { secureTransport: "starttls" });
  await socket.rfile.line();
  await socket.sendall("STARTTLS\r\n");
  await socket.rfile.line();
  const secured = socket.toWeb().startTls();
  expect([await codeOf(secured.opened), await codeOf(secured.closed)]).toEqual(["ERR_TLS", "ERR_TLS"]);
});

test("who accepted a connection must give a certificate", async () => {
  const refused = Promise.withResolvers<unknown>();
  const handler = streamHandler(({ request }) => request.startTls().catch(refused.resolve));
  const server = new ThreadingTCPServer("127.0.0.1:0", handler);
  cleanups.push(() => server.serverClose());
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  const socket = await createConnection(address);
  expect(await refused.promise).toMatchObject({
    name: "TypeError",
    message: expect.stringContaining("cert and a key"),
  });
  await socket.close();
});

test.skipIf(openssl === null)(
  "a certificate that is not trusted, or of another name, is ERR_TLS on both sides; the server goes on",
  async () => {
    const events: SockletEvent[] = [];
    const port = await serve(true, events);
    const dial = (tls: object) =>
      codeOf(createConnection({ hostname: "localhost", port }, { secureTransport: "on", tls }));
    expect(await dial({})).toBe("ERR_TLS");
    expect(await dial({ ca, serverName: "elsewhere.example" })).toBe("ERR_TLS");
    expect(await dial({ ca })).toBe("no error");
    await expect.poll(() => events.filter(({ type }) => type === "error").length).toBe(2);
  },
);

test.skipIf(openssl === null)(
  "a peer that speaks no TLS is ERR_TLS, and a silent one ETIMEDOUT",
  async () => {
    const port = await serve(true);
    const plain = await createConnection({ hostname: "127.0.0.1", port });
    await plain.sendall("GET / HTTP/1.1\r\n\r\n");
    expect(await codeOf(plain.rfile.read().then(() => plain.recv()))).toMatch(/no error|ECONNRESET/);
    const silent = new ThreadingTCPServer(
      "127.0.0.1:0",
      streamHandler(({ rfile }) => rfile.read()),
    );
    cleanups.push(() => {
      silent.abort();
      return silent.serverClose();
    });
    const address = (await silent.listen()) as InternetAddress;
    void silent.serveForever();
    const socket = await createConnection(address, { stream: { handshakeTimeout: 50 } });
    expect(await codeOf(socket.startTls({ ca }))).toBe("ETIMEDOUT");
    expect(socket.closed).toBe(true);
    expect(await codeOf(createConnection(address, { connectTimeout: 50, secureTransport: "on" }))).toBe(
      "ETIMEDOUT",
    );
  },
);

test.skipIf(openssl === null)("bytes that came before TLS began are refused (CVE-2011-0411)", async () => {
  const events: SockletEvent[] = [];
  const port = await serve(false, events);
  const socket = await createConnection({ hostname: "127.0.0.1", port });
  expect(await socket.rfile.line()).toBe("220 ready");
  await socket.sendall("STARTTLS\r\nEVIL COMMAND\r\n");
  expect(await codeOf(socket.rfile.read())).toMatch(/ECONNRESET|no error/);
  expect(events.find(({ type }) => type === "error")).toMatchObject({ error: { code: "ERR_TLS" } });
});

/** Two ends of one connection: what was accepted, by either of Node's paths, or dialled; and a plain peer. */
const CONNECTIONS = {
  accepted: async () => {
    const request = Promise.withResolvers<StreamSocket>();
    const over = Promise.withResolvers<void>();
    const handler = streamHandler(async (context) => {
      request.resolve(context.request);
      await over.promise;
    });
    const server = new ThreadingTCPServer("127.0.0.1:0", handler);
    cleanups.push(() => {
      over.resolve();
      return server.serverClose();
    });
    const address = (await server.listen()) as InternetAddress;
    void server.serveForever();
    const peer = net.connect({ host: address.hostname, port: address.port, allowHalfOpen: true });
    return { socket: await request.promise, peer };
  },
  dialled: async () => {
    const server = net.createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
    cleanups.push(() => void server.close());
    const arrived = once(server, "connection");
    await once(server, "listening");
    const { port } = server.address() as net.AddressInfo;
    const socket = await createConnection({ hostname: "127.0.0.1", port }, { secureTransport: "starttls" });
    return { socket, peer: (await arrived)[0] as net.Socket };
  },
};

describe.skipIf(openssl === null)(
  "startTls() with a peer that has ended fails at once, not after the handshake's time",
  () => {
    const options = { accepted: { cert, key }, dialled: { ca } };

    test.each([
      ["accepted", "read"],
      ["accepted", "not read"],
      ["accepted", "come in the handshake"],
      ["dialled", "read"],
      ["dialled", "not read"],
      ["dialled", "come in the handshake"],
    ] as const)("%s, its end %s", async (which, how) => {
      const { socket, peer } = await CONNECTIONS[which]();
      peer.on("error", () => {}).resume();
      cleanups.push(() => void peer.destroy());
      const ends = async (): Promise<void> => {
        peer.end();
        await once(peer, "finish");
      };
      if (how !== "come in the handshake") await ends();
      if (how === "read") expect(await socket.recv()).toBeNull();
      const securing = codeOf(socket.startTls(options[which]));
      if (how === "come in the handshake") await ends();
      expect(await securing).toBe("ERR_TLS");
      expect(socket.closed).toBe(true);
    });

    test("toWeb(): opened says so", async () => {
      const { socket, peer } = await CONNECTIONS.dialled();
      peer.on("error", () => {}).end();
      cleanups.push(() => void peer.destroy());
      expect(await socket.recv()).toBeNull();
      const secured = socket.toWeb().startTls({ ca });
      expect([await codeOf(secured.opened), await codeOf(secured.closed)]).toEqual(["ERR_TLS", "ERR_TLS"]);
    });
  },
);

test("memory says that it has no TLS", async () => {
  const [socket] = memoryPair();
  await expect(socket.startTls()).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
});

test.skipIf(openssl === null)("openssl s_client speaks with our server", async () => {
  const port = await serve(true);
  const child = spawn(openssl as string, [
    "s_client",
    "-connect",
    `127.0.0.1:${port}`,
    "-CAfile",
    join(folder, "ca.pem"),
    "-verify_return_error",
    "-quiet",
    "-no_ign_eof",
  ]);
  cleanups.push(() => child.kill());
  child.stdin.write("from openssl\n");
  const [reply] = (await once(child.stdout, "data")) as [Buffer];
  expect(reply.toString()).toBe("FROM OPENSSL\n");
});

test.skipIf(openssl === null)("we speak with openssl s_server", async () => {
  const own = await ownPort();
  const child = spawn(
    openssl as string,
    ["s_server", "-accept", `127.0.0.1:${own}`, "-cert", "cert.pem", "-key", "key.pem", "-rev"],
    { cwd: folder },
  );
  cleanups.push(() => child.kill());
  let said = "";
  for await (const chunk of child.stdout) {
    said += chunk;
    if (/^ACCEPT.*\n/m.test(said)) break;
  }
  const port = own || Number(/ACCEPT .*:(\d+)/.exec(said)?.[1]); // it prints what the kernel chose alone
  const socket = await createConnection(
    { hostname: "localhost", port },
    { secureTransport: "on", tls: { ca } },
  );
  await socket.sendall("hello\n");
  expect(await socket.rfile.line()).toBe("olleh");
  await socket.close();
});

test.skipIf(openssl === null)("certificates and keys as text, as a Buffer, and as plain bytes", async () => {
  const forms = [
    (text: string) => text,
    (text: string) => Buffer.from(text),
    (text: string) => new Uint8Array(new TextEncoder().encode(text)),
  ];
  for (const form of forms) {
    const Secured = streamHandler(async ({ request, wfile }) => {
      await request.startTls({ cert: form(cert), key: form(key) });
      wfile.write("hello\n");
    });
    await using server = new ThreadingTCPServer("127.0.0.1:0", Secured);
    const address = (await server.listen()) as InternetAddress;
    void server.serveForever();
    const options = { secureTransport: "on", tls: { ca: form(ca), serverName: "localhost" } } as const;
    await using client = await createConnection(address, options);
    expect(await client.rfile.line()).toBe("hello");
  }
});
