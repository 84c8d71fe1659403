/// <reference types="@cloudflare/workers-types" />
/**
 * The inbound door: the platform accepts, and gives each connection to a `connect(socket)` handler.
 */

import type { Address } from "../core/address.ts";
import type { HandlerClass } from "../core/handler.ts";
import { BaseServer, type ServerOptions } from "../core/server.ts";
import type { StreamOptions, StreamSocket } from "../core/socket.ts";
import { streamSocket } from "./stream-socket.ts";

/** Options of a Worker's server. */
export interface WorkerServerOptions<Context> extends ServerOptions<Context> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

/**
 * Serves the connections that the platform brings, in a Worker or on a Durable Object:
 *
 *     export class Room extends DurableObject {
 *       readonly #server = new WorkerServer(ChatHandler, { context: this });
 *       connect(socket: Socket) { return this.#server.connect(socket); }
 *     }
 *
 * Each is served in the request that brought it, side by side: a Worker cannot make one request wait for
 * another. It listens where the platform says (`[[connect]]`), so there is nothing to bind, and no address.
 */
export class WorkerServer<Context = unknown> extends BaseServer<StreamSocket, Context> {
  readonly #stream: Partial<StreamOptions>;

  constructor(
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: WorkerServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, options);
    this.#stream = options.stream ?? {};
  }

  override get serverAddress(): Address | null {
    return null;
  }

  /**
   * Serves one connection; resolves when it is over. The platform cuts a connection when the promise of its
   * handler settles, so give it this one; and it ends a handler whose caller has gone, unless `ctx` (a Worker's
   * third argument) is given, so that what a handler does after its peer's end is done. Rejects only where the
   * socket cannot be opened.
   */
  async connect(socket: Socket, ctx?: Pick<ExecutionContext, "waitUntil">): Promise<void> {
    const request = await streamSocket(socket, this.#stream);
    const serving = this.verifyAndProcess(request, request.getpeername());
    if (serving !== undefined) ctx?.waitUntil(serving);
    await serving;
  }
}
