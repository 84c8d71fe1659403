/**
 * The contract between a handler of streams and the place it runs in, `StreamSocket`; and the seam behind it,
 * `StreamTransport`, which is all that a platform writes.
 *
 * A `StreamSocket` is pulled, never pushed: nothing is read until it is asked for (a transport may read ahead
 * by a bounded amount), so back-pressure is the default. Its life:
 *
 *     open ──shutdown(SHUT_WR)──▶ half open: the peer reads the end, we may still read
 *       │ ◀──the peer's end────── recv() gives null, we may still send
 *       ├──close()──▶ what was written is sent, then the end (FIN), as long as the peer takes it; else as abort()
 *       └──abort()──▶ at once; the peer sees a reset where the platform can send one (workerd cannot)
 *
 * What a place cannot do is in `capabilities`, which tests ask, and nowhere an exception in this text.
 */

import { type Data, DONE, STREAM_LIMITS, type StreamLimits, toBytes, withDeadline } from "../bytes/data.ts";
import { type FileMode, type FileModes, type FileOptions, openFile } from "../bytes/file.ts";
import { type Lender, pulled, type ReaderSource, StreamReader } from "../bytes/reader.ts";
import { StreamWriter, type WriterTarget } from "../bytes/writer.ts";
import { SocketError, type SocketErrorCode } from "../errors.ts";
import { type Address, formatAddress } from "../net/address.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  AF_UNSPEC,
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
} from "../net/constants.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf } from "../options.ts";

/** What a place can do that another cannot. */
export interface Capabilities {
  /** `abort()` reaches the peer as a reset, not as an end. */
  readonly reset: boolean;
  /** `getpeername()` tells the peer's address. */
  readonly peername: boolean;
}

/**
 * What a platform can ask the kernel of one socket, by its descriptor: only Node has one. Each throws `SocketError`
 * with the kernel's own code, and `ERR_UNSUPPORTED` where a package that is not installed is needed.
 */
export interface KernelSocket {
  /** The descriptor; -1 where there is none any more. */
  readonly fd: number;
  /** An option's value as an integer, or its bytes, at most `length` of them. getsockopt(2) */
  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  setsockopt(level: number, name: number, value: number | Uint8Array): void;
  /** Sends past what the platform buffers, when all that was written before has left it; gives how many bytes the kernel took. send(2) */
  send(bytes: Uint8Array, flags: number): Promise<number>;
  /** Receives at once, past what the platform reads. `EWOULDBLOCK`; `EINVAL` where no urgent byte is there. recv(2) */
  recv(size: number, flags: number): Uint8Array;
  /** Lets go of the socket without ending it, and gives a descriptor of it that is the caller's. */
  detach(): number;
  /** Whether an urgent byte waits (`POLLPRI`). */
  readonly urgent: boolean;
  /** Calls `told` when one has come; gives what stops it. */
  onUrgent(told: () => void): () => void;
}

/** What the transport tells the socket. Nothing is told after `end` and `error` but `error`. */
export interface StreamSink {
  /** How many bytes the read that waits still needs at least; 0 where none waits. */
  readonly needed: number;
  /** Bytes came; they are the socket's now. Gives true while a read still waits for more. */
  data(bytes: Uint8Array): boolean;
  /** The same of bytes that are lent until this returns. Where a sink has no word for that, a copy is given to `data`. */
  lend?(bytes: Uint8Array, lender: Lender): boolean;
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
  /** This side's address; `null` where the platform does not tell. */
  readonly localAddress: Address | null;
  /** The peer's. */
  readonly remoteAddress: Address | null;
  /** What this place can do. */
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
  /** The same of fewer bytes than 16 KiB, which are the caller's again when this returns. Absent: `write` is given copies. */
  borrow?(bytes: Uint8Array): Promise<void> | undefined;
  /**
   * How many bytes `write` took that the kernel has not, or whatever is behind this; where the connection is over, how
   * many never left. Large writes are handed on in pieces where the platform tells no part of one.
   */
  readonly unsent: number;
  /** How many bytes have left that the peer's kernel has not acknowledged; `null` where that cannot be known now. It may be slow. */
  unacknowledged?(): number | null;
  /** Sends the end after all that was written. Resolves when it is on its way, rejects when it cannot be. */
  end(): Promise<void>;
  /**
   * Lets go, after `end()` resolved. What the peer still sends is taken and dropped for a while, not answered by
   * a reset that could overtake our last bytes. Gives a promise where leaving before that is over would cut it.
   */
  close(): void | Promise<void>;
  /** `end()` and `close()` in one, where neither need wait: all that was written has left, and the peer has ended. False: it is not so, and nothing was done. */
  leave?(): boolean;
  /** Lets go at once: by a reset where the platform can. */
  abort(): void;
  /**
   * Secures the connection, when all that was written has left and nothing is read. Gives the transport that goes
   * on with it; this one is used no more. Rejects with `ERR_TLS`. Absent where there is no TLS.
   */
  startTls?(options: TlsOptions): Promise<StreamTransport>;
  /** Runs `task` once, when this turn's work is done: the end of the tick for which output is gathered. */
  defer(task: () => void): void;
  /** The descriptor and what is done by it; absent where there is none. */
  readonly kernel?: KernelSocket | undefined;
  /** One timer may serve many connections. Absent: each has its own. */
  readonly sharesTimers?: boolean;
}

