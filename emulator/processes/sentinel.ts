/** The process that kills the children of a server whose process died. */

import type { ChildProcess } from "node:child_process";
import type { Writable } from "node:stream";
import { lazy, once } from "../builtin.ts";

const SENTINEL_LIFE = 1_000; // ms; a sentinel that ended sooner is not started again

/**
 * Kills the remaining children when this process dies. They end by themselves when the channel to their parent
 * closes, but one in an endless loop does not notice, and would run on for ever. One process for all takes 9 MB of its
 * own; a thread in each child that watched for it would take 10 MB there, and 60 ms of its start.
 */
export class Sentinel {
  static #one: Sentinel | undefined;
  static #users = 0;

  /** For an owner of children, which calls `release()` when it has no more. */
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
    sentinel.on("error", () => {}); // everything works without it
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
