/** The faults of datagrams: a transport that loses, duplicates, delays and reorders them. */

import type { Address, Endpoint } from "../../net/address.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import { type DatagramSink, type DatagramTransport, Unsent } from "../../sockets/datagram.ts";
import { type Chance, type Clock, chanceOf, realClock, runAfter } from "../clock.ts";

const HELD = 50; // ms that a datagram is held back at most, if no other comes that could overtake it

const ignore = (): void => {};

/**
 * The faults of one direction of datagrams. Times are milliseconds; the others are probabilities from 0 to 1. At most 1 MiB
 * of datagrams waits (each counts as 256 bytes more than its size); further ones are lost, as at a router whose queue is full.
 */
export interface LinkFaults {
  /** The probability that a datagram is lost. */
  readonly loss?: number;
  /** The probability that a datagram is delivered twice. */
  readonly duplicates?: number;
  /** The probability that one bit of a datagram is flipped. */
  readonly corruption?: number;
  /** The probability that a datagram is held back until the next one has passed; if none comes, for 50 ms. */
  readonly reorder?: number;
  /** The delay of each datagram. */
  readonly latency?: number;
  /** The most random delay that is added, so that one datagram may overtake another. */
  readonly jitter?: number;
  /** The bytes that pass per second; more wait. */
  readonly rate?: number;
}

/** The faults of datagrams. */
export interface DatagramFaults {
  /** The seed of the random numbers: the same seed produces the same faults. Default 1. */
  readonly seed?: number;
  /** The clock: the real one, unless a test passes a `VirtualClock`. */
  readonly clock?: Clock;
  /** The faults of received datagrams. */
  readonly incoming?: LinkFaults;
  /** The faults of sent datagrams. */
  readonly outgoing?: LinkFaults;
}

const LINK_NAMES = optionNamesOf<LinkFaults>("one direction of datagrams")({
  loss: true,
  duplicates: true,
  corruption: true,
  rate: true,
  reorder: true,
  latency: true,
  jitter: true,
});
const DATAGRAM_FAULT_NAMES = optionNamesOf<DatagramFaults>("a plan of faults")({
  seed: true,
  clock: true,
  incoming: LINK_NAMES,
  outgoing: LINK_NAMES,
});
export const LIKELIHOODS = ["loss", "duplicates", "corruption", "reorder"] as const;

/** Throws if datagrams cannot have these `faults`. */
export const checkDatagrams = (faults: DatagramFaults): void => {
  checkOptions("a plan of datagrams' faults", faults, DATAGRAM_FAULT_NAMES);
  for (const way of ["incoming", "outgoing"] as const) {
    const given = faults[way] ?? {};
    checkTime(`${way}.latency`, given.latency ?? 0, 0);
    checkTime(`${way}.jitter`, given.jitter ?? 0, 0);
    checkCount(`${way}.rate`, given.rate ?? 1, 1);
    for (const name of LIKELIHOODS) {
      const likelihood = given[name] ?? 0;
      if (!(likelihood >= 0 && likelihood <= 1)) {
        throw new RangeError(`${way}.${name} is a number from 0 (never) to 1 (always), not ${likelihood}`);
      }
    }
  }
};

/** What happened to one datagram, other than a delay. `full`: it was lost, because too many were waiting. */
export type LinkFault = "loss" | "duplicates" | "corruption" | "reorder" | "full";

/** One direction of datagrams. */
export class Link {
  readonly #faults: (bytes: Uint8Array) => LinkFaults;
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #bits: Chance; // a generator of its own: corruption changes no other decision
  readonly #waiting = new Unsent();
  readonly #planned = new Set<() => void>(); // functions that cancel what is planned
  #held: (() => void)[] = [];
  #free = 0; // the time at which the rate allows more
  #closed = false;

  /** `faults` are the faults of every datagram, or a function that returns those of one. */
  constructor(
    faults: LinkFaults | ((bytes: Uint8Array) => LinkFaults),
    clock: Clock,
    chance: Chance,
    bits: Chance = chance,
  ) {
    this.#faults = typeof faults === "function" ? faults : () => faults;
    this.#clock = clock;
    this.#chance = chance;
    this.#bits = bits;
  }

