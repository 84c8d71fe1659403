/// <reference types="@cloudflare/workers-types" />
/**
 * The object of a pool: a share of its connections, which requests of all isolates use. A request may not use a connection
 * of another one, but all requests of an object may use those of the object.
 *
 * It stores nothing, and sets no alarm. While its connections are open the platform keeps it alive, for a time; once they
 * have been closed as idle the platform evicts it, and nothing is lost.
 */

import type { App, AppPool } from "../../core/app/app.ts";
import type { MaybePromise } from "../../core/bytes/data.ts";
import { errorText } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { Lease, PoolInfo } from "../../core/handlers/client.ts";
import type { OnEvent } from "../../core/handlers/events.ts";
import { formatAddress } from "../../core/net/address.ts";
import { type DialledPoolOptions, dialledPool } from "../../core/pool/dialled.ts";
import type { Pool } from "../../core/pool/pool.ts";
import { NOTHING_NOW } from "../../core/pool/sum.ts";
import { type Parcel, packed, received, sent, unpacked } from "../../core/pool/values.ts";
import type { SockletBindings } from "../objects/bindings.ts";
import { type PoolAccess, platformOf } from "../objects/platform.ts";
import { PlatformObject, type PlatformState, PlatformTarget } from "../platform.ts";
import type { TCPConnector } from "../sockets/connector.ts";
import {
  type LeaseCalls,
  type Outcome,
  type Part,
  type PoolCalls,
  partsOf,
  shareOf,
  type TurnCalls,
} from "./calls.ts";
import { Gate } from "./gate.ts";

/** What a pool's object needs to know. */
interface PoolObjectSetup {
  readonly app: App;
  /** The app's pools, for its context: a handler of one may call another. */
  readonly pools: PoolAccess;
  readonly onEvent?: OnEvent | undefined;
  /** What dials. */
  readonly Connector: typeof TCPConnector;
}

/** A pool and its gate. */
interface Open {
  readonly pool: Pool;
  readonly gate: Gate;
}

/** One object of a pool. `poolsFor(app).Pool` is this class for that app. */
export class PoolObject extends PlatformObject<SockletBindings> implements PoolCalls {
  readonly #setup: PoolObjectSetup;
  #opening: Promise<Open> | null = null;
  #open: Open | null = null;

  constructor(state: PlatformState, env: unknown, setup: PoolObjectSetup) {
    super(state, env as SockletBindings);
    this.#setup = setup;
  }

  async call(part: Part, call: Parcel, repeatable: boolean): Promise<Outcome | TurnCalls> {
    try {
      const open = this.#open ?? (await this.#made(part));
      if (!open.gate.enter()) return new Turn(open, false);
      return await made(open, call, repeatable);
    } catch (error) {
      return failure(error);
    }
  }

  async turn(part: Part): Promise<Outcome | TurnCalls> {
    try {
      const open = this.#open ?? (await this.#made(part));
      return new Turn(open, open.gate.enter());
    } catch (error) {
      return failure(error);
    }
  }

  async lease(part: Part): Promise<Outcome | LeaseCalls> {
    try {
      const { pool } = this.#open ?? (await this.#made(part));
      return new LeaseTarget(await pool.lease());
    } catch (error) {
      return failure(error);
    }
  }

  async info(part: Part): Promise<PoolInfo> {
    if (this.#open === null) return unused(part, this.#entry(part));
    const { pool, gate } = this.#open;
    const info = pool.info();
    return { ...info, waiting: info.waiting + gate.waiting };
  }

  #entry({ pool }: Part): AppPool {
    const entry = this.#setup.app.pools[pool];
    if (entry !== undefined) return entry;
    throw new SocketError("ERR_APP", `the app that is deployed here has no pool ${pool}`); // during a rollout
  }

  async #made(part: Part): Promise<Open> {
    this.#opening ??= this.#make(part);
    try {
      this.#open = await this.#opening;
      return this.#open;
    } catch (error) {
      this.#opening = null; // the next call tries again
      throw error;
    }
  }

  async #make(part: Part): Promise<Open> {
    const { app, pools, onEvent, Connector } = this.#setup;
    const { Handler, endpoint, secureTransport, tls, proxyHeader, limits } = this.#entry(part);
    let context: unknown;
    try {
      context = await app.context(platformOf(app, pools, this.env as Record<string, unknown>));
    } catch (error) {
      throw SocketError.from(error, "ERR_APP");
    }
    const own = ownLimits(limits, part);
    const maxWaiting = own.maxWaiting + own.max * own.pipeline; // the gate counts
    const options: DialledPoolOptions<unknown> = {
      ...own,
      maxWaiting,
      name: part.pool,
      context,
      secureTransport,
    };
    const pool = dialledPool(Connector, endpoint, Handler, {
      ...options,
      ...(tls !== undefined && { tls }),
      ...(proxyHeader !== undefined && { proxyHeader }),
      ...(onEvent !== undefined && { onEvent }),
    });
    return { pool, gate: new Gate(pool, own.maxWaiting) };
  }
}

