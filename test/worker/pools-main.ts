/**
 * The Worker of the pool tests: requests that ask PostgreSQL and Redis by a pool, or by a connection of their own, and
 * objects that a test can lose.
 */

import { env } from "cloudflare:workers";
import {
  ClientHandler,
  defineApp,
  ErrorReply,
  type PoolClient,
  type PoolInfo,
  SocketError,
  StreamRequestHandler,
} from "socklet";
import {
  metrics,
  poolsFor,
  type SockletBindings,
  TCPConnector,
  type WorkerLease,
  workerFor,
} from "socklet/worker";
import {
  Postgres,
  PostgresClient,
  PostgresError,
  type PostgresLogin,
  type Rows,
} from "../../examples/postgres.ts";
import { Redis, type Reply } from "../../examples/redis.ts";

interface Bindings extends SockletBindings {
  readonly POSTGRES?: string;
  readonly PASSWORD?: string;
  readonly REDIS?: string;
  readonly LINES?: string;
  readonly MAX?: number;
}

const bindings = env as Bindings;

interface Context {
  readonly redis: PoolClient<readonly string[], Reply>;
}

const login: PostgresLogin = { user: "postgres", password: bindings.PASSWORD ?? "" };

class AppPostgres extends Postgres {
  protected override get login(): PostgresLogin {
    return login;
  }
}

class AppRedis extends Redis {
  protected override get login() {
    return {};
  }
}

class Strange extends Error {
  readonly kept = new Uint8Array([1, 2]);
  readonly lost = () => {};
}

/** What `Values` returns by name: each value is made where the connection is. */
export const VALUES: Readonly<Record<string, (size: number) => unknown>> = {
  map: () =>
    new Map<unknown, unknown>([
      ["k", new Set([1n, -5n])],
      [new Date(0), [undefined, null, -0]],
    ]),
  bytes: (size) => new Uint8Array(size).fill(7),
  text: (size) => "π".repeat(size),
  function: () => ({ rows: [{ get: () => 1 }] }),
  instance: () => [new (class Row {})()],
  circle: () => {
    const circle: unknown[] = [];
    circle.push(circle);
    return circle;
  },
  range: () => new ErrorReply(new RangeError("too far", { cause: new SocketError("EPIPE") })),
  socket: () => new ErrorReply(new SocketError("ERR_REFUSED", "no", { address: "a:1", errno: 7 })),
  postgres: () => new ErrorReply(new PostgresError({ S: "ERROR", C: "22012", M: "division by zero" })),
  strange: () => new ErrorReply(new Strange("odd")),
  held: () => "held",
  thrown: () => new ErrorReply("only a text"),
  nothing: () => new ErrorReply(() => {}),
};

/** Asks a server that repeats lines, and returns the value with that name, or else the question. */
class Values extends ClientHandler<readonly [name: string, given?: unknown], unknown> {
  override send([name]: readonly [string, unknown?]): void {
    this.wfile.write(`${name}\n`);
  }

  override async receive(call: readonly [name: string, given?: unknown] | undefined): Promise<unknown> {
    const name = new TextDecoder().decode(await this.rfile.readuntil("\n")).trimEnd();
    const given = call?.[1];
    if (name === "given") return given;
    return (VALUES[name] as (size: number) => unknown)(given as number);
  }
}

/** A handler that uses a pool from its context: it sends the number of visits. */
class Visits extends StreamRequestHandler<Context> {
  override async handle(): Promise<void> {
    this.wfile.write(`${await this.context.redis.call(["INCR", "visits"])}\n`);
  }
}

const { MAX: max = 10 } = bindings;
const of = (address = "127.0.0.1:1"): string => address;

export const app = defineApp<Context>({
  handlers: { postgres: AppPostgres, redis: AppRedis, values: Values, visits: Visits },
  listen: [{ handler: "visits", address: "tcp://127.0.0.1:7011" }],
  pools: {
    postgres: {
      handler: "postgres",
      address: of(bindings.POSTGRES),
      secureTransport: "starttls",
      max,
      waitTimeout: 120_000, // a crash is recovered from as fast as this machine can
    },
    redis: { handler: "redis", address: of(bindings.REDIS), max: 4, pipeline: 8, waitTimeout: 120_000 },
    values: { handler: "values", address: of(bindings.LINES), max: 2, maxReply: 64 },
    slow: {
      handler: "values",
      address: of(bindings.LINES),
      max: 1,
      maxWaiting: 3,
      waitTimeout: 500,
      callTimeout: 1_500,
    },
    left: { handler: "values", address: of(bindings.LINES), max: 1 },
    two: { handler: "values", address: of(bindings.LINES), max: 12 },
    twelve: { handler: "values", address: of(bindings.LINES), max: 12 },
    gated: { handler: "values", address: of(bindings.LINES), max: 1, maxAttempts: 1 },
  },
  context: ({ pool }) => ({ redis: pool("redis", AppRedis) as PoolClient<readonly string[], Reply> }),
});

