/** Every example inside workerd: in memory, behind each inbound door, and in Node, dialled from here. */

import { env } from "cloudflare:workers";
import { AF_INET, SOCK_DGRAM } from "socklet";
import { createConnection, socket, streamSocket, TCPConnector } from "socklet/worker";
import { inject } from "vitest";
import { type MatrixPlace, matrixOf } from "../conformance/matrix.ts";
import {
  doorOf,
  exampleContext,
  inMemory,
  type PlaceId,
  placesOf,
  type StreamDoor,
} from "../conformance/matrix-table.ts";

const FILE = "test/worker/matrix.test.ts";

/** What `connect()` of a binding leads to. */
const inbound = (door: () => Pick<Fetcher, "connect">): MatrixPlace => ({
  streams: async (_, name): Promise<StreamDoor> => ({
    dial: () => streamSocket(door().connect(`${doorOf(name)}:1`, { allowHalfOpen: true })),
  }),
  asked: () => door().connect(`udp://${doorOf("EchoDatagram")}:1`).opened,
});

const outbound = (secureTransport: "on" | "off"): MatrixPlace => ({
  missing: secureTransport === "on" && inject("tlsPort") === 0 ? "not on PATH: openssl" : null,
  streams: async (_, name) => {
    const { plain = 0, tls = 0 } = inject("examplePorts")[name] ?? {};
    const address = { hostname: "localhost", port: secureTransport === "on" ? tls : plain };
    return {
      dial: () => createConnection(address, { secureTransport }),
      connector: (Handler) =>
        new TCPConnector(address, Handler, { secureTransport, context: exampleContext() }),
    };
  },
  asked: () =>
    secureTransport === "on"
      ? createConnection("udp://127.0.0.1:9", { secureTransport })
      : socket(AF_INET, SOCK_DGRAM),
});

const running: Partial<Record<PlaceId, MatrixPlace>> = {
  "memory-workerd": inMemory,
  "workerd-service": inbound(() => env.SELF),
  "workerd-object": inbound(() => env.DOOR.getByName("examples")),
  "workerd-outbound": outbound("off"),
  "workerd-outbound-tls": outbound("on"),
};

for (const id of placesOf(FILE)) matrixOf(id, running[id]);
