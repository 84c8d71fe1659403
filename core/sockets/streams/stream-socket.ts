/**
 * The contract between a handler of streams and the place it runs in: `StreamSocket`. Behind it is the seam that a
 * platform implements, `StreamTransport` (`transport.ts`).
 *
 * A `StreamSocket` is pulled, never pushed: nothing is read until a caller asks for it, so back-pressure is the
 * default. (A transport may read ahead, by a bounded amount.) Its life:
 *
 *     open ──shutdown(SHUT_WR)──▶ half open: the peer reads the end, we may still read
 *       │ ◀──the peer's end────── recv() returns null, we may still send
 *       ├──close()──▶ what was written is sent, then the end (FIN), as long as the peer takes it; else as abort()
 *       └──abort()──▶ at once; the peer sees a reset where the platform can send one (workerd cannot)
 *
 * `capabilities` lists what a place cannot do, and tests check it. This text holds everywhere else.
 */

import { type Bytes, type Data, DONE, type Failure, toBytes, withDeadline } from "../../bytes/data.ts";
import { ANY, type Lender, pulled, type ReaderSource, StreamReader } from "../../bytes/reader.ts";
import { StreamWriter, type WriterTarget } from "../../bytes/writer.ts";
import { describe } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import type { FileOptions } from "../../files/base-file.ts";
import { type FileMode, type FileModes, openFile } from "../../files/file.ts";
import type { Address } from "../../net/address.ts";
import {
  MSG_DONTROUTE,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_OOB,
  MSG_PEEK,
  MSG_WAITALL,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  POLLPRI,
  SHUT_RD,
  SHUT_RDWR,
  SHUT_WR,
  SOCK_STREAM,
} from "../../net/constants.ts";
import { type ProxyHeader, proxyOf } from "../../net/proxy/header.ts";
import { checkOptions, checkTime } from "../../options.ts";
import { BaseSocket, checkFlags, familyOf } from "../base-socket.ts";
import { START_TLS_NAMES, type StartTlsOptions, type TlsInfo } from "../tls/tls.ts";
import type { Capabilities, KernelSocket, StreamSink, StreamTransport } from "../transport.ts";
import { type StreamOptions, settleStream } from "./stream-options.ts";
import type { StreamTap } from "./tap.ts";
import { type WebStream, webStreamOf } from "./web-stream.ts";

/** Takes the place of the transport in a socket that is not connected. */
const UNCONNECTED: StreamTransport = {
  localAddress: null,
  remoteAddress: null,
  capabilities: { reset: false, peername: false },
  start() {},
  resume() {},
  pause() {},
  write: () => undefined,
  unsent: 0,
  end: () => DONE,
  close() {},
  abort() {},
  defer: queueMicrotask,
};

const URGENT = "urgent data (MSG_OOB; POLLPRI; the third list of select(), which may be left empty)";
const RECV_FLAGS = MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT | MSG_OOB;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB | MSG_DONTROUTE;

const peerEnded = (): SocketError =>
  new SocketError(
    "ERR_TLS",
    "the peer has ended its side of the connection, so a TLS handshake cannot complete",
  );

/** The error of a connection that was aborted for `reason`, which its message names. */
const abortedFor = (reason: unknown): SocketError => {
  if (reason instanceof SocketError && reason.code === "ECONNABORTED") return reason;
  const why = `the connection was aborted on this side: ${describe(reason).message}`;
  return new SocketError("ECONNABORTED", why, { cause: reason });
};

/** Tells a socket that its transport is broken. */
let broken: (socket: StreamSocket, error: SocketError) => void;
/** Tells a socket that its connection must go. */
let cut: (socket: StreamSocket, error: SocketError) => void;

/** Lets `tap` observe the connection of `socket` from now on, also after `toWeb()` and `startTls()`; `null` ends that. */
export let tapStream: (socket: StreamSocket, tap: StreamTap | null) => void;

