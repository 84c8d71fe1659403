/** Faults over real sockets; and that a faulty stream otherwise behaves as any stream. */

import dgram from "node:dgram";
import { once } from "node:events";
import type { BaseServer, Datagram, HandlerClass, StreamSocket } from "socklet";
import { createConnection, TCPConnector, TCPServer, ThreadingTCPServer, UDPServer } from "socklet/emulator";
import {
  type DatagramFaults,
  FaultsMixIn,
  MemoryDatagramServer,
  type StreamFaults,
  ThreadingMemoryServer,
  withFaults,
} from "socklet/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { Conformance, LocalBoard } from "../conformance/handler.ts";
import { streamConformance } from "../conformance/stream.ts";

const options = { stream: { closeTimeout: 300 }, drainTimeout: 100 };
const board = new LocalBoard();
const servers: BaseServer<StreamSocket, LocalBoard>[] = [];
const up = <Server extends BaseServer<StreamSocket, LocalBoard>>(server: Server): Server => {
  servers.push(server);
  return server;
};

const LATE = { latency: 1, jitter: 2, slice: 9000 };
const UNEVEN = { incoming: LATE, outgoing: LATE };
class FaultlessMemory extends FaultsMixIn(ThreadingMemoryServer, {}, options.stream)<LocalBoard> {}
class UnevenTCP extends FaultsMixIn(ThreadingTCPServer, UNEVEN, options.stream)<LocalBoard> {}

const memory = up(new FaultlessMemory(Conformance, { ...options, context: board }));
const tcp = up(new UnevenTCP("127.0.0.1:0", Conformance, { ...options, context: board }));
const dial = (server: ThreadingTCPServer<LocalBoard>): Promise<StreamSocket> =>
  createConnection(server.serverAddress as never, { stream: options.stream });

beforeAll(async () => {
  for (const server of servers) {
    await server.listen();
    void server.serveForever();
  }
});

afterAll(() => Promise.all(servers.map((server) => server.serverClose())));

streamConformance({ name: "memory, faultless", dial: async () => memory.connect() });
streamConformance({ name: "Node TCP, late and in pieces", dial: () => dial(tcp) });
describe("over real TCP", () => {
  const text = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);

  /** A connection to a server of `Handler` whose own end has these faults. */
  const faulty = async <Context>(
    Handler: HandlerClass<StreamSocket, Context>,
    faults: StreamFaults,
    context?: Context,
  ) => {
    class Faulty extends FaultsMixIn(TCPServer, faults, { closeTimeout: 100 })<Context> {}
    const server = new Faulty("127.0.0.1:0", Handler, {
      ...(context !== undefined && { context }),
      drainTimeout: 100,
    });
    await server.listen();
    void server.serveForever();
    const client = await createConnection(server.serverAddress as never);
    return {
      client,
      server,
      async [Symbol.asyncDispose]() {
        client.abort();
        await server.serverClose();
      },
    };
  };

  test("a client and a server understand each other byte by byte", async () => {
    const single = { slice: 1, jitter: 1 };
    await using place = await faulty(
      RespServer,
      { incoming: single, outgoing: single },
      { keys: new KeyStore() },
    );
    place.client.abort();
    class Cutting extends TCPConnector {
      override async connect(signal?: AbortSignal): Promise<StreamSocket> {
        return withFaults(await super.connect(signal), { incoming: single, outgoing: single });
      }
    }
    const connector = new Cutting(place.server.serverAddress as never, RespClient);
    const params = [
      ["SET", "k", "a\r\nπ"],
      ["GET", "k"],
      ["INCR", "n"],
    ];
    expect(await connector.run({ params })).toEqual(["OK", "a\r\nπ", 1]);
  });

  test("latency is there and back", async () => {
    await using place = await faulty(Echo, { incoming: { latency: 20 }, outgoing: { latency: 30 } });
    const began = performance.now();
    await place.client.sendall("far");
    expect(text(await place.client.recv())).toBe("far");
    expect(performance.now() - began).toBeGreaterThan(49);
  });

  test("a reset at a byte is a reset of the kernel's", async () => {
    await using place = await faulty(Echo, { outgoing: { resetAfter: 5 } });
    await place.client.sendall("hello, world");
    await expect(place.client.rfile.read()).rejects.toMatchObject({ code: "ECONNRESET" });
  });

  test("an answer is cut short", async () => {
    await using place = await faulty(Echo, { outgoing: { endAfter: 5 } });
    await place.client.sendall("hello, world");
    expect(text(await place.client.rfile.read())).toBe("hello");
  });

  test("silence is half open: the client waits, and the kernel says nothing", async () => {
    await using place = await faulty(Echo, { outgoing: { silentAfter: 5 } });
    await place.client.sendall("hello, world");
    expect(text(await place.client.rfile.readexactly(5))).toBe("hello");
    place.client.settimeout(50);
    await expect(place.client.recv()).rejects.toMatchObject({ code: "ETIMEDOUT" });
  });
});

describe("over real UDP", () => {
  const COUNT = 100;

  /** Sends numbers to `server`, and returns what comes back: as many as `expected`. */
  const overUdp = async (server: UDPServer, expected: number): Promise<number[]> => {
    await server.listen();
    void server.serveForever();
    const { port } = server.serverAddress as { port: number };
    const client = dgram.createSocket("udp4");
    const back: number[] = [];
    const all = Promise.withResolvers<void>();
    client.on("message", (message) => {
      back.push(message[0] as number);
      if (back.length === expected) all.resolve();
    });
    client.connect(port, "127.0.0.1");
    await once(client, "connect");
    for (let i = 0; i < COUNT; i++) {
      await new Promise((resolve) => client.send(Uint8Array.of(i), resolve));
    }
    await all.promise;
    await server.serverClose();
    client.close();
    return back;
  };

  /** The same in memory. */
  const inMemory = async (server: MemoryDatagramServer): Promise<number[]> => {
    await server.listen();
    void server.serveForever();
    const client = server.network.socket();
    const back: number[] = [];
    client.ondatagram = ({ data }) => back.push(data[0] as number);
    for (let i = 0; i < COUNT; i++) {
      await client.sendto(Uint8Array.of(i), server.serverAddress);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await server.serverClose();
    return back;
  };

  const both = async (faults: DatagramFaults): Promise<[memory: number[], udp: number[]]> => {
    const Handler: HandlerClass<Datagram> = EchoDatagram;
    const memory = await inMemory(new (FaultsMixIn(MemoryDatagramServer, faults))(Handler));
    const udp = await overUdp(new (FaultsMixIn(UDPServer, faults))("127.0.0.1:0", Handler), memory.length);
    return [memory, udp];
  };

  test("the same datagrams are lost and doubled as in memory", async () => {
    const [memory, udp] = await both({ incoming: { loss: 0.3 }, outgoing: { duplicates: 0.2, loss: 0.1 } });
    expect(udp).toEqual(memory);
    expect(new Set(udp).size).toBeLessThan(80);
    expect(udp.length).toBeGreaterThan(new Set(udp).size);
  });

  test("datagrams overtake one another", async () => {
    const [, udp] = await both({ incoming: { reorder: 0.3 } });
    expect(new Set(udp).size).toBe(COUNT);
    expect(udp.filter((number, i) => number < (udp[i - 1] ?? 0)).length).toBeGreaterThan(5);
  });
});
