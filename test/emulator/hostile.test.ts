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
import { type Program, start } from "../peers/program.ts";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const HANDLERS = new URL("./fixtures/hostile-app.ts", import.meta.url);
const SERVE = [
  "--conditions=socklet:source",
  file("../../emulator/cli.ts"),
  "serve",
  file("./fixtures/hostile-app.ts"),
];
const TIMEOUT = 300_000; // ms: one program does many things
const NAMES = Object.keys(VALUES);

/** All that a server says to a client that says one line, to the end of the connection, whatever that is. */
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

const servers = {
  TCPServer: () => [TCPServer, Hostile] as const,
  ThreadingTCPServer: () => [ThreadingTCPServer, Hostile] as const,
  ForkingTCPServer: () => [ForkingTCPServer, handlerFrom(HANDLERS, "Hostile")] as const,
};

describe.each(Object.entries(servers))("%s", (_, make) => {
  test.each(NAMES)("serves on, given in every way: %s", async (name) => {
    const armed: Armed = { way: null, value: VALUES[name] as () => unknown };
    const told: SockletEvent[] = [];
    let more = Promise.withResolvers<void>();
    const listener = hostileListener(armed, told);
    const onEvent = (event: SockletEvent): unknown => {
      queueMicrotask(() => more.resolve()); // what it fails at is told, too
      return listener(event);
    };
    /** When an error has been told: a child's is after its connection has ended. */
    const error = async (): Promise<void> => {
      while (!told.some(({ type }) => type === "error")) {
        await more.promise;
        more = Promise.withResolvers();
      }
    };
    const [Server, Handler] = make();
    const Hooked = withHostileHooks(Server, armed) as typeof ThreadingTCPServer;
    const server = new Hooked("127.0.0.1:0", Handler as typeof Hostile, {
      onEvent: onEvent as OnEvent,
    });
    await server.listen();
    const serving = server.serveForever();
    const { port } = server.serverAddress as { port: number };
    for (const way of HANDLER_WAYS) {
      told.length = 0;
      await say(port, `${way} ${name}`);
      if (/throw|rejects|getter/.test(way)) await error();
      expect([way, await say(port, "ok")]).toEqual([way, "done\n"]);
    }
    for (const way of HOOK_WAYS) {
      told.length = 0;
      armed.way = way;
      await say(port, "handle-throws null");
      armed.way = null;
      expect([way, await say(port, "ok")]).toEqual([way, "done\n"]);
      if (!way.endsWith("returns")) await error();
    }
    await server.serverClose();
    await serving;
    expect(server.running).toBe(0);
    expect(told.some(({ type }) => type === "stuck")).toBe(false);
  });
});

describe("socklet serve", () => {
  const served = (...flags: string[]): Program => {
    const program = start(process.execPath, [...SERVE, "--any-port", ...flags], TIMEOUT);
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
    TIMEOUT,
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
      const program = served("--no-control");
      const port = await portOf(program, "Unattended");
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
      await using program = start("env", [`HOSTILE_CONTEXT=${name}`, process.execPath, ...SERVE], TIMEOUT);
      const { code, stderr } = await program.ended;
      expect(stderr).toMatch(/^socklet: \P{C}*\n$/u);
      expect(code).toBe(1);
    },
  );
});
