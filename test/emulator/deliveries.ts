/**
 * The property of delivery, for every place: what the peer has is a prefix of what was written, and everything unless an
 * event, or a session's record, says otherwise. A place says how a handler and a peer meet; all else is here.
 */

import { once } from "node:events";
import net from "node:net";
import type { SocketError, StreamSocket } from "socklet";
import { controlClient } from "socklet/control";
import { expect } from "vitest";
import { type Step, sizeOf } from "../conformance/delivery.ts";
import { patternAt } from "../conformance/pattern.ts";
import { fc } from "../conformance/properties.ts";
import type { Told } from "../core/told.ts";

export const SIZE = 15_000_000; // bytes: several times what two kernels hold

/** The most that a handler writes. */
export const written = patternAt(0, SIZE);

/** The end that reads, on request, and checks what it has read. */
export abstract class Peer {
  /** How many bytes it has, all of them right. */
  got = 0;
  ended = false;
  /** Why its connection broke. */
  code: string | null = null;

  /** Takes what has arrived, and waits if nothing has. False: no more will arrive. */
  abstract read(): Promise<boolean>;
  /** Ends its own direction. */
  abstract end(): void;
  /** Closes at once, with a reset if the place can send one. */
  abstract reset(): void;

  async readAll(): Promise<void> {
    while (await this.read());
  }

  protected took(bytes: Uint8Array): void {
    if (Buffer.compare(bytes, written.subarray(this.got, this.got + bytes.length)) !== 0)
      throw new Error(`not what was written, in the ${bytes.length} bytes from ${this.got} on`);
    this.got += bytes.length;
  }
}

/** A peer behind a kernel. */
export class Reader extends Peer {
  readonly socket: net.Socket;
  readonly over: Promise<unknown>;

  #wake: () => void = () => {};

