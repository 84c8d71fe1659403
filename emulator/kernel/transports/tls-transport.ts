/**
 * Secured connections over Node's TLS handle, without the streams of a `TLSSocket`.
 *
 * A `TLSSocket` does the handshake. Then its handle is taken over, which reads and writes like a connection's own handle, with
 * two differences. A write is encrypted before the call returns, so the caller can reuse its memory at once. And the handle
 * takes one write at a time, each of which ends in a later turn of the event loop; what is written meanwhile is gathered here,
 * and leaves as the next write.
 */

import type tls from "node:tls";
import { type Data, EMPTY, toBytes } from "../../../core/bytes/data.ts";
import type { SocketError } from "../../../core/errors.ts";
import type { Address } from "../../../core/net/address.ts";
import type { StartTlsOptions, TlsInfo } from "../../../core/sockets/tls/tls.ts";
import type { Capabilities, KernelSocket, StreamTransport } from "../../../core/sockets/transport.ts";
import type { Holder, Kernel } from "../descriptors/kernel.ts";
import type { Settable } from "../descriptors/plain-options.ts";
import {
  queuedIn,
  type SecureHandle,
  type StreamBinding,
  takeSecureHandle,
  type WriteRequest,
} from "../handles/handles.ts";
import { socketHolder } from "../handles/holders.ts";
import { fresh } from "../handles/intake.ts";
import { resetUnder, tlsError } from "../tls/tls.ts";
import { afterWrite, HandleStream } from "./handle-stream.ts";
import {
  atEndOfTurn,
  type Connection,
  kernelOf,
  type Origin,
  type OverSocket,
  PIECE,
  SECURED,
} from "./seam.ts";

const RECORD = 16 * 1024; // bytes of the longest record (RFC 8446, section 5.1)
const SLAB = 4 * RECORD; // bytes of records that are delivered as one piece
const GATHERED = 64 * 1024; // bytes gathered in one piece. A write of this size or more is not copied; its caller waits

/** The connection `before`, once `secured` has secured it, over the handle of `secured`. `null` if Node lacks what is needed. */
export const overSecureHandle = (
  secured: tls.TLSSocket,
  before: OverSocket,
  origin: Origin,
  state: TlsInfo,
): Connection | null =>
  takeSecureHandle(
    secured,
    (handle, node, early) => new TlsTransport(handle, node, secured, early, before, origin, state),
  );

/** Buffers to gather writes in, kept for reuse. */
const trays: Uint8Array[] = [];
const TRAYS = 64; // buffers kept: 4 MiB

const tray = (): Uint8Array => trays.pop() ?? new Uint8Array(Buffer.allocUnsafeSlow(GATHERED).buffer);

/** Output that waits for the current write. */
interface Waiting {
  /** Its memory: a tray, or its caller's. */
  bytes: Uint8Array;
  /** How much of a tray is in use; -1 if it is not a tray. */
  used: number;
  /** Tells the caller that its memory is no longer needed. */
  readonly taken?: () => void;
}

function onerror(this: SecureHandle, error: Error): void {
  (this.onconnection as TlsTransport).failed(error);
}

class TlsTransport extends HandleStream implements Connection {
  readonly tls: TlsInfo;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly #secured: tls.TLSSocket;
  readonly #before: OverSocket;
  #origin: Origin;
  #kernel: Kernel | undefined;
  #resumed = false;
  #leaves = false; // whether to destroy it when the end is sent
  #early: readonly Buffer<ArrayBuffer>[]; // what the TLSSocket had read
  #long = 0; // full-length records in a row
  #slab: Uint8Array<ArrayBuffer> | null = null; // where long records are joined
  #at = 0; // where in it the next one goes
  #given = 0; // how much of it was delivered
  #due = false; // whether the rest is delivered at the end of this turn
  #endOfTurn: (() => void) | undefined;
  #waiting: Waiting[] = [];
  #inside = 0; // written bytes that the kernel is not known to have: those of the current write, and those that wait
  #under = 0; // bytes of the current write

