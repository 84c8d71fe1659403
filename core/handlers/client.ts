/**
 * Handlers that a pool runs. Such a handler lives as long as its connection, and answers calls. What a caller sees of a pool is here
 * as well, because an app's handlers call pools wherever these are: in this process, or in a Durable Object.
 *
 *     setup() ──▶ call, call, call … ──▶ finish()
 *     logs in        │                     says goodbye
 *                    ├─ send(call) writes, receive(call) reads one reply, in the order of send()
 *                    ├─ or call(call) does both, one call at a time
 *                    ├─ notice(message) gets what the server sends unasked
 *                    ├─ idle() runs while the connection is idle
 *                    └─ reset() runs when a lease comes back
 */

import type { MaybePromise } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import { optionNamesOf } from "../options.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import { noWay } from "./client-check.ts";
import { type HandlerServer, StreamRequestHandler } from "./handler.ts";

/** What `receive()` returns if it has read something that no call asked for: RESP3's push, PostgreSQL's NOTIFY. */
export class Notice<Message = unknown> {
  readonly message: Message;

  constructor(message: Message) {
    this.message = message;
  }
}

/** What `receive()` or `call()` returns if the server's reply is an error. That call rejects with `error`, and the connection goes on. */
export class ErrorReply {
  readonly error: unknown;

  constructor(error: unknown) {
    this.error = error;
  }
}

/**
 * The client's side of a protocol, for a pool: made once for each connection, it answers many calls.
 *
 *     class Lines extends ClientHandler<string, string> {
 *       override send(call: string) {
 *         this.wfile.write(`${call}\n`);
 *       }
 *       override async receive() {
 *         return String.fromCharCode(...(await this.rfile.readuntil("\n"))).trimEnd();
 *       }
 *     }
 *
 * A class has either `send` and `receive`, so that a pool may send several calls before their replies come (`pipeline`), or `call`,
 * which has the connection to itself. If one of them throws, the connection is closed, because its position in the stream is no longer
 * known: the calls that had begun on it are lost (`ERR_CALL_LOST`). To report an error that the server sent as a reply, return
 * `new ErrorReply(error)`.
 *
 * `setup()` logs in, once per connection; `finish()` says goodbye. If a connector runs this class instead of a pool, `handle()` makes
 * one call with its `params` and returns the reply.
 *
 * - `Call`: what a caller asks.
 * - `Reply`: what the caller gets.
 * - `Context`: what the app, or the pool's option `context`, gives: where the credentials are.
 */
export abstract class ClientHandler<
  Call = unknown,
  Reply = unknown,
  Context = unknown,
> extends StreamRequestHandler<Context, Call> {
  static readonly "socklet.client" = true;

  /**
   * Writes one complete call, without waiting. If the protocol has ids, it returns the call's id, by which `match()` finds it.
   * If it throws before it has written anything, only this call fails.
   */
  send?(call: Call): unknown;

  /**
   * Reads exactly one reply, that of `call`, or one `Notice`. `call` is `undefined` if nothing was asked, and if the class has
   * `match()`. If nothing was asked, only a `Notice` can come.
   *
   * It must throw if the end of the stream cuts a reply short. So read with `readexactly()` or `readuntil()`: `line()` also returns a
   * last line whose end is missing.
   */
  receive?(call: Call | undefined): MaybePromise<Reply | Notice | ErrorReply>;

  /** The id of the call that this reply answers, as `send()` returned it, if replies may come in any order. */
  match?(reply: Reply | ErrorReply): unknown;

  /** Writes one call and reads its reply, if the two cannot be separated. No other call runs meanwhile. */
  call?(call: Call): MaybePromise<Reply | ErrorReply>;

  /** Runs when the connection has been idle for `pingInterval`; usually it pings. `signal` aborts when a call waits; it should then return soon. */
  idle?(signal: AbortSignal): MaybePromise<void>;

  /** Undoes what the holder of a lease left behind. If it throws, the connection is destroyed. Without it, a leased connection is closed when it comes back. */
  reset?(): MaybePromise<void>;

  /** Gets what the server sends unasked, between replies or while nothing is asked. Nothing more is read until it settles. By default it is an event of type `handler`. */
  notice(message: unknown): MaybePromise<void> {
    this.emit(message);
  }

  /** Whether a transaction is open, as far as the replies so far tell. A connection that is given back inside one is destroyed. */
  get inTransaction(): boolean {
    return false;
  }

  /** Makes one call of this class's own, in `setup()`, `idle()` or `reset()`. A `Notice` goes to `notice()`; an `ErrorReply` is thrown. */
  protected async exchange(call: Call): Promise<Reply> {
    if (this.receive === undefined) {
      if (this.call === undefined) throw noWay(this.constructor.name);
      return replyOf(await this.call(call));
    }
    this.send?.(call);
    for (;;) {
      const got = await this.receive(call);
      if (!(got instanceof Notice)) return replyOf(got);
      await this.notice(got.message);
    }
  }

  /** Makes one call, with `params`. It runs if a connector dialled, and not a pool. */
  override handle(): unknown {
    return this.exchange(this.params);
  }
}

