/**
 * `checkPool`: does a client's handler return each caller its own reply? Over a connection in memory, in virtual time,
 * it causes everything that can go wrong between a pool and its server, at every place, and checks the rule of pools: each
 * caller gets its own reply, or an error, once; and callers that come afterwards get their replies.
 *
 * - **Cut**: after each byte that the server sends, and each that it receives, the connection ends, or is reset.
 * - **Silence**: after each byte, the server sends nothing more.
 * - **Leaving**: at each byte, a caller gives up.
 * - **Pieces**: each byte comes by itself.
 * - **Notices**: between any two replies, and while no call runs, the server sends something unsolicited.
 * - **Many**: a thousand callers at once.
 *
 * Each is done with one call at a time on a connection and, if the class can, with several.
 */

import { type Data, type MaybePromise, toBytes } from "../../bytes/data.ts";
import { errorText, toJson } from "../../describe.ts";
import { SocketError } from "../../errors.ts";
import type { ClientHandlerClass } from "../../handlers/client.ts";
import { checkClient } from "../../handlers/client-check.ts";
import type { HandlerClass } from "../../handlers/handler.ts";
import { checkCount, checkOptions, optionNamesOf } from "../../options.ts";
import type { Pool } from "../../pool/pool.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { installFor, VirtualClock } from "../clock.ts";
import { ThreadingMemoryServer } from "../memory.ts";
import { alone, Scope } from "../scope.ts";
import { memoryPool } from "./memory.ts";
import { type Mischief, Relay } from "./relay.ts";

const CALLERS = 4; // of most runs: one is answered, one is being answered, one has begun, and one waits
const CROWD = 1_000;
const PLACES = 300; // places of one kind, if a conversation has more bytes
const FOREVER = 86_400_000; // ms of virtual time in which every waiting call must be answered

/** What `checkPool` needs to know about a protocol. */
export interface PoolCheckOptions<Call, Reply, Context, ServerContext> {
  /** The server that the pool dials. */
  readonly server: HandlerClass<StreamSocket, ServerContext>;
  /** Makes the server's context, a new one for each run. */
  readonly serverContext?: () => ServerContext;
  /** The `this.context` of the class under test. */
  readonly context?: Context;
  /** The call of caller `n`, which no other caller makes: it asks for `n`. It must be harmless to repeat. */
  readonly ask: (n: number) => Call;
  /** The reply that caller `n` must get; compared as JSON. */
  readonly reply: (n: number) => Reply;
  /** Something that the server may send unsolicited, complete. Default: nothing. */
  readonly notice?: Data;
  /** The most calls under way on one connection; 1 if the class has only `call()`. Default 3. */
  readonly pipeline?: number;
}

const CHECK_NAMES = optionNamesOf<PoolCheckOptions<unknown, unknown, unknown, unknown>>("checkPool()")({
  server: true,
  serverContext: "function",
  context: true,
  ask: "function",
  reply: "function",
  notice: true,
  pipeline: true,
});

/** The result of a check that found no fault. */
export interface PoolReport {
  /** The number of runs. */
  readonly runs: number;
  /** The number of answered calls, and of rejected ones. */
  readonly answered: number;
  readonly rejected: number;
}

/** A pool of this class does not behave as it should; the message says when, and what it did. */
export class PoolCheckError extends Error {
  static {
    PoolCheckError.prototype.name = "PoolCheckError";
  }
}

/** The options of a run. */
interface Plan {
  readonly pipeline: number;
  readonly mischief?: Mischief;
  readonly slice?: number;
  readonly callers?: number;
  readonly repeatable?: boolean;
  /** The caller that gives up. */
  readonly leaver?: number;
  /** One after the other, not all at once. */
  readonly inTurn?: boolean;
  /** No call may be rejected. */
  readonly harmless?: boolean;
}

/** The result of a run: how many bytes were sent, and where each reply ended. */
interface Seen {
  readonly said: number;
  readonly asked: number;
  readonly ends: readonly number[];
}

/**
 * Checks a handler class for pools, as described above. Rejects with `PoolCheckError` at the first run that is wrong, and with
 * `TypeError` and `RangeError` for arguments that cannot be checked.
 *
 * While it runs, its own timers are a `VirtualClock`'s, so checks wait for each other. Those of other code stay the platform's;
 * without `AsyncLocalStorage` (workerd without `nodejs_compat`) all are the clock's.
 *
 *     await checkPool(Redis, { server: RespServer, ask: (n) => ["ECHO", `${n}`], reply: (n) => `${n}`, notice: ">1\r\n+x\r\n" });
 */
