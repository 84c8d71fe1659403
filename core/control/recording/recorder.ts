/**
 * `Recorder`: keeps the traffic of a control plane's connections in memory, within set bounds, and the datagrams of its
 * listeners.
 *
 * It is off until a recording is started (`start()`) or somebody watches (`watch()`). While it is off, no connection has a tap, and
 * nothing is kept. When it is turned on, it taps the open connections, and then each new one.
 *
 * Everything goes into one log of slabs, in order of time, as records: a 24-byte header, then the bytes. When the log is full, its
 * oldest slab is dropped whole, so the newest bytes are kept, and dropping costs nothing per connection. Each record points to the
 * next record of its conversation in the same slab; the conversation itself only knows where each run of such records begins.
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

const HEADER = 24; // bytes of a record before its data: time (8), earlier bytes of the side (8), kind (1) and size (3), the place of the next record in this slab, or 0 (4)
const SIZE = 0xffffff; // the bits of the size, which is below that of a slab
const RUN = 64; // records in a run: at most this many are walked to find one
const SLAB = 1024 * 1024; // bytes; dropped as one
const LEAST_PART = 4096; // bytes: a piece is split over two slabs only if the first has this much room
const PACE = 500; // ms between two events of a watcher: two a second are live to the eye, and cost half of four
const IN_ONE_EVENT = 50; // sessions in one event, about 25 KB of JSON
const SOON = 25; // ms until the next event if one does not hold everything: at most 2 000 sessions a second, at 4 µs each less than 1 % of a core
const GRACE = 5_000; // ms that recording continues after the last watcher has left: a page that is reloaded is back by then
const SLICE = 4 * 1024 * 1024; // bytes searched before other work gets its turn
const MOST_TEXT = 2_000; // characters of a decoded message
const MAX_FOUND = 10_000; // conversations that one search returns

const clock = performance; // read once: on Node the global is a getter, which every piece would call

/** The kinds of record. */
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

/** An open connection, as its plane knows it. */
export interface OpenConnection {
  readonly id: string;
  readonly socket: StreamSocket;
  /** Which side this process has. */
  readonly side: Side;
  readonly address: string;
  /** Bytes that have passed in its session so far, on this connection and those before it. Default: this connection's. */
  readonly passed?: number;
}

/** What a recorder needs from the plane whose connections it records. */
export interface RecordedPlane {
  /** The open connections. */
  open(): Iterable<OpenConnection>;
  info(id: string): SessionInfo | undefined;
}

/** Receives everything that is recorded, as it passes, to keep it elsewhere. Its methods must not throw; the bytes are lent. */
export interface RecordingSink {
  /** A side sent bytes; or, with `null`, a side ended (`end`), or both use TLS from here on. */
  passed(conversation: RecordedConversation, bytes: Uint8Array | null, ours: boolean, end?: TappedEnd): void;
  /** Bytes passed that this sink did not get: their number. */
  missed(conversation: RecordedConversation, bytes: number): void;
}

/** The conversation that a sink records. */
export interface RecordedConversation {
  readonly id: string;
  readonly kind: Transcript["kind"];
  /** The side that this process is. */
  readonly side: Side;
  readonly address: string;
}

/** What passed on one connection, or between a listener and one sender of datagrams. */
class Kept implements RecordedConversation {
  readonly id: string;
  readonly kind: Transcript["kind"];
  /** This process's side. */
  readonly side: Side;
  readonly address: string;
  readonly #began: number;
  /** When it began, by `clock`. */
  readonly since: number;
  /** Bytes that were not recorded: they passed before recording began, or another process could not report them. */
  missed: number;
  /** The number and the place of each record that begins a run, ascending: the first in its slab, and every `RUN`th. Entries of dropped slabs are removed now and then. */
  runs: number[] = [];
  /** The length of `runs` at which entries of dropped slabs are removed. */
  trimAt = 64;
  /** Records so far, kept or dropped. */
  total = 0;
  /** Where its newest record is. */
  last = -1;
  /** Bytes recorded so far, kept or dropped. */
  said = 0;
  changed = false;
  flow: Flow | undefined;

  constructor(
    id: string,
    kind: Transcript["kind"],
    side: Side,
    address: string,
    missed = 0,
    since = clock.now(),
  ) {
    this.since = since;
    this.#began = Math.round(Date.now() - (clock.now() - since));
    this.id = id;
    this.kind = kind;
    this.side = side;
    this.address = address;
    this.missed = missed;
  }

