/**
 * The contract between a handler of streams and the place it runs in, `StreamSocket`; and the seam behind it,
 * `StreamTransport`, which is all that a platform writes.
 *
 * A `StreamSocket` is pulled, never pushed: nothing is read until it is asked for (a transport may read ahead
 * by a bounded amount), so back-pressure is the default. Its life:
 *
 *     open ──shutdown(SHUT_WR)──▶ half open: the peer reads the end, we may still read
 *       │ ◀──the peer's end────── recv() gives null, we may still send
 *       ├──close()──▶ what was written is sent, then the end (FIN), within `closeTimeout`; else as abort()
 *       └──abort()──▶ at once; the peer sees a reset where the platform can send one (workerd cannot)
 *
 * What a place cannot do is in `capabilities`, which tests ask, and nowhere an exception in this text.
 */

import { type Address, formatAddress } from "./address.ts";
import { SHUT_RD, SHUT_RDWR, SHUT_WR } from "./constants.ts";
import { SocketError, type SocketErrorCode } from "./errors.ts";
import { checkCount, checkTime } from "./options.ts";
import {
  type Data,
  DONE,
  type ReaderSource,
  STREAM_LIMITS,
  type StreamLimits,
  StreamReader,
  StreamWriter,
  toBytes,
  type WriterTarget,
  withDeadline,
} from "./stream.ts";

/** What a place can do that another cannot. */
export interface Capabilities {
  /** `abort()` reaches the peer as a reset, not as an end. */
  readonly reset: boolean;
  /** `getpeername()` tells the peer's address. */
  readonly peername: boolean;
}

/** What the transport tells the socket. Nothing is told after `end` and `error` but `error`. */
export interface StreamSink {
  /** How many bytes the read that waits still needs at least; 0 where none waits. */
  readonly needed: number;
  /** Bytes came; they are the socket's now. Gives true while a read still waits for more. */
  data(bytes: Uint8Array): boolean;
  /** The peer sends no more. */
  end(): void;
  /** The connection is broken. */
  error(error: SocketError): void;
}

/**
 * The seam: what a platform gives for one connection. It buffers nothing that it need not, throws nothing, and
 * keeps no state that the socket keeps (the socket calls `end` and `close` once, and `write` only while open).
 */
export interface StreamTransport {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  /** From now on, tell `sink`. Called once, before all else; again when `toWeb()` hands the connection over. */
  start(sink: StreamSink): void;
  /** A read waits: bring bytes. */
  resume(): void;
  /** Bring no more until `resume()`; what is under way may still come. */
  pause(): void;
  /**
   * Takes bytes or UTF-8 text, in order. Gives a promise of room where too much waits already; it never rejects,
   * and is kept when the connection ends, too. Bytes of 16 KiB and more may be the caller's own, who changes them
   * when the promise is kept, or at once where there is none.
   */
  write(data: Data): Promise<void> | undefined;
  /** Sends the end after all that was written. Resolves when it is on its way, rejects when it cannot be. */
  end(): Promise<void>;
  /**
   * Lets go, after `end()` resolved. What the peer still sends is taken and dropped for a while, not answered by
   * a reset that could overtake our last bytes. Gives a promise where leaving before that is over would cut it.
   */
  close(): void | Promise<void>;
  /** Lets go at once: by a reset where the platform can. */
  abort(): void;
  /**
   * Secures the connection, when all that was written has left and nothing is read. Gives the transport that goes
   * on with it; this one is used no more. Rejects with `ERR_TLS`. Absent where there is no TLS.
   */
  startTls?(options: TlsOptions): Promise<StreamTransport>;
  /** Runs `task` once, when this turn's work is done: the end of the tick for which output is gathered. */
  defer(task: () => void): void;
}

/** Whom to trust in a TLS handshake, and who one is. */
export interface TlsOptions {
  /** The name that the peer's certificate must have. Default: the host that was dialled. */
  readonly serverName?: string | undefined;
  /** Certificates of the authorities to trust, PEM, in place of the system's. Not on workerd, which trusts its platform's. */
  readonly ca?: string | undefined;
  /** One's own certificate, PEM: needed by who accepted the connection. Not on workerd. */
  readonly cert?: string | undefined;
  /** Its private key, PEM. */
  readonly key?: string | undefined;
}

