/**
 * The control plane: what the routes under `/v1` need from a platform, and the shapes that they return.
 *
 * A *session* is one handler on one connection. Its life:
 *
 *     connecting ──▶ running ──▶ ended    the handler returned; `result` is its value
 *         └──────────────┴─────▶ failed   the dialling or the handler failed; `error` says why
 *         └──────────────┴─────▶ cut      it was ended from outside; `error.code` is the reason:
 *                                         ECANCELED    a caller ended it
 *                                         ETIMEDOUT    its deadline passed
 *                                         ECONNABORTED the process that ran it is gone
 *
 * The session of a `dial` entry with `keep` lasts: after each connection it is `waiting`, and then `connecting` again. It is
 * over when its handler calls `done()`, when its attempts are used up, or when it is ended from outside.
 *
 * The Worker implements `ControlPlane` with Durable Objects, the emulator with `LocalPlane`. Everything shown is
 * plain JSON, so it can cross any process boundary unchanged.
 */

import type { AnyHandlerClass, App } from "../app/app.ts";
import type { Serving } from "../app/listener-options.ts";
import type { MaybePromise } from "../bytes/data.ts";
import type { Decoder } from "../decode/decoder.ts";
import type { Json } from "../describe.ts";
import { SocketError, type SocketErrorCode } from "../errors.ts";
import type { PoolInfo } from "../handlers/client.ts";
import type { SockletEvent } from "../handlers/events.ts";
import type { FaultRule } from "../handlers/fault-rule.ts";
import { DatagramRequestHandler, type HandlerClass } from "../handlers/handler.ts";
import type { Keep } from "../handlers/keep.ts";
import type { AllowList } from "../net/access.ts";
import { type Endpoint, formatAddress, parseAddress } from "../net/address.ts";
import { checkOptions, optionNamesOf } from "../options.ts";
import type { ServerInfo, ServerState, Suspension } from "../serve/server.ts";
import { dialable, secureTransportOf } from "../sockets/dialling/connect.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { SecureTransport, TlsOptions } from "../sockets/tls/tls.ts";

/** The bounds of what a request may ask for. Times are milliseconds, sizes bytes. */
export const BOUNDS = {
  /** The default deadline of a session that its caller waits for. */
  runDeadline: 30_000,
  /** The longest that a caller may wait: proxies in between end a silent HTTP request after minutes. */
  maxRunDeadline: 300_000,
  /** The default deadline of a session in the background: one hour. */
  deadline: 3_600_000,
  /** The longest session: a day. Work that runs for longer must start again, since deployments cut it anyway. */
  maxDeadline: 86_400_000,
  /** The longest that a connection may take to open: TCP itself gives up after about two minutes. */
  maxConnectTimeout: 120_000,
  /** Sessions in one page of a list. */
  pageSize: 50,
  /** As many as fit in 450 KB of JSON: listing 100 000 sessions takes a hundred requests. */
  maxPageSize: 1_000,
  /** The JSON body of a request. */
  jsonBody: 64 * 1024,
  /** The bytes of one `send`. */
  dataBody: 1024 * 1024,
} as const;

/** The limits of one session's memory. Sizes are bytes of JSON. */
export const SESSION_LIMITS = {
  /** Events in a log. */
  events: 1_000,
  /** All events in a log. */
  logSize: 256 * 1024,
  /** One event's detail; a larger one is replaced by `{ "omitted": <its size, at least> }`. */
  detailSize: 16 * 1024,
  /** A result; a larger one makes the session fail with `ERR_LIMIT`. A row of a Durable Object holds 2 MB. */
  resultSize: 1024 * 1024,
  /** An error's message. */
  messageSize: 1_024,
  /** The attempts in the record of a lasting session. The number of each says how many there were. */
  attempts: 20,
} as const;

interface SpecOptions {
  /** What the handler gets as `this.params`. Never shown again: it may hold secrets. */
  readonly params?: Json | undefined;
  /** How long the session may last, from the dial to the end, in ms. Default `BOUNDS.deadline`; for an entry with `keep`, for ever. */
  readonly deadline?: number | undefined;
  /** How long the connection may take to open, in ms. Default: the connector's. */
  readonly connectTimeout?: number | undefined;
  /** Default `off`. */
  readonly secureTransport?: SecureTransport | undefined;
}

