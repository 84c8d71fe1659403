/** What the tests inside workerd dial: servers in Node, started once. */

import type { InternetAddress } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import type { TestProject } from "vitest/node";
import { Conformance, LocalBoard } from "../conformance/handler.ts";

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const server = new ThreadingTCPServer("127.0.0.1:0", Conformance, {
    context: new LocalBoard(),
    stream: { closeTimeout: 300 },
    drainTimeout: 100,
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  project.provide("conformancePort", port);
  return () => server.serverClose();
};