/** What stands in for the transport of a socket that is not connected. */
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

/** Whom to trust in a TLS handshake, and who one is. */
export interface TlsOptions {
  /** The name that the peer's certificate must have. Default: the host that was dialled. */
  readonly serverName?: string | undefined;
  /** Certificates of the authorities to trust, PEM, as text or as a file's bytes, in place of the system's. Not on workerd, which trusts its platform's. */
  readonly ca?: string | Uint8Array | undefined;
  /** One's own certificate, PEM: needed by who accepted the connection. Not on workerd. */
  readonly cert?: string | Uint8Array | undefined;
  /** Its private key, PEM. */
  readonly key?: string | Uint8Array | undefined;
}

export const TLS_NAMES = optionNamesOf<TlsOptions>()({ serverName: true, ca: true, cert: true, key: true });

/** Options of one stream. Times are milliseconds, sizes bytes. */
export interface StreamOptions extends StreamLimits {
  /** How long one read waits for a byte, and one write for a peer that takes nothing; `null` for ever. Default 300 000: RFC 5321's five minutes; what is silent longer is most often gone. */
  readonly timeout: number | null;
  /** The same for a write alone; `undefined`: as `timeout`. `settimeout()` sets both. Default `undefined`: one limit is what most mean. */
  readonly writeTimeout: number | null | undefined;
  /** How long `close()` waits for a peer that takes nothing of what was written, before it aborts. Default 5 000. */
  readonly closeTimeout: number;
  /** How long `startTls()` may take. Default 10 000. */
  readonly handshakeTimeout: number;
}

export const STREAM_NAMES = optionNamesOf<StreamOptions>("a stream")({
  timeout: true,
  writeTimeout: true,
  closeTimeout: true,
  handshakeTimeout: true,
  maxLine: true,
  maxRead: true,
  maxPending: true,
  whenSlow: true,
  minWriteRate: true,
});

/** The defaults of `StreamOptions`. */
export const STREAM_OPTIONS: StreamOptions = {
  ...STREAM_LIMITS,
  timeout: 300_000,
  writeTimeout: undefined,
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
  checkOptions("a stream", options, STREAM_NAMES);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const whole: StreamOptions = { ...STREAM_OPTIONS, ...Object.fromEntries(given) };
  checkTime("timeout", whole.timeout, 1, true);
  checkTime("writeTimeout", whole.writeTimeout ?? null, 1, true);
  checkTime("closeTimeout", whole.closeTimeout);
  checkTime("handshakeTimeout", whole.handshakeTimeout);
  checkCount("maxLine", whole.maxLine, 1);
  checkCount("maxRead", whole.maxRead, 1);
  checkCount("maxPending", whole.maxPending, 0);
  checkWord("whenSlow", whole.whenSlow, ["cut", "throw"]);
  checkCount("minWriteRate", whole.minWriteRate, 0);
  settled.add(whole);
  return whole;
};

/** A `Socket` in the sense of WinterTC's Sockets API and of Workers: what `toWeb()` gives. */
export interface WebStream {
  /** What the peer sends, read when it is asked for. */
  readonly readable: ReadableStream<Uint8Array>;
  /** What is sent to the peer; closing it is our end. */
  readonly writable: WritableStream<Uint8Array>;
  /** The addresses, as text. */
  readonly opened: Promise<{ remoteAddress?: string; localAddress?: string }>;
  /** Resolves when the connection is closed or secured by `startTls()`, rejects when it breaks. */
  readonly closed: Promise<void>;
  /** Whether `startTls()` was called on it. */
  readonly upgraded: boolean;
  /** As `StreamSocket.close()`. */
  close(): Promise<void>;
  /**
   * Secures the connection, and gives at once the socket that goes on with it; its `opened` tells when the
   * handshake is done, or why not. This one is used no more. Throws `EBUSY` while a read waits.
   */
  startTls(options?: TlsOptions): WebStream;
}

