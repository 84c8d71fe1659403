/** The servers in Node that the tests inside workerd dial, started once. */

import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import DNS from "dns2";
import type { Address, HandlerClass, InternetAddress, StreamSocket } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { scriptHandler } from "socklet/testing";
import type { TestProject } from "vitest/node";
import { answer } from "../../examples/dns.ts";
import { Echo } from "../../examples/echo.ts";
import { type Board, Conformance, LocalBoard } from "../conformance/handler.ts";
import {
  type ExampleContext,
  exampleContext,
  isDatagrams,
  PATIENT,
  served,
  servings,
} from "../conformance/matrix-table.ts";
import { redisServer } from "../conformance/scripts.ts";
import { type Certificates, ownCertificates } from "../peers/certificates.ts";
import { ownAddress, reservePort } from "../peers/ports.ts";

/** Errors that the tests provoke, and that workerd logs with a stack each time; Vitest's plugin prints them. */
const PROVOKED = [
  /disconnected: Connection reset by peer/,
  /disconnected: peer closed connection without sending TLS close_notify/,
  /disconnected: abortRead\(\) has been called/, // a follower of a session's events has left
  /outputGateBroken; jsg\.Error: lost/, // a test lost an object
  /failed: TLS handshake failed/,
  /startTls called with unsupported expectedServerHostname option/, // and yet it obeys the option
];

/** Drops that output, which must not look like a failure. Everything else is passed on. */
const muteProvoked = (): (() => void) => {
  const streams = [process.stdout, process.stderr].map((stream) => ({ stream, write: stream.write }));
  for (const { stream, write } of streams) {
    stream.write = ((chunk: string | Uint8Array, ...rest: []) => {
      const text = String(chunk);
      const muted =
        /^(NOSENTRY |[^\n]*\b(exception|e) = )/.test(text) && PROVOKED.some((one) => one.test(text));
      return muted || write.call(stream, chunk, ...rest);
    }) as typeof write;
  }
  return () => {
    for (const { stream, write } of streams) stream.write = write;
  };
};

/** The conformance handler behind TLS, from the first byte. */
const secured = ({ cert, key }: Certificates) =>
  class extends Conformance {
    override async setup(): Promise<void> {
      await this.request.startTls({ cert, key });
      await super.setup();
    }
  };

/** A server whose connections are TLS from the first byte, by a hook: its handler is the same. */
const securedServer = ({ cert, key }: Certificates) =>
  class<Context> extends ThreadingTCPServer<Context> {
    override async finishRequest(request: StreamSocket, address: Address | null): Promise<unknown> {
      await request.startTls({ cert, key });
      return super.finishRequest(request, address);
    }
  };

/** The PTR records that the zone of the DNS example does not have. */
const POINTERS: Readonly<Record<string, readonly string[]>> = {
  "80.2.0.192.in-addr.arpa": ["www.example.test", "web.example.test"],
  "25.2.0.192.in-addr.arpa": ["mail"],
  "9.2.0.192.in-addr.arpa": ["not a host.example.test"],
  "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": ["www.example.test"],
};

const packName = (name: string): Buffer =>
  Buffer.concat([
    ...name.split(".").map((label) => Buffer.concat([Buffer.of(label.length), Buffer.from(label)])),
    Buffer.of(0),
  ]);

/** The answers of the DNS example; for an address, the PTR records above. */
const dnsAnswer = (question: Buffer): Uint8Array => {
  for (const [owner, names] of Object.entries(POINTERS)) {
    if (!question.includes(packName(owner))) continue;
    const records = names.map((name) => {
      const data = packName(name);
      return Buffer.concat([Buffer.of(0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 60, 0, data.length), data]);
    });
    const header = Buffer.from(question.subarray(0, 12));
    header.writeUInt16BE(0x8180, 2);
    header.writeUInt16BE(records.length, 6);
    return Buffer.concat([header, question.subarray(12), ...records]);
  }
  return answer(question, 65_535) ?? Buffer.alloc(0);
};

