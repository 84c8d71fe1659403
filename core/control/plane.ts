/**
 * The control plane: what the routes under `/v1` need of a platform, and the shapes that they show.
 *
 * A *session* is one handler on one connection. Its life:
 *
 *     connecting ──▶ running ──▶ ended    the handler returned; `result` is what it gave
 *         └──────────────┴─────▶ failed   the dialling or the handler failed; `error` says why
 *         └──────────────┴─────▶ cut      it was ended from outside, and `error.code` says by what:
 *                                         ECANCELED    somebody asked for its end
 *                                         ETIMEDOUT    its deadline passed
 *                                         ECONNABORTED the process that ran it is gone
 *
 * One of an entry of `dial` with `keep` lasts: when its connection is over it is `waiting`, and then `connecting` again. It is
 * over when its handler says so (`done`), when its attempts are used up, or when it was ended from outside.
 *
 * The Worker implements `ControlPlane` with Durable Objects, the emulator with `LocalPlane`. All that is shown is
 * plain JSON, so it can cross any border as it is.
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

/** The bounds of what may be asked. Times are milliseconds, sizes bytes. */
export const BOUNDS = {
  /** The time of a session that its caller waits for, where the caller names none. */
  runDeadline: 30_000,
  /** The longest that a caller may wait: what sits between ends a silent HTTP request after minutes. */
  maxRunDeadline: 300_000,
  /** The time of a session in the background, where its caller names none: one hour. */
  deadline: 3_600_000,
  /** The longest session: a day. Something that shall run for longer starts again, since deployments cut it anyway. */
  maxDeadline: 86_400_000,
  /** The longest that a connection may take to open: TCP itself gives up after about two minutes. */
  maxConnectTimeout: 120_000,
  /** Sessions in one page of a list. */
  pageSize: 50,
  /** As many as 450 KB of JSON hold: a page that lists 100 000 asks a hundred times. */
  maxPageSize: 1_000,
  /** The body of a request with JSON. */
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
  /** The attempts in the record of a session that lasts; the number of each says how many there were. */
  attempts: 20,
} as const;

interface SpecOptions {
  /** What the handler gets as `this.params`. Never shown again: it may hold secrets. */
  readonly params?: Json | undefined;
  /** How long the session may last, from the dialling to the end, in ms. Default `BOUNDS.deadline`; of an entry with `keep`: for ever. */
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

/** Where a session is in its life; one that lasts is `waiting` between two connections. The last three are final; `cut` is one whose process or object was lost. */
export type SessionState = "waiting" | "connecting" | "running" | "ended" | "failed" | "cut";

/** Every state, in the order of a session's life; the last three are over. */
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
  /** A UUID of version 7 (RFC 9562): ids sort by the time they were made. */
  readonly id: string;
  /** The handler's name in the app. */
  readonly handler: string;
  readonly direction: "outbound" | "inbound";
  /** Where it was dialled, or where we listen, as text. */
  readonly address: string;
  /** The other end, as text; `null` before the connection is open, and where the platform does not tell. */
  readonly peer: string | null;
  readonly state: SessionState;
  /** ISO 8601, UTC. */
  readonly startedAt: string;
  readonly endedAt: string | null;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** What the handler returned, bytes as `{ "base64": … }`; `null` where it has not, or returned nothing. */
  readonly result: Json;
  readonly error: ErrorInfo | null;
  /** How one lasts; `null` where it is one connection. */
  readonly kept: KeptInfo | null;
}

/** One connection of a session that lasts, which is over. */
export interface AttemptInfo {
  /** From 1. */
  readonly number: number;
  /** ISO 8601, UTC; `openedAt` is `null` where the connection was not opened. */
  readonly startedAt: string;
  readonly openedAt: string | null;
  /** When it was over; of one whose process or object was lost, when that was found. */
  readonly endedAt: string;
  /** `ended`: the handler returned. `failed`: the dialling or the handler threw. `cut`: it was ended from outside, or lost with its process (`ECONNABORTED`). */
  readonly how: "ended" | "failed" | "cut";
  readonly error: ErrorInfo | null;
}

/** How a session lasts. */
export interface KeptInfo {
  /** The number of the attempt that runs, or is over last; 0 before the first. */
  readonly attempt: number;
  /** When that began, and when its connection was open. */
  readonly startedAt: string | null;
  readonly openedAt: string | null;
  /** How many in a row, that one included, were over before they had lasted. */
  readonly failures: number;
  /** When it is dialled next; `null` where it is dialled or runs now, or is over. */
  readonly next: string | null;
  /** When its handler's state was last kept; `null` where it was not. The state itself is not shown. */
  readonly savedAt: string | null;
  /** The last attempts that are over, the oldest first; at most `SESSION_LIMITS.attempts`. */
  readonly attempts: readonly AttemptInfo[];
}

