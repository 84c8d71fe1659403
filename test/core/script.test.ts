import { type HandlerClass, type SocketError, type StreamSocket, streamHandler } from "socklet";
import {
  type Conversation,
  conversation,
  difference,
  MemoryDatagramServer,
  MemoryServer,
  MemoryStorage,
  memoryPair,
  runScript,
  ScriptError,
  type ScriptOptions,
  scriptDatagramHandler,
  scriptHandler,
} from "socklet/testing";
import { describe, expect, test } from "vitest";
import { hexdump } from "../../core/testing/text.ts";
import { DnsStream } from "../../examples/dns.ts";
import { Echo, EchoDatagram } from "../../examples/echo.ts";
import { FingerClient, FingerServer } from "../../examples/finger.ts";
import { MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespClient, RespServer } from "../../examples/resp.ts";
import { SmtpClient } from "../../examples/smtp-client.ts";
import { Greeting, GreetingClient, TranscriptClient } from "../../examples/tutorial.ts";
import { fc } from "../conformance/properties.ts";
import * as scripts from "../conformance/scripts.ts";

// ---- Help ----

const LONG = 60_000; // ms: a step that fails only then would fail by the test's own time

/** Says these pieces, each when the one before has left, then ends. */
const Says = (...pieces: (string | Uint8Array)[]): HandlerClass<StreamSocket> =>
  streamHandler(async ({ request }) => {
    for (const piece of pieces) await request.sendall(piece);
  });

/** The error with which a script against this handler fails. */
const failure = async (
  Handler: HandlerClass<StreamSocket>,
  script: Conversation,
  options: ScriptOptions & { readonly params?: unknown } = { timeout: LONG },
): Promise<ScriptError> => {
  const error = await runScript(Handler, script, options).then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ScriptError);
  return error as ScriptError;
};

/** The script against a server in memory, as its client. */
const dialled = async (
  Handler: HandlerClass<StreamSocket>,
  script: Conversation,
  options?: ScriptOptions,
) => {
  await using server = new MemoryServer(Handler);
  void server.serveForever();
  await using client = server.connect();
  return await script.run(client, options);
};

// ---- The examples ----

describe("the example servers keep to the scripts", () => {
  test("mail", async () => {
    const storage = new MemoryStorage();
    const { groups } = await runScript(MailRequestHandler, scripts.mail, { context: () => ({ storage }) });
    expect(groups.host).toBe("socklet.test");
    const [name = ""] = await storage.list();
    expect(new TextDecoder().decode((await storage.get(name)) ?? undefined)).toBe(
      "Subject: dots\r\n\r\n.a line\r\n",
    );
  });

  test("Redis", () => runScript(RespServer, scripts.redis, { context: () => ({ keys: new KeyStore() }) }));
  test("DNS over TCP", () => runScript(DnsStream, scripts.dns));
  test("echo", () => runScript(Echo, scripts.echo));
  test("finger", async () => {
    expect((await runScript(FingerServer, scripts.finger)).groups).toEqual({ name: "Alice Liddell" });
  });
  test("the tutorial's greeting", () =>
    runScript(Greeting, conversation().expect("Thank you for connecting").expectEnd()));
});

