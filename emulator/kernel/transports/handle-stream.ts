/** A stream over one of Node's handles, without a `net.Socket`: how it is read, ended and closed. Subclasses say how it is written. */

import type { Data } from "../../../core/bytes/data.ts";
import { toBytes } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import type { StreamSink } from "../../../core/sockets/transport.ts";
import { systemError } from "../addresses.ts";
import type {
  ShutdownRequest,
  StreamBinding,
  StreamHandle,
  StreamOwner,
  WriteRequest,
} from "../handles/handles.ts";
import { Intake } from "../handles/intake.ts";
import { type Lingering, linger } from "./linger.ts";
import { atEndOfTurn, FULL } from "./seam.ts";

const EOF = -4095; // uv.h
const NOT_CONNECTED = -107; // ENOTCONN

const named = (status: number, fallback: "ECONNRESET" | "EPIPE"): SocketError =>
  SocketError.from(systemError(status), fallback);

function onread(this: StreamHandle): Uint8Array | undefined {
  return (this.onconnection as StreamOwner).came();
}

/** The `oncomplete` of a write. */
export function afterWrite(this: WriteRequest, status: number): void {
  (this.transport as StreamOwner).wrote(this, status);
}

function afterShutdown(this: ShutdownRequest, status: number): void {
  (this.transport as StreamOwner).shut(status);
}

/** The state of a stream that has waited for room, ends, or has failed: most of its life it needs none of this. */
class Rare {
  room: PromiseWithResolvers<void> | null = null;
  ending: PromiseWithResolvers<void> | null = null;
  shutting = false;
  aborting = false; // whether to abort once the shutdown is over
  closers: (() => void)[] = [];
  stopLinger: (() => void) | null = null;
  failed = 0; // bytes of failed writes
  left = 0; // bytes that were unsent when it was closed
  dropping = false; // whether further input is discarded
  dropped = 0;
}

export abstract class HandleStream extends Intake implements StreamOwner, Lingering {
  protected readonly handle: StreamHandle;
  protected readonly node: StreamBinding;
  protected sink: StreamSink | null = null;
  protected ended = false; // the peer has ended
  protected closed = false;
  protected writing = 0; // writes that the kernel has not taken completely
  #reads: "not yet" | "no" | "yes" = "not yet";
  #rare: Rare | null = null; // made when it is first needed

  constructor(handle: StreamHandle, node: StreamBinding) {
    super();
    this.handle = handle;
    this.node = node;
    handle.onconnection = this;
  }

  get sharesTimers(): boolean {
    return true;
  }

  // Not `#rareState`: V8 gives each object of a class with private methods a field more.
  private get rareState(): Rare {
    this.#rare ??= new Rare();
    return this.#rare;
  }

  /** Whether further input is discarded. */
  protected get dropping(): boolean {
    return this.#rare?.dropping === true;
  }

  /** Pieces of input that were dropped after the close. */
  get dropped(): number {
    return this.#rare === null ? 0 : this.#rare.dropped;
  }

  /** Counts a dropped piece of input. */
  protected drop(): void {
    this.rareState.dropped++;
  }

  /** How many written bytes the kernel has not taken yet, while the stream is open. */
  protected abstract get inside(): number;

  abstract unacknowledged(): number | null;

  /** Closes the connection; with `reset` by a reset, if it can send one. */
  protected abstract letGo(reset: boolean): void;

  // ---- Reading ----

  start(sink: StreamSink): void {
    this.sink = sink;
  }

