/**
 * One run of a framing check: a handler on a connection in memory, whose other end does step after step, and all that
 * it does there seen: what it answers, how it ends, and what it leaves behind.
 */

import { type Data, DONE, joinBytes, type MaybePromise, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import type { HandlerClass } from "../serve/handler.ts";
import { BaseServer } from "../serve/server.ts";
import {
  type Capabilities,
  type StreamOptions,
  type StreamSink,
  StreamSocket,
  type StreamTransport,
} from "../sockets/stream-socket.ts";
import { replaceTimers } from "./clock.ts";
import { makeContext } from "./script.ts";

const VAIN = 256; // reads of which nothing came, one after the other, that are no endless loop yet
const STEPS = 64; // microtasks without progress, after which the platform gets a turn
const TURNS = 3; // turns without progress, after which a handler that waits for nothing else has nothing to do
const SETTLED = 5; // ms without progress, after which a handler that reads has answered
const SETTLED_LATER = 20; // the same where it is known to wait for others than its peer
const PEER: Address = { family: "IPv4", hostname: "192.0.2.1", port: 49_152 }; // RFC 5737: nobody's
const HERE: Address = { family: "IPv4", hostname: "192.0.2.2", port: 7 };

export const EMPTY = new Uint8Array(0);

// Taken now, so that a test's fake clock stops nothing here.
const { setTimeout: later, clearTimeout: forget } = globalThis;
const now = performance.now.bind(performance);
/** A turn of the platform's timers, by which it has told of every rejection: 1.1 ms in Node, 1.4 in workerd. */
const pause = (): Promise<void> => new Promise((resolve) => void later(resolve, 1));

/** What a peer does next: sends a piece; waits for so many bytes of answer, or until a read waits, or until nothing is left to be done; ends; resets. */
export type Step = Uint8Array | number | "reading" | "settled" | "end" | "reset";

/** What came of it. */
export interface Outcome {
  /** What is masked is one byte of it. */
  readonly answer: Uint8Array;
  readonly result: unknown;
  readonly thrown: { readonly error: unknown } | null;
  readonly effect: unknown;
  /** The handler's side ended by a reset. */
  readonly reset: boolean;
  readonly how: Ending;
  /** What the peer had yet to do. */
  readonly next: Step | undefined;
  /** How much had been answered after each step that was `settled`. */
  readonly marks: readonly number[];
  readonly leaks: Leaks;
}

/** How a run ended: the handler did; enough was seen; it reads on and on, and gets nothing; it waits, to read or for something else, and nothing happens. */
type Ending = "over" | "enough" | "spins" | "reads" | "waits";

/** What is left when all should be over; of no meaning where it was not. */
interface Leaks {
  /** Reads that began when the handler had ended. */
  readonly reads: number;
  readonly writes: readonly Uint8Array[];
  readonly timers: readonly Timer[];
  readonly rejected: readonly unknown[];
  readonly thrown: readonly unknown[];
}

interface Timer {
  readonly name: string;
  readonly ms: number;
  /** When it was set, by `now()`. */
  readonly since: number;
  /** Where it was set, where that was asked for. */
  readonly where: string;
}

/** The other end of a handler's connection, which does one step after the other. */
class Peer implements StreamTransport {
  readonly localAddress = HERE;
  readonly remoteAddress = PEER;
  readonly capabilities: Capabilities = { reset: true, peername: true };
  readonly unsent = 0;
  /** Grows with all that happens on the connection. */
  progress = 0;
  /** A read waits. */
  reading = false;
  /** The handler's side sends no more. */
  ended = false;
  /** It was let go by a reset. */
  reset = false;
  /** How much had been answered after each step that was `settled`. */
  readonly marks: number[] = [];
  readonly #steps: readonly Step[];
  readonly #ahead: boolean;
  readonly #mask: RegExp | null;
  readonly #hoped: readonly number[];
  readonly #answer: Uint8Array[] = [];
  #masked: Uint8Array = EMPTY;
  #fresh = false; // something was said since #masked was made
  #size = 0;
  #at = 0;
  #sink: StreamSink | undefined;
  #held = false; // pause() was called
  #closed = false;
  #scheduled = false;
  #deferred: (() => void)[] = [];

  /** `hoped`: how many bytes more are to be answered by each step that is `settled`, where that is known. */
  constructor(steps: readonly Step[], ahead: boolean, mask: RegExp | null, hoped: readonly number[]) {
    this.#steps = steps;
    this.#ahead = ahead;
    this.#mask = mask;
    this.#hoped = hoped;
  }

  /** The step that is next; undefined when all are done. */
  get next(): Step | undefined {
    return this.#steps[this.#at];
  }

  /** What the handler has said; what is masked is one byte of it. */
  get answer(): Uint8Array {
    if (this.#fresh) {
      const whole = joinBytes(this.#answer, this.#size);
      this.#answer.splice(0, this.#answer.length, whole);
      this.#masked = masked(whole, this.#mask);
      this.#fresh = false;
    }
    return this.#masked;
  }

  /** How many bytes that is. */
  get answered(): number {
    return this.#mask === null ? this.#size : this.answer.length;
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
    this.#schedule();
  }

  resume(): void {
    this.reading = true;
    this.#held = false;
    this.progress++;
    this.#schedule();
  }

  pause(): void {
    this.reading = false;
    this.#held = true;
  }

  write(data: Data): undefined {
    const bytes = typeof data === "string" ? toBytes(data) : new Uint8Array(data);
    this.#answer.push(bytes);
    this.#fresh = true;
    this.#size += bytes.length;
    this.progress++;
    this.#schedule();
  }

  end(): Promise<void> {
    this.ended = true;
    this.progress++;
    return DONE;
  }

  close(): void {
    this.#closed = true;
  }

  abort(): void {
    this.reset = !this.#closed;
    this.#closed = this.ended = true;
    this.progress++;
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
    this.progress++;
  }

  /** Ends the turn: what was to be done then is done. Gives false where that is nothing. */
  endTurn(): boolean {
    const tasks = this.#deferred;
    this.#deferred = [];
    for (const task of tasks) task();
    return tasks.length > 0;
  }

  /** Nothing is left to be done, as it seems, or for `sure`: a step that waited for that is over. Gives false where none did. */
  settle(sure: boolean): boolean {
    const { next, marks } = this;
    if (next !== "settled" && next !== "reading") return false;
    if (next === "settled") {
      if (!sure && this.answered < (marks.at(-1) ?? 0) + (this.#hoped[marks.length] ?? 0)) return false;
      marks.push(this.answered);
    }
    this.#step();
    this.#schedule();
    return true;
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      while (!this.#closed && this.#mayGoOn()) this.#step();
    });
  }

  #mayGoOn(): boolean {
    const { next } = this;
    if (next === undefined || next === "settled") return false;
    if (next === "end" || next === "reset") return true;
    if (typeof next === "number") return this.answered >= next;
    return this.reading || (this.#ahead && !this.#held && next !== "reading");
  }

  #step(): void {
    const step = this.next;
    this.#at++;
    this.progress++;
    if (step instanceof Uint8Array) {
      this.reading = this.#sink?.data(step.slice()) ?? false; // a copy: what a read gives is the handler's to change
    } else if (step === "end" || step === "reset") {
      this.reading = false; // whatever read there was has its answer now
      if (step === "end") this.#sink?.end();
      else this.#sink?.error(new SocketError("ECONNRESET"));
    }
  }
}

/** `answer` with the parts that `mask` matches made the same. */
export const masked = (answer: Uint8Array, mask: RegExp | null): Uint8Array => {
  if (mask === null) return answer;
  const text = Array.from(answer, (byte) => String.fromCharCode(byte)).join("");
  return Uint8Array.from(text.replace(mask, "*"), (char) => char.charCodeAt(0));
};

/** Sees the platform's timers, and the rejections that nobody else does, while a check runs. */
class Watch {
  /** Whether it is asked where a timer is set. */
  asks = false;
  readonly #timers = new Map<unknown, Timer>();
  readonly #rejected: unknown[] = [];
  readonly #thrown: unknown[] = [];
  readonly #channel = typeof MessageChannel === "undefined" ? null : new MessageChannel();
  #turned: () => void = () => {};
  readonly #stops: readonly (() => void)[];

  constructor() {
    if (this.#channel !== null) this.#channel.port1.onmessage = () => this.#turned();
    const stopTimers = replaceTimers({
      set: (name, callback, ms, real) => {
        const timer: unknown = real(() => {
          if (name !== "setInterval") this.#timers.delete(timer);
          try {
            callback();
          } catch (error) {
            this.#thrown.push(error);
          }
        });
        this.#timers.set(timer, { name, ms, since: now(), where: this.asks ? calledFrom() : "" });
        return timer;
      },
      clear: (timer) => {
        if (!this.#timers.delete(timer)) this.#forget(timer);
        return false;
      },
    });
    this.#stops = [stopTimers, watchRejections((error) => this.#rejected.push(error))];
  }

  stop(): void {
    for (const stop of this.#stops) stop();
    this.#channel?.port1.close(); // an open one keeps a process from ending
  }

  /** Lets the platform do what else there is to do, by a message to oneself: 6 µs in Node, 14 in workerd. */
  turn(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (this.#channel === null) return pause();
    this.#turned = resolve;
    this.#channel.port2.postMessage(null);
    return promise;
  }

  /** The rejections that nobody saw since this was last asked, all of them. */
  async rejections(): Promise<unknown[]> {
    await pause();
    return this.#rejected.splice(0);
  }

  /** Whether a timer fires within `ms` milliseconds. */
  soon(ms: number): boolean {
    for (const timer of this.#timers.values()) if (timer.since + timer.ms - now() <= ms) return true;
    return false;
  }

  /** What is left of a run, and from now on no longer watched. */
  async left(): Promise<Pick<Leaks, "timers" | "thrown">> {
    await this.turn();
    for (let i = 0; i < TURNS && this.soon(1); i++) await pause(); // the last of a turn, no more
    const timers: Timer[] = [];
    for (const [timer, set] of this.#timers) {
      // Node's own word for one that is over: it can be cleared by its methods, too.
      if ((timer as { _destroyed?: boolean })._destroyed !== true) timers.push(set);
      if (this.asks) forget(timer as never); // it is told of, and must not hold up the process
    }
    this.#timers.clear();
    return { timers, thrown: this.#thrown.splice(0) };
  }

  /** A timer that is given as its number. */
  #forget(timer: unknown): void {
    for (const key of this.#timers.keys()) {
      if (typeof timer !== "object" && Number(key) === Number(timer)) this.#timers.delete(key);
    }
  }
}

/** Where a timer was set: the first line of the stack that is none of ours. */
const calledFrom = (): string => {
  const lines = (new Error().stack ?? "").split("\n").slice(1);
  return lines.find((line) => !/[/\\]testing[/\\](framing|clock)/.test(line))?.trim() ?? "";
};

type Listener = (error: unknown) => void;

/** Calls `told` for each promise that rejects and that nobody sees, in the place of those whom the platform tells. */
const watchRejections = (told: Listener): (() => void) => {
  const { process, addEventListener, removeEventListener } = globalThis as unknown as {
    readonly process?: {
      rawListeners?(event: string): Listener[];
      on(event: string, listener: Listener): void;
      removeListener(event: string, listener: Listener): void;
    };
    readonly addEventListener?: (type: string, listener: (event: never) => void) => void;
    readonly removeEventListener?: (type: string, listener: (event: never) => void) => void;
  };
  const event = "unhandledRejection"; // Node's
  const others = process?.rawListeners?.(event) ?? [];
  if (process?.rawListeners !== undefined) {
    for (const other of others) process.removeListener(event, other);
    process.on(event, told);
  }
  const hear = (event: PromiseRejectionEvent): void => {
    event.preventDefault();
    told(event.reason);
  };
  addEventListener?.("unhandledrejection", hear); // the Web's
  return () => {
    removeEventListener?.("unhandledrejection", hear);
    if (process?.rawListeners === undefined) return;
    process.removeListener(event, told);
    for (const other of others) process.on(event, other);
  };
};

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

/** Counts what is read and written of `socket` when nothing should be; a read that goes on for ever gets nothing more. */
class Meter {
  /** The handler has ended. */
  over = false;
  /** Reads, one after the other, that nothing came of. */
  vain = 0;
  /** Reads that began when the handler had ended. */
  late = 0;
  readonly writes: Uint8Array[] = [];

  constructor(socket: StreamSocket, peer: Peer) {
    const { rfile, wfile } = socket;
    let progress = -1;
    let buffered = -1;
    /** Notes a read; gives false where it must not be. */
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
      throw new SocketError("EBADF", `tried to read ${VAIN} times, and nothing came`); // what is synchronous cannot wait
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

  /** Whether the handler reads on and on, as after an end or an error that it does not heed. */
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

/** How runs are made. */
export interface RigOptions<Context> {
  readonly context?: (() => MaybePromise<Context>) | undefined;
  readonly params?: unknown;
  // biome-ignore lint/suspicious/noExplicitAny: any server of streams
  readonly server?: (() => BaseServer<StreamSocket, any>) | undefined;
  readonly effect?: ((context: Context) => unknown) | undefined;
  readonly stream: StreamOptions;
  readonly mask: RegExp | null;
  readonly patience: number;
}

/** Holds conversations with one handler, one after the other. */
export class Rig<Context> {
  /** How many were held. */
  runs = 0;
  readonly #Handler: HandlerClass<StreamSocket, Context>;
  readonly #options: RigOptions<Context>;
  readonly #watch = new Watch();
  #waits = false; // the handler was seen to wait for others than its peer

  constructor(Handler: HandlerClass<StreamSocket, Context>, options: RigOptions<Context>) {
    this.#Handler = Handler;
    this.#options = options;
  }

  /** Whether it is asked where each timer is set, and which run's rejections nobody saw: 5 µs a timer, 1 ms a run. */
  get asks(): boolean {
    return this.#watch.asks;
  }

  set asks(asks: boolean) {
    this.#watch.asks = asks;
  }

  /** The rejections of all runs so far that nobody saw; those that were asked for, and told, no more. */
  rejections(): Promise<unknown[]> {
    return this.#watch.rejections();
  }

  /** What the platform's timers do is seen no more. */
  stop(): void {
    this.#watch.stop();
  }

  /** Runs the handler on `request`, while `talk` does; then lets both go. */
  async beside(request: StreamSocket, talk: () => Promise<unknown>): Promise<void> {
    const server = await this.#server();
    void server.serveRequest(request, PEER);
    try {
      await talk();
    } finally {
      await this.#watch.turn();
      server.abort();
      await this.#watch.left(); // whoever holds the same again sees it, too
      await this.#watch.rejections();
    }
  }

  async #server(): Promise<BaseServer<StreamSocket, Context>> {
    const { server, context, params } = this.#options;
    if (server === undefined) {
      return new OneServer<Context>(
        this.#Handler,
        params,
        (await makeContext("checkFraming()", context)) as Context,
      );
    }
    const own: BaseServer<StreamSocket, Context> = server();
    own.RequestHandlerClass = this.#Handler;
    return own;
  }

  /** Holds one conversation; with `enough`, until more than so many bytes are answered. */
  async hold(
    steps: readonly Step[],
    ahead: boolean,
    hoped: readonly number[] = [],
    enough = Number.POSITIVE_INFINITY,
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

  /** Lets all go on until the run is over, or nothing goes on any more. */
  async #drive(peer: Peer, meter: Meter, over: () => boolean, enough: number): Promise<Ending> {
    const { patience } = this.#options;
    let since = now();
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
      const timed = this.#watch.soon(patience);
      await (turns < TURNS ? this.#watch.turn() : pause());
      if (peer.progress !== seen || over()) {
        this.#waits ||= !timed;
        turns = 0;
        since = now();
        continue;
      }
      if (++turns < TURNS) continue;
      // Who waits for its peer alone, and was never seen to wait for others, does nothing any more.
      const quiet = now() - since;
      const late = quiet > patience;
      const waits = peer.reading && !this.#watch.soon(patience);
      const settled = waits && quiet > (this.#waits ? SETTLED_LATER : SETTLED);
      if ((late || settled) && peer.settle(late)) {
        turns = 0;
        since = now();
      } else if (late || (waits && !this.#waits && peer.next !== "settled")) {
        return peer.reading ? "reads" : "waits";
      }
    }
  }
}
