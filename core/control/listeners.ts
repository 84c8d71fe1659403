/**
 * `ListenerLog`: the last events of an app's servers, as the control routes show them: in the emulator those of the
 * process, in a Worker those of one isolate.
 */

import { type Json, plain } from "../describe.ts";
import { errorInfo, type SocketError } from "../errors.ts";
import type { SockletEvent } from "../handlers/events.ts";
import { type Address, formatAddress } from "../net/address.ts";
import { EventLog } from "./event-log.ts";
import { type ListenerEvent, SESSION_LIMITS } from "./plane.ts";
import { type Redactor, redacted, redactor } from "./redact.ts";

/** An event as it is kept. It becomes JSON only when somebody reads it, since most are never read. */
interface Kept {
  readonly id: number;
  readonly at: number;
  readonly event: SockletEvent;
}

/** The last 1 000 events of an app's servers, and their followers. */
export class ListenerLog {
  readonly #log = new EventLog<Kept>(() => 0);
  readonly #redact: Redactor;

  /** `secrets`: texts that no event may show. */
  constructor(secrets: readonly string[] = []) {
    this.#redact = redactor(secrets);
  }

  /** Adds an event. Pass this to a server as its `onEvent`. */
  readonly tell = (event: SockletEvent): void => {
    this.#log.add((id) => ({ id, at: Date.now(), event: lasting(event) }));
  };

  /** No more events will come: followers end after the last one. */
  end(): void {
    this.#log.end();
  }

  /** The kept events with ids above `after`, then new ones as they come, until `signal` aborts or the log ends. */
  async *follow(after: number, signal?: AbortSignal): AsyncGenerator<ListenerEvent, void, undefined> {
    for await (const kept of this.#log.follow(after, signal)) yield this.#shown(kept);
  }

  /** The events with ids above `after` that are kept now. */
  async *kept(after: number): AsyncGenerator<ListenerEvent, void, undefined> {
    for (const kept of this.#log.kept) if (kept.id > after) yield this.#shown(kept);
  }

  #shown({ id, at, event }: Kept): ListenerEvent {
    const { type, server, ...more } = event;
    const shown = Object.fromEntries(
      Object.entries(more).map(([name, value]) => [shownAs(name), asJson(name, value)]),
    );
    const rest = redacted(shown, this.#redact) as Readonly<Record<string, Json>>;
    return { id, at: new Date(at).toISOString(), type, server, ...rest };
  }
}

/** `event` without references to what a handler may change later, or to much memory. */
const lasting = (event: SockletEvent): SockletEvent => {
  if (event.type === "handler") return { ...event, detail: plain(event.detail, SESSION_LIMITS.detailSize) };
  if (!("error" in event)) return event;
  return {
    ...event,
    error: errorInfo(event.error, "ERR_HANDLER", SESSION_LIMITS.messageSize) as SocketError,
  };
};

// The event has an id of its own.
const shownAs = (name: string): string => (name === "id" ? "request" : name);

const asJson = (name: string, value: unknown): Json => {
  if (name === "address") return value === null ? null : formatAddress(value as Address);
  if (name === "requests") {
    const requests = value as readonly { readonly id: number; readonly address: Address | null }[];
    return requests.map(({ id, address }) => ({ request: id, address: asJson("address", address) }));
  }
  return plain(value, SESSION_LIMITS.detailSize);
};
