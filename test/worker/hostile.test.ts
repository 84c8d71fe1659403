/** No value ends a server: every hostile one, in workerd, given by a handler or a hook of a `WorkerServer`. */

import { env } from "cloudflare:workers";
import { streamSocket } from "socklet/worker";
import { describe, expect, test } from "vitest";
import { HANDLER_WAYS, HOOK_WAYS, VALUES } from "../conformance/hostile.ts";

/** All that the server behind a door says to a line, to the end of the connection. */
const say = async (door: string, line: string): Promise<string> => {
  const socket = await streamSocket(env.SELF.connect(`${door}:1`, { allowHalfOpen: true }));
  socket.wfile.write(`${line}\n`);
  const bytes = await socket.rfile.read().catch(() => null);
  await socket.close().catch(() => {});
  return new TextDecoder().decode(bytes ?? undefined);
};

// A Worker has 128 MB in all, and a test's is the same one.
const NAMES = Object.keys(VALUES).filter((name) => !name.startsWith("large-"));
const HOOKS = HOOK_WAYS.filter((way) => !way.startsWith("getRequest")); // which is not called here

describe.each(NAMES)("%s", (name) => {
  test.each(HANDLER_WAYS)("%s", async (way) => {
    await say("hostile", `${way} ${name}`);
    expect(await say("hostile", "ok")).toBe("done\n");
  });

  test.each(HOOKS)("%s", async (way) => {
    const door = `hostile-${way}-${name}`;
    await say(door, "handle-throws null");
    expect(await say(door, "ok")).toBe("done\n");
  });
});
