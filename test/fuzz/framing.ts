/** The examples' framing: what a handler says must not depend on how its bytes are cut, whatever they are. And the control routes' bodies. */

import fc from "fast-check";
import { toJson } from "../../core/describe.ts";
import type { SockletEvent } from "../../core/handlers/events.ts";
import type { HandlerClass, StreamRequestHandler } from "../../core/handlers/handler.ts";
import { SHUT_WR } from "../../core/net/constants.ts";
import type { StreamSocket } from "../../core/sockets/streams/stream-socket.ts";
import { MemoryServer, MemoryStorage } from "../../core/testing/index.ts";
import { DnsStream } from "../../examples/dns.ts";
import { FingerServer } from "../../examples/finger.ts";
import { MailRequestHandler } from "../../examples/mail.ts";
import { PostgresClient } from "../../examples/postgres.ts";
import { KeyStore } from "../../examples/resp/store.ts";
import { RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { serve } from "../core/control-setup.ts";
import { bytesOf, latin1, same, type Target, target } from "./target.ts";

const cuts = fc.array(
  fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 60 })),
  { minLength: 1, maxLength: 6 },
);

/** What a handler says, and gives, to a client that sends `text` in pieces of these sizes and then its end. */
const said = async <Context>(
  Handler: HandlerClass<StreamSocket, Context>,
  context: Context,
  text: string,
  sizes: readonly number[],
): Promise<string> => {
  const ends: string[] = [];
  const server = new MemoryServer(Handler, {
    context,
    onEvent: (event: SockletEvent) => {
      if (event.type === "error")
        ends.push(`threw ${(event.error as { code?: string }).code ?? event.error}`);
    },
  } as never);
  const serving = server.serveForever();
  const client = server.connect();
  const bytes = bytesOf(text);
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number;
    client.wfile.write(bytes.slice(at, at + size));
    client.wfile.start();
    at += size;
  }
  await client.shutdown(SHUT_WR).catch(() => {}); // it may have closed already
  const answer = await client.rfile.read().catch((error) => bytesOf(`(${error.code})`));
  await client.close();
  await server.close();
  await serving;
  return [answer === null ? "" : latin1(answer), ...ends].join("\n");
};

/** What a client says, and what it gives in the end: it is served as well, and its server's bytes come on its stream. */
const client = (
  Client: typeof StreamRequestHandler<unknown>,
  params: unknown,
  text: string,
  sizes: readonly number[],
): Promise<string> => {
  class Served extends Client {
    override async handle(): Promise<void> {
      (this as { params: unknown }).params = params;
      this.wfile.write(toJson(await super.handle()));
    }
  }
  return said(Served, undefined, text, sizes);
};

/** A target of one handler: `text` is what is sent, cut in two ways; what is compared is all that it says. */
const framed = (
  name: string,
  text: fc.Arbitrary<string>,
  run: (text: string, sizes: readonly number[]) => Promise<string>,
): Target =>
  target(name, "inputs", fc.tuple(text, cuts), async ([sent, sizes]) => {
    const whole = await run(sent, [1 << 20]);
    same(`what is said to ${JSON.stringify(sent)} in pieces`, await run(sent, sizes), whole);
    return 1;
  });

const noise = fc.string({ unit: fc.constantFrom(..."*$:\r\n\0 1\xffa"), maxLength: 6 });
const lines = (
  some: fc.Arbitrary<string>,
  ends: readonly string[] = ["\r\n", "\r\n", "\r\n", "\n"],
): fc.Arbitrary<string> =>
  fc
    .array(
      fc.tuple(some, fc.constantFrom(...ends)).map(([line, end]) => line + end),
      { maxLength: 8 },
    )
    .map((all) => all.join(""));

