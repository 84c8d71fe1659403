/**
 * Conversations of real clients with real servers, recorded by a proxy between the two and kept in `recordings/`: each
 * is replayed against our handlers in memory, and against the programs if they are installed. To record them again:
 *
 *     RECORD=1 npx vitest run --project node test/peers/transcripts.test.ts
 */

import dgram from "node:dgram";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import * as files from "node:fs/promises";
import { BaseRequestHandler, type Datagram, type HandlerClass, type StreamSocket } from "socklet";
import { createConnection, TCPConnector, ThreadingUDPServer } from "socklet/emulator";
import {
  conversation,
  MemoryStorage,
  type Normalise,
  parseTranscript,
  recordDatagrams,
  recordHandler,
  recordingProxy,
  replay,
  runScript,
  scriptDatagramHandler,
  scriptHandler,
  type Transcript,
  transcriptMatchers,
} from "socklet/testing";
import { describe, expect, test } from "vitest";
import { DnsDatagram, DnsStream } from "../../examples/dns.ts";
import { MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { delivery, mail, redis as redisScript } from "../conformance/scripts.ts";
import { type Certificates, ownCertificates } from "./certificates.ts";
import { reservePort } from "./ports.ts";
import { describeWith, type Program, redis, run, serve, start } from "./program.ts";
import { bind, smtp } from "./servers.ts";

expect.extend(transcriptMatchers(files, { update: process.env.RECORD === "1" }));

const patient = { timeout: 120_000 }; // ms for a step: these are programs that start, on a machine that may be busy

const fileOf = (name: string): URL => new URL(`recordings/${name}.jsonl`, import.meta.url);
const kept = (name: string): Transcript => parseTranscript(readFileSync(fileOf(name), "utf8"));

const dial = (port: number): Promise<StreamSocket> => createConnection({ hostname: "127.0.0.1", port });

/** The transcript of `client` with the server at `port`, recorded by a proxy between them. */
const between = async (
  port: number,
  note: string,
  client: (port: number) => Promise<unknown>,
): Promise<Transcript> => {
  const transcripts: Transcript[] = [];
  const Between = recordingProxy(
    () => dial(port),
    (transcript) => transcripts.push(transcript),
    { note },
  );
  await using proxy = await serve(Between);
  await client(proxy.port);
  await proxy.server.drain();
  expect(proxy.errors()).toEqual([]);
  expect(transcripts.length).toBe(1);
  return transcripts[0] as Transcript;
};

/** Holds one side of a transcript as a server, with a client that dials it. */
const asServer = async (
  transcript: Transcript,
  client: (port: number) => Promise<unknown>,
  normalise?: Normalise,
) => {
  const Peer = scriptHandler(replay(transcript, "server", normalise && { normalise }), patient);
  await using place = await serve(Peer);
  const ran = client(place.port);
  ran.catch(() => {}); // if it fails, the script reports why
  await Peer.outcomes();
  await ran;
};

/** Holds one side of a transcript as a client of the server at `port`. */
const asClient = async (transcript: Transcript, port: number, normalise?: Normalise): Promise<void> => {
  await using stream = await dial(port);
  await replay(transcript, "client", normalise && { normalise }).run(stream, patient);
};

// ---- Redis ----

/**
 * redis-cli asks, at the end of its piped input, for an echo of 20 random bytes; and each version of the server
 * has its own words for a command that it does not know.
 */
const loose: Normalise = (text) =>
  text
    .replace(/\$20\r\n.{20}\r\n$/s, "$20\r\nECHOED\r\n")
    .replace(/unknown command [^\r]*/, "unknown command");

const commands = [
  "*1\r\n$4\r\nPING\r\n",
  "*3\r\n$3\r\nSET\r\n$8\r\ngreeting\r\n$9\r\nhello\r\n\0\xff\r\n",
  "*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n",
  "*2\r\n$4\r\nINCR\r\n$8\r\ngreeting\r\n",
  "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n",
  "*4\r\n$3\r\nDEL\r\n$1\r\nn\r\n$8\r\ngreeting\r\n$7\r\nnothing\r\n",
  "*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n",
  "*2\r\n$6\r\nNOSUCH\r\n$1\r\na\r\n",
];

const ping = (port: number) => run("redis-cli", ["-p", port, "PING"]);
const pipe = (port: number) =>
  run("redis-cli", ["-p", port, "--pipe"], Buffer.from(commands.join(""), "latin1"));
const asked = {
  params: [
    ["SET", "key", "v\r\n\0"],
    ["GET", "key"],
    ["DEL", "key"],
    ["GET", "key"],
  ],
};
const client = (port: number) => new TCPConnector({ hostname: "127.0.0.1", port }, RespClient).run(asked);
const replies = ["OK", "v\r\n\0", 1, null];

describeWith(["redis-server", "redis-cli"], "Redis, now", () => {
  test("says what was recorded, between redis-cli and redis-server", async () => {
    const { port, program } = await redis();
    await using _ = program;
    await expect(await between(port, "redis-cli PING", ping)).toMatchTranscript(fileOf("redis-cli"));
    const piped = await between(port, "redis-cli --pipe, of commands good and bad", pipe);
    await expect(piped).toMatchTranscript(fileOf("redis-cli-pipe"), { normalise: loose, apart: true });
  });

  test("says what was recorded, between our client and redis-server", async () => {
    const { port, program } = await redis();
    await using _ = program;
    const transcript = await between(port, "RespClient and redis-server", async (at) =>
      expect(await client(at)).toEqual(replies),
    );
    await expect(transcript).toMatchTranscript(fileOf("resp-client"));
    await asClient(transcript, port);
    await asClient(kept("redis-cli-pipe"), port, loose);
  });

  test("redis-cli takes the recording for its server", async () => {
    await asServer(kept("redis-cli"), async (port) =>
      expect((await ping(port)).stdout.toString()).toBe("PONG\n"),
    );
  });

  test("our server's conversation, with redis-server in its place", async () => {
    const { port, program } = await redis();
    await using _ = program;
    let ours: Transcript | undefined;
    const Recorded = recordHandler(RespServer, (transcript) => {
      ours = transcript;
    });
    await runScript(Recorded, redisScript, { context: () => ({ keys: new KeyStore() }) });
    await asClient(ours as Transcript, port);
    await using stream = await dial(port);
    await redisScript.run(stream, patient);
  });
});

describe("Redis, as it was recorded", () => {
  test("redis-cli's side, with our server: it says what redis-server said", async () => {
    const keys = new KeyStore();
    const context = () => ({ keys });
    await runScript(RespServer, replay(kept("redis-cli"), "client"), { context });
    await runScript(RespServer, replay(kept("redis-cli-pipe"), "client"), { context });
  });

  test("redis-server's side, with our client", async () => {
    const { result } = await runScript(RespClient, replay(kept("resp-client"), "server"), asked);
    expect(result).toEqual(replies);
  });
});

// ---- Mail ----

/** SMTP without its free text: the codes of the server's replies, and no stamps of the client. */
const codes: Normalise = (line, from) =>
  from === "server"
    ? line.replace(/^\d{3}-.*\r\n$/, "").replace(/^(\d{3}) .*\r\n$/, "$1\r\n")
    : line.replace(/^Date: .*\r\n$/, "Date: DATE\r\n").replace(/^(X-Mailer: swaks) .*\r\n$/, "$1\r\n");

/** `aiosmtpd` without TLS, on its own port. */
const aiosmtpd = async (): Promise<{ port: number; program: Program }> => {
  const port = await reservePort();
  const command = `exec aiosmtpd -n -d -l 127.0.0.1:${port} -c aiosmtpd.handlers.Sink 2>&1`;
  const program = start("sh", ["-c", command]);
  await program.line(/is listening/);
  return { port, program };
};

const swaks = async (port: number): Promise<void> => {
  const envelope = ["--from", "me@example.com", "--to", "you@example.com", "--helo", "client.test"];
  const headers = [
    "--header",
    "Message-Id: <1@client.test>",
    "--header",
    "Subject: test",
    "--body",
    "a line\n.\nand one after a dot",
  ];
  const ended = await run("swaks", ["--server", `127.0.0.1:${port}`, ...envelope, ...headers]);
  expect({ code: ended.code, stderr: ended.stderr }).toEqual({ code: 0, stderr: "" });
};

const deliver = (port: number) =>
  new TCPConnector({ hostname: "127.0.0.1", port }, SmtpClient).run({ params: delivery });

describeWith(["swaks", "aiosmtpd"], "mail, now", () => {
  test("says what was recorded, between swaks and aiosmtpd", async () => {
    const { port, program } = await aiosmtpd();
    await using _ = program;
    const transcript = await between(port, "swaks and aiosmtpd, without TLS", swaks);
    await expect(transcript).toMatchTranscript(fileOf("swaks"), { normalise: codes });
    await asClient(transcript, port);
  });

  test("says what was recorded, between our client and aiosmtpd", async () => {
    const { port, program } = await aiosmtpd();
    await using _ = program;
    const transcript = await between(port, "SmtpClient and aiosmtpd, without TLS", deliver);
    await expect(transcript).toMatchTranscript(fileOf("smtp-client"), { normalise: codes });
    await asClient(kept("smtp-client"), port, codes);
  });

  test("swaks takes the recording for its server", () => asServer(kept("swaks"), swaks, codes));

  test("our server's conversation, with aiosmtpd in its place", async () => {
    const { port, program } = await aiosmtpd();
    await using _ = program;
    let ours: Transcript | undefined;
    const Recorded = recordHandler(MailRequestHandler, (transcript) => {
      ours = transcript;
    });
    await runScript(Recorded, mail, { context: () => ({ storage: new MemoryStorage() }) });
    await asClient(ours as Transcript, port, codes);
    await using stream = await dial(port);
    await mail.run(stream, patient);
  });
});

describe("mail, as it was recorded", () => {
  test("swaks's side, with our server: it answers with the codes that aiosmtpd answered with", async () => {
    const storage = new MemoryStorage();
    const script = replay(kept("swaks"), "client", { normalise: codes });
    await runScript(MailRequestHandler, script, { context: () => ({ storage }) });
    const [name = ""] = await storage.list();
    const stored = new TextDecoder().decode((await storage.get(name)) ?? undefined);
    expect(stored).toMatch(/\r\n\r\na line\r\n\.\r\nand one after a dot\r\n/);
  });

  test("aiosmtpd's side, with our client", async () => {
    const { result } = await runScript(SmtpClient, replay(kept("smtp-client"), "server"), {
      params: delivery,
    });
    expect(result).toEqual({ secured: false, reply: "OK" });
  });
});

const certificates = ownCertificates();
describeWith(["aiosmtpd", "openssl"], "mail through TLS, now", () => {
  const { ca } = certificates ?? { ca: "" };
  const tls = { ca, serverName: "localhost" };

  test("a script secures its connection to aiosmtpd", async () => {
    await using server = await smtp(certificates as Certificates);
    await using stream = await dial(server.port);
    const hello = conversation().send("EHLO client.test\r\n");
    await conversation()
      .expectLine(/^220 /)
      .append(hello)
      .expect(/(?:250-.*\r\n)*250-STARTTLS\r\n(?:250-.*\r\n)*250 .*\r\n/)
      .send("STARTTLS\r\n")
      .expectLine(/^220 /)
      .startTls(tls)
      .append(hello)
      .expect(/(?:250-.*\r\n)*250 .*\r\n/)
      .send("QUIT\r\n")
      .expectLine(/^221 /)
      .expectEnd()
      .run(stream, patient);
  });

  test("what our client and aiosmtpd said in it is recorded, and held again with each", async () => {
    await using server = await smtp(certificates as Certificates);
    const transcripts: Transcript[] = [];
    const Recorded = recordHandler(SmtpClient, (transcript) => transcripts.push(transcript), {
      side: "client",
    });
    const address = { hostname: "127.0.0.1", port: server.port };
    await new TCPConnector(address, Recorded, { secureTransport: "starttls", tls }).run({ params: delivery });
    const transcript = transcripts[0] as Transcript;
    expect(transcript.events.filter((event) => "tls" in event).length).toBe(1);
    expect(transcript.events.findLast((event) => "data" in event)).toMatchObject({ from: "server" });
    await using stream = await dial(server.port);
    await replay(transcript, "client", { tls }).run(stream, patient);
  });
});

// ---- DNS ----

/** BIND with what `examples/dns.ts` knows of one name. */
const named = () =>
  bind(
    "example.test",
    `$TTL 3600
@ SOA ns1 hostmaster 1 7200 900 1209600 300
@ NS ns1
ns1 A 192.0.2.53
www A 192.0.2.80
`,
  );

/** Passes each datagram on to `port`, and the answer back. */
const relayTo = (port: number): HandlerClass<Datagram> =>
  class Relay extends BaseRequestHandler<Datagram> {
    override async handle(): Promise<void> {
      const socket = dgram.createSocket("udp4");
      try {
        socket.send(this.request.data, port, "127.0.0.1");
        const [reply] = await once(socket, "message");
        this.request.reply(new Uint8Array(reply));
      } finally {
        socket.close();
      }
    }
  };

const ID = 0x1234;
const dig = async (port: number, ...options: string[]): Promise<void> => {
  const args = [
    "@127.0.0.1",
    "-p",
    port,
    `+qid=${ID}`,
    "+nocookie",
    "+tries=1",
    "+time=120",
    "+short",
    ...options,
  ];
  const { stdout } = await run("dig", [...args, "www.example.test"]);
  expect(stdout.toString()).toBe("192.0.2.80\n");
};

const serveDatagrams = async (Handler: HandlerClass<Datagram>) => {
  const server = new ThreadingUDPServer("127.0.0.1:0", Handler);
  const address = await server.listen();
  void server.serveForever();
  const port = address !== null && address.family !== "unix" ? address.port : 0;
  return { port, [Symbol.asyncDispose]: () => server.serverClose() };
};

/** Sends the datagrams that dig sent, and expects the ones that dig got. */
const askAsDig = async (port: number): Promise<void> => {
  const socket = dgram.createSocket("udp4");
  socket.connect(port, "127.0.0.1");
  await once(socket, "connect");
  try {
    await replay(kept("dig"), "client").run(
      {
        send: (data) => socket.send(data),
        recv: async () => new Uint8Array((await once(socket, "message"))[0]),
      },
      patient,
    );
  } finally {
    socket.close();
  }
};

describeWith(["dig", "named"], "DNS, now", () => {
  test("says what was recorded, between dig and BIND", async () => {
    await using server = await named();
    const tcp = await between(server.port, "dig +tcp and named", (at) => dig(at, "+tcp"));
    await expect(tcp).toMatchTranscript(fileOf("dig-tcp"));
    const recording = recordDatagrams(relayTo(server.port), { note: "dig and named" });
    await using place = await serveDatagrams(recording.Handler);
    await dig(place.port);
    await expect(recording.transcript).toMatchTranscript(fileOf("dig"));
  });

  test("dig takes the recordings for its server", async () => {
    await asServer(kept("dig-tcp"), (port) => dig(port, "+tcp"));
    const Peer = scriptDatagramHandler(replay(kept("dig"), "server"), patient);
    await using place = await serveDatagrams(Peer);
    await dig(place.port);
    await Peer.outcomes();
  });

  test("our name server's conversation with dig, with BIND in its place", async () => {
    await using server = await named();
    let ours: Transcript | undefined;
    const Recorded = recordHandler(DnsStream, (transcript) => {
      ours = transcript;
    });
    await using place = await serve(Recorded);
    await dig(place.port, "+tcp");
    await place.server.drain();
    await asClient(ours as Transcript, server.port);
    await asClient(kept("dig-tcp"), server.port);
    await askAsDig(server.port);
  });
});

describe("DNS, as it was recorded", () => {
  test("dig's side, with our name server: it answers byte by byte as BIND", async () => {
    await runScript(DnsStream, replay(kept("dig-tcp"), "client"));
    await using place = await serveDatagrams(DnsDatagram);
    await askAsDig(place.port);
  });
});
