/**
 * The events of a server or a connector. The library prints nothing: it calls `onEvent`, and the command line,
 * a log or a test listens there.
 */

import { describe, errorText, printable } from "../describe.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import type { EdgeRule, EdgeRuleName } from "../net/edge.ts";
import { attempt, disown } from "../promises.ts";
import type { FaultName, Speaker } from "./fault-rule.ts";

/** What a server or connector reports about itself. */
export interface EndpointInfo {
  readonly name: string;
  /** Requests whose handler is running. */
  readonly running: number;
  /** Requests whose handler has ended, well or not. */
  readonly served: number;
  /** How many of those handlers threw. */
  readonly failed: number;
  /** Bytes that they received, and that they sent; the bytes of a request are added when it ends. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/**
 * Called with every event. If it throws or rejects, no request and no process suffers: it is called with
 * one more event, of type `error`. If it fails on that one too, `console.error` prints the first such failure,
 * since there is no other place to report it.
 */
export type OnEvent = (event: SockletEvent) => void;

const broken = new WeakSet<object>(); // listeners whose failure has been printed

/** Prints, once for each `whose`, that its listener fails even on the event about its failure. */
export const reportBroken = (whose: object, error: unknown): void => {
  if (broken.has(whose)) return;
  broken.add(whose);
  const { stack = errorText(error) } = describe(error);
  console.error(
    printable(`socklet: the event listener throws, even for the event that reports this: ${stack}`, true),
  );
};

/** Reports to `listener` that it failed with `error` on `event`. Never throws. */
export const tellFailure = (listener: OnEvent, event: SockletEvent, error: unknown): void => {
  disown(error, () => {}); // if a promise was thrown, no more can be reported about it
  if (event.type === "error") {
    reportBroken(listener, error);
    return;
  }
  const what = `the event listener threw for an event of type "${event.type}": ${errorText(error)}`;
  const failed = new SocketError("ERR_HANDLER", what, { cause: error });
  callListener(listener, { type: "error", server: event.server, address: null, error: failed });
};

/** Calls `listener`; if it fails, reports that to it. Never throws. */
export const callListener = (listener: OnEvent, event: SockletEvent): void =>
  attempt(
    () => listener(event),
    (error) => tellFailure(listener, event, error),
  );

interface Told {
  /** The name of the server or connector. */
  readonly server: string;
}

interface OfRequest extends Told {
  /** The request's number at this server, from 1. */
  readonly id: number;
  /** The peer, or `null` if the platform does not provide them. */
  readonly address: Address | null;
}

/** Why a request was turned away before a handler was made for it. */
export type Refusal =
  /** `verifyRequest` returned false. */
  | "verify"
  /** Too many requests wait, or the server is full. */
  | "full"
  /** The server is closing. */
  | "closing"
  /** The server is suspended, and refuses. */
  | "suspended"
  /** Its address may not connect: the option `access`. */
  | "access"
  /** Its address connects too often: the option `rate`. */
  | "rate"
  /** Its address already has the most requests that it may have at once: the option `maxRequestsPerAddress`. */
  | "address"
  /** It sent no PROXY protocol header, a wrong one, or may send none: the option `proxyProtocol`; the event's `error` says which. */
  | "proxy"
  /** The most TLS handshakes that may run at once are running (`maxHandshakes`), and as many connections wait for theirs. */
  | "handshakes"
  /** The process has hardly any file descriptors left. */
  | "descriptors"
  /** The app has no listener for it. */
  | "no listener";

/** The events that only a forking server has. */
export type ForkingEvent =
  /** A child has imported its handler, and takes requests. If it replaces a lost one, `delay` is how long its place was empty; otherwise `null`. */
  | { readonly type: "forked"; readonly server: string; readonly pid: number; readonly delay: number | null }
  /**
   * A child has ended unexpectedly. The request that it had begun is lost: its connection is reset, and it is
   * reported as `error` and `end`. A request that it had not begun goes to another child.
   */
  | {
      readonly type: "lost";
      readonly server: string;
      /** `null` if the system could not start it. */
      readonly pid: number | null;
      /** Its exit code; `null` if a signal ended it. */
      readonly code: number | null;
      readonly signal: string | null;
      readonly requests: readonly { readonly id: number; readonly address: Address | null }[];
      /** Why: `ETIMEDOUT` for an endless loop, `ERR_HANDLER` for an uncaught error or a module that cannot be imported, otherwise `ECONNABORTED`. */
      readonly error: SocketError;
      /** How long its place stays empty; `null` if it gets no successor. */
      readonly delay: number | null;
    }
  /** A child that was no longer needed has ended. */
  | { readonly type: "reaped"; readonly server: string; readonly pid: number };

/** The events of a pool, besides those of each connection's handler (`begin`, `handler`, `end`). */
export type PoolEvent =
  /** A connection could not be dialled or logged in, or was lost before it had answered a call; the next is dialled after `delay` ms. */
  | { readonly type: "dialFailed"; readonly server: string; readonly error: unknown; readonly delay: number }
  /** A connection takes no more calls; it has `answered` this many. */
  | {
      readonly type: "connectionEnded";
      readonly server: string;
      /** `lost`: by the server or the network. `idle`, `age`: its limit. `cut`: a call on it was given up. `lease`: it came back from a lease and could not be used again. */
      readonly reason: "lost" | "idle" | "age" | "cut" | "lease" | "closed";
      readonly answered: number;
      /** What went wrong; absent if nothing did. */
      readonly error?: unknown;
    };

/** One thing that happened. Times are milliseconds, sizes bytes. */
export type SockletEvent =
  | ForkingEvent
  | PoolEvent
  /** The server listens. */
  | (Told & { readonly type: "listening"; readonly address: Address | null })
  /** A request was turned away before a handler was made. */
  | (Told & {
      readonly type: "refused";
      readonly address: Address | null;
      readonly reason: Refusal;
      /** What was wrong, where the reason alone does not say it. */
      readonly error?: SocketError;
    })
  /** A proxy checked whether the server is there: with a header that says so (`LOCAL`), or with a connection that sent nothing (`address` is `null` if it was gone already). No handler began. */
  | (Told & { readonly type: "checked"; readonly address: Address | null })
  /**
   * A TLS handshake, which began with the connection, has ended. If it failed, no handler is made, and `error` says why:
   * `ERR_TLS`, or `ETIMEDOUT` after `handshakeTimeout`. In a forking server a child does the handshake.
   */
  | (Told & {
      readonly type: "handshake";
      readonly address: Address | null;
      readonly duration: number;
      /** `"TLSv1.3"`; `null` if it failed. */
      readonly version: string | null;
      /** Whether an earlier session was resumed. */
      readonly resumed: boolean;
      readonly error: SocketError | null;
    })
  /**
   * The listener's certificates were replaced, by `replaceCertificate()` or because their files have changed. Or the new ones cannot be
   * used: then `error` says why, and the old ones stay.
   */
  | (Told & {
      readonly type: "certificate";
      /** The certificates that are in use from now on. */
      readonly certificates: readonly {
        readonly subject: string;
        readonly fingerprint256: string;
        readonly validTo: Date;
      }[];
      readonly error: unknown;
    })
  /** A handler begins. */
  | (OfRequest & { readonly type: "begin" })
  /** The request has ended, and its connection is closed. */
  | (OfRequest & {
      readonly type: "end";
      readonly duration: number;
      readonly bytesRead: number;
      readonly bytesWritten: number;
      readonly failed: boolean;
    })
  /** A handler, a hook or the transport failed; `id` is absent if no request had begun. */
  | (Told & {
      readonly type: "error";
      readonly id?: number;
      readonly address: Address | null;
      readonly error: unknown;
    })
  /** The request exceeded a time limit, `timeout` ms, and is aborted. */
  | (OfRequest & {
      readonly type: "timeout";
      readonly limit: "requestTimeout" | "idleTimeout";
      readonly timeout: number;
    })
  /** This request was aborted a second ago, and has not ended yet. */
  | (OfRequest & { readonly type: "stuck" })
  /**
   * A datagram of `bytes` that a handler sent back was not sent: its address has had its share (`amplification`), or too many already wait to be
   * sent (`full`). Also reported for a datagram that arrived, if faults already delay too many (`full`).
   */
  | (Told & {
      readonly type: "dropped";
      readonly address: Address | null;
      readonly bytes: number;
      readonly reason: "amplification" | "full";
    })
  /** What a handler emitted with `this.emit(detail)`. */
  | (OfRequest & { readonly type: "handler"; readonly detail: unknown })
  /** A fault rule did something to what one side sent on the server's or the entry's nth `connection`; in the emulator. */
  | (Told & {
      readonly type: "fault";
      readonly rule: string;
      readonly fault: FaultName;
      readonly from: Speaker;
      readonly connection: number;
    })
  /** An app that is held to the rules of Cloudflare's edge in the emulator (`edge`) broke one; `message` says how. */
  | (Told & {
      readonly type: "edge";
      readonly rule: EdgeRuleName;
      readonly message: string;
      readonly page: string;
      readonly date: string;
      readonly known: EdgeRule["known"];
    })
  /** `suspend(how)` was called: from now on, new requests are held or refused. */
  | (Told & { readonly type: "suspended"; readonly how: "hold" | "refuse" })
  /** `resume()` was called: `waiting` requests were held. */
  | (Told & { readonly type: "resumed"; readonly waiting: number })
  /** Running requests have `timeout` ms to end. */
  | (Told & { readonly type: "draining"; readonly running: number; readonly timeout: number })
  /** The server no longer listens, and none of its requests run; or, if it does not wait for them (`blockOnClose`), `running` of them continue. */
  | (Told & {
      readonly type: "closed";
      /** How long it listened. */
      readonly duration: number;
      readonly running: number;
      readonly served: number;
      readonly failed: number;
      readonly refused: number;
      readonly bytesRead: number;
      readonly bytesWritten: number;
    });
