/** `edge`: breaks each rule of Cloudflare's edge once, and checks that it is reported with its page; `IN_WORKERD` names the tests of the rules that workerd has, too. */

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  AF_INET,
  ClientHandler,
  DatagramRequestHandler,
  defineApp,
  type ListenEntry,
  type PoolClient,
  SOCK_DGRAM,
  type SockletEvent,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import { controlClient } from "socklet/control";
import {
  createConnection,
  createDatagramConnection,
  EDGE_RULES,
  type EdgeRuleName,
  serveApp,
  socket,
  ThreadingTCPServer,
} from "socklet/emulator";
import { afterAll, expect, onTestFinished, test } from "vitest";
import { edgeRuleOfHost } from "../../core/net/edge.ts";
import { edgeTimes } from "../../emulator/app/edge.ts";

const data = mkdtempSync(join(tmpdir(), "socklet-edge-"));
afterAll(() => rmSync(data, { recursive: true, force: true }));

/** What a handler does for one request; the client gets its outcome. */
type Work = () => unknown;

const outcomeOf = async (work: Work): Promise<string> => {
  try {
    return `gave ${JSON.stringify(await work())}`;
  } catch (error) {
    return String((error as Error).message);
  }
};

const TOKEN = "a-token-of-these-tests";

/** An app of one handler, which does `work` for each line and sends its outcome. */
const held = async (
  work: () => Work,
  { except = [], listen = [] }: { except?: readonly EdgeRuleName[]; listen?: readonly ListenEntry[] } = {},
) => {
  const events: SockletEvent[] = [];
  const Do = streamHandler(async ({ rfile, wfile }) => {
    for await (const _ of rfile.lines()) wfile.write(`${await outcomeOf(work())}\n`);
  });
  const Wait = streamHandler(async ({ rfile }) => rfile.line());
  class Pong extends DatagramRequestHandler {}
  const app = defineApp({
    handlers: { Do, Wait, Pong },
    listen: [{ handler: "Do", address: "tcp://127.0.0.1:0" }, ...listen],
    dial: { wait: { handler: "Wait", address: (await silent()).url } },
  });
  const server = await serveApp(app, {
    anyPort: true,
    data,
    edge: { except },
    control: { port: 0, tokens: TOKEN },
    onEvent: (event) => events.push(event),
    module: import.meta.url,
  });
  onTestFinished(() => server.close());
  const met = (): readonly string[] => events.flatMap((event) => (event.type === "edge" ? [event.rule] : []));
  const ask = async (): Promise<string | null> => {
    const client = await createConnection(server.listeners[0]?.url as string);
    onTestFinished(() => client.close());
    client.wfile.write("go\n");
    return client.rfile.line();
  };
  return { server, events, met, ask };
};

/** A server of this machine that sends nothing, and holds its connections. */
const silent = async (): Promise<{ url: string; count: () => number }> => {
  const server = new ThreadingTCPServer(
    "127.0.0.1:0",
    streamHandler(async ({ rfile }) => rfile.line()),
  );
  const address = await server.listen();
  void server.serveForever();
  onTestFinished(async () => {
    server.abort();
    await server.serverClose();
  });
  return { url: `tcp://127.0.0.1:${(address as { port: number }).port}`, count: () => server.info().running };
};

/** The rule is named in `text`, with its page and date. */
const names = (text: string | null, rule: EdgeRuleName): void => {
  const { page, date, known } = EDGE_RULES[rule];
  expect(text).toContain(`(rule ${rule}, ${known}: ${page}, ${date})`);
};

const HERE: readonly EdgeRuleName[] = ["private-address"]; // the servers of these tests are on this machine

test("connections: a seventh waits until one of the six is over", async () => {
  const { url } = await silent();
  const opened: StreamSocket[] = [];
  const app = await held(
    () => async () => {
      for (let i = 0; i < 6; i++) opened.push(await createConnection(url));
      const seventh = createConnection(url, { connectTimeout: 1 });
      const late = await outcomeOf(() => seventh);
      const next = createConnection(url);
      await opened.shift()?.close();
      opened.push(await next);
      return late;
    },
    { except: HERE },
  );
  const said = await app.ask();
  expect(said).toContain("ETIMEDOUT");
  names(said, "connections");
  expect(app.met()).toEqual(["connections", "connections"]);
  await Promise.all(opened.map((one) => one.close()));
});

