/**
 * A restart without downtime: SIGUSR2 under load, of one process and of a cluster, with every kind of listener. The suite restarts a
 * few times; `SOCKLET_RESTARTS=100` as often as it says.
 */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { AF_UNIX, SOCK_DGRAM } from "socklet";
import { controlClient } from "socklet/control";
import { socket } from "socklet/emulator";
import { afterAll, describe, expect, test } from "vitest";
import { awaited } from "../awaited.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { peer } from "../peers/peer.ts";
import { reservePort, reservePorts } from "../peers/ports.ts";
import { run } from "../peers/program.ts";
import { ask, Datagrams, pidAt, placeOf, runs } from "./clustered.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const fixture = join(root, "test/emulator/fixtures/clustered.ts");
const restarts = Number(process.env.SOCKLET_RESTARTS ?? 3);
const certificates = ownCertificates();
const folder = mkdtempSync(join(tmpdir(), "socklet-restart-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let programs = 0;

/** `socklet serve`, and whatever takes over from it; they end with the test. */
class Served implements AsyncDisposable {
  readonly folder = join(folder, String(++programs));
  readonly said: string[] = [];
  readonly #child: ChildProcess;
  readonly #pids: number[];
  #look: (() => void)[] = [];
  #at = 0; // the lines of `said` that were checked
  #over = false;

  constructor(
    args: readonly string[],
    {
      module = fixture,
      env = {},
      before = [] as readonly string[],
    }: {
      readonly module?: string;
      readonly env?: NodeJS.ProcessEnv;
      readonly before?: readonly string[];
    } = {},
  ) {
    rmSync(this.folder, { recursive: true, force: true });
    mkdtempSync(`${this.folder}-`);
    const [program = process.execPath, ...more] = before;
    this.#child = spawn(
      program,
      [
        ...more,
        ...(before.length > 0 ? [process.execPath] : []),
        "--conditions=socklet:source",
        "emulator/command/cli.ts",
        ...["serve", module, "--data", join(this.folder, "data"), ...args],
      ],
      {
        cwd: root,
        env: { ...process.env, npm_lifecycle_event: undefined, CLUSTER_FOLDER: folder, ...env },
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    this.#pids = [this.#child.pid as number];
    for (const stream of [this.#child.stdout, this.#child.stderr] as Readable[]) {
      createInterface(stream).on("line", (line) => {
        this.said.push(line);
        this.#wake();
      });
    }
    void once(this.#child, "close").then(() => {
      this.#over = true; // and no successor runs either, since it would hold the same output open
      this.#wake();
    });
  }

  /** The process that serves now. */
  get pid(): number {
    return this.#pids.at(-1) as number;
  }

  /** The next line that matches; each is looked at once. */
  line(pattern: RegExp): Promise<RegExpExecArray> {
    return awaited(this.#find(pattern), () => `a line like ${pattern}; it said:\n${this.said.join("\n")}`);
  }

  async #find(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      for (; this.#at < this.said.length; this.#at++) {
        const found = pattern.exec(this.said[this.#at] as string);
        if (found === null) continue;
        this.#at++;
        return found;
      }
      if (this.#over) throw new Error(`it ended without a line like ${pattern}:\n${this.said.join("\n")}`);
      await new Promise<void>((resolve) => this.#look.push(resolve));
    }
  }

  /** The addresses of the listeners that it printed, in the app's order, and of the control routes. */
  async urls(count: number): Promise<string[]> {
    const urls: string[] = [];
    while (urls.length < count)
      urls.push((await this.line(/ ((?:tcp|tls|udp|http):\/\/\S+|unix:\S+)$/))[1] as string);
    return urls;
  }

  /** Has another process take over; returns the one before. */
  async restart(): Promise<number> {
    const before = this.pid;
    process.kill(before, "SIGUSR2");
    const { input, 1: pid } = await this.line(/process (\d+) serves now|could not start/);
    if (pid === undefined) throw new Error(input); // not the last line of `said`: more may have come since
    this.#pids.push(Number(pid));
    return before;
  }

  /** Another process has taken over, which somebody else asked for. */
  adopt(pid: number): void {
    this.#pids.push(pid);
  }

  /** Resolves when every process of it has ended. */
  async ended(): Promise<void> {
    while (!this.#over) await new Promise<void>((resolve) => this.#look.push(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pid of this.#pids) if (runs(pid)) process.kill(pid, "SIGKILL");
    await this.ended();
  }

  #wake(): void {
    for (const look of this.#look.splice(0)) look();
  }
}

/** Resolves when a process has ended: it is not this one's child. */
const gone = async (pid: number): Promise<void> => {
  while (runs(pid)) await new Promise((resolve) => setTimeout(resolve, 5));
};

describe.each([
  ["one process", []],
  ["two workers", ["--workers", "2"]],
  ["two workers, each with a socket of its own", ["--workers", "2", "--reuse-port"]],
])("SIGUSR2 under load, %s", (_, args) => {
  test("no connection is refused, and no reply is lost", {
    timeout: 300_000 + restarts * 20_000,
  }, async () => {
    const env = {
      CLUSTER_PORT: String(await reservePort()), // it will be refused
      ...(certificates !== null && { CLUSTER_CERTIFICATES: certificates.folder }),
    };
    await using served = new Served(["--control-port", "0", ...args], { env });
    const urls = await served.urls(certificates === null ? 5 : 6);
    const [tcp, udp, streams, datagrams, tls] = urls as [string, string, string, string, string];
    const token = (await served.line(/Bearer (\S+)'/))[1] as string;
    let asked = 0;
    let going = true;
    const failures: unknown[] = [];
    const pids = new Set<number>();
    const load = async (askOne: () => Promise<number>): Promise<void> => {
      while (going) {
        try {
          pids.add(await askOne());
          asked++;
        } catch (error) {
          failures.push(error);
        }
      }
    };
    const client = new Datagrams(udp);
    const onPath = socket(AF_UNIX, SOCK_DGRAM);
    await onPath.bind({ path: `\0socklet-restart-${crypto.randomUUID()}` });
    onPath.settimeout(60_000);
    const loads = [
      ...Array.from({ length: 4 }, () => load(() => pidAt(tcp))),
      ...Array.from({ length: 2 }, () => load(() => pidAt(streams))),
      load(() => client.pid()),
      load(async () => {
        await onPath.sendto("?", { path: datagrams.slice("unix:".length) });
        return Number(Buffer.from((await onPath.recv(100)) ?? []).toString());
      }),
      ...(certificates === null ? [] : [load(() => pidAt(tls, certificates.ca))]),
    ];
    for (let i = 0; i < restarts; i++) {
      const before = await served.restart();
      const enough = asked + 20;
      while (asked < enough && failures.length === 0) await new Promise((resolve) => setImmediate(resolve));
      await gone(before);
    }
    going = false;
    await Promise.all(loads);
    if (process.env.SOCKLET_RESTARTS !== undefined) {
      console.log(
        `${restarts} restarts, ${asked} answers of ${pids.size} processes, ${failures.length} failures`,
      );
    }
    client[Symbol.dispose]();
    await onPath.close();
    expect(failures).toEqual([]);
    expect(asked).toBeGreaterThanOrEqual(restarts * 20);
    expect(pids.size).toBeGreaterThan(restarts); // each of them has served
    const control = controlClient(urls.at(-1) as string, { token }); // at the same port, with the same token
    expect((await control.listeners()).map(({ state }) => state)).toEqual(urls.slice(1).map(() => "serving"));
    const last = served.pid;
    process.kill(last, "SIGTERM");
    await served.ended();
    for (const pid of pids) await gone(pid);
    await expect(pidAt(tcp)).rejects.toThrow("ECONNREFUSED");
    await expect(pidAt(streams)).rejects.toThrow("ENOENT"); // its file is the last one's, and is gone with it
  });
});

test("a serial server serves what waits at it to the end, though another has taken over", async () => {
  await using served = new Served(["--no-control"], { env: { CLUSTER_SERVE: "serial" } });
  const [tcp = ""] = await served.urls(1);
  const first = net.connect(placeOf(tcp));
  first.write("holds the server\n");
  await once(first, "data");
  const waits = ask(tcp); // is accepted, and not read
  await new Promise<void>((resolve) => {
    const last = net.connect(placeOf(tcp), () => resolve(last.destroy() && undefined)); // accepted behind it
  });
  const before = await served.restart();
  expect(await pidAt(tcp)).toBe(served.pid);
  expect(runs(before)).toBe(true);
  first.end();
  expect((await waits).words).toEqual([String(before), "hello"]);
  await gone(before);
});

test("a connection that is older than the drain time is cut, and that is told", async () => {
  await using served = new Served(["--no-control", "--drain", "300"]);
  const [tcp = ""] = await served.urls(1);
  const socket = net.connect(placeOf(tcp)).on("error", () => {});
  socket.write("stays\n");
  await once(socket, "data");
  const cut = new Promise((resolve) => socket.once("close", resolve));
  const before = await served.restart();
  await cut;
  await served.line(/pid {2}127\.0\.0\.1:\d+ {2}ECONNABORTED/);
  await gone(before);
  expect(await pidAt(tcp)).toBe(served.pid);
});

test("a program that does not come to serve is given up, and the one before goes on", async () => {
  const own = join(folder, "own");
  const module = `${own}.ts`;
  copyFileSync(fixture, module);
  writeFileSync(
    module,
    readFileSync(fixture, "utf8").replaceAll('from "socklet"', `from "${join(root, "core/index.ts")}"`),
  );
  await using served = new Served(["--no-control"], { module });
  const [tcp = ""] = await served.urls(1);
  const good = readFileSync(module, "utf8");
  writeFileSync(module, `${good}\nthrow new Error("this version is broken");\n`);
  await expect(served.restart()).rejects.toThrow("ended with exit status 2");
  expect(served.said.join("\n")).toContain("this version is broken");
  expect(await pidAt(tcp)).toBe(served.pid);
  writeFileSync(module, good);
  await gone(await served.restart());
  expect(await pidAt(tcp)).toBe(served.pid);
});

describe("socklet restart", () => {
  /** The registry of one test's servers. */
  const notes = () => ({ XDG_RUNTIME_DIR: mkdtempSync(join(folder, "run-")) });
  const restart = async (env: ReturnType<typeof notes>, ...args: string[]) => {
    const words = ["--conditions=socklet:source", "emulator/command/cli.ts", "restart", ...args];
    const own = `XDG_RUNTIME_DIR=${env.XDG_RUNTIME_DIR}`;
    const { code, stdout, stderr } = await run("env", [own, process.execPath, ...words]);
    return { code, stdout: String(stdout), stderr };
  };

  test("waits until the next program serves, or says why it does not", async () => {
    const env = notes();
    const module = join(folder, "restarted.ts");
    const good = readFileSync(fixture, "utf8").replaceAll(
      'from "socklet"',
      `from "${join(root, "core/index.ts")}"`,
    );
    writeFileSync(module, good);
    await using served = new Served(["--control-port", "0", "--workers", "2"], { module, env });
    await served.line(/Bearer /);
    const done = JSON.parse((await restart(env, "--json")).stdout);
    expect(done).toMatchObject({ before: served.pid, url: expect.stringMatching(/^http:/) });
    served.adopt(done.pid);
    writeFileSync(module, `${good}\nthrow new Error("this version is broken");\n`);
    expect(await restart(env, String(done.pid))).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        new RegExp(`process ${done.pid} goes on, since its new program could not start: .*ended with`),
      ),
    });
    writeFileSync(module, good);
    await gone(done.before); // else there are two to choose from
    const again = await restart(env);
    const [, pid] = /^process (\d+) serves .*restarted\.ts in place of (\d+)\n$/.exec(again.stdout) ?? [];
    expect(again.code).toBe(0);
    served.adopt(Number(pid));
  });

  test.skipIf(process.platform !== "linux")(
    "a process that has the id of a killed server gets no signal",
    async () => {
      const env = notes();
      const stranger = spawn("sleep", ["60"]);
      await once(stranger, "spawn");
      const at = join(env.XDG_RUNTIME_DIR, "socklet");
      const note = {
        pid: stranger.pid,
        since: "1",
        url: "http://127.0.0.1:9",
        token: "t",
        folder,
        app: "app.ts",
      };
      mkdirSync(at, { mode: 0o700 });
      writeFileSync(
        join(at, `${stranger.pid}.json`),
        JSON.stringify({ ...note, restarts: true, before: null }),
      );
      expect(await restart(env)).toMatchObject({ code: 2, stderr: expect.stringContaining("none runs;") });
      expect(runs(stranger.pid as number)).toBe(true);
      stranger.kill();
      expect(await once(stranger, "exit")).toEqual([null, "SIGTERM"]);
    },
  );

  test("a server that does not run is named", async () => {
    const env = notes();
    expect(await restart(env)).toMatchObject({ code: 2, stderr: expect.stringContaining("none runs;") });
    const none = await restart(env, "1");
    expect(none).toMatchObject({ code: 2, stderr: expect.stringContaining("none runs as process 1;") });
  });
});

test("sessions that last go on in the program that takes over, which alone keeps them from then on", async () => {
  const far = net.createServer((socket) => socket.on("error", () => {}).resume()).listen(0, "127.0.0.1");
  await once(far, "listening");
  try {
    const { port } = far.address() as net.AddressInfo;
    await using served = new Served(["--control-port", "0"], {
      env: { CLUSTER_DIALS: `tcp://127.0.0.1:${port}` },
    });
    const url = (await served.line(/(http:\S+)$/))[1] as string;
    const token = (await served.line(/Bearer (\S+)'/))[1] as string;
    const control = controlClient(url, { token });
    const { id } = await control.sessions.start({ dial: "count" });
    const pidOf = async (number: number): Promise<number> => {
      for (;;) {
        try {
          for await (const event of control.sessions.follow(id)) {
            const { connection, pid } = (event.type === "handler" ? event.detail : {}) as Record<
              string,
              number
            >;
            if (connection === number) return pid as number;
          }
        } catch {} // the one before does not know it any more, and the one after not yet
      }
    };
    for (let round = 1; round <= 3; round++) {
      expect(await pidOf(round)).toBe(served.pid);
      await gone(await served.restart());
    }
  } finally {
    far.close();
  }
});

describe.each(["path", "abstract name", "path, by systemd-notify"])("the service manager at a %s", (kind) => {
  const needed = kind.endsWith("notify") && peer("systemd-notify") === null;
  test.skipIf(needed)(
    "is told READY, MAINPID of the next before the first is gone, and STOPPING",
    async () => {
      const at =
        kind === "abstract name"
          ? `\0socklet-notify-${crypto.randomUUID()}`
          : join(folder, `notify-${kind.length}`);
      const manager = socket(AF_UNIX, SOCK_DGRAM);
      await manager.bind({ path: at });
      const told = async (): Promise<string[]> => {
        for (;;) {
          const text = Buffer.from((await manager.recv(1_000)) ?? []).toString();
          if (text !== "BARRIER=1") return text.trim().split("\n"); // systemd-notify asks whether it was read
        }
      };
      const env = {
        NOTIFY_SOCKET: at.replace("\0", "@"),
        ...(kind.endsWith("notify") && { SOCKLET_NATIVE: "off" }),
      };
      await using served = new Served(["--no-control"], { env });
      const [tcp = ""] = await served.urls(1);
      const first = served.pid;
      expect(await told()).toEqual(["READY=1", `MAINPID=${first}`]);
      const client = net.connect(placeOf(tcp)).on("error", () => {});
      client.write("keeps the first alive\n");
      await once(client, "data");
      await served.restart();
      expect(await told()).toEqual(["READY=1", `MAINPID=${served.pid}`]); // from the successor
      expect(await told()).toEqual([`MAINPID=${served.pid}`]); // from the first process, which a manager with NotifyAccess=main accepts
      expect(runs(first)).toBe(true);
      client.destroy();
      await gone(first);
      process.kill(served.pid, "SIGTERM");
      expect(await told()).toEqual(["STOPPING=1"]);
      await served.ended();
      await manager.close();
    },
  );
});

describe.skipIf(peer("systemd-socket-activate") === null)("systemd-socket-activate", () => {
  test.each([[[]], [["--workers", "2"]]])(
    "passes descriptors by their listeners' names, %j",
    async (args) => {
      const port = await reservePort();
      const path = join(folder, `activated-${args.length}.sock`);
      const before = [
        peer("systemd-socket-activate") as string,
        ...["-l", `127.0.0.1:${port}`, "-l", path, "--fdname=pid:pid"],
        ...["CLUSTER_FOLDER", "PATH", "SOCKLET_LOG"].map((name) => `--setenv=${name}`),
      ];
      await using served = new Served(["--no-control", ...args], { before });
      await served.line(/Listening on/);
      // The program is started by the first client, which waits.
      expect(await pidAt(`tcp://127.0.0.1:${port}`)).toBeGreaterThan(0);
      const urls = await served.urls(3);
      expect(urls[0]).toBe(`tcp://127.0.0.1:${port}`);
      expect(urls[2]).toBe(`unix:${path}`);
      expect(await pidAt(urls[2] as string)).toBeGreaterThan(0);
      expect((await ask(`unix:${path}`, "LISTEN")).words[1]).toBe("LISTEN");
    },
  );

  test("a socket that no listener is for is an error that says which there are", async () => {
    const [one, two] = await reservePorts(2);
    const before = [
      ...[peer("systemd-socket-activate") as string, "-l", `127.0.0.1:${one}`, "-l", `127.0.0.1:${two}`],
      ...["CLUSTER_FOLDER", "PATH", "SOCKLET_LOG"].map((name) => `--setenv=${name}`),
    ];
    await using served = new Served(["--no-control"], { before });
    await served.line(/Listening on .* as 4/);
    net.connect(one as number, "127.0.0.1").on("error", () => {});
    await served.line(
      /descriptor 4, "[^"]*", is of tcp at 127\.0\.0\.1:\d+, and no listener that has none yet is for it; the app has: pid \(/,
    );
    await served.ended();
  });
});
