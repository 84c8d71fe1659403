/**
 * Pools against servers that others wrote, Redis and PostgreSQL with TLS and SCRAM, which are killed in the middle again
 * and again: each call is answered once, with its own reply, or fails once.
 *
 *     POOL_KILLS=100 npx vitest run --project node --testTimeout 0 test/peers/pools
 */

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ClientHandler, type Pool, SocketError, StreamRequestHandler } from "socklet";
import { pool } from "socklet/emulator";
import { checkPool, memoryPool, ThreadingMemoryServer } from "socklet/testing";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Postgres, PostgresError, type Rows } from "../../examples/postgres.ts";
import { Redis } from "../../examples/redis.ts";
import { type Certificates, ownCertificates } from "./certificates.ts";
import { describeWith } from "./program.ts";
import { type Mortal, mortalRedis, postgres, postgresCommand, postgresPassword } from "./servers.ts";

const KILLS = Number(process.env.POOL_KILLS ?? 4);
const CALLERS = 20;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The outcomes of calls. */
interface Toll {
  asked: number;
  answered: number;
  lost: number;
}

/**
 * Callers that ask, each for its own number, without a pause, while the server is killed. `ask` returns the answer, and
 * throws if that is another's. Every call must settle: answered, or lost with `ERR_CALL_LOST`.
 */
const whileKilled = async (
  server: Mortal,
  ask: (n: number, repeatable: boolean) => Promise<void>,
  kills = KILLS,
): Promise<Toll> => {
  const toll: Toll = { asked: 0, answered: 0, lost: 0 };
  let over = false;
  let goal = 0;
  let reached = (): void => {};
  const callers = Array.from({ length: CALLERS }, async () => {
    while (!over) {
      const n = toll.asked++;
      try {
        await ask(n, n % 2 === 0);
        if (++toll.answered >= goal) reached();
      } catch (error) {
        if (!(error instanceof SocketError) || error.code !== "ERR_CALL_LOST") throw error;
        toll.lost++;
      }
    }
  });
  const all = Promise.all(callers).finally(() => {
    over = true;
  });
  const answered = async (more: number): Promise<void> => {
    goal = toll.answered + more;
    const enough = new Promise<void>((resolve) => {
      reached = resolve;
    });
    await Promise.race([enough, all]);
  };
  for (let kill = 0; kill < kills; kill++) {
    await answered(CALLERS * 5 + kill);
    await server.restart();
  }
  await answered(CALLERS * 5);
  over = true;
  await all;
  expect(toll.answered + toll.lost).toBe(toll.asked);
  return toll;
};

describeWith(["redis-server"], "Redis, killed in the middle", () => {
  let server: Mortal;
  let redis: Pool<readonly (string | Uint8Array)[], unknown>;
  beforeAll(async () => {
    server = await mortalRedis();
    redis = pool(`tcp://127.0.0.1:${server.port}`, Redis, {
      max: 4,
      pipeline: 8,
      waitTimeout: 120_000, // it comes back as fast as this machine can
    });
  });
  afterAll(async () => {
    await redis?.close();
    await server?.[Symbol.asyncDispose]();
  });

  test("logs in once a connection, whoever asks", async () => {
    const calls = Array.from({ length: 1_000 }, (_, i) => redis.call(["ECHO", `${i}`]));
    expect(await Promise.all(calls)).toEqual(calls.map((_, i) => `${i}`));
    while (redis.info().opening > 0) await turn();
    const { opened, connections } = redis.info();
    const stats = String(await redis.call(["INFO", "stats"]));
    expect(Number(/total_connections_received:(\d+)/.exec(stats)?.[1])).toBe(opened);
    expect(connections).toBe(opened);
    expect(opened).toBeLessThanOrEqual(4);
  });

  test(`answers each call once or fails it once, and swaps none, through ${KILLS} kills`, async () => {
    const toll = await whileKilled(server, async (n, repeatable) => {
      expect(await redis.call(["ECHO", `${n}`], { repeatable })).toBe(`${n}`);
    });
    expect(toll.answered).toBeGreaterThan(KILLS * CALLERS * 5);
    expect(toll.lost).toBeLessThanOrEqual(KILLS * 4 * 8); // no more than were under way
  });

  test(`a transaction is whole or not there, through ${KILLS} kills`, async () => {
    const done = new Set<number>();
    await whileKilled(server, async (n) => {
      await using one = await redis.lease();
      const both = (call: string[]): Promise<unknown> =>
        one.call(call).catch((error) => {
          if (error.code === "ENOTCONN") throw new SocketError("ERR_CALL_LOST", undefined, { cause: error }); // a call made before the lease knew of the loss
          throw error;
        });
      await both(["MULTI"]);
      await both(["RPUSH", "one", `${n}`]);
      await both(["RPUSH", "other", `${n}`]);
      await both(["EXEC"]);
      done.add(n);
    });
    const [one, other] = (await Promise.all([
      redis.call(["LRANGE", "one", "0", "-1"]),
      redis.call(["LRANGE", "other", "0", "-1"]),
    ])) as [string[], string[]];
    expect(other).toEqual(one);
    expect(new Set(one).size).toBe(one.length);
    expect([...done].filter((n) => !one.includes(`${n}`))).toEqual([]);
  });

  test("what is pushed comes to notice(), while nothing is asked", async () => {
    const told: unknown[] = [];
    class Listens extends Redis {
      override notice(message: unknown): void {
        told.push(message);
      }
    }
    await using listening = pool(`tcp://127.0.0.1:${server.port}`, Listens, { max: 1 });
    const lease = await listening.lease();
    expect(await lease.call(["SUBSCRIBE", "news"])).toEqual(["subscribe", "news", 1]);
    expect(await redis.call(["PUBLISH", "news", "hello"])).toBe(1);
    while (told.length === 0) await turn();
    expect(told).toEqual([["message", "news", "hello"]]);
    expect(await lease.call(["PING"])).toBe("PONG");
    await lease.release();
  });
});

