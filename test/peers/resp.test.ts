import { createConnection, TCPConnector } from "socklet/emulator";
import { expect, test } from "vitest";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { describeWith, redis, run, serve } from "./program.ts";

/** Every byte there is, with line ends and invalid UTF-8 among them. */
const BINARY = Uint8Array.from({ length: 1000 }, (_, i) => (i * 7) % 256);

const server = () => serve(RespServer, { keys: new KeyStore() });

describeWith(["redis-cli"], "redis-cli", () => {
  const cli = async (port: number, args: readonly string[], input?: string | Uint8Array) => {
    const { code, stdout, stderr } = await run("redis-cli", ["-p", port, ...args], input);
    return { code, stderr, text: stdout.toString("latin1") };
  };

  test("is served", async () => {
    await using place = await server();
    const { port } = place;
    expect((await cli(port, ["ping"])).text).toBe("PONG\n");
    expect((await cli(port, ["set", "k", "v"])).text).toBe("OK\n");
    expect((await cli(port, ["get", "k"])).text).toBe("v\n");
    expect((await cli(port, ["get", "none"])).text).toBe("\n");
    expect((await cli(port, ["incr", "n"])).text).toBe("1\n");
    expect((await cli(port, ["-n", "0", "del", "k", "n", "none"])).text).toBe("2\n");
    expect((await cli(port, ["nope", "x"])).text).toBe(
      "ERR unknown command 'nope', with args beginning with: 'x' \n\n",
    );
    expect((await cli(port, ["-3", "ping"])).text).toContain("PONG\n"); // it goes on with RESP2
    expect(place.errors()).toEqual([]);
  });

  test("keeps 1 MB of any bytes", async () => {
    await using place = await server();
    const value = Uint8Array.from({ length: 1_000_000 }, (_, i) => (i * 31 + (i >> 8)) % 256);
    expect((await cli(place.port, ["-x", "set", "k"], value)).text).toBe("OK\n");
    const { text } = await cli(place.port, ["get", "k"]);
    expect(text === `${Buffer.from(value).toString("latin1")}\n`).toBe(true);
  });

  test("has several commands of its standard input answered", async () => {
    await using place = await server();
    expect((await cli(place.port, [], "SET k 1\nINCR k\nGET k\n")).text).toBe("OK\n2\n2\n");
  });

  test("--pipe loads 20 000 commands", async () => {
    await using place = await server();
    const command = (...words: string[]) =>
      `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`;
    const load = Array.from({ length: 20_000 }, (_, i) => command("SET", `k${i}`, `v${i}`)).join("");
    const { code, text } = await cli(place.port, ["--pipe"], load);
    expect(text).toContain("errors: 0, replies: 20000");
    expect(code).toBe(0);
    expect((await cli(place.port, ["get", "k19999"])).text).toBe("v19999\n");
  });
});

describeWith(["redis-benchmark"], "redis-benchmark", () => {
  test("-P 16", async () => {
    await using place = await server();
    const { code, stdout, stderr } = await run("redis-benchmark", [
      ...["-p", place.port, "-n", 20_000, "-c", 50, "-P", 16, "-r", 1000, "-q"],
      ...["-t", "ping_inline,ping_mbulk,set,get,incr"],
    ]);
    const ended = stdout.toString().replaceAll("\r", "\n");
    for (const name of ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"]) {
      expect(ended).toMatch(new RegExp(`^${name}: \\d.* requests per second`, "m"));
    }
    expect(ended + stderr).not.toMatch(/WARN|Error|ERR/);
    expect(code).toBe(0);
    expect(place.server.info().failed).toBe(0);
  });
});

