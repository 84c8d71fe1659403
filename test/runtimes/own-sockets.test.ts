/** Which connections are the runtime's own, and which are `node:net`'s: own-sockets.ts. */

import { type InternetAddress, streamHandler } from "socklet";
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
});
