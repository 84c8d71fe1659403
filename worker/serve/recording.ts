/// <reference types="@cloudflare/workers-types" />
/**
 * `recording`: what passes over the connections of a Worker, kept and shown by its control routes, and said again. A Worker carries this
 * code only where it asks for it.
 */

import { recordingRoutes } from "../../core/control/http/recording-routes.ts";
import type { AddRoute } from "../../core/control/http/routes.ts";
import {
  type DecodedPart,
  type EntryInfo,
  entriesOf,
  type FoundBytes,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type RecordingPlane,
  type Replayed,
  type ReplaySpec,
  replayTarget,
} from "../../core/control/plane.ts";
import { replayByDatagrams, replayOnStream } from "../../core/control/recording/replay.ts";
import { SocketError } from "../../core/errors.ts";
import { formatAddress } from "../../core/net/address.ts";
import { again, type SockletBindings, settled } from "../objects/bindings.ts";
import { checkPlatform, WorkerPlane, type WorkerPlaneSetup } from "../objects/plane.ts";
import {
  type RecordedCalls,
  RecordedSessionObject,
  type RecordingCalls,
  RecordingRegistryObject,
  recordedSession,
  recordingRegistry,
} from "../objects/recording.ts";
import type { RegistryObject } from "../objects/registry.ts";
import type { SessionObject } from "../objects/session.ts";
import { createConnection } from "../sockets/connector.ts";
import { RecordedDatagramServer, RecordedServer } from "./recorded-servers.ts";
import type { WorkerDatagramServer, WorkerServer } from "./server.ts";

const PACE = 1_000; // ms between two looks of a watcher: each is a request to the registry, and one to each session that runs

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

  flows(): readonly [] {
    return []; // a Worker's datagrams belong to requests, and no object has them
  }

  part(id: string, after: number, maxBytes: number): Promise<RecordedPart | null> {
    return this.#session(id, (calls) => calls.recordedPart(id, after, maxBytes));
  }

  messages(id: string): Promise<DecodedPart | null> {
    return this.#session(id, (calls) => calls.recordedMessages(id));
  }

  async *transcript(id: string): AsyncGenerator<string, void, undefined> {
    const stream = await this.#session(id, (calls) => calls.transcript(id));
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
    for (let id = 1; !signal.aborted; ) {
      const { recording, sessions } = await this.#registry((calls) => calls.look(true));
      const now = new Map(sessions.map((info) => [info.id, JSON.stringify(info)]));
      const changed = sessions.filter((info) => seen.get(info.id) !== now.get(info.id));
      seen = now;
      if (changed.length > 0 || told !== JSON.stringify(recording)) {
        told = JSON.stringify(recording);
        const at = new Date().toISOString();
        yield { id, at, type: "changed", recording, sessions: changed, flows: [] };
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

  #session<T>(id: string, ask: (calls: RecordedCalls) => Promise<T>): Promise<T> {
    return again(() => ask(recordedSession(this.#env, id)), `the session ${id}`);
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

/** A control plane whose sessions can be looked at, and said again. */
class RecordedWorkerPlane extends WorkerPlane {
  readonly recording: WorkerRecordingPlane;
  readonly #setup: WorkerPlaneSetup;

  constructor(setup: WorkerPlaneSetup) {
    super(setup);
    this.#setup = setup;
    this.recording = new WorkerRecordingPlane(setup.env);
  }

  entries(): readonly EntryInfo[] {
    const { listeners, dial } = this.#setup.app;
    const named = listeners.map(({ name, endpoint }) => ({
      entry: name,
      address: formatAddress(endpoint),
      faults: false, // a Worker does none
    }));
    return entriesOf(named, dial, false);
  }

  /**
   * To a listener in memory: its server in this isolate serves it as it serves what the platform brings, also where the platform brings
   * nothing to it. To anything else by `connect()`.
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

/** The code that keeps what passes over the connections of a Worker's sessions, which `recording` is: `workerFor(app, { recording })`. */
export interface WorkerRecording {
  readonly Plane: typeof WorkerPlane;
  readonly Session: typeof SessionObject;
  readonly Registry: typeof RegistryObject;
  readonly Server: typeof WorkerServer;
  readonly DatagramServer: typeof WorkerDatagramServer;
  routes(route: AddRoute): void;
}

/**
 * The code that keeps what passes over the connections of a Worker's sessions, while a recording was started or somebody watches: the routes
 * `/v1/recording…`, and so the bytes that the page of `socklet/inspector` shows. A Worker carries it only where it is asked for:
 * `workerFor(app, { inspector, recording })`.
 *
 * The bytes are in the memory of the isolates that the sessions' objects run in, up to 16 MiB in each, and never in their storage.
 * What an object kept is lost when it goes on in another isolate.
 */
export const recording: WorkerRecording = {
  Plane: RecordedWorkerPlane,
  Session: RecordedSessionObject,
  Registry: RecordingRegistryObject,
  Server: RecordedServer,
  DatagramServer: RecordedDatagramServer,
  routes: recordingRoutes,
};