/** Options of one stream. Times are milliseconds, sizes bytes. */
export interface StreamOptions extends StreamLimits {
  /** How long one read or write waits for the peer; `null` for ever. Default 300 000: RFC 5321's five minutes; what is silent longer is most often gone. */
  readonly timeout: number | null;
  /** How long `close()` tries to send what was written before it aborts. Default 5 000. */
  readonly closeTimeout: number;
  /** How long `startTls()` may take. Default 10 000. */
  readonly handshakeTimeout: number;
}

export const STREAM_OPTIONS: StreamOptions = {
  ...STREAM_LIMITS,
  timeout: 300_000,
  closeTimeout: 5_000,
  handshakeTimeout: 10_000,
};

const settled = new WeakSet<object>();

/**
 * `options` checked, with the defaults for what is not given. What this gave passes at once, so that a server
 * settles its own options once and not for each connection. Throws `TypeError` and `RangeError`.
 */
export const settleStream = (options: Partial<StreamOptions> = {}): StreamOptions => {
  if (settled.has(options)) return options as StreamOptions;
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [name] of given) {
    if (Object.hasOwn(STREAM_OPTIONS, name)) continue;
    throw new TypeError(`a stream has no option ${name}; it has ${Object.keys(STREAM_OPTIONS).join(", ")}`);
  }
  const whole: StreamOptions = { ...STREAM_OPTIONS, ...Object.fromEntries(given) };
  checkTime("timeout", whole.timeout, 1, true);
  checkTime("closeTimeout", whole.closeTimeout);
  checkTime("handshakeTimeout", whole.handshakeTimeout);
  checkCount("maxLine", whole.maxLine, 1);
  checkCount("maxRead", whole.maxRead, 1);
  checkCount("maxPending", whole.maxPending, 0);
  settled.add(whole);
  return whole;
};

/** A `Socket` in the sense of WinterTC's Sockets API and of Workers: what `toWeb()` gives. */
export interface WebStream {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  /** The addresses, as text. */
  readonly opened: Promise<{ remoteAddress?: string; localAddress?: string }>;
  /** Resolves when the connection is closed or secured by `startTls()`, rejects when it breaks. */
  readonly closed: Promise<void>;
  /** Whether `startTls()` was called on it. */
  readonly upgraded: boolean;
  close(): Promise<void>;
  /**
   * Secures the connection, and gives at once the socket that goes on with it; its `opened` tells when the
   * handshake is done, or why not. This one is used no more. Throws `EBUSY` while a read waits.
   */
  startTls(options?: TlsOptions): WebStream;
}

/**
 * One connected stream: TCP, TLS, Unix or memory. A handler's `this.request`; the tutorial's socket.
 *
 * Errors, by code: reads and writes reject with `ETIMEDOUT`, `ECONNRESET`, and `EBADF` once the socket is
 * closed (`ECANCELED`: it was closed while the call waited; `ECONNABORTED`: aborted); writes with `EPIPE` after
 * `shutdown(SHUT_WR)` or when the peer is gone, and `ENOBUFS`; all with `ERR_HANDED_OVER` after `toWeb()`.
 */
export class StreamSocket implements AsyncDisposable {
  /** Reads this stream; a handler's `rfile`. Python's `makefile("rb")`. */
  readonly rfile: StreamReader;
  /** Writes this stream, gathered; a handler's `wfile`. Python's `makefile("wb")`. */
  readonly wfile: StreamWriter;

  readonly #feed: Feed;
  readonly #options: StreamOptions;
  #ending: Promise<void> | null = null; // our end is on its way
  #closing: Promise<void> | null = null;
  #state: "open" | "closed" | "handed over" = "open";
  #error: SocketError | null = null; // why the connection is broken
  #aborted = false;
  readonly #sink: StreamSink;
  #onerror: ((error: SocketError) => void) | null = null;

