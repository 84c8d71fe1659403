/** One child of a forking server: how its process is run, and the request that it has. */

import type { ChildProcess } from "node:child_process";
import type net from "node:net";
import type { SocketError } from "../../../core/errors.ts";
import type { Address, UnixAddress } from "../../../core/net/address.ts";
import type { ProxyHeader } from "../../../core/net/proxy-header.ts";
import { fileURLToPath, lazy } from "../../builtin.ts";
import type { HandlerSource } from "./handler-source.ts";
import type { Counts, Order } from "./messages.ts";

const SOURCES = import.meta.url.endsWith(".ts"); // else dist/
const CONDITION = "--conditions=socklet:source";
/** What a child runs: in dist/ it lies beside this code. */
export const PROGRAM = fileURLToPath(new URL(`forking-child.${SOURCES ? "ts" : "js"}`, import.meta.url));

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

/** Starts a child: this process's options, and `execArgv` after them. */
export const fork = (execArgv: readonly string[]): ChildProcess =>
  lazy.childProcess.fork(PROGRAM, [], {
    execArgv: [...inherited(), ...execArgv],
    env: environment(),
    serialization: "advanced", // bytes are bytes
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });

/** A request on its way through a child. */
export interface Job {
  readonly id: number;
  readonly address: Address | null;
  readonly local: UnixAddress | null;
  readonly request: unknown;
  /** The connection, of which this process keeps its own descriptor until the request is over. */
  readonly socket: net.Socket | null;
  /** What was read of it here, which the child is to read first. */
  readonly read: Uint8Array | null;
  /** What its proxy said. */
  readonly proxy: ProxyHeader | null;
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

/** A child process, and what it does. */
export class Child {
  readonly process: ChildProcess;
  /** The handler that it has. */
  readonly source: HandlerSource;
  /** `restarted` after this delay in ms, or `null`. */
  readonly delay: number | null;
  // Not PromiseWithResolvers, which the projects of users need not have.
  readonly ready: { readonly promise: Promise<void>; resolve(): void; reject(error: unknown): void } =
    Promise.withResolvers();
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
