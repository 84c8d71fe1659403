/**
 * Transcripts: what two ends said to each other, kept as text, held again, compared.
 *
 * The form is JSON Lines (one JSON value a line, UTF-8, each ended by a newline). The first line is the header:
 *
 *     {"socklet":"transcript","version":1,"kind":"stream","note":"redis-cli PING"}
 *
 * - `kind`: `stream`, or `datagrams`. `note`: optional, what this is and how to record it again. `dropped`: only where
 *   the recording is not whole, how many bytes came that were over its limit and are not here.
 *
 * Every other line is one event. `at` is milliseconds since the recording began, and never goes back; `from` is who
 * did it, `client` (who dialled, or sent the first datagram) or `server`:
 *
 *     {"at":0.4,"from":"server","text":"220 mail.test\r\n"}      bytes that are clean text: UTF-8 without control
 *                                                             characters but tab, carriage return and newline
 *     {"at":1.2,"from":"client","base64":"AAEC"}               all other bytes (RFC 4648, section 4)
 *     {"at":9,"from":"client","end":"half-close"}              it says no more (a FIN), and may still listen
 *     {"at":9,"from":"server","end":"close"}                   it let go of both directions; known of the end that was recorded
 *     {"at":9,"from":"server","end":"reset"}                   it broke the connection
 *     {"at":5,"tls":true}                                      from here on both speak through TLS; what follows is what they said in it
 *
 * Of a stream the events are pieces as they came, which mean nothing: a network cuts where it likes, so what compares
 * and replays joins them. Of datagrams each is one, whole, and may be empty; `"peer":2` is the second client's, in the
 * order in which they came, and the first has no number. After its end a side says nothing.
 */

import { type Data, joinBytes, toBytes } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import { formatAddress } from "../net/address.ts";
import { SHUT_WR } from "../net/constants.ts";
import { checkCount, checkOptions, checkWord, optionNamesOf } from "../options.ts";
import { BaseRequestHandler, checkHandler, type HandlerClass, type HandlerServer } from "../serve/handler.ts";
import { Datagram } from "../sockets/datagram.ts";
import {
  type Capabilities,
  type KernelSocket,
  STREAM_NAMES,
  type StreamOptions,
  type StreamSink,
  StreamSocket,
  type StreamTransport,
  TLS_NAMES,
  type TlsOptions,
} from "../sockets/stream-socket.ts";
import { type Clock, Conversation, realClock } from "./script.ts";
import { cleanText, dialogue, difference, normalised, quote, type Said } from "./text.ts";

const VERSION = 1;
const LIMIT = 16 * 1024 * 1024; // bytes that one recording keeps: a transcript is for reading
const DIGITS = 1000; // of a millisecond: what clocks resolve

const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

/** The two ends of a conversation: who dialled, and who accepted. */
export const SIDES = ["client", "server"] as const;
/** One of the two ends. */
export type Side = (typeof SIDES)[number];

/** How an end left: it says no more, it let go, it broke the connection. */
export const ENDS = ["half-close", "close", "reset"] as const;
/** How an end left. */
export type TranscriptEnd = (typeof ENDS)[number];

/** One thing that happened, `at` so many milliseconds after the recording began. */
export type TranscriptEvent =
  | { readonly at: number; readonly from: Side; readonly data: Uint8Array; readonly peer?: number }
  | { readonly at: number; readonly from: Side; readonly end: TranscriptEnd }
  | { readonly at: number; readonly tls: true };

/** What two ends said to each other. */
export interface Transcript {
  /** What is between the two: a stream of bytes, or datagrams. */
  readonly kind: "stream" | "datagrams";
  /** What this is, and how to record it again. */
  readonly note?: string;
  /** Bytes that were said and are not here, since they were over the recording's limit; absent where it is whole. */
  readonly dropped?: number;
  /** What happened, in the order of time. */
  readonly events: readonly TranscriptEvent[];
}

// ---- The form ----

const base64 = (bytes: Uint8Array): string => {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192)
    binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(binary);
};

/** `transcript` as JSON Lines. */
export const formatTranscript = ({ kind, note, dropped, events }: Transcript): string => {
  const about = { ...(note !== undefined && { note }), ...(dropped !== undefined && { dropped }) };
  const lines: unknown[] = [{ socklet: "transcript", version: VERSION, kind, ...about }];
  for (const event of events) {
    const at = Math.round(event.at * DIGITS) / DIGITS;
    if (!("data" in event)) {
      lines.push({ ...event, at });
      continue;
    }
    const { from, data, peer } = event;
    const text = cleanText(data);
    const said = text === null ? { base64: base64(data) } : { text };
    lines.push({ at, from, ...(peer !== undefined && { peer }), ...said });
  }
  return lines.map((line) => `${JSON.stringify(line)}\n`).join("");
};

