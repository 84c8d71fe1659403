/** What a server and a connector share, `BaseEndpoint`: they run handlers on requests, know which run, and can end them. */

import { deadline, within } from "../bytes/alarm.ts";
import { DONE, type MaybePromise } from "../bytes/data.ts";
import { textOf } from "../describe.ts";
import { SocketError } from "../errors.ts";
import {
  callListener,
  type EndpointInfo,
  type OnEvent,
  reportBroken,
  type SockletEvent,
  tellFailure,
} from "../handlers/events.ts";
import {
  checkHandler,
  type HandlerClass,
  type HandlerServer,
  type RequestScope,
} from "../handlers/handler.ts";
import type { StateKeeper } from "../handlers/keep.ts";
import type { Address } from "../net/address.ts";
import { checkOptions, checkTime, type OptionNames, optionNamesOf, wholeMs } from "../options.ts";
import { attempt } from "../promises.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { ABORT_GRACE, bytesOf, Requests, Running, type Teller } from "./requests.ts";

/** Options of a server or a connector. Times are milliseconds. */
export interface EndpointOptions<Context> {
  /** Its name in events. Default: the handler's class name. */
  readonly name?: string;
  /** What handlers get as `this.context`. */
  readonly context?: Context;
  /** Called with every event. */
  readonly onEvent?: OnEvent;
  /** How long `drain()` waits for running requests before it aborts them. Default 10 000. */
  readonly drainTimeout?: number;
}

export const ENDPOINT_NAMES = optionNamesOf<EndpointOptions<unknown>>("a server or a connector")({
  name: "string",
  context: true,
  onEvent: "function",
  drainTimeout: true,
});

/** What a server and a connector share: they run handlers on requests, know which run, and can end them. */
export abstract class BaseEndpoint<Request, Context = unknown> implements HandlerServer<Context> {
  /**
   * The names of the options that this class's constructor takes; any other is a `TypeError`. A subclass with options of
   * its own adds them:
   *
   *     class Greeter extends ThreadingTCPServer {
   *       static override readonly optionNames: OptionNames = { ...ThreadingTCPServer.optionNames, greeting: true };
   */
  static readonly optionNames: OptionNames = ENDPOINT_NAMES;

  /** The class that handles each request. It may be replaced at any time; requests that run keep the old one. */
  RequestHandlerClass: HandlerClass<Request, Context>;
  /** What handlers get as `this.context`. */
  readonly context: Context;
  readonly name: string;
  onEvent: OnEvent | undefined;
  /** How long `drain()` waits for running requests before it aborts them, in milliseconds. */
  drainTimeout: number;

  readonly #running = new Requests<Request>();
  readonly #teller: Teller; // one for all requests
  #begun = 0;
  #served = 0;
  #failed = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #whenOne: (() => void)[] = []; // called when one more has ended
  #draining: Promise<void> | null = null;
  #drainDue = Number.POSITIVE_INFINITY; // when what still runs is aborted, by performance.now()
  #stopDrainTimer: (() => void) | undefined;
  #late: (timeout: number) => void = () => {}; // that time is up

  constructor(RequestHandlerClass: HandlerClass<Request, Context>, options: EndpointOptions<Context> = {}) {
    checkHandler(RequestHandlerClass);
    const { name, optionNames } = new.target as unknown as typeof BaseEndpoint;
    checkOptions(name || "this class", options, optionNames);
    this.RequestHandlerClass = RequestHandlerClass;
    this.context = options.context as Context;
    this.name = options.name ?? (textOf(RequestHandlerClass.name) || "anonymous");
    this.#teller = { server: this.name, tell: (event) => this.announce(event) };
    this.onEvent = options.onEvent;
    this.drainTimeout = checkTime("drainTimeout", options.drainTimeout ?? 10_000, 0);
  }

  /** How many handlers are running. */
  get running(): number {
    return this.#running.size;
  }

  /** What a handler of `request` can ask of its server. */
  scope(request: Request): RequestScope {
    const running = this.#running.get(request);
    if (running === undefined) throw new SocketError("EINVAL", "this request is not running at this server");
    return running;
  }

  /** Its counts, as a plain object to print or to serve. */
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

  /** Begins nothing new; running requests continue. May be called from anywhere, also from a handler. */
  abstract shutdown(): Promise<void>;

