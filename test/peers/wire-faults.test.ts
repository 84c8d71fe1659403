/** Faults by rule, seen by real clients through `socklet proxy`: what each did, when, and the same again from the same seed. */

import dgram from "node:dgram";
import { once } from "node:events";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { serverOf } from "./node-server.ts";
import { describeWith, type Ended, type Program, redis, run, start } from "./program.ts";

const cli = fileURLToPath(new URL("../../emulator/command/cli.ts", import.meta.url));

interface Up extends AsyncDisposable {
  readonly port: number;
  readonly program: Program;
  /** Stops it; returns its output. */
  stop(): Promise<string>;
}

const proxy = async (address: string, faults: readonly string[], ...more: string[]): Promise<Up> => {
  const flags = [...faults.flatMap((fault) => ["--fault", fault]), ...more];
  const program = start(
    "sh",
    [
      ...["-c", 'exec "$0" "$@" 2>&1', process.execPath, "--conditions=socklet:source", cli],
      ...["proxy", address, "--listen", "127.0.0.1:0", ...flags],
    ],
    0,
  );
  const line = await program.line(/forwards to/);
  return {
    port: Number(/:(\d+) forwards/.exec(line)?.[1]),
    program,
    async stop() {
      program.kill("SIGINT");
      return (await program.ended).stdout.toString();
    },
    [Symbol.asyncDispose]: () => program[Symbol.asyncDispose](),
  };
};

const echo = () => serverOf({}, (socket) => socket.pipe(socket));

interface Heard {
  readonly text: string;
  /** How it ended: by an end, or by an error's code. */
  readonly end: string;
  /** Milliseconds from the first byte that was sent to the last that came, and to the end. */
  readonly last: number;
  readonly over: number;
}

/** Sends `words`, each once the bytes received equal the bytes sent; then the end. Returns what it received until it was over. */
const talk = async (port: number, words: readonly string[], ends = true): Promise<Heard> => {
  const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
  const pieces: string[] = [];
  let end = "end";
  let last = 0;
  let sent = 0;
  let came = 0;
  const over = Promise.withResolvers<void>();
  const began = performance.now();
  const left = [...words];
  const next = (): void => {
    const word = left.shift();
    if (word !== undefined) {
      sent += word.length;
      socket.write(word);
    } else if (ends) socket.end();
  };
  socket.on("data", (bytes) => {
    pieces.push(bytes.toString());
    came += bytes.length;
    last = performance.now() - began;
    if (came === sent) next();
  });
  socket.on("error", (error: NodeJS.ErrnoException) => {
    end = error.code ?? "error";
  });
  socket.on("end", () => socket.end());
  socket.on("close", () => over.resolve());
  socket.on("connect", next);
  await over.promise;
  return { text: pieces.join(""), end, last, over: performance.now() - began };
};

