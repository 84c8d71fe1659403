/** The command `socklet` as its users run it: in its own process, with its output, exit status and signals. */

import { type ChildProcess, spawn } from "node:child_process";
import dgram from "node:dgram";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { SocketError } from "socklet";
import { serveApp } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { awaited } from "../awaited.ts";
import { reservePort } from "../peers/ports.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const fixtures = "test/emulator/fixtures";

interface Exit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** One run of the command. It ends with its test, whatever the test did. */
class Cli {
  readonly stdout: string[] = [];
  readonly stderr: string[] = [];
  readonly exit: Promise<Exit>;
  readonly process: ChildProcess;
  #exited = false;
  #look: (() => void)[] = []; // callers that wait for a line

  constructor(args: readonly string[], env: Readonly<Record<string, string | undefined>> = {}) {
    this.process = spawn(
      process.execPath,
      ["--conditions=socklet:source", "emulator/command/cli.ts", ...args],
      {
        cwd: root,
        env: { ...process.env, npm_lifecycle_event: undefined, ...env }, // it is not one of npm's scripts
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    for (const name of ["stdout", "stderr"] as const) {
      createInterface(this.process[name] as Readable).on("line", (line) => {
        this[name].push(line);
        this.#told();
      });
    }
    this.exit = once(this.process, "close").then(([status, signal]) => {
      this.#exited = true;
      this.#told();
      return { status, signal };
    });
    onTestFinished(async () => {
      this.process.kill("SIGKILL");
      await this.exit;
    });
  }

  /** The first matching line of stdout or stderr, as soon as it appears. */
  line(pattern: RegExp): Promise<RegExpExecArray> {
    return awaited(this.#find(pattern), () => `a line like ${pattern}; it said:\n${this.all}`);
  }

  async #find(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      for (const line of [...this.stdout, ...this.stderr]) {
        const found = pattern.exec(line);
        if (found !== null) return found;
      }
      if (this.#exited) throw new Error(`it ended without a line like ${pattern}:\n${this.all}`);
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }

  /** The port of a listener that it printed. */
  async port(listener: string): Promise<number> {
    return Number((await this.line(new RegExp(`^${listener} +(?:tcp|udp)://127\\.0\\.0\\.1:(\\d+)$`)))[1]);
  }

  kill(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  get all(): string {
    return [...this.stdout, ...this.stderr].join("\n");
  }

  #told(): void {
    for (const look of this.#look.splice(0)) look();
  }
}

/** Connects; what comes is gathered. */
class Client {
  readonly socket: net.Socket;
  /** Everything that came, at the end, even if the end was a reset. */
  readonly all: Promise<string>;
  #text = "";
  #look: (() => void)[] = [];

  constructor(port: number) {
    this.socket = net.connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    this.socket.setEncoding("utf8");
    this.socket.on("error", () => {});
    const told = (): void => {
      for (const look of this.#look.splice(0)) look();
    };
    this.socket.on("data", (text) => {
      this.#text += text;
      told();
    });
    this.all = new Promise((resolve) => {
      for (const event of ["end", "close"]) {
        this.socket.once(event, () => {
          resolve(this.#text);
          told();
        });
      }
    });
    onTestFinished(() => void this.socket.destroy());
  }

  async said(text: string): Promise<void> {
    while (!this.#text.includes(text)) {
      if (this.socket.readableEnded || this.socket.closed)
        throw new Error(`the connection ended before ${JSON.stringify(text)}`);
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }
}

/** What a dial to a port meets. The port is reserved, or a client of the server that had it is still connected: the kernel gives it to nobody else. */
const refused = (port: number): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const socket = net.connect({ host: "127.0.0.1", port });
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code));
    socket.once("connect", () => {
      socket.destroy();
      reject(new Error(`port ${port} is still open`));
    });
  });

const listen = async (server: net.Server): Promise<number> => {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return (server.address() as net.AddressInfo).port;
};

// The control routes have tests of their own: sessions-cli.test.ts.
const serve = (...flags: string[]): Cli =>
  new Cli(["serve", `${fixtures}/served.ts`, "--no-control", ...flags]);
const dial = (...args: string[]): Cli => new Cli(["dial", ...args]);
const dialled = (name: string): string => `${fixtures}/dialled.ts#${name}`;

test("the tests run on the pinned Node", () => {
  expect(process.version).toMatch(/^v24\./);
});

describe("socklet serve", () => {
  test("by forking: each handler in a child, whose context is its own; a child that is lost is told, and the next is served", async () => {
    const data = await mkdtemp(join(tmpdir(), "socklet-forking-"));
    onTestFinished(() => rm(data, { recursive: true }));
    const flags = ["--any-port", "--no-control", "--data", data];
    const cli = new Cli(["serve", `${fixtures}/forking-app.ts`, ...flags]);
    const tells = await cli.port("tells");
    const exits = await cli.port("exits");
    for (let i = 0; i < 2; i++) {
      const client = new Client(tells);
      client.socket.end("hello\n");
      expect(await client.all).toBe("node true\n");
    }
    const lost = new Client(exits);
    expect(await lost.all).toBe("ready\n");
    await cli.line(/a child process was lost/);
    const next = new Client(exits);
    expect(await next.all).toBe("ready\n");
    cli.kill("SIGTERM");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
  });

  test("prints each listener, and under it how to try it; serves TCP and UDP; leaves nothing behind", async () => {
    const tcp = await reservePort();
    const cli = new Cli(["serve", `${fixtures}/served.ts`, "--no-control"], { LINES_PORT: String(tcp) });
    expect(await cli.port("WaitsForALine")).toBe(tcp);
    const udp = await cli.port("EchoDatagram");
    await cli.line(/nc -u/); // the last one: another line may come with another chunk
    expect(cli.stdout).toEqual([
      expect.stringMatching(/^WaitsForALine {2}tcp:/),
      `               nc 127.0.0.1 ${tcp}`,
      expect.stringMatching(/^NeverEnds {6}tcp:/),
      expect.stringMatching(/^ShortLines {5}tcp:/),
      expect.stringMatching(/^WholeLines {5}tcp:/),
      expect.stringMatching(/^ThrowsEscapes {2}tcp:/),
      expect.stringMatching(/^EchoDatagram {3}udp:/),
      `               nc -u 127.0.0.1 ${udp}`,
    ]);

    const client = new Client(tcp);
    client.socket.end("hello\n");
    expect(await client.all).toBe("ready\nhello\n");
    const socket = dgram.createSocket("udp4");
    onTestFinished(() => void socket.close());
    socket.send("ping", udp, "127.0.0.1");
    expect(String((await once(socket, "message"))[0])).toBe("ping");

    const children = `/proc/${cli.process.pid}/task/${cli.process.pid}/children`;
    if (existsSync(children)) expect(readFileSync(children, "utf8")).toBe("");
    cli.kill("SIGINT");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
    expect(cli.stderr).toEqual([]);
    expect(await refused(tcp)).toBe("ECONNREFUSED");
  });

  test("--any-port takes free ports in place of the app's, --host another host", async () => {
    const cli = new Cli(["serve", "examples/app.ts", "--any-port", "--host", "127.0.0.2", "--no-control"]);
    const [, port] = await cli.line(/^echo +tcp:\/\/127\.0\.0\.2:(\d+)$/);
    await cli.line(new RegExp(`^ +echo hello \\| nc -N 127\\.0\\.0\\.2 ${port}$`));
    expect(cli.all).not.toMatch(/127\.0\.0\.1|:7007/);
    cli.kill("SIGTERM");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
  });

  test.each(["SIGINT", "SIGTERM"] as const)("%s drains: what runs is finished, status 0", async (signal) => {
    const cli = serve();
    const port = await cli.port("WaitsForALine");
    const client = new Client(port);
    await client.said("ready\n");
    cli.kill(signal);
    await cli.line(
      new RegExp(`^socklet: ${signal}: draining 1 running, 10000 ms at most; once more to abort$`),
    );
    expect(await refused(port)).toBe("ECONNREFUSED");
    client.socket.end("done\n");
    expect(await client.all).toBe("ready\ndone\n");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
    expect(cli.stderr).toHaveLength(1);
  });

  test("a second signal aborts what runs, status 1", async () => {
    const cli = serve();
    const client = new Client(await cli.port("WaitsForALine"));
    await client.said("ready\n");
    cli.kill("SIGINT");
    await cli.line(/draining 1 running/);
    cli.kill("SIGTERM");
    expect(await client.all).toBe("ready\n");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
    await cli.line(/^socklet: WaitsForALine {2}127\.0\.0\.1:\d+ {2}ECONNABORTED: /);
  });

  test("a second signal ends also a handler that takes no notice, and what it left running", async () => {
    const cli = serve();
    const client = new Client(await cli.port("NeverEnds"));
    await client.said("ready\n");
    cli.kill("SIGINT");
    await cli.line(/draining 1 running/);
    cli.kill("SIGINT");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
  });

  test("--drain is how long what runs may go on", async () => {
    const cli = serve("--drain", "200");
    const client = new Client(await cli.port("WaitsForALine"));
    await client.said("ready\n");
    cli.kill("SIGINT");
    await cli.line(/^socklet: aborting 1 still running after 200 ms; --drain gives them longer$/);
    expect(await client.all).toBe("ready\n");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
  });

  test("--drain-delay goes on accepting while /v1/ready is 503; a second signal ends it", async () => {
    const cli = new Cli(["serve", `${fixtures}/served.ts`, "--any-port", "--drain-delay", "86400000"]);
    const port = await cli.port("WaitsForALine");
    const [, url] = await cli.line(/^control +(http:\/\/127\.0\.0\.1:\d+)/);
    expect((await fetch(`${url}/v1/ready`)).status).toBe(200);
    cli.kill("SIGTERM");
    await cli.line(/^socklet: SIGTERM: no longer ready; closing in 86400000 ms; once more to abort$/);
    const answer = await fetch(`${url}/v1/ready`);
    expect([answer.status, await answer.json()]).toMatchObject([503, { detail: "this process is ending" }]);
    const client = new Client(port);
    await client.said("ready\n");
    client.socket.end("done\n");
    expect(await client.all).toBe("ready\ndone\n");
    cli.kill("SIGTERM");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
  });

  test("after the drain delay it closes and drains", async () => {
    const cli = serve("--drain-delay", "50");
    const port = await cli.port("WaitsForALine");
    const client = new Client(port);
    await client.said("ready\n");
    cli.kill("SIGTERM");
    await cli.line(/^socklet: SIGTERM: draining 1 running, 10000 ms at most; once more to abort$/);
    expect(await refused(port)).toBe("ECONNREFUSED");
    client.socket.end("done\n");
    expect(await client.all).toBe("ready\ndone\n");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
  });

  test("goes on when nobody reads its output any more", async () => {
    const cli = serve();
    const port = await cli.port("WaitsForALine");
    cli.process.stdout?.destroy();
    const client = new Client(port);
    client.socket.end("hello\n");
    expect(await client.all).toBe("ready\nhello\n");
    cli.kill("SIGINT");
    expect((await cli.exit).status).toBe(0);
  });

  test("tells what peers and handlers do wrong, each in one line, and goes on serving", async () => {
    const cli = serve();
    const worked = async (): Promise<void> => {
      const client = new Client(await cli.port("WaitsForALine"));
      client.socket.end("still here\n");
      expect(await client.all).toBe("ready\nstill here\n");
    };

    const long = new Client(await cli.port("ShortLines"));
    long.socket.write("a line that is longer than the limit\n");
    await cli.line(
      /^socklet: ShortLines {2}127\.0\.0\.1:\d+ {2}ERR_LIMIT: the line is longer than 16 bytes; raise maxLine to take longer ones$/,
    );
    await worked();

    const cut = new Client(await cli.port("WholeLines"));
    cut.socket.end("abc");
    await cli.line(
      /^socklet: WholeLines {2}127\.0\.0\.1:\d+ {2}ERR_INCOMPLETE_READ: the stream ended 3 bytes on, before "\\n"; the peer has to send the rest before it ends the connection$/,
    );
    await worked();

    const reset = new Client(await cli.port("WaitsForALine"));
    await reset.said("ready\n");
    reset.socket.resetAndDestroy();
    await cli.line(
      /^socklet: WaitsForALine {2}127\.0\.0\.1:\d+ {2}ECONNRESET: .*; the peer closed the connection midway; its own log may say why$/,
    );
    await worked();

    new Client(await cli.port("ThrowsEscapes"));
    await cli.line(
      /^socklet: ThrowsEscapes {2}127\.0\.0\.1:\d+ {2}Error: first line \\x1b\[2Jsecond line \(test\/emulator\/fixtures\/served\.ts:\d+:\d+\)$/,
    );
    await worked();

    expect(cli.stderr).toHaveLength(4);
    cli.kill("SIGINT");
    expect((await cli.exit).status).toBe(0);
  });
});

describe("socklet dial", () => {
  /** A server that sends `text` to each client, and ends. */
  const saying = (text: string | Uint8Array): Promise<number> =>
    listen(net.createServer((socket) => socket.on("error", () => {}).end(text)));

  const result = async (cli: Cli): Promise<unknown> => {
    expect(await cli.exit, cli.all).toEqual({ status: 0, signal: null });
    expect(cli.stderr).toEqual([]);
    return JSON.parse(cli.stdout.join("\n"));
  };

  test("prints what the handler returned, as JSON; bytes as base64", async () => {
    const port = await saying(Uint8Array.of(0, 255, 10));
    expect(await result(dial(`127.0.0.1:${port}`, dialled("GivesBytes")))).toEqual({ base64: "AP8K" });
    expect(await result(dial(`tcp://127.0.0.1:${port}`, dialled("GivesNothing")))).toBeNull();
  });

  test("gives the handler its params: words, or any JSON", async () => {
    const at = `127.0.0.1:${await saying("")}`;
    expect(await result(dial(at, dialled("GivesParams"), "SET", "key"))).toEqual(["SET", "key"]);
    expect(await result(dial(at, dialled("GivesParams")))).toEqual([]);
    const json = '{"user":"alice","n":[1,null]}';
    expect(await result(dial(at, dialled("GivesParams"), "--params", json))).toEqual(JSON.parse(json));
  });

  test("takes a handler of --app by its name, with the app's context", async () => {
    const at = `127.0.0.1:${await saying("")}`;
    const app = `${fixtures}/dialled.ts`;
    expect(await result(dial(at, "GivesContext", "--app", app))).toBe("hello from the app");
    expect(await result(dial(at, `${app}#GivesContext`, "--app", app))).toBe("hello from the app");
  });

  test("dials a path", async () => {
    const folder = await mkdtemp(join(tmpdir(), "socklet-cli-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const server = net.createServer((socket) => socket.end("by path"));
    server.listen(join(folder, "socket"));
    await once(server, "listening");
    onTestFinished(() => void server.close());
    const bytes = await result(dial(`unix:${join(folder, "socket")}`, dialled("GivesBytes")));
    expect(bytes).toEqual({ base64: btoa("by path") });
  });

  test("Ctrl-C ends the connection, status 1", async () => {
    const server = net.createServer();
    const port = await listen(server);
    const arrived = once(server, "connection") as Promise<[net.Socket]>;
    const cli = dial(`127.0.0.1:${port}`, dialled("GivesBytes"));
    const [socket] = await arrived;
    const gone = new Promise((resolve) => socket.on("error", () => {}).once("close", resolve));
    cli.kill("SIGINT");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
    expect(cli.all).toBe(
      `socklet: ${dialled("GivesBytes")} at 127.0.0.1:${port}: ECANCELED: interrupted by SIGINT`,
    );
    await gone;
  });

  test("Ctrl-C ends also a handler that takes no notice, and what it left running", async () => {
    const server = net.createServer((socket) => socket.on("error", () => {}));
    const port = await listen(server);
    const cli = dial(`127.0.0.1:${port}`, dialled("NeverEnds"));
    await once(server, "connection");
    cli.kill("SIGTERM");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
    expect(cli.all).toMatch(/: ECANCELED: interrupted by SIGTERM$/);
  });

  test("--connect-timeout is how long a server may take to answer", async () => {
    // A process that listens and accepts nothing; its queue is full when two wait in it, and Linux drops the next.
    const deaf = spawn(
      process.execPath,
      [
        "-e",
        `const server = require("node:net").createServer();
         server.listen({ port: 0, host: "127.0.0.1", backlog: 1 }, () => {
           require("node:fs").writeSync(1, server.address().port + "\\n");
           Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
         });`,
      ],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    const ended = once(deaf, "close");
    onTestFinished(async () => {
      deaf.kill("SIGKILL");
      await ended;
    });
    const port = Number((await once(deaf.stdout, "data"))[0]);
    for (let i = 0; i < 2; i++) await once(new Client(port).socket, "connect");
    const cli = dial(`127.0.0.1:${port}`, dialled("GivesBytes"), "--connect-timeout", "300");
    expect(await cli.exit).toEqual({ status: 1, signal: null });
    expect(cli.all).toBe(
      `socklet: ETIMEDOUT: 127.0.0.1:${port} did not answer within 300 ms; check the address, or give it longer with --connect-timeout`,
    );
  });
});

describe("what is asked wrongly, or cannot be done: one line on stderr, and the status", () => {
  let folder: string;

  /** Modules that cannot be in the repository: its own checks would not pass them. */
  const MODULES: Readonly<Record<string, string>> = {
    "syntax.ts": "export const app: number = ;\n",
    "syntax.js": "export const app = ;\n",
    "enum.ts": "enum Colour { Red }\nexport const app = Colour.Red;\n",
    "throws.ts": 'const value: number = 1;\nthrow new Error("boom\\nand more");\n',
    "throws-text.js": 'throw "only text";\n',
    "imports-package.ts": 'import "no-such-package-here";\n',
    "imports-file.ts": 'import "./nosuch.ts";\n',
    "text.txt": "hello\n",
    "package.json": '{ "type": "module" }\n',
  };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "socklet-cli-"));
    for (const [name, text] of Object.entries(MODULES)) await writeFile(join(folder, name), text);
  });

  afterAll(() => rm(folder, { recursive: true }));

  /** Runs it, and returns the one line that it printed. `@` in an argument is the folder of `MODULES`. */
  const said = async (
    status: number,
    args: readonly string[],
    env?: Record<string, string>,
  ): Promise<string> => {
    const cli = new Cli(
      args.map((arg) => arg.replace(/^@/, folder)),
      env,
    );
    expect(await cli.exit, cli.all).toEqual({ status, signal: null });
    expect(cli.stdout).toEqual([]);
    expect(cli.stderr).toHaveLength(1);
    expect(cli.stderr[0]).toMatch(/^socklet: (?!.* {4}at )/);
    return String(cli.stderr[0]).slice("socklet: ".length).replaceAll(folder, "@");
  };

  const nowhere = "127.0.0.1:9"; // is not dialled: what is wrong is seen before

  test.each<[what: string, args: string[], says: string | RegExp]>([
    ["no module", ["serve"], "missing required argument 'module'; see socklet serve --help"],
    ["no handler", ["dial", nowhere], "missing required argument 'handler'; see socklet dial --help"],
    ["an unknown command", ["serv"], "unknown command 'serv' (Did you mean serve?); see socklet --help"],
    [
      "a word that is much too long",
      [`${" ".repeat(100_000)}x`],
      /^unknown command ' {400,}… \(100\d{3} characters\) … {400,}x'; see socklet --help$/,
    ],
    [
      "an unknown option",
      ["serve", "--any-prt", `${fixtures}/served.ts`],
      "unknown option '--any-prt' (Did you mean --any-port?); see socklet serve --help",
    ],
    [
      "too many arguments",
      ["serve", "a.ts", "b.ts"],
      "too many arguments for 'serve'. Expected 1 argument but got 2: a.ts, b.ts; see socklet serve --help",
    ],
    [
      "a time that is none",
      ["serve", `${fixtures}/served.ts`, "--drain", "soon"],
      "option '--drain <ms>' argument 'soon' is invalid. Give milliseconds, 1 or more; see socklet serve --help",
    ],
    [
      "a host that is none",
      ["serve", `${fixtures}/served.ts`, "--host", "a b"],
      /^--host a b: ERR_INVALID_ADDRESS: "a b" has a host that is neither a name nor an IPv4 or IPv6 address$/,
    ],
    [
      "a module that is not there",
      ["serve", "@/nosuch.ts"],
      "@/nosuch.ts could not be loaded: there is no such file; check the path",
    ],
    ["a folder", ["serve", "@"], "@ could not be loaded: it is a folder; name the module in it"],
    [
      "TypeScript that does not parse",
      ["serve", "@/syntax.ts"],
      "@/syntax.ts could not be loaded: SyntaxError: Expression expected (@/syntax.ts:1); `node @/syntax.ts` tells more",
    ],
    [
      "JavaScript that does not parse",
      ["serve", "@/syntax.js"],
      "@/syntax.js could not be loaded: SyntaxError: Unexpected token ';'; `node @/syntax.js` tells more",
    ],
    [
      "TypeScript that Node cannot run",
      ["serve", "@/enum.ts"],
      /^@\/enum\.ts could not be loaded: .*enum is not supported in strip-only mode \(@\/enum\.ts:1\); Node runs TypeScript whose types can be erased; compile it, or write it without$/,
    ],
    [
      "a module that throws",
      ["serve", "@/throws.ts"],
      "@/throws.ts could not be loaded: Error: boom and more (@/throws.ts:2:7); `node @/throws.ts` tells more",
    ],
    [
      "a module that throws what is no error",
      ["serve", "@/throws-text.js"],
      "@/throws-text.js could not be loaded: only text; `node @/throws-text.js` tells more",
    ],
    [
      "a module whose package is not installed",
      ["serve", "@/imports-package.ts"],
      /^@\/imports-package\.ts could not be loaded: .*'no-such-package-here'.*; npm install no-such-package-here$/,
    ],
    [
      "a module that imports a file that is not there",
      ["serve", "@/imports-file.ts"],
      /^@\/imports-file\.ts could not be loaded: .*'@\/nosuch\.ts'.*; check that import; it needs the file's extension$/,
    ],
    [
      "a file that is no module",
      ["serve", "@/text.txt"],
      /^@\/text\.txt could not be loaded: .*extension ".txt".*; give a \.ts, \.mts, \.js or \.mjs module$/,
    ],
    [
      "a module without an app",
      ["serve", `${fixtures}/no-export.ts`],
      `${fixtures}/no-export.ts is not an app: it must have \`export const app = defineApp({ … })\`, but it exports handlers, listen`,
    ],
    [
      "an `app` that is none",
      ["serve", `${fixtures}/wrong-export.ts`],
      `${fixtures}/wrong-export.ts is not an app: it must have \`export const app = defineApp({ … })\`, but its \`app\` did not come from defineApp()`,
    ],
    [
      "an app that listens nowhere",
      ["serve", `${fixtures}/listens-nowhere.ts`],
      `${fixtures}/listens-nowhere.ts: ERR_APP: the app listens nowhere: give defineApp() a \`listen\``,
    ],
    [
      "an app with a port of 70000",
      ["serve", `${fixtures}/port-70000.ts`],
      /^test\/emulator\/fixtures\/port-70000\.ts could not be loaded: ERR_APP: listen\[1\]\.address: the port of an address is an integer from 0 to 65535, not 70000 \(test\/emulator\/fixtures\/port-70000\.ts:\d+:\d+\); correct it there$/,
    ],
    [
      "a folder of data that is a file",
      ["serve", `${fixtures}/served.ts`, "--data", `${fixtures}/served.ts`],
      /^ENOTDIR: --data must be a folder, or a path where nothing is yet, not test\/emulator\/fixtures\/served\.ts: ENOTDIR: /,
    ],
    [
      "a folder of data below a file",
      ["dial", nowhere, dialled("GivesBytes"), "--data", `${fixtures}/served.ts/data`],
      /^ENOTDIR: --data must be a folder, or a path where nothing is yet, not test\/emulator\/fixtures\/served\.ts\/data: ENOTDIR: /,
    ],
    [
      "a port of 70000",
      ["dial", "127.0.0.1:70000", dialled("GivesBytes")],
      "127.0.0.1:70000: the port of an address is an integer from 0 to 65535, not 70000",
    ],
    [
      "an address without a port",
      ["dial", "127.0.0.1", dialled("GivesBytes")],
      'ERR_INVALID_ADDRESS: "127.0.0.1" has no port; write "host:port"',
    ],
    [
      "an address of another scheme",
      ["dial", "http://127.0.0.1:80", dialled("GivesBytes")],
      'ERR_INVALID_ADDRESS: "http://127.0.0.1:80" has the unknown scheme "http"; write "tcp://", "tls://", "udp://" or "unix:"',
    ],
    [
      "an address of datagrams",
      ["dial", "udp://127.0.0.1:80", dialled("GivesBytes")],
      "udp://127.0.0.1:80 is a datagram address; this dials streams",
    ],
    [
      "a handler without its module",
      ["dial", nowhere, "GivesBytes"],
      'which module has the handler "GivesBytes"? Give module.ts#Name, or the app that declares it: --app app.ts',
    ],
    [
      "a handler that the module has not",
      ["dial", nowhere, dialled("Nosuch")],
      `there is no handler "Nosuch" in ${fixtures}/dialled.ts; it has: Asks, EchoDatagram, GivesBytes, GivesContext, GivesNothing, GivesParams, HandlesDatagrams, NeverEnds, Throws`,
    ],
    [
      "a handler that the app has not",
      ["dial", nowhere, "Nosuch", "--app", `${fixtures}/dialled.ts`],
      `there is no handler "Nosuch" in ${fixtures}/dialled.ts; it has: GivesParams, GivesBytes, GivesContext, EchoDatagram`,
    ],
    [
      "a handler of datagrams",
      ["dial", nowhere, dialled("HandlesDatagrams")],
      '"HandlesDatagrams" handles datagrams, which cannot be dialled; name a handler of streams',
    ],
    [
      "a handler that the app listens with for datagrams",
      ["dial", nowhere, "EchoDatagram", "--app", `${fixtures}/dialled.ts`],
      '"EchoDatagram" handles datagrams, which cannot be dialled; name a handler of streams',
    ],
    [
      "params that are no JSON",
      ["dial", nowhere, dialled("GivesParams"), "--params", "{key"],
      /^--params is not JSON: .*; quote it for the shell: --params '\["GET", "key"\]'$/,
    ],
    [
      "params twice",
      ["dial", nowhere, dialled("GivesParams"), "word", "--params", "1"],
      "give the params as words or as --params, not both",
    ],
  ])("%s: status 2", async (_, args, says) => {
    const line = await said(2, args);
    if (typeof says === "string") expect(line).toBe(says);
    else expect(line).toMatch(says);
  });

  test("a port in use: status 1, and those before it are closed again", async () => {
    const first = await reservePort();
    const second = await listen(net.createServer());
    const ports = { FIRST_PORT: String(first), SECOND_PORT: String(second) };
    expect(await said(1, ["serve", `${fixtures}/two-ports.ts`], ports)).toBe(
      `EADDRINUSE: tcp://127.0.0.1:${second} is in use: another program listens there; end it, or choose another port, or give --any-port`,
    );

    // The process that ended would have closed them: so here, too, in this one.
    Object.assign(process.env, ports);
    const { app } = await import("./fixtures/two-ports.ts");
    const error = await serveApp(app).then(
      () => null,
      (thrown) => thrown,
    );
    expect(error).toBeInstanceOf(SocketError);
    expect(error.code).toBe("EADDRINUSE");
    expect(await refused(first)).toBe("ECONNREFUSED");
  });

  test("a context that cannot be made: status 1", async () => {
    expect(await said(1, ["serve", `${fixtures}/context-throws.ts`])).toMatch(
      /^test\/emulator\/fixtures\/context-throws\.ts: Error: STORE_URL is not set \(test\/emulator\/fixtures\/context-throws\.ts:\d+:\d+\)$/,
    );
  });

  test("nothing listens there: status 1", async () => {
    const port = await reservePort();
    expect(await said(1, ["dial", `127.0.0.1:${port}`, dialled("GivesBytes")])).toBe(
      `ECONNREFUSED: 127.0.0.1:${port} refused the connection: nothing listens there; start the server, or check the host and port`,
    );
    expect(await said(1, ["dial", "unix:/nosuch/socket", dialled("GivesBytes")])).toMatch(
      /^ENOENT: unix:\/nosuch\/socket: there is no socket at that path; check the path, and that the server is up$/,
    );
  });

  test("a name that does not resolve: status 1", async () => {
    expect(await said(1, ["dial", "nosuch.invalid:80", dialled("GivesBytes")])).toMatch(
      /^ERR_NAME: the name in nosuch\.invalid:80 could not be resolved \(\w+\); check its spelling, or give an address such as 127\.0\.0\.1$/,
    );
  });

  test("a dialled handler that throws, and a peer that resets: status 1", async () => {
    const ending = await listen(net.createServer((socket) => socket.end()));
    expect(await said(1, ["dial", `127.0.0.1:${ending}`, dialled("Throws")])).toMatch(
      new RegExp(
        `^${dialled("Throws")} at 127\\.0\\.0\\.1:${ending}: RangeError: this handler throws \\(${fixtures}/dialled\\.ts:\\d+:\\d+\\)$`,
      ),
    );
    const resetting = await listen(
      net.createServer((socket) => socket.once("data", () => socket.resetAndDestroy())),
    );
    expect(await said(1, ["dial", `127.0.0.1:${resetting}`, dialled("Asks")])).toMatch(
      new RegExp(
        `^${dialled("Asks")} at 127\\.0\\.0\\.1:${resetting}: ECONNRESET: .*; the peer closed the connection midway; its own log may say why$`,
      ),
    );
  });
});

describe("--log", () => {
  test("without it, text on a terminal, and JSON elsewhere", async () => {
    const args = ["serve", `${fixtures}/served.ts`, "--any-port", "--no-control"];
    const piped = new Cli(args, { SOCKLET_LOG: undefined });
    await piped.port("WaitsForALine");
    piped.kill("SIGTERM");
    await piped.exit;
    const types = piped.stderr.map((line) => JSON.parse(line).type);
    expect(types).toContain("listening");
    expect(types.at(-1)).toBe("closed");

    const program = [
      process.execPath,
      "--conditions=socklet:source",
      "emulator/command/cli.ts",
      ...args,
    ].join(" ");
    const terminal = spawn("script", ["-qec", program, "/dev/null"], {
      cwd: root,
      env: { ...process.env, SOCKLET_LOG: undefined },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const exit = once(terminal, "close");
    onTestFinished(() => void terminal.kill("SIGKILL"));
    const lines: string[] = [];
    for await (const line of createInterface(terminal.stdout)) {
      lines.push(line);
      const [, port] = /^WaitsForALine +tcp:\/\/127\.0\.0\.1:(\d+)/.exec(line) ?? [];
      if (port === undefined) continue;
      const client = new Client(Number(port));
      await client.said("ready\n");
      terminal.kill("SIGTERM"); // which script passes on, as a terminal that hangs up
      client.socket.end("done\n");
    }
    await exit;
    expect(lines.join("\n")).not.toContain('"type"');
  });

  test("json: each event one line, errors whole, and so what the command itself says", async () => {
    const cli = new Cli(["serve", `${fixtures}/served.ts`, "--no-control", "--log", "json"]);
    const socket = net.connect(await cli.port("ThrowsEscapes"), "127.0.0.1").on("error", () => {});
    socket.resume();
    await cli.line(/"type":"end"/);
    cli.kill("SIGTERM");
    expect(await cli.exit).toEqual({ status: 0, signal: null });
    const told: Readonly<Record<string, unknown>>[] = cli.stderr.map((line) => JSON.parse(line));
    const types = told.map(({ type }) => type);
    expect(types.filter((type) => type === "listening").length).toBe(6);
    expect(types).toEqual(expect.arrayContaining(["begin", "error", "end", "closed"]));
    for (const { time } of told) expect(new Date(time as string).toISOString()).toBe(time);
    expect(told.find(({ type }) => type === "error")).toMatchObject({
      server: "ThrowsEscapes",
      address: expect.stringMatching(/^127\.0\.0\.1:\d+$/),
      error: {
        name: "Error",
        message: "first line\n\u001b[2Jsecond line",
        stack: expect.stringContaining("served.ts:"),
      },
    });
    expect(cli.stderr.join("")).not.toContain("\u001b"); // nothing in it steers a terminal
  });

  test("off: no event is told", async () => {
    const cli = new Cli(["serve", `${fixtures}/served.ts`, "--no-control", "--log", "off"]);
    const socket = net.connect(await cli.port("ThrowsEscapes"), "127.0.0.1").on("error", () => {});
    socket.resume();
    await new Promise((resolve) => socket.once("close", resolve));
    cli.kill("SIGTERM");
    await cli.exit;
    expect(cli.stderr).toEqual([]);
  });

  test("another word is refused", async () => {
    const cli = new Cli(["serve", `${fixtures}/served.ts`, "--log", "xml"]);
    expect((await cli.exit).status).toBe(2);
    expect(cli.stderr.join("\n")).toContain("json, pretty, off");
  });
});
