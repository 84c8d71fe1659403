/** The Worker of the tests of lasting sessions, whose objects a test can lose. */

import { env } from "cloudflare:workers";
import unsafe from "workerd:unsafe";
import { lasting, type SockletBindings, workerFor } from "socklet/worker";
import { type KeptPorts, keptApp } from "../conformance/kept-app.ts";

interface Bindings extends SockletBindings {
  readonly PORTS: KeptPorts;
  readonly SOCKLET_SESSIONS: DurableObjectNamespace<SockletSession>;
}

const worker = workerFor(keptApp((env as unknown as Bindings).PORTS), { lasting });

export class SockletSession extends worker.Session {
  lose(): void {
    this.ctx.abort("lost by the test");
  }
}
export class SockletRegistry extends worker.Registry {}

export default {
  ...worker,
  /** `/lose/ID` aborts a session's object, `/evict/ID` evicts it when its connection is closed; all else is the control routes. */
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, id = ""] = new URL(request.url).pathname.split("/");
    const object = bindings.SOCKLET_SESSIONS.getByName(id);
    switch (first) {
      case "lose":
        await object.lose().catch(() => {}); // the call is lost with the object
        return new Response("lost");
      case "evict":
        await unsafe.evict(object);
        return new Response("evicted");
      default:
        return worker.fetch(request, bindings, ctx);
    }
  },
};
