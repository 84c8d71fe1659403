/// <reference types="@cloudflare/workers-types" />
/**
 * `recording`: records the traffic of a Worker's sessions, while a recording is on or somebody watches.
 * A Worker includes this code only if it asks for it.
 *
 *     the page ──▶ the registry: whether traffic is kept, and within which bounds ──▶ the object of each running session
 *         └──────▶ the object of one session: its bytes
 *
 * Bytes are kept in the memory of the isolate that a session's object runs in, and never in its storage, since they may contain
 * passwords. All objects of an isolate share one recorder, because they share its memory. So the bytes are lost with the isolate, or
 * when the object moves to another one.
 *
 * A watcher renews a lease. When the lease ends, each isolate drops what it kept.
 */

import { deadline } from "../../core/bytes/alarm.ts";
import { eventStream } from "../../core/control/http/sse.ts";
import {
  BOUNDS,
  type DecodedPart,
  decoderOf,
  type FlowInfo,
  type FoundBytes,
  type RecordedPart,
  type RecordingInfo,
  type RecordingLimits,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
} from "../../core/control/plane.ts";
import { type OpenConnection, Recorder } from "../../core/control/recording/recorder.ts";
import type { Lasting } from "../../core/control/sessions/lasting.ts";
import { Session, type SessionOptions } from "../../core/control/sessions/session.ts";
import { SocketError } from "../../core/errors.ts";
import type { PlatformState } from "../platform.ts";
import {
  type Hands,
  type Heard,
  type Hearing,
  keepFlow,
  type MirrorChanges,
  Mirrors,
  type Told,
  type ToldFlow,
} from "./accepted.ts";
import {
  type Answer,
  answer,
  type RegistryCalls,
  registryOf,
  type SessionCalls,
  type SockletBindings,
  sessionOf,
} from "./bindings.ts";
import { RegistryObject } from "./registry.ts";
import { SessionObject, type SessionSetup } from "./session.ts";

const MAX_BYTES = 16 * 1024 * 1024; // in each isolate, which has 128 MB for all that it does
const MOST_BYTES = 64 * 1024 * 1024;
const MAX_CONNECTIONS = 1_000;
const LEASE = 5_000; // ms that recording continues after the last look
const ANSWER = 2_000; // ms that a look waits for a session's object; it must not wait for one that hangs
const JUST = 10_000; // ms since the last datagram, in which a flow is reported to a watcher
const SEARCH = 5_000; // ms that a search waits for an isolate
const STALE = 2_000; // ms after which an isolate asks the registry before it shows what it kept: a stop may not have reached it
const HOLDERS = 4; // objects that the registry knows in each isolate that keeps something: one that moves away cannot reach it any more
const MOST_ISOLATES = 200; // that the registry knows: a call asks each, and a request may make 1 000 calls
const WARM = 5_000; // ms between two calls to the objects of finished sessions: workerd evicts an object without calls after 10 s
const NEWEST = BOUNDS.pageSize; // finished sessions that a look covers

/** Whether to record, as the registry says. */
interface RecordingState extends Required<RecordingLimits> {
  /** When the registry said so, by its clock. */
  readonly at: number;
  readonly started: boolean;
  /** When the lease of the watchers ends, in ms since the epoch. */
  readonly until: number;
  /** How often a recording was stopped: what was kept before the last time is forgotten. */
  readonly stops: number;
}

/** An object, and the isolate that it runs in. */
interface Holder {
  readonly object: string;
  readonly isolate: string;
}

/** What a session's object answers to a look. */
interface LookedAt {
  readonly info: SessionInfo | null;
  /** The name of its isolate. */
  readonly isolate: string;
  readonly recording: RecordingInfo;
}

/** What the registry answers to a look. */
interface Looked {
  readonly recording: RecordingInfo;
  /** The running sessions, and the newest finished ones. */
  readonly sessions: readonly SessionInfo[];
}

/** The calls of a recording session's object. */
export interface RecordedCalls extends SessionCalls {
  record(state: RecordingState): Promise<LookedAt>;
  recordedPart(id: string, after: number, maxBytes: number): Promise<RecordedPart | null>;
  recordedMessages(id: string): Promise<DecodedPart | null>;
  transcript(id: string): Promise<ReadableStream<Uint8Array> | null>;
  find(bytes: Uint8Array): Promise<FoundBytes>;
}