/** What to run: an entry of the app's `dial`, or one of its handlers on an address. */
export type SessionSpec = SpecOptions &
  (
    | { readonly dial: string; readonly handler?: undefined; readonly address?: undefined }
    | { readonly dial?: undefined; readonly handler: string; readonly address: string }
  );

const SPEC_NAMES = optionNamesOf<SpecOptions & { dial: unknown; handler: unknown; address: unknown }>(
  "a session",
)({
  dial: true,
  handler: true,
  address: true,
  params: true,
  deadline: true,
  connectTimeout: true,
  secureTransport: true,
});

/** Where a session is in its life. A lasting session is `waiting` between two connections. The last three are final; `cut` also means that its process or object was lost. */
export type SessionState = "waiting" | "connecting" | "running" | "ended" | "failed" | "cut";

/** Every state, in the order of a session's life. The last three are final. */
export const SESSION_STATES = ["waiting", "connecting", "running", "ended", "failed", "cut"] as const;

/** Whether a session in this state, or after an event of this type, is over. */
export const isOver = (state: SessionState | SessionEvent["type"]): boolean =>
  state === "ended" || state === "failed" || state === "cut";

/** An error as a record shows it. */
export interface ErrorInfo {
  readonly code: SocketErrorCode;
  readonly message: string;
}

/** The record of a session. */
export interface SessionInfo {
  /** A UUID of version 7 (RFC 9562): ids sort by creation time. */
  readonly id: string;
  /** The handler's name in the app. */
  readonly handler: string;
  readonly direction: "outbound" | "inbound";
  /** The address that was dialled, or that we listen at, as text. */
  readonly address: string;
  /** The other end, as text; `null` before the connection is open, and if the platform does not report it. */
  readonly peer: string | null;
  readonly state: SessionState;
  /** ISO 8601, UTC. */
  readonly startedAt: string;
  readonly endedAt: string | null;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** What the handler returned, bytes as `{ "base64": … }`; `null` if it has not returned, or returned nothing. */
  readonly result: Json;
  readonly error: ErrorInfo | null;
  /** The state of a lasting session; `null` if the session is one connection. */
  readonly kept: KeptInfo | null;
}

/** One past connection of a lasting session. */
export interface AttemptInfo {
  /** From 1. */
  readonly number: number;
  /** ISO 8601, UTC; `openedAt` is `null` if the connection was not opened. */
  readonly startedAt: string;
  readonly openedAt: string | null;
  /** When it ended. If its process or object was lost, when the loss was found. */
  readonly endedAt: string;
  /** `ended`: the handler returned. `failed`: the dialling or the handler threw. `cut`: it was ended from outside, or lost with its process (`ECONNABORTED`). */
  readonly how: "ended" | "failed" | "cut";
  readonly error: ErrorInfo | null;
}

/** The state of a lasting session, across its connections. */
export interface KeptInfo {
  /** The number of the attempt that runs, or that ended last; 0 before the first. */
  readonly attempt: number;
  /** When that attempt began, and when its connection was open. */
  readonly startedAt: string | null;
  readonly openedAt: string | null;
  /** How many attempts in a row, that one included, ended without having been open for `redial.steady`. */
  readonly failures: number;
  /** When it is dialled next; `null` if it is being dialled, runs, or is over. */
  readonly next: string | null;
  /** When its handler's state was last stored; `null` if it never was. The state itself is not shown. */
  readonly savedAt: string | null;
  /** The last finished attempts, the oldest first; at most `SESSION_LIMITS.attempts`. */
  readonly attempts: readonly AttemptInfo[];
}

/** An event, without its number and time. */
export type SessionEventBody =
  /** `hint`: why the platform may refuse that address, if that is known before the dial. */
  | {
      readonly type: "connecting";
      readonly address: string;
      readonly hint?: string;
      /** In a lasting session, the number of this attempt. */
      readonly attempt?: number;
    }
  | { readonly type: "open"; readonly peer: string | null }
  /** The handler called `this.emit(detail)`. */
  | { readonly type: "handler"; readonly detail: Json }
  /** Bytes were sent by hand. */
  | { readonly type: "sent"; readonly bytes: number }
  /** Our direction was ended by hand. */
  | { readonly type: "halfClosed" }
  /** A lasting session waits until `next`; `over` is the attempt before, `null` before the first. */
  | { readonly type: "waiting"; readonly next: string; readonly over: AttemptInfo | null }
  | { readonly type: "ended"; readonly bytesRead: number; readonly bytesWritten: number }
  | {
      readonly type: "failed" | "cut";
      readonly bytesRead: number;
      readonly bytesWritten: number;
      readonly error: ErrorInfo;
    };