type Fields = Readonly<Record<string, unknown>>;

/** The transcript that `text` is. Throws a `SyntaxError` that names the line and what is wrong with it. */
export const parseTranscript = (text: string): Transcript => {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  let number = 0;
  const wrong = (message: string): SyntaxError => new SyntaxError(`transcript, line ${number}: ${message}`);
  const fieldsOf = (line: string): Fields => {
    number++;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw wrong(line.trim() === "" ? "it is empty" : `it is not JSON: ${quote(line, 60)}`);
    }
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Fields;
    throw wrong(`it must be an object, not ${quote(line, 60)}`);
  };
  const only = (fields: Fields, names: readonly string[]): void => {
    const other = Object.keys(fields).find((name) => !names.includes(name));
    if (other !== undefined)
      throw wrong(`there is no field "${other}" here; there may be ${names.join(", ")}`);
  };
  const word = <T extends string>(fields: Fields, name: string, words: readonly T[]): T => {
    const value = fields[name];
    if ((words as readonly unknown[]).includes(value)) return value as T;
    throw wrong(`"${name}" is ${words.map((one) => `"${one}"`).join(" or ")}, not ${JSON.stringify(value)}`);
  };

  if (lines.length === 0) lines.push("");
  const header = fieldsOf(lines[0] as string);
  if (header.socklet !== "transcript")
    throw wrong('it must begin with {"socklet":"transcript","version":1,…}');
  if (header.version !== VERSION) {
    throw wrong(`version ${JSON.stringify(header.version)} is not known; this reads version ${VERSION}`);
  }
  only(header, ["socklet", "version", "kind", "note", "dropped"]);
  const kind = word(header, "kind", ["stream", "datagrams"]);
  const { note, dropped } = header;
  if (note !== undefined && typeof note !== "string") throw wrong('"note" must be text');
  if (dropped !== undefined && !(Number.isInteger(dropped) && (dropped as number) > 0)) {
    throw wrong('"dropped" is a whole number of bytes, and absent where none were');
  }

  const events: TranscriptEvent[] = [];
  const gone: Partial<Record<Side, TranscriptEnd>> = {};
  let before = 0;
  for (const line of lines.slice(1)) {
    const fields = fieldsOf(line);
    const { at } = fields;
    if (typeof at !== "number" || !(at >= 0))
      throw wrong(`"at" is milliseconds, 0 or more, not ${JSON.stringify(at)}`);
    if (at < before) throw wrong(`"at" goes back, from ${before} to ${at}`);
    before = at;
    if ("tls" in fields) {
      only(fields, ["at", "tls"]);
      if (fields.tls !== true || kind !== "stream") throw wrong('"tls" is true, and of a stream');
      events.push({ at, tls: true });
      continue;
    }
    const from = word(fields, "from", SIDES);
    if (gone[from] !== undefined && !(gone[from] === "half-close" && "end" in fields)) {
      throw wrong(`the ${from} has left before, by a ${gone[from]}`);
    }
    const whats = ["text", "base64", "end"].filter((name) => name in fields);
    if (whats.length !== 1) throw wrong('there must be one of "text", "base64", "end" and "tls"');
    if ("end" in fields) {
      only(fields, ["at", "from", "end"]);
      if (kind !== "stream") throw wrong("datagrams have no end");
      const end = word(fields, "end", ENDS);
      if (gone[from] === end) throw wrong(`the ${from} has left before, by a ${end}`);
      gone[from] = end;
      events.push({ at, from, end });
      continue;
    }
    only(fields, ["at", "from", whats[0] as string, ...(kind === "datagrams" ? ["peer"] : [])]);
    const { text: said, base64: coded, peer } = fields;
    if (peer !== undefined && !(Number.isInteger(peer) && (peer as number) >= 2)) {
      throw wrong('"peer" is a whole number of 2 or more; the first client has none');
    }
    let data: Uint8Array;
    if (said !== undefined) {
      if (typeof said !== "string") throw wrong('"text" must be text');
      data = toBytes(said);
    } else {
      const decoded = typeof coded === "string" ? decode(coded) : null;
      if (decoded === null) throw wrong('"base64" must be base64, with its padding (RFC 4648, section 4)');
      data = decoded;
    }
    events.push({ at, from, data, ...(peer !== undefined && { peer: peer as number }) });
  }
  return {
    kind,
    ...(note !== undefined && { note }),
    ...(dropped !== undefined && { dropped: dropped as number }),
    events,
  };
};