describeWith(["redis-server", "redis-cli"], "redis-cli", () => {
  test("at a message that matches, of the nth connection: the reset comes there, and nowhere else", async () => {
    const { port, program } = await redis();
    await using _ = program;
    await using between = await proxy(`tcp://127.0.0.1:${port}`, [
      'reset match="secret" from=client connection=2 name=cut',
    ]);
    const ask = async (...words: string[]): Promise<string> => {
      const { stdout, stderr } = await run("redis-cli", ["-p", between.port, ...words]);
      return `${stdout}${stderr}`;
    };
    expect(await ask("SET", "secret", "1")).toBe("OK\n");
    expect(await ask("GET", "secret")).toMatch(/closed|reset/i);
    expect(await ask("GET", "secret")).toBe("1\n");
    expect(await between.stop()).toMatch(/#2 C: \(reset, by rule "cut"\)/);
  });

  test("latency holds every reply of redis-cli up, and not before its time", async () => {
    const { port, program } = await redis();
    await using _ = program;
    await using between = await proxy(`tcp://127.0.0.1:${port}`, ["latency=400 from=server"]);
    const began = performance.now();
    expect((await run("redis-cli", ["-p", between.port, "PING"])).stdout.toString()).toBe("PONG\n");
    expect(performance.now() - began).toBeGreaterThanOrEqual(400);
    expect(await between.stop()).toContain('S: (latency, by rule "rule-1")');
  });
});

/** toxiproxy's toxics, and the rule for each; `holds` checks what a client sees. */
const toxics: readonly [
  toxic: string,
  rules: readonly string[],
  words: readonly string[],
  holds: (heard: Heard) => void,
][] = [
  [
    "latency",
    ["latency=150 from=client", "latency=100 from=server"],
    ["a", "b"],
    ({ text, last }) => {
      expect(text).toBe("ab");
      expect(last).toBeGreaterThanOrEqual(2 * 250 - 2);
    },
  ],
  [
    "bandwidth",
    ["rate=10000 from=client"],
    ["x".repeat(4000)],
    ({ text, last }) => {
      expect(text).toHaveLength(4000);
      expect(last).toBeGreaterThanOrEqual(398);
    },
  ],
  [
    "slow_close",
    ["slow-close delay=300 from=server"],
    ["a"],
    ({ text, over }) => {
      expect(text).toBe("a");
      expect(over).toBeGreaterThanOrEqual(298);
    },
  ],
  [
    "timeout",
    ["close delay=200 after=1 from=client"],
    ["a", "lost"],
    ({ text, end, over }) => {
      expect([text, end]).toEqual(["a", "end"]);
      expect(over).toBeGreaterThanOrEqual(198); // a timer of Node's may be a millisecond early
    },
  ],
  [
    "reset_peer",
    ["reset delay=200 after=1 from=server"],
    ["a", "b"],
    ({ end, over }) => {
      expect(end).toBe("ECONNRESET");
      expect(over).toBeGreaterThanOrEqual(198); // a timer of Node's may be a millisecond early
    },
  ],
  [
    "slicer",
    ["slice=3 delay=5 from=server"],
    ["abcdefghijklmnop"],
    ({ text, last }) => {
      expect(text).toBe("abcdefghijklmnop");
      expect(last).toBeGreaterThanOrEqual(5 * 4); // six pieces at least
    },
  ],
  [
    "limit_data",
    ["close after=5 from=server"],
    ["abcdefgh"],
    ({ text, end }) => expect([text, end]).toEqual(["abcde", "end"]),
  ],
];

test.each(toxics)("%s of toxiproxy: %j", async (_, rules, words, holds) => {
  await using server = await echo();
  await using between = await proxy(server.address, rules);
  holds(await talk(between.port, words));
  const said = await between.stop();
  for (let i = 1; i <= rules.length; i++) expect(said).toContain(`by rule "rule-${i}"`);
});

test("in: from then on, connections that say nothing are reset, too", async () => {
  await using server = await echo();
  await using between = await proxy(server.address, ["reset in=500 name=planned"]);
  expect((await talk(between.port, ["a"], false)).end).toBe("ECONNRESET"); // which waits for it, and sends nothing
  expect(await between.stop()).toMatch(/\(reset, by rule "planned"\)/);
});

test("the same seed, the same connections and the same cuts; another seed, others", async () => {
  const once = async (seed: number): Promise<string[]> => {
    await using server = await echo();
    await using between = await proxy(
      server.address,
      ["reset likelihood=0.5 after=2"],
      "--seed",
      String(seed),
    );
    const ends: string[] = [];
    for (let i = 0; i < 12; i++) ends.push((await talk(between.port, ["abc"])).end);
    return ends;
  };
  const [one, again, other] = [await once(7), await once(7), await once(8)];
  expect(again).toEqual(one);
  expect(other).not.toEqual(one);
  expect(new Set(one)).toEqual(new Set(["end", "ECONNRESET"]));
});

test("datagrams: loss, duplication, order, corruption; each told, and the same again from the same seed", async () => {
  const server = dgram.createSocket("udp4");
  let came: string[] = [];
  server.on("message", (bytes, from) => {
    came.push(bytes.toString("latin1"));
    server.send(bytes, from.port, from.address);
  });
  server.bind(0, "127.0.0.1");
  await once(server, "listening");
  const rounds = async (faults: string[], seed: number, least = 0) => {
    came = [];
    await using between = await proxy(
      `udp://127.0.0.1:${server.address().port}`,
      faults,
      "--seed",
      String(seed),
    );
    const client = dgram.createSocket("udp4");
    client.connect(between.port, "127.0.0.1");
    await once(client, "connect");
    for (let i = 0; i < 40; i++) {
      client.send(`message ${i}`);
      await between.program.line(new RegExp(`C: "message ${i}"`));
    }
    client.send("last");
    while (!came.includes("last") || came.length < least) await once(server, "message");
    client.close();
    return { came: [...came], said: await between.stop() };
  };
  const spared = 'from=client match="message"';
  const lossy = await rounds([`loss likelihood=0.3 ${spared}`], 3);
  expect(lossy.came.length).toBeLessThan(41);
  expect(lossy.said.match(/C: \(loss, by rule "rule-1"\)/g)).toHaveLength(41 - lossy.came.length);
  expect((await rounds([`loss likelihood=0.3 ${spared}`], 3)).came).toEqual(lossy.came);
  const twice = await rounds([`duplicate likelihood=0.3 ${spared}`], 3);
  expect(twice.came.length).toBeGreaterThan(41);
  expect(new Set(twice.came).size).toBe(41);
  const swapped = await rounds([`reorder likelihood=0.3 ${spared}`], 3, 41);
  expect(swapped.came).toHaveLength(41);
  expect(swapped.said).toMatch(/C: \(reorder, by rule "rule-1"\)/);
  const corrupt = await rounds([`corrupt likelihood=0.3 ${spared}`], 3);
  expect(corrupt.came).toHaveLength(41);
  expect(corrupt.came.filter((text) => !/^(message \d+|last)$/.test(text)).length).toBeGreaterThan(3);
  server.close();
});

test("what can never come true is told, and what did not", async () => {
  const said = async (...args: string[]): Promise<Ended> =>
    run(process.execPath, ["--conditions=socklet:source", cli, "proxy", ...args, "--listen", "127.0.0.1:0"]);
  const wrong = async (...args: string[]): Promise<string> => {
    const { code, stderr } = await said(...args);
    expect(code).toBe(2);
    return stderr;
  };
  expect(await wrong("tcp://127.0.0.1:9", "--fault", "loss likelihood=0.5")).toMatch(
    /the rule can never come true: a stream has no "loss".*there are latency, rate/,
  );
  expect(await wrong("udp://127.0.0.1:9", "--fault", "reset")).toMatch(/datagrams have no "reset"/);
  expect(
    await wrong("tcp://127.0.0.1:9", "--fault", "reset after=5", "--fault", "close after=10 name=late"),
  ).toMatch(/the rule "late" can never come true: the rule "rule-1" ends every connection before/);
  expect(await wrong("tcp://127.0.0.1:9", "--fault", "reset afterwards=5")).toMatch(
    /"afterwards=5" is not known; write it as/,
  );
  await using server = await echo();
  await using between = await proxy(server.address, ['reset match="never"']);
  await talk(between.port, ["something else"]);
  expect(await between.stop()).toContain('the rule "rule-1" did nothing: what it waits for never happened');
});

test("datagrams that a rule holds up: 1 MiB of them waits, and the first of those that are lost is told", async () => {
  await using between = await proxy("udp://127.0.0.1:9", ["latency=3600000 from=client"]);
  const client = dgram.createSocket("udp4");
  client.connect(between.port, "127.0.0.1");
  await once(client, "connect");
  for (let i = 0; i < 20; i++) {
    client.send(`${i}:`.padEnd(60_000, "."));
    await between.program.line(new RegExp(`C: "${i}:`));
  }
  client.close();
  const said = await between.stop();
  expect(said.match(/ENOBUFS: the faults hold up 1 MiB that goes to the server/g)).toHaveLength(1);
});
