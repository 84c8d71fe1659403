/**
 * The matrix: every example in every place. The examples, each with its conversation, and the places, each with what
 * it carries, are two lists; a cell is what comes of the two. From them and the tests `npm run docs` makes
 * docs/places.md. Without a test framework, since Workers under test serve from it, too.
 */

import {
  BaseConnector,
  type BlobStorage,
  type Datagram,
  type HandlerClass,
  type StreamSocket,
} from "socklet";
import {
  type Conversation,
  checkFraming,
  compareTranscripts,
  conversation,
  type DatagramPeer,
  faultyHandler,
  MemoryDatagramServer,
  MemoryStorage,
  type Transcript as Recorded,
  record,
  recordHandler,
  type ScriptHandlerClass,
  type Side,
  scriptHandler,
  ThreadingMemoryServer,
  type TranscriptEvent,
} from "../../core/testing/index.ts";
import { Chat } from "../../examples/chat.ts";
import { DnsDatagram, DnsStream } from "../../examples/dns.ts";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { FingerClient, FingerServer } from "../../examples/finger.ts";
import { IrcClient } from "../../examples/irc.ts";
import { MailRequestHandler } from "../../examples/mail.ts";
import { MqttSubscriber } from "../../examples/mqtt.ts";
import { Postgres, PostgresClient } from "../../examples/postgres.ts";
import { Redis } from "../../examples/redis.ts";
import { RedisStreamReader, RedisSubscriber } from "../../examples/redis-follow.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import {
  Greeting,
  GreetingClient,
  StreamGreeting,
  Transcript,
  TranscriptClient,
} from "../../examples/tutorial.ts";
import * as scripts from "./scripts.ts";

// ---- The examples ----

/** What the example servers are given. */
export interface ExampleContext {
  readonly storage: BlobStorage;
  readonly keys: KeyStore;
  readonly members: Set<Chat>;
  /** Who `Postgres` logs in as. */
  readonly user: string;
  readonly plain: boolean;
}

export const exampleContext = (): ExampleContext => ({
  storage: new MemoryStorage(),
  keys: new KeyStore(),
  members: new Set(),
  user: "me",
  plain: true,
});

interface About {
  /** Where it is, in `examples/`. */
  readonly file: string;
  /** What is said, in a few words. */
  readonly says: string;
  /** What its other end does. */
  readonly script: Conversation;
  /** What differs each time. */
  readonly mask?: RegExp;
}

/** A handler of streams: a server, or, with `dials`, a client, whose server is the script. */
export interface StreamExample extends About {
  readonly Handler: HandlerClass<StreamSocket, ExampleContext>;
  readonly dials?: { readonly params?: unknown; readonly result: unknown };
}

/** A handler of datagrams. */
export interface DatagramExample extends About {
  readonly Datagrams: HandlerClass<Datagram, ExampleContext>;
}

export type Example = StreamExample | DatagramExample;

export const isDatagrams = (example: Example): example is DatagramExample => "Datagrams" in example;

const THANKS = "Thank you for connecting";
const thanks = conversation().expect(THANKS).expectEnd();
const QUERY = scripts.dnsQuery(77);
const LARGE = scripts.dnsQuery(78, "many");

