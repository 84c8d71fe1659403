/** TCP servers on real sockets: `TCPServer`, one connection at a time, and `ThreadingTCPServer`, side by side. */

import net from "node:net";
import {
  type Address,
  type AddressLike,
  type Endpoint,
  formatAddress,
  parseAddress,
} from "../core/address.ts";
import type { Datagram } from "../core/datagram.ts";
import type { HandlerClass } from "../core/handler.ts";
import { ThreadingMixIn } from "../core/mixins.ts";
import { BaseServer, type ServerOptions } from "../core/server.ts";
import { type StreamOptions, type StreamSocket, settleStream } from "../core/socket.ts";
import { addressOf, networkError, streamSocket } from "./stream-socket.ts";

/** Options of a TCP server. */
export interface TCPServerOptions<Context> extends ServerOptions<Context> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

/**
 * Serves TCP connections, one at a time. CPython's `TCPServer`.
 *
 * While one is served the next wait: accepted, but nothing is read from them, at most `requestQueueSize` of
 * them; one more is reset. (CPython leaves them in the kernel's queue, which drops what is over.) `""` as the
 * host is every IPv4 address, as Python's; port 0 lets the system choose, and `serverAddress` tells it.
 *
 *     const server = new ThreadingTCPServer("127.0.0.1:7007", Echo);
 *     await server.serveForever();
 *
 * `Request` is a `Datagram` in the classes for UDP, which extend this one as in CPython.
 */
export class TCPServer<
  Context = unknown,
  Request extends StreamSocket | Datagram = StreamSocket,
> extends BaseServer<Request, Context> {
  /** Where it was told to listen. */
  readonly endpoint: Exclude<Endpoint, { readonly scheme: "unix" }>;
  #server: net.Server | undefined;
  #address: Address | null = null;
  readonly #stream: StreamOptions;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Request, Context>,
    options: TCPServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    const endpoint = parseAddress(serverAddress);
    if (endpoint.scheme === "unix") {
      throw new TypeError(
        `${this.constructor.name} listens on a host and port, not on ${formatAddress(endpoint)}`,
      );
    }
    this.endpoint = endpoint;
    this.#stream = settleStream(options.stream);
  }

  override get serverAddress(): Address | null {
    return this.#address;
  }

  /** Binds and listens: Node does the two together. Until requests are taken, those who connect wait. */
  override async serverBind(): Promise<void> {
    const { hostname, port, scheme } = this.endpoint;
    if (scheme === "udp") throw new TypeError(`${formatAddress(this.endpoint)} is for a UDPServer`);
    const server = net.createServer({
      allowHalfOpen: true, // the peer's end is not ours
      pauseOnConnect: true, // nothing is read before a handler asks
      noDelay: true, // the writer gathers; Nagle would hold back what it sends (measured: bulk echo 0.6 times)
    });
    this.#server = server;
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => reject(networkError(error, formatAddress(this.endpoint))));
      server.listen({ host: hostname || "0.0.0.0", port, backlog: 511, exclusive: true }, resolve);
    });
    server.removeAllListeners("error");
    server.on("error", (error) => this.tell({ type: "error", server: this.name, address: null, error }));
    const at = server.address() as net.AddressInfo;
    this.#address = addressOf(at.address, at.port, at.family);
    server.on("connection", (socket) => {
      const request = streamSocket(socket, this.#stream);
      this.arrive(request as Request, request.getpeername());
    });
  }

  protected override stopListening(): void {
    this.#server?.close();
  }
}

/** Serves TCP connections side by side. CPython's `ThreadingTCPServer`; see `ThreadingMixIn`. */
export class ThreadingTCPServer<Context = unknown> extends ThreadingMixIn(TCPServer)<Context> {}
