/** DNS: a library parses each message, and this prints it as `dig` does. */

import type { DecodedMessage, Decoder } from "./decoder.ts";

/** One record of a message; a question has only name, class and type. */
export interface DnsRecord {
  readonly name: string;
  readonly type: string;
  readonly class?: string | undefined;
  /** In seconds. */
  readonly ttl?: number | undefined;
  /** The data as parsed: an address, a name, bytes, or an object of these. */
  readonly data?: unknown;
}

/** The shown part of a message as `dns-packet` parses it. */
export interface DnsMessage {
  readonly id?: number | undefined;
  readonly type?: string | undefined;
  readonly opcode?: string | undefined;
  readonly rcode?: string | undefined;
  readonly flag_aa?: boolean | undefined;
  readonly flag_tc?: boolean | undefined;
  readonly flag_rd?: boolean | undefined;
  readonly flag_ra?: boolean | undefined;
  readonly flag_ad?: boolean | undefined;
  readonly flag_cd?: boolean | undefined;
  readonly questions?: readonly DnsRecord[] | undefined;
  readonly answers?: readonly DnsRecord[] | undefined;
  readonly authorities?: readonly DnsRecord[] | undefined;
  readonly additionals?: readonly DnsRecord[] | undefined;
}

/** Parses the bytes of one message. With the package `dns-packet`: `(bytes) => decode(Buffer.from(bytes))`. Throws if they are not a message. */
export type DnsParser = (message: Uint8Array) => DnsMessage;

const FLAGS = ["aa", "tc", "rd", "ra", "ad", "cd"] as const;
const LENGTH = 2; // bytes in front of a message over TCP (RFC 1035, 4.2.2)

/** Decodes DNS datagrams (RFC 1035): the header in one line, then a line for each record. For an entry with a `udp:` address. */
export const decodeDns =
  (parse: DnsParser): Decoder =>
  (bytes) => [{ start: 0, end: bytes.length, text: textOf(parse(bytes)) }];

/** Decodes DNS over TCP or TLS, where each message follows its length. */
export const decodeDnsOverTcp = (parse: DnsParser): Decoder =>
  function* (bytes): Generator<DecodedMessage, void, undefined> {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let start = 0; start + LENGTH <= bytes.length; ) {
      const end = start + LENGTH + view.getUint16(start);
      if (end > bytes.length) return;
      yield { start, end, text: textOf(parse(bytes.subarray(start + LENGTH, end))) };
      start = end;
    }
  };

const textOf = (message: DnsMessage): string => {
  const { id = 0, type = "query", opcode = "QUERY", rcode = "NOERROR", questions = [] } = message;
  const status = type === "response" ? ` ${rcode}` : "";
  const flags = FLAGS.filter((flag) => message[`flag_${flag}`]).map((flag) => ` ${flag}`);
  const kind = opcode === "QUERY" ? type : `${opcode.toLowerCase()} ${type}`;
  const sections = [
    ["", message.answers],
    ["authority: ", message.authorities],
    ["additional: ", message.additionals],
  ] as const;
  return [
    `${kind} ${id}${status}${flags.join("")}`,
    ...questions.map(({ name, class: of = "IN", type }) => `? ${name} ${of} ${type}`),
    ...sections.flatMap(([head, records = []]) => records.map((record) => head + lineOf(record))),
  ].join("\n");
};

const lineOf = (record: DnsRecord): string => {
  const { name, type, ttl, class: of = "IN", data } = record;
  if (type !== "OPT") return `${name} ${ttl ?? 0} ${of} ${type} ${dataOf(data)}`;
  const { udpPayloadSize } = record as { udpPayloadSize?: unknown }; // EDNS (RFC 6891): not a real record
  return udpPayloadSize === undefined ? "OPT" : `OPT udp ${udpPayloadSize}`;
};

const decoder = new TextDecoder();

/** The data of a record: strings as they are, bytes as quoted text, an object's fields one after the other. */
const dataOf = (data: unknown): string => {
  if (data instanceof Uint8Array) return JSON.stringify(decoder.decode(data));
  if (Array.isArray(data)) return data.map(dataOf).join(" ");
  if (typeof data === "object" && data !== null) return Object.values(data).map(dataOf).join(" ");
  return String(data ?? "");
};
