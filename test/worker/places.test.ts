/** The conformance bodies inside workerd, where both ends are workerd's sockets. */

import { env } from "cloudflare:workers";
import type { StreamSocket } from "socklet";
import { createConnection, streamSocket } from "socklet/worker";
import { inject, test } from "vitest";
import { serverConformance } from "../conformance/server.ts";
import { streamConformance } from "../conformance/stream.ts";

// The Worker must be able to continue after the peer's end has come.
const dial = (door: Pick<Fetcher, "connect">, name: string): Promise<StreamSocket> =>
  streamSocket(door.connect(`${name}:1`, { allowHalfOpen: true }), { closeTimeout: 300 });

const places = {
  "workerd, service binding": { key: "service", door: () => env.SELF },
  "workerd, Durable Object": { key: "object", door: () => env.DOOR.getByName("door") },
};

for (const [name, { key, door }] of Object.entries(places)) {
  streamConformance({ name, dial: () => dial(door(), "conformance") });
  serverConformance({
    name,
    accepts: true,
    board: env.BOARD.getByName("board"),
    key: (index) => `${key}/${index}`,
    dial: (index) => dial(door(), `trace-${key}-${index}`),
    life: { drains: key === "object", dial: () => dial(door(), `life-${key}`) },
  });
}

// Dialled over kernel TCP: the other end is in Node.
const stream = { closeTimeout: 300 };
streamConformance(
  {
    name: "workerd, outbound",
    dial: () => createConnection({ hostname: "127.0.0.1", port: inject("conformancePort") }, { stream }),
  },
  "served",
);

// The same under TLS: from the first byte, and in place on a connection that began plain.
const tlsPort = inject("tlsPort");
for (const secureTransport of ["on", "starttls"] as const) {
  const name = `workerd, outbound, TLS ${secureTransport === "on" ? "from the start" : "by startTls()"}`;
  if (tlsPort === 0) test.skip(`${name}: SKIPPED, not on PATH: openssl`, () => {});
  else {
    streamConformance(
      {
        name,
        hearsReset: secureTransport === "on", // measured on workerd 2026-10-23; worker/sockets/stream-socket.ts
        dial: async () => {
          const options = { stream, secureTransport };
          const socket = await createConnection({ hostname: "localhost", port: tlsPort }, options);
          if (secureTransport === "starttls") await socket.startTls();
          return socket;
        },
      },
      "served",
    );
  }
}
