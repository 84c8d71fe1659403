/** What the tests inside workerd dial: servers in Node, started once. */

import type { HandlerClass, InternetAddress, StreamSocket } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import type { TestProject } from "vitest/node";
import { Echo } from "../../examples/echo.ts";
import { type Board, Conformance, LocalBoard } from "../conformance/handler.ts";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";

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

/** The conformance handler behind TLS, from the first byte. */
const secured = ({ cert, key }: Certificates) =>
  class extends Conformance {
    override async setup(): Promise<void> {
      await this.request.startTls({ cert, key });
      await super.setup();
    }
  };

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const servers: ThreadingTCPServer<Board>[] = [];
  const serve = async (Handler: HandlerClass<StreamSocket, Board>): Promise<number> => {
    const server = new ThreadingTCPServer<Board>("127.0.0.1:0", Handler, {
      context: new LocalBoard(),
      stream: { closeTimeout: 300 },
      drainTimeout: 100,
    });
    const { port } = (await server.listen()) as InternetAddress;
    void server.serveForever();
    servers.push(server);
    return port;
  };
  project.provide("conformancePort", await serve(Conformance));
  project.provide("echoPort", await serve(Echo));
  const made = ownCertificates();
  project.provide("tlsPort", made === null ? 0 : await serve(secured(made)));
  const unmute = muteResets();
  return async () => {
    for (const server of servers) await server.serverClose();
    unmute();
  };
};
