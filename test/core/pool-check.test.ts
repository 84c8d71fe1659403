/** `checkPool`: it passes the examples' clients, and finds what others do wrong. */

import { ClientHandler, ErrorReply, StreamRequestHandler } from "socklet";
import { checkFraming, checkPool, PoolCheckError } from "socklet/testing";
import { describe, expect, test } from "vitest";
import { Redis } from "../../examples/redis.ts";
import { KeyStore, RespServer } from "../../examples/resp.ts";

test("Redis keeps its callers apart, whatever goes wrong", async () => {
  const report = await checkPool(Redis, {
    server: RespServer,
    serverContext: () => ({ keys: new KeyStore() }),
    ask: (n) => ["ECHO", `${n}`],
    reply: (n) => `${n}`,
    notice: ">2\r\n+news\r\n:7\r\n",
  });
  expect(report.runs).toBeGreaterThan(1_000);
  expect(report.rejected).toBeGreaterThan(100);
});

/** Says each line again. */
class Parrot extends StreamRequestHandler {
  override async handle(): Promise<void> {
    for await (const line of this.rfile.lines()) this.wfile.write(`${line}\n`);
  }
}

class Lines extends ClientHandler<string, string> {
  override send(call: string): void {
    this.wfile.write(`${call}\n`);
  }

  override async receive(): Promise<string | ErrorReply> {
    return new TextDecoder().decode(await this.rfile.readuntil("\n")).slice(0, -1);
  }
}

const lines = { server: Parrot, ask: (n: number) => `number ${n}`, reply: (n: number) => `number ${n}` };

test("a class that does all right passes, also with call() alone", async () => {
  class Exchange extends ClientHandler<string, string> {
    override async call(call: string): Promise<string> {
      this.wfile.write(`${call}\n`);
      return new TextDecoder().decode(await this.rfile.readuntil("\n")).slice(0, -1);
    }
  }
  await checkPool(Lines, lines);
  await checkPool(Exchange, lines);
});

const platform = () => [setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate];

test("checks side by side run one after the other, and give the platform's timers back", async () => {
  const own = [...platform(), performance.now];
  const both = [checkPool(Lines, lines), checkFraming(Parrot, ["one\n"]), checkPool(Lines, lines)];
  const [one, , other] = await Promise.all(both);
  expect(one).toEqual(other);
  expect([...platform(), performance.now]).toEqual(own);
});

test("a check leaves the time and the timers of others alone", async () => {
  const began = performance.now();
  const fires = Promise.withResolvers<number>();
  let turn: NodeJS.Immediate;
  let turns = 0;
  const goOn = (): void => {
    turns++;
    if (turns === 1) setTimeout(() => fires.resolve(performance.now()), 50);
    turn = setImmediate(goOn);
  };
  turn = setImmediate(goOn);
  await checkPool(Lines, lines);
  const ended = performance.now();
  const fired = await fires.promise;
  clearImmediate(turn);
  expect(turns).toBeGreaterThan(1);
  expect(ended - began).toBeLessThan(3_600_000); // the check lets days pass
  expect(fired - began).toBeGreaterThanOrEqual(49);
  expect(fired - began).toBeLessThan(3_600_000);
});

describe("finds a class that", () => {
  /** What the check says of such a class. */
  const found = async (Handler: typeof Lines, more: object = {}): Promise<string> => {
    const failed = await checkPool(Handler, { ...lines, ...more }).catch((error) => error);
    expect(failed).toBeInstanceOf(PoolCheckError);
    return failed.message;
  };

  test("takes a reply that was cut short for a whole one", async () => {
    class Cut extends Lines {
      override async receive(): Promise<string> {
        return (await this.rfile.line()) ?? "";
      }
    }
    expect(await found(Cut)).toMatch(
      /^Cut: caller 0 was given "n", and asked for "number 0", when after 1 bytes of the server the connection ended/,
    );
  });

  test("gives an error as a reply to all that goes wrong", async () => {
    class Swallows extends Lines {
      override async receive(): Promise<string | ErrorReply> {
        try {
          return (await super.receive()) as string;
        } catch (error) {
          return new ErrorReply(new Error("it did not work", { cause: error }));
        }
      }
    }
    expect(await found(Swallows)).toContain("was told Error: it did not work");
  });

  test("gives what is said unasked to a caller", async () => {
    expect(await found(Lines, { notice: "news\n" })).toMatch(
      /when after \d+ bytes of the server something was said unasked/,
    );
  });

  test("reads by what it takes for one piece", async () => {
    class Pieces extends Lines {
      override async receive(): Promise<string> {
        const bytes = await this.rfile.recv();
        if (bytes === null) throw new Error("the end");
        return new TextDecoder().decode(bytes).trimEnd();
      }
    }
    expect(await found(Pieces)).toContain('caller 0 was given "n", and asked for "number 0"');
  });

  test("never answers", async () => {
    class Waits extends Lines {
      override async receive(): Promise<string> {
        await super.receive();
        return super.receive() as Promise<string>;
      }
    }
    expect(await found(Waits)).toContain("was told SocketError: ETIMEDOUT");
  });
});