const decode = (text: string): Uint8Array | null => {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  return base64(bytes) === text ? bytes : null; // bits over, at the end
};

// ---- Recording ----

/** Options of a recording. */
export interface RecordOptions {
  /** What it is, for the header. */
  readonly note?: string;
  /** Where the times come from. */
  readonly clock?: Clock;
  /** Bytes that are kept; what is said past them is only counted, as `dropped`. Default 16 MiB. */
  readonly limit?: number;
  /** Limits and times of the connection that differ from the defaults and that it does not tell: `closeTimeout`, `handshakeTimeout`. */
  readonly stream?: Partial<StreamOptions>;
}

const RECORD_NAMES = optionNamesOf<RecordOptions>("a recording")({
  note: true,
  clock: true,
  limit: true,
  stream: STREAM_NAMES,
});

class Log {
  readonly #kind: Transcript["kind"];
  readonly #note: string | undefined;
  readonly #clock: Clock;
  readonly #began: number;
  readonly #events: TranscriptEvent[] = [];
  #left: number; // bytes that still may be kept
  #dropped = 0;

  constructor(kind: Transcript["kind"], options: RecordOptions) {
    checkOptions("a recording", options, RECORD_NAMES);
    this.#kind = kind;
    this.#note = options.note;
    this.#clock = options.clock ?? realClock;
    this.#left = checkCount("limit", options.limit ?? LIMIT, 0);
    this.#began = this.#clock.now();
  }

  /** Bytes, which are copied: whoever has them may change them. */
  said(from: Side, bytes: Uint8Array, peer = 1): void {
    if (this.#dropped > 0 || bytes.length > this.#left) {
      this.#dropped += bytes.length; // from the first on: no hole in what is kept
      return;
    }
    this.#left -= bytes.length;
    this.#events.push({ at: this.#at(), from, data: new Uint8Array(bytes), ...(peer > 1 && { peer }) });
  }

  ended(from: Side, end: TranscriptEnd): void {
    this.#events.push({ at: this.#at(), from, end });
  }

  secured(): void {
    this.#events.push({ at: this.#at(), tls: true });
  }

