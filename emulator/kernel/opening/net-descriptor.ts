/**
 * The descriptor of a stream on Bun and Deno, which lack Node's handles: through the runtime's own sockets (own-sockets.ts), or
 * else through the documented parts of `node:net`.
 */

import net from "node:net";
import { SocketError } from "../../../core/errors.ts";
import type { Address } from "../../../core/net/address.ts";
import { runtime } from "../../runtime.ts";
import { addressOf, hostOf } from "../addresses.ts";
import { type Holder, Kernel, NOBODY } from "../descriptors/kernel.ts";
import {
  KEEPALIVE,
  type Kind,
  NODELAY,
  PlainStreamOptions,
  REUSEPORT,
  V6ONLY,
} from "../descriptors/plain-options.ts";
import { checkedPath } from "../descriptors/sockaddr.ts";
import { listening } from "../handles/handles.ts";
import { serverHolder, socketHolder } from "../handles/holders.ts";
import { ownSockets } from "../runtimes/chosen-sockets.ts";
import type { ListenAt, OwnListener, OwnSockets } from "../runtimes/own-sockets.ts";
import { NodeTransport } from "../transports/net-transport.ts";
import type { Connection } from "../transports/seam.ts";
import type { Listens, OwnListening, StreamDescriptor } from "./descriptor.ts";

const BACKLOG = 511; // Node's default
const UNKNOWN: Listens = { secures: false, backlog: BACKLOG }; // for a socket, which listens before its backlog is known

/** A listener of the runtime itself. Connections that come before `accept()` wait, unread. */
class OwnStream implements OwnListening {
  readonly #early: Connection[] = [];
  readonly #prepare: (connection: Connection) => void;
  #listener: OwnListener | null = null;
  #take = (connection: Connection): void => void this.#early.push(connection);

  /** `prepare` sets the options of each connection. */
  constructor(prepare: (connection: Connection) => void) {
    this.#prepare = prepare;
  }

