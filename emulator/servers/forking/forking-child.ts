/**
 * The program that a child of a forking server runs: imports the handler, and runs it on the requests that its parent
 * sends, one at a time. `children.ts` is the other end, and `messages.ts` the messages between the two.
 */

import type net from "node:net";
import { type App, checkPoolOf, isApp, type Platform } from "../../../core/app/app.ts";
import { DONE, toBytes } from "../../../core/bytes/data.ts";
import { jsonOf, plain, sizeOf } from "../../../core/describe.ts";
import { SocketError } from "../../../core/errors.ts";
import type { EndpointInfo } from "../../../core/handlers/events.ts";
import type { HandlerClass, HandlerServer, RequestScope } from "../../../core/handlers/handler.ts";
import { type Address, formatAddress } from "../../../core/net/address.ts";
import { cameThrough } from "../../../core/net/proxy/header.ts";
import type { AppPools } from "../../../core/pool/app-pools.ts";
import { disown } from "../../../core/promises.ts";
import { checkDatagramSize, Datagram, knownSender, Unsent } from "../../../core/sockets/datagram.ts";
import type { StreamOptions } from "../../../core/sockets/streams/stream-options.ts";
import { type StreamSocket, tapStream } from "../../../core/sockets/streams/stream-socket.ts";
import { lazy } from "../../builtin.ts";
import { ServerSecurity } from "../../kernel/tls/tls.ts";
import { streamSocket } from "../../kernel/transports/net-transport.ts";
import { asRequest, guardConnections } from "../../sockets/dialling/ownership.ts";
import { FileStorage } from "../../storage.ts";
import { Backlog } from "./channel/backlog.ts";
import { ChildTap } from "./channel/child-tap.ts";
import type { HandlerSource } from "./channel/handler-source.ts";
import { fromWire, IN_CHILD, type Order, type PoolsAt, type Report, toWire } from "./channel/messages.ts";

type Run = Extract<Order, { readonly type: "run" }>;
type Init = Extract<Order, { readonly type: "init" }>;
type AnyHandler = HandlerClass<StreamSocket | Datagram>;

const NO_BYTES = { bytesRead: 0, bytesWritten: 0 };

/**
 * Sends a report to the parent, at once as long as the channel has room. Throws if a part of it cannot be cloned. `sent` is called
 * later, when it has left. Returns whether the channel has room for more.
 */
const tell = (report: Report, sent: () => void = () => {}): boolean => {
  if (!process.connected) return true; // the parent is gone
  return process.send?.({ socklet: report }, undefined, undefined, sent) !== false;
};

/** The replies of one request's datagram handler. They go through the parent, which has the socket. */
class Replies {
  static readonly #unsent = new Unsent(); // shared: there is one channel
  readonly #id: number;
  #dropped: number[] = []; // the sizes of those that were not sent, until they are reported

  constructor(id: number) {
    this.#id = id;
  }