/** How a socket ends, or fails: most of their life sockets need none of this. */
class Rare {
  ending: Promise<void> | null = null; // our end is on its way
  error: SocketError | null = null; // why the connection is broken
  aborted = false;
  lost: SocketError | null = null; // why some of the output has not left
  onbreak: ((error: SocketError) => void) | null = null; // told of that error
}

/**
 * One connected stream: TCP, TLS, Unix or memory. A handler's `this.request`; the tutorial's socket, which
 * `socket()` returns unconnected.
 *
 * It begins blocking, in CPython's sense: a call that cannot complete yet waits, at most `timeout` ms. After
 * `setblocking(false)` such a call gives the platform one turn of its event loop, to take what the kernel has, and
 * then rejects with `EWOULDBLOCK`.
 *
 * Errors, by code: reads and writes reject with `ETIMEDOUT`, `ECONNRESET`, and `EBADF` once the socket is
 * closed (`ECANCELED`: it was closed while the call waited; `ECONNABORTED`: aborted); writes with `EPIPE` after
 * `shutdown(SHUT_WR)` or when the peer is gone; both with `ENOBUFS` once too much output waited for the peer (`maxPending`); all with `ERR_HANDED_OVER` after `toWeb()`.
 */
export class StreamSocket extends BaseSocket implements AsyncDisposable {
  /** Reads this stream; a handler's `rfile`. Python's `makefile("rb")`. */
  readonly rfile: StreamReader;
  /** Writes this stream, gathered; a handler's `wfile`. Python's `makefile("wb")`. */
  readonly wfile: StreamWriter;

  #feed: Feed; // after toWeb() that of the socket that took over
  readonly #options: StreamOptions;
  #closing: Promise<void> | null = null;
  #state: "open" | "closed" | "handed over" = "open";
  #rare: Rare | null = null; // made when it is first needed

