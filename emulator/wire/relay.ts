/** Passes bytes between two connections, both ways, as they come: their ends, their resets and their back-pressure, too. */

import type { Lender } from "../../core/bytes/reader.ts";
import type { StreamSink, StreamTransport } from "../../core/sockets/transport.ts";
import type { Side, TranscriptEnd } from "../../core/testing/transcript/form.ts";
import { LARGE } from "../kernel/transports/seam.ts";

/** What is told of a relay. */
export interface Watch {
  /** Bytes came, lent until this returns. Gives a promise where no more should come until it is kept. */
  said(from: Side, bytes: Uint8Array): Promise<void> | undefined;
  /** That side has ended its direction, or has broken the connection. */
  ended(from: Side, end: TranscriptEnd): void;
  /** Both connections are let go. */
  over(): void;
}

const ignore = (): void => {};

/** One direction: what one side says. */
class Direction implements StreamSink {
  readonly needed = 1; // it always takes what comes
  /** Its end has been passed on, and is on its way. */
  done = false;
  #from: StreamTransport;
  #to: StreamTransport;
  readonly #side: Side;
  readonly #relay: Relay;
  #held = 0; // what it waits for before it goes on reading
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

  /** Goes on between these two. */
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
    }, ignore); // its sink is told why
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

/** Two connections of which each is passed what comes from the other. */
export class Relay {
  readonly watch: Watch | undefined;
  /** Both are let go. */
  over = false;
  #client: StreamTransport;
  #server: StreamTransport;
  readonly #asked: Direction;
  readonly #answered: Direction;

  /** Nothing has been read from either. */
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

  /** Goes on over these two, which secure the former. Both are paused, by what `Watch.said` gave. */
  goOnOver(client: StreamTransport, server: StreamTransport): void {
    this.#client = client;
    this.#server = server;
    this.#asked.goOnOver(client, server);
    this.#answered.goOnOver(server, client);
  }

  /** A direction has ended. */
  half(): void {
    if (this.over || !this.#asked.done || !this.#answered.done) return;
    this.#leave();
    for (const transport of [this.#client, this.#server]) void transport.close();
  }

  /** That side has broken the connection: the other one is told by a reset. */
  break(side: Side): void {
    if (this.over) return;
    this.watch?.ended(side, "reset");
    this.abort();
  }

  /** Ends both connections, behind what is under way. */
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

  /** Lets go of both at once. */
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
