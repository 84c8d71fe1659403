/** A restart by SIGUSR2: a program that serves starts a successor, which takes over its sockets. */

import type { ListenDescriptor } from "../../app/listeners/descriptors.ts";
import { neededNode } from "../../runtime.ts";
import { describe, say } from "../terminal/output.ts";
import { notify } from "./notify.ts";
import { Successor } from "./successor.ts";

/** An app or a cluster that can hand over. */
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
  /** Called with the reason why a successor failed to serve. */
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

  /** Starts a successor, unless one is being started. Never rejects: if the successor fails to serve, that is printed, and this process continues. */
  async begin(): Promise<void> {
    if (this.#stop.aborted || this.#going) {
      say(`SIGUSR2: this process ${this.#stop.aborted ? "is ending" : "is starting its successor already"}`);
      return;
    }
    this.#going = true;
    say("SIGUSR2: starting a new program on the same sockets");
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
      say(`process ${successor.pid} serves now; this one finishes its requests`);
      await this.#server.handOver(() => successor.release()).finally(() => successor.leave());
      this.#replaced.resolve();
    } catch (error) {
      this.#going = false;
      const why = describe(error).replace(/^Error: /, "");
      say(`the new program could not start, and this one keeps serving: ${why}`);
      this.onRefused(why);
    }
  }
}
