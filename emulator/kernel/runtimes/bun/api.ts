/** What is used of Bun. https://bun.com/docs/runtime/networking/tcp */

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
  /** Gives how many bytes the kernel took, of text as UTF-8; a negative number where the connection is broken. `drain` tells when it takes more. */
  write(data: Uint8Array | string): number;
  /** Sends the end. What the peer still sends is read; of its end only `close` tells. */
  shutdown(): void;
  /** Closes the descriptor. */
  end(): void;
  /** The same by a reset. */
  terminate(): void;
  pause(): void;
  resume(): void;
  ref(): void;
  unref(): void;
  setNoDelay(on: boolean): boolean;
  /** `delay`: milliseconds. */
  setKeepAlive(on: boolean, delay: number): boolean;
  /** Other callbacks, for this socket where it was dialled. */
  reload(options: { readonly socket: BunHandlers }): void;
}

/** What Bun calls. An exception of one is given to `error`, and closes the connection. */
export interface BunHandlers {
  readonly binaryType: "uint8array";
  open?(socket: BunSocket): void;
  /** Bytes that are the callee's. */
  data(socket: BunSocket, bytes: Uint8Array): void;
  /** The peer sends no more. Not called after `shutdown()`. */
  end(socket: BunSocket): void;
  drain(socket: BunSocket): void;
  /** It is closed, by whichever side, and why where that is not in order. */
  close(socket: BunSocket, error?: Error): void;
  error(socket: BunSocket, error: Error): void;
}

/** What listens. */
export interface BunListener {
  readonly fd: number;
  readonly hostname: string;
  readonly port: number;
  /** Connections stay. Removes the file of a path. */
  stop(): void;
}

/** A socket of datagrams that is bound. */
export interface BunDatagrams {
  /** Whether the kernel took it; else `drain` tells when it takes more. Throws the kernel's error. */
  send(bytes: Uint8Array, port: number, address: string): boolean;
  /** Other callbacks. */
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
  /** Else others may listen there, too. */
  readonly exclusive: true;
  readonly ipv6Only: boolean;
  readonly reusePort: boolean;
}

interface BunGlobal {
  listen(
    options: (Listening | { readonly unix: string }) & {
      /** Whether a connection goes on when the peer has ended. */
      readonly allowHalfOpen: true;
      readonly socket: BunHandlers;
    },
  ): BunListener;
}

export const { Bun: bun } = globalThis as unknown as { readonly Bun: BunGlobal };
