/**
 * What a server must endure: many clients that are idle, slow, deaf or rude, and more than it can hold. The server is a process
 * of its own, whose descriptors, timers and memory are checked; the clients are in this one, or in Python.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { fileURLToPath } from "node:url";
import type { InternetAddress } from "socklet";
import { describe, expect, onTestFinished, test } from "vitest";
import { reservePorts } from "../peers/ports.ts";
import { describeWith, python } from "../peers/program.ts";
import type { Setup, Stats } from "./fixtures/endurance-server.ts";
import { untilNothingStoodStill } from "./standstill.ts";

const program = fileURLToPath(new URL("fixtures/endurance-server.ts", import.meta.url));

/** A server in another process, at most `descriptors` of which it may have. */
const serving = async (
  handler: Setup["handler"],
  options: object = {},
  { serve = "threading", descriptors }: { serve?: Setup["serve"]; descriptors?: number } = {},
) => {
  const setup: Setup = { serve, handler, options };
  const limit = descriptors === undefined ? "" : `ulimit -n ${descriptors} && `;
  const child: ChildProcess = spawn(
    "sh",
    [
      "-c",
      `${limit}exec "$0" "$@"`,
      process.execPath,
      "--conditions=socklet:source",
      "--expose-gc",
      program,
      JSON.stringify(setup),
    ],
    { stdio: ["ignore", "inherit", "inherit", "ipc"] },
  );
  const exit = once(child, "exit");
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await exit;
  });
  const answer = async (): Promise<unknown> => {
    const [said] = await Promise.race([
      once(child, "message"),
      exit.then(([code, signal]) => {
        throw new Error(`the server ended with ${code ?? signal}`);
      }),
    ]);
    return said;
  };
  const ask = (what: "stats" | "close") => {
    child.send(what);
    return answer() as Promise<Stats>;
  };
  const address = (await answer()) as InternetAddress;
  return {
    port: address.port,
    child,
    stats: () => ask("stats"),
    close: () => ask("close"),
    /** What it holds, once that is `such`: its last connections close when their ends have been read. */
    async settled(such: (stats: Stats) => boolean): Promise<Stats> {
      for (;;) {
        const stats = await ask("stats");
        if (such(stats)) return stats;
      }
    },
  };
};

/** A connection; `lines` are what came, `over` how it ended: "end", or the code of its error. */
class Client {
  readonly socket: net.Socket;
  readonly over: Promise<string>;
  #text = "";
  #ended = false;
  #look: (() => void)[] = [];

  constructor(port: number) {
    this.socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    this.socket.setEncoding("latin1").on("data", (text: string) => {
      this.#text += text;
      this.#told();
    });
    this.over = new Promise((resolve) => {
      this.socket.once("end", () => resolve("end"));
      this.socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
      this.socket.once("close", () => resolve("end"));
    });
    void this.over.then(() => {
      this.#ended = true;
      this.#told();
    });
  }

