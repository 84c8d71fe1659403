/**
 * The two halves of a stream: `StreamReader` (a handler's `rfile`) and `StreamWriter` (its `wfile`).
 *
 * The reader holds the one buffer of a connection. `socket.recv()` and `rfile.line()` take from the same
 * place, so they can be mixed and neither loses a byte. The writer gathers: what a handler writes leaves in
 * one piece, which is worth more than any other trick (a write a reply costs about 5 µs, gathered 0.5 µs).
 *
 * How a read works. Each kind of read is an *attempt*: a function that takes its bytes from the buffer and
 * returns a value, or `undefined` for "not yet". A read tries once at once; if that gives nothing it becomes
 * the connection's one waiter, and is tried again whenever bytes, the end or an error arrive. So a read is
 * one promise, however many pieces its bytes come in.
 */

import { SocketError } from "./errors.ts";

/** Bytes, or text that is sent as UTF-8. */
export type Data = Uint8Array | string;

/** A value, or the promise of one: what may be asynchronous and need not be. */
export type MaybePromise<T> = T | PromiseLike<T>;

/** Limits of one stream. Sizes are bytes. */
export interface StreamLimits {
  /** The longest line that `line()` and `readline()` give. Default 65 536, as CPython's http.server and asyncio. */
  readonly maxLine: number;
  /** The most that one `read()`, `readexactly()` or `readuntil()` gathers. Default 64 MiB: a length that a peer made up must not fill the memory. */
  readonly maxRead: number;
  /** The most output that may wait for a peer before `write()` throws `ENOBUFS`. Default 16 MiB. */
  readonly maxPending: number;
}

export const STREAM_LIMITS: StreamLimits = {
  maxLine: 65_536,
  maxRead: 64 * 1024 * 1024,
  maxPending: 16 * 1024 * 1024,
};

const HIGH = 256 * 1024; // bytes read ahead before the transport is paused
const LOW = 64 * 1024; // bytes left when it is resumed: far enough from HIGH that the two do not alternate
const CRUMB = 512; // bytes; smaller pieces are put together, so that a peer sending single bytes costs no object each
const TRAY = 4 * 1024; // bytes of one such putting together
const KEEP = 4; // a piece smaller than a quarter of its backing memory is copied out, so that keeping it keeps no more
const WINDOW = 8 * 1024; // bytes decoded at once for lines; also what one short line can keep alive in memory
const GATHER_MARK = 16 * 1024; // bytes gathered before they leave at once
const UNATTENDED = 1024 * 1024; // bytes of output that may wait while a handler reads on; far more than two ends greet each other with
const SHORT_TEXT = 256; // characters; longer text is encoded when it is written, shorter is joined first

const EMPTY = new Uint8Array(0);
const NEWLINE = 10;
const RETURN = 13;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** A promise that is already kept: what is returned when nothing needs to be waited for. */
export const DONE: Promise<void> = Promise.resolve();

/** The bytes of `data`: itself, or its UTF-8. */
export const toBytes = (data: Data): Uint8Array => {
  if (typeof data === "string") return encoder.encode(data);
  if (data instanceof Uint8Array) return data;
  throw new TypeError(`expected a Uint8Array or a string, not ${data === null ? "null" : typeof data}`);
};

/** `parts` in one array of `size` bytes. */
export const joinBytes = (parts: readonly Uint8Array[], size: number): Uint8Array => {
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
};

const positive = (size: number, name: string): number => {
  if (!Number.isInteger(size)) throw new TypeError(`${name} must be a whole number of bytes, not ${size}`);
  if (size < 0) throw new RangeError(`${name} must be 0 or more, not ${size}`);
  return size;
};

/** Where a reader's bytes come from. */
export interface ReaderSource {
  /** A read waits: bring bytes. Called at each wait; also when a paused source may go on. */
  resume(): void;
  /** Enough is buffered: hold back until `resume()`. */
  pause(): void;
  /** True while so much output waits unattended that reads must wait too; `StreamReader.retry()` ends it. */
  readonly blocked: boolean;
}

