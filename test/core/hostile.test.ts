/** No value ends a server: every hostile one, given in every way, in memory. And what can be said of each. */

import type { OnEvent, SockletEvent } from "socklet";
import { MemoryServer, ThreadingMemoryServer } from "socklet/testing";
import { describe, expect, test } from "vitest";
import { errorText, plain, textOf, describe as thrownAs } from "../../core/describe.ts";
import { disown } from "../../core/promises.ts";
import {
  type Armed,
  HANDLER_WAYS,
  HOOK_WAYS,
  Hostile,
  hostileListener,
  VALUES,
  withHostileHooks,
} from "../conformance/hostile.ts";

const MOST = 9_000; // characters that are said of anything

describe.each(Object.keys(VALUES))("what is said of: %s", (name) => {
  const make = (): unknown => {
    const value = VALUES[name]?.();
    disown(value, () => {});
    return value;
  };

  test("is text, short, and never an error", () => {
    const { name, message, stack = "", code = "" } = thrownAs(make());
    for (const text of [textOf(make()), errorText(make()), name, message, stack, code]) {
      expect(typeof text).toBe("string");
      expect(text.length).toBeLessThan(MOST);
    }
  });

  test("is JSON of at most the size that is asked for", () => {
    for (const value of [make(), [make()], { inner: make() }]) {
      const json = JSON.stringify(plain(value, 1_000));
      expect(json.length).toBeLessThan(1_001);
    }
  });
});

const servers = { MemoryServer, ThreadingMemoryServer };

describe.each(Object.entries(servers))("%s", (_, Server) => {
  const ask = async (way: string, value: string, hook: Armed): Promise<SockletEvent[]> => {
    const told: SockletEvent[] = [];
    const Hooked = withHostileHooks(Server, hook) as typeof MemoryServer;
    const server = new Hooked(Hostile, { onEvent: hostileListener(hook, told) as OnEvent });
    const serving = server.serveForever();
    const say = async (line: string): Promise<string> => {
      const client = server.connect();
      client.wfile.write(`${line}\n`);
      const bytes = await client.rfile.read().catch(() => null);
      await client.close();
      return new TextDecoder().decode(bytes ?? undefined);
    };
    await say(`${way} ${value}`); // which ends, or this test does not
    expect(await say("ok")).toBe("done\n");
    await server.serverClose();
    await serving;
    expect(server.running).toBe(0);
    expect(told.filter(({ type }) => type === "stuck")).toEqual([]);
    expect(told.at(-1)?.type).toBe("closed");
    return told;
  };

  describe.each(Object.keys(VALUES))("%s", (value) => {
    const make = VALUES[value] as () => unknown;

    test.each(HANDLER_WAYS)("%s", async (way) => {
      const told = await ask(way, value, { way: null, value: make });
      const [, error] = told.filter(({ type }) => type === "end").map((end) => "failed" in end && end.failed);
      expect(error).toBe(false);
      if (!/returns|resolves|emits/.test(way)) expect(told.some(({ type }) => type === "error")).toBe(true);
    });

    test.each(HOOK_WAYS)("%s", async (way) => {
      const told = await ask("handle-throws", "null", { way, value: make });
      if (!way.endsWith("returns")) expect(told.some(({ type }) => type === "error")).toBe(true);
    });
  });
});
