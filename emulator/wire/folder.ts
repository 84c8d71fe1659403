/** What passes over an app's connections, in a folder: one transcript for each listener, and for each server that is dialled. */

import type { RecordedConversation, RecordingSink } from "../../core/control/recording/recorder.ts";
import type { TappedEnd } from "../../core/sockets/streams/tap.ts";
import type { Outlet } from "./outlet.ts";
import { Tape } from "./tape.ts";

const MOST = 64 * 1024 * 1024; // characters that may wait for the disk: nobody can be held up from here

/** One transcript, and the numbers of its connections. */
interface Kept {
  readonly name: string;
  readonly tape: Tape;
  readonly outlet: Outlet;
  readonly numbers: Map<string, number>;
  /** What could not be written since there was room last, by the number of the connection: bytes, and 0 where only its end was lost. */
  readonly missing: Map<number, number>;
}

/** Writes transcripts, by the address that was listened on or dialled. */
export class RecordFolder implements RecordingSink {
  readonly #open: (name: string) => Outlet;
  readonly #lost: (name: string) => void;
  readonly #kept = new Map<string, Kept>();
  #full = new Set<string>();

  /** `open` begins a file of that name; `lost` is told once of each file to which something could not be written in time. */
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

  /** Resolves when all is out. */
  async written(): Promise<void> {
    for (const kept of this.#kept.values()) {
      tellMissing(kept);
      await kept.tape.written();
    }
  }

  /** Whether too much waits: then `bytes` of that connection are not written. */
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

  /** The transcript that is for a conversation, and its number there. */
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

/** Writes down how much is missing. Of a connection whose end alone was lost that is a byte: the transcript is not whole. */
const tellMissing = ({ tape, missing }: Kept): void => {
  for (const [number, bytes] of missing) tape.missed(number, Math.max(bytes, 1));
  missing.clear();
};

/** `tcp-127.0.0.1-7007.jsonl`, `dialled-tcp-db.example-5432.jsonl`. */
const nameOf = ({ side, address }: RecordedConversation): string =>
  `${side === "client" ? "dialled-" : ""}${address.replace(/[^\w.]+/g, "-")}.jsonl`;
