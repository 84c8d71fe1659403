/** No value ends a server: every hostile one, by kernel TCP, in children, and in `socklet serve`. */

import { once } from "node:events";
import net from "node:net";
import { fileURLToPath } from "node:url";
import type { OnEvent, SockletEvent } from "socklet";
import { ForkingTCPServer, handlerFrom, serveApp, TCPServer, ThreadingTCPServer } from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { disown } from "../../core/promises.ts";
import {
  type Armed,
  HANDLER_WAYS,
  HOOK_WAYS,
  Hostile,
  hostileListener,
  VALUES,
  withHostileHooks,
} from "../conformance/hostile.ts";
import { reservePort } from "../peers/ports.ts";
import { type Program, start } from "../peers/program.ts";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const HANDLERS = new URL("./fixtures/hostile-app.ts", import.meta.url);
const SERVE = [
  "--conditions=socklet:source",
  file("../../emulator/command/cli.ts"),
  "serve",
  file("./fixtures/hostile-app.ts"),
];
const FLAGS = ["--any-port", "--control-port", "0", "--verbose"];
const NAMES = Object.keys(VALUES);

/** Everything that a server sends to a client that sends one line, to the end of the connection, however it ends. */
const say = async (port: number, line: string): Promise<string> => {
  const socket = net.connect(port, "127.0.0.1");
  let text = "";
  socket
    .on("error", () => {})
    .on("data", (bytes) => {
      text += bytes;
    });
  socket.write(`${line}\n`);
  await new Promise((resolve) => socket.once("close", resolve)); // once() would reject for a reset
  return text;
};

/** A server whose hooks and listener are hostile, while it serves. */
const withServer = async (
  Server: unknown,
  Handler: unknown,
  body: (served: {
    /** Gives it the value of this name in every way; it serves on after each. */
    servesOn(name: string): Promise<void>;
  }) => Promise<void>,
): Promise<void> => {
  const armed: Armed = { way: null, value: () => undefined };
  const told: SockletEvent[] = [];
  let more = Promise.withResolvers<void>();
  const listener = hostileListener(armed, told);
  const onEvent = (event: SockletEvent): unknown => {
    queueMicrotask(() => more.resolve()); // its failures are reported, too
    return listener(event);
  };
  /** Waits until an error is reported: a child's comes after the end of its connection. */
  const error = async (): Promise<void> => {
    while (!told.some(({ type }) => type === "error")) {
      await more.promise;
      more = Promise.withResolvers();
    }
  };
  const Hooked = withHostileHooks(Server as typeof TCPServer, armed) as typeof ThreadingTCPServer;
  const server = new Hooked("127.0.0.1:0", Handler as typeof Hostile, { onEvent: onEvent as OnEvent });
  await server.listen();
  const serving = server.serveForever();
  const { port } = server.serverAddress as { port: number };
  const neverStuck = (): void => expect(told.some(({ type }) => type === "stuck")).toBe(false);
  await body({
    servesOn: async (name) => {
      armed.value = VALUES[name] as () => unknown;
      for (const way of HANDLER_WAYS) {
        neverStuck();
        told.length = 0;
        await say(port, `${way} ${name}`);
        if (/throw|rejects|getter/.test(way)) await error();
        expect([name, way, await say(port, "ok")]).toEqual([name, way, "done\n"]);
      }
      for (const way of HOOK_WAYS) {
        neverStuck();
        told.length = 0;
        armed.way = way;
        await say(port, "handle-throws null");
        armed.way = null;
        expect([name, way, await say(port, "ok")]).toEqual([name, way, "done\n"]);
        if (!way.endsWith("returns")) await error();
      }
    },
  });
  await server.serverClose();
  await serving;
  expect(server.running).toBe(0);
  neverStuck();
};

describe.each(Object.entries({ TCPServer, ThreadingTCPServer }))("%s", (_, Server) => {
  test.each(NAMES)("serves on, given in every way: %s", (name) =>
    withServer(Server, Hostile, ({ servesOn }) => servesOn(name)),
  );
});

// One server for all of them: a start of a child takes as long as all ways of most values.
test("ForkingTCPServer: serves on, given each value in every way", () =>
  withServer(ForkingTCPServer, handlerFrom(HANDLERS, "Hostile"), async ({ servesOn }) => {
    for (const name of NAMES) await servesOn(name);
  }));

