/**
 * The handles behind the sockets of Deno's `node:net`, adapted to be used like Node's. They have Node's calls, with these
 * differences (Deno 2.9):
 *
 * - a listener's handle reports a connection, and accepts it into a handle that it is given;
 * - the buffer that `onread` returns is not used for the next read;
 * - the buffer of `useUserBuffer` is used for ever, even by the next owner of the handle;
 * - there is no `writeQueueSize`, and only a pipe has `fd` (`fdForIpc()` makes another descriptor);
 * - a waiting write fails with `EPIPE` if the peer has ended and never sent anything, and the first write on a newly accepted
 *   connection always waits: https://github.com/denoland/deno/pull/33860.
 *
 * None of this is documented: docs/decisions/nodes-handles.md.
 */

import type net from "node:net";
import { type Data, toBytes } from "../../../../core/bytes/data.ts";
import {
  CALLS,
  denoListening,
  type Name,
  type ShutdownRequest,
  type StreamBinding,
  type StreamHandle,
  type StreamOwner,
  streamBinding,
  takeSocketOf,
  type WriteRequest,
} from "../../handles/handles.ts";
import { LARGE } from "../../transports/seam.ts";

const BROKEN_PIPE = -32; // EPIPE
const COPIED = 64 * 1024; // bytes of one copy: glibc maps those of 128 KiB and more, and each page is a fault
const SOCKET = 0; // what Node's TCP and Pipe are made as

/** One of Deno's handles. */
interface Inner extends Omit<StreamHandle, "fd" | "writeQueueSize" | "onconnection" | "onread" | "give"> {
  onread: () => void;
  fdForIpc(): number;
  open(fd: number): number;
}

/** A write request as the transport sees it; Deno has its own request for it. */
class Waiting implements WriteRequest {
  data?: Data;
  transport?: StreamOwner;
  taken?: (() => void) | undefined;
  oncomplete?: (this: WriteRequest, status: number) => void;
}

/** The request of a piece that is not the last one. */
const NOBODYS = new Waiting();

let spare: WriteRequest | undefined; // one of Deno's requests, for reuse

/** The handle of a connection on a path. */
class PipeHandle implements StreamHandle {
  readonly fd = -1;
  /** Bytes of writes that the kernel has not taken completely. */
  writeQueueSize = 0;
  onconnection?: StreamOwner | null;
  onread!: StreamHandle["onread"];
  protected readonly inner: Inner;
  readonly #node: StreamBinding;
  #sent = false; // whether any output may have left
  #hasBuffer = false;

  constructor(inner: Inner, node: StreamBinding) {
    this.inner = inner;
    this.#node = node;
    inner.onread = () => {
      const next = this.onread();
      if (next !== undefined) inner.useUserBuffer(next);
    };
  }

  useUserBuffer(buffer: Uint8Array): void {
    this.#hasBuffer = true;
    this.inner.useUserBuffer(buffer);
  }

  readStart(): number {
    return this.inner.readStart();
  }

  readStop(): number {
    return this.inner.readStop();
  }

