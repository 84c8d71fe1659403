/**
 * `StreamReader`, a handler's `rfile`. It holds the one buffer of a connection: `socket.recv()` and `rfile.line()` take from
 * the same place, so they can be mixed and neither loses a byte.
 *
 * How a read works. Each kind of read is an *attempt*: a function that takes its bytes from the buffer and
 * returns a value, or `undefined` for "not yet". A read makes one attempt immediately; if that returns nothing, it becomes
 * the connection's one waiter, and is tried again whenever bytes, the end or an error arrive. So a read is
 * one promise, however many pieces its bytes come in.
 */

import { SocketError } from "../errors.ts";
import { wholeMs } from "../options.ts";
import { Alarm } from "./alarm.ts";
import {
  type Bytes,
  copyOf,
  type Data,
  DONE,
  EMPTY,
  errorOf,
  type Failure,
  KEEP,
  memory,
  positive,
  SHARED,
  STREAM_LIMITS,
  type StreamLimits,
  toBytes,
  Watchers,
} from "./data.ts";

const HIGH = 256 * 1024; // bytes read ahead before the transport is paused
const LOW = 64 * 1024; // bytes left when it is resumed: far enough from HIGH that the two do not alternate
const CRUMB = 512; // bytes; smaller pieces are joined, so that a peer that sends single bytes does not cost an object for each
const TRAY = 4 * 1024; // bytes of one such joined piece
const BULK = 128 * 1024; // bytes; from this size on, the source of a copy's memory matters
const WINDOW = 8 * 1024; // bytes decoded at once for lines; also the most memory that one short line can keep alive

export const ANY = 2 ** 31 - 1; // bytes that a read without a size takes at most: as a small integer, which V8 keeps without an object
const NO_PIECES: Bytes[] = []; // stands for an array that nothing was put into, and stays empty

const NEWLINE = 10;
const NEWLINES = new Uint8Array([NEWLINE]);
const RETURN = 13;
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** The owner of lent bytes: it reuses their memory as soon as `push()` returns. */
export interface Lender {
  /** Asks to keep the memory. True: it belongs to the reader from now on. False: the needed bytes must be copied. */
  give(): boolean;
  /** Reports that a read wanted only `size` of the bytes: the next piece need not be larger. */
  fit(size: number): void;
  /** A copy of `bytes`, 128 KiB or more, if the platform has memory for it that costs less than a new array. */
  copy?(bytes: Uint8Array): Bytes;
}

/** A copy of `bytes`, which are lent. */
const copyOfLent = (bytes: Uint8Array, lender: Lender): Bytes =>
  bytes.length >= BULK && lender.copy !== undefined ? lender.copy(bytes) : copyOf(bytes);

/** Where a reader's bytes come from. */
export interface ReaderSource {
  /** A read waits: bring bytes. Called at each wait; also when a paused source may go on. */
  resume(): void;
  /** Enough is buffered: bring no more until `resume()`. */
  pause(): void;
  /** True while too much output waits unattended, so that reads must wait too. When that is over, call `StreamReader.retry()`. */
  readonly blocked: boolean;
  /** While it is `blocked`: how much longer a read may wait that has waited `within` ms; 0: no longer. */
  patience?(within: number): number;
  /** Whether one timer may serve many readers. Not in workerd, where a timer belongs to the request that set it. */
  readonly sharesTimers?: boolean;
}

const NO_SOURCE: ReaderSource = { resume() {}, pause() {}, blocked: false };

/** The separator that a `readuntil()` waits for. It does not begin before the offset `searched` of the stream. */
interface Search {
  readonly mark: Uint8Array;
  searched: number;
}

type Attempt<T> = (argument: never) => T | undefined;

/** Resolves a promise to a rejection with `error`: with this, a read that waits needs no function to reject it. */
const rejection = (error: unknown): PromiseLike<never> =>
  ({
    // biome-ignore lint/suspicious/noThenProperty: that is what it is for
    then(_: unknown, reject: (error: unknown) => void) {
      reject(error);
    },
  }) as PromiseLike<never>;

