/**
 * The Worker under test: the conformance handler behind every inbound door that the platform has. It runs inside
 * Vitest's workerd (service binding, Durable Object) and alone behind real ports.
 */

import { DurableObject } from "cloudflare:workers";
import { defineApp, type OnEvent, SocketError, type SockletEvent, streamHandler } from "socklet";
import {
  type AnalyticsDataset,
  analyticsEvents,
  SockletStorage,
  type WorkerModule,
  WorkerServer,
  workerFor,
} from "socklet/worker";
import { scriptHandler } from "../../core/testing/index.ts";
import { Chat } from "../../examples/chat.ts";
import { Echo } from "../../examples/echo.ts";
import { KeyStore, RespServer } from "../../examples/resp.ts";
import { type Board, Conformance, LocalBoard } from "../conformance/handler.ts";
import { type Armed, Hostile, hostileListener, VALUES, withHostileHooks } from "../conformance/hostile.ts";
import {
  doorOf,
  exampleContext,
  isDatagrams,
  PATIENT,
  type StreamExample,
  served,
  servings,
} from "../conformance/matrix-table.ts";
import { redisServer } from "../conformance/scripts.ts";
import { Life, tracing } from "../conformance/server-scenarios.ts";

interface Bindings {
  readonly BOARD: DurableObjectNamespace<BoardObject>;
  readonly DOOR: DurableObjectNamespace<DoorObject>;
  /** A dataset of Workers Analytics Engine. */
  readonly EVENTS?: AnalyticsEngineDataset;
  /** Behind real ports: which port is which door. */
  readonly DOORS?: Readonly<Record<string, string>>;
}

/** The door that a connection came to: by the port of a Worker behind real ones, else by the name that was dialled. */
const doorFor = async (socket: Socket, { DOORS }: Bindings): Promise<string> => {
  const { localAddress = "" } = await socket.opened;
  const [host = "", port = ""] = localAddress.split(":");
  return DOORS?.[port] ?? host;
};

/** The handlers that are served on listeners of their names. */
const streamExamples = new Map<string, StreamExample>(
  Object.entries(servings).flatMap(([name, example]) =>
    isDatagrams(example) ? [] : [[doorOf(name), example] as const],
  ),
);

/**
 * The server behind a door: an example in an object (a Worker serves them by `workerFor`), the conformance handler,
 * or, behind `trace-PLACE-N`, the traced server of scenario N. Kept as long as the object or isolate that asks, since a trace counts its requests.
 */
class Doors {
  readonly #servers = new Map<string, Pick<WorkerServer, "connect">>();

  async serverOf(socket: Socket, env: Bindings): Promise<Pick<WorkerServer, "connect">> {
    const door = await doorFor(socket, env);
    let server = this.#servers.get(door);
    if (server === undefined) {
      const board = boardOf(env);
      const [, place, index] = /^trace-(.+)-(\d+)$/.exec(door) ?? [];
      const example = streamExamples.get(door);
      if (door.startsWith("hostile")) {
        // The way is two words, the value's name any number.
        const [, hook, how, ...name] = door.split("-");
        const armed: Armed = {
          way: how ? `${hook}-${how}` : null,
          value: VALUES[name.join("-")] ?? (() => null),
        };
        const Server = withHostileHooks(WorkerServer, armed) as typeof WorkerServer;
        server = new Server(Hostile, { ...options, onEvent: hostileListener(armed, []) as OnEvent });
      } else if (example !== undefined) {
        server = new WorkerServer(served(example), { ...options, context: exampleContext() });
      } else if (door.startsWith("life-")) {
        server = new WorkerServer(Life, { ...options, context: board });
      } else if (index === undefined) {
        server = new WorkerServer(Conformance, { ...options, context: board });
      } else {
        const { Server, Handler } = tracing(WorkerServer<Board>, Number(index), board, `${place}/${index}`);
        server = new Server(Handler as never, options);
      }
      this.#servers.set(door, server);
    }
    return server;
  }
}

/** The board: an object, since what one request sends another must receive. */
export class BoardObject extends DurableObject implements Board {
  readonly #board = new LocalBoard();

  put(key: string, value: string): Promise<void> {
    return this.#board.put(key, value);
  }

  take(key: string): Promise<string> {
    return this.#board.take(key);
  }
}

// Asked anew each time: what one request got of the platform must not be used in another (workerd).
const boardOf = ({ BOARD }: Bindings): Board => ({
  put: (key, value) => BOARD.getByName("board").put(key, value),
  take: (key) => BOARD.getByName("board").take(key),
});
const options = { stream: { closeTimeout: 300 } };