/** The limits of one object: those that count connections or callers are shared. */
const ownLimits = (limits: AppPool["limits"], { part }: Part): AppPool["limits"] => {
  const parts = partsOf(limits.max);
  return {
    ...limits,
    max: shareOf(limits.max, parts, part),
    min: shareOf(limits.min, parts, part),
    maxWaiting: shareOf(limits.maxWaiting, parts, part),
  };
};

/** The info of an object that has not been used yet. */
export const unused = (part: Part, { endpoint, limits }: AppPool): PoolInfo => ({
  name: part.pool,
  address: formatAddress(endpoint),
  max: ownLimits(limits, part).max,
  pipeline: limits.pipeline,
  ...NOTHING_NOW,
  answered: 0,
  lost: 0,
  abandoned: 0,
  opened: 0,
  failed: 0,
  closed: false,
});

const failure = (error: unknown): Outcome => {
  try {
    return { failed: true, parcel: sent(packed("the error", error)) };
  } catch {
    const told = new SocketError("ERR_HANDLER", errorText(error)); // something else was thrown, which does not cross
    return { failed: true, parcel: packed("the error", told) };
  }
};

/** The outcome of a call that `ask` makes. */
const outcomeOf = async (call: Parcel, ask: (call: unknown) => MaybePromise<unknown>): Promise<Outcome> => {
  try {
    const reply = await ask(unpacked(await received(call)));
    return { failed: false, parcel: sent(packed("the reply", reply)) };
  } catch (error) {
    return failure(error);
  }
};

/** Makes a call that the gate has let through. */
const made = async (
  { pool, gate }: Open,
  call: Parcel,
  repeatable: boolean,
  signal?: AbortSignal,
): Promise<Outcome> => {
  try {
    return await outcomeOf(call, (asked) => pool.call(asked, { repeatable, signal }));
  } finally {
    gate.leave();
  }
};

class Turn extends PlatformTarget implements TurnCalls {
  readonly #open: Open;
  readonly #leaving = new AbortController();
  readonly #came: Promise<void>;
  #held = false; // a place beyond the gate that no call has taken yet

  /** `entered`: the gate has let it through. */
  constructor(open: Open, entered: boolean) {
    super();
    this.#open = open;
    this.#held = entered;
    this.#came = entered
      ? Promise.resolve()
      : open.gate.wait(this.#leaving.signal).then(() => {
          if (this.#leaving.signal.aborted) open.gate.leave();
          else this.#held = true;
        });
    this.#came.catch(() => {});
  }

  async come(): Promise<Outcome | null> {
    try {
      await this.#came;
      return null;
    } catch (error) {
      return failure(error);
    }
  }

  async begin(call: Parcel, repeatable: boolean): Promise<Outcome> {
    if (!this.#held) return failure(new SocketError("EBUSY", "a call begins once, when its turn has come"));
    this.#held = false;
    return made(this.#open, call, repeatable, this.#leaving.signal);
  }

  async leave(): Promise<void> {
    this[Symbol.dispose]();
  }

  /** The platform calls this when nobody has the stub any more. */
  [Symbol.dispose](): void {
    this.#leaving.abort(new SocketError("ECANCELED", "its caller has given up"));
    if (this.#held) this.#open.gate.leave();
    this.#held = false;
  }
}

class LeaseTarget extends PlatformTarget implements LeaseCalls {
  readonly #lease: Lease;

  constructor(lease: Lease) {
    super();
    this.#lease = lease;
  }

  call(call: Parcel): Promise<Outcome> {
    return outcomeOf(call, (asked) => this.#lease.call(asked));
  }

  release(): Promise<void> {
    return this.#lease.release();
  }

  /** The platform calls this when nobody has the stub any more. */
  [Symbol.dispose](): void {
    void this.#lease.release(); // never rejects
  }
}
