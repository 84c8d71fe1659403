/** How a listener listens: its queue in the kernel, keep-alive of its connections, and the file of a path. */

import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatagramRequestHandler, defineApp, StreamRequestHandler, streamHandler } from "socklet";
import {
  ForkingTCPServer,
  handlerFrom,
  serveApp,
  ThreadingTCPServer,
  ThreadingUDPServer,
  ThreadingUnixDatagramServer,
  ThreadingUnixStreamServer,
} from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { runtime } from "../../emulator/runtime.ts";
import { describeWith, type Program, run, start } from "../peers/program.ts";
import { forks } from "./runtime-rows.ts";

const Nothing = streamHandler(() => {});
class Packet extends DatagramRequestHandler {}

const folderOfTest = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "socklet-listening-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
};

/** A server in another process, and its first output. */
const served = async (at: string, options: object, how = "", env: Record<string, string> = {}) => {
  const program: Program = start("env", [
    ...Object.entries(env).map(([name, value]) => `${name}=${value}`),
    process.execPath,
    "--conditions=socklet:source",
    "test/emulator/fixtures/listens.ts",
    at,
    JSON.stringify(options),
    how,
  ]);
  onTestFinished(() => program[Symbol.asyncDispose]());
  return { program, said: JSON.parse(await program.line()) };
};

/** Connects; resolves to the socket, or rejects with the kernel's error. */
const connected = async (to: net.NetConnectOpts): Promise<net.Socket> => {
  const socket = net.connect(to);
  onTestFinished(() => void socket.destroy());
  await once(socket, "connect");
  return socket;
};

const heard = async (socket: net.Socket): Promise<string> =>
  String(((await once(socket, "data")) as [Buffer])[0]);

describe.skipIf(runtime === "Bun")("backlog", () => {
  test("of a path: what is over it is told EAGAIN, and what waits is served", async () => {
    const path = join(folderOfTest(), "s");
    const { program } = await served(`unix:${path}`, { backlog: 2 }, "block");
    const waiting: net.Socket[] = [];
    let error: unknown;
    while (error === undefined && waiting.length < 10) {
      await connected({ path }).then(
        (socket) => waiting.push(socket),
        (why) => {
          error = why;
        },
      );
    }
    expect(error).toMatchObject({ code: "EAGAIN" });
    if (runtime === "Deno") expect(waiting.length).toBeLessThan(10);
    else expect(waiting.length).toBe(3); // Linux lets one more wait
    program.write("\n");
    for (const socket of waiting) expect(await heard(socket)).toBe("hello\n");
  });

  describeWith(["ss"], "of a port, as ss shows it", () => {
    test("what is over it is served when there is room again", async () => {
      const { program, said } = await served("127.0.0.1:0", { backlog: 2 }, "block");
      const { port } = said as { port: number };
      const at = { host: "127.0.0.1", port };
      const waiting = [await connected(at), await connected(at), await connected(at)];
      const late = connected(at);
      const { stdout } = await run("ss", ["-Hltn", `sport = :${port}`]);
      expect(String(stdout)).toMatch(/^LISTEN +3 +2 /);
      program.write("\n");
      for (const socket of [...waiting, await late]) expect(await heard(socket)).toMatch(/^[\d?]/);
    });
  });
});

describeWith(["ss"], "keepAlive", () => {
  // Until the client's kernel has acknowledged what was sent, ss shows the timer of that instead.
  const KEEPALIVE = /timer:\(keepalive,11[56]min,0\)/;
  const timers = async (port: number): Promise<string> => {
    const { stdout } = await run("ss", ["-Htno", "state", "established", `sport = :${port}`]);
    return String(stdout);
  };

  test.each([{}, { SOCKLET_INTAKE: "off" }])("%j", async (env) => {
    const { said } = await served("127.0.0.1:0", { keepAlive: 7_000_000 }, "", env as Record<string, string>);
    const { port } = said as { port: number };
    const asked = runtime === "Node" ? "1 7000\n" : "? ?\n"; // koffi reads them
    expect(await heard(await connected({ host: "127.0.0.1", port }))).toBe(asked);
    await expect.poll(() => timers(port)).toMatch(KEEPALIVE);
  });

  test("without it there is none", async () => {
    const { said } = await served("127.0.0.1:0", {});
    const { port } = said as { port: number };
    expect(await heard(await connected({ host: "127.0.0.1", port }))).toMatch(/^[0?] /);
    await expect.poll(() => timers(port)).not.toContain("timer");
  });

  test.runIf(forks)("in a forking server", async () => {
    const forking = new ForkingTCPServer(
      "127.0.0.1:0",
      handlerFrom(import.meta.url.replace("listening.test.ts", "fixtures/served.ts"), "WaitsForALine"),
      { keepAlive: 7_000_000 },
    );
    onTestFinished(() => forking.serverClose());
    const at = (await forking.listen()) as { port: number };
    void forking.serveForever();
    const socket = await connected({ host: "127.0.0.1", port: at.port });
    await heard(socket);
    await expect.poll(() => timers(at.port)).toMatch(KEEPALIVE);
    socket.end("done\n");
  });

  test("in an app", async () => {
    class Waits extends StreamRequestHandler {
      override async handle() {
        this.wfile.write("ready\n");
        await this.rfile.read();
      }
    }
    const backlog = runtime === "Bun" ? {} : { backlog: 7 };
    const listen = [
      { handler: "waits", address: "127.0.0.1:0", options: { keepAlive: 7_000_000, ...backlog } },
    ];
    const app = await serveApp(defineApp({ handlers: { waits: Waits }, listen }));
    onTestFinished(() => app.close());
    const port = Number(new URL(String(app.listeners[0]?.url)).port);
    const other = await connected({ host: "127.0.0.1", port });
    await heard(other);
    await expect.poll(() => timers(port)).toMatch(KEEPALIVE);
    expect(String((await run("ss", ["-Hltn", `sport = :${port}`])).stdout)).toMatch(
      new RegExp(`^LISTEN +0 +${runtime === "Bun" ? 512 : 7} `),
    );
    other.end();
  });
});

