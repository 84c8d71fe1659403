/** The messages between a forking server and its children. */

import { describe, isA, jsonOf, peek, textOf } from "../../../../core/describe.ts";
import { SocketError } from "../../../../core/errors.ts";
import type { PoolInfo } from "../../../../core/handlers/client.ts";
import type { Address, Endpoint, UnixAddress } from "../../../../core/net/address.ts";
import type { ProxyHeader } from "../../../../core/net/proxy/header.ts";
import type { StreamOptions } from "../../../../core/sockets/streams/stream-options.ts";
import type { ServerTlsOptions, TlsInfo } from "../../../../core/sockets/tls/tls.ts";
import type { Passed } from "./child-tap.ts";
import type { HandlerSource } from "./handler-source.ts";

/** How a child secures connections: the certificates, already read, and the handlers of the protocols that ALPN may choose. */
export interface ChildTls {
  readonly tls: ServerTlsOptions;
  /** Whether connections are secured from their first byte. */
  readonly on: boolean;
  readonly protocols: Readonly<Record<string, HandlerSource>>;
}

/** The addresses that pools dial once the app listens: the actual endpoint by the address in the app, for those that differ. */
export type PoolsAt = Readonly<Record<string, Endpoint>>;

/** To a child. `run` comes with the connection, if it is one. */
export type Order =
  | {
      readonly type: "init";
      readonly source: HandlerSource;
      readonly server: string;
      readonly context: unknown;
      readonly stream: Partial<StreamOptions> | undefined;
      readonly security: ChildTls | null;
      /** `null`: not known yet; the message `pools` has them. */
      readonly poolsAt: PoolsAt | null;
    }
  /** The child's pools can be used. It comes before the first `run`. */
  | { readonly type: "pools"; readonly at: PoolsAt }
  /** The certificates to use from now on. */
  | { readonly type: "certificate"; readonly tls: ServerTlsOptions }
  | {
      readonly type: "run";
      readonly id: number;
      readonly address: Address | null;
      /** The local address of a Unix connection, which the child cannot find out. */
      readonly local: UnixAddress | null;
      /** What the parent has read of the connection, which the child must read first. */
      readonly read: Uint8Array | null;
      /** The header that its proxy sent. */
      readonly proxy: ProxyHeader | null;
      readonly datagram: { readonly data: Uint8Array; readonly truncated: boolean } | null;
      /** Whether the child reports the traffic of the connection. */
      readonly tapped: boolean;
    }
  /** Starts or stops reports of the traffic of request `id`'s connection. */
  | {
      readonly type: "tap";
      readonly id: number;
      readonly on: boolean;
      /** How many bytes are known to have passed. */
      readonly known: number;
    }
  | { readonly type: "cancel"; readonly reason: WireError }
  | { readonly type: "ping" };

/** From a child, as `{ socklet: … }`, since a handler may send its parent messages, too. `id` is that of a request, which may be over. */
export type Report =
  | { readonly type: "ready" | "begun" | "shutdown" }
  | { readonly type: "unfit" | "crashed"; readonly error: WireError }
  | ({ readonly type: "pong"; readonly id: number | null } & Counts)
  /** `kept`: the handler closed the connection itself, or handed it over (`toWeb()`, `detach()`). `cut`: some of what it wrote was lost. */
  | ({
      readonly type: "end";
      readonly kept: boolean;
      readonly cut: boolean;
      readonly error: WireError | null;
      readonly result: unknown;
    } & Counts)
  /** The request's TLS handshake is over. `tls`: its result, without the certificate; `null` if it failed. */
  | {
      readonly type: "handshake";
      readonly id: number;
      readonly duration: number;
      readonly tls: Omit<TlsInfo, "certificate"> | null;
      readonly error: WireError | null;
    }
  /** Something passed over the connection of the request. */
  | { readonly type: "passed"; readonly id: number; readonly passed: Passed }
  | { readonly type: "emit"; readonly id: number; readonly detail: unknown }
  /** The infos of its pools. */
  | { readonly type: "pools"; readonly pools: readonly PoolInfo[] }
  | { readonly type: "reply"; readonly id: number; readonly data: Uint8Array }
  /** Replies of these sizes were not sent: the channel had no room for them. */
  | { readonly type: "dropped"; readonly id: number; readonly sizes: readonly number[] };

export interface Counts {
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** Something thrown, as it is sent to another process: a structured clone of an error loses its class and code. */
export interface WireError {
  /** What was thrown, if it was not an error. */
  readonly value?: unknown;
  readonly name?: string;
  readonly message?: string;
  readonly stack?: string | undefined;
  readonly code?: string | undefined;
  readonly address?: string | undefined;
  readonly cause?: WireError | undefined;
}

const SAID = 8 * 1024; // characters of a message or a stack that are sent: a dying child's last report must fit into the channel's 64 KiB
const CAUSES = 2; // how far causes are followed: they may be circular

export const toWire = (thrown: unknown, causes = CAUSES): WireError => {
  if (!isA(thrown, Error)) return { value: cloneOf(thrown) };
  const cause = peek(thrown, "cause");
  return {
    ...describe(thrown, SAID),
    cause: cause === undefined || causes === 0 ? undefined : toWire(cause, causes - 1),
  };
};

/** A clone of `value`, if it is small and can be cloned; otherwise its text. */
const cloneOf = (value: unknown): unknown => {
  try {
    if (jsonOf(value, SAID).json !== undefined) return structuredClone(value);
  } catch {}
  return textOf(value, SAID);
};

export const fromWire = (wire: WireError): unknown => {
  const { name, message = "", stack, code, address } = wire;
  if (name === undefined) return wire.value;
  const cause = wire.cause && { cause: fromWire(wire.cause) };
  let error: Error;
  if (name === "SocketError" && SocketError.isCode(code)) {
    error = new SocketError(code, message.replace(`${code}: `, ""), { address, ...cause });
  } else {
    const known: Readonly<Record<string, ErrorConstructor>> = { TypeError, RangeError, SyntaxError };
    error = new ((Object.hasOwn(known, name) && known[name]) || Error)(message, cause);
    if (error.name !== name) Object.defineProperty(error, "name", { value: name, configurable: true });
    if (code !== undefined) Object.assign(error, { code });
  }
  error.stack = stack ?? `${name}: ${message}`;
  return error;
};

/** Set on the global object of a child: in a child no forking server may start, nor a module that starts one when it is imported. */
export const IN_CHILD = Symbol.for("socklet.forked");
