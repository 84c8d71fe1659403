/// <reference types="@cloudflare/workers-types" />
/** The servers of a Worker that records: `recording.Server` and `recording.DatagramServer`. */

import { waitUntil } from "cloudflare:workers";
import type { ReplayHearer, ReplaySocket } from "../../core/control/recording/replay.ts";
import { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryTransports } from "../../core/testing/memory-streams.ts";
import { type UdpChunk, WorkerDatagramServer, WorkerServer } from "./server.ts";

/** A `WorkerServer` to which a connection can be made in memory. */
export class RecordedServer<Context = unknown> extends WorkerServer<Context> {
  /** Serves a new connection in memory, as one that the platform brings; gives its client's end. */
  replayed(): StreamSocket {
    const [near, far, stream] = memoryTransports();
    waitUntil(this.serve(far));
    return new StreamSocket(near, stream);
  }
}

/** A `WorkerDatagramServer` to which datagrams can be sent in memory. */
export class RecordedDatagramServer<Context = unknown> extends WorkerDatagramServer<Context> {
  /** Serves a new flow in memory; gives its peer's socket. */
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
