import {
  type Data,
  type HandlerClass,
  SocketError,
  StreamRequestHandler,
  type StreamSocket,
  streamHandler,
} from "socklet";
import {
  checkFraming,
  conversation,
  FramingError,
  type FramingFailure,
  type FramingMessage,
  type FramingOptions,
  MemoryServer,
  MemoryStorage,
  VirtualClock,
} from "socklet/testing";
import { describe, expect, test, vi } from "vitest";
import { DnsStream } from "../../examples/dns.ts";
import { Echo } from "../../examples/echo.ts";
import { FingerClient, FingerServer } from "../../examples/finger.ts";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { PostgresClient } from "../../examples/postgres.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import {
  Greeting,
  GreetingClient,
  StreamGreeting,
  Transcript,
  TranscriptClient,
} from "../../examples/tutorial.ts";
import * as planted from "./fixtures/planted-bugs.ts";

// ---- Help ----

const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes);

/** What a check finds. */
const failuresOf = async <Context>(
  ...args: Parameters<typeof checkFraming<Context>>
): Promise<readonly FramingFailure[]> => {
  const error = await checkFraming(...args).then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error === null) return [];
  if (error instanceof FramingError) return error.failures;
  throw error;
};

/** The query of a name, after its length. */
const dnsQuery = (name: string): Uint8Array => {
  const labels = name.split(".").flatMap((label) => [label.length, ...new TextEncoder().encode(label)]);
  const query = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1];
  return Uint8Array.from([0, query.length, ...query]);
};

/** A message of PostgreSQL's server. */
const postgres = (type: string, body: string): string => {
  const size = body.length + 4;
  return `${type}${String.fromCharCode(0, 0, size >> 8, size & 255)}${body}`;
};

// ---- The examples ----

const MAIL = "Subject: π\r\n\r\n..two\r\n\r\nend\r\n.\r\n";
const SMTP = [
  "EHLO c\r\n",
  "MAIL FROM:<a@b>\r\n",
  "RCPT TO:<c@d>\r\n",
  "DATA\r\n",
  MAIL,
  "NOOP\r\n",
  "QUIT\r\n",
];
const mailContext = (): MailContext => ({ storage: new MemoryStorage() });
const mails = async ({ storage }: MailContext): Promise<unknown[]> =>
  Promise.all((await storage.list()).map(async (name) => text((await storage.get(name)) ?? undefined)));
const NAME_OF_MAIL = /\d{8}T\d{9}Z-\d+/;

describe("finds nothing in", () => {
  const check = <Context>(
    name: string,
    Handler: HandlerClass<StreamSocket, Context>,
    messages: (Data | FramingMessage)[],
    options: FramingOptions<Context> = {},
  ): void => {
    test(name, async () => {
      const { runs, answers } = await checkFraming(Handler, messages, options);
      expect(runs).toBeGreaterThan(15);
      expect(answers).toHaveLength(messages.length + 2);
    });
  };

  check("echo", Echo, ["hello\r\n", "wörld\r\n", "x".repeat(180)]);
  check("the greeting", Greeting, ["hello\r\n"]);
  check("the greeting by its file", StreamGreeting, ["hello\r\n"]);
  check("the greeting's client", GreetingClient, ["Thank you for connecting"]);
  check("the transcript", Transcript, ["Hello!", "I like Tüesdays!"]);
  check("the transcript's client", TranscriptClient, ["Hello!", "I like Tuesdays!"]);
  check("finger", FingerServer, ["alice\r\n"]);
  check("finger of all", FingerServer, ["\r\n"]);
  check("finger's client", FingerClient, ["Login: alice\r\nName: Älice\r\n"], { params: "alice" });
  check("DNS", DnsStream, ["www.example.test", "nope.example.test", "many.example.test"].map(dnsQuery));
  check("mail", MailRequestHandler, SMTP, { context: mailContext, mask: NAME_OF_MAIL, effect: mails });
  check(
    "RESP",
    RespServer,
    [
      { send: "PING\r\n", expect: "+PONG\r\n" },
      "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\na\r\nπ\r\n",
      { send: "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", expect: "$5\r\na\r\nπ\r\n" },
      { send: "INCR n\r\n", expect: ":1\r\n" },
      { send: "INCR n\r\n", expect: ":2\r\n" },
      "NOPE\r\n",
      { send: "QUIT\r\n", expect: "+OK\r\n" },
    ],
    { context: () => ({ keys: new KeyStore() }) },
  );
  check("RESP's client", RespClient, ["+OK\r\n", "$5\r\na\r\nπ\r\n", "*2\r\n:1\r\n$-1\r\n"], {
    params: [["SET", "k", "v"], ["GET", "k"], ["LIST"]],
  });
  check(
    "SMTP's client",
    SmtpClient,
    [
      "220 x\r\n",
      "250-x\r\n250 8BITMIME\r\n",
      "250 OK\r\n",
      "250 OK\r\n",
      "354 go on\r\n",
      "250 kept\r\n",
      "221 bye\r\n",
    ],
    { params: { from: "a@b", to: ["c@d"], message: "Subject: π\n\n.dot\n", plain: true } },
  );
  check(
    "PostgreSQL's client",
    PostgresClient,
    [
      "N",
      postgres("R", "\0\0\0\0") + postgres("S", "server_version\x0017.1\0") + postgres("Z", "I"),
      postgres("T", `\0\x01n\0${"\0".repeat(18)}`) +
        postgres("D", "\0\x01\0\0\0\x021\n") +
        postgres("C", "SELECT 1\0") +
        postgres("Z", "I"),
    ],
    { params: { user: "me", query: "SELECT 1", plain: true } },
  );
});

