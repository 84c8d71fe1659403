/**
 * The program that a worker of a cluster runs: serves the app on the descriptors that it inherited. `worker.ts` is the
 * other end, and `messages.ts` has the messages between the two.
 */

import { type App, isApp } from "../../core/app/app.ts";
import { deadline } from "../../core/bytes/alarm.ts";
import type { MaybePromise } from "../../core/bytes/data.ts";
import type { ControlPlane } from "../../core/control/plane.ts";
import { jsonOf, plain } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { ABORT_GRACE } from "../../core/serve/requests.ts";
import type { Opened } from "../app/app-server.ts";
import { openApp } from "../app/serve.ts";
import { lazy } from "../builtin.ts";
import { Backlog } from "../servers/forking/channel/backlog.ts";
import { toWire } from "../servers/forking/channel/messages.ts";
import { eventToWire, isRare, type Order, type Report, type WorkerSettings } from "./messages.ts";

const MOST_TOLD = 1024 * 1024; // bytes of JSON of what a handler emitted: more would hold up the channel
const DRAIN_TIMEOUT = 10_000; // ms; the default of ServeOptions

/** Sends a message to the primary. `left` is called later, when it is sent. Returns whether the channel has room for more. */
const tell = (report: Report, left: () => void = () => {}): boolean => {
  if (!process.connected) return true; // the primary is gone
  return process.send?.({ socklet: report }, undefined, undefined, left) !== false;
};

const backlog = new Backlog();
let lost = 0; // events that were not sent, until that is reported

/** Reports how many events were lost, as an error of the server that the last of them belongs to. */
const tellLost = (server: string): void => {
  const count = lost;
  lost = 0;
  if (count === 0) return;
  const said = `${count} events were not told: they come faster than the primary takes them`;
  tellEvent({ type: "error", server, address: null, error: new SocketError("ENOBUFS", said) });
};

/** Sends an event, with the handler's own values as far as they can be cloned. Rare events have no bound. */
const tellEvent = (event: SockletEvent): void => {
  const wire = eventToWire(
    event.type === "handler" ? { ...event, detail: plain(event.detail, MOST_TOLD) } : event,
  );
  const { json, size } = jsonOf(wire, 2 * MOST_TOLD);
  if (json === undefined) return;
  if (isRare(event)) tell(wire);
  else if (!backlog.fits(size)) lost++;
  else {
    tellLost(event.server);
    backlog.send(
      size,
      (left) => tell(wire, left),
      () => tellLost(event.server),
    );
  }
};

/** The calls of this process's plane, and the streams that it has returned. */
class Calls {
  readonly #plane: ControlPlane;
  readonly #streams = new Map<number, { next(): Promise<IteratorResult<unknown>>; stop(): void }>();
  #given = 0;

  constructor(plane: ControlPlane) {
    this.#plane = plane;
  }

