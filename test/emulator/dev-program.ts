/** `socklet dev` as a process, and clients of what it serves: for the tests of the command. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rename, writeFile } from "node:fs/promises";
import net from "node:net";
import { basename, dirname, join } from "node:path";
import { createInterface, type Interface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import { awaited } from "../awaited.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Saves a file by replacing it, as some editors do: a watcher never sees half of it, however long this process stands still. */
export const save = async (path: string, text: string): Promise<void> => {
  const whole = join(dirname(path), `.${basename(path)}~`);
  await writeFile(whole, text);
  await rename(whole, path);
};

/** A command of socklet in a folder. It ends with its test. */
export class Program {
  readonly lines: string[] = [];
  readonly process: ChildProcess;
  readonly exit: Promise<number | null>;
  #look: (() => void)[] = [];
  #exited = false;

  constructor(folder: string, args: readonly string[], nodeArgs: readonly string[] = []) {
    const cli = join(root, "emulator/command/cli.ts");
    this.process = spawn(process.execPath, ["--conditions=socklet:source", ...nodeArgs, cli, ...args], {
      cwd: folder,
      env: {
        ...process.env,
        npm_lifecycle_event: undefined,
        SOCKLET_TOKENS: undefined,
        SOCKLET_URL: undefined,
        SOCKLET_TOKEN: undefined,
        XDG_RUNTIME_DIR: join(folder, "runtime"),
        TMPDIR: folder, // Miniflare's own folder is there, which stays when its process is killed
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      createInterface(stream as Readable).on("line", (line) => {
        this.lines.push(line);
        this.#told();
      });
    }
    this.exit = once(this.process, "close").then(([status]) => {
      this.#exited = true;
      this.#told();
      return status;
    });
    onTestFinished(async () => {
      this.process.kill("SIGKILL");
      await this.exit;
    });
  }

  /** The first line from `from` on that matches. */
  line(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    return awaited(
      this.#find(pattern, from),
      () => `a line like ${pattern}; it said:\n${this.lines.join("\n")}`,
    );
  }

  async #find(pattern: RegExp, from: number): Promise<RegExpExecArray> {
    for (;;) {
      for (const line of this.lines.slice(from)) {
        const found = pattern.exec(line);
        if (found !== null) return found;
      }
      if (this.#exited) throw new Error(`it ended without a line like ${pattern}:\n${this.lines.join("\n")}`);
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }

  /** Saves, and waits for what that prints. */
  async saved(save: Promise<void>, pattern: RegExp): Promise<RegExpExecArray> {
    const from = this.lines.length;
    await save;
    return this.line(pattern, from);
  }

  #told(): void {
    for (const look of this.#look.splice(0)) look();
  }
}

/** A connection that asks a line at a time. It ends with its test. */
export class Client {
  readonly socket: net.Socket;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  constructor(port: number) {
    this.socket = net.connect({ host: "127.0.0.1", port });
    this.#reader = createInterface(this.socket);
    this.#lines = this.#reader[Symbol.asyncIterator]();
    onTestFinished(() => void this.socket.destroy());
  }

  async ask(line: string): Promise<string> {
    this.socket.write(`${line}\n`);
    const { value, done } = await awaited(this.#lines.next(), () => `the answer to ${JSON.stringify(line)}`);
    if (done) throw new Error("the connection was cut");
    return value;
  }

  end(): Promise<unknown> {
    const closed = once(this.socket, "close");
    this.socket.end();
    return closed;
  }
}

/** The answer to one line, on a new connection. */
export const askOnce = async (port: number, line = "?"): Promise<string> => {
  const client = new Client(port);
  const answer = await client.ask(line);
  await client.end();
  return answer;
};
