/** The form of a fault rule, as an app declares it. `core/testing/faults/`, which no Worker bundles, applies the rules. */

/** What a rule can do. */
export type FaultName =
  | "latency"
  | "rate"
  | "slice"
  | "slow-close"
  | "stall"
  | "silence"
  | "close"
  | "reset"
  | "loss"
  | "duplicate"
  | "reorder"
  | "corrupt";

/** One of the two sides: the client dialled or sent first, the server accepted. */
export type Speaker = "client" | "server";

/**
 * One rule. Times are milliseconds, sizes bytes. Without `after`, `match`, `connection`, `in` and `for` it applies from the first byte of
 * every connection, for as long as it is set.
 */
export interface FaultRule {
  /** Its name in events. Default: `rule-1`, and so on. */
  readonly name?: string;
  /**
   * `latency`: everything is delayed by `latency` ms, plus at most `jitter`. `rate`: `rate` bytes a second pass. `slice`: pieces of 1 to
   * `slice` bytes, `delay` ms apart. `slow-close`: the end comes `delay` ms later. `stall`: nothing more is taken, while the rule applies.
   * `silence`: bytes are lost without a report. `close`: the end follows. `reset`: the connection breaks. The last two happen
   * `delay` ms after they are due, and until then nothing passes.
   * For datagrams: `loss`, `duplicate`, `reorder`, `corrupt` (one bit).
   */
  readonly fault: FaultName;
  /** Which side's bytes: those of the `client` or of the `server`. Default: both. */
  readonly from?: Speaker;
  /** The probability that a connection, or a datagram, is hit: from 0, never, to 1, always. Default 1. */
  readonly likelihood?: number;
  readonly latency?: number;
  readonly jitter?: number;
  readonly rate?: number;
  readonly slice?: number;
  readonly delay?: number;
  /** Applies after this many bytes in that direction. For datagrams: after this many datagrams. */
  readonly after?: number;
  /** Applies after the first occurrence of these bytes (text is UTF-8). For datagrams: to those that contain them. */
  readonly match?: string;
  /** Applies only to this connection, or to this client's datagrams: the first is 1. */
  readonly connection?: number;
  /** Applies this long after the rule was set; until then it does nothing. */
  readonly in?: number;
  /** Applies for this long; then it does nothing more. */
  readonly for?: number;
}
