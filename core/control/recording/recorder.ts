/**
 * `Recorder`: what passed over the connections of a control plane, and the datagrams of its listeners, kept in memory by bounds that
 * one sets.
 *
 * It is off until somebody asks: a recording is started (`start()`), or somebody watches (`watch()`). While it is off no connection has
 * a tap, and nothing is kept. When it is turned on it taps the connections that are open, and then each new one.
 *
 * All that is said goes into one log of slabs, in the order of time, as records: a header of 24 bytes, then the bytes. When the log is full
 * its oldest slab goes as a whole, so the newest bytes are kept, and forgetting costs nothing for each connection. Each record has the place of
 * the next one of its conversation in the same slab; a conversation has only where its runs of such records begin.
 */

import { type Data, joinBytes, toBytes } from "../../bytes/data.ts";
import type { Decoder } from "../../decode/decoder.ts";
import { errorText, textOf } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { checkOptions, optionNamesOf } from "../../options.ts";
import { setTap } from "../../sockets/streams/carried.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import type { StreamTap, TappedEnd } from "../../sockets/streams/tap.ts";
import {
  eventFields,
  formatEvent,
  formatHeader,
  type Side,
  type Transcript,
  type TranscriptEvent,
} from "../../testing/transcript/form.ts";
import {
  type DecodedPart,
  type FlowInfo,
  type FoundBytes,
  newSessionId,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type RecordingPlane,
  type SessionInfo,
} from "../plane.ts";
import { afterTrim, RECORDING_BOUNDS } from "./bounds.ts";

const HEADER = 24; // bytes of a record before what was said: time (8), bytes said before (8), kind (1) and size (3), where the next one is in this slab, or 0 (4)
const SIZE = 0xffffff; // the bits of the size, which is below that of a slab
const RUN = 64; // records of a conversation at most that are walked to find one
const SLAB = 1024 * 1024; // bytes; what is forgotten at once
const LEAST_PART = 4096; // bytes: the rest of a slab is used for the beginning of a larger piece, where it holds so many
const PACE = 500; // ms between two events of a watcher: two a second are live to the eye, and cost half of four
const IN_ONE_EVENT = 50; // sessions, about 25 KB of JSON
const SOON = 25; // ms until the next event where one does not hold all: at most 2 000 sessions a second, at 4 µs each less than 1 % of a processor
const GRACE = 5_000; // ms for which a recording goes on when its last watcher has left: a page that is loaded again is back by then
const SLICE = 4 * 1024 * 1024; // bytes that are searched before others have their turn
const MOST_TEXT = 2_000; // characters of a message
const MAX_FOUND = 10_000; // conversations that one search gives

const clock = performance; // read once: on Node the global is a getter, which each piece would call

/** What a record is. */
const KINDS: readonly { readonly ours: boolean; readonly end?: TappedEnd; readonly tls?: true }[] = [
  { ours: false },
  { ours: true },
  { ours: false, end: "half-close" },
  { ours: false, end: "reset" },
  { ours: true, end: "half-close" },
  { ours: true, end: "close" },
  { ours: true, end: "reset" },
  { ours: true, tls: true },
];
const [RECEIVED, SENT] = [0, 1];
const kindOf = (ours: boolean, end: TappedEnd | undefined): number =>
  KINDS.findIndex((kind) => kind.end === end && (end === undefined ? kind.tls : kind.ours === ours));
const TLS = KINDS.findIndex(({ tls }) => tls);

const LIMIT_NAMES = optionNamesOf<RecordingLimits>("a recording")({ maxBytes: true, maxConnections: true });

/** A connection that is open, as its plane knows it. */
export interface OpenConnection {
  readonly id: string;
  readonly socket: StreamSocket;
  /** Which side this process has. */
  readonly side: Side;
  readonly address: string;
  /** Bytes that its session has said so far, on this connection and those before it. Default: this connection's. */
  readonly passed?: number;
}

/** What a recorder needs of the plane whose connections it records. */
export interface RecordedPlane {
  /** Those that are open. */
  open(): Iterable<OpenConnection>;
  info(id: string): SessionInfo | undefined;
}

