/**
 * The children of a forking server: how they are started, given work, watched, replaced and ended, and what is said
 * between them and their parent. `forking.ts` has the servers, and the reasons; `forking-child.ts` is what a child runs.
 */

import type { ChildProcess } from "node:child_process";
import type net from "node:net";
import type { Writable } from "node:stream";
import { DONE } from "../../core/bytes/data.ts";
import { describe, isA, jsonOf, peek, textOf } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { Address, UnixAddress } from "../../core/net/address.ts";
import { wholeMs } from "../../core/options.ts";
import type { ForkingEvent } from "../../core/serve/events.ts";
import type { ServerInfo } from "../../core/serve/server.ts";
import type { StreamOptions } from "../../core/sockets/stream-options.ts";
import { fileURLToPath, fs, lazy, once } from "../builtin.ts";

const PATIENCE = 20; // ms that a request waits for a child to be free before another is started, which takes longer
const START_LIMIT = 30_000; // ms that a child may take to import its handler: a module may wait for ever at its top level
const CANCEL_GRACE = 500; // ms that a cancelled request has to end before its child is killed: before the server tells it as stuck
const END_GRACE = 1_000; // ms that a child has to end when it is needed no more
const SENTINEL_LIFE = 1_000; // ms; one that ended earlier would end again
const PING = 1_000; // ms between two pings of a child that has a request; less where a time-out is short
const MAX_DOUBLINGS = 30; // of the restart delay: what is more is over every limit

// ---- What a forking server is ----

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

// ---- What parent and child say to each other ----

/** Where a child finds its handler: an export of a module; with `data`, a handler of the app that the module exports. */
export interface HandlerSource {
  readonly module: string;
  readonly name: string;
  /** The folder of the app's storage. */
  readonly data?: string;
}

/** To a child. `run` comes with the connection, where it is one. */
export type Order =
  | {
      readonly type: "init";
      readonly source: HandlerSource;
      readonly server: string;
      readonly context: unknown;
      readonly stream: Partial<StreamOptions> | undefined;
    }
  | {
      readonly type: "run";
      readonly id: number;
      readonly address: Address | null;
      /** Where a Unix connection came in, which the child cannot find out. */
      readonly local: UnixAddress | null;
      readonly datagram: { readonly data: Uint8Array; readonly truncated: boolean } | null;
    }
  | { readonly type: "cancel"; readonly reason: WireError }
  | { readonly type: "ping" };

/** From a child, as `{ socklet: … }`: a handler may send its parent messages, too. `id` is a request's, which may be over. */
export type Report =
  | { readonly type: "ready" | "begun" | "shutdown" }
  | { readonly type: "unfit" | "crashed"; readonly error: WireError }
  | ({ readonly type: "pong" } & Counts)
  /** `kept`: the handler closed the connection itself, or gave it to another (`toWeb()`, `detach()`). `cut`: not all that it wrote has left. */
  | ({
      readonly type: "end";
      readonly kept: boolean;
      readonly cut: boolean;
      readonly error: WireError | null;
      readonly result: unknown;
    } & Counts)
  | { readonly type: "emit"; readonly id: number; readonly detail: unknown }
  | { readonly type: "reply"; readonly id: number; readonly data: Uint8Array };

interface Counts {
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

/** What was thrown, as another process can be told it: the clone of an error loses its class and its code. */
export interface WireError {
  /** What was thrown, where that was no error. */
  readonly value?: unknown;
  readonly name?: string;
  readonly message?: string;
  readonly stack?: string | undefined;
  readonly code?: string | undefined;
  readonly address?: string | undefined;
  readonly cause?: WireError | undefined;
}

const SAID = 8 * 1024; // characters of a message or a stack that are told: a dying child's last report must fit into the channel, 64 KiB
const CAUSES = 2; // how far causes are followed: they may go round

export const toWire = (thrown: unknown, causes = CAUSES): WireError => {
  if (!isA(thrown, Error)) return { value: cloneOf(thrown) };
  const cause = peek(thrown, "cause");
  return {
    ...describe(thrown, SAID),
    cause: cause === undefined || causes === 0 ? undefined : toWire(cause, causes - 1),
  };
};

/** A clone of `value`, where it has one and is small; else it as text. */
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

/** True on the global object of a child: there no forking server starts, nor a module that starts one when it is imported. */
export const IN_CHILD = Symbol.for("socklet.forked");

// ---- How a child is run ----

const SOURCES = import.meta.url.endsWith(".ts"); // else dist/
const CONDITION = "--conditions=socklet:source";
const PROGRAM = fileURLToPath(new URL(`forking-child.${SOURCES ? "ts" : "js"}`, import.meta.url));

// Of the parent's options these are for it alone: an inspector's port is taken, code of the command line is not the
// child's, and what a test runner loads is for its own workers.
const OWN =
  /^(--inspect|--test|--watch|--check|--interactive|--input-type|--eval|--print|-c$|-i$|-e$|-p$|-pe$)/;
const LOADS = /^(--require|--import|--loader|--experimental-loader|-r)(=|$)/;
const RUNNER = /[\\/]vitest[\\/]/;

/** Those of this process's options that a child needs, too: conditions, loaders, limits. */
const inherited = (): string[] => {
  const given = process.execArgv;
  const kept: string[] = SOURCES && !given.includes(CONDITION) ? [CONDITION] : [];
  for (let i = 0; i < given.length; i++) {
    const [option = "", next = "-"] = given.slice(i, i + 2);
    const alone = option.includes("="); // else its value, where it has one, is the next
    const own = OWN.test(option) || (LOADS.test(option) && RUNNER.test(alone ? option : next));
    if (!own) kept.push(option);
    else if (!alone && !next.startsWith("-")) i++;
  }
  return kept;
};

/** This process's environment, without an inspector in `NODE_OPTIONS`. */
const environment = (): NodeJS.ProcessEnv => {
  const { NODE_OPTIONS, ...rest } = process.env;
  if (NODE_OPTIONS === undefined) return rest;
  return { ...rest, NODE_OPTIONS: NODE_OPTIONS.replace(/--inspect\S*/g, "") };
};

/**
 * Kills what children are left when this process dies: they end by themselves when the channel to their parent
 * closes, but one in an endless loop does not notice, and would run on as nobody's. One process for all, 9 MB of its
 * own; a thread in each child that watched for it takes 10 MB there, and 60 ms of its start.
 */
class Sentinel {
  static #one: Sentinel | undefined;
  static #users = 0;