  /** `transport` is null if the socket is not connected yet: see `attach()`. */
  constructor(transport: StreamTransport | null, options: Partial<StreamOptions> = {}) {
    super();
    const settled = settleStream(options);
    const feed = new Feed(transport ?? UNCONNECTED, this);
    this.#feed = feed;
    this.#options = settled;
    const wfile = new StreamWriter(feed, settled);
    const rfile = new StreamReader(feed, settled);
    rfile.timeout = settled.timeout;
    wfile.timeout = settled.writeTimeout === undefined ? settled.timeout : settled.writeTimeout;
    this.wfile = wfile;
    this.rfile = rfile;
    if (transport === null) {
      rfile.fail("ENOTCONN");
      wfile.fail("EPIPE");
    } else {
      transport.start(this.#feed);
    }
  }

  /** The socket is connected, with this transport, which is released if the socket was closed meanwhile. */
  protected attach(transport: StreamTransport): void {
    if (this.#state !== "open") {
      transport.abort();
      return;
    }
    this.#feed.transport = transport;
    this.rfile.open();
    this.wfile.open();
    transport.start(this.#feed);
  }

  /** True from `attach()` on. */
  protected get attached(): boolean {
    return this.#transport !== UNCONNECTED;
  }

  get #transport(): StreamTransport {
    return this.#feed.transport;
  }

  /** What this place can do. */
  get capabilities(): Capabilities {
    return this.#transport.capabilities;
  }

  /** Bytes received so far, read or not. */
  get bytesRead(): number {
    return this.rfile.bytesRead;
  }

  /**
   * Bytes sent so far: how many of the written bytes the kernel took. If the connection broke or was aborted, the number
   * may be too low by the last piece that was handed over, at most 256 KiB; with TLS and in a Worker also before that.
   */
  get bytesWritten(): number {
    const { bytesWritten } = this.wfile;
    return this.#state === "handed over" ? bytesWritten : bytesWritten - this.#transport.unsent;
  }

  /** Why some output was not sent, once the connection is over; `null` if all was sent, or still may be. */
  get lost(): SocketError | null {
    return this.#rare === null ? null : this.#rare.lost;
  }

  /** What the proxy in front of this connection said about its client (PROXY protocol); `null` if there is no proxy, or it is not trusted. */
  get proxy(): ProxyHeader | null {
    return proxyOf(this);
  }

  /** True from `close()`, `abort()` or `toWeb()` on. */
  override get closed(): boolean {
    return this.#state !== "open";
  }

  override get family(): number {
    return familyOf(this.getsockname() ?? this.#transport.remoteAddress);
  }

  override get type(): number {
    return SOCK_STREAM;
  }

  /**
   * The next bytes as they come: at least one, at most `size`; `null` at the end. You may keep them.
   *
   * `flags`, or-ed: `MSG_PEEK` leaves them to be read again; `MSG_WAITALL` waits for all of `size`, and returns fewer
   * only at the end; `MSG_DONTWAIT` rejects with `EWOULDBLOCK` instead of waiting; `MSG_OOB` returns the urgent byte, without
   * waiting (`EINVAL` if there is none; Node with the package `koffi`). recv(2)
   */
  recv(size?: number, flags = 0): Promise<Bytes | null> {
    return flags === 0 ? this.rfile.recv(size) : this.#recvBy(flags, size);
  }

  /** Reads into `buffer`, at most what it holds. Resolves to the number of bytes; `null` at the end. `flags` as for `recv`. CPython's `recv_into`. */
  recvInto(buffer: Uint8Array, flags = 0): Promise<number | null> {
    return flags === 0 ? this.rfile.recvInto(buffer) : this.#recvInto(buffer, flags);
  }

  /**
   * Sends all of `data`. Resolves to its number of bytes, when there is room for more.
   *
   * `flags`, or-ed: `MSG_DONTWAIT` rejects with `EWOULDBLOCK`, having sent nothing, if there is no room;
   * `MSG_NOSIGNAL` changes nothing, since there is never a signal; `MSG_OOB` makes the last byte the urgent one, and `MSG_DONTROUTE` bypasses
   * gateways (Node with the package `koffi`). send(2)
   */
  async send(data: Data, flags = 0): Promise<number> {
    const bytes = toBytes(data);
    await this.sendall(bytes, flags);
    return bytes.length;
  }

  /** Sends all of `data`; resolves when there is room for more. `flags` as for `send`. CPython's `sendall`. */
  sendall(data: Data, flags = 0): Promise<void> {
    return flags === 0 ? this.wfile.sendall(data) : this.#sendBy(flags, data);
  }

  /**
   * Ends one direction or both (`SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`). After `SHUT_WR` the peer reads the end, and
   * sending here rejects with `EPIPE`. After `SHUT_RD` no read waits: it returns what is here or still comes, otherwise the
   * end, as on Linux. Rejects with `RangeError` for another `how`, `ENOTCONN` if it is not connected.
   */
  async shutdown(how: number): Promise<void> {
    if (how !== SHUT_RD && how !== SHUT_WR && how !== SHUT_RDWR) {
      throw new RangeError(`shutdown takes SHUT_RD (0), SHUT_WR (1) or SHUT_RDWR (2), not ${how}`);
    }
    this.#mustBeOpen();
    if (!this.attached) throw new SocketError("ENOTCONN");
    if (how !== SHUT_WR) this.rfile.shut();
    if (how !== SHUT_RD) {
      const ended = this.#end();
      const { timeout } = this.wfile;
      // If the socket does not block, the end is on its way.
      if (timeout !== 0) await (timeout === null ? ended : this.wfile.whileTaken(ended, timeout));
    }
  }

  /**
   * Sends what was written, then the end, and closes; unread input is dropped. It waits as long as the peer
   * takes bytes, and aborts when the peer has taken none for `closeTimeout` ms. A second call does the same.
   *
   * Rejects if some output was not sent and no other call has reported that: with `ETIMEDOUT`, or with the error that broke the
   * connection. The connection is closed then, too. A caller that does not need to know need not await it.
   */
  close(): Promise<void> {
    if (this.#closing === null) {
      this.#closing = this.#close();
      this.#closing.catch(() => {}); // a caller that awaits it gets the error
    }
    return this.#closing;
  }

  /**
   * Closes at once; the peer sees a reset if the platform can send one. What was written may be lost. Reads and writes reject
   * with `ECONNABORTED`, and name the `reason` if there is one.
   */
  abort(reason?: unknown): void {
    if (this.#state === "handed over" || (this.#state === "closed" && this.#aborted)) return;
    this.#closing ??= DONE;
    this.#state = "closed";
    const error = reason == null ? null : abortedFor(reason);
    this.#stop(error ?? "ECONNABORTED");
    this.#letGo(error ?? new SocketError("ECONNABORTED"));
  }

  /** The peer's address, or `null` if the platform does not provide them. */
  getpeername(): Address | null {
    return this.#transport.remoteAddress;
  }

  /** This side's address, or `null` if the platform does not provide them. */
  getsockname(): Address | null {
    return this.#transport.localAddress;
  }

  /** What is known about the connection's TLS, from the end of the handshake on; `null` on a plain connection. */
  get tls(): TlsInfo | null {
    return this.#transport.tls ?? null;
  }

  /**
   * Secures the connection from here on: `rfile`, `wfile` and this object continue with TLS. CPython's `wrap_socket`,
   * SMTP's STARTTLS. The end that dialled is the client. The end that accepted passes `ServerTlsOptions`, at least a `cert` and a `key`;
   * without options, it uses those of its listener, if there are any (`secureTransport: "starttls"`).
   *
   * Rejects with `ERR_TLS`, and aborts the connection, if the handshake fails; if the peer has ended its side, so
   * that its half of the handshake cannot arrive; and if bytes arrived before the handshake: if they counted as secured,
   * an attacker could put words into the peer's mouth (CVE-2011-0411). `ETIMEDOUT` after `handshakeTimeout` ms;
   * `ERR_UNSUPPORTED` if the place has no TLS; `EBUSY` while a read waits.
   */
  async startTls(options: StartTlsOptions = {}): Promise<void> {
    checkOptions("startTls()", options, START_TLS_NAMES);
    this.#mustBeIdle();
    const transport = this.#transport;
    if (transport.startTls === undefined) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        "this connection cannot be secured: memory has no TLS; use a plain one",
      );
    }
    const feed = this.#feed;
    const left = Promise.withResolvers<never>();
    try {
      if (this.rfile.ended) throw peerEnded();
      feed.onend = () => left.reject(peerEnded());
      await Promise.race([this.wfile.flush(), left.promise]);
      if (this.rfile.buffered > 0) {
        throw new SocketError(
          "ERR_TLS",
          `${this.rfile.buffered} bytes came before TLS began; they cannot be trusted`,
        );
      }
      const { handshakeTimeout } = this.#options;
      const secured = Promise.race([transport.startTls(options), left.promise]);
      feed.transport = await withDeadline(secured, handshakeTimeout, "the TLS handshake was not done");
      feed.tap?.secured();
      this.#transport.start(feed);
    } catch (error) {
      if (error instanceof TypeError) throw error; // a wrong argument leaves the connection as it is
      this.#rareState().error ??= error as SocketError;
      this.abort(error);
      throw error;
    } finally {
      feed.onend = null;
    }
  }

  /**
   * How long one call waits for the peer, in milliseconds; `null`: no limit; 0: not at all, as `setblocking(false)`.
   * Throws `RangeError` and `TypeError`. CPython's, but in ms.
   */
  override settimeout(timeout: number | null): void {
    checkTime("a timeout", timeout, 0, true);
    this.rfile.timeout = this.wfile.timeout = timeout;
  }

  override gettimeout(): number | null {
    return this.rfile.timeout;
  }

  /**
   * Closes this object, and returns a descriptor of the connection, which stays open; the caller must close it. What
   * was written is sent before. Rejects with `EBUSY` if input was read ahead, which would be lost: read it first;
   * `ERR_UNSUPPORTED` if the place has no descriptors, or `koffi` is missing. CPython's `detach`, but with a new number.
   */
  async detach(): Promise<number> {
    const kernel = this.kernel("detach()");
    this.#mustBeOpen();
    await this.wfile.flush();
    if (this.rfile.buffered > 0) {
      throw new SocketError(
        "EBUSY",
        `${this.rfile.buffered} bytes were read ahead; read them before detach()`,
      );
    }
    const fd = kernel.detach();
    this.#state = "closed";
    this.#rareState().aborted = true;
    this.#closing ??= DONE;
    this.#stop("EBADF");
    return fd;
  }

  /**
   * This stream as a CPython file: `r` (the default), `w` or `rw`, with or without `b`. `rb` is `rfile`, `wb` is
   * `wfile`, and a text mode wraps them: all share the one buffer, and closing one closes nothing else. Throws
   * `RangeError` for an invalid mode, encoding, newline or size. CPython's `makefile`.
   */
  makefile(mode: "wb"): StreamWriter;
  makefile<Mode extends FileMode = "r">(mode?: Mode, options?: FileOptions): FileModes[Mode];
  makefile(mode: FileMode = "r", options?: FileOptions): FileModes[FileMode] {
    return openFile(this.rfile, this.wfile, mode, options);
  }

  /** For `select()` and `poll()`: the `POLL…` bits of `mask` that hold now, and the bits that are always reported. */
  readiness(mask: number): number {
    if (this.closed) return POLLNVAL;
    const { rfile, wfile } = this;
    return (
      (mask & POLLIN && rfile.readable ? POLLIN : 0) |
      (mask & POLLOUT && wfile.writable ? POLLOUT : 0) |
      (mask & POLLPRI && this.kernel(URGENT).urgent ? POLLPRI : 0) |
      (this.#error === null ? 0 : POLLERR | POLLHUP) |
      (rfile.atEnd && this.#ending !== null ? POLLHUP : 0)
    );
  }

  /** Calls `told` when `readiness(mask)` may have changed. Returns a function that stops it. */
  onReadiness(mask: number, told: () => void): () => void {
    const stops: (() => void)[] = [];
    if (mask & POLLIN) stops.push(this.rfile.onReadable(told));
    if (mask & POLLOUT) stops.push(this.wfile.onWritable(told));
    if (mask & POLLPRI) {
      // The writer tells of the close: the kernel closes later, after lingering.
      stops.push(this.kernel(URGENT).onUrgent(told), this.wfile.onWritable(told));
    }
    return () => {
      for (const stop of stops) stop();
    };
  }

  protected override get kernelSocket(): KernelSocket | undefined {
    return this.#transport.kernel;
  }

  /** The pieces as they come, to the end. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Bytes> {
    return pulled(() => this.recv());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /**
   * Hands the connection over to a socket of the Web platform's kind, for code that takes a Workers `Socket`.
   * From then on this object throws `ERR_HANDED_OVER`: two readers of one stream would each lose bytes.
   */
  toWeb(): WebStream {
    this.#mustBeOpen();
    this.wfile.start();
    const buffered = this.rfile.takeBuffered();
    const { timeout } = this.rfile;
    const heir = new StreamSocket(this.#transport, { ...this.#options, timeout });
    heir.#feed.tap = this.#feed.tap;
    this.#feed = heir.#feed;
    if (buffered.length > 0) heir.rfile.push(buffered);
    if (this.rfile.atEnd) heir.rfile.end();
    if (this.#ending !== null) {
      heir.#rareState().ending = this.#ending;
      heir.wfile.end();
    }
    if (this.#error !== null) heir.#break(this.#error);
    this.#state = "handed over";
    this.#stop("ERR_HANDED_OVER");
    return webStreamOf(heir, {
      get error() {
        return heir.#error;
      },
      get aborted() {
        return heir.#aborted;
      },
      onError: (told) => {
        heir.#rareState().onbreak = told;
      },
      cut: (error) => heir.#cut(error),
      mustBeIdle: () => heir.#mustBeIdle(),
    });
  }

  async #recvBy(flags: number, size = ANY): Promise<Bytes | null> {
    checkFlags(flags, RECV_FLAGS, "recv");
    if (flags & MSG_OOB) {
      this.#mustBeOpen();
      return this.kernel(URGENT).recv(Math.min(size, 1), flags) as Bytes;
    }
    const wait = !(flags & MSG_DONTWAIT);
    return this.rfile.receive(size, (flags & MSG_PEEK) !== 0, (flags & MSG_WAITALL) !== 0, wait);
  }

  async #recvInto(buffer: Uint8Array, flags: number): Promise<number | null> {
    if (!(buffer instanceof Uint8Array)) throw new TypeError("recvInto takes a Uint8Array to read into");
    const bytes = await this.#recvBy(flags, buffer.length);
    if (bytes === null) return null;
    buffer.set(bytes);
    return bytes.length;
  }

  async #sendBy(flags: number, data: Data): Promise<void> {
    checkFlags(flags, SEND_FLAGS, "send");
    const wait = this.wfile.timeout !== 0 && !(flags & MSG_DONTWAIT);
    if (!(flags & (MSG_OOB | MSG_DONTROUTE))) return this.wfile.sendall(data, wait);
    const kernel = this.kernel("MSG_OOB and MSG_DONTROUTE");
    let left = new Uint8Array(toBytes(data)); // a copy: what was written before leaves first
    await this.wfile.sendall("", wait);
    const { timeout } = this.wfile;
    this.#feed.tap?.sent(left);
    while (left.length > 0) {
      const sent = kernel.send(left, flags);
      left = left.subarray(await (timeout ? this.wfile.whileTaken(sent, timeout) : sent));
    }
  }

  /** A read that waits now would get the bytes that arrive secured. */
  #mustBeIdle(): void {
    this.#mustBeOpen();
    if (this.rfile.needed === 0) return;
    throw new SocketError("EBUSY", "a read waits on this connection; await it before startTls()");
  }

  #mustBeOpen(): void {
    if (this.#state === "open") return;
    throw new SocketError(this.#state === "closed" ? "EBADF" : "ERR_HANDED_OVER");
  }

  #rareState(): Rare {
    this.#rare ??= new Rare();
    return this.#rare;
  }

  get #ending(): Promise<void> | null {
    return this.#rare === null ? null : this.#rare.ending;
  }

