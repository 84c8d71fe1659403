/** Files of bytes that are not simply the socket's reader or writer: `rwb`, and files with their own buffer. */

import { type Bytes, type Data, joinBytes, toBytes } from "../bytes/data.ts";
import { pulled } from "../bytes/reader.ts";
import type { StreamWriter } from "../bytes/writer.ts";
import { BaseFile, type OpenFile, type Output } from "./base-file.ts";

/** Writes bytes: the socket's `StreamWriter`, or with an explicit `bufsize` a file that gathers that many first. */
export interface BinaryWriter extends AsyncDisposable {
  /** Writes `data`, a string as UTF-8, and returns its number of bytes. Throws as `StreamWriter.write()`. */
  write(data: Data): number;
  /** `write()` of each; adds no line ends. */
  writelines(lines: Iterable<Data>): void;
  /** Sends what was written; resolves when there is room for more. Errors as `StreamWriter.flush()`. */
  flush(): Promise<void>;
  /** Flushes; the socket stays open. */
  close(): Promise<void>;
}

/** Reads and writes bytes: the socket's reader and writer as one. CPython's `BufferedRWPair`. */
export interface BinaryFile extends OpenFile, BinaryWriter, AsyncIterable<Bytes> {
  /** As `StreamReader.read()`. */
  read(size?: number): Promise<Bytes | null>;
  /** As `StreamReader.readline()`. */
  readline(size?: number): Promise<Bytes | null>;
  /** As `StreamReader.readlines()`. */
  readlines(hint?: number): Promise<Bytes[]>;
  /** The lines to the end, as `readline()` returns them. Leaving the loop closes nothing. */
  [Symbol.asyncIterator](): AsyncIterableIterator<Bytes>;
}

const EMPTY = new Uint8Array(0);

/** Keeps what is written until `size` bytes have gathered. CPython's `BufferedWriter`. */
export class BufferedWriter implements Output {
  readonly #writer: StreamWriter;
  readonly #size: number;
  #kept: Bytes = EMPTY;
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

/** The binary modes that are not simply the socket's reader or writer. */
export class RawFile extends BaseFile implements BinaryFile {
  async read(size?: number): Promise<Bytes | null> {
    return this.reader.read(size);
  }

  async readline(size?: number): Promise<Bytes | null> {
    return this.reader.readline(size);
  }

  async readlines(hint?: number): Promise<Bytes[]> {
    return this.reader.readlines(hint);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Bytes> {
    return pulled(() => this.readline());
  }

  write(data: Data): number {
    return this.output.write(data);
  }

  writelines(lines: Iterable<Data>): void {
    for (const line of lines) this.write(line);
  }
}
