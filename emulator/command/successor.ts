/**
 * A restart without downtime: SIGUSR2 has this program start its own successor, on the same listening sockets, and end when that serves.
 *
 *     this process                            its successor
 *     starts it, with `--fd` for each socket
 *                                             opens the app on them, serves            { type: "serving" }
 *     tells the service manager of it
 *     accepts no more, serves what it has
 *     lets go of the sessions that last       { type: "released" }                     goes on with them
 *     ends                                    (the channel closes)
 *
 * Both accept for a moment, and no connection finds nobody: the sockets are never closed. Where the successor does not come to serve,
 * it is ended, and this process goes on as before.
 */

import type { ChildProcess } from "node:child_process";
import type { ListenDescriptor } from "../app/descriptors.ts";
import { lazy } from "../builtin.ts";

const START_LIMIT = 60_000; // ms that a successor has until it serves
const FIRST_DESCRIPTOR = 4; // behind the three standard ones and the channel

/** Set for a successor: what it is told by its predecessor. */
const MARK = "SOCKLET_SUCCESSOR";

/** What the first process tells its successor when it starts. */
interface Inheritance {
  readonly ticketKeys: Uint8Array;
  /** The tokens of the control routes, where they were made. */
  readonly tokens: string | undefined;
  /** Whose file, of the sockets in their order, goes when it is closed. */
  readonly removePaths: readonly boolean[];
}

type Told =
  | ({ readonly type: "inherit" } & Inheritance)
  | { readonly type: "released" }
  | { readonly type: "serving" };

/** The words of this command without those that a successor is given anew. */
const wordsWithoutDescriptors = (words: readonly string[]): string[] =>
  words.filter((word, i) => !(word === "--fd" || word.startsWith("--fd=") || words[i - 1] === "--fd"));

/** The program that takes over. */
export class Successor {
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.#process = process;
  }

  get pid(): number {
    return this.#process.pid ?? -1;
  }

  /** Starts it; resolves when it serves. Rejects with an `Error` that says why it does not; then it has ended. */
  static async start(
    descriptors: readonly ListenDescriptor[],
    inheritance: Inheritance,
    signal: AbortSignal,
  ): Promise<Successor> {
    const [program = "", ...words] = process.argv.slice(1);
    const flags = descriptors.flatMap(({ name }, i) => ["--fd", `${name}=${FIRST_DESCRIPTOR + i}`]);
    const child = lazy.childProcess.spawn(
      process.execPath,
      [...process.execArgv, program, ...wordsWithoutDescriptors(words), ...flags],
      {
        stdio: ["inherit", "inherit", "inherit", "ipc", ...descriptors.map(({ fd }) => fd)],
        env: { ...process.env, [MARK]: String(process.pid) },
        serialization: "advanced",
      },
    );
    const told: Told = { type: "inherit", ...inheritance };
    if (child.connected) child.send(told, () => {});
    const over = Promise.withResolvers<void>();
    child.once("error", (error) => over.reject(error));
    child.once("exit", (code, by) => over.reject(new Error(`it ended with ${by ?? `exit status ${code}`}`)));
    child.on("message", ({ type }: Told) => {
      if (type === "serving") over.resolve();
    });
    const stop = (): void => over.reject(new Error("this process was asked to stop"));
    signal.addEventListener("abort", stop);
    const late = setTimeout(
      () => over.reject(new Error(`it did not serve within ${START_LIMIT} ms`)),
      START_LIMIT,
    );
    try {
      await over.promise;
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    } finally {
      clearTimeout(late);
      signal.removeEventListener("abort", stop);
    }
    return new Successor(child);
  }

  /** The sessions that last are its to go on with. */
  release(): void {
    if (this.#process.connected) this.#process.send({ type: "released" }, () => {});
  }

  /** Nothing more is to be told to it: it goes on without this process. */
  leave(): void {
    if (this.#process.connected) this.#process.disconnect();
    this.#process.unref();
  }
}

/** The program before this one, where this one takes over from it. */
export class Predecessor {
  readonly pid: number;
  /** What it gives to this one. */
  readonly inheritance: Promise<Inheritance>;
  /** When the sessions that last are free. */
  readonly released: Promise<void>;

  private constructor(pid: number) {
    this.pid = pid;
    const inheritance = Promise.withResolvers<Inheritance>();
    const released = Promise.withResolvers<void>();
    this.inheritance = inheritance.promise;
    this.released = released.promise;
    inheritance.promise.catch(() => {});
    process.on("message", (told: Told) => {
      if (told.type === "inherit") inheritance.resolve(told);
      else if (told.type === "released") released.resolve();
    });
    process.once("disconnect", () => {
      inheritance.reject(new Error("the program before this one is gone"));
      released.resolve();
    });
  }

  /** `null` where this process was not started by one. */
  static of(): Predecessor | null {
    const { [MARK]: pid } = process.env;
    delete process.env[MARK];
    return pid === undefined || !process.connected ? null : new Predecessor(Number(pid));
  }

  /** This process serves: the one before it may end. */
  serving(): void {
    if (process.connected) process.send?.({ type: "serving" } satisfies Told);
    process.channel?.unref();
  }
}
