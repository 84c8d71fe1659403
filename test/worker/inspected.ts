/** The Worker of the inspector's tests: one that has the page, and keeps what passes while somebody looks. */

import { env } from "cloudflare:workers";
import { decodeLines, defineApp, streamHandler } from "socklet";
import { lasting, recording, workerFor } from "socklet/worker";
import { inspector } from "../../core/inspector/index.ts";
import { Echo } from "../../examples/echo.ts";
import { Lines } from "../conformance/lines.ts";

/** Says its params, and emits what comes back. */
const Asks = streamHandler(async (handler) => {
  handler.wfile.write(`${handler.params}\n`);
  const line = await handler.rfile.line();
  handler.emit({ characters: line?.length ?? 0 }); // its text is a secret: it came as params
  return line;
});

const { KEPT = "127.0.0.1:1" } = env as { readonly KEPT?: string };

const app = defineApp({
  handlers: { Echo, Asks, Lines },
  listen: [{ handler: "Echo", address: "tcp://127.0.0.1:7007" }],
  dial: {
    kept: { handler: "Lines", address: KEPT, decode: decodeLines, keep: { redial: { retryDelay: 1 } } },
  },
  allow: ["127.0.0.0/8:*"],
});
const worker = workerFor(app, { inspector, recording, lasting });

export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}
export { SockletStorage } from "socklet/worker";

export default worker;
