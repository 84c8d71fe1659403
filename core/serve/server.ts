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
 *     handleError()      only where one of those threw (a connector's caller gets the error instead)
 *     shutdownRequest()  ──▶ closeRequest(): the connection is let go
 *
 * Serial, threading and forking servers differ in `processRequest` alone. A platform adds how a request
 * arrives (it calls `arrive`) and how its listener is opened and closed.
 *
 * A server ends in three steps, which `serverClose()` takes one after the other: `close()` accepts no more,
 * `drain()` lets what runs finish, `abort()` ends what has not by then.
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
import { StreamSocket } from "../sockets/stream-socket.ts";
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

const LOOK = 10; // ms between two looks whether all is over, where a listener was handed over

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What a suspended server does with new requests. */
export type Suspension = "hold" | "refuse";

/** Options of a server. Times are milliseconds. */
export interface ServerOptions<Context> extends EndpointOptions<Context> {
  /** How many requests may wait unserved; one more is refused. Default 128, as CPython's `listen()`. */
  readonly requestQueueSize?: number;
  /** How many a server that serves side by side serves at once. Default 10 000: far above what is usual, so that a flood ends somewhere. In a cluster (`--workers`), of each worker. */
  readonly maxRequests?: number;
  /** When as many are served as may be (a server that serves one at a time: one), further ones `"wait"` their turn, `requestQueueSize` of them, or are `"refuse"`d at once, so that their clients try elsewhere. Default `"wait"`. */
  readonly whenFull?: "wait" | "refuse";
  /** How many requests one address may have at once, waiting or served. An IPv6 network of 64 bits counts as one address; so do all peers whose address is unknown. Default: no limit of its own, because all clients of a proxy share its address. In a cluster (`--workers`), at each worker. */
  readonly maxRequestsPerAddress?: number | undefined;
  /** Which networks may connect. Others are refused before anything is made for them. Default: all. */
  readonly access?: PeerRules | undefined;
  /** How many requests one address may make in a second; counted as for `maxRequestsPerAddress`. Default: any number. In a cluster (`--workers`), at each worker. */
  readonly rate?: RateLimit | undefined;
  /** Which peers are proxies, that say for whom they come (HAProxy's PROXY protocol): `clientAddress`, and all the limits by address above, are then of whom they name. Default: none, and no header is read. */
  readonly proxyProtocol?: ProxyProtocolOptions | undefined;
  /** How long a request may take in all, from its handler's `setup` to its end; then it is aborted: its signal, its connection. Default `null`, for ever: a chat lasts for days. */
  readonly requestTimeout?: number | null;
  /** How long a connection may carry nothing, in neither direction, whatever its handler waits for; then it is aborted, within half as much again. Default `null`, for ever: a read or a write that waits has the stream's `timeout`. */
  readonly idleTimeout?: number | null;
  /** How long `handleRequest()` waits for a request before it calls `handleTimeout()`; default `null`, for ever. */
  readonly timeout?: number | null;
  /** Whether `serverClose()`, and `serveForever()` after a shutdown, wait for running requests. If not, those go on. Default `true`. CPython's `block_on_close`. */
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
  proxyProtocol: PROXY_PROTOCOL_NAMES,
  requestTimeout: true,
  idleTimeout: true,
  timeout: true,
  blockOnClose: "boolean",
  daemonThreads: "boolean",
});

const SIGNAL_NAMES = optionNamesOf<{ readonly signal?: AbortSignal }>()({ signal: true });

/** Where a server is in its life. */
export type ServerState = "new" | "listening" | "serving" | "closed";

/** What a server says of itself: `info()`. */
export interface ServerInfo extends EndpointInfo {
  readonly state: ServerState;
  /** What it does with new requests; `null` if it is not suspended. */
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

  /** Reads what proxies say of their clients; `null` if there are none. */
  protected readonly proxyDoor: ProxyDoor | null;
  readonly #gate: Gate | null;
  readonly #arrivals = new Arrivals<Request>();
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
    const { proxyProtocol } = options;
    if (proxyProtocol !== undefined) checkProxyProtocol(proxyProtocol);
    this.proxyDoor = proxyProtocol === undefined ? null : this.openDoor(proxyProtocol, this.#keeper());
  }

  /** What reads the headers of proxies. The code is brought by the options, or by servers whose platform can afford it. */
  protected openDoor(options: ProxyProtocolOptions, keeper: Doorkeeper): ProxyDoor | null {
    const door = broughtDoor(options, keeper);
    if (door !== null) return door;
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "this server does not include the code for proxies: write proxyProtocol: behindProxies({ from: … }), with behindProxies imported from socklet",
    );
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