/** Something that happened to a session. Ids are 1, 2, …; a missing one was dropped from a full log. */
export type SessionEvent = SessionEventBody & {
  readonly id: number;
  /** ISO 8601, UTC. */
  readonly at: string;
};

/** What to list. */
export interface SessionQuery {
  readonly state?: SessionState | undefined;
  readonly handler?: string | undefined;
  /** The most sessions to return, 1 to `BOUNDS.maxPageSize`. */
  readonly limit: number;
  /** Only sessions older than this one: the last page's `next`. It may have been deleted since. */
  readonly before?: string | undefined;
}

/** A page of sessions, newest first (by id, descending). */
export interface SessionPage {
  readonly sessions: readonly SessionInfo[];
  /** The `before` of the next page, or `null` if this is the last. */
  readonly next: string | null;
}

/** One page of the newest sessions of several pages, each of which was asked for with this `limit`. */
export const mergePages = (pages: readonly SessionPage[], limit: number): SessionPage => {
  const all = pages.flatMap(({ sessions }) => sessions).sort((one, other) => (one.id < other.id ? 1 : -1));
  const sessions = all.slice(0, limit);
  const more = all.length > limit || pages.some(({ next }) => next !== null);
  return { sessions, next: more ? (sessions.at(-1)?.id ?? null) : null };
};

/** The `info()` of a listener's server, as the routes show it; in a Worker, of this isolate's server. */
export interface ListenerInfo {
  /** The handler's name. */
  readonly name: string;
  /** `tcp://127.0.0.1:7007`, with the actual port if the platform chose it. */
  readonly address: string;
  /** How it takes its requests. */
  readonly serve: Serving;
  /** `new` before it listens: in a Worker, before its first request in this isolate. */
  readonly state: ServerState;
  /** What it does with new requests; `null` if it is not suspended. */
  readonly suspended: Suspension | null;
  /** Requests that wait, whose handler runs, has ended, or has failed; and requests that were refused. */
  readonly waiting: number;
  readonly running: number;
  readonly served: number;
  readonly failed: number;
  readonly refused: number;
  /** Bytes that requests received and sent. They are counted when a request is over. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** The child processes of a forking listener: idle, busy, starting, and started in place of a lost one. `null` for other listeners. */
  readonly children: {
    readonly idle: number;
    readonly busy: number;
    readonly starting: number;
    readonly restarted: number;
  } | null;
}

/** The record of a listener whose server's `info()` is `info`; without it, of a server that has not been needed yet. */
export const listenerInfo = (
  name: string,
  address: string,
  serve: Serving,
  info?: ServerInfo & Partial<NonNullable<ListenerInfo["children"]>>,
): ListenerInfo => {
  const { state = "new", suspended = null, waiting = 0, running = 0, served = 0 } = info ?? {};
  const { failed = 0, refused = 0, bytesRead = 0, bytesWritten = 0, idle } = info ?? {};
  const { busy = 0, starting = 0, restarted = 0 } = info ?? {};
  const children = idle === undefined ? null : { idle, busy, starting, restarted };
  const counts = { waiting, running, served, failed, refused, bytesRead, bytesWritten };
  return { name, address, serve, state, suspended, ...counts, children };
};

/**
 * An event of a server (`SockletEvent`), as the routes show it: addresses as text, errors as their code and
 * message, and the request's number as `request`. Ids are 1, 2, …; a missing one was dropped from a full log.
 */
export interface ListenerEvent {
  readonly id: number;
  /** ISO 8601, UTC. */
  readonly at: string;
  readonly type: SockletEvent["type"];
  /** The server's name, which is its handler's. */
  readonly server: string;
  readonly [more: string]: Json;
}

/** What is shown without a token: counts, and nothing about a peer. */
export interface Health {
  readonly listeners: number;
  /** Running handlers, as far as this process knows without asking others. */
  readonly running: number;
}

/** A fault rule that is set: the entry of the app that it applies to, the rule, and what it has done. */
export interface FaultInfo extends FaultRule {
  /** An entry of the app's `listen`, or of its `dial`. */
  readonly on: "listen" | "dial";
  /** The handler's name of a listen entry, or the dial entry's own. */
  readonly entry: string;
  readonly name: string;
  /** Whether it is in effect now. */
  readonly holds: boolean;
  /** The number of connections or datagrams that it has affected. */
  readonly applied: number;
}

