/** The faults of streams: a transport whose bytes are late, cut, lost or held up on their way. */

import { type Data, DONE, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import type { StartTlsOptions } from "../../sockets/tls.ts";
import type { StreamSink, StreamTransport } from "../../sockets/transport.ts";
import { type Chance, type Clock, chanceOf, realClock } from "../clock.ts";
import { TransportOver } from "../transports.ts";

const ROOM = 64 * 1024; // bytes under way in one direction before its sender must wait: as a small kernel buffer

/** What goes wrong in one direction of a stream. Times are milliseconds; each `…After` is a count of that direction's bytes. */
export interface DirectionFaults {
  /** How long all is under way. */
  readonly latency?: number;
  /** How much longer at most, by chance. Bytes keep their order. */
  readonly jitter?: number;
  /** Bytes come in pieces of 1 to so many, by chance; 1: each by itself. */
  readonly slice?: number;
  /** The end follows, and the rest is lost: a message cut short. */
  readonly endAfter?: number;
  /** The connection breaks: both ends see a reset, where the place can send one. */
  readonly resetAfter?: number;
  /** All is lost that follows, the end too, and nobody is told: a peer that lost its power, a cable that was pulled. */
  readonly silentAfter?: number;
  /** No more is taken: its sender has no room, as with a reader that hangs. */
  readonly stallAfter?: number;
}

/** What goes wrong with a stream. */
export interface StreamFaults {
  /** What chance begins with: the same seed, the same faults. Default 1. */
  readonly seed?: number;
  /** By which time goes: real, unless a test gives a `VirtualClock`. */
  readonly clock?: Clock;
  /** What its peer sends. */
  readonly incoming?: DirectionFaults;
  /** What it sends. */
  readonly outgoing?: DirectionFaults;
}

const LIMITS = ["endAfter", "resetAfter", "silentAfter", "stallAfter"] as const;
type Limit = (typeof LIMITS)[number];
const DIRECTION_NAMES = optionNamesOf<DirectionFaults>("one direction of a stream")({
  latency: true,
  jitter: true,
  slice: true,
  endAfter: true,
  resetAfter: true,
  silentAfter: true,
  stallAfter: true,
});
const STREAM_FAULT_NAMES = optionNamesOf<StreamFaults>("a plan of faults")({
  seed: true,
  clock: true,
  incoming: DIRECTION_NAMES,
  outgoing: DIRECTION_NAMES,
});

/** Throws where `faults` are not what a stream can have. */
export const checkStream = (faults: StreamFaults): void => {
  checkOptions("a plan of a stream's faults", faults, STREAM_FAULT_NAMES);
  for (const way of ["incoming", "outgoing"] as const) {
    const { latency = 0, jitter = 0, slice = 1, ...limits } = faults[way] ?? {};
    checkTime(`${way}.latency`, latency, 0);
    checkTime(`${way}.jitter`, jitter, 0);
    checkCount(`${way}.slice`, slice, 1);
    const given = LIMITS.filter((name) => limits[name] !== undefined);
    for (const name of given) checkCount(`${way}.${name}`, limits[name] as number, 0);
    if (given.length > 1)
      throw new TypeError(`${way} has ${given.join(" and ")}; only one of them can come true`);
  }
};

/** What is under way: bytes, and what comes behind them. */
type Item = Uint8Array | "end" | Limit | SocketError;

/** Whether it breaks the connection: then nothing waits for a reader. */
const breaks = (item: Item): boolean => item === "resetAfter" || item instanceof SocketError;

/** One direction of a stream: what is under way in it, in order. */
class Lane {
  /** Bytes under way. */
  size = 0;
  readonly #faults: DirectionFaults;
  readonly #limit: Limit | undefined;
  readonly #clock: Clock;
  readonly #delays: Chance;
  readonly #cuts: Chance;
  readonly #deliver: (item: Item, now: boolean) => boolean | Promise<unknown>;
  #items: { item: Item; readonly due: number }[] = [];
  #taken = 0; // bytes so far
  #last = 0; // when what was taken last is due
  #uncut = 0; // bytes up to the next cut
  #open = true; // its limit has not come
  #waiting = false; // for the clock, or for room
  #scheduled = false;
  #drained: PromiseWithResolvers<void> | null = null;

  /** `deliver` gives false where an item must wait for `go()`, or a promise of room for the next; `now`: it must not wait. */
  constructor(
    faults: DirectionFaults,
    clock: Clock,
    seed: number,
    deliver: (item: Item, now: boolean) => boolean | Promise<unknown>,
  ) {
    this.#faults = faults;
    this.#limit = LIMITS.find((name) => faults[name] !== undefined);
    this.#clock = clock;
    this.#delays = chanceOf(seed);
    this.#cuts = chanceOf(seed + 2 ** 16); // its own: where is cut does not depend on how many were delayed
    this.#deliver = deliver;
  }

  /** Its limit, where that has come. */
  get limit(): Limit | undefined {
    return this.#open ? undefined : this.#limit;
  }

  /** Takes bytes as far as its limit goes; they are its own from now on. */
  take(bytes: Uint8Array): void {
    if (!this.#open) return;
    const limit = this.#limit;
    const left =
      limit === undefined ? Number.POSITIVE_INFINITY : (this.#faults[limit] as number) - this.#taken;
    if (bytes.length > 0 && left > 0) this.#add(bytes.subarray(0, Math.min(left, bytes.length)));
    this.#taken += bytes.length;
    if (limit === undefined || bytes.length < left) return;
    this.#open = false;
    this.#add(limit);
  }

  /** Takes the end, where it has none yet, or what broke the connection, where that is not lost in silence. */
  put(item: "end" | SocketError): void {
    if (this.#open || (item !== "end" && this.#limit !== "silentAfter")) this.#add(item);
  }

  /** Delivers what is due, when this turn is over. */
  go(): void {
    if (this.#scheduled || this.#waiting) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#go();
    });
  }

  /** Resolves when nothing is under way. */
  drained(): Promise<void> {
    if (this.#items.length === 0) return DONE;
    this.#drained ??= Promise.withResolvers<void>();
    return this.#drained.promise;
  }

  /** What is under way is lost. */
  drop(): void {
    this.#items = [];
    this.size = 0;
    this.#empty();
  }

  #add(item: Item): void {
    const { latency = 0, jitter = 0 } = this.#faults;
    const now = this.#clock.now();
    this.#last = Math.max(this.#last, now + latency + jitter * this.#delays());
    this.#items.push({ item, due: this.#last });
    if (item instanceof Uint8Array) this.size += item.length;
    this.go();
  }

  #go(): void {
    if (this.#waiting) return;
    for (let first = this.#items[0]; first !== undefined; first = this.#items[0]) {
      const wait = first.due - this.#clock.now();
      if (wait > 0) {
        this.#wait(this.#clock.sleep(Math.ceil(wait)));
        return;
      }
      const { item } = first;
      const piece = item instanceof Uint8Array ? this.#pieceOf(item) : item;
      const length = piece instanceof Uint8Array ? piece.length : 0;
      const broken = this.#items.some(({ item, due }) => breaks(item) && due <= this.#clock.now());
      this.size -= length;
      const delivered = this.#deliver(piece, broken);
      if (delivered === false) {
        this.size += length;
        return;
      }
      if (first !== this.#items[0]) return; // dropped meanwhile
      this.#uncut = Math.max(0, this.#uncut - length);
      if (item instanceof Uint8Array && length < item.length) first.item = item.subarray(length);
      else this.#items.shift();
      if (delivered === true) continue;
      this.#wait(delivered);
      return;
    }
    this.#empty();
  }

  /** The bytes up to the next cut, which chance puts at the same place however they were sent. */
  #pieceOf(bytes: Uint8Array): Uint8Array {
    const { slice } = this.#faults;
    if (slice === undefined) return bytes;
    if (this.#uncut === 0) this.#uncut = 1 + Math.floor(this.#cuts() * slice);
    return bytes.subarray(0, this.#uncut);
  }

  #wait(until: Promise<unknown>): void {
    this.#waiting = true;
    const goOn = (): void => {
      this.#waiting = false;
      this.#go();
    };
    until.then(goOn, goOn);
  }

  #empty(): void {
    this.#drained?.resolve();
    this.#drained = null;
  }
}

const EMPTY = new Uint8Array(0);
const ignore = (): void => {};

/** A transport with faults in it. */
export class FaultyTransport extends TransportOver {
  readonly startTls?: (options: StartTlsOptions) => Promise<StreamTransport>;
  readonly #incoming: Lane;
  readonly #outgoing: Lane;
  #started: StreamTransport | null = null;
  #sink: StreamSink | null = null;
  #wanted = false; // a read waits
  #closed = false;
  #lost = 0; // bytes that were on their way out when it broke
  readonly #over = Promise.withResolvers<void>(); // our end is on its way
  #room: PromiseWithResolvers<void> | null = null;

  constructor(inner: StreamTransport, faults: StreamFaults) {
    super(inner);
    const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
    this.#incoming = new Lane(incoming, clock, 2 * seed, (item, now) => this.#comes(item, now));
    this.#outgoing = new Lane(outgoing, clock, 2 * seed + 1, (item) => this.#goes(item));
    this.#over.promise.catch(ignore); // who awaits it is told
    if (inner.startTls !== undefined) this.startTls = (options) => this.#startTls(options);
  }

  override start(sink: StreamSink): void {
    this.#sink = sink;
    this.#wanted = false;
    if (this.#started === this.inner) return;
    this.#started = this.inner;
    const incoming = this.#incoming;
    for (const lane of [incoming, this.#outgoing]) lane.take(EMPTY); // a limit of 0 comes before all
    const needed = (): number => this.#sink?.needed ?? 0;
    this.inner.start({
      get needed() {
        return needed();
      },
      data: (bytes) => {
        if (!this.#closed) incoming.take(bytes);
        return this.#takes;
      },
      end: () => incoming.put("end"),
      error: (error) => incoming.put(error),
    });
  }

  override resume(): void {
    this.#wanted = true;
    this.#incoming.go();
    this.#pull();
  }

  override pause(): void {
    this.#wanted = false;
    this.inner.pause();
  }

  override write(data: Data): Promise<void> | undefined {
    if (this.#closed) return undefined;
    this.#outgoing.take(typeof data === "string" ? toBytes(data) : new Uint8Array(data)); // a copy: it leaves later
    if (this.#outgoing.limit !== "stallAfter" && this.#outgoing.size <= ROOM) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  override get unsent(): number {
    return this.#lost + this.#outgoing.size + this.inner.unsent;
  }

  override end(): Promise<void> {
    this.#outgoing.put("end");
    return this.#over.promise;
  }

  override close(): void | Promise<void> {
    this.#letGo();
    if (this.#outgoing.limit !== "silentAfter") return this.inner.close();
    this.inner.abort(); // its peer was told no end, and cannot be let go by one
  }

  override abort(): void {
    this.#letGo();
    this.inner.abort();
  }

  /** Whether more is taken from the peer: for a read that waits, and for nobody behind an end or in silence. */
  get #takes(): boolean {
    const { limit, size } = this.#incoming;
    if (this.#closed || limit === "endAfter" || limit === "silentAfter") return true;
    return limit === undefined && this.#wanted && size < ROOM;
  }

  #pull(): void {
    if (this.#takes) this.inner.resume();
  }

  /** What comes from the peer. */
  #comes(item: Item, now: boolean): boolean {
    if (!(item instanceof Uint8Array)) {
      if (item === "resetAfter" || item instanceof SocketError) this.#break(item);
      else if (item === "end" || item === "endAfter") {
        if (!this.#wanted) return false;
        this.#sink?.end();
      }
      this.#pull();
      return true;
    }
    if (!this.#wanted && !now) return false;
    this.#wanted = this.#sink?.data(item) ?? false;
    this.#pull();
    return true;
  }

  /** What goes to the peer. */
  #goes(item: Item): boolean | Promise<unknown> {
    if (item instanceof Uint8Array) {
      const room = this.inner.write(item);
      if (this.#outgoing.size - item.length <= ROOM && this.#outgoing.limit !== "stallAfter")
        this.#makeRoom();
      return room ?? true;
    }
    if (item === "resetAfter") this.#break(item);
    else if (item === "end" || item === "endAfter") this.#over.resolve(this.inner.end());
    else if (item === "silentAfter") this.#over.resolve();
    return true;
  }

  /** The connection breaks, by what the peer did or by a fault. */
  #break(why: SocketError | "resetAfter"): void {
    this.#letGo();
    if (why === "resetAfter") this.inner.abort();
    this.#sink?.error(why === "resetAfter" ? new SocketError("ECONNRESET") : why);
  }

  #letGo(): void {
    this.#closed = true;
    this.#lost += this.#outgoing.size;
    this.#incoming.drop();
    this.#outgoing.drop();
    this.#over.resolve();
    this.#makeRoom();
  }

  #makeRoom(): void {
    this.#room?.resolve();
    this.#room = null;
  }

  async #startTls(options: StartTlsOptions): Promise<StreamTransport> {
    await this.#outgoing.drained();
    this.inner.pause();
    if (this.#incoming.size > 0) {
      throw new SocketError(
        "ERR_TLS",
        `${this.#incoming.size} bytes came before TLS began; they cannot be trusted`,
      );
    }
    const secured = await this.inner.startTls?.(options);
    if (secured !== undefined) this.inner = secured;
    return this;
  }
}
