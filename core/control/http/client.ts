/** `controlClient`: the control routes from the other side, typed. It speaks to a Worker and an emulator alike. */

import { toBase64 } from "../../base64.ts";
import { withDeadline } from "../../bytes/data.ts";
import { textOf } from "../../describe.ts";
import { SocketError, type SocketErrorCode } from "../../errors.ts";
import type { PoolInfo } from "../../handlers/client.ts";
import type { FaultRule } from "../../handlers/fault-rule.ts";
import { checkOptions, checkTime, optionNamesOf } from "../../options.ts";
import {
  BOUNDS,
  type DecodedPart,
  type EntryInfo,
  type FaultInfo,
  type FlowInfo,
  type FoundBytes,
  type Health,
  isOver,
  type ListenerEvent,
  type ListenerInfo,
  type RecordedPart,
  type RecordingChange,
  type RecordingInfo,
  type RecordingLimits,
  type Replayed,
  type ReplaySpec,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
  type SessionSpec,
} from "../plane.ts";
import { readEvents } from "./sse.ts";

/** Options of a client. Times are milliseconds. */
export interface ControlClientOptions {
  /** One of the plane's tokens. Without a token, only `health` and `ready` answer. */
  readonly token?: string;
  /** Default: the platform's. */
  readonly fetch?: (url: string, init: RequestInit) => Promise<Response> | Response;
  /** How long an answer may take; for `run()` this is added to the session's deadline. Default 30 000. */
  readonly timeout?: number;
  /** How long `follow()` waits before it connects again. Default 1 000. */
  readonly retryDelay?: number;
}

const CLIENT_NAMES = optionNamesOf<ControlClientOptions>("controlClient()")({
  token: "string",
  fetch: "function",
  timeout: true,
  retryDelay: true,
});

/** Options of one call. */
export interface CallOptions {
  /** Aborts the call, which rejects with the reason. */
  readonly signal?: AbortSignal;
}

const CALL_NAMES = optionNamesOf<CallOptions>()({ signal: "signal" });

/** How a session is ended. */
export interface EndOptions extends CallOptions {
  /** Close its connection after what was written; default false: reset it. */
  readonly graceful?: boolean;
}

const END_NAMES = optionNamesOf<EndOptions>("sessions.end()")({ signal: "signal", graceful: "boolean" });

/** Where to begin. */
export interface FollowOptions extends CallOptions {
  /** Only events with a greater id. Default 0. */
  readonly after?: number;
}

const FOLLOW_NAMES = optionNamesOf<FollowOptions>("follow()")({ signal: "signal", after: true });

const SILENCE = 45_000; // ms: three heartbeats; then the connection is considered dead
const MAX_RETRIES = 5; // connections in a row that bring no event, before follow() gives up

/**
 * A client of the control plane at `url` (`https://name.workers.dev`, `http://127.0.0.1:7000`):
 *
 *     const control = controlClient(url, { token });
 *     const { result } = await control.sessions.run({ handler: "redis", address: "127.0.0.1:6379", params: [["PING"]] });
 *
 * Every call rejects with a `SocketError`: with the code of the problem that the plane answered (`EACCES` for a
 * token, `ERR_REFUSED` for a scope or a target, `ENOENT` for an unknown id, `ENOTCONN`, `EINVAL`, `ERR_PLATFORM`…); if it
 * cannot be reached, with the platform's code or `ERR_CONNECT_FAILED`; with `ETIMEDOUT` if no answer came; with
 * `ERR_INTERNAL` if the answer is not from a control plane. `cause` is the problem, or the platform's error.
 */