test("connections are counted for each request alone", async () => {
  const { url } = await silent();
  const app = await held(
    () => async () => {
      const opened = await Promise.all(Array.from({ length: 6 }, () => createConnection(url)));
      return opened.length;
    },
    { except: HERE },
  );
  expect(await Promise.all([app.ask(), app.ask()])).toEqual(["gave 6", "gave 6"]);
  expect(app.met()).toEqual([]);
});

test.each([
  ["port-25", "tcp://192.0.2.1:25", ["private-address"]],
  ["private-address", "tcp://10.1.2.3:6379", []],
  ["private-address", "tcp://localhost:6379", []],
  ["private-address", "tcp://[::1]:6379", []],
  ["cloudflare-address", "tcp://104.16.132.229:443", []],
  ["cloudflare-address", "tcp://[2606:4700::6810:84e5]:443", []],
  ["paths", "unix:/run/no-such-path", []],
] as const)("%s: %s is not dialled", async (rule, address, except) => {
  const app = await held(() => () => createConnection(address), { except });
  const said = await app.ask();
  expect(said).toMatch(rule === "paths" ? /^ERR_UNSUPPORTED: / : /^ERR_CONNECT_FAILED: /);
  names(said, rule);
  expect(app.met()).toEqual([rule]);
  expect(app.events).toContainEqual(
    expect.objectContaining({ type: "edge", server: "Do", rule, page: EDGE_RULES[rule].page }),
  );
});

test("public addresses are dialled as ever, and a name that leads to this machine is not", async () => {
  expect(["8.8.8.8", "2001:4860:4860::8888", "example.com"].map(edgeRuleOfHost)).toEqual([null, null, null]);
  const app = await held(() => () => createConnection(`tcp://${hostname()}:9`));
  const said = await app.ask();
  if (said?.includes("leads to") === false) expect(said).toMatch(/ERR_NAME|private-address/);
  else names(said, "private-address");
});

test("udp: a request makes no socket of datagrams", async () => {
  for (const work of [
    () => socket(AF_INET, SOCK_DGRAM),
    () => createDatagramConnection("udp://192.0.2.1:53"),
  ]) {
    const app = await held(() => work);
    const said = await app.ask();
    expect(said).toMatch(/^ERR_UNSUPPORTED: /);
    names(said, "udp");
    expect(app.met()).toEqual(["udp"]);
  }
});

test("other-request: a connection that another request made is not used", async () => {
  const { url } = await silent();
  let kept: StreamSocket | undefined;
  const app = await held(
    () => async () => {
      if (kept === undefined) {
        kept = await createConnection(url);
        return "kept";
      }
      await kept.sendall("more");
      return "sent";
    },
    { except: HERE },
  );
  expect(await app.ask()).toBe('gave "kept"');
  expect(await app.ask()).toMatch(/^ERR_UNSUPPORTED: .*made by another request/);
  expect(app.met()).toEqual(["other-request"]);
  const free = await held(() => async () => kept?.closed, { except: [...HERE, "other-request"] });
  await free.ask();
  expect(free.met()).toEqual([]);
});

test("fifteen-minutes: the connection of a session is cut, and the session says by which rule", async () => {
  edgeTimes.keeps = 1; // ms, in place of 15 minutes
  onTestFinished(() => {
    edgeTimes.keeps = 900_000;
  });
  const app = await held(() => () => {}, { except: HERE });
  const control = controlClient(app.server.control?.url as string, { token: TOKEN });
  const session = await control.sessions.start({ dial: "wait" });
  for await (const _ of control.sessions.follow(session.id)); // until it is over
  const over = await control.sessions.get(session.id);
  expect(over).toMatchObject({ error: { code: "ECONNABORTED" } });
  names(over?.error?.message ?? null, "fifteen-minutes");
  expect(app.met()).toEqual(["fifteen-minutes"]);
});

