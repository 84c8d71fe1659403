/// <reference types="@cloudflare/workers-types" />
/**
 * A pool as a Worker's requests see it. Each call goes to one of the pool's objects.
 *
 * The objects take turns, starting with a random one. Isolates do not know of one another, and a cancelled request never
 * reports its end, so any count of how busy each object is would soon be wrong. Taking turns spreads the calls of one
 * isolate evenly, and those of many isolates statistically.
 */

import type { AppPool } from "../../core/app/app.ts";
import { SocketError } from "../../core/errors.ts";
import {
  CALL_NAMES,
  callLost,
  LEASE_NAMES,
  type Lease,
  type LeaseOptions,
  type PoolCallOptions,
  type PoolClient,
} from "../../core/handlers/client.ts";
import { checkOptions, wholeMs } from "../../core/options.ts";
import { packed, received, sent, unpacked } from "../../core/pool/values.ts";
import {
  type LeaseCalls,
  type Outcome,
  type Part,
  type PoolCalls,
  partsOf,
  type TurnCalls,
} from "./calls.ts";

/** A lease in a Worker. Its request's end gives it back, too: `using one = await pool.lease()`. */
export interface WorkerLease<Call = unknown, Reply = unknown> extends Lease<Call, Reply>, Disposable {}

/** A pool in a Worker. */
export interface WorkerPool<Call = unknown, Reply = unknown> extends PoolClient<Call, Reply> {
  lease(options?: LeaseOptions): Promise<WorkerLease<Call, Reply>>;
}

/** The order of turns. One for each pool and isolate. */
export class Turns {
  readonly #max: number;
  readonly #parts: number;
  #next: number;

  constructor(max: number) {
    this.#max = max;
    this.#parts = partsOf(max);
    this.#next = Math.floor(Math.random() * max);
  }

  /** The number of the next object; each comes up as often as it has connections. `not`: choose another than this one, if there is another. */
  next(not?: number): number {
    const part = this.#take();
    return part === not && this.#parts > 1 ? (part + 1) % this.#parts : part;
  }

  #take(): number {
    this.#next = (this.#next + 1) % this.#max;
    return this.#next % this.#parts;
  }
}

/** The object did not answer. */
class Lost {
  readonly cause: unknown;
  /** Whether the call may have begun. */
  readonly begun: boolean;

  constructor(cause: unknown, begun: boolean) {
    this.cause = cause;
    this.begun = begun;
  }
}

/** The result of `asked`; throws `Lost` if the object is lost. */
const reached = async <T>(asked: () => Promise<T>, begins: boolean): Promise<T> => {
  try {
    return await asked();
  } catch (cause) {
    // An overloaded object turns a call away before it runs.
    throw new Lost(cause, begins && (cause as { overloaded?: unknown } | null)?.overloaded !== true);
  }
};

/** Whether this is an outcome. Anything that is not copied comes as a stub, whose `typeof` is `function`. */
const isOutcome = (got: Outcome | object): got is Outcome => typeof got === "object";

/** Returns the reply, or throws the error. */
const settled = async (outcome: Outcome): Promise<unknown> => {
  const value = unpacked(await reached(() => received(outcome.parcel), true));
  if (outcome.failed) throw value;
  return value;
};

/** The result of `work`; rejects with the signal's reason if that aborts first. */
const unlessAborted = <T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> => {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(signal.reason);
    if (signal.aborted) aborted();
    signal.addEventListener("abort", aborted, { once: true });
    const over = (): void => signal.removeEventListener("abort", aborted);
    work.then(resolve, reject).finally(over);
  });
};

/** Disposes of a stub; the platform's types do not say that this is possible. */
const dispose = (stub: Disposable): void => stub[Symbol.dispose]();

const PAUSE = 50; // ms before another object is tried, times the attempts so far, plus up to half as much at random

/** What a pool's client needs. */
interface ClientSetup {
  readonly name: string;
  readonly entry: AppPool;
  readonly address: string;
  readonly turns: Turns;
  /** The object with that number. Called for each call, because a stub belongs to the request that made it. */
  objectOf(part: number): PoolCalls;
}

/** A pool, for the requests of one isolate. */
export class BoundPool<Call, Reply> implements WorkerPool<Call, Reply> {
  readonly #setup: ClientSetup;

  constructor(setup: ClientSetup) {
    this.#setup = setup;
  }

