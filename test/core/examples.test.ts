import {
  type Address,
  BaseConnector,
  formatAddress,
  type HandlerClass,
  type SockletEvent,
  type StreamSocket,
} from "socklet";
import {
  MemoryDatagramServer,
  MemoryServer,
  MemoryStorage,
  memoryPair,
  ThreadingMemoryServer,
} from "socklet/testing";
import { describe, expect, test } from "vitest";
import { isApp } from "../../core/app/app.ts";
import { toJson } from "../../core/describe.ts";
import { app } from "../../examples/app.ts";
import { Chat, type ChatContext } from "../../examples/chat.ts";
import { answer, DnsDatagram, DnsStream } from "../../examples/dns.ts";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { FingerClient, FingerServer } from "../../examples/finger.ts";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import {
  Greeting,
  GreetingClient,
  StreamGreeting,
  Transcript,
  TranscriptClient,
} from "../../examples/tutorial.ts";
import { fc } from "../conformance/properties.ts";

// ---- Help ----

const encoder = new TextEncoder();

/** Text of characters up to U+00FF as bytes of the same numbers, and back. */
const bytesOf = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0));
const textOf = (bytes: Uint8Array | null): string =>
  Array.from(bytes ?? [], (byte) => String.fromCharCode(byte)).join("");

/** A server in memory that serves until it is closed, and all that it told. */
const serve = <Context>(Handler: HandlerClass<StreamSocket, Context>, context?: Context) => {
  const events: SockletEvent[] = [];
  const server = new ThreadingMemoryServer<Context>(Handler, {
    ...(context !== undefined && { context }),
    onEvent: (event) => events.push(event),
  });
  void server.serveForever();
  return {
    server,
    errors: () => events.flatMap((event) => (event.type === "error" ? [event.error] : [])),
    told: () => events.flatMap((event) => (event.type === "handler" ? [event.detail] : [])),
    [Symbol.asyncDispose]: () => server.serverClose(),
  };
};

/** Where clients come to. */
type Place = { connect(): StreamSocket };

/** Sends `pieces`, then the end, and gives all that comes back. */
const talk = async (server: Place, pieces: readonly (Uint8Array | string)[]): Promise<string> => {
  await using client = server.connect();
  const answers = client.rfile.read();
  for (const piece of pieces) {
    await client.sendall(piece).catch(() => {}); // the server may have had enough
    await Promise.resolve(); // so that the server sees the piece by itself
  }
  await client.shutdown(1).catch(() => {});
  return textOf(await answers);
};

/** Runs a handler on a connection that `connect` opens. */
class Dial extends BaseConnector<StreamSocket> {
  readonly #open: () => StreamSocket;
  constructor(Handler: HandlerClass<StreamSocket>, open: () => StreamSocket) {
    super(Handler);
    this.#open = open;
  }
  override connect = async (): Promise<StreamSocket> => this.#open();
  override peerOf = (request: StreamSocket): Address | null => request.getpeername();
}

const dial = (Handler: HandlerClass<StreamSocket>, server: Place, params?: unknown) =>
  new Dial(Handler, () => server.connect()).run({ params });

/** `Handler` talks to a peer that says `script`, and then ends. */
const against = (Handler: HandlerClass<StreamSocket>, script: string, params?: unknown) =>
  new Dial(Handler, () => {
    const [client, peer] = memoryPair();
    void peer.sendall(bytesOf(script)).then(() => peer.shutdown(1));
    return client;
  }).run({ params });

/** `bytes` in two at each place. */
const cuts = (bytes: Uint8Array): Uint8Array[][] =>
  Array.from({ length: bytes.length + 1 }, (_, at) => [bytes.slice(0, at), bytes.slice(at)]);

const single = (bytes: Uint8Array): Uint8Array[] => Array.from(bytes, (byte) => Uint8Array.of(byte));

// ---- Echo ----

describe("echo", () => {
  test("gives back every byte, and the end", async () => {
    await using place = serve(Echo);
    const sent = Uint8Array.from({ length: 300_000 }, (_, i) => i % 251);
    expect(await talk(place.server, [sent])).toBe(textOf(sent));
    expect(place.errors()).toEqual([]);
  });

  test.each([0, 1, 512, 1472, 65_507])("gives back a datagram of %d bytes", async (size) => {
    await using server = new MemoryDatagramServer(EchoDatagram);
    void server.serveForever();
    const client = server.network.socket();
    await server.listen();
    const sent = Uint8Array.from({ length: size }, (_, i) => i % 251);
    await client.sendto(sent, server.serverAddress);
    expect((await client.recvfrom()).data).toEqual(sent);
  });
});

// ---- The tutorial ----

describe("tutorial", () => {
  test.each([
    ["Greeting", Greeting],
    ["StreamGreeting", StreamGreeting],
  ])("%s thanks its client and tells its address", async (_, Handler) => {
    await using place = serve(Handler);
    expect(await dial(GreetingClient, place.server)).toBe("Thank you for connecting");
    expect(place.told()).toEqual([expect.stringMatching(/^Got connection from 127\.0\.0\.1:\d+$/)]);
  });

  test("Transcript tells what it hears and sends it back", async () => {
    await using place = serve(Transcript);
    expect(await dial(TranscriptClient, place.server)).toEqual([
      { sent: 6, received: "Hello!" },
      { sent: 16, received: "I like Tuesdays!" },
    ]);
    expect(await dial(TranscriptClient, place.server, ["Hello, I come from pythontik.com", "π"])).toEqual([
      { sent: 32, received: "Hello, I come from pythontik.com" },
      { sent: 2, received: "π" },
    ]);
    await place.server.serverClose();
    expect(place.told()).toEqual([
      "Got new connection!",
      "Received: Hello!",
      "Received: I like Tuesdays!",
      "Done with connection",
      "Got new connection!",
      "Received: Hello, I come from pythontik.com",
      "Received: π",
      "Done with connection",
    ]);
  });

  test("Transcript joins a character that comes in two pieces", async () => {
    await using place = serve(Transcript);
    await talk(place.server, single(encoder.encode("π")));
    await place.server.serverClose();
    expect(place.told().slice(1, 3).join("")).toBe("Received: Received: π");
  });

  test("TranscriptClient says what its params must be", async () => {
    await using place = serve(Transcript);
    await expect(dial(TranscriptClient, place.server, "Hello!")).rejects.toThrow(
      /params must be an array of texts/,
    );
  });
});

// ---- Mail ----

const ENVELOPE = "EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
const MiB = 1024 * 1024;

const mailServer = (storage = new MemoryStorage()) => ({
  storage,
  ...serve<MailContext>(MailRequestHandler, { storage }),
});

/** The codes of the replies, the first line's only of those with several. */
const codes = (replies: string): string =>
  replies
    .split("\r\n")
    .filter((line) => /^\d{3} /.test(line))
    .map((line) => line.slice(0, 3))
    .join(" ");

const mails = async (storage: MemoryStorage): Promise<string[]> =>
  Promise.all((await storage.list()).map(async (name) => textOf(await storage.get(name))));

