/** Which handler an inbound caller gets: one that the app listens with, by its name or its port. */

import { env } from "cloudflare:workers";
import { streamSocket } from "socklet/worker";
import { expect, test } from "vitest";

const ask = async (authority: string, text: string): Promise<string | null> => {
  const socket = await streamSocket(env.SELF.connect(authority, { allowHalfOpen: true }));
  socket.wfile.write(text);
  const line = await socket.rfile.line();
  await socket.close();
  return line;
};

test("a listening handler's name selects it, whatever the port; its port does, whatever the name", async () => {
  expect(await ask("app-echo:1", "hello\n")).toBe("hello");
  expect(await ask("app-other:7", "hello\n")).toBe("hello");
});

test.each(["app-hidden:1", "app-echo.example:1", "app-toString:1", "app-:8"])(
  "%s selects nothing: the connection is ended",
  async (authority) => {
    expect(await ask(authority, "")).toBeNull();
  },
);
