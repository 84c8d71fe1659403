/** The control plane of a cluster: it combines its workers' planes. */

import type { ListenerLog } from "../../core/control/listeners.ts";
import {
  type ControlPlane,
  type DecodedPart,
  type EntryInfo,
  type FlowInfo,
  type FoundBytes,
  type Health,
  type ListenerEvent,
  type ListenerInfo,
  mergePages,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type RecordingPlane,
  type Replayed,
  type ReplaySpec,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
  type SessionSpec,
} from "../../core/control/plane.ts";
import { RECORDING_BOUNDS } from "../../core/control/recording/bounds.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import { formatHeader } from "../../core/testing/transcript/form.ts";
import type { WorkerProcess } from "./worker.ts";

export { ListenerLog } from "../../core/control/listeners.ts";
export { loadRoutes, serveControl } from "../app/control/control.ts";
export { controlTokens } from "../app/control/control-tokens.ts";

type Counts = Readonly<Record<string, unknown>>;

/** `one` with the numbers of all added up, except those named. */
const summed = <Info extends object>(all: readonly Info[], not: readonly (keyof Info)[] = []): Info => {
  const [one] = all as [Info];
  const sum = { ...one } as Record<string, unknown>;
  for (const [name, value] of Object.entries(one)) {
    if (typeof value !== "number" || not.includes(name as keyof Info)) continue;
    sum[name] = all.reduce((total, info) => total + ((info as Counts)[name] as number), 0);
  }
  return sum as Info;
};

const listenerOf = (all: readonly ListenerInfo[]): ListenerInfo => {
  const children = all.flatMap(({ children }) => children ?? []);
  const state = all.find(({ state }) => state === "serving")?.state ?? (all[0] as ListenerInfo).state;
  return { ...summed(all), state, children: children.length === 0 ? null : summed(children) };
};

/** `key{labels} value`, or a line of comment. */
const SAMPLE = /^([A-Za-z_:][\w:]*)(\{.*\})? (\S+)$/;
const OF_A_PROCESS = /^(process_|socklet_event_loop_delay_seconds)/;

/** The metrics of several processes in one text: counts are added up, and metrics of one process get the label `worker`. */
const summedMetrics = (texts: readonly (readonly [worker: number, text: string])[]): string => {
  const families = new Map<string, { readonly head: string[]; readonly samples: Map<string, number> }>();
  for (const [worker, text] of texts) {
    let family: { head: string[]; samples: Map<string, number> } | undefined;
    for (const line of text.split("\n")) {
      const [, name] = /^# HELP (\S+)/.exec(line) ?? [];
      if (name !== undefined) {
        family = families.get(name) ?? { head: [], samples: new Map() };
        families.set(name, family);
      }
      if (line.startsWith("#")) {
        if (family !== undefined && family.head.length < 2) family.head.push(line);
        continue;
      }
      const [, sample = "", labels = "", value] = SAMPLE.exec(line) ?? [];
      if (sample === "" || family === undefined) continue;
      const own = OF_A_PROCESS.test(sample);
      const inner = labels.slice(1, -1);
      const key = own ? `${sample}{${inner === "" ? "" : `${inner},`}worker="${worker}"}` : sample + labels;
      family.samples.set(key, (family.samples.get(key) ?? 0) + Number(value));
    }
  }
  return [...families.values()]
    .map(({ head, samples }) =>
      [...head, ...[...samples].map(([key, value]) => `${key} ${value}`), ""].join("\n"),
    )
    .join("");
};

/** What the plane needs of its cluster. */
interface Clustered {
  /** The workers that serve, by their number. */
  serving(): readonly WorkerProcess[];
  /** The worker that dials; `null` while it is being started. */
  dialler(): WorkerProcess | null;
  readonly closing: boolean;
}

const AGAIN = 1_000; // ms: how often a watcher looks for new workers