/** DNS over HTTPS (RFC 8484), without the S. Other paths than the first fail, each in its way. */
const doh = http.createServer(async (request, response) => {
  const question = await buffer(request);
  const type = { "content-type": "application/dns-message" };
  switch (request.url) {
    case "/dns-query":
      if (request.method !== "POST" || request.headers["content-type"] !== type["content-type"]) {
        response.writeHead(415).end();
      } else response.writeHead(200, type).end(dnsAnswer(question));
      break;
    case "/silent":
      break; // until the client leaves
    case "/stalls": // after the half
      response.writeHead(200, type).write(dnsAnswer(question).subarray(0, 20));
      break;
    case "/elsewhere":
      response.writeHead(307, { location: "/dns-query" }).end();
      break;
    case "/page":
      response.writeHead(200, { "content-type": "text/html" }).end("<h1>It works!</h1>");
      break;
    case "/large":
      response.writeHead(200, type).end(Buffer.concat([dnsAnswer(question), Buffer.alloc(65_536)]));
      break;
    default:
      response.writeHead(Number(request.url?.slice(1))).end();
  }
});

/** The same names from a server that we did not write: npm `dns2`. */
const answerByDns2: DNS.DnsHandler = (request, send) => {
  const response = DNS.Packet.createResponseFromRequest(request);
  const [question] = request.questions;
  const { A, AAAA, CNAME } = DNS.Packet.TYPE;
  const add = (type: number, data: object): void => {
    response.answers.push(
      DNS.Packet.createResourceFromQuestion({ ...question, type } as never, { ttl: 60, ...data }),
    );
  };
  if (question?.name === "www.example.test" && question.type === A) add(A, { address: "192.0.2.80" });
  else if (question?.name === "www.example.test" && question.type === AAAA)
    add(AAAA, { address: "2001:db8::80" });
  else if (question?.name === "away.example.test") add(CNAME, { domain: "www.example.net" });
  else response.header.rcode = DNS.Packet.RCODE.NXDOMAIN;
  send(response);
};

export default async (project: TestProject): Promise<() => Promise<void>> => {
  const servers: { serverClose(): Promise<void> }[] = [];
  const serve = async <Context = Board>(
    Handler: HandlerClass<StreamSocket, Context>,
    context = new LocalBoard() as Context,
    Server = ThreadingTCPServer<Context>,
  ): Promise<number> => {
    const server = new Server(await ownAddress(), Handler, {
      context,
      stream: { closeTimeout: 300 },
      drainTimeout: 100,
    });
    const { port } = (await server.listen()) as InternetAddress;
    void server.serveForever();
    servers.push(server);
    return port;
  };
  project.provide("conformancePort", await serve(Conformance));
  project.provide("echoPort", await serve(Echo));
  project.provide("nobodysPort", await reservePort());
  project.provide("scriptPort", await serve(scriptHandler(redisServer, PATIENT)));
  const made = ownCertificates();
  project.provide("tlsPort", made === null ? 0 : await serve(secured(made)));
  const examplePorts: Record<string, { readonly plain: number; readonly tls: number }> = {};
  for (const [name, example] of Object.entries(servings)) {
    if (isDatagrams(example)) continue;
    const at = (Server: typeof ThreadingTCPServer<ExampleContext>) =>
      serve(served(example), exampleContext(), Server);
    examplePorts[name] = {
      plain: await at(ThreadingTCPServer),
      tls: made === null ? 0 : await at(securedServer(made)),
    };
  }
  project.provide("examplePorts", examplePorts);
  await new Promise<void>((resolve) => doh.listen(0, "127.0.0.1", resolve));
  project.provide("dohOrigin", `http://127.0.0.1:${(doh.address() as AddressInfo).port}`);
  const dns2 = DNS.createDOHServer({ ssl: false }).on("request", answerByDns2);
  dns2.listen(0, "127.0.0.1");
  await once(dns2, "listening");
  project.provide("dns2Origin", `http://127.0.0.1:${(dns2.address() as AddressInfo).port}`);
  const unmute = muteProvoked();
  return async () => {
    doh.close();
    doh.closeAllConnections();
    dns2.close();
    for (const server of servers) await server.serverClose();
    unmute();
  };
};
