/** The descriptor of a stream by what `node:net` documents, and no more: on Bun and Deno, which have none of Node's handles. */

import net from "node:net";
import { SocketError } from "../../core/errors.ts";
import type { Address } from "../../core/net/address.ts";
import { runtime } from "../runtime.ts";
import { addressOf, hostOf } from "./addresses.ts";
import type { StreamDescriptor } from "./descriptor.ts";
import { Kernel, NOBODY } from "./descriptors/kernel.ts";
import {
  KEEPALIVE,
  type Kind,
  NODELAY,
  PlainStreamOptions,
  REUSEPORT,
  V6ONLY,
} from "./descriptors/plain-options.ts";
import { checkedPath } from "./descriptors/sockaddr.ts";
import { listening } from "./handles.ts";
import { serverHolder, socketHolder } from "./holders.ts";

const BACKLOG = 511; // connections; it listens before anybody says how many may wait: Node's own figure

/**
 * `bind()` listens at once, since nothing else takes an address. What connects before `listen()` waits, unread; so
 * between the two a client that should be refused is accepted.
 */
export class NetStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #kind: Kind;
  readonly #options: PlainStreamOptions;
  readonly #early: net.Socket[] = []; // what connected before listen()
  readonly #arrived = (socket: net.Socket): void => void this.#early.push(socket);
  #server: net.Server | null = null;
  #address: Address | null = null;

  constructor(kind: Kind) {
    this.#kind = kind;
    this.#options = new PlainStreamOptions(kind);
    this.kernel = new Kernel(this.#options, null).heldBy(NOBODY);
  }

  get localAddress(): Address | null {
    return this.#address;
  }

  get server(): net.Server | undefined {
    return this.#server ?? undefined;
  }

  async bind(address: Address): Promise<void> {
    const options = this.#options;
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, ...this.inherited });
    server.on("connection", this.#arrived);
    this.#server = server;
    const common = { backlog: BACKLOG, exclusive: true };
    let at: net.ListenOptions;
    if (address.family === "unix") {
      checkedPath(address.path);
      at = { path: address.path };
    } else {
      const host = hostOf(address);
      at = { host, port: address.port, ipv6Only: options.on(V6ONLY), reusePort: options.on(REUSEPORT) };
    }
    try {
      await listening(server, () => server.listen({ ...at, ...common }));
    } catch (error) {
      this.#server = null;
      // Deno's word for an address that is another machine's; a socket that is new has no other reason for it.
      const { code } = error as { readonly code?: string };
      if (code !== "EINVAL" || address.family === "unix") throw error;
      throw Object.assign(new Error("EADDRNOTAVAIL", { cause: error }), { code: "EADDRNOTAVAIL" });
    }
    const name = server.address();
    this.#address =
      name === null || typeof name === "string" ? address : addressOf(name.address, name.port, name.family);
    options.bind();
    options.listens = true;
    this.kernel.heldBy(serverHolder(server));
  }

  connecting(): net.Socket {
    if (this.#server !== null) {
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

  connected(success: boolean): void {
    if (!success) this.kernel.heldBy(NOBODY);
  }

  async listen(server: net.Server): Promise<void> {
    await null; // whoever listens says who takes the connections, when this has returned
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
    this.#server?.close();
    for (const socket of this.#early.splice(0)) socket.destroy();
    this.#server = null;
    this.kernel.closed();
  }
}
