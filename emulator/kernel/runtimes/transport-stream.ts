/** A Node stream over a transport that has no `net.Socket`, for `node:tls` to secure. */

import type net from "node:net";
import { Duplex } from "node:stream";
import type tls from "node:tls";
import { type Data, DONE } from "../../../core/bytes/data.ts";
import type { Address } from "../../../core/net/address.ts";
import type { TlsInfo } from "../../../core/sockets/tls/tls.ts";
import { NodeTransport } from "../transports/net-transport.ts";
import { type Connection, FULL, type Origin } from "../transports/seam.ts";

const portOf = (address: Address | null): number | undefined =>
  address === null || address.family === "unix" ? undefined : address.port;
const hostOf = (address: Address | null): string | undefined =>
  address === null || address.family === "unix" ? undefined : address.hostname;

/** Reads and writes `connection`, and is its only sink from now on. It has the parts of a `net.Socket` that a `NodeTransport` uses. */
export class TransportStream extends Duplex {
  readonly #connection: Connection;
  #waiters: { readonly most: number; readonly resolve: () => void }[] = [];

  constructor(connection: Connection) {
    super({ allowHalfOpen: true });
    this.#connection = connection;
    connection.start({
      needed: 1, // it always wants input
      data: (bytes) => {
        if (!this.push(bytes)) connection.pause();
        return true;
      },
      end: () => void this.push(null),
      error: (error) => void this.destroy(error),
    });
  }

  override _read(): void {
    this.#connection.resume();
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    const room = this.#connection.write(new Uint8Array(chunk)); // a copy: TLS reuses the chunk
    const written = (): void => {
      done();
      this.#settle();
    };
    if (room === undefined) written();
    else void room.then(written);
  }

  /** How many bytes of TLS output the kernel does not have yet. */
  get waiting(): number {
    return this.writableLength + this.#connection.unsent;
  }

  /** Resolves when no more than `most` bytes wait in this stream, or it is destroyed. */
  fewer(most: number): Promise<void> {
    if (this.destroyed || this.writableLength <= most) return DONE;
    return new Promise((resolve) => this.#waiters.push({ most, resolve }));
  }

  /** Resolves when the kernel has all that was written, or the stream is destroyed. */
  async emptied(): Promise<void> {
    await this.fewer(0);
    if (!this.destroyed) await this.#connection.holder.drained?.();
  }

  #settle(): void {
    if (this.#waiters.length === 0) return;
    const left = this.destroyed ? 0 : this.writableLength;
    const due = this.#waiters.filter(({ most }) => left <= most);
    this.#waiters = this.#waiters.filter(({ most }) => left > most);
    for (const { resolve } of due) resolve();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#connection.end().then(() => done(), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // TLS ends with the peer's close_notify, before the end of the connection under it is read. A reset then would discard what
    // the kernel still holds. `resetAndDestroy()` has reset it already.
    const left = error === null && this.writableLength === 0 && this.#connection.unsent === 0;
    if (!left) this.#connection.abort();
    else if (this.writableFinished) void this.#connection.close();
    else
      void this.#connection.end().then(
        () => this.#connection.close(),
        () => {},
      );
    done(error);
    this.#settle();
  }

  resetAndDestroy(): this {
    this.#connection.abort();
    return this.destroy();
  }

  ref(): this {
    return this;
  }

  unref(): this {
    this.#connection.unref();
    return this;
  }

  setNoDelay(on = true): this {
    this.#connection.settable.setNoDelay(on);
    return this;
  }

  setKeepAlive(on = false, delay = 0): this {
    this.#connection.settable.setKeepAlive(on, delay);
    return this;
  }

  get remoteAddress(): string | undefined {
    return hostOf(this.#connection.remoteAddress);
  }

  get remotePort(): number | undefined {
    return portOf(this.#connection.remoteAddress);
  }

  get remoteFamily(): string | undefined {
    return this.#connection.remoteAddress?.family;
  }

  get localAddress(): string | undefined {
    return hostOf(this.#connection.localAddress);
  }

  get localPort(): number | undefined {
    return portOf(this.#connection.localAddress);
  }

  get localFamily(): string | undefined {
    return this.#connection.localAddress?.family;
  }
}

/** An unsecured connection over such a stream. */
class PlainTransport extends NodeTransport {
  readonly #connection: Connection;
  readonly #stream: TransportStream;

  constructor(connection: Connection, stream: TransportStream, origin: Origin) {
    super(stream as unknown as net.Socket, origin, connection);
    this.#connection = connection;
    this.#stream = stream;
  }

  override overStream(secured: tls.TLSSocket, origin: Origin, state: TlsInfo): NodeTransport {
    return new SecuredTransport(this.#connection, this.#stream, secured, origin, this, state);
  }
}

/** A secured connection over such a stream. What TLS has taken may still wait in the stream. */
class SecuredTransport extends NodeTransport {
  readonly #connection: Connection;
  readonly #stream: TransportStream;

  constructor(
    connection: Connection,
    stream: TransportStream,
    ...given: ConstructorParameters<typeof NodeTransport>
  ) {
    super(...given);
    this.#connection = connection;
    this.#stream = stream;
  }

  override get fd(): number {
    return this.#connection.fd;
  }

  override get unsent(): number {
    return super.unsent + this.#stream.waiting;
  }

  override unacknowledged(): number | null {
    return this.#connection.unacknowledged?.() ?? null;
  }

  override write(data: Data): Promise<void> | undefined {
    const room = super.write(data);
    const stream = this.#stream;
    if (room === undefined) return stream.writableLength <= FULL ? undefined : stream.fewer(FULL);
    return room.then(() => stream.fewer(FULL));
  }

  override async end(): Promise<void> {
    await super.end();
    await this.#stream.emptied();
  }
}

/** Moves a connection to such a stream. */
export const overStream = (connection: Connection, stream: TransportStream, origin: Origin): NodeTransport =>
  new PlainTransport(connection, stream, origin);
