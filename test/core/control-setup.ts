/** A control plane in memory: handlers that dial servers which are in memory, too. What the control tests share. */

import type { Hono } from "hono";
import { type App, defineApp } from "../../core/app/app.ts";
import {
  controlRoutes,
  ListenerLog,
  LocalPlane,
  type LocalPlaneOptions,
  listenerInfo,
  openApi,
  Recorder,
  recordingRoutes,
  type SessionEvent,
  type SessionTarget,
} from "../../core/control/index.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { DatagramRequestHandler, StreamRequestHandler } from "../../core/handlers/handler.ts";
import { BaseConnector } from "../../core/serve/connector.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { memoryPair, ThreadingMemoryServer } from "../../core/testing/index.ts";

/** Sends its params, gives the line that comes back. */
class Ask extends StreamRequestHandler {
  override async handle(): Promise<unknown> {
    this.wfile.write(`${this.params ?? "hello"}\n`);
    return this.rfile.line();
  }
}

/** Emits each line that comes, gives their number. */
class Follow extends StreamRequestHandler {
  override async handle(): Promise<unknown> {
    let lines = 0;
    for await (const line of this.rfile.lines()) {
      lines++;
      this.emit(line);
    }
    return { lines };
  }
}

/** Emits and throws its params. */
class Tells extends StreamRequestHandler {
  override handle(): never {
    this.emit({ params: this.params, text: `it is ${JSON.stringify(this.params)}` });
    throw new Error(`no entry with ${JSON.stringify(this.params)}`);
  }
}

/** Gives its params. */
class Gives extends StreamRequestHandler {
  override handle(): unknown {
    return this.params;
  }
}

/** Gives as many characters as its params say. */
class GivesMuch extends StreamRequestHandler {
  override handle(): unknown {
    return "x".repeat(this.params as number);
  }
}

class GivesBytes extends StreamRequestHandler {
  override handle(): unknown {
    return { bytes: Uint8Array.of(1, 2, 3), big: 2n ** 70n };
  }
}

class GivesCycle extends StreamRequestHandler {
  override handle(): unknown {
    const cycle: Record<string, unknown> = {};
    cycle.self = cycle;
    return cycle;
  }
}

/** Emits as many events as its params say, all at once. */
class EmitsMany extends StreamRequestHandler {
  override async handle(): Promise<unknown> {
    const { count, size } = this.params as { count: number; size: number };
    await this.rfile.line(); // until somebody says so
    for (let i = 1; i <= count; i++) this.emit({ i, fill: "x".repeat(size) });
    return "done";
  }
}

/** Waits for what never comes, and does not look at its signal. */
class NeverNotices extends StreamRequestHandler {
  override handle(): Promise<never> {
    return new Promise(() => {});
  }
}

/** Closes its connection, says so, and goes on until it is aborted. */
class ClosesFirst extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.signal.addEventListener("abort", () => resolve());
    await this.request.close();
    this.emit("closed");
    await promise;
  }
}

class Datagrams extends DatagramRequestHandler {}

/** The servers' side. */
class Echo extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const bytes of this.request) await this.request.sendall(bytes);
  }
}

export const app = defineApp({
  handlers: {
    Ask,
    Follow,
    Tells,
    Gives,
    GivesMuch,
    GivesBytes,
    GivesCycle,
    EmitsMany,
    NeverNotices,
    ClosesFirst,
    Datagrams,
    Echo,
  },
  listen: [{ handler: "Echo", address: "tcp://127.0.0.1:7" }],
  dial: { greeter: { handler: "Ask", address: "tcp://10.0.0.1:7" } },
  allow: ["10.0.0.0/8:*", "*.example.com:25"],
}) as unknown as App;

/** What the place says that it listens with. */
export const ECHO = {
  ...listenerInfo("Echo", "tcp://127.0.0.1:7", "forking"),
  served: 3,
  failed: 1,
  bytesRead: 60,
  children: { idle: 2, busy: 0, starting: 0, restarted: 1 },
};

