/**
 * Transcripts: what two ends sent each other, stored as text, replayed, compared.
 *
 * The form is JSON Lines (one JSON value per line, UTF-8, each ended by a newline). The first line is the header:
 *
 *     {"socklet":"transcript","version":1,"kind":"stream","note":"redis-cli PING"}
 *
 * - `kind`: `stream`, or `datagrams`. `note`: optional, what this is and how to record it again. `dropped`: only if
 *   the recording is incomplete, the number of bytes that exceeded its limit and are missing. `address`: optional, the
 *   server's (`tcp://127.0.0.1:6379`). `began`: optional, the date and time of `at` 0 (ISO 8601, UTC).
 *
 * Every other line is one event. `at` is milliseconds since the recording began, and never decreases; `from` is the side
 * that did it, `client` (the side that dialled, or sent the first datagram) or `server`:
 *
 *     {"at":0.4,"from":"server","text":"220 mail.test\r\n"}      bytes that are clean text: UTF-8 without control
 *                                                             characters but tab, carriage return and newline
 *     {"at":1.2,"from":"client","base64":"AAEC"}               all other bytes (RFC 4648, section 4)
 *     {"at":9,"from":"client","end":"half-close"}              it sends no more (a FIN), and may still receive
 *     {"at":9,"from":"server","end":"close"}                   it closed both directions; known only for the recorded end
 *     {"at":9,"from":"server","end":"reset"}                   it broke the connection
 *     {"at":5,"tls":true}                                      from here on both sides speak TLS; what follows is decrypted
 *     {"at":6,"dropped":4096}                                  this many bytes are missing; they are part of the header's number
 *     {"at":7,"from":"client","fault":"reset","rule":"cut"}    a fault rule did this to what the client sent; not part of the conversation
 *
 * The events of a stream are pieces as they came, whose boundaries mean nothing: a network cuts anywhere, so comparing
 * and replaying joins them. For datagrams each event is one, complete, and may be empty. A recording may have several clients, or
 * connections: `"peer":2` is the second one's, in the order in which they came, and the first has no number. After its
 * end a side sends nothing.
 */