// ---- The planted bugs ----

describe("finds", () => {
  const find = (
    bug: string,
    Handler: HandlerClass<StreamSocket>,
    messages: (Data | FramingMessage)[],
    fault: FramingFailure["fault"],
    summary: RegExp,
    message: RegExp,
  ): void => {
    test(bug, async () => {
      const [first, ...others] = await failuresOf(Handler, messages);
      expect(first).toMatchObject({ fault, summary: expect.stringMatching(summary) });
      expect(first?.message).toMatch(message);
      expect(others.length).toBeLessThan(3); // what follows from it, and no more
      // One message at a time, nothing cut: all is well but for what is left behind.
      const { answers } = await checkFraming(Handler, messages, { expected: () => true });
      expect(answers.map(text).slice(1, -1)).toHaveLength(messages.length);
    });
  };

  find(
    "a line that is split across reads",
    planted.TakesAReadForALine,
    ["alice\r\n"],
    "answer",
    /^The answer is another when the bytes are cut in the middle of message 1 \(after byte 1 of 7\)$/,
    /"a" \| "lice\\r\\n", then the end\n.*61 \| 6c 69 63 65 0d 0a\n.*\n.*\n.*- "alice: no such user\\r\\n"\n.*\+ "a: no such user/,
  );
  find(
    "the second of two commands in one read",
    planted.SeesTheFirstCommandOnly,
    ["PING\r\n", "PING\r\n"],
    "answer",
    /^The answer to message 2 is missing when the 2 messages come in one piece, and then it waits for more input$/,
    /"PING\\r\\nPING\\r\\n", then the end/,
  );
  find(
    "a character of UTF-8 that is cut",
    planted.DecodesEachRead,
    ["hello", "wörld"],
    "answer",
    /^The answer is another when the bytes are cut inside the character "ö" of message 2 \(after byte 7 of 11\)$/,
    /77 c3 \| b6 72/,
  );
  find(
    "a cut between CR and LF",
    planted.TakesCrForAnEnd,
    ["NOOP\r\n", "EXPN\r\n"],
    "answer",
    /^More is answered when the bytes are cut between the CR and the LF of message 1 \(after byte 5 of 12\)$/,
    /"NOOP\\r" \| "\\nEXPN/,
  );
  find(
    "a length that is cut",
    planted.TakesALengthFromOneRead,
    [dnsQuery("www.example.test")],
    "error",
    /^It throws an error when the bytes are cut in the middle of message 1 \(after byte 1 of 36\): TypeError: /,
    /00 \| 22 ab cd.*\n.*at /,
  );
  find(
    "a write after the close",
    planted.SaysGoodbyeToNobody,
    ["NOOP\r\n", "QUIT\r\n"],
    "write",
    /^It writes after its own end when nothing is cut: "221 Bye\\r\\n"$/,
    /QUIT/,
  );
  find(
    "a last piece that is not flushed",
    planted.ForgetsTheLastPiece,
    ["PING\r\n", "PING\r\n", "QUIT\r\n"],
    "answer",
    /^The answers to messages 1, 2 are missing when the 3 messages come in one piece$/,
    /\+ "\+OK/,
  );
  find(
    "a line without an end",
    planted.GathersForEver,
    ["NOOP\r\n", "EXPN\r\n"],
    "unbounded",
    /^It takes 2097152 bytes when message 1 does not end, and neither refuses nor answers them/,
    /"NOO", then 2097152 times "x"/,
  );
  find(
    "replies in another order",
    planted.AnswersWhenReady,
    ["PING\r\n", "GET k\r\n", "PING\r\n"],
    "answer",
    /^The answers come in another order \(1, 3, 2\) when the 3 messages come in one piece$/,
    /differs at byte 7/,
  );
  find(
    "a timer that is left",
    planted.LeavesItsDeadline,
    ["alice\r\n"],
    "timer",
    /^It leaves a timer behind when nothing is cut: setTimeout of 30000 ms, set at .*planted-bugs\.ts:\d+/,
    /alice/,
  );
  find(
    "a half-close that is taken for a close",
    planted.TakesAnEndForAClose,
    ["PING\r\n", "GET k\r\n"],
    "answer",
    /^The answer to message 1 is missing when the peer's end follows message 1 at once \(a half-close is no close/,
    /"PING\\r\\n", then the end/,
  );
  find(
    "a reset that is swallowed",
    planted.TakesAResetForTheEnd,
    ["Thank you"],
    "result",
    /^It returns a result when the connection is reset before anything is asked, as if all had come: ""$/,
    /nothing, then a reset/,
  );
});

