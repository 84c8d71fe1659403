/** How `socklet serve` is stopped, from its first moment on, and what is reported for a start that never completes. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { describe, expect, onTestFinished, test } from "vitest";
import { describeWith, type Program, start } from "../peers/program.ts";
import { untilNothingStoodStill } from "./standstill.ts";

const file = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

const COMMAND = [process.execPath, "--conditions=socklet:source", file("../../emulator/command/cli.ts")];
const SERVED = file("./fixtures/served.ts");
const PATIENT = ["--no-control", "--drain", "300000"]; // the default would cut clients off that stood still for ten seconds
const SERVE = [...COMMAND, "serve", SERVED, ...PATIENT];

/** Without what a command says if its start takes more than three seconds, as on a busy machine. */
const withoutSlow = (stderr: string): string =>
  stderr.replace(/^socklet: .*(?:still being loaded|has not ended yet).*\n/gm, "");

/** Runs `command`, which becomes the process that gets the signals. */
const started = (command: readonly string[], env: Readonly<Record<string, string>> = {}): Program => {
  const set = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const program = start("env", [...set, ...command]);
  onTestFinished(() => program[Symbol.asyncDispose]());
  return program;
};

const folder = async (): Promise<string> => {
  const path = await mkdtemp(join(tmpdir(), "socklet-stop-"));
  onTestFinished(() => rm(path, { recursive: true }));
  return path;
};

/** A client that has read "ready", and its next step. */
const connected = async (to: number | string) => {
  const socket = typeof to === "string" ? net.connect(to) : net.connect(to, "127.0.0.1");
  onTestFinished(() => void socket.destroy());
  socket.setEncoding("utf8").on("error", () => {});
  let text = "";
  socket.on("data", (more) => {
    text += more;
  });
  const ended = once(socket, "close");
  await once(socket, "connect");
  return {
    socket,
    ready: async (): Promise<void> => {
      while (!text.includes("ready\n") && !socket.closed) await Promise.race([once(socket, "data"), ended]);
      expect(text).toBe("ready\n");
    },
    /** Sends a line; returns everything that came, to the end. */
    say: async (line: string): Promise<string> => {
      socket.end(`${line}\n`);
      await ended;
      return text;
    },
  };
};

const portIn = (line: string): number => Number(/:(\d+)\s*$/.exec(line)?.[1]);
const portOf = async (program: Program): Promise<number> => portIn(await program.line(/^WaitsForALine/));

describeWith(["python3"], "SIGHUP on a terminal", () => {
  /** Runs a command on a terminal, to its first listener. */
  const onTerminal = async (...command: string[]) => {
    const program = started(["python3", file("./fixtures/terminal.py"), ...command]);
    const pid = Number((await program.line(/^pid /)).slice(4));
    return { program, pid, port: await portOf(program) };
  };

  const ended = async (program: Program): Promise<number> =>
    Number((await program.line(/^ended /)).slice("ended ".length));

  test("drains when the terminal goes away: what runs is finished, status 0", async () => {
    const { program, port } = await onTerminal(...SERVE);
    const clients = await Promise.all(Array.from({ length: 20 }, () => connected(port)));
    for (const client of clients) await client.ready();
    program.end();
    await program.line(/^gone/);
    for (const client of clients) expect(await client.say("done")).toBe("ready\ndone\n");
    expect(await ended(program)).toBe(0);
  });

  test("sent once more it aborts nothing: a terminal that goes away sends it more than once", async () => {
    const { program, pid, port } = await onTerminal(...SERVE);
    const client = await connected(port);
    await client.ready();
    process.kill(pid, "SIGHUP");
    expect(await program.line(/draining/)).toMatch(
      /^socklet: SIGHUP: draining 1 running, 300000 ms at most; once more to abort\s*$/,
    );
    process.kill(pid, "SIGHUP");
    program.end(); // and the terminal's own
    await program.line(/^gone/);
    expect(await client.say("done")).toBe("ready\ndone\n");
    expect(await ended(program)).toBe(0);
  });

  test("drains a forking server's children, too, which the terminal sends the same", async () => {
    const forking = file("./fixtures/forking-waits.ts");
    const { program, port } = await onTerminal(...COMMAND, "serve", forking, ...PATIENT);
    const clients = await Promise.all(Array.from({ length: 3 }, () => connected(port)));
    for (const client of clients) await client.ready();
    program.end();
    await program.line(/^gone/);
    for (const client of clients) expect(await client.say("done")).toBe("ready\ndone\n");
    expect(await ended(program)).toBe(0);
  });

  // `$1` is a file for the process's id, the rest the command. Its output must come through the terminal.
  const SHOW = "until grep -q : $log; do sleep 0.05; done; cat $log; wait";
  test.each([
    ["its output in a pipe", "sh", 'nohup sh -c \'echo $$ > "$0"; exec "$@"\' "$@" 2>&1 | cat'],
    [
      "its output in nohup.out",
      "sh",
      `pid=$1; shift; cd "\${pid%/*}"; log=nohup.out; touch $log; nohup "$@" & echo $! > "$pid"; ${SHOW}`,
    ],
    ...["sh", "bash"].map((shell) => [
      `all streams elsewhere, by ${shell}`,
      shell,
      `pid=$1; shift; log=$pid.log; nohup "$@" < /dev/null > $log 2>&1 & echo $! > "$pid"; ${SHOW}`,
    ]),
  ])("under nohup it stays ignored: %s", async (_, shell = "", script = "") => {
    const pidFile = join(await folder(), "pid");
    const { program, port } = await onTerminal(shell, "-c", script, shell, pidFile, ...SERVE);
    const pid = Number(readFileSync(pidFile, "utf8"));
    onTestFinished(() => {
      if (existsSync(`/proc/${pid}`)) process.kill(pid, "SIGKILL");
    });
    const before = await connected(port);
    await before.ready();
    program.end();
    await program.line(/^gone/);
    await ended(program); // the shell, which the terminal's end has killed
    process.kill(pid, "SIGHUP");
    const after = await connected(port);
    await after.ready();
    expect(await after.say("still here")).toBe("ready\nstill here\n");
    process.kill(pid, "SIGTERM");
    expect(await before.say("done")).toBe("ready\ndone\n");
  });
});