const NO_SOURCE: ReaderSource = { resume() {}, pause() {}, blocked: false };

type Attempt<T> = (argument: never) => T | undefined;

interface Waiter {
  readonly attempt: Attempt<unknown>;
  readonly argument: unknown;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Reads a stream of bytes: as bytes (CPython's `read`, `readline`, and asyncio's `readexactly`, `readuntil`)
 * and as text (`line`, `lines`, `tryLine`).
 *
 * Bytes that a read gives are yours to keep: nothing writes into them later. The end of the stream is `null`,
 * and stays `null`. One read may wait at a time; a second one meanwhile rejects with `EBUSY`.
 *
 * Every read can reject with `ETIMEDOUT` (no byte came for `timeout` ms), `ECONNRESET`, `ECONNABORTED` and
 * `ECANCELED` (closed or aborted on this side while it waited), and `EBADF` after a close.
 */
export class StreamReader {
  /** The longest line, in bytes. */
  maxLine: number;
  /** The most that one read gathers, in bytes. */
  maxRead: number;
  /** How long a read waits for the next byte, in milliseconds; `null` for ever. */
  timeout: number | null = null;
  /** How many bytes have arrived so far. */
  bytesRead = 0;

  #source: ReaderSource;
  #chunk: Uint8Array = EMPTY; // the piece that is being read
  #at = 0; // where in it
  #more: Uint8Array[] = []; // the pieces after it
  #size = 0; // bytes buffered in all
  #scanned = 0; // how many of those have no newline, so that a line that trickles in is searched once
  #searched = 0; // the same for a separator of readuntil()
  #tray: Uint8Array = EMPTY; // where small pieces are put together; the last of #more is a view of it
  #trayUsed = 0;
  #text: string | null = null; // the ASCII text of #chunk[#textFrom...], or null where none is decoded
  #textFrom = 0;
  #bytesTo = 0; // #chunk up to here is not ASCII: its lines are cut as bytes
  #paused = false;
  #ended = false;
  #failure: SocketError | null = null;
  #waiter: Waiter | null = null;
  #deadline = 0; // when the read that waits has waited too long
  #firesAt = 0; // when #timer fires: at the deadline or before
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(source: ReaderSource = NO_SOURCE, limits: StreamLimits = STREAM_LIMITS) {
    this.#source = source;
    this.maxLine = limits.maxLine;
    this.maxRead = limits.maxRead;
  }

  /** A reader of just these bytes, then the end: a datagram's `rfile`. */
  static of(bytes: Uint8Array): StreamReader {
    const reader = new StreamReader();
    if (bytes.length > 0) reader.push(bytes);
    reader.end();
    return reader;
  }

  /** How many bytes are buffered: what a read could give without waiting. */
  get buffered(): number {
    return this.#size;
  }

  /** True when the end has come and all before it was read. */
  get atEnd(): boolean {
    return this.#ended && this.#size === 0;
  }

  // ---- Bytes ----

  /** The next bytes as they come: at least one, at most `size`; `null` at the end. CPython's `recv` and `read1`. */
  recv(size: number = Number.MAX_SAFE_INTEGER): Promise<Uint8Array | null> {
    return this.#take(this.#tryRecv, positive(size, "size"));
  }

  /** Reads into `buffer`; gives how many bytes were put there, `null` at the end. CPython's `recv_into`. */
  recvInto(buffer: Uint8Array): Promise<number | null> {
    if (!(buffer instanceof Uint8Array)) throw new TypeError("recvInto takes a Uint8Array to read into");
    return this.#take(this.#tryRecvInto, buffer);
  }

  /**
   * Exactly `size` bytes, fewer only at the end, `null` when none are left; without `size`, all up to the end.
   * CPython's `read`. Rejects with `ERR_LIMIT` past `maxRead`.
   */
  read(size?: number): Promise<Uint8Array | null> {
    return this.#take(this.#tryRead, size === undefined ? -1 : this.#within(positive(size, "size")));
  }

