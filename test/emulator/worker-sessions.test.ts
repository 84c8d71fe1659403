/** Sessions of a Worker in real workerd, asked over HTTP, with real servers on the other end. */

import net from "node:net";
import { formatAddress, type InternetAddress, streamHandler } from "socklet";
import type { ControlPlane, SessionInfo, SessionPage } from "socklet/control";
import { TCPConnector, ThreadingTCPServer } from "socklet/emulator";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PostgresClient } from "../../examples/postgres.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { ownCertificates } from "../peers/certificates.ts";
import { ownAddress } from "../peers/ports.ts";
import { describeWith, start as startProgram, redis as startRedis } from "../peers/program.ts";
import { fullBacklog, postgres, postgresCommand, postgresPassword, smtp } from "../peers/servers.ts";
import { type RunningWorker, runWorker } from "./workerd.ts";

const TOKEN = "abcdefghijklmnop0123";
let worker: RunningWorker;

/** A server behind proxies: it sends each client the address that the proxy reported. */
const proxied = async (tls?: object) => {
  const Tells = streamHandler(({ request, clientAddress, wfile }) => {
    wfile.write(
      `${formatAddress(clientAddress)} ${request.proxy?.command} ${request.tls?.version ?? "plain"}\n`,
    );
  });
  const server = new ThreadingTCPServer(await ownAddress(), Tells, {
    proxyProtocol: { from: ["127.0.0.1"], timeout: 60_000 }, // its peers may stand still
    ...(tls && { tls: tls as never }),
  });
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  closing.push(() => server.serverClose());
  return port;
};
const closing: (() => Promise<void>)[] = [];
const made = ownCertificates();

beforeAll(async () => {
  worker = await runWorker({
    main: "test/worker/sessions-main.ts",
    ports: [],
    classes: { SOCKLET_SESSIONS: "SockletSession", SOCKLET_REGISTRY: "SockletRegistry" },
    vars: {
      SOCKLET_TOKENS: TOKEN,
      PROXIED: `127.0.0.1:${await proxied()}`,
      ...(made && { PROXIED_TLS: `localhost:${await proxied({ cert: made.cert, key: made.key })}` }),
      ALLOW: ["127.0.0.1:*", "localhost:*", "allowed.example:80", "*.below.example:80", "192.0.2.0/28:80"],
    },
  });
});

afterAll(async () => {
  await worker.close();
  for (const close of closing) await close();
});

test.each<readonly [dial: string, said: string]>([
  ["proxied", "192.0.2.1:56324 PROXY plain"],
  ...(made === null ? [] : [["proxiedTls", "192.0.2.1:56324 PROXY TLSv1.3"] as const]),
])("an entry of dial sends a PROXY protocol header first: %s", async (dial, said) => {
  const { id, ...ran } = await run({ dial });
  expect(ran).toMatchObject({ state: "ended", result: 1 });
  const { stdout } = await curl(id).ended;
  expect(String(stdout)).toContain(said);
});