/** Every handler that an example exports, by its name. */
export const examples: Readonly<Record<string, Example>> = {
  Echo: {
    file: "echo.ts",
    says: "a character in two pieces, and the end",
    Handler: Echo,
    script: scripts.echo,
  },
  EchoDatagram: {
    file: "echo.ts",
    says: "an empty datagram, a byte, and 1 200",
    Datagrams: EchoDatagram,
    script: [new Uint8Array(0), new Uint8Array(1), new Uint8Array(1200).fill(0xc3)].reduce(
      (all, data) => all.send(data).expect(data),
      conversation(),
    ),
  },
  Greeting: { file: "tutorial.ts", says: "a greeting, and the end", Handler: Greeting, script: thanks },
  StreamGreeting: {
    file: "tutorial.ts",
    says: "a greeting, and the end",
    Handler: StreamGreeting,
    script: thanks,
  },
  GreetingClient: {
    file: "tutorial.ts",
    says: "hears a greeting up to the end",
    Handler: GreetingClient,
    dials: { result: THANKS },
    script: conversation().send(THANKS).halfClose().expectEnd(),
  },
  Transcript: {
    file: "tutorial.ts",
    says: "two messages, and the end",
    Handler: Transcript,
    script: conversation()
      .send("Hello!")
      .expect("Hello!")
      .send("I like Tuesdays!")
      .expect("I like Tuesdays!")
      .halfClose()
      .expectEnd(),
  },
  TranscriptClient: {
    file: "tutorial.ts",
    says: "two messages, each echoed",
    Handler: TranscriptClient,
    dials: {
      params: ["Hello!", "größer"],
      result: [
        { sent: 6, received: "Hello!" },
        { sent: 8, received: "größer" },
      ],
    },
    script: conversation().expect("Hello!").send("Hello!").expect("größer").send("größer").expectEnd(),
  },
  MailRequestHandler: {
    file: "mail.ts",
    says: "a mail between addresses beyond ASCII; then HTTP, which it closes at",
    Handler: MailRequestHandler,
    script: scripts.mailUtf8,
    mask: /Kept as \S+/,
  },
  SmtpClient: {
    file: "smtp-client.ts",
    says: "delivers a mail in plain text",
    Handler: SmtpClient,
    dials: { params: scripts.delivery, result: { secured: false, reply: "Kept" } },
    script: scripts.mailServer,
  },
  RespServer: {
    file: "resp.ts",
    says: "keys and values, pipelined; then RESP3",
    Handler: RespServer,
    script: scripts.redis3,
    mask: /:\d+(?=\r\n)/g, // the number of the connection
  },
  RespClient: {
    file: "resp.ts",
    says: "asks for RESP3, and for a map",
    Handler: RespClient,
    dials: {
      params: [
        ["HELLO", "3"],
        ["CONFIG", "GET", "save"],
      ],
      result: [
        { map: [["proto", 3]] },
        {
          map: [
            ["save", null],
            ["x", [true, 1.5]],
          ],
        },
      ],
    },
    script: scripts.redisServer3,
  },
  Redis: {
    file: "redis.ts",
    says: "logs in, and asks for one key",
    Handler: Redis,
    dials: { params: ["GET", "greeting"], result: "hello" },
    script: scripts.redisLogin,
  },
  DnsStream: {
    file: "dns.ts",
    says: "one query, over its length; and one with a large answer",
    Handler: DnsStream,
    script: scripts.dnsLarge,
  },
  DnsDatagram: {
    file: "dns.ts",
    says: "one query; and one whose answer is cut short",
    Datagrams: DnsDatagram,
    script: conversation()
      .send(QUERY)
      .expectBytes(50)
      .check(({ bytes }) => {
        const [id, last] = [bytes.slice(0, 2), bytes.slice(-4)];
        if (`${id}` !== "0,77" || `${last}` !== "192,0,2,80") throw new Error(`id ${id}, address ${last}`);
      })
      .send(LARGE)
      .expectBytes(LARGE.length)
      .check(({ bytes }) => {
        if (((bytes[2] ?? 0) & 2) === 0) throw new Error("it does not say that it is cut short (TC)");
      }),
  },
  FingerServer: {
    file: "finger.ts",
    says: "who alice is, up to the end",
    Handler: FingerServer,
    script: scripts.finger,
  },
  FingerClient: {
    file: "finger.ts",
    says: "asks who alice is",
    Handler: FingerClient,
    dials: { params: "alice", result: "Login: alice\r\n" },
    script: conversation().expectLine("alice").send("Login: alice\r\n").halfClose().expectEnd(),
  },
  Chat: {
    file: "chat.ts",
    says: "a name, and a line that everybody gets (here: one member)",
    Handler: Chat,
    script: conversation()
      .expectLine("What is your name?")
      .send("größe\x1b[2J\n")
      .expectLine("* größe[2J is here, of 1")
      .send("hello\r\n")
      .expectLine("größe[2J: hello")
      .halfClose()
      .expectEnd(),
  },
  Postgres: {
    file: "postgres.ts",
    says: "logs in without TLS or password, and asks one query",
    Handler: Postgres,
    dials: {
      params: "SELECT 1 AS one",
      result: { columns: ["one"], rows: [["1"]], tag: "SELECT 1" },
    },
    script: scripts.postgresServer,
  },
  RedisStreamReader: {
    file: "redis-follow.ts",
    says: "two entries of a stream",
    Handler: RedisStreamReader,
    dials: { params: { key: "entries", limit: 2 }, result: 2 },
    script: scripts.redisStreamServer,
  },
  RedisSubscriber: {
    file: "redis-follow.ts",
    says: "subscribes, and hears a message",
    Handler: RedisSubscriber,
    dials: { params: { channel: "news", limit: 1 }, result: 1 },
    script: scripts.redisChannelServer,
  },
  MqttSubscriber: {
    file: "mqtt.ts",
    says: "one message of QoS 2, and again before it is released",
    Handler: MqttSubscriber,
    dials: { params: { clientId: "c", topic: "a/#", limit: 1 }, result: 1 },
    script: scripts.mqttServer,
  },
  IrcClient: {
    file: "irc.ts",
    says: "joins, answers a ping, and hears a line",
    Handler: IrcClient,
    dials: { params: { nick: "ada", channel: "#tea", limit: 1 }, result: 1 },
    script: scripts.ircServer,
  },
  PostgresClient: {
    file: "postgres.ts",
    says: "one query, without TLS or password",
    Handler: PostgresClient,
    dials: {
      params: scripts.postgresQuery,
      result: { secured: false, version: "18.0", columns: ["one"], rows: [["1"]], tag: "SELECT 1" },
    },
    script: scripts.postgresServer,
  },
};

