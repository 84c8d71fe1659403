/** The test kit inside workerd: what checks a handler there is the same as anywhere. */

import { type HandlerClass, type StreamSocket, streamHandler } from "socklet";
import {
  checkFraming,
  FramingError,
  MemoryStorage,
  memoryPair,
  VirtualClock,
  withFaults,
} from "socklet/testing";
import { expect, test } from "vitest";
import { Echo } from "../../examples/echo.ts";
import { type MailContext, MailRequestHandler } from "../../examples/mail.ts";
import { KeyStore, RespServer } from "../../examples/resp.ts";

test("checkFraming finds nothing in the examples", async () => {
  const { runs } = await checkFraming(Echo, ["hello\r\n", "wörld\r\n", "x".repeat(80)]);
  expect(runs).toBeGreaterThan(500);
  await checkFraming(RespServer, ["PING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "INCR n\r\n"], {
    context: () => ({ keys: new KeyStore() }),
  });
  await checkFraming(MailRequestHandler, ["HELO c\r\n", "MAIL FROM:<a@b>\r\n", "QUIT\r\n"], {
    context: (): MailContext => ({ storage: new MemoryStorage() }),
  });
});

const TakesAReadForALine = streamHandler(async ({ request }) => {
  for await (const bytes of request) await request.sendall(`${new TextDecoder().decode(bytes).trim()}!\r\n`);
});

const WritesAfterItsEnd = streamHandler(async ({ rfile, wfile, request }) => {
  await rfile.line();
  await request.close();
  queueMicrotask(() => {
    try {
      wfile.write("bye");
    } catch {
      // it is gone anyway
    }
  });
});

const AnswersWhenReady = streamHandler(async ({ rfile, wfile }) => {
  const running: Promise<void>[] = [];
  const answer = async (line: string): Promise<void> => {
    if (line === "slow") await new Promise((resolve) => setTimeout(resolve, 1));
    wfile.write(`${line}\r\n`);
  };
  for await (const line of rfile.lines()) running.push(answer(line));
  await Promise.all(running);
});

const LeavesATimer = streamHandler(async ({ rfile, request }) => {
  setTimeout(() => request.abort(), 30_000);
  await rfile.line();
});

const LeavesARejection = streamHandler(async ({ rfile }) => {
  if ((await rfile.line()) === "b") void Promise.reject(new Error("nobody sees it"));
});

test.each<[string, HandlerClass<StreamSocket>, string[], string]>([
  ["another answer", TakesAReadForALine, ["a\r\n", "b\r\n"], "answer"],
  ["another order", AnswersWhenReady, ["slow\r\n", "quick\r\n"], "answer"],
  ["a write after the end", WritesAfterItsEnd, ["a\r\n"], "write"],
  ["a timer that is left", LeavesATimer, ["a\r\n"], "timer"],
  ["a promise that rejects unseen", LeavesARejection, ["bc\r\n"], "rejection"],
])("it finds %s", async (_, Handler, messages, fault) => {
  const error = await checkFraming(Handler, messages).catch((reason) => reason);
  expect(error).toBeInstanceOf(FramingError);
  expect(error.failures[0]).toMatchObject({ fault });
});

test("a virtual clock and faults", async () => {
  using clock = new VirtualClock().install();
  const [client, request] = memoryPair();
  const far = withFaults(request, {
    clock,
    incoming: { latency: 1000, slice: 1 },
    outgoing: { latency: 500 },
  });
  await client.sendall("ab");
  expect(await far.recv()).toEqual(Uint8Array.of(0x61));
  await far.sendall("back");
  expect(await client.rfile.readexactly(4)).toHaveLength(4);
  expect(clock.now()).toBe(1500);
  client.settimeout(60_000);
  await expect(client.recv()).rejects.toMatchObject({ code: "ETIMEDOUT" });
});
