/**
 * The Worker of the deliveries: it writes what it was asked to, to each client, in the Worker or in an object of it; and
 * sessions that write what their params say. `POST /meet` readies the server for the next connection.
 */

import { DurableObject } from "cloudflare:workers";
import { defineApp, type SockletEvent, StreamRequestHandler, streamHandler } from "socklet";
import { type SockletBindings, WorkerServer, workerFor } from "socklet/worker";
import { type Step, writeSteps } from "../conformance/delivery.ts";

interface Bindings extends SockletBindings {
  readonly SOCKLET_SESSIONS: DurableObjectNamespace<SockletSession>;
  readonly ROOM: DurableObjectNamespace<Room>;
}

interface Task {
  readonly steps: readonly Step[];
  readonly stream: object;
}

type Stop = "close" | "abort";

/** One server and its events, ready for one connection. */
class Meeting {
  readonly told: SockletEvent[] = [];
  readonly server: WorkerServer;
  stop: Stop | null = null;

  constructor({ steps, stream }: Task) {
    const Writes = streamHandler(({ request }) => writeSteps(request, steps));
    this.server = new WorkerServer(Writes, { stream, onEvent: (event) => void this.told.push(event) });
  }

  async end(how: Stop): Promise<void> {
    if (how === "abort") this.server.abort();
    else await this.server.serverClose();
  }

  /** The events; of an error its code. */
  events(): unknown[] {
    return this.told.map((event) =>
      event.type === "error" ? { ...event, error: { code: (event.error as { code?: string }).code } } : event,
    );
  }
}

/** Connections that are served by an object, all of whose requests may use them. */
export class Room extends DurableObject {
  #meeting: Meeting | undefined;

  meet(task: Task): void {
    this.#meeting = new Meeting(task);
  }
  override async connect(socket: Socket): Promise<void> {
    await this.#meeting?.server.connect(socket);
  }
  async end(how: Stop): Promise<void> {
    await this.#meeting?.end(how);
  }
  events(): string {
    return JSON.stringify(this.#meeting?.events());
  }
}

class Writes extends StreamRequestHandler {
  override handle(): Promise<void> {
    this.request.settimeout(2_000); // a write to a peer that stalls waits that long, and not the default's five minutes
    return writeSteps(this.request, (this.params as { steps: readonly Step[] }).steps);
  }
}

const worker = workerFor(defineApp({ handlers: { writes: Writes }, allow: ["127.0.0.0/8:*"] }));

export class SockletSession extends worker.Session {
  lose(): void {
    (this as unknown as { ctx: DurableObjectState }).ctx.abort("lost by the test");
  }
}
export class SockletRegistry extends worker.Registry {}

let meeting: Meeting | undefined;
let inObject = false;

export default {
  ...worker,
  /** `POST /meet/worker`, `/meet/object`, `/end/close`, `/end/abort`, `/events`, `/lose/ID`; all else is the control routes. */
  async fetch(request: Request, bindings: Bindings, ctx: ExecutionContext): Promise<Response> {
    const [, what, how = ""] = new URL(request.url).pathname.split("/");
    const room = bindings.ROOM.getByName("room");
    if (what === "meet") {
      inObject = how === "object";
      const task = await request.json<Task>();
      if (inObject) await room.meet(task);
      else meeting = new Meeting(task);
    } else if (what === "end") {
      if (inObject) await room.end(how as Stop);
      else if (meeting !== undefined) meeting.stop = how as Stop;
    } else if (what === "events") {
      return new Response(inObject ? await room.events() : JSON.stringify(meeting?.events()));
    } else if (what === "lose") {
      await bindings.SOCKLET_SESSIONS.getByName(how)
        .lose()
        .catch(() => {});
    } else return worker.fetch(request, bindings, ctx);
    return Response.json(null);
  },
  async connect(socket: Socket, bindings: Bindings, ctx: ExecutionContext): Promise<void> {
    if (inObject) {
      const room = bindings.ROOM.getByName("room").connect("room:1", { allowHalfOpen: true });
      await Promise.allSettled([
        socket.readable.pipeTo(room.writable),
        room.readable.pipeTo(socket.writable),
      ]);
      return;
    }
    const own = meeting as Meeting;
    const serving = own.server.connect(socket, ctx).finally(() => {
      over = true;
    });
    // A request cannot use the platform objects of another one: the server is stopped in this one.
    let over = false;
    while (!over && own.stop === null) await scheduler.wait(1);
    if (own.stop !== null) await own.end(own.stop);
    await serving;
  },
};
