/** The conformance bodies in the places that one Node process has: memory, and real sockets. */

import { createConnection, ThreadingTCPServer } from "socklet/emulator";
import { ThreadingMemoryServer } from "socklet/testing";
import { afterAll, beforeAll } from "vitest";
import { Conformance, LocalBoard } from "./handler.ts";
import { streamConformance } from "./stream.ts";

const options = { context: new LocalBoard(), stream: { closeTimeout: 300 }, drainTimeout: 100 };

const memory = new ThreadingMemoryServer(Conformance, options);
const tcp = new ThreadingTCPServer("127.0.0.1:0", Conformance, options);

beforeAll(async () => {
  for (const server of [memory, tcp]) {
    await server.listen();
    void server.serveForever();
  }
});

afterAll(async () => {
  await memory.serverClose();
  await tcp.serverClose();
});

streamConformance({ name: "memory", dial: async () => memory.connect() });
streamConformance({
  name: "Node TCP",
  dial: () => createConnection(tcp.serverAddress as never, { stream: options.stream }),
});
