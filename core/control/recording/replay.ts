/** Replays bytes to a server, over any kind of connection, for `POST /v1/replays`. */

import { deadline } from "../../bytes/alarm.ts";
import type { MaybePromise } from "../../bytes/data.ts";
import { errorInfo, SocketError } from "../../errors.ts";
import { SHUT_WR } from "../../net/constants.ts";
import { wholeMs } from "../../options.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { formatEvent, type Transcript } from "../../testing/transcript/form.ts";
import { Log, record } from "../../testing/transcript/record.ts";
import type { ErrorInfo, Replayed, ReplaySpec } from "../plane.ts";

const SILENCE = 300; // ms to wait for an answer before the next piece is sent anyway
const QUIET = 30; // ms of silence that complete an answer: on one machine its pieces are closer together

/** Waits for answers. */
class Answers {
  readonly #deadline: AbortSignal;
  readonly #until: number;
  #count = 0;
  #ended = false;
  #wake = (): void => {};

  /** `timeout`: ms until `deadline`. */
  constructor(deadline: AbortSignal, timeout: number) {
    this.#deadline = deadline;
    this.#until = performance.now() + timeout;
    deadline.addEventListener("abort", () => this.#wake());
  }

  /**
   * ms to wait for the answer to `piece`. An early next piece loses nothing. An early end does: many servers end with their
   * client and drop their pending output. So the last piece has half of the remaining time.
   */
  patienceFor(piece: Uint8Array, last: boolean): number {
    return last && piece.length > 0 ? Math.max(SILENCE, (this.#until - performance.now()) / 2) : SILENCE;
  }

  /** Something came. */
  came(): void {
    this.#count++;
    this.#wake();
  }

  /** No more comes. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  get over(): boolean {
    return this.#ended || this.#deadline.aborted;
  }

  /** The number of pieces of answers so far. */
  get count(): number {
    return this.#count;
  }

  /** Resolves when the answer after the first `before` pieces is complete, when none comes within `patience` ms, or when no more can come. */
  async whole(before: number, patience: number): Promise<void> {
    let seen = before;
    while (!this.over) {
      if (this.#count === seen) {
        await this.#change(seen === before ? patience : QUIET);
        if (this.#count === seen) return;
      }
      seen = this.#count;
    }
  }

  /** Resolves when no more comes, or it is too late. */
  async all(): Promise<void> {
    while (!this.over) await this.#change(null);
  }

  #change(within: number | null): Promise<void> {
    return new Promise((resolve) => {
      const stopTimer = within === null ? null : deadline(within, () => resolve());
      this.#wake = () => {
        stopTimer?.();
        resolve();
      };
    });
  }
}

const shown = ({ events }: Transcript) => events.map((event) => JSON.parse(formatEvent(event)));

const infoOf = (failed: unknown): ErrorInfo | null =>
  failed === null ? null : errorInfo(failed, "ERR_CONNECT_FAILED");

/**
 * Sends the pieces on the connection that `open` makes, and returns what both sides sent; `address` is the server's, as text. Rejects if
 * `open` does, with `ETIMEDOUT` if that takes the whole time; what goes wrong later is in the answer. The connection is closed when this resolves.
 */
export const replayOnStream = async (
  address: string,
  spec: ReplaySpec,
  open: (signal: AbortSignal) => MaybePromise<StreamSocket>,
): Promise<Replayed> => {
  const { timeout } = spec;
  const deadline = AbortSignal.timeout(timeout);
  const answers = new Answers(deadline, timeout);
  let opened: StreamSocket;
  try {
    opened = await open(deadline);
  } catch (error) {
    if (error !== deadline.reason) throw error;
    throw new SocketError("ETIMEDOUT", `no connection to ${address} within ${wholeMs(timeout)}`);
  }
  const recording = record(opened, "client");
  const { stream: own } = recording;
  own.settimeout(null);
  let failed: unknown = null;
  let closing = false; // by this side, which cancels the read
  const reading = (async () => {
    for await (const bytes of own) if (bytes.length > 0) answers.came();
  })()
    .catch((error) => {
      if (!closing) failed = error;
    })
    .finally(() => answers.end());
  try {
    for (const [i, piece] of spec.pieces.entries()) {
      if (answers.over) break;
      const before = answers.count;
      if (piece.length > 0) await own.sendall(piece);
      await own.wfile.flush();
      await answers.whole(before, answers.patienceFor(piece, i === spec.pieces.length - 1));
    }
    if (spec.halfClose) {
      if (!answers.over) await own.shutdown(SHUT_WR);
      await answers.all();
    }
  } catch (error) {
    failed ??= error;
  }
  closing = true;
  if (deadline.aborted) {
    failed ??= new SocketError("ETIMEDOUT", `the server has not ended after ${wholeMs(timeout)}`);
    own.abort();
  } else await own.close().catch(() => {}); // the transcript shows what was lost
  await reading;
  return { address, events: shown(recording.transcript), error: infoOf(failed) };
};

/** A socket that sends the datagrams of a replay. */
export interface ReplaySocket {
  send(bytes: Uint8Array): void;
  close(): void;
}

/** What such a socket reports from the server's side. */
export interface ReplayHearer {
  came(bytes: Uint8Array): void;
  failed(error: unknown): void;
}

/** The same over datagrams: each piece is one. */
export const replayByDatagrams = async (
  address: string,
  { pieces, timeout }: ReplaySpec,
  open: (hearer: ReplayHearer) => MaybePromise<ReplaySocket>,
): Promise<Replayed> => {
  const answers = new Answers(AbortSignal.timeout(timeout), timeout);
  const log = new Log("datagrams", {});
  let failed: unknown = null;
  const socket = await open({
    came: (bytes) => {
      log.said("server", bytes);
      answers.came();
    },
    failed: (error) => {
      failed = error;
      answers.end();
    },
  });
  try {
    for (const [i, piece] of pieces.entries()) {
      if (answers.over) break;
      const before = answers.count;
      log.said("client", piece);
      socket.send(piece);
      await answers.whole(before, answers.patienceFor(piece, i === pieces.length - 1));
    }
  } finally {
    socket.close();
  }
  return { address, events: shown(log.transcript), error: infoOf(failed) };
};
