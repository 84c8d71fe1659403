/**
 * The life of a request, from its arrival to its close: `BaseServer`, where requests arrive, `BaseConnector`,
 * which dials them, and `BaseEndpoint`, what both do with one.
 *
 *     a server                                          a connector
 *     getRequest()       the next that arrived          connect()
 *     verifyRequest()    false: turned away                 │
 *     processRequest()   serial: waits for the end          │
 *            │           threading: goes on at once         │
 *            └────────────────┬─────────────────────────────┘
 *     finishRequest()    makes the handler: setup, handle, finish
 *     handleError()      only where one of those threw (a connector's caller gets the error instead)
 *     shutdownRequest()  ──▶ closeRequest(): the connection is let go
 *
 * Serial, threading and forking servers differ in `processRequest` alone. A platform adds how a request
 * arrives (it calls `arrive`) and how its listener is opened and closed.
 *
 * A server ends in three steps, which `serverClose()` takes one after the other: `close()` accepts no more,
 * `drain()` lets what runs finish, `abort()` ends what has not by then.
 */

import { type Data, DONE, type MaybePromise } from "../bytes/data.ts";
import { textOf } from "../describe.ts";
import { SocketError } from "../errors.ts";
import { Gate, PEER_NAMES, type PeerRules, RATE_NAMES, type RateLimit } from "../net/access.ts";
import type { Address } from "../net/address.ts";
import {
  checkCount,
  checkOptions,
  checkTime,
  checkWord,
  MAX_TIMER,
  type OptionNames,
  optionNamesOf,
  wholeMs,
} from "../options.ts";
import { attempt, disown, isThenable, whenSettled } from "../promises.ts";
import { Datagram, type DatagramSender } from "../sockets/datagram.ts";
import { StreamSocket } from "../sockets/stream-socket.ts";
import {
  callListener,
  type EndpointInfo,
  type OnEvent,
  type Refusal,
  reportBroken,
  type SockletEvent,
  tellFailure,
} from "./events.ts";
import {
  bothErrors,
  checkHandler,
  type HandlerClass,
  type HandlerServer,
  type RequestScope,
} from "./handler.ts";

const ABORT_GRACE = 1_000; // ms that an aborted handler has to notice, before it is told as stuck

/** Options of a server or a connector. Times are milliseconds. */
export interface EndpointOptions<Context> {
  /** What it is called in events. Default: the handler's class name. */
  readonly name?: string;
  /** What handlers get as `this.context`. */
  readonly context?: Context;
  /** Told of all that happens. */
  readonly onEvent?: OnEvent;
  /** How long `drain()` lets running requests go on before it aborts them. Default 10 000. */
  readonly drainTimeout?: number;
}

export const ENDPOINT_NAMES = optionNamesOf<EndpointOptions<unknown>>("a server or a connector")({
  name: true,
  context: true,
  onEvent: true,
  drainTimeout: true,
});

/** A datagram that a server received: it counts what goes back. */
export class ServedDatagram extends Datagram {
  /** Bytes that were sent back. */
  bytesWritten = 0;
  readonly #way: DatagramWay;

  constructor(data: Uint8Array, address: Address | null, way: DatagramWay, truncated = false) {
    super(data, address, way, truncated);
    this.#way = way;
  }

  get bytesRead(): number {
    return this.data.length;
  }

  override reply(data: Data): void {
    this.bytesWritten += this.#way.post(data, this.address);
  }
}

/** The way back of a datagram at a server: `post` gives how many bytes it sent; 0 for one that it dropped. */
export interface DatagramWay extends DatagramSender {
  post(data: Data, address: Address | null): number;
}

interface Counts {
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

const NO_BYTES: Counts = { bytesRead: 0, bytesWritten: 0 };

/** How many bytes of a request came and went; 0 where a request of another kind does not count them. */
const bytesOf = (request: unknown): Counts =>
  request instanceof StreamSocket || request instanceof ServedDatagram ? request : NO_BYTES;

/** Why a peer was not sent all that a handler wrote which ended well; `null` where it was. */
const cutBy = (request: unknown, running: Running): unknown =>
  request instanceof StreamSocket ? (request.lost ?? running.reason) : null;

class Running implements RequestScope {
  readonly id: number;
  readonly address: Address | null;
  readonly params: unknown;
  readonly started = performance.now();
  /** Looks whether it takes too long; see `BaseServer`. */
  timer: ReturnType<typeof setTimeout> | undefined;
  /** Why it was aborted; `null` where it was not. */
  reason: unknown = null;
  readonly #tell: (event: SockletEvent) => void;
  readonly #server: string;
  #controller: AbortController | undefined;