// ---- What a handler owes, one by one ----

/** Answers each line in upper case: right. */
const Upper = streamHandler(async ({ rfile, wfile }) => {
  for await (const line of rfile.lines()) wfile.write(`${line.toUpperCase()}\r\n`);
});

const LINES = ["one\r\n", "two\r\n"];
const never = new Promise<never>(() => {});

describe("lets be", () => {
  test("a handler that waits for timers", async () => {
    const Slow = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        wfile.write(`${line}\r\n`);
      }
    });
    const { answers } = await checkFraming(Slow, ["a\r\n", "b\r\n"], { maxRuns: 80 });
    expect(answers.map(text)).toEqual(["", "a\r\n", "b\r\n", ""]);
  });

  test("one that waits long, by a virtual clock", async () => {
    using clock = new VirtualClock().install();
    const Slow = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) {
        await new Promise((resolve) => setTimeout(resolve, 60_000));
        wfile.write(`${line}\r\n`);
      }
    });
    const { answers } = await checkFraming(Slow, ["a\r\n", "b\r\n"], { maxRuns: 8, timeout: 120_000 });
    expect(answers.map(text)).toEqual(["", "a\r\n", "b\r\n", ""]);
    expect(clock.now()).toBeGreaterThan(10 * 60_000);
  });

  test("one that waits for the platform", async () => {
    const Digest = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) {
        const digest = await crypto.subtle.digest("SHA-1", new TextEncoder().encode(line));
        wfile.write(`${new Uint8Array(digest)[0]}\r\n`);
      }
    });
    const { answers } = await checkFraming(Digest, LINES);
    expect(answers.map(text)).toEqual(["", "254\r\n", "173\r\n", ""]);
  });

  test("one that hands its connection over", async () => {
    const Piped = streamHandler(({ request }) => {
      const { readable, writable } = request.toWeb();
      return readable.pipeTo(writable).catch(() => {}); // as it breaks, so it ends
    });
    const { answers } = await checkFraming(Piped, LINES);
    expect(answers.map(text)).toEqual(["", "one\r\n", "two\r\n", ""]);
  });

  test("one that says good-bye, refuses, resets or fails, where it does so uncut", async () => {
    const Bye = streamHandler(async ({ rfile, wfile, request }) => {
      wfile.write("hello\r\n");
      for await (const line of rfile.lines()) {
        if (line === "reset") {
          await wfile.flush(); // else the answers before it would be lost where all comes in one piece
          return request.abort();
        }
        if (line === "fail") throw new SocketError("ERR_REFUSED", "so it was asked");
        wfile.write(`${line}\r\n`);
      }
      wfile.write("bye\r\n");
    });
    const answersTo = async (...lines: string[]): Promise<string[]> =>
      (await checkFraming(Bye, lines)).answers.map(text);
    expect(await answersTo("a\r\n", "b\r\n")).toEqual(["hello\r\n", "a\r\n", "b\r\n", "bye\r\n"]);
    expect(await answersTo("a\r\n", "reset\r\n")).toEqual(["hello\r\n", "a\r\n", "", ""]);
    expect(await answersTo("a\r\n", "fail\r\n")).toEqual(["hello\r\n", "a\r\n", "", ""]);
    expect(await answersTo()).toEqual(["hello\r\n", "bye\r\n"]);
  });
});