describe("socklet serve", () => {
  const served = (...flags: string[]): Program => {
    const program = start(process.execPath, [...SERVE, "--any-port", ...flags]);
    onTestFinished(() => program[Symbol.asyncDispose]());
    return program;
  };
  const portOf = async (program: Program, name: string): Promise<number> =>
    Number(/:(\d+)\s*$/.exec(await program.line(new RegExp(`^${name} `)))?.[1]);

  test.each([["--no-control"], ["--verbose", "--control-port", "0"]])(
    "%s %s: serves on, whatever its handlers give, serial, side by side and in children",
    async (...flags) => {
      const program = served(...flags.filter((flag) => flag !== undefined));
      for (const listener of ["Hostile", "Serial", "Forking"]) {
        const port = await portOf(program, listener);
        for (const name of NAMES) {
          for (const way of HANDLER_WAYS) await say(port, `${way} ${name}`); // each ends
          expect([name, await say(port, "ok")]).toEqual([name, "done\n"]);
        }
      }
      program.kill("SIGTERM");
      const { code, stderr } = await program.ended;
      expect(code).toBe(0);
      for (const line of stderr.trimEnd().split("\n")) expect(line).toMatch(/^socklet: \P{C}*$/u);
    },
  );

  test("tells of a promise that nobody awaits, whose it was, and serves on", async () => {
    const program = served("--no-control");
    const port = await portOf(program, "Unattended");
    for (const name of NAMES) {
      await say(port, `reject ${name}`);
      expect([name, await say(port, "ok")]).toEqual([name, "done\n"]);
    }
    await say(port, "reject known");
    program.kill("SIGTERM");
    const { code, stderr } = await program.ended;
    const lines = stderr.trimEnd().split("\n");
    expect(lines.filter((line) => line.startsWith("socklet: Unattended  unhandled rejection: ")).length).toBe(
      NAMES.length + 2, // one more of "promise-that-rejects", which does
    );
    expect(lines.at(-1)).toMatch(
      /^socklet: Unattended {2}unhandled rejection: Error: known \(.*hostile-app\.ts:/,
    );
    expect(code).toBe(0);
  });

  test.each(["known", "null", "no-prototype", "error-getters", "revoked-proxy"])(
    "tells of an error that nobody catches, lets what runs finish, and exits with 1: %s",
    async (name) => {
      // Reserved: once the program has closed it, nobody else accepts there.
      const port = await reservePort();
      await using program = start("env", [`UNATTENDED=${port}`, process.execPath, ...SERVE, "--no-control"]);
      await program.line(/^Unattended /);
      const waiting = net.connect(await portOf(program, "Waits"), "127.0.0.1");
      let text = "";
      waiting.setEncoding("utf8").on("data", (more) => {
        text += more;
      });
      await once(waiting, "data");
      await say(port, `throw ${name}`);
      const refused = (): Promise<boolean> =>
        new Promise((resolve) => {
          const socket = net.connect(port, "127.0.0.1");
          socket.once("error", () => resolve(true)).once("connect", () => resolve(false));
          socket.once("connect", () => socket.destroy());
        });
      while (!(await refused())); // it takes no more
      waiting.end();
      await once(waiting, "close");
      expect(text).toBe("ready\nfinished\n");
      const { code, stderr } = await program.ended;
      expect(stderr).toMatch(/^socklet: Unattended {2}uncaught exception: /);
      expect(stderr).toContain("socklet: an uncaught exception: draining 1 running");
      expect(code).toBe(1);
    },
  );
});

test("as JSON, an error that nobody catches is complete", async () => {
  const port = await reservePort();
  const serve = [`UNATTENDED=${port}`, "SOCKLET_LOG=json", process.execPath, ...SERVE, "--no-control"];
  await using program = start("env", serve);
  await program.line(/^Unattended /);
  await say(port, "throw known");
  const { stderr } = await program.ended;
  const lines = stderr
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.find(({ message }) => message?.includes("uncaught exception"))).toMatchObject({
    type: "message",
    message: expect.stringMatching(/uncaught exception: Error: known \(.*hostile-app\.ts:/),
    error: { name: "Error", message: "known", stack: expect.stringContaining("hostile-app.ts:") },
  });
});

describe("context()", () => {
  test.each(NAMES)("that throws %s: serveApp() rejects", async (name) => {
    process.env.HOSTILE_CONTEXT = name;
    onTestFinished(() => {
      delete process.env.HOSTILE_CONTEXT;
    });
    const { app } = await import("./fixtures/hostile-app.ts");
    const opened = await serveApp(app, { anyPort: true }).then(
      () => "opened",
      (error) => {
        disown(error, () => {}); // a promise that was thrown is its caller's
        return "rejected";
      },
    );
    expect(opened).toBe("rejected");
  });

  test.each(["null", "symbol", "no-prototype", "proxy", "error-getters", "error-objects", "large-error"])(
    "that throws %s: socklet serve says what can be said, in one line",
    async (name) => {
      await using program = start("env", [`HOSTILE_CONTEXT=${name}`, process.execPath, ...SERVE]);
      const { code, stderr } = await program.ended;
      expect(stderr).toMatch(/^socklet: \P{C}*\n$/u);
      expect(code).toBe(1);
    },
  );
});

describe("a terminal", () => {
  const STEERING = "a\u009b31m\u001b[2J\u007f\u202eb\u2028\u2066\u200d\ue000c";
  const ESCAPED = "a\\x9b31m\\x1b[2J\\x7f\\u{202e}b\\u{2028}\\u{2066}\\u{200d}\\u{e000}c";
  const STEERS = /[^\n\P{C}]|\p{Zl}|\p{Zp}/u;
  const CLI = SERVE.slice(0, 2);

  test("is not steered by what a peer says: in the log, in a record, in events, as text and as JSON", async () => {
    const told = start("env", ["SOCKLET_TOKENS=abcdefghijklmnop0123", process.execPath, ...SERVE, ...FLAGS]);
    onTestFinished(() => told[Symbol.asyncDispose]());
    const port = Number(/:(\d+)\s*$/.exec(await told.line(/^Repeats /))?.[1]);
    const url = (await told.line(/^control /)).replace(/^control +|\/v1\s*$/g, "");
    const control = async (...args: string[]): Promise<string> => {
      const more = [...args, "--url", url, "--token", "abcdefghijklmnop0123"];
      await using program = start(process.execPath, [...CLI, "sessions", ...more]);
      const { stdout, stderr } = await program.ended;
      expect(stderr).toBe("");
      expect(stdout.toString()).not.toMatch(STEERS);
      return stdout.toString();
    };
    await say(port, STEERING);
    await say(port, `throw ${STEERING}`);
    const { sessions } = JSON.parse(await control("list", "--json"));
    const [failed, ended] = sessions as { id: string }[];
    const { error } = JSON.parse(await control("show", failed?.id ?? "", "--json"));
    expect(error.message).toContain(ESCAPED); // as a SocketError is
    await control("show", failed?.id ?? "");
    const events = (await control("follow", ended?.id ?? "", "--json")).trimEnd().split("\n");
    expect(events.map((line) => JSON.parse(line)).find(({ type }) => type === "handler")).toMatchObject({
      detail: STEERING,
    });
    await control("follow", ended?.id ?? "");
    const headers = { authorization: "Bearer abcdefghijklmnop0123" };
    for (const path of ["/v1/sessions", `/v1/sessions/${failed?.id}`, `/v1/sessions/${ended?.id}/events`]) {
      expect(await (await fetch(url + path, { headers })).text()).not.toMatch(STEERS);
    }
    told.kill("SIGTERM");
    const { stderr } = await told.ended;
    expect(stderr).toContain(ESCAPED);
    expect(stderr).not.toMatch(STEERS);
  });

  test("is not steered by what socklet dial prints: a result, an error", async () => {
    const server = net.createServer((socket) => socket.end(`${STEERING}\n`)).listen(0, "127.0.0.1");
    onTestFinished(() => void server.close());
    await once(server, "listening");
    const { port } = server.address() as net.AddressInfo;
    const dial = async (handler: string) => {
      const args = [...CLI, "dial", `127.0.0.1:${port}`, `${file("./fixtures/hostile-app.ts")}#${handler}`];
      await using program = start(process.execPath, args);
      return await program.ended;
    };
    const given = (await dial("Repeats")).stdout.toString();
    expect(given).not.toMatch(STEERS);
    expect(JSON.parse(given)).toBe(STEERING);
    const { code, stderr } = await dial("Refuses");
    expect(code).toBe(1);
    expect(stderr).toContain("a\\x9b31m");
    expect(stderr).not.toMatch(STEERS);
  });
});
