/**
 * Deadlines of a process that stood still, as in deadlines.test.ts: of what precedes a conversation, which is a proxy's header and
 * the handshake of TLS, and of a secured connection.
 */

import { once } from "node:events";
import net from "node:net";
import { Duplex } from "node:stream";
import tls from "node:tls";
import { type InternetAddress, proxyHeader, type StreamSocket, streamHandler } from "socklet";
import { createConnection, TCPServer, type TCPServerOptions } from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { codeOf } from "../core/outcome.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { untilNothingStoodStill } from "./standstill.ts";
import { beforeTimers, LIMIT, standStill } from "./still.ts";

const LONGER = 5 * LIMIT; // ms: what precedes the last flight of a handshake takes a part of it
const RECORD = 16 * 1024; // bytes of the longest record of TLS
const LARGE = 8 * 1024 * 1024; // bytes: more than the kernels of both sides take

const certificates = ownCertificates();
const { ca, cert, key } = certificates ?? { ca: "", cert: "", key: "" };

/** A server of this library, and its first request, which stays open. Rejects if the server turned its peer away. */
const served = async (
  options: TCPServerOptions<unknown>,
): Promise<{ port: number; near: Promise<StreamSocket> }> => {
  const { promise: near, resolve, reject } = Promise.withResolvers<StreamSocket>();
  const over = Promise.withResolvers<void>();
  const Keep = streamHandler(({ request }) => {
    resolve(request);
    return over.promise;
  });
  const server = new TCPServer("127.0.0.1:0", Keep, {
    ...options,
    onEvent: (event) => {
      if ((event.type === "refused" || event.type === "handshake") && event.error) reject(event.error);
    },
  });
  const { port } = (await server.listen()) as InternetAddress;
  const serving = server.serveForever();
  onTestFinished(async () => {
    over.resolve();
    server.abort();
    await Promise.all([server.serverClose(), serving]);
  });
  return { port, near };
};

/** A server that is not of this library, and its first connection. */
const listening = async (): Promise<{ port: number; accepted: Promise<net.Socket> }> => {
  const server = net.createServer().listen(0, "127.0.0.1");
  const accepted = once(server, "connection").then(([socket]) => socket as net.Socket);
  await once(server, "listening");
  onTestFinished(async () => {
    (await accepted).destroy();
    server.close();
  });
  return { port: (server.address() as net.AddressInfo).port, accepted };
};

const connected = async (port: number): Promise<net.Socket> => {
  const socket = net.connect({ host: "127.0.0.1", port });
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  return socket;
};

/** Under a peer's TLS: what TLS says to `wire` waits until the peer says it. */
class Hesitant extends Duplex {
  /** Resolves when something waits. */
  readonly waits: Promise<unknown>;
  readonly #wire: net.Socket;
  #unsaid: Buffer[] | null = [];

  constructor(wire: net.Socket) {
    super();
    this.#wire = wire.on("data", (bytes) => this.push(bytes)).on("error", () => {});
    this.waits = once(this, "waits");
  }

  override _read(): void {}

