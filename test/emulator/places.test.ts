/** The conformance bodies in the places that one Node process has: memory, and real sockets. */

import { type BaseServer, type InternetAddress, type StreamSocket, streamHandler } from "socklet";
import { createConnection, TCPServer, ThreadingTCPServer } from "socklet/emulator";
import { MemoryServer, ThreadingMemoryServer } from "socklet/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { intake, unconnected } from "../../emulator/kernel/handles/intake.ts";
import type { Connection } from "../../emulator/kernel/transports/seam.ts";
import { runtime } from "../../emulator/runtime.ts";
import { handlerFrom } from "../../emulator/servers/forking/channel/handler-source.ts";
import { ForkingTCPServer } from "../../emulator/servers/forking/servers.ts";
import { Conformance, LocalBoard } from "../conformance/handler.ts";
import { serverConformance } from "../conformance/server.ts";
import { serverScenarios, tracing } from "../conformance/server-scenarios.ts";
import { streamConformance } from "../conformance/stream.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { AWAITING_CHILD } from "./standstill.ts";

const options = { stream: { closeTimeout: 300 }, drainTimeout: 100 };
const board = new LocalBoard();
const servers: BaseServer<StreamSocket, LocalBoard>[] = [];
const up = <Server extends BaseServer<StreamSocket, LocalBoard>>(server: Server): Server => {
  servers.push(server);
  return server;
};

const memory = up(new ThreadingMemoryServer(Conformance, { ...options, context: board }));
const tcp = up(new ThreadingTCPServer("127.0.0.1:0", Conformance, { ...options, context: board }));
const Echo = streamHandler(async ({ request }) => {
  for await (const bytes of request) await request.sendall(bytes);
});
const dataTcp = new ThreadingTCPServer("127.0.0.1:0", Conformance, { ...options, context: board });
const dialTcp = (server: TCPServer<LocalBoard>): Promise<StreamSocket> =>
  createConnection(server.serverAddress as never, { stream: options.stream });

const own = ownCertificates();
const secured = own === null ? {} : { tls: { cert: own.cert, key: own.key } };
const tls = up(
  new ThreadingTCPServer("127.0.0.1:0", Conformance, { ...options, ...secured, context: board }),
);
const forkedHandler = handlerFrom(
  new URL("fixtures/conformance-handler.ts", import.meta.url),
  "ForkedConformance",
);
let forkingTls: ForkingTCPServer<InternetAddress> | undefined; // in Node
const dialTls = (server: TCPServer<never>): Promise<StreamSocket> =>
  createConnection(server.serverAddress as never, {
    ...AWAITING_CHILD,
    stream: { ...options.stream, ...AWAITING_CHILD.stream },
    secureTransport: "on",
    tls: { ca: own?.ca },
  });

const traced = <Of>(name: string, make: (index: number, key: string) => Of): readonly Of[] =>
  serverScenarios.map((_, index) => make(index, `${name}/${index}`));
const tracedMemory = traced("memory", (index, key) => {
  const { Server, Handler } = tracing(MemoryServer<LocalBoard>, index, board, key);
  return up(new Server(Handler as never, options));
});
const tracedTcp = traced("tcp", (index, key) => {
  const { Server, Handler } = tracing(TCPServer<LocalBoard>, index, board, key);
  return up(new Server("127.0.0.1:0", Handler as never, options));
});

/** As on a Node that has not what emulator/kernel/handles/intake.ts takes. */
const byData = async <T>(what: () => Promise<T>): Promise<T> => {
  const { on } = intake;
  intake.on = false;
  try {
    return await what();
  } finally {
    intake.on = on;
  }
};

beforeAll(async () => {
  await byData(() => dataTcp.listen());
  up(dataTcp);
  for (const server of servers) {
    await server.listen();
    void server.serveForever();
  }
  const context = tcp.serverAddress as InternetAddress; // where the children find the board
  if (runtime !== "Node") return;
  forkingTls = new ForkingTCPServer("127.0.0.1:0", forkedHandler, { ...options, ...secured, context });
  await forkingTls.listen();
  void forkingTls.serveForever();
});

afterAll(() => Promise.all([...servers, forkingTls].map((server) => server?.serverClose())));

streamConformance({ name: "memory", dial: async () => memory.connect() });
streamConformance({ name: "Node TCP", dial: () => dialTcp(tcp) });
streamConformance({ name: "Node TCP, dialled", dial: () => dialTcp(tcp) }, "served");
streamConformance({ name: "Node TCP, read by 'data'", dial: () => byData(() => dialTcp(dataTcp)) });
streamConformance(
  { name: "Node TCP, dialled, read by 'data'", dial: () => byData(() => dialTcp(dataTcp)) },
  "served",
);

if (own !== null) {
  const dial = (): Promise<StreamSocket> => dialTls(tls as never);
  const onDeno = {
    hearsReset: "neither" as const,
    without: {
      "bytes arrive whole and in order, both ways at once":
        "Deno loses an end that comes while a write of TLS is under way",
    },
  };
  const less = runtime === "Deno" ? onDeno : {}; // docs/runtimes.md
  streamConformance({ name: "Node TLS", dial, ...less });
  streamConformance({ name: "Node TLS, dialled", dial, ...less }, "served");
  if (intake.on) {
    const dialByData = (): Promise<StreamSocket> => byData(dial);
    streamConformance({ name: "Node TLS, read by 'data'", dial: dialByData });
    streamConformance({ name: "Node TLS, dialled, read by 'data'", dial: dialByData }, "served");
  }
  if (runtime === "Node")
    streamConformance({ name: "Node TLS, forking", dial: () => dialTls(forkingTls as never) });
}

test.runIf(intake.on)(
  "what is accepted is read from its handle, what is dialled by onread; where that is off, by 'data'",
  async () => {
    class Telling extends ThreadingTCPServer {
      readonly kinds: string[] = [];
      protected override accepted(connection: Connection): void {
        this.kinds.push(connection.constructor.name);
        super.accepted(connection);
      }
    }
    const kinds = async (): Promise<readonly string[]> => {
      await using server = new Telling("127.0.0.1:0", Echo);
      await using client = await createConnection((await server.listen()) as never);
      void server.serveForever();
      await client.sendall("x");
      await client.recv();
      return [...server.kinds, unconnected({}).constructor.name];
    };
    expect(await kinds()).toEqual(["HandleTransport", "IntakeSocket"]);
    expect(await byData(kinds)).toEqual(["NodeTransport", "Socket"]);
  },
);

serverConformance({
  name: "memory",
  accepts: false,
  board,
  key: (index) => `memory/${index}`,
  dial: async (index) => (tracedMemory[index] as MemoryServer).connect(),
});
serverConformance({
  name: "Node TCP",
  accepts: false,
  board,
  key: (index) => `tcp/${index}`,
  dial: (index) => dialTcp(tracedTcp[index] as TCPServer<LocalBoard>),
});