describe("finds also", () => {
  const first = async <Context>(...args: Parameters<typeof checkFraming<Context>>): Promise<string> =>
    (await failuresOf(...args))[0]?.summary ?? "nothing";

  test("reads without an end", async () => {
    const Insists = streamHandler(async ({ rfile, wfile }) => {
      for (;;) {
        const line = await rfile.line().catch(() => "");
        if (line === null) return;
        if (line !== "") wfile.write(`${line}\r\n`);
      }
    });
    expect(await first(Insists, LINES)).toMatch(
      /^It reads without end when the connection is reset before anything is asked, although it was given the end/,
    );
  });

  test("a handler that does not end with its peer, or stops half-way", async () => {
    const Stays = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(`${line}\r\n`);
      await never;
    });
    expect(await first(Stays, LINES, { timeout: 30 })).toBe(
      "It does not end when nothing is cut: it waits for something that does not happen",
    );
    const StaysAtReset = streamHandler(async ({ rfile }) => {
      for await (const _ of rfile.lines()) if (rfile.buffered > 0) await never;
    });
    expect(await first(StaysAtReset, LINES, { timeout: 30 })).toBe(
      "It does not end when the 2 messages come in one piece: it waits for something that does not happen",
    );
  });

  test("where it was checked: the stack begins there", async () => {
    const Late = streamHandler(({ request }) => void setTimeout(() => request.abort(), 60_000));
    const checking = checkFraming(Late, LINES).catch((error: Error) => error);
    const line = Number(new Error().stack?.match(/framing\.test\.ts:(\d+)/)?.[1]) - 1;
    const { stack, message } = (await checking) as Error;
    expect(stack).toMatch(new RegExp(`^FramingError: (?:.|\\n)*\\n +at [^\\n]*framing\\.test\\.ts:${line}:`));
    expect(stack?.startsWith(`FramingError: ${message}\n    at `)).toBe(true);
  });

  test("a read after its own end", async () => {
    const Late = streamHandler(async ({ rfile }) => {
      await rfile.line();
      queueMicrotask(() => queueMicrotask(() => queueMicrotask(() => rfile.line().catch(() => {}))));
    });
    expect(await first(Late, LINES)).toBe("It begins a read after its own end when nothing is cut");
  });

  test("another order, where what is waited for is the platform's", async () => {
    const Digests = streamHandler(async ({ rfile, wfile }) => {
      const answer = async (line: string): Promise<void> => {
        if (line === "digest") await crypto.subtle.digest("SHA-512", new Uint8Array(100_000));
        wfile.write(`${line}\r\n`);
      };
      const running: Promise<void>[] = [];
      for await (const line of rfile.lines()) running.push(answer(line));
      await Promise.all(running);
    });
    const messages = [{ send: "digest\r\n", expect: "digest\r\n" }, "at once\r\n"];
    expect(await first(Digests, messages)).toBe(
      "The answers come in another order (2, 1) when the 2 messages come in one piece",
    );
  });

  test("what a timer throws", async () => {
    const Throws = streamHandler(async ({ rfile, wfile }) => {
      await rfile.line();
      setTimeout(() => wfile.write("late"), 0);
    });
    expect(await first(Throws, LINES)).toBe(
      "What a timer calls throws when nothing is cut: SocketError: EBADF: the socket is closed",
    );
  });

  test("a promise that rejects unseen, and only that", async () => {
    const Floating = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) {
        wfile.write(`${line}\r\n`);
        void Promise.resolve().then(() => {
          if (line === "tw") throw new Error("half a line");
        });
      }
    });
    const failures = await failuresOf(Floating, LINES);
    expect(failures).toHaveLength(1);
    expect(failures[0]).toMatchObject({ fault: "rejection", error: new Error("half a line"), sent: 7 });
    expect(failures[0]?.summary).toBe(
      "A promise rejects and nobody sees it when the peer ends in the middle of message 2, after byte 7 of 10, which ends a Node process: Error: half a line",
    );
  });

  test("an error of another kind at an early end; none of the stream's, or with one as its cause", async () => {
    const failing = (make: (cause: unknown) => unknown): HandlerClass<StreamSocket> =>
      streamHandler(async ({ rfile }) => {
        try {
          await rfile.readexactly(10);
        } catch (cause) {
          throw make(cause);
        }
      });
    expect(
      await first(
        failing((cause) => cause),
        LINES,
      ),
    ).toBe("nothing");
    expect(
      await first(
        failing((cause) => new Error("wrapped", { cause })),
        LINES,
      ),
    ).toBe("nothing");
    expect(
      await first(
        failing((cause) => new AggregateError([cause, cause])),
        LINES,
      ),
    ).toBe("nothing");
    expect(
      await first(
        failing(() => new Error("mine")),
        LINES,
      ),
    ).toBe(
      "It throws an error that is none of the stream's when the peer ends before anything is asked: Error: mine",
    );
  });

  test("an effect of what did not come, and another one of what did", async () => {
    const keeping = (whole: boolean): HandlerClass<StreamSocket, { kept: string[] }> =>
      streamHandler<{ kept: string[] }>(async ({ rfile, context }) => {
        for (;;) {
          const part = await rfile.recv(whole ? 1 : undefined).catch((error) => {
            if (!whole) throw error;
            return null;
          });
          if (part === null) break;
          if (whole) context.kept[0] = (context.kept[0] ?? "") + text(part);
          else context.kept.push(text(part));
        }
      });
    const options = { context: () => ({ kept: [] }), effect: ({ kept }: { kept: string[] }) => kept };
    const [pieces] = await failuresOf(keeping(false), LINES, options);
    expect(pieces?.summary).toBe("It leaves something else behind when the 2 messages come in one piece");
    expect(pieces?.message).toContain('- "[\\"one\\\\r\\\\n\\",\\"two\\\\r\\\\n\\"]"');
    expect(await first(keeping(true), LINES, options)).toBe(
      "It leaves something else behind when the connection is reset in the middle of message 1, after byte 1 of 10",
    );
  });
});