/** Dials `10.0.0.1:7`, where an echo server is, and the sockets that a test wants to hold the other end of. */
export class MemoryPlace {
  /** Every address that was dialled. */
  readonly dialled: string[] = [];
  readonly echo = new ThreadingMemoryServer(Echo);
  /** Stands at 10.0.0.2:7; `clients` are its ends of the connections. */
  readonly clients: StreamSocket[] = [];
  readonly plane: LocalPlane;
  /** What its listener tells. */
  readonly told = new ListenerLog([TOKEN]);
  readonly recorder = new Recorder();
  /** What its connectors tell. */
  readonly heard: SockletEvent[] = [];

  constructor(options: Partial<LocalPlaneOptions> = {}) {
    void this.echo.serveForever();
    this.plane = new LocalPlane({
      app,
      listeners: () => [ECHO],
      log: this.told,
      recorder: this.recorder,
      connector: (target) => new MemoryConnector(this, target),
      ...options,
    });
  }

  async connect({ address }: SessionTarget, signal?: AbortSignal): Promise<StreamSocket> {
    this.dialled.push(address);
    if (address === "10.0.0.1:7" || address === "tcp://10.0.0.1:7") return this.echo.connect();
    if (address === "10.0.0.2:7") {
      const [ours, theirs] = memoryPair();
      this.clients.push(theirs);
      return ours;
    }
    if (address === "10.0.0.3:7") {
      return new Promise((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason)); // nobody answers there
      });
    }
    throw new SocketError("ECONNREFUSED", undefined, { address });
  }
}

class MemoryConnector extends BaseConnector<StreamSocket> {
  readonly #place: MemoryPlace;
  readonly #target: SessionTarget;

  constructor(place: MemoryPlace, target: SessionTarget) {
    super(target.HandlerClass, { onEvent: (event) => place.heard.push(event) });
    this.#place = place;
    this.#target = target;
  }

  override connect(signal?: AbortSignal): Promise<StreamSocket> {
    return this.#place.connect(this.#target, signal);
  }

  override peerOf(request: StreamSocket) {
    return request.getpeername();
  }
}

export const TOKEN = "a-token-for-everything";
export const READ = "a-token-that-only-reads";
export const RUN = "a-token-that-only-runs";
export const TOKENS = `${TOKEN}, read:${READ}\n run:${RUN}`;

/** An answer, whose JSON a test looks into as it likes. */
export interface Answer extends Response {
  // biome-ignore lint/suspicious/noExplicitAny: what is in it is what the test is about
  json(): Promise<any>;
}

/** The routes over a place, and a way to ask them. */
export const serve = (options: Partial<LocalPlaneOptions> = {}) => {
  const place = new MemoryPlace(options);
  const faults: unknown[] = [];
  const routes: Hono = controlRoutes(
    { openApi, plane: place.plane, tokens: TOKENS, onError: (error) => faults.push(error) },
    recordingRoutes,
  );
  const ask = async (
    method: string,
    path: string,
    {
      token = TOKEN,
      json,
      headers,
      ...init
    }: RequestInit & { duplex?: "half"; token?: string | null; json?: unknown } = {},
  ): Promise<Answer> => {
    const all = new Headers(headers);
    if (token !== null && !all.has("authorization")) all.set("authorization", `Bearer ${token}`);
    if (json !== undefined) {
      init.body = JSON.stringify(json);
      if (!all.has("content-type")) all.set("content-type", "application/json");
    }
    return routes.fetch(new Request(`http://localhost${path}`, { method, headers: all, ...init }));
  };
  return { place, plane: place.plane, routes, ask, faults };
};

/** Events until one of this type has come. */
export const eventsUntil = async (
  events: AsyncIterable<SessionEvent> | null,
  type: SessionEvent["type"],
): Promise<SessionEvent[]> => {
  const seen: SessionEvent[] = [];
  for await (const event of events ?? []) {
    seen.push(event);
    if (event.type === type) break;
  }
  return seen;
};

/** The events of a plane's session until one of this type has come. */
export const follow = async (
  plane: LocalPlane,
  id: string,
  type: SessionEvent["type"],
  after = 0,
): Promise<SessionEvent[]> => eventsUntil(await plane.events(id, after, new AbortController().signal), type);
