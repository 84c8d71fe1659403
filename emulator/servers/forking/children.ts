/** The children of a forking server: how many there are, which request each has, and when one is started, replaced or ended. */

import { DONE } from "../../../core/bytes/data.ts";
import { SocketError } from "../../../core/errors.ts";
import type { PoolInfo } from "../../../core/handlers/client.ts";
import type { ForkingEvent } from "../../../core/handlers/events.ts";
import { byName, pastOf } from "../../../core/pool/sum.ts";
import type { StreamOptions } from "../../../core/sockets/streams/stream-options.ts";
import type { ServerTlsOptions } from "../../../core/sockets/tls/tls.ts";
import { fs, lazy } from "../../builtin.ts";
import { Sentinel } from "../../processes/sentinel.ts";
import type { HandlerSource } from "./channel/handler-source.ts";
import type { PoolsAt } from "./channel/messages.ts";
import { Child, type ChildOwner, type Job, later, PROGRAM } from "./child.ts";
import type { ForkedServer, ForkingInfo } from "./forked-server.ts";

const PATIENCE = 20; // ms that a request waits for a free child before another is started, which takes longer
const MAX_DOUBLINGS = 30; // of the restart delay: more would exceed every limit

/** Starts children, assigns them requests, and replaces lost ones. */
export class Children implements ChildOwner {
  readonly server: ForkedServer;
  readonly stream: Partial<StreamOptions> | undefined;
  #source: HandlerSource;
  readonly #tell: (event: ForkingEvent) => void;
  readonly #all = new Set<Child>();
  readonly #idle: Child[] = []; // the last one used is used next, so that surplus ones stay idle and are ended
  readonly #waiting: Job[] = [];
  readonly #gone = Promise.withResolvers<void>();
  #sentinel: Sentinel | undefined;
  #up = false; // whether any has been ready before
  #closed = false;
  #losses = 0; // in a row, without a request that was served to its end in between
  #owed = 0; // lost children whose places are still empty
  #impatient: (() => void) | undefined;
  #restart: (() => void) | undefined; // clears its timer
  #restartAt = 0;
  #restarted = 0;
  #past: readonly PoolInfo[] = []; // infos of the pools of children that are gone

  constructor(
    server: ForkedServer,
    source: HandlerSource,
    stream: Partial<StreamOptions> | undefined,
    tell: (event: ForkingEvent) => void,
  ) {
    this.server = server;
    this.#source = source;
    this.stream = stream;
    this.#tell = tell;
  }

