/** Limits how many connections one request has open. */

import { checkCount } from "../../options.ts";

/**
 * Limits how many connections one request has open. The platform allows six, and silently leaves a seventh hanging
 * (Workers limits, "Simultaneous outgoing connections"). Here it waits its turn.
 */
export class ConnectionSlots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  /** `most`: how many connections may be open at once. Default 6, as the platform allows. */
  constructor(most = 6) {
    this.#free = checkCount("the number of slots", most, 1);
  }

  /** How many more may be opened at once. */
  get free(): number {
    return this.#free;
  }

  /** Waits for a slot, and returns a function that frees it. Rejects with the reason of `signal`. */
  async take(signal?: AbortSignal): Promise<() => void> {
    if (this.#free > 0) this.#free--;
    else await this.#turn(signal);
    let taken = true;
    return () => {
      if (!taken) return;
      taken = false;
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    };
  }

  #turn(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const turn = (): void => {
        signal?.removeEventListener("abort", aborted);
        resolve();
      };
      const aborted = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(signal?.reason);
      };
      this.#waiting.push(turn);
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }
}
