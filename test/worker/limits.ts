/** An app whose listeners have limits and rules, as a Worker on the ports that a test chose. */

import { defineApp, StreamRequestHandler } from "socklet";
import { workerFor } from "socklet/worker";

/** Answers each line in capitals. */
class Upper extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) this.wfile.write(`${line.toUpperCase()}\n`);
  }
}

interface Bindings {
  readonly PORTS: readonly [one: number, denied: number, short: number];
}

let worker: ReturnType<typeof workerFor> | undefined;

const workerOf = ({ PORTS: [one, denied, short] }: Bindings): ReturnType<typeof workerFor> => {
  const at = (port: number) => ({ hostname: "127.0.0.1", port });
  worker ??= workerFor(
    defineApp({
      handlers: { one: Upper, denied: Upper, short: Upper, path: Upper },
      listen: [
        // Waiting in place of a refusal is for other platforms: a Worker cannot make a client wait.
        { handler: "one", address: at(one), options: { maxRequests: 1, whenFull: "wait" } },
        { handler: "denied", address: at(denied), options: { access: { deny: ["127.0.0.0/8"] } } },
        { handler: "short", address: at(short), options: { stream: { maxLine: 8 }, requestTimeout: 200 } },
        { handler: "path", address: "unix:/run/nowhere" },
      ],
    }),
  );
  return worker;
};

export default {
  fetch: (request: Request, env: Bindings, ctx: ExecutionContext) => workerOf(env).fetch(request, env, ctx),
  connect: (socket: Socket, env: Bindings, ctx: ExecutionContext) => workerOf(env).connect(socket, env, ctx),
};
