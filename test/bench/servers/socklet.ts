/**
 * The same on Socklet, as a newcomer writes it.
 *
 *     socklet.ts echo | tls-echo | echo-into | download | upload | upload-into | resp-await | resp-lines | resp-try | lines | udp | udp-wfile
 */
import {
  BaseRequestHandler,
  type Datagram,
  DatagramRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import { ThreadingTCPServer, ThreadingUDPServer } from "socklet/emulator";
import { certificate } from "../certificate.ts";
import { announce } from "./announce.ts";
import { RespSession } from "./resp.ts";
import { pieces, SourceCheck } from "./source.ts";

const store = new Map<string, string>();

class Echo extends BaseRequestHandler<StreamSocket> {
  override async handle() {
    for (let bytes = await this.request.recv(); bytes !== null; bytes = await this.request.recv()) {
      await this.request.sendall(bytes);
    }
  }
}

/** The same with one buffer of its own, as Python's `recv_into`. */
class EchoInto extends BaseRequestHandler<StreamSocket> {
  override async handle() {
    const buffer = new Uint8Array(64 * 1024);
    for (let n = await this.request.recvInto(buffer); n !== null; n = await this.request.recvInto(buffer)) {
      await this.request.sendall(buffer.subarray(0, n));
    }
  }
}

class EchoDatagram extends BaseRequestHandler<Datagram> {
  override handle() {
    this.request.reply(this.request.data);
  }
}

class EchoByFiles extends DatagramRequestHandler {
  override handle() {
    this.wfile.write(this.request.data);
  }
}

const streams = {
  echo: Echo,
  "tls-echo": Echo,
  "echo-into": EchoInto,

  /** Sends until the client has ended. */
  download: streamHandler(async ({ request }) => {
    const all = pieces(64 * 1024);
    let wanted = true;
    const stop = (): void => {
      wanted = false;
    };
    const ended = request.recv().then(stop, stop);
    for (let i = 0; wanted; i++) await request.sendall(all[i % all.length]!);
    await ended;
  }),

  /** Takes all, and says how much it was. */
  upload: streamHandler(async ({ request, wfile }) => {
    const check = new SourceCheck(false);
    for (let bytes = await request.recv(); bytes !== null; bytes = await request.recv()) check.take(bytes);
    wfile.write(`${check}\n`);
  }),

  "upload-into": streamHandler(async ({ request, wfile }) => {
    const check = new SourceCheck(false);
    const buffer = new Uint8Array(64 * 1024);
    for (let n = await request.recvInto(buffer); n !== null; n = await request.recvInto(buffer))
      check.take(buffer.subarray(0, n));
    wfile.write(`${check}\n`);
  }),

  "resp-await": streamHandler(async ({ rfile, wfile }) => {
    const session = new RespSession(store);
    for (let line = await rfile.line(); line !== null; line = await rfile.line()) {
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }),

  "resp-lines": streamHandler(async ({ rfile, wfile }) => {
    const session = new RespSession(store);
    for await (const line of rfile.lines()) {
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }),

  "resp-try": streamHandler(async ({ rfile, wfile }) => {
    const session = new RespSession(store);
    for (;;) {
      const line = rfile.tryLine() ?? (await rfile.line());
      if (line === null) return;
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }),

  lines: streamHandler(async ({ rfile, wfile }) => {
    for await (const line of rfile.lines()) wfile.write(`${line.length}\n`);
  }),
};

const pairOf = ({ cert, key }: ReturnType<typeof certificate>) => ({ cert, key });

const datagrams = { udp: EchoDatagram, "udp-wfile": EchoByFiles };

const work = process.argv[2] ?? "";
const has = <T extends object>(table: T, name: PropertyKey): name is keyof T => Object.hasOwn(table, name);
const server = has(datagrams, work)
  ? new ThreadingUDPServer("udp://127.0.0.1:0", datagrams[work])
  : has(streams, work)
    ? new ThreadingTCPServer("127.0.0.1:0", streams[work], {
        maxRequests: 20_000, // the default, 10,000, resets what comes beyond
        stream: { maxLine: 2 ** 24 },
        ...(work === "tls-echo" && { tls: pairOf(certificate()) }),
      })
    : null;
if (!server) {
  throw new Error(`usage: socklet.ts ${[...Object.keys(streams), ...Object.keys(datagrams)].join(" | ")}`);
}
const address = await server.listen();
if (!address || !("port" in address)) throw new Error("the server has no port");
announce(address.port);
await server.serveForever();
