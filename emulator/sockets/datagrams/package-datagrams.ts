/** Datagrams on a path with the package `node-unix-socket`, if `koffi` is not installed. */

import { DONE } from "../../../core/bytes/data.ts";
import { SocketError, type SocketErrorCode } from "../../../core/errors.ts";
import { type Address, type Endpoint, formatAddress, type UnixAddress } from "../../../core/net/address.ts";
import type { DatagramSink, DatagramTransport } from "../../../core/sockets/datagram.ts";
import { lazy } from "../../builtin.ts";
import { bindError } from "../names/resolve.ts";

/** The parts of `node-unix-socket` that are used. */
interface DgramSocket {
  bind(path: string): void;
  /** Calls `sent` before it returns, if there is room; never for a datagram that still waits when the socket is closed. */
  sendTo(buffer: Buffer, offset: number, length: number, path: string, sent: (error?: Error) => void): void;
  close(): void;
  on(event: "data", listener: (message: Buffer, path: string) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
}

const unixSockets = (): { readonly DgramSocket: new () => DgramSocket } => {
  try {
    return lazy.module.createRequire(import.meta.url)("node-unix-socket");
  } catch (cause) {
    const said =
      "Node has no Unix datagram sockets, and no package that provides them is installed: npm install koffi (or node-unix-socket)";
    throw new SocketError("ERR_UNSUPPORTED", said, { cause });
  }
};

/** Datagrams on a path with the package, without libc. */
export class PackageDatagrams implements Pick<DatagramTransport, "start" | "bind" | "send" | "close"> {
  readonly #socket: DgramSocket = new (unixSockets().DgramSocket)();
  readonly #waiting = new Set<(error: SocketError) => void>(); // the sends that a close rejects
  #sink: DatagramSink | undefined;
  #said = "";
  #deaf = false;

  start(sink: DatagramSink): void {
    this.#sink = sink;
    this.#socket.on("data", ({ buffer, byteOffset, byteLength }, path) => {
      const bytes = new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
      sink.message(bytes, path === "" ? null : { family: "unix", path });
    });
    this.#socket.on("error", (error) => {
      sink.error(packageError(error, this.#said));
      this.close(); // as the package itself does
    });
  }

  async bind(endpoint: Endpoint): Promise<void> {
    this.#said = formatAddress(endpoint);
    const { path } = endpoint as Extract<Endpoint, { readonly scheme: "unix" }>;
    try {
      this.#socket.bind(path);
    } catch (error) {
      throw bindError(packageError(error, this.#said), { family: "unix", path }, this.#said);
    }
  }

  send(bytes: Uint8Array, address: Address): Promise<void> {
    const { path } = address as UnixAddress;
    const message = Buffer.from(bytes); // a copy: the caller's can change while it waits
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    let done = false;
    const sent = (error?: unknown): void => {
      this.#waiting.delete(reject);
      if (error) reject(packageError(error, formatAddress(address)));
      else {
        done = true;
        resolve();
      }
    };
    this.#waiting.add(reject);
    try {
      this.#socket.sendTo(message, 0, message.length, path, sent);
    } catch (error) {
      sent(error);
    }
    if (this.#waiting.has(reject)) this.#becameDeaf(address);
    return done ? DONE : promise;
  }

  close(): void {
    this.#socket.close();
    for (const reject of this.#waiting) reject(new SocketError("ECANCELED"));
    this.#waiting.clear();
  }

  /** Then the package waits for room to write, and never again for something to read (0.2.7, `flush()` in dgram.rs). */
  #becameDeaf(address: Address): void {
    if (this.#deaf) return;
    this.#deaf = true;
    const why = `${formatAddress(address)} takes no replies, and node-unix-socket receives nothing from now on`;
    const said = `${why}: restart the server; the package koffi does not have this fault (npm install koffi)`;
    this.#sink?.error(new SocketError("ERR_INTERNAL", said, { address: this.#said }));
  }
}

// The package's errors have no codes, only the texts of strerror(3) as Rust's `nix` has them.
const CODES: Readonly<Record<string, SocketErrorCode>> = {
  "Address already in use": "EADDRINUSE",
  "Permission denied": "EACCES",
  "No such file or directory": "ENOENT",
  "Connection refused": "ECONNREFUSED",
  "Message too long": "EMSGSIZE",
  "Operation not permitted": "EPERM",
  "No buffer space available": "ENOBUFS",
};

const packageError = (error: unknown, address: string): SocketError => {
  const { message } = error as Error;
  const code = Object.hasOwn(CODES, message) ? CODES[message]! : "ERR_INTERNAL";
  const said = code === "ECONNREFUSED" ? "nobody listens there" : message.toLowerCase();
  return new SocketError(code, `${address}: ${said}`, { address, cause: error });
};
