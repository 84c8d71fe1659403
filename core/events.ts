/**
 * What a server or a connector tells. The library prints nothing: it calls `onEvent`, and the command line,
 * a log or a test listens there.
 */

import type { Address } from "./address.ts";

/** Told of every event; what it throws is reported as an uncaught error, and does not reach the server. */
export type OnEvent = (event: SockletEvent) => void;

interface Told {
  /** The name of the server or connector that tells. */
  readonly server: string;
}

interface OfRequest extends Told {
  /** The request's number at this server, from 1. */
  readonly id: number;
  /** The peer, or `null` where the platform does not tell. */
  readonly address: Address | null;
}

/** One thing that happened. Times are milliseconds, sizes bytes. */
export type SockletEvent =
  /** The server listens. */
  | (Told & { readonly type: "listening"; readonly address: Address | null })
  /** A request was turned away before a handler was made: `verifyRequest` said no, or too many already wait. */
  | (Told & {
      readonly type: "refused";
      readonly address: Address | null;
      readonly reason: "verify" | "full" | "closing" | "no listener";
    })
  /** A handler begins. */
  | (OfRequest & { readonly type: "begin" })
  /** The request is over and its connection let go. */
  | (OfRequest & {
      readonly type: "end";
      readonly duration: number;
      readonly bytesRead: number;
      readonly bytesWritten: number;
      readonly failed: boolean;
    })
  /** A handler, a hook or the transport failed; `id` is absent where no request had begun. */
  | (Told & {
      readonly type: "error";
      readonly id?: number;
      readonly address: Address | null;
      readonly error: unknown;
    })
  /** The drain deadline passed and this request, aborted, still does not end. */
  | (OfRequest & { readonly type: "stuck" })
  /** What a handler said with `this.emit(detail)`. */
  | (OfRequest & { readonly type: "handler"; readonly detail: unknown })
  /** The server listens no more, and nothing of it runs. */
  | (Told & { readonly type: "closed" });