/** A Durable Object in which the members of a chat meet, as `worker/main.ts` has it; it keeps the events of its server. */
export class ChatObject extends DurableObject {
  readonly #told: SockletEvent[] = [];
  readonly #server = new WorkerServer(Chat, {
    context: { members: new Set<Chat>() },
    onEvent: (event) => void this.#told.push(event),
  });

  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }

  /** The events as JSON; of an error its code. */
  told(): string {
    return JSON.stringify(
      this.#told.map((event) =>
        event.type === "error" ? { ...event, error: (event.error as { code?: string }).code } : event,
      ),
    );
  }
}

/** A Durable Object that serves connections itself. */
export class DoorObject extends DurableObject<Bindings> {
  readonly #doors = new Doors();

  override async connect(socket: Socket): Promise<void> {
    await (await this.#doors.serverOf(socket, this.env)).connect(socket);
  }
}

export { SmallRegistry, SmallSession, SockletRegistry, SockletSession } from "./sessions-main.ts";

export { SockletStorage };

const doors = new Doors();

/** What may be chosen by a caller's authority: handlers that listen, and one that does not. */
const app = workerFor(
  defineApp<{ readonly keys: KeyStore }>({
    handlers: {
      "app-echo": Echo,
      "app-hidden": Echo,
      "app-resp": RespServer,
      "app-script": scriptHandler(redisServer, PATIENT),
    },
    listen: [
      { handler: "app-echo", address: "tcp://127.0.0.1:7" },
      { handler: "app-resp", address: "tcp://127.0.0.1:6379" },
      { handler: "app-script", address: "tcp://127.0.0.1:6380" },
    ],
    context: () => ({ keys: new KeyStore() }),
  }),
);

/** What was written to Workers Analytics Engine. */
const points: unknown[] = [];

const Points = streamHandler(({ wfile }) => wfile.write(JSON.stringify(points)));
const Fails = streamHandler(async ({ rfile, wfile }) => {
  wfile.write(`${await rfile.line()}\n`);
  throw new SocketError("ENOENT", "a text that is no label");
});

let countedWorker: WorkerModule | undefined;

/** Handlers whose events are written to Workers Analytics Engine, and one that says what was. */
const countedWorkerFor = ({ EVENTS }: Bindings): WorkerModule => {
  const dataset: AnalyticsDataset = {
    writeDataPoint(point) {
      EVENTS?.writeDataPoint(point); // the platform's own, which throws if a point is malformed
      points.push(point);
    },
  };
  const app = defineApp({
    handlers: { "counted-echo": Echo, "counted-fails": Fails, "counted-points": Points },
    listen: [
      { handler: "counted-echo", address: "tcp://127.0.0.1:1" },
      { handler: "counted-fails", address: "tcp://127.0.0.1:2" },
      { handler: "counted-points", address: "tcp://127.0.0.1:3" },
    ],
  });
  return workerFor(app, { onEvent: analyticsEvents(dataset) });
};

let exampleWorker: WorkerModule | undefined;

/** All the examples, each behind its door's port if it has one. */
const exampleWorkerFor = ({ DOORS = {} }: Bindings): WorkerModule => {
  const portOf = new Map(Object.entries(DOORS).map(([port, door]) => [door, port]));
  const all = Object.entries(servings).map(([name, example], i) => ({
    door: doorOf(name),
    handler: isDatagrams(example) ? example.Datagrams : served(example),
    address: `${isDatagrams(example) ? "udp" : "tcp"}://127.0.0.1:${portOf.get(doorOf(name)) ?? i + 1}`,
  }));
  return workerFor(
    defineApp({
      handlers: Object.fromEntries(all.map(({ door, handler }) => [door, handler])),
      listen: all.map(({ door, address }) => ({ handler: door, address })),
      context: exampleContext,
    }),
  );
};

export default {
  async fetch(): Promise<Response> {
    return new Response("ok");
  },
  async connect(socket: Socket, env: Bindings, ctx: ExecutionContext): Promise<void> {
    const door = await doorFor(socket, env);
    if (door.startsWith("app-")) return app.connect(socket, env, ctx);
    if (door.startsWith("counted-")) {
      countedWorker ??= countedWorkerFor(env);
      return countedWorker.connect(socket, env, ctx);
    }
    if (door.startsWith("example-")) {
      exampleWorker ??= exampleWorkerFor(env);
      return exampleWorker.connect(socket, env, ctx);
    }
    await (await doors.serverOf(socket, env)).connect(socket, ctx);
  },
};
