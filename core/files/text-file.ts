/**
 * Files of text: CPython's `io.TextIOWrapper`. They wrap the socket's reader and writer, and can be mixed with `recv()`
 * and `rfile`, because they never read ahead. A read looks at a copy of at most 8 KiB of what has arrived (the bytes stay in
 * the socket's buffer), finds how many bytes the requested line or characters need, and takes only those. `TextReader`
 * lists what a file can hold nevertheless.
 *
 * Text comes in two steps. `#more()` takes a few bytes, decodes them and translates line ends; `#gather()` cuts the
 * requested part from that text. Both depend only on the bytes, never on the pieces they come in.
 */

import { pulled, type StreamReader } from "../bytes/reader.ts";
import { SocketError } from "../errors.ts";
import { checkCount } from "../options.ts";
import { BaseFile, type FileOptions, type OpenFile, type Output } from "./base-file.ts";
import { asciiOf, codecOf, Decoder, type Encoder, encoderOf } from "./encodings.ts";

/**
 * Reads text. CPython's `io.TextIOWrapper`, with the same results, except that the end is `null` instead of `""`.
 *
 * Sizes are characters as Python counts them: code points, so that "😀" is one. Limits are the reader's, in bytes of
 * the file's encoding: `maxLine` for a line without its end, `maxRead` for everything else that one call gathers (`ERR_LIMIT`).
 * Rejects as `StreamReader` does, and with `EILSEQ` at bytes that are not text; text before them can be read, text
 * after them cannot. A read that fails loses nothing: the next read gets what it had gathered.
 * One read may wait at a time; a second one meanwhile rejects with `EBUSY`. Closed meanwhile, it rejects with `ECANCELED`.
 *
 * Only the bytes of the returned text are taken from the socket, with these exceptions: what a failed read had
 * gathered; the bytes after a wrong one, among the few that one read took; with `newline: ""` the character after a
 * lone `\r`. If a `\r` ends a line and nothing has arrived after it, the line is returned at once (CPython waits for
 * the next byte), and a `\n` that arrives then belongs to it: the next read leaves it out, unless `recv()` took it. With
 * `newline: ""` the line must wait until its end is known.
 */
export interface TextReader extends OpenFile, AsyncIterable<string> {
  /** Exactly `size` characters, fewer only at the end, `null` when none are left; without `size`, all up to the end. */
  read(size?: number): Promise<string | null>;
  /** A line with its end; at the end of the stream what is left without one, then `null`. With `size` at most that many characters of it. */
  readline(size?: number): Promise<string | null>;
  /** The remaining lines; with `hint`, it stops after the line with which they exceed that many characters. `maxRead` limits them all. */
  readlines(hint?: number): Promise<string[]>;
  /** The lines to the end. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<string>;
}

/** Writes text. CPython's `io.TextIOWrapper`. */
export interface TextWriter extends OpenFile {
  /**
   * Writes `text`, and returns its number of characters (code points), before line ends were translated. Never waits.
   * Throws as `StreamWriter.write()`, and with `EILSEQ` if the encoding has no bytes for it; then none of it is written.
   */
  write(text: string): number;
  /** `write()` of each; adds no line ends. */
  writelines(lines: Iterable<string>): void;
}

/** Reads and writes text. Reading sends nothing that an explicit `bufsize` still keeps: flush before you wait for the answer. */
export interface TextFile extends TextReader, TextWriter {}

const WINDOW = 8 * 1024; // bytes examined at once
const EMPTY = new Uint8Array(0);
const NEWLINE = 10;
const RETURN = 13;
const MOST_BYTES = 3; // of a UTF-16 code unit, in any encoding: three in UTF-8 (a pair has four)

/** The text modes. */
export class TextIOWrapper extends BaseFile implements TextFile {
  readonly #decoder: Decoder;
  readonly #encode: Encoder;
  // The byte order mark, if it must still be written. CPython's file of a socket leaves it out (it treats the socket as a
  // file that is appended to), and then cannot read what it wrote; its codec and its io module in Python write it.
  #mark: string;
  readonly #newline: string | null;
  readonly #lineBuffered: boolean;
  #text = ""; // decoded, and not returned yet
  #returned = -1; // where in the stream a \r has become \n: a \n right there is the same line end
  #reading = false;
  #window: Uint8Array = EMPTY; // a copy of the bytes that come next
  #ascii: string | null = null; // its text, if all of it is ASCII: lines are sliced from it, instead of decoding each
  #windowAt = 0; // where in the stream it begins; the copy stays right, even if other code reads the stream meanwhile

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

  /** Gathers a line, or everything, at most `size` characters; `null` if the end comes first. */
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

  /** Behind the first line end in `text`; -1 if there is none, or if it may go on. */
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

  /** The stream has ended: what of it was not a whole character. */
  #last(): boolean {
    const text = this.#decoder.decode(EMPTY, true);
    if (text === "") this.#decoder.check();
    this.#append(text, -1, -1);
    return text !== "";
  }

  /** Where in the window the next byte is; -1 if it is not, or not the whole of its unit. */
  #known(reader: StreamReader): number {
    const at = reader.bytesRead - reader.buffered - this.#windowAt;
    const left = this.#window.length - at;
    const { unit } = this.#decoder.codec;
    // A window that is smaller than a unit is the end of the stream.
    return at >= 0 && left > 0 && (left >= unit || this.#window.length < unit) ? at : -1;
  }

  /** Copies what comes next, and waits for it if nothing is here; false at the end. */
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

/** Where in `text` its first `count` characters end; -1 if it has fewer. */
const forward = (text: string, count: number): number => {
  if (text.length < count) return -1;
  let at = 0;
  for (let n = 0; n < count; n++) {
    if (at >= text.length) return -1;
    at += isPair(text, at) ? 2 : 1;
  }
  return at;
};
