/** The faults of datagrams: a transport that loses, doubles, delays and reorders them. */

import type { Address, Endpoint } from "../../net/address.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import type { DatagramSink, DatagramTransport } from "../../sockets/datagram.ts";
import { type Chance, type Clock, chanceOf, realClock } from "../clock.ts";

const HELD = 50; // ms that a datagram is held back at most, where none comes that could overtake it

const ignore = (): void => {};

/** What goes wrong in one direction of datagrams. Times are milliseconds; the others are from 0, never, to 1, always. */
export interface LinkFaults {
  /** How likely one is lost. */
  readonly loss?: number;
  /** How likely one comes twice. */
  readonly duplicates?: number;
  /** How likely one bit of one is another. */
  readonly corruption?: number;
  /** How likely one is held back until the next has gone; where none comes, for 50 ms. */
  readonly reorder?: number;
  /** How long each is under way. */
  readonly latency?: number;
  /** How much longer at most, by chance: so one may overtake another. */
  readonly jitter?: number;
  /** How many bytes pass a second; those over it wait. */
  readonly rate?: number;
}

/** What goes wrong with datagrams. */
export interface DatagramFaults {
  /** What chance begins with: the same seed, the same faults. Default 1. */
  readonly seed?: number;
  /** By which time goes: real, unless a test gives a `VirtualClock`. */
  readonly clock?: Clock;
  /** Of what is received. */
  readonly incoming?: LinkFaults;
  /** Of what is sent. */
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

/** Throws where `faults` are not what datagrams can have. */
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

/** What became of one datagram, as far as it was not only late. */
export type LinkFault = "loss" | "duplicates" | "corruption" | "reorder";

/** One direction of datagrams. */
export class Link {
  readonly #faults: (bytes: Uint8Array) => LinkFaults;
  readonly #clock: Clock;
  readonly #chance: Chance;
  readonly #bits: Chance; // its own: what is corrupted changes nothing else
  #held: (() => void)[] = [];
  #free = 0; // when the rate lets more pass

  /** `faults` are those of every datagram, or are asked for each. */
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

  /** Delivers one datagram: never, once, twice, later, not as it was. `bytes` are its own. `did` is told what became of it. */
  pass(bytes: Uint8Array, deliver: (bytes: Uint8Array) => void, did?: (fault: LinkFault) => void): void {
    const faults = this.#faults(bytes);
    const { loss = 0, duplicates = 0, reorder = 0, corruption = 0, rate } = faults;
    // As many for each, whatever comes of it: so one fault more or less changes no other.
    const [lost, twice, held] = [this.#chance(), this.#chance(), this.#chance()];
    const times = [this.#chance(), this.#chance()];
    if (lost < loss) {
      did?.("loss");
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
        this.#send(() => deliver(bytes), chance, faults, wait);
    };
    if (held < reorder) {
      did?.("reorder");
      this.#held.push(send);
      void this.#clock.sleep(HELD).then(() => this.#release());
    } else {
      send();
      this.#release();
    }
  }

  #send(deliver: () => void, chance: number, { latency = 0, jitter = 0 }: LinkFaults, wait: number): void {
    const time = wait + latency + jitter * chance;
    if (time === 0) queueMicrotask(deliver);
    else void this.#clock.sleep(time).then(deliver);
  }

  #release(): void {
    for (const send of this.#held.splice(0)) send();
  }
}

/** One direction as its seed has it. */
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

  /** Sent, as far as the sender can tell: whether it left nobody says. */
  async send(bytes: Uint8Array, ...to: [address: Address, flags: number]): Promise<void> {
    this.#outgoing.pass(new Uint8Array(bytes), (own) => void this.#inner.send(own, ...to).catch(ignore));
  }

  close(): void | Promise<void> {
    return this.#inner.close();
  }
}
