/** The descriptor of a stream, from its creation until Node connects it or listens on it. */

import type net from "node:net";
import type { Address } from "../../../core/net/address.ts";
import {
  type AF_INET,
  type AF_INET6,
  AF_UNIX,
  SO_REUSEADDR,
  SOCK_STREAM,
  SOL_SOCKET,
  SOL_TCP,
  TCP_NODELAY,
} from "../../../core/net/constants.ts";
import { neededNode, runtime } from "../../runtime.ts";
import { addressOf, hostOf } from "../addresses.ts";
import type { Adopted } from "../descriptors/adopted.ts";
import { type Holder, Kernel, NOBODY } from "../descriptors/kernel.ts";
import { type Libc, libc } from "../descriptors/libc.ts";
import { bytesOf } from "../descriptors/options.ts";
import {
  KEEPALIVE,
  type Kind,
  NODELAY,
  PlainStreamOptions,
  REUSEPORT,
  type Settable,
  V6ONLY,
} from "../descriptors/plain-options.ts";
import { checkedPath } from "../descriptors/sockaddr.ts";
import {
  type Handle,
  handleOf,
  listening,
  listenOn,
  makeHandle,
  makesHandles,
  type Name,
  UV_TCP_IPV6ONLY,
  UV_TCP_REUSEPORT,
} from "../handles/handles.ts";
import { serverHolder, socketHolder } from "../handles/holders.ts";
import { unconnected } from "../handles/intake.ts";
import type { Connection } from "../transports/seam.ts";
import type { Listens, StreamDescriptor } from "./descriptor.ts";
import { NetStream } from "./net-descriptor.ts";

// Otherwise the constructor would read at once, which fails before there is a connection.
const IDLE = { allowHalfOpen: true, manualStart: true } as const;