  resume(): void {
    if (this.#reads === "yes" || this.closed) return;
    if (this.#reads === "not yet") {
      this.handle.onread = onread;
      this.handle.useUserBuffer(this.into);
    }
    this.#reads = "yes";
    const status = this.handle.readStart();
    if (status < 0) this.broken(status, "ECONNRESET");
  }

  pause(): void {
    if (this.#reads !== "yes" || this.closed) return;
    this.#reads = "no";
    this.handle.readStop();
  }

  /** Something was read. Returns the buffer for the next read if it is a different one. */
  came(): Uint8Array | undefined {
    const size = this.node.streamBaseState[this.node.kReadBytesOrError] as number;
    const sink = this.sink as StreamSink;
    if (size > 0) {
      if (this.dropping) {
        this.drop();
        return undefined;
      }
      const from = this.into;
      const bytes = this.lent(size);
      if (sink.lend !== undefined) sink.lend(bytes, this);
      else sink.data(bytes.slice());
      return this.into === from ? undefined : this.into;
    }
    if (size === EOF) this.cameEnd();
    else if (size < 0) {
      this.destroy();
      if (!this.dropping) sink.error(named(size, "ECONNRESET"));
    }
    return undefined;
  }

  protected cameEnd(): void {
    this.ended = true;
    if (this.dropping) this.destroy();
    else this.sink?.end();
  }

  // ---- Writing ----

  get unsent(): number {
    const rare = this.#rare;
    if (rare === null) return this.closed ? 0 : this.inside;
    return (this.closed ? rare.left : this.inside) + rare.failed;
  }

  /** A write that the kernel did not take at once is over. */
  abstract wrote(request: WriteRequest, status: number): void;

  /** Counts data that will never be sent. */
  protected fail(data: Data): undefined {
    this.rareState.failed += toBytes(data).length;
  }

  /** If too much waits already, a promise that resolves when there is room. */
  protected mayWait(): Promise<void> | undefined {
    if (this.closed || this.inside <= FULL) return undefined;
    return this.emptied();
  }

  /** Resolves when the kernel has everything that was written. */
  protected async drained(): Promise<void> {
    while (this.writing > 0) await this.emptied();
  }

  protected emptied(): Promise<void> {
    const rare = this.rareState;
    rare.room ??= Promise.withResolvers();
    return rare.room.promise;
  }

  /** The kernel has everything that was written. */
  protected allLeft(): void {
    const rare = this.#rare;
    if (rare === null) return;
    rare.room?.resolve();
    rare.room = null;
    if (rare.ending !== null && !this.closed) this.shutdown();
  }

  // ---- The end ----

  end(): Promise<void> {
    const ending = Promise.withResolvers<void>();
    this.rareState.ending = ending;
    if (this.closed) ending.reject(new SocketError("EPIPE"));
    else if (this.writing === 0) this.shutdown();
    return ending.promise;
  }

  /** Sends the end. */
  protected shutdown(): void {
    const request = new this.node.ShutdownWrap();
    request.transport = this;
    request.oncomplete = afterShutdown;
    this.rareState.shutting = true;
    const status = this.handle.shutdown(request);
    if (status !== 0) this.shut(status === 1 ? 0 : status);
  }

  /** The shutdown is done, or failed. */
  shut(status: number): void {
    const rare = this.rareState;
    const { ending } = rare;
    rare.shutting = false;
    rare.ending = null;
    if (status < 0 && status !== NOT_CONNECTED) ending?.reject(named(status, "EPIPE"));
    else ending?.resolve();
    if (rare.aborting) this.abort();
  }

  /** As `NodeTransport.close()`. */
  close(): void {
    if (this.closed) return;
    if (this.ended) {
      this.destroy();
      return;
    }
    this.linger();
    this.resume();
  }

  /** Destroys the stream once its output need not be waited for any more. */
  protected linger(): void {
    this.handle.unref(); // it must not keep a process from ending
    const rare = this.rareState;
    rare.dropping = true;
    rare.stopLinger = linger(this, () => this.destroy());
  }

  abort(): void {
    if (this.closed) return;
    // During a shutdown libuv refuses a reset, and Node takes it as done.
    if (this.#rare?.shutting === true) this.#rare.aborting = true;
    else this.destroy(true);
  }

  /** A call failed. The socket is told later, since it may be in the middle of that call. */
  protected broken(status: number, otherwise: "ECONNRESET" | "EPIPE" = "EPIPE"): void {
    if (this.closed) return;
    this.destroy();
    queueMicrotask(() => this.sink?.error(named(status, otherwise)));
  }

  protected destroy(reset = false): void {
    if (this.closed) return;
    const left = this.inside;
    if (left > 0) this.rareState.left = left;
    this.closed = true;
    const rare = this.#rare;
    rare?.stopLinger?.();
    this.letGo(reset);
    if (rare === null) return;
    if (!rare.shutting) rare.ending?.reject(new SocketError("EPIPE"));
    rare.room?.resolve();
    rare.room = null;
    for (const told of rare.closers) told();
  }

  /** Calls `told` when it is closed. Returns a function that stops that. */
  protected onClose(told: () => void): () => void {
    const rare = this.rareState;
    rare.closers = [...rare.closers, told];
    return () => {
      rare.closers = rare.closers.filter((other) => other !== told);
    };
  }

  defer(task: () => void): void {
    atEndOfTurn(task);
  }
}
