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
    const cli = ["--conditions=socklet:source", "emulator/command/cli.ts", "dial", `127.0.0.1:${port}`];
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

  test("each type of RESP3, and what is pushed", async () => {
    const { port, program } = await redis("--enable-debug-command", "yes");
    await using _ = program;
    const pushed: unknown[] = [];
    const ask = (params: unknown) =>
      new TCPConnector(`127.0.0.1:${port}`, RespClient, {
        onEvent: (event) => event.type === "handler" && pushed.push(event.detail),
      }).run({ params });
    const [hello, ...replies] = (await ask([
      ["HELLO", "3"],
      ...TYPES.map((type) => ["DEBUG", "PROTOCOL", type]),
    ])) as unknown[];
    expect(hello).toEqual({ map: expect.arrayContaining([["proto", 3]]) });
    expect(Object.fromEntries(TYPES.map((type, i) => [type, replies[i]]))).toEqual({
      string: "Hello World",
      integer: 12345,
      // biome-ignore lint/suspicious/noApproximativeNumericConstant: what Redis replies
      double: 3.141,
      bignum: 1234567999999999999999999999999999999n,
      null: null,
      array: [0, 1, 2],
      set: [0, 1, 2],
      map: {
        map: [
          [0, false],
          [1, true],
          [2, false],
        ],
      },
      attrib: "Some real reply following the attribute",
      push: "Some real reply following the push reply",
      verbatim: "This is a verbatim\nstring",
      true: true,
      false: false,
    });
    expect(pushed).toEqual([{ push: ["server-cpu-usage", 42] }]);
    const told = await ask([
      ["HELLO", "3"],
      ["CONFIG", "GET", "appendonly"],
      ["GET", "none"],
    ]);
    expect((told as unknown[]).slice(1)).toEqual([{ map: [["appendonly", "no"]] }, null]);
  });
});

/** What `DEBUG PROTOCOL` can reply. */
const TYPES = [
  ...["string", "integer", "double", "bignum", "null", "array", "set"],
  ...["map", "attrib", "push", "verbatim", "true", "false"],
];

const array = (...words: string[]): string =>
  `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`;