const lacking = postgresCommand("postgres") === null ? ["postgres"] : [];

describeWith(["openssl", ...lacking], "PostgreSQL with TLS and SCRAM, killed in the middle", () => {
  let server: Mortal;
  let rows: Pool<string, Rows>;
  beforeAll(async () => {
    const made = ownCertificates() as Certificates;
    server = await postgres(made);
    rows = pool(`tcp://localhost:${server.port}`, Postgres, {
      max: 5,
      context: { user: "postgres", password: postgresPassword },
      secureTransport: "starttls",
      tls: { ca: made.ca },
      waitTimeout: 120_000, // a crash is recovered from as fast as this machine can
    });
    await rows.call("CREATE TABLE pairs (n int, half int)");
  });
  afterAll(async () => {
    await rows?.close();
    await server?.[Symbol.asyncDispose]();
  });

  const one = async (query: string, repeatable = false): Promise<string> =>
    (await rows.call(query, { repeatable })).rows[0]?.[0] ?? "";

  test("logs in once a connection, whoever asks", async () => {
    const pids = await Promise.all(Array.from({ length: 200 }, () => one("SELECT pg_backend_pid()")));
    while (rows.info().opening > 0) await turn();
    const { opened, connections, lost } = rows.info();
    expect([connections, lost]).toEqual([opened, 0]);
    expect(new Set(pids).size).toBeLessThanOrEqual(opened);
    expect(opened).toBeLessThanOrEqual(5);
    const secured =
      "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'socklet'";
    expect(await one(secured)).toBe(`${opened}`);
  });

  test("an error is one call's, and the connection goes on", async () => {
    const failed = await one("SELECT 1/0").catch((error) => error);
    expect(failed).toBeInstanceOf(PostgresError);
    expect(failed).toMatchObject({ code: "ERR_REFUSED", sqlState: "22012" });
    await expect(one("BEGIN")).rejects.toMatchObject({ code: "EINVAL" });
    expect(await one("SELECT 1")).toBe("1");
    {
      await using lease = await rows.lease();
      await lease.call("SET search_path TO nowhere");
      await lease.call("COPY pairs FROM STDIN").catch((error) => expect(error.sqlState).toBe("42P01"));
    }
    expect(await one("SHOW search_path")).toBe('"$user", public');
  });

  test(`answers each call once or fails it once, and swaps none, through ${KILLS} kills`, async () => {
    const toll = await whileKilled(server, async (n, repeatable) => {
      expect(await one(`SELECT ${n}`, repeatable)).toBe(`${n}`);
    });
    expect(toll.lost).toBeLessThanOrEqual(KILLS * 5);
  });

  test(`a transaction is whole or not there, through ${KILLS} kills`, async () => {
    const done: number[] = [];
    await whileKilled(server, async (n) => {
      await using lease = await rows.lease();
      const ask = (query: string): Promise<unknown> =>
        lease.call(query).catch((error) => {
          if (error.code === "ENOTCONN") throw new SocketError("ERR_CALL_LOST", undefined, { cause: error });
          throw error;
        });
      await ask("BEGIN");
      await ask(`INSERT INTO pairs VALUES (${n}, 1)`);
      await ask(`INSERT INTO pairs VALUES (${n}, 2)`);
      await ask("COMMIT");
      done.push(n);
    });
    expect((await rows.call("SELECT n FROM pairs GROUP BY n HAVING count(*) <> 2")).rows).toEqual([]);
    const kept = new Set((await rows.call("SELECT DISTINCT n FROM pairs")).rows.map(([n]) => Number(n)));
    expect(done.filter((n) => !kept.has(n))).toEqual([]);
  });
});

