/** Deadlines of a process that stood still, as in deadlines.test.ts, of pools: what their server said in time counts. */

import { once } from "node:events";
import net from "node:net";
import { ClientHandler, Notice, type Pool } from "socklet";
import { pool } from "socklet/emulator";
import { describe, expect, onTestFinished, test } from "vitest";
import { codeOf } from "../core/outcome.ts";
import { afterTimer, beforeTimers, LIMIT, standStill } from "./still.ts";

/** What a test does while the handler of a connection waits, and what it is told. */
interface Meanwhile {
  login?: () => unknown;
  ping?: () => void;
  readonly told: (said: string) => void;
}

/** A call is a line, and so is its reply. What begins with "*" is a notice. */
class Lines extends ClientHandler<string, string, Meanwhile> {
  override async setup(): Promise<void> {
    const { login } = this.context;
    if (login !== undefined) await this.#while(login);
  }

  override send(call: string): unknown {
    this.wfile.write(`${call}\n`);
    return call;
  }

  override async receive(): Promise<string | Notice> {
    const line = String.fromCharCode(...(await this.rfile.readuntil("\n"))).trimEnd();
    return line.startsWith("*") ? new Notice(line) : line;
  }

  override async idle(): Promise<void> {
    const { ping } = this.context;
    delete this.context.ping; // only once
    if (ping !== undefined) await this.#while(ping);
  }

  override notice(said: unknown): void {
    this.context.told(String(said));
  }

  async #while(work: () => unknown): Promise<void> {
    const line = this.receive();
    work();
    this.context.told(String(await line));
  }
}

/** The same with replies in any order. */
class Numbered extends Lines {
  override match(reply: string): string {
    return reply;
  }
}

interface Served {
  readonly lines: Pool<string, string, Meanwhile>;
  /** The server's end of the first connection, where the test speaks. */
  readonly peer: Promise<net.Socket>;
  /** What the handler is told. Rejects if the connection ends before. */
  readonly told: Promise<string>;
  readonly meanwhile: Meanwhile;
}

type Options = NonNullable<Parameters<typeof pool<string, string, Meanwhile>>[2]>;

const serve = async (options: Options, Handler = Lines): Promise<Served> => {
  const server = net.createServer().listen(0, "127.0.0.1");
  const peer = once(server, "connection").then(([socket]) => (socket as net.Socket).on("error", () => {}));
  await once(server, "listening");
  const { promise: told, resolve, reject } = Promise.withResolvers<string>();
  told.catch(() => {}); // few tests await it
  const meanwhile: Meanwhile = { told: resolve };
  const { port } = server.address() as net.AddressInfo;
  const lines = pool(`tcp://127.0.0.1:${port}`, Handler, {
    max: 1,
    drainTimeout: 0,
    ...options,
    context: meanwhile,
    onEvent: (event) => {
      if (event.type === "connectionEnded") reject(event.error ?? new Error(event.reason));
    },
  });
  onTestFinished(async () => {
    (await peer).destroy();
    server.close();
    await lines.close();
  });
  return { lines, peer, told, meanwhile };
};

/** The same with an idle connection. */
const idle = async (options: Options, Handler = Lines) => {
  const { peer, ...served } = await serve({ min: 1, ...options }, Handler);
  await expect.poll(() => served.lines.info().idle).toBe(1);
  return { ...served, peer: await peer };
};

test("a call has the reply that came in time", async () => {
  const { lines, peer } = await idle({ callTimeout: LIMIT });
  await beforeTimers();
  const call = lines.call("hello");
  peer.write("hello\n");
  standStill();
  expect(await call).toBe("hello");
  expect(await codeOf(lines.call("hello"))).toBe("ETIMEDOUT");
});

test("a lease has the reply that came in time", async () => {
  const { lines, peer } = await idle({ leaseTimeout: LIMIT });
  await beforeTimers();
  const lease = await lines.lease();
  const call = lease.call("hello");
  peer.write("hello\n");
  standStill();
  expect(await call).toBe("hello");
  expect(await codeOf(lease.call("hello"))).toBe("ETIMEDOUT");
});

test.each(["call", "lease"] as const)("a %s gets the connection that became free in time", async (what) => {
  const { lines, peer } = await idle({ waitTimeout: LIMIT });
  await beforeTimers();
  const before = lines.call("before");
  const waiting = what === "call" ? lines.call("hello") : lines.lease();
  peer.write("before\n");
  standStill();
  await before;
  peer.write("hello\n");
  await waiting;
});

test.each(["connectTimeout", "waitTimeout"])(
  "a connection that was established in time is opened: %s",
  async (limit) => {
    const { lines, peer } = await serve({ [limit]: LIMIT });
    await beforeTimers();
    const call = lines.call("hello");
    standStill();
    (await peer).write("hello\n");
    expect([await call, lines.info().failed]).toEqual(["hello", 0]);
  },
);

test("a login has what came in time", async () => {
  const { lines, peer, told, meanwhile } = await serve({ min: 1, loginTimeout: LIMIT });
  meanwhile.login = async () => {
    (await peer).write("welcome\n"); // both ends are connected in the same turn
    standStill();
  };
  expect(await told).toBe("welcome");
  await expect.poll(() => lines.info()).toMatchObject({ connections: 1, failed: 0 });
});

test("the check of an idle connection has the answer that came in time", async () => {
  const { peer, told, meanwhile } = await idle({ callTimeout: LIMIT, pingInterval: LIMIT });
  meanwhile.ping = () => {
    peer.write("pong\n");
    standStill();
  };
  expect(await told).toBe("pong");
});

test("what came in time is read before an idle connection is closed", async () => {
  const { lines, peer, told } = await serve({ idleTimeout: LIMIT });
  const call = lines.call("hello");
  (await peer).write("hello\n");
  await call; // from now on it is idle
  (await peer).write("*news\n");
  standStill();
  expect(await told).toBe("*news");
});

// All calls of a connection share a timer, and so do all that wait for one.
describe.each([1, 2])(
  "a timer that another call has set off, %i turns before the process stands still,",
  (turns) => {
    test("does not end the wait for a reply", async () => {
      const { lines, peer } = await idle({ callTimeout: LIMIT, pipeline: 2 }, Numbered);
      await beforeTimers();
      const other = codeOf(lines.call("other"));
      await afterTimer(turns);
      const call = lines.call("hello");
      peer.write("hello\n");
      standStill();
      expect(await call).toBe("hello");
      expect(await other).toBe("ETIMEDOUT");
    });

    test("does not end the wait for a connection", async () => {
      const { lines, peer } = await idle({ waitTimeout: LIMIT });
      await beforeTimers();
      const before = lines.call("before");
      const gone = new AbortController();
      lines.call("other", { signal: gone.signal }).catch(() => {});
      await afterTimer(turns);
      gone.abort();
      const call = lines.call("hello");
      peer.write("before\n");
      standStill();
      await before;
      peer.write("hello\n");
      expect(await call).toBe("hello");
    });
  },
);