/** Through libc: the descriptor exists from the beginning, and bind is bind(2). */
class LibcStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #libc: Libc;
  readonly #family: number;
  #fd: number; // -1 while Node has it
  #number: number; // its number, even while Node has it
  #kept = -1; // a duplicate while Node connects, because Node closes the descriptor if that fails
  #bound: Address | null = null; // by bind()
  #handle: Handle | null = null;
  #closed = false;

  constructor(libc: Libc, kind: Kind, fd: number) {
    this.#libc = libc;
    this.#family = kind.family;
    this.#fd = this.#number = fd;
    this.kernel = new Kernel(new PlainStreamOptions(kind), libc).heldBy(this.#holder());
  }

  get localAddress(): Address | null {
    const fd = this.kernel.fd;
    const name = fd < 0 ? null : this.#libc.getsockname(fd);
    return name !== null && name.family !== "unix" && name.port === 0 ? null : name;
  }

  bind(address: Address, said: string): void {
    // libuv sets it whenever it binds, and so do CPython's servers. Otherwise a port could not be bound again for a minute
    // after its connections ended.
    if (this.#family !== AF_UNIX && !this.kernel.given(SOL_SOCKET, SO_REUSEADDR)) {
      this.#libc.setsockopt(this.#fd, SOL_SOCKET, SO_REUSEADDR, bytesOf(1));
    }
    this.#libc.bind(this.#fd, address, said);
    this.#bound = this.localAddress;
  }

  connecting(): net.Socket {
    this.#kept = this.#libc.dup(this.#fd);
    const socket = this.opened();
    if (this.#family !== AF_UNIX && !this.kernel.given(SOL_TCP, TCP_NODELAY)) socket.setNoDelay(true);
    return socket;
  }

  opened(): net.Socket {
    const socket = unconnected({ fd: this.#fd, ...IDLE } as net.SocketConstructorOpts);
    this.#fd = -1;
    this.kernel.heldBy(socketHolder(socket));
    return socket;
  }

  connected(connection: Connection | null): void {
    const kept = this.#kept;
    this.#kept = -1;
    if (connection === null && !this.#closed) {
      this.#fd = this.#number = this.#libc.dup(kept, this.#number); // the same number, unless it is taken
      this.kernel.heldBy(this.#holder());
      this.#bindAgain();
    }
    this.#libc.close(kept);
  }

  listen(server: net.Server, backlog: number): Promise<void> {
    const fd = this.#fd;
    if (makesHandles()) this.#handle ??= handleOf(fd);
    const listens =
      this.#handle === null
        ? listening(server, () => server.listen({ fd, backlog, exclusive: true }))
        : listenOn(server, this.#handle, backlog);
    this.#fd = -1;
    this.#handle = null;
    this.kernel.heldBy(serverHolder(server));
    return listens;
  }

  get inherited() {
    return { noDelay: !this.kernel.given(SOL_TCP, TCP_NODELAY) }; // otherwise the kernel passes on what was set
  }

  accepted(): undefined {}

  close(): void {
    this.#closed = true;
    if (this.#handle !== null) this.#handle.close();
    else if (this.#fd >= 0) this.#libc.close(this.#fd);
    this.#handle = null;
    this.#fd = -1;
    this.kernel.closed();
  }

  /** If a connect() fails, Linux takes back the port that it had chosen, and still tells its number. */
  #bindAgain(): void {
    if (this.#bound === null || this.#family === AF_UNIX) return;
    try {
      this.#libc.bind(this.#fd, this.#bound, "");
    } catch {
      // EINVAL: it still has the port.
    }
  }

  #holder(): Holder {
    const fd = this.#fd;
    return {
      fd,
      take: () => {
        this.#fd = -1;
        return fd;
      },
    };
  }
}

/** Through Node's API: bind() or connect() creates the descriptor. */
class PlainStream implements StreamDescriptor {
  readonly kernel: Kernel;
  readonly #kind: Kind;
  readonly #options: PlainStreamOptions;
  #handle: Handle | null; // from bind() on, until Node has it
  #address: Address | null = null;
  #said = "";
  #closed = false;

  /** `found`: as in `Kernel`. */
  constructor(kind: Kind, from?: Adopted, found?: null) {
    this.#kind = kind;
    this.#options = new PlainStreamOptions(kind);
    this.#handle = from === undefined ? null : handleOf(from.fd);
    this.kernel = new Kernel(this.#options, found).heldBy(this.#holder());
    if (from === undefined) return;
    const name = from.localAddress ?? nameOf(this.#handle as Handle);
    if (name === null || (name.family !== "unix" && name.port === 0)) return;
    this.#address = name;
    this.#options.bound = true;
  }

  get localAddress(): Address | null {
    return this.#address;
  }

  bind(address: Address, said: string): void {
    const options = this.#options;
    const flags = (options.on(V6ONLY) ? UV_TCP_IPV6ONLY : 0) | (options.on(REUSEPORT) ? UV_TCP_REUSEPORT : 0);
    if (address.family === "unix") checkedPath(address.path);
    const handle =
      address.family === "unix"
        ? makeHandle(said, address.path, -1, -1)
        : makeHandle(
            said,
            hostOf(address),
            address.port,
            address.family === "IPv6" ? 6 : 4,
            undefined,
            flags,
          );
    this.#handle = handle;
    this.#address = address.family === "unix" ? address : nameOf(handle);
    this.#said = said;
    options.bind();
    this.kernel.heldBy(this.#holder());
  }

  connecting(): net.Socket {
    const handle = this.#handle;
    // libuv treats a Unix handle that is only bound as a stream only once it is opened.
    if (handle !== null && this.#kind.family === AF_UNIX) handle.open(handle.fd);
    const socket = this.opened();
    this.#options.open(socket, true);
    return socket;
  }

  opened(): net.Socket {
    const handle = this.#handle;
    const options = handle === null ? IDLE : { handle, ...IDLE };
    const socket = unconnected(options as net.SocketConstructorOpts);
    this.#handle = null;
    this.#options.open(socket, false);
    this.kernel.heldBy(socketHolder(socket));
    return socket;
  }

  connected(connection: Connection | null): void {
    if (connection !== null || this.#closed) return;
    this.kernel.heldBy(NOBODY);
    if (this.#address !== null) this.bind(this.#address, this.#said); // Node closed it, so bind again
  }

  listen(server: net.Server, backlog: number): Promise<void> {
    const listens = listenOn(server, this.#handle as Handle, backlog);
    this.#handle = null;
    this.#options.listens = true;
    this.kernel.heldBy(serverHolder(server));
    return listens;
  }

  get inherited() {
    const options = this.#options;
    return {
      noDelay: options.on(NODELAY, !this.kernel.given(SOL_TCP, TCP_NODELAY)), // otherwise libc set it, and the kernel passes it on
      keepAlive: options.on(KEEPALIVE),
      keepAliveInitialDelay: options.idle,
    };
  }

  accepted(connection: { readonly settable: Settable; readonly holder: Holder }): Kernel | undefined {
    if (libc() !== null) return undefined; // libc knows all of it
    const options = new PlainStreamOptions(this.#kind, this.#options);
    options.open(connection.settable, true);
    return new Kernel(options, null).heldBy(connection.holder);
  }

  close(): void {
    this.#closed = true;
    this.#handle?.close();
    this.#handle = null;
    this.kernel.closed();
  }

  #holder(): Holder {
    const handle = this.#handle;
    return handle === null ? NOBODY : { fd: handle.fd, take: () => -1 };
  }
}

/** Where a handle is bound; `null` if it is not a TCP handle. */
const nameOf = (handle: Handle): Address | null => {
  const name: Name = {};
  if (handle.getsockname === undefined || handle.getsockname(name) !== 0) return null;
  return addressOf(name.address ?? "", name.port ?? 0, name.family);
};

/**
 * A new stream, or one over a descriptor that was made elsewhere. `listens`: what is known of the server that will listen on it.
 * Throws `EMFILE` and `EPROTONOSUPPORT`, and on other runtimes than Node `ERR_UNSUPPORTED` for a descriptor made elsewhere.
 */
export const streamDescriptor = (kind: Kind, from?: Adopted, listens?: Listens): StreamDescriptor => {
  if (from !== undefined)
    neededNode("a descriptor that was made elsewhere", "it listens on addresses, and connects");
  if (runtime !== "Node") return new NetStream(kind, listens);
  const calls = libc();
  if (calls === null) return new PlainStream(kind, from, null);
  return new LibcStream(calls, kind, from?.fd ?? calls.socket(kind.family, SOCK_STREAM, kind.proto));
};

/**
 * What a server listens on if no special option of its socket was set. Node binds it, so that the server starts without libc,
 * which takes longer to load than everything else here. Once it is bound, libc can be used on it, too.
 */
export const listenerDescriptor = (
  family: typeof AF_INET | typeof AF_INET6,
  listens: Listens,
): StreamDescriptor => {
  const kind = { family, type: SOCK_STREAM, proto: 0 };
  return makesHandles() ? new PlainStream(kind) : streamDescriptor(kind, undefined, listens);
};