// ---- Options ----

describe("options", () => {
  test("strict: a message that was cut off is not answered", async () => {
    const [found] = await failuresOf(FingerServer, ["alice\r\n"], { strict: true });
    expect(found?.summary).toBe(
      "It answers a message that was cut off when the peer ends in the middle of message 1, after byte 1 of 7",
    );
    await checkFraming(DnsStream, [dnsQuery("www.example.test")], { strict: true });
  });

  test("pipelining: false keeps messages apart", async () => {
    /** Drops what came behind a line, as who secures the connection next must. */
    const Drops = streamHandler(async ({ rfile, wfile }) => {
      for (let line = await rfile.line(); line !== null; line = await rfile.line()) {
        rfile.takeBuffered();
        wfile.write(`${line}\r\n`);
      }
    });
    const [found] = await failuresOf(Drops, LINES);
    expect(found?.summary).toMatch(
      /^The answer to message 2 is missing when the 2 messages come in one piece/,
    );
    await checkFraming(Drops, LINES, { pipelining: false });
  });

  test("expected: what is meant to be so, shown each failure", async () => {
    const faults = new Set<string>();
    const { answers } = await checkFraming(planted.LeavesItsDeadline, ["alice\r\n"], {
      expected: ({ fault, summary, cuts, sent, ending }) => {
        expect([summary.length > 0, cuts.length < 7, sent <= 7, ending !== undefined]).not.toContain(false);
        faults.add(fault);
        return fault === "timer";
      },
    });
    expect([...faults]).toEqual(["timer"]);
    expect(text(answers[1])).toBe("alice: no such user\r\n");
  });

  test("mask: parts of the answer differ each time, also in length", async () => {
    let n = 0;
    const Stamped = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(`<${n++ * 3}> ${line}\r\n`);
    });
    const [found] = await failuresOf(Stamped, LINES);
    expect(found?.fault).toBe("answer");
    const { answers } = await checkFraming(Stamped, LINES, { mask: /<\d+>/ });
    expect(answers.map(text)).toEqual(["", "* one\r\n", "* two\r\n", ""]);
  });

  test("expect: what is answered must be right uncut, and the first word, too", async () => {
    const [found, ...others] = await failuresOf(Upper, ["one\r\n", { send: "two\r\n", expect: "TWO\n" }]);
    expect(found?.summary).toBe("Message 2 is not answered as expected when nothing is cut");
    expect(others).toEqual([]);
    await checkFraming(Upper, [
      { send: "a\r\n" },
      { expect: "A\r\n" },
      { send: "two\r\n", expect: "TWO\r\n" },
    ]);
    const [greeting] = await failuresOf(MailRequestHandler, [{ expect: "220 x\r\n" }], {
      context: mailContext,
    });
    expect(greeting?.summary).toBe("What is said first is not as expected when nothing is cut");
  });

  test("context: a new one for each run, which may be promised", async () => {
    const contexts = new Set<KeyStore>();
    const { runs } = await checkFraming(RespServer, ["INCR n\r\n"], {
      context: async () => {
        const keys = new KeyStore();
        contexts.add(keys);
        return { keys };
      },
    });
    expect(contexts.size).toBe(runs);
    const shared = { keys: new KeyStore() };
    const [found] = await failuresOf(RespServer, ["INCR n\r\n"], { context: () => shared });
    expect(found?.fault).toBe("answer");
  });

  test("server: one of a kind, with what it tells its handlers", async () => {
    class Named extends MemoryServer {
      readonly motto = "semper idem";
    }
    class Motto extends StreamRequestHandler {
      declare readonly server: Named;
      override handle(): void {
        this.wfile.write(`${this.server.motto}\r\n`);
      }
    }
    const { answers } = await checkFraming(Motto as HandlerClass<StreamSocket>, [], {
      server: () => new Named(Motto as HandlerClass<StreamSocket>),
    });
    expect(text(answers[0])).toBe("semper idem\r\n");
  });

  test("stream: limits of the connection; flood: how long a message without an end is", async () => {
    const [found] = await failuresOf(Upper, LINES, { stream: { maxLine: 2 ** 22 } });
    expect(found?.summary).toMatch(/^It takes 2097152 bytes when message 1 does not end/);
    await checkFraming(Upper, LINES, { stream: { maxLine: 2 ** 22 }, flood: 0 });
    const [small] = await failuresOf(Upper, LINES, { flood: 1000 });
    expect(small?.summary).toMatch(/^It takes 1000 bytes when/);
  });

  test("maxRuns and seed: fewer places of a long conversation, the same ones each time", async () => {
    const cuts: string[] = [];
    const Tells = streamHandler(async ({ request }) => {
      const sizes: number[] = [];
      for await (const bytes of request) sizes.push(bytes.length);
      cuts.push(sizes.join(" "));
    });
    const conversation = [`${"x".repeat(2000)}\r\n`.repeat(5)];
    const seen = async (seed: number, runs: number): Promise<string> => {
      cuts.length = 0;
      await checkFraming(Tells, conversation, { seed, maxRuns: runs });
      return cuts.join("\n");
    };
    const one = await seen(1, 200);
    expect(await seen(1, 200)).toBe(one);
    expect(await seen(2, 200)).not.toBe(one);
    expect(one.split("\n").length).toBeLessThan(260);
  });

  test("a script is held as it is, and then cut", async () => {
    const mail = conversation()
      .expectLine(/^220 /)
      .send("HELO c\r\n")
      .expectLine("250 socklet.test")
      .send("QUIT\r\n")
      .expectLine(/^221 /)
      .expectEnd();
    const { answers } = await checkFraming(MailRequestHandler, mail, { context: mailContext });
    expect(answers.map(text)).toEqual([
      "220 socklet.test ESMTP Socklet\r\n",
      "250 socklet.test\r\n",
      "221 socklet.test Bye\r\n",
      "",
    ]);
    const [found] = await failuresOf(
      planted.SeesTheFirstCommandOnly,
      conversation().send("PING\r\n").expectLine("+PONG").send("PING\r\n").expectLine("+PONG"),
    );
    expect(found?.summary).toMatch(/^The answer to message 2 is missing/);
    await expect(checkFraming(Upper, conversation().send("a\n").expectLine("B"))).rejects.toMatchObject({
      name: "ScriptError",
    });
  });

  test("wrong ones are refused", async () => {
    await expect(checkFraming(Upper, [1 as never])).rejects.toThrow(/a conversation is a list/);
    await expect(checkFraming(Upper, LINES, { timeout: 0 })).rejects.toThrow(RangeError);
    await expect(checkFraming(Upper, LINES, { maxRuns: 1.5 })).rejects.toThrow(RangeError);
    await expect(checkFraming(Upper, LINES, { stream: { maxline: 1 } as never })).rejects.toThrow(
      /no option stream\.maxline; did you mean stream\.maxLine/,
    );
    await expect(checkFraming((() => {}) as never, LINES)).rejects.toThrow(/a handler is a class/);
    await expect(checkFraming(undefined as never, LINES)).rejects.toThrow(/a handler is a class/);
    await expect(checkFraming(Upper, "a\n" as never)).rejects.toThrow(
      'a conversation is a list of what the peer says, or a script; not "a\\n", which would be ["a\\n"]',
    );
    await expect(checkFraming(Upper, [{ sent: "a" } as never])).rejects.toThrow(
      "a message has no option sent; did you mean send?",
    );
    await expect(checkFraming(Upper, LINES, { seeds: 2 } as never)).rejects.toThrow(
      /has no option seeds; did you mean seed\?/,
    );
  });
});

