/**
 * Replies on the wire. RESP2 has texts, errors, integers, byte strings, arrays and null. RESP3, which a client asks for
 * with `HELLO 3`, has more types. A client that did not ask is sent what stands for them in RESP2.
 */

import type { StreamWriter } from "socklet";
import { fromLatin1 } from "./bytes.ts";

const encoder = new TextEncoder();

/** Writes replies in the protocol that the client asked for. */
export class ReplyWriter {
  protocol: 2 | 3 = 2;
  readonly #out: StreamWriter;

  constructor(out: StreamWriter) {
    this.#out = out;
  }

  /** A short text without line ends, `+OK`. */
  simple(text: string): void {
    this.#out.write(`+${text}\r\n`);
  }

  /**
   * An error: a word in capitals, and what is wrong. One character is one byte (`latin1`), because it may repeat what the
   * peer sent. A line end in that must not end the reply and begin another.
   */
  error(text: string): void {
    this.#out.write(fromLatin1(`-${text.replace(/[\r\n]/g, " ")}\r\n`));
  }

  integer(value: number | bigint): void {
    this.#out.write(`:${value}\r\n`);
  }

  /** Any bytes, after their count. */
  bulk(data: Uint8Array | string): void {
    const bytes = typeof data === "string" ? encoder.encode(data) : data;
    this.#out.write(`$${bytes.length}\r\n`);
    this.#out.write(bytes);
    this.#out.write("\r\n");
  }

  null(): void {
    this.#out.write(this.protocol === 3 ? "_\r\n" : "$-1\r\n");
  }

  /** An array: so many replies follow, which are its items. */
  array(length: number): void {
    this.#out.write(`*${length}\r\n`);
  }

  /** An array whose order has no meaning. */
  set(length: number): void {
    this.#out.write(`${this.protocol === 3 ? "~" : "*"}${length}\r\n`);
  }

  /** A map: so many pairs follow, each a key and its value, so twice as many replies. */
  map(pairs: number): void {
    this.#out.write(this.protocol === 3 ? `%${pairs}\r\n` : `*${2 * pairs}\r\n`);
  }

  boolean(value: boolean): void {
    if (this.protocol === 3) this.#out.write(value ? "#t\r\n" : "#f\r\n");
    else this.integer(value ? 1 : 0);
  }

  double(value: number): void {
    const text = `${value}`.replace("Infinity", "inf").replace("NaN", "nan");
    if (this.protocol === 3) this.#out.write(`,${text}\r\n`);
    else this.bulk(text);
  }

  /** An integer of any size. */
  bigNumber(value: bigint): void {
    if (this.protocol === 3) this.#out.write(`(${value}\r\n`);
    else this.bulk(`${value}`);
  }

  /** Text to show to a person as it is. */
  verbatim(text: string): void {
    if (this.protocol === 3) this.#out.write(`=${encoder.encode(text).length + 4}\r\ntxt:${text}\r\n`);
    else this.bulk(text);
  }

  /** Only in RESP3: so many pairs follow, which say something about the reply after them. */
  attribute(pairs: number): void {
    this.#out.write(`|${pairs}\r\n`);
  }

  /** Only in RESP3: so many items follow, which the client did not ask for. They come between replies. */
  push(length: number): void {
    this.#out.write(`>${length}\r\n`);
  }
}