  /** ISO 8601, UTC. Formatted on demand: most conversations are never looked at. */
  get began(): string {
    return new Date(this.#began).toISOString();
  }

  /** The number of the oldest record that is kept. Valid once the entries of dropped slabs are removed. */
  get first(): number {
    return this.runs[0] ?? this.total;
  }
}

/** One record of the log. */
interface KeptRecord {
  /** Its number in its conversation, from 0. */
  readonly number: number;
  /** Milliseconds since the conversation began. */
  readonly at: number;
  /** Bytes of its conversation that passed before it. */
  readonly before: number;
  readonly kind: number;
  readonly bytes: Uint8Array;
  /** Where in its slab the conversation's next record is; 0: in another slab, or there is none yet. */
  readonly next: number;
}

/** The counts of one sender of datagrams. */
interface Flow {
  /** Finds it in `#flows`. */
  readonly key: string;
  readonly handler: string;
  readonly peer: string | null;
  lastAt: number;
  read: number;
  written: number;
  bytesRead: number;
  bytesWritten: number;
}

/** A subscriber to changes. */
interface Watcher {
  readonly changed: Set<string>;
  /** Called when something changed. */
  wake(): void;
  /** Called when it should check whether it is over. */
  leave(): void;
}

const encoder = new TextEncoder();

/** Records the connections of a plane, which has it as `recording`. */
export class Recorder implements RecordingPlane {
  readonly #kept = new Map<string, Kept>(); // by id, oldest first
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
  #gone = 0; // slabs dropped so far
  #at = SLAB; // where the next record goes in the last slab
  #dropped = 0;
  #started = false;
  #on = false;
  #grace: ReturnType<typeof setTimeout> | undefined;
  #carriedAt: number | undefined; // the time of what is being reported now, by `clock`
  #closed = false;
  readonly #sink: RecordingSink | undefined;

  constructor(sink?: RecordingSink) {
    this.#sink = sink;
  }

  /** Sets the plane whose connections are recorded, which calls this once. */
  of(plane: RecordedPlane): void {
    this.#plane = plane;
  }

  /** Whether it is recording. */
  get on(): boolean {
    return this.#on;
  }

  get maxConnections(): number {
    return this.#limits.maxConnections;
  }

  // ---- For the routes ----

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
    else this.#forget(); // watchers continue, with nothing kept
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

  /** The name of a flow's handler. */
  handlerOf(id: string): string | undefined {
    return this.#kept.get(id)?.flow?.handler;
  }

  /** Decodes a conversation; `null`: nothing of it is kept. */
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
    // Records that are dropped meanwhile are left out: a slow reader must not hold up the recording.
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

