/** Scripts and recordings on real sockets. */

import dgram from "node:dgram";
import { once } from "node:events";
import { type HandlerClass, type InternetAddress, type StreamSocket, streamHandler } from "socklet";
import {
  createConnection,
  TCPConnector,
  ThreadingTCPServer,
  ThreadingUDPServer,
  UDPServer,
} from "socklet/emulator";
import {
  assertTranscript,
  type Conversation,
  conversation,
  formatTranscript,
  parseTranscript,
  record,
  recordDatagrams,
  recordHandler,
  recordingProxy,
  replay,
  scriptDatagramHandler,
  scriptHandler,
  ThreadingMemoryServer,
  type Transcript,
} from "socklet/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DnsDatagram } from "../../examples/dns.ts";
import { Echo } from "../../examples/echo.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { Conformance, LocalBoard } from "../conformance/handler.ts";
import { PATIENT } from "../conformance/matrix-table.ts";
import * as scripts from "../conformance/scripts.ts";
import { streamConformance } from "../conformance/stream.ts";
import { ownCertificates } from "../peers/certificates.ts";

/** A server on a real socket, that serves; leaving its scope closes it. */
const serve = async <Context>(Handler: HandlerClass<StreamSocket, Context>, context?: Context) => {
  const errors: unknown[] = [];
  const server = new ThreadingTCPServer<Context>("127.0.0.1:0", Handler, {
    ...(context !== undefined && { context }),
    onEvent: (event) => event.type === "error" && errors.push(event.error),
  });
  const address = (await server.listen()) as InternetAddress;
  void server.serveForever();
  return {
    server,
    address,
    errors,
    dial: () => createConnection(address),
    [Symbol.asyncDispose]: () => server.serverClose(),
  };
};

/** Runs the script on one connection, which is then closed. */
const hold = async (script: Conversation, dial: () => Promise<StreamSocket>) => {
  await using stream = await dial();
  return await script.run(stream, PATIENT);
};

// ---- Scripts over TCP ----

describe("Node TCP", () => {
  test("resets, heard by the script and sent by it", async () => {
    const heard = Promise.withResolvers<unknown>();
    const Resets = streamHandler(async ({ request, rfile }) => {
      if ((await rfile.line()) === "reset me") return request.abort();
      await request.sendall("go\n");
      heard.resolve(await request.recv().catch((error: { code: string }) => error.code));
    });
    await using place = await serve(Resets);
    await hold(conversation().send("reset me\n").expectReset(), place.dial);
    await hold(conversation().send("wait\n").expectLine("go").reset(), place.dial);
    expect(await heard.promise).toBe("ECONNRESET");
  });

  test("what goes wrong is an error of the script's handler, and a reset to its client", async () => {
    const Peer = scriptHandler(conversation().expectLine("this"), PATIENT);
    await using place = await serve(Peer);
    await hold(conversation().send("that\n").expectReset(), place.dial);
    await expect(Peer.outcomes()).rejects.toThrow(/step 1, expectLine\("this"\): another line came/);
    await place.server.drain();
    expect(place.errors.map(String)).toEqual([expect.stringContaining('+ "that"')]);
  });
});

// ---- Datagrams ----

/** A client's UDP socket, to talk to `port`. */
const udpPeer = async (port: number) => {
  const socket = dgram.createSocket("udp4");
  socket.connect(port, "127.0.0.1");
  await once(socket, "connect");
  const arrived: Uint8Array[] = [];
  let more = Promise.withResolvers<void>();
  socket.on("message", (data) => {
    arrived.push(new Uint8Array(data));
    more.resolve();
    more = Promise.withResolvers();
  });
  return {
    send: (data: Uint8Array) => void socket.send(data),
    async recv(): Promise<Uint8Array> {
      while (arrived.length === 0) await more.promise;
      return arrived.shift() as Uint8Array;
    },
    [Symbol.dispose]: () => socket.close(),
  };
};

const portOf = (address: unknown): number => (address as InternetAddress).port;

describe("Node UDP", () => {
  test("a name server, recorded, replayed against itself, and as a server against its client", async () => {
    const recording = recordDatagrams(DnsDatagram);
    await using server = new ThreadingUDPServer("127.0.0.1:0", recording.Handler);
    using client = await udpPeer(portOf(await server.listen()));
    void server.serveForever();
    const query = scripts.dnsQuery(77);
    const asked = conversation()
      .send(query)
      .expect(/\0M.+/su) // the id, and all behind it
      .check(({ bytes }) => expect(bytes.subarray(0, 2)).toEqual(query.subarray(0, 2)));
    await asked.run(client, PATIENT);
    const { transcript } = recording;
    expect(transcript.events.length).toBe(2);
    await replay(transcript, "client").run(client, PATIENT);

    // One at a time, too: its server takes the second datagram when the script has let the first one go.
    const twice = replay(transcript, "server").append(replay(transcript, "server"));
    const Peer = scriptDatagramHandler(twice, PATIENT);
    await using scripted = new UDPServer("127.0.0.1:0", Peer);
    using other = await udpPeer(portOf(await scripted.listen()));
    void scripted.serveForever();
    await replay(transcript, "client").run(other, PATIENT);
    await replay(transcript, "client").run(other, PATIENT);
    await Peer.outcomes();
  });
});

// ---- Recording ----