const pools = poolsFor(app, { locationHints: { postgres: "weur" } });

export class SockletPool extends pools.Pool {
  /** Loses this object. */
  lose(): Promise<never> {
    this.ctx.abort("lost");
    return new Promise(() => {});
  }
}

const worker = workerFor(app, { pools, metrics });
export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}

const { poolOf } = pools;
const one = ({ rows }: Rows): string => rows[0]?.[0] ?? "";

/** Any value as JSON, with what JSON does not tell. */
const shown = (value: unknown): unknown => {
  if (value instanceof Map) return { Map: [...value].map(shown) };
  if (value instanceof Set) return { Set: [...value].map(shown) };
  if (value instanceof Date) return { Date: value.getTime() };
  if (value instanceof Uint8Array) return { bytes: value.length, first: value[0], last: value.at(-1) };
  if (Array.isArray(value)) return value.map(shown);
  if (value instanceof Error) {
    const { name, message, cause } = value;
    const own = Object.entries(value).map(shown);
    const socket = value instanceof SocketError;
    return {
      Error: name,
      class: Object.prototype.toString.call(value),
      socket,
      message,
      own,
      cause: shown(cause),
    };
  }
  if (typeof value === "string")
    return value.length > 100 ? { characters: value.length, first: value[0] } : value;
  if (typeof value === "object" && value !== null) return Object.entries(value).map(shown);
  return `${typeof value} ${Object.is(value, -0) ? "-0" : String(value)}`;
};

/** The result of a call, or the error: its code and message. */
const told = async (work: Promise<unknown>): Promise<Response> => {
  try {
    return Response.json({ value: await work });
  } catch (error) {
    const { name, code, message } = error as SocketError;
    return Response.json({ error: { name, code, message } });
  }
};

const lose = async (name: string): Promise<void> => {
  const namespace = bindings.SOCKLET_POOLS as DurableObjectNamespace;
  const object = namespace.getByName(name) as unknown as { lose(): Promise<void> };
  await object.lose().catch(() => {});
};

const infoOf = async (name: string): Promise<PoolInfo> =>
  (await pools.infos(env)).find((info) => info.name === name) as PoolInfo;

type Ask = (rest: string[], query: URLSearchParams, ctx: ExecutionContext) => Promise<unknown>;