describeWith(["redis-server"], "RespClient and redis-server", () => {
  const withRedis = async (body: (ask: (params: unknown) => Promise<unknown>) => Promise<void>) => {
    const { port, program } = await redis();
    await using _ = program;
    await body((params) => new TCPConnector(`127.0.0.1:${port}`, RespClient).run({ params }));
  };

  test("socklet dial runs it, and prints the reply", async () => {
    const { port, program } = await redis();
    await using _ = program;
    const cli = ["--conditions=socklet:source", "emulator/cli.ts", "dial", `127.0.0.1:${port}`];
    const one = await run(process.execPath, [...cli, "examples/resp.ts#RespClient", "PING"]);
    expect([one.code, String(one.stdout), one.stderr]).toEqual([0, '"PONG"\n', ""]);
    const params = '[["SET","k","v"],["GET","k"],["NOPE"]]';
    const many = await run(process.execPath, [
      ...cli,
      "respClient",
      "--app",
      "examples/app.ts",
      "--params",
      params,
    ]);
    expect([many.code, JSON.parse(String(many.stdout)).slice(0, 2)]).toEqual([0, ["OK", "v"]]);
  });

  test("each kind of reply", () =>
    withRedis(async (ask) => {
      expect(await ask(["PING"])).toBe("PONG");
      expect(await ask(["SET", "k", "π"])).toBe("OK");
      expect(await ask(["GET", "k"])).toBe("π");
      expect(await ask(["GET", "none"])).toBeNull();
      expect(await ask(["SET", BINARY, BINARY])).toBe("OK");
      expect(await ask(["GET", BINARY])).toEqual(BINARY);
      expect(await ask(["STRLEN", BINARY])).toBe(1000);
      expect(await ask(["INCR", "k"])).toEqual({ error: "ERR value is not an integer or out of range" });
      expect(await ask(["NOPE"])).toEqual({ error: expect.stringContaining("ERR unknown command 'NOPE'") });
      expect(await ask(["INCRBY", "n", "9223372036854775807"])).toBe(9223372036854775807n);
      expect(await ask(["DECR", "m"])).toBe(-1);
      expect(await ask(["EVAL", "return {1, {'a', {}, false}, redis.error_reply('ERR no')}", "0"])).toEqual([
        1,
        ["a", [], null],
        { error: "ERR no" },
      ]);
      expect(await ask(["BLPOP", "none", "0.01"])).toBeNull(); // the null array
      const commands = (await ask(["COMMAND"])) as unknown[][];
      expect(commands.length).toBeGreaterThan(200);
      expect(commands.map(([name]) => name)).toContain("get");
    }));

  test("a pipeline of 1 000", () =>
    withRedis(async (ask) => {
      const count = 1000;
      const replies = await ask(
        Array.from({ length: count }, (_, i) => (i % 2 === 0 ? ["INCR", "n"] : ["ECHO", `${i}`])),
      );
      expect(replies).toEqual(Array.from({ length: count }, (_, i) => (i % 2 === 0 ? i / 2 + 1 : `${i}`)));
    }));

  test("16 MB there and back in one pipeline", () =>
    withRedis(async (ask) => {
      const value = "x".repeat(160_000);
      const replies = (await ask(Array(100).fill(["ECHO", value]))) as string[];
      expect(replies).toHaveLength(100);
      expect(replies.every((reply) => reply === value)).toBe(true);
    }));

  test("our server says to a protocol error what Redis says", () =>
    withRedis(async (ask) => {
      const port = Number(((await ask(["CONFIG", "GET", "port"])) as string[])[1]);
      await using place = await server();
      const both = async (request: string): Promise<[string, string]> => {
        const said = async (at: number) => {
          await using socket = await createConnection(`127.0.0.1:${at}`);
          await socket.sendall(request);
          await socket.shutdown(1);
          return Buffer.from((await socket.rfile.read()) ?? []).toString("latin1");
        };
        return [await said(place.port), await said(port)];
      };
      for (const request of [
        "*x\r\n",
        "*1\r\nPING\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$-1\r\n",
        "*0\r\n*-1\r\nPING\r\n",
        "\r\nPING\r\n",
        "*1\r\n$4\r\nECHO\r\n",
        "NOPE a b\r\n",
        "*1\r\n$0\r\n\r\n",
        "SET k 1\r\nINCR k\r\nSET k x\r\nINCR k\r\nSET k 01\r\nINCR k\r\nGET nothing\r\n",
        "SET k 9223372036854775807\r\nINCR k\r\nDEL k k\r\nSET k v XX YY\r\n",
        "SELECT 0\r\nSELECT 99\r\nECHO\r\nHELLO 4\r\nPING a b\r\nQUIT\r\nPING\r\n",
      ]) {
        const [ours, theirs] = await both(request);
        expect(ours, JSON.stringify(request)).toBe(theirs);
      }
    }));
});
