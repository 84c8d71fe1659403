import {
  BaseRequestHandler,
  type Datagram,
  type HandlerClass,
  MSG_OOB,
  SHUT_WR,
  type SockletEvent,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import {
  assertTranscript,
  compareTranscripts,
  conversation,
  formatTranscript,
  MemoryDatagramServer,
  MemoryServer,
  MemoryStorage,
  memoryPair,
  parseTranscript,
  record,
  recordDatagrams,
  recordHandler,
  recordingProxy,
  replay,
  runScript,
  ScriptError,
  scriptDatagramHandler,
  scriptHandler,
  ThreadingMemoryServer,
  type Transcript,
  TranscriptError,
  type TranscriptEvent,
  type TranscriptMatchers,
  transcriptMatchers,
} from "socklet/testing";
import { describe, expect, test } from "vitest";
import { relayHandler } from "../../core/testing/transcript/handlers.ts";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { fc } from "../conformance/properties.ts";
import * as scripts from "../conformance/scripts.ts";

// ---- Help ----

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (data: Uint8Array | null | undefined): string => new TextDecoder().decode(data ?? undefined);

/** The events without their times, bytes as text. */
const told = ({ events }: Transcript): unknown[] =>
  events.map((event) => {
    if ("tls" in event) return "TLS";
    if ("fault" in event) return `${event.fault} by ${event.rule}`;
    return `${event.from}: ${"data" in event ? text(event.data) : `(${event.end})`}`;
  });

/** A clock that goes on by 1 ms whenever it is asked. */
const ticking = () => {
  let time = 100;
  const slept: number[] = [];
  return { now: () => time++, sleep: async (ms: number) => void slept.push(ms), slept };
};

/** A transcript of what is said in turns, one piece each: `C: …` and `S: …`. */
const written = (...lines: string[]): Transcript => ({
  kind: "stream",
  events: lines.map((line, at): TranscriptEvent => {
    const from = line.startsWith("C") ? "client" : "server";
    const what = line.slice(3);
    if (what === "half-close" || what === "close" || what === "reset") return { at, from, end: what };
    return { at, from, data: bytes(what) };
  }),
});

/** `Handler` recorded, on one end of a pair, while `script` runs on the other. */
const recorded = async <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  script: ReturnType<typeof conversation>,
  {
    side = "server",
    ...options
  }: {
    readonly context?: () => Context;
    readonly params?: unknown;
    readonly side?: "client" | "server";
  } = {},
): Promise<Transcript> => {
  const transcripts: Transcript[] = [];
  const Recorded = recordHandler(Handler, (transcript) => transcripts.push(transcript), { side });
  await runScript(Recorded, script, options);
  expect(transcripts.length).toBe(1);
  return transcripts[0] as Transcript;
};

// ---- The form ----