export const checkPool = async <Call, Reply, Context = unknown, ServerContext = unknown>(
  Handler: ClientHandlerClass<Call, Reply, Context>,
  options: PoolCheckOptions<Call, Reply, Context, ServerContext>,
): Promise<PoolReport> => {
  checkOptions("checkPool()", options, CHECK_NAMES as never);
  const most = checkCount("pipeline", options.pipeline ?? ("call" in Handler.prototype ? 1 : 3), 1);
  checkClient(Handler, most);
  return alone(() => {
    const scope = new Scope();
    return scope.run(() => checkAll(Handler, options, most, scope));
  });
};

const checkAll = async <Call, Reply, Context, ServerContext>(
  Handler: ClientHandlerClass<Call, Reply, Context>,
  options: PoolCheckOptions<Call, Reply, Context, ServerContext>,
  most: number,
  scope: Scope,
): Promise<PoolReport> => {
  const counts = { runs: 0, answered: 0, rejected: 0 };
  const clock = new VirtualClock();
  installFor(clock, scope);
  try {
    const check = new Check(Handler, options, clock, counts);
    for (const pipeline of most > 1 ? [1, most] : [1]) {
      const { said, asked, ends } = await check.run({ pipeline, inTurn: true, harmless: true });
      await check.run({ pipeline, slice: 1, harmless: true });
      await check.run({ pipeline, callers: CROWD, harmless: true });
      await check.run({
        pipeline,
        callers: CROWD,
        slice: 7,
        repeatable: true,
        harmless: true,
        mischief: { of: "server", at: said, does: "reset" },
      });
      for (const at of places(said)) {
        for (const does of ["end", "reset"] as const) {
          await check.run({ pipeline, mischief: { of: "server", at, does } });
          await check.run({
            pipeline,
            mischief: { of: "server", at, does },
            repeatable: true,
            harmless: true,
          });
        }
        await check.run({ pipeline, mischief: { of: "server", at, does: "silence" } });
        await check.run({ pipeline, mischief: { of: "server", at, does: "leave" }, leaver: at % CALLERS });
      }
      for (const at of places(asked))
        await check.run({ pipeline, mischief: { of: "client", at, does: "reset" } });
      if (options.notice === undefined) continue;
      const notice = toBytes(options.notice);
      for (const at of ends) {
        for (const inTurn of [true, false]) {
          await check.run({
            pipeline,
            inTurn,
            harmless: true,
            mischief: { of: "server", at, does: "notice", notice },
          });
          await check.run({
            pipeline,
            inTurn,
            slice: 1,
            harmless: true,
            mischief: { of: "server", at, does: "notice", notice },
          });
        }
      }
    }
  } finally {
    clock[Symbol.dispose]();
  }
  return counts;
};

/** The places to try: every one, or a selection if there are too many. */
const places = (size: number): number[] => {
  const step = Math.max(1, size / PLACES);
  return Array.from({ length: Math.floor(size / step) + 1 }, (_, i) => Math.floor(i * step));
};

class Check<Call, Reply, Context, ServerContext> {
  readonly #Handler: ClientHandlerClass<Call, Reply, Context>;
  readonly #options: PoolCheckOptions<Call, Reply, Context, ServerContext>;
  readonly #clock: VirtualClock;
  readonly #counts: { runs: number; answered: number; rejected: number };

  constructor(
    Handler: ClientHandlerClass<Call, Reply, Context>,
    options: PoolCheckOptions<Call, Reply, Context, ServerContext>,
    clock: VirtualClock,
    counts: { runs: number; answered: number; rejected: number },
  ) {
    this.#Handler = Handler;
    this.#options = options;
    this.#clock = clock;
    this.#counts = counts;
  }

