/** The places that one process has by real sockets, as the matrix runs them: in Node, and in the other runtimes. */

import dgram from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  type AddressLike,
  AF_UNIX,
  type InternetAddress,
  SOCK_DGRAM,
  type UnixAddress,
} from "socklet";
import {
  createConnection,
  socket as makeSocket,
  TCPConnector,
  TCPServer,
  ThreadingTCPServer,
  ThreadingUDPServer,
  UDPServer,
} from "socklet/emulator";
import type { DatagramPeer } from "socklet/testing";
import { afterAll, expect } from "vitest";
import type { TCPServerOptions } from "../../emulator/servers/tcp.ts";
import {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
} from "../../emulator/servers/unix.ts";
import type { MatrixPlace } from "../conformance/matrix.ts";
import {
  type Example,
  type ExampleContext,
  exampleContext,
  isDatagrams,
  type StreamDoor,
  type StreamExample,
  served,
} from "../conformance/matrix-table.ts";
import { ownCertificates } from "../peers/certificates.ts";

const folder = mkdtempSync(join(tmpdir(), "socklet-matrix-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// ---- Streams ----

export const made = ownCertificates();

/** A server of streams that serves `example`, and the way to it. An error of its handlers is thrown when it closes. */
const streamDoor = async (
  example: StreamExample,
  Server: typeof ThreadingTCPServer<ExampleContext>,
  at: AddressLike,
  options: {
    readonly secureTransport?: "on";
    readonly tls?: { readonly ca: string; readonly serverName: string };
  } = {},
  listening: TCPServerOptions<ExampleContext> = {},
): Promise<StreamDoor & AsyncDisposable> => {
  const errors: unknown[] = [];
  const server = new Server(at, served(example), {
    ...listening,
    context: exampleContext(),
    onEvent: (event) => event.type === "error" && errors.push(event.error),
  });
  const address = (await server.listen()) as Address;
  void server.serveForever();
  const to = address.family === "unix" ? { path: address.path } : address;
  return {
    dial: () => createConnection(to, options),
    connector: (Handler) =>
      new TCPConnector<ExampleContext>(to, Handler, { ...options, context: exampleContext() }),
    async [Symbol.asyncDispose]() {
      await server.serverClose();
      expect(errors).toEqual([]);
    },
  };
};

// ---- Datagrams ----

/** A client's socket, to talk to `port`. */
export const udpPeer = async (
  port: number,
  ...more: readonly AsyncDisposable[]
): Promise<DatagramPeer & AsyncDisposable> => {
  const socket = dgram.createSocket("udp4");
  socket.connect(port, "127.0.0.1");
  await once(socket, "connect");
  const arrived: Uint8Array[] = [];
  let waiting = Promise.withResolvers<void>();
  socket.on("message", (data) => {
    arrived.push(new Uint8Array(data));
    waiting.resolve();
    waiting = Promise.withResolvers();
  });
  return {
    send: (data) => socket.send(data),
    async recv() {
      while (arrived.length === 0) await waiting.promise;
      return arrived.shift() as Uint8Array;
    },
    async [Symbol.asyncDispose]() {
      socket.close();
      for (const one of more) await one[Symbol.asyncDispose]();
    },
  };
};

let paths = 0;
export const freshPath = (): string => join(folder, `${++paths}`);

// ---- The places ----

/** The handler unchanged, for a server of another kind. */
const handlerOf = (example: Example): never =>
  (isDatagrams(example) ? example.Datagrams : example.Handler) as never;

/** By what their listeners are. */
export const socketPlaces = {
  tcp: {
    streams: (example) => streamDoor(example, ThreadingTCPServer, "127.0.0.1:0"),
    asked: (example) => new TCPServer("udp://127.0.0.1:0", handlerOf(example)),
  },
  tls: {
    missing: made === null ? "not on PATH: openssl" : null,
    streams: (example) =>
      streamDoor(
        example,
        ThreadingTCPServer,
        "tls://127.0.0.1:0",
        { secureTransport: "on", tls: { ca: made?.ca ?? "", serverName: "localhost" } },
        { tls: { cert: made?.cert ?? "", key: made?.key ?? "" } },
      ),
    asked: () => createConnection("udp://127.0.0.1:9", { secureTransport: "on" }),
  },
  unix: {
    asked: (example) => new UnixDatagramServer({ path: freshPath() }, handlerOf(example)),
    streams: (example) => streamDoor(example, ThreadingUnixStreamServer as never, { path: freshPath() }),
    async datagrams({ Datagrams }) {
      const server = new ThreadingUnixDatagramServer({ path: freshPath() }, Datagrams, {
        context: exampleContext(),
      });
      const address = (await server.listen()) as UnixAddress;
      void server.serveForever();
      const socket = makeSocket(AF_UNIX, SOCK_DGRAM);
      await socket.bind({ path: freshPath() });
      return {
        send: (data) => socket.sendto(data, address),
        recv: async () => (await socket.recvfrom(65_535))[0],
        async [Symbol.asyncDispose]() {
          await socket.close();
          await server.serverClose();
        },
      };
    },
  },
  udp: {
    async datagrams({ Datagrams }) {
      const server = new ThreadingUDPServer("127.0.0.1:0", Datagrams, { context: exampleContext() });
      const { port } = (await server.listen()) as InternetAddress;
      void server.serveForever();
      return udpPeer(port, server);
    },
    asked: (example) => new UDPServer("tcp://127.0.0.1:0", handlerOf(example)),
  },
} as const satisfies Readonly<Record<string, MatrixPlace>>;
