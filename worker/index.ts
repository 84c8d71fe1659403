/// <reference types="@cloudflare/workers-types" />
/** `socklet/worker`: handlers in Cloudflare Workers. */

export { type Lasting, lasting } from "../core/control/sessions/lasting.ts";
export { ConnectionSlots } from "../core/sockets/dialling/slots.ts";
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
} from "./names/names.ts";
export type { SockletBindings } from "./objects/bindings.ts";
export {
  type AnalyticsDataset,
  analyticsEvents,
  metrics,
  type WorkerMetrics,
} from "./objects/metrics.ts";
export type { PoolAccess } from "./objects/platform.ts";
export { RegistryObject, type SessionBounds } from "./objects/registry.ts";
export { SessionObject } from "./objects/session.ts";
export { SockletStorage } from "./objects/storage.ts";
export type { PlatformContext, PlatformSocket, PlatformState } from "./platform.ts";
export type { WorkerLease, WorkerPool } from "./pool/client.ts";
export { PoolObject } from "./pool/object.ts";
export { type PoolsOptions, poolsFor, type WorkerPools } from "./pool/pools.ts";
export { recording, type WorkerRecording } from "./serve/recording.ts";
export { WorkerDatagramServer, WorkerServer, type WorkerServerOptions } from "./serve/server.ts";
export { type WorkerModule, type WorkerOptions, workerFor } from "./serve/worker.ts";
export {
  createConnection,
  TCPConnector,
  type TCPConnectorOptions,
  type WorkerConnectOptions,
} from "./sockets/connector.ts";
export { Socket, socket, type WorkerSocketConnectOptions } from "./sockets/socket.ts";
export { streamSocket } from "./sockets/stream-socket.ts";
