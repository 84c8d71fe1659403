/**
 * The emulator's tracing channels of `node:diagnostics_channel`: `tracingChannel("socklet.request")`, `"socklet.connect"` and
 * `"socklet.handshake"`. Each publishes `start`, `end`, `asyncStart`, `asyncEnd` and `error` with one object per operation, which
 * has its `result` or its `error` at the end. A store bound to `start` (`bindStore`) is current in everything that a handler does.
 * A channel without subscribers costs one check.
 */

import type { TracingChannel } from "node:diagnostics_channel";
import type { Address } from "../../core/net/address.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { TlsInfo } from "../../core/sockets/tls/tls.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import { tracingChannel } from "../builtin.ts";

interface Traced<Result> {
  /** Its result, at `asyncEnd`, if it did not fail. */
  readonly result?: Result;
  /** What it threw, from `error` on. */
  readonly error?: unknown;
}

/** A handler's work on one request, on the channel `socklet.request`: a connection that a server accepted or a connector dialled. For a forking server the parent publishes it; a bound store then reaches no handler, since handlers run in the child. */
export interface TracedRequest extends Traced<unknown> {
  /** The name of the server or connector. */
  readonly server: string;
  /** This side's role: `"server"` for a server's requests, `"client"` for a connector's. */
  readonly role: "server" | "client";
  /** Its number there, as in the events. */
  readonly id: number;
  /** The peer, or the client that a proxy speaks for; `null` if that is unknown. */
  readonly address: Address | null;
  /** Where the server listens; for a connector its local address. */
  readonly local: Address | null;
  /** The connection or the datagram. */
  readonly request: StreamSocket | Datagram;
}

/** One dial, including TLS, on the channel `socklet.connect`. */
export interface TracedConnect extends Traced<StreamTransport> {
  /** What is dialled: `tcp://host:port`, `unix:/run/name`. */
  readonly address: string;
}

/** One TLS handshake, on the channel `socklet.handshake`: of a listener, of a connector, or of a handler's `startTls()`. For a forking server the parent publishes it, without the certificate. */
export interface TracedHandshake extends Traced<TlsInfo> {
  readonly role: "server" | "client";
  /** The peer's address; `null` if the peer is gone, or has none. */
  readonly address: Address | null;
}

export const requests: TracingChannel<object, TracedRequest> = tracingChannel("socklet.request");
export const connects: TracingChannel<object, TracedConnect> = tracingChannel("socklet.connect");
export const handshakes: TracingChannel<object, TracedHandshake> = tracingChannel("socklet.handshake");

/** Runs `work`, traced on `channel`. Call it only if the channel has subscribers. Rejects with what `work` throws. */
export const traced = <Context extends object, Result>(
  channel: TracingChannel<object, Context>,
  context: Context,
  work: () => Result | PromiseLike<Result>,
): Promise<Result> => channel.tracePromise(async () => work(), context);
