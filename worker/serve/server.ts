/// <reference types="@cloudflare/workers-types" />
/**
 * The inbound door: the platform accepts, and gives each connection to a `connect(socket)` handler.
 */

import { type Data, toBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { Address } from "../../core/net/address.ts";
import { type OptionNames, optionNamesOf } from "../../core/options.ts";
import type { HandlerClass } from "../../core/serve/handler.ts";
import { type DatagramWay, ServedDatagram } from "../../core/serve/requests.ts";
import { BaseServer, SERVER_NAMES, type ServerOptions, type Suspension } from "../../core/serve/server.ts";
import { checkDatagramSize, type Datagram } from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../../core/sockets/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/stream-socket.ts";
import type { PlatformContext, PlatformSocket } from "../platform.ts";
import { streamSocket } from "../sockets/stream-socket.ts";

/** Options of a Worker's server. */
export interface WorkerServerOptions<Context> extends ServerOptions<Context> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

const WORKER_SERVER_NAMES = optionNamesOf<WorkerServerOptions<unknown>>()({
  ...SERVER_NAMES,
  stream: STREAM_NAMES,
});

// The platform cancels a request that waits for what another one does, so nobody can be made to wait his turn.
const REFUSES = "a Worker cannot make one request wait for another";

/** The options of a server that refuses who is too many. */
const refusing = <Context>(options: ServerOptions<Context>): ServerOptions<Context> => {
  if (options.whenFull === "wait") {
    throw new SocketError("ERR_UNSUPPORTED", `${REFUSES}; leave whenFull out, or say "refuse"`);
  }
  return { ...options, whenFull: "refuse" };
};

const checkSuspension = (how: Suspension): void => {
  if (how === "hold")
    throw new SocketError("ERR_UNSUPPORTED", `${REFUSES}; suspend("refuse") turns them away`);
};

/**
 * Serves the connections that the platform brings, in a Worker or on a Durable Object:
 *
 *     export class Room extends DurableObject {
 *       readonly #server = new WorkerServer(ChatHandler, { context: this });
 *       connect(socket: Socket) { return this.#server.connect(socket); }
 *     }
 *
 * Each is served in the request that brought it, side by side, `maxRequests` of them at once in this isolate: a
 * Worker cannot make one request wait for another, so one more is refused. It listens where the platform says (`[[connect]]`), so there is nothing to bind, and no address.
 */
export class WorkerServer<Context = unknown> extends BaseServer<StreamSocket, Context> {
  static override readonly optionNames: OptionNames = WORKER_SERVER_NAMES;

  readonly #stream: StreamOptions;
  #shut = false;

  constructor(
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: WorkerServerOptions<Context> = {},
  ) {
    super(RequestHandlerClass, refusing(options));
    this.#stream = settleStream(options.stream);
  }

  protected override get capacity(): number {
    return this.maxRequests;
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
  async connect(socket: PlatformSocket, ctx?: PlatformContext): Promise<void> {
    const request = await streamSocket(socket, this.#stream);
    const peer = request.getpeername();
    const refusal = this.#shut ? "closing" : this.admit(peer);
    if (refusal !== null) {
      this.refuse(request, peer, refusal);
      return;
    }
    const serving = this.verifyAndProcess(request, peer);
    if (serving !== undefined) ctx?.waitUntil(serving);
    await serving;
  }

  /** Turns away what the platform brings from now on, to this object: another isolate has a server of its own. */
  override shutdown(): Promise<void> {
    this.#shut = true;
    return super.shutdown();
  }

  /** `"refuse"` alone: `"hold"` throws `ERR_UNSUPPORTED`. */
  override suspend(how: Suspension): void {
    checkSuspension(how);
    super.suspend(how);
  }
}

// What the runtime has with the flag `experimental` alone, and its stable types not at all: one socket for each peer,
// whose readable and writable carry datagrams.
interface UdpChunk {
  readonly data: Uint8Array;
}
const runtime = globalThis as { readonly Datagram?: new (data: Uint8Array) => UdpChunk };

/** Whether the platform brings datagrams by this socket. */
export const isDatagramSocket = (socket: PlatformSocket): boolean =>
  (socket as { readonly protocol?: string }).protocol === "udp";

/** The way back on one flow: the platform knows its peer, and does not tell. */
class Flow implements DatagramWay {
  readonly #writer: WritableStreamDefaultWriter;
  readonly #failed: (error: unknown) => void;

  constructor(writer: WritableStreamDefaultWriter, failed: (error: unknown) => void) {
    this.#writer = writer;
    this.#failed = failed;
  }

  post(data: Data): number {
    const bytes = toBytes(data);
    checkDatagramSize(bytes.length); // a larger one is an internal error of workerd, and ends the flow
    if (runtime.Datagram === undefined) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "this runtime has no datagrams; it needs the compatibility flag experimental",
      );
    }
    this.#writer.write(new runtime.Datagram(bytes)).catch(this.#failed);
    return bytes.length;
  }
}

/**
 * Serves the datagrams that the platform brings (`[[connect]]` with `protocol = "udp"`; local, with the
 * compatibility flag `experimental`): one handler a datagram, side by side. The platform opens a flow for each peer
 * and ends it when it has been silent; it does not tell who the peer is, so `clientAddress` is `null`.
 */
export class WorkerDatagramServer<Context = unknown> extends BaseServer<Datagram, Context> {
  constructor(RequestHandlerClass: HandlerClass<Datagram, Context>, options: ServerOptions<Context> = {}) {
    super(RequestHandlerClass, refusing(options));
  }

  protected override get capacity(): number {
    return this.maxRequests;
  }

  override get serverAddress(): Address | null {
    return null;
  }

  /** Serves one flow to its end. Never rejects. */
  async connect(socket: PlatformSocket): Promise<void> {
    const failed = (error: unknown): void =>
      this.announce({ type: "error", server: this.name, address: null, error });
    const flow = new Flow(socket.writable.getWriter(), failed);
    socket.closed.catch(() => {});
    const served: unknown[] = [];
    try {
      for await (const { data } of socket.readable as ReadableStream<UdpChunk>) {
        const request = new ServedDatagram(data, null, flow);
        const refusal = this.admit(null);
        if (refusal !== null) this.refuse(request, null, refusal);
        else served.push(this.verifyAndProcess(request, null));
        if (served.length >= 64) await Promise.all(served.splice(0)); // bounded: the platform keeps the rest, and drops
      }
    } catch (error) {
      failed(error);
    }
    await Promise.all(served); // the flow ends when this returns; its socket's close() is not made yet
  }

  /** `"refuse"` alone: `"hold"` throws `ERR_UNSUPPORTED`. */
  override suspend(how: Suspension): void {
    checkSuspension(how);
    super.suspend(how);
  }
}
