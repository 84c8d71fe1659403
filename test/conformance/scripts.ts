/**
 * Scripts of the example protocols, the client's side of each: held in every place against the example handlers, and
 * where there are such against the servers that everybody uses.
 */

import { type Conversation, conversation } from "../../core/testing/index.ts"; // by its path: also for workerd alone, which knows `socklet` only

/** Two bytes, the high one first. */
const pack16 = (value: number): number[] => [value >> 8, value & 255];

/** A DNS query for the A records of `www.example.test`, as TCP carries it: behind its length. */
export const dnsQuery = (id: number): Uint8Array => {
  const labels = ["www", "example", "test"].flatMap((label) => [
    label.length,
    ...new TextEncoder().encode(label),
  ]);
  return new Uint8Array([...pack16(id), 1, 0, ...pack16(1), 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
};

/** A mail from greeting to goodbye. */
export const mail: Conversation = conversation()
  .expectLine(/^220 (?<host>\S+)/)
  .send("EHLO client.test\r\n")
  .expect(/(?:250-[^\r\n]*\r\n)*250 [^\r\n]*\r\n/)
  .send("MAIL FROM:<me@example.com>\r\n")
  .expectLine(/^250 /)
  .send("RCPT TO:<you@example.com>\r\n")
  .expectLine(/^250 /)
  .send("DATA\r\n")
  .expectLine(/^354 /)
  .send("Subject: dots\r\n\r\n..a line\r\n")
  .send(".\r\n")
  .expectLine(/^250 /)
  .send("NOOP\r\n")
  .expectLine(/^250 /)
  .send("QUIT\r\n")
  .expectLine(/^221 /)
  .expectEnd();

/** Keys of Redis, asked in both of its forms, and pipelined; replies that every Redis gives. */
export const redis: Conversation = conversation()
  .send("PING\r\n")
  .expect("+PONG\r\n")
  .send("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$6\r\nv\r\n\0\u00ff\r\n")
  .expect("+OK\r\n")
  .send("*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
  .expect(/\$(?<size>\d+)\r\n/)
  .expectBytes(({ groups }) => Number(groups.size) + 2)
  .check(({ bytes }) => {
    const text = new TextDecoder().decode(bytes);
    if (text !== "v\r\n\0\u00ff\r\n") throw new Error(`the value came back as ${JSON.stringify(text)}`);
  })
  .send("*2\r\n$3\r\nDEL\r\n$3\r\nkey\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
  .expect(":1\r\n$-1\r\n");

/** One query over TCP (RFC 7766): the reply begins with its length, and has the query's id and name. */
export const dns: Conversation = conversation()
  .send(new Uint8Array([...pack16(dnsQuery(0x1234).length), ...dnsQuery(0x1234)]))
  .expectBytes(2)
  .expectBytes(({ bytes }) => (bytes[0] ?? 0) * 256 + (bytes[1] ?? 0))
  .check(({ bytes }) => {
    const answers = (bytes[6] ?? 0) * 256 + (bytes[7] ?? 0);
    const id = (bytes[0] ?? 0) * 256 + (bytes[1] ?? 0);
    if (id !== 0x1234 || answers !== 1) throw new Error(`id ${id}, ${answers} answers`);
  });

/** Echo, in two pieces of one character; the end is echoed, too. */
export const echo: Conversation = conversation()
  .send(new Uint8Array([0xc3]))
  .send(new Uint8Array([0xb6, 10]))
  .expectLine("ö")
  .halfClose()
  .expectEnd();

/** Finger asks, and is told up to the end. */
export const finger: Conversation = conversation()
  .send("alice\r\n")
  .expectLine("Login: alice")
  .expectLine(/^Name: (?<name>.+)$/)
  .expect("Plan:\r\n")
  .expectLine()
  .expectEnd();

// ---- The other role: what a server says to the example clients ----

/** A Redis that knows one command, for `RespClient` with the params `["GET", "greeting"]`. */
export const redisServer: Conversation = conversation()
  .expect("*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n")
  .send("$5\r\n") // in two pieces
  .send("hello\r\n");

/** A mail server without STARTTLS, for `SmtpClient`. It keeps what the client calls itself, and says it back. */
export const mailServer: Conversation = conversation()
  .send("220 mail.test ESMTP\r\n")
  .expectLine(/^EHLO (?<name>\S+)$/)
  .send(({ groups }) => `250-mail.test greets ${groups.name}\r\n250 8BITMIME\r\n`)
  .expectLine("MAIL FROM:<me@example.com>")
  .send("250 OK\r\n")
  .expectLine("RCPT TO:<you@example.com>")
  .send("250 OK\r\n")
  .expectLine("DATA")
  .send("354 Go on\r\n")
  .expect("Subject: hi\r\n\r\n..\r\n.\r\n")
  .send("250 Kept\r\n")
  .expectLine("QUIT")
  .send("221 Bye\r\n")
  .halfClose()
  .expectEnd();

/** What `SmtpClient` is told to deliver to it. */
export const delivery = {
  from: "me@example.com",
  to: ["you@example.com"],
  message: "Subject: hi\n\n.\n",
  name: "client.test",
  plain: true,
};

const ascii = (text: string): number[] => [...new TextEncoder().encode(text)];
const pack32 = (value: number): number[] => [...pack16(value >>> 16), ...pack16(value & 0xffff)];

/** A message of PostgreSQL's: a letter, its length with that of its body, and the body. */
const pgMessage = (type: string, ...body: readonly number[]): Uint8Array =>
  new Uint8Array([...ascii(type), ...pack32(body.length + 4), ...body]);

/** What `PostgresClient` is told to ask `postgresServer`. */
export const postgresQuery = { user: "me", query: "SELECT 1 AS one", plain: true };

/** A PostgreSQL without TLS that trusts everybody and knows one query. */
export const postgresServer: Conversation = conversation()
  .expect(pgMessage("", ...pack32(80_877_103))) // SSLRequest
  .send("N")
  .expect(
    pgMessage(
      "",
      ...pack32(196_608),
      ...ascii("user\0me\0database\0me\0client_encoding\0UTF8\0application_name\0socklet\0\0"),
    ),
  )
  .send(pgMessage("R", ...pack32(0))) // AuthenticationOk
  .send(pgMessage("S", ...ascii("server_version\x0018.0\0")))
  .send(pgMessage("Z", ...ascii("I")))
  .expect(pgMessage("Q", ...ascii("SELECT 1 AS one\0")))
  .send(
    pgMessage(
      "T",
      ...pack16(1),
      ...ascii("one\0"),
      ...pack32(0),
      0,
      0,
      ...pack32(23),
      0,
      4,
      ...pack32(-1),
      0,
      0,
    ),
  )
  .send(pgMessage("D", ...pack16(1), ...pack32(1), ...ascii("1")))
  .send(pgMessage("C", ...ascii("SELECT 1\0")))
  .send(pgMessage("Z", ...ascii("I")))
  .expect(pgMessage("X"))
  .expectEnd();
