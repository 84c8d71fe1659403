/** UDP servers on real sockets: `UDPServer`, one datagram at a time, and `ThreadingUDPServer`, side by side. */

import dgram from "node:dgram";
import { lookup } from "node:dns/promises";
import net from "node:net";
import { type Address, type AddressLike, formatAddress } from "../core/address.ts";
import { checkDatagramSize, Datagram, type DatagramSender, knownSender } from "../core/datagram.ts";
import { SocketError } from "../core/errors.ts";
import type { HandlerClass } from "../core/handler.ts";
import { ThreadingMixIn } from "../core/mixins.ts";
import { checkCount } from "../core/options.ts";
import type { ServerOptions } from "../core/server.ts";
import type { Data, MaybePromise } from "../core/stream.ts";
import { addressOf, networkError } from "./stream-socket.ts";
import { TCPServer } from "./tcp.ts";

/** Options of a UDP server. */
export interface UDPServerOptions<Context> extends ServerOptions<Context> {
  /** Bytes of a datagram that are taken; the rest is cut, and `truncated` says so. Default 65 535, so that nothing is (CPython: 8 192). */
  readonly maxPacketSize?: number;
}

/** Serves datagrams, one at a time. CPython's `UDPServer`: what it gives a handler is a `Datagram`. */
export class UDPServer<Context = unknown> extends TCPServer<Context, Datagram> implements DatagramSender {
  readonly maxPacketSize: number;
  #socket: dgram.Socket | undefined;
  #address: Address | null = null;

  constructor(
    serverAddress: AddressLike,
    RequestHandlerClass: HandlerClass<Datagram, Context>,
    options: UDPServerOptions<Context> = {},
  ) {
    super(serverAddress, RequestHandlerClass, options);
    this.maxPacketSize = checkCount("maxPacketSize", options.maxPacketSize ?? 65_535, 0);
  }

  override get serverAddress(): Address | null {
    return this.#address;
  }

  override async serverBind(): Promise<void> {
    const { hostname, port, scheme } = this.endpoint;
    const said = formatAddress(this.endpoint);
    if (scheme === "tcp") throw new TypeError(`${said} is for a TCPServer`);
    const host = hostname || "0.0.0.0";
    const at =
      net.isIP(host) !== 0
        ? { address: host, family: net.isIP(host) }
        : await lookup(host).catch((error) => {
            throw networkError(error, said);
          });
    const family = at.family === 6 ? 6 : 4;
    // All that is sent goes to an address that came in: no name is ever looked up (measured: a tenth of the rate).
    const numeric = (name: string, _: unknown, found: (e: null, a: string, f: number) => void): void =>
      found(null, name, family);
    const socket = dgram.createSocket({ type: `udp${family}`, lookup: numeric as never });
    await new Promise<void>((resolve, reject) => {
      socket.once("error", (error) => {
        socket.close();
        reject(networkError(error, said));
      });
      socket.bind({ address: at.address, port, exclusive: true }, resolve);
    });
    this.#socket = socket;
    socket.removeAllListeners("error");
    socket.on("error", (error) => this.tell({ type: "error", server: this.name, address: null, error }));
    const bound = socket.address();
    this.#address = addressOf(bound.address, bound.port, bound.family);
    socket.on("message", (message: Buffer, { address, port, family }) => {
      const taken = Math.min(message.length, this.maxPacketSize);
      const bytes = new Uint8Array(message.buffer as ArrayBuffer, message.byteOffset, taken);
      const peer = addressOf(address, port, family);
      this.arrive(new Datagram(bytes, peer, this, taken < message.length), peer);
    });
  }

  /** Sends one datagram from this server's socket. What the network refuses later is told as an event. */
  post(data: Data, sender: Address | null): void {
    const address = knownSender(sender);
    if (this.#socket === undefined) throw new SocketError("EBADF", "the server's socket is not open");
    if (address.family === "unix") throw new SocketError("EAFNOSUPPORT", "UDP does not reach a path");
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    checkDatagramSize(bytes.length, address);
    const host = address.scopeId === undefined ? address.hostname : `${address.hostname}%${address.scopeId}`;
    this.#socket.send(bytes, address.port, host);
  }

  /** The socket stays open until the last reply was sent; what arrives meanwhile is refused. */
  protected override stopListening(): void {}

  protected override letGo(): MaybePromise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#socket = undefined;
    return new Promise((resolve) => {
      socket.close(() => resolve());
    });
  }
}

/** Serves datagrams side by side. CPython's `ThreadingUDPServer`; see `ThreadingMixIn`. */
export class ThreadingUDPServer<Context = unknown> extends ThreadingMixIn(UDPServer)<Context> {}