const word = fc.constantFrom(
  "PING",
  "ECHO",
  "SET",
  "GET",
  "DEL",
  "INCR",
  "EXISTS",
  "HELLO",
  "2",
  "3",
  "k",
  "v\r\n",
  "\xc3\xa9",
  "",
  "\xff",
  "10",
  "COMMAND",
  "QUIT",
);
const array = fc
  .array(word, { minLength: 1, maxLength: 4 })
  .map((words) => `*${words.length}\r\n${words.map((one) => `$${one.length}\r\n${one}\r\n`).join("")}`);
const resp = framed(
  "resp",
  fc
    .array(
      fc.oneof(
        { weight: 5, arbitrary: array },
        { weight: 1, arbitrary: fc.array(word, { maxLength: 3 }).map((words) => `${words.join(" ")}\r\n`) },
        { weight: 1, arbitrary: noise },
      ),
      { maxLength: 6 },
    )
    .map((all) => all.join("")),
  (text, sizes) => said(RespServer as never, { keys: new KeyStore() } as never, text, sizes),
);

const command = fc.constantFrom(
  "EHLO a",
  "HELO b",
  "MAIL FROM:<a@b>",
  "MAIL FROM:<>",
  "RCPT TO:<c@d>",
  "DATA",
  "RSET",
  "NOOP",
  "QUIT",
  "hello",
  ".",
  "..",
  "text",
  "",
  "\xc3\xa9",
  "MAIL FROM:<\xff@b> SMTPUTF8",
  "GET / HTTP/1.1",
);
const mail = framed(
  "mail",
  fc
    .tuple(fc.boolean(), lines(command))
    .map(([begun, more]) => (begun ? `EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n${more}` : more)),
  async (text, sizes) => {
    const storage = new MemoryStorage();
    const replies = await said(MailRequestHandler, { storage }, text, sizes);
    const kept = await Promise.all((await storage.list()).map((name) => storage.get(name)));
    const mails = kept.map((bytes) => latin1(bytes as Uint8Array)).sort();
    return [replies.replace(/Kept as \S+/g, "Kept"), ...mails].join("\n--\n");
  },
);

const finger = framed(
  "finger",
  fc.oneof(lines(fc.constantFrom("alice", "/W bob", "", "x@y", "\xff", "\x1b[31m")), noise),
  (text, sizes) => said(FingerServer, undefined, text, sizes),
);

const query = fc
  .tuple(
    fc.constantFrom("example.test", "many.example.test", "x.test"),
    fc.constantFrom(1, 15, 255),
    fc.option(fc.nat(40), { freq: 2 }),
  )
  .map(([name, type, cut]) => {
    const labels = name
      .split(".")
      .map((label) => String.fromCharCode(label.length) + label)
      .join("");
    const message = `\x01\x02\x01\0\0\x01\0\0\0\0\0\0${labels}\0\0${String.fromCharCode(type)}\0\x01`.slice(
      0,
      cut ?? undefined,
    );
    return `\0${String.fromCharCode(message.length)}${message}`;
  });
const dnsStream = framed(
  "dns-stream",
  fc.tuple(fc.array(query, { maxLength: 4 }), noise).map(([queries, end]) => queries.join("") + end),
  (text, sizes) => said(DnsStream, undefined, text, sizes),
);

const message = (type: string, body: string): string =>
  `${type}\0\0${String.fromCharCode((body.length + 4) >> 8, (body.length + 4) & 255)}${body}`;
const reply = fc.constantFrom(
  message("R", "\0\0\0\0"),
  message("S", "server_version\x0017\0"),
  message("Z", "I"),
  message("T", `\0\x01a\0${"\0".repeat(18)}`),
  message("D", "\0\x01\0\0\0\x01x"),
  message("D", "\0\x01\xff\xff\xff\xff"),
  message("C", "SELECT 1\0"),
  message("N", "SNOTICE\0\0"),
  message("E", "SERROR\0Mno\0\0"),
  "Z",
  "\0",
  message("D", "\0\x05"),
);
const postgres = framed(
  "postgres",
  fc
    .tuple(fc.boolean(), fc.array(reply, { maxLength: 8 }))
    .map(
      ([begins, more]) => `N${begins ? message("R", "\0\0\0\0") + message("Z", "I") : ""}${more.join("")}`,
    ),
  (text, sizes) => client(PostgresClient, { user: "u", query: "SELECT 1", plain: true }, text, sizes),
);

