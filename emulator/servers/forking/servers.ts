/**
 * Forking servers: each request is handled in another process, so that a handler that loops for ever, throws outside
 * its promise, runs out of memory or calls `process.exit()` costs its own request and no other.
 *
 *     in the parent   every hook of the server: serverBind, getRequest, verifyRequest, processRequest, finishRequest
 *                     (hands the request to a child and waits for its end), handleError, shutdownRequest,
 *                     closeRequest, serviceActions, handleTimeout; and onEvent
 *     in a child      the handler, which the child imports: setup, handle, finish; in an app its `context()`, too
 *
 * CPython calls finish_request, handle_error and shutdown_request in the child, which has a copy of the server, and the parent
 * never sees what they store there. Here the child imports only the handler, so that the server's hooks, their
 * state and their events are in one process; their order is the same. There is one listening handle, and a free child gets the next connection that
 * arrives on it: the parent accepts, as CPython's does, and hands a child one connection at a time, with
 * `child.send(…, socket)`. Lending the children the handle, so that they accept themselves, is no faster (measured:
 * 1 700 to 2 300 short connections a second with two children either way, 4 300 without children; two cores, the client on
 * the same), would move verifyRequest, the queue and the limits out of the parent, and would lose with a child the requests that it had
 * accepted and not begun. Here requests wait in the parent, and are not lost with a child. Datagrams come the same way:
 * datagrams that a child had read ahead would be lost with it.
 *
 * With `allowReusePort` several forking servers, each with its own handle and children, share one port. The cost: the
 * kernel assigns a client to one of them by its address, whether that server's children are free or not, and resets the clients
 * that wait at a server whose process dies.
 *
 * A child is reused: starting one takes 0.12 s, keeping it 61 MB, 17 of them its own (Node 24, Linux). `listen()`
 * starts the first, and so finds out whether the handler can be imported; another is started when a request has
 * waited 20 ms for a free one, at most one per core at once; a child that was idle for `childIdleTimeout` is
 * ended, except the last. A child has one request at a time: two would be lost together.
 *
 * The parent knows about a child only what it reports: `begun` before the handler is made (it arrives even if the handler then
 * blocks at once: a short message is written to the channel within `process.send()`), `end`, and the answer to a
 * ping, which a child in an endless loop does not send. A request that had not begun goes to another child.
 *
 * For Linux; macOS should work, but is not tested. On Windows it is `ERR_UNSUPPORTED`, as CPython has no forking servers there.
 */

import type net from "node:net";
import { joinBytes, type MaybePromise } from "../../../core/bytes/data.ts";
import { errorText } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { PoolInfo } from "../../../core/handlers/client.ts";
import type { HandlerClass } from "../../../core/handlers/handler.ts";
import type { Address, AddressLike } from "../../../core/net/address.ts";
import { proxyOf } from "../../../core/net/proxy/header.ts";
import {
  FORKING_NAMES,
  type ForkingOptions,
  type OptionNames,
  settleForking,
} from "../../../core/options.ts";
import { isThenable } from "../../../core/promises.ts";
import { madeBy } from "../../../core/serve/mixins.ts";
import type { Passage } from "../../../core/serve/proxy.ts";
import { Datagram } from "../../../core/sockets/datagram.ts";
import { carriedElsewhere } from "../../../core/sockets/streams/carried.ts";
import { StreamSocket } from "../../../core/sockets/streams/stream-socket.ts";
import type { StreamTap } from "../../../core/sockets/streams/tap.ts";
import type { TlsInfo } from "../../../core/sockets/tls/tls.ts";
import { stopReading } from "../../kernel/handles/handles.ts";
import { handshakes, type TracedHandshake, traced } from "../../kernel/tracing.ts";
import type { Connection } from "../../kernel/transports/seam.ts";
import { neededNode } from "../../runtime.ts";
import { TCPServer, type TCPServerOptions } from "../tcp.ts";
import { UDPServer } from "../udp.ts";
import { UnixDatagramServer, UnixStreamServer } from "../unix.ts";
import { passOn } from "./channel/child-tap.ts";
import { sourceOf } from "./channel/handler-source.ts";
import { type ChildTls, fromWire, IN_CHILD, type PoolsAt } from "./channel/messages.ts";
import type { Job } from "./child.ts";
import { Children } from "./children.ts";
import type { Forking, ForkingInfo } from "./forked-server.ts";

/** A connection as a child gets it. */
interface Accepted {
  readonly socket: net.Socket;
  /** Bytes that this process has read of it, behind a proxy's header. */
  readonly read: Uint8Array | null;
  /** Its tap. */
  tap: StreamTap | null;
}

