/**
 * Accepted connections over Node's handle, without a `net.Socket`.
 *
 * A `net.Socket` is two streams with their states and events, which `StreamReader` and `StreamWriter` already are. It makes
 * up a third of the cost of a small message, and most of the cost of a connection. (Measured with the smallest possible echo,
 * in CPU relative to bare Node: a message 0.87 on the handle, 1.05 on a `net.Socket`; a connection 0.78 and 0.96.)
 * A caller that needs a `net.Socket` (TLS, a child process) is given one that takes the handle over.
 *
 * Node documents none of this, so handles.ts checks that it is there. If it is not, or with `SOCKLET_INTAKE=off`, Node's own
 * sockets are used.
 */

import net from "node:net";
import type { Data } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import type { Address } from "../../../core/net/address.ts";
import type { StartTlsOptions } from "../../../core/sockets/tls/tls.ts";
import type { Capabilities, KernelSocket, StreamTransport } from "../../../core/sockets/transport.ts";
import { addressOf } from "../addresses.ts";
import type { Holder } from "../descriptors/kernel.ts";
import type { Libc } from "../descriptors/libc.ts";
import type { Settable } from "../descriptors/plain-options.ts";
import {
  type Name,
  type StreamBinding,
  type StreamHandle,
  takeHandleOf,
  takeHandles,
  type WriteRequest,
} from "../handles/handles.ts";
import { intake } from "../handles/intake.ts";
import { afterWrite, HandleStream } from "./handle-stream.ts";
import { unacknowledged } from "./linger.ts";
import { NodeTransport, securingOf } from "./net-transport.ts";
import { type Connection, type Inherited, kernelOf, LARGE, type Origin, PIECE, TCP, UNIX } from "./seam.ts";

/**
 * From now on `take` gets each connection that the listening `server` accepts, unread and with the options in `inherited`.
 * Does nothing if Node lacks what is needed; the server then accepts Node's sockets.
 */
export const acceptInto = (
  server: net.Server,
  { noDelay, keepAlive, keepAliveInitialDelay = 0 }: Inherited,
  take: (connection: Connection) => void,
): void => {
  if (!intake.on) return;
  takeHandles(server, (handle, node) => {
    if (noDelay) handle.setNoDelay?.(true);
    if (keepAlive) handle.setKeepAlive?.(true, Math.trunc(keepAliveInitialDelay / 1000));
    take(new HandleTransport(handle, node));
  });
};

/**
 * A dialled connection over its handle, for code that relays bytes, which a `net.Socket` makes expensive. Nothing may have been
 * read from `dialled` or written to it, and it must not be used again. If Node lacks what is needed, returns `dialled` itself.
 */
export const overHandle = (dialled: NodeTransport): Connection => {
  if (!intake.on || dialled.tls !== undefined) return dialled;
  return takeHandleOf(dialled.socket, (handle, node) => new HandleTransport(handle, node)) ?? dialled;
};

/** A request for reuse: a write that the kernel takes at once leaves it unchanged. */
let spare: WriteRequest | undefined;

/** The text of the last peer's address: the connections of one peer, often a proxy, share one string. */
let lastHost = "";

/** Where the caller's small pieces are copied for the kernel to take. */
let scratch = new Uint8Array(0);
let lent = scratch; // the last view of it

export class HandleTransport extends HandleStream implements Connection {
  remoteAddress: Address | null = null;
  #origin: Origin | undefined;
  #heir: NodeTransport | null = null; // the transport that has taken the handle over

  constructor(handle: StreamHandle, node: StreamBinding) {
    super(handle, node);
    if (handle.getpeername === undefined) return;
    const name = { address: "", port: 0, family: "" }; // Node fills in existing properties in three quarters of the time
    if (handle.getpeername(name) !== 0) return;
    if (name.address !== lastHost) lastHost = name.address;
    this.remoteAddress = addressOf(lastHost, name.port, name.family);
  }

  from(origin: Origin): this {
    this.#origin = origin;
    this.remoteAddress ??= origin.remote ?? null;
    return this;
  }

  get capabilities(): Capabilities {
    return this.handle.reset === undefined ? UNIX : TCP;
  }

  get localAddress(): Address | null {
    const name: Name = {};
    if (!this.closed) this.handle.getsockname?.(name);
    return addressOf(name.address, name.port, name.family) ?? this.#origin?.local ?? null;
  }

  get fd(): number {
    return this.closed ? -1 : this.handle.fd;
  }

  unref(): void {
    this.handle.unref();
  }