const ROUTES: Readonly<Record<string, Ask>> = {
  /** /postgres/N: by the pool. */
  postgres: async ([n], query) =>
    one(
      await poolOf(env, "postgres", AppPostgres).call(`SELECT ${n}`, { repeatable: query.has("repeatable") }),
    ),
  /** /query: any. */
  query: async (_, query) => (await poolOf(env, "postgres", AppPostgres).call(query.get("q") ?? "")).rows,
  /** /dial/N: by a connection of this request. */
  dial: async ([n]) =>
    one(
      (await new TCPConnector(of(bindings.POSTGRES), PostgresClient, { secureTransport: "starttls" }).run({
        params: { ...login, query: `SELECT ${n}` },
      })) as Rows,
    ),
  /** /pair/N: a transaction. */
  pair: async ([n]) => {
    await using lease = await poolOf(env, "postgres", AppPostgres).lease();
    await lease.call("BEGIN");
    await lease.call(`INSERT INTO pairs VALUES (${n}, 1)`);
    await lease.call(`INSERT INTO pairs VALUES (${n}, 2)`);
    await lease.call("COMMIT");
    return Number(n);
  },
  /** /leave: a lease that is never released, in a transaction. */
  leave: async () => {
    const lease = await poolOf(env, "postgres", AppPostgres).lease();
    await lease.call("BEGIN");
    return one(await lease.call("SELECT pg_backend_pid()"));
  },
  /** /value/POOL/NAME/SIZE: what crossed. */
  value: async ([pool = "", name = "", size]) => {
    const values = poolOf(env, pool, Values);
    return shown(await values.call([name, Number(size)]).catch((error) => error));
  },
  /** /ours/NAME/SIZE: what should have. */
  ours: async ([name = "", size]) => {
    const value = VALUES[name]?.(Number(size));
    return shown(value instanceof ErrorReply ? value.error : value);
  },
  /** /there: values that a caller sends, and has repeated. */
  there: async () => {
    const given = VALUES.map?.(0);
    const large = VALUES.bytes?.(3 * 2 ** 20);
    const values = poolOf(env, "two", Values);
    return shown([await values.call(["given", given]), await values.call(["given", large])]);
  },
  tooLarge: async () => poolOf(env, "two", Values).call(["given", new Uint8Array(33 * 2 ** 20)]),
  noData: async () => poolOf(env, "two", Values).call(["given", { at: [() => {}] }]),
  unknown: async ([name = ""]) => poolOf(env, name).call([]),
  /** /aborted: a caller that gives up a call that has begun. */
  aborted: async () => {
    const leaving = new AbortController();
    const left = poolOf(env, "left", Values);
    const asked = left.call(["silent"], { signal: leaving.signal }).catch((error) => error);
    while ((await infoOf("left")).running === 0) await scheduler.wait(0); // otherwise workerd polls no socket meanwhile
    leaving.abort(new SocketError("ECANCELED", "no longer wanted"));
    const { code } = (await asked) as SocketError;
    return [code, await left.call(["given", 1])];
  },
  /** /crowd/N: N callers at once of a pool that answers none of them. */
  crowd: async ([n]) => {
    const slow = poolOf(env, "slow", Values);
    const all = Array.from({ length: Number(n) }, () =>
      slow.call(["silent"]).catch((error) => error.code as string),
    );
    return Promise.all(all);
  },
  /** /leases: the outcomes of calls of a lease: released, by its scope, by its signal; and lost. */
  leases: async () => {
    const values = poolOf(env, "two", Values);
    const codeOf = (call: Promise<unknown>): Promise<unknown> => call.catch((error) => error.code);
    const told: unknown[] = [];
    let kept: WorkerLease<readonly [name: string, given?: unknown], unknown>;
    {
      using lease = await values.lease();
      kept = lease;
      told.push(await lease.call(["given", 5]));
    }
    told.push(await codeOf(kept.call(["given", 5])));
    await using other = await values.lease();
    const { size } = (await other.call(["map"])) as Map<unknown, unknown>;
    told.push(size, await codeOf(other.call(["socket"])));
    const leaving = new AbortController();
    const short = await values.lease({ signal: leaving.signal });
    const silent = codeOf(short.call(["silent"]));
    leaving.abort(new SocketError("ECANCELED"));
    told.push(await silent, await codeOf(short.call(["given", 5])));
    const lost = await poolOf(env, "values", Values).lease();
    await lose("values/0");
    told.push(await codeOf(lost.call(["given", 5])), await codeOf(lost.call(["given", 5])));
    await lost.release();
    return told;
  },
  /** /gated/N: N callers of a pool of one connection. */
  gated: async ([n]) => {
    const gated = poolOf(env, "gated", Values);
    const all = Array.from({ length: Number(n) }, () =>
      gated.call(["held"]).catch((error) => error.code as string),
    );
    return Promise.all(all);
  },
  echo: async ([n], query) =>
    poolOf(env, "redis", AppRedis).call(["ECHO", n as string], { repeatable: query.has("repeatable") }),
  /** /visits: what the listener sends. */
  visits: async (_, __, ctx) => {
    const { default: self } = ctx.exports as unknown as { default: Fetcher };
    return Number(await new Response(self.connect("visits:1").readable).text());
  },
  redis: async (words) => poolOf(env, "redis", AppRedis).call(words),
};

export default {
  ...worker,
  async fetch(request: Request, _: unknown, ctx: ExecutionContext): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    const [first = "", ...rest] = pathname.slice(1).split("/").map(decodeURIComponent);
    if (first === "v1") return worker.fetch(request, env, ctx);
    if (first === "lose") {
      await lose(rest.join("/"));
      return Response.json({});
    }
    const ask = ROUTES[first];
    if (ask === undefined) return new Response(null, { status: 404 });
    return told(ask(rest, searchParams, ctx));
  },
};
