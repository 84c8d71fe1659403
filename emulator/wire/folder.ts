/** What passes over an app's connections, in a folder: one transcript for each listener, and for each server that is dialled. */

import type { RecordedConversation, RecordingSink } from "../../core/control/recording/recorder.ts";
import type { TappedEnd } from "../../core/sockets/tap.ts";
import type { Outlet } from "./outlet.ts";
import { Tape } from "./tape.ts";

const MOST = 64 * 1024 * 1024; // characters that may wait for the disk: nobody can be held up from here

/** One transcript, and the numbers of its connections. */
interface Kept {
  readonly tape: Tape;
  readonly outlet: Outlet;
  readonly numbers: Map<string, number>;
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
    const name = nameOf(of);
    const { tape, outlet, numbers } = this.#of(name, of);
    const number = numbers.get(of.id) ?? numbers.size + 1;
    numbers.set(of.id, number);
    if (outlet.waiting > MOST) {
      if (!this.#full.has(name)) this.#lost(name);
      this.#full.add(name);
      return;
    }
    const from = ours ? of.side : of.side === "client" ? "server" : "client";
    if (bytes !== null) tape.said(number, from, bytes);
    else if (end !== undefined) tape.ended(number, from, end);
  }

  /** Resolves when all is out. */
  async written(): Promise<void> {
    for (const { tape } of this.#kept.values()) await tape.written();
  }

  #of(name: string, { kind, address }: RecordedConversation): Kept {
    const known = this.#kept.get(name);
    if (known !== undefined) return known;
    const outlet = this.#open(name);
    const kept: Kept = { tape: new Tape({ kind, address }, { record: outlet }), outlet, numbers: new Map() };
    this.#kept.set(name, kept);
    return kept;
  }
}

/** `tcp-127.0.0.1-7007.jsonl`, `dialled-tcp-db.example-5432.jsonl`. */
const nameOf = ({ side, address }: RecordedConversation): string =>
  `${side === "client" ? "dialled-" : ""}${address.replace(/[^\w.]+/g, "-")}.jsonl`;