export const controlClient = (url: string, options: ControlClientOptions = {}) => {
  if (typeof url !== "string")
    throw new TypeError(
      `controlClient() takes a URL such as "http://127.0.0.1:7000", not ${textOf(url, 100)}`,
    );
  checkOptions("controlClient()", options, CLIENT_NAMES);
  const base = url.replace(/(\/v1)?\/*$/, ""); // `socklet serve` prints it with /v1
  const { token, fetch = globalThis.fetch } = options;
  const timeout = checkTime("timeout", options.timeout ?? 30_000, 0);
  const retryDelay = checkTime("retryDelay", options.retryDelay ?? 1_000, 0);

  /** An answer that is not an error; its body has not been read. */
  const ask = async (
    method: string,
    path: string,
    { body, headers, signal }: { body?: BodyInit; headers?: Record<string, string>; signal: AbortSignal },
  ): Promise<Response> => {
    const authorization: Record<string, string> =
      token === undefined ? {} : { authorization: `Bearer ${token}` };
    let response: Response;
    try {
      response = await fetch(`${base}/v1${path}`, {
        method,
        headers: { ...authorization, ...headers },
        signal,
        redirect: "manual", // a token must not follow to another place (Workers have no "error")
        ...(body !== undefined && { body }),
      });
    } catch (error) {
      throw unreachable(error, base, signal);
    }
    if (response.ok) return response;
    throw await problemOf(response);
  };

  const call = async <T>(
    method: string,
    path: string,
    options: CallOptions,
    {
      wait = timeout,
      json,
      bytes,
      as = "json",
    }: { wait?: number; json?: unknown; bytes?: BodyInit; as?: "json" | "text" } = {},
  ): Promise<T> => {
    checkOptions("a call of controlClient()", options, CALL_NAMES);
    const { signal } = options;
    const late = AbortSignal.timeout(wait);
    const either = signal === undefined ? late : AbortSignal.any([signal, late]);
    const sent =
      json !== undefined
        ? { body: JSON.stringify(json), headers: { "content-type": "application/json" } }
        : bytes !== undefined && { body: bytes, headers: { "content-type": "application/octet-stream" } };
    const response = await ask(method, path, { ...sent, signal: either });
    try {
      return (await response[as]()) as T;
    } catch (error) {
      if (either.aborted) throw unreachable(error, base, either);
      throw new SocketError("ERR_INTERNAL", `${base} answered ${response.status} without JSON`, {
        cause: error,
      });
    }
  };

  const sessionPath = (id: string, more = ""): string => `/sessions/${encodeURIComponent(id)}${more}`;

  const follow = <Event extends { readonly id: number; readonly type: string }>(
    path: string,
    from: FollowOptions,
    isLast: (event: Event) => boolean,
    mayEnd: boolean,
  ): AsyncGenerator<Event, void, undefined> => {
    checkOptions("follow()", from, FOLLOW_NAMES);
    return eventsOf(path, from, isLast, mayEnd);
  };

  /** The events of a path, over successive connections, until the last event; with `mayEnd`, also until the stream ends. */
  async function* eventsOf<Event extends { readonly id: number; readonly type: string }>(
    path: string,
    { after = 0, signal }: FollowOptions,
    isLast: (event: Event) => boolean,
    mayEnd: boolean,
  ): AsyncGenerator<Event, void, undefined> {
    let last = after;
    for (let tries = 0; !signal?.aborted; ) {
      const leaving = new AbortController();
      let failure = new SocketError("ERR_INTERNAL", `${base} ended the events before the session was over`);
      const either = signal === undefined ? leaving.signal : AbortSignal.any([signal, leaving.signal]);
      try {
        const headers = { "last-event-id": String(last) };
        const asked = ask("GET", path, { headers, signal: either });
        const response = await withDeadline(asked, timeout, `${base} did not answer`);
        if (response.body === null) throw new SocketError("ERR_INTERNAL", `${base} answered without a body`);
        for await (const event of readEvents<Event>(response.body, either, SILENCE)) {
          last = event.id;
          tries = 0;
          yield event;
          if (isLast(event)) return;
        }
        if (mayEnd) return;
      } catch (error) {
        if (signal?.aborted) return;
        const refused = (error as { cause?: { status?: number } }).cause?.status;
        if (refused !== undefined && refused < 500) throw error; // asking again would be refused again
        failure = SocketError.from(error, "ERR_CONNECT_FAILED");
      } finally {
        leaving.abort();
      }
      if (++tries > MAX_RETRIES) throw failure;
      await delay(retryDelay, signal);
    }
  }

  const sessions = {
    /** A page of sessions, newest first. */
    list(query: Partial<SessionQuery> = {}, call_: CallOptions = {}): Promise<SessionPage> {
      const given = Object.entries(query).flatMap(([name, value]) =>
        value === undefined ? [] : [[name, String(value)]],
      );
      return call("GET", given.length === 0 ? "/sessions" : `/sessions?${new URLSearchParams(given)}`, call_);
    },

    get: (id: string, call_: CallOptions = {}): Promise<SessionInfo> => call("GET", sessionPath(id), call_),

    /** Runs a session to its end; resolves to its record, also if it failed. */
    run: (spec: SessionSpec, call_: CallOptions = {}): Promise<SessionInfo> =>
      call("POST", "/sessions", call_, {
        json: spec,
        wait: (spec.deadline ?? BOUNDS.runDeadline) + timeout,
      }),

    /** Starts a session in the background. */
    start: (spec: SessionSpec, call_: CallOptions = {}): Promise<SessionInfo> =>
      call("POST", "/sessions", call_, { json: { ...spec, background: true } }),

    /**
     * The events with ids above `after`, then those to come, to the session's end. If the connection breaks or
     * falls silent, it connects again and continues after the last event. Ends when `signal` aborts.
     */
    follow: (id: string, from: FollowOptions = {}): AsyncGenerator<SessionEvent, void, undefined> =>
      follow<SessionEvent>(sessionPath(id, "/events"), from, ({ type }) => isOver(type), false),

    /** Sends bytes, or text as UTF-8, by hand. */
    send: (id: string, data: Uint8Array | string, call_: CallOptions = {}): Promise<SessionInfo> =>
      call("POST", sessionPath(id, "/data"), call_, { bytes: data as BodyInit }),

    halfClose: (id: string, call_: CallOptions = {}): Promise<SessionInfo> =>
      call("POST", sessionPath(id, "/half-close"), call_),

    /** Ends a session: its connection is reset, or, with `graceful`, closed after what was written. */
    end: async (id: string, options: EndOptions = {}): Promise<SessionInfo> => {
      checkOptions("sessions.end()", options, END_NAMES);
      const { graceful, ...call_ } = options;
      return call("DELETE", sessionPath(id, graceful ? "?graceful=true" : ""), call_);
    },
  };

  const recordingPath = (id: string, more = ""): string => `/recording/${encodeURIComponent(id)}${more}`;
  const recorded = async (
    method: string,
    call_: CallOptions,
    limits?: RecordingLimits,
  ): Promise<RecordingInfo> =>
    (
      await call<{ recording: RecordingInfo }>(method, "/recording", call_, {
        ...(limits && { json: limits }),
      })
    ).recording;

  /** The recording of traffic. A Worker without `recording` answers `ENOENT`. */
  const recording = {
    /** Whether traffic is kept, and the bounds. */
    info: (call_: CallOptions = {}): Promise<RecordingInfo> => recorded("GET", call_),

    /** Starts a recording, or changes the bounds of the one that runs. */
    start: (limits: RecordingLimits = {}, call_: CallOptions = {}): Promise<RecordingInfo> =>
      recorded("PUT", call_, limits),

    /** Changes the bounds, and starts nothing. */
    limit: (limits: RecordingLimits, call_: CallOptions = {}): Promise<RecordingInfo> =>
      recorded("PATCH", call_, limits),

    /** Stops the recording, and deletes what was kept. */
    stop: (call_: CallOptions = {}): Promise<RecordingInfo> => recorded("DELETE", call_),

    /** The flows of datagrams, the newest first. */
    flows: async (call_: CallOptions = {}): Promise<readonly FlowInfo[]> =>
      (await call<{ flows: FlowInfo[] }>("GET", "/recording/flows", call_)).flows,

    /** The sessions and flows in which one side sent this: text as UTF-8, or bytes; at most 1 000 characters or bytes. */
    find: (wanted: string | Uint8Array, call_: CallOptions = {}): Promise<FoundBytes> =>
      call(
        "GET",
        `/recording/find?${new URLSearchParams(typeof wanted === "string" ? { text: wanted } : { hex: hexOf(wanted) })}`,
        call_,
      ),

    /** The conversation of a session or a flow, from event `after` on. A large one comes in parts: the `next` of a part is the `after` of the following one. Rejects with `ENOENT` if nothing of it is kept. */
    part: (id: string, after = 0, call_: CallOptions = {}): Promise<RecordedPart> =>
      call("GET", recordingPath(id, `?after=${after}`), call_),

    /** The messages that the `decode` of its entry makes of it. Rejects with `ENOENT` if there is no `decode`, or nothing is kept. */
    messages: (id: string, call_: CallOptions = {}): Promise<DecodedPart> =>
      call("GET", recordingPath(id, "/messages"), call_),

    /** The whole conversation as a transcript, which `parseTranscript` of `socklet/testing` reads. Rejects with `ENOENT` as `part` does. */
    transcript: (id: string, call_: CallOptions = {}): Promise<string> =>
      call("GET", recordingPath(id, "/transcript"), call_, { as: "text" }),

    /** The sessions and flows that change, as it happens. Traffic is kept until `signal` aborts, and for five seconds after. */
    watch: (from: CallOptions = {}): AsyncGenerator<RecordingChange, void, undefined> =>
      follow<RecordingChange>("/recording/events", from, () => false, true),
  };

  /** The fault rules of a process that serves an app. */
  const faults = {
    /** The rules that are set, and what they have done. */
    list: async (call_: CallOptions = {}): Promise<readonly FaultInfo[]> =>
      (await call<{ faults: FaultInfo[] }>("GET", "/faults", call_)).faults,

    /** Adds a rule. */
    add: (rule: FaultRule & Pick<FaultInfo, "on" | "entry">, call_: CallOptions = {}): Promise<FaultInfo> =>
      call("POST", "/faults", call_, { json: rule }),

    /** Removes the rules with this name, or all; returns those that are left. */
    remove: async (name?: string, call_: CallOptions = {}): Promise<readonly FaultInfo[]> => {
      const path = name === undefined ? "/faults" : `/faults/${encodeURIComponent(name)}`;
      return (await call<{ faults: FaultInfo[] }>("DELETE", path, call_)).faults;
    },
  };

  return {
    health: (call_: CallOptions = {}): Promise<Health & { readonly status: "ok" }> =>
      call("GET", "/health", call_),
    /** Resolves if sessions can be started; otherwise rejects with `ERR_APP`, which says why not. */
    ready: (call_: CallOptions = {}): Promise<{ readonly ready: true }> => call("GET", "/ready", call_),
    listeners: async (call_: CallOptions = {}): Promise<readonly ListenerInfo[]> =>
      (await call<{ listeners: ListenerInfo[] }>("GET", "/listeners", call_)).listeners,
    pools: async (call_: CallOptions = {}): Promise<readonly PoolInfo[]> =>
      (await call<{ pools: PoolInfo[] }>("GET", "/pools", call_)).pools,
    /** One pool; rejects with `ENOENT` if there is none with that name. */
    pool: (name: string, call_: CallOptions = {}): Promise<PoolInfo> =>
      call("GET", `/pools/${encodeURIComponent(name)}`, call_),
    /**
     * The events of the listeners' servers with ids above `after`, then those to come, until they are closed or `signal`
     * aborts; for a Worker, those that one isolate has kept. If the connection breaks, it continues after the last event.
     */
    listenerEvents: (from: FollowOptions = {}): AsyncGenerator<ListenerEvent, void, undefined> =>
      follow<ListenerEvent>("/listeners/events", from, () => false, true),
    sessions,
    recording,
    faults,
    /** The entries of the app, to which bytes can be replayed, and on which fault rules may be set. */
    entries: async (call_: CallOptions = {}): Promise<readonly EntryInfo[]> =>
      (await call<{ entries: EntryInfo[] }>("GET", "/entries", call_)).entries,
    /** Replays bytes to a listener of the app, to an entry of its `dial`, or to an address that its `allow` permits. */
    replay: (
      { to, pieces, halfClose, timeout: within = 10_000 }: ReplayRequest,
      call_: CallOptions = {},
    ): Promise<Replayed> =>
      call("POST", "/replays", call_, {
        json: { to, pieces: pieces.map(dataOf), halfClose, timeout: within },
        wait: within + timeout,
      }),
  };
};

/** What to replay: a `ReplaySpec` in which text is UTF-8, and missing fields have their defaults. */
export interface ReplayRequest
  extends Pick<ReplaySpec, "to">,
    Partial<Pick<ReplaySpec, "halfClose" | "timeout">> {
  readonly pieces: readonly (string | Uint8Array)[];
}

const dataOf = (piece: string | Uint8Array): object =>
  typeof piece === "string" ? { text: piece } : { base64: toBase64(piece) };

const hexOf = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** A client of the control plane. */
export type ControlClient = ReturnType<typeof controlClient>;

/** The error of an answer, with the problem's own code if it is one of our problems. */
const problemOf = async (response: Response): Promise<SocketError> => {
  const problem = (await response.json().catch(() => null)) as { code?: unknown; detail?: unknown } | null;
  const { code, detail } = problem ?? {};
  const cause = { ...problem, status: response.status };
  if (!SocketError.isCode(code)) {
    return new SocketError("ERR_INTERNAL", `HTTP ${response.status}, not from a control plane`, { cause });
  }
  return new SocketError(code, typeof detail === "string" ? detail : undefined, { cause });
};

/** Why there was no answer. */
const unreachable = (error: unknown, base: string, signal: AbortSignal): unknown => {
  const reason: unknown = signal.aborted ? signal.reason : undefined;
  if ((reason as Error | undefined)?.name === "TimeoutError") {
    return new SocketError("ETIMEDOUT", `${base} did not answer in time`, { cause: reason });
  }
  if (reason !== undefined) return reason;
  const cause = (error as { cause?: unknown }).cause ?? error; // Node's fetch has the reason there
  const code: SocketErrorCode = SocketError.from(cause, "ERR_CONNECT_FAILED").code;
  return new SocketError(code, `${base} cannot be reached: ${(cause as Error).message}`, { cause: error });
};

const delay = (ms: number, signal?: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
