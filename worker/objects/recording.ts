/// <reference types="@cloudflare/workers-types" />
/**
 * `recording`: records what passes over the connections of a Worker's sessions, while a recording was started or somebody watches.
 * A Worker includes this code only if it asks for it.
 *
 *     the page ──▶ the registry: whether what passes is kept, and by which bounds ──▶ the object of each session that runs
 *         └──────▶ the object of one session: its bytes
 *
 * Bytes are kept in the memory of the isolate that a session's object runs in, and never in its storage, since they may contain
 * passwords. All objects of an isolate share one recorder, because they share its memory. So the bytes are lost with the isolate, or
 * when the object moves to another one.
 *
 * A watcher renews a lease. When nobody renews it, each isolate drops what it kept by itself.
 */

import { eventStream } from "../../core/control/http/sse.ts";
import {
  BOUNDS,
  type DecodedPart,
  decoderOf,
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
import { type Hands, type Heard, type Hearing, type MirrorChanges, Mirrors, type Told } from "./accepted.ts";
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
const WARM = 5_000; // ms between two calls to the objects of finished sessions: workerd evicts an object that nobody calls after 10 s
const NEWEST = BOUNDS.pageSize; // finished sessions that a look covers

/** Whether to record, as the registry says. */
interface RecordingState extends Required<RecordingLimits> {
  /** When the registry said so, by its clock. */
  readonly at: number;
  readonly started: boolean;
  /** When the lease of the watchers ends, in ms since the epoch. */
  readonly until: number;
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

/** The calls of the object that keeps the connections which others have: accepted ones, and those of pools. */
export interface ShownCalls extends RecordedCalls {
  /** A connection tells what passed. */
  told(state: RecordingState, told: Told, hands: Hands | null): Promise<Heard>;
  shownChanges(after: number): Promise<MirrorChanges>;
  shownList(query: SessionQuery): Promise<SessionPage>;
  shownInfo(id: string): Promise<SessionInfo | null>;
  shownEvents(id: string, after: number): Promise<ReadableStream<Uint8Array> | null>;
  shownSend(id: string, bytes: Uint8Array): Promise<Answer<SessionInfo | null>>;
  shownHalfClose(id: string): Promise<Answer<SessionInfo | null>>;
  shownEnd(id: string, graceful: boolean): Promise<SessionInfo | null>;
}

/** The calls of a registry that knows whether what passes is kept. */
export interface RecordingCalls extends RegistryCalls {
  recordingState(): Promise<RecordingState>;
  /** What is kept now; with `lease`, on behalf of a watcher. */
  look(lease: boolean): Promise<Looked>;
  setRecording(started: boolean | null, limits: RecordingLimits): Promise<Answer<RecordingInfo>>;
  find(bytes: Uint8Array): Promise<FoundBytes>;
}

export const recordedSession = (env: SockletBindings, id: string): RecordedCalls =>
  sessionOf(env, id) as RecordedCalls;
const SHOWN = "accepted"; // its name: no session's id
/** The object that keeps the connections which others have. */
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

  /** Applies the registry's state. */
  set(state: RecordingState): void {
    if (state.at < (this.#state?.at ?? 0)) return; // it came late
    this.#state = state;
    this.lapse();
    const { maxBytes, maxConnections } = state;
    if (!this.#wanted()) return;
    if (!this.recorder.on) this.turns++;
    this.recorder.start({ maxBytes, maxConnections });
  }

  /** What the registry said last. */
  get state(): RecordingState | undefined {
    return this.#state;
  }

  /** Forgets what it kept, where nobody wants it any more. */
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

/** How the connections of this isolate ask, and tell. */
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
};

/** Told of the connections of a session's object. */
interface Watches {
  /** Called before each dial, to find out whether to record. */
  dials(): Promise<void>;
  opened(connection: OpenConnection): void;
  closed(id: string): void;
}

/** The code that runs an object's sessions, with those callbacks. */
const watched = (lasting: Lasting | undefined, watches: Watches): Lasting => {
  const over = (options: SessionOptions): SessionOptions => ({
    ...options,
    run: async (hooks) => {
      const { id, address } = options;
      await watches.dials();
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
      throw new SocketError("ERR_APP", "the version that is deployed now has no sessions that last");
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
  readonly #mirrors = new Mirrors(); // of the object that keeps the connections which others have
  #mirrored = 0; // the turn of the isolate's recorder in which they were told

  constructor(state: PlatformState, env: unknown, setup: SessionSetup) {
    const bindings = env as SockletBindings;
    const watches: Watches = {
      dials: async () => {
        try {
          isolate().set(await recordingRegistry(bindings).recordingState());
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

  async recordedPart(id: string, after: number, maxBytes: number): Promise<RecordedPart | null> {
    return isolate().recorder.part(id, after, maxBytes);
  }

  async recordedMessages(id: string): Promise<DecodedPart | null> {
    const info = (await this.info()) ?? this.#shown().get(id);
    const decode = info === null ? undefined : decoderOf(this.#setup.app, info.handler, info.direction);
    return decode === undefined ? null : isolate().recorder.messages(id, decode);
  }

  async transcript(id: string): Promise<ReadableStream<Uint8Array> | null> {
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

  // ---- Of the connections that others have ----

  /** Those that were told since the recorder was turned on. */
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

  async shownChanges(after: number): Promise<MirrorChanges> {
    return this.#shown().changes(after);
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
  readonly #isolates = new Map<string, { readonly recording: RecordingInfo; readonly at: number }>();

  async recordingState(): Promise<RecordingState> {
    return this.#state();
  }

  #state(): RecordingState {
    const { sql } = this.ctx.storage;
    sql.exec(
      `CREATE TABLE IF NOT EXISTS recording
        (only INTEGER PRIMARY KEY CHECK (only = 1), started INTEGER NOT NULL, bytes INTEGER NOT NULL, connections INTEGER NOT NULL)`,
    );
    const [row] = sql
      .exec<{ started: number; bytes: number; connections: number }>(
        "SELECT started, bytes, connections FROM recording",
      )
      .toArray();
    return {
      at: Date.now(),
      started: row?.started === 1,
      until: this.#until,
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
        "INSERT OR REPLACE INTO recording VALUES (1, ?, ?, ?)",
        (started ?? state.started) ? 1 : 0,
        maxBytes,
        maxConnections,
      );
      return (await this.#tell(true, started === false)).recording;
    });
  }

  /** Tells the objects of running sessions, and with `all` those of the newest finished ones; with `forget`, they first drop what they kept. */
  async #tell(all: boolean, forget = false): Promise<Looked> {
    const { sql } = this.ctx.storage;
    const infos = (clause: string, ...bound: number[]): SessionInfo[] =>
      sql
        .exec<{ info: string }>(`SELECT info FROM sessions ${clause}`, ...bound)
        .toArray()
        .map(({ info }) => JSON.parse(info));
    const running = infos("WHERE ended IS NULL");
    const over = infos("WHERE ended IS NOT NULL ORDER BY id DESC LIMIT ?", NEWEST);
    if (all) this.#warmed = Date.now();
    const state = this.#state();
    const told: { readonly id: string }[] = [...running, { id: SHOWN }, ...(all ? over : [])];
    const tell = async (as: RecordingState): Promise<(LookedAt | null)[]> => {
      const late = Promise.withResolvers<null>();
      const timer = setTimeout(() => late.resolve(null), ANSWER);
      const calls = told.map(({ id }) =>
        Promise.race([recordedSession(this.env, id).record(as), late.promise]).catch(() => null),
      );
      return Promise.all(calls).finally(() => clearTimeout(timer));
    };
    if (forget) await tell({ ...state, started: false, until: 0 });
    const looked = await tell(state);
    const now = Date.now();
    for (const one of looked) {
      if (one !== null) this.#isolates.set(one.isolate, { recording: one.recording, at: now });
    }
    let [bytes, conversations, dropped] = [0, 0, 0];
    for (const [id, { recording, at }] of this.#isolates) {
      if (at < now - 2 * WARM) this.#isolates.delete(id);
      else {
        bytes += recording.bytes;
        conversations += recording.conversations;
        dropped += recording.dropped;
      }
    }
    const { started, until, maxBytes, maxConnections } = state;
    const on = started || until > now;
    const fresh = looked.slice(0, running.length).flatMap((one) => one?.info ?? []);
    return {
      recording: { on, started, maxBytes, maxConnections, bytes, conversations, dropped },
      sessions: [...fresh, ...over.filter(({ id }) => !fresh.some((info) => info.id === id))],
    };
  }

  /** Asks the objects of running sessions, and of the newest finished ones. An isolate that has none of these is not asked. */
  async find(bytes: Uint8Array): Promise<FoundBytes> {
    const ids = this.ctx.storage.sql
      .exec<{ id: string }>(
        "SELECT id FROM sessions WHERE ended IS NULL UNION SELECT id FROM (SELECT id FROM sessions WHERE ended IS NOT NULL ORDER BY id DESC LIMIT ?)",
        NEWEST,
      )
      .toArray();
    ids.push({ id: SHOWN });
    const found = await Promise.all(
      ids.map(({ id }) =>
        recordedSession(this.env, id)
          .find(bytes)
          .catch((): FoundBytes => ({ ids: [], more: true })),
      ),
    );
    const all = [...new Set(found.flatMap((one) => one.ids))].sort().reverse();
    return { ids: all, more: found.some(({ more }) => more) };
  }
}