/** A client that calls itself back: the call sets the size of the reply. */
class Sized extends ClientHandler<{ readonly pad: Uint8Array; readonly reply: number }, Uint8Array> {
  #sizes: number[] = [];
  override send({ reply }: { readonly reply: number }): void {
    this.#sizes.push(reply);
    this.wfile.write("?\n");
  }
  override async receive(): Promise<Uint8Array> {
    await this.rfile.line();
    return new Uint8Array(this.#sizes.shift() as number);
  }
}

test("message-size: a call of a pool, and its reply, are 32 MiB at most, and data", async () => {
  const MIB = 1024 * 1024;
  const echo = new ThreadingTCPServer(
    "127.0.0.1:0",
    streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(`${line}\n`);
    }),
  );
  const address = (await echo.listen()) as { port: number };
  void echo.serveForever();
  onTestFinished(() => echo.serverClose());
  type Calls = PoolClient<{ pad: Uint8Array; reply: number }, Uint8Array>;
  let pool: Calls | undefined;
  const events: SockletEvent[] = [];
  const server = await serveApp(
    defineApp<{ pool: Calls }>({
      handlers: { Sized, none: streamHandler(async () => {}) },
      listen: [{ handler: "none", address: "tcp://127.0.0.1:0" }],
      pools: { sized: { handler: "Sized", address: `tcp://127.0.0.1:${address.port}` } },
      context: (platform) => {
        pool = platform.pool("sized", Sized) as Calls;
        return { pool };
      },
    }),
    { data, edge: { except: HERE }, onEvent: (event) => events.push(event) },
  );
  onTestFinished(() => server.close());
  const call = async (pad: number, reply: number, more: object = {}): Promise<string> =>
    outcomeOf(async () => (await pool?.call({ pad: new Uint8Array(pad), reply, ...more }))?.length);
  expect(await call(1, MIB)).toBe(`gave ${MIB}`);
  expect(await call(33 * MIB, 1)).toMatch(/^ERR_LIMIT: the call is larger than 32 MiB/);
  expect(await call(1, 33 * MIB)).toMatch(/^ERR_LIMIT: the reply is larger than 32 MiB/);
  expect(await call(1, 1, { done: () => {} })).toMatch(/^ERR_UNSUPPORTED: .*function/);
  const lease = await pool?.lease();
  expect(await outcomeOf(() => lease?.call({ pad: new Uint8Array(33 * MIB), reply: 1 }))).toMatch(
    /^ERR_LIMIT/,
  );
  await lease?.release();
  const met = events.flatMap((event) => (event.type === "edge" ? [`${event.server} ${event.rule}`] : []));
  expect(met).toEqual(Array.from({ length: 4 }, () => "sized message-size"));
});

test("a pool dials no address that the edge does not dial", async () => {
  const events: SockletEvent[] = [];
  let pool: PoolClient<never, unknown> | undefined;
  const server = await serveApp(
    defineApp({
      handlers: { Sized, none: streamHandler(async () => {}) },
      listen: [{ handler: "none", address: "tcp://127.0.0.1:0" }],
      pools: { sized: { handler: "Sized", address: "tcp://127.0.0.1:6379", waitTimeout: 1_000 } },
      context: (platform) => {
        pool = platform.pool("sized", Sized) as PoolClient<never, unknown>;
      },
    }),
    { data, edge: {}, onEvent: (event) => events.push(event) },
  );
  onTestFinished(() => server.close());
  await expect(pool?.call({ pad: new Uint8Array(1), reply: 1 } as never)).rejects.toThrow(/private-address/);
  expect(events).toContainEqual(expect.objectContaining({ type: "edge", rule: "private-address" }));
});

/** The handler of the forking listener, which does not run in this test. */
class Fork extends StreamRequestHandler {
  override async handle(): Promise<void> {
    this.wfile.write(`${process.pid}\n`);
  }
}

test("listen, paths: listeners that a Worker has not are not opened, and one that forks serves side by side", async () => {
  const app = await held(() => () => {}, {
    listen: [
      { handler: "Pong", address: "udp://127.0.0.1:0" },
      { handler: "Wait", address: `unix:${join(data, "s")}` },
    ],
  });
  expect(app.server.listeners.map(({ name }) => name)).toEqual(["Do"]);
  expect(app.met()).toEqual(["listen", "paths"]);
  expect(app.events.filter(({ type }) => type === "edge").map(({ server }) => server)).toEqual([
    "Pong",
    "Wait",
  ]);

  const events: SockletEvent[] = [];
  const forking = (options: object) =>
    serveApp(
      defineApp({
        handlers: { Fork },
        listen: [
          { handler: "Fork", address: "tcp://127.0.0.1:0", serve: "forking", options: { maxChildren: 2 } },
        ],
      }),
      { data, ...options, onEvent: (event) => events.push(event) },
    );
  const server = await forking({ edge: {} });
  onTestFinished(() => server.close());
  const client = await createConnection(server.listeners[0]?.url as string);
  expect(await client.rfile.line()).toBe(String(process.pid));
  await client.close();
  expect(server.listeners[0]?.serve).toBe("threading");

  const only = defineApp({
    handlers: { Pong: class extends DatagramRequestHandler {} },
    listen: [{ handler: "Pong", address: "udp://127.0.0.1:0" }],
  });
  await expect(serveApp(only, { data, edge: {} })).rejects.toThrow(/ERR_APP: the app has no listener/);
});

