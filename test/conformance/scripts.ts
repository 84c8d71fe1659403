/**
 * Scripts of the example protocols, the client's side of each: held in every place against the example handlers, and
 * where there are such against the servers that everybody uses.
 */

import { type Conversation, conversation } from "../../core/testing/index.ts"; // by its path: also for workerd alone, which knows `socklet` only

/** Two bytes, the high one first. */
const pack16 = (value: number): number[] => [value >> 8, value & 255];

/** A DNS query for the A records of a name in `example.test`. */
export const dnsQuery = (id: number, host = "www"): Uint8Array => {
  const labels = [host, "example", "test"].flatMap((label) => [
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

/** A mail between addresses that are not ASCII (RFC 6531), which is taken only where MAIL says so. */
export const mailUtf8: Conversation = conversation()
  .expectLine(/^220 /)
  .send("EHLO client.test\r\n")
  .expect(/(?:250-[^\r\n]*\r\n)*250 SMTPUTF8\r\n/)
  .send("MAIL FROM:<josé@bücher.example>\r\nMAIL FROM:<josé@bücher.example> BODY=8BITMIME SMTPUTF8\r\n")
  .expectLine(/^553 /)
  .expectLine(/^250 /)
  .send("RCPT TO:<用户@例子.example>\r\nDATA\r\n")
  .expectLine(/^250 /)
  .expectLine(/^354 /)
  .send("Subject: größe\r\n\r\nπ\r\n.\r\n")
  .expectLine(/^250 /)
  .send("GET / HTTP/1.1\r\nHost: mail.test\r\n\r\n")
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

/** The same, and then the first commands of a current client, in one piece: RESP3, and its name. */
export const redis3: Conversation = redis
  .send(
    "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$1\r\nx\r\n",
  )
  .expect("%7\r\n$6\r\nserver\r\n$7\r\nsocklet\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n")
  .expect(/\$2\r\nid\r\n:\d+\r\n/)
  .expect("$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n+OK\r\n")
  .send('GET "none"\r\nCLIENT NOPE\r\n')
  .expect("_\r\n-ERR unknown subcommand 'NOPE'. Try CLIENT HELP.\r\n");

/** After `before`, one query over TCP (RFC 7766): the reply begins with its length, and has the query's id and so many answers. */
const dnsOverTcp = (before: Conversation, query: Uint8Array, count: number): Conversation =>
  before
    .send(new Uint8Array([...pack16(query.length), ...query]))
    .expectBytes(2)
    .expectBytes(({ bytes }) => (bytes[0] ?? 0) * 256 + (bytes[1] ?? 0))
    .check(({ bytes }) => {
      const answers = (bytes[6] ?? 0) * 256 + (bytes[7] ?? 0);
      if (bytes[0] !== query[0] || bytes[1] !== query[1] || answers !== count) {
        throw new Error(`id ${bytes.slice(0, 2)}, ${answers} answers`);
      }
    });

/** One query over TCP. */
export const dns: Conversation = dnsOverTcp(conversation(), dnsQuery(0x1234), 1);

/** The same, and then a name with more records than UDP carries. */
export const dnsLarge: Conversation = dnsOverTcp(dns, dnsQuery(0x1235, "many"), 100);

/** Echo, in two pieces of one character; the end is echoed, too. */
export const echo: Conversation = conversation()
  .send(new Uint8Array([0xc3]))
  .send(new Uint8Array([0xb6, 10]))
  .expectLine("ö")
  .halfClose()
  .expectEnd();

/** Finger sends a query, and reads the answer up to the end. */
export const finger: Conversation = conversation()
  .send("alice\r\n")
  .expectLine("Login: alice")
  .expectLine(/^Name: (?<name>.+)$/)
  .expect("Plan:\r\n")
  .expectLine()
  .expectEnd();

// ---- The other role: servers for the example clients ----

/** A Redis that knows one command, for `RespClient` with the params `["GET", "greeting"]`. */
export const redisServer: Conversation = conversation()
  .expect("*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n")
  .send("$5\r\n") // in two pieces
  .send("hello\r\n");

/** The same, of RESP3, for `["HELLO", "3"]` and a command of which the answer is a map. */
export const redisServer3: Conversation = conversation()
  .expect("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n")
  .send("%1\r\n$5\r\nproto\r\n:3\r\n")
  .send("%2\r\n$4\r\nsave\r\n_\r\n$1\r\nx\r\n~2\r\n#t\r\n,1.5\r\n");

/** The same, for `Redis`, which logs in first, and with something pushed before the reply. */
export const redisLogin: Conversation = conversation()
  .expect("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")
  .send("%1\r\n$5\r\nproto\r\n:3\r\n")
  .expect("*1\r\n$4\r\nPING\r\n")
  .send("+PONG\r\n")
  .expect("*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n")
  .send(">2\r\n+news\r\n+1\r\n$5\r\nhello\r\n");

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

/** The mail that `SmtpClient` delivers to it. */
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

/** The query that `PostgresClient` sends to `postgresServer`. */
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

/** Redis, asked for the entries of a stream after the first: two of them. */
export const redisStreamServer = conversation()
  .expect(
    [
      ...["*8", "$5", "XREAD", "$5", "COUNT", "$1", "2", "$5", "BLOCK", "$6", "300000"],
      ...["$7", "STREAMS", "$7", "entries", "$3", "0-0", ""],
    ].join("\r\n"),
  )
  .send(
    [
      ...["*1", "*2", "$7", "entries", "*2", "*2", "$3", "1-0", "*2", "$1", "n", "$1", "1"],
      ...["*2", "$3", "2-0", "*2", "$1", "n", "$2", "22", ""],
    ].join("\r\n"),
  )
  .expectEnd();

/** Redis, asked to tell what is said on a channel. */
export const redisChannelServer = conversation()
  .expect("*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n")
  .send("*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
  .send("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$7\r\ngrüße\r\n")
  .expectEnd();

/** An MQTT server, which sends a message of QoS 2 twice before it releases it. */
export const mqttServer = conversation()
  .expect(Uint8Array.of(0x10, 13, 0, 4, 0x4d, 0x51, 0x54, 0x54, 4, 0, 600 >> 8, 600 & 255, 0, 1, 0x63))
  .send(Uint8Array.of(0x20, 2, 0, 0))
  .expect(Uint8Array.of(0x82, 8, 0, 1, 0, 3, 0x61, 0x2f, 0x23, 2))
  .send(Uint8Array.of(0x90, 3, 0, 1, 2))
  .send(Uint8Array.of(0x34, 8, 0, 3, 0x61, 0x2f, 0x62, 0, 7, 0x68))
  .expect(Uint8Array.of(0x50, 2, 0, 7))
  .send(Uint8Array.of(0x3c, 8, 0, 3, 0x61, 0x2f, 0x62, 0, 7, 0x68))
  .expect(Uint8Array.of(0x50, 2, 0, 7))
  .send(Uint8Array.of(0x62, 2, 0, 7))
  .expect(Uint8Array.of(0x70, 2, 0, 7))
  .expectEnd();

/** An IRC server. */
export const ircServer = conversation()
  .expect("NICK ada\r\nUSER ada 0 * :ada\r\n")
  .send("PING :are you there\r\n")
  .expect("PONG :are you there\r\n")
  .send(":irc.test 001 ada :Welcome\r\n")
  .expect("JOIN #tea\r\n")
  .send(":irc.test 366 ada #tea :End of /NAMES list\r\n:bob!b@h PRIVMSG #tea :is there tea?\r\n")
  .expectEnd();