  /** For who has children; each lets it go with `release()`. */
  static hold(): Sentinel {
    Sentinel.#users++;
    Sentinel.#one ??= new Sentinel();
    return Sentinel.#one;
  }

  static async release(): Promise<void> {
    if (--Sentinel.#users > 0) return;
    const one = Sentinel.#one as Sentinel;
    Sentinel.#one = undefined;
    await one.#end();
  }

  // It reads a line for each child, "12" or, when that is gone, "-12"; its input ends when this process does.
  static readonly #PROGRAM = `
    process.title = "socklet sentinel";
    const pids = new Set();
    let text = "";
    process.stdin.setEncoding("latin1").on("data", (more) => {
      const lines = (text + more).split("\\n");
      text = lines.pop();
      for (const line of lines) line < 0 ? pids.delete(-line) : pids.add(+line);
    }).on("close", () => {
      for (const pid of pids) try { process.kill(pid, "SIGKILL"); } catch {}
    });`;

  readonly #pids = new Set<number>();
  #process = this.#start();
  #ended = false;

  add(pid: number): void {
    this.#pids.add(pid);
    this.#say(`${pid}\n`);
  }

  remove(pid: number): void {
    this.#pids.delete(pid);
    this.#say(`-${pid}\n`);
  }

  #say(text: string): void {
    this.#process.stdin?.write(text);
  }

  #start(): ChildProcess {
    const started = performance.now();
    const sentinel = lazy.childProcess.spawn(process.execPath, ["-e", Sentinel.#PROGRAM], {
      detached: true, // a terminal's Ctrl-C ends it no earlier than its parent
      stdio: ["pipe", "ignore", "ignore"],
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NODE_"))),
    });
    sentinel.unref();
    sentinel.on("error", () => {}); // without it all goes on
    sentinel.stdin.on("error", () => {});
    (sentinel.stdin as Writable & { unref?(): void }).unref?.();
    sentinel.once("exit", () => {
      if (this.#ended || performance.now() - started < SENTINEL_LIFE) return;
      this.#process = this.#start();
      for (const pid of this.#pids) this.add(pid);
    });
    return sentinel;
  }

  async #end(): Promise<void> {
    this.#ended = true;
    const { pid, exitCode, signalCode, stdin } = this.#process;
    if (pid === undefined || exitCode !== null || signalCode !== null) return;
    this.#process.ref();
    const exited = once(this.#process, "exit");
    stdin?.end();
    await exited;
  }
}

// ---- The children ----

/** A request on its way through a child. */
export interface Job {
  readonly id: number;
  readonly address: Address | null;
  readonly local: UnixAddress | null;
  readonly request: unknown;
  /** The connection, of which this process keeps its own descriptor until the request is over. */
  readonly socket: net.Socket | null;
  readonly datagram: { readonly data: Uint8Array; readonly truncated: boolean } | null;
  counts: Counts;
  /** Whether the child keeps the connection when the request is over. */
  kept: boolean;
  /** Whether it has cut it. */
  cut: boolean;
  /** Why it was cancelled. */
  cancelled: unknown;
  emit(detail: unknown): void;
  reply(data: Uint8Array): void;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

class Child {
  readonly process: ChildProcess;
  /** The handler that it has. */
  readonly source: HandlerSource;
  /** `restarted` after this delay in ms, or `null`. */
  readonly delay: number | null;
  readonly ready = Promise.withResolvers<void>();
  state: "starting" | "idle" | "busy" | "ending" = "starting";
  /** What it serves, or has served last. */
  job: Job | null = null;
  begun = false;
  served = 0;
  /** When it was last asked for a sign of life and has not given one yet. */
  asked: number | null = null;
  /** Why it was killed, or cannot serve. */
  why: SocketError | null = null;
  timer: ReturnType<typeof setTimeout> | undefined;

  constructor(process: ChildProcess, source: HandlerSource, delay: number | null) {
    this.process = process;
    this.source = source;
    this.delay = delay;
    this.ready.promise.catch(() => {}); // only the first is waited for
  }

  send(order: Order, socket?: net.Socket): void {
    if (!this.process.connected) return; // it is gone, which is told soon
    this.process.send(order, socket, { keepOpen: true }, () => {});
  }
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
    const child = new Child(
      lazy.childProcess.fork(PROGRAM, [], {
        execArgv: [...inherited(), ...execArgv],
        env: environment(),
        serialization: "advanced", // bytes are bytes
        stdio: ["ignore", "inherit", "inherit", "ipc"],
      }),
      source,
      delay,
    );
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
    const { id, address, local, datagram, socket } = job;
    child.send({ type: "run", id, address, local, datagram }, socket ?? undefined);
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
