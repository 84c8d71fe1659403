/**
 * The RESP example and the clients that people use: npm `redis` and `ioredis` with their defaults, redis-py, redis-cli
 * and redis-benchmark in RESP3. Where redis-server is here, a client's answers from the example are compared with
 * those from redis-server.
 */

import { Redis } from "ioredis";
import { createClient } from "redis";
import { createConnection } from "socklet/emulator";
import { describe, expect, test } from "vitest";
import { KeyStore, RespServer } from "../../examples/resp.ts";
import { peer } from "./peer.ts";
import { describeWith, python, pythonWith, redis, run, serve } from "./program.ts";

const example = () => serve(RespServer, { keys: new KeyStore() });

/** The replies of the example, which must not be errors, and those of redis-server. */
const toldByBoth = async (ask: (port: number) => Promise<unknown>): Promise<void> => {
  await using place = await example();
  const ours = await ask(place.port);
  expect(place.errors()).toEqual([]);
  if (peer("redis-server") === null) return;
  const { port, program } = await redis();
  await using _ = program;
  expect(ours).toEqual(await ask(port));
};

const said = (error: unknown): string => String(error);

describe("npm redis", () => {
  const options = { RESP2: { RESP: 2 }, "RESP3, its default": {}, named: { name: "me" } } as const;

  test.each(Object.keys(options) as (keyof typeof options)[])("%s", (key) =>
    toldByBoth(async (port) => {
      const errors: unknown[] = [];
      const client = createClient({ socket: { host: "127.0.0.1", port }, ...options[key] });
      client.on("error", (error) => errors.push(error));
      await client.connect();
      try {
        return {
          set: await client.set("clé", "é\r\n"),
          get: await client.get("clé"),
          none: await client.get("none"),
          pipelined: await Promise.all([client.incr("n"), client.incrBy("n", -5), client.exists(["n", "m"])]),
          deleted: await client.del(["clé", "n", "none"]),
          name: await client.clientGetName(),
          number: typeof (await client.clientId()),
          config: await client.configGet(["save", "append*ly"]),
          get_: (await client.commandInfo(["get", "nope"])).map(
            (info) => info && { ...info, categories: undefined },
          ),
          loading: /^loading:0\r$/m.test(await client.info("persistence")),
          unknown: await client.sendCommand(["NOPE", "é"]).catch(said),
          subcommand: await client.sendCommand(["CLIENT", "NOPE"]).catch(said),
          select: await client.select(0).then(() => "selected"),
          refused: await client.sendCommand(["SELECT", "99"]).catch(said),
          ping: await client.ping("x"),
          errors,
        };
      } finally {
        await client.close();
      }
    }),
  );

  test("says who it is, in the breath of HELLO", async () => {
    await using place = await example();
    const client = createClient({ socket: { host: "127.0.0.1", port: place.port } });
    await client.connect();
    try {
      expect(await client.clientInfo()).toMatchObject({ libName: "node-redis", libVer: "6.3.1", resp: 3 });
    } finally {
      await client.close();
    }
  });
});

describe("npm ioredis", () => {
  const options = {
    "its defaults": {},
    "named, with a user and a password": { connectionName: "me", username: "default", password: "x" },
    "without the ready check": { enableReadyCheck: false },
  } as const;

  test.each(Object.keys(options) as (keyof typeof options)[])("%s", (key) =>
    toldByBoth(async (port) => {
      const client = new Redis({ port, host: "127.0.0.1", lazyConnect: true, ...options[key] });
      const errors: unknown[] = [];
      client.on("error", (error) => errors.push(error));
      await client.connect();
      try {
        return {
          set: await client.set("clé", Buffer.of(0xff, 13, 10)),
          get: await client.getBuffer("clé"),
          pipelined: await client.pipeline().incr("n").incrby("n", 2).get("none").exists("n").exec(),
          name: await client.client("GETNAME"),
          config: await client.config("GET", "save"),
          docs: await client.command("DOCS", "nope"),
          subcommand: await client.call("CONFIG", "NOPE").catch(said),
          quit: await client.quit(),
          errors,
        };
      } finally {
        client.disconnect();
      }
    }),
  );
});