/** What an event says beside its number and time. */
export type SessionEventBody =
  /** `hint`: why the platform may refuse that address, where that is known before it is dialled. */
  | {
      readonly type: "connecting";
      readonly address: string;
      readonly hint?: string;
      /** Of a session that lasts: which one this is. */
      readonly attempt?: number;
    }
  | { readonly type: "open"; readonly peer: string | null }
  /** What the handler said with `this.emit(detail)`. */
  | { readonly type: "handler"; readonly detail: Json }
  /** Bytes were sent by hand. */
  | { readonly type: "sent"; readonly bytes: number }
  /** Our direction was ended by hand. */
  | { readonly type: "halfClosed" }
  /** A session that lasts waits until `next`; `over` is the attempt that came before, `null` before the first. */
  | { readonly type: "waiting"; readonly next: string; readonly over: AttemptInfo | null }
  | { readonly type: "ended"; readonly bytesRead: number; readonly bytesWritten: number }
  | {
      readonly type: "failed" | "cut";
      readonly bytesRead: number;
      readonly bytesWritten: number;
      readonly error: ErrorInfo;
    };

/** One thing that happened to a session. Ids are 1, 2, …; where one is missing, it was dropped from a full log. */
export type SessionEvent = SessionEventBody & {
  readonly id: number;
  /** ISO 8601, UTC. */
  readonly at: string;
};

/** What to list. */
export interface SessionQuery {
  readonly state?: SessionState | undefined;
  readonly handler?: string | undefined;
  /** How many at most, 1 to `BOUNDS.maxPageSize`. */
  readonly limit: number;
  /** Only sessions older than this one: the last page's `next`. It need not exist any more. */
  readonly before?: string | undefined;
}

/** A page of sessions, newest first (by id, descending). */
export interface SessionPage {
  readonly sessions: readonly SessionInfo[];
  /** The `before` of the next page, or `null` where this is the last. */
  readonly next: string | null;
}

/** What a listener's server says of itself (its `info()`), as the routes show it; in a Worker that of this isolate. */
export interface ListenerInfo {
  /** The handler's name. */
  readonly name: string;
  /** `tcp://127.0.0.1:7007`; where the platform chose the port, that one. */
  readonly address: string;
  /** How it takes its requests. */
  readonly serve: Serving;
  /** `new` before it listens: in a Worker, before its first request in this isolate. */
  readonly state: ServerState;
  /** What it does with new requests; `null` if it is not suspended. */
  readonly suspended: Suspension | null;
  /** Requests that wait, whose handler runs now, has ended, and has ended badly; and those that were turned away. */
  readonly waiting: number;
  readonly running: number;
  readonly served: number;
  readonly failed: number;
  readonly refused: number;
  /** Bytes that requests received, and that they sent; those of a request count when it is over. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** The child processes of a listener that forks: those that wait for a request, have one, are starting, and took the place of a lost one; else `null`. */
  readonly children: {
    readonly idle: number;
    readonly busy: number;
    readonly starting: number;
    readonly restarted: number;
  } | null;
}

/** The record of a listener whose server says `info`; without one, of a server that nobody has needed yet. */
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
 * One thing that a server told (`SockletEvent`), as the routes show it: addresses as text, errors as their code and
 * message, and the request's number as `request`. Ids are 1, 2, …; where one is missing, it was dropped from a full log.
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

/** What anyone may know without a token: counts, and nothing that tells of a peer. */
export interface Health {
  readonly listeners: number;
  /** Handlers that run now, as far as this process knows without asking others. */
  readonly running: number;
}

/** A rule of faults as it is set: which entry of the app it is of, the rule, and what it has done. */
export interface FaultInfo extends FaultRule {
  /** An entry of the app's `listen`, or of its `dial`. */
  readonly on: "listen" | "dial";
  /** The handler's name of a listen entry, or the dial entry's own. */
  readonly entry: string;
  readonly name: string;
  /** Whether it is in effect now. */
  readonly holds: boolean;
  /** How many connections, or datagrams, it has affected. */
  readonly applied: number;
}

/** The rules of faults of an app. What is given is checked: each throws `EINVAL`, which says what would be right. */
export interface FaultPlane {
  list(): readonly FaultInfo[];
  add(given: unknown): FaultInfo;
  /** These and no others; where one cannot be, all stays as it was. */
  set(given: readonly unknown[]): readonly FaultInfo[];
  /** Takes those of this name back, or all; false if there is none. */
  remove(name?: string): boolean;
}

