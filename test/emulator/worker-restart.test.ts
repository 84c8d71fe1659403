/** Sessions whose whole process is gone: workerd is ended, and another begins with the same storage. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { streamHandler } from "socklet";
import { controlClient, type SessionInfo } from "socklet/control";
import { ThreadingTCPServer } from "socklet/emulator";
import { expect, test } from "vitest";
import { workerScript } from "./worker-script.ts";

const TOKEN = "abcdefghijklmnop0123";

test("the record and the registry tell the truth", async () => {
  const script = await workerScript("test/worker/sessions-main.ts");
  const folder = mkdtempSync(join(tmpdir(), "socklet-restart-"));
  await using server = new ThreadingTCPServer(
    "127.0.0.1:0",
    streamHandler(async ({ rfile, wfile }) => {
      wfile.write("welcome\n");
      await rfile.read();
    }),
  );
  const address = await server.listen();
  void server.serveForever();
  const begin = async () => {
    const workerd = new Miniflare({
      ...convertV4MiniflareOptions({
        name: "under-test", // its objects are kept under this
        modules: true,
        script,
        compatibilityDate: "2026-10-01",
        compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
        durableObjects: {
          SOCKLET_SESSIONS: { className: "SockletSession", useSQLite: true },
          SOCKLET_REGISTRY: { className: "SockletRegistry", useSQLite: true },
        },
        bindings: { SOCKLET_TOKENS: TOKEN },
      }),
      resourcePersistencePath: folder,
    });
    const { origin } = await workerd.ready;
    return { client: controlClient(origin, { token: TOKEN }), end: () => workerd.dispose() };
  };

  try {
    const first = await begin();
    let over: SessionInfo;
    let running: SessionInfo;
    try {
      const spec = { handler: "lines", address: `127.0.0.1:${(address as { port: number }).port}` };
      over = await first.client.sessions.run({ handler: "large", address: spec.address, params: 5 });
      running = await first.client.sessions.start(spec);
      for await (const { type } of first.client.sessions.follow(running.id)) if (type === "handler") break;
      expect(await first.client.sessions.get(running.id)).toMatchObject({ state: "running" });
    } finally {
      await first.end();
    }
    const second = await begin();
    try {
      const { sessions } = await second.client.sessions.list();
      expect(sessions).toMatchObject([
        { id: running.id, state: "cut", error: { code: "ECONNABORTED" } },
        { id: over.id, state: "ended", result: "xxxxx" },
      ]);
      expect(sessions[1]).toEqual(over);
      const types: string[] = [];
      for await (const { type } of second.client.sessions.follow(running.id)) types.push(type);
      expect(types).toEqual(["connecting", "open", "handler", "cut"]);
    } finally {
      await second.end();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
