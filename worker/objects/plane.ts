/// <reference types="@cloudflare/workers-types" />
/** The control plane of a Worker. Its sessions are Durable Objects, so any request can reach them. */

import type { App, Listener } from "../../core/app/app.ts";
import { readEvents } from "../../core/control/http/sse.ts";
import type { ListenerLog } from "../../core/control/listeners.ts";
import {
  type ControlPlane,
  type Health,
  isOver,
  type ListenerEvent,
  type ListenerInfo,
  newSessionId,
  type SessionEvent,
  type SessionInfo,
  type SessionPage,
  type SessionQuery,
  type SessionSpec,
  sessionTarget,
} from "../../core/control/plane.ts";
import { SocketError } from "../../core/errors.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import { type AllowList, platformRefusal } from "../../core/net/access.ts";
import { type Endpoint, formatAddress } from "../../core/net/address.ts";
import {
  again,
  missingBindings,
  registryOf,
  type SessionCalls,
  type SockletBindings,
  sessionOf,
  settled,
} from "./bindings.ts";
import type { WorkerMetrics } from "./metrics.ts";
import type { PoolAccess } from "./platform.ts";

const MAX_BREAKS = 3; // in a row, without an event in between; then give up
const SMTP = 25; // refused on the edge whatever the address is (core/net/access.ts)

/**
 * Throws `ERR_UNSUPPORTED` for what no Worker can dial. A private address is not refused here: the edge refuses it, but `wrangler
 * dev` on your machine does not, and the app's rules name it. The error of a failed dial explains it.
 */
export const checkPlatform = (endpoint: Endpoint): void => {
  const refusal = platformRefusal(endpoint);
  if (refusal !== null && (!("port" in endpoint) || endpoint.port === SMTP || endpoint.scheme === "udp")) {
    throw new SocketError("ERR_UNSUPPORTED", refusal, { address: formatAddress(endpoint) });
  }
};

/** Options of a Worker's control plane. */
export interface WorkerPlaneSetup {
  readonly app: App;
  readonly allow: AllowList;
  /** The bindings of the request that the plane belongs to. */
  readonly env: SockletBindings;
  /** The listeners of this isolate. */
  listeners(): readonly ListenerInfo[];
  /** Their events. */
  readonly told: ListenerLog;
  /** The server of one of the app's listeners in this isolate, which is made on first use. Rejects as the app's `context` does. */
  serverFor(listener: Listener, env: unknown): Promise<unknown>;
  /** The app's pools. */
  readonly pools: PoolAccess | undefined;
  /** The code of metrics, if the Worker includes it. */
  readonly metrics: WorkerMetrics | undefined;
}

/** A control plane over Durable Objects. */
export class WorkerPlane implements ControlPlane {
  readonly #setup: WorkerPlaneSetup;

  constructor(setup: WorkerPlaneSetup) {
    this.#setup = setup;
  }

  health(): Health {
    const listeners = this.listeners();
    return {
      listeners: listeners.length,
      running: listeners.reduce((sum, { running }) => sum + running, 0),
    };
  }

  ready(): readonly string[] {
    const { env, pools } = this.#setup;
    return [...missingBindings(env), ...(pools?.missing(env) ?? [])];
  }

  listeners(): readonly ListenerInfo[] {
    return this.#setup.listeners();
  }

  async metrics(): Promise<string | null> {
    const { env, metrics } = this.#setup;
    return metrics === undefined ? null : metrics.text(env, await this.pools());
  }

  /** Asks every object of every pool, and so creates those that do not exist yet. */
  async pools(): Promise<readonly PoolInfo[]> {
    const { env, pools } = this.#setup;
    return (await pools?.infos(env)) ?? [];
  }

  /** Only the events that this isolate has kept, because a request must not wait for another one. */
  listenerEvents(after: number): AsyncIterable<ListenerEvent> {
    return this.#setup.told.kept(after);
  }

  async start(spec: SessionSpec): Promise<SessionInfo> {
    const { app, allow } = this.#setup;
    checkPlatform(sessionTarget(app, spec, allow).endpoint);
    const id = newSessionId();
    return settled(await this.#ask(id, (session) => session.start(id, spec)));
  }

  wait(id: string, ms: number): Promise<SessionInfo | null> {
    return this.#ask(id, (session) => session.wait(ms));
  }

  async list(query: SessionQuery): Promise<SessionPage> {
    return again(() => registryOf(this.#setup.env).list(query), "the registry of sessions");
  }

  get(id: string): Promise<SessionInfo | null> {
    return this.#ask(id, (session) => session.info());
  }

  async events(id: string, after: number, signal: AbortSignal): Promise<AsyncIterable<SessionEvent> | null> {
    const first = await this.#ask(id, (session) => session.events(after));
    return first && this.#follow(id, first, after, signal);
  }

  /** Not repeated if it fails, because the bytes may have been sent. The error says what happened to the session. */
  async send(id: string, bytes: Uint8Array): Promise<SessionInfo | null> {
    const session = sessionOf(this.#setup.env, id);
    let given: Awaited<ReturnType<typeof session.send>>;
    try {
      given = await session.send(bytes);
    } catch (cause) {
      const info = await this.get(id);
      if (info === null) return null;
      const perhaps = "the bytes may have been sent, or not: its events say so";
      throw isOver(info.state)
        ? new SocketError("ENOTCONN", `the session is ${info.state}; ${perhaps}`, { cause })
        : new SocketError("ERR_PLATFORM", `the session ${id} did not answer; ${perhaps}`, { cause });
    }
    return settled(given);
  }

  async halfClose(id: string): Promise<SessionInfo | null> {
    return settled(await this.#ask(id, (session) => session.halfClose()));
  }

  end(id: string, graceful?: boolean): Promise<SessionInfo | null> {
    return this.#ask(id, (session) => session.end(graceful));
  }

  #ask<T>(id: string, ask: (session: SessionCalls) => Promise<T>): Promise<T> {
    return again(() => ask(sessionOf(this.#setup.env, id)), `the session ${id}`);
  }

  /** If the object is lost, its stream breaks or ends too early. Its successor has the remaining events: that it was cut. */
  async *#follow(
    id: string,
    first: ReadableStream<Uint8Array>,
    after: number,
    signal: AbortSignal,
  ): AsyncGenerator<SessionEvent, void, undefined> {
    let last = after;
    let whole = false; // the session was over before the stream was asked for, so the stream has everything
    let stream: ReadableStream<Uint8Array> | null = first;
    for (let breaks = 0; stream !== null && breaks < MAX_BREAKS; breaks++) {
      let broke = false;
      try {
        for await (const event of readEvents(stream, signal)) {
          last = event.id;
          breaks = 0;
          yield event;
          if (isOver(event.type)) return;
        }
      } catch {
        broke = true;
      }
      if (signal.aborted || (whole && !broke)) return;
      const info = await this.get(id);
      whole = info !== null && isOver(info.state);
      stream = await this.#ask(id, (session) => session.events(last));
    }
  }
}
