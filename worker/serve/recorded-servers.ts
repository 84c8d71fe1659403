/// <reference types="@cloudflare/workers-types" />
/** The servers of a Worker that records: `recording.Server` and `recording.DatagramServer`. */

import { waitUntil } from "cloudflare:workers";
import type { Listener } from "../../core/app/app.ts";
import type { ReplayHearer, ReplaySocket } from "../../core/control/recording/replay.ts";
import { AcceptedMixIn } from "../../core/control/sessions/accepted.ts";
import type { HandlerClass } from "../../core/handlers/handler.ts";
import { formatAddress } from "../../core/net/address.ts";
import type { ServerOptions } from "../../core/serve/server.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryTransports } from "../../core/testing/memory-streams.ts";
import { showAccepted, showFlow } from "../objects/accepted.ts";
import { hearing } from "../objects/recording.ts";
import {
  type SendDatagram,
  type UdpChunk,
  WorkerDatagramServer,
  WorkerServer,
  type WorkerServerOptions,
} from "./server.ts";

// Pure: a bundler leaves it out unless recording is asked for.
const ShownServer: typeof WorkerServer = /* @__PURE__ */ AcceptedMixIn(
  WorkerServer,
  { accepted: (served, socket, run, over) => showAccepted(hearing, served, socket, run, over) },
  (server) => (server as WorkerServer & { readonly address: string }).address,
);

/**
 * A `WorkerServer` whose connections are sessions of the control plane while somebody records or watches. A Durable Object that accepts uses
 * it in place of `WorkerServer`:
 *
 *     readonly #server = new recording.Server(Chat, { context: this });
 */
export class RecordedServer<Context = unknown> extends ShownServer<Context> {
  /** Where it listens, as its sessions say it: of an app's listener its address, else its name. */
  readonly address: string;

  /** `listener`: the one that it serves. */
  constructor(
    RequestHandlerClass: HandlerClass<StreamSocket, Context>,
    options: WorkerServerOptions<Context> = {},
    listener?: Listener,
  ) {
    super(RequestHandlerClass, options);
    this.address = listener === undefined ? this.name : formatAddress(listener.endpoint);
  }

  /** Serves a new connection in memory as if the platform had brought it; returns the client's end. */
  replayed(): StreamSocket {
    const [near, far, stream] = memoryTransports();
    waitUntil(this.serve(far));
    return new StreamSocket(near, stream);
  }
}

/** A `WorkerDatagramServer` whose flows are shown while somebody records or watches, and to which datagrams can be sent in memory. */
export class RecordedDatagramServer<Context = unknown> extends WorkerDatagramServer<Context> {
  /** Where it listens, as its flows say it: of an app's listener its address, else its name. */
  readonly address: string;

  /** `listener`: the one that it serves. */
  constructor(
    RequestHandlerClass: HandlerClass<Datagram, Context>,
    options: ServerOptions<Context> = {},
    listener?: Listener,
  ) {
    super(RequestHandlerClass, options);
    this.address = listener === undefined ? this.name : formatAddress(listener.endpoint);
  }

  protected override serve(arriving: AsyncIterable<UdpChunk>, send: SendDatagram): Promise<void> {
    const served = { handler: this.name, address: this.address };
    return showFlow(hearing, served, arriving, send, (shown, told) => super.serve(shown, told));
  }

  /** Serves a new flow in memory; returns the peer's socket. */
  replayed({ came }: ReplayHearer): ReplaySocket {
    let flow: ReadableStreamDefaultController<UdpChunk> | undefined;
    const arriving = new ReadableStream<UdpChunk>({
      start(controller) {
        flow = controller;
      },
    });
    waitUntil(this.serve(arriving, async (bytes) => came(bytes)));
    return {
      send: (data) => flow?.enqueue({ data }),
      close: () => flow?.close(),
    };
  }
}
