/** Connections that outlive a request: what a pool owes its callers, over memory, in virtual time where time is asked. */

import {
  ClientHandler,
  ErrorReply,
  Notice,
  type PoolOptions,
  SocketError,
  type SockletEvent,
  StreamRequestHandler,
} from "socklet";
import { memoryPool, ThreadingMemoryServer, VirtualClock } from "socklet/testing";
import { describe, expect, test } from "vitest";

/** What the server has seen. */
class Seen {
  logins = 0;
  lines: string[] = [];
  open = new Set<Server>();
  /** Connections that are refused from now on. */
  refuses = 0;
  /** Answers to `hold`. */
  held: (() => void)[] = [];
}

/** A server of lines: each is answered by itself, but for a few words that have it do something else. */
class Server extends StreamRequestHandler<Seen> {
  override async handle(): Promise<void> {
    const { rfile, wfile, context } = this;
    if (context.refuses > 0) {
      context.refuses--;
      this.request.abort();
      return;
    }
    context.logins++;
    context.open.add(this);
    try {
      for await (const line of rfile.lines()) {
        context.lines.push(line);
        const [word, rest = ""] = line.split(" ");
        if (word === "drop") return this.request.abort();
        if (word === "bye") return;
        if (word === "silent") continue;
        if (word === "hold") {
          await wfile.flush();
          await new Promise<void>((resolve) => context.held.push(resolve));
        }
        if (word === "push") wfile.write(`!${rest}\n`);
        if (word === "long") wfile.write(`${"x".repeat(Number(rest))}\n`);
        else if (word === "fail") wfile.write(`-${rest}\n`);
        else if (word === "twice") wfile.write(`${line}\n${line}\n`);
        else wfile.write(`${line}\n`);
      }
    } finally {
      context.open.delete(this);
    }
  }
}

const notices: unknown[] = [];

class Lines extends ClientHandler<string, string, unknown> {
  override async setup(): Promise<void> {
    await super.setup();
    expect(await this.exchange("login")).toBe("login");
  }

  override send(call: string): void {
    if (call === "wrong") throw new TypeError("that is no call");
    this.wfile.write(`${call}\n`);
  }

  override async receive(): Promise<string | Notice | ErrorReply> {
    const line = new TextDecoder().decode(await this.rfile.readuntil("\n")).slice(0, -1);
    if (line.startsWith("!")) return new Notice(line.slice(1));
    if (line.startsWith("-")) return new ErrorReply(new Error(line.slice(1)));
    return line;
  }

  override notice(message: unknown): void {
    notices.push(message);
  }
}

const events: SockletEvent[] = [];

const place = <Handler extends ClientHandler<string, string>>(
  Handler: new (...args: never[]) => Handler,
  options: PoolOptions = {},
) => {
  events.length = notices.length = 0;
  const seen = new Seen();
  const server = new ThreadingMemoryServer(Server, { context: seen });
  void server.serveForever();
  const pool = memoryPool(server, Handler as unknown as typeof Lines, {
    ...options,
    onEvent: (event) => void events.push(event),
  });
  return {
    seen,
    server,
    pool,
    async [Symbol.asyncDispose]() {
      for (const go of seen.held.splice(0)) go();
      server.abort();
      await pool.close();
      await server.serverClose();
    },
  };
};

const types = (): string[] =>
  events.map((event) => (event.type === "connectionEnded" ? event.reason : event.type));
