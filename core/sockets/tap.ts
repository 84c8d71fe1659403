/** Looking on at a connection: what a `StreamTap` is told, and how it is set. */

import type { Data } from "../bytes/data.ts";

/** How a side of a connection ended: it says no more, it let go of both directions, or it broke the connection. */
export type TappedEnd = "half-close" | "close" | "reset";

/**
 * What looks on at one connection, as the socket has it: above TLS, and below `rfile` and `wfile`. It is called in the middle of
 * reads and writes, so it must neither throw nor wait. Bytes are lent: they are valid until the call returns.
 */
export interface StreamTap {
  /** The peer said this. */
  received(bytes: Uint8Array): void;
  /** This side said this; it is handed to the platform next. */
  sent(data: Data): void;
  /** The peer ended its side, or broke the connection. */
  peerEnded(how: TappedEnd): void;
  /** This side ended, let go, or broke the connection. */
  ended(how: TappedEnd): void;
  /** From here on both speak through TLS. */
  secured(): void;
  /** So many bytes passed that it was not told of. */
  missed(bytes: number): void;
}