  constructor(transport: StreamTransport, options: Partial<StreamOptions> = {}) {
    const settled = settleStream(options);
    const feed = new Feed(transport);
    this.#feed = feed;
    this.#options = settled;
    const wfile = new StreamWriter(feed, settled);
    const rfile = new StreamReader(feed, settled);
    feed.wfile = wfile;
    wfile.onroom = () => rfile.retry();
    rfile.timeout = wfile.timeout = settled.timeout;
    this.wfile = wfile;
    this.rfile = rfile;
    this.#sink = {
      get needed() {
        return rfile.needed;
      },
      data: (bytes) => rfile.push(bytes),
      end: () => rfile.end(),
      error: (error) => this.#break(error),
    };
    transport.start(this.#sink);
  }

  get #transport(): StreamTransport {
    return this.#feed.transport;
  }

  get capabilities(): Capabilities {
    return this.#transport.capabilities;
  }

  /** Bytes received so far, read or not. */
  get bytesRead(): number {
    return this.rfile.bytesRead;
  }

  /** Bytes sent so far, on their way or not. */
  get bytesWritten(): number {
    return this.wfile.bytesWritten;
  }

  /** True from `close()`, `abort()` or `toWeb()` on. */
  get closed(): boolean {
    return this.#state !== "open";
  }

  /** The next bytes as they come: at least one, at most `size`; `null` at the end. They are yours to keep. */
  recv(size?: number): Promise<Uint8Array | null> {
    return this.rfile.recv(size);
  }

  /** Reads into `buffer`; gives how many bytes, `null` at the end. CPython's `recv_into`. */
  recvInto(buffer: Uint8Array): Promise<number | null> {
    return this.rfile.recvInto(buffer);
  }

  /** Sends all of `data`; gives how many bytes that was, when there is room for more. */
  async send(data: Data): Promise<number> {
    const bytes = toBytes(data);
    await this.wfile.sendall(bytes);
    return bytes.length;
  }

  /** Sends all of `data`; resolves when there is room for more. CPython's `sendall`. */
  sendall(data: Data): Promise<void> {
    return this.wfile.sendall(data);
  }

  /**
   * Ends one direction or both (`SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`). After `SHUT_WR` the peer reads the end, and
   * sending here gives `EPIPE`. After `SHUT_RD` no read waits: it gives what is here or still comes, else the
   * end, as on Linux. Rejects with `RangeError` for another `how`.
   */
  async shutdown(how: number): Promise<void> {
    if (how !== SHUT_RD && how !== SHUT_WR && how !== SHUT_RDWR) {
      throw new RangeError(`shutdown takes SHUT_RD (0), SHUT_WR (1) or SHUT_RDWR (2), not ${how}`);
    }
    this.#mustBeOpen();
    if (how !== SHUT_WR) this.rfile.end();
    if (how !== SHUT_RD) {
      const ended = this.#end();
      const { timeout } = this.#options;
      await (timeout === null ? ended : withDeadline(ended, timeout, "the peer took nothing"));
    }
  }

  /**
   * Sends what was written, then the end, and lets go; what had not been read is dropped. Within `closeTimeout`,
   * then it aborts. Resolves in either case, also when called twice.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** Lets go at once; the peer sees a reset where the platform can send one. What was written may be lost. */
  abort(): void {
    if (this.#state === "handed over" || this.#aborted) return;
    this.#closing ??= DONE;
    this.#state = "closed";
    this.#stop("ECONNABORTED");
    this.#letGo(new SocketError("ECONNABORTED"));
  }

  /** The peer's address, or `null` where the platform does not tell. */
  getpeername(): Address | null {
    return this.#transport.remoteAddress;
  }

  /** This side's address, or `null` where the platform does not tell. */
  getsockname(): Address | null {
    return this.#transport.localAddress;
  }

  /**
   * Secures the connection from here on: `rfile`, `wfile` and this object go on with TLS. CPython's `wrap_socket`,
   * SMTP's STARTTLS. Who dialled is the client; who accepted gives a `cert` and a `key`.
   *
   * Rejects with `ERR_TLS` where the handshake fails (the connection is then aborted) and where bytes came before
   * it: taken as if they were secured, they would let anybody between put words into the peer's mouth
   * (CVE-2011-0411). `ETIMEDOUT` after `handshakeTimeout` ms; `ERR_UNSUPPORTED` where the place has no TLS;
   * `EBUSY` while a read waits.
   */
  async startTls(options: TlsOptions = {}): Promise<void> {
    this.#mustBeIdle();
    const transport = this.#transport;
    if (transport.startTls === undefined) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "this connection cannot be secured: memory has no TLS; use a plain one",
      );
    }
    try {
      await this.wfile.flush();
      if (this.rfile.buffered > 0) {
        throw new SocketError(
          "ERR_TLS",
          `${this.rfile.buffered} bytes came before TLS began; they cannot be trusted`,
        );
      }
      const { handshakeTimeout } = this.#options;
      const secured = transport.startTls(options);
      this.#feed.transport = await withDeadline(secured, handshakeTimeout, "the TLS handshake was not done");
      this.#transport.start(this.#sink);
    } catch (error) {
      if (!(error instanceof TypeError)) this.abort(); // a wrong argument has begun nothing
      throw error;
    }
  }

  /** How long one read or write waits for the peer, in milliseconds; `null` for ever. CPython's, but in ms. */
  settimeout(timeout: number | null): void {
    checkTime("a timeout", timeout, 1, true);
    this.rfile.timeout = this.wfile.timeout = timeout;
  }

  gettimeout(): number | null {
    return this.rfile.timeout;
  }

  /** The pieces as they come, to the end. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    const iterator: AsyncIterableIterator<Uint8Array> = {
      next: async () => {
        const value = await this.recv();
        return value === null ? { value: undefined, done: true } : { value, done: false };
      },
      return: () => Promise.resolve({ value: undefined, done: true }),
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Hands the connection over to a socket of the Web platform's kind, for all that takes a Workers `Socket`.
   * From then on this object throws `ERR_HANDED_OVER`: two readers of one stream would each lose bytes.
   */
  toWeb(): WebStream {
    this.#mustBeOpen();
    this.wfile.start();
    const buffered = this.rfile.takeBuffered();
    const { timeout } = this.rfile;
    const heir = new StreamSocket(this.#transport, { ...this.#options, timeout });
    if (buffered.length > 0) heir.rfile.push(buffered);
    if (this.rfile.atEnd) heir.rfile.end();
    heir.#ending = this.#ending;
    if (this.#ending !== null) heir.wfile.end();
    if (this.#error !== null) heir.#break(this.#error);
    this.#state = "handed over";
    this.#stop("ERR_HANDED_OVER");
    return heir.#web();
  }

  /** `securing`: the handshake that must be done first. */
  #web(securing: Promise<void> = DONE): WebStream {
    let upgraded = false;
    const mine = async (): Promise<void> => {
      if (upgraded)
        throw new SocketError("ERR_HANDED_OVER", "startTls() was called; use the socket that it gave");
      await securing;
    };
    const closed = Promise.withResolvers<void>();
    closed.promise.catch(() => {}); // nobody need watch it
    this.#onerror = closed.reject;
    if (this.#error !== null) closed.reject(this.#error);
    securing.catch(closed.reject);
    let open = 2; // directions
    let cancelled = false;
    const close = async (): Promise<void> => {
      await this.close();
      closed.resolve();
    };
    const oneEnded = async (): Promise<void> => {
      if (--open === 0) await close();
    };
    // A Web stream that failed once is of no more use, and nor is its connection.
    const fail = (error: SocketError): never => {
      if (!this.closed) {
        this.#break(error);
        this.#letGo(error);
      }
      throw error;
    };
    const addressText = (address: Address | null): string | undefined =>
      address === null ? undefined : formatAddress(address);
    return {
      readable: new ReadableStream<Uint8Array>(
        {
          pull: async (controller) => {
            await mine();
            const bytes = await this.recv().catch((error) =>
              this.closed && !this.#aborted ? null : fail(error),
            );
            if (cancelled) return;
            if (bytes !== null) return controller.enqueue(bytes);
            controller.close();
            await oneEnded();
          },
          cancel: async () => {
            cancelled = true;
            if (!this.closed) await this.shutdown(SHUT_RD);
            await oneEnded();
          },
        },
        { highWaterMark: 0 }, // nothing is read until it is asked for
      ),
      writable: new WritableStream<Uint8Array>({
        start: (controller) => {
          // Not `abort`, which would wait for the write that is under way.
          controller.signal.addEventListener("abort", () => {
            closed.reject(new SocketError("ECONNABORTED"));
            this.abort();
          });
        },
        write: async (bytes) => {
          await mine();
          await this.sendall(bytes).catch(fail);
        },
        close: async () => {
          await mine();
          if (!this.closed) await this.shutdown(SHUT_WR).catch(fail);
          await oneEnded();
        },
      }),
      opened: securing.then(() => ({
        remoteAddress: addressText(this.getpeername()),
        localAddress: addressText(this.getsockname()),
      })),
      closed: closed.promise,
      get upgraded() {
        return upgraded;
      },
      close,
      startTls: (options) => {
        this.#mustBeIdle();
        upgraded = true;
        const secured = this.#web(this.startTls(options));
        secured.opened.catch(() => {}); // who awaits it is told
        closed.resolve();
        return secured;
      },
    };
  }

  /** What waits for bytes now would be given those that come secured. */
  #mustBeIdle(): void {
    this.#mustBeOpen();
    if (this.rfile.needed === 0) return;
    throw new SocketError("EBUSY", "a read waits on this connection; await it before startTls()");
  }

  #mustBeOpen(): void {
    if (this.#state === "open") return;
    throw new SocketError(this.#state === "closed" ? "EBADF" : "ERR_HANDED_OVER");
  }

  /** Starts our end, once. */
  #end(): Promise<void> {
    if (this.#ending === null) {
      this.wfile.end();
      this.#ending = this.#error === null ? this.#transport.end() : DONE;
      this.#ending.catch(() => {}); // whoever awaits it is told; the first caller may not be waiting any more
    }
    return this.#ending;
  }

  async #close(): Promise<void> {
    if (this.#state === "handed over") return;
    this.#state = "closed";
    const ended = this.#end();
    this.#stop("EBADF", "ECANCELED");
    try {
      await withDeadline(ended, this.#options.closeTimeout, "close: the peer took nothing");
      if (this.#error === null) return await this.#transport.close();
      this.#letGo(this.#error);
    } catch (error) {
      this.#letGo(error as SocketError);
    }
  }

  /** The transport said so: nothing goes any more, but what had come is still read. */
  #break(error: SocketError): void {
    this.#error ??= error;
    this.rfile.fail(error);
    this.wfile.fail(error);
    this.#onerror?.(error);
  }

  /** No more reads or writes; those that wait end with `waiting`. */
  #stop(error: SocketErrorCode, waiting = error): void {
    for (const half of [this.rfile, this.wfile]) {
      half.fail(waiting, true);
      half.fail(error, true);
    }
  }

  #letGo(error: SocketError): void {
    this.#error ??= error;
    if (this.#aborted) return;
    this.#aborted = true;
    this.#transport.abort();
  }
}

/**
 * What stands between a socket's two halves and its transport, which `startTls()` replaces. A read that is about
 * to wait starts what is gathered and the read together: with no buffer between the two ends (a service binding)
 * awaiting the flush first would make both wait for ever. And reads wait while too much output does: else a peer
 * that asks and never reads fills the memory.
 */
class Feed implements ReaderSource, WriterTarget {
  transport: StreamTransport;
  wfile: StreamWriter | undefined;

  constructor(transport: StreamTransport) {
    this.transport = transport;
  }

  get blocked(): boolean {
    return this.wfile?.unattended ?? false;
  }

  resume(): void {
    this.wfile?.start();
    this.transport.resume();
  }

  pause(): void {
    this.transport.pause();
  }

  write(data: Data): Promise<void> | undefined {
    return this.transport.write(data);
  }

  defer(task: () => void): void {
    this.transport.defer(task);
  }
}
