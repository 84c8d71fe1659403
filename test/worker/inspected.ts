/** The Worker of the inspector's test: one that has the page. */

import { defineApp, streamHandler } from "socklet";
import { workerFor } from "socklet/worker";
import { inspector } from "../../core/inspector/index.ts";
import { Echo } from "../../examples/echo.ts";

/** Says its params, and emits what comes back. */
const Asks = streamHandler(async (handler) => {
  handler.wfile.write(`${handler.params}\n`);
  const line = await handler.rfile.line();
  handler.emit({ characters: line?.length ?? 0 }); // its text is a secret: it came as params
  return line;
});

const app = defineApp({
  handlers: { Echo, Asks },
  listen: [{ handler: "Echo", address: "tcp://127.0.0.1:7007" }],
  allow: ["127.0.0.0/8:*"],
});
const worker = workerFor(app, { inspector });

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export { SockletStorage } from "socklet/worker";

export default worker;