/** Told of all that is recorded, as it passes: for those who keep it elsewhere. It neither throws nor waits; bytes are lent. */
export interface RecordingSink {
  /** Bytes were said; or, with `null`, a side ended (`end`), or both speak through TLS from here on. */
  passed(conversation: RecordedConversation, bytes: Uint8Array | null, ours: boolean, end?: TappedEnd): void;
  /** So many bytes were said that this is not told. */
  missed(conversation: RecordedConversation, bytes: number): void;
}

/** Whose words a sink is told. */
export interface RecordedConversation {
  readonly id: string;
  readonly kind: Transcript["kind"];
  /** The side that this process has. */
  readonly side: Side;
  readonly address: string;
}

/** What was said on one connection, or between a listener and one sender of datagrams. */
class Kept implements RecordedConversation {
  readonly id: string;
  readonly kind: Transcript["kind"];
  /** This process's side. */
  readonly side: Side;
  readonly address: string;
  readonly #began = Date.now();
  readonly since = clock.now();
  /** Bytes that passed and were not recorded: before it was, and those that another process could not tell. */
  missed: number;
  /** The number and the place of each record that begins a run, ascending: the first in its slab, and each `RUN`th. Those that are gone are taken away now and then. */
  runs: number[] = [];
  /** At such a length of `runs` those that are gone are looked for. */
  trimAt = 64;
  /** Its records so far, kept or not. */
  total = 0;
  /** Where the newest of them is. */
  last = -1;
  /** Bytes that were said since, kept or not. */
  said = 0;
  changed = false;
  flow: Flow | undefined;

  constructor(id: string, kind: Transcript["kind"], side: Side, address: string, missed = 0) {
    this.id = id;
    this.kind = kind;
    this.side = side;
    this.address = address;
    this.missed = missed;
  }

  /** ISO 8601, UTC. Written when it is asked for: most conversations are never looked at. */
  get began(): string {
    return new Date(this.#began).toISOString();
  }

  /** The number of the oldest record that is kept, once those that are gone are taken away. */
  get first(): number {
    return this.runs[0] ?? this.total;
  }
}

/** One record of the log. */
interface KeptRecord {
  /** In its conversation, from 0. */
  readonly number: number;
  /** ms since the conversation began. */
  readonly at: number;
  /** How many bytes of its conversation had been said before it. */
  readonly before: number;
  readonly kind: number;
  readonly bytes: Uint8Array;
  /** Where the next of its conversation is in its slab; 0: in another slab, or nowhere yet. */
  readonly next: number;
}

/** The counts of a sender of datagrams. */
interface Flow {
  readonly handler: string;
  readonly peer: string | null;
  lastAt: number;
  read: number;
  written: number;
  bytesRead: number;
  bytesWritten: number;
}

/** Someone who is told of changes. */
interface Watcher {
  readonly changed: Set<string>;
  /** Something changed. */
  wake(): void;
  /** It is to look whether it is over. */
  leave(): void;
}

const encoder = new TextEncoder();

/** Records a plane: its `recording`. */
export class Recorder implements RecordingPlane {
  readonly #kept = new Map<string, Kept>(); // by id, the oldest first
  readonly #flows = new Map<string, Kept>(); // by handler and peer
  readonly #tapped = new Map<string, StreamSocket>();
  readonly #watchers = new Set<Watcher>();
  #plane: RecordedPlane = { open: () => [], info: () => undefined };
  #limits: Required<RecordingLimits> = {
    maxBytes: RECORDING_BOUNDS.maxBytes,
    maxConnections: RECORDING_BOUNDS.maxConnections,
  };
  #slabs: Uint8Array[] = [];
  #views: DataView[] = [];
  #gone = 0; // slabs that are forgotten
  #at = SLAB; // where the next record goes in the last slab
  #dropped = 0;
  #started = false;
  #on = false;
  #grace: ReturnType<typeof setTimeout> | undefined;
  #closed = false;
  readonly #sink: RecordingSink | undefined;

  constructor(sink?: RecordingSink) {
    this.#sink = sink;
  }

  /** Whose connections are recorded. Called once, by that plane. */
  of(plane: RecordedPlane): void {
    this.#plane = plane;
  }