const smtpReply = fc.constantFrom(
  "220 a\r\n",
  "250 ok\r\n",
  "250-a\r\n250 8BITMIME\r\n",
  "354 go\r\n",
  "221 bye\r\n",
  "550 no\r\n",
  "250-",
  "x\r\n",
  "\xff\n",
);
const smtpClient = framed(
  "smtp-client",
  fc
    .tuple(fc.boolean(), fc.array(smtpReply, { maxLength: 8 }))
    .map(
      ([begins, more]) => (begins ? "220 a\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" : "") + more.join(""),
    ),
  (text, sizes) => client(SmtpClient, { from: "a@b", to: ["c@d"], message: "x\n", plain: true }, text, sizes),
);

const respReply = fc.constantFrom(
  "+OK\r\n",
  "-ERR no\r\n",
  ":12\r\n",
  "$3\r\na\r\n\r\n",
  "$-1\r\n",
  "*2\r\n:1\r\n+a\r\n",
  "*-1\r\n",
  "_\r\n",
  "%1\r\n+a\r\n:1\r\n",
  "$3\r\nab",
  "*",
  "\xff\r\n",
);
const respClient = framed(
  "resp-client",
  fc.array(respReply, { maxLength: 5 }).map((all) => all.join("")),
  (text, sizes) => client(RespClient, [["PING"], ["GET", "k"]], text, sizes),
);

// ---- The control routes ----

let place = serve();
let asked = 0;
const body = fc.oneof(
  fc.json({ maxDepth: 2 }),
  fc.string({ unit: "binary", maxLength: 40 }),
  fc
    .record(
      {
        handler: fc.oneof(fc.constantFrom("Ask", "none"), fc.jsonValue({ maxDepth: 1 })),
        address: fc.oneof(fc.constantFrom("10.0.0.1:7", "a:b", "[::1"), fc.jsonValue({ maxDepth: 1 })),
        params: fc.jsonValue({ maxDepth: 2 }),
        more: fc.jsonValue({ maxDepth: 1 }),
      },
      { requiredKeys: [] },
    )
    .map((value) => JSON.stringify(value)),
  fc
    .record({ text: fc.anything(), base64: fc.oneof(fc.base64String(), fc.string()) }, { requiredKeys: [] })
    .map((value) => {
      try {
        return JSON.stringify(value) ?? "";
      } catch {
        return "{";
      }
    }),
);
const ID = "0193f0c2-7a10-7c3e-8b1f-5a0c2e4d6f80"; // of no session
const control = target(
  "control",
  "inputs",
  fc.record({
    path: fc.constantFrom(
      "/v1/sessions",
      "/v1/sessions",
      `/v1/sessions/${ID}/data`,
      "/v1/sessions/x",
      "/v1/nothing",
    ),
    method: fc.constantFrom("POST", "POST", "POST", "PUT", "DELETE"),
    type: fc.constantFrom("application/json", "application/json", "text/plain", "application/octet-stream"),
    body,
  }),
  async ({ path, method, type, body }) => {
    if (++asked % 100 === 0) {
      await place.plane.close();
      place = serve();
    }
    const answer = await place.ask(method, path, { body, headers: { "content-type": type } });
    const text = await answer.text();
    if (answer.status >= 500) throw new Error(`${answer.status} ${text}`);
    same("faults", place.faults.length, 0);
    const said = JSON.parse(text) as { code?: string; detail?: string };
    if (answer.status >= 400 && (typeof said.code !== "string" || typeof said.detail !== "string"))
      throw new Error(`no problem is told: ${text}`);
    return 1;
  },
);

export const framing: readonly Target[] = [
  resp,
  mail,
  finger,
  dnsStream,
  postgres,
  smtpClient,
  respClient,
  control,
];
