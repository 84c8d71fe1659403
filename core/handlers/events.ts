/**
 * What a server or a connector tells. The library prints nothing: it calls `onEvent`, and the command line,
 * a log or a test listens there.
 */

import { describe, errorText, printable } from "../describe.ts";
import { SocketError } from "../errors.ts";
import type { Address } from "../net/address.ts";
import type { EdgeRule, EdgeRuleName } from "../net/edge.ts";
import { attempt, disown } from "../promises.ts";
import type { FaultName, Speaker } from "./fault-rule.ts";

/** What a server or connector says of itself. */
export interface EndpointInfo {
  readonly name: string;
  /** Requests whose handler runs now. */
  readonly running: number;
  /** Requests whose handler has ended, well or not. */
  readonly served: number;
  /** Those of them whose handler threw. */
  readonly failed: number;
  /** Bytes that they received, and that they sent; those of a request count when it is over. */
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/**
 * Told of every event. What it throws, or rejects with where it is async, harms no request and ends no process: it is
 * told as one more event, of type `error`. Of a listener that fails at that, too, the first failure is printed by
 * `console.error`, since nobody is left to be told.
 */
export type OnEvent = (event: SockletEvent) => void;

const broken = new WeakSet<object>(); // listeners whose failure has been printed

/** Prints, once for each `whose`, that its listener fails even when it is told about that. */
export const reportBroken = (whose: object, error: unknown): void => {
  if (broken.has(whose)) return;
  broken.add(whose);
  const { stack = errorText(error) } = describe(error);
  console.error(
    printable(`socklet: the event listener throws, even for the event that reports this: ${stack}`, true),
  );
};

/** Tells `listener` that the telling of `event` failed with `error`. Never throws. */
export const tellFailure = (listener: OnEvent, event: SockletEvent, error: unknown): void => {
  disown(error, () => {}); // if a promise was thrown, nothing more can be said of it
  if (event.type === "error") {
    reportBroken(listener, error);
    return;
  }
  const what = `the event listener threw for an event of type "${event.type}": ${errorText(error)}`;
  const failed = new SocketError("ERR_HANDLER", what, { cause: error });
  callListener(listener, { type: "error", server: event.server, address: null, error: failed });
};

/** Calls `listener`; if it fails, tells it about that. Never throws. */
export const callListener = (listener: OnEvent, event: SockletEvent): void =>
  attempt(
    () => listener(event),
    (error) => tellFailure(listener, event, error),
  );

interface Told {
  /** The name of the server or connector that tells. */
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
  /** `verifyRequest` said no. */
  | "verify"
  /** Too many wait, or as many are served as may be. */
  | "full"
  /** The server closes. */
  | "closing"
  /** It is suspended, and refuses. */
  | "suspended"
  /** Its address may not come: the option `access`. */
  | "access"
  /** Its address comes too often: the option `rate`. */
  | "rate"
  /** Its address has as many as it may have at once: the option `maxRequestsPerAddress`. */
  | "address"
  /** It sent no PROXY protocol header, a wrong one, or may send none: the option `proxyProtocol`; the event's `error` says which. */
  | "proxy"
  /** As many TLS handshakes go on as may (`maxHandshakes`), and as many wait for theirs. */
  | "handshakes"
  /** The process has hardly a file descriptor left. */
  | "descriptors"
  /** The app has no listener for it. */
  | "no listener";

/** What a forking server tells beside a server's own events. */
export type ForkingEvent =
  /** A child has imported its handler, and takes requests; `delay` is how long its place was empty where it replaces a lost one, else `null`. */
  | { readonly type: "forked"; readonly server: string; readonly pid: number; readonly delay: number | null }
  /**
   * A child is gone that was not to go. The request that it had begun is lost: its connection is reset, and it is
   * told as `error` and `end`. One that it had not begun another child gets.
   */
  | {
      readonly type: "lost";
      readonly server: string;
      /** `null` where the system could not start it. */
      readonly pid: number | null;
      /** Its exit code; `null` where a signal ended it. */
      readonly code: number | null;
      readonly signal: string | null;
      readonly requests: readonly { readonly id: number; readonly address: Address | null }[];
      /** Why: `ETIMEDOUT` an endless loop, `ERR_HANDLER` an error that nobody caught or a module that cannot be imported, else `ECONNABORTED`. */
      readonly error: SocketError;
      /** How long its place stays empty; `null` where it gets no successor. */
      readonly delay: number | null;
    }
  /** A child is gone that was needed no more. */
  | { readonly type: "reaped"; readonly server: string; readonly pid: number };

/** What a pool tells, beside what is told of each connection's handler (`begin`, `handler`, `end`). */
export type PoolEvent =
  /** A connection could not be dialled or logged in, or was lost before it had answered a call; the next is dialled after `delay` ms. */
  | { readonly type: "dialFailed"; readonly server: string; readonly error: unknown; readonly delay: number }
  /** A connection takes no more calls; it had `answered` so many. */
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
  /** A proxy looked whether the server is there: by a header that says so (`LOCAL`), or by a connection that said nothing (`address` is `null` where it was gone already). No handler began. */
  | (Told & { readonly type: "checked"; readonly address: Address | null })
  /**
   * A TLS handshake is over, which began with the connection; one that failed costs no handler, and `error` says why:
   * `ERR_TLS`, or `ETIMEDOUT` after `handshakeTimeout`. In a forking server it is a child's.
   */
  | (Told & {
      readonly type: "handshake";
      readonly address: Address | null;
      readonly duration: number;
      /** `"TLSv1.3"`; `null` where it failed. */
      readonly version: string | null;
      /** Whether an earlier session was resumed. */
      readonly resumed: boolean;
      readonly error: SocketError | null;
    })
  /**
   * The listener's certificates were replaced, by `replaceCertificate()` or because their files have changed; or what came in their
   * place cannot be used, `error` says why, and the former ones stay.
   */
  | (Told & {
      readonly type: "certificate";
      /** Those that are in use from now on. */
      readonly certificates: readonly {
        readonly subject: string;
        readonly fingerprint256: string;
        readonly validTo: Date;
      }[];
      readonly error: unknown;
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
  /** The request passed a limit of time, which is `timeout` ms, and is aborted. */
  | (OfRequest & {
      readonly type: "timeout";
      readonly limit: "requestTimeout" | "idleTimeout";
      readonly timeout: number;
    })
  /** This request was aborted a second ago, and still does not end. */
  | (OfRequest & { readonly type: "stuck" })
  /**
   * A datagram of `bytes` that a handler sent back was not sent: its address had its share (`amplification`), or too many wait to be
   * sent already (`full`). Also one that came, where faults hold up too many already (`full`).
   */
  | (Told & {
      readonly type: "dropped";
      readonly address: Address | null;
      readonly bytes: number;
      readonly reason: "amplification" | "full";
    })
  /** What a handler said with `this.emit(detail)`. */
  | (OfRequest & { readonly type: "handler"; readonly detail: unknown })
  /** A rule of faults did something to what one side said on the server's or the entry's nth `connection`; in the emulator. */
  | (Told & {
      readonly type: "fault";
      readonly rule: string;
      readonly fault: FaultName;
      readonly from: Speaker;
      readonly connection: number;
    })
  /** A rule of Cloudflare's edge was met, in the emulator, by an app that is held to them (`edge`); `message` says by what. */
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
  /** `resume()` was called: `waiting` were held. */
  | (Told & { readonly type: "resumed"; readonly waiting: number })
  /** What runs has `timeout` ms to end. */
  | (Told & { readonly type: "draining"; readonly running: number; readonly timeout: number })
  /** The server no longer listens, and none of its requests run; or, if it does not wait for them (`blockOnClose`), `running` go on. */
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