describe("JSON Lines", () => {
  test("the form, and back", () => {
    const transcript: Transcript = {
      kind: "stream",
      note: "by hand",
      events: [
        { at: 0.4, from: "server", data: bytes("220 größe\t\r\n") },
        { at: 1.23456, from: "client", data: new Uint8Array([0, 1, 2]) },
        { at: 2, from: "client", data: new Uint8Array([0xc3]) },
        { at: 5, tls: true },
        { at: 9, from: "client", end: "half-close" },
        { at: 9, from: "client", end: "close" },
        { at: 9, from: "server", end: "reset" },
      ],
    };
    const form = formatTranscript(transcript);
    expect(form).toBe(`{"socklet":"transcript","version":1,"kind":"stream","note":"by hand"}
{"at":0.4,"from":"server","text":"220 größe\\t\\r\\n"}
{"at":1.235,"from":"client","base64":"AAEC"}
{"at":2,"from":"client","base64":"ww=="}
{"at":5,"tls":true}
{"at":9,"from":"client","end":"half-close"}
{"at":9,"from":"client","end":"close"}
{"at":9,"from":"server","end":"reset"}
`);
    expect(formatTranscript(parseTranscript(form))).toBe(form);
  });

  test("any bytes, any pieces, any number of clients come back as they were", () =>
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            from: fc.constantFrom("client" as const, "server" as const),
            data: fc.oneof(fc.uint8Array(), fc.string({ unit: "binary" }).map(bytes), fc.string().map(bytes)),
            peer: fc.constantFrom(undefined, 2, 3),
          }),
        ),
        (said) => {
          const events = said.map(({ from, data, peer }, at) => ({ at, from, data, ...(peer && { peer }) }));
          expect(parseTranscript(formatTranscript({ kind: "datagrams", events })).events).toEqual(events);
        },
      ),
    ));

  const header = '{"socklet":"transcript","version":1,"kind":"stream"}\n';
  test.each<[string, string, string]>([
    ["nothing", "", "line 1: it is empty"],
    ["no JSON", "hello\n", 'line 1: it is not JSON: "hello"'],
    ["no object", "[1]\n", "line 1: it must be an object"],
    ["another file", "{}\n", "line 1: it must begin with"],
    [
      "a later version",
      '{"socklet":"transcript","version":2,"kind":"stream"}\n',
      "line 1: version 2 is not known; this reads version 1",
    ],
    [
      "a field that there is not",
      `${header.slice(0, -2)},"date":1}\n`,
      'line 1: there is no field "date" here; there may be socklet, version, kind, note, dropped',
    ],
    [
      "another kind",
      header.replace("stream", "pipe"),
      'line 1: "kind" is "stream" or "datagrams", not "pipe"',
    ],
    [
      "bytes dropped that were none",
      `${header.slice(0, -2)},"dropped":0}\n`,
      'line 1: "dropped" is a whole number of bytes',
    ],
    ["a note that is no text", `${header.slice(0, -2)},"note":1}\n`, 'line 1: "note" must be text'],
    ["an empty line", `${header}\n{"at":1,"tls":true}\n`, "line 2: it is empty"],
    ["half a line", `${header}{"at":1,"tls"`, "line 2: it is not JSON"],
    [
      "no time",
      `${header}{"from":"client","text":""}\n`,
      'line 2: "at" is milliseconds, 0 or more, not undefined',
    ],
    [
      "a time before",
      `${header}{"at":2,"tls":true}\n{"at":1,"tls":true}\n`,
      'line 3: "at" goes back, from 2 to 1',
    ],
    ["nobody", `${header}{"at":1,"text":""}\n`, 'line 2: "from" is "client" or "server", not undefined'],
    [
      "nothing done",
      `${header}{"at":1,"from":"client"}\n`,
      'line 2: there must be one of "text", "base64", "end", "tls" and "dropped"',
    ],
    [
      "two things",
      `${header}{"at":1,"from":"client","text":"","end":"close"}\n`,
      "line 2: there must be one of",
    ],
    [
      "bytes that are missing, and none",
      `${header}{"at":1,"dropped":0}\n`,
      'line 2: "dropped" is a whole number',
    ],
    ["text that is none", `${header}{"at":1,"from":"client","text":1}\n`, 'line 2: "text" must be text'],
    [
      "base64 without padding",
      `${header}{"at":1,"from":"client","base64":"AAE"}\n`,
      'line 2: "base64" must be base64',
    ],
    [
      "base64 with bits over",
      `${header}{"at":1,"from":"client","base64":"AAF="}\n`,
      'line 2: "base64" must be base64',
    ],
    [
      "another end",
      `${header}{"at":1,"from":"client","end":"fin"}\n`,
      'line 2: "end" is "half-close" or "close" or "reset"',
    ],
    [
      "speech after an end",
      `${header}{"at":1,"from":"client","end":"reset"}\n{"at":1,"from":"client","text":"x"}\n`,
      "line 3: the client had already left, by a reset",
    ],
    [
      "an end twice",
      `${header}{"at":1,"from":"client","end":"half-close"}\n{"at":1,"from":"client","end":"half-close"}\n`,
      "line 3: the client had already left, by a half-close",
    ],
    [
      "the first client by number, in a stream",
      `${header}{"at":1,"from":"client","peer":1,"text":""}\n`,
      'line 2: "peer" is a whole number of 2 or more',
    ],
    [
      "the first client by number",
      `${header.replace("stream", "datagrams")}{"at":1,"from":"client","peer":1,"text":""}\n`,
      'line 2: "peer" is a whole number of 2 or more',
    ],
    [
      "an end of datagrams",
      `${header.replace("stream", "datagrams")}{"at":1,"from":"client","end":"close"}\n`,
      "line 2: datagrams have no end",
    ],
    [
      "TLS of datagrams",
      `${header.replace("stream", "datagrams")}{"at":1,"tls":true}\n`,
      'line 2: "tls" is true, and of a stream',
    ],
  ])("%s is refused, with the line", (_, form, message) => {
    expect(() => parseTranscript(form)).toThrow(SyntaxError);
    expect(() => parseTranscript(form)).toThrow(`transcript, ${message}`);
  });
});

// ---- Recording ----