  /** Makes the handler and runs it. Returns what `handle` returned. */
  finishRequest(request: Request, clientAddress: Address | null): unknown {
    return new this.RequestHandlerClass(request, clientAddress, this).run();
  }

  /** `finishRequest()`, as a server and a connector call it: a platform that traces requests does it here. */
  protected runRequest(request: Request, clientAddress: Address | null): unknown {
    return this.finishRequest(request, clientAddress);
  }

  /** The request is over: sends what was written, and closes its connection. */
  shutdownRequest(request: Request): MaybePromise<void> {
    return this.closeRequest(request);
  }

  closeRequest(request: Request): MaybePromise<void> {
    if (request instanceof StreamSocket) return request.close();
  }

  /** A hook or a handler failed. Reports it as an event; the server goes on. */
  handleError(request: Request, clientAddress: Address | null, error: unknown): MaybePromise<void> {
    const id = this.#running.get(request)?.id;
    this.announce({ type: "error", server: this.name, ...(id && { id }), address: clientAddress, error });
  }

  /**
   * Waits until no handler runs. After `timeout` ms (default `drainTimeout`) it aborts those that still do. After another second it
   * gives up on handlers that have not noticed, and reports each with an event of type `stuck`. A further call meanwhile waits for the
   * same end, which comes no later than that call's `timeout`.
   */
  drain(timeout: number = this.drainTimeout): Promise<void> {
    checkTime("timeout", timeout, 0);
    if (this.#running.size === 0) return this.#draining ?? DONE;
    if (this.#draining === null) {
      this.announce({ type: "draining", server: this.name, running: this.#running.size, timeout });
      this.#draining = this.#drain().finally(() => {
        this.#draining = null;
        this.#drainDue = Number.POSITIVE_INFINITY;
        this.#stopDrainTimer?.();
      });
    }
    const due = performance.now() + timeout;
    if (due < this.#drainDue) {
      this.#drainDue = due;
      this.#stopDrainTimer?.();
      this.#stopDrainTimer = deadline(timeout, () => this.#late(timeout));
    }
    return this.#draining;
  }

  /** Ends all running requests at once: their signals abort, and their connections are reset. */
  abort(reason: unknown = new SocketError("ECONNABORTED", "the server was aborted")): void {
    for (const [request, running] of this.#running.all()) this.cancelOne(request, running, reason);
  }

  /** `cancelRequest()`, which may throw in a user's class: the other requests must end all the same. */
  protected cancelOne(request: Request, { id, address }: Running, reason: unknown): void {
    attempt(
      () => this.cancelRequest(request, reason),
      (error) => this.announce({ type: "error", server: this.name, id, address, error }),
    );
  }

  /** Ends a running request at once: its signal aborts with `reason`, and its connection is reset. */
  cancelRequest(request: Request, reason: unknown): void {
    this.#running.get(request)?.abort(reason);
    this.abortRequest(request, reason);
  }

  /** Closes one connection at once; its reads and writes name the `reason`. */
  abortRequest(request: Request, reason?: unknown): void {
    if (request instanceof StreamSocket) request.abort(reason);
  }

  /** Whether events of this type have a listener. Without one, events of frequent types are not even made. */
  protected watches(_type: SockletEvent["type"]): boolean {
    return this.onEvent !== undefined;
  }

  /** Passes `event` to the listener. An error that an override throws is reported as the listener's own would be. */
  protected tell(event: SockletEvent): void {
    if (this.onEvent !== undefined) callListener(this.onEvent, event);
  }

  /** `tell()`, which may throw in a user's class. */
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

  protected begin(
    request: Request,
    address: Address | null,
    params?: unknown,
    keeper?: StateKeeper,
  ): Running {
    const running = new Running(++this.#begun, address, params, this.#teller, keeper);
    this.#running.set(request, running);
    if (this.watches("begin")) this.announce({ type: "begin", server: this.name, id: running.id, address });
    return running;
  }

  protected end(request: Request, running: Running, failed: boolean): void {
    this.#running.delete(request);
    running.stopTimer?.();
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
    await within(this.#idle(), ABORT_GRACE);
    for (const { id, address } of this.#running.all().values()) {
      this.announce({ type: "stuck", server: this.name, id, address });
    }
  }

  /** Resolves when no handler runs. */
  async #idle(): Promise<undefined> {
    while (this.#running.size > 0) await this.oneEnded();
  }
}
