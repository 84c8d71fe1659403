/** `socklet`: what is the same everywhere. Grouped; no logic here. */

// Where one may dial, and who may come
export {
  AllowList,
  type AllowRule,
  connectHint,
  type InternetEndpoint,
  type PeerRules,
  type PortRange,
  parseAllowRule,
  platformRefusal,
  type RateLimit,
} from "./access.ts";
// Addresses, byte order, constants
export {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  type InternetAddress,
  inetAton,
  inetNtoa,
  inetNtop,
  inetPton,
  isLoopback,
  isPrivate,
  isReserved,
  packAddress,
  parseAddress,
  type UnixAddress,
} from "./address.ts";
// The app
export {
  type AnyHandlerClass,
  type App,
  type AppDefinition,
  type DialEntry,
  defineApp,
  isApp,
  type ListenEntry,
  type Listener,
  type ListenerOptions,
  type Platform,
  type Serving,
} from "./app.ts";
export { htonl, htons, ntohl, ntohs } from "./byte-order.ts";
export {
  type ConnectOptions,
  type SecureTransport,
  type SocketConnectOptions,
  StreamConnector,
  type StreamConnectorOptions,
  UnconnectedSocket,
} from "./connector.ts";
export * from "./constants.ts";
export {
  checkDatagramSize,
  Datagram,
  type DatagramSender,
  type DatagramSink,
  DatagramSocket,
  type DatagramTransport,
  MAX_DATAGRAM,
} from "./datagram.ts";
export { toJson } from "./describe.ts";
// Errors
export { SocketError, type SocketErrorCode, type SocketErrorDetails } from "./errors.ts";
export type { ForkingEvent, OnEvent, Refusal, SockletEvent } from "./events.ts";
// A socket as a file
export type {
  BinaryFile,
  BinaryWriter,
  FileMode,
  FileModes,
  FileOptions,
  TextFile,
  TextReader,
  TextWriter,
} from "./file.ts";
// The handler
export {
  BaseRequestHandler,
  DatagramRequestHandler,
  type HandlerClass,
  type HandlerServer,
  type RequestScope,
  StreamRequestHandler,
  streamHandler,
} from "./handler.ts";
export { ThreadingMixIn } from "./mixins.ts";
// Names
export type { AddressInfo, AddressInfoOptions, Host } from "./names.ts";
export type { DatagramOptions, ForkingOptions, ListenOptions, OptionNames } from "./options.ts";
// The sockets it talks to
export { Poll, poll, type Selectable, select } from "./select.ts";
// The servers and connectors that run it
export {
  BaseConnector,
  BaseEndpoint,
  BaseServer,
  type EndpointInfo,
  type EndpointOptions,
  type RunOptions,
  type ServerInfo,
  type ServerOptions,
  type ServerState,
  type Suspension,
} from "./server.ts";
export {
  BaseSocket,
  type Capabilities,
  type KernelSocket,
  type StreamOptions,
  type StreamSink,
  StreamSocket,
  type StreamTransport,
  type TlsOptions,
  type WebStream,
} from "./socket.ts";
export { type BlobStorage, checkBlobName } from "./storage.ts";
export {
  type Data,
  type MaybePromise,
  type StreamLimits,
  StreamReader,
  StreamWriter,
  type WhenSlow,
} from "./stream.ts";