const URGENT = "urgent data (MSG_OOB; POLLPRI; the third list of select(), which may be left empty)";
const RECV_FLAGS = MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT | MSG_OOB;
const SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB | MSG_DONTROUTE;

/** The number of an address's family; `AF_UNSPEC` for none. */
export const familyOf = (address: Address | null): number => {
  if (address === null) return AF_UNSPEC;
  return { IPv4: AF_INET, IPv6: AF_INET6, unix: AF_UNIX }[address.family];
};

/** Refuses the flags that are not among `known`. */
export const checkFlags = (flags: number, known: number, call: string): void => {
  if (!Number.isInteger(flags)) throw new TypeError(`the flags of ${call}() are an integer, not ${flags}`);
  if ((flags & ~known) === 0) return;
  const names = Object.entries({ MSG_OOB, MSG_PEEK, MSG_DONTROUTE, MSG_DONTWAIT, MSG_WAITALL, MSG_NOSIGNAL });
  const list = names.flatMap(([name, value]) => ((known & value) === 0 ? [] : name)).join(", ");
  const other = (flags & ~known).toString(16);
  throw new SocketError("ERR_UNSUPPORTED", `${call}() does not know the flags 0x${other}; it takes ${list}`);
};

/** What every socket has: a kind, a descriptor, options, and how long its calls wait. */
export abstract class BaseSocket {
  /** `AF_INET`, `AF_INET6`, `AF_UNIX`; `AF_UNSPEC` where the platform tells no address. */
  abstract get family(): number;
  /** `SOCK_STREAM` or `SOCK_DGRAM`. */
  abstract get type(): number;

  /** 0: the one protocol of its family and type. */
  get proto(): number {
    return 0;
  }

  /** True from the moment on when it is this object's no more. */
  abstract get closed(): boolean;

  /** How long one call waits, in milliseconds: `null` for ever, 0 not at all. */
  abstract gettimeout(): number | null;
  /** Sets it. Throws `RangeError` and `TypeError`. CPython's, but in milliseconds. */
  abstract settimeout(timeout: number | null): void;

  /** `true`: calls wait, without a time-out; `false`: what would wait rejects with `EWOULDBLOCK`. CPython's `setblocking`. */
  setblocking(blocking: boolean): void {
    this.settimeout(blocking ? null : 0);
  }

  /** Whether calls wait, with a time-out or without. CPython's `getblocking`. */
  getblocking(): boolean {
    return this.gettimeout() !== 0;
  }

  /** The descriptor, which stays this object's; -1 once it is closed. Throws `ERR_UNSUPPORTED` where the place has none. */
  fileno(): number {
    return this.closed ? -1 : this.kernel("fileno()").fd;
  }

  /**
   * An option's value: an integer, or with `length` its bytes, at most so many. Throws `ENOPROTOOPT`, `EBADF`,
   * `ERR_UNSUPPORTED`. Node; but for a few options with the package `koffi`. getsockopt(2), socket(7), tcp(7), ip(7)
   */
  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    const kernel = this.kernel("getsockopt()");
    return length === undefined ? kernel.getsockopt(level, name) : kernel.getsockopt(level, name, length);
  }

  /** Sets an option: an integer, a boolean as 0 or 1, or bytes. As `getsockopt`; `EINVAL` for a value that cannot be. */
  setsockopt(level: number, name: number, value: number | boolean | Uint8Array): void {
    this.kernel("setsockopt()").setsockopt(level, name, typeof value === "boolean" ? Number(value) : value);
  }

  /** What the kernel is asked by, where there is one. */
  protected abstract get kernelSocket(): KernelSocket | undefined;

  /** The same, or `ERR_UNSUPPORTED` for `what`; `EBADF` once it is closed. */
  protected kernel(what: string): KernelSocket {
    if (this.closed) throw new SocketError("EBADF");
    const kernel = this.kernelSocket;
    if (kernel !== undefined) return kernel;
    throw new SocketError(
      "ERR_UNSUPPORTED",
      `${what}: no kernel is behind this socket; one of Node's has it (socklet/emulator)`,
    );
  }
}

