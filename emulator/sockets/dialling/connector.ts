/** Dialling out from Node: `createConnection`, and `TCPConnector`, the dialling twin of `TCPServer`. */

import type net from "node:net";
import { withDeadline } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import type { HandlerClass } from "../../../core/handlers/handler.ts";
import { type Address, type AddressLike, type Endpoint, formatAddress } from "../../../core/net/address.ts";
import {
  type RunOptions,
  StreamConnector,
  type StreamConnectorOptions,
} from "../../../core/serve/connector.ts";
import {
  CONNECT_NAMES,
  type ConnectOptions,
  checkConnect,
  dialable,
  openWithin,
  secureTransportOf,
} from "../../../core/sockets/dialling/connect.ts";
import { settleStream } from "../../../core/sockets/streams/stream-options.ts";
import { StreamSocket } from "../../../core/sockets/streams/stream-socket.ts";
import { networkError } from "../../kernel/addresses.ts";
import { checkedPath } from "../../kernel/descriptors/sockaddr.ts";
import { unconnected } from "../../kernel/handles/intake.ts";
import { ownSockets } from "../../kernel/runtimes/chosen-sockets.ts";
import type { LastSession } from "../../kernel/tls/tls.ts";
import { connects, requests, type TracedRequest, traced } from "../../kernel/tracing.ts";
import { NodeTransport } from "../../kernel/transports/net-transport.ts";
import type { Connection, Origin } from "../../kernel/transports/seam.ts";
import { zoned } from "../names/names.ts";
import { edgeHolds, heldRequest, type RequestAtEdge } from "./edge.ts";
import { asShared, currentRequest, transportClass } from "./ownership.ts";

/** A socket to dial with, if not a new one. */
interface Dialling extends Omit<Origin, "dialled" | "remote"> {
  /** Neither connected nor connecting, with `allowHalfOpen`. */
  readonly socket?: net.Socket;
  /** 4 or 6: use only a name's addresses of this version. By default those of both are tried (RFC 8305). */
  readonly version?: number;
  /** The TLS session to resume, for a connector that dials more than once. */
  readonly last?: LastSession | undefined;
}

/** Opens a connection, secures it if `options` say so, and resolves to its transport. Rejects as `createConnection()`, and then the socket is destroyed. */
export const dial = (
  endpoint: Endpoint,
  options: ConnectOptions,
  dialling: Dialling = {},
): Promise<Connection> => {
  const held = edgeHolds() ? heldRequest(currentRequest()) : undefined;
  if (held === undefined && !connects.hasSubscribers) return dialOne(endpoint, options, dialling);
  const open = (): Promise<Connection> =>
    held === undefined
      ? dialOne(endpoint, options, dialling)
      : dialAsAtEdge(held, endpoint, options, dialling);
  if (!connects.hasSubscribers) return open();
  return traced(
    connects,
    { address: formatAddress({ ...endpoint, scheme: endpoint.scheme ?? "tcp" } as Endpoint) },
    open,
  );
};

/** The same for a request that is held to the rules of Cloudflare's edge: its place is free again when the connection is over. */
const dialAsAtEdge = async (
  held: RequestAtEdge,
  endpoint: Endpoint,
  options: ConnectOptions,
  dialling: Dialling,
): Promise<Connection> => {
  const leave = await held.enter(endpoint, options);
  try {
    const open = (): Promise<Connection> => dialOne(endpoint, options, dialling);
    const transport = await (held.rules.holds("other-request") ? open() : asShared(open));
    const { holder } = transport;
    if (holder.fd === null) leave();
    else holder.onClose?.(leave);
    return transport;
  } catch (error) {
    leave();
    throw error;
  }
};

