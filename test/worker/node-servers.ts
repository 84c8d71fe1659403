/** What the tests inside workerd dial: servers in Node, started once. */

import type { InternetAddress } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import type { TestProject } from "vitest/node";
import { Conformance, LocalBoard } from "../conformance/handler.ts";

/**
 * workerd logs each reset of a connection that it dialled as an exception with a stack, and Vitest's plugin passes
 * that on. One test resets a connection: what is said of it must not look like a failure. All else is passed on.
 */
const muteResets = (): (() => void) => {
  const { stderr } = process;
  const write = stderr.write;
  stderr.write = ((chunk: string | Uint8Array, ...rest: []) =>
    /^exception = \S+: disconnected: Connection reset by peer/.test(String(chunk)) ||
    write.call(stderr, chunk, ...rest)) as typeof write;
  return () => {
    stderr.write = write;
  };
};

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const server = new ThreadingTCPServer("127.0.0.1:0", Conformance, {
    context: new LocalBoard(),
    stream: { closeTimeout: 300 },
    drainTimeout: 100,
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  project.provide("conformancePort", port);
  const unmute = muteResets();
  return async () => {
    await server.serverClose();
    unmute();
  };
};
