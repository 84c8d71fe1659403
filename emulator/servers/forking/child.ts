/** One child of a forking server: its process, its messages, and its current request. */

import type { ChildProcess } from "node:child_process";
import type net from "node:net";
import { deadline } from "../../../core/bytes/alarm.ts";
import { describe } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { PoolInfo } from "../../../core/handlers/client.ts";
import type { Address, UnixAddress } from "../../../core/net/address.ts";
import type { ProxyHeader } from "../../../core/net/proxy/header.ts";
import { wholeMs } from "../../../core/options.ts";
import type { StreamOptions } from "../../../core/sockets/streams/stream-options.ts";
import type { ServerTlsOptions } from "../../../core/sockets/tls/tls.ts";
import { programAt, startProgram } from "../../processes/program.ts";
import type { Passed } from "./channel/child-tap.ts";
import type { HandlerSource } from "./channel/handler-source.ts";
import {
  type Counts,
  fromWire,
  type Order,
  type PoolsAt,
  type Report,
  toWire,
  type WireError,
} from "./channel/messages.ts";
import type { ForkedServer } from "./forked-server.ts";

const START_LIMIT = 30_000; // ms for a child to import its handler: a module may wait for ever at its top level
const CANCEL_GRACE = 500; // ms for a cancelled request to end before its child is killed: less than until the server reports it as stuck
const END_GRACE = 1_000; // ms for a child to end when it is no longer needed
const PING = 1_000; // ms between two pings of a child that has a request; less if a time-out is short

/** The program of a child. */
export const PROGRAM = programAt("forking-child", import.meta.url);

/** A request that a child serves. */
export interface Job {
  readonly id: number;
  readonly address: Address | null;
  readonly local: UnixAddress | null;
  readonly request: unknown;
  /** The connection, of which this process keeps its own descriptor until the request is over. */
  readonly socket: net.Socket | null;
  /** Bytes that this process has read of it, which the child must read first. */
  readonly read: Uint8Array | null;
  /** The header that its proxy sent. */
  readonly proxy: ProxyHeader | null;
  readonly datagram: { readonly data: Uint8Array; readonly truncated: boolean } | null;
  counts: Counts;
  /** Whether the child keeps the connection when the request is over. */
  kept: boolean;
  /** Whether the child reset the connection. */
  cut: boolean;
  /** The reason that it was cancelled for. */
  cancelled: unknown;
  /** Whether its connection is tapped. */
  readonly tapped: boolean;
  passed(passed: Passed): void;
  emit(detail: unknown): void;
  handshake(report: Extract<Report, { readonly type: "handshake" }>): void;
  reply(data: Uint8Array): void;
  /** Called when replies were not sent, with their sizes. */
  dropped(sizes: readonly number[]): void;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

/** Sets a deadline for a server; with `daemonThreads` it does not keep the process alive. Returns a function that clears it. */
export const later = (server: ForkedServer, task: (now: number) => void, ms: number): (() => void) =>
  deadline(ms, task, { daemon: server.daemonThreads });

/** The owner of a child, to which it reports. */
export interface ChildOwner {
  readonly server: ForkedServer;
  readonly stream: Partial<StreamOptions> | undefined;
  /** It has imported its handler. */
  ready(child: Child): void;
  /** Its request is over. */
  free(child: Child): void;
  /** Its process is gone. */
  lost(child: Child, code: number | null, signal: string | null): void;
}

/** A child process. It has one request at a time. */
export class Child {
  /** Where its handler comes from. */
  readonly source: HandlerSource;
  /** Milliseconds between the loss of the child that it replaces and its own start; `null` if it replaces none. */
  readonly delay: number | null;
  state: "starting" | "idle" | "busy" | "ending" = "starting";
  /** The request that it serves, or served last. */
  job: Job | null = null;
  /** Whether the request's handler was made. */
  begun = false;
  /** Requests served so far. */
  served = 0;
  /** The last infos of its pools. */
  pools: readonly PoolInfo[] = [];
  /** Why it was killed, or cannot serve. */
  why: SocketError | null = null;
  readonly #owner: ChildOwner;
  readonly #process: ChildProcess;
  readonly #started = Promise.withResolvers<void>();
  #gone = false;
  #asked: number | null = null; // when it was pinged; null once it has answered
  #stopTimer: (() => void) | undefined;