  write(data: Data): Promise<void> | undefined {
    if (this.closed) return this.fail(data);
    if (typeof data !== "string" && data.length >= LARGE) {
      const waits = data.length <= PIECE ? this.#send(data) : this.#sendInPieces(data);
      if (waits === null) return undefined;
      // It may be the caller's own memory, so the caller waits until all of it has been taken.
      return new Promise((resolve) => {
        waits.taken = resolve;
      });
    }
    return this.#send(data) === null ? undefined : this.mayWait();
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    if (this.closed) return this.fail(bytes);
    const size = bytes.length;
    if (scratch.length < size) scratch = new Uint8Array(LARGE);
    if (lent.length !== size || lent.buffer !== scratch.buffer) lent = scratch.subarray(0, size);
    lent.set(bytes);
    if (this.#send(lent) === null) return undefined;
    lent = scratch = new Uint8Array(0); // the kernel still needs the old one
    return this.mayWait();
  }

  protected get inside(): number {
    return this.handle.writeQueueSize;
  }

  override get unsent(): number {
    return this.#heir?.unsent ?? super.unsent;
  }

  unacknowledged(): number | null {
    if (this.#heir !== null) return this.#heir.unacknowledged();
    if (this.closed) return null;
    return unacknowledged(this.handle.fd, this.remoteAddress, () => this.localAddress);
  }

  wrote(request: WriteRequest, status: number): void {
    this.writing--;
    request.taken?.();
    if (status < 0 && !this.closed) {
      this.fail(request.data as Data); // libuv does not say how much of it the kernel took
      this.broken(status);
    }
    if (this.writing === 0) this.allLeft();
  }

  override end(): Promise<void> {
    return this.#heir?.end() ?? super.end();
  }

  override close(): void {
    if (this.#heir !== null) this.#heir.close();
    else super.close();
  }

  leave(): boolean {
    if (!this.ended || this.writing > 0 || this.closed) return false;
    this.destroy();
    return true;
  }

  override abort(): void {
    if (this.#heir !== null) this.#heir.abort();
    else super.abort();
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    securingOf(this.#origin, options);
    await this.drained();
    return this.toNode().startTls(options);
  }

  toNode(): NodeTransport {
    this.pause();
    const handle = this.handle.give?.() ?? this.handle;
    const options = { handle, allowHalfOpen: true, manualStart: true };
    const socket = new net.Socket(options as unknown as net.SocketConstructorOpts);
    socket.pause(); // nothing is read until it is asked for
    this.#heir = new NodeTransport(socket, { ...this.#origin }, this);
    return this.#heir;
  }

  // ---- The kernel's side ----

  get kernel(): KernelSocket {
    const known = this.#origin?.kernel;
    if (known !== undefined) return known;
    const kernel = kernelOf(this.remoteAddress, this.settable, this.holder);
    this.#origin = { ...this.#origin, kernel };
    return kernel;
  }

  get settable(): Settable {
    const handle = this.handle;
    return {
      setNoDelay: (on) => handle.setNoDelay?.(on),
      setKeepAlive: (on, delay) => handle.setKeepAlive?.(on, Math.trunc(delay / 1000)),
    };
  }

  get holder(): Holder {
    const fd = (): number | null => (this.closed ? null : this.handle.fd);
    return {
      get fd() {
        return fd();
      },
      take: (libc: Libc) => {
        const inside = this.handle.writeQueueSize;
        if (inside > 0) {
          throw new SocketError("EBUSY", `${inside} bytes are on their way out; detach() would lose them`);
        }
        const taken = libc.dup(this.handle.fd);
        this.destroy(); // while another descriptor is open, the kernel sends no FIN
        return taken;
      },
      drained: () => this.drained(),
      onClose: (told) => this.onClose(told),
    };
  }

  // ---- Writing to the handle ----

  /** Hands data to the kernel. Returns `null` if it took everything at once, otherwise the waiting request. */
  #send(data: Data): WriteRequest | null {
    const node = this.node;
    const request = spare ?? new node.WriteWrap();
    spare = undefined;
    const status =
      typeof data === "string"
        ? this.handle.writeUtf8String(request, data)
        : this.handle.writeBuffer(request, data);
    if (status === 0 && node.streamBaseState[node.kLastWriteWasAsync] === 1) {
      request.transport = this;
      request.data = data;
      request.oncomplete = afterWrite;
      this.writing++;
      return request;
    }
    spare = request;
    if (status !== 0) {
      this.fail(data);
      this.broken(status);
    }
    return null;
  }

  /** The same in pieces, so that a failed write knows most of what it had sent. Returns the last waiting request. */
  #sendInPieces(data: Uint8Array): WriteRequest | null {
    let waits: WriteRequest | null = null;
    let sent = 0;
    for (; sent < data.length && !this.closed; sent += PIECE) {
      waits = this.#send(data.subarray(sent, sent + PIECE)) ?? waits;
    }
    if (sent < data.length) this.fail(data.subarray(sent));
    return waits;
  }

  protected letGo(reset: boolean): void {
    if (reset && this.handle.reset !== undefined) this.handle.reset();
    else this.handle.close();
  }
}
