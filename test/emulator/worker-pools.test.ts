/**
 * Pools of a Worker in real workerd, asked by its requests, with real servers on the other end, which are killed in the
 * middle, as is workerd: each call is answered once, with its own reply, or fails once.
 *
 *     POOL_KILLS=100 npx vitest run --project node --testTimeout 0 test/emulator/worker-pools
 */

import { type InternetAddress, type PoolInfo, streamHandler } from "socklet";
import { controlClient } from "socklet/control";
import { ThreadingTCPServer } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";
import { describeWith, run } from "../peers/program.ts";
import { type Mortal, mortalRedis, postgres, postgresCommand, postgresPassword } from "../peers/servers.ts";
import type { MortalWorkerd } from "./mortal-workerd.ts";
import { poolsWorker, TOKEN } from "./pools-worker.ts";

const KILLS = Number(process.env.POOL_KILLS ?? 3);
const CALLERS = 20;

interface Told {
  readonly value?: unknown;
  readonly error?: { readonly code: string; readonly message: string };
}

const ask = async (workerd: MortalWorkerd, path: string): Promise<Told> => {
  const answer = await fetch(`${workerd.origin}/${path}`);
  return (await answer.json()) as Told;
};

const controlOf = ({ origin }: MortalWorkerd) => controlClient(origin, { token: TOKEN });

/** The outcomes of calls. */
interface Toll {
  asked: number;
  answered: number;
  lost: number;
}

/**
 * Requests that ask, each for its own number, without a pause, while something is killed. `path` makes the request of a
 * number. Each request must be answered with its own number, or with the error that its call is lost, or be lost with workerd.
 */
const whileKilled = async (
  workerd: MortalWorkerd,
  kill: () => Promise<void>,
  path: (n: number) => string,
  answered: (n: number) => void = () => {},
): Promise<Toll> => {
  const toll: Toll = { asked: 0, answered: 0, lost: 0 };
  let over = false;
  let killing = Promise.resolve();
  let more = Promise.withResolvers<void>();
  const callers = Array.from({ length: CALLERS }, async () => {
    while (!over) {
      const n = toll.asked++;
      const told: Told = await ask(workerd, path(n)).catch((error) => {
        if (error instanceof TypeError || error instanceof SyntaxError)
          return { error: { code: "GONE", message: "" } }; // with workerd
        throw error;
      });
      if (told.error === undefined) {
        expect(String(told.value)).toBe(`${n}`);
        toll.answered++;
        answered(n);
      } else {
        expect(["ERR_CALL_LOST", "ENOTCONN", "GONE"]).toContain(told.error.code);
        toll.lost++;
        await killing; // while workerd is down nothing is asked
      }
      more.resolve();
      more = Promise.withResolvers();
    }
  });
  const all = Promise.all(callers);
  const until = async (count: number): Promise<void> => {
    while (toll.answered < count) await Promise.race([more.promise, all]);
  };
  for (let i = 0; i < KILLS; i++) {
    await until(toll.answered + CALLERS * 5 + i);
    killing = kill();
    await killing;
  }
  await until(toll.answered + CALLERS * 5);
  over = true;
  await all;
  expect(toll.answered + toll.lost).toBe(toll.asked);
  return toll;
};