/** Requests that our server answers as redis-server does, byte for byte; each character is a byte. */
const SAME = [
  // what does not speak RESP
  ...[
    "*1\r\n\xc4\x8aPING\r\n",
    "*x\r\n",
    "*01\r\n",
    "*+1\r\n",
    "*1\r\nPING\r\n",
    "*1\r\n$x\r\n",
    "*1\r\n$\r\n",
    "*1\r\n$-1\r\n",
    "*1\r\n$04\r\nPING\r\n",
  ],
  ...[
    "*0\r\n*-1\r\n*-5\r\nPING\r\n",
    "\r\nPING\r\n",
    "*1\r\n$4\r\nECHO\r\n",
    "*1\r\n$0\r\n\r\n",
    "$4\r\nPING\r\n",
  ],
  // HTTP
  ...[
    "POST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "post\r\nPING\r\n",
    "host: x\r\nPING\r\n",
  ],
  ...[array("Post") + array("PING"), array("HOST:", "x") + array("PING"), "Host:x\r\nPING\r\n"],
  // inline: quotes, tabs, escapes
  ...[
    'PING "a b\\x41\\n\\t\\r\\b\\a\\"\\\\"\r\n',
    "PING 'a\\'b\\n\\x41'\r\n",
    "PING\ta\tb\r\n",
    "\tPING \t a \t\r\n",
  ],
  ...[
    'PING "unbalanced\r\n',
    "PING 'unbalanced\r\n",
    'PING "a"b\r\nPING\r\n',
    "PING 'a'b\r\n",
    "PING '\\'\r\n",
    'PING "\\"\r\n',
  ],
  ...[
    'ECHO ""\r\n',
    "ECHO ''\r\n",
    'ECHO a"b c"\r\n',
    "ECHO a'b'\r\n",
    "ECHO \x0b\x0c x\r\n",
    "ECHO a\x0bb\r\n",
    "PING\r\r\n",
  ],
  ...[
    "ECHO a\\x41\r\n",
    'ECHO "\\xzz\\xFg\\q"\r\n',
    'ECHO "\\xfF\\x00"\r\n',
    "ECHO \xc3\xa9\r\n",
    'ECHO "\xc3\xa9\\xff"\r\n',
    "ping\n",
  ],
  // bytes, and what is not there
  ...[array("\xc3\xa9"), array("nope", "\xff", "\xc3\xa9"), array("NO\x00SUCH", "a\x00b")],
  ...[
    array("x".repeat(300), "y".repeat(300)),
    array("nope", ...Array(10).fill("a".repeat(30))),
    "NOPE a b\r\n",
    array("\xc4\xb1ncr", "n"),
  ],
  ...[
    "CLIENT\r\n",
    "CLIENT nope\r\n",
    array("client", "no\r\npe\x00", "x"),
    "CONFIG NOPE x\r\n",
    "COMMAND NOPE\r\n",
    "DEBUG PROTOCOL nope\r\n",
  ],
  "GET\r\nDEL\r\nEXISTS\r\nSET a\r\nSET a b c\r\nINCR\r\nINCRBY a\r\nECHO\r\nPING a b\r\nCLIENT ID x\r\nCLIENT HELP x\r\nCONFIG GET\r\nCOMMAND COUNT x\r\n",
  // keys and values
  "SET k 1\r\nINCR k\r\nSET k x\r\nINCR k\r\nSET k 01\r\nINCR k\r\nGET nothing\r\nDEL k\r\n",
  "SET k 9223372036854775807\r\nINCR k\r\nEXISTS k k l\r\nDEL k k\r\nSET k v XX YY\r\n",
  "INCRBY k 5\r\nINCRBY k -7\r\nINCRBY k 1.5\r\nINCRBY k -9223372036854775807\r\nINCRBY k 9223372036854775808\r\nDEL k\r\n",
  // the connection
  "SELECT 0\r\nSELECT 99\r\nSELECT -1\r\nSELECT x\r\nSELECT 0 1\r\nECHO\r\nPING a b\r\nQUIT x\r\nPING\r\n",
  "CLIENT GETNAME\r\nCLIENT SETNAME 'a b'\r\nCLIENT SETNAME a\r\nCLIENT GETNAME\r\nCLIENT SETNAME ''\r\nCLIENT GETNAME\r\nHELLO 3\r\nCLIENT GETNAME\r\n",
  "HELLO\r\nHELLO x\r\nHELLO 1\r\nHELLO 4\r\nHELLO 03\r\nHELLO 3 AUTH\r\nHELLO 3 AUTH a b\r\nHELLO 3 nope\r\nHELLO 3 SETNAME\r\nHELLO 3 SETNAME 'a b'\r\nGET none\r\n",
  "HELLO 2 setname ab auth default x\r\nCLIENT GETNAME\r\nHELLO 3 SETNAME c\r\nHELLO\r\nGET none\r\nHELLO 2\r\nGET none\r\n",
  "AUTH\r\nAUTH x\r\nAUTH default x\r\nAUTH a b\r\nAUTH a b c\r\n",
  // the server
  "CONFIG GET nope\r\nCONFIG GET save\r\nCONFIG GET app*only x*\r\nHELLO 3\r\nCONFIG GET save\r\nCONFIG GET nope\r\n",
  "INFO nope\r\nINFO keyspace\r\nHELLO 3\r\nINFO nope keyspace\r\nCOMMAND DOCS nope\r\nCOMMAND INFO nope\r\n",
  ...[2, 3].flatMap((version) =>
    TYPES.map((type) => `HELLO ${version}\r\nDEBUG PROTOCOL ${type}\r\nPING\r\n`),
  ),
];

describeWith(["redis-server"], "RespServer and redis-server", () => {
  test("say the same, byte for byte", async () => {
    const { port, program } = await redis("--enable-debug-command", "yes");
    await using _ = program;
    await using place = await server();
    const said = async (at: number, request: string): Promise<string> => {
      await using socket = await createConnection(`127.0.0.1:${at}`);
      await socket.sendall(Buffer.from(request, "latin1")).catch(() => {}); // it may have left in the middle
      await socket.shutdown(1).catch(() => {});
      const reply = Buffer.from((await socket.rfile.read()) ?? []).toString("latin1");
      return reply
        .replace(/\$5\r\nredis\r\n/g, "$7\r\nsocklet\r\n")
        .replace(/id\r\n:\d+/g, "id\r\n:N")
        .replace(/\$\d+\r\n\d+\.\d+\.\d+\r\n/g, "VERSION\r\n");
    };
    for (const request of SAME) {
      expect(await said(place.port, request), JSON.stringify(request)).toBe(await said(port, request));
    }
    expect(place.errors()).toEqual([]);
  });
});