  /** The next request that arrived; waits for one if none has. */
  getRequest(): MaybePromise<Arrival<Request>> {
    const next = this.#arrivals.shift();
    return next ?? this.#arrival(null).then(() => this.getRequest());
  }

  /** Whether to serve this request. If not, it is closed. */
  verifyRequest(_request: Request, _clientAddress: Address | null): MaybePromise<boolean> {
    return true;
  }

  /** Serves it. The next is taken when what this gives has settled: here, when the request is over. */
  processRequest(request: Request, clientAddress: Address | null): MaybePromise<void> {
    return this.serveRequest(request, clientAddress);
  }

  /** Called after each request that `serveForever()` took. An error that it throws becomes an event. (CPython also calls it twice a second.) */
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
    this.proxyDoor?.close();
    for (const [request, clientAddress] of this.#arrivals.close()) {
      this.#leave(clientAddress);
      this.refuse(request, clientAddress, "closing");
    }
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

  /**
   * `serverClose()` for a listener that another process has, too, where clients come from now on: accepts no more, and serves
   * all that has come, those that wait and those whose handshake goes on as well. What is not over within `drainTimeout` is
   * aborted, or turned away, and told. Idempotent; after `serverClose()` it is that.
   */
  handOver(): Promise<void> {
    this.#closing ??= this.#handOver();
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
   * Serves no new requests until `resume()`. `"hold"`: up to `requestQueueSize` new requests wait, connected and unread;
   * further ones are refused. `"refuse"`: new requests are refused at once, and those that already waited are served.
   * Running requests go on. It may be called again, to change how.
   */
  suspend(how: Suspension): void {
    this.#setSuspended(checkWord<Suspension>("how", how, ["hold", "refuse"]));
    this.announce({ type: "suspended", server: this.name, how });
    this.#pump();
  }

  /** Ends `suspend()`: the requests that were held are served now. */
  resume(): void {
    if (this.#suspended === null) return;
    this.#setSuspended(null);
    this.announce({ type: "resumed", server: this.name, waiting: this.#arrivals.length });
    this.#pump();
  }

  /**
   * Serves one request to its end: `finishRequest`, then `handleError` if that threw, then `shutdownRequest`. Never
   * rejects. `processRequest` calls it, and may or may not wait for it.
   */
  serveRequest(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    const running = this.begin(request, clientAddress);
    try {
      const result = this.runRequest(request, clientAddress);
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
      // What would be taken at once need not queue: through the queue a UDP server needs 3 to 7 % more CPU a datagram.
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

  /** Why a request from `clientAddress` is not admitted; or `null`: it is, and counts until it is over. */
  protected admit(clientAddress: Address | null): Refusal | null {
    if (this.#closed) return "closing";
    if (this.#suspended === "refuse") return "suspended";
    if (this.whenFull === "refuse" && this.#suspended === null && this.#here >= this.capacity) return "full";
    const refusal = this.#gate === null ? null : this.#gate.enter(clientAddress);
    if (refusal === null) this.#here++;
    return refusal;
  }

  /** A connection that `admit()` let in has become not a request. */
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
   * `getRequest()` failed when `first` was the next: that one is let go, taken or not, or the same would fail for ever,
   * and its peer would wait.
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

  /** Processes a request that was verified, and turns any other away. Never throws or rejects. */
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
    // A handler that closes its connection itself learns what was lost, and so has failed with that error already.
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
    if (!limited || running.timer !== undefined) return;
    const { id, address } = running;
    const expire = (limit: "requestTimeout" | "idleTimeout"): void => this.#expire(request, running, limit);
    watchTime(request, running, this, expire, () => {
      this.announce({ type: "stuck", server: this.name, id, address });
    });
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
    this.#abortRequest(request, address);
    this.turnAway(address, reason);
  }

  /** Counts and tells that a connection was turned away, which is closed and never became a request. */
  protected turnAway(address: Address | null, reason: Refusal, error?: SocketError): void {
    this.#refused++;
    if (!this.watches("refused")) return;
    this.announce({ type: "refused", server: this.name, address, reason, ...(error && { error }) });
  }

  /** What the door at which proxies come in knows of this server. */
  #keeper(): Doorkeeper {
    const capacity = (): number => this.maxRequests;
    return {
      daemonThreads: this.daemonThreads,
      get maxRequests() {
        return capacity();
      },
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
    // Looked for again and again: to be told of each that is over would cost all requests of all servers.
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

  /** The platform takes no more from its listener, which other processes have, too, and goes on with all that came. */
  protected stopAccepting(): void {}

  /** The platform closes its listener: nothing arrives any more. */
  protected stopListening(): void {}

  /** All has ended: the platform lets go of what its requests still needed. */
  protected letGo(): MaybePromise<void> {}
}
