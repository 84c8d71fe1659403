/**
 * A stream as a file, for `makefile()` (CPython's `socket.makefile`). `rb` is the socket's own reader and `wb` its
 * own writer; the other modes are here.
 */

import type { StreamReader } from "../bytes/reader.ts";
import type { StreamWriter } from "../bytes/writer.ts";
import { checkCount, checkOptions, optionNamesOf } from "../options.ts";
import type { FileOptions } from "./base-file.ts";
import { type BinaryFile, type BinaryWriter, BufferedWriter, RawFile } from "./binary-file.ts";
import { type TextFile, TextIOWrapper, type TextReader, type TextWriter } from "./text-file.ts";

/** What a mode opens. */
export interface FileModes {
  r: TextReader;
  w: TextWriter;
  rw: TextFile;
  rb: StreamReader;
  wb: BinaryWriter;
  rwb: BinaryFile;
}

/** How a file is used: `r` to read, `w` to write, `b` for bytes instead of text. */
export type FileMode = keyof FileModes;

const FILE_NAMES = optionNamesOf<FileOptions>("makefile()")({
  bufsize: true,
  encoding: "string",
  errors: true,
  newline: true,
});

const BUFSIZE = 8 * 1024; // bytes that line buffering keeps; io.DEFAULT_BUFFER_SIZE of CPython

/**
 * A stream as a file. `mode` is made of `r`, `w` and `b`; without `w` it reads, as in CPython, and so does `""`.
 *
 * Throws `RangeError` for another mode, an unknown encoding (or one that cannot be written, such as `windows-1252`),
 * an invalid `newline` or `errors`, `bufsize` 0 for text, and text options with a binary mode.
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
      `unknown mode ${JSON.stringify(mode)}; a mode is made of r, w and b, such as "r", "rw" or "rb"`,
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
    if (options[name] != null) throw new RangeError(`mode "${mode}" is for bytes, and does not take ${name}`);
  }
  if (!writes) return reader; // it uses the socket's buffer, and has none of its own whose size could be set
  if (!reads && bufsize < 0) return writer;
  return new RawFile(reads ? reader : null, bufsize < 0 ? writer : new BufferedWriter(writer, bufsize));
}
