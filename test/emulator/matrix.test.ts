/** Every example in every place of Node, and in workerd behind real ports; and the page that says so. */

import dgram from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type Address,
  type AddressLike,
  AF_UNIX,
  type HandlerClass,
  type InternetAddress,
  SOCK_DGRAM,
  type StreamSocket,
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
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ThreadingUnixDatagramServer, ThreadingUnixStreamServer } from "../../emulator/unix.ts";
import { type MatrixPlace, matrixOf } from "../conformance/matrix.ts";
import { placesPage } from "../conformance/matrix-page.ts";
import {
  doorOf,
  type Example,
  type ExampleContext,
  exampleContext,
  examples,
  inMemory,
  isDatagrams,
  type PlaceId,
  places,
  placesOf,
  type StreamDoor,
  type StreamExample,
  served,
} from "../conformance/matrix-table.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { freePorts, type RunningWorker, runWorker } from "./workerd.ts";

const FILE = "test/emulator/matrix.test.ts";
const folder = mkdtempSync(join(tmpdir(), "socklet-matrix-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

// ---- Streams ----

const made = ownCertificates();

/** A server of streams that serves `example`, and the way to it. An error of its handlers is thrown when it closes. */
const streamDoor = async (
  example: StreamExample,
  Server: typeof ThreadingTCPServer<ExampleContext>,
  at: AddressLike,
  options: {
    readonly secureTransport?: "on";
    readonly tls?: { readonly ca: string; readonly serverName: string };
  } = {},
): Promise<StreamDoor & AsyncDisposable> => {
  const errors: unknown[] = [];
  const server = new Server(at, served(example), {
    context: exampleContext(),
    onEvent: (event) => event.type === "error" && errors.push(event.error),
  });
  const address = (await server.listen()) as Address;
  void server.serveForever();
  const to = address.family === "unix" ? { path: address.path } : address;
  return {
    dial: () => createConnection(to, options),
    connector: (Handler) => new TCPConnector<ExampleContext>(to, Handler, options),
    async [Symbol.asyncDispose]() {
      await server.serverClose();
      expect(errors).toEqual([]);
    },
  };
};

/** TLS from the first byte: by a hook, so that the handler is the same. */
class SecuredTCPServer<Context> extends ThreadingTCPServer<Context> {
  override async finishRequest(request: StreamSocket, address: never): Promise<unknown> {
    const { cert = "", key = "" } = made ?? {};
    await request.startTls({ cert, key });
    return super.finishRequest(request, address);
  }
}

// ---- Datagrams ----

/** A client's socket, to talk to `port`. */
const udpPeer = async (
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
const freshPath = (): string => join(folder, `${++paths}`);

// ---- workerd, behind ports ----

const names = Object.keys(examples);
const isUdp = (name: string): boolean => isDatagrams(examples[name] as (typeof examples)[string]);
const ports = new Map<string, number>();
const workers: RunningWorker[] = [];

beforeAll(async () => {
  const [spare = 0, ...free] = await freePorts(names.length + 1);
  for (const [i, name] of names.entries()) ports.set(name, free[i] as number);
  const doors = (udp: boolean) =>
    Object.fromEntries(
      names.filter((name) => isUdp(name) === udp).map((name) => [ports.get(name), doorOf(name)]),
    );
  const numbers = (udp: boolean) => Object.keys(doors(udp)).map(Number);
  const main = "test/worker/main.ts";
  // Two: what works without the flag `experimental` must be seen without it.
  workers.push(
    ...(await Promise.all([
      runWorker({ main, ports: numbers(false), classes: {}, vars: { DOORS: doors(false) } }),
      runWorker({ main, ports: [spare], udpPorts: numbers(true), classes: {}, vars: { DOORS: doors(true) } }),
    ])),
  );
}, 60_000);

afterAll(() => Promise.all(workers.map((worker) => worker.close())));

const inWorkerd = (name: string): { readonly hostname: string; readonly port: number } => ({
  hostname: "127.0.0.1",
  port: ports.get(name) as number,
});

// ---- The places ----

/** The handler as it is, for a server that is not for it. */
const handlerOf = (example: Example): never =>
  (isDatagrams(example) ? example.Datagrams : example.Handler) as never;

const running: Partial<Record<PlaceId, MatrixPlace>> = {
  memory: inMemory,
  "node-tcp": {
    streams: (example) => streamDoor(example, ThreadingTCPServer, "127.0.0.1:0"),
    asked: (example) => new TCPServer("udp://127.0.0.1:0", handlerOf(example)),
  },
  "node-tls": {
    missing: made === null ? "not on PATH: openssl" : null,
    streams: (example) =>
      streamDoor(example, SecuredTCPServer, "127.0.0.1:0", {
        secureTransport: "on",
        tls: { ca: made?.ca ?? "", serverName: "localhost" },
      }),
    asked: () => createConnection("udp://127.0.0.1:9", { secureTransport: "on" }),
  },
  "node-unix": {
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
  "node-udp": {
    async datagrams({ Datagrams }) {
      const server = new ThreadingUDPServer("127.0.0.1:0", Datagrams, { context: exampleContext() });
      const { port } = (await server.listen()) as InternetAddress;
      void server.serveForever();
      return udpPeer(port, server);
    },
    asked: (example) => new UDPServer("tcp://127.0.0.1:0", handlerOf(example)),
  },
  "workerd-port": {
    streams: async (_, name) => ({
      dial: () => createConnection(inWorkerd(name)),
      connector: (Handler: HandlerClass<StreamSocket, ExampleContext>) =>
        new TCPConnector(inWorkerd(name), Handler),
    }),
    datagrams: (_, name) => udpPeer(inWorkerd(name).port),
  },
};

for (const id of placesOf(FILE)) matrixOf(id, running[id]);

// ---- That nothing is missing ----

describe("the matrix is whole", () => {
  test.each(readdirSync("examples").filter((name) => name.endsWith(".ts")))(
    "every handler of examples/%s has a conversation",
    async (file) => {
      const module: Record<string, unknown> = await import(`../../examples/${file.slice(0, -3)}.ts`);
      const isHandler = (value: unknown): boolean =>
        typeof value === "function" && typeof value.prototype?.handle === "function";
      for (const [name, value] of Object.entries(module)) {
        if (!isHandler(value)) continue;
        const example = examples[name];
        if (example === undefined) {
          throw new Error(
            `examples/${file} exports the handler ${name}, which has no conversation: add it to \`examples\` in test/conformance/matrix-table.ts`,
          );
        }
        const Handler = isDatagrams(example) ? example.Datagrams : example.Handler;
        expect([example.file, Handler === value]).toEqual([file, true]);
      }
    },
  );

  test.each(Object.entries(places))("the place %s is run by the test that it names", (_, { file }) => {
    const code = readFileSync(file, "utf8");
    if (code.includes(`const FILE = "${file}"`) && code.includes("of placesOf(FILE)) matrixOf(")) return;
    throw new Error(`${file} runs no places: name one that does in test/conformance/matrix-table.ts`);
  });

  test("docs/places.md is what the table says (npm run docs writes it)", async () => {
    await expect(placesPage()).toMatchFileSnapshot("../../docs/places.md");
  });
});
