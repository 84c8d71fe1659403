/** The connection of a script's run: a stream or datagrams, behind the same few calls. */

import { DONE } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { SHUT_WR } from "../../net/constants.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import type { StartTlsOptions } from "../../sockets/tls/tls.ts";

/** A peer of datagrams instead of a stream: `send` sends one, `recv` returns the next. */
export interface DatagramPeer {
  /** Sends one datagram; a promise is awaited. */
  send(data: Uint8Array): unknown;
  /** The next datagram, whole. */
  recv(): Promise<Uint8Array>;
}

export const EMPTY = new Uint8Array(0);

/** What a run needs from the connection. */
export interface Wire {
  /** Whether datagrams come: each is complete, and taken as a whole. */
  readonly whole: boolean;
  /** Whether something has arrived: bytes, the end, or an error. */
  readonly readable: boolean;
  /** Calls `told` when that may have become true, and reads ahead for that; returns a function that stops it. */
  onReadable(told: () => void): () => void;
  /** At most this many of the bytes that have arrived, or `null` for the end; rejects with the error that broke the connection. Only if it is `readable`. */
  look(most: number): Promise<Uint8Array | null>;
  /** Takes the first `size` bytes that have arrived. */
  take(size: number): Promise<Uint8Array>;
  /** Sends; the promise settles when the data has left. */
  send(data: Uint8Array): Promise<void>;
  halfClose(): Promise<void>;
  startTls(options: StartTlsOptions): Promise<void>;
  close(): Promise<void>;
  abort(): void;
  /** Whether a reset can be sent. */
  readonly resets: boolean;
  /** Whether `otherEnd` waits for us, with nothing on its way in either direction. */
  idle(otherEnd: StreamSocket): boolean;
}

export class StreamWire implements Wire {
  readonly whole = false;
  readonly #stream: StreamSocket;

  constructor(stream: StreamSocket) {
    this.#stream = stream;
  }

  get readable(): boolean {
    return this.#stream.rfile.readable;
  }

  get resets(): boolean {
    return this.#stream.capabilities.reset;
  }

  onReadable(told: () => void): () => void {
    return this.#stream.rfile.onReadable(told);
  }

  look(most: number): Promise<Uint8Array | null> {
    return this.#stream.rfile.peek(most);
  }

  take(size: number): Promise<Uint8Array> {
    return this.#stream.rfile.readexactly(size);
  }

  async send(data: Uint8Array): Promise<void> {
    await this.#stream.sendall(data);
  }

  halfClose(): Promise<void> {
    return this.#stream.shutdown(SHUT_WR);
  }

  startTls(options: StartTlsOptions): Promise<void> {
    return this.#stream.startTls(options);
  }

  close(): Promise<void> {
    return this.#stream.close();
  }

  abort(): void {
    this.#stream.abort();
  }

  idle(otherEnd: StreamSocket): boolean {
    const here = this.#stream;
    if (here.wfile.dirty || otherEnd.wfile.dirty) return false;
    const onTheWay = here.bytesWritten - otherEnd.bytesRead + otherEnd.bytesWritten - here.bytesRead;
    return onTheWay === 0 && otherEnd.rfile.needed > 0;
  }
}

export class DatagramWire implements Wire {
  static readonly #wires = new WeakMap<DatagramPeer, DatagramWire>();

  /** The wire of that peer: what one run received and did not take is left for the next. */
  static of(peer: DatagramPeer): DatagramWire {
    const wire = DatagramWire.#wires.get(peer) ?? new DatagramWire(peer);
    DatagramWire.#wires.set(peer, wire);
    return wire;
  }

  readonly whole = true;
  readonly resets = false;
  readonly #peer: DatagramPeer;
  #held: Uint8Array | null = null;
  #failure: { readonly error: unknown } | null = null;
  #receiving: Promise<void> | null = null;

  constructor(peer: DatagramPeer) {
    this.#peer = peer;
  }

  get readable(): boolean {
    return this.#held !== null || this.#failure !== null;
  }

  onReadable(told: () => void): () => void {
    let stopped = false;
    if (!this.readable) this.#receiving ??= this.#receive();
    void (this.#receiving ?? DONE).then(() => stopped || told());
    return () => {
      stopped = true;
    };
  }

  async look(): Promise<Uint8Array | null> {
    if (this.#held === null) throw this.#failure?.error;
    return this.#held;
  }

  async take(): Promise<Uint8Array> {
    const taken = this.#held ?? EMPTY;
    this.#held = null;
    return taken;
  }

  async send(data: Uint8Array): Promise<void> {
    await this.#peer.send(data);
  }

  halfClose(): never {
    throw noConnection("halfClose()");
  }

  startTls(): never {
    throw noConnection("startTls()");
  }

  async close(): Promise<void> {}

  abort(): void {}

  idle(): boolean {
    return false;
  }

  async #receive(): Promise<void> {
    try {
      this.#held = await this.#peer.recv();
    } catch (error) {
      this.#failure = { error };
    }
    this.#receiving = null;
  }
}

const noConnection = (step: string): SocketError =>
  new SocketError(
    "ERR_UNSUPPORTED",
    `${step} needs a connection, and datagrams have none; run the script on a stream`,
  );
