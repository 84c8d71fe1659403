/** A stream socket as one of the Web platform's kind: what `toWeb()` gives. */

import { type Bytes, DONE } from "../../bytes/data.ts";
import { SocketError } from "../../errors.ts";
import { type Address, formatAddress } from "../../net/address.ts";
import { SHUT_RD, SHUT_WR } from "../../net/constants.ts";
import type { StartTlsOptions } from "../tls/tls.ts";

/** A `Socket` in the sense of WinterTC's Sockets API and of Workers: what `toWeb()` gives. */
export interface WebStream {
  /** What the peer sends, read when it is asked for. */
  readonly readable: ReadableStream<Bytes>;
  /** What is sent to the peer; closing it is our end. */
  readonly writable: WritableStream<Uint8Array>;
  /** The addresses, as text. */
  readonly opened: Promise<{ remoteAddress?: string; localAddress?: string }>;
  /** Resolves when the connection is closed or secured by `startTls()`, rejects when it breaks. */
  readonly closed: Promise<void>;
  /** Whether `startTls()` was called on it. */
  readonly upgraded: boolean;
  /** As `StreamSocket.close()`. */
  close(): Promise<void>;
  /**
   * Secures the connection, and returns at once the socket that goes on with it. The `opened` of that one settles when the handshake is
   * done or has failed. This one must not be used again. Throws `EBUSY` while a read waits.
   */
  startTls(options?: StartTlsOptions): WebStream;
}

/** The stream socket behind a Web stream. */
interface Connection {
  readonly closed: boolean;
  recv(): Promise<Bytes | null>;
  sendall(data: Uint8Array): Promise<void>;
  shutdown(how: number): Promise<void>;
  close(): Promise<void>;
  abort(): void;
  startTls(options?: StartTlsOptions): Promise<void>;
  getpeername(): Address | null;
  getsockname(): Address | null;
}

/** What a Web stream needs of the socket behind it that is not public. */
interface ConnectionState {
  /** Why the connection is broken; `null` while it is not. */
  readonly error: SocketError | null;
  readonly aborted: boolean;
  /** Calls `told` when the connection breaks; one listener at a time. */
  onError(told: (error: SocketError) => void): void;
  /** Lets go of the connection at once; its reads and writes fail with `error`. */
  cut(error: SocketError): void;
  /** Throws if `startTls()` cannot be called now. */
  mustBeIdle(): void;
}

/** `socket` as a Web stream; `securing` is the handshake that must be done first. */
export const webStreamOf = (
  socket: Connection,
  state: ConnectionState,
  securing: Promise<void> = DONE,
): WebStream => {
  let upgraded = false;
  const mine = async (): Promise<void> => {
    if (upgraded)
      throw new SocketError("ERR_HANDED_OVER", "startTls() was called; use the socket that it gave");
    await securing;
  };
  const closed = Promise.withResolvers<void>();
  closed.promise.catch(() => {}); // nobody needs to watch it
  state.onError(closed.reject);
  if (state.error !== null) closed.reject(state.error);
  securing.catch(closed.reject);
  let open = 2; // directions
  let cancelled = false;
  const close = async (): Promise<void> => {
    await socket.close().catch(closed.reject);
    closed.resolve();
  };
  const oneEnded = async (): Promise<void> => {
    if (--open === 0) await close();
  };
  // A Web stream that has failed once is of no further use, and neither is its connection.
  const fail = (error: SocketError): never => {
    if (!socket.closed) state.cut(error);
    throw error;
  };
  const addressText = (address: Address | null): string | undefined =>
    address === null ? undefined : formatAddress(address);
  return {
    readable: new ReadableStream<Bytes>(
      {
        pull: async (controller) => {
          await mine();
          const bytes = await socket
            .recv()
            .catch((error) => (socket.closed && !state.aborted ? null : fail(error)));
          if (cancelled) return;
          if (bytes !== null) return controller.enqueue(bytes);
          controller.close();
          await oneEnded();
        },
        cancel: async () => {
          cancelled = true;
          if (!socket.closed) await socket.shutdown(SHUT_RD);
          await oneEnded();
        },
      },
      { highWaterMark: 0 }, // nothing is read until it is asked for
    ),
    writable: new WritableStream<Uint8Array>({
      start: (controller) => {
        // Not `abort`, which would wait for the write in progress.
        controller.signal.addEventListener("abort", () => {
          closed.reject(new SocketError("ECONNABORTED"));
          socket.abort();
        });
      },
      write: async (bytes) => {
        await mine();
        await socket.sendall(bytes).catch(fail);
      },
      close: async () => {
        await mine();
        if (!socket.closed) await socket.shutdown(SHUT_WR).catch(fail);
        await oneEnded();
      },
    }),
    opened: securing.then(() => ({
      remoteAddress: addressText(socket.getpeername()),
      localAddress: addressText(socket.getsockname()),
    })),
    closed: closed.promise,
    get upgraded() {
      return upgraded;
    },
    close,
    startTls: (options) => {
      state.mustBeIdle();
      upgraded = true;
      const secured = webStreamOf(socket, state, socket.startTls(options));
      secured.opened.catch(() => {}); // a caller that awaits it is told
      closed.resolve();
      return secured;
    },
  };
};
