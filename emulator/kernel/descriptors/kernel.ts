/**
 * The kernel's side of a socket: its options, urgent data, and handing its descriptor over. Through libc if there is one,
 * otherwise through Node's own API.
 */

import { SocketError } from "../../../core/errors.ts";
import { POLLPRI } from "../../../core/net/constants.ts";
import type { KernelSocket } from "../../../core/sockets/transport.ts";
import { type Libc, libc, neededLibc } from "./libc.ts";
import { bytesOf, checkOption, integer, optionError, optionKey, optionName } from "./options.ts";
import type { PlainOptions } from "./plain-options.ts";

/** The owner of a descriptor. */
export interface Holder {
  /** -1 if there is none yet; `null` if there is none any more. */
  readonly fd: number | null;
  /** Gives it up, and returns a descriptor that belongs to the caller. Throws `EBUSY` if bytes on their way would be lost. */
  take(libc: Libc): number;
  /** Resolves when none of the output waits in Node. */
  drained?(): Promise<void>;
  /** Calls `told` when it is closed. Returns a function that stops it. */
  onClose?(told: () => void): () => void;
  /** Why bytes must not bypass Node; absent if they may. */
  readonly closedTo?: string;
}

/** There is no descriptor yet: without libc, before `bind()` and `connect()`. */
export const NOBODY: Holder = { fd: -1, take: () => -1 };

/** The descriptor was closed, or given away. */
const GONE: Holder = {
  fd: null,
  take() {
    throw new SocketError("EBADF");
  },
};

const MAX_OPTION = 1024; // bytes: what CPython takes as a buffer length

/**
 * The kernel's side of one socket: through libc if there is one, otherwise through Node's API. The holder of the descriptor
 * changes during the life of a socket; its `Kernel` stays.
 */
export class Kernel implements KernelSocket {
  #found: Libc | null | undefined;
  readonly #plain: PlainOptions;
  readonly #given = new Set<string>(); // the options that were set
  #holder: Holder = NOBODY;

  /** `found`: the libc that the socket was made with. By default it is looked for when it is first needed. */
  constructor(plain: PlainOptions, found?: Libc | null) {
    this.#found = found;
    this.#plain = plain;
  }

  get #libc(): Libc | null {
    if (this.#found === undefined) this.#found = libc();
    return this.#found;
  }

  /** From now on, `holder` has the descriptor. */
  heldBy(holder: Holder): this {
    this.#holder = holder;
    return this;
  }

  closed(): void {
    this.#holder = GONE;
  }

  get fd(): number {
    const { fd } = this.#holder;
    if (fd === -1) neededLibc("a descriptor before bind() and connect()", this.#libc);
    return fd ?? -1;
  }

  /** Whether the user set this option, so that no default may replace it. */
  given(level: number, name: number): boolean {
    return this.#given.has(optionKey(level, name));
  }

  getsockopt(level: number, name: number): number;
  getsockopt(level: number, name: number, length: number): Uint8Array;
  getsockopt(level: number, name: number, length?: number): number | Uint8Array {
    checkOption(level, name);
    if (length !== undefined && !(Number.isInteger(length) && length > 0 && length <= MAX_OPTION)) {
      throw new RangeError(`the length of an option is 1 to ${MAX_OPTION} bytes, not ${length}`);
    }
    const fd = this.#open();
    if (fd >= 0 && this.#libc !== null) {
      let value: Uint8Array;
      try {
        value = this.#libc.getsockopt(fd, level, name, length ?? 4);
      } catch (error) {
        throw optionError(error, level, name);
      }
      return length === undefined ? integer(value) : value;
    }
    const known = this.#plain.get(level, name);
    if (known === undefined) return neededLibc(optionName(level, name), null) as never;
    return length === undefined ? known : bytesOf(known).slice(0, length);
  }

  setsockopt(level: number, name: number, value: number | Uint8Array): void {
    checkOption(level, name);
    const bytes = typeof value === "number" ? bytesOf(value) : value;
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError("the value of an option is an integer, a boolean or a Uint8Array");
    }
    const fd = this.#open();
    try {
      if (fd >= 0 && this.#libc !== null) this.#libc.setsockopt(fd, level, name, bytes);
      else if (!this.#plain.set(level, name, bytes)) neededLibc(optionName(level, name), null);
    } catch (error) {
      throw (error as SocketError).code === "ERR_UNSUPPORTED"
        ? error
        : optionError(error, level, name, bytes);
    }
    this.#given.add(optionKey(level, name));
  }

  async send(bytes: Uint8Array, flags: number): Promise<number> {
    const libc = this.#past("MSG_OOB and MSG_DONTROUTE");
    await this.#holder.drained?.();
    for (;;) {
      const sent = libc.send(this.#open(), bytes, flags);
      if (sent !== null) return sent;
      // The kernel's buffer is full. libuv has the descriptor, and cannot wait on our behalf.
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  recv(size: number, flags: number): Uint8Array {
    return this.#past("MSG_OOB").recv(this.#open(), size, flags);
  }

  detach(): number {
    const libc = this.#past("detach()");
    const fd = this.#holder.take(libc);
    this.#holder = GONE;
    return fd;
  }

  /** Resolves when nothing that was written waits in Node any more. */
  async drained(): Promise<void> {
    await this.#holder.drained?.();
  }

  get urgent(): boolean {
    return this.#past("urgent data").poll(this.#open(), POLLPRI) !== 0;
  }

  onUrgent(told: () => void): () => void {
    const holder = this.#holder;
    const stop = this.#past("urgent data").watchUrgent(this.#open(), told);
    const ended = holder.onClose?.(told); // the waiter then tries again, and gets EBADF
    return () => {
      stop();
      ended?.();
    };
  }

  /** The descriptor; -1 if there is none yet. Throws `EBADF` if there is none any more. */
  #open(): number {
    const { fd } = this.#holder;
    if (fd === null) throw new SocketError("EBADF");
    return fd;
  }

  /** libc, for calls that bypass Node. */
  #past(what: string): Libc {
    const libc = neededLibc(what, this.#libc);
    if (this.#holder.closedTo !== undefined) {
      throw new SocketError("EOPNOTSUPP", `${what}: ${this.#holder.closedTo}`);
    }
    return libc;
  }
}
