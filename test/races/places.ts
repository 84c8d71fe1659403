/** Where the races run: the emulator, and a Worker in real workerd, whose process can be killed. */

import net from "node:net";
import type { Miniflare } from "miniflare";
import { defineApp } from "socklet";
import { serveApp } from "socklet/emulator";
import { followers } from "../conformance/followers.ts";
import { Racer } from "../conformance/racer.ts";
import { mortalWorkerd } from "../emulator/mortal-workerd.ts";
import { sessionsWorker } from "../emulator/sessions-worker.ts";
import { workerScript } from "../emulator/worker-script.ts";
import { temporaryFolder } from "../peers/children.ts";

export const TOKEN = "abcdefghijklmnop0123";

/** The bounds of a Worker's sessions (`SessionBounds`). */
interface Bounds {
  readonly maxRunning?: number;
  readonly maxHistory?: number;
}

/** What the races need of a place. */
export interface Place extends AsyncDisposable {
  readonly name: string;
  /** Where the control routes are; `null` while the place is down. */
  url(): string;
  /** An inbound connection. */
  dial(): Promise<net.Socket>;
  /** What it has printed: unhandled rejections. */
  readonly complaints?: readonly string[];
  /** Whether it hears at once of a follower who leaves; workerd does when it writes, at the latest with the second heartbeat (32 s, measured). */
  readonly hearsOfLeaving: boolean;
  /** How many inbound connections are served now, and how many follow a session. */
  work(): Promise<{ readonly inbound: number; readonly followers: number }>;
  /** What can be done to a session's keeper, by name. */
  readonly faults: Readonly<Record<string, (id: string) => Promise<void>>>;
  /** From now on sessions are lost while they start, or are not. */
  early?(on: boolean): Promise<void>;
  /** Ends the process by SIGKILL; resolves when another serves, with the same storage. */
  kill?(): Promise<void>;
  /** What is kept of a session that is over: rows, whether the registry was told, and its alarm. */
  kept?(id: string): Promise<{ records: number; events: number; told: number; alarm: number | null }>;
  /** The sessions of which any object keeps a record. */
  records?(): Promise<string[]>;
  /** How many sessions that are over are kept; default: all. */
  readonly history?: number | undefined;
  /** The registry's rows that are believed to run. */
  believed?(): Promise<string[]>;
  /** Lets go of a session's object, which fails where anything still refers to it. */
  evict?(id: string): Promise<void>;
}

export const emulator = async (): Promise<Place> => {
  const app = defineApp({
    handlers: { racer: Racer },
    listen: [{ handler: "racer", address: "tcp://127.0.0.1:0" }],
    allow: ["127.0.0.0/8:*"],
  });
  const server = await serveApp(app, { control: { port: 0, tokens: TOKEN } });
  const url = server.control?.url as string;
  const port = Number(new URL(server.listeners[0]?.url as string).port);
  return {
    name: "the emulator",
    hearsOfLeaving: true,
    url: () => url,
    dial: async () => net.connect({ host: "127.0.0.1", port, allowHalfOpen: true }),
    work: async () => {
      const answer = await fetch(`${url}/v1/listeners`, { headers: { authorization: `Bearer ${TOKEN}` } });
      const { listeners } = (await answer.json()) as { listeners: { running: number }[] };
      const inbound = listeners.reduce((sum, { running }) => sum + running, 0);
      return { inbound, followers: followers() };
    },
    faults: {},
    [Symbol.asyncDispose]: () => server.close(),
  };
};

export const workerd = async (bounds: Bounds = {}): Promise<Place> => {
  const script = await workerScript("test/worker/races-main.ts");
  const folder = temporaryFolder("races");
  const complaints: string[] = [];
  const options = {
    ...sessionsWorker(script, {
      bindings: { SOCKLET_TOKENS: TOKEN, BOUNDS: { maxHistory: 100_000, ...bounds } },
      objects: { ROOM: "Room" },
      accepts: true,
    }),
    handleStructuredLogs: ({ message }: { message: string }) => {
      if (message.includes("unhandled rejection")) complaints.push(message); // workerd says things of its own, too
    },
    unsafeInspectDurableObjects: true,
    resourcePersistencePath: folder.path,
  } as ConstructorParameters<typeof Miniflare>[0];

  const running = await mortalWorkerd(options);
  const ask = async (path: string): Promise<unknown> => {
    const answer = await fetch(`${running.origin}/${path}`);
    return answer.json();
  };
  const fault = (what: string) => async (id: string) => {
    await ask(`fault/${what}/${id}`);
  };
  const storageOf = (object: { name: string } | { id: string }) =>
    running.miniflare.unsafeGetDurableObjectStorage("under-test", "SockletSession", object as never);
  const hasTables = async (storage: Awaited<ReturnType<typeof storageOf>>): Promise<boolean> => {
    const names = "SELECT name FROM sqlite_master WHERE name IN ('session', 'events')";
    return (await storage.exec(names)).length > 0;
  };
  return {
    name: "workerd",
    hearsOfLeaving: false,
    history: bounds.maxHistory,
    complaints,
    url: () => running.origin,
    dial: () => running.miniflare.dispatchConnect() as Promise<net.Socket>,
    work: async () => (await ask("work")) as { inbound: number; followers: number },
    faults: {
      lose: fault("lose"),
      ring: fault("ring"),
      delay: fault("delay"),
      loseRegistry: fault("loseRegistry"),
      ringRegistry: fault("ringRegistry"),
    },
    early: (on) => fault("early")(on ? "on" : "off"),
    kill: () => running.kill(),
    kept: async (id) => {
      const storage = await storageOf({ name: id });
      if (!(await hasTables(storage))) return { records: 0, events: 0, told: 0, alarm: null };
      const [session] = await storage.exec<{ records: number; told: number }>(
        "SELECT COUNT(*) AS records, MAX(told) AS told FROM session",
      );
      const [events] = await storage.exec<{ events: number }>("SELECT COUNT(*) AS events FROM events");
      const alarm = (await ask(`fault/alarm/${id}`)) as number | null;
      return { records: session?.records ?? 0, told: session?.told ?? 0, events: events?.events ?? 0, alarm };
    },
    believed: async () => {
      const storage = await running.miniflare.unsafeGetDurableObjectStorage("under-test", "SockletRegistry", {
        name: "registry",
      });
      const rows = await storage.exec<{ id: string }>("SELECT id FROM sessions WHERE ended IS NULL");
      return rows.map(({ id }) => id);
    },
    records: async () => {
      const ids: string[] = [];
      for (const id of await running.miniflare.listDurableObjectIds("SockletSession", "under-test")) {
        const storage = await storageOf({ id });
        if (!(await hasTables(storage))) continue;
        const rows = await storage.exec<{ info: string }>("SELECT info FROM session");
        ids.push(...rows.map(({ info }) => JSON.parse(info).id as string));
        if (rows.length === 0) ids.push(`none in ${id}`);
      }
      return ids;
    },
    evict: (id) => running.miniflare.unsafeEvictDurableObject("under-test", "SockletSession", { name: id }),
    [Symbol.asyncDispose]: async () => {
      await running[Symbol.asyncDispose]();
      folder.remove();
    },
  };
};
