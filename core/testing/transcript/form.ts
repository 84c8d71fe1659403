/**
 * Transcripts: what two ends said to each other, kept as text, held again, compared.
 *
 * The form is JSON Lines (one JSON value a line, UTF-8, each ended by a newline). The first line is the header:
 *
 *     {"socklet":"transcript","version":1,"kind":"stream","note":"redis-cli PING"}
 *
 * - `kind`: `stream`, or `datagrams`. `note`: optional, what this is and how to record it again. `dropped`: only where
 *   the recording is not whole, how many bytes came that were over its limit and are not here.
 *
 * Every other line is one event. `at` is milliseconds since the recording began, and never goes back; `from` is who
 * did it, `client` (who dialled, or sent the first datagram) or `server`:
 *
 *     {"at":0.4,"from":"server","text":"220 mail.test\r\n"}      bytes that are clean text: UTF-8 without control
 *                                                             characters but tab, carriage return and newline
 *     {"at":1.2,"from":"client","base64":"AAEC"}               all other bytes (RFC 4648, section 4)
 *     {"at":9,"from":"client","end":"half-close"}              it says no more (a FIN), and may still listen
 *     {"at":9,"from":"server","end":"close"}                   it let go of both directions; known of the end that was recorded
 *     {"at":9,"from":"server","end":"reset"}                   it broke the connection
 *     {"at":5,"tls":true}                                      from here on both speak through TLS; what follows is what they said in it
 *
 * Of a stream the events are pieces as they came, which mean nothing: a network cuts where it likes, so what compares
 * and replays joins them. Of datagrams each is one, whole, and may be empty; `"peer":2` is the second client's, in the
 * order in which they came, and the first has no number. After its end a side says nothing.
 */

import { toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { cleanText, quote } from "../text.ts";

const VERSION = 1;
const DIGITS = 1000; // of a millisecond: what clocks resolve

/** The two ends of a conversation: who dialled, and who accepted. */
export const SIDES = ["client", "server"] as const;
/** One of the two ends. */
export type Side = (typeof SIDES)[number];

/** How an end left: it says no more, it let go, it broke the connection. */
export const ENDS = ["half-close", "close", "reset"] as const;
/** How an end left. */
export type TranscriptEnd = (typeof ENDS)[number];

/** One thing that happened, `at` so many milliseconds after the recording began. */
export type TranscriptEvent =
  | { readonly at: number; readonly from: Side; readonly data: Uint8Array; readonly peer?: number }
  | { readonly at: number; readonly from: Side; readonly end: TranscriptEnd }
  | { readonly at: number; readonly tls: true };

/** What two ends said to each other. */
export interface Transcript {
  /** What is between the two: a stream of bytes, or datagrams. */
  readonly kind: "stream" | "datagrams";
  /** What this is, and how to record it again. */
  readonly note?: string;
  /** Bytes that were said and are not here, since they were over the recording's limit; absent where it is whole. */
  readonly dropped?: number;
  /** What happened, in the order of time. */
  readonly events: readonly TranscriptEvent[];
}

const base64 = (bytes: Uint8Array): string => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192)
    binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(binary);
};

/** `transcript` as JSON Lines. */
export const formatTranscript = ({ kind, note, dropped, events }: Transcript): string => {
  const about = { ...(note !== undefined && { note }), ...(dropped !== undefined && { dropped }) };
  const lines: unknown[] = [{ socklet: "transcript", version: VERSION, kind, ...about }];
  for (const event of events) {
    const at = Math.round(event.at * DIGITS) / DIGITS;
    if (!("data" in event)) {
      lines.push({ ...event, at });
      continue;
    }
    const { from, data, peer } = event;
    const text = cleanText(data);
    const said = text === null ? { base64: base64(data) } : { text };
    lines.push({ at, from, ...(peer !== undefined && { peer }), ...said });
  }
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
};

type Fields = Readonly<Record<string, unknown>>;

/** The transcript that `text` is. Throws a `SyntaxError` that names the line and what is wrong with it. */
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
  only(header, ["socklet", "version", "kind", "note", "dropped"]);
  const kind = word(header, "kind", ["stream", "datagrams"]);
  const { note, dropped } = header;
  if (note !== undefined && typeof note !== "string") throw wrong('"note" must be text');
  if (dropped !== undefined && !(Number.isInteger(dropped) && (dropped as number) > 0)) {
    throw wrong('"dropped" is a whole number of bytes, and absent where none were');
  }

  const events: TranscriptEvent[] = [];
  const gone: Partial<Record<Side, TranscriptEnd>> = {};
  let before = 0;
  for (const line of lines.slice(1)) {
    const fields = fieldsOf(line);
    const { at } = fields;
    if (typeof at !== "number" || !(at >= 0))
      throw wrong(`"at" is milliseconds, 0 or more, not ${JSON.stringify(at)}`);
    if (at < before) throw wrong(`"at" goes back, from ${before} to ${at}`);
    before = at;
    if ("tls" in fields) {
      only(fields, ["at", "tls"]);
      if (fields.tls !== true || kind !== "stream") throw wrong('"tls" is true, and of a stream');
      events.push({ at, tls: true });
      continue;
    }
    const from = word(fields, "from", SIDES);
    if (gone[from] !== undefined && !(gone[from] === "half-close" && "end" in fields)) {
      throw wrong(`the ${from} has left before, by a ${gone[from]}`);
    }
    const whats = ["text", "base64", "end"].filter((name) => name in fields);
    if (whats.length !== 1) throw wrong('there must be one of "text", "base64", "end" and "tls"');
    if ("end" in fields) {
      only(fields, ["at", "from", "end"]);
      if (kind !== "stream") throw wrong("datagrams have no end");
      const end = word(fields, "end", ENDS);
      if (gone[from] === end) throw wrong(`the ${from} has left before, by a ${end}`);
      gone[from] = end;
      events.push({ at, from, end });
      continue;
    }
    only(fields, ["at", "from", whats[0] as string, ...(kind === "datagrams" ? ["peer"] : [])]);
    const { text: said, base64: coded, peer } = fields;
    if (peer !== undefined && !(Number.isInteger(peer) && (peer as number) >= 2)) {
      throw wrong('"peer" is a whole number of 2 or more; the first client has none');
    }
    let data: Uint8Array;
    if (said !== undefined) {
      if (typeof said !== "string") throw wrong('"text" must be text');
      data = toBytes(said);
    } else {
      const decoded = typeof coded === "string" ? decode(coded) : null;
      if (decoded === null) throw wrong('"base64" must be base64, with its padding (RFC 4648, section 4)');
      data = decoded;
    }
    events.push({ at, from, data, ...(peer !== undefined && { peer: peer as number }) });
  }
  return {
    kind,
    ...(note !== undefined && { note }),
    ...(dropped !== undefined && { dropped: dropped as number }),
    events,
  };
};

const decode = (text: string): Uint8Array | null => {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return base64(bytes) === text ? bytes : null; // bits over, at the end
};

/** A transcript of which all is here. */
export const whole = (transcript: Transcript): Transcript => {
  if (transcript.dropped === undefined) return transcript;
  throw new SocketError(
    "ERR_LIMIT",
    `the transcript is not whole: ${transcript.dropped} bytes were over the recording's limit; record it again with a higher one`,
  );
};