  get #error(): SocketError | null {
    return this.#rare === null ? null : this.#rare.error;
  }

  get #aborted(): boolean {
    return this.#rare?.aborted === true;
  }

  /** Starts our end, once. */
  #end(): Promise<void> {
    const rare = this.#rareState();
    if (rare.ending === null) {
      this.wfile.end();
      this.#feed.tap?.ended("half-close");
      rare.ending = rare.error === null ? this.#transport.end() : DONE;
      rare.ending.catch(() => {}); // callers that await it get the error; the first may no longer be waiting
    }
    return rare.ending;
  }

  #close(): Promise<void> {
    if (this.#state === "handed over") return DONE;
    this.#state = "closed";
    const open = this.#ending === null && this.#error === null;
    if (open) this.wfile.end();
    this.#feed.tap?.ended("close");
    if (open && this.#transport.leave?.() === true) {
      this.#rareState().ending = DONE;
      this.#stop("EBADF", "ECANCELED");
      return DONE;
    }
    const ended = this.#end();
    this.#stop("EBADF", "ECANCELED");
    return this.#closeAfter(ended);
  }

  async #closeAfter(ended: Promise<void>): Promise<void> {
    const rare = this.#rareState();
    try {
      await this.wfile.whileTaken(ended, this.#options.closeTimeout);
      if (rare.error !== null) this.#letGo(rare.error);
      else {
        if (this.wfile.unsent > 0) rare.lost = new SocketError("EPIPE"); // the peer wanted no more
        await this.#transport.close();
      }
    } catch (error) {
      this.#letGo(error as SocketError);
      if ((error as SocketError).code === "ETIMEDOUT") rare.lost ??= rare.error; // its end, at least
    }
    const told = this.rfile.told || this.wfile.told; // a call has reported that the connection failed
    if (rare.lost !== null && !told) throw rare.lost;
  }

  static {
    tapStream = (socket, tap) => {
      socket.#feed.tap = tap;
    };
    broken = (socket, error) => socket.#break(error);
    cut = (socket, error) => socket.#cut(error);
  }

  /** The transport reported that the connection is broken. Input that has arrived can still be read. */
  #break(error: SocketError): void {
    const rare = this.#rareState();
    rare.error ??= error;
    this.rfile.fail(error);
    this.wfile.fail(error);
    this.#countLost();
    rare.onbreak?.(error);
  }

  /** Closes the connection at once; its reads and writes fail with `error`. */
  #cut(error: SocketError): void {
    this.#break(error);
    this.#letGo(error);
  }

  /** Ends all reads and writes; those that wait reject with `waiting`. */
  #stop(error: Failure, waiting = error): void {
    this.rfile.fail(error, true, waiting);
    this.wfile.fail(error, true, waiting);
  }

  #letGo(error: SocketError): void {
    const rare = this.#rareState();
    rare.error ??= error;
    if (rare.aborted) return;
    rare.aborted = true;
    this.#feed.tap?.ended(this.capabilities.reset ? "reset" : "close");
    this.#countLost();
    this.#transport.abort();
  }

  /** The connection is over: output that has not left by now is lost. */
  #countLost(): void {
    if (this.wfile.unsent > 0) this.#rareState().lost ??= this.#error;
  }
}

