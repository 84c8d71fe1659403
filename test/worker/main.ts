/**
 * The Worker under test: the conformance handler behind every inbound door that the platform has. It runs inside
 * Vitest's workerd (service binding, Durable Object) and alone behind real ports.
 */

import { DurableObject } from "cloudflare:workers";
import { WorkerServer } from "socklet/worker";
import { type Board, Conformance, LocalBoard } from "../conformance/handler.ts";

interface Bindings {
  readonly BOARD: DurableObjectNamespace<BoardObject>;
  readonly DOOR: DurableObjectNamespace<DoorObject>;
}

/** The board: an object, since what one request says another must hear. */
export class BoardObject extends DurableObject implements Board {
  readonly #board = new LocalBoard();

  put(key: string, value: string): Promise<void> {
    return this.#board.put(key, value);
  }

  take(key: string): Promise<string> {
    return this.#board.take(key);
  }
}

const boardOf = (env: Bindings): Board => env.BOARD.getByName("board");
const options = { stream: { closeTimeout: 300 } };

/** A Durable Object that serves connections itself. */
export class DoorObject extends DurableObject<Bindings> {
  readonly #server = new WorkerServer(Conformance, { ...options, context: boardOf(this.env) });

  override connect(socket: Socket): Promise<void> {
    return this.#server.connect(socket);
  }
}

export default {
  async fetch(): Promise<Response> {
    return new Response("ok");
  },
  connect(socket: Socket, env: Bindings, ctx: ExecutionContext): Promise<void> {
    return new WorkerServer(Conformance, { ...options, context: boardOf(env) }).connect(socket, ctx);
  },
};