  /**
   * Exactly `size` bytes. Rejects with `ERR_INCOMPLETE_READ` where the stream ends before; what had come then
   * stays buffered. asyncio's `readexactly`. `ERR_LIMIT` past `maxRead`.
   */
  readexactly(size: number): Promise<Uint8Array> {
    return this.#take(this.#tryExactly, this.#within(positive(size, "size")));
  }

  /** Up to and with `separator`. Rejects with `ERR_INCOMPLETE_READ` and `ERR_LIMIT` as `readexactly`. asyncio's `readuntil`. */
  readuntil(separator: Data = "\n"): Promise<Uint8Array> {
    const mark = toBytes(separator);
    if (mark.length === 0) throw new RangeError("readuntil needs a separator of one byte or more");
    return this.#take(this.#tryUntil, mark);
  }

  /**
   * A line with its `\n`; at the end what is left without one, then `null`. CPython's `readline`.
   * With `size`, at most that many bytes. Rejects with `ERR_LIMIT` past `maxLine`.
   */
  readline(size?: number): Promise<Uint8Array | null> {
    return this.#take(this.#tryReadline, size === undefined ? -1 : positive(size, "size"));
  }

  // ---- Text ----

  /**
   * A line as UTF-8 text without its `\n` or `\r\n`; at the end what is left, then `null`.
   * What is not UTF-8 becomes U+FFFD. Rejects with `ERR_LIMIT` past `maxLine`.
   */
  line(): Promise<string | null> {
    return this.#take(this.#tryLine, undefined as never);
  }