  /** Writes in pieces: Deno copies what is written, and its allocator maps new memory for a large copy. */
  writeBuffer(request: WriteRequest, bytes: Uint8Array): number {
    let from = 0;
    for (; bytes.length - from > COPIED; from += COPIED) {
      if (from > 0 && this.#isWaiting) break;
      const status = this.#write(NOBODYS, bytes.subarray(from, from + COPIED));
      if (status !== 0) return status;
    }
    return this.#write(request, from === 0 ? bytes : bytes.subarray(from));
  }

  writeUtf8String(request: WriteRequest, text: string): number {
    return this.#write(request, text);
  }

  shutdown(request: ShutdownRequest): number {
    return this.inner.shutdown(request);
  }

  close(): void {
    this.inner.close();
  }

  unref(): void {
    this.inner.unref();
  }

  /** The same connection over a handle without our buffer, if this one has it. */
  give(): object {
    if (!this.#hasBuffer) return this.inner;
    const Handle = this.inner.constructor as new (type: number) => Inner;
    const fresh = new Handle(SOCKET);
    fresh.open(this.inner.fdForIpc());
    this.inner.close();
    return fresh;
  }

  #write(request: WriteRequest, data: Data): number {
    const own = spare ?? new this.#node.WriteWrap();
    spare = undefined;
    const status =
      typeof data === "string"
        ? this.inner.writeUtf8String(own, data)
        : this.inner.writeBuffer(own, data as Uint8Array);
    if (status === 0 && this.#isWaiting) this.#wait(own, request, data);
    else {
      spare = own;
      this.#sent = true;
    }
    return status;
  }

  /** Whether the last write waits. */
  get #isWaiting(): boolean {
    return this.#node.streamBaseState[this.#node.kLastWriteWasAsync] === 1;
  }

  #wait(own: WriteRequest, request: WriteRequest, data: Data): void {
    const size = toBytes(data).length;
    const isUnsent = !this.#sent; // and no part of it can have left: the kernel has room for a small one
    if (size > LARGE) this.#sent = true;
    this.writeQueueSize += size;
    own.oncomplete = (status) => {
      this.writeQueueSize -= size;
      if (status !== BROKEN_PIPE || !isUnsent || size > LARGE) {
        this.#sent = true;
        request.oncomplete?.(status);
        return;
      }
      // By now it need not wait; if it must, it is not repeated again.
      this.#sent = true;
      const again = this.#write(request, data);
      if (again !== 0 || !this.#isWaiting) request.oncomplete?.(again);
    };
  }
}

/** The handle of a TCP connection. */
class TcpHandle extends PipeHandle {
  reset(): number {
    return this.inner.reset?.() ?? 0;
  }

  getpeername(name: Name): number {
    return this.inner.getpeername?.(name) ?? -1;
  }

  getsockname(name: Name): number {
    return this.inner.getsockname?.(name) ?? -1;
  }

  setNoDelay(on: boolean): number {
    return this.inner.setNoDelay?.(on) ?? 0;
  }

  setKeepAlive(on: boolean, seconds: number): number {
    return this.inner.setKeepAlive?.(on, seconds) ?? 0;
  }
}

// ---- Getting the handles ----

const binding = streamBinding();

/** Replaces Node's binding for a transport over such a handle; `null` if this Deno has none. */
export const node: StreamBinding | null = binding && {
  WriteWrap: Waiting,
  ShutdownWrap: binding.ShutdownWrap,
  streamBaseState: binding.streamBaseState,
  kReadBytesOrError: binding.kReadBytesOrError,
  kLastWriteWasAsync: binding.kLastWriteWasAsync,
};

const asNodes = (inner: Inner): StreamHandle => {
  const Handle = typeof inner.reset === "function" ? TcpHandle : PipeHandle;
  return new Handle(inner, binding as StreamBinding);
};

/**
 * From now on `take` gets the handle of each connection that the listening `server` accepts, unread. Returns false, and does nothing,
 * if this Deno lacks what is needed.
 */
export const takeHandles = (server: net.Server, take: (handle: StreamHandle) => void): boolean => {
  const listening = denoListening<Inner>(server);
  if (binding === null || listening === null) return false;
  // A listener's handle and those of its connections are of one class.
  if (CALLS.some((call) => typeof (listening as unknown as Inner)[call] !== "function")) return false;
  const Handle = listening.constructor as new (type: number) => Inner;
  listening.onconnection = (error) => {
    if (error !== 0) return; // that client was dropped; the next can come
    const inner = new Handle(SOCKET);
    if (listening.accept(inner) === 0) take(asNodes(inner));
  };
  return true;
};

/** Takes the handle of a dialled `socket`, which cannot be used afterwards. `null` if this Deno lacks what is needed; `socket` is then unchanged. */
export const takeHandleOf = (socket: net.Socket): StreamHandle | null => {
  const inner = binding && takeSocketOf<Inner>(socket, CALLS);
  return inner && asNodes(inner);
};