describe("what crosses between a request and a pool's object", () => {
  const held = Promise.withResolvers<void>();
  let lines: ThreadingTCPServer<unknown>;
  let workerd: MortalWorkerd;
  beforeAll(async () => {
    // Repeats each line, except for one, and another one the first time.
    let first = true;
    const Parrot = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) {
        if (line === "held" && first) {
          first = false;
          held.resolve();
        } else if (line !== "silent") wfile.write(`${line}\n`);
      }
    });
    lines = new ThreadingTCPServer("127.0.0.1:0", Parrot);
    const { port } = (await lines.listen()) as InternetAddress;
    void lines.serveForever();
    workerd = await poolsWorker({ LINES: `127.0.0.1:${port}` });
  });
  afterAll(async () => {
    await workerd?.[Symbol.asyncDispose]();
    await lines?.serverClose();
  });

  test.each([
    ["map", 0],
    ["bytes", 0],
    ["bytes", 1_000],
    ["bytes", 2 ** 20], // in one piece with a few bytes more: as a stream
    ["bytes", 10 * 2 ** 20],
    ["text", 4 * 2 ** 20],
    ["range", 0],
    ["socket", 0],
    ["thrown", 0],
  ])("%s %d arrives as what it is", async (name, size) => {
    const { value } = await ask(workerd, `value/values/${name}/${size}`);
    expect(value).toEqual((await ask(workerd, `ours/${name}/${size}`)).value);
    expect(value).not.toBeNull();
  });

  test("an error of a class of one's own keeps what it says, and a SocketError's code", async () => {
    const { value: postgres } = await ask(workerd, "value/values/postgres/0");
    expect(postgres).toMatchObject({
      socket: true,
      message: "ERR_REFUSED: the server says ERROR 22012: division by zero",
      own: expect.arrayContaining([
        ["sqlState", "22012"],
        ["code", "ERR_REFUSED"],
      ]),
    });
    const { value: strange } = await ask(workerd, "value/values/strange/0");
    expect(strange).toMatchObject({ Error: "Error", message: "odd" });
    expect((strange as { own: unknown[] }).own).toEqual([["kept", { bytes: 2, first: 1, last: 2 }]]);
  });

  test("what a caller sends arrives, too, however large", async () => {
    const { value } = await ask(workerd, "there");
    const [map, bytes] = value as unknown[];
    expect(map).toEqual((await ask(workerd, "ours/map/0")).value);
    expect(bytes).toEqual({ bytes: 3 * 2 ** 20, first: 7, last: 7 });
  });

  test.each([
    ["value/values/bytes/33554432", "ERR_LIMIT", "the reply is larger than 32 MiB"],
    ["value/values/function/0", "ERR_UNSUPPORTED", "the reply.rows[0].get is a function; what crosses"],
    ["value/values/instance/0", "ERR_UNSUPPORTED", "the reply[0] is of the class Row; what crosses"],
    ["value/values/circle/0", "ERR_UNSUPPORTED", "is nested too deeply, or in a circle"],
    ["value/values/nothing/0", "ERR_HANDLER", "[function"],
  ])("%s says why not", async (path, code, message) => {
    const { value } = await ask(workerd, path);
    expect(value).toMatchObject({ socket: true, own: expect.arrayContaining([["code", code]]) });
    expect((value as { message: string }).message).toContain(message);
    expect((await ask(workerd, "value/values/bytes/1")).value).toMatchObject({ bytes: 1 }); // the pool continues
  });

  test.each([
    ["tooLarge", "ERR_LIMIT", "the call is larger than 32 MiB"],
    ["noData", "ERR_UNSUPPORTED", "the call[1].at[0] is a function"],
    [
      "unknown/cache",
      "ERR_APP",
      'pool("cache"): the app has none of that name in `pools`; it has: postgres, redis',
    ],
  ])("%s is refused before anything is sent", async (path, code, message) => {
    const { error } = await ask(workerd, path);
    expect(error?.code).toBe(code);
    expect(error?.message).toContain(message);
  });

  test("who gives up a call gives up its connection, and the next call has another", async () => {
    expect(await ask(workerd, "aborted")).toEqual({ value: ["ECANCELED", 1] });
    expect(await controlOf(workerd).pool("left")).toMatchObject({ abandoned: 1, opened: 2, running: 0 });
  });

  test("calls that wait have a limit of number and of time", async () => {
    const { value } = await ask(workerd, "crowd/10");
    const count = (code: string): number => (value as string[]).filter((one) => one === code).length;
    expect([count("ETIMEDOUT"), count("ERR_LIMIT")]).toEqual([4, 6]); // one had a connection, three waited
  });

  test("of the calls of an object that is lost, those that waited go elsewhere", async () => {
    const asked = ask(workerd, "gated/12");
    await held.promise; // by the server
    while ((await controlOf(workerd).pool("gated")).waiting < 11);
    await fetch(`${workerd.origin}/lose/gated/0`);
    const { value } = await asked;
    // One had begun, and one might have: it was next. The others would not have without their callers.
    expect([...(value as string[])].sort()).toEqual([
      "ERR_CALL_LOST",
      "ERR_CALL_LOST",
      ...Array.from({ length: 10 }, () => "held"),
    ]);
  });

  test("a lease says when it is over, and why", async () => {
    const { value } = await ask(workerd, "leases");
    const scope = [5, "EBADF"];
    expect(value).toEqual([
      ...scope,
      2,
      "ERR_REFUSED",
      "ECANCELED",
      "ECANCELED",
      "ERR_CALL_LOST",
      "ENOTCONN",
    ]);
    expect(await controlOf(workerd).pool("two")).toMatchObject({ leased: 0 });
  });

  test("a pool of more than six connections has more than one object", async () => {
    const served = (): Promise<PoolInfo> => controlOf(workerd).pool("twelve");
    const before = await served();
    expect(before).toMatchObject({ name: "twelve", max: 12 });
    for (let i = 0; i < 12; i++) await ask(workerd, "value/twelve/bytes/1");
    const { answered, opened } = await served();
    expect([answered - before.answered, opened]).toEqual([12, 2]);
  });
});