describe("the example clients keep to the scripts, which are their servers", () => {
  test("Redis", async () => {
    const params = ["GET", "greeting"];
    expect((await runScript(RespClient, scripts.redisServer, { params })).result).toBe("hello");
  });

  test("mail", async () => {
    const { result, groups } = await runScript(SmtpClient, scripts.mailServer, { params: scripts.delivery });
    expect(result).toEqual({ secured: false, reply: "Kept" });
    expect(groups).toEqual({ name: "client.test" });
  });

  test("a mail that was taken is delivered, though its server leaves without a goodbye", async () => {
    const server = conversation()
      .send("220 mail.test ESMTP\r\n")
      .expectLine("EHLO client.test")
      .send("250 mail.test\r\n")
      .expectLine(/^MAIL/)
      .send("250 OK\r\n")
      .expectLine(/^RCPT/)
      .send("250 OK\r\n")
      .expectLine("DATA")
      .send("354 Go on\r\n")
      .expect("Subject: hi\r\n\r\n..\r\n.\r\n")
      .send("250 Kept\r\n")
      .expectLine("QUIT")
      .close();
    const { result } = await runScript(SmtpClient, server, { params: scripts.delivery });
    expect(result).toEqual({ secured: false, reply: "Kept" });
  });

  test("finger, greeting and transcript", async () => {
    const asked = conversation().expectLine("bob").send("Bob\r\n").halfClose();
    expect((await runScript(FingerClient, asked, { params: "bob" })).result).toBe("Bob\r\n");
    expect((await runScript(GreetingClient, conversation().send("hi").close())).result).toBe("hi");
    const echo = conversation().expect("a").send("a").expect("bc").send("bc");
    expect((await runScript(TranscriptClient, echo, { params: ["a", "bc"] })).result).toEqual([
      { sent: 1, received: "a" },
      { sent: 2, received: "bc" },
    ]);
  });

  test("a scripted server in memory, dialled twice; outcomes() gives what each run saw", async () => {
    const Peer = scriptHandler(scripts.redisServer);
    await using server = new MemoryServer(Peer);
    void server.serveForever();
    for (let i = 0; i < 2; i++) {
      await using client = server.connect();
      await client.sendall("*2\r\n$3\r\nGET\r\n$8\r\ngreeting\r\n");
      expect(await client.rfile.line()).toBe("$5");
      expect(await client.rfile.line()).toBe("hello");
    }
    expect((await Peer.outcomes(2)).length).toBe(2);
  });

  test("outcomes() rejects with what a run found wrong, and where no run has begun", async () => {
    const Peer = scriptHandler(conversation().expectLine("this"), { timeout: 20 });
    await expect(Peer.outcomes()).rejects.toThrow("0 of 1 runs of the script have begun within 20 ms");
    await using server = new MemoryServer(Peer);
    void server.serveForever();
    await using client = server.connect();
    await client.sendall("that\n");
    await expect(client.recv()).rejects.toMatchObject({ code: "ECONNRESET" }); // it hears that it was wrong
    await expect(Peer.outcomes()).rejects.toThrow(/expectLine\("this"\): another line came/);
  });
});

// ---- The steps ----