  /** Called when the process ends: keeps nothing more, and releases the watchers. */
  close(): void {
    this.#closed = true;
    this.#started = false;
    for (const watcher of this.#watchers) watcher.leave();
    this.#end();
  }

  // ---- From the plane ----

  /** A connection was opened. */
  opened({ id, socket, side, address, passed }: OpenConnection): void {
    if (!this.#on) return;
    const missed = passed ?? socket.bytesRead + socket.bytesWritten;
    const known = this.#kept.get(id); // a lasting session has one connection after another
    const kept = known ?? new Kept(id, "stream", side, address, missed);
    if (known === undefined) this.#keep(kept);
    this.#tapped.set(id, socket);
    setTap(socket, new Tap(this, kept));
  }

  /** The tap of a connection whose bytes are reported from elsewhere, within `at()`. `null`: nothing is kept. */
  carried({ id, side, address, passed = 0 }: Omit<OpenConnection, "socket">): StreamTap | null {
    if (!this.#on) return null;
    const known = this.#kept.get(id);
    const kept = known ?? new Kept(id, "stream", side, address, passed, this.#carriedAt);
    if (known === undefined) this.#keep(kept);
    return new Tap(this, kept);
  }

  /** Runs `tell`, whose reports get the time `time`, in ms since the epoch. */
  at(time: number, tell: () => void): void {
    this.#carriedAt = clock.now() - (Date.now() - time);
    tell();
    this.#carriedAt = undefined;
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

  /** A listener received or sent a datagram. `id`: the flow's, if it was reported from elsewhere and the sender is not known. */
  datagram(
    handler: string,
    address: string,
    peer: Address | null,
    bytes: Uint8Array,
    ours: boolean,
    id?: string,
  ): void {
    const name = peer === null ? null : formatAddress(peer);
    const key = `${handler} ${address} ${id ?? name}`;
    let kept = this.#flows.get(key);
    if (kept === undefined) {
      kept = new Kept(id ?? newSessionId(), "datagrams", "server", address, 0, this.#carriedAt);
      kept.flow = { key, handler, peer: name, lastAt: 0, read: 0, written: 0, bytesRead: 0, bytesWritten: 0 };
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

  /** Bytes of a flow passed that are not reported: their number. */
  missedOf(id: string, bytes: number): void {
    const kept = this.#kept.get(id);
    if (kept !== undefined) this.missed(kept, bytes);
  }

  // ---- The log ----

  /** One side sent `data`. */
  said(kept: Kept, data: Data, ours: boolean): void {
    const bytes = typeof data === "string" ? encoder.encode(data) : toBytes(data);
    this.#sink?.passed(kept, bytes, ours);
    const kind = ours ? SENT : RECEIVED;
    if (SLAB - this.#at >= HEADER + bytes.length) this.#add(kept, kind as number, bytes);
    else this.#addCut(kept, kind as number, bytes);
    this.#touch(kept);
  }

  /** Adds a piece that the last slab has no room for. */
  #addCut(kept: Kept, kind: number, bytes: Uint8Array): void {
    let at = 0;
    do {
      const left = bytes.length - at;
      // A datagram is never split; it fits in a slab.
      const least = kept.kind === "datagrams" ? left : Math.min(left, LEAST_PART);
      if (SLAB - this.#at < HEADER + least) this.#grow();
      const size = Math.min(left, SLAB - this.#at - HEADER);
      this.#add(kept, kind, size === bytes.length ? bytes : bytes.subarray(at, at + size));
      at += size;
    } while (at < bytes.length);
  }

  /** One side ended; without `end`: both use TLS from here on. */
  happened(kept: Kept, ours: boolean, end: TappedEnd | undefined): void {
    this.#sink?.passed(kept, null, ours, end);
    if (SLAB - this.#at < HEADER) this.#grow();
    this.#add(kept, end === undefined ? TLS : kindOf(ours, end), EMPTY);
    this.#touch(kept);
  }

  /** Notes that `bytes` bytes passed unrecorded. */
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
    const now = this.#carriedAt ?? clock.now();
    view.setFloat64(at, now < kept.since ? 0 : now - kept.since); // clocks of two machines differ
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
    // A full log reuses its oldest slab: a new slab costs as much as 1 000 records.
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

  /** Drops what exceeds the limits: the oldest slabs, and the oldest conversations. */
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

  /** Removes the runs in dropped slabs. */
  #trim({ runs }: Kept): void {
    const oldest = this.#gone * SLAB;
    let gone = 0;
    while (gone < runs.length && (runs[gone + 1] as number) < oldest) gone += 2;
    if (gone > 0) runs.splice(0, gone);
  }

  /** The records of a conversation from number `from` on, up to its newest now. */
  *#records(kept: Kept, from = 0): Generator<KeptRecord, void, undefined> {
    const { total } = kept;
    let place = -1;
    for (let number = from; ; number++) {
      if (place < this.#gone * SLAB) {
        // This is the first, or the next record was dropped while the caller did something else.
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

  /** The place of a kept record. */
  #placeOf({ runs }: Kept, number: number): number {
    let low = 0; // a run that begins at the record or before it
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

  /** Whether one side sent these bytes, however they were split. */
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

  // ---- On and off ----

  #keep(kept: Kept): void {
    this.#kept.set(kept.id, kept);
    if (this.#kept.size > this.#limits.maxConnections) this.#fit();
  }

  #lose(kept: Kept): void {
    this.#kept.delete(kept.id);
    const { flow } = kept;
    if (flow !== undefined) this.#flows.delete(flow.key);
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

  /** Drops everything that is kept. */
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

/** The tap of one connection. */
class Tap implements StreamTap {
  readonly #recorder: Recorder;
  readonly #kept: Kept;
  #left = false; // this side has closed or released the connection

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

/** Whether `bytes` contains `wanted`, which is not empty. */
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
