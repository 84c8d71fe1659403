/// <reference types="@cloudflare/workers-types" />
/**
 * Shows the connections that a Worker accepts, and those of its pools, as sessions, and records them, while somebody records or watches.
 *
 *     the isolate that has the connection ──▶ the registry: whether traffic is kept
 *              └── the traffic, four times a second ──▶ one object of the sessions' class, `accepted`: it keeps it, and answers the page
 *              ◀── send, half-close, end ───────────────────┘
 *
 * An isolate cannot be called, so each connection reports its traffic by itself. While nothing is kept it reports nothing: it asks the
 * registry when it is opened, and then its isolate asks every two seconds for all its connections.
 */

import { env, waitUntil } from "cloudflare:workers";
import { LATE, within } from "../../core/bytes/alarm.ts";
import { type Data, toBytes } from "../../core/bytes/data.ts";
import { EventLog } from "../../core/control/event-log.ts";
import {
  type FlowInfo,
  isOver,
  mergePages,
  newSessionId,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
} from "../../core/control/plane.ts";
import type { Recorder } from "../../core/control/recording/recorder.ts";
import {
  acceptedSession,
  NOT_BY_HAND,
  pooledSession,
  type Served,
  type ShownSetup,
} from "../../core/control/sessions/accepted.ts";
import type { Session, SessionHooks } from "../../core/control/sessions/session.ts";
import { SocketError } from "../../core/errors.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { tapStream } from "../../core/sockets/streams/stream-socket.ts";
import type { StreamTap, TappedEnd } from "../../core/sockets/streams/tap.ts";
import { PlatformTarget } from "../platform.ts";
import { type Answer, again, answer, type SockletBindings, secretsOf, settled } from "./bindings.ts";

const LOOK = 2_000; // ms between two checks by an isolate that has connections: each is a request to the registry
const PACE = 250; // ms that traffic waits before it is reported, plus the same for each 100 connections of the isolate
const MOST_UNTOLD = 1024 * 1024; // bytes of one connection that wait to be reported; more are only counted
const MOST_EVENTS = 200; // events of one connection that wait to be reported
const STAYS = 10_000; // ms after which an idle connection reports that it is still open
const SILENT = 5_000; // ms after which a running connection that has reported nothing is asked whether it is still open
const MOST_ASKED = 50; // such questions at once
const ANSWER = 2_000; // ms to answer one

/** A piece of traffic. With neither bytes nor an end: both sides speak TLS from here on. */
interface Passed {
  /** ms since the epoch. */
  readonly at: number;
  readonly ours: boolean;
  readonly bytes?: Uint8Array;
  readonly end?: TappedEnd;
  /** The number of bytes that passed and are not reported. */
  readonly missed?: number;
}

/** A report of one connection. */
export interface Told {
  /** From 1. A report is repeated if it is unknown whether it arrived. */
  readonly number: number;
  readonly side: "client" | "server";
  readonly info: SessionInfo;
  readonly events: readonly SessionEvent[];
  readonly passed: readonly Passed[];
}

/** A report of one flow of datagrams. */
export interface ToldFlow extends Served {
  readonly id: string;
  readonly passed: readonly Passed[];
}

/** The answer to a report: it is kept, nothing is kept now, or its connection is not known and has to be reported from the start. */
export type Heard = "kept" | "off" | "unknown";

/** The operations on a connection from elsewhere. */
export interface Hands {
  info(): Promise<SessionInfo>;
  send(bytes: Uint8Array): Promise<Answer<SessionInfo>>;
  halfClose(): Promise<Answer<SessionInfo>>;
  end(graceful: boolean): Promise<SessionInfo>;
}

/** The calls with which a connection asks and reports. */
export interface Hearing {
  /** Whether traffic is kept; `fresh`: asks the registry now. */
  wanted(bindings: SockletBindings, fresh: boolean): Promise<boolean>;
  tell(bindings: SockletBindings, told: Told, hands: Hands | null): Promise<Heard>;
  tellFlow(bindings: SockletBindings, told: ToldFlow): Promise<Heard>;
}