describe("SIGHUP without a terminal", () => {
  test("reloads, for which there is nothing yet: it says so, and serves on", async () => {
    const program = started(SERVE);
    const port = await portOf(program);
    const before = await connected(port);
    await before.ready();
    program.kill("SIGHUP");
    const after = await connected(port);
    await after.ready();
    expect(await after.say("still here")).toBe("ready\nstill here\n");
    program.kill("SIGTERM");
    expect(await before.say("done")).toBe("ready\ndone\n");
    const { code, stderr } = await program.ended;
    expect(code).toBe(0);
    expect(withoutSlow(stderr)).toMatch(/^socklet: SIGHUP: there is nothing to reload; SIGTERM stops\n/);
  });
});

test("a SIGTERM to npm and to all that it runs, of which npm sends another, is one: what runs is finished", async () => {
  // Half a second after the first signal another one is a person's.
  await untilNothingStoodStill(500, async (timed) => {
    const npm = spawn("npm", ["run", "--silent", "socklet", "--", "serve", SERVED, ...PATIENT], {
      cwd: file("../.."),
      detached: true, // its own process group
      stdio: ["ignore", "pipe", "pipe"],
    });
    const ended = once(npm, "close");
    onTestFinished(async () => {
      npm.kill("SIGKILL");
      await ended;
    });
    const lines = createInterface(npm.stderr)[Symbol.asyncIterator]();
    const said = async (): Promise<string | undefined> => {
      for (;;) {
        const { value, done } = await lines.next();
        if (done || withoutSlow(`${value}\n`) !== "") return value;
      }
    };
    const [listening] = await once(createInterface(npm.stdout), "line");
    const client = await connected(portIn(listening as string));
    await client.ready();
    const talk = async () => {
      process.kill(-(npm.pid as number), "SIGTERM");
      return [await said(), await client.say("done")];
    };
    expect(await timed(talk())).toEqual([
      expect.stringMatching(/^socklet: SIGTERM: draining 1 running/),
      "ready\ndone\n",
    ]);
  });
});

describe("a stop before all is up", () => {
  const OPENS_SLOWLY = [...COMMAND, "serve", file("./fixtures/opens-slowly.ts"), ...PATIENT];

  test.each([
    ["importing", "SIGINT"],
    ["importing", "SIGTERM"],
    ["context", "SIGTERM"],
  ] as const)("while it is %s, by %s: it ends at once, status 0", async (moment, signal) => {
    const listen = join(await folder(), "listen");
    const program = started(OPENS_SLOWLY, { HOLD: moment, LISTEN: listen });
    await program.line(new RegExp(`^${moment}$`));
    program.kill(signal);
    const { code, stderr } = await program.ended;
    expect([code, withoutSlow(stderr)]).toEqual([0, ""]);
    expect(existsSync(listen)).toBe(false);
  });

  test("while a listener is opened: who came to those before is served to the end", async () => {
    const listen = join(await folder(), "listen");
    const program = started(OPENS_SLOWLY, { HOLD: "opening", LISTEN: listen });
    await program.line(/^opening$/);
    const client = await connected(listen);
    program.kill("SIGTERM");
    await client.ready();
    expect(await client.say("done")).toBe("ready\ndone\n");
    const { code, stdout, stderr } = await program.ended;
    expect(code).toBe(0);
    expect(stdout.toString()).toBe("opening\n");
    expect(withoutSlow(stderr)).toBe(
      "socklet: SIGTERM: draining 1 running, 300000 ms at most; once more to abort\n",
    );
    expect(existsSync(listen)).toBe(false);
  });
});

