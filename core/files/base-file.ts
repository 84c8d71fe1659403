/** The common part of a socket's files: their options, and whether they are open, for reading or writing. */

import { DONE } from "../bytes/data.ts";
import type { StreamReader } from "../bytes/reader.ts";
import type { StreamWriter } from "../bytes/writer.ts";
import { SocketError } from "../errors.ts";

/** The options of `makefile()` besides its mode. All but `bufsize` are only for text. */
export interface FileOptions {
  /**
   * How many bytes are gathered before they are sent. By default (-1) the socket's writer gathers as it always does,
   * and no flush is needed. With `n` > 0 the file keeps what is written until `n` bytes have gathered, or
   * until `flush()` or `close()`: close it before the socket. 0 keeps nothing, and is only for bytes; 1 in a text
   * mode is line buffering: a write with a line end in it is sent at once, others at 8 KiB.
   *
   * Whatever this says, a read takes no more bytes than it returns.
   */
  readonly bufsize?: number | undefined;
  /**
   * `utf-8` (the default), `ascii`, `latin-1`, `utf-16` (with a byte order mark), `utf-16-le`, `utf-16-be`, with any of
   * Python's names for them; for reading also every other label of `TextDecoder`, as in the Encoding Standard.
   */
  readonly encoding?: string | undefined;
  /**
   * How to handle bytes that are not text, and text that the encoding has no bytes for: `strict` (the default)
   * fails with `EILSEQ`; `replace` reads U+FFFD, or writes `?`; `ignore` leaves it out.
   */
  readonly errors?: "strict" | "replace" | "ignore" | undefined;
  /**
   * What ends a line. By default each of `\n`, `\r` and `\r\n` does, and is read as `\n`; `""`: the same, but it is read
   * unchanged; `\n`, `\r` or `\r\n`: only that. With `\r` and `\r\n` each `\n` that is written becomes that.
   */
  readonly newline?: "" | "\n" | "\r" | "\r\n" | null | undefined;
}

/** The methods of all files of this module. */
export interface OpenFile extends AsyncDisposable {
  /** True after `close()`: then every other call fails with `EBADF`. */
  readonly closed: boolean;
  /** Sends what was written; resolves when there is room for more. Errors as `StreamWriter.flush()`. */
  flush(): Promise<void>;
  /** Sends what was written, and closes the file. The socket and its other files stay open. */
  close(): Promise<void>;
}

/** The destination of a file's output. */
export type Output = Pick<StreamWriter, "write" | "start" | "flush">;

/** The state of any file: open or closed, for reading or writing. */
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
