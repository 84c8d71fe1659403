/// <reference types="@cloudflare/workers-types" />
/** `workerFor(app)`: the module that a Worker deploys. */

import { parseAddress } from "../core/address.ts";
import { type App, isApp, type Listener } from "../core/app.ts";
import { controlRoutes } from "../core/control/index.ts";
import { SocketError } from "../core/errors.ts";
import type { OnEvent } from "../core/events.ts";
import type { HandlerClass } from "../core/handler.ts";
import type { StreamSocket } from "../core/socket.ts";
import { WorkerServer } from "./server.ts";
import { boundStorage } from "./storage.ts";

/** Options of a Worker. */
export interface WorkerOptions {
  readonly onEvent?: OnEvent;
}

/** A Worker's main module. */
export interface WorkerModule {
  fetch(request: Request, env: unknown, ctx: ExecutionContext): Promise<Response>;
  connect(socket: Socket, env: unknown, ctx: ExecutionContext): Promise<void>;
}

/** The listener that an inbound connection is for: by its name where the caller dialled that, else by its port. */
const listenerFor = (app: App, authority: string | undefined): Listener | undefined => {
  const streams = app.listeners.filter(({ endpoint }) => endpoint.scheme === "tcp");
  if (authority === undefined) return undefined;
  const dialled = parseAddress(authority);
  if (dialled.scheme === "unix") return undefined;
  return (
    streams.find(({ name }) => name === dialled.hostname) ??
    streams.find(({ endpoint }) => endpoint.port === dialled.port)
  );
};

/**
 * The main module of a Worker that runs `app`:
 *
 *     export { SockletStorage } from "socklet/worker";
 *     export default workerFor(app);
 *
 * `connect` gives each TCP connection to the handler that the app listens with: on the port it came to, or of
 * the name that the caller dialled (`env.SELF.connect("mail:25")`); what is for none is turned away. `fetch`
 * serves the control routes. `app.context` is called once an isolate, with the bindings.
 */
export const workerFor = <Context>(definition: App<Context>, options: WorkerOptions = {}): WorkerModule => {
  const app = definition as unknown as App; // what its context is concerns its handlers alone
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  const servers = new Map<Listener, WorkerServer>();
  const routes = controlRoutes({
    listeners: () =>
      app.listeners.map(
        (listener) =>
          servers.get(listener)?.info() ?? { name: listener.name, running: 0, served: 0, failed: 0 },
      ),
  });
  let ready: { readonly context: unknown } | undefined;

  const serverFor = async (listener: Listener, env: unknown): Promise<WorkerServer> => {
    const bindings = env as Record<string, unknown>;
    // Not kept as a promise: a promise of one request must not be awaited in another (workerd).
    ready ??= { context: await app.context({ name: "workerd", bindings, storage: boundStorage(bindings) }) };
    let server = servers.get(listener);
    if (server === undefined) {
      server = new WorkerServer(listener.handler as HandlerClass<StreamSocket>, {
        name: listener.name,
        context: ready.context,
        onEvent: options.onEvent,
      });
      servers.set(listener, server);
    }
    return server;
  };

  return {
    async fetch(request) {
      return routes.fetch(request);
    },
    async connect(socket, env, ctx) {
      const { localAddress } = await socket.opened;
      const listener = listenerFor(app, localAddress);
      if (listener === undefined) {
        socket.closed.catch(() => {});
        options.onEvent?.({ type: "refused", server: "worker", address: null, reason: "no listener" });
        await socket.close();
        return;
      }
      await (await serverFor(listener, env)).connect(socket, ctx);
    },
  };
};