describe("expect", () => {
  test("text, bytes and patterns, one behind the other, whatever the pieces are", () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }), async (sizes) => {
        const said = new TextEncoder().encode("220 größe\r\n\0\u{1f600}250-a\r\n250 b\r\n12345\r\nlast");
        const pieces: Uint8Array[] = [];
        for (let at = 0, i = 0; at < said.length; i++) {
          const size = sizes[i % sizes.length] as number;
          pieces.push(said.slice(at, at + size));
          at += size;
        }
        const script = conversation()
          .expectLine(/^(?<code>\d{3}) (?<word>.+)$/)
          .expect(new Uint8Array([0]))
          .expect(/\p{Emoji}/u)
          .expect(/(?:250-.*\r\n)*250 (?<more>.*)\r\n/)
          .expect(/(?<number>\d+)\r\n/)
          .expectBytes(2)
          .expect("st")
          .expectEnd();
        const { groups } = await runScript(Says(...pieces), script);
        expect(groups).toEqual({ code: "220", word: "größe", more: "b", number: "12345" });
      }),
      { numRuns: 60 },
    ));

  test("a pattern takes the shortest beginning that it matches whole, also where all is there at once", async () => {
    const script = conversation()
      .expect(/a+/)
      .expect(/a+b/)
      .expect(/foo$/)
      .expect(/(?<x>.)\k<x>/)
      .expect("c")
      .expectEnd();
    await runScript(Says("aaabfooxxc"), script);
  });

  test("what was seen goes into later steps: text, sizes, patterns", async () => {
    const script = conversation()
      .expectLine(/^(\d+) (?<word>\w+)$/)
      .send(({ groups, match }) => `${groups.word}:${match[1]}\n`)
      .expectLine(({ groups }) => `${groups.word}:4`)
      .send("tail\n")
      .expect(({ match }) => new RegExp(`t(?<rest>.{${match[0].length - 3}})\n`))
      .expectEnd();
    const Twice = streamHandler(async ({ rfile, wfile }) => {
      wfile.write("4 word\r\n");
      for (let i = 0; i < 2; i++) wfile.write(`${await rfile.line()}\n`);
    });
    expect((await runScript(Twice, script)).groups).toEqual({ word: "word", rest: "ail" });
  });

  test("latin1: a character a byte, both ways", async () => {
    const script = conversation({ encoding: "latin1" })
      .send("\xff\xfe")
      .expect(/[\x80-\xff]{2}/)
      .send("\xe9\n")
      .expectLine("\xe9");
    const { bytes } = await runScript(Echo, script);
    expect([...bytes]).toEqual([0xe9, 10]);
    expect(() => conversation({ encoding: "latin1" }).send("€")).toThrow(RangeError);
  });

  test("a pattern's own flags and place do not matter", async () => {
    const pattern = /^LINE (\d)/giy;
    const script = conversation()
      .expectLine(pattern)
      .expectLine(pattern)
      .expect(/LINE 3\n/gi)
      .expectEnd();
    expect((await runScript(Says("line 1\nline 2\nline 3\n"), script)).match).toEqual(["line 3\n"]);
    expect(pattern.lastIndex).toBe(0);
  });

  test("what may differ is normalised, line by line, and its length may differ, too", async () => {
    const dates = (text: string): string =>
      text.replace(/\d{4}-\d\d-\d\d/g, "DATE").replace(/id=\w+/, "id=ID");
    const script = conversation()
      .expect("on 2001-01-01 id=7\r\nand then\r\n$ ", dates)
      .expect(new Uint8Array([1, 2, 0]), (text) => `x${text.slice(1)}`);
    await runScript(
      Says("on 1999-12-31 id=123456\r\nand", " then\r\n", "$ ", new Uint8Array([9, 2, 0])),
      script,
    );
    const error = await failure(Says("on 2001-01-02 id=9\r\nand that\r\n$ "), script);
    expect(error.message).toContain('- "on DATE id=ID\\r\\nand then\\r\\n$ "');
    expect(error.message).toContain('+ "on DATE id=ID\\r\\nand that\\r\\n"');
  });

  test("a line that becomes nothing does not count, on either side", async () => {
    const codes = (line: string): string => (/^\d{3}-/.test(line) ? "" : line.replace(/ .*/, ""));
    const script = conversation()
      .expect("250-a\r\n250-b\r\n250 c\r\n", codes)
      .expect("221 bye\r\n", codes)
      .expectEnd();
    for (const said of ["250 x\r\n221 y\r\n", "250-1\r\n250-2\r\n250-3\r\n250 4\r\n221 5\r\n"]) {
      await runScript(Says(said), script);
    }
    expect((await failure(Says("250-x\r\n251 y\r\n"), script)).message).toMatch(
      /- "250\\r\\n"\n\+ "251\\r\\n"/,
    );
  });

  test("what comes after stays for who reads next", async () => {
    await using server = new MemoryServer(Says("one\ntwo\nthree"));
    void server.serveForever();
    await using client = server.connect();
    await conversation().expectLine("one").expect("tw").run(client);
    await conversation().expect(/o\n/).run(client);
    expect(await client.rfile.line()).toBe("three");
  });

  test("a large one, and a large send before it: nothing locks", async () => {
    const large = new Uint8Array(3 * 1024 * 1024).map((_, i) => i % 251);
    await runScript(
      Echo,
      conversation().send(large).send("x").expect(large).expect("x").halfClose().expectEnd(),
    );
  });

  test("many lines are not read over and over", async () => {
    const lines = Array.from({ length: 3000 }, (_, i) => `line ${i}`);
    const script = lines.reduce((all, line) => all.expectLine(line), conversation());
    await runScript(Says(`${lines.join("\n")}\n`), script);
  });
});

describe("ends", () => {
  test("halfClose is read as the end, and the other direction goes on", async () => {
    const Late = streamHandler(async ({ rfile, wfile }) => {
      const all = await rfile.read();
      wfile.write(`${all?.length} bytes\n`);
    });
    await runScript(Late, conversation().send("abc").halfClose().expectLine("3 bytes").expectEnd());
  });

  test("reset: each end hears the other's", async () => {
    let heard: unknown;
    const Hears = streamHandler(async ({ request }) => {
      await request.sendall("go\n");
      heard = await request.recv().catch((error: SocketError) => error.code);
    });
    await runScript(Hears, conversation().expectLine("go").reset());
    expect(heard).toBe("ECONNRESET");
    await runScript(Echo, conversation().send("a").expect("a").reset()); // Echo throws it, and that is no failure
    const Resets = streamHandler(({ request }) => request.abort());
    await dialled(Resets, conversation().expectReset());
  });

  test("close sends all first", async () => {
    const Reads = streamHandler(async ({ rfile }) => (await rfile.read())?.length);
    expect((await runScript(Reads, conversation().send("x".repeat(300_000)).close())).result).toBe(300_000);
  });

  test("a script does not close by itself", async () => {
    await using server = new MemoryServer(Echo);
    void server.serveForever();
    await using client = server.connect();
    const once = conversation().send("a").expect("a");
    await once.run(client);
    await once.run(client);
    expect(client.closed).toBe(false);
  });
});

