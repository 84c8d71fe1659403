/** The listeners of a served app: opens them, replaces them by those of another version, and closes them. */

import type { AnyHandlerClass, Listener } from "../../core/app/app.ts";
import type { PoolInfo } from "../../core/handlers/client.ts";
import type { OnEvent } from "../../core/handlers/events.ts";
import { type Endpoint, formatAddress, type InternetAddress } from "../../core/net/address.ts";
import { MAX_TIMER } from "../../core/options.ts";
import type { ServerOptions } from "../../core/serve/server.ts";
import { alpnHandlers } from "../../core/sockets/tls/tls.ts";
import { appHandlerFrom } from "../servers/forking/channel/handler-source.ts";
import type { PoolsAt } from "../servers/forking/channel/messages.ts";
import type { Forking } from "../servers/forking/forked-server.ts";
import { SocketFile } from "../servers/socket-file.ts";
import { listenerUrl, TCPServer } from "../servers/tcp.ts";
import { DATA, type Replaced, type ServeOptions, type Serving } from "./app-server.ts";
import type { AppEdge } from "./edge.ts";
import { type AnyServer, type Recorded, serverOf, tlsOf } from "./listener-server.ts";
import type { ListenDescriptor } from "./listeners/descriptors.ts";
import { filled } from "./listeners/listing.ts";
import { dialledAt, moved, type Placed, together } from "./listeners/places.ts";
import { byKey, sameness, type Version, withContext } from "./versions.ts";

const MOST_TRIES = 10; // ports that are tried for listeners that share a declared port, before each gets its own

/** The result of `work`; rejects with the reason of `signal` if that aborts first. */
export const unlessAborted = <T>(work: T | PromiseLike<T>, signal: AbortSignal | undefined): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>();
  const aborted = (): void => reject(signal?.reason);
  if (signal?.aborted) aborted();
  signal?.addEventListener("abort", aborted);
  return Promise.race([promise, work]).finally(() => signal?.removeEventListener("abort", aborted));
};

/** What the server of each listener gets, beside the listener's own options. */
interface Making<Context> {
  readonly options: ServeOptions;
  readonly given: ReadonlyMap<Listener<Context>, ListenDescriptor>;
  readonly edge: AppEdge | null;
  readonly recorded: Recorded;
  /** The server class of this listener, with its rules of faults. */
  ruled<Server>(Server: Server, name: string): Server;
  /** Hears the events of this listener. */
  onEvent(name: string): OnEvent | undefined;
}

/** Another version of the app, whose listeners are open and not yet served. */
interface Prepared<Context> {
  readonly next: Version<Context>;
  /** By the listeners of the new version. */
  readonly servers: ReadonlyMap<Listener<Context>, AnyServer<Context>>;
  /** Those that were opened for it. */
  readonly fresh: readonly AnyServer<Context>[];
  /** Those of the former version that it does without. */
  readonly gone: readonly AnyServer<Context>[];
  readonly replaced: Replaced;
}

/** The listeners of one served app. */
export class OpenListeners<Context> {
  /** Those that are open, in the app's order. */
  readonly list: Serving[] = [];
  readonly #servers: AnyServer<Context>[] = []; // opened, or about to be, and those that drain
  readonly #open = new Map<Listener<Context>, AnyServer<Context>>();
  readonly #placed: Placed[] = [];
  readonly #making: Making<Context>;
  #version: Version<Context>;
  #poolsAt: PoolsAt | null = null; // for forked children
  #owned: SocketFile[] = []; // the files of paths that were handed to this process

  constructor(version: Version<Context>, making: Making<Context>) {
    this.#version = version;
    this.#making = making;
  }

  /** The version that is served. */
  get version(): Version<Context> {
    return this.#version;
  }

  /** How many have TLS. */
  get secured(): number {
    return this.#tcp().filter(({ secureTransport }) => secureTransport !== "off").length;
  }

