/** The parts of Bun's API that are used. https://bun.com/docs/runtime/networking/tcp */

/** A connection. */
export interface BunSocket {
  /** Whatever its owner likes. */
  data: unknown;
  readonly fd: number;
  readonly localAddress?: string;
  readonly localPort?: number;
  readonly localFamily?: string;
  readonly remoteAddress?: string;
  readonly remotePort?: number;
  readonly remoteFamily?: string;
  /** Returns how many bytes the kernel took (text as UTF-8), or a negative number if the connection is broken. `drain` is called when it takes more. */
  write(data: Uint8Array | string): number;
  /** Sends the end. The peer's data is still read; its end is reported only by `close`. */
  shutdown(): void;
  /** Closes the descriptor. */
  end(): void;
  /** Closes it with a reset. */
  terminate(): void;
  pause(): void;
  resume(): void;
  ref(): void;
  unref(): void;
  setNoDelay(on: boolean): boolean;
  /** `delay`: milliseconds. */
  setKeepAlive(on: boolean, delay: number): boolean;
  /** Replaces the callbacks, for this socket if it was dialled. */
  reload(options: { readonly socket: BunHandlers }): void;
}

/** Bun's callbacks. If one throws, Bun calls `error` and closes the connection. */
export interface BunHandlers {
  readonly binaryType: "uint8array";
  open?(socket: BunSocket): void;
  /** Bytes came; they belong to the callee. */
  data(socket: BunSocket, bytes: Uint8Array): void;
  /** The peer sends no more. Not called after `shutdown()`. */
  end(socket: BunSocket): void;
  drain(socket: BunSocket): void;
  /** It was closed, by either side; `error` is the reason, if it was not in order. */
  close(socket: BunSocket, error?: Error): void;
  error(socket: BunSocket, error: Error): void;
}

/** A listener. */
export interface BunListener {
  readonly fd: number;
  readonly hostname: string;
  readonly port: number;
  /** Stops listening, and removes a path's file. Connections stay open. */
  stop(): void;
}

/** A bound datagram socket. */
export interface BunDatagrams {
  /** Returns whether the kernel took it; if not, `drain` is called when it takes more. Throws the kernel's error. */
  send(bytes: Uint8Array, port: number, address: string): boolean;
  /** Replaces the callbacks. */
  reload(options: {
    readonly socket: {
      data(
        socket: BunDatagrams,
        message: Buffer,
        port: number,
        address: string,
        flags?: { readonly ipv6?: boolean },
      ): void;
      drain(): void;
      /** `errqueue`: it is about a datagram that was sent (`IP_RECVERR`). */
      error(error: NodeJS.ErrnoException & { readonly errqueue?: boolean }): void;
    };
  }): void;
}

interface Listening {
  readonly hostname: string;
  readonly port: number;
  /** Otherwise other processes could listen there, too. */
  readonly exclusive: true;
  readonly ipv6Only: boolean;
  readonly reusePort: boolean;
}

interface BunGlobal {
  listen(
    options: (Listening | { readonly unix: string }) & {
      /** Whether a connection stays open when the peer has ended. */
      readonly allowHalfOpen: true;
      readonly socket: BunHandlers;
    },
  ): BunListener;
}

export const { Bun: bun } = globalThis as unknown as { readonly Bun: BunGlobal };