const replyOf = <Reply>(got: Reply | ErrorReply): Reply => {
  if (got instanceof ErrorReply) throw got.error;
  return got;
};

/** A class of handlers that answer calls. */
export type ClientHandlerClass<Call, Reply, Context = unknown> = new (
  request: StreamSocket,
  clientAddress: Address | null,
  server: HandlerServer<Context>,
) => ClientHandler<Call, Reply>;

// ---- What a caller sees ----

/** Options of one call. */
export interface PoolCallOptions {
  /** Aborts the call, which rejects with the reason. If it had begun, its connection is closed as well. */
  readonly signal?: AbortSignal | undefined;
  /** Whether the call may be made more than once, as a read may: if its connection is lost, it is made again on another. Default `false`. */
  readonly repeatable?: boolean;
}

export const CALL_NAMES = optionNamesOf<PoolCallOptions>("a call of a pool")({
  signal: "signal",
  repeatable: "boolean",
});

/** Options of one lease. */
export interface LeaseOptions {
  /** Stops the wait for the lease. Once there is one it ends the lease, as its time limit does. */
  readonly signal?: AbortSignal | undefined;
}

export const LEASE_NAMES = optionNamesOf<LeaseOptions>("a lease of a pool")({ signal: "signal" });

/** One connection of a pool, only for its holder until it is given back: `await using one = await pool.lease()`. */
export interface Lease<Call = unknown, Reply = unknown> extends AsyncDisposable {
  /** Makes a call on this connection, as `PoolClient.call()`; it is never repeated. Rejects with `ETIMEDOUT` when the lease's time is up, and with `EBADF` once the connection was given back. */
  call(call: Call, options?: Pick<PoolCallOptions, "signal">): Promise<Reply>;
  /** Gives the connection back. It is reset, or destroyed if it cannot be. Never rejects; a second call does nothing. */
  release(): Promise<void>;
}

/**
 * What a pool is to its callers, wherever its connections are.
 *
 * Every call settles once: with its own reply, with the error of an `ErrorReply`, or with a `SocketError`:
 * `ERR_CALL_LOST` (it had begun, and its connection was lost), `ETIMEDOUT` (no connection, or no reply, in time),
 * `ERR_LIMIT` (too many calls wait, or the reply is too large), `EBADF` (the pool is closed), `ECANCELED` (it was closed
 * meanwhile), or the reason of its signal.
 */
export interface PoolClient<Call = unknown, Reply = unknown> {
  /** Makes one call, on any connection. */
  call(call: Call, options?: PoolCallOptions): Promise<Reply>;
  /** Takes a connection for several calls that belong together, such as a transaction. */
  lease(options?: LeaseOptions): Promise<Lease<Call, Reply>>;
}

/** What a pool reports about itself. Times are milliseconds. */
export interface PoolInfo {
  readonly name: string;
  /** Where it dials. */
  readonly address: string;
  /** The most connections, and the most calls under way on each. */
  readonly max: number;
  readonly pipeline: number;
  /** Connections that are logged in; those being dialled or logged in; and how many of the first are idle, and leased. */
  readonly connections: number;
  readonly opening: number;
  readonly idle: number;
  readonly leased: number;
  /** Calls that have begun, and calls and leases that wait for a connection. */
  readonly running: number;
  readonly waiting: number;
  /** Calls that were answered; calls that were lost with their connection; and calls that took too long or were given up. */
  readonly answered: number;
  readonly lost: number;
  readonly abandoned: number;
  /** Connections that were logged in so far, and attempts that failed. */
  readonly opened: number;
  readonly failed: number;
  /** Why the last attempt failed, if none has succeeded since; otherwise `null`. */
  readonly error: string | null;
  readonly closed: boolean;
}

/** Why a call that had begun is not known to be done. */
export const callLost = (cause: unknown, address: string): SocketError =>
  new SocketError("ERR_CALL_LOST", undefined, { cause, address });