  /** Whether what passes is kept now. */
  get on(): boolean {
    return this.#on;
  }

  get maxConnections(): number {
    return this.#limits.maxConnections;
  }

  // ---- What the routes ask ----

  info(): RecordingInfo {
    let bytes = 0;
    for (const slab of this.#slabs) bytes += slab.length;
    if (this.#slabs.length > 0) bytes -= SLAB - this.#at;
    return {
      on: this.#on,
      started: this.#started,
      ...this.#limits,
      bytes,
      conversations: this.#kept.size,
      dropped: this.#dropped,
    };
  }

  start(limits: RecordingLimits = {}): RecordingInfo {
    const bounds = this.#bounds(limits);
    this.#started = true;
    this.#limits = bounds;
    this.#begin();
    this.#fit();
    this.#wakeAll();
    return this.info();
  }

  limit(limits: RecordingLimits): RecordingInfo {
    this.#limits = this.#bounds(limits);
    this.#fit();
    this.#wakeAll();
    return this.info();
  }

  #bounds(limits: RecordingLimits): Required<RecordingLimits> {
    checkOptions("a recording", limits, LIMIT_NAMES);
    return { ...this.#limits, ...limits };
  }

  stop(): RecordingInfo {
    this.#started = false;
    if (this.#watchers.size === 0) this.#end();
    else this.#forget(); // who watches goes on with nothing kept
    this.#wakeAll();
    return this.info();
  }

  flows(): readonly FlowInfo[] {
    return [...this.#flows.values()].reverse().map(infoOfFlow);
  }

  part(id: string, after: number, maxBytes: number): RecordedPart | null {
    const kept = this.#kept.get(id);
    if (kept === undefined) return null;
    this.#trim(kept);
    let next = Math.max(after, kept.first);
    const first = next;
    let size = 0;
    const events: RecordedPart["events"][number][] = [];
    for (const record of this.#records(kept, next)) {
      if (size >= maxBytes) break;
      size += record.bytes.length;
      next = record.number + 1;
      events.push(eventFields(this.#event(kept, record)));
    }
    return { ...this.#header(kept), id, side: kept.side, first, next, total: kept.total, events };
  }

  /** The name of the handler of a flow. */
  handlerOf(id: string): string | undefined {
    return this.#kept.get(id)?.flow?.handler;
  }

  /** What a decoder makes of a conversation; `null`: nothing of it is kept. */
  messages(id: string, decode: Decoder): DecodedPart | null {
    const kept = this.#kept.get(id);
    if (kept === undefined) return null;
    this.#trim(kept);
    const messages: { at: number; from: Side; bytes: number; text: string }[] = [];
    let error: string | null = null;
    let whole = true;
    const add = (bytes: Uint8Array, from: Side, atOf: (end: number) => number): void => {
      try {
        for (const { start, end, text } of decode(bytes, from)) {
          if (messages.length === RECORDING_BOUNDS.messages) {
            whole = false;
            return;
          }
          const at = Math.round(atOf(end) * 1000) / 1000;
          messages.push({ at, from, bytes: end - start, text: textOf(text, MOST_TEXT) });
        }
      } catch (thrown) {
        error ??= errorText(thrown, MOST_TEXT);
      }
    };
    for (const ours of [false, true]) {
      const kind = ours ? SENT : RECEIVED;
      const from = ours === (kept.side === "server") ? "server" : "client";
      const pieces: Uint8Array[] = [];
      const ends: number[] = [];
      const times: number[] = [];
      let size = 0;
      for (const record of this.#records(kept)) {
        if (record.kind !== kind) continue;
        if (size + record.bytes.length > RECORDING_BOUNDS.decoded) {
          whole = false;
          break;
        }
        size += record.bytes.length;
        if (kept.kind === "datagrams") add(new Uint8Array(record.bytes), from, () => record.at);
        else {
          pieces.push(record.bytes);
          ends.push(size);
          times.push(record.at);
        }
      }
      if (kept.kind === "datagrams") continue;
      let piece = 0;
      add(joinBytes(pieces, size), from, (end) => {
        while (piece < ends.length - 1 && (ends[piece] as number) < end) piece++;
        return times[piece] ?? 0;
      });
    }
    return { messages: messages.sort((one, other) => one.at - other.at), error, whole };
  }

  *transcript(id: string): Generator<string, void, undefined> {
    const kept = this.#kept.get(id);
    if (kept === undefined) return;
    this.#trim(kept);
    yield formatHeader(this.#header(kept));
    // What is forgotten meanwhile is left out: who reads slowly holds nothing up.
    for (const record of this.#records(kept)) yield formatEvent(this.#event(kept, record));
  }

  async find(bytes: Uint8Array, signal: AbortSignal): Promise<FoundBytes> {
    const ids: string[] = [];
    let looked = 0;
    for (const kept of [...this.#kept.values()].reverse()) {
      if (this.#holds(kept, bytes)) ids.push(kept.id);
      looked += kept.said + (kept.total - kept.first) * HEADER;
      if (ids.length === MAX_FOUND) break;
      if (looked < SLICE) continue;
      looked = 0;
      await new Promise((resolve) => setTimeout(resolve));
      if (signal.aborted) break;
    }
    return { ids, more: ids.length === MAX_FOUND };
  }

  async *watch(signal: AbortSignal): AsyncGenerator<RecordingChange, void, undefined> {
    let stirred = false;
    let resume = (): void => {};
    const watcher: Watcher = {
      changed: new Set(),
      wake: () => {
        stirred = true;
        resume();
      },
      leave: () => resume(),
    };
    const aborted = (): void => watcher.leave();
    signal.addEventListener("abort", aborted, { once: true });
    this.#watchers.add(watcher);
    this.#begin();
    const over = (): boolean => signal.aborted || this.#closed;
    try {
      for (let id = 1; !over(); id++) {
        stirred = false;
        yield this.#change(id, watcher);
        const left = watcher.changed.size > 0;
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, left ? SOON : PACE);
          watcher.leave = () => {
            clearTimeout(timer);
            resolve();
          };
          if (over()) watcher.leave();
        });
        watcher.leave = () => resume();
        while (!left && !stirred && !over()) {
          await new Promise<void>((resolve) => {
            resume = resolve;
          });
        }
      }
    } finally {
      signal.removeEventListener("abort", aborted);
      this.#watchers.delete(watcher);
      if (this.#watchers.size === 0 && !this.#started && this.#on) {
        this.#grace = setTimeout(() => {
          if (this.#watchers.size === 0 && !this.#started) this.#end();
        }, GRACE);
      }
    }
  }

  /** The process ends: nothing is kept, and who watches is let go. */
  close(): void {
    this.#closed = true;
    this.#started = false;
    for (const watcher of this.#watchers) watcher.leave();
    this.#end();
  }

  // ---- What the plane tells ----

  /** A connection is open. */
  opened({ id, socket, side, address, passed }: OpenConnection): void {
    if (!this.#on) return;
    const missed = passed ?? socket.bytesRead + socket.bytesWritten;
    const known = this.#kept.get(id); // a session that lasts has one connection after the other
    const kept = known ?? new Kept(id, "stream", side, address, missed);
    if (known === undefined) this.#keep(kept);
    this.#tapped.set(id, socket);
    setTap(socket, new Tap(this, kept));
  }

  /** Something happened to a session. */
  changed(id: string): void {
    for (const watcher of this.#watchers) {
      watcher.changed.add(id);
      if (watcher.changed.size === 1) watcher.wake();
    }
  }

  /** A session is over. */
  over(id: string): void {
    this.#tapped.delete(id);
  }

  /** A datagram came to a listener, or was sent from it. */
  datagram(handler: string, address: string, peer: Address | null, bytes: Uint8Array, ours: boolean): void {
    const name = peer === null ? null : formatAddress(peer);
    const key = `${handler} ${address} ${name}`;
    let kept = this.#flows.get(key);
    if (kept === undefined) {
      kept = new Kept(newSessionId(), "datagrams", "server", address);
      kept.flow = { handler, peer: name, lastAt: 0, read: 0, written: 0, bytesRead: 0, bytesWritten: 0 };
      this.#flows.set(key, kept);
      this.#keep(kept);
    }
    const flow = kept.flow as Flow;
    flow.lastAt = Date.now();
    if (ours) {
      flow.written++;
      flow.bytesWritten += bytes.length;
    } else {
      flow.read++;
      flow.bytesRead += bytes.length;
    }
    this.said(kept, bytes, ours);
  }

  // ---- The log ----

  /** One side said this. */
  said(kept: Kept, data: Data, ours: boolean): void {
    const bytes = typeof data === "string" ? encoder.encode(data) : toBytes(data);
    this.#sink?.passed(kept, bytes, ours);
    const kind = ours ? SENT : RECEIVED;
    if (SLAB - this.#at >= HEADER + bytes.length) this.#add(kept, kind as number, bytes);
    else this.#addCut(kept, kind as number, bytes);
    this.#touch(kept);
  }

  /** Adds what the last slab has no room for. */
  #addCut(kept: Kept, kind: number, bytes: Uint8Array): void {
    let at = 0;
    do {
      const left = bytes.length - at;
      // A datagram is one record, whole; it fits in a slab.
      const least = kept.kind === "datagrams" ? left : Math.min(left, LEAST_PART);
      if (SLAB - this.#at < HEADER + least) this.#grow();
      const size = Math.min(left, SLAB - this.#at - HEADER);
      this.#add(kept, kind, size === bytes.length ? bytes : bytes.subarray(at, at + size));
      at += size;
    } while (at < bytes.length);
  }

  /** One side ended; without `end`: both speak through TLS from here on. */
  happened(kept: Kept, ours: boolean, end: TappedEnd | undefined): void {
    this.#sink?.passed(kept, null, ours, end);
    if (SLAB - this.#at < HEADER) this.#grow();
    this.#add(kept, end === undefined ? TLS : kindOf(ours, end), EMPTY);
    this.#touch(kept);
  }

  /** So many bytes passed that are not here. */
  missed(kept: Kept, bytes: number): void {
    this.#sink?.missed(kept, bytes);
    kept.missed += bytes;
    this.#touch(kept);
  }

  #add(kept: Kept, kind: number, bytes: Uint8Array): void {
    const last = this.#slabs.length - 1;
    const slab = this.#slabs[last] as Uint8Array;
    const view = this.#views[last] as DataView;
    const begin = (this.#gone + last) * SLAB;
    const at = this.#at;
    view.setFloat64(at, clock.now() - kept.since);
    view.setFloat64(at + 8, kept.said);
    view.setUint32(at + 16, kind * (SIZE + 1) + bytes.length);
    view.setUint32(at + 20, 0);
    slab.set(bytes, at + HEADER);
    const follows = kept.last >= begin;
    if (follows) view.setUint32(kept.last - begin + 20, at);
    if (!follows || kept.total % RUN === 0) this.#beginRun(kept, begin + at);
    kept.last = begin + at;
    kept.total++;
    kept.said += bytes.length;
    this.#at = at + HEADER + bytes.length;
  }

  #beginRun(kept: Kept, place: number): void {
    kept.runs.push(kept.total, place);
    if (kept.runs.length < kept.trimAt) return;
    this.#trim(kept);
    kept.trimAt = Math.max(64, kept.runs.length * 2);
  }

  #touch(kept: Kept): void {
    if (kept.changed) return;
    kept.changed = true;
    this.changed(kept.id);
  }

  #grow(): void {
    // A log that is full uses its oldest slab again: a new one costs as much as 1 000 records.
    const oldest = this.#slabs.length === this.#mostSlabs() ? this.#slabs[0] : undefined;
    const view = oldest && this.#views[0];
    if (oldest !== undefined) this.#dropOldest();
    const slab = oldest ?? new Uint8Array(SLAB);
    this.#slabs.push(slab);
    this.#views.push(view ?? new DataView(slab.buffer));
    this.#at = 0;
    this.#fit();
  }

  #mostSlabs(): number {
    return Math.max(1, Math.floor(this.#limits.maxBytes / SLAB));
  }

  #dropOldest(): void {
    this.#slabs.shift();
    this.#views.shift();
    this.#gone++;
    this.#dropped += SLAB;
  }

  /** Forgets what is over the limits: the oldest slabs, and the oldest conversations. */
  #fit(): void {
    const most = this.#mostSlabs();
    while (this.#slabs.length > most) this.#dropOldest();
    if (this.#kept.size <= this.#limits.maxConnections) return;
    const left = afterTrim(this.#limits.maxConnections);
    for (const kept of this.#kept.values()) {
      if (this.#kept.size <= left) break;
      this.#lose(kept);
    }
  }

  /** Takes away the runs that are gone. */
  #trim({ runs }: Kept): void {
    const oldest = this.#gone * SLAB;
    let gone = 0;
    while (gone < runs.length && (runs[gone + 1] as number) < oldest) gone += 2;
    if (gone > 0) runs.splice(0, gone);
  }

  /** The records of a conversation from this number on, as far as there are any now. */
  *#records(kept: Kept, from = 0): Generator<KeptRecord, void, undefined> {
    const { total } = kept;
    let place = -1;
    for (let number = from; ; number++) {
      if (place < this.#gone * SLAB) {
        // It begins, or what comes next was forgotten while its caller did something else.
        this.#trim(kept);
        number = Math.max(number, kept.first);
        if (number >= total) return;
        place = this.#placeOf(kept, number);
      }
      const record = this.#record(number, place);
      place = record.next === 0 ? -1 : place - (place % SLAB) + record.next;
      yield record;
    }
  }

  /** Where a record is that is kept. */
  #placeOf({ runs }: Kept, number: number): number {
    let low = 0; // a run that begins at it, or before
    let high = runs.length / 2;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((runs[middle * 2] as number) <= number) low = middle;
      else high = middle;
    }
    let place = runs[low * 2 + 1] as number;
    for (let at = runs[low * 2] as number; at < number; at++) {
      place += this.#record(at, place).next - (place % SLAB);
    }
    return place;
  }

  #record(number: number, place: number): KeptRecord {
    const i = Math.floor(place / SLAB) - this.#gone;
    const at = place % SLAB;
    const view = this.#views[i] as DataView;
    const from = at + HEADER;
    const word = view.getUint32(at + 16);
    const bytes = (this.#slabs[i] as Uint8Array).subarray(from, from + (word & SIZE));
    const [time, before, next] = [view.getFloat64(at), view.getFloat64(at + 8), view.getUint32(at + 20)];
    return { number, at: time, before, kind: word >>> 24, bytes, next };
  }

  #event(kept: Kept, { at, kind, bytes }: KeptRecord): TranscriptEvent {
    const { ours, end, tls } = KINDS[kind] as (typeof KINDS)[number];
    if (tls) return { at, tls };
    const other = kept.side === "client" ? "server" : "client";
    const from = ours ? kept.side : other;
    return end === undefined ? { at, from, data: bytes } : { at, from, end };
  }

  #header(kept: Kept): Omit<Transcript, "events"> & { readonly began: string; readonly address: string } {
    const { kind, address, began, missed, said, runs } = kept;
    const [first, place] = runs;
    const dropped = missed + (first === undefined ? said : this.#record(first, place as number).before);
    return { kind, ...(dropped > 0 && { dropped }), address, began };
  }

  /** Whether one side said these bytes, however they were cut. */
  #holds(kept: Kept, wanted: Uint8Array): boolean {
    const tails: [Uint8Array, Uint8Array] = [EMPTY, EMPTY];
    for (const { kind, bytes } of this.#records(kept)) {
      if (kind !== RECEIVED && kind !== SENT) continue;
      if (includes(bytes, wanted)) return true;
      const tail = tails[kind as 0 | 1];
      if (tail.length > 0) {
        const seam = new Uint8Array(tail.length + Math.min(bytes.length, wanted.length - 1));
        seam.set(tail);
        seam.set(bytes.subarray(0, seam.length - tail.length), tail.length);
        if (includes(seam, wanted)) return true;
      }
      if (kept.kind === "datagrams") continue;
      const most = wanted.length - 1;
      if (bytes.length >= most) tails[kind as 0 | 1] = bytes.subarray(bytes.length - most);
      else {
        const joined = new Uint8Array(tail.length + bytes.length);
        joined.set(tail);
        joined.set(bytes, tail.length);
        tails[kind as 0 | 1] = joined.subarray(Math.max(0, joined.length - most));
      }
    }
    return false;
  }

  // ---- Its life ----

  #keep(kept: Kept): void {
    this.#kept.set(kept.id, kept);
    if (this.#kept.size > this.#limits.maxConnections) this.#fit();
  }

  #lose(kept: Kept): void {
    this.#kept.delete(kept.id);
    const { flow } = kept;
    if (flow !== undefined) this.#flows.delete(`${flow.handler} ${kept.address} ${flow.peer}`);
    const socket = this.#tapped.get(kept.id);
    if (socket === undefined) return;
    setTap(socket, null);
    this.#tapped.delete(kept.id);
  }

  #begin(): void {
    clearTimeout(this.#grace);
    if (this.#closed) throw new SocketError("EBADF", "this process is ending and records nothing more");
    if (this.#on) return;
    this.#on = true;
    for (const connection of this.#plane.open()) this.opened(connection);
  }

  #end(): void {
    clearTimeout(this.#grace);
    this.#on = false;
    for (const socket of this.#tapped.values()) setTap(socket, null);
    this.#tapped.clear();
    this.#forget();
  }

  /** Lets go of all that is kept. */
  #forget(): void {
    this.#gone += this.#slabs.length;
    this.#slabs = [];
    this.#views = [];
    this.#at = SLAB;
    this.#dropped = 0;
    for (const kept of [...this.#kept.values()]) if (!this.#tapped.has(kept.id)) this.#lose(kept);
  }

  #change(id: number, watcher: Watcher): RecordingChange {
    const sessions: SessionInfo[] = [];
    const flows: FlowInfo[] = [];
    for (const one of watcher.changed) {
      watcher.changed.delete(one);
      const kept = this.#kept.get(one);
      if (kept !== undefined) kept.changed = false;
      if (kept?.flow !== undefined) flows.push(infoOfFlow(kept));
      else {
        const info = this.#plane.info(one);
        if (info !== undefined) sessions.push(info);
      }
      if (sessions.length + flows.length === IN_ONE_EVENT) break;
    }
    return { id, at: new Date().toISOString(), type: "changed", recording: this.info(), sessions, flows };
  }

  #wakeAll(): void {
    for (const watcher of this.#watchers) watcher.wake();
  }
}

const EMPTY = new Uint8Array(0);

/** What looks on at one connection. */
class Tap implements StreamTap {
  readonly #recorder: Recorder;
  readonly #kept: Kept;
  #left = false; // this side has let go

  constructor(recorder: Recorder, kept: Kept) {
    this.#recorder = recorder;
    this.#kept = kept;
  }

  received(bytes: Uint8Array): void {
    this.#recorder.said(this.#kept, bytes, false);
  }

  sent(data: Data): void {
    this.#recorder.said(this.#kept, data, true);
  }

  peerEnded(how: TappedEnd): void {
    if (!this.#left) this.#recorder.happened(this.#kept, false, how);
  }

  ended(how: TappedEnd): void {
    if (this.#left) return;
    this.#left = how !== "half-close";
    this.#recorder.happened(this.#kept, true, how);
  }

  secured(): void {
    this.#recorder.happened(this.#kept, true, undefined);
  }

  missed(bytes: number): void {
    this.#recorder.missed(this.#kept, bytes);
  }
}

const infoOfFlow = ({ id, address, began, flow }: Kept): FlowInfo => {
  const { handler, peer, lastAt, read, written, bytesRead, bytesWritten } = flow as Flow;
  const counts = { datagramsRead: read, datagramsWritten: written, bytesRead, bytesWritten };
  return { id, handler, address, peer, startedAt: began, lastAt: new Date(lastAt).toISOString(), ...counts };
};

/** Whether `wanted`, which is not empty, is in `bytes`. */
const includes = (bytes: Uint8Array, wanted: Uint8Array): boolean => {
  const first = wanted[0] as number;
  const last = bytes.length - wanted.length;
  for (let at = bytes.indexOf(first); at !== -1 && at <= last; at = bytes.indexOf(first, at + 1)) {
    let same = 1;
    while (same < wanted.length && bytes[at + same] === wanted[same]) same++;
    if (same === wanted.length) return true;
  }
  return false;
};