describe("a start that does not end", () => {
  const written = async (name: string, source: string): Promise<string> => {
    const path = join(await folder(), name);
    await writeFile(path, source);
    return path;
  };

  /** A module that has an app; `rest` is its code behind that. */
  const APP = (context: string): string =>
    `import { defineApp, streamHandler } from ${JSON.stringify(file("../../core/index.ts"))};
     export const never = streamHandler(() => new Promise(() => {}));
     export const app = defineApp({
       handlers: { never },
       listen: [{ handler: "never", address: "127.0.0.1:0" }],
       context: () => { ${context} },
     });\n`;

  test("an await at a module's top level that nothing can end: status 2, and why", async () => {
    const path = await written("waits.mjs", "await new Promise(() => {});\n");
    for (const command of [
      ["serve", path],
      ["dial", "127.0.0.1:9", `${path}#Handler`],
    ]) {
      const { code, stderr } = await started([...COMMAND, ...command]).ended;
      expect([code, withoutSlow(stderr)]).toEqual([
        2,
        `socklet: ${path} could not be loaded: an await at its top level waits for something that can no longer happen; \`node ${path}\` shows the line\n`,
      ]);
    }
  });

  test("the same of context()", async () => {
    const path = await written("context.mjs", APP("return new Promise(() => {});"));
    const { code, stderr } = await started([...COMMAND, "serve", path]).ended;
    expect([code, withoutSlow(stderr)]).toEqual([
      2,
      `socklet: ${path}: its context() waits for something that can no longer happen\n`,
    ]);
  });

  test("the same of a dialled handler: status 1", async () => {
    const server = net.createServer((socket) => socket.end()).listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => void server.close());
    const address = `127.0.0.1:${(server.address() as net.AddressInfo).port}`;
    const path = await written("dialled.mjs", APP(""));
    const { code, stderr } = await started([...COMMAND, "dial", address, `${path}#never`]).ended;
    expect([code, withoutSlow(stderr)]).toEqual([
      1,
      `socklet: ${path}#never at ${address}: ERR_HANDLER: its handle() waits for something that can no longer happen\n`,
    ]);
  });

  /** The lines of a command's stderr to the first that matches; then it is stopped, with status 0. */
  const saidAtLength = async (path: string, last = /^socklet: /): Promise<string[]> => {
    const child = spawn(COMMAND[0] as string, [...COMMAND.slice(1), "serve", path], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const ended = once(child, "close");
    onTestFinished(async () => {
      child.kill("SIGKILL");
      await ended;
    });
    const said: string[] = [];
    const reader = createInterface(child.stderr);
    for await (const line of reader) {
      said.push(line);
      if (last.test(line)) break;
    }
    child.stderr.resume();
    child.kill("SIGTERM");
    expect(await ended).toEqual([0, null]);
    return said;
  };

  test.each([
    [
      "goes on",
      "setInterval(() => {}); await new Promise(() => {});",
      "an await at its top level has not ended",
    ],
    [
      "serves by itself",
      'import net from "node:net"; net.createServer().listen(0, "127.0.0.1"); await new Promise(() => {});',
      "it listens itself, and an await at its top level goes on. `node @` runs a program that serves; here a module exports `app`, or handlers, and ends",
    ],
  ])("a module that %s is said to be loading still", async (_, source, says) => {
    const path = await written("goes-on.mjs", `console.error("begun"); ${source}\n`);
    const still = `socklet: ${path} is still being loaded: ${says.replace("@", path)}`;
    // A process that stands still before it has begun the module is late, too, and cannot know yet what that does.
    let said: string[];
    do said = await saidAtLength(path);
    while (said[0] !== "begun");
    expect(said).toEqual(["begun", still]);
  });

  test("and a context() that goes on", async () => {
    const path = await written("slow.mjs", APP("setInterval(() => {}); return new Promise(() => {});"));
    const said = `socklet: ${path}: its context() has not ended yet`;
    expect((await saidAtLength(path, /context\(\)/)).at(-1)).toBe(said); // its module may have been late, too
  });
});
