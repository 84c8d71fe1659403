/** A transport that is not over a `net.Socket` as a stream of Node's, for `node:tls` to secure. */

import type net from "node:net";
import { Duplex } from "node:stream";
import type { Address } from "../../core/net/address.ts";
import { NodeTransport } from "./net-transport.ts";
import type { Connection, Origin } from "./seam.ts";

const portOf = (address: Address | null): number | undefined =>
  address === null || address.family === "unix" ? undefined : address.port;
const hostOf = (address: Address | null): string | undefined =>
  address === null || address.family === "unix" ? undefined : address.hostname;

/** Reads and writes `connection`, which has no other sink from now on. It has what a `NodeTransport` uses of a `net.Socket`. */
export class TransportStream extends Duplex {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    super({ allowHalfOpen: true });
    this.#connection = connection;
    connection.start({
      needed: 1, // it always waits
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
    const room = this.#connection.write(new Uint8Array(chunk)); // a copy: the chunk is TLS's again
    if (room === undefined) done();
    else void room.then(() => done());
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#connection.end().then(() => done(), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    const { readableEnded, writableFinished } = this;
    if (readableEnded && writableFinished) void this.#connection.close();
    else this.#connection.abort();
    done(error);
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

/** The same connection over such a stream. */
export const overStream = (connection: Connection, stream: TransportStream, origin: Origin): NodeTransport =>
  new NodeTransport(stream as unknown as net.Socket, origin, connection);