  constructor(
    handle: SecureHandle,
    node: StreamBinding,
    secured: tls.TLSSocket,
    early: readonly Buffer<ArrayBuffer>[],
    before: OverSocket,
    origin: Origin,
    state: TlsInfo,
  ) {
    super(handle, node);
    this.#secured = secured;
    this.#before = before;
    this.#origin = origin;
    this.#early = early;
    this.tls = state;
    this.remoteAddress = before.remoteAddress;
    this.capabilities = before.capabilities;
    handle.onerror = onerror;
    secured.once("end", () => {
      this.ended = true;
      if (this.#resumed) queueMicrotask(() => this.#giveEarly());
    });
  }

  from(origin: Origin): this {
    this.#origin = origin;
    return this;
  }

  get localAddress(): Address | null {
    return this.#before.localAddress;
  }

  get fd(): number {
    return this.#before.fd;
  }

  unref(): void {
    this.handle.unref();
  }

  // ---- Reading ----

  override resume(): void {
    if (!this.#resumed) {
      this.#resumed = true;
      if (this.#early.length > 0 || this.ended) queueMicrotask(() => this.#giveEarly());
    }
    super.resume();
  }

  /** Delivers what the `TLSSocket` had read; later, since the caller is not ready for it yet. */
  #giveEarly(): void {
    if (this.closed) return;
    const early = this.#early;
    this.#early = [];
    for (const { buffer, byteOffset, length } of early) {
      if (this.dropping) this.drop();
      else this.sink?.data(new Uint8Array(buffer, byteOffset, length));
    }
    if (this.ended) this.cameEnd();
  }

  /**
   * A peer's large writes come as full-length records, so more of them come in the same turn. These are joined, and delivered at the
   * end of the turn, when the buffer is full, or with a shorter record; the reader then owns the memory. Others are lent as they come.
   */
  override came(): Uint8Array | undefined {
    const size = this.node.streamBaseState[this.node.kReadBytesOrError] as number;
    const slab = this.#slab;
    if (slab === null) {
      const next = super.came();
      this.#long = size === RECORD ? this.#long + 1 : 0;
      return this.#long > 1 && !this.dropping ? this.#newSlab() : next;
    }
    if (size <= 0) {
      this.#giveHeld();
      return super.came();
    }
    const alone = this.#given === this.#at;
    this.#at += size;
    const room = slab.length - this.#at >= RECORD;
    if (size === RECORD && room) {
      if (!this.#due) {
        this.#due = true;
        this.#endOfTurn ??= () => {
          this.#due = false;
          this.#giveHeld();
        };
        atEndOfTurn(this.#endOfTurn);
      }
      return slab.subarray(this.#at);
    }
    this.#giveHeld();
    if (size === RECORD) return this.#newSlab();
    if (room && !alone) return slab.subarray(this.#at);
    this.#slab = null;
    this.#long = 0;
    return this.into;
  }

  #newSlab(): Uint8Array {
    this.#at = this.#given = 0;
    this.#slab = fresh(SLAB);
    return this.#slab;
  }

  /** Takes the records that were joined and not delivered; `null` if there are none. */
  #held(): Uint8Array<ArrayBuffer> | null {
    const from = this.#given;
    this.#given = this.#at;
    return from === this.#at || this.#slab === null ? null : this.#slab.subarray(from, this.#at);
  }

  #giveHeld(): void {
    const held = this.#held();
    if (held === null || this.closed) return;
    if (this.dropping) this.drop();
    else this.sink?.data(held);
  }

  /** OpenSSL reports an error: a malformed record, or an alert from the peer. */
  failed(error: Error): void {
    if (this.closed) return;
    const told: SocketError = tlsError(error, true);
    this.#giveHeld();
    this.destroy();
    if (!this.dropping) this.sink?.error(told);
  }

  // ---- Writing ----

