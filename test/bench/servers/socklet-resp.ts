// The Socklet twins of bare-resp.ts, one for each way to write the loop: `await`, `lines` or `try` (the argument).
import { StreamRequestHandler } from "socklet";
import { ThreadingTCPServer } from "socklet/emulator";
import { announce } from "./announce.ts";
import { RespSession } from "./resp.ts";

const store = new Map<string, string>();

class AwaitLine extends StreamRequestHandler {
  override async handle() {
    const session = new RespSession(store);
    for (let line = await this.rfile.line(); line !== null; line = await this.rfile.line()) {
      const reply = session.take(line);
      if (reply !== undefined) this.wfile.write(reply);
    }
  }
}

class EachLine extends StreamRequestHandler {
  override async handle() {
    const session = new RespSession(store);
    for await (const line of this.rfile.lines()) {
      const reply = session.take(line);
      if (reply !== undefined) this.wfile.write(reply);
    }
  }
}

class TryLine extends StreamRequestHandler {
  override async handle() {
    const session = new RespSession(store);
    const { rfile, wfile } = this;
    for (;;) {
      const line = rfile.tryLine() ?? (await rfile.line());
      if (line === null) return;
      const reply = session.take(line);
      if (reply !== undefined) wfile.write(reply);
    }
  }
}

const loops = { await: AwaitLine, lines: EachLine, try: TryLine };
const name = process.argv[2] ?? "";
if (!Object.hasOwn(loops, name)) throw new Error(`usage: socklet-resp.ts ${Object.keys(loops).join(" | ")}`);

const server = new ThreadingTCPServer("tcp://127.0.0.1:0", loops[name as keyof typeof loops]);
const address = await server.listen();
if (!address || !("port" in address)) throw new Error("the server has no port");
announce(address.port);
await server.serveForever();