const peerEnded = (): SocketError =>
  new SocketError(
    "ERR_TLS",
    "the peer has ended its side of the connection: its half of a TLS handshake cannot come",
  );

/** Tells a socket that its transport is broken. */
let broken: (socket: StreamSocket, error: SocketError) => void;
/** Tells a socket that its connection must go. */
let cut: (socket: StreamSocket, error: SocketError) => void;

/**
 * One connected stream: TCP, TLS, Unix or memory. A handler's `this.request`; the tutorial's socket, which
 * `socket()` gives unconnected.
 *
 * It begins blocking, in CPython's sense: a call that cannot be done yet waits, at most `timeout` ms. After
 * `setblocking(false)` it gives the platform one turn of its event loop, in which what the kernel has is taken, and
 * then rejects with `EWOULDBLOCK`.
 *
 * Errors, by code: reads and writes reject with `ETIMEDOUT`, `ECONNRESET`, and `EBADF` once the socket is
 * closed (`ECANCELED`: it was closed while the call waited; `ECONNABORTED`: aborted); writes with `EPIPE` after
 * `shutdown(SHUT_WR)` or when the peer is gone; both with `ENOBUFS` once too much waited for the peer (`maxPending`); all with `ERR_HANDED_OVER` after `toWeb()`.
 */
export class StreamSocket extends BaseSocket implements AsyncDisposable {
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
  #lost: SocketError | null = null; // why not all that was written has left
  #onerror: ((error: SocketError) => void) | null = null;
  #urgentWaiters: Set<() => void> | null = null; // who must hear of the close: the kernel closes later, when it has lingered

  /** `transport` is null where the socket is not connected yet: see `attach()`. */
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

  /** The socket is connected, by this transport, which is let go where the socket was closed meanwhile. */
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
   * Bytes sent so far: those that the kernel took, of all that was written. Where the connection broke or was aborted this
   * may be too few by the last piece that was handed over, of at most 256 KiB; with TLS and in a Worker also before.
   */
  get bytesWritten(): number {
    const { bytesWritten } = this.wfile;
    return this.#state === "handed over" ? bytesWritten : bytesWritten - this.#transport.unsent;
  }

