/**
 * A stream as a file: what `makefile()` gives (CPython's `socket.makefile` and `io.TextIOWrapper`).
 *
 * `rb` is the socket's own reader and `wb` its own writer. A text file wraps them, and is built so that it can be
 * mixed with `recv()` and `rfile`: it takes nothing ahead. It looks at what has come (a copy of at most 8 KiB, which
 * stays in the socket's buffer), finds how many bytes the line or the characters asked for need, and takes just
 * those. What it can hold all the same is written at `TextReader`.
 *
 * Text comes in two steps. `#more()` takes a few bytes, decodes them and translates line ends; `#gather()` cuts what
 * was asked for from that text. Both depend on the bytes alone, never on the pieces they come in.
 */

import { SocketError } from "../errors.ts";
import { checkCount, checkOptions, optionNamesOf } from "../options.ts";
import { type Data, DONE, joinBytes, toBytes } from "./data.ts";
import { pulled, type StreamReader } from "./reader.ts";
import type { StreamWriter } from "./writer.ts";

/** What a mode opens. */
export interface FileModes {
  r: TextReader;
  w: TextWriter;
  rw: TextFile;
  rb: StreamReader;
  wb: BinaryWriter;
  rwb: BinaryFile;
}

/** How a file is used: `r` to read, `w` to write, `b` for bytes in place of text. */
export type FileMode = keyof FileModes;

/** What `makefile()` can be told beside its mode. All but `bufsize` are for text alone. */
export interface FileOptions {
  /**
   * How much is gathered before it leaves, in bytes. By default (-1) the socket's writer gathers as it always does,
   * and nothing needs a flush. With `n` > 0 the file keeps what is written until `n` bytes have come together, or
   * until `flush()` or `close()`: close it before the socket. 0 keeps nothing, and is for bytes alone; 1 in a text
   * mode is line buffering: a write with a line end in it leaves at once, others at 8 KiB.
   *
   * Reading takes nothing ahead of what it gives, whatever this says.
   */
  readonly bufsize?: number | undefined;
  /**
   * `utf-8` (the default), `ascii`, `latin-1`, `utf-16` (with a byte order mark), `utf-16-le`, `utf-16-be`, by any of
   * Python's names for them; to read also every other label of `TextDecoder`, as the Encoding Standard has it.
   */
  readonly encoding?: string | undefined;
  /**
   * What is done about bytes that are no text, and text that the encoding has no bytes for: `strict` (the default)
   * fails with `EILSEQ`; `replace` puts U+FFFD, or writes `?`; `ignore` leaves it out.
   */
  readonly errors?: "strict" | "replace" | "ignore" | undefined;
  /**
   * What ends a line. By default each of `\n`, `\r` and `\r\n` does, and reads as `\n`; `""`: the same, but it reads
   * as it is; `\n`, `\r` or `\r\n`: that alone. With `\r` and `\r\n` each `\n` that is written becomes that.
   */
  readonly newline?: "" | "\n" | "\r" | "\r\n" | null | undefined;
}

const FILE_NAMES = optionNamesOf<FileOptions>("makefile()")({
  bufsize: true,
  encoding: true,
  errors: true,
  newline: true,
});

/** What all files of this module have. */
interface OpenFile extends AsyncDisposable {
  /** True after `close()`: every other call fails with `EBADF` then. */
  readonly closed: boolean;
  /** Sends what was written; resolves when there is room for more. Errors as `StreamWriter.flush()`. */
  flush(): Promise<void>;
  /** Sends what was written, and lets go of the file. The socket stays open, and so do other files of it. */
  close(): Promise<void>;
}

/**
 * Reads text. CPython's `io.TextIOWrapper`, with the results it has; the end is `null` in place of `""`.
 *
 * Sizes are characters as Python counts them: code points, so that "😀" is one. Limits are the reader's, in bytes of
 * the file's encoding: `maxLine` for a line without its end, `maxRead` for what else one call gathers (`ERR_LIMIT`).
 * Rejects as `StreamReader` does, and with `EILSEQ` at bytes that are no text; what is before them can be read, what
 * is behind them cannot. A read that fails loses nothing: what it had gathered is there for the next.
 * One read may wait at a time; a second one meanwhile rejects with `EBUSY`. Closed meanwhile, it rejects with `ECANCELED`.
 *
 * The bytes of what was given are taken from the socket, and no others, but for these: what a read that failed had
 * gathered; the bytes after a wrong one, in the few that one read took; with `newline: ""` the character after a
 * lone `\r`. Where a `\r` ends a line and nothing has come after it, the line is given at once (CPython waits for
 * the next byte), and a `\n` that comes then belongs to it: the next read leaves it out, unless `recv()` took it. With
 * `newline: ""` the line must wait to know how it ends.
 */
