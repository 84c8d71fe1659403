/**
 * Faults: what networks do to connections and datagrams, done on purpose, in any place, and the same each time.
 *
 *     const far = withFaults(socket, { incoming: { latency: 80, jitter: 40, slice: 1 } });
 *     const cut = withFaults(socket, { outgoing: { resetAfter: 100 } });
 *     class Lossy extends FaultsMixIn(ThreadingUDPServer, { incoming: { loss: 0.2 }, outgoing: { duplicates: 0.1 } }) {}
 *
 * A faulty stream stands in the place of the stream, and is a `StreamSocket` as it is: so a handler, or a client, has
 * its faults over memory, over a real TCP connection in Node, and inside workerd. Directions are those of the stream
 * that is wrapped: `incoming` is what its peer sends.
 */

import { type Data, DONE, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address, Endpoint } from "../net/address.ts";
import { SHUT_WR } from "../net/constants.ts";
import { checkCount, checkOptions, checkTime, optionNamesOf } from "../options.ts";
import { BaseRequestHandler, checkHandler, type HandlerClass } from "../serve/handler.ts";
import { type BaseServer, ServedDatagram } from "../serve/server.ts";
import {
  checkDatagramSize,
  type Datagram,
  type DatagramSink,
  type DatagramTransport,
} from "../sockets/datagram.ts";
import {
  type Capabilities,
  type StreamOptions,
  type StreamSink,
  StreamSocket,
  type StreamTransport,
  settleStream,
  type TlsOptions,
} from "../sockets/stream-socket.ts";
import { type Chance, chanceOf } from "./clock.ts";
import { type Clock, realClock } from "./script.ts";
import { serverOf } from "./transcript.ts";

const ROOM = 64 * 1024; // bytes under way in one direction before its sender must wait: as a small kernel buffer
const HELD = 50; // ms that a datagram is held back at most, where none comes that could overtake it

const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