describeWith(["redis-server"], "a Worker's pool of Redis", () => {
  let server: Mortal;
  let workerd: MortalWorkerd;
  beforeAll(async () => {
    server = await mortalRedis();
    workerd = await poolsWorker({ REDIS: `127.0.0.1:${server.port}` });
  });
  afterAll(async () => {
    await workerd?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  const echo = (n: number): string => `echo/${n}${n % 2 ? "" : "?repeatable"}`;

  test("handlers use it by their context, and the control routes and `socklet pools` show it", async () => {
    expect([await ask(workerd, "visits"), await ask(workerd, "visits")]).toEqual([
      { value: 1 },
      { value: 2 },
    ]);
    const control = controlOf(workerd);
    expect((await control.pools()).map(({ name }) => name)).toContain("postgres");
    expect(await control.pool("redis")).toMatchObject({
      max: 4,
      pipeline: 8,
      answered: 2,
      opened: 1,
      lost: 0,
    });
    const headers = { authorization: `Bearer ${TOKEN}` };
    const metrics = await (await fetch(`${workerd.origin}/v1/metrics`, { headers })).text();
    expect(metrics).toMatch(/^socklet_pool_connections_limit\{pool="redis"\} 4$/m);
    expect(metrics).toMatch(/^socklet_pool_calls_total\{pool="redis",result="answered"\} 2$/m);
    const cli = ["--conditions=socklet:source", "emulator/command/cli.ts", "pools", "redis"];
    const shown = await run(process.execPath, [...cli, "--url", workerd.origin, "--token", TOKEN]);
    expect(shown.stdout.toString()).toMatch(/\nredis +127\.0\.0\.1:\d+ +1 of 4 +1 /);
  });

  test(`answers each call once or fails it once, through ${KILLS} kills of the server`, async () => {
    const toll = await whileKilled(workerd, () => server.restart(), echo);
    expect(toll.lost).toBeLessThanOrEqual(KILLS * CALLERS);
  });

  test(`through ${KILLS} losses of the object`, async () => {
    const lose = async (): Promise<void> => void (await fetch(`${workerd.origin}/lose/redis/0`));
    const toll = await whileKilled(workerd, lose, echo);
    expect(toll.lost).toBeLessThanOrEqual(KILLS * CALLERS);
  });

  test(`through ${KILLS} kills of workerd`, async () => {
    const toll = await whileKilled(workerd, () => workerd.kill(), echo);
    expect(toll.answered).toBeGreaterThan(KILLS * CALLERS * 5);
  });
});

const lacking = postgresCommand("postgres") === null ? ["postgres"] : [];

describeWith(["openssl", ...lacking], "a Worker's pool of PostgreSQL, with TLS and SCRAM", () => {
  let server: Mortal;
  let workerd: MortalWorkerd;
  beforeAll(async () => {
    server = await postgres(ownCertificates() as Certificates);
    workerd = await poolsWorker({
      POSTGRES: `localhost:${server.port}`,
      PASSWORD: postgresPassword,
      MAX: 10,
    });
    await query("CREATE TABLE pairs (n int, half int)");
  });
  afterAll(async () => {
    await workerd?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  const query = async (q: string): Promise<(string | null)[][]> => {
    const { value, error } = await ask(workerd, `query?${new URLSearchParams({ q })}`);
    expect(error).toBeUndefined();
    return value as (string | null)[][];
  };
  const one = (n: number): string => `postgres/${n}${n % 2 ? "" : "?repeatable"}`;

  test("1,000 requests, 50 at once, are answered with ten log-ins", async () => {
    let next = 0;
    const answers: unknown[] = [];
    const caller = async (): Promise<void> => {
      for (let n = next++; n < 1_000; n = next++) answers[n] = (await ask(workerd, `postgres/${n}`)).value;
    };
    await Promise.all(Array.from({ length: 50 }, caller));
    expect(answers).toEqual(Array.from({ length: 1_000 }, (_, n) => `${n}`));
    const connections = await query(
      "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'socklet'",
    );
    expect(connections).toEqual([["10"]]);
    const info = await controlOf(workerd).pool("postgres");
    expect(info).toMatchObject({ max: 10, connections: 10, opened: 10, failed: 0, lost: 0 });
  });

  test("a lease that its request leaves behind is given back, and its transaction is over", async () => {
    const { value: pid } = await ask(workerd, "leave");
    const still = `SELECT count(*) FROM pg_stat_activity WHERE pid = ${pid}`;
    while ((await query(still))[0]?.[0] !== "0"); // a connection in a transaction is destroyed
    expect(await controlOf(workerd).pool("postgres")).toMatchObject({ leased: 0 });
  });

  const kills = {
    PostgreSQL: () => server.restart(),
    workerd: () => workerd.kill(),
    "an object": async () => void (await fetch(`${workerd.origin}/lose/postgres/1`)),
  };

  test.each(Object.entries(kills))(
    `answers each call once or fails it once, through ${KILLS} kills of %s`,
    async (_, kill) => {
      const toll = await whileKilled(workerd, kill, one);
      expect(toll.lost).toBeLessThanOrEqual(KILLS * CALLERS);
    },
  );

  test.each(Object.entries(kills))(
    `a transaction is whole or not there, through ${KILLS} kills of %s`,
    async (_, kill) => {
      await query("TRUNCATE pairs");
      const done: number[] = [];
      await whileKilled(
        workerd,
        kill,
        (n) => `pair/${n}`,
        (n) => done.push(n),
      );
      expect(await query("SELECT n FROM pairs GROUP BY n HAVING count(*) <> 2")).toEqual([]);
      const kept = new Set((await query("SELECT DISTINCT n FROM pairs")).map(([n]) => Number(n)));
      expect(done.filter((n) => !kept.has(n))).toEqual([]);
    },
  );
});