  get transcript(): Transcript {
    return {
      kind: this.#kind,
      ...(this.#note !== undefined && { note: this.#note }),
      ...(this.#dropped > 0 && { dropped: this.#dropped }),
      events: [...this.#events],
    };
  }

  #at(): number {
    return this.#clock.now() - this.#began;
  }
}

/** A recording of one connection. */
export interface Recording {
  /** What to use in place of the stream that is recorded. */
  readonly stream: StreamSocket;
  /** What was said so far. */
  readonly transcript: Transcript;
  /** Resolves when `stream` is let go, by `close()` or `abort()`. */
  readonly over: Promise<void>;
}

/**
 * Records `stream`, which is `side`'s end of the conversation. Use the recording's `stream` in its place, and `stream`
 * no more. Bytes pass as they came, in order, none earlier than somebody asks for them, with the same back-pressure.
 */
export const record = (stream: StreamSocket, side: Side, options: RecordOptions = {}): Recording => {
  checkWord("side", side, SIDES);
  if (!(stream instanceof StreamSocket)) {
    throw new TypeError(`record() takes a connection, a StreamSocket, not ${typeof stream}`);
  }
  const log = new Log("stream", options);
  const over = Promise.withResolvers<void>();
  const limits: Partial<StreamOptions> = {
    maxLine: stream.rfile.maxLine,
    maxRead: stream.rfile.maxRead,
    maxPending: stream.wfile.maxPending,
    whenSlow: stream.wfile.whenSlow,
    ...options.stream,
  };
  const transport = new RecordingTransport(stream, side, log, over.resolve);
  const recorded = new StreamSocket(transport, limits);
  recorded.settimeout(stream.gettimeout());
  stream.settimeout(null); // the recording's own waits are bounded
  transport.isClosing = () => recorded.closed;
  return {
    stream: recorded,
    get transcript() {
      return log.transcript;
    },
    over: over.promise,
  };
};

/** A connection that already is a `StreamSocket`, as a transport again, with an ear on it. */
class RecordingTransport implements StreamTransport {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly kernel: KernelSocket;
  /** Whether the end that is sent now is a close. */
  isClosing = (): boolean => false;
  readonly #stream: StreamSocket;
  readonly #side: Side;
  readonly #log: Log;
  readonly #over: () => void;
  #sink: StreamSink | undefined;
  #wanted = false;
  #reading = false;
  #ended = false; // the other end's end was told
  #gone = false; // this end has left
  #securing = false;

  constructor(stream: StreamSocket, side: Side, log: Log, over: () => void) {
    this.#stream = stream;
    this.#side = side;
    this.#log = log;
    this.#over = over;
    this.localAddress = stream.getsockname();
    this.remoteAddress = stream.getpeername();
    this.capabilities = stream.capabilities;
    this.kernel = optionsOf(stream);
  }

  start(sink: StreamSink): void {
    if (this.#sink !== undefined && !this.#securing) this.isClosing = () => false; // toWeb(): another socket goes on with it
    this.#securing = false;
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    if (!this.#reading && !this.#ended) void this.#read();
  }

  pause(): void {
    this.#wanted = false;
  }

  write(data: Data): Promise<void> | undefined {
    const { wfile } = this.#stream;
    try {
      wfile.write(data);
      wfile.start();
    } catch (error) {
      this.#sink?.error(error as SocketError);
      return undefined;
    }
    this.#log.said(this.#side, toBytes(data));
    return wfile.blocked ? wfile.flush().catch(() => {}) : undefined;
  }

  get unsent(): number {
    return this.#stream.wfile.unsent;
  }

  unacknowledged(): number | null {
    return this.#stream.wfile.unacknowledged();
  }

  end(): Promise<void> {
    if (this.isClosing()) this.#leave("close");
    else this.#log.ended(this.#side, "half-close");
    return this.#stream.shutdown(SHUT_WR);
  }

  async close(): Promise<void> {
    this.#leave("close");
    await this.#stream.close();
    this.#over();
  }

  abort(): void {
    this.#leave(this.capabilities.reset ? "reset" : "close");
    this.#stream.abort();
    this.#over();
  }

  async startTls(options: TlsOptions): Promise<StreamTransport> {
    await this.#stream.startTls(options);
    this.#securing = true; // and so begins again
    this.#log.secured();
    return this;
  }

  defer(task: () => void): void {
    later(task, 0);
  }

  #leave(end: TranscriptEnd): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#log.ended(this.#side, end);
  }

  async #read(): Promise<void> {
    const other = this.#side === "client" ? "server" : "client";
    this.#reading = true;
    try {
      while (this.#wanted) {
        const bytes = await this.#stream.recv();
        if (this.#gone) break; // closed here meanwhile: nobody hears it
        if (bytes === null) {
          this.#ended = true;
          this.#log.ended(other, "half-close");
          this.#sink?.end();
          break;
        }
        this.#log.said(other, bytes);
        this.#wanted = this.#sink?.data(bytes) ?? false;
      }
    } catch (error) {
      if (!this.#gone) {
        this.#ended = true;
        if ((error as SocketError).code === "ECONNRESET") {
          this.#log.ended(other, "reset");
          this.#gone = true; // nothing that this end does now is heard
        }
        this.#sink?.error(error as SocketError);
      }
    }
    this.#reading = false;
  }
}

/** The descriptor and the options of `stream`. What would send and receive beside it, so that nothing hears it, is not there. */
const optionsOf = (stream: StreamSocket): KernelSocket => {
  const unheard = (): never => {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "a recording does not hear MSG_OOB, MSG_DONTROUTE and detach(); use them on the stream without it",
    );
  };
  return {
    get fd() {
      return stream.fileno();
    },
    getsockopt: (level: number, name: number, length?: number): never =>
      (length === undefined
        ? stream.getsockopt(level, name)
        : stream.getsockopt(level, name, length)) as never,
    setsockopt: (level, name, value) => stream.setsockopt(level, name, value),
    send: unheard,
    recv: unheard,
    detach: unheard,
    onUrgent: unheard,
    get urgent() {
      return unheard();
    },
  };
};

/** Options of a handler that is recorded. */
export interface RecordHandlerOptions extends RecordOptions {
  /** Which end of the conversation the handler has. Default `server`. */
  readonly side?: Side;
}

const RECORD_HANDLER_NAMES = optionNamesOf<RecordHandlerOptions>()({ ...RECORD_NAMES, side: true });

/**
 * `Handler`, each of whose connections is recorded: `tell` gets its transcript when it is over. It runs wherever the
 * handler does: in a server, on a connection that was dialled (`side: "client"`), in a Worker, in memory.
 */
export const recordHandler = <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  tell: (transcript: Transcript) => void,
  options: RecordHandlerOptions = {},
): HandlerClass<StreamSocket, Context> => {
  checkOptions("recordHandler()", options, RECORD_HANDLER_NAMES);
  const { side = "server", ...recorded } = options;
  checkWord("side", side, SIDES);
  checkHandler(Handler);
  class Recorded extends BaseRequestHandler<StreamSocket, Context> {
    override async handle(): Promise<unknown> {
      const recording = record(this.request, side, recorded);
      const { stream } = recording;
      try {
        return await new Handler(stream, this.clientAddress, serverOf(this, stream)).run();
      } finally {
        await stream.close();
        await recording.over; // what was handed to toWeb() goes on
        tell(recording.transcript);
      }
    }
  }
  return Object.defineProperty(Recorded, "name", { value: Handler.name });
};

/** The handler's server, to which the request that `replaced` stands for is the one that runs. */
export const serverOf = <Request, Context>(
  handler: BaseRequestHandler<Request, Context>,
  replaced: Request,
): HandlerServer<Context> =>
  new Proxy(handler.server, {
    get(server, key) {
      if (key === "scope") {
        return (request: unknown) => server.scope(request === replaced ? handler.request : request);
      }
      const value = Reflect.get(server, key, server); // not the proxy: a class's private fields are not its own
      return typeof value === "function" ? value.bind(server) : value;
    },
    set: (server, key, value) => Reflect.set(server, key, value, server),
  });

/** A recording of all that one datagram handler was sent and answered. */
export interface DatagramRecording<Context> {
  /** What to use in place of the handler that is recorded. */
  readonly Handler: HandlerClass<Datagram, Context>;
  /** What was said so far. */
  readonly transcript: Transcript;
}

/** Records what comes to `Handler`, and what it replies. */
export const recordDatagrams = <Context>(
  Handler: HandlerClass<Datagram, Context>,
  options: RecordOptions = {},
): DatagramRecording<Context> => {
  const log = new Log("datagrams", options);
  const peers: string[] = [];
  const numberOf = (address: Address | null): number => {
    const name = address === null ? "" : formatAddress(address);
    if (!peers.includes(name)) peers.push(name);
    return peers.indexOf(name) + 1;
  };
  class Recorded extends BaseRequestHandler<Datagram, Context> {
    override handle(): unknown {
      const { request } = this;
      const peer = numberOf(request.address);
      log.said("client", request.data, peer);
      const post = (data: Data): void => {
        request.reply(data);
        log.said("server", toBytes(data), peer);
      };
      const recorded = new Datagram(request.data, request.address, { post }, request.truncated);
      return new Handler(recorded, this.clientAddress, serverOf(this, recorded)).run();
    }
  }
  return {
    Handler: Object.defineProperty(Recorded, "name", { value: Handler.name }),
    get transcript() {
      return log.transcript;
    },
  };
};

/** The class of handlers that pass on, both ways, to a connection that `dial` opens for each. */
export const relayHandler = (
  dial: (signal: AbortSignal) => Promise<StreamSocket>,
): HandlerClass<StreamSocket> =>
  class Relay extends BaseRequestHandler {
    override async handle(): Promise<void> {
      const { request } = this;
      const other = await dial(this.signal);
      try {
        await Promise.all([pass(request, other), pass(other, request)]);
      } catch (error) {
        // Where one side broke, the other must hear of it, and not of an end.
        request.abort();
        other.abort();
        if ((error as SocketError).code !== "ECONNRESET") throw error;
      } finally {
        await other.close();
      }
    }
  };

const pass = async (from: StreamSocket, to: StreamSocket): Promise<void> => {
  for await (const bytes of from) await to.sendall(bytes);
  await to.shutdown(SHUT_WR);
};

/**
 * The class of handlers that stand between a client and a server and record what they say. `dial` opens the
 * connection to the server, `tell` gets each transcript when its conversation is over.
 *
 *     const Proxy = recordingProxy(() => createConnection("127.0.0.1:6379"), (t) => transcripts.push(t));
 *     const server = new ThreadingTCPServer("127.0.0.1:6380", Proxy); // redis-cli -p 6380
 *
 * TLS passes as it is: what is said in it is not seen.
 */
export const recordingProxy = (
  dial: (signal: AbortSignal) => Promise<StreamSocket>,
  tell: (transcript: Transcript) => void,
  options: RecordOptions = {},
): HandlerClass<StreamSocket> => recordHandler(relayHandler(dial), tell, options);

// ---- Replaying ----

/**
 * What makes two texts the same that differ where they may: replaces a date, an id. It is given each line with its
 * end, and one that becomes nothing does not count; of what is no text it is given all that was said at a time, as
 * latin1 (a character a byte).
 */
export type Normalise = (text: string, from: Side) => string;

/** Options of a replay. */
export interface ReplayOptions {
  /** What may differ in what the other end says. */
  readonly normalise?: Normalise;
  /** Pause before each thing that is said, as long as it took when it was recorded. Default false: as fast as it goes. */
  readonly paced?: boolean;
  /** Of datagrams of several clients: the number of the one that is replayed. */
  readonly peer?: number;
  /** For `startTls()` where the transcript has TLS. */
  readonly tls?: TlsOptions;
}

const REPLAY_NAMES = optionNamesOf<ReplayOptions>("a replay")({
  normalise: true,
  paced: true,
  peer: true,
  tls: TLS_NAMES,
});

/**
 * The script that says what `side` said in `transcript`, byte by byte and piece by piece, and expects what the other
 * end said: against a handler (`runScript`), against any server or client (`run`), or as a server (`scriptHandler`).
 *
 *     await runScript(MailRequestHandler, replay(transcript, "client"), { context });
 *
 * How both leave at the very end is replayed in an order that cannot lock: first this side's end, then the other's.
 */
export const replay = (transcript: Transcript, side: Side, options: ReplayOptions = {}): Conversation => {
  checkWord("side", side, SIDES);
  checkOptions("replay()", options, REPLAY_NAMES);
  const { normalise, paced = false, tls = {} } = options;
  const events = eventsOf(whole(transcript), options.peer);
  const last = events.findLastIndex((event) => !("end" in event));
  let script = new Conversation();
  let expected: Uint8Array[] = []; // what the other end said since this one spoke
  const other = side === "client" ? "server" : "client";
  const expectAll = (): void => {
    if (expected.length === 0) return;
    const whole = joinBytes(
      expected,
      expected.reduce((sum, { length }) => sum + length, 0),
    );
    expected = [];
    script = script.expect(whole, normalise && ((text) => normalise(text, other)));
  };
  events.slice(0, last + 1).forEach((event, i) => {
    if ("data" in event && event.from === other) {
      expected.push(event.data);
      if (transcript.kind === "datagrams") expectAll();
      return;
    }
    expectAll();
    const waited = event.at - (events[i - 1]?.at ?? 0);
    if (paced && waited > 0 && !("from" in event && event.from === other)) script = script.pause(waited);
    if ("tls" in event) script = script.startTls(tls);
    else if ("data" in event) script = script.send(event.data);
    else script = event.from === side ? script.halfClose() : script.expectEnd(); // what is in the middle is a half-close
  });
  expectAll();
  const ends = events.slice(last + 1).flatMap((event) => ("end" in event ? [event] : []));
  const ours = ends.filter(({ from }) => from === side).map(({ end }) => end);
  if (ours.length > 0 && !ours.includes("reset")) script = script.halfClose();
  const theirs = ends.find(({ from }) => from === other);
  // Behind an end that has come nothing can be read, a reset neither.
  const before = events.slice(0, last + 1).some((event) => "end" in event && event.from === other);
  if (theirs !== undefined && !before) script = expectGone(script, theirs.end);
  if (ours.includes("reset")) script = script.reset();
  else if (ours.includes("close")) script = script.close();
  return script;
};

const expectGone = (script: Conversation, end: TranscriptEnd): Conversation =>
  end === "reset" ? script.expectReset() : script.expectEnd();

/** A transcript of which all is here. */
const whole = (transcript: Transcript): Transcript => {
  if (transcript.dropped === undefined) return transcript;
  throw new SocketError(
    "ERR_LIMIT",
    `the transcript is not whole: ${transcript.dropped} bytes were over the recording's limit; record it again with a higher one`,
  );
};

/** The events of one client. */
const eventsOf = ({ events }: Transcript, peer: number | undefined): readonly TranscriptEvent[] => {
  const numberOf = (event: TranscriptEvent): number => ("peer" in event && event.peer) || 1;
  if (peer === undefined && events.some((event) => numberOf(event) > 1)) {
    throw new TypeError("this transcript has several clients: say which by the option peer, from 1");
  }
  return events.filter((event) => numberOf(event) === (peer ?? 1));
};

// ---- Comparing ----

/** Two transcripts are not of one conversation. `expected` and `actual` are both in full, for a test runner's own difference. */
export class TranscriptError extends Error {
  readonly expected: string;
  readonly actual: string;