/** The calls of the object that keeps connections held elsewhere: accepted ones, and those of pools. */
export interface ShownCalls extends RecordedCalls {
  /** A connection reports its traffic. */
  told(state: RecordingState, told: Told, hands: Hands | null): Promise<Heard>;
  /** A flow of datagrams reports its traffic. */
  toldFlow(state: RecordingState, told: ToldFlow): Promise<Heard>;
  shownFlows(): Promise<readonly FlowInfo[]>;
  shownChanges(after: number): Promise<MirrorChanges>;
  shownList(query: SessionQuery): Promise<SessionPage>;
  shownInfo(id: string): Promise<SessionInfo | null>;
  shownEvents(id: string, after: number): Promise<ReadableStream<Uint8Array> | null>;
  shownSend(id: string, bytes: Uint8Array): Promise<Answer<SessionInfo | null>>;
  shownHalfClose(id: string): Promise<Answer<SessionInfo | null>>;
  shownEnd(id: string, graceful: boolean): Promise<SessionInfo | null>;
}

/** The calls of a registry that knows whether traffic is kept. */
export interface RecordingCalls extends RegistryCalls {
  /** Whether traffic is kept; if so, `holder` keeps it from now on. */
  recordingState(holder?: Holder): Promise<RecordingState>;
  /** What is kept now; with `lease`, on behalf of a watcher. */
  look(lease: boolean): Promise<Looked>;
  setRecording(started: boolean | null, limits: RecordingLimits): Promise<Answer<RecordingInfo>>;
  find(bytes: Uint8Array): Promise<FoundBytes>;
}

export const recordedSession = (env: SockletBindings, id: string): RecordedCalls =>
  sessionOf(env, id) as RecordedCalls;
const SHOWN = "accepted"; // its name: no session's id
/** The object that keeps connections held elsewhere. */
export const shownConnections = (env: SockletBindings): ShownCalls => sessionOf(env, SHOWN) as ShownCalls;
export const recordingRegistry = (env: SockletBindings): RecordingCalls => registryOf(env) as RecordingCalls;

// ---- In a session's isolate ----

/** What one isolate keeps. */
class IsolateRecorder {
  readonly id = crypto.randomUUID();
  readonly recorder = new Recorder();
  /** How many times it was turned on: a tap from an earlier turn is no longer in place. */
  turns = 0;
  #state: RecordingState | undefined;
  #setAt = 0; // when that came, in ms since the epoch

