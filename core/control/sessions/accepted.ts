/** Shows connections that are not dialled as sessions as if they were: those that a server accepts, and those of a pool. */

import { DONE } from "../../bytes/data.ts";
import type { SockletEvent } from "../../handlers/events.ts";
import type { Address } from "../../net/address.ts";
import type { RunOptions, StreamConnector } from "../../serve/connector.ts";
import type { BaseServer } from "../../serve/server.ts";
import type { StreamSocket } from "../../sockets/streams/stream-socket.ts";
import { Session, type SessionHooks, type SessionOptions } from "./session.ts";

/** The inputs of such a session, besides its connection. */
export type ShownSetup = Omit<SessionOptions, "direction" | "deadline" | "run">;

/** The handler and the address that serve a connection. */
export interface Served {
  /** The handler's name. */
  readonly handler: string;
  readonly address: string;
}

/** Shows accepted connections. */
interface AcceptedPlane {
  /** Returns what `run` returns, and throws what it throws. The session is over when `over` is settled. */
  accepted(
    served: Served,
    socket: StreamSocket,
    run: (hooks: SessionHooks) => unknown,
    over: Promise<void>,
  ): Promise<unknown>;
}

/**
 * Shows one accepted connection as a session, and returns what `run` returns. The session is over when `over` is settled: then the
 * connection has been released. If `over` rejects, some of what was written was not sent. `opened` is called when the session has the connection.
 */
export const acceptedSession = (
  options: ShownSetup,
  socket: StreamSocket,
  run: (hooks: SessionHooks) => unknown,
  over: Promise<void> = DONE,
  opened: () => void = () => {},
): { readonly session: Session; readonly outcome: Promise<unknown> } => {
  const outcome = Promise.withResolvers<unknown>();
  const session = Session.start({
    ...options,
    direction: "inbound",
    deadline: null,
    run: async (hooks) => {
      try {
        hooks.opened(socket);
        opened();
        outcome.resolve(await run(hooks));
      } catch (error) {
        outcome.reject(error);
        await over.catch(() => {}); // what the handler threw says more
        throw error;
      }
      await over;
    },
  });
  return { session, outcome: outcome.promise };
};

/** Shows one open connection of a pool as a session, until `over` is settled. If `over` rejects, the session has failed. */
export const pooledSession = (
  options: ShownSetup,
  socket: StreamSocket,
  over: Promise<unknown>,
  opened: () => void = () => {},
): Session =>
  Session.start({
    ...options,
    direction: "outbound",
    deadline: null,
    run: async (hooks) => {
      hooks.opened(socket);
      opened();
      await over;
    },
  });

/** Why nothing may be sent by hand on a connection of a pool. */
export const NOT_BY_HAND =
  "nothing is sent by hand on a connection of a pool, whose calls would get the replies; end it, and the pool dials anew";

/** A request whose connection is a session. */
interface Watched {
  readonly hooks: SessionHooks;
  readonly leave: () => void;
  /** The last error reported for it. */
  error: unknown;
  /** To be called when the request is over and its connection closed. */
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type StreamServerClass = abstract new (...args: any[]) => BaseServer<StreamSocket, any>;

/** Shows each connection that a server serves as a session of `plane`, named as the server is; `addressOf`: where it listens. */
export const AcceptedMixIn = <Base extends StreamServerClass>(
  Server: Base,
  plane: AcceptedPlane,
  addressOf: (server: InstanceType<Base>) => string,
): Base => {
  abstract class RecordingServer extends (Server as StreamServerClass) {
    readonly #watched = new Map<number, Watched>(); // by the request's number

    override finishRequest(request: StreamSocket, clientAddress: Address | null): unknown {
      const { id } = this.scope(request);
      const over = Promise.withResolvers<void>();
      over.promise.catch(() => {}); // ends the session, unless it is over already
      const run = async (hooks: SessionHooks): Promise<unknown> => {
        const { signal } = hooks;
        const cancel = (): void => this.cancelRequest(request, signal.reason);
        signal.addEventListener("abort", cancel, { once: true });
        // The session outlives the connection, and would otherwise keep its buffers in memory.
        const leave = (): void => signal.removeEventListener("abort", cancel);
        this.#watched.set(id, { hooks, leave, error: undefined, ...over });
        try {
          return await super.finishRequest(request, clientAddress);
        } catch (error) {
          throw signal.aborted ? signal.reason : error; // the reason for its end, not the error that followed from it
        }
      };
      const served = { handler: this.name, address: addressOf(this as unknown as InstanceType<Base>) };
      return plane.accepted(served, request, run, over.promise);
    }

    protected override watches(type: SockletEvent["type"]): boolean {
      return type === "end" || super.watches(type);
    }

    protected override tell(event: SockletEvent): void {
      const watched = "id" in event ? this.#watched.get(event.id as number) : undefined;
      if (watched !== undefined) this.#tellSession(watched, event);
      super.tell(event);
    }

    #tellSession(watched: Watched, event: SockletEvent): void {
      if (event.type === "handler") watched.hooks.emit(event.detail);
      else if (event.type === "error") watched.error = event.error;
      else if (event.type === "end") {
        this.#watched.delete(event.id);
        watched.leave();
        if (event.failed) watched.reject(watched.error);
        else watched.resolve();
      }
    }
  }
  return RecordingServer as unknown as Base;
};

// biome-ignore lint/suspicious/noExplicitAny: as above
type ConnectorClass = abstract new (...args: any[]) => StreamConnector<any, any>;

/** Reports each connection that a pool's connector opens; `over` is settled when the connection is over. */
export const PooledMixIn = <Base extends ConnectorClass>(
  Connector: Base,
  opened: (connector: InstanceType<Base>, socket: StreamSocket, over: Promise<unknown>) => void,
): Base => {
  abstract class RecordedPool extends (Connector as ConnectorClass) {
    // biome-ignore lint/suspicious/noExplicitAny: as above
    override run(options: RunOptions<StreamSocket, any> = {}): Promise<unknown> {
      const over = Promise.withResolvers<unknown>();
      const running = super.run({
        ...options,
        onOpen: (socket) => {
          opened(this as unknown as InstanceType<Base>, socket, over.promise);
          options.onOpen?.(socket);
        },
      });
      over.promise.catch(() => {}); // the pool is notified, too
      running.then(over.resolve, over.reject);
      return running;
    }
  }
  return RecordedPool as unknown as Base;
};