  /** Opens all, unserved: `serve()` serves them. If one fails, those before it stay open. */
  async open(): Promise<void> {
    try {
      const { app } = this.#version;
      for (const group of together(app.listeners, this.#making.options)) await this.#openTogether(group);
    } finally {
      this.#settle();
    }
  }

  /** Serves these, or all that are open. */
  serve(servers: Iterable<AnyServer<Context>> = this.#open.values()): void {
    for (const server of servers) void server.serveForever();
  }

  /**
   * Opens the listeners of another version that the present one does not have with the same options, and closes those in
   * their way. If one cannot be opened, the present version's are as they were.
   */
  async prepare(next: Version<Context>): Promise<Prepared<Context>> {
    const before = byKey(this.#open.keys(), sameness);
    const servers = new Map<Listener<Context>, AnyServer<Context>>();
    const added: Listener<Context>[] = [];
    for (const [key, listener] of byKey(next.app.listeners, sameness)) {
      const former = before.get(key);
      const server = former && this.#open.get(former);
      if (server === undefined) added.push(listener);
      else servers.set(listener, server);
    }
    const kept = new Set(servers.values());
    const gone = [...this.#open].filter(([, server]) => !kept.has(server));
    const inWay = byKey(
      gone.map(([listener]) => listener),
      addressOf,
    );
    const opened: string[] = [];
    const reopened: string[] = [];
    const fresh: AnyServer<Context>[] = [];
    const stopped = new Map<Listener<Context>, number>(); // of the present version, and their ports
    try {
      for (const [key, listener] of byKey(added, addressOf)) {
        const former = inWay.get(key);
        const at = former && this.#open.get(former)?.serverAddress;
        const port = at != null && "port" in at ? at.port : 0;
        if (former !== undefined) {
          stopped.set(former, port);
          this.#open.get(former)?.close(); // its connections go on
        }
        const server = await this.#openOne(listener, port, next);
        fresh.push(server);
        servers.set(listener, server);
        (former === undefined ? opened : reopened).push(this.#urlOf(listener));
      }
    } catch (error) {
      for (const listener of added) this.#open.delete(listener);
      await Promise.all(fresh.map((server) => server.serverClose()));
      for (const [listener, port] of stopped) {
        this.#open.delete(listener);
        this.serve([await this.#openOne(listener, port)]);
      }
      this.#settle();
      throw error;
    }
    const closed = gone
      .filter(([listener]) => !stopped.has(listener))
      .map(([listener]) => this.#urlOf(listener));
    return {
      next,
      servers,
      fresh,
      gone: gone.map(([, server]) => server),
      replaced: { opened, closed, reopened },
    };
  }

  /** Goes over to the version that was prepared, all but serving what is fresh. Nothing in it fails or waits: the next connection gets the new version as a whole. */
  become({ next, servers, fresh, gone }: Prepared<Context>): void {
    for (const server of gone) {
      server.close();
      void server.drain(MAX_TIMER).then(() => {
        this.#servers.splice(this.#servers.indexOf(server), 1);
        return server.serverClose();
      });
    }
    this.#version = next;
    this.#open.clear();
    for (const listener of next.app.listeners)
      this.#open.set(listener, servers.get(listener) as AnyServer<Context>);
    this.#settle(); // tells the children that run before those of the new version are started
    for (const [listener, server] of this.#open) {
      if (!fresh.includes(server)) this.#replaceHandlers(listener, server);
    }
  }

  /** Where an endpoint that the app dials leads now. */
  dialled(declared: Endpoint): Endpoint {
    return moved(declared, this.#placed, this.#making.options.host);
  }

  /** Where this process dials the listener of this name, and the certificate that it has there. */
  named(
    name: string,
  ): { readonly endpoint: Endpoint; readonly certificate: TCPServer["certificate"] } | undefined {
    const at = [...this.#open].find(([listener]) => listener.name === name);
    if (at === undefined) return undefined;
    const [listener, server] = at;
    return {
      endpoint: dialledAt(listener.endpoint, server.serverAddress),
      certificate: server instanceof TCPServer ? server.certificate : null,
    };
  }

  /** What the pools of forked children say of themselves. */
  childPools(): readonly PoolInfo[] {
    return this.#servers.flatMap((server) => (server as unknown as Partial<Forking>).childPools ?? []);
  }

  /** The descriptors that they listen on. */
  descriptors(): ListenDescriptor[] {
    const { given } = this.#making;
    return [...this.#open].map(([listener, server]) => {
      const removePath = given.get(listener)?.removePath ?? !given.has(listener);
      return { name: listener.name, fd: (server as TCPServer).fileno(), removePath };
    });
  }

  /** Reads the files of all certificates again; returns how many listeners have TLS. */
  reload(): number {
    return this.#tcp().filter((server) => server.reloadCertificate()).length;
  }

  /** Removes the files of the paths that were handed to this process. */
  removeFiles(): void {
    for (const file of this.#owned.splice(0)) file.remove();
  }

  /** Leaves the files of the paths to the process that follows. */
  leaveFiles(): void {
    this.#owned = [];
  }

  /** Ends every server by this. */
  async end(how: (server: AnyServer<Context>) => Promise<void>): Promise<void> {
    await Promise.all(this.#servers.map(how));
  }

  /** Ends running requests at once. */
  abort(): void {
    for (const server of this.#servers) server.abort();
  }

  #tcp(): TCPServer[] {
    return [...this.#open.values()].filter(
      (server): server is TCPServer & AnyServer<Context> => server instanceof TCPServer,
    );
  }

  /** Opens one listener of a version, with `anyPort` at this port. Returns its server. */
  async #openOne(listener: Listener<Context>, port: number, of = this.#version): Promise<AnyServer<Context>> {
    const { options, given, edge, recorded, ruled, onEvent } = this.#making;
    const { scheme } = listener.endpoint;
    const descriptor = given.get(listener);
    const endpoint =
      scheme === "unix" || descriptor !== undefined
        ? listener.endpoint
        : {
            ...listener.endpoint,
            ...(options.host !== undefined && { hostname: options.host }),
            ...(options.anyPort && { port }),
          };
    const server = serverOf<Context>(
      { ...listener, endpoint },
      {
        ...listener.options,
        ...tlsOf(listener, options, (name) => this.#handler(listener, of, name)),
        ...(descriptor && { fd: descriptor.fd }),
        name: listener.name,
        context: of.context,
        onEvent: onEvent(listener.name),
        drainTimeout: options.drainTimeout,
      } as ServerOptions<Context>,
      recorded,
      { ...options, ...(of.module !== undefined && { module: of.module }) },
      (Server) => ruled(Server, listener.name),
      edge,
    );
    // Children of a new version get the addresses when all of its listeners are open.
    if (listener.serve === "forking")
      (server as unknown as Forking).poolsAt = of === this.#version ? this.#poolsAt : null;
    this.#servers.push(server);
    const at = await unlessAborted(server.listen(), options.signal);
    if (descriptor?.removePath && at?.family === "unix") this.#owned.push(new SocketFile(at.path).own());
    this.#open.set(listener, server);
    return server;
  }

  /** Opens the listeners that share a port in the app: with `anyPort`, all at the same one. */
  async #openTogether(group: readonly Listener<Context>[]): Promise<void> {
    for (let tries = 1; ; tries++) {
      let port = 0;
      try {
        for (const listener of group) {
          const { serverAddress } = await this.#openOne(listener, tries > MOST_TRIES ? 0 : port);
          port = (serverAddress as InternetAddress).port;
        }
        return;
      } catch (error) {
        // The system chose a port that is free for the first of them; for another it is not.
        const again = this.#making.options.anyPort && port !== 0;
        if (!again || (error as { readonly code?: string }).code !== "EADDRINUSE") throw error;
        const opened = group.flatMap((listener) => this.#open.get(listener) ?? []);
        for (const listener of group) this.#open.delete(listener);
        await Promise.all(opened.map((server) => server.serverClose()));
      }
    }
  }

  /** Lists those that are open, and tells the children of forking servers where the pools of the app dial. */
  #settle(): void {
    const { listeners, pools } = this.#version.app;
    this.list.length = this.#placed.length = 0;
    for (const listener of listeners) {
      const server = this.#open.get(listener);
      if (server === undefined) continue;
      this.#placed.push({ declared: listener.endpoint, at: server.serverAddress });
      this.list.push(serving(listener, server));
    }
    const declared = Object.values(pools).map(({ endpoint }) => endpoint);
    this.#poolsAt = Object.fromEntries(declared.map((to) => [formatAddress(to), this.dialled(to)]));
    for (const [{ serve }, server] of this.#open)
      if (serve === "forking") (server as unknown as Forking).poolsAt = this.#poolsAt;
  }

  /** Has a server that was open before serve the handlers of the version that is served. */
  #replaceHandlers(listener: Listener<Context>, server: AnyServer<Context>): void {
    const given = (name: string): never => {
      const Handler = this.#handler(listener, this.#version, name) as AnyHandlerClass<never>;
      return (listener.serve === "forking" ? Handler : withContext(Handler, this.#version.context)) as never;
    };
    if (server instanceof TCPServer)
      server.replaceProtocols(
        alpnHandlers(listener.options.tls).map(([protocol, name]) => [protocol, given(name)]),
      );
    server.RequestHandlerClass = given(listener.name); // last: it replaces a forking server's children, which take both
  }

  /** The handler of this name as a listener of this kind serves it. */
  #handler({ serve }: Listener<Context>, { app, module }: Version<Context>, name: string): unknown {
    if (serve !== "forking" || module === undefined) return app.handlers[name];
    const { options, edge } = this.#making;
    const guarded = options.guardConnections || edge?.holds("other-request");
    return appHandlerFrom(module, name, options.data ?? DATA, guarded);
  }

  #urlOf(listener: Listener<Context>): string {
    const address = this.#open.get(listener)?.serverAddress ?? null;
    return address === null
      ? formatAddress(listener.endpoint)
      : listenerUrl(listener.endpoint.scheme, address);
  }
}

/** What two listeners of different versions cannot have at the same time. */
const addressOf = ({ endpoint }: Listener<never>): string =>
  formatAddress(endpoint.scheme === "tls" ? { ...endpoint, scheme: "tcp" } : endpoint);

/** An open listener as it is shown. */
const serving = <Context>(listener: Listener<Context>, server: AnyServer<Context>): Serving => {
  const { name, serve, endpoint } = listener;
  const secured = endpoint.scheme === "tcp" && server instanceof TCPServer && server.secureTransport === "on";
  const at = server.serverAddress as InternetAddress | { readonly path: string };
  return {
    name,
    serve,
    url: listenerUrl(secured ? "tls" : endpoint.scheme, server.serverAddress),
    try: filled(listener.try, "path" in at ? { path: at.path } : { host: at.hostname, port: at.port }),
    info: () => server.info(),
  };
};
