/** Sessions whose whole process is gone: workerd is ended, and another begins with the same storage. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Miniflare } from "miniflare";
import { type InternetAddress, streamHandler } from "socklet";
import { type ControlClient, controlClient, type SessionInfo } from "socklet/control";
import { ThreadingTCPServer } from "socklet/emulator";
import { expect, onTestFinished, test } from "vitest";
import { sessionsWorker } from "./sessions-worker.ts";
import { workerScript } from "./worker-script.ts";

const TOKEN = "abcdefghijklmnop0123";

/** A folder for what objects store, deleted when the test is over. */
const storage = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "socklet-restart-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
};

/** A server that greets; its address. */
const greeter = async (): Promise<string> => {
  const server = new ThreadingTCPServer(
    "127.0.0.1:0",
    streamHandler(async ({ rfile, wfile }) => {
      wfile.write("welcome\n");
      await rfile.read();
    }),
  );
  const { port } = (await server.listen()) as InternetAddress;
  void server.serveForever();
  onTestFinished(() => server[Symbol.asyncDispose]());
  return `127.0.0.1:${port}`;
};

/** The pools of the inspector's app, without which its `context` fails. */
const POOLS = { SOCKLET_POOLS: "SockletPool" };

/** Begins workerd with a Worker and what its objects have stored in `folder`. */
const begin = async (
  script: string,
  folder: string,
  bindings: Readonly<Record<string, string>> = {},
  objects: Readonly<Record<string, string>> = {},
) => {
  const workerd = new Miniflare({
    ...sessionsWorker(script, { bindings: { SOCKLET_TOKENS: TOKEN, ...bindings }, objects }),
    resourcePersistencePath: folder,
  });
  const { origin } = await workerd.ready;
  return { client: controlClient(origin, { token: TOKEN }), end: () => workerd.dispose() };
};

test("the record and the registry tell the truth", async () => {
  const script = await workerScript("test/worker/sessions-main.ts");
  const [address, folder] = [await greeter(), storage()];
  const first = await begin(script, folder);
  let over: SessionInfo;
  let running: SessionInfo;
  try {
    over = await first.client.sessions.run({ handler: "large", address, params: 5 });
    running = await first.client.sessions.start({ handler: "lines", address });
    for await (const { type } of first.client.sessions.follow(running.id)) if (type === "handler") break;
    expect(await first.client.sessions.get(running.id)).toMatchObject({ state: "running" });
  } finally {
    await first.end();
  }
  const second = await begin(script, folder);
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
});

test("a recording that was started goes on, and tells what is lost with the memory that had it", async () => {
  const script = await workerScript("test/worker/inspected.ts");
  const [address, folder] = [await greeter(), storage()];
  /** Waits until the session has emitted what the server sent, after event `after`. */
  const welcomed = async (client: ControlClient, id: string, after: number): Promise<number> => {
    for await (const event of client.sessions.follow(id, { after }))
      if (event.type === "handler") return event.id;
    throw new Error("the session is over");
  };
  const first = await begin(script, folder, { KEPT: address }, POOLS);
  let lasts: SessionInfo;
  let once: SessionInfo;
  let seen: number;
  try {
    await first.client.recording.start();
    lasts = await first.client.sessions.start({ dial: "kept" });
    once = await first.client.sessions.start({ handler: "Lines", address });
    [seen] = (await Promise.all([lasts, once].map(({ id }) => welcomed(first.client, id, 0)))) as [
      number,
      number,
    ];
    for (const { id } of [lasts, once])
      expect((await first.client.recording.part(id)).events).toMatchObject([{ text: "welcome\n" }]);
  } finally {
    await first.end();
  }
  const second = await begin(script, folder, { KEPT: address }, POOLS);
  try {
    const { client } = second;
    expect(await client.sessions.get(once.id)).toMatchObject({ state: "cut", bytesRead: 8 });
    await expect(client.recording.part(once.id)).rejects.toMatchObject({
      code: "ENOENT",
      message: expect.stringContaining("lost with the memory"),
    });
    await welcomed(client, lasts.id, seen);
    expect(await client.recording.part(lasts.id)).toMatchObject({
      dropped: 8,
      events: [{ text: "welcome\n" }],
    });
    expect(await client.recording.info()).toMatchObject({ on: true, started: true });
  } finally {
    await second.end();
  }
});