  send(data: Uint8Array): void {
    const size = data.length;
    if (!Replies.#unsent.fits(size)) {
      this.#dropped.push(size);
      return;
    }
    let waits = false;
    const sent = (): void => {
      if (waits) Replies.#unsent.remove(size);
    };
    waits = !tell({ type: "reply", id: this.#id, data }, sent);
    if (waits) Replies.#unsent.add(size);
  }

  /** Reports the replies that were dropped. */
  over(): void {
    if (this.#dropped.length > 0) tell({ type: "dropped", id: this.#id, sizes: this.#dropped });
    this.#dropped = [];
  }
}

const MOST_TOLD = 4 * 1024 * 1024; // bytes of a message: the channel takes seconds for 100 MB, and later messages wait

/** A value as the channel takes it. */
interface Sendable {
  readonly value: unknown;
  /** Bytes of its message. */
  readonly size: number;
}

const asJson = (value: unknown): Sendable => {
  const json = plain(value, MOST_TOLD);
  return { value: json, size: sizeOf(JSON.stringify(json)) };
};

/** `value` itself; if it cannot be cloned, such as a function, then what JSON can express of it; if it is too large, `{ omitted: <its size> }`. */
const sendable = (value: unknown): Sendable => {
  try {
    if (jsonOf(value, MOST_TOLD).json === undefined) return asJson(value); // found out without copying everything
  } catch {} // it has a cycle, say, which has a clone
  try {
    const { length } = lazy.v8.serialize(value);
    return length > MOST_TOLD ? asJson({ omitted: length }) : { value, size: length };
  } catch {
    return asJson(value);
  }
};

/** Sends the parent what a handler emitted or returned, as `report` wraps it. Like `tell`, but never throws. */
const tellOf = (
  value: unknown,
  sent: Sendable,
  report: (value: unknown) => Report,
  left?: () => void,
): boolean => {
  try {
    return tell(report(sent.value), left);
  } catch {
    return tell(report(plain(value, MOST_TOLD)), left); // it has another value each time that it is read
  }
};

/** The events that one request's handler emits. Those that the channel has no room for are reported as one: `{ omitted: <their bytes>, events: <how many> }`. */
class Events {
  static readonly #backlog = new Backlog(); // all of them wait for the one channel
  readonly #id: number;
  #omitted = 0; // bytes of events that were not sent, until that is reported
  #events = 0;

  constructor(id: number) {
    this.#id = id;
  }

  emit(detail: unknown): void {
    const sent = sendable(detail);
    if (!Events.#backlog.fits(sent.size)) {
      this.#omitted += sent.size;
      this.#events++;
      return;
    }
    this.over();
    const report = (detail: unknown): Report => ({ type: "emit", id: this.#id, detail });
    Events.#backlog.send(
      sent.size,
      (left) => tellOf(detail, sent, report, left),
      () => this.over(),
    );
  }

  /** Reports the events that were not sent. */
  over(): void {
    const [omitted, events] = [this.#omitted, this.#events];
    this.#omitted = this.#events = 0;
    if (events > 0) tell({ type: "emit", id: this.#id, detail: { omitted, events } });
  }
}

/** A running request, as its handler can ask about it. */
class Running implements RequestScope {
  readonly id: number;
  readonly params = undefined;
  readonly request: StreamSocket | Datagram;
  readonly stream: StreamSocket | null;
  readonly replies: Replies;
  readonly events: Events;
  readonly #controller = new AbortController();
  #open = false; // whether its connection is ready: after the TLS handshake, if there is one
  #known: number | null; // bytes that the parent knows of, while it wants reports of more; `null`: it wants none

  constructor(
    { id, address, local, read, proxy, datagram, tapped }: Run,
    socket: net.Socket | undefined,
    options: Partial<StreamOptions>,
    security: ServerSecurity | undefined,
  ) {
    this.id = id;
    this.#known = tapped ? 0 : null;
    this.replies = new Replies(id);
    this.events = new Events(id);
    if (socket !== undefined) {
      socket.allowHalfOpen = true; // the peer's half-close does not end ours
      socket.pause(); // no data is lost before there is a listener
      if (read !== null) socket.unshift(read);
      const remote = address?.family === "unix" ? address : undefined;
      this.stream = streamSocket(socket, options, { local: local ?? undefined, remote, security });
      this.request = this.stream;
      if (proxy !== null) cameThrough(this.request, proxy);
      return;
    }
    const way = {
      post: (data: Uint8Array | string, to: Address | null): void => {
        const bytes = toBytes(data);
        const peer = proxy === null ? knownSender(to) : to; // a proxy accepts replies even for a client that it does not name
        if (peer?.family !== "unix") checkDatagramSize(bytes.length, peer);
        this.replies.send(bytes);
      },
    };
    const { data, truncated } = datagram ?? { data: new Uint8Array(0), truncated: false };
    this.stream = null;
    this.request = new Datagram(data, address, way, truncated);
    if (proxy !== null) cameThrough(this.request, proxy);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get counts(): { bytesRead: number; bytesWritten: number } {
    const { bytesRead, bytesWritten } = this.stream ?? NO_BYTES;
    return { bytesRead, bytesWritten };
  }

  /** Starts or stops reporting to the parent what passes over the connection; it knows of `known` bytes. */
  tap(on: boolean, known: number): void {
    this.#known = on ? known : null;
    if (this.#open) this.#tap();
  }

  /** The connection is secured, or will not be: what passes from now on is what the handler sees. */
  opened(): void {
    this.#open = true;
    if (this.#known !== null) this.#tap();
  }

  #tap(): void {
    const { id, stream } = this;
    if (stream === null) return;
    const known = this.#known;
    const tap = new ChildTap((passed, sent) => tell({ type: "passed", id, passed }, sent));
    tapStream(stream, known === null ? null : tap);
    if (known === null) return;
    const { bytesRead, bytesWritten } = this.counts;
    tap.missed(bytesRead + bytesWritten - known);
  }

  emit(detail: unknown): void {
    disown(detail, (error) => this.emit(error));
    this.events.emit(detail);
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
    this.stream?.abort(reason);
  }
}

/** The server as a handler in a child sees it. */
class ChildServer implements HandlerServer {
  readonly name: string;
  readonly context: unknown;
  readonly #Handler: AnyHandler;
  readonly #stream: Partial<StreamOptions>;
  readonly #on: boolean;
  readonly #protocols: ReadonlyMap<string, AnyHandler>;
  readonly #security: ServerSecurity | undefined;
  readonly #tellPools: () => void;
  readonly #openPools: (at: PoolsAt) => void;
  #running: Running | null = null;
  #served = 0;
  #failed = 0;
  #bytesRead = 0;
  #bytesWritten = 0;

  constructor(
    { server, stream, security }: Init,
    { context, Handler, protocols, tellPools, openPools }: Loaded,
  ) {
    this.#openPools = openPools;
    this.#tellPools = tellPools;
    this.name = server;
    this.context = context;
    this.#Handler = Handler;
    this.#protocols = protocols;
    this.#stream = stream ?? {};
    this.#on = security?.on === true;
    this.#security = security === null ? undefined : new ServerSecurity(security.tls);
  }

  scope(request: unknown): RequestScope {
    const running = this.#running;
    if (running !== null && running.request === request) return running;
    throw new SocketError("EINVAL", "this request is not running in this process");
  }

  /** Covers only this child. */
  info(): EndpointInfo {
    return {
      name: this.name,
      running: this.#running === null ? 0 : 1,
      served: this.#served,
      failed: this.#failed,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
    };
  }

  /** Shuts the parent's server down. */
  shutdown(): Promise<void> {
    tell({ type: "shutdown" });
    return DONE;
  }

  /** Handles the parent's orders while a request runs. */
  order(order: Order): void {
    if (order.type === "ping") {
      tell({ type: "pong", id: this.#running?.id ?? null, ...(this.#running?.counts ?? NO_BYTES) });
      this.#tellPools();
    } else if (order.type === "tap") {
      if (this.#running?.id === order.id) this.#running.tap(order.on, order.known);
    } else if (order.type === "cancel") this.#running?.abort(fromWire(order.reason));
    else if (order.type === "pools") this.#openPools(order.at);
    else if (order.type === "certificate") this.#security?.replace(order.tls);
  }

  /** Secures the connection of a request, and reports it; returns whether it succeeded. */
  async #secure({ id, stream }: Running): Promise<boolean> {
    const started = performance.now();
    let error: unknown = null;
    try {
      await stream?.startTls();
    } catch (thrown) {
      error = thrown;
    }
    const duration = performance.now() - started;
    if (error !== null || !stream?.tls) {
      tell({ type: "handshake", id, duration, tls: null, error: toWire(error) });
      return false;
    }
    const { version, cipher, alpn, serverName, trusted, distrust, resumed, closedCleanly } = stream.tls;
    const tls = { version, cipher, alpn, serverName, trusted, distrust, resumed, closedCleanly };
    tell({ type: "handshake", id, duration, tls, error: null });
    return true;
  }

  async run(order: Run, socket: net.Socket | undefined): Promise<void> {
    tell({ type: "begun" });
    const running = new Running(order, socket, this.#stream, this.#security);
    const { request, stream } = running;
    this.#running = running;
    let error: Extract<Report, { type: "end" }>["error"] = null;
    let result: unknown;
    try {
      if (!this.#on || stream === null || (await this.#secure(running))) {
        running.opened();
        const Handler = this.#protocols.get(stream?.tls?.alpn ?? "") ?? this.#Handler;
        result = await asRequest(request, async () => new Handler(request, order.address, this).run());
      }
    } catch (thrown) {
      error = toWire(thrown);
      disown(thrown, () => {}); // a promise: it is reported, and its later rejection does not end the child
      this.#failed++;
    }
    const kept = stream?.closed === true;
    await stream?.close().catch(() => {}); // `lost` reports it, even if a call has
    const cut = stream !== null && stream.lost !== null;
    if (cut && error === null) {
      error = toWire(stream.lost);
      this.#failed++;
    }
    const { bytesRead, bytesWritten } = running.counts;
    this.#served++;
    this.#bytesRead += bytesRead;
    this.#bytesWritten += bytesWritten;
    this.#running = null;
    running.replies.over();
    running.events.over();
    this.#tellPools();
    const end = { type: "end", kept, cut, error, bytesRead, bytesWritten } as const;
    tellOf(result, sendable(result), (result) => ({ ...end, result }));
  }
}

// Not `instanceof`: the module may import another copy of this package.
const isHandler = (value: unknown): value is AnyHandler =>
  typeof value === "function" && typeof value.prototype?.run === "function";

/** This child's own pools; their code is loaded only by apps that have some. */
const poolsOf = async (app: App): Promise<AppPools> => {
  const [{ AppPools }, { PooledConnector }] = await Promise.all([
    import("../../../core/pool/app-pools.ts"),
    import("../../sockets/dialling/connector.ts"),
  ]);
  return new AppPools(app, PooledConnector);
};

/** What a child has loaded. */
interface Loaded {
  readonly Handler: AnyHandler;
  readonly protocols: ReadonlyMap<string, AnyHandler>;
  readonly context: unknown;
  /** Reports the infos of the pools to the parent, if there are pools. */
  readonly tellPools: () => void;
  /** Makes the pools, unless they exist. */
  readonly openPools: (at: PoolsAt) => void;
}

/** The handler that `source` names, and the module that has it. */
const handlerOf = async ({ module: url, name, data }: HandlerSource): Promise<[AnyHandler, unknown]> => {
  const module: Readonly<Record<string, unknown>> = await import(url);
  const { app } = module;
  if (data !== undefined && !isApp(app)) throw new TypeError("it exports no app");
  const among = data !== undefined && isApp(app) ? app.handlers : module;
  const Handler = Object.hasOwn(among, name) ? among[name] : undefined;
  if (isHandler(Handler)) return [Handler, app];
  const names = Object.keys(among).filter((other) => isHandler(among[other]));
  throw new TypeError(`there is no handler of that name; there is ${names.join(", ") || "none"}`);
};

/** The handlers, and the context that their app makes; without an app, the context that was given. */
const load = async ({ source, security, context: given }: Init): Promise<Loaded> => {
  if (source.guarded === true) guardConnections();
  const [Handler, app] = await handlerOf(source);
  const protocols = new Map<string, AnyHandler>();
  for (const [protocol, spoken] of Object.entries(security?.protocols ?? {})) {
    protocols.set(protocol, (await handlerOf(spoken))[0]);
  }
  if (source.data === undefined || !isApp(app)) {
    return { Handler, protocols, context: given, tellPools: () => {}, openPools: () => {} };
  }
  const storage = new FileStorage(source.data);
  const pools = Object.keys(app.pools).length === 0 ? null : await poolsOf(app);
  const pool: Platform["pool"] =
    pools?.client ?? ((name, Handler) => checkPoolOf(app, name, Handler) as never);
  const context = await app.context({ name: "node", bindings: process.env, storage, pool });
  const tellPools = (): void => {
    if (pools !== null) tell({ type: "pools", pools: pools.infos() });
  };
  let due = false;
  const onEvent = (): void => {
    if (due) return;
    due = true; // changes of one turn are reported together
    setImmediate(() => {
      due = false;
      tellPools();
    });
  };
  let open = false;
  const openPools = (at: PoolsAt): void => {
    if (open) return; // existing ones continue; after a change of the app other children come
    open = true;
    pools?.open({ context, onEvent, endpoint: (declared) => at[formatAddress(declared)] ?? declared });
  };
  return { Handler, protocols, context, tellPools, openPools };
};

// A terminal's Ctrl-C, or a service manager's SIGTERM, reaches the children, too: the parent decides when
// they end, and lets them finish first.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});

// The parent is gone, or no longer needs this child.
process.on("disconnect", () => process.exit());

process.on("uncaughtException", (error) => {
  if (process.listenerCount("uncaughtException") > 1) return; // the handler's module sees to it
  tell({ type: "crashed", error: toWire(error) });
  process.exit(1);
});

Object.defineProperty(globalThis, IN_CHILD, { value: true });
let server: ChildServer | undefined;
let poolsAt: PoolsAt | null = null;

process.on("message", (order: Order, socket: net.Socket | undefined) => {
  if (order.type === "run") void server?.run(order, socket);
  else if (order.type !== "init") {
    if (order.type === "pools") poolsAt = order.at; // it may come while the handler is imported
    server?.order(order);
  } else {
    poolsAt = order.poolsAt;
    load(order).then(
      (loaded) => {
        server = new ChildServer(order, loaded);
        if (poolsAt !== null) server.order({ type: "pools", at: poolsAt });
        tell({ type: "ready" });
      },
      (error) => {
        tell({ type: "unfit", error: toWire(error) });
        process.exit(1);
      },
    );
  }
});