describe("expectNothing", () => {
  test("in memory it needs no time: the handler waits, having taken all", async () => {
    const script = conversation()
      .expectNothing()
      .send("PI")
      .expectNothing()
      .send("NG\r\n")
      .expect("+PONG\r\n")
      .expectNothing();
    await runScript(RespServer, script, { context: () => ({ keys: new KeyStore() }), timeout: LONG });
  });

  test("it waits for a handler that is busy with something else", async () => {
    const slow = Promise.withResolvers<void>();
    const Slow = streamHandler(async ({ rfile, wfile }) => {
      await rfile.line();
      await slow.promise;
      wfile.write("late\n");
      await rfile.line();
    });
    const failed = failure(Slow, conversation().send("go\n").expectNothing());
    await new Promise(setImmediate); // it would say so by now, did it not wait
    slow.resolve();
    expect((await failed).message).toMatch(
      /^step 2, expectNothing\(\): something came\n- nothing\n\+ "late\\n"/,
    );
  });

  test("an end is something, too", async () => {
    expect((await failure(Says(), conversation().expectNothing())).message).toMatch(/: the end came\n/);
  });

  test("elsewhere it says that it cannot know, and takes a time of the clock", async () => {
    await using server = new MemoryServer(Echo);
    void server.serveForever();
    await using client = server.connect();
    const slept: number[] = [];
    const clock = {
      now: () => 0,
      sleep: async (ms: number) => void slept.push(ms),
    };
    await conversation().expectNothing(250).pause(1000).send("x").expect("x").run(client, { clock });
    expect(slept).toEqual([250, 1000]);
    await expect(conversation().expectNothing().run(client)).rejects.toMatchObject({
      code: "ERR_UNSUPPORTED",
    });
  });

  test("with a time, what comes within it fails", async () => {
    const clock = { now: () => 0, sleep: () => new Promise<void>(() => {}) };
    const error = await failure(Says("oh"), conversation().expectNothing(5), { clock });
    expect(error.message).toMatch(/expectNothing\(5\): something came/);
  });
});

test("startTls where there is none says so", async () => {
  await expect(runScript(Echo, conversation().startTls())).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
});

// ---- Failures ----

