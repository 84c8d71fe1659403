/** Recording one connection: a stream that replaces another, and the log of what passes through it. */

import { type Data, toBytes } from "../../bytes/data.ts";
import { checkCount, checkOptions, checkWord, optionNamesOf } from "../../options.ts";
import { STREAM_NAMES, type StreamOptions } from "../../sockets/streams/stream-options.ts";
import { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import type { StartTlsOptions } from "../../sockets/tls/tls.ts";
import type { KernelSocket, StreamSink, StreamTransport } from "../../sockets/transport.ts";
import { type Clock, realClock } from "../clock.ts";
import { SocketTransport, TransportOver } from "../transports.ts";
import { SIDES, type Side, type Transcript, type TranscriptEnd, type TranscriptEvent } from "./form.ts";

const LIMIT = 16 * 1024 * 1024; // bytes that one recording keeps: transcripts are for people to read

/** Options of a recording. */
export interface RecordOptions {
  /** A note for the header. */
  readonly note?: string;
  /** The clock for the times of events. */
  readonly clock?: Clock;
  /** Bytes that are kept; those over the limit are only counted, as `dropped`. Default 16 MiB. */
  readonly maxBytes?: number;
  /** Limits and times of the connection that differ from the defaults and that it does not expose: `closeTimeout`, `handshakeTimeout`. */
  readonly stream?: Partial<StreamOptions>;
}

export const RECORD_NAMES = optionNamesOf<RecordOptions>("a recording")({
  note: "string",
  clock: true,
  maxBytes: true,
  stream: STREAM_NAMES,
});

export class Log {
  readonly #kind: Transcript["kind"];
  readonly #note: string | undefined;
  readonly #clock: Clock;
  readonly #began: number;
  readonly #events: TranscriptEvent[] = [];
  #left: number; // bytes that may still be kept
  #dropped = 0;

  constructor(kind: Transcript["kind"], options: RecordOptions) {
    checkOptions("a recording", options, RECORD_NAMES);
    this.#kind = kind;
    this.#note = options.note;
    this.#clock = options.clock ?? realClock;
    this.#left = checkCount("maxBytes", options.maxBytes ?? LIMIT, 0);
    this.#began = this.#clock.now();
  }

  /** Bytes, which are copied: their owner may change them. */
  said(from: Side, bytes: Uint8Array, peer = 1): void {
    if (this.#dropped > 0 || bytes.length > this.#left) {
      this.#dropped += bytes.length; // from the first excess on, so that what is kept has no gap
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
  /** What to use instead of the original stream. */
  readonly stream: StreamSocket;
  /** The transcript so far. */
  readonly transcript: Transcript;
  /** Resolves when `stream` is closed, by `close()` or `abort()`. */
  readonly over: Promise<void>;
}

/**
 * Records `stream`, which is `side`'s end of the conversation. Use the recording's `stream` instead of it from
 * then on. Bytes pass unchanged and in order, none before they are requested, with the same back-pressure.
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
  const transport = new RecordingTransport(new SocketTransport(stream), side, log, over.resolve);
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

/** A transport that logs what passes through it. */
class RecordingTransport extends TransportOver {
  readonly kernel: KernelSocket | undefined;
  /** Whether the end that is sent now is a close. */
  isClosing = (): boolean => false;
  readonly #side: Side;
  readonly #log: Log;
  readonly #over: () => void;
  #sink: StreamSink | null = null;
  #writing = false;
  #failed = false; // nothing more can be written
  #gone = false; // this end has left, or was reset: what arrives later does not matter
  #securing = false;

  constructor(inner: StreamTransport, side: Side, log: Log, over: () => void) {
    super(inner);
    this.kernel = inner.kernel;
    this.#side = side;
    this.#log = log;
    this.#over = over;
  }

  override start(sink: StreamSink): void {
    if (this.#sink !== null && !this.#securing) this.isClosing = () => false; // toWeb(): another socket continues with it
    this.#securing = false;
    this.#sink = sink;
    const other = this.#side === "client" ? "server" : "client";
    this.inner.start({
      get needed() {
        return sink.needed;
      },
      data: (bytes) => {
        if (this.#gone) return false;
        this.#log.said(other, bytes);
        return sink.data(bytes);
      },
      end: () => {
        if (this.#gone) return;
        this.#log.ended(other, "half-close");
        sink.end();
      },
      error: (error) => {
        this.#failed = true;
        if (this.#gone) return;
        if (error.code === "ECONNRESET" && !this.#writing) {
          this.#log.ended(other, "reset");
          this.#gone = true; // nothing that this end does now can reach the peer
        }
        sink.error(error);
      },
    });
  }

  override write(data: Data): Promise<void> | undefined {
    this.#writing = true;
    const room = this.inner.write(data);
    this.#writing = false;
    if (!this.#failed) this.#log.said(this.#side, toBytes(data));
    return room;
  }

  override end(): Promise<void> {
    if (this.isClosing()) this.#leave("close");
    else this.#log.ended(this.#side, "half-close");
    return this.inner.end();
  }

  override async close(): Promise<void> {
    this.#leave("close");
    await this.inner.close();
    this.#over();
  }

  override abort(): void {
    this.#leave(this.capabilities.reset ? "reset" : "close");
    this.inner.abort();
    this.#over();
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    this.inner = (await this.inner.startTls?.(options)) ?? this.inner;
    this.#securing = true; // and so begins again
    this.#log.secured();
    return this;
  }

  #leave(end: TranscriptEnd): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#log.ended(this.#side, end);
  }
}
