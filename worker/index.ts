/// <reference types="@cloudflare/workers-types" />
/** `socklet/worker`: handlers in Cloudflare Workers. */

export type { SockletBindings } from "./bindings.ts";
export {
  ConnectionSlots,
  createConnection,
  TCPConnector,
  type TCPConnectorOptions,
  type WorkerConnectOptions,
} from "./connector.ts";
export {
  getaddrinfo,
  getfqdn,
  gethostbyaddr,
  gethostbyname,
  gethostbynameEx,
  gethostname,
  getnameinfo,
  getprotobyname,
  getservbyname,
  getservbyport,
  type NameOptions,
} from "./names.ts";
export type { PlatformContext, PlatformSocket, PlatformState } from "./platform.ts";
export { RegistryObject, type SessionBounds } from "./registry.ts";
export { WorkerDatagramServer, WorkerServer, type WorkerServerOptions } from "./server.ts";
export { SessionObject } from "./session.ts";
export { Socket, socket, type WorkerSocketOptions } from "./socket.ts";
export { SockletStorage } from "./storage.ts";
export { streamSocket } from "./stream-socket.ts";
export { type WorkerModule, type WorkerOptions, workerFor } from "./worker.ts";