describe("failures", () => {
  test("another answer: what differs, in text and hex, and both sides up to there", async () => {
    const script = conversation().expectLine(/^220 /).send("NOOP\r\n").expect("250 Okay\r\n");
    const error = await runScript(MailRequestHandler, script, {
      context: () => ({ storage: new MemoryStorage() }),
      timeout: LONG,
    }).catch((reason) => reason);
    expect(error.message).toMatchInlineSnapshot(`
      "step 3, expect("250 Okay\\r\\n"): something else came
      differs at byte 5: expected 6b "k", got 4b "K"
      - "250 Okay\\r\\n"
      + "250 OK\\r\\n"
              ^
      - 0000  32 35 30 20 4f 6b 61 79  0d 0a                    |250 Okay..|
      + 0000  32 35 30 20 4f 4b 0d 0a                           |250 OK..|

      The conversation (> the script, < its peer):
      < "220 socklet.test ESMTP Socklet\\r\\n"
      > "NOOP\\r\\n"
      < "250 OK\\r\\n""
    `);
    expect([error.step, error.expected, error.actual]).toEqual([3, "250 Okay\r\n", "250 OK\r\n"]);
  });

  test("bytes that are no text are shown in hex", async () => {
    const error = await failure(
      Echo,
      conversation()
        .send(new Uint8Array([0, 1, 2, 255]))
        .expect(new Uint8Array([0, 1, 3])),
    );
    expect(error.message).toMatchInlineSnapshot(`
      "step 2, expect("\\x00\\x01\\x03"): something else came
      differs at byte 2: expected 03 "\\x03", got 02 "\\x02"
      - "\\x00\\x01\\x03"
      + "\\x00\\x01\\x02\\xff"
                 ^
      - 0000  00 01 03                                          |...|
      + 0000  00 01 02 ff                                       |....|

      The conversation (> the script, < its peer):
      > 0000  00 01 02 ff                                       |....|
      < 0000  00 01 02 ff                                       |....|"
    `);
  });

  test("a line that does not match", async () => {
    const error = await failure(Says("550 No such user\r\n"), conversation().expectLine(/^250 /));
    expect(error.message).toMatchInlineSnapshot(`
      "step 1, expectLine(/^250 /): another line came
      - /^250 /
      + "550 No such user"
      + 0000  35 35 30 20 4e 6f 20 73  75 63 68 20 75 73 65 72  |550 No such user|

      The conversation (> the script, < its peer):
      < "550 No such user\\r\\n""
    `);
  });

  test("silence: how long, and that the other end waits, too", async () => {
    const error = await failure(Echo, conversation().send("hi").expect("hi there"), { timeout: 20 });
    expect(error.message).toMatchInlineSnapshot(`
      "step 2, expect("hi there"): nothing more came within 20 ms: the other end waits for input
      ends after 2 of 8 bytes
      - "hi there"
      + "hi"
           ^
      - 0000  68 69 20 74 68 65 72 65                           |hi there|
      + 0000  68 69                                             |hi|

      The conversation (> the script, < its peer):
      > "hi"
      < "hi""
    `);
  });

  test("a pattern that matches elsewhere: it says so", async () => {
    const { message } = await failure(Says("x250 OK\r\n", "more"), conversation().expect(/250 OK\r\n/));
    expect(message).toMatch(
      /: the end came too early; the pattern matches, but not from where the last step ended/,
    );
  });

  test("it shows the last of a long conversation", async () => {
    let script = conversation();
    for (let i = 0; i < 100; i++) script = script.send(`say ${i}\n`).expectLine(`say ${i}`);
    const { message } = await failure(Echo, script.send("x".repeat(3000)).expect("y"));
    expect(message).toContain("… (163 rows before these)");
    expect(message).not.toContain("say 80");
    expect(message).toContain('< "say 99\\n"\n');
    expect(message.length).toBeLessThan(10_000);
  });

  test("an end, a reset, an end too early", async () => {
    const Resets = streamHandler(({ request }) => request.abort());
    expect((await failure(Says("25"), conversation().expect("250"))).message).toMatch(
      /: the end came too early\nends after 2 of 3 bytes/,
    );
    expect((await failure(Says("25"), conversation().expectLine("250"))).message).toMatch(
      /: the end came too early\n/,
    );
    expect((await failure(Says("25"), conversation().expect(/250/))).message).toMatch(
      /: the end came too early\n/,
    );
    expect((await failure(Says(), conversation().expectLine())).message).toMatch(
      /expectLine\(\): the end came\n/,
    );
    expect((await failure(Says("more"), conversation().expectEnd())).message).toMatch(
      /: something came before the end\n- the end\n\+ "more"/,
    );
    expect((await failure(Says(), conversation().expectReset())).message).toMatch(
      /expectReset\(\): the end came/,
    );
    expect((await failure(Says("x"), conversation().expectReset())).message).toMatch(
      /: something came before it\n/,
    );
    expect((await failure(Resets, conversation().expect("x"))).message).toMatch(
      /: the peer reset the connection\n/,
    );
    expect((await failure(Resets, conversation().expectEnd())).message).toMatch(
      /: the peer reset the connection\n/,
    );
  });

  test("no line and no match within 64 KiB", async () => {
    const Floods = Says("x".repeat(100_000));
    expect((await failure(Floods, conversation().expectLine())).message).toMatch(
      /no line ends within 65536 bytes/,
    );
    expect((await failure(Floods, conversation().expect(/y/))).message).toMatch(
      /nothing matches within 65536 bytes/,
    );
  });

  test("what the peer never takes", async () => {
    const Deaf = streamHandler(
      ({ signal }) => new Promise((resolve) => signal.addEventListener("abort", resolve)),
    );
    for (const script of [
      conversation(),
      conversation().close(),
      conversation().halfClose(),
      conversation().reset(),
    ]) {
      const error = await failure(Deaf, conversation().send("x".repeat(200_000)).append(script), {
        timeout: 20,
      });
      expect(error.message).toMatch(/not all that was sent has left: ETIMEDOUT/);
    }
  });

  test("the stack begins where the step is written", async () => {
    const step = conversation().expect("a"); // this line
    const { stack } = await failure(Says("b"), step);
    const line = (new Error().stack?.match(/script\.test\.ts:(\d+)/)?.[1] ?? "0") as string;
    expect(stack?.match(/^\s+at .*script\.test\.ts:(\d+)/m)?.[1]).toBe(String(Number(line) - 2));
  });

  test("a handler that had failed is the cause, and named", async () => {
    const Crash = streamHandler(async ({ rfile }) => {
      await rfile.line();
      throw new TypeError("oh no");
    });
    const error = await failure(Crash, conversation().send("go\n").expectLine("ok"));
    expect(error.message).toMatch(/\n\nThe handler had failed: TypeError: oh no$/);
    expect(error.cause).toBeInstanceOf(TypeError);
    expect(error.stack).toContain("oh no");
  });

  test("a handler that fails where the script is content, or goes on, or left too early", async () => {
    const Crash = streamHandler(async ({ rfile, wfile }) => {
      wfile.write("ok\n");
      await rfile.line();
      throw new TypeError("oh no");
    });
    await expect(runScript(Crash, conversation().expectLine("ok"))).rejects.toThrow("oh no");
    const params = ["PING"];
    await expect(
      runScript(
        RespClient,
        conversation()
          .expect(/.*PING\r\n/s)
          .close(),
        { params },
      ),
    ).rejects.toMatchObject({
      code: "ECONNRESET", // its own word for a server that left
    });
    const stuck = Promise.withResolvers<void>();
    const Stuck = streamHandler(() => stuck.promise);
    expect((await failure(Stuck, conversation(), { timeout: 20 })).message).toBe(
      "the script is over and the connection closed, and the handler still runs after 20 ms",
    );
    stuck.resolve();
  });

  test("what a function of the script throws is thrown as it is", async () => {
    const mine = new Error("mine");
    const script = conversation().check(() => {
      throw mine;
    });
    await expect(runScript(Echo, script)).rejects.toBe(mine);
  });

  test("it resets the connection, so that the other end hears of it", async () => {
    const [here, there] = memoryPair();
    const running = conversation().expect("a").run(here);
    await there.sendall("b");
    await expect(running).rejects.toBeInstanceOf(ScriptError);
    await expect(there.recv()).rejects.toMatchObject({ code: "ECONNRESET" });
  });

  test("a place without resets: reset() says so", async () => {
    const [here, there] = memoryPair();
    Object.defineProperty(here, "capabilities", { value: { reset: false, peername: true } });
    await expect(conversation().reset().run(here)).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
    await there.close();
  });
});