// ---- The places ----

/** `works`, with what a user should know; or `cannot`, with the reason, and the platform's error. */
export type Cell = { readonly works: string } | { readonly cannot: string; readonly says: string };

export const COLUMNS = ["Node", "Bun", "Deno", "Worker", "memory"] as const;
export type Column = (typeof COLUMNS)[number];

export interface Place {
  readonly name: string;
  /** The column of "What works where" that it belongs to. */
  readonly column: Column;
  /** The text of that column about serving here, and about dialling; absent if the other end is in another place. */
  readonly serves?: string;
  readonly dials?: string;
  /** What serves, and what dials. */
  readonly ends: string;
  /** The test that runs it. */
  readonly file: string;
  readonly streams: Cell;
  readonly datagrams: Cell;
}

const IN_NODE = "test/emulator/matrix.test.ts";
const IN_WORKERD = "test/worker/matrix.test.ts";
const IN_OTHERS = "test/runtimes/matrix.test.ts";
const works = (what = ""): Cell => ({ works: what });

const TCP_DATAGRAMS = {
  cannot: "TCP carries streams, which have no message boundaries; `UDPServer` serves a datagram handler",
  says: "TypeError: TCPServer listens on tcp://host:port or tls://host:port; udp://127.0.0.1:0 is for a UDPServer",
} as const;
const TLS_DATAGRAMS = {
  cannot: "TLS secures streams; datagrams need DTLS (RFC 9147), which Node does not have",
  says: "TypeError: udp://127.0.0.1:9 is a datagram address; this dials streams",
} as const;
const UDP_STREAMS = {
  cannot: "UDP carries datagrams, which may be lost; `TCPServer` serves a stream handler",
  says: "TypeError: UDPServer listens on udp://host:port; tcp://127.0.0.1:0 is for a TCPServer",
} as const;

/** The places of a runtime that has Node's modules. */
const placesIn = (column: "Bun" | "Deno") =>
  ({
    tcp: {
      name: `${column} TCP`,
      column,
      serves: "TCP",
      dials: "TCP",
      ends: "as Node TCP",
      file: IN_OTHERS,
      streams: works(),
      datagrams: TCP_DATAGRAMS,
    },
    tls: {
      name: `${column} TLS`,
      column,
      serves: "TLS",
      dials: "TLS",
      ends: "as Node TLS",
      file: IN_OTHERS,
      streams: works(),
      datagrams: TLS_DATAGRAMS,
    },
    unix: {
      name: `${column} Unix`,
      column,
      serves: "Unix",
      dials: "Unix",
      ends: "`ThreadingUnixStreamServer` on a path; `createConnection` and `TCPConnector` dial",
      file: IN_OTHERS,
      streams: works(),
      datagrams: {
        cannot: `${column} has no Unix datagrams of its own, and the packages that provide them are for Node`,
        says: `SocketError: ERR_UNSUPPORTED: datagrams on a path needs Node, and this is ${column}: use UDP on the loopback address`,
      },
    },
    udp: {
      name: `${column} UDP`,
      column,
      serves: "UDP",
      dials: "UDP",
      ends: "as Node UDP",
      file: IN_OTHERS,
      streams: UDP_STREAMS,
      datagrams: works(),
    },
  }) as const satisfies Readonly<Record<string, Place>>;

