/**
 * The handler: the small piece of code that talks to one peer and does not know where it runs.
 *
 * For each request one handler is made, and its `run()` is called once:
 *
 *     setup() ──▶ handle() ──▶ finish()
 *        │            └─ throws ──▶ finish() ──▶ the error is passed on
 *        └─ throws ──▶ the error is passed on, and finish() is not called
 *
 * This is CPython's order: `finish` runs whenever `setup` succeeded. Each of the three may be async; a synchronous
 * one costs no promise. The connection is open in all three; the server or connector closes it afterwards.
 */

import { type Data, DONE, EMPTY, joinBytes, type MaybePromise, toBytes } from "../bytes/data.ts";
import { StreamReader } from "../bytes/reader.ts";
import { StreamWriter, type WriterTarget } from "../bytes/writer.ts";
import { errorText, textOf } from "../describe.ts";
import type { Address } from "../net/address.ts";
import { wholeMs } from "../options.ts";
import { isThenable, whenSettled } from "../promises.ts";
import type { Datagram } from "../sockets/datagram.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { EndpointInfo } from "./events.ts";
import type { StateKeeper } from "./keep.ts";

/** What a handler can ask about its own request. */
export interface RequestScope {
  /** The request's number at this server, from 1. */
  readonly id: number;
  readonly signal: AbortSignal;
  readonly params: unknown;
  /** Keeps the handler's state; `undefined` if nothing does. */
  readonly keeper?: StateKeeper | undefined;
  emit(detail: unknown): void;
}

/**
 * The server or connector that made a handler, as the handler sees it. A handler that needs more of its own kind of
 * server declares that: `declare readonly server: MyServer`.
 */
export interface HandlerServer<Context = unknown> {
  readonly name: string;
  readonly context: Context;
  scope(request: unknown): RequestScope;
  info(): EndpointInfo;
  /** From now on no request begins; this one continues. */
  shutdown(): Promise<void>;
}

/** A class whose instances handle one request each. A class that needs no context fits every server. */
export type HandlerClass<Request, Context = unknown, Params = unknown> = new (
  request: Request,
  clientAddress: Address | null,
  server: HandlerServer<Context>,
) => BaseRequestHandler<Request, unknown, Params>;

/** Throws a `TypeError` if `Handler` is not a class of handlers. */
export const checkHandler = (Handler: unknown): void => {
  if (typeof Handler === "function" && typeof Handler.prototype?.run === "function") return;
  throw new TypeError(
    "a handler is a class that extends StreamRequestHandler, DatagramRequestHandler or BaseRequestHandler; wrap a function in streamHandler()",
  );
};

/** The name of the base class that makes a handler unfit for this kind of request; `null` if it is fit. */
export const unfitFor = (
  Handler: { readonly prototype: unknown },
  kind: "streams" | "datagrams",
): string | null => {
  const Unfit = kind === "streams" ? DatagramRequestHandler : StreamRequestHandler;
  return Handler.prototype instanceof Unfit ? Unfit.name : null;
};

/** Throws `TypeError` if the handler is for the other kind of request than `who` serves. */
export const checkKind = (
  Handler: { readonly name: string; readonly prototype: unknown },
  kind: "streams" | "datagrams",
  who: string,
): void => {
  const unfit = unfitFor(Handler, kind);
  if (unfit === null) return;
  const other = kind === "streams" ? "datagrams" : "streams";
  throw new TypeError(
    `${Handler.name || "the handler"} extends ${unfit}, which is for ${other}; ${who} has ${kind}`,
  );
};

/**
 * Handles one request. CPython's `socketserver.BaseRequestHandler`; override `handle`, and `setup` and `finish`
 * where needed.
 *
 * - `Request`: a `StreamSocket` or a `Datagram`.
 * - `Context`: what the app made from its platform (bindings, secrets, storage).
 * - `Params`: what the caller of a dialled handler passes. The compiler checks it for a connector's `run()` and for `runScript()`.
 *   Values from outside, from the control plane or the command line, are not checked.
 * - `State`: what it saves, and finds again on the next connection of a lasting session; see `save()`.
 */
export abstract class BaseRequestHandler<
  Request = StreamSocket,
  Context = unknown,
  Params = unknown,
  State = unknown,
