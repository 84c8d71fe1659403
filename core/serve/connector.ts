/** Connectors: `BaseConnector`, the counterpart of a server, and `StreamConnector`, which dials streams. */

import { DONE } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import { checkKind, type HandlerClass } from "../handlers/handler.ts";
import type { StateKeeper } from "../handlers/keep.ts";
import type { Address, AddressLike, Endpoint } from "../net/address.ts";
import { checkOptions, type OptionNames, optionNamesOf } from "../options.ts";
import {
  type ConnectOptions,
  checkConnecting,
  dialable,
  secureTransportOf,
} from "../sockets/dialling/connect.ts";
import { STREAM_NAMES, settleStream } from "../sockets/streams/stream-options.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { TLS_NAMES } from "../sockets/tls/tls.ts";
import { BaseEndpoint, ENDPOINT_NAMES, type EndpointOptions } from "./endpoint.ts";

/** Options of a connector's `run()`. */
export interface RunOptions<Request = unknown, Params = unknown> {
  /** What the handler gets as `this.params`. The handler's class says its type. */
  readonly params?: Params;
  /** Aborts the dialling, then the handler. */
  readonly signal?: AbortSignal;
  /** Keeps the handler's state. Default: only the handler has it. */
  readonly keeper?: StateKeeper | undefined;
  /** Called when the connection is open, just before the handler is made. `run()` rejects with what it throws. */
  onOpen?(request: Request): void;
}

const RUN_NAMES = optionNamesOf<RunOptions>()({
  params: true,
  signal: "signal",
  keeper: true,
  onOpen: "function",
});

/**
 * Dials, and runs a handler on the connection: the counterpart of a server, so that a handler cannot tell who opened
 * its connection (Schmidt's Acceptor-Connector).
 */
export abstract class BaseConnector<Request, Context = unknown, Params = unknown> extends BaseEndpoint<
  Request,
  Context
> {
  #stopped = false;

  constructor(
    RequestHandlerClass: HandlerClass<Request, Context, Params>,
    options: EndpointOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
  }

  /** Opens a connection. Rejects with the reason if it cannot; `signal` aborts it. */
  abstract connect(signal?: AbortSignal): Promise<Request>;

  /** The address of a connection's other end. */
  abstract peerOf(request: Request): Address | null;

  /**
   * Dials, runs one handler to its end, closes the connection, and resolves to what `handle` returned. Rejects with the error of the
   * dial or of the handler, or with the reason why some output was not sent.
   */
  async run(options: RunOptions<Request, Params> = {}): Promise<unknown> {
    checkOptions("run()", options, RUN_NAMES);
    const { signal } = options;
    if (this.#stopped) throw new SocketError("EBADF", "this connector was shut down; make a new one");
    signal?.throwIfAborted();
    const request = await this.connect(signal);
    const address = this.peerOf(request);
    const running = this.begin(request, address, options.params, options.keeper);
    const abort = (): void => this.cancelOne(request, running, signal?.reason);
    let failed = true;
    try {
      signal?.addEventListener("abort", abort, { once: true });
      if (signal?.aborted) abort();
      const result = await this.#finish(request, address, options);
      await this.shutdownRequest(request);
      if (request instanceof StreamSocket && request.lost !== null) throw request.lost;
      failed = false;
      return result;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.end(request, running, failed);
    }
  }

  /** `finishRequest`. If it fails, the connection is closed, and the failure is thrown. */
  async #finish(
    request: Request,
    address: Address | null,
    options: RunOptions<Request, Params>,
  ): Promise<unknown> {
    try {
      options.onOpen?.(request);
      return await this.runRequest(request, address);
    } catch (error) {
      try {
        await this.shutdownRequest(request);
      } catch {
        // what the handler threw says more
      }
      throw error;
    }
  }

  /** Further calls of `run()` are refused. */
  override shutdown(): Promise<void> {
    this.#stopped = true;
    return DONE;
  }
}

/** Options of a connector of streams. */
export interface StreamConnectorOptions<Context>
  extends EndpointOptions<Context>,
    Omit<ConnectOptions, "signal"> {}

export const STREAM_CONNECTOR_NAMES = optionNamesOf<StreamConnectorOptions<unknown>>()({
  ...ENDPOINT_NAMES,
  connectTimeout: true,
  secureTransport: true,
  tls: TLS_NAMES,
  proxyHeader: true,
  stream: STREAM_NAMES,
});

/** Dials one address and runs a handler on the connection. A platform adds `createConnection`. */
export abstract class StreamConnector<Context = unknown, Params = unknown> extends BaseConnector<
  StreamSocket,
  Context,
  Params
> {
  static override readonly optionNames: OptionNames = STREAM_CONNECTOR_NAMES;

  /** The address that it dials. */
  readonly endpoint: Endpoint;
  readonly #options: Omit<ConnectOptions, "signal">;

  constructor(
    address: AddressLike,
    RequestHandlerClass: HandlerClass<StreamSocket, Context, Params>,
    options: StreamConnectorOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    checkKind(RequestHandlerClass, "streams", this.constructor.name);
    this.endpoint = dialable(address);
    checkConnecting(options);
    const { connectTimeout, tls = {}, proxyHeader, stream } = options;
    const secureTransport = secureTransportOf(this.endpoint, options);
    this.#options = {
      connectTimeout,
      secureTransport,
      ...(secureTransport !== "off" && { tls }),
      proxyHeader,
      stream: settleStream(stream, "stream."),
    };
  }

  /** Opens one connection to `endpoint`. */
  protected abstract createConnection(endpoint: Endpoint, options: ConnectOptions): Promise<StreamSocket>;

  override connect(signal?: AbortSignal): Promise<StreamSocket> {
    return this.createConnection(this.endpoint, { ...this.#options, signal });
  }

  override peerOf(request: StreamSocket): Address | null {
    return request.getpeername();
  }
}