const bun = placesIn("Bun");
const deno = placesIn("Deno");

/** Every place, in the order of the page. */
export const places = {
  memory: {
    name: "memory",
    column: "memory",
    serves: "yes",
    dials: "yes",
    ends: "`ThreadingMemoryServer` and `MemoryDatagramServer`, dialled in the same process",
    file: IN_NODE,
    streams: works(),
    datagrams: works(),
  },
  "memory-workerd": {
    name: "memory, in workerd",
    column: "memory",
    ends: "the same, inside a Worker",
    file: IN_WORKERD,
    streams: works(),
    datagrams: works(),
  },
  "node-tcp": {
    name: "Node TCP",
    column: "Node",
    serves: "TCP",
    dials: "TCP",
    ends: "`ThreadingTCPServer`; `createConnection` and `TCPConnector` dial",
    file: IN_NODE,
    streams: works(),
    datagrams: TCP_DATAGRAMS,
  },
  "node-tls": {
    name: "Node TLS",
    column: "Node",
    serves: "TLS",
    dials: "TLS",
    ends: 'the same with `tls`: a listener of TLS, dialled with `secureTransport: "on"`',
    file: IN_NODE,
    streams: works(),
    datagrams: TLS_DATAGRAMS,
  },
  "node-tls-forking": {
    name: "Node TLS, forking",
    column: "Node",
    ends: "`ForkingTCPServer` with `tls`, whose children do the handshakes; one listener for all, and ALPN selects the example",
    file: IN_NODE,
    streams: works(),
    datagrams: {
      cannot: "as (b)",
      says: "TypeError: ForkingTCPServer listens on tcp://host:port or tls://host:port; udp://127.0.0.1:0 is for a UDPServer",
    },
  },
  "node-unix": {
    name: "Node Unix",
    column: "Node",
    serves: "Unix",
    dials: "Unix",
    ends: "`ThreadingUnixStreamServer` and `ThreadingUnixDatagramServer` on a path; `createConnection`, `TCPConnector` and `socket()` dial",
    file: IN_NODE,
    streams: works(),
    datagrams: works("with the package `koffi`, or `node-unix-socket`"),
  },
  "node-udp": {
    name: "Node UDP",
    column: "Node",
    serves: "UDP",
    dials: "UDP",
    ends: "`ThreadingUDPServer`; the client is a socket of Node's own",
    file: IN_NODE,
    streams: UDP_STREAMS,
    datagrams: works(),
  },
  "workerd-port": {
    name: "workerd, by port",
    column: "Worker",
    serves: "by port (`wrangler dev` only)",
    ends: "`workerFor(app)` behind `[[connect]]`, local; Node dials over the kernel",
    file: IN_NODE,
    streams: works(),
    datagrams: works("with the compatibility flag `experimental`"),
  },
  "workerd-service": {
    name: "workerd, service binding",
    column: "Worker",
    serves: "by service binding",
    dials: "a service binding",
    ends: "`workerFor(app)`; a Worker dials by `env.NAME.connect()`",
    file: IN_WORKERD,
    streams: works(),
    datagrams: {
      cannot:
        "`connect()` of a binding opens a stream: its address is `host:port` without a scheme, and no option asks for datagrams",
      says: "TypeError: Specified address is missing port.",
    },
  },
  "workerd-object": {
    name: "workerd, Durable Object",
    column: "Worker",
    serves: "by Durable Object",
    dials: "a Durable Object",
    ends: "`WorkerServer` in an object; a Worker dials by `stub.connect()`",
    file: IN_WORKERD,
    streams: works(),
    datagrams: {
      cannot:
        "`connect()` of a binding opens a stream: its address is `host:port` without a scheme, and no option asks for datagrams",
      says: "TypeError: Specified address is missing port.",
    },
  },
  "workerd-outbound": {
    name: "workerd, outbound",
    column: "Worker",
    dials: "TCP",
    ends: "`createConnection` and `TCPConnector` of `socklet/worker`, by `connect()`; Node serves",
    file: IN_WORKERD,
    streams: works(),
    datagrams: {
      cannot: "`connect()` of `cloudflare:sockets` dials TCP",
      says: "SocketError: ERR_UNSUPPORTED: a Worker has no outbound datagrams; UDP out of a Worker needs a relay that speaks TCP or WebSocket",
    },
  },
  "workerd-outbound-tls": {
    name: "workerd, outbound TLS",
    column: "Worker",
    dials: "TLS",
    ends: 'the same with `secureTransport: "on"`',
    file: IN_WORKERD,
    streams: works(),
    datagrams: {
      cannot: "as (g); and TLS secures streams",
      says: "TypeError: udp://127.0.0.1:9 is a datagram address; this dials streams",
    },
  },
  "bun-tcp": bun.tcp,
  "bun-tls": bun.tls,
  "bun-unix": bun.unix,
  "bun-udp": bun.udp,
  "deno-tcp": deno.tcp,
  "deno-tls": deno.tls,
  "deno-unix": deno.unix,
  "deno-udp": deno.udp,
} as const satisfies Readonly<Record<string, Place>>;