> {
  /** The connection, or the datagram. */
  readonly request: Request;
  /** The peer's address, or `null`: some places do not report it. */
  readonly clientAddress: Address | null;
  /** The server or connector that made this handler. */
  readonly server: HandlerServer<Context>;
  /** The `state` of a handler that has not saved any: `override readonly initialState = { last: "0" }`. Default `undefined`. */
  declare readonly initialState: State;

  constructor(request: Request, clientAddress: Address | null, server: HandlerServer<Context>) {
    this.request = request;
    this.clientAddress = clientAddress;
    this.server = server;
  }

  /** Aborted when the server stops this request. It is made on first use. */
  get signal(): AbortSignal {
    return this.server.scope(this.request).signal;
  }

  /** What the app's `context()` made. */
  get context(): Context {
    return this.server.context;
  }

  /** What the caller of `run()` passed; `undefined` if nothing was passed, as at a server. */
  get params(): Params {
    return this.server.scope(this.request).params as Params;
  }

  /** Emits an event of type `handler` with this `detail`. */
  emit(detail: unknown): void {
    this.server.scope(this.request).emit(detail);
  }

  /**
   * What was saved last, in a lasting session also by the handlers of its earlier connections; otherwise `initialState`. It is
   * a copy: changing it does not save it.
   */
  get state(): State {
    const { keeper } = this.server.scope(this.request);
    const saved = keeper === undefined ? structuredClone(unkept.get(this)) : keeper.state;
    return (saved === undefined ? this.initialState : saved) as State;
  }

  /**
   * Saves `state`: JSON, bytes, dates, maps, sets and bigints, at most 1 MiB as text. Resolves when it is
   * stored; rejects if it cannot be. What is emitted and saved without an `await` in between is stored together, or not at all:
   *
   *     this.emit(message);
   *     await this.save({ last: message.id }); // a message is emitted once, whatever ends in between
   *
   * It outlives the connection in a session of an entry of `dial` with `keep`; elsewhere it lasts as long as this handler,
   * and is copied by `structuredClone()`, without a check. Throws `TypeError` for a value that cannot be stored, `ERR_LIMIT` for a state that is too large.
   */
  save(state: State): Promise<void> {
    const { keeper } = this.server.scope(this.request);
    if (keeper !== undefined) return keeper.save(state);
    unkept.set(this, structuredClone(state)); // it is checked where it is stored
    return DONE;
  }

  /** The session's work is done: it ends once this handler has ended without an error, even if it would be dialled again. Returns `result`: `return this.done(count)`. */
  done<Result = undefined>(result?: Result): Result {
    this.server.scope(this.request).keeper?.done();
    return result as Result;
  }

  setup(): MaybePromise<void> {}

  /** Serves the request. What it returns is the result of a dialled session; a listener ignores it. */
  handle(): unknown {
    return undefined;
  }

  finish(): MaybePromise<void> {}

  /** `setup`, `handle`, `finish`, as drawn above. Returns the result of `handle`. Called once, by the server. */
  run(): unknown {
    const ready = this.setup();
    return isThenable(ready) ? whenSettled(ready, () => this.#handleAndFinish()) : this.#handleAndFinish();
  }

  /** Called between `setup` and `handle`: throws if `setup` left something undone. */
  protected checkSetup(): void {}

  #handleAndFinish(): unknown {
    this.checkSetup();
    const finishes = this.finish !== BaseRequestHandler.prototype.finish;
    let result: unknown;
    try {
      result = this.handle();
    } catch (error) {
      return this.#finishAfter(error);
    }
    if (!isThenable(result)) return this.#finishWith(result);
    return finishes ? this.#finishLater(result) : result; // without a `finish`, nothing is left to do
  }

  /** A method of its own, since each call of one that makes functions allocates a context, also if it makes none. */
  #finishLater(result: PromiseLike<unknown>): Promise<unknown> {
    return whenSettled(
      result,
      (value) => this.#finishWith(value),
      (error) => this.#finishAfter(error),
    );
  }

  #finishWith(result: unknown): unknown {
    const finished = this.finish();
    return isThenable(finished) ? whenSettled(finished, () => result) : result;
  }

  #finishAfter(error: unknown): unknown {
    let finished: MaybePromise<void>;
    try {
      finished = this.finish();
    } catch (second) {
      throw bothErrors("handle", error, "finish", second);
    }
    const rethrow = (): never => {
      throw error;
    };
    if (!isThenable(finished)) return rethrow();
    return whenSettled(finished, rethrow, (second) => {
      throw bothErrors("handle", error, "finish", second);
    });
  }
}

const unkept = new WeakMap<object, unknown>(); // the states of handlers whose state is not kept elsewhere

/** Combines two errors, so that the second does not hide the first: both are in `errors`, and the first is the `cause`. */
export const bothErrors = (where1: string, first: unknown, where2: string, second: unknown): AggregateError =>
  new AggregateError(
    [first, second],
    `${where1}() failed: ${errorText(first)}; then ${where2}() failed: ${errorText(second)}`,
    {
      cause: first,
    },
  );

/** Handles one connection, with its reader `rfile` and its writer `wfile`. CPython's `StreamRequestHandler`. */
export abstract class StreamRequestHandler<
  Context = unknown,
  Params = unknown,
  State = unknown,