const until = async (true_: () => boolean): Promise<void> => {
  for (let turns = 0; !true_(); turns++) {
    if (turns === 10_000) throw new Error("it never came true");
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
};
const code = (wanted: string) => expect.objectContaining({ code: wanted });

describe("calls", () => {
  test("share connections that are logged in once", async () => {
    await using at = place(Lines, { max: 3 });
    const calls = Array.from({ length: 50 }, (_, i) => `call ${i}`);
    expect(await Promise.all(calls.map((call) => at.pool.call(call)))).toEqual(calls);
    expect(at.seen.logins).toBe(3);
    expect(at.pool.info()).toMatchObject({ connections: 3, opened: 3, idle: 3, answered: 50, running: 0 });
  });

  test("several may be under way on one connection, and each gets its own reply, in the order of send()", async () => {
    await using at = place(Lines, { max: 1, pipeline: 8 });
    await at.pool.call("first");
    const held = at.pool.call("hold 1");
    const calls = Array.from({ length: 20 }, (_, i) => at.pool.call(`call ${i}`));
    await until(() => at.seen.held.length > 0);
    expect(at.pool.info()).toMatchObject({ running: 8, waiting: 13 });
    at.seen.held.shift()?.();
    expect(await held).toBe("hold 1");
    expect(await Promise.all(calls)).toEqual(calls.map((_, i) => `call ${i}`));
    expect(at.seen.logins).toBe(1);
  });

  test("an error that the server sends rejects its call, and the connection goes on", async () => {
    await using at = place(Lines, { max: 1, pipeline: 4 });
    const calls = ["a", "fail no", "b"].map((call) => at.pool.call(call));
    expect(await Promise.allSettled(calls)).toMatchObject([
      { value: "a" },
      { reason: { message: "no" } },
      { value: "b" },
    ]);
    expect(at.seen.logins).toBe(1);
  });

  test("send() that throws before it writes refuses that call alone", async () => {
    await using at = place(Lines, { max: 1, pipeline: 4 });
    await expect(at.pool.call("wrong")).rejects.toThrow("that is no call");
    expect(await at.pool.call("right")).toBe("right");
    expect(at.seen.logins).toBe(1);
  });

  test("a class that has call() alone has one at a time", async () => {
    let running = 0;
    class Exchange extends ClientHandler<string, string> {
      override async call(call: string): Promise<string> {
        expect(++running).toBe(1);
        this.wfile.write(`${call}\n`);
        const line = await this.rfile.readuntil("\n");
        running--;
        return new TextDecoder().decode(line).slice(0, -1);
      }
    }
    await using at = place(Exchange, { max: 1 });
    const calls = Array.from({ length: 10 }, (_, i) => `call ${i}`);
    expect(await Promise.all(calls.map((call) => at.pool.call(call)))).toEqual(calls);
    expect(() => place(Exchange, { pipeline: 2 })).toThrow(
      "pipeline is 2, and Exchange has call() alone, which is one call at a time",
    );
  });

  test("replies with ids come in any order", async () => {
    class Backwards extends StreamRequestHandler {
      override async handle(): Promise<void> {
        const lines: string[] = [];
        for await (const line of this.rfile.lines()) {
          if (lines.push(line) === 3)
            for (const one of lines.splice(0).reverse()) this.wfile.write(`${one}\n`);
        }
      }
    }
    class Ids extends ClientHandler<string, string> {
      #last = 0;
      override send(call: string): string {
        this.wfile.write(`${++this.#last}:${call}\n`);
        return `${this.#last}`;
      }
      override async receive(): Promise<string> {
        return new TextDecoder().decode(await this.rfile.readuntil("\n")).slice(0, -1);
      }
      override match(reply: string): string {
        return reply.split(":")[0] as string;
      }
    }
    const server = new ThreadingMemoryServer(Backwards);
    void server.serveForever();
    await using pool = memoryPool(server, Ids, { max: 1, pipeline: 3 });
    const order: string[] = [];
    const calls = ["a", "b", "c"].map((call) => pool.call(call).then((reply) => order.push(reply)));
    await Promise.all(calls);
    expect(order).toEqual(["3:c", "2:b", "1:a"]);
  });

  test("a reply that nobody asked for ends the connection, and is nobody's", async () => {
    await using at = place(Lines, { max: 1 });
    expect(await at.pool.call("twice")).toBe("twice");
    await until(() => types().includes("lost"));
    expect(await at.pool.call("next")).toBe("next");
    expect(at.seen.logins).toBe(2);
  });

  test("what is said unasked goes to notice(), between replies and while nothing is asked", async () => {
    await using at = place(Lines, { max: 1 });
    expect(await at.pool.call("push one")).toBe("push one");
    const [server] = at.seen.open;
    server?.wfile.write("!two\n");
    await until(() => notices.length === 2);
    server?.wfile.write("!th");
    await server?.wfile.flush();
    const asked = at.pool.call("asked");
    server?.wfile.write("ree\n");
    expect(await asked).toBe("asked");
    expect(notices).toEqual(["one", "two", "three"]);
    expect(at.seen.logins).toBe(1);
  });

  test("a transaction that is opened on a shared connection is refused, and costs it", async () => {
    class Begins extends Lines {
      #open = false;
      override async receive(): Promise<string | Notice | ErrorReply> {
        const got = await super.receive();
        if (got === "begin") this.#open = true;
        return got;
      }
      override get inTransaction(): boolean {
        return this.#open;
      }
    }
    await using at = place(Begins, { max: 1 });
    await expect(at.pool.call("begin")).rejects.toMatchObject({
      code: "EINVAL",
      message: expect.stringContaining("take a lease()"),
    });
    expect(await at.pool.call("next")).toBe("next");
    expect(at.seen.logins).toBe(2);
  });

  test.each([
    [class A extends ClientHandler {}, "A answers no calls: give it send() and receive(), or call()"],
    [
      class B extends Lines {
        override call() {
          return "";
        }
      },
      "B has call() and send() or receive(); a class has one or the other",
    ],
    [
      class C extends ClientHandler {
        override send() {}
      },
      "C has send() without receive()",
    ],
    [
      class D extends ClientHandler {
        override receive() {
          return "";
        }
      },
      "D has receive() without send()",
    ],
    [Server, "a pool takes a class that extends ClientHandler"],
  ])("a class that cannot answer calls is refused: %s", (Handler, message) => {
    expect(() => place(Handler as never)).toThrow(new TypeError(message));
  });

  test("a connector that is no pool's makes one call, of its params", async () => {
    const { TCPConnector, ThreadingTCPServer } = await import("socklet/emulator");
    await using server = new ThreadingTCPServer("127.0.0.1:0", Server, { context: new Seen() });
    const address = await server.listen();
    void server.serveForever();
    expect(await new TCPConnector(address as never, Lines).run({ params: "once" })).toBe("once");
  });
});

describe("a connection that is lost", () => {
  test("loses the calls that had begun, and no other", async () => {
    await using at = place(Lines, { max: 1, pipeline: 3 });
    await at.pool.call("first");
    const calls = ["drop", "a", "b", "c", "d"].map((call) => at.pool.call(call));
    expect(await Promise.allSettled(calls)).toMatchObject([
      { reason: { code: "ERR_CALL_LOST", cause: { code: "ECONNRESET" } } },
      { reason: code("ERR_CALL_LOST") },
      { reason: code("ERR_CALL_LOST") },
      { value: "c" },
      { value: "d" },
    ]);
    expect(at.pool.info()).toMatchObject({ lost: 3, answered: 3, opened: 2 });
  });

  test("costs nothing where calls may be repeated; one that ends the server each time is given up", async () => {
    await using at = place(Lines, { max: 1, pipeline: 3, retryDelay: 1 });
    await at.pool.call("first");
    const calls = ["drop", "a", "b"].map((call) => at.pool.call(call, { repeatable: true }));
    expect(await Promise.allSettled(calls)).toMatchObject([
      { reason: code("ERR_CALL_LOST") },
      { value: "a" },
      { value: "b" },
    ]);
    expect(at.seen.lines.filter((line) => line === "drop")).toHaveLength(3);
  });

  test("while nothing is asked, costs nobody anything", async () => {
    await using at = place(Lines, { max: 1 });
    await at.pool.call("first");
    for (const server of at.seen.open) server.request.abort();
    await until(() => types().includes("lost"));
    expect(await at.pool.call("second")).toBe("second");
    expect(await at.pool.call("bye").catch((error) => error)).toMatchObject({ code: "ERR_CALL_LOST" });
    expect(await at.pool.call("third")).toBe("third");
  });

  test("a server that is away loses no call that can wait; it is dialled again after growing pauses", async () => {
    using clock = new VirtualClock().install();
    await using at = place(Lines, { max: 4 });
    at.seen.refuses = 5;
    const calls = Array.from({ length: 20 }, (_, i) => at.pool.call(`call ${i}`));
    expect(await Promise.all(calls)).toEqual(calls.map((_, i) => `call ${i}`));
    const delays = events.flatMap((event) => (event.type === "dialFailed" ? event.delay : []));
    expect(at.pool.info().failed).toBe(5);
    expect(delays.at(-1)).toBeGreaterThan(4 * 100);
    expect(clock.now()).toBeGreaterThan(400);
  });

  test("who waits too long is told why there is no connection", async () => {
    using _ = new VirtualClock().install();
    await using at = place(Lines, { max: 1, waitTimeout: 500 });
    at.seen.refuses = 1_000;
    await expect(at.pool.call("a")).rejects.toMatchObject({
      code: "ETIMEDOUT",
      message: expect.stringMatching(
        /^ETIMEDOUT: the pool Lines had no connection to memory within 500 ms; the last attempt failed: SocketError: ECONN/,
      ),
    });
    expect(at.pool.info().error).toContain("ECONN");
  });

  test("a server that says no while it starts loses no call that can wait", async () => {
    using _ = new VirtualClock().install();
    let times = 0;
    class Loading extends Lines {
      override async setup(): Promise<void> {
        if (++times < 5) throw new Error("LOADING the dataset");
      }
    }
    await using at = place(Loading, { max: 1 });
    expect(await at.pool.call("a")).toBe("a");
    expect(at.pool.info().failed).toBe(4);
  });

  test("setup() that throws by a fault of its own is told to who waits, at once", async () => {
    class Broken extends Lines {
      override async setup(): Promise<void> {
        throw new RangeError("no such user");
      }
    }
    await using at = place(Broken);
    await expect(at.pool.call("a")).rejects.toMatchObject({
      code: "ERR_HANDLER",
      message: expect.stringContaining("no such user"),
    });
  });
});

describe("who gives up", () => {
  test("before his call has begun, costs nothing", async () => {
    await using at = place(Lines, { max: 1 });
    const held = at.pool.call("hold");
    const leaving = new AbortController();
    const waits = at.pool.call("waits", { signal: leaving.signal });
    await until(() => at.seen.held.length > 0);
    leaving.abort(new Error("enough"));
    await expect(waits).rejects.toThrow("enough");
    at.seen.held.shift()?.();
    expect(await held).toBe("hold");
    expect(at.seen).toMatchObject({ logins: 1, lines: ["login", "hold"] });
    await expect(at.pool.call("x", { signal: AbortSignal.abort(new Error("early")) })).rejects.toThrow(
      "early",
    );
  });

  test("in the middle, costs the connection; those beside him on it get their replies", async () => {
    await using at = place(Lines, { max: 1, pipeline: 3 });
    await at.pool.call("first");
    const leaving = new AbortController();
    const before = at.pool.call("hold");
    const left = at.pool.call("mine", { signal: leaving.signal });
    const behind = at.pool.call("behind");
    await until(() => at.seen.held.length > 0);
    leaving.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    const next = at.pool.call("next");
    at.seen.held.shift()?.();
    expect(await Promise.all([before, behind, next])).toEqual(["hold", "behind", "next"]);
    expect(at.seen.logins).toBe(2);
    expect(types()).toContain("cut");
  });

  test("alone on a connection, ends it at once", async () => {
    await using at = place(Lines, { max: 1 });
    const leaving = new AbortController();
    const left = at.pool.call("silent", { signal: leaving.signal });
    await until(() => at.seen.lines.includes("silent"));
    leaving.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    expect(await at.pool.call("next")).toBe("next");
  });
});

describe("limits", () => {
  test("callTimeout: a call that takes too long rejects, and its connection takes no more", async () => {
    using _ = new VirtualClock().install();
    await using at = place(Lines, { max: 1, pipeline: 2, callTimeout: 1_000 });
    await at.pool.call("first");
    const late = at.pool.call("silent");
    const behind = at.pool.call("behind"); // its reply is taken for that of the call before it: it must not be given
    const told = await Promise.allSettled([late, behind]);
    expect(told[0]).toMatchObject({ status: "fulfilled", value: "behind" }); // the server answered out of turn: a fault of its own
    expect(told[1]).toMatchObject({ reason: code("ETIMEDOUT") });
    expect(await at.pool.call("next")).toBe("next");
    expect(at.seen.logins).toBe(2);
  });

  test("maxWaiting: one more is ERR_LIMIT", async () => {
    await using at = place(Lines, { max: 1, maxWaiting: 2 });
    const held = at.pool.call("hold");
    await until(() => at.seen.held.length > 0);
    const waiting = [at.pool.call("a"), at.pool.lease()];
    await expect(at.pool.call("b")).rejects.toMatchObject({ code: "ERR_LIMIT" });
    await expect(at.pool.lease()).rejects.toMatchObject({ code: "ERR_LIMIT" });
    at.seen.held.shift()?.();
    await held;
    const [, lease] = await Promise.all(waiting);
    await (lease as { release(): Promise<void> }).release();
  });

  test("maxReply: a larger one is ERR_LIMIT and costs the connection, also where it never ends", async () => {
    await using at = place(Lines, { max: 1, maxReply: 1_000 });
    expect(await at.pool.call("long 900")).toHaveLength(900);
    await expect(at.pool.call("long 5000")).rejects.toMatchObject({ code: "ERR_LIMIT" });
    expect(await at.pool.call("next")).toBe("next");
    expect(at.seen.logins).toBe(2);
  });

  test("idleTimeout, min and maxAge: a connection goes when it has had nothing to do, or is old; a call never notices", async () => {
    using clock = new VirtualClock().install();
    await using at = place(Lines, { max: 3, min: 1, idleTimeout: 1_000, maxAge: 10_000 });
    await Promise.all(["a", "b", "c"].map((call) => at.pool.call(call)));
    await clock.sleep(1_500);
    expect(at.pool.info().connections).toBe(1);
    expect(types().filter((type) => type === "idle")).toHaveLength(2);
    await clock.sleep(10_000);
    expect(types()).toContain("age");
    expect(at.pool.info().connections).toBe(1); // min
    expect(await at.pool.call("d")).toBe("d");
  });

  test("loginTimeout: a setup() that hangs is an attempt that failed", async () => {
    using _ = new VirtualClock().install();
    class Hangs extends Lines {
      override async setup(): Promise<void> {
        await this.exchange("silent");
      }
    }
    await using at = place(Hangs, { max: 1, waitTimeout: 5_000, loginTimeout: 300 });
    await expect(at.pool.call("a")).rejects.toMatchObject({
      code: "ETIMEDOUT",
      message: expect.stringContaining("setup() did not end within loginTimeout, 300 ms"),
    });
  });

  test("pingInterval: idle() runs while there is nothing to do, is withdrawn when a call comes, and ends a dead connection", async () => {
    using clock = new VirtualClock().install();
    class Pings extends Lines {
      override async idle(signal: AbortSignal): Promise<void> {
        expect(await this.exchange("hold ping")).toBe("hold ping");
        pings.push(signal.aborted);
      }
    }
    const pings: boolean[] = [];
    await using at = place(Pings, { max: 1, pingInterval: 1_000, idleTimeout: null, callTimeout: 60_000 });
    await at.pool.call("a");
    await clock.sleep(1_100);
    await until(() => at.seen.held.length > 0);
    const call = at.pool.call("b");
    at.seen.held.shift()?.();
    expect(await call).toBe("b");
    expect(pings).toEqual([true]); // it was told that a call waits
    expect(at.seen.logins).toBe(1);
    await clock.sleep(1_100);
    await until(() => at.seen.held.length > 0);
    for (const server of at.seen.open) server.request.abort();
    expect(await at.pool.call("c")).toBe("c");
    expect(at.seen.logins).toBe(2);
  });

  test.each([
    [{ max: 0 }, "max must be a whole number of 1 or more, not 0"],
    [{ min: 5, max: 4 }, "min is 5, but must be at most max, which is 4"],
    [{ callTimeout: 0 }, "callTimeout must be 1 to 2147483647 ms, or null for no limit, not 0"],
    [{ pipline: 4 }, "memoryPool() has no option pipline; did you mean pipeline?"],
  ])("%j is refused", (options, message) => {
    expect(() => place(Lines, options as PoolOptions)).toThrow(message);
  });
});

describe("a lease", () => {
  class Resets extends Lines {
    transaction = false;
    override async receive(): Promise<string | Notice | ErrorReply> {
      const got = await super.receive();
      if (got === "begin") this.transaction = true;
      if (got === "commit") this.transaction = false;
      return got;
    }
    override get inTransaction(): boolean {
      return this.transaction;
    }
    override async reset(): Promise<void> {
      await this.exchange("reset");
    }
  }

  test("is one connection, for its holder alone, and is reset when it comes back", async () => {
    await using at = place(Resets, { max: 1, pipeline: 4 });
    const lease = await at.pool.lease();
    const other = at.pool.call("other");
    expect(await lease.call("begin")).toBe("begin");
    expect(await Promise.all([lease.call("a"), lease.call("commit")])).toEqual(["a", "commit"]);
    expect(at.pool.info()).toMatchObject({ leased: 1, waiting: 1, connections: 1 });
    await lease[Symbol.asyncDispose]();
    expect(await other).toBe("other");
    expect(at.seen.lines).toEqual(["login", "begin", "a", "commit", "reset", "other"]);
    await expect(lease.call("late")).rejects.toMatchObject({ code: "EBADF" });
    await lease.release();
  });

  test("that is given back in a transaction, or with calls under way, costs the connection", async () => {
    await using at = place(Resets, { max: 1 });
    const first = await at.pool.lease();
    await first.call("begin");
    await first.release();
    const second = await at.pool.lease();
    const cut = second.call("silent");
    const waits = second.call("waits");
    await second.release();
    await expect(cut).rejects.toMatchObject({ code: "ERR_CALL_LOST" });
    await expect(waits).rejects.toMatchObject({ code: "ECANCELED" });
    expect(await at.pool.call("next")).toBe("next");
    expect(at.seen.logins).toBe(3);
    expect(at.seen.lines).not.toContain("reset");
    expect(types().filter((type) => type === "lease")).toHaveLength(2);
  });

  test("whose reset() fails costs the connection; without reset() it is closed", async () => {
    class Fails extends Resets {
      override async reset(): Promise<void> {
        throw new Error("it cannot be reset");
      }
    }
    for (const Handler of [Fails, Lines]) {
      await using at = place(Handler, { max: 1 });
      await (await at.pool.lease()).release();
      expect(await at.pool.call("next")).toBe("next");
      expect(at.seen.logins).toBe(2);
    }
  });

  test("has a time limit, and ends with its signal", async () => {
    using _ = new VirtualClock().install();
    await using at = place(Resets, { max: 1, leaseTimeout: 1_000 });
    const lease = await at.pool.lease();
    await expect(lease.call("silent")).rejects.toMatchObject({
      code: "ETIMEDOUT",
      message: "ETIMEDOUT: the lease was not given back within 1000 ms",
    });
    await expect(lease.call("more")).rejects.toMatchObject({ code: "ETIMEDOUT" });
    await lease.release();
    const leaving = new AbortController();
    const second = await at.pool.lease({ signal: leaving.signal });
    const cut = second.call("silent");
    leaving.abort(new Error("enough"));
    await expect(cut).rejects.toThrow("enough");
    expect(await at.pool.call("next")).toBe("next");
  });

  test("is got also where others never leave a connection alone", async () => {
    await using at = place(Resets, { max: 1, pipeline: 4 });
    let more = true;
    const busy = Array.from({ length: 8 }, async () => {
      while (more) await at.pool.call("busy");
    });
    const lease = await at.pool.lease();
    expect(await lease.call("mine")).toBe("mine");
    more = false;
    await lease.release();
    await Promise.all(busy);
  });

  test("whose connection is lost says so", async () => {
    await using at = place(Resets, { max: 1 });
    await using lease = await at.pool.lease();
    await lease.call("a");
    await expect(lease.call("drop")).rejects.toMatchObject({ code: "ERR_CALL_LOST" });
    await expect(lease.call("b")).rejects.toMatchObject({ code: "ENOTCONN" });
    expect(await at.pool.call("next")).toBe("next");
  });
});

describe("close()", () => {
  test("lets what was asked go on, and then ends all connections", async () => {
    await using at = place(Lines, { max: 2 });
    const calls = Array.from({ length: 10 }, (_, i) => at.pool.call(`call ${i}`));
    const closed = at.pool.close();
    await expect(at.pool.call("late")).rejects.toMatchObject({ code: "EBADF" });
    expect(await Promise.all(calls)).toEqual(calls.map((_, i) => `call ${i}`));
    await closed;
    expect(at.pool.info()).toMatchObject({ connections: 0, opening: 0, closed: true });
    await until(() => at.seen.open.size === 0);
  });

  test("past drainTimeout, tells what has begun from what has not", async () => {
    using _ = new VirtualClock().install();
    await using at = place(Lines, { max: 1, drainTimeout: 100 });
    const begun = at.pool.call("silent");
    const waits = at.pool.call("waits");
    await until(() => at.seen.lines.includes("silent"));
    const closed = at.pool.close();
    await expect(begun).rejects.toMatchObject({ code: "ERR_CALL_LOST" });
    await expect(waits).rejects.toMatchObject({ code: "ECANCELED" });
    await closed;
  });

  test("of a pool that nobody has asked, or that cannot dial, ends at once", async () => {
    await using at = place(Lines);
    await at.pool.close();
    await using away = place(Lines, { drainTimeout: 1 });
    away.seen.refuses = 1_000;
    const call = away.pool.call("a");
    await away.pool.close();
    await expect(call).rejects.toBeInstanceOf(SocketError);
  });
});