  /** The number of a new stream of the values from `open`; `null` if it returns nothing. */
  async #stream(
    open: (signal: AbortSignal) => MaybePromise<AsyncIterable<unknown> | null>,
  ): Promise<number | null> {
    const stopping = new AbortController();
    const events = await open(stopping.signal);
    if (events === null) return null;
    const iterator = events[Symbol.asyncIterator]();
    const stream = ++this.#given;
    this.#streams.set(stream, { next: () => iterator.next(), stop: () => stopping.abort() });
    return stream;
  }

  async call(method: string, args: readonly unknown[]): Promise<unknown> {
    switch (method) {
      case "next": {
        const { done, value } = (await this.#streams.get(args[0] as number)?.next()) ?? { done: true };
        if (done) this.#streams.delete(args[0] as number);
        return done ? { done: true } : { done: false, value };
      }
      case "stop":
        this.#streams.get(args[0] as number)?.stop();
        return undefined;
      case "events": {
        const [id, after] = args as [string, number];
        return this.#stream((signal) => this.#plane.events(id, after, signal));
      }
      case "watch":
        return this.#stream(async (signal) => this.#plane.recording?.watch(signal) ?? null);
      case "recording": {
        const [name, ...more] = args as [string, ...unknown[]];
        const recording = this.#plane.recording as unknown as Record<string, (...args: unknown[]) => unknown>;
        return recording?.[name]?.apply(recording, more);
      }
      case "find": {
        const found = this.#plane.recording?.find(args[0] as Uint8Array, new AbortController().signal);
        return (await found) ?? { ids: [], more: false };
      }
      default: {
        const call = (this.#plane as unknown as Record<string, (...args: unknown[]) => unknown>)[method];
        return call?.apply(this.#plane, args as unknown[]);
      }
    }
  }
}

class Worker {
  readonly #stopping = new AbortController(); // while it opens
  readonly #free = Promise.withResolvers<void>();
  #server: Opened | undefined;
  #calls: Calls | undefined;
  #drainTimeout = DRAIN_TIMEOUT;
  #ending: Promise<void> | undefined;
  #status = 0;

  hear(order: Order): void {
    switch (order.type) {
      case "init":
        void this.#serve(order);
        break;
      case "call":
        void this.#answer(order.id, order.method, order.args);
        break;
      case "free":
        this.#free.resolve();
        break;
      case "reload":
        this.#server?.reload();
        break;
      case "close":
      case "handOver":
        this.end(order.type);
        break;
      case "abort":
        this.#server?.abort();
    }
  }

  /** Ends when it has drained. */
  end(how: "close" | "handOver"): void {
    this.#ending ??= this.#end(how);
  }

  async #serve(settings: WorkerSettings): Promise<void> {
    const { number, module, secrets, events, descriptors, ticketKeys, data, host } = settings;
    const { drainTimeout, certificate } = settings;
    process.title = `socklet worker ${number}`;
    this.#drainTimeout = drainTimeout ?? DRAIN_TIMEOUT;
    const names =
      Number.parseInt(process.versions.node, 10) < 24
        ? undefined // it would cost each `await` of a handler
        : new lazy.asyncHooks.AsyncLocalStorage<string>();
    this.#catch(number, () => names?.getStore());
    try {
      const { app } = (await import(module)) as { readonly app?: App };
      if (!isApp(app)) throw new SocketError("ERR_APP", `${module} exports no app`);
      const server = await openApp(
        app,
        {
          module,
          ticketKeys,
          descriptors: descriptors.map(({ name, fd }) => ({ name, fd })),
          ...(host !== undefined && { host }),
          ...(data !== undefined && { data }),
          ...(drainTimeout !== undefined && { drainTimeout }),
          ...(certificate && { certificate }),
          ...(names && { handlerName: names }),
          ...(events !== "none" && {
            onEvent: (event: SockletEvent) => {
              if (events === "all" || isRare(event)) tellEvent(event);
            },
          }),
          signal: this.#stopping.signal,
        },
        {
          places: descriptors.map(({ place }) => place),
          keeps: settings.dials,
          ...(secrets && { plane: { secrets } }),
          ...(settings.waits && { after: this.#free.promise }),
        },
      );
      this.#server = server;
      if (server.plane !== null) this.#calls = new Calls(server.plane);
      const listeners = server.listeners.map(({ info: _, ...listed }) => listed);
      tell({ type: "ready", listeners, secured: server.secured });
    } catch (error) {
      if (!this.#stopping.signal.aborted) tell({ type: "unfit", error: toWire(error) });
      this.#leave(1);
    }
  }

  /** Uncaught errors and rejections: after a rejection it continues; an error may have left anything half done. */
  #catch(number: number, name: () => string | undefined): void {
    const said = (what: string, error: unknown): SocketError =>
      new SocketError("ERR_HANDLER", `${what}${error instanceof Error ? `: ${error.message}` : ""}`, {
        cause: error,
      });
    process.on("unhandledRejection", (error) => {
      if (process.listenerCount("unhandledRejection") > 1) return;
      const server = name() ?? `worker ${number}`;
      tellEvent({ type: "error", server, address: null, error: said("unhandled rejection", error) });
    });
    process.on("uncaughtException", (error) => {
      if (process.listenerCount("uncaughtException") > 1) return;
      this.#status = 1;
      tell({ type: "failing", error: toWire(said(`${name() ?? "nobody"}  uncaught exception`, error)) });
      this.end("handOver");
    });
  }

  async #answer(id: number, method: string, args: readonly unknown[]): Promise<void> {
    try {
      tell({ type: "answer", id, value: await this.#calls?.call(method, args) });
    } catch (error) {
      tell({ type: "answer", id, error: toWire(error) });
    }
  }

  async #end(how: "close" | "handOver"): Promise<void> {
    const server = this.#server;
    if (server === undefined) {
      this.#stopping.abort(); // no client has connected to what it has opened
      this.#leave(0);
      return;
    }
    this.#free.resolve();
    let cut = 0;
    const running = (): number => server.listeners.reduce((sum, { info }) => sum + info().running, 0);
    const stopTimer = deadline(this.#drainTimeout, () => {
      cut = running();
    }); // before the server's own, which aborts them
    await (how === "close" ? server.close() : server.handOver(() => tell({ type: "released" })));
    stopTimer();
    tell({ type: "over", cut });
    this.#leave(this.#status);
  }

  #leave(status: number): void {
    const end = (): never => process.exit(status); // whatever a handler left running
    if (process.connected)
      process.send?.({ socklet: null }, undefined, undefined, end); // after all messages
    else end();
    setTimeout(end, ABORT_GRACE).unref();
  }
}

const worker = new Worker();
// Signals reach all processes of a terminal or a unit; the primary decides what is to be done.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"] as const) process.on(signal, () => {});
process.on("message", (order: Order) => worker.hear(order));
process.on("disconnect", () => worker.end("close")); // the primary is gone