const headers = { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" };

const ask = async (
  path: string,
  body?: unknown,
  method?: string,
): Promise<{ status: number; body: never }> => {
  const answer = await worker.fetch(`/v1/${path}`, {
    headers,
    method: method ?? (body === undefined ? "GET" : "POST"),
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  return { status: answer.status, body: (await answer.json()) as never };
};

type Spec = Partial<Parameters<ControlPlane["start"]>[0]>;

/** Runs one to its end. */
const run = async (spec: Spec): Promise<SessionInfo> => (await ask("sessions", spec)).body;
const background = async (spec: Spec): Promise<SessionInfo> =>
  (await ask("sessions", { ...spec, background: true })).body;
const get = async (id: string): Promise<SessionInfo> => (await ask(`sessions/${id}`)).body;
const list = async (query = ""): Promise<SessionPage> => (await ask(`sessions${query}`)).body;

/** Follows a session's events as a person would. */
const curl = (id: string) =>
  startProgram("curl", [
    ...["-sN", "--fail-with-body", "-H", `Authorization: Bearer ${TOKEN}`],
    `${worker.url}/v1/sessions/${id}/events`,
  ]);

const redis = async () => {
  const { port, program } = await startRedis();
  return { port, [Symbol.asyncDispose]: () => program[Symbol.asyncDispose]() };
};

describeWith(["redis-server", "curl"], "sessions with redis-server", () => {
  test("a command is run, and its reply is the result", async () => {
    await using server = await redis();
    const address = `127.0.0.1:${server.port}`;
    const ran = await run({
      handler: "respClient",
      address,
      params: [
        ["SET", "k", "π"],
        ["GET", "k"],
      ],
    });
    expect(ran).toMatchObject({ state: "ended", peer: address, result: ["OK", "π"], error: null });
    expect(await get(ran.id)).toEqual(ran);
  });

  test("fifty at once", async () => {
    await using server = await redis();
    const spec = { handler: "respClient", address: `127.0.0.1:${server.port}`, params: ["INCR", "n"] };
    const all = await Promise.all(Array.from({ length: 50 }, () => run(spec)));
    const results = all.map(({ result }) => result as number).sort((a, b) => a - b);
    expect(results).toEqual(Array.from({ length: 50 }, (_, i) => i + 1));
  });

  test("a subscriber in the background is listed, followed, sent to and ended from other requests", async () => {
    await using server = await redis();
    const address = `127.0.0.1:${server.port}`;
    const { id } = await background({ handler: "subscriber", address, params: "news" });
    await using following = curl(id);
    await following.line(/"subscribe"/);
    expect((await list("?state=running")).sessions).toMatchObject([
      { id, handler: "subscriber", state: "running" },
    ]);
    const said = await run({ handler: "respClient", address, params: ["PUBLISH", "news", "it is snowing"] });
    expect(said.result).toBe(1);
    await following.line(/"message","\[redacted\]","it is snowing"/); // the channel is a text of its params
    await ask(`sessions/${id}/data`, { text: "PING\r\n" });
    await following.line(/"pong"/);
    const ended = await ask(`sessions/${id}`, undefined, "DELETE");
    expect(ended).toMatchObject({ status: 200, body: { state: "cut", error: { code: "ECANCELED" } } });
    await following.line(/^event: cut/);
    expect((await following.ended).code).toBe(0);
    await using late = curl(id); // a later follower sees all events
    await late.line(/it is snowing/);
    expect((await late.ended).code).toBe(0);
    const clients = () => run({ handler: "respClient", address, params: ["PUBSUB", "NUMSUB", "news"] });
    await expect.poll(async () => (await clients()).result).toEqual(["news", 0]); // Redis has seen it go
  });

  test("the server is killed: the record says so", async () => {
    await using server = await redis();
    const { id } = await background({
      handler: "subscriber",
      address: `127.0.0.1:${server.port}`,
      params: "news",
    });
    await using following = curl(id);
    await following.line(/"subscribe"/);
    await server[Symbol.asyncDispose]();
    await following.line(/^event: failed/);
    expect(await get(id)).toMatchObject({ state: "failed", error: { code: "ECONNRESET" } });
    expect((await list("?state=failed&limit=1")).sessions).toMatchObject([{ id }]);
  });

  test("the object is lost: the registry tells the truth, and so does who follows", async () => {
    await using server = await redis();
    const { id } = await background({
      handler: "subscriber",
      address: `127.0.0.1:${server.port}`,
      params: "news",
    });
    await using following = curl(id);
    await following.line(/"subscribe"/);
    await worker.fetch(`/lose/${id}`);
    await following.line(/^event: cut/);
    expect((await following.ended).code).toBe(0);
    expect((await list("?limit=1")).sessions).toMatchObject([
      { id, state: "cut", error: { code: "ECONNABORTED" } },
    ]);
    expect((await list("?state=running")).sessions).toEqual([]);
  });
});

describeWith(["python3"], "a server that does not answer", () => {
  test("the connect time-out of a session", async () => {
    await using silent = await fullBacklog();
    const ran = await run({ handler: "lines", address: `127.0.0.1:${silent.port}`, connectTimeout: 200 });
    expect(ran).toMatchObject({ state: "failed", error: { code: "ETIMEDOUT" } });
    const cut = await run({ handler: "lines", address: `127.0.0.1:${silent.port}`, deadline: 200 });
    expect(cut).toMatchObject({ state: "cut", error: { code: "ETIMEDOUT" } });
    const { id } = await background({ handler: "lines", address: `127.0.0.1:${silent.port}` });
    expect((await ask(`sessions/${id}`, undefined, "DELETE")).body).toMatchObject({ state: "cut" });
  });
});

describe("TLS", () => {
  const made = ownCertificates();
  const title = "from the first byte, and by STARTTLS, to who has the certificate";
  if (made === null) test.skip(`${title}: SKIPPED, not on PATH: openssl`, () => {});
  else {
    test(title, async () => {
      const { cert, key } = made;
      const upper = (immediate: boolean) =>
        streamHandler(async ({ request, rfile, wfile }) => {
          if (!immediate) {
            wfile.write("220 ready\r\n");
            await rfile.line();
            wfile.write("220 go ahead\r\n");
          }
          await request.startTls({ cert, key });
          for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\n`);
        });
      await using atOnce = new ThreadingTCPServer(await ownAddress(), upper(true));
      await using later = new ThreadingTCPServer(await ownAddress(), upper(false));
      const [{ port: tls }, { port: starttls }] = [
        (await atOnce.listen()) as InternetAddress,
        (await later.listen()) as InternetAddress,
      ];
      for (const server of [atOnce, later]) void server.serveForever();
      const params = { text: "hello" };
      for (const host of ["localhost", "127.0.0.1"]) {
        expect(
          await run({ handler: "ask", address: `${host}:${tls}`, params, secureTransport: "on" }),
        ).toMatchObject({ state: "ended", result: "HELLO" });
        expect(
          await run({
            handler: "ask",
            address: `${host}:${starttls}`,
            params: { ...params, starttls: true },
            secureTransport: "starttls",
          }),
        ).toMatchObject({ state: "ended", result: "HELLO" });
      }
      // Without `starttls` at the dial, startTls() fails with the platform's rule.
      const without = await run({
        handler: "ask",
        address: `localhost:${starttls}`,
        params: { ...params, starttls: true },
      });
      expect(without).toMatchObject({ state: "failed", error: { code: "ERR_UNSUPPORTED" } });
      // The plain server is no TLS server.
      expect(
        await run({ handler: "ask", address: `localhost:${starttls}`, params, secureTransport: "on" }),
      ).toMatchObject({ state: "failed", error: { code: "ERR_CONNECT_FAILED" } });
    });
  }
});

const certificates = ownCertificates();
const lacking = certificates === null ? ["openssl"] : [];

describeWith(
  postgresCommand("postgres") === null ? [...lacking, "postgres"] : lacking,
  "PostgreSQL, secured in place",
  () => {
    test("a query, from Node and from workerd", async () => {
      await using server = await postgres(certificates!);
      const address = `localhost:${server.port}`;
      const query =
        "SELECT 1 AS one, NULL AS nothing, 'naïve' AS text, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
      const params = { user: "postgres", password: postgresPassword, query };
      const result = {
        secured: true,
        version: expect.stringMatching(/^\d+\.\d+/),
        columns: ["one", "nothing", "text", "ssl"],
        rows: [["1", null, "naïve", "t"]],
        tag: "SELECT 1",
      };
      const connector = new TCPConnector(address, PostgresClient, { secureTransport: "starttls" });
      expect(await connector.run({ params })).toEqual(result);
      const ran = await run({ handler: "postgres", address, params, secureTransport: "starttls" });
      expect(ran).toMatchObject({ state: "ended", result });
      expect(JSON.stringify(await ask(`sessions/${ran.id}`))).not.toContain(postgresPassword);

      const wrong = { ...params, password: "no, not this one" };
      const failed = await run({ handler: "postgres", address, params: wrong, secureTransport: "starttls" });
      expect(failed).toMatchObject({ state: "failed", error: { code: "ERR_REFUSED" } });
      expect(failed.error?.message).toContain("28P01");
      await expect(connector.run({ params: wrong })).rejects.toMatchObject({ code: "ERR_REFUSED" });
      const mistake = { ...params, query: "SELEC 1" };
      await expect(connector.run({ params: mistake })).rejects.toThrow("42601");
    });
  },
);

describeWith([...lacking, "aiosmtpd"], "an SMTP server that demands STARTTLS", () => {
  test("takes a message, from Node and from workerd", async () => {
    await using server = await smtp(certificates!);
    const address = `localhost:${server.port}`;
    for (const where of ["Node", "workerd"]) {
      const params = {
        from: "me@example.com",
        to: ["you@example.com", "them@example.com"],
        message: `Subject: from ${where}\r\n\r\n.\r\n..dots\nThe end, ${where}.`,
      };
      const result = { secured: true, reply: "OK" };
      if (where === "Node") {
        const connector = new TCPConnector(address, SmtpClient, { secureTransport: "starttls" });
        expect(await connector.run({ params })).toEqual(result);
      } else {
        const ran = await run({ handler: "smtp", address, params, secureTransport: "starttls" });
        expect(ran).toMatchObject({ state: "ended", result });
      }
      const { program } = server;
      await program.line(/MESSAGE FOLLOWS/);
      await program.line(new RegExp(`^Subject: from ${where}`));
      await program.line(/^\.$/);
      await program.line(/^\.\.dots$/);
      await program.line(new RegExp(`^The end, ${where}\\.$`));
      await program.line(/END MESSAGE/);
    }
    const params = {
      from: "me@example.com>\r\nRCPT TO:<them@example.com",
      to: ["you@example.com"],
      message: "",
    };
    expect(await run({ handler: "smtp", address, params, secureTransport: "starttls" })).toMatchObject({
      state: "failed",
      error: { code: "ERR_HANDLER" },
    });
  });
});

describe("hostile targets", () => {
  test("none is dialled", async () => {
    let dials = 0;
    const listener = net.createServer((socket) => {
      dials++;
      socket.destroy();
    });
    await new Promise<void>((resolve) => listener.listen(0, "::", resolve)); // IPv4 and IPv6: every address of ours
    const { port } = listener.address() as net.AddressInfo;
    const refused = (...hosts: string[]): [string, number, string][] =>
      hosts.map((host) => [`${host}:${port}`, 403, "ERR_REFUSED"]);
    const invalid = (...targets: string[]): [string, number, string][] =>
      targets.map((target) => [target, 422, "ERR_INVALID_ADDRESS"]);
    const targets = [
      // 127.0.0.9, which no rule names, in the spellings that inet_aton and IPv6 have.
      ...refused(
        "127.0.0.9",
        "127.9",
        "127.0.9",
        "127.0.0.011",
        "0177.0.0.9",
        "0x7f.0.0.9",
        "0x7F000009",
        "2130706441",
      ),
      ...refused("017700000011", "127.0.0.0x9", "0x7f.9", "127.0x000009", "00000177.9", "[::ffff:127.0.0.9]"),
      ...refused(
        "[::ffff:7f00:9]",
        "[0:0:0:0:0:ffff:127.0.0.9]",
        "[::127.0.0.9]",
        "[64:ff9b::7f00:9]",
        "127.0.0.9.",
      ),
      ...refused(
        "１２７.0.0.9",
        "①②⑦.0.0.9",
        "127。0。0。9",
        "127．0．0．9",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0::1]",
      ),
      // Everything else that is not the public Internet.
      ...refused(
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
      ),
      ...refused("[fe80::1]", "[fd00::1]", "[fec0::1]", "[ff02::1]", "[2002:7f00:9::]", "[fe80::1%lo]"),
      // Names beside the rules.
      ...refused(
        "example.com",
        "notallowed.example",
        "allowed.example.com",
        "xallowed.example",
        "allowed.example",
      ),
      ...refused(
        "below.example",
        "a.below.example",
        "a.below.example.evil.example",
        "belowxexample",
        "*.below.example",
      ),
      ...refused(
        "localhost.localdomain",
        "foo.localhost",
        "ip6-localhost",
        "127.0.0.1.nip.io",
        "localhost.example",
      ),
      ...refused(
        "1.2.3.4.5",
        "256.0.0.1",
        "0x7f.0.0.1.x",
        "xn--80ak6aa92e.com",
        "аllowed.example",
        "allowed..example",
      ),
      ...refused("192.0.2.16", "192.0.2.1", "[::ffff:192.0.2.16]"),
      ["127.0.0.9:80", 403, "ERR_REFUSED"],
      ["allowed.example:443", 403, "ERR_REFUSED"],
      ["192.0.2.16:80", 403, "ERR_REFUSED"],
      ["unix:/var/run/docker.sock", 403, "ERR_REFUSED"],
      ["unix:\0docker", 403, "ERR_REFUSED"],
      ["localhost:25", 501, "ERR_UNSUPPORTED"],
      ...invalid(
        `user:secret@127.0.0.9:${port}`,
        `127.0.0.1@127.0.0.9:${port}`,
        `http://127.0.0.1:${port}/`,
        "127.0.0.1",
      ),
      ...invalid(
        `tcp://127.0.0.1:${port}/path`,
        `tcp://127.0.0.1:${port}?x`,
        `udp://127.0.0.1:${port}`,
        `127.0.0.1:${port}#`,
      ),
      ...invalid(
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:0x50",
        "127.0.0.1:",
        ":",
        `[127.0.0.9]:${port}`,
      ),
      ...invalid(
        `[::1:${port}`,
        `::1:${port}`,
        `${port}`,
        `[::1]${port}`,
        "127.0.0.1:80:80",
        `http:127.0.0.9:${port}`,
      ),
    ] as const;
    expect(targets.length).toBeGreaterThanOrEqual(60);
    const before = (await list("?limit=1")).sessions;
    const wrong: unknown[] = [];
    for (const [address, status, code] of targets) {
      const answer = await ask("sessions", { handler: "lines", address });
      const body = answer.body as { code?: string; detail?: string };
      if (answer.status !== status || body.code !== code || !body.detail) wrong.push([address, answer]);
    }
    expect(wrong).toEqual([]);
    expect((await list("?limit=1")).sessions).toEqual(before);
    expect(dials).toBe(0);
    // And the listener does count.
    await run({ handler: "lines", address: `127.0.0.1:${port}` });
    expect(dials).toBe(1);
    await new Promise((resolve) => listener.close(resolve));
  });
});