  constructor(message: string, expected: string, actual: string) {
    super(message);
    this.expected = expected;
    this.actual = actual;
  }

  static {
    TranscriptError.prototype.name = "TranscriptError";
  }
}

/** Options of a comparison. */
export interface CompareOptions {
  /** What may differ. */
  readonly normalise?: Normalise;
  /** What each side said counts, and not which of them was first: for those who speak at a time, as a pipeline does. Default false. */
  readonly apart?: boolean;
}

const COMPARE_NAMES = optionNamesOf<CompareOptions>("a comparison")({ normalise: true, apart: true });

/** One turn of a conversation: all that one end said before the other did. */
type Turn = Said;

const NAMES = { client: "C:", server: "S:" } as const;

/** The turns: pieces joined, times dropped; and who left at the very end. */
const turnsOf = (
  { kind, events }: Transcript,
  { normalise, apart = false }: CompareOptions,
): { turns: Turn[]; ends: Turn[] } => {
  const turns: Turn[] = [];
  let parts: Uint8Array[] = [];
  let from: Side = "client";
  let peer = 1;
  const speak = (): void => {
    if (parts.length === 0) return;
    const whole = joinBytes(
      parts,
      parts.reduce((sum, { length }) => sum + length, 0),
    );
    parts = [];
    const who = peer === 1 ? NAMES[from] : `${NAMES[from].slice(0, 1)}${peer}:`;
    turns.push({
      who,
      what: normalise === undefined ? whole : normalised(whole, (text) => normalise(text, from)),
    });
  };
  const last = events.findLastIndex((event) => !("end" in event));
  const body = events.slice(0, last + 1);
  const isClient = (event: TranscriptEvent): boolean => !("from" in event) || event.from === "client";
  const ordered = apart ? [...body.filter(isClient), ...body.filter((event) => !isClient(event))] : body;
  for (const event of ordered) {
    if ("data" in event) {
      if (event.from !== from || (event.peer ?? 1) !== peer || kind === "datagrams") speak();
      ({ from } = event);
      peer = event.peer ?? 1;
      parts.push(event.data);
    } else {
      speak();
      turns.push(
        "tls" in event ? { who: "--", what: "TLS from here" } : { who: NAMES[event.from], what: "end" },
      );
    }
  }
  speak();
  const ends = new Map<Side, Turn>();
  for (const event of events.slice(last + 1)) {
    if (!("end" in event) || ends.has(event.from)) continue;
    ends.set(event.from, { who: NAMES[event.from], what: event.end === "reset" ? "reset" : "end" });
  }
  return { turns, ends: [...ends.values()] };
};

/**
 * Whether two conversations ended alike. Who has closed does not hear whether the other does, and two who close at a
 * time may be heard in either order: so one who left in both is enough. But a reset is none, or one in both.
 */
const sameEnds = (some: readonly Turn[], others: readonly Turn[]): boolean => {
  if (some.length === 0 || others.length === 0) return some.length === others.length;
  const same = some.filter((one) => others.some(({ who, what }) => who === one.who && what === one.what));
  const isReset = ({ what }: Turn): boolean => what === "reset";
  return some.some(isReset) || others.some(isReset) ? same.some(isReset) : same.length > 0;
};

const describeTurn = ({ who, what }: Turn): string =>
  `${who} ${typeof what === "string" ? `(${what})` : quote(what, 64)}`;

/** What differs between two transcripts, to be read; `null` where nothing does. Times and pieces do not count. Throws `ERR_LIMIT` where one is not whole. */
export const compareTranscripts = (
  actual: Transcript,
  expected: Transcript,
  options: CompareOptions = {},
): TranscriptError | null => {
  checkOptions("a comparison", options, COMPARE_NAMES);
  const came = turnsOf(whole(actual), options);
  const wanted = turnsOf(whole(expected), options);
  const wrong = (at: number, differs: string): TranscriptError => {
    const before = at === 0 ? "nothing was said" : dialogue(came.turns.slice(0, at));
    return new TranscriptError(
      `turn ${at + 1} is another than in the transcript\n${differs}\n\nThe conversation before it (C: the client, S: the server):\n${before}`,
      dialogue([...wanted.turns, ...wanted.ends]),
      dialogue([...came.turns, ...came.ends]),
    );
  };
  /** The turn, or how it ended in its place. */
  const at = ({ turns, ends }: typeof came, i: number): string => {
    const turn = turns[i];
    if (turn !== undefined) return describeTurn(turn);
    return ends.length === 0 ? "no more was said" : ends.map(describeTurn).join(", ");
  };
  const most = Math.max(came.turns.length, wanted.turns.length);
  for (let i = 0; i < most; i++) {
    const [one, other] = [wanted.turns[i], came.turns[i]];
    if (one?.who === other?.who && one?.what === other?.what) continue;
    if (one?.who === other?.who && one?.what instanceof Uint8Array && other?.what instanceof Uint8Array) {
      const differs = difference(one.what, other.what);
      if (differs !== null) return wrong(i, differs);
    } else {
      return wrong(i, `- ${at(wanted, i)}\n+ ${at(came, i)}`);
    }
  }
  return sameEnds(wanted.ends, came.ends) ? null : wrong(most, `- ${at(wanted, most)}\n+ ${at(came, most)}`);
};

/**
 * Throws a `TranscriptError` where `actual` is not the conversation that `expected` is (a transcript, or its JSON
 * Lines). Times and pieces do not count. For `node:test`, and everywhere else without matchers.
 */
export const assertTranscript = (
  actual: Transcript,
  expected: Transcript | string,
  options: CompareOptions = {},
): void => {
  const error = compareTranscripts(
    actual,
    typeof expected === "string" ? parseTranscript(expected) : expected,
    options,
  );
  if (error !== null) throw error;
};

/** How the matchers reach files: `node:fs/promises` is one. */
export interface TranscriptFiles {
  /** The text at `path`; rejects with the code `ENOENT` where there is none. */
  readFile(path: string | URL, encoding: "utf8"): Promise<string>;
  /** Writes `text` to `path`, in place of what was there. */
  writeFile(path: string | URL, text: string): Promise<unknown>;
}

/**
 * The matchers' types, for a test framework's own: in Vitest 5
 *
 *     declare module "vitest" {
 *       interface Matchers<R extends void | Promise<void>, T> extends TranscriptMatchers {}
 *     }
 *
 * and in Vitest 4 `interface Matchers<T = any> extends TranscriptMatchers {}`.
 */
export interface TranscriptMatchers {
  /** The transcript is the conversation kept in this file, or of that transcript. Await it. */
  toMatchTranscript(expected: string | URL | Transcript, options?: CompareOptions): Promise<void>;
}

/** What a matcher says. */
export interface MatcherResult {
  readonly pass: boolean;
  message(): string;
  readonly expected?: unknown;
  readonly actual?: unknown;
}

/** Options of the matchers. */
export interface MatcherOptions {
  /** What differs or is missing is written in place of failing. Default false. */
  readonly update?: boolean;
}

const MATCHER_NAMES = optionNamesOf<MatcherOptions>()({ update: true });

/**
 * Matchers for `expect.extend` of Vitest and Jest. With `update` what differs or is missing is written in place of failing.
 *
 *     import * as files from "node:fs/promises";
 *     expect.extend(transcriptMatchers(files, { update: process.env.UPDATE === "1" }));
 *
 *     await expect(recording.transcript).toMatchTranscript(new URL("recordings/ping.jsonl", import.meta.url));
 */
export const transcriptMatchers = (files: TranscriptFiles, options: MatcherOptions = {}) => {
  checkOptions("transcriptMatchers()", options, MATCHER_NAMES);
  const { update = false } = options;
  return {
    async toMatchTranscript(
      received: Transcript,
      expected: string | URL | Transcript,
      options: CompareOptions = {},
    ): Promise<MatcherResult> {
      const file = typeof expected === "string" || expected instanceof URL ? expected : null;
      let wanted: Transcript;
      try {
        wanted =
          file === null ? (expected as Transcript) : parseTranscript(await files.readFile(file, "utf8"));
      } catch (error) {
        const missing = (error as { code?: unknown }).code === "ENOENT";
        if (file === null || (!update && !missing)) throw error;
        if (!update) {
          return {
            pass: false,
            message: () =>
              `there is no transcript at ${file}; write it by transcriptMatchers(files, { update: true })`,
          };
        }
        await files.writeFile(file, formatTranscript(received));
        return { pass: true, message: () => `${file} was written` };
      }
      const differs = compareTranscripts(received, wanted, options);
      if (differs !== null && update && file !== null) {
        await files.writeFile(file, formatTranscript(received));
        return { pass: true, message: () => `${file} was written` };
      }
      return {
        pass: differs === null,
        message: () =>
          differs?.message ??
          `the conversation is the one of ${file ?? "the other transcript"}, and should not be`,
        ...(differs !== null && { expected: differs.expected, actual: differs.actual }),
      };
    },
  };
};
