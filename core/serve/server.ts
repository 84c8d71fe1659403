/**
 * Where requests arrive: `BaseServer`. The life of a request, here and at a connector (`connector.ts`):
 *
 *     a server                                          a connector
 *     getRequest()       the next that arrived          connect()
 *     verifyRequest()    false: turned away                 │
 *     processRequest()   serial: waits for the end          │
 *            │           threading: goes on at once         │
 *            └────────────────┬─────────────────────────────┘
 *     finishRequest()    makes the handler: setup, handle, finish
 *     handleError()      only if one of those threw (a connector's caller gets the error instead)
 *     shutdownRequest()  ──▶ closeRequest(): the connection is closed
 *
 * Serial, threading and forking servers differ only in `processRequest`. A platform adds how a request
 * arrives (it calls `arrive`) and how its listener is opened and closed.
 *
 * A server ends in three steps, which `serverClose()` takes in order: `close()` stops accepting,
 * `drain()` lets running requests finish, `abort()` ends those that have not finished by then.
 */

import { DONE, type MaybePromise } from "../bytes/data.ts";
import { textOf } from "../describe.ts";
import { SocketError } from "../errors.ts";
import type { EndpointInfo, Refusal } from "../handlers/events.ts";
import { bothErrors, type HandlerClass } from "../handlers/handler.ts";
import { Gate, PEER_NAMES, type PeerRules, RATE_NAMES, type RateLimit } from "../net/access.ts";
import type { Address } from "../net/address.ts";
import {
  checkCount,
  checkOptions,
  checkTime,
  checkWord,
  type OptionNames,
  optionNamesOf,
  wholeMs,
} from "../options.ts";
import { attempt, disown, isThenable, whenSettled } from "../promises.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { type Arrival, Arrivals } from "./arrivals.ts";
import { BaseEndpoint, ENDPOINT_NAMES, type EndpointOptions } from "./endpoint.ts";
import {
  broughtDoor,
  checkProxyProtocol,
  type Doorkeeper,
  PROXY_PROTOCOL_NAMES,
  type ProxyDoor,
  type ProxyProtocolOptions,
} from "./proxy.ts";
import { cutBy, type Running } from "./requests.ts";
import { watchTime } from "./time-limits.ts";

const LOOK = 10; // ms between two checks whether all is over, after a listener was handed over

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What a suspended server does with new requests. */
export type Suspension = "hold" | "refuse";

/** Options of a server. Times are milliseconds. */
export interface ServerOptions<Context> extends EndpointOptions<Context> {
  /** How many requests may wait to be served. A further one is refused. Default 128, as in CPython's `listen()`. */
  readonly requestQueueSize?: number;
  /** How many requests are served at once, if the server serves them side by side. Default 10 000: far more than usual, so that only a flood meets it. In a cluster (`--workers`) each worker has this limit. */
  readonly maxRequests?: number;
  /** What happens to a new request when the server is full (a serial server is full with one). `"wait"`: it waits for its turn, as up to `requestQueueSize` requests may. `"refuse"`: it is refused at once, so that its client can try elsewhere. Default `"wait"`. */
  readonly whenFull?: "wait" | "refuse";
  /** How many requests one address may have at once, waiting or served. An IPv6 network of 64 bits counts as one address; so do all peers whose address is unknown. Default: no limit, because all clients behind a proxy share its address. In a cluster (`--workers`) each worker has this limit. */
  readonly maxRequestsPerAddress?: number | undefined;
  /** Which networks may connect. All others are refused before anything is allocated for them. Default: all may. */
  readonly access?: PeerRules | undefined;
  /** How many requests one address may make per second, counted as for `maxRequestsPerAddress`. Default: no limit. In a cluster (`--workers`) each worker has this limit. */
  readonly rate?: RateLimit | undefined;
  /** Which peers are proxies that name their client (HAProxy's PROXY protocol). `clientAddress` and the limits by address above then apply to that client. Default: none, and no header is read. */
  readonly proxyProtocol?: ProxyProtocolOptions | undefined;
  /** How long a request may take in all, from its handler's `setup` to its end. Then its signal is aborted and its connection reset. Default `null`, no limit: a chat lasts for days. */
  readonly requestTimeout?: number | null;
  /** How long a connection may carry no bytes in either direction, whatever its handler is doing. Then it is aborted, at most half that time later. Default `null`, no limit: a read or a write that waits has the stream's `timeout`. */
  readonly idleTimeout?: number | null;
  /** How long `handleRequest()` waits for a request before it calls `handleTimeout()`. Default `null`: it waits until one comes. */
  readonly timeout?: number | null;
  /** Whether `serverClose()`, and `serveForever()` after a shutdown, wait for running requests. If `false`, those requests go on. Default `true`. CPython's `block_on_close`. */
  readonly blockOnClose?: boolean;
  /** If `true`, neither `serverClose()` nor the end of the process waits for running requests. Default `false`. CPython's `daemon_threads`. */
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
  proxyProtocol: PROXY_PROTOCOL_NAMES,
  requestTimeout: true,
  idleTimeout: true,
  timeout: true,
  blockOnClose: "boolean",
  daemonThreads: "boolean",
});

