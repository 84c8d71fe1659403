/** The basis of faults and recordings: a transport over another one, and a stream as a transport again. */

import type { Data } from "../bytes/data.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import { SHUT_WR } from "../net/constants.ts";
import type { StreamSocket } from "../sockets/streams/stream-socket.ts";
import type { StartTlsOptions, TlsInfo } from "../sockets/tls/tls.ts";
import type { Capabilities, KernelSocket, StreamSink, StreamTransport } from "../sockets/transport.ts";

const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

const ignore = (): void => {};

/** A transport over another one, `inner`, which forwards everything that a subclass does not change. */
export abstract class TransportOver implements StreamTransport {
  protected inner: StreamTransport;

  constructor(inner: StreamTransport) {
    this.inner = inner;
  }

  get localAddress(): Address | null {
    return this.inner.localAddress;
  }

  get remoteAddress(): Address | null {
    return this.inner.remoteAddress;
  }

  get capabilities(): Capabilities {
    return this.inner.capabilities;
  }

  get tls(): TlsInfo | undefined {
    return this.inner.tls;
  }

  abstract start(sink: StreamSink): void;

  resume(): void {
    this.inner.resume();
  }

  pause(): void {
    this.inner.pause();
  }

  abstract write(data: Data): Promise<void> | undefined;

  get unsent(): number {
    return this.inner.unsent;
  }

  unacknowledged(): number | null {
    return this.inner.unacknowledged?.() ?? null;
  }

  abstract end(): Promise<void>;
  abstract close(): void | Promise<void>;
  abstract abort(): void;

  defer(task: () => void): void {
    this.inner.defer(task);
  }
}

/** A `StreamSocket` as a transport again, so that another stream can replace it. */
export class SocketTransport implements StreamTransport {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly kernel: KernelSocket;
  readonly #stream: StreamSocket;
  #sink: StreamSink | null = null;
  #wanted = false;
  #reading = false;
  #ended = false; // the peer's end was delivered
  #over = false; // nothing more is delivered

  constructor(stream: StreamSocket) {
    this.#stream = stream;
    this.localAddress = stream.getsockname();
    this.remoteAddress = stream.getpeername();
    this.capabilities = stream.capabilities;
    this.kernel = optionsOf(stream);
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    if (!this.#reading && !this.#ended && !this.#over) void this.#read();
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
      this.#fail(error);
      return undefined;
    }
    return wfile.blocked ? wfile.flush().catch(ignore) : undefined;
  }

  get unsent(): number {
    return this.#stream.wfile.unsent;
  }

  unacknowledged(): number | null {
    return this.#stream.wfile.unacknowledged();
  }

  end(): Promise<void> {
    return this.#stream.shutdown(SHUT_WR);
  }

  close(): Promise<void> {
    this.#over = true;
    return this.#stream.close();
  }

  abort(): void {
    this.#over = true;
    this.#stream.abort();
  }

  get tls(): TlsInfo | undefined {
    return this.#stream.tls ?? undefined;
  }

  async startTls(options: StartTlsOptions): Promise<StreamTransport> {
    await this.#stream.startTls(options);
    return this;
  }

  defer(task: () => void): void {
    later(task, 0);
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#wanted && !this.#ended && !this.#over) {
        const bytes = await this.#stream.recv();
        if (this.#over) return;
        if (bytes === null) {
          this.#ended = true;
          this.#sink?.end();
        } else {
          this.#wanted = this.#sink?.data(bytes) ?? false;
        }
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#reading = false;
    }
  }

  #fail(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#sink?.error(SocketError.from(error, "ECONNRESET"));
  }
}

/** The descriptor and the options of `stream`, without the calls that would send and receive past the transport over it. */
const optionsOf = (stream: StreamSocket): KernelSocket => {
  const past = (): never => {
    throw new SocketError(
      "ERR_UNSUPPORTED",
      "a recording does not see MSG_OOB, MSG_DONTROUTE and detach(); use them on the stream that is not recorded",
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
    send: past,
    recv: past,
    detach: past,
    onUrgent: past,
    get urgent() {
      return past();
    },
  };
};
