/** Writes what passes as lines: the transcript, and the text shown at the terminal. */

import { quote } from "../../../core/testing/text.ts";
import {
  type Coding,
  formatDropped,
  formatEvent,
  formatHeader,
  type Side,
  type Transcript,
  type TranscriptEnd,
  type TranscriptEvent,
} from "../../../core/testing/transcript/form.ts";
import { literalOf } from "./literal.ts";
import type { Outlet } from "./outlet.ts";

const SHOWN = 256; // bytes of a piece shown at the terminal

/** The outputs of a tape. */
interface TapeOptions {
  /** The transcript, as JSON Lines. */
  readonly record?: Outlet | undefined;
  /** The same lines again, for a program that reads them live. */
  readonly json?: Outlet | undefined;
  /** Lines for people. */
  readonly show?: Outlet | undefined;
}

type Header = Omit<Transcript, "events" | "began" | "dropped">;

/** Encodings that Node has a faster way for than `core/`. */
const coding: Coding = {
  base64: ({ buffer, byteOffset, byteLength }) =>
    Buffer.from(buffer, byteOffset, byteLength).toString("base64"),
  literal: literalOf,
};

const WHO = { client: "C:", server: "S:" } as const;

/** Records the connections of one proxy. */
export class Tape {
  readonly #outlets: readonly Outlet[];
  readonly #lines: readonly Outlet[];
  readonly #show: Outlet | undefined;
  readonly #began = performance.now();

  constructor(header: Header, { record, json, show }: TapeOptions) {
    this.#lines = [record, json].filter((outlet) => outlet !== undefined);
    this.#show = show;
    this.#outlets = show === undefined ? this.#lines : [...this.#lines, show];
    const first = formatHeader({ ...header, began: new Date().toISOString() });
    for (const outlet of this.#lines) outlet.add(first);
  }

  /** Milliseconds since the tape began. */
  get now(): number {
    return performance.now() - this.#began;
  }

  /** A side sent `data`, which is lent. */
  said(peer: number, from: Side, data: Uint8Array): void {
    this.#add({ at: this.now, from, data, ...numbered(peer) });
  }

  ended(peer: number, from: Side, end: TranscriptEnd): void {
    this.#add({ at: this.now, from, end, ...numbered(peer) });
  }

  /** From here on both sides use TLS. */
  secured(peer: number): void {
    this.#add({ at: this.now, tls: true, ...numbered(peer) });
  }

  /** Notes that `bytes` bytes passed unrecorded. */
  missed(peer: number, bytes: number): void {
    const at = this.now;
    const line = formatDropped(at, bytes, numbered(peer).peer);
    for (const outlet of this.#lines) outlet.add(line);
    this.#show?.add(`${this.#stamp(at, peer)} -- ${bytes} bytes are not recorded\n`);
  }

  /** A fault rule changed what that side sent. */
  faulted(peer: number, from: Side, fault: string, rule: string): void {
    this.#add({ at: this.now, from, fault, rule, ...numbered(peer) });
  }

  /** Shows a remark that is not part of the conversation. */
  note(peer: number, text: string): void {
    this.#show?.add(`${this.#stamp(this.now, peer)} -- ${text}\n`);
  }

  /** If output waits for a disk or a reader, a promise that resolves when there is room. */
  get room(): Promise<void> | undefined {
    for (const outlet of this.#outlets) {
      const room = outlet.room;
      if (room !== undefined) return room;
    }
    return undefined;
  }

  /** Resolves when all is out. */
  async written(): Promise<void> {
    for (const outlet of this.#outlets) await outlet.written();
  }

  #add(event: TranscriptEvent): void {
    if (this.#lines.length > 0) {
      const line = formatEvent(event, coding);
      for (const outlet of this.#lines) outlet.add(line);
    }
    if (this.#show === undefined || !("from" in event)) return;
    const what =
      "data" in event
        ? quote(event.data, SHOWN)
        : "end" in event
          ? `(${event.end})`
          : `(${event.fault}, by rule ${quote(event.rule)})`;
    this.#show.add(`${this.#stamp(event.at, event.peer ?? 1)} ${WHO[event.from]} ${what}\n`);
  }

  #stamp(at: number, peer: number): string {
    return `${(at / 1000).toFixed(3).padStart(9)}  #${peer}`;
  }
}

const numbered = (peer: number): { readonly peer?: number } => (peer > 1 ? { peer } : {});
