/** The form of a rule of faults, as an app declares it. What rules do is `core/testing/faults/`, which no Worker carries. */

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

/** Who speaks: whoever dialled or sent first, and whoever accepted. */
export type Speaker = "client" | "server";

/**
 * One rule. Times are milliseconds, sizes bytes. Without `after`, `match`, `connection`, `in` and `for` it holds from the first byte of
 * every connection, as long as it is set.
 */
export interface FaultRule {
  /** How events call it. Default: `rule-1`, and so on. */
  readonly name?: string;
  /**
   * `latency`: all is `latency` ms under way, and `jitter` more at most. `rate`: `rate` bytes a second pass. `slice`: pieces of 1 to
   * `slice` bytes, `delay` ms apart. `slow-close`: the end comes `delay` ms later. `stall`: nothing more is taken, while the rule holds.
   * `silence`: what is said is lost, and nobody is told. `close`: the end follows. `reset`: the connection breaks. The last two
   * `delay` ms after they are due, and until then nothing passes.
   * Of datagrams: `loss`, `duplicate`, `reorder`, `corrupt` (one bit).
   */
  readonly fault: FaultName;
  /** Whose words: of the `client`, of the `server`. Default: both. */
  readonly from?: Speaker;
  /** How likely a connection is hit, or of datagrams each of them: 0, never, to 1, always. Default 1. */
  readonly likelihood?: number;
  readonly latency?: number;
  readonly jitter?: number;
  readonly rate?: number;
  readonly slice?: number;
  readonly delay?: number;
  /** From behind so many bytes of that direction on. Of datagrams: so many datagrams. */
  readonly after?: number;
  /** From behind the first place where these bytes are said (text is UTF-8). Of datagrams: those that have them in it. */
  readonly match?: string;
  /** Of this connection alone, or of this client's datagrams: the first is 1. */
  readonly connection?: number;
  /** So long after the rule was set; until then it does nothing. */
  readonly in?: number;
  /** For so long; then it does nothing more. */
  readonly for?: number;
}
