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
import { type StreamSocket, settleStream } from "../core/socket.ts";
import { networkError, streamSocket } from "./stream-socket.ts";

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
  const said = formatAddress(endpoint);
  const { secureTransport = "off", signal, tls } = checkConnect(options);
  const stream = settleStream(options.stream);
  signal?.throwIfAborted();
  const hostname = endpoint.scheme === "unix" ? "localhost" : endpoint.hostname;
  const where =
    endpoint.scheme === "unix" ? { path: endpoint.path } : { host: endpoint.hostname, port: endpoint.port };
  const socket = net.connect({ ...where, allowHalfOpen: true, noDelay: true });
  socket.pause(); // nothing is read before somebody asks
  const opening = (async () => {
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error): void => reject(networkError(error, said));
      socket.once("error", failed);
      socket.once("connect", () => {
        socket.removeListener("error", failed);
        resolve();
      });
    });
    const opened = streamSocket(socket, stream, { hostname, tls });
    if (secureTransport === "on") await opened.startTls();
    return opened;
  })();
  return openWithin(opening, said, options, () => {
    socket.on("error", () => {}); // what it still says is of no interest
    socket.destroy();
  });
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
