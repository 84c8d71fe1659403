/** Recording one connection: a stream in the place of another, and the log of what passes through it. */

import { type Data, toBytes } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { Address } from "../../net/address.ts";
import { SHUT_WR } from "../../net/constants.ts";
import { checkCount, checkOptions, checkWord, optionNamesOf } from "../../options.ts";
import { STREAM_NAMES, type StreamOptions } from "../../sockets/stream-options.ts";
import { StreamSocket } from "../../sockets/stream-socket.ts";
import type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
  TlsOptions,
} from "../../sockets/transport.ts";
import { type Clock, realClock } from "../clock.ts";
import { SIDES, type Side, type Transcript, type TranscriptEnd, type TranscriptEvent } from "./form.ts";

const LIMIT = 16 * 1024 * 1024; // bytes that one recording keeps: a transcript is for reading

const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

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

export const RECORD_NAMES = optionNamesOf<RecordOptions>("a recording")({
  note: true,
  clock: true,
  limit: true,
  stream: STREAM_NAMES,
});

export class Log {
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