  constructor(
    id: number,
    address: Address | null,
    params: unknown,
    server: string,
    tell: (event: SockletEvent) => void,
  ) {
    this.id = id;
    this.address = address;
    this.params = params;
    this.#server = server;
    this.#tell = tell;
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  emit(detail: unknown): void {
    const { id, address } = this;
    const server = this.#server;
    disown(detail, (error) => this.#tell({ type: "error", server, id, address, error }));
    this.#tell({ type: "handler", server, id, address, detail });
  }

  abort(reason: unknown): void {
    this.reason = reason;
    this.#controller ??= new AbortController(); // who asks later finds it aborted
    this.#controller.abort(reason);
  }
}

/**
 * The requests that run. The last one that began is beside the map: a datagram whose handler does not wait is over
 * before the next begins, and so costs no entry there.
 */
class Requests<Request> {
  readonly #map = new Map<Request, Running>();
  #last: Request | undefined;
  #running: Running | undefined; // of #last

  get size(): number {
    return this.#map.size + (this.#running === undefined ? 0 : 1);
  }

  get(request: Request): Running | undefined {
    return request === this.#last ? this.#running : this.#map.get(request);
  }

  set(request: Request, running: Running): void {
    this.all();
    this.#last = request;
    this.#running = running;
  }

  delete(request: Request): void {
    if (request !== this.#last) {
      this.#map.delete(request);
      return;
    }
    this.#last = undefined;
    this.#running = undefined;
  }

  /** All of them, in the order that they began. */
  all(): Map<Request, Running> {
    if (this.#running !== undefined) {
      this.#map.set(this.#last as Request, this.#running);
      this.#last = undefined;
      this.#running = undefined;
    }
    return this.#map;
  }
}

/** What a server and a connector share: they run handlers on requests, know which run, and can end them. */
export abstract class BaseEndpoint<Request, Context = unknown> implements HandlerServer<Context> {
  /**
   * The names of the options that this class's constructor takes; another is a `TypeError`. A class with options of
   * its own adds them:
   *
   *     class Greeter extends ThreadingTCPServer {
   *       static override readonly optionNames: OptionNames = { ...ThreadingTCPServer.optionNames, greeting: true };
   */
  static readonly optionNames: OptionNames = ENDPOINT_NAMES;

  /** The class that handles each request; may be replaced while requests run, which keep theirs. */
  RequestHandlerClass: HandlerClass<Request, Context>;
  /** What handlers get as `this.context`. */
  readonly context: Context;
  readonly name: string;
  onEvent: OnEvent | undefined;
  /** How long `drain()` lets running requests go on before it aborts them, in milliseconds. */
  drainTimeout: number;

  readonly #running = new Requests<Request>();
  readonly #teller = (event: SockletEvent): void => this.announce(event); // one for all requests
  #begun = 0;
  #served = 0;
  #failed = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #whenOne: (() => void)[] = []; // called when one more has ended
  #draining: Promise<void> | null = null;
  #drainDue = Number.POSITIVE_INFINITY; // when what still runs is aborted, by performance.now()
  #drainTimer: ReturnType<typeof setTimeout> | undefined;
  #late: (timeout: number) => void = () => {}; // that time is up

  constructor(RequestHandlerClass: HandlerClass<Request, Context>, options: EndpointOptions<Context> = {}) {
    checkHandler(RequestHandlerClass);
    const { name, optionNames } = new.target as unknown as typeof BaseEndpoint;
    checkOptions(name || "this class", options, optionNames);
    this.RequestHandlerClass = RequestHandlerClass;
    this.context = options.context as Context;
    this.name = options.name ?? (textOf(RequestHandlerClass.name) || "anonymous");
    this.onEvent = options.onEvent;
    this.drainTimeout = checkTime("drainTimeout", options.drainTimeout ?? 10_000, 0);
  }

  /** How many handlers run now. */
  get running(): number {
    return this.#running.size;
  }

  /** What a handler of `request` can ask. */
  scope(request: Request): RequestScope {
    const running = this.#running.get(request);
    if (running === undefined) throw new SocketError("EINVAL", "this request is not running at this server");
    return running;
  }

  /** A plain object of counts, to print or to serve. */
  info(): EndpointInfo {
    return {
      name: this.name,
      running: this.#running.size,
      served: this.#served,
      failed: this.#failed,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
    };
  }

  /** From now on nothing new begins; what runs goes on. May be called from anywhere, also from a handler. */
  abstract shutdown(): Promise<void>;

  /** Makes the handler and runs it; gives what `handle` gave. */
  finishRequest(request: Request, clientAddress: Address | null): unknown {
    return new this.RequestHandlerClass(request, clientAddress, this).run();
  }

  /** The request is over: lets its connection go, having sent what was written. */
  shutdownRequest(request: Request): MaybePromise<void> {
    return this.closeRequest(request);
  }

  closeRequest(request: Request): MaybePromise<void> {
    if (request instanceof StreamSocket) return request.close();
  }

  /** A hook or handler failed. Tells it as an event; the server goes on. */
  handleError(request: Request, clientAddress: Address | null, error: unknown): MaybePromise<void> {
    const id = this.#running.get(request)?.id;
    this.announce({ type: "error", server: this.name, ...(id && { id }), address: clientAddress, error });
  }

  /**
   * Waits until no handler runs; past `timeout` ms (default `drainTimeout`) it aborts those that do, and past
   * another second it gives up on a handler that does not notice, and tells it as an event of type `stuck`.
   * Who asks while it drains waits for the same end, which comes no later than he says.
   */
  drain(timeout: number = this.drainTimeout): Promise<void> {
    checkTime("timeout", timeout, 0);
    if (this.#running.size === 0) return this.#draining ?? DONE;
    if (this.#draining === null) {
      this.announce({ type: "draining", server: this.name, running: this.#running.size, timeout });
      this.#draining = this.#drain().finally(() => {
        this.#draining = null;
        this.#drainDue = Number.POSITIVE_INFINITY;
        clearTimeout(this.#drainTimer);
      });
    }
    const due = performance.now() + timeout;
    if (due < this.#drainDue) {
      this.#drainDue = due;
      clearTimeout(this.#drainTimer);
      this.#drainTimer = setTimeout(() => this.#late(timeout), timeout);
    }
    return this.#draining;
  }

  /** Ends all that runs, at once: signals abort, connections are reset. */
  abort(reason: unknown = new SocketError("ECONNABORTED", "the server was aborted")): void {
    for (const [request, running] of this.#running.all()) this.cancelOne(request, running, reason);
  }

  /** `cancelRequest()`, which a class of the user's may have made one that throws: the others are to be ended all the same. */
  protected cancelOne(request: Request, { id, address }: Running, reason: unknown): void {
    attempt(
      () => this.cancelRequest(request, reason),
      (error) => this.announce({ type: "error", server: this.name, id, address, error }),
    );
  }

  /** Ends one that runs, at once: its signal aborts with `reason`, its connection is reset. */
  cancelRequest(request: Request, reason: unknown): void {
    this.#running.get(request)?.abort(reason);
    this.abortRequest(request);
  }

  /** Lets go of one connection at once. */
  abortRequest(request: Request): void {
    if (request instanceof StreamSocket) request.abort();
  }

  /** Whether anybody listens to events of this type: one that nobody hears is not even made, where requests are many. */
  protected watches(_type: SockletEvent["type"]): boolean {
    return this.onEvent !== undefined;
  }

  /** Tells `event` to whoever listens. What an override of it throws is told as what the listener throws. */
  protected tell(event: SockletEvent): void {
    if (this.onEvent !== undefined) callListener(this.onEvent, event);
  }

  /** `tell()`, which a class of the user's may have made one that throws. */
  protected announce(event: SockletEvent): void {
    attempt(
      () => this.tell(event),
      (error) => {
        if (this.onEvent === undefined) reportBroken(this, error);
        else tellFailure(this.onEvent, event, error);
      },
    );
  }

  /** Resolves when one more handler has ended. */
  protected oneEnded(): Promise<void> {
    return new Promise((resolve) => this.#whenOne.push(resolve));
  }

  protected begin(request: Request, address: Address | null, params?: unknown): Running {
    const running = new Running(++this.#begun, address, params, this.name, this.#teller);
    this.#running.set(request, running);
    if (this.watches("begin")) this.announce({ type: "begin", server: this.name, id: running.id, address });
    return running;
  }

  protected end(request: Request, running: Running, failed: boolean): void {
    this.#running.delete(request);
    if (running.timer !== undefined) clearTimeout(running.timer);
    this.#served++;
    if (failed) this.#failed++;
    const { bytesRead, bytesWritten } = bytesOf(request);
    this.#bytesRead += bytesRead;
    this.#bytesWritten += bytesWritten;
    if (this.watches("end")) {
      this.announce({
        type: "end",
        server: this.name,
        id: running.id,
        address: running.address,
        duration: performance.now() - running.started,
        bytesRead,
        bytesWritten,
        failed,
      });
    }
    if (this.#whenOne.length > 0) for (const ended of this.#whenOne.splice(0)) ended();
  }

  async #drain(): Promise<void> {
    const late = Promise.withResolvers<number>();
    this.#late = late.resolve;
    const timeout = await Promise.race([this.#idle(), late.promise]);
    if (timeout === undefined) return;
    const why = `the request did not end within the drain time of ${wholeMs(timeout)}`;
    this.abort(new SocketError("ECONNABORTED", why));
    let timer: ReturnType<typeof setTimeout> | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ABORT_GRACE);
    });
    await Promise.race([this.#idle(), grace]);
    clearTimeout(timer);
    for (const { id, address } of this.#running.all().values()) {
      this.announce({ type: "stuck", server: this.name, id, address });
    }
  }

  /** Resolves when no handler runs. */
  async #idle(): Promise<undefined> {
    while (this.#running.size > 0) await this.oneEnded();
  }
}

/** What becomes of who comes while a server is suspended. */
export type Suspension = "hold" | "refuse";

/** Options of a server. Times are milliseconds. */
export interface ServerOptions<Context> extends EndpointOptions<Context> {
  /** How many requests may wait unserved; one more is refused. Default 128, as CPython's `listen()`. */
  readonly requestQueueSize?: number;
  /** How many a server that serves side by side serves at once. Default 10 000: far above what is usual, so that a flood ends somewhere. */
  readonly maxRequests?: number;
  /** When as many are served as may be (a server that serves one at a time: one), further ones `"wait"` their turn, `requestQueueSize` of them, or are `"refuse"`d at once, so that their clients try elsewhere. Default `"wait"`. */
  readonly whenFull?: "wait" | "refuse";
  /** How many one address may have at once, waiting or served; an IPv6 network of 64 bits counts as one address, and so do all whose address is not known. Default: as many as there may be, for a proxy's clients all have its address. */
  readonly maxRequestsPerAddress?: number | undefined;
  /** Who may come, by networks; others are refused before anything is made for them. Default: all. */
  readonly access?: PeerRules | undefined;
  /** How many requests one address may make in a second; counted as for `maxRequestsPerAddress`. Default: any number. */
  readonly rate?: RateLimit | undefined;
  /** How long a request may take in all, from its handler's `setup` to its end; then it is aborted: its signal, its connection. Default `null`, for ever: a chat lasts for days. */
  readonly requestTimeout?: number | null;
  /** How long a connection may carry nothing, in neither direction, whatever its handler waits for; then it is aborted, within half as much again. Default `null`, for ever: a read or a write that waits has the stream's `timeout`. */
  readonly idleTimeout?: number | null;
  /** How long `handleRequest()` waits for a request before it calls `handleTimeout()`; default `null`, for ever. */
  readonly timeout?: number | null;
  /** Whether `serverClose()`, and `serveForever()` when it was shut down, wait for what runs; where not, it goes on. Default `true`. CPython's `block_on_close`. */
  readonly blockOnClose?: boolean;
  /** Where `true`, what runs holds up no end: neither `serverClose()` nor the process's own, if the platform has one, waits for it. Default `false`. CPython's `daemon_threads`. */
  readonly daemonThreads?: boolean;
}

export const SERVER_NAMES = optionNamesOf<ServerOptions<unknown>>("a server")({
  ...ENDPOINT_NAMES,
  requestQueueSize: true,
  maxRequests: true,
  whenFull: true,
  maxRequestsPerAddress: true,
  access: PEER_NAMES,
  rate: RATE_NAMES,
  requestTimeout: true,
  idleTimeout: true,
  timeout: true,
  blockOnClose: true,
  daemonThreads: true,
});

const SIGNAL_NAMES = optionNamesOf<{ readonly signal?: AbortSignal }>()({ signal: true });

/** Where a server is in its life. */
export type ServerState = "new" | "listening" | "serving" | "closed";

/** What a server says of itself: `info()`. */
export interface ServerInfo extends EndpointInfo {
  readonly state: ServerState;
  /** What becomes of who comes now; `null` where it is not suspended. */
  readonly suspended: Suspension | null;
  readonly address: Address | null;
  /** Requests that have arrived and wait for their turn. */
  readonly waiting: number;
  /** Requests that were turned away. */
  readonly refused: number;
}

type Arrival<Request> = [request: Request, clientAddress: Address | null];

/** What `getRequest()` gave, which a class of the user's may have overridden. */
const checkArrival = <Request>(given: Arrival<Request>): Arrival<Request> => {
  if (Array.isArray(given) && given.length === 2) return given;
  throw new TypeError(`getRequest() gives [request, clientAddress], not ${textOf(given, 100)}`);
};

/**
 * Serves requests one at a time. CPython's `BaseServer`.
 *
 * A constructor cannot wait, so it binds nothing: `listen()`, `serveForever()` and `handleRequest()` bind first,
 * and reject where that fails (`EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`).
 *
 * Throws TypeError and RangeError for an option that is wrong, `ERR_INVALID_ADDRESS` for a network in `access`.
 */
export abstract class BaseServer<Request, Context = unknown>
  extends BaseEndpoint<Request, Context>
  implements AsyncDisposable
{
  static override readonly optionNames: OptionNames = SERVER_NAMES;

  /** How many requests may wait unserved; one more is refused. */
  requestQueueSize: number;
  /** How many are served at once, where they are served side by side (`ThreadingMixIn`). */
  maxRequests: number;
  /** What becomes of further ones. */
  whenFull: "wait" | "refuse";
  /** How long a request may take, in milliseconds; `null` for ever. */
  requestTimeout: number | null;
  /** How long a connection may carry nothing, in milliseconds; `null` for ever. */
  idleTimeout: number | null;
  /** How long `handleRequest()` waits, in milliseconds; `null` for ever. `serveForever()` ignores it, as in CPython. */
  timeout: number | null;
  /** Whether a close waits for what runs. */
  blockOnClose: boolean;
  /** Whether what runs holds up no end. */
  daemonThreads: boolean;

  readonly #gate: Gate | null;
  readonly #arrivals: Arrival<Request>[] = [];
  readonly #awaiting: ((arrived: boolean) => void)[] = []; // those who wait for an arrival
  #listening: Promise<void> | null = null;
  #since = 0; // when it began to listen
  #serving: PromiseWithResolvers<void> | null = null; // while serveForever() runs; resolved by shutdown()
  #open = false; // the pump may take the next
  #busy = false; // the pump waits for one
  #suspended: Suspension | null = null;
  #here = 0; // requests that came in and are not over
  #closed = false; // it accepts no more
  #closing: Promise<void> | null = null;
  #refused = 0;

  constructor(RequestHandlerClass: HandlerClass<Request, Context>, options: ServerOptions<Context> = {}) {
    super(RequestHandlerClass, options);
    this.requestQueueSize = checkCount("requestQueueSize", options.requestQueueSize ?? 128, 0);
    this.maxRequests = checkCount("maxRequests", options.maxRequests ?? 10_000, 1);
    this.whenFull = checkWord("whenFull", options.whenFull ?? "wait", ["wait", "refuse"]);
    this.requestTimeout = checkTime("requestTimeout", options.requestTimeout ?? null, 1, true);
    this.idleTimeout = checkTime("idleTimeout", options.idleTimeout ?? null, 1, true);
    this.timeout = checkTime("timeout", options.timeout ?? null, 1, true);
    this.blockOnClose = options.blockOnClose ?? true;
    this.daemonThreads = options.daemonThreads ?? false;
    this.#gate = Gate.of(options);
  }

  /** Where it listens; `null` before `listen()`. */
  abstract get serverAddress(): Address | null;

  /** How many are served at once. */
  protected get capacity(): number {
    return 1;
  }

  override info(): ServerInfo {
    return {
      ...super.info(),
      state: this.#closed
        ? "closed"
        : this.#open
          ? "serving"
          : this.#listening !== null
            ? "listening"
            : "new",
      suspended: this.#suspended,
      address: this.serverAddress,
      waiting: this.#arrivals.length,
      refused: this.#refused,
    };
  }

  // ---- Hooks, in the order of a server's life ----

  /** Opens the listener. Called once, by `listen()`. */
  serverBind(): MaybePromise<void> {}

  /** The listener is open: what else must be done before requests are taken. Called once, after `serverBind()`. */
  serverActivate(): MaybePromise<void> {}

  /** The next request that arrived; waits for one where none has. */
  getRequest(): MaybePromise<Arrival<Request>> {
    const next = this.#arrivals.shift();
    return next ?? this.#arrival(null).then(() => this.getRequest());
  }

  /** Whether to serve this request; where not, it is closed. */
  verifyRequest(_request: Request, _clientAddress: Address | null): MaybePromise<boolean> {
    return true;
  }

  /** Serves it. The next is taken when what this gives has settled: here, when the request is over. */
  processRequest(request: Request, clientAddress: Address | null): MaybePromise<void> {
    return this.serveRequest(request, clientAddress);
  }

  /** Called after each request that `serveForever()` took. What it throws is told as an event. (CPython also calls it twice a second.) */
  serviceActions(): void {}

  /** Called when `handleRequest()` saw no request for `timeout` ms. */
  handleTimeout(): MaybePromise<void> {}

  /**
   * Accepts no more, for good: closes the listener, and turns away what waits. What runs goes on. The first of the
   * three steps of an end; `drain()` and `abort()` are the others, and `serverClose()` is all three.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    void this.shutdown();
    this.stopListening();
    for (const [request, clientAddress] of this.#arrivals.splice(0)) {
      this.#leave(clientAddress);
      this.refuse(request, clientAddress, "closing");
    }
    for (const told of this.#awaiting.splice(0)) told(false);
  }

  /**
   * `close()`, `drain()`, and lets all go; with `blockOnClose` false, or `daemonThreads`, without the drain: what
   * runs goes on. Idempotent. A handler that awaits this waits for itself until the drain time aborts it: it should
   * call `shutdown()`.
   */
  serverClose(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.serverClose();
  }

  // ---- Running it ----

  /** Binds and activates, once; gives the address. What `serveForever()` and `handleRequest()` begin with. */
  async listen(): Promise<Address | null> {
    if (this.#closed) throw new SocketError("EBADF", "the server is closed; make a new one");
    this.#listening ??= this.#listen();
    await this.#listening;
    return this.serverAddress;
  }

  /** Takes exactly one request (CPython's `handle_request`): resolves when it was processed, or after `handleTimeout()`. */
  async handleRequest(): Promise<void> {
    await this.listen();
    if (!(await this.#arrival(this.timeout))) return this.handleTimeout();
    const first = this.#arrivals[0];
    try {
      const [request, clientAddress] = checkArrival(await this.getRequest());
      await this.verifyAndProcess(request, clientAddress);
    } catch (error) {
      await this.#notTaken(first); // the rest never rejects
      throw error;
    }
  }

  /**
   * Serves until `shutdown()`, or until `signal` aborts; then drains: resolves when all that had begun is over (with
   * `blockOnClose` false, at once).
   * Rejects as `listen()`, and with `EBUSY` where it runs already.
   */
  async serveForever(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    checkOptions("serveForever()", options, SIGNAL_NAMES);
    if (this.#serving !== null) throw new SocketError("EBUSY", "serveForever() runs already on this server");
    const serving = Promise.withResolvers<void>();
    this.#serving = serving;
    const stop = (): void => void this.shutdown();
    try {
      options.signal?.addEventListener("abort", stop);
      if (options.signal?.aborted) stop();
      await this.listen();
      if (this.#serving === serving) {
        this.#open = true;
        this.#pump();
      }
      await serving.promise;
    } finally {
      options.signal?.removeEventListener("abort", stop);
      if (this.#serving === serving) await this.shutdown();
    }
    if (this.#waitsAtTheEnd) await this.drain();
  }

  /**
   * No request begins from now on; those that run go on, and `serveForever()` resolves when they are over.
   * It waits for nothing, so it may be called from anywhere, also from a handler, and never dead-locks.
   */
  override shutdown(): Promise<void> {
    this.#open = false;
    this.#serving?.resolve();
    this.#serving = null;
    return DONE;
  }

  /**
   * Takes nobody for a while. `"hold"`: who comes waits, connected and unread, `requestQueueSize` of them, and one
   * more is refused; `"refuse"`: who comes is refused at once, and those that waited before are served. What runs goes
   * on. Until `resume()`; may be called again, to change how.
   */
  suspend(how: Suspension): void {
    this.#suspended = checkWord<Suspension>("how", how, ["hold", "refuse"]);
    this.announce({ type: "suspended", server: this.name, how });
    this.#takeOn();
  }

  /** Ends `suspend()`: who was held is served now. */
  resume(): void {
    if (this.#suspended === null) return;
    this.#suspended = null;
    this.announce({ type: "resumed", server: this.name, waiting: this.#arrivals.length });
    this.#takeOn();
  }

  /**
   * Serves one request to its end, and never rejects: `finishRequest`, `handleError` where that threw, then
   * `shutdownRequest`. What `processRequest` calls, waiting for it or not.
   */
  serveRequest(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    const running = this.begin(request, clientAddress);
    try {
      const result = this.finishRequest(request, clientAddress);
      if (isThenable(result)) {
        this.#mayWatch(request, running);
        return whenSettled(
          result,
          () => this.#letGo(request, clientAddress, running, false),
          (error) => this.#fail(request, clientAddress, error, running),
        );
      }
    } catch (error) {
      return this.#fail(request, clientAddress, error, running);
    }
    return this.#letGo(request, clientAddress, running, false);
  }

  // ---- For the platform ----

  /** A request has come. Called by the platform; refuses it where it may not come in, or too many wait already. */
  protected arrive(request: Request, clientAddress: Address | null): void {
    const refusal = this.admit(clientAddress);
    if (refusal !== null) {
      this.refuse(request, clientAddress, refusal);
      return;
    }
    const first = this.#arrivals.length === 0 && this.#awaiting.length === 0;
    if (first && this.#isFree && this.getRequest === BaseServer.prototype.getRequest) {
      this.#busy = true;
      this.#goOn(this.verifyAndProcess(request, clientAddress)); // what would be taken at once need not queue
      this.#pump(); // who came meanwhile
      return;
    }
    this.#arrivals.push([request, clientAddress]);
    const awaited = this.#suspended === "hold" ? undefined : this.#awaiting.shift();
    if (awaited !== undefined) awaited(true);
    else this.#pump();
    if (this.#arrivals.length > this.requestQueueSize + (awaited === undefined ? 0 : 1)) {
      this.#arrivals.pop();
      this.#leave(clientAddress);
      this.refuse(request, clientAddress, "full");
    }
  }

  /** Why a request from `clientAddress` may not come in; or `null`, and it counts until it is over. */
  protected admit(clientAddress: Address | null): Refusal | null {
    if (this.#closed) return "closing";
    if (this.#suspended === "refuse") return "suspended";
    if (this.whenFull === "refuse" && this.#suspended === null && this.#here >= this.capacity) return "full";
    const refusal = this.#gate === null ? null : this.#gate.enter(clientAddress);
    if (refusal === null) this.#here++;
    return refusal;
  }

  // ---- Inside ----

  async #listen(): Promise<void> {
    try {
      await this.serverBind();
      await this.serverActivate();
    } catch (error) {
      await this.serverClose();
      throw error;
    }
    if (this.#closed) {
      this.stopListening(); // what was not open yet when close() was called
      await this.letGo();
      throw new SocketError("ECANCELED", "the server was closed while it was opened");
    }
    this.#since = performance.now();
    this.announce({ type: "listening", server: this.name, address: this.serverAddress });
  }

  /** Resolves to true when a request waits, to false when none came within `timeout` ms. */
  async #arrival(timeout: number | null): Promise<boolean> {
    if (this.#arrivals.length > 0 && this.#suspended !== "hold") return true;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    this.#awaiting.push(resolve);
    const late = (): void => {
      this.#awaiting.splice(this.#awaiting.indexOf(resolve), 1);
      resolve(false);
    };
    const timer = timeout === null ? undefined : setTimeout(late, timeout);
    const came = await promise;
    clearTimeout(timer);
    if (this.#closed) throw new SocketError("ECANCELED", "the server was closed");
    return came;
  }

  /** Goes on with those that were held. */
  #takeOn(): void {
    if (this.#suspended === "hold") return;
    for (const awaited of this.#awaiting.splice(0, this.#arrivals.length)) awaited(true);
    this.#pump();
  }

  /** Takes what has arrived, one after the other, as long as nothing needs to be waited for. */
  #pump(): void {
    while (this.#isFree && this.#arrivals.length > 0) {
      this.#busy = true;
      this.#goOn(this.#takeNext());
    }
  }

  /** True where the next may be taken. */
  get #isFree(): boolean {
    return this.#open && !this.#busy && this.#suspended !== "hold";
  }

  /** One was taken; `processing` is when it has been processed, where that takes time. */
  #goOn(processing: Promise<void> | undefined): void {
    if (processing === undefined) {
      this.#taken();
      return;
    }
    processing.then(() => {
      this.#taken();
      this.#pump();
    });
  }

  /** One was taken and processed. */
  #taken(): void {
    this.#busy = false;
    attempt(
      () => this.serviceActions(),
      (error) => this.#tellError(error, null),
    );
  }

  /** Never throws or rejects. */
  #takeNext(): Promise<void> | undefined {
    const first = this.#arrivals[0];
    const failed = (error: unknown): Promise<void> | undefined => {
      this.#tellError(error, null);
      return this.#notTaken(first);
    };
    let taken: Arrival<Request>;
    try {
      const next = this.getRequest();
      if (isThenable(next)) {
        const arrived = whenSettled(next, checkArrival);
        return arrived.then((taken) => this.verifyAndProcess(taken[0], taken[1]), failed);
      }
      taken = checkArrival(next);
    } catch (error) {
      return failed(error);
    }
    return this.verifyAndProcess(taken[0], taken[1]);
  }

  /**
   * `getRequest()` failed when `first` was the next: that one is let go, taken or not, or the same would fail for ever,
   * and whoever it is would wait.
   */
  #notTaken(first: Arrival<Request> | undefined): Promise<void> | undefined {
    if (first === undefined) return undefined;
    if (this.#arrivals[0] === first) this.#arrivals.shift();
    this.#abortRequest(first[0], first[1]);
    this.#leave(first[1]);
    return undefined;
  }

  /** Verifies and processes one request (CPython's `_handle_request_noblock`). Never throws or rejects. */
  protected verifyAndProcess(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    try {
      const verified = this.verifyRequest(request, clientAddress);
      if (!isThenable(verified)) return this.#process(request, clientAddress, verified);
      return whenSettled(
        verified,
        (verified) => this.#process(request, clientAddress, verified),
        (error) => this.#fail(request, clientAddress, error),
      );
    } catch (error) {
      return this.#fail(request, clientAddress, error);
    }
  }

  /** Processes a request that was verified, turns another away. Never throws or rejects. */
  #process(request: Request, clientAddress: Address | null, verified: boolean): Promise<void> | undefined {
    try {
      if (verified) {
        const processed = this.processRequest(request, clientAddress);
        if (!isThenable(processed)) return undefined;
        return whenSettled(
          processed,
          () => {},
          (error) => this.#fail(request, clientAddress, error),
        );
      }
    } catch (error) {
      return this.#fail(request, clientAddress, error);
    }
    this.#refused++;
    this.announce({ type: "refused", server: this.name, address: clientAddress, reason: "verify" });
    return this.#letGo(request, clientAddress);
  }

  /** Hands `error` to `handleError`, then lets the request go. */
  #fail(
    request: Request,
    clientAddress: Address | null,
    error: unknown,
    running?: Running,
  ): Promise<void> | undefined {
    disown(error, (why) => this.#tellError(why, clientAddress, running));
    const letGo = (): Promise<void> | undefined => this.#letGo(request, clientAddress, running, true);
    const both = (second: unknown): Promise<void> | undefined => {
      this.#tellError(bothErrors("handler", error, "handleError", second), clientAddress, running);
      return letGo();
    };
    try {
      const handled = this.handleError(request, clientAddress, error);
      if (isThenable(handled)) return whenSettled(handled, letGo, both);
    } catch (second) {
      return both(second);
    }
    return letGo();
  }

  /** `shutdownRequest`, and the end of the record. */
  #letGo(
    request: Request,
    clientAddress: Address | null,
    running?: Running,
    failed = false,
  ): Promise<void> | undefined {
    try {
      const gone = this.shutdownRequest(request);
      if (isThenable(gone)) {
        if (running !== undefined) this.#mayWatch(request, running); // a peer may take its time
        return whenSettled(
          gone,
          () => this.#over(request, clientAddress, running, failed),
          (error) => this.#notLetGo(request, clientAddress, running, failed, error),
        );
      }
    } catch (error) {
      this.#notLetGo(request, clientAddress, running, failed, error);
      return undefined;
    }
    this.#over(request, clientAddress, running, failed);
    return undefined;
  }

  /** `shutdownRequest` failed: the connection must not stay open because of that. */
  #notLetGo(
    request: Request,
    clientAddress: Address | null,
    running: Running | undefined,
    failed: boolean,
    error: unknown,
  ): void {
    this.#abortRequest(request, clientAddress, running);
    // A handler that closes its connection itself is told what was lost, and so has failed with it.
    const known = failed && request instanceof StreamSocket && error === request.lost;
    if (!known) this.#tellError(error, clientAddress, running);
    this.#over(request, clientAddress, running, true);
  }

  /** `abortRequest()`, which a class of the user's may have made one that throws. */
  #abortRequest(request: Request, clientAddress: Address | null, running?: Running): void {
    attempt(
      () => this.abortRequest(request),
      (error) => this.#tellError(error, clientAddress, running),
    );
  }

  #over(
    request: Request,
    clientAddress: Address | null,
    running: Running | undefined,
    failed: boolean,
  ): void {
    if (running === undefined) {
      this.#leave(clientAddress);
      return;
    }
    const cut = failed ? null : cutBy(request, running);
    if (cut !== null) this.#tellError(cut, clientAddress, running);
    this.end(request, running, failed || cut !== null);
  }

  #tellError(error: unknown, address: Address | null, running?: Running): void {
    disown(error, (why) => this.#tellError(why, address, running));
    this.announce({ type: "error", server: this.name, ...(running && { id: running.id }), address, error });
  }

  protected override end(request: Request, running: Running, failed: boolean): void {
    super.end(request, running, failed);
    this.#leave(running.address);
  }

  /** A request that `admit()` let in is over. */
  #leave(clientAddress: Address | null): void {
    this.#here--;
    if (this.#gate !== null) this.#gate.leave(clientAddress);
  }

  #mayWatch(request: Request, running: Running): void {
    const limited = this.requestTimeout !== null || this.idleTimeout !== null;
    if (limited && running.timer === undefined) this.#watch(request, running);
  }

  /** Looks from time to time whether a request takes too long, or carries nothing; then it is aborted. */
  #watch(request: Request, running: Running): void {
    const { requestTimeout } = this;
    const idleTimeout = request instanceof StreamSocket ? this.idleTimeout : null;
    const step = idleTimeout === null ? MAX_TIMER : idleTimeout / 2;
    let carried = -1; // bytes, at the last look
    let quiet = 0; // looks in a row that found no more
    const wait = (time: number, then: () => void): void => {
      running.timer = setTimeout(then, time);
      // Where a timer can hold up the end of a process: that of a daemon must not.
      if (this.daemonThreads) (running.timer as { unref?(): void }).unref?.();
    };
    const look = (): void => {
      const left =
        requestTimeout === null ? MAX_TIMER : requestTimeout - (performance.now() - running.started);
      const { bytesRead, bytesWritten } = bytesOf(request);
      quiet = bytesRead + bytesWritten === carried ? quiet + 1 : 0;
      carried = bytesRead + bytesWritten;
      if (left <= 0) this.#expire(request, running, "requestTimeout");
      else if (idleTimeout !== null && quiet >= 2) this.#expire(request, running, "idleTimeout");
      else {
        wait(Math.max(Math.min(step, left), 1), look);
        return;
      }
      const { id, address } = running;
      wait(ABORT_GRACE, () => this.announce({ type: "stuck", server: this.name, id, address }));
    };
    look();
  }

  #expire(request: Request, running: Running, limit: "requestTimeout" | "idleTimeout"): void {
    const timeout = this[limit] ?? 0;
    const { id, address } = running;
    this.announce({ type: "timeout", server: this.name, id, address, limit, timeout });
    const why = limit === "requestTimeout" ? "took longer than its" : "carried nothing for its";
    const late = new SocketError("ETIMEDOUT", `the request ${why} ${limit} of ${wholeMs(timeout)}`);
    this.cancelOne(request, running, late);
  }

  /** Turns a request away that no hook has seen: its connection is let go at once. */
  protected refuse(request: Request, address: Address | null, reason: Refusal): void {
    this.#refused++;
    this.#abortRequest(request, address);
    if (this.watches("refused")) this.announce({ type: "refused", server: this.name, address, reason });
  }

  get #waitsAtTheEnd(): boolean {
    return this.blockOnClose && !this.daemonThreads;
  }

  async #close(): Promise<void> {
    this.close();
    if (this.#waitsAtTheEnd) await this.drain();
    await this.letGo();
    const { name: server, running, served, failed, refused, bytesRead, bytesWritten } = this.info();
    const duration = this.#since === 0 ? 0 : performance.now() - this.#since;
    const counts = { running, served, failed, refused, bytesRead, bytesWritten };
    this.announce({ type: "closed", server, duration, ...counts });
  }

  /** The platform closes its listener: nothing arrives any more. */
  protected stopListening(): void {}

  /** All has ended: the platform lets go of what its requests still needed. */
  protected letGo(): MaybePromise<void> {}
}

/** What a connector's `run` can be given. */
export interface RunOptions<Request = unknown> {
  /** What the handler gets as `this.params`. */
  readonly params?: unknown;
  /** Aborts the dialling, then the handler. */
  readonly signal?: AbortSignal;
  /** Told of the connection when it is open, just before the handler is made; what it throws, `run` rejects with. */
  onOpen?(request: Request): void;
}

const RUN_NAMES = optionNamesOf<RunOptions>()({ params: true, signal: true, onOpen: true });

/**
 * Dials, and runs a handler on the connection: the twin of a server, so that a handler cannot tell who opened
 * its connection (Schmidt's Acceptor-Connector).
 */
export abstract class BaseConnector<Request, Context = unknown> extends BaseEndpoint<Request, Context> {
  #stopped = false;

  /** Opens a connection. Rejects with the reason; `signal` gives up. */
  abstract connect(signal?: AbortSignal): Promise<Request>;

  /** The address of a connection's other end. */
  abstract peerOf(request: Request): Address | null;

  /**
   * Dials, runs one handler to its end, closes, and gives what `handle` returned. Rejects with what the dialling
   * or the handler threw, or why not all that the handler wrote has left.
   */
  async run(options: RunOptions<Request> = {}): Promise<unknown> {
    checkOptions("run()", options, RUN_NAMES);
    const { signal } = options;
    if (this.#stopped) throw new SocketError("EBADF", "this connector was shut down; make a new one");
    signal?.throwIfAborted();
    const request = await this.connect(signal);
    const address = this.peerOf(request);
    const running = this.begin(request, address, options.params);
    const abort = (): void => this.cancelOne(request, running, signal?.reason);
    let failed = true;
    try {
      signal?.addEventListener("abort", abort, { once: true });
      if (signal?.aborted) abort();
      const result = await this.#finish(request, address, options);
      await this.shutdownRequest(request);
      if (request instanceof StreamSocket && request.lost !== null) throw request.lost;
      failed = false;
      return result;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.end(request, running, failed);
    }
  }

  /** `finishRequest`; where that fails the request is let go, and the failure is what is told. */
  async #finish(request: Request, address: Address | null, options: RunOptions<Request>): Promise<unknown> {
    try {
      options.onOpen?.(request);
      return await this.finishRequest(request, address);
    } catch (error) {
      try {
        await this.shutdownRequest(request);
      } catch {
        // what the handler threw says more
      }
      throw error;
    }
  }

  /** `run()` begins nothing any more. */
  override shutdown(): Promise<void> {
    this.#stopped = true;
    return DONE;
  }
}
