/**
 * `net.Socket` behind the seam, for dialled connections, for TLS, and for accepted connections that do not use their handle.
 *
 * Bytes come through `onread` (see intake.ts) or one 'data' listener. `for await`, `once()` and Web Streams take 1.3 to 2.2 times
 * as much CPU (measured against bare `node:net`).
 */

import type net from "node:net";
import type tls from "node:tls";
import { type Data, toBytes } from "../../../core/bytes/data.ts";
import type { Lender } from "../../../core/bytes/reader.ts";
import { SocketError } from "../../../core/errors.ts";
import type { Address } from "../../../core/net/address.ts";
import { checkOptions } from "../../../core/options.ts";
import type { StreamOptions } from "../../../core/sockets/streams/stream-options.ts";
import { StreamSocket } from "../../../core/sockets/streams/stream-socket.ts";
import {
  checkTls,
  SERVER_TLS_NAMES,
  type ServerTlsOptions,
  type StartTlsOptions,
  TLS_NAMES,
  type TlsInfo,
  type TlsOptions,
} from "../../../core/sockets/tls/tls.ts";
import type {
  Capabilities,
  KernelSocket,
  StreamSink,
  StreamTransport,
} from "../../../core/sockets/transport.ts";
import { runtime } from "../../runtime.ts";
import { addressOf } from "../addresses.ts";
import type { Holder, Kernel } from "../descriptors/kernel.ts";
import type { Settable } from "../descriptors/plain-options.ts";
import { descriptorOf, holdInput } from "../handles/handles.ts";
import { drained, socketHolder } from "../handles/holders.ts";
import { IntakeSocket, intake, type Taker } from "../handles/intake.ts";
import { handshake, resetUnder, ServerSecurity, secureDialled, tlsError } from "../tls/tls.ts";
import { linger, unacknowledged } from "./linger.ts";
import {
  atEndOfTurn,
  type Connection,
  FULL,
  kernelOf,
  LARGE,
  type Origin,
  type OverSocket,
  PIECE,
  SECURED,
  TCP,
  UNIX,
} from "./seam.ts";
import { overSecureHandle } from "./tls-transport.ts";

/** How a connection is to be secured. */
type Securing =
  | { readonly server: ServerSecurity }
  | { readonly server: null; readonly hostname: string; readonly options: TlsOptions };

/** What `options` mean on a connection of this origin. Throws `TypeError` if they belong to the other role, or if an accepted connection has no certificate. */
export const securingOf = (origin: Origin | undefined, options: StartTlsOptions): Securing => {
  const { dialled, security } = origin ?? {};
  const own = Object.keys(options).length > 0;
  if (dialled !== undefined) {
    checkOptions("startTls() on a connection that was dialled", options, TLS_NAMES);
    const whole = own ? { ...dialled.tls, ...(options as TlsOptions) } : (dialled.tls ?? NO_OPTIONS);
    if (own) checkTls(whole, "");
    return { server: null, hostname: dialled.hostname, options: whole };
  }
  if (!own && security !== undefined) return { server: security };
  checkOptions("startTls() on a connection that was accepted", options, SERVER_TLS_NAMES);
  const { cert, serverNames } = options as ServerTlsOptions;
  if (cert === undefined && serverNames === undefined) {
    const said = 'needs a cert and a key, here or as `tls` of its server (secureTransport: "starttls")';
    throw new TypeError(`startTls() on a connection that was accepted ${said}`);
  }
  return { server: ServerSecurity.of(options) };
};

const NO_OPTIONS: TlsOptions = {};

type Listeners = Record<string, (argument: never) => unknown>;

/** A large write that Node has only a part of. */
interface Rest {
  /** The part that Node does not have yet. */
  bytes: Uint8Array;
  readonly taken: Promise<void>;
  readonly resolve: () => void;
}

