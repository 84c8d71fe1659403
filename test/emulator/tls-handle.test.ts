/** Connections over Node's TLS handle: what only their two ends can do to each other, and what is used if the handle is not available. */

import { execFile } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import tls from "node:tls";
import { promisify } from "node:util";
import { type Data, type InternetAddress, type StreamSocket, streamHandler } from "socklet";
import { createConnection, ThreadingTCPServer } from "socklet/emulator";
import { afterEach, describe, expect, test } from "vitest";
import { intake } from "../../emulator/kernel/handles/intake.ts";
import type { Connection } from "../../emulator/kernel/transports/seam.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { peer } from "../peers/peer.ts";
import { python, start } from "../peers/program.ts";

const own = ownCertificates();
const { ca = "", cert = "", key = "" } = own ?? {};
const HOST = "127.0.0.1";

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  intake.on = true;
});

type Handler = ReturnType<typeof streamHandler>;

/** A server of TLS; returns its port. */
const serve = async (Handler: Handler, Server = ThreadingTCPServer): Promise<number> => {
  const server = new Server(`${HOST}:0`, Handler, { tls: { cert, key } });
  cleanups.push(() => {
    server.abort();
    return server.serverClose();
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return port;
};

const dial = async (port: number): Promise<StreamSocket> => {
  const socket = await createConnection({ hostname: HOST, port }, { secureTransport: "on", tls: { ca } });
  cleanups.push(() => socket.abort());
  return socket;
};

/** A relay between a client and a server that holds back the client's bytes. */
class Between {
  port = 0;
  #far: net.Socket | undefined;
  #holds = false;
  #held: Buffer[] = [];
  #ended = false;
  #told = (): void => {};

  /** `fromHello`: it holds back everything after the client's first piece. */
  static async to(port: number, fromHello: boolean): Promise<Between> {
    const between = new Between();
    const server = net.createServer({ allowHalfOpen: true }, (near) => {
      const far = net.connect({ port, host: HOST, allowHalfOpen: true });
      between.#far = far;
      near.on("data", (bytes) => {
        if (between.#holds) between.#held.push(bytes);
        else far.write(bytes);
        between.#holds ||= fromHello;
        between.#told();
      });
      near.on("end", () => {
        between.#ended = true;
        if (!between.#holds) far.end();
        between.#told();
      });
      far.pipe(near);
      for (const socket of [near, far]) {
        socket.on("error", () => {});
        cleanups.push(() => socket.destroy());
      }
    });
    server.listen(0, HOST);
    await once(server, "listening");
    cleanups.push(() => void server.close());
    between.port = (server.address() as net.AddressInfo).port;
    return between;
  }

  hold(): void {
    this.#holds = true;
  }

  /** Waits until it holds so much, or the client's end. */
  async has(size: number | "the end"): Promise<void> {
    const here = (): boolean =>
      size === "the end" ? this.#ended : this.#held.reduce((sum, { length }) => sum + length, 0) >= size;
    while (!here()) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#told = resolve;
      await promise;
    }
  }

  /** Forwards in one piece what it has held back. */
  release(): void {
    const all = Buffer.concat(this.#held.splice(0));
    if (this.#ended) this.#far?.end(all);
    else this.#far?.write(all);
    this.#holds = false;
  }
}

const each = test.skipIf(own === null).each([
  ["by the handle", true],
  ["by the TLSSocket", false],
]);

each("%s: what is accepted, and what is dialled", async (_, on) => {
  intake.on = on;
  const accepted = Promise.withResolvers<Connection>();
  class Takes extends ThreadingTCPServer {
    protected override accepted(connection: Connection): void {
      accepted.resolve(connection);
    }
  }
  const server = new Takes(
    `${HOST}:0`,
    streamHandler(() => {}),
  );
  cleanups.push(() => server.serverClose());
  const { port } = (await server.listen()) as InternetAddress;
  const socket = tls.connect({ port, host: HOST, ca, servername: "localhost" });
  cleanups.push(() => socket.destroy());
  const connection = await accepted.promise;
  const secured = await connection.startTls?.({ cert, key });
  cleanups.push(() => secured?.abort());
  expect(secured?.constructor.name).toBe(on ? "TlsTransport" : "NodeTransport");
  expect(secured?.tls?.version).toBe("TLSv1.3");
  expect(secured?.remoteAddress).toEqual(connection.remoteAddress);
  expect(secured?.localAddress).toMatchObject({ hostname: HOST, port });
  expect(secured?.kernel?.fd).toBeGreaterThan(0);
});

each("%s: a request and its end that come with the last of the handshake", async (_, on) => {
  intake.on = on;
  const port = await serve(
    streamHandler(async ({ request, rfile, wfile }) => {
      const first = await rfile.line();
      const rest = await rfile.read();
      wfile.write(`${first} ${rest?.length} ${await request.recv()}`);
    }),
  );
  const between = await Between.to(port, true);
  const socket = tls.connect({ port: between.port, host: HOST, ca, servername: "localhost" });
  cleanups.push(() => socket.destroy());
  socket.setEncoding("utf8");
  await once(socket, "secureConnect");
  socket.end(`hello\n${"x".repeat(40_000)}`);
  await between.has("the end");
  between.release();
  let said = "";
  for await (const text of socket) said += text;
  expect(said).toBe("hello 40000 null");
});

/** Pieces of all the kinds of write: gathered, borrowed, as long as a record, in pieces, as text. */
const SIZES = [1, 100, 16_383, 16_384, 16_385, 65_535, 65_536, 5, 262_144, 300_000, 2, 1_000_000, 3];
const PIECES: readonly Data[] = SIZES.flatMap((size, i) => [
  new Uint8Array(size).map((_, at) => at * 31 + i),
  "é".repeat(size % 40_000),
]);
const ALL = Buffer.concat(PIECES.map((piece) => Buffer.from(piece as string)));

each("%s: writes that nobody awaits leave in order, both ways at once", async (_, on) => {
  intake.on = on;
  const talk = async (socket: StreamSocket): Promise<boolean> => {
    socket.wfile.maxPending = Number.MAX_SAFE_INTEGER;
    for (const piece of PIECES) {
      if (piece.length % 2 === 0) socket.wfile.write(piece);
      else void socket.sendall(piece);
    }
    const ended = socket.shutdown(1);
    const came: Uint8Array[] = [];
    for await (const bytes of socket) came.push(bytes);
    await ended;
    return Buffer.concat(came).equals(ALL);
  };
  const served = Promise.withResolvers<boolean>();
  const port = await serve(
    streamHandler(async ({ request }) => {
      await talk(request).then(served.resolve, served.reject);
    }),
  );
  expect(await talk(await dial(port))).toBe(true);
  expect(await served.promise).toBe(true);
});

each("%s: TLS within TLS", async (_, on) => {
  intake.on = on;
  for (const greets of [true, false]) {
    const port = await serve(
      streamHandler(async ({ request, wfile }) => {
        if (greets) wfile.write("now\n");
        await request.startTls({ cert, key });
        for await (const bytes of request) await request.sendall(bytes);
      }),
    );
    const socket = await dial(port);
    if (greets) expect(await socket.rfile.line()).toBe("now");
    await socket.startTls({ ca, serverName: "localhost" });
    const sent = socket.sendall(ALL).then(() => socket.shutdown(1));
    const came: Uint8Array[] = [];
    for await (const bytes of socket) came.push(bytes);
    await sent;
    expect(Buffer.concat(came).equals(ALL)).toBe(true);
    await socket.close();
  }
});

each("%s: a record that is none ends what was dialled, with ERR_TLS", async (_, on) => {
  intake.on = on;
  const plain = Promise.withResolvers<net.Socket>();
  const server = tls.createServer({ cert, key }, (socket) => {
    socket.on("error", () => {});
    socket.write("ready\n");
  });
  server.on("connection", plain.resolve);
  server.listen(0, HOST);
  await once(server, "listening");
  cleanups.push(() => void server.close());
  const socket = await dial((server.address() as net.AddressInfo).port);
  expect(await socket.rfile.line()).toBe("ready");
  const raw = await plain.promise;
  cleanups.push(() => raw.destroy());
  raw.write(Buffer.concat([Buffer.from([23, 3, 3, 0, 32]), Buffer.alloc(32)]));
  await expect(socket.recv()).rejects.toMatchObject({
    code: "ERR_TLS",
    message: expect.stringContaining("ended by TLS"),
  });
  await expect(socket.sendall("x")).rejects.toMatchObject({ code: "ERR_TLS" });
});

describe.skipIf(own === null || peer("openssl") === null)("openssl", () => {
  test("asks for new keys while the handler ends: the close_notify comes behind them", async () => {
    const [begun, end] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const port = await serve(
      streamHandler(async ({ request }) => {
        begun.resolve();
        request.recv().catch(() => {});
        await end.promise;
      }),
    );
    // Whatever comes here ends the handler: in the same turn of the event loop as what comes to the server just before.
    const trigger = net.createServer((socket) => socket.once("data", () => end.resolve()));
    trigger.listen(0, HOST);
    await once(trigger, "listening");
    cleanups.push(() => void trigger.close());
    const pull = net.connect((trigger.address() as net.AddressInfo).port, HOST);
    cleanups.push(() => pull.destroy());
    await once(pull, "connect");

    const between = await Between.to(port, false);
    const to = [
      "-connect",
      `${HOST}:${between.port}`,
      "-servername",
      "localhost",
      "-CAfile",
      `${own?.folder}/ca.pem`,
    ];
    await using client = start("openssl", ["s_client", ...to, "-tls1_3"]);
    await Promise.all([begun.promise, client.line(/Verify return code: 0/)]);
    between.hold();
    client.write("K\n");
    await between.has(20);
    between.release();
    pull.write("x");
    const { stderr, stdout } = await client.ended;
    expect(stderr).toContain("KEYUPDATE");
    expect(`${stdout}${stderr}`).not.toMatch(/unexpected eof|errno/);
    expect(String(stdout)).toContain("closed");
  });
});

describe.skipIf(own === null || peer("python3") === null)("Python's ssl", () => {
  test("ends first, and waits for the close_notify of a handler that had nothing left to say", async () => {
    const port = await serve(
      streamHandler(async ({ rfile, wfile }) => {
        for await (const line of rfile.lines()) wfile.write(`${line}\n`);
      }),
    );
    const said = await python(
      `
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
for _ in range(20):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            secured.sendall(b"hello\\n")
            assert secured.recv(100) == b"hello\\n"
            left = secured.unwrap() # throws where the stream ends without a close_notify
            assert left.recv(1) == b""
print("clean")
`,
      [port, `${own?.folder}/ca.pem`],
    );
    expect(said).toBe("clean\n");
  });
});

test.skipIf(own === null).each(["useUserBuffer", "onerror"])(
  "on a Node whose TLS handle has no %s it is served all the same",
  async (without) => {
    const program = `
      const { TLSWrap } = process.binding("tls_wrap");
      if (${JSON.stringify(without)} === "onerror") {
        Object.defineProperty(TLSWrap.prototype, "onerror", { get: () => undefined, set() {} });
      } else {
        delete TLSWrap.prototype[${JSON.stringify(without)}];
      }
      const { ThreadingTCPServer, createConnection } = await import("socklet/emulator");
      const { streamHandler } = await import("socklet");
      const [cert, key, ca] = JSON.parse(process.env.PEMS);
      const server = new ThreadingTCPServer("127.0.0.1:0", streamHandler(async ({ request }) => {
        for await (const bytes of request) await request.sendall(bytes);
      }), { tls: { cert, key } });
      const address = await server.listen();
      void server.serveForever();
      const client = await createConnection(address, { secureTransport: "on", tls: { ca } });
      await client.sendall("hello");
      console.log(String(Buffer.from(await client.rfile.readexactly(5))));
      await client.close();
      await server.serverClose();
    `;
    const flags = ["--no-warnings", "--conditions=socklet:source", "--input-type=module"];
    const { stdout } = await promisify(execFile)(process.execPath, [...flags, "-e", program], {
      cwd: import.meta.dirname,
      env: { ...process.env, PEMS: JSON.stringify([cert, key, ca]) },
    });
    expect(stdout).toBe("hello\n");
  },
);
