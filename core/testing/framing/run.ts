/**
 * One run of a framing check: a handler on a connection in memory, whose other end takes step after step. Everything that
 * the handler does is observed: what it answers, how it ends, and what it leaves behind.
 */

import { type Data, type MaybePromise, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { HandlerClass } from "../../handlers/handler.ts";
import type { Address } from "../../net/address.ts";
import { BaseServer } from "../../serve/server.ts";
import type { StreamOptions } from "../../sockets/streams/stream-options.ts";
import { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { HERE, PEER, Peer, type Step } from "./peer.ts";
import { type Leaks, now, pause, TURNS, Watch } from "./watch.ts";

const VAIN = 256; // consecutive reads without a result; one more counts as an endless loop
const STEPS = 64; // microtasks without progress, after which the platform gets a turn
const SETTLED = 5; // ms without progress, after which a handler that reads has answered
const SETTLED_LATER = 20; // the same if it is known to wait for something other than its peer
const LOOKED = 10; // the most ms that one look counts: for longer, this process did not run, and neither did the handler

/** The result of a run. */
export interface Outcome {
  /** Each masked part is one byte. */
  readonly answer: Uint8Array;
  readonly result: unknown;
  readonly thrown: { readonly error: unknown } | null;
  readonly effect: unknown;
  /** Whether the handler's side ended with a reset. */
  readonly reset: boolean;
  readonly how: Ending;
  /** The step that the peer had reached. */
  readonly next: Step | undefined;
  /** The bytes answered after each `settled` step. */
  readonly marks: readonly number[];
  readonly leaks: Leaks;
}

/** How a run ended: the handler ended; enough was seen; it reads endlessly without a result; it waits, to read or for something else, and nothing happens. */
type Ending = "over" | "enough" | "spins" | "reads" | "waits";

/** Serves one request in memory, with `params` as if it were a session's. */
class OneServer<Context> extends BaseServer<StreamSocket, Context> {
  readonly serverAddress = HERE;
  readonly #params: unknown;

  constructor(Handler: HandlerClass<StreamSocket, Context>, params: unknown, context: Context) {
    super(Handler, { context });
    this.#params = params;
  }

  protected override begin(request: StreamSocket, address: Address | null) {
    return super.begin(request, address, this.#params);
  }
}

/** Counts reads and writes of `socket` when there should be none, and stops an endless series of reads. */
class Meter {
  /** Whether the handler has ended. */
  over = false;
  /** Consecutive reads without a result. */
  vain = 0;
  /** Reads that began when the handler had ended. */
  late = 0;
  readonly writes: Uint8Array[] = [];

  constructor(socket: StreamSocket, peer: Peer) {
    const { rfile, wfile } = socket;
    let progress = -1;
    let buffered = -1;
    /** Counts a read; returns false if it must not happen. */
    const mayRead = (): boolean => {
      if (this.over) this.late++;
      this.vain = progress === peer.progress && buffered === rfile.buffered ? this.vain + 1 : 0;
      progress = peer.progress;
      buffered = rfile.buffered;
      return !this.spins;
    };
    for (const name of READS) {
      const own = rfile[name].bind(rfile) as (...args: unknown[]) => Promise<unknown>;
      const read = (...args: unknown[]): Promise<unknown> =>
        mayRead() ? own(...args) : new Promise(() => {});
      Object.assign(rfile, { [name]: read });
    }
    const { tryLine, lines } = rfile;
    rfile.tryLine = () => {
      if (mayRead()) return tryLine.call(rfile);
      throw new SocketError("EBADF", `tried to read ${VAIN} times, and nothing came`); // a synchronous read cannot wait
    };
    rfile.lines = () => {
      const own = lines.call(rfile);
      const next = own.next.bind(own);
      own.next = () => (mayRead() ? next() : new Promise(() => {}));
      return own;
    };
    for (const name of ["write", "sendall"] as const) {
      const own = wfile[name].bind(wfile) as (...args: unknown[]) => unknown;
      const write = (data: Data, ...rest: unknown[]): unknown => {
        if (peer.ended || socket.closed) this.writes.push(new Uint8Array(toBytes(data)));
        return own(data, ...rest);
      };
      Object.assign(wfile, { [name]: write });
    }
  }

  /** Whether the handler reads endlessly, as after an end or an error that it ignores. */
  get spins(): boolean {
    return this.vain > VAIN;
  }
}

const READS = [
  "recv",
  "receive",
  "peek",
  "recvInto",
  "read",
  "readexactly",
  "readuntil",
  "readline",
  "line",
] as const;

/** Options of the runs. */
interface RigOptions<Context> {
  readonly context?: (() => MaybePromise<Context>) | undefined;
  readonly params?: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: any server of streams
  readonly server?: (() => BaseServer<StreamSocket, any>) | undefined;
  readonly effect?: ((context: Context) => unknown) | undefined;
  readonly stream: StreamOptions;
  readonly mask: RegExp | null;
  readonly timeout: number;
}

/** Runs conversations with one handler, one after the other. */
export class Rig<Context> {
  /** The number of runs so far. */
  runs = 0;
  readonly #Handler: HandlerClass<StreamSocket, Context>;
  readonly #options: RigOptions<Context>;
  readonly #watch = new Watch();
  #waits = false; // the handler was seen to wait for something other than its peer

  constructor(Handler: HandlerClass<StreamSocket, Context>, options: RigOptions<Context>) {
    this.#Handler = Handler;
    this.#options = options;
  }

  /** Whether to find out where each timer is set, and which run left an unhandled rejection: 5 µs a timer, 1 ms a run. */
  get asks(): boolean {
    return this.#watch.asks;
  }

  set asks(asks: boolean) {
    this.#watch.asks = asks;
  }

  /** The unhandled rejections of all runs since this was last called. */
  rejections(): Promise<unknown[]> {
    return this.#watch.rejections();
  }

  /** Stops watching the platform's timers. */
  stop(): void {
    this.#watch.stop();
  }

  /** Runs the handler on `request`, and `talk` beside it; then closes both ends. */
  beside(request: StreamSocket, talk: () => Promise<unknown>): Promise<void> {
    return this.#watch.within(() => this.#beside(request, talk));
  }

  async #beside(request: StreamSocket, talk: () => Promise<unknown>): Promise<void> {
    const server = await this.#server();
    void server.serveRequest(request, PEER);
    try {
      await talk();
    } finally {
      await this.#watch.turn();
      server.abort();
      await this.#watch.left(); // repeating the run shows it again
      await this.#watch.rejections();
    }
  }

  async #server(): Promise<BaseServer<StreamSocket, Context>> {
    const { server, context, params } = this.#options;
    if (server === undefined) {
      return new OneServer<Context>(this.#Handler, params, (await context?.()) as Context);
    }
    const own: BaseServer<StreamSocket, Context> = server();
    own.RequestHandlerClass = this.#Handler;
    return own;
  }

  /** Runs one conversation; with `enough`, until the answer has more than this many bytes. */
  hold(
    steps: readonly Step[],
    ahead: boolean,
    hoped: readonly number[] = [],
    enough = Number.POSITIVE_INFINITY,
  ): Promise<Outcome> {
    return this.#watch.within(() => this.#hold(steps, ahead, hoped, enough));
  }

  async #hold(
    steps: readonly Step[],
    ahead: boolean,
    hoped: readonly number[],
    enough: number,
  ): Promise<Outcome> {
    const { mask, stream, effect: effectOf } = this.#options;
    this.runs++;
    const server = await this.#server();
    const peer = new Peer(steps, ahead, mask, hoped);
    const socket = new StreamSocket(peer, stream);
    const meter = new Meter(socket, peer);
    let result: unknown;
    let thrown: Outcome["thrown"] = null;
    const finishRequest = server.finishRequest.bind(server);
    server.finishRequest = async (request, address) => {
      try {
        result = await finishRequest(request, address);
      } catch (error) {
        thrown = { error };
        throw error;
      } finally {
        meter.over = true;
      }
    };
    let over = false;
    void Promise.resolve(server.serveRequest(socket, PEER)).then(() => {
      over = true;
    });
    const how = await this.#drive(peer, meter, () => over, enough);
    const { answer, next, marks, reset } = peer;
    const effect = how === "over" ? await effectOf?.(server.context) : undefined;
    if (how !== "over") server.abort();
    const left = await this.#watch.left();
    const rejected = this.#watch.asks ? await this.#watch.rejections() : [];
    const leaks = { ...left, rejected, reads: meter.late, writes: meter.writes };
    return { answer, result, thrown, effect, reset, how, next, marks, leaks };
  }

  /** Lets everything run until the run has ended, or nothing happens any more. */
  async #drive(peer: Peer, meter: Meter, over: () => boolean, enough: number): Promise<Ending> {
    const { timeout } = this.#options;
    let quiet = 0; // ms without progress
    let looked = now();
    for (let turns = 0; ; ) {
      let seen = peer.progress;
      for (let steps = 0; steps < STEPS && !over(); steps++) {
        await undefined;
        if (peer.progress === seen) continue;
        seen = peer.progress;
        steps = 0;
      }
      if (over()) return "over";
      if (meter.spins) return "spins";
      if (peer.answered > enough) return "enough";
      if (peer.endTurn()) continue;
      const timed = this.#watch.soon(timeout);
      await (turns < TURNS ? this.#watch.turn() : pause());
      const time = now();
      quiet += Math.min(time - looked, LOOKED);
      looked = time;
      if (peer.progress !== seen || over()) {
        this.#waits ||= !timed;
        turns = quiet = 0;
        continue;
      }
      if (++turns < TURNS) continue;
      // A handler that waits only for its peer, and has never been seen to wait for anything else, is idle.
      const late = quiet > timeout;
      const waits = peer.reading && !this.#watch.soon(timeout);
      const settled = waits && quiet > (this.#waits ? SETTLED_LATER : SETTLED);
      if ((late || settled) && peer.settle(late)) {
        turns = quiet = 0;
      } else if (late || (waits && !this.#waits && peer.next !== "settled")) {
        return peer.reading ? "reads" : "waits";
      }
    }
  }
}
