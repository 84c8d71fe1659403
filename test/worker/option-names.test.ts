/** In a Worker, too, everything that takes options refuses an unknown one. */

import { BaseEndpoint, DatagramRequestHandler, defineApp, streamHandler } from "socklet";
import * as worker from "socklet/worker";
import { describe, expect, test } from "vitest";
import { type Exports, isEndpoint, type Row, refusalOf, takersOf } from "../conformance/no-option.ts";

const Nothing = streamHandler(() => {});
class Packet extends DatagramRequestHandler {}
const app = defineApp({ handlers: { nothing: Nothing } });

const TABLE: Readonly<Record<string, Row>> = {
  createConnection: (options) => worker.createConnection("127.0.0.1:1", options),
  getaddrinfo: (options) => worker.getaddrinfo("127.0.0.1", 1, options),
  getfqdn: (options) => worker.getfqdn("127.0.0.1", options),
  gethostbyaddr: (options) => worker.gethostbyaddr("127.0.0.1", options),
  gethostbyname: (options) => worker.gethostbyname("127.0.0.1", options),
  gethostbynameEx: (options) => worker.gethostbynameEx("127.0.0.1", options),
  getnameinfo: (options) => worker.getnameinfo("127.0.0.1:1", 0, options),
  poolsFor: (options: object) => worker.poolsFor(app, options),
  RegistryObject: (options: object) => {
    // The platform creates the objects, and only of the classes that it knows.
    worker.workerFor(app, { sessions: options });
  },
  Socket: (options) => worker.socket().connect("127.0.0.1:1", options),
  streamSocket: (options) => worker.streamSocket({} as never, options), // checked before the socket is used
  TCPConnector: (options) => new worker.TCPConnector("127.0.0.1:1", Nothing, options),
  WorkerServer: (options) => new worker.WorkerServer(Nothing, options),
  WorkerDatagramServer: (options) => new worker.WorkerDatagramServer(Packet, options),
  workerFor: (options) => worker.workerFor(app, options),
};

test("the table has everybody who takes options", () => {
  const exports: Exports = worker;
  const endpoints = Object.keys(exports).filter((name) => isEndpoint(exports[name]));
  expect(endpoints.sort()).toEqual(["TCPConnector", "WorkerDatagramServer", "WorkerServer"]);
  const ours = ["PoolObject", "SessionObject", "lasting", "metrics"]; // called by the library alone: the platform's objects, and what workerFor() is given
  const takers = [...takersOf(exports), ...endpoints].filter((name) => !ours.includes(name));
  expect(takers.length).toBeGreaterThan(10);
  expect(takers.filter((name) => !Object.hasOwn(TABLE, name))).toEqual([]);
  expect(isEndpoint(BaseEndpoint)).toBe(true);
});

describe("an option that is none is refused by", () => {
  test.each(Object.entries(TABLE))("%s", async (_, row) => {
    const error = await refusalOf(row, { nonsense: 1 });
    expect(error).toBeInstanceOf(TypeError);
    expect(String(error)).toMatch(/has no option (\w+\.)?nonsense; it has \w+/);
  });
});

test("the slots are a count, and one that is none is refused", () => {
  for (const most of [0, -1, 1.5, "6", {}]) {
    expect(() => new worker.ConnectionSlots(most as never)).toThrow(/the number of slots/);
  }
});

test("connect() of a socket has no options that the socket itself has", async () => {
  const connecting = worker.socket().connect("127.0.0.1:1", { connectTimeout: 5 } as never);
  await expect(connecting).rejects.toThrow(/connect\(\) has no option connectTimeout/);
});

test("what an app says of other places does not reach a server here", () => {
  const listen = [
    {
      handler: "nothing",
      address: "tcp://127.0.0.1:7",
      serve: "forking" as const,
      options: { whenFull: "wait" as const, ipv6Only: true, maxChildren: 2, maxRequests: 3 },
    },
  ];
  expect(worker.workerFor(defineApp({ handlers: { nothing: Nothing }, listen }))).toHaveProperty("connect");
});