  async run(plan: Plan): Promise<Seen> {
    this.#counts.runs++;
    const before = this.#counts.rejected;
    const { server: Server, serverContext, context } = this.#options;
    const made = serverContext?.() as ServerContext;
    const server = new ThreadingMemoryServer<ServerContext>(Server, { context: made });
    void server.serveForever();
    const relay = new Relay(server, plan.mischief, plan.slice);
    const pool: Pool<Call, Reply, Context> = memoryPool<Call, Reply, Context>(relay, this.#Handler, {
      max: 2,
      pipeline: plan.pipeline,
      ...(context === undefined ? {} : { context: context as Context }),
    });
    const ends: number[] = [];
    let seen = { said: 0, asked: 0 };
    try {
      const left = new AbortController();
      relay.onleave = () => left.abort(new Error("the caller left"));
      const callers = Array.from({ length: plan.callers ?? CALLERS }, (_, n) => n);
      const one = async (n: number): Promise<void> => {
        const signal = n === plan.leaver ? left.signal : undefined;
        await this.#caller(n, pool, plan, signal);
        ends.push(relay.said);
      };
      if (plan.inTurn) {
        ends.push(relay.said);
        for (const n of callers) await this.#inTime(one(n), n, plan);
      } else await this.#inTime(Promise.all(callers.map(one)), -1, plan);
      seen = { said: relay.said, asked: relay.asked };
      // Whatever has happened, later callers are answered; after a server fell silent, those that come once the pool has noticed.
      let n = callers.length;
      const { rejected } = this.#counts;
      const later = (harmless: boolean): Promise<void> => {
        const last = { ...plan, harmless, repeatable: true };
        return this.#inTime(this.#caller(n, pool, last, undefined), n++, plan);
      };
      if (plan.mischief?.does === "silence" && rejected === before) {
        while (rejected === this.#counts.rejected && n < PLACES) await later(false);
      }
      await later(true);
    } finally {
      await pool.close();
      relay.close();
      server.abort();
      await server.serverClose();
    }
    return { ...seen, ends: ends.filter((end, i) => end > 0 && ends.indexOf(end) === i) };
  }

  /** One caller, which gets its own reply, or a permitted error. */
  async #caller(
    n: number,
    pool: Pool<Call, Reply, Context>,
    plan: Plan,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { ask, reply } = this.#options;
    let got: Reply;
    try {
      got = await pool.call(ask(n), { repeatable: plan.repeatable ?? false, signal });
    } catch (error) {
      this.#counts.rejected++;
      const own = error instanceof SocketError && ["ERR_CALL_LOST", "ETIMEDOUT"].includes(error.code);
      if (own && !plan.harmless) return;
      if (signal?.aborted && error === signal.reason) return;
      throw this.#wrong(plan, `caller ${n} was told ${errorText(error)}${causeOf(error)}`, error);
    }
    this.#counts.answered++;
    const [given, wanted] = [toJson(got), toJson(reply(n))];
    if (given !== wanted) throw this.#wrong(plan, `caller ${n} was given ${given}, and asked for ${wanted}`);
  }

  async #inTime(work: MaybePromise<unknown>, n: number, plan: Plan): Promise<void> {
    const late = Symbol();
    let forget = (): void => {};
    const never = new Promise<symbol>((resolve) => {
      forget = this.#clock.after(FOREVER, () => resolve(late));
    });
    try {
      if ((await Promise.race([work, never])) !== late) return;
    } finally {
      forget();
    }
    throw this.#wrong(plan, `${n < 0 ? "a caller" : `caller ${n}`} was never answered`);
  }

  #wrong(
    { mischief, pipeline, slice, callers = CALLERS, inTurn }: Plan,
    what: string,
    cause?: unknown,
  ): Error {
    const when =
      mischief === undefined
        ? "when nothing went wrong"
        : `when after ${mischief.at} bytes of the ${mischief.of} ${WORDS[mischief.does]}`;
    const how = `${callers} callers ${inTurn ? "in turn" : "at once"}, pipeline ${pipeline}`;
    const pieces = slice === undefined ? "" : `, ${slice} bytes at a time`;
    const message = `${this.#Handler.name}: ${what}, ${when} (${how}${pieces})`;
    return new PoolCheckError(message, cause === undefined ? undefined : { cause });
  }
}

const causeOf = (error: unknown): string => {
  const cause = (error as { cause?: unknown } | null)?.cause;
  return cause == null ? "" : ` (${errorText(cause)})`;
};

const WORDS: Readonly<Record<Mischief["does"], string>> = {
  end: "the connection ended",
  reset: "it was reset",
  silence: "nothing more came",
  leave: "a caller left",
  notice: "something was said unasked",
};
