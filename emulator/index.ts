/** `socklet/emulator`: real sockets in Node. */

export { createConnection, TCPConnector, UnixStreamConnector } from "./connector.ts";
export type { ControlOptions, ControlServer } from "./control.ts";
export {
  type Forking,
  type ForkingInfo,
  ForkingMixIn,
  ForkingTCPServer,
  ForkingUDPServer,
  ForkingUnixDatagramServer,
  ForkingUnixStreamServer,
  handlerFrom,
} from "./forking.ts";
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
} from "./names.ts";
export { type AppServer, type ServeOptions, serveApp } from "./serve.ts";
export {
  type Accepted,
  type CreateServerOptions,
  createDatagramConnection,
  createServer,
  type DatagramConnectionOptions,
  fromfd,
  hasDualstackIpv6,
  Socket,
  type SocketOptions,
  socket,
  socketpair,
} from "./socket.ts";
export { FileStorage } from "./storage.ts";
export { streamSocket } from "./stream-socket.ts";
export {
  type ListeningSocket,
  TCPServer,
  type TCPServerOptions,
  ThreadingTCPServer,
} from "./tcp.ts";
export { ThreadingUDPServer, UDPServer, type UDPServerOptions } from "./udp.ts";
export {
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
  UnixDatagramServer,
  type UnixDatagramServerOptions,
  UnixStreamServer,
  type UnixStreamServerOptions,
} from "./unix.ts";
