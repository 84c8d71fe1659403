/** The options of one stream: how long its calls wait, and how much is buffered. */

import { STREAM_LIMITS, type StreamLimits } from "../../bytes/data.ts";
import { checkCount, checkOptions, checkTime, checkWord, optionNamesOf } from "../../options.ts";

/** Options of one stream. Times are milliseconds, sizes bytes. */
export interface StreamOptions extends StreamLimits {
  /** How long one read waits for a byte, and one write for a peer that accepts nothing; `null`: no limit. Default 300 000, the five minutes of RFC 5321: a peer that is silent for longer is usually gone. */
  readonly timeout: number | null;
  /** The same for writes only; `undefined`: as `timeout`. `settimeout()` sets both. Default `undefined`: most users mean one limit. */
  readonly writeTimeout: number | null | undefined;
  /** How long `close()` waits for a peer that accepts none of what was written, before it aborts. Default 5 000. */
  readonly closeTimeout: number;
  /** How long `startTls()` may take. Default 10 000. */
  readonly handshakeTimeout: number;
}

export const STREAM_NAMES = optionNamesOf<StreamOptions>("a stream")({
  timeout: true,
  writeTimeout: true,
  closeTimeout: true,
  handshakeTimeout: true,
  maxLine: true,
  maxRead: true,
  maxPending: true,
  whenSlow: true,
  minWriteRate: true,
});

/** The defaults of `StreamOptions`. */
export const STREAM_OPTIONS: StreamOptions = {
  ...STREAM_LIMITS,
  timeout: 300_000,
  writeTimeout: undefined,
  closeTimeout: 5_000,
  handshakeTimeout: 10_000,
};

const settled = new WeakSet<object>();

/**
 * Checks `options` and fills in the defaults. A result of this function passes at once, so that a server settles its options once and
 * not for each connection. `path` is `"stream."` where they are one option of several. Throws `TypeError` or `RangeError`.
 */
export const settleStream = (options: Partial<StreamOptions> = {}, path = ""): StreamOptions => {
  if (settled.has(options)) return options as StreamOptions;
  checkOptions("a stream", options, STREAM_NAMES);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const whole: StreamOptions = { ...STREAM_OPTIONS, ...Object.fromEntries(given) };
  checkTime(`${path}timeout`, whole.timeout, 1, true);
  checkTime(`${path}writeTimeout`, whole.writeTimeout ?? null, 1, true);
  checkTime(`${path}closeTimeout`, whole.closeTimeout);
  checkTime(`${path}handshakeTimeout`, whole.handshakeTimeout);
  checkCount(`${path}maxLine`, whole.maxLine, 1);
  checkCount(`${path}maxRead`, whole.maxRead, 1);
  checkCount(`${path}maxPending`, whole.maxPending, 0);
  checkWord(`${path}whenSlow`, whole.whenSlow, ["cut", "throw"]);
  checkCount(`${path}minWriteRate`, whole.minWriteRate, 0);
  settled.add(whole);
  return whole;
};
