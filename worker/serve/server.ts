/// <reference types="@cloudflare/workers-types" />
/**
 * The inbound door: the platform accepts, and passes each connection to a `connect(socket)` handler.
 */

import { copyOf, type Data, toBytes } from "../../core/bytes/data.ts";
import { SocketError } from "../../core/errors.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import type { Address } from "../../core/net/address.ts";
import { type OptionNames, optionNamesOf } from "../../core/options.ts";
import { datagramOf, requestOf } from "../../core/serve/proxy.ts";
import { type DatagramWay, ServedDatagram } from "../../core/serve/requests.ts";
import { BaseServer, SERVER_NAMES, type ServerOptions, type Suspension } from "../../core/serve/server.ts";
import { checkDatagramSize, type Datagram, Unsent } from "../../core/sockets/datagram.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../../core/sockets/streams/stream-options.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import type { PlatformContext, PlatformSocket } from "../platform.ts";
import { openTransport } from "../sockets/stream-socket.ts";

/** Options of a Worker's server. */
export interface WorkerServerOptions<Context> extends ServerOptions<Context> {
  /** Limits and times of each connection. */
  readonly stream?: Partial<StreamOptions>;
}

const WORKER_SERVER_NAMES = optionNamesOf<WorkerServerOptions<unknown>>()({
  ...SERVER_NAMES,
  stream: STREAM_NAMES,
});

// The platform cancels a request that waits for another one, so no client can be made to wait its turn.
const REFUSES = "a Worker cannot make one request wait for another";

/** The options of a server that refuses clients over its limits. */
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
 * Each connection is served in the request that brought it, concurrently, at most `maxRequests` at once in this isolate.
 * One more is refused, because a Worker cannot make one request wait for another. The platform listens (`[[connect]]`),
 * so there is nothing to bind, and no address.
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
    this.#stream = settleStream(options.stream, "stream.");
  }

  protected override get capacity(): number {
    return this.maxRequests;
  }

  override get serverAddress(): Address | null {
    return null;
  }

  /**
   * Serves one connection; resolves when it is over. The platform cuts a connection when the promise of its `connect()`
   * settles, so return this one. It also ends a handler whose caller has gone, unless you pass `ctx` (a Worker's third
   * argument); then the handler may finish its work after its peer's end. Rejects only if the socket cannot be opened.
   */
  async connect(socket: PlatformSocket, ctx?: PlatformContext): Promise<void> {
    return this.serve(await openTransport(socket), ctx);
  }

  /** Serves one connection that is open; resolves when it is over. */
  protected async serve(transport: StreamTransport, ctx?: PlatformContext): Promise<void> {
    const entered =
      this.proxyDoor === null || this.#shut ? "direct" : this.proxyDoor.enter(transport, "unknown");
    const passage = entered === "direct" ? null : await entered;
    if (passage === null && entered !== "direct") return;
    const request = requestOf(transport, this.#stream, passage);
    const peer = passage === null ? request.getpeername() : passage.address;
    const refusal = this.#shut ? "closing" : this.admit(peer);
    if (refusal !== null) {
      this.refuse(request, peer, refusal);
      return;
    }
    const serving = this.verifyAndProcess(request, peer);
    if (serving !== undefined) ctx?.waitUntil(serving);
    await serving;
  }

  /** Refuses what the platform brings to this server from now on. Another isolate has its own server. */
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

// The runtime has this only with the flag `experimental`, and its stable types do not have it: one socket for each
// peer, whose readable and writable carry datagrams.
export interface UdpChunk {
  readonly data: Uint8Array;
}
const runtime = globalThis as { readonly Datagram?: new (data: Uint8Array) => UdpChunk };

/** Whether this socket carries datagrams. */
export const isDatagramSocket = (socket: PlatformSocket): boolean =>
  (socket as { readonly protocol?: string }).protocol === "udp";

/** Sends one datagram; rejects if it cannot be sent. */
export type SendDatagram = (bytes: Uint8Array) => Promise<void>;

/** The way back to the peer of one flow. The platform knows the peer's address, but does not report it. */
class Flow implements DatagramWay {
  readonly #write: SendDatagram;
  readonly #failed: (error: unknown) => void;
  readonly #dropped: (size: number) => void;
  readonly #unsent = new Unsent();

  constructor(write: SendDatagram, failed: (error: unknown) => void, dropped: (size: number) => void) {
    this.#write = write;
    this.#failed = failed;
    this.#dropped = dropped;
  }

  post(data: Data): number {
    const bytes = copyOf(toBytes(data)); // it may wait, and the caller's can change meanwhile
    const size = bytes.length;
    checkDatagramSize(size); // a larger one is an internal error of workerd, and ends the flow
    if (!this.#unsent.fits(size)) {
      this.#dropped(size);
      return 0;
    }
    const sent = this.#write(bytes);
    this.#unsent.add(size);
    void sent.catch(this.#failed).then(() => this.#unsent.remove(size));
    return size;
  }
}

/**
 * Serves the datagrams that the platform brings (`[[connect]]` with `protocol = "udp"`, in local development, with the
 * compatibility flag `experimental`): one handler for each datagram, side by side. The platform opens a flow for each
 * peer, and ends it when the peer has been silent. It does not report the peer's address, so `clientAddress` is `null`.
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
    socket.closed.catch(() => {});
    const writer = socket.writable.getWriter();
    return this.serve(socket.readable, (bytes) => {
      if (runtime.Datagram !== undefined) return writer.write(new runtime.Datagram(bytes));
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "this runtime has no datagrams; it needs the compatibility flag experimental",
      );
    });
  }

  /** Serves the datagrams of one flow, until no more come. Never rejects. */
  protected async serve(arriving: AsyncIterable<UdpChunk>, send: SendDatagram): Promise<void> {
    const failed = (error: unknown): void =>
      this.announce({ type: "error", server: this.name, address: null, error });
    const dropped = (bytes: number): void =>
      this.announce({ type: "dropped", server: this.name, address: null, bytes, reason: "full" });
    const flow = new Flow(send, failed, dropped);
    const served: unknown[] = [];
    try {
      for await (const { data } of arriving) {
        const entered = this.proxyDoor === null ? "direct" : this.proxyDoor.receive(data, null, "unknown");
        if (entered === null) continue;
        const proxied = entered === "direct" ? null : datagramOf(entered, (reply) => flow.post(reply));
        const request = proxied ?? new ServedDatagram(data, null, flow);
        const peer = request.address;
        const refusal = this.admit(peer);
        if (refusal !== null) this.refuse(request, peer, refusal);
        else served.push(this.verifyAndProcess(request, peer));
        if (served.length >= 64) await Promise.all(served.splice(0)); // bounded: the platform queues the rest, and drops the excess
      }
    } catch (error) {
      failed(error);
    }
    await Promise.all(served); // the flow ends when this returns; workerd has not implemented its socket's close()
  }

  /** `"refuse"` alone: `"hold"` throws `ERR_UNSUPPORTED`. */
  override suspend(how: Suspension): void {
    checkSuspension(how);
    super.suspend(how);
  }
}
