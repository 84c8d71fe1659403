/** What a SIGUSR2 does to a program that serves: another process takes over; and `socklet restart`, which asks for that. */

import type { ListenDescriptor } from "../../app/descriptors.ts";
import { neededNode } from "../../runtime.ts";
import { allRunning, type Running, theRunning } from "../control/running.ts";
import { describe, print, printJson, say, UsageError } from "../terminal/output.ts";
import { notify } from "./notify.ts";
import { Successor } from "./successor.ts";

/** What hands over: an app, or a cluster. */
interface HandsOver {
  readonly control: { readonly token: string | null } | null;
  descriptors(): readonly ListenDescriptor[];
  handOver(released?: () => void): Promise<unknown>;
}

/** 48 random bytes for the ticket keys of all listeners, in this process and its successors. */
export const newTicketKeys = (): Uint8Array => crypto.getRandomValues(new Uint8Array(48));

/** The restarts of one program. */
export class Restarts {
  readonly #server: HandsOver;
  readonly #ticketKeys: Uint8Array;
  readonly #tokens: string | undefined;
  readonly #stop: AbortSignal;
  readonly #replaced = Promise.withResolvers<void>();
  #going = false;
  /** Told why a successor did not come to serve. */
  onRefused: (why: string) => void = () => {};

  /** `tokens`: those of the control routes, if they were generated and not given. `stop`: aborted when this process is to end. */
  constructor(
    server: HandsOver,
    inheritance: { readonly ticketKeys: Uint8Array; readonly tokens: string | undefined },
    stop: AbortSignal,
  ) {
    this.#server = server;
    this.#ticketKeys = inheritance.ticketKeys;
    this.#tokens = inheritance.tokens;
    this.#stop = stop;
  }

  /** Resolves when a successor serves, and this process has finished what it still had. */
  get replaced(): Promise<void> {
    return this.#replaced.promise;
  }

  /** Starts a successor, unless one is being started. Never rejects: if the successor does not come to serve, that is printed, and this process goes on. */
  async begin(): Promise<void> {
    if (this.#stop.aborted || this.#going) {
      say(`SIGUSR2: this process ${this.#stop.aborted ? "is ending" : "is starting its successor already"}`);
      return;
    }
    this.#going = true;
    say("SIGUSR2: starting the program anew on the same sockets");
    try {
      neededNode(
        "a restart",
        "the new program would inherit the listening sockets; stop it, and start it again",
      );
      const descriptors = this.#server.descriptors();
      const inheritance = {
        ticketKeys: this.#ticketKeys,
        removePaths: descriptors.map(({ removePath }) => removePath === true),
        tokens: this.#tokens ?? this.#server.control?.token ?? undefined,
      };
      const successor = await Successor.start(this.#server.descriptors(), inheritance, this.#stop);
      await notify(`MAINPID=${successor.pid}`); // by this process: the manager may accept it from no other
      say(`process ${successor.pid} serves now; this one ends what it has`);
      await this.#server.handOver(() => successor.release()).finally(() => successor.leave());
      this.#replaced.resolve();
    } catch (error) {
      this.#going = false;
      const why = describe(error).replace(/^Error: /, "");
      say(`the program could not be started anew, and this one goes on: ${why}`);
      this.onRefused(why);
    }
  }
}

const LOOK = 50; // ms between two looks at the notes of what runs: a start takes half a second

/**
 * `socklet restart`: has a server of this user's start its program anew on the same sockets, and waits until that serves. `pid`: which one,
 * where several run.
 */
export const restart = async (pid: number | undefined, { json }: { json?: boolean }): Promise<void> => {
  const noted = (which: number): Running | undefined => allRunning().find((one) => one.pid === which);
  const running = pid === undefined ? theRunning("its process id") : (noted(pid) ?? null);
  if (running === null) {
    const which = pid === undefined ? "none runs" : `none runs as process ${pid}`;
    throw new UsageError(`which server? Of yours with control routes ${which}; kill -USR2 restarts any`);
  }
  const before = running.pid;
  if (!running.restarts) {
    throw new Error(
      `process ${before} serves ${running.app} in workerd, which does not start anew by itself; end it, and start it again`,
    );
  }
  process.kill(before, "SIGUSR2");
  for (;;) {
    const old = noted(before); // first: the successor's note is there before this one is gone
    const successor = allRunning().find((one) => one.before === before);
    if (successor !== undefined) {
      if (json === true) return printJson({ before, pid: successor.pid, url: successor.url });
      return print(`process ${successor.pid} serves ${successor.app} in place of ${before}`);
    }
    if (old === undefined) throw new Error(`process ${before} has ended, and no other serves`);
    if (old.refused.times > running.refused.times) {
      throw new Error(
        `process ${before} goes on, since its program could not be started anew: ${old.refused.why}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK));
  }
};
