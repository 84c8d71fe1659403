/** A time in a message is of whole milliseconds, also where it was given otherwise, or is what was left of one. */

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { AF_INET, SOCK_DGRAM, streamHandler } from "socklet";
import { createServer, socket } from "socklet/emulator";
import { conversation, MemoryServer, memoryPair, runScript } from "socklet/testing";
import { expect, test } from "vitest";
import { openWithin } from "../../core/sockets/dialling/connect.ts";

const messageOf = async (waiting: Promise<unknown>): Promise<string> =>
  waiting.then(
    () => "it did not fail",
    (error: Error) => error.message,
  );

test.each<[string, () => Promise<unknown>]>([
  [
    "a read",
    () => {
      const [one] = memoryPair({ timeout: 20.4 });
      return one.recv();
    },
  ],
  [
    "accept()",
    async () => {
      await using listener = await createServer("127.0.0.1:0");
      listener.settimeout(20.4);
      await listener.accept();
    },
  ],
  [
    "a datagram",
    async () => {
      await using datagrams = socket(AF_INET, SOCK_DGRAM);
      await datagrams.bind("127.0.0.1:0");
      datagrams.settimeout(20.4);
      await datagrams.recvfrom();
    },
  ],
  [
    "a connection that does not open",
    () => openWithin(new Promise(() => {}), "there", { connectTimeout: 19.998 }, () => {}),
  ],
  [
    "a script",
    () =>
      runScript(
        streamHandler(({ rfile }) => rfile.line()),
        conversation().expect("x"),
        { timeout: 20.4 },
      ),
  ],
])("%s", async (_, wait) => {
  const message = await messageOf(wait());
  expect(message).toMatch(/\b20 ms/);
  expect(message).not.toMatch(/\d\.\d+ ms/);
});

test.each([
  [{ drainTimeout: 20.4 }, "the drain time of 20 ms"],
  [{ requestTimeout: 20.4 }, "its requestTimeout of 20 ms"],
])("what a server cuts: %j", async (options, says) => {
  const began = Promise.withResolvers<void>();
  const cut = Promise.withResolvers<Error>();
  const Waits = streamHandler(({ signal }) => {
    signal.addEventListener("abort", () => cut.resolve(signal.reason));
    began.resolve();
    return cut.promise;
  });
  await using server = new MemoryServer(Waits, options);
  void server.serveForever();
  server.connect();
  await began.promise;
  if ("drainTimeout" in options) void server.serverClose();
  expect((await cut.promise).message).toContain(says);
});

test("no message of ours prints a time in another way", () => {
  const printed = ["core", "emulator", "worker"].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".ts"))
      .flatMap((name) =>
        [...readFileSync(join(folder, name), "utf8").matchAll(/\$\{([^{}]*)\} ms\b/g)].map(
          ([, what = ""]) => `${folder}/${name}: ${what}`,
        ),
      ),
  );
  // Constants, what was given and is refused, and where the figure is a timer's own.
  const others = /: (?:[A-Z_.]+|BOUNDS\.\w+|least|Math\.round\(time\)|ms)$/;
  expect(printed.filter((found) => !others.test(found))).toEqual([]);
});
