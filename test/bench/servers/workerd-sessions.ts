/** A Worker whose registry is measured: ../worker-sessions.ts. */
import { defineApp, streamHandler } from "socklet";
import { workerFor } from "socklet/worker";

const app = defineApp({
  handlers: { waits: streamHandler(({ request }) => request.recv()) },
  allow: ["127.0.0.0/8:*"],
});
const worker = workerFor(app, { sessions: { maxHistory: 1_000_000 } });

export const SockletSession = worker.Session;
export const SockletRegistry = worker.Registry;
export default worker;
