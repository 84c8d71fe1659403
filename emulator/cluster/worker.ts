/** One worker of a cluster, as the primary sees it: its process, its messages, and the calls to it. */

import type { ChildProcess } from "node:child_process";
import { deadline } from "../../core/bytes/alarm.ts";
import { SocketError } from "../../core/errors.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import { lazy, once } from "../builtin.ts";
import { FIRST_DESCRIPTOR, programAt, startProgram } from "../processes/program.ts";
import { fromWire } from "../servers/forking/channel/messages.ts";
import { eventFromWire, type Listed, type Order, type Report, type WorkerSettings } from "./messages.ts";

const PROGRAM = programAt("cluster-worker", import.meta.url);
const START_LIMIT = 60_000; // ms until it serves: an app's context() may wait for a database
const END_GRACE = 3_000; // ms beyond its drain time that a worker has to end, before it is killed

/** What a worker reports to its cluster. */
interface WorkerOwner {
  ready(worker: WorkerProcess): void;
  event(worker: WorkerProcess, event: SockletEvent): void;
  /** It ends by itself, after an uncaught error; another may take its place now. */
  failing(worker: WorkerProcess, error: unknown): void;
  /** It no longer keeps the lasting sessions. */
  released(worker: WorkerProcess): void;
  gone(worker: WorkerProcess, code: number | null, signal: string | null): void;
}

/** The process of one worker. */
export class WorkerProcess {
  readonly number: number;
  state: "starting" | "serving" | "leaving" | "gone" = "starting";
  listeners: readonly Listed[] = [];
  /** How many of them have TLS. */
  secured = 0;
  /** Requests that it cut off at its end. */
  cut = 0;
  /** Why it could not serve, or ended. */
  why: SocketError | null = null;
  /** When it was started, and when it served, by performance.now(). */
  readonly started = performance.now();
  served = Number.POSITIVE_INFINITY;
  readonly #owner: WorkerOwner;
  readonly #process: ChildProcess;
  readonly #calls = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #exited: Promise<unknown>;
  #asked = 0;
  #stopTimer: (() => void) | undefined;

  constructor(
    owner: WorkerOwner,
    settings: Omit<WorkerSettings, "descriptors">,
    descriptors: readonly { readonly name: string; readonly fd: number; readonly place: number }[],
  ) {
    this.#owner = owner;
    this.number = settings.number;
    const fds = descriptors.map(({ fd }) => fd);
    const child = startProgram(PROGRAM, [], fds);
    this.#process = child;
    const gone = (code: number | null, signal: string | null): void => {
      if (this.state === "gone") return;
      this.state = "gone";
      this.#stopTimer?.();
      const lost = new SocketError("ECONNABORTED", `worker ${this.number} is gone`);
      for (const { reject } of this.#calls.values()) reject(lost);
      this.#calls.clear();
      owner.gone(this, code, signal);
    };
    child.on("error", (error) => {
      this.why ??= SocketError.from(error, "ERR_INTERNAL");
      if (child.pid === undefined) gone(null, null);
    });
    this.#exited = child.pid === undefined ? Promise.resolve() : once(child, "exit");
    child.once("close", gone); // after its last messages, as "exit" may not be
    // A handler's own child may keep its stdout open, so "close" may never come.
    child.once("exit", (code, signal) => {
      deadline(END_GRACE, () => gone(code, signal), { daemon: true });
    });
    child.on("message", (message: { readonly socklet?: Report | null } | null) => {
      if (message?.socklet) this.#hear(message.socklet);
    });
    this.#later(() => {
      this.why ??= new SocketError(
        "ETIMEDOUT",
        `worker ${this.number} did not serve within ${START_LIMIT} ms: does its module, or its context(), wait for something?`,
      );
      this.kill();
    }, START_LIMIT);
    this.#send({
      type: "init",
      ...settings,
      descriptors: descriptors.map((one, i) => ({ ...one, fd: FIRST_DESCRIPTOR + i })),
    });
  }

  get pid(): number | null {
    return this.#process.pid ?? null;
  }

  /** Calls its control plane. Rejects with what that throws, and with `ECONNABORTED` if the worker ends before it answers. */
  call<T>(method: string, ...args: readonly unknown[]): Promise<T> {
    if (this.state === "gone") return Promise.reject(new SocketError("ECONNABORTED", "the worker is gone"));
    const id = ++this.#asked;
    const answer = Promise.withResolvers<unknown>();
    this.#calls.set(id, answer);
    this.#send({ type: "call", id, method, args });
    return answer.promise as Promise<T>;
  }

  tell(type: "free" | "reload" | "abort"): void {
    this.#send({ type });
  }

  /** Asks it to end, and waits for that: slightly more than `drainTimeout` ms at most. */
  async end(how: "close" | "handOver", drainTimeout: number): Promise<void> {
    if (this.state === "gone") return;
    this.state = "leaving";
    this.#later(() => this.kill(), drainTimeout + END_GRACE);
    this.#send({ type: how });
    await this.#exited;
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  #send(order: Order): void {
    if (this.#process.connected) this.#process.send(order, () => {}); // else it is gone, which will be reported soon
  }

  #later(task: () => void, ms: number): void {
    this.#stopTimer?.();
    this.#stopTimer = deadline(ms, task);
  }

  #hear(report: Report): void {
    if (this.state === "gone") return;
    switch (report.type) {
      case "ready":
        if (this.state !== "starting") return;
        this.#stopTimer?.();
        this.state = "serving";
        this.served = performance.now();
        this.listeners = report.listeners;
        this.secured = report.secured;
        this.#owner.ready(this);
        break;
      case "unfit":
        this.why ??= SocketError.from(fromWire(report.error), "ERR_HANDLER");
        break;
      case "event":
        this.#owner.event(this, eventFromWire(report));
        break;
      case "failing":
        this.state = "leaving";
        this.why ??= SocketError.from(fromWire(report.error), "ERR_HANDLER");
        this.#owner.failing(this, this.why);
        break;
      case "released":
        this.#owner.released(this);
        break;
      case "answer": {
        const waiting = this.#calls.get(report.id);
        this.#calls.delete(report.id);
        if (report.error === undefined) waiting?.resolve(report.value);
        else waiting?.reject(fromWire(report.error));
        break;
      }
      case "over":
        this.cut = report.cut;
    }
  }
}

/** How many workers `auto` is: one for each core that this process may use. */
export const cores = (): number => lazy.os.availableParallelism();
