/** The example app as a Worker, on the ports that a test chose, with a way to read what it stored. */

import { defineApp, type ListenEntry } from "socklet";
import { poolsFor, SockletStorage, workerFor } from "socklet/worker";
import { app } from "../../examples/app.ts";

interface Bindings {
  readonly STORAGE: DurableObjectNamespace<SockletStorage>;
  readonly PORTS: Readonly<Record<string, number>>;
}

const pools = poolsFor(app); // of the example app, whose context it is
const workers = new Map<string, ReturnType<typeof workerFor>>();

/** The app with its listeners moved to the ports of the test. */
const workerOf = ({ PORTS }: Bindings): ReturnType<typeof workerFor> => {
  const key = JSON.stringify(PORTS);
  let worker = workers.get(key);
  if (worker === undefined) {
    const listen: ListenEntry[] = Object.entries(PORTS).map(([handler, port]) => ({
      handler,
      address: { hostname: "127.0.0.1", port },
    }));
    worker = workerFor(defineApp({ handlers: app.handlers, listen, context: app.context }), { pools });
    workers.set(key, worker);
  }
  return worker;
};

export { SockletStorage };
export class SockletPool extends pools.Pool {}

export default {
  async fetch(request: Request, env: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, name] = new URL(request.url).pathname.split("/");
    if (first !== "blobs") return workerOf(env).fetch(request, env, ctx);
    const storage = env.STORAGE.getByName("blobs");
    return name === undefined ? Response.json(await storage.list()) : new Response(await storage.get(name));
  },
  connect(socket: Socket, env: Bindings, ctx: ExecutionContext): Promise<void> {
    return workerOf(env).connect(socket, env, ctx);
  },
};