  /**
   * The synchronous twin of `line()`: a line, `null` at the end, `undefined` when none is here yet. The fast loop:
   *
   *     for (let line; (line = rfile.tryLine() ?? (await rfile.line())) !== null; ) …
   *
   * Throws what `line()` rejects with.
   */
  tryLine(): string | null | undefined {
    if (this.#waiter !== null) throw busy();
    if (this.#source.blocked) return undefined;
    return this.#tryLine();
  }

  /** The lines to the end, as `line()` gives them: `for await (const line of rfile.lines())`. Leaving the loop closes nothing. */
  lines(): AsyncIterableIterator<string> {
    const iterator: AsyncIterableIterator<string> = {
      next: () => this.#take(this.#tryNextLine, undefined as never),
      return: () => Promise.resolve({ value: undefined, done: true }),
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  // ---- What the source calls ----

  /** Bytes came, and are the reader's now. Gives true while a read still waits for more. */
  push(bytes: Uint8Array): boolean {
    if (bytes.length === 0) return this.#waiter !== null;
    if (this.#failure !== null) return false; // closed meanwhile: nobody will read them
    this.bytesRead += bytes.length;
    if (this.#size === 0) {
      this.#chunk = bytes;
      this.#at = 0;
      this.#text = null;
      this.#bytesTo = 0;
    } else if (bytes.length < CRUMB) {
      this.#pushCrumb(bytes);
    } else {
      this.#more.push(bytes);
    }
    this.#size += bytes.length;
    if (this.#waiter !== null) this.retry();
    if (this.#waiter !== null) {
      if (this.timeout !== null) this.#deadline = Date.now() + this.timeout;
      return !this.#source.blocked;
    }
    // A read that waits bounds itself by its own limit; only what nobody waits for is bounded here.
    if (!this.#paused && this.#size > HIGH) {
      this.#paused = true;
      this.#source.pause();
    }
    return false;
  }

  /** The peer will send no more. */
  end(): void {
    if (this.#failure !== null) return; // closed or broken: that is what a read must say
    this.#ended = true;
    if (this.#waiter !== null) this.retry();
  }

  /** No more can be read, for this reason. What is buffered is still given first, unless `now`. */
  fail(error: SocketError, now = false): void {
    if (this.#failure !== null && !now) return;
    this.#failure = error;
    if (now) {
      this.#chunk = EMPTY;
      this.#more.length = 0;
      this.#at = this.#size = this.#scanned = this.#searched = this.#bytesTo = 0;
      this.#text = null;
      this.#ended = false;
    }
    if (this.#waiter !== null) this.retry();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Tries the read that waits once more. */
  retry(): void {
    const waiter = this.#waiter;
    if (waiter === null) return;
    if (this.#source.blocked && this.#failure === null) return;
    try {
      const got = waiter.attempt.call(this, waiter.argument as never);
      if (got === undefined) return;
      this.#waiter = null;
      waiter.resolve(got as never);
    } catch (error) {
      this.#waiter = null;
      waiter.reject(error);
    }
  }

  /** Takes out all that is buffered, for whoever reads this stream from now on. */
  takeBuffered(): Uint8Array {
    return this.#size === 0 ? EMPTY : this.#bytes(this.#size);
  }

  // ---- Waiting ----

  #take<T>(attempt: (this: StreamReader, argument: never) => T | undefined, argument: unknown): Promise<T> {
    if (this.#waiter !== null) return Promise.reject(busy());
    try {
      const got = this.#source.blocked ? undefined : attempt.call(this, argument as never);
      if (got !== undefined) return Promise.resolve(got);
    } catch (error) {
      return Promise.reject(error);
    }
    return new Promise<T>((resolve, reject) => {
      this.#waiter = { attempt: attempt as Attempt<unknown>, argument, resolve, reject };
      if (this.timeout !== null) this.#arm(this.timeout);
      this.#paused = false;
      this.#source.resume();
    });
  }

  /** One timer for many waits: a wait only moves the deadline, and the timer that fires early sets itself anew. */
  #arm(timeout: number): void {
    this.#deadline = Date.now() + timeout;
    if (this.#timer !== undefined && this.#firesAt <= this.#deadline) return;
    clearTimeout(this.#timer);
    this.#firesAt = this.#deadline;
    this.#timer = setTimeout(this.#expire, timeout);
  }

  readonly #expire = (): void => {
    this.#timer = undefined;
    const waiter = this.#waiter;
    if (waiter === null || this.timeout === null) return;
    const left = this.#deadline - Date.now();
    if (left > 0) {
      this.#firesAt = this.#deadline;
      this.#timer = setTimeout(this.#expire, left);
      return;
    }
    this.#waiter = null;
    waiter.reject(new SocketError("ETIMEDOUT", `nothing came from the peer for ${this.timeout} ms`));
  };

  // ---- Attempts: each gives a value, or undefined for "not yet" ----

  #tryRecv(size: number): Uint8Array | null | undefined {
    if (this.#size > 0) {
      if (size === 0) return EMPTY;
      return this.#bytes(Math.min(size, this.#chunk.length - this.#at));
    }
    return this.#nothing();
  }

  #tryRecvInto(buffer: Uint8Array): number | null | undefined {
    if (this.#size === 0) return this.#nothing();
    const take = Math.min(buffer.length, this.#chunk.length - this.#at);
    buffer.set(this.#chunk.subarray(this.#at, this.#at + take));
    this.#advance(take);
    return take;
  }

  #tryRead(size: number): Uint8Array | null | undefined {
    if (size >= 0 && this.#size >= size) return this.#bytes(size);
    if (this.#ended) return this.#size > 0 ? this.#bytes(this.#size) : null;
    this.#mustHold(size);
    return undefined;
  }

  #tryExactly(size: number): Uint8Array | undefined {
    if (this.#size >= size) return this.#bytes(size);
    if (this.#ended) {
      throw new SocketError("ERR_INCOMPLETE_READ", `the stream ended after ${this.#size} of ${size} bytes`);
    }
    this.#mustHold(size);
    return undefined;
  }

  #tryUntil(mark: Uint8Array): Uint8Array | undefined {
    const found = this.#find(mark);
    if (found >= 0) return this.#bytes(found + mark.length);
    if (this.#ended) {
      const shown = JSON.stringify(decoder.decode(mark));
      throw new SocketError(
        "ERR_INCOMPLETE_READ",
        `the stream ended ${this.#size} bytes on, before ${shown}`,
      );
    }
    this.#mustHold(-1);
    return undefined;
  }

  #tryReadline(size: number): Uint8Array | null | undefined {
    const length = this.#lineLength();
    if (size >= 0 && (length > size || (length < 0 && this.#size >= size))) return this.#bytes(size);
    if (length >= 0) return this.#bytes(length);
    return this.#ended ? (this.#size > 0 ? this.#bytes(this.#size) : null) : this.#nothing();
  }

  #tryNextLine(): IteratorResult<string> | undefined {
    const line = this.#tryLine();
    if (line === undefined) return undefined;
    return line === null ? { value: undefined, done: true } : { value: line, done: false };
  }

  /**
   * The hot one. Text is decoded a window at a time and lines are sliced from it (22 ns a line, against 100 for
   * a decode each). That is right only while a byte is a character, so a window that is not all ASCII is cut as
   * bytes and decoded line by line instead.
   */
  #tryLine(): string | null | undefined {
    const text = this.#text ?? this.#decode();
    if (text !== null) {
      const from = this.#at - this.#textFrom;
      const newline = text.indexOf("\n", from);
      if (newline >= 0) {
        if (newline - from > this.maxLine) throw this.#tooLong();
        const end = newline > from && text.charCodeAt(newline - 1) === RETURN ? newline - 1 : newline;
        this.#advance(newline + 1 - from);
        return text.slice(from, end);
      }
    }
    const length = this.#lineLength();
    if (length < 0 && !(this.#ended && this.#size > 0)) return this.#nothing();
    const bytes = this.#bytes(length < 0 ? this.#size : length);
    let end = bytes.length;
    if (end > 0 && bytes[end - 1] === NEWLINE) {
      end--;
      if (end > 0 && bytes[end - 1] === RETURN) end--;
    }
    return decoder.decode(bytes.subarray(0, end));
  }

  // ---- The buffer ----

  /** What a read says that found nothing: the end, the error, or "not yet". */
  #nothing(): null | undefined {
    if (this.#ended && this.#size === 0) return null;
    if (this.#failure !== null) throw this.#failure;
    return undefined;
  }

  /** Before a wait for `size` bytes (−1: as many as come): refuses what can never be met. */
  #mustHold(size: number): void {
    if (this.#failure !== null) throw this.#failure;
    if (size < 0 && this.#size > this.maxRead) throw this.#overRead();
  }

  #within(size: number): number {
    if (size > this.maxRead) {
      throw new SocketError(
        "ERR_LIMIT",
        `a read of ${size} bytes is over the limit of ${this.maxRead}; read it in pieces with recv(), or raise maxRead`,
      );
    }
    return size;
  }

  #overRead(): SocketError {
    return new SocketError(
      "ERR_LIMIT",
      `this read has gathered ${this.#size} bytes, over the limit of ${this.maxRead}; use recv(), or raise maxRead`,
    );
  }

  #tooLong(): SocketError {
    return new SocketError(
      "ERR_LIMIT",
      `the line is longer than ${this.maxLine} bytes; raise maxLine to take longer ones`,
    );
  }

  /** Decodes the next window of the current piece; null where there is none or it is not plain ASCII. */
  #decode(): string | null {
    const chunk = this.#chunk;
    if (this.#at >= chunk.length || this.#at < this.#bytesTo) return null;
    const to = Math.min(chunk.length, this.#at + WINDOW);
    const text = decoder.decode(chunk.subarray(this.#at, to));
    // As many characters as bytes, and none a replacement: then every byte was one ASCII character.
    if (text.length !== to - this.#at || text.includes("\uFFFD")) {
      this.#bytesTo = to;
      return null;
    }
    this.#textFrom = this.#at;
    this.#text = text;
    return text;
  }

  /** Length of the buffered line with its newline; −1 where there is no newline yet. Throws past `maxLine`. */
  #lineLength(): number {
    let before = this.#chunk.length - this.#at; // bytes up to the end of the piece looked at
    if (this.#scanned < before) {
      const found = this.#chunk.indexOf(NEWLINE, this.#at + this.#scanned);
      if (found >= 0) return this.#checkedLine(found + 1 - this.#at);
    }
    for (const piece of this.#more) {
      const from = this.#scanned - before;
      if (from < piece.length) {
        const found = piece.indexOf(NEWLINE, Math.max(from, 0));
        if (found >= 0) return this.#checkedLine(before + found + 1);
      }
      before += piece.length;
    }
    this.#scanned = this.#size;
    if (this.#size > this.maxLine) throw this.#tooLong();
    return -1;
  }

  #checkedLine(length: number): number {
    if (length - 1 > this.maxLine) throw this.#tooLong();
    return length;
  }

  /** Where `mark` begins among the buffered bytes, also across pieces; −1 where it does not. */
  #find(mark: Uint8Array): number {
    let before = -this.#at; // the buffer's offset of the first byte of the piece looked at
    for (let p = -1; p < this.#more.length; p++) {
      const piece = p < 0 ? this.#chunk : (this.#more[p] as Uint8Array);
      const from = Math.max(this.#searched - before, p < 0 ? this.#at : 0);
      for (
        let i = piece.indexOf(mark[0] as number, from);
        i >= 0;
        i = piece.indexOf(mark[0] as number, i + 1)
      ) {
        if (this.#matches(mark, piece, i, p)) return before + i;
      }
      before += piece.length;
    }
    this.#searched = Math.max(0, this.#size - mark.length + 1);
    return -1;
  }

  /** Whether `mark` stands at `i` of `piece`, which is the `p`-th of #more, and goes on in the next ones. */
  #matches(mark: Uint8Array, piece: Uint8Array, i: number, p: number): boolean {
    let at = i;
    for (const byte of mark) {
      while (at === piece.length) {
        const next = this.#more[++p];
        if (next === undefined) return false;
        piece = next;
        at = 0;
      }
      if (piece[at++] !== byte) return false;
    }
    return true;
  }

  /** Takes `size` bytes out; `size` is at most what is buffered. */
  #bytes(size: number): Uint8Array {
    const here = this.#chunk.length - this.#at;
    if (size <= here) {
      const chunk = this.#chunk;
      const from = this.#at;
      this.#advance(size);
      if (from === 0 && size === chunk.length) return chunk;
      const small = size * KEEP < chunk.buffer.byteLength;
      return small ? chunk.slice(from, from + size) : chunk.subarray(from, from + size);
    }
    const parts: Uint8Array[] = [];
    for (let left = size; left > 0; ) {
      const part = this.#bytes(Math.min(left, this.#chunk.length - this.#at));
      parts.push(part);
      left -= part.length;
    }
    return joinBytes(parts, size);
  }

  #pushCrumb(bytes: Uint8Array): void {
    const last = this.#more.length - 1;
    const from = last < 0 ? -1 : (this.#more[last] as Uint8Array).byteOffset;
    const onTray = last >= 0 && (this.#more[last] as Uint8Array).buffer === this.#tray.buffer;
    if (onTray && this.#trayUsed + bytes.length <= this.#tray.length) {
      this.#tray.set(bytes, this.#trayUsed);
      this.#trayUsed += bytes.length;
      this.#more[last] = this.#tray.subarray(from, this.#trayUsed);
      return;
    }
    this.#tray = new Uint8Array(TRAY);
    this.#tray.set(bytes);
    this.#trayUsed = bytes.length;
    this.#more.push(this.#tray.subarray(0, bytes.length));
  }

  #advance(size: number): void {
    this.#at += size;
    this.#size -= size;
    this.#scanned = this.#scanned > size ? this.#scanned - size : 0;
    this.#searched = 0;
    if (this.#at === this.#chunk.length && size > 0) {
      this.#chunk = this.#more.shift() ?? EMPTY;
      this.#at = 0;
      this.#text = null;
      this.#bytesTo = 0;
    } else if (this.#text !== null && this.#at - this.#textFrom >= this.#text.length) {
      this.#text = null;
    }
    if (this.#paused && this.#size < LOW) {
      this.#paused = false;
      this.#source.resume();
    }
  }
}

const busy = (): SocketError =>
  new SocketError("EBUSY", "another read is still waiting on this stream; await it before the next");

/** Where a writer's bytes go. */
export interface WriterTarget {
  /** Takes the bytes (they are the target's now). Gives a promise of room where it has too much already, else undefined. */
  write(data: Data): Promise<void> | undefined;
  /** Runs `task` once, when this turn's work is done. */
  defer(task: () => void): void;
}

/**
 * Writes a stream of bytes, gathered: what is written leaves in one piece at the end of the turn, when about
 * 16 KiB have come together, on `flush()`, when the handler waits for input, and when the connection closes.
 */
export class StreamWriter {
  /** The most output that may wait for the peer, in bytes. */
  maxPending: number;
  /** How long `flush()`, `send()` and `sendall()` wait for room, in milliseconds; `null` for ever. */
  timeout: number | null = null;
  /** How many bytes have been written so far. */
  bytesWritten = 0;

  readonly #target: WriterTarget;
  // What is gathered: first #bytes up to #used, then #text. Short texts are joined, as V8 does that for nearly nothing.
  #bytes: Uint8Array = EMPTY;
  #used = 0;
  #text = "";
  #gathered = 0; // bytes in both
  #deferred = false;
  #room: Promise<void> | null = null; // kept when the target has room again
  #waiting = 0; // bytes written since it had none
  #attending = 0; // calls that await room
  #failure: SocketError | null = null;

  /** Called when the target has room again. */
  onroom: (() => void) | null = null;

  constructor(target: WriterTarget, limits: StreamLimits = STREAM_LIMITS) {
    this.#target = target;
    this.maxPending = limits.maxPending;
  }

  /** True while the target has no room. */
  get blocked(): boolean {
    return this.#room !== null;
  }

  /**
   * True while much output waits and nobody awaits that it leaves. Reads wait then: a peer that asks and never
   * reads would fill the memory. Where `flush()` or `sendall()` is awaited they go on, since it may be just
   * their going on that lets the peer read.
   */
  get unattended(): boolean {
    return this.#waiting > UNATTENDED && this.#attending === 0;
  }

  /** True while something is gathered that has not left. */
  get dirty(): boolean {
    return this.#gathered > 0;
  }

  /**
   * Gathers `data`; gives how many bytes that was. Never waits; between many large writes await `flush()`.
   * The bytes are copied or sent before this returns, except of arrays of 16 KiB and more: leave those unchanged
   * until `flush()` has resolved.
   *
   * Throws `EPIPE` and `ECONNRESET` where nothing can be sent any more, `EBADF` after a close, `ENOBUFS` when
   * more than `maxPending` bytes already wait for the peer.
   */
  write(data: Data): number {
    this.#mayWrite();
    if (typeof data === "string" && data.length <= SHORT_TEXT) {
      const size = utf8Length(data);
      this.#text += data;
      return this.#grow(size);
    }
    const bytes = toBytes(data);
    if (bytes.length >= GATHER_MARK) {
      this.#push();
      this.#hand(bytes, bytes.length);
    } else if (bytes.length > 0) {
      this.#append(bytes);
      this.#grow(bytes.length);
    }
    return bytes.length;
  }

  /** `write()` of each. CPython's `writelines`. */
  writelines(lines: Iterable<Data>): void {
    for (const line of lines) this.write(line);
  }

  /**
   * Sends what is gathered; resolves when there is room for more (not when the peer has it).
   * Rejects as `write()` throws, and with `ETIMEDOUT` when the peer takes nothing for `timeout` ms.
   */
  flush(): Promise<void> {
    try {
      if (this.#failure !== null) throw this.#failure;
      this.#push();
    } catch (error) {
      return Promise.reject(error);
    }
    if (this.#room === null) return DONE;
    if (this.#attending++ === 0) this.onroom?.();
    const room = this.#room.then(() => {
      this.#attending--;
      if (this.#failure !== null) throw this.#failure;
    });
    return this.timeout === null ? room : withDeadline(room, this.timeout, "the peer took nothing");
  }

  /** Sends `data` at once, after what is gathered; resolves when there is room for more. CPython's `sendall`. */
  sendall(data: Data): Promise<void> {
    try {
      this.#mayWrite();
      this.#push();
      const bytes = toBytes(data);
      if (bytes.length > 0) this.#hand(bytes, bytes.length);
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#room === null ? DONE : this.flush();
  }

  /** Starts what is gathered on its way, and waits for nothing. */
  start(): void {
    if (this.#gathered > 0 && this.#failure === null) this.#push();
  }

  /** Nothing can be sent any more, for this reason; the first one given stands, unless `now`. */
  fail(error: SocketError, now = false): void {
    if (this.#failure !== null && !now) return;
    this.#failure = error;
    this.#bytes = EMPTY;
    this.#text = "";
    this.#used = this.#gathered = 0;
  }

  #mayWrite(): void {
    if (this.#failure !== null) throw this.#failure;
    if (this.#waiting > this.maxPending) {
      throw new SocketError(
        "ENOBUFS",
        `${this.#waiting} bytes wait for the peer, over the limit of ${this.maxPending}; await flush() between writes, or raise maxPending`,
      );
    }
  }

  #grow(size: number): number {
    this.#gathered += size;
    if (this.#gathered >= GATHER_MARK) {
      this.#push();
    } else if (!this.#deferred && size > 0) {
      this.#deferred = true;
      this.#target.defer(this.#endOfTurn);
    }
    return size;
  }

  readonly #endOfTurn = (): void => {
    this.#deferred = false;
    this.start();
  };

  /** Puts bytes behind what is gathered, which turns the text before them into bytes. */
  #append(bytes: Uint8Array): void {
    this.#reserve(bytes.length + this.#text.length * 3);
    this.#settleText();
    this.#bytes.set(bytes, this.#used);
    this.#used += bytes.length;
  }

  #reserve(size: number): void {
    const needed = this.#used + size;
    if (needed <= this.#bytes.length) return;
    const larger = new Uint8Array(Math.max(needed, this.#bytes.length * 2, 1024));
    larger.set(this.#bytes.subarray(0, this.#used));
    this.#bytes = larger;
  }

  #settleText(): void {
    if (this.#text === "") return;
    this.#used += encoder.encodeInto(this.#text, this.#bytes.subarray(this.#used)).written;
    this.#text = "";
  }

  #push(): void {
    const size = this.#gathered;
    if (size === 0) return;
    this.#gathered = 0;
    if (this.#used === 0) {
      const text = this.#text;
      this.#text = "";
      this.#hand(text, size);
      return;
    }
    this.#reserve(this.#text.length * 3);
    this.#settleText();
    const bytes = this.#bytes.subarray(0, this.#used);
    this.#bytes = EMPTY; // it is the target's now
    this.#used = 0;
    this.#hand(bytes, size);
  }

  #hand(data: Data, size: number): void {
    this.bytesWritten += size;
    const room = this.#target.write(data);
    if (this.#room !== null) this.#waiting += size;
    if (room === undefined || this.#room === room) return;
    if (this.#room === null) this.#waiting = size;
    this.#room = room;
    const again = (): void => {
      if (this.#room !== room) return; // a later write found it full again
      this.#room = null;
      this.#waiting = 0;
      this.onroom?.();
    };
    room.then(again, again);
  }
}

/** Bytes of `text` in UTF-8, as TextEncoder makes them (a lone surrogate is three). */
const utf8Length = (text: string): number => {
  let size = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    if (unit < 0x800) size += 1;
    else if (unit >= 0xd800 && unit < 0xdc00 && text.charCodeAt(i + 1) >> 10 === 0x37) {
      size += 2; // a pair: two units, four bytes
      i++;
    } else size += 2;
  }
  return size;
};

/** `promise`, or a rejection with `ETIMEDOUT` that says `what` when it takes longer than `timeout` ms. */
export const withDeadline = <T>(promise: PromiseLike<T>, timeout: number, what: string): Promise<T> =>
  new Promise<T>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new SocketError("ETIMEDOUT", `${what} for ${timeout} ms`)),
      timeout,
    );
    promise.then(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error) => {
        clearTimeout(timer);
        reject(error);
      },
    );
  });