describe("record", () => {
  test("what both said, in order, with times, and how they left", async () => {
    const [here, there] = memoryPair();
    const clock = ticking();
    const recording = record(here, "client", { clock, note: "test" });
    const { stream } = recording;
    await stream.sendall("hello ");
    await stream.sendall("there\r\n");
    expect(await there.rfile.line()).toBe("hello there");
    await there.sendall(new Uint8Array([0, 255]));
    expect(await stream.recv()).toEqual(new Uint8Array([0, 255]));
    await stream.shutdown(SHUT_WR);
    expect(await there.recv()).toBeNull();
    await there.sendall("bye");
    await there.close();
    expect(text(await stream.rfile.read())).toBe("bye");
    await stream.close();
    await recording.over;
    expect(recording.transcript).toEqual({
      kind: "stream",
      note: "test",
      events: [
        { at: 1, from: "client", data: bytes("hello ") },
        { at: 2, from: "client", data: bytes("there\r\n") },
        { at: 3, from: "server", data: new Uint8Array([0, 255]) },
        { at: 4, from: "client", end: "half-close" },
        { at: 5, from: "server", data: bytes("bye") },
        { at: 6, from: "server", end: "half-close" },
        { at: 7, from: "client", end: "close" },
      ],
    });
  });

  test("resets, of either end", async () => {
    const [here, there] = memoryPair();
    const mine = record(here, "server");
    const theirs = record(there, "client");
    const reading = mine.stream.recv();
    theirs.stream.abort();
    await expect(reading).rejects.toMatchObject({ code: "ECONNRESET" });
    await mine.stream.close();
    expect(told(mine.transcript)).toEqual(["client: (reset)"]);
    expect(told(theirs.transcript)).toEqual(["client: (reset)"]);
  });

  test("what is recorded is what was said, whatever its reader does with his bytes", () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ minLength: 1 }), { minLength: 1 }), async (pieces) => {
        const Scribbles = streamHandler(async ({ request }) => {
          for (let got = await request.recv(); got !== null; got = await request.recv()) {
            await request.sendall(got);
            got.fill(0);
          }
        });
        const whole = Uint8Array.from(pieces.flatMap((piece) => [...piece]));
        let script = conversation();
        for (const piece of pieces) script = script.send(piece);
        const { events } = await recorded(Scribbles, script.expect(whole).halfClose().expectEnd());
        for (const side of ["client", "server"]) {
          const said = events.flatMap((event) =>
            "data" in event && event.from === side ? [...event.data] : [],
          );
          expect(said).toEqual([...whole]);
        }
      }),
    ));

  test("both ends record the same conversation", async () => {
    const transcripts: Transcript[] = [];
    const Recorded = recordHandler(MailRequestHandler, (transcript) => transcripts.push(transcript));
    await using server = new MemoryServer(Recorded, { context: { storage: new MemoryStorage() } });
    void server.serveForever();
    const client = record(server.connect(), "client");
    await scripts.mail.run(client.stream);
    await client.stream.close();
    await client.over;
    await server.drain();
    assertTranscript(client.transcript, transcripts[0] as Transcript);
    expect(transcripts[0]?.events.length).toBeGreaterThan(15);
  });

  test("past its maxBytes it goes on, counts what it does not keep, and is no conversation to hold again", async () => {
    const [here, there] = memoryPair();
    const recording = record(here, "client", { maxBytes: 4 });
    for (const said of ["123", "456", "7"]) await recording.stream.sendall(said);
    expect(text(await there.rfile.readexactly(7))).toBe("1234567");
    await there.close();
    expect(await recording.stream.recv()).toBeNull();
    const transcript = parseTranscript(formatTranscript(recording.transcript));
    expect([told(transcript), transcript.dropped]).toEqual([["client: 123", "server: (half-close)"], 4]);
    expect(() => replay(transcript, "client")).toThrow(
      /ERR_LIMIT: the transcript is not whole: 4 bytes were over/,
    );
    expect(() => assertTranscript(transcript, transcript)).toThrow(/ERR_LIMIT/);
  });

  test("what is missing in the middle counts as what is missing at all", () => {
    const lines = [
      '{"socklet":"transcript","version":1,"kind":"stream","dropped":4}',
      '{"at":1,"from":"client","text":"a"}',
      '{"at":2,"dropped":5}',
      '{"at":3,"dropped":6,"peer":2}',
    ];
    const transcript = parseTranscript(`${lines.join("\n")}\n`);
    expect([transcript.dropped, told(transcript)]).toEqual([15, ["client: a"]]);
    expect(() => replay(transcript, "client")).toThrow(/not whole: 15 bytes/);
  });

  test("the limits and times of the connection stay its own", () => {
    const [here] = memoryPair({ maxLine: 10, maxRead: 20, maxPending: 30, timeout: 40 });
    const { stream } = record(here, "client");
    expect([
      stream.rfile.maxLine,
      stream.rfile.maxRead,
      stream.wfile.maxPending,
      stream.gettimeout(),
    ]).toEqual([10, 20, 30, 40]);
    expect([stream.getpeername(), stream.getsockname()]).toEqual([here.getpeername(), here.getsockname()]);
    expect(here.gettimeout()).toBeNull();
    expect(() => stream.getsockopt(1, 2)).toThrow(/getsockopt\(\): this socket has no kernel behind it/);
    expect(() => record(here, "middle" as never)).toThrow(TypeError);
    expect(() => record({} as never, "client")).toThrow(
      "record() takes a connection, a StreamSocket, not object",
    );
    const [other] = memoryPair();
    other.settimeout(0);
    expect(record(other, "client").stream.gettimeout()).toBe(0);
  });
});

