/** The children of a forking server: how many there are, and how they are given work, watched, replaced and ended. */

import { DONE } from "../../../core/bytes/data.ts";
import { describe } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import { wholeMs } from "../../../core/options.ts";
import type { ForkingEvent } from "../../../core/serve/events.ts";
import type { ServerInfo } from "../../../core/serve/server.ts";
import type { StreamOptions } from "../../../core/sockets/stream-options.ts";
import { fs, lazy } from "../../builtin.ts";
import { Child, fork, type Job, PROGRAM } from "./child.ts";
import type { HandlerSource } from "./handler-source.ts";
import { fromWire, type Report, toWire, type WireError } from "./messages.ts";
import { Sentinel } from "./sentinel.ts";

const PATIENCE = 20; // ms that a request waits for a child to be free before another is started, which takes longer
const START_LIMIT = 30_000; // ms that a child may take to import its handler: a module may wait for ever at its top level
const CANCEL_GRACE = 500; // ms that a cancelled request has to end before its child is killed: before the server tells it as stuck
const END_GRACE = 1_000; // ms that a child has to end when it is needed no more
const PING = 1_000; // ms between two pings of a child that has a request; less where a time-out is short
const MAX_DOUBLINGS = 30; // of the restart delay: what is more is over every limit

/** What a forking server says of itself; `running` counts also the requests for which a child is being started. */
export interface ForkingInfo extends ServerInfo {
  /** Children that wait for a request. */
  readonly idle: number;
  /** Children that have one. */
  readonly busy: number;
  /** Children that import their handler. */
  readonly starting: number;
  /** Children that were started in the place of a lost one. */
  readonly restarted: number;
}

/** What `ForkingMixIn` adds to a server: see `ForkingOptions`. Each may be changed while it serves. */
export interface Forking {
  maxChildren: number;
  blockTimeout: number | null;
  childIdleTimeout: number | null;
  requestsPerChild: number | null;
  restartDelay: number;
  maxRestartDelay: number;
  execArgv: readonly string[];
  info(): ForkingInfo;
}

/** What the children need to know of their server. */
export interface ForkedServer extends Forking {
  readonly name: string;
  readonly context: unknown;
  readonly requestTimeout: number | null;
  readonly idleTimeout: number | null;
  readonly daemonThreads: boolean;
  shutdown(): unknown;
  abortRequest(request: unknown): void;
}

/** Starts children, gives them work, watches them, and replaces those that are lost. */
export class Children {
  readonly #server: ForkedServer;
  #source: HandlerSource;
  readonly #stream: Partial<StreamOptions> | undefined;
  readonly #tell: (event: ForkingEvent) => void;
  readonly #all = new Set<Child>();
  readonly #idle: Child[] = []; // the one used last is used next, so that those too many stay idle, and are ended
  readonly #waiting: Job[] = [];
  readonly #gone = Promise.withResolvers<void>();
  #sentinel: Sentinel | undefined;
  #up = false; // one was ready once
  #closed = false;
  #losses = 0; // in a row, with no request served to its end between them
  #owed = 0; // lost children whose places are still empty
  #impatient: ReturnType<typeof setTimeout> | undefined;
  #restart: ReturnType<typeof setTimeout> | undefined;
  #restartAt = 0;
  #restarted = 0;

  constructor(
    server: ForkedServer,
    source: HandlerSource,
    stream: Partial<StreamOptions> | undefined,
    tell: (event: ForkingEvent) => void,
  ) {
    this.#server = server;
    this.#source = source;
    this.#stream = stream;
    this.#tell = tell;
  }

  counts(): Pick<ForkingInfo, "idle" | "busy" | "starting" | "restarted"> {
    const { idle, busy, starting } = this.#count();
    return { idle, busy, starting, restarted: this.#restarted };
  }

  /** Starts the first. Rejects with `ERR_HANDLER` where it cannot import its handler. */
  async open(): Promise<void> {
    if (!fs.existsSync(PROGRAM)) {
      const said = `there is no ${PROGRAM}: a forking server cannot be bundled; leave the package "socklet" outside`;
      throw new SocketError("ERR_UNSUPPORTED", said);
    }
    if (this.#closed) throw new SocketError("ECANCELED", "the server was closed while it was opened");
    this.#sentinel = Sentinel.hold();
    await this.#start(null).ready.promise;
  }

  /** Has a child serve it. Settles when it is over; rejects with what its handler threw, or why the child is lost. */
  run(job: Job): void {
    const child = this.#idle.pop();
    if (child !== undefined) {
      this.#give(child, job);
      return;
    }
    this.#waiting.push(job);
    this.#impatient ??= this.#later(() => {
      this.#impatient = undefined;
      this.#grow();
    }, PATIENCE);
  }