  async call(call: Call, options: PoolCallOptions = {}): Promise<Reply> {
    checkOptions("a call of a pool", options, CALL_NAMES);
    const { signal, repeatable = false } = options;
    signal?.throwIfAborted();
    const bytes = packed("the call", call);
    const { maxAttempts } = this.#setup.entry.limits;
    let begun = 0;
    const reply = await this.#onSome(signal, async (object, part) => {
      try {
        return await this.#ask(object, part, bytes, repeatable, signal);
      } catch (error) {
        if (!(error instanceof Lost) || !error.begun) throw error;
        if (!repeatable || ++begun === maxAttempts) throw callLost(error.cause, this.#setup.address);
        throw error;
      }
    });
    return reply as Reply;
  }

  async lease(options: LeaseOptions = {}): Promise<WorkerLease<Call, Reply>> {
    checkOptions("a lease of a pool", options, LEASE_NAMES);
    const { signal } = options;
    signal?.throwIfAborted();
    return this.#onSome(signal, async (object, part) => {
      const asked = reached(() => object.lease(part), false);
      let got: Outcome | LeaseCalls;
      try {
        got = await unlessAborted(signal, asked);
      } catch (error) {
        const tooLate = (late: Outcome | LeaseCalls): void => {
          if (!isOutcome(late)) dispose(late);
        };
        asked.then(tooLate, () => {});
        throw error;
      }
      if (isOutcome(got)) throw await settled(got);
      return new BoundLease<Call, Reply>(got, this.#setup.address, signal);
    });
  }

  /** Asks an object. If it is lost before anything has begun, or if the call may be repeated, asks another one, for up to `waitTimeout`. */
  async #onSome<T>(
    signal: AbortSignal | undefined,
    ask: (object: PoolCalls, part: Part) => Promise<T>,
  ): Promise<T> {
    const { name, entry, turns, address } = this.#setup;
    const { waitTimeout } = entry.limits;
    const since = Date.now();
    let number: number | undefined;
    for (let attempt = 1; ; attempt++) {
      number = turns.next(number);
      try {
        return await ask(this.#setup.objectOf(number), { pool: name, part: number });
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        const pause = Math.ceil(PAUSE * attempt * (1 + Math.random() / 2));
        if (Date.now() + pause - since > waitTimeout) {
          const message = `no object of the pool ${name} answered within ${wholeMs(waitTimeout)}`;
          throw new SocketError("ETIMEDOUT", message, { address, cause: error.cause });
        }
        await unlessAborted(signal, new Promise<void>((resolve) => setTimeout(resolve, pause)));
      }
    }
  }

  async #ask(
    object: PoolCalls,
    part: Part,
    bytes: Uint8Array,
    repeatable: boolean,
    signal: AbortSignal | undefined,
  ): Promise<unknown> {
    // Only a place in the line can be given up.
    const got = await (signal === undefined
      ? reached(() => object.call(part, sent(bytes), repeatable), true)
      : reached(() => object.turn(part), false));
    if (isOutcome(got)) return settled(got);
    try {
      return await unlessAborted(signal, inTurn(got, bytes, repeatable));
    } finally {
      if (signal?.aborted) got.leave().catch(() => {}); // its object is lost
      dispose(got);
    }
  }
}

const inTurn = async (turn: TurnCalls, bytes: Uint8Array, repeatable: boolean): Promise<unknown> => {
  const instead = await reached(() => turn.come(), false);
  if (instead !== null) return settled(instead);
  return settled(await reached(() => turn.begin(sent(bytes), repeatable), true));
};

/** A lease, for the request that took it. */
class BoundLease<Call, Reply> implements WorkerLease<Call, Reply> {
  readonly #lease: LeaseCalls;
  readonly #address: string;
  readonly #signal: AbortSignal | undefined;
  readonly #aborted = (): void => void this.#end(this.#signal?.reason);
  #over: { readonly why: unknown } | null = null;
  #released: Promise<void> | null = null;

  constructor(lease: LeaseCalls, address: string, signal: AbortSignal | undefined) {
    this.#lease = lease;
    this.#address = address;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#aborted, { once: true });
  }

  async call(call: Call, options: Pick<PoolCallOptions, "signal"> = {}): Promise<Reply> {
    checkOptions("a call of a lease", options, LEASE_CALL_NAMES);
    const { signal } = options;
    signal?.throwIfAborted();
    if (this.#over !== null) throw this.#over.why;
    const bytes = packed("the call", call);
    try {
      const asked = reached(() => this.#lease.call(sent(bytes)), true);
      const outcome = await unlessAborted(signal, unlessAborted(this.#signal, asked));
      return (await settled(outcome)) as Reply;
    } catch (error) {
      if (error instanceof Lost) {
        void this.#end(lostLease(error.cause));
        throw callLost(error.cause, this.#address);
      }
      if (signal?.aborted) void this.#end(lostLease(signal.reason)); // the reply may still come: its connection is given up
      throw error;
    }
  }

  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async #release(): Promise<void> {
    if (this.#over === null) await this.#end(givenBack());
  }

  /** Gives the lease back; `why` is the error of later calls. Never rejects. */
  async #end(why: unknown): Promise<void> {
    if (this.#over !== null) return;
    this.#over = { why };
    this.#signal?.removeEventListener("abort", this.#aborted);
    const released = this.#lease.release(); // disposing alone is not enough: calls under way keep the stub
    dispose(this.#lease);
    try {
      await released;
    } catch {} // its object is lost, and the connection with it
  }

  [Symbol.dispose](): void {
    void this.#end(givenBack());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

const { repeatable: _, ...LEASE_CALL_NAMES } = CALL_NAMES;

const givenBack = (): SocketError => new SocketError("EBADF", "the lease was given back");

const lostLease = (cause: unknown): SocketError =>
  new SocketError("ENOTCONN", "the connection of this lease is lost; take another lease", { cause });