  /** Why not all that was written has left, where the connection is over; `null` where all has, or still may. */
  get lost(): SocketError | null {
    return this.#lost;
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
   * The next bytes as they come: at least one, at most `size`; `null` at the end. They are yours to keep.
   *
   * `flags`, or-ed: `MSG_PEEK` leaves them to be read again; `MSG_WAITALL` waits for all of `size`, and gives fewer
   * only at the end; `MSG_DONTWAIT` rejects with `EWOULDBLOCK` rather than wait; `MSG_OOB` gives the urgent byte, at
   * once (`EINVAL` where there is none; Node with the package `koffi`). recv(2)
   */
  recv(size?: number, flags = 0): Promise<Uint8Array | null> {
    return flags === 0 ? this.rfile.recv(size) : this.#recvBy(flags, size);
  }

  /** Reads into `buffer`, at most what it holds; gives how many bytes, `null` at the end. `flags` as `recv`'s. CPython's `recv_into`. */
  recvInto(buffer: Uint8Array, flags = 0): Promise<number | null> {
    return flags === 0 ? this.rfile.recvInto(buffer) : this.#recvInto(buffer, flags);
  }

  /**
   * Sends all of `data`; gives how many bytes that was, when there is room for more.
   *
   * `flags`, or-ed: `MSG_DONTWAIT` rejects with `EWOULDBLOCK`, having sent nothing, where there is no room;
   * `MSG_NOSIGNAL` is how it always is; `MSG_OOB` makes its last byte the urgent one, and `MSG_DONTROUTE` leaves the
   * gateways out (Node with the package `koffi`). send(2)
   */
  async send(data: Data, flags = 0): Promise<number> {
    const bytes = toBytes(data);
    await this.sendall(bytes, flags);
    return bytes.length;
  }

  /** Sends all of `data`; resolves when there is room for more. `flags` as `send`'s. CPython's `sendall`. */
  sendall(data: Data, flags = 0): Promise<void> {
    return flags === 0 ? this.wfile.sendall(data) : this.#sendBy(flags, data);
  }

  /**
   * Ends one direction or both (`SHUT_RD`, `SHUT_WR`, `SHUT_RDWR`). After `SHUT_WR` the peer reads the end, and
   * sending here gives `EPIPE`. After `SHUT_RD` no read waits: it gives what is here or still comes, else the
   * end, as on Linux. Rejects with `RangeError` for another `how`, `ENOTCONN` where it is not connected.
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
      // Not blocking, it is on its way.
      if (timeout !== 0) await (timeout === null ? ended : this.wfile.whileTaken(ended, timeout));
    }
  }

  /**
   * Sends what was written, then the end, and lets go; what had not been read is dropped. It waits as long as the peer
   * takes bytes, and aborts when that has taken none for `closeTimeout` ms. The same when called twice.
   *
   * Rejects where not all that was written has left, which no other call has said: with `ETIMEDOUT`, or what broke the
   * connection. It has let go then, too. Whoever need not know need not await it.
   */
  close(): Promise<void> {
    if (this.#closing === null) {
      this.#closing = this.#close();
      this.#closing.catch(() => {}); // whoever awaits it is told
    }
    return this.#closing;
  }

  /** Lets go at once; the peer sees a reset where the platform can send one. What was written may be lost. */
  abort(): void {
    if (this.#state === "handed over" || (this.#state === "closed" && this.#aborted)) return;
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
   * Rejects with `ERR_TLS`, and aborts the connection, where the handshake fails; where the peer has ended its side, so
   * that its half of the handshake cannot come; and where bytes came before it: taken as if they were secured, they would
   * let anybody between put words into the peer's mouth (CVE-2011-0411). `ETIMEDOUT` after `handshakeTimeout` ms;
   * `ERR_UNSUPPORTED` where the place has no TLS; `EBUSY` while a read waits.
   */
  async startTls(options: TlsOptions = {}): Promise<void> {
    checkOptions("startTls()", options, TLS_NAMES);
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
      this.#transport.start(feed);
    } catch (error) {
      if (error instanceof TypeError) throw error; // a wrong argument has begun nothing
      this.#error ??= error as SocketError;
      this.abort();
      throw error;
    } finally {
      feed.onend = null;
    }
  }

  /**
   * How long one call waits for the peer, in milliseconds; `null` for ever; 0: not at all, as `setblocking(false)`.
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
   * Closes this object, and gives a descriptor of the connection, which goes on and is the caller's to close. What
   * was written leaves before. Rejects with `EBUSY` where input was read ahead, which would be lost: read it first;
   * `ERR_UNSUPPORTED` where the place has no descriptors, or `koffi` is missing. CPython's `detach`, but a new number.
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
    this.#aborted = true;
    this.#closing ??= DONE;
    this.#stop("EBADF");
    return fd;
  }

  /**
   * This stream as a file of CPython's: `r` (the default), `w` or `rw`, with or without `b`. `rb` is `rfile`, `wb` is
   * `wfile`, and a text mode wraps them: all share the one buffer, and closing one closes nothing else. Throws
   * `RangeError` for a mode, an encoding, a newline or a size that is none. CPython's `makefile`.
   */
  makefile(mode: "wb"): StreamWriter;
  makefile<Mode extends FileMode = "r">(mode?: Mode, options?: FileOptions): FileModes[Mode];
  makefile(mode: FileMode = "r", options?: FileOptions): FileModes[FileMode] {
    return openFile(this.rfile, this.wfile, mode, options);
  }

  /** What `select()` and `poll()` ask: those of the `POLL…` bits in `mask` that hold now, and the bits that are only answered. */
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

  /** Calls `told` when `readiness(mask)` may have changed; gives what stops it. */
  onReadiness(mask: number, told: () => void): () => void {
    const stops: (() => void)[] = [];
    if (mask & POLLIN) stops.push(this.rfile.onReadable(told));
    if (mask & POLLOUT) stops.push(this.wfile.onWritable(told));
    if (mask & POLLPRI) {
      stops.push(this.kernel(URGENT).onUrgent(told));
      this.#urgentWaiters ??= new Set();
      const waiters = this.#urgentWaiters.add(told);
      stops.push(() => waiters.delete(told));
    }
    return () => {
      for (const stop of stops) stop();
    };
  }

  protected override get kernelSocket(): KernelSocket | undefined {
    return this.#transport.kernel;
  }

  /** The pieces as they come, to the end. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    return pulled(() => this.recv());
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
      await this.close().catch(closed.reject);
      closed.resolve();
    };
    const oneEnded = async (): Promise<void> => {
      if (--open === 0) await close();
    };
    // A Web stream that failed once is of no more use, and nor is its connection.
    const fail = (error: SocketError): never => {
      if (!this.closed) this.#cut(error);
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

  async #recvBy(flags: number, size = Number.MAX_SAFE_INTEGER): Promise<Uint8Array | null> {
    checkFlags(flags, RECV_FLAGS, "recv");
    if (flags & MSG_OOB) {
      this.#mustBeOpen();
      return this.kernel(URGENT).recv(Math.min(size, 1), flags);
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
    while (left.length > 0) {
      const sent = kernel.send(left, flags);
      left = left.subarray(await (timeout ? this.wfile.whileTaken(sent, timeout) : sent));
    }
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

  #close(): Promise<void> {
    if (this.#state === "handed over") return DONE;
    this.#state = "closed";
    if (this.#ending === null && this.#error === null) {
      this.wfile.end();
      if (this.#transport.leave?.() === true) {
        this.#ending = DONE;
        this.#stop("EBADF", "ECANCELED");
        return DONE;
      }
    }
    const ended = this.#end();
    this.#stop("EBADF", "ECANCELED");
    return this.#closeAfter(ended);
  }

  async #closeAfter(ended: Promise<void>): Promise<void> {
    try {
      await this.wfile.whileTaken(ended, this.#options.closeTimeout);
      if (this.#error !== null) this.#letGo(this.#error);
      else {
        if (this.wfile.unsent > 0) this.#lost = new SocketError("EPIPE"); // the peer wanted no more
        await this.#transport.close();
      }
    } catch (error) {
      this.#letGo(error as SocketError);
      if ((error as SocketError).code === "ETIMEDOUT") this.#lost ??= this.#error; // its end, at least
    }
    if (this.#lost !== null && !this.#told) throw this.#lost;
  }

  /** A call has said that the connection failed. */
  get #told(): boolean {
    return this.rfile.told || this.wfile.told;
  }

  static {
    broken = (socket, error) => socket.#break(error);
    cut = (socket, error) => socket.#cut(error);
  }

  /** The transport said so: nothing goes any more, but what had come is still read. */
  #break(error: SocketError): void {
    this.#error ??= error;
    this.rfile.fail(error);
    this.wfile.fail(error);
    this.#countLost();
    this.#onerror?.(error);
  }

