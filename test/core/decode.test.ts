/** Decoders: what real clients and servers said, what is cut anywhere, and what is no such protocol at all. */

import { once } from "node:events";
import { readFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";
import { connect } from "node:tls";
import dnsPacket from "dns-packet";
import {
  type Decoder,
  type DnsMessage,
  decodeClientHello,
  decodeDns,
  decodeDnsOverTcp,
  decodeLines,
  decodePostgres,
  decodeProxied,
  decodeResp,
  decodeSmtp,
  defineApp,
  proxyHeader,
  streamHandler,
} from "socklet";
import { parseTranscript } from "socklet/testing";
import { describe, expect, test } from "vitest";
import { fc } from "../conformance/properties.ts";

const bytesOf = (text: string): Uint8Array => Uint8Array.from(text, (character) => character.charCodeAt(0));
const texts = (decode: Decoder, said: string | Uint8Array, from: "client" | "server" = "client"): string[] =>
  [...decode(typeof said === "string" ? bytesOf(said) : said, from)].map(({ text }) => text);

/** A parser of DNS that others wrote. */
const parseDns = (bytes: Uint8Array) => dnsPacket.decode(Buffer.from(bytes)) as DnsMessage;

test("DNS is what the library makes of it, in a line for each record; over TCP, when a message is whole", () => {
  const question = { name: "www.example.test", type: "MX" } as const;
  const asked = dnsPacket.encode({
    type: "query",
    id: 7,
    flags: dnsPacket.RECURSION_DESIRED,
    questions: [question],
    additionals: [{ type: "OPT", name: ".", udpPayloadSize: 1232, flags: 0, options: [] }] as never,
  });
  const said = dnsPacket.encode({
    type: "response",
    id: 7,
    flags: dnsPacket.AUTHORITATIVE_ANSWER | 3,
    questions: [question],
    answers: [
      { ...question, ttl: 60, data: { preference: 10, exchange: "mail.example.test" } },
      { name: "www.example.test", type: "TXT", ttl: 5, data: 'say "hi"' },
    ],
    authorities: [{ name: "example.test", type: "NS", ttl: 9, data: "ns1.example.test" }],
  });
  const query = "query 7 rd\n? www.example.test IN MX\nadditional: OPT udp 1232";
  const answer = [
    "response 7 NXDOMAIN aa",
    "? www.example.test IN MX",
    "www.example.test 60 IN MX 10 mail.example.test",
    'www.example.test 5 IN TXT "say \\"hi\\""',
    "authority: example.test 9 IN NS ns1.example.test",
  ].join("\n");
  expect(texts(decodeDns(parseDns), asked)).toEqual([query]);
  expect(texts(decodeDns(parseDns), said, "server")).toEqual([answer]);
  expect(() => texts(decodeDns(parseDns), "no")).toThrow();
  const framed = (message: Uint8Array) => [message.length >> 8, message.length & 255, ...message];
  const stream = Uint8Array.from([...framed(asked), ...framed(said)]);
  for (let end = 0; end <= stream.length; end++) {
    const whole = [...(end >= asked.length + 2 ? [query] : []), ...(end === stream.length ? [answer] : [])];
    expect(texts(decodeDnsOverTcp(parseDns), stream.subarray(0, end))).toEqual(whole);
  }
});

const DECODERS: readonly (readonly [name: string, decode: Decoder])[] = [
  ["lines", decodeLines],
  ["SMTP", decodeSmtp],
  ["RESP", decodeResp],
  ["PostgreSQL", decodePostgres],
  ["ClientHello", decodeClientHello],
  ["PROXY", decodeProxied(decodeLines)],
];

test.each<[what: string, decode: Decoder, from: "client" | "server", said: string, messages: string[]]>([
  ["lines", decodeLines, "client", "one\r\ntwo\nthr", ["one", "two"]],
  [
    "a reply of SMTP",
    decodeSmtp,
    "server",
    "250-a\r\n250-b\r\n250 c\r\n354 go\r\n",
    ["250-a\n250-b\n250 c", "354 go"],
  ],
  [
    "a mail",
    decodeSmtp,
    "client",
    "DATA\r\nSubject: hi\r\n\r\none\r\ntwo\r\n.\r\nQUIT\r\n",
    ["DATA", "a mail of 25 bytes:\nSubject: hi\n\none\nand 1 lines more", "QUIT"],
  ],
  [
    "a command of RESP",
    decodeResp,
    "client",
    "*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n",
    ['["GET", "a"]', "PING"],
  ],
  [
    "replies of RESP",
    decodeResp,
    "server",
    "+OK\r\n-ERR no\r\n:7\r\n$-1\r\n%1\r\n+a\r\n#t\r\n>2\r\n+x\r\n_\r\n*1\r\n$2\r\n",
    ["OK", "error: ERR no", "7", "null", "{ a: true }", "push [x, null]"],
  ],
  [
    "a session of PostgreSQL",
    decodePostgres,
    "client",
    "\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\x11\0\x03\0\0user\0me\0\0Q\0\0\0\x0dselect 1\0p\0\0\0\x09pass\0",
    ["SSLRequest", "StartupMessage 3.0 user me", "Query select 1", "Password"],
  ],
  [
    "what a server of PostgreSQL says",
    decodePostgres,
    "server",
    "NR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
    ["TLS: no", "Authentication", "ReadyForQuery I"],
  ],
])("%s", (_, decode, from, said, messages) => {
  expect(texts(decode, said, from)).toEqual(messages);
});

test.each<[what: string, decode: Decoder, said: string, why: RegExp]>([
  ["RESP", decodeResp, "*1\r\n!x\r\n", /"x" is no length/],
  ["RESP", decodeResp, "*1\r\n?\r\n", /begins no value of RESP/],
  ["RESP, nested without end", decodeResp, "*1\r\n".repeat(100), /more than 32 deep/],
  ["PostgreSQL", decodePostgres, "GET / HTTP/1.1\r\n\r\n", /cannot have|no request/],
  ["ClientHello", decodeClientHello, "GET / HTTP/1.1\r\n\r\n", /no TLS handshake/],
])("what is not %s is an error that says where: %#", (_, decode, said, why) => {
  expect(() => texts(decode, said)).toThrow(why);
});

test.each(["redis-cli.jsonl", "resp-client.jsonl"])(
  "what %s recorded is decoded to its last byte",
  (name) => {
    const path = join(import.meta.dirname, "../peers/recordings", name);
    const { events } = parseTranscript(readFileSync(path, "utf8"));
    for (const from of ["client", "server"] as const) {
      const pieces = events.flatMap((event) => ("data" in event && event.from === from ? [event.data] : []));
      const whole = Buffer.concat(pieces);
      const messages = [...decodeResp(whole, from)];
      expect(messages.length).toBeGreaterThan(0);
      expect(messages.at(-1)?.end).toBe(whole.length);
    }
  },
);

test("the ClientHello of a real client: the name, the protocols, the versions", async () => {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as net.AddressInfo;
  const client = connect({ port, host: "127.0.0.1", servername: "name.test", ALPNProtocols: ["h2", "x"] });
  client.on("error", () => {}); // nobody answers
  const [socket] = (await once(server, "connection")) as [net.Socket];
  const [hello] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  server.close();
  expect(texts(decodeClientHello, hello)[0]).toMatch(
    /^TLS ClientHello; versions 1\.3, 1\.2; \d+ cipher suites; .*for name\.test/,
  );
  expect(texts(decodeClientHello, hello)[0]).toContain("ALPN h2, x");
});

test("a header of the PROXY protocol, and what follows it", () => {
  const header = proxyHeader({ source: "192.0.2.1:5", destination: "192.0.2.2:25" });
  const said = Buffer.concat([header, Buffer.from("EHLO me\r\n")]);
  expect(texts(decodeProxied(decodeSmtp), said)).toEqual(["PROXY 2: 192.0.2.1:5 to 192.0.2.2:25", "EHLO me"]);
  expect(texts(decodeProxied(decodeSmtp), "220 hi\r\n", "server")).toEqual(["220 hi"]);
});

describe.each(DECODERS)("%s, of anything", (_, decode) => {
  test("messages are in order, apart, and within the bytes; or it throws", () => {
    const from = fc.constantFrom("client" as const, "server" as const);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), from, (bytes, side) => {
        let last = 0;
        try {
          for (const { start, end } of decode(bytes, side)) {
            expect(start).toBeGreaterThanOrEqual(last);
            expect(end).toBeGreaterThan(start);
            expect(end).toBeLessThanOrEqual(bytes.length);
            last = end;
          }
        } catch (error) {
          if ((error as Error).name === "AssertionError") throw error;
        }
      }),
    );
  });
});

test("decode is a function, or defineApp() says so", () => {
  const handler = streamHandler(() => {});
  const listen = [{ handler: "a", address: "tcp://127.0.0.1:1", decode: "resp" as never }];
  expect(() => defineApp({ handlers: { a: handler }, listen })).toThrow(
    /decode of listen\[0\] is a function, not "resp"/,
  );
});
