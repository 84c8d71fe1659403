/** Deadlines of a process that stood still: what arrived in time counts, although time is up when it is read. */

import { createSocket } from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import {
  type Address,
  AF_INET,
  type InternetAddress,
  SOCK_DGRAM,
  type StreamSocket,
  select,
  streamHandler,
} from "socklet";
import { createConnection, createServer, socket, TCPServer, ThreadingTCPServer } from "socklet/emulator";
import { conversation } from "socklet/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { codeOf } from "../core/outcome.ts";
import { untilNothingStoodStill } from "./standstill.ts";
import { afterTimer, beforeTimers, LIMIT, standStill } from "./still.ts";

const here = (bound: { getsockname(): Address | null }): InternetAddress =>
  bound.getsockname() as InternetAddress;

/** A connection of this library, and its peer, which is not. */
const pair = async (): Promise<{ near: StreamSocket; peer: net.Socket }> => {
  const listener = await createServer("127.0.0.1:0");
  const peer = net.connect({ host: "127.0.0.1", port: here(listener).port });
  const [near] = await listener.accept();
  if (peer.connecting) await once(peer, "connect");
  onTestFinished(async () => {
    peer.destroy();
    await Promise.all([near.close(), listener.close()]);
  });
  return { near, peer };
};

test("a read has what its peer sent in time", async () => {
  const { near, peer } = await pair();
  near.settimeout(LIMIT);
  await beforeTimers();
  const line = near.rfile.line();
  peer.write("hello\n");
  standStill();
  expect(await line).toBe("hello");
  expect(await codeOf(near.recv())).toBe("ETIMEDOUT"); // and without anything it ends
});

test("a datagram that arrived in time is received", async () => {
  const receiver = socket(AF_INET, SOCK_DGRAM);
  await receiver.bind("127.0.0.1:0");
  const peer = createSocket("udp4");
  onTestFinished(async () => {
    peer.close();
    await receiver.close();
  });
  peer.connect(here(receiver).port, "127.0.0.1");
  await once(peer, "connect");
  receiver.settimeout(LIMIT);
  await beforeTimers();
  const received = receiver.recv();
  peer.send("hello");
  standStill();
  expect(String.fromCharCode(...(await received))).toBe("hello");
  expect(await codeOf(receiver.recv())).toBe("ETIMEDOUT");
});

test("a connection that came in time is accepted, and select() says so", async () => {
  const listener = await createServer("127.0.0.1:0");
  onTestFinished(() => listener.close());
  const { port } = here(listener);
  const dial = (): void => {
    const peer = net.connect({ host: "127.0.0.1", port });
    onTestFinished(() => void peer.destroy());
  };
  listener.settimeout(LIMIT);
  await beforeTimers();
  const accepted = listener.accept();
  dial();
  standStill();
  const [one] = await accepted;
  await one.close();
  expect(await codeOf(listener.accept())).toBe("ETIMEDOUT");
  await beforeTimers();
  const ready = select([listener], [], [], LIMIT);
  dial();
  standStill();
  expect((await ready)[0]).toEqual([listener]);
  const [other] = await listener.accept();
  await other.close();
  expect((await select([listener], [], [], LIMIT))[0]).toEqual([]);
});

test("a connection that was established in time is opened", async () => {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const { port } = server.address() as net.AddressInfo;
  await beforeTimers();
  const opening = createConnection({ hostname: "127.0.0.1", port }, { connectTimeout: LIMIT });
  standStill();
  await (await opening).close();
});

test("handleRequest() takes a request that came in time", async () => {
  let late = 0;
  class Server extends TCPServer {
    override handleTimeout(): void {
      late++;
    }
  }
  const Greet = streamHandler(({ wfile }) => void wfile.write("hello"));
  await using server = new Server("127.0.0.1:0", Greet, { timeout: LIMIT });
  const { port } = (await server.listen()) as InternetAddress;
  await beforeTimers();
  const handled = server.handleRequest();
  const peer = net.connect({ host: "127.0.0.1", port });
  standStill();
  await handled;
  expect([server.info().served, late]).toEqual([1, 0]);
  peer.destroy();
  await server.handleRequest();
  expect(late).toBe(1);
});

test("a script's step has what its peer sent in time", async () => {
  const { near, peer } = await pair();
  await beforeTimers();
  const seen = conversation().expectLine("hello").run(near, { timeout: LIMIT });
  peer.write("hello\n");
  standStill();
  await seen;
});

// Reads share a timer, and so do the limits of a request: it goes off for one of them, and the process stands still before it says so.
describe.each([1, 2])("a timer that has gone off for another, %i turns before,", (turns) => {
  test("does not end a read", async () => {
    const [one, other] = [await pair(), await pair()];
    for (const { near } of [one, other]) near.settimeout(LIMIT);
    await beforeTimers();
    const silent = codeOf(one.near.recv());
    await afterTimer(turns);
    const line = other.near.rfile.line();
    other.peer.write("hello\n");
    standStill();
    expect(await line).toBe("hello");
    expect(await silent).toBe("ETIMEDOUT");
  });

  test("does not end the next read of the same connection", async () => {
    const { near, peer } = await pair();
    near.settimeout(LIMIT);
    const first = near.rfile.line();
    peer.write("first\n");
    await first; // the timer stays
    await beforeTimers();
    await afterTimer(turns);
    const line = near.rfile.line();
    peer.write("hello\n");
    standStill();
    expect(await line).toBe("hello");
  });

  test("does not end a request", () =>
    untilNothingStoodStill(5 * LIMIT, async (timed) => {
      const begun = Promise.withResolvers<void>();
      const heard = Promise.withResolvers<string | null>();
      const Hear = streamHandler(({ rfile }) => {
        begun.resolve();
        heard.resolve(rfile.line());
        return heard.promise;
      });
      const limits = { requestTimeout: 6 * LIMIT, idleTimeout: 2 * LIMIT }; // the second has a check at half of its time
      await using server = new ThreadingTCPServer("127.0.0.1:0", Hear, limits);
      const { port } = (await server.listen()) as InternetAddress;
      void server.serveForever();
      const peer = net.connect({ host: "127.0.0.1", port });
      await begun.promise;
      await timed(beforeTimers().then(() => afterTimer(turns)));
      peer.write("hello\n");
      standStill(6 * LIMIT);
      expect(await heard.promise).toBe("hello");
      peer.destroy();
    }));
});