/** The tests that break, in local workerd, the rules that it has, too. */
const IN_WORKERD: Partial<Record<EdgeRuleName, readonly [file: string, said: string]>> = {
  paths: ["../worker/socket.test.ts", "socket(AF_UNIX)"],
  udp: ["../worker/socket.test.ts", "SOCK_DGRAM"],
  "other-request": ["ownership.test.ts", "in workerd"],
  "message-size": ["worker-pools.test.ts", "the call is larger than 32 MiB"],
};

test("every rule is broken by one of these tests, and in workerd where that has it", () => {
  const textOf = (file: string): string => readFileSync(new URL(file, import.meta.url), "utf8");
  for (const [rule, { workerd }] of Object.entries(EDGE_RULES)) {
    expect(textOf("edge.test.ts")).toMatch(new RegExp(`test[^\n]*\\b${rule}\\b|\\["${rule}"`));
    const [file, said] = IN_WORKERD[rule as EdgeRuleName] ?? [];
    expect([rule, file !== undefined]).toEqual([rule, workerd]);
    if (file !== undefined && said !== undefined) expect(textOf(file)).toContain(said);
  }
});

test("without edge nothing of it holds; a rule that is none is an error that lists them", async () => {
  const { url } = await silent();
  const app = defineApp({
    handlers: { a: streamHandler(async () => {}) },
    listen: [{ handler: "a", address: "tcp://127.0.0.1:0" }],
  });
  await expect(serveApp(app, { data, edge: { except: ["port-26" as never] } })).rejects.toThrow(
    /there is no rule "port-26"; there are connections, port-25, /,
  );
  await using stream = await createConnection(url);
  expect(stream.closed).toBe(false);
});

test("socklet doctor says which rules an app would meet, and wrangler.toml", async () => {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  mkdirSync(join(root, ".wrangler"), { recursive: true });
  const folder = await mkdtemp(join(root, ".wrangler", "edge-doctor-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await writeFile(
    join(folder, "app.ts"),
    `import { DatagramRequestHandler, defineApp, streamHandler } from "socklet";
     const a = streamHandler(async () => {});
     class Pong extends DatagramRequestHandler {}
     export const app = defineApp({
       handlers: { a, Pong },
       listen: [{ handler: "a", address: "tcp://127.0.0.1:0" }, { handler: "Pong", address: "udp://127.0.0.1:0" }],
       dial: { mail: { handler: "a", address: "mail.example:25" }, own: { handler: "a", address: "10.0.0.1:1" } },
       allow: ["mail.example:25", "192.168.0.0/16:80", "198.51.100.1:25-26"],
     });`,
  );
  await writeFile(
    join(folder, "wrangler.toml"),
    'main = "app.ts"\ncompatibility_date = "2026-10-01"\ncompatibility_flags = ["experimental"]\n[[connect]]\nprotocol = "udp"\nport = 7007\n',
  );
  const cli = join(root, "emulator/command/cli.ts");
  const args = ["--conditions=socklet:source", cli, "doctor", "--json", "app.ts"];
  const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
  const found: { what: string; says: string }[] = JSON.parse(stdout || stderr);
  const edge = found.filter(({ what }) => what === "edge").map(({ says }) => says);
  expect(edge.map((says) => /^(.*?): on Cloudflare's edge.*\(rule ([\w-]+),/.exec(says)?.slice(1))).toEqual([
    ["mail.example:25 of dial.mail", "port-25"],
    ["10.0.0.1:1 of dial.own", "private-address"],
    ['allow "mail.example:25"', "port-25"],
    ['allow "192.168.0.0/16:80"', "private-address"],
    ['allow "198.51.100.1:25-26"', "private-address"],
    ['udp://127.0.0.1:0 of the listener "Pong", a listener of UDP', "listen"],
    ["[[connect]] of 7007", "listen"],
  ]);
  expect(found).toContainEqual(
    expect.objectContaining({ what: "wrangler.toml", says: expect.stringContaining('"experimental"') }),
  );
});