/**
 * Reads a stream of bytes: as bytes (CPython's `read`, `readline`, and asyncio's `readexactly`, `readuntil`)
 * and as text (`line`, `lines`, `tryLine`).
 *
 * You may keep the bytes that a read returns: nothing writes into them later. The end of the stream is `null`,
 * and stays `null`. One read may wait at a time; a second one meanwhile rejects with `EBUSY`.
 *
 * Every read can reject with `ETIMEDOUT` (no byte came for `timeout` ms), `ECONNRESET`, `ECONNABORTED` and
 * `ECANCELED` (closed or aborted on this side while it waited), and `EBADF` after a close.
 */
export class StreamReader extends Alarm {
  /** The longest line, in bytes before its `\n`, including a `\r`. */
  maxLine: number;
  /** The most that one read gathers, in bytes. */
  maxRead: number;
  /** How long a read waits for the next byte, in milliseconds; `null`: no limit; 0: what would wait rejects with `EWOULDBLOCK`. */
  timeout: number | null = null;
  /** A read has reported that the connection failed. */
  told = false;

  #source: ReaderSource;
  #chunk: Bytes = EMPTY; // the piece that is being read
  #lender: Lender | null = null; // the owner of its memory, if that is not the reader: while push() runs
  #at = 0; // where in it
  #more = NO_PIECES; // the pieces after it
  #size = 0; // bytes buffered in all
  #arrived = 0; // bytes that have arrived so far; minus #size, the cursor's position in the stream
  // Offsets in the stream, not in the buffer: they stay right wherever bytes are taken, at no extra cost.
  #scanned = 0; // there is no newline between the cursor and here, so a line that trickles in is searched once
  #tray: Bytes = EMPTY; // where small pieces are joined; the last of #more is a view of it
  #text: string | null = null; // the ASCII text of #chunk[#textFrom...]; null if none is decoded, a read waits, or the source is blocked
  #textFrom = 0; // while there is no text: #chunk up to here is not ASCII, so its lines are cut as bytes
  #paused = false;
  #ended = false;
  #shut = false; // no read may wait: one that would returns the end
  #failure: Failure | null = null;
  #waiting: Attempt<unknown> | null = null; // the attempt of the read that waits, with
  #argument: unknown; // this, and
  #resolve: ((value: never) => void) | null = null;
  #within: number | null = null; // ms that it may wait
  #deadline = 0; // when the read that waits times out, by performance.now(): the wall clock can jump
  #noMore = false; // for the read that waits, after shut(): what comes later is given to the next one
  #watchers: Watchers | null = null; // nearly always

  constructor(source: ReaderSource = NO_SOURCE, limits: StreamLimits = STREAM_LIMITS) {
    super();
    this.#source = source;
    this.maxLine = limits.maxLine;
    this.maxRead = limits.maxRead;
  }

  /** A reader of only these bytes, then the end: a datagram's `rfile`. */
  static of(bytes: Uint8Array): StreamReader {
    const reader = new StreamReader();
    if (bytes.length > 0) reader.push(bytes);
    reader.end();
    return reader;
  }

  /** How many bytes have arrived so far. */
  get bytesRead(): number {
    return this.#arrived;
  }

  /** How many bytes are buffered: a read could return them without waiting. */
  get buffered(): number {
    return this.#size;
  }