  /** Listens. Resolves with the address, or `null` for a path. */
  async listen(sockets: OwnSockets, at: ListenAt): Promise<Address | null> {
    this.#listener = await sockets.listen(at, (connection) => {
      this.#prepare(connection);
      this.#take(connection);
    });
    return this.#listener.address;
  }

  get holder(): Holder {
    const fd = (): number => this.#listener?.fd ?? -1;
    return {
      get fd() {
        return fd() < 0 ? null : fd();
      },
      take: () => -1, // never called: that needs libc
    };
  }

  accept(take: (connection: Connection) => void): void {
    this.#take = take;
    for (const connection of this.#early.splice(0)) take(connection);
  }

  close(): void {
    this.#listener?.close();
    for (const connection of this.#early.splice(0)) connection.abort();
  }
}

/**
 * `bind()` listens at once, since there is no other way to take an address. Connections that come before `listen()` wait,
 * unread; so between the two a client that should be refused is accepted.
 */
export class NetStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #kind: Kind;
  readonly #listens: Listens;
  readonly #options: PlainStreamOptions;
  readonly #early: net.Socket[] = []; // connections that came before listen()
  readonly #arrived = (socket: net.Socket): void => void this.#early.push(socket);
  #server: net.Server | null = null;
  #own: OwnStream | null = null;
  #address: Address | null = null;

  constructor(kind: Kind, listens = UNKNOWN) {
    this.#kind = kind;
    this.#listens = listens;
    this.#options = new PlainStreamOptions(kind);
    this.kernel = new Kernel(this.#options, null).heldBy(NOBODY);
  }

  get localAddress(): Address | null {
    return this.#address;
  }

  get server(): net.Server | undefined {
    return this.#server ?? undefined;
  }

  get own(): OwnStream | undefined {
    return this.#own ?? undefined;
  }

  async bind(address: Address): Promise<void> {
    const options = this.#options;
    const { backlog } = this.#listens;
    if (runtime === "Bun" && backlog !== BACKLOG) {
      const said = `a backlog of ${backlog} needs Node or Deno, and this is Bun, which always asks for 512; leave it out`;
      throw new SocketError("ERR_UNSUPPORTED", said); // bun#33786
    }
    let at: ListenAt;
    if (address.family === "unix") {
      checkedPath(address.path);
      at = { path: address.path, backlog };
    } else {
      const host = hostOf(address);
      const [ipv6Only, reusePort] = [options.on(V6ONLY), options.on(REUSEPORT)];
      at = { host, port: address.port, backlog, ipv6Only, reusePort };
    }
    const sockets = this.#listens.secures ? null : await ownSockets?.();
    let name: Address | null;
    try {
      name = await (sockets == null ? this.#listenByNode(at) : this.#listenBy(sockets, at));
    } catch (error) {
      // Deno's code for an address that this machine does not have; a new socket has no other reason for it.
      const { code } = error as { readonly code?: string };
      if (code !== "EINVAL" || address.family === "unix") throw error;
      throw Object.assign(new Error("EADDRNOTAVAIL", { cause: error }), { code: "EADDRNOTAVAIL" });
    }
    this.#address = name ?? address;
    options.bind();
    options.listens = true;
  }

  async #listenBy(sockets: OwnSockets, at: ListenAt): Promise<Address | null> {
    const { noDelay, keepAlive, keepAliveInitialDelay } = this.inherited;
    const prepare = ({ settable }: Connection): void => {
      if (noDelay) settable.setNoDelay(true);
      if (keepAlive) settable.setKeepAlive(true, keepAliveInitialDelay);
    };
    const listening = new OwnStream(prepare);
    const name = await listening.listen(sockets, at);
    this.#own = listening;
    this.kernel.heldBy(listening.holder);
    return name;
  }

  async #listenByNode(at: ListenAt): Promise<Address | null> {
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, ...this.inherited });
    server.on("connection", this.#arrived);
    await listening(server, () => server.listen({ ...at, exclusive: true }));
    this.#server = server;
    this.kernel.heldBy(serverHolder(server));
    const name = server.address();
    return name === null || typeof name === "string" ? null : addressOf(name.address, name.port, name.family);
  }

  connecting(): net.Socket {
    if (this.#address !== null) {
      throw new SocketError(
        "ERR_UNSUPPORTED",
        `connect() after bind() needs Node: ${runtime} has no such call`,
      );
    }
    return this.opened();
  }

  opened(): net.Socket {
    const socket = new net.Socket({ allowHalfOpen: true });
    this.#options.open(socket, true);
    this.kernel.heldBy(socketHolder(socket));
    return socket;
  }

  connected(connection: Connection | null): void {
    if (connection === null) this.kernel.heldBy(NOBODY);
    else if (!(connection instanceof NodeTransport)) {
      this.#options.open(connection.settable, true);
      this.kernel.heldBy(connection.holder);
    }
  }

  async listen(server: net.Server): Promise<void> {
    await null; // the caller sets who takes the connections once this has returned
    server.removeListener("connection", this.#arrived);
    this.#server = null;
    for (const socket of this.#early.splice(0)) server.emit("connection", socket);
  }

  get inherited() {
    const options = this.#options;
    return {
      noDelay: options.on(NODELAY, true),
      keepAlive: options.on(KEEPALIVE),
      keepAliveInitialDelay: options.idle,
    };
  }

  accepted(connection: Parameters<StreamDescriptor["accepted"]>[0]): Kernel {
    const options = new PlainStreamOptions(this.#kind, this.#options);
    options.open(connection.settable, true);
    return new Kernel(options, null).heldBy(connection.holder);
  }

  close(): void {
    this.#own?.close();
    this.#own = null;
    this.#server?.close();
    for (const socket of this.#early.splice(0)) socket.destroy();
    this.#server = null;
    this.kernel.closed();
  }
}