import { fromBase64, toBase64 } from "../../base64.ts";
import { toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { cleanText, quote } from "../text.ts";

const VERSION = 1;
const DIGITS = 1000; // of a millisecond: what clocks resolve

/** The two ends of a conversation: the side that dialled, and the side that accepted. */
export const SIDES = ["client", "server"] as const;
/** One of the two ends. */
export type Side = (typeof SIDES)[number];

/** How an end left: it sends no more, it closed, it broke the connection. */
const ENDS = ["half-close", "close", "reset"] as const;
/** How an end left. */
export type TranscriptEnd = (typeof ENDS)[number];

/** One event, `at` milliseconds after the recording began. */
export type TranscriptEvent =
  | { readonly at: number; readonly from: Side; readonly data: Uint8Array; readonly peer?: number }
  | { readonly at: number; readonly from: Side; readonly end: TranscriptEnd; readonly peer?: number }
  | { readonly at: number; readonly tls: true; readonly peer?: number }
  | {
      readonly at: number;
      readonly from: Side;
      readonly fault: string;
      readonly rule: string;
      readonly peer?: number;
    };

/** What two ends sent each other. */
export interface Transcript {
  /** The kind of connection: a stream of bytes, or datagrams. */
  readonly kind: "stream" | "datagrams";
  /** A description, and how to record it again. */
  readonly note?: string;
  /** Bytes that are missing, because they exceeded the recording's limit; absent if it is complete. */
  readonly dropped?: number;
  /** The server's address: `tcp://127.0.0.1:6379`. */
  readonly address?: string;
  /** When the recording began: a date and time as `Date.toISOString()` has it. */
  readonly began?: string;
  /** The events, in order of time. */
  readonly events: readonly TranscriptEvent[];
}

/** The number of an event's connection, or client, from 1. */
export const peerOf = ({ peer = 1 }: TranscriptEvent): number => peer;

/** The transcript of each connection in one recording of streams, in order. */
export const apart = (transcript: Transcript): Transcript[] => {
  const each = new Map<number, TranscriptEvent[]>();
  for (const event of transcript.events) {
    const number = peerOf(event);
    const { peer: _, ...own } = event;
    const before = each.get(number);
    if (before === undefined) each.set(number, [own]);
    else before.push(own);
  }
  const numbers = [...each.keys()].sort((one, other) => one - other);
  return numbers.length === 0
    ? [transcript]
    : numbers.map((number) => ({ ...transcript, events: each.get(number) ?? [] }));
};

/** The first line of a transcript, with its newline. */
export const formatHeader = ({ kind, note, dropped, address, began }: Omit<Transcript, "events">): string =>
  `${JSON.stringify({ socklet: "transcript", version: VERSION, kind, note, dropped, address, began })}\n`;

/** The line that reports this many missing bytes, with its newline. */
export const formatDropped = (at: number, bytes: number, peer?: number): string =>
  `${JSON.stringify({ at: rounded(at), dropped: bytes, peer })}\n`;

const rounded = (at: number): number => Math.round(at * DIGITS) / DIGITS;

/** A platform's own way to encode bytes, if it is faster than the common one. */
export interface Coding {
  base64(bytes: Uint8Array): string;
  /** Clean text as a JSON string; `null` for other bytes. */
  literal(bytes: Uint8Array): string | null;
}

/** The line of one event, with its newline. */
export const formatEvent = (event: TranscriptEvent, coding?: Coding): string => {
  if (coding === undefined || !("data" in event)) return `${JSON.stringify(eventFields(event))}\n`;
  const { from, data, peer } = event;
  const literal = coding.literal(data);
  const said = literal === null ? `"base64":"${coding.base64(data)}"` : `"text":${literal}`;
  const of = peer === undefined ? "" : `"peer":${peer},`;
  return `{"at":${rounded(event.at)},"from":"${from}",${of}${said}}\n`;
};

/** The fields of one event's line, before it is text. */
export const eventFields = (event: TranscriptEvent): Record<string, string | number | true> => {
  const at = rounded(event.at);
  if (!("data" in event)) return { ...event, at };
  const { from, data, peer } = event;
  const text = cleanText(data);
  const said: Record<string, string> = text === null ? { base64: toBase64(data) } : { text };
  return { at, from, ...(peer !== undefined && { peer }), ...said };
};

/** `transcript` as JSON Lines. */
export const formatTranscript = ({ events, ...header }: Transcript): string =>
  [formatHeader(header), ...events.map((event) => formatEvent(event))].join("");

type Fields = Readonly<Record<string, unknown>>;

/** Parses a transcript. Throws a `SyntaxError` that names the line and what is wrong with it. */
export const parseTranscript = (text: string): Transcript => {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  let number = 0;
  const wrong = (message: string): SyntaxError => new SyntaxError(`transcript, line ${number}: ${message}`);
  const fieldsOf = (line: string): Fields => {
    number++;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw wrong(line.trim() === "" ? "it is empty" : `it is not JSON: ${quote(line, 60)}`);
    }
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields;
    throw wrong(`it must be an object, not ${quote(line, 60)}`);
  };
  const only = (fields: Fields, names: readonly string[]): void => {
    const other = Object.keys(fields).find((name) => !names.includes(name));
    if (other !== undefined)
      throw wrong(`there is no field "${other}" here; there may be ${names.join(", ")}`);
  };
  const word = <T extends string>(fields: Fields, name: string, words: readonly T[]): T => {
    const value = fields[name];
    if ((words as readonly unknown[]).includes(value)) return value as T;
    throw wrong(`"${name}" is ${words.map((one) => `"${one}"`).join(" or ")}, not ${JSON.stringify(value)}`);
  };

  if (lines.length === 0) lines.push("");
  const header = fieldsOf(lines[0] as string);
  if (header.socklet !== "transcript")
    throw wrong('it must begin with {"socklet":"transcript","version":1,…}');
  if (header.version !== VERSION) {
    throw wrong(`version ${JSON.stringify(header.version)} is not known; this reads version ${VERSION}`);
  }
  only(header, ["socklet", "version", "kind", "note", "dropped", "address", "began"]);
  const kind = word(header, "kind", ["stream", "datagrams"]);
  const { note, dropped, address, began } = header;
  if (address !== undefined && typeof address !== "string") throw wrong('"address" must be text');
  if (began !== undefined && !(typeof began === "string" && !Number.isNaN(Date.parse(began))))
    throw wrong('"began" must be a date and time, such as "2026-11-29T12:00:00.000Z"');
  if (note !== undefined && typeof note !== "string") throw wrong('"note" must be text');
  const droppedOf = ({ dropped }: Fields): number => {
    if (Number.isInteger(dropped) && (dropped as number) > 0) return dropped as number;
    throw wrong('"dropped" is a whole number of bytes, and absent where none were');
  };

  const events: TranscriptEvent[] = [];
  const goneOf = new Map<number, Partial<Record<Side, TranscriptEnd>>>(); // by the number of its connection
  let before = 0;
  let missing = dropped === undefined ? 0 : droppedOf(header);
  for (const line of lines.slice(1)) {
    const fields = fieldsOf(line);
    const { at } = fields;
    if (typeof at !== "number" || !(at >= 0))
      throw wrong(`"at" is milliseconds, 0 or more, not ${JSON.stringify(at)}`);
    if (at < before) throw wrong(`"at" goes back, from ${before} to ${at}`);
    before = at;
    const { peer } = fields;
    if (peer !== undefined && !(Number.isInteger(peer) && (peer as number) >= 2)) {
      throw wrong('"peer" is a whole number of 2 or more; the first client has none');
    }
    const of = peer === undefined ? {} : { peer: peer as number };
    const gone = goneOf.get((peer as number | undefined) ?? 1) ?? {};
    goneOf.set((peer as number | undefined) ?? 1, gone);
    if ("dropped" in fields) {
      only(fields, ["at", "dropped", "peer"]);
      missing += droppedOf(fields);
      continue;
    }
    if ("tls" in fields) {
      only(fields, ["at", "tls", "peer"]);
      if (fields.tls !== true || kind !== "stream") throw wrong('"tls" is true, and of a stream');
      events.push({ at, tls: true, ...of });
      continue;
    }
    if ("fault" in fields) {
      only(fields, ["at", "from", "fault", "rule", "peer"]);
      const { fault, rule } = fields;
      if (typeof fault !== "string" || typeof rule !== "string")
        throw wrong('"fault" and "rule" are text: what was done, and the name of the rule that did it');
      events.push({ at, from: word(fields, "from", SIDES), fault, rule, ...of });
      continue;
    }
    const from = word(fields, "from", SIDES);
    if (gone[from] !== undefined && !(gone[from] === "half-close" && "end" in fields)) {
      throw wrong(`the ${from} had already left, by a ${gone[from]}`);
    }
    const whats = ["text", "base64", "end"].filter((name) => name in fields);
    if (whats.length !== 1) throw wrong('there must be one of "text", "base64", "end", "tls" and "dropped"');
    if ("end" in fields) {
      only(fields, ["at", "from", "end", "peer"]);
      if (kind !== "stream") throw wrong("datagrams have no end");
      const end = word(fields, "end", ENDS);
      if (gone[from] === end) throw wrong(`the ${from} had already left, by a ${end}`);
      gone[from] = end;
      events.push({ at, from, end, ...of });
      continue;
    }
    only(fields, ["at", "from", whats[0] as string, "peer"]);
    const { text: said, base64: coded } = fields;
    let data: Uint8Array;
    if (said !== undefined) {
      if (typeof said !== "string") throw wrong('"text" must be text');
      data = toBytes(said);
    } else {
      const decoded = typeof coded === "string" ? decode(coded) : null;
      if (decoded === null) throw wrong('"base64" must be base64, with its padding (RFC 4648, section 4)');
      data = decoded;
    }
    events.push({ at, from, data, ...of });
  }
  return {
    kind,
    ...(note !== undefined && { note }),
    ...(missing > 0 && { dropped: missing }),
    ...(address !== undefined && { address: address as string }),
    ...(began !== undefined && { began: began as string }),
    events,
  };
};

const decode = (text: string): Uint8Array | null => {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const bytes = fromBase64(text);
  return toBase64(bytes) === text ? bytes : null; // bits over, at the end
};

/** A transcript that is complete. */
export const whole = (transcript: Transcript): Transcript => {
  if (transcript.dropped === undefined) return transcript;
  throw new SocketError(
    "ERR_LIMIT",
    `the transcript is not whole: ${transcript.dropped} bytes were over the recording's limit, or more than could be written; record it again, with a higher limit if it had one`,
  );
};