describe("mail", () => {
  test("takes a mail, names it, and keeps its bytes without the dots of SMTP", async () => {
    await using place = mailServer();
    const mail = "Subject: x\r\n\r\n..two\r\n.\xff\x00\r\nend\r\n";
    const replies = await talk(place.server, [
      bytesOf(`${ENVELOPE}${mail.replace(/^\./gm, "..")}.\r\nQUIT\r\n`),
    ]);
    expect(replies).toMatch(/\r\n250 Kept as (\d{8}T\d{9}Z-\d+\.eml)\r\n221 /);
    expect(await mails(place.storage)).toEqual([mail]);
    const [kept] = await place.storage.list();
    expect(replies).toContain(`250 Kept as ${kept}\r\n`);
    expect(place.told()).toEqual([{ kept, from: "a@b", to: ["c@d"], size: mail.length }]);
    expect(place.errors()).toEqual([]);
  });

  test("says what it can", async () => {
    await using place = mailServer();
    expect(await talk(place.server, ["EHLO c\r\n"])).toBe(
      "220 socklet.test ESMTP Socklet\r\n250-socklet.test\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    );
  });

  test.each([
    ["HELO", "501"],
    ["EHLO ", "501"],
    ["MAIL FROM:<a@b>", "503"],
    ["RCPT TO:<a@b>", "503"],
    ["DATA", "503"],
    ["EHLO c|DATA", "250 503"],
    ["EHLO c|RCPT TO:<a@b>", "250 503"],
    ["HELO c|MAIL FROM:<a@b>|DATA", "250 250 503"],
    ["HELO c|MAIL FROM:<a@b>|MAIL FROM:<a@b>", "250 250 503"],
    ["HELO c|MAIL FROM:<a@b>|RSET|MAIL FROM:<>", "250 250 250 250"],
    ["HELO c|MAIL FROM:<a@b>|EHLO c|MAIL FROM:<a@b>", "250 250 250 250"],
    ["helo c|mail from:<a@b>|rcpt to:<c@d>", "250 250 250"],
    ["HELO c|MAIL FROM: <a@b>", "250 250"],
    ["HELO c|MAIL FROM:a@b", "250 501"],
    ["HELO c|MAIL FROM:<a b@c>", "250 501"],
    ["HELO c|MAIL TO:<a@b>", "250 501"],
    ["HELO c|MAIL", "250 501"],
    ["HELO c|MAIL FROM:<a@b>SIZE=1", "250 501"],
    ['HELO c|MAIL FROM:<"a > \\" b"@c>', "250 250"],
    ["HELO c|MAIL FROM:<@x,@y:a@b>", "250 250"],
    ["HELO c|MAIL FROM:<a@b> SIZE=10485760 BODY=8BITMIME", "250 250"],
    ["HELO c|MAIL FROM:<a@b> size=1 body=7bit", "250 250"],
    ["HELO c|MAIL FROM:<a@b> SIZE=10485761", "250 552"],
    ["HELO c|MAIL FROM:<a@b> SIZE=99999999999999999999", "250 552"],
    ["HELO c|MAIL FROM:<a@b> SIZE=x", "250 501"],
    ["HELO c|MAIL FROM:<a@b> SIZE", "250 501"],
    ["HELO c|MAIL FROM:<a@b> BODY=BINARYMIME", "250 501"],
    ["EHLO c|MAIL FROM:<a@b> SMTPUTF8", "250 250"],
    ["EHLO c|MAIL FROM:<a@b> SMTPUTF8=1", "250 501"],
    ["EHLO c|MAIL FROM:<a@b> NOPE", "250 555"],
    ["EHLO c|MAIL FROM:<\xc3\xa9@b>", "250 553"],
    ["EHLO c|MAIL FROM:<\xc3\xa9@b> smtputf8 SIZE=3|RCPT TO:<c@\xc3\xa9>", "250 250 250"],
    ["EHLO c|MAIL FROM:<a@b>|RCPT TO:<c@\xc3\xa9>|RCPT TO:<c@d>", "250 250 553 250"],
    ["EHLO c|MAIL FROM:<a@b> SMTPUTF8|RSET|MAIL FROM:<a@b>|RCPT TO:<\xc3\xa9>", "250 250 250 250 553"],
    ["EHLO c|MAIL FROM:<\xe9@b> SMTPUTF8", "250 501"],
    ["EHLO c|MAIL FROM:<a@b> SMTPUTF8|RCPT TO:<\xff@d>", "250 250 501"],
    ["GET / HTTP/1.1|NOOP", "221"],
    ["POST / HTTP/1.1|NOOP", "221"],
    ["CONNECT x:25 HTTP/1.1|NOOP", "221"],
    ["NOOP|get|NOOP", "250 221"],
    ["GETS|NOOP|NO\xc5\xbfOOP|R\xc5\xbfET", "500 250 500 500"],
    ["\x16\x03\x01|NOOP", "221"],
    ["HELO c|MAIL FROM:<a@b>|RCPT TO:<>", "250 250 501"],
    ["HELO c|MAIL FROM:<a@b>|RCPT TO:<postmaster>", "250 250 250"],
    ["HELO c|MAIL FROM:<a@b>|RCPT TO:<c@d> NOTIFY=NEVER", "250 250 555"],
    ["HELO c|MAIL FROM:<a@b>|RCPT TO:<c@d>|DATA now", "250 250 250 501"],
    ["NOOP|NOOP x|VRFY a|VRFY|RSET|RSET x", "250 250 252 501 250 501"],
    ["QUIT x|QUIT ", "501 221"],
    ["QUIT|NOOP", "221"],
    ["|EXPN x|NOOP \xff\xfe", "500 500 250"],
    ["\xff\xfe|NOOP", "221"],
  ])("%j is answered with %j", async (lines, expected) => {
    await using place = mailServer();
    const script = lines.split("|").map((line) => `${line}\r\n`);
    expect(codes(await talk(place.server, [bytesOf(script.join(""))]))).toBe(`220 ${expected}`);
    expect(codes(await talk(place.server, script.map(bytesOf)))).toBe(`220 ${expected}`);
    expect(place.errors()).toEqual([]);
  });

  test("keeps addresses beyond ASCII, and tells them", async () => {
    await using place = mailServer();
    const envelope = "MAIL FROM:<josé@bücher.example> SMTPUTF8\r\nRCPT TO:<用户@例子.example>\r\nDATA\r\n";
    const mail = "Subject: größe\r\n\r\nπ\r\n";
    await talk(place.server, [`EHLO c\r\n${envelope}${mail}.\r\nQUIT\r\n`]);
    expect(await mails(place.storage)).toEqual([textOf(encoder.encode(mail))]);
    expect(place.told()).toMatchObject([{ from: "josé@bücher.example", to: ["用户@例子.example"] }]);
  });

  test("tells who is no mail client, and closes", async () => {
    await using place = mailServer();
    const request = `POST / HTTP/1.1\r\nHost: x\r\n\r\n${ENVELOPE}x\r\n.\r\n`;
    expect(codes(await talk(place.server, [request]))).toBe("220 221");
    expect(place.told()).toEqual([{ refused: "POST" }]);
    expect(await place.storage.list()).toEqual([]);
  });

  test("takes 100 recipients, and lines as long as RFC 5321 says", async () => {
    await using place = mailServer();
    const many = `HELO c\r\nMAIL FROM:<a@b>\r\n${"RCPT TO:<c@d>\r\n".repeat(101)}`;
    expect(codes(await talk(place.server, [many]))).toBe(`220 250 250${" 250".repeat(100)} 452`);
    const long = (size: number) => `NOOP ${"x".repeat(size - "NOOP \r\n".length)}\r\n`;
    expect(codes(await talk(place.server, [long(512), long(513), long(512)]))).toBe("220 250 500 250");
    // It counts bytes, and not characters.
    const wide = (size: number) => `NOOP ${"é".repeat((size - "NOOP \r\n".length) / 2)}\r\n`;
    expect(codes(await talk(place.server, [wide(511), wide(513), wide(511)]))).toBe("220 250 500 250");
  });

  test("is the same wherever its bytes are cut", async () => {
    await using place = mailServer();
    const script = bytesOf(
      `${ENVELOPE}..a\r\n\xff.\r\n\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<x>\r\nDATA\r\n.\r\nQUIT\r\n`,
    );
    const expected = "220 250 250 250 354 250 250 250 354 250 221";
    for (const pieces of [...cuts(script), single(script)]) {
      expect(codes(await talk(place.server, pieces))).toBe(expected);
    }
    const kept = await mails(place.storage);
    expect(kept.filter((mail) => mail === ".a\r\n\xff.\r\n\r\n")).toHaveLength(script.length + 2);
    expect(kept.filter((mail) => mail === "")).toHaveLength(script.length + 2);
    expect(place.errors()).toEqual([]);
  });

  // Each of these ends the mail at some server that was found open to smuggling, or looks as if it might.
  test.each([
    "\n.\n",
    "\n.\r\n",
    "\r.\r\n",
    "\r.\r",
    "\n.\r",
    "\r\n.\n",
    "\r\n.\r",
    "\r\n.\r\r\n",
    "\r\n.\x00\r\n",
    "\r\n\x00.\r\n",
    "\r\r\n.\n",
    "\r\n. \r\n",
  ])("%j does not end a mail", async (end) => {
    await using place = mailServer();
    const hidden = "MAIL FROM:<evil@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nhidden\r\n";
    const replies = await talk(place.server, [bytesOf(`${ENVELOPE}a${end}${hidden}\r\n.\r\nNOOP\r\n`)]);
    expect(codes(replies)).toBe("220 250 250 250 354 250 250");
    expect(await mails(place.storage)).toEqual([expect.stringContaining("hidden")]);
  });

  test("keeps any bytes, exactly", async () => {
    await using place = mailServer();
    const part = fc.constantFrom(".", "..", "\r\n", "\r", "\n", "\r\n.", "\xff", "\x00", "text", ".\r\n");
    await fc.assert(
      fc.asyncProperty(fc.array(part), fc.array(fc.nat(64)), async (parts, sizes) => {
        const mail = parts.join("") === "" ? "" : `${parts.join("")}\r\n`;
        const stuffed = `\r\n${mail}`.replaceAll("\r\n.", "\r\n..").slice(2);
        let rest = bytesOf(`${ENVELOPE}${stuffed}.\r\n`);
        const pieces = sizes.map((size) => {
          const piece = rest.slice(0, size);
          rest = rest.slice(size);
          return piece;
        });
        const replies = await talk(place.server, [...pieces, rest]);
        const [, name = ""] = /Kept as (\S+)/.exec(replies) ?? [];
        expect(textOf(await place.storage.get(name))).toBe(mail);
      }),
      { numRuns: 200 },
    );
  });

  test("takes a mail of just 10 MiB and none of a byte more; and goes on after that", async () => {
    await using place = mailServer();
    const line = `${"x".repeat(1022)}\r\n`;
    const full = line.repeat(10 * 1024);
    const mail = (text: string) => `MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n${text}.\r\n`;
    expect(
      codes(await talk(place.server, [`HELO c\r\n${mail(`x${full}`)}${mail("..\r\n")}${mail(full)}`])),
    ).toBe("220 250 250 250 354 552 250 250 354 250 250 250 354 250");
    const kept = await mails(place.storage);
    expect(kept.map((one) => one.length).sort()).toEqual([10 * MiB, 3]);
  });

  test("ends a connection whose lines have no end", async () => {
    await using place = mailServer();
    const command = await talk(place.server, ["x".repeat(200_000)]);
    expect(codes(command)).toBe("220 500");
    const data = await talk(place.server, [ENVELOPE, "x".repeat(200_000)]);
    expect(codes(data)).toBe("220 250 250 250 354 500");
    expect(await place.storage.list()).toEqual([]);
    expect(place.errors()).toEqual([]);
  });

  test("drops a mail whose end never comes", async () => {
    await using place = mailServer();
    for (const rest of ["", "text", "text\r\n", "text\r\n.", "text\r\n.\r", "text\r\n.\n"]) {
      expect(codes(await talk(place.server, [ENVELOPE + rest]))).toBe("220 250 250 250 354");
    }
    expect(await place.storage.list()).toEqual([]);
    expect(place.errors()).toEqual([]);
  });

  test("answers 451 where it cannot keep a mail, and tells why", async () => {
    class FullStorage extends MemoryStorage {
      override put = async (): Promise<void> => {
        throw new Error("no space left");
      };
    }
    await using place = mailServer(new FullStorage());
    expect(codes(await talk(place.server, [`${ENVELOPE}x\r\n.\r\nNOOP\r\n`]))).toBe(
      "220 250 250 250 354 451 250",
    );
    expect(place.told()).toEqual([expect.objectContaining({ error: "Error: no space left" })]);
  });

  test("says good-bye to a client that is silent too long", async () => {
    const server = new MemoryServer<MailContext>(MailRequestHandler, {
      context: { storage: new MemoryStorage() },
      stream: { timeout: 10 },
    });
    void server.serveForever();
    await using client = server.connect();
    client.settimeout(5_000);
    expect(codes(textOf(await client.rfile.read()))).toBe("220 421");
    await server.serverClose();
  });
});

// ---- RESP ----

const respServer = () => serve(RespServer, { keys: new KeyStore() });
const array = (...words: string[]): string =>
  `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join("")}`;

/** A bulk string, behind what was said before it. */
const bulk = (text: string, before = ""): string => `${before}$${text.length}\r\n${text}\r\n`;
/** What `HELLO` answers the first client, behind the length of the map. */
const HELLO = (protocol: 2 | 3): string =>
  [
    ...["server", "socklet", "version", "7.0.15", "proto"].map((text) => bulk(text)),
    `:${protocol}\r\n`,
    ...[bulk("id"), ":1\r\n"],
    ...["mode", "standalone", "role", "master", "modules"].map((text) => bulk(text)),
    "*0\r\n",
  ].join("");
const NO_NAME = "cannot contain spaces, newlines or special characters.\r\n";

/** What is left of replies when all that are whole are read. */
const unread = (replies: string): string => {
  let rest = replies;
  const reply = (): boolean => {
    const [line, type, size] = /^(?:([+:,(#_-])[^\r\n]*|[$=*~%>|](-?\d+))\r\n/.exec(rest) ?? [];
    if (line === undefined) return false;
    const before = rest;
    rest = rest.slice(line.length);
    if (type !== undefined || size === "-1") return true;
    const count = Number(size);
    if ("$=".includes(line[0] as string)) {
      const whole = rest.slice(count, count + 2) === "\r\n";
      rest = whole ? rest.slice(count + 2) : before;
      return whole;
    }
    const items = "%|".includes(line[0] as string) ? 2 * count : count;
    return Array.from({ length: items }).every(reply);
  };
  while (reply());
  return rest;
};

describe("resp server", () => {
  test.each([
    ["PING\r\n", "+PONG\r\n"],
    ["ping\n", "+PONG\r\n"],
    ["PING hello\r\n", "$5\r\nhello\r\n"],
    ["\r\n\r\n  \r\nPING\r\n", "+PONG\r\n"],
    ["*0\r\n*-1\r\nPING\r\n", "+PONG\r\n"],
    [array("PING"), "+PONG\r\n"],
    [array("ECHO", "a\r\nb\x00\xff"), "$6\r\na\r\nb\x00\xff\r\n"],
    [array("ECHO", ""), "$0\r\n\r\n"],
    [array("GET", "none"), "$-1\r\n"],
    [array("SET", "k\n\xff", "\r\n\x80") + array("GET", "k\n\xff"), "+OK\r\n$3\r\n\r\n\x80\r\n"],
    [array("SET", "k", "v", "EX", "1"), "-ERR syntax error\r\n"],
    [array("SET", "k", "v") + array("DEL", "k", "k", "l") + array("GET", "k"), "+OK\r\n:1\r\n$-1\r\n"],
    ["INCR n\r\nINCR n\r\nGET n\r\n", ":1\r\n:2\r\n$1\r\n2\r\n"],
    ["SET n x\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"],
    ["SET n 01\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"],
    ["SET n -1\r\nINCR n\r\n", "+OK\r\n:0\r\n"],
    ["SET n 9007199254740993\r\nINCR n\r\n", "+OK\r\n:9007199254740994\r\n"],
    ["SET n 9223372036854775807\r\nINCR n\r\n", "+OK\r\n-ERR increment or decrement would overflow\r\n"],
    ["SET n 9223372036854775808\r\nINCR n\r\n", "+OK\r\n-ERR value is not an integer or out of range\r\n"],
    ["SELECT 0\r\nSELECT 1\r\n", "+OK\r\n-ERR DB index is out of range\r\n"],
    ["CLIENT SETNAME x\r\nCLIENT SETINFO LIB-NAME y\r\nCOMMAND DOCS nope\r\n", "+OK\r\n+OK\r\n*0\r\n"],
    ["CLIENT NOPE\r\n", "-ERR unknown subcommand 'NOPE'. Try CLIENT HELP.\r\n"],
    [
      "CLIENT MAINT_NOTIFICATIONS ON\r\n",
      "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.\r\n",
    ],
    ["CLIENT SETINFO LIB-NAME 'a b'\r\n", `-ERR LIB-NAME ${NO_NAME}`],
    ["CLIENT SETINFO NOPE x\r\n", "-ERR Unrecognized option 'NOPE'\r\n"],
    [
      "CLIENT SETINFO lib-ver 1\r\nCLIENT INFO\r\n",
      bulk("id=1 name= db=0 resp=2 lib-name= lib-ver=1\n", "+OK\r\n"),
    ],
    ["CONFIG GET save\r\n", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"],
    ["CONFIG GET a*y .ave sa[v]e\r\n", "*2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n"],
    ["CONFIG SET save x\r\n", "-ERR unknown subcommand 'SET'. Try CONFIG HELP.\r\n"],
    ["HELLO\r\n", `*14\r\n${HELLO(2)}`],
    ["HELLO 2\r\nGET none\r\n", `*14\r\n${HELLO(2)}$-1\r\n`],
    ["HELLO 3\r\nGET none\r\n", `%7\r\n${HELLO(3)}_\r\n`],
    ["HELLO 3\r\nHELLO 2\r\nGET none\r\n", `%7\r\n${HELLO(3)}*14\r\n${HELLO(2)}$-1\r\n`],
    ["HELLO 3\r\nHELLO 4\r\nGET none\r\n", `%7\r\n${HELLO(3)}-NOPROTO unsupported protocol version\r\n_\r\n`],
    ["HELLO 3 SETNAME a\r\nCLIENT GETNAME\r\n", `%7\r\n${HELLO(3)}$1\r\na\r\n`],
    ["HELLO 3 SETNAME 'a b'\r\nGET none\r\n", `-ERR Client names ${NO_NAME}$-1\r\n`],
    [
      "INFO nothing\r\nHELLO 3\r\nINFO persistence\r\n",
      `$0\r\n\r\n%7\r\n${HELLO(3)}=30\r\ntxt:# Persistence\r\nloading:0\r\n\r\n`,
    ],
    [array("\xc3\xa9"), "-ERR unknown command '\xc3\xa9', with args beginning with: \r\n"],
    ["*1\r\n$1\r\n\xc3\xa9\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    [array("nope", "\xff\x00x"), "-ERR unknown command 'nope', with args beginning with: '\xff' \r\n"],
    // Letters beyond ASCII whose capitals are within it: none of them is a command.
    ["\xc4\xb1ncr n\r\n", "-ERR unknown command '\xc4\xb1ncr', with args beginning with: 'n' \r\n"],
    [
      array("\xc5\xbfet", "k", "v"),
      "-ERR unknown command '\xc5\xbfet', with args beginning with: 'k' 'v' \r\n",
    ],
    ['PING "a\\x00\\xfF\\n\\q\\""\r\n', '$6\r\na\x00\xff\nq"\r\n'],
    ["PING\t'it\\'s \\n'\t\r\n", "$7\r\nit's \\n\r\n"],
    ["PING \xc3\xa9\r\n", "$2\r\n\xc3\xa9\r\n"],
    ['PING "\r\n', "-ERR Protocol error: unbalanced quotes in request\r\n"],
    ["PING ''x\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"],
    ["PING '\\'\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"],
    ["PING \xff\r\n", '-ERR Protocol error: invalid UTF-8 in an inline request; write "\\xff"\r\n'],
    ["PING\r\nPOST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n", "+PONG\r\n"],
    ["GET / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n", "-ERR wrong number of arguments for 'get' command\r\n"],
    [array("host:") + array("PING"), ""],
    ["*1\r\n\xc4\x8aPING\r\n", "-ERR Protocol error: expected '$', got '\xc4'\r\n"],
    ["*01\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*1\r\n$-0\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    [
      "INCRBY n 5\r\nINCRBY n -7\r\nINCRBY n x\r\nEXISTS n n m\r\n",
      ":5\r\n:-2\r\n-ERR value is not an integer or out of range\r\n:2\r\n",
    ],
    [
      "SET n -9223372036854775808\r\nINCRBY n -1\r\n",
      "+OK\r\n-ERR increment or decrement would overflow\r\n",
    ],
    ["QUIT\r\nPING\r\n", "+OK\r\n"],
    ["GET\r\n", "-ERR wrong number of arguments for 'get' command\r\n"],
    ["GET a b\r\n", "-ERR wrong number of arguments for 'get' command\r\n"],
    [array("NO\rSUCH", "a\r\nb"), "-ERR unknown command 'NO SUCH', with args beginning with: 'a  b' \r\n"],
    [array("") + array("PING"), "-ERR unknown command '', with args beginning with: \r\n+PONG\r\n"],
    ["constructor\r\n", "-ERR unknown command 'constructor', with args beginning with: \r\n"],
    ["*x\r\nPING\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*1025\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*99999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*1e3\r\n", "-ERR Protocol error: invalid multibulk length\r\n"],
    ["*1\r\nPING\r\n", "-ERR Protocol error: expected '$', got 'P'\r\n"],
    ["*1\r\n\r\n", "-ERR Protocol error: expected '$', got ''\r\n"],
    ["*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*1\r\n$x\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*2\r\n$4\r\nECHO\r\n$16777217\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16777213\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*2\r\n$4\r\nECHO\r\n$1\r\nab\r\nPING\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*1\r\n$4\r\nPINGS\r\n", "-ERR Protocol error: invalid bulk length\r\n"],
    ["*2\r\n$4\r\nECHO\r\n$5\r\nab", ""],
    ["*2\r\n$4\r\nECHO\r\n$2\r\nab", ""],
    ["*2\r\n$4\r\nECHO\r\n", ""],
  ])("%j is answered with %j", async (request, expected) => {
    await using place = respServer();
    expect(await talk(place.server, [bytesOf(request)])).toBe(expected);
    expect(place.errors()).toEqual([]);
  });

  test("is the same wherever its bytes are cut", async () => {
    await using place = respServer();
    const script = bytesOf(
      `${array("SET", "k\r\n", "v\xff\n")}GET k\r\n${array("GET", "k\r\n")}INCR c\n${array("DEL", "k\r\n", "c")}`,
    );
    for (const pieces of [...cuts(script), single(script)]) {
      expect(await talk(place.server, pieces)).toBe("+OK\r\n$-1\r\n$3\r\nv\xff\n\r\n:1\r\n:2\r\n");
    }
    expect(place.errors()).toEqual([]);
  });

  test("ends a connection whose line has no end", async () => {
    await using place = respServer();
    expect(await talk(place.server, ["x".repeat(70_000)])).toBe(
      "-ERR Protocol error: too big inline request\r\n",
    );
  });

  test("tells that it closes a connection of HTTP, and does none of its commands", async () => {
    await using place = respServer();
    const request = "POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n";
    expect(await talk(place.server, [request])).toBe("");
    expect(await talk(place.server, ["GET k\r\nQUIT\r\n"])).toBe("$-1\r\n+OK\r\n");
    expect(place.told()).toEqual([{ refused: "HTTP" }]);
  });

  test("answers a pipeline in order", async () => {
    await using place = respServer();
    const count = 20_000;
    const script = Array.from({ length: count }, (_, i) => array("ECHO", `${i}`)).join("");
    const expected = Array.from({ length: count }, (_, i) => `$${`${i}`.length}\r\n${i}\r\n`).join("");
    expect((await talk(place.server, [script])) === expected).toBe(true);
  });

  test("gives no more memory than it has", async () => {
    const keys = new KeyStore();
    const key = Uint8Array.of(1);
    const half = new Uint8Array(16 * MiB - 1024);
    expect(keys.set(key, half)).toBe(true);
    expect(keys.set(Uint8Array.of(2), half)).toBe(true);
    expect(keys.set(Uint8Array.of(3), half)).toBe(false);
    expect(keys.set(key, half)).toBe(true);
    expect(keys.delete(key)).toBe(true);
    expect(keys.delete(key)).toBe(false);
    expect(keys.set(Uint8Array.of(3), half)).toBe(true);
    expect(keys.get(Uint8Array.of(3))).toBe(half);
    await using place = serve(RespServer, { keys });
    const request = array("SET", "x", "x".repeat(8192));
    expect(await talk(place.server, [request])).toBe(
      "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    );
  });

  test("any bytes are answered with replies, whole and nothing but", async () => {
    await using place = respServer();
    const part = fc.oneof(
      fc.constantFrom(
        "\r\n",
        "\n",
        " ",
        '"',
        "'",
        "\\",
        "\\x",
        "*2\r\n",
        "$3\r\n",
        "\xc4\x8a",
        "\xff",
        "\x00",
        "\t",
      ),
      fc.constantFrom(
        "HELLO 3\r\n",
        "HELLO 2\r\n",
        "CLIENT ",
        "COMMAND DOCS\r\n",
        "COMMAND\r\n",
        "INFO\r\n",
        "CONFIG GET *\r\n",
      ),
      fc.constantFrom(
        "CLIENT HELP\r\n",
        "CLIENT INFO\r\n",
        "SETNAME ",
        "DEBUG PROTOCOL map\r\n",
        "DEBUG PROTOCOL attrib\r\n",
      ),
      fc.constantFrom(
        "DEBUG PROTOCOL push\r\n",
        "DEBUG PROTOCOL verbatim\r\n",
        "SET k v\r\n",
        "GET k\r\n",
        "NOPE ",
      ),
      fc.array(fc.nat(255), { maxLength: 8 }).map((bytes) => String.fromCharCode(...bytes)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 30 }), async (parts) => {
        expect(unread(await talk(place.server, [bytesOf(parts.join(""))]))).toBe("");
      }),
      { numRuns: 1000 },
    );
    expect(place.errors()).toEqual([]);
  });

  test("tells keys apart by all their bytes", async () => {
    await using place = respServer();
    const key = fc.uint8Array({ maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(key, { selector: (bytes) => textOf(bytes), maxLength: 8 }),
        async (names) => {
          const commands = [
            ...names.map((name, i) => ["SET", name, `${i}`]),
            ...names.map((name) => ["GET", name]),
          ];
          if (commands.length === 0) return;
          const replies = (await dial(RespClient, place.server, commands)) as unknown[];
          expect(replies.slice(names.length)).toEqual(names.map((_, i) => `${i}`));
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe("resp client", () => {
  test("gives one reply for one command, and an array for several", async () => {
    await using place = respServer();
    expect(await dial(RespClient, place.server, ["PING"])).toBe("PONG");
    expect(await dial(RespClient, place.server, [["PING"]])).toEqual(["PONG"]);
    const several = [["SET", "k", "π"], ["GET", "k"], ["GET", "l"], ["INCR", "n"], ["NOPE"]];
    expect(await dial(RespClient, place.server, several)).toEqual([
      "OK",
      "π",
      null,
      1,
      { error: expect.stringContaining("ERR unknown command 'NOPE'") },
    ]);
  });

  test("gives bytes that are not text as bytes, which JSON tags", async () => {
    await using place = respServer();
    const reply = await dial(RespClient, place.server, ["ECHO", Uint8Array.of(0xff, 0, 10)]);
    expect(reply).toEqual(Uint8Array.of(0xff, 0, 10));
    expect(toJson(reply)).toBe('{"base64":"/wAK"}');
  });

  test("sends more than both ends hold without a deadlock", async () => {
    await using place = respServer();
    const text = "x".repeat(100_000);
    const replies = await dial(RespClient, place.server, Array(100).fill(["ECHO", text]));
    expect(replies).toEqual(Array(100).fill(text));
  });

  test.each([
    ["*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n*-1\r\n", [1, ["a", []], null]],
    ["*1\r\n-ERR x\r\n", [{ error: "ERR x" }]],
    [":-5\r\n", -5],
    [":9223372036854775807\r\n", 9223372036854775807n],
    ["+\r\n", ""],
    ["$0\r\n\r\n", ""],
    ["$3\r\n\xef\xbb\xbf\r\n", "\uFEFF"],
    ["_\r\n", null],
    ["#t\r\n", true],
    ["*2\r\n#f\r\n,-1.5e3\r\n", [false, -1500]],
    ["*3\r\n,inf\r\n,-inf\r\n,nan\r\n", [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN]],
    ["(3492890328409238509324850943850943825024385\r\n", 3492890328409238509324850943850943825024385n],
    ["(12\r\n", 12],
    ["!9\r\nERR a\r\nbc\r\n", { error: "ERR a\r\nbc" }],
    ["=6\r\ntxt:a\n\r\n", "a\n"],
    ["~2\r\n:1\r\n$1\r\na\r\n", [1, "a"]],
    [
      "%2\r\n+a\r\n:1\r\n:2\r\n%0\r\n",
      {
        map: [
          ["a", 1],
          [2, { map: [] }],
        ],
      },
    ],
    ["|1\r\n+ttl\r\n:3600\r\n*2\r\n|0\r\n:1\r\n:2\r\n", [1, 2]],
    [">2\r\n+message\r\n:1\r\n+OK\r\n", "OK"],
  ])("reads %j", async (script, expected) => {
    expect(await against(RespClient, script, ["X"])).toEqual(expected);
  });

  test.each([
    ["", "ECONNRESET"],
    ["$5\r\nab", "ERR_INCOMPLETE_READ"],
    ["HTTP/1.1 400 Bad Request\r\n", "ERR_REFUSED"],
    [":x\r\n", "ERR_REFUSED"],
    ["$-2\r\n", "ERR_REFUSED"],
    ["*9999999\r\n", "ERR_REFUSED"],
    ["$99999999\r\n", "ERR_LIMIT"],
    ["*1\r\n".repeat(33), "ERR_REFUSED"],
    ["%1\r\n".repeat(33), "ERR_REFUSED"],
    ["|1\r\n".repeat(33), "ERR_REFUSED"],
    ["%-1\r\n", "ERR_REFUSED"],
    ["#x\r\n", "ERR_REFUSED"],
    ["_x\r\n", "ERR_REFUSED"],
    [",\r\n", "ERR_REFUSED"],
    [",1x\r\n", "ERR_REFUSED"],
    ["=3\r\ntxt\r\n", "ERR_REFUSED"],
    ["*1\r\n>1\r\n:1\r\n", "ERR_REFUSED"],
    ["|1\r\n+a\r\n+b\r\n", "ECONNRESET"],
  ])("of %j says %s", async (script, code) => {
    await expect(against(RespClient, script, ["X"])).rejects.toMatchObject({ code });
  });

  test.each([[undefined], [[]], ["PING"], [[[]]], [["GET", 1]], [[["GET"], "k"]], [{}]])(
    "says what params %j should be",
    async (params) => {
      await expect(against(RespClient, "", params)).rejects.toThrow(TypeError);
      await expect(against(RespClient, "", params)).rejects.toThrow('["GET", "k"]');
    },
  );
});

// ---- DNS ----

const TYPE = { A: 1, NS: 2, CNAME: 5, SOA: 6, MX: 15, TXT: 16, AAAA: 28, OPT: 41, AXFR: 252, ANY: 255 };
type TypeName = keyof typeof TYPE;

const packed = (name: string): number[] => [
  ...name.split(".").flatMap((label) => (label === "" ? [] : [label.length, ...encoder.encode(label)])),
  0,
];

const edns = (size: number, version = 0): number[] => [
  0,
  0,
  41,
  size >> 8,
  size & 255,
  0,
  version,
  0x80,
  0,
  0,
  0,
];

/** A query of `name`; `extra` are additional records. */
const query = (name: string, type: TypeName = "A", extra: number[] = [], klass = 1): Uint8Array =>
  Uint8Array.from([
    ...[0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, extra.length > 0 ? 1 : 0],
    ...[...packed(name), 0, TYPE[type], 0, klass],
    ...extra,
  ]);

interface Told {
  readonly id: number;
  readonly code: number;
  readonly flags: string;
  readonly question: string;
  readonly answers: string[];
  readonly authority: string[];
  readonly additional: string[];
}

/** Reads a reply strictly: every byte has its place. */
const told = (reply: Uint8Array): Told => {
  const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
  let at = 12;
  const name = (): string => {
    const labels: string[] = [];
    let end: number | undefined;
    for (;;) {
      const length = view.getUint8(at++);
      if (length === 0) break;
      if (length >= 0xc0) {
        const to = ((length & 63) << 8) | view.getUint8(at++);
        end ??= at;
        expect(to).toBeLessThan(at - 2); // a pointer looks back
        at = to;
        continue;
      }
      expect(length).toBeLessThan(64);
      labels.push(textOf(reply.subarray(at, at + length)));
      at += length;
    }
    at = end ?? at;
    return labels.join(".");
  };
  const record = (): string => {
    const owner = name();
    const type = view.getUint16(at);
    const ttl = view.getUint32(at + 4);
    const size = view.getUint16(at + 8);
    at += 10;
    const end = at + size;
    let data: string;
    if (type === TYPE.A) data = reply.subarray(at, end).join(".");
    else if (type === TYPE.CNAME || type === TYPE.NS) data = name();
    else if (type === TYPE.MX) {
      data = `${view.getUint16(at)} `;
      at += 2;
      data += name();
    } else if (type === TYPE.SOA) data = [name(), name()].join(" ");
    else data = `${size} bytes`;
    expect(end).toBeLessThanOrEqual(reply.length);
    at = end;
    const said = Object.keys(TYPE).find((key) => TYPE[key as TypeName] === type);
    return `${owner} ${ttl} ${said} ${data}`;
  };
  const many = (index: number): string[] => Array.from({ length: view.getUint16(index) }, record);
  const question = view.getUint16(4) === 0 ? "" : `${name()} ${view.getUint16(at)} ${view.getUint16(at + 2)}`;
  if (question !== "") at += 4;
  const answers = many(6);
  const authority = many(8);
  const additional = many(10);
  expect(at).toBe(reply.length);
  const bits = view.getUint16(2);
  const names: [number, string][] = [
    [0x8000, "qr"],
    [0x400, "aa"],
    [0x200, "tc"],
    [0x100, "rd"],
    [0x80, "ra"],
  ];
  const flags = names.flatMap(([bit, said]) => (bits & bit ? [said] : [])).join(" ");
  return { id: view.getUint16(0), code: bits & 15, flags, question, answers, authority, additional };
};

const ask = (...args: Parameters<typeof query>): Told => told(answer(query(...args), 512) as Uint8Array);

const SOA_ABSENT = ["example.test 300 SOA ns1.example.test hostmaster.example.test"];

describe("dns", () => {
  test("answers with the records of a name", () => {
    expect(ask("www.example.test")).toEqual({
      id: 0xabcd,
      code: 0,
      flags: "qr aa rd",
      question: "www.example.test 1 1",
      answers: ["www.example.test 3600 A 192.0.2.80"],
      authority: [],
      additional: [],
    });
    expect(ask("example.test", "MX").answers).toEqual([
      "example.test 3600 MX 10 mail.example.test",
      "example.test 3600 MX 20 mail.example.net",
    ]);
    expect(ask("mail.example.test", "AAAA").answers).toEqual(["mail.example.test 3600 AAAA 16 bytes"]);
    expect(ask("text.example.test", "TXT").answers).toEqual(["text.example.test 3600 TXT 302 bytes"]);
    expect(ask("example.test", "NS").answers).toHaveLength(2);
  });

  test("repeats the question letter for letter", () => {
    const reply = ask("wWw.ExAmPlE.TeSt");
    expect(reply.question).toBe("wWw.ExAmPlE.TeSt 1 1");
    expect(reply.answers).toEqual(["wWw.ExAmPlE.TeSt 3600 A 192.0.2.80"]);
  });

  test("follows aliases within the zone, and no alias twice", () => {
    expect(ask("web.example.test").answers).toEqual([
      "web.example.test 3600 CNAME www.example.test",
      "www.example.test 3600 A 192.0.2.80",
    ]);
    expect(ask("web.example.test", "CNAME").answers).toHaveLength(1);
    expect(ask("away.example.test").answers).toEqual(["away.example.test 3600 CNAME www.example.net"]);
    expect(ask("loop.example.test").answers).toEqual(["loop.example.test 3600 CNAME loop.example.test"]);
    const astray = ask("astray.example.test");
    expect(astray.code).toBe(3);
    expect(astray.answers).toEqual(["astray.example.test 3600 CNAME nowhere.example.test"]);
    expect(astray.authority).toEqual(SOA_ABSENT);
  });

  test("says that a name, or a type of it, is not there, and how long that holds", () => {
    expect(ask("none.example.test")).toMatchObject({ code: 3, flags: "qr aa rd", authority: SOA_ABSENT });
    expect(ask("www.example.test", "MX")).toMatchObject({ code: 0, answers: [], authority: SOA_ABSENT });
    expect(ask("deep.example.test")).toMatchObject({ code: 0, answers: [], authority: SOA_ABSENT });
    expect(ask("x.www.example.test").code).toBe(3);
  });

  test("refuses what is not its own", () => {
    const refused = { code: 5, flags: "qr rd", answers: [], authority: [] };
    expect(ask("example.com")).toMatchObject(refused);
    expect(ask("notexample.test")).toMatchObject(refused);
    expect(ask("")).toMatchObject(refused);
    expect(ask("example.test", "AXFR")).toMatchObject(refused);
    expect(ask("www.example.test", "A", [], 3)).toMatchObject(refused); // CHAOS
  });

  test("a dot within a label is not a dot between labels", () => {
    const dotted = Uint8Array.from([
      ...query("x").subarray(0, 12),
      ...[11, ...encoder.encode("www.example"), 4, ...encoder.encode("test"), 0, 0, 1, 0, 1],
    ]);
    expect(told(answer(dotted, 512) as Uint8Array).code).toBe(5);
  });

  test("gives ANY one type", () => {
    expect(ask("mail.example.test", "ANY").answers).toEqual(["mail.example.test 3600 A 192.0.2.25"]);
  });

  test("truncates what is larger than the client takes", () => {
    const cut = answer(query("many.example.test"), 512) as Uint8Array;
    expect(told(cut)).toMatchObject({ flags: "qr aa tc rd", answers: [] });
    expect(told(answer(query("many.example.test"), 65_535) as Uint8Array).answers).toHaveLength(100);
    // The client's size counts over UDP, up to ours, and not below 512.
    const large = told(answer(query("many.example.test", "A", edns(4096)), 512) as Uint8Array);
    expect(large).toMatchObject({ flags: "qr aa tc rd", additional: [" 32768 OPT 0 bytes"] });
    expect(ask("text.example.test", "TXT", edns(100)).answers).toHaveLength(1);
    expect(
      told(answer(query("many.example.test", "A", edns(512)), 65_535) as Uint8Array).answers,
    ).toHaveLength(100);
  });

  test("answers EDNS with EDNS, and not where it was not asked", () => {
    expect(ask("www.example.test").additional).toEqual([]);
    expect(ask("www.example.test", "A", edns(1232)).additional).toEqual([" 32768 OPT 0 bytes"]);
    const newer = ask("www.example.test", "A", edns(1232, 1));
    expect(newer).toMatchObject({ code: 0, answers: [], additional: [` ${0x01008000} OPT 0 bytes`] }); // BADVERS
  });

  test("says of what it cannot read that it cannot", () => {
    const whole = query("www.example.test", "A", edns(1232));
    const plain = query("www.example.test").length;
    for (let size = 0; size < 12; size++) expect(answer(whole.subarray(0, size), 512)).toBeNull();
    for (let size = 12; size < whole.length; size++) {
      if (size === plain) continue;
      expect(told(answer(whole.subarray(0, size), 512) as Uint8Array)).toMatchObject({
        code: 1,
        question: "",
      });
    }
    const twice = Uint8Array.from([...whole, ...edns(512)]);
    twice[11] = 2;
    expect(told(answer(twice, 512) as Uint8Array).code).toBe(1);
    const noQuestion = query("x");
    noQuestion[5] = 0;
    expect(told(answer(noQuestion, 512) as Uint8Array).code).toBe(1);
    const pointing = Uint8Array.from([...query("x").subarray(0, 12), 0xc0, 0x0c, 0, 1, 0, 1]);
    expect(told(answer(pointing, 512) as Uint8Array).code).toBe(1);
    const long = query(Array(50).fill("abcdefgh").join("."));
    expect(told(answer(long, 512) as Uint8Array).code).toBe(1);
    const status = query("www.example.test");
    status[2] |= 2 << 3;
    expect(told(answer(status, 512) as Uint8Array)).toMatchObject({ code: 4, id: 0xabcd });
  });

  test("never answers an answer", () => {
    const reply = query("www.example.test");
    reply[2] |= 0x80;
    expect(answer(reply, 512)).toBeNull();
    expect(answer(answer(query("www.example.test"), 512) as Uint8Array, 512)).toBeNull();
  });

  test("any bytes give a reply that can be read, or none", () => {
    const check = (bytes: Uint8Array, limit: number): void => {
      const before = bytes.slice();
      const reply = answer(bytes, limit);
      expect(bytes).toEqual(before);
      expect(reply === null).toBe(bytes.length < 12 || bytes[2] >= 0x80);
      if (reply === null) return;
      expect(told(reply)).toMatchObject({ id: bytes[0] * 256 + bytes[1] });
      expect(reply.length).toBeLessThanOrEqual(Math.max(limit, 1232));
      expect(reply[2] & 0x80).toBe(0x80);
    };
    const limit = fc.constantFrom(512, 65_535);
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), limit, check), { numRuns: 2000 });
    const names = fc.constantFrom(
      "www.example.test",
      "many.example.test",
      "loop.example.test",
      "x.example.test",
    );
    const types = fc.constantFrom<TypeName>("A", "MX", "TXT", "SOA", "ANY", "CNAME");
    const changes = fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 4 });
    fc.assert(
      fc.property(names, types, changes, limit, (name, type, changed, most) => {
        const bytes = query(name, type, edns(1232));
        for (const [at, value] of changed) if (at < bytes.length) bytes[at] = value;
        check(bytes, most);
      }),
      { numRuns: 2000 },
    );
  });

  test("carries a query as a datagram, and gives garbage no answer", async () => {
    const errors: unknown[] = [];
    await using server = new MemoryDatagramServer(DnsDatagram, {
      onEvent: (event) => event.type === "error" && errors.push(event.error),
    });
    void server.serveForever();
    await server.listen();
    const client = server.network.socket();
    await client.sendto(Uint8Array.of(1, 2, 3), server.serverAddress);
    await client.sendto(new Uint8Array(0), server.serverAddress);
    await client.sendto(query("www.example.test"), server.serverAddress);
    expect(told((await client.recvfrom()).data).answers).toHaveLength(1);
    expect(errors).toEqual([]);
  });

  test("carries several queries over one stream, wherever that is cut", async () => {
    await using place = serve(DnsStream);
    const framed = (bytes: Uint8Array): number[] => [bytes.length >> 8, bytes.length & 255, ...bytes];
    const script = Uint8Array.from([
      ...framed(query("www.example.test")),
      ...framed(query("many.example.test")),
      ...framed(query("none.example.test")),
    ]);
    const expected = ["www.example.test", "many.example.test", "none.example.test"]
      .map((name) => textOf(Uint8Array.from(framed(answer(query(name), 65_535) as Uint8Array))))
      .join("");
    for (const pieces of [...cuts(script), single(script)]) {
      expect((await talk(place.server, pieces)) === expected).toBe(true);
    }
    const [whole] = cuts(script).slice(-1)[0];
    for (const size of [1, 2, 3, 30]) expect(await talk(place.server, [whole.slice(0, size)])).toBe("");
    expect(await talk(place.server, [Uint8Array.of(0, 3, 1, 2, 3), script])).toBe("");
    expect(place.errors()).toEqual([]);
  });
});

// ---- Finger ----

describe("finger", () => {
  test.each([
    ["alice", /^Login: alice\r\nName: Alice Liddell\r\nPlan:\r\n/],
    ["/W alice", /^Login: alice\r\n/],
    ["", /^alice {7}Alice Liddell\r\nbob {9}Bob the Builder\r\n$/],
    ["/W", /^alice /],
    ["nobody\x1b[2J", /^nobody\[2J: no such user\r\n$/],
    ["a@b@c", /^Finger forwarding service denied\r\n$/],
  ])("%j", async (user, expected) => {
    await using place = serve(FingerServer);
    expect(await dial(FingerClient, place.server, user)).toMatch(expected);
  });

  test("asks for all where no user is named", async () => {
    await using place = serve(FingerServer);
    expect(await dial(FingerClient, place.server)).toMatch(/^alice .*\r\nbob .*\r\n$/);
  });

  test("the client lets through no control characters, and no second query", async () => {
    expect(await against(FingerClient, "a\x1b[2J\tb\r\n\x07\xc2\x9bc")).toBe("a[2J\tb\r\nc");
    await expect(against(FingerClient, "", "a\r\nb")).rejects.toThrow(/one line/);
    await expect(against(FingerClient, "", 7)).rejects.toThrow(TypeError);
  });

  test("the server waits for no more than a query", async () => {
    await using place = serve(FingerServer);
    expect(await talk(place.server, [])).toBe("");
    expect(await talk(place.server, ["x".repeat(600)])).toBe("");
  });
});

// ---- The app ----

test("Chat: each line goes to all, who comes and goes is told, and no name or line steers a terminal", async () => {
  await using server = new ThreadingMemoryServer<ChatContext>(Chat, { context: { members: new Set() } });
  void server.serveForever();
  const join = async (name: string) => {
    const member = server.connect();
    await member.sendall(`${name}\n`);
    expect(await member.rfile.line()).toBe("What is your name?");
    return member;
  };
  const ann = await join("ann\u001b[1m");
  expect(await ann.rfile.line()).toBe("* ann[1m is here, of 1");
  const bob = await join(" bob ");
  for (const member of [ann, bob]) expect(await member.rfile.line()).toBe("* bob is here, of 2");
  await bob.sendall("\u0007hi\u202e\n");
  for (const member of [ann, bob]) expect(await member.rfile.line()).toBe("bob: hi");
  const nobody = await join("\u0000 ");
  expect(await nobody.rfile.line()).toBeNull();
  await bob.close();
  expect(await ann.rfile.line()).toBe("* bob has left");
  await ann.close();
});

test("the app declares all of them", () => {
  expect(isApp(app)).toBe(true);
  expect(app.listeners.map(({ name, endpoint }) => `${name} ${formatAddress(endpoint)}`)).toEqual([
    "echo tcp://127.0.0.1:7007",
    "echoDatagram udp://127.0.0.1:7007",
    "greeting tcp://127.0.0.1:7084",
    "transcript tcp://127.0.0.1:7082",
    "mail tcp://127.0.0.1:7025",
    "resp tcp://127.0.0.1:6380",
    "dns tcp://127.0.0.1:7053",
    "dnsDatagram udp://127.0.0.1:7053",
    "finger tcp://127.0.0.1:7079",
    "chat tcp://127.0.0.1:7010",
  ]);
});