export type PlaceId = keyof typeof places;

/** Those that the test `file` has to run. */
export const placesOf = (file: string): PlaceId[] =>
  (Object.keys(places) as PlaceId[]).filter((id) => places[id].file === file);

export const cellOf = (example: Example, id: PlaceId): Cell =>
  isDatagrams(example) ? places[id].datagrams : places[id].streams;

// ---- The body ----

/** The name behind which a place serves an example: as a host, since some places are dialled by that. */
export const doorOf = (name: string): string => `example-${name.toLowerCase()}`;

/** What a place serves for an example of streams: its handler, or for a client the script. */
export const served = ({
  Handler,
  dials,
  script,
}: StreamExample): HandlerClass<StreamSocket, ExampleContext> | ScriptHandlerClass<StreamSocket> =>
  dials === undefined ? Handler : scriptHandler(script, PATIENT);

/** Where `served()` is up. */
export interface StreamDoor {
  dial(): Promise<StreamSocket>;
  /** The platform's own connector, if it has one. */
  connector?(
    Handler: HandlerClass<StreamSocket, ExampleContext>,
  ): BaseConnector<StreamSocket, ExampleContext>;
}

class DialConnector extends BaseConnector<StreamSocket, ExampleContext> {
  readonly #dial: () => Promise<StreamSocket>;

  constructor(Handler: HandlerClass<StreamSocket, ExampleContext>, dial: () => Promise<StreamSocket>) {
    super(Handler, { context: exampleContext() });
    this.#dial = dial;
  }

  override connect(): Promise<StreamSocket> {
    return this.#dial();
  }

  override peerOf(request: StreamSocket) {
    return request.getpeername();
  }
}

/** What came of one conversation, as the end that dialled saw it. */
export interface Held {
  readonly transcript: Recorded;
  /** What a client returned. */
  readonly result: unknown;
}

/** How a conversation of streams is held. What comes of it must be the same. */
export type Way = "as it stands" | "byte by byte" | "in one piece";

/** The ways to run an example: the input of a client comes from a script, and not in one piece. */
export const waysOf = (example: Example): readonly Way[] => {
  if (isDatagrams(example)) return ["as it stands"];
  const both = ["as it stands", "byte by byte"] as const;
  return example.dials === undefined ? [...both, "in one piece"] : both;
};

/** The same, and each byte that its handler is sent comes by itself: cut there, since a network would join them again. */
export const byBytes = (example: StreamExample): StreamExample => ({
  ...example,
  Handler: faultyHandler(example.Handler, { incoming: { slice: 1 } }),
});

/** The name behind which a server has its bytes one by one. */
export const bytesName = (name: string): string => `${name}-bytes`;

/** All that a place serves: the examples, and the servers of streams once more, by bytes. */
export const servings: Readonly<Record<string, Example>> = Object.fromEntries(
  Object.entries(examples).flatMap(([name, example]): [string, Example][] =>
    isDatagrams(example) || example.dials !== undefined
      ? [[name, example]]
      : [
          [name, example],
          [bytesName(name), byBytes(example)],
        ],
  ),
);

/** What one side says, or both. */
const bytesOf = ({ events }: Recorded, from: Side): Uint8Array =>
  Uint8Array.from(events.flatMap((event) => ("data" in event && event.from === from ? [...event.data] : [])));

const normaliseOf = ({ mask }: Example) =>
  mask === undefined ? {} : { normalise: (line: string) => line.replace(mask, "") };

/** All that the client says, at once, and its end behind it; then all that it was answered. */
const inOnePiece = async (example: StreamExample): Promise<Conversation> => {
  const { transcript } = await heldInMemory(example);
  const asked = bytesOf(transcript, "client");
  const { normalise } = normaliseOf(example);
  const script = asked.length === 0 ? conversation() : conversation().send(asked);
  return script.halfClose().expect(bytesOf(transcript, "server"), normalise).expectEnd();
};

