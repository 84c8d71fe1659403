/** What the tests inside workerd dial: servers in Node, started once. */

import type { HandlerClass, InternetAddress, StreamSocket } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import type { TestProject } from "vitest/node";
import { Echo } from "../../examples/echo.ts";
import { type Board, Conformance, LocalBoard } from "../conformance/handler.ts";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";

/** What the tests provoke, and workerd logs with a stack each time; Vitest's plugin passes that on. */
const PROVOKED = [
  /disconnected: Connection reset by peer/,
  /disconnected: peer closed connection without sending TLS close_notify/,
  /disconnected: abortRead\(\) has been called/, // who follows a session's events has left
  /outputGateBroken; jsg\.Error: lost/, // a test lost an object
  /failed: TLS handshake failed/,
  /startTls called with unsupported expectedServerHostname option/, // and yet it does as it is told
];

/** What is said of that must not look like a failure. All else is passed on. */
const muteProvoked = (): (() => void) => {
  const streams = [process.stdout, process.stderr].map((stream) => ({ stream, write: stream.write }));
  for (const { stream, write } of streams) {
    stream.write = ((chunk: string | Uint8Array, ...rest: []) => {
      const text = String(chunk);
      const muted =
        /^(NOSENTRY |[^\n]*\b(exception|e) = )/.test(text) && PROVOKED.some((one) => one.test(text));
      return muted || write.call(stream, chunk, ...rest);
    }) as typeof write;
  }
  return () => {
    for (const { stream, write } of streams) stream.write = write;
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
  const unmute = muteProvoked();
  return async () => {
    for (const server of servers) await server.serverClose();
    unmute();
  };
};