const SIGNAL_NAMES = optionNamesOf<{ readonly signal?: AbortSignal }>()({ signal: "signal" });

/** The state of a server. */
export type ServerState = "new" | "listening" | "serving" | "closed";

/** What a server reports about itself: `info()`. */
export interface ServerInfo extends EndpointInfo {
  readonly state: ServerState;
  /** What a suspended server does with new requests; `null` if it is not suspended. */
  readonly suspended: Suspension | null;
  readonly address: Address | null;
  /** Requests that have arrived and wait for their turn. */
  readonly waiting: number;
  /** Requests that were turned away. */
  readonly refused: number;
}

/** Checks the result of `getRequest()`, which a user's class may override. */
const checkArrival = <Request>(given: Arrival<Request>): Arrival<Request> => {
  if (Array.isArray(given) && given.length === 2) return given;
  throw new TypeError(`getRequest() must return [request, clientAddress], not ${textOf(given, 100)}`);
};

/**
 * Serves requests one at a time. CPython's `BaseServer`.
 *
 * A constructor cannot wait, so it does not bind: `listen()`, `serveForever()` and `handleRequest()` bind first,
 * and reject if that fails (`EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`).
 *
 * Throws `TypeError` or `RangeError` if an option is wrong, `ERR_INVALID_ADDRESS` if a network in `access` is.
 */
