/** `socklet/emulator`: real sockets in Node. */

export { EDGE_RULES, type EdgeOptions, type EdgeRule, type EdgeRuleName } from "../core/net/edge.ts";
export type { AppServer, Replaced, ServeOptions } from "./app/app-server.ts";
export type { ControlOptions, ControlServer } from "./app/control/control.ts";
export type { ListenDescriptor } from "./app/listeners/descriptors.ts";
export { serveApp } from "./app/serve-app.ts";
export type { ClusterOptions, ClusterServer, WorkerInfo } from "./cluster/cluster.ts";
export type { Listed } from "./cluster/messages.ts";
export { serveCluster } from "./cluster/serve-cluster.ts";
export type { TracedConnect, TracedHandshake, TracedRequest } from "./kernel/tracing.ts";
export { streamSocket } from "./kernel/transports/net-transport.ts";
export { handlerFrom } from "./servers/forking/channel/handler-source.ts";
export type { Forking, ForkingInfo } from "./servers/forking/forked-server.ts";
export {
  ForkingMixIn,
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
} from "./servers/forking/servers.ts";
export {
  type ListeningSocket,
  TCPServer,
  type TCPServerOptions,
  ThreadingTCPServer,
} from "./servers/tcp.ts";
export { ThreadingUDPServer, UDPServer, type UDPServerOptions } from "./servers/udp.ts";
export {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  type UnixDatagramServerOptions,
  UnixStreamServer,
  type UnixStreamServerOptions,
} from "./servers/unix.ts";
export { createConnection, TCPConnector, UnixStreamConnector } from "./sockets/dialling/connector.ts";
export { pool } from "./sockets/dialling/pool.ts";
export {
  type CreateServerOptions,
  createDatagramConnection,
  createServer,
  type DatagramConnectionOptions,
  fromfd,
  hasDualstackIpv6,
  type SocketOptions,
  socket,
  socketpair,
} from "./sockets/make.ts";
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
} from "./sockets/names/names.ts";
export { type Accepted, Socket } from "./sockets/socket.ts";
export { FileStorage } from "./storage.ts";
