/** `socklet/emulator`: real sockets in Node. */

export { createConnection, TCPConnector } from "./connector.ts";
export type { ControlOptions, ControlServer } from "./control.ts";
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
  createServer,
  fromfd,
  hasDualstackIPv6,
  Socket,
  type SocketOptions,
  socket,
  socketpair,
} from "./socket.ts";
export { FileStorage } from "./storage.ts";
export { streamSocket } from "./stream-socket.ts";
export { TCPServer, type TCPServerOptions, ThreadingTCPServer } from "./tcp.ts";
export { ThreadingUDPServer, UDPServer, type UDPServerOptions } from "./udp.ts";