/** The seam over a connected `net.Socket`, which may be a TLS socket. */
export class NodeTransport implements OverSocket, Taker {
  remoteAddress: Address | null;
  readonly capabilities: Capabilities;
  readonly #socket: net.Socket;
  readonly #intake: IntakeSocket | null; // the socket itself, if it reads through `onread`
  readonly #plain: net.Socket | undefined;
  readonly #held: net.Socket | undefined; // the socket to pause in place of a TLS socket: Deno's loses an end that comes while it is paused
  #origin: Origin | undefined;
  #kernel: Kernel | undefined;
  #sink: StreamSink | null = null;
  #listeners: Listeners = {};
  #flowing = false;
  #room: PromiseWithResolvers<void> | null = null;
  #rest: Rest[] | null = null; // large writes that Node has only a part of
  #waiting = 0; // bytes that Node had and the kernel had not, after the last write or the last completed one
  #dropping = false;
  /** Pieces of input that were dropped after the close. */
  dropped = 0;
  readonly #wrote = (error?: Error | null): void => {
    if (error && !this.#socket.destroyed) this.#tell(error); // now: Deno's 'error' comes only after the writer has gone on
    if (error || this.#socket.destroyed) return; // Node counts lost bytes as sent
    this.#waiting = this.#socket.writableLength;
    if (this.#rest !== null) this.#giveRest();
  };

  /** The state of its TLS. */
  readonly tls: TlsInfo | undefined;

  /** `before`: the transport that had the connection, and knows its peer. `state`: its TLS, if it was secured over `before`. */
  constructor(socket: net.Socket, origin?: Origin, before?: StreamTransport, state?: TlsInfo) {
    this.#socket = socket;
    this.#intake = socket instanceof IntakeSocket ? socket : null;
    this.#plain = state !== undefined && before instanceof NodeTransport ? before.socket : undefined;
    this.#held = runtime === "Deno" ? this.#plain : undefined;
    this.tls = state;
    // Read now, because Node forgets it when the connection closes, and once, because it is a system call.
    this.remoteAddress =
      before?.remoteAddress ?? addressOf(socket.remoteAddress, socket.remotePort, socket.remoteFamily);
    this.capabilities = before?.capabilities ?? (this.remoteAddress === null ? UNIX : TCP);
    if (origin !== undefined) this.from(origin);
  }

  get sharesTimers(): boolean {
    return true;
  }

  from(origin: Origin): this {
    this.#origin = origin;
    this.remoteAddress ??= origin.remote ?? null;
    return this;
  }

  get fd(): number {
    return descriptorOf(this.#plain ?? this.#socket);
  }

  get settable(): Settable {
    return this.#socket;
  }

  get holder(): Holder {
    return socketHolder(this.#socket);
  }

  unref(): void {
    this.#socket.unref();
  }

  get socket(): net.Socket {
    return this.#socket;
  }

  toNode(): this {
    return this;
  }

  get localAddress(): Address | null {
    const { localAddress, localPort, localFamily } = this.#plain ?? this.#socket;
    return addressOf(localAddress, localPort, localFamily) ?? this.#origin?.local ?? null;
  }

  get kernel(): KernelSocket {
    this.#kernel ??=
      this.#origin?.kernel ??
      kernelOf(
        this.remoteAddress,
        this.#plain ?? this.#socket,
        socketHolder(this.#plain ?? this.#socket, this.#plain && SECURED),
      );
    return this.#kernel;
  }

  start(sink: StreamSink): void {
    const first = this.#sink === null;
    this.#sink = sink;
    if (!first) return;
    const socket = this.#socket;
    const listeners: Listeners = {
      end: () => this.#sink?.end(),
      error: (error: Error) => this.#tell(error),
    };
    if (this.#intake !== null) {
      this.#intake.taker = this;
    } else {
      // A plain Uint8Array, so that `slice` and `toString` mean the same in every place.
      listeners.data = ({ buffer, byteOffset, byteLength }: Buffer) => {
        if (this.#dropping) this.dropped++;
        else this.#sink?.data(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
      };
    }
    for (const event in listeners) socket.on(event, listeners[event] as () => void);
    this.#listeners = listeners;
    if (this.#held !== undefined) socket.resume(); // delivers what was read before
  }

  #tell(error: Error): void {
    this.#sink?.error(this.tls === undefined ? SocketError.from(error, "ECONNRESET") : tlsError(error, true));
  }

  /** Takes bytes that were read; they are lent. */
  took(bytes: Uint8Array, lender: Lender): void {
    if (this.#dropping) {
      this.dropped++;
      return;
    }
    const sink = this.#sink as StreamSink;
    if (sink.lend !== undefined) sink.lend(bytes, lender);
    else sink.data(bytes.slice());
  }

  resume(): void {
    if (this.#flowing) return;
    this.#flowing = true;
    if (this.#intake !== null) this.#intake.read(0);
    else if (this.#held !== undefined) holdInput(this.#held, false);
    else this.#socket.resume();
  }

  pause(): void {
    this.#flowing = false;
    if (this.#held !== undefined) this.#hold(this.#held);
    else this.#socket.pause();
  }

  /** Pauses `plain`, but not within the current read: that would lose an end right behind it. */
  #hold(plain: net.Socket): void {
    setImmediate(() => {
      if (!this.#flowing) holdInput(plain, true);
    });
  }

  write(data: Data): Promise<void> | undefined {
    const socket = this.#socket;
    if (socket.destroyed) {
      if (socket.errored) this.#tell(socket.errored);
      this.#waiting += toBytes(data).length;
      return undefined;
    }
    if (this.#rest !== null || (data.length >= LARGE && typeof data !== "string")) {
      return this.#writeLarge(toBytes(data));
    }
    // The result of write() does not help: it is false for a large piece even if the kernel has taken all of it.
    if (this.#give(data, this.#wrote) <= FULL) return undefined;
    if (this.#room === null) {
      this.#room = Promise.withResolvers<void>();
      const room = (): void => {
        socket.removeListener("drain", room).removeListener("close", room);
        this.#room?.resolve();
        this.#room = null;
      };
      socket.on("drain", room).on("close", room);
    }
    return this.#room.promise;
  }

  get unsent(): number {
    const { destroyed, writableLength } = this.#socket;
    let unsent = destroyed ? this.#waiting : writableLength;
    for (const { bytes } of this.#rest ?? []) unsent += bytes.length;
    return unsent;
  }

  unacknowledged(): number | null {
    return unacknowledged(this.fd, this.remoteAddress, () => this.localAddress);
  }

  end(): Promise<void> {
    const last = this.#rest?.at(-1);
    return last === undefined ? this.#endNow() : last.taken.then(() => this.#endNow());
  }

  #endNow(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#socket.end((error?: Error | null) =>
        error ? reject(SocketError.from(error, "EPIPE")) : resolve(),
      );
    });
  }

  /** Hands data to Node. Returns how many bytes Node has now. */
  #give(data: Data, taken: (error?: Error | null) => void): number {
    const socket = this.#socket;
    socket.write(data, taken);
    this.#waiting = socket.errored === null ? socket.writableLength : this.#waiting + toBytes(data).length;
    return this.#waiting;
  }

  /** It may be the caller's own memory, so the caller waits until everything is taken. */
  #writeLarge(bytes: Uint8Array): Promise<void> | undefined {
    const { promise: taken, resolve } = Promise.withResolvers<void>();
    if (this.#rest !== null) {
      this.#rest.push({ bytes, taken, resolve });
      return taken;
    }
    if (bytes.length <= PIECE) {
      const wrote = (error?: Error | null): void => {
        this.#wrote(error);
        resolve();
      };
      return this.#give(bytes, wrote) === 0 ? undefined : taken;
    }
    this.#rest = [{ bytes, taken, resolve }];
    if (this.#waiting === 0) this.#giveRest();
    if (this.#rest !== null) return taken;
    return this.#waiting === 0 ? undefined : taken;
  }

  /** Hands Node the next pieces of the large writes: as many as the kernel takes at once, and one more. */
  #giveRest(): void {
    const rest = this.#rest as Rest[];
    for (let first = rest[0]; first !== undefined && this.#waiting === 0; first = rest[0]) {
      const { bytes, resolve } = first;
      first.bytes = bytes.subarray(PIECE);
      if (first.bytes.length === 0) rest.shift();
      const wrote = (error?: Error | null): void => {
        this.#wrote(error);
        if (bytes.length <= PIECE) resolve();
        if (error || this.#socket.destroyed) for (const { resolve } of rest) resolve();
      };
      this.#give(bytes.subarray(0, PIECE), wrote);
    }
    if (rest.length === 0) this.#rest = null;
  }

  /** Lingers: see linger.ts. */
  close(): void {
    const socket = this.#socket;
    socket.unref(); // it must not keep a process from ending
    if (socket.readableEnded) {
      socket.destroy();
      return;
    }
    this.#dropping = true;
    const stop = linger(this, () => socket.destroy());
    socket.once("end", () => socket.destroy());
    socket.once("close", stop);
    this.resume();
  }

  abort(): void {
    const socket = this.#socket;
    if (socket.destroyed) return;
    if (this.#sink === null) socket.on("error", () => {}); // nobody else listens
    // During a shutdown libuv refuses a reset. Node then never closes the descriptor, and the process cannot
    // end (Node 24). The shutdown takes one turn, since everything written has been sent.
    if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
      socket.once("finish", () => this.abort());
      return;
    }
    if (this.#plain !== undefined) {
      resetUnder(this.#plain, socket);
      return;
    }
    try {
      socket.resetAndDestroy();
    } catch {
      // a Unix socket has no reset
    }
    socket.destroy();
  }

  async startTls(options: StartTlsOptions): Promise<Connection> {
    const socket = this.#socket;
    const byHandle = intake.on;
    const securing = securingOf(this.#origin, options);
    await this.#rest?.at(-1)?.taken;
    await drained(socket);
    if (this.#intake !== null) this.#intake.taker = null;
    for (const event in this.#listeners) socket.removeListener(event, this.#listeners[event] as () => void);
    if (this.#origin?.early !== undefined) socket.unshift(this.#origin.early);
    const secured =
      securing.server !== null
        ? securing.server.accept(socket)
        : secureDialled(socket, securing.hostname, securing.options, this.#origin?.dialled?.last);
    const state = await handshake(secured, securing.server);
    if (runtime === "Deno") holdInput(socket, true);
    else secured.pause();
    const kernel = this.#kernel ?? this.#origin?.kernel;
    kernel?.heldBy(socketHolder(socket, SECURED));
    return this.over(secured, { ...this.#origin, kernel, early: undefined }, state, byHandle);
  }

  /** The transport that takes over when this one is secured. */
  protected over(secured: tls.TLSSocket, origin: Origin, state: TlsInfo, byHandle: boolean): Connection {
    const direct = byHandle ? overSecureHandle(secured, this, origin, state) : null;
    return direct ?? this.overStream(secured, origin, state);
  }

  overStream(secured: tls.TLSSocket, origin: Origin, state: TlsInfo): NodeTransport {
    return new NodeTransport(secured, origin, this, state);
  }

  defer(task: () => void): void {
    atEndOfTurn(task);
  }
}

/**
 * A `StreamSocket` over a connected `net.Socket` or `TLSSocket`. It must have been made with `allowHalfOpen: true`, and with
 * `pauseOnConnect` or be paused: input that comes before anybody listens is lost.
 */
export const streamSocket = (
  socket: net.Socket,
  options: Partial<StreamOptions> = {},
  origin?: Origin,
): StreamSocket => new StreamSocket(new NodeTransport(socket, origin), options);
