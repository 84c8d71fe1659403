/// <reference types="@cloudflare/workers-types" />
/** `poolsFor(app)`: the pools of an app in a Worker. */

import { type App, checkPoolOf, isApp } from "../../core/app/app.ts";
import { withDeadline } from "../../core/bytes/data.ts";
import { errorText } from "../../core/describe.ts";
import { SocketError } from "../../core/errors.ts";
import type { ClientHandlerClass, PoolInfo } from "../../core/handlers/client.ts";
import type { OnEvent } from "../../core/handlers/events.ts";
import { formatAddress } from "../../core/net/address.ts";
import { checkOptions, optionNamesOf } from "../../core/options.ts";
import { sumOf } from "../../core/pool/sum.ts";
import { again, missingBindings, type SockletBindings } from "../objects/bindings.ts";
import type { PoolAccess } from "../objects/platform.ts";
import type { PlatformState } from "../platform.ts";
import { TCPConnector } from "../sockets/connector.ts";
import { type PoolCalls, partsOf } from "./calls.ts";
import { BoundPool, Turns, type WorkerPool } from "./client.ts";
import { PoolObject, unused } from "./object.ts";

/** Options of a Worker's pools. */
export interface PoolsOptions {
  /** Told of what happens in the pools' objects: see `PoolEvent`. */
  readonly onEvent?: OnEvent;
  /**
   * Where the objects of a pool are to be, by the pool's name: near its server (`{ postgres: "weur" }`; Durable Objects,
   * "Provide a location hint", has the list). The platform takes it when an object is first made, as a hint. Default: near
   * the first request.
   */
  readonly locationHints?: Readonly<Record<string, string>>;
  /** `recording` of `socklet/worker`: the pools' connections are shown and recorded as sessions, while somebody records or watches. Default: they are not, and a smaller Worker. */
  readonly recording?: { readonly Connector: typeof TCPConnector };
}

const POOLS_NAMES = optionNamesOf<PoolsOptions>("poolsFor()")({
  onEvent: "function",
  locationHints: "entries",
  recording: true,
});

/** The pools of an app in a Worker, and the class that its main module must export. */
export interface WorkerPools extends PoolAccess {
  /** The class of a pool's Durable Objects. */
  readonly Pool: new (
    state: PlatformState,
    env: unknown,
  ) => PoolObject;
  /**
   * The pool `name`, in any request: `poolOf(env, "redis", Redis)`. The class gives calls and replies their types, and
   * must be that of the app's entry; without it they are `unknown`. It does not use `this`.
   *
   * Throws `ERR_APP` if there is no such pool, if its handler is another class, or if the binding `SOCKLET_POOLS` is missing.
   */
  poolOf<Call = unknown, Reply = unknown>(
    env: unknown,
    name: string,
    // biome-ignore lint/suspicious/noExplicitAny: the handler's context is the app's
    Handler?: ClientHandlerClass<Call, Reply, any>,
  ): WorkerPool<Call, Reply>;
}

const ANSWER = 5_000; // ms that a list waits for one object

/**
 * The pools of `app`, in Durable Objects: as many for each pool as its `max` needs at six connections each.
 *
 *     const pools = poolsFor(app);
 *     export class SockletPool extends pools.Pool {}
 *     export default workerFor(app, { pools });
 *
 * Bind the class as `SOCKLET_POOLS`. Handlers use the pools by `context()`, as everywhere; your own `fetch()` by
 * `pools.poolOf(env, "redis", Redis).call(…)`. What a call rejects with: see `PoolClient`. Calls and replies cross as what
 * they are: text, numbers, bytes, lists, plain objects, maps, sets, dates and errors. Anything else rejects with
 * `ERR_UNSUPPORTED`, and a call or a reply of more than 32 MiB with `ERR_LIMIT`.
 *
 * Throws `ERR_APP` if `definition` is not an app, and `TypeError` for an option that is wrong.
 */
export const poolsFor = <Context>(definition: App<Context>, options: PoolsOptions = {}): WorkerPools => {
  const app = definition as unknown as App; // only its handlers know the type of its context
  if (!isApp(app)) throw new SocketError("ERR_APP", "this is not an app: it must come from defineApp()");
  checkOptions("poolsFor()", options, POOLS_NAMES);
  const { onEvent, locationHints = {}, recording } = options;
  const { Connector = TCPConnector } = recording ?? {};
  for (const [name, hint] of Object.entries(locationHints)) {
    if (!Object.hasOwn(app.pools, name)) {
      const names = Object.keys(app.pools).join(", ") || "none";
      throw new TypeError(`locationHints.${name}: the app has no pool of that name; it has: ${names}`);
    }
    if (typeof hint !== "string") throw new TypeError(`locationHints.${name} is a text such as "weur"`);
  }
  const turns = new Map<string, Turns>();

  const objectOf = (env: unknown, name: string, part: number): PoolCalls => {
    const locationHint = locationHints[name] as DurableObjectLocationHint | undefined;
    const namespace = (env as SockletBindings).SOCKLET_POOLS as DurableObjectNamespace;
    const stub = namespace.getByName(`${name}/${part}`, {
      ...(locationHint !== undefined && { locationHint }),
    });
    return stub as unknown as PoolCalls;
  };

  const missing = (env: unknown): string[] =>
    Object.keys(app.pools).length === 0 ? [] : missingBindings(env as SockletBindings, ["SOCKLET_POOLS"]);

  const infoOf = async (env: unknown, name: string): Promise<PoolInfo> => {
    const entry = checkPoolOf(app, name, app.pools[name]?.Handler);
    const parts = Array.from({ length: partsOf(entry.limits.max) }, (_, part) => ({ pool: name, part }));
    const infos = await Promise.all(
      parts.map(async (part): Promise<PoolInfo> => {
        try {
          const ask = again(() => objectOf(env, name, part.part).info(part), "it");
          return await withDeadline(ask, ANSWER, "it did not answer");
        } catch (error) {
          const why = `the object ${name}/${part.part} cannot be asked: ${errorText(error)}`;
          return { ...unused(part, entry), error: why };
        }
      }),
    );
    return infos.reduce(sumOf);
  };

  const pools: WorkerPools = {
    Pool: class SockletPool extends PoolObject {
      constructor(state: PlatformState, env: unknown) {
        super(state, env, { app, pools, onEvent, Connector });
      }
    },
    poolOf: <Call, Reply>(env: unknown, name: string, Handler?: unknown): WorkerPool<Call, Reply> => {
      const entry = checkPoolOf(app, name, Handler ?? app.pools[name]?.Handler);
      const [lacking] = missing(env);
      if (lacking !== undefined) throw new SocketError("ERR_APP", lacking);
      let turn = turns.get(name);
      if (turn === undefined) {
        turn = new Turns(entry.limits.max);
        turns.set(name, turn);
      }
      return new BoundPool<Call, Reply>({
        name,
        entry,
        address: formatAddress(entry.endpoint),
        turns: turn,
        objectOf: (part) => objectOf(env, name, part),
      });
    },
    missing,
    infos: async (env) =>
      missing(env).length > 0 ? [] : Promise.all(Object.keys(app.pools).map((name) => infoOf(env, name))),
  };
  return pools;
};
