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
 */

import type { Address } from "./address.ts";
import { SocketError } from "./errors.ts";
import type { OnEvent, SockletEvent } from "./events.ts";
import {
  bothErrors,
  type HandlerClass,
  type HandlerServer,
  isThenable,
  type RequestScope,
} from "./handler.ts";
import { checkCount, checkTime } from "./options.ts";
import { StreamSocket } from "./socket.ts";
import { DONE, type MaybePromise } from "./stream.ts";

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

class Running implements RequestScope {
  readonly id: number;
  readonly address: Address | null;
  readonly params: unknown;
  readonly started = performance.now();
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
    this.#tell({ type: "handler", server: this.#server, id: this.id, address: this.address, detail });
  }

  abort(reason: unknown): void {
    this.#controller ??= new AbortController(); // who asks later finds it aborted
    this.#controller.abort(reason);
  }
}

/** What a server or connector says of itself. */
export interface EndpointInfo {
  readonly name: string;
  /** Requests whose handler runs now. */
  readonly running: number;
  /** Requests whose handler has ended, well or not. */
  readonly served: number;
  /** Those of them whose handler threw. */
  readonly failed: number;
}

/** What a server and a connector share: they run handlers on requests, know which run, and can end them. */
export abstract class BaseEndpoint<Request, Context = unknown> implements HandlerServer<Context> {
  /** The class that handles each request; may be replaced while requests run, which keep theirs. */
  RequestHandlerClass: HandlerClass<Request, Context>;
  /** What handlers get as `this.context`. */
  readonly context: Context;
  readonly name: string;
  onEvent: OnEvent | undefined;
  /** How long `drain()` lets running requests go on before it aborts them, in milliseconds. */
  drainTimeout: number;

  readonly #running = new Map<Request, Running>();
  #begun = 0;
  #served = 0;
  #failed = 0;
  #whenOne: (() => void)[] = []; // called when one more has ended
  #draining: Promise<void> | null = null;