  /**
   * Delivers one datagram: never, once, twice, later, or changed. It keeps `bytes`. `did` is called with each fault that happened.
   * After `close()` it does nothing.
   */
  pass(bytes: Uint8Array, deliver: (bytes: Uint8Array) => void, did?: (fault: LinkFault) => void): void {
    if (this.#closed) return;
    const faults = this.#faults(bytes);
    const { loss = 0, duplicates = 0, reorder = 0, corruption = 0, latency = 0, jitter = 0, rate } = faults;
    // Each datagram takes the same count of random numbers, so that adding a fault does not change the others.
    const [lost, twice, held] = [this.#chance(), this.#chance(), this.#chance()];
    const times = [this.#chance(), this.#chance()];
    if (lost < loss) {
      did?.("loss");
      return;
    }
    const waits = held < reorder || latency + jitter > 0 || rate !== undefined;
    if (waits && !this.#waiting.fits(bytes.length)) {
      did?.("full");
      return;
    }
    if (corruption > 0) {
      const [corrupted, bit] = [this.#bits(), Math.floor(this.#bits() * bytes.length * 8)];
      if (corrupted < corruption && bytes.length > 0) {
        did?.("corruption");
        bytes[bit >> 3] = (bytes[bit >> 3] as number) ^ (1 << (bit & 7));
      }
    }
    let wait = 0;
    if (rate !== undefined) {
      const now = this.#clock.now();
      this.#free = Math.max(this.#free, now) + (bytes.length * 1000) / rate;
      wait = this.#free - now;
    }
    if (twice < duplicates) did?.("duplicates");
    const send = (): void => {
      for (const chance of twice < duplicates ? times : times.slice(1))
        this.#send(bytes, deliver, wait + latency + jitter * chance);
    };
    if (held < reorder) {
      did?.("reorder");
      this.#waiting.add(bytes.length);
      this.#held.push(() => {
        this.#waiting.remove(bytes.length);
        send();
      });
      this.#after(HELD, () => this.#release());
    } else {
      send();
      this.#release();
    }
  }

  #send(bytes: Uint8Array, deliver: (bytes: Uint8Array) => void, time: number): void {
    if (time === 0) {
      queueMicrotask(() => deliver(bytes));
      return;
    }
    this.#waiting.add(bytes.length);
    this.#after(time, () => {
      this.#waiting.remove(bytes.length);
      deliver(bytes);
    });
  }

  #after(ms: number, task: () => void): void {
    const cancel = runAfter(this.#clock, ms, () => {
      this.#planned.delete(cancel);
      task();
    });
    this.#planned.add(cancel);
  }

  /** Drops everything in flight, and leaves no timer. */
  close(): void {
    this.#closed = true;
    for (const cancel of this.#planned) cancel();
    this.#planned.clear();
    this.#held = [];
  }

  #release(): void {
    for (const send of this.#held.splice(0)) send();
  }
}

/** One direction, with its seed. */
export const linkOf = (
  faults: LinkFaults | ((bytes: Uint8Array) => LinkFaults),
  clock: Clock,
  seed: number,
): Link => new Link(faults, clock, chanceOf(seed), chanceOf(seed + 2 ** 16));

export const linksOf = (faults: DatagramFaults): [incoming: Link, outgoing: Link] => {
  checkDatagrams(faults);
  const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
  return [linkOf(incoming, clock, 2 * seed), linkOf(outgoing, clock, 2 * seed + 1)];
};

export class FaultyDatagramTransport implements DatagramTransport {
  readonly #inner: DatagramTransport;
  readonly #incoming: Link;
  readonly #outgoing: Link;
  readonly connect?: (address: Address) => Promise<void>;

  constructor(inner: DatagramTransport, faults: DatagramFaults) {
    this.#inner = inner;
    [this.#incoming, this.#outgoing] = linksOf(faults);
    if (inner.connect !== undefined) this.connect = inner.connect.bind(inner);
  }

  get localAddress(): Address | null {
    return this.#inner.localAddress;
  }

  start(sink: DatagramSink): void {
    this.#inner.start({
      message: (bytes, ...rest) =>
        this.#incoming.pass(new Uint8Array(bytes), (own) => sink.message(new Uint8Array(own), ...rest)),
      error: (error) => sink.error(error),
    });
  }

  bind(endpoint: Endpoint): Promise<void> {
    return this.#inner.bind(endpoint);
  }

  resolve(endpoint: Endpoint): Promise<Address> {
    return this.#inner.resolve(endpoint);
  }

  /** Resolves as if sent: the sender cannot tell whether the datagram left. */
  async send(bytes: Uint8Array, ...to: [address: Address, flags: number]): Promise<void> {
    this.#outgoing.pass(new Uint8Array(bytes), (own) => void this.#inner.send(own, ...to).catch(ignore));
  }

  /** Drops everything in flight. */
  close(): void | Promise<void> {
    this.#incoming.close();
    this.#outgoing.close();
    return this.#inner.close();
  }
}
