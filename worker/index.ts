/// <reference types="@cloudflare/workers-types" />
/** `socklet/worker`: handlers in Cloudflare Workers. */

export { WorkerServer, type WorkerServerOptions } from "./server.ts";
export { SockletStorage } from "./storage.ts";
export { streamSocket } from "./stream-socket.ts";
export { type WorkerModule, type WorkerOptions, workerFor } from "./worker.ts";
