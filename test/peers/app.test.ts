import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SockletEvent } from "socklet";
import { serveApp, TCPConnector } from "socklet/emulator";
import { expect, test } from "vitest";
import { app } from "../../examples/app.ts";
import { describeWith, run } from "./program.ts";

const EXPECTED: Readonly<Record<string, RegExp>> = {
  echo: /^hello\n$/,
  echoDatagram: /^hello\n$/,
  greeting: /^Thank you for connecting$/,
  transcript: /^Hello!\n$/,
  mail: /<- {2}250 Kept as \S+\.eml\n/,
  resp: /^PONG\n$/,
  dns: /^192\.0\.2\.80\n$/,
  dnsDatagram: /^192\.0\.2\.80\n$/,
  finger: /^Login: alice\r\n/,
  chat: /^What is your name\?\n\* alice is here, of 1\nalice: hello\n$/,
};

describeWith(["nc", "swaks", "redis-cli", "dig"], "the example app", () => {
  test("answers each of the commands that it says to try", async () => {
    const data = await mkdtemp(join(tmpdir(), "socklet-app-"));
    const errors: SockletEvent[] = [];
    try {
      const onEvent = (event: SockletEvent): void => void (event.type === "error" && errors.push(event));
      await using server = await serveApp(app, { anyPort: true, data, onEvent });
      expect(server.listeners.map(({ name }) => name)).toEqual(Object.keys(EXPECTED));
      await Promise.all(
        server.listeners.map(async ({ name, try: command = "" }) => {
          const told = () => run("sh", ["-c", command]);
          let { code, stdout } = await told();
          // It waits for one second, and asks no more than once, as datagrams are.
          while (command.includes("nc -u -w 1 ") && stdout.length === 0) ({ code, stdout } = await told());
          expect(stdout.toString(), command).toMatch(EXPECTED[name]);
          expect(code, command).toBe(0);
        }),
      );
      // The app's clients, each on the server that it is for.
      const dial = (handler: string, server_: string, params?: unknown): Promise<unknown> => {
        const { url } = server.listeners.find(({ name }) => name === server_) ?? { url: "" };
        return new TCPConnector(url, app.handlers[handler] as never).run({ params });
      };
      expect(await dial("respClient", "resp", ["PING"])).toBe("PONG");
      expect(await dial("fingerClient", "finger", "bob")).toContain("Bob the Builder");
      expect(await dial("greetingClient", "greeting")).toBe("Thank you for connecting");
      expect(await dial("transcriptClient", "transcript", ["Hi"])).toEqual([{ sent: 2, received: "Hi" }]);
      expect(errors).toEqual([]);
    } finally {
      await rm(data, { recursive: true });
    }
  });
});