/** Stops reading a connection, and returns everything that was read of it: what came after the header, and what Node has read ahead. */
const bytesRead = (socket: net.Socket, rest: Uint8Array): Uint8Array | null => {
  stopReading(socket);
  const ahead: Uint8Array | null = socket.read();
  if (ahead === null) return rest.length === 0 ? null : rest;
  return joinBytes([rest, ahead], rest.length + ahead.length);
};

const TIMEOUT = 300_000; // ms; CPython's ForkingMixIn.timeout

// biome-ignore lint/suspicious/noExplicitAny: a mixin's base must take any arguments (TypeScript handbook, Mixins)
type NetServerClass = abstract new (...args: any[]) => TCPServer<any, any>;
// biome-ignore lint/suspicious/noExplicitAny: as above
type ForkingClass = abstract new (...args: any[]) => Forking;

/**
 * Serves each request in a child process: see the top of this file for what runs where, and `ForkingOptions`.
 * CPython's `ForkingMixIn`, whose children serve one request each.
 *
 *     class ForkingTCPServer extends ForkingMixIn(TCPServer) {}
 *
 * The handler must be one that children can import, `handlerFrom(import.meta.url, "Echo")`; a class is a `TypeError`.
 * `listen()` rejects with `ERR_HANDLER` if it cannot be imported. The options of `ForkingOptions` are read from
 * the third argument of the constructor.
 *
 * `RequestHandlerClass` may be replaced while it serves: later requests get children with the new
 * one, even if it is the same export of a module that has changed; children with the old one end when their
 * request is over. If the new one cannot be imported, that is reported as `lost`, with a growing delay, and requests
 * wait.
 *
 * In a child `this.server` is not this server: it has its name and context, `info()` describes only that child,
 * `shutdown()` shuts this server down. A handler that handed its connection over (`toWeb()`) must wait for its
 * end, since the child takes the next request when it returns.
 */