  override _write(bytes: Buffer, _encoding: unknown, done: () => void): void {
    if (this.#unsaid === null) this.#wire.write(bytes);
    else this.#unsaid.push(bytes);
    this.emit("waits");
    done();
  }

  /** `further`: also all that comes from now on. */
  say(further = false): void {
    for (const bytes of this.#unsaid ?? []) this.#wire.write(bytes);
    this.#unsaid = further ? null : [];
  }
}

/** Says what a peer has not said yet, and "hello". */
type Say = () => void;

/** The client of a handshake, which has not said its last flight. */
const client = async (wire: net.Socket): Promise<Say> => {
  const under = new Hesitant(wire);
  const peer = tls.connect({ socket: under, ca, host: "127.0.0.1" }).on("error", () => {});
  await under.waits;
  under.say();
  await once(peer, "secureConnect");
  return () => {
    peer.write("hello\n");
    under.say(true);
  };
};

/** The server of a handshake, which has not said its only flight. */
const server = async (wire: net.Socket): Promise<Say> => {
  const under = new Hesitant(wire);
  const peer = new tls.TLSSocket(under, { isServer: true, cert, key }).on("error", () => {});
  await under.waits;
  return () => {
    peer.write("hello\n");
    under.say(true);
  };
};

const stream = { handshakeTimeout: LONGER };

/** A connection of this library that waits, with a limit of `LONGER`, for what its peer has not said. */
interface Begun {
  readonly near: Promise<StreamSocket>;
  readonly say: Promise<Say>;
}

const HANDSHAKES: Record<string, () => Promise<Begun>> = {
  "a listener": async () => {
    const { port, near } = await served({ secureTransport: "on", tls: { cert, key }, stream });
    return { near, say: client(await connected(port)) };
  },
  "startTls() of a connection that was accepted": async () => {
    const { port, near } = await served({ stream });
    const wire = await connected(port);
    const request = await near;
    return { near: request.startTls({ cert, key }).then(() => request), say: client(wire) };
  },
  "startTls() of a connection that was dialled": async () => {
    const { port, accepted } = await listening();
    const request = await createConnection(`tcp://127.0.0.1:${port}`, {
      stream,
      secureTransport: "starttls",
      tls: { ca },
    });
    return { near: request.startTls().then(() => request), say: server(await accepted) };
  },
  "a dial": async () => {
    const { port, accepted } = await listening();
    const near = createConnection(`tls://127.0.0.1:${port}`, { stream, tls: { ca } });
    return { near, say: accepted.then(server) };
  },
};

const passed = (begin: () => Promise<Begun>): Promise<void> =>
  untilNothingStoodStill(LONGER, async (timed) => {
    const begun = async (): Promise<{ near: Promise<StreamSocket>; say: Say }> => {
      const { near, say } = await begin();
      return { near, say: await Promise.race([say, near as Promise<never>]) };
    };
    const { near, say } = await timed(begun());
    say();
    standStill(3 * LONGER);
    const request = await near;
    onTestFinished(() => request.abort());
    expect(await request.rfile.line()).toBe("hello");
  });

describe.skipIf(certificates === null)("the handshake of", () => {
  test.each(Object.entries(HANDSHAKES))("%s has what its peer said in time", (_, begin) => passed(begin));
});

const HEADERS: Record<string, [early: Uint8Array, late: Uint8Array]> = {
  "a header of version 1": [new Uint8Array(0), proxyHeader(1)],
  "a header of version 2": [new Uint8Array(0), proxyHeader(2)],
  "the rest of a header": [proxyHeader(2).subarray(0, 10), proxyHeader(2).subarray(10)],
};

test.each(Object.entries(HEADERS))("a listener behind proxies has %s that came in time", (_, [early, late]) =>
  passed(async () => {
    const { port, near } = await served({
      proxyProtocol: { from: ["127.0.0.1"], local: "serve", timeout: LONGER },
    });
    const wire = await connected(port);
    if (early.length > 0) wire.write(early);
    await beforeTimers(); // by now it is accepted
    const say = (): void => {
      wire.write(late);
      wire.write("hello\n");
    };
    return { near, say: Promise.resolve(say) };
  }),
);

/** A secured connection of this library that was accepted or dialled, and its peer. */
const SECURED: Record<string, () => Promise<{ near: StreamSocket; peer: tls.TLSSocket }>> = {
  accepted: async () => {
    const { port, near } = await served({ secureTransport: "on", tls: { cert, key } });
    const peer = tls.connect({ host: "127.0.0.1", port, ca });
    onTestFinished(() => void peer.destroy());
    return { near: await near, peer };
  },
  dialled: async () => {
    const { port, accepted } = await listening();
    const near = createConnection(`tls://127.0.0.1:${port}`, { tls: { ca } });
    const peer = new tls.TLSSocket(await accepted, { isServer: true, cert, key });
    await once(peer, "secure");
    return { near: await near, peer };
  },
};

const RECORDS: Record<string, [before: number, then: number]> = {
  "a record": [0, 100],
  "a full record": [0, RECORD],
  "a full record after others": [2 * RECORD, RECORD], // such come at the end of a turn, as one piece
};

describe.skipIf(certificates === null).each(Object.entries(SECURED))(
  "a secured connection that was %s",
  (_, pair) => {
    test.each(Object.entries(RECORDS))("reads %s that came in time", async (_, [before, then]) => {
      const { near, peer } = await pair();
      onTestFinished(() => near.abort());
      peer.write(new Uint8Array(before));
      await near.rfile.readexactly(before);
      near.settimeout(LIMIT);
      await beforeTimers();
      const read = near.rfile.readexactly(then);
      peer.write(new Uint8Array(then));
      standStill();
      expect((await read).length).toBe(then);
      expect(await codeOf(near.recv())).toBe("ETIMEDOUT");
    });

    test("writes while its peer takes", async () => {
      const { near, peer } = await pair();
      onTestFinished(() => near.abort());
      near.settimeout(LIMIT);
      await beforeTimers();
      const sent = near.sendall(new Uint8Array(LARGE));
      peer.resume();
      standStill();
      await sent;
    });
  },
);