export interface TextReader extends OpenFile, AsyncIterable<string> {
  /** Exactly `size` characters, fewer only at the end, `null` when none are left; without `size`, all up to the end. */
  read(size?: number): Promise<string | null>;
  /** A line with its end; at the end of the stream what is left without one, then `null`. With `size` at most that many characters of it. */
  readline(size?: number): Promise<string | null>;
  /** The lines that are left; with `hint`, no further than the line with which they are more than that many characters. `maxRead` bounds them all. */
  readlines(hint?: number): Promise<string[]>;
  /** The lines to the end. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<string>;
}

/** Writes text. CPython's `io.TextIOWrapper`. */
export interface TextWriter extends OpenFile {
  /**
   * Writes `text`; gives how many characters (code points) that was, before line ends were translated. Never waits.
   * Throws as `StreamWriter.write()`, and with `EILSEQ` where the encoding has no bytes for it; then none of it is written.
   */
  write(text: string): number;
  /** `write()` of each; adds no line ends. */
  writelines(lines: Iterable<string>): void;
}

/** Reads and writes text. Reading sends nothing that an explicit `bufsize` still keeps: flush before you wait for the answer. */
export interface TextFile extends TextReader, TextWriter {}

/** Writes bytes: the socket's `StreamWriter`, or with an explicit `bufsize` a file that gathers so many before it. */
export interface BinaryWriter extends AsyncDisposable {
  /** Writes `data`, a string as UTF-8; gives how many bytes that was. Throws as `StreamWriter.write()`. */
  write(data: Data): number;
  /** `write()` of each; adds no line ends. */
  writelines(lines: Iterable<Data>): void;
  /** Sends what was written; resolves when there is room for more. Errors as `StreamWriter.flush()`. */
  flush(): Promise<void>;
  /** Flushes; the socket stays open. */
  close(): Promise<void>;
}

/** Reads and writes bytes: the socket's reader and writer as one. CPython's `BufferedRWPair`. */
export interface BinaryFile extends OpenFile, BinaryWriter, AsyncIterable<Uint8Array> {
  /** As `StreamReader.read()`. */
  read(size?: number): Promise<Uint8Array | null>;
  /** As `StreamReader.readline()`. */
  readline(size?: number): Promise<Uint8Array | null>;
  /** As `StreamReader.readlines()`. */
  readlines(hint?: number): Promise<Uint8Array[]>;
  /** The lines to the end, as `readline()` gives them. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array>;
}

const WINDOW = 8 * 1024; // bytes looked at at once
const BUFSIZE = 8 * 1024; // bytes that line buffering keeps; io.DEFAULT_BUFFER_SIZE of CPython
const EMPTY = new Uint8Array(0);
const NEWLINE = 10;
const RETURN = 13;

/**
 * A stream as a file. `mode` is made of `r`, `w` and `b`; without `w` it reads, as in CPython, and so does `""`.
 *
 * Throws `RangeError` for another mode, an encoding that is not known (or that cannot be written, which `windows-1252`
 * and its like cannot), a `newline` or `errors` that is none, `bufsize` 0 of text, and text options of a binary mode.
 */
export function openFile(reader: StreamReader, writer: StreamWriter, mode: "wb"): StreamWriter;
export function openFile<Mode extends FileMode = "r">(
  reader: StreamReader,
  writer: StreamWriter,
  mode?: Mode,
  options?: FileOptions,
): FileModes[Mode];
export function openFile(
  reader: StreamReader,
  writer: StreamWriter,
  mode = "r",
  options: FileOptions = {},
): FileModes[FileMode] {
  if (typeof mode !== "string" || /[^rwb]/.test(mode)) {
    throw new RangeError(
      `no such mode: ${JSON.stringify(mode)}; it is made of r, w and b alone, as "r", "rw" or "rb"`,
    );
  }
  checkOptions("makefile()", options, FILE_NAMES);
  const writes = mode.includes("w");
  const reads = mode.includes("r") || !writes;
  const text = !mode.includes("b");
  const { bufsize = -1 } = options;
  checkCount("bufsize", bufsize, -1);
  if (text) {
    if (bufsize === 0) throw new RangeError("text needs a buffer: bufsize 0 is for the binary modes");
    const output = bufsize < 0 ? writer : new BufferedWriter(writer, bufsize === 1 ? BUFSIZE : bufsize);
    return new TextIOWrapper(reads ? reader : null, writes ? output : null, options);
  }
  for (const name of ["encoding", "errors", "newline"] as const) {
    if (options[name] != null) throw new RangeError(`mode "${mode}" is of bytes, and takes no ${name}`);
  }
  if (!writes) return reader; // whose buffer is the socket's: there is none of its own to have a size
  if (!reads && bufsize < 0) return writer;
  return new RawFile(reads ? reader : null, bufsize < 0 ? writer : new BufferedWriter(writer, bufsize));
}

/** What a file writes to. */
type Output = Pick<StreamWriter, "write" | "start" | "flush">;

/** Keeps what is written until `size` bytes have come together. CPython's `BufferedWriter`. */
class BufferedWriter implements Output {
  readonly #writer: StreamWriter;
  readonly #size: number;
  #kept: Uint8Array = EMPTY;
  #used = 0;

