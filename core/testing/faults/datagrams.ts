/** The faults of datagrams: a transport that loses, doubles, delays and reorders them. */

import type { Address, Endpoint } from "../../net/address.ts";
import { checkOptions, checkTime, optionNamesOf } from "../../options.ts";
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
  /** How likely one is held back until the next has gone; where none comes, for 50 ms. */
  readonly reorder?: number;
  /** How long each is under way. */
  readonly latency?: number;
  /** How much longer at most, by chance: so one may overtake another. */
  readonly jitter?: number;
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
export const LIKELIHOODS = ["loss", "duplicates", "reorder"] as const;

/** Throws where `faults` are not what datagrams can have. */
export const checkDatagrams = (faults: DatagramFaults): void => {
  checkOptions("a plan of datagrams' faults", faults, DATAGRAM_FAULT_NAMES);
  for (const way of ["incoming", "outgoing"] as const) {
    const given = faults[way] ?? {};
    checkTime(`${way}.latency`, given.latency ?? 0, 0);
    checkTime(`${way}.jitter`, given.jitter ?? 0, 0);
    for (const name of LIKELIHOODS) {
      const likelihood = given[name] ?? 0;
      if (!(likelihood >= 0 && likelihood <= 1)) {
        throw new RangeError(`${way}.${name} is from 0, never, to 1, always, not ${likelihood}`);
      }
    }
  }
};

/** One direction of datagrams. */
export class Link {
  readonly #faults: LinkFaults;
  readonly #clock: Clock;
  readonly #chance: Chance;
  #held: (() => void)[] = [];

  constructor(faults: LinkFaults, clock: Clock, chance: Chance) {
    this.#faults = faults;
    this.#clock = clock;
    this.#chance = chance;
  }

  /** Delivers one datagram: never, once, twice, later. */
  pass(deliver: () => void): void {
    const { loss = 0, duplicates = 0, reorder = 0 } = this.#faults;
    // As many for each, whatever comes of it: so one fault more or less changes no other.
    const [lost, twice, held] = [this.#chance(), this.#chance(), this.#chance()];
    const times = [this.#chance(), this.#chance()];
    if (lost < loss) return;
    const send = (): void => {
      for (const chance of twice < duplicates ? times : times.slice(1)) this.#send(deliver, chance);
    };
    if (held < reorder) {
      this.#held.push(send);
      void this.#clock.sleep(HELD).then(() => this.#release());
    } else {
      send();
      this.#release();
    }
  }

  #send(deliver: () => void, chance: number): void {
    const { latency = 0, jitter = 0 } = this.#faults;
    const time = latency + jitter * chance;
    if (time === 0) queueMicrotask(deliver);
    else void this.#clock.sleep(time).then(deliver);
  }

  #release(): void {
    for (const send of this.#held.splice(0)) send();
  }
}

export const linksOf = (faults: DatagramFaults): [incoming: Link, outgoing: Link] => {
  checkDatagrams(faults);
  const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
  return [new Link(incoming, clock, chanceOf(2 * seed)), new Link(outgoing, clock, chanceOf(2 * seed + 1))];
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
      message: (...received) => this.#incoming.pass(() => sink.message(...copied(received))),
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
    const [own] = copied([bytes]);
    this.#outgoing.pass(() => void this.#inner.send(own, ...to).catch(ignore));
  }

  close(): void | Promise<void> {
    return this.#inner.close();
  }
}

/** With bytes of their own: what comes twice may be changed once. */
const copied = <T extends readonly [Uint8Array, ...unknown[]]>([bytes, ...rest]: T): T =>
  [new Uint8Array(bytes), ...rest] as unknown as T;
