/** The app of test/conformance/keeper.ts as a Worker, on the port that a test chose. */

import { createConnection, workerFor } from "socklet/worker";
import { keeperApp } from "../conformance/keeper.ts";

interface Bindings {
  readonly PORT: number;
  readonly UPSTREAM: string;
}

let worker: ReturnType<typeof workerFor> | undefined;

export default {
  connect: (socket: Socket, env: Bindings, ctx: ExecutionContext) => {
    worker ??= workerFor(
      keeperApp({ upstream: env.UPSTREAM, port: env.PORT, createConnection, early: true }),
    );
    return worker.connect(socket, env, ctx);
  },
  fetch: () => new Response("ok"),
};