/**
 * Connects a socket's two halves with its transport, which `startTls()` replaces. A read that is about
 * to wait starts the flush and the read together: with no buffer between the two ends (a service binding),
 * awaiting the flush first would make both wait for ever. Reads also wait while too much output does: otherwise a peer
 * that sends requests and never reads could fill the memory.
 */
class Feed implements ReaderSource, WriterTarget, StreamSink {
  transport: StreamTransport;
  /** The observer of the connection. */
  tap: StreamTap | null = null;
  /** Called when the peer ends its side, for a caller that waits for something else from it. */
  onend: (() => void) | null = null;
  readonly #socket: StreamSocket;

  constructor(transport: StreamTransport, socket: StreamSocket) {
    this.transport = transport;
    this.#socket = socket;
  }

  // ---- For the reader and the writer ----

  get blocked(): boolean {
    return this.#socket.wfile.unattended;
  }

  patience(within: number): number {
    return this.#socket.wfile.patience(within);
  }

  get sharesTimers(): boolean {
    return this.transport.sharesTimers === true;
  }

  get unsent(): number {
    return this.transport.unsent;
  }

  unacknowledged(): number | null {
    return this.transport.unacknowledged?.() ?? null;
  }

  resume(): void {
    this.#socket.wfile.start();
    this.transport.resume();
  }