/** The fault rules of an app. Each call checks its arguments, and throws `EINVAL`, which says what would be right. */
export interface FaultPlane {
  list(): readonly FaultInfo[];
  add(given: unknown): FaultInfo;
  /** Replaces all rules by these. If one is invalid, nothing changes. */
  set(given: readonly unknown[]): readonly FaultInfo[];
  /** Removes the rules with this name, or all; returns false if there are none. */
  remove(name?: string): boolean;
}

/** The most that a recording keeps. */
export interface RecordingLimits {
  /** Bytes of all conversations together, plus 16 for each piece. The oldest are dropped first. Default `RECORDING_BOUNDS.maxBytes`, 64 MiB. */
  readonly maxBytes?: number;
  /** Conversations. The oldest are dropped first, up to a 64th of them at once. The same number of finished sessions is listed. Default 10 000. */
  readonly maxConnections?: number;
}

/** The state of the recording of traffic. */
export interface RecordingInfo extends Required<RecordingLimits> {
  /** Whether traffic is kept now: a recording was started, or somebody watches. */
  readonly on: boolean;
  /** Whether a recording was started: then it continues when nobody watches. */
  readonly started: boolean;
  /** The bytes that are kept now. */
  readonly bytes: number;
  readonly conversations: number;
  /** The bytes that were kept, and were dropped for newer ones. */
  readonly dropped: number;
  /** In a Worker, the number of isolates that may keep more and did not answer. What they keep is not counted. Absent if all answered. */
  readonly unreached?: number;
}

