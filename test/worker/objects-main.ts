/**
 * The Worker of `npm run bench:objects`: the same line to the same server by a session, by a pool, and by bare Durable
 * Objects that do as much by hand.
 */

import { connect } from "cloudflare:sockets";
import { DurableObject, env } from "cloudflare:workers";
import { ClientHandler, defineApp, SocketError, StreamRequestHandler } from "socklet";
import { poolsFor, type SockletBindings, workerFor } from "socklet/worker";

interface Bindings extends SockletBindings {
  readonly LINES: string;
  readonly BARE: DurableObjectNamespace<Bare>;
}

const bindings = env as unknown as Bindings;
const address = bindings.LINES;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** One connection by hand: a line there, a line back, one at a time. */
class Wire {
  readonly #socket = connect(address);
  readonly #writer = this.#socket.writable.getWriter();
  readonly #reader = this.#socket.readable.getReader();
  #rest = "";

  async ask(line: string): Promise<string> {
    await this.#writer.write(encoder.encode(`${line}\n`));
    for (;;) {
      const at = this.#rest.indexOf("\n");
      if (at >= 0) {
        const answer = this.#rest.slice(0, at);
        this.#rest = this.#rest.slice(at + 1);
        return answer;
      }
      const { value, done } = await this.#reader.read();
      if (done) throw new Error("the server has left");
      this.#rest += decoder.decode(value, { stream: true });
    }
  }

  async close(): Promise<void> {
    await this.#writer.close();
    await this.#socket.close();
  }
}

/** A Durable Object without Socklet. */
export class Bare extends DurableObject {
  #held: Wire | null = null;

  /** Repeats a line by itself: what a call of an object costs at least. */
  same(line: string): string {
    return line;
  }

  /** Dials, asks, and hangs up. */
  async dial(line: string): Promise<string> {
    const wire = new Wire();
    const answer = await wire.ask(line);
    await wire.close();
    return answer;
  }

  /** The same, with a record before and after, as a session has one. */
  async record(line: string): Promise<string> {
    const { storage } = this.ctx;
    await storage.put("record", { line, state: "connecting" });
    const answer = await this.dial(line);
    await storage.put("record", { line, state: "ended", answer });
    return answer;
  }

  /** Asks on the connection that the object holds. */
  held(line: string): Promise<string> {
    this.#held ??= new Wire();
    return this.#held.ask(line);
  }
}

/** A session: asks for the line that is its params, and returns the answer. */
class Line extends StreamRequestHandler<unknown, string> {
  override async handle(): Promise<string> {
    this.wfile.write(`${this.params}\n`);
    const line = await this.rfile.line();
    if (line === null) throw new SocketError("ECONNRESET", "the server has left");
    return line;
  }
}

/** A pool's client. */
class Lines extends ClientHandler<string, string> {
  override send(line: string): void {
    this.wfile.write(`${line}\n`);
  }

  override async receive(): Promise<string> {
    return decoder.decode(await this.rfile.readuntil("\n")).slice(0, -1);
  }
}

const app = defineApp({
  handlers: { line: Line, lines: Lines },
  dial: { line: { handler: "line", address } },
  pools: { lines: { handler: "lines", address, max: 1 } },
});
const pools = poolsFor(app);
export class SockletPool extends pools.Pool {}
const worker = workerFor(app, { pools });
export class SockletSession extends worker.Session {}
export class SockletRegistry extends worker.Registry {}

const ROUTES: Readonly<Record<string, (line: string) => Promise<string>>> = {
  nothing: async (line) => line,
  same: (line) => bindings.BARE.getByName("one").same(line),
  held: (line) => bindings.BARE.getByName("one").held(line),
  dial: (line) => bindings.BARE.get(bindings.BARE.newUniqueId()).dial(line),
  record: (line) => bindings.BARE.get(bindings.BARE.newUniqueId()).record(line),
  pool: (line) => pools.poolOf(env, "lines", Lines).call(line),
};

export default {
  async fetch(request, ...rest) {
    const [, route = "", line = ""] = new URL(request.url).pathname.split("/");
    const ask = ROUTES[route];
    return ask === undefined ? worker.fetch(request, ...rest) : Response.json({ result: await ask(line) });
  },
} satisfies ExportedHandler<SockletBindings>;