/** What a recording keeps at most. */
export interface RecordingLimits {
  /** Bytes of all conversations together, with 16 for each piece; the oldest go first. Default `RECORDING_BOUNDS.maxBytes`, 64 MiB. */
  readonly maxBytes?: number;
  /** Conversations; the oldest go first, up to a 64th of them at once. As many sessions that are over are listed, too. Default 10 000. */
  readonly maxConnections?: number;
}

/** What is kept of what passes. */
export interface RecordingInfo extends Required<RecordingLimits> {
  /** Whether what passes is kept now: a recording was started, or somebody watches. */
  readonly on: boolean;
  /** Whether it was started: then it goes on when nobody watches. */
  readonly started: boolean;
  /** Bytes that are kept now. */
  readonly bytes: number;
  readonly conversations: number;
  /** Bytes that were kept, and gave way to newer ones. */
  readonly dropped: number;
  /** In a Worker: isolates that may keep more and did not answer. What they keep is not counted. Absent where all answered. */
  readonly unreached?: number;
}

/** The datagrams between a listener and one sender. */
export interface FlowInfo {
  readonly id: string;
  /** The listener's name. */
  readonly handler: string;
  /** Where it listens. */
  readonly address: string;
  /** The sender; `null` where it is not known. */
  readonly peer: string | null;
  /** ISO 8601, UTC. */
  readonly startedAt: string;
  readonly lastAt: string;
  readonly datagramsRead: number;
  readonly datagramsWritten: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** Some of what was said in a conversation: its events from `first` to before `next`, of `total` so far. */
export interface RecordedPart {
  readonly id: string;
  readonly kind: "stream" | "datagrams";
  /** The side that this process has: `server` of what it accepted. */
  readonly side: "client" | "server";
  /** The server's. */
  readonly address: string;
  /** When the recording of it began: ISO 8601, UTC; events say `at`, in ms since. */
  readonly began: string;
  /** Bytes that were said and are not here: before it was recorded, or given way to newer ones. */
  readonly dropped?: number;
  readonly first: number;
  readonly next: number;
  readonly total: number;
  /** As the lines of a transcript. */
  readonly events: readonly Json[];
}

/** The messages of a conversation, as the `decode` of its entry makes them. */
export interface DecodedPart {
  /** In the order in which they were whole; `at` is ms since the recording began. */
  readonly messages: readonly {
    readonly at: number;
    readonly from: "client" | "server";
    readonly bytes: number;
    readonly text: string;
  }[];
  /** What the decoder threw; what it gave before is there. */
  readonly error: string | null;
  /** Whether that is all: of each side no more than `RECORDING_BOUNDS.decoded` bytes are decoded, from the first that are kept. */
  readonly whole: boolean;
}

/** Conversations that have some bytes. */
export interface FoundBytes {
  /** Newest first. */
  readonly ids: readonly string[];
  /** Whether there may be more: over the bound, or where a Worker did not reach. */
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

/** What passes over the connections of a plane, kept while a recording was started or somebody watches. */
export interface RecordingPlane {
  info(): MaybePromise<RecordingInfo>;
  /** Starts a recording, or gives the one that runs other limits. */
  start(limits?: RecordingLimits): MaybePromise<RecordingInfo>;
  /** Changes the limits, and starts nothing: they are those of a recording that runs, of who watches, and of what comes. */
  limit(limits: RecordingLimits): MaybePromise<RecordingInfo>;
  /** Stops it, and forgets what was kept. */
  stop(): MaybePromise<RecordingInfo>;
  /** Who sent datagrams, the newest first. */
  flows(): MaybePromise<readonly FlowInfo[]>;
  /** What was said in the conversation of this session or flow, from event `after` on, at least one event, until they hold `maxBytes`; `null`: nothing of it is kept. */
  part(id: string, after: number, maxBytes: number): MaybePromise<RecordedPart | null>;
  /** All of it as a transcript, line by line; nothing where nothing is kept. */
  transcript(id: string): Iterable<string> | AsyncIterable<string>;
  /** The conversations in which one side said these bytes. */
  find(bytes: Uint8Array, signal: AbortSignal): Promise<FoundBytes>;
  /** What changes, as it does, at most twice a second; what passes is kept until `signal` aborts. */
  watch(signal: AbortSignal): AsyncIterable<RecordingChange>;
}

/** An entry of the app: what can be said again to, and what rules of faults may be set on. */
export interface EntryInfo {
  /** Of the app's `listen`, or of its `dial`. */
  readonly on: "listen" | "dial";
  /** The handler's name of a listen entry, or the dial entry's own. */
  readonly entry: string;
  /** Where it listens, or what it dials: `tcp://127.0.0.1:7007`. */
  readonly address: string;
  /** Whether rules of faults may be set on it: a listener that forks takes none. */
  readonly faults: boolean;
}

/** What to say again to a server: what a client said, edited or not. */
export interface ReplaySpec {
  /** The name of a listener of the app, the name of one of its `dial` entries, or an address that its `allow` lets dial. */
  readonly to: string;
  /** What to say, piece by piece; each waits until the server has answered the one before, or been silent. */
  readonly pieces: readonly Uint8Array[];
  /**
   * Ends our direction when all is said, and the last piece is answered or half of the time that was left has passed without an answer:
   * many servers end with their client, and drop what they were about to say.
   */
  readonly halfClose: boolean;
  /** ms that all of it may take. */
  readonly timeout: number;
}

/** What a server answered to what was said again. */
export interface Replayed {
  /** Where it was said. */
  readonly address: string;
  /** The events of a transcript. */
  readonly events: readonly Json[];
  /** What went wrong; `null`: nothing did. */
  readonly error: ErrorInfo | null;
}

/**
 * What a platform implements. The routes have validated what they pass on: ids have the form of `newSessionId()`,
 * limits are in `BOUNDS`. All errors are `SocketError`s; `problem.ts` has the table of their HTTP statuses. Where the
 * platform cannot be made to answer each call rejects with `ERR_PLATFORM`, and may be made again, but for `send`.
 */
export interface ControlPlane {
  /** Never waits for another machine. */
  health(): MaybePromise<Health>;
  /** Why no session can be started now, one text a reason, without secrets; empty where all is well. */
  ready(): MaybePromise<readonly string[]>;
  listeners(): MaybePromise<readonly ListenerInfo[]>;
  /** Its counts in Prometheus' text format; `null` where none are kept (in a Worker, unless it was given `metrics`). */
  metrics(): MaybePromise<string | null>;
  /** Its rules of faults; absent where the platform has none, as a Worker. */
  readonly faults?: FaultPlane | undefined;
  /** What passes; absent where the platform keeps none of it, as a Worker without `recording`. */
  readonly recording?: RecordingPlane | undefined;
  /**
   * Says something again to a server. Rejects as `start` where that may not be dialled; what goes wrong later is in the answer.
   * Absent as `recording`.
   */
  replay?(spec: ReplaySpec): Promise<Replayed>;
  /** What can be said again to by name. Absent as `recording`. */
  entries?(): MaybePromise<readonly EntryInfo[]>;
  /** The messages of a session or a flow; `null` where nothing of it is kept, or its entry has no `decode`. Absent as `recording`. */
  messages?(id: string): MaybePromise<DecodedPart | null>;
  /** The app's pools; those of the children of a forking listener are not among them. */
  pools(): MaybePromise<readonly PoolInfo[]>;
  /**
   * What the listeners' servers told, with ids above `after`: those that are kept, then those to come. Ends when they
   * are closed or `signal` aborts; in a Worker with those that this isolate has kept.
   */
  listenerEvents(after: number, signal: AbortSignal): MaybePromise<AsyncIterable<ListenerEvent>>;
  /**
   * Starts a session, and gives its record once that is kept: any `get` from now on finds it. Does not wait for
   * the connection: a dial that fails is a session that failed.
   *
   * Rejects, before anything is dialled, with `ERR_REFUSED` (the target is not allowed), `EINVAL` (no such
   * handler or dial entry, or one that cannot be dialled), `ERR_INVALID_ADDRESS`, `ERR_UNSUPPORTED` (what this
   * platform cannot dial), `ERR_LIMIT` (too many sessions run). All but the last two come from `sessionTarget()`.
   */
  start(spec: SessionSpec): Promise<SessionInfo>;
  /** The record when the session is over, or after `ms` as it is then; `null` if there is no such session. */
  wait(id: string, ms: number): Promise<SessionInfo | null>;
  list(query: SessionQuery): Promise<SessionPage>;
  get(id: string): Promise<SessionInfo | null>;
  /**
   * The events with ids above `after` that are kept, then those to come; ends when the session is over or
   * `signal` aborts, and rejects with neither. `null` if there is no such session.
   */
  events(id: string, after: number, signal: AbortSignal): Promise<AsyncIterable<SessionEvent> | null>;
  /** Sends bytes by hand; resolves when there is room for more. `ENOTCONN` if it does not run or its connection is closed, and as `sendall`. */
  send(id: string, bytes: Uint8Array): Promise<SessionInfo | null>;
  /** Ends our direction by hand. `ENOTCONN` as `send`. */
  halfClose(id: string): Promise<SessionInfo | null>;
  /**
   * Ends the session, as `cut`: its signal aborts, and its connection is reset. `graceful`: its connection is closed after what was
   * written, and where its peer is slow to take that, it still runs. One that is over stays as it is.
   */
  end(id: string, graceful?: boolean): Promise<SessionInfo | null>;
}

/** A spec settled against an app: what is to be dialled, by whom. All of it may be dialled. */
export interface SessionTarget {
  /** The entry of the app's `dial` that it is; `undefined` where an address was given. */
  readonly dial: string | undefined;
  /** The handler's name. */
  readonly handler: string;
  readonly HandlerClass: HandlerClass<StreamSocket>;
  /** Dial this, and not the spec's address: it is the one spelling that the allow list checked. */
  readonly endpoint: Endpoint;
  /** `endpoint` as text: the session's `address`. */
  readonly address: string;
  readonly params: Json | undefined;
  /** ms; `null`: none, of a session that lasts. */
  readonly deadline: number | null;
  /** ms; `undefined`: the connector's default. */
  readonly connectTimeout: number | undefined;
  readonly secureTransport: SecureTransport;
  /** Whom to trust, and who one is: an entry of the app's `dial` says so. */
  readonly tls: TlsOptions | undefined;
  /** What goes first: as `tls`. */
  readonly proxyHeader: Uint8Array | undefined;
  /** How it lasts; `null`: it is one connection. */
  readonly keep: Keep | null;
}

const named = (entries: object): string => Object.keys(entries).join(", ") || "none";

const entryOf = <T>(entries: Readonly<Record<string, T>>, name: string, what: string): T => {
  const entry = Object.hasOwn(entries, name) ? entries[name] : undefined;
  if (entry !== undefined) return entry;
  throw new SocketError("EINVAL", `${what}: the app has none of that name; it has: ${named(entries)}`);
};

/**
 * What `spec` asks for, by the words of `app`. Every plane's `start` begins with this, so that none dials what is
 * not allowed. An entry of the app's `dial` is allowed by being there: it is the app's own word, not the caller's.
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
  return {
    dial: spec.dial,
    handler,
    HandlerClass: HandlerClass as HandlerClass<StreamSocket>,
    endpoint,
    address: formatAddress(endpoint),
    params: spec.params,
    deadline,
    connectTimeout: spec.connectTimeout,
    secureTransport: checked(
      () => secureTransportOf(endpoint, spec.secureTransport === undefined ? (declared ?? spec) : spec),
      "EINVAL",
    ),
    tls: declared?.tls,
    proxyHeader: declared?.proxyHeader,
    keep,
  };
};

/** What makes messages of the conversations of a handler: of what it accepted, and of what it dialled. */
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
  /** Dial this, and not what was asked for: it is the one spelling that the allow list checked. */
  readonly endpoint: Endpoint;
  readonly secureTransport?: SecureTransport;
  readonly tls?: TlsOptions | undefined;
  readonly proxyHeader?: Uint8Array | undefined;
}

/**
 * Where `to` leads, if it is no listener: an entry of the app's `dial`, which is allowed by being there, or an address that `allow`
 * lets dial. Every plane's `replay` asks this, so that none is a way around the rules of sessions.
 *
 * Throws `ERR_REFUSED` (the address is not allowed) and `ERR_INVALID_ADDRESS` (it is none).
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

/** What can be said again to by name, each name once: the listeners, and the entries of `dial`, which take faults where `faults` is true. */
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

/** A wrong argument is a `TypeError` or `RangeError` to a caller in code; here it came from outside. */
const checked = <T>(read: () => T, code: SocketErrorCode = "ERR_INVALID_ADDRESS"): T => {
  try {
    return read();
  } catch (error) {
    throw SocketError.from(error, code);
  }
};

let lastTime = 0;

/** A new session's id: a UUID of version 7 (RFC 9562, 5.7), later than every one that this process made before. */
export const newSessionId = (): string => {
  lastTime = Math.max(Date.now(), lastTime + 1); // a Worker's clock stands still between its waits
  const time = lastTime.toString(16).padStart(12, "0");
  // The random bits of a UUID of version 4 are in the same places, and platforms take them from their generator many at a time.
  return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
};

/** Whether `text` has the form of a session's id. */
export const isSessionId = (text: string): boolean =>
  /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(text);
