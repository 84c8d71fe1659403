/**
 * DNS messages (RFC 1035, section 4): a query for one name, and its answer; only as much as looking up hosts needs.
 * Nothing in an answer is believed before it has been checked.
 */

import { inetNtop } from "../../core/net/address.ts";
import { AF_INET, AF_INET6 } from "../../core/net/constants.ts";

/** The types of record that are asked for. */
const TYPE = { A: 1, CNAME: 5, PTR: 12, AAAA: 28 } as const;
export type RecordType = keyof typeof TYPE;

/** One record of an answer. */
export interface DnsRecord {
  readonly name: string;
  readonly type: RecordType;
  /** An address, or a name. */
  readonly data: string;
}

export interface DnsAnswer {
  /** The response code: 0 means success, 3 that there is no such name (RFC 1035, 4.1.1). */
  readonly code: number;
  readonly records: readonly DnsRecord[];
}

/** Thrown for a malformed answer; the message says what is wrong with it. */
export class MalformedAnswer extends Error {}

const HEADER = 12; // bytes
const MAX_NAME = 255; // bytes of a name, with its lengths (RFC 1035, 2.3.4)
const IN = 1; // the class: the Internet's

const malformed = (what: string): never => {
  throw new MalformedAnswer(what);
};

/**
 * A query for the records of `type` that `name` has. `null` if no message can ask for the name: it has letters that no
 * host name has, or is too long. The id is 0, so that caches see equal questions as equal (RFC 8484, 4.1).
 */
export const query = (name: string, type: RecordType): Uint8Array<ArrayBuffer> | null => {
  const labels = name.replace(/\.$/, "").split(".");
  if (!labels.every((label) => /^[A-Za-z0-9_/-]{1,63}$/.test(label))) return null;
  const packed = labels.flatMap((label) => [label.length, ...Array.from(label, (one) => one.charCodeAt(0))]);
  if (packed.length + 1 > MAX_NAME) return null;
  // Flags: recursion desired. One question, and no other record.
  return Uint8Array.of(0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...packed, 0, 0, TYPE[type], 0, IN);
};

/** Parses `bytes` as the answer to `question`. Throws `MalformedAnswer`. */
export const parseAnswer = (bytes: Uint8Array, question: Uint8Array): DnsAnswer => {
  const answer = new Reader(bytes);
  const asked = new Reader(question);
  if (answer.word() !== asked.word()) malformed("it has another id");
  const flags = answer.word();
  if ((flags & 0x8000) === 0) malformed("it is a question");
  if ((flags & 0x7800) !== 0) malformed("it does not answer a standard query");
  if ((flags & 0x0200) !== 0) malformed("it is cut short");
  const code = flags & 15;
  const questions = answer.word();
  const count = answer.word();
  // A failure need not repeat the question.
  if (code !== 0 && code !== 3) return { code, records: [] };
  answer.at = asked.at = HEADER;
  const same =
    questions === 1 &&
    answer.name().toLowerCase() === asked.name().toLowerCase() &&
    answer.word() === asked.word() &&
    answer.word() === asked.word();
  if (!same) malformed("it answers another question");
  const records: DnsRecord[] = [];
  for (let i = 0; i < count; i++) {
    const record = answer.record();
    if (record !== null) records.push(record);
  }
  return { code, records };
};

class Reader {
  readonly #bytes: Uint8Array;
  at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  byte(): number {
    return this.#bytes[this.at++] ?? malformed("it ends too early");
  }

  word(): number {
    return this.byte() * 256 + this.byte();
  }

  take(size: number): Uint8Array {
    const taken = this.#bytes.subarray(this.at, this.at + size);
    if (taken.length < size) malformed("it ends too early");
    this.at += size;
    return taken;
  }

  /**
   * A name as text, without the last dot. A byte that no host name has is written `\DDD` (RFC 1035, 5.1), so that a dot
   * within a label does not look like a boundary.
   */
  name(): string {
    const labels: string[] = [];
    let left = MAX_NAME;
    let start = this.at;
    let after = -1; // where the message goes on, after the first pointer
    for (let length = this.byte(); length > 0; length = this.byte()) {
      if (length >= 0xc0) {
        const to = (length - 0xc0) * 256 + this.byte();
        // A pointer points to an earlier name (RFC 1035, 4.1.4): one to itself would never end.
        if (to >= start) malformed("a compressed name points to itself, or forward");
        if (after < 0) after = this.at;
        this.at = start = to;
        left--; // otherwise many pointers could each pass through all before them
      } else {
        if (length > 63) malformed("a label has more than 63 bytes");
        left -= length + 1;
        labels.push(labelText(this.take(length)));
      }
      if (left <= 0) malformed("a name has more than 255 bytes");
    }
    if (after >= 0) this.at = after;
    return labels.join(".");
  }

  /** The next record; `null` if it is of a type that was not asked for. */
  record(): DnsRecord | null {
    const name = this.name();
    const type = this.word();
    const inInternet = this.word() === IN;
    this.take(4); // how long it may be kept
    const size = this.word();
    const end = this.at + size;
    const data = inInternet ? this.#data(type, size) : null;
    if (data === null) {
      this.at = end - size;
      this.take(size);
      return null;
    }
    if (this.at !== end) malformed("the size of a record is not what its length says");
    return { name, ...data };
  }

  #data(type: number, size: number): Omit<DnsRecord, "name"> | null {
    switch (type) {
      case TYPE.A:
        if (size !== 4) malformed("an A record has 4 bytes");
        return { type: "A", data: inetNtop(AF_INET, this.take(4)) };
      case TYPE.AAAA:
        if (size !== 16) malformed("an AAAA record has 16 bytes");
        return { type: "AAAA", data: inetNtop(AF_INET6, this.take(16)) };
      case TYPE.CNAME:
        return { type: "CNAME", data: this.name() };
      case TYPE.PTR:
        return { type: "PTR", data: this.name() };
      default:
        return null;
    }
  }
}

const labelText = (label: Uint8Array): string =>
  Array.from(label, (byte) => {
    const letter = String.fromCharCode(byte);
    return /[A-Za-z0-9_/-]/.test(letter) ? letter : `\\${String(byte).padStart(3, "0")}`;
  }).join("");
