/** Dialling out from Node: `createConnection`, and `TCPConnector`, the dialling twin of `TCPServer`. */

import net from "node:net";
import { type AddressLike, type Endpoint, formatAddress } from "../core/address.ts";
import {
  type ConnectOptions,
  checkConnect,
  dialable,
  openWithin,
  StreamConnector,
} from "../core/connector.ts";
import { type StreamOptions, StreamSocket, type StreamTransport, settleStream } from "../core/socket.ts";
import { withDeadline } from "../core/stream.ts";
import { networkError, nodeTransport, type Origin } from "./stream-socket.ts";

/** Where a connection is to be opened: what `net.Socket.connect()` takes. */
export const placeOf = (endpoint: Endpoint): net.NetConnectOpts =>
  endpoint.scheme === "unix" ? { path: endpoint.path } : { host: endpoint.hostname, port: endpoint.port };

/**
 * Waits until `socket`, which is connecting, is connected, and where `options` say so secured; gives its transport.
 * Rejects as `createConnection()`; the socket is destroyed then.
 */
export const connectedTransport = (
  socket: net.Socket,
  endpoint: Endpoint,
  options: ConnectOptions,
  { handshakeTimeout }: StreamOptions,
  origin?: Origin,
): Promise<StreamTransport> => {
  socket.pause(); // nothing is read before somebody asks
  const said = formatAddress(endpoint);
  const hostname = endpoint.scheme === "unix" ? "localhost" : endpoint.hostname;
  const opening = (async () => {
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error): void => reject(networkError(error, said));
      socket.once("error", failed);
      socket.once("connect", () => {
        socket.removeListener("error", failed);
        resolve();
      });
    });
    const remote =
      endpoint.scheme === "unix" ? ({ family: "unix", path: endpoint.path } as const) : undefined;
    const transport = nodeTransport(socket, { ...origin, dialled: { hostname, tls: options.tls }, remote });
    if (options.secureTransport !== "on") return transport;
    const secured = transport.startTls?.({}) as Promise<StreamTransport>;
    return withDeadline(secured, handshakeTimeout, "the TLS handshake was not done");
  })();
  return openWithin(opening, said, options, () => {
    socket.on("error", () => {}); // what it still says is of no interest
    socket.destroy();
  });
};

/**
 * Opens a connection to `tcp://host:port` or `unix:/path`. CPython's `socket.create_connection`.
 *
 * Rejects with `ECONNREFUSED`, `ETIMEDOUT` (after `connectTimeout` ms), `EHOSTUNREACH`, `ENETUNREACH`, `ENOENT` (a
 * path), `ERR_NAME`, `ERR_TLS` (with `secureTransport: "on"`), or the signal's reason.
 */
export const createConnection = async (
  address: AddressLike,
  options: ConnectOptions = {},
): Promise<StreamSocket> => {
  const endpoint = dialable(address);
  checkConnect(options);
  const stream = settleStream(options.stream);
  options.signal?.throwIfAborted();
  const socket = net.connect({ ...placeOf(endpoint), allowHalfOpen: true, noDelay: true });
  return new StreamSocket(await connectedTransport(socket, endpoint, options, stream), stream);
};

/**
 * Dials one address and runs a handler on the connection, as a server runs it on one it accepted.
 *
 *     const reply = await new TCPConnector("127.0.0.1:6379", RespClient).run({ params: ["PING"] });
 */
export class TCPConnector<Context = unknown> extends StreamConnector<Context> {
  protected override createConnection(endpoint: Endpoint, options: ConnectOptions): Promise<StreamSocket> {
    return createConnection(endpoint, options);
  }
}
