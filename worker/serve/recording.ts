/// <reference types="@cloudflare/workers-types" />
/**
 * `recording`: the traffic of a Worker's connections, recorded, shown by its control routes, and replayed. A Worker includes this
 * code only on request.
 */

import { recordingRoutes } from "../../core/control/http/recording-routes.ts";
import type { AddRoute } from "../../core/control/http/routes.ts";
import { readEvents } from "../../core/control/http/sse.ts";
import {
  type DecodedPart,
  type EntryInfo,
  entriesOf,
  type FlowInfo,
  type FoundBytes,
  isOver,
  mergePages,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type RecordingPlane,
  type Replayed,
  type ReplaySpec,
  replayTarget,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
} from "../../core/control/plane.ts";
import { replayByDatagrams, replayOnStream } from "../../core/control/recording/replay.ts";
import { PooledMixIn } from "../../core/control/sessions/accepted.ts";
import { SocketError } from "../../core/errors.ts";
import { formatAddress } from "../../core/net/address.ts";
import { showPooled } from "../objects/accepted.ts";
import { again, type SockletBindings, settled } from "../objects/bindings.ts";
import { checkPlatform, WorkerPlane, type WorkerPlaneSetup } from "../objects/plane.ts";
import {
  hearing,
  type RecordedCalls,
  RecordedSessionObject,
  type RecordingCalls,
  RecordingRegistryObject,
  recordedSession,
  recordingRegistry,
  type ShownCalls,
  shownConnections,
} from "../objects/recording.ts";
import type { RegistryObject } from "../objects/registry.ts";
import type { SessionObject } from "../objects/session.ts";
import { createConnection, TCPConnector } from "../sockets/connector.ts";
import { RecordedDatagramServer, RecordedServer } from "./recorded-servers.ts";

const PACE = 1_000; // ms between two looks of a watcher: each is a request to the registry, and one to each running session

/** What the routes ask. */
class WorkerRecordingPlane implements RecordingPlane {
  readonly #env: SockletBindings;

  constructor(env: SockletBindings) {
    this.#env = env;
  }