describe("the file of a path", () => {
  const privileged = process.geteuid?.() === 0;
  const [uid = 0, gid = 0] = [process.geteuid?.(), process.getegid?.()];
  const bits = (path: string): number => statSync(path).mode & 0o777;

  test("has its mode, owner and group, of streams and of datagrams", async () => {
    const folder = folderOfTest();
    const whose = privileged ? { owner: 65_534, group: 65_533 } : { owner: uid, group: gid };
    for (const [name, mode] of [
      ["s", 0o600],
      ["t", 0o666],
    ] as const) {
      await using streams = new ThreadingUnixStreamServer(`unix:${folder}/${name}`, Nothing, {
        mode,
        ...whose,
      });
      await streams.listen();
      const holds = (path: string): void => {
        expect(bits(path)).toBe(mode);
        expect(statSync(path)).toMatchObject({ uid: whose.owner, gid: whose.group });
      };
      holds(`${folder}/${name}`);
      if (runtime !== "Node") continue; // datagrams on a path are Node's
      await using datagrams = new ThreadingUnixDatagramServer(`unix:${folder}/${name}d`, Packet, {
        mode,
        ...whose,
      });
      await datagrams.listen();
      holds(`${folder}/${name}d`);
    }
  });

  test("has them in an app, whose names are those of the system", async () => {
    const path = join(folderOfTest(), "s");
    const options = { mode: 0o640, ...(privileged && { owner: "daemon", group: "daemon" }) };
    const app = defineApp({
      handlers: { nothing: Nothing },
      listen: [{ handler: "nothing", address: `unix:${path}`, options }],
    });
    await using _ = await serveApp(app);
    expect(bits(path)).toBe(0o640);
    if (privileged) expect(statSync(path)).toMatchObject({ uid: 1, gid: 1 }); // as on every Debian
  });

  test("another owner takes privileges: without them it is an error, and nothing is left", async () => {
    const folder = folderOfTest();
    if (privileged) await run("chown", ["65534", folder]);
    const at = `unix:${folder}/s`;
    const { said } = await served(at, { owner: 1 }, privileged ? "65534" : String(uid));
    expect(said).toEqual({
      code: "EPERM",
      message: `EPERM: ${at}: this process (user ${privileged ? 65_534 : uid}) may not give the file to user 1: changing the owner needs CAP_CHOWN; changing the group needs that, or membership in it`,
    });
    expect(existsSync(`${folder}/s`)).toBe(false);
  });
});

test("what cannot be is an error where it is given", () => {
  const unix = (options: object) => new ThreadingUnixStreamServer("unix:/run/none", Nothing, options);
  const tcp = (options: object) => new ThreadingTCPServer("127.0.0.1:0", Nothing, options);
  const entry = (address: string, options: object) =>
    defineApp({ handlers: { nothing: Nothing }, listen: [{ handler: "nothing", address, options }] });
  for (const make of [unix, (options: object) => entry("unix:/run/none", options)]) {
    expect(() => make({ mode: 660 })).toThrow("mode must be 0 to 0o777, such as 0o660, not 0o1224 (660)");
    expect(() => make({ owner: "" })).toThrow('owner must be a name or a number, not ""');
    expect(() => make({ group: -1 })).toThrow("group must be a whole number of 0 or more, not -1");
    expect(() => make({ keepAlive: 1_000 })).toThrow(
      /has no option keepAlive \(it is an option of a server of TCP connections\)/,
    );
  }
  for (const make of [
    tcp,
    (options: object) => entry("127.0.0.1:0", options),
    (options: object) => entry("tls://127.0.0.1:0", options),
  ]) {
    expect(() => make({ keepAlive: 1_500 })).toThrow(
      /keepAlive must be whole seconds in milliseconds, 1000 to 32767000/,
    );
    expect(() => make({ keepAlive: 40_000_000 })).toThrow(/keepAlive must be whole seconds/);
    expect(() => make({ keepAlive: true })).toThrow("keepAlive must be a number");
    expect(() => make({ backlog: 0 })).toThrow("backlog must be a whole number of 1 or more, not 0");
    expect(() => make({ mode: 0o600 })).toThrow(
      /has no option mode \(it is an option of a server on a path\)/,
    );
  }
  expect(() => unix({ owner: "nobody-of-this-name" })).toThrow(
    'owner is "nobody-of-this-name", which is not a name in /etc/passwd: give the number of a user',
  );
  expect(() => new ThreadingUnixStreamServer("unix:\0none", Nothing, { mode: 0o600 })).toThrow(
    "mode, owner and group are for a file, and an abstract name has none",
  );
  expect(() => new ThreadingUDPServer("127.0.0.1:0", Packet, { backlog: 5 } as never)).toThrow(
    /has no option backlog/,
  );
});