  /** Applies the registry's state. */
  set(state: RecordingState): void {
    const { at, stops } = this.#state ?? { at: 0, stops: state.stops };
    if (state.at < at || state.stops < stops) return; // an outdated message
    this.#state = state;
    this.#setAt = Date.now();
    if (state.stops > stops) this.recorder.stop();
    this.lapse();
    const { maxBytes, maxConnections } = state;
    if (!this.#wanted()) return;
    if (!this.recorder.on) this.turns++;
    this.recorder.start({ maxBytes, maxConnections });
  }

  /** The last answer of the registry. */
  get state(): RecordingState | undefined {
    return this.#state;
  }

  /** Whether it keeps something that the registry may have stopped. */
  get stale(): boolean {
    return this.recorder.on && this.#setAt < Date.now() - STALE;
  }

  /** Drops what it kept, if no recording or watcher needs it any more. */
  lapse(): void {
    if (this.recorder.on && !this.#wanted()) this.recorder.stop();
  }

  #wanted(): boolean {
    return this.#state !== undefined && (this.#state.started || this.#state.until > Date.now());
  }
}

let ofIsolate: IsolateRecorder | undefined; // made on demand: a Worker cannot make random numbers while it loads
const isolate = (): IsolateRecorder => {
  ofIsolate ??= new IsolateRecorder();
  return ofIsolate;
};

let asked = 0; // when this isolate asked the registry last, in ms since the epoch

/** How the connections of this isolate ask and report. */
export const hearing: Hearing = {
  async wanted(bindings, fresh) {
    if (fresh || asked + 1_000 < Date.now()) {
      asked = Date.now();
      isolate().set(await recordingRegistry(bindings).recordingState());
    }
    isolate().lapse();
    return isolate().recorder.on;
  },
  async tell(bindings, told, hands) {
    const { state } = isolate();
    return state === undefined ? "off" : shownConnections(bindings).told(state, told, hands);
  },
  async tellFlow(bindings, told) {
    const { state } = isolate();
    return state === undefined ? "off" : shownConnections(bindings).toldFlow(state, told);
  },
};

/** Callbacks for the connections of a session's object. */
interface Watches {
  /** Called before each dial of this session, to find out whether to record. */
  dials(id: string): Promise<void>;
  opened(connection: OpenConnection): void;
  closed(id: string): void;
}

/** The code that runs an object's sessions, with those callbacks. */
const watched = (lasting: Lasting | undefined, watches: Watches): Lasting => {
  const over = (options: SessionOptions): SessionOptions => ({
    ...options,
    run: async (hooks) => {
      const { id, address } = options;
      await watches.dials(id);
      try {
        return await options.run({
          ...hooks,
          opened(socket) {
            hooks.opened(socket);
            watches.opened({ id, address, socket, side: "client" });
          },
        });
      } finally {
        watches.closed(id);
      }
    },
  });
  return {
    check: (app) => lasting?.check(app),
    start: (options) => (lasting ?? Session).start(over(options)),
    resume(record, options) {
      if (lasting !== undefined) return lasting.resume(record, over(options));
      throw new SocketError("ERR_APP", "the version that is deployed now has no lasting sessions");
    },
  };
};

/** A session's object whose bytes can be looked at. */
export class RecordedSessionObject extends SessionObject implements ShownCalls {
  readonly #setup: SessionSetup;
  #open: OpenConnection | undefined;
  #passed = 0; // bytes of the session's earlier connections
  #turn = 0; // of the isolate's recorder, when the connection was tapped
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #mirrors = new Mirrors(); // in the object that keeps connections held elsewhere
  #mirrored = 0; // the turn of the isolate's recorder in which they were reported

  constructor(state: PlatformState, env: unknown, setup: SessionSetup) {
    const bindings = env as SockletBindings;
    const watches: Watches = {
      dials: async (object) => {
        try {
          isolate().set(await recordingRegistry(bindings).recordingState({ object, isolate: isolate().id }));
        } catch {
          // The session must not fail because of this: it is recorded once the registry says so.
        }
        const { bytesRead = 0, bytesWritten = 0 } = (await this.info()) ?? {};
        this.#passed = bytesRead + bytesWritten;
      },
      opened: (connection) => this.#opened(connection),
      closed: (id) => {
        this.#open = undefined;
        isolate().recorder.over(id);
      },
    };
    super(state, env, { ...setup, lasting: watched(setup.lasting, watches) });
    this.#setup = setup;
  }

  #opened(connection: OpenConnection): void {
    this.#open = connection;
    this.#turn = 0;
    this.#tap();
  }

