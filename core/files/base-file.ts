/** What all files of a socket have: their options, and whether they are open, for reading or writing. */

import { DONE } from "../bytes/data.ts";
import type { StreamReader } from "../bytes/reader.ts";
import type { StreamWriter } from "../bytes/writer.ts";
import { SocketError } from "../errors.ts";

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
   * What is done about bytes that are not text, and text that the encoding has no bytes for: `strict` (the default)
   * fails with `EILSEQ`; `replace` puts U+FFFD, or writes `?`; `ignore` leaves it out.
   */
  readonly errors?: "strict" | "replace" | "ignore" | undefined;
  /**
   * What ends a line. By default each of `\n`, `\r` and `\r\n` does, and reads as `\n`; `""`: the same, but it reads
   * as it is; `\n`, `\r` or `\r\n`: that alone. With `\r` and `\r\n` each `\n` that is written becomes that.
   */
  readonly newline?: "" | "\n" | "\r" | "\r\n" | null | undefined;
}

/** What all files of this module have. */
export interface OpenFile extends AsyncDisposable {
  /** True after `close()`: every other call fails with `EBADF` then. */
  readonly closed: boolean;
  /** Sends what was written; resolves when there is room for more. Errors as `StreamWriter.flush()`. */
  flush(): Promise<void>;
  /** Sends what was written, and lets go of the file. The socket stays open, and so do other files of it. */
  close(): Promise<void>;
}

/** What a file writes to. */
export type Output = Pick<StreamWriter, "write" | "start" | "flush">;

/** What a file is, whatever it reads and writes: open or closed, for reading or writing. */
export abstract class BaseFile implements OpenFile {
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
