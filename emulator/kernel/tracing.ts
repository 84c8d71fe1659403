/**
 * What takes time in the emulator, on tracing channels of `node:diagnostics_channel`: `tracingChannel("socklet.request")`,
 * `"socklet.connect"` and `"socklet.handshake"`. Each publishes `start`, `end`, `asyncStart`, `asyncEnd` and `error` with one object
 * for one operation, which has its `result` or its `error` at the end; a store that is bound to `start` (`bindStore`) holds
 * in all that a handler does. A channel without subscribers costs a look at it.
 */

import type { TracingChannel } from "node:diagnostics_channel";
import type { Address } from "../../core/net/address.ts";
import type { Datagram } from "../../core/sockets/datagram.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import type { TlsInfo } from "../../core/sockets/tls/tls.ts";
import type { StreamTransport } from "../../core/sockets/transport.ts";
import { tracingChannel } from "../builtin.ts";

interface Traced<Result> {
  /** What it gave; at `asyncEnd`, where it did not fail. */
  readonly result?: Result;
  /** What it threw, from `error` on. */
  readonly error?: unknown;
}

/** A handler's work on one request, on the channel `socklet.request`: of a server what it accepted, of a connector what it dialled. That of a forking server's child is told by the parent, where a bound store holds in no handler: it runs in the child. */
export interface TracedRequest extends Traced<unknown> {
  /** The name of the server or connector. */
  readonly server: string;
  /** Who opened the connection: a server's requests are `"server"`, a connector's `"client"`. */
  readonly role: "server" | "client";
  /** Its number there, as in the events. */
  readonly id: number;
  /** The peer, or whom a proxy speaks for; `null` where that is not told. */
  readonly address: Address | null;
  /** Where the server listens; of a connector its own end. */
  readonly local: Address | null;
  /** The connection or the datagram. */
  readonly request: StreamSocket | Datagram;
}

/** One dialling, with its TLS, on the channel `socklet.connect`. */
export interface TracedConnect extends Traced<StreamTransport> {
  /** What is dialled: `tcp://host:port`, `unix:/run/name`. */
  readonly address: string;
}

/** One TLS handshake, on the channel `socklet.handshake`: of a listener, of what dials, or of a handler's `startTls()`. That of a forking server's child is told by the parent, without the certificate. */
export interface TracedHandshake extends Traced<TlsInfo> {
  readonly role: "server" | "client";
  /** The other end of the connection; `null` where it is gone, or has no address. */
  readonly address: Address | null;
}

export const requests: TracingChannel<unknown, TracedRequest> = tracingChannel("socklet.request");
export const connects: TracingChannel<unknown, TracedConnect> = tracingChannel("socklet.connect");
export const handshakes: TracingChannel<unknown, TracedHandshake> = tracingChannel("socklet.handshake");

/** Runs `work`, told on `channel`; it is not to be called where nobody listens there. Rejects with what `work` throws. */
export const traced = <Context extends object, Result>(
  channel: TracingChannel<unknown, Context>,
  context: Context,
  work: () => Result | PromiseLike<Result>,
): Promise<Result> => channel.tracePromise(async () => work(), context);