  constructor(writer: StreamWriter, size: number) {
    this.#writer = writer;
    this.#size = size;
  }

  write(data: Data): number {
    const bytes = toBytes(data);
    const used = this.#used + bytes.length;
    if (used >= this.#size) {
      const kept = this.#kept.subarray(0, this.#used);
      this.#writer.write(this.#used === 0 ? bytes : joinBytes([kept, bytes], used));
      this.#used = 0; // after the write: one that throws has taken nothing
      this.#writer.start();
    } else {
      if (used > this.#kept.length) {
        this.#kept = joinBytes([this.#kept], Math.min(this.#size, Math.max(used, this.#kept.length * 2)));
      }
      this.#kept.set(bytes, this.#used);
      this.#used = used;
    }
    return bytes.length;
  }

  start(): void {
    if (this.#used > 0) this.#writer.write(this.#kept.slice(0, this.#used));
    this.#used = 0;
    this.#writer.start();
  }

  async flush(): Promise<void> {
    this.start();
    await this.#writer.flush();
  }
}

/** What a file is, whatever it reads and writes: open or closed, for reading or writing. */
abstract class BaseFile implements OpenFile {
  #closed = false;
  readonly #reader: StreamReader | null;
  readonly #output: Output | null;

  constructor(reader: StreamReader | null, output: Output | null) {
    this.#reader = reader;
    this.#output = output;
  }

  get closed(): boolean {
    return this.#closed;
  }

