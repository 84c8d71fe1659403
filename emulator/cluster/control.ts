/** The control plane of a cluster: what its workers' planes say, together. */

import type { ListenerLog } from "../../core/control/listeners.ts";
import type {
  ControlPlane,
  Health,
  ListenerEvent,
  ListenerInfo,
  SessionEvent,
  SessionInfo,
  SessionPage,
  SessionQuery,
  SessionSpec,
} from "../../core/control/plane.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import type { WorkerProcess } from "./worker.ts";

export { ListenerLog } from "../../core/control/listeners.ts";
export { controlTokens, loadRoutes, serveControl } from "../app/control.ts";

type Counts = Readonly<Record<string, unknown>>;

/** `one` with the numbers of all added up, but for those named. */
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

/** The metrics of several processes in one text: counts added up, and what is of one process with the label `worker`. */
export const summedMetrics = (texts: readonly (readonly [worker: number, text: string])[]): string => {
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
export interface Clustered {
  /** Those that serve, by their number. */
  serving(): readonly WorkerProcess[];
  /** The one that dials; `null` where it is being started. */
  dialler(): WorkerProcess | null;
  readonly closing: boolean;
}

/**
 * Asks all workers, and puts together what they say. A session is in the process that has its connection, so that those of a worker
 * that is gone are gone with it; those that are dialled run in the first.
 */
export class ClusterPlane implements ControlPlane {
  readonly #cluster: Clustered;
  readonly #log: ListenerLog;

  /** `log`: what the workers tell. */
  constructor(cluster: Clustered, log: ListenerLog) {
    this.#cluster = cluster;
    this.#log = log;
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
    const pages = await this.#all<SessionPage>("list", undefined, query);
    const all = pages.flatMap(({ sessions }) => sessions).sort((one, other) => (one.id < other.id ? 1 : -1));
    const sessions = all.slice(0, query.limit);
    const more = all.length > sessions.length || pages.some(({ next }) => next !== null);
    return { sessions, next: more ? (sessions.at(-1)?.id ?? null) : null };
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

  /** What all say; one that is gone before it answers says nothing. */
  async #all<T>(
    method: string,
    workers = this.#cluster.serving(),
    ...args: readonly unknown[]
  ): Promise<T[]> {
    const asked = workers.map((worker) => worker.call<T>(method, ...args).catch(() => null));
    return (await Promise.all(asked)).filter((answer) => answer !== null) as T[];
  }

  /** What the worker says that has the session; the others say `null`. */
  async #find(method: string, id: string, ...args: readonly unknown[]): Promise<SessionInfo | null> {
    for (const worker of this.#cluster.serving()) {
      const has = await worker.call<SessionInfo | null>("get", id).catch(() => null);
      if (has !== null) return method === "get" ? has : worker.call(method, id, ...args);
    }
    return null;
  }
}

/** The events of a session of another process: each is asked for when it is wanted. */
async function* followed(
  worker: WorkerProcess,
  stream: number,
  signal: AbortSignal,
): AsyncGenerator<SessionEvent, void, undefined> {
  const stop = (): void => void worker.call("stop", stream).catch(() => {});
  signal.addEventListener("abort", stop);
  try {
    for (;;) {
      const { done, value } = await worker
        .call<{ readonly done: boolean; readonly value?: SessionEvent }>("next", stream)
        .catch(() => ({ done: true, value: undefined })); // its process is gone
      if (done || value === undefined) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}
