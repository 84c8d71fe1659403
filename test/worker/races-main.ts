/** The Worker of the races: sessions, inbound connections to it and to an object of it, and doors for faults. */

import { DurableObject, env } from "cloudflare:workers";
import { defineApp } from "socklet";
import type { SessionInfo } from "socklet/control";
import {
  type RegistryObject,
  type SessionBounds,
  type SessionObject,
  type SockletBindings,
  WorkerServer,
  workerFor,
} from "socklet/worker";
import { followers } from "../conformance/followers.ts";
import { Racer } from "../conformance/racer.ts";

interface Bindings extends SockletBindings {
  readonly SOCKLET_SESSIONS: DurableObjectNamespace<SockletSession>;
  readonly ROOM: DurableObjectNamespace<Room>;
  readonly BOUNDS?: SessionBounds;
}

const app = defineApp({ handlers: { racer: Racer }, allow: ["127.0.0.0/8:*"] });
const { BOUNDS = {} } = env as unknown as Bindings;
const worker = workerFor(app, { sessions: BOUNDS });

interface Alarmed {
  readonly ctx: DurableObjectState;
  alarm(): Promise<void>;
}
const ring = async (object: Alarmed): Promise<void> => {
  await Promise.all([object.alarm(), object.alarm()]);
};

/** While this is true, sessions are lost in their beginning, each once: by the last digit of its id, which is chance. */
let early = false;
const lostEarly = new Set<string>();
const loseOnce = (id: string, digits: string): boolean => {
  if (!early || !digits.includes(id.at(-1) as string) || lostEarly.has(id)) return false;
  lostEarly.add(id);
  return true;
};

export class SockletSession extends worker.Session {
  override start(id: string, spec: Parameters<SessionObject["start"]>[1]) {
    if (loseOnce(id, "01234")) void this.#loseIn(Number(id.at(-1)));
    return super.start(id, spec);
  }
  async #loseIn(turns: number): Promise<void> {
    for (let left = turns; left > 0; left--) await scheduler.wait(0);
    this.ctx.abort("lost while it began");
  }
  lose(): void {
    this.ctx.abort("lost by the test");
  }
  /** The alarm comes twice at once, and early. */
  ring(): Promise<void> {
    return ring(this as unknown as Alarmed);
  }
  /** The alarm is an hour late. */
  async delay(): Promise<void> {
    if ((await this.ctx.storage.getAlarm()) !== null) await this.ctx.storage.setAlarm(Date.now() + 3_600_000);
  }
  getAlarm(): Promise<number | null> {
    return this.ctx.storage.getAlarm();
  }
}

export class SockletRegistry extends worker.Registry {
  /** The session is lost just before it is known here, or just after; or this object is, which knows it by then. */
  override async add(info: SessionInfo): ReturnType<RegistryObject["add"]> {
    const session = (this.env as Bindings).SOCKLET_SESSIONS.getByName(info.id);
    if (loseOnce(info.id, "5")) await session.lose().catch(() => {});
    const answer = await super.add(info);
    if (loseOnce(info.id, "67")) await session.lose().catch(() => {});
    if (loseOnce(info.id, "8")) this.ctx.abort("lost when it had added");
    return answer;
  }
  lose(): void {
    this.ctx.abort("lost by the test");
  }
  ring(): Promise<void> {
    return ring(this as unknown as Alarmed);
  }
}

/** Connections that meet in an object. */
export class Room extends DurableObject {
  readonly #server = new WorkerServer(Racer);
  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }
  info() {
    return { running: this.#server.info().running };
  }
}

const server = new WorkerServer(Racer);
let dialled = 0;

addEventListener("unhandledrejection", ({ reason }) => console.error("unhandled rejection:", reason));

export default {
  ...worker,
  /** `POST /fault/WHAT/ID` does something to a session's object, or to the registry; all else is the control routes. */
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, first, what = "", id = ""] = new URL(request.url).pathname.split("/");
    if (first === "work") {
      const room = await bindings.ROOM.getByName("room").info();
      return Response.json({ inbound: server.info().running + room.running, followers: followers() });
    }
    if (first !== "fault") return worker.fetch(request, bindings, ctx);
    const registry = (bindings.SOCKLET_REGISTRY as DurableObjectNamespace<SockletRegistry>).getByName(
      "registry",
    );
    const session = bindings.SOCKLET_SESSIONS.getByName(id);
    const done = await {
      lose: () => session.lose(),
      ring: () => session.ring(),
      delay: () => session.delay(),
      alarm: () => session.getAlarm(),
      early: async () => {
        early = id === "on";
      },
      loseRegistry: () => registry.lose(),
      ringRegistry: () => registry.ring(),
    }[what]!().catch((error: unknown) => String(error));
    return Response.json(done ?? null);
  },
  /** Every other connection is served in the Worker, the others in an object. */
  async connect(socket: Socket, bindings: Bindings, ctx: ExecutionContext): Promise<void> {
    if (dialled++ % 2 === 0) return server.connect(socket, ctx);
    const room = bindings.ROOM.getByName("room").connect("room:1", { allowHalfOpen: true });
    await Promise.all([socket.readable.pipeTo(room.writable), room.readable.pipeTo(socket.writable)]);
  },
};
