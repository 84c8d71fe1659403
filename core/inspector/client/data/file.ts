/** Transcripts opened from a file: JSON Lines, as `socklet proxy --record` and this page write them. */

import { fromBase64, toBase64, utf8 } from "../display/bytes.ts";

/** One event of a conversation. */
export interface Said {
  readonly at: number;
  readonly from?: "client" | "server";
  readonly data?: Uint8Array;
  readonly end?: "half-close" | "close" | "reset";
  readonly tls?: true;
  /** Bytes that are missing here. */
  readonly dropped?: number;
  readonly fault?: string;
  readonly rule?: string;
}

/** One event as in the routes' answers and in files. */
export interface SaidLine extends Omit<Said, "data"> {
  readonly text?: string;
  readonly base64?: string;
  readonly peer?: number;
}

const encoder = new TextEncoder();

export const saidOf = ({ text, base64, peer: _, ...rest }: SaidLine): Said => {
  if (text !== undefined) return { ...rest, data: encoder.encode(text) };
  return base64 === undefined ? rest : { ...rest, data: fromBase64(base64) };
};

/** One event as a line of a transcript. */
export const lineOf = ({ data, ...rest }: Said): string => {
  if (data === undefined) return JSON.stringify(rest);
  const text = utf8(data);
  const clean = text !== null && !/[^\P{Cc}\t\r\n]/u.test(text);
  return JSON.stringify({ ...rest, ...(clean ? { text } : { base64: toBase64(data) }) });
};

/** One conversation of a file. */
export interface FileConversation {
  readonly id: string;
  readonly name: string;
  readonly kind: "stream" | "datagrams";
  readonly peer: number;
  readonly address: string;
  readonly began: string;
  readonly read: number;
  readonly written: number;
  /** Bytes missing from all of the file's conversations, besides those that its events count. */
  readonly dropped: number;
  readonly events: readonly Said[];
}

/** The conversations of a transcript. Throws an error that names the wrong line. */
export const conversationsOf = (name: string, text: string): FileConversation[] => {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  const read = (line: string, number: number) => {
    try {
      return JSON.parse(line);
    } catch {
      throw new Error(`${name}, line ${number}: it is not JSON`);
    }
  };
  const header = read(lines[0] ?? "", 1);
  if (header?.socklet !== "transcript") {
    throw new Error(`${name} is no transcript: its first line is not {"socklet":"transcript",…}`);
  }
  const peers = new Map<number, Said[]>();
  lines.slice(1).forEach((line, i) => {
    const event = read(line, i + 2) as SaidLine;
    const peer = Number(event?.peer ?? 1);
    if (typeof event?.at !== "number") throw new Error(`${name}, line ${i + 2}: it has no time, "at"`);
    const known = peers.get(peer) ?? [];
    peers.set(peer, known);
    known.push(saidOf(event));
  });
  const sum = (events: readonly Said[], from: string): number =>
    events.reduce((total, event) => total + (event.from === from ? (event.data?.length ?? 0) : 0), 0);
  return [...peers].map(([peer, events]) => ({
    id: `file:${name}#${peer}:${crypto.randomUUID()}`,
    name,
    kind: header.kind === "datagrams" ? "datagrams" : "stream",
    peer,
    address: String(header.address ?? ""),
    began: String(header.began ?? ""),
    read: sum(events, "client"),
    written: sum(events, "server"),
    dropped: Number(header.dropped ?? 0),
    events,
  }));
};