describe("the check", () => {
  test("gives the platform back as it was, whatever it found", async () => {
    const timers = [setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate];
    const listeners = process.listeners("unhandledRejection");
    await checkFraming(Upper, LINES);
    await failuresOf(planted.LeavesItsDeadline, ["alice\r\n"]);
    await expect(checkFraming(Upper, [1 as never])).rejects.toThrow(TypeError);
    expect([setTimeout, setInterval, setImmediate, clearTimeout, clearInterval, clearImmediate]).toEqual(
      timers,
    );
    expect(process.listeners("unhandledRejection")).toEqual(listeners);
  });

  test("waits for another that runs, and leaves its timers alone", async () => {
    const [one, other] = await Promise.all([
      failuresOf(planted.LeavesItsDeadline, ["alice\r\n"]),
      failuresOf(Upper, LINES),
    ]);
    expect([one.length, other.length]).toEqual([1, 0]);
  });

  test("leaves the timers of others alone, whenever they are set", async () => {
    const theirs: NodeJS.Timeout[] = [];
    let turn: NodeJS.Immediate;
    const turns = (): void => {
      theirs.push(setTimeout(() => {}, 60_000));
      turn = setImmediate(turns);
    };
    turns();
    const fires = Promise.withResolvers<string>();
    const [own] = await failuresOf(planted.LeavesItsDeadline, ["alice\r\n"]);
    const before = theirs.length;
    setImmediate(() => setTimeout(() => fires.resolve("it fires"), 1));
    const others = await failuresOf(Upper, LINES);
    clearImmediate(turn!);
    for (const timer of theirs) clearTimeout(timer);
    expect(own?.message).toMatch(/^It leaves a timer behind when nothing is cut: setTimeout of 30000 ms/);
    expect(others).toEqual([]);
    expect(theirs.length).toBeGreaterThan(before);
    expect(await fires.promise).toBe("it fires");
  });

  test("needs no time of its own: a test's fake timers hold up nothing", async () => {
    vi.useFakeTimers();
    try {
      expect((await checkFraming(Upper, LINES)).runs).toBeGreaterThan(50);
    } finally {
      vi.useRealTimers();
    }
  });

  test("names the handler, the count, the seed and each failure in its message", async () => {
    const error = await checkFraming(planted.TakesAReadForALine, ["alice\r\n"], { seed: 7 }).catch((e) => e);
    expect(error).toBeInstanceOf(FramingError);
    expect(error.name).toBe("FramingError");
    expect(error.message).toMatch(
      /^TakesAReadForALine: 2 failures in \d+ runs \(1 message, 7 bytes, seed 7\)\n\n1\) The answer is another/,
    );
    expect(error.message).toContain("\n\n2) ");
  });

  test("tells what fails only once: the handler shares something between connections", async () => {
    let n = 0;
    const Counts = streamHandler(async ({ rfile, wfile }) => {
      for await (const line of rfile.lines()) wfile.write(`${++n === 5 ? "oops" : line}\r\n`);
    });
    const [found] = await failuresOf(Counts, LINES);
    expect(found?.message).toContain("(It failed once, and not when held again");
  });
});

test("another's rejection is told to whom it is told without the check", async () => {
  const told: unknown[] = [];
  const others = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  process.on("unhandledRejection", (error) => told.push(error));
  try {
    const checking = checkFraming(Upper, LINES);
    setImmediate(() => void Promise.reject(new Error("another's")));
    await checking;
    await expect.poll(() => told).toEqual([new Error("another's")]);
  } finally {
    process.removeAllListeners("unhandledRejection");
    for (const other of others) process.on("unhandledRejection", other);
  }
});