test("the socket's own options are asked of it; what passes beside the stream says that it is not heard", async () => {
  const set: unknown[] = [];
  const [here] = memoryPair();
  const stream = Object.assign(here, {
    fileno: () => 7,
    getsockopt: (level: number, name: number, length = 0) => level + name + length,
    setsockopt: (...given: unknown[]) => void set.push(given),
  });
  const recorded = record(stream as never, "client").stream;
  recorded.setsockopt(6, 1, true);
  expect([recorded.fileno(), recorded.getsockopt(6, 1), recorded.getsockopt(6, 1, 4), set]).toEqual([
    7,
    7,
    11,
    [[6, 1, 1]],
  ]);
  await expect(recorded.send("!", MSG_OOB)).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
  await expect(recorded.detach()).rejects.toThrow(
    /a recording does not see MSG_OOB, MSG_DONTROUTE and detach\(\)/,
  );
});

describe("recordHandler", () => {
  test("the handler cannot tell: its server, scope, params, result and name are its own", async () => {
    class Curious extends StreamRequestHandler<{ readonly key: string }> {
      override async handle(): Promise<unknown> {
        this.emit("here");
        this.wfile.write(`${this.params} ${this.context.key}\n`);
        const { running } = this.server.info();
        return { running, id: this.server.scope(this.request).id, address: this.clientAddress === null };
      }
    }
    const events: SockletEvent[] = [];
    const Recorded = recordHandler(Curious, () => {}, { side: "client" });
    expect(Recorded.name).toBe("Curious");
    const { result } = await runScript(Recorded, conversation().expectLine("asked for").expectEnd(), {
      params: "asked",
      context: () => ({ key: "for" }),
      onEvent: (event) => events.push(event),
    });
    expect(result).toEqual({ running: 1, id: 1, address: false });
    expect(events.map(({ type }) => type)).toEqual(["begin", "handler", "end"]);
  });

  test("a server of the handler's own is seen as it is, private fields and all", async () => {
    class Counting extends ThreadingMemoryServer {
      #count = 0;
      next(): number {
        return ++this.#count;
      }
    }
    class Counted extends StreamRequestHandler {
      declare readonly server: Counting;
      override handle(): void {
        this.wfile.write(`${this.server.next()}`);
      }
    }
    await using server = new Counting(recordHandler(Counted, () => {}));
    void server.serveForever();
    for (const count of ["1", "2"]) await conversation().expect(count).expectEnd().run(server.connect());
  });

  test("a handler that throws, one that is aborted, one that hands its connection over", async () => {
    const transcripts: Transcript[] = [];
    const events: SockletEvent[] = [];
    const Several = streamHandler(async ({ request, rfile, wfile }) => {
      const line = await rfile.line();
      if (line === "throw") {
        wfile.write("so far");
        throw new Error("thrown");
      }
      if (line === "hold") await rfile.line();
      const { readable, writable } = request.toWeb();
      void readable.pipeTo(writable);
    });
    await using server = new ThreadingMemoryServer(
      recordHandler(Several, (transcript) => transcripts.push(transcript)),
      {
        onEvent: (event) => events.push(event),
      },
    );
    void server.serveForever();
    await conversation().send("throw\n").expect("so far").expectEnd().run(server.connect());
    await conversation()
      .send("web\n")
      .send("echo")
      .expect("echo")
      .halfClose()
      .expectEnd()
      .run(server.connect());
    const held = server.connect();
    await conversation().send("hold\n").run(held);
    await server.drain(0);
    await expect(held.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
    expect(transcripts.map(told)).toEqual([
      ["client: throw\n", "server: so far", "server: (close)"],
      [
        "client: web\n",
        "client: echo",
        "server: echo",
        "client: (half-close)",
        "server: (half-close)",
        "server: (close)",
      ],
      ["client: hold\n", "server: (reset)"],
    ]);
    const errors = events.flatMap((event) => (event.type === "error" ? [String(event.error)] : []));
    expect(errors[0]).toBe("Error: thrown");
  });
});

describe("recordDatagrams", () => {
  test("each is one, whole, and each client has its number", async () => {
    const recording = recordDatagrams(EchoDatagram, { clock: ticking() });
    await using server = new MemoryDatagramServer(recording.Handler);
    void server.serveForever();
    const [one, two] = [server.network.socket(), server.network.socket()];
    for (const [socket, data] of [
      [one, "a"],
      [two, "b"],
      [one, ""],
    ] as const) {
      await socket.sendto(data, server.serverAddress);
      expect(text((await socket.recvfrom()).data)).toBe(data);
    }
    expect(recording.transcript).toEqual({
      kind: "datagrams",
      events: [
        { at: 1, from: "client", data: bytes("a") },
        { at: 2, from: "server", data: bytes("a") },
        { at: 3, from: "client", data: bytes("b"), peer: 2 },
        { at: 4, from: "server", data: bytes("b"), peer: 2 },
        { at: 5, from: "client", data: bytes("") },
        { at: 6, from: "server", data: bytes("") },
      ],
    });
    expect(() => replay(recording.transcript, "client")).toThrow(/several clients/);
    expect(String(replay(recording.transcript, "client", { peer: 2 }))).toBe('1. send("b")\n2. expect("b")');
  });

  test("a handler that emits, and one whose reply is refused", async () => {
    const events: SockletEvent[] = [];
    class Large extends BaseRequestHandler<Datagram> {
      override handle(): void {
        this.emit("here");
        this.request.reply(new Uint8Array(70_000));
      }
    }
    const recording = recordDatagrams(Large);
    await using server = new MemoryDatagramServer(recording.Handler, {
      onEvent: (event) => events.push(event),
    });
    void server.serveForever();
    const [socket] = [server.network.socket()];
    await socket.sendto("a", server.serverAddress);
    await new Promise(setImmediate);
    expect(
      events.flatMap((event) =>
        event.type === "error" ? [(event.error as { code: string }).code] : [event.type],
      ),
    ).toEqual(expect.arrayContaining(["handler", "EMSGSIZE"]));
    expect(told(recording.transcript)).toEqual(["client: a"]);
  });
});

describe("recordingProxy", () => {
  const through = async (Handler: HandlerClass<StreamSocket>, script: ReturnType<typeof conversation>) => {
    const transcripts: Transcript[] = [];
    const errors: unknown[] = [];
    const onEvent = (event: SockletEvent): void => void (event.type === "error" && errors.push(event.error));
    await using server = new ThreadingMemoryServer(Handler);
    void server.serveForever();
    const dial = async (): Promise<StreamSocket> => server.connect();
    const proxy = new ThreadingMemoryServer(
      recordingProxy(dial, (transcript) => transcripts.push(transcript)),
      { onEvent },
    );
    void proxy.serveForever();
    await using client = proxy.connect();
    await script.run(client);
    await client.close();
    await proxy.serverClose();
    return { transcript: transcripts[0] as Transcript, errors };
  };

  test("what passes is recorded, half-closes and all", async () => {
    const { transcript, errors } = await through(
      Echo,
      conversation().send("a").expect("a").halfClose().expectEnd(),
    );
    expect(told(transcript)).toEqual([
      "client: a",
      "server: a",
      "client: (half-close)",
      "server: (half-close)",
      "server: (close)",
    ]);
    expect(errors).toEqual([]);
  });

  test("much, both ways at a time", async () => {
    const large = new Uint8Array(1_000_000).map((_, i) => i % 251);
    const { transcript } = await through(
      Echo,
      conversation().send(large).expect(large).halfClose().expectEnd(),
    );
    assertTranscript(
      {
        kind: "stream",
        events: transcript.events.filter((event) => "from" in event && event.from === "server"),
      },
      {
        kind: "stream",
        events: [
          { at: 0, from: "server", data: large },
          { at: 0, from: "server", end: "close" },
        ],
      },
    );
  });

  test("a reset passes as one, in both directions", async () => {
    const Resets = streamHandler(async ({ request }) => {
      await request.recv();
      request.abort();
    });
    const served = await through(Resets, conversation().send("a").expectReset());
    expect(told(served.transcript)).toEqual(["client: a", "server: (reset)"]);
    expect(served.errors).toEqual([]);
    let heard: unknown;
    const Hears = streamHandler(async ({ request }) => {
      await request.sendall("go");
      heard = await request.recv().catch((error: { code: string }) => error.code);
    });
    const dialled = await through(Hears, conversation().expect("go").reset());
    expect(heard).toBe("ECONNRESET");
    expect(told(dialled.transcript)).toEqual(["server: go", "client: (reset)"]);
  });

  test("a server that cannot be dialled is the handler's error", async () => {
    const Relay = relayHandler(() => Promise.reject(new Error("nobody there")));
    await expect(runScript(Relay, conversation())).rejects.toThrow("nobody there");
  });
});

// ---- Replaying ----

describe("replay", () => {
  test("either side of what was recorded, against the other", async () => {
    const transcript = await recorded(RespServer, scripts.redis.halfClose().expectEnd(), {
      context: () => ({ keys: new KeyStore() }),
    });
    const form = parseTranscript(formatTranscript(transcript));
    await runScript(RespServer, replay(form, "client"), { context: () => ({ keys: new KeyStore() }) });
    const client = await recorded(RespClient, scripts.redisServer, {
      params: ["GET", "greeting"],
      side: "client",
    });
    expect(
      (await runScript(RespClient, replay(client, "server"), { params: ["GET", "greeting"] })).result,
    ).toBe("hello");
    const mail = await recorded(SmtpClient, scripts.mailServer, { params: scripts.delivery, side: "client" });
    await runScript(SmtpClient, replay(mail, "server"), { params: scripts.delivery });
  });

  test("as a server that is dialled", async () => {
    const Peer = scriptHandler(
      replay(written("C: PING\r\n", "S: +PONG\r\n", "C: half-close", "S: close"), "server"),
    );
    await using server = new MemoryServer(Peer);
    void server.serveForever();
    await using client = server.connect();
    await client.sendall("PI");
    await client.sendall("NG\r\n");
    expect(await client.rfile.line()).toBe("+PONG");
    await client.shutdown(SHUT_WR);
    expect(await client.recv()).toBeNull();
    await Peer.outcomes();
  });

  test("what the other says otherwise is a difference to read", async () => {
    const transcript = await recorded(MailRequestHandler, scripts.mail, {
      context: () => ({ storage: new MemoryStorage() }),
    });
    const error = await runScript(MailRequestHandler, replay(transcript, "client"), {
      context: () => ({ storage: new MemoryStorage() }),
    }).catch((reason: unknown) => reason as ScriptError);
    expect(error).toBeInstanceOf(ScriptError);
    expect((error as ScriptError).message).toMatch(
      /differs at byte \d+: .*\n- "250 Kept as .*\n\+ "250 Kept as /,
    );
  });

  test("but for what may differ", async () => {
    const transcript = await recorded(MailRequestHandler, scripts.mail, {
      context: () => ({ storage: new MemoryStorage() }),
    });
    const normalise = (line: string, from: string): string =>
      from === "server" ? line.replace(/Kept as \S+/, "Kept") : line;
    const again = replay(transcript, "client", { normalise });
    await runScript(MailRequestHandler, again, { context: () => ({ storage: new MemoryStorage() }) });
  });

  test.each<[string, readonly string[], readonly string[], readonly string[]]>([
    [
      "pieces of one's own stay pieces, those of the other are one",
      ["C: a", "C: b", "S: 1", "S: 2", "C: c"],
      ['send("a")', 'send("b")', 'expect("12")', 'send("c")'],
      ['expect("ab")', 'send("1")', 'send("2")', 'expect("c")'],
    ],
    [
      "a half-close in the middle",
      ["C: a", "C: half-close", "S: 1", "S: close"],
      ['send("a")', "halfClose()", 'expect("1")', "expectEnd()"],
      ['expect("a")', "expectEnd()", 'send("1")', "halfClose()", "close()"],
    ],
    [
      "ends at the very end: ours first, whatever was first",
      ["C: a", "S: half-close", "C: close"],
      ['send("a")', "halfClose()", "expectEnd()", "close()"],
      ['expect("a")', "halfClose()", "expectEnd()"],
    ],
    [
      "a reset",
      ["C: a", "S: half-close", "C: reset"],
      ['send("a")', "expectEnd()", "reset()"],
      ['expect("a")', "halfClose()", "expectReset()"],
    ],
    [
      "a reset after a half-close",
      ["C: a", "C: half-close", "S: 1", "C: reset"],
      ['send("a")', "halfClose()", 'expect("1")', "reset()"],
      ['expect("a")', "expectEnd()", 'send("1")'], // behind its end a reset cannot be heard
    ],
  ])("%s", (_, lines, client, server) => {
    const steps = (side: "client" | "server"): string[] =>
      String(replay(written(...lines), side))
        .split("\n")
        .map((line) => line.replace(/^\d+\. /, ""));
    expect(steps("client")).toEqual(client);
    expect(steps("server")).toEqual(server);
  });

  test("each of these runs: both sides of one transcript on the two ends of a connection", async () => {
    for (const lines of [
      ["C: a", "C: b", "S: 1", "S: 2", "C: c", "S: close", "C: close"],
      ["C: a", "C: half-close", "S: 1", "S: close"],
      ["C: a", "S: half-close", "C: close"],
      ["S: hello", "C: a", "S: half-close", "C: reset"],
      ["C: a", "C: half-close", "S: 1", "S: reset"],
    ]) {
      const [here, there] = memoryPair();
      await Promise.all([
        replay(written(...lines), "client").run(here),
        replay(written(...lines), "server").run(there),
      ]);
    }
  });

  test("paced: as long as it took", async () => {
    const clock = ticking();
    const transcript: Transcript = {
      kind: "stream",
      events: [
        { at: 5, from: "client", data: bytes("a") },
        { at: 7, from: "server", data: bytes("a") },
        { at: 57, from: "client", data: bytes("b") },
        { at: 57, from: "client", end: "half-close" },
      ],
    };
    await runScript(Echo, replay(transcript, "client", { paced: true }), { clock });
    expect(clock.slept).toEqual([5, 50]);
  });

  test("TLS begins where it began", () => {
    const transcript: Transcript = {
      kind: "stream",
      events: [
        { at: 0, from: "client", data: bytes("STARTTLS\r\n") },
        { at: 1, from: "server", data: bytes("220 Go on\r\n") },
        { at: 2, tls: true },
        { at: 3, from: "client", data: bytes("EHLO") },
      ],
    };
    expect(String(replay(transcript, "server"))).toBe(
      '1. expect("STARTTLS\\r\\n")\n2. send("220 Go on\\r\\n")\n3. startTls()\n4. expect("EHLO")',
    );
  });

  test("datagrams, of either side", async () => {
    const recording = recordDatagrams(EchoDatagram);
    await using server = new MemoryDatagramServer(recording.Handler);
    void server.serveForever();
    const socket = server.network.socket();
    const peer = {
      send: (data: Uint8Array) => socket.sendto(data, server.serverAddress),
      recv: async () => (await socket.recvfrom()).data,
    };
    await conversation()
      .send("a")
      .expect("a")
      .send(new Uint8Array([0]))
      .expect(new Uint8Array([0]))
      .run(peer);
    const { transcript } = recording;
    await replay(transcript, "client").run(peer);
    const Peer = scriptDatagramHandler(replay(transcript, "server"));
    await using scripted = new MemoryDatagramServer(Peer);
    void scripted.serveForever();
    const other = scripted.network.socket();
    await replay(transcript, "client").run({
      send: (data) => other.sendto(data, scripted.serverAddress),
      recv: async () => (await other.recvfrom()).data,
    });
    await Peer.outcomes();
  });
});

// ---- Comparing ----

describe("comparing", () => {
  const one = written("S: 220 hi\r\n", "C: NOOP\r\n", "S: 250 OK\r\n", "C: half-close", "S: half-close");

  test("times, pieces, a close for an end, and the order of the last ends do not count", () => {
    const other = written(
      "S: 220",
      "S:  hi\r\n",
      "C: NOOP\r\n",
      "S: 250 OK\r\n",
      "S: close",
      "C: half-close",
      "C: close",
    );
    assertTranscript(other, one);
    assertTranscript(other, formatTranscript(one));
  });

  test("another word: which turn, what differs, what was said before", () => {
    const error = compareTranscripts(written("S: 220 hi\r\n", "C: NOOP\r\n", "S: 250 Okay\r\n"), one);
    expect(error).toBeInstanceOf(TranscriptError);
    expect(error?.message).toMatchInlineSnapshot(`
      "turn 3 is another than in the transcript
      differs at byte 5: expected 4b "K", got 6b "k"
      - "250 OK\\r\\n"
      + "250 Okay\\r\\n"
              ^
      - 0000  32 35 30 20 4f 4b 0d 0a                           |250 OK..|
      + 0000  32 35 30 20 4f 6b 61 79  0d 0a                    |250 Okay..|

      The conversation before it (C: the client, S: the server):
      S: "220 hi\\r\\n"
      C: "NOOP\\r\\n""
    `);
    expect(error?.expected).toBe('S: "220 hi\\r\\n"\nC: "NOOP\\r\\n"\nS: "250 OK\\r\\n"\nC: (end)\nS: (end)');
    expect(error?.actual).toBe('S: "220 hi\\r\\n"\nC: "NOOP\\r\\n"\nS: "250 Okay\\r\\n"');
  });

  test.each<[string, Transcript, string]>([
    ["one who speaks out of turn", written("C: NOOP\r\n"), '- S: "220 hi\\r\\n"\n+ C: "NOOP\\r\\n"'],
    ["an end where more was expected", written("S: 220 hi\r\n", "S: close"), '- C: "NOOP\\r\\n"\n+ S: (end)'],
    ["a transcript that ends", written("S: 220 hi\r\n"), '- C: "NOOP\\r\\n"\n+ no more was said'],
    [
      "a reset for an end",
      written("S: 220 hi\r\n", "C: NOOP\r\n", "S: 250 OK\r\n", "C: reset"),
      "- C: (end), S: (end)\n+ C: (reset)",
    ],
  ])("%s", (_, actual, message) => {
    expect(compareTranscripts(actual, one)?.message).toContain(message);
  });

  test("borders of datagrams count, and who it was", () => {
    const datagrams = (...said: [string, number?][]): Transcript => ({
      kind: "datagrams",
      events: said.map(([data, peer], at) => ({
        at,
        from: "client",
        data: bytes(data),
        ...(peer && { peer }),
      })),
    });
    expect(compareTranscripts(datagrams(["a"], ["b"]), datagrams(["a"], ["b"]))).toBeNull();
    expect(compareTranscripts(datagrams(["ab"]), datagrams(["a"], ["b"]))).not.toBeNull();
    expect(compareTranscripts(datagrams(["a"], ["b", 2]), datagrams(["a"], ["b"]))?.message).toContain(
      '- C: "b"\n+ C2: "b"',
    );
  });

  test("apart: who of the two was first does not count", () => {
    const lockstep = written("C: a", "S: 1", "C: b", "S: 2", "C: half-close");
    const pipelined = written("C: ab", "S: 1", "S: 2", "C: half-close");
    expect(compareTranscripts(pipelined, lockstep)).not.toBeNull();
    assertTranscript(pipelined, lockstep, { apart: true });
    expect(
      compareTranscripts(written("C: ab", "S: 21", "C: half-close"), lockstep, { apart: true })?.message,
    ).toContain('- "12"\n+ "21"');
  });

  test("what may differ is normalised on both sides", () => {
    const [a, b] = [written("S: id 17 ok\r\nid 1 ok\r\n"), written("S: id 4 ok\r\nid 22222 ok\r\n")];
    const normalise = (line: string): string => line.replace(/^id \d+/, "id N");
    assertTranscript(a, b, { normalise });
    expect(() => assertTranscript(a, b)).toThrow(TranscriptError);
    expect(() => assertTranscript(a, written("S: id x ok\r\nid 2 ok\r\n"), { normalise })).toThrow(
      /- "id x ok/,
    );
  });
});

// ---- Matchers ----

declare module "vitest" {
  interface Matchers<R extends void | Promise<void>, T> extends TranscriptMatchers {}
}

describe("matchers", () => {
  const files = new Map<string, string>();
  const disk = {
    readFile: async (path: string | URL): Promise<string> => {
      const found = files.get(String(path));
      if (found === undefined) throw Object.assign(new Error("ENOENT: no such file"), { code: "ENOENT" });
      return found;
    },
    writeFile: async (path: string | URL, content: string): Promise<void> =>
      void files.set(String(path), content),
  };
  const transcript = written("S: 220 hi\r\n", "C: NOOP\r\n");
  const other = written("S: 220 hi\r\n", "C: QUIT\r\n");

  test("a file, or another transcript; also that it is not", async () => {
    expect.extend(transcriptMatchers(disk));
    files.set("kept.jsonl", formatTranscript(transcript));
    await expect(transcript).toMatchTranscript("kept.jsonl");
    await expect(transcript).toMatchTranscript(transcript);
    await expect(other).not.toMatchTranscript("kept.jsonl");
    await expect(other).toMatchTranscript(transcript, { normalise: (line) => line.replace("QUIT", "NOOP") });
    await expect(expect(other).toMatchTranscript("kept.jsonl")).rejects.toThrow(/turn 2 is another/);
    await expect(expect(transcript).not.toMatchTranscript("kept.jsonl")).rejects.toThrow(
      /is the one of kept\.jsonl, and should not be/,
    );
  });

  test("a file that is missing, or is none", async () => {
    expect.extend(transcriptMatchers(disk));
    await expect(expect(transcript).toMatchTranscript("missing.jsonl")).rejects.toThrow(
      "there is no transcript at missing.jsonl; write it by transcriptMatchers(files, { update: true })",
    );
    expect(files.has("missing.jsonl")).toBe(false);
    files.set("bad.jsonl", "{}");
    await expect(expect(transcript).toMatchTranscript("bad.jsonl")).rejects.toThrow(/line 1/);
  });

  test("with update what is missing or differs is written, and what does not is left as it is", async () => {
    expect.extend(transcriptMatchers(disk, { update: true }));
    await expect(transcript).toMatchTranscript("new.jsonl");
    expect(files.get("new.jsonl")).toBe(formatTranscript(transcript));
    await expect(other).toMatchTranscript("new.jsonl");
    expect(files.get("new.jsonl")).toBe(formatTranscript(other));
    await expect({ ...other, note: "later" }).toMatchTranscript("new.jsonl");
    expect(files.get("new.jsonl")).toBe(formatTranscript(other));
  });
});