/** For scripts whose peer is another process: how many ms it may be silent. A script's own default is 3 s. */
export const PATIENT = { timeout: 120_000 };

/** Holds the conversation of an example of streams behind this door, which serves a server by bytes where `way` says so. Throws the script's own error. */
export const holdStream = async (
  example: StreamExample,
  { dial, connector = (Client) => new DialConnector(Client, dial) }: StreamDoor,
  way: Way = "as it stands",
): Promise<Held> => {
  const { Handler, dials } = way === "byte by byte" ? byBytes(example) : example;
  if (dials === undefined) {
    const script = way === "in one piece" ? await inOnePiece(example) : example.script;
    const recording = record(await dial(), "client");
    try {
      await script.run(recording.stream, PATIENT);
    } finally {
      await recording.stream.close();
    }
    return { transcript: recording.transcript, result: undefined };
  }
  const transcripts: Recorded[] = [];
  const Client = recordHandler(Handler, (transcript) => transcripts.push(transcript), { side: "client" });
  const result = await connector(Client).run({ params: dials.params });
  return { transcript: transcripts[0] as Recorded, result };
};

/** The same of datagrams, with a peer that talks to it. */
export const holdDatagrams = async ({ script }: DatagramExample, peer: DatagramPeer): Promise<Held> => {
  const events: TranscriptEvent[] = [];
  const heard: DatagramPeer = {
    async send(data) {
      events.push({ at: 0, from: "client", data });
      await peer.send(data);
    },
    async recv() {
      const data = await peer.recv();
      events.push({ at: 0, from: "server", data });
      return data;
    },
  };
  await script.run(heard, PATIENT);
  return { transcript: { kind: "datagrams", events }, result: undefined };
};

/** Memory as a place. */
export const inMemory = {
  check: (example: StreamExample): Promise<void> => checkExample(example),
  async streams(example: StreamExample): Promise<StreamDoor & AsyncDisposable> {
    const server = new ThreadingMemoryServer<ExampleContext>(served(example), { context: exampleContext() });
    void server.serveForever();
    return { dial: async () => server.connect(), [Symbol.asyncDispose]: () => server.serverClose() };
  },
  async datagrams({ Datagrams }: DatagramExample): Promise<DatagramPeer & AsyncDisposable> {
    const server = new MemoryDatagramServer<ExampleContext>(Datagrams, { context: exampleContext() });
    void server.serveForever();
    const socket = server.network.socket();
    return {
      send: (data) => socket.sendto(data, server.serverAddress),
      recv: async () => (await socket.recvfrom()).data,
      async [Symbol.asyncDispose]() {
        await socket.close();
        await server.serverClose();
      },
    };
  },
};

const heldInMemory = async (example: Example): Promise<Held> => {
  if (isDatagrams(example)) {
    await using peer = await inMemory.datagrams(example);
    return await holdDatagrams(example, peer);
  }
  await using door = await inMemory.streams(example);
  return await holdStream(example, door);
};

/** Throws if the conversation in a place differed from the one in memory. */
export const sameAsInMemory = async (example: Example, held: Held, way: Way): Promise<void> => {
  if (way === "in one piece") return; // its script has said so
  const { transcript } = await heldInMemory(example);
  const differs = compareTranscripts(held.transcript, transcript, normaliseOf(example));
  if (differs !== null) throw differs;
};

/** The conversation under every cut, end and reset; throws a `FramingError`. In memory, where that takes no time. */
export const checkExample = async (example: StreamExample): Promise<void> => {
  const { transcript } = await heldInMemory(example);
  const peer: Side = example.dials === undefined ? "client" : "server";
  const messages: Uint8Array[] = [];
  let speaks = false;
  for (const event of transcript.events) {
    if (!("data" in event)) continue;
    const others = event.from !== peer;
    if (!others) messages.push(speaks ? joined(messages.pop(), event.data) : event.data);
    speaks = !others;
  }
  await checkFraming(example.Handler, messages, {
    context: exampleContext,
    params: example.dials?.params,
    ...(example.mask !== undefined && { mask: example.mask }),
  });
};

const joined = (head: Uint8Array | undefined, tail: Uint8Array): Uint8Array =>
  Uint8Array.from([...(head ?? []), ...tail]);
