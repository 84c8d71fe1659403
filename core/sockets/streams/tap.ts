/** Watching a connection: what a `StreamTap` is told, and how it is set. */

import type { Data } from "../../bytes/data.ts";

/** How a side of a connection ended: it sends no more, it closed both directions, or it reset the connection. */
export type TappedEnd = "half-close" | "close" | "reset";

/**
 * Watches one connection, at the socket: above TLS, and below `rfile` and `wfile`. It is called in the middle of reads and writes, so
 * it must neither throw nor wait. Bytes are lent: they are valid until the call returns.
 */
export interface StreamTap {
  /** The peer sent these bytes. */
  received(bytes: Uint8Array): void;
  /** This side sent these bytes, which are handed to the platform next. */
  sent(data: Data): void;
  /** The peer ended its side, or reset the connection. */
  peerEnded(how: TappedEnd): void;
  /** This side ended, closed or reset the connection. */
  ended(how: TappedEnd): void;
  /** From here on both sides speak TLS. */
  secured(): void;
  /** This many bytes passed that it was not told of. */
  missed(bytes: number): void;
}