// ---- The value ----

describe("a script is a value", () => {
  test("each step gives a new one; append puts one behind another", async () => {
    const hello = conversation().send("hello\n");
    const one = hello.expectLine("hello");
    const other = hello.expect(/h[^\n]*\n/);
    expect([hello.length, one.length, other.length]).toEqual([1, 2, 2]);
    const both = one.append(other);
    expect(String(both)).toBe(
      '1. send("hello\\n")\n2. expectLine("hello")\n3. send("hello\\n")\n4. expect(/h[^\\n]*\\n/)',
    );
    await runScript(Echo, both);
    await runScript(Echo, both);
  });

  test("bytes that are changed later do not change it", async () => {
    const bytes = new Uint8Array([1, 2, 3]);
    const script = conversation().send(bytes).expect(bytes);
    bytes.fill(9);
    await runScript(Echo, script);
    expect([...(await runScript(Echo, script)).bytes]).toEqual([1, 2, 3]);
  });

  test.each([
    ["a line with its end", () => conversation().expectLine("a\r\n"), /without its end/],
    ["a pattern that matches nothing", () => conversation().expect(/a*/), /matches when nothing is there/],
    [
      "a send after the end",
      () => conversation().halfClose().send("x"),
      /send\("x"\) cannot follow halfClose\(\): nothing can be sent/,
    ],
    [
      "an expectation after the end",
      () => conversation().expectEnd().expect("x"),
      /cannot follow expectEnd\(\): nothing comes/,
    ],
    ["an expectation after a close", () => conversation().close().expectEnd(), /cannot follow close\(\)/],
    [
      "the same by append",
      () => conversation().reset().append(conversation().send("x")),
      /cannot follow reset\(\)/,
    ],
    ["no bytes", () => conversation().send(1 as never), TypeError],
    ["a time below 0", () => conversation().pause(-1), RangeError],
    [
      "a script that is none",
      () => conversation().append("x" as never),
      /what conversation\(\) makes, not string/,
    ],
    ["the same of a handler", () => scriptHandler("x" as never), /what conversation\(\) makes, not string/],
    ["a size of half a byte", () => conversation().expectBytes(0.5), RangeError],
    ["an encoding that there is not", () => conversation({ encoding: "utf-16" as never }), TypeError],
  ])("%s is refused where it is written", (_, make, error) => {
    expect(make).toThrow(error as never);
  });

  test("what can hold no conversation is refused", async () => {
    await expect(conversation().run("127.0.0.1:25" as never)).rejects.toThrow(
      "run() takes a connection (createConnection() dials one), or { send, recv } of datagrams; not string",
    );
    await expect(runScript(Echo, "hello" as never)).rejects.toThrow(
      /what conversation\(\) makes, not string/,
    );
  });
});