const dialOne = (
  endpoint: Endpoint,
  options: ConnectOptions,
  { socket = unconnected({ allowHalfOpen: true, noDelay: true }), version, last, ...origin }: Dialling,
): Promise<Connection> => {
  const said = formatAddress(endpoint);
  socket.pause(); // nothing is read until a caller asks
  const opening = (async () => {
    if (endpoint.scheme === "unix") checkedPath(endpoint.path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) => reject(networkError(error, said)));
      socket.once("close", () => reject(new SocketError("ECANCELED")));
      if (endpoint.scheme === "unix") socket.connect({ path: endpoint.path });
      else {
        const one = version === undefined ? {} : { family: version, autoSelectFamily: false };
        socket.connect({ host: zoned(endpoint.hostname, said), port: endpoint.port, ...one });
      }
    });
    for (const event of ["connect", "error", "close"]) socket.removeAllListeners(event);
    const hostname = endpoint.scheme === "unix" ? "localhost" : endpoint.hostname;
    const remote =
      endpoint.scheme === "unix" ? ({ family: "unix", path: endpoint.path } as const) : undefined;
    const { proxyHeader } = options;
    if (proxyHeader !== undefined) {
      await new Promise<void>((resolve, reject) => {
        socket.once("error", reject);
        socket.write(proxyHeader, (error) => (error ? reject(networkError(error, said)) : resolve()));
      });
      socket.removeAllListeners("error");
    }
    const known = { ...origin, remote, dialled: { hostname, tls: options.tls, last } };
    const Transport = transportClass();
    const secure = secureTransportOf(endpoint, options);
    if (ownSockets !== null && secure === "off" && Transport === NodeTransport) {
      const own = (await ownSockets()).over?.(socket)?.from(known);
      if (own !== undefined) return own;
    }
    const transport = new Transport(socket, known);
    if (secure !== "on") return transport;
    const secured = transport.startTls({});
    const { handshakeTimeout } = settleStream(options.stream, "stream.");
    return withDeadline(secured, handshakeTimeout, "the TLS handshake was not done");
  })();
  return openWithin(opening, said, options, () => {
    socket.on("error", () => {}); // further errors do not matter
    socket.destroy();
  });
};

/**
 * Opens a connection to `tcp://host:port` or `unix:/path`. CPython's `socket.create_connection`.
 *
 * Rejects with `EINVAL` (a path that is too long), `ECONNREFUSED`, `ETIMEDOUT` (after `connectTimeout` ms), `EHOSTUNREACH`, `ENETUNREACH`, `ENOENT` (a
 * path), `ERR_NAME`, `ERR_TLS` (with `secureTransport: "on"`), or the signal's reason.
 */
export const createConnection = async (
  address: AddressLike,
  options: ConnectOptions = {},
): Promise<StreamSocket> => {
  const endpoint = dialable(address);
  checkConnect("createConnection()", options, CONNECT_NAMES);
  const stream = settleStream(options.stream, "stream.");
  options.signal?.throwIfAborted();
  return new StreamSocket(await dial(endpoint, options), stream);
};

/**
 * Dials one address and runs a handler on the connection, as a server runs it on one it accepted.
 *
 *     const reply = await new TCPConnector("127.0.0.1:6379", RespClient).run({ params: ["PING"] });
 *
 * With TLS it resumes the session of its last connection, if the server allows that.
 */
export class TCPConnector<Context = unknown, Params = unknown> extends StreamConnector<Context, Params> {
  readonly #last: LastSession = {};

  protected override runRequest(request: StreamSocket, address: Address | null): unknown {
    if (!requests.hasSubscribers) return super.runRequest(request, address);
    const { id } = this.scope(request);
    const context: TracedRequest = {
      server: this.name,
      role: "client",
      id,
      address,
      local: request.getsockname(),
      request,
    };
    return traced(requests, context, () => super.runRequest(request, address));
  }

  protected override async createConnection(
    endpoint: Endpoint,
    options: ConnectOptions,
  ): Promise<StreamSocket> {
    options.signal?.throwIfAborted();
    return new StreamSocket(await dial(endpoint, options, { last: this.#last }), options.stream);
  }
}

/** The connector of a pool: its connections belong to no request. */
export class PooledConnector<Context = unknown, Params = unknown> extends TCPConnector<Context, Params> {
  override run(options?: RunOptions<StreamSocket, Params>): Promise<unknown> {
    return asShared(() => super.run(options));
  }
}

/** `TCPConnector` for a path, `"unix:/run/echo"` or `{ path }`: the dialling twin of `UnixStreamServer`. With TLS the certificate must be for `localhost`, or for `tls.serverName`. Any other address is a `TypeError`. */
export class UnixStreamConnector<Context = unknown, Params = unknown> extends TCPConnector<Context, Params> {
  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context, Params>,
    options: StreamConnectorOptions<Context> = {},
  ) {
    super(address, RequestHandlerClass, options);
    if (this.endpoint.scheme === "unix") return;
    const said = formatAddress(this.endpoint);
    throw new TypeError(`a UnixStreamConnector dials a path, unix:/run/name; ${said} is for a TCPConnector`);
  }
}