  pause(): void {
    this.transport.pause();
  }

  write(data: Data): Promise<void> | undefined {
    if (this.tap !== null) this.tap.sent(data);
    return this.transport.write(data);
  }

  get borrows(): boolean {
    return this.transport.borrow !== undefined;
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
    if (this.tap !== null) this.tap.sent(bytes);
    return this.transport.borrow?.(bytes);
  }

  unattended(): void {
    this.#socket.rfile.hold();
  }

  attended(): void {
    this.#socket.rfile.retry();
  }

  defer(task: () => void): void {
    this.transport.defer(task);
  }

  cut(error: SocketError): void {
    cut(this.#socket, error);
  }

  get told(): boolean {
    return this.#socket.rfile.told;
  }

  // ---- For the transport ----

  get needed(): number {
    return this.#socket.rfile.needed;
  }

  get gathered(): number {
    return this.#socket.wfile.unsent - this.unsent;
  }

  data(bytes: Uint8Array): boolean {
    if (this.tap !== null) this.tap.received(bytes);
    return this.#socket.rfile.push(bytes);
  }

  lend(bytes: Uint8Array, lender: Lender): boolean {
    if (this.tap !== null) this.tap.received(bytes);
    return this.#socket.rfile.push(bytes, lender);
  }

  end(): void {
    this.tap?.peerEnded("half-close");
    this.#socket.rfile.end();
    this.onend?.();
  }

  error(error: SocketError): void {
    if (error.code === "ECONNRESET") this.tap?.peerEnded("reset");
    broken(this.#socket, error);
  }
}