class ConnectionHands extends PlatformTarget implements Hands {
  readonly #session: Session;
  readonly #pooled: boolean;

  constructor(session: Session, pooled: boolean) {
    super();
    this.#session = session;
    this.#pooled = pooled;
  }

  async info(): Promise<SessionInfo> {
    return this.#session.info();
  }

  send(bytes: Uint8Array): Promise<Answer<SessionInfo>> {
    return this.#byHand(() => this.#session.send(bytes));
  }

  halfClose(): Promise<Answer<SessionInfo>> {
    return this.#byHand(() => this.#session.halfClose());
  }

  end(graceful: boolean): Promise<SessionInfo> {
    return this.#session.end(new SocketError("ECANCELED", "the session was ended by request"), graceful);
  }

  #byHand(work: () => Promise<SessionInfo>): Promise<Answer<SessionInfo>> {
    return answer(() => {
      if (this.#pooled) throw new SocketError("EBUSY", NOT_BY_HAND);
      return work();
    });
  }
}

let open = 0; // shown connections and flows of this isolate

/** The reports of one connection or flow: each a while after something passed, and one at a time. */
class Reports {
  readonly #send: () => Promise<void>;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending: Promise<void> | undefined;

  /** `send` sends what waits, and never rejects. */
  constructor(send: () => Promise<void>) {
    this.#send = send;
  }

  soon(): void {
    this.#timer ??= setTimeout(() => void this.now(), PACE * (1 + open / 100));
  }

  /** Sends what waits, after the report that is under way. */
  async now(): Promise<void> {
    this.#timer = undefined;
    await this.#sending;
    this.#sending = this.#send();
    await this.#sending;
  }

  /** Cancels the report that is due, and waits for the one that is under way. */
  async stop(): Promise<void> {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    await this.#sending;
  }
}

/** One connection of this isolate. */
class Shown implements StreamTap {
  readonly #bindings = env as SockletBindings;
  readonly #hearing: Hearing;
  readonly #side: Told["side"];
  #session!: Session; // from run() on, which is called in the turn that makes it
  readonly #socket: StreamSocket;
  readonly #pooled: boolean;
  readonly #events: SessionEvent[];
  #passed: Passed[] = [];
  #size = 0; // bytes of them
  #missed = 0; // bytes since then that are over the bound
  #state: "asking" | "kept" | "off" = "asking";
  #number = 0;
  #known = false; // it was reported, and is known
  #heard = 0; // the id of the newest event that arrived
  readonly #reports = new Reports(() => this.#tellAll());
  #toldAt = 0;
  #done = false; // the report of its end arrived

  constructor(hearing: Hearing, socket: StreamSocket, events: SessionEvent[], pooled: boolean) {
    this.#hearing = hearing;
    this.#socket = socket;
    this.#events = events;
    this.#pooled = pooled;
    this.#side = pooled ? "client" : "server";
    this.#begin(); // before the handler does anything
  }