  /** The connection is let go at once, and its reads and writes fail with `error`. */
  #cut(error: SocketError): void {
    this.#break(error);
    this.#letGo(error);
  }

  /** No more reads or writes; those that wait end with `waiting`. */
  #stop(error: SocketErrorCode, waiting = error): void {
    for (const half of [this.rfile, this.wfile]) {
      half.fail(waiting, true);
      half.fail(error, true);
    }
    for (const told of this.#urgentWaiters ?? []) told();
  }

  #letGo(error: SocketError): void {
    this.#error ??= error;
    if (this.#aborted) return;
    this.#aborted = true;
    this.#countLost();
    this.#transport.abort();
  }

  /** The connection is over: what has not left by now is lost. */
  #countLost(): void {
    if (this.wfile.unsent > 0) this.#lost ??= this.#error;
  }
}

/**
 * What stands between a socket's two halves and its transport, which `startTls()` replaces. A read that is about
 * to wait starts what is gathered and the read together: with no buffer between the two ends (a service binding)
 * awaiting the flush first would make both wait for ever. And reads wait while too much output does: else a peer
 * that asks and never reads fills the memory.
 */
class Feed implements ReaderSource, WriterTarget, StreamSink {
  transport: StreamTransport;
  /** Called at the peer's end, for who waits for something else of it. */
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
    return this.transport.write(data);
  }

  get borrows(): boolean {
    return this.transport.borrow !== undefined;
  }

  borrow(bytes: Uint8Array): Promise<void> | undefined {
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

  data(bytes: Uint8Array): boolean {
    return this.#socket.rfile.push(bytes);
  }

  lend(bytes: Uint8Array, lender: Lender): boolean {
    return this.#socket.rfile.push(bytes, lender);
  }

  end(): void {
    this.#socket.rfile.end();
    this.onend?.();
  }

  error(error: SocketError): void {
    broken(this.#socket, error);
  }
}