  /** The least number of bytes that the waiting read still needs; 0 if none waits. For a source that can wait for that many. */
  get needed(): number {
    if (this.#waiting === null) return 0;
    return this.#waiting === (this.#tryExactly as Attempt<unknown>)
      ? (this.#argument as number) - this.#size
      : 1;
  }

  /** True when the peer's end has arrived, even if earlier bytes have not been read. */
  get ended(): boolean {
    return this.#ended;
  }

  /** True when the end has arrived and everything before it was read. */
  get atEnd(): boolean {
    return (this.#ended || this.#shut) && this.#size === 0;
  }

  /** True if a read would not wait: there are bytes, the end or an error, and no output holds reads back. */
  get readable(): boolean {
    if (this.#failure !== null) return true;
    return (this.#size > 0 || this.#ended || this.#shut) && !this.#source.blocked;
  }

  // ---- Bytes ----

  /** The next bytes as they come: at least one, at most `size`; `null` at the end. CPython's `recv` and `read1`. */
  recv(size: number = ANY): Promise<Bytes | null> {
    return this.#take(this.#tryRecv, positive(size, "size"));
  }

  /**
   * `recv` with the flags of recv(2): `peek` leaves the bytes where they are, `all` waits for all of `size` (fewer only at the end),
   * and with `wait` false it rejects with `EWOULDBLOCK` instead of waiting.
   */
  receive(size: number, peek: boolean, all: boolean, wait: boolean): Promise<Bytes | null> {
    positive(size, "size");
    const attempt = peek ? (all ? this.#tryPeekAll : this.#tryPeek) : all ? this.#tryRead : this.#tryRecv;
    return this.#take(attempt, size, wait ? this.timeout : 0);
  }

  /** A copy of the next bytes, at most `size`, which stay to be read; waits for one if none is here. `MSG_PEEK`; CPython's `peek`. */
  peek(size: number = ANY): Promise<Bytes | null> {
    return this.#take(this.#tryPeek, positive(size, "size"));
  }

  /** Reads into `buffer`. Resolves to the number of bytes; `null` at the end. CPython's `recv_into`. */
  recvInto(buffer: Uint8Array): Promise<number | null> {
    if (!(buffer instanceof Uint8Array)) throw new TypeError("recvInto takes a Uint8Array to read into");
    return this.#take(this.#tryRecvInto, buffer);
  }

  /**
   * Exactly `size` bytes, fewer only at the end, `null` when none are left; without `size`, all up to the end.
   * CPython's `read`. Rejects with `ERR_LIMIT` past `maxRead`.
   */
  read(size?: number): Promise<Bytes | null> {
    return this.#take(this.#tryRead, size === undefined ? -1 : positive(size, "size"));
  }

  /**
   * Exactly `size` bytes. Rejects with `ERR_INCOMPLETE_READ` if the stream ends before; the bytes that had arrived
   * stay buffered. asyncio's `readexactly`. `ERR_LIMIT` past `maxRead`.
   */
  readexactly(size: number): Promise<Bytes> {
    return this.#take(this.#tryExactly, positive(size, "size"));
  }

  /** Up to and with `separator`. Rejects with `ERR_INCOMPLETE_READ` and `ERR_LIMIT` as `readexactly`. asyncio's `readuntil`. */
  readuntil(separator: Data = "\n"): Promise<Bytes> {
    // A copy: the caller may change its bytes while the read waits.
    const mark = typeof separator === "string" ? toBytes(separator) : copyOf(toBytes(separator));
    if (mark.length === 0) throw new RangeError("readuntil needs a separator of one byte or more");
    return this.#take(this.#tryUntil, { mark, searched: 0 });
  }

  /**
   * A line with its `\n`; at the end what is left without one, then `null`. CPython's `readline`.
   * Rejects with `ERR_LIMIT` past `maxLine`; with `size` it returns at most that many bytes of a line, however long it is,
   * and rejects with `ERR_LIMIT` if those are more than `maxRead`.
   */
  readline(size?: number): Promise<Bytes | null> {
    return this.#take(this.#tryReadline, size === undefined ? -1 : positive(size, "size"));
  }

  /**
   * The remaining lines, as `readline()` returns them; with `hint`, it stops after the line with which they exceed
   * that many bytes. CPython's `readlines`. Rejects with `ERR_LIMIT` past `maxRead` in all; a failure
   * loses the lines before it.
   */
  async readlines(hint = 0): Promise<Bytes[]> {
    positive(hint, "hint");
    const lines: Bytes[] = [];
    let size = 0;
    for await (const line of this) {
      lines.push(line);
      size += line.length;
      this.#mayGather(size);
      if (hint > 0 && size > hint) break;
    }
    return lines;
  }

  /** The lines to the end, as `readline()` returns them, like iterating over a CPython file. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Bytes> {
    return pulled(() => this.readline());
  }

  /**
   * No more is wanted. In CPython, closing a socket's file closes only the file; so this leaves the socket open, and since
   * every `makefile("rb")` is this one reader, it leaves the reader open, too.
   */
  close(): Promise<void> {
    return DONE;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // ---- Text ----

  /**
   * A line as UTF-8 text without its `\n` or `\r\n`; at the end what is left, then `null`.
   * Bytes that are not UTF-8 become U+FFFD. Rejects with `ERR_LIMIT` past `maxLine`.
   */
  line(): Promise<string | null> {
    const line = this.#nextLine();
    return line === undefined ? this.#take(this.#tryLine, undefined as never) : Promise.resolve(line);
  }

  /**
   * The synchronous twin of `line()`: a line, `null` at the end, `undefined` if none has arrived yet. The fast loop:
   *
   *     for (let line; (line = rfile.tryLine() ?? (await rfile.line())) !== null; ) …
   *
   * Throws the errors that `line()` rejects with.
   */
  tryLine(): string | null | undefined {
    return this.#nextLine() ?? this.#tryAnyLine();
  }

  /** The lines to the end, as `line()` returns them: `for await (const line of rfile.lines())`. Leaving the loop closes nothing. */
  lines(): AsyncIterableIterator<string> {
    return iterator(() => {
      const line = this.#nextLine();
      if (line === undefined) return this.#take(this.#tryNextLine, undefined as never);
      return Promise.resolve({ value: line, done: false });
    });
  }

  // ---- What the socket calls ----

  /** Calls `told` when `readable` may have become true, and brings bytes for that. Returns a function that stops it. */
  onReadable(told: () => void): () => void {
    this.#watchers ??= new Watchers();
    const stop = this.#watchers.add(told);
    if (!this.readable && this.#waiting === null) this.#resume();
    return stop;
  }

  /** The earlier failure no longer holds: the socket is connected. */
  open(): void {
    this.#failure = null;
  }

  /** From now on no read waits: it returns what is buffered or what the platform has by now, otherwise the end. */
  shut(): void {
    this.#shut = true;
    if (this.#waiting !== null) {
      this.#within = 0;
      this.#arm();
    }
    this.#watchers?.tell();
  }

  // ---- What the source calls ----

  /**
   * Bytes have arrived, and belong to the reader now. With a `lender` they do so only while this runs, and what the waiting read does not
   * take is copied. Returns true while a read still waits for more.
   */
  push(arrived: Uint8Array, lender: Lender | null = null): boolean {
    const bytes = arrived as Bytes; // no source has shared memory
    if (bytes.length === 0) return this.#waiting !== null;
    if (this.#failure !== null) return false; // closed meanwhile: they will not be read
    this.#arrived += bytes.length;
    if (this.#size === 0) {
      this.#begin(bytes, 0, lender);
    } else if (!this.#ontoTray(bytes)) {
      this.#append(lender === null || lender.give() ? bytes : copyOfLent(bytes, lender));
    }
    this.#size += bytes.length;
    if (this.#waiting !== null) this.#settle();
    if (this.#lender !== null) this.#own();
    this.#watchers?.tell();
    if (this.#waiting !== null && !this.#source.blocked) {
      this.#arm();
      return true;
    }
    // A waiting read has its own limit; bytes that no read wants yet are limited here.
    if (!this.#paused && this.#size > HIGH) {
      this.#paused = true;
      this.#source.pause();
    }
    return false;
  }

  /** The peer sends no more. */
  end(): void {
    if (this.#failure !== null) return; // closed or broken: that is what a read must say
    this.#ended = true;
    this.#settle();
    this.#watchers?.tell();
    if (this.#waiting === null) this.unset();
  }

  /** No more can be read, for this reason; the read that waits rejects with `waiting`. Buffered bytes are still returned first, unless `now`. */
  fail(error: Failure, now = false, waiting = error): void {
    if (this.#failure !== null && !now) return;
    this.#failure = waiting;
    if (now) {
      this.#begin(EMPTY, 0);
      this.#more.length = this.#size = 0;
      this.#ended = false;
    }
    this.#settle();
    this.#failure = error;
    this.#watchers?.tell();
    this.unset();
  }

  /** The source is `blocked`: `tryLine()` returns nothing either. */
  hold(): void {
    this.#text = null;
  }

  /** The source is no longer `blocked`: tries the waiting read, and asks for more if it still has to wait. */
  retry(): void {
    this.#settle();
    if (this.#waiting !== null && !this.#source.blocked) this.#resume();
    this.#watchers?.tell();
  }

  /** Takes out everything that is buffered, for the object that reads this stream from now on. */
  takeBuffered(): Bytes {
    this.#paused = false; // no resume from here: bytes that came then would be lost
    return this.#size === 0 ? EMPTY : this.#bytes(this.#size);
  }

  /** The error to throw after a failure. */
  #say(failure: Failure): SocketError {
    this.told ||= typeof failure !== "string";
    return errorOf(failure);
  }

  // ---- Waiting ----

  #take<T>(
    attempt: (this: StreamReader, argument: never) => T | undefined,
    argument: unknown,
    time = this.timeout,
  ): Promise<T> {
    const within = this.#shut ? 0 : time;
    if (this.#waiting !== null) return Promise.reject(busy());
    try {
      const held = this.#source.blocked && this.#failure === null; // a failed source holds nothing back
      const got = held ? undefined : attempt.call(this, argument as never);
      if (got !== undefined) return Promise.resolve(got);
    } catch (error) {
      return Promise.reject(error);
    }
    return new Promise<T>((resolve) => {
      this.#text = null; // see tryLine()
      this.#waiting = attempt as Attempt<unknown>;
      this.#argument = argument;
      this.#resolve = resolve;
      this.#within = within;
      this.#arm();
      this.#resume();
    });
  }

  #resume(): void {
    this.#paused = false;
    this.#source.resume();
  }

  /** Tries the read that waits once more. */
  #settle(): void {
    const attempt = this.#waiting;
    if (attempt === null || (this.#source.blocked && this.#failure === null)) return;
    this.#waiting = null; // while it is tried: a source that resumes may push at once, and must not try it again
    try {
      const got = attempt.call(this, this.#argument as never);
      if (got === undefined) {
        this.#waiting = attempt;
        return;
      }
      this.#resolve?.(got as never);
    } catch (error) {
      this.#resolve?.(rejection(error) as never);
    }
    this.#noMore = false;
  }

  /** One timer for many waits: a wait only moves the deadline, and the timer that fires early sets itself anew. */
  #arm(): void {
    const within = this.#within;
    if (within === null) {
      this.unset();
      return;
    }
    this.#deadline = within === 0 ? 0 : Math.ceil(performance.now()) + within; // an integer needs no memory of its own
    if (!this.isSet || this.ringsAt > this.#deadline) this.#set(within);
  }

  #set(within: number): void {
    this.set(this.#deadline, within, within > 0 && this.#source.sharesTimers === true);
  }

  protected override ring(now: number): void {
    const within = this.#within;
    if (this.#waiting === null || within === null) return;
    if (this.#deadline > now) {
      this.#set(within);
      return;
    }
    const more = within > 0 && this.#source.blocked ? (this.#source.patience?.(within) ?? 0) : 0;
    if (more > 0) {
      this.#deadline = Math.ceil(performance.now() + more);
      this.#set(within);
      return;
    }
    if (this.#shut) {
      this.#noMore = true;
      this.#settle();
      return;
    }
    this.#waiting = null;
    const late =
      within === 0
        ? new SocketError("EWOULDBLOCK")
        : new SocketError("ETIMEDOUT", `nothing came from the peer for ${wholeMs(within)}`);
    this.#resolve?.(rejection(late) as never);
  }

  // ---- Attempts: each returns a value, or undefined for "not yet" ----

  #tryRecv(size: number): Bytes | null | undefined {
    if (size === 0) return EMPTY; // as CPython, which asks nobody then
    if (this.#size > 0) {
      return this.#bytes(Math.min(size, this.#chunk.length - this.#at));
    }
    return this.#nothing();
  }

  #tryPeek(size: number): Bytes | null | undefined {
    return this.#size > 0 || size === 0 ? this.#copy(Math.min(size, this.#size)) : this.#nothing();
  }

  #tryPeekAll(size: number): Bytes | null | undefined {
    this.#mayGather(size);
    if (this.#size >= size || (this.#over && this.#size > 0)) return this.#copy(Math.min(size, this.#size));
    return this.#nothing();
  }

  #tryRecvInto(buffer: Uint8Array): number | null | undefined {
    if (buffer.length === 0) return 0;
    if (this.#size === 0) return this.#nothing();
    const take = Math.min(buffer.length, this.#chunk.length - this.#at);
    if (take < this.#chunk.length) this.#lender?.fit(take);
    buffer.set(this.#chunk.subarray(this.#at, this.#at + take));
    this.#advance(take);
    return take;
  }

  #tryRead(size: number): Bytes | null | undefined {
    this.#mayGather(size < 0 ? this.#size : size);
    if (size >= 0 && this.#size >= size) return this.#bytes(size);
    if (this.#over) return this.#size > 0 ? this.#bytes(this.#size) : null;
    return this.#notYet();
  }

  #tryExactly(size: number): Bytes | undefined {
    this.#mayGather(size);
    if (this.#size >= size) return this.#bytes(size);
    if (this.#over) {
      throw new SocketError("ERR_INCOMPLETE_READ", `the stream ended after ${this.#size} of ${size} bytes`);
    }
    return this.#notYet();
  }

  #tryUntil(search: Search): Bytes | undefined {
    const { mark } = search;
    const found = this.#find(mark, this.#past(search.searched));
    this.#mayGather(found < 0 ? this.#size : found + mark.length);
    if (found >= 0) return this.#bytes(found + mark.length);
    if (this.#over) {
      const shown = JSON.stringify(decoder.decode(mark));
      throw new SocketError(
        "ERR_INCOMPLETE_READ",
        `the stream ended ${this.#size} bytes on, before ${shown}`,
      );
    }
    search.searched = this.#arrived - mark.length + 1;
    return this.#notYet();
  }

  #tryReadline(size: number): Bytes | null | undefined {
    const newline = this.#newline();
    const length = newline < 0 ? this.#size : newline + 1; // what is here of the line
    if (size < 0) this.#mayBeLine(newline);
    else {
      this.#mayGather(Math.min(size, length)); // how much it gathers, not how much it may: otherwise it would depend on the pieces
      if (size <= length) return this.#bytes(size);
    }
    return newline >= 0 || (this.#over && length > 0) ? this.#bytes(length) : this.#nothing();
  }

  /** Nearly every line: one with more text after it. Undefined for all others; so it never throws. */
  #nextLine(): string | undefined {
    const text = this.#text;
    if (text === null) return undefined;
    const from = this.#at - this.#textFrom;
    const next = text.indexOf("\n", from) + 1;
    const size = next - from;
    if (size <= 0 || next === text.length || size > this.maxLine) return undefined;
    this.#at += size;
    this.#size -= size;
    return text.slice(from, size > 1 && text.charCodeAt(next - 2) === RETURN ? next - 2 : next - 1);
  }

  #tryAnyLine(): string | null | undefined {
    if (this.#waiting !== null) throw busy();
    return this.#source.blocked && this.#failure === null ? undefined : this.#tryLine();
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
    if (this.#size === 0) return this.#nothing();
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
      this.#text = null; // the line goes on behind it
    }
    const newline = this.#newline();
    this.#mayBeLine(newline);
    if (newline < 0 && !(this.#over && this.#size > 0)) return this.#nothing();
    if (newline < 0) return decoder.decode(this.#bytes(this.#size, false));
    const bytes = this.#bytes(newline + 1, false);
    return decoder.decode(bytes.subarray(0, newline - (bytes[newline - 1] === RETURN ? 1 : 0)));
  }

  // ---- The buffer ----

  /** Nothing comes after what is buffered. */
  get #over(): boolean {
    return this.#ended || this.#noMore;
  }

  /** The result of a read that found nothing: the end, the error, or "not yet". */
  #nothing(): null | undefined {
    if (this.#over && this.#size === 0) return null;
    if (this.#failure !== null) throw this.#say(this.#failure);
    return undefined;
  }

  /** The result of a read that needs more than is buffered: the error, or "not yet". */
  #notYet(): undefined {
    if (this.#failure !== null) throw this.#say(this.#failure);
    return undefined;
  }

  #mayGather(size: number): void {
    if (size <= this.maxRead) return;
    throw new SocketError(
      "ERR_LIMIT",
      `a read of ${size} bytes is over the limit of ${this.maxRead}; read it in pieces with recv(), or raise maxRead`,
    );
  }

  /** A line whose newline is at `newline`, or (−1) not here yet, must not be too long. */
  #mayBeLine(newline: number): void {
    if ((newline < 0 ? this.#size : newline) > this.maxLine) throw this.#tooLong();
  }

  #tooLong(): SocketError {
    return new SocketError(
      "ERR_LIMIT",
      `the line is longer than ${this.maxLine} bytes; raise maxLine to take longer ones`,
    );
  }

  /**
   * Decodes the next window of the current piece; null if there is none, if it was already searched for a
   * newline in vain, or if it is not plain ASCII.
   */
  #decode(): string | null {
    const chunk = this.#chunk;
    if (this.#at >= chunk.length || this.#at < this.#textFrom || this.#past(this.#scanned) > 0) return null;
    const to = Math.min(chunk.length, this.#at + WINDOW);
    const whole = this.#at === 0 && to === chunk.length;
    const text = decoder.decode(whole ? chunk : chunk.subarray(this.#at, to));
    // As many characters as bytes: then every byte was one, be it ASCII or what is not UTF-8 wherever it is cut.
    if (text.length !== to - this.#at) {
      this.#textFrom = to;
      return null;
    }
    this.#textFrom = this.#at;
    this.#text = text;
    return text;
  }

  /** Where the next newline is among the buffered bytes; −1 if there is none yet. */
  #newline(): number {
    const found = this.#find(NEWLINES, this.#past(this.#scanned));
    this.#scanned = found < 0 ? this.#arrived : this.#arrived - this.#size + found;
    return found;
  }

  /** The number of bytes from the cursor to `offset` of the stream; 0 if that is behind the cursor. */
  #past(offset: number): number {
    const past = offset - (this.#arrived - this.#size);
    return past > 0 ? past : 0;
  }

  /** Where `mark` begins among the buffered bytes, from offset `from` on, also across pieces; −1 if it is not there. */
  #find(mark: Uint8Array, from: number): number {
    let p = -1; // the piece being searched: #chunk, then those of #more
    let base = -this.#at; // the buffer's offset of its first byte
    if (from >= this.#chunk.length + base) {
      // To the piece that holds `from`, from the back: bytes that trickle in must not cost a walk through all before.
      p = this.#more.length;
      base = this.#size;
      while (base > from && p > 0) base -= (this.#more[--p] as Bytes).length;
    }
    for (; p < this.#more.length; p++) {
      const piece = p < 0 ? this.#chunk : (this.#more[p] as Bytes);
      const first = mark[0] as number;
      for (let i = piece.indexOf(first, Math.max(from - base, 0)); i >= 0; i = piece.indexOf(first, i + 1)) {
        if (mark.length === 1 || this.#matches(mark, piece, i, p)) return base + i;
      }
      base += piece.length;
    }
    return -1;
  }

  /** Whether `mark` is at `i` of `piece`, the `p`-th of #more, and continues in the next ones. */
  #matches(mark: Uint8Array, piece: Bytes, i: number, p: number): boolean {
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

  /** Takes `size` bytes out; `size` is at most what is buffered. Those to `keep` must not hold much other memory. */
  #bytes(size: number, keep = true): Bytes {
    const chunk = this.#chunk;
    const from = this.#at;
    const here = chunk.length - from;
    if (size <= here) {
      const lender = this.#lender;
      const whole = size === chunk.length;
      // The lender knows about bytes that were given away; `buffer` makes an object in JavaScriptCore, which costs as much as a small read.
      const copies =
        keep && (lender === null ? size * KEEP < chunk.buffer.byteLength : !(whole && lender.give()));
      // First: taking bytes may let the source bring more, into the memory that it lent.
      const taken = !copies
        ? whole
          ? chunk
          : chunk.subarray(from, from + size)
        : lender !== null && size >= BULK
          ? copyOfLent(chunk.subarray(from, from + size), lender)
          : copyOf(chunk, from, from + size);
      this.#advance(size);
      return taken;
    }
    const whole = new Uint8Array(size);
    whole.set(chunk.subarray(from));
    let filled = here;
    let pieces = 0;
    let last = chunk;
    let part = 0;
    while (filled < size) {
      last = this.#more[pieces++] as Bytes;
      part = Math.min(last.length, size - filled);
      whole.set(part === last.length ? last : last.subarray(0, part), filled);
      filled += part;
    }
    this.#more.splice(0, pieces); // once: a shift for each costs a move of all behind it
    this.#begin(last, part - size); // #advance() adds `size`
    this.#advance(size);
    return whole;
  }

  /** From now on `piece` is read, from `at`; nothing is known about it yet. */
  #begin(piece: Bytes, at: number, lender: Lender | null = null): void {
    this.#chunk = piece;
    this.#at = at;
    this.#lender = lender;
    this.#text = null;
    this.#textFrom = 0;
  }

  /** Copies what is left of a lent piece, so that the reader owns it. */
  #own(): void {
    const lender = this.#lender as Lender;
    const at = this.#at;
    this.#lender = null;
    if (lender.give()) return;
    const rest = at === 0 ? this.#chunk : this.#chunk.subarray(at);
    if (rest.length > SHARED) {
      this.#chunk = copyOfLent(rest, lender);
    } else {
      this.#chunk = memory(rest.length);
      this.#chunk.set(rest);
    }
    this.#at = 0;
    this.#textFrom -= at;
  }

  /** A copy of the first `size` bytes, which stay; `size` is at most what is buffered. */
  #copy(size: number): Bytes {
    const copy = new Uint8Array(size);
    let piece = this.#chunk.subarray(this.#at);
    for (let filled = 0, next = 0; filled < size; piece = this.#more[next++] as Bytes) {
      copy.set(piece.subarray(0, size - filled), filled);
      filled += piece.length;
    }
    return copy;
  }

  /** Appends a small piece to the one before it, or to a new tray; false if it is better left as it is. */
  #ontoTray(bytes: Uint8Array): boolean {
    const size = bytes.length;
    const last = this.#more.length - 1;
    const before = last < 0 ? EMPTY : (this.#more[last] as Bytes);
    const used = before.length;
    if (used > 0 && used + size <= TRAY && before.buffer === this.#tray.buffer) {
      this.#tray.set(bytes, used);
      this.#more[last] = this.#tray.subarray(0, used + size);
      return true;
    }
    if (size >= CRUMB) return false;
    this.#tray = new Uint8Array(TRAY);
    this.#tray.set(bytes);
    this.#append(this.#tray.subarray(0, size));
    return true;
  }

  #append(piece: Bytes): void {
    if (this.#more === NO_PIECES) this.#more = [piece];
    else this.#more.push(piece);
  }

  #advance(size: number): void {
    this.#at += size;
    this.#size -= size;
    if (this.#at === this.#chunk.length && size > 0) {
      this.#begin(this.#more.shift() ?? EMPTY, 0);
    } else if (this.#text !== null && this.#at - this.#textFrom >= this.#text.length) {
      this.#text = null;
    }
    if (this.#paused && this.#size < LOW) this.#resume();
  }
}

/** An iterator that holds nothing: leaving its loop closes nothing. */
const iterator = <T>(next: () => Promise<IteratorResult<T>>): AsyncIterableIterator<T> => {
  const own: AsyncIterableIterator<T> = {
    next,
    return: () => Promise.resolve({ value: undefined, done: true }),
    [Symbol.asyncIterator]: () => own,
  };
  return own;
};

/** The values that `pull` returns, up to its `null`. Leaving the loop closes nothing. */
export const pulled = <T>(pull: () => Promise<T | null>): AsyncIterableIterator<T> =>
  iterator(async (): Promise<IteratorResult<T>> => {
    const value = await pull();
    return value === null ? { value: undefined, done: true } : { value: value as T, done: false };
  });

const busy = (): SocketError =>
  new SocketError("EBUSY", "another read is still waiting on this stream; await it before the next");
