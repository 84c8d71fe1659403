/** The control plane as its users meet it: `socklet serve` and curl, and `socklet sessions`, as processes. */

import { once } from "node:events";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { reservePort } from "../peers/ports.ts";
import { describeWith, type Ended, type Program, start } from "../peers/program.ts";
import { runWorker } from "./workerd.ts";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** The command; `env` becomes it, so that a signal reaches it. */
const socklet = (args: readonly (string | number)[], env: Readonly<Record<string, string>> = {}): Program => {
  const unset = ["SOCKLET_TOKENS", "SOCKLET_URL", "SOCKLET_TOKEN"].flatMap((name) => ["-u", name]);
  const set = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const command = [process.execPath, "--conditions=socklet:source", file("../../emulator/command/cli.ts")];
  return start("env", [...unset, ...set, ...command, ...args]);
};

/** `socklet serve`, up. */
interface Emulator {
  readonly program: Program;
  readonly port: number;
  /** `http://127.0.0.1:7100/v1` */
  readonly url: string;
  /** The line that it prints for pasting. */
  readonly curl: string;
  readonly token: string;
}

const serve = async (
  flags: readonly string[] = ["--any-port"],
  env: Readonly<Record<string, string>> = {},
): Promise<Emulator> => {
  const program = socklet(["serve", file("./fixtures/controlled.ts"), ...flags], env);
  const listening = await program.line(/^Greets/);
  const [, url = ""] = /^control +(\S+)$/.exec(await program.line(/^control/)) ?? [];
  const curl = (await program.line(/curl/)).trim();
  const [, token = ""] = /Bearer ([^']+)'/.exec(curl) ?? [];
  return { program, port: Number(/(\d+)$/.exec(listening)?.[1]), url, curl, token };
};

/** A connection to it, which the handler has greeted. */
const connect = async (port: number): Promise<{ socket: net.Socket; next(): Promise<string> }> => {
  const socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true }).setEncoding("utf8");
  onTestFinished(() => void socket.destroy());
  const pieces = socket[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await pieces.next();
    return done ? "the end" : value;
  };
  expect(await next()).toBe("ready\n");
  return { socket, next };
};

const text = ({ stdout }: Ended): string => stdout.toString();