// ---- Datagrams ----

describe("datagrams", () => {
  const peerOf = (server: MemoryDatagramServer) => {
    const socket = server.network.socket();
    return {
      send: (data: Uint8Array) => socket.sendto(data, server.serverAddress),
      recv: async () => (await socket.recvfrom()).data,
    };
  };

  test("each expect is one, whole", async () => {
    await using server = new MemoryDatagramServer(EchoDatagram);
    void server.serveForever();
    const peer = peerOf(server);
    const script = conversation()
      .send("one")
      .send("")
      .send("two\n")
      .expect("one")
      .expect("")
      .expectLine(/^t/)
      .send("123")
      .expect(/\d+/)
      .send("abc")
      .expectBytes(3)
      .expectNothing(0);
    await script.run(peer);
    await expect(conversation().send("123").expect("12").run(peer)).rejects.toThrow(
      /something else came|another length/,
    );
    await expect(conversation().send("12").expect("123").run(peer)).rejects.toThrow(/another length/);
    await expect(conversation().send("123a").expect(/\d+/).run(peer)).rejects.toThrow(/it does not match/);
    await expect(conversation().halfClose().run(peer)).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
    await expect(conversation().expectNothing().run(peer)).rejects.toMatchObject({ code: "ERR_UNSUPPORTED" });
  });

  test("a scripted server of datagrams: one script for all that come", async () => {
    const Peer = scriptDatagramHandler(conversation().expect("a").send("A").send("AA").expect("b").send("B"));
    const errors: unknown[] = [];
    await using server = new MemoryDatagramServer(Peer, {
      onEvent: (event) => event.type === "error" && errors.push(String(event.error)),
    });
    void server.serveForever();
    await conversation().send("a").expect("A").expect("AA").send("b").expect("B").run(peerOf(server));
    expect((await Peer.outcomes())[0]?.bytes).toEqual(new TextEncoder().encode("b"));
    expect(errors).toEqual([]);
  });
});

// ---- What differs ----

describe("difference and hexdump", () => {
  test("null where nothing differs, and only there; of all bytes", () =>
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(200),
        (one, other, cut) => {
          expect(difference(one, one.slice())).toBeNull();
          const changed = one.map((byte, i) => (i === cut ? byte ^ 1 : byte));
          expect(difference(one, changed) === null).toBe(cut >= one.length);
          expect(difference(one, other) === null).toBe(Buffer.compare(one, other) === 0);
          expect(hexdump(one).split("\n").length).toBe(Math.max(1, Math.ceil(one.length / 16)));
        },
      ),
    ));

  test("characters of several bytes are not cut, and what cannot be seen is written by its number", () => {
    expect(difference(`${"ö".repeat(40)}a`, `${"ö".repeat(40)}\u202e\0b`)).toMatchInlineSnapshot(`
      "differs at byte 80: expected 61 "a", got e2
      - …"ööööööööööööööööa"
      + …"öööööööööööööööö\\u{202e}\\x00b"
                          ^
        0040  c3 b6 c3 b6 c3 b6 c3 b6  c3 b6 c3 b6 c3 b6 c3 b6  |................|
      - 0050  61                                                |a|
      + 0050  e2 80 ae 00 62                                    |....b|"
    `);
  });

  test("the longer, the shorter", () => {
    expect(difference("abc", "ab")?.split("\n")[0]).toBe("ends after 2 of 3 bytes");
    expect(difference("ab", "abc")?.split("\n")[0]).toBe("goes on after the 2 bytes expected, with 1 more");
  });
});