/** The steps after the greeting and its EHLO. */
const afterGreeting = conversation()
  .expectLine("EHLO client.test")
  .send("250 8BITMIME\r\n")
  .expectLine("MAIL FROM:<me@example.com>")
  .send("250 OK\r\n")
  .expectLine("RCPT TO:<you@example.com>")
  .send("250 OK\r\n")
  .expectLine("DATA")
  .send("354 Go on\r\n")
  .expect("Subject: hi\r\n\r\n..\r\n.\r\n")
  .send("250 Kept\r\n")
  .expectLine("QUIT")
  .send("221 Bye\r\n");

describe("recording over TCP", () => {
  test("a proxy between a client and a server: what it recorded is held again with each of them", async () => {
    const transcripts: Transcript[] = [];
    const keys = new KeyStore();
    await using redis = await serve(RespServer, { keys });
    await using proxy = await serve(recordingProxy(redis.dial, (transcript) => transcripts.push(transcript)));
    expect(await new TCPConnector(proxy.address, RespClient).run({ params: ["SET", "k", "v\r\n\0"] })).toBe(
      "OK",
    );
    await proxy.server.drain();
    const transcript = parseTranscript(formatTranscript(transcripts[0] as Transcript));
    await hold(replay(transcript, "client"), redis.dial);
    const Peer = scriptHandler(replay(transcript, "server"), PATIENT);
    await using scripted = await serve(Peer);
    expect(
      await new TCPConnector(scripted.address, RespClient).run({ params: ["SET", "k", "v\r\n\0"] }),
    ).toBe("OK");
    await Peer.outcomes();
  });

  const made = ownCertificates();
  test.skipIf(made === null)("what was said in TLS is recorded, and replayed through TLS", async () => {
    const { ca, cert, key } = made as NonNullable<typeof made>;
    const server = conversation()
      .send("220 mail.test ESMTP\r\n")
      .expectLine("EHLO client.test")
      .send("250-mail.test\r\n250 STARTTLS\r\n")
      .expectLine("STARTTLS")
      .send("220 Go on\r\n")
      .startTls({ cert, key })
      .append(afterGreeting);
    const Mail = scriptHandler(server, PATIENT);
    await using mail = await serve(Mail);
    const transcripts: Transcript[] = [];
    const Recorded = recordHandler(SmtpClient, (transcript) => transcripts.push(transcript), {
      side: "client",
    });
    const tls = { ca, serverName: "localhost" };
    const params = scripts.delivery;
    const reply = await new TCPConnector(mail.address, Recorded, { secureTransport: "starttls", tls }).run({
      params,
    });
    expect(reply).toEqual({ secured: true, reply: "Kept" });
    await Mail.outcomes();
    const transcript = transcripts[0] as Transcript;
    expect(formatTranscript(transcript)).toMatch(
      /"text":"220 Go on\\r\\n"\}\n\{"at":[\d.]+,"tls":true\}\n.*EHLO/,
    );

    const Again = scriptHandler(replay(transcript, "server", { tls: { cert, key } }), PATIENT);
    await using again = await serve(Again);
    await new TCPConnector(again.address, SmtpClient, { secureTransport: "starttls", tls }).run({ params });
    await Again.outcomes();
    await hold(replay(transcript, "client", { tls }), mail.dial);
    const distrusting = replay(transcript, "client", { tls: { ca, serverName: "other.test" } });
    await expect(hold(distrusting, mail.dial)).rejects.toThrow(
      /^step \d+, startTls\(\): TLS did not begin: ERR_TLS: (?:.|\n)*The conversation(?:.|\n)*> "STARTTLS/,
    );
  });

  test("two recorders, one at each end, have the same conversation", async () => {
    const transcripts: Transcript[] = [];
    await using place = await serve(recordHandler(Echo, (transcript) => transcripts.push(transcript)));
    const recording = record(await place.dial(), "client");
    const lines = Array.from({ length: 50 }, (_, i) => `line ${i}\n`);
    const script = lines.reduce((all, line) => all.send(line).expect(line), conversation());
    await script.halfClose().expectEnd().run(recording.stream, PATIENT);
    await recording.stream.close();
    await place.server.drain();
    assertTranscript(recording.transcript, transcripts[0] as Transcript);
    assertTranscript(transcripts[0] as Transcript, recording.transcript);
    expect(transcripts[0]?.events.length).toBeGreaterThan(100);
  });
});

// ---- Recording changes nothing: the conformance body through it, at both ends ----

const options = { stream: { closeTimeout: 300 }, drainTimeout: 100, context: new LocalBoard() };
const bounded = { maxBytes: 2 ** 20, stream: options.stream };
const Recorded = recordHandler(Conformance, () => {}, bounded);
const memory = new ThreadingMemoryServer(Recorded, options);
const tcp = new ThreadingTCPServer("127.0.0.1:0", Recorded, options);

beforeAll(async () => {
  await Promise.all([memory.listen(), tcp.listen()]);
  void memory.serveForever();
  void tcp.serveForever();
});

afterAll(() => Promise.all([memory.serverClose(), tcp.serverClose()]));

const heard = (stream: StreamSocket): StreamSocket => record(stream, "client", bounded).stream;
const dialTcp = (): Promise<StreamSocket> =>
  createConnection(tcp.serverAddress as never, { stream: options.stream });

streamConformance({ name: "memory, recorded", dial: async () => heard(memory.connect()) });
streamConformance({ name: "Node TCP, recorded", dial: async () => heard(await dialTcp()) });
streamConformance(
  { name: "Node TCP, dialled and recorded", dial: async () => heard(await dialTcp()) },
  "served",
);
