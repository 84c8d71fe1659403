/** `socklet`: what is the same everywhere. Grouped; no logic here. */

// The handler
export {
  BaseRequestHandler,
  DatagramRequestHandler,
  type HandlerClass,
  StreamRequestHandler,
  streamHandler,
} from "./handler.ts";
// The sockets it talks to
export {
  type Capabilities,
  checkDatagramSize,
  Datagram,
  type DatagramSender,
  MAX_DATAGRAM,
  type StreamOptions,
  type StreamSink,
  StreamSocket,
  type StreamTransport,
  type WebStream,
} from "./socket.ts";
export { type Data, type MaybePromise, type StreamLimits, StreamReader, StreamWriter } from "./stream.ts";
// The servers and connectors that run it
export {
  BaseConnector,
  BaseEndpoint,
  type EndpointInfo,
  type EndpointOptions,
  BaseServer,
  type RequestScope,
  type RunOptions,
  type ServerInfo,
  type ServerOptions,
  type ServerState,
} from "./server.ts";
export { type Threading, ThreadingMixIn } from "./mixins.ts";
export type { OnEvent, SockletEvent } from "./events.ts";
// The app
export {
  type AnyHandlerClass,
  type App,
  type AppDefinition,
  defineApp,
  type DialEntry,
  isApp,
  type ListenEntry,
  type Listener,
  type Platform,
  type Serving,
} from "./app.ts";
export { type BlobStorage, checkBlobName } from "./storage.ts";
// Errors
export { SocketError, type SocketErrorCode, type SocketErrorDetails } from "./errors.ts";
// Addresses, byte order, constants
export {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  inetAton,
  inetNtoa,
  inetNtop,
  inetPton,
  type InternetAddress,
  isLoopback,
  isPrivate,
  isReserved,
  packAddress,
  parseAddress,
  type UnixAddress,
} from "./address.ts";
export { htonl, htons, ntohl, ntohs } from "./byte-order.ts";
export * from "./constants.ts";