test("Postgres keeps its callers apart, whatever goes wrong", async () => {
  /** A server that trusts everybody, and answers each query with itself. */
  class Trusting extends StreamRequestHandler {
    override async handle(): Promise<void> {
      const { rfile, wfile } = this;
      const next = async (): Promise<Uint8Array> => {
        const [a = 0, b = 0, c = 0, d = 0] = await rfile.readexactly(4);
        return rfile.readexactly(a * 2 ** 24 + b * 2 ** 16 + c * 256 + d - 4);
      };
      const say = (type: string, body: Uint8Array): void => {
        const size = body.length + 4;
        wfile.write(type);
        wfile.write(new Uint8Array([size >>> 24, size >>> 16, size >>> 8, size]));
        wfile.write(body);
      };
      const text = (said: string): Uint8Array => new TextEncoder().encode(said);
      try {
        await next();
        wfile.write("N");
        await next();
        say("R", new Uint8Array(4));
        say("Z", text("I"));
        while ((await rfile.readexactly(1))[0] === 0x51) {
          const query = (await next()).subarray(0, -1);
          const size = query.length;
          say("D", new Uint8Array([0, 1, 0, 0, size >>> 8, size, ...query]));
          say("C", text("SELECT 1\0"));
          say("Z", text("I"));
        }
      } catch (error) {
        if (!(error instanceof SocketError)) throw error;
      }
    }
  }
  const report = await checkPool(Postgres, {
    server: Trusting,
    context: { user: "me", plain: true },
    ask: (n) => `${n}`,
    reply: (n) => ({ columns: [], rows: [[`${n}`]], tag: "SELECT 1" }),
    notice: new Uint8Array([0x41, 0, 0, 0, 15, 0, 0, 0, 1, ...new TextEncoder().encode("news\0"), 0]).with(
      4,
      14,
    ),
  });
  expect(report.runs).toBeGreaterThan(1_000);
});

test("10,000 callers who wait take little memory, and all are answered", async () => {
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  const used = (): number => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  let go = (): void => {};
  const gate = new Promise<void>((resolve) => {
    go = resolve;
  });
  class Parrot extends StreamRequestHandler {
    override async handle(): Promise<void> {
      await gate;
      for await (const line of this.rfile.lines()) this.wfile.write(`${line}\n`);
    }
  }
  class Lines extends ClientHandler<string, string> {
    override send(call: string): void {
      this.wfile.write(`${call}\n`);
    }
    override async receive(): Promise<string> {
      return new TextDecoder().decode(await this.rfile.readuntil("\n")).slice(0, -1);
    }
  }
  const server = new ThreadingMemoryServer(Parrot);
  void server.serveForever();
  await using calls = memoryPool(server, Lines, { max: 4, pipeline: 16 });
  const warm = calls.call("warm");
  const before = used();
  const all = Array.from({ length: 9_999 }, (_, i) => calls.call(`${i}`));
  await turn();
  expect(calls.info()).toMatchObject({ running: 64, waiting: 9_999 + 1 - 64 });
  expect((used() - before) / all.length).toBeLessThan(2_048); // bytes each; here about 600
  go();
  expect(await Promise.all(all)).toEqual(all.map((_, i) => `${i}`));
  await warm;
});