/** The datagrams between a listener and one sender. */
export interface FlowInfo {
  readonly id: string;
  /** The listener's name. */
  readonly handler: string;
  /** Where it listens. */
  readonly address: string;
  /** The sender; `null` if it is not known. */
  readonly peer: string | null;
  /** ISO 8601, UTC. */
  readonly startedAt: string;
  readonly lastAt: string;
  readonly datagramsRead: number;
  readonly datagramsWritten: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** Part of a conversation: its events from `first` to before `next`, of `total` so far. */
export interface RecordedPart {
  readonly id: string;
  readonly kind: "stream" | "datagrams";
  /** The side of this process: `server` for a connection that it accepted. */
  readonly side: "client" | "server";
  /** The server's address. */
  readonly address: string;
  /** When its recording began: ISO 8601, UTC. The `at` of an event is in ms since then. */
  readonly began: string;
  /** Bytes that passed and are not here: from before the recording, or dropped for newer ones. */
  readonly dropped?: number;
  readonly first: number;
  readonly next: number;
  readonly total: number;
  /** As the lines of a transcript. */
  readonly events: readonly Json[];
}

/** The messages of a conversation, as the `decode` of its entry makes them. */
export interface DecodedPart {
  /** In the order in which they were complete; `at` is in ms since the recording began. */
  readonly messages: readonly {
    readonly at: number;
    readonly from: "client" | "server";
    readonly bytes: number;
    readonly text: string;
  }[];
  /** What the decoder threw. The messages that it returned before are there. */
  readonly error: string | null;
  /** Whether that is everything: at most `RECORDING_BOUNDS.decoded` bytes of each side are decoded, from the first kept byte on. */
  readonly whole: boolean;
}

/** Conversations that contain the searched bytes. */
export interface FoundBytes {
  /** Newest first. */
  readonly ids: readonly string[];
  /** Whether there may be more: over the bound, or in an isolate that a Worker did not reach. */
  readonly more: boolean;
}

/** What changed since the last event: the records of these sessions and flows. */
export interface RecordingChange {
  readonly id: number;
  /** ISO 8601, UTC. */
  readonly at: string;
  readonly type: "changed";
  readonly recording: RecordingInfo;
  readonly sessions: readonly SessionInfo[];
  readonly flows: readonly FlowInfo[];
}

/** Records the traffic of a plane's connections, while a recording is on or somebody watches. */
export interface RecordingPlane {
  info(): MaybePromise<RecordingInfo>;
  /** Starts a recording, or changes the limits of the one that runs. */
  start(limits?: RecordingLimits): MaybePromise<RecordingInfo>;
  /** Changes the limits, and starts nothing. They apply to a running recording, to watchers, and to later recordings. */
  limit(limits: RecordingLimits): MaybePromise<RecordingInfo>;
  /** Stops the recording, and deletes what was kept. */
  stop(): MaybePromise<RecordingInfo>;
  /** The flows of datagrams, the newest first. */
  flows(): MaybePromise<readonly FlowInfo[]>;
  /** The conversation of this session or flow from event `after` on: at least one event, and up to `maxBytes`. `null` if nothing of it is kept. */
  part(id: string, after: number, maxBytes: number): MaybePromise<RecordedPart | null>;
  /** The whole conversation as a transcript, line by line. Empty if nothing is kept. */
  transcript(id: string): Iterable<string> | AsyncIterable<string>;
  /** The conversations in which one side sent these bytes. */
  find(bytes: Uint8Array, signal: AbortSignal): Promise<FoundBytes>;
  /** The changes as they happen, at most twice a second. Traffic is kept until `signal` aborts. */
  watch(signal: AbortSignal): AsyncIterable<RecordingChange>;
}

/** An entry of the app, to which bytes can be replayed, and on which fault rules may be set. */
export interface EntryInfo {
  /** Of the app's `listen`, or of its `dial`. */
  readonly on: "listen" | "dial";
  /** The handler's name of a listen entry, or the dial entry's own. */
  readonly entry: string;
  /** Where it listens, or what it dials: `tcp://127.0.0.1:7007`. */
  readonly address: string;
  /** Whether fault rules may be set on it: a forking listener takes none. */
  readonly faults: boolean;
}

/** A replay: what a client sent, edited or not, to send again to a server. */
export interface ReplaySpec {
  /** The name of a listener of the app, the name of one of its `dial` entries, or an address that its `allow` permits. */
  readonly to: string;
  /** The pieces to send; each waits until the server has answered the previous one, or been silent. */
  readonly pieces: readonly Uint8Array[];
  /**
   * Ends our direction once everything is sent, and the last piece is answered or half of the remaining time has passed without an answer:
   * many servers end with their client, and drop their pending output.
   */
  readonly halfClose: boolean;
  /** The most ms that the whole replay may take. */
  readonly timeout: number;
}

/** The result of a replay. */
export interface Replayed {
  /** The address that it was sent to. */
  readonly address: string;
  /** The events of a transcript. */
  readonly events: readonly Json[];
  /** The error; `null` if there was none. */
  readonly error: ErrorInfo | null;
}

/**
 * The interface that a platform implements. The routes have validated what they pass: ids have the form of `newSessionId()`,
 * limits are within `BOUNDS`. All errors are `SocketError`s; `problem.ts` has the table of their HTTP statuses. If the
 * platform does not answer, a call rejects with `ERR_PLATFORM`, and may be repeated, except for `send`.
 */
export interface ControlPlane {
  /** Never waits for another machine. */
  health(): MaybePromise<Health>;
  /** Why no session can be started now: one text per reason, without secrets. Empty if sessions can be started. */
  ready(): MaybePromise<readonly string[]>;
  listeners(): MaybePromise<readonly ListenerInfo[]>;
  /** Its counts in Prometheus' text format; `null` if none are kept (in a Worker without `metrics`). */
  metrics(): MaybePromise<string | null>;
  /** Its fault rules; absent if the platform has none, as in a Worker. */
  readonly faults?: FaultPlane | undefined;
  /** The recording of traffic; absent if the platform cannot record, as in a Worker without `recording`. */
  readonly recording?: RecordingPlane | undefined;
  /**
   * Replays bytes to a server. Rejects as `start` does if that may not be dialled; later errors are in the answer.
   * Absent if `recording` is.
   */
  readonly replay?: ((spec: ReplaySpec) => Promise<Replayed>) | undefined;
  /** The entries that a replay can go to. Absent if `recording` is. */
  readonly entries?: (() => MaybePromise<readonly EntryInfo[]>) | undefined;
  /** The messages of a session or a flow; `null` if nothing of it is kept, or its entry has no `decode`. Absent if `recording` is. */
  messages?(id: string): MaybePromise<DecodedPart | null>;
  /** The app's pools, without those in the children of a forking listener. */
  pools(): MaybePromise<readonly PoolInfo[]>;
  /**
   * The events of the listeners' servers with ids above `after`: the kept ones, then new ones as they come. Ends when the servers
   * are closed or `signal` aborts; in a Worker after the events that this isolate has kept.
   */
  listenerEvents(after: number, signal: AbortSignal): MaybePromise<AsyncIterable<ListenerEvent>>;
  /**
   * Starts a session, and returns its record once that is stored: any later `get` finds it. Does not wait for
   * the connection: a failed dial is a failed session.
   *
   * Rejects before the dial with `ERR_REFUSED` (the target is not allowed), `EINVAL` (no such
   * handler or dial entry, or one that cannot be dialled), `ERR_INVALID_ADDRESS`, `ERR_UNSUPPORTED` (what this
   * platform cannot dial), `ERR_LIMIT` (too many sessions run). All but the last two come from `sessionTarget()`.
   */
  start(spec: SessionSpec): Promise<SessionInfo>;
  /** The record once the session is over, or as it is after `ms`; `null` if there is no such session. */
  wait(id: string, ms: number): Promise<SessionInfo | null>;
  list(query: SessionQuery): Promise<SessionPage>;
  get(id: string): Promise<SessionInfo | null>;
  /**
   * The kept events with ids above `after`, then new ones as they come; ends when the session is over or
   * `signal` aborts, without an error in either case. `null` if there is no such session.
   */
  events(id: string, after: number, signal: AbortSignal): Promise<AsyncIterable<SessionEvent> | null>;
  /** Sends bytes by hand; resolves when there is room for more. Rejects with `ENOTCONN` if the session does not run or its connection is closed, and as `sendall`. */
  send(id: string, bytes: Uint8Array): Promise<SessionInfo | null>;
  /** Ends our direction by hand. Rejects with `ENOTCONN` as `send` does. */
  halfClose(id: string): Promise<SessionInfo | null>;
  /**
   * Ends the session as `cut`: its signal aborts, and its connection is reset. `graceful`: its connection is closed after what was
   * written has been sent; if its peer takes that slowly, it still runs meanwhile. A finished session is unchanged.
   */
  end(id: string, graceful?: boolean): Promise<SessionInfo | null>;
}

/** A spec resolved against an app: what to dial, with which handler. The target is allowed. */
export interface SessionTarget {
  /** The entry of the app's `dial`; `undefined` if the spec has an address. */
  readonly dial: string | undefined;
  /** The handler's name. */
  readonly handler: string;
  readonly HandlerClass: HandlerClass<StreamSocket>;
  /** Dial this, and not the spec's address: it is the spelling that the allow list checked. */
  readonly endpoint: Endpoint;
  /** `endpoint` as text: the session's `address`. */
  readonly address: string;
  readonly params: Json | undefined;
  /** ms; `null` for none, in a lasting session. */
  readonly deadline: number | null;
  /** ms; `undefined`: the connector's default. */
  readonly connectTimeout: number | undefined;
  readonly secureTransport: SecureTransport;
  /** The certificates to trust and to present, from the entry of the app's `dial`. */
  readonly tls: TlsOptions | undefined;
  /** The header to send first, from the entry of the app's `dial`. */
  readonly proxyHeader: Uint8Array | undefined;
  /** The options of a lasting session; `null` if the session is one connection. */
  readonly keep: Keep | null;
}

const named = (entries: object): string => Object.keys(entries).join(", ") || "none";

const entryOf = <T>(entries: Readonly<Record<string, T>>, name: string, what: string): T => {
  const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
  if (entry !== undefined) return entry;
  throw new SocketError("EINVAL", `${what}: the app has none of that name; it has: ${named(entries)}`);
};

/**
 * The target that `spec` asks for, by the definitions of `app`. Every plane's `start` begins with this, so that none dials what is
 * not allowed. An entry of the app's `dial` needs no rule, since the app defines it, and not the caller.
 *
 * Throws what `ControlPlane.start` rejects with: `ERR_REFUSED`, `EINVAL`, `ERR_INVALID_ADDRESS`.
 */
export const sessionTarget = (app: App, spec: SessionSpec, allow: AllowList): SessionTarget => {
  checked(() => checkOptions("a session", spec, SPEC_NAMES), "EINVAL");
  const declared = spec.dial === undefined ? undefined : entryOf(app.dial, spec.dial, "dial");
  const handler = declared?.handler ?? (spec.handler as string);
  const HandlerClass: AnyHandlerClass = entryOf(app.handlers, handler, "handler");
  if (HandlerClass.prototype instanceof DatagramRequestHandler) {
    throw new SocketError("EINVAL", `handler: "${handler}" handles datagrams, and a session is a stream`);
  }
  const keep = declared?.keep ?? null;
  const { deadline = keep === null ? BOUNDS.deadline : null } = spec;
  if (deadline !== null && !(deadline > 0 && deadline <= BOUNDS.maxDeadline)) {
    throw new SocketError("EINVAL", `deadline: must be 1 to ${BOUNDS.maxDeadline} ms, and is ${deadline}`);
  }
  const endpoint = checked(() =>
    dialable(declared?.endpoint ?? allow.check(dialable(spec.address as string))),
  );
  const secureTransport = checked(
    () => secureTransportOf(endpoint, spec.secureTransport === undefined ? (declared ?? spec) : spec),
    "EINVAL",
  );
  return {
    dial: spec.dial,
    handler,
    HandlerClass: HandlerClass as HandlerClass<StreamSocket>,
    endpoint,
    address: formatAddress(endpoint),
    params: spec.params,
    deadline,
    connectTimeout: spec.connectTimeout,
    secureTransport,
    tls: secureTransport === "off" ? undefined : declared?.tls, // the caller may want plain text
    proxyHeader: declared?.proxyHeader,
    keep,
  };
};

/** The decoders of a handler's conversations: those that it accepted, and those that it dialled. */
export const decoderOf = (
  { listeners, dial }: App,
  handler: string | undefined,
  direction: SessionInfo["direction"] | undefined,
): Decoder | undefined => {
  const entries = direction === "outbound" ? [] : listeners.filter(({ name }) => name === handler);
  const dialled = Object.values(dial).filter((entry) => entry.handler === handler);
  return [...entries, ...dialled].find((entry) => entry.decode !== undefined)?.decode;
};

/** Where something is said again, and how that is dialled. */
export interface ReplayTarget {
  /** Dial this, and not the address in the request: it is the spelling that the allow list checked. */
  readonly endpoint: Endpoint;
  readonly secureTransport?: SecureTransport;
  readonly tls?: TlsOptions | undefined;
  readonly proxyHeader?: Uint8Array | undefined;
}

/**
 * Where `to` leads, if it is not a listener: an entry of the app's `dial`, which needs no rule, or an address that `allow`
 * permits. Every plane's `replay` calls this, so that none is a way around the rules of sessions.
 *
 * Throws `ERR_REFUSED` if the address is not allowed, and `ERR_INVALID_ADDRESS` if it is not an address.
 */
export const replayTarget = ({ dial }: App, to: string, allow: AllowList): ReplayTarget => {
  const entry = Object.hasOwn(dial, to) ? dial[to] : undefined;
  if (entry !== undefined) {
    const { endpoint, secureTransport, tls, proxyHeader } = entry;
    return { endpoint, secureTransport, tls, proxyHeader };
  }
  const endpoint = checked(() => {
    const asked = parseAddress(to);
    return allow.check(asked.scheme === "udp" ? asked : dialable(asked));
  });
  return { endpoint, secureTransport: secureTransportOf(endpoint, {}) };
};

/** The names that a replay can go to, each once: the listeners, and the entries of `dial`, which take faults if `faults` is true. */
export const entriesOf = (
  listeners: readonly Omit<EntryInfo, "on">[],
  dial: App["dial"],
  faults: boolean,
): EntryInfo[] => {
  const entries: EntryInfo[] = listeners.map((one) => ({ on: "listen", ...one }));
  for (const [entry, { endpoint }] of Object.entries(dial))
    entries.push({ on: "dial", entry, address: formatAddress(endpoint), faults });
  return entries.filter(
    ({ on, entry }, i) => i === entries.findIndex((one) => one.on === on && one.entry === entry),
  );
};

/** For a caller in code a wrong argument is a `TypeError` or `RangeError`; here it came from outside. */
const checked = <T>(read: () => T, code: SocketErrorCode = "ERR_INVALID_ADDRESS"): T => {
  try {
    return read();
  } catch (error) {
    throw SocketError.from(error, code);
  }
};

let lastTime = 0;

/** A new session's id: a UUID of version 7 (RFC 9562, 5.7), which sorts after every earlier one of this process. */
export const newSessionId = (): string => {
  lastTime = Math.max(Date.now(), lastTime + 1); // a Worker's clock stands still between its waits
  const time = lastTime.toString(16).padStart(12, "0");
  // The random bits of a UUID of version 4 are in the same places, and platforms generate many of those at a time.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
};

/** Whether `text` has the form of a session's id. */
export const isSessionId = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(text);
