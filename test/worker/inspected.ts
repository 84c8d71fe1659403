/** The Worker of the inspector's tests: one that has the page, and keeps what passes while somebody looks. */

import { DurableObject, env } from "cloudflare:workers";
import { defineApp } from "socklet";
import { lasting, poolsFor, recording, workerFor } from "socklet/worker";
import { inspector } from "../../core/inspector/index.ts";
import type { RecordedSessionObject } from "../../worker/objects/recording.ts";
import { type InspectedAddresses, inspectedApp } from "../conformance/inspected-app.ts";

const app = defineApp(inspectedApp(env as InspectedAddresses));
const pools = poolsFor(app, { recording });
const worker = workerFor(app, { inspector, recording, lasting, pools });

/**
 * What the objects do, as `GET /as/…` says: each is as alone in an isolate of its own (`apart`), or none answers (`silent`). All objects of a
 * workerd on one machine share an isolate, and at Cloudflare they do not.
 */
let as = "";

export class SockletSession extends (worker.Session as unknown as typeof RecordedSessionObject) {
  override async record(
    ...args: Parameters<RecordedSessionObject["record"]>
  ): ReturnType<RecordedSessionObject["record"]> {
    if (as === "silent") await new Promise((resolve) => setTimeout(resolve, 10_000));
    const looked = await super.record(...args);
    return as === "apart" ? { ...looked, isolate: `that of ${looked.info?.id}` } : looked;
  }

  override async find(bytes: Uint8Array) {
    const found = await super.find(bytes);
    if (as !== "apart") return found;
    const { id } = (await this.info()) ?? {};
    return { ...found, ids: found.ids.filter((one) => one === id) };
  }
}
export class SockletRegistry extends worker.Registry {}
export class SockletPool extends pools.Pool {}
export { SockletStorage } from "socklet/worker";

/** Accepts in an object. */
export class Room extends DurableObject {
  readonly #server = new recording.Server(app.handlers.Shouts, { name: "room" });

  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }

  /** Loses everything that it has in memory, including its connections. */
  lose(): void {
    this.ctx.abort("lost");
  }
}

interface Bindings {
  readonly ROOM: DurableObjectNamespace<Room>;
  /** The port of the room. */
  readonly ROOM_PORT?: string;
}

export default {
  ...worker,
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, second = ""] = new URL(request.url).pathname.split("/");
    if (first === "as") as = second;
    else if (first === "lose")
      await bindings.ROOM.getByName("lobby")
        .lose()
        .catch(() => {});
    else return worker.fetch(request, bindings, ctx);
    return new Response(null, { status: 204 });
  },
  async connect(socket: Socket, bindings: Bindings, ctx: ExecutionContext): Promise<void> {
    const { localAddress = "" } = await socket.opened;
    if (!localAddress.endsWith(`:${bindings.ROOM_PORT}`)) return worker.connect(socket, bindings, ctx);
    const room = bindings.ROOM.getByName("lobby").connect("room:1", { allowHalfOpen: true });
    await Promise.all([socket.readable.pipeTo(room.writable), room.readable.pipeTo(socket.writable)]);
  },
};