> extends BaseRequestHandler<StreamSocket, Context, Params, State> {
  /** How long one read or write waits for the peer, in milliseconds; `null`: no limit; `undefined`: the server's value. */
  readonly timeout: number | null | undefined = undefined;
  #setUp = false;

  /** The connection: CPython's other name for `request`. */
  get connection(): StreamSocket {
    return this.request;
  }

  /** Reads the connection. It is the connection's own buffer: `request.recv()` and this can be mixed. */
  get rfile(): StreamReader {
    return this.request.rfile;
  }

  /** Writes the connection, gathered. */
  get wfile(): StreamWriter {
    return this.request.wfile;
  }

  /** Sets `timeout`. A class with a `timeout` that overrides this must call it. Without a `timeout` it need not: `rfile` and `wfile` exist already. */
  override setup(): MaybePromise<void> {
    this.#setUp = true;
    if (this.timeout !== undefined) this.request.settimeout(this.timeout);
  }

  protected override checkSetup(): void {
    if (this.#setUp || this.timeout === undefined) return;
    const name = textOf(this.constructor.name);
    throw new TypeError(
      `${name}.setup() does not call super.setup(), which sets its timeout of ${wholeMs(this.timeout ?? 0)}; add \`super.setup()\` to it`,
    );
  }

  /** Sends what is gathered, without waiting: the close that follows waits, and reports what does not leave. */
  override finish(): MaybePromise<void> {
    this.wfile.start();
  }
}

const LEAST = 2 * 1024; // bytes to gather a reply in: most replies fit, and a writer releases memory of this size when it hands it over
const MOST = 64 * 1024; // bytes that are kept for the next reply

let spare = EMPTY; // the memory of the last reply: new memory for each would cost more than the rest of the reply

/** The answer to a datagram. */
class Reply implements WriterTarget {
  readonly unsent = 0;
  #parts: Data[] = [];
  #memory = EMPTY;

  write(data: Data): undefined {
    if (this.#parts.length > 0) this.#parts.push(data);
    else this.#parts = [data]; // nearly always the only one: push() would take memory for 17
  }

  memory(size: number): Uint8Array {
    const taken = spare.length < size ? new Uint8Array(Math.max(size, LEAST)) : spare;
    if (taken === spare) spare = EMPTY;
    this.#memory = taken;
    return taken;
  }

  /** Sends what was written, if anything was, back to the sender of `request`. */
  send(request: Datagram): void {
    const parts = this.#parts;
    if (parts.length === 0) return;
    request.reply(parts.length === 1 ? (parts[0] as Data) : joined(parts.map(toBytes)));
    // These bytes are free now: the reply is sent or copied, and the writer released them when it handed them over.
    this.#parts = [];
    if (this.#memory.length <= MOST) spare = this.#memory;
    this.#memory = EMPTY;
  }
}

const joined = (parts: readonly Uint8Array[]): Uint8Array =>
  joinBytes(
    parts,
    parts.reduce((size, part) => size + part.length, 0),
  );

/**
 * Handles one datagram: `rfile` reads it, and what was written to `wfile` goes back as one datagram when `finish`
 * runs. If nothing was written, nothing is sent (CPython sends an empty datagram, which reflects traffic).
 */
export abstract class DatagramRequestHandler<Context = unknown, Params = unknown> extends BaseRequestHandler<
  Datagram,
  Context,
  Params
> {
  #rfile: StreamReader | undefined;
  #wfile: StreamWriter | undefined;
  #reply: Reply | undefined;

  /** Reads the datagram, then the end. */
  get rfile(): StreamReader {
    this.#rfile ??= StreamReader.of(this.request.data);
    return this.#rfile;
  }

  /** Gathers the reply. */
  get wfile(): StreamWriter {
    if (this.#wfile === undefined) {
      this.#reply = new Reply();
      this.#wfile = new StreamWriter(this.#reply);
    }
    return this.#wfile;
  }

  /** Sends the reply. Throws `EMSGSIZE` if it is larger than a datagram. */
  override finish(): MaybePromise<void> {
    this.#wfile?.start();
    this.#reply?.send(this.request);
  }
}

/**
 * The class of handlers that a function makes:
 *
 *     const Upper = streamHandler(async ({ rfile, wfile }) => {
 *       for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\n`);
 *     });
 */
export const streamHandler = <Context = unknown, Params = unknown>(
  handle: (handler: StreamRequestHandler<Context, Params>) => unknown,
): HandlerClass<StreamSocket, Context, Params> =>
  class extends StreamRequestHandler<Context, Params> {
    override handle(): unknown {
      return handle(this);
    }
  };