describe("socklet serve", () => {
  test("prints where its control routes are, and a line that works as it is", async () => {
    const { program, url, curl } = await serve(["--control-port", "0"]);
    await using _ = program;
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/v1$/);
    await using pasted = start("sh", ["-c", curl]);
    expect(JSON.parse(text(await pasted.ended))).toEqual({ sessions: [], next: null });
    program.kill("SIGINT");
    expect((await program.ended).code).toBe(0);
  });

  test("by default on port 7100 or, where that is taken, on another", async () => {
    const first = await serve([]);
    await using _ = first.program;
    const second = await serve([]);
    await using __ = second.program;
    expect(second.url).not.toBe(first.url);
  });

  test("--no-control serves none", async () => {
    await using program = socklet(["serve", file("./fixtures/controlled.ts"), "--no-control"]);
    await program.line(/^Greets/);
    program.kill("SIGINT");
    expect(text(await program.ended)).toMatch(/^Greets {2}tcp:\/\/127\.0\.0\.1:\d+\n$/);
  });

  test("--any-port: what the app dials of its own follows its listeners, and not another program at their old ports", async () => {
    const other = net.createServer((socket) => socket.end("another program\n")).listen(0, "0.0.0.0");
    await once(other, "listening");
    onTestFinished(() => void other.close());
    const { port } = other.address() as net.AddressInfo;
    const app = file("./fixtures/dials-itself.ts");
    await using program = socklet(["serve", app, "--any-port"], { PORT: String(port) });
    const [, url = ""] = /^control +(\S+)\/v1$/.exec(await program.line(/^control/)) ?? [];
    const [, token = ""] = /Bearer ([^']+)'/.exec(await program.line(/curl/)) ?? [];
    const env = { SOCKLET_URL: url, SOCKLET_TOKEN: token };
    for (const [name, said] of [
      ["own", "this app"],
      ["byName", "this app"],
      ["elsewhere", "another program"],
    ] as const) {
      await using run = socklet(["sessions", "run", name], env);
      expect(text(await run.ended)).toBe(`${JSON.stringify(said)}\n`);
    }
  });

  test("--control-port that is taken is an error", async () => {
    const taken = net.createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    onTestFinished(() => void taken.close());
    const { port } = taken.address() as net.AddressInfo;
    await using program = socklet(["serve", file("./fixtures/controlled.ts"), "--control-port", port]);
    expect(await program.ended).toMatchObject({
      code: 1,
      stderr: `socklet: EADDRINUSE: tcp://127.0.0.1:${port} is in use: another program listens there; end it, or choose another port, such as --control-port 0\n`,
    });
  });

  test.each([
    ["--control-port", "70000"],
    ["--control-port", "-1"],
    ["--control-port", "x"],
  ])("%s %s is an error", async (...flags) => {
    await using program = socklet(["serve", file("./fixtures/controlled.ts"), ...flags]);
    const { code, stderr } = await program.ended;
    expect([code, stderr]).toEqual([2, expect.stringMatching(/^socklet: .*--control-port.*0 to 65535.*\n$/)]);
  });

  test("takes SOCKLET_TOKENS, and does not print them", async () => {
    const SOCKLET_TOKENS = "read:a-token-for-the-tests";
    const { program, url, curl } = await serve(["--any-port"], { SOCKLET_TOKENS });
    await using _ = program;
    expect(curl).toBe(`curl -H 'Authorization: Bearer <a token of SOCKLET_TOKENS>' ${url}/sessions`);
    const headers = { authorization: "Bearer a-token-for-the-tests" };
    expect((await fetch(`${url}/sessions`, { headers })).status).toBe(200);
    expect((await fetch(`${url}/sessions`, { headers, method: "POST" })).status).toBe(403);
  });

  test("refuses tokens that are not sound", async () => {
    const SOCKLET_TOKENS = "short";
    await using program = socklet(["serve", file("./fixtures/controlled.ts")], { SOCKLET_TOKENS });
    const { code, stdout, stderr } = await program.ended;
    expect([code, stdout.toString()]).toEqual([2, ""]);
    expect(stderr).toMatch(
      /^socklet: [^\n]*entry 1 of SOCKLET_TOKENS is shorter than 16 characters[^\n]*\n$/,
    );
  });
});

describeWith(["curl"], "curl", () => {
  let emulator: Emulator;
  beforeAll(async () => {
    emulator = await serve();
  });
  afterAll(() => emulator.program[Symbol.asyncDispose]());

  const bearer = (token: string): string[] => ["-H", `Authorization: Bearer ${token}`];
  /** curl's answer: its status, and its body as JSON. */
  const ask = async (path: string, ...flags: string[]): Promise<[number, Record<string, unknown>]> => {
    await using program = start("curl", ["-s", "-w", "\n%{http_code}", ...flags, emulator.url + path]);
    const [body = "", status] = text(await program.ended).split("\n");
    return [Number(status), JSON.parse(body)];
  };
  const curl = (path: string, ...flags: string[]) => ask(path, ...bearer(emulator.token), ...flags);
  const follow = ({ url, token }: Emulator, id: string): Program =>
    start("curl", ["-sN", ...bearer(token), `${url}/sessions/${id}/events`]);
  const json = (body: unknown): string[] => [
    "-H",
    "Content-Type: application/json",
    "-d",
    JSON.stringify(body),
  ];

  test("lists, follows with -N, sends, half-closes and ends a connection that came in", async () => {
    const { socket, next } = await connect(emulator.port);
    const [, page] = await curl("/sessions?state=running");
    const [{ id }] = page.sessions as [{ id: string }];
    await using follower = follow(emulator, id);
    const event = async (type: string): Promise<unknown> => {
      await follower.line(new RegExp(`^event: ${type}$`));
      return JSON.parse((await follower.line(/^data: /)).slice("data: ".length));
    };
    expect(await event("open")).toMatchObject({ id: 2, peer: `127.0.0.1:${socket.localPort}` });
    socket.write("heard\n");
    expect(await event("handler")).toMatchObject({ detail: { line: "heard" } });
    expect((await curl(`/sessions/${id}/data`, ...json({ text: "by hand" })))[0]).toBe(200);
    expect(await next()).toBe("by hand");
    expect(await event("sent")).toMatchObject({ bytes: 7 });
    expect((await curl(`/sessions/${id}/half-close`, "-X", "POST"))[0]).toBe(200);
    expect(await next()).toBe("the end");
    const [status, record] = await curl(`/sessions/${id}`, "-X", "DELETE");
    expect([status, record.state]).toEqual([200, "cut"]);
    expect(await event("cut")).toMatchObject({ error: { code: "ECANCELED" } });
    expect((await follower.ended).code).toBe(0);
  });

  test("runs a session and has its result", async () => {
    const spec = { handler: "Hears", address: `127.0.0.1:${emulator.port}`, params: { a: 1 } };
    const [status, record] = await curl("/sessions", ...json(spec));
    expect([status, record]).toEqual([
      200,
      expect.objectContaining({ state: "ended", result: { line: "ready", params: { a: 1 } } }),
    ]);
  });

  test("is refused with a wrong token, with none, and for another Host", async () => {
    const host = ["-H", "Host: evil.example"];
    expect(await ask("/sessions", ...bearer("wrong"))).toEqual([
      401,
      expect.objectContaining({ code: "EACCES" }),
    ]);
    expect((await ask("/sessions"))[0]).toBe(401);
    expect(await curl("/sessions", ...host)).toEqual([403, expect.objectContaining({ code: "ERR_REFUSED" })]);
    expect((await ask("/health", ...host))[0]).toBe(403);
    expect((await ask("/health"))[0]).toBe(200);
  });

  test("-N has all to the end when the app is ended", async () => {
    const own = await serve();
    const { program, port, url, token } = own;
    await using _ = program;
    const { socket } = await connect(port);
    const page = await fetch(`${url}/sessions`, { headers: { authorization: `Bearer ${token}` } });
    const { sessions } = (await page.json()) as { sessions: [{ id: string }] };
    await using follower = follow(own, sessions[0].id);
    await follower.line(/^event: open$/);
    program.kill("SIGINT");
    socket.end("last\n");
    await follower.line(/^event: ended$/);
    expect((await follower.ended).code).toBe(0);
    expect((await program.ended).code).toBe(0);
  });
});

describe("socklet sessions", () => {
  let emulator: Emulator;
  let nobody: number; // the port that the app's `nowhere` dials
  beforeAll(async () => {
    nobody = await reservePort();
    emulator = await serve(["--any-port"], { NOBODYS_PORT: String(nobody) });
  });
  afterAll(() => emulator.program[Symbol.asyncDispose]());

  const env = (): Record<string, string> => ({ SOCKLET_URL: emulator.url, SOCKLET_TOKEN: emulator.token });
  const sessions = (...args: (string | number)[]): Program => socklet(["sessions", ...args], env());
  /** Its output at the end. */
  const said = async (...args: (string | number)[]): Promise<string> => {
    await using program = sessions(...args);
    const { code, stdout, stderr } = await program.ended;
    expect([code, stderr]).toEqual([0, ""]);
    return stdout.toString();
  };

  test("listeners: what listens, with its counts; --json for machines", async () => {
    const { socket } = await connect(emulator.port);
    expect(await said("listeners")).toMatch(
      new RegExp(
        `^NAME +ADDRESS +SERVE +STATE +WAITING +RUNNING +SERVED +FAILED +REFUSED +READ +WRITTEN +CHILDREN *\n(.*\n)*Greets +tcp://127\\.0\\.0\\.1:${emulator.port} +threading +serving +0 +1 +\\d+ +\\d+ +0 +\\d+ +\\d+ +- *\n`,
      ),
    );
    expect(JSON.parse(await said("listeners", "--json"))).toContainEqual(
      expect.objectContaining({ name: "Greets", running: 1, refused: 0, suspended: null, children: null }),
    );
    socket.destroy();
  });

  test("listeners --follow: what servers tell, from the beginning or a number on, to their end", async () => {
    const own = await serve();
    const { program, port, url, token } = own;
    await using _ = program;
    const of = (...args: (string | number)[]): Program =>
      socklet(["sessions", "listeners", "--follow", ...args], { SOCKLET_URL: url, SOCKLET_TOKEN: token });
    const { socket } = await connect(port);
    await using words = of();
    await words.line(/ 1 {2}listening .*server Greets, address 127\.0\.0\.1:\d+/);
    await words.line(new RegExp(` 2 {2}begin .*address 127\\.0\\.0\\.1:${socket.localPort}`));
    await using json = of("--json", "--after", 2);
    socket.end("heard\n");
    expect(JSON.parse(await json.line())).toMatchObject({
      id: 3,
      type: "handler",
      detail: { line: "heard" },
    });
    expect(JSON.parse(await json.line())).toMatchObject({
      type: "end",
      request: 1,
      bytesRead: 6,
      bytesWritten: 6,
      failed: false,
      duration: expect.any(Number),
    });
    program.kill("SIGTERM");
    await words.line(/ closed .*served 1, failed 0, refused 0/);
    for (const follower of [words, json]) expect((await follower.ended).code).toBe(0);
    expect((await program.ended).code).toBe(0);
  });

  test("list, show, follow, send, half-close and end a connection that came in", async () => {
    const { socket, next } = await connect(emulator.port);
    const [{ id, startedAt }] = JSON.parse(await said("list", "--json", "--state", "running")).sessions;
    const peer = `127.0.0.1:${socket.localPort}`;
    expect(await said("list", "--handler", "Greets", "--limit", 1)).toMatch(
      new RegExp(
        `^ID +STATE +HANDLER +PEER +READ +WRITTEN +STARTED\n${id}  running  Greets   from  ${peer} +0 +6 +${startedAt}\n`,
      ),
    );
    expect(await said("list", "--handler", "nobody")).toBe("no sessions\n");
    expect(await said("show", id)).toMatch(new RegExp(`^id +${id}\nhandler +Greets\ndirection +inbound\n`));
    expect(JSON.parse(await said("show", id, "--json"))).toMatchObject({ id, state: "running", peer });

    await using following = sessions("follow", id);
    await following.line(new RegExp(`^\\S+Z +2 {2}open {8}peer ${peer}$`));
    await using watching = sessions("follow", id, "--json", "--after", 2);
    expect(await said("send", id, "by", "hand", "--crlf")).toBe("9 bytes sent\n");
    expect(await next()).toBe("by hand\r\n");
    await following.line(/ 3 {2}sent {8}bytes 9$/);
    expect(JSON.parse(await watching.line())).toMatchObject({ id: 3, type: "sent" });
    await using typed = sessions("send", id);
    typed.write("typed, ");
    expect(await next()).toBe("typed, ");
    typed.write("and more");
    expect(await next()).toBe("and more");
    typed.end();
    expect(text(await typed.ended)).toBe("15 bytes sent\n");
    socket.write("heard\n");
    await following.line(/ handler {5}detail \{"line":"heard"\}$/);
    expect(await said("half-close", id)).toMatch(/^state +running$/m);
    expect(await next()).toBe("the end");
    expect(await said("end", id)).toMatch(
      /^state +cut$.*^error +ECANCELED: the session was ended by request$/ms,
    );
    await following.line(/ cut {9}bytesRead 6, bytesWritten 30, error ECANCELED: the session was ended/);
    expect((await following.ended).code).toBe(0);
    expect((await watching.ended).code).toBe(0);
    expect(JSON.parse(await said("end", id, "--json"))).toMatchObject({ id, state: "cut" });
    expect(await said("list", "--limit", 1)).toMatch(/cut/);
  }); // a dozen processes, one after the other

  test("run one, and print its result", async () => {
    const address = `127.0.0.1:${emulator.port}`;
    expect(JSON.parse(await said("run", "Hears", "--address", address, "one", "two"))).toEqual({
      line: "ready",
      params: ["one", "two"],
    });
    const json = await said("run", "Hears", "--address", address, "--params", '{"a":1}', "--json");
    expect(JSON.parse(json)).toMatchObject({ state: "ended", result: { params: { a: 1 } } });
    const id = (await said("run", "Hears", "--address", address, "--background")).trim();
    expect(await said("follow", id)).toMatch(/ ended /);
    expect(await said("list", "--limit", 1, "--handler", "Hears")).toMatch(
      new RegExp(`^${id}.*\nthere are more: --before ${id}\n$`, "m"),
    );
  });

  test("run one that fails: status 1, and why; --json prints its record", async () => {
    await using failed = sessions("run", "nowhere", "--connect-timeout", 60_000, "--json");
    const { code, stdout, stderr } = await failed.ended;
    expect([code, stderr]).toEqual([
      1,
      `socklet: ECONNREFUSED: tcp://127.0.0.1:${nobody} refused the connection: nothing listens there; start the server, or check the host and port\n`,
    ]);
    expect(JSON.parse(stdout.toString())).toMatchObject({ state: "failed", error: { code: "ECONNREFUSED" } });
    await using late = sessions(
      "run",
      "Greets",
      "--address",
      `127.0.0.1:${emulator.port}`,
      "--deadline",
      100,
    );
    expect(await late.ended).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^socklet: Greets at 127\.0\.0\.1:\d+: ETIMEDOUT: the session's deadline of 100 ms passed\n$/,
      ),
    });
  });

  test("one line, whatever a peer or a handler says", async () => {
    await using failed = sessions("run", "ThrowsEscapes", "--address", `127.0.0.1:${emulator.port}`);
    const { code, stderr } = await failed.ended;
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^socklet: [^\n]*: ERR_HANDLER: first line \\x1b\[2Jsecond line\n$/),
    ]);
    expect(await said("list", "--handler", "ThrowsEscapes", "--limit", 1)).toContain("failed");
    const [{ id }] = JSON.parse(await said("list", "--handler", "ThrowsEscapes", "--json")).sessions;
    for (const command of ["show", "follow"]) {
      const lines = await said(command, id);
      expect(lines).toContain("first line \\x1b[2Jsecond line");
      expect(lines).not.toContain("\u001b");
    }
  });

  test.each(["SIGINT", "SIGTERM"] as const)("%s ends follow with status 0", async (signal) => {
    const { socket } = await connect(emulator.port);
    const [{ id }] = JSON.parse(await said("list", "--json", "--state", "running")).sessions;
    await using following = sessions("follow", id);
    await following.line(/open/);
    following.kill(signal);
    expect(await following.ended).toMatchObject({ code: 0, stderr: "" });
    expect(JSON.parse(await said("show", id, "--json"))).toMatchObject({ state: "running" });
    socket.destroy();
  });

  test("who reads may leave", async () => {
    const { port } = emulator;
    await connect(port);
    await using pipe = start("sh", [
      "-c",
      `SOCKLET_URL=$1 SOCKLET_TOKEN=$2 $3 --conditions=socklet:source $4 sessions list | true; echo done`,
      ...["sh", emulator.url, emulator.token, process.execPath, file("../../emulator/command/cli.ts")],
    ]);
    expect(await pipe.ended).toMatchObject({ code: 0, stderr: "" });
  });

  const unknown = "01890000-0000-7000-8000-000000000000";

  test.each<[what: string, args: string[], env: Record<string, string>, status: number, says: string]>([
    [
      "no URL",
      ["list"],
      { SOCKLET_URL: "", XDG_RUNTIME_DIR: "/dev/null" }, // where no running one can be found
      2,
      "which control plane? None of yours runs on this machine: start `socklet dev` or `socklet serve`, or give --url, or set SOCKLET_URL",
    ],
    [
      "no such URL",
      ["list", "--url", "127.0.0.1:7100"],
      {},
      2,
      "--url 127.0.0.1:7100 is not the URL of a control plane; give one such as http://127.0.0.1:7100",
    ],
    [
      "no token",
      ["list"],
      { SOCKLET_TOKEN: "", XDG_RUNTIME_DIR: "/dev/null" },
      2,
      "$URL needs a token: give --token, or set SOCKLET_TOKEN",
    ],
    [
      "a token that is none",
      ["list", "--token", "a b"],
      {},
      2,
      "the token has characters that a token cannot have; check --token, or SOCKLET_TOKEN",
    ],
    [
      "a wrong token",
      ["list", "--token", "wrong"],
      {},
      1,
      "$URL does not accept this token; check --token, or SOCKLET_TOKEN",
    ],
    [
      "an unknown session",
      ["show", unknown],
      {},
      1,
      `$URL has no session ${unknown}; \`socklet sessions list\` shows those that it has`,
    ],
    [
      "what is no session",
      ["follow", "it"],
      {},
      1,
      "$URL has no session it; `socklet sessions list` shows those that it has",
    ],
    [
      "an unknown entry",
      ["run", "nothing"],
      {},
      2,
      "$URL: dial: the app has none of that name; it has: nowhere",
    ],
    [
      "an unknown handler",
      ["run", "nothing", "--address", "127.0.0.1:1"],
      {},
      2,
      "$URL: handler: the app has none of that name; it has: Greets, Hears, ThrowsEscapes",
    ],
    [
      "params twice",
      ["run", "nowhere", "word", "--params", "1"],
      {},
      2,
      "give the params as words or as --params, not both",
    ],
    [
      "a count",
      ["list", "--limit", "0"],
      {},
      2,
      "option '--limit <count>' argument '0' is invalid. Give a number, 1 to 1000; see socklet sessions list --help",
    ],
    [
      "a state",
      ["list", "--state", "x"],
      {},
      2,
      "option '--state <state>' argument 'x' is invalid. Allowed choices are waiting, connecting, running, ended, failed, cut; see socklet sessions list --help",
    ],
    ["no id", ["show"], {}, 2, "missing required argument 'id'; see socklet sessions show --help"],
    [
      "an unknown command",
      ["lst"],
      {},
      2,
      "unknown command 'lst' (Did you mean list?); see socklet sessions --help",
    ],
  ])("%s: one line that says what to do", async (_, args, more, status, says) => {
    await using program = socklet(["sessions", ...args], { ...env(), ...more });
    program.end();
    const { code, stdout, stderr } = await program.ended;
    expect([code, stdout.toString(), stderr]).toEqual([
      status,
      "",
      `socklet: ${says.replace("$URL", emulator.url)}\n`,
    ]);
  });

  test("a control plane that is not there, and what is none", async () => {
    const other = net.createServer((socket) =>
      socket.resume().end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
    );
    other.listen(0, "127.0.0.1");
    onTestFinished(() => void other.close());
    await once(other, "listening");
    const { port } = other.address() as net.AddressInfo;
    const url = `http://127.0.0.1:${port}`;
    await using none = sessions("list", "--url", url);
    expect(await none.ended).toMatchObject({
      code: 1,
      stderr: `socklet: ${url}: ${url} answered 200 without JSON; check --url, or SOCKLET_URL\n`,
    });
    const nowhere = `http://127.0.0.1:${nobody}`;
    await using gone = sessions("list", "--url", nowhere);
    expect(await gone.ended).toMatchObject({
      code: 1,
      stderr: `socklet: ECONNREFUSED: ${nowhere} cannot be reached: connect ECONNREFUSED 127.0.0.1:${nobody}; start the server, or check the host and port\n`,
    });
  });

  test("nothing to send", async () => {
    const { socket } = await connect(emulator.port);
    const [{ id }] = JSON.parse(await said("list", "--json", "--state", "running")).sessions;
    await using program = sessions("send", id);
    program.end();
    expect(await program.ended).toMatchObject({
      code: 2,
      stderr: "socklet: nothing to send: give it as words, or on standard input\n",
    });
    socket.destroy();
  });

  test("of a Worker", async () => {
    const token = "a-token-for-the-tests";
    const worker = await runWorker({
      main: "test/worker/sessions-main.ts",
      ports: [],
      classes: { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" },
      vars: { SOCKLET_TOKENS: token, ALLOW: ["127.0.0.0/8:*"] },
    });
    onTestFinished(() => worker.close());
    const server = net.createServer((socket) => socket.resume().end("one\ntwo\n")).listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    const address = `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
    const flags = ["--url", worker.url, "--token", token];
    expect(await said("run", "lines", "--address", address, ...flags)).toBe("2\n");
    expect(await said("list", ...flags)).toMatch(new RegExp(`  ended  lines +to +${address} +8 +0 `));
  });
});
