/** The faults of streams: a transport whose bytes are delayed, cut, lost or held up. */

import { type Data, DONE, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import type { StartTlsOptions } from "../../sockets/tls/tls.ts";
import type { StreamSink, StreamTransport } from "../../sockets/transport.ts";
import { type Chance, type Clock, chanceOf, realClock, runAfter } from "../clock.ts";
import { TransportOver } from "../transports.ts";

const STEPS = 20; // pieces per second into which a rate is divided
const ROOM = 64 * 1024; // bytes in flight in one direction before its sender must wait: a small kernel buffer

/** The faults of one direction of a stream. Times are milliseconds; each `…After` is a count of that direction's bytes. */
export interface DirectionFaults {
  /** The delay of everything. */
  readonly latency?: number;
  /** The most random delay that is added. Bytes keep their order. */
  readonly jitter?: number;
  /** The bytes that pass per second. */
  readonly rate?: number;
  /** The largest piece: bytes come in pieces of random size from 1 to this. With 1, each byte comes alone. */
  readonly slice?: number;
  /** The time between two such pieces. */
  readonly sliceDelay?: number;
  /** The additional delay of the end. */
  readonly endDelay?: number;
  /** The end follows, and the rest is lost: a truncated message. */
  readonly endAfter?: number;
  /** The connection breaks: both ends see a reset, if the platform can send one. */
  readonly resetAfter?: number;
  /** Everything that follows is lost, including the end, and neither side notices: a peer that lost power, a pulled cable. */
  readonly silentAfter?: number;
  /** Nothing more is accepted: the sender has no room, as with a hanging reader. */
  readonly stallAfter?: number;
}

/** The faults of a stream. */
export interface StreamFaults {
  /** The seed of the random numbers: the same seed produces the same faults. Default 1. */
  readonly seed?: number;
  /** The clock: the real one, unless a test passes a `VirtualClock`. */
  readonly clock?: Clock;
  /** The faults of what its peer sends. */
  readonly incoming?: DirectionFaults;
  /** The faults of what it sends. */
  readonly outgoing?: DirectionFaults;
}

const LIMITS = ["endAfter", "resetAfter", "silentAfter", "stallAfter"] as const;
export type Limit = (typeof LIMITS)[number];

/** Later bytes wait for the promise that this returns; `null` if they need not wait. */
type Hold = () => Promise<unknown> | null;

/** An event at byte `at`: a limit, which comes `delay` ms after the bytes before it, a hold, or only a change of faults. */
export interface Cut {
  readonly at: number;
  readonly what: Limit | Hold | null;
  readonly delay?: number;
}

/** The faults of one direction, while it runs. */
export interface Plan {
  /** The faults of the bytes that come now, without limits. */
  readonly held: DirectionFaults;
  /** The first cut in the bytes that come now; it is called again for the bytes after it. */
  cut(bytes: Uint8Array): Cut | undefined;
  /** That limit has been reached. */
  reached?(limit: Limit): void;
}

/** A plan that is known from the beginning. */
class FixedPlan implements Plan {
  readonly held: DirectionFaults;
  readonly #limit: Limit | undefined;
  #left: number; // bytes up to the limit

  constructor(faults: DirectionFaults) {
    this.held = faults;
    this.#limit = LIMITS.find((name) => faults[name] !== undefined);
    this.#left = this.#limit === undefined ? Number.POSITIVE_INFINITY : (faults[this.#limit] as number);
  }

  cut(bytes: Uint8Array): Cut | undefined {
    const at = this.#left;
    if (bytes.length < at) {
      this.#left -= bytes.length;
      return undefined;
    }
    this.#left = Number.POSITIVE_INFINITY;
    return { at, what: this.#limit as Limit };
  }
}
const DIRECTION_NAMES = optionNamesOf<DirectionFaults>("one direction of a stream")({
  latency: true,
  jitter: true,
  rate: true,
  slice: true,
  sliceDelay: true,
  endDelay: true,
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

/** Throws if a stream cannot have these `faults`. */
export const checkStream = (faults: StreamFaults): void => {
  checkOptions("a plan of a stream's faults", faults, STREAM_FAULT_NAMES);
  for (const way of ["incoming", "outgoing"] as const) {
    const { slice = 1, rate = 1, ...limits } = faults[way] ?? {};
    for (const name of ["latency", "jitter", "sliceDelay", "endDelay"] as const)
      checkTime(`${way}.${name}`, limits[name] ?? 0, 0);
    checkCount(`${way}.slice`, slice, 1);
    checkCount(`${way}.rate`, rate, 1);
    const given = LIMITS.filter((name) => limits[name] !== undefined);
    for (const name of given) checkCount(`${way}.${name}`, limits[name] as number, 0);
    if (given.length > 1)
      throw new TypeError(`${way} has ${given.join(" and ")}; only one of them can happen`);
  }
};

/** An item in flight: bytes, or what follows them. */
type Item = Uint8Array | "end" | Limit | Hold | SocketError;

/** Whether an item breaks the connection: then nothing waits for a reader. */
const breaks = (item: Item): boolean => item === "resetAfter" || item instanceof SocketError;

/** One direction of a stream, with its items in flight, in order. */
class Lane {
  /** Bytes in flight. */
  size = 0;
  readonly #plan: Plan;
  #limit: Limit | undefined; // once it has come
  readonly #clock: Clock;
  readonly #delays: Chance;
  readonly #cuts: Chance;
  readonly #deliver: (item: Item, now: boolean) => boolean | Promise<unknown>;
  #items: { item: Item; readonly due: number }[] = [];
  #last = 0; // when the last item taken is due
  #free = 0; // the time at which the rate allows more
  #uncut = 0; // bytes up to the next cut
  get #open(): boolean {
    return this.#limit === undefined;
  }
  #waiting = false; // for the clock, or for room
  #cancel: (() => void) | undefined; // cancels what waits for the clock
  #scheduled = false;
  #drained: PromiseWithResolvers<void> | null = null;

  /** `deliver` returns false if an item must wait for `go()`, or a promise of room for the next; `now`: it must not wait. */
  constructor(
    plan: Plan,
    clock: Clock,
    seed: number,
    deliver: (item: Item, now: boolean) => boolean | Promise<unknown>,
  ) {
    this.#plan = plan;
    this.#clock = clock;
    this.#delays = chanceOf(seed);
    this.#cuts = chanceOf(seed + 2 ** 16); // a generator of its own: the places of cuts do not depend on how many pieces were delayed
    this.#deliver = deliver;
  }

  /** Its limit, if that has been reached. */
  get limit(): Limit | undefined {
    return this.#limit;
  }

  /** Takes bytes up to its limit, and owns them from now on. */
  take(bytes: Uint8Array): void {
    let rest = bytes;
    while (this.#open) {
      const cut = this.#plan.cut(rest);
      const at = cut?.at ?? rest.length;
      if (at > 0) this.#add(rest.subarray(0, at));
      if (cut === undefined) return;
      rest = rest.subarray(at);
      if (typeof cut.what === "string") this.#limit = cut.what;
      if (cut.what !== null) this.#add(cut.what, cut.delay);
    }
  }

  /** Later bytes wait until `hold` ends. */
  hold(hold: Hold): void {
    if (this.#open) this.#add(hold);
  }

  /** The limit is reached now: a reset overtakes everything in flight, any other end follows it. */
  strike(limit: Limit, delay = 0): void {
    if (!this.#open) return;
    this.#limit = limit;
    if (limit !== "resetAfter" || delay > 0) {
      this.#add(limit, delay);
      return;
    }
    this.drop();
    this.#plan.reached?.(limit);
    this.#deliver(limit, true);
  }

  /** Takes the end, if there is none yet, or the error that broke the connection, unless it is lost in silence. */
  put(item: "end" | SocketError): void {
    if (this.#open || (item !== "end" && this.#limit !== "silentAfter")) this.#add(item);
  }

  /** Delivers due items when this turn is over. */
  go(): void {
    if (this.#scheduled || this.#waiting) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#go();
    });
  }

  /** Resolves when nothing is in flight. */
  drained(): Promise<void> {
    if (this.#items.length === 0) return DONE;
    this.#drained ??= Promise.withResolvers<void>();
    return this.#drained.promise;
  }

  /** Drops everything in flight. */
  drop(): void {
    this.#items = [];
    this.size = 0;
    if (this.#cancel !== undefined) {
      this.#cancel();
      this.#cancel = undefined;
      this.#waiting = false;
    }
    this.#empty();
  }

  #add(item: Item, delay = 0): void {
    const { latency = 0, jitter = 0, rate, endDelay = 0 } = this.#plan.held;
    const now = this.#clock.now();
    const late = latency + jitter * this.#delays() + delay + (item === "end" ? endDelay : 0);
    const put = (part: Item, from: number): void => {
      this.#last = Math.max(this.#last, from + late);
      this.#items.push({ item: part, due: this.#last });
    };
    if (item instanceof Uint8Array) {
      this.size += item.length;
      const step = rate === undefined ? item.length : Math.max(1, Math.floor(rate / STEPS));
      for (let at = 0; at < item.length; at += step) {
        const part = item.subarray(at, at + step);
        if (rate !== undefined) this.#free = Math.max(this.#free, now) + (part.length * 1000) / rate;
        put(part, rate === undefined ? now : this.#free);
      }
    } else put(item, now);
    this.go();
  }

  #go(): void {
    if (this.#waiting) return;
    for (let first = this.#items[0]; first !== undefined; first = this.#items[0]) {
      const wait = first.due - this.#clock.now();
      if (wait > 0) {
        this.#wait(this.#sleep(Math.ceil(wait)));
        return;
      }
      const { item } = first;
      if (typeof item === "function") {
        const until = this.#items.some(({ item }) => breaks(item)) ? null : item();
        if (until !== null) {
          this.#wait(until);
          return;
        }
        this.#items.shift();
        continue;
      }
      const piece = item instanceof Uint8Array ? this.#pieceOf(item) : item;
      const length = piece instanceof Uint8Array ? piece.length : 0;
      const broken = this.#items.some(({ item, due }) => breaks(item) && due <= this.#clock.now());
      this.size -= length;
      const delivered = this.#deliver(piece, broken);
      if (delivered === false) {
        this.size += length;
        return;
      }
      if (typeof item === "string" && item !== "end") this.#plan.reached?.(item);
      if (first !== this.#items[0]) return; // dropped meanwhile
      this.#uncut = Math.max(0, this.#uncut - length);
      if (item instanceof Uint8Array && length < item.length) first.item = item.subarray(length);
      else this.#items.shift();
      const { slice, sliceDelay = 0 } = this.#plan.held;
      const between = slice !== undefined && sliceDelay > 0 && length > 0 && this.#uncut === 0;
      if (between) {
        this.#wait(Promise.all([delivered, this.#sleep(sliceDelay)]));
        return;
      }
      if (delivered === true) continue;
      this.#wait(delivered);
      return;
    }
    this.#empty();
  }

  /** The bytes up to the next cut, whose random place does not depend on how they were sent. */
  #pieceOf(bytes: Uint8Array): Uint8Array {
    const { slice } = this.#plan.held;
    if (slice === undefined) return bytes;
    if (this.#uncut === 0) this.#uncut = 1 + Math.floor(this.#cuts() * slice);
    return bytes.subarray(0, this.#uncut);
  }

  /** Never resolves if everything is dropped first. */
  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#cancel = runAfter(this.#clock, ms, () => {
        this.#cancel = undefined;
        resolve();
      });
    });
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

/** Faults that are planned while the connection runs. */
interface PlannedFaults {
  readonly seed: number;
  readonly clock: Clock;
  readonly incoming: Plan;
  readonly outgoing: Plan;
  /** Called when the transport is released. */
  readonly over?: () => void;
}

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
  readonly #letGone: (() => void) | undefined;

  constructor(inner: StreamTransport, faults: StreamFaults | PlannedFaults) {
    super(inner);
    const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
    if ("over" in faults) this.#letGone = faults.over;
    const planned = (faults: DirectionFaults | Plan): Plan =>
      "cut" in faults ? faults : new FixedPlan(faults);
    this.#incoming = new Lane(planned(incoming), clock, 2 * seed, (item, now) => this.#comes(item, now));
    this.#outgoing = new Lane(planned(outgoing), clock, 2 * seed + 1, (item) => this.#goes(item));
    this.#over.promise.catch(ignore); // the caller that awaits it handles that
    if (inner.startTls !== undefined) this.startTls = (options) => this.#startTls(options);
  }

  /** The limit is reached in one direction now. */
  strike(way: "incoming" | "outgoing", limit: Limit, delay?: number): void {
    (way === "incoming" ? this.#incoming : this.#outgoing).strike(limit, delay);
  }

  /** Bytes sent later in one direction wait until `hold` ends. */
  hold(way: "incoming" | "outgoing", hold: Hold | null): void {
    if (hold !== null) (way === "incoming" ? this.#incoming : this.#outgoing).hold(hold);
  }

  override start(sink: StreamSink): void {
    this.#sink = sink;
    this.#wanted = false;
    if (this.#started === this.inner) return;
    this.#started = this.inner;
    const incoming = this.#incoming;
    for (const lane of [incoming, this.#outgoing]) lane.take(EMPTY); // a limit of 0 comes before everything
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
    this.inner.abort(); // its peer has not seen an end, and will not
  }

  override abort(): void {
    this.#letGo();
    this.inner.abort();
  }

  /** Whether to take more from the peer: if a read waits, and there was no end or silence. */
  get #takes(): boolean {
    const { limit, size } = this.#incoming;
    if (this.#closed || limit === "endAfter" || limit === "silentAfter") return true;
    return limit === undefined && this.#wanted && size < ROOM;
  }

  #pull(): void {
    if (this.#takes) this.inner.resume();
  }

  /** Delivers an item from the peer. */
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

  /** Delivers an item to the peer. */
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

  /** Breaks the connection, because of the peer or of a fault. */
  #break(why: SocketError | "resetAfter"): void {
    this.#letGo();
    if (why === "resetAfter") this.inner.abort();
    this.#sink?.error(why === "resetAfter" ? new SocketError("ECONNRESET") : why);
  }

  #letGo(): void {
    if (!this.#closed) this.#letGone?.();
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
