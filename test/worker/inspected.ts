/** The Worker of the inspector's tests: one that has the page, and keeps what passes while somebody looks. */

import { DurableObject, env } from "cloudflare:workers";
import { defineApp } from "socklet";
import { lasting, poolsFor, recording, workerFor } from "socklet/worker";
import { inspector } from "../../core/inspector/index.ts";
import { type InspectedAddresses, inspectedApp } from "../conformance/inspected-app.ts";

const app = defineApp(inspectedApp(env as InspectedAddresses));
const pools = poolsFor(app, { recording });
const worker = workerFor(app, { inspector, recording, lasting, pools });

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export class SockletPool extends pools.Pool {}
export { SockletStorage } from "socklet/worker";

/** Accepts in an object. */
export class Room extends DurableObject {
  readonly #server = new recording.Server(app.handlers.Shouts, { name: "room" });

  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }
}

interface Bindings {
  readonly ROOM: DurableObjectNamespace<Room>;
  /** The port of the room. */
  readonly ROOM_PORT?: string;
}

export default {
  ...worker,
  async connect(socket: Socket, bindings: Bindings, ctx: ExecutionContext): Promise<void> {
    const { localAddress = "" } = await socket.opened;
    if (!localAddress.endsWith(`:${bindings.ROOM_PORT}`)) return worker.connect(socket, bindings, ctx);
    const room = bindings.ROOM.getByName("lobby").connect("room:1", { allowHalfOpen: true });
    await Promise.all([socket.readable.pipeTo(room.writable), room.readable.pipeTo(socket.writable)]);
  },
};
