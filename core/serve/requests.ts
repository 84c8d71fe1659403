/** The running requests of a server or a connector: what is known about each, and how many bytes it carried. */

import type { Data } from "../bytes/data.ts";
import type { SockletEvent } from "../handlers/events.ts";
import type { RequestScope } from "../handlers/handler.ts";
import type { StateKeeper } from "../handlers/keep.ts";
import type { Address } from "../net/address.ts";
import { disown } from "../promises.ts";
import { Datagram, type DatagramSender } from "../sockets/datagram.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";

export const ABORT_GRACE = 1_000; // ms that an aborted handler has to end, before it is reported as stuck

/** A datagram that a server received. It counts the bytes of its replies. */
export class ServedDatagram extends Datagram {
  /** Bytes that were sent back. */
  bytesWritten = 0;
  readonly #way: DatagramWay;

  constructor(data: Uint8Array, address: Address | null, way: DatagramWay, truncated = false) {
    super(data, address, way, truncated);
    this.#way = way;
  }

  get bytesRead(): number {
    return this.data.length;
  }

  override reply(data: Data): void {
    this.bytesWritten += this.#way.post(data, this.address);
  }
}

/** How a server replies to a datagram. `post` returns how many bytes it sent, or 0 if it dropped the reply. */
export interface DatagramWay extends DatagramSender {
  post(data: Data, address: Address | null): number;
}

interface Counts {
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

const NO_BYTES: Counts = { bytesRead: 0, bytesWritten: 0 };

/** How many bytes of a request were read and written; 0 for a kind of request that does not count them. */
export const bytesOf = (request: unknown): Counts =>
  request instanceof StreamSocket || request instanceof ServedDatagram ? request : NO_BYTES;

/** Why some output did not reach the peer, although the handler ended well; `null` if all of it did. */
export const cutBy = (request: unknown, running: Running): unknown =>
  request instanceof StreamSocket ? (request.lost ?? running.reason) : null;

/** How the requests of one server or connector emit their events. */
export interface Teller {
  readonly server: string;
  readonly tell: (event: SockletEvent) => void;
}

/** One running request. */
export class Running implements RequestScope {
  readonly id: number;
  readonly address: Address | null;
  readonly params: unknown;
  readonly keeper: StateKeeper | undefined;
  readonly started = performance.now();
  /** Ends the checks of its time limits; see `time-limits.ts`. */
  stopTimer: (() => void) | undefined;
  readonly #teller: Teller;
  #controller: AbortController | undefined;

  constructor(id: number, address: Address | null, params: unknown, teller: Teller, keeper?: StateKeeper) {
    this.id = id;
    this.address = address;
    this.params = params;
    this.keeper = keeper;
    this.#teller = teller;
  }

  /** Why it was aborted; `null` if it was not. */
  get reason(): unknown {
    return this.#controller?.signal.aborted ? this.#controller.signal.reason : null;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  emit(detail: unknown): void {
    const { id, address } = this;
    const { server, tell } = this.#teller;
    disown(detail, (error) => tell({ type: "error", server, id, address, error }));
    tell({ type: "handler", server, id, address, detail });
  }

  abort(reason: unknown): void {
    this.#controller ??= new AbortController(); // a handler that asks for its signal later finds it aborted
    this.#controller.abort(reason);
  }
}

/**
 * The requests that run. The last one that began is beside the map: a datagram whose handler does not wait is over
 * before the next begins, and so costs no entry there.
 */
export class Requests<Request> {
  readonly #map = new Map<Request, Running>();
  #last: Request | undefined;
  #running: Running | undefined; // of #last

  get size(): number {
    return this.#map.size + (this.#running === undefined ? 0 : 1);
  }

  get(request: Request): Running | undefined {
    return request === this.#last ? this.#running : this.#map.get(request);
  }

  set(request: Request, running: Running): void {
    this.all();
    this.#last = request;
    this.#running = running;
  }

  delete(request: Request): void {
    if (request !== this.#last) {
      this.#map.delete(request);
      return;
    }
    this.#last = undefined;
    this.#running = undefined;
  }

  /** All of them, in the order that they began. */
  all(): Map<Request, Running> {
    if (this.#running !== undefined) {
      this.#map.set(this.#last as Request, this.#running);
      this.#last = undefined;
      this.#running = undefined;
    }
    return this.#map;
  }
}
