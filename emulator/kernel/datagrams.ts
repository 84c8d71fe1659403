/** Datagram sockets: the kernel's side of one that libc made, and one of `node:dgram` with its options. */

import type dgram from "node:dgram";
import { AF_INET6 } from "../../core/net/constants.ts";
import { lazy } from "../builtin.ts";
import { Kernel } from "./descriptors/kernel.ts";
import type { Libc } from "./descriptors/libc.ts";
import {
  type Kind,
  PlainDatagramOptions,
  REUSEADDR,
  REUSEPORT,
  V6ONLY,
} from "./descriptors/plain-options.ts";
import { datagramHandleOf, type Handle } from "./handles.ts";

/** The kernel of a datagram socket that libc alone has. `release` is called when it is given away. */
export const datagramKernel = (libc: Libc, kind: Kind, fd: number, release: () => void): Kernel =>
  new Kernel(new PlainDatagramOptions(kind), libc).heldBy({
    fd,
    take() {
      release();
      return fd;
    },
  });

/** A datagram socket of Node's until it is open, and its options. */
export class PlainDatagrams {
  readonly kernel: Kernel;
  readonly #options: PlainDatagramOptions;
  readonly #family: number;

  constructor(kind: Kind) {
    this.#family = kind.family;
    this.#options = new PlainDatagramOptions(kind);
    this.kernel = new Kernel(this.#options, null);
  }

  /** A `dgram.Socket` with the options that are taken when it is made. */
  make(): dgram.Socket {
    const version = this.#family === AF_INET6 ? 6 : 4;
    // All that is sent goes to an address that was resolved: no name is looked up again (measured: a tenth of the rate).
    const numeric = (name: string, _: unknown, found: (e: null, a: string, f: number) => void): void =>
      found(null, name, version);
    return lazy.dgram.createSocket({
      type: `udp${version}`,
      lookup: numeric as never,
      reuseAddr: this.#options.on(REUSEADDR),
      reusePort: this.#options.on(REUSEPORT),
      ipv6Only: this.#options.on(V6ONLY),
    });
  }

  /** It is bound: it has the options that were set before. Throws what the kernel says of them. */
  opened(socket: dgram.Socket): void {
    this.#options.open(socket);
    this.kernel.heldBy({
      get fd() {
        return (datagramHandleOf(socket) as Handle | null)?.fd ?? -1;
      },
      take: () => -1,
    });
  }
}