export function ForkingMixIn<Base extends NetServerClass>(Server: Base): ForkingClass & Base {
  abstract class ForkingServer extends Server implements Forking {
    static readonly optionNames: OptionNames = {
      ...(Server as unknown as typeof TCPServer).optionNames,
      ...FORKING_NAMES,
    };

    maxChildren: number;
    blockTimeout: number | null;
    childIdleTimeout: number | null;
    requestsPerChild: number | null;
    restartDelay: number;
    maxRestartDelay: number;
    execArgv: readonly string[];
    readonly #children: Children;
    readonly #accepted = new WeakMap<object, Accepted>();
    readonly #jobs = new WeakMap<object, Job>();
    #accepting: Accepted | null = null;
    #poolsAt: PoolsAt | null = {};

    // biome-ignore lint/suspicious/noExplicitAny: as above
    constructor(...args: any[]) {
      super(...args);
      const [, Handler, given] = args as [AddressLike, object, (ForkingOptions & TCPServerOptions<unknown>)?];
      const source = sourceOf(Handler, this.constructor.name);
      if (process.platform === "win32") {
        const said = "Windows has no forking servers; use ThreadingTCPServer or ThreadingUDPServer";
        throw new SocketError("ERR_UNSUPPORTED", said);
      }
      neededNode(this.constructor.name, "it gives its children the connections; use a Threading server");
      const options = given ?? {};
      for (const Spoken of this.protocols.values()) sourceOf(Spoken, this.constructor.name);
      if (options.timeout === undefined) this.timeout = TIMEOUT;
      if (options.requestTimeout === undefined) this.requestTimeout = TIMEOUT;
      const settled = settleForking(options);
      this.maxChildren = settled.maxChildren;
      this.blockTimeout = settled.blockTimeout;
      this.childIdleTimeout = settled.childIdleTimeout;
      this.requestsPerChild = settled.requestsPerChild;
      this.restartDelay = settled.restartDelay;
      this.maxRestartDelay = settled.maxRestartDelay;
      this.execArgv = settled.execArgv;
      const { context } = this;
      try {
        structuredClone(context);
      } catch (cause) {
        const said = "the context of a forking server goes to its children as a structured clone: plain data";
        throw new TypeError(
          `${said}; make the rest at the top of the handler's module (${errorText(cause)})`,
          {
            cause,
          },
        );
      }
      this.#children = new Children(this, source, options.stream, (event) => this.announce(event));
      let handler = this.RequestHandlerClass;
      Object.defineProperty(this, "RequestHandlerClass", {
        get: () => handler,
        set: (next: typeof handler) => {
          this.#children.replace(sourceOf(next, this.constructor.name));
          handler = next;
        },
      });
    }

    /** Its children are replaced, as when `RequestHandlerClass` is. Throws `TypeError` for a class. */
    override replaceProtocols(handlers: readonly (readonly [string, HandlerClass<StreamSocket>])[]): void {
      for (const [, Handler] of handlers) sourceOf(Handler, this.constructor.name);
      const none = handlers.length === 0 && this.protocols.size === 0;
      super.replaceProtocols(handlers);
      if (!none) this.#children.replace(sourceOf(this.RequestHandlerClass, this.constructor.name));
    }

    protected override get handshakesHere(): boolean {
      return false; // they are the children's
    }

    get childTls(): ChildTls | null {
      const { security } = this;
      if (security === null) return null;
      const protocols = [...this.protocols].map(([protocol, Handler]) => {
        return [protocol, sourceOf(Handler, this.constructor.name)] as const;
      });
      return {
        tls: security.read,
        on: this.secureTransport === "on",
        protocols: Object.fromEntries(protocols),
      };
    }

    protected override certificateReplaced(): void {
      if (this.security !== null) this.#children.certificate(this.security.read);
      super.certificateReplaced();
    }

    protected override get capacity(): number {
      return Math.min(this.maxChildren, this.maxRequests);
    }

    get childPools(): readonly PoolInfo[] {
      return this.#children.pools();
    }

    get poolsAt(): PoolsAt | null {
      return this.#poolsAt;
    }

    set poolsAt(at: PoolsAt | null) {
      this.#poolsAt = at;
      if (at !== null) this.#children.poolsAt(at);
    }

    override info(): ForkingInfo {
      return { ...super.info(), ...this.#children.counts() };
    }

    override async serverBind(): Promise<void> {
      if (IN_CHILD in globalThis) {
        const said =
          'this module starts a forking server when it is imported, and a child of one has just imported it; put that under "if (import.meta.main)", or the handler into a module of its own';
        throw new SocketError("ERR_UNSUPPORTED", said);
      }
      await super.serverBind();
    }

    /** Starts the first child; no client can connect before it can serve. */
    override async serverActivate(): Promise<void> {
      await this.#children.open();
      await super.serverActivate();
    }

    protected override accepted(connection: Connection): void {
      super.accepted(connection.toNode()); // what Node can send to a child
    }

    protected override opened(connection: Connection, passage: Passage | null): void {
      const { socket } = connection.toNode();
      const read = passage === null ? null : bytesRead(socket, passage.rest);
      this.#accepting = { socket, read, tap: null };
      super.opened(connection, passage && { ...passage, rest: new Uint8Array(0) });
      this.#accepting = null;
    }

    protected override arrive(request: object, clientAddress: Address | null, admitted?: boolean): void {
      if (this.#accepting !== null && request instanceof StreamSocket) {
        const accepted = this.#accepting;
        this.#accepted.set(request, accepted);
        carriedElsewhere(request, (tap) => {
          accepted.tap = tap;
          this.#children.tap(request, request.bytesRead + request.bytesWritten);
        });
      }
      super.arrive(request, clientAddress, admitted);
    }

    override processRequest(request: unknown, clientAddress: Address | null): MaybePromise<void> {
      const serving = this.serveRequest(request, clientAddress);
      if (isThenable(serving) && this.running >= this.capacity) return this.oneEnded();
    }

    /** Lets a child make the handler and run it; resolves to a clone of what `handle` returned, of at most 4 MiB. Rejects with what it threw, or with the reason that the child was lost. */
    override finishRequest(request: object, address: Address | null): Promise<unknown> {
      const scope = this.scope(request);
      const { promise, resolve, reject } = Promise.withResolvers<unknown>();
      const datagram = request instanceof Datagram ? request : null;
      const local = request instanceof StreamSocket ? request.getsockname() : null;
      const shaken = this.#traceHandshake(request, address);
      const accepted = this.#accepted.get(request);
      const job: Job = {
        id: scope.id,
        address,
        local: local?.family === "unix" ? local : null,
        request,
        proxy: proxyOf(request),
        socket: accepted?.socket ?? null,
        read: accepted?.read ?? null,
        datagram: datagram && { data: datagram.data, truncated: datagram.truncated },
        counts: { bytesRead: 0, bytesWritten: 0 },
        kept: false,
        cut: false,
        cancelled: undefined,
        get tapped() {
          return (accepted?.tap ?? null) !== null;
        },
        passed: (passed) => {
          if (accepted?.tap) passOn(accepted.tap, passed);
        },
        emit: (detail) => scope.emit(detail),
        handshake: ({ duration, tls, error: wire }) => {
          const error = tls === null ? SocketError.from(wire && fromWire(wire), "ERR_TLS") : null;
          if (tls !== null) shaken?.resolve({ ...tls, certificate: null });
          else shaken?.reject(error);
          const { version = null, resumed } = tls ?? {};
          this.tellHandshake({ address, duration, version, resumed: resumed === true, error });
        },
        reply: (data) => {
          try {
            datagram?.reply(data);
          } catch (error) {
            this.announce({ type: "error", server: this.name, id: scope.id, address, error });
          }
        },
        dropped: (sizes) => {
          if (!this.watches("dropped")) return;
          for (const bytes of sizes)
            this.announce({ type: "dropped", server: this.name, address, bytes, reason: "full" });
        },
        resolve,
        reject: (error) => {
          shaken?.reject(error); // where the child was lost in the handshake
          reject(error);
        },
      };
      this.#jobs.set(request, job);
      if (request instanceof StreamSocket) {
        // Only the child knows how many bytes passed: this process's own object carried none.
        Object.defineProperties(request, {
          bytesRead: { get: () => job.counts.bytesRead, configurable: true },
          bytesWritten: { get: () => job.counts.bytesWritten, configurable: true },
        });
      }
      this.#children.run(job);
      return promise;
    }

    /** Traces the handshake that a child does, if there are subscribers: from the order to the child until its report. */
    #traceHandshake(request: object, address: Address | null): PromiseWithResolvers<TlsInfo> | null {
      const secures = request instanceof StreamSocket && this.secureTransport === "on";
      if (!secures || !handshakes.hasSubscribers) return null;
      const shaken = Promise.withResolvers<TlsInfo>();
      const context: TracedHandshake = { role: "server", address };
      traced(handshakes, context, () => shaken.promise).catch(() => {}); // the event reports it, too
      return shaken;
    }

    /**
     * The child has sent what was written, then the end. Here the connection lingers a while, too, so that its last
     * bytes arrive even if the child is lost in its next request.
     */
    override closeRequest(request: object): MaybePromise<void> {
      const job = this.#jobs.get(request);
      if (job?.cut === true) return this.abortRequest(request); // the child's reset is sent when no process has the descriptor any more
      if (job?.kept !== true) {
        this.#accepted.get(request)?.tap?.ended("close");
        return super.closeRequest(request);
      }
      this.#accepted.get(request)?.socket.destroy(); // only this process's descriptor
      super.abortRequest(request);
    }

    /** Resets the connection. Its tap records that, unless the child has already reported another end. */
    override abortRequest(request: object, reason?: unknown): void {
      this.#accepted.get(request)?.tap?.ended("reset");
      super.abortRequest(request, reason);
    }

    override cancelRequest(request: object, reason: unknown): void {
      super.cancelRequest(request, reason);
      this.#children.cancel(request, reason);
    }

    /** Ends idle children, and the others when their request is over. */
    override close(): void {
      super.close();
      void this.#children.close(true);
    }

    /** Ends the children; with `blockOnClose` false each when its request is over. */
    protected override letGo(): MaybePromise<void> {
      const leave = !this.blockOnClose || this.daemonThreads;
      const over = this.#children.close(leave).then(() => super.letGo());
      if (!leave) return over;
    }
  }
  return madeBy(ForkingMixIn, ForkingServer) as never;
}

