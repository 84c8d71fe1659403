/** The deployed Worker, of which every port is the chat's. */

import main, { ChatRoom } from "../../worker/main.ts";

export { ChatRoom };

export default {
  fetch: () => new Response("ok"),
  connect({ readable, writable }: Socket, env: Parameters<typeof main.connect>[1], ctx: ExecutionContext) {
    const opened = Promise.resolve({ localAddress: "chat:1" });
    return main.connect({ readable, writable, opened } as Socket, env, ctx);
  },
};