  /** Ends one request: at once where it waits; else its handler is told, and its child killed where that changes nothing. */
  cancel(request: unknown, reason: unknown): void {
    const at = this.#waiting.findIndex((job) => job.request === request);
    if (at >= 0) {
      this.#waiting.splice(at, 1)[0]?.reject(reason);
      return;
    }
    for (const child of this.#all) {
      const { job } = child;
      if (child.state !== "busy" || job === null || job.request !== request) continue;
      job.cancelled = reason;
      child.send({ type: "cancel", reason: toWire(reason) });
      const late = (): void => {
        if (child.state !== "busy" || child.job !== job) return;
        this.#kill(child, SocketError.from(reason, "ECONNABORTED"));
      };
      const { asked } = child;
      // One that has not answered for a while is not waited for; what it said is read before the immediate runs.
      if (asked === null || performance.now() - asked < this.#every / 2) this.#later(late, CANCEL_GRACE);
      else setImmediate(() => (child.asked === asked ? late() : this.#later(late, CANCEL_GRACE)));
      return;
    }
  }

  /** Has children with this handler from now on; those that have the former end when their request is over. */
  replace(source: HandlerSource): void {
    this.#source = { ...source }; // also where it is the same: its module may have changed
    for (const child of [...this.#idle]) this.#end(child);
    this.#grow();
  }

  /** Ends the children; `leave` those that have a request until it is over. Resolves when all are gone. */
  close(leave: boolean): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#restart);
    this.#restart = undefined;
    this.#owed = 0;
    for (const child of [...this.#all]) {
      if (child.state === "idle") this.#end(child);
      else if (child.state === "busy" ? !leave : this.#waiting.length === 0) child.process.kill("SIGKILL");
    }
    this.#grow();
    this.#settle();
    return this.#gone.promise;
  }

  // ---- Their number ----

  #count(): { idle: number; busy: number; starting: number; ending: number; alive: number } {
    const counts = { idle: 0, busy: 0, starting: 0, ending: 0, alive: 0 };
    for (const { state } of this.#all) counts[state]++;
    counts.alive = this.#all.size - counts.ending;
    return counts;
  }

  /** Starts as many as are missing: none while the place of a lost one is still to stay empty. */
  #grow(): void {
    let { alive, starting } = this.#count();
    if (this.#owed > 0 || !this.#up) return;
    const wanted = Math.min(this.#waiting.length, lazy.os.availableParallelism());
    for (; starting < wanted && alive < this.#server.maxChildren; starting++, alive++) this.#start(null);
    if (alive === 0 && !this.#closed) this.#start(null); // so that the next request need not wait
  }

  #start(delay: number | null): Child {
    const { name: server, context, execArgv, daemonThreads } = this.#server;
    const source = this.#source;
    const child = new Child(fork(execArgv), source, delay);
    this.#all.add(child);
    const { pid } = child.process;
    child.process.on("error", (error) => {
      if (child.process.pid !== undefined || !this.#all.has(child)) return;
      child.why = SocketError.from(error, "ERR_INTERNAL");
      this.#lose(child, null, null); // it could not be started: no other event follows
    });
    if (pid === undefined) return child;
    this.#sentinel?.add(pid);
    const over = (code: number | null, signal: string | null): void => {
      if (!this.#all.has(child)) return;
      this.#sentinel?.remove(pid);
      this.#lose(child, code, signal);
    };
    // What it said last may come after its exit, and before "close". (Where this side closed the channel Node tells no
    // "close"; and "disconnect" it tells not, where the child had not taken the connection that it was sent last.)
    child.process.once("close", over);
    child.process.once("exit", (code, signal) => {
      if (child.state === "ending") over(code, signal);
    });
    child.process.once("disconnect", () => {
      if (child.state !== "ending") child.process.kill("SIGKILL"); // it can be told nothing any more
    });
    child.process.on("message", (message: { socklet?: Report } | null) => {
      if (message?.socklet !== undefined) this.#hear(child, message.socklet);
    });
    child.timer = this.#later(() => {
      const said = `a child did not import ${source.name} within ${START_LIMIT} ms: does ${source.module} wait for something at its top level?`;
      this.#kill(child, new SocketError("ETIMEDOUT", said));
    }, START_LIMIT);
    child.send({ type: "init", source, server, context, stream: this.#stream });
    if (daemonThreads) {
      child.process.unref();
      child.process.channel?.unref();
    }
    return child;
  }

  #end(child: Child): void {
    const at = this.#idle.indexOf(child);
    if (at >= 0) this.#idle.splice(at, 1);
    clearTimeout(child.timer);
    child.state = "ending";
    child.timer = this.#later(() => child.process.kill("SIGKILL"), END_GRACE);
    if (child.process.connected) child.process.disconnect();
  }

  #kill(child: Child, why: SocketError): void {
    child.why ??= why;
    child.process.kill("SIGKILL");
  }

  /** A child is gone. */
  #lose(child: Child, code: number | null, signal: string | null): void {
    clearTimeout(child.timer);
    this.#all.delete(child);
    const at = this.#idle.indexOf(child);
    if (at >= 0) this.#idle.splice(at, 1);
    const { job, state, process } = child;
    const { name: server } = this.#server;
    const pid = process.pid ?? null;
    const error =
      child.why ??
      new SocketError(
        "ECONNABORTED",
        `child ${pid} of ${server} ended with ${signal ?? `exit code ${code}`}`,
      );
    if (state === "ending" || (this.#closed && state !== "busy" && this.#waiting.length === 0)) {
      if (pid !== null && state !== "starting") this.#tell({ type: "reaped", server, pid });
      child.ready.reject(error);
    } else if (!this.#up) {
      child.ready.reject(error);
    } else {
      const taken = state === "busy" ? job : null;
      const begun = taken !== null && (child.begun || taken.cancelled !== undefined);
      const delay =
        this.#closed && this.#waiting.length + Number(taken !== null && !begun) === 0 ? null : this.#owe();
      const requests = taken !== null && begun ? [{ id: taken.id, address: taken.address }] : [];
      this.#tell({ type: "lost", server, pid, code, signal, requests, error, delay });
      if (taken !== null && begun) {
        this.#server.abortRequest(taken.request); // reset: an end would make a part of the reply look like all of it
        taken.reject(error);
      } else if (taken !== null) {
        this.#waiting.unshift(taken);
      }
    }
    this.#grow();
    this.#settle();
  }

  /** One more is to be started when the restart delay is over; gives how long that is, in ms. */
  #owe(): number {
    this.#owed++;
    if (this.#restart !== undefined) return Math.max(0, Math.round(this.#restartAt - performance.now()));
    const { restartDelay, maxRestartDelay } = this.#server;
    const doublings = Math.min(this.#losses++, MAX_DOUBLINGS);
    const delay = Math.min(restartDelay * 2 ** doublings, maxRestartDelay);
    this.#restartAt = performance.now() + delay;
    this.#restart = this.#later(() => {
      this.#restart = undefined;
      for (; this.#owed > 0; this.#owed--) {
        this.#restarted++;
        this.#start(delay);
      }
      this.#grow();
    }, delay);
    return delay;
  }

  /** Whether all is over. */
  #settle(): void {
    if (!this.#closed || this.#all.size > 0 || this.#waiting.length > 0) return;
    const released = this.#sentinel === undefined ? DONE : Sentinel.release();
    this.#sentinel = undefined;
    released.then(this.#gone.resolve);
  }

  // ---- Their work ----

  #give(child: Child, job: Job): void {
    clearTimeout(child.timer);
    if (job.socket?.destroyed) {
      job.reject(new SocketError("ECONNABORTED"));
      this.#free(child);
      return;
    }
    child.state = "busy";
    child.job = job;
    child.begun = false;
    child.asked = null;
    const { id, address, local, read, proxy, datagram, socket } = job;
    child.send({ type: "run", id, address, local, read, proxy, datagram }, socket ?? undefined);
    this.#watch(child);
  }

  /** Nothing to do for this one: the next request, or its end, or it waits. */
  #free(child: Child): void {
    clearTimeout(child.timer);
    const { requestsPerChild, childIdleTimeout } = this.#server;
    const spent =
      child.source !== this.#source || (requestsPerChild !== null && child.served >= requestsPerChild);
    const next = spent ? undefined : this.#waiting.shift();
    if (next !== undefined) {
      this.#give(child, next);
      return;
    }
    if (spent || this.#closed) {
      this.#end(child);
      this.#grow();
      return;
    }
    child.state = "idle";
    this.#idle.push(child);
    if (childIdleTimeout === null) return;
    const idle = (): void => {
      if (this.#count().alive > 1) this.#end(child);
      else child.timer = this.#later(idle, childIdleTimeout);
    };
    child.timer = this.#later(idle, childIdleTimeout);
  }

  #hear(child: Child, report: Report): void {
    child.asked = null;
    const { job } = child;
    switch (report.type) {
      case "ready": {
        const { pid = -1 } = child.process;
        this.#up = true;
        this.#tell({ type: "forked", server: this.#server.name, pid, delay: child.delay });
        child.ready.resolve();
        this.#free(child);
        this.#grow(); // who waits now has waited long
        break;
      }
      case "unfit": {
        const { name, module } = child.source;
        child.why = wrapped(`a child cannot serve with ${name} of ${module}`, report.error);
        break;
      }
      case "crashed":
        child.why ??= wrapped("nobody caught an error of the handler", report.error);
        break;
      case "begun":
        child.begun = true;
        break;
      case "pong":
        if (job !== null) job.counts = report;
        break;
      case "shutdown":
        this.#server.shutdown();
        break;
      case "emit":
        if (job?.id === report.id) job.emit(report.detail);
        break;
      case "reply":
        if (job?.id === report.id) job.reply(report.data);
        break;
      case "end":
        if (child.state !== "busy" || job === null) return; // it was killed meanwhile
        this.#losses = 0;
        child.served++;
        job.counts = report;
        job.kept = report.kept;
        job.cut = report.cut;
        if (report.error === null) job.resolve(report.result);
        else job.reject(fromWire(report.error));
        this.#free(child);
    }
  }

  /** Asks a child that has a request for a sign of life, from time to time. */
  #watch(child: Child): void {
    const { blockTimeout } = this.#server;
    const limit = blockTimeout ?? Number.POSITIVE_INFINITY;
    const now = performance.now();
    const deaf = child.asked === null ? 0 : now - child.asked;
    if (deaf >= limit) {
      const { job, asked } = child;
      // What it said may have come while this process was busy itself: that is read before this runs.
      setImmediate(() => {
        if (child.state !== "busy" || child.job !== job) return;
        const said = `the handler held its process for more than ${wholeMs(blockTimeout ?? 0)} (blockTimeout): an endless loop?`;
        if (child.asked === asked) this.#kill(child, new SocketError("ETIMEDOUT", said));
        else this.#watch(child);
      });
      return;
    }
    if (child.asked === null) {
      child.asked = now;
      child.send({ type: "ping" });
    }
    child.timer = this.#later(() => this.#watch(child), Math.min(this.#every, Math.max(limit - deaf, 1)));
  }

  /** How long a child is not asked, in ms. */
  get #every(): number {
    const { blockTimeout, requestTimeout, idleTimeout } = this.#server;
    const limits = [blockTimeout, requestTimeout, idleTimeout].filter((limit) => limit !== null);
    return Math.max(1, Math.min(PING, ...limits.map((limit) => limit / 4)));
  }

  #later(task: () => void, time: number): ReturnType<typeof setTimeout> {
    const timer = setTimeout(task, time);
    if (this.#server.daemonThreads) timer.unref();
    return timer;
  }
}

const wrapped = (what: string, wire: WireError): SocketError => {
  const cause = fromWire(wire);
  return new SocketError("ERR_HANDLER", `${what}: ${describe(cause).message}`, { cause });
};
