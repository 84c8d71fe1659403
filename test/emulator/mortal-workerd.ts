/** workerd whose process can be killed and started again, with the same storage. */

import type { ChildProcess } from "node:child_process";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { Log, LogLevel, Miniflare } from "miniflare";

export interface MortalWorkerd extends AsyncDisposable {
  /** The Miniflare that runs it now. */
  readonly miniflare: Miniflare;
  /** Its current address: a new port after each kill. */
  readonly origin: string;
  /** Ends the process by SIGKILL; resolves when another serves. */
  kill(): Promise<void>;
}

/** Starts workerd. `direct`: it answers without Miniflare's own Worker in front, for which its options say so. */
export const mortalWorkerd = async (
  options: ConstructorParameters<typeof Miniflare>[0],
  direct = false,
): Promise<MortalWorkerd> => {
  const begin = async () => {
    const children: ChildProcess[] = [];
    const started = (message: unknown): void => {
      children.push((message as { process: ChildProcess }).process);
    };
    subscribe("child_process", started); // Miniflare does not tell it
    const miniflare = new Miniflare({ ...options, log: new Log(LogLevel.NONE) } as typeof options);
    const ready = await miniflare.ready;
    const { origin } = direct ? await miniflare.unsafeGetDirectURL() : ready;
    unsubscribe("child_process", started);
    return { miniflare, origin, process: children.find(({ spawnfile }) => spawnfile.includes("workerd")) };
  };
  let running = await begin();
  return {
    get miniflare() {
      return running.miniflare;
    },
    get origin() {
      return running.origin;
    },
    async kill() {
      running.process?.kill("SIGKILL");
      await running.miniflare.dispose(); // it would start workerd again, on a port that somebody else may have by then
      running = await begin();
    },
    [Symbol.asyncDispose]: () => running.miniflare.dispose(),
  };
};
