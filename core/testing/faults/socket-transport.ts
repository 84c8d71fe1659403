/** A stream that is there already, as the transport under another one. */

import type { Data } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import type { Address } from "../../net/address.ts";
import { SHUT_WR } from "../../net/constants.ts";
import type { StreamSocket } from "../../sockets/stream-socket.ts";
import type { Capabilities, StreamSink, StreamTransport } from "../../sockets/transport.ts";

const later = globalThis.setTimeout; // taken now, so that a test's fake clock does not hold back what is written

const ignore = (): void => {};

/** A `StreamSocket` as a transport again. */
export class SocketTransport implements StreamTransport {
  readonly localAddress: Address | null;
  readonly remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly #stream: StreamSocket;
  #sink: StreamSink | null = null;
  #wanted = false;
  #reading = false;
  #over = false; // nothing more is told

  constructor(stream: StreamSocket) {
    this.#stream = stream;
    this.localAddress = stream.getsockname();
    this.remoteAddress = stream.getpeername();
    this.capabilities = stream.capabilities;
  }

  start(sink: StreamSink): void {
    this.#sink = sink;
  }

  resume(): void {
    this.#wanted = true;
    if (!this.#reading && !this.#over) void this.#read();
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

  async startTls(): Promise<never> {
    const why =
      "what is secured in its midst cannot have faults over it; secure the stream first, then withFaults()";
    throw new SocketError("ERR_UNSUPPORTED", why);
  }

  defer(task: () => void): void {
    later(task, 0);
  }

  async #read(): Promise<void> {
    this.#reading = true;
    try {
      while (this.#wanted && !this.#over) {
        const bytes = await this.#stream.recv();
        if (this.#over) return;
        if (bytes === null) {
          this.#over = true;
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
