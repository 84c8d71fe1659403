/** The messages between a cluster's primary and its workers. */

import type { SockletEvent } from "../../core/handlers/events.ts";
import type { CertificateOptions } from "../../core/sockets/tls/tls.ts";
import type { Serving } from "../app/app-server.ts";
import { fromWire, toWire, type WireError } from "../servers/forking/channel/messages.ts";

/** How a worker serves. */
export interface WorkerSettings {
  /** From 1. */
  readonly number: number;
  /** The URL of the module that exports the app. */
  readonly module: string;
  readonly data: string | undefined;
  readonly drainTimeout: number | undefined;
  readonly certificate: CertificateOptions | undefined;
  readonly ticketKeys: Uint8Array;
  /** Its descriptors, with the places of their listeners in the app's list. */
  readonly descriptors: readonly { readonly name: string; readonly fd: number; readonly place: number }[];
  /** Where the app's listeners listen instead of at their own addresses, as in `ServeOptions`. */
  readonly host: string | undefined;
  /** The texts that no record of a session may show; `null`: it has no control plane. */
  readonly secrets: readonly string[] | null;
  /** Which events it sends. */
  readonly events: "all" | "rare" | "none";
  /** Whether it runs the dialled sessions. */
  readonly dials: boolean;
  /** Whether another process still keeps the lasting sessions: `free` is sent when it no longer does. */
  readonly waits: boolean;
}

/** To a worker. */
export type Order =
  | ({ readonly type: "init" } & WorkerSettings)
  /** One call of its control plane, or of a stream that such a call returned. */
  | { readonly type: "call"; readonly id: number; readonly method: string; readonly args: readonly unknown[] }
  | { readonly type: "free" | "reload" | "close" | "handOver" | "abort" };

/** A listener that is open. */
export type Listed = Omit<Serving, "info">;

/** From a worker, as `{ socklet: … }`: a handler may send messages, too. */
export type Report =
  | { readonly type: "ready"; readonly listeners: readonly Listed[]; readonly secured: number }
  /** It cannot serve. */
  | { readonly type: "unfit"; readonly error: WireError }
  | { readonly type: "event"; readonly event: SockletEvent; readonly error: WireError | undefined }
  /** An error was not caught: the worker stops accepting, finishes its requests, and ends. */
  | { readonly type: "failing"; readonly error: WireError }
  /** It no longer keeps the lasting sessions. */
  | { readonly type: "released" }
  | {
      readonly type: "answer";
      readonly id: number;
      readonly value?: unknown;
      readonly error?: WireError | undefined;
    }
  /** It has drained, and cut off this many requests. */
  | { readonly type: "over"; readonly cut: number };

/** Events of which there is one or more for each request. */
const OF_REQUESTS: ReadonlySet<SockletEvent["type"]> = new Set([
  "begin",
  "end",
  "handler",
  "checked",
  "dropped",
]);

/** Whether an event is sent when only rare ones are. */
export const isRare = (event: SockletEvent): boolean =>
  !(OF_REQUESTS.has(event.type) || (event.type === "handshake" && event.error === null));

/** An event as it is sent: a clone of an error would lose its class. */
export const eventToWire = (event: SockletEvent): Extract<Report, { readonly type: "event" }> => {
  if (!("error" in event) || event.error == null) return { type: "event", event, error: undefined };
  return { type: "event", event: { ...event, error: null } as SockletEvent, error: toWire(event.error) };
};

export const eventFromWire = ({ event, error }: Extract<Report, { readonly type: "event" }>): SockletEvent =>
  error === undefined ? event : ({ ...event, error: fromWire(error) } as SockletEvent);
