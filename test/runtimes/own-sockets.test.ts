/** Which connections are the runtime's own, and which are `node:net`'s: own-sockets.ts. */

import { once } from "node:events";
import tls from "node:tls";
import { type InternetAddress, type StreamSocket, streamHandler } from "socklet";
import { createConnection, ThreadingTCPServer } from "socklet/emulator";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { NodeTransport } from "../../emulator/kernel/transports/net-transport.ts";
import type { Connection } from "../../emulator/kernel/transports/seam.ts";
import { runtime } from "../../emulator/runtime.ts";
import { dial } from "../../emulator/sockets/dialling/connector.ts";
import { Authority } from "../peers/authority.ts";

const authority = new Authority();
afterAll(() => authority.remove());

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

const Echo = streamHandler(async ({ request }) => {
  for (let bytes = await request.recv(); bytes !== null; bytes = await request.recv())
    await request.sendall(bytes);
});

/** Notes what it accepts. */
class Noting extends ThreadingTCPServer {
  readonly accepts: Connection[] = [];

  protected override accepted(connection: Connection): void {
    this.accepts.push(connection);
    super.accepted(connection);
  }
}

const up = async (server: Noting): Promise<InternetAddress> => {
  cleanups.push(() => {
    server.abort();
    return server.serverClose();
  });
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return address;
};

describe(`the sockets of ${runtime}`, () => {
  test("carry what is accepted, and what is dialled", async () => {
    const server = new Noting("127.0.0.1:0", Echo);
    const dialled = await dial({ ...(await up(server)), scheme: "tcp" }, {});
    cleanups.push(() => dialled.abort());
    const came = Promise.withResolvers<string>();
    dialled.start({
      needed: 1,
      data: (bytes) => {
        came.resolve(new TextDecoder().decode(bytes));
        return true;
      },
      end() {},
      error: came.reject,
    });
    dialled.resume();
    dialled.write("hello");
    expect(await came.promise).toBe("hello");
    expect(dialled).not.toBeInstanceOf(NodeTransport);
    expect(server.accepts[0]).not.toBeInstanceOf(NodeTransport);
    expect(dialled.localAddress).toEqual(server.accepts[0]?.remoteAddress);
  });

  test.skipIf(!authority.isHere)("do not carry TLS, which is node:tls's", async () => {
    const { cert, key } = authority.issue("localhost");
    const server = new Noting("tls://127.0.0.1:0", Echo, { tls: { cert, key } });
    const { port } = await up(server);
    const tls = { ca: authority.ca };
    const socket = await createConnection(`tls://localhost:${port}`, { tls });
    cleanups.push(() => socket.abort());
    await socket.sendall("by TLS\n");
    expect(await socket.rfile.line()).toBe("by TLS");
    expect(server.accepts[0]).toBeInstanceOf(NodeTransport);
  });

  // Deno loses an end that comes while a TLS socket is paused: docs/runtimes.md.
  test.skipIf(runtime === "Deno" || !authority.isHere)(
    "deliver what left before a close of TLS, to a client that ended first and reads later",
    async () => {
      const { cert, key } = authority.issue("localhost");
      const size = 1_000_000; // more than the peer's kernel takes, and less than this one's holds
      const given = Promise.withResolvers<StreamSocket>();
      const over = Promise.withResolvers<void>();
      const Sends = streamHandler(async ({ request }) => {
        await request.startTls({ cert, key });
        await request.sendall(new Uint8Array(size));
        given.resolve(request);
        await request.recv(); // the client's end
      });
      const server = new Noting("127.0.0.1:0", Sends, {
        onEvent: ({ type }) => void (type === "end" && over.resolve()),
      });
      const { port } = await up(server);
      const client = tls.connect({ port, host: "127.0.0.1", ca: authority.ca, servername: "localhost" });
      cleanups.push(() => client.destroy());
      client.pause();
      await once(client, "secureConnect");
      const request = await given.promise;
      await expect.poll(() => request.wfile.unsent).toBe(0);
      client.end();
      await over.promise;
      let got = 0;
      client.on("data", (bytes) => {
        got += bytes.length;
      });
      const ended = once(client, "end"); // rejects with ECONNRESET if the close was a reset
      client.resume();
      await ended;
      expect(got).toBe(size);
    },
  );
});
