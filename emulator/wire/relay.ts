/** Passes bytes both ways between two connections as they come, and with them each end, reset and back-pressure. */

import type { Lender } from "../../core/bytes/reader.ts";
import type { StreamSink, StreamTransport } from "../../core/sockets/transport.ts";
import type { Side, TranscriptEnd } from "../../core/testing/transcript/form.ts";
import { LARGE } from "../kernel/transports/seam.ts";

/** An observer of a relay. */
export interface Watch {
  /** Bytes came, lent until this returns. It may return a promise to stop reading until that resolves. */
  said(from: Side, bytes: Uint8Array): Promise<void> | undefined;
  /** A side ended its direction, or broke the connection. */
  ended(from: Side, end: TranscriptEnd): void;
  /** Both connections are released. */
  over(): void;
}

const ignore = (): void => {};

/** One direction of a relay. */
class Direction implements StreamSink {
  readonly needed = 1; // it takes everything that comes
  /** Whether its end has been passed on. */
  done = false;
  #from: StreamTransport;
  #to: StreamTransport;
  readonly #side: Side;
  readonly #relay: Relay;
  #held = 0; // how many promises it waits for before it reads on
  readonly #goOn = (): void => {
    if (--this.#held === 0 && !this.#relay.over) this.#from.resume();
  };

  constructor(from: StreamTransport, to: StreamTransport, side: Side, relay: Relay) {
    this.#from = from;
    this.#to = to;
    this.#side = side;
    this.#relay = relay;
  }

  begin(): void {
    this.#from.start(this);
  }

  /** Continues between these two transports. */
  goOnOver(from: StreamTransport, to: StreamTransport): void {
    this.#from = from;
    this.#to = to;
    from.start(this);
  }

  data(bytes: Uint8Array): boolean {
    if (this.#relay.over) return false;
    const noted = this.#relay.watch?.said(this.#side, bytes);
    const room = this.#to.write(bytes);
    if (room === undefined && noted === undefined) return true;
    this.#hold(room);
    this.#hold(noted);
    return false;
  }

  lend(bytes: Uint8Array, lender: Lender): boolean {
    if (bytes.length >= LARGE)
      return this.data(lender.give() ? bytes : (lender.copy?.(bytes) ?? bytes.slice()));
    if (this.#to.borrow === undefined) return this.data(bytes.slice());
    if (this.#relay.over) return false;
    const noted = this.#relay.watch?.said(this.#side, bytes);
    const room = this.#to.borrow(bytes);
    if (room === undefined && noted === undefined) return true;
    this.#hold(room);
    this.#hold(noted);
    return false;
  }

  end(): void {
    if (this.#relay.over) return;
    this.#relay.watch?.ended(this.#side, "half-close");
    this.#to.end().then(() => {
      this.done = true;
      this.#relay.half();
    }, ignore); // the sink learns why
  }

  error(): void {
    this.#relay.break(this.#side);
  }

  #hold(until: Promise<void> | undefined): void {
    if (until === undefined) return;
    if (this.#held++ === 0) this.#from.pause();
    until.then(this.#goOn, ignore); // neither rejects
  }
}

/** Joins two connections: each is sent what comes from the other. */
export class Relay {
  readonly watch: Watch | undefined;
  /** Whether both connections are released. */
  over = false;
  #client: StreamTransport;
  #server: StreamTransport;
  readonly #asked: Direction;
  readonly #answered: Direction;

  /** Nothing may have been read from either yet. */
  constructor(client: StreamTransport, server: StreamTransport, watch?: Watch) {
    this.#client = client;
    this.#server = server;
    this.watch = watch;
    this.#asked = new Direction(client, server, "client", this);
    this.#answered = new Direction(server, client, "server", this);
    this.#asked.begin();
    this.#answered.begin();
    client.resume();
    server.resume();
  }

  /** Continues over these two, which secure the former ones. Both must be paused, through the promise that `Watch.said` returned. */
  goOnOver(client: StreamTransport, server: StreamTransport): void {
    this.#client = client;
    this.#server = server;
    this.#asked.goOnOver(client, server);
    this.#answered.goOnOver(server, client);
  }

  /** Called when a direction has ended. */
  half(): void {
    if (this.over || !this.#asked.done || !this.#answered.done) return;
    this.#leave();
    for (const transport of [this.#client, this.#server]) void transport.close();
  }

  /** Called when a side has broken its connection: resets the other. */
  break(side: Side): void {
    if (this.over) return;
    this.watch?.ended(side, "reset");
    this.abort();
  }

  /** Closes both connections, after what is under way. */
  finish(): void {
    if (this.over) return;
    this.#leave();
    for (const transport of [this.#client, this.#server]) {
      transport.end().then(
        () => transport.close(),
        () => transport.abort(),
      );
    }
  }

  /** Aborts both connections. */
  abort(): void {
    if (this.over) return;
    this.#leave();
    this.#client.abort();
    this.#server.abort();
  }

  #leave(): void {
    this.over = true;
    this.watch?.over();
  }
}