/** What redis-py 8.1 sends when it connects, as recorded; each message waits for its reply. */
const REDIS_PY = [
  [["HELLO", "3"], /^%7\r\n\$6\r\nserver\r\n.*\$5\r\nproto\r\n:3\r\n.*\*0\r\n$/s],
  [
    ["CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-fqdn"],
    /^-ERR unknown subcommand 'MAINT_NOTIFICATIONS'\. Try CLIENT HELP\.\r\n$/,
  ],
  [["CLIENT", "SETINFO", "LIB-NAME", "redis-py"], /^\+OK\r\n$/],
  [["CLIENT", "SETINFO", "LIB-VER", "8.1.0"], /^\+OK\r\n$/],
  [["SET", "k", "v"], /^\+OK\r\n$/],
  [["CLIENT", "GETNAME"], /^_\r\n$/],
] as const;

const array = (words: readonly string[]): string =>
  `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`;

describe("redis-py 8.1, as it was recorded", () => {
  test.each([
    ["in its order", REDIS_PY],
    ["and who it is before HELLO", [REDIS_PY[2], REDIS_PY[3], REDIS_PY[0]]],
  ])("%s", async (_, requests) => {
    await using place = await example();
    await using client = await createConnection({ hostname: "127.0.0.1", port: place.port });
    for (const [words, expected] of requests) {
      await client.sendall(array(words));
      let reply = "";
      while (!expected.test(reply)) {
        const bytes = await client.recv();
        if (bytes === null) throw new Error(`${words.join(" ")}: it was answered ${JSON.stringify(reply)}`);
        reply += Buffer.from(bytes).toString("latin1");
      }
    }
    expect(place.errors()).toEqual([]);
  });
});

const PYTHON = `
import redis, sys
for name in (None, "me"):
    client = redis.Redis(port=int(sys.argv[1]), client_name=name)
    print(client.set("k", b"\\xff"), client.get("k"), client.get("none"), client.client_getname())
    print(client.incr("n"), client.exists("n", "m"), client.delete("k", "n"))
    print(client.config_get("save"), client.info("persistence")["loading"], client.client_id() > 0)
    with client.pipeline(transaction=False) as pipeline:
        print(pipeline.set("p", 1).incr("p", 5).get("p").execute())
    try: client.execute_command("CLIENT", "NOPE")
    except redis.ResponseError as error: print(error)
    client.close()
`;

pythonWith("redis", "python3-redis")("redis-py of this machine", (command) => {
  test("is told what redis-server tells it", () =>
    toldByBoth((port) => python(PYTHON, [port], "", undefined, command)));
});

describeWith(["redis-cli"], "redis-cli -3", () => {
  const cli = async (port: number, ...args: string[]): Promise<string> => {
    const { stdout, stderr } = await run("redis-cli", ["-3", "-p", port, ...args]);
    return `${stdout}${stderr}`;
  };

  test.each([
    [["ping"], "PONG\n"],
    [["get", "none"], "\n"],
    [["--no-raw", "config", "get", "save"], '1# "save" => ""\n'],
    [["--no-raw", "debug", "protocol", "set"], "1~ (integer) 0\n2~ (integer) 1\n3~ (integer) 2\n"],
    [["--no-raw", "debug", "protocol", "double"], "(double) 3.141\n"],
    [["--no-raw", "debug", "protocol", "true"], "(true)\n"],
    [["--no-raw", "client", "getname"], "(nil)\n"],
    [
      ["--json", "hello", "3"],
      '{"server":"socklet","version":"7.0.15","proto":3,"id":2,"mode":"standalone","role":"master","modules":[]}\n',
    ],
    [["client", "nope"], "ERR unknown subcommand 'nope'. Try CLIENT HELP.\n\n"],
  ])("%j", async (args, expected) => {
    await using place = await example();
    const told = await cli(place.port, ...args);
    expect(told.replace(/"id":\d+/, '"id":2')).toBe(expected);
    expect(place.errors()).toEqual([]);
  });

  test("shows what the commands are for", async () => {
    await using place = await example();
    expect(await cli(place.port, "command", "docs", "get")).toBe(
      "get summary Give the value of a key\ngroup string\n",
    );
    expect(await cli(place.port, "client", "help")).toContain(
      "SETNAME\n    Assign a name to the current connection.\n",
    );
  });
});

describeWith(["redis-benchmark"], "redis-benchmark -3", () => {
  test("-P 4", async () => {
    await using place = await example();
    const { code, stdout, stderr } = await run("redis-benchmark", [
      ...["-3", "-p", place.port, "-n", 2_000, "-c", 10, "-P", 4, "-q", "-t", "ping,set,get,incr"],
    ]);
    const ended = stdout.toString().replaceAll("\r", "\n");
    expect(ended).toMatch(/^INCR: \d.* requests per second/m);
    expect(ended + stderr).not.toMatch(/WARN|Error|ERR/);
    expect(code).toBe(0);
    expect(place.server.info().failed).toBe(0);
  });
});
