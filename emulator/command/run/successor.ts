/**
 * A restart without downtime: at SIGUSR2 this program starts its own successor, on the same listening sockets, and ends when that serves.
 *
 *     this process                            its successor
 *     starts it, with `--fd` for each socket
 *                                             opens the app on them, serves            { type: "serving" }
 *     notifies the service manager
 *     stops accepting, serves what it has
 *     releases the lasting sessions           { type: "released" }                     continues them
 *     ends                                    (the channel closes)
 *
 * Both accept for a moment, and no connection is refused: the sockets are never closed. If the successor fails to serve,
 * it is ended, and this process continues as before.
 */

import type { ChildProcess } from "node:child_process";
import { deadline } from "../../../core/bytes/alarm.ts";
import type { ListenDescriptor } from "../../app/listeners/descriptors.ts";
import { lazy } from "../../builtin.ts";

const START_LIMIT = 60_000; // ms for a successor to begin to serve
const FIRST_DESCRIPTOR = 4; // after the three standard ones and the channel

/** The environment variable by which a predecessor passes data to its successor. */
const MARK = "SOCKLET_SUCCESSOR";

/** What a process passes to its successor at its start. */
interface Inheritance {
  readonly ticketKeys: Uint8Array;
  /** The tokens of the control routes, if they were generated. */
  readonly tokens: string | undefined;
  /** For each socket in order, whether its file is removed when it is closed. */
  readonly removePaths: readonly boolean[];
}

type Told =
  | ({ readonly type: "inherit" } & Inheritance)
  | { readonly type: "released" }
  | { readonly type: "serving" };

/** The arguments of this command without those that a successor gets new. */
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

  /** Starts it; resolves when it serves. If it does not, rejects with an `Error` that says why; it has ended then. */
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
    const stopTimer = deadline(START_LIMIT, () =>
      over.reject(new Error(`it did not serve within ${START_LIMIT} ms`)),
    );
    try {
      await over.promise;
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    } finally {
      stopTimer();
      signal.removeEventListener("abort", stop);
    }
    return new Successor(child);
  }

  /** Tells it that it may continue the lasting sessions. */
  release(): void {
    if (this.#process.connected) this.#process.send({ type: "released" }, () => {});
  }

  /** Closes the channel: the successor continues without this process. */
  leave(): void {
    if (this.#process.connected) this.#process.disconnect();
    this.#process.unref();
  }
}

/** The process that this one takes over from. */
export class Predecessor {
  readonly pid: number;
  /** The data that it passes to this one. */
  readonly inheritance: Promise<Inheritance>;
  /** Resolves when the lasting sessions are free. */
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

  /** `null` if this process was not started by one. */
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