  /** Starts it. */
  constructor(owner: ChildOwner, source: HandlerSource, delay: number | null) {
    this.#owner = owner;
    this.source = source;
    this.delay = delay;
    this.#started.promise.catch(() => {}); // only the first is waited for
    const { name: server, context, execArgv, daemonThreads } = owner.server;
    const process = startProgram(PROGRAM, execArgv);
    this.#process = process;
    process.on("error", (error) => {
      if (process.pid !== undefined) return;
      this.why = SocketError.from(error, "ERR_INTERNAL");
      this.#lost(null, null); // it could not be started: no other event follows
    });
    if (process.pid === undefined) return;
    // Its last messages may come after "exit", and before "close". (Node emits no "close" if this side closed the
    // channel, and no "disconnect" if the child had not taken the connection that it was sent last.)
    process.once("close", (code, signal) => this.#lost(code, signal));
    process.once("exit", (code, signal) => {
      if (this.state === "ending") this.#lost(code, signal);
    });
    process.once("disconnect", () => {
      if (this.state !== "ending") this.kill(); // it cannot receive messages any more
    });
    process.on("message", (message: { socklet?: Report } | null) => {
      if (message?.socklet !== undefined) this.#hear(message.socklet);
    });
    this.#later(() => {
      const said = `a child did not import ${source.name} within ${START_LIMIT} ms: does ${source.module} wait for something at its top level?`;
      this.kill(new SocketError("ETIMEDOUT", said));
    }, START_LIMIT);
    this.#send({
      type: "init",
      source,
      server,
      context,
      stream: owner.stream,
      security: owner.server.childTls,
      poolsAt: owner.server.poolsAt,
    });
    if (daemonThreads) {
      process.unref();
      process.channel?.unref();
    }
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Resolves when it has imported its handler. Rejects with the error of `over()`, if that is called first. */
  get ready(): Promise<void> {
    return this.#started.promise;
  }

  /** Sends it a request. */
  give(job: Job): void {
    this.state = "busy";
    this.job = job;
    this.begun = false;
    this.#asked = null;
    const { id, address, local, read, proxy, datagram, socket, tapped } = job;
    this.#send({ type: "run", id, address, local, read, proxy, datagram, tapped }, socket ?? undefined);
    this.#watch();
  }

  /** Starts or stops its reports of the traffic of its request's connection; `known` bytes are known to have passed. */
  tap({ id, tapped }: Job, known: number): void {
    this.#send({ type: "tap", id, on: tapped, known });
  }

  /** Sends it the certificates to use from now on. */
  certificate(tls: ServerTlsOptions): void {
    this.#send({ type: "certificate", tls });
  }

  /** Sends it the addresses that its pools dial. */
  poolsAt(at: PoolsAt): void {
    this.#send({ type: "pools", at });
  }

  /** Leaves it idle. Calls `late` if no request comes within `limit` ms. */
  rest(limit: number | null, late: () => void): void {
    this.state = "idle";
    this.#stopTimer?.();
    if (limit !== null) this.#later(late, limit);
  }

  /** Cancels its request. Kills the child if the request does not end soon. */
  cancel(reason: unknown): void {
    const { job } = this;
    if (job === null) return;
    job.cancelled = reason;
    this.#send({ type: "cancel", reason: toWire(reason) });
    const { server } = this.#owner;
    const late = (): void => {
      if (this.state === "busy" && this.job === job) this.kill(SocketError.from(reason, "ECONNABORTED"));
    };
    const asked = this.#asked;
    // A child that has not answered pings for a while is killed at once. Its messages are read before the immediate runs.
    if (asked === null || performance.now() - asked < this.#every / 2) later(server, late, CANCEL_GRACE);
    else setImmediate(() => (this.#asked === asked ? late() : later(server, late, CANCEL_GRACE)));
  }

  /** Ends a child that is no longer needed: it exits by itself, or is killed. */
  end(): void {
    this.state = "ending";
    this.#later(() => this.kill(), END_GRACE);
    if (this.#process.connected) this.#process.disconnect();
  }

  kill(why?: SocketError): void {
    this.why ??= why ?? null;
    this.#process.kill("SIGKILL");
  }

  /** Makes `ready` reject: the child will not become ready. */
  over(error: SocketError): void {
    this.#started.reject(error);
  }

  #send(order: Order, socket?: net.Socket): void {
    if (!this.#process.connected) return; // it is gone, which "close" will report
    this.#process.send(order, socket, { keepOpen: true }, () => {});
  }

  #lost(code: number | null, signal: string | null): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#stopTimer?.();
    this.#owner.lost(this, code, signal);
  }

  #hear(report: Report): void {
    if (this.#gone) return;
    this.#asked = null;
    const { job } = this;
    switch (report.type) {
      case "ready":
        this.#started.resolve();
        this.#owner.ready(this);
        break;
      case "unfit": {
        const { name, module } = this.source;
        this.why = wrapped(`a child cannot serve with ${name} of ${module}`, report.error);
        break;
      }
      case "crashed":
        this.why ??= wrapped("an error of the handler was not caught", report.error);
        break;
      case "begun":
        this.begun = true;
        break;
      case "pong":
        // The answer may come when the request is over: Node holds a ping back until the child has the connection.
        if (job?.id === report.id) job.counts = report;
        break;
      case "shutdown":
        this.#owner.server.shutdown();
        break;
      case "handshake":
        if (job?.id === report.id) job.handshake(report);
        break;
      case "passed":
        if (job?.id === report.id) job.passed(report.passed);
        break;
      case "emit":
        if (job?.id === report.id) job.emit(report.detail);
        break;
      case "reply":
        if (job?.id === report.id) job.reply(report.data);
        break;
      case "pools":
        this.pools = report.pools;
        break;
      case "dropped":
        if (job?.id === report.id) job.dropped(report.sizes);
        break;
      case "end":
        if (this.state !== "busy" || job === null) return; // it was killed meanwhile
        this.served++;
        job.counts = report;
        job.kept = report.kept;
        job.cut = report.cut;
        if (report.error === null) job.resolve(report.result);
        else job.reject(fromWire(report.error));
        this.#owner.free(this);
    }
  }

  /** Pings it from time to time, while it has a request. */
  #watch(now = performance.now()): void {
    const { blockTimeout } = this.#owner.server;
    const limit = blockTimeout ?? Number.POSITIVE_INFINITY;
    const deaf = this.#asked === null ? 0 : now - this.#asked;
    if (deaf >= limit) {
      const said = `the handler held its process for more than ${wholeMs(limit)} (blockTimeout): an endless loop?`;
      this.kill(new SocketError("ETIMEDOUT", said));
      return;
    }
    if (this.#asked === null) {
      this.#asked = now;
      this.#send({ type: "ping" });
    }
    this.#later((now) => this.#watch(now), Math.min(this.#every, Math.max(limit - deaf, 1)));
  }

  /** ms until the next ping. */
  get #every(): number {
    const { blockTimeout, requestTimeout, idleTimeout } = this.#owner.server;
    const limits = [blockTimeout, requestTimeout, idleTimeout].filter((limit) => limit !== null);
    return Math.max(1, Math.min(PING, ...limits.map((limit) => limit / 4)));
  }

  /** Sets its one timer. */
  #later(task: (now: number) => void, ms: number): void {
    this.#stopTimer?.();
    this.#stopTimer = later(this.#owner.server, task, ms);
  }
}

const wrapped = (what: string, wire: WireError): SocketError => {
  const cause = fromWire(wire);
  return new SocketError("ERR_HANDLER", `${what}: ${describe(cause).message}`, { cause });
};