  #tap(): void {
    const { recorder, turns } = isolate();
    if (!recorder.on || this.#open === undefined || this.#turn === turns) return;
    this.#turn = turns;
    const { bytesRead, bytesWritten } = this.#open.socket;
    recorder.opened({ ...this.#open, passed: this.#passed + bytesRead + bytesWritten });
  }

  async record(state: RecordingState): Promise<LookedAt> {
    const { id, recorder } = isolate();
    isolate().set(state);
    this.#tap();
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    if (recorder.on && !state.started) {
      this.#timer = setTimeout(() => isolate().lapse(), Math.max(0, state.until - Date.now()) + 1);
    }
    return { info: await this.info(), isolate: id, recording: recorder.info() };
  }

  /** An isolate that a stop did not reach finds out before it shows anything. */
  async #refresh(): Promise<void> {
    if (isolate().stale) isolate().set(await recordingRegistry(this.env).recordingState());
    isolate().lapse();
  }

  async recordedPart(id: string, after: number, maxBytes: number): Promise<RecordedPart | null> {
    await this.#refresh();
    return isolate().recorder.part(id, after, maxBytes);
  }

  async recordedMessages(id: string): Promise<DecodedPart | null> {
    await this.#refresh();
    const info = (await this.info()) ?? this.#shown().get(id);
    const { recorder } = isolate();
    const handler = info?.handler ?? recorder.handlerOf(id); // of a session, or of a flow
    const decode = handler && decoderOf(this.#setup.app, handler, info?.direction ?? "inbound");
    return decode ? recorder.messages(id, decode) : null;
  }

  async transcript(id: string): Promise<ReadableStream<Uint8Array> | null> {
    await this.#refresh();
    const lines = isolate().recorder.transcript(id);
    const first = lines.next();
    if (first.done) return null;
    const encoder = new TextEncoder();
    return new ReadableStream({
      type: "bytes", // the kind that a Durable Object's RPC carries
      start: (controller) => controller.enqueue(encoder.encode(first.value)),
      pull(controller: ReadableByteStreamController) {
        const { done, value } = lines.next();
        if (!done) return controller.enqueue(encoder.encode(value));
        controller.close();
        controller.byobRequest?.respond(0); // a reader with its own buffer waits for this
      },
    });
  }

  find(bytes: Uint8Array): Promise<FoundBytes> {
    return isolate().recorder.find(bytes, new AbortController().signal);
  }

  // ---- Connections held elsewhere ----

  /** The connections that were reported since the recorder was turned on. */
  #shown(): Mirrors {
    const { recorder, turns } = isolate();
    isolate().lapse();
    if (!recorder.on || this.#mirrored !== turns) this.#mirrors.clear();
    this.#mirrored = turns;
    return this.#mirrors;
  }

  async told(state: RecordingState, told: Told, hands: Hands | null): Promise<Heard> {
    isolate().set(state);
    return this.#shown().tell(told, hands, isolate().recorder);
  }

  async toldFlow(state: RecordingState, told: ToldFlow): Promise<Heard> {
    isolate().set(state);
    return keepFlow(told, isolate().recorder);
  }

  async shownFlows(): Promise<readonly FlowInfo[]> {
    await this.#refresh();
    return isolate().recorder.flows();
  }

  async shownChanges(after: number): Promise<MirrorChanges> {
    const just = Date.now() - JUST;
    const flows = isolate()
      .recorder.flows()
      .filter(({ lastAt }) => Date.parse(lastAt) > just);
    return { ...this.#shown().changes(after), flows };
  }

  async shownList(query: SessionQuery): Promise<SessionPage> {
    return this.#shown().list(query);
  }

  async shownInfo(id: string): Promise<SessionInfo | null> {
    return this.#shown().get(id);
  }

  async shownEvents(id: string, after: number): Promise<ReadableStream<Uint8Array> | null> {
    const leaving = new AbortController();
    const events = this.#shown().events(id, after, leaving.signal);
    return events && eventStream(events, leaving);
  }

  shownSend(id: string, bytes: Uint8Array): Promise<Answer<SessionInfo | null>> {
    return this.#shown().byHand(id, (hands) => hands.send(bytes));
  }

  shownHalfClose(id: string): Promise<Answer<SessionInfo | null>> {
    return this.#shown().byHand(id, (hands) => hands.halfClose());
  }

  shownEnd(id: string, graceful: boolean): Promise<SessionInfo | null> {
    return this.#shown().end(id, graceful);
  }
}

// ---- In the registry ----

/** The registry that controls recording. */
export class RecordingRegistryObject extends RegistryObject implements RecordingCalls {
  #until = 0;
  #warmed = 0;
  #unreached = 0; // isolates, when all were asked last
  readonly #isolates = new Map<string, { readonly recording: RecordingInfo; readonly at: number }>();

  async recordingState(holder?: Holder): Promise<RecordingState> {
    const state = this.#state();
    if (holder !== undefined && isOn(state)) this.#holds(holder);
    return state;
  }

  #state(): RecordingState {
    const { sql } = this.ctx.storage;
    sql.exec(SCHEMA);
    const [row] = sql
      .exec<{ started: number; bytes: number; connections: number; stops: number }>(
        "SELECT started, bytes, connections, stops FROM recorded",
      )
      .toArray();
    return {
      at: Date.now(),
      started: row?.started === 1,
      until: this.#until,
      stops: row?.stops ?? 0,
      maxBytes: row?.bytes ?? MAX_BYTES,
      maxConnections: row?.connections ?? MAX_CONNECTIONS,
    };
  }

  look(lease: boolean): Promise<Looked> {
    const now = Date.now();
    if (lease) this.#until = now + LEASE;
    return this.#tell(!lease || now >= this.#warmed + WARM);
  }

  setRecording(started: boolean | null, limits: RecordingLimits): Promise<Answer<RecordingInfo>> {
    return answer(async () => {
      const state = this.#state();
      const { maxBytes, maxConnections } = { ...state, ...limits };
      if (maxBytes > MOST_BYTES) {
        throw new SocketError(
          "EINVAL",
          `maxBytes: must be at most ${MOST_BYTES} in a Worker, whose isolates have 128 MB each for all that they do, and is ${maxBytes}`,
        );
      }
      this.ctx.storage.sql.exec(
        "INSERT OR REPLACE INTO recorded VALUES (1, ?, ?, ?, ?)",
        (started ?? state.started) ? 1 : 0,
        maxBytes,
        maxConnections,
        state.stops + (started === false ? 1 : 0),
      );
      if (started === false) this.#isolates.clear();
      return (await this.#tell(true)).recording;
    });
  }

  /** Notifies the objects of running sessions, and with `all` those of the newest finished ones and all others that keep something. */
  async #tell(all: boolean): Promise<Looked> {
    const running = this.#sessions("WHERE ended IS NULL");
    const over = this.#sessions("WHERE ended IS NOT NULL ORDER BY id DESC LIMIT ?", NEWEST);
    if (all) this.#warmed = Date.now();
    const state = this.#state();
    const told = [...running, ...(all ? over : [])].map(({ id }) => id);
    const { looked, unreached } = await this.#reach(state, told, all);
    if (all) this.#unreached = unreached;
    const now = Date.now();
    for (const { isolate, recording } of looked.values()) this.#isolates.set(isolate, { recording, at: now });
    let [bytes, conversations, dropped] = [0, 0, 0];
    for (const [id, { recording, at }] of this.#isolates) {
      if (at < now - 2 * WARM) this.#isolates.delete(id);
      else {
        bytes += recording.bytes;
        conversations += recording.conversations;
        dropped += recording.dropped;
      }
    }
    const { started, maxBytes, maxConnections } = state;
    const kept = { on: isOn(state), started, maxBytes, maxConnections, bytes, conversations, dropped };
    const fresh = running.flatMap(({ id }) => looked.get(id)?.info ?? []);
    return {
      recording: this.#unreached > 0 ? { ...kept, unreached: this.#unreached } : kept,
      sessions: [...fresh, ...over.filter(({ id }) => !fresh.some((info) => info.id === id))],
    };
  }

  #sessions(clause: string, ...bound: number[]): SessionInfo[] {
    return this.ctx.storage.sql
      .exec<{ info: string }>(`SELECT info FROM sessions ${clause}`, ...bound)
      .toArray()
      .map(({ info }) => JSON.parse(info));
  }

  /** Asks each isolate that keeps something, through one object in it. */
  async find(bytes: Uint8Array): Promise<FoundBytes> {
    const state = this.#state();
    if (!isOn(state)) return { ids: [], more: false };
    const running = this.#sessions("WHERE ended IS NULL").map(({ id }) => id);
    const { looked, unreached } = await this.#reach(state, running, true);
    const objects = new Map<string, string>(); // by isolate
    for (const [object, { isolate, recording }] of looked) {
      if (recording.conversations > 0) objects.set(isolate, object);
    }
    const found = await inTime(SEARCH, [...objects.values()], (object) =>
      recordedSession(this.env, object).find(bytes),
    );
    const ids = [...new Set(found.flatMap((one) => one?.ids ?? []))].sort().reverse();
    return { ids, more: unreached > 0 || found.some((one) => one?.more ?? true) };
  }

  // ---- The isolates that keep something ----

  /**
   * Notifies these objects, the one that keeps connections held elsewhere, and with `all` one object in each other isolate that keeps something.
   * Returns their answers, and the number of isolates that may keep something and were not reached.
   */
  async #reach(
    state: RecordingState,
    ids: readonly string[],
    all: boolean,
  ): Promise<{ looked: ReadonlyMap<string, LookedAt>; unreached: number }> {
    const looked = new Map<string, LookedAt>();
    const ask = async (object: string): Promise<LookedAt> => {
      const one = await recordedSession(this.env, object).record(state);
      looked.set(object, one);
      return one;
    };
    const asked = new Set([SHOWN, ...ids]);
    const holders = all ? this.#holders() : new Map<string, string[]>();
    const seen = new Set<string>(); // isolates that answered
    const silent = new Set<string>(); // isolates in which an object did not answer
    await Promise.all([
      inTime(ANSWER, [...asked], ask),
      // One after the other, until one is still in the same isolate.
      inTime(ANSWER, [...holders], async ([isolate, objects]) => {
        silent.add(isolate);
        let failed = false;
        for (const object of objects) {
          try {
            const one = await ask(object);
            if (one.isolate === isolate) break;
            this.ctx.storage.sql.exec(
              "DELETE FROM holders WHERE object = ? AND isolate = ?",
              object,
              isolate,
            );
          } catch {
            failed = true;
          }
        }
        if (!failed) silent.delete(isolate);
      }),
    ]);
    for (const [object, { isolate, recording }] of looked) {
      seen.add(isolate);
      if (!recording.on) this.ctx.storage.sql.exec("DELETE FROM holders WHERE isolate = ?", isolate);
      else if (object !== SHOWN && (holders.get(isolate)?.length ?? 0) < HOLDERS)
        this.#holds({ object, isolate });
    }
    const unreached = [...silent].filter((isolate) => !seen.has(isolate)).length;
    // If the table is full, there may be others.
    return { looked, unreached: unreached + (holders.size >= MOST_ISOLATES ? 1 : 0) };
  }

