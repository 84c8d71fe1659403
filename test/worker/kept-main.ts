/** The Worker of the tests of sessions that last, whose objects a test can lose. */

import { env } from "cloudflare:workers";
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
  /** `/lose/ID` loses a session's object; all else is the control routes. */
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, id = ""] = new URL(request.url).pathname.split("/");
    if (first !== "lose") return worker.fetch(request, bindings, ctx);
    await bindings.SOCKLET_SESSIONS.getByName(id)
      .lose()
      .catch(() => {}); // the call is lost with it
    return new Response("lost");
  },
};