  protected get reader(): StreamReader {
    this.#mayUse();
    if (this.#reader !== null) return this.#reader;
    throw new SocketError("EBADF", `this file only writes; open it with "r" in its mode to read`);
  }

  protected get output(): Output {
    this.#mayUse();
    if (this.#output !== null) return this.#output;
    throw new SocketError("EBADF", `this file only reads; open it with "w" in its mode to write`);
  }

  async flush(): Promise<void> {
    this.#mayUse();
    await this.#output?.flush();
  }

  close(): Promise<void> {
    if (this.#closed) return DONE;
    this.#closed = true;
    return this.#output?.flush() ?? DONE;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #mayUse(): void {
    if (this.#closed) throw new SocketError("EBADF", "the file is closed");
  }
}

/** The modes of bytes that are not just the socket's reader or writer. */
class RawFile extends BaseFile implements BinaryFile {
  async read(size?: number): Promise<Uint8Array | null> {
    return this.reader.read(size);
  }

  async readline(size?: number): Promise<Uint8Array | null> {
    return this.reader.readline(size);
  }

  async readlines(hint?: number): Promise<Uint8Array[]> {
    return this.reader.readlines(hint);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    return pulled(() => this.readline());
  }

  write(data: Data): number {
    return this.output.write(data);
  }

  writelines(lines: Iterable<Data>): void {
    for (const line of lines) this.write(line);
  }
}

/** The text modes. */
class TextIOWrapper extends BaseFile implements TextFile {
  readonly #decoder: Decoder;
  readonly #encode: Encoder;
  // The byte order mark, where it is still to be written. CPython's file of a socket leaves it out (it takes it for a
  // file that is appended to), and then does not read what it wrote; its codec and its io module in Python have it.
  #mark: string;
  readonly #newline: string | null;
  readonly #lineBuffered: boolean;
  #text = ""; // decoded, and not given yet
  #returned = -1; // where in the stream a \r has become \n: a \n right there is the same line end
  #reading = false;
  #window: Uint8Array = EMPTY; // a copy of the bytes that come next
  #ascii: string | null = null; // its text, where all of it is ASCII: lines are sliced from that, and not decoded each
  #windowAt = 0; // where in the stream it begins; a copy of a stream stays right, whoever reads that meanwhile

  constructor(reader: StreamReader | null, output: Output | null, options: FileOptions) {
    super(reader, output);
    const { encoding = "utf-8", errors = "strict", newline = null } = options;
    if (!["strict", "replace", "ignore"].includes(errors)) {
      throw new RangeError(`errors is "strict", "replace" or "ignore", not ${JSON.stringify(errors)}`);
    }
    if (!["", "\n", "\r", "\r\n", null].includes(newline)) {
      throw new RangeError(`newline is "", "\\n", "\\r", "\\r\\n" or null, not ${JSON.stringify(newline)}`);
    }
    const codec = codecOf(String(encoding));
    this.#decoder = new Decoder(codec, errors);
    this.#encode = output === null ? () => EMPTY : encoderOf(codec, errors);
    this.#mark = codec.marked ? "\uFEFF" : "";
    this.#newline = newline;
    this.#lineBuffered = options.bufsize === 1;
  }

  // ---- Writing ----

  write(text: string): number {
    const { output } = this;
    if (typeof text !== "string") {
      throw new TypeError(`a text file takes a string; for bytes open one with "b" in its mode`);
    }
    if (text === "") return 0; // and no byte order mark
    const newline = this.#newline || "\n";
    output.write(this.#encode(newline === "\n" ? text : text.replaceAll("\n", newline), this.#mark));
    this.#mark = "";
    if (this.#lineBuffered && /[\n\r]/.test(text)) output.start();
    return characters(text);
  }

  writelines(lines: Iterable<string>): void {
    for (const line of lines) this.write(line);
  }

  // ---- Reading ----

  read(size: number = Number.POSITIVE_INFINITY): Promise<string | null> {
    return this.#gather(false, wanted(size));
  }

  readline(size: number = Number.POSITIVE_INFINITY): Promise<string | null> {
    return this.#gather(true, wanted(size));
  }

  readlines(hint = 0): Promise<string[]> {
    return this.#readlines(checkCount("hint", hint, 0));
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<string> {
    return pulled(() => this.readline());
  }

  async #readlines(hint: number): Promise<string[]> {
    const { maxRead } = this.reader;
    const lines: string[] = [];
    let count = 0;
    let bytes = 0;
    try {
      for (;;) {
        const line = await this.readline();
        if (line === null) return lines;
        lines.push(line);
        bytes += this.#decoder.codec.length(line);
        if (bytes > maxRead) throw tooMuch("what is left", "maxRead", maxRead);
        count += characters(line);
        if (hint > 0 && count > hint) return lines; // more than the hint, as the io module of C has it
      }
    } catch (error) {
      this.#text = lines.join("") + this.#text;
      throw error;
    }
  }

  /** Gathers a line, or all, or of either `size` characters at most; `null` where the end comes first. */
  async #gather(line: boolean, size: number): Promise<string | null> {
    const { reader } = this;
    const limit = line && size === Number.POSITIVE_INFINITY ? "maxLine" : "maxRead";
    const most = reader[limit];
    const over = (): SocketError => tooMuch(limit === "maxLine" ? "the line" : "the read", limit, most);
    if (this.#reading) throw new SocketError("EBUSY", "another read of this file waits; await it first");
    if (!line && size !== Number.POSITIVE_INFINITY && size > most) throw over();
    if (size === 0) return "";
    this.#reading = true;
    let given = "";
    let bytes = 0; // that `given` is, without the end of its line
    let left = size;
    try {
      for (;;) {
        const text = this.#text;
        if (text !== "") {
          let end = line ? this.#lineEnd(text) : -1;
          let done = end >= 0;
          // The half of a line end that may become a whole one stays until that is known.
          if (!done) end = text.length - (line && this.#halfEnd(text) ? 1 : 0);
          if (left !== Number.POSITIVE_INFINITY) {
            const to = forward(text, left);
            if (to >= 0 && (!done || to < end)) {
              end = to;
              done = true;
            } else left -= characters(text.slice(0, end));
          }
          const piece = text.slice(0, end);
          this.#text = text.slice(end);
          if (done && given === "" && end * MOST_BYTES <= most) return piece; // nearly always
          given += piece;
          bytes += this.#decoder.codec.length(done && limit === "maxLine" ? this.#withoutEnd(piece) : piece);
          if (bytes > most) throw over();
          if (done) return given;
        }
        const half = this.#text !== "";
        const more = this.#more(reader, line && !half, half ? 1 : left);
        if (more === true || (await more)) continue;
        given += this.#text;
        this.#text = "";
        return given === "" ? null : given;
      }
    } catch (error) {
      this.#text = given + this.#text;
      throw error;
    } finally {
      this.#reading = false;
    }
  }

  /** Behind the first line end in `text`; -1 where there is none, or where it may go on. */
  #lineEnd(text: string): number {
    const mark = this.#newline ?? "\n";
    if (mark !== "") {
      const at = text.indexOf(mark);
      return at < 0 ? -1 : at + mark.length;
    }
    const newline = text.indexOf("\n");
    const back = text.indexOf("\r");
    if (back < 0 || (newline >= 0 && newline < back)) return newline < 0 ? -1 : newline + 1;
    if (back === text.length - 1) return -1;
    return newline === back + 1 ? newline + 1 : back + 1;
  }

  /** Whether `text` ends in a `\r` that a `\n` may make another line end. */
  #halfEnd(text: string): boolean {
    return (this.#newline === "" || this.#newline === "\r\n") && text.endsWith("\r");
  }

  /** `line` without its end. */
  #withoutEnd(line: string): string {
    return line.slice(0, line.endsWith("\r\n") && this.#newline !== "\n" ? -2 : -1);
  }

  /**
   * Takes what is here, `want` characters at most and for a `line` no further than its end, into the text; waits for
   * a first byte. False at the end.
   */
  #more(reader: StreamReader, line: boolean, want: number): boolean | Promise<boolean> {
    const decoder = this.#decoder;
    decoder.check();
    const at = this.#known(reader);
    if (at < 0) {
      return this.#look(reader).then((here) => (here ? this.#more(reader, line, want) : this.#last()));
    }
    decoder.begin(this.#window, at);
    const { unit } = decoder.codec;
    const all = this.#window.length - at;
    let size = all < unit ? all : all - (all % unit);
    if (line) size = this.#lineBytes(at, size);
    if (want < size) size = this.#characterBytes(at, size, want);
    const bytes = this.#window.subarray(at, at + size);
    const ascii = this.#ascii?.slice(at, at + size);
    const from = this.#windowAt + at;
    const decode = (): true => this.#append(decoder.decode(bytes, false, ascii), from, from + size);
    if (size === all) this.#window = EMPTY; // it need not stay in memory
    const left = reader.buffered - size;
    const taken = reader.read(size);
    // Mostly it has them at once; not where much output waits, and reads with it.
    return reader.buffered === left ? decode() : taken.then(decode);
  }

  /** The stream has ended: what of it was no whole character. */
  #last(): boolean {
    const text = this.#decoder.decode(EMPTY, true);
    if (text === "") this.#decoder.check();
    this.#append(text, -1, -1);
    return text !== "";
  }

  /** Where in the window the next byte is; -1 where it is not, or not the whole of its unit. */
  #known(reader: StreamReader): number {
    const at = reader.bytesRead - reader.buffered - this.#windowAt;
    const left = this.#window.length - at;
    const { unit } = this.#decoder.codec;
    // A window that is smaller than a unit is the end of the stream.
    return at >= 0 && left > 0 && (left >= unit || this.#window.length < unit) ? at : -1;
  }

  /** Copies what comes next, and waits for it where nothing is here; false at the end. */
  async #look(reader: StreamReader): Promise<boolean> {
    const { unit } = this.#decoder.codec;
    const first = reader.buffered < unit ? await reader.receive(unit, true, true, true) : EMPTY;
    const at = reader.bytesRead - reader.buffered; // nobody else takes bytes while peek() waits
    const seen = first && (await reader.peek(Math.min(WINDOW, Math.max(reader.maxRead, unit))));
    if (this.closed) throw new SocketError("ECANCELED", "the file was closed while this read waited");
    this.#windowAt = at; // with the window, and only then: a look that fails leaves the one before
    this.#window = seen ?? EMPTY;
    this.#ascii = this.#decoder.codec.ascii ? asciiOf(this.#window) : null;
    return first !== null;
  }

  /** How many of the `size` bytes at `at` of the window belong to the line that begins there, or may do so. */
  #lineBytes(at: number, size: number): number {
    const { unit, big } = this.#decoder.codec;
    const window = this.#window;
    const universal = !this.#newline;
    const back = universal || this.#newline === "\r";
    const forth = this.#newline !== "\r";
    const high = unit === 1 ? 0 : big ? 0 : 1; // where in a unit its high byte is
    const low = unit - 1 - high;
    const is = (code: number, i: number): boolean =>
      window[i + low] === code && (unit === 1 || window[i + high] === 0);
    const to = at + size;
    for (let i = at; i < to; i += unit) {
      if ((window[i + low] as number) > RETURN) continue; // nearly all
      if (forth && is(NEWLINE, i)) return i + unit - at;
      if (back && is(RETURN, i)) {
        const next = i + unit;
        return (universal && next < to && is(NEWLINE, next) ? next + unit : next) - at;
      }
    }
    return size;
  }

  /** How many of the `size` bytes at `at` of the window are `want` characters, or fewer. */
  #characterBytes(at: number, size: number, want: number): number {
    const { size: sizeAt } = this.#decoder.codec;
    if (this.#ascii !== null || sizeAt === null) return want; // each has a byte at least
    let to = at;
    for (let n = 0; n < want && to < at + size; n++) to += Math.abs(sizeAt(this.#window, to)) || size;
    return Math.min(to - at, size);
  }

  /** Adds to the text, which the stream has from one offset to another; each line end becomes `\n` if it is to. */
  #append(text: string, from: number, to: number): true {
    const returned = this.#returned === from;
    if (text === "") {
      if (returned) this.#returned = to; // what is left out is not between the two either
      return true;
    }
    let translated = text;
    if (this.#newline === null) {
      if (returned && text.startsWith("\n")) translated = text.slice(1);
      this.#returned = text.endsWith("\r") ? to : -1;
      if (translated.includes("\r")) translated = translated.replace(/\r\n?/g, "\n");
    }
    this.#text += translated;
    return true;
  }
}

const wanted = (size: number): number =>
  size === Number.POSITIVE_INFINITY ? size : checkCount("size", size, 0);

const tooMuch = (what: string, limit: string, most: number): SocketError =>
  new SocketError("ERR_LIMIT", `${what} is longer than ${most} bytes; raise ${limit}, or read it in pieces`);

// ---- Characters: a pair of surrogates is one, as Python counts ----

const isPair = (text: string, at: number): boolean =>
  text.charCodeAt(at) >> 10 === 0x36 && text.charCodeAt(at + 1) >> 10 === 0x37;

/** How many characters `text` has. */
const characters = (text: string): number => {
  let count = text.length;
  for (let i = 0; i < text.length; i++) if (isPair(text, i)) count--;
  return count;
};

/** Where in `text` its first `count` characters end; -1 where it has fewer. */
const forward = (text: string, count: number): number => {
  if (text.length < count) return -1;
  let at = 0;
  for (let n = 0; n < count; n++) {
    if (at >= text.length) return -1;
    at += isPair(text, at) ? 2 : 1;
  }
  return at;
};

// ---- Encodings ----

type Errors = NonNullable<FileOptions["errors"]>;

/** An encoding. What it is given to decode or to write has no character cut in two. */
interface Codec {
  readonly name: string;
  /** Bytes of the smallest character; `\n` is one of that size. */
  readonly unit: 1 | 2;
  /** Whether the first byte of a unit is the high one. */
  readonly big?: boolean;
  /** Whether the text begins with a byte order mark, which tells that. */
  readonly marked?: boolean;
  /** Whether the bytes of ASCII are ASCII. */
  readonly ascii: boolean;
  /** The text of `bytes`, with U+FFFD for what is wrong in them. */
  decode(bytes: Uint8Array, last: boolean): string;
  /**
   * How many bytes the character at `at` has: 0 where the end cuts it off, -n where the n bytes there are none.
   * Where this is `null`, `decode` itself keeps what is cut off, and each U+FFFD is something wrong.
   */
  readonly size: ((bytes: Uint8Array, at: number) => number) | null;
  /** How many bytes `text` has. */
  length(text: string): number;
  /** What cannot be written; `null` where nothing can. */
  readonly unwritable: RegExp | null;
  encode(text: string): Data;
}

const MOST_BYTES = 3; // of a UTF-16 code unit, in any encoding here: three in UTF-8 (a pair has four)

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
const utf16 = new TextDecoder("utf-16le", { ignoreBOM: true });
const encoder = new TextEncoder();

const UTF_8: Codec = {
  name: "utf-8",
  unit: 1,
  ascii: true,
  decode: (bytes) => utf8.decode(bytes),
  // The well-formed sequences: Unicode, Table 3-7.
  size(bytes, at) {
    const lead = bytes[at] as number;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return -1;
    const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    for (let i = 1; i < size; i++) {
      const byte = bytes[at + i];
      if (byte === undefined) return 0;
      const low = i > 1 ? 0x80 : lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
      const high = i > 1 ? 0xbf : lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
      if (byte < low || byte > high) return -i;
    }
    return size;
  },
  length: (text) => encoder.encode(text).length,
  unwritable: /\p{Surrogate}/gu,
  encode: (text) => text,
};

/** The text of `bytes` where all of them are ASCII; else `null`. */
const asciiOf = (bytes: Uint8Array): string | null => {
  const text = utf8.decode(bytes);
  // As many characters as bytes, and none for a wrong one: each byte was one.
  return text.length === bytes.length && !text.includes("\uFFFD") ? text : null;
};

/** A character of each byte. */
const eachByte = (bytes: Uint8Array): string => {
  let text = asciiOf(bytes);
  if (text !== null) return text;
  text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
};

const LATIN_1: Codec = {
  name: "latin-1",
  unit: 1,
  ascii: true,
  decode: eachByte,
  size: () => 1,
  length: (text) => text.length,
  unwritable: /[^\p{ASCII}\x80-\xff]/gu,
  encode: (text) => (/\P{ASCII}/u.test(text) ? Uint8Array.from(text, (char) => char.charCodeAt(0)) : text),
};

const ASCII: Codec = {
  name: "ascii",
  unit: 1,
  ascii: true,
  decode: (bytes) => eachByte(bytes).replace(/\P{ASCII}/gu, "\uFFFD"),
  size: (bytes, at) => ((bytes[at] as number) < 0x80 ? 1 : -1),
  length: (text) => text.length,
  unwritable: /\P{ASCII}/gu,
  encode: (text) => text,
};

const swapped = (bytes: Uint8Array): Uint8Array => bytes.map((_, i) => bytes[i ^ 1] ?? 0);

const utf16of = (name: string, big: boolean, marked = false): Codec => ({
  name,
  unit: 2,
  ascii: false,
  big,
  marked,
  decode: (bytes) => utf16.decode(big ? swapped(bytes) : bytes),
  size(bytes, at) {
    const high = big ? 0 : 1; // where in a unit its high byte is
    const kind = (i: number): number => (bytes[i + high] as number) >> 2; // 0x36 and 0x37: the two halves of a pair
    if (at + 1 >= bytes.length) return 0;
    if (kind(at) === 0x36) return at + 3 >= bytes.length ? 0 : kind(at + 2) === 0x37 ? 4 : -2;
    return kind(at) === 0x37 ? -2 : 2;
  },
  length: (text) => text.length * 2,
  unwritable: UTF_8.unwritable,
  encode(text) {
    const bytes = new Uint8Array(text.length * 2);
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      bytes[2 * i + (big ? 0 : 1)] = code >> 8;
      bytes[2 * i + (big ? 1 : 0)] = code;
    }
    return bytes;
  },
});

const UTF_16_LE = utf16of("utf-16-le", false);
const UTF_16_BE = utf16of("utf-16-be", true);
const UTF_16 = utf16of("utf-16", false, true); // written as Linux' processors have it

/** The names of the six, without what is no letter or digit: those of CPython's `encodings.aliases`. */
const NAMES: readonly (readonly [Codec, string])[] = [
  [UTF_8, "utf8 u8 utf cp65001"],
  [ASCII, "ascii usascii us 646 iso646us iso646irv1991 isoir6 ansix341968 ansix341986 cp367 ibm367 csascii"],
  [LATIN_1, "latin1 latin l1 iso88591 iso885911987 iso8859 8859 isoir100 cp819 ibm819 csisolatin1"],
  [UTF_16, "utf16 u16"],
  [UTF_16_LE, "utf16le unicodelittleunmarked"],
  [UTF_16_BE, "utf16be unicodebigunmarked"],
];

const OURS = "utf-8, ascii, latin-1, utf-16, utf-16-le and utf-16-be";
const BY_NAME = new Map(NAMES.flatMap(([codec, names]) => names.split(" ").map((name) => [name, codec])));

/** The codec of a name, as Python or the Encoding Standard has it. */
const codecOf = (label: string): Codec => {
  const own = BY_NAME.get(label.toLowerCase().replace(/[^a-z0-9]/g, ""));
  if (own !== undefined) return own;
  for (const name of [label, label.replaceAll("_", "-")]) {
    let decoder: TextDecoder;
    try {
      decoder = new TextDecoder(name, { ignoreBOM: true });
    } catch {
      continue;
    }
    const known = BY_NAME.get(decoder.encoding.replaceAll("-", "")); // a name of the standard's for one of the six
    return known ?? foreign(decoder);
  }
  throw new RangeError(
    `unknown encoding ${JSON.stringify(label)}: there are ${OURS}, and to read what TextDecoder knows`,
  );
};

/** An encoding that only the platform knows. A file has one of its own, since it remembers where it is. */
const foreign = (decoder: TextDecoder): Codec => ({
  name: decoder.encoding,
  unit: 1, // and no byte that looks like \r or \n is part of another character
  ascii: false, // not in the middle of iso-2022-jp
  decode: (bytes, last) => decoder.decode(bytes, { stream: !last }),
  size: null,
  length: (text) => text.length,
  unwritable: null,
  encode: () => EMPTY,
});

/** Turns text into bytes, behind a byte order mark or none. */
type Encoder = (text: string, mark: string) => Data;

const encoderOf = (codec: Codec, errors: Errors): Encoder => {
  const { name, unwritable } = codec;
  if (unwritable === null)
    throw new RangeError(`${name} can be read, not written; to write there are ${OURS}`);
  const put = (char: string, at: number): string => {
    if (errors === "ignore") return "";
    if (errors === "replace") return "?";
    const code = (char.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, "0");
    throw new SocketError("EILSEQ", `U+${code}, at ${at} in the text, cannot be written in ${name}`);
  };
  const unicode = unwritable === UTF_8.unwritable; // all but half pairs can be written, for which there is a fast test
  return (text, mark) =>
    codec.encode(mark + (unicode && text.isWellFormed() ? text : text.replace(unwritable, put)));
};

/** Decodes a stream, the same however it is cut. */
class Decoder {
  codec: Codec;
  readonly #errors: Errors;
  #wrong: string | null = null; // what is wrong in the bytes, so that nothing behind it is decoded
  #kept: Uint8Array = EMPTY; // the beginning of a character
  #offset = 0; // bytes before that
  #mark = 0; // bytes of the byte order mark that is to be left out

  constructor(codec: Codec, errors: Errors) {
    this.codec = codec;
    this.#errors = errors;
  }

  /** Throws `EILSEQ` where something was wrong. */
  check(): void {
    if (this.#wrong !== null) throw new SocketError("EILSEQ", this.#wrong);
  }

  /** Looks at the first bytes of the stream, at `at`, for the byte order mark. Throws `EILSEQ` where it must have one. */
  begin(bytes: Uint8Array, at: number): void {
    if (!this.codec.marked) return;
    const mark = bytes.subarray(at, at + 2).join();
    if (mark === "254,255") this.codec = UTF_16_BE;
    else this.codec = UTF_16_LE;
    if (bytes.length - at < 2) return; // the end cuts it off
    if (mark !== "255,254" && mark !== "254,255") {
      this.#wrong = "utf-16 begins with a byte order mark, and this does not; name it utf-16-le or utf-16-be";
      this.check();
    }
    this.#mark = 2;
  }

  /**
   * The text of `bytes`, as far as its characters are whole; of the `last` ones, all. Ends where something is wrong.
   * `ascii` is that text, where they are known to be ASCII.
   */
  decode(bytes: Uint8Array, last: boolean, ascii?: string): string {
    if (ascii !== undefined && this.#kept.length === 0) {
      this.#offset += ascii.length;
      return ascii;
    }
    const all =
      this.#kept.length === 0 ? bytes : joinBytes([this.#kept, bytes], this.#kept.length + bytes.length);
    const whole = last ? all.length : this.#whole(all);
    this.#kept = whole === all.length ? EMPTY : all.slice(whole);
    const ready = this.#mark === 0 && whole === all.length ? all : all.subarray(this.#mark, whole);
    this.#offset += this.#mark;
    this.#mark = 0;
    const text = this.codec.decode(ready, last);
    const clean = text.includes("\uFFFD") ? this.#sift(ready, text) : text;
    this.#offset += ready.length;
    return clean;
  }

  /** How many of `bytes` are whole characters, or wrong; behind them one has begun. */
  #whole(bytes: Uint8Array): number {
    const { size, unit } = this.codec;
    let whole = bytes.length;
    if (size === null) return whole;
    for (let at = bytes.length - 1; at >= 0 && at >= bytes.length - 3; at--) {
      if (at % unit > 0) continue;
      const here = size(bytes, at);
      if (here > 0) break;
      if (here === 0) whole = at;
    }
    return whole;
  }

  /** The text of `bytes`, which is `text` but for what is wrong. */
  #sift(bytes: Uint8Array, text: string): string {
    const { codec } = this;
    const { size } = codec;
    if (size === null) {
      if (this.#errors === "replace") return text;
      if (this.#errors === "ignore") return text.replaceAll("\uFFFD", "");
      const at = text.indexOf("\uFFFD");
      this.#wrong = `after ${JSON.stringify(text.slice(Math.max(0, at - 20), at))} come bytes that are not ${codec.name}`;
      return text.slice(0, at);
    }
    let clean = "";
    let from = 0;
    for (let at = 0; at < bytes.length; ) {
      const here = size(bytes, at);
      if (here > 0) {
        at += here;
        continue;
      }
      clean += codec.decode(bytes.subarray(from, at), true);
      from = here === 0 ? bytes.length : at - here;
      if (this.#errors === "strict") {
        const hex = Array.from(bytes.subarray(at, from), (byte) => byte.toString(16).padStart(2, "0")).join(
          " ",
        );
        this.#wrong = `the bytes ${hex} at offset ${this.#offset + at} are not ${codec.name}`;
        return clean;
      }
      if (this.#errors === "replace") clean += "\uFFFD";
      at = from;
    }
    return clean + codec.decode(bytes.subarray(from), true);
  }
}
