/** The connections that a socket has accepted, and that wait to be taken. */

import net from "node:net";
import { deadline } from "../../core/bytes/alarm.ts";
import { SocketError, type SocketErrorCode } from "../../core/errors.ts";
import { wholeMs } from "../../core/options.ts";
import type { StreamDescriptor } from "../kernel/opening/descriptor.ts";
import { acceptInto } from "../kernel/transports/handle-transport.ts";
import { NodeTransport } from "../kernel/transports/net-transport.ts";
import type { Connection } from "../kernel/transports/seam.ts";

const ignore = (): void => {};

/** Resets a connection that was not taken, so that its client notices. */
const refuse = (connection: Connection): void => connection.abort();

interface Acceptor {
  readonly resolve: (connection: Connection) => void;
  readonly reject: (error: SocketError) => void;
}

/** The connections that arrive: Node accepts them by itself, and they wait here, unread. */
export class Listener {
  /** Resolves when it listens. Rejects with the kernel's error. */
  readonly listening: Promise<void>;
  /** How many may wait. */
  backlog: number;
  /** Called with each connection, which then does not wait. */
  taker: ((connection: Connection) => void) | null = null;
  readonly #server: { close(): unknown };
  readonly #queue: Connection[] = [];
  #acceptors: Acceptor[] = [];
  #watchers: (() => void)[] = [];
  #ended: SocketErrorCode | null = null;

  constructor(descriptor: StreamDescriptor, backlog: number) {
    this.backlog = backlog;
    const { inherited, own } = descriptor; // with noDelay: output is gathered here, and Nagle's algorithm would hold it back
    if (own !== undefined) {
      this.#server = own;
      // The caller sets the callback for connections once this has returned.
      this.listening = Promise.resolve().then(() => own.accept((connection) => this.#arrived(connection)));
      return;
    }
    const server =
      descriptor.server ??
      net.createServer({
        allowHalfOpen: true, // the peer's half-close does not end ours
        pauseOnConnect: true, // nothing is read until a caller asks
        ...inherited,
      });
    this.#server = server;
    server.on("connection", (socket) => this.#arrived(new NodeTransport(socket)));
    this.listening = descriptor.listen(server, backlog).then(() => {
      acceptInto(server, inherited, (connection) => this.#arrived(connection));
      server.on("error", ignore); // an accept that failed: that client was dropped, and the next can come
    });
    this.listening.catch(ignore); // reported to the callers that await it
  }

  /** How many connections wait. */
  get waiting(): number {
    return this.#queue.length;
  }

  /** The next connection. */
  async next(timeout: number | null): Promise<Connection> {
    const first = this.#queue.shift();
    if (first !== undefined) return first;
    if (this.#ended !== null) throw new SocketError(this.#ended);
    const { promise, resolve, reject } = Promise.withResolvers<Connection>();
    const acceptor: Acceptor = { resolve, reject };
    this.#acceptors.push(acceptor);
    if (timeout === null) return promise;
    const late = (): void => {
      this.#acceptors = this.#acceptors.filter((other) => other !== acceptor);
      reject(
        timeout === 0
          ? new SocketError("EWOULDBLOCK")
          : new SocketError("ETIMEDOUT", `nobody connected for ${wholeMs(timeout)}`),
      );
    };
    return promise.finally(deadline(timeout, late));
  }

  /** Calls `told` when a connection waits, or none ever will. Returns a function that stops it. */
  watch(told: () => void): () => void {
    this.#watchers.push(told);
    return () => {
      this.#watchers = this.#watchers.filter((other) => other !== told);
    };
  }

  /** Stops listening: waiting calls of `next()` reject with `code`, and connections that were not taken are reset. */
  end(code: SocketErrorCode): void {
    this.#ended = code;
    this.#server.close();
    for (const connection of this.#queue.splice(0)) refuse(connection);
    for (const { reject } of this.#acceptors.splice(0)) reject(new SocketError(code));
    queueMicrotask(() => this.#tell()); // when its socket says that it is closed
  }

  #arrived(connection: Connection): void {
    if (this.taker !== null) {
      this.taker(connection);
      return;
    }
    const acceptor = this.#acceptors.shift();
    if (acceptor !== undefined) {
      acceptor.resolve(connection);
    } else if (this.#queue.length >= this.backlog) {
      // Not at once: the client may be in this process, and not yet know that it is connected.
      setImmediate(refuse, connection);
    } else {
      this.#queue.push(connection);
      this.#tell();
    }
  }

  #tell(): void {
    for (const told of this.#watchers) told();
  }
}
