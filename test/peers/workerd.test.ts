/** The example app in real workerd, as `wrangler deploy` would have it, and third-party clients. */

import { spawnSync } from "node:child_process";
import DNS from "dns2";
import { Redis } from "ioredis";
import { createTransport } from "nodemailer";
import { createClient } from "redis";
import { createConnection, TCPConnector } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { RespClient } from "../../examples/resp.ts";
import { type RunningWorker, runWorker } from "../emulator/workerd.ts";
import { peer } from "./peer.ts";
import { reservePorts } from "./ports.ts";

const ports = await reservePorts(4);
const [mail = 0, resp = 0, dns = 0, transcript = 0] = ports;
let worker: RunningWorker;

beforeAll(async () => {
  worker = await runWorker({
    main: "test/worker/app.ts",
    ports,
    classes: { STORAGE: "SockletStorage", SOCKLET_POOLS: "SockletPool" },
    vars: { PORTS: { mail, resp, dns, transcript } },
  });
});

afterAll(() => worker.close());

/** 1 MB of mail with dots at line starts, in lines of several lengths. */
const body = (): string => {
  const lines = [".", "..", ".dot", "...end", ""];
  for (let size = 0, i = 0; size < 1_000_000; i++) {
    const line = `${".".repeat(i % 4)}line ${i} ${"x".repeat((i * 37) % 900)}`;
    lines.push(line);
    size += line.length + 2;
  }
  return `Subject: dots\r\n\r\n${lines.join("\r\n")}\r\n`;
};

const stored = async (): Promise<string[]> => (await worker.fetch("/blobs")).json() as Promise<string[]>;

const takeMail = async (send: (text: string) => void): Promise<Uint8Array> => {
  const before = new Set(await stored());
  send(body());
  const [name] = (await stored()).filter((blob) => !before.has(blob));
  return new Uint8Array(await (await worker.fetch(`/blobs/${name}`)).arrayBuffer());
};

describe("workerd behind [[connect]]", () => {
  const python = peer("python3");
  test.skipIf(python === null)(
    "Python's smtplib sends a mail of 1 MB: the stored bytes are the sent bytes",
    async () => {
      const program = `
import smtplib, sys
mail = sys.stdin.buffer.read()
with smtplib.SMTP("127.0.0.1", ${mail}, timeout=120) as smtp:
    refused = smtp.sendmail("me@example.com", ["you@example.com"], mail)
    assert refused == {}, refused
`;
      const kept = await takeMail((text) => {
        const { status, stderr } = spawnSync(python as string, ["-c", program], {
          input: text,
          encoding: "utf8",
        });
        expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
      });
      expect(new TextDecoder().decode(kept)).toBe(body());
    },
  );

  const swaks = peer("swaks");
  test.skipIf(swaks === null)("swaks sends the same", async () => {
    const kept = await takeMail((text) => {
      const args = ["--server", `127.0.0.1:${mail}`, "--from", "me@example.com", "--to", "you@example.com"];
      const { status, stdout } = spawnSync(swaks as string, [...args, "--timeout", "120", "--data", "-"], {
        input: text,
        encoding: "utf8",
        maxBuffer: 1 << 26,
      });
      expect({ status, stdout: status === 0 ? "" : stdout.slice(-500) }).toEqual({ status: 0, stdout: "" });
    });
    // swaks adds a line end to what it gets.
    expect(new TextDecoder().decode(kept).trimEnd()).toBe(body().trimEnd());
  });

  const redisCli = peer("redis-cli");
  test.skipIf(redisCli === null)("redis-cli speaks with the RESP server", () => {
    const ask = (...words: string[]): string =>
      spawnSync(redisCli as string, ["-p", String(resp), ...words], { encoding: "utf8" }).stdout.trim();
    expect(ask("ping")).toBe("PONG");
    expect(ask("set", "greeting", "hello, edge")).toBe("OK");
    expect(ask("get", "greeting")).toBe("hello, edge");
    expect([ask("incr", "n"), ask("incr", "n"), ask("del", "n", "greeting"), ask("get", "n")]).toEqual([
      "1",
      "2",
      "2",
      "",
    ]);
  });

  const dig = peer("dig");
  test.skipIf(dig === null)("dig +tcp resolves", () => {
    const args = [
      "@127.0.0.1",
      "-p",
      String(dns),
      "+tcp",
      "+short",
      "+tries=1",
      "+time=120",
      "www.example.test",
    ];
    expect(spawnSync(dig as string, args, { encoding: "utf8" }).stdout).toMatch(/^192\.0\.2\.\d+\n$/);
  });

  test("npm redis and ioredis with their defaults, nodemailer and dns2 are served as in Node", async () => {
    const client = createClient({ socket: { host: "127.0.0.1", port: resp } });
    await client.connect();
    try {
      expect([await client.set("clé", "π"), await client.get("clé"), await client.get("none")]).toEqual([
        ...["OK", "π", null],
      ]);
      expect(await client.clientInfo()).toMatchObject({ resp: 3, libName: "node-redis" });
      expect(await client.configGet("save")).toEqual({ save: "" });
    } finally {
      await client.close();
    }
    const io = new Redis({ port: resp, host: "127.0.0.1", lazyConnect: true });
    await io.connect();
    expect([await io.get("clé"), await io.del("clé"), await io.quit()]).toEqual(["π", 1, "OK"]);

    const transport = createTransport({ host: "127.0.0.1", port: mail, secure: false });
    const { response } = await transport.sendMail({
      from: "josé@example.com",
      to: "用户@example.com",
      text: "π",
    });
    transport.close();
    expect(response).toMatch(/^250 Kept as /);

    const { answers } = await DNS.TCPClient({ dns: "127.0.0.1", port: dns })("many.example.test");
    expect(answers).toHaveLength(100);
  });

  test("our own client, unchanged, gets the same from workerd as from anywhere", async () => {
    const connector = new TCPConnector({ hostname: "127.0.0.1", port: resp }, RespClient);
    const pipeline = Array.from({ length: 500 }, (_, i) => [
      ["SET", `k${i}`, `v${i}`],
      ["GET", `k${i}`],
    ]).flat();
    const replies = (await connector.run({ params: pipeline })) as unknown[];
    expect(replies.length).toBe(1000);
    expect(replies.filter((_, i) => i % 2 === 1)).toEqual(Array.from({ length: 500 }, (_, i) => `v${i}`));
  });

  test("the tutorial's echo transcript", async () => {
    const socket = await createConnection({ hostname: "127.0.0.1", port: transcript });
    expect([
      await socket.send("Hello!"),
      new TextDecoder().decode(await socket.rfile.readexactly(6)),
    ]).toEqual([6, "Hello!"]);
    await socket.close();
  });

  test("health over HTTP", async () => {
    expect(await (await worker.fetch("/v1/health")).json()).toMatchObject({ status: "ok" });
    const shut = await worker.fetch("/v1/nothing"); // it has no token
    expect([shut.status, shut.headers.get("content-type")]).toEqual([503, "application/problem+json"]);
  });
});