/** The recording of all workers: each keeps its share, within its share of the bounds. */
class ClusterRecording implements RecordingPlane {
  readonly #cluster: Clustered;
  readonly #told = new WeakSet<WorkerProcess>(); // workers that have the bounds, and record if a recording was started
  #limits: Required<RecordingLimits> = {
    maxBytes: RECORDING_BOUNDS.maxBytes,
    maxConnections: RECORDING_BOUNDS.maxConnections,
  };
  #started = false;

  constructor(cluster: Clustered) {
    this.#cluster = cluster;
  }

  async info(): Promise<RecordingInfo> {
    return this.#sum(await this.#ask<RecordingInfo>("info"));
  }

  async start(limits: RecordingLimits = {}): Promise<RecordingInfo> {
    this.#limits = { ...this.#limits, ...limits };
    this.#started = true;
    return this.#sum(await this.#ask<RecordingInfo>("start", this.#share()));
  }

  async limit(limits: RecordingLimits): Promise<RecordingInfo> {
    this.#limits = { ...this.#limits, ...limits };
    return this.#sum(await this.#ask<RecordingInfo>("limit", this.#share()));
  }

  async stop(): Promise<RecordingInfo> {
    this.#started = false;
    return this.#sum(await this.#ask<RecordingInfo>("stop"));
  }

  async flows(): Promise<readonly FlowInfo[]> {
    const all = (await this.#ask<readonly FlowInfo[]>("flows")).flat();
    return all.sort((one, other) => (one.id < other.id ? 1 : -1));
  }

  async part(id: string, after: number, maxBytes: number): Promise<RecordedPart | null> {
    const [part = null] = await this.#ask<RecordedPart>("part", id, after, maxBytes);
    return part;
  }

  async *transcript(id: string): AsyncGenerator<string, void, undefined> {
    let after = 0;
    for (;;) {
      const part = await this.part(id, after, RECORDING_BOUNDS.part);
      if (part === null) return;
      if (after === 0) yield formatHeader(part);
      for (const event of part.events) yield `${JSON.stringify(event)}\n`;
      after = part.next;
      if (after >= part.total) return;
    }
  }

  async find(bytes: Uint8Array): Promise<FoundBytes> {
    const workers = this.#cluster.serving();
    const all = await Promise.all(
      workers.map((one) => one.call<FoundBytes>("find", bytes).catch(() => null)),
    );
    const ids = all.flatMap((found) => found?.ids ?? []).sort((one, other) => (one < other ? 1 : -1));
    return { ids, more: all.some((found) => found?.more) };
  }

  /** The changes of all workers, one after another: a worker is asked for the next change when its last was taken. */
  async *watch(signal: AbortSignal): AsyncGenerator<RecordingChange, void, undefined> {
    const changes: { readonly change: RecordingChange; readonly taken: () => void }[] = [];
    const infos = new Map<WorkerProcess, RecordingInfo>();
    const following = new Set<WorkerProcess>();
    let wake = (): void => {};
    const left = (): void => wake();
    signal.addEventListener("abort", left, { once: true });
    const follow = async (worker: WorkerProcess): Promise<void> => {
      following.add(worker);
      try {
        await this.#prepare(worker);
        const stream = await worker.call<number | null>("watch");
        if (stream === null) return;
        for await (const change of followed<RecordingChange>(worker, stream, signal)) {
          infos.set(worker, change.recording);
          const taken = Promise.withResolvers<void>();
          changes.push({ change, taken: taken.resolve });
          wake();
          await taken.promise;
        }
      } catch {
        // The worker is gone, and everything that it kept.
      } finally {
        infos.delete(worker);
        following.delete(worker);
      }
    };
    try {
      for (let id = 1; !signal.aborted; id++) {
        for (const worker of this.#cluster.serving()) if (!following.has(worker)) void follow(worker);
        if (changes.length === 0) {
          await new Promise<void>((resolve) => {
            const timer = setTimeout(resolve, AGAIN);
            wake = () => {
              clearTimeout(timer);
              resolve();
            };
            if (signal.aborted) wake();
          });
        }
        const next = changes.shift();
        next?.taken();
        if (next !== undefined) yield { ...next.change, id, recording: this.#sum([...infos.values()]) };
      }
    } finally {
      signal.removeEventListener("abort", left);
      for (const { taken } of changes) taken();
    }
  }

  #share(): RecordingLimits {
    const count = Math.max(1, this.#cluster.serving().length);
    const { maxBytes, maxConnections } = this.#limits;
    return {
      maxBytes: Math.max(RECORDING_BOUNDS.leastBytes, Math.floor(maxBytes / count)),
      maxConnections: Math.ceil(maxConnections / count),
    };
  }

  /** A new worker knows neither the bounds nor whether it should record. */
  async #prepare(worker: WorkerProcess): Promise<void> {
    if (this.#told.has(worker)) return;
    this.#told.add(worker);
    await worker.call("recording", this.#started ? "start" : "limit", this.#share());
  }

  /** What each worker reports about its recording; workers that report nothing, or are gone, are left out. */
  async #ask<T>(name: string, ...args: readonly unknown[]): Promise<T[]> {
    const asked = this.#cluster.serving().map(async (worker) => {
      try {
        await this.#prepare(worker);
        return await worker.call<T | null>("recording", name, ...args);
      } catch {
        return null;
      }
    });
    return (await Promise.all(asked)).filter((answer) => answer !== null) as T[];
  }

  #sum(all: readonly RecordingInfo[]): RecordingInfo {
    const sumOf = (name: "bytes" | "conversations" | "dropped"): number =>
      all.reduce((sum, info) => sum + info[name], 0);
    return {
      on: all.some(({ on }) => on),
      started: this.#started,
      ...this.#limits,
      bytes: sumOf("bytes"),
      conversations: sumOf("conversations"),
      dropped: sumOf("dropped"),
    };
  }
}

/**
 * Asks all workers, and combines their answers. A session is in the process that has its connection, so the sessions of a worker
 * end with it; dialled sessions run in the first worker.
 */
export class ClusterPlane implements ControlPlane {
  readonly #cluster: Clustered;
  readonly #log: ListenerLog;
  readonly recording: RecordingPlane;