  async info(): Promise<RecordingInfo> {
    return (await this.#registry((calls) => calls.look(false))).recording;
  }

  start(limits: RecordingLimits = {}): Promise<RecordingInfo> {
    return this.#set(true, limits);
  }

  limit(limits: RecordingLimits): Promise<RecordingInfo> {
    return this.#set(null, limits);
  }

  stop(): Promise<RecordingInfo> {
    return this.#set(false, {});
  }

  flows(): Promise<readonly FlowInfo[]> {
    return this.shown((calls) => calls.shownFlows());
  }

  part(id: string, after: number, maxBytes: number): Promise<RecordedPart | null> {
    return this.#kept(id, (calls) => calls.recordedPart(id, after, maxBytes));
  }

  messages(id: string): Promise<DecodedPart | null> {
    return this.#kept(id, (calls) => calls.recordedMessages(id));
  }

  async *transcript(id: string): AsyncGenerator<string, void, undefined> {
    const stream = await this.#kept(id, (calls) => calls.transcript(id));
    if (stream === null) return;
    const decoder = new TextDecoder();
    const reader = stream.getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        yield decoder.decode(value, { stream: true });
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  find(bytes: Uint8Array): Promise<FoundBytes> {
    return this.#registry((calls) => calls.find(bytes));
  }

  async *watch(signal: AbortSignal): AsyncGenerator<RecordingChange, void, undefined> {
    let seen = new Map<string, string>();
    let told = "";
    let [memory, after] = ["", 0]; // of the connections held elsewhere
    for (let id = 1; !signal.aborted; ) {
      const { recording, sessions: own } = await this.#registry((calls) => calls.look(true));
      let changes = await this.shown((calls) => calls.shownChanges(after));
      if (changes.memory !== memory && after > 0)
        changes = await this.shown((calls) => calls.shownChanges(0));
      ({ memory, last: after } = changes);
      const sessions = [...own, ...changes.sessions];
      const now = new Map([...sessions, ...changes.flows].map((info) => [info.id, JSON.stringify(info)]));
      const news = ({ id }: { readonly id: string }): boolean => seen.get(id) !== now.get(id);
      const changed = sessions.filter(news);
      const flows = changes.flows.filter(news);
      seen = now;
      if (changed.length > 0 || flows.length > 0 || told !== JSON.stringify(recording)) {
        told = JSON.stringify(recording);
        const at = new Date().toISOString();
        yield { id, at, type: "changed", recording, sessions: changed, flows };
        id++;
      }
      if (!signal.aborted) await pause(signal);
    }
  }

  async #set(started: boolean | null, limits: RecordingLimits): Promise<RecordingInfo> {
    return settled(await this.#registry((calls) => calls.setRecording(started, limits)));
  }

  #registry<T>(ask: (calls: RecordingCalls) => Promise<T>): Promise<T> {
    return again(() => ask(recordingRegistry(this.#env)), "the registry of sessions");
  }

  /** Asks the object of connections held elsewhere. */
  shown<T>(ask: (calls: ShownCalls) => Promise<T>): Promise<T> {
    return again(() => ask(shownConnections(this.#env)), "what is recorded");
  }

  /** Asks the session's object, and then the one of connections held elsewhere. */
  async #kept<T>(id: string, ask: (calls: RecordedCalls) => Promise<T | null>): Promise<T | null> {
    const own = await again(() => ask(recordedSession(this.#env, id)), `the session ${id}`);
    return own ?? this.shown(ask);
  }
}

/** Until the next look is due, or `signal` aborts. */
const pause = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, PACE);
    signal.addEventListener("abort", done, { once: true });
  });

/** A control plane whose sessions can be read and replayed. */
class RecordedWorkerPlane extends WorkerPlane {
  readonly recording: WorkerRecordingPlane;
  readonly #setup: WorkerPlaneSetup;

  constructor(setup: WorkerPlaneSetup) {
    super(setup);
    this.#setup = setup;
    this.recording = new WorkerRecordingPlane(setup.env);
  }

  // An id without a session's object may be a connection held elsewhere.

  override async list(query: SessionQuery): Promise<SessionPage> {
    const shown = this.recording.shown((calls) => calls.shownList(query));
    return mergePages(await Promise.all([super.list(query), shown]), query.limit);
  }

  override async get(id: string): Promise<SessionInfo | null> {
    return (await super.get(id)) ?? this.recording.shown((calls) => calls.shownInfo(id));
  }

  override async wait(id: string, ms: number): Promise<SessionInfo | null> {
    const own = await super.wait(id, ms);
    if (own !== null) return own;
    const late = AbortSignal.timeout(ms);
    const events = await this.events(id, 0, late);
    if (events !== null) for await (const { type } of events) if (late.aborted || isOver(type)) break;
    return this.get(id);
  }

  override async events(
    id: string,
    after: number,
    signal: AbortSignal,
  ): Promise<AsyncIterable<SessionEvent> | null> {
    const own = await super.events(id, after, signal);
    if (own !== null) return own;
    const stream = await this.recording.shown((calls) => calls.shownEvents(id, after));
    return stream && readEvents<SessionEvent>(stream, signal);
  }

  override async send(id: string, bytes: Uint8Array): Promise<SessionInfo | null> {
    const own = await super.send(id, bytes);
    return own ?? settled(await shownConnections(this.#setup.env).shownSend(id, bytes));
  }

  override async halfClose(id: string): Promise<SessionInfo | null> {
    const own = await super.halfClose(id);
    return own ?? settled(await this.recording.shown((calls) => calls.shownHalfClose(id)));
  }

  override async end(id: string, graceful = false): Promise<SessionInfo | null> {
    const own = await super.end(id, graceful);
    return own ?? this.recording.shown((calls) => calls.shownEnd(id, graceful));
  }

  entries(): readonly EntryInfo[] {
    const { listeners, dial } = this.#setup.app;
    const named = listeners.map(({ name, endpoint }) => ({
      entry: name,
      address: formatAddress(endpoint),
      faults: false, // a Worker has no fault rules
    }));
    return entriesOf(named, dial, false);
  }

  /**
   * To a listener in memory: its server in this isolate serves it as it serves what the platform brings, even if the platform brings
   * nothing to it. To anything else through `connect()`.
   */
  async replay(spec: ReplaySpec): Promise<Replayed> {
    const { app, allow, env, serverFor } = this.#setup;
    const listener = app.listeners.find(({ name }) => name === spec.to);
    if (listener === undefined) {
      const { endpoint, ...how } = replayTarget(app, spec.to, allow);
      checkPlatform(endpoint);
      const address = formatAddress(endpoint);
      return replayOnStream(address, spec, (signal) => createConnection(endpoint, { ...how, signal }));
    }
    const address = formatAddress(listener.endpoint);
    let server: unknown;
    try {
      server = await serverFor(listener, env);
    } catch (error) {
      throw SocketError.from(error, "ERR_APP");
    }
    if (server instanceof RecordedServer) return replayOnStream(address, spec, () => server.replayed());
    const datagrams = server as RecordedDatagramServer;
    return replayByDatagrams(address, spec, (hearer) => datagrams.replayed(hearer));
  }

  messages(id: string): Promise<DecodedPart | null> {
    return this.recording.messages(id);
  }
}

/** Dials for a pool, and shows each of its connections under the pool's name. */
const RecordedConnector = /* @__PURE__ */ PooledMixIn(
  TCPConnector,
  ({ name: handler, endpoint }, socket, over) =>
    showPooled(hearing, { handler, address: formatAddress(endpoint) }, socket, over),
);

/** The type of `recording`, the code that records the traffic of a Worker: `workerFor(app, { recording })`. */
export interface WorkerRecording {
  readonly Plane: typeof WorkerPlane;
  readonly Session: typeof SessionObject;
  readonly Registry: typeof RegistryObject;
  readonly Server: typeof RecordedServer;
  /** Of a pool's object. */
  readonly Connector: typeof TCPConnector;
  readonly DatagramServer: typeof RecordedDatagramServer;
  routes(route: AddRoute): void;
}

/**
 * The code that records the traffic of a Worker's sessions, while a recording is on or somebody watches: the routes
 * `/v1/recording…`, and so the bytes that the page of `socklet/inspector` shows. A Worker includes it only on request:
 * `workerFor(app, { inspector, recording })`.
 *
 * The bytes are in the memory of the isolates that the sessions' objects run in, up to 16 MiB in each, and never in their storage.
 * What an object kept is lost when it continues in another isolate.
 */
export const recording: WorkerRecording = {
  Plane: RecordedWorkerPlane,
  Session: RecordedSessionObject,
  Registry: RecordingRegistryObject,
  Server: RecordedServer,
  Connector: RecordedConnector,
  DatagramServer: RecordedDatagramServer,
  routes: recordingRoutes,
};