  constructor(RequestHandlerClass: HandlerClass<Request, Context>, options: EndpointOptions<Context> = {}) {
    if (
      typeof RequestHandlerClass !== "function" ||
      typeof RequestHandlerClass.prototype?.run !== "function"
    ) {
      throw new TypeError(
        "a handler is a class that extends StreamRequestHandler, DatagramRequestHandler or BaseRequestHandler; wrap a function in streamHandler()",
      );
    }
    this.RequestHandlerClass = RequestHandlerClass;
    this.context = options.context as Context;
    this.name = options.name ?? (RequestHandlerClass.name || "anonymous");
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
    return { name: this.name, running: this.#running.size, served: this.#served, failed: this.#failed };
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
    this.tell({ type: "error", server: this.name, ...(id && { id }), address: clientAddress, error });
  }

  /**
   * Waits until no handler runs; past `timeout` ms (default `drainTimeout`) it aborts those that do, and past
   * another second it gives up on a handler that does not notice, and tells it as an event of type `stuck`.
   * Who asks while it drains waits for the same end.
   */
  drain(timeout: number = this.drainTimeout): Promise<void> {
    this.#draining ??= this.#drain(timeout).finally(() => {
      this.#draining = null;
    });
    return this.#draining;
  }

  /** Ends all that runs, at once: signals abort, connections are reset. */
  abort(reason: unknown = new SocketError("ECONNABORTED", "the server was aborted")): void {
    for (const request of this.#running.keys()) this.cancelRequest(request, reason);
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

  /** Tells `event` to whoever listens. */
  protected tell(event: SockletEvent): void {
    if (this.onEvent === undefined) return;
    try {
      this.onEvent(event);
    } catch (error) {
      queueMicrotask(() => {
        throw error; // a fault of the listener: seen by all, and no request suffers for it
      });
    }
  }

  /** Resolves when one more handler has ended. */
  protected oneEnded(): Promise<void> {
    return new Promise((resolve) => this.#whenOne.push(resolve));
  }

  protected begin(request: Request, address: Address | null, params?: unknown): Running {
    const running = new Running(++this.#begun, address, params, this.name, (event) => this.tell(event));
    this.#running.set(request, running);
    if (this.onEvent !== undefined) this.tell({ type: "begin", server: this.name, id: running.id, address });
    return running;
  }

  protected end(request: Request, running: Running, failed: boolean): void {
    this.#running.delete(request);
    this.#served++;
    if (failed) this.#failed++;
    if (this.onEvent !== undefined) {
      const stream = request instanceof StreamSocket ? request : undefined;
      this.tell({
        type: "end",
        server: this.name,
        id: running.id,
        address: running.address,
        duration: performance.now() - running.started,
        bytesRead: stream?.bytesRead ?? 0,
        bytesWritten: stream?.bytesWritten ?? 0,
        failed,
      });
    }
    if (this.#whenOne.length > 0) for (const ended of this.#whenOne.splice(0)) ended();
  }

  async #drain(timeout: number): Promise<void> {
    if (await this.#idleWithin(timeout)) return;
    const late = `the request did not end within the drain time of ${timeout} ms`;
    this.abort(new SocketError("ECONNABORTED", late));
    if (await this.#idleWithin(ABORT_GRACE)) return;
    for (const { id, address } of this.#running.values()) {
      this.tell({ type: "stuck", server: this.name, id, address });
    }
  }

  async #idleWithin(timeout: number): Promise<boolean> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let late = false;
    const deadline = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        late = true;
        resolve();
      }, timeout);
    });
    while (this.#running.size > 0 && !late) await Promise.race([this.oneEnded(), deadline]);
    clearTimeout(timer);
    return this.#running.size === 0;
  }
}

/** Options of a server. Times are milliseconds. */
export interface ServerOptions<Context> extends EndpointOptions<Context> {
  /** How many requests may wait unserved; one more is refused. Default 128, as CPython's `listen()`. */
  readonly requestQueueSize?: number;
  /** How many a server that serves side by side serves at once; further ones wait their turn. Default 10 000: below what a process's descriptors allow. */
  readonly maxRequests?: number;
  /** How long `handleRequest()` waits for a request before it calls `handleTimeout()`; default `null`, for ever. */
  readonly timeout?: number | null;
}

export type ServerState = "new" | "listening" | "serving" | "closed";

export interface ServerInfo extends EndpointInfo {
  readonly state: ServerState;
  readonly address: Address | null;
  /** Requests that have arrived and wait for their turn. */
  readonly waiting: number;
  /** Requests that were turned away. */
  readonly refused: number;
}

type Arrival<Request> = [request: Request, clientAddress: Address | null];

/**
 * Serves requests one at a time. CPython's `BaseServer`.
 *
 * A constructor cannot wait, so it binds nothing: `listen()`, `serveForever()` and `handleRequest()` bind first,
 * and reject where that fails (`EADDRINUSE`, `EACCES`, `EADDRNOTAVAIL`, `ERR_NAME`).
 */
export abstract class BaseServer<Request, Context = unknown>
  extends BaseEndpoint<Request, Context>
  implements AsyncDisposable
{
  /** How many requests may wait unserved; one more is refused. */
  requestQueueSize: number;
  /** How many are served at once, where they are served side by side (`ThreadingMixIn`). */
  maxRequests: number;
  /** How long `handleRequest()` waits, in milliseconds; `null` for ever. `serveForever()` ignores it, as in CPython. */
  timeout: number | null;

  readonly #arrivals: Arrival<Request>[] = [];
  #awaiting: (() => void)[] = []; // those who wait for an arrival
  #listening: Promise<void> | null = null;
  #serving: PromiseWithResolvers<void> | null = null; // while serveForever() runs; resolved by shutdown()
  #open = false; // the pump may take the next
  #busy = false; // the pump waits for one
  #closing: Promise<void> | null = null;
  #refused = 0;

  constructor(RequestHandlerClass: HandlerClass<Request, Context>, options: ServerOptions<Context> = {}) {
    super(RequestHandlerClass, options);
    this.requestQueueSize = checkCount("requestQueueSize", options.requestQueueSize ?? 128, 0);
    this.maxRequests = checkCount("maxRequests", options.maxRequests ?? 10_000, 1);
    this.timeout = checkTime("timeout", options.timeout ?? null, 1, true);
  }

  /** Where it listens; `null` before `listen()`. */
  abstract get serverAddress(): Address | null;

  override info(): ServerInfo {
    return {
      ...super.info(),
      state:
        this.#closing !== null
          ? "closed"
          : this.#open
            ? "serving"
            : this.#listening !== null
              ? "listening"
              : "new",
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

  /** Called after each request that `serveForever()` took. */
  serviceActions(): void {}

  /** Called when `handleRequest()` saw no request for `timeout` ms. */
  handleTimeout(): MaybePromise<void> {}

  /**
   * Stops listening, turns away what still waits, drains what runs, and lets all go. Idempotent. A handler that
   * awaits this waits for itself until the drain time aborts it: it should call `shutdown()`.
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
    if (this.#closing !== null) throw new SocketError("EBADF", "the server is closed; make a new one");
    this.#listening ??= this.#listen();
    await this.#listening;
    return this.serverAddress;
  }

  /** Takes exactly one request (CPython's `handle_request`): resolves when it was processed, or after `handleTimeout()`. */
  async handleRequest(): Promise<void> {
    await this.listen();
    if (!(await this.#arrival(this.timeout))) return this.handleTimeout();
    const [request, clientAddress] = await this.getRequest();
    await this.verifyAndProcess(request, clientAddress);
  }

  /**
   * Serves until `shutdown()`, or until `signal` aborts; then drains: resolves when all that had begun is over.
   * Rejects as `listen()`, and with `EBUSY` where it runs already.
   */
  async serveForever(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
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
    await this.drain();
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
   * Serves one request to its end, and never rejects: `finishRequest`, `handleError` where that threw, then
   * `shutdownRequest`. What `processRequest` calls, waiting for it or not.
   */
  serveRequest(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    const running = this.begin(request, clientAddress);
    try {
      const result = this.finishRequest(request, clientAddress);
      if (isThenable(result)) {
        return Promise.resolve(result).then(
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

  /** A request has come. Called by the platform; refuses it where too many wait already. */
  protected arrive(request: Request, clientAddress: Address | null): void {
    if (this.#closing !== null) {
      this.refuse(request, clientAddress, "closing");
      return;
    }
    this.#arrivals.push([request, clientAddress]);
    if (this.#awaiting.length > 0) for (const arrived of this.#awaiting.splice(0)) arrived();
    else this.#pump();
    if (this.#arrivals.length > this.requestQueueSize) {
      this.#arrivals.pop();
      this.refuse(request, clientAddress, "full");
    }
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
    this.tell({ type: "listening", server: this.name, address: this.serverAddress });
  }

  /** Resolves to true when a request waits, to false when none came within `timeout` ms. */
  async #arrival(timeout: number | null): Promise<boolean> {
    if (this.#arrivals.length > 0) return true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#awaiting.push(resolve);
      if (timeout !== null) timer = setTimeout(resolve, timeout);
    });
    clearTimeout(timer);
    if (this.#closing !== null) throw new SocketError("ECANCELED", "the server was closed");
    return this.#arrivals.length > 0;
  }

  /** Takes what has arrived, one after the other, as long as nothing needs to be waited for. */
  #pump(): void {
    while (this.#open && !this.#busy && this.#arrivals.length > 0) {
      this.#busy = true;
      const waiting = this.#takeNext();
      if (waiting === undefined) {
        this.#busy = false;
        this.serviceActions();
      } else {
        waiting.then(() => {
          this.#busy = false;
          this.serviceActions();
          this.#pump();
        });
      }
    }
  }

  /** Never throws or rejects. */
  #takeNext(): Promise<void> | undefined {
    try {
      const next = this.getRequest();
      if (!isThenable(next)) return this.verifyAndProcess(next[0], next[1]);
      return Promise.resolve(next).then(
        ([request, clientAddress]) => this.verifyAndProcess(request, clientAddress),
        (error) => this.#tellError(error, null),
      );
    } catch (error) {
      this.#tellError(error, null);
      return undefined;
    }
  }

  /** Verifies and processes one request (CPython's `_handle_request_noblock`). Never throws or rejects. */
  protected verifyAndProcess(request: Request, clientAddress: Address | null): Promise<void> | undefined {
    const go = (verified: boolean): Promise<void> | undefined => {
      try {
        if (verified) {
          const processed = this.processRequest(request, clientAddress);
          return isThenable(processed)
            ? Promise.resolve(processed).catch((error) => this.#fail(request, clientAddress, error))
            : undefined;
        }
      } catch (error) {
        return this.#fail(request, clientAddress, error);
      }
      this.#refused++;
      this.tell({ type: "refused", server: this.name, address: clientAddress, reason: "verify" });
      return this.#letGo(request, clientAddress);
    };
    try {
      const verified = this.verifyRequest(request, clientAddress);
      if (!isThenable(verified)) return go(verified);
      return Promise.resolve(verified).then(go, (error) => this.#fail(request, clientAddress, error));
    } catch (error) {
      return this.#fail(request, clientAddress, error);
    }
  }

  /** Hands `error` to `handleError`, then lets the request go. */
  #fail(
    request: Request,
    clientAddress: Address | null,
    error: unknown,
    running?: Running,
  ): Promise<void> | undefined {
    const both = (second: unknown): void =>
      this.#tellError(bothErrors("handler", error, "handleError", second), clientAddress, running);
    try {
      const handled = this.handleError(request, clientAddress, error);
      if (isThenable(handled)) {
        return Promise.resolve(handled)
          .catch(both)
          .then(() => this.#letGo(request, clientAddress, running, true));
      }
    } catch (second) {
      both(second);
    }
    return this.#letGo(request, clientAddress, running, true);
  }

  /** `shutdownRequest`, and the end of the record. */
  #letGo(
    request: Request,
    clientAddress: Address | null,
    running?: Running,
    failed = false,
  ): Promise<void> | undefined {
    const over = (): void => {
      if (running !== undefined) this.end(request, running, failed);
    };
    const wrong = (error: unknown): void => {
      this.abortRequest(request); // it must not stay open because a hook failed
      this.#tellError(error, clientAddress, running);
      over();
    };
    try {
      const gone = this.shutdownRequest(request);
      if (isThenable(gone)) return Promise.resolve(gone).then(over, wrong);
    } catch (error) {
      wrong(error);
      return undefined;
    }
    over();
    return undefined;
  }

  #tellError(error: unknown, address: Address | null, running?: Running): void {
    this.tell({ type: "error", server: this.name, ...(running && { id: running.id }), address, error });
  }

  /** Turns a request away that no hook has seen: its connection is let go at once. */
  protected refuse(request: Request, address: Address | null, reason: "full" | "closing"): void {
    this.#refused++;
    this.abortRequest(request);
    this.tell({ type: "refused", server: this.name, address, reason });
  }

  async #close(): Promise<void> {
    await this.shutdown();
    this.stopListening();
    for (const [request, clientAddress] of this.#arrivals.splice(0)) {
      this.refuse(request, clientAddress, "closing");
    }
    for (const told of this.#awaiting.splice(0)) told();
    await this.drain();
    await this.letGo();
    this.tell({ type: "closed", server: this.name });
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
   * or the handler threw.
   */
  async run(options: RunOptions<Request> = {}): Promise<unknown> {
    const { signal } = options;
    if (this.#stopped) throw new SocketError("EBADF", "this connector was shut down; make a new one");
    signal?.throwIfAborted();
    const request = await this.connect(signal);
    const address = this.peerOf(request);
    const running = this.begin(request, address, options.params);
    const abort = (): void => this.cancelRequest(request, signal?.reason);
    let failed = true;
    try {
      signal?.addEventListener("abort", abort, { once: true });
      if (signal?.aborted) abort();
      options.onOpen?.(request);
      const result = await this.finishRequest(request, address);
      failed = false;
      return result;
    } finally {
      signal?.removeEventListener("abort", abort);
      try {
        await this.shutdownRequest(request);
      } finally {
        this.end(request, running, failed);
      }
    }
  }

  /** `run()` begins nothing any more. */
  override shutdown(): Promise<void> {
    this.#stopped = true;
    return DONE;
  }
}