  /** The objects in each isolate, the newest first. */
  #holders(): Map<string, string[]> {
    const holders = new Map<string, string[]>();
    const rows = this.ctx.storage.sql.exec<{ object: string; isolate: string }>(
      "SELECT object, isolate FROM holders ORDER BY number DESC",
    );
    for (const { object, isolate } of rows.toArray()) {
      const objects = holders.get(isolate);
      if (objects === undefined) holders.set(isolate, [object]);
      else objects.push(object);
    }
    return holders;
  }

  /** Records that this object's traffic is kept in its isolate. */
  #holds({ object, isolate }: Holder): void {
    const { sql } = this.ctx.storage;
    const known = sql.exec("SELECT 1 FROM holders WHERE object = ? AND isolate = ?", object, isolate);
    if (known.toArray().length > 0) return;
    sql.exec("INSERT OR REPLACE INTO holders (object, isolate) VALUES (?, ?)", object, isolate);
    sql.exec(
      `DELETE FROM holders WHERE isolate = ?1
        AND number NOT IN (SELECT number FROM holders WHERE isolate = ?1 ORDER BY number DESC LIMIT ?2)`,
      isolate,
      HOLDERS,
    );
    sql.exec(
      `DELETE FROM holders WHERE isolate NOT IN
        (SELECT isolate FROM holders GROUP BY isolate ORDER BY MAX(number) DESC LIMIT ?)`,
      MOST_ISOLATES,
    );
  }
}

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS recorded
    (only INTEGER PRIMARY KEY CHECK (only = 1), started INTEGER NOT NULL, bytes INTEGER NOT NULL, connections INTEGER NOT NULL,
     stops INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS holders (number INTEGER PRIMARY KEY, object TEXT UNIQUE NOT NULL, isolate TEXT NOT NULL);
  CREATE INDEX IF NOT EXISTS by_isolate ON holders (isolate, number)`;

const isOn = ({ started, until }: RecordingState): boolean => started || until > Date.now();

/** Asks all of them at once; returns `null` for one that fails, or has not answered after `ms`. */
const inTime = async <Whom, T>(
  ms: number,
  all: readonly Whom[],
  ask: (whom: Whom) => Promise<T>,
): Promise<(T | null)[]> => {
  const late = Promise.withResolvers<null>();
  const stopTimer = deadline(ms, () => late.resolve(null));
  const asked = all.map((whom) => Promise.race([ask(whom), late.promise]).catch(() => null));
  return Promise.all(asked).finally(stopTimer);
};
