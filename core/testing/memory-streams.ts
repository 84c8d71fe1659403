/** Streams in memory: the two ends of a connection without a network. */

import { type Data, DONE, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import { checkCount, checkOptions, optionNamesOf } from "../options.ts";
import { STREAM_NAMES, type StreamOptions, settleStream } from "../sockets/streams/stream-options.ts";
import { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { Capabilities, StreamSink, StreamTransport } from "../sockets/transport.ts";

const CAPACITY = 64 * 1024; // bytes one direction holds before it has no room: a small kernel buffer
const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

let lastPort = 49_151; // the dynamic ports of RFC 6335 begin above it
export const freshAddress = (): Address => {
  lastPort = lastPort >= 65_535 ? 49_152 : lastPort + 1;
  return { family: "IPv4", hostname: "127.0.0.1", port: lastPort };
};

/** A copy of the bytes. Not by `slice()`, which copies nothing for a Node `Buffer`. */
export const copyOf = (data: Data): Uint8Array =>
  typeof data === "string" ? toBytes(data) : new Uint8Array(toBytes(data));

/** One direction of a memory stream: what one end writes until the other reads. */
class Pipe {
  readonly #capacity: number;
  readonly #queue: Uint8Array[] = [];
  #size = 0;
  #lost = 0; // bytes that had no room when reading stopped, and everything that came after a reset
  #sink: StreamSink | undefined;
  #wanted = false;
  #ended = false;
  #told = false; // the end was delivered
  #dropped = false; // reading has stopped
  #reset = false; // and the writing end is about to see it
  #scheduled = false;
  #room: PromiseWithResolvers<void> | null = null;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  read(sink: StreamSink): void {
    this.#sink = sink;
  }

  want(wanted: boolean): void {
    this.#wanted = wanted;
    if (wanted) this.#schedule();
  }

  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#dropped) {
      if (this.#reset) this.#lost += bytes.length;
      return undefined;
    }
    this.#queue.push(bytes);
    this.#size += bytes.length;
    this.#schedule();
    return this.#full();
  }

  end(): Promise<void> {
    this.#ended = true;
    this.#schedule();
    return this.#full() ?? DONE;
  }

  /** Bytes for which there is no room; after the connection's end, bytes for which there never was any. */
  get unsent(): number {
    return this.#lost + Math.max(this.#size - this.#capacity, 0);
  }

  /** Bytes that have room and wait to be read. */
  get waiting(): number {
    return Math.min(this.#size, this.#capacity);
  }

  /** The reading end is gone, with or without a `reset`: buffered and later bytes are dropped. */
  drop(reset = false): void {
    this.#lost = this.unsent;
    this.#reset ||= reset;
    this.#dropped = true;
    this.#queue.length = this.#size = 0;
    this.#makeRoom();
  }

  /** The writing end broke the connection. */
  break(error: SocketError): void {
    const lost = this.#dropped;
    this.drop();
    if (!lost) queueMicrotask(() => this.#sink?.error(error));
  }

  #full(): Promise<void> | undefined {
    if (this.#size <= this.#capacity) return undefined;
    this.#room ??= Promise.withResolvers<void>();
    return this.#room.promise;
  }

  #makeRoom(): void {
    if (this.#size > this.#capacity) return;
    this.#room?.resolve();
    this.#room = null;
  }

  #schedule(): void {
    if (this.#scheduled || !this.#wanted) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    while (this.#wanted && this.#queue.length > 0) {
      const bytes = this.#queue.shift() as Uint8Array;
      this.#size -= bytes.length;
      this.#wanted = this.#sink?.data(bytes) ?? false; // strictly pulled: without a waiting read nothing is delivered
    }
    this.#makeRoom();
    if (this.#wanted && this.#ended && !this.#told && !this.#dropped) {
      this.#told = true;
      this.#sink?.end();
    }
  }
}

class MemoryTransport implements StreamTransport {
  readonly localAddress: Address;
  readonly remoteAddress: Address;
  readonly capabilities: Capabilities = { reset: true, peername: true };
  readonly #in: Pipe;
  readonly #out: Pipe;

  constructor(localAddress: Address, remoteAddress: Address, incoming: Pipe, outgoing: Pipe) {
    this.localAddress = localAddress;
    this.remoteAddress = remoteAddress;
    this.#in = incoming;
    this.#out = outgoing;
  }

  start(sink: StreamSink): void {
    this.#in.read(sink);
  }

  resume(): void {
    this.#in.want(true);
  }

  pause(): void {
    this.#in.want(false);
  }

  write(data: Data): Promise<void> | undefined {
    // A copy: the reader may keep its bytes, and the writer may change its own.
    return this.#out.write(copyOf(data));
  }

  get unsent(): number {
    return this.#out.unsent;
  }

  unacknowledged(): number {
    return this.#out.waiting;
  }

  end(): Promise<void> {
    return this.#out.end();
  }

  close(): void {
    this.#in.drop();
  }

  abort(): void {
    this.#out.break(new SocketError("ECONNRESET")); // first: a writer that waits for room must see the failure before it sees room
    this.#in.drop(true);
  }

  defer(task: () => void): void {
    later(task, 0);
  }
}

/** Options of memory streams: the options of a stream, and the capacity of each direction. */
export interface MemoryOptions extends Partial<StreamOptions> {
  /** Bytes one direction holds before a writer must wait. Default 65 536. */
  readonly capacity?: number;
}

export const MEMORY_NAMES = optionNamesOf<MemoryOptions>("a stream in memory")({
  ...STREAM_NAMES,
  capacity: true,
});

/** The two ends of a connection in memory: each receives what the other sends. */
export const memoryPair = (
  options: MemoryOptions = {},
  serverAddress?: Address,
): [StreamSocket, StreamSocket] => {
  const [near, far, stream] = memoryTransports(options, serverAddress);
  return [new StreamSocket(near, stream), new StreamSocket(far, stream)];
};

/** The same as transports, and the options of their streams. */
export const memoryTransports = (
  options: MemoryOptions = {},
  serverAddress?: Address,
): [StreamTransport, StreamTransport, StreamOptions] => {
  checkOptions("a stream in memory", options, MEMORY_NAMES);
  const { capacity = CAPACITY, ...given } = options;
  checkCount("capacity", capacity, 0);
  const stream = settleStream(given);
  const here = freshAddress();
  const there = serverAddress ?? freshAddress();
  const out = new Pipe(capacity);
  const back = new Pipe(capacity);
  return [new MemoryTransport(here, there, back, out), new MemoryTransport(there, here, out, back), stream];
};