export abstract class BaseServer<Request, Context = unknown>
  extends BaseEndpoint<Request, Context>
  implements AsyncDisposable
{
  static override readonly optionNames: OptionNames = SERVER_NAMES;

  /** How many requests may wait to be served. A further one is refused. */
  requestQueueSize: number;
  /** How many requests are served at once, if they are served side by side (`ThreadingMixIn`). */
  maxRequests: number;
  /** What happens to a new request when the server is full. */
  whenFull: "wait" | "refuse";
  /** How long a request may take, in milliseconds; `null`: no limit. */
  requestTimeout: number | null;
  /** How long a connection may carry no bytes, in milliseconds; `null`: no limit. */
  idleTimeout: number | null;
  /** How long `handleRequest()` waits, in milliseconds; `null`: no limit. `serveForever()` ignores it, as in CPython. */
  timeout: number | null;
  /** Whether a close waits for running requests. */
  blockOnClose: boolean;
  /** Whether neither a close nor the end of the process waits for running requests. */
  daemonThreads: boolean;

  /** Reads the headers of proxies; `null` if there are none. */
  protected readonly proxyDoor: ProxyDoor | null;
  readonly #gate: Gate | null;
  readonly #arrivals = new Arrivals<Request>();
  #listening: Promise<void> | null = null;
  #since = 0; // when it began to listen
  #serving: PromiseWithResolvers<void> | null = null; // while serveForever() runs; resolved by shutdown()
  #open = false; // the pump may take the next
  #busy = false; // the pump waits for one
  #suspended: Suspension | null = null;
  #here = 0; // requests that have arrived and have not ended
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
    const { proxyProtocol } = options;
    if (proxyProtocol !== undefined) checkProxyProtocol(proxyProtocol);
    this.proxyDoor = proxyProtocol === undefined ? null : this.openDoor(proxyProtocol, this.#keeper());
  }

  /** Makes what reads the headers of proxies. Its code comes with the options, or with a server whose platform can afford the size. */
  protected openDoor(options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor | null {
    const door = broughtDoor(options, keeper);
    if (door !== null) return door;
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "this server does not include the code for proxies: write proxyProtocol: behindProxies({ from: … }), with behindProxies imported from socklet",
    );
  }

  /** The address it listens on; `null` before `listen()`. */
  abstract get serverAddress(): Address | null;

  /** How many requests are served at once. */
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

  /** Does whatever else is needed before requests are taken, once the listener is open. Called once, after `serverBind()`. */
  serverActivate(): MaybePromise<void> {}

  /** Returns the next request that has arrived, or waits for one. */
  getRequest(): MaybePromise<Arrival<Request>> {
    const next = this.#arrivals.shift();
    return next ?? this.#arrival(null).then(() => this.getRequest());
  }

  /** Whether to serve this request. If not, its connection is closed. */
  verifyRequest(_request: Request, _clientAddress: Address | null): MaybePromise<boolean> {
    return true;
  }

  /** Serves the request. The next one is taken when the result has settled: here, when the request is over. */
  processRequest(request: Request, clientAddress: Address | null): MaybePromise<void> {
    return this.serveRequest(request, clientAddress);
  }

  /** Called after each request that `serveForever()` has taken. An error that it throws becomes an event. (CPython also calls it twice a second.) */
  serviceActions(): void {}

  /** Called when `handleRequest()` has waited `timeout` ms in vain. */
  handleTimeout(): MaybePromise<void> {}

  /**
   * Stops accepting for good: closes the listener and turns away the requests that wait. Running requests go on. This is the first
   * of three steps to end a server; `drain()` and `abort()` are the others, and `serverClose()` takes all three.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    void this.shutdown();
    this.stopListening();
    this.proxyDoor?.close();
    for (const [request, clientAddress] of this.#arrivals.close()) {
      this.#leave(clientAddress);
      this.refuse(request, clientAddress, "closing");
    }
  }

  /**
   * Takes the steps `close()`, `drain()` and `abort()`. With `blockOnClose: false` or `daemonThreads` it does not drain, and running
   * requests go on. Idempotent. A handler that awaits this waits for itself until the drain time aborts it; it should call
   * `shutdown()` instead.
   */
  serverClose(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /**
   * `serverClose()` for a listener that another process has as well, which takes the clients from now on. It stops accepting, and
   * serves every request that has arrived, also those that wait and those that are still in a handshake. What is not over within
   * `drainTimeout` is aborted or turned away, with an event. Idempotent; after `serverClose()` it does the same as that.
   */
  handOver(): Promise<void> {
    this.#closing ??= this.#handOver();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.serverClose();
  }

  // ---- Running it ----

  /** Binds and activates the server, once, and returns its address. `serveForever()` and `handleRequest()` begin with it. */
  async listen(): Promise<Address | null> {
    if (this.#closed) throw new SocketError("EBADF", "the server is closed; make a new one");
    this.#listening ??= this.#listen();
    await this.#listening;
    return this.serverAddress;
  }

  /** Takes exactly one request (CPython's `handle_request`). Resolves when that has been processed, or after `handleTimeout()`. */
  async handleRequest(): Promise<void> {
    await this.listen();
    if (!(await this.#arrival(this.timeout))) return this.handleTimeout();
    const { first } = this.#arrivals;
    try {
      const [request, clientAddress] = checkArrival(await this.getRequest());
      await this.verifyAndProcess(request, clientAddress);
    } catch (error) {
      await this.#notTaken(first); // the rest never rejects
      throw error;
    }
  }

  /**
   * Serves until `shutdown()` is called or `signal` aborts, and then drains: it resolves when every request that had begun is over
   * (at once, with `blockOnClose: false`). Rejects as `listen()` does, and with `EBUSY` if the server is serving already.
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
      try {
        await this.listen();
      } catch (error) {
        // Closed while it was opened: it ends as if that had come a moment later.
        if (this.#serving === serving || (error as { code?: unknown }).code !== "ECANCELED") throw error;
      }
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
   * Begins no further request. Running requests continue, and `serveForever()` resolves when they have ended. It does not wait, so it
   * may be called from anywhere, also from a handler, and cannot deadlock.
   */
  override shutdown(): Promise<void> {
    this.#open = false;
    this.#serving?.resolve();
    this.#serving = null;
    return DONE;
  }

  /**
   * Serves no new requests until `resume()`. `"hold"`: up to `requestQueueSize` new requests wait, connected and unread, and further
   * ones are refused. `"refuse"`: new requests are refused at once, and those that wait already are served. Running requests go on.
   * A second call changes between the two.
   */
  suspend(how: Suspension): void {
    this.#setSuspended(checkWord<Suspension>("how", how, ["hold", "refuse"]));
    this.announce({ type: "suspended", server: this.name, how });
    this.#pump();
  }

  /** Ends `suspend()`. The requests that were held are served. */
  resume(): void {
    if (this.#suspended === null) return;
    this.#setSuspended(null);
    this.announce({ type: "resumed", server: this.name, waiting: this.#arrivals.length });
    this.#pump();
  }

  /**
   * Serves one request to its end: `finishRequest`, then `handleError` if that threw, then `shutdownRequest`. Never
   * rejects. `processRequest` calls it, and need not wait for it.
   */
  serveRequest(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    const running = this.begin(request, clientAddress);
    try {
      const result = this.runRequest(request, clientAddress);
      if (isThenable(result)) return this.#untilDone(request, running, result);
    } catch (error) {
      return this.#fail(request, clientAddress, error, running);
    }
    return this.#letGo(request, clientAddress, running, false);
  }

  /** Waits for a handler. A method of its own, since each call of one that makes functions allocates a context, also if it makes none. */
  #untilDone(request: Request, running: Running, result: PromiseLike<unknown>): Promise<void> {
    this.#mayWatch(request, running);
    return whenSettled(
      result,
      () => this.#letGo(request, running.address, running, false),
      (error) => this.#fail(request, running.address, error, running),
    );
  }

  // ---- For the platform ----

  /**
   * A request has arrived. Called by the platform. Refuses the request if it is not admitted, or if too many wait already.
   * `admitted`: `admit()` has let it in already, before its TLS handshake.
   */
  protected arrive(request: Request, clientAddress: Address | null, admitted = false): void {
    const refusal = admitted ? null : this.admit(clientAddress);
    if (refusal !== null) {
      this.refuse(request, clientAddress, refusal);
      return;
    }
    if (this.#arrivals.isIdle && this.#isFree && this.getRequest === BaseServer.prototype.getRequest) {
      this.#busy = true;
      // A request that would be taken at once skips the queue, which costs a UDP server 3 to 7 % more CPU a datagram.
      this.#goOn(this.verifyAndProcess(request, clientAddress));
      this.#pump(); // requests that arrived meanwhile
      return;
    }
    const awaited = this.#arrivals.push(request, clientAddress);
    if (!awaited) this.#pump();
    if (this.#arrivals.length > this.requestQueueSize + (awaited ? 1 : 0)) {
      this.#arrivals.pop();
      this.#leave(clientAddress);
      this.refuse(request, clientAddress, "full");
    }
  }

  /** Returns why a request from `clientAddress` is refused, or `null` if it is admitted; then it counts until it is over. */
  protected admit(clientAddress: Address | null): Refusal | null {
    if (this.#closed) return "closing";
    if (this.#suspended === "refuse") return "suspended";
    if (this.whenFull === "refuse" && this.#suspended === null && this.#here >= this.capacity) return "full";
    const refusal = this.#gate === null ? null : this.#gate.enter(clientAddress);
    if (refusal === null) this.#here++;
    return refusal;
  }

  /** A connection that `admit()` let in is closed before it became a request. */
  protected withdraw(clientAddress: Address | null): void {
    this.#leave(clientAddress);
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
    const arrived = await this.#arrivals.wait(timeout);
    if (this.#closed) throw new SocketError("ECANCELED", "the server was closed");
    return arrived;
  }

  #setSuspended(how: Suspension | null): void {
    this.#suspended = how;
    this.#arrivals.hold(how === "hold");
  }

  /** Takes the requests that have arrived, one after the other, until it has to wait for something. */
  #pump(): void {
    while (this.#isFree && this.#arrivals.length > 0) {
      this.#busy = true;
      this.#goOn(this.#takeNext());
    }
  }

  /** Whether the next request may be taken. */
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
    const { first } = this.#arrivals;
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
   * `getRequest()` failed while `first` was next. That request is closed, whether it was taken or not: otherwise the same failure
   * would repeat for ever, while its peer waits.
   */
  #notTaken(first: Arrival<Request> | undefined): Promise<void> | undefined {
    if (first === undefined) return undefined;
    if (this.#arrivals.first === first) this.#arrivals.shift();
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

  /** Processes a request that was verified, and turns away any other. Never throws or rejects. */
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

  /** Hands `error` to `handleError`, then closes the request. */
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
    // If a handler closes its connection itself, that call reports lost output, so the handler has failed with that error already.
    const known = failed && request instanceof StreamSocket && error === request.lost;
    if (!known) this.#tellError(error, clientAddress, running);
    this.#over(request, clientAddress, running, true);
  }

  /** `abortRequest()`, which may throw in a user's class. */
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
    if (!limited || running.stopTimer !== undefined) return;
    const { id, address } = running;
    watchTime(
      request,
      running,
      this,
      (limit) => this.#expire(request, running, limit),
      () => this.announce({ type: "stuck", server: this.name, id, address }),
    );
  }

  #expire(request: Request, running: Running, limit: "requestTimeout" | "idleTimeout"): void {
    const timeout = this[limit] ?? 0;
    const { id, address } = running;
    this.announce({ type: "timeout", server: this.name, id, address, limit, timeout });
    const why = limit === "requestTimeout" ? "took longer than its" : "carried nothing for its";
    const late = new SocketError("ETIMEDOUT", `the request ${why} ${limit} of ${wholeMs(timeout)}`);
    this.cancelOne(request, running, late);
  }

  /** Turns away a request that no hook has seen. Its connection is closed at once. */
  protected refuse(request: Request, address: Address | null, reason: Refusal): void {
    this.#abortRequest(request, address);
    this.turnAway(address, reason);
  }

  /** Counts a connection that was turned away before it became a request, and tells the event. */
  protected turnAway(address: Address | null, reason: Refusal, error?: SocketError): void {
    this.#refused++;
    if (!this.watches("refused")) return;
    this.announce({ type: "refused", server: this.name, address, reason, ...(error && { error }) });
  }

  /** What the door for proxies knows about this server. */
  #keeper(): Doorkeeper {
    return {
      daemonThreads: this.daemonThreads,
      mostWaiting: () => this.maxRequests,
      turnAway: (address, reason, error) => this.turnAway(address, reason, error),
      checked: (address) => {
        if (this.watches("checked")) this.announce({ type: "checked", server: this.name, address });
      },
    };
  }

  get #waitsAtTheEnd(): boolean {
    return this.blockOnClose && !this.daemonThreads;
  }

  async #handOver(): Promise<void> {
    if (this.#closed || !this.#waitsAtTheEnd) return this.#close();
    this.stopAccepting();
    const { drainTimeout, running } = this;
    if (running > 0) this.announce({ type: "draining", server: this.name, running, timeout: drainTimeout });
    const due = performance.now() + drainTimeout;
    // It polls, because a callback at the end of each request would cost every request of every server.
    while (this.#here + (this.proxyDoor?.waiting ?? 0) > 0 && performance.now() < due) await pause(LOOK);
    this.close();
    const why = `the request did not end within the drain time of ${wholeMs(drainTimeout)}`;
    this.abort(new SocketError("ECONNABORTED", why));
    return this.#close(0);
  }

  async #close(timeout = this.drainTimeout): Promise<void> {
    this.close();
    if (this.#waitsAtTheEnd) await this.drain(timeout);
    await this.letGo();
    const { name: server, running, served, failed, refused, bytesRead, bytesWritten } = this.info();
    const duration = this.#since === 0 ? 0 : performance.now() - this.#since;
    const counts = { running, served, failed, refused, bytesRead, bytesWritten };
    this.announce({ type: "closed", server, duration, ...counts });
  }

  /** The platform stops accepting from its listener, which other processes have as well, and goes on with what has arrived. */
  protected stopAccepting(): void {}

  /** The platform closes its listener: nothing arrives any more. */
  protected stopListening(): void {}

  /** Everything has ended: the platform releases what its requests still needed. */
  protected letGo(): MaybePromise<void> {}
}
