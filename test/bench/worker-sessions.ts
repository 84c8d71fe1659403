/**
 * The same as sessions.ts for a Worker's registry: `npm run bench -- grows-worker-sessions`.
 *
 * workerd runs it, as Miniflare starts it, and each request goes through Miniflare's own Worker, over HTTP: some milliseconds that
 * do not grow. `TIMES` sessions run, each a connection to a server here; the others are rows of the registry alone.
 */

import { once } from "node:events";
import net from "node:net";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import type { SessionInfo } from "../../core/control/plane.ts";
import { workerScript } from "../emulator/worker-script.ts";
import { asking, type SessionTimes, TIMES, TOKEN, timesOf } from "./sessions.ts";

const WORKER = "sessions";

/** A session that is over, as the registry keeps it. */
const OVER: SessionInfo = {
  id: "",
  handler: "waits",
  direction: "outbound",
  address: "127.0.0.1:7",
  peer: "127.0.0.1:7",
  state: "ended",
  startedAt: "2026-01-01T00:00:00.000Z",
  endedAt: "2026-01-01T00:00:01.000Z",
  bytesRead: 0,
  bytesWritten: 0,
  result: null,
  error: null,
  kept: null,
};

/** Makes `count` rows, whose ids are older than those of any session that runs. */
const fillWith = (count: number): string => `
  INSERT INTO sessions
    WITH RECURSIVE numbered (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbered WHERE n < ${count})
    SELECT id, 'waits', 'ended', ${Date.now()} + n, json_set('${JSON.stringify(OVER)}', '$.id', id)
      FROM (SELECT n, printf('00000000-0000-7000-8000-%012x', n) AS id FROM numbered)`;

/** The times of a Worker's registry with `count` sessions. */
export async function measureWorkerSessions(count: number): Promise<SessionTimes> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const miniflare = new Miniflare({
    ...convertV4MiniflareOptions({
      name: WORKER,
      modules: true,
      script: await workerScript("test/bench/servers/workerd-sessions.ts"),
      compatibilityDate: "2026-10-01",
      compatibilityFlags: ["no_nodejs_compat", "no_nodejs_compat_v2"],
      durableObjects: {
        SOCKLET_SESSIONS: { className: "SockletSession", useSQLite: true },
        SOCKLET_REGISTRY: { className: "SockletRegistry", useSQLite: true },
      },
      bindings: { SOCKLET_TOKENS: TOKEN },
    }),
    unsafeInspectDurableObjects: true,
    log: new Log(LogLevel.NONE),
  } as ConstructorParameters<typeof Miniflare>[0]);
  try {
    const origin = await miniflare.ready;
    const ask = asking((path, init) => fetch(new URL(path, origin), init));
    await ask("/v1/sessions"); // it makes its tables
    const storage = await miniflare.unsafeGetDurableObjectStorage(WORKER, "SockletRegistry", {
      name: "registry",
    });
    await storage.exec(fillWith(count - TIMES));
    const { port } = server.address() as net.AddressInfo;
    for (let i = 0; i < TIMES; i++) {
      const started = await fetch(new URL("/v1/sessions", origin), {
        method: "POST",
        headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
        body: JSON.stringify({ handler: "waits", address: `127.0.0.1:${port}`, background: true }),
      });
      if (started.status !== 201) throw new Error(`a session: ${started.status} ${await started.text()}`);
    }
    return await timesOf(count, ask);
  } finally {
    await miniflare.dispose();
    server.close();
  }
}