// ---- Streams ----

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
const checkStream = (faults: StreamFaults): void => {
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
class FaultyTransport implements StreamTransport {
  readonly startTls?: (options: TlsOptions) => Promise<StreamTransport>;
  readonly #incoming: Lane;
  readonly #outgoing: Lane;
  #inner: StreamTransport;
  #started: StreamTransport | null = null;
  #sink: StreamSink | null = null;
  #wanted = false; // a read waits
  #closed = false;
  #lost = 0; // bytes that were on their way out when it broke
  readonly #over = Promise.withResolvers<void>(); // our end is on its way
  #room: PromiseWithResolvers<void> | null = null;

  constructor(inner: StreamTransport, faults: StreamFaults) {
    const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
    this.#inner = inner;
    this.#incoming = new Lane(incoming, clock, 2 * seed, (item, now) => this.#comes(item, now));
    this.#outgoing = new Lane(outgoing, clock, 2 * seed + 1, (item) => this.#goes(item));
    this.#over.promise.catch(ignore); // who awaits it is told
    if (inner.startTls !== undefined) this.startTls = (options) => this.#startTls(options);
  }

  get localAddress(): Address | null {
    return this.#inner.localAddress;
  }

  get remoteAddress(): Address | null {
    return this.#inner.remoteAddress;
  }

  get capabilities(): Capabilities {
    return this.#inner.capabilities;
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
    this.#wanted = false;
    if (this.#started === this.#inner) return;
    this.#started = this.#inner;
    const incoming = this.#incoming;
    for (const lane of [incoming, this.#outgoing]) lane.take(EMPTY); // a limit of 0 comes before all
    const needed = (): number => this.#sink?.needed ?? 0;
    this.#inner.start({
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

  resume(): void {
    this.#wanted = true;
    this.#incoming.go();
    this.#pull();
  }

  pause(): void {
    this.#wanted = false;
    this.#inner.pause();
  }

  write(data: Data): Promise<void> | undefined {
    if (this.#closed) return undefined;
    this.#outgoing.take(typeof data === "string" ? toBytes(data) : new Uint8Array(data)); // a copy: it leaves later
    if (this.#outgoing.limit !== "stallAfter" && this.#outgoing.size <= ROOM) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  get unsent(): number {
    return this.#lost + this.#outgoing.size + this.#inner.unsent;
  }

  unacknowledged(): number | null {
    return this.#inner.unacknowledged?.() ?? null;
  }

  end(): Promise<void> {
    this.#outgoing.put("end");
    return this.#over.promise;
  }

  close(): void | Promise<void> {
    this.#letGo();
    if (this.#outgoing.limit !== "silentAfter") return this.#inner.close();
    this.#inner.abort(); // its peer was told no end, and cannot be let go by one
  }

  abort(): void {
    this.#letGo();
    this.#inner.abort();
  }

  defer(task: () => void): void {
    this.#inner.defer(task);
  }

  /** Whether more is taken from the peer: for a read that waits, and for nobody behind an end or in silence. */
  get #takes(): boolean {
    const { limit, size } = this.#incoming;
    if (this.#closed || limit === "endAfter" || limit === "silentAfter") return true;
    return limit === undefined && this.#wanted && size < ROOM;
  }

  #pull(): void {
    if (this.#takes) this.#inner.resume();
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
      const room = this.#inner.write(item);
      if (this.#outgoing.size - item.length <= ROOM && this.#outgoing.limit !== "stallAfter")
        this.#makeRoom();
      return room ?? true;
    }
    if (item === "resetAfter") this.#break(item);
    else if (item === "end" || item === "endAfter") this.#over.resolve(this.#inner.end());
    else if (item === "silentAfter") this.#over.resolve();
    return true;
  }

  /** The connection breaks, by what the peer did or by a fault. */
  #break(why: SocketError | "resetAfter"): void {
    this.#letGo();
    if (why === "resetAfter") this.#inner.abort();
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

  async #startTls(options: TlsOptions): Promise<StreamTransport> {
    await this.#outgoing.drained();
    this.#inner.pause();
    if (this.#incoming.size > 0) {
      throw new SocketError(
        "ERR_TLS",
        `${this.#incoming.size} bytes came before TLS began; they cannot be trusted`,
      );
    }
    const secured = await this.#inner.startTls?.(options);
    if (secured !== undefined) this.#inner = secured;
    return this;
  }
}

/** A `StreamSocket` as a transport again. */
class SocketTransport implements StreamTransport {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly #stream: StreamSocket;
  #sink: StreamSink | null = null;
  #wanted = false;
  #reading = false;
  #over = false; // nothing more is told

  constructor(stream: StreamSocket) {
    this.#stream = stream;
    this.localAddress = stream.getsockname();
    this.remoteAddress = stream.getpeername();
    this.capabilities = stream.capabilities;
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    if (!this.#reading && !this.#over) void this.#read();
  }

  pause(): void {
    this.#wanted = false;
  }

  write(data: Data): Promise<void> | undefined {
    const { wfile } = this.#stream;
    try {
      wfile.write(data);
      wfile.start();
    } catch (error) {
      this.#fail(error);
    }
    return wfile.blocked ? wfile.flush().catch(ignore) : undefined;
  }

  get unsent(): number {
    return this.#stream.wfile.unsent;
  }

  unacknowledged(): number | null {
    return this.#stream.wfile.unacknowledged();
  }

  end(): Promise<void> {
    return this.#stream.shutdown(SHUT_WR);
  }

  close(): Promise<void> {
    this.#over = true;
    return this.#stream.close();
  }

  abort(): void {
    this.#over = true;
    this.#stream.abort();
  }

  async startTls(): Promise<never> {
    const why =
      "what is secured in its midst cannot have faults over it; secure the stream first, then withFaults()";
    throw new SocketError("ERR_UNSUPPORTED", why);
  }

  defer(task: () => void): void {
    later(task, 0);
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#wanted && !this.#over) {
        const bytes = await this.#stream.recv();
        if (this.#over) return;
        if (bytes === null) {
          this.#over = true;
          this.#sink?.end();
        } else {
          this.#wanted = this.#sink?.data(bytes) ?? false;
        }
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#reading = false;
    }
  }

  #fail(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#sink?.error(SocketError.from(error, "ECONNRESET"));
  }
}

// ---- Datagrams ----

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
const LIKELIHOODS = ["loss", "duplicates", "reorder"] as const;

/** Throws where `faults` are not what datagrams can have. */
const checkDatagrams = (faults: DatagramFaults): void => {
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
class Link {
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

const linksOf = (faults: DatagramFaults): [incoming: Link, outgoing: Link] => {
  checkDatagrams(faults);
  const { seed = 1, clock = realClock, incoming = {}, outgoing = {} } = faults;
  return [new Link(incoming, clock, chanceOf(2 * seed)), new Link(outgoing, clock, chanceOf(2 * seed + 1))];
};

class FaultyDatagramTransport implements DatagramTransport {
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

// ---- Both ----

/**
 * `stream`, or the transport of a platform, with `faults` in it. Use what this gives in its place, and the other no
 * more. By one `seed` the same bytes meet the same faults.
 *
 *     const slow = withFaults(await createConnection("127.0.0.1:6379"), { incoming: { latency: 200 } });
 *
 * Limits of the stream, and how long its calls wait, stay as they are; `options` changes them, and says what a stream
 * does not tell, its `closeTimeout`. A stream that is to be secured is secured first; a transport may be secured later
 * (`startTls`). Through silence nothing passes, so what is closed there ends, for its peer, by a reset.
 *
 * Throws `TypeError` and `RangeError` for faults that cannot be.
 */
export function withFaults(
  stream: StreamSocket,
  faults: StreamFaults,
  options?: Partial<StreamOptions>,
): StreamSocket;
/** A platform's transport of streams with faults in it; may be secured later. Throws `TypeError` and `RangeError` for faults that cannot be. */
export function withFaults(transport: StreamTransport, faults: StreamFaults): StreamTransport;
/** A platform's transport of datagrams with faults in it. Throws `TypeError` and `RangeError` for faults that cannot be. */
export function withFaults(transport: DatagramTransport, faults: DatagramFaults): DatagramTransport;
export function withFaults(
  given: StreamSocket | StreamTransport | DatagramTransport,
  faults: StreamFaults & DatagramFaults,
  options: Partial<StreamOptions> = {},
): StreamSocket | StreamTransport | DatagramTransport {
  const isStream = given instanceof StreamSocket;
  if (!isStream && typeof (given as StreamTransport | undefined)?.start !== "function") {
    throw new TypeError(
      `withFaults() takes a connection (a StreamSocket) or a transport, not ${typeof given}`,
    );
  }
  if (!isStream && "bind" in given) return new FaultyDatagramTransport(given, faults);
  checkStream(faults);
  if (!isStream) return new FaultyTransport(given, faults);
  const { rfile, wfile } = given;
  const { maxLine, maxRead } = rfile;
  const { maxPending, whenSlow } = wfile;
  const transport = new FaultyTransport(new SocketTransport(given), faults);
  const faulty = new StreamSocket(transport, { maxLine, maxRead, maxPending, whenSlow, ...options });
  if (options.timeout === undefined) faulty.settimeout(given.gettimeout());
  given.settimeout(null); // the faulty one's own waits are bounded
  return faulty;
}

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type ServerClass = abstract new (...args: any[]) => BaseServer<any, any>;

/**
 * A server whose requests have faults: its connections, or what it receives and sends as datagrams. In any place where
 * requests arrive: memory, TCP, UDP.
 *
 *     class FarAway extends FaultsMixIn(ThreadingTCPServer, { incoming: { latency: 100 }, outgoing: { latency: 100 } }) {}
 *     class Lossy extends FaultsMixIn(MemoryDatagramServer, { incoming: { loss: 0.1, duplicates: 0.1, reorder: 0.1 } }) {}
 *
 * The seed of each connection is one more than that of the one before, so that they differ, and are the same each
 * time. `options` are those of `withFaults`.
 */
export const FaultsMixIn = <Base extends ServerClass>(
  Server: Base,
  faults: Base extends abstract new (
    ...args: never[]
  ) => BaseServer<StreamSocket, unknown>
    ? StreamFaults
    : DatagramFaults,
  options: Partial<StreamOptions> = {},
): Base => {
  settleStream(options);
  const given: StreamFaults & DatagramFaults = faults;
  const names = [given.incoming, given.outgoing].flatMap((way) => Object.keys(way ?? {}));
  if (LIKELIHOODS.some((name) => names.includes(name))) checkDatagrams(given);
  else checkStream(given);
  abstract class FaultyServer extends Server {
    #connections = 0;
    #links: [Link, Link] | null = null;

    protected override arrive(request: StreamSocket | Datagram, clientAddress: Address | null): void {
      if (request instanceof StreamSocket) {
        const seed = (given.seed ?? 1) + this.#connections++;
        super.arrive(withFaults(request, { ...given, seed }, options), clientAddress);
        return;
      }
      this.#links ??= linksOf(given);
      const [incoming, outgoing] = this.#links;
      const reply = (data: Data): number => {
        const bytes = new Uint8Array(toBytes(data));
        checkDatagramSize(bytes.length, clientAddress);
        outgoing.pass(() => {
          try {
            request.reply(bytes);
          } catch {
            // the server is closed by now: lost, as all that is on its way then
          }
        });
        return bytes.length;
      };
      incoming.pass(() => {
        const { data, truncated } = request;
        const own = new Uint8Array(data);
        super.arrive(new ServedDatagram(own, request.address, { post: reply }, truncated), clientAddress);
      });
    }
  }
  return FaultyServer;
};

/**
 * `Handler`, each of whose connections has faults: where the server is the platform's own, as in a Worker, or where it
 * is one that dials. Seeds and `options` are as with `FaultsMixIn`.
 *
 *     defineApp({ handlers: { mail: faultyHandler(Mail, { incoming: { slice: 1 } }) }, listen: [...] })
 *
 * Throws `TypeError` and `RangeError` for faults that cannot be.
 */
export const faultyHandler = <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  faults: StreamFaults,
  options: Partial<StreamOptions> = {},
): HandlerClass<StreamSocket, Context> => {
  checkHandler(Handler);
  checkStream(faults);
  settleStream(options);
  let connections = 0;
  class Faulty extends BaseRequestHandler<StreamSocket, Context> {
    override async handle(): Promise<unknown> {
      const seed = (faults.seed ?? 1) + connections++;
      const stream = withFaults(this.request, { ...faults, seed }, options);
      try {
        return await new Handler(stream, this.clientAddress, serverOf(this, stream)).run();
      } finally {
        await stream.close();
      }
    }
  }
  return Object.defineProperty(Faulty, "name", { value: Handler.name });
};