  /** The next line; `null` if the connection is over first. */
  async line(): Promise<string | null> {
    for (;;) {
      const at = this.#text.indexOf("\n");
      if (at >= 0) {
        const line = this.#text.slice(0, at);
        this.#text = this.#text.slice(at + 1);
        return line;
      }
      if (this.#ended) return null;
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }

  ask(line: string): Promise<string | null> {
    this.socket.write(`${line}\n`);
    return this.line();
  }

  #told(): void {
    for (const look of this.#look.splice(0)) look();
  }
}

/** Clients that end with their test. */
const clientsOf = (port: number, count: number): Client[] => {
  const clients = Array.from({ length: count }, () => new Client(port));
  onTestFinished(() => {
    for (const { socket } of clients) socket.destroy();
  });
  return clients;
};

/** Asks, and waits until the server has ended its side, too: then no time limit of it runs any more. */
const askOnce = async (port: number, line: string): Promise<string | null> => {
  const [client] = clientsOf(port, 1) as [Client];
  const said = await client.ask(line);
  client.socket.end();
  await client.over;
  return said;
};

const MB = 1024 * 1024;

const mayOpen = Number(/^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1]);
const IDLE = 10_000;
const enough = mayOpen > IDLE + 600; // these connections, the test process's own open descriptors, and the server's reserve
if (!enough && process.env.CI) {
  throw new Error(`the tests hold ${IDLE} connections: raise \`ulimit -n\`, which is ${mayOpen}, to 11000`);
}

describe("many", () => {
  const needs = enough ? "" : `: SKIPPED, ulimit -n is ${mayOpen}`;
  test.skipIf(!enough)(`10 000 idle connections are held while others are served${needs}`, async () => {
    const { port, stats, settled, close } = await serving("Answers", { maxRequests: 11_000 });
    const { descriptors } = await stats();
    expect(await askOnce(port, "warm")).toBe("WARM");
    const before = await settled((stats) => stats.info.running === 0 && stats.descriptors === descriptors);
    const idle: Client[] = [];
    while (idle.length < IDLE) {
      const some = clientsOf(port, 250); // fewer than wait at the kernel's door
      await Promise.all(some.map((client) => client.ask("hello")));
      idle.push(...some);
    }
    const held = await stats();
    expect(held.info).toMatchObject({ running: IDLE, waiting: 0, refused: 0 });
    expect(held.descriptors).toBe(descriptors + IDLE);
    expect((held.memory - before.memory) / IDLE).toBeLessThan(24 * 1024); // measured: 5 KB
    for (let i = 0; i < 100; i++) expect(await askOnce(port, `who ${i}`)).toBe(`WHO ${i}`);
    expect(await idle[IDLE / 2]?.ask("still")).toBe("STILL");
    for (const { socket } of idle) socket.end();
    await settled(({ info }) => info.running === 0);
    const after = await close();
    expect(after.info).toMatchObject({ served: IDLE + 101, failed: 0, refused: 0 });
  });
});

/** How many come in all: `SHORT_CONNECTIONS=1000000 npx vitest run --project node test/emulator/endurance` for a soak. */
const SHORT_CONNECTIONS = Number(process.env.SHORT_CONNECTIONS ?? 60_000);

const SHORT = `
import socket, sys
port, count, host = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for _ in range(count // 20):
    some = []
    for _ in range(20): # at once
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_IP, 24, 1) # IP_BIND_ADDRESS_NO_PORT: connect() finds one, which is faster
        s.bind((host, 0)) # another host, other ports: those that are over stay taken for a minute
        s.connect(("127.0.0.1", port))
        s.sendall(b"x\\n")
        some.append(s)
    for s in some:
        if s.recv(10) != b"X\\n": sys.exit("no answer")
        s.close()
print("done")
`;

describeWith(["python3"], "short connections", () => {
  test(`${SHORT_CONNECTIONS} leave descriptors, timers and memory as they were`, async () => {
    const { port, stats, settled, close } = await serving("Answers");
    const { descriptors, timers } = await stats();
    const come = async (count: number, hosts: readonly string[]): Promise<Stats> => {
      const each = count / hosts.length;
      const said = await Promise.all(hosts.map((host) => python(SHORT, [port, each, host])));
      expect(said.join("")).toBe("done\n".repeat(hosts.length));
      const flat = (now: Stats): boolean => now.descriptors === descriptors && now.timers === timers;
      return settled((now) => now.info.running === 0 && flat(now)); // else this takes until the test's time is up
    };
    const before = await come(10_000, ["127.0.1.1", "127.0.1.2"]); // what is compiled and kept once is there now
    let served = 20_000; // those before and after
    for (let host = 3; served < SHORT_CONNECTIONS; host += 2, served += 40_000) {
      await come(40_000, [`127.0.1.${host}`, `127.0.1.${host + 1}`]);
    }
    const after = await come(10_000, ["127.0.2.1", "127.0.2.2"]);
    expect(after.info).toMatchObject({ served, failed: 0, refused: 0, bytesRead: 2 * served });
    expect(after.memory - before.memory).toBeLessThan(1 * MB); // 21 bytes for each would be more: less than the smallest object, and its place in a list
    await close();
  });
});

const CUT = 2_000; // ms after which slow clients are cut: far above what the others take

describe("the slow, the deaf and the rude", () => {
  for (const [who, limit, drips] of [
    ["who sends a byte from time to time is cut at requestTimeout", "requestTimeout", true],
    ["who sends none is cut at idleTimeout", "idleTimeout", false],
  ] as const) {
    test(`${who}, while others are served`, async () => {
      await untilNothingStoodStill(CUT / 2, async (timed) => {
        const { port, settled } = await serving("Answers", { [limit]: CUT });
        const started = performance.now();
        const slow = clientsOf(port, 100);
        const drip = setInterval(() => {
          for (const { socket } of slow) if (drips && socket.writable) socket.write("x");
        }, 50);
        onTestFinished(() => clearInterval(drip));
        const cut = Promise.all(slow.map(({ over }) => over)).then((how) => ({
          how,
          time: performance.now() - started,
        }));
        for (let i = 0; i < 20; i++) expect(await timed(askOnce(port, "hello"))).toBe("HELLO");
        const { how, time } = await cut;
        expect(new Set(how)).toEqual(new Set(["ECONNRESET"]));
        expect(time).toBeGreaterThan(CUT - 10);
        const { events } = await settled(({ info }) => info.running === 0);
        expect(events).toMatchObject({ [`timeout ${limit}`]: 100 });
      });
    });
  }

  test("peers that ask and never read, and such as are flooded, hold no memory worth the name; others are served", async () => {
    for (const handler of ["Answers", "Floods"] as const) {
      const { port, stats, settled } = await serving(handler);
      const before = await stats();
      const peers = Array.from({ length: 20 }, () => net.connect(port, "127.0.0.1").pause());
      onTestFinished(() => {
        for (const peer of peers) peer.destroy();
      });
      const question = Buffer.alloc(65_536, "a line that comes back\n");
      await Promise.all(
        peers.map(async (peer) => {
          await once(peer, "connect");
          // Until the server takes no more, since its answers are not read: then this waits, as the server does.
          for (let more = true; more && handler === "Answers"; ) {
            if (peer.write(question)) continue;
            more = await Promise.race([once(peer, "drain").then(() => true), stalled(peer)]);
          }
        }),
      );
      if (handler === "Answers") {
        for (let i = 0; i < 20; i++) expect(await askOnce(port, "hello")).toBe("HELLO");
      }
      const { memory, info } = await settled(({ info }) => info.running === 20);
      expect(info).toMatchObject({ failed: 0 });
      expect((memory - before.memory) / peers.length).toBeLessThan(2 * MB); // measured: 0.7 MB and 0.1 MB
    }
  });

  test("resets at every stage cost their own requests, and leave nothing", async () => {
    const { port, stats, settled, close } = await serving("Greets");
    const { descriptors, timers } = await stats();
    const stays = clientsOf(port, 1)[0] as Client;
    expect(await stays.line()).toBe("ready");
    const stages: readonly ((client: Client) => Promise<unknown>)[] = [
      async () => {}, // before it is connected
      ({ socket }) => once(socket, "connect"),
      (client) => client.line(), // when it was greeted
      async (client) => {
        await client.line();
        client.socket.write("half a li");
      },
      async (client) => {
        await client.line();
        client.socket.write("asked and gone\n"); // with the answer on its way
      },
      async (client) => {
        await client.line();
        await client.ask("answered");
      },
      async (client) => {
        await client.line();
        client.socket.pause().write("many answers, unread\n".repeat(50_000));
      },
      async (client) => {
        await client.line();
        client.socket.end("the last\n"); // in the close
      },
    ];
    for (let round = 0; round < 25; round++) {
      await Promise.all(
        stages.map(async (stage) => {
          const client = new Client(port);
          await stage(client);
          client.socket.resetAndDestroy();
          await client.over;
        }),
      );
    }
    expect(await askOnce(port, "still")).toBe("ready");
    await settled(({ info }) => info.running === 1);
    stays.socket.end();
    await settled((now) => now.descriptors === descriptors && now.timers === timers);
    const { events } = await close();
    expect(events.stuck).toBe(undefined);
    expect(events.begin).toBe(events.end);
  });
});

/** Resolves to false when the kernel has taken nothing of a socket's for a while. */
const stalled = async (socket: net.Socket): Promise<false> => {
  for (let taken = -1; taken !== socket.bytesWritten - socket.writableLength; ) {
    taken = socket.bytesWritten - socket.writableLength;
    await new Promise((resolve) => setTimeout(resolve, 300)); // there is no event for what does not happen
  }
  return false;
};

describe("the most that a process may have", () => {
  test("descriptors: who comes when they are spent is reset and told, none is dropped in silence, and the next is served", async () => {
    const { port, stats, settled } = await serving("Greets", {}, { descriptors: 128 });
    const clients = clientsOf(port, 200);
    const greeted = await Promise.all(clients.map((client) => client.line()));
    const held = clients.filter((_, i) => greeted[i] === "ready");
    const refused = clients.filter((_, i) => greeted[i] === null);
    expect(held.length + refused.length).toBe(200);
    expect(held.length).toBeGreaterThan(60);
    expect(new Set(await Promise.all(refused.map(({ over }) => over)))).toEqual(new Set(["ECONNRESET"]));
    const full = await stats(); // it has descriptors left for this
    expect(full.events).toMatchObject({ begin: held.length, "refused descriptors": refused.length });
    expect(full.descriptors).toBeLessThan(128);
    for (const { socket } of held) socket.end();
    await settled((now) => now.info.running === 0 && now.descriptors < full.descriptors - held.length + 5);
    const again = clientsOf(port, 50);
    for (const client of again) expect(await client.line()).toBe("ready");
  });
});

describe("a forking server", () => {
  test("whose child is killed in mid-request loses that request, tells it, and serves the next", async () => {
    const { port, settled, close } = await serving(
      "Answers",
      { restartDelay: 1, maxChildren: 2 },
      { serve: "forking" },
    );
    const [doomed, other] = clientsOf(port, 2) as [Client, Client];
    const [pid, otherPid] = [await doomed.ask("pid"), await other.ask("pid")].map(Number);
    expect(new Set([pid, otherPid]).size).toBe(2);
    doomed.socket.write("half a li");
    process.kill(pid as number, "SIGKILL");
    expect(await doomed.over).toBe("ECONNRESET");
    expect(await other.ask("still")).toBe("STILL");
    expect(await askOnce(port, "next")).toBe("NEXT");
    other.socket.end();
    const { events } = await settled(({ info }) => info.restarted === 1 && info.running === 0);
    expect(events).toMatchObject({ lost: 1, error: 1 });
    expect((await close()).info).toMatchObject({ served: 3, failed: 1 });
  });
});

describe("SIGTERM under load", () => {
  const cli = fileURLToPath(new URL("../../emulator/command/cli.ts", import.meta.url));
  const app = fileURLToPath(new URL("fixtures/endurance-app.ts", import.meta.url));

  test("loses no request that had begun, of a threading and of a forking listener; the process ends with status 0", async () => {
    const args = ["--conditions=socklet:source", cli, "serve", app, "--no-control", "--verbose"];
    // Reserved: clients dial them still when the server has closed, and must be refused, not served by another program.
    const [threading, forking] = (await reservePorts(2)) as [number, number];
    const env = { ...process.env, THREADING: String(threading), FORKING: String(forking) };
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"], env });
    const exit = once(child, "exit");
    onTestFinished(async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
      await exit;
    });
    let said = "";
    while (![threading, forking].every((port) => said.includes(`:${port}\n`)))
      said += (await once(child.stdout, "data"))[0];
    let told = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      told += text;
    });
    const toldClosed = once(child.stderr, "close");

    const lost: unknown[] = [];
    let begun = 0;
    let answered = 0;
    let enough = (): void => {};
    let stopped = false;
    /** One after the other: waits to be greeted, which is that its request has begun, then asks twice. */
    const comes = async (port: number): Promise<void> => {
      while (!stopped) {
        const client = new Client(port);
        if ((await client.line()) !== "ready") break; // refused, as every client is while it stops
        begun++;
        enough();
        const answers = [await client.ask("one"), await client.ask("two")];
        if (answers.join() === "ONE,TWO") answered++;
        else lost.push(answers);
        client.socket.end();
        await client.over;
      }
    };
    const running = [...Array(40)]
      .map(() => comes(threading))
      .concat([...Array(8)].map(() => comes(forking)));
    const busy = Promise.withResolvers<void>();
    enough = () => begun >= 500 && busy.resolve();
    await busy.promise;
    child.kill("SIGTERM");
    await Promise.all(running); // each to its end: the ports are closed, so that no new client comes
    stopped = true;
    expect(lost).toEqual([]);
    expect(answered).toBe(begun);
    expect(await exit).toEqual([0, null]);
    await toldClosed;
    // Nor was one lost before its greeting: every request that began was greeted, and ended well.
    const count = (pattern: RegExp): number => told.match(pattern)?.length ?? 0;
    expect(count(/"type":"begin"/g)).toBe(begun);
    expect(count(/"type":"end".*"failed":false/g)).toBe(begun);
  });
});
