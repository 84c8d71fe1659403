/** Lasting sessions: the option `keep` of an entry of an app's `dial`, and the interface that keeps a handler's state. */

import { checkCount, checkTime, MAX_TIMER, optionNamesOf, wholeMs } from "../options.ts";

/** When a lasting session is dialled again. Times are milliseconds. */
export interface RedialOptions {
  /**
   * The pause before a redial, less up to half by chance, so that clients that lost the same server do not all come back at
   * once. It doubles after each further attempt that did not last. Default 1 000: a server takes about that long to
   * restart.
   */
  readonly retryDelay?: number;
  /** The longest pause. Default 60 000: a server that is back is found within a minute, and one that is gone costs 1 440 dials a day. */
  readonly maxRetryDelay?: number;
  /**
   * How many attempts in a row may end before `steady`. Then the session ends with the outcome of the last, or waits for
   * the next time of its `schedule`. `null` for any number. Default `null`: a lasting session outlasts any outage.
   */
  readonly maxAttempts?: number | null;
  /** How long a connection must have been open to count as one that lasted; then the pauses start again from `retryDelay`. Default 10 000: a server that refuses after a log-in does so sooner. */
  readonly steady?: number;
}

const REDIAL_NAMES = optionNamesOf<RedialOptions>("redial of a kept session")({
  retryDelay: true,
  maxRetryDelay: true,
  maxAttempts: true,
  steady: true,
});

/** How a session lasts. `{}` has the defaults. */
export interface KeepOptions {
  /** When it is dialled again, after an end, an error, a reset, an eviction or a deployment. */
  readonly redial?: RedialOptions;
  /** Whether a new connection finds the state that earlier connections saved. Default `true`; `false`: each begins with the handler's `initialState`. */
  readonly resume?: boolean;
  /**
   * Cron, five fields in UTC (`"0 6 * * 1-5"`: on weekdays at six): the session waits, is dialled at these times, and waits
   * again when its handler has returned. If times passed while its process was down, it is dialled once. Default: it is
   * dialled at once, and again whenever its connection ends.
   */
  readonly schedule?: string;
}

export const KEEP_NAMES = optionNamesOf<KeepOptions>("an entry of dial that is kept")({
  redial: REDIAL_NAMES,
  resume: "boolean",
  schedule: "string",
});

/** `KeepOptions`, with the defaults filled in. */
export interface Keep {
  readonly redial: Required<RedialOptions>;
  readonly resume: boolean;
  readonly schedule: string | null;
}

/** `options` with the defaults filled in. The `schedule` is checked where it is used. Throws `TypeError` and `RangeError`. */
export const settleKeep = (options: KeepOptions): Keep => {
  const { redial = {}, resume = true, schedule = null } = options;
  const { retryDelay = 1_000, maxRetryDelay = 60_000, maxAttempts = null, steady = 10_000 } = redial;
  checkTime("redial.retryDelay", retryDelay, 1);
  if (maxRetryDelay < retryDelay) {
    throw new RangeError(
      `redial.maxRetryDelay is ${wholeMs(maxRetryDelay)}, less than redial.retryDelay, ${wholeMs(retryDelay)}`,
    );
  }
  return {
    redial: {
      retryDelay,
      maxRetryDelay: checkTime("redial.maxRetryDelay", maxRetryDelay, 1),
      maxAttempts: maxAttempts === null ? null : checkCount("redial.maxAttempts", maxAttempts, 1),
      steady: checkTime("redial.steady", steady, 0),
    },
    resume,
    schedule,
  };
};

/** The pause in ms before the next attempt, after `failures` attempts in a row that did not last. */
export const redialDelay = ({ retryDelay, maxRetryDelay }: Keep["redial"], failures: number): number => {
  const longest = Math.min(
    maxRetryDelay,
    retryDelay * 2 ** Math.min(Math.max(failures - 1, 0), 31),
    MAX_TIMER,
  );
  return Math.ceil(longest * (1 - Math.random() / 2));
};

/** Keeps a handler's state beyond its connection: a session of an entry of `dial` with `keep`. */
export interface StateKeeper {
  /** What was saved last; `undefined` if nothing was. A copy, which may be changed. */
  readonly state: unknown;
  /** As `BaseRequestHandler.save`. */
  save(state: unknown): Promise<void>;
  /** As `BaseRequestHandler.done`. */
  done(): void;
}