  /** `log`: the events of the workers. */
  constructor(cluster: Clustered, log: ListenerLog) {
    this.#cluster = cluster;
    this.#log = log;
    this.recording = new ClusterRecording(cluster);
  }

  async health(): Promise<Health> {
    const all = await this.#all<Health>("health");
    return { listeners: all[0]?.listeners ?? 0, running: all.reduce((sum, { running }) => sum + running, 0) };
  }

  ready(): readonly string[] {
    if (this.#cluster.closing) return ["this process is ending"];
    return this.#cluster.serving().length > 0 ? [] : ["no worker serves now"];
  }

  async listeners(): Promise<readonly ListenerInfo[]> {
    const all = await this.#all<readonly ListenerInfo[]>("listeners");
    return (all[0] ?? []).map((_, i) => listenerOf(all.flatMap((listeners) => listeners[i] ?? [])));
  }

  async metrics(): Promise<string | null> {
    const workers = this.#cluster.serving();
    const texts = await this.#all<string | null>("metrics", workers);
    return summedMetrics(texts.map((text, i) => [workers[i]?.number ?? 0, text ?? ""] as const));
  }

  async pools(): Promise<readonly PoolInfo[]> {
    const all = await this.#all<readonly PoolInfo[]>("pools");
    return (all[0] ?? []).map((_, i) => {
      const same = all.flatMap((pools) => pools[i] ?? []);
      return {
        ...summed(same, ["pipeline"]),
        error: same.find(({ error }) => error !== null)?.error ?? null,
      };
    });
  }

  listenerEvents(after: number, signal: AbortSignal): AsyncIterable<ListenerEvent> {
    return this.#log.follow(after, signal);
  }

  async start(spec: SessionSpec): Promise<SessionInfo> {
    if (this.#cluster.closing)
      throw new SocketError("EBADF", "this process is ending and starts nothing more");
    const worker = this.#cluster.dialler();
    if (worker === null)
      throw new SocketError("ERR_PLATFORM", "the worker that dials is being started; ask again");
    return worker.call<SessionInfo>("start", spec);
  }

  wait(id: string, ms: number): Promise<SessionInfo | null> {
    return this.#find("wait", id, ms);
  }

  async list(query: SessionQuery): Promise<SessionPage> {
    return mergePages(await this.#all<SessionPage>("list", undefined, query), query.limit);
  }

  get(id: string): Promise<SessionInfo | null> {
    return this.#find("get", id);
  }

  async events(id: string, after: number, signal: AbortSignal): Promise<AsyncIterable<SessionEvent> | null> {
    for (const worker of this.#cluster.serving()) {
      const stream = await worker.call<number | null>("events", id, after).catch(() => null);
      if (stream !== null) return followed(worker, stream, signal);
    }
    return null;
  }

  send(id: string, bytes: Uint8Array): Promise<SessionInfo | null> {
    return this.#find("send", id, bytes);
  }

  halfClose(id: string): Promise<SessionInfo | null> {
    return this.#find("halfClose", id);
  }

  end(id: string, graceful?: boolean): Promise<SessionInfo | null> {
    return this.#find("end", id, graceful);
  }

  replay(spec: ReplaySpec): Promise<Replayed> {
    const worker = this.#cluster.dialler();
    if (worker !== null) return worker.call("replay", spec);
    throw new SocketError("ERR_PLATFORM", "the worker that dials is being started; ask again");
  }

  async entries(): Promise<readonly EntryInfo[]> {
    const [entries = []] = await this.#all<readonly EntryInfo[]>("entries");
    return entries;
  }

  async messages(id: string): Promise<DecodedPart | null> {
    const all = await this.#all<DecodedPart | null>("messages", undefined, id);
    return all[0] ?? null;
  }

  /** The answers of all workers; a worker that ends before it answers is left out. */
  async #all<T>(
    method: string,
    workers = this.#cluster.serving(),
    ...args: readonly unknown[]
  ): Promise<T[]> {
    const asked = workers.map((worker) => worker.call<T>(method, ...args).catch(() => null));
    return (await Promise.all(asked)).filter((answer) => answer !== null) as T[];
  }

  /** The answer of the worker that has the session; the others answer `null`. */
  async #find(method: string, id: string, ...args: readonly unknown[]): Promise<SessionInfo | null> {
    for (const worker of this.#cluster.serving()) {
      const has = await worker.call<SessionInfo | null>("get", id).catch(() => null);
      if (has !== null) return method === "get" ? has : worker.call(method, id, ...args);
    }
    return null;
  }
}

/** Values from another process, about a session or its recording: each is requested when it is needed. */
async function* followed<Event>(
  worker: WorkerProcess,
  stream: number,
  signal: AbortSignal,
): AsyncGenerator<Event, void, undefined> {
  const stop = (): void => void worker.call("stop", stream).catch(() => {});
  signal.addEventListener("abort", stop);
  try {
    for (;;) {
      const { done, value } = await worker
        .call<{ readonly done: boolean; readonly value?: Event }>("next", stream)
        .catch(() => ({ done: true, value: undefined })); // its process is gone
      if (done || value === undefined) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}
