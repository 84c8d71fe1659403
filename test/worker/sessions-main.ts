/**
 * The Worker of the session tests, in Vitest's workerd and behind a real port: handlers that dial, what they may
 * dial from its variable `ALLOW`, and objects that a test can lose.
 */

import { env } from "cloudflare:workers";
import { defineApp, proxyHeader, SocketError, StreamRequestHandler } from "socklet";
import { lasting, type SockletBindings, workerFor } from "socklet/worker";
import { PostgresClient } from "../../examples/postgres.ts";
import { RespClient } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { Lines } from "../conformance/lines.ts";

interface Bindings extends SockletBindings {
  readonly ALLOW?: readonly string[];
  /** Servers behind proxies, plain and with TLS from the byte after the header. */
  readonly PROXIED?: string;
  readonly PROXIED_TLS?: string;
  /** An address where nobody listens. */
  readonly NOBODY?: string;
  readonly SMALL_SESSIONS?: unknown;
  readonly SMALL_REGISTRY?: unknown;
}

interface Context {
  readonly secret: unknown;
}

/** Subscribes to the channel of its params, and emits what Redis sends: `["message", "news", "…"]`. */
class RedisSubscriber extends StreamRequestHandler {
  override readonly timeout = null; // a channel may be silent for as long as it likes; the session has its deadline

  override async handle(): Promise<never> {
    this.wfile.write(`SUBSCRIBE ${this.params}\r\n`);
    for (;;) {
      const words: string[] = [];
      for (let left = Number((await this.#line()).slice(1)); left > 0; left--) {
        const word = await this.#line();
        words.push(word.startsWith("$") ? await this.#line() : word.slice(1));
      }
      this.emit(words);
    }
  }

  async #line(): Promise<string> {
    const line = await this.rfile.line();
    if (line === null) throw new SocketError("ECONNRESET", "Redis has left");
    return line;
  }
}

/** Says the deployment's secret and the caller's, in every way that there is. */
class Tells extends StreamRequestHandler<Context> {
  override async handle(): Promise<unknown> {
    const said = { deployment: this.context.secret, caller: (this.params as { password: string }).password };
    this.emit(said);
    const line = await this.rfile.line();
    if (line === "fail") throw new Error(`the passwords are ${said.deployment} and ${said.caller}`);
    return said;
  }
}

/** A result of as many characters as its params say. */
class Large extends StreamRequestHandler {
  override handle(): string {
    return "x".repeat(this.params as number);
  }
}

/** Closes its connection, reports that, and continues until it is aborted. */
class ClosesFirst extends StreamRequestHandler {
  override async handle(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.signal.addEventListener("abort", () => resolve());
    await this.request.close();
    this.emit("closed");
    await promise;
  }
}

/** Speaks TLS from its first byte, or asks for it by STARTTLS; returns what the server makes of its params. */
class Ask extends StreamRequestHandler {
  override async handle(): Promise<string | null> {
    const { starttls, text } = this.params as { starttls?: boolean; text: string };
    if (starttls) {
      await this.rfile.line();
      this.wfile.write("STARTTLS\r\n");
      await this.rfile.line();
      await this.request.startTls();
    }
    this.wfile.write(`${text}\n`);
    return this.rfile.line();
  }
}

const handlers = {
  respClient: RespClient,
  subscriber: RedisSubscriber,
  lines: Lines,
  tells: Tells,
  large: Large,
  closesFirst: ClosesFirst,
  ask: Ask,
  postgres: PostgresClient,
  smtp: SmtpClient,
};

const { ALLOW = ["127.0.0.0/8:*", "localhost:*"] } = env as Bindings;
const { PROXIED = "127.0.0.1:1", PROXIED_TLS = "localhost:1", NOBODY = "127.0.0.1:1" } = env as Bindings;
const SPEAKS = { source: "192.0.2.1:56324", destination: "198.51.100.2:443" };

/** Nobody listens there: each attempt fails, and the next is at the next scheduled time. */
const yearly = (schedule: string) =>
  ({ handler: "lines", address: NOBODY, keep: { schedule, redial: { maxAttempts: 1 } } }) as const;

export const app = defineApp<Context>({
  handlers,
  allow: ALLOW,
  dial: {
    nowhere: { handler: "lines", address: "unix:/run/nowhere" },
    proxied: { handler: "lines", address: PROXIED, proxyHeader: proxyHeader(SPEAKS) },
    proxiedTls: { handler: "lines", address: `tls://${PROXIED_TLS}`, proxyHeader: proxyHeader(SPEAKS) },
    newYear: yearly("0 0 1 1 *"),
    midYear: yearly("0 0 1 7 *"),
  },
  context: ({ bindings }) => ({ secret: bindings.PASSWORD }),
});

const worker = workerFor(app, { lasting });
const small = workerFor(app, { lasting, sessions: { maxRunning: 2, maxHistory: 3 } });

export const { plane } = worker;

export class SockletSession extends worker.Session {
  /** Loses the object, as a deployment or a crash does. */
  lose(): void {
    this.ctx.abort("lost by the test");
  }
}
export class SockletRegistry extends worker.Registry {}

const smallEnv = (bindings: Bindings): Bindings => ({
  ...bindings,
  SOCKLET_SESSIONS: bindings.SMALL_SESSIONS,
  SOCKLET_REGISTRY: bindings.SMALL_REGISTRY,
});

export class SmallSession extends small.Session {
  constructor(state: DurableObjectState, bindings: Bindings) {
    super(state, smallEnv(bindings));
  }
}
export class SmallRegistry extends small.Registry {
  constructor(state: DurableObjectState, bindings: Bindings) {
    super(state, smallEnv(bindings));
  }
}
export const smallPlane = (bindings: Bindings) => small.plane(smallEnv(bindings));

export default {
  ...worker,
  /** `POST /lose/ID` loses a session's object; all else is the control routes. */
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, id = ""] = new URL(request.url).pathname.split("/");
    if (first !== "lose") return worker.fetch(request, bindings, ctx);
    const sessions = bindings.SOCKLET_SESSIONS as DurableObjectNamespace<SockletSession>;
    await sessions
      .getByName(id)
      .lose()
      .catch(() => {}); // the call is lost with it
    return new Response("lost");
  },
};