  /** Shows it until it is over. Never rejects. */
  async run(session: Session): Promise<void> {
    this.#session = session;
    open++;
    const timer = setInterval(() => void this.#look(false), LOOK);
    try {
      await Promise.all([this.#look(true), this.#session.whenOver]);
    } finally {
      open--;
      clearInterval(timer);
      await this.#reports.stop();
      if (this.#state === "kept" && !this.#done) await this.#reports.now();
    }
  }

  /** Something happened to its session. */
  changed(): void {
    this.#soon();
  }

  /** From here on traffic is kept. */
  #begin(): void {
    const { bytesRead, bytesWritten } = this.#socket;
    this.#passed = [];
    this.#size = 0;
    this.#missed = bytesRead + bytesWritten;
    tapStream(this.#socket, this);
  }

  async #look(fresh: boolean): Promise<void> {
    let wanted: boolean;
    try {
      wanted = await this.#hearing.wanted(this.#bindings, fresh);
    } catch {
      if (this.#state !== "asking") return; // the state stays
      wanted = false;
    }
    if (wanted && this.#state === "off") this.#begin();
    if (!wanted) this.#letGo();
    else if (this.#state !== "kept" || Date.now() - this.#toldAt > STAYS) {
      this.#state = "kept";
      this.#soon();
    }
  }

  #letGo(): void {
    this.#state = "off";
    this.#known = false;
    this.#passed = [];
    tapStream(this.#socket, null);
  }

  #soon(): void {
    if (this.#state === "kept") this.#reports.soon();
  }

  async #tellAll(): Promise<void> {
    for (let attempt = 1; attempt <= 2 && this.#state === "kept"; attempt++) {
      const told = this.#take();
      this.#toldAt = Date.now();
      const hands = this.#known ? null : new ConnectionHands(this.#session, this.#pooled);
      let heard: Heard;
      try {
        heard = await again(() => this.#hearing.tell(this.#bindings, told, hands), "what is recorded");
      } catch {
        heard = "unknown"; // the earlier reports are lost
      }
      if (this.#session.over && heard === "off") return;
      if (heard === "off") return this.#letGo();
      this.#known = heard === "kept";
      if (this.#known) {
        this.#heard = told.events.at(-1)?.id ?? this.#heard;
        this.#done = isOver(told.info.state);
        return;
      }
      // It is reported from the start: earlier bytes are only counted.
      const { bytesRead, bytesWritten } = this.#session.info();
      let waits = this.#size;
      if (attempt === 1) {
        this.#passed = [...told.passed, ...this.#passed];
        for (const { bytes } of told.passed) waits += bytes?.length ?? 0;
      }
      this.#size = waits;
      this.#passed.unshift({
        at: Date.now(),
        ours: false,
        missed: Math.max(0, bytesRead + bytesWritten - waits),
      });
    }
  }

  #take(): Told {
    if (this.#missed > 0) this.#passed.push({ at: Date.now(), ours: false, missed: this.#missed });
    const passed = this.#passed;
    this.#passed = [];
    this.#size = 0;
    this.#missed = 0;
    const from = this.#known ? this.#heard : 0;
    const events = this.#events.filter(({ id }) => id > from);
    return { number: ++this.#number, side: this.#side, info: this.#session.info(), events, passed };
  }

  // ---- As a tap ----

  #add(passed: Omit<Passed, "at">): void {
    const size = passed.bytes?.length ?? 0;
    if (this.#size + size > MOST_UNTOLD) {
      this.#missed += size;
      return;
    }
    this.#size += size;
    this.#passed.push({ at: Date.now(), ...passed });
    this.#soon();
  }

  received(bytes: Uint8Array): void {
    this.#add({ ours: false, bytes: bytes.slice() });
  }

  sent(data: Data): void {
    this.#add({ ours: true, bytes: toBytes(data).slice() });
  }

  peerEnded(end: TappedEnd): void {
    this.#add({ ours: false, end });
  }

  ended(end: TappedEnd): void {
    this.#add({ ours: true, end });
  }

  secured(): void {
    this.#add({ ours: true });
  }

  missed(bytes: number): void {
    this.#missed += bytes;
  }
}

/** The options of a shown session, and its events. */
const shownAs = (served: Served, changed: () => void): [ShownSetup, SessionEvent[]] => {
  const events: SessionEvent[] = [];
  const options: ShownSetup = {
    ...served,
    id: newSessionId(),
    secrets: secretsOf(env as SockletBindings),
    store: {
      save(change) {
        events.push(...change.events);
        if (events.length > MOST_EVENTS) events.splice(0, events.length - MOST_EVENTS);
        changed();
      },
    },
  };
  return [options, events];
};

/** Shows a connection that this isolate accepted, as `AcceptedPlane` has it. */
export const showAccepted = (
  hearing: Hearing,
  served: Served,
  socket: StreamSocket,
  run: (hooks: SessionHooks) => unknown,
  over: Promise<void>,
): Promise<unknown> => {
  const [options, events] = shownAs(served, () => shown.changed());
  const shown = new Shown(hearing, socket, events, false);
  const { session, outcome } = acceptedSession(options, socket, run, over);
  waitUntil(shown.run(session));
  return outcome;
};

/** Shows a connection of a pool that this object opened. */
export const showPooled = (
  hearing: Hearing,
  served: Served,
  socket: StreamSocket,
  over: Promise<unknown>,
): void => {
  const [options, events] = shownAs(served, () => shown.changed());
  const shown = new Shown(hearing, socket, events, true);
  waitUntil(shown.run(pooledSession(options, socket, over)));
};

/** One flow of datagrams of this isolate. */
class ShownFlow {
  readonly #bindings = env as SockletBindings;
  readonly #hearing: Hearing;
  readonly #served: Served;
  readonly #id = newSessionId();
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #first: Promise<void>;
  #passed: Passed[] = [];
  #size = 0; // bytes of them
  #missed = 0; // bytes that are over the bound, or were not reported
  #state: "asking" | "kept" | "off" = "asking";
  readonly #reports = new Reports(() => this.#tellAll());

  constructor(hearing: Hearing, served: Served) {
    this.#hearing = hearing;
    this.#served = served;
    open++;
    this.#timer = setInterval(() => void this.#look(false), LOOK);
    this.#first = this.#look(true);
  }

  /** A datagram came, or is sent. */
  add(data: Uint8Array, ours: boolean): void {
    if (this.#state === "off") return;
    if (this.#size + data.length > MOST_UNTOLD || this.#passed.length === MOST_EVENTS) {
      this.#missed += data.length;
      return;
    }
    this.#size += data.length;
    this.#passed.push({ at: Date.now(), ours, bytes: data.slice() });
    this.#soon();
  }

  /** Reports what is left. Never rejects. */
  async end(): Promise<void> {
    open--;
    clearInterval(this.#timer);
    await this.#first;
    await this.#reports.stop();
    await this.#reports.now();
  }

  async #look(fresh: boolean): Promise<void> {
    try {
      const wanted = await this.#hearing.wanted(this.#bindings, fresh);
      if (wanted) this.#state = "kept";
      else this.#letGo();
    } catch {
      if (this.#state === "asking") this.#letGo();
    }
    this.#soon();
  }

  #letGo(): void {
    this.#state = "off";
    this.#passed = [];
    this.#size = 0;
    this.#missed = 0;
  }

  #soon(): void {
    if (this.#state === "kept" && this.#passed.length > 0) this.#reports.soon();
  }

  async #tellAll(): Promise<void> {
    if (this.#state !== "kept" || this.#passed.length === 0) return;
    const passed = this.#passed;
    const size = this.#size;
    const missed = this.#missed;
    if (missed > 0) passed.push({ at: Date.now(), ours: false, missed });
    this.#passed = [];
    this.#size = 0;
    this.#missed = 0;
    try {
      const told = { ...this.#served, id: this.#id, passed };
      if ((await this.#hearing.tellFlow(this.#bindings, told)) === "off") this.#letGo();
    } catch {
      this.#missed += size + missed; // it may have arrived: it is not sent twice
    }
  }
}

/** Serves a flow of datagrams of this isolate with `serve`, and shows its traffic. */
export const showFlow = async <Chunk extends { readonly data: Uint8Array }>(
  hearing: Hearing,
  served: Served,
  arriving: AsyncIterable<Chunk>,
  send: (bytes: Uint8Array) => Promise<void>,
  serve: (arriving: AsyncIterable<Chunk>, send: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> => {
  const flow = new ShownFlow(hearing, served);
  const shown = async function* (): AsyncGenerator<Chunk, void, undefined> {
    for await (const chunk of arriving) {
      flow.add(chunk.data, false);
      yield chunk;
    }
  };
  try {
    await serve(shown(), (bytes) => {
      flow.add(bytes, true);
      return send(bytes);
    });
  } finally {
    waitUntil(flow.end());
  }
};

// ---- In the object that keeps them ----

/** A connection as that object knows it. */
interface Mirror {
  info: SessionInfo;
  log: EventLog<SessionEvent>;
  /** `null` if it is over. */
  hands: Hands | null;
  tap: StreamTap | null;
  /** The number of its last report, and when it came. */
  number: number;
  heard: number;
  /** The number of its last change. */
  changed: number;
}

/** What has changed since the change `after`. */
export interface MirrorChanges {
  /** Identifies the memory that counts the changes. */
  readonly memory: string;
  readonly last: number;
  readonly sessions: readonly SessionInfo[];
  /** The flows of datagrams in which something has just passed. */
  readonly flows: readonly FlowInfo[];
}

/** Keeps the report of a flow of datagrams, if the recorder is on. */
export const keepFlow = ({ id, handler, address, passed }: ToldFlow, recorder: Recorder): Heard => {
  if (!recorder.on) return "off";
  for (const { at, ours, bytes, missed } of passed) {
    recorder.at(at, () => {
      if (bytes !== undefined) recorder.datagram(handler, address, null, bytes, ours, id);
      else if (missed !== undefined) recorder.missedOf(id, missed);
    });
  }
  return "kept";
};

const sizeOf = (event: SessionEvent): number => JSON.stringify(event).length;

/** The connections that isolates have reported. */
export class Mirrors {
  readonly #memory = crypto.randomUUID();
  readonly #mirrors = new Map<string, Mirror>();
  #changes = 0;

  /** Keeps a report, if the recorder is on. */
  tell({ number, side, info, events, passed }: Told, hands: Hands | null, recorder: Recorder): Heard {
    if (!recorder.on) {
      this.clear();
      return "off";
    }
    let mirror = this.#mirrors.get(info.id);
    if (mirror === undefined) {
      if (hands === null) return "unknown";
      mirror = { info, log: new EventLog(sizeOf), hands: null, tap: null, number: 0, heard: 0, changed: 0 };
      this.#mirrors.set(info.id, mirror);
      this.#bound(recorder.maxConnections);
    }
    if (number <= mirror.number) return "kept"; // a repetition
    if (hands !== null) {
      drop(mirror.hands);
      mirror.hands = (hands as Hands & { dup(): Hands }).dup(); // it outlives the call
    }
    recorder.at(passed[0]?.at ?? Date.now(), () => {
      mirror.tap ??= recorder.carried({ id: info.id, side, address: info.address });
    });
    this.#change(mirror, info);
    const { log } = mirror;
    const fresh = events.filter(({ id }) => id > log.last);
    if (fresh.length > 0 && fresh[0]?.id !== log.last + 1) mirror.log = new EventLog(sizeOf, fresh);
    else for (const event of fresh) log.add(() => event);
    mirror.number = number;
    if (mirror.tap !== null)
      for (const one of passed) recorder.at(one.at, () => pass(one, mirror.tap as StreamTap));
    if (isOver(info.state)) this.#over(mirror);
    return "kept";
  }

  /** Nothing is kept any more. */
  clear(): void {
    for (const mirror of this.#mirrors.values()) this.#over(mirror);
    this.#mirrors.clear();
  }

  /** At most 1 000 of the connections that have changed since. */
  changes(after: number): Omit<MirrorChanges, "flows"> {
    this.#ask();
    const changed = [...this.#mirrors.values()]
      .filter((mirror) => mirror.changed > after)
      .sort((one, other) => one.changed - other.changed)
      .slice(0, 1_000);
    return {
      memory: this.#memory,
      last: changed.at(-1)?.changed ?? after,
      sessions: changed.map(({ info }) => info),
    };
  }

  list({ state, handler, limit, before }: SessionQuery): SessionPage {
    const sessions = [...this.#mirrors.values()]
      .map(({ info }) => info)
      .filter(
        (info) =>
          (state === undefined || info.state === state) &&
          (handler === undefined || info.handler === handler) &&
          (before === undefined || info.id < before),
      );
    return mergePages([{ sessions, next: null }], limit);
  }

  get(id: string): SessionInfo | null {
    return this.#mirrors.get(id)?.info ?? null;
  }

  events(id: string, after: number, signal: AbortSignal): AsyncIterable<SessionEvent> | null {
    return this.#mirrors.get(id)?.log.follow(after, signal) ?? null;
  }

  /** Runs an operation on a connection; `null` if it is not known. */
  async byHand(
    id: string,
    work: (hands: Hands) => Promise<Answer<SessionInfo>>,
  ): Promise<Answer<SessionInfo | null>> {
    const mirror = this.#mirrors.get(id);
    if (mirror === undefined) return { value: null };
    const { hands, info } = mirror;
    return answer(async () => {
      if (hands === null) throw new SocketError("ENOTCONN", `the session is ${info.state}, not running`);
      const done = settled(await work(hands));
      this.#change(mirror, done);
      return done;
    });
  }

  async end(id: string, graceful: boolean): Promise<SessionInfo | null> {
    const mirror = this.#mirrors.get(id);
    if (mirror?.hands) this.#change(mirror, await mirror.hands.end(graceful));
    return mirror?.info ?? null;
  }

  #change(mirror: Mirror, info: SessionInfo): void {
    if (isOver(mirror.info.state) && !isOver(info.state)) return;
    mirror.info = info;
    mirror.heard = Date.now();
    mirror.changed = ++this.#changes;
  }

  #over(mirror: Mirror): void {
    drop(mirror.hands);
    mirror.hands = null;
    mirror.log.end();
  }

  /** Asks running connections that have been silent for long whether they are still open. */
  #ask(): void {
    const silent = [...this.#mirrors.values()]
      .filter(({ hands, heard }) => hands !== null && heard < Date.now() - SILENT)
      .slice(0, MOST_ASKED);
    for (const mirror of silent) void this.#askOne(mirror);
  }

  async #askOne(mirror: Mirror): Promise<void> {
    mirror.heard = Date.now();
    try {
      const info = await within((mirror.hands as Hands).info(), ANSWER);
      if (info === LATE || mirror.hands === null) return; // it may be busy
      const { bytesRead, bytesWritten } = mirror.info;
      if (info.bytesRead !== bytesRead || info.bytesWritten !== bytesWritten) this.#change(mirror, info);
    } catch {
      if (mirror.hands === null) return;
      const message = "ECONNABORTED: the isolate that had this connection is gone";
      const { bytesRead, bytesWritten } = mirror.info;
      const error = { code: "ECONNABORTED" as const, message };
      const at = new Date().toISOString();
      mirror.log.add((id) => ({ id, at, type: "cut", bytesRead, bytesWritten, error }));
      this.#change(mirror, { ...mirror.info, state: "cut", endedAt: at, error });
      this.#over(mirror);
    }
  }

  /** Drops the oldest, finished ones first. */
  #bound(most: number): void {
    if (this.#mirrors.size <= most) return;
    const over = [...this.#mirrors].find(([, { hands }]) => hands === null);
    const [id, mirror] = over ?? ([...this.#mirrors][0] as [string, Mirror]);
    this.#over(mirror);
    this.#mirrors.delete(id);
  }
}

/** Disposes of a stub; the platform's types do not show that it can be disposed of. */
const drop = (hands: Hands | null): void =>
  (hands as (Hands & Partial<Disposable>) | null)?.[Symbol.dispose]?.();

const pass = ({ ours, bytes, end, missed }: Passed, tap: StreamTap): void => {
  if (missed !== undefined) tap.missed(missed);
  else if (bytes !== undefined) ours ? tap.sent(bytes) : tap.received(bytes);
  else if (end === undefined) tap.secured();
  else if (ours) tap.ended(end);
  else tap.peerEnded(end);
};