  counts(): Pick<ForkingInfo, "idle" | "busy" | "starting" | "restarted"> {
    const { idle, busy, starting } = this.#count();
    return { idle, busy, starting, restarted: this.#restarted };
  }

  /** The infos of all children's pools, added up by name. */
  pools(): readonly PoolInfo[] {
    return byName([...[...this.#all].flatMap(({ pools }) => pools), ...this.#past]);
  }

  /** Starts the first. Rejects with `ERR_HANDLER` if it cannot import its handler. */
  async open(): Promise<void> {
    if (!fs.existsSync(PROGRAM)) {
      const said = `there is no ${PROGRAM}: a forking server cannot be bundled; leave the package "socklet" outside`;
      throw new SocketError("ERR_UNSUPPORTED", said);
    }
    if (this.#closed) throw new SocketError("ECANCELED", "the server was closed while it was opened");
    this.#sentinel = Sentinel.hold();
    await this.#start(null).ready;
  }

  /** Assigns a job to a child. The job settles when it is over, and rejects with what its handler threw, or with the reason that the child was lost. */
  run(job: Job): void {
    const child = this.#idle.pop();
    if (child !== undefined) {
      this.#give(child, job);
      return;
    }
    this.#waiting.push(job);
    this.#impatient ??= later(
      this.server,
      () => {
        this.#impatient = undefined;
        this.#grow();
      },
      PATIENCE,
    );
  }

  /** A request's connection is tapped now, or no longer: its child reports the traffic, and how much passed unreported; `known` bytes are known. */
  tap(request: unknown, known: number): void {
    for (const child of this.#all) {
      const { job, state } = child;
      if (state === "busy" && job !== null && job.request === request) child.tap(job, known);
    }
  }

  /** Ends one request: at once if it waits; otherwise its signal aborts, and its child is killed if that does not help. */
  cancel(request: unknown, reason: unknown): void {
    const at = this.#waiting.findIndex((job) => job.request === request);
    if (at >= 0) {
      this.#waiting.splice(at, 1)[0]?.reject(reason);
      return;
    }
    for (const child of this.#all) {
      if (child.state === "busy" && child.job?.request === request) child.cancel(reason);
    }
  }

  /** Uses children with this handler from now on; those with the old one end when their request is over. */
  replace(source: HandlerSource): void {
    this.#source = { ...source }; // a new object even for the same handler: its module may have changed
    for (const child of [...this.#idle]) this.#end(child);
    this.#grow();
  }

  /** Sends all children new certificates. */
  certificate(tls: ServerTlsOptions): void {
    for (const child of this.#all) child.certificate(tls);
  }

  /** Sends all children the addresses that their pools dial. */
  poolsAt(at: PoolsAt): void {
    for (const child of this.#all) child.poolsAt(at);
  }

  /** Ends the children; with `leave`, a busy one only when its request is over. Resolves when all are gone. */
  close(leave: boolean): Promise<void> {
    this.#closed = true;
    this.#restart?.();
    this.#restart = undefined;
    this.#owed = 0;
    for (const child of [...this.#all]) {
      if (child.state === "idle") this.#end(child);
      else if (child.state === "busy" ? !leave : this.#waiting.length === 0) child.kill();
    }
    this.#grow();
    this.#settle();
    return this.#gone.promise;
  }

  // ---- Number of children ----

  #count(): { idle: number; busy: number; starting: number; ending: number; alive: number } {
    const counts = { idle: 0, busy: 0, starting: 0, ending: 0, alive: 0 };
    for (const { state } of this.#all) counts[state]++;
    counts.alive = this.#all.size - counts.ending;
    return counts;
  }

  /** Starts the missing ones, but none during the restart delay of a lost one. */
  #grow(): void {
    let { alive, starting } = this.#count();
    if (this.#owed > 0 || !this.#up) return;
    const wanted = Math.min(this.#waiting.length, lazy.os.availableParallelism());
    for (; starting < wanted && alive < this.server.maxChildren; starting++, alive++) this.#start(null);
    if (alive === 0 && !this.#closed) this.#start(null); // so that the next request does not have to wait
  }

  #start(delay: number | null): Child {
    const child = new Child(this, this.#source, delay);
    this.#all.add(child);
    if (child.pid !== undefined) this.#sentinel?.add(child.pid);
    return child;
  }

  #end(child: Child): void {
    const at = this.#idle.indexOf(child);
    if (at >= 0) this.#idle.splice(at, 1);
    child.end();
  }

  /** A child is gone. */
  lost(child: Child, code: number | null, signal: string | null): void {
    if (child.pid !== undefined) this.#sentinel?.remove(child.pid);
    this.#all.delete(child);
    this.#past = byName([...this.#past, ...child.pools.map(pastOf)]);
    const at = this.#idle.indexOf(child);
    if (at >= 0) this.#idle.splice(at, 1);
    const { job, state } = child;
    const { name: server } = this.server;
    const pid = child.pid ?? null;
    const error =
      child.why ??
      new SocketError(
        "ECONNABORTED",
        `child ${pid} of ${server} ended with ${signal ?? `exit code ${code}`}`,
      );
    if (state === "ending" || (this.#closed && state !== "busy" && this.#waiting.length === 0)) {
      if (pid !== null && state !== "starting") this.#tell({ type: "reaped", server, pid });
      child.over(error);
    } else if (!this.#up) {
      child.over(error);
    } else {
      const taken = state === "busy" ? job : null;
      const begun = taken !== null && (child.begun || taken.cancelled !== undefined);
      const delay =
        this.#closed && this.#waiting.length + Number(taken !== null && !begun) === 0 ? null : this.#owe();
      const requests = taken !== null && begun ? [{ id: taken.id, address: taken.address }] : [];
      this.#tell({ type: "lost", server, pid, code, signal, requests, error, delay });
      if (taken !== null && begun) {
        this.server.abortRequest(taken.request); // with a reset: an end would make a partial reply look complete
        taken.reject(error);
      } else if (taken !== null) {
        this.#waiting.unshift(taken);
      }
    }
    this.#grow();
    this.#settle();
  }

  /** Starts one more when the restart delay is over. Returns that delay in ms. */
  #owe(): number {
    this.#owed++;
    if (this.#restart !== undefined) return Math.max(0, Math.round(this.#restartAt - performance.now()));
    const { restartDelay, maxRestartDelay } = this.server;
    const doublings = Math.min(this.#losses++, MAX_DOUBLINGS);
    const delay = Math.min(restartDelay * 2 ** doublings, maxRestartDelay);
    this.#restartAt = performance.now() + delay;
    this.#restart = later(
      this.server,
      () => {
        this.#restart = undefined;
        for (; this.#owed > 0; this.#owed--) {
          this.#restarted++;
          this.#start(delay);
        }
        this.#grow();
      },
      delay,
    );
    return delay;
  }

  /** Settles the close if all children are gone. */
  #settle(): void {
    if (!this.#closed || this.#all.size > 0 || this.#waiting.length > 0) return;
    const released = this.#sentinel === undefined ? DONE : Sentinel.release();
    this.#sentinel = undefined;
    released.then(this.#gone.resolve);
  }

  // ---- Requests ----

  #give(child: Child, job: Job): void {
    if (!job.socket?.destroyed) {
      child.give(job);
      return;
    }
    job.reject(new SocketError("ECONNABORTED"));
    this.#next(child);
  }

  /** A child has imported its handler. */
  ready(child: Child): void {
    this.#up = true;
    this.#tell({ type: "forked", server: this.server.name, pid: child.pid ?? -1, delay: child.delay });
    this.#next(child);
    this.#grow(); // requests that still wait have waited too long
  }

  /** A child's request is over. */
  free(child: Child): void {
    this.#losses = 0;
    this.#next(child);
  }

  /** This child is free: it gets the next request, or ends, or waits. */
  #next(child: Child): void {
    const { requestsPerChild, childIdleTimeout } = this.server;
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
    this.#idle.push(child);
    const late = (): void => {
      if (this.#count().alive > 1) this.#end(child);
      else child.rest(childIdleTimeout, late);
    };
    child.rest(childIdleTimeout, late);
  }
}
