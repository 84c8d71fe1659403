/** Runs peers: third-party programs. Each has a time limit, and is ended through its own process. */

import { spawn, spawnSync } from "node:child_process";
import type { HandlerClass, SockletEvent, StreamSocket } from "socklet";
import { TCPServer, ThreadingTCPServer } from "socklet/emulator";
import { describe, test } from "vitest";
import { awaited } from "../awaited.ts";
import { tied } from "./children.ts";
import { peer } from "./peer.ts";
import { reservePort } from "./ports.ts";

// ms for a program that must end by itself: less than the limit of a test, so that the failure names the program.
// On an idle machine the longest takes about one second.
const TIMEOUT = 240_000;

/** Tests that need these commands; if one is missing, they are skipped, with a title that says so. */
export const describeWith = (names: readonly string[], title: string, body: () => void): void => {
  const missing = names.filter((name) => peer(name) === null);
  if (missing.length === 0) describe(title, body);
  else test.skip(`${title}: SKIPPED, not on PATH: ${missing.join(", ")}`, () => {});
};

/** Tests that need a Python module, with a Python that has it: the first on `PATH`, or Debian's. */
export const pythonWith =
  (module: string, debian: string) =>
  (title: string, body: (command: string) => void): void => {
    const has = (command: string): boolean => spawnSync(command, ["-c", `import ${module}`]).status === 0;
    const command = ["python3", "/usr/bin/python3"].find(has);
    if (command !== undefined) return void describe(title, () => body(command));
    if (process.env.CI) {
      throw new Error(`no python3 has ${module}; in CI the tests need it (apt-get install ${debian})`);
    }
    test.skip(`${title}: SKIPPED, no python3 has ${module}`, () => {});
  };

/** The result of a program that has ended. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs a program to its end. Rejects if it takes longer than `timeout` ms. */
export const run = async (
  command: string,
  args: readonly (string | number)[],
  input: string | Uint8Array = "",
  timeout: number = TIMEOUT,
): Promise<Ended> => {
  await using program = start(command, args, timeout);
  program.write(input);
  program.end();
  return await program.ended;
};

/** Runs Python; throws its output if it fails. */
export const python = async (
  source: string,
  args: readonly (string | number)[] = [],
  input: string | Uint8Array = "",
  timeout?: number,
  command = "python3",
): Promise<string> => {
  const { code, stdout, stderr } = await run(command, ["-c", source, ...args], input, timeout);
  if (code !== 0) throw new Error(`${command} ended with ${code}: ${stderr}`);
  return stdout.toString();
};

/** A program that runs. */
export interface Program extends AsyncDisposable {
  readonly ended: Promise<Ended>;
  write(input: string | Uint8Array): void;
  /** No more input comes. */
  end(): void;
  /** Sends a signal. */
  kill(signal: NodeJS.Signals): void;
  /** The first line of its output that matches; rejects if it ends before. Each line is looked at once. */
  line(pattern?: RegExp): Promise<string>;
}

/**
 * Starts a program. It runs as long as its scope: leaving that ends it, and so does the end of this process. With `timeout`
 * it is also ended after that many ms, and `ended` rejects.
 */
export const start = (command: string, args: readonly (string | number)[], timeout = 0): Program => {
  const child = tied(spawn(command, args.map(String), { stdio: ["pipe", "pipe", "pipe"] }));
  const output: Buffer[] = [];
  let text = "";
  let stderr = "";
  let more = Promise.withResolvers<void>();
  let over = false;
  const wake = (): void => {
    more.resolve();
    more = Promise.withResolvers<void>();
  };
  child.stdout.on("data", (bytes: Buffer) => {
    output.push(bytes);
    text += bytes.toString("latin1");
    wake();
  });
  child.stderr.on("data", (bytes: Buffer) => {
    stderr += bytes;
  });
  child.stdin.on("error", () => {}); // it ended without reading all: its exit code and output tell
  const ended = new Promise<Ended>((resolve, reject) => {
    const late = (): void => {
      reject(new Error(`${[command, ...args].join(" ")} did not end within ${timeout} ms: ${stderr}`));
      kill("SIGKILL");
    };
    const timer = timeout === 0 ? undefined : setTimeout(late, timeout);
    child.on("error", reject);
    child.on("close", (code) => {
      clearTimeout(timer);
      over = true;
      wake();
      resolve({ code, stdout: Buffer.concat(output), stderr });
    });
  });
  ended.catch(() => {});
  // By its number: `kill()` of Deno's child processes works once.
  const kill = (signal: NodeJS.Signals): void => {
    if (!over && child.pid !== undefined && child.exitCode === null && child.signalCode === null)
      process.kill(child.pid, signal);
  };
  const find = async (pattern: RegExp): Promise<string> => {
    for (;;) {
      for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n")) {
        const line = text.slice(0, at);
        text = text.slice(at + 1);
        if (pattern.test(line)) return line;
      }
      if (over) throw new Error(`${command} ended before it said ${pattern}: ${stderr}`);
      await more.promise;
    }
  };
  return {
    ended,
    write: (input) => void child.stdin.write(input),
    end: () => void child.stdin.end(),
    kill,
    line: (pattern = /^/) =>
      awaited(find(pattern), () => {
        const said = `${Buffer.concat(output)}${stderr}`;
        return `a line like ${pattern} of ${[command, ...args].join(" ")}, which said:\n${said.slice(-10_000)}`;
      }),
    async [Symbol.asyncDispose]() {
      kill("SIGKILL");
      await ended.catch(() => {});
    },
  };
};

/** Redis itself. */
export const redis = async (...more: readonly string[]): Promise<{ port: number; program: Program }> => {
  const port = await reservePort();
  const options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", "/tmp"];
  const program = start("redis-server", ["--port", port, ...options, ...more]);
  await program.line(/Ready to accept connections/);
  return { port, program };
};

/** A server on a real socket, and its events. */
export const listen = async <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  context?: Context,
  serving: "threading" | "serial" = "threading",
) => {
  const Server = serving === "serial" ? TCPServer<Context> : ThreadingTCPServer<Context>;
  const events: SockletEvent[] = [];
  const server = new Server("127.0.0.1:0", Handler, {
    ...(context !== undefined && { context }),
    onEvent: (event) => events.push(event),
  });
  const address = await server.listen();
  if (address === null || address.family === "unix") throw new Error("it listens on no port");
  return {
    server,
    host: address.hostname,
    port: address.port,
    events,
    told: () => events.flatMap((event) => (event.type === "handler" ? [event.detail] : [])),
    errors: () => events.flatMap((event) => (event.type === "error" ? [event.error] : [])),
    [Symbol.asyncDispose]: () => server.serverClose(),
  };
};

/** The same, and it serves. */
export const serve = async <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  context?: Context,
  serving?: "threading" | "serial",
) => {
  const place = await listen(Handler, context, serving);
  void place.server.serveForever();
  return place;
};
