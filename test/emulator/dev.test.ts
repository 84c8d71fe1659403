/** `npm run dev`, as a process: what it prints, its token, and that it leaves nothing behind, however npm ends. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { isAlive } from "../peers/alive.ts";
import { reservePort } from "../peers/ports.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A process as /proc shows it; `null` if it is gone. */
const processAt = (pid: string): { readonly group: number; readonly command: string } | null => {
  try {
    const [, , group] = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
    if (!isAlive(Number(pid))) return null;
    return { group: Number(group), command: readFileSync(`/proc/${pid}/cmdline`, "utf8") };
  } catch {
    return null;
  }
};

const processes = () =>
  readdirSync("/proc").flatMap((name) => (/^\d+$/.test(name) ? (processAt(name) ?? []) : []));

const refuses = async (port: number): Promise<boolean> => {
  const socket = net.connect({ host: "127.0.0.1", port });
  const open = await new Promise<boolean>((resolve) => {
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
  });
  socket.destroy();
  return !open;
};

/** `npm run dev` with its own Worker, ready. */
interface Dev {
  readonly npm: ChildProcess;
  readonly lines: readonly string[];
  readonly port: number;
  /** Of wrangler and what it started. */
  readonly group: number;
  readonly url: string;
}

describe.skipIf(process.platform !== "linux")("npm run dev", () => {
  let folder: string;

  beforeAll(async () => {
    mkdirSync(join(root, ".wrangler"), { recursive: true });
    folder = await mkdtemp(join(root, ".wrangler", "dev-test-")); // in the package, whose name its app imports
    await writeFile(
      join(folder, "main.ts"),
      `import { workerFor } from "socklet/worker";
       import { app } from "./app.ts";
       const worker = workerFor(app);
       export class SockletSession extends worker.Session {}
       export class SockletRegistry extends worker.Registry {}
       export default worker;\n`,
    );
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** The app and its Worker, on this port. */
  const write = async (port: number): Promise<void> => {
    await writeFile(
      join(folder, "app.ts"),
      `import { defineApp } from "socklet";
       import { Echo, EchoDatagram } from ${JSON.stringify(join(root, "examples/echo.ts"))};
       export const app = defineApp({
         handlers: { Echo, EchoDatagram },
         listen: [
           { handler: "Echo", address: "tcp://127.0.0.1:${port}", try: "nc {host} {port}" },
           { handler: "EchoDatagram", address: "udp://127.0.0.1:${port}" },
         ],
       });\n`,
    );
    await writeFile(
      join(folder, "wrangler.toml"),
      `name = "dev-test"
       main = "main.ts"
       compatibility_date = "2026-10-01"
       alias = { "socklet" = "${root}/core/index.ts", "socklet/worker" = "${root}/worker/index.ts" }
       connect = [{ protocol = "tcp", port = ${port} }]
       durable_objects.bindings = [
         { name = "SOCKLET_SESSIONS", class_name = "SockletSession" },
         { name = "SOCKLET_REGISTRY", class_name = "SockletRegistry" },
       ]
       migrations = [{ tag = "v1", new_sqlite_classes = ["SockletSession", "SockletRegistry"] }]\n`,
    );
  };

  const started = async (port: number, control: number): Promise<Dev | null> => {
    await write(port);
    const config = join(folder, "wrangler.toml");
    const args = [
      "--app",
      join(folder, "app.ts"),
      "--config",
      config,
      "--port",
      String(control),
      "--inspector-port",
      "0",
    ];
    const npm = spawn("npm", ["run", "dev", "--", ...args], {
      cwd: root,
      detached: true, // a process group, which can be killed as a whole
      stdio: ["ignore", "pipe", "pipe"],
    });
    onTestFinished(() => {
      try {
        process.kill(-(npm.pid as number), "SIGKILL"); // upon which all ends
      } catch {
        // it has ended
      }
    });
    const lines: string[] = [];
    const out = createInterface(npm.stdout as Readable).on("line", (line) => lines.push(line));
    let stderr = "";
    (npm.stderr as Readable).on("data", (text) => {
      stderr += text;
    });
    const ended = once(npm, "close").then(() => "ended" as const);
    while (!lines.some((line) => line.includes("curl"))) {
      if ((await Promise.race([once(out, "line"), ended])) !== "ended") continue;
      if (/Address already in use/.test(stderr)) return null;
      throw new Error(`it ended: ${lines.join("\n")}\n${stderr}`);
    }
    const wrangler = processes().find(
      ({ command }) => command.includes("wrangler.js") && command.includes(config),
    );
    const url = /^control +(\S+)$/m.exec(lines.join("\n"))?.[1] ?? "";
    if (wrangler === undefined) throw new Error("there is no process of wrangler's");
    return { npm, lines, port, group: wrangler.group, url };
  };

  /** `[[connect]]` takes no port 0, so that somebody may take ours first: then another is tried. */
  const start = async (): Promise<Dev> => {
    for (let tries = 0; tries < 5; tries++) {
      const dev = await started(await reservePort(), await reservePort());
      if (dev !== null) return dev;
    }
    throw new Error("wrangler found no port");
  };

  const left = ({ group }: Dev): string[] =>
    processes().flatMap((one) => (one.group === group ? [one.command.replaceAll("\0", " ")] : []));

  const expectNothingLeft = async (dev: Dev): Promise<void> => {
    while (left(dev).length > 0) await new Promise((resolve) => setTimeout(resolve, 20)); // their end has no event
    expect(await refuses(dev.port)).toBe(true);
    expect(await refuses(Number(new URL(dev.url).port))).toBe(true);
  };

  test("makes a token, prints the listeners, and a line for the control routes that works; a SIGTERM to npm ends all", async () => {
    const dev = await start();
    const { lines, port, url } = dev;
    try {
      const vars = join(folder, ".dev.vars");
      const token = /^SOCKLET_TOKENS=([\w-]{32})$/m.exec(readFileSync(vars, "utf8"))?.[1];
      expect(statSync(vars).mode & 0o777).toBe(0o600);
      expect(lines.find((line) => line.startsWith("dev: "))).toMatch(
        /\.dev\.vars was created, with a token for the control routes$/,
      );
      const at = lines.findIndex((line) => line.startsWith("Echo"));
      expect(lines.slice(at, at + 4)).toEqual([
        `Echo     tcp://127.0.0.1:${port}`,
        `         nc 127.0.0.1 ${port}`,
        `control  ${url}`,
        `         curl -H 'Authorization: Bearer ${token}' ${url}/sessions`,
      ]);
      const authorization = `Bearer ${token}`;
      expect((await fetch(`${url}/sessions`)).status).toBe(401);
      expect((await fetch(`${url}/sessions`, { headers: { authorization } })).status).toBe(200);
      const client = net.connect(port, "127.0.0.1").setEncoding("utf8");
      client.end("hello\n");
      expect((await once(client, "data"))[0]).toBe("hello\n");
      expect(left(dev).length).toBeGreaterThan(2); // wrangler twice, and workerd
    } finally {
      dev.npm.kill("SIGTERM");
    }
    await once(dev.npm, "close");
    expect(left(dev)).toEqual([]);
    await expectNothingLeft(dev);
  });

  test.each([
    ["npm alone", (pid: number) => pid],
    ["npm and its script", (pid: number) => -pid],
  ])("a SIGKILL to %s ends all, too; the token stays, and is printed once", async (_, target) => {
    const dev = await start();
    process.kill(target(dev.npm.pid as number), "SIGKILL");
    expect(dev.lines.join("\n")).toMatch(/Bearer <a token of \.dev\.vars>'/);
    await expectNothingLeft(dev);
  });
});
