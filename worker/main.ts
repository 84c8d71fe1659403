/** The Worker that `wrangler.toml` deploys: the example app. The platform requires these exports. */

import { DurableObject } from "cloudflare:workers";
import { openApi } from "../core/control/http/openapi.ts";
import { lasting } from "../core/control/sessions/lasting.ts";
import { app } from "../examples/app.ts";
import { Chat } from "../examples/chat.ts";
import { poolsFor } from "./pool/pools.ts";
import { WorkerServer } from "./serve/server.ts";
import { workerFor } from "./serve/worker.ts";

const pools = poolsFor(app);
const worker = workerFor(app, { openApi, lasting, pools });

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export class SockletPool extends pools.Pool {}
export { SockletStorage } from "./objects/storage.ts";

/** The chat's members meet in one object, because a request may not use what another one opened. */
export class ChatRoom extends DurableObject {
  readonly #server = new WorkerServer(Chat, { context: { members: new Set<Chat>() } });

  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }
}

interface Bindings {
  readonly CHAT: DurableObjectNamespace<ChatRoom>;
}

const chat = app.listeners.find(({ name }) => name === "chat")?.endpoint;
const chatPort = chat !== undefined && chat.scheme !== "unix" ? chat.port : 0;
const isChat = (authority = ""): boolean =>
  authority.startsWith("chat:") || authority.endsWith(`:${chatPort}`);

export default {
  ...worker,
  async connect(socket: Socket, env: Bindings, ctx: ExecutionContext): Promise<void> {
    if (!isChat((await socket.opened).localAddress)) return worker.connect(socket, env, ctx);
    const room = env.CHAT.getByName("lobby").connect("chat:1", { allowHalfOpen: true });
    await Promise.all([socket.readable.pipeTo(room.writable), room.readable.pipeTo(socket.writable)]);
  },
};
