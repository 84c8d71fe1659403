/** Records an app's connections in a folder: one transcript for each listener, and for each server that is dialled. */

import type { RecordedConversation, RecordingSink } from "../../../core/control/recording/recorder.ts";
import type { TappedEnd } from "../../../core/sockets/streams/tap.ts";
import type { Outlet } from "./outlet.ts";
import { Tape } from "./tape.ts";

const MOST = 64 * 1024 * 1024; // characters that may wait for the disk; there is no way to slow the connections down from here

/** One transcript, and the numbers of its connections. */
interface Kept {
  readonly name: string;
  readonly tape: Tape;
  readonly outlet: Outlet;
  readonly numbers: Map<string, number>;
  /** Bytes that could not be written since there was last room, by connection number; 0 where only the connection's end was lost. */
  readonly missing: Map<number, number>;
}

/** Writes one transcript for each address that was listened on or dialled. */
export class RecordFolder implements RecordingSink {
  readonly #open: (name: string) => Outlet;
  readonly #lost: (name: string) => void;
  readonly #kept = new Map<string, Kept>();
  #full = new Set<string>();

  /** `open` begins a file of that name. `lost` is called once for each file that could not keep up. */
  constructor(open: (name: string) => Outlet, lost: (name: string) => void) {
    this.#open = open;
    this.#lost = lost;
  }

  passed(of: RecordedConversation, bytes: Uint8Array | null, ours: boolean, end?: TappedEnd): void {
    const [kept, number] = this.#of(of);
    const { tape } = kept;
    if (this.#isFull(kept, number, bytes?.length ?? 0)) return;
    const from = ours ? of.side : of.side === "client" ? "server" : "client";
    if (bytes !== null) tape.said(number, from, bytes);
    else if (end !== undefined) tape.ended(number, from, end);
    else tape.secured(number);
  }

  missed(of: RecordedConversation, bytes: number): void {
    const [kept, number] = this.#of(of);
    if (!this.#isFull(kept, number, bytes)) kept.tape.missed(number, bytes);
  }

  /** Resolves when everything is written. */
  async written(): Promise<void> {
    for (const kept of this.#kept.values()) {
      tellMissing(kept);
      await kept.tape.written();
    }
  }

  /** Whether too much is waiting. If so, counts `bytes` of that connection as missing. */
  #isFull(kept: Kept, number: number, bytes: number): boolean {
    if (kept.outlet.waiting <= MOST) {
      if (kept.missing.size > 0) tellMissing(kept);
      return false;
    }
    kept.missing.set(number, (kept.missing.get(number) ?? 0) + bytes);
    if (!this.#full.has(kept.name)) this.#lost(kept.name);
    this.#full.add(kept.name);
    return true;
  }

  /** The transcript of a conversation, and the conversation's number in it. */
  #of(of: RecordedConversation): [Kept, number] {
    const { kind, address, id } = of;
    const name = nameOf(of);
    let kept = this.#kept.get(name);
    if (kept === undefined) {
      const outlet = this.#open(name);
      const tape = new Tape({ kind, address }, { record: outlet });
      kept = { name, tape, outlet, numbers: new Map(), missing: new Map() };
      this.#kept.set(name, kept);
    }
    const number = kept.numbers.get(id) ?? kept.numbers.size + 1;
    kept.numbers.set(id, number);
    return [kept, number];
  }
}

/** Writes how much is missing. If only a connection's end was lost, that is noted as one byte, so that the transcript does not pass as complete. */
const tellMissing = ({ tape, missing }: Kept): void => {
  for (const [number, bytes] of missing) tape.missed(number, Math.max(bytes, 1));
  missing.clear();
};

/** `tcp-127.0.0.1-7007.jsonl`, `dialled-tcp-db.example-5432.jsonl`. */
const nameOf = ({ side, address }: RecordedConversation): string =>
  `${side === "client" ? "dialled-" : ""}${address.replace(/[^\w.]+/g, "-")}.jsonl`;