  constructor(socket: net.Socket) {
    super();
    this.socket = socket;
    const wake = (): void => this.#wake();
    socket.on("readable", wake).on("close", wake);
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.code = error.code ?? error.message;
    });
    socket.on("end", () => {
      this.ended = true;
      wake();
    });
    this.over = new Promise((resolve) => socket.once("close", resolve));
  }

  override async read(): Promise<boolean> {
    for (;;) {
      const bytes = this.socket.read() as Buffer | null;
      if (bytes !== null) {
        this.took(bytes);
        return true;
      }
      if (this.ended || this.socket.destroyed) return false;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  override end(): void {
    this.socket.end();
  }

  override reset(): void {
    this.socket.destroy();
  }
}

/** A peer at the other end of a `StreamSocket`. */
export class StreamPeer extends Peer {
  readonly #socket: StreamSocket;

  constructor(socket: StreamSocket) {
    super();
    this.#socket = socket;
  }

  override async read(): Promise<boolean> {
    if (this.ended || this.code !== null) return false;
    try {
      const bytes = await this.#socket.recv();
      if (bytes === null) this.ended = true;
      else this.took(bytes);
    } catch (error) {
      this.code = (error as SocketError).code;
      if (this.code === undefined) throw error;
    }
    return !this.ended && this.code === null;
  }

  override end(): void {
    this.#socket.shutdown(1).catch(() => {}); // the other end may have gone
  }

  override reset(): void {
    this.#socket.abort();
  }
}

/** One connection, drawn: what its handler writes, and what its peer does. */
export interface Mix {
  readonly steps: readonly Step[];
  /** The sizes of the peer's first reads, and the pause after each, in ms. */
  readonly reads: readonly { readonly bytes: number; readonly pause: number }[];
  /** What it then does before it reads the rest; `stall`: it stops reading until everything is over. */
  readonly rest: "read" | "end" | "reset" | "stall";
  /** What happens to the server meanwhile. */
  readonly stop: "no" | "close" | "abort";
  readonly closeTimeout: number; // ms
}

/** What was reported when it had ended. */
export interface Outcome {
  readonly failed: boolean;
  /** `null` if that cannot be known: its process is gone. */
  readonly bytesWritten: number | null;
  /** The codes of its errors. */
  readonly codes: readonly unknown[];
}

/** A handler that writes `steps`, and its peer. */
export interface Meeting extends AsyncDisposable {
  readonly peer: Peer;
  /** Stops the server; resolves when that is done. */
  stop(how: "close" | "abort"): Promise<unknown>;
  /** Resolves when the connection has ended and that was reported. */
  outcome(): Promise<Outcome>;
}

/** A place, and what is special about its time. */
export interface DeliveryPlace {
  meet(mix: Mix): Promise<Meeting>;
  /** Pauses of a peer, and the time-outs of a close, in ms: short where time is real. */
  readonly pauses: readonly number[];
  readonly closeTimeouts: readonly number[];
  /** How many more bytes a peer may have than were reported: the pieces about which the platform reports nothing. */
  readonly slack: number;
  /** The most bytes in flight when the peer is gone; absent if the kernel decides. */
  readonly holds?: number;
  readonly runs: number;
}

const how: fc.Arbitrary<Step["how"]> = fc.constantFrom("write", "flush", "sendall", "turn");

const mixes = ({ pauses, closeTimeouts }: DeliveryPlace): fc.Arbitrary<Mix> =>
  fc.record({
    // Every other one is more than two kernels hold, so that its writer has to wait.
    steps: fc.oneof(
      fc.array(fc.record({ bytes: fc.oneof(fc.nat(300), fc.integer({ min: 16_000, max: 70_000 })), how })),
      fc.array(fc.record({ bytes: fc.integer({ min: 200_000, max: SIZE / 5 }), how }), {
        minLength: 4,
        maxLength: 5,
      }),
    ),
    reads: fc.array(
      fc.record({
        bytes: fc.oneof(fc.nat(1_000), fc.nat(1_000_000)),
        pause: fc.constantFrom(...pauses),
      }),
      { maxLength: 6 },
    ),
    rest: fc.constantFrom("read", "end", "reset", "stall"),
    stop: fc.constantFrom("no", "no", "close", "abort"),
    closeTimeout: fc.constantFrom(...closeTimeouts),
  });

const deliver = async (mix: Mix, { peer, stop, outcome }: Meeting, place: DeliveryPlace): Promise<void> => {
  for (const { bytes, pause } of mix.reads) {
    for (const until = peer.got + bytes; peer.got < until && (await peer.read()); );
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  if (mix.rest === "end") peer.end();
  if (mix.rest === "reset") peer.reset();
  const stopped = mix.stop === "no" ? undefined : stop(mix.stop);
  if (mix.rest !== "stall") await peer.readAll();
  await stopped;
  const { failed, bytesWritten, codes } = await outcome();
  await peer.readAll();
  const size = sizeOf(mix.steps);
  if (bytesWritten !== null) {
    expect(bytesWritten).toBeLessThanOrEqual(size);
    expect(peer.got).toBeLessThanOrEqual(bytesWritten + place.slack);
    if (place.holds !== undefined) expect(bytesWritten).toBeLessThanOrEqual(peer.got + place.holds);
  }
  if (failed) expect(codes).not.toEqual([]);
  else {
    expect([bytesWritten, codes]).toEqual([size, []]);
    if (mix.rest !== "reset") expect([peer.got, peer.ended, peer.code]).toEqual([size, true, null]);
  }
};

/** Draws mixes, and checks the property for each. `SOCKLET_DELIVERY_RUNS` sets the number. */
export const holdsDelivery = (place: DeliveryPlace): Promise<void> =>
  fc.assert(
    fc.asyncProperty(mixes(place), async (mix) => {
      await using meeting = await place.meet(mix);
      await deliver(mix, meeting, place);
    }),
    // Without a time limit, which would end a run in the middle: its clock and connections would continue in the next test.
    { numRuns: Number(process.env.SOCKLET_DELIVERY_RUNS ?? place.runs) },
  );

/** A server's events of its one request. */
export const outcomeOf = async (told: Told): Promise<Outcome> => {
  const { failed, bytesWritten } = await told.next("end");
  const codes = told.of("error").map(({ error }) => (error as SocketError).code ?? String(error));
  return { failed, bytesWritten, codes };
};

/**
 * A session of the handler `writes`, which writes the steps of its params, as its record shows it. `lose` loses what
 * keeps it; if a place cannot do that, the session is ended in both ways of stopping.
 */
export const sessionOf = async (
  url: string,
  token: string,
  { steps }: Mix,
  lose?: (id: string) => Promise<unknown>,
): Promise<Meeting> => {
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
  const { sessions } = controlClient(url, { token });
  const accepted = once(server, "connection");
  const params = { steps: steps.map((step) => ({ ...step })) };
  const { id } = await sessions.start({ handler: "writes", address, params });
  const [socket] = (await accepted) as [net.Socket];
  let lost = false;
  return {
    peer: new Reader(socket),
    stop: async (how) => {
      lost = how === "abort" && lose !== undefined;
      await (lost ? lose?.(id) : sessions.end(id));
    },
    outcome: async () => {
      for await (const _ of sessions.follow(id));
      const { state, bytesWritten, error } = await sessions.get(id);
      const failed = state !== "ended";
      const codes = error === null ? [] : [error.code];
      return { failed, codes, bytesWritten: lost && failed ? null : bytesWritten };
    },
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      server.close();
    },
  };
};
