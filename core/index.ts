/** `socklet`: what is the same everywhere. Grouped; no logic here. */

// The app
export {
  type AnyHandlerClass,
  type App,
  type AppDefinition,
  type AppPool,
  type DialEntry,
  defineApp,
  type ListenEntry,
  type Listener,
  type Platform,
  type PoolEntry,
} from "./app/app.ts";
export type { ListenerOptions, Serving } from "./app/listener-options.ts";
export { htonl, htons, ntohl, ntohs } from "./bytes/byte-order.ts";
export type { Bytes, Data, MaybePromise, StreamLimits, WhenSlow } from "./bytes/data.ts";
export { StreamReader } from "./bytes/reader.ts";
export { StreamWriter } from "./bytes/writer.ts";
// What makes messages of bytes, for a reader
export { decodeClientHello, decodeProxied } from "./decode/beginnings.ts";
export type { DecodedMessage, Decoder } from "./decode/decoder.ts";
export {
  type DnsMessage,
  type DnsParser,
  type DnsRecord,
  decodeDns,
  decodeDnsOverTcp,
} from "./decode/dns.ts";
export { decodeLines, decodeSmtp } from "./decode/lines.ts";
export { decodePostgres } from "./decode/postgres.ts";
export { decodeResp } from "./decode/resp.ts";
// Errors
export { SocketError, type SocketErrorCode, type SocketErrorDetails } from "./errors.ts";
export type { FileOptions } from "./files/base-file.ts";
// A socket as a file
export type { BinaryFile, BinaryWriter } from "./files/binary-file.ts";
export type { FileMode, FileModes } from "./files/file.ts";
export type { TextFile, TextReader, TextWriter } from "./files/text-file.ts";
export {
  ClientHandler,
  type ClientHandlerClass,
  ErrorReply,
  type Lease,
  type LeaseOptions,
  Notice,
  type PoolCallOptions,
  type PoolClient,
  type PoolInfo,
} from "./handlers/client.ts";
export type {
  EndpointInfo,
  ForkingEvent,
  OnEvent,
  PoolEvent,
  Refusal,
  SockletEvent,
} from "./handlers/events.ts";
export type { FaultName, FaultRule, Speaker } from "./handlers/fault-rule.ts";
// The handler
export {
  BaseRequestHandler,
  DatagramRequestHandler,
  type HandlerClass,
  type HandlerServer,
  type RequestScope,
  StreamRequestHandler,
  streamHandler,
} from "./handlers/handler.ts";
export type { Keep, KeepOptions, RedialOptions, StateKeeper } from "./handlers/keep.ts";
// Where one may dial, and who may come
export type {
  PeerRules,
  RateLimit,
} from "./net/access.ts";
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
} from "./net/address.ts";
export * from "./net/constants.ts";
// Names
export type { AddressInfo, AddressInfoOptions, Host } from "./net/names.ts";
// The PROXY protocol
export type { ParsedProxyHeader, ProxyHeader, ProxySsl, ProxyTlv } from "./net/proxy/header.ts";
export { parseProxyDatagram, parseProxyHeader } from "./net/proxy/reader.ts";
export { type ProxyHeaderOptions, proxyHeader } from "./net/proxy/writer.ts";
export type {
  AcceptOptions,
  DatagramOptions,
  ForkingOptions,
  KeepAliveOptions,
  ListenOptions,
  OptionNames,
  PathOptions,
  PoolOptions,
} from "./options.ts";
// Connections that outlive a request
export type { DialledPoolOptions } from "./pool/dialled.ts";
export { Pool, type PoolConnector, type PoolSetup } from "./pool/pool.ts";
// The servers and connectors that run it
export {
  BaseConnector,
  type RunOptions,
  StreamConnector,
  type StreamConnectorOptions,
} from "./serve/connector.ts";
export { BaseEndpoint, type EndpointOptions } from "./serve/endpoint.ts";
export { ThreadingMixIn } from "./serve/mixins.ts";
export { behindProxies, type ProxyProtocolOptions } from "./serve/proxy.ts";
export {
  BaseServer,
  type ServerInfo,
  type ServerOptions,
  type ServerState,
  type Suspension,
} from "./serve/server.ts";
export { BaseSocket } from "./sockets/base-socket.ts";
export {
  Datagram,
  type DatagramSender,
  type DatagramSink,
  DatagramSocket,
  type DatagramTransport,
} from "./sockets/datagram.ts";
export type { ConnectOptions } from "./sockets/dialling/connect.ts";
export { type SocketConnectOptions, UnconnectedSocket } from "./sockets/dialling/unconnected.ts";
// The sockets it talks to
export { Poll, poll, type Selectable, select } from "./sockets/select.ts";
export type { StreamOptions } from "./sockets/streams/stream-options.ts";
export { StreamSocket } from "./sockets/streams/stream-socket.ts";
export type { WebStream } from "./sockets/streams/web-stream.ts";
export type {
  CertificateOptions,
  ClientCertificate,
  ListenerSecurity,
  PeerCertificate,
  Pem,
  SecureTransport,
  ServerTlsOptions,
  StartTlsOptions,
  TlsInfo,
  TlsOptions,
  TlsVersion,
} from "./sockets/tls/tls.ts";
export type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
} from "./sockets/transport.ts";
export type { BlobStorage } from "./storage.ts";