  write(data: Data): Promise<void> | undefined {
    if (this.closed) return this.fail(data);
    const bytes = toBytes(data);
    const size = bytes.length;
    this.#inside += size;
    if (this.writing === 0 && size <= PIECE) {
      this.#send(bytes);
      return this.mayWait();
    }
    if (size < GATHERED) {
      this.#gather(bytes);
      return this.mayWait();
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ bytes, used: -1, taken: resolve });
    if (this.writing === 0) this.#sendNext();
    return promise;
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    return this.write(bytes);
  }

  protected get inside(): number {
    return this.#inside;
  }

  unacknowledged(): number | null {
    return this.#before.unacknowledged();
  }

  wrote(_request: WriteRequest, status: number): void {
    this.writing = 0;
    if (this.closed) return;
    if (status < 0) {
      this.broken(status);
      return;
    }
    this.#inside -= this.#under;
    if (this.#waiting.length > 0) this.#sendNext();
    else this.allLeft();
  }

  #gather(bytes: Uint8Array): void {
    let last = this.#waiting.at(-1);
    if (last === undefined || last.used < 0 || last.used + bytes.length > last.bytes.length) {
      last = { bytes: tray(), used: 0 };
      this.#waiting.push(last);
    }
    last.bytes.set(bytes, last.used);
    last.used += bytes.length;
  }

  #sendNext(): void {
    const next = this.#waiting[0] as Waiting;
    const { bytes, used, taken } = next;
    if (used >= 0) {
      this.#waiting.shift();
      this.#send(bytes.subarray(0, used));
      if (trays.length < TRAYS) trays.push(bytes);
      return;
    }
    if (bytes.length <= PIECE) {
      this.#waiting.shift();
      this.#send(bytes);
      taken?.();
      return;
    }
    next.bytes = bytes.subarray(PIECE);
    this.#send(bytes.subarray(0, PIECE));
  }

  #send(bytes: Uint8Array): void {
    const request = new this.node.WriteWrap();
    request.transport = this; // set first: a write can complete within the call
    request.oncomplete = afterWrite;
    this.writing = 1;
    this.#under = bytes.length;
    const status = this.handle.writeBuffer(request, bytes);
    if (status === 0) return;
    this.writing = 0;
    this.broken(status);
  }

  protected override shutdown(): void {
    // OpenSSL's own messages may still be on their way: a shutdown now would overtake the close_notify.
    if (this.handle.writeQueueSize > 0) this.#send(EMPTY);
    else super.shutdown();
  }

  leave(): boolean {
    if (!this.ended || this.writing > 0 || this.closed || this.handle.writeQueueSize > 0) return false;
    this.#leaves = true;
    super.shutdown();
    if (queuedIn(this.#before.socket) === 0) this.destroy();
    else this.linger(); // no room for the close_notify, since the peer reads nothing
    return true;
  }

  override shut(status: number): void {
    super.shut(status);
    if (this.#leaves) this.destroy();
  }

  protected letGo(reset: boolean): void {
    for (const { taken } of this.#waiting) taken?.();
    this.#waiting = [];
    if (reset) resetUnder(this.#before.socket, this.#secured);
    else this.#secured.destroy();
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    await this.drained();
    return this.toNode().startTls(options);
  }

  toNode(): OverSocket {
    this.pause();
    const unread = Buffer.concat([...this.#early, this.#held() ?? EMPTY]);
    this.#early = [];
    const origin = { ...this.#origin, early: unread.length > 0 ? unread : undefined };
    return this.#before.overStream(this.#secured, origin, this.tls);
  }

  // ---- The kernel's side ----

  get kernel(): KernelSocket {
    this.#kernel ??= this.#origin.kernel ?? kernelOf(this.remoteAddress, this.settable, this.holder);
    return this.#kernel;
  }

  get settable(): Settable {
    return this.#before.settable;
  }

  get holder(): Holder {
    return socketHolder(this.#before.socket, SECURED);
  }
}