type Server<Handler, Options, Made> = abstract new (
  serverAddress: AddressLike,
  RequestHandlerClass: Handler,
  options?: Options,
) => Made;

/** `ForkingMixIn(Base)`, whose constructor takes the options of both: TypeScript infers them, and `Context`, of `Base`. */
const forking = <Handler, Options, Made>(
  Base: Server<Handler, Options, Made>,
): Server<Handler, Options & ForkingOptions, Forking & Made> => ForkingMixIn(Base as never);

/** Serves TCP connections in child processes. CPython's `ForkingTCPServer`; see `ForkingMixIn`. */
export class ForkingTCPServer<Context = unknown> extends forking(TCPServer)<Context> {
  declare static readonly optionNames: OptionNames;
}

/** Serves datagrams in child processes. CPython's `ForkingUDPServer`; see `ForkingMixIn`. */
export class ForkingUDPServer<Context = unknown> extends forking(UDPServer)<Context> {
  declare static readonly optionNames: OptionNames;
}

/** Serves connections to a path in child processes. CPython's `ForkingUnixStreamServer`; see `ForkingMixIn`. */
export class ForkingUnixStreamServer<Context = unknown> extends forking(UnixStreamServer)<Context> {
  declare static readonly optionNames: OptionNames;
}

/** Serves the datagrams sent to a path in child processes. CPython's `ForkingUnixDatagramServer`; see `ForkingMixIn`. */
export class ForkingUnixDatagramServer<Context = unknown> extends forking(UnixDatagramServer)<Context> {
  declare static readonly optionNames: OptionNames;
}
